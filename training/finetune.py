"""Fine-tune on product photographs: a LoRA, all weights, or the head of a new task alone.

    photofound train finetune --config training/configs/finetune-lora.yaml --data.folder=PHOTOS

PHOTOS is a folder of pictures (beside each, where there is one, its caption NAME.txt and its mask NAME.mask.png; or a
metadata.jsonl), of tars or parquet files, or a dataset on the Hub. Three photographs are enough. docs/finetuning.md
tells what to choose and what to expect.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from photofound.data import photos as data
from photofound.data import sources
from photofound.edits.task import Condition, Sample
from photofound.train import trainer
from photofound.train.estimate import Phase
from photofound.training import pretrain
from photofound.training.pretrain import Batch, PretrainStage

LINEAR = (  # of every block; the reference's where there is one
    *("img_qkv_proj", "txt_kv_proj", "to_out.0", "gate_proj", "up_proj", "down_proj"),
    *("reference.kv_proj", "reference.out_proj"),
)


@dataclass(frozen=True)
class LoraConfig:
    """A low-rank addition to linear layers (arXiv:2106.09685): W + alpha / rank * B A."""

    rank: int = 16
    alpha: int = 16
    targets: tuple[str, ...] = LINEAR  # ends of the layers' names


@dataclass(frozen=True)
class ModelConfig(pretrain.ModelConfig):
    """What to start from, and what of it to train."""

    start: str | None = None  # a pipeline folder or Hub id; None = the embedded model
    train: str = "lora"  # lora | full | head: the heads and embeddings of the mix's tasks
    train_text: bool = False  # full: whether the text encoder is trained along
    lora: LoraConfig = field(default_factory=LoraConfig)
    merged: bool = True  # lora: also write the whole pipeline with the LoRA merged into it


@dataclass(frozen=True)
class Photos:
    """Some of a folder's photographs."""

    folder: str | None = None  # None = data.folder
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)  # {label: [Shoes]}: those whose metadata say so
    without: dict[str, tuple[str, ...]] = field(default_factory=dict)  # and not those whose metadata say so
    limit: int | None = None  # so many of them, chosen by a hash of their names


@dataclass(frozen=True)
class DataConfig(pretrain.DataConfig):
    """The photographs to train on, at which sizes and how they are described."""

    folder: str = "photos"
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)
    without: dict[str, tuple[str, ...]] = field(default_factory=dict)
    caption: str | None = None  # the caption of every photograph in place of its own: "a photo of sks mug"
    mirror: bool = False
    late_from: float = 1.0


@dataclass(frozen=True)
class PriorConfig(Photos):
    """Photographs of the product's class, so that the model does not forget what else there is (DreamBooth,
    arXiv:2208.12242, section 3.3). Where the folder has fewer than ``count``, or there is none, the model makes the
    rest itself before it is trained, the same ones each time; the folder is read and never written into."""

    weight: float = 0.0  # the paper's lambda, 1 there; carried out by shares of a batch: 1 = half of it; 0 = off
    prompt: str = ""  # "a photo of a mug": what to make, and the caption of photographs without one
    count: int = 100
    steps: int = 20  # of sampling


@dataclass(frozen=True)
class LossConfig:
    """Masked loss: how much the object and its ground count, by the matte. Photographs without one count evenly."""

    object_weight: float = 1.0
    background_weight: float = 1.0

    def __post_init__(self) -> None:
        if min(self.object_weight, self.background_weight) < 0 or not self.object_weight + self.background_weight:
            raise ValueError(
                f"loss: object_weight {self.object_weight} and background_weight {self.background_weight} must be 0 or "
                "more, one of them above"
            )


@dataclass(frozen=True)
class MeasureConfig:
    """Losses on what is not trained on: the same crops, holes, noise and times whenever they are measured. What
    ``data.hold_out`` keeps back is always among it."""

    times: int = 5  # during the run, the first before its first step; 0 = only at the end
    size: int = 64  # crops of each set


