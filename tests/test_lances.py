"""Any Lance table with pictures, and rooms that lie behind a URL, are sources."""

from __future__ import annotations

import itertools
import json

import lance
import numpy as np
import pyarrow as pa
import pytest
from helpers import encoded, noise
from test_stream import same

from photofound.data.sources import Source, open_parts, open_source, pinned, raw
from photofound.data.stream import Stream

PICTURE = encoded(noise(16, 16))


def write(path, count=10, **more):
    vectors = pa.array([np.zeros(4, np.float32)] * count, pa.list_(pa.float32(), 4))
    columns = {"image": [PICTURE] * count, "caption": list(map(str, range(count))), "id": list(range(count))}
    table = pa.table(columns | {"vector": vectors} | more)
    lance.write_dataset(table, str(path), max_rows_per_file=4)
    return path


def test_a_table_is_a_source_with_filters_and_versions(tmp_path):
    path = write(tmp_path / "photos.lance")
    source = Source(str(path), where="id >= 3")
    found = list(open_source(source))
    assert [raw(row, source).captions[0][0] for row in found] == [str(i) for i in range(3, 10)]
    assert raw(found[0], source).image == PICTURE and "vector" not in found[0]
    assert len(open_parts(source, 2)) == 4
    for part in open_parts(source, 4):
        assert [row["id"] for row in part.rows(1, 2)] == [row["id"] for row in part.rows()][1::2]
    now = pinned(source)
    lance.dataset(str(path)).delete("id > 4")
    assert len(list(open_source(now))) == 7 and len(list(open_source(source))) == 2
    with pytest.raises(ValueError, match="where: 'nothing > 1' is no filter"):
        open_source(Source(str(path), where="nothing > 1"))
    with pytest.raises(ValueError, match="has no row where id > 90"):
        open_source(Source(str(path), where="id > 90"))
    with pytest.raises(ValueError, match="choose them with where"):
        Stream([Source(str(path), balance=1.0)], 2, [(16, 16)], workers=0).__iter__().__next__()


def test_pictures_may_be_blobs(tmp_path):
    field = pa.field("photo", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    table = pa.table([pa.array([PICTURE] * 3, pa.large_binary())], schema=pa.schema([field]))
    lance.write_dataset(table, str(tmp_path / "x.lance"), data_storage_version="2.1")
    source = Source(str(tmp_path / "x.lance"))
    assert [raw(row, source).image for row in open_source(source)] == [PICTURE] * 3


def test_a_stream_of_a_table_resumes(tmp_path):
    path = write(tmp_path / "photos.lance", 20)

    def stream():
        return Stream([Source(str(path))], 4, [(16, 16)], workers=0, shuffle=8, interleave=3)

    whole, states, batches = stream(), [], []
    for sample in itertools.islice(iter(whole), 8):
        batches.append(sample)
        states.append(json.dumps(whole.state_dict()))
    lance.dataset(str(path)).delete("id > 4")  # the run goes on with its version
    resumed = stream()
    resumed.load_state_dict(json.loads(states[3]))
    assert same(list(itertools.islice(iter(resumed), 4)), batches[4:])


def test_a_room_on_object_storage_is_read(monkeypatch):
    """By Lance's own client; here it is its storage in memory."""
    rows = {"image": [PICTURE], "caption": ["a cup"], "meta": ['{"text": "a red cup", "licence": "CC0"}']}
    written = lance.write_dataset(pa.table(rows), "memory://shop/room/photos.lance")
    monkeypatch.setattr("photofound.data.lances.lance", lambda: type("L", (), {"dataset": lambda *_, **__: written}))
    source = Source(room="memory://shop/room")
    sample = raw(next(open_source(source)), source)
    assert sample.image == PICTURE and sample.captions == [("a red cup", 1.0)] and sample.row["licence"] == "CC0"
    assert pinned(source).version == 1 and all(part.url is None for part in open_parts(source))
