"""What a call of a pipeline takes and gives: settings, results, and how arguments are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from photofound.edits.inputs import Input, check_text
from photofound.edits.scores import MOST, Scores
from photofound.edits.segmenter import is_points
from photofound.image import Picture
from photofound.picture import show
from photofound.picture.layers import Layer
from photofound.sampling import Callback

ImageLike = Any  # Picture, PIL image, numpy array (H, W) or (H, W, C), path


class Settings(TypedDict, total=False):
    """How to sample and what to return; keyword arguments of every pipeline.

    Attributes:
        num_inference_steps: sampling steps, 1 to 1000; left out or None, the checkpoint's default.
        guidance_scale: classifier-free guidance (arXiv:2207.12598, eq. 6), 1 = off; left out or None, the checkpoint's
            default. A few-step student is told the scale instead of being computed twice; it takes the nearest one that
            it was trained with.
        num_images_per_prompt: variants, >= 1.
        negative_prompt: what guidance leads away from; None or "" = nothing. Not for a few-step student.
        resample: how often each step is taken for a task that the model was never trained for, 1 to 20 (RePaint,
            arXiv:2201.09865): more lets what is made fit what is given better. Left out or None, 4.
        best_of: of how many results the best is returned, 1 to 16, by ``photofound.edits.scores``; they draw from one
            generator in turn. For edits that keep something. Left out or None, 1.
        generator: the seed: a whole number, one generator, or a list with one per result. With one, variant i equals
            what the i-th call with that generator gives.
        callback_on_step_end: ``f(pipe, step, timestep, {"latents": ...})``, as in diffusers. It may return a dict with
            other latents of the same shape, or None. ``pipe._interrupt = True`` ends its own call; from another thread
            it ends every call that runs. The picture is then what the model saw coming, and what had not been begun,
            further variants or pictures, is not in the result.
        callback_on_step_end_tensor_inputs: what the callback is given: ``["latents"]``, all that there is.
        output_type: ``pil``; ``np``, (H, W, C) float32 in [0, 1]; ``pt``, (C, H, W); or ``picture``, which keeps depth
            and profile.
        return_dict: True for an EditOutput, False for the tuple ``(images,)``.
        layers: True for ``EditOutput.layers``, too; or a path, ``out.ora`` or ``out.psd``, where they are written,
            numbered if there are several results. Raises ValueError for a task without layers, and what writing raises.
    """

    num_inference_steps: int | None
    guidance_scale: float | None
    num_images_per_prompt: int
    negative_prompt: str | None
    resample: int | None
    best_of: int | None
    generator: torch.Generator | int | list[torch.Generator | int] | None
    callback_on_step_end: Callback | None
    callback_on_step_end_tensor_inputs: Sequence[str] | None
    output_type: str
    return_dict: bool
    layers: bool | str | Path | None


@dataclass
class EditOutput(BaseOutput):
    """What an edit gives.

    Attributes:
        images: a list of results, of the type that ``output_type`` names.
        notes: what the edit says of each, such as which background was chosen; empty where there is nothing to say.
        keep: (H, W) float32 in [0, 1], of the results' size: 1 = came back exactly, 0 = made, between = mixed. For
            outpaint it is the subject.
        layers: of each result, from the bottom to the top (``photofound.picture.layers``); None if not asked for.
        scores: of each result that was judged (``best_of``, a fallback), ``photofound.edits.scores.Scores``; None where
            none was.
    """

    images: list[Any]
    notes: list[str] | None = None
    keep: np.ndarray | None = None
    layers: list[list[Layer]] | None = None
    scores: list[Scores] | None = None

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the results beside each other."""
        return show.png(*((each.rgb(), each.alpha()) for each in map(Picture.from_any, self.images)))


def generators_of(given: Any, count: int) -> list[torch.Generator | None]:
    if isinstance(given, (list, tuple)):
        if len(given) != count:
            raise ValueError(
                f"generator: got {len(given)} for {count} images; give one, or as many as num_images_per_prompt"
            )
        given = [_from_seed(each) for each in given]
    else:
        given = [_from_seed(given)] * count  # each variant draws on from where the last one stopped
    for each in given:
        if each is not None and not isinstance(each, torch.Generator):
            raise ValueError(f"generator: {each!r} is none; pass torch.Generator().manual_seed(7)")
    return list(given)


