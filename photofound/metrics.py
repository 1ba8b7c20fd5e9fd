"""How good a result is, in numbers. Pictures are (H, W, 3) float arrays in [0, 1] unless said otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from photofound.regularizers import PerceptualNet, perceptual_distance


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, infinite for equal pictures; within the boolean mask ``where`` (H, W), if
    given."""
    error = np.square(a.astype(np.float64) - b.astype(np.float64))
    mean = error.mean() if where is None else error[where].mean()
    return float("inf") if mean == 0 else float(-10 * np.log10(mean))


def luma(rgb: np.ndarray) -> np.ndarray:
    """Y of ITU-R BT.601 in studio range, in [16/255, 235/255]: what super-resolution papers measure PSNR on."""
    return (16 + rgb @ np.array([65.481, 128.553, 24.966])) / 255


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) with the paper's Gaussian window, mean over channels; 1 = equal."""
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        raise ImportError("ssim needs scikit-image: pip install 'photofound[eval]'") from None
    options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(a, b, channel_axis=-1, data_range=1.0, **options))


@torch.no_grad()
def perceptual(net: PerceptualNet, a: np.ndarray, b: np.ndarray) -> float:
    """LPIPS-like distance over a feature network, see ``photofound.regularizers.perceptual_distance``; 0 = equal."""
    from photofound.image import to_tensor

    return float(perceptual_distance(net, to_tensor(a), to_tensor(b)))


def altered(result: np.ndarray, original: np.ndarray, keep: np.ndarray) -> float:
    """Share of the pixels under the boolean mask ``keep`` (H, W) that are not equal in every channel."""
    return float((result[keep] != original[keep]).any(-1).mean()) if keep.any() else 0.0


def seam_step(rgb: np.ndarray, hole: np.ndarray) -> float:
    """Mean absolute step in colour across the border of ``hole`` (H, W, > 0 = hole), in [0, 1].

    Averages over all pairs of horizontal or vertical neighbours of which exactly one lies in the hole. Compare it with
    the same
    figure of an untouched photograph: what exceeds that is a visible seam.
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
