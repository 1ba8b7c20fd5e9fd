"""From a rough matte to the photograph's own resolution: GrabCut along the outline, a soft edge, the subject's colours.

Shapes: rgb (H, W, 3) float32 in [0, 1]; mattes (H, W) float32 in [0, 1], 1 = subject.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from photofound.edits import masks
from photofound.edits.closed_form import closed_form
from photofound.edits.geometry import Box, bounding_box, grow_box
from photofound.edits.ground import ground_colour
from photofound.edits.guided import guided_filter, guided_lines
from photofound.edits.strands import with_strands

WORKING_SIDE = 1024  # long side at which the outline is found; then it is enlarged to a larger photograph's pixels
BAND = 0.012  # how far a rough outline may be from the right one, as a share of the long side
EDGE = 0.004  # how wide a soft edge may be, as a share of the long side
_MARGIN = 32  # pixels around soft ones that are looked at for their colours
_MOST_UNMIXED = 2**21  # pixels; colours of a larger part are found at this size
_COARSE, _COARSE_ROUNDS, _ROUNDS = 32, 10, 3  # up to which side a picture is coarse; rounds of unmixing
_TILE = 64  # pixels a side of what is unmixed at a time
_FLOOR = 1e-3  # weight of pixels that show nothing of a colour
GROUND = 12  # difference of 255 up to which a pixel has the colour of an even ground
SURE = 0.99  # of the matte: above it a pixel of the ground's colour is the subject's all the same
AGREE = 0.88  # intersection over union from which two outlines are of the same subject
SHARPER = 0.3  # gradient along an outline, CIE units a pixel, by which another one has to be stronger
_STRONG = 8.0  # such a gradient is an edge that nobody doubts
MIN_IOU = 0.8  # intersection over union with the rough matte below which GrabCut's outline is not used


def refine(rgb: np.ndarray, matte: np.ndarray, working: int = WORKING_SIDE, soft: bool = True) -> np.ndarray:
    """A matte at the photograph's own resolution from a rough one: a binary outline by GrabCut, and a soft edge around
    it, with hair and threads where the ground is even (``strands``). Pixels far from the edge are exactly 0 or 1.

    What a network is unsure of is decided by the photograph: a faint matte is made stronger, and on an even ground the
    pixels of its colour, as in a handle or between straps, may be ground although the matte fills them. On any other
    ground GrabCut finds the subject by itself, too; if both see the same one, the one along stronger edges is taken.

    Args:
        working: long side in pixels at which the outline is found.
        soft: closed-form matting for the edge; with False a guided filter, which takes less time.
    """
    import cv2

    height, width = matte.shape
    if not (matte > 0.5).any():
        return np.zeros_like(matte)
    middle = _middle(_thinned(matte))
    box = bounding_box(matte > 0.2 * middle)
    near = grow_box(box, max(8, max(box.width, box.height) // 6), 1, width, height)
    scale = min(1.0, working / max(near.width, near.height))
    size = max(8, round(near.width * scale)), max(8, round(near.height * scale))
    small = cv2.resize(np.ascontiguousarray(rgb[near.slices]), size, interpolation=cv2.INTER_AREA)
    rough = cv2.resize(np.ascontiguousarray(matte[near.slices]), size, interpolation=cv2.INTER_AREA)
    rough = np.interp(rough, (0, middle, 1), (0, 0.5, 1)).astype(np.float32)
    ground = ground_colour(_thinned(rgb) * 255)
    outline = refine_outline(small, rough, ground)
    if ground is None and iou(grabcut := masks.grabcut(rgb) > 0.5, matte > middle) >= MIN_IOU:
        other = cv2.resize(grabcut[near.slices].astype(np.float32), size, interpolation=cv2.INTER_AREA)
        outline = _sharper(small, outline, refine_outline(small, other))
    edge = soft_edge(small, outline, soft)
    if ground is not None:
        edge = with_strands(small, edge, outline, ground, rough > SURE)
    whole = np.zeros_like(matte)
    whole[near.slices] = _enlarged(rgb[near.slices], small, edge)
    return whole


def _sharper(rgb: np.ndarray, outline: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of two outlines (H, W) bool of one subject the first, or the other if that runs along clearly stronger edges."""
    gain = edge_strength(rgb, other) - edge_strength(rgb, outline)
    return other if gain > SHARPER and iou(outline, other) >= AGREE else outline


