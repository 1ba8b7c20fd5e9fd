"""Other people's models behind our exact compositing: any inpainting, fill or editing pipeline of diffusers as the
painter.

    pipe = InpaintPipeline.from_pretrained("black-forest-labs/FLUX.1-Fill-dev")
    photofound outpaint cup.png --prompt "on a marble table" --model stable-diffusion-v1-5/stable-diffusion-inpainting

A guest is given a crop with context at the size that it was trained at. What comes back is put where it belongs (models
shift and zoom), its colours are matched beside the hole, the seam is closed, and the photograph's own pixels are put
back: what is kept is bit-exact, as with our own models. Weights are safetensors; no code of a checkpoint is run.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoPipelineForInpainting, DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from photofound import files
from photofound.device import fast_dtype
from photofound.edits import registration
from photofound.edits.task import Backdrop, Condition, get_task
from photofound.errors import first_line
from photofound.image import from_tensor, to_tensor
from photofound.model import fingerprint
from photofound.painting import Draft
from photofound.pipeline import EditPipeline
from photofound.sampling import Callback

_MULTIPLE = 8  # pixels that the sides of a guest's picture are a multiple of, if it does not say
_FALLBACK_SIDE = 512


@dataclass(frozen=True)
class Abilities:
    """What a diffusers pipeline can be asked for.

    Attributes:
        mask: it takes a mask, white = repaint.
        instruction: it takes a picture and words, and returns the picture changed.
        enlarges: by which factor it enlarges a picture; 0 = it does not.
        side: of the square that it was trained at, in pixels.
        multiple: what the sides of a picture must be a multiple of.
        steps, guidance: the defaults of its call; ``guidance_name`` is the argument.
    """

    mask: bool
    instruction: bool
    enlarges: int
    side: int
    multiple: int
    steps: int
    guidance: float
    guidance_name: str


def abilities(pipe: DiffusionPipeline) -> Abilities:
    """Read a pipeline's abilities from its class and its call. Raises ValueError for one that cannot edit."""
    call, kind = _arguments(pipe), type(pipe).__name__
    enlarges = (2 if "Latent" in kind else 4) if "Upscale" in kind else 0
    mask, picture = "mask_image" in call, "image" in call
    if not _edits(pipe):
        raise ValueError(
            f"model: {kind} makes pictures from words alone and has no way to edit one; name an editing model"
        )
    name = "true_cfg_scale" if "true_cfg_scale" in call and call["guidance_scale"].default is None else "guidance_scale"
    guidance = call[name].default if name in call else 1.0
    steps = call["num_inference_steps"].default if "num_inference_steps" in call else 50
    multiple = _multiple(pipe)
    return Abilities(
        mask, picture and not mask and not enlarges, enlarges, _side(pipe), multiple, steps, float(guidance), name
    )


