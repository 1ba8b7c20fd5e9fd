"""The data room: added once, found, counted, exported, forgotten; killed, shared, returned to."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import encoded, made_once, noise, wait_until
from PIL import Image

from photofound import Room, cli
from photofound.data import sources
from photofound.data.sources import Source, open_parts, open_source, raw
from photofound.data.table import COLUMNS, Table, schema
from photofound.room import optout, vectors
from photofound.room.describe import sha256

GPS = 0x8825


def picture(number: int, size=(64, 48)) -> np.ndarray:
    """A disc on a plain ground; every number has colours and a place of its own."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[: size[1], : size[0]]
    centre = rng.uniform(0.3, 0.7, 2) * size[::-1]
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (min(size) / 4) ** 2
    return np.where(inside[..., None], *rng.integers(0, 256, (2, 3))).astype(np.uint8)


def write_folder(folder: Path, numbers, **meta) -> Path:
    """An image folder with metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in numbers:
        (folder / f"{number:03}.png").write_bytes(encoded(picture(number)))
        words = {"text": f"a ball, number {number}", "source": f"site{number % 2}.example", "licence": "CC0"}
        lines.append(json.dumps({"file_name": f"{number:03}.png", **words, **meta}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return (
        made_once(tmp_path_factory, "room_photos", lambda folder: write_folder(folder / "photos", range(12))) / "photos"
    )


@pytest.fixture
def room(tmp_path, photos):
    made = Room(tmp_path / "room")
    made.add(photos)
    return made


def keys(room: Room, where: str | None = None) -> set[str]:
    return {key for batch in Room(room.folder).table.scan(["key"], where) for key in batch["key"].to_pylist()}


def bytes_in(folder: Path, content: bytes) -> list[str]:
    """Files below a folder that hold some bytes."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and content in path.read_bytes()]


# ----------------------------------------------------------------------------------------------------------------- add


def test_a_photograph_is_described_in_full(room, photos):
    key = sha256((photos / "003.png").read_bytes())
    (row,) = [r for b in room.table.scan([c.name for c in COLUMNS], f"key = '{key}'") for r in b.to_pylist()]
    assert (row["hash"], row["width"], row["height"], row["format"]) == (key, 64, 48, "PNG")
    assert (row["source"], row["licence"], row["caption"]) == ("site1.example", "CC0", "a ball, number 3")
    assert (
        row["collection"] == str(photos) and row["name"].endswith("003.png") and row["aspect"] == pytest.approx(4 / 3)
    )
    assert row["image"] == (photos / "003.png").read_bytes() and row["bytes"] == len(row["image"])
    assert json.loads(row["meta"])["text"] == "a ball, number 3" and len(row["colours"]) == 48


def test_adding_again_adds_nothing_and_what_is_new_is_added(room, photos, tmp_path):
    before = room.versions()[-1].number
    again = room.add(photos)
    assert (again.added, again.parts_before, len(room)) == (0, 1, 12)
    assert room.add(photos, reread=True).known == 12 and room.versions()[-1].number == before
    other = write_folder(tmp_path / "other", range(8, 16))  # four of them are there by their content
    added = room.add(other)
    assert (added.added, added.known, len(room)) == (4, 4, 16)


def test_one_file_under_two_names_comes_in_once(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(encoded(picture(1)))
    added = Room(tmp_path / "room").add(folder)
    assert (added.added, added.known) == (1, 2)


def test_damaged_files_are_named_and_the_others_are_added(tmp_path, photos):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "good.png").write_bytes(encoded(picture(1)))
    (folder / "bad.png").write_bytes(encoded(picture(2))[:200])
    room = Room(tmp_path / "room")
    added = room.add(folder)
    assert added.added == 1 and added.left_out == {"damaged": 1}
    assert "bad.png" in (room.folder / "damaged.log").read_text()


