"""Closed-form matting (Levin, Lischinski and Weiss 2008): what is known of a matte, carried on by the colours."""

from __future__ import annotations

import numpy as np

_SIDE = 3  # of a window, in pixels
_EPSILON = 1e-6  # how much a matte may differ from a linear function of the colours, per window
_TOLERANCE, _STEPS = 1e-5, 1000  # of conjugate gradients: the residual's share of the first one, and the most steps


def closed_form(rgb: np.ndarray, trimap: np.ndarray) -> np.ndarray | None:
    """The matte of the unknown pixels.

    It minimises the matting Laplacian's energy (equation 12), with what is known held fast, by conjugate gradients with
    a Jacobi preconditioner. A window's share of the Laplacian has rank 5: ``1 - F F^T``, where ``F`` (9, 4) holds the
    window's mean and its whitened colours. So no matrix is built.

    Args:
        rgb: (H, W, 3) in [0, 1].
        trimap: (H, W), 0 and 1 where the matte is known; anything between where it is not.

    Returns:
        (H, W) float32, about in [0, 1]: it is not clipped. None if the steps do not suffice.
    """
    unknown = (trimap > 0) & (trimap < 1)
    alpha = trimap.astype(np.float64)
    alpha[unknown] = 0
    if not unknown.any() or min(unknown.shape) < _SIDE:
        return alpha.astype(np.float32) if not unknown.any() else None
    pixels, windows = _windows(unknown)
    factors = _factors(rgb.reshape(-1, 3)[pixels].astype(np.float64)[windows])
    free, values = unknown.ravel()[pixels], alpha.ravel()[pixels]

    def energy(x: np.ndarray) -> np.ndarray:
        """Half the gradient: the Laplacian times x, (P,), at the free pixels."""
        of = x[windows]
        shares = of - np.einsum("ijn,jn->in", factors, np.einsum("ijn,in->jn", factors, of))
        return np.bincount(windows.ravel(), shares.ravel(), len(x))[free]

    diagonal = np.bincount(windows.ravel(), (1 - np.square(factors).sum(1)).ravel(), len(values))[free]
    residual = -energy(values)
    target = _TOLERANCE * np.linalg.norm(residual)
    found, step = np.zeros_like(residual), residual / diagonal
    product = residual @ step
    for _ in range(_STEPS):
        if np.linalg.norm(residual) <= target:
            values[free] = found
            alpha.ravel()[pixels] = values
            return alpha.astype(np.float32)
        moved = np.zeros_like(values)
        moved[free] = step
        change = energy(moved)
        length = product / (step @ change)
        found, residual = found + length * step, residual - length * change
        conditioned = residual / diagonal
        product, before = residual @ conditioned, product
        step = conditioned + product / before * step
    return None


def _windows(unknown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pixels (P,) of all windows that hold an unknown one, as places in a flat picture, and the windows (9, N), as
    places among them."""
    import cv2

    height, width = unknown.shape
    reach = _SIDE // 2
    centres = cv2.dilate(unknown.astype(np.uint8), np.ones((_SIDE, _SIDE), np.uint8)) > 0
    centres[:reach] = centres[height - reach :] = False
    centres[:, :reach] = centres[:, width - reach :] = False
    offsets = np.arange(-reach, reach + 1)
    around = (offsets[:, None] * width + offsets).ravel()
    pixels, windows = np.unique(np.flatnonzero(centres) + around[:, None], return_inverse=True)
    return pixels, windows.reshape(len(around), -1)


def _factors(colours: np.ndarray) -> np.ndarray:
    """F (9, 4, N) of windows of colours (9, N, 3)."""
    size = len(colours)
    centred = (colours - colours.mean(0)).transpose(1, 2, 0)
    covariance = (centred @ centred.transpose(0, 2, 1) + _EPSILON * np.eye(3)) / size
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), centred).transpose(2, 1, 0)
    return np.concatenate([np.ones((size, 1, whitened.shape[2])), whitened], 1) / np.sqrt(size)
