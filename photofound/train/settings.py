"""The options that several stages share. Nothing here imports torch.

The text behind a field is its help: ``photofound train STAGE --help`` prints it (``photofound.options``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from photofound.data.sources import Source
from photofound.train.idle import StageConfig


@dataclass(frozen=True)
class TrainConfig:
    """The run: how long, how fast, on what, and what is kept of it."""

    steps: int = 100_000  # updates after which the run ends
    minutes: float | None = None  # wall-clock time after which it ends; the schedule is fitted to whichever comes first
    batch_size: int = 64  # samples per update, over all processes
    micro_batches: int | None = None  # parts that a batch is computed in, over all processes; null = one per process
    lr: float = 1e-3  # largest learning rate; prodigy: a factor on the rate that it finds, 1 as a rule
    weight_decay: float = 0.01  # decoupled, of matrices and filters alone
    warmup_steps: int = 100  # steps in which the learning rate rises from 0
    schedule: str = "trapezoid"  # of the learning rate: constant | cosine | trapezoid
    optimizer: str = "adamw"  # adamw | adamw8bit (moments of eight bits) | muon | prodigy | schedulefree
    offload: bool = False  # AdamW and the average of the weights on the CPU, in its memory: slower
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.999  # decay of the moving average of the weights, which is exported; schedulefree has its own
    precision: str = "bf16"  # bf16 (autocast, weights stay float32) | fp32
    device: str = "auto"  # auto | cpu | cuda
    parallel: str = "ddp"  # how several processes share the model: ddp | fsdp | hsdp
    shard_size: int | None = None  # hsdp: processes that one copy of the model is spread over
    timeout: float = 60.0  # minutes after which processes that wait for another one give up; first steps are slow
    compile: bool = False  # torch.compile, block by block
    compile_step: bool = False  # torch.compile of the whole transformer, the loss, the average's update and Muon's work
    fp8: bool = False  # products of the blocks in eight bits, by torchao; GPUs since Ada and Hopper
    checkpoint_activations: bool = False  # compute activations twice instead of keeping them: less memory, more work
    checkpoint_keep: str = "inputs"  # what is kept of a block: its inputs | products (of matrices and attention, too)
    checkpoint_every: int = 1  # ... of every n-th block alone; the others keep all
    seed: int = 0  # of all random numbers of the run
    max_skips: int = 20  # steps in a row without a finite loss and gradient that end the run
    log_every: int = 20  # steps between two lines on the terminal; metrics.jsonl has every step
    peak: float | None = None  # TFLOP/s of a device, for mfu in the log; null = its data sheet's, for bfloat16
    grid: float | None = None  # grams of CO2 of a kilowatt-hour where the run is; null = the mean of the world in 2024
    trackers: tuple[str, ...] | None = None  # tensorboard, wandb; null = tensorboard where it is installed
    patience: int = 0  # end the run after so many measurements of val_loss without a new least one; 0 = never
    validate_every: int = 0  # steps between two measurements of what is held out; 0 = never
    sample_every: int = 0  # steps between two sheets of samples; 0 = only at the end
    save_every: int = 500  # steps between two checkpoints
    save_as: str = "whole"  # checkpoints: whole | shards (each process writes its part while training goes on)
    keep: int = 2  # checkpoints that are kept, the newest ones

    @property
    def compiled(self) -> bool:
        """Whether shapes should stay as they are."""
        return self.compile or self.compile_step

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "max_skips", "log_every", "save_every", "keep", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name}: {getattr(self, name)} is too small; it must be at least 1")
        if self.patience and not self.validate_every:
            raise ValueError("train.patience: nothing is measured on the way; set train.validate_every")
        if self.compile_step and self.parallel != "ddp":
            raise ValueError("train.compile_step: shards are gathered block by block; use train.compile=true")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"train.minutes: {self.minutes} must be above 0; give more, or null for no limit")
        for name, known in (
            ("precision", ("bf16", "fp32")),
            ("optimizer", ("adamw", "adamw8bit", "muon", "prodigy", "schedulefree")),
            ("schedule", ("constant", "cosine", "trapezoid")),
            ("parallel", ("ddp", "fsdp", "hsdp")),
            ("checkpoint_keep", ("inputs", "products")),
            ("save_as", ("whole", "shards")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"train.{name}: {getattr(self, name)!r} is unknown; use {' or '.join(known)}")
        if self.optimizer == "prodigy" and self.lr < 0.1:
            raise ValueError(f"train.lr: {self.lr} is a factor on the rate that prodigy finds; set train.lr=1")
        if self.optimizer == "schedulefree" and self.schedule != "constant":
            raise ValueError(f"train.schedule: {self.schedule} is not for schedulefree; set train.schedule=constant")


@dataclass(frozen=True)
class HubConfig:
    """The finished model on the Hub. Log in before, with 'hf auth login' or HF_TOKEN: no option takes a token."""

    repo_id: str | None = None  # repository that the model is uploaded to at the end, like name/cups; null = none
    private: bool = True  # make it a private one; a public one that is there is then refused


@dataclass(frozen=True)
class ModelConfig:
    """The transformer's shape, the text encoder's, and which autoencoder."""

    vae: str | None = "embedded"  # a diffusers folder or Hub id; embedded = that of the embedded model; none = pixels
    latent: tuple[int, ...] | None = None  # for a plan without the autoencoder: its [channels, pixels per latent]
    start: str | None = None  # a pipeline folder to start from; its parts and shapes replace those below
    hidden_size: int = 256  # width of the transformer
    depth: int = 12  # blocks of the transformer
    num_heads: int = 4  # attention heads; they divide hidden_size
    mlp_ratio: float = 3.0  # width of the MLPs over hidden_size
    patch_size: int = 2  # side of a patch, in latents (in pixels without an autoencoder)
    bottleneck_size: int | None = None  # width through which patches enter (for pixels)
    prediction_type: str = "velocity"  # velocity | sample (the clean picture: JiT, arXiv:2511.13720)
    noise_scale: float = 1.0  # standard deviation of the noise
    condition_space: str = "pixels"  # what the canvas is given in: pixels | latents
    text_encoder: str | None = None  # a folder or Hub id of transformers; null = a small one that reads bytes
    text_width: int = 192  # width of the text encoder
    text_layers: int = 3  # layers of the small text encoder
    text_length: int = 64  # tokens of a prompt that are read; of the small text encoder bytes
    train_text: bool = True  # train the text encoder, too
    frozen: str = "fp32"  # networks that are not trained (text encoder, autoencoder, teachers): fp32 | bf16
    reference: bool = False  # add an input for a picture of the wanted surface; a start model without it gets it
    reference_size: int = 128  # side of that picture in pixels
    fusion: bool = False  # add the layer that recipe.sprint needs; a start model without it gets it

    def __post_init__(self) -> None:
        if self.frozen not in ("fp32", "bf16"):
            raise ValueError(f"model.frozen: {self.frozen!r} is unknown; use fp32 or bf16")


@dataclass(frozen=True)
class DataConfig:
    """Photographs: where they are, how they are cropped, what is held out."""

    folder: str = "data/train"  # folder or URL of WebDataset tars
    drawn: int = 0  # train on this many drawn pictures instead, to try a run without data
    cache: str | None = None  # file that keeps the decoded photographs between runs
    sizes: tuple[int, ...] = (136, 208, 272)  # short sides in pixels at which every photograph is kept
    crop: int = 128  # side of a crop in pixels
    late_crop: int = 128  # the same after late_from
    late_from: float = 0.7  # share of the run after which late_crop, late_batch and mix.late_shift hold
    late_batch: float = 1.0  # batch size after late_from, as a share of the one before
    weights: dict[str, float] = field(default_factory=dict)  # source -> how often it is drawn; 1 where not named
    limit: int | None = None  # read only this many photographs
    hold_out: int = 0  # keep every n-th photograph out of training, to measure on it; 0 = none
    held_out: tuple[Source, ...] = ()  # measure on these sources instead, which are not trained on
    held_out_crops: int = 64  # crops of them that are measured
    recolour: float = 0.0  # share of the objects that get a ground of another colour, named in the prompt
    mirror: bool = True  # mirror every other crop; not for products with words on them
    sources: tuple[Source, ...] = ()  # stream these sources in place of the folder, when they do not fit into memory
    multiple: int = 32  # sources, buckets: the sides of a batch are multiples of it, its area is about crop x crop
    widest: float = 2.0  # sources, buckets: the most extreme aspect of a batch, long side over short side
    shuffle: int = 1024  # sources: photographs that are shuffled together; they lie in memory, encoded
    interleave: int = 16  # sources: shards that are read at once, so that a batch is of many
    workers: int = 2  # sources: processes that decode
    shard_cache: str | None = None  # sources: a folder that keeps shards of URLs; null: in this user's cache
    shard_cache_gb: float = 16.0  # sources: its size at most; 0: shards are read from their URLs
    prefetch: int = 4  # sources: shards of URLs that are fetched before they are read
    precomputed: tuple[str, ...] = ()  # sources: take [text, latents] from the shards; 'prepare' has computed them
    log: str | None = None  # sources: a file that names every damaged sample
    exemplars: tuple[str, ...] = ()  # folders that 'prepare --exemplars' wrote, one for each crop size

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
    RETIRED: ClassVar = {"drop_condition": 0.02}  # drop_both says it, too

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
    )  # task -> its share of a batch, relative to the others
    drop_text: float = 0.1  # share of the samples without a prompt
    drop_both: float = 0.02  # share without prompt and picture; as many lose the picture alone
    reference: float | None = None  # share with a reference, of tasks that take one; null = 0.7 if the model takes one
    known_weight: float = 0.1  # weight of the loss outside the hole
    shift: float | None = None  # shift of the times towards noise; null = that of the start model, 1 for a new one
    late_shift: float | None = None  # the same after data.late_from: larger pictures need more; null = no change
    shift_by_size: bool = False  # late_shift by the sides: shift * late_crop / crop (SD3, arXiv:2403.03206, eq. 23)
    uniform_time: float = 0.1  # share of the times that are uniform over (0, 1), not shifted
    exemplars: float = 0.7  # share of the holes in known pixels whose canvas is an exemplar one (data.exemplars)

    def __post_init__(self) -> None:
        for name in ("shift", "late_shift"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"mix.{name}: {value} must be above 0; 1 shifts nothing")
        if self.shift_by_size and self.late_shift is not None:
            raise ValueError("mix.shift_by_size: mix.late_shift says what the shift is; leave one of them out")
        if not 0 <= self.uniform_time <= 1:
            raise ValueError(f"mix.uniform_time: {self.uniform_time} must be a share from 0 to 1")


@dataclass(frozen=True)
class RecipeConfig:
    """Published additions to the objective, all off; a weight above 0 turns one on. Formulas: ``losses``, ``flow``."""

    tread: float = 0.0  # TREAD: share of the tokens that skip the inner blocks; published 0.5
    tread_tokens: int = 0  # TREAD: only for pictures of at least so many tokens
    sprint: float = 0.0  # SPRINT: share of the tokens that skip the inner blocks (arXiv:2510.21986); published 0.75
    sprint_until: float = 0.9  # SPRINT: share of the run after which all tokens go through every block
    sprint_grid: bool = True  # SPRINT: keep as many tokens of each neighbourhood; false: any
    sprint_drop: float = 0.1  # SPRINT: share of the samples that see the outer blocks alone, for path-drop guidance
    repa: float = 0.0  # REPA: weight of the alignment with a vision model; published 0.5
    repa_teacher: str | None = None  # REPA: a .safetensors file of SqueezeNet, a transformers folder or Hub id
    repa_block: int | None = None  # REPA: block whose output is aligned; null = the middle one
    repa_spatial: bool = False  # iREPA: a convolution as projector, patches normalised (arXiv:2512.10794)
    repa_e: float = 0.0  # REPA-E: weight of REPA in training the autoencoder, too (arXiv:2504.10483); published 1.5
    repa_e_rate: float = 0.1  # REPA-E: learning rate of the autoencoder and of its critic over train.lr
    repa_e_kl: float = 0.0  # REPA-E: weight of the latents' KL divergence, for an AutoencoderKL; published 1e-6
    repa_e_adversarial: float = 0.0  # REPA-E: weight of a critic of the decoded pictures; published 0.1
    repa_until: float = 0.5  # REPA: share of the run after which it stops
    lpips: float = 0.0  # LPIPS: weight of the perceptual distance, of decoded latents, too; published 0.1 for pixels
    lpips_net: str | None = None  # LPIPS: a .safetensors file of SqueezeNet
    dino: float = 0.0  # P-DINO: weight of the distance of a vision model's patches; published 0.01 for pixels
    dino_net: str | None = None  # P-DINO: that model, named like repa_teacher
    perceptual_below: float = 0.7  # LPIPS, P-DINO: only at times below this, where the picture can be seen
    contrastive: float = 0.0  # weight of the distance from other samples' velocities; published 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.tread < 1:
            raise ValueError(f"recipe.tread: {self.tread} must be a share from 0 to less than 1")
        if not 0 <= self.sprint < 1 or not 0 < self.sprint_until <= 1:
            raise ValueError(f"recipe.sprint: {self.sprint} until {self.sprint_until} must be shares from 0 to 1")
        if not 0 <= self.sprint_drop < 1:
            raise ValueError(f"recipe.sprint_drop: {self.sprint_drop} must be a share from 0 to less than 1")
        if self.sprint and self.tread:
            raise ValueError("recipe.sprint: leaves out tokens as recipe.tread does; choose one")
        for name in ("repa_spatial", "repa_e"):
            if getattr(self, name) and not self.repa:
                raise ValueError(f"recipe.{name}: is a kind of REPA; set recipe.repa, too (0.5)")
        if not self.repa_e_rate > 0:
            raise ValueError(
                f"recipe.repa_e_rate: {self.repa_e_rate} must be above 0; set recipe.repa_e=0 to train none"
            )
        for name in ("repa_e_kl", "repa_e_adversarial"):
            if getattr(self, name) and not self.repa_e:
                raise ValueError(f"recipe.{name}: is a part of REPA-E; set recipe.repa_e, too (1.5)")
        for weight, net in (("repa", "repa_teacher"), ("lpips", "lpips_net"), ("dino", "dino_net")):
            if getattr(self, weight) and not getattr(self, net):
                raise ValueError(f"recipe.{net}: recipe.{weight} needs a network; name a file, a folder or a Hub id")

    def skipped(self, progress: float, tokens: int) -> float:
        """The share of a picture's tokens that skip the inner blocks."""
        if self.sprint:
            return self.sprint if progress < self.sprint_until else 0.0
        return self.tread if tokens >= self.tread_tokens else 0.0


