"""picture.py: pasting, extending, resizing; kept pixels are exact."""

import numpy as np
import pytest
from corpus import profile
from native import CHANNELS, DEPTHS, SIZES, noise

from photofound.image import Picture, decode, encode
from photofound.picture import profiles

pytestmark = pytest.mark.usefixtures("no_surprises")


@pytest.mark.parametrize("icc", [None, profile()])
@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("size", SIZES)
def test_kept_pixels_are_exact(size, channels, dtype, icc):
    """Half kept, one soft, one painted: where keep is 1 not one bit changes, through the file as well."""
    rng = np.random.default_rng(1)
    picture = Picture(noise(*size, channels, dtype), icc_profile=icc)
    keep = rng.choice([0, 0.5, 0.999, 1, 1, 1], size=size).astype(np.float32)
    result = picture.paste(rng.random((*size, 3)), keep)
    for seen in (result, decode(encode(result, "PNG"))):
        np.testing.assert_array_equal(seen.pixels[keep == 1], picture.pixels[keep == 1])
    assert result.pixels.shape == picture.pixels.shape and result.pixels.dtype == dtype
    painted = keep == 0
    if painted.sum() > 100 and channels > 2:
        assert (result.pixels[painted] != picture.pixels[painted]).any(1).mean() > 0.9


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_a_hole_of_one_pixel(dtype, channels):
    picture = Picture(noise(7, 9, channels, dtype))
    keep = np.ones((7, 9), np.float32)
    keep[3, 4] = 0
    result = picture.paste(np.full((7, 9, 3), 1.0), keep)
    changed = (result.pixels != picture.pixels).any(2)
    assert changed[3, 4] and changed.sum() == 1
    assert (result.pixels[3, 4] == picture.depth).all()  # white, and opaque where there is alpha


