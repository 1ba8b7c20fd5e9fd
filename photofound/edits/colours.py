"""Colours and the words for them: the colour of a photograph's background, and backgrounds in other colours.

Few photographs of products have coloured backgrounds, and captions seldom name them. Without both, colour words in a
prompt would mean nothing to a model.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from photofound.edits.ground import ground_colour, lab
from photofound.edits.task import Sample

# Names that people use for backgrounds, with typical sRGB values.
COLOURS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "white": ((245, 245, 245),), "light grey": ((205, 205, 205),), "grey": ((140, 140, 140),),
    "dark grey": ((75, 75, 75),), "black": ((20, 20, 20),), "red": ((200, 30, 35),),
    "dark red": ((115, 20, 25),), "orange": ((235, 130, 35),), "brown": ((115, 75, 45),),
    "light brown": ((175, 130, 90),), "beige": ((220, 200, 170),), "yellow": ((235, 210, 60),),
    "green": ((60, 145, 60),), "dark green": ((30, 75, 40),), "light green": ((165, 215, 140),),
    "teal": ((40, 135, 135),), "blue": ((45, 95, 190), (15, 10, 230)), "light blue": ((160, 200, 235),),
    "dark blue": ((25, 40, 95), (10, 10, 125), (25, 25, 112)),
    "purple": ((110, 60, 150), (128, 0, 128), (75, 0, 130), (140, 45, 225)), "pink": ((235, 150, 175),),
}  # fmt: skip
_SHADES = [(name, shade) for name, shades in COLOURS.items() for shade in shades]


def colour_name(rgb: np.ndarray) -> str:
    """The nearest name in ``COLOURS`` for an sRGB colour (3,) in 0..255; lightness counts half."""
    return colour_names(rgb)[0]


def colour_names(rgb: np.ndarray) -> list[str]:
    """The nearest name for each of (N, 3) colours."""
    weights = np.array([0.5, 1.0, 1.0], np.float32)
    shades = lab(np.array([shade for _, shade in _SHADES], np.float32)) * weights
    distance = ((shades[None] - (lab(rgb) * weights)[:, None]) ** 2).sum(2)
    return [_SHADES[index][0] for index in distance.argmin(1)]


def border_colour(pixels: Tensor) -> str | None:
    """The name of the colour that dominates a picture's border (3, H, W uint8), or None if no colour does."""
    colour = ground_colour(pixels.permute(1, 2, 0).numpy())
    return None if colour is None else colour_name(colour)


_BACKGROUND_WORDS = ("background", "background", "cloth", "table", "surface", "wall", "backdrop", "floor")


def recolour_backgrounds(sample: Sample, share: float, generator: torch.Generator) -> Sample:
    """Give about ``share`` of a batch of objects a background of another colour, and a prompt that names it.

    The colour before has no influence. In half of the cases the words for the object stay in the prompt.

    Args:
        generator: on the CPU.
    """
    if not share:
        return sample
    prompts, colours = list(sample.prompt), []
    chosen = (torch.rand(len(prompts), generator=generator) < share).nonzero()[:, 0]
    for i in chosen.tolist():
        name, shade = _SHADES[int(torch.randint(len(_SHADES), (), generator=generator))]
        jitter = 0.12 * torch.rand(3, generator=generator) - 0.06
        colours.append((torch.tensor(shade) / 255 + jitter).clamp(0, 1))
        ground = f"on a {name} {_BACKGROUND_WORDS[int(torch.randint(len(_BACKGROUND_WORDS), (), generator=generator))]}"
        subject = _subject(prompts[i])
        short = float(torch.rand((), generator=generator)) < 0.5
        prompts[i] = ground if short or not subject else f"{subject} {ground}"
    if not colours:
        return sample
    pixels, rows = sample.pixels.clone(), chosen.to(sample.pixels.device)
    pixels[rows] = recolour_background(pixels[rows], sample.matte[rows], torch.stack(colours).to(pixels))
    return replace(sample, pixels=pixels, prompt=prompts)


def _subject(prompt: str) -> str:
    """The part of a caption before the background; "" if it describes only the background."""
    return "" if prompt.startswith("on a ") or prompt.endswith(" background") else prompt.split(" on a ")[0]


def recolour_background(pixels: Tensor, matte: Tensor, colour: Tensor) -> Tensor:
    """The background in another colour and its own light: the colour times the background's luma over its mean.

    Args:
        pixels: (B, 3, H, W) in [-1, 1].
        matte: (B, 1, H, W) in [0, 1], 1 = the object, which stays as it is.
        colour: (B, 3) in [0, 1].
    """
    weights = pixels.new_tensor([0.299, 0.587, 0.114])[:, None, None]
    luma = ((pixels + 1) / 2 * weights).sum(1, keepdim=True)
    area = (1 - matte).sum((1, 2, 3), keepdim=True).clamp(min=1)
    mean = (luma * (1 - matte)).sum((1, 2, 3), keepdim=True) / area
    ground = (colour[:, :, None, None] * luma / mean.clamp(min=0.05)).clamp(0, 1) * 2 - 1
    return matte * pixels + (1 - matte) * ground