def test_a_source_that_is_not_there_makes_no_room(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        Room(tmp_path / "room").add(tmp_path / "nothing")
    assert not (tmp_path / "room").exists()


def test_references_are_read_where_they_were_added_and_nowhere_else(tmp_path, photos, shards):
    room = Room(tmp_path / "room")
    room.add(photos, reference=True)
    assert not bytes_in(room.folder, (photos / "003.png").read_bytes())
    rows = list(open_source(Source(room=str(room.folder))))
    assert {raw(row, Source("x")).image for row in rows} == {p.read_bytes() for p in photos.glob("*.png")}
    assert room.search(like=photos / "003.png", limit=1)[0].distance == pytest.approx(0, abs=1e-5)
    from photofound.data.table import referenced

    with pytest.raises(ValueError, match="is no picture that lies in"):
        referenced(str(tmp_path / "secret.png"), str(photos))
    with pytest.raises(ValueError, match="is no image folder"):
        Room(tmp_path / "other").add(shards, reference=True)


def test_every_source_that_training_reads_can_be_added(tmp_path, photos, shards, room):
    from_tars = Room(tmp_path / "tars")
    assert from_tars.add(shards).added == 12
    assert from_tars.table.count("mask IS NOT NULL") == 6
    from_room = Room(tmp_path / "copy")
    assert from_room.add(Source(room=str(room.folder), where="source = 'site0.example'")).added == 6
    room.export(tmp_path / "parquet", "parquet")
    from_parquet = Room(tmp_path / "from_parquet")
    assert from_parquet.add(tmp_path / "parquet").added == 12 and keys(from_parquet) == keys(room)


ADD = """
import sys, time
from photofound.room import add, rows
from photofound import Room
add._ROWS = 16
described, calls = rows.describe, []
def describe(*a, **k):
    calls.append(1)
    time.sleep(600 if sys.argv[3] == "endless" and len(calls) > 100 else 0.02)
    return described(*a, **k)
rows.describe = describe
print("ready", flush=True)
print(Room(sys.argv[1]).add(sys.argv[2], workers=1).line)
"""


def start_adding(room: Path, source: Path, how: str = "slow") -> subprocess.Popen:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", ADD, room, source, how], stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
def test_killed_and_started_again_equals_whole(tmp_path):
    """SIGKILL in the middle: what is there is whole, and the same call comes to the same photographs."""
    photos = write_folder(tmp_path / "photos", range(150))
    room = Room(tmp_path / "room")
    with start_adding(room.folder, photos, "endless") as running:
        try:
            wait_until(lambda: (room.folder / "photos.lance" / "_versions").is_dir() and len(Room(room.folder)))
        finally:
            running.kill()
    assert 0 < len(room) < 150
    room.add(photos)
    assert len(room) == len(keys(room)) == 150
    assert keys(room) == {sha256(path.read_bytes()) for path in photos.glob("*.png")}
    room.forget(hash=sorted(keys(room))[0])  # also what the killed process has left
    left = sum(len(f.data_files()) for f in Room(room.folder).table.dataset.get_fragments())
    assert len(list((room.folder / "photos.lance" / "data").iterdir())) == left


@pytest.mark.slow
def test_two_processes_add_at_once(tmp_path, monkeypatch):
    """The same photographs and others, by this process and another one: each comes in once."""
    from photofound.room import add, rows

    first, second = write_folder(tmp_path / "a", range(60)), write_folder(tmp_path / "b", range(20, 80))
    room, described = Room(tmp_path / "room"), rows.describe
    monkeypatch.setattr(add, "_ROWS", 16)
    monkeypatch.setattr(rows, "describe", lambda *a, **k: (time.sleep(0.02), described(*a, **k))[1])
    with start_adding(tmp_path / "room", first) as other:
        assert other.stdout.readline() == "ready\n", other.stderr.read()
        room.add(second, workers=1)
        assert other.wait(280) == 0, other.stderr.read()
    found = [key for batch in Room(room.folder).table.scan(["key"]) for key in batch["key"].to_pylist()]
    assert len(found) == len(set(found)) == 80


# ------------------------------------------------------------------------------------------------- privacy and rights


def located(format: str) -> bytes:
    """A picture that says where it was taken, in EXIF and, but for TIFF, in XMP."""
    exif = Image.Exif()
    exif[0x010F] = "Camera maker"
    exif.get_ifd(GPS).update({1: "N", 2: (48.0, 51.0, 29.6), 3: "E", 4: (2.0, 17.0, 40.2)})
    exif[GPS] = 0
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        b' dc:format="kept" exif:GPSLatitude="48,51.49N"><exif:GPSLongitude>2,17.67E</exif:GPSLongitude>'
        b"</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    stream = io.BytesIO()
    options = {} if format in ("PNG", "TIFF") else {"xmp": xmp}
    Image.fromarray(noise(40, 50)).save(stream, format, exif=exif, **options)
    return stream.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_where_a_photograph_was_taken_is_left_out(tmp_path, format):
    from photofound.picture.places import names_place, without_place

    file = located(format)
    assert names_place(file)
    cleaned = without_place(file)
    assert not names_place(cleaned) and b"48,51.49N" not in cleaned and b"2,17.67E" not in cleaned
    before, after = (Image.open(io.BytesIO(each)) for each in (file, cleaned))
    assert np.array_equal(np.asarray(before), np.asarray(after)) and after.getexif()[0x010F] == "Camera maker"
    if format not in ("PNG", "TIFF"):
        assert b'dc:format="kept"' in cleaned
    assert without_place(cleaned) is cleaned
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / f"a.{format.lower()}").write_bytes(file)
    room, open_room = Room(tmp_path / "room"), Room(tmp_path / "open")
    room.add(tmp_path / "photos")
    open_room.add(tmp_path / "photos", keep_gps=True)
    images = {r: next(r.table.scan(["key", "hash", "image"])).to_pylist()[0] for r in (room, open_room)}
    assert images[room]["image"] == cleaned and images[room]["hash"] == sha256(cleaned)
    assert images[open_room]["image"] == file
    assert images[room]["key"] == images[open_room]["key"] == sha256(file)
    assert room.add(tmp_path / "photos", reread=True).added == 0


