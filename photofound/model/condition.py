"""A condition as the transformer's input."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from photofound.edits.task import Condition
from photofound.model import autoencoder


def condition_channels(vae: Any | None, space: str) -> int:
    """Channels of the folded condition: the canvas (pixels folded f x f, or latents) and the hole, folded."""
    area = autoencoder.factor(vae) ** 2
    return (3 * area if space == "pixels" else autoencoder.channels(vae)) + area


def fold_condition(condition: Condition, vae: Any | None, space: str) -> Tensor:
    """(B, C, h, w): each latent's own f x f pixels of canvas and hole as channels, so that no mask is ever
    downsampled."""
    f = autoencoder.factor(vae)
    canvas = F.pixel_unshuffle(condition.canvas, f) if space == "pixels" else autoencoder.encode(vae, condition.canvas)
    return torch.cat([canvas, F.pixel_unshuffle(condition.hole, f).to(canvas.dtype)], 1)
