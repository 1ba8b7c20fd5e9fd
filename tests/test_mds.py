"""Shards of mosaicml-streaming: every safe encoding, compressed or not, and what is refused."""

from __future__ import annotations

import json
import logging

import numpy as np
import pyarrow as pa
import pytest
from helpers import encoded, noise
from PIL import Image

from photofound.data import mds
from photofound.data.sources import Source, open_parts, open_source, raw
from photofound.data.stream import Stream

PICTURE = encoded(noise(16, 16))


def pil(mode="RGB"):
    picture = Image.fromarray(noise(3, 4)).convert(mode)
    return np.array([4, 3, len(mode)], "<u4").tobytes() + mode.encode() + picture.tobytes()


def shard(folder, columns, rows, compression=None, number=0):
    """A shard and its entry of an index, by the published layout: name -> (encoding, size or None), rows of bytes."""
    folder.mkdir(exist_ok=True)
    names = sorted(columns)
    kinds, sizes = [columns[n][0] for n in names], [columns[n][1] for n in names]
    config = {"version": 2, "format": "mds", "compression": compression, "hashes": [], "size_limit": 1 << 26}
    config |= {"column_names": names, "column_encodings": kinds, "column_sizes": sizes}
    head = json.dumps(config).encode()
    samples = []
    for row in rows:
        free = np.array([len(row[n]) for n, size in zip(names, sizes, strict=True) if size is None], "<u4")
        samples.append(free.tobytes() + b"".join(row[n] for n in names))
    start = 4 + 4 * (len(rows) + 1) + len(head)
    offsets = start + np.cumsum([0, *map(len, samples)])
    content = np.uint32(len(rows)).tobytes() + offsets.astype("<u4").tobytes() + head + b"".join(samples)
    name, zipped = f"shard.{number:05d}.mds", None
    if compression:
        out = pa.BufferOutputStream()
        kind = {"zstd": "zstd", "gz": "gzip", "br": "brotli", "bz2": "bz2"}[compression.partition(":")[0]]
        with pa.CompressedOutputStream(out, kind) as stream:
            stream.write(content)
        packed = out.getvalue().to_pybytes()
        zipped = {"basename": f"{name}.{compression[:2]}", "bytes": len(packed), "hashes": {}}
        (folder / zipped["basename"]).write_bytes(packed)
    else:
        (folder / name).write_bytes(content)
    made = {"basename": name, "bytes": len(content), "hashes": {}}
    return config | {"samples": len(rows), "raw_data": made, "zip_data": zipped}


def write(folder, columns, rows, compression=None, each=2):
    found = [shard(folder, columns, rows[i : i + each], compression, i) for i in range(0, len(rows), each)]
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": found}), encoding="utf-8")
    return folder


PLAIN = {"image": ("jpeg", None), "caption": ("str", None), "width": ("int", 8)}


def plain(count):
    width = np.int64(7).tobytes()
    return [{"image": PICTURE, "caption": str(i).encode(), "width": width} for i in range(count)]


@pytest.mark.parametrize("compression", [None, "zstd", "zstd:7", "gz", "br", "bz2"])
def test_shards_are_read_compressed_or_not(tmp_path, compression):
    source = Source(str(write(tmp_path / "x", PLAIN, plain(5), compression)))
    samples = [raw(row, source) for row in open_source(source)]
    assert [sample.captions for sample in samples] == [[(str(i), 1.0)] for i in range(5)]
    assert all(sample.image == PICTURE and sample.row["width"] == 7 for sample in samples)
    parts = open_parts(source)
    assert len(parts) == 3 and len({part.identity for part in parts}) == 3
    assert [row["caption"] for row in parts[1].rows(1)] == ["3"]
    (batch,) = (sample for sample, _ in zip(Stream([source], 5, [(16, 16)], workers=0, shuffle=5), "1", strict=False))
    assert sorted(batch.prompt) == list("01234")


def test_every_safe_encoding_is_read_and_pickles_never(tmp_path, caplog):
    columns = {"image": ("pil", None), "text": ("str", None), "meta": ("json", None), "score": ("float32", 4)}
    columns |= {
        "likes": ("uint16", 2),
        "price": ("str_decimal", None),
        "more": ("pkl", None),
        "array": ("ndarray", None),
    }
    row = {"image": pil(), "text": b"a cup", "meta": b'{"a": [1]}', "score": np.float32(0.5).tobytes()}
    row |= {"likes": np.uint16(65535).tobytes(), "price": b"1.50", "more": b"cos\nsystem\n.", "array": b"x"}
    with caplog.at_level(logging.WARNING):
        (found,) = open_source(Source(str(write(tmp_path / "x", columns, [row]))))
    assert found["image"].startswith(b"\x89PNG") and found["text"] == "a cup" and found["meta"] == {"a": [1]}
    assert (found["score"], found["likes"], found["price"]) == (0.5, 65535, "1.50")
    assert not {"more", "array"} & found.keys() and "array (ndarray), more (pkl)" in caplog.text


def test_what_a_room_exports_is_read_back(tmp_path):
    writer = mds.Writer(tmp_path, {"image": "bytes", "text": "str", "width": "int"})
    writer.write({"image": PICTURE, "text": "a cup", "width": 16})
    writer.close()
    (row,) = open_source(source := Source(str(tmp_path)))
    assert raw(row, source).image == PICTURE and row["width"] == 16


@pytest.mark.parametrize(
    "change, says",
    [
        ({"raw_data": {"basename": "../x.mds", "bytes": 9}}, "which is not below"),
        ({"zip_data": {"basename": "x"}, "compression": "lzma"}, "compressed by 'lzma'; use one of zstd"),
        ({"format": "json"}, "of format 'json'"),
        ({"samples": None}, "is not described as MDS has it"),
    ],
)
def test_an_index_that_cannot_be_read_is_one_line(tmp_path, change, says):
    folder = write(tmp_path / "x", PLAIN, plain(2))
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0] |= change
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=says) as error:
        open_source(Source(str(folder)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [2, 30, 300, -1])
def test_a_shard_that_was_cut_off_is_one_damaged_row(tmp_path, cut):
    folder = write(tmp_path / "x", PLAIN, plain(2))
    path = folder / "shard.00000.mds"
    path.write_bytes(path.read_bytes()[:cut])
    source = Source(str(folder))
    (row,) = open_source(source)
    with pytest.raises(ValueError, match="cannot be read from sample 0 on"):
        raw(row, source)


def test_a_damaged_sample_is_left_out_alone(tmp_path):
    columns = {"image": ("jpeg", None), "meta": ("json", None)}
    rows = [{"image": PICTURE, "meta": meta} for meta in (b"{}", b"{", b"{}")]
    source, found = Source(str(write(tmp_path / "x", columns, rows, each=3))), []
    for row in open_source(source):
        try:
            found.append(raw(row, source).image)
        except ValueError as error:
            found.append(str(error))
    assert found[::2] == [PICTURE, PICTURE] and "its column meta cannot be read" in found[1]
