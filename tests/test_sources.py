"""What the rows of a source hold, and what is said of those that cannot be read."""

from __future__ import annotations

import io
import json
import os
import tarfile

import pytest

from photofound.data.sources import Source, open_source, raw
from photofound.image import READABLE_SUFFIXES


@pytest.mark.parametrize(
    "path, says",
    [
        ("nobody/nothing-here", "give a folder, .tar or .parquet files"),
        ("{}/empty", "holds no .tar, .parquet or image"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, path, says):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=says) as error:
        open_source(Source(path.format(tmp_path)))
    assert "\n" not in str(error.value) and str(error.value).startswith("data: ")


@pytest.mark.parametrize("line", ["{", '{"text": "no name"}', "[1]", '{"a":' * 3000 + "1" + "}" * 3000])
def test_a_broken_metadata_line_is_one_damaged_row(tmp_path, line):
    (tmp_path / "0.png").write_bytes(b"a picture")
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "0.png"}}\n\n{line}\n')
    good, bad = open_source(source := Source(str(tmp_path)))
    assert raw(good, source).image == b"a picture" and bad["name"].endswith("metadata.jsonl, line 3")
    with pytest.raises(ValueError, match="is no JSON object with a file_name"):
        raw(bad, source)


def test_parquet_that_is_none_is_named(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="x.parquet' cannot be read|gives no photograph"):
        next(iter(open_source(Source(str(tmp_path / "x.parquet")))))


def row_of(**columns):
    return {"name": "here", "image": b"a picture", **columns}


def test_captions_that_say_nothing_are_none():
    def captions(row, **named):
        return raw(row | {"jpg": b"x", "__key__": "k"}, Source("x", captions=named)).captions

    assert captions({"text": " \n", "caption": ["", "a cup "]}) == [("a cup", 1)]
    assert captions({"text": ""}) == [] == captions({"text": " ", "other": None}, text=1.0, other=2.0)
    assert captions({"text": ["a", " ", "b"]}, text=4.0) == [("a", 2), ("b", 2)]


def test_captions_have_weights():
    row = row_of(json=json.dumps({"text": "usual", "more": {"long": ["one", "two"]}}), caption="other", empty=None)
    assert raw(row, Source("x")).captions == [("usual", 1.0)]
    weighted = Source("x", captions={"caption": 3, "more.long": 1, "empty": 5, "absent": 1})
    assert raw(row, weighted).captions == [("other", 3.0), ("one", 0.5), ("two", 0.5)]
    assert raw(row_of(), Source("x")).captions == []


def test_named_columns_go_before_usual_ones():
    row = row_of(picture=b"another", outline=b"an outline", mask=b"a mask")
    found = raw(row, Source("x", image="picture", mask="outline"))
    assert found.image == row["picture"] and found.mask == row["outline"]
    with pytest.raises(ValueError, match=r"here: has no image column \(photograph\), only name, image"):
        raw(row_of(), Source("x", image="photograph"))
    with pytest.raises(ValueError, match="no picture; the column must hold files"):
        raw({"image": 5}, Source("x"))


@pytest.mark.parametrize(
    "settings, says", [({"weight": 0}, "weight of 'x' is 0"), ({"captions": {"a": -1}}, "above 0")]
)
def test_weights_are_positive(settings, says):
    with pytest.raises(ValueError, match=says):
        Source("x", **settings)


# ------------------------------------------------------------------------------------------- text is never opened


