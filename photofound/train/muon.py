"""Muon on one process or many: each orthogonalises its share of the matrices, and all take over the results.

Muon's work is five steps of Newton-Schulz on every matrix (arXiv:2502.16982), the same in every process where all hold
the same weights. Here a matrix has one owner. What the owner computes is what torch's own class would, so W processes
train what one does, bit for bit where their gradients are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from photofound.train.distributed import local, on_device_whole, shard_of


class Muon(torch.optim.Muon):
    """torch's Muon, for weights that are whole in every process or spread over them.

    Attributes:
        found_inf: a scalar above 0 on the device makes ``step`` change nothing; None = it always steps.
        newton_schulz: orthogonalises a matrix.
    """

    found_inf: Tensor | None = None
    newton_schulz: Callable[..., Tensor] = staticmethod(_zeropower_via_newtonschulz)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        assert closure is None, "the trainer has the gradients already"
        for group in self.param_groups:
            weights: list[Tensor] = []
            gradients: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, weights, gradients, momenta)
            self._update(group, weights, gradients, momenta)

    def _update(self, group: dict, weights: list[Tensor], gradients: list[Tensor], momenta: list[Tensor]) -> None:
        bad = None if self.found_inf is None else self.found_inf > 0
        momentum, lr = group["momentum"], float(group["lr"])
        for gradient, buffer in zip(gradients, momenta, strict=True):
            weight: Any = 1 - momentum
            if bad is not None:
                local(gradient).copy_(torch.where(bad, 0, local(gradient)))
                weight = torch.where(bad, 0.0, torch.tensor(weight, device=bad.device)).to(buffer.dtype)
            local(buffer).lerp_(local(gradient), weight)
        directions = [
            gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
            for gradient, buffer in zip(gradients, momenta, strict=True)
        ]
        options = group["ns_coefficients"], group["ns_steps"], group["eps"]
        # Those of one size side by side, so that the processes work equally long.
        order = sorted(range(len(weights)), key=lambda index: -weights[index].numel())
        size = dist.get_world_size() if dist.is_initialized() else 1
        for start in range(0, len(order), size):
            share = order[start : start + size]
            for index, update in zip(
                share, _orthogonal(self.newton_schulz, [directions[i] for i in share], *options), strict=True
            ):
                weight, decay = weights[index], 1 - lr * group["weight_decay"]
                if bad is not None:
                    update = torch.where(bad, 0, update)
                    decay = torch.where(bad, 1.0, torch.tensor(decay, device=bad.device)).to(weight.dtype)
                local(weight).mul_(decay)
                rate = _adjust_lr(lr, group["adjust_lr_fn"], weight.shape)
                local(weight).add_(local(shard_of(update, weight)), alpha=-rate)


def _orthogonal(newton_schulz: Callable[..., Tensor], directions: Sequence[Tensor], *options: Any) -> list[Tensor]:
    """The orthogonalised matrices, whole in every process; of at most as many matrices as there are processes, each
    computes its own."""
    whole = [on_device_whole(direction) for direction in directions]
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [newton_schulz(matrix, *options) for matrix in whole]
    rank = dist.get_rank()
    made, works = [], []
    for owner, matrix in enumerate(whole):
        if owner == rank:
            result = newton_schulz(matrix, *options).contiguous()
        else:
            result = torch.empty(matrix.shape, dtype=torch.bfloat16, device=matrix.device)
        made.append(result)
    for owner, result in enumerate(made):
        works.append(dist.broadcast(result, owner, async_op=True))
    for work in works:
        work.wait()
    return made


class FilterMuon(Muon):
    """Muon for convolutions: each filter bank (O, I, k, k) as the matrix (O, k k I), which shares its memory."""

    def __init__(self, filters: Sequence[nn.Parameter], **options: Any) -> None:
        self.filters = list(filters)
        for weight in self.filters:  # else the matrix would be a copy, and the weight would stay what it is
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        super().__init__([nn.Parameter(_matrix(weight.data)) for weight in self.filters], **options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for weight, matrix in zip(self.filters, self.param_groups[0]["params"], strict=True):
            matrix.grad = None if weight.grad is None else _matrix(weight.grad)
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for weight in self.filters:
            weight.grad = None


def _matrix(filters: Tensor) -> Tensor:
    """(O, I, k, k) to (O, k k I), a view where the filters are channels-last."""
    return filters.permute(0, 2, 3, 1).flatten(1)
