"""Training batches in which tasks are mixed: how many samples of each task, which crops, their conditions and targets.

Shapes: B samples, pictures (B, 3, H, W) in [-1, 1], holes (B, 1, H, W) in [0, 1] with 1 = the model paints here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from photofound.data.exemplars import Exemplars
from photofound.data.objects import holds_object
from photofound.data.photograph import random_int
from photofound.data.store import Crop, PhotoStore
from photofound.data.stream import Stream
from photofound.edits import masks
from photofound.edits import reference as references
from photofound.edits.colours import recolour_backgrounds
from photofound.edits.composite import harmonic
from photofound.edits.geometry import aspect_buckets
from photofound.edits.task import Condition, Sample, Task, get_task
from photofound.train.distributed import World
from photofound.train.settings import DataConfig, MixConfig


class Batch(NamedTuple):
    """What the loss of an edit stage takes.

    Attributes:
        condition: what the model is given.
        sample: the targets: ``pixels`` and, where they were computed before training, ``latents`` and ``embeddings``.
        progress: share of the run that is over, in [0, 1].
        weight: (B, 1, H, W), how much each pixel counts in the loss; None = all the same.
    """

    condition: Condition
    sample: Sample
    progress: float
    weight: Tensor | None = None


# ------------------------------------------------------------------------------ tasks that train the trunk's own head


def generate(sample: Sample, generator: torch.Generator) -> Condition:
    """Text to image: the whole picture is a hole."""
    canvas, hole = torch.zeros_like(sample.pixels), torch.ones_like(sample.pixels[:, :1])
    return _generic_condition(sample, canvas, hole)


def complete(sample: Sample, generator: torch.Generator) -> Condition:
    """Completion of hidden patches, as masked autoencoders learn it (arXiv:2111.06377)."""
    hole = masks.patches(len(sample), tuple(sample.pixels.shape[-2:]), generator)
    return _generic_condition(sample, harmonic(sample.pixels, hole == 0), hole)


def _generic_condition(sample: Sample, canvas: Tensor, hole: Tensor) -> Condition:
    return Condition(canvas, hole, ["generate"] * len(sample), sample.prompt, hole.new_zeros(len(sample)))


PRETEXT = {"generate": generate, "complete": complete}


def condition_of_matte(task: str, sample: Sample, generator: torch.Generator) -> Condition:
    """The condition of a finished edit; the sample's matte says what the edit repainted."""
    if task == "generate":
        return generate(sample, generator)
    return get_task(task).conditions(sample, (sample.matte > 0.5).float())


# ------------------------------------------------------------------------------------------------------------ drawing


