"""Fine-tune on product photographs: a LoRA, all weights, or the head of a new task alone.

    photofound train finetune --config training/configs/finetune-lora.yaml --data.folder=PHOTOS

PHOTOS is a folder of pictures (beside each, where there is one, its caption NAME.txt and its mask NAME.mask.png; or a
metadata.jsonl), of tars or parquet files, or a dataset on the Hub. Three photographs are enough. docs/finetuning.md
says what to choose and what to expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from photofound.data import chosen
from photofound.data.buckets import Buckets
from photofound.data.objects import matte_plain_grounds
from photofound.data.photograph import Photograph, random_int
from photofound.data.store import PhotoStore
from photofound.edits.geometry import aspect_buckets
from photofound.edits.task import Condition, Sample
from photofound.train import settings
from photofound.train.adapt import AdaptedStage, plan_adapted
from photofound.train.distributed import World
from photofound.train.mix import Batch, generate
from photofound.training.pretrain import flow_matching_loss


@dataclass(frozen=True)
class Photos:
    """Some of a folder's photographs."""

    folder: str | None = None  # null = data.folder
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)  # {label: [Shoes]}: only what its metadata call so
    without: dict[str, tuple[str, ...]] = field(default_factory=dict)  # not what its metadata call so
    limit: int | None = None  # so many of them, chosen by a hash of their names


@dataclass(frozen=True)
class DataConfig(settings.DataConfig):
    """The photographs to train on, at which sizes and how they are described."""

    folder: str = "photos"  # folder of photographs, tars or parquet files, or a dataset on the Hub
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)  # {label: [Shoes]}: only what its metadata call so
    without: dict[str, tuple[str, ...]] = field(default_factory=dict)  # not what its metadata call so
    caption: str | None = None  # caption of every photograph in place of its own, like "a photo of sks mug"
    repeats: dict[str, float] = field(default_factory=dict)  # folder below it -> how often its photographs count
    repeats_by_name: bool = False  # folders named N_name count N times, as kohya's trainer has it; 0 = left out
    buckets: bool = False  # batches at the photographs' own aspects, of about crop x crop pixels; else squares
    mirror: bool = False
    late_from: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if few := [name for name, times in self.repeats.items() if not times > 0]:
            raise ValueError(f"data.repeats: {few[0]} has {self.repeats[few[0]]}; give more than 0")
        if (self.repeats or self.repeats_by_name or self.buckets) and (self.sources or self.drawn):
            raise ValueError(
                "data.buckets, data.repeats: are for data.folder; a stream has buckets, and weights of its own"
            )


@dataclass(frozen=True)
class PriorConfig(Photos):
    """Photographs of the product's class, so that the model does not forget what else there is (DreamBooth,
    arXiv:2208.12242, section 3.3). Where the folder has fewer than ``count``, or there is none, the model makes the
    rest itself before it is trained, the same ones each time; the folder is read and never written into."""

    weight: float = 0.0  # the paper's lambda, 1 there; it decides their share of a batch: 1 = half of it; 0 = off
    prompt: str = ""  # "a photo of a mug": what to make, and the caption of photographs without one
    count: int = 100  # photographs that there are to be, read and made
    steps: int = 20  # sampling steps of those that are made


@dataclass(frozen=True)
class LossConfig:
    """Masked loss: how much the object and its ground count, by the matte. Photographs without one count evenly."""

    object_weight: float = 1.0  # weight of the object
    background_weight: float = 1.0  # weight of its ground

    def __post_init__(self) -> None:
        if min(self.object_weight, self.background_weight) < 0 or not self.object_weight + self.background_weight:
            raise ValueError(
                f"loss: object_weight {self.object_weight} and background_weight {self.background_weight} must be 0 or "
                "more, one of them above"
            )


@dataclass(frozen=True)
class ValidationConfig(settings.MeasureConfig):
    """And on further photographs."""

    sets: dict[str, Photos] = field(default_factory=dict)  # name -> further photographs, such as other categories


