"""Learn from people's choices: pairs of a preferred and a rejected result of the same edit (Diffusion-DPO).

    photofound train preference --config training/configs/preference.yaml --data.folder=PAIRS

PAIRS is a folder with a metadata.jsonl, one pair a line:

    {"file_name": "7a.png", "rejected_file_name": "7b.png", "mask_file_name": "7.png", "text": "on a marble table"}

``mask`` is what the edit repainted (white; all of the picture, where it is left out), ``text`` its prompt. Parquet
files and datasets on the Hub have the columns image, rejected, mask, text. A run is about one task, the mix's only one.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from photofound.data import sources
from photofound.data.ledger import without_damaged
from photofound.data.photograph import Photograph, from_row, random_int
from photofound.data.store import PhotoStore
from photofound.edits.task import Condition, Sample, get_task, task_names
from photofound.model import flow
from photofound.train import lora, settings
from photofound.train.adapt import AdaptedStage, plan_adapted
from photofound.train.distributed import World
from photofound.train.mix import Batch, hold_out


@dataclass(frozen=True)
class DataConfig(settings.DataConfig):
    """The pairs. A crop is taken at the same place of both."""

    folder: str = "pairs"  # folder of pairs, see above
    sizes: tuple[int, ...] = (136,)
    hold_out: int = 10
    mirror: bool = False
    late_from: float = 1.0


@dataclass(frozen=True)
class MixConfig(settings.MixConfig):
    """The task that the pairs are results of."""

    tasks: dict[str, float] = field(default_factory=lambda: {"outpaint": 1.0})  # the one task
    known_weight: float = 0.0  # weight of the loss outside the hole, where both results are the same


@dataclass(frozen=True)
class TrainConfig(settings.AdaptedTrainConfig):
    """As in fine-tuning, with smaller steps."""

    lr: float = 1e-4


@dataclass(frozen=True)
class Config(settings.EditConfig):
    """The options of ``photofound train preference``."""

    STAGE: ClassVar = "preference"

    model: settings.AdaptedModelConfig = field(default_factory=settings.AdaptedModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    validation: settings.MeasureConfig = field(default_factory=settings.MeasureConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    beta: float = 2000.0  # how near to stay to the start model; larger = nearer (flow.preference_loss)


def read(folder: str, short_side: int, limit: int | None = None) -> tuple[list[Photograph], list[Photograph]]:
    """Preferred and rejected results, pair by pair; the matte of either is what the edit repainted.

    A pair is left out, and named in the log, where one result is missing, damaged or of another size.

    Raises ValueError when there is no pair, or when more than 1 % of them are damaged.
    """
    rows = itertools.islice(sources.open_source(sources.Source(folder)), limit)
    pairs = without_damaged([_pair(row, folder, short_side) for row in rows])
    if not pairs:
        raise ValueError(f"data: {folder} has no pair; see photofound train preference --help for the format")
    return [pair.preferred for pair in pairs], [pair.rejected for pair in pairs]


@dataclass(frozen=True)
class Pair:
    """Two results of one edit."""

    preferred: Photograph
    rejected: Photograph


def _pair(row: Mapping[str, Any], folder: str, short_side: int) -> Pair | tuple[str, Exception]:
    """The pair of a row, or its name and what is wrong with it."""
    both = sources.Source(folder), sources.Source(folder, image="rejected")
    try:
        a, b = (_with_hole(from_row(sources.raw(row, source), short_side)) for source in both)
        if a.pixels.shape != b.pixels.shape:
            one, other = (tuple(x.pixels.shape[:0:-1]) for x in (a, b))
            raise ValueError(f"its results differ in size, {one} and {other}")
    except Exception as error:
        return str(row.get("name") or folder), error
    return Pair(a, b)


def _with_hole(photograph: Photograph) -> Photograph:
    everything = torch.full_like(photograph.pixels[:1], 255)
    return replace(photograph, matte=everything if photograph.matte is None else photograph.matte)


def read_stores(data: DataConfig) -> tuple[PhotoStore, PhotoStore]:
    """Preferred and rejected results in memory, in the same order, each with the hole of its edit as its matte."""
    parts = read(data.folder, max(data.sizes), data.limit)
    preferred, rejected = (PhotoStore.build(part, data.sizes) for part in parts)
    # As written, without other ways to say it: both results have one prompt.
    preferred.captions = rejected.captions = [words[:1] for words in preferred.captions]
    return preferred, rejected


class PreferenceStage(AdaptedStage):
    """Diffusion-DPO (arXiv:2311.12908) for the flow: the reference is the model that the run starts from."""

    config: Config

    def __init__(self, config: Config, world: World) -> None:
        _check(config)
        preferred, rejected = read_stores(config.data)
        super().__init__(config, world, preferred, hole_is_matte=True)
        self.mixer.reference_share = 0.0  # pairs do not say which reference picture they were made with
        self.frozen = None if config.model.train == "lora" else copy.deepcopy(self.pipeline.transformer)
        if self.frozen is not None:
            self.frozen.requires_grad_(False).eval()
        self.rejected = rejected.to(self.device)
        self.held_pairs: Batch | None = None
        if config.data.hold_out:
            self.rejected, held_out = hold_out(self.rejected, config.data.hold_out)
            generator = torch.Generator(self.device).manual_seed(0)
            assert self.held_out is not None
            self.held_pairs = self._pairs(self.held_out, held_out, config.validation.size, generator, 0.0)

    def batch(self, generator: torch.Generator, size: int, progress: float) -> Batch:
        """``size`` preferred results and then, in the same order and with the same conditions, the rejected ones."""
        return self._pairs(self.store, self.rejected, size, generator, progress)

    def _pairs(
        self, preferred: PhotoStore, rejected: PhotoStore, size: int, generator: torch.Generator, progress: float
    ) -> Batch:
        """Crops at the same places of both stores, which hold the results in the same order."""
        seed = random_int(2**31, generator)
        (condition, better), (_, worse) = (
            self.draw(store, self.config.data.crop, size, torch.Generator(self.device).manual_seed(seed))
            for store in (preferred, rejected)
        )
        return Batch(Condition.cat([condition, condition]), Sample.cat([better, worse]), progress)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss; for the log, the share of pairs that the model ranks as people did."""
        measured = self.measure_if_due(batch.progress)
        generator = torch.Generator(self.device).manual_seed(int(torch.randint(2**31, (1,))))
        error, reference = self.errors(batch, generator)
        loss = flow.preference_loss(error, reference, self.config.beta).mean()
        return loss, {"accuracy": _accuracy(error, reference)} | measured

    def errors(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(2, N) errors of the model and of the reference; row 0 on the preferred results, row 1 on the rejected ones.
        Both rows have the same noise and times."""
        mix, condition, count = self.config.mix, batch.condition, len(batch.condition) // 2
        x0 = self.clean_latents(batch.sample)
        t = flow.sample_time(count, generator, self.shift_at(0.0), mix.uniform_time).repeat(2)
        noise = self.noise_like(x0[:count], generator).repeat(2, 1, 1, 1)
        x_t = flow.add_noise(x0, noise, t)
        target = self.target(x_t, x0, noise, t)

        def error(v: Tensor) -> Tensor:
            return flow.masked_loss(v, target, condition.hole, mix.known_weight).view(2, count)

        reference = error(self._reference(x_t, t, condition))  # first: switching a LoRA off and on drops gradients
        return error(self.predict(x_t, t, condition)[0]), reference

    @torch.no_grad()
    def _reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The velocity of the model that the run starts from."""
        if self.frozen is not None:
            return self.predict(x_t, t, condition, model=self.frozen)[0]
        with lora.without(self.pipeline.transformer):
            return self.predict(x_t, t, condition)[0]

    def measure(self) -> dict[str, Tensor]:
        """On the held-out pairs: ``accuracy_held_out``, the share that the implicit reward ranks as people did, and
        ``loss_held_out``."""
        if self.held_pairs is None:
            return {}
        error, reference = self.errors(self.held_pairs, torch.Generator(self.device).manual_seed(0))
        loss = flow.preference_loss(error, reference, self.config.beta).mean()
        return {"accuracy_held_out": _accuracy(error, reference), "loss_held_out": loss}


def _accuracy(error: Tensor, reference: Tensor) -> Tensor:
    """The share of pairs in which the preferred result has the higher implicit reward, reference error - error. A tie,
    as before training, counts half."""
    reward = (reference - error).detach()
    return ((reward[0] > reward[1]).float() + 0.5 * (reward[0] == reward[1]).float()).mean()


def _check(config: Config) -> None:
    """Raise ValueError unless the mix has one task, and for options that would have no effect."""
    config.refuse_idle()
    tasks = [name for name, share in config.mix.tasks.items() if share > 0]
    if len(tasks) != 1 or tasks[0] in ("complete", "upscale"):
        raise ValueError(f"mix.tasks: {tasks}; name the one task, with a hole, that the pairs are results of")
    if tasks[0] in task_names() and get_task(tasks[0]).regression:
        raise ValueError(f"mix.tasks: {tasks[0]} has one right answer and no preferences; fine-tune it")
    if config.model.train == "full" and config.model.train_text:
        raise ValueError("model.train_text: the reference keeps its text encoder; set it to false")
    if not config.beta > 0:
        raise ValueError(f"beta: {config.beta} must be above 0")


PLAN = plan_adapted  # of `photofound cost` and the dry run


def main(argv: list[str] | None = None) -> int:
    from photofound.training import launch

    return launch(Config, PreferenceStage, argv, doc=__doc__, plan=PLAN)


if __name__ == "__main__":
    raise SystemExit(main())