@dataclass(frozen=True)
class PromptConfig:
    """Pictures of the same prompts, with each sheet of samples (``train.sample_every``) and at the end: files in
    ``samples/``, and images in the trackers."""

    texts: tuple[str, ...] = ()  # what they are to show; none = no such pictures
    task: str = "generate"  # generate, or an edit of the photograph: outpaint, inpaint, ...
    image: str | None = None  # that photograph
    inputs: dict[str, str] = field(default_factory=dict)  # the edit's other inputs, like {mask_image: mask.png}
    seed: int = 0  # of the noise, the same at each time
    steps: int | None = None  # sampling steps; null = the model's own
    guidance: float | None = None  # guidance scale; null = the model's own


@dataclass(frozen=True)
class EditConfig(StageConfig):
    """The options of the stages that train the transformer."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    hub: HubConfig = field(default_factory=HubConfig)

    def __post_init__(self) -> None:
        if self.mix.shift_by_size and self.data.late_crop == self.data.crop:
            raise ValueError(
                f"mix.shift_by_size: all crops have {self.data.crop} pixels; set data.late_crop, or leave it out"
            )
        if not self.recipe.repa_e:
            return
        if "latents" in self.data.precomputed:
            raise ValueError("recipe.repa_e: changes the latents that data.precomputed has; leave latents out")
        if self.train.checkpoint_activations or self.train.parallel != "ddp":
            raise ValueError("recipe.repa_e: goes with neither train.checkpoint_activations nor shards; leave them out")

    @property
    def turns(self) -> tuple[float, ...]:
        """The shares of the run at which its steps change."""
        recipe = self.recipe
        ends = [recipe.repa_until] * bool(recipe.repa) + [recipe.sprint_until] * bool(recipe.sprint)
        return (*self.data.turns, *ends)


# --------------------------------------------------------------------------- stages that adapt a trained model


LINEAR = (
    "img_qkv_proj",
    "txt_kv_proj",
    "to_out.0",
    "gate_proj",
    "up_proj",
    "down_proj",
    "reference.kv_proj",
    "reference.out_proj",
)
"""The linear layers of every block; the last two where it has a reference."""


@dataclass(frozen=True)
class LoraConfig:
    """A low-rank addition to linear layers (arXiv:2106.09685): W + alpha / rank * B A."""

    rank: int = 16  # rank of the addition
    alpha: int = 16  # its scale is alpha / rank
    rslora: bool = False  # alpha / sqrt(rank) instead, for large ranks (arXiv:2312.03732)
    dora: bool = False  # train the rows' lengths apart from their directions: DoRA (arXiv:2402.09353); slower
    targets: tuple[str, ...] = LINEAR  # layers that get one, by the ends of their names
    start: str | None = None  # a LoRA to go on with: file, folder or Hub id; its rank, alpha, kind and layers hold


@dataclass(frozen=True)
class AdaptedModelConfig(ModelConfig):
    """What to start from, and what of it to train."""

    start: str | None = None  # a pipeline folder or Hub id; null = the embedded model
    train: str = "lora"  # lora | full | head (the heads and embeddings of the mix's tasks)
    train_text: bool = False  # full: train the text encoder, too
    base: str = "fp32"  # lora, head: the frozen weights: fp32 | bf16 | int8 | nf4 (QLoRA, arXiv:2305.14314)
    swap_blocks: int = 0  # lora, head: so many blocks' frozen weights lie in the CPU's memory until they are needed
    lora: LoraConfig = field(default_factory=LoraConfig)
    merged: bool = True  # lora: also write the whole pipeline with the LoRA merged into it

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base not in ("fp32", "bf16", "int8", "nf4"):
            raise ValueError(f"model.base: {self.base!r} is unknown; use fp32, bf16, int8 or nf4")
        if self.lora.start and self.train != "lora":
            raise ValueError(f"model.lora.start: goes with model.train=lora, not {self.train}")
        if self.train == "full" and (self.base != "fp32" or self.swap_blocks):
            raise ValueError("model.base, model.swap_blocks: are for frozen weights; use model.train=lora or head")


@dataclass(frozen=True)
class MeasureConfig:
    """Losses on photographs that are not trained on, such as those of ``data.hold_out``. Crops, holes, noise and times
    are the same at each measurement."""

    times: int = 5  # measurements during the run, the first before its first step; 0 = only at the end
    size: int = 64  # crops of each set


@dataclass(frozen=True)
class AdaptedTrainConfig(TrainConfig):
    """The run, with defaults for a small change."""

    steps: int = 1000
    batch_size: int = 16
    lr: float = 5e-4
    weight_decay: float = 0.0
    warmup_steps: int = 20
    ema: float = 0.99
