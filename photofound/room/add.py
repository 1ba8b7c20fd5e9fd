"""Sources into a room: incremental, resumable, the same whatever is added twice, by several processes at once.

A source is read part by part: tars, row groups, 64 files of a folder. A part that was written is noted, with the size
and time of its files, and is not read again. Files are known by their SHA-256, so a photograph comes into the room
once, whatever its name. Each commit is a new version of the table: a killed call leaves whole versions, and goes on.
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
from typing import Any

from photofound import files
from photofound.data.ledger import Ledger
from photofound.data.sources import Part, Raw, Source, open_parts, raw
from photofound.data.table import TABLE, Table, lance, query_errors
from photofound.room import optout
from photofound.room.describe import Described, describe, sha256, source_of
from photofound.room.vectors import Network

_ROWS, _BYTES, _SECONDS = 8192, 2**30, 60.0  # of one commit, whichever comes first
_WINDOW, _WINDOW_BYTES = 128, 64 * 2**20  # photographs that lie in memory together
DONE = "done.txt"
"""The parts that were written, a line each: a digest of the part, and the version of the table that has it."""


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


@dataclass(frozen=True)
class Options:
    """How photographs are added.

    Attributes:
        licence: of those whose metadata name none.
        reference: keep paths in place of the files; image folders only.
        keep_gps: leave in the files where they were taken.
        workers: threads that decode.
        reread: read parts that were written before, too.
    """

    licence: str = ""
    reference: bool = False
    keep_gps: bool = False
    workers: int = 0
    reread: bool = False


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
    """One call of `add`."""

    def __init__(
        self, table: Table, networks: Sequence[Network], options: Options, progress: Callable[[int], None]
    ) -> None:
        self.table, self.networks, self.options, self.progress = table, networks, options, progress
        self.added, self.ledger = Added(), Ledger(table.folder / "damaged.log")
        self.optout = optout.OptOut.of_room(table.folder)
        table.add_columns([network.field for network in networks])
        self.schema = table.refresh().schema
        self.added.version = table.dataset.version
        self._done = _marks(table.folder)
        self._finished: list[str] = []  # marks of parts that are read, to be written with the next commit
        self._others: list[dict[str, str]] = []  # further sources of photographs that are there
        self._pending: set[str] = set()  # keys and hashes of photographs on their way into the next version
        self._error: BaseException | None = None

    def write(self, source: Source, only: Sequence[int] | None = None) -> None:
        """Add a source, or only some of its parts (numbers of ``open_parts``), to share the work out."""
        start = time.perf_counter()
        collection = _collection(source)
        parts = open_parts(source)
        parts = parts if only is None else [parts[number] for number in only]
        with ThreadPoolExecutor(self.options.workers or min(8, os.cpu_count() or 1)) as pool:
            batches = self._batches(pool, source, collection, parts)
            while (first := next(batches, None)) is not None:
                self._commit(itertools.chain([first], batches))
        with self.table.lock():
            self._mark()
        self.added.seconds += time.perf_counter() - start

    # ------------------------------------------------------------------------------------------------------- reading

    def _batches(
        self, pool: ThreadPoolExecutor, source: Source, collection: str, parts: Sequence[Part]
    ) -> Iterator[Any]:
        """Rows that are new, as ``pyarrow.RecordBatch``; notes in ``_finished`` which parts have been given."""
        for part in parts:
            mark = self._mark_of(part, source)
            if mark in self._done and not self.options.reread:
                self.added.parts_before += 1
                continue
            for window in _windows(self._samples(part, source)):
                described = self._described(pool, self._new(window, collection), collection)
                if described:
                    yield self._batch(described)
            if mark is not None:
                self._finished.append(mark)

    def _samples(self, part: Part, source: Source) -> Iterator[Raw]:
        for row in part.rows():
            self.ledger.seen += 1
            self.added.read += 1
            self.progress(1)
            try:
                yield raw(row, source)
            except Exception as error:  # whatever a row makes its readers raise, the others are good
                self._skip(str(row.get("name") or row.get("__key__") or source.path), error)

    def _skip(self, name: str, error: Exception) -> None:
        self.ledger.skip(name, error)
        self.added.left_out["damaged"] += 1

    def _new(self, window: Sequence[Raw], collection: str) -> list[Raw]:
        """Those that are not in the room, each file once, and have not opted out."""
        found = {sha256(sample.image): sample for sample in reversed(window)}
        known = self.table.known(list(found))
        new = []
        self.added.known += len(window) - len(found)
        for key, sample in found.items():
            places = (source_of(sample, collection), collection, sample.name)
            if key in known or key in self._pending:
                self.added.known += 1
                if key in known and known[key][1] != places[0]:
                    self._others.append({"key": known[key][0], "source": places[0], "collection": collection})
                continue
            if self.optout and (self.optout.has_hash(key) or self.optout.has_place(*places, meta=sample.row)):
                self.added.left_out["opted out"] += 1
            else:
                new.append(sample)
        return new[::-1]

    def _described(self, pool: ThreadPoolExecutor, samples: Sequence[Raw], collection: str) -> list[Described]:
        options = self.options

        def one(sample: Raw) -> Described | Exception:
            try:
                return describe(sample, collection, options.licence, options.reference, options.keep_gps)
            except Exception as error:
                return error

        made: list[Described] = []
        for sample, found in zip(samples, pool.map(one, samples), strict=True):
            if isinstance(found, Exception):
                self._skip(sample.name, found)
            elif self.optout.has_hash(found.row["hash"]):
                self.added.left_out["opted out"] += 1
            else:
                made.append(found)
                self._pending |= {found.row["key"], found.row["hash"]}
        return made

    def _batch(self, described: Sequence[Described]) -> Any:
        import pyarrow as pa

        rows = [each.row for each in described]
        columns = {name: [row.get(name) for row in rows] for name in self.schema.names}
        for network in self.networks:
            columns[network.column] = network.array([each.pixels for each in described])
        arrays = [pa.array(columns[field.name], field.type) for field in self.schema]
        return pa.record_batch(arrays, schema=self.schema)

    # ------------------------------------------------------------------------------------------------------- writing

    def _commit(self, batches: Iterator[Any]) -> None:
        """Write batches until they are enough for a version, and make it. The files are written outside of the lock;
        within it, what another process has added since is taken out again."""
        import pyarrow as pa
        from lance.fragment import write_fragments

        seen, keys = self.table.dataset, []

        def some() -> Iterator[Any]:
            size, start = 0, time.monotonic()
            try:
                while (batch := next(batches, None)) is not None:
                    keys.extend(batch["key"].to_pylist())
                    size += batch.nbytes
                    yield batch
                    if len(keys) >= _ROWS or size >= _BYTES or time.monotonic() - start >= _SECONDS:
                        return
            except BaseException as error:  # Arrow would make a text of it
                self._error = error
                raise

        try:
            reader = pa.RecordBatchReader.from_batches(self.schema, some())
            made = write_fragments(reader, str(self.table.folder / TABLE), schema=self.schema)
        except Exception:
            if self._error is not None:
                raise self._error from None
            raise
        with self.table.lock() as newest:
            before = {fragment.fragment_id for fragment in seen.get_fragments()}
            others = [f.fragment_id for f in newest.get_fragments() if f.fragment_id not in before]
            twice = set(self.table.known(keys, others)) if others else set()
            dataset = self.table.commit(lance().LanceOperation.Append(made), "add")
            if twice:
                self._take_back(dataset, len(made), twice)
            self.added.added += len(keys) - len(twice)
            self.added.known += len(twice)
            self.added.version = self.table.dataset.version
            self._pending.clear()
            self._mark()

    def _take_back(self, dataset: Any, fragments: int, keys: set[str]) -> None:
        """Delete rows of the last fragments that another process has added, too."""
        first = sorted(fragment.fragment_id for fragment in dataset.get_fragments())[-fragments]
        words = ", ".join(f"'{key}'" for key in keys)
        with query_errors(None):
            dataset.delete(f"_rowaddr >= {first << 32} AND key IN ({words})")
        self.table.refresh()

    # --------------------------------------------------------------------------------------------------------- marks

    def _mark_of(self, part: Part, source: Source) -> str | None:
        """What stands for a part, as it is now, read as it is now."""
        if part.identity is None:
            return None
        how = [part.identity, source.image, source.captions, source.mask, source.foreground, self.options.reference]
        return sha256(json.dumps(how).encode())[:32]

    def _mark(self) -> None:
        """Note the parts that are written, with the version that has them; within the lock."""
        if self._finished:
            with (self.table.folder / DONE).open("a") as file:
                file.write("".join(f"{mark} {self.added.version}\n" for mark in self._finished))
        self._done |= set(self._finished)
        self._finished.clear()
        optout.note_sources(self.table.folder, self._others)
        self._others.clear()


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


def _windows(samples: Iterator[Raw]) -> Iterator[list[Raw]]:
    """Samples in lists that are bounded by their number and their bytes."""
    window: list[Raw] = []
    size = 0
    for sample in samples:
        window.append(sample)
        size += len(sample.image)
        if len(window) == _WINDOW or size >= _WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


def _collection(source: Source) -> str:
    """A source as it is kept in the room: absolute, where it is a place of this machine."""
    here = files.local(source.path)
    return os.path.abspath(here) if here is not None and (here.exists() or "*" in source.path) else source.path