def _from_seed(value: Any) -> Any:
    return torch.Generator().manual_seed(plain(value)) if _is_seed(value) else value


class Seeds:
    """Which seed and which variant each picture of a call has, so that it can be made again alone."""

    def __init__(self) -> None:
        self._drawn: dict[int, tuple[int | None, Any, int]] = {}  # by generator: its seed, the job, pictures so far

    def of(self, generator: torch.Generator | None, job: Any) -> tuple[int | None, int]:
        """The seed, and how many pictures of the job were drawn from its generator before; the seed is None if that
        cannot be said: without a generator, with one that somebody has drawn from, or that another job has."""
        if generator is None:
            return None, 0
        if id(generator) not in self._drawn:
            fresh = torch.Generator(generator.device).manual_seed(generator.initial_seed())
            same = torch.equal(fresh.get_state(), generator.get_state())
            self._drawn[id(generator)] = (generator.initial_seed() if same else None, job, 0)
        seed, first, count = self._drawn[id(generator)]
        self._drawn[id(generator)] = (seed, first, count + 1)
        return (seed if first is job else None), count


def _is_seed(value: Any) -> bool:
    return isinstance(plain(value), int) and not isinstance(value, bool)


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def as_picture(source: Any) -> Picture | None:
    return None if source is None else Picture.from_any(source)


def repeats(value: Any) -> int:
    return _count("resample", value, REPEATS, 20)


def candidates(value: Any) -> int:
    return _count("best_of", value, 1, MOST)


def _count(name: str, value: Any, default: int, most: int) -> int:
    value = default if value is None else plain(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"{name}: {value!r} must be a whole number from 1 to {most}")
    return value


def is_pair(value: Sequence[Any]) -> bool:
    return len(value) == 2 and all(isinstance(each, (int, float, np.number)) for each in value)


def plain(value: Any) -> Any:
    """A number or string of numpy or torch as Python's own; anything else as it is."""
    single = isinstance(value, np.generic) or (isinstance(value, (np.ndarray, Tensor)) and value.ndim == 0)
    return value.item() if single else value


def input_value(each: Input, value: Any) -> Any:
    """A task's input as its ``prepare`` wants it."""
    value = plain(value)
    if value is None and not each.required:
        return each.default
    if each.kind == "text" and not isinstance(value, str):
        raise ValueError(f"{each.name}: {value!r} is no text; pass a string")
    if each.kind == "text" or (each.kind == "background" and isinstance(value, str)):
        check_text(each.name, value)
    return value


# Arguments of other pipelines, and what stands for them here.
ELSEWHERE = {
    "height": "a result has the photograph's size; expand and generate take size=, upscale takes scale=",
    "width": "a result has the photograph's size; expand and generate take size=, upscale takes scale=",
    "strength": "holes are painted from nothing; a grey mask mixes old and new, and reference= starts from a picture",
    "padding_mask_crop": "a crop around the hole is taken by itself",
    "prompt_2": "there is one prompt; pass it as prompt=",
    "prompt_embeds": "pass the words as prompt=",
    "latents": "pass generator= for the same noise",
    "true_cfg_scale": "it is guidance_scale= here",
    "sigmas": "pass num_inference_steps=",
    "timesteps": "pass num_inference_steps=",
}


CONVERTERS: dict[str, Callable[[Picture], Any]] = {
    "pil": lambda picture: picture.to_pil(),
    "np": lambda picture: picture.to_float(),
    "pt": lambda picture: torch.from_numpy(picture.to_float()).permute(2, 0, 1),
    "picture": lambda picture: picture,
}


REPEATS = 4  # of a step, for a task that the model was never trained for (docs/experiments.md)

SINGLE: dict[str, Callable[[Any], bool]] = {
    "aspect": is_pair,
    "size": is_pair,
    "sides": lambda value: isinstance(value, tuple),
    "place": lambda value: isinstance(value, tuple),
    "points": is_points,
}
"""Kinds of input whose values may be sequences, and whether one is a single value."""
