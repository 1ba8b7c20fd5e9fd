"""colour.py: profiles and other names of colours, converted both ways."""

import io
import struct

import numpy as np
import pytest
from corpus import profile
from native import DEPTHS, noise
from PIL import Image, ImageCms

from photofound import image as module
from photofound.image import Picture, decode, encode, load, save
from photofound.picture import colour, profiles
from photofound.picture import encode as writing

pytestmark = pytest.mark.usefixtures("no_surprises")


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


@pytest.mark.slow
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
    promoted = decode(encode(picture.in_colour(), "PNG"))
    assert promoted.colour == picture.colour  # still true
    np.testing.assert_allclose(promoted.rgb()[..., :1], expected, atol=0.04)


def test_a_grey_png_of_other_primaries_has_the_same_greys_in_colour():
    picture = decode(coloured_png((b"cICP", bytes([9, 8, 0, 1])), pixels=noise(8, 8, 1)))
    promoted = decode(encode(picture.in_colour(), "PNG"))
    assert promoted.colour == ()  # its profile has other primaries than the chunk names
    np.testing.assert_allclose(promoted.rgb(), picture.rgb(), atol=0.04)


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
