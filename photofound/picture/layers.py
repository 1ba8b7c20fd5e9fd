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
_STRIP = 32  # rows that are laid over each other at a time: as many as stay in a processor's cache


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
    seen = [each.picture for each in found if each.visible]
    pixels = seen[0].pixels.copy()
    for top in range(0, len(pixels), _STRIP):
        rows = slice(top, top + _STRIP)
        for each in seen[1:]:
            _lay(pixels[rows], each.pixels[rows], seen[0].depth)
    if (pixels[..., 3] == seen[0].depth).all():
        pixels = np.ascontiguousarray(pixels[..., :3])
    return dataclasses.replace(seen[0], pixels=pixels)


def _lay(under: np.ndarray, over: np.ndarray, depth: int) -> None:
    """Lay ``over`` on ``under``, both (h, W, 4), in place."""
    if not over[..., 3].any():
        return
    if (under[..., 3] == depth).all():
        _lay_on_opaque(under, over, depth)
        return
    covered = over[..., 3] == depth
    under[covered] = over[covered]
    soft = (over[..., 3] > 0) & ~covered
    top, below = over[soft].astype(np.float32), under[soft].astype(np.float32)
    share, rest = top[:, 3:] / np.float32(depth), below[:, 3:] / np.float32(depth)
    total = share + rest * (1 - share)
    mixed = (share * top[:, :3] + rest * (1 - share) * below[:, :3]) / np.maximum(total, 1e-6)
    under[soft] = np.rint(np.concatenate([mixed, total * depth], 1)).clip(0, depth).astype(under.dtype)


def _lay_on_opaque(under: np.ndarray, over: np.ndarray, depth: int) -> None:
    """The same in whole numbers, and exact: a weighted sum of 8 bits fits into 16, and one of 16 into 32."""
    wide, bits = (np.uint16, 8) if depth == 255 else (np.uint32, 16)
    share = over[..., 3].astype(wide)
    rest = depth - share
    for channel in range(3):
        total = over[..., channel] * share + under[..., channel] * rest + wide((depth + 1) // 2)
        under[..., channel] = (total + (total >> bits)) >> bits  # divided by depth, rounded
