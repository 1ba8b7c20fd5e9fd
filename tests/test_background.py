"""What lies behind a placed subject."""

import dataclasses

import numpy as np
import pytest

from photofound.edits import background
from photofound.edits.placement import Placement, place
from photofound.image import Picture
from photofound.picture import profiles


def product(profile=None, depth=np.uint8):
    pixels = np.full((60, 80, 3), np.iinfo(depth).max // 2, depth)
    matte = np.zeros((60, 80), np.float32)
    matte[20:40, 30:50] = 1
    picture = dataclasses.replace(Picture(pixels), icc_profile=profile)
    return place(picture, matte, Placement.of(canvas="100x90")), picture, matte


@pytest.mark.parametrize(
    "text, colour",
    [("#fff", (255, 255, 255)), ("#c00000", (192, 0, 0)), ("teal", (0, 128, 128)), ("rgb(1, 2, 3)", (1, 2, 3))],
)
def test_colours_are_exact(text, colour):
    found = background.parse(text)
    assert found.kind == "colour" and found.colour == colour
    assert (background.render(found, *product()) == colour).all()


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_colours_are_those_of_the_results_profile(depth):
    p3 = profiles.build(profiles.PRIMARIES[12], profiles.CURVES[13], "Display P3")
    placed, picture, matte = product(p3, depth)
    white, red = (background.render(background.parse(c), placed, picture, matte)[0, 0] for c in ("#fff", "#c00000"))
    assert (white == placed.picture.depth).all()
    seen = dataclasses.replace(placed.picture, pixels=np.broadcast_to(red, (2, 2, 3)).copy()).rgb()[0, 0] * 255
    assert np.abs(seen - (192, 0, 0)).max() < 1.5  # as sRGB, through the profile
    assert 160 < red[0] / placed.picture.depth * 255 < 185  # and so another number


@pytest.mark.parametrize("text, material", [("wood", "wood"), ("marble:black", "marble"), ("linen:#aabbcc", "linen")])
def test_surfaces_with_and_without_a_colour(text, material):
    found = background.parse(text)
    assert found.kind == "surface" and found.surface.material == material
    if "#" in text:
        assert found.surface.colour == (0xAA, 0xBB, 0xCC)
    made = background.render(found, *product(), seed=3)
    assert made.shape == (90, 100, 3) and made.std() > 1
    assert (made == background.render(found, *product(), seed=3)).all()
    assert (made != background.render(found, *product(), seed=4)).any()


def test_words_are_surfaces_or_left_to_a_model():
    assert background.parse("on a wooden table").surface.material == "wood"
    assert background.parse("in a kitchen at dawn") is None


def test_a_picture_covers_the_canvas():
    wide = np.zeros((50, 400, 3), np.uint8)
    wide[:, 175:225] = 255  # only its middle is seen
    made = background.render(background.parse(wide), *product())
    assert made.shape == (90, 100, 3) and made.mean() > 200


def test_blur_keeps_the_subject_out_and_the_order_of_depths():
    rng = np.random.default_rng(0)
    pixels = np.full((240, 240, 3), 90, np.uint8) + rng.integers(0, 60, (240, 240, 1), np.uint8)
    matte = np.zeros((240, 240), np.float32)
    matte[110:200, 90:150] = 1
    pixels[matte == 1] = (255, 0, 0)
    picture = Picture(pixels)
    placed = place(picture, matte, Placement.of(reference_box="image"))
    made = background.render(background.parse("blur"), placed, picture, matte).astype(float)
    outside = matte == 0
    assert np.abs(made - made[..., :1])[outside].max() <= 2  # nothing red
    rough = [
        np.abs(np.diff(made[rows, :80, 0], axis=1)).mean() for rows in (slice(185, 200), slice(150, 165), slice(0, 60))
    ]
    assert rough[0] > 2 * rough[1] > 2 * rough[2]  # sharp where it stands, then less and less


@pytest.mark.parametrize(
    "text, message",
    [
        ("#12", "is no colour"),
        ("#ff000080", "in part transparent"),
        ("/etc/table.jpg", "is a file's name"),
        ("jade:green", "no material 'jade'"),
        ("wood:#zz", "is no colour"),
    ],
)
def test_bad_backgrounds_are_one_line(text, message):
    with pytest.raises(ValueError, match=message):
        background.parse(text)
