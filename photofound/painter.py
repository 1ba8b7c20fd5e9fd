"""A diffusers pipeline as the painter: what its class can be asked for, and how it is asked."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoPipelineForText2Image, DiffusionPipeline
from PIL import Image
from torch import Tensor

from photofound.edits import registration
from photofound.edits.task import Condition
from photofound.image import from_tensor, to_tensor

_MULTIPLE = 8  # pixels that the sides of a guest's picture are a multiple of, if it does not say
_UNET_SIDE, _TRANSFORMER_SIDE = 512, 1024  # of the pictures of a network that does not say
_MASKS = ("mask_image", "mask")
# Classes that take a picture and words, and do not change the picture by the words.
_NO_EDITORS = (
    "Control Adapter Img2Img Depth2Img DiffEdit Variation Video Refiner CLIP Guided UniDiffuser CycleDiffusion Layered "
    "SuperResolution AnimateDiff VisualCloze"
).split()
# Classes for which several pictures are one edit's: the first is changed, the others are looked at.
_SEVERAL = ("QwenImageEditPlus", "QwenImage21", "Flux2", "ZImageOmni")
_RELATIVES = {
    "FluxKontextPipeline": "FluxKontextInpaintPipeline"
}  # the same weights, and a class that takes references
_ADAPTER = "ip_adapter_image"


@dataclass(frozen=True)
class Abilities:
    """What a diffusers pipeline can be asked for.

    Attributes:
        mask: it takes a mask, white = repaint.
        instruction: it takes a picture and words, and returns the picture changed.
        words: it makes a picture from words alone.
        reference: the argument that takes a picture of what is to be painted; ``image``: beside the picture, in a
            list; "" = it takes none.
        enlarges: by which factor it enlarges a picture; 0 = it does not.
        side: of the square that it was trained at, in pixels.
        multiple: what the sides of a picture must be a multiple of.
        steps, guidance: the defaults of its call; ``guidance_name`` is the argument.
    """

    mask: bool
    instruction: bool
    words: bool
    reference: str
    enlarges: int
    side: int
    multiple: int
    steps: int
    guidance: float
    guidance_name: str


def abilities(pipe: DiffusionPipeline) -> Abilities:
    """Read a pipeline's abilities from its class and its call. Raises ValueError for one that can do nothing here."""
    call, kind = _arguments(pipe), type(pipe).__name__
    enlarges = (2 if "Latent" in kind else 4) if "Upscale" in kind else 0
    mask, words = _mask_name(pipe) != "", text_to_image(pipe) is not None
    edits = "image" in call and "prompt" in call and "num_frames" not in call
    instruction = edits and not mask and not enlarges and not any(part in kind for part in _NO_EDITORS)
    if "Control" in kind or not (mask or instruction or words or enlarges):
        raise ValueError(
            f"{kind} neither edits a picture by a mask or words nor makes one from words; name another one"
        )
    true_guidance = "true_cfg_scale" in call and getattr(call.get("guidance_scale"), "default", None) is None
    name = "true_cfg_scale" if true_guidance else "guidance_scale"
    guidance = call[name].default if name in call else 1.0
    steps = call["num_inference_steps"].default if "num_inference_steps" in call else 50
    return Abilities(
        mask, instruction, words, _reference_name(pipe), enlarges, _side(pipe), _multiple(pipe), steps,
        float(1.0 if guidance is None else guidance), name,
    )  # fmt: skip


def _arguments(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """What a pipeline can be called with."""
    return inspect.signature(pipe.__call__).parameters


def edits(pipe: Any) -> bool:
    """Whether a pipeline takes a picture to work on."""
    kind = type(pipe).__name__
    return _mask_name(pipe) != "" or ("image" in _arguments(pipe) and "Img2Img" not in kind) or "Upscale" in kind


def text_to_image(pipe: Any) -> Any:
    """The pipeline on the same weights that makes pictures from words, by ``AutoPipelineForText2Image``: itself, a
    relative, or None where there is none, or where the network wants more than the noise (a mask's channels)."""
    try:
        found = AutoPipelineForText2Image.from_pipe(pipe)
    except (ValueError, TypeError, AttributeError):
        return None
    network: Any = _network(pipe)
    channels = getattr(getattr(network, "config", None), "in_channels", None)
    config = getattr(getattr(found, "vae", None), "config", None)
    latents = getattr(config, "latent_channels", None) or getattr(config, "z_dim", None)
    if channels and latents and channels not in (latents, 4 * latents):  # 4: of patches of 2 x 2
        return None
    found.set_progress_bar_config(disable=True)
    return found


def _mask_name(pipe: Any) -> str:
    """The argument that takes a mask; "" where none does."""
    call = _arguments(pipe)
    return next((name for name in _MASKS if name in call and "image" in call), "")


def _reference_name(pipe: Any) -> str:
    call, kind = _arguments(pipe), type(pipe).__name__
    if kind in _RELATIVES or "image_reference" in call:
        return "image_reference"
    if "example_image" in call:
        return "example_image"
    if _ADAPTER in call and has_adapter(pipe):
        return _ADAPTER
    return "image" if any(part in kind for part in _SEVERAL) and "image" in call else ""


def has_adapter(pipe: Any) -> bool:
    """Whether an IP-adapter (arXiv:2308.06721) is loaded."""
    network: Any = _network(pipe)
    kind = getattr(getattr(network, "config", None), "encoder_hid_dim_type", None)
    return kind == "ip_image_proj" or getattr(network, "image_proj", None) is not None


def _network(pipe: Any) -> Any:
    """The network that paints."""
    return getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)