def test_a_file_without_a_place_stays_the_very_same(photos):
    from photofound.picture.places import without_place

    file = (photos / "001.png").read_bytes()
    assert without_place(file) is file


def test_opt_out_lists_hold_for_every_later_add(tmp_path, photos):
    key = sha256((photos / "003.png").read_bytes())
    listed = tmp_path / "list.txt"
    listed.write_text(f"# asked for on Monday\n{key}\nUser-agent: *\nDisallow: */004.png\nsite0.example\n")
    room = Room(tmp_path / "room")
    added = room.add(photos, opt_out=listed)
    assert added.added == 5 and added.left_out == {"opted out": 7}  # six of site0, 004 among them, and 003
    assert key not in keys(room)
    assert room.add(photos, reread=True).left_out == {"opted out": 7}


@pytest.mark.parametrize(
    ("entry", "place", "out"),
    [
        ("example.com", "https://www.example.com/a/b.jpg", True),
        ("example.com", "https://example.community/a.jpg", False),
        ("https://Example.com/private/", "http://example.com/private/x.jpg?size=2", True),
        ("example.com/private/", "https://example.com/public/x.jpg", False),
        ("example.com/*/portraits", "https://cdn.example.com/2024/portraits/x.jpg", True),
        ("example.com/*.gif$", "https://example.com/a.gif", True),
        ("example.com/*.gif$", "https://example.com/a.gif.jpg", False),
        ("photos", "photos/a/b.jpg", True),
        ("photos/a", "photos/ab.jpg", False),
    ],
)
def test_opt_out_entries(entry, place, out):
    assert optout.OptOut([entry]).has_place(place) is out


def test_forgotten_photographs_are_gone_from_the_disk_and_stay_out(room, photos, tmp_path):
    gone, stays = ((photos / f"{n:03}.png").read_bytes() for n in (3, 4))
    room.search("ball")  # an index of words
    room.cluster(2)
    room.rollback(3)
    room.add(write_folder(tmp_path / "more", [20]))
    assert bytes_in(room.folder, gone) and bytes_in(room.folder, b"number 3")
    forgotten = room.forget(source="site1.example")
    assert len(forgotten.keys) == 6 and sha256(gone) in forgotten.keys and forgotten.readers == []
    assert not bytes_in(room.folder, gone) and not bytes_in(room.folder, b"a ball, number 3")
    assert bytes_in(room.folder, stays) and len(room) == 7
    assert [version.number for version in room.versions()] == [forgotten.version]
    assert room.add(photos, reread=True).left_out == {"opted out": 6} and len(room) == 7
    assert [each.source for each in room.search(like=photos / "003.png", limit=3)] == ["site0.example"] * 3
    assert {found.key for found in room.search("ball", limit=50)} == keys(room)


