"""What the rows of a source hold, and what is said of those that cannot be read."""

from __future__ import annotations

import json

import pytest

from photofound.sources import Source, open_source, raw


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


@pytest.mark.parametrize("line", ["{", '{"text": "no name"}', "[1]"])
def test_a_broken_metadata_line_is_named(tmp_path, line):
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "0.png"}}\n\n{line}\n')
    with pytest.raises(ValueError, match="metadata.jsonl, line 3, is no JSON object with a file_name"):
        open_source(Source(str(tmp_path)))


def test_parquet_that_is_none_is_named(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="x.parquet' cannot be read|gives no photograph"):
        next(iter(open_source(Source(str(tmp_path / "x.parquet")))))


def row_of(**columns):
    return {"name": "here", "image": b"a picture", **columns}


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


def test_files_are_bytes_or_paths(tmp_path):
    (tmp_path / "a.png").write_bytes(b"on disk")
    path = str(tmp_path / "a.png")
    for value in (b"on disk", path, {"bytes": b"on disk", "path": "b.png"}, {"bytes": None, "path": path}):
        assert raw({"image": value}, Source("x")).image == b"on disk"
    assert raw({"image": {"bytes": None, "path": path}}, Source("x")).name == path
    with pytest.raises(OSError, match="gone.png"):
        raw({"image": str(tmp_path / "gone.png")}, Source("x"))


def test_rows_below_folders_are_found_with_their_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        row = {"file_name": "0.png", "cut_file_name": "m.png", "none_file_name": None, "text": name}
        (tmp_path / name / "metadata.jsonl").write_text(json.dumps(row))
    rows = list(open_source(Source(str(tmp_path))))
    assert [row["text"] for row in rows] == ["a", "b"]
    assert rows[1]["image"] == rows[1]["name"] == str(tmp_path / "b" / "0.png")
    assert rows[1]["cut"] == str(tmp_path / "b" / "m.png")


def test_a_json_that_is_no_object_is_damage():
    for content in ("[1]", "{"):
        with pytest.raises(ValueError, match="no object|Expecting"):
            raw({"name": "x", "image": b"", "json": content}, Source("x"))


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
    for url, kind in (("hf://datasets/org/a/00.tar", "webdataset"), ("https://example.org/a.parquet", "parquet")):
        open_source(Source(url))
        assert asked[-1] == ((kind,), {"data_files": url, "split": "train", "streaming": True})


def test_captions_and_masks_lie_beside_their_images(tmp_path):
    for name in ("cup.jpg", "cup.mask.png", "mug.webp"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "cup.txt").write_text("a cup\n")
    cup, mug = (raw(row, Source(str(tmp_path))) for row in open_source(Source(str(tmp_path))))
    assert (cup.image, cup.mask, cup.captions) == (b"cup.jpg", b"cup.mask.png", [("a cup", 1.0)])
    assert (mug.image, mug.mask, mug.captions) == (b"mug.webp", None, [])
