"""How much memory a step takes on each GPU, counted without weights, data or a GPU.

The networks of a step are run as shapes (torch's ``FakeTensorMode``), with the precision and the checkpointing of the
run, and the storages that are alive are added up. What always lies there is arithmetic: weights, moments, average.

On an H200, updates of 1.2 billion parameters took at most 51.9 GiB (512 px, batch 16) and 51.2 GiB (1024 px, batch 4);
this says 51.9 and 50.9. Blocks count as they run eagerly; compiled, they keep about a third less.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from photofound.model import attention
from photofound.train import fewer_bits, optim
from photofound.train.recompute import checkpointed

RESERVE = 1.5 * 2**30  # bytes that CUDA and its libraries take for themselves
FRAGMENTS = 1.05  # what the allocator holds over what is alive


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU.

    Attributes:
        weights: of the networks that are trained, with their frozen part.
        frozen: of the other networks.
        moments, average: of the optimizer, of the moving average.
        step: the most that a step adds: activations, and the gradients that exist at that time.
    """

    weights: float
    frozen: float
    moments: float
    average: float
    step: float

    @property
    def peak(self) -> float:
        """What tensors take at the worst moment of a step: torch's ``max_memory_allocated``."""
        return self.weights + self.frozen + self.moments + self.average + self.step

    @property
    def card(self) -> float:
        """What a GPU needs for it: fragments, and what CUDA takes."""
        return self.peak * FRAGMENTS + RESERVE

    def __str__(self) -> str:
        named = {"weights": self.weights, "frozen networks": self.frozen, "moments": self.moments}
        named |= {"average": self.average, "activations and gradients": self.step}
        parts = ", ".join(f"{name} {value / 2**30:.1f}" for name, value in named.items() if value >= 2**30 / 20)
        return f"{self.peak / 2**30:.1f} GiB at the peak of a step: {parts}"


class Alive(TorchDispatchMode):
    """Counts the bytes of the storages that are alive: ``now``, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: dict[int, weakref.ref] = {}

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self.known:
            return

        def gone(_: Any) -> None:
            self.known.pop(key, None)
            self.now -= size

        self.known[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.add(value)
        return out


@contextlib.contextmanager
def _shapes_only() -> Iterator[None]:
    """Within the block tensors are shapes. A table of positions that was kept would be one, too."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    cache = attention._cached_rope_table.cache_clear
    cache()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        cache()


def most_alive(
    networks: Mapping[str, nn.Module],
    compute: Callable[[Mapping[str, Any]], Tensor],
    half: bool,
    frozen: Mapping[str, torch.dtype] | None = None,
    accumulated: bool = False,
    sharded: bool = False,
) -> int:
    """The most bytes, beyond the networks' own, that are alive while ``compute`` runs and, where its result needs a
    gradient, while that is computed.

    Args:
        networks: on the meta device.
        compute: called with the networks as shapes; returns a tensor.
        half: bfloat16 by autocast.
        frozen: network -> what its weights that need no gradient are in; float32 where it is not named.
        accumulated: gradients of earlier micro-batches are there.
        sharded: without gradients, which go to their shards at once, and, with ``half``, without the copies that
            autocast makes of weights, which are gathered in bfloat16.
    """
    copies = {name: copy.deepcopy(network) for name, network in networks.items()}
    with _shapes_only():
        shapes = {name: network.to_empty(device="cpu") for name, network in copies.items()}
        parameters = [p for network in shapes.values() for p in network.parameters()]
        for name, dtype in (frozen or {}).items():
            for parameter in shapes[name].parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)
        for parameter in parameters:
            if parameter.requires_grad and sharded:
                parameter.data = parameter.data.to(torch.bfloat16 if half else torch.float32)
                parameter.register_post_accumulate_grad_hook(_forget)
        with Alive() as alive:
            for tensor in (*parameters, *(b for network in shapes.values() for b in network.buffers())):
                alive.add(tensor)
            start = alive.now
            for parameter in parameters if accumulated and not sharded else ():
                if parameter.requires_grad:
                    parameter.grad = torch.empty_like(parameter)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                result = compute(shapes)
            if result.requires_grad:
                result.sum().backward()
            return alive.most - start


def _forget(parameter: Tensor) -> None:
    parameter.grad = None


def checkpoint_blocks(network: Any, train: Any, travelling: int = 0) -> None:
    """Give a network on the meta device the activation checkpointing of a run (``TrainConfig``). The last blocks, which
    travel, keep their inputs."""
    keep, every = train.checkpoint_keep, train.checkpoint_every
    others = checkpointed(network.blocks, keep, every) if train.checkpoint_activations else None
    if others is None and not travelling:
        return
    moved, inputs = {id(block) for block in list(network.blocks)[len(network.blocks) - travelling :]}, checkpointed([])

    def call(block: Any, *args: Any) -> Any:
        if id(block) in moved:
            return inputs(block, *args)
        return others(block, *args) if others else block(*args)

    network.enable_gradient_checkpointing(call)


def moments(train: Any, trained: int, muon: int) -> float:
    """Bytes of an optimizer's moments on the device; of the weights that Muon trains, one."""
    if train.offload:
        return 0.0
    each = optim.MOMENTS[train.optimizer]
    return trained * each * (1 + 4 / 256) if train.optimizer == "adamw8bit" else 4.0 * (each * trained - muon)


def at_home(network: Any, kind: str, travelling: int) -> float:
    """Bytes of the frozen weights that are not on the device: all blocks that travel but two, in use and under way."""
    blocks = list(network.blocks)[len(network.blocks) - travelling :] if travelling else []
    return sum(fewer_bits.size(_Frozen(block), kind) for block in blocks[2:])


class _Frozen(nn.Module):
    """A block without the weights that are trained."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([block])

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        return (p for p in super().parameters(recurse) if not p.requires_grad)


def gathered(network: Any, half: bool) -> int:
    """Bytes of what is whole at a time of a sharded network: two of its blocks, the gradients of one in float32."""
    block = max(sum(p.numel() for p in block.parameters()) for block in network.blocks)
    return block * (2 * (2 if half else 4) + 4)
