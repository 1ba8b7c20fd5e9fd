"""Train the one transformer on everything at once: text-to-image, MAE-style completion and the edits.

    photofound train pretrain --config training/configs/nano-cpu.yaml --data.folder=DIR --model.vae=DIR

Every batch mixes tasks. Photographs lie in memory as uint8, or are streamed in aspect buckets with
--data.sources="[{path: SHARDS}]"; masks, conditions and target latents are made in batches on the device.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from photofound.card import record
from photofound.card.record import Origin
from photofound.data import drawn, photos, precomputed
from photofound.data.exemplars import Exemplars
from photofound.data.sources import Source
from photofound.data.stream import Stream, check_sizes, photographs
from photofound.edits import masks
from photofound.edits import reference as references
from photofound.edits.colours import recoloured
from photofound.edits.composite import harmonic
from photofound.edits.geometry import aspect_buckets
from photofound.edits.task import Condition, Sample, Task, get_task, is_regression
from photofound.model import autoencoder, flow, layers, text, vision
from photofound.train import losses, optim
from photofound.train.estimate import Phase, muon_flops
from photofound.train.trainer import TrainConfig, World

SHOWN = 256  # photographs of a stream that are kept for the sheets of samples


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
        if unknown := set(self.precomputed) - set(precomputed.KINDS):
            raise ValueError(f"data.precomputed: {min(unknown)!r} is unknown; use {' and '.join(precomputed.KINDS)}")
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
    given_weight: float = 0.1
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
class Config:
    """Everything ``photofound train pretrain`` can be told."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def turns(self) -> tuple[float, ...]:
        """The shares of the run at which its steps change."""
        return (*self.data.turns, *([self.recipe.repa_until] if self.recipe.repa else []))


def generate(sample: Sample, generator: torch.Generator) -> Condition:
    """Text to image: nothing is given."""
    canvas, hole = torch.zeros_like(sample.pixels), torch.ones_like(sample.pixels[:, :1])
    return _trunk(sample, canvas, hole)


def complete(sample: Sample, generator: torch.Generator) -> Condition:
    """MAE-style completion of hidden patches."""
    hole = masks.patches(len(sample), tuple(sample.pixels.shape[-2:]), generator)
    return _trunk(sample, harmonic(sample.pixels, hole == 0), hole)


def _trunk(sample: Sample, canvas: Tensor, hole: Tensor) -> Condition:
    """A condition for the trunk's own head, which no edit uses."""
    return Condition(canvas, hole, ["generate"] * len(sample), sample.prompt, hole.new_zeros(len(sample)))


PRETEXT = {"generate": generate, "complete": complete}


