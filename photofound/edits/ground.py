"""The even ground of a photograph: its colour, and what is near it. Colours are sRGB 0..255."""

from __future__ import annotations

import numpy as np


def lab(rgb: np.ndarray) -> np.ndarray:
    """(N, 3) sRGB 0..255 to CIE L*a*b*, where a distance is roughly the difference that the eye sees."""
    import cv2

    return cv2.cvtColor((rgb.reshape(-1, 1, 3) / 255).astype(np.float32), cv2.COLOR_RGB2LAB).reshape(-1, 3)


def ground_colour(rgb: np.ndarray) -> np.ndarray | None:
    """The colour (3,) that dominates the border of a picture (H, W, 3): the border's median, if at least 55 % of the
    border are near it (``is_near``). Else None."""
    edge = max(2, min(rgb.shape[:2]) // 16)
    sides = (rgb[:edge], rgb[-edge:], rgb[:, :edge], rgb[:, -edge:])
    ring = np.concatenate([side.reshape(-1, 3)[::7] for side in sides])
    median: np.ndarray = np.median(ring, 0)
    return median if is_near(ring, median).mean() >= 0.55 else None


def is_near(rgb: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """(N,) bool: whether each of (N, 3) colours lies within a CIE distance of 18 of a colour."""
    return np.linalg.norm(lab(rgb) - lab(colour), axis=1) < 18
