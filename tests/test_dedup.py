"""Which photographs double others: hashes in bounded memory, embeddings by clusters, and the room's column."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from photofound import Room, cli
from photofound.data.duplicates import fingerprints_alike, groups, near_pairs, representatives, tables
from photofound.room import dedup


def flipped(rng: np.random.Generator, bits: np.ndarray, count: int) -> np.ndarray:
    """Each with ``count`` different bits turned over."""
    order = np.argsort(rng.random((len(bits), 64)), axis=1)[:, :count].astype(np.uint64)
    return bits ^ np.bitwise_or.reduce(np.uint64(1) << order, axis=1)


@pytest.mark.parametrize("near", [0, 1, 3, 5, 12])
def test_every_choice_of_bits_is_covered_by_a_table(near):
    rng = np.random.default_rng(near)
    differ = flipped(rng, np.zeros(3000, np.uint64), near)
    assert (np.bitwise_count(differ) == near).all()
    assert np.any([differ & mask == 0 for mask in tables(near)], axis=0).all()


@pytest.mark.parametrize("rows", [2**23, 100])
@pytest.mark.parametrize("near", [0, 2, 3, 6])
def test_pairs_are_those_of_comparing_each_with_each_and_come_once(near, rows):
    """However few are sorted at once; with hashes as skewed as those of things on white."""
    rng = np.random.default_rng(near)
    bits = rng.integers(0, 2**63, 200, dtype=np.uint64)
    bits = np.concatenate([bits, *(flipped(rng, bits, count) for count in (near, near + 1)), np.zeros(150, np.uint64)])
    colours = rng.integers(0, 256, (len(bits), 48), dtype=np.uint8)
    colours[200:400] = np.clip(colours[:200].astype(int) + rng.integers(-8, 9, (200, 48)), 0, 255)
    colours[600:] = 240 + rng.integers(0, 16, (150, 48))
    apart = np.abs(colours[:, None].astype(int) - colours).max(2)
    close = (np.bitwise_count(bits[:, None] ^ bits) <= near) & (apart <= 8)
    wanted = {(int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(close, 1)), strict=True)}
    found = [tuple(sorted(pair)) for i, j in near_pairs(bits, near, colours, rows) for pair in zip(i, j, strict=True)]
    assert len(found) == len(set(found)) and set(found) == wanted and len(wanted) >= 200


def test_whatever_goes_is_like_a_kept_one():
    """a is like b, b is like c, a is not like c: with b the best one is left, with a the best two are."""
    bits = np.array([0b000, 0b111, 0b111111], np.uint64)
    alike = fingerprints_alike(bits, None, 3)
    found = [group.tolist() for group in groups(3, near_pairs(bits, 3))]
    assert found == [[0, 1, 2]]
    assert representatives(3, groups(3, near_pairs(bits, 3)), alike).tolist() == [0, 0, 2]
    assert representatives(3, groups(3, near_pairs(bits, 3)), alike, np.array([1, 0, 2])).tolist() == [1, 1, 1]


def test_bits_apart_have_bounds():
    with pytest.raises(ValueError, match="near: 70"):
        list(near_pairs(np.zeros(2, np.uint64), 70))


def test_similar_vectors_are_found_within_clusters(monkeypatch):
    """Twins at cosine .99 among 2,000 vectors, compared within clusters; nothing else is near."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1000, 32))
    vectors = np.concatenate([vectors, vectors + 0.12 * rng.normal(size=vectors.shape)])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    exact = {(int(i), int(j)) for a, b in dedup.similar_pairs(vectors, 0.95) for i, j in zip(a, b, strict=True)}
    assert {(i, i + 1000) for i in range(1000)} <= exact
    monkeypatch.setattr(dedup, "_EXACT", 100)
    monkeypatch.setattr(dedup, "_TOGETHER", 200)
    parts = {(int(i), int(j)) for a, b in dedup.similar_pairs(vectors, 0.95) for i, j in zip(a, b, strict=True)}
    assert parts <= exact and len(parts) > 0.97 * len(exact)


# ---------------------------------------------------------------------------------------------------------- the room


@pytest.fixture
def room(tmp_path):
    """Six pictures; the first three are there twice more, smaller and compressed."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        whole = Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC)
        whole.save(folder / f"{number}.png")
        if number < 3:
            whole.resize((80, 60), Image.Resampling.LANCZOS).save(folder / f"{number}-small.png")
            whole.save(folder / f"{number}-rough.jpg", quality=85)
    made = Room(tmp_path / "room")
    made.add(folder)
    return made


def names(room: Room, where: str) -> list[str]:
    found = (name for batch in Room(room.folder).table.scan(["name"], where) for name in batch["name"].to_pylist())
    return sorted(name.rpartition("/")[2] for name in found)


def test_the_largest_is_kept_and_nothing_is_removed(room):
    found = room.dedup()
    assert (found.compared, found.doubled, len(room)) == (12, 6, 12) and len(found.groups) == 3
    kept = names(room, "duplicate_of = key")
    assert len(kept) == 6 and not [name for name in kept if "small" in name]
    assert all(len(group) == 3 for group in found.groups)


def test_what_is_kept_is_the_user_s_choice(room):
    room.dedup(prefer="-width")
    assert names(room, "duplicate_of = key and width < 100") == ["0-small.png", "1-small.png", "2-small.png"]
    with pytest.raises(ValueError, match="there is no column nothing"):
        room.dedup(prefer="nothing")


def test_what_is_added_later_is_compared_the_next_time(room, tmp_path):
    room.dedup()
    (tmp_path / "more").mkdir()
    with Image.open(tmp_path / "photos/5.png") as whole:
        whole.resize((320, 240), Image.Resampling.BICUBIC).save(tmp_path / "more/5-large.png")
    room.add(tmp_path / "more")
    assert names(room, "duplicate_of IS NULL") == ["5-large.png"]
    assert room.dedup().doubled == 7
    assert "5-large.png" in names(room, "duplicate_of = key") and "5.png" not in names(room, "duplicate_of = key")


def test_embeddings_find_doubles_too_and_only_where_asked(room):
    found = room.dedup(by="small", similar=0.9)
    assert found.doubled >= 3
    assert room.dedup(where="width > 100").compared == 9
    assert names(room, "duplicate_of IS NULL") == ["0-small.png", "1-small.png", "2-small.png"]


def test_dedup_on_the_command_line(room, tmp_path, capsys):
    assert cli.main(["room", "dedup", str(room.folder), "--html", str(tmp_path / "page.html")]) == 0
    assert "12 photographs compared; 6 (50.0%) double others" in capsys.readouterr().out
    assert (tmp_path / "page.html").read_text().count("<img") == 9
    for wrong in (["--by", "clip"], ["--similar", "2"], ["--near", "99"]):
        assert cli.main(["room", "dedup", str(room.folder), *wrong]) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error and len(error.strip().splitlines()) == 1


def test_a_room_without_doubles_and_an_empty_query(room):
    assert room.dedup(where="width > 5000").line.startswith("0 photographs compared")
    assert room.dedup(near=0, where="name like '%5.png'").doubled == 0
