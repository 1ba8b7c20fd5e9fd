"""Paste-back: the seam between generated and given pixels is closed on the generated side; given pixels never change.

Shapes: B batch, C channels, H and W pixels. Masks are (B, 1, H, W).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_RELAXATIONS = 4
_OVERSHOOT = 1.5
_LARGE = 3_000_000  # pixels; for larger pictures the correction, which is smooth, is computed on a coarser grid


def harmonic(values: Tensor, known: Tensor) -> Tensor:
    """Spread known values smoothly into the unknown: an approximate solution of Laplace's equation.

    A multigrid cycle in the manner of pull-push interpolation (Gortler et al. 1996, section 3.4): known values are
    averaged down to one pixel, then interpolated back up, with a few Jacobi relaxations of the unknown at each level.

    Args:
        values: (B, C, H, W); values at unknown places are ignored.
        known: (B, 1, H, W) bool or {0, 1}.

    Returns:
        (B, C, H, W), equal to ``values`` where known; 0 in a sample where nothing is known.
    """
    known = known.to(values.dtype)
    height, width = values.shape[-2:]
    if height == 1 and width == 1:
        return values * known
    coarse = harmonic(*_pooled(values, known, 2))
    filled = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    filled = torch.lerp(filled, values, known)
    for _ in range(_RELAXATIONS):
        padded = F.pad(filled, (1, 1, 1, 1), mode="replicate")
        around = padded[..., 2:, 1:-1] + padded[..., :-2, 1:-1] + padded[..., 1:-1, 2:] + padded[..., 1:-1, :-2]
        filled = torch.lerp(around / 4, values, known)
    return filled


def close_seam(generated: Tensor, given: Tensor, hole: Tensor) -> Tensor:
    """Shift the generated pixels so that they meet the given ones along the hole's border (Poisson editing, Perez 2003,
    eq. 6).

    The difference between given and generated pixels outside the hole is spread harmonically into it and added there.

    Args:
        generated, given: (B, 3, H, W) in [-1, 1].
        hole: (B, 1, H, W) in [0, 1]; only pixels with 0 are given.

    Returns:
        (B, 3, H, W) in [-1, 1]; equal to ``given`` where the hole is 0.
    """
    known = hole == 0
    height, width = hole.shape[-2:]
    factor = math.ceil(math.sqrt(height * width / _LARGE))
    if factor <= 1:
        correction = harmonic(given - generated, known)
    else:
        coarse, some = _pooled(given - generated, known.to(given), factor)
        correction = F.interpolate(harmonic(coarse, some), size=(height, width), mode="bilinear", align_corners=False)
    return correction.add_(generated).clamp_(-1, 1).where(~known, given)


def _pooled(values: Tensor, known: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Means of the known values over cells of ``factor`` x ``factor``, and which cells have any: a coarser level."""
    weight = F.avg_pool2d(known, factor, ceil_mode=True, count_include_pad=False)
    means = F.avg_pool2d(values * known, factor, ceil_mode=True, count_include_pad=False) / weight.clamp(min=1e-6)
    return means, weight > 0


def back_project(generated: Tensor, low: Tensor, rounds: int = 5) -> Tensor:
    """Make an enlarged picture agree with the small one that it came from (Irani and Peleg 1991, eq. 4).

    Each round scales the picture down, compares it, and adds 1.5 times the difference, scaled up. Bicubic filters lose
    a part of it; with this over-relaxation five rounds come as near as eight without.

    Args:
        generated: (B, 3, H, W) in [-1, 1].
        low: (B, 3, h, w) in [-1, 1], h <= H and w <= W.
    """
    size = low.shape[-2:]
    for _ in range(rounds):
        difference = _OVERSHOOT * (low - shrink(generated, size))
        enlarged = F.interpolate(difference, size=generated.shape[-2:], mode="bicubic", align_corners=False)
        generated = enlarged.add_(generated).clamp_(-1, 1)
    return generated


def shrink(pixels: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Scale (B, C, H, W) down to ``size`` = (h, w) with a bicubic filter that does not alias."""
    if size[1] == 1 and size[0] > 1:  # torch 2.13 computes wrong values here, and right ones for the transposed picture
        return shrink(pixels.transpose(2, 3).contiguous(), (1, size[0])).transpose(2, 3)
    return F.interpolate(pixels, size=tuple(size), mode="bicubic", align_corners=False, antialias=True)


def resize_given(pixels: Tensor, hole: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale (B, 3, H, W) down to ``size`` without mixing pixels of the hole (B, 1, H, W) into given ones.

    Given pixels are averaged among themselves (normalised convolution, Knutsson and Westin 1993). Where no given pixel
    is near, the hole's own pixels are scaled.
    """
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels

    def smooth(x: Tensor) -> Tensor:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)

    given = (hole == 0).to(pixels)
    weight = smooth(given)
    averaged = smooth(pixels * given) / weight.clamp(min=1e-6)
    return torch.where(weight > 1e-3, averaged, resize(pixels, size))


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale (B, C, H, W) to ``size`` = (h, w), up or down, bicubic, clamped to the input's range."""
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    low, high = pixels.aminmax()
    return shrink(pixels, size).clamp(low, high)
