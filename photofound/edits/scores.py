"""How good a result looks, without knowing the truth: faults that can be measured, and one score made of them.

Pictures are (H, W, 3) float arrays in [0, 1], masks (H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from photofound.edits.ground import lab

MOST = 16  # results of which the best is taken
BELOW = 0.65  # a sixth to a third of the embedded model's fills have a lower score (docs/experiments.md)
SIDE = 512  # what is judged has at most this long side, in pixels
_PATCH, _PATCHES = 16, 16  # pixels a side, and how many are looked for elsewhere
_COPIED = 0.98  # correlation of a copy
_BUSY = 0.02  # standard deviation of a patch that has something to be told by
_FLOOR = 2e-3  # of steps and gradients: what is below is nothing that is seen

# How much each fault counts, fitted on photographs that the benchmark does not judge (docs/experiments.md).
WEIGHTS = {"seam": 0.1, "growth": 4.0, "colour": 0.01, "copy": 0.25, "sharpness": 0.3, "unlike": 1.0}
_SMALL, _RADIUS, _GIVEN = 128, 3, 4000  # long side at which patches are compared, their radius, how many given ones
_FLAT = 3.0  # of CIE Lab; patches of less contrast are all alike
_USUAL, _LEAST = 0.6, 0.2  # of a patch's contrast: how far the patches of photographs are from each other


@dataclass(frozen=True)
class Scores:
    """What is wrong with a result; 0 = nothing. What does not apply to an edit is 0.

    Attributes:
        seam: |log| of the step across the hole's border over the steps beside it.
        growth: area that the subject gained, as a share of its own (arXiv:2404.10157).
        colour: CIE distance of the hole's mean colour to that of the ring around it.
        copy: share of the hole's patches that are found again in what was given.
        sharpness: |log| of the hole's mean gradient over that of the ring around it.
        unlike: log of how far the hole's patches are from the nearest that were given, over their own contrast (since a
            blur is near to everything; Wexler et al. 2007, eq. 1), over what photographs have; below 0 = nearer. Of a
            hole that continues what is around it: what is invented well has its like there, a ghost has not.
    """

    seam: float = 0.0
    growth: float = 0.0
    colour: float = 0.0
    copy: float = 0.0
    sharpness: float = 0.0
    unlike: float = 0.0

    @property
    def faults(self) -> float:
        """All in one; less is better."""
        return float(sum(WEIGHTS[name] * value for name, value in asdict(self).items()))

    @property
    def total(self) -> float:
        """The same in (0, 1]; 1 = nothing is wrong."""
        return float(np.exp(-max(0.0, self.faults)))


def of_fill(rgb: np.ndarray, hole: np.ndarray, continues: bool = True) -> Scores:
    """The faults of a hole (H, W) bool that was filled; ``Scores()`` where there is nothing around it, or no hole.

    Args:
        continues: whether it is to continue what is around it; else something else was asked for.
    """
    near = _around(hole)
    unlike = _unlike(rgb[near], hole[near]) if continues else 0.0
    rgb, hole = _smaller(rgb, hole)
    ring = _ring(hole)
    if not ring.any() or not hole.any():
        return Scores()
    gradient = _gradient(rgb)
    beside = seam_step(rgb, _grown(hole, 5))
    means = lab(np.stack([rgb[hole].mean(0), rgb[ring].mean(0)]) * 255)
    return Scores(
        seam=_log_ratio(seam_step(rgb, hole), beside),
        colour=float(np.linalg.norm(means[0] - means[1])),
        copy=copied(rgb, hole),
        sharpness=_log_ratio(float(gradient[hole].mean()), float(gradient[ring].mean())),
        unlike=unlike,
    )


def of_background(rgb: np.ndarray, subject: np.ndarray, segment: Callable[[np.ndarray], np.ndarray]) -> Scores:
    """The faults of a background around a subject (H, W) bool: whether the subject has grown, by what ``segment`` finds
    in the result."""
    rgb, subject = _smaller(rgb, subject)
    if not subject.any():
        return Scores()
    found = np.asarray(segment(rgb.astype(np.float32))) > 0.5
    return Scores(growth=object_growth(subject, found))


def _around(hole: np.ndarray) -> tuple[slice, slice]:
    """The box of a hole, with as much beside it on each side."""
    found = []
    for axis in (1, 0):
        places = np.flatnonzero(hole.any(axis))
        start, stop = (places[0], places[-1] + 1) if len(places) else (0, hole.shape[1 - axis])
        found.append(slice(max(0, 2 * start - stop), 2 * stop - start))
    return found[0], found[1]


def _unlike(rgb: np.ndarray, hole: np.ndarray) -> float:
    """``Scores.unlike``: of patches of 7 x 7 pixels in CIE Lab, at a long side of 128. 0 where there are none."""
    import cv2

    rgb, hole = _smaller(rgb, hole, _SMALL)
    planes = cv2.cvtColor(rgb.astype(np.float32), cv2.COLOR_RGB2LAB)
    side = 2 * _RADIUS + 1
    if min(hole.shape) < side:
        return 0.0
    windows = np.lib.stride_tricks.sliding_window_view(planes, (side, side), axis=(0, 1))  # (h, w, 3, side, side)
    inner = slice(_RADIUS, -_RADIUS)
    centres = hole[inner, inner]
    given = ~(cv2.dilate(hole.astype(np.uint8), np.ones((side, side), np.uint8))[inner, inner] > 0)
    sought, known = windows[centres][::2], windows[given]
    if not len(sought) or not len(known):
        return 0.0
    known = known[np.random.default_rng(0).permutation(len(known))[:_GIVEN]]
    contrast = sought.std((2, 3)).mean(1)
    a, b = sought.reshape(len(sought), -1), known.reshape(len(known), -1)
    squares = (a * a).sum(1) + ((b * b).sum(1) - 2 * a @ b.T).min(1)
    far = np.sqrt(np.maximum(squares, 0) / a.shape[1]) / (contrast + _FLAT)
    return float(np.log(max(far.mean(), _LEAST) / _USUAL))


def copied(rgb: np.ndarray, hole: np.ndarray) -> float:
    """The share of the hole's patches (16 pixels wide, spread evenly) that are found again in what was given: repeated
    noses, floating fins. Flat patches are like each other anyway, and do not count."""
    import cv2

    grey = cv2.cvtColor(rgb.astype(np.float32), cv2.COLOR_RGB2GRAY)
    given = np.where(hole, 0, grey).astype(np.float32)
    side = _PATCH
    inside = cv2.erode(hole.astype(np.uint8), np.ones((side, side), np.uint8), borderValue=0)
    places = np.flatnonzero(inside)
    outside = cv2.dilate(hole.astype(np.uint8), np.ones((side, side), np.uint8), anchor=(side - 1, side - 1))
    height, width = hole.shape
    free = outside[: height - side + 1, : width - side + 1] == 0  # corners of patches that are wholly given
    if not len(places) or not free.any():
        return 0.0
    chosen = places[np.linspace(0, len(places) - 1, min(_PATCHES, len(places))).round().astype(int)]
    count = copies = 0
    for row, column in zip(*np.divmod(chosen, width), strict=True):
        top, left = row - side // 2, column - side // 2
        patch = grey[top : top + side, left : left + side]
        if patch.shape != (side, side) or patch.std() < _BUSY:
            continue
        match = cv2.matchTemplate(given, patch, cv2.TM_CCOEFF_NORMED)
        count += 1
        copies += bool(match[free].max() > _COPIED)
    return copies / count if count else 0.0


def seam_step(rgb: np.ndarray, hole: np.ndarray) -> float:
    """Mean absolute step in colour across the border of ``hole`` (H, W, > 0 = hole), in [0, 1].

    The mean is over all pairs of horizontal or vertical neighbours with exactly one pixel in the hole. A photograph
    without a seam has such a step, too.
    """
    inside = hole > 0
    steps = []
    for axis in (0, 1):
        a, b = [slice(None)] * 2, [slice(None)] * 2
        a[axis], b[axis] = slice(1, None), slice(None, -1)
        crosses = inside[tuple(a)] != inside[tuple(b)]
        steps.append(np.abs(rgb[tuple(a)] - rgb[tuple(b)])[crosses].mean(-1))
    joined = np.concatenate(steps)
    return float(joined.mean()) if joined.size else 0.0


def object_growth(subject: np.ndarray, found: np.ndarray) -> float:
    """The area that an object gained, as a share of its own area (arXiv:2404.10157): E / area(subject) with
    E = area(found united with subject) - area(subject).

    Args:
        subject: (H, W) bool, the given object.
        found: (H, W) bool, the object that a segmenter finds in the result.

    Raises ValueError for an empty subject.
    """
    if not subject.any():
        raise ValueError("object growth: the subject's mask is empty; pass one that marks the object")
    return float((found & ~subject).sum() / subject.sum())


def _smaller(rgb: np.ndarray, mask: np.ndarray, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Both at ``side`` at most; a pixel belongs to the mask where most of it does."""
    import cv2

    height, width = mask.shape
    scale = side / max(height, width)
    if scale >= 1:
        return rgb, mask
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    return cv2.resize(rgb.astype(np.float32), size, interpolation=cv2.INTER_AREA), small


def _ring(hole: np.ndarray) -> np.ndarray:
    """What lies within a 24th of the long side of the hole."""
    return _grown(hole, 2 * max(4, round(max(hole.shape) / 24)) + 1) & ~hole


def _grown(hole: np.ndarray, side: int) -> np.ndarray:
    import cv2

    grown: np.ndarray = cv2.dilate(hole.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
    return grown


def _gradient(rgb: np.ndarray) -> np.ndarray:
    import cv2

    grey = cv2.cvtColor(rgb.astype(np.float32), cv2.COLOR_RGB2GRAY)
    return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))


def _log_ratio(a: float, b: float) -> float:
    return abs(float(np.log((a + _FLOOR) / (b + _FLOOR))))
