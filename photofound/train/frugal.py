"""AdamW whose moments do not lie on the GPU as float32: in eight bits, or in the CPU's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

CODED = ("codes", "scale", "qmap")  # what a moment of eight bits is made of


def adamw_8bit(groups: Sequence[dict[str, Any]], **options: Any) -> torch.optim.Optimizer:
    """torchao's AdamW with moments of eight bits in blocks of 256 (arXiv:2110.02861). Raises ValueError without
    torchao."""
    try:
        from torchao.optim import AdamW8bit
    except ImportError:
        raise ValueError("train.optimizer: adamw8bit needs torchao: pip install 'photofound[quantize]'") from None
    return AdamW8bit(groups, **options)


class OffloadedAdamW(torch.optim.AdamW):
    """AdamW that computes on the CPU: weights are copied there, moments stay there, gradients travel there and new
    weights back. The same as on the device but for rounding.

    torchao's ``CPUOffloadOptimizer`` sends each gradient off as soon as it is there, which is before the trainer has
    clipped all of them together or found one that is not finite.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], **options: Any) -> None:
        self.weights = [weight for group in groups for weight in group["params"]]
        moved = [{**group, "params": [_on_cpu(weight) for weight in group["params"]]} for group in groups]
        super().__init__(moved, **options, fused=True)

    @property
    def copies(self) -> list[Tensor]:
        """The weights on the CPU, in the order of ``weights``."""
        return [copy for group in self.param_groups for copy in group["params"]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        self.grad_scale = self.found_inf = None
        pairs = list(zip(self.weights, self.copies, strict=True))
        for weight, copy in pairs:
            if weight.grad is None:
                copy.grad = None
            elif copy.grad is None:
                copy.grad = _pinned(weight.grad.to("cpu"), weight)
            else:
                copy.grad.copy_(weight.grad, non_blocking=True)
        if self.weights and self.weights[0].is_cuda:
            torch.cuda.current_stream(self.weights[0].device).synchronize()
        result = super().step(closure)
        for weight, copy in pairs:
            if weight.grad is not None:
                weight.copy_(copy, non_blocking=True)
        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients on the device. Those on the CPU are written over."""
        for weight in self.weights:
            weight.grad = None

    @torch.no_grad()
    def load_state_dict(self, state_dict: Any) -> None:
        """As in torch; the weights are those that the device has."""
        super().load_state_dict(state_dict)
        for weight, copy in zip(self.weights, self.copies, strict=True):
            copy.copy_(weight)


def _on_cpu(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(_pinned(weight.detach().to("cpu", copy=True), weight))


def _pinned(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor in memory that the device of another one reads by itself."""
    return tensor.pin_memory() if like.is_cuda else tensor


def flat(key: str, value: Any) -> dict[str, Any]:
    """A value of an optimizer's state as plain tensors: one of eight bits as its codes and scales."""
    if not is_coded(value):
        return {key: value}
    return {f"{key}.{part}": getattr(value, part) for part in CODED}


def joined(state: dict[str, Tensor]) -> dict[str, Any]:
    """What ``flat`` has taken apart."""
    coded = {name.partition(".")[0] for name in state if "." in name}
    whole: dict[str, Any] = {name: value for name, value in state.items() if "." not in name}
    for name in coded:
        from torchao.optim.subclass_8bit import OptimState8bit

        whole[name] = OptimState8bit(*(state[f"{name}.{part}"] for part in CODED), signed=name == "exp_avg")
    return whole


def is_coded(value: Any) -> bool:
    """Whether a value of an optimizer's state has eight bits."""
    return all(hasattr(value, part) for part in CODED)
