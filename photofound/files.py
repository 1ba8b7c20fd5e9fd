"""Files: reading paths and URLs (``file://``, and others by ``photofound.remote``), writing whole files or nothing,
and JSON with limits."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from photofound import remote
from photofound.errors import first_line

MAX_BYTES = 512 * 2**20
"""Limit of one file of a training sample, and of all its files together."""
MAX_JSON_BYTES = 16 * 2**20
"""Limit of a JSON file. Most have some kilobytes, the index of a large model a megabyte."""
Opener = Callable[[str], BinaryIO]
"""Opens a path or a URL for reading, as ``open_file`` does."""
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Files of weights that can run code when they are opened. They are never opened."""


def local(path: str | Path) -> Path | None:
    """The path of a file on this machine; None for a URL of another place."""
    text = str(path)
    if text.startswith("file://"):
        return Path(url2pathname(urlsplit(text).path))
    return None if "://" in text else Path(text)


def output_path(path: str | Path, setting: str) -> Path:
    """A path to write to. Raises ValueError for a URL of another place, which would become a folder called ``s3:``.

    Args:
        setting: the option's name, for the error.
    """
    here, text = local(path), str(path)
    # Path("s3://bucket") is "s3:/bucket".
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text) if not text.startswith("file://") else None
    if here is None or (scheme and not Path(f"{scheme[1]}:").is_dir()):
        advice = "only training data are read from URLs; name a folder or file of this machine, and copy it"
        raise ValueError(f"{setting}: {path} is a URL, and nothing is written there: {advice}")
    if not text:
        raise ValueError(f"{setting}: the path is empty; name a file or folder")
    return here


def open_file(path: str | Path) -> BinaryIO:
    """Open a path or URL for reading. Raises OSError if it cannot be opened."""
    here = local(path)
    return here.open("rb") if here is not None else remote.open_url(str(path))


def read(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """All bytes of a path or URL. Raises OSError, and ValueError for more than ``limit`` bytes and for a path that is
    not a regular file."""
    here = local(path)
    if here is not None and here.exists() and not here.is_file():
        raise ValueError(f"{path}: is no plain file")
    with open_file(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path}: has more than {limit:,} bytes")
    return content


def read_json(path: str | Path, kind: type = dict, limit: int = MAX_JSON_BYTES) -> Any:
    """The ``dict`` or ``list`` (``kind``) in a JSON file. Raises the errors of ``read`` and ``parse_json``, with the
    path."""
    return parse_json(read(path, limit), str(path), kind)


def parse_json(content: bytes | str, name: str, kind: type = dict) -> Any:
    """The ``dict`` or ``list`` (``kind``) in JSON text. For any other content it raises a ValueError that begins with
    ``name``."""
    try:
        tree = json.loads(content if isinstance(content, str) else content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is no JSON ({first_line(error)})") from None
    if not isinstance(tree, kind):
        raise ValueError(f"{name} must hold a JSON {'array' if kind is list else 'object'}")
    return tree


def find(folder: str | Path, pattern: str) -> list[str]:
    """The files of a folder or URL that match a pattern (``*.tar``, ``**/*.parquet``), sorted."""
    here = local(folder)
    if here is not None:
        return sorted(str(path) for path in here.glob(pattern) if path.is_file())
    return remote.find(str(folder), pattern)


def read_beside(path: str | Path, name: str) -> bytes | None:
    """The bytes of the file ``name`` beside shards; None if there is none. ``path`` is the folder of the shards, one of
    them, or a pattern."""
    text, here = str(path).rstrip("/"), local(path)
    parent, _, last = text.rpartition("/")
    is_folder = here.is_dir() if here is not None else not ("*" in last or last.endswith((".tar", ".parquet")))
    folder = text if is_folder else parent or "."
    try:
        return read(f"{folder}/{name}")
    except OSError:
        return None


def cache_folder() -> Path:
    """Where is kept for this user what can be made again: ``photofound`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "photofound"


@contextmanager
def on_disk(path: str | Path) -> Iterator[Path]:
    """A path on this machine: the path itself, or within the block a temporary copy of a URL's content."""
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
        with _replace(part, target):
            if not _write_unnamed(part, content):
                with open(part, "xb") as stream:
                    _write_through(stream, content)
    except OSError as error:
        raise type(error)(f"{path}: cannot be written ({error.strerror or error}); choose another output") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path for a file or a folder that a library writes: ``NAME.partial`` beside ``path``.

    At the end of the block it is flushed to the disk and replaces ``path``. After an error it is deleted, and ``path``
    stays as it was. Leftovers of a killed process are deleted at the start, so only one process may write a path at a
    time.
    """
    part = path.with_name(f"{path.name}.partial")
    _remove(part)
    with _replace(part, path):
        yield part
        _flush(part)


def put(part: Path, path: Path) -> None:
    """Flush ``part``, a file or a folder beside ``path``, to the disk and give it that name, as ``replacing`` does."""
    with _replace(part, path):
        _flush(part)


@contextmanager
def _replace(part: Path, path: Path) -> Iterator[None]:
    """Rename ``part``, which the block writes, to ``path``; after an error delete it."""
    try:
        yield
        if path.is_dir() and part.is_dir():  # a rename does not replace a folder; deleting it first takes too long
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
    """Flush a file, or a folder and its files, to the disk: after a crash the new name could else have no content."""
    if os.name != "posix":  # Windows cannot open folders, and flushes only files that are open for writing
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
    """Write a file that gets its name ``part`` only when it is complete. Returns False, without effect, if the system
    cannot do that."""
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
