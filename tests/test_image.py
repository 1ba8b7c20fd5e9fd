"""image.py: what a file holds comes back exactly, and what is not a picture is refused in one line."""

import dataclasses
import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from corpus import profile
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from photofound import image as module
from photofound.image import Picture, decode, encode, load, load_mask, output_format, require_hole, save
from photofound.picture import colour, profiles, reading
from photofound.picture import encode as writing
from photofound.picture.formats import LONGEST_SIDE

DEPTHS = [np.uint8, np.uint16]
CHANNELS = [1, 2, 3, 4]
SIZES = [(333, 517), (1, 1), (1, 9), (9, 1)]  # (height, width)


def noise(height, width, channels, dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, (height, width, channels), dtype, endpoint=True)


def write(path, pixels, **options):
    """An 8-bit file made by Pillow, not by us."""
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path, **options)
    return path


@pytest.fixture(autouse=True)
def no_surprises(monkeypatch):
    """Every warning is expected by name or is a failure; the caller's own limit does not matter."""
    monkeypatch.delenv("PHOTOFOUND_MAX_PIXELS", raising=False)
    colour._built_transform.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".* holds 8 bits per channel")  # a test of its own says when
        yield


# ------------------------------------------------------------------------------------------------- reading and writing


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


def test_a_large_photograph_is_exact(tmp_path):
    pixels = np.tile(noise(200, 300, 3), (10, 10, 1))
    pixels[1999, 2999] = 7, 8, 9
    picture = load(write(tmp_path / "big.png", pixels, compress_level=1))
    keep = np.ones((2000, 3000), np.float32)
    keep[1000, 1500] = 0
    result = picture.paste(np.zeros((2000, 3000, 3), np.float32), keep)
    assert (result.pixels[1000, 1500] == 0).all()
    assert ((result.pixels != pixels).any(2) <= (keep == 0)).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"])
def test_every_pil_mode(tmp_path, mode):
    source = Image.fromarray(noise(13, 17, 3 if mode == "P" else 4))
    if mode in ("I", "I;16"):
        source = Image.fromarray(noise(13, 17, 1, np.uint16)[..., 0])
    source = source.convert(mode) if mode != source.mode else source
    expected = np.asarray(source.convert({"1": "L", "P": "RGB"}.get(mode, mode))).reshape(13, 17, -1)
    picture = Picture.from_any(source)
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.depth == (65535 if mode.startswith("I") else 255)
    if mode == "I":
        return  # 32 bits, which no PNG holds
    source.save(tmp_path / "a.png")
    np.testing.assert_array_equal(load(tmp_path / "a.png").pixels, expected)


