"""Upscaler: a small convolutional network that enlarges a photograph by 2, 3 or 4.

All of its work is done at the small picture's resolution (ESPCN, arXiv:1609.05158): a trunk of residual blocks without
normalisation, as in EDSR, that all scales share, as in MDSR (both arXiv:1707.02921), then one convolution and a pixel
shuffle per scale. It adds detail to the bicubic enlargement.

Legend: B batch, h x w the small picture, s the scale, D channels. Pictures are RGB in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from photofound.edits import composite
from photofound.edits.geometry import Box

_PART = 192  # pixels of the small picture: what is computed at once stays near the processor


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), 3 x 3 (EDSR, figure 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class Upscaler(ModelMixin, ConfigMixin):
    """Enlarges pictures; see the module.

    Args:
        channels: D. Multiples of 32 suit the matrix units of processors.
        depth: residual blocks.
        scales: the enlargements that it knows.
    """

    __module__ = "photofound.superresolution"  # what a saved model names: see that file

    @register_to_config
    def __init__(self, channels: int = 64, depth: int = 5, scales: Sequence[int] = (2, 3, 4)) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(channels) for _ in range(depth))
        self.body = nn.Conv2d(channels, channels, 3, padding=1)
        self.tails = nn.ModuleDict({f"x{s}": nn.Conv2d(channels, 3 * s * s, 3, padding=1) for s in scales})
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
        for block in self.blocks:
            assert isinstance(block, ResidualBlock)
            nn.init.kaiming_normal_(block.first.weight)
            nn.init.kaiming_normal_(block.second.weight)
            block.second.weight.data.mul_(0.1)  # each block begins as nearly the identity, so that depth costs nothing
        for tail in self.tails.values():
            assert isinstance(tail, nn.Conv2d)
            nn.init.zeros_(tail.weight)  # begins as the bicubic enlargement

    @property
    def reach(self) -> int:
        """How many pixels of the small picture a result depends on in each direction."""
        return 2 * self.config.depth + 3

    def forward(self, low: Tensor, scale: int) -> Tensor:
        """(B, 3, h, w) in [-1, 1] to (B, 3, s h, s w), float32, about in [-1, 1]."""
        detail = self.details(self.trunk(low.to(self.dtype)), scale)
        return enlarge(low.float(), scale) + detail.float()  # in float32: bfloat16 has no room for a picture's last bit

    def trunk(self, low: Tensor) -> Tensor:
        """(B, 3, h, w) to the features (B, D, h, w) that all scales share."""
        x = head = self.head(low)
        for block in self.blocks:
            x = block(x)
        return self.body(x) + head

    def details(self, features: Tensor, scale: int) -> Tensor:
        """What is added to the enlargement: features (B, D, h, w) to (B, 3, s h, s w)."""
        return F.pixel_shuffle(self.tails[f"x{scale}"](features), scale)


def enlarge(low: Tensor, scale: int) -> Tensor:
    """(B, 3, h, w) to (B, 3, s h, s w): bicubic with a = -1/2, as the literature has it (MATLAB's ``imresize``)."""
    return F.interpolate(low, scale_factor=scale, mode="bicubic", align_corners=False, antialias=True)


@torch.no_grad()
def enlarged(
    model: Upscaler,
    low: Tensor,
    scale: int,
    where: Tensor | None = None,
    step: Callable[[], bool | None] | None = None,
) -> Tensor:
    """What the model makes of a picture of any size, part by part: (1, 3, h, w) in [-1, 1] to (1, 3, s h, s w), float32
    on the CPU, in [-1, 1].

    Each part is computed with as much around it as the model sees, so that there are no seams: the result is that of
    the whole, to rounding.

    Args:
        where: (1, 1, h, w) > 0 where the result is wanted; parts without any of it are enlarged by interpolation.
        step: called before each part; where it returns True, that part is enlarged by interpolation.
    """
    height, width = low.shape[-2:]
    margin, place = model.reach, model.device
    out = low.new_empty(1, 3, scale * height, scale * width, dtype=torch.float32, device="cpu")
    for box in _parts(height, width):
        stopped = step is not None and step()
        left, top = max(0, box.left - margin), max(0, box.top - margin)
        around = Box(left, top, min(width, box.right + margin), min(height, box.bottom + margin))
        inner = Box(box.left - around.left, box.top - around.top, box.right - around.left, box.bottom - around.top)
        part = low[(..., *around.slices)].to(place).contiguous(memory_format=torch.channels_last)
        if stopped or (where is not None and not where[(..., *box.slices)].any()):
            made = enlarge(part.float(), scale)
        else:
            made = model(part, scale)
        out[(..., *_times(box, scale).slices)] = made[(..., *_times(inner, scale).slices)].clamp(-1, 1)
    return out


def enlarged_to(
    model: Upscaler,
    low: Tensor,
    size: tuple[int, int],
    where: Tensor | None = None,
    step: Callable[[], bool | None] | None = None,
) -> Tensor:
    """``enlarged`` to any (H, W): by the next scale above it that the model knows, or its largest, then resampled."""
    wanted = max(size[0] / low.shape[-2], size[1] / low.shape[-1])
    scales = sorted(model.config.scales)
    scale = next((s for s in scales if s >= wanted), scales[-1])
    return composite.resize(enlarged(model, low, scale, where, step), size)


def part_count(low: Tensor) -> int:
    """How many parts ``enlarged`` makes of (1, 3, h, w)."""
    return sum(1 for _ in _parts(*low.shape[-2:]))


def _times(box: Box, scale: int) -> Box:
    return Box(*(side * scale for side in box))


def _parts(height: int, width: int) -> Iterator[Box]:
    """A picture cut into parts of about the same size, at most ``_PART`` on a side."""
    rows, columns = (np.linspace(0, n, math.ceil(n / _PART) + 1).round().astype(int) for n in (height, width))
    for top, bottom in pairwise(rows.tolist()):
        for left, right in pairwise(columns.tolist()):
            yield Box(left, top, right, bottom)
