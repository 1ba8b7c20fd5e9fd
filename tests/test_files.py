"""Files on this machine and behind URLs: what is read, how much of it, and where nothing is written."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from photofound import errors, files


def test_what_is_local_has_a_path():
    assert files.local("a/b") == Path("a/b") and files.local(Path("a")) == Path("a")
    assert files.local("file:///a/b%20c") == Path("/a/b c")
    assert files.local("s3://bucket/a") is None and files.local("memory://a") is None


def test_nothing_is_written_to_a_url():
    assert files.output_path("file:///a/b", "--run-dir") == Path("/a/b")
    with pytest.raises(ValueError, match="--run-dir: s3://bucket/a is a URL.*name a folder"):
        files.output_path("s3://bucket/a", "--run-dir")


def test_reading_is_bounded(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert files.read(tmp_path / "x") == files.read(f"file://{tmp_path}/x", 5) == b"12345"
    with pytest.raises(ValueError, match="more than 4 bytes"):
        files.read(tmp_path / "x", 4)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(ValueError, match="no plain file"):
            files.read(path)
    with pytest.raises(OSError):
        files.read(tmp_path / "gone")


def test_what_lies_beside_shards(tmp_path):
    store = fsspec.filesystem("memory")
    store.pipe("/beside/index.json", b"{}")
    (tmp_path / "index.json").write_bytes(b"{}")
    for folder in (str(tmp_path), f"file://{tmp_path}", "memory://beside"):
        for path in (folder, f"{folder}/", f"{folder}/*.tar", f"{folder}/0.tar"):
            assert files.read_beside(path, "index.json") == b"{}" and files.read_beside(path, "other.json") is None
    store.rm("/beside", recursive=True)


def test_a_client_that_is_not_installed_is_an_oserror():
    with pytest.raises(OSError, match="s3://bucket/a: .*s3fs"):
        files.open_file("s3://bucket/a")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a"
    files.write(path, "one")
    files.write(path, b"two")
    assert path.read_text() == "two" and list(tmp_path.iterdir()) == [path]
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder: cannot be written"):
        files.write(tmp_path / "folder", "a file in place of a folder")
    (tmp_path / "folder").rmdir()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=f"{path}: cannot be written .No space left"):
        files.write(path, "three")
    assert path.read_text() == "two" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_library_writes_takes_its_place_whole_or_not_at_all(tmp_path, kind):
    path = tmp_path / "a"

    def put(part, text):
        (part if kind == "file" else part / "b").write_text(text)

    for text in ("one", "two"):
        with files.replacing(path) as part:
            if kind == "folder":
                part.mkdir()
            put(part, text)
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as part:
        if kind == "folder":
            part.mkdir()
        put(part, "three")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [path]
    assert (path if kind == "file" else path / "b").read_text() == "two"


def full(*_):
    raise OSError(28, "No space left on device")


def test_json_is_bounded_and_of_one_kind(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert files.read_json(path) == {"a": 1}
    for text, reason in (
        ("[]", "must hold a JSON object"),
        ("{", "is no JSON"),
        ("[" * 10**5, "is no JSON"),
        ("", "is no JSON"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"a.json {reason}"):
            files.read_json(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="a.json is no JSON"):
        files.read_json(path)
    path.write_text("[1]")
    assert files.read_json(path, list) == [1]
    with pytest.raises(ValueError, match="more than 2 bytes"):
        files.read_json(path, list, limit=2)
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / "gone")


def test_an_error_is_one_line():
    assert errors.first_line(ValueError("\n a\nb")) == "a" and errors.first_line(KeyError()) == "KeyError"
    assert len(errors.first_line(ValueError("a" * 999))) == 300
    assert errors.one_line(ValueError("a\n  b")) == "a b" and errors.one_line(ValueError()) == "ValueError"
    assert errors.one_line(FileNotFoundError(2, "No such file", "x")) == "x: No such file"
