"""Which pixels are identical: every depth, channel and profile; pictures of two sizes; the picture of it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import noise

from photofound.image import Picture
from photofound.picture import profiles
from photofound.picture.compare import compare, locate

ADOBE = profiles.build(profiles.ADOBE_RGB, (563 / 256,), "Adobe RGB (1998)")


def smooth(height=90, width=120, seed=0):
    """A picture with large and small forms, as photographs have them."""
    import cv2

    coarse = cv2.resize(noise(height // 8, width // 8, seed=seed), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse.astype(int) + noise(height, width, seed=seed + 1) // 16, 0, 255).astype(np.uint8)


def test_it_counts_what_had_to_be_kept(photo):
    after = photo.copy()
    after[10:14, 20:25] ^= 3
    after[60, 80, 1] = photo[60, 80, 1] ^ 64
    found = compare(Picture(photo), Picture(after))
    assert (found.identical, found.altered, found.largest, found.missing) == (70 * 90 - 21, 21, 64, 0)
    kept = np.ones((70, 90), bool)
    kept[10:14, 20:24] = False
    found = compare(Picture(photo), Picture(after), kept)
    assert (found.kept, found.altered, found.largest) == (70 * 90 - 16, 5, 64)
    assert found.region.sum() == found.kept and (found.difference > 0).sum() == 21


def test_depths_and_channels_that_say_the_same_are_identical(photo):
    deep = photo.astype(np.uint16) * 257
    opaque = np.concatenate([photo, np.full((70, 90, 1), 255, np.uint8)], axis=2)
    for other in (deep, opaque):
        assert compare(Picture(photo), Picture(other)).altered == 0
    grey = photo[..., :1]
    assert compare(Picture(grey), Picture(np.repeat(grey, 3, axis=2))).altered == 0
    deep[5, 5, 0] ^= 1  # a 257th of a step of 8 bits
    found = compare(Picture(photo), Picture(deep))
    assert (found.altered, found.largest, found.depth) == (1, 1, 65535)


def test_transparency_counts(photo):
    clear = np.concatenate([photo, np.full((70, 90, 1), 255, np.uint8)], axis=2)
    clear[:10, :, 3] = 100
    found = compare(Picture(photo), Picture(clear))
    assert (found.altered, found.largest) == (900, 155)


def test_profiles_of_other_colours_are_compared_as_colours(photo):
    before = Picture(photo, icc_profile=ADOBE)
    converted = Picture(np.rint(before.rgb() * 255).astype(np.uint8))
    found = compare(before, converted)
    assert found.as_colours and found.altered == 0
    lost = compare(before, Picture(photo))  # the same values, and other colours
    assert lost.as_colours and lost.altered > 3000 and lost.largest > 20
    assert not compare(before, Picture(photo, icc_profile=ADOBE)).as_colours


@pytest.mark.parametrize("at", [(0, 0), (13, 7), (30, 20)])
def test_a_picture_is_found_in_a_larger_one(at):
    large = smooth(110, 150)
    small = np.ascontiguousarray(large[at[1] : at[1] + 90, at[0] : at[0] + 120])
    assert locate(Picture(small), Picture(large)) == at
    assert locate(Picture(large), Picture(small)) == (-at[0], -at[1])
    noisy = np.clip(large.astype(int) + noise(110, 150, seed=9) // 64 - 2, 0, 255).astype(np.uint8)
    assert locate(Picture(small), Picture(noisy)) == at  # as a JPEG would have it


def test_a_picture_is_found_at_any_pixel_of_a_large_one():
    large = smooth(1300, 1700)
    small = np.ascontiguousarray(large[301:1101, 517:1411])
    assert locate(Picture(small), Picture(large)) == (517, 301)


def test_what_is_not_there_or_scaled_is_not_found(photo):
    import cv2

    before = Picture(smooth())
    with pytest.raises(ValueError, match="120x90 and 150x110.*--at X,Y"):
        locate(before, Picture(smooth(110, 150, seed=5)))
    with pytest.raises(ValueError, match="own scale"):
        locate(before, Picture(cv2.resize(smooth(), (240, 180), interpolation=cv2.INTER_CUBIC)))
    with pytest.raises(ValueError, match="neither fits"):
        locate(before, Picture(noise(100, 100)))


def test_what_is_cut_off_is_missing(photo):
    found = compare(Picture(photo), Picture(np.ascontiguousarray(photo[10:, :80])), at=(0, -10))
    assert (found.identical, found.altered, found.missing) == (60 * 80, 70 * 90 - 60 * 80, 70 * 90 - 60 * 80)
    with pytest.raises(ValueError, match="outside"):
        compare(Picture(photo), Picture(photo), at=(90, 0))


def test_the_picture_of_it_shows_where(photo):
    after, kept = photo.copy(), np.ones((70, 90), bool)
    after[10:14, 20:25] = 255 - photo[10:14, 20:25]
    kept[50:, 70:] = False
    shown = compare(Picture(photo), Picture(after), kept).picture(Picture(after)).pixels.astype(int)
    assert shown.shape == photo.shape
    red, blue = shown[..., 0] - shown[..., 2], shown[..., 2] - shown[..., 0]
    assert (red[10:14, 20:25] > 100).all() and (blue[50:, 70:] > 20).all()
    assert (red[:10] == 0).all() and (blue[:50] <= 0).all()
