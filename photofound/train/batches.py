"""The batches of a run, each drawn from a seed of its own, the next ones while the GPU works on the last."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch

from photofound.train.distributed import seed_of
from photofound.train.settings import TrainConfig


class Batches:
    """Draws the micro-batches of one process.

    A stage whose ``ahead`` is true has the first one of the next update drawn as soon as an update is launched. On a
    GPU that goes through a stream of its own, so that what a batch asks of the device does not wait for the update.
    """

    def __init__(self, seed: int, stage: Any, device: torch.device, own_parts: Sequence[int]) -> None:
        self.seed, self.stage, self.device, self.first = seed, stage, device, own_parts[0]
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._drawn: tuple[tuple[int, int, int, float], Any] | None = None
        self._before: dict[str, Any] = {}  # the position in the data before that batch

    def take(self, step: int, index: int, size: int, progress: float) -> Any:
        """Micro-batch ``index`` of a step: the one that was drawn ahead, if it is of this size and progress."""
        drawn, self._drawn = self._drawn, None
        if drawn is not None and drawn[0][:3] == (step, index, size):
            if self._side is not None:
                torch.cuda.current_stream(self.device).wait_stream(self._side)
            return drawn[1]
        if drawn is not None and self._before:
            self.stage.load_state_dict(self._before)  # what was drawn is not used
        return self._draw(step, index, size, progress)

    def draw_ahead(self, step: int, size: int, progress: float) -> None:
        """Draw the first micro-batch of this step, if the stage allows it."""
        if not getattr(self.stage, "ahead", False):
            return
        self._before = self.position()
        side = contextlib.nullcontext() if self._side is None else torch.cuda.stream(self._side)
        with side:
            self._drawn = (step, self.first, size, progress), self._draw(step, self.first, size, progress)

    def position(self) -> dict[str, Any]:
        """Where the stage is in its data, without what was drawn ahead."""
        if self._drawn is not None:
            return self._before
        position: dict[str, Any] = getattr(self.stage, "state_dict", dict)()
        return position

    def _draw(self, step: int, index: int, size: int, progress: float) -> Any:
        torch.manual_seed(seed_of(self.seed, step, index, "batch"))
        generator = torch.Generator(self.device).manual_seed(seed_of(self.seed, step, index, "data"))
        return self.stage.batch(generator, size, progress)


def micro_batches(config: TrainConfig, processes: int) -> int:
    """How many parts an update is computed in, over so many processes. Raises ValueError where they cannot be shared
    evenly."""
    count = config.micro_batches or processes
    if count < 1 or count % processes:
        raise ValueError(
            f"train.micro_batches: {count} cannot be shared evenly by {processes} processes; use a multiple"
        )
    if config.batch_size % count:
        raise ValueError(
            f"train.batch_size: {config.batch_size} cannot be cut into {count} micro-batches; use a multiple of {count}"
        )
    return count