def test_transparent_colours_become_alpha(tmp_path):
    palette = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).convert("P")
    palette.save(tmp_path / "p.png", transparency=4)
    assert load(tmp_path / "p.png").alpha().tolist() == [[1, 1, 1], [1, 0, 1]]
    Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).save(tmp_path / "l.png", transparency=2)
    grey = load(tmp_path / "l.png")
    assert grey.pixels.shape == (2, 3, 2) and grey.alpha().tolist() == [[1, 1, 0], [1, 1, 1]]
    pixels = noise(2, 3, 3)
    write(tmp_path / "rgb.png", pixels, transparency=tuple(int(v) for v in pixels[0, 1]))
    assert load(tmp_path / "rgb.png").alpha().tolist() == [[1, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_colours_of_16_bit_files_become_alpha(channels):
    pixels = noise(2, 3, channels, np.uint16)
    data, key = encode(Picture(pixels), "PNG"), pixels[1, 2].astype(">u2").tobytes()
    chunk = struct.pack(">I", len(key)) + b"tRNS" + key + struct.pack(">I", zlib.crc32(b"tRNS" + key))
    picture = decode(data.replace(data[data.index(b"IDAT") - 4 :], chunk + data[data.index(b"IDAT") - 4 :]))
    assert picture.alpha().tolist() == [[1, 1, 1], [1, 1, 0]]
    np.testing.assert_array_equal(picture.colours, pixels)


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    with pytest.warns(UserWarning, match="CMYK; converted to RGB"):
        picture = load(tmp_path / "a.jpg")
    assert picture.format == "JPEG" and not picture.lossless
    assert np.abs(picture.rgb() - [1, 0, 0]).max() < 0.02


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB"])
def test_other_colour_spaces_become_rgb(mode):
    red = Image.new("RGB", (4, 4), (200, 60, 40))
    if mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        source = ImageCms.profileToProfile(red, ImageCms.createProfile("sRGB"), lab, outputMode="LAB")
        with pytest.warns(UserWarning, match="LAB"):
            picture = Picture.from_any(source)
    else:
        picture = Picture.from_any(red.convert(mode))
    assert np.abs(picture.pixels.astype(int) - [200, 60, 40]).max() <= 3


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


# -------------------------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path / f"a{suffix}", noise(5, 8, 3), exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    with Image.open(path) as image:
        np.testing.assert_array_equal(Picture.from_any(image).pixels, expected)
    picture = load(path)
    np.testing.assert_array_equal(picture.pixels, expected)
    again = load(save(picture, tmp_path / "b.png"))  # a second reading must not turn it a second time
    np.testing.assert_array_equal(again.pixels, expected)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_16_bit_files(tmp_path, suffix, orientation):
    deep, exif = noise(5, 8, 3, np.uint16), Image.Exif()
    exif[0x0112] = orientation
    data = encode(Picture(deep, exif=exif.tobytes()), output_format(None, f"a{suffix}"))
    small = Image.fromarray(np.arange(40, dtype=np.uint8).reshape(5, 8))
    small.getexif()[0x0112] = orientation
    order = np.asarray(ImageOps.exif_transpose(small))  # where each of the 40 pixels goes
    np.testing.assert_array_equal(decode(data).pixels, deep.reshape(40, 3)[order])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
@pytest.mark.parametrize("dtype", DEPTHS)
def test_exif_and_dpi_travel(tmp_path, suffix, dtype):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    exif.get_ifd(0x8825)[1] = "N"
    exif[0x8769] = exif[0x8825] = 0
    picture = load(write(tmp_path / "a.jpg", noise(5, 8, 3), exif=exif, dpi=(300, 300)))
    picture = dataclasses.replace(picture, pixels=picture.pixels.astype(dtype) * (np.iinfo(dtype).max // 255))
    path = save(picture, tmp_path / f"b{suffix}")
    with Image.open(path) as image:
        found = image.getexif()
        assert found[0x010F] == "Maker" and found.get(0x0112, 1) == 1
        assert found.get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09" and found.get_ifd(0x8825)[1] == "N"
        if suffix != ".webp":
            assert np.allclose(image.info["dpi"], 300, atol=0.1)
    np.testing.assert_array_equal(load(path).size, picture.size)


PLACES = b"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" tiff:Orientation="6"
 xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="48,51N"
 xmlns:dji="http://www.dji.com/drone-dji/1.0/" dji:RelativeAltitude="+80" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmp:Rating="5" xmlns:ps="http://ns.adobe.com/photoshop/1.0/" ps:City="Paris" ps:Credit="Ann\xc3\xa9e"
 ><exif:GPSLongitude>2,17E</exif:GPSLongitude><xmp:Label>red</xmp:Label></rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp", ".avif"])
@pytest.mark.parametrize("dtype", DEPTHS)
def test_xmp_travels_upright(tmp_path, suffix, dtype):
    data = io.BytesIO()
    Image.fromarray(noise(5, 8, 3)).save(data, "JPEG", xmp=PLACES)
    picture = decode(data.getvalue())
    assert picture.size == (5, 8), "where EXIF has no orientation, that of the XMP counts"
    assert picture.xmp == PLACES.replace(b'Orientation="6"', b'Orientation="1"')
    picture = dataclasses.replace(picture, pixels=picture.pixels.astype(dtype) * (np.iinfo(dtype).max // 255))
    again = load(save(picture, tmp_path / f"a{suffix}"))
    assert again.xmp == picture.xmp and again.size == picture.size
    with Image.open(tmp_path / f"a{suffix}") as image:
        image.load()
        assert image.info["xmp"] == picture.xmp  # where other programs look for it


def test_a_picture_without_its_place_keeps_all_else(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769).update({0x9003: "2024:05:06 07:08:09", 0x927C: b"somewhere in Paris, preview at 4711"})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 0.0)})
    exif[0x8769] = exif[0x8825] = 0
    picture = load(write(tmp_path / "a.jpg", noise(5, 8, 3), exif=exif, xmp=PLACES))
    assert b"Paris" not in picture.exif and b"Paris" in picture.xmp  # the maker's note is never kept
    clean = picture.without_location()
    parsed = Image.Exif()
    parsed.load(clean.exif)
    assert parsed[0x010F] == "Maker" and dict(parsed.get_ifd(0x8769)) == {0x9003: "2024:05:06 07:08:09"}
    assert parsed.get_ifd(0x8825) == {} and b"Paris" not in clean.exif
    for gone in ("GPS", "Altitude", "City", "Paris", "48,51", "2,17E"):
        assert gone not in clean.xmp.decode(), gone
    for kept in ('xmp:Rating="5"', "<xmp:Label>red</xmp:Label>", 'ps:Credit="Ann\u00e9e"', "<?xpacket end"):
        assert kept in clean.xmp.decode(), kept
    np.testing.assert_array_equal(clean.pixels, picture.pixels)
    assert Picture(picture.pixels).without_location().exif is None


@pytest.mark.parametrize("xmp", [b"<x/", b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>", b"<x>" * 5000 + b"</x>" * 5000])
def test_xmp_that_cannot_be_searched_is_left_out_with_the_place(xmp):
    with pytest.warns(UserWarning, match="cannot be searched"):
        assert Picture(noise(2, 2, 3), xmp=xmp).without_location().xmp is None


def test_xmp_that_a_file_cannot_hold_is_left_out(tmp_path):
    with pytest.warns(UserWarning, match="XMP data is too long"):
        assert load(save(Picture(noise(2, 2, 3), xmp=b"<x/>" * 20_000), tmp_path / "a.jpg")).xmp is None
    Image.fromarray(noise(2, 2, 3)).save(tmp_path / "b.webp", xmp=b"<x>\xff</x>")
    with pytest.warns(UserWarning, match="not UTF-8"):
        assert load(tmp_path / "b.webp").xmp is None


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be", "utf-32-le"]
)
@pytest.mark.parametrize("declared", ["", '<?xml version="1.0" encoding="UTF-16"?>'], ids=["plain", "declared"])
def test_xmp_in_other_encodings_is_read(tmp_path, encoding, declared):
    """And is UTF-8 from then on, whatever it says of itself; a place in it is found."""
    text = PLACES.decode().replace("\n", "")
    Image.fromarray(noise(2, 2, 3)).save(tmp_path / "a.webp", xmp=(declared + text).encode(encoding))
    picture = load(tmp_path / "a.webp")
    assert b"Ann\xc3\xa9e" in picture.xmp and b"encoding" not in picture.xmp and b"\0" not in picture.xmp
    clean = picture.without_location().xmp
    assert b"Paris" not in clean and b"Ann\xc3\xa9e" in clean


PLACED = {0x9214: (10, 20, 5), 0xA214: (10, 20), 0xA20E: 3000.0, 0xA210: 3}


@pytest.mark.parametrize("change", ["extended", "resized", "turned", "none"])
def test_places_among_the_pixels_go_when_these_move(tmp_path, change):
    exif, xmp = Image.Exif(), PLACES.replace(b'xmp:Rating="5"', b'xmp:Rating="5" exif:SubjectArea="9,9"')
    exif[0x0112], exif[0x010F] = 6 if change == "turned" else 1, "Maker"
    exif.get_ifd(0x8769).update({0x9003: "2024:05:06 07:08:09", **PLACED})
    exif[0x8769] = 0
    picture = load(write(tmp_path / "a.jpg", noise(6, 8, 3), exif=exif, xmp=xmp))
    if change in ("extended", "resized"):
        picture = picture.extend(left=2) if change == "extended" else picture.resize((16, 12))
    again = load(save(picture, tmp_path / "b.jpg"))
    parsed = Image.Exif()
    parsed.load(again.exif)
    kept = set(PLACED) if change == "none" else set()
    assert set(parsed.get_ifd(0x8769)) == {0x9003} | kept and parsed[0x010F] == "Maker"
    assert (b"SubjectArea" in again.xmp) == (change == "none") and b'Rating="5"' in again.xmp


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("spelling", ["tiff:Orientation='6'", 'tiff:Orientation = "6"'])
@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_an_orientation_in_xmp_alone_is_minded(tmp_path, encoding, spelling, suffix):
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" {spelling}/>'
    pixels = noise(16, 32, 3)
    path = write(tmp_path / f"a{suffix}", pixels, xmp=packet.encode(encoding), lossless=True)
    picture = load(path)
    assert picture.size == (16, 32) and module.upright_size(path.read_bytes()) == (16, 32)
    assert b"6" not in picture.xmp
    if suffix == ".webp":
        np.testing.assert_array_equal(picture.pixels, np.rot90(pixels, -1))


XMP_BOMBS = {
    "deep": b"<x>" * 5000 + b"</x>" * 5000,
    "deep and open": b"<x>" * 5000,
    "deep in UTF-16": ("<x>" * 5000).encode("utf-16"),
    "entities": b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>",
    "entities in UTF-16": "<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>".encode("utf-16-be"),
    "large": b"<x>" + b" " * 2**22 + b"</x>",
}


@pytest.mark.parametrize("what", XMP_BOMBS)
def test_xmp_that_would_take_long_is_left_out(tmp_path, what):
    """When it is read, where it is marked, and where a place is looked for: the edit never fails for it."""
    from photofound.picture import provenance

    Image.fromarray(noise(2, 2, 3)).save(tmp_path / "a.webp", xmp=XMP_BOMBS[what])
    with pytest.warns(UserWarning, match="its XMP was left out"):
        assert load(tmp_path / "a.webp").xmp is None
    by_hand = Picture(noise(2, 2, 3), xmp=XMP_BOMBS[what])
    with pytest.warns(UserWarning, match="cannot be searched"):
        assert by_hand.without_location().xmp is None
    with pytest.warns(UserWarning, match="replaced by the mark"):
        assert provenance.source_type(provenance.mark(by_hand)) == provenance.COMPOSITE


def adobe_like(size):
    """A profile that is not sRGB, made longer by ``size`` bytes that nothing reads."""
    from PIL import ImageCms

    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = int.from_bytes(profile[128:132], "big")
    entries = {bytes(profile[p : p + 4]): p for p in range(132, 132 + 12 * tags, 12)}
    red, green = (int.from_bytes(profile[entries[name] + 4 :][:4], "big") for name in (b"rXYZ", b"gXYZ"))
    profile[red : red + 20], profile[green : green + 20] = profile[green : green + 20], profile[red : red + 20]
    profile += bytes(size)
    profile[:4] = len(profile).to_bytes(4, "big")
    return bytes(profile)


def test_a_colour_profile_is_told_by_its_hash_and_bounded(tmp_path):
    """Equal profiles share a transform, none is kept by the cache, and one of 30 MiB costs nothing."""
    import gc

    plain = Picture(noise(4, 4, 3)).rgb()
    pictures = [Picture(noise(4, 4, 3), icc_profile=adobe_like(n)) for n in (0, 0, 2**20)]
    assert all((picture.rgb() != plain).any() for picture in pictures)
    assert colour._built_transform.cache_info().misses == 2
    held = [o for o in gc.get_objects() if type(o) is colour._ProfileKey]
    assert len(held) == 2 and all(profile.data is None for profile in held)

    large = adobe_like(30 * 2**20)
    with pytest.warns(UserWarning, match="profile is ignored: it has 30 MiB, more than 8"):
        assert (Picture(noise(4, 4, 3), icc_profile=large).rgb() == plain).all()
    assert colour._built_transform.cache_info().misses == 2
    Image.fromarray(noise(4, 4, 3)).save(tmp_path / "a.tif", icc_profile=large)
    with pytest.warns(UserWarning, match="a.tif: its colour profile was left out: it has 30 MiB"):
        assert load(tmp_path / "a.tif").icc_profile is None


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    data = io.BytesIO()
    Image.fromarray(noise(5, 8, 3)).save(data, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(range(200)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decode(data.getvalue()).size == (8, 5)


# ------------------------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".webp"])
@pytest.mark.parametrize("dtype", DEPTHS)
def test_the_profile_travels(tmp_path, suffix, dtype):
    icc = profile()
    picture = Picture(noise(5, 8, 3, dtype), icc_profile=icc)
    assert load(save(picture, tmp_path / f"a{suffix}")).icc_profile == icc


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize(
    ("channels", "space"), [(1, "GRAY"), (2, "GRAY"), (1, "RGB "), (2, "RGB "), (3, "RGB "), (4, "RGB ")]
)
def test_generated_colours_survive_the_profile(dtype, channels, space):
    """sRGB in, native values, sRGB out: the same but for rounding to 8 bits; and the profile did change the values."""
    picture = Picture(noise(16, 16, channels, dtype), icc_profile=profile(space, gamma=1.6))
    ramp = np.linspace(0.15, 0.85, 256, dtype=np.float32).reshape(16, 16)
    rgb = np.stack([ramp, ramp, ramp] if channels < 3 else [ramp, ramp[::-1] * 0.3 + 0.4, ramp.T], axis=2)
    result = picture.paste(rgb, np.zeros((16, 16)))
    assert np.abs(result.rgb() - rgb).max() < 4 / 255 and np.abs(result.rgb() - rgb).mean() < 0.6 / 255
    assert np.abs(result.to_float()[..., 0] - rgb[..., 0]).max() > 10 / 255


def test_a_profile_says_what_lcms_says():
    pixels = noise(16, 16, 3)
    wide, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile())), ImageCms.createProfile("sRGB")
    seen = ImageCms.profileToProfile(Image.fromarray(pixels), wide, srgb, ImageCms.Intent.RELATIVE_COLORIMETRIC)
    assert np.abs(Picture(pixels, icc_profile=profile()).rgb() * 255 - np.asarray(seen)).max() <= 1


def test_an_srgb_profile_changes_no_value():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = noise(16, 16, 3, np.uint16)
    assert (Picture(deep, icc_profile=srgb).rgb() == Picture(deep).rgb()).all()


@pytest.mark.parametrize("icc", [b"rubbish", profile()[:200], profile("GRAY")])
def test_a_bad_profile_is_ignored_with_a_warning(icc):
    picture = Picture(noise(4, 4, 3), icc_profile=icc)
    with pytest.warns(UserWarning, match="profile is ignored"):
        rgb = picture.rgb()
    assert (rgb == Picture(picture.pixels).rgb()).all()


def test_rgb_and_alpha_ranges():
    grey = Picture(np.array([[[0, 255], [128, 255]]], np.uint8))
    assert grey.rgb().dtype == np.float32 and grey.rgb().tolist() == [[[0] * 3, [np.float32(128 / 255)] * 3]]
    assert grey.alpha().tolist() == [[1, 1]] and Picture(noise(2, 2, 3)).alpha() is None
    assert Picture(np.full((1, 1, 3), 65535, np.uint16)).rgb().max() == 1


def test_bmp_has_no_profile_so_it_gets_srgb(tmp_path):
    picture = Picture(np.full((4, 4, 3), (40, 200, 90), np.uint8), icc_profile=profile())
    with pytest.warns(UserWarning, match="converted to sRGB"):
        again = load(save(picture, tmp_path / "a.bmp"))
    assert again.icc_profile is None and np.abs(again.rgb() - picture.rgb()).max() < 1e-6


# --------------------------------------------------------------------------------------------------------------- paste


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


def test_a_grey_profile_is_dropped_when_grey_gets_colour():
    picture = Picture(noise(2, 2, 1), icc_profile=profile("GRAY", 1.0))
    with pytest.warns(UserWarning, match="cannot hold colour"):
        result = picture.paste(np.ones((2, 2, 3)), np.ones((2, 2)), colour=True)
    assert result.icc_profile is None
    np.testing.assert_array_equal(result.pixels, np.repeat(picture.pixels, 3, 2))


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


# -------------------------------------------------------------------------------------------------------------- arrays


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


def test_from_any_takes_what_people_have(tmp_path):
    import torch

    pixels = noise(6, 5, 3)
    path = write(tmp_path / "a.png", pixels)
    floats = pixels.astype(np.float32) / 255
    tensor = torch.from_numpy(floats).permute(2, 0, 1)
    sources = [pixels, floats, floats.astype(np.float64), floats.astype(np.float16), tensor, tensor[None]]
    sources += [path, str(path), path.read_bytes(), Image.fromarray(pixels), Picture(pixels)]
    for source in sources:
        picture = Picture.from_any(source)
        assert picture.pixels.dtype == np.uint8
        np.testing.assert_array_equal(picture.pixels, pixels)
    assert load(path).path == path
    assert Picture.from_any(pixels[..., 0]).pixels.shape == (6, 5, 1)
    assert Picture.from_any(pixels > 99).pixels.tolist() == ((pixels > 99) * 255).tolist()


def test_floats_between_8_bit_steps_become_16_bit():
    picture = Picture.from_any(np.float32([[0, 0.5, 1]]))
    assert picture.depth == 65535 and picture.pixels.ravel().tolist() == [0, 32768, 65535]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 4, 3), np.nan, np.float32), "NaN or infinite"),
        (np.full((4, 4, 3), np.inf), "NaN or infinite"),
        (np.full((4, 4, 3), 255.0), r"255.*scale it to \[0, 1\]"),
        (np.full((4, 4, 3), -1.0), r"-1.*scale it"),
        (np.zeros((4, 4, 3), np.int64), "dtype int64"),
        (np.zeros((4, 4, 3), complex), "dtype complex"),
        (np.zeros((4, 4, 5), np.uint8), r"shape \(4, 4, 5\)"),
        (np.zeros((3, 64, 64), np.uint8), r"shape \(3, 64, 64\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"shape \(1, 4, 4, 3\)"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        ([1, 2], "list"),
        (None, "NoneType"),
        (Image.new("F", (2, 2), 7.0), "scale it"),
        (Image.new("I", (2, 2), 70000), "70000"),
        (Image.new("RGB", (0, 2)), "0x2"),
    ],
)
def test_from_any_refuses(array, message):
    with pytest.raises(ValueError, match=message) as caught:
        Picture.from_any(array)
    assert "\n" not in str(caught.value)


