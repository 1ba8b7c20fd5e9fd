"""What a run will take, before it is started: ``photofound train STAGE --config FILE --dry-run``.

A step is counted and one is timed in every phase of the run: the picture size, the batch and the terms of the loss may
change on the way (``turns`` of a configuration: the shares of the run at which they do). From there to a whole run on N
GPUs is arithmetic, and says so: it assumes that N are N times as fast as one of what was measured.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from photofound.device import device_name
from photofound.model.cost import FlopCounter
from photofound.train.contract import Stage
from photofound.train.distributed import World, make_engine
from photofound.train.price import CPU, LATE, Budget
from photofound.train.settings import TrainConfig
from photofound.train.trainer import Trainer

MUON_STEPS = 5  # of Newton-Schulz


@dataclass(frozen=True)
class Phase:
    """A part of a run in which all steps have the same shapes and terms.

    Attributes:
        parameters: of the transformer.
        tokens: of a picture.
        flops: of a forward pass of one sample through the transformer.
        work: FLOP of one sample in a training step, frozen networks included; None: three forward passes.
        update: FLOP of the optimizer in a step, which the processes share.
        need: what a step takes on each of so many GPUs (``photofound.train.memory.Memory``); None: not planned.
        share: of the run's steps.
        batch: its batch as a share of ``train.batch_size``.
        counted, missing: names of what ``work`` counts, and of what it cannot count.
    """

    parameters: int
    tokens: int
    flops: int
    work: float | None = None
    update: float = 0.0
    need: Callable[[int], Any] | None = None
    share: float = 1.0
    batch: float = 1.0
    counted: tuple[str, ...] = ("transformer",)
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """A phase of a run: its share of the steps; samples and FLOP of an update over all processes, and its seconds here,
    if they were measured; peak bytes of a process."""

    share: float
    samples: int
    flops: float
    seconds: float | None = None
    memory: int = 0


def dry_run(
    config: Any,
    stage_class: Callable[[Any, World], Stage] | None,
    plan: Callable[[Any], Sequence[Phase]] | None,
    budget: Budget,
) -> Iterator[str]:
    """The estimate, line by line. No file is kept.

    Args:
        config: the stage's configuration, with ``train``, and ``turns`` where its steps change on the way.
        stage_class: the stage, whose steps are taken and measured; None: the plan alone answers.
        plan: the stage's phases, computed without weights, data or memory.

    Raises ValueError and OSError for what would stop the run itself, unless a plan can still answer.
    """
    train: TrainConfig = replace(config.train, trackers=())
    planned = list(plan(config)) if plan else []
    if stage_class is None and not planned:
        yield from _by_minutes(train, budget)
        return
    for phase in planned:
        cost = f"{phase.tokens:,} tokens, {_flop(phase.flops)} a forward pass"
        yield f"plan        {phase.parameters:,} parameters, {cost}"
    try:
        memory = _most_memory(planned, budget)
        if memory:
            card = f"; a GPU of {memory.card / 2**30:.0f} GiB or more, eager"
            card += ", less where it is compiled" if train.compiled else ""
            yield f"needs       {memory}" + (card if budget.devices(_on_cpu(train)) != CPU else "")
        if stage_class is None:
            raise ValueError("the plan alone")
        _check_room(memory, planned, train)
        phases, lines = _measure(config, train, stage_class)
        yield from lines
        yield (
            "counted     all that a step computes, frozen networks and optimizer included; samples, validation and "
            "checkpoints come on top"
        )
    except (OSError, ValueError) as error:
        if not planned:
            raise
        if stage_class is not None:
            yield f"not measured: {error}"
        phases = [_expected(phase, train) for phase in planned]
        missing = dict.fromkeys(name for phase in planned for name in phase.missing)
        aside = f"; not counted, since it is not here: {', '.join(missing)}" if missing else ""
        if any(phase.update for phase in planned):
            work = sum(phase.share * phase.flops for phase in phases)
            part = planned[0].update / work
            yield f"optimizer   {_flop(planned[0].update)} a step, shared by the GPUs, {part:.0%} of the work"
        yield f"counted     {', '.join(planned[0].counted)}{aside}; samples, validation and checkpoints come on top"
    yield from _whole_run(train, phases, budget, planned[0].parameters if planned else 0)


def muon_flops(shape: Sequence[int]) -> int:
    """FLOP of Newton-Schulz on a matrix of this shape (filters: as ``optim.FilterMuon`` sees them)."""
    rows, columns = shape[0], int(torch.Size(shape[1:]).numel())
    short, long = min(rows, columns), max(rows, columns)
    return MUON_STEPS * (4 * short * short * long + 2 * short**3)


def _expected(phase: Phase, train: TrainConfig) -> Measured:
    """The figures of a planned phase."""
    samples = max(1, round(train.batch_size * phase.batch))
    passes = 4 if train.checkpoint_activations else 3  # forward, backward twice as dear, forward again
    work = passes * phase.flops if phase.work is None else phase.work
    return Measured(phase.share, samples, samples * work + phase.update)


def _most_memory(phases: Sequence[Phase], budget: Budget) -> Any | None:
    """The memory of the phase that takes most; None where it is not planned. Raises ValueError where so many GPUs
    cannot share a batch."""
    needs = [phase.need(budget.gpus or 1) for phase in phases if phase.need]
    return max(needs, key=lambda need: need.peak, default=None)


def _on_cpu(train: TrainConfig) -> bool:
    return train.device == "cpu" or not torch.cuda.is_available()


def _check_room(memory: Any | None, phases: Sequence[Phase], train: TrainConfig) -> None:
    import psutil

    if _on_cpu(train):
        free = psutil.virtual_memory().available
    else:
        free = torch.cuda.mem_get_info()[0]
    need = memory.peak if memory else max((phase.parameters * 20 for phase in phases), default=0)
    if train.parallel == "ddp" and need > free:
        raise ValueError(f"training takes at least {_bytes(need)}, {_bytes(free)} are free here")


def _measure(
    config: Any, train: TrainConfig, stage_class: Callable[[Any, World], Stage]
) -> tuple[list[Measured], list[str]]:
    engine = make_engine(train)
    with engine.first_on_node():
        stage = stage_class(config, engine.world)
    turns = sorted({0.0, *(turn for turn in getattr(config, "turns", ()) if 0 < turn < 1), 1.0})
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(train, stage, Path(folder), engine=engine)
        phases = [_measure_step(trainer, start, end - start) for start, end in itertools.pairwise(turns)]
        model = _try_export(trainer, Path(folder))
    parameters = list(stage.module.parameters())
    trained = [p for p in parameters if p.requires_grad]
    moments = [value for o in trainer.optimizers.optimizers for state in o.state.values() for value in state.values()]
    held = _size(parameters) + _size(trained) + _size(trainer.ema.average.values()) + _size(moments)
    flops = [phase.flops / phase.samples for phase in phases]
    speed = [phase.samples / phase.seconds for phase in phases if phase.seconds]
    peak = max(phase.memory for phase in phases)
    where = f"{engine.world.size} x {device_name(engine.world.device)}"
    return phases, [
        f"parameters  {sum(p.numel() for p in trained):,} trained, {sum(p.numel() for p in parameters):,} in all",
        f"memory      {_bytes(peak)} at the peak of a step; {_bytes(held)} are weights, gradients, moments, average",
        f"disk        {_bytes(trainer.checkpoint_bytes())} a checkpoint, up to {train.keep + 1} at a time; {model}",
        f"FLOPs       {_range(_flop, min(flops), max(flops))} per sample and training step",
        f"speed       {_range('{:.3g}'.format, min(speed), max(speed))} images/s on {where}",
    ]


def _size(tensors: Any) -> int:
    """Bytes of this process's part of tensors."""
    local = (getattr(tensor, "to_local", lambda tensor=tensor: tensor)() for tensor in tensors)
    return sum(tensor.numel() * tensor.element_size() for tensor in local if isinstance(tensor, Tensor))