def edge_strength(rgb: np.ndarray, outline: np.ndarray) -> float:
    """How much colours change along an outline (H, W) bool: the mean gradient, CIE units a pixel, at 512 pixels on the
    long side. Each place counts at most ``_STRONG``, so that a few glaring edges do not make up for missing ones."""
    import cv2

    scale = min(1.0, 512 / max(outline.shape))
    size = max(4, round(outline.shape[1] * scale)), max(4, round(outline.shape[0] * scale))
    small = cv2.resize(np.ascontiguousarray(rgb, np.float32), size, interpolation=cv2.INTER_AREA)
    inside = cv2.resize(outline.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    colours = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2LAB), (0, 0), 1)
    slopes = [cv2.Sobel(colours, cv2.CV_32F, *step) for step in ((1, 0), (0, 1))]
    gradient = np.sqrt(sum((slope**2).sum(2) for slope in slopes)) / 8
    kernel = np.ones((3, 3), np.uint8)
    gradient = cv2.dilate(gradient.astype(np.float32), kernel)  # the outline may be a pixel beside the edge
    line = cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_GRADIENT, kernel) > 0
    line[[0, -1]] = line[:, [0, -1]] = False  # where the frame cuts the subject there is no edge to see
    return float(np.minimum(gradient[line], _STRONG).mean()) if line.any() else 0.0


def _middle(matte: np.ndarray) -> float:
    """The value at which the two halves of a matte meet: Otsu's threshold (1979), from 0.15 to 0.5."""
    import cv2

    levels = (matte * 255).astype(np.uint8).reshape(-1, 1)
    threshold = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0] / 255
    return float(np.clip(threshold, 0.15, 0.5))


