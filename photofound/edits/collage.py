"""Collages to train the cut-out on: objects with mattes on plain grounds and on other photographs.

Shapes: B batch, H and W pixels; RGB in [-1, 1], mattes in [0, 1], 1 = object.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from photofound.edits import masks
from photofound.edits.masks import uniform
from photofound.edits.task import Sample


def collage(sample: Sample, others: Sample | None, generator: torch.Generator) -> Sample:
    """Three in ten objects stay where they are, three go onto a plain ground, often with a shadow, and four onto
    another photograph; some with a second object. Any of them may be cut by the frame."""
    batch = len(sample)
    kind = uniform((batch, 1, 1, 1), 0, 1, generator)
    ground = torch.where(
        kind < 0.6, _plain(sample.pixels, generator), _zoomed((others or sample).pixels, 0.3, generator)
    )
    objects = torch.cat([_own_colours(sample.pixels, sample.matte), sample.matte], 1)
    matte = torch.zeros_like(sample.matte)
    second = uniform((batch, 1, 1, 1), 0, 1, generator) < 0.25
    for shown, layer in ((second, objects.roll(1, 0)), (torch.ones_like(second), objects)):
        layer = _placed(layer, generator)
        own = layer[:, 3:].clamp(0, 1) * shown
        ground = _shadowed(ground, own, generator)
        ground = torch.lerp(ground, _relit(layer[:, :3], generator), own)
        matte = torch.maximum(matte, own)
    there = _zoomed(torch.cat([sample.pixels, sample.matte], 1), 0.6, generator)
    pixels, matte = (torch.where(kind < 0.3, a, b) for a, b in ((there[:, :3], ground), (there[:, 3:], matte)))
    return replace(sample, pixels=_photographed(pixels, generator), matte=matte, latents=None)


def _maps(scale: Tensor, centre: Tensor, at: Tensor, angle: Tensor | None = None, flip: Tensor | None = None) -> Tensor:
    """(B, 2, 3) for ``affine_grid``: what lies around ``centre`` goes to ``at``, ``1 / scale`` times as large, turned
    by ``angle``; places (B, 2) as (x, y) in [-1, 1]."""
    angle = torch.zeros_like(scale) if angle is None else angle
    flip = torch.ones_like(scale) if flip is None else flip
    cos, sin = scale * angle.cos(), scale * angle.sin()
    turn = torch.stack([torch.stack([cos * flip, -sin], 1), torch.stack([sin * flip, cos], 1)], 1)  # (B, 2, 2)
    return torch.cat([turn, (centre - (turn @ at[..., None])[..., 0])[..., None]], 2)


def _warped(x: Tensor, maps: Tensor, padding: str) -> Tensor:
    grid = F.affine_grid(maps, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def _zoomed(x: Tensor, least: float, generator: torch.Generator) -> Tensor:
    """(B, C, H, W): a part of each, ``least`` to all of its sides, at full size."""
    batch = len(x)
    scale = uniform((batch,), least, 1, generator)
    centre = uniform((batch, 2), -1, 1, generator) * (1 - scale)[:, None]
    return _warped(x, _maps(scale, centre, torch.zeros_like(centre)), "reflection")


def _placed(x: Tensor, generator: torch.Generator) -> Tensor:
    """Objects (B, 4, H, W), RGB and matte, at a random place, size (15 to 110 % of the frame), angle and side."""
    batch, *_, height, width = x.shape
    solid = x[:, 3] > 0.5
    spans = []
    for axis, length in ((1, width), (2, height)):  # x, then y
        seen = solid.any(axis)
        where = (torch.arange(length, device=x.device) + 0.5) * 2 / length - 1
        low, high = torch.where(seen, where, 1.0).amin(1), torch.where(seen, where, -1.0).amax(1)
        spans.append(((low + high) / 2, ((high - low) / 2).clamp(min=0.05)))
    centre = torch.stack([middle for middle, _ in spans], 1)
    half = torch.maximum(spans[0][1], spans[1][1])
    size = uniform((batch,), math.log(0.15), math.log(1.1), generator).exp()
    size = torch.minimum(size, 1.6 * half)  # larger, it would be a blur
    at = uniform((batch, 2), -1, 1, generator) * (1 - 0.8 * size).clamp(min=0.15)[:, None]
    angle = uniform((batch,), -0.5, 0.5, generator) * (uniform((batch,), 0, 1, generator) < 0.5)
    flip = torch.where(uniform((batch,), 0, 1, generator) < 0.5, -1.0, 1.0)
    return _warped(x, _maps(half / size, centre, at, angle, flip), "zeros")


def _own_colours(pixels: Tensor, matte: Tensor) -> Tensor:
    """The objects' own colours where the matte is soft and the old ground shines through: ``matting.unmix`` in
    batches, with blurs of falling width in place of a pyramid."""
    rest = 1 - matte
    weights = matte.square() + 1e-3, rest.square() + 1e-3
    both = matte.square() + rest.square()
    own = behind = pixels
    for sigma in (6.0, 2.0, 1.0):
        width = torch.full((len(pixels),), sigma)
        own, behind = (
            masks.blur(x * w, width) / masks.blur(w, width) for x, w in zip((own, behind), weights, strict=True)
        )
        error = (pixels - matte * own - rest * behind) / both
        own, behind = (own + matte * error).clamp(-1, 1), (behind + rest * error).clamp(-1, 1)
    return torch.where((matte > 0) & (matte < 1), own, pixels)


def _relit(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """In a light of another strength and colour."""
    batch = len(pixels)
    gain = uniform((batch, 1, 1, 1), 0.75, 1.15, generator) * uniform((batch, 3, 1, 1), 0.93, 1.07, generator)
    return ((pixels + 1) * gain - 1).clamp(-1, 1)


def _shadowed(ground: Tensor, matte: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the objects darken the ground below and beside them, softly."""
    batch, _, height, width = ground.shape
    soft = masks.blur(matte, uniform((batch,), 0.01, 0.06, generator) * width)
    moved = uniform((batch, 2), -1, 1, generator) * 0.1 + torch.tensor([0.0, 0.08], device=ground.device)
    ones = torch.ones_like(moved[:, 0])
    soft = _warped(soft, _maps(ones, torch.zeros_like(moved), moved), "zeros")
    depth = uniform((batch, 1, 1, 1), 0.1, 0.7, generator) * (uniform((batch, 1, 1, 1), 0, 1, generator) < 0.5)
    return (ground + 1) * (1 - depth * soft) - 1


