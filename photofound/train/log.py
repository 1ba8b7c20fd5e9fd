"""What people read of a run: a line per step in ``metrics.jsonl``, the terminal, the trackers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from photofound import files
from photofound.train.distributed import Engine


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
            self.bar.write("  ".join(f"{k} {v:.4g}" for k, v in row.items()))

    def close(self) -> None:
        self.bar.close()
        self.engine.end_trackers()


def _step_of(line: str) -> float:
    """The step of a line of metrics.jsonl; beyond all for one that is not whole."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
