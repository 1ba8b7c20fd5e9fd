"""What people read of a run: a line per step in ``metrics.jsonl``, the terminal, the trackers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from photofound import files
from photofound.train.distributed import Engine


class Figures:
    """Scalars on the device that are asked for later, so that nobody waits for the device now.

    Args:
        rows: dicts of scalars; all are copied to main memory together, as soon as they are computed.
    """

    def __init__(self, rows: Sequence[Mapping[str, Tensor]], device: torch.device) -> None:
        self._names = [tuple(row) for row in rows]
        each = [value.detach().to(device).float().reshape(()) for row in rows for value in row.values()]
        together = torch.stack(each) if each else torch.zeros(0)
        self._arrived: Any = None
        if device.type == "cuda":
            self._values = torch.empty(len(each), pin_memory=True).copy_(together, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._values = together

    def read(self) -> list[dict[str, float]]:
        """The rows as numbers. Waits until they are computed."""
        if self._arrived is not None:
            self._arrived.synchronize()
        values = iter(self._values.tolist())
        return [{name: next(values) for name in names} for names in self._names]


def mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every value over the rows that have it. A NaN counts in the loss alone."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row[name] for row in rows if name in row] for name in names}
    kept = {n: v if n == "loss" else [x for x in v if not math.isnan(x)] for n, v in values.items()}
    return {name: sum(v) / len(v) for name, v in kept.items() if v}


class RunLog:
    """Writes the figures of each step, in the first process alone.

    Args:
        every: steps between two lines on the terminal.
        step, progress: where the run starts or goes on; later lines of an earlier session are removed, since their
            steps are done again.
    """

    def __init__(self, run_dir: Path, engine: Engine, every: int, step: int, progress: float) -> None:
        from tqdm import tqdm

        self.path, self.engine, self.every = run_dir / "metrics.jsonl", engine, every
        self.start, self.initial = time.monotonic(), progress
        self.bar = tqdm(
            total=1.0,
            initial=progress,
            disable=None if engine.main else True,  # None: shown on a terminal only
            bar_format="{percentage:3.0f}% {bar} {elapsed}<{remaining} {postfix}",
        )
        engine.start_trackers("photofound", step + 1)
        if engine.main and self.path.is_file():
            lines = self.path.read_text(errors="replace", encoding="utf-8").splitlines()
            # Whole or not at all: a kill between emptying and writing would take the history with it.
            files.write(self.path, "".join(line + "\n" for line in lines if _step_of(line) <= step))
        run_dir.mkdir(parents=True, exist_ok=True)

    def write(self, row: dict[str, Any], progress: float) -> None:
        """One step's figures; ``row`` begins with ``step``, ``loss`` and ``images_per_s`` are in it."""
        if not self.engine.main:
            return
        rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        step = row["step"]
        self.engine.log({name: value for name, value in row.items() if name != "step"}, step)
        self.bar.set_postfix_str(f"step {step}  loss {row['loss']:.4g}  {row['images_per_s']:.1f} images/s", False)
        self.bar.update(progress - self.bar.n)
        if step % self.every == 0:
            self.bar.write("  ".join(f"{k} {v:.4g}" for k, v in (row | self._left(progress)).items()))

    def _left(self, progress: float) -> dict[str, float]:
        """Minutes until the end, if what is left goes as fast as this session has gone."""
        share = progress - self.initial
        passed = (time.monotonic() - self.start) / 60
        return {"minutes_left": passed / share * (1 - progress)} if 0 < share and progress < 1 else {}

    def close(self) -> None:
        self.bar.close()
        self.engine.end_trackers()


def _step_of(line: str) -> float:
    """The step of a line of metrics.jsonl; beyond all for one that is not whole."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