def _thinned(array: np.ndarray) -> np.ndarray:
    """Every n-th row and column, about 512 on the long side."""
    step = max(1, max(array.shape[:2]) // 512)
    return array[::step, ::step]


def refine_outline(rgb: np.ndarray, matte: np.ndarray, ground: np.ndarray | None = None) -> np.ndarray:
    """(H, W) bool: the subject by GrabCut (Rother et al. 2004), started from a matte.

    GrabCut may change a band around the outline, pixels where the matte is unsure, and those that have the colour of
    the ``ground`` (3,), 0..255. If the result differs too much from what it started from, that is returned.
    """
    import cv2

    own = matte > 0.5
    reach = max(2, round(BAND * max(matte.shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    label = np.where(own, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    label[cv2.erode((matte > 0.9).astype(np.uint8), kernel) > 0] = cv2.GC_FGD
    if ground is not None:
        empty = (np.abs(rgb * 255 - ground).max(2) < GROUND) & (matte < SURE)
        label[empty] = cv2.GC_PR_BGD
        own = own & ~empty
    label[cv2.dilate((matte > 0.1).astype(np.uint8), kernel) == 0] = cv2.GC_BGD
    if not _has_both(label):
        return own
    pixels = np.ascontiguousarray((rgb[..., ::-1] * 255).round().astype(np.uint8))
    colours = np.zeros((1, 65)), np.zeros((1, 65))  # of the ground and of the subject, learnt at half the size
    half = max(1, pixels.shape[1] // 2), max(1, pixels.shape[0] // 2)
    small = cv2.resize(label, half, interpolation=cv2.INTER_NEAREST)
    cv2.setRNGSeed(0)
    if _has_both(small):
        shrunk = cv2.resize(pixels, half, interpolation=cv2.INTER_AREA)
        cv2.grabCut(shrunk, small, None, *colours, 2, cv2.GC_INIT_WITH_MASK)
        cv2.grabCut(pixels, label, None, *colours, 1, cv2.GC_EVAL)
    else:
        cv2.grabCut(pixels, label, None, *colours, 2, cv2.GC_INIT_WITH_MASK)
    found = np.isin(label, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return found if iou(found, own) >= MIN_IOU else own


def _has_both(label: np.ndarray) -> bool:
    """Whether GrabCut's labels name pixels of a subject and of a ground."""
    import cv2

    subject = np.isin(label, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return bool(subject.any() and not subject.all())


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two (H, W) bool masks; 1 if both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def soft_edge(rgb: np.ndarray, outline: np.ndarray, soft: bool = True) -> np.ndarray:
    """A matte from an outline (H, W) bool: soft in a narrow band around it, exactly 0 or 1 elsewhere.

    By closed-form matting (Levin et al. 2008), or if it is not wanted, or does not converge, a guided filter (He et al.
    2013).
    """
    import cv2

    reach = max(1, round(EDGE * max(outline.shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    inside = cv2.erode(outline.astype(np.uint8), kernel) > 0
    outside = cv2.dilate(outline.astype(np.uint8), kernel) == 0
    trimap = np.where(inside, 1.0, np.where(outside, 0.0, 0.5))
    matte = closed_form(rgb, trimap) if soft and inside.any() and outside.any() else None
    if matte is None:
        matte = guided_filter(_calm(rgb), outline.astype(np.float32), max(2, reach), 1e-4, ~inside & ~outside)
    matte = np.clip((matte - 0.02) / 0.96, 0, 1)  # filters come close to 0 and 1, and do not reach them
    return np.where(inside, 1, np.where(outside, 0, matte)).astype(np.float32)


def _enlarged(rgb: np.ndarray, small: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """A matte at the size of ``rgb``, with its edge along the photograph's: the lines of the guided filter are fitted
    at the small size and applied at the large one (He and Sun 2015, arXiv:1505.00996)."""
    import cv2

    size = rgb.shape[1::-1]
    if size == matte.shape[::-1]:
        return matte
    large = cv2.resize(matte, size, interpolation=cv2.INTER_LINEAR)
    soft = (large > 0) & (large < 1)
    near = cv2.dilate(((matte > 0) & (matte < 1)).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    lines = guided_lines(_calm(small), matte, 2, 1e-4, near)
    slope, offset = (cv2.resize(x, size, interpolation=cv2.INTER_LINEAR)[soft] for x in lines)
    large[soft] = np.clip((slope * _calm(rgb)[soft]).sum(1) + offset, 0, 1)
    return large


def _calm(rgb: np.ndarray) -> np.ndarray:
    """A photograph without the single pixels that cameras sharpen."""
    import cv2

    return cv2.GaussianBlur(np.ascontiguousarray(rgb, np.float32), (0, 0), 0.7)


def subject_colours(rgb: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """(H, W, 3) with the subject's own colours where the matte is soft, without the background that shines through
    there; nothing else changes. See ``unmix``."""
    soft = (matte > 0) & (matte < 1)
    if not soft.any():
        return rgb
    import cv2

    near: Box = grow_box(bounding_box(soft), _MARGIN, 1, matte.shape[1], matte.shape[0])
    scale = min(1.0, math.sqrt(_MOST_UNMIXED / (near.width * near.height)))
    size = max(2, round(near.width * scale)), max(2, round(near.height * scale))
    part, alpha = (
        cv2.resize(np.ascontiguousarray(x[near.slices]), size, interpolation=cv2.INTER_AREA) for x in (rgb, matte)
    )
    own, _ = unmix(part, alpha)
    own = cv2.resize(own, (near.width, near.height), interpolation=cv2.INTER_LINEAR)
    colours = rgb.copy()
    colours[near.slices] = np.where(soft[near.slices][..., None], own, rgb[near.slices])
    return colours


def unmix(rgb: np.ndarray, matte: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colours F of a subject and B of its background in a picture I that shows both mixed, I = a F + (1 - a) B with
    the matte a: (H, W, 3) each, smooth where the picture says nothing of them.

    Blur fusion ("Approximate fast foreground colour estimation", Forte and Pitie 2021): both are blurred, each weighted
    by its share, then corrected so that they mix to I. Two things differ, and make it as exact as a solver
    (docs/experiments.md). It goes from a coarse picture to the fine one, as multi-level estimation does (Germer et al.
    2020, arXiv:2006.14970), so that large glass is bridged. And F and B share the error e by least squares,
    a e and (1 - a) e over a^2 + (1 - a)^2, where the paper corrects F alone.
    """
    height, width = matte.shape
    planes = np.ascontiguousarray(rgb.transpose(2, 0, 1), np.float32)
    own = behind = planes.mean((1, 2), keepdims=True)
    for level in reversed(range(math.ceil(math.log2(max(height, width))) + 1)):
        size = max(1, round(width / 2**level)), max(1, round(height / 2**level))
        given, (a,) = _shrunk(planes, size), _shrunk(matte[None], size)
        own, behind = _grown(own, size), _grown(behind, size)
        made = np.where(a >= 1, given, own), np.where(a <= 0, given, behind)
        for part, inner in _mixed_parts(a):
            found = _unmixed(*(x[(..., *part)] for x in (given, a, own, behind)))
            for whole, x in zip(made, found, strict=True):
                whole[(..., *part)][(..., *inner)] = x[(..., *inner)]
        own, behind = made
    return own.transpose(1, 2, 0), behind.transpose(1, 2, 0)


def _mixed_parts(a: np.ndarray) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """The tiles of a matte (H, W) that hold soft pixels, each with what it needs around it, and the tile within that.
    An outline is long and thin: most of a large picture is in none of them."""
    height, width = a.shape
    soft = (a > 0) & (a < 1)
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            if not soft[top : top + _TILE, left : left + _TILE].any():
                continue
            starts = max(0, top - _ROUNDS), max(0, left - _ROUNDS)
            part = slice(starts[0], top + _TILE + _ROUNDS), slice(starts[1], left + _TILE + _ROUNDS)
            down, across = top - starts[0], left - starts[1]
            yield part, (slice(down, down + _TILE), slice(across, across + _TILE))


def _unmixed(given: np.ndarray, a: np.ndarray, own: np.ndarray, behind: np.ndarray) -> list[np.ndarray]:
    """A few rounds of ``unmix`` at one size: planes (3, h, w) each, but ``a`` (h, w)."""
    b = 1 - a
    weights = a * a + _FLOOR, b * b + _FLOOR  # squared: what shows one of them clearly says more about it
    totals = [_blurred(weight[None]) for weight in weights]
    shares = a / (a * a + b * b), b / (a * a + b * b)
    pair = [own, behind]
    for _ in range(_COARSE_ROUNDS if max(a.shape) <= _COARSE else _ROUNDS):
        pair = [_blurred(x * w) / t for x, w, t in zip(pair, weights, totals, strict=True)]
        error = given - a * pair[0] - b * pair[1]
        pair = [(x + s * error).clip(0, 1) for x, s in zip(pair, shares, strict=True)]
    return pair


def _shrunk(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import cv2

    return np.stack([cv2.resize(x, size, interpolation=cv2.INTER_AREA).reshape(size[::-1]) for x in planes])


def _grown(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import cv2

    return np.stack([cv2.resize(x, size, interpolation=cv2.INTER_LINEAR).reshape(size[::-1]) for x in planes])


def _blurred(planes: np.ndarray) -> np.ndarray:
    """The mean of each pixel and its eight neighbours."""
    import cv2

    blurred = np.empty(planes.shape, np.float32)
    for plane, made in zip(planes, blurred, strict=True):
        cv2.blur(plane, (3, 3), dst=made, borderType=cv2.BORDER_REPLICATE)
    return blurred
