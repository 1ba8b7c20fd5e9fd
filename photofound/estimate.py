"""What a run will take, before it is started: ``photofound train STAGE --config FILE --dry-run``.

One step is counted and one is timed, at the run's first picture size and at its last. From there to a whole run on N
GPUs is arithmetic, and says so: it assumes that N are N times as fast as one of what was measured.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from photofound.engine import World, device_name
from photofound.trainer import Stage, TrainConfig, Trainer, make_engine

BYTES_PER_PARAMETER = 20  # fp32: weight, gradient, two moments, average
ENDS = (0.0, 0.999)  # shares of the run at which it is measured: the picture size may change on the way


@dataclass(frozen=True)
class Offer:
    """What is asked about: how many GPUs, at what price per hour each, sustaining how many TFLOP/s each (None: as fast
    as the device of the dry run)."""

    gpus: int | None = None
    price: float | None = None
    tflops: float | None = None

    def __post_init__(self) -> None:
        for name in ("gpus", "price", "tflops"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"--{name}: {value} must be above 0")


@dataclass(frozen=True)
class Measured:
    """One end of a run: samples and seconds of an update, FLOP per sample of it, peak bytes of a process."""

    samples: int
    seconds: float
    flops: float
    memory: int


def dry_run(
    config: Any, stage_class: Callable[[Any, World], Stage], plan: Callable[[Any], Sequence[Any]] | None, offer: Offer
) -> Iterator[str]:
    """Lines for people. Nothing is written and nothing is kept.

    Args:
        config: the stage's configuration, with ``train``.
        plan: what the stage can say without weights, data or memory: a list of ``photofound.transformer.Cost``.

    Raises ValueError and OSError for what would stop the run itself, unless a plan can still answer.
    """
    train: TrainConfig = replace(config.train, trackers=())
    costs = list(plan(config)) if plan else []
    for cost in costs:
        yield f"plan        {cost.parameters:,} parameters, {cost.tokens:,} tokens, {_flop(cost.flops)} a forward pass"
    factor = 4 if train.checkpoint_activations else 3  # forward, backward twice as dear, forward again
    planned = [factor * cost.flops * train.batch_size for cost in costs]
    try:
        _check_room(costs, train)
        ends, lines = _measure(config, train, stage_class)
        yield from lines
        work = [end.flops * end.samples for end in ends]
        yield from _whole_run(train, work, [end.seconds for end in ends], offer)
    except (OSError, ValueError) as error:
        if not costs:
            raise
        yield f"not measured: {error}"
        yield from _whole_run(train, planned, None, offer)


def _check_room(costs: Sequence[Any], train: TrainConfig) -> None:
    import psutil

    if train.device == "cpu" or not torch.cuda.is_available():
        free = psutil.virtual_memory().available
    else:
        free = torch.cuda.mem_get_info()[0]
    need = max((cost.parameters for cost in costs), default=0) * BYTES_PER_PARAMETER
    if train.parallel == "ddp" and need > free:
        raise ValueError(f"training takes at least {_bytes(need)}, {_bytes(free)} are free here")


def _measure(
    config: Any, train: TrainConfig, stage_class: Callable[[Any, World], Stage]
) -> tuple[list[Measured], list[str]]:
    engine = make_engine(train)
    with engine.first_on_node():
        stage = stage_class(config, engine.world)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(train, stage, Path(folder), engine=engine)
        ends = [_measure_step(trainer, progress) for progress in ENDS]
    trained = sum(p.numel() for p in stage.module.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in stage.module.parameters())
    first, last = ends
    where = f"{engine.world.size} x {device_name(engine.world.device)}"
    return ends, [
        f"parameters  {trained:,} trained, {everything:,} in all",
        f"memory      {_bytes(max(first.memory, last.memory))} at the peak of a step, of which at least "
        f"{_bytes(trained * BYTES_PER_PARAMETER)} for weights, gradients, moments and average",
        f"FLOPs       {_range(_flop, first.flops, last.flops)} per sample and training step",
        f"speed       {_range('{:.3g}'.format, *(end.samples / end.seconds for end in ends))} images/s on {where}",
    ]


def _measure_step(trainer: Trainer, progress: float) -> Measured:
    from torch.utils.flop_counter import FlopCounterMode

    device, samples = trainer.device, trainer.samples(progress)
    share = len(trainer.mine) / trainer.micro_batches
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        trainer.advance(progress)
    if trainer.config.compile:
        trainer.advance(progress)
    start = time.perf_counter()
    trainer.advance(progress)  # ends with the gradient norm on the CPU, so nothing is still under way
    seconds = time.perf_counter() - start
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device)
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Measured(samples, seconds, counter.get_total_flops() / (samples * share), memory)


def _whole_run(train: TrainConfig, work: list[float], spent: list[float] | None, offer: Offer) -> Iterator[str]:
    """How long, and for how much, by the FLOP of an update or by its seconds here."""
    gpus = offer.gpus or 1
    if offer.tflops:
        hours = [train.steps * flop / (gpus * offer.tflops * 1e12) / 3600 for flop in work]
        speed = f"at {offer.tflops:g} TFLOP/s each"
    elif spent:
        hours = [train.steps * seconds / gpus / 3600 for seconds in spent]
        speed = "each as fast as this device"
    else:
        yield "no estimate of time: say what a GPU sustains with --tflops (an H100 some 300 to 450)"
        return
    limit = train.minutes / 60 if train.minutes else float("inf")
    low, high = (min(limit, value) for value in (min(hours), max(hours)))
    yield f"run         {train.steps:,} steps of {train.batch_size:,} = {train.steps * train.batch_size:,} samples"
    yield f"time        {_range(_hours, low, high)} on {gpus} GPU(s), {speed}" + (
        f"; train.minutes ends it after {limit / min(hours):.0%} of its steps at most" if limit < min(hours) else ""
    )
    if offer.price:
        cost = [value * gpus * offer.price for value in (low, high)]
        yield f"cost        {_range('{:,.2f}'.format, *cost)} at {offer.price:g} per GPU and hour"
    else:
        yield "cost        say what a GPU costs per hour with --price"


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