@pytest.fixture
def secret(tmp_path):
    """A file of this machine's, beside the folder of a stranger's photographs; what reaches for it is told."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    return tmp_path / "secret.png"


def texts(secret):
    """What a stranger might write where a file is expected."""
    return [str(secret), f"file://{secret}", "../secret.png", "http://127.0.0.1:1/x", "s3://bucket/x", "/dev/zero",
            "reference://k::http://127.0.0.1:1/x", f"zip://x::{secret}", "C:\\x.png", "memory://x"]  # fmt: skip


@pytest.fixture
def nothing_opened(monkeypatch):
    """Fails when anything is opened through fsspec."""
    import fsspec

    def refuse(*_, **__):
        raise AssertionError("it was opened")

    for name in ("open", "filesystem"):
        monkeypatch.setattr(fsspec, name, refuse)
    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    monkeypatch.setattr("photofound.files.read", refuse)


def test_text_in_a_row_is_never_opened(secret, nothing_opened):
    source = Source("shards")
    for value in texts(secret):
        for file in (value, {"bytes": None, "path": value}):
            with pytest.raises(ValueError, match="no image column|text is never opened"):
                raw({"name": "x", "image": file}, source)
            for column in ("mask", "foreground"):
                with pytest.raises(ValueError, match=f"its {column} is the text .* text is never opened"):
                    raw({"name": "x", "image": b"a picture", column: file}, source)
        words = json.dumps({"text": "a cup", "image": value, "mask": value, "foreground": {"path": value}})
        found = raw({"name": "x", "png": b"a picture", "json": words.encode()}, source)
        assert (found.image, found.mask, found.foreground) == (b"a picture", None, None)
    with pytest.raises(ValueError, match="its image is the text"):
        raw({"image": {"bytes": None, "path": str(secret)}}, Source(str(secret.parent)))


def test_files_are_bytes(tmp_path):
    for value in (b"here", {"bytes": b"here", "path": "b.png"}):
        assert raw({"image": value}, Source("x")).image == b"here"
    assert raw({"image": {"bytes": b"here", "path": "b.png"}}, Source("x")).name == "b.png"
    words = {"image": "0001.png", "jpg": b"here"}  # text is passed over where a file has another usual name
    assert raw(words, Source("x")).image == b"here"


@pytest.mark.parametrize(
    "url, opened",
    [
        ("hf://datasets/org/a@0123/train/1.png", True),
        ("zip://1.png::hf://datasets/org/a@main/train.zip", True),
        ("hf://datasets/org/other@0123/1.png", False),
        ("hf://datasets/org/a@0123/../other/1.png", False),
        ("http://127.0.0.1/x::hf://datasets/org/a@0123/1.png", False),
        ("zip://1.png::http://127.0.0.1/x.zip", False),
        ("hf://datasets/org/a@0123/1.png::file:///etc/passwd", False),
    ],
)
def test_of_the_hub_only_files_of_the_dataset_itself_are_opened(monkeypatch, url, opened):
    monkeypatch.setattr("photofound.files.read", lambda path: f"read {path}".encode())
    row = {"image": {"bytes": None, "path": url}}
    if opened:
        assert raw(row, Source("org/a")).image == f"read {url}".encode()
    else:
        with pytest.raises(ValueError, match="text is never opened"):
            raw(row, Source("org/a"))


def test_a_table_names_files_below_its_folder_only(secret, tmp_path):
    photos = tmp_path / "photos"
    (photos / "0.png").write_bytes(b"a picture")
    (photos / "link.png").symlink_to(secret)
    os.mkfifo(photos / "pipe.png")
    names = [*texts(secret), "link.png", "pipe.png", "gone.png", "a\0b.png", ".", 5, ["0.png"]]
    rows = [{"file_name": name} for name in names] + [{"file_name": "0.png", "mask_file_name": n} for n in names]
    (photos / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"file_name": "0.png"}')
    source = Source(str(photos))
    *bad, good = open_source(source)
    assert len(bad) == len(rows) and raw(good, source).image == b"a picture"
    for row in bad:
        with pytest.raises(ValueError):
            raw(row, source)


def test_a_snapshot_in_the_cache_of_the_hub_is_read_through_its_links(tmp_path):
    blobs, snapshot = tmp_path / "datasets--org--a" / "blobs", tmp_path / "datasets--org--a" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "77").write_bytes(b"a picture")
    (snapshot / "0.png").symlink_to("../../blobs/77")
    (snapshot / "metadata.jsonl").write_text('{"file_name": "0.png"}')
    (row,) = open_source(source := Source(str(snapshot)))
    assert raw(row, source).image == b"a picture"


def test_rows_below_folders_are_found_with_their_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(b"a picture")
        (tmp_path / name / "m.png").write_bytes(b"a mask")
        row = {"file_name": "0.png", "cut_file_name": "m.png", "none_file_name": None, "text": name}
        (tmp_path / name / "metadata.jsonl").write_text(json.dumps(row))
    rows = list(open_source(Source(str(tmp_path))))
    assert [row["text"] for row in rows] == ["a", "b"]
    assert rows[1]["name"] == str(tmp_path / "b" / "0.png")
    assert (rows[1]["image"], rows[1]["cut"]) == (b"a picture", b"a mask")


def test_a_json_that_is_no_object_is_damage():
    for content in ("[1]", "{"):
        with pytest.raises(ValueError, match="no object|Expecting"):
            raw({"name": "x", "image": b"", "json": content}, Source("x"))


def test_a_row_of_parquet_that_is_too_large_is_damage_of_its_own(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [b"one", bytes(5000), b"two"]}), tmp_path / "0.parquet")
    monkeypatch.setattr("photofound.files.MAX_BYTES", 4000)
    source = Source(str(tmp_path))
    one, large, two = open_source(source)
    assert (raw(one, source).image, raw(two, source).image) == (b"one", b"two")
    with pytest.raises(ValueError, match="has more than 4,000 bytes"):
        raw(large, source)


def test_a_damaged_file_among_others_is_one_damaged_row(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in ("0", "1"):
        pq.write_table(pa.table({"image": [name.encode()]}), tmp_path / f"{name}.parquet")
    (tmp_path / "2.parquet").write_bytes((tmp_path / "1.parquet").read_bytes()[:-20])
    source = Source(str(tmp_path))
    zero, one, bad = open_source(source)
    assert (raw(zero, source).image, raw(one, source).image) == (b"0", b"1")
    with pytest.raises(ValueError, match="cannot be read"):
        raw(bad, source)


def test_a_dataset_of_the_hub_is_streamed_undecoded(monkeypatch):
    import datasets

    asked = []

    def load(*args, **settings):
        asked.append((args, settings))
        return datasets.IterableDataset.from_generator(lambda: iter([{"image": b"a picture", "caption": "a cup"}]))

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = Source("org/products", subset="shoes", split="validation")
    (row,) = open_source(source)
    assert asked == [(("org/products", "shoes"), {"split": "validation", "streaming": True})]
    assert raw(row, source).captions == [("a cup", 1.0)]


@pytest.fixture
def bucket():
    """An object store, in memory: what is behind ``memory://``."""
    import fsspec

    store = fsspec.filesystem("memory")
    yield store
    store.rm("/shop", recursive=True)


