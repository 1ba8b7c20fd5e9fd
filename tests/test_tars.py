"""WebDataset tars: damage of every kind is named, and what is whole is read."""

from __future__ import annotations

import gzip
import io
import logging
import re
import tarfile
import time

import numpy as np
import pytest
from helpers import encoded, noise, write_tar

from photofound.data import photos
from photofound.data.tars import read_tar


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
    started = time.process_time()
    assert len(list(read_tar(tmp_path / "x.tar"))) == 1 and time.process_time() - started < 5


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


def test_a_lack_of_memory_is_damage_of_one_sample(tmp_path, caplog, monkeypatch):
    def decode(file, *rest):
        if file == b"large":
            raise MemoryError
        return whole(file, *rest)

    whole = photos.photograph
    monkeypatch.setattr(photos, "photograph", decode)
    folder = hundred(tmp_path, odd_png=b"large", odd_json=b'{"text": ""}')
    assert len(photos.read(folder)) == 100 and "odd.png) (MemoryError)" in caplog.text


@pytest.mark.parametrize("cut", [None, 700, 1600, 2048, 2600, 5200])
def test_what_is_passed_over_counts_as_what_is_read(tmp_path, cut):
    """Also where the tar is damaged: a resumed run goes on at the same sample."""
    members = {}
    for i in range(4):
        members |= {f"{i}.png": bytes(600), f"{i}.json": {"text": str(i)}, f"{i}.txt": b"x"}
    members["9.json"] = {"text": "no picture"}
    write_tar(tmp_path / "x.tar", members)
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:cut])
    if cut is None:  # and a broken header
        content = bytearray((tmp_path / "x.tar").read_bytes())
        content[5 * 1024 + 100 : 5 * 1024 + 130] = b"\xff" * 30
        (tmp_path / "x.tar").write_bytes(content)
    whole = list(read_tar(tmp_path / "x.tar"))
    assert whole
    for start in range(len(whole) + 2):
        for step in (1, 2, 3):
            assert list(read_tar(tmp_path / "x.tar", start, step)) == whole[start::step]
