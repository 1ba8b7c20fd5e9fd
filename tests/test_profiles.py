"""profiles.py: the same colours as Little CMS, at 16 bits; and profiles made from primaries are whole."""

import io

import numpy as np
import pytest
from corpus import profile
from PIL import Image, ImageCms

from photofound.image import Picture, decode, encode
from photofound.picture import profiles

MADE = {
    "Adobe RGB": profiles.build(profiles.ADOBE_RGB, (563 / 256,), "Adobe RGB"),
    "Display P3": profiles.build(profiles.PRIMARIES[12], profiles.CURVES[13], "Display P3"),
    "BT.2020": profiles.build(profiles.PRIMARIES[9], profiles.CURVES[1], "BT.2020"),
    "linear sRGB": profiles.build(profiles.SRGB, (1.0,), "linear"),
    "of the corpus": profile(),
}
GREY = profiles.build(profiles.SRGB, (1.8,), "grey", grey=True)


def lcms(file, pixels, mode="RGB"):
    """Little CMS's 8-bit conversion of native pixels to sRGB."""
    native, srgb = ImageCms.ImageCmsProfile(io.BytesIO(file)), ImageCms.createProfile("sRGB")
    intent, black_point = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    transform = ImageCms.buildTransform(native, srgb, mode, "RGB", intent, black_point)
    return np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), transform)) / 255


@pytest.mark.parametrize("name", MADE)
def test_the_same_colours_as_little_cms(name):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    ours = profiles.parse(MADE[name]).to_srgb(pixels.astype(np.uint16) * 257)
    assert np.abs(ours - lcms(MADE[name], pixels)).max() < 1.5 / 255


def test_grey_as_little_cms():
    pixels = np.arange(256, dtype=np.uint8)[None]
    ours = profiles.parse(GREY).to_srgb(pixels[..., None].astype(np.uint16) * 257)
    assert np.abs(ours - lcms(GREY, pixels, "L")[..., :1]).max() < 1.5 / 255


@pytest.mark.parametrize("name", MADE)
def test_there_and_back(name):
    rgb = np.random.default_rng(0).uniform(0.1, 0.9, (32, 32, 3)).astype(np.float32)
    exact = profiles.parse(MADE[name])
    native = np.rint(exact.from_srgb(rgb) * 65535).astype(np.uint16)
    assert np.abs(exact.to_srgb(native) - rgb).max() < 16 / 65535


def test_every_kind_of_curve():
    """Against Little CMS, through profiles in which one curve is replaced by another of the same meaning or not."""
    import struct

    x = np.linspace(0, 1, 65536)
    for kind, numbers, expected in (
        (0, (2.0,), x**2),
        (1, (2.0, 1.25, -0.25), np.where(x >= 0.2, (1.25 * x - 0.25).clip(0) ** 2, 0)),
        (2, (2.0, 1.0, -0.1, 0.05), np.where(x >= 0.1, (x - 0.1).clip(0) ** 2, 0) + 0.05),
        (3, (2.0, 1.0, 0.0, 0.5, 0.5), np.where(x >= 0.5, x**2, 0.5 * x)),
        (4, (2.0, 0.9, 0.0, 0.5, 0.5, 0.1, 0.05), np.where(x >= 0.5, 0.81 * x**2 + 0.1, 0.5 * x + 0.05)),
    ):
        tag = b"para" + bytes(4) + struct.pack(f">HH{len(numbers)}i", kind, 0, *(round(n * 65536) for n in numbers))
        np.testing.assert_allclose(profiles._curve(tag), np.maximum.accumulate(expected), atol=1e-4)
    table = b"curv" + bytes(4) + struct.pack(">I3H", 3, 0, 16384, 65535)
    np.testing.assert_allclose(profiles._curve(table), np.interp(x, [0, 0.5, 1], [0, 16384 / 65535, 1]), atol=1e-6)


def test_what_is_no_such_profile_is_none():
    whole = MADE["Adobe RGB"]
    for damaged in (
        b"",
        b"x" * 200,
        whole[:200],
        whole[:-300],
        whole.replace(b"rTRC", b"xTRC"),
        whole + bytes(600_000),
    ):
        assert profiles.parse(damaged) is None
    for x in range(0, len(whole), 7):  # any byte may be wrong
        profiles.parse(whole[:x] + b"\xff" + whole[x + 1 :])
    assert profiles.build((0.3, 0.3) * 4, (2.2,), "a point") is None
    assert profiles.build((0.3, 0, 0.6, 0.3, 0.3, 0.6, 0.1, 0.1), (2.2,), "nowhere") is None


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("name", ["Adobe RGB", "Display P3", "grey"])
def test_sixteen_bits_with_a_profile_stay_sixteen(tmp_path, name, kind):
    ramp = np.linspace(3000, 62000, 8192).round().astype(np.uint16).reshape(64, 128, 1)
    file = GREY if name == "grey" else MADE[name]
    pixels = ramp if name == "grey" else ramp.repeat(3, 2)
    picture = decode(encode(Picture(pixels, icc_profile=file), kind))
    assert picture.icc_profile == file and np.array_equal(picture.pixels, pixels)
    painted = picture.paste(picture.rgb(), np.zeros((64, 128), np.float32))
    assert len(np.unique(painted.pixels)) > 8000 and np.abs(painted.pixels.astype(int) - pixels).max() <= 16
