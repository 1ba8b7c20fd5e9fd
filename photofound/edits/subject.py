"""The subject of a photograph: from what its user gives, from the picture's alpha, or by a segmenter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from photofound import image as images
from photofound.edits import effects, masks, matting
from photofound.image import Picture

OUTLINE = 768  # long side in pixels at which the outline of what was found is refined, in a third of a second


def find(
    picture: Picture,
    subject: Any = None,
    segment: Callable[[np.ndarray], np.ndarray] | None = None,
    refine: bool = False,
) -> tuple[Picture, np.ndarray]:
    """The picture with the subject's own colours along its soft edge, and the matte.

    Args:
        subject: a mask, anything that ``photofound.image.load_mask`` takes; None = the picture's alpha, or else what
            ``segment`` finds (None: GrabCut).
        refine: where the subject had to be found, follow the photograph's own edges, unless the segmenter says that its
            edges are ``fine``, and leave out the shadow that GrabCut takes for a part of it.

    Returns:
        The picture, changed only where the matte is soft, and the matte (H, W) float32 in [0, 1], 1 = subject.

    Raises ValueError where nothing or everything is the subject.
    """
    mask = None if subject is None else images.load_mask(subject, picture.size, "subject", kept=True)
    matte = matte_of(picture, mask, segment, refine)
    edges = matte if mask is None else mask
    soft = (edges > 0) & (edges < 1)
    if soft.any() and (mask is not None or not is_cut_out(picture)):
        rgb = matting.subject_colours(picture.rgb(), edges)
        picture = picture.paste(rgb, (~soft).astype(np.float32), opaque=False)
    return picture, matte


def matte_of(
    picture: Picture,
    mask: np.ndarray | None = None,
    segment: Callable[[np.ndarray], np.ndarray] | None = None,
    refine: bool = False,
) -> np.ndarray:
    """(H, W) float32 in [0, 1], 1 = keep: the given mask (H, W), else the picture's alpha, else what ``segment`` finds
    (None: GrabCut). Of a mask and an alpha below it, alpha counts: what it hides is no part of the subject.

    Raises ValueError when it marks nothing or everything.
    """
    alpha = picture.alpha()
    if mask is not None:
        matte = mask
        if alpha is not None and matte.max() > 0:
            matte = np.minimum(matte, alpha)
            if matte.max() <= 0:
                raise ValueError("the subject lies where the image is transparent; mark what is to be kept")
    elif alpha is not None and is_cut_out(picture):
        matte = alpha
    else:
        look = segment or masks.grabcut
        if refine and not getattr(segment, "fine", False):
            look = partial(_refined, segment=segment)
        matte = masks.cut_out(picture.rgb(), look)
    images.require_hole(matte, "subject", white="kept")
    return matte


def _refined(rgb: np.ndarray, segment: Callable[[np.ndarray], np.ndarray] | None) -> np.ndarray:
    """What ``segment`` finds, refined once."""
    rough = masks.grabcut(rgb) if segment is None else getattr(segment, "rough", segment)(rgb)
    if segment is None or getattr(segment, "takes_shadows", False):
        rough = effects.without_shadow(rgb, rough)
    return matting.refine(rgb, rough, OUTLINE, soft=False)


def is_cut_out(picture: Picture) -> bool:
    """Whether the picture's own alpha is a matte: its colours are then the subject's alone already."""
    alpha = picture.alpha()
    return alpha is not None and bool(alpha.min() < 1)
