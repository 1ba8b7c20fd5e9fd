"""Parts of a source as rows that a room lacks: looked at, described, embedded. Nothing is written here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from photofound import files
from photofound.data.sources import Part, Raw, Source, raw
from photofound.data.table import Table
from photofound.room import optout
from photofound.room.describe import Described, describe, sha256, source_of

_WINDOW, _WINDOW_BYTES = 128, 64 * 2**20  # photographs that lie in memory together

Embed = Callable[[Sequence[np.ndarray]], Callable[[], Mapping[str, Any]]]
"""Begins with pictures (H, W, 3) uint8; what it returns waits for the columns: for each a ``pyarrow`` array."""


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


@dataclass
class Tally:
    """What was met on the way.

    Attributes:
        known: photographs that were there.
        left_out: reason -> photographs.
        others: further sources of photographs that are there (``photofound.room.optout.note_sources``).
    """

    read: int = 0
    known: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    others: list[dict[str, str]] = field(default_factory=list)


class Known:
    """Which files a room has, by their SHA-256: eight bytes of each are kept in memory, and the table is asked only for
    those that agree in them.

    Args:
        table: at the version that is looked at; ``refresh`` follows it.
        beginnings: (N,) uint64, sorted, as ``beginnings`` has them; None = they are read from the table.
    """

    def __init__(self, table: Table, beginnings: np.ndarray | None = None) -> None:
        self.table = table
        self.version, self._fragments = table.dataset.version, _fragments(table)
        self.beginnings = _beginnings(table) if beginnings is None else beginnings

    def refresh(self) -> None:
        """Learn what the table has got since."""
        now = _fragments(self.table)
        if new := now - self._fragments:
            found = _beginnings(self.table, sorted(new))
            self.beginnings = np.insert(self.beginnings, np.searchsorted(self.beginnings, found), found)
        self.version, self._fragments = self.table.dataset.version, now

    def find(self, digests: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Those that are the key or the hash of a photograph in the room: -> its key and its source."""
        if not len(self.beginnings) or not digests:
            return {}
        short = np.array([int(digest[:16], 16) for digest in digests], np.uint64)
        place = np.minimum(np.searchsorted(self.beginnings, short), len(self.beginnings) - 1)
        likely = [digests[index] for index in np.flatnonzero(self.beginnings[place] == short).tolist()]
        return self.table.known(likely)


def _fragments(table: Table) -> set[int]:
    return {fragment.fragment_id for fragment in table.dataset.get_fragments()}


def _beginnings(table: Table, fragments: Sequence[int] | None = None) -> np.ndarray:
    """(N,) sorted uint64: the first 64 bits of the keys, and of the hashes that differ from them."""
    import pyarrow.compute as pc

    found = [np.zeros(0, np.uint64)]
    for batch in table.scan(["key", "hash"], None, 65536, fragments):
        found += [
            _first_bits(batch["key"]),
            _first_bits(batch["hash"].filter(pc.not_equal(batch["key"], batch["hash"]))),
        ]
    return np.sort(np.concatenate(found))


def _first_bits(digests: Any) -> np.ndarray:
    """(N,) uint64 of hex digits in Arrow."""
    import pyarrow as pa

    if not len(digests):
        return np.zeros(0, np.uint64)
    digits = digests.cast(pa.binary()).cast(pa.binary(64))
    words = np.frombuffer(digits.buffers()[1], "S64", len(digits), 64 * digits.offset)
    return np.frombuffer(bytes.fromhex(b"".join(words.astype("S16").tolist()).decode()), ">u8").astype(np.uint64)


class Reader:
    """Reads a source into rows (``pyarrow.RecordBatch``) that a room lacks, each photograph once.

    Args:
        embed: makes the embeddings of the rows.
        known: what the room has.
        pool: decodes.
        skip: is told the name of a damaged photograph, and why.
        progress: is called with the number of photographs that were read.

    Attributes:
        tally: of what was read so far; whoever writes it down sets a new one.
        pending: keys and hashes of the rows that were described; whoever has made a version of some takes them out.
    """

    def __init__(
        self,
        table: Table,
        source: Source,
        options: Options,
        embed: Embed,
        known: Known,
        pool: Executor,
        skip: Callable[[str, Exception], None],
        progress: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.source, self.options, self.embed, self.known = source, options, embed, known
        self.pool, self.skip, self.progress = pool, skip, progress
        self.schema = table.dataset.schema
        self.collection = collection_of(source)
        self.optout = optout.OptOut.of_room(table.folder)
        self.tally, self.pending = Tally(), set[str]()

    def batches(self, part: Part) -> Iterator[Any]:
        """The rows of a part that are new. While their embeddings are made elsewhere, the next ones are decoded."""
        before: tuple[list[dict[str, Any]], Callable[[], Mapping[str, Any]]] | None = None
        for window in _windows(self._samples(part)):
            if described := self._described(self._new(window)):
                begun = self.embed([each.pixels for each in described])
                if before:
                    yield self._batch(*before)
                before = [each.row for each in described], begun
        if before:
            yield self._batch(*before)

    def _samples(self, part: Part) -> Iterator[Raw]:
        for row in part.rows():
            self.tally.read += 1
            self.progress(1)
            try:
                yield raw(row, self.source)
            except Exception as error:  # whatever a row makes its readers raise, the others are good
                self._skip(str(row.get("name") or row.get("__key__") or self.source.path), error)

    def _skip(self, name: str, error: Exception) -> None:
        self.skip(name, error)
        self.tally.left_out["damaged"] += 1

    def _new(self, window: Sequence[Raw]) -> list[Raw]:
        """Those that are not in the room, each file once, and have not opted out."""
        found = {sha256(sample.image): sample for sample in reversed(window)}
        known = self.known.find(list(found))
        new = []
        self.tally.known += len(window) - len(found)
        for key, sample in found.items():
            places = (source_of(sample, self.collection), self.collection, sample.name)
            if key in known or key in self.pending:
                self.tally.known += 1
                if key in known and known[key][1] != places[0]:
                    other = {"key": known[key][0], "source": places[0], "collection": self.collection}
                    self.tally.others.append(other)
                continue
            if self.optout and (self.optout.has_hash(key) or self.optout.has_place(*places, meta=sample.row)):
                self.tally.left_out["opted out"] += 1
            else:
                new.append(sample)
        return new[::-1]

    def _described(self, samples: Sequence[Raw]) -> list[Described]:
        options = self.options

        def one(sample: Raw) -> Described | Exception:
            try:
                return describe(sample, self.collection, options.licence, options.reference, options.keep_gps)
            except Exception as error:
                return error

        made: list[Described] = []
        for sample, found in zip(samples, self.pool.map(one, samples), strict=True):
            if isinstance(found, Exception):
                self._skip(sample.name, found)
            elif self.optout.has_hash(found.row["hash"]):
                self.tally.left_out["opted out"] += 1
            else:
                made.append(found)
                self.pending |= {found.row["key"], found.row["hash"]}
        return made

    def _batch(self, rows: Sequence[dict[str, Any]], embeddings: Callable[[], Mapping[str, Any]]) -> Any:
        import pyarrow as pa

        columns = {name: [row.get(name) for row in rows] for name in self.schema.names} | dict(embeddings())
        arrays = [pa.array(columns[field.name], field.type) for field in self.schema]
        return pa.record_batch(arrays, schema=self.schema)


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


def collection_of(source: Source) -> str:
    """A source as it is kept in the room: absolute, where it is a place of this machine."""
    here = files.local(source.path)
    return os.path.abspath(here) if here is not None and (here.exists() or "*" in source.path) else source.path
