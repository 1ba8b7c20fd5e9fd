"""Files wherever they lie: on this machine, also as ``file://``, or behind a URL that ``fsspec`` knows (``s3://``)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

MAX_BYTES = 512 * 2**20
"""What is read of one file of a sample, and of all its files together, at most."""


def local(path: str | Path) -> Path | None:
    """The path of what lies on this machine; None for a URL of anything else."""
    text = str(path)
    if text.startswith("file://"):
        return Path(url2pathname(urlsplit(text).path))
    return None if "://" in text else Path(text)


def output(path: str | Path, setting: str) -> Path:
    """A path to write to. Raises ValueError for a URL of another machine, which would become a folder called ``s3:``;
    ``setting`` is what it was given as."""
    here = local(path)
    if here is None:
        raise ValueError(f"{setting}: {path} is a URL, and results are written on this machine; name a folder, copy it")
    return here


def open_file(path: str | Path) -> BinaryIO:
    """The file, to be read. Raises OSError when it cannot be opened."""
    here = local(path)
    return here.open("rb") if here is not None else cast(BinaryIO, _url(path)[0].open(_url(path)[1], "rb"))


def read(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """All of a file. Raises OSError, and ValueError for one of more than ``limit`` bytes or that is no plain file."""
    here = local(path)
    if here is not None and here.exists() and not here.is_file():
        raise ValueError(f"{path}: is no plain file")
    with open_file(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path}: has more than {limit:,} bytes")
    return content


def find(folder: str | Path, pattern: str) -> list[str]:
    """The files of a folder that fit a pattern (``*.tar``, ``**/*.parquet``), sorted."""
    here = local(folder)
    if here is not None:
        return sorted(str(path) for path in here.glob(pattern) if path.is_file())
    system, place = _url(folder)
    return sorted(system.unstrip_protocol(name) for name in system.glob(f"{place.rstrip('/')}/{pattern}"))


def beside(path: str | Path, name: str) -> bytes | None:
    """The file of this name in the folder of shards that ``path`` is, or that ``path`` is a file or a pattern in; None
    where there is none."""
    text, here = str(path).rstrip("/"), local(path)
    parent, _, last = text.rpartition("/")
    is_folder = here.is_dir() if here is not None else not ("*" in last or last.endswith((".tar", ".parquet")))
    folder = text if is_folder else parent or "."
    try:
        return read(f"{folder}/{name}")
    except OSError:
        return None


@contextmanager
def on_disk(path: str | Path) -> Iterator[Path]:
    """The file on this machine: itself, or for the block a copy of what is behind a URL."""
    if (here := local(path)) is not None:
        yield here
        return
    with tempfile.NamedTemporaryFile() as copy:
        with open_file(path) as file:
            shutil.copyfileobj(file, copy)
        copy.flush()
        yield Path(copy.name)


def _url(path: str | Path) -> tuple[Any, str]:
    """The file system of a URL, and the place in it. Raises OSError where its client is not installed."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(str(path))
    except ImportError as error:
        raise OSError(f"{path}: {error}") from None
