"""One training loop for every stage.

A stage supplies a module, its batches and ``loss(batch)``. The trainer does the rest: the schedule, the clock, the
moving average, sheets of samples, checkpoints and resuming. ``photofound.train.distributed`` handles the processes.

An update's batch is ``micro_batches`` micro-batches, each drawn from a seed of its own, made of the run's seed, the
step and the micro-batch's number. The processes only divide them up. Hence

- any number of processes that divides ``micro_batches`` trains the same model on the same batches, and one process
  with ``micro_batches: 2`` is what two are;
- a resumed run draws what the stopped one would have drawn, since no random state has to be saved.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from photofound.card import record
from photofound.errors import one_line
from photofound.signals import handled
from photofound.train import checkpoint, disk, float8, optim
from photofound.train.batches import Batches, micro_batches
from photofound.train.contract import Stage
from photofound.train.distributed import Engine, make_engine, seed_of, shard_like, whole
from photofound.train.ema import average_of, evaluating
from photofound.train.history import History
from photofound.train.log import Figures, RunLog, mean
from photofound.train.pace import Pace
from photofound.train.recompute import checkpoint_models
from photofound.train.settings import TrainConfig

if TYPE_CHECKING:
    from photofound.train.shards import Background

STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""What clusters send before they take a machine away; Windows has no SIGUSR1."""


class Update(NamedTuple):
    """An update that was launched: the step that it makes, the progress that it was made at, its samples over all
    processes, its learning rate, and its figures."""

    step: int
    progress: float
    samples: int
    lr: float
    figures: Figures


