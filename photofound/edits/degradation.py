"""Photographs made worse, to train on: small, soft, noisy, JPEG-coded. The target is the sharp original.

The order of Real-ESRGAN (arXiv:2107.10833, section 3.1): blur, shrink, then noise and JPEG in random order.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from photofound.edits import composite, masks


def degraded_canvas(pixels: Tensor, factor: int, generator: torch.Generator) -> Tensor:
    """What ``degrade`` gives, enlarged to the size of ``pixels`` again: (B, 3, H, W) in [-1, 1]."""
    low = degrade(pixels, factor, generator)
    return F.interpolate(low, size=pixels.shape[-2:], mode="bicubic", align_corners=False).clamp(-1, 1)


def degrade(pixels: Tensor, factor: int, generator: torch.Generator, share: float = 0.5) -> Tensor:
    """Shrink a batch by ``factor``, and make a part of it worse.

    Args:
        pixels: (B, 3, H, W) in [-1, 1].
        factor: of each side; the result is rounded up to whole pixels.
        generator: what is drawn is drawn from it.
        share: of the batch that may be blurred, noised and JPEG-coded, each with a probability of 0.6. The rest is
            only shrunk, since many photographs that people enlarge are clean.

    Returns:
        (B, 3, h, w) in [-1, 1].
    """
    batch, _, height, width = pixels.shape
    on = (torch.rand(3, batch, 1, 1, 1, generator=generator, device=generator.device) < 0.6) & (
        torch.rand(batch, 1, 1, 1, generator=generator, device=generator.device) < share
    )
    sigma = masks.uniform((batch,), 0.3, 0.5 * factor, generator)
    low = torch.where(on[0], masks.blur(pixels, sigma), pixels) if on.any() else pixels
    low = composite.shrink(low, (math.ceil(height / factor), math.ceil(width / factor))).clamp(-1, 1)
    steps = [
        lambda x: torch.where(on[1], _add_noise(x, generator), x),
        lambda x: torch.where(on[2], _jpeg_round_trip(x, generator), x),
    ]
    for i in torch.randperm(2, generator=generator, device=generator.device).tolist():
        low = steps[i](low) if on.any() else low
    return low


def _add_noise(pixels: Tensor, generator: torch.Generator) -> Tensor:
    sigma = masks.uniform((len(pixels), 1, 1, 1), 0.0, 0.08, generator)
    noise = torch.randn(pixels.shape, generator=generator, device=generator.device)
    return (pixels + sigma * noise).clamp(-1, 1)


@cache
def _dct() -> Tensor:
    """The orthonormal 8-point DCT-II matrix."""
    n = torch.arange(8).float()
    matrix = torch.cos((2 * n[None, :] + 1) * n[:, None] * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


# Luminance quantisation of JPEG's annex K, at quality 50; used for the chroma too, which is a milder coder than most.
_QUANTISER = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
).float()
_YCBCR = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def _jpeg_round_trip(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) coded as JPEG at quality 40 to 95 and decoded: 8x8 DCT of YCbCr, quantised, and back."""
    batch, _, height, width = pixels.shape
    quality = masks.uniform((batch, 1, 1, 1, 1, 1), 40, 95, generator)
    table = _QUANTISER.to(pixels) * torch.where(quality < 50, 50 / quality, 2 - quality / 50) / 127.5
    to_ycc, dct = _YCBCR.to(pixels), _dct().to(pixels)
    padded = F.pad(pixels, (0, -width % 8, 0, -height % 8), mode="replicate")
    ycc = torch.einsum("ij,bjhw->bihw", to_ycc, padded)
    blocks = ycc.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # (B, 3, rows, columns, 8, 8)
    coefficients = dct @ blocks @ dct.T
    blocks = dct.T @ ((coefficients / table).round() * table) @ dct
    ycc = blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return torch.einsum("ij,bjhw->bihw", torch.linalg.inv(to_ycc), ycc)[..., :height, :width].clamp(-1, 1)
