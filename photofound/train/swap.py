"""Block swap: the frozen weights of blocks lie in the CPU's memory, and travel to the device while it computes.

While one block computes, the weights of the next one are on their way, by a stream of their own. Activations of such a
block are not kept: it is computed a second time in the backward pass, which is when its weights are there again.
Trained weights, such as a LoRA's, and their gradients stay on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class BlockSwap:
    """Moves the weights of some blocks; see the file's text.

    Call it as ``function(block, *args)`` with gradients: it is what ``enable_gradient_checkpointing`` of a diffusers
    model takes. Without gradients the blocks' own hooks move the weights.

    Args:
        blocks: a model's repeated blocks, in order, all on ``device``.
        count: how many of them travel, the last ones.
        device: where they compute.
        other: calls the blocks that stay, with gradients; None: as they are.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        count: int,
        device: torch.device,
        other: Callable[..., Any] | None = None,
    ) -> None:
        if not 0 < count <= len(blocks):
            raise ValueError(f"model.swap_blocks: {count} must be from 0 to {len(blocks)}, the number of blocks")
        self.device, self.other = device, other
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.travellers = list(blocks[len(blocks) - count :])
        self.index = {id(block): index for index, block in enumerate(self.travellers)}
        self.home = [self._send_home(block) for block in self.travellers]
        self.here: dict[int, list[Tensor]] = {}  # block -> its weights on the device, or on their way
        self.users = [0] * count
        for block in self.travellers:
            block.register_forward_pre_hook(lambda block, _: self._enter(self.index[id(block)], 1))
            block.register_forward_hook(lambda block, *_: self._leave(self.index[id(block)]), always_call=True)

    def __call__(self, block: nn.Module, *args: Any) -> Any:
        if id(block) not in self.index:
            return self.other(block, *args) if self.other else block(*args)
        trained = [p for p in block.parameters() if p.requires_grad]
        return _Recomputed.apply(self, block, len(trained), *trained, *args)

    @contextmanager
    def backward_of(self, block: nn.Module) -> Iterator[None]:
        """Within the block of code a block has its weights, and those of the one before it set out."""
        index = self.index[id(block)]
        self._enter(index, -1)
        try:
            yield
        finally:
            self._leave(index)

    def _send_home(self, block: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
        """The block's frozen weights, by owner and name, in the CPU's memory, which a GPU reads directly."""
        home = []
        for owner in block.modules():
            for name, weight in owner._parameters.items():
                if weight is not None and not weight.requires_grad:
                    place = _each(weight.detach(), self._keep)
                    home.append((owner, name, nn.Parameter(place, requires_grad=False)))
                    owner._parameters[name] = home[-1][2]
        return home

    def _keep(self, weight: Tensor) -> Tensor:
        return weight.cpu().pin_memory() if self.stream else weight.cpu()

    def _fetch(self, index: int) -> None:
        """Send a block's weights to the device."""
        if index in self.here or not 0 <= index < len(self.home):
            return
        with torch.cuda.stream(self.stream):
            self.here[index] = [_each(weight.detach(), self._send) for *_, weight in self.home[index]]

    def _send(self, weight: Tensor) -> Tensor:
        return weight.to(self.device, non_blocking=True)

    def _in_use(self, weight: Tensor) -> Tensor:
        """Its memory is free when the block has computed, not before."""
        weight.record_stream(torch.cuda.current_stream(self.device))
        return weight

    def _enter(self, index: int, step: int) -> None:
        self.users[index] += 1
        if self.users[index] > 1:  # the second forward pass, within the backward pass
            return
        self._fetch(index)
        if self.stream:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
        for (owner, name, _), weight in zip(self.home[index], self.here[index], strict=True):
            owner._parameters[name] = nn.Parameter(weight, requires_grad=False)
        self._fetch(index + step)

    def _leave(self, index: int) -> None:
        self.users[index] -= 1
        if self.users[index]:
            return
        for (owner, name, place), weight in zip(self.home[index], self.here.pop(index), strict=True):
            if self.stream:
                _each(weight, self._in_use)
            owner._parameters[name] = place


class _Recomputed(torch.autograd.Function):
    """A block that is computed again in the backward pass, between two moves of its weights. torch's own checkpointing
    does not tell when the backward pass of a block is over; here it is one call."""

    @staticmethod
    def forward(ctx: Any, swap: BlockSwap, block: nn.Module, trained: int, *inputs: Any) -> Any:
        ctx.swap, ctx.block, ctx.trained = swap, block, trained
        kind = swap.device.type
        ctx.autocast = {"enabled": torch.is_autocast_enabled(kind), "dtype": torch.get_autocast_dtype(kind)}
        ctx.save_for_backward(*inputs)
        return block(*inputs[trained:])

    @staticmethod
    def backward(ctx: Any, *outgoing: Tensor) -> Any:
        inputs, wanted = ctx.saved_tensors, ctx.needs_input_grad[3:]
        weights, given = inputs[: ctx.trained], inputs[ctx.trained :]
        given = [
            x if x is None else x.detach().requires_grad_(w) for x, w in zip(given, wanted[ctx.trained :], strict=True)
        ]
        sources = [x for x, w in zip((*weights, *given), wanted, strict=True) if w]
        with ctx.swap.backward_of(ctx.block), torch.enable_grad():
            with torch.autocast(ctx.swap.device.type, **ctx.autocast):
                out = ctx.block(*given)
            found = iter(torch.autograd.grad(out, sources, outgoing, allow_unused=True))
        return None, None, None, *(next(found) if w else None for w in wanted)


def _each(tensor: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A tensor with ``change`` done to it; to one that torchao made, to the tensors that it is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return change(tensor)
    names, about = tensor.__tensor_flatten__()
    parts = {name: _each(getattr(tensor, name), change) for name in names}
    return type(tensor).__tensor_unflatten__(parts, about, tensor.size(), tensor.stride())