class TaskMixer:
    """Draws batches in which each task has its share.

    Args:
        mix, data: shares, and how photographs are cropped, weighted and recoloured.
        encode: pixels (B, 3, H, W) -> latents (B, C, h, w); for targets that differ from the photograph whose latents
            were computed before training.
        reference_share: share of the samples that get a reference picture, of the tasks that take one.
        reference_size: side of that picture in pixels.
        hole_is_matte: a sample's matte is the hole of a finished edit (pairs of results), so no hole is drawn.

    Attributes:
        shares: task -> its share of a batch; only the tasks with a share above 0.
        needs_object: task -> whether it needs a photograph with a whole object.
    """

    def __init__(
        self,
        mix: MixConfig,
        data: DataConfig,
        encode: Callable[[Tensor], Tensor],
        reference_share: float = 0.0,
        reference_size: int = 0,
        hole_is_matte: bool = False,
    ) -> None:
        self.mix, self.data, self.encode, self.hole_is_matte = mix, data, encode, hole_is_matte
        self.reference_share, self.reference_size = reference_share, reference_size
        self.shares = {name: share for name, share in mix.tasks.items() if share > 0}
        self.tasks: dict[str, Task] = {name: get_task(name) for name in self.shares if name not in PRETEXT}
        self.needs_object = {
            name: not hole_is_matte and name in self.tasks and self.tasks[name].needs_object for name in self.shares
        }
        # Keyed by the store itself: a later store may get the id() of an earlier one.
        self._choices: WeakKeyDictionary[PhotoStore, dict[tuple[Crop, bool], tuple[Tensor, Tensor]]]
        self._choices = WeakKeyDictionary()

    def draw(
        self,
        store: PhotoStore,
        crop: Crop,
        size: int,
        generator: torch.Generator,
        shares: Mapping[str, float] | None = None,
        exemplars: Exemplars | None = None,
    ) -> tuple[Condition, Sample]:
        """``size`` crops of a store's photographs, as conditions and targets.

        Args:
            shares: task -> share, in place of the mix's own.
            exemplars: samples with exemplar canvases, which replace a part of the crops.
        """
        cpu = torch.Generator().manual_seed(random_int(2**31, generator))
        conditions, samples = [], []
        for name, count in share_out(self.shares if shares is None else shares, size, cpu).items():
            if exemplars is not None and (made := self._with_exemplars(exemplars, name, count, generator, cpu)):
                conditions.append(made[0])
                samples.append(made[1])
                if not (count := count - len(made[1])):
                    continue
            condition, sample = self.draw_task(store, name, crop, count, generator, cpu)
            conditions.append(condition)
            samples.append(sample)
        return Condition.cat(conditions), Sample.cat(samples)

    def draw_task(
        self,
        store: PhotoStore,
        name: str,
        crop: Crop,
        count: int,
        generator: torch.Generator,
        cpu: torch.Generator,
    ) -> tuple[Condition, Sample]:
        """``count`` crops for one task, as conditions and targets."""
        sample = self._crops(store, crop, count, self.needs_object[name], cpu)
        others = self._crops(store, crop, count, False, cpu) if self._needs_others(name) else None
        return self._apply(name, sample, others, generator, cpu)

    def divide(self, sample: Sample, generator: torch.Generator) -> tuple[Condition, Sample]:
        """A batch of photographs divided among the tasks, as conditions and targets.

        Tasks that need a whole object get their share as far as the batch has such photographs.
        """
        cpu = torch.Generator().manual_seed(random_int(2**31, generator))
        whole = torch.tensor([holds_object(matte) for matte in sample.matte])
        conditions, samples = [], []
        for name, index in assign(self.shares, self.needs_object, whole, cpu).items():
            others = None
            if self._needs_others(name):
                others = sample[torch.randint(len(sample), (len(index),), generator=cpu)]
            condition, part = self._apply(name, sample[index], others, generator, cpu)
            conditions.append(condition)
            samples.append(part)
        return Condition.cat(conditions), Sample.cat(samples)

    def possible(self, store: PhotoStore, crop: Crop) -> dict[str, float]:
        """The shares without the tasks that need a whole object, where the store has none."""
        return {n: share for n, share in self.shares.items() if not self.needs_object[n] or len(store.rows(crop, True))}

    def choices(self, store: PhotoStore, crop: Crop, whole_object: bool) -> tuple[Tensor, Tensor]:
        """The store's rows that a crop fits into, and their weights.

        Raises ValueError where there are none.
        """
        known = self._choices.setdefault(store, {})
        if (crop, whole_object) not in known:
            rows = store.rows(crop, whole_object)
            if not len(rows):
                whole = " with a whole object" * whole_object
                raise ValueError(
                    f"data: no photograph fits a crop of {crop}{whole}; lower data.crop or add larger ones"
                )
            photographs = store.photograph[rows].tolist()
            weights = [self.data.weights.get(store.sources[p], 1.0) * store.repeats[p] for p in photographs]
            known[crop, whole_object] = rows, torch.tensor(weights)
        return known[crop, whole_object]

    def _crops(self, store: PhotoStore, crop: Crop, count: int, whole_object: bool, cpu: torch.Generator) -> Sample:
        rows, weights = self.choices(store, crop, whole_object)
        picks = rows[torch.multinomial(weights, count, replacement=True, generator=cpu)]
        return store.crops(picks, crop, whole_object, cpu, self.data.mirror)

    def _needs_others(self, name: str) -> bool:
        """Whether a task takes objects from other photographs."""
        return name in self.tasks and self.tasks[name].needs_others

    def _apply(
        self, name: str, sample: Sample, others: Sample | None, generator: torch.Generator, cpu: torch.Generator
    ) -> tuple[Condition, Sample]:
        """A task's conditions, and its samples with the task's targets as pixels."""
        if self.needs_object[name]:
            sample = recolour_backgrounds(sample, self.data.recolour, cpu)
        if name not in self.tasks:
            return PRETEXT[name](sample, generator), sample
        task = self.tasks[name]
        sample = task.compose(sample, others, generator)
        if self.hole_is_matte:
            condition = condition_of_matte(name, sample, generator)
        else:
            condition = task.example(sample, generator)
        # A finished edit is its own target; its matte is a hole, of which no target can be made.
        target = sample.pixels if self.hole_is_matte else task.target(sample)
        condition = self._with_references(name, condition, sample, generator)
        if target is not sample.pixels:
            latents = None if sample.latents is None else self.encode(target).to(sample.latents)
            sample = replace(sample, pixels=target, latents=latents)
        return condition, sample

    def _with_exemplars(
        self, exemplars: Exemplars, name: str, count: int, generator: torch.Generator, cpu: torch.Generator
    ) -> tuple[Condition, Sample] | None:
        """A share ``mix.exemplars`` of ``count`` samples with exemplar canvases; None where the task has none."""
        rows = exemplars.rows(name)
        if not len(rows):  # nothing is drawn, so runs without exemplars keep their random numbers
            return None
        if not (wanted := int((torch.rand(count, generator=cpu) < self.mix.exemplars).sum())):
            return None
        picks = rows[torch.randint(len(rows), (wanted,), generator=cpu)]
        condition, sample = exemplars.take(picks, generator.device)
        return self._with_references(name, condition, sample, generator), sample

    def _with_references(
        self, name: str, condition: Condition, sample: Sample, generator: torch.Generator
    ) -> Condition:
        """Some of a task's conditions get a piece of the target's own surface as a reference."""
        if not self.reference_share or name not in self.tasks or not self.tasks[name].takes_reference:
            return condition
        return references.with_references(
            condition, sample, self.needs_object[name], self.reference_share, self.reference_size, generator
        )


