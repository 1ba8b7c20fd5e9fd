"""Paste-back against a direct solution of Laplace's equation, and against photographs."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from photofound.edits import composite
from photofound.edits.composite import back_project, close_seam, harmonic, resize, resize_given, shrink


def laplace(values, known):
    """Laplace's equation on the unknown pixels of an (H, W) array, solved directly; no flow across the frame."""
    height, width = values.shape
    index = np.arange(height * width).reshape(height, width)
    matrix, right = np.zeros((height * width, height * width)), np.zeros(height * width)
    for y in range(height):
        for x in range(width):
            i = index[y, x]
            if known[y, x]:
                matrix[i, i], right[i] = 1, values[y, x]
                continue
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                matrix[i, i] += 1
                matrix[i, index[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)]] -= 1
    return np.linalg.solve(matrix, right).reshape(height, width)


def ramp(height, width):
    y, x = np.mgrid[:height, :width]
    return x / width - 0.3 * y / height


def waves(height, width):
    y, x = np.mgrid[:height, :width]
    return np.sin(x / 5) * np.cos(y / 7)


def boxed(height, width, *box):
    """A bool mask of known pixels around an unknown box (top, bottom, left, right)."""
    known = np.ones((height, width), bool)
    known[box[0] : box[1], box[2] : box[3]] = False
    return known


HOLES = {
    "box": boxed(20, 20, 5, 15, 4, 16),
    "odd": boxed(19, 23, 5, 15, 4, 16),
    "one pixel": boxed(9, 9, 4, 5, 4, 5),
    "side": boxed(20, 20, 0, 20, 14, 20),
}


@pytest.mark.parametrize("make", [ramp, waves])
@pytest.mark.parametrize("hole", HOLES)
def test_harmonic_is_close_to_the_solution_of_laplaces_equation(hole, make):
    known = HOLES[hole]
    values = make(*known.shape)
    filled = harmonic(torch.tensor(values)[None, None], torch.tensor(known)[None, None])[0, 0].numpy()
    exact = laplace(values, known)
    error = np.abs(filled - exact)
    assert np.array_equal(filled[known], values[known])
    assert error.max() < 0.13 and error[~known].mean() < 0.09
    flat = np.abs(values[known].mean() - exact)[~known].mean()
    assert error[~known].mean() < max(0.02, 0.5 * flat)  # far nearer than the mean colour


def test_harmonic_continues_a_ramp():
    values, known = ramp(32, 32), boxed(32, 32, 8, 24, 8, 24)
    filled = harmonic(torch.tensor(values)[None, None], torch.tensor(known)[None, None])[0, 0].numpy()
    assert np.abs(filled - values).max() < 0.02


def test_harmonic_stays_between_what_it_knows():
    values, known = torch.rand(4, 3, 17, 30), torch.rand(4, 1, 17, 30) < 0.05
    filled = harmonic(values, known)
    for sample, given, where in zip(filled, values, known, strict=True):
        for channel, before in zip(sample, given, strict=True):
            low, high = before[where[0]].aminmax()
            assert channel.min() >= low - 1e-6 and channel.max() <= high + 1e-6


def test_what_stands_at_unknown_places_is_ignored():
    values, known = torch.rand(2, 3, 16, 13), torch.rand(2, 1, 16, 13) < 0.4
    other = torch.where(known, values, torch.rand_like(values) * 100)
    assert torch.equal(harmonic(values, known), harmonic(other, known))
    assert torch.equal(harmonic(values, known), harmonic(values, known.float()))


def test_all_known_and_nothing_known():
    values = torch.rand(2, 3, 11, 8)
    assert torch.equal(harmonic(values, torch.ones(2, 1, 11, 8)), values)
    known = torch.zeros(2, 1, 11, 8)
    known[1] = 1
    mixed = harmonic(values, known)
    assert torch.equal(mixed[0], torch.zeros(3, 11, 8)) and torch.equal(mixed[1], values[1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 1), (3, 3), (5, 64)])