def test_to_pil():
    icc = profile()
    for channels, mode in zip(CHANNELS, ["L", "LA", "RGB", "RGBA"], strict=True):
        pixels = noise(4, 5, channels)
        image = Picture(pixels, icc_profile=icc).to_pil()
        assert image.mode == mode and image.size == (5, 4) and image.info["icc_profile"] == icc
        np.testing.assert_array_equal(np.asarray(image).reshape(4, 5, -1), pixels)
    assert Picture(noise(4, 5, 1, np.uint16)).to_pil().mode == "I;16"
    deep = noise(4, 5, 3, np.uint16)
    np.testing.assert_array_equal(np.asarray(Picture(deep).to_pil()), np.rint(deep / 257))


def test_tensors_round_trip():
    rgb = np.random.default_rng(0).random((5, 7, 3)).astype(np.float32)
    tensor = module.to_tensor(rgb)
    assert tuple(tensor.shape) == (1, 3, 5, 7) and tensor.min() >= -1 and tensor.max() <= 1
    assert tensor[0, 2, 4, 6].item() == pytest.approx(rgb[4, 6, 2] * 2 - 1)
    np.testing.assert_allclose(module.from_tensor(tensor), rgb, atol=1e-6)
    assert module.from_tensor(tensor.bfloat16() * 5).max() == 1
    with pytest.raises(ValueError, match="one image"):
        module.from_tensor(tensor.repeat(2, 1, 1, 1))


