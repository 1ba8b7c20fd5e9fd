"""EditPipeline: from a request to a picture. A diffusers pipeline that every task's pipeline derives from.

Shapes: B batch, H and W working pixels, f the autoencoder's factor, h = H / f and w = W / f.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import re
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypedDict, Unpack, cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler, ModelMixin
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.utils import BaseOutput
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from photofound.card import card
from photofound.detail import DetailNetwork
from photofound.edits import composite, exemplar, geometry, grounds, masks, matting, reference, regions, surfaces
from photofound.edits.geometry import Box
from photofound.edits.masks import Segmenter
from photofound.edits.regions import MOST_TILES, Part
from photofound.edits.request import Request
from photofound.edits.task import (
    Backdrop,
    Condition,
    Input,
    Job,
    Task,
    class_name,
    enlargement_strength,
    get_task,
    is_regression,
    torch_from,
)
from photofound.model import autoencoder, superresolution, text
from photofound.model.folder import (
    check_folder,
    check_lora,
    check_part,
    check_settings,
    find_lora,
    is_for_teacher,
    loading_errors,
    lora_errors,
    read_json,
)
from photofound.picture import image
from photofound.picture.image import Picture
from photofound.superresolution import Upscaler
from photofound.transformer import EditTransformer

EMBEDDED = autoencoder.EMBEDDED
CANVASES = ("harmonic", "exemplar")
ImageLike = Any  # Picture, PIL image, numpy array (H, W) or (H, W, C), path
Callback = Callable[..., dict[str, Tensor] | None]

_TOGETHER = 8  # edits of this many parts are sampled at once: more are no faster, and want more memory
_HUB_OPTIONS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "variant")
_OVERLAP = 8  # neighbouring tiles share an eighth of their side at least; twice as much looks no better
_TOKENS_AT_ONCE = 1152  # tiles are computed together up to so many tokens; below, a network's layers are too small
_TEXT_ROOM = 32  # prompts are padded to multiples of so many tokens, so that most have one shape and share a batch
_TONE = 6.0  # working pixels; what is coarser is colour and light, what is finer is texture
_BEGIN = 0.5  # of a given background: the time that sampling starts at; its shapes stay, its light may change
_LOOK = 0.75  # of the working size: at which the head for cut-outs looks at a photograph (docs/experiments.md)
_QUICK = 512  # long side at which an edit refines the outline that it was not given; more takes longer than the edit
_DETAIL_SHARE = 4  # what was made smaller is brought to the picture's size in a quarter of the steps: it decides little


class Settings(TypedDict, total=False):
    """How to sample and what to return; keyword arguments of every pipeline.

    Attributes:
        num_inference_steps: sampling steps, 1 to 1000; left out or None, the checkpoint's default.
        guidance_scale: classifier-free guidance (arXiv:2207.12598, eq. 6), 1 = off; left out or None, the checkpoint's
            default. A few-step student is told the scale instead of being computed twice; it takes the nearest one that
            it was trained with.
        num_images_per_prompt: variants, >= 1.
        generator: the seed: one generator, or a list with one per result. With one, variant i equals what the i-th
            call with that generator gives.
        callback_on_step_end: ``f(pipe, step, timestep, {"latents": ...})``, as in diffusers. It may return a dict with
            other latents of the same shape, or None. ``pipe._interrupt = True`` ends its own call; from another thread
            it ends every call that runs. The picture is then what the model saw coming, and what had not been begun,
            further variants or pictures, is not in the result.
        callback_on_step_end_tensor_inputs: what the callback is given: ``["latents"]``, all that there is.
        output_type: ``pil``; ``np``, (H, W, C) float32 in [0, 1]; ``pt``, (C, H, W); or ``picture``, which keeps depth
            and profile.
        return_dict: True for an EditOutput, False for the tuple ``(images,)``.
    """

    num_inference_steps: int | None
    guidance_scale: float | None
    num_images_per_prompt: int
    generator: torch.Generator | list[torch.Generator] | None
    callback_on_step_end: Callback | None
    callback_on_step_end_tensor_inputs: Sequence[str] | None
    output_type: str
    return_dict: bool


@dataclass
class EditOutput(BaseOutput):
    """What an edit gives.

    Attributes:
        images: a list of results, of the type that ``output_type`` names.
        notes: what the edit says of each, such as which background was chosen; empty where there is nothing to say.
        keep: (H, W) float32 in [0, 1], of the results' size: 1 = came back exactly, 0 = made, between = mixed. For
            outpaint it is the subject.
    """

    images: list[Any]
    notes: list[str] | None = None
    keep: np.ndarray | None = None


@dataclass(frozen=True)
class Draft:
    """A job as the model is to see it.

    Attributes:
        job: what is to be done, at the picture's own size.
        part: which part of the picture is worked on, and at which size, before padding.
        hole: (1, 1, H, W), the job's hole within the part's box.
        condition: of batch 1, at the working size, padded.
        pixels: (1, 3, H, W) in [-1, 1], the picture within the box.
        generator: what its noise is drawn from.
        exemplar: (1, 3, h, w) at the working size, the picture with its hole filled from its own patches, or None.
        backdrop: the background that it starts from, or None.
        start: (1, 3, H, W), the subject before the backdrop, as the condition in size; or None.
    """

    job: Job
    part: Part
    hole: Tensor
    condition: Condition
    pixels: Tensor
    generator: torch.Generator | None
    exemplar: Tensor | None = None
    backdrop: Backdrop | None = None
    start: Tensor | None = None


@dataclass(frozen=True)
class Tiling:
    """Overlapping parts of a latent (h, w) that a model looks at one by one.

    Attributes:
        boxes: where they are; all of one size.
        weight: (rows, columns) of a tile, low at its edges.
        coverage: (h, w), the sum of all tiles' weights; 1 where there is none.
    """

    boxes: list[Box]
    weight: Tensor
    coverage: Tensor

    @property
    def area(self) -> int:
        """Latents of a tile."""
        return self.weight.numel()


def cut(x: Tensor, boxes: Sequence[Box]) -> Tensor:
    """The boxes' parts of (B, C, h, w), one after another: (boxes * B, C, rows, columns)."""
    return torch.cat([x[(..., *box.slices)] for box in boxes])


def condition_channels(vae: Any | None, space: str) -> int:
    """Channels of the folded condition: the canvas (pixels folded f x f, or latents) and the hole, folded."""
    area = autoencoder.factor(vae) ** 2
    return (3 * area if space == "pixels" else autoencoder.channels(vae)) + area


def fold_condition(condition: Condition, vae: Any | None, space: str) -> Tensor:
    """(B, C, h, w): each latent's own f x f pixels of canvas and hole as channels, so that no mask is ever
    downsampled."""
    f = autoencoder.factor(vae)
    canvas = F.pixel_unshuffle(condition.canvas, f) if space == "pixels" else autoencoder.encode(vae, condition.canvas)
    return torch.cat([canvas, F.pixel_unshuffle(condition.hole, f).to(canvas.dtype)], 1)


