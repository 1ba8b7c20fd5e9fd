"""Layers: pictures of one size laid over each other, and their flat picture.

found = [Layer("background", ground), Layer("subject", cut)]       # from the bottom to the top
flat = flatten(found)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from photofound.picture.picture import Picture

MASK = "mask"  # the name of the layer that shows the matte; it is hidden


@dataclass(frozen=True)
class Layer:
    """One layer, as large as the others.

    Attributes:
        name: in English, as the programs show it.
        picture: RGBA with straight alpha, in the photograph's own values and colour profile.
        visible: whether it is a part of the flat picture.
    """

    name: str
    picture: Picture
    visible: bool = True

    def __post_init__(self) -> None:
        assert self.picture.pixels.shape[2] == 4, self.picture.pixels.shape


def layer(name: str, picture: Picture, alpha: np.ndarray | None = None) -> Layer:
    """A picture as a layer, with ``alpha`` (H, W) in [0, 1] in place of its own; None: its own, or opaque."""
    if alpha is None:
        own = picture.alpha()
        alpha = np.ones((picture.height, picture.width), np.float32) if own is None else own
    return Layer(name, picture.with_alpha(alpha))


def mask_layer(like: Picture, matte: np.ndarray) -> Layer:
    """A hidden layer that shows a matte (H, W) in [0, 1]: white = kept."""
    grey = np.rint(matte * like.depth).astype(like.pixels.dtype)
    pixels = np.dstack([grey, grey, grey, np.full_like(grey, like.depth)])
    return Layer(MASK, dataclasses.replace(like.in_colour(), pixels=pixels), visible=False)


def flatten(found: Sequence[Layer]) -> Picture:
    """The visible layers laid over each other (Porter and Duff 1984, "over", in native values): RGB where the result is
    opaque, else RGBA. Where a layer is opaque its values are the result's, bit for bit."""
    seen = [each for each in found if each.visible]
    below = seen[0].picture
    pixels, depth = below.pixels.copy(), np.float32(below.depth)
    for each in seen[1:]:
        over = each.picture.pixels
        covered = over[..., 3] == below.depth
        soft = (over[..., 3] > 0) & ~covered
        pixels[covered] = over[covered]
        top, under = over[soft].astype(np.float32), pixels[soft].astype(np.float32)
        share, rest = top[:, 3:] / depth, under[:, 3:] / depth
        on_opaque = share * top[:, :3] + (1 - share) * under[:, :3]
        total = share + rest * (1 - share)
        mixed = (share * top[:, :3] + rest * (1 - share) * under[:, :3]) / np.maximum(total, 1e-6)
        mixed = np.where(rest == 1, on_opaque, mixed)
        alpha = np.where(rest == 1, depth, total * depth)
        pixels[soft] = np.rint(np.concatenate([mixed, alpha], 1)).clip(0, depth).astype(pixels.dtype)
    if (pixels[..., 3] == below.depth).all():
        pixels = np.ascontiguousarray(pixels[..., :3])
    return dataclasses.replace(below, pixels=pixels)
