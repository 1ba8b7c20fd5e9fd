"""One training loop for every stage.

A stage supplies what is trained, batches, and ``loss(batch)``; the trainer owns time: the schedule, the clock,
precision, the moving average, logs, samples, checkpoints and resuming.
"""

from __future__ import annotations

import json
import math
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from photofound import checkpoint, optim
from photofound.ema import EMA


@dataclass(frozen=True)
class TrainConfig:
    """What every stage can be told about its run."""

    steps: int = 100_000  # stop after this many updates
    minutes: float | None = None  # or after this much wall-clock time; the schedule is fitted to whichever ends first
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    schedule: str = "trapezoid"  # constant | cosine | trapezoid
    optimizer: str = "adamw"  # adamw | muon
    clip: float = 1.0  # largest gradient norm
    ema: float = 0.999
    precision: str = "bf16"  # bf16: autocast with fp32 weights; fp32
    device: str = "auto"  # auto | cpu | cuda
    compile: bool = False
    seed: int = 0
    log_every: int = 20
    sample_every: int = 0  # 0 = only at the end
    save_every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name}: {getattr(self, name)} is too small; it must be at least 1")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"train.minutes: {self.minutes} is no time; give a positive number, or null")
        for name, known in (
            ("precision", ("bf16", "fp32")),
            ("optimizer", ("adamw", "muon")),
            ("schedule", ("constant", "cosine", "trapezoid")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"train.{name}: {getattr(self, name)!r} is unknown; use {' or '.join(known)}")


class Stage(Protocol):
    """What a training script supplies. ``module`` holds everything that is trained."""

    module: nn.Module
    muon_modules: list[nn.Module]

    def batch(self, generator: torch.Generator, progress: float) -> Any: ...
    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]: ...
    def sample(self, path: Path) -> None: ...
    def export(self, folder: Path) -> None: ...


def resolve_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one. Raises ValueError for a device that is unknown or not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"train.device: {name!r} is unknown; use auto, cpu or cuda") from None
    found = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= found:
        raise ValueError(f"train.device: {name!r} is not here, torch sees {found} of them; use auto or cpu")
    return device


