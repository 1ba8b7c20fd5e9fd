"""The blocks of diffusers' deep-compression autoencoder (arXiv:2410.10733), with fewer passes over memory.

Most of eager diffusers' time in them is spent on moving what the convolutions have computed. Weights and their names
stay, and results but for rounding.

Legend: B batch, C channels, H and W pixels of a block's input.
"""

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders import autoencoder_dc
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn

from photofound.model.fused import in_place


class ChannelNorm(RMSNorm):
    """x / sqrt(mean(x^2) + eps) * weight + bias over the last axis (arXiv:1910.07467, eq. 4), any shape (..., C),
    with no copy of x in float32."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(hidden_states, dim=-1, keepdim=True, dtype=torch.float32)
        scale = (norm.square() / hidden_states.shape[-1] + self.eps).rsqrt().to(hidden_states.dtype)
        scaled = hidden_states * scale
        fits = in_place(scaled) and scaled.dtype == self.weight.dtype
        return torch.addcmul(self.bias, scaled, self.weight, out=scaled if fits else None)


class ResBlock(autoencoder_dc.ResBlock):
    """x + norm(conv(act(conv(x)))), the sum in place."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.norm_type != "rms_norm" or not in_place(hidden_states):
            return super().forward(hidden_states)
        update = self.conv2(self.nonlinearity(self.conv1(hidden_states)))
        return self.norm(update.movedim(1, -1)).movedim(-1, 1).add_(hidden_states)


class DownBlock(autoencoder_dc.DCDownBlock2d):
    """(B, C, H, W) -> (B, C', H/2, W/2). The shortcut, space to channels and the mean of groups of them, is a
    convolution with fixed weights."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if not (self.shortcut and self.downsample and in_place(hidden_states)):
            return super().forward(hidden_states)
        channels = hidden_states.shape[1]
        each = torch.eye(4 * channels, dtype=hidden_states.dtype).view(-1, self.group_size, channels, 2, 2)
        made = F.pixel_unshuffle(self.conv(hidden_states), 2)
        return made.add_(F.conv2d(hidden_states, each.mean(1), stride=2))


class UpBlock(autoencoder_dc.DCUpBlock2d):
    """(B, C, H, W) -> (B, C', 2 H, 2 W). The convolution gives its channels in an order in which pixels are moved to
    their places in whole rows; the shortcut, repeated channels, is added to it by a product."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.interpolate or not in_place(hidden_states):
            return super().forward(hidden_states)
        batch, channels, height, width = hidden_states.shape
        weight, bias = _pixels_first(self.conv.weight), _pixels_first(self.conv.bias)
        made = F.conv2d(hidden_states, weight, bias, padding=1).movedim(1, -1).reshape(-1, len(bias))
        if self.shortcut:
            copies = _pixels_first(torch.eye(channels, dtype=made.dtype).repeat_interleave(self.repeats, 0))
            made.addmm_(hidden_states.to(made.dtype).movedim(1, -1).reshape(-1, channels), copies.T)
        rows = made.view(batch, height, width, 2, -1).transpose(2, 3)
        return rows.reshape(batch, 2 * height, 2 * width, -1).movedim(-1, 1)


def _pixels_first(parameter: Tensor) -> Tensor:
    """Rows (4 C', ...) for the channel c, the row i and the column j of ``pixel_shuffle``, from the order (c, i, j) to
    (i, j, c)."""
    return parameter.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)


_FORMS: dict[type, type] = {
    autoencoder_dc.ResBlock: ResBlock,
    autoencoder_dc.DCDownBlock2d: DownBlock,
    autoencoder_dc.DCUpBlock2d: UpBlock,
}


def use_fast_blocks(vae: nn.Module | None) -> None:
    """Give the blocks and norms of a deep-compression autoencoder the forms of this file, in place."""
    for module in vae.modules() if isinstance(vae, nn.Module) else ():
        if type(module) is RMSNorm and module.bias is not None:
            module.__class__ = ChannelNorm
        elif form := _FORMS.get(type(module)):
            module.__class__ = form
