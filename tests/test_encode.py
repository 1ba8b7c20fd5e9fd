"""encode.py: what a file holds comes back exactly; formats, limits of the output, files written whole or not at all."""

import dataclasses
import os
import warnings

import cv2
import numpy as np
import pytest
from corpus import profile
from native import CHANNELS, DEPTHS, SIZES, noise, refused, write
from PIL import Image, PngImagePlugin

from photofound import image as module
from photofound.image import Picture, decode, encode, is_whole, load, output_format, save
from photofound.picture.formats import LONGEST_SIDE

pytestmark = pytest.mark.usefixtures("no_surprises")


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("size", SIZES)
def test_lossless_files_return_every_value(tmp_path, suffix, dtype, channels, size):
    pixels = noise(*size, channels, dtype)
    again = load(save(pixels, tmp_path / f"a{suffix}"))
    if suffix == ".tiff" and channels == 2 and dtype == np.uint16:  # no reader has 16-bit grey + alpha: RGBA holds it
        pixels = pixels[..., [0, 0, 0, 1]]
    assert again.pixels.dtype == dtype
    np.testing.assert_array_equal(again.pixels, pixels)
    assert again.format == output_format(None, f"x{suffix}") and again.lossless
    assert again.size == (size[1], size[0]) and again.depth == np.iinfo(dtype).max


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_agrees_with_opencv(tmp_path, suffix, channels):
    """Another program's files are read right, and reads ours right: channel order is the usual mistake."""
    pixels = noise(20, 31, channels, np.uint16)
    order = [2, 1, 0, 3][:channels] if channels > 1 else [0]
    cv2.imwrite(str(tmp_path / f"theirs{suffix}"), pixels[..., order])
    np.testing.assert_array_equal(load(tmp_path / f"theirs{suffix}").pixels, pixels)
    save(pixels, tmp_path / f"ours{suffix}")
    read = cv2.imread(str(tmp_path / f"ours{suffix}"), cv2.IMREAD_UNCHANGED).reshape(20, 31, channels)
    np.testing.assert_array_equal(read[..., order], pixels)


@pytest.mark.slow
def test_a_large_photograph_is_exact(tmp_path):
    pixels = np.tile(noise(200, 300, 3), (10, 10, 1))
    pixels[1999, 2999] = 7, 8, 9
    picture = load(write(tmp_path / "big.png", pixels, compress_level=1))
    keep = np.ones((2000, 3000), np.float32)
    keep[1000, 1500] = 0
    result = picture.paste(np.zeros((2000, 3000, 3), np.float32), keep)
    assert (result.pixels[1000, 1500] == 0).all()
    assert ((result.pixels != pixels).any(2) <= (keep == 0)).all()


def test_formats_that_hold_less(tmp_path):
    deep = noise(9, 11, 3, np.uint16)
    for suffix in (".bmp", ".webp"):
        again = load(save(deep, tmp_path / f"a{suffix}"))
        np.testing.assert_array_equal(again.pixels, np.rint(deep / 257).astype(np.uint8))
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2] = 10, 20, 30, 255
    for suffix in (".jpg", ".bmp"):
        with pytest.warns(UserWarning, match="onto white"):
            flat = load(save(clear, tmp_path / f"b{suffix}"))
        assert flat.pixels.shape == (4, 4, 3) and (flat.pixels[3] >= 253).all()
        assert np.abs(flat.pixels[0].astype(int) - [10, 20, 30]).max() <= 3


@pytest.mark.parametrize("channels", CHANNELS)
def test_webp_is_lossless_when_the_source_was(tmp_path, channels):
    pixels = noise(21, 34, channels)
    pixels[0, 0, -1] = 0  # a colour under full transparency must survive as well
    lossless = load(save(pixels, tmp_path / "a.webp"))
    expected = pixels[..., {1: [0, 0, 0], 2: [0, 0, 0, 1]}.get(channels, slice(None))]  # WebP has no grey
    np.testing.assert_array_equal(lossless.pixels, expected)
    assert lossless.lossless
    assert load(save(lossless, tmp_path / "again.webp")).lossless
    lossy = load(write(tmp_path / "c.webp", expected, quality=80))
    assert not lossy.lossless and not load(save(lossy, tmp_path / "d.webp")).lossless


def test_bmp_has_no_profile_so_it_gets_srgb(tmp_path):
    picture = Picture(np.full((4, 4, 3), (40, 200, 90), np.uint8), icc_profile=profile())
    with pytest.warns(UserWarning, match="converted to sRGB"):
        again = load(save(picture, tmp_path / "a.bmp"))
    assert again.icc_profile is None and np.abs(again.rgb() - picture.rgb()).max() < 1e-6


def test_output_format():
    jpeg = Picture(noise(2, 2, 3), format="JPEG")
    assert output_format(jpeg, "a.png") == "PNG"
    assert output_format(jpeg, "a.TIF") == "TIFF"
    assert output_format(jpeg, "a") == output_format(jpeg) == "JPEG"
    assert output_format(None, "a") == output_format(dataclasses.replace(jpeg, format="GIF"), "a") == "PNG"
    assert output_format(jpeg, "a.jpeg", "JPG") == "JPEG"
    assert output_format(jpeg, "a.out", "webp") == output_format(jpeg, None, ".webp") == "WEBP"
    refused("format is 'png' but the output is named a.jpg", output_format, jpeg, "a.jpg", "png")
    refused("unknown format 'xcf'; use one of avif, bmp, jpg", output_format, jpeg, "a", "xcf")
    refused("cannot write '.gif' files", output_format, jpeg, "a.gif")
    assert [module.suffix_of(kind) for kind in ("JPEG", "TIFF")] == [".jpg", ".tif"]


