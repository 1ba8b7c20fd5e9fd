"""Sources into a room: incremental, resumable, the same whatever is added twice, by several processes at once.

A source is read part by part: tars, row groups, 64 files of a folder. A part that was written is noted, with the size
and time of its files, and is not read again. Files are known by their SHA-256, so a photograph comes into the room
once, whatever its name. Each commit is a new version of the table: a killed call leaves whole versions, and goes on.

    parts -> write_rows (here, or on the workers of a cluster: ``photofound.room.spread``) -> Written -> Writer.commit
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from photofound import files
from photofound.data.ledger import Ledger
from photofound.data.sources import Part, Source, open_parts
from photofound.data.table import TABLE, Table, lance, of_hashes, query_errors
from photofound.room import optout
from photofound.room.describe import sha256
from photofound.room.rows import Known, Options, Reader, Tally
from photofound.room.vectors import Network

_ROWS, _BYTES, _SECONDS = 8192, 2**30, 60.0  # of one commit, whichever comes first
DONE = "done.txt"
"""The parts that were written, a line each: a digest of the part, and the version of the table that has it."""
_TWICE = ".twice.json"  # keys that are being taken back; it is there after a kill in the middle of that


@dataclass
class Added:
    """What an `add` did. ``left_out``: reason -> photographs."""

    read: int = 0
    added: int = 0
    known: int = 0
    parts_before: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    version: int = 0

    @property
    def line(self) -> str:
        """For people."""
        out = [f"{self.known:,} were there"] if self.known else []
        out += [f"{count:,} {reason}" for reason, count in self.left_out.items()]
        out += [f"{self.parts_before:,} parts were written before"] if self.parts_before else []
        rate = f" ({self.added / self.seconds:.0f}/s)" if self.added and self.seconds else ""
        return f"{self.added:,} added{rate}" + (f"; {', '.join(out)}" if out else "") + f"; version {self.version}"


class Written(NamedTuple):
    """Rows in files that no version of the table has yet.

    Attributes:
        fragments: ``lance.FragmentMetadata``.
        keys: of the rows, in their order.
        hashes: of those whose hash is another than their key.
        seen: the version of the table that they were compared with.
        marks: of the parts that are read to their ends.
        tally: what was met on the way.
    """

    fragments: list[Any]
    keys: list[str]
    hashes: list[str]
    seen: int
    marks: list[str]
    tally: Tally


class Unread(NamedTuple):
    """A part that has to be read, its number in its source, and what stands for it once it is written."""

    number: int
    part: Part
    mark: str | None


def add(
    table: Table,
    sources: Sequence[Source],
    networks: Sequence[Network],
    options: Options | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Added:
    """Add the photographs of sources. Damaged ones are named in the log and in the room's ``damaged.log``.

    Args:
        networks: their embeddings are computed on the way.
        progress: is called with the number of photographs that were read.

    Raises ValueError for a source that cannot be read, before anything is written of it.
    """
    with table.writing():
        writer = Writer(table, networks, options or Options(), progress)
        for source in sources:
            writer.write(source)
    return writer.added


def check(source: Source, reference: bool) -> None:
    """Raise ValueError for a source that is not there, before a room is made for it, and for one whose photographs
    have no paths of their own."""
    parts = open_parts(source)
    if reference and not any(isinstance(row.get("name"), str) and _is_file(row["name"]) for row in _first(parts)):
        raise ValueError(f"--reference: {source.path} is no image folder; its photographs have no paths of their own")


def _first(parts: Sequence[Part]) -> Iterator[Any]:
    return itertools.islice((row for part in parts for row in part.rows()), 1)


def _is_file(path: str) -> bool:
    here = files.local(path)
    return here is not None and here.is_file() and not path.endswith((".tar", ".parquet"))


class Writer:
    """One call of `add`: knows what was written before, and makes the versions."""

    def __init__(
        self, table: Table, networks: Sequence[Network], options: Options, progress: Callable[[int], None]
    ) -> None:
        self.table, self.networks, self.options, self.progress = table, networks, options, progress
        self.added, self.ledger = Added(), Ledger(table.folder / "damaged.log")
        table.add_columns([network.field for network in networks])
        with table.lock():
            self._take_back()
        self.known = Known(table)
        self.added.version = table.dataset.version
        self._done = _marks(table.folder)

    def write(self, source: Source, only: Sequence[int] | None = None) -> None:
        """Add a source, or only some of its parts (numbers of ``open_parts``), to share the work out."""
        start = time.perf_counter()
        with ThreadPoolExecutor(self.options.workers or min(8, os.cpu_count() or 1)) as pool:
            reader = Reader(
                self.table, source, self.options, self._embed, self.known, pool, self.ledger.skip, self.progress
            )
            for written in write_rows(self.table, reader, self.unread(source, only)):
                self.commit([written])
                reader.pending.difference_update(written.keys, written.hashes)
        self.added.seconds += time.perf_counter() - start

    def unread(self, source: Source, only: Sequence[int] | None = None) -> list[Unread]:
        """The parts of a source that were not written before."""
        parts = open_parts(source)
        found = []
        for number in range(len(parts)) if only is None else only:
            mark = self._mark_of(parts[number], source)
            if mark in self._done and not self.options.reread:
                self.added.parts_before += 1
            else:
                found.append(Unread(number, parts[number], mark))
        return found

    def _embed(self, pictures: Sequence[Any]) -> Callable[[], dict[str, Any]]:
        made = {network.column: network.array(pictures) for network in self.networks}
        return lambda: made

    def commit(self, written: Sequence[Written]) -> None:
        """Make a version of what was written; what the room has got since it was compared is taken out again."""
        fragments = [fragment for each in written for fragment in each.fragments]
        for each in written:
            self._count(each.tally)
        with self.table.lock():
            self.known.refresh()
            if fragments:
                self._append(fragments, written)
            self._mark([mark for each in written for mark in each.marks])
            optout.note_sources(self.table.folder, [other for each in written for other in each.tally.others])

    def _append(self, fragments: Sequence[Any], written: Sequence[Written]) -> None:
        twice = [self._twice(each) for each in written]
        seen: set[str] = set()
        for each, keys in zip(written, twice, strict=True):
            keys |= seen.intersection(each.keys)
            seen.update(each.keys, each.hashes)
        together = set().union(*twice)
        if together:
            files.write(self.table.folder / _TWICE, json.dumps(sorted(together)))
        self.table.commit(lance().LanceOperation.Append(list(fragments)), "add")
        if together:
            self._take_back()
        doubled = sum(map(len, twice))
        self.added.added += sum(len(each.keys) for each in written) - doubled
        self.added.known += doubled
        self.known.refresh()
        self.added.version = self.table.dataset.version

    def _twice(self, written: Written) -> set[str]:
        """Those of its keys that the room has got since it was compared."""
        return set() if written.seen == self.known.version else set(self.known.find(written.keys))

    def _take_back(self) -> None:
        """Delete all rows but the first of each photograph that came in twice; within the lock. Where a killed call has
        left it undone, it is done now."""
        path = self.table.folder / _TWICE
        if not path.is_file():
            return
        keys = json.loads(path.read_text())
        for part in (keys[start : start + _ROWS] for start in range(0, len(keys), _ROWS)):
            met: set[str] = set()
            later = []
            rows = self.table.scan(["key", "hash"], of_hashes(part), with_row_address=True)  # in the order of the table
            for batch in rows:
                for row in batch.to_pylist():
                    later += [row["_rowaddr"]] if row["key"] in met else []
                    met |= {row["key"], row["hash"]}
            if later:
                with query_errors(None):
                    self.table.dataset.delete(f"_rowaddr IN ({', '.join(map(str, later))})")
                self.table.refresh()
        path.unlink()

    def _count(self, tally: Tally) -> None:
        self.added.read += tally.read
        self.added.known += tally.known
        self.added.left_out.update(tally.left_out)

    # --------------------------------------------------------------------------------------------------------- marks

    def _mark_of(self, part: Part, source: Source) -> str | None:
        """What stands for a part, as it is now, read as it is now."""
        if part.identity is None:
            return None
        how = [part.identity, source.image, source.captions, source.mask, source.foreground, self.options.reference]
        return sha256(json.dumps(how).encode())[:32]

    def _mark(self, marks: Sequence[str]) -> None:
        """Note the parts that are written, with the version that has them; within the lock."""
        if marks:
            with (self.table.folder / DONE).open("a") as file:
                file.write("".join(f"{mark} {self.added.version}\n" for mark in marks))
        self._done |= set(marks)


def write_rows(table: Table, reader: Reader, parts: Sequence[Unread]) -> Iterator[Written]:
    """Write what is new in some parts into files of the table, for versions of bounded size. No lock is needed; whoever
    gets them makes the versions, one after another."""
    finished: list[str] = []

    def rows() -> Iterator[Any]:
        for _, part, mark in parts:
            yield from reader.batches(part)
            if mark is not None:
                finished.append(mark)

    def written(fragments: list[Any], keys: list[str], hashes: list[str]) -> Written:
        made = Written(fragments, keys, hashes, seen, finished.copy(), reader.tally)
        finished.clear()
        reader.tally = Tally()
        return made

    batches = rows()
    seen = reader.known.version
    while (first := next(batches, None)) is not None:
        yield written(*_write(table, reader.schema, itertools.chain([first], batches)))
        seen = reader.known.version
    yield written([], [], [])


def _write(table: Table, schema: Any, batches: Iterator[Any]) -> tuple[list[Any], list[str], list[str]]:
    """The fragments of batches until they are enough for a version, their keys, and the hashes that are no keys."""
    import pyarrow as pa
    from lance.fragment import write_fragments

    keys: list[str] = []
    hashes: list[str] = []
    raised: list[BaseException] = []

    def some() -> Iterator[Any]:
        size, start = 0, time.monotonic()
        try:
            while (batch := next(batches, None)) is not None:
                keys.extend(batch["key"].to_pylist())
                hashes.extend(set(batch["hash"].to_pylist()).difference(keys))
                size += batch.nbytes
                yield batch
                if len(keys) >= _ROWS or size >= _BYTES or time.monotonic() - start >= _SECONDS:
                    return
        except BaseException as error:  # Arrow would make a text of it
            raised.append(error)
            raise

    try:
        reader = pa.RecordBatchReader.from_batches(schema, some())
        return write_fragments(reader, str(table.folder / TABLE), schema=schema), keys, hashes
    except Exception:
        if raised:
            raise raised[0] from None
        raise


def _marks(folder: Path, version: int | None = None) -> set[str]:
    """The parts that were written, up to a version."""
    path = folder / DONE
    lines = [line.split() for line in path.read_text().splitlines()] if path.is_file() else []
    whole = [line for line in lines if len(line) == 2 and line[1].isdigit()]  # a killed process may leave half a line
    return {mark for mark, at in whole if version is None or int(at) <= version}


def forget_marks(folder: Path, version: int) -> None:
    """After a return to ``version``: parts that were written later are read again. Within the lock."""
    marks = _marks(folder, version)
    files.write(folder / DONE, "".join(f"{mark} {version}\n" for mark in sorted(marks)))