class StreamReader:
    """Batches of ``data.sources`` whose size may change during the run; keeps the position between them."""

    def __init__(self, data: DataConfig, seed: int, world: World) -> None:
        self.data, self.seed, self.world = data, seed, world
        self._shape = (0, 0)  # crop and batch size of the open stream
        self._stream: Stream | None = None
        self._position: dict[str, Any] = {}

    def next(self, crop: int, size: int) -> Sample:
        """The next ``size`` photographs, in one aspect bucket of about crop x crop pixels."""
        if self._shape != (crop, size):
            self._open(crop, size)
        return next(self._batches)

    def _open(self, crop: int, size: int) -> None:
        """Open the stream for batches of this shape, where the last ones ended."""
        position = self.state_dict()
        self._stream = Stream(
            self.data.sources,
            size,
            aspect_buckets(crop, self.data.multiple, self.data.widest),
            seed=self.seed,
            rank=self.world.rank,
            world=self.world.size,
            workers=self.data.workers,
            shuffle=self.data.shuffle,
            interleave=self.data.interleave,
            flip=self.data.mirror,
            precomputed=self.data.precomputed,
            device=self.world.device,
            log=Path(self.data.log) if self.data.log else None,
            cache=Path(self.data.shard_cache) if self.data.shard_cache else None,
            cache_bytes=int(self.data.shard_cache_gb * 1e9),
            prefetch=self.data.prefetch,
        )
        self._stream.load_state_dict(position)
        self._batches, self._shape = iter(self._stream), (crop, size)

    def state_dict(self) -> dict[str, Any]:
        """The position, for JSON; empty before the first batch."""
        return self._position if self._stream is None else self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._position, self._stream, self._shape = state, None, (0, 0)


# --------------------------------------------------------------------------------------------------------------- shares


def share_out(shares: Mapping[str, float], size: int, cpu: torch.Generator) -> dict[str, int]:
    """How many of ``size`` samples each task gets. What whole numbers leave over is drawn at random, so that the mean
    is right."""
    total = sum(shares.values())
    exact = {name: size * share / total for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    missing = size - sum(counts.values())
    if missing:
        rest = torch.tensor([exact[name] - counts[name] for name in counts])
        for index in torch.multinomial(rest, missing, replacement=True, generator=cpu).tolist():
            counts[list(counts)[index]] += 1
    return {name: count for name, count in counts.items() if count}


def assign(
    shares: Mapping[str, float], needs_object: Mapping[str, bool], whole: Tensor, cpu: torch.Generator
) -> dict[str, Tensor]:
    """Which samples of a batch go to which task, as indices.

    Args:
        whole: (B,) bool, which samples hold a whole object. Tasks that need one get no others; the other tasks share
            out what is left.

    Raises ValueError where a sample fits none of the tasks.
    """
    order = torch.randperm(len(whole), generator=cpu)
    fit, rest = order[whole[order]].tolist(), order[~whole[order]].tolist()
    counts = share_out(shares, len(whole), cpu)
    assigned = {}
    for name in filter(lambda name: needs_object[name], counts):
        assigned[name], fit = fit[: counts[name]], fit[counts[name] :]
    rest += fit
    if rest:
        others = {name: share for name, share in shares.items() if not needs_object[name]}
        if not others:
            raise ValueError("mix.tasks: a photograph without a whole object fits none of the tasks; add another task")
        for name, count in share_out(others, len(rest), cpu).items():
            assigned[name], rest = rest[:count], rest[count:]
    return {name: torch.tensor(index) for name, index in assigned.items() if index}


# ----------------------------------------------------------------------------------------------- parts of a batch


def hold_out(store: PhotoStore, every: int) -> tuple[PhotoStore, PhotoStore]:
    """A store without every n-th photograph, and a store of those; both share the pixels."""
    held = store.photograph % every == 0
    return store.part(~held), store.part(held)


def take(condition: Condition, rows: Tensor) -> Condition:
    """The samples ``rows`` of a condition."""
    task, prompt = ([words[i] for i in rows.tolist()] for words in (condition.task, condition.prompt))
    tensors = {
        name: value[rows]
        for name in ("canvas", "hole", "strength", "reference", "referenced")
        if (value := getattr(condition, name)) is not None
    }
    return replace(condition, task=task, prompt=prompt, **tensors)


def blank(condition: Condition, gone: Tensor) -> Condition:
    """The same batch, where nothing is given in the samples with ``gone`` (B,) True."""
    if condition.referenced is not None:
        condition = replace(condition, referenced=condition.referenced & ~gone)
    gone = gone[:, None, None, None]
    return replace(
        condition, canvas=condition.canvas.masked_fill(gone, 0.0), hole=condition.hole.masked_fill(gone, 1.0)
    )


def mean_per_task(each: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
    """The mean of a value per sample (B,) over the samples of each task, detached, for the log."""
    rows = {name: [i for i, task in enumerate(tasks) if task == name] for name in sorted(set(tasks))}
    return {name: each.detach()[index].mean() for name, index in rows.items()}
