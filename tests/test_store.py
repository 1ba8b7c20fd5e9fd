"""Photographs in memory: the table, the crops, the cache."""

from __future__ import annotations

import json

import pytest
import torch
from helpers import encoded, noise, write_tar
from safetensors.torch import save_file

from photofound.card.record import Origin
from photofound.data import photos
from photofound.data.photograph import Photograph
from photofound.data.store import PhotoStore, _pick, _Windows


def photograph(height=40, width=52, matte=None, caption="a cup", seed=0, source="here"):
    pixels = torch.from_numpy(noise(height, width, seed=seed).transpose(2, 0, 1).copy())
    return Photograph(pixels, matte, caption, source)


def boxed(height, width, top, bottom, left, right):
    """The matte of an object that fills a box."""
    matte = torch.zeros(1, height, width, dtype=torch.uint8)
    matte[:, top:bottom, left:right] = 255
    return matte


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


def test_a_gpu_gathers_the_windows_that_a_cpu_stacks(store):
    store = store[0]
    rows = torch.tensor([0, 1, 3, 5, 1, 5])
    where = [torch.tensor([0, 3, 1, 2, 0, 7]), torch.tensor([4, 0, 11, 2, 9, 0])]
    flip = torch.tensor([True, False, True, False, True, True])
    at = _Windows(store.height[rows], store.width[rows], *where, flip, 18, 14)
    for offset, channels in ((store.offset[rows], 3), (store.matte_offset[rows], 1)):
        assert (offset < 0).any() == (channels == 1)  # photographs without a matte
        stacked, gathered = (cut(offset, channels, at) for cut in (store._stacked, store._gathered))
        assert torch.equal(stacked, gathered) and stacked.any()
