"""Closed-form matting, against the paper's equation written out, and on drawn truths."""

import numpy as np
import pytest

from photofound.edits.closed_form import closed_form


def laplacian(rgb):
    """Equation 12 of the paper, pixel pair by pixel pair."""
    height, width, _ = rgb.shape
    found, epsilon = np.zeros((height * width, height * width)), 1e-6
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            places = [j * width + i for j in (y - 1, y, y + 1) for i in (x - 1, x, x + 1)]
            colours = rgb.reshape(-1, 3)[places]
            middle = colours.mean(0)
            inverse = np.linalg.inv(np.cov(colours.T, bias=True) + epsilon / 9 * np.eye(3))
            for i, first in zip(places, colours, strict=True):
                for j, second in zip(places, colours, strict=True):
                    found[i, j] += (i == j) - (1 + (first - middle) @ inverse @ (second - middle)) / 9
    return found


def test_it_is_the_papers_equation():
    rng = np.random.default_rng(0)
    rgb, trimap = rng.random((9, 11, 3)), np.full((9, 11), 0.5)
    trimap[:, :3], trimap[:, -3:] = 0, 1
    unknown = ((trimap > 0) & (trimap < 1)).ravel()
    matrix = laplacian(rgb)
    known = np.where(unknown, 0, trimap.ravel())
    truth = known.copy()
    truth[unknown] = np.linalg.solve(matrix[np.ix_(unknown, unknown)], -(matrix @ known)[unknown])
    found = closed_form(rgb, trimap)
    assert found.dtype == np.float32 and np.abs(found.ravel() - truth).max() < 1e-4


def test_two_colours_are_told_apart_through_glass():
    """Where one colour before another is seen, the share of each is found."""
    truth = np.tile(np.clip((np.arange(60) - 10) / 40, 0, 1), (20, 1))
    rgb = truth[..., None] * (0.9, 0.2, 0.1) + (1 - truth[..., None]) * (0.1, 0.3, 0.8)
    trimap = np.where((truth > 0) & (truth < 1), 0.5, truth)
    assert np.abs(closed_form(rgb, trimap) - truth).max() < 1e-3


@pytest.mark.parametrize("size", [(1, 1), (2, 50), (3, 3)])
def test_small_and_known_pictures(size):
    rgb = np.random.default_rng(0).random((*size, 3))
    assert (closed_form(rgb, np.ones(size)) == 1).all()
    found = closed_form(rgb, np.full(size, 0.5))  # nothing is known: any constant would do
    assert found is None or np.isfinite(found).all()
    trimap = np.full(size, 0.5)
    trimap[0, 0] = 1
    found = closed_form(rgb, trimap)
    assert found is None or (found[0, 0] == 1 and np.isfinite(found).all())