def test_a_file_that_two_sources_offer_goes_when_either_takes_it_back(room, photos, tmp_path):
    other = write_folder(tmp_path / "other", [3, 4, 60], source="second.example")
    assert (room.add(other).added, room.add(other, reread=True).known) == (1, 3)
    assert len((room.folder / optout.SOURCES).read_text().splitlines()) == 2
    gone = room.forget(source="second.example")
    assert set(gone.keys) == {sha256(path.read_bytes()) for path in other.glob("*.png")} and len(room) == 10
    assert (room.folder / optout.SOURCES).read_text() == ""


def test_what_only_an_old_version_has_is_forgotten_too(room, photos):
    gone = (photos / "003.png").read_bytes()
    room.rollback(1)
    assert len(room) == 0 and bytes_in(room.folder, gone)
    assert room.forget(hash=sha256(gone)[:12]).keys == [sha256(gone)]
    assert not bytes_in(room.folder, gone)


def test_forgetting_waits_for_nobody_and_says_so(room):
    with room.table.writing():
        with pytest.raises(ValueError, match="another process adds to it"):
            room.forget(source="site1.example")
    assert len(room) == 12


@pytest.mark.parametrize("how", [{"hash": "xyz"}, {"hash": "abc"}, {}, {"source": "a", "opted_out": True}])
def test_what_names_nothing_forgets_nothing(room, how):
    with pytest.raises(ValueError):
        room.forget(**how)
    assert len(room) == 12


# ------------------------------------------------------------------------------------------------ search, stats, pages


def test_the_nearest_photograph_is_the_photograph_itself(room, photos):
    found = room.search(like=photos / "005.png", limit=4)
    assert found[0].key == sha256((photos / "005.png").read_bytes()) and found[0].distance == pytest.approx(0, abs=1e-5)
    assert [each.distance for each in found] == sorted(each.distance for each in found) and len(found) == 4
    only = room.search(like=photos / "005.png", where="source = 'site0.example' and width >= 64", limit=50)
    assert len(only) == 6 and {each.source for each in only} == {"site0.example"}