@dataclass(frozen=True)
class Config(settings.EditConfig):
    """The options of ``photofound train finetune``."""

    STAGE: ClassVar = "finetune"

    model: settings.AdaptedModelConfig = field(default_factory=settings.AdaptedModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    train: settings.AdaptedTrainConfig = field(default_factory=settings.AdaptedTrainConfig)


def importance(matte: Tensor, object_weight: float, background_weight: float) -> Tensor | None:
    """(B, 1, H, W): how much each pixel counts, by the matte (B, 1, H, W) in [0, 1]; 1 all over where that is empty.
    None when all count the same."""
    if object_weight == background_weight:
        return None
    weight = torch.lerp(matte.new_full((), background_weight), matte.new_full((), object_weight), matte)
    return torch.where(matte.amax((1, 2, 3), keepdim=True) > 0, weight, 1.0)


class FinetuneStage(AdaptedStage):
    """Pretraining's loss on few photographs, some weights frozen, photographs of the products' class beside them."""

    config: Config

    def __init__(self, config: Config, world: World) -> None:
        _check(config)
        products = _products(config)
        super().__init__(config, world, None if products is None else _stored(config, products))
        possible = self.mixer.possible(self.store, config.data.crop)
        left_out = [name for name in self.mixer.shares if name not in possible]
        if not possible:
            raise ValueError(f"data: {', '.join(left_out)} needs whole objects; add masks, or other tasks to mix.tasks")
        if left_out and world.rank == 0:
            print(f"data: left out of the mix, for want of a whole object by its mask: {', '.join(sorted(left_out))}")
        self.buckets = self._bucketed(products) if config.data.buckets and products is not None else None
        self.prior = self._class_photographs().to(self.device) if config.prior.weight else None
        others = {name: _store(config, _read(config, which)) for name, which in config.validation.sets.items()}
        sets = ({} if self.held_out is None else {"held_out": self.held_out}) | others
        size = config.validation.size
        self.validation_batches = {name: self.fixed_batch(store.to(self.device), size) for name, store in sets.items()}

    def _bucketed(self, products: Sequence[Photograph]) -> Buckets:
        """The photographs to train on, in buckets; those that can be of no use to the mix are left out."""
        data = self.config.data
        trained = [products[index] for index in self.store.photograph.unique().tolist()]
        buckets = Buckets(trained, aspect_buckets(data.crop, data.multiple, data.widest)).to(self.device)
        if buckets.left_out and self.world.rank == 0:
            print(f"data: {buckets.left_out} photographs are too small for their bucket, and are left out")
        buckets.stores = {shape: s for shape, s in buckets.stores.items() if self.mixer.possible(s, shape)}
        if not buckets.stores:
            raise ValueError("data.buckets: no bucket has a photograph that the mix can use; lower data.crop")
        for store in buckets.stores.values():
            if data.caption is not None:
                store.captions = [[data.caption] for _ in store.captions]
        weights = [float(self.mixer.choices(store, shape, False)[1].sum()) for shape, store in buckets.stores.items()]
        self.bucket_weights = weights
        return buckets

    def _class_photographs(self) -> PhotoStore:
        """The prior's photographs: its folder's and, where there is a prompt, ones that the model makes."""
        prior = self.config.prior
        found = _read(self.config, prior, prior.prompt) if prior.folder else []
        if prior.prompt and len(found) < prior.count:
            made = self._generate(range(len(found), prior.count))
            found += [Photograph(pixels, None, prior.prompt, "") for pixels in made]
        return _store(self.config, found)

    def _generate(self, seeds: range) -> list[Tensor]:
        """Pictures (3, H, W) uint8 of the class, one per seed, by the model before it is trained."""
        prior, crop, size = self.config.prior, self.config.data.crop, self.config.train.batch_size
        guidance = self.pipeline.config.default_guidance
        made: list[Tensor] = []
        for part in (seeds[i : i + size] for i in range(0, len(seeds), size)):
            empty = torch.zeros(len(part), 3, crop, crop)
            condition = generate(Sample(empty, empty[:, :1], [prior.prompt] * len(part)), torch.Generator())
            generators = [torch.Generator().manual_seed(seed) for seed in part]
            pixels = self.pipeline.sample(condition, prior.steps, guidance, generators)
            made += ((pixels.cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
        return made

    def shares_for(self, store: PhotoStore, crop: int) -> dict[str, float]:
        """What a store can show: a few photographs without masks are enough."""
        return self.mixer.possible(store, crop)

    def batch(self, generator: torch.Generator, size: int, progress: float) -> Batch:
        """Products and, by the weight of the prior, photographs of their class."""
        prior, crop = self.config.prior, self.config.data.crop
        if self.stream is not None:
            batch = super().batch(generator, size, progress)
            return batch._replace(weight=self._importance(batch.sample.matte))
        if self.buckets is not None:
            cpu = torch.Generator().manual_seed(random_int(2**31, generator))
            shape, bucket = self.buckets.pick(self.bucket_weights, cpu)
            condition, sample = self.mixer.draw(bucket, shape, size, generator, self.mixer.possible(bucket, shape))
            return Batch(condition, sample, progress, self._importance(sample.matte))
        ordinary = size * prior.weight / (1 + prior.weight)
        of_class = int(ordinary + torch.rand((), generator=generator, device=generator.device).item())
        conditions, samples, mattes = [], [], []
        for store, count in ((self.store, size - of_class), (self.prior, of_class)):
            if store is not None and count:
                condition, sample = self.draw(store, crop, count, generator)
                conditions.append(condition)
                samples.append(sample)
                # A photograph of the class counts as a whole, with its ground.
                mattes.append(sample.matte if store is self.store else torch.zeros_like(sample.matte))
        weight = self._importance(torch.cat(mattes))
        return Batch(Condition.cat(conditions), Sample.cat(samples), progress, weight)

    def _importance(self, matte: Tensor) -> Tensor | None:
        return importance(matte, self.config.loss.object_weight, self.config.loss.background_weight)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss; in the log, when due, also the losses on held-out photographs."""
        measured = self.measure_if_due(batch.progress)
        loss, logs = flow_matching_loss(self, batch)
        return loss, logs | measured

    def measure(self) -> dict[str, Tensor]:
        """``loss_NAME`` of every set of photographs: see ``validation_loss``."""
        return {f"loss_{name}": self.validation_loss(batch) for name, batch in self.validation_batches.items()}

    def record(self) -> dict[str, Any]:
        """The class's photographs are trained on, too."""
        facts = super().record()
        return facts | {"data": [*facts["data"], *(self.prior.origins() if self.prior else ())]}


def _products(config: Config) -> list[Photograph] | None:
    """The products, those on plain grounds with a matte; None where they are drawn or streamed, which the stage does
    itself."""
    data = config.data
    if data.drawn or data.sources:
        return None
    which = Photos(data.folder, data.only, data.without, data.limit)
    return matte_plain_grounds(_read(config, which, repeats=data.repeats, repeats_by_name=data.repeats_by_name))


def _stored(config: Config, products: Sequence[Photograph]) -> PhotoStore:
    """The products in memory, by the caption that replaces theirs."""
    store = PhotoStore.build(products, config.data.sizes)
    if config.data.caption is not None:
        store.captions = [[config.data.caption] for _ in store.captions]
    return store


def _read(config: Config, which: Photos, caption: str = "", **more: Any) -> list[Photograph]:
    """Photographs; those without a caption get ``caption``."""
    data = config.data
    chosen_by = which.only, which.without, which.limit
    found = chosen.read(which.folder or data.folder, max(data.sizes), *chosen_by, **more)
    return [photo if photo.caption else replace(photo, caption=caption) for photo in found]


def _store(config: Config, photographs: Sequence[Photograph]) -> PhotoStore:
    """Photographs in memory; those on plain grounds get a matte."""
    return PhotoStore.build(matte_plain_grounds(photographs), config.data.sizes)


def _check(config: Config) -> None:
    """Raise ValueError for options that would not do what they say."""
    config.refuse_idle()
    if config.model.train == "head" and config.train.weight_decay:
        decay = config.train.weight_decay
        raise ValueError(f"train.weight_decay: {decay} would shrink the other tasks' heads, too; set it to 0")
    data = config.data
    if data.sources and (data.only or data.without or data.limit or data.caption or config.prior.weight):
        raise ValueError(
            "data.sources: data.only, .without, .limit, .caption and prior are for data.folder; leave them"
        )
    if data.buckets and config.prior.weight:
        raise ValueError(
            "data.buckets: photographs of the class are squares, and a batch has one shape; leave prior out"
        )
    if config.prior.weight < 0:
        raise ValueError(f"prior.weight: {config.prior.weight} must be 0 (off) or more")
    if config.prior.weight and not (config.prior.folder or config.prior.prompt):
        raise ValueError('prior: give prior.prompt, like "a photo of a mug", or prior.folder with such photographs')


PLAN = plan_adapted  # of `photofound cost` and the dry run


def main(argv: list[str] | None = None) -> int:
    from photofound.training import launch

    return launch(Config, FinetuneStage, argv, doc=__doc__, plan=PLAN)


if __name__ == "__main__":
    raise SystemExit(main())
