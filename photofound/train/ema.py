"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from photofound.train.distributed import local
from photofound.train.optim import Optimizers
from photofound.train.settings import TrainConfig
from photofound.train.untuned import IterateAverage


class EMA:
    """Keeps an fp32 average of a module's trainable weights.

    The decay rises as (1 + n) / (10 + n) up to ``decay``, so that the average of a short run is not dominated by its
    start.
    """

    def __init__(self, module: nn.Module, decay: float, device: str | None = None) -> None:
        """``device`` is where the average is kept; None: where the weights are."""
        self.module, self.decay = module, decay
        self.average = {
            n: p.detach().to(device, torch.float32, copy=True) for n, p in module.named_parameters() if p.requires_grad
        }
        where = next((local(each).device for each in self.average.values()), torch.device("cpu"))
        self._updates = torch.zeros((), dtype=torch.float64, device=where)

    @property
    def updates(self) -> int:
        """Updates so far. Waits for the device."""
        return int(self._updates)

    @updates.setter
    def updates(self, value: int) -> None:
        self._updates.fill_(value)

    @torch.no_grad()
    def update(self, bad: Tensor | None = None) -> None:
        """Take the weights in; not where ``bad``, a bool on the device, is true."""
        taken = torch.ones_like(self._updates) if bad is None else (~bad).to(self._updates)
        self._updates += taken
        weight = taken * (1 - ((1 + self._updates) / (10 + self._updates)).clamp(max=self.decay))
        weight = weight.float()
        live = dict(self.module.named_parameters())
        for name, average in self.average.items():
            own = local(average)
            own.lerp_(local(live[name].detach()).to(own.device, torch.float32), weight)

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


def average_of(module: nn.Module, config: TrainConfig, optimizers: Optimizers) -> EMA | IterateAverage:
    """The averaged weights of a run: a moving average, or that which schedule-free AdamW keeps itself."""
    if config.optimizer == "schedulefree":
        return IterateAverage(module, optimizers.optimizers[0])
    return EMA(module, config.ema, "cpu" if config.offload else None)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for the block; then whatever mode each part was in."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