# -------------------------------------------------------------------------------------------------------- bad files


def refused(match, function, *args, kind=ValueError, **options):
    with pytest.raises(kind, match=match) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)


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


def coloured_png(*chunks, pixels=None):
    """A PNG with these chunks, each a name and data."""
    png = encode(Picture(noise(8, 8, 3) if pixels is None else pixels), "PNG")
    return png[:33] + writing._png_chunks(chunks) + png[33:]


def chromaticities(primaries):
    return struct.pack(">8I", *(round(100_000 * each) for each in primaries))


GAMMA = struct.pack(">I", round(100_000 * 256 / 563))
ADOBE = ((b"gAMA", GAMMA), (b"cHRM", chromaticities(profiles.ADOBE_RGB)))
COLOURED = {
    "gAMA and cHRM": (ADOBE, profiles.build(profiles.ADOBE_RGB, (563 / 256,), "Adobe RGB")),
    "gAMA": (((b"gAMA", struct.pack(">I", 100_000)),), profiles.build(profiles.SRGB, (1.0,), "linear")),
    "cICP": (((b"cICP", bytes([12, 13, 0, 1])),), profiles.build(profiles.PRIMARIES[12], profiles.CURVES[13], "P3")),
}


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("name", COLOURED)
def test_colours_that_a_png_names_without_a_profile(name, dtype):
    chunks, profile = COLOURED[name]
    pixels = noise(8, 8, 3, dtype)
    picture = decode(coloured_png(*chunks, pixels=pixels))
    np.testing.assert_allclose(picture.rgb(), Picture(pixels, icc_profile=profile).rgb(), atol=1.5 / 255)
    assert np.abs(picture.rgb() - Picture(pixels).rgb()).max() > 0.05
    again = encode(picture, "PNG")
    assert all(data in again and name in again for name, data in chunks), "a PNG keeps them as they were"
    assert np.array_equal(decode(again).pixels, pixels) and np.array_equal(decode(again).rgb(), picture.rgb())
    assert decode(encode(picture, "TIFF")).icc_profile == picture.icc_profile is not None, "other files get a profile"