def test_words_are_searched_in_captions_where_no_network_knows_words(room, capsys):
    assert "number 7" in room.search("number 7", limit=1)[0].caption
    assert cli.main(["room", "search", str(room.folder), "number 7", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)[0]["distance"] is None and "text needs a model of text and images" in printed.err


def test_words_find_pictures_by_a_network_that_knows_words(room, photos, monkeypatch):
    """A network whose words are colours: 'red' is near red pictures."""

    class Colours(vectors.vision.FeatureNet):
        name, side = "colours", 8

        def forward(self, pixels):
            return pixels.mean((2, 3)) + 1.01

        def prompts(self, texts):
            import torch

            return torch.tensor([{"red": [1.0, 0, 0], "blue": [0, 0, 1.0]}[text] for text in texts])

    monkeypatch.setattr(vectors.vision, "load_features", lambda name: Colours())
    assert room.embed("org/colours") == 12 and room.embed("org/colours") == 0
    assert room.table.vectors() == {"embedding_small": "small", "embedding_colours": "org/colours"}
    means = {sha256((photos / f"{n:03}.png").read_bytes()): picture(n).mean((0, 1)) for n in range(12)}
    best = max(means, key=lambda key: means[key][0] / np.linalg.norm(means[key]))
    assert room.search("red", limit=1)[0].key == best
    with pytest.raises(ValueError, match="has no embedding by nothing"):
        room.search(like=photos / "001.png", embedding="nothing")


@pytest.mark.parametrize("where", ["nope = 3", "width >", "1; drop table photos", "width + 1", "licence = 3 and"])
def test_a_bad_filter_is_one_line(room, photos, where, capsys):
    for words in (["search", "--like", str(photos / "001.png")], ["stats"], ["export", "--to", "mds", "-o", "out"]):
        command, *rest = words
        assert cli.main(["room", command, str(room.folder), *rest, "--where", where]) == 2
        line = capsys.readouterr().err.strip()
        assert line.startswith("photofound: where: ") and "\n" not in line and ".rs" not in line


def test_stats_count_what_is_there(room, photos, tmp_path, capsys):
    found = room.stats()
    assert found.photographs == 12 and found.tables["source"] == {"site0.example": 6, "site1.example": 6}
    assert found.tables["short side"] == {"below 256": 12} and found.tables["licence"] == {"CC0": 12}
    assert found.tables["has"]["caption"] == 12 and sum(found.tables["colour"].values()) == 12
    assert sum(found.tables["cluster"].values()) == 12 and found.sampled == 12
    page = tmp_path / "page.html"
    assert cli.main(["room", "stats", str(room.folder), "--html", str(page), "--since", "1"]) == 0
    assert "12 photographs" in capsys.readouterr().out
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 12 and "http" not in text.replace("http://www.w3", "")
    assert cli.main(["room", "view", str(room.folder), "--limit", "5", "-o", str(tmp_path / "view.html")]) == 0
    assert (tmp_path / "view.html").read_text().count("<img") == 4  # every third of twelve


def test_drift_says_what_has_changed(room, tmp_path):
    before = room.versions()[-1].number
    assert all(each.divergence == pytest.approx(0, abs=1e-6) for each in room.drift(before))
    room.add(write_folder(tmp_path / "more", range(30, 42), licence="CC BY"))
    drift = {each.title: each for each in room.drift(before)}
    assert drift["licence"].divergence > 0.2 and ("CC BY", 0.0, 0.5) in drift["licence"].changes
    assert drift["format"].divergence == 0


def test_clusters_are_kept_for_photographs_that_come_later(room, tmp_path):
    assert room.cluster(3) == (3, 12)
    before = dict(zip(*(next(room.table.scan(["key", "cluster"]))[c].to_pylist() for c in (0, 1)), strict=True))
    room.add(write_folder(tmp_path / "more", [50, 51]))
    assert room.cluster() == (3, 2)
    after = {
        k: c for b in room.table.scan(["key", "cluster"]) for k, c in zip(*(x.to_pylist() for x in b), strict=True)
    }
    assert len(after) == 14 and all(after[key] == number for key, number in before.items())
    assert room.stats().sampled == 0


def test_an_index_finds_what_reading_all_finds(tmp_path):
    """Vectors of three bunches: the index's neighbours are the exact ones."""
    import pyarrow as pa

    from photofound.room import search

    rng = np.random.default_rng(0)
    table = Table.create(tmp_path / "room")
    table.add_columns([pa.field("embedding_x", pa.list_(pa.float32(), 16), metadata={"network": "x"})])
    rows = vectors.unit(rng.normal(size=(2048, 16)) + 3 * rng.integers(0, 3, (2048, 1)))
    columns = {field.name: pa.nulls(2048, field.type) for field in table.refresh().schema}
    columns |= {"key": pa.array([f"{i:064x}" for i in range(2048)]), "embedding_x": vectors.as_array(rows)}
    import lance

    lance.write_dataset(pa.table(columns, table.dataset.schema), str(table.folder / "photos.lance"), mode="append")
    table.refresh()
    assert search.index(table) == [] and search.index(table, force=True) == ["key", "hash", "embedding_x"]
    assert search.index(table, force=True) == []
    same = 0
    for query in rows[:10]:
        exact, indexed = (search.nearest(table, "embedding_x", query, None, 10, exact) for exact in (True, False))
        same += len({each.key for each in exact} & {each.key for each in indexed})
    assert same >= 95


# --------------------------------------------------------------------------------------- versions, columns, the source


def test_rollback_returns_to_a_version_and_adding_goes_on_from_there(room, photos, tmp_path):
    before, had = room.versions()[-1].number, keys(room)
    more = write_folder(tmp_path / "more", [20, 21])
    room.add(more)
    assert len(room) == 14
    now = room.rollback(before)
    assert now > before and keys(room) == had
    assert len(Room(room.folder, before)) == 12
    assert room.add(more).added == 2 and room.add(photos).parts_before == 1
    with pytest.raises(ValueError, match="has no version 99"):
        room.rollback(99)


def test_a_computed_column_is_filled_once_and_for_new_photographs_later(room, tmp_path):
    import pyarrow as pa

    seen = []

    def brightness(batch):
        seen.append(len(batch))
        return {"score_bright": pa.array([float(w) for w in batch["width"].to_pylist()], pa.float32())}

    field = pa.field("score_bright", pa.float32(), metadata={"version": "1"})
    table = room.table
    assert table.fill([field], brightness, ["width"], where="source = 'site0.example'") == 6
    assert table.fill([field], brightness, ["width"], batch=4) == 6 and table.fill([field], brightness, ["width"]) == 0
    room.add(write_folder(tmp_path / "more", [20]))
    assert room.table.fill([field], brightness, ["width"]) == 1 and seen == [6, 4, 2, 1]
    assert room.table.count("score_bright = 64") == 13
    assert room.table.dataset.schema.field("score_bright").metadata == {b"version": b"1"}
    assert room.stats().scores["score_bright"] == [64.0] * 5
    with pytest.raises(ValueError, match="its column score_bright is a float"):
        room.table.fill([pa.field("score_bright", pa.string())], brightness, ["width"])


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "folder"])
def test_an_export_is_a_source_again(room, tmp_path, kind, shards):
    room.add(shards)
    room.table.refresh()
    out = tmp_path / "out"
    assert room.export(out, kind, "source != 's0'") == 20
    samples = [raw(row, Source(str(out))) for row in open_source(Source(str(out)))]
    assert {sha256(sample.image) for sample in samples} == keys(room, "source != 's0'")
    assert sum(sample.mask is not None for sample in samples) == room.table.count("mask IS NOT NULL and source != 's0'")
    told = {row["key"]: row for b in room.table.scan(["key", "caption", "licence", "source"]) for row in b.to_pylist()}
    for sample in samples:
        row = told[sha256(sample.image)]
        assert sample.captions == [(row["caption"], 1.0)] and sample.row["source"] == row["source"]
    report = json.loads((out / "report.json").read_text())
    assert report["kept"] == 20 and {each["source"] for each in report["origins"]} >= {"site0.example", "s1"}
    with pytest.raises(ValueError, match="is not empty"):
        room.export(out, kind)


