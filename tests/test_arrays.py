"""arrays.py: arrays, tensors and PIL images become native pixels without loss."""

import struct
import zlib

import numpy as np
import pytest
import torch
from corpus import profile
from native import CHANNELS, noise, write
from PIL import Image

from photofound import image as module
from photofound.image import Picture, decode, encode, load

pytestmark = pytest.mark.usefixtures("no_surprises")


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


def test_from_any_takes_what_people_have(tmp_path):

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
