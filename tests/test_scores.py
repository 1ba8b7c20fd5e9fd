"""Faults of results, without a truth: each is found where it was put, and a photograph has none."""

import numpy as np
import pytest
from skimage import data

from photofound.edits import scores
from photofound.edits.masks import grabcut
from photofound.edits.scores import Scores


@pytest.fixture
def scene():
    """A photograph of gravel, which is alike everywhere, and a box in it."""
    rgb = np.repeat(data.gravel()[:256, :256, None] / 255, 3, -1).astype(np.float32)
    hole = np.zeros((256, 256), bool)
    hole[90:160, 100:170] = True
    return rgb, hole


def spoiled(rgb, hole, change):
    made = rgb.copy()
    made[hole] = np.clip(change(rgb)[hole], 0, 1)
    return made


def test_a_photograph_has_hardly_any_fault(scene):
    found = scores.of_fill(*scene)
    assert found.seam < 0.15 and found.colour < 3 and found.copy == 0 and found.sharpness < 0.15 and found.growth == 0
    assert found.total > 0.85 and found.unlike < 0.1


@pytest.mark.parametrize(
    ("fault", "change"),
    [
        ("colour", lambda rgb: rgb + np.array([0.2, 0, -0.2])),
        ("sharpness", lambda rgb: 0 * rgb + rgb.mean()),
        ("copy", lambda rgb: np.roll(rgb, 80, 1)),
        ("seam", lambda rgb: rgb + 0.3),
    ],
)
def test_each_fault_is_found_where_it_was_put(scene, fault, change):
    rgb, hole = scene
    before, after = scores.of_fill(rgb, hole), scores.of_fill(spoiled(rgb, hole, change), hole)
    assert getattr(after, fault) > getattr(before, fault) + 0.25 and after.total < before.total


def test_a_subject_that_grew_is_found():
    y, x = np.mgrid[:128, :128]
    subject = np.hypot(y - 64, x - 64) < 25
    rgb = np.where(subject[..., None], (0.8, 0.1, 0.1), (0.9, 0.9, 0.85)).astype(np.float32)
    longer = rgb.copy()
    longer[55:75, 64:115] = (0.8, 0.1, 0.1)
    same, grown = (scores.of_background(each, subject, grabcut) for each in (rgb, longer))
    assert same.growth < 0.05 < 0.2 < grown.growth and grown.total < 0.5 < same.total
    assert scores.of_background(rgb, np.zeros_like(subject), grabcut) == Scores()


def test_what_has_no_surroundings_has_no_faults(scene):
    rgb, _ = scene
    assert scores.of_fill(rgb, np.ones((256, 256), bool)) == scores.of_fill(rgb, np.zeros((256, 256), bool)) == Scores()
    assert Scores().total == 1


def test_large_pictures_are_judged_smaller():
    rng = np.random.default_rng(0)
    rgb, hole = rng.random((1200, 900, 3), np.float32), np.zeros((1200, 900), bool)
    hole[300:700, 300:600] = True
    assert 0 < scores.of_fill(rgb, hole).total <= 1


def test_what_is_made_of_the_surroundings_is_like_them(scene):
    rgb, hole = scene
    moved = spoiled(rgb, hole, lambda rgb: np.roll(rgb, (75, 0), (0, 1)))
    ghost = spoiled(rgb, hole, lambda rgb: (rgb + np.roll(rgb, 80, 1)) / 2)
    stripes = spoiled(rgb, hole, lambda rgb: 0 * rgb + np.arange(256)[None, :, None] % 16 / 16)
    found = [scores.of_fill(each, hole).unlike for each in (moved, ghost, stripes)]
    assert found == sorted(found) and found[0] < found[1] - 0.03
    enlarged = [np.pad(each, ((0, 900), (0, 900), (0, 0)), "reflect") for each in (moved, ghost)]
    near, far = (scores.of_fill(each, np.pad(hole, ((0, 900), (0, 900)))).unlike for each in enlarged)
    assert near < far, "it is looked at closely, however large the photograph is"
    assert scores.of_fill(ghost, hole, continues=False).unlike == 0


@pytest.mark.parametrize("size", [5, 40])
def test_holes_without_a_patch_or_surroundings_are_not_unlike(size):
    rgb = np.full((size, size, 3), 0.9, np.float32)
    for hole in (np.ones((size, size), bool), np.zeros((size, size), bool)):
        assert scores.of_fill(rgb, hole) == Scores()
