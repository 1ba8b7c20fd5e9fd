"""The guided filter of He et al. 2013 ("Guided image filtering"), with a guide in colour.

Around each pixel the filtered value is a linear function of the guide's colour. A guide in grey does not tell a red
plate from the dark stripes of a wooden table.
"""

from __future__ import annotations

import numpy as np


def guided_filter(
    guide: np.ndarray, x: np.ndarray, radius: int, epsilon: float, where: np.ndarray | None = None
) -> np.ndarray:
    """x (H, W) smoothed along the edges of a guide (H, W, 3) (equation 21).

    Args:
        radius: of the square windows, in pixels.
        epsilon: added to the variances of the guide within a window: what varies less is smoothed.
        where: (H, W) bool, the pixels that are wanted; others are 0. None = all.
    """
    slope, offset = guided_lines(guide, x, radius, epsilon, where)
    filtered: np.ndarray = (slope * guide).sum(2) + offset
    return filtered if where is None else np.where(where, filtered, 0)


def guided_lines(
    guide: np.ndarray, x: np.ndarray, radius: int, epsilon: float, where: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Slope (H, W, 3) and offset (H, W) of the linear function that fits best around each pixel (equations 19 and 20),
    the mean of those of all windows that it lies in. Right where ``where`` (H, W) is True, or everywhere."""
    import cv2

    side = 2 * radius + 1

    def mean(y: np.ndarray) -> np.ndarray:
        return cv2.blur(y, (side, side))

    guide, x = guide.astype(np.float32, copy=False), x.astype(np.float32, copy=False)
    near = np.ones(x.shape, bool)
    if where is not None:
        near = cv2.dilate(where.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    colour, value = mean(guide)[near], mean(x)[near]  # (N, 3) and (N,)
    along = mean(guide * x[..., None])[near] - colour * value[:, None]
    spread = np.empty((len(value), 3, 3), np.float32)
    for i, j in pairs:
        shared = mean(guide[..., i] * guide[..., j])[near] - colour[:, i] * colour[:, j]
        spread[:, i, j] = spread[:, j, i] = shared + np.float32(epsilon) * (i == j)
    found = np.zeros((*x.shape, 4), np.float32)
    found[near, :3] = slope = np.linalg.solve(spread, along[..., None])[..., 0]
    found[near, 3] = value - (slope * colour).sum(1)
    found = mean(found)
    return found[..., :3], found[..., 3]