def test_save_asks_before_it_overwrites(tmp_path):
    path = save(noise(2, 2, 3, seed=1), tmp_path / "a.png")
    before = path.read_bytes()
    refused("a.png: exists already.*--overwrite", save, noise(2, 2, 3), path, kind=FileExistsError)
    assert path.read_bytes() == before
    save(noise(2, 2, 3, seed=2), path, overwrite=True)
    np.testing.assert_array_equal(load(path).pixels, noise(2, 2, 3, seed=2))


def test_the_suffixes_of_all_that_can_be_read_are_known():
    """A new Pillow may bring further ones."""
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in module.readable()}
    assert known | set(module.SUFFIXES) <= set(module.READABLE_SUFFIXES)


@pytest.mark.parametrize("format", LONGEST_SIDE)
def test_the_longest_side_of_a_format_is_what_it_holds_and_gives_back(format):
    longest = LONGEST_SIDE[format]
    strip = Picture(np.zeros((1, longest, 3), np.uint8))
    assert decode(module.encode(strip, format)).size == (longest, 1)
    module.check_fit(strip, format)
    for size in ((longest + 1, 1), (1, longest + 1)):
        refused(f"{format} holds at most {longest} pixels a side", module.check_fit, strip, format, size)


def test_that_16_bits_become_8_is_said_before_the_work_and_in_saving(tmp_path):
    deep = Picture(noise(2, 2, 3, np.uint16))
    with pytest.warns(UserWarning, match="JPEG holds 8 bits per channel: 16 are rounded"):
        module.check_fit(deep, "JPEG")
    for name in ("a.jpg", "a.webp", "a.bmp", "a.avif"):
        with pytest.warns(UserWarning, match="holds 8 bits per channel: 16 are rounded"):
            save(deep, tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.check_fit(deep, "PNG")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("dtype", DEPTHS)
def test_a_file_whose_second_half_is_zeros_is_not_whole(tmp_path, kind, dtype):
    """What a copy leaves that was broken off after the room for it was taken."""
    data = encode(Picture(noise(96, 96, 3) if dtype == np.uint8 else noise(96, 96, 3, dtype) // 2), kind)
    path = tmp_path / "it"
    path.write_bytes(data)
    assert is_whole(path)
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    assert not is_whole(path)
    if kind == "TIFF":
        refused("second part is zeros", load, path)


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "AVIF", "BMP"])
def test_a_black_picture_is_whole(tmp_path, kind):
    assert is_whole(save(np.zeros((300, 300, 3), np.uint8), tmp_path / "it", kind.lower()))


def test_a_jpeg_of_noise_is_written():
    assert decode(encode(Picture(noise(200, 240, 3)), "JPEG")).size == (240, 200)


def test_a_link_stays_a_link_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("real.png")
    save(noise(2, 2, 3), tmp_path / "link.png", overwrite=True)
    assert (tmp_path / "link.png").is_symlink() and load(tmp_path / "real.png").size == (2, 2)


def test_bad_places_get_one_clear_line(tmp_path, monkeypatch):
    pixels = noise(2, 2, 3)
    refused("does not exist; create it", save, pixels, tmp_path / "no" / "a.png", kind=FileNotFoundError)
    (tmp_path / "file").touch()
    refused("is not a folder", save, pixels, tmp_path / "file" / "a.png", kind=OSError)
    (tmp_path / "folder.png").mkdir()
    refused("is a folder", save, pixels, tmp_path / "folder.png", overwrite=True, kind=OSError)
    refused("quality is 101", save, pixels, tmp_path / "a.jpg", quality=101)
    large = noise(1, 20000, 3)
    refused("WEBP holds at most 16383 pixels a side, not 20000x1; choose png", save, large, tmp_path / "a.webp")
    refused("longer than 255 bytes", save, pixels, tmp_path / f"{'ä' * 126}.png")
    refused("the output's path is empty", module.check_output, "")
    refused("the path is empty", load, "")
    os.mkfifo(tmp_path / "pipe.png")
    refused("is not a regular file", save, pixels, tmp_path / "pipe.png", overwrite=True)
    (tmp_path / "pipe.png").unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)  # tests may run as root, who may write anywhere
    refused("cannot be written to", save, pixels, tmp_path / "a.png", kind=PermissionError)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.parametrize("broken", ["encoder", "write", "replace"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, broken):
    path = save(noise(8, 8, 3, seed=1), tmp_path / "a.png")
    before = path.read_bytes()

    def half_written(image, stream, *_, **__):
        stream.write(b"half")
        raise OSError("encoder error -2")

    def full(*_):
        raise OSError(28, "No space left on device")

    if broken == "encoder":
        monkeypatch.setattr(PngImagePlugin, "_save", half_written)
        monkeypatch.setitem(Image.SAVE, "PNG", half_written)
    else:
        monkeypatch.setattr(os, {"write": "fsync", "replace": "replace"}[broken], full)
    message = "encoder error -2" if broken == "encoder" else "a.png: cannot be written.*No space left"
    refused(message, save, noise(8, 8, 3), path, overwrite=True, kind=(ValueError, OSError))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("missing", ["nothing", "unnamed files", "links"])
def test_a_saved_file_has_the_permissions_of_the_umask(tmp_path, monkeypatch, missing):
    """Also where the system has no unnamed files, or cannot name one."""

    def refuse(*_, **__):
        raise OSError(1, "not permitted")

    if missing == "unnamed files":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif missing == "links":
        monkeypatch.setattr(os, "link", refuse)
    plain = tmp_path / "plain"
    plain.touch()
    assert save(noise(2, 2, 3), tmp_path / "a.png").stat().st_mode == plain.stat().st_mode