def _plain(like: Tensor, generator: torch.Generator) -> Tensor:
    """Even grounds of any colour, half of them nearly white, with a gradient of light."""
    batch, _, height, width = like.shape
    white = uniform((batch, 1, 1, 1), 0, 1, generator) < 0.5
    light = uniform((batch, 1, 1, 1), 0.85, 1.05, generator) + uniform((batch, 3, 1, 1), -0.02, 0.02, generator)
    colour = torch.where(white, light, uniform((batch, 3, 1, 1), 0, 1, generator))
    slopes = uniform((batch, 2, 1, 1), -1, 1, generator) * uniform((batch, 1, 1, 1), 0, 0.12, generator)
    y = torch.linspace(-1, 1, height, device=like.device)[:, None]
    x = torch.linspace(-1, 1, width, device=like.device)[None, :]
    return ((colour + slopes[:, :1] * y + slopes[:, 1:] * x).clamp(0, 1) * 2 - 1).to(like.dtype)


def _photographed(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """As one camera sees all of it: some a little out of focus, with grain."""
    batch = len(pixels)
    blurred = masks.blur(pixels, uniform((batch,), 0.3, 1.0, generator))
    pixels = torch.where(uniform((batch, 1, 1, 1), 0, 1, generator) < 0.4, blurred, pixels)
    grain = torch.randn(pixels.shape, generator=generator, device=pixels.device)
    return (pixels + grain * uniform((batch, 1, 1, 1), -0.04, 0.05, generator).clamp(min=0)).clamp(-1, 1)
