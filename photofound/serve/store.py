"""Jobs in an SQLite file: what was asked for until it is done, results for a while. They survive a restart."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_VERSION = 1
_TABLES = f"""
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, task TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, finished REAL,
    fields TEXT NOT NULL, status INTEGER, detail TEXT, headers TEXT, result BLOB, bytes INTEGER NOT NULL,
    callback TEXT, tries INTEGER NOT NULL DEFAULT 0, due REAL
);
CREATE TABLE files (job TEXT NOT NULL, name TEXT NOT NULL, data BLOB NOT NULL);
CREATE INDEX waiting ON jobs (state, created);
CREATE INDEX files_of ON files (job);
PRAGMA user_version = {_VERSION};
"""
_COLUMNS = "id, task, state, created, finished, fields, status, detail, headers, callback, tries"


@dataclass(frozen=True)
class Job:
    """A job as it is kept.

    Attributes:
        id: nobody can guess it: who knows it may have the result.
        task: its name.
        state: ``waiting``, ``running``, ``done`` or ``failed``.
        created, finished: seconds since 1970.
        fields: the form, but for its files.
        status, detail: why it failed, as an answer would have said it.
        headers: of the result.
        callback: a URL that is told when it ends, or None.
        tries: how often that was tried.
        files: the form's files; only of a job that was claimed.
    """

    id: str
    task: str
    state: str
    created: float
    finished: float | None
    fields: Mapping[str, Any]
    status: int | None
    detail: str | None
    headers: Mapping[str, str]
    callback: str | None
    tries: int
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)


class Full(Exception):
    """There is no room for another job."""


class JobStore:
    """The file. All methods block; call them from one thread at a time.

    Args:
        path: its name, or ``:memory:``.
        keep: seconds that a result stays.
        most: jobs that may wait.
        max_bytes: of all pictures in it.

    Raises ValueError if the file cannot be used.
    """

    def __init__(self, path: str, keep: float, most: int, max_bytes: int) -> None:
        self.keep, self.most, self.max_bytes = keep, most, max_bytes
        try:
            self._db = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")  # two servers would do each job twice
            self._db.execute("PRAGMA secure_delete = ON")  # photographs that are deleted are overwritten
            self._db.execute("PRAGMA auto_vacuum = FULL")
            self._db.execute("BEGIN IMMEDIATE")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if version not in (0, _VERSION) or (version == 0 and tables):
                raise ValueError(f"jobs: {path} is another program's, or of another version; name another file")
            self._db.execute("COMMIT")
            if version == 0:
                self._db.executescript(_TABLES)
            self._db.execute("UPDATE jobs SET state = 'waiting' WHERE state = 'running'")  # a restart interrupted them
        except sqlite3.Error as error:
            why = "is in use by another server" if "locked" in str(error) else f"cannot be used ({error})"
            raise ValueError(f"jobs: {path} {why}; name another file") from None

    def close(self) -> None:
        self._db.close()

    def add(self, task: str, fields: Mapping[str, Any], files: Mapping[str, bytes], callback: str | None) -> Job:
        """Keep a job that waits. Raises Full."""
        self.sweep()
        size = sum(map(len, files.values()))
        waiting, held = self._db.execute(
            "SELECT count(*) FILTER (WHERE state = 'waiting'), coalesce(sum(bytes), 0) FROM jobs"
        ).fetchone()
        if waiting >= self.most or held + size > self.max_bytes:
            raise Full
        name = secrets.token_urlsafe(18)
        with self._db:
            self._db.execute("BEGIN")
            self._db.execute(
                "INSERT INTO jobs (id, task, state, created, fields, bytes, callback) "
                "VALUES (?, ?, 'waiting', ?, ?, ?, ?)",
                (name, task, time.time(), json.dumps(dict(fields)), size, callback),
            )
            self._db.executemany(
                "INSERT INTO files VALUES (?, ?, ?)", [(name, each, data) for each, data in files.items()]
            )
        found = self.get(name)
        assert found is not None
        return found

    def get(self, name: str) -> Job | None:
        """A job without its files, or None."""
        self.sweep()
        row = self._db.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (name,)).fetchone()
        return None if row is None else _job(row)

    def claim(self) -> Job | None:
        """The oldest job that waits, with its files; it runs from now on. None: there is none."""
        row = self._db.execute(
            f"UPDATE jobs SET state = 'running' WHERE id = (SELECT id FROM jobs WHERE state = 'waiting' "
            f"ORDER BY created LIMIT 1) RETURNING {_COLUMNS}"
        ).fetchone()
        if row is None:
            return None
        files = dict(self._db.execute("SELECT name, data FROM files WHERE job = ?", (row[0],)).fetchall())
        return _job(row, files)

    def finish(self, name: str, result: bytes, headers: Mapping[str, str]) -> None:
        """Keep a result in the place of what it was made of."""
        self._end(name, "done", None, None, json.dumps(dict(headers)), result)

    def fail(self, name: str, status: int, detail: str) -> None:
        """Keep why there is no result."""
        self._end(name, "failed", status, detail, None, None)

    def _end(self, name: str, state: str, *values: Any) -> None:
        now, size = time.time(), len(values[-1] or b"")
        with self._db:
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM files WHERE job = ?", (name,))
            self._db.execute(
                "UPDATE jobs SET state = ?, status = ?, detail = ?, headers = ?, result = ?, bytes = ?, finished = ?, "
                "fields = '{}', due = CASE WHEN callback IS NULL THEN NULL ELSE ? END WHERE id = ?",
                (state, *values, size, now, now, name),
            )

    def result(self, name: str) -> bytes | None:
        """The picture of a job that is done; None: it was forgotten meanwhile."""
        row = self._db.execute("SELECT result FROM jobs WHERE id = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def delete(self, name: str) -> bool:
        """Forget a job, whatever its state. Returns whether there was one."""
        with self._db:
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM files WHERE job = ?", (name,))
            return self._db.execute("DELETE FROM jobs WHERE id = ?", (name,)).rowcount > 0

    def due(self) -> list[Job]:
        """Ended jobs whose callback is to be told now."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM jobs WHERE due <= ? ORDER BY due LIMIT 32", (time.time(),)
        ).fetchall()
        return [_job(row) for row in rows]

    def told(self, name: str, again: float | None) -> None:
        """A callback was told, or is to be told ``again`` after so many seconds."""
        due = None if again is None else time.time() + again
        self._db.execute("UPDATE jobs SET tries = tries + 1, due = ? WHERE id = ?", (due, name))

    def sweep(self) -> None:
        """Forget what has been kept long enough."""
        self._db.execute("DELETE FROM jobs WHERE finished < ?", (time.time() - self.keep,))


def _job(row: tuple[Any, ...], files: Mapping[str, bytes] | None = None) -> Job:
    name, task, state, created, finished, fields, status, detail, headers, callback, tries = row
    told = json.loads(headers) if headers else {}
    return Job(
        name, task, state, created, finished, json.loads(fields), status, detail, told, callback, tries, files or {}
    )