class Trainer:
    """Runs a stage until its steps or its minutes are used up, in ``run_dir``.

    The folder holds ``config.yaml`` (written by the script), ``metrics.jsonl`` (one line per step),
    ``checkpoints/step-N/``, ``samples/`` and, at the end, ``model/`` with the averaged weights as a user loads them.
    """

    def __init__(self, config: TrainConfig, stage: Stage, run_dir: Path, resume: str | None = None) -> None:
        self.config, self.stage, self.run_dir = config, stage, run_dir
        self.device = next(stage.module.parameters()).device
        self.optimizers = optim.build(
            stage.module, config.optimizer, config.lr, config.weight_decay, stage.muon_modules
        )
        self.ema = EMA(stage.module, config.ema)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.step, self.seconds, self.skipped = 0, 0.0, 0
        self.stopping = False
        run_dir.mkdir(parents=True, exist_ok=True)
        if resume and (path := checkpoint.resolve(run_dir / "checkpoints", resume)):
            self._load(path)

    def run(self) -> None:
        """Train, then write samples, a checkpoint and the averaged model."""
        previous = signal.signal(signal.SIGTERM, self._stop)
        self._trim_metrics()
        try:
            while not self.stopping and self.progress() < 1:
                self._one_step()
            self._save()  # with the handler in place: launchers send the signal more than once
        finally:
            signal.signal(signal.SIGTERM, previous)
        with self.ema.applied():
            self.stage.export(self.run_dir / "model")
            self._sample()

    def progress(self) -> float:
        """Share of the run that is over, in [0, 1]: by steps or by minutes, whichever is further."""
        by_clock = self.seconds / (self.config.minutes * 60) if self.config.minutes else 0.0
        return min(1.0, max(self.step / self.config.steps, by_clock))

    def _one_step(self) -> None:
        start, config, progress = time.perf_counter(), self.config, self.progress()
        batch = self.stage.batch(self.generator, progress)
        with self._autocast():
            loss, logs = self.stage.loss(batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.stage.module.parameters(), config.clip)
        scale = optim.schedule(self.step, progress, config.warmup_steps, config.schedule)
        if bool(torch.isfinite(norm)):
            self.optimizers.step(scale)
            self.ema.update()
            self.skipped = 0
        else:  # one bad batch is skipped; many in a row are a broken run
            self.stage.module.zero_grad(set_to_none=True)
            self.skipped += 1
            if self.skipped >= 20:
                raise RuntimeError(
                    f"training: 20 steps in a row had no finite gradient (step {self.step}); lower train.lr"
                )
        self.step += 1
        duration = time.perf_counter() - start
        self.seconds += duration
        self._log(loss, logs, norm, scale, duration)
        if config.sample_every and self.step % config.sample_every == 0:
            with self.ema.applied():
                self._sample()
        if self.step % config.save_every == 0:
            self._save()
        self.seconds += time.perf_counter() - start - duration  # samples and checkpoints take time, too

    def _autocast(self) -> AbstractContextManager:
        if self.config.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _log(self, loss: Tensor, logs: dict[str, Tensor], norm: Tensor, scale: float, duration: float) -> None:
        row = {"step": self.step, "loss": float(loss.detach()), "norm": float(norm), "lr": scale * self.config.lr}
        row |= {"images_per_s": self.config.batch_size / duration, "minutes": self.seconds / 60}
        row |= {name: float(value.detach()) for name, value in logs.items() if not math.isnan(float(value.detach()))}
        with (self.run_dir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}) + "\n")
        if self.step % self.config.log_every == 0:
            print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)

    def _trim_metrics(self) -> None:
        """Drop the lines of steps that a resumed run does again."""
        path = self.run_dir / "metrics.jsonl"
        if path.is_file():
            lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
            path.write_text("".join(line + "\n" for line in lines if json.loads(line)["step"] <= self.step))

    def _sample(self) -> None:
        folder = self.run_dir / "samples"
        folder.mkdir(exist_ok=True)
        with torch.no_grad(), self._autocast():
            self.stage.sample(folder / f"step-{self.step}.png")

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    def _save(self) -> None:
        tensors = {"model": dict(self.stage.module.state_dict()), "ema": self.ema.average}
        tensors |= {"optimizer": self.optimizers.state_tensors(), "rng": self._rng()}
        state = {"seconds": self.seconds, "ema_updates": self.ema.updates, "optimizer": self.config.optimizer}
        checkpoint.save(self.run_dir / "checkpoints", self.step, tensors, state, self.config.keep)

    def _rng(self) -> dict[str, Tensor]:
        """The state of the data's generator and of torch's own, which losses draw noise and dropout from."""
        states = {"data": self.generator.get_state(), "torch": torch.get_rng_state()}
        return states | ({"cuda": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {})

    def _load(self, path: Path) -> None:
        tensors, state = checkpoint.load(path)
        if (before := state.get("optimizer", self.config.optimizer)) != self.config.optimizer:
            raise ValueError(f"resume: {path} was trained with {before}; set train.optimizer={before}")
        try:
            self.stage.module.load_state_dict(tensors["model"])
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"resume: {path} is of another model ({reason}); use the config it has") from None
        for name, average in self.ema.average.items():
            average.copy_(tensors["ema"][name])
        self.optimizers.load_state_tensors(tensors["optimizer"])
        self.generator.set_state(tensors["rng"]["data"])
        if "torch" in tensors["rng"]:  # not in checkpoints of before it was kept
            torch.set_rng_state(tensors["rng"]["torch"])
        if "cuda" in tensors["rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng"]["cuda"], self.device)
        self.step, self.seconds, self.ema.updates = state["step"], state["seconds"], state["ema_updates"]
