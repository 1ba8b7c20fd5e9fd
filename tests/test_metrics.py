"""Figures against scikit-image, SciPy and hand-made pictures."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import scipy.ndimage
import skimage.metrics
import torch

from photofound import metrics
from photofound.regularizers import PerceptualNet


def pair(height=32, width=41):
    rng = np.random.default_rng(0)
    a = cv2.GaussianBlur(rng.random((height, width, 3)), (0, 0), 1.5)
    return a, np.clip(a + rng.normal(0, 0.05, a.shape), 0, 1)


def test_psnr_is_scikit_images():
    a, b = pair()
    assert metrics.psnr(a, b) == pytest.approx(skimage.metrics.peak_signal_noise_ratio(a, b, data_range=1.0))
    low = metrics.psnr(a.astype(np.float32), b.astype(np.float32))
    assert low == pytest.approx(metrics.psnr(a, b), abs=1e-4)


def test_psnr_by_hand():
    a = np.zeros((4, 4, 3))
    assert metrics.psnr(a, a) == math.inf
    assert metrics.psnr(a, a + 0.1) == pytest.approx(20.0)
    assert metrics.psnr(a, np.ones_like(a)) == 0.0


def test_psnr_within_a_mask():
    a = np.zeros((4, 4, 3))
    b, where = a.copy(), np.zeros((4, 4), bool)
    b[0, 0] = 1
    where[0, :2] = True
    assert metrics.psnr(a, b, where) == pytest.approx(-10 * math.log10(0.5))
    assert metrics.psnr(a, b, ~where) == math.inf


def test_luma_is_opencvs_studio_y():
    rgb = np.random.default_rng(0).random((9, 7, 3))
    assert metrics.luma(np.ones((1, 1, 3)))[0, 0] == pytest.approx(235 / 255, abs=1e-5)
    assert metrics.luma(np.zeros((1, 1, 3)))[0, 0] == pytest.approx(16 / 255)
    full = cv2.cvtColor(rgb.astype(np.float32), cv2.COLOR_RGB2GRAY)  # the same weights in full range
    assert np.abs(metrics.luma(rgb) - (16 + 219 * full) / 255).max() < 1e-3


def test_ssim_is_the_papers_formula():
    """Means, variances and covariance under a Gaussian window cut off at 11 pixels, without the frame."""
    a, b = pair()

    def blur(x):
        return scipy.ndimage.gaussian_filter(x, 1.5, truncate=3.5)

    maps = []
    for x, y in zip(np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0), strict=True):
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
        c1, c2 = 0.01**2, 0.03**2
        maps.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    expected = np.mean([m[5:-5, 5:-5] for m in maps])
    assert metrics.ssim(a, b) == pytest.approx(expected, abs=1e-6)
    assert 0.3 < expected < 0.95 and metrics.ssim(a, a) == pytest.approx(1.0)


def test_perceptual_distance_of_arrays():
    torch.manual_seed(0)
    net = PerceptualNet()
    a, b = pair(48, 40)
    assert metrics.perceptual(net, a, a) == 0
    assert (
        metrics.perceptual(net, a, b) == pytest.approx(metrics.perceptual(net, b, a))
        and metrics.perceptual(net, a, b) > 0
    )


def test_altered_counts_pixels_not_values():
    original = np.zeros((4, 5, 3), np.uint8)
    result, keep = original.copy(), np.ones((4, 5), bool)
    keep[3] = False  # 15 pixels are kept
    result[3] = 9
    assert metrics.altered(result, original, keep) == 0
    result[0, 0, 1] = 1
    result[1, 1] = 255
    assert metrics.altered(result, original, keep) == pytest.approx(2 / 15)
    assert metrics.altered(result, original, np.zeros((4, 5), bool)) == 0


def test_a_seam_is_the_step_across_the_border():
    hole = np.zeros((12, 14))
    hole[3:8, 4:9] = 0.5  # a soft mask's hole is all above zero
    rgb = np.full((12, 14, 3), 0.4)
    assert metrics.seam_step(rgb, hole) == 0
    rgb[3:8, 4:9] = 0.4 + np.array([0.1, 0.2, -0.3])
    assert metrics.seam_step(rgb, hole) == pytest.approx(0.2)
    rgb[5, 6] = 1.0  # inside the hole, not at its border
    rgb[0, 0] = 0.0
    assert metrics.seam_step(rgb, hole) == pytest.approx(0.2)


def test_the_seam_of_a_ramp_is_averaged_over_all_crossings():
    rgb = np.repeat(np.repeat(np.linspace(0, 1.1, 12)[None, :, None], 10, 0), 3, 2)  # steps of 0.1 to the right
    hole = np.zeros((10, 12))
    hole[2:6, 3:9] = 1  # 4 rows cross twice sideways, 6 columns twice up and down
    assert metrics.seam_step(rgb, hole) == pytest.approx(0.1 * 8 / 20)
    hole[:] = 0
    hole[:, 6:] = 1
    assert metrics.seam_step(rgb, hole) == pytest.approx(0.1)


@pytest.mark.parametrize("hole", [np.zeros((5, 5)), np.ones((5, 5))])
def test_without_a_border_there_is_no_seam(hole):
    assert metrics.seam_step(np.random.rand(5, 5, 3), hole) == 0
