"""How fast a run is and what it takes: pictures, tokens and FLOP in a second, power, energy, CO2."""

from __future__ import annotations

from typing import Any

from photofound.card.rates import GRID, PEAK_TFLOPS, rate_of
from photofound.device import device_name
from photofound.train.distributed import Engine
from photofound.train.gauges import Gauges
from photofound.train.log import mean
from photofound.train.settings import TrainConfig


class Pace:
    """What ``metrics.jsonl`` tells of an update beside its losses.

    Attributes:
        joules: energy of this session, all devices together; None where they do not measure it.
    """

    def __init__(self, config: TrainConfig, stage: Any, engine: Engine) -> None:
        self.grid, self.engine = GRID if config.grid is None else config.grid, engine
        self._work = getattr(stage, "work", None)
        self._peak = config.peak or rate_of(device_name(engine.world.device), PEAK_TFLOPS)
        self._gauges = Gauges(engine.world.device, engine.first_of_node)
        self.joules: float | None = None

    def figures(self, samples: int, progress: float, seconds: float) -> dict[str, float]:
        """``images_per_s``; ``tokens_per_s`` and ``mfu`` where the stage counts its work and the device's peak is
        known; ``watts`` and ``gpu_load``, means over the processes, ``kwh`` and ``gco2`` of all of them since the start
        of the session, where devices measure them. Every process calls it.

        Args:
            samples: of the update, over all processes.
            seconds: that it took.
        """
        found = {"images_per_s": samples / seconds}
        if self._work is not None:
            tokens, flops = self._work(progress)
            found["tokens_per_s"] = tokens * found["images_per_s"]
            if self._peak:
                found["mfu"] = flops * found["images_per_s"] / (self.engine.world.size * self._peak * 1e12)
        here = self._gauges.read()
        if self._gauges.joules is not None:
            here["joules"] = self._gauges.joules
        everywhere = self.engine.gather([here])
        if not any(everywhere):
            return found
        self.joules = sum(each.get("joules", 0.0) for each in everywhere)
        kwh = self.joules / 3.6e6
        row = mean(everywhere)
        row.pop("joules", None)
        return found | row | {"kwh": kwh, "gco2": kwh * self.grid}
