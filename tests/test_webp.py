"""Plain WebP files are read past Pillow, to the same pixels; every other file is left to it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from helpers import encoded, noise
from PIL import Image

from photofound import image
from photofound.data.photograph import decode
from photofound.picture import webp


def smooth(height, width, seed=0):
    return np.asarray(Image.fromarray(noise(4, 6, seed=seed)).resize((width, height), Image.Resampling.BICUBIC))


def written(pixels, mode="RGB", **settings):
    out = io.BytesIO()
    picture = Image.fromarray(pixels).convert(mode)
    if mode == "RGBA":
        picture.putalpha(100)
    picture.save(out, "WEBP", **settings)
    return out.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (40, 64), (33, 100)])
def test_a_plain_file_gives_pillows_pixels(size):
    data = written(smooth(*size), quality=60)
    assert webp.plain_size(data) == (size[1], size[0]) == image.upright_size(data)
    pixels = webp.plain_pixels(data)
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    np.testing.assert_array_equal(image.decode(data, at_least=(1, 1)).pixels, image.decode(data).pixels)


def test_files_that_are_not_plain_are_left_to_pillow():
    turned = Image.Exif()
    turned[0x0112] = 6
    odd = [written(smooth(8, 12), "RGBA"), written(smooth(8, 12), lossless=True), written(smooth(8, 12), exif=turned)]
    for data in (*odd, encoded(smooth(8, 12)), b"", b"RIFF"):
        assert webp.plain_size(data) is None and webp.plain_pixels(data) is None
    assert image.upright_size(odd[2]) == (8, 12)
    assert decode(odd[2], (8, 12))[0].shape == (12, 8, 3)


def test_damaged_files_are_refused_as_before():
    data = written(smooth(60, 80))
    for cut in (10, 29, 31, 60, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match=r"^x: "):
            decode(data[:cut], (20, 15), name="x")
    with pytest.raises(ValueError, match="above the limit"):
        image.decode(data, "x", 100, at_least=(1, 1))
    with pytest.raises(ValueError, match="above the limit"):
        image.upright_size(data, "x", 100)


def test_photographs_without_a_profile_need_no_way_through_floats():
    """The same bytes as by floats, in grey and in colour."""
    for pixels in (smooth(40, 60), smooth(40, 60)[..., 0]):
        data = encoded(pixels)
        by_floats = image.decode(data).resize((21, 14)).rgb()
        np.testing.assert_array_equal(decode(data, (21, 14))[0], np.rint(by_floats * 255).astype(np.uint8))