def build_pipeline(config: ModelConfig, tasks: list[str]) -> Any:
    """An EditPipeline to train: from ``config.start``, or new around the autoencoder."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from photofound.model.transformer import EditTransformer
    from photofound.pipeline import EditPipeline

    if config.start:
        pipeline = EditPipeline.from_pretrained(config.start, torch_dtype=torch.float32)
        if pipeline.config.distilled:  # a few-step student is trained from where it came from
            pipeline = EditPipeline.from_pretrained(config.start, teacher=True, torch_dtype=torch.float32)
        _add_inputs(pipeline.transformer, tasks, config)
        pipeline.register_to_config(_name_or_path=None)  # its card is not that of what becomes of it
        return pipeline
    vae = autoencoder.load(config.vae)
    if config.text_encoder:
        tokenizer, encoder = text.load(config.text_encoder)
    else:
        tokenizer, encoder = text.build_byte_encoder(config.text_width, config.text_layers)
    if (width := encoder.get_input_embeddings().embedding_dim) != config.text_width:
        raise ValueError(f"model.text_width: {config.text_width}, but {config.text_encoder} gives {width}; set {width}")
    transformer = EditTransformer(**_transformer_options(config, tasks, vae))
    scheduler = FlowMatchEulerDiscreteScheduler()
    return EditPipeline(transformer, vae, encoder, tokenizer, scheduler, noise_scale=config.noise_scale)


def _transformer_options(config: ModelConfig, tasks: list[str], vae: Any | None) -> dict[str, Any]:
    """Arguments of a new EditTransformer around an autoencoder, or around the outline of one."""
    from photofound.pipeline import condition_channels

    if vae is None and config.condition_space == "latents":
        raise ValueError("model.condition_space: there are no latents without an autoencoder; use pixels")
    names = ("patch_size", "hidden_size", "mlp_ratio", "num_heads", "depth", "bottleneck_size", "prediction_type")
    return {
        **{name: getattr(config, name) for name in (*names, "condition_space")},
        "in_channels": autoencoder.channels(vae),
        "context_in_dim": config.text_width,
        "condition_channels": condition_channels(vae, config.condition_space),
        "tasks": ("generate", *tasks),
        "reference_embeds": config.reference,
        "reference_size": config.reference_size,
    }


def _add_inputs(transformer: Any, tasks: list[str], config: ModelConfig) -> None:
    """Give a transformer the tasks and the reference input that it does not have."""
    for task in tasks:
        if task not in transformer.config.tasks:
            transformer.add_task(task)
    if config.reference:
        transformer.add_reference(config.reference_size)


def plan(config: Config, adapt: Callable[[nn.ModuleDict], None] | None = None) -> list[Phase]:
    """What one sample takes in this run, early and, where that differs, late in it.

    Computed on the meta device: no memory, no data, no weights; of ``model.vae``, ``model.start`` and the other
    networks only a folder's configuration is read, and where they are not here, ``model.latent`` and the other shapes
    given count. ``parameters``, ``tokens`` and ``flops`` are of the transformer, TREAD's savings included; ``work``
    counts the frozen networks that are here, too.

    Args:
        adapt: what freezes a part of the weights and adds a LoRA.

    Raises ValueError where the configuration does not fit together.
    """
    outline = _Outline.of(config, adapt)
    turns = sorted({0.0, *(turn for turn in config.data.turns if 0 < turn < 1), 1.0})
    return [outline.phase(since, until) for since, until in itertools.pairwise(turns)]


@dataclass(frozen=True)
class _Outline:
    """A run's networks without their weights, to count what it takes; None for one that is not used or not here."""

    config: Config
    transformer: Any
    trained: nn.ModuleDict  # the transformer again, with its LoRA, and the text encoder if that is trained
    vae: Any
    text_encoder: Any
    teacher: Any
    lpips: Any
    dino: Any

    @classmethod
    def of(cls, config: Config, adapt: Callable[[nn.ModuleDict], None] | None) -> _Outline:
        from photofound.model.transformer import EditTransformer

        model, recipe = config.model, config.recipe
        edits = [name for name, share in config.mix.tasks.items() if share > 0 and name not in PRETEXT]
        start = Path(model.start) if model.start else None
        here = start is not None and (start / "transformer" / "config.json").is_file()
        inside = str(start / "vae") if start and (start / "vae").is_dir() else None
        vae = autoencoder.outline(inside if here else model.vae, model.latent)
        with torch.device("meta"):
            if here:
                shape = EditTransformer.load_config(start, subfolder="transformer")
                transformer: Any = EditTransformer.from_config(shape)
                _add_inputs(transformer, edits, model)
            else:
                transformer = EditTransformer(**_transformer_options(model, edits, vae))
            encoder = _text_outline(start if here else None, model)
            trained = nn.ModuleDict({"transformer": EditTransformer.from_config(transformer.config)})
            if model.train_text and encoder is not None:
                trained["text_encoder"] = encoder
            if adapt:
                adapt(trained)
        wanted = (recipe.repa, recipe.repa_teacher), (recipe.lpips, recipe.lpips_net), (recipe.dino, recipe.dino_net)
        networks = [vision.outline(source) if weight else None for weight, source in wanted]
        return cls(config, transformer, trained, vae, encoder, *networks)

    def phase(self, since: float, until: float) -> Phase:
        """A sample between two shares of the run."""
        files, recipe, shape = self.config.data, self.config.recipe, self.transformer.config
        crop, batch = (files.late_crop, files.late_batch) if since >= files.late_from else (files.crop, 1.0)
        factor = autoencoder.factor(self.vae)
        skip = recipe.tread if (crop // factor // shape.patch_size) ** 2 >= recipe.tread_tokens else 0.0
        seen = (shape.reference_size // factor,) * 2 if shape.reference_embeds else None
        cost = self.transformer.cost(crop // factor, crop // factor, self.config.model.text_length, skip, seen)
        aligned = max(0.0, min(until, recipe.repa_until) - since) / (until - since)

        weights = dict(self.trained["transformer"].named_parameters())
        lora = sum(p.numel() for name, p in weights.items() if "lora_" in name)
        blocks = [p for name, p in weights.items() if name.startswith("blocks.") and "lora_" not in name]
        passes = 3 if any(p.requires_grad for p in blocks) else 2  # what is frozen has no gradient of its own
        passes += self.config.train.checkpoint_activations
        work = float(passes * cost.flops + 6 * lora * cost.tokens)
        counted, missing = ["transformer", *["LoRA"] * bool(lora)], list[str]()
        for name, network, times, call in self._beside(crop, aligned):
            if times:
                flops = _flops(network, call)
                (missing if flops is None else counted).append(name)
                work += times * (flops or 0)
        return Phase(
            cost.parameters,
            cost.tokens,
            cost.flops,
            work,
            update=float(sum(muon_flops(p.shape) for p in self._muon())),
            memory=self._memory(),
            share=until - since,
            batch=batch,
            counted=(*counted, self.config.train.optimizer),
            missing=tuple(missing),
        )

    def _beside(self, crop: int, aligned: float) -> Iterator[tuple[str, Any, float, Callable[[Any], Any]]]:
        """What a sample goes through beside the transformer: a name, the network, how often (a backward pass counts as
        one, or two where weights are trained), and how."""
        files, recipe, length = self.config.data, self.config.recipe, self.config.model.text_length
        with torch.device("meta"):
            picture, tokens = torch.empty(1, 3, crop, crop), torch.empty(1, length, dtype=torch.long)
            if self.vae is not None:
                side = crop // autoencoder.factor(self.vae)
                latents = torch.empty(1, autoencoder.channels(self.vae), side, side)
        near = 3 * recipe.perceptual_below
        if self.vae is not None:
            encodings = ("latents" not in files.precomputed) + (self.transformer.config.condition_space == "latents")
            yield "autoencoder", self.vae, encodings, lambda net: net.encode(picture)
            decodings = 2 * recipe.perceptual_below * bool(recipe.lpips or recipe.dino)
            yield "decoder", self.vae, decodings, lambda net: net.decode(latents)
        reads = 0 if "text" in files.precomputed else 3 if "text_encoder" in self.trained else 1
        yield "text encoder", self.text_encoder, reads, lambda net: net(input_ids=tokens)
        yield "REPA's teacher", self.teacher, aligned * bool(recipe.repa), lambda net: net.patches(picture)
        yield "LPIPS", self.lpips, near * bool(recipe.lpips), lambda net: net(picture)
        shown = torch.empty(1, 3, losses.SHOWN, losses.SHOWN, device="meta")
        yield "P-DINO", self.dino, near * bool(recipe.dino), lambda net: net.patches(shown)

    def _muon(self) -> list[nn.Parameter]:
        """The matrices that Muon trains."""
        if self.config.train.optimizer != "muon":
            return []
        model: Any = self.trained["transformer"]
        return [p for p in optim.matrices(model.blocks) if p.requires_grad]

    def _memory(self) -> float:
        """Bytes of all weights and, of those that are trained, gradients, moments (Muon has one) and average."""
        networks = (self.trained, self.vae, self.text_encoder, self.teacher, self.lpips, self.dino)
        modules = [network for network in networks if isinstance(network, nn.Module)]
        weights = {id(p): p.numel() for module in modules for p in module.parameters()}
        trained = sum(p.numel() for p in self.trained.parameters() if p.requires_grad)
        return 4.0 * (sum(weights.values()) + 4 * trained - sum(p.numel() for p in self._muon()))


def _text_outline(start: Path | None, model: ModelConfig) -> Any | None:
    """The text encoder without weights: a start folder's, the byte-level one, or a folder's; None for one that is not
    here."""
    folder = start / "text_encoder" if start else Path(model.text_encoder) if model.text_encoder else None
    if folder is None:
        return text.build_byte_encoder(model.text_width, model.text_layers)[1]
    return text.outline(folder)


def _flops(net: Any, call: Callable[[Any], Any]) -> int | None:
    """FLOP of a network on the meta device; None for one that is not here, or that cannot be counted there."""
    from torch.utils.flop_counter import FlopCounterMode

    if not isinstance(net, nn.Module):
        return None
    try:
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            call(net)
    except Exception:  # what a network does beyond shapes
        return None
    return int(counter.get_total_flops())


class Batch(NamedTuple):
    """What ``PretrainStage.loss`` takes: conditions, target pixels (B, 3, H, W), the share of the run that is over,
    how much each pixel of the target counts, (B, 1, H, W), None = all the same; and what was computed before: the
    target's latents (B, C, h, w), and the embeddings (L, D) of prompts."""

    condition: Condition
    pixels: Tensor
    progress: float
    weight: Tensor | None = None
    latents: Tensor | None = None
    embeddings: Mapping[str, Tensor] = {}


class PretrainStage:
    """What the trainer needs: see ``photofound.train.trainer.Stage``."""

    streams = True  # whether the stage can read ``data.sources``

    def __init__(self, config: Config, world: World) -> None:
        self.config, self.device = config, world.device
        torch.manual_seed(config.train.seed)
        self.shares = {name: share for name, share in config.mix.tasks.items() if share > 0}
        edits = [name for name in self.shares if name not in PRETEXT]
        self.examples = {name: PRETEXT[name] if name in PRETEXT else get_task(name).example for name in self.shares}
        self.tasks: dict[str, Task] = {name: get_task(name) for name in edits}
        self.objects = {name: name in edits and get_task(name).needs_object for name in self.shares}
        self.pipeline = build_pipeline(config.model, edits)
        self.early_shift = config.mix.shift or float(self.pipeline.scheduler.config.shift)
        self._sample_as_trained()
        self.pipeline.to(self.device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.vae = self.pipeline.vae.requires_grad_(False).eval() if self.pipeline.vae is not None else None
        self.module = nn.ModuleDict({"transformer": self.pipeline.transformer})
        if config.model.train_text:
            self.module["text_encoder"] = self.pipeline.text_encoder
        else:
            self.pipeline.text_encoder.requires_grad_(False).eval()
        self.reference_share = _reference_share(config.mix.reference, self.pipeline)
        self._add_networks(config.recipe)
        self.module.requires_grad_(True).train()
        self.blocks: list[nn.Module] = list(self.pipeline.transformer.blocks)
        self.world, self.streamed = world, (0, 0)
        self.stream: Stream | None = None
        self._position: dict[str, Any] = {}
        self._check_precomputed()
        self.store = self.photographs().to(self.device)
        self.held_out: photos.PhotoStore | None = None
        if config.data.hold_out:
            self.store, self.held_out = hold_out(self.store, config.data.hold_out)
        elif config.data.held_out:
            self.held_out = self._some_of(config.data.held_out).to(self.device)
        elif config.train.validate_every:
            raise ValueError("train.validate_every: nothing is held out; set data.hold_out or data.held_out")
        self.exemplars = {each.crop: each for each in map(Exemplars, config.data.exemplars)}
        if stray := set(self.exemplars) - {config.data.crop, config.data.late_crop}:
            raise ValueError(f"data.exemplars: crops of {min(stray)} pixels are not those of this run; leave them out")
        if world.rank == 0 and (line := self._cut_captions()):
            print(line)
        self._rows: WeakKeyDictionary[photos.PhotoStore, dict[tuple[int, bool], tuple[Tensor, Tensor]]]
        self._rows = WeakKeyDictionary()  # not by id(), which a store of later may have again
        self.last_crop = config.data.late_crop if config.data.late_from < 1 else config.data.crop
        self._check_sizes()

    def photographs(self) -> photos.PhotoStore:
        """All photographs, those to be held out among them."""
        files = self.config.data
        if files.drawn:
            return drawn.store(files.drawn, files.sizes)
        if files.sources:  # enough of them for the sheets of samples
            if not self.streams:
                raise ValueError("data.sources: this stage does not stream; name a folder with data.folder")
            return self._some_of(files.sources)
        return photos.PhotoStore.open(files.folder, files.sizes, files.cache, files.limit, mattes=True)

    def _cut_captions(self) -> str:
        """What to tell of captions whose ends are not read; empty where there are none."""
        if (tokenizer := self.pipeline.tokenizer) is None:
            return ""
        captions = [max(several, key=len, default="") for several in self.store.captions[:1000]]
        most = self.config.model.text_length
        if not (cut := sum(bool(text.unread(tokenizer, caption, most)) for caption in captions)):
            return ""
        few = f"data: {cut} of {len(captions)} captions have more than the {most} tokens of text_length"
        return f"{few}; their ends are not read"

    def _some_of(self, sources: Sequence[Source]) -> photos.PhotoStore:
        """The first photographs of sources, in memory."""
        sizes = self.config.data.sizes
        return photos.PhotoStore.build(photographs(sources, SHOWN, max(sizes)), sizes)

    def _check_precomputed(self) -> None:
        """Refuse embeddings and latents of other networks or pictures than this run's."""
        files, model, mine = self.config.data, self.config.model, {}
        if "text" in files.precomputed:
            if "text_encoder" in self.module:
                raise ValueError(
                    "model.train_text: embeddings are of the encoder before it is trained; set it to false"
                )
            parts = self.pipeline.tokenizer, self.pipeline.text_encoder
            mine["text"] = precomputed.text_maker(*parts, model.text_length)
        if "latents" in files.precomputed:
            if self.vae is None:
                raise ValueError("data.precomputed: there are no latents without an autoencoder; leave them out")
            mine["latents"] = precomputed.latents_maker(self.vae, files.crop, files.multiple, files.widest)
        for source, (kind, maker) in itertools.product(files.sources, mine.items()):
            precomputed.check(source, kind, maker)

    def _check_sizes(self) -> None:
        """Refuse before the first step what would stop the run when pictures grow, or at its end, on its sheet."""
        files, recipe, shape = self.config.data, self.config.recipe, self.pipeline.transformer.config
        token = autoencoder.factor(self.vae) * shape.patch_size
        if files.sources and files.multiple % token:
            raise ValueError(f"data.multiple: {files.multiple} is no multiple of a token's {token} pixels; give one")
        for name, crop in {"crop": files.crop, "late_crop": self.last_crop}.items():
            if crop % token:
                raise ValueError(f"data.{name}: {crop} is no multiple of a token's {token} pixels; give one")
            routed = recipe.tread and (crop // token) ** 2 >= recipe.tread_tokens
            if routed and not self.pipeline.transformer.route_span:
                raise ValueError(f"recipe.tread: a route needs a depth of at least 6, and this is {shape.depth}")
            if files.sources:
                check_sizes(files.sources, aspect_buckets(crop, files.multiple, files.widest))
        crops = {self.last_crop} if files.sources else {files.crop, self.last_crop}  # a stream's store is for sheets
        for crop in crops:
            if files.sources and max(files.sizes) < crop:
                raise ValueError(
                    f"data.sizes: sheets of samples show crops of {crop} pixels, and {max(files.sizes)} is the largest "
                    "size; add a larger one"
                )
            for name in self.shares_of(self.store, crop):
                self._choices(self.store, crop, self.objects[name])
        parts = self.config.train.micro_batches or self.world.size
        least = self.batch_size(self.config.train.batch_size // parts, 1.0)
        if recipe.contrastive and least < 2:
            raise ValueError(f"recipe.contrastive: needs two samples at a time, and late batches have {least}")

    def _add_networks(self, recipe: RecipeConfig) -> None:
        """Load the frozen networks of the recipe; REPA's projector is trained along, and forgotten at the end."""
        model = self.pipeline.transformer
        self.tap: int | None = None
        if recipe.repa:
            self.tap = model.config.depth // 2 if recipe.repa_block is None else recipe.repa_block
            self.teacher = vision.load_vision_model(str(recipe.repa_teacher)).to(self.device)
            projector = losses.Projector(model.config.hidden_size, self.teacher.width)
            self.module["projector"] = projector.to(self.device)
        if recipe.lpips:
            self.lpips_net = vision.PerceptualNet.from_file(str(recipe.lpips_net)).to(self.device)
        if recipe.dino:
            self.dino_net = vision.load_vision_model(str(recipe.dino_net)).to(self.device)

    # ------------------------------------------------------------------------------------------------------ batches

    def batch_size(self, size: int, progress: float) -> int:
        """Late in the run, when pictures are larger, batches may be smaller."""
        late = progress >= self.config.data.late_from
        return max(1, round(size * self.config.data.late_batch)) if late else size

    def batch(self, generator: torch.Generator, size: int, progress: float) -> Batch:
        """A mixed batch."""
        late = progress >= self.config.data.late_from
        crop = self.config.data.late_crop if late else self.config.data.crop
        if self.config.data.sources:
            condition, sample = self.draw_streamed(crop, size, generator)
        else:
            condition, sample = self.draw(self.store, crop, size, generator)
        return Batch(condition, sample.pixels, progress, None, sample.latents, sample.embeddings)

    def draw_streamed(self, crop: int, size: int, generator: torch.Generator) -> tuple[Condition, Sample]:
        """The stream's next photographs and their conditions, in the tasks' shares as far as there are whole objects
        for those that need one."""
        if self.streamed != (crop, size):
            self._open_stream(crop, size)
        sample, cpu = next(self._samples), torch.Generator().manual_seed(photos.random_int(2**31, generator))
        whole = torch.tensor([photos.holds_object(matte) for matte in sample.matte])
        conditions, samples = [], []
        for name, index in _assign(self.shares, self.objects, whole, cpu).items():
            others = sample[torch.randint(len(sample), (len(index),), generator=cpu)] if self._mixes(name) else None
            condition, part = self._part(name, sample[index], others, generator, cpu)
            conditions.append(condition)
            samples.append(part)
        return Condition.cat(conditions), Sample.cat(samples)

    def _mixes(self, name: str) -> bool:
        """Whether a task wants other photographs beside its own."""
        return name in self.tasks and self.tasks[name].needs_others

    def _part(
        self, name: str, sample: Sample, others: Sample | None, generator: torch.Generator, cpu: torch.Generator
    ) -> tuple[Condition, Sample]:
        """A task's part of a batch: its conditions, and its samples with the task's targets for pixels."""
        if self.objects[name]:
            sample = recoloured(sample, self.config.data.recolour, cpu)
        if name not in self.tasks:
            return self.examples[name](sample, generator), sample
        task = self.tasks[name]
        sample = task.compose(sample, others, generator)
        condition, target = self.examples[name](sample, generator), task.target(sample)
        condition = self._referred(name, condition, sample, generator)
        if target is not sample.pixels:
            latents = None if sample.latents is None else self.encode(target).to(sample.latents)
            sample = replace(sample, pixels=target, latents=latents)
        return condition, sample

    def _open_stream(self, crop: int, size: int) -> None:
        """Stream batches of this shape from here on, from where the last ones ended."""
        files, position = self.config.data, self.state_dict()
        self.stream = Stream(
            files.sources,
            size,
            aspect_buckets(crop, files.multiple, files.widest),
            seed=self.config.train.seed,
            rank=self.world.rank,
            world=self.world.size,
            workers=files.workers,
            flip=files.mirror,
            made_before=files.precomputed,
            device=self.device,
            log=Path(files.log) if files.log else None,
        )
        self.stream.load_state_dict(position)
        self._samples, self.streamed = iter(self.stream), (crop, size)

    def state_dict(self) -> dict[str, Any]:
        """The position in the stream; empty for photographs in memory, which have none."""
        return self._position if self.stream is None else self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._position, self.stream, self.streamed = state, None, (0, 0)

    def draw(
        self, store: photos.PhotoStore, crop: int, size: int, generator: torch.Generator
    ) -> tuple[Condition, Sample]:
        """``size`` crops of a store's photographs, with the tasks' targets for pixels, and their conditions, in the
        tasks' shares."""
        cpu = torch.Generator().manual_seed(photos.random_int(2**31, generator))
        conditions, samples = [], []
        for name, count in _counts(self.shares_of(store, crop), size, cpu).items():
            if store is self.store and (made := self._filled(name, crop, count, generator, cpu)):
                conditions.append(made[0])
                samples.append(made[1])
                if not (count := count - len(made[1])):
                    continue
            rows, weights = self._choices(store, crop, self.objects[name])
            picks = rows[torch.multinomial(weights, count, replacement=True, generator=cpu)]
            sample = store.sample(picks, crop, self.objects[name], cpu, self.config.data.mirror)
            others = self._others(store, crop, count, cpu) if self._mixes(name) else None
            condition, sample = self._part(name, sample, others, generator, cpu)
            conditions.append(condition)
            samples.append(sample)
        return Condition.cat(conditions), Sample.cat(samples)

    def _others(self, store: photos.PhotoStore, crop: int, count: int, cpu: torch.Generator) -> Sample:
        """Crops of any photographs of a store."""
        rows, weights = self._choices(store, crop, False)
        picks = rows[torch.multinomial(weights, count, replacement=True, generator=cpu)]
        return store.sample(picks, crop, False, cpu, self.config.data.mirror)

    def _filled(
        self, name: str, crop: int, count: int, generator: torch.Generator, cpu: torch.Generator
    ) -> tuple[Condition, Sample] | None:
        """About ``mix.exemplars`` of a task's part of a batch, with canvases that were made ahead; None of a task or a
        crop that there are none for."""
        known = self.exemplars.get(crop)
        rows = None if known is None else known.rows(name)
        if known is None or rows is None or not len(rows):  # nothing is drawn, so that runs without stay as they were
            return None
        if not (wanted := int((torch.rand(count, generator=cpu) < self.config.mix.exemplars).sum())):
            return None
        condition, sample = known.sample(rows[torch.randint(len(rows), (wanted,), generator=cpu)], self.device)
        return self._referred(name, condition, sample, generator), sample

    def _referred(self, name: str, condition: Condition, sample: Sample, generator: torch.Generator) -> Condition:
        """Some of a task's conditions get a piece of the target's own surface as a reference."""
        if not self.reference_share or name not in self.tasks or not self.tasks[name].takes_reference:
            return condition
        share, size = self.reference_share, self.pipeline.transformer.config.reference_size
        return references.with_references(condition, sample, self.objects[name], share, size, generator)

    def shares_of(self, store: photos.PhotoStore, crop: int) -> dict[str, float]:
        """The tasks to draw from a store, and their shares: all, but for what held-out photographs, and those of a
        stream that are kept for sheets, cannot show."""
        return self.shares if store is self.store and not self.config.data.sources else self.possible(store, crop)

    def possible(self, store: photos.PhotoStore, crop: int) -> dict[str, float]:
        """The mix without the tasks that need whole objects where a store has none."""
        return {n: share for n, share in self.shares.items() if not self.objects[n] or len(store.rows(crop, True))}

    def _choices(self, store: photos.PhotoStore, crop: int, objects: bool) -> tuple[Tensor, Tensor]:
        """A store's rows that fit and their weights."""
        known = self._rows.setdefault(store, {})
        if (crop, objects) not in known:
            rows = store.rows(crop, objects)
            if not len(rows):
                whole = " with a whole object" * objects
                raise ValueError(
                    f"data: no photograph fits a crop of {crop}{whole}; lower data.crop or add larger ones"
                )
            by_source = self.config.data.weights
            sources = [store.sources[int(p)] for p in store.photograph[rows]]
            known[crop, objects] = rows, torch.tensor([by_source.get(s, 1.0) for s in sources])
        return known[crop, objects]

    # --------------------------------------------------------------------------------------------------------- loss

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The flow-matching loss (``objective.masked_loss``) plus the terms of the recipe; to be logged, the former per
        task and the latter by name."""
        mix, recipe = self.config.mix, self.config.recipe
        generator = torch.Generator(self.device).manual_seed(int(torch.randint(2**31, (1,))))
        condition, prompts = self._drop(batch.condition, generator)
        x0 = self.clean(batch)
        t = flow.sample_time(len(x0), generator, self.shift_at(batch.progress), mix.uniform_time)
        noise = torch.randn(x0.shape, generator=generator, device=self.device) * self.pipeline.config.noise_scale
        noise, t = at_start(noise, t, is_regression(condition))
        x_t = flow.add_noise(x0, noise, t)
        route, tap = self._route(x0, generator), self.tap if batch.progress < recipe.repa_until else None
        v, x0_hat, features = self.predict(
            x_t, t, replace(condition, prompt=prompts), route, tap, known=batch.embeddings
        )
        target = self.target(x_t, x0, noise, t)

        each = flow.masked_loss(v, target, condition.hole, mix.given_weight, batch.weight)
        terms: dict[str, Tensor] = {}
        if recipe.contrastive:
            others = flow.contrastive_term(v, target, condition.hole, mix.given_weight)
            terms["contrastive"] = -recipe.contrastive * others.mean()
        if tap is not None:
            terms["repa"] = recipe.repa * self._alignment(features, batch.pixels, x0, route)
        if recipe.lpips or recipe.dino:
            terms |= self._perceptual(x0_hat, batch.pixels, condition.hole, t < recipe.perceptual_below)
        logs = {
            name: each.detach()[[i for i, n in enumerate(condition.task) if n == name]].mean()
            for name in sorted(set(condition.task))
        }
        loss = each.mean() + sum(terms.values(), each.new_zeros(()))
        return loss, logs | {name: term.detach() for name, term in terms.items()}

    def shift_at(self, progress: float) -> float:
        """The shift of the times at this share of the run."""
        late = self.config.mix.late_shift if progress >= self.config.data.late_from else None
        return late or self.early_shift

    def _sample_as_trained(self) -> None:
        """Give the pipeline's sampler the shift that training ends with."""
        end = self.shift_at(1.0 if self.config.data.late_from < 1 else 0.0)
        scheduler = self.pipeline.scheduler
        if end != scheduler.config.shift:
            self.pipeline.register_modules(scheduler=type(scheduler).from_config(scheduler.config, shift=end))

    def clean(self, batch: Batch) -> Tensor:
        """What is trained on, (B, C, h, w) in float32: the latents that were made before, or those of the pixels."""
        return self.encode(batch.pixels) if batch.latents is None else batch.latents.float()

    # --------------------------------------------------------------------------------------------------- validation

    def validate(self) -> dict[str, Tensor]:
        """``val_loss``: the loss on what is held out."""
        return {"val_loss": self.loss_on(self.exam)}

    @cached_property
    def exam(self) -> Batch:
        """What ``validate`` measures."""
        assert self.held_out is not None
        return self.exam_of(self.held_out, self.config.data.held_out_crops)

    def exam_of(self, store: photos.PhotoStore, size: int) -> Batch:
        """Crops of photographs, and their holes: the same whenever it is called."""
        generator = torch.Generator(self.device).manual_seed(0)
        condition, sample = self.draw(store, self.config.data.crop, size, generator)
        return Batch(condition, sample.pixels, 0.0)

    def loss_on(self, exam: Batch) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(0)
        count, each = len(exam.pixels), []
        times = (torch.randperm(count, generator=generator, device=self.device) + 0.5) / count
        for rows in torch.arange(count).split(self.config.train.batch_size):
            x0 = self.encode(exam.pixels[rows])
            noise = torch.randn(x0.shape, generator=generator, device=self.device) * self.pipeline.config.noise_scale
            condition, t = take(exam.condition, rows), times[rows]
            noise, t = at_start(noise, t, is_regression(condition))
            x_t = flow.add_noise(x0, noise, t)
            v, *_ = self.predict(x_t, t, condition)
            target = self.target(x_t, x0, noise, t)
            each.append(flow.masked_loss(v, target, condition.hole, self.config.mix.given_weight))
        return torch.cat(each).mean()

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) to the latents that are trained on, float32."""
        return autoencoder.encode(self.vae, pixels).float()

    def predict(
        self,
        x_t: Tensor,
        t: Tensor,
        condition: Condition,
        route: Tensor | None = None,
        tap: int | None = None,
        model: Any = None,
        known: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The model at x_t (B, C, h, w): its velocity, its clean sample, and the features of block ``tap``. ``model``
        is a transformer to be asked in place of the one that is trained, ``known`` the embeddings of some prompts."""
        from photofound.pipeline import fold_condition

        model = model or self.pipeline.transformer
        with torch.no_grad():
            folded = fold_condition(condition, self.vae, model.config.condition_space).float()
        tokens, mask = self._encode_text(condition.prompt, known)
        task = torch.tensor([model.task_index(name) for name in condition.task], device=self.device)
        inputs = {"condition": folded, "task": task, "strength": condition.strength, "route": route, "tap": tap}
        inputs |= self.reference_inputs(model, condition)
        out = model(x_t, t, tokens, mask, **inputs)
        return (*flow.interpret(out.sample.float(), x_t, t, model.config.prediction_type), out.features)

    def target(self, x_t: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The velocity that the model's is compared with."""
        return flow.velocity_target(x_t, x0, noise, t, self.pipeline.transformer.config.prediction_type)

    @torch.no_grad()
    def reference_inputs(self, model: Any, condition: Condition) -> dict[str, Tensor]:
        """What a transformer is told of references: their latents, and who has one. Nothing for one that takes none;
        for one that does, always something, so that in every process the same weights have a gradient."""
        if not model.config.reference_embeds:
            return {}
        side = model.config.reference_size // autoencoder.factor(self.vae)
        latents = torch.zeros(len(condition), model.config.in_channels, side, side, device=self.device)
        referenced = condition.referenced
        if condition.reference is None or referenced is None:
            referenced = latents.new_zeros(len(condition), dtype=torch.bool)
        rows = referenced.nonzero()[:, 0]
        if condition.reference is not None and len(rows):
            latents[rows] = self.encode(condition.reference[rows])
        if self.config.train.compile:  # compiled for one shape
            return {"reference": latents, "referenced": referenced}
        if not len(rows):
            return {"reference": latents[:1], "referenced": referenced[:1]}  # one for all, which nobody has
        return {"reference": latents[rows], "referenced": rows}

    def _drop(self, condition: Condition, generator: torch.Generator) -> tuple[Condition, list[str]]:
        """Conditions and prompts of which some are empty, for classifier-free guidance (arXiv:2207.12598). Half of
        those without a prompt lose their reference, too: guidance compares with neither."""
        mix = self.config.mix
        drop = torch.rand(len(condition), generator=generator, device=self.device)
        no_text = (drop < mix.drop_text) | (drop > 1 - mix.drop_both)
        prompts = ["" if gone else prompt for gone, prompt in zip(no_text.tolist(), condition.prompt, strict=True)]
        if condition.referenced is not None:
            lost = torch.rand(len(condition), generator=generator, device=self.device) < 0.5
            condition = replace(condition, referenced=condition.referenced & ~(no_text & lost))
        gone = (drop > 1 - mix.drop_both - mix.drop_condition) & ~is_regression(condition)
        return blank(condition, gone), prompts

    def _encode_text(
        self, prompts: Sequence[str], known: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings and their mask, as ``text.encode`` gives them; those that are known are not computed."""
        parts, length = (self.pipeline.tokenizer, self.pipeline.text_encoder), self.config.model.text_length
        fixed = self.config.train.compile
        if not known:
            return text.encode(*parts, prompts, length, "max_length" if fixed else "longest")
        rows = dict(known)
        if unknown := [prompt for prompt in dict.fromkeys(prompts) if prompt not in rows]:  # the empty one, mostly
            hidden, mask = text.encode(*parts, unknown, length)
            masks = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device) if mask is None else mask
            rows |= {prompt: hidden[i, masks[i]] for i, prompt in enumerate(unknown)}
        return text.stack([rows[prompt] for prompt in prompts], length if fixed else None)

    def _grid(self, x0: Tensor) -> tuple[int, int]:
        """Rows and columns of tokens."""
        patch = self.pipeline.transformer.config.patch_size
        return x0.shape[-2] // patch, x0.shape[-1] // patch

    def _route(self, x0: Tensor, generator: torch.Generator) -> Tensor | None:
        """Which tokens go through every block (TREAD), or None for all."""
        recipe, tokens = self.config.recipe, math.prod(self._grid(x0))
        if not recipe.tread or tokens < recipe.tread_tokens:
            return None
        return losses.sample_route(len(x0), tokens, recipe.tread, generator)

    def _alignment(self, features: Tensor, pixels: Tensor, x0: Tensor, route: Tensor | None) -> Tensor:
        """REPA's term, unweighted, on the tokens that the tap saw."""
        with torch.no_grad():
            target = self.teacher.patches(pixels, self._grid(x0))
        if route is not None and features.shape[1] < target.shape[1]:
            target = layers.take_tokens(target, route)
        return losses.alignment_loss(self.module["projector"](features), target).mean()

    def _perceptual(self, x0_hat: Tensor, pixels: Tensor, hole: Tensor, near: Tensor) -> dict[str, Tensor]:
        """LPIPS and P-DINO of the clean-sample estimate, decoded and pasted into the photograph, weighted, computed for
        the samples ``near`` (B,) and averaged over the batch."""
        recipe, chosen = self.config.recipe, near.nonzero()[:, 0]
        terms = {name: 0 * x0_hat.mean() for name in ("lpips", "dino") if getattr(recipe, name)}
        if not len(chosen):
            return terms
        b = pixels[chosen]
        decoded = autoencoder.decode(self.vae, x0_hat[chosen], clamp=False)  # a pixel beyond white has a gradient, too
        a = torch.lerp(b, decoded, hole[chosen])
        if recipe.lpips:
            terms["lpips"] = recipe.lpips * losses.perceptual_distance(self.lpips_net, a, b).sum() / len(near)
        if recipe.dino:
            terms["dino"] = recipe.dino * losses.patch_distance(self.dino_net, a, b).sum() / len(near)
        return terms

    # ------------------------------------------------------------------------------------------------------ results

    def sample(self) -> np.ndarray:
        """One row per task: what is given, the model's picture, the target, three times over."""
        from photofound.picture.sheet import sheet

        rows = []
        crop = self.last_crop
        for name in self.shares_of(self.store, crop):
            rows_of, weights = self._choices(self.store, crop, self.objects[name])
            cpu = torch.Generator().manual_seed(7)
            picks = rows_of[torch.multinomial(weights, 3, replacement=True, generator=cpu)]
            mirror = self.config.data.mirror
            sample = self.store.sample(picks, crop, self.objects[name], cpu, mirror)
            others = self._others(self.store, crop, 3, cpu) if self._mixes(name) else None
            condition, sample = self._part(name, sample, others, torch.Generator(self.device).manual_seed(7), cpu)
            made = self.pipeline.sample(
                condition, steps=12, guidance=2.0, generators=[torch.Generator().manual_seed(i) for i in range(3)]
            )
            shown = references.inset(condition.canvas * (1 - 0.5 * condition.hole) + 0.5 * condition.hole, condition)
            rows.append([picture for i in range(3) for picture in (shown[i], made[i], sample.pixels[i])])
        return sheet(rows)

    def record(self) -> dict[str, Any]:
        """What the model's card says of the data and of the models that this one started from."""
        model, files = self.config.model, self.config.data
        starts = (model.start,) if model.start else (autoencoder.resolved(model.vae), model.text_encoder)
        folders = [source.path for source in files.sources] or [files.folder] * (not files.drawn)
        found = {folder: record.prepared(folder) for folder in folders}
        streamed = [each for path, (known, _) in found.items() for each in known or (Origin(record.placeless(path)),)]
        return {
            "parts": [name for name in ("transformer", "text_encoder") if name in self.module],
            "parents": record.join(*map(record.inherited, starts)),
            "data": streamed if files.sources else self.store.origins(),
            "filtering": [line for _, lines in found.values() for line in lines],
        }

    def export(self, folder: Path) -> None:
        """Save the pipeline in diffusers layout."""
        self.pipeline.save_pretrained(folder, safe_serialization=True)


def _assign(
    shares: dict[str, float], objects: dict[str, bool], whole: Tensor, cpu: torch.Generator
) -> dict[str, Tensor]:
    """Which samples of a batch go to which task; ``whole`` (B,) says which hold a complete object.

    Tasks that need one get no others; what that leaves over is shared out among the other tasks.
    """
    order = torch.randperm(len(whole), generator=cpu)
    fit, rest = order[whole[order]].tolist(), order[~whole[order]].tolist()
    counts = _counts(shares, len(whole), cpu)
    assigned = {}
    for name in filter(lambda name: objects[name], counts):
        assigned[name], fit = fit[: counts[name]], fit[counts[name] :]
    rest += fit
    if rest:
        others = {name: share for name, share in shares.items() if not objects[name]}
        if not others:
            raise ValueError("mix.tasks: a photograph without a whole object fits none of the tasks; add another task")
        for name, count in _counts(others, len(rest), cpu).items():
            assigned[name], rest = rest[:count], rest[count:]
    return {name: torch.tensor(index) for name, index in assigned.items() if index}


def _counts(shares: dict[str, float], size: int, cpu: torch.Generator) -> dict[str, int]:
    """How many of ``size`` samples each task gets: its share in whole numbers, the rest drawn at random so that the
    mean is right."""
    total = sum(shares.values())
    exact = {name: size * share / total for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    missing = size - sum(counts.values())
    if missing:
        rest = torch.tensor([exact[name] - counts[name] for name in counts])
        for index in torch.multinomial(rest, missing, replacement=True, generator=cpu).tolist():
            counts[list(counts)[index]] += 1
    return {name: count for name, count in counts.items() if count}


def hold_out(store: photos.PhotoStore, every: int) -> tuple[photos.PhotoStore, photos.PhotoStore]:
    """A store without every n-th photograph, and one with those alone; both share the pixels."""
    held = store.photograph % every == 0
    return store.part(~held), store.part(held)


def at_start(noise: Tensor, t: Tensor, regression: Tensor) -> tuple[Tensor, Tensor]:
    """Noise and times of a batch; the samples in which ``regression`` (B,) is True are at t = 1, without noise."""
    return noise * flow.expand(~regression, noise), torch.where(regression, 1.0, t)


def take(condition: Condition, rows: Tensor) -> Condition:
    """Some samples of a condition."""
    task, prompt = ([words[i] for i in rows.tolist()] for words in (condition.task, condition.prompt))
    tensors = {
        name: value[rows]
        for name in ("canvas", "hole", "strength", "reference", "referenced")
        if (value := getattr(condition, name)) is not None
    }
    return replace(condition, task=task, prompt=prompt, **tensors)


def blank(condition: Condition, gone: Tensor) -> Condition:
    """The same batch with nothing given in the samples where ``gone`` (B,) is True."""
    if condition.referenced is not None:
        condition = replace(condition, referenced=condition.referenced & ~gone)
    gone = gone[:, None, None, None]
    return replace(
        condition, canvas=condition.canvas.masked_fill(gone, 0.0), hole=condition.hole.masked_fill(gone, 1.0)
    )


def _reference_share(share: float | None, pipeline: Any) -> float:
    """What ``mix.reference`` comes to for a model. Raises ValueError where it does not fit."""
    config = pipeline.transformer.config
    if share is not None and not 0 <= share <= 1:
        raise ValueError(f"mix.reference: {share} must be a share from 0 to 1")
    if not config.reference_embeds:
        if share:
            raise ValueError(f"mix.reference: {share}, but the model takes no reference; set model.reference to true")
        return 0.0
    multiple = autoencoder.factor(pipeline.vae) * config.patch_size
    if config.reference_size < multiple or config.reference_size % multiple:
        raise ValueError(f"model.reference_size: {config.reference_size} is no multiple of {multiple}; give one")
    return 0.7 if share is None else share


def main(argv: list[str] | None = None) -> int:
    from photofound.training import launch

    return launch(Config, PretrainStage, argv, doc=__doc__, plan=plan)


if __name__ == "__main__":
    raise SystemExit(main())