def test_a_png_that_says_srgb_still_does():
    for chunks in (
        [(b"sRGB", b"\0")],
        [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455)), (b"cHRM", chromaticities(profiles.SRGB))],
        [(b"gAMA", struct.pack(">I", 45455))],
        [(b"cICP", bytes([1, 13, 0, 1]))],
        [(b"cHRM", chromaticities((0.3, 0.3) * 4))],  # no colours at all
        [(b"gAMA", bytes(4))],
    ):
        picture = decode(coloured_png(*chunks))
        assert picture.icc_profile is None and all(data in encode(picture, "PNG") for _, data in chunks)


def test_a_grey_png_of_another_gamma():
    grey = noise(8, 8, 1)
    picture = decode(coloured_png((b"gAMA", struct.pack(">I", 100_000)), pixels=grey))
    expected = profiles._from_linear(grey / 255)
    np.testing.assert_allclose(picture.rgb()[..., :1], expected, atol=0.04)  # dark values have large steps
    with pytest.warns(UserWarning, match="grey colour profile"):
        promoted = picture.in_colour()
    assert b"gAMA" not in encode(promoted, "PNG")


def test_an_hdr_png_keeps_its_mark_and_warns():
    chunks = [(b"cICP", bytes([9, 16, 0, 1])), (b"cLLI", bytes(8))]
    with pytest.warns(UserWarning, match="HDR"):
        picture = decode(coloured_png(*chunks))
    again = encode(picture, "PNG")
    assert all(name + data in again for name, data in chunks) and picture.icc_profile is None