def _multiple(pipe: Any) -> int:
    """The factor of the autoencoder, times that of the patches where the transformer has some."""
    processor, factor = getattr(pipe, "image_processor", None), getattr(pipe, "vae_scale_factor", None)
    said = getattr(getattr(processor, "config", None), "vae_scale_factor", None)
    patch = getattr(getattr(getattr(pipe, "transformer", None), "config", None), "patch_size", None)
    return max(_MULTIPLE, int(said or 0), int(factor or 0) * (patch if isinstance(patch, int) else 1))


def _side(pipe: Any) -> int:
    """The side of the pictures that a model was trained at."""
    size, network = getattr(pipe, "default_sample_size", None), _network(pipe)
    size = size or getattr(getattr(network, "config", None), "sample_size", None)
    size = size[0] if isinstance(size, (list, tuple)) else size
    factor = getattr(pipe, "vae_scale_factor", _MULTIPLE)
    fallback = _TRANSFORMER_SIDE if getattr(pipe, "transformer", None) is not None else _UNET_SIDE
    side, multiple = int(size * factor) if size else fallback, _multiple(pipe)
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
        negative: str = "",
    ) -> Tensor:
        """(B, 3, H, W) in [-1, 1]: each sample painted by itself, and brought back to where the given pixels lie."""
        made = []
        for each, generator in zip(condition.split(), generators, strict=True):
            answer = self.ask(each, steps, guidance, generator, step, negative)
            given = not self.can.enlarges and each.task[0] != "generate"
            made.append(to_tensor(self._as_given(answer, each) if given else answer))
        return torch.cat(made)

    def ask(
        self,
        condition: Condition,
        steps: int,
        guidance: float,
        generator: torch.Generator | None,
        step: Callable[[int], None] | None = None,
        negative: str = "",
    ) -> np.ndarray:
        """(H, W, 3) float32 in [0, 1]: what the guest makes of a condition of batch 1, untouched but for its size."""
        height, width = condition.canvas.shape[-2:]
        pipe, asked = self._question(condition)
        known, kind = _arguments(pipe), type(self.pipe).__name__
        inputs: dict[str, Any] = {"prompt": condition.prompt[0], "num_inference_steps": steps, "output_type": "np"}
        inputs |= {self.can.guidance_name: guidance, "generator": generator, "height": height, "width": width}
        inputs |= {"strength": 1.0, "max_area": height * width, "_auto_resize": False, "use_resolution_binning": False}
        if self.can.guidance_name == "true_cfg_scale":
            inputs["negative_prompt"] = " "
        if negative:
            inputs["negative_prompt"] = negative
            if "negative_prompt" not in known:
                raise ValueError(f"negative_prompt: {kind} takes none; say it in the prompt")
        if step is not None:
            inputs["callback_on_step_end"] = lambda pipe, index, *_: step(index) or {}
        with self._cache():
            made = pipe(**{name: value for name, value in (inputs | asked).items() if name in known}).images[0]
        if pipe is not self.pipe:
            self.pipe.maybe_free_model_hooks()  # a relative does not know of them
        made = np.asarray(made, np.float32)
        if made.shape[:2] != (height, width):
            made = from_tensor(
                F.interpolate(to_tensor(made), size=(height, width), mode="bicubic", antialias=True).clamp(-1, 1)
            )
        return made

    def _question(self, condition: Condition) -> tuple[Any, dict[str, Any]]:
        """Which pipeline is asked, and with which pictures. Raises ValueError for a reference that is missing."""
        missing = self.can.reference in ("example_image", _ADAPTER) and condition.reference is None
        if missing and not self.can.enlarges:
            loaded = " for its IP-adapter, or unload_ip_adapter()" * (self.can.reference == _ADAPTER)
            raise ValueError(f"reference: {type(self.pipe).__name__} paints what a picture shows; pass one{loaded}")
        if condition.task[0] == "generate" and (maker := self._maker) is not None:
            return maker, {}
        reference = None if condition.reference is None else _pil(from_tensor(condition.reference))
        pipe, pictures = self.pipe, dict[str, Any](image=_pil(from_tensor(condition.canvas)))
        if self.can.enlarges:
            small = F.interpolate(condition.canvas, scale_factor=1 / self.can.enlarges, mode="area")  # what it enlarges
            return pipe, {"image": _pil(from_tensor(small))}
        if reference is not None and self.can.reference not in _arguments(pipe):
            pipe = self._relative
        if mask := _mask_name(pipe):
            pictures[mask] = Image.fromarray((condition.hole[0, 0].cpu().numpy() > 0.5).astype(np.uint8) * 255)
        if reference is not None:
            beside = [pictures["image"], reference]
            pictures[self.can.reference] = beside if self.can.reference == "image" else reference
        return pipe, pictures

    @cached_property
    def _maker(self) -> Any:
        return text_to_image(self.pipe)

    @cached_property
    def _relative(self) -> Any:
        """The class that takes references, on the same weights."""
        cls: Any = getattr(diffusers, _RELATIVES[type(self.pipe).__name__])
        found = cls(**self.pipe.components)
        found.set_progress_bar_config(disable=True)
        return found

    def stop(self) -> None:
        """Take no further step."""
        for pipe in (self.pipe, self.__dict__.get("_maker"), self.__dict__.get("_relative")):
            if pipe is not None:
                pipe._interrupt = True

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