def test_mds_shards_have_the_layout_that_streaming_reads(room, tmp_path, monkeypatch):
    from photofound.data import mds

    monkeypatch.setattr(mds, "SIZE", 2500)
    room.export(tmp_path / "mds", "mds")
    index = json.loads((tmp_path / "mds" / "index.json").read_text())
    found = {}
    assert index["version"] == 2 and len(index["shards"]) > 1
    for shard in index["shards"]:
        content = (tmp_path / "mds" / shard["raw_data"]["basename"]).read_bytes()
        assert len(content) == shard["raw_data"]["bytes"] and shard["format"] == "mds"
        (count,) = np.frombuffer(content[:4], "<u4")
        offsets = np.frombuffer(content[4 : 4 + 4 * (count + 1)], "<u4")
        assert count == shard["samples"] and offsets[-1] == len(content)
        for start, end in zip(offsets[:-1], offsets[1:], strict=True):
            sample, sizes = content[start:end], list(shard["column_sizes"])
            free = [i for i, size in enumerate(sizes) if size is None]
            for i, size in zip(free, np.frombuffer(sample[: 4 * len(free)], "<u4"), strict=True):
                sizes[i] = int(size)
            ends = np.cumsum([4 * len(free), *sizes])
            row = {n: sample[a:b] for n, a, b in zip(shard["column_names"], ends[:-1], ends[1:], strict=True)}
            found[row["key"].decode()] = row
    assert found.keys() == keys(room)
    for key, row in found.items():
        assert sha256(row["image"]) == key and int(np.frombuffer(row["width"], "<i8")[0]) == 64 and row["text"]


def test_a_query_is_a_source(room):
    source = Source(room=str(room.folder), where="source = 'site1.example'")
    rows = list(open_source(source))
    assert len(open_parts(source, part=2)) == 3 and len(rows) == 6
    sample = raw(rows[0], source)
    assert sample.captions[0][0].startswith("a ball, number") and sample.row["licence"] == "CC0"
    with pytest.raises(ValueError, match="has no photograph where"):
        open_source(Source(room=str(room.folder), where="width > 9000"))
    with pytest.raises(ValueError, match="it is no room"):
        open_source(Source(str(room.folder.parent), where="width > 9000"))
    with pytest.raises(ValueError, match="give one of them"):
        Source("a", room="b")


def test_clusters_are_drawn_by_their_weights(room):
    room.cluster(3)
    sizes = {int(name): count for name, count in room.stats().tables["cluster"].items()}
    plain = sources.by_cluster(Source(room=str(room.folder), clusters={0: 2.0, 1: 0.0}, weight=3.0))
    total = 2 * sizes[0] + sizes[2]
    assert {each.where: each.weight for each in plain} == {
        "cluster = 0": pytest.approx(3 * 2 * sizes[0] / total),
        "cluster = 2": pytest.approx(3 * sizes[2] / total),
    }
    even = sources.by_cluster(Source(room=str(room.folder), balance=1.0, where="width > 1"))
    assert [each.weight for each in even] == pytest.approx([1 / 3] * 3) and "(width > 1) AND" in even[0].where
    assert sources.by_cluster(Source(room=str(room.folder))) == [Source(room=str(room.folder))]


