"""Photographs from tars to crops: what is read, what is kept of it, and that a crop is the picture's own pixels."""

from __future__ import annotations

import gzip
import io
import json
import logging
import re
import tarfile
import time

import numpy as np
import pytest
import torch
from helpers import encoded, noise, write_tar
from PIL import Image
from safetensors.torch import save_file

from photofound.card.record import Origin
from photofound.data import photos
from photofound.data.captions import captions
from photofound.data.objects import cut_clean, grabcut, matte_plain_grounds, object_box
from photofound.data.photograph import Photograph, decode, random_int, to_unit
from photofound.data.store import PhotoStore, _pick
from photofound.data.tars import read_tar
from photofound.edits.colours import COLOURS
from photofound.image import Picture


def photograph(height=40, width=52, matte=None, caption="a cup", seed=0, source="here"):
    pixels = torch.from_numpy(noise(height, width, seed=seed).transpose(2, 0, 1).copy())
    return Photograph(pixels, matte, caption, source)


def boxed(height, width, top, bottom, left, right):
    """The matte of an object that fills a box."""
    matte = torch.zeros(1, height, width, dtype=torch.uint8)
    matte[:, top:bottom, left:right] = 255
    return matte


# ------------------------------------------------------------------------------------------------------- reading


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


def hundred(folder, **odd):
    """A tar of a hundred photographs, one more of odd members: extension -> how to add it."""
    with tarfile.open(folder / "x.tar", "w") as archive:
        for i in range(100):
            for name, content in ((f"{i:03}.png", encoded(noise(8, 8))), (f"{i:03}.json", b'{"text": "a cup"}')):
                add(archive, name, content)
            if i == 50:
                for name, content in odd.items():
                    content(archive) if callable(content) else add(archive, name.replace("_", "."), content)
    return folder


