"""Digests of pictures and regions, and regions as text."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import noise

from photofound.image import Picture
from photofound.picture.digest import digest, pack_region, region_digest, unpack_region


def blob(height, width):
    y, x = np.mgrid[:height, :width]
    return (y - height / 2) ** 2 + (x - width / 3) ** 2 < (min(height, width) / 3) ** 2


def test_a_digest_is_of_size_depth_values_and_profile():
    pixels = noise(6, 8)
    one = digest(Picture(pixels))
    assert one == digest(Picture(pixels.copy(), format="TIFF", dpi=(72, 72))) and len(one) == 64
    others = [pixels[:, ::-1], pixels.reshape(8, 6, 3), pixels.astype(np.uint16), pixels[..., :1]]
    digests = [digest(Picture(np.ascontiguousarray(other))) for other in others]
    digests.append(digest(Picture(pixels, icc_profile=b"another")))
    assert len({one, *digests}) == 6


def test_a_region_has_one_digest_whatever_the_channels():
    grey, region = noise(6, 8, 1)[..., None], blob(6, 8)
    rgb = np.repeat(grey, 3, axis=2)
    rgba = np.concatenate([rgb, np.full_like(grey, 255)], axis=2)
    assert len({region_digest(Picture(each), region) for each in (grey, rgb, rgba)}) == 1
    outside = rgb.copy()
    outside[~region] ^= 1
    inside = rgb.copy()
    inside[3, 2] ^= 1
    assert region[3, 2]
    assert region_digest(Picture(outside), region) == region_digest(Picture(rgb), region)
    assert region_digest(Picture(inside), region) != region_digest(Picture(rgb), region)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (64, 40), (301, 203)])
def test_a_region_comes_back_from_its_text(size):
    for region in (blob(*size), np.ones(size, bool), np.zeros(size, bool)):
        packed = pack_region(region)
        assert packed["cell"] == 1 and np.array_equal(unpack_region(packed, size[::-1]), region)


def test_a_ragged_region_is_written_smaller_never_larger():
    region = noise(700, 900, 1) > 20  # no text of a reasonable length holds its outline
    packed = pack_region(region)
    back = unpack_region(packed, (900, 700))
    assert packed["cell"] > 1 and len(packed["bits"]) <= 12_000 and not (back & ~region).any()


@pytest.mark.parametrize(
    "packed", [{}, {"cell": 0, "bits": ""}, {"cell": 1, "bits": "AAAA"}, {"cell": 1, "bits": "no base64!"}, [], None]
)
def test_damaged_text_is_refused(packed):
    with pytest.raises(ValueError, match="region is damaged"):
        unpack_region(packed, (8, 6))


def test_text_that_grows_without_end_is_cut_off():
    bomb = pack_region(np.zeros((4000, 8000), bool))
    assert not unpack_region(bomb, (16, 4)).any()  # no more is unpacked than the picture has