def test_a_stream_of_a_room_goes_on_at_its_version(room, tmp_path):
    from photofound.data.stream import Stream

    def stream():
        return Stream([Source(room=str(room.folder))], 4, [(64, 48)], workers=0, shuffle=8)

    first = stream()
    batches = iter(first)
    next(batches)
    state = json.loads(json.dumps(first.state_dict()))
    wanted = [next(batches).prompt for _ in range(4)]
    room.add(write_folder(tmp_path / "more", range(30, 40)))
    again = stream()
    again.load_state_dict(state)
    assert [prompts for prompts, _ in zip((batch.prompt for batch in again), range(4), strict=False)] == wanted


def test_the_columns_are_documented(room):
    assert schema().names == [column.name for column in COLUMNS]
    page = (Path(__file__).parent.parent / "docs" / "room.md").read_text()
    assert not [column.name for column in COLUMNS if f"`{column.name}`" not in page]


def test_what_is_no_room_is_one_line(tmp_path, photos, capsys):
    for words in (["stats", str(tmp_path / "none")], ["add", str(photos), str(photos)], ["search", str(tmp_path), "x"]):
        assert cli.main(["room", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1


# -------------------------------------------------------------------------------------------------------- the whole way


@pytest.mark.slow
def test_from_a_folder_of_photographs_to_a_model_in_ten_commands(tmp_path, tiny_folder, capsys):
    """The lines of docs/room.md, at small size; `forget` names the run, and the card its licences."""
    page = (Path(__file__).parent.parent / "docs" / "room.md").read_text()
    block = page.partition("## From a folder of photographs to a model")[2].split("```")[1]
    lines = [shlex.split(line)[1:] for line in block.strip().splitlines()]
    assert len(lines) == 10
    photos = write_folder(tmp_path / "photos", range(12))
    for file in photos.glob("*.png"):
        Image.open(file).resize((96, 72)).save(file)
    Image.fromarray(np.pad(np.full((20, 30), 255, np.uint8), 26)).resize((96, 72)).save(tmp_path / "mask.png")
    places = {"ROOM": "room", "RUN": "run", "PHOTOS": "photos", "PHOTO": "photos/003.png", "MASK": "mask.png"}
    places |= {"OUT": "out.png", "stats.html": "stats.html", "view.html": "view.html"}
    small = [f"--model.start={tiny_folder}", "--model.lora={rank: 4, alpha: 8}", "--mix.tasks={inpaint: 1.0}"]
    small += ["--data.crop=64", "--data.late_crop=64", "--data.multiple=16", "--data.sizes=[72]", "--data.workers=0"]
    small += ["--train.steps=2", "--train.batch_size=4", "--train.precision=fp32", "--validation.size=2"]
    said = []
    for line in lines:
        names = "|".join(map(re.escape, places))
        words = [re.sub(rf"\b({names})\b", lambda m: str(tmp_path / places[m[1]]), word) for word in line]
        words = [word.replace("SOURCE", "site1.example") for word in words]
        assert cli.main([*words, *(small if words[0] == "train" else [])]) == 0, (line, capsys.readouterr().err)
        said.append(capsys.readouterr().out)
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "site0.example" in card and "CC0" in card
    (training,) = json.loads((tmp_path / "run" / "record.json").read_text())["trainings"][-1:]
    assert training["rooms"][0]["photographs"] == 12 and training["rooms"][0]["room"] == "room"
    assert f"seen by training {training['id']}" in said[8] and "6 of them" in said[8]
    assert (tmp_path / "out.png").is_file()


def test_forget_names_exports_and_counts_what_each_has_read(room, photos, tmp_path):
    room.export(tmp_path / "all", "folder")
    room.export(tmp_path / "half", "mds", "source = 'site0.example'")
    gone = room.forget(hash=photos / "003.png")
    assert [(reader.name, number) for reader, number in gone.readers] == [(str(tmp_path / "all"), 1)]
    again = room.forget(source="site0.example")  # the versions that were exported are gone by now
    assert [(Path(reader.name).name, number) for reader, number in again.readers] == [("half", 6), ("all", 6)]
