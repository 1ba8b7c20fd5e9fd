"""Shards behind URLs, kept as files on this machine: fetched ahead, at most so many bytes, shared by processes.

A file appears under its name only when it is whole. Room is made by deleting what was used longest ago and is not being
read; where there is none, a shard is read from its URL.
"""

from __future__ import annotations

import hashlib
import os
import queue
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from photofound import files, remote
from photofound.data.ledger import warn_once
from photofound.errors import one_line

_PART, _LOCKS = ".part", 256
_SPARE = 2**30  # bytes of the disk that are left free


class ShardCache:
    """A folder of shards.

    Args:
        limit: bytes of its files at most, those included that are being written.
        ahead: shards that are fetched before they are read, each by a thread.
    """

    def __init__(self, folder: Path, limit: int, ahead: int = 4) -> None:
        self.folder, self.limit, self.ahead = files.output_path(folder, "data.shard_cache"), limit, ahead
        (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        self._fetching: dict[str, Future[Path | None]] = {}
        self._wanted: queue.SimpleQueue[tuple[Future[Path | None], str] | None] = queue.SimpleQueue()
        for _ in range(ahead):  # the end of the process does not wait for them
            threading.Thread(target=self._fetch_wanted, daemon=True, name="photofound-fetch").start()

    def open(self, url: str) -> BinaryIO:
        """The file behind a URL, from this machine if it could be fetched. Until it is closed, nobody deletes it.

        Raises ``remote.Unreachable`` and what opening a URL raises.
        """
        if files.local(url) is not None:
            return files.open_file(url)
        begun = self._fetching.pop(url, None)
        path = self._fetched(url) if begun is None or begun.cancel() else begun.result()
        for _ in range(3):  # others may delete it as soon as it is there
            if path is None:
                break
            if (opened := _open_used(path)) is not None:
                return opened
            path = self._fetched(url)
        return remote.open_url(url)

    def fetch_soon(self, url: str) -> None:
        """Fetch a URL in the background; ``open`` waits for it. What fails says so there."""
        if files.local(url) is None and url not in self._fetching:
            self._fetching[url] = Future()
            self._wanted.put((self._fetching[url], url))

    def close(self) -> None:
        """Fetch nothing more than what has been begun."""
        for future in self._fetching.values():
            future.cancel()
        for _ in range(self.ahead):
            self._wanted.put(None)

    def _fetch_wanted(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            future, url = wanted
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._fetched(url))
                except BaseException as error:  # raised where the shard is opened
                    future.set_exception(error)

    def _fetched(self, url: str) -> Path | None:
        """The path of a shard, fetched if it is not there; None where it has no room, or no known size."""
        size, identity = remote.about(url)
        if not size:
            return None
        name = hashlib.sha256(f"{url}\n{identity}".encode()).hexdigest()[:40]
        path = self.folder / name
        if path.exists():
            return path
        with self._lock(int(name[:8], 16) % _LOCKS):  # one process fetches it, the others wait
            if path.exists():
                return path
            part = path.with_name(name + _PART)
            if not self._reserved(part, size):
                rule = f"{self.limit:,} bytes at most, and {_SPARE:,} of its disk stay free"
                warn_once(f"data: {self.folder} has no room for all shards that are open ({rule}); give it more")
                return None
            try:
                _download(url, part, size)
                with self._lock("all"):  # nobody counts files while their names change
                    os.replace(part, path)
            except remote.Unreachable:
                raise
            except OSError as error:  # a full disk, or a shard that has changed meanwhile
                warn_once(f"data: {self.folder} cannot keep {url} ({one_line(error)})")
                return None
            finally:
                part.unlink(missing_ok=True)
        return path

    @contextmanager
    def _lock(self, number: int | str) -> Iterator[Any]:
        from filelock import FileLock

        with FileLock(self.folder / "locks" / f"{number}.lock") as held:
            yield held

    def _reserved(self, part: Path, size: int) -> bool:
        """Whether there is room, after old files were deleted; it is taken by the file that is going to be written."""
        with self._lock("all"):
            part.unlink(missing_ok=True)  # of a killed process: its lock is held by this one
            found = sorted(self._files())
            taken = sum(each for _, _, each in found)
            allowed = min(self.limit, taken + shutil.disk_usage(self.folder).free - _SPARE)
            for used, path, each in found:
                if taken + size <= allowed:
                    break
                if _deleted(path, used):
                    taken -= each
            if taken + size > allowed:
                return False
            with part.open("wb") as file:
                file.truncate(size)
            return True

    def _files(self) -> Iterator[tuple[float, Path, int]]:
        """When each file was used last, its path and its size. Others may delete files meanwhile."""
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                if path.is_file():
                    about = path.stat()
                    yield about.st_mtime, path, about.st_size


def _deleted(path: Path, used: float) -> bool:
    """Delete a file that nobody reads, or that a killed process has left half-written. Returns whether it is gone."""
    if path.suffix == _PART:
        return time.time() - used > 3600 and _unlinked(path)
    try:
        with path.open("rb") as file:
            return _locked(file, shared=False) and _unlinked(path)
    except FileNotFoundError:
        return True


def _download(url: str, part: Path, size: int) -> None:
    with remote.open_url(url) as source, part.open("r+b") as file:
        written = 0
        while content := source.read(remote.BLOCK):
            written += file.write(content)
            if written > size:
                break
        file.flush()
        os.fsync(file.fileno())
    if written != size:
        raise OSError(f"it has {written:,} bytes, and not {size:,}")


def _open_used(path: Path) -> BinaryIO | None:
    """A file of the cache, marked as used now, and as being read until it is closed; None if it was deleted."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    if not _locked(file, shared=True) or os.fstat(file.fileno()).st_nlink == 0:
        file.close()
        return None
    os.utime(file.fileno())
    return file


def _locked(file: BinaryIO, shared: bool) -> bool:
    """Whether a file could be locked, until it is closed. Without such locks (Windows) no open file can be deleted."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _unlinked(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
