"""The detail network: it looks at pixels, where the transformer looks at latents.

An autoencoder with a factor of eight loses what the exemplar canvas still has. This network sees the canvas, the
model's decoded guess and the hole, and decides pixel by pixel which of the two to follow and what to add.

Shapes: B batch, H and W pixels. Pictures are RGB in [-1, 1]; holes are in [0, 1], 1 = painted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """x + conv(SiLU(conv(x))), 3x3; starts as the identity. No norm: a picture's parts must not depend on its rest."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        assert self.conv2.bias is not None
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(x)))


class DetailNetwork(ModelMixin, ConfigMixin):
    """A U-Net (arXiv:1505.04597) on pixels folded 2 x 2: canvas, guess and hole -> the hole's final pixels.

    output = canvas + gate * (guess - canvas) + residual, with a gate in (0, 1) per pixel.

    Args:
        widths: channels at 1/2, 1/4, ... of the resolution.
        blocks: residual blocks at each of them, on the way down and on the way up.
    """

    __module__ = "photofound.detail"  # what a saved model names: see that file

    config_name = "config.json"
    INPUTS = 7  # channels: canvas, guess and hole

    @register_to_config
    def __init__(self, widths: Sequence[int] = (64, 96, 128, 160), blocks: Sequence[int] = (2, 2, 2, 1)) -> None:
        super().__init__()
        if not widths or len(widths) != len(blocks):
            raise ValueError(
                f"widths={list(widths)!r} and blocks={list(blocks)!r}: give one number of blocks per width"
            )
        self.stem = nn.Conv2d(self.INPUTS * 4, widths[0], 3, padding=1)  # 2 x 2 pixels
        self.down = nn.ModuleList(_stack(width, count) for width, count in zip(widths, blocks, strict=True))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.grow = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.up = nn.ModuleList(_stack(width, count) for width, count in zip(widths[:-1], blocks[:-1], strict=True))
        self.out = nn.Conv2d(widths[0], 4 * 4, 3, padding=1)
        nn.init.zeros_(self.out.weight)  # starts halfway between canvas and guess
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    @property
    def multiple(self) -> int:
        """What height and width must be multiples of."""
        return 1 << len(self.config.widths)

    def forward(self, canvas: Tensor, guess: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        """Paint the hole.

        Args:
            canvas: (B, 3, H, W), the photograph with its hole filled; any size.
            guess: (B, 3, H, W), what the transformer painted.
            hole: (B, 1, H, W).

        Returns:
            (B, 3, H, W) float32, equal to the canvas where the hole is 0; and the gate (B, 1, H, W): 0 where the canvas
            was followed, 1 where the guess was.
        """
        height, width = canvas.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        inputs = F.pad(torch.cat([canvas, guess, 2 * hole - 1], 1), padding, mode="replicate")
        painted = self.paint(inputs)[..., :height, :width].float()
        gate = painted[:, 3:].sigmoid()
        canvas, guess, hole = canvas.float(), guess.float(), hole.float()
        output = torch.lerp(canvas, guess, gate) + painted[:, :3]
        return torch.where(hole > 0, output, canvas), gate

    def paint(self, inputs: Tensor) -> Tensor:
        """The U-Net: canvas, guess and 2 * hole - 1, (B, 7, H, W) with H and W multiples of ``multiple``, to the
        residual and the gate's logit, (B, 4, H, W)."""
        x = F.pixel_unshuffle(inputs, 2).to(self.dtype)
        if not torch.compiler.is_exporting():  # other runtimes have an order of their own
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        skips = []
        for level, blocks in enumerate(self.down):
            x = blocks(x)
            if level < len(self.shrink):
                skips.append(x)
                x = self.shrink[level](x)
        for level in reversed(range(len(self.up))):
            x = F.pixel_shuffle(self.grow[level](x), 2) + skips[level]
            x = self.up[level](x)
        return F.pixel_shuffle(self.out(F.silu(x)), 2)


def _stack(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width) for _ in range(count)))
