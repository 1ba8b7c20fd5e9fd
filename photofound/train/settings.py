"""What a training can be told: the options that several stages share. Nothing here imports torch.

The text behind a field is its help: ``photofound train STAGE --help`` prints it (``photofound.options``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from photofound.data.sources import Source


@dataclass(frozen=True)
class TrainConfig:
    """What every stage can be told about its run. docs/training.md explains each."""

    steps: int = 100_000  # stop after this many updates
    minutes: float | None = None  # or after this much wall-clock time; the schedule is fitted to whichever ends first
    batch_size: int = 64  # samples per update, over all processes
    micro_batches: int | None = None  # parts that a batch is computed in, over all processes; null = one per process
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    schedule: str = "trapezoid"  # constant | cosine | trapezoid
    optimizer: str = "adamw"  # adamw | muon
    clip: float = 1.0  # largest gradient norm
    ema: float = 0.999
    precision: str = "bf16"  # bf16: autocast with fp32 weights; fp32
    device: str = "auto"  # auto | cpu | cuda
    parallel: str = "ddp"  # ddp | fsdp | hsdp: how several processes share the model
    shard_size: int | None = None  # hsdp: processes that one copy of the model is spread over
    compile: bool = False  # torch.compile, block by block
    checkpoint_activations: bool = False  # compute activations twice instead of keeping them, block by block
    seed: int = 0
    max_skips: int = 20  # steps in a row without a finite loss and gradient that end the run
    log_every: int = 20
    trackers: tuple[str, ...] | None = None  # tensorboard, wandb; None = tensorboard where it is installed
    validate_every: int = 0  # measure what is held out every so many steps; 0 = never
    sample_every: int = 0  # 0 = only at the end
    save_every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "max_skips", "log_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name}: {getattr(self, name)} is too small; it must be at least 1")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"train.minutes: {self.minutes} is no time; give a positive number, or null")
        for name, known in (
            ("precision", ("bf16", "fp32")),
            ("optimizer", ("adamw", "muon")),
            ("schedule", ("constant", "cosine", "trapezoid")),
            ("parallel", ("ddp", "fsdp", "hsdp")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"train.{name}: {getattr(self, name)!r} is unknown; use {' or '.join(known)}")


@dataclass(frozen=True)
class ModelConfig:
    """The transformer's shape, the text encoder's, and which autoencoder."""

    vae: str | None = "embedded"  # a diffusers folder or Hub id; embedded = the embedded model's; none = pixel space
    latent: tuple[int, ...] | None = None  # the autoencoder's [channels, pixels per latent], to plan a run without it
    start: str | None = None  # a pipeline folder to start from; its parts and shapes replace those below
    hidden_size: int = 256
    depth: int = 12
    num_heads: int = 4
    mlp_ratio: float = 3.0
    patch_size: int = 2
    bottleneck_size: int | None = None  # patches enter through this width (pixel space)
    prediction_type: str = "velocity"  # velocity | sample (JiT, arXiv:2511.13720)
    noise_scale: float = 1.0  # standard deviation of the noise
    condition_space: str = "pixels"  # pixels | latents
    text_encoder: str | None = None  # a folder or Hub id of transformers; None = a small byte-level one
    text_width: int = 192  # the text encoder's width
    text_layers: int = 3
    text_length: int = 64  # tokens of a prompt that are read; bytes for the byte-level one
    train_text: bool = True  # whether the text encoder is trained along
    reference: bool = False  # an input for a picture of the wanted surface; a model from ``start`` without it gets it
    reference_size: int = 128  # side of that picture in pixels


@dataclass(frozen=True)
class DataConfig:
    """Photographs: where they are, at which sizes they are kept, how often each source is drawn."""

    folder: str = "data/train"
    drawn: int = 0  # this many drawn pictures instead, to try a run without data
    cache: str | None = None  # a file that keeps the decoded store between runs
    sizes: tuple[int, ...] = (136, 208, 272)  # short sides
    crop: int = 128
    late_crop: int = 128  # the crop after ``late_from``
    late_from: float = 0.7  # share of the run
    late_batch: float = 1.0  # batch size after ``late_from``, as a share of the one before
    weights: dict[str, float] = field(default_factory=dict)  # source -> weight; 1 where it is not named
    limit: int | None = None
    hold_out: int = 0  # every n-th photograph is kept out of training, for measuring; 0 = none
    held_out: tuple[Source, ...] = ()  # or these are measured, which are not among the folder or the sources
    held_out_crops: int = 64  # crops of them that are measured
    recolour: float = 0.0  # share of the objects that get a ground of another colour, named in the prompt
    mirror: bool = True  # mirror every other crop; not for products with words on them
    sources: tuple[Source, ...] = ()  # streamed in aspect buckets, in place of the folder: what memory does not hold
    multiple: int = 32  # sources: the sides of a batch are multiples of it, its area about crop x crop
    widest: float = 2.0  # sources: the most extreme shape of a batch
    workers: int = 2  # sources: processes that decode
    precomputed: tuple[str, ...] = ()  # sources: text, latents: what `prepare` has computed and is not computed again
    log: str | None = None  # sources: a file that names every damaged sample
    exemplars: tuple[str, ...] = ()  # folders of 'prepare --exemplars', one for a crop

    @property
    def turns(self) -> tuple[float, ...]:
        """The shares of the run at which pictures or batches change."""
        return () if (self.late_crop, self.late_batch) == (self.crop, 1) else (self.late_from,)

    def __post_init__(self) -> None:
        if unknown := set(self.precomputed) - {"text", "latents"}:
            raise ValueError(f"data.precomputed: {min(unknown)!r} is unknown; use text and latents")
        if self.hold_out and (self.sources or self.held_out):
            raise ValueError("data.hold_out: divides what lies in memory; name held-out photographs with data.held_out")
        if self.precomputed and not self.sources:
            raise ValueError("data.precomputed: is read with data.sources, and there are none; name the shards there")
        if "latents" not in self.precomputed:
            return
        if self.recolour:
            raise ValueError("data.recolour: changes the pictures that the latents are of; set it to 0")
        if self.late_crop != self.crop and self.late_from < 1:
            raise ValueError(f"data.late_crop: {self.late_crop} is not the size of the latents; set it to {self.crop}")


@dataclass(frozen=True)
class MixConfig:
    """Shares of a batch, and what is dropped from its conditions."""

    RENAMED: ClassVar = {"given_weight": "known_weight"}

    tasks: dict[str, float] = field(
        default_factory=lambda: {
            "generate": 0.08,
            "complete": 0.1,
            "inpaint": 0.22,
            "expand": 0.18,
            "outpaint": 0.2,
            "erase": 0.1,
            "upscale": 0.12,
        }
    )
    drop_text: float = 0.1
    drop_condition: float = 0.02
    drop_both: float = 0.02
    reference: float | None = None  # share that has a reference, of tasks that take one; None = 0.7 if the model does
    known_weight: float = 0.1
    shift: float | None = None  # of the times, towards noise; None = the start model's own, 1 for a new model
    late_shift: float | None = None  # the shift after ``data.late_from``: larger pictures take more; None = the same
    uniform_time: float = 0.1  # share of the times that are uniform over (0, 1), not shifted
    exemplars: float = 0.7  # data.exemplars: share of the holes in given pixels whose canvas is one; the rest: harmonic

    def __post_init__(self) -> None:
        for name in ("shift", "late_shift"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"mix.{name}: {value} must be above 0; 1 shifts nothing")
        if not 0 <= self.uniform_time <= 1:
            raise ValueError(f"mix.uniform_time: {self.uniform_time} must be a share from 0 to 1")


@dataclass(frozen=True)
class RecipeConfig:
    """Published additions to the objective, all off: each is on at a weight above 0. Figures: ``losses``,
    ``flow``."""

    tread: float = 0.0  # share of the tokens that skip the inner blocks; published 0.5
    tread_tokens: int = 0  # only for pictures of at least so many tokens
    repa: float = 0.0  # weight of the alignment with a vision model; published 0.5
    repa_teacher: str | None = None  # a .safetensors file of SqueezeNet, or a transformers folder or Hub id
    repa_block: int | None = None  # whose output is aligned; None = the middle one
    repa_until: float = 0.5  # share of the run after which alignment stops
    lpips: float = 0.0  # weight of the perceptual distance, of decoded latents too; published 0.1 in pixel space
    lpips_net: str | None = None  # a .safetensors file of SqueezeNet
    dino: float = 0.0  # weight of the distance of a vision model's patches; published 0.01 in pixel space
    dino_net: str | None = None  # like repa_teacher
    perceptual_below: float = 0.7  # the two are computed at times below this, where the picture can be seen
    contrastive: float = 0.0  # weight of the distance from other samples' velocities; published 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.tread < 1:
            raise ValueError(f"recipe.tread: {self.tread} must be a share from 0 to less than 1")
        for weight, net in (("repa", "repa_teacher"), ("lpips", "lpips_net"), ("dino", "dino_net")):
            if getattr(self, weight) and not getattr(self, net):
                raise ValueError(f"recipe.{net}: recipe.{weight} needs a network; name a file, a folder or a Hub id")


@dataclass(frozen=True)
class EditConfig:
    """What the stages that train the transformer can be told."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def turns(self) -> tuple[float, ...]:
        """The shares of the run at which its steps change."""
        return (*self.data.turns, *([self.recipe.repa_until] if self.recipe.repa else []))


# --------------------------------------------------------------------------- stages that adapt a trained model


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
class AdaptedModelConfig(ModelConfig):
    """What to start from, and what of it to train."""

    start: str | None = None  # a pipeline folder or Hub id; None = the embedded model
    train: str = "lora"  # lora | full | head: the heads and embeddings of the mix's tasks
    train_text: bool = False  # full: whether the text encoder is trained along
    lora: LoraConfig = field(default_factory=LoraConfig)
    merged: bool = True  # lora: also write the whole pipeline with the LoRA merged into it


@dataclass(frozen=True)
class MeasureConfig:
    """Losses on what is not trained on: the same crops, holes, noise and times whenever they are measured. What
    ``data.hold_out`` keeps back is always among it."""

    times: int = 5  # during the run, the first before its first step; 0 = only at the end
    size: int = 64  # crops of each set


@dataclass(frozen=True)
class AdaptedTrainConfig(TrainConfig):
    """As in every stage, with what suits a small change."""

    steps: int = 1000
    batch_size: int = 16
    lr: float = 5e-4
    weight_decay: float = 0.0
    warmup_steps: int = 20
    ema: float = 0.99
