"""The shadow of a subject, drawn in the picture from its matte.

It has three parts: contact (darkest, where the subject meets the ground), cast (its silhouette laid down on the ground,
softer with distance) and occlusion (a wide darkening at the base). Mattes are (H, W) float32 in [0, 1], 1 = subject.
"""

from __future__ import annotations

import math

import numpy as np

_LONGEST_SIDE = 512  # at which shadows are drawn: they are soft


def check_subject(matte: np.ndarray) -> None:
    """Raise ValueError if nothing is opaque."""
    if not (matte > 0.5).any():
        raise ValueError("subject: nothing is opaque; there is nothing to put on a surface")


def shadow(matte: np.ndarray, light: float = 0.4, view: str = "ground", edge: float = 0.4) -> np.ndarray:
    """(H, W) float32 in [0, 1]: the share of the light that the subject blocks.

    Args:
        light: the side of the light, -1 = left to 1 = right; it is above and a little in front.
        view: as in ``Surface``; seen from above, the shadow lies all around.
        edge: y where the ground ends, as a share of the height.

    Raises ValueError if nothing is opaque.
    """
    import cv2

    check_subject(matte)
    height, width = matte.shape
    scale = min(1.0, _LONGEST_SIDE / max(height, width))
    size = max(2, round(width * scale)), max(2, round(height * scale))
    small = cv2.resize(np.ascontiguousarray(matte, np.float32), size, interpolation=cv2.INTER_AREA)
    if not (small > 0.5).any():
        small = small / small.max()
    made = _shadow_from_above(small, light) if view == "flat" else _shadow_of_standing(small, light, view, edge)
    return cv2.resize(made, (width, height), interpolation=cv2.INTER_LINEAR).clip(0, 1)


def _over(*layers: np.ndarray) -> np.ndarray:
    """Shadows that add up without becoming darker than black."""
    rest = np.ones_like(layers[0])
    for layer in layers:
        rest = rest * (1 - layer.clip(0, 1))
    return 1 - rest


def _blur(x: np.ndarray, sigma_x: float, sigma_y: float | None = None) -> np.ndarray:
    """Gaussian blur that repeats the picture's border."""
    import cv2

    sigma_y = sigma_x if sigma_y is None else sigma_y
    sigmas = max(sigma_x, 0.3), max(sigma_y, 0.3)
    return cv2.GaussianBlur(x, (0, 0), sigmas[0], sigmaY=sigmas[1], borderType=cv2.BORDER_REPLICATE)


def _warp(x: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
    """(H, W) under an affine map from old to new pixels."""
    import cv2

    return cv2.warpAffine(x, np.array(matrix, np.float64), x.shape[::-1], flags=cv2.INTER_LINEAR)


def _shadow_from_above(matte: np.ndarray, light: float) -> np.ndarray:
    """The shadow of a thing that lies flat, seen from above."""
    unit = math.sqrt(matte.size)
    near = _warp(matte, [[1, 0, -0.006 * unit * light], [0, 1, 0.004 * unit]])
    far = _warp(matte, [[1, 0, -0.03 * unit * light], [0, 1, 0.016 * unit]])
    return _over(0.5 * _blur(near, 0.006 * unit), 0.42 * _blur(far, 0.02 * unit), 0.25 * _blur(far, 0.06 * unit))


def _shadow_of_standing(matte: np.ndarray, light: float, view: str, edge: float) -> np.ndarray:
    """The shadow of a thing that stands on the ground."""
    rows, columns = matte.shape
    solid = matte > 0.5
    filled = np.flatnonzero(solid.any(1))
    top, base = int(filled[0]), int(filled[-1])
    tall, unit = base - top + 1, math.sqrt(matte.size)
    y = np.arange(rows, dtype=np.float32)[:, None]
    # Contact: the lowest pixel of each column, stronger the nearer it is to the ground.
    touched = np.flatnonzero(solid.any(0))
    lowest = rows - 1 - np.argmax(solid[::-1], axis=0)[touched]
    lifted = (base - lowest) / max(1.0, 0.05 * unit)
    contact = np.zeros_like(matte)
    contact[lowest, touched] = np.exp(-(lifted**2))
    thin = _peak(_blur(contact, 0.008 * unit, 0.0035 * unit), contact)
    soft = _peak(_blur(contact, 0.028 * unit, 0.011 * unit), contact)
    wide = _peak(_blur(contact, 0.09 * unit, 0.034 * unit), contact)
    # Cast: the silhouette sheared away from the light and laid down, in slices that are softer and paler with height.
    low, squash = -0.62 * light, 0.16
    layers = []
    for start, end, sigma, strength in ((0.0, 0.14, 0.009, 0.58), (0.1, 0.36, 0.02, 0.44), (0.3, 0.68, 0.04, 0.28)):
        share = ((base - y) / tall >= start) & ((base - y) / tall <= end)
        laid = _warp(matte * share, [[1, -low, low * base], [0, squash, (1 - squash) * base]])
        layers.append(strength * _blur(laid, sigma * unit * 1.4, sigma * unit * 0.6))
    ground = _over(0.7 * thin, 0.48 * soft, 0.36 * wide, *layers)
    ground *= 1 / (1 + np.exp(-(y / rows - edge) / 0.012))  # no shadow on the room behind
    if view == "wall":
        away = 0.1 * (base - top)
        wall = _blur(_warp(matte, [[1, 0, -away * light * 1.6], [0, 1, away * 0.35]]), 0.035 * unit)
        ground = _over(ground, 0.26 * wall / (1 + np.exp((y / rows - edge) / 0.012)))
    return ground.astype(np.float32)


def _peak(blurred: np.ndarray, contact: np.ndarray) -> np.ndarray:
    """A blurred line scaled to the peak that the line had before."""
    most = float(blurred.max())
    return blurred * (float(contact.max()) / most) if most > 0 else blurred