@dataclass(frozen=True)
class ValidationConfig(MeasureConfig):
    """And on further photographs."""

    sets: dict[str, Photos] = field(default_factory=dict)  # name -> which, such as other categories


@dataclass(frozen=True)
class TrainConfig(trainer.TrainConfig):
    """As in every stage, with what suits a small change."""

    steps: int = 1000
    batch_size: int = 16
    lr: float = 5e-4
    weight_decay: float = 0.0
    warmup_steps: int = 20
    ema: float = 0.99


@dataclass(frozen=True)
class Config(pretrain.Config):
    """Everything ``photofound train finetune`` can be told."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


# ------------------------------------------------------------------------------------------------------- photographs


def read(
    folder: str,
    short_side: int,
    only: Mapping[str, Sequence[str]],
    without: Mapping[str, Sequence[str]],
    limit: int | None = None,
) -> list[data.Photograph]:
    """Photographs of any source that ``photofound.data.sources`` reads, chosen by their metadata, scaled down to a
    short side of ``short_side``.

    Damaged ones are left out and named in the log. Raises ValueError when none is left, or when more than 1 % of them
    are damaged.
    """
    source = sources.Source(folder)

    def chosen(row: Mapping[str, Any]) -> bool:
        wanted = all(str(row.get(key)) in values for key, values in only.items())
        return wanted and not any(str(row.get(key)) in values for key, values in without.items())

    ledger = data.Ledger()
    found = (raw for raw in _raws(source, ledger) if chosen(raw.row))
    picked = list(found) if limit is None else heapq.nsmallest(limit, found, key=lambda raw: _hash(Path(raw.name).name))
    ledger.check(least=1)
    if not picked:
        raise ValueError(f"data: {folder} has no photograph with {dict(only)} and without {dict(without)}; change them")
    with ThreadPoolExecutor(4) as pool:
        return data.kept(list(pool.map(lambda raw: _photograph(raw, short_side), picked)))


def _raws(source: sources.Source, ledger: data.Ledger) -> Iterator[sources.Raw]:
    """What the rows of a source hold, without the damaged ones."""
    for row in sources.open_source(source):
        ledger.seen += 1
        try:
            yield sources.raw(row, source)
        except Exception as error:
            ledger.skip(str(row.get("name") or source.path), error)


def _photograph(raw: sources.Raw, short_side: int) -> data.Photograph | tuple[str, Exception]:
    """The photograph, or its name and what is wrong with it."""
    try:
        return sources.photograph(raw, short_side)
    except Exception as error:
        return raw.name, error


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode()).digest()


# ---------------------------------------------------------------------------------------------------- what is trained


def adapt(module: nn.ModuleDict, config: ModelConfig) -> None:
    """Freeze what ``config.train`` does not train, add the LoRA's layers, and keep what is frozen out of checkpoints.

    Raises ValueError for an unknown kind, and for layers that the transformer does not have.
    """
    transformer: Any = module["transformer"]
    if config.train not in ("lora", "full", "head"):
        raise ValueError(f"model.train: {config.train!r} is unknown; use lora, full or head")
    if config.train == "full":
        return
    if config.train_text:
        raise ValueError(f"model.train_text: a text encoder is trained with model.train=full, not {config.train}")
    transformer.requires_grad_(False)
    if config.train == "lora":
        from peft import LoraConfig as PeftConfig

        lora = config.lora
        transformer.add_adapter(PeftConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets)))
    else:  # the heads are stacked; those of tasks that are not in the mix have no gradient
        transformer.heads.requires_grad_(True)
        transformer.task_in.requires_grad_(True)
    _keep_trained_only(module)


def _keep_trained_only(module: nn.Module) -> None:
    """Frozen weights are in no ``state_dict`` of the module, and none is missed when one is loaded."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}

    def saved(_: nn.Module, state: dict[str, Any], prefix: str, __: Any) -> None:
        for name in frozen:
            state.pop(prefix + name, None)

    def loaded(_: nn.Module, incompatible: Any) -> None:
        incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if name not in frozen]

    module.register_state_dict_post_hook(saved)
    module.register_load_state_dict_post_hook(loaded)


