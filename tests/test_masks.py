"""Training masks against what they promise, and mask tools against OpenCV and SciPy."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import scipy.ndimage
import torch
from helpers import seeded

from photofound.edits import masks

SIZE = 64
DRAWN = {
    "strokes": masks.strokes,
    "boxes": masks.boxes,
    "borders": masks.borders,
    "patches": masks.patches,
}


def parts(mask):
    """How many connected parts an (H, W) mask has."""
    return scipy.ndimage.label(mask.numpy(), np.ones((3, 3)))[1]


def test_uniform_is_uniform_and_from_its_generator():
    drawn = masks.uniform((20_000,), -2.0, 3.0, seeded())
    assert drawn.min() >= -2 and drawn.max() < 3
    quantiles = torch.quantile(drawn, torch.tensor([0.1, 0.5, 0.9]))
    assert torch.allclose(quantiles, torch.tensor([-1.5, 0.5, 2.5]), atol=0.08)
    assert torch.equal(drawn, masks.uniform((20_000,), -2.0, 3.0, seeded()))


@pytest.mark.parametrize("name", DRAWN)
def test_training_masks_are_binary_differ_and_follow_the_seed(name):
    draw = DRAWN[name]
    drawn = draw(16, SIZE, seeded(1))
    assert drawn.shape == (16, 1, SIZE, SIZE) and drawn.dtype == torch.float32
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert len({m.numpy().tobytes() for m in drawn}) == 16
    torch.rand(3)  # the global generator plays no part
    assert torch.equal(drawn, draw(16, SIZE, seeded(1)))
    assert not torch.equal(drawn, draw(16, SIZE, seeded(2)))


@pytest.mark.parametrize("name", DRAWN)
def test_training_masks_take_the_shape_of_any_bucket(name):
    tall = DRAWN[name](12, (96, 32), seeded())
    assert tall.shape == (12, 1, 96, 32) and set(tall.unique().tolist()) == {0.0, 1.0}
    square = DRAWN[name](12, (96, 96), seeded())
    assert torch.equal(square, DRAWN[name](12, 96, seeded()))
    if name != "patches":  # those lie on a grid of their own; the others are the square's, stretched
        assert (tall.mean((1, 2, 3)) - square.mean((1, 2, 3))).abs().max() < 0.05


def test_strokes_come_one_to_five_at_a_time(monkeypatch):
    asked = []

    def draw(count):
        def constant(low, high, shape, **_):
            asked.append((low, high))
            return torch.full(shape, count)

        monkeypatch.setattr(torch, "randint", constant)
        return masks.strokes(32, 48, seeded())

    by_count = [draw(count) for count in range(1, 6)]
    assert set(asked) == {(1, 6)}
    for fewer, more in zip(by_count, by_count[1:], strict=False):
        assert (more >= fewer).all() and (more > fewer).flatten(1).any(1).float().mean() > 0.5
    # One stroke is one part, unless it leaves the picture and comes back.
    assert sum(parts(m[0]) == 1 for m in by_count[0]) > 20 and max(parts(m[0]) for m in by_count[4]) >= 3


def test_distances_to_a_segment():
    """One straight stroke through the middle, counted across."""
    ends = iter([torch.tensor([[0.5, 0.0]]), torch.tensor([[0.5, 0.5]])])
    near = masks._segment_distance(*masks._grid(100, torch.device("cpu")), next(ends), torch.tensor([[0.5, 1.0]]))
    assert (near < 0.1)[0, :, 50].sum() == 20 and (near < 0.1)[0].all(1).sum() == 20
    y, x = masks._grid(100, torch.device("cpu"))
    point = torch.tensor([[0.25, 0.75]])
    dot = masks._segment_distance(y, x, point, point)  # a segment of no length is a point
    assert torch.allclose(dot[0], ((y - 0.25).square() + (x - 0.75).square()).sqrt(), atol=1e-5)


def test_wider_strokes_hide_more():
    thin, wide = (masks.strokes(64, SIZE, seeded(), widest=w).mean() for w in (0.05, 0.4))
    assert 0 < thin < 0.6 * wide


def test_boxes_come_one_to_four_with_sides_in_range():
    drawn = masks.boxes(300, SIZE, seeded())
    found = [parts(m[0]) for m in drawn]
    assert min(found) == 1 and 3 <= max(found) <= 4
    for mask in drawn[[i for i, n in enumerate(found) if n == 1]][:80, 0]:
        rows, columns = mask.any(1), mask.any(0)
        if torch.equal(mask.bool(), rows[:, None] & columns[None, :]):  # one box, or several that make one
            assert 0.1 / 2.05 * SIZE - 1 <= rows.sum() <= 0.95 * SIZE
    assert 0.03 < drawn.mean() < 0.35


def test_borders_keep_half_of_each_side_and_cut_at_least_once():
    drawn = masks.borders(400, SIZE, seeded())[:, 0]
    given = drawn == 0
    rows, columns = given.any(2), given.any(1)
    assert torch.equal(given, rows[:, :, None] & columns[:, None, :])  # what is given is one rectangle
    for kept in (rows, columns):
        assert kept.sum(1).min() >= SIZE // 2
    cuts = torch.stack([~rows[:, 0], ~rows[:, -1], ~columns[:, 0], ~columns[:, -1]], 1)
    assert cuts.any(1).all()
    assert set(cuts.sum(1).tolist()) == {1, 2, 3, 4}
    assert 0.5 < cuts.float().mean() < 0.8  # every side as often as any other
    assert cuts.float().mean(0).min() > 0.5


@pytest.mark.parametrize("size", [64, 128, 72])
def test_patches_hide_a_quarter_to_nine_tenths(size):
    drawn = masks.patches(300, size, seeded(), patch=8)
    cells = size // 8
    share = drawn.mean((1, 2, 3))
    assert share.min() >= 0.25 and share.max() <= 0.9 + 1 / cells**2
    assert share.min() < 0.32 and share.max() > 0.83
    small = drawn[:, :, 4::8, 4::8]
    assert torch.equal(small.repeat_interleave(8, 2).repeat_interleave(8, 3), drawn)  # whole patches


def test_patches_are_scattered_or_in_blobs():
    drawn = masks.patches(200, 128, seeded(), patch=8)[:, 0, ::8, ::8]
    changes = (drawn[:, 1:] != drawn[:, :-1]).float().mean((1, 2))
    share = drawn.mean((1, 2))
    chance = 2 * share * (1 - share)  # how often independent neighbours differ
    blobs = (changes / chance < 0.6).float().mean()
    scattered = (changes / chance > 0.8).float().mean()
    assert 0.35 < blobs < 0.65 and 0.35 < scattered < 0.65 and blobs + scattered > 0.97


@pytest.mark.parametrize("radius", [-4, -1, 0, 1, 5])
def test_grow_is_opencvs_dilate_and_erode(radius):
    mask = (torch.rand(3, 1, 20, 31) > 0.8).float()
    brush = np.ones((2 * abs(radius) + 1,) * 2, np.uint8)
    for grown, before in zip(masks.grow(mask, radius), mask, strict=True):
        expected = (cv2.dilate if radius > 0 else cv2.erode)(before[0].numpy(), brush)
        assert np.array_equal(grown[0].numpy(), expected)


def test_user_masks_grow_round():
    mask = np.zeros((41, 41), np.float32)
    mask[20, 20] = 0.7
    grown = masks.grow_user_mask(mask, 10)
    y, x = np.mgrid[-20:21, -20:21]
    distance = np.hypot(y, x)
    assert (grown[distance <= 9.5] == np.float32(0.7)).all() and (grown[distance > 11] == 0).all()
    assert masks.grow_user_mask(mask, 0) is mask


def test_reach_is_the_distance_to_the_nearest_given_pixel():
    mask = np.zeros((41, 61), np.float32)
    mask[10:31, 10:51] = 0.2  # anything above zero is hole
    assert masks.reach(mask) == pytest.approx(scipy.ndimage.distance_transform_edt(mask > 0).max(), rel=0.05)
    assert masks.reach(np.zeros((5, 5))) == 0


def disc(height=120, width=160, noise=0.02):
    """A red disc before a grey ground with grain, and its mask."""
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(y - height / 2, x - width * 0.45) < height * 0.3
    picture = np.where(inside[..., None], (0.8, 0.15, 0.1), (0.55, 0.6, 0.6))
    return np.clip(picture + np.random.default_rng(0).normal(0, noise, picture.shape), 0, 1).astype(np.float32), inside


@pytest.mark.parametrize("size", [(120, 160), (60, 60), (80, 340)])
def test_grabcut_finds_an_object(size):
    picture, inside = disc(*size)
    mask = masks.cut_out(picture)
    assert mask.shape == size and mask.dtype == np.float32 and 0 <= mask.min() and mask.max() <= 1
    found = mask > 0.5
    assert (found & inside).sum() / (found | inside).sum() > 0.9
    assert (mask[scipy.ndimage.binary_erosion(inside, iterations=5)] == 1).all()  # opaque inside
    assert np.array_equal(mask, masks.cut_out(picture))  # again the same


@pytest.mark.parametrize("size", [(64, 64), (2, 300), (1, 1)])
def test_where_there_is_no_subject_cut_out_says_so(size):
    with pytest.raises(ValueError, match="subject: the picture is of one colour, which is no subject; pass subject=MA"):
        masks.cut_out(np.full((*size, 3), 0.5, np.float32))


def test_cut_out_takes_any_segmenter():
    picture, inside = disc(40, 40)
    assert np.array_equal(masks.cut_out(picture, lambda rgb: inside.astype(np.float64)), inside.astype(np.float32))
    for share, said in ((1, "covers 100.0%"), (0, "the automatic cut-out covers 0.0% of the picture")):
        with pytest.raises(ValueError, match=said):
            masks.cut_out(picture, lambda rgb, share=share: np.full(rgb.shape[:2], share))


def test_the_largest_part_is_kept_without_pinholes():
    mask = np.zeros((40, 40), np.uint8)
    mask[5:25, 5:25] = 1
    mask[12, 12] = 0
    mask[30:36, 30:36] = 1
    mask[2, 38] = 1
    expected = np.zeros_like(mask)
    expected[5:25, 5:25] = 1
    assert np.array_equal(masks._largest(mask), expected)


def test_blur_is_scipys_gaussian_filter():
    pixels = torch.rand(3, 2, 21, 34, dtype=torch.float64)
    sigma = torch.tensor([0.4, 1.5, 3.0])
    blurred = masks.blur(pixels, sigma)
    radius = 9  # of the widest, and so of all
    for sample, before, s in zip(blurred, pixels, sigma.tolist(), strict=True):
        for channel, original in zip(sample, before, strict=True):
            expected = scipy.ndimage.gaussian_filter(original.numpy(), s, mode="nearest", radius=radius)
            assert np.abs(channel.numpy() - expected).max() < 1e-6


def test_blur_by_nothing_is_nothing():
    pixels = torch.rand(2, 3, 9, 9)
    assert torch.allclose(masks.blur(pixels, torch.zeros(2)), pixels, atol=1e-6)
