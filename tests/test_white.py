"""White that stays white in a JPEG."""

import io

import numpy as np
import pytest
from PIL import Image

from photofound import image
from photofound.image import Picture
from photofound.picture import white


def on_white():
    """A red disc with grain and a soft edge."""
    y, x = np.mgrid[:203, :251]
    share = np.clip((90.5 - np.hypot(y - 100, x - 120)) / 3, 0, 1)[..., None]
    red = np.random.default_rng(0).normal((200, 0, 20), 6, (203, 251, 3)).clip(0, 255)
    return np.rint(red * share + 255 * (1 - share)).astype(np.uint8)


def jpeg(pixels, quality=95):
    stream = io.BytesIO()
    tables = white.tables(quality)
    Image.fromarray(pixels).save(stream, "JPEG", qtables=tables, subsampling="4:4:4", dpi=(300, 300))
    return stream.getvalue()


@pytest.mark.slow
def test_white_is_white_and_the_rest_stays():
    pixels = on_white()
    keep = (pixels == 255).all(2)
    for quality in (85, 95):
        before, after = jpeg(pixels, quality), white.restored(jpeg(pixels, quality), keep)
        old, new = (np.asarray(Image.open(io.BytesIO(data))).astype(int) for data in (before, after))
        assert (old[keep] < 255).any() and (new[keep] == 255).all()
        error, was = (np.abs(each - pixels)[~keep].mean() for each in (new, old))
        assert error < 1.5 * was
        assert (new == old)[48:152, 72:168].all()  # no block without an edge is touched
        assert Image.open(io.BytesIO(after)).info["dpi"] == (300, 300)


def test_a_picture_says_whether_it_wants_that():
    picture = Picture(on_white())
    keep = (picture.pixels == 255).all(2)
    for wanted in (False, True):
        made = image.decode(image.encode(Picture(picture.pixels, keep_white=wanted), "JPEG"))
        assert (made.pixels[keep] == 255).all() == wanted


def test_nothing_to_do_gives_the_same_bytes():
    data = jpeg(np.full((40, 40, 3), 255, np.uint8))
    assert white.restored(data, np.ones((40, 40), bool)) == data


def test_without_the_package_it_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jpeglib", None)
    data = jpeg(on_white())
    with pytest.warns(UserWarning, match="pip install jpeglib"):
        assert white.restored(data, np.ones((203, 251), bool)) == data