def fast_dtype(device: str | None = None) -> torch.dtype:
    """bfloat16 where ``device`` (None: the GPU, where there is one) computes in it: a GPU, or a CPU with AMX or
    AVX512-BF16. Else float32."""
    if torch.cuda.is_available() if device is None else torch.device(device).type == "cuda":
        return torch.bfloat16
    native = any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return torch.bfloat16 if native else torch.float32


@dataclass
class _Call:
    """What goes on in a thread that edits."""

    stop: bool = False
    steps: int = 0


class EditPipeline(DiffusionPipeline, LoraBaseMixin):
    """What the tasks' pipelines share.

    Several threads may use one pipeline, or pipelines that share weights, at once: a call keeps what it changes to
    itself. Not so ``enable_model_cpu_offload`` and LoRAs that are loaded, fused or weighted meanwhile.

    Args:
        transformer: EditTransformer.
        vae: a diffusers autoencoder, or None for pixel space.
        text_encoder, tokenizer: from transformers, or None for a model without text.
        scheduler: FlowMatchEulerDiscreteScheduler; for a plain LCM student FlowMatchLCMScheduler.
        tile: working side in pixels that the model was trained at; larger pictures are worked on in tiles of it.
        default_steps, default_guidance: what ``num_inference_steps`` and ``guidance_scale`` are when they are left out.
        task_steps: tasks that want another number of steps than ``default_steps``, like ``{"upscale": 1}``.
        noise_scale: standard deviation of the noise that sampling starts from (2 for PRX's pixel-space models).
        detail: a DetailNetwork, which paints holes of given pixels at pixel resolution, or None.
        canvas: what holes of given pixels are filled with before the model looks: ``harmonic``, or ``exemplar``, the
            photograph's own patches (``photofound.edits.exemplar``). A checkpoint works with what it was trained on.
        distilled: None, or of a few-step student (docs/distillation.md) ``{"phases": P, "guidance": [low, high],
            "teacher_steps": N}``: its phases, the guidance scales that it knows, its teacher's default steps.
        surfaces: whether outpaint starts from a drawn surface where the prompt names one
        (``photofound.edits.surfaces``). upscaler: a network that enlarges pictures by itself
            (``photofound.model.superresolution``), or None: then the transformer does it.
    """

    task_name: ClassVar[str]
    model_cpu_offload_seq = "text_encoder->transformer->vae->detail->upscaler"
    _optional_components = ["vae", "text_encoder", "tokenizer", "detail", "upscaler"]
    _callback_tensor_inputs = ["latents"]
    _lora_loadable_modules = ["transformer"]
    transformer_name = "transformer"

    def __init__(
        self,
        transformer: EditTransformer,
        vae: ModelMixin | None,
        text_encoder: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        scheduler: FlowMatchEulerDiscreteScheduler | FlowMatchLCMScheduler,
        tile: int = 256,
        default_steps: int = 20,
        default_guidance: float = 2.0,
        noise_scale: float = 1.0,
        distilled: dict[str, Any] | None = None,
        task_steps: dict[str, int] | None = None,
        detail: DetailNetwork | None = None,
        canvas: str = "harmonic",
        surfaces: bool = False,
        upscaler: Upscaler | None = None,
    ) -> None:
        super().__init__()
        self._calls: dict[int, _Call] = {}  # by the thread that it runs in
        autoencoder.hasten(vae)
        if canvas not in CANVASES:
            raise ValueError(f"canvas: {canvas!r} is unknown; use {' or '.join(CANVASES)}")
        settings = {
            "tile": tile,
            "default_steps": default_steps,
            "default_guidance": default_guidance,
            "noise_scale": noise_scale,
            "distilled": distilled,
            "task_steps": task_steps,
            "surfaces": surfaces,
        }
        check_settings(settings)
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
            detail=detail,
            upscaler=None if upscaler is None else upscaler.to(memory_format=torch.channels_last),
        )
        self.register_to_config(**settings, canvas=canvas)

    # ------------------------------------------------------------------------------------------------ load and save

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path | None = None, *, teacher: bool = False, **kwargs: Any
    ) -> Any:
        """Load a pipeline: the embedded model (None), a folder, or a Hub id. Weights are safetensors; nothing else is
        read.

        Args:
            pretrained_model_name_or_path: None, a folder in diffusers layout, or ``owner/name`` on the Hub.
            teacher: of a few-step student, load the model of many steps that it was distilled from.
            **kwargs: as in diffusers. ``torch_dtype`` (or ``dtype``) defaults to bfloat16 where this machine computes
                in it, else float32.

        Raises:
            FileNotFoundError: no such folder. ValueError: missing or damaged shards, pickled weights, classes of
                foreign modules, no teacher.
        """
        source = EMBEDDED if pretrained_model_name_or_path is None else pretrained_model_name_or_path
        kwargs["dtype"] = kwargs.pop("torch_dtype", None) or kwargs.get("dtype") or fast_dtype()
        if not Path(source).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
            hub = {name: kwargs[name] for name in _HUB_OPTIONS if name in kwargs}
            name, source = str(source), cls.download(str(source), use_safetensors=True, **hub)
            _download_card(name, hub)
        replaced = {"transformer", "scheduler"} if teacher else set(kwargs)
        check_folder(Path(source), replaced)
        if teacher:
            kwargs |= _teacher(Path(source), kwargs["dtype"])
        with loading_errors(source):
            pipeline = super().from_pretrained(str(source), use_safetensors=True, **kwargs)
        if {"transformer", "vae", "text_encoder", "upscaler"} & set(kwargs):  # not the folder's: its card is not theirs
            pipeline.register_to_config(_name_or_path=None)
        return pipeline

    @classmethod
    def with_lora(cls, pretrained_model_name_or_path: str | Path | None, lora: str | Path, **kwargs: Any) -> Any:
        """Load a pipeline with a LoRA, on the model that the LoRA was trained from: of a few-step student its teacher,
        where the LoRA says so. Arguments and errors are those of ``from_pretrained`` and ``load_lora_weights``."""
        pipe = cls.from_pretrained(pretrained_model_name_or_path, **kwargs)
        file = find_lora(lora)
        if pipe.config.distilled and file is not None and is_for_teacher(file):
            pipe = cls.from_pretrained(pretrained_model_name_or_path, teacher=True, **kwargs)
        pipe.load_lora_weights(lora)
        return pipe

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **components: Any) -> Any:
        """This task on another pipeline's components; no weights are copied or cast. ``components`` replace some of
        them."""
        names = (
            "tile",
            "default_steps",
            "default_guidance",
            "noise_scale",
            "distilled",
            "task_steps",
            "canvas",
            "surfaces",
        )
        settings = {name: pipeline.config[name] for name in names if name in pipeline.config}
        made = cls(**{**pipeline.components, **settings, **components})
        if not components:  # these are the same weights still, and the same card is true of them
            made.register_to_config(_name_or_path=pipeline.config.get("_name_or_path"))
        return made

    def save_pretrained(self, save_directory: str | Path, *args: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save as in diffusers, with a model card: that of the folder which the pipeline was loaded from, else one of
        what is known (``photofound.card.card``). LoRAs that are active are merged into the transformer that is written,
        so that the folder gives the same pictures; keep their own files to take them out again."""
        if push_to_hub:
            hub = {k: kwargs.pop(k) for k in ("commit_message", "private", "token", "create_pr") if k in kwargs}
            repo_id = kwargs.pop("repo_id", Path(save_directory).name)
        super().save_pretrained(str(save_directory), *args, **kwargs)
        self._save_card(Path(save_directory))
        if push_to_hub:
            self._upload(Path(save_directory), repo_id, **hub)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
    ) -> str:
        """Upload as in diffusers, whose card of nothing but tags is ours here."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization=safe_serialization, variant=variant)
            return self._upload(Path(folder), repo_id, commit_message, private, token, create_pr, subfolder)

    def _upload(
        self,
        folder: Path,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        subfolder: str | None = None,
    ) -> str:
        from huggingface_hub import create_repo

        repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        options = {"token": token, "commit_message": commit_message, "create_pr": create_pr, "subfolder": subfolder}
        return self._upload_folder(str(folder), repo_id, **options)

    def _save_card(self, folder: Path) -> None:
        """Weights that were loaded from a folder and not adapted since have that folder's card."""
        origin = self.config.get("_name_or_path")
        adapted = getattr(self.transformer, "_hf_peft_config_loaded", False)
        if not origin or adapted or not card.carry(Path(origin), folder):
            card.write(folder, ())

    def load_lora_weights(
        self, source: str | Path | dict[str, Tensor], adapter_name: str | None = None, **kwargs: Any
    ) -> None:
        """Add a LoRA to the transformer: a safetensors file, a folder or Hub id that holds one, or a state dict.

        Warns when it was trained on a student's teacher, and this is the student; ``with_lora`` takes the right one.

        Raises FileNotFoundError for a file that is not there; ValueError for one that holds no LoRA for this model.
        """
        kwargs["use_safetensors"] = True
        file = None if isinstance(source, dict) else find_lora(source, kwargs.get("weight_name"))
        if file is not None:
            check_lora(file, self.transformer)
            if self.config.distilled and is_for_teacher(file):
                warnings.warn(
                    f"LoRA: {file.name} was trained on the model of many steps that this one was distilled from; load "
                    "that by from_pretrained(..., teacher=True), or expect it to do less here",
                    stacklevel=2,
                )
            kwargs["weight_name"], source = file.name, file.parent
        before = set(getattr(self.transformer, "peft_config", {}))
        given = source if isinstance(source, dict) else str(source)
        with lora_errors("the state dict" if isinstance(source, dict) else str(file or source)):
            self.transformer.load_lora_adapter(given, adapter_name=adapter_name, prefix="transformer", **kwargs)
            if set(getattr(self.transformer, "peft_config", {})) == before and not kwargs.get("hotswap"):
                raise ValueError("it holds no LoRA layers for a transformer")

    def fuse_lora(self, components: Sequence[str] = ("transformer",), **kwargs: Any) -> None:
        """Add the active LoRAs to the weights, as in diffusers: ``lora_scale``, ``adapter_names``, ``safe_fusing``."""
        super().fuse_lora(list(components), **kwargs)
        self.register_to_config(_name_or_path=None)  # the weights are no longer that folder's, nor is its card true

    def unfuse_lora(self, components: Sequence[str] = ("transformer",), **kwargs: Any) -> None:
        """Take them out again; the weights are the former ones but for rounding."""
        super().unfuse_lora(list(components), **kwargs)

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | Path,
        transformer_lora_layers: dict[str, Tensor],
        transformer_lora_adapter_metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write LoRA layers so that ``load_lora_weights`` takes the folder. The metadata, peft's configuration as a
        dict, says the alpha; without it, alpha is taken to be the rank."""
        layers, metadata = {"transformer": transformer_lora_layers}, {"transformer": transformer_lora_adapter_metadata}
        cls._save_lora_weights(save_directory, layers, metadata, **kwargs)

    # -------------------------------------------------------------------------------------------------------- edit

    @torch.no_grad()
    def edit(self, source: ImageLike, settings: Settings, **inputs: Any) -> Any:
        """Run this pipeline's task: prepare, work, finish. ``inputs`` are those that the task declares. The picture and
        each input may be a list, or an array or tensor with a batch's dimension: one for each picture; anything else
        is for all. Results come picture by picture, the variants of each together."""
        unknown = set(settings) - set(Settings.__annotations__)
        if unknown:
            raise TypeError(f"{type(self).__name__}: unknown argument {', '.join(map(repr, sorted(unknown)))}")
        steps, guidance, count = self.check(settings)
        convert = _CONVERTERS.get(settings.get("output_type") or "pil")
        if convert is None:
            raise ValueError(f"output_type: {settings['output_type']!r} is unknown; use {', '.join(_CONVERTERS)}")
        callback = settings.get("callback_on_step_end")
        if callback is not None and not callable(callback):
            raise ValueError(
                f"callback_on_step_end: {callback!r} is no function; pass f(pipe, step, timestep, tensors)"
            )
        for prompt in _listed(inputs.get("prompt")):
            if sentence := self.unread(prompt):
                warnings.warn(sentence, stacklevel=3)
        tensors = settings.get("callback_on_step_end_tensor_inputs") or ()
        if strange := [name for name in tensors if name not in self._callback_tensor_inputs]:
            raise ValueError(f"callback_on_step_end_tensor_inputs: there is no {strange[0]!r}, only 'latents'")
        jobs = [self.prepare(Picture.from_any(one), **given) for one, given in self._requests(source, inputs)]
        generators = _generators(settings.get("generator"), len(jobs) * count)
        pictures: list[Picture] = []
        # One after another, since variants that share a generator draw from it in turn.
        with self._call():
            for job, generator in zip((job for job in jobs for _ in range(count)), generators, strict=True):
                if not self.interrupt:
                    pictures += self.run([job], [generator], steps, guidance, callback)
        images = [convert(picture) for picture in pictures]
        notes = [picture.note for picture in pictures]
        if not settings.get("return_dict", True):
            return (images,)
        return EditOutput(images=images, notes=notes, keep=job.keep)

    def _requests(self, source: Any, inputs: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
        """What is asked for, picture by picture: lists have one entry for each, anything else is for all."""
        pairs = {each.name for each in get_task(self.task_name).inputs if each.kind in ("aspect", "size")}
        given = {"image": source, **inputs}
        given = {name: list(value) if getattr(value, "ndim", 0) == 4 else value for name, value in given.items()}
        lists = {name: value for name, value in given.items() if isinstance(value, (list, tuple))}
        lists = {name: value for name, value in lists.items() if name not in pairs or not _is_pair(value)}
        number = max([1, *map(len, lists.values())])
        for name, value in lists.items():
            if len(value) not in (1, number) or not value:
                raise ValueError(f"{name}: got {len(value)} for {number} pictures; give one for all, or one for each")
        rows = [given | {name: value[i % len(value)] for name, value in lists.items()} for i in range(number)]
        return [(row.pop("image"), row) for row in rows]

    @contextmanager
    def _call(self) -> Iterator[_Call]:
        """Within the block, and blocks within it, this thread edits and can be told to stop."""
        here = threading.get_ident()
        if here in self._calls:
            yield self._calls[here]
            return
        try:
            yield self._calls.setdefault(here, _Call())
        finally:
            del self._calls[here]

    @property
    def interrupt(self) -> bool:
        """Whether this thread's call is to stop."""
        return self._calls.get(threading.get_ident(), _Call()).stop

    @property
    def num_timesteps(self) -> int:
        """For callbacks: steps of the sampling that goes on in this thread; 0 where none does."""
        return self._calls.get(threading.get_ident(), _Call()).steps

    @property
    def _interrupt(self) -> bool:  # the name that diffusers' pipelines have for it
        return self.interrupt

    @_interrupt.setter
    def _interrupt(self, stop: bool) -> None:
        here = threading.get_ident()
        for call in [self._calls[here]] if here in self._calls else list(self._calls.values()):
            call.stop = bool(stop)

    @torch.no_grad()
    def enlarge(self, low: Tensor, size: tuple[int, int], callback: Callback | None = None) -> Tensor:
        """(1, 3, h, w) in [-1, 1] at ``size`` (height, width), by the upscaler alone, part by part."""
        parts = itertools.count()

        def after_part() -> bool:
            if callback is not None:
                callback(self, next(parts), torch.zeros(()), {"latents": low})
            return self.interrupt

        with self._call() as call:
            call.steps = superresolution.part_count(low)
            made = superresolution.enlarged_to(self.upscaler, low, size, step=after_part)
        self.maybe_free_model_hooks()
        return made

    def for_task(self, name: str, quiet: bool = True) -> EditPipeline:
        """A task's pipeline on the same weights, ``quiet``: without a progress bar. It costs microseconds. Raises
        ValueError naming the known tasks."""
        pipe: EditPipeline = pipeline_class(name).from_pipe(self)
        if quiet:
            pipe.set_progress_bar_config(disable=True)
        return pipe

    def settings(self, request: Request) -> tuple[int, float]:
        """Steps and guidance of a request, with the checkpoint's own filled in. Raises ValueError."""
        return self.check({"num_inference_steps": request.steps, "guidance_scale": request.guidance})[:2]

    @torch.no_grad()
    def answer(self, request: Request, count: int = 1, callback: Callback | None = None) -> EditOutput:
        """Prepare a request once and make ``count`` pictures of it, which draw from one generator in turn: variant i is
        what ``num_images_per_prompt`` gives. Its images are Pictures."""
        pipe = self if getattr(self, "task_name", None) == request.task else self.for_task(request.task)
        settings: Settings = {
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance,
            "num_images_per_prompt": count,
            "generator": request.generator(),
            "callback_on_step_end": callback,
            "output_type": "picture",
        }
        return cast(EditOutput, pipe.edit(request.picture, settings, **request.inputs))

    def prepare(self, picture: Picture, **inputs: Any) -> Job:
        """Make a request ready: ``Task.prepare``, with this model's segmenter where the task wants one. An input that
        is None has its default."""
        task = get_task(self.task_name)
        inputs |= {each.name: _taken(each, inputs[each.name]) for each in task.inputs if each.name in inputs}
        if task.wants_segmenter:
            inputs["segment"] = self.segmenter
        return task.prepare(picture, **task.with_defaults(inputs))

    def unread(self, prompt: Any) -> str:
        """What to tell of a prompt whose end the model does not read, in one sentence; else empty."""
        known = self.tokenizer is not None and isinstance(prompt, str)
        return text.unread(self.tokenizer, prompt) if known else ""

    @property
    def has_cutout(self) -> bool:
        """Whether the checkpoint has a head that finds subjects."""
        return "cutout" in self.transformer.config.tasks

    @property
    def segmenter(self) -> Segmenter:
        """What finds a photograph's subject in no time: the head ``cutout``, its outline refined, where the checkpoint
        has one, else GrabCut."""
        if not self.has_cutout:
            return masks.grabcut
        return lambda rgb: matting.refine(rgb, self.segment(rgb), _QUICK, soft=False)

    @torch.no_grad()
    def segment(self, rgb: np.ndarray) -> np.ndarray:
        """The subject's matte by the head ``cutout``: all of the photograph is looked at, then the subject alone,
        closer.

        Args:
            rgb: (H, W, 3) float32 in [0, 1].

        Returns:
            (H, W) float32 in [0, 1], 1 = subject; as fine as the model's working size.
        """
        matte = self._matte(rgb)
        height, width = matte.shape
        if not (matte > 0.5).any():
            return matte
        box = geometry.bounding_box(matte > 0.5)
        box = geometry.grow_box(box, max(4, max(box.width, box.height) // 6), 16, width, height)
        if max(box.width, box.height) > 0.8 * max(width, height):
            return matte
        matte[box.slices] = self._matte(rgb[box.slices])
        return matte

    @torch.no_grad()
    def _matte(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W): one look of the head at (H, W, 3) and its mirror image."""
        whole = Box(0, 0, rgb.shape[1], rgb.shape[0])
        height, width = _scaled_size(whole, _LOOK * self.config.tile / max(whole.width, whole.height))
        pixels = self._padded(composite.resize(image.to_tensor(rgb), (height, width)).clamp(-1, 1))
        pixels = torch.cat([pixels, pixels.flip(-1)]).to(self._execution_device)
        condition = Condition(pixels, torch.ones_like(pixels[:, :1]), ["cutout"] * 2, [""] * 2, torch.zeros(2))
        folded = fold_condition(condition, self.vae, self.transformer.config.condition_space)
        latents = folded.new_zeros((2, self.transformer.config.in_channels, *folded.shape[-2:]), dtype=torch.float32)
        velocity = self._velocity(condition, folded.to(self.transformer.dtype), 1.0, condition.hole)
        made = autoencoder.decode(self.vae, latents - velocity(latents, torch.ones(()))).mean(1, keepdim=True)
        self.maybe_free_model_hooks()
        made = ((made[:1] + made[1:].flip(-1)) / 4 + 0.5)[..., :height, :width].cpu()
        return composite.resize(made, rgb.shape[:2])[0, 0].clamp(0, 1).numpy()

    def check(self, settings: Settings) -> tuple[int, float, int]:
        """Steps, guidance and number of variants, with the checkpoint's defaults filled in. Raises ValueError."""
        steps, guidance = _plain(settings.get("num_inference_steps")), _plain(settings.get("guidance_scale"))
        steps = self._default_steps(self.task_name) if steps is None else steps
        guidance = self.config.default_guidance if guidance is None else guidance
        count = _plain(settings.get("num_images_per_prompt"))
        count = 1 if count is None else count
        least = 0 if self._enlarges_alone(self.task_name) else 1
        if not isinstance(steps, int) or not least <= steps <= 1000:
            raise ValueError(f"num_inference_steps: {steps!r} must be a whole number from {least} to 1000")
        if not isinstance(guidance, (int, float)) or not 0 <= guidance <= 100:
            raise ValueError(f"guidance_scale: {guidance!r} must be a number from 0 to 100; 1 is no guidance")
        if not isinstance(count, int) or not 1 <= count <= 64:
            raise ValueError(f"num_images_per_prompt: {count!r} must be a whole number from 1 to 64")
        return steps, float(guidance), count

    def _default_steps(self, task: str) -> int:
        default = 0 if self._enlarges_alone(task) else self.config.default_steps
        return (self.config.task_steps or {}).get(task, default)

    def _enlarges_alone(self, task: str) -> bool:
        """Whether the upscaler does this task without the transformer, unless steps are asked for."""
        return task == "upscale" and self.upscaler is not None

    @torch.no_grad()
    def run(
        self,
        jobs: Sequence[Job],
        generators: Sequence[torch.Generator | None],
        steps: int,
        guidance: float,
        callback: Callback | None = None,
    ) -> list[Picture]:
        """Work on what ``prepare`` has made ready: one picture per job."""
        return get_task(self.task_name).run(self, jobs, generators, steps, guidance, callback)

    @torch.no_grad()
    def paint(
        self,
        jobs: Sequence[Job],
        generators: Sequence[torch.Generator | None],
        steps: int,
        guidance: float,
        callback: Callback | None = None,
    ) -> list[Picture]:
        """What most tasks do: the transformer paints the holes, and the task puts them into the pictures.

        Holes far apart are parts of a job, each worked on by itself (``photofound.edits.regions``). Jobs and parts that
        look alike to the model (working size, tiles, length of the prompt) are sampled together. The same
        generator gives the same pixels in any company, since whatever rounds differently in another batch is computed
        one by one or once for all; ``sample`` says what that is.
        """
        task = get_task(self.task_name)
        drafts, owners = [], []
        for owner, (job, generator) in enumerate(zip(jobs, generators, strict=True)):
            backdrop = task.backdrop(job, generator, bool(self.config.get("surfaces")))  # one for all parts
            job = job if backdrop is not None else replace(job, ground=None)
            found = self._parts(task, job)
            for part, own in zip(found, _generators_of_parts(generator, len(found)), strict=True):
                drafts.append(self._draft(task, job, part, own, backdrop))
                owners.append(owner)
        alike: dict[Any, list[int]] = {}
        for index, draft in enumerate(drafts):
            alike.setdefault((draft.start is None, *self._look(draft.condition)), []).append(index)
        pictures = [job.picture for job in jobs]
        most = max(_TOGETHER, len(jobs))
        for group in (like[i : i + most] for like in alike.values() for i in range(0, len(like), most)):
            condition = Condition.cat([drafts[i].condition for i in group])
            starts = [start for i in group if (start := drafts[i].start) is not None]
            start, draws = torch.cat(starts) if starts else None, [drafts[i].generator for i in group]
            made = self.sample(condition, steps, guidance, draws, callback, start=start).cpu()
            for i, pixels in zip(group, made.split(1), strict=True):
                draft = drafts[i]
                pictures[owners[i]] = self._put(task, draft, pixels, pictures[owners[i]])
        return pictures

    def _put(self, task: Task, draft: Draft, made: Tensor, picture: Picture) -> Picture:
        """What the model made of a draft, put into the picture, of which other parts may be done already."""
        job = replace(draft.job, picture=picture, keep=draft.part.keep(draft.job.keep))
        if draft.backdrop is None:
            return task.finish(job, self._finished(made, draft), draft.part.box)
        return replace(task.finish(job, self._joined(draft, made), draft.part.box), note=draft.backdrop.note)

    def _joined(self, draft: Draft, made: Tensor) -> Tensor:
        """(1, 3, H, W): the backdrop at its own size, with the light that the model gave it."""
        assert draft.backdrop is not None and draft.start is not None
        start = draft.start.to(self._execution_device)
        again = autoencoder.decode(self.vae, autoencoder.encode(self.vae, start)).cpu()
        scene = image.to_tensor(draft.backdrop.pixels[draft.part.box.slices])
        return grounds.joined(scene, made, again, draft.condition.hole)

    def _parts(self, task: Task, job: Job) -> list[Part]:
        if task.fit != "hole":
            return [Part(*self.plan(task, job.hole))]
        return regions.split(job.hole, job.keep, self.config.tile)

    def _draft(
        self, task: Task, job: Job, part: Part, generator: torch.Generator | None, backdrop: Backdrop | None
    ) -> Draft:
        """Crop, scale to the working size, and pad."""
        box, size = part.box, part.size
        hole_here = job.hole[box.slices]
        native, native_hole = image.to_tensor(job.picture.crop(box).rgb(hole_here > 0)), torch_from(hole_here)
        small = composite.resize_given(native, native_hole, size)
        small_hole = _shrink_hole(native_hole, size)
        wanted = task.exemplars and backdrop is None and self._wants_exemplars()
        filled = exemplar.canvas(small, small_hole) if wanted else None
        pixels, hole = self._padded(small), self._padded(small_hole, hole=True)
        if filled is not None and self.config.canvas == "exemplar":
            canvas = self._padded(filled)
        else:
            canvas = task.canvas(pixels, hole)
        strength = torch.full((1,), job.strength)
        condition = Condition(canvas, hole, [task.name], [job.prompt], strength)
        if job.reference is not None and self._takes_reference(backdrop):
            seen = reference.square(job.reference, self.transformer.config.reference_size)
            condition = replace(condition, reference=seen, referenced=torch.ones(1, dtype=torch.bool))
        start = None
        if backdrop is not None:
            behind = composite.shrink(image.to_tensor(backdrop.pixels[box.slices]), size).clamp(-1, 1)
            start = self._padded(behind) * hole + pixels * (1 - hole)
        return Draft(job, part, native_hole, condition, native, generator, filled, backdrop, start)

    def _wants_exemplars(self) -> bool:
        return self.detail is not None or self.config.canvas == "exemplar"

    def _takes_reference(self, backdrop: Backdrop | None) -> bool:
        """Whether the transformer looks at references. Raises ValueError where nothing would: no backdrop is made of it
        either."""
        takes = bool(self.transformer.config.reference_embeds)
        if not takes and backdrop is None:
            raise ValueError(
                "reference: this model takes no reference image; leave it out and say it in the prompt, or train the "
                "model with model.reference=true"
            )
        return takes

    def _look(self, condition: Condition) -> Any:
        """What two conditions of batch 1 must have in common to be sampled together and come out as they would
        alone."""
        (prompt,), tiles = condition.prompt, self._tiling(condition.hole).boxes
        seen, room = condition.reference is not None, self._room([prompt])
        return condition.canvas.shape, tuple(condition.task), condition.strength.item(), room, seen, *tiles

    def _padded(self, x: Tensor, hole: bool = False) -> Tensor:
        """(B, C, H, W) up to whole patches, to the right and below. The model paints the padding, which nobody sees."""
        multiple = autoencoder.factor(self.vae) * self.transformer.config.patch_size
        padding = (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple)
        return F.pad(x, padding, value=1.0) if hole else F.pad(x, padding, mode="replicate")

    def _finished(self, made: Tensor, draft: Draft) -> Tensor:
        """What the model made (1, 3, H, W), padded, as the picture's own pixels within the box: (1, 3, H', W')."""
        height, width = draft.part.size
        made = made[..., :height, :width].float()
        if draft.exemplar is None:
            return self._enlarged(made, draft.hole, draft.generator)
        canvas, hole = draft.exemplar, draft.condition.hole[..., :height, :width]
        painted, followed = torch.where(hole > 0, made, canvas), torch.zeros_like(hole)
        if surfaces.surface_of(draft.job.prompt):  # words say which colour: the photograph's patches lend texture alone
            canvas = torch.where(hole > 0, canvas + masks.blur(painted - canvas, hole.new_tensor([_TONE])), canvas)
            canvas = canvas.clamp(-1, 1)
        if self.detail is not None:
            device = self._execution_device
            painted, followed = self.detail(canvas.to(device), painted.to(device), hole.to(device))
            painted, followed = painted.clamp(-1, 1).cpu(), followed.cpu()
            self.maybe_free_model_hooks()
        native = draft.hole.shape[-2:]
        if native == hole.shape[-2:]:
            return painted
        # Texture of the photograph, where its own patches were followed and not the model.
        texture = exemplar.texture(draft.pixels, draft.hole, draft.exemplar, hole)
        kept = 1 - composite.resize(followed, (native[0], native[1]))
        return (composite.resize(painted, (native[0], native[1])) + kept * texture).clamp(-1, 1)

    def _enlarged(self, made: Tensor, hole: Tensor, generator: torch.Generator | None) -> Tensor:
        """What was made at the working size, at the size of ``hole`` (1, 1, H, W): by the upscaler, or by the upscale
        task, where the checkpoint has it and the enlargement is worth it and not too large; by bicubic interpolation
        otherwise."""
        height, width = hole.shape[-2:]
        scale = max(height / made.shape[-2], width / made.shape[-1])
        if scale >= 1.25 and self.upscaler is not None:
            where = _shrink_hole(hole, (made.shape[-2], made.shape[-1]))
            detailed = superresolution.enlarged_to(self.upscaler, made, (height, width), where)
            return composite.back_project(detailed, made)
        pixels = composite.resize(made, (height, width))
        tiles = height * width / self.config.tile**2
        if scale < 1.25 or tiles > MOST_TILES or "upscale" not in self.transformer.config.tasks or self.interrupt:
            return pixels
        canvas = self._padded(pixels)
        strength = torch.tensor([enlargement_strength(scale)])
        condition = Condition(canvas, torch.ones_like(canvas[:, :1]), ["upscale"], [""], strength)
        steps = max(1, self._default_steps("upscale") // _DETAIL_SHARE)
        detailed = self.sample(condition, steps, 1.0, [generator], where=self._padded(hole, hole=True))
        return composite.back_project(detailed.cpu()[..., :height, :width], made)

    def plan(self, task: Task, hole: np.ndarray) -> tuple[Box, tuple[int, int]]:
        """Which part of the picture the model works on, and at which size (height, width), if it works on all of the
        hole at once (``photofound.edits.regions``)."""
        height, width = hole.shape
        tile = self.config.tile
        whole = Box(0, 0, width, height)
        if task.fit == "tiles":
            return whole, (height, width)
        if task.fit == "canvas":
            return whole, _scaled_size(whole, tile / max(height, width))
        part = regions.whole(hole, tile)
        return part.box, part.size

    # ------------------------------------------------------------------------------------------------------- sample

    @torch.no_grad()
    def sample(
        self,
        condition: Condition,
        steps: int,
        guidance: float,
        generators: Sequence[torch.Generator | None],
        callback: Callback | None = None,
        where: Tensor | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """The model alone: (B, 3, H, W) in [-1, 1] for a batch of conditions of one size, H and W multiples of f times
        the patch. ``where`` (B, 1, H, W) tells which part is wanted, by default the hole. With ``start`` (B, 3, H, W)
        in [-1, 1] sampling begins there, at half noise (SDEdit, arXiv:2108.01073).

        Pictures larger than ``tile`` are sampled as overlapping tiles whose velocities are averaged in every step
        (MultiDiffusion, arXiv:2302.08113, eq. 5), so that they agree.

        A batch gives the same latents as its members one by one. Three things would round differently: products with
        a single row, as time, task, strength and the empty prompt have them, so what all have in common is computed
        once; the autoencoder, which goes one by one; and attention to another number of tokens, so prompts are padded
        to ``_TEXT_ROOM``.
        """
        device, dtype = self._execution_device, self.transformer.dtype
        condition = condition.to(device)
        space = self.transformer.config.condition_space
        folded = torch.cat([fold_condition(each, self.vae, space) for each in condition.split()]).to(dtype)
        shape = (1, self.transformer.config.in_channels, *folded.shape[-2:])
        latents = torch.cat([_noise(shape, generator) for generator in generators]).to(device)
        once = is_regression(condition)[:, None, None, None]  # these start at 0, and their first step goes all the way
        latents, answer = torch.where(once, 0.0, latents * self.config.noise_scale), None
        steps = 1 if once.all() else steps
        draws = list(generators) if all(generators) else None  # a plain LCM scheduler adds noise after each step
        velocity = self._velocity(condition, folded, guidance, condition.hole if where is None else where)
        first, steps = (1.0, steps) if start is None else (_BEGIN, math.ceil(_BEGIN * steps))
        scheduler = copy.deepcopy(self.scheduler)  # it counts its steps, and other calls may run beside this one
        scheduler.set_timesteps(sigmas=np.linspace(first, first / steps, steps).tolist(), device=device)
        if start is not None:
            given = torch.cat([autoencoder.encode(self.vae, each) for each in start.to(device).split(1)])
            latents = torch.lerp(given.to(latents), latents, float(scheduler.sigmas[0]))
        with self._call() as call, self.progress_bar(total=steps) as bar:
            call.steps = steps
            for i, t in enumerate(scheduler.timesteps):
                v = velocity(latents, t / scheduler.config.num_train_timesteps)
                answer = latents - v if answer is None else answer
                latents = scheduler.step(v, t, latents, generator=draws, return_dict=False)[0]
                if callback is not None:
                    latents = _latents(callback(self, i, t, {"latents": latents}), latents)
                bar.update()
                if call.stop:
                    latents = latents - scheduler.sigmas[i + 1] * v  # straight to where it was going
                    break
        assert answer is not None
        latents = torch.where(once, answer, latents)
        decoded = torch.cat([autoencoder.decode(self.vae, each) for each in latents.split(1)])
        self.maybe_free_model_hooks()
        return decoded

    def _velocity(
        self, condition: Condition, folded: Tensor, guidance: float, where: Tensor
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The guided, tiled velocity field v(latents (B, C, h, w), t ()) of a condition. Text is encoded once."""
        from photofound.model import flow

        model, batch, distilled = self.transformer, len(condition), self.config.distilled
        told = None
        if distilled:  # a student knows guidance as an input, within the range that it was trained in
            told = torch.tensor([float(np.clip(guidance, *distilled["guidance"]))], device=folded.device)
        # Without a prompt or a reference both branches would be the same.
        wanted = any(condition.prompt) or condition.reference is not None
        guided = not distilled and guidance != 1 and wanted
        copies = 2 if guided else 1
        tokens, mask = self._encode_prompts(list(condition.prompt) + [""] * (batch * guided))
        heads = [model.task_index(name) for name in condition.task] * copies
        task = heads[0] if len(set(heads)) == 1 else torch.tensor(heads, device=folded.device)
        strength = condition.strength.float().repeat(copies)
        each: dict[str, Any] = {"task": task, "attention_mask": mask}
        each["strength"] = strength[:1] if bool((strength == strength[0]).all()) else strength
        each["text_kv"] = torch.cat([model.encode_text(row) for row in tokens.split(1)])
        if condition.reference is not None and condition.referenced is not None:
            clean = [autoencoder.encode(self.vae, row).to(model.dtype) for row in condition.reference.split(1)]
            each["reference_kv"] = torch.cat([model.encode_reference(row) for row in clean] * copies)
            nobody = torch.zeros_like(condition.referenced)
            each["referenced"] = torch.cat([condition.referenced, nobody][:copies])  # guidance compares with neither
        tiling = self._tiling(where)
        at_once = max(1, _TOKENS_AT_ONCE * model.config.patch_size**2 // (tiling.area * batch * copies))
        groups = [tiling.boxes[i : i + at_once] for i in range(0, len(tiling.boxes), at_once)]

        def per_tile(x: Any, tiles: int) -> Any:
            """(copies * B, ...) -> (copies * tiles * B, ...); what all have in common stays as it is."""
            if not isinstance(x, Tensor) or tiles == 1 or len(x) == 1:
                return x
            return x.unflatten(0, (copies, 1, batch)).expand(-1, tiles, *[-1] * x.ndim).flatten(0, 2)

        def velocity(latents: Tensor, t: Tensor) -> Tensor:
            total = torch.zeros_like(latents)
            for group in groups:
                x, given = (cut(part, group).to(folded.dtype).repeat(copies, 1, 1, 1) for part in (latents, folded))
                times = t.float().reshape(1)  # the model multiplies time by 1,000: bf16 would round it visibly
                inputs = {name: per_tile(value, len(group)) for name, value in each.items()}
                out = model(x, times, condition=given, guidance=told, **inputs).sample
                if model.config.prediction_type == "sample":
                    out = flow.to_velocity(x, out, times)
                out = out.float()
                if guided:
                    with_text, without = out.chunk(2)
                    out = without + guidance * (with_text - without)
                for box, tile in zip(group, out.chunk(len(group)), strict=True):
                    total[(..., *box.slices)] += tile * tiling.weight
            return total / tiling.coverage

        return velocity

    def _tiling(self, hole: Tensor) -> Tiling:
        """Tiles in latent units, without those that lie outside the hole."""
        f = autoencoder.factor(self.vae)
        patch = self.transformer.config.patch_size
        height, width = hole.shape[-2] // f, hole.shape[-1] // f
        side = geometry.round_up(self.config.tile // f, patch)
        overlap = side // _OVERLAP
        boxes = [_snapped(box, patch) for box in geometry.tiles(width, height, side, overlap)]
        rows, columns = (_ramp(length, overlap, hole.device) for length in (boxes[0].height, boxes[0].width))
        weight = rows[:, None] * columns[None, :]
        boxes = [b for b in boxes if hole[..., b.top * f : b.bottom * f, b.left * f : b.right * f].any()] or boxes
        coverage = torch.zeros(height, width, device=hole.device)
        for box in boxes:
            coverage[box.slices] += weight
        return Tiling(boxes, weight, torch.where(coverage > 0, coverage, 1.0))

    def _encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor | None]:
        """(B, L, D) embeddings, each prompt's computed alone, and the mask (B, L) of what is not padding, or None; of
        batch 1 where all prompts are the same."""
        if self.text_encoder is None:
            width = self.transformer.config.context_in_dim
            return text.no_text(1, width, self._execution_device, self.transformer.dtype), None
        prompts = prompts[:1] if len(set(prompts)) == 1 else prompts
        known = {p: text.encode(self.tokenizer, self.text_encoder, [p])[0] for p in set(prompts)}
        room = self._room(prompts)
        tokens = torch.cat([F.pad(known[p], (0, 0, 0, room - known[p].shape[1])) for p in prompts])
        lengths = torch.tensor([[known[p].shape[1]] for p in prompts], device=tokens.device)
        mask = torch.arange(room, device=tokens.device) < lengths
        return tokens.to(self.transformer.dtype), mask if any(prompts) else None

    def _room(self, prompts: Sequence[str]) -> int:
        """Tokens that these prompts are padded to; a lone empty prompt is not."""
        if self.text_encoder is None:
            return 1
        longest = max(text.count(self.tokenizer, prompt) for prompt in prompts)
        return geometry.round_up(longest, _TEXT_ROOM) if any(prompts) else longest


# ------------------------------------------------------------------------------------------- the pipelines of the tasks


def pipeline_class(name: str) -> type[EditPipeline]:
    """The pipeline of a task, ``InpaintPipeline`` for ``inpaint``: an EditPipeline that is called with the task's
    inputs. Raises ValueError naming the known tasks."""
    return _pipeline_class(get_task(name))


@cache
def _pipeline_class(task: Task) -> type[EditPipeline]:
    parameter, kinds = inspect.Parameter, inspect.Parameter
    parameters = [parameter("self", kinds.POSITIONAL_OR_KEYWORD)]
    parameters.append(parameter("image", kinds.POSITIONAL_OR_KEYWORD, annotation=ImageLike))
    for each in task.inputs:
        annotation = _ANNOTATIONS.get(each.kind, Any)
        parameters.append(
            parameter(each.name, kinds.POSITIONAL_OR_KEYWORD, default=each.default, annotation=annotation)
        )
    parameters.append(parameter("settings", kinds.VAR_KEYWORD, annotation=Unpack[Settings]))
    signature = inspect.Signature(parameters, return_annotation=EditOutput)

    def __call__(self: EditPipeline, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        inputs = dict(given.arguments)
        settings = inputs.pop("settings")
        del inputs["self"]
        return self.edit(inputs.pop("image"), settings, **inputs)

    title = class_name(task.name)
    __call__.__qualname__, __call__.__module__ = f"{title}.__call__", "photofound"
    __call__.__doc__ = _call_docstring(task)
    __call__.__signature__ = signature  # type: ignore[attr-defined]
    members = {"task_name": task.name, "__call__": __call__, "__doc__": inspect.getdoc(type(task)) or task.summary}
    return type(title, (EditPipeline,), members | {"__module__": "photofound", "__qualname__": title})


_ANNOTATIONS: dict[str, Any] = {
    "image": ImageLike,
    "mask": ImageLike,
    "text": str,
    "int": int | None,
    "length": int | str,
    "aspect": str | tuple[float, float] | None,
    "size": str | tuple[int, int] | None,
    "folder": str | Path | None,
}
_CALL = """Edit one picture, or a list of them.

Args:
    image: PIL image, numpy array (H, W) or (H, W, C), path or Picture; any size, 8 or 16 bit.
{inputs}    **settings: how to sample and what to return, see ``photofound.pipeline.Settings``.

Returns:
    EditOutput with ``images``, ``notes`` and ``keep``.
"""


def _call_docstring(task: Task) -> str:
    """That of ``prepare``, whose arguments and errors are the pipeline's, too."""
    own = inspect.getdoc(task.prepare) or ""
    inputs = re.search(r"^Args:\n((?: .*\n?|\n(?= ))*)", own, re.M)
    raises = re.search(r"^Raises:\n(?:.|\n)*", own, re.M)
    return _CALL.format(inputs=f"{inputs[1].rstrip()}\n" if inputs else "") + (f"\n{raises[0]}" if raises else "")


# ------------------------------------------------------------------------------------------------------------- helpers


def _generators(given: Any, count: int) -> list[torch.Generator | None]:
    if isinstance(given, (list, tuple)):
        if len(given) != count:
            raise ValueError(
                f"generator: got {len(given)} for {count} images; give one, or as many as num_images_per_prompt"
            )
    else:
        given = [given] * count  # each variant draws on from where the last one stopped
    for each in given:
        if each is not None and not isinstance(each, torch.Generator):
            raise ValueError(f"generator: {each!r} is none; pass torch.Generator().manual_seed(7)")
    return list(given)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _is_pair(value: Sequence[Any]) -> bool:
    return len(value) == 2 and all(isinstance(each, (int, float, np.number)) for each in value)


def _plain(value: Any) -> Any:
    """A number or string of numpy or torch as Python's own; anything else as it is."""
    single = isinstance(value, np.generic) or (isinstance(value, (np.ndarray, Tensor)) and value.ndim == 0)
    return value.item() if single else value


def _taken(each: Input, value: Any) -> Any:
    """A task's input as its ``prepare`` wants it."""
    value = _plain(value)
    if value is None and not each.required:
        return each.default
    if each.kind == "text" and not isinstance(value, str):
        raise ValueError(f"{each.name}: {value!r} is no text; pass a string")
    return value


def _latents(returned: Any, latents: Tensor) -> Tensor:
    """The latents to go on with after a callback."""
    if returned is None:
        return latents
    if not isinstance(returned, dict):
        raise ValueError(f"callback_on_step_end: it returned a {type(returned).__name__}; return a dict, or None")
    changed = returned.get("latents", latents)
    if not isinstance(changed, Tensor) or changed.shape != latents.shape:
        raise ValueError(f"callback_on_step_end: latents must stay a tensor of shape {tuple(latents.shape)}")
    return changed


def _generators_of_parts(generator: torch.Generator | None, count: int) -> list[torch.Generator | None]:
    """One for each part of an edit. Several draw from generators of their own, so that the order in which they are
    sampled, which company may change, does not matter."""
    if count == 1 or generator is None:
        return [generator] * count
    seeds = torch.randint(2**62, (count,), generator=generator, device=generator.device).tolist()
    return [torch.Generator(generator.device).manual_seed(seed) for seed in seeds]


def _noise(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device if generator is not None else "cpu").float()


def _scaled_size(box: Box, scale: float) -> tuple[int, int]:
    return max(1, round(box.height * scale)), max(1, round(box.width * scale))


def _shrink_hole(hole: Tensor, size: tuple[int, int]) -> Tensor:
    """A hole at another size; a pixel belongs to it as soon as any part of it does."""
    return (F.interpolate(hole, size=size, mode="area") > 1e-4).float()


def _snapped(box: Box, patch: int) -> Box:
    """A tile moved up and left onto whole patches."""
    left, top = box.left // patch * patch, box.top // patch * patch
    return Box(left, top, left + geometry.round_up(box.width, patch), top + geometry.round_up(box.height, patch))


def _ramp(length: int, rise: int, device: torch.device) -> Tensor:
    """Weights that rise over ``rise`` latents from each end of a tile and never reach 0."""
    position = torch.arange(length, device=device) + 0.5
    return torch.minimum(position, length - position).clamp(max=max(1, rise)) / max(1, rise)


_CONVERTERS: dict[str, Callable[[Picture], Any]] = {
    "pil": lambda picture: picture.to_pil(),
    "np": lambda picture: picture.to_float(),
    "pt": lambda picture: torch.from_numpy(picture.to_float()).permute(2, 0, 1),
    "picture": lambda picture: picture,
}


def _download_card(name: str, hub: dict[str, Any]) -> None:
    """Fetch the model's card to where its weights were downloaded, so that saving carries it along; or do without."""
    from huggingface_hub import snapshot_download

    options = {key: hub[key] for key in ("cache_dir", "local_files_only", "token", "revision") if key in hub}
    with suppress(OSError, ValueError):  # not there, or not reachable: nobody loads a model for its card
        snapshot_download(name, allow_patterns=[*card.FILES, "*.jpg", "*.png"], **options)


def _teacher(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """What differs when a student's folder is loaded as its teacher. Raises ValueError where it holds none."""
    distilled = read_json(folder / "model_index.json").get("distilled")
    if not distilled or not (folder / "teacher").is_dir():
        reason = "its folder holds no teacher/" if distilled else "it is no few-step student"
        raise ValueError(f"model: {folder} has no teacher to load, {reason}; leave teacher out")
    check_part(folder / "teacher", EditTransformer)
    check_part(folder / "teacher", FlowMatchEulerDiscreteScheduler)
    transformer = EditTransformer.from_pretrained(folder / "teacher", torch_dtype=dtype, use_safetensors=True)
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "teacher")
    settings = {"distilled": None, "default_steps": distilled["teacher_steps"]}
    settings["task_steps"] = distilled.get("task_steps")
    return {"transformer": transformer, "scheduler": scheduler, **settings}
