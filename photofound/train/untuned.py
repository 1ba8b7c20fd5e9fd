"""Optimizers that ask for less tuning: Prodigy finds the learning rate, schedule-free AdamW needs no schedule.

Both are their authors' packages. What is here is how the loop uses them: what a checkpoint needs of their groups, and
which weights are exported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

COUNTERS = {"Prodigy": ("k", "d", "d_max", "d_numerator"), "AdamWScheduleFree": ("k", "lr_max", "weight_sum")}
"""Class -> the values of its groups that its steps change."""


def prodigy(groups: Sequence[dict[str, Any]], **options: Any) -> torch.optim.Optimizer:
    """Prodigy (arXiv:2306.06101, algorithm 4): Adam whose rate d is a lower bound on the distance from the first
    weights to the best ones, which only grows. ``lr`` is a factor on d.

    As its authors advise for diffusion models: with Adam's bias correction, and with warm-up left out of the estimate.
    Raises ValueError without prodigyopt.
    """
    try:
        from prodigyopt import Prodigy
    except ImportError:
        raise ValueError("train.optimizer: prodigy needs prodigyopt: pip install 'photofound[optimizers]'") from None
    made: torch.optim.Optimizer = Prodigy(groups, **options, use_bias_correction=True, safeguard_warmup=True)
    return made


def schedule_free(groups: Sequence[dict[str, Any]], **options: Any) -> torch.optim.Optimizer:
    """Schedule-free AdamW (arXiv:2405.15682, eq. 3 to 5): gradients are taken at y = (1 - b) z + b x, z takes the steps
    and x is the mean of all z, which takes the place of a falling rate. The weights are y while it trains.

    Raises ValueError without schedulefree.
    """
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError:
        raise ValueError(
            "train.optimizer: schedulefree needs schedulefree: pip install 'photofound[optimizers]'"
        ) from None
    made: Any = AdamWScheduleFree(groups, **options)
    made.train()
    optimizer: torch.optim.Optimizer = made
    return optimizer


def found_rate(optimizer: torch.optim.Optimizer) -> float:
    """What a rate has to be multiplied with to be the one of a step: Prodigy's d; 1 for others."""
    return float(optimizer.param_groups[0].get("d", 1.0))


def counters(optimizer: Any) -> dict[str, Tensor]:
    """The values of an optimizer's groups that a checkpoint needs: ``group<n>.<name>`` -> a float64 scalar."""
    names = COUNTERS.get(type(optimizer).__name__, ())
    return {
        f"group{index}.{name}": torch.tensor(float(group[name]), dtype=torch.float64)
        for index, group in enumerate(optimizer.param_groups)
        for name in names
    }


def set_counters(optimizer: Any, values: dict[str, Tensor]) -> None:
    """Restore what ``counters`` gave. Raises KeyError where one is missing."""
    for name in counters(optimizer):
        index, _, key = name.removeprefix("group").partition(".")
        group = optimizer.param_groups[int(index)]
        group[key] = type(group[key])(values[name].item())


class IterateAverage:
    """Schedule-free AdamW's x, in place of a moving average: x = y + (1 - 1 / b) (z - y). It follows from the weights
    and the optimizer's state, so nothing is kept of it. The interface is ``photofound.train.ema.EMA``'s."""

    def __init__(self, module: nn.Module, optimizer: Any) -> None:
        self.module, self.optimizer = module, optimizer
        self.average: dict[str, Tensor] = {}
        self.updates = 0

    def update(self, bad: Tensor | None = None) -> None:
        """The optimizer has done it."""

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Within the block the module holds x; afterwards y again, the very bits of it."""
        weights = [p for p in self.module.parameters() if p.requires_grad]
        backup = [p.detach().clone() for p in weights]
        self.optimizer.eval()
        try:
            yield
        finally:
            self.optimizer.train()
            for weight, own in zip(weights, backup, strict=True):
                weight.copy_(own)