def save_lora(pipeline: Any, folder: Path, base: str | None = None) -> None:
    """Write the transformer's LoRA so that ``pipe.load_lora_weights(folder)`` takes it; ``base`` names the model
    that it belongs to."""
    from peft import get_peft_model_state_dict

    settings = pipeline.transformer.peft_config["default"].to_dict() | {"base_model_name_or_path": base}
    pipeline.save_lora_weights(folder, get_peft_model_state_dict(pipeline.transformer), settings)


def merged(pipeline: Any) -> Any:
    """A pipeline with the LoRA added to its weights, and no LoRA."""
    from photofound.model.transformer import EditTransformer

    trained = pipeline.transformer
    transformer: Any = EditTransformer.from_config(trained.config)  # anew: what is sharded cannot be copied
    transformer.add_adapter(trained.peft_config["default"])
    transformer.load_state_dict(trained.state_dict())
    transformer.fuse_lora()
    transformer.unload_lora()
    return type(pipeline).from_pipe(pipeline, transformer=transformer)


@contextmanager
def without_adapters(transformer: Any) -> Iterator[None]:
    """Within the block the transformer computes what it did before a LoRA was added."""
    transformer.disable_adapters()
    try:
        yield
    finally:
        transformer.enable_adapters()


def importance(matte: Tensor, object_weight: float, background_weight: float) -> Tensor | None:
    """(B, 1, H, W): how much each pixel counts, by the matte (B, 1, H, W) in [0, 1]; 1 all over where that is empty.
    None when all count the same."""
    if object_weight == background_weight:
        return None
    weight = torch.lerp(matte.new_full((), background_weight), matte.new_full((), object_weight), matte)
    return torch.where(matte.amax((1, 2, 3), keepdim=True) > 0, weight, 1.0)


# ------------------------------------------------------------------------------------------------------------- stage