@pytest.mark.skipif("AVIF" not in module.SUFFIXES.values(), reason="this Pillow has no AVIF")
def test_colours_that_an_avif_names_by_code_points():
    file = encode(Picture(noise(32, 32, 3)), "AVIF")
    start = file.index(b"colrnclx") + 8
    assert file[start : start + 4] == bytes([0, 1, 0, 13])
    assert decode(file).icc_profile is None
    p3 = decode(file[:start] + bytes([0, 12]) + file[start + 2 :])
    assert p3.icc_profile == decode(encode(p3, "PNG")).icc_profile is not None


def test_adobe_rgb_that_a_camera_names_in_exif(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA001: 65535, 0xA005: {1: "R03"}})
    exif[0x8769] = 0
    Image.fromarray(noise(16, 16, 3)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    picture = load(tmp_path / "a.jpg")
    assert profiles.parse(picture.icc_profile) is not None
    assert load(save(picture, tmp_path / "b.jpg")).icc_profile == picture.icc_profile
    exif.get_ifd(0x8769)[0xA001] = 1
    Image.fromarray(noise(16, 16, 3)).save(tmp_path / "srgb.jpg", exif=exif)
    assert load(tmp_path / "srgb.jpg").icc_profile is None


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


# ------------------------------------------------------------------------------------------------------------- writing


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


def test_a_link_stays_a_link_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("real.png")
    save(noise(2, 2, 3), tmp_path / "link.png", overwrite=True)
    assert (tmp_path / "link.png").is_symlink() and load(tmp_path / "real.png").size == (2, 2)


def test_whole_files_are_told_from_parts(tmp_path):
    for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp"):
        path = save(noise(40, 40, 3), tmp_path / f"a{suffix}")
        assert module.is_whole(path)
        whole = path.read_bytes()
        for lost in (1, 20, len(whole) // 2, len(whole)):
            path.write_bytes(whole[:-lost])
            assert not module.is_whole(path), lost
    assert not module.is_whole(tmp_path / "none.png") and not module.is_whole(tmp_path)


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


# --------------------------------------------------------------------------------------------------------------- masks


def test_masks_from_anything(tmp_path):
    drawn = np.zeros((6, 8), np.uint8)
    drawn[2:4, 3:6] = 255
    expected = (drawn > 0).astype(np.float32)
    rgba = np.dstack([np.full((6, 8, 3), 77, np.uint8), drawn])
    sources = [drawn, drawn > 0, expected, drawn.astype(np.uint16) * 257, np.dstack([drawn] * 3), rgba]
    sources += [np.dstack([drawn, np.full_like(drawn, 255)]), Image.fromarray(drawn).convert("1")]
    sources += [write(tmp_path / "m.png", drawn[..., None]), np.dstack([drawn] * 3 + [np.full_like(drawn, 255)])]
    for source in sources:
        mask = load_mask(source, (8, 6))
        assert mask.dtype == np.float32 and mask.shape == (6, 8)
        np.testing.assert_array_equal(mask, expected)
    soft = load_mask(np.uint8([[0, 40, 128, 215, 255, 255]]), (6, 1))
    np.testing.assert_allclose(soft, np.float32([[0, 40, 128, 215, 255, 255]]) / 255)


DRAWN = np.zeros((48, 64), np.uint8)
DRAWN[10:30, 20:50] = 255


def painted(colour, ground=(0, 0, 0)):
    return np.where(DRAWN[..., None] > 0, np.uint8(colour), np.uint8(ground))


def palette(*colours):
    made = Image.frombytes("P", DRAWN.shape[::-1], (DRAWN // 255).tobytes())
    made.putpalette([channel for colour in colours for channel in colour] + [0] * (768 - 3 * len(colours)))
    return made


def photograph():
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[:48, 180:244])


UNDERSTOOD = {
    "0 and 1": DRAWN // 255,
    "0 and 1, 16 bit": DRAWN.astype(np.uint16) // 255,
    "0 and 1, 64 bit": DRAWN.astype(np.int64) // 255,
    "0 and 255, 64 bit": DRAWN.astype(np.int64),
    "0 and 255 in 16 bits": DRAWN.astype(np.uint16),
    "half floats": (DRAWN / 255).astype(np.float16),
    "a PIL image of 32 bits": Image.fromarray(DRAWN.astype(np.int32)),
    "a PIL image of floats": Image.fromarray((DRAWN / 255).astype(np.float32)),
    "a tensor (H, W)": torch.from_numpy(DRAWN),
    "a boolean tensor": torch.from_numpy(DRAWN > 0),
    "a tensor of whole numbers": torch.from_numpy(DRAWN // 255).long(),
    "a red brush on nothing": painted((255, 0, 0, 255), (0, 0, 0, 0)),
    "a white brush on nothing, white below": painted((255, 255, 255, 255), (255, 255, 255, 0)),
    "blue on black": painted((0, 0, 255)),
    "a dark class colour": painted((64, 0, 128)),
    "a palette": palette((0, 0, 0), (128, 0, 0)),
    "a grey palette": palette((0, 0, 0), (1, 1, 1)),
    "black and white on nothing": np.dstack([painted((255, 255, 255)), DRAWN | np.uint8(255) * (np.arange(64) > 9)]),
    "nearly opaque": np.dstack([painted((255, 255, 255)), np.full_like(DRAWN, 250)]),
    "noise in the black": DRAWN | np.random.default_rng(0).integers(0, 4, DRAWN.shape, np.uint8),
    "an uneven black": np.maximum(DRAWN, np.uint8(2)),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_what_a_mask_means(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask = load_mask(UNDERSTOOD[name], (64, 48))
    np.testing.assert_array_equal(mask, (DRAWN > 0).astype(np.float32))


def test_of_a_photograph_with_a_hole_the_hole_is_marked_and_of_a_cut_out_the_subject():
    photo = photograph()
    for given in (np.dstack([photo, 255 - DRAWN]), np.dstack([photo[..., 0], 255 - DRAWN])):
        np.testing.assert_array_equal(load_mask(given, (64, 48)), DRAWN / 255)
    cut_out = np.dstack([photo * (DRAWN[..., None] > 0), DRAWN])
    np.testing.assert_array_equal(load_mask(cut_out, (64, 48), "subject", kept=True), DRAWN / 255)


REFUSED = {
    "a photograph": (photograph(), "many colours"),
    "a flat map of classes": (np.dstack([DRAWN, 255 - DRAWN, DRAWN]), "many colours"),
    "red on white": (painted((255, 0, 0), (255, 255, 255)), "many colours"),
    "two colours": (np.where(np.arange(64)[None, :, None] < 32, painted((255, 0, 0)), painted((0, 255, 0))), "many"),
    "two colours on nothing": (
        np.where(
            np.arange(64)[None, :, None] < 32, painted((255, 0, 0, 255), [0] * 4), painted((0, 9, 0, 255), [0] * 4)
        ),
        "several colours",
    ),
    "class numbers": (np.where(DRAWN > 0, 2, np.arange(48)[:, None] < 5).astype(np.uint8), "class numbers"),
    "one class": (DRAWN // 17, "class numbers"),
    "a class with its outline": (np.where(DRAWN > 0, 15, np.pad(DRAWN, 2)[:48, :64]).astype(np.uint8), "class numbers"),
    "black on nothing": (painted((0, 0, 0, 255), (0, 0, 0, 0)), "black on nothing"),
    "nothing": (np.zeros((48, 64, 4), np.uint8), "transparent all over"),
    "negative": (DRAWN.astype(int) - 1, "from -1 to 254"),
    "floats to 255": (DRAWN.astype(float), "scale it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_mask_is_refused(name):
    source, message = REFUSED[name]
    refused(message, load_mask, source, (64, 48))


def test_a_mask_of_greys_warns():
    for grey in (np.tile(np.linspace(0, 1, 64), (48, 1)), DRAWN // 2 + np.uint8(1)):
        with pytest.warns(UserWarning, match="the mask is grey for the most part"):
            load_mask(grey, (64, 48))


def greys():
    """Photographs in grey, as masks that nobody meant."""
    from skimage import data

    camera = data.camera()
    yield from (camera, camera[::3, ::3], camera.astype(np.float32) / 255, camera.astype(np.uint16) * 257)
    yield from (np.asarray(Image.fromarray(each()).convert("L")) for each in (data.coffee, data.astronaut, data.rocket))
    yield decode(encode(Picture(camera[..., None]), "JPEG", 60))
    yield Image.fromarray(camera).resize((2048, 2048), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("index", range(9))
def test_a_grey_photograph_is_no_mask(index):
    grey = list(greys())[index]
    size = grey.size if hasattr(grey, "to_pil") or isinstance(grey, Image.Image) else grey.shape[::-1]
    for kept in (False, True):
        refused("the subject is a grey photograph .* pass a mask", load_mask, grey, size, "subject", kept)


def soft():
    """Masks that are grey on purpose, (240, 320) in [0, 255]."""
    import cv2

    y, x = np.mgrid[:240, :320].astype(np.float32)
    rng, far = np.random.default_rng(0), np.hypot(x - 160, y - 120)
    blob = cv2.circle(np.zeros((240, 320), np.float32), (160, 120), 70, 255, -1)
    clouds = cv2.GaussianBlur(rng.random((240, 320)).astype(np.float32), (0, 0), 20)
    return {
        "gradient": x / 319 * 255,
        "steep": np.abs(x - 160) * 1.5,
        "radial": 255 - far,
        "wheel": (np.arctan2(y - 120, x - 160) + np.pi) / (2 * np.pi) * 255,
        "feathered": cv2.GaussianBlur(blob, (0, 0), 30),
        "hair": np.where(np.abs(far - 80) < 12, rng.random((240, 320)) * 255, np.where(far < 80, 255, 0)),
        "clouds": (clouds - clouds.min()) / (clouds.max() - clouds.min()) * 255,
        "depth": 250 - y / 2 - 60 * (blob > 0),
        "grainy": x / 319 * 255 + rng.normal(0, 2, (240, 320)),
    }


@pytest.mark.parametrize("name", soft())
def test_a_soft_mask_is_one(name):
    grey = np.rint(soft()[name].clip(0, 255)).astype(np.uint8)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the mask is grey for the most part")
        for each in (grey, decode(encode(Picture(grey[..., None]), "JPEG", 75)), grey[::4, ::4]):
            size = each.size if isinstance(each, Picture) else each.shape[::-1]
            mask = load_mask(each, size)
            assert ((mask > 0) & (mask < 1)).any()


@pytest.mark.parametrize("quality", [60, 75, 90])
def test_a_jpeg_that_pillow_or_opencv_read_has_no_noise(quality):
    import cv2

    drawn = cv2.circle(np.zeros((200, 200), np.uint8), (90, 110), 50, 255, -1)
    file = encode(Picture(drawn[..., None]), "JPEG", quality)
    near = cv2.dilate(drawn, np.ones((17, 17)))  # within a block of 8 pixels
    for read in (
        np.asarray(Image.open(io.BytesIO(file))),
        cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR),
    ):
        assert (read[drawn == 0] > 16).any() or quality > 75, "this JPEG has no ringing, so the test shows nothing"
        mask = load_mask(read, (200, 200))
        assert mask[near == 0].max() == 0 and mask[cv2.erode(drawn, np.ones((17, 17))) > 0].min() == 1


def test_jpeg_noise_does_not_leak_into_a_mask(tmp_path):
    drawn = np.zeros((32, 32, 1), np.uint8)
    drawn[5:27, 5:27] = 255
    path = write(tmp_path / "m.jpg", drawn, quality=90)
    assert set(np.unique(load(path).pixels)) - {0, 255}, "this JPEG has no ringing, so the test shows nothing"
    np.testing.assert_array_equal(load_mask(path, (32, 32)), drawn[..., 0] / 255)


def test_a_mask_of_another_size(tmp_path):
    drawn = np.zeros((40, 60), bool)
    drawn[:, :30] = True
    with pytest.warns(UserWarning, match="the mask is 60x40 but the image is 120x80; the mask was resized"):
        mask = load_mask(drawn, (120, 80))
    assert mask.shape == (80, 120) and set(np.unique(mask)) == {0, 1} and (mask[:, :60] == 1).all()
    with pytest.warns(UserWarning, match="resized"):
        soft = load_mask(np.linspace(0, 3, 60)[None].repeat(40, 0).clip(0, 1), (30, 20))
    assert soft.shape == (20, 30) and 0 <= soft.min() < soft.max() <= 1 and len(np.unique(soft)) > 10
    refused("the subject is 60x40 but the image is 60x60; make the subject", load_mask, drawn, (60, 60), "subject")
    refused("60x40.*40x60", load_mask, drawn, (40, 60))


def test_require_hole():
    mask = np.zeros((4, 4), np.float32)
    refused("the mask is empty.*repainted", require_hole, mask)
    refused("the mask is full", require_hole, mask + 1)
    refused("the subject is empty.*kept", require_hole, mask, "subject", "kept")
    mask[1, 1] = 1
    require_hole(mask)
    require_hole(1 - mask)


# ------------------------------------------------------------------------------------------------------------- package


def test_the_import_is_cheap():
    """Neither torch nor OpenCV is loaded before it is needed."""
    code = "import sys, photofound.image; print([m for m in ('torch', 'cv2', 'diffusers') if m in sys.modules])"
    root = Path(module.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
