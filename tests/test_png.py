"""png.py: a PNG's profile, EXIF, XMP and colours are read within bounds; a damaged one does not cost the picture."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from native import noise
from PIL import Image

from photofound import image
from photofound.image import Picture, decode, encode
from photofound.picture import profiles
from photofound.picture.encode import _png_chunks

PIXELS = noise(8, 8, 3)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a xmlns="urn:a">%s</a></x:xmpmeta>'


def png(*chunks: tuple[bytes, bytes], pixels: np.ndarray = PIXELS) -> bytes:
    plain = encode(Picture(pixels), "PNG")
    return plain[:33] + _png_chunks(chunks) + plain[33:]


def profile(size: int) -> bytes:
    """A profile for Adobe RGB with data behind it that nothing compresses."""
    data = profiles.build(profiles.ADOBE_RGB, (2.2,), "large")
    data += np.random.default_rng(0).bytes(size - len(data))
    return struct.pack(">I", size) + data[4:]


def jpeg(**options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [900_000, 2_000_000, 8_000_000])
def test_a_large_profile_is_written_and_read_again(tmp_path, dtype, size):
    picture = decode(jpeg(icc_profile=profile(size)))
    picture = Picture(picture.pixels.astype(dtype), icc_profile=picture.icc_profile)
    path = image.save(picture, tmp_path / "it.png")
    again = image.load(path)
    assert again.icc_profile == profile(size) and (again.pixels == picture.pixels).all()
    assert image.is_whole(path)


def test_a_profile_above_the_limit_is_left_out_and_the_picture_is_read():
    with pytest.warns(UserWarning, match="colour profile .* left out .*more than 8 MiB"):
        picture = decode(png((b"iCCP", b"a\0\0" + zlib.compress(profile(9_000_000)))))
    assert picture.icc_profile is None and (picture.pixels == PIXELS).all()


def test_long_xmp_exif_and_comments_are_read_or_passed_over():
    packet = XMP % (b"k" * 2_000_000)
    exif = Image.Exif()
    exif[270] = "k" * 600_000
    raw = b"\nexif\n%8d\n" % len(exif.tobytes()) + exif.tobytes().hex().encode()
    for chunk, field in (
        ((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(packet)), "xmp"),
        ((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet), "xmp"),
        ((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw)), "exif"),
        ((b"tEXt", b"Raw profile type exif\0" + raw), "exif"),
        ((b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2_000_000))), None),
        ((b"zTXt", b"Comment\0\0nothing compressed"), None),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            picture = decode(png(chunk))
        assert (picture.pixels == PIXELS).all()
        assert field is None or b"k" * 500_000 in getattr(picture, field)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (b"eXIf", b"junk"),
        (b"eXIf", b""),
        (b"pHYs", b"\0"),
        (b"gAMA", b"\0\1"),
        (b"cHRM", bytes(31)),
        (b"sRGB", b""),
        (b"cICP", b"\1\2"),
        (b"iCCP", b"a"),
        (b"iCCP", b"a\0\0rubbish"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0rubbish"),
        (b"iTXt", b"XML:com.adobe.xmp"),
        (b"zTXt", b"Raw profile type exif\0\0rubbish"),
        (b"tEXt", b"Raw profile type exif\0\nexif\n 3\nxyz"),
        (b"tRNS", b"\0"),
        (b"acTL", b"\0"),
        (b"fcTL", b"\0"),
    ],
)
def test_a_damaged_chunk_is_left_out(name, data):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        picture = decode(png((name, data)))
    assert (picture.pixels == PIXELS).all() and all("left out" in str(each.message) for each in caught)
    assert caught or not data or name in (b"fcTL", b"iTXt")
    assert (picture.icc_profile, picture.exif, picture.colour) == (None, None, ())


def test_a_wrong_checksum_beside_the_pixels_costs_the_chunk_alone():
    for name, data in ((b"tEXt", b"a\0b"), (b"gAMA", struct.pack(">I", 100_000)), (b"eXIf", b"II*\0")):
        broken = struct.pack(">I", len(data)) + name + data + bytes(4)
        file = png()[:33] + broken + png()[33:]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            picture = decode(file)
        assert (picture.pixels == PIXELS).all() and picture.colour == ()
        assert [name in str(each.message).encode() or b"EXIF" in str(each.message).encode() for each in caught] == (
            [True] if name != b"tEXt" else []
        )


def test_of_two_chunks_the_first_counts_and_is_written():
    gammas = [(b"gAMA", struct.pack(">I", gamma)) for gamma in (100_000, 45_455)]
    picture = decode(png(*gammas))
    assert picture.colour == (gammas[0],) and encode(picture, "PNG").count(b"gAMA") == 1


def test_the_size_is_known_without_decoding(monkeypatch):
    monkeypatch.setattr(Image.core, "zip_decoder", None)
    assert image.upright_size(png()) == (8, 8)


def test_metadata_behind_the_pixels_are_read():
    file = png()
    file = file[:-12] + _png_chunks([(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % b"words")]) + file[-12:]
    assert b"words" in decode(file).xmp