class Trainer:
    """Runs a stage until its steps or its minutes are used up, in ``run_dir``.

    The folder holds ``config.yaml`` (written by the script), ``metrics.jsonl`` (one line per step),
    ``checkpoints/step-N/``, ``samples/``, ``record.json`` (what its card is made of, see ``photofound.card.record``)
    and, at the end, ``model/`` with the averaged weights as a user loads them, and the record beside them.
    """

    def __init__(
        self, config: TrainConfig, stage: Stage, run_dir: Path, resume: str | None = None, engine: Engine | None = None
    ) -> None:
        if config.validate_every and not hasattr(stage, "validate"):
            raise ValueError("train.validate_every: this stage measures nothing; set it to 0")
        self.config, self.stage, self.run_dir = config, stage, run_dir
        self.engine = engine or make_engine(config, run_dir)
        self.device, self.main = self.engine.world.device, self.engine.main
        self.micro_batches = micro_batches(config, self.engine.world.size)
        self.own_parts = range(self.engine.world.rank, self.micro_batches, self.engine.world.size)
        if config.checkpoint_activations:
            checkpoint_models(stage.module, config)
        if config.fp8:
            float8.convert(stage.blocks, self.device)
        if config.compile_step:
            self._compile_step()
        elif config.compile:
            for block in stage.blocks:
                block.compile()
        self.optimizers = optim.build(
            stage.module,
            config.optimizer,
            config.lr,
            config.weight_decay,
            stage.blocks,
            self.engine.sharded,
            config.offload,
            getattr(stage, "rates", {}),
        )
        self.call, self.optimizers.optimizers = self.engine.prepare(
            stage.module, stage.blocks, self.optimizers.optimizers
        )
        self.ema = average_of(stage.module, config, self.optimizers)
        self.take_in = self.ema.update
        if config.compile_step:
            self.optimizers.compile()
            self.take_in = torch.compile(self.ema.update)
        self.step, self.seconds, self.seen, self.skipped, self.skips_in_a_row = 0, 0.0, 0, 0, 0
        self.launched: list[Update] = []  # not logged yet
        self.pace = Pace(config, stage, self.engine)
        self.batches = Batches(config.seed, stage, self.device, self.own_parts)
        self.history = History(stage, config, run_dir, self.engine.world)
        self.saved = -1  # the step that was last saved
        self.background = self._background() if config.save_as == "shards" else None
        self.mark = time.perf_counter()
        self.stopping = False
        self.best, self.waited = float("inf"), 0  # the least val_loss, and measurements since
        if resume:
            self._resume(resume)

    def run(self) -> bool:
        """Train; save; and, if the run is finished, write samples and the averaged model.

        Returns False when a signal stopped it before its end: it is saved, and ``--resume latest`` goes on.
        """
        if self.progress() < 1:
            sizes = self.checkpoint_bytes(), disk.model_bytes(self.stage)
            disk.check_room(self.run_dir, self.config, self.step, *sizes, self.engine)
        if self.main and hasattr(self.stage, "note_reading"):
            self.stage.note_reading(self.run_dir, self.history.training.id)
        self.log = RunLog(self.run_dir, self.engine, self.config.log_every, self.step, self.progress())
        self.mark = time.perf_counter()
        with handled(STOPPING, self._stop):
            while self._tick() < 1 and not self.stopping and not self.exhausted:
                self._update()
            self._settle()
            finished = self.progress() >= 1 or self.exhausted
            if self.saved != self.step or (finished and self.background):
                self._save(last=finished)  # with the handlers in place: launchers send the signal more than once
            if self.background:
                self.background.wait()
        if finished:
            try:
                self._save_sheet()
            finally:  # a sheet that cannot be made does not cost the model
                self.export()
        self.log.close()
        return finished

    def checkpoint_bytes(self) -> int:
        """The size of a checkpoint."""
        return disk.checkpoint_bytes(self.stage.module, self.ema.average, self.optimizers)

    def progress(self) -> float:
        """Share of the run that is over, in [0, 1]: by steps or by minutes, whichever is further."""
        by_clock = self.seconds / (self.config.minutes * 60) if self.config.minutes else 0.0
        return min(1.0, max(self.step / self.config.steps, by_clock))

    def _update(self) -> None:
        if not self.launched:
            self.lap = time.perf_counter()
        self.launched.append(self.launch(self.progress()))
        validates, samples, saves = (
            bool(every) and self.step % every == 0
            for every in (self.config.validate_every, self.config.sample_every, self.config.save_every)
        )
        last = self.device.type != "cuda" or validates or samples or saves
        self._settle(0 if last else 1, self._validate if validates else dict)
        if samples:
            self._save_sheet()
        if saves:
            self._save()

    def _settle(self, kept: int = 0, also: Callable[[], dict[str, float]] = dict) -> None:
        """Log the updates that were launched, all but the last ``kept``: while the GPU works on one, the one before is
        read. ``also`` measures what the last one's line has, too."""
        while len(self.launched) > kept:
            update = self.launched.pop(0)
            row = self.collect(update)
            now = time.perf_counter()
            row |= self.pace.figures(update.samples, update.progress, now - self.lap)
            self.lap = now
            if not self.launched:
                row |= also()
            self._write_row(update, row)

    def update_size(self, progress: float) -> int:
        """How many samples an update at this progress has, over all processes."""
        return self.micro_batches * self._micro_size(progress)

    def _micro_size(self, progress: float) -> int:
        size = self.config.batch_size // self.micro_batches
        return getattr(self.stage, "batch_size", lambda size, _: size)(size, progress)

    def advance(self, progress: float) -> tuple[dict[str, float], float]:
        """One update, waited for. Returns the figures to log, averaged over all processes, and the learning rate."""
        update = self.launch(progress)
        return self.collect(update), update.lr

    def launch(self, progress: float) -> Update:
        """One update: forward and backward of this process's micro-batches, then the optimizers, which change nothing
        where the loss or its gradient is not finite. On a GPU it is under way when this returns."""
        config = self.config
        rows = [self._micro_batch(index, progress) for index in self.own_parts]
        norm = self.engine.clip(self.stage.module.parameters(), config.clip)
        loss = self.engine.mean(torch.stack([row["loss"] for row in rows]).mean())
        bad = ~(loss.isfinite() & norm.isfinite())
        scale = optim.schedule(self.step, progress, config.warmup_steps, config.schedule)
        self.optimizers.step(scale, bad)
        self.take_in(bad)
        self.step += 1
        if (after := self.progress()) < 1:
            self.batches.draw_ahead(self.step, self._micro_size(after), after)
        size = self.update_size(progress)
        self.seen += size
        figures = Figures([*rows, {"norm": norm, "bad": bad}], self.device)
        return Update(self.step, progress, size, scale * config.lr * self.optimizers.rate, figures)

    def collect(self, update: Update) -> dict[str, float]:
        """The figures of an update, averaged over all processes. Waits for it."""
        *rows, whole_update = update.figures.read()
        row = mean(self.engine.gather(rows))
        row["norm"] = whole_update["norm"]
        if whole_update["bad"]:
            self._count_skip(update.step)
        else:
            self.skips_in_a_row = 0
        return row

    def _micro_batch(self, index: int, progress: float) -> dict[str, Tensor]:
        """Add the gradients of one micro-batch; returns the figures to log."""
        batch = self.batches.take(self.step, index, self._micro_size(progress), progress)
        # Again, since a first batch may draw more than later ones do: a resumed run has its first batch elsewhere.
        torch.manual_seed(seed_of(self.config.seed, self.step, index, "model"))
        with self.engine.accumulating(last=index == self.own_parts[-1]):
            loss, logs = self.call(self.stage.loss, batch)
            self.engine.backward(loss / len(self.own_parts))
        return {"loss": loss.detach()} | {name: value.detach() for name, value in logs.items()}

    def _count_skip(self, step: int) -> None:
        """A bad batch was left out. Raises ValueError for many in a row: the run is broken."""
        self.skipped += 1
        self.skips_in_a_row += 1
        if self.skips_in_a_row >= self.config.max_skips:
            raise ValueError(
                f"training: {self.skips_in_a_row} steps in a row had no finite loss and gradient (step {step}); "
                "lower train.lr and go on from the last checkpoint with --resume latest"
            )

    def _write_row(self, update: Update, row: dict[str, float]) -> None:
        """The figures of a step, those of every stage first."""
        first = {"step": update.step, "loss": row.pop("loss"), "norm": row.pop("norm"), "lr": update.lr}
        first |= {"images_per_s": row.pop("images_per_s"), "minutes": self._now() / 60, "skipped": self.skipped}
        self.log.write(first | row, self.progress())

    # ----------------------------------------------------------------------------------------------- clock and signals

    def _tick(self) -> float:
        """Advance the clock, by that of the first process, and stop if any process got a signal; returns the
        progress."""
        now = time.perf_counter()
        self.seconds, self.stopping = self.engine.agree(self.seconds + now - self.mark, self.stopping)
        self.mark = now
        return self.progress()

    def _now(self) -> float:
        """Seconds of the run up to now."""
        return self.seconds + time.perf_counter() - self.mark

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    # ------------------------------------------------------------------------------------------- sheets and validation

    def _save_sheet(self) -> None:
        from PIL import Image

        torch.manual_seed(self.config.seed)
        with self._averaged():
            made = {"samples": self.call(self.stage.sheet)} | self.call(getattr(self.stage, "pictures", dict))
        if self.main:
            folder = self.run_dir / "samples"
            folder.mkdir(exist_ok=True)
            for number, (name, picture) in enumerate(made.items()):
                Image.fromarray(picture).save(folder / f"step-{self.step}{f'-{number}' * bool(number)}.png")
                self.engine.log_image(name, picture, self.step)

    def _validate(self) -> dict[str, float]:
        with self._averaged():
            row = {name: float(value) for name, value in self.call(self.stage.validate).items()}  # type: ignore[attr-defined]
        if self.config.patience:
            if "val_loss" not in row:
                raise ValueError(f"train.patience: this stage measures {', '.join(row)} and no val_loss; set it to 0")
            better = row["val_loss"] < self.best
            self.best, self.waited = min(self.best, row["val_loss"]), 0 if better else self.waited + 1
        return row

    @property
    def exhausted(self) -> bool:
        """Whether held-out pictures have been no better for as long as ``train.patience`` waits."""
        return 0 < self.config.patience <= self.waited

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within the block every process holds the averaged model, in evaluation mode, without gradients."""
        with self.ema.applied(), evaluating(self.stage.module), self.engine.unsharded(), torch.no_grad():
            yield

    def trainings(self) -> list[record.Training]:
        """The record up to now, for the model's card."""
        return self.history.trainings(self.step, self.seen, self._now(), self.pace.joules)

    def export(self) -> None:
        """Write the averaged model, and beside it the record of the last checkpoint."""
        with self.ema.applied(), evaluating(self.stage.module), self.engine.gathered(self.stage.module):
            if self.main:
                self.stage.export(self.run_dir / "model")
                record.write(self.run_dir / "model" / record.MODEL, self.recorded)
            self.engine.wait()

    # ------------------------------------------------------------------------------------------------------ checkpoints

    def _save(self, last: bool = False) -> None:
        """Save this step: whole, or in shards, which are written while training goes on; the last one whole."""
        background = None if last else self.background
        of = whole if background is None else Tensor.detach
        tensors = {
            "model": {name: of(value) for name, value in self.stage.module.state_dict().items()},
            "ema": {name: of(value) for name, value in self.ema.average.items()},
            "optimizer": self.optimizers.state_tensors(of),
        }
        recorded = self.recorded = self.trainings()
        state = {
            "seconds": self._now(),
            "ema_updates": self.ema.updates,
            "skipped": self.skipped,
            "skips_in_a_row": self.skips_in_a_row,
            "best": self.best if self.waited or self.best < float("inf") else None,
            "waited": self.waited,
            "optimizer": self.config.optimizer,
            "seed": self.config.seed,
            "micro_batches": self.micro_batches,
            "data": self.engine.gather([self.batches.position()]),
            "record": record.to_plain(self.recorded),
        }
        if background:
            background.save(self.step, tensors, state, lambda: record.write(self.run_dir / record.RUN, recorded))
        else:
            if self.background:
                self.background.wait()
            if self.main:
                checkpoint.save(self.run_dir / "checkpoints", self.step, tensors, state, self.config.keep)
                record.write(self.run_dir / record.RUN, self.recorded)
            self.engine.wait()
        self.saved = self.step

    def _compile_step(self) -> None:
        if not hasattr(self.stage, "compile_step"):
            raise ValueError(
                "train.compile_step: this stage can be compiled block by block alone; use train.compile=true"
            )
        self.stage.compile_step()

    def _background(self) -> Background:
        from photofound.train.shards import Background  # what it is made of takes a second to import

        return Background(self.run_dir / "checkpoints", self.config.keep, self.config.timeout)

    def _resume(self, resume: str) -> None:
        """Go on from a checkpoint; for ``latest`` from the newest whole one, with a warning about those after it."""
        paths = checkpoint.resolve(self.run_dir / "checkpoints", resume)
        for tried, path in enumerate(paths):
            damage = None
            try:
                self._load(path, *self._read(path))
            except checkpoint.Damaged as error:
                damage = str(error)
            damages = [each for each in self.engine.gather([damage]) if each]
            if not damages:
                if self.main:  # not earlier, or a second try would find nothing and start anew
                    for damaged in paths[:tried]:
                        checkpoint.set_aside(damaged)
                return
            if resume != "latest":
                raise ValueError(damages[0])
            what = damages[0].partition(";")[0]
            if path == paths[-1]:
                raise ValueError(f"{what}, and none in {path.parent} is whole; start anew in another --run-dir")
            if self.main:
                print(f"resume: {what}; the one before it is taken", file=sys.stderr, flush=True)

    def _read(self, path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """What a checkpoint holds; of shards, what this process needs of them. Raises Damaged."""
        if not checkpoint.in_shards(path):
            return checkpoint.load(path)
        from photofound.train import shards

        model, average = self.stage.module.state_dict(), self.ema.average

        def like(group: str, name: str) -> Tensor | None:
            if group == "optimizer":
                return self.optimizers.weight_of(name)
            return {"model": model, "ema": average}.get(group, {}).get(name)

        return shards.load(path, like)

    def _load(self, path: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Take over a checkpoint. Raises Damaged where something in it is missing, ValueError where it is of another
        model or optimizer."""
        try:
            self._take_over(path, tensors, state)
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise checkpoint.Damaged(path, error) from None

    def _take_over(self, path: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        if state["optimizer"] != self.config.optimizer:
            before = state["optimizer"]
            raise ValueError(f"resume: {path} was trained with {before}; set train.optimizer={before}")
        try:
            layout = self.stage.module.state_dict()
            self.stage.module.load_state_dict(
                {name: shard_like(value, layout.get(name, value)) for name, value in tensors["model"].items()}
            )
        except RuntimeError as error:
            reason = one_line(error)[:200]
            raise ValueError(f"resume: {path} is of another model ({reason}); use the config it has") from None
        for name, average in self.ema.average.items():
            average.copy_(shard_like(tensors["ema"][name], average))
        self.optimizers.load_state_tensors(tensors["optimizer"])
        counts = ("step", "ema_updates", "skipped", "skips_in_a_row")
        if not all(isinstance(state[name], int) for name in counts) or not isinstance(state["seconds"], (int, float)):
            raise TypeError("its counts are no numbers")
        self.step = self.saved = state["step"]
        self.seconds, self.ema.updates = state["seconds"], state["ema_updates"]
        self.skipped, self.skips_in_a_row = state["skipped"], state["skips_in_a_row"]
        self.best, self.waited = state.get("best") or float("inf"), state.get("waited", 0)
        self.seen = self.history.resume(state, self.step, self.seconds, self.config.batch_size)
        self.recorded = [*self.history.parents, self.history.training]
        self._load_data(state)

    def _load_data(self, state: dict[str, Any]) -> None:
        """The position in the data, and a note of what a changed run cannot repeat exactly."""
        positions, size = state["data"], self.engine.world.size
        notes = []
        if len(positions) == size:
            if any(positions):
                self.stage.load_state_dict(positions[self.engine.world.rank])  # type: ignore[attr-defined]
        else:
            notes.append("sums run over processes in another order, so losses agree to rounding only")
            if any(positions):
                notes.append("each process reads its share of the data from the beginning")
        if state["micro_batches"] != self.micro_batches:
            notes.append(
                f"batches are drawn in {self.micro_batches} parts, not {state['micro_batches']}, so differently"
            )
        if state["seed"] != self.config.seed:
            notes.append("another train.seed draws other batches")
        if notes and self.main:
            saved = f"{len(positions)} process(es)"
            print(f"resume: step {self.step} was saved by {saved}, this is {size}: {'; '.join(notes)}", flush=True)