class AdaptedStage(PretrainStage):
    """What fine-tuning and preferences share: a trained model of which some weights are frozen, measured on what is
    held out. A subclass supplies ``measure()``."""

    config: Any

    def __init__(self, config: Any, world: trainer.World) -> None:
        super().__init__(_settled(config), world)
        self.first = world.rank == 0
        self.measured = 0  # how often
        self.before: dict[str, float] = {}
        self.after: dict[str, float] = {}
        adapt(self.module, config.model)

    def measure(self) -> dict[str, Tensor]:
        """Named scalars, the same for the same weights. Called without gradients."""
        raise NotImplementedError

    def validate(self) -> dict[str, Tensor]:
        """For ``train.validate_every``: the same, of the averaged weights."""
        return self.measure()

    def measure_in_time(self, progress: float) -> dict[str, Tensor]:
        """``measure()`` when it is time for it at this progress, else nothing."""
        times = self.config.validation.times
        last = times and self.config.train.steps * (1 - progress) < 1.5
        due = times + 1 if last else math.floor(progress * times) + 1 if times else 0
        if due <= self.measured:
            return {}
        self.measured = due
        with torch.no_grad():
            results = self.measure()
        if progress == 0:
            self.before = _numbers(results)
        return results

    def state_dict(self) -> dict[str, Any]:
        """The position in a stream and what was measured, for a run that goes on."""
        return super().state_dict() | {"measured": self.measured, "before": self.before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.measured, self.before = state["measured"], state["before"]
        super().load_state_dict({name: value for name, value in state.items() if name == "position"})

    def sample(self) -> np.ndarray:
        """Pretraining's sheet. The averaged weights, which it shows and which are exported, are measured, too."""
        self.after = _numbers(self.measure())
        return super().sample()

    def export(self, folder: Path) -> None:
        """Write the pipeline, the LoRA below it in ``lora/``, and ``validation.json``."""
        lora = self.config.model.train == "lora"
        folder.mkdir(parents=True, exist_ok=True)
        if lora:
            save_lora(self.pipeline, folder / "lora", self._base())
        if self.config.model.merged or not lora:
            pipeline = merged(self.pipeline) if lora else self.pipeline
            pipeline.save_pretrained(folder, safe_serialization=True)
        (folder / "validation.json").write_text(json.dumps({"before": self.before, "after": self.after}, indent=2))
        for name, value in self.after.items():
            print(f"{name}: {value:.4f}" + (f", before {self.before[name]:.4f}" if name in self.before else ""))

    def _base(self) -> str:
        """The model that the LoRA was trained from, without its path; of a student it is the teacher."""
        from photofound.model.folder import FOR_TEACHER
        from photofound.pipeline import EMBEDDED, EditPipeline

        start = str(self.config.model.start)
        name = "embedded" if start == str(EMBEDDED) else Path(start).name
        return name + FOR_TEACHER * bool(EditPipeline.load_config(start).get("distilled"))


class FinetuneStage(AdaptedStage):
    """Pretraining's stage on few photographs, some weights frozen, others' photographs beside them."""

    config: Config

    def __init__(self, config: Config, world: trainer.World) -> None:
        _check(config)
        super().__init__(config, world)
        left_out = set(self.shares) - set(self.shares_of(self.store, config.data.crop))
        if left_out == set(self.shares):
            raise ValueError(f"data: {', '.join(left_out)} needs whole objects; add masks, or other tasks to mix.tasks")
        if left_out and self.first:
            print(f"data: left out of the mix, for want of a whole object by its mask: {', '.join(sorted(left_out))}")
        self.prior = self._class_photographs().to(self.device) if config.prior.weight else None
        others = {name: self._store(self._read(photos)) for name, photos in config.validation.sets.items()}
        sets = ({} if self.held_out is None else {"held_out": self.held_out}) | others
        size = config.validation.size
        self.exams = {name: self.exam_of(store.to(self.device), size) for name, store in sets.items()}

    # ------------------------------------------------------------------------------------------------------ batches

    def photographs(self) -> data.PhotoStore:
        files = self.config.data
        if files.drawn or files.sources:
            return super().photographs()
        store = self._store(self._read(Photos(files.folder, files.only, files.without, files.limit)))
        if files.caption is not None:
            store.captions = [[files.caption] for _ in store.captions]
        return store

    def _read(self, photos: Photos, caption: str = "") -> list[data.Photograph]:
        """Some photographs; ``caption`` is for those that have none."""
        files = self.config.data
        found = read(photos.folder or files.folder, max(files.sizes), photos.only, photos.without, photos.limit)
        return [photo if photo.caption else replace(photo, caption=caption) for photo in found]

    def _store(self, photographs: Sequence[data.Photograph]) -> data.PhotoStore:
        """They in memory, those before plain grounds with a matte."""
        return data.PhotoStore.build(data.matte_plain_grounds(photographs), self.config.data.sizes)

    def _class_photographs(self) -> data.PhotoStore:
        """What ``PriorConfig`` says: a folder's photographs and, where there is a prompt, made ones up to a number."""
        prior = self.config.prior
        found = self._read(prior, prior.prompt) if prior.folder else []
        if prior.prompt and len(found) < prior.count:
            made = self._imagine(range(len(found), prior.count))
            found += [data.Photograph(pixels, None, prior.prompt, "") for pixels in made]
        return self._store(found)

    def _imagine(self, seeds: range) -> list[Tensor]:
        """The class as the model sees it before it is trained: a picture (3, H, W) uint8 per seed."""
        prior, crop, size = self.config.prior, self.config.data.crop, self.config.train.batch_size
        guidance = self.pipeline.config.default_guidance
        made: list[Tensor] = []
        for part in (seeds[i : i + size] for i in range(0, len(seeds), size)):
            nothing = torch.zeros(len(part), 3, crop, crop)
            wanted = Sample(nothing, nothing[:, :1], [prior.prompt] * len(part))
            generators = [torch.Generator().manual_seed(seed) for seed in part]
            condition = pretrain.generate(wanted, torch.Generator())
            pixels = self.pipeline.sample(condition, prior.steps, guidance, generators)
            made += ((pixels.cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
        return made

    def shares_of(self, store: data.PhotoStore, crop: int) -> dict[str, float]:
        """The tasks to draw from a store, and their shares: what it can show."""
        return self.possible(store, crop)

    def batch(self, generator: torch.Generator, size: int, progress: float) -> Batch:
        """Products and, by the weight of the prior, photographs of their class."""
        prior, loss, crop = self.config.prior, self.config.loss, self.config.data.crop
        if self.config.data.sources:
            condition, sample = self.draw_streamed(crop, size, generator)
            weight = importance(sample.matte, loss.object_weight, loss.background_weight)
            return Batch(condition, sample.pixels, progress, weight, sample.latents, sample.embeddings)
        ordinary = size * prior.weight / (1 + prior.weight)
        whole = int(ordinary + torch.rand((), generator=generator, device=generator.device).item())
        drawn = []
        for store, count in ((self.store, size - whole), (self.prior, whole)):
            if store is not None and count:
                condition, sample = self.draw(store, crop, count, generator)
                matte = sample.matte if store is self.store else torch.zeros_like(sample.matte)  # ground and all
                drawn.append((condition, sample.pixels, matte))
        conditions, pixels, mattes = zip(*drawn, strict=True)
        weight = importance(torch.cat(mattes), loss.object_weight, loss.background_weight)
        return Batch(Condition.cat(conditions), torch.cat(pixels), progress, weight)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss; what is held out is measured beside it when it is time."""
        measured = self.measure_in_time(batch.progress)
        loss, logs = super().loss(batch)
        return loss, logs | measured

    # --------------------------------------------------------------------------------------------------- validation

    def record(self) -> dict[str, Any]:
        """The class's photographs are trained on, too."""
        facts = super().record()
        return facts | {"data": [*facts["data"], *(self.prior.origins() if self.prior else ())]}

    def measure(self) -> dict[str, Tensor]:
        """``loss_NAME`` of every set, all pixels alike, nothing dropped, at times spread evenly over (0, 1)."""
        return {f"loss_{name}": self.loss_on(exam) for name, exam in self.exams.items()}


def plan(config: Any) -> list[Phase]:
    """What one sample takes, with what is frozen and the LoRA: see ``pretrain.plan``."""
    settled = _settled(config)
    return pretrain.plan(settled, lambda module: adapt(module, settled.model))


def _settled(config: Any) -> Any:
    """The configuration with the embedded model filled in, and one crop all along."""
    from photofound.pipeline import EMBEDDED

    model = replace(config.model, start=config.model.start or str(EMBEDDED))
    return replace(config, model=model, data=replace(config.data, late_crop=config.data.crop))


def _check(config: Config) -> None:
    """Refuse what would not do what it says."""
    if config.model.train == "head" and config.train.weight_decay:
        decay = config.train.weight_decay
        raise ValueError(f"train.weight_decay: {decay} would shrink the other tasks' heads, too; set it to 0")
    files = config.data
    if files.sources and (files.only or files.without or files.limit or files.caption or config.prior.weight):
        raise ValueError(
            "data.sources: data.only, .without, .limit, .caption and prior are for data.folder; leave them"
        )
    if config.data.cache:
        raise ValueError("data.cache: fine-tuning reads its photographs anew each time; leave it out")
    if config.prior.weight < 0:
        raise ValueError(f"prior.weight: {config.prior.weight} must be 0 (off) or more")
    if config.prior.weight and not (config.prior.folder or config.prior.prompt):
        raise ValueError('prior: give prior.prompt, like "a photo of a mug", or prior.folder with such photographs')


def _numbers(measured: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in measured.items()}


def main(argv: list[str] | None = None) -> int:
    from photofound.training import launch

    return launch(Config, FinetuneStage, argv, doc=__doc__, plan=plan)


if __name__ == "__main__":
    raise SystemExit(main())