def _arguments(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """What a pipeline can be called with."""
    return inspect.signature(pipe.__call__).parameters


def _edits(pipe: Any) -> bool:
    """Whether a pipeline takes a picture at all."""
    return not {"mask_image", "image"}.isdisjoint(_arguments(pipe)) or "Upscale" in type(pipe).__name__


def _multiple(pipe: Any) -> int:
    """The factor of the autoencoder, times that of the patches where the transformer has some."""
    processor = getattr(pipe, "image_processor", None)
    factor = getattr(getattr(processor, "config", None), "vae_scale_factor", None) or getattr(
        pipe, "vae_scale_factor", None
    )
    return max(_MULTIPLE, int(factor or _MULTIPLE))


def _side(pipe: Any) -> int:
    """The side of the pictures that a model was trained at."""
    size = getattr(pipe, "default_sample_size", None)
    network = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    size = size or getattr(getattr(network, "config", None), "sample_size", None)
    size = size[0] if isinstance(size, (list, tuple)) else size
    factor = getattr(pipe, "vae_scale_factor", _MULTIPLE)
    side = int(size * factor) if size else _FALLBACK_SIDE
    multiple = _multiple(pipe)
    return max(multiple, side // multiple * multiple)


@dataclass(frozen=True)
class Painter:
    """A diffusers pipeline that paints holes: the one thing that a guest must do.

    Attributes:
        pipe: the pipeline, loaded.
        can: what it can be asked for.
    """

    pipe: Any
    can: Abilities

    def paint(
        self,
        condition: Condition,
        steps: int,
        guidance: float,
        generators: Sequence[torch.Generator | None],
        step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """(B, 3, H, W) in [-1, 1]: each sample painted by itself, and brought back to where the given pixels lie."""
        made = []
        for each, generator in zip(condition.split(), generators, strict=True):
            answer = self.ask(each, steps, guidance, generator, step)
            made.append(to_tensor(answer if self.can.enlarges else self._as_given(answer, each)))
        return torch.cat(made)

    def ask(
        self,
        condition: Condition,
        steps: int,
        guidance: float,
        generator: torch.Generator | None,
        step: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """(H, W, 3) float32 in [0, 1]: what the guest makes of a condition of batch 1, untouched but for its size."""
        height, width = condition.canvas.shape[-2:]
        given, hole = from_tensor(condition.canvas), condition.hole[0, 0].cpu().numpy() > 0.5
        inputs: dict[str, Any] = {"prompt": condition.prompt[0], "image": _pil(given), "num_inference_steps": steps}
        inputs |= {self.can.guidance_name: guidance, "generator": generator, "output_type": "np"}
        inputs |= {"height": height, "width": width, "strength": 1.0, "max_area": height * width, "_auto_resize": False}
        if self.can.mask:
            inputs["mask_image"] = Image.fromarray(hole.astype(np.uint8) * 255)
        if self.can.guidance_name == "true_cfg_scale":
            inputs["negative_prompt"] = " "
        if self.can.enlarges:
            small = F.interpolate(condition.canvas, scale_factor=1 / self.can.enlarges, mode="area")  # what it enlarges
            inputs["image"] = _pil(from_tensor(small))
        if step is not None:
            inputs["callback_on_step_end"] = lambda pipe, index, *_: step(index) or {}
        known = _arguments(self.pipe)
        with self._cache():
            made = self.pipe(**{name: value for name, value in inputs.items() if name in known}).images[0]
        made = np.asarray(made, np.float32)
        if made.shape[:2] != (height, width):
            made = from_tensor(
                F.interpolate(to_tensor(made), size=(height, width), mode="bicubic", antialias=True).clamp(-1, 1)
            )
        return made

    def _cache(self) -> AbstractContextManager[None]:
        """What a first-block cache of diffusers wants around it; some pipelines see to it themselves, within."""
        network: Any = getattr(self.pipe, "transformer", None)
        cached = getattr(network, "is_cache_enabled", False) and hasattr(network, "cache_context")
        return network.cache_context("guest") if cached else nullcontext()

    def _as_given(self, made: np.ndarray, condition: Condition) -> np.ndarray:
        """Undo what the guest did to the pixels that it was to leave alone."""
        given, hole = from_tensor(condition.canvas), condition.hole[0, 0].cpu().numpy() > 0.5
        if hole.all():  # what changes is not known yet; most of it will be as it was
            hole = np.zeros_like(hole)
        found = registration.register(made, given, hole)
        if found.failed:
            warnings.warn(
                f"{type(self.pipe).__name__} did not return the picture that it was given (agreement "
                f"{found.agreement:.2f}); what is kept is exact, but the rest may not fit it",
                stacklevel=2,
            )
            return made
        made = registration.aligned(made, found)
        return registration.toned(made, given, hole) if hole.any() else made


def _pil(rgb: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(rgb * 255).astype(np.uint8))


class GuestPipeline(EditPipeline):
    """Our pipeline with a guest as its painter. ``EditPipeline.from_pretrained`` and those of the tasks return one for
    a folder or Hub id of another diffusers pipeline.

    Args:
        guest: the diffusers pipeline, loaded.
    """

    def __init__(self, guest: DiffusionPipeline) -> None:
        DiffusionPipeline.__init__(self)
        self._calls = {}
        self._adopt(Painter(guest, abilities(guest)))

    def _adopt(self, painter: Painter) -> None:
        """Paint with it, in the place of networks of our own."""
        self.painter = painter
        for part in ("transformer", "vae", "text_encoder", "tokenizer", "detail", "upscaler"):
            setattr(self, part, None)
        can = self.painter.can
        self.register_to_config(
            tile=can.side,
            default_steps=can.steps,
            default_guidance=can.guidance,
            task_steps=None,
            distilled=None,
            canvas="harmonic",
            surfaces=False,
            trained_tasks=None,
            prompt_tokens=None,
        )

    @classmethod
    def load(cls, source: str | Path, **options: Any) -> GuestPipeline:
        """A guest from a folder or a Hub id; ``options`` are those of diffusers' ``from_pretrained``.

        Raises ValueError for a folder that may not be loaded, or a pipeline that cannot edit. FileNotFoundError.
        """
        folder = Path(source)
        if folder.is_dir():
            check_guest(folder)
        options["torch_dtype"] = options.pop("dtype", None) or options.get("torch_dtype") or fast_dtype()
        try:
            guest = DiffusionPipeline.from_pretrained(str(source), use_safetensors=True, **options)
            if not _edits(guest):
                guest = AutoPipelineForInpainting.from_pipe(guest)  # a text-to-image model that has an inpainting way
        except (OSError, ValueError, TypeError) as error:
            reason = f"cannot be used for editing: {first_line(error)}"
            if folder.is_dir() and "PRX" in str(files.read_json(folder / "model_index.json")["_class_name"]):
                reason = f"is a PRX; convert it: photofound convert --from-prx {source} -o editor"
            raise ValueError(f"model: {source} {reason}") from error
        guest.set_progress_bar_config(disable=True)
        return cls(guest)

    @classmethod
    def _family(cls) -> type[EditPipeline]:
        return GuestPipeline

    @classmethod
    def from_pipe(cls, pipeline: Any, **components: Any) -> Any:
        """This task with another guest pipeline's guest."""
        made = cls(pipeline.painter.pipe)
        made.fallback = pipeline.fallback
        return made

    # ------------------------------------------------------------------------------------ what the guest does by itself

    @property
    def _execution_device(self) -> torch.device:
        device: torch.device = self.painter.pipe._execution_device
        return device

    @property
    def device(self) -> torch.device:
        device: torch.device = self.painter.pipe.device
        return device

    @property
    def precision(self) -> torch.dtype:
        network = getattr(self.painter.pipe, "transformer", None) or getattr(self.painter.pipe, "unet", None)
        return torch.float32 if network is None else next(network.parameters()).dtype

    def fingerprint(self) -> dict[str, Any]:
        return fingerprint.of_pipeline(self.painter.pipe)

    def to(self, *args: Any, **kwargs: Any) -> GuestPipeline:
        self.painter.pipe.to(*args, **kwargs)
        return self

    @property
    def _networks(self) -> dict[str, Any]:
        return {name: part for name, part in self.painter.pipe.components.items() if isinstance(part, nn.Module)}

    def maybe_free_model_hooks(self) -> None:
        """The guest does so after each of its calls."""

    def load_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """The guest's own; safetensors only."""
        self._require_whole("load_lora_weights")
        self.painter.pipe.load_lora_weights(*args, **{**kwargs, "use_safetensors": True})

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        self._require_whole("save_pretrained")
        self.painter.pipe.save_pretrained(*args, **kwargs)

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        self.painter.pipe.enable_model_cpu_offload(*args, **kwargs)

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        self.painter.pipe.enable_sequential_cpu_offload(*args, **kwargs)

    # --------------------------------------------------------------------------------------------------------- painting

    def is_trained(self, task: str) -> bool:
        can = self.painter.can
        if task in ("upscale", "cutout", "generate"):
            return task == "upscale" and can.enlarges > 0
        return can.instruction if get_task(task).instructs else can.mask or can.instruction

    def offers(self, task: str) -> bool:
        return not get_task(task).needs_network or self.is_trained(task)

    @property
    def parameter_count(self) -> int:
        network = getattr(self.painter.pipe, "transformer", None) or getattr(self.painter.pipe, "unet", None)
        return sum(weight.numel() for weight in network.parameters()) if network is not None else 0

    def check_task(self, task: str) -> None:
        """Raises ValueError for a task that the guest cannot do."""
        if not self.offers(task):
            kind = type(self.painter.pipe).__name__
            raise ValueError(f"{task}: {kind} cannot do it; use the embedded model (leave --model out) or another one")

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
        resample: int = 1,
    ) -> Tensor:
        """The guest in place of the transformer. A background that is given is taken as it is."""
        if start is not None:
            return start

        def step(index: int) -> None:
            if callback is not None:
                callback(self, index, torch.zeros(()), {"latents": condition.canvas})
            bar.update()
            if self.interrupt:
                self.painter.pipe._interrupt = True

        with self._call() as call:
            bar = self._bar(call, steps * len(condition))
            return self.painter.paint(condition, steps, guidance, generators, step).to(condition.canvas)

    def _joined(self, draft: Draft, made: Tensor) -> Tensor:
        assert isinstance(draft.backdrop, Backdrop)
        return to_tensor(draft.backdrop.pixels[draft.part.box.slices])

    def _batch_key(self, condition: Condition) -> Any:
        return (object(),)  # guests are asked one by one

    @property
    def _pixel_multiple(self) -> int:
        return self.painter.can.multiple

    def _wants_exemplars(self) -> bool:
        return False

    def _takes_reference(self, backdrop: Backdrop | None) -> bool:
        if backdrop is None:
            raise ValueError(f"reference: {type(self.painter.pipe).__name__} is given none here; say it in the prompt")
        return False


def check_guest(folder: Path) -> None:
    """Refuse a guest's folder that is not to be loaded: code, pickled weights alone, classes from elsewhere. Raises
    ValueError."""
    index = files.read_json(folder / "model_index.json")
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or entry[:1] == [None]:
            continue
        library = str(entry[0]).split(".")[0]
        if library not in ("diffusers", "transformers") and not hasattr(diffusers.pipelines, library):
            raise ValueError(f"model: {folder}: {name} is of {entry[0]!r}; only diffusers and transformers are trusted")
        part = folder / name
        weights = [path for path in part.glob("*") if path.suffix in files.PICKLE_SUFFIXES]
        if weights and not list(part.glob("*.safetensors")):
            raise ValueError(f"model: {weights[0]} is a pickle, which may run code; save it as safetensors")
    if code := sorted(folder.rglob("*.py")):
        raise ValueError(f"model: {code[0]} is code, which is never run; remove it if the model does without")
