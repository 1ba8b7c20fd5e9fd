"""Files behind URLs, by ``fsspec``: what a network loses is asked for again, with growing pauses."""

from __future__ import annotations

import io
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, TypeVar, cast

from photofound.errors import first_line

logger = logging.getLogger(__name__)

ATTEMPTS = 8
PAUSE = 0.5  # seconds before the second attempt, doubled for each further one: a minute in all
BLOCK = 2**23  # bytes that are asked for at once
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError, ValueError, TypeError,
          AttributeError, NotImplementedError)  # fmt: skip
"""Errors that another attempt would meet again."""
_LATER = (408, 425, 429)  # what a server answers that wants to be asked later; any other 4xx is final
_jitter = random.Random()  # its own: nothing may be drawn from the generator that a run has seeded
T = TypeVar("T")


class Unreachable(OSError):
    """A URL that has not answered at any attempt: the network is at fault, and not what lies behind the URL."""


def retried(url: str, call: Callable[[], T]) -> T:
    """The result of ``call``, which is tried again after errors of a network. Raises ``Unreachable`` in the end, and
    at once what no further attempt can change."""
    start = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except Exception as error:
            if _is_final(error):
                raise
            why = first_line(error)
        if attempt < ATTEMPTS:
            logger.info("%s: attempt %d failed (%s)", url, attempt, why)
            time.sleep(PAUSE * 2 ** (attempt - 1) * _jitter.uniform(0.5, 1.5))
    spent = f"{ATTEMPTS} attempts in {time.monotonic() - start:.0f} s"
    raise Unreachable(f"{url}: does not answer after {spent} ({why}); check the network and the address")


def _is_final(error: BaseException) -> bool:
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return _is_final(error.__cause__)  # what fsspec makes of any error that a web server answers with
    status = getattr(error, "status", None)  # aiohttp's
    client_error = isinstance(status, int) and 400 <= status < 500 and status not in _LATER
    return isinstance(error, _FINAL) or client_error or "Credentials" in type(error).__name__  # botocore's


def system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Raises OSError if its client is not installed."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except ImportError as error:
        raise OSError(f"{url}: {error}") from None


def open_url(url: str) -> BinaryIO:
    """The file behind a URL, for reading. Raises OSError if it cannot be opened or, later, read."""
    return cast(BinaryIO, io.BufferedReader(_File(url), BLOCK))


def find(folder: str, pattern: str) -> list[str]:
    """URLs of the files of a folder that match a pattern, sorted."""
    store, place = system(folder)

    def listed() -> list[str]:
        found = list(store.glob(f"{place.rstrip('/')}/{pattern}"))
        if not found:  # fsspec takes an error for an empty folder: this raises it
            with suppress(FileNotFoundError):
                store.ls(place)
        return found

    found = retried(folder, listed)
    return sorted(store.unstrip_protocol(name) for name in found)


def about(url: str) -> tuple[int | None, str]:
    """Size of the file behind a URL, where it is known, and a text that changes when the file does."""
    store, place = system(url)
    known = retried(url, lambda: store.info(place))
    names = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "md5Hash", "created")
    return known.get("size"), repr([str(known.get(name)) for name in names])


class _File(io.RawIOBase):
    """A file behind a URL. After an error it is opened anew, where it was being read."""

    def __init__(self, url: str) -> None:
        self._url, self._position, self._opened = url, 0, None
        self._store, self._path = system(url)
        retried(url, self._open)

    def _open(self) -> Any:
        if self._opened is None:
            self._opened = self._store.open(self._path, "rb", block_size=BLOCK)
        return self._opened

    def _read(self, count: int) -> bytes:
        try:
            file = self._open()
            if file.tell() != self._position:
                file.seek(self._position)
            content = file.read(count)
            size = getattr(file, "size", None)
            if not content and size is not None and self._position < size:
                raise OSError(f"ended at byte {self._position:,} of {size:,}")
            return content
        except Exception:
            self._drop()
            raise

    def _drop(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            try:
                opened.close()
            except Exception as error:  # it is broken anyway
                logger.debug("%s: %s", self._url, error)

    def readinto(self, buffer: Any) -> int:
        content = retried(self._url, lambda: self._read(len(buffer)))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._position
        elif whence == io.SEEK_END:
            size = getattr(retried(self._url, self._open), "size", None)
            if size is None:
                raise OSError(f"{self._url}: its server does not say how long it is; copy it to this machine")
            offset += size
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if not self.closed:
            self._drop()
        super().close()
