"""Files on this machine and behind URLs: what is read, how much of it, and where nothing is written."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from photofound import files


def test_what_is_local_has_a_path():
    assert files.local("a/b") == Path("a/b") and files.local(Path("a")) == Path("a")
    assert files.local("file:///a/b%20c") == Path("/a/b c")
    assert files.local("s3://bucket/a") is None and files.local("memory://a") is None


def test_nothing_is_written_to_a_url():
    assert files.output("file:///a/b", "--run-dir") == Path("/a/b")
    with pytest.raises(ValueError, match="--run-dir: s3://bucket/a is a URL.*name a folder"):
        files.output("s3://bucket/a", "--run-dir")


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
            assert files.beside(path, "index.json") == b"{}" and files.beside(path, "other.json") is None
    store.rm("/beside", recursive=True)


def test_a_client_that_is_not_installed_is_an_oserror():
    with pytest.raises(OSError, match="s3://bucket/a: .*s3fs"):
        files.open_file("s3://bucket/a")
