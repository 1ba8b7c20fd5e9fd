"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class EMA:
    """Keeps an fp32 average of a module's trainable weights.

    The decay rises as (1 + n) / (10 + n) up to ``decay``, so that the average of a short run is not dominated by its
    start.
    """

    def __init__(self, module: nn.Module, decay: float, device: str | None = None) -> None:
        """``device`` is where the average is kept; None: where the weights are."""
        self.module, self.decay, self.updates = module, decay, 0
        self.average = {
            n: p.detach().to(device, torch.float32, copy=True) for n, p in module.named_parameters() if p.requires_grad
        }

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        live = dict(self.module.named_parameters())
        torch._foreach_lerp_(
            list(self.average.values()),
            [live[n].detach().to(average.device, torch.float32) for n, average in self.average.items()],
            1 - decay,
        )

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Within the block the module holds the averaged weights; afterwards its own again.

        Values are copied, not exchanged: sharded and compiled modules keep addresses of their own.
        """
        live = dict(self.module.named_parameters())
        backup = {name: live[name].detach().to(average.device, copy=True) for name, average in self.average.items()}
        for name, average in self.average.items():
            live[name].copy_(average)
        try:
            yield
        finally:
            for name, weight in backup.items():
                live[name].copy_(weight)