def test_tars_and_parquet_are_read_behind_a_url(bucket, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, content in (("7.png", b"a picture"), ("7.json", b'{"text": "a cup"}')):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    pq.write_table(pa.table({"image": [b"a picture"], "text": ["a cup"]}), tmp_path / "0.parquet")
    for suffix in ("tar", "parquet"):
        for base, here in (("memory://shop", False), (f"file://{tmp_path}", True)):
            bucket.pipe(f"/shop/{suffix}/0.{suffix}", (tmp_path / f"0.{suffix}").read_bytes())
            folder = base if here else f"{base}/{suffix}"
            for path in (f"{folder}/0.{suffix}", f"{folder}/*.{suffix}", *([] if here else [folder, f"{folder}/"])):
                source = Source(path)
                (row,) = open_source(source)
                assert (raw(row, source).image, raw(row, source).captions) == (b"a picture", [("a cup", 1.0)]), path
    for gone in ("memory://shop/nothing", f"file://{tmp_path}/nothing", "unknown://x/y.tar"):
        with pytest.raises(ValueError, match="cannot be read|damaged") as error:
            rows = list(open_source(Source(gone)))
            raw(rows[0], Source(gone))
        assert "\n" not in str(error.value)


def test_captions_and_masks_lie_beside_their_images(tmp_path):
    for name in ("cup.jpg", "cup.mask.png", "mug.webp"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "cup.txt").write_text("a cup\n")
    cup, mug = (raw(row, Source(str(tmp_path))) for row in open_source(Source(str(tmp_path))))
    assert (cup.image, cup.mask, cup.captions) == (b"cup.jpg", b"cup.mask.png", [("a cup", 1.0)])
    assert (mug.image, mug.mask, mug.captions) == (b"mug.webp", None, [])


def test_every_picture_that_is_read_singly_is_read_from_a_folder_and_a_tar(tmp_path, caplog):
    folder, names = tmp_path / "photos", [f"{i}{suffix}" for i, suffix in enumerate(READABLE_SUFFIXES)]
    (folder / ".cache").mkdir(parents=True)
    for name in (*names, "0.mask.tif", "notes.pdf", "alone.mask.png", ".hidden.jpg", ".cache/a.jpg"):
        (folder / name).write_bytes(name.encode())
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in (*names[:1], "0.mask.tif", *names[1:], "notes.pdf"):
            tar.add(folder / name, name)
    for place, said in ((folder, "alone.mask.png, notes.pdf (no picture"), (tmp_path / "0.tar", "(notes.pdf) (no pic")):
        caplog.clear()
        source = Source(str(place))
        found = [raw(row, source) for row in open_source(source)]
        assert sorted(each.image.decode() for each in found) == sorted(names)
        assert [each.mask for each in found if each.mask] == [b"0.mask.tif"]
        assert list(open_source(source)) and [said in line for line in caplog.messages] == [True]  # said once


def test_links_in_a_tar_are_said(tmp_path, caplog):
    (tmp_path / "cup.jpg").write_bytes(b"cup")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.add(tmp_path / "cup.jpg", "0.jpg")
        for name, kind in (("1.jpg", tarfile.SYMTYPE), ("2.jpg", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "0.jpg"
            tar.addfile(link)
    assert len(list(open_source(Source(str(tmp_path / "0.tar"))))) == 1
    assert ["passed over 1.jpg, 2.jpg (2 links, which are not followed)" in line for line in caplog.messages] == [True]


def test_a_table_that_names_a_link_in_a_circle_goes_on(tmp_path):
    (tmp_path / "cup.jpg").write_bytes(b"cup")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    rows = ['{"file_name": "loop.jpg"}', '{"file_name": "cup.jpg"}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    assert len(list(open_source(Source(str(tmp_path))))) == 2


def test_what_lies_beside_tables_and_shards_is_said(tmp_path, caplog):
    for name in ("cup.jpg", "mug.tif"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "./cup.jpg"}\n')
    assert len(list(open_source(Source(str(tmp_path))))) == 1
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.add(tmp_path / "cup.jpg", "0.jpg")
    assert len(list(open_source(Source(str(tmp_path))))) == 1
    first, second = caplog.messages
    assert "passed over mug.tif (not in metadata.jsonl)" in first and "passed over cup.jpg, mug.tif" in second
