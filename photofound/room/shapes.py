"""An embedding without a network: where a picture has edges, of which direction, and which colours it has.

Histograms of oriented gradients (Dalal and Triggs, 2005) and a histogram of colours. It finds the same and similar
things in similar poses; it knows neither objects nor words. docs/experiments.md compares it with networks.
"""

from __future__ import annotations

import numpy as np

SIDE = 96
WIDTH = 384
"""6 x 6 cells of 8 directions, then 6 x 4 x 4 colours in L*a*b*."""
_CELL, _DIRECTIONS, _COLOURS = 16, 8, (6, 4, 4)
_COLOUR_WEIGHT = 0.5


def vector(picture: np.ndarray) -> np.ndarray:
    """(384,) float32 of length 1 of a picture (H, W, 3) uint8, seen as a square."""
    import cv2

    square = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(square, cv2.COLOR_RGB2LAB)
    edges, colours = _edges(lab.astype(np.float32)), _colours(lab)
    made = np.concatenate([edges, _COLOUR_WEIGHT * colours])
    length = np.linalg.norm(made)
    return (made / (length if length > 0 else 1)).astype(np.float32)


def _edges(lab: np.ndarray) -> np.ndarray:
    """(288,) of length 1, or zeros for a flat picture: per cell, how strong edges of each direction are."""
    import cv2

    steps = [cv2.Sobel(lab, cv2.CV_32F, *axis, ksize=1) for axis in ((1, 0), (0, 1))]
    strongest = np.argmax(steps[0] ** 2 + steps[1] ** 2, axis=2)[..., None]  # of the three channels
    x, y = (np.take_along_axis(step, strongest, 2)[..., 0] for step in steps)
    strength = np.hypot(x, y)
    direction = (np.arctan2(y, x) % np.pi) / np.pi * _DIRECTIONS
    low = np.floor(direction).astype(int)
    share = direction - low
    filled = np.zeros((_DIRECTIONS, SIDE, SIDE), np.float32)
    np.put_along_axis(filled, low[None] % _DIRECTIONS, ((1 - share) * strength)[None], 0)
    nearby = np.take_along_axis(filled, (low[None] + 1) % _DIRECTIONS, 0) + (share * strength)[None]
    np.put_along_axis(filled, (low[None] + 1) % _DIRECTIONS, nearby, 0)
    cells = filled.reshape(_DIRECTIONS, SIDE // _CELL, _CELL, SIDE // _CELL, _CELL).sum((2, 4)).transpose(1, 2, 0)
    around = np.sqrt((cv2.blur(cells, (3, 3)) ** 2).sum(2, keepdims=True)) + 10  # less than that is noise
    made = np.sqrt(cells / around)
    made -= made.mean((0, 1))  # what is everywhere tells nothing
    length = np.linalg.norm(made)
    return made.ravel() / (length if length > 0 else 1)


def _colours(lab: np.ndarray) -> np.ndarray:
    """(96,) of length 1: the square roots of the colours' shares."""
    import cv2

    counts = cv2.calcHist([lab], [0, 1, 2], None, list(_COLOURS), [0, 256, 64, 192, 64, 192]).ravel()
    return np.sqrt(counts / max(counts.sum(), 1))