def _measure_step(trainer: Trainer, progress: float, share: float) -> Measured:
    device, samples = trainer.device, trainer.update_size(progress)
    mine = len(trainer.own_parts) / trainer.micro_batches
    trainer.advance(progress)  # compiles, and measures held-out photographs: done once
    with torch.compiler.set_stance("force_eager"), FlopCounter() as counter:
        trainer.advance(progress)
    start = time.perf_counter()
    trainer.advance(progress)  # ends with the gradient norm on the CPU, so nothing is still under way
    seconds = time.perf_counter() - start
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device)
    else:
        memory = _peak_memory()
    return Measured(share, samples, counter.get_total_flops() / mine, seconds, memory)


def _peak_memory() -> int:
    """The most bytes that this process has had in memory."""
    if os.name != "posix":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def _try_export(trainer: Trainer, folder: Path) -> str:
    """Export the model, as the run will at its end, and say how large it is."""
    if shutil.disk_usage(folder).free < 2 * _size(trainer.stage.module.state_dict().values()):
        return f"no room in {folder.parent} to try the export"
    trainer.recorded = trainer.trainings()
    trainer.export()
    return f"{_bytes(sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()))} the exported model"


def _whole_run(
    train: TrainConfig, phases: Sequence[Measured], budget: Budget, parameters: float = 0.0
) -> Iterator[str]:
    """How long, and for how much, by the FLOP of an update or by its seconds here, each phase by its share."""
    gpus, where = budget.gpus or 1, budget.devices(_on_cpu(train))
    if sustained := budget.sustained:
        mean = sum(phase.share * phase.flops for phase in phases) / (gpus * sustained * 1e12)
    elif all(phase.seconds for phase in phases):
        mean = sum(phase.share * (phase.seconds or 0) for phase in phases) / gpus
    else:
        yield "no estimate of time: name the GPU with --gpu, or say what one sustains with --tflops (an H100 some 320)"
        return
    whole = train.steps * mean / 3600
    hours = min(whole, train.minutes / 60) if train.minutes else whole
    samples = round(train.steps * sum(phase.share * phase.samples for phase in phases))
    sizes = _range("{:,.0f}".format, phases[0].samples, phases[-1].samples)
    yield f"run         {train.steps:,} steps of {sizes} = {samples:,} samples"
    yield f"time        {_hours(hours)} on {where}" + (
        f"; train.minutes ends it after {hours / whole:.0%} of its steps" if hours < whole else ""
    )
    if gpus > 1 and budget.device and not (budget.tflops or budget.mfu):
        low, high = (_hours(times * whole) for times in LATE)
        yield f"cluster     {low} to {high}, should it lose as much as published runs on many GPUs: docs/training.md"
    yield from budget.lines(hours, parameters) if where != CPU else ()


def _by_minutes(train: TrainConfig, budget: Budget) -> Iterator[str]:
    """What a run costs whose steps nobody has planned, but that ends by the clock. Raises ValueError for another."""
    if not train.minutes:
        raise ValueError("this stage is planned by its time alone: set train.minutes, or measure a step with --dry-run")
    hours = train.minutes / 60
    where = budget.devices(_on_cpu(train)).partition(",")[0]
    yield f"time        {_hours(hours)} on {where}, by train.minutes"
    yield from budget.lines(hours) if where != CPU else ()


def _range(write: Callable[[float], str], a: float, b: float) -> str:
    low, high = write(min(a, b)), write(max(a, b))
    return low if low == high or abs(a - b) < 0.05 * abs(b) else f"{low} to {high}"


def _flop(value: float) -> str:
    for scale, name in ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")):
        if value >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value:.0f} FLOP"


def _bytes(value: float) -> str:
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def _hours(value: float) -> str:
    return f"{value:.1f} hours" if value >= 1 else f"{value * 60:.1f} minutes"