@pytest.mark.parametrize("dtype", DEPTHS)
def test_soft_keep_is_a_mean_of_native_values(dtype):
    top = np.iinfo(dtype).max
    picture = Picture(np.full((1, 3, 3), top // 5, dtype))
    result = picture.paste(np.ones((1, 3, 3)), np.array([[0, 0.25, 1]]))
    expected = [top, round(0.25 * (top // 5) + 0.75 * top), top // 5]
    assert np.abs(result.pixels[0, :, 0].astype(int) - expected).max() <= (0 if dtype == np.uint8 else 1)


def test_paste_a_patch_somewhere():
    picture = Picture(noise(20, 30, 3))
    result = picture.paste(np.zeros((4, 5, 3)), np.zeros((4, 5)), at=(25, 16))
    assert (result.pixels[16:20, 25:30] == 0).all()
    outside = np.ones((20, 30), bool)
    outside[16:20, 25:30] = False
    np.testing.assert_array_equal(result.pixels[outside], picture.pixels[outside])


def test_alpha_outside_the_hole_is_untouched_and_inside_opaque():
    picture = Picture(np.array([[[10, 20, 30, 0], [10, 20, 30, 100], [10, 20, 30, 0], [10, 20, 30, 128]]], np.uint8))
    result = picture.paste(np.ones((1, 4, 3)), np.array([[1, 0, 0.5, 0.5]]))
    assert result.pixels[0, 0].tolist() == [10, 20, 30, 0]
    assert result.pixels[0, 1].tolist() == [255, 255, 255, 255]
    assert result.pixels[0, 2].tolist() == [255, 255, 255, 128]  # what is transparent lends no colour to the edge
    assert result.pixels[0, 3, 3] == round(255 * (0.5 * 128 / 255 + 0.5)) and 150 < result.pixels[0, 3, 0] < 200


def test_paste_can_leave_alpha_alone():
    picture = Picture(noise(6, 6, 4))
    result = picture.paste(np.zeros((6, 6, 3)), np.zeros((6, 6)), opaque=False)
    np.testing.assert_array_equal(result.pixels[..., 3], picture.pixels[..., 3])
    assert (result.pixels[..., :3] == 0).all()


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_outpaint_flattens_and_colours(dtype, channels):
    """A product on a transparent ground: opaque pixels exact in colour (grey as r = g = b), the rest painted over."""
    picture = Picture(noise(12, 14, channels, dtype))
    keep = picture.alpha() if picture.has_alpha else (noise(12, 14, 1)[..., 0] > 99).astype(np.float32)
    pixels = picture.pixels.copy()
    if picture.has_alpha:
        pixels[:6, :, -1] = picture.depth
        picture = Picture(pixels)
        keep = picture.alpha()
    rgb = np.broadcast_to(np.float32([1, 0, 0]), (12, 14, 3))
    result = picture.paste(rgb, keep, colour=True, flatten=True)
    assert result.pixels.shape == (12, 14, 3) and result.pixels.dtype == dtype
    colours = np.repeat(picture.pixels[..., :1], 3, 2) if channels < 3 else picture.pixels[..., :3]
    np.testing.assert_array_equal(result.pixels[keep == 1], colours[keep == 1])
    assert (result.pixels[keep == 0] == [picture.depth, 0, 0]).all() and (keep == 1).any()
    soft = (keep > 0) & (keep < 1)
    expected = keep[..., None] * colours + (1 - keep[..., None]) * rgb * picture.depth
    assert np.abs(result.pixels - expected)[soft].max(initial=0) <= 0.51


def test_grey_stays_grey_by_luma():
    result = Picture(noise(2, 2, 1)).paste(np.broadcast_to([1.0, 0, 0], (2, 2, 3)), np.zeros((2, 2)))
    assert (result.pixels == 76).all()  # 0.299 x 255


@pytest.mark.parametrize("dtype", DEPTHS)
def test_a_grey_profile_becomes_one_for_colour(dtype):
    picture = Picture(noise(16, 16, 1, dtype), icc_profile=profile("GRAY", 1.0))
    result = picture.paste(np.ones((16, 16, 3)), np.ones((16, 16)), colour=True)
    np.testing.assert_array_equal(result.pixels, np.repeat(picture.pixels, 3, 2))
    np.testing.assert_allclose(result.rgb(), picture.rgb(), atol=0.05 if dtype == np.uint8 else 1e-3)


def test_a_grey_profile_without_a_curve_is_dropped(monkeypatch):
    monkeypatch.setattr(profiles, "in_colour", lambda grey: None)
    with pytest.warns(UserWarning, match="cannot hold colour"):
        result = Picture(noise(2, 2, 1), icc_profile=profile("GRAY", 1.0)).in_colour()
    assert result.icc_profile is None


@pytest.mark.parametrize(
    ("rgb", "keep", "at", "message"),
    [
        (np.full((4, 4, 3), np.nan), np.zeros((4, 4)), (0, 0), "NaN"),
        (np.zeros((4, 4, 3)), np.full((4, 4), 1.5), (0, 0), "keep must lie in"),
        (np.zeros((4, 4, 3)), np.full((4, 4), np.nan), (0, 0), "keep must lie in"),
        (np.zeros((4, 4, 3)), np.zeros((4, 5)), (0, 0), "one size"),
        (np.zeros((4, 4)), np.zeros((4, 4)), (0, 0), "one size"),
        (np.zeros((4, 4, 3)), np.zeros((4, 4)), (1, 0), "outside"),
        (np.zeros((4, 4, 3)), np.zeros((4, 4)), (0, -1), "outside"),
    ],
)
def test_paste_refuses(rgb, keep, at, message):
    with pytest.raises(ValueError, match=message):
        Picture(noise(4, 4, 3)).paste(rgb, keep, at)


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_extend_places_the_picture_exactly(dtype, channels):
    picture = Picture(noise(5, 7, channels, dtype), icc_profile=profile(), format="PNG")
    wide = picture.extend(left=3, top=1, right=0, bottom=2)
    assert wide.size == (10, 8) and wide.icc_profile == picture.icc_profile and wide.format == "PNG"
    np.testing.assert_array_equal(wide.pixels[1:6, 3:], picture.pixels)
    new = np.ones((8, 10), bool)
    new[1:6, 3:] = False
    assert (wide.colours[new] == 0).all()
    if picture.has_alpha:
        assert (wide.pixels[new][:, -1] == picture.depth).all()
    with pytest.raises(ValueError, match="left margin is -1"):
        picture.extend(left=-1)
    with pytest.raises(ValueError, match="megapixels"):
        picture.extend(right=10**9)


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_resize_keeps_the_kind(dtype, channels):
    value = np.iinfo(dtype).max // 3
    picture = Picture(np.full((5, 7, channels), value, dtype))
    for size in ((14, 10), (3, 2), (1, 1)):
        other = picture.resize(size)
        assert other.size == size and other.pixels.dtype == dtype and (other.pixels == value).all()


def test_a_picture_cannot_be_changed_in_place():
    mine = noise(3, 3, 3)
    picture = Picture.from_any(mine)
    with pytest.raises(ValueError, match="read-only"):
        picture.pixels[0] = 0
    mine[:] = 0  # nor through the array it came from
    assert picture.pixels.any()


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", [2, 4])
def test_hidden_colours_are_those_of_the_nearest_that_is_seen(dtype, channels):
    pixels = noise(1, 6, channels, dtype)
    pixels[..., -1] = np.iinfo(dtype).max
    pixels[0, [0, 1, 5], -1] = 0
    pixels[0, 4, -1] = np.iinfo(dtype).max // 128  # as good as unseen
    picture = Picture(pixels)
    colours = picture.revealed().pixels[0, :, :-1]
    assert np.array_equal(colours, pixels[0, [2, 2, 2, 3, 3, 3], :-1])
    assert np.array_equal(picture.revealed().pixels[..., -1], pixels[..., -1])
    among = picture.revealed(hole=np.array([[False] * 3 + [True] + [False] * 2])).pixels[0, :, :-1]
    assert np.array_equal(among, pixels[0, [2, 2, 2, 3, 2, 2], :-1]), "not from the hole, whose own colours stay"
    assert not picture.crop((0, 0, 2, 1)).revealed().colours.any()