def add(archive, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def sparse(archive):
    """A member of a terabyte, all of it holes, as GNU tar writes it."""
    header = bytearray(tarfile.TarInfo("odd.png").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[483:495] = tarfile.itn(2**40, 12, tarfile.GNU_FORMAT)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    archive.fileobj.write(bytes(header))
    archive.offset += len(header)
    add(archive, "odd.json", b'{"text": "a cup"}')


@pytest.mark.parametrize(
    "odd, reason",
    [
        ({"odd_png": b"no picture", "odd_json": b"{}"}, "not an image|no .text"),
        ({"odd_png": encoded(noise(8, 8)), "odd_json": b'{"a":' * 3000 + b"1" + b"}" * 3000}, "RecursionError"),
        ({"odd_png": encoded(noise(8, 8)), "odd_json": b"[1]"}, "TypeError"),
        ({"odd_png": sparse}, "its .png is sparse"),
        ({"odd_png": bytes(50_000), "odd_json": b"{}"}, "makes it more than 40,000 bytes"),
        ({"odd_png": b"", **{f"odd_{i}": b"" for i in range(101)}}, "or 100 files"),
    ],
)
def test_one_bad_sample_is_left_out_and_named(tmp_path, caplog, monkeypatch, odd, reason):
    monkeypatch.setattr(photos.files, "MAX_BYTES", 40_000)
    with caplog.at_level(logging.WARNING):
        assert len(photos.read(hundred(tmp_path, **odd))) == 100
    (line,) = caplog.messages
    assert re.search(rf"skipped .*x.tar .odd.png.*{reason}", line) and len(line) < 600
    assert len(photos.origins(tmp_path)) in (100, 101)


@pytest.mark.slow
def test_whatever_bytes_a_tar_holds_it_is_read_to_an_end(tmp_path):
    """With bytes of its headers changed at random, samples come or a row that says what is wrong; nothing raises."""
    whole = (hundred(tmp_path) / "x.tar").read_bytes()[: 40 * 512]
    rng = np.random.default_rng(0)
    damaged = 0
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 6)):
            header = 1024 * int(rng.integers(len(whole) // 1024))
            content[header + int(rng.integers(512))] = int(rng.integers(256))
        (tmp_path / "y.tar").write_bytes(bytes(content))
        found = list(read_tar(tmp_path / "y.tar"))
        assert found and all(sample["name"] for sample in found)
        damaged += any("damaged" in sample for sample in found)
    assert damaged > 20


def test_a_lack_of_memory_is_damage_of_one_sample(tmp_path, caplog, monkeypatch):
    def decode(file, *rest):
        if file == b"large":
            raise MemoryError
        return whole(file, *rest)

    whole = photos.photograph
    monkeypatch.setattr(photos, "photograph", decode)
    folder = hundred(tmp_path, odd_png=b"large", odd_json=b'{"text": ""}')
    assert len(photos.read(folder)) == 100 and "odd.png) (MemoryError)" in caplog.text


def lying(archive):
    """A header of a member that has more bytes than the file."""
    info = tarfile.TarInfo("odd.png")
    info.size = 2**28
    archive.fileobj.write(info.tobuf())
    archive.offset += tarfile.BLOCKSIZE


def broken(archive):
    """A sample of which a header is broken."""
    place = archive.offset
    add(archive, "odd.png", encoded(noise(8, 8)))
    add(archive, "odd.json", b'{"text": "a cup"}')
    archive.fileobj.seek(place)
    archive.fileobj.write(b"#" * 100)
    archive.fileobj.seek(archive.offset)


def emptied(archive):
    """A header of zeros, which looks like the end."""
    place = archive.offset
    broken(archive)
    archive.fileobj.seek(place)
    archive.fileobj.write(bytes(512))
    archive.fileobj.seek(archive.offset)


@pytest.mark.parametrize("odd, kind", [(lying, ""), (broken, ""), (emptied, ""), (broken, "gz")])
def test_a_tar_is_read_on_behind_a_damage(tmp_path, caplog, odd, kind):
    folder = hundred(tmp_path, odd=odd)
    if kind:
        (folder / "x.tar").write_bytes(gzip.compress((folder / "x.tar").read_bytes()))
    assert len(photos.read(folder)) == 100
    (line,) = caplog.messages
    assert "x.tar (cannot be read" in line


@pytest.mark.parametrize("member, left", [(0, 99), (1, 98), (100, 99), (101, 99), (199, 99)])
def test_a_header_that_is_lost_costs_its_sample(tmp_path, member, left):
    """Also where the other half of the sample is read: a photograph without what is said of it. Of the first samples
    nobody knows yet what a whole one holds."""
    content = bytearray((hundred(tmp_path) / "x.tar").read_bytes())
    with tarfile.open(tmp_path / "x.tar") as archive:
        place = archive.getmembers()[member].offset
    content[place : place + 100] = b"#" * 100
    (tmp_path / "x.tar").write_bytes(content)
    found = list(read_tar(tmp_path / "x.tar"))
    assert sum("damaged" in sample for sample in found) == 1
    whole = [sample for sample in found if "damaged" not in sample]
    assert all({".png", ".json"} <= set(sample) for sample in whole) and len(whole) == left


def test_headers_that_are_broken_by_the_thousand_take_no_long_time(tmp_path):
    block = bytearray(tarfile.TarInfo("0.png").tobuf())
    block[:4] = b"####"  # not what its checksum says
    (tmp_path / "x.tar").write_bytes(bytes(block) * 100_000)
    started = time.monotonic()
    assert len(list(read_tar(tmp_path / "x.tar"))) == 1 and time.monotonic() - started < 5


@pytest.mark.parametrize("content", [b"", b"this is no tar"])
def test_a_file_that_is_no_tar_is_named(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(ValueError, match="data: 1 of 1 samples are damaged, .*x.tar .cannot be read"):
        photos.read(tmp_path)


def test_a_tar_that_was_cut_off_is_named(tmp_path):
    write_tar(tmp_path / "x.tar", {"0.png": encoded(noise(64, 64)), "0.json": {"text": ""}})
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:3000])
    with pytest.raises(ValueError, match="data: 1 of 1 samples are damaged, .*x.tar .cannot be read"):
        photos.read(tmp_path)


# ------------------------------------------------------------------------------------------------------- single crops


def test_bytes_to_unit_range():
    unit = to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert unit.dtype == torch.float32 and torch.allclose(unit, torch.tensor([-1.0, -0.6, 1.0]))


def test_random_integers_reach_both_ends():
    generator = torch.Generator().manual_seed(0)
    assert {random_int(3, generator) for _ in range(60)} == {0, 1, 2}


# ------------------------------------------------------------------------------------------------------- the store


@pytest.fixture
def store():
    object_matte = boxed(40, 52, 8, 30, 10, 32)
    touching = boxed(40, 52, 0, 30, 10, 32)
    photographs = [
        photograph(40, 52, object_matte, "a red cup", 0, "one"),
        photograph(24, 64, None, "a plate", 1, "two"),
        photograph(40, 52, touching, "a fork", 2, "one"),
    ]
    return PhotoStore.build(photographs, (20, 40)), photographs


def test_licences_are_read_kept_and_told(tmp_path):
    tables = {
        "a": {"text": "x", "source": "s", "licence": "MIT"},
        "b": {"text": "y", "source": "s", "license": "CC0-1.0"},
    }
    members = {f"{key}.json": table for key, table in (tables | {"c": {"text": "z", "source": "t"}}).items()}
    pictures = {f"{key}.png": encoded(noise(20, 30)) for key in "abc"}
    write_tar(tmp_path / "0.tar", dict(sorted((members | pictures).items())))
    pairs = [("s", "MIT"), ("s", "CC0-1.0"), ("t", "")]
    photographs = photos.read(tmp_path, 16)
    assert [(p.source, p.licence) for p in photographs] == pairs == photos.origins(tmp_path)
    assert photos.origins(tmp_path, 1) == pairs[:1]
    store = PhotoStore.open(str(tmp_path), (12, 16), cache=str(tmp_path / "cache"))
    expected = (Origin("s", "CC0-1.0", 1), Origin("s", "MIT", 1), Origin("t", "", 1))
    assert store.origins() == expected == PhotoStore.load(tmp_path / "cache").origins()
    assert store.part(store.photograph != 1).origins() == (Origin("s", "MIT", 1), Origin("t", "", 1))


def test_a_cache_without_licences_takes_them_from_its_tars_or_does_without(tmp_path):
    write_tar(
        tmp_path / "0.tar",
        {"a.json": {"text": "x", "source": "s", "licence": "MIT"}, "a.png": encoded(noise(20, 30))},
    )
    store, cache = PhotoStore.build(photos.read(tmp_path, 16), (16,)), tmp_path / "cache"
    words = {"captions": json.dumps(store.captions), "sources": json.dumps(store.sources)}
    save_file({"flat": store.flat, "table": store.table}, cache, words)
    assert PhotoStore.open(str(tmp_path), (16,), str(cache)).origins() == (Origin("s", "MIT", 1),)
    assert PhotoStore.open("not-here", (16,), str(cache)).origins() == (Origin("s", "", 1),)


def test_the_table_has_a_row_per_photograph_and_size(store):
    store, photographs = store
    assert store.table.shape == (6, 9)
    assert store.photograph.tolist() == [0, 0, 1, 1, 2, 2]
    sizes = list(zip(store.height.tolist(), store.width.tolist(), strict=True))
    assert sizes == [(20, 26), (40, 52), (20, 53), (24, 64), (20, 26), (40, 52)]  # the second is smaller than 40
    assert store.sources == ["one", "two", "one"]
    for row in (1, 3, 5):  # unscaled: the photograph's own pixels
        start, pixels = int(store.offset[row]), photographs[row // 2].pixels
        assert torch.equal(store.flat[start : start + pixels.numel()], pixels.flatten())
    assert (store.matte_offset[2:4] == -1).all()


def test_a_small_photograph_is_kept_once():
    photo = photograph(16, 24, boxed(16, 24, 4, 10, 5, 12))
    store = PhotoStore.build([photo], (12, 16, 20, 40))
    assert store.table.shape == (4, 9) and store.height.tolist() == [12, 16, 16, 16]
    assert len(set(store.offset.tolist())) == 2 and store.flat.numel() == 4 * (12 * 18 + 16 * 24)
    assert torch.equal(store.table[1], store.table[2]) and torch.equal(store.table[1], store.table[3])


def test_boxes_are_those_of_complete_objects(store):
    store, _ = store
    assert store.box[1].tolist() == [10, 8, 32, 30] and store.box[0].tolist() == [5, 4, 16, 15]
    assert not store.box[2:].any()  # none, and one that touches the frame


@pytest.mark.parametrize(
    "box, whole",
    [
        ((8, 30, 10, 32), True),
        ((1, 39, 1, 51), False),  # nearly everything
        ((8, 12, 10, 14), False),  # 16 of 2,080 pixels
        ((0, 30, 10, 32), False),
        ((8, 40, 10, 32), False),
        ((8, 30, 0, 32), False),
        ((8, 30, 10, 52), False),
    ],
)
def test_which_object_is_complete(box, whole):
    found = object_box(boxed(40, 52, *box))
    assert found == ((box[2], box[0], box[3], box[1]) if whole else (0, 0, 0, 0))


def test_rows_that_a_crop_fits_into(store):
    store, _ = store
    assert store.rows(20).tolist() == [0, 1, 2, 3, 4, 5]
    assert store.rows(24).tolist() == [1, 3, 5]
    assert store.rows(41).tolist() == []
    assert store.rows(20, objects=True).tolist() == [0]  # the larger object is 22 long
    assert store.rows(26, objects=True).tolist() == [1]
    assert store.rows(25, objects=True).tolist() == []  # 22 > 25 - 4


def find(crop, pixels):
    """Where a crop lies in a picture, and whether it is flipped."""
    size = crop.shape[-1]
    windows = pixels.unfold(1, size, 1).unfold(2, size, 1).permute(1, 2, 0, 3, 4)
    for flipped in (False, True):
        hits = (windows == (crop.flip(-1) if flipped else crop)).flatten(2).all(-1).nonzero()
        if len(hits):
            return (*hits[0].tolist(), flipped)
    return None


def bytes_of(pixels):
    return ((pixels + 1) * 127.5).round().byte()


def test_crops_are_slices_of_the_photographs_bit_for_bit(store):
    store, photographs = store
    rows = torch.tensor([1, 3, 5] * 40)
    sample = store.crops(rows, 24, False, torch.Generator().manual_seed(0))
    assert sample.pixels.shape == (120, 3, 24, 24) and sample.matte.shape == (120, 1, 24, 24)
    places = {1: set(), 3: set(), 5: set()}
    for row, pixels, matte in zip(rows.tolist(), sample.pixels, sample.matte, strict=True):
        photo = photographs[row // 2]
        place = find(bytes_of(pixels), photo.pixels)
        assert place is not None
        places[row].add(place)
        top, left, flipped = place
        expected = torch.zeros(1, 24, 24)
        if photo.matte is not None:
            expected = photo.matte[:, top : top + 24, left : left + 24].float() / 255
        assert torch.equal(matte, expected.flip(-1) if flipped else expected)
    for row, found in places.items():
        tops, lefts, flips = (set(values) for values in zip(*found, strict=True))
        height, width = photographs[row // 2].pixels.shape[1:]
        assert tops <= set(range(height - 23)) and len(tops) > (height - 23) * 0.6
        assert lefts <= set(range(width - 23)) and len(lefts) > (width - 23) * 0.4
        assert flips == {False, True}


def test_a_crop_as_large_as_the_picture_is_the_picture():
    photo = photograph(16, 16)
    store = PhotoStore.build([photo], (16,))
    sample = store.crops(torch.zeros(20, dtype=torch.long), 16, False, torch.Generator().manual_seed(0))
    assert {find(bytes_of(p), photo.pixels) for p in sample.pixels} == {(0, 0, False), (0, 0, True)}


@pytest.mark.slow
def test_objects_lie_wholly_inside_the_crop(store):
    store, photographs = store
    rows = torch.full((200,), 1)
    sample = store.crops(rows, 26, True, torch.Generator().manual_seed(0))
    assert (sample.matte.sum((1, 2, 3)) == 22 * 22).all()
    places = {find(bytes_of(p), photographs[0].pixels)[:2] for p in sample.pixels}
    assert {top for top, _ in places} == set(range(4, 9)) and {left for _, left in places} == set(range(6, 11))


def test_samples_follow_their_generator(store):
    store, _ = store

    def draw(seed):
        return store.crops(torch.tensor([1, 3, 5, 1]), 24, False, torch.Generator().manual_seed(seed))

    one, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(one.pixels, again.pixels) and one.prompt == again.prompt
    assert not torch.equal(one.pixels, other.pixels)


def test_a_draw_at_the_very_end_stays_inside(store, monkeypatch):
    store, photographs = store
    largest = 1 - 2**-24  # the largest float32 that torch.rand can give
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, largest))
    sample = store.crops(torch.tensor([5]), 24, False, torch.Generator())
    assert find(bytes_of(sample.pixels[0]), photographs[2].pixels)[:2] == (16, 28)
    sample = store.crops(torch.tensor([1]), 26, True, torch.Generator())
    assert find(bytes_of(sample.pixels[0]), photographs[0].pixels)[:2] == (8, 10)  # where the object begins


def test_prompts_are_the_photographs_own(store):
    store, _ = store
    sample = store.crops(torch.tensor([1, 3, 5]), 24, False, torch.Generator().manual_seed(0))
    assert [prompt in store.captions[i] for i, prompt in enumerate(sample.prompt)] == [True] * 3
    assert [_pick(["a", "b", "c"], u) for u in (0.0, 0.34, 0.99, 1.0)] == ["a", "b", "c", "c"]


def test_a_store_is_saved_whole_and_loaded_equal(store, tmp_path):
    store, _ = store
    path = tmp_path / "cache" / "store.safetensors"
    store.save(path)
    assert [p.name for p in path.parent.iterdir()] == ["store.safetensors"]
    loaded = PhotoStore.load(path)
    assert torch.equal(loaded.flat, store.flat) and torch.equal(loaded.table, store.table)
    assert loaded.captions == store.captions and loaded.sources == store.sources
    moved = loaded.to("cpu")
    assert moved.device == torch.device("cpu")
    rows = torch.tensor([0, 3])
    one, two = (s.crops(rows, 20, False, torch.Generator().manual_seed(0)) for s in (store, moved))
    assert torch.equal(one.pixels, two.pixels) and one.prompt == two.prompt


def test_another_file_is_no_store(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "store.safetensors"
    for write in (lambda: path.write_bytes(b"something else"), lambda: save_file({"flat": torch.zeros(1)}, path)):
        write()
        with pytest.raises(ValueError, match="data.cache: .*store.safetensors is no photo store .*delete it"):
            PhotoStore.load(path)


# ------------------------------------------------------------------------------------------------------- words


def test_captions_name_the_ground_where_it_has_one_colour():
    even = torch.tensor(COLOURS["teal"][0], dtype=torch.uint8)[:, None, None].expand(3, 40, 50)
    photo = Photograph(even, None, " A photo of a cup on a table. ", "")
    assert captions(photo) == [
        "a cup on a table",
        "a cup on a teal background",
        "on a teal background",
        "teal background",
    ]
    mixed = photograph(caption="A product photo of apples in a grocery store")
    assert captions(mixed) == ["apples in a grocery store", "apples in a grocery store", "apples"]


def test_objects_on_plain_grounds_get_a_matte():
    y, x = np.mgrid[:90, :120]
    inside = np.hypot(y - 45, x - 60) < 25
    array = np.where(inside[..., None], (200, 30, 35), (205, 205, 205)) + np.random.default_rng(0).normal(
        0, 3, (90, 120, 3)
    )
    plain = Photograph(torch.from_numpy(array.clip(0, 255).astype(np.uint8).transpose(2, 0, 1).copy()), None, "", "")
    busy, has = photograph(90, 120), photograph(40, 52, boxed(40, 52, 8, 30, 10, 32))
    empty = Photograph(torch.full((3, 60, 60), 205, dtype=torch.uint8), None, "", "")
    matted = matte_plain_grounds([plain, busy, has, empty])
    found = matted[0].matte[0].numpy() > 127
    assert matted[0].matte.shape == (1, 90, 120)
    assert (found & inside).sum() / (found | inside).sum() > 0.9
    assert matted[1] is busy and matted[2] is has and matted[3] is empty


def test_mattes_of_cut_objects_and_of_shadows_are_not_clean():
    y, x = np.mgrid[:90, :120]
    noise = np.random.default_rng(0).normal(0, 3, (90, 120, 3))

    def matted(inside, segmenter=grabcut):
        array = np.where(inside[..., None], (200, 30, 35), (205, 205, 205)) + noise
        pixels = torch.from_numpy(array.clip(0, 255).astype(np.uint8).transpose(2, 0, 1).copy())
        return cut_clean(pixels, segmenter)

    whole, cut = np.hypot(y - 45, x - 60) < 25, np.hypot(y - 80, x - 60) < 30
    assert matted(whole) is not None
    assert matted(cut) is None  # GrabCut's matte ends just inside the frame

    def with_shadow(rgb):
        """The object and as much of the ground beside it."""
        rows, columns = np.mgrid[: rgb.shape[0], : rgb.shape[1]] * 90 / rgb.shape[0]
        return (np.hypot(rows - 45, columns - 60) < 36).astype(np.float32)

    assert matted(whole, with_shadow) is None
