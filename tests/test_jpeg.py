"""jpeg.py: a JPEG is compressed as it was."""

import cv2
import numpy as np
import pytest
from native import noise, write
from PIL import Image

from photofound.image import load, save

pytestmark = pytest.mark.usefixtures("no_surprises")


def test_jpeg_is_444_at_quality_95(tmp_path):
    """A one-pixel red grid is grey mush after chroma subsampling; 4:4:4 keeps it."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::2] = 255, 0, 0
    save(pixels, tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert all(layer[1:3] == (1, 1) for layer in image.layer)
        assert image.quantization[0][0] == 2  # the first luma step of libjpeg's quality 95
    assert np.abs(load(tmp_path / "a.jpg").pixels.astype(int) - pixels).max() < 30


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [60, 90])
def test_a_jpeg_that_was_a_jpeg_is_compressed_as_before(tmp_path, quality, subsampling):
    """So that what was not painted changes less than by another quality, in a file that is no larger."""
    soft = cv2.GaussianBlur(noise(96, 128, 3), (0, 0), 1.5)
    path = write(tmp_path / "a.jpg", soft, quality=quality, subsampling=subsampling, progressive=quality == 60)
    given = load(path)
    save(given, tmp_path / "b.jpg")
    save(given, tmp_path / "c.jpg", quality=95)
    with Image.open(path) as one, Image.open(tmp_path / "b.jpg") as two:
        assert one.quantization == two.quantization and one.layer == two.layer
        assert one.info.get("progressive") == two.info.get("progressive")
    same, other = (np.abs(load(tmp_path / f"{name}.jpg").pixels.astype(int) - given.pixels).mean() for name in "bc")
    assert same < other and (subsampling == 1 or same < 0.02)
    assert (tmp_path / "b.jpg").stat().st_size <= path.stat().st_size < (tmp_path / "c.jpg").stat().st_size


def test_a_painted_jpeg_shows_the_paint_and_keeps_the_other_blocks(tmp_path):
    given = load(write(tmp_path / "a.jpg", cv2.GaussianBlur(noise(96, 128, 3), (0, 0), 1.5), quality=80))
    keep = np.ones((96, 128), np.float32)
    keep[16:48, 32:80] = 0  # whole blocks
    blue = np.broadcast_to(np.float32([0, 0, 1]), (96, 128, 3))
    again = load(save(given.paste(blue, keep), tmp_path / "b.jpg")).pixels.astype(int)
    difference = np.abs(again - given.pixels).max(axis=2)
    near = np.zeros((96, 128), bool)
    near[15:49, 31:81] = True  # chroma is interpolated across the edge
    assert (difference[~near] == 0).mean() > 0.99 and difference[~near].max() <= 4
    assert np.abs(again[18:46, 34:78] - [0, 0, 255]).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(96, 128), (96, 123), (90, 128)])
def test_a_turned_jpeg_is_compressed_as_before_where_its_blocks_stay(tmp_path, orientation, size):
    """Upright, tables are turned as well; where the blocks are not those of the file any more, it is quality 95."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    soft = cv2.GaussianBlur(noise(*size, 3), (0, 0), 1.5)
    given = load(write(tmp_path / "a.jpg", soft, quality=70, exif=exif))
    again = load(save(given, tmp_path / "b.jpg"))
    from_left, from_top = orientation in (2, 3, 7, 8), orientation in (3, 4, 6, 7)  # at the far side, that is
    stays = not (from_left and size[1] % 16) and not (from_top and size[0] % 16)
    with Image.open(tmp_path / "a.jpg") as one, Image.open(tmp_path / "b.jpg") as two:
        luma = np.reshape(one.quantization[0], (8, 8))
        luma = luma.T if orientation > 4 else luma
        assert (np.reshape(two.quantization[0], (8, 8)) == luma).all() == stays
    assert np.abs(again.pixels.astype(int) - given.pixels).mean() < (0.25 if stays else 2)


def test_a_jpeg_of_another_size_or_kind_is_written_at_95(tmp_path):
    given = load(write(tmp_path / "a.jpg", noise(32, 48, 3), quality=50))
    grey = load(write(tmp_path / "g.jpg", noise(32, 48, 1), quality=50))
    with Image.open(save(grey, tmp_path / "h.jpg")) as image, Image.open(tmp_path / "g.jpg") as before:
        assert image.mode == "L" and image.quantization == before.quantization
    coloured = grey.paste(np.zeros((32, 48, 3)), np.ones((32, 48)), colour=True)
    for number, picture in enumerate([given.extend(left=16), given.resize((24, 16)), coloured]):
        with Image.open(save(picture, tmp_path / f"{number}.jpg")) as image:
            assert image.quantization[0][0] == 2 and all(layer[1:3] == (1, 1) for layer in image.layer)
