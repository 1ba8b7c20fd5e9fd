"""reading.py: what is not a picture is refused in one line."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from native import DEPTHS, noise, refused
from PIL import Image

from photofound import image as module
from photofound.image import Picture, decode, encode, load, output_format, save
from photofound.picture import reading

pytestmark = pytest.mark.usefixtures("no_surprises")


def test_bad_files_get_one_clear_line(tmp_path):
    refused(r"none.png: no such file", load, tmp_path / "none.png", kind=FileNotFoundError)
    refused("no such file", Picture.from_any, "x" * 5000, kind=FileNotFoundError)
    refused("is a folder", load, tmp_path)
    (tmp_path / "empty.png").touch()
    refused(r"empty.png: is empty \(0 bytes\)", load, tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("not a picture\n" * 99)
    refused("text.png: is not an image", load, tmp_path / "text.png")
    refused("not an image", decode, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # never reaches Ghostscript


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_truncated_files_are_refused(kind, dtype, share):
    data = encode(Picture(noise(64, 64, 3, dtype)), kind)
    refused("damaged", decode, data[: int(len(data) * share)])


def test_damaged_bytes_are_refused():
    data = bytearray(encode(Picture(noise(64, 64, 3)), "PNG"))
    data[len(data) // 2] ^= 0xFF
    refused("damaged", decode, bytes(data))


def bomb(width, height):
    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = lambda n, d: struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d))  # noqa: E731
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_by_its_header(monkeypatch):
    refused("60000x60000, 3600.0 megapixels, above the limit of 200.0", decode, bomb(60000, 60000))
    refused("is truncated", decode, bomb(100, 100))  # a size within the limit is decoded, and found out then
    small = encode(Picture(noise(10, 10, 3)), "PNG")
    refused("10x10.*PHOTOFOUND_MAX_PIXELS to 100", decode, small, max_pixels=99)
    assert decode(small, max_pixels=100).size == (10, 10)
    monkeypatch.setenv("PHOTOFOUND_MAX_PIXELS", "99")
    refused("above the limit", decode, small)
    refused("above the limit", Picture.from_any, Image.new("L", (10, 10)))
    monkeypatch.setenv("PHOTOFOUND_MAX_PIXELS", "many")
    refused("PHOTOFOUND_MAX_PIXELS is 'many'", decode, small)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_of_very_many_scans_is_refused(progressive):
    """A scan of no data takes six bytes, and the time that the whole picture takes."""
    data = io.BytesIO()
    Image.fromarray(noise(64, 64, 1)[..., 0]).save(data, "JPEG", progressive=progressive)
    data = data.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    refused("is a JPEG of 1.. scans", decode, data[:-2] + last[:10] * 101 + b"\xff\xd9")
    assert decode(data + last * 101).size == (64, 64)  # behind the end of the picture anything may follow


def test_heic_needs_a_package_and_says_which(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif", reason="pip install 'photofound[heic]'")
    pixels = np.broadcast_to(np.uint8([200, 60, 30]), (32, 48, 3))
    heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "a.heic", quality=90)
    monkeypatch.setattr(Image, "OPEN", {kind: how for kind, how in Image.OPEN.items() if kind != "HEIF"})
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    refused(r"a.heic: is a HEIC.*pip install 'photofound\[heic\]'", load, tmp_path / "a.heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", heif)
    picture = load(tmp_path / "a.heic")
    assert picture.format == "HEIF" and np.abs(picture.pixels.astype(int) - pixels).max() <= 4
    assert output_format(picture) == "PNG" and not picture.lossless


@pytest.mark.parametrize(("flags", "bits"), [(0x0C, 8), (0x4C, 10), (0x6C, 12)])
def test_the_depth_of_an_avif_is_told(flags, bits):
    """By the box that configures its codec; Pillow reads AVIF of any depth as 8 bits, and writes no other."""
    image = Image.new("RGB", (1, 1))
    image.format = "AVIF"
    assert (
        reading.bits_per_channel(image, io.BytesIO(b"\0\0\0\x1cftypavif\0\0\0\x0cav1C\x81\0" + bytes([flags]))) == bits
    )


def test_the_limit_is_ours_and_pillows_is_left_alone(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode(encode(Picture(noise(10, 10, 3)), "PNG")).size == (10, 10)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_of_several_frames_the_first_is_used(tmp_path):
    frames = [Image.fromarray(noise(4, 4, 3, seed=seed)) for seed in (1, 2)]
    frames[0].save(tmp_path / "a.tiff", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="only the first"):
        np.testing.assert_array_equal(load(tmp_path / "a.tiff").pixels, noise(4, 4, 3, seed=1))


def test_whole_files_are_told_from_parts(tmp_path):
    for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp"):
        path = save(noise(40, 40, 3), tmp_path / f"a{suffix}")
        assert module.is_whole(path)
        whole = path.read_bytes()
        for lost in (1, 20, len(whole) // 2, len(whole)):
            path.write_bytes(whole[:-lost])
            assert not module.is_whole(path), lost
    assert not module.is_whole(tmp_path / "none.png") and not module.is_whole(tmp_path)