def test_one_known_pixel_spreads_everywhere(shape):
    values, known = torch.rand(1, 3, *shape), torch.zeros(1, 1, *shape)
    known[..., -1, 0] = 1
    assert torch.allclose(harmonic(values, known), values[..., -1:, :1].expand(1, 3, *shape), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_keeps_known_values_too(dtype):
    values, known = torch.rand(1, 3, 12, 12).to(dtype), torch.rand(1, 1, 12, 12) < 0.5
    filled = harmonic(values, known)
    assert filled.dtype == dtype and torch.equal(filled[known.expand_as(filled)], values[known.expand_as(values)])


def photograph(height=96, width=129):
    from skimage import data

    return torch.tensor(data.astronaut()[:height, 150 : 150 + width]).permute(2, 0, 1)[None] / 127.5 - 1


def centre_hole(given):
    hole = torch.zeros_like(given[:, :1])
    hole[..., 30:66, 40:90] = 1
    return hole


def test_close_seam_keeps_given_pixels_bit_for_bit():
    given = photograph()
    hole = centre_hole(given)
    hole[..., 29, 40:90] = 0.25  # a soft edge is the hole's
    closed = close_seam(torch.rand_like(given) * 2 - 1, given, hole)
    kept = (hole == 0).expand_as(given)
    assert torch.equal(closed[kept], given[kept])
    assert closed.min() >= -1 and closed.max() <= 1


def test_a_constant_offset_vanishes():
    given = photograph() * 0.8
    closed = close_seam(given + torch.tensor([0.1, -0.15, 0.05])[:, None, None], given, centre_hole(given))
    assert (closed - given).abs().max() < 1e-5


def test_a_smooth_offset_nearly_vanishes():
    given = photograph(96, 128) * 0.7
    offset = torch.tensor(ramp(96, 128)).float() * 0.3
    closed = close_seam(given + offset, given, centre_hole(given))
    assert (closed - given).abs().max() < 0.03 < 0.1 * offset.abs().max() + 0.03


def test_a_large_picture_is_corrected_on_a_coarser_grid(monkeypatch):
    given = photograph(96, 128) * 0.7
    generated, hole = given * 0.9 + 0.05, centre_hole(given)
    fine = close_seam(generated, given, hole)
    monkeypatch.setattr(composite, "_LARGE", 1000)  # cells of 4x4
    coarse = close_seam(generated, given, hole)
    kept = (hole == 0).expand_as(given)
    assert torch.equal(coarse[kept], given[kept])
    before = (generated - given).abs().mean()
    assert 0 < (coarse - fine).abs().mean() < 0.1 * before


def test_generated_detail_survives():
    """Only the smooth difference is taken away: the hole's own texture stays."""
    given = torch.zeros(1, 3, 64, 64)
    texture = 0.3 * torch.sin(torch.arange(64.0) * 2.5).expand(1, 3, 64, 64)
    closed = close_seam(texture + 0.2, given, F.pad(torch.ones(1, 1, 40, 40), (12,) * 4))
    inside = (slice(None), slice(None), slice(24, 40), slice(24, 40))
    assert torch.corrcoef(torch.stack([closed[inside].flatten(), texture[inside].flatten()]))[0, 1] > 0.99


def test_with_nothing_given_the_generated_picture_comes_back():
    generated = torch.rand(1, 3, 20, 20)
    assert torch.equal(close_seam(generated, torch.zeros_like(generated), torch.ones(1, 1, 20, 20)), generated)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_back_projection_agrees_with_the_small_picture(scale):
    low = photograph(61, 83)
    up = F.interpolate(low, scale_factor=scale, mode="bicubic").clamp(-1, 1)
    wrong = (up * 0.9 + 0.05 + 0.1 * torch.randn_like(up)).clamp(-1, 1)
    made = back_project(wrong, low)
    assert made.shape == wrong.shape and made.min() >= -1 and made.max() <= 1

    def error(picture):
        return float((shrink(picture, low.shape[-2:]) - low).abs().mean()) * 127.5

    assert error(wrong) > 4 and error(made) < 0.5  # promised: 2 of 255
    by_area = cv2.resize(made[0].permute(1, 2, 0).numpy(), low.shape[:1:-1], interpolation=cv2.INTER_AREA)
    assert np.abs(by_area - low[0].permute(1, 2, 0).numpy()).mean() * 127.5 < 2.5  # nearly so by another filter


def test_back_projection_leaves_alone_what_agrees():
    high = photograph(80, 80)
    assert torch.allclose(back_project(high, shrink(high, (40, 40))), high, atol=1e-5)


def test_shrink_does_not_alias_and_keeps_the_mean():
    stripes = (torch.arange(64) % 2 * 2.0 - 1).expand(1, 1, 64, 64)
    assert shrink(stripes, (16, 16))[..., 2:-2, 2:-2].abs().max() < 0.01
    photo = photograph(96, 128)
    small = shrink(photo, torch.Size((24, 32)))
    assert small.shape == (1, 3, 24, 32)
    assert torch.allclose(small.mean((2, 3)), photo.mean((2, 3)), atol=0.01)
    assert (small - F.avg_pool2d(photo, 4)).abs().mean() < 0.03


@pytest.mark.parametrize("size", [(20, 31), (96, 129), (150, 200), (96, 64)])
def test_resize_keeps_range_and_size(size):
    photo = photograph() * 0.5
    resized = resize(photo, size)
    assert resized.shape == (1, 3, *size)
    assert photo.min() <= resized.min() and resized.max() <= photo.max()
    back = F.interpolate(resized, size=(96, 129), mode="bilinear", antialias=True)
    assert (back - photo).abs().mean() < 0.08
    assert resize(photo, (96, 129)) is photo


def test_scaling_down_keeps_the_hole_out_of_what_is_given():
    """A bright hole in a dark picture: plain scaling greys the given pixels beside it, this does not."""
    hole = torch.zeros(1, 1, 40, 40)
    hole[..., 13:29, 13:29] = 1
    pixels = torch.where(hole > 0, 1.0, -1.0).repeat(1, 3, 1, 1)
    small = resize_given(pixels, hole, (17, 17))
    assert small[..., 5, :5].max() == -1 and small[..., 2, :].max() == -1  # given, up to the hole's edge
    assert small[..., 8, 8].min() == 1  # the middle of the hole still shows what was there
    assert resize(pixels, (17, 17))[..., 4:6, 8].max() > -0.9
    assert torch.equal(resize_given(pixels, hole, (40, 40)), pixels)


def test_scaling_down_without_a_hole_averages():
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    small = resize_given(pixels, torch.zeros(1, 1, 32, 32), (8, 8))
    assert torch.allclose(small.mean(), pixels.mean(), atol=0.02)


@pytest.mark.parametrize("size", [(30, 1), (1, 30), (1, 1), (30, 2)])
def test_narrow_pictures_shrink_as_pillow_shrinks_them(size):
    """torch's own filter is wrong where a result of some height is one pixel wide."""
    from PIL import Image

    large = torch.rand(1, 1, 2 * size[0], 3 * size[1])
    theirs = Image.fromarray(large[0, 0].numpy()).resize(size[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_allclose(composite.shrink(large, size)[0, 0].numpy(), np.asarray(theirs), atol=1e-5)
