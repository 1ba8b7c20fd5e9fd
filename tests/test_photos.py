"""Photographs of folders of tars, decoded."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from helpers import encoded, noise, write_tar
from PIL import Image

from photofound.data import photos
from photofound.data.photograph import Photograph, decode, random_int, to_unit
from photofound.image import Picture


def photograph(height=40, width=52, matte=None, caption="a cup", seed=0, source="here"):
    pixels = torch.from_numpy(noise(height, width, seed=seed).transpose(2, 0, 1).copy())
    return Photograph(pixels, matte, caption, source)


def boxed(height, width, top, bottom, left, right):
    """The matte of an object that fills a box."""
    matte = torch.zeros(1, height, width, dtype=torch.uint8)
    matte[:, top:bottom, left:right] = 255
    return matte


def test_samples_are_read_from_all_tars_in_order(tmp_path):
    first, second, third = (noise(20, 30, seed=seed) for seed in range(3))
    mask = np.zeros((20, 30), np.uint8)
    mask[5:9, 5:9] = 255
    write_tar(
        tmp_path / "b.tar",
        {
            "2.webp": encoded(third, "WEBP", lossless=True),
            "2.json": {"text": "third", "licence": "CC0"},
            "2.mask.png": encoded(mask),
        },
    )
    write_tar(
        tmp_path / "a.tar",
        {
            "0.png": encoded(first),
            "0.json": {"text": "first", "source": "somebody"},
            "1.json": {"text": "second"},
            "1.PNG": encoded(second),
            "lonely.png": encoded(first),
            "wordless.json": {"text": "no picture"},
        },
    )
    read = photos.read(tmp_path, short_side=20)
    assert [p.caption for p in read] == ["first", "second", "third"]
    assert [p.source for p in read] == ["somebody", "", ""]
    for photo, original in zip(read, (first, second, third), strict=True):
        assert photo.pixels.dtype == torch.uint8
        assert np.array_equal(photo.pixels.permute(1, 2, 0).numpy(), original)
    assert read[0].matte is None and np.array_equal(read[2].matte[0].numpy(), mask)
    assert [p.caption for p in photos.read(tmp_path, limit=2)] == ["first", "second"]


def test_pictures_and_masks_of_other_suffixes_are_read_from_tars(tmp_path):
    mask = np.zeros((20, 30), np.uint8)
    mask[5:9, 5:9] = 255
    pictures = {"0.bmp": encoded(noise(20, 30), "BMP"), "0.mask.gif": encoded(mask, "GIF")}
    write_tar(tmp_path / "x.tar", pictures | {"0.json": {"text": "a cup"}})
    (read,) = photos.read(tmp_path)
    assert np.array_equal(read.pixels.permute(1, 2, 0).numpy(), noise(20, 30))
    assert np.array_equal(read.matte[0].numpy(), mask)


def test_samples_of_one_name_in_two_folders_are_two(tmp_path):
    write_tar(
        tmp_path / "x.tar",
        {
            f"{folder}/0.{extension}": content
            for i, folder in enumerate("ab")
            for extension, content in (("png", encoded(noise(8, 8, seed=i))), ("json", {"text": folder}))
        },
    )
    read = photos.read(tmp_path)
    assert [p.caption for p in read] == ["a", "b"]
    assert np.array_equal(read[1].pixels.permute(1, 2, 0).numpy(), noise(8, 8, seed=1))


def test_photographs_are_scaled_down_never_up_and_mattes_with_them(tmp_path):
    smooth = np.repeat(np.repeat(noise(4, 6), 10, 0), 10, 1)
    mask = np.zeros((20, 30), np.uint8)  # half the picture's size
    mask[10:] = 255
    write_tar(tmp_path / "x.tar", {"0.png": encoded(smooth), "0.json": {"text": ""}, "0.mask.png": encoded(mask)})
    (small,) = photos.read(tmp_path, short_side=10)
    assert small.pixels.shape == (3, 10, 15) and small.matte.shape == (1, 10, 15)
    assert small.matte[0, :5].max() == 0 and small.matte[0, 5:].min() == 255
    assert np.abs(small.pixels.float().mean((1, 2)).numpy() - smooth.mean((0, 1))).max() < 3
    (same,) = photos.read(tmp_path, short_side=100)
    assert same.pixels.shape == (3, 40, 60) and same.matte.shape == (1, 40, 60)


def test_photographs_are_turned_upright(tmp_path):
    upright = np.repeat(np.repeat(noise(2, 3), 16, 0), 16, 1)  # 48 wide, 32 high
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    file = io.BytesIO()
    Image.fromarray(np.rot90(upright)).save(file, "PNG", exif=exif)
    mask = encoded(np.uint8(255 * np.eye(32, 48)))
    write_tar(tmp_path / "x.tar", {"0.png": file.getvalue(), "0.json": {"text": ""}, "0.mask.png": mask})
    (photo,) = photos.read(tmp_path)
    assert np.array_equal(photo.pixels.permute(1, 2, 0).numpy(), upright)
    assert photo.matte.shape == (1, 32, 48)


def test_transparency_is_the_matte_and_lies_on_white(tmp_path):
    rgba = np.dstack([noise(8, 8), np.zeros((8, 8), np.uint8)])
    rgba[2:6, 2:6, 3] = 255
    opaque = np.dstack([noise(8, 8), np.full((8, 8), 255, np.uint8)])
    own = encoded(np.eye(8, dtype=np.uint8) * 255)
    members = {"0.png": encoded(rgba), "1.png": encoded(opaque), "2.png": encoded(rgba), "2.mask.png": own}
    write_tar(tmp_path / "x.tar", dict(sorted((members | {f"{i}.json": {"text": ""} for i in range(3)}).items())))
    cut, whole, masked = photos.read(tmp_path)
    assert torch.equal(cut.matte[0] == 255, boxed(8, 8, 2, 6, 2, 6)[0] == 255) and cut.matte.sum() == 16 * 255
    assert np.array_equal(cut.pixels[:, 2:6, 2:6].permute(1, 2, 0).numpy(), rgba[2:6, 2:6, :3])
    assert (cut.pixels[:, :2] == 255).all() and (cut.pixels[:, :, 6:] == 255).all()
    assert whole.matte is None and torch.equal(masked.matte[0] == 255, torch.eye(8) == 1)  # a mask comes first


def test_large_jpegs_are_decoded_at_a_fraction_of_their_size(monkeypatch):
    smooth = Image.fromarray(noise(6, 4)).resize((640, 960), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 8
    file = io.BytesIO()
    smooth.transpose(Image.Transpose.ROTATE_270).save(file, "JPEG", quality=95, exif=exif)
    decoded = []
    resize = Picture.resize
    monkeypatch.setattr(Picture, "resize", lambda p, size: decoded.append(p.size) or resize(p, size))
    pixels, matte = decode(file.getvalue(), (150, 225))
    assert decoded == [(160, 240)] and pixels.shape == (225, 150, 3) and matte is None  # a quarter, not an eighth
    wanted = np.asarray(smooth.resize((150, 225), Image.Resampling.BOX), float)
    assert np.abs(pixels - wanted).mean() < 2


def test_grey_pictures_become_rgb(tmp_path):
    grey = noise(8, 9)[..., 0]
    write_tar(tmp_path / "x.tar", {"0.png": encoded(grey), "0.json": {"text": ""}})
    (photo,) = photos.read(tmp_path)
    assert np.array_equal(photo.pixels.numpy(), np.stack([grey] * 3))


def test_an_empty_folder_and_empty_tars_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"data: {tmp_path} holds no .tar; point data.folder at"):
        photos.read(tmp_path)
    write_tar(tmp_path / "x.tar", {"a.txt": b"hello", "b.png": encoded(noise(4, 4))})
    with pytest.raises(ValueError, match="has both a picture and a .json"):
        photos.read(tmp_path)


@pytest.mark.parametrize(
    "broken, reason",
    [
        ({"7.png": b"no picture"}, "is not an image that can be read"),
        ({"7.png": encoded(noise(64, 64))[:2000]}, "truncated|broken"),
        ({"7.json": b"{"}, "Expecting property name"),
        ({"7.json": {"caption": "a cup"}}, 'its .json has no "text"'),
        ({"7.json": b"[1]"}, "must be"),
        ({"7.mask.png": b""}, "is empty"),
        ({"7.mask.png": encoded(noise(8, 20))}, "of another shape than the photograph"),
    ],
)
def test_a_damaged_sample_is_named(tmp_path, broken, reason):
    whole = {"7.png": encoded(noise(8, 8)), "7.json": {"text": "a cup"}}
    write_tar(tmp_path / "x.tar", whole | broken)
    with pytest.raises(ValueError, match=rf"data: 1 of 1 samples are damaged, .*x.tar \(7..*\) \(.*({reason})"):
        photos.read(tmp_path)


def test_bytes_to_unit_range():
    unit = to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert unit.dtype == torch.float32 and torch.allclose(unit, torch.tensor([-1.0, -0.6, 1.0]))


def test_random_integers_reach_both_ends():
    generator = torch.Generator().manual_seed(0)
    assert {random_int(3, generator) for _ in range(60)} == {0, 1, 2}
