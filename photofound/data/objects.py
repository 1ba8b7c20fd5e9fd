"""The object in a photograph: where it is, and a matte by GrabCut where the ground is plain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from photofound.data.photograph import Photograph, to_8_bit
from photofound.edits.geometry import bounding_box
from photofound.edits.ground import ground_colour, is_near
from photofound.edits.masks import GRABCUT_FRAME, grabcut


def object_box(matte: Tensor | None, frame: int = 1) -> tuple[int, int, int, int]:
    """The box of a complete object: one that covers 3 to 75 % and does not touch the outermost ``frame`` pixels; zeros
    for none."""
    if matte is None:
        return (0, 0, 0, 0)
    solid = matte[0].numpy() > 127
    if solid.sum() != solid[frame:-frame, frame:-frame].sum() or not 0.03 < solid.mean() < 0.75:
        return (0, 0, 0, 0)
    return tuple(bounding_box(solid))  # type: ignore[return-value]


def holds_object(matte: Tensor) -> bool:
    """Whether a matte (1, H, W) in [0, 1] is that of a complete object (see ``object_box``)."""
    return object_box((matte.cpu() * 255).byte()) != (0, 0, 0, 0)


def cut_clean(
    pixels: Tensor, segmenter: Callable[[np.ndarray], np.ndarray] = grabcut, plain: bool = True, short_side: int = 112
) -> Tensor | None:
    """The matte (1, H, W) uint8 of a photograph's object (3, H, W), where it comes out clean, else None.

    Clean means: complete (see ``object_box``) and 5 to 70 % of the picture; with ``plain`` also that the border is of
    one colour, without which GrabCut is guessing, and at most 30 % of the object: more is ground or a shadow on it.
    ``short_side`` is what the segmenter sees at most.
    """
    ground = ground_colour(pixels.permute(1, 2, 0).numpy()) if plain else None
    if plain and ground is None:
        return None
    small = resized(pixels, shape_of_short_side(pixels, short_side))
    rgb = small.permute(1, 2, 0).numpy()
    mask = segmenter(rgb.astype(np.float32) / 255)
    matte, solid = torch.from_numpy(to_8_bit(mask))[None], mask > 0.5
    # GrabCut takes the outermost frame for ground. The matte of an object that touches the frame ends there.
    frame = math.ceil((GRABCUT_FRAME + 0.01) * min(solid.shape)) if segmenter is grabcut else 1
    if object_box(matte, frame) == (0, 0, 0, 0) or not 0.05 < float(solid.mean()) < 0.7:
        return None
    if ground is not None and is_near(rgb[solid], ground).mean() > 0.3:
        return None
    return resized(matte, tuple(pixels.shape[-2:]))


def matte_plain_grounds(photographs: Sequence[Photograph], workers: int = 2) -> list[Photograph]:
    """Give photographs of objects on an even ground a matte by GrabCut, where it comes out clean."""

    def matted(photograph: Photograph) -> Photograph:
        matte = None if photograph.matte is not None else cut_clean(photograph.pixels)
        return photograph if matte is None else replace(photograph, matte=matte)

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(matted, photographs))


def shape_of_short_side(pixels: Tensor, size: int) -> tuple[int, ...]:
    """(H, W) of a picture scaled down, never up, to a short side of ``size``."""
    scale = min(1.0, size / min(pixels.shape[-2:]))
    return tuple(round(side * scale) for side in pixels.shape[-2:])


def resized(pixels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(C, H, W) uint8 to (C, *shape): area average when it shrinks, linear when it grows."""
    import cv2

    method = cv2.INTER_AREA if shape[0] < pixels.shape[1] else cv2.INTER_LINEAR
    array = cv2.resize(pixels.permute(1, 2, 0).numpy(), shape[::-1], interpolation=method)
    return torch.from_numpy(array.reshape(*shape, -1).transpose(2, 0, 1).copy())
