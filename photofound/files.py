"""Files: reading them wherever they lie, also as ``file://`` or behind a URL that ``fsspec`` knows (``s3://``), writing
them whole or not at all, and JSON with bounds."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from photofound.errors import first_line

MAX_BYTES = 512 * 2**20
"""What is read of one file of a sample, and of all its files together, at most."""
MAX_JSON_BYTES = 16 * 2**20
"""What is read of one JSON file, at most. Most have some kilobytes, the index of a large model a megabyte."""
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Files of weights that can run code when they are opened. They are never opened."""


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


def read_json(path: str | Path, kind: type = dict, limit: int = MAX_JSON_BYTES) -> Any:
    """The ``dict`` or ``list`` (``kind``) in a JSON file. Raises as ``read`` and ``parse_json`` do, naming the path."""
    return parse_json(read(path, limit), str(path), kind)


def parse_json(content: bytes | str, name: str, kind: type = dict) -> Any:
    """The ``dict`` or ``list`` (``kind``) in JSON text. Raises ValueError, which begins with ``name``, for any other
    content."""
    try:
        tree = json.loads(content if isinstance(content, str) else content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is no JSON ({first_line(error)})") from None
    if not isinstance(tree, kind):
        raise ValueError(f"{name} must hold a JSON {'array' if kind is list else 'object'}")
    return tree


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


# ------------------------------------------------------------------------------------------------------------- writing


def write(path: str | Path, content: bytes | str) -> None:
    """Write all of ``content`` to a file of this machine, or raise OSError and leave what was there before.

    Permissions follow the umask. A symbolic link stays, and the file that it leads to is replaced. A process that is
    killed leaves nothing behind where the system has unnamed files, elsewhere a hidden file ``.photofound-*.part``.
    """
    content = content.encode("utf-8") if isinstance(content, str) else content
    target = Path(os.path.realpath(path))
    part = target.with_name(f".photofound-{secrets.token_hex(4)}.part")
    try:
        with _taking_place(part, target):
            if not _write_unnamed(part, content):
                with open(part, "xb") as stream:
                    _write_through(stream, content)
    except OSError as error:
        raise type(error)(f"{path}: cannot be written ({error.strerror or error}); choose another output") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place for a file or a folder that a library writes: ``NAME.partial`` beside ``path``.

    At the end of the block its content is on the disk and it takes the place of ``path``. After an error it is deleted,
    and ``path`` is what it was before. What a killed process left of it is deleted at the start, so only one process
    may write a path at a time.
    """
    part = path.with_name(f"{path.name}.partial")
    _remove(part)
    with _taking_place(part, path):
        yield part
        _flush(part)


@contextmanager
def _taking_place(part: Path, path: Path) -> Iterator[None]:
    """``part``, which the block writes, becomes ``path``; after an error it is deleted."""
    try:
        yield
        if path.is_dir():  # a rename does not replace a folder, and deleting it first would leave nothing for long
            old = path.with_name(f"{path.name}.old.partial")
            _remove(old)
            os.replace(path, old)
            os.replace(part, path)
            _remove(old)
        else:
            os.replace(part, path)
    finally:
        _remove(part)  # after a rename there is none


def _flush(part: Path) -> None:
    """Wait until a file, or a folder with all in it, is on the disk: a rename may else outlive the content it names."""
    if os.name != "posix":  # Windows opens no folder, and flushes only what it may write to
        return
    for path in (*part.rglob("*"), part):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write_unnamed(part: Path, content: bytes) -> bool:
    """Write a file that is named ``part`` only once it is whole; False, and nothing done, where the system has no such
    files."""
    if not hasattr(os, "O_TMPFILE"):
        return False
    try:
        file = os.open(part.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except OSError:
        return False
    with open(file, "wb") as stream:
        _write_through(stream, content)
        try:  # src_dir_fd only makes Python follow the link in /proc, which leads to the file itself
            os.link(f"/proc/self/fd/{file}", part, src_dir_fd=file)
        except OSError:
            return False
    return True


def _write_through(stream: BinaryIO, content: bytes) -> None:
    stream.write(content)
    stream.flush()
    os.fsync(stream.fileno())


# ---------------------------------------------------------------------------------------------------------------- URLs


def _url(path: str | Path) -> tuple[Any, str]:
    """The file system of a URL, and the place in it. Raises OSError where its client is not installed."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(str(path))
    except ImportError as error:
        raise OSError(f"{path}: {error}") from None
