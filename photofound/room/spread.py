"""The room's long work on a Ray cluster: adding, columns of filters, embeddings, captions and mattes, duplicates.

Workers read, decode, compute, and write files of the table; this process alone makes versions of it, several results at
once. So workers never conflict, what a killed worker has written is in no version, and a killed call goes on at its
last version. The room and its sources lie where all nodes see them: on a disk that they share, or behind URLs.

    units -> tasks on CPUs: read, decode, write files -> one commit by this process
                |  squares of pixels   ^  vectors, scores
                actors that have the networks loaded, one for each GPU

What takes seconds a photograph (captions, mattes) is shared out finer than by fragment, and written by this process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from photofound.data import duplicates, nodes
from photofound.data.ledger import error_text
from photofound.data.nodes import Nodes, Pace
from photofound.data.sources import Source
from photofound.data.table import Table, lacking_rows, lance
from photofound.edits.segmenter import Search
from photofound.errors import first_line
from photofound.room import captions, dedup, hosts, mattes, vectors
from photofound.room.add import Added, Unread, Writer, Written, write_rows
from photofound.room.captioners import Recipe
from photofound.room.captions import Captioned
from photofound.room.filters import Measure
from photofound.room.rows import Known, Options, Reader, collection_of
from photofound.room.scores import Scorer

_COMMIT, _COMMIT_ROWS = 60.0, 10**6  # seconds and photographs after which a version is made
_PART = 64  # photographs of a task for what takes long for each
_UNIT, _LEAST_UNIT = 2**28, 2**23  # bytes of photographs that a task reads, at most and at least
_ROUNDS = 3  # times that fragments are worked on which others changed meanwhile
_BUCKET = 2**20  # hashes that a task sorts, at least


# ----------------------------------------------------------------------------------------------------------------- add


def add(
    table: Table, sources: Sequence[Source], networks: Sequence[vectors.Network], options: Options, pace: Pace
) -> Added:
    """`photofound.room.add.add` on a cluster; the same rows come of it.

    Raises ValueError in the end where parts could not be read; everything else is in the room then.
    """
    with table.writing(), ExitStack() as held:
        writer = Writer(table, networks, options, lambda count: None)
        absolute = [_absolute(source) for source in sources]
        work = [(source, unit) for source in absolute for unit in _units(writer.unread(source), pace.nodes)]
        sizes = [max(1, sum(each.part.bytes for each in unit)) for _, unit in work]
        pace.total += sum(sizes)
        actors = held.enter_context(hosts.started(networks, [], pace.nodes)) if work else []
        layout = [(network.column, network.name, network.side) for network in networks]
        base = _Base(writer.known)

        def arguments() -> Iterator[tuple[Any, ...]]:
            for number, (source, unit) in enumerate(work):
                base.renew(writer.known)
                yield str(table.folder), source, unit, options, base.version, base.beginnings, layout, actors, number

        versions = _Versions(writer.commit)
        failed = _Failures(str(table.folder), len(work))
        try:
            for index, found in nodes.results(_add_unit, arguments(), pace.nodes):
                if isinstance(found, Exception):
                    failed.note(_name(*work[index]), found)
                    continue
                for name, reason in found[1]:
                    writer.ledger.skip(name, reason)
                versions.take(index, found[0], sum(len(each.keys) for each in found[0]))
                pace.add(sizes[index], sum(each.tally.read for each in found[0]))
        finally:
            versions.make()
        writer.added.seconds = pace.seconds
        failed.end()
    return writer.added


def _add_unit(
    folder: str,
    source: Source,
    unit: Sequence[Unread],
    options: Options,
    version: int,
    beginnings: np.ndarray,
    layout: Sequence[tuple[str, str, int]],
    actors: Sequence[Any],
    number: int,
) -> tuple[list[Written], list[tuple[str, str]]]:
    """Write what is new in some parts of a source, as far as the room of ``version`` tells; and the damaged ones."""
    table = Table(folder, version)
    damaged: list[tuple[str, str]] = []
    embed = hosts.embedder(layout, actors, number)
    with ThreadPoolExecutor(1) as pool:
        reader = Reader(
            table, source, options, embed, Known(table, beginnings), pool,
            lambda name, error: damaged.append((name, error_text(error))),
        )  # fmt: skip
        return list(write_rows(table, reader, unit)), damaged


def _absolute(source: Source) -> Source:
    """A source as workers find it, which work in folders of their own."""
    path = collection_of(source)
    return replace(source, path=path, room=path if source.room else None)


def _units(unread: Sequence[Unread], has: Nodes) -> list[list[Unread]]:
    """Parts that a task reads together: some for each core, so that all end at about the same time."""
    aim = min(_UNIT, max(_LEAST_UNIT, sum(each.part.bytes for each in unread) // (8 * has.cpus)))
    units: list[list[Unread]] = []
    size = aim
    for each in unread:
        if size >= aim or not each.part.bytes:  # one whose size is not known comes alone
            units.append([])
            size = 0
        units[-1].append(each)
        size += each.part.bytes or aim
    return units


def _name(source: Source, unit: Sequence[Unread]) -> str:
    return f"{source.path} (part {unit[0].number + 1:,} and {len(unit) - 1:,} more)"


class _Base:
    """What workers know of the room, in Ray's store; put there anew when the room has grown by an eighth."""

    def __init__(self, known: Known) -> None:
        self._size = -1.0
        self.renew(known)

    def renew(self, known: Known) -> None:
        import ray

        if len(known.beginnings) > 1.125 * self._size:
            self._size = len(known.beginnings)
            self.version, self.beginnings = known.version, ray.put(known.beginnings)


class _Versions:
    """Collects results and makes a version of several, in the order of the units."""

    def __init__(self, commit: Callable[[Sequence[Any]], None]) -> None:
        self._commit, self._waiting, self._rows, self._last = commit, dict[int, Sequence[Any]](), 0, time.monotonic()

    def take(self, unit: int, found: Sequence[Any], rows: int) -> None:
        self._waiting[unit] = found
        self._rows += rows
        if time.monotonic() - self._last >= _COMMIT or self._rows >= _COMMIT_ROWS:
            self.make()

    def make(self) -> None:
        waiting = [each for unit in sorted(self._waiting) for each in self._waiting[unit]]
        self._waiting, self._rows, self._last = {}, 0, time.monotonic()
        if waiting:
            self._commit(waiting)


class _Failures:
    """Units that failed: the others go on, unless more than ``most`` fail; by default half of them, and eight."""

    def __init__(self, room: str, units: int, most: int | None = None) -> None:
        self.room, self.units, self.count, self.first = room, units, 0, ""
        self.most = max(8, units // 2) if most is None else most

    def note(self, name: str, error: Exception) -> None:
        self.count += 1
        if isinstance(error, FileNotFoundError) and "is no room" in str(error):
            raise ValueError(f"--cluster: a node does not see {self.room}; put it on a disk that all nodes share")
        if isinstance(error, ModuleNotFoundError):
            raise ValueError(f"--cluster: a node has no {error.name}; install photofound on all nodes")
        self.first = self.first or f"{name}: {first_line(error)}"
        if self.count > self.most:
            self.end()

    def end(self) -> None:
        if self.count:
            raise ValueError(
                f"{self.count:,} of {self.units:,} parts failed on the cluster, the first was {self.first}; "
                "what was done stays, and the same command tries the rest again"
            )


# ------------------------------------------------------------------------------------------------------------- columns


def fill(
    table: Table,
    fields: Sequence[Any],
    compute: Callable[[Any], Mapping[str, Any]],
    read: Sequence[str],
    pace: Pace,
    where: str | None = None,
    lacking: str | None = None,
    batch: int = 32,
) -> int:
    """`Table.fill` on a cluster. ``compute`` is sent to the workers."""
    table.add_columns(fields)
    wanted = lacking_rows(fields, where, lacking)
    names = [field.name for field in fields]
    total = 0
    left: list[int] | None = None
    for _ in range(_ROUNDS):
        table.refresh()
        rows = {each.fragment_id: each.physical_rows for each in table.dataset.get_fragments()}
        work = [number for number in (rows if left is None else left) if number in rows]
        pace.total += sum(rows[number] for number in work)
        left = []
        versions = _Versions(partial(_put, table, left))
        failed = _Failures(str(table.folder), len(work))
        version = table.dataset.version
        arguments = ((str(table.folder), version, n, names, compute, read, wanted, batch) for n in work)
        try:
            for index, found in nodes.results(_fill_unit, arguments, pace.nodes):
                if isinstance(found, Exception):
                    failed.note(f"fragment {work[index]}", found)
                    continue
                if found is not None:
                    versions.take(index, [found], found.rows)
                    total += found.rows
                pace.add(rows[work[index]], found.rows if found is not None else 0)
        finally:
            versions.make()
        failed.end()
        if not left:
            break
    return total


@dataclass(frozen=True)
class _Filled:
    """Columns of a fragment in files that no version has yet; ``before``: the fragment that they were computed for."""

    before: Any
    after: Any
    fields: list[int]
    rows: int


def _fill_unit(
    folder: str,
    version: int,
    number: int,
    columns: Sequence[str],
    compute: Callable[[Any], Mapping[str, Any]],
    read: Sequence[str],
    where: str,
    batch: int,
) -> _Filled | None:
    import pyarrow as pa

    table = Table(folder, version)
    made = list(table.computed(number, columns, compute, read, where, batch))
    if not made:
        return None
    fragment = table.dataset.get_fragment(number)
    after, fields = fragment.update_columns(pa.concat_tables(made), left_on="key", right_on="key")
    return _Filled(fragment.metadata, after, list(fields), sum(map(len, made)))


def _put(table: Table, again: list[int], found: Sequence[_Filled]) -> None:
    """Make a version of filled columns. Fragments that another process has changed meanwhile are left as they are, and
    their numbers join ``again``."""
    with table.lock() as dataset:
        now = {fragment.fragment_id: fragment.metadata for fragment in dataset.get_fragments()}
        good = [each for each in found if now.get(each.before.id) == each.before]
        if good:
            update = lance().LanceOperation.Update(
                updated_fragments=[each.after for each in good],
                fields_modified=sorted({field for each in good for field in each.fields}),
                update_mode="rewrite_columns",
            )
            table.commit(update)
        again += [each.before.id for each in found if now.get(each.before.id) != each.before]


def fill_slowly(
    table: Table,
    fields: Sequence[Any],
    compute: Callable[[Any], Mapping[str, Any]],
    read: Sequence[str],
    pace: Pace,
    where: str | None,
    lacking: str,
    batch: int,
) -> int:
    """The same for what takes long for each photograph, and gives little. A task works on some photographs of a
    fragment, by their keys, and this process writes what they get, so a killed call loses a minute of it."""
    table.add_columns(fields)
    wanted = lacking_rows(fields, where, lacking)
    names = [field.name for field in fields]
    fragments = table.dataset.get_fragments()
    work = [(each.fragment_id, *span) for each in fragments for span in _spans(each.count_rows(wanted))]
    pace.total += sum(rows for *_, rows in work)
    versions = _Versions(partial(_put_values, table))
    failed = _Failures(str(table.folder), len(work), most=8)
    folder, version, total = str(table.folder), table.dataset.version, 0
    arguments = ((folder, version, n, names, compute, read, f"{wanted} AND {keys}", batch) for n, keys, _ in work)
    try:
        for index, found in nodes.results(_part_unit, arguments, pace.nodes):
            made, error = (None, found) if isinstance(found, Exception) else found
            if made is not None:
                versions.take(index, [(work[index][0], made)], len(made))
                total += len(made)
            pace.add(work[index][2], 0 if made is None else len(made))
            if error is not None:
                failed.note(f"fragment {work[index][0]}", error)
    finally:
        versions.make()
    failed.end()
    return total


def _put_values(table: Table, found: Sequence[tuple[int, Any]]) -> None:
    for number in dict.fromkeys(number for number, _ in found):
        table.put(number, [values for n, values in found if n == number])


def _spans(rows: int) -> list[tuple[str, int]]:
    """Parts of a fragment of which so many rows are wanted: which keys, in SQL, and about how many rows. Keys are
    hashes, so they are spread evenly."""
    parts = -(-rows // _PART)
    ends = [f"{2**32 * part // parts:08x}" for part in range(parts)]
    spans = [f"key >= '{first}' AND key < '{end}'" for first, end in zip(ends, [*ends[1:], "g"], strict=False)]
    return [(keys, rows // parts + (i < rows % parts)) for i, keys in enumerate(spans)]


def _part_unit(folder: str, version: int, number: int, *computed: Any) -> tuple[Any | None, Exception | None]:
    """Columns as a ``pyarrow.Table`` by key, and what ended the work before its end."""
    import pyarrow as pa
    import ray

    made, failure = [], None
    try:
        for values in Table(folder, version).computed(number, *computed):
            made.append(values)
    except Exception as error:  # what came before it stays
        failure = nodes.why(error) if isinstance(error, ray.exceptions.RayError) else error
    return (pa.concat_tables(made) if made else None), failure


def score(table: Table, scorer: Scorer, where: str | None, pace: Pace) -> int:
    """The missing scores of filters: measures in tasks, networks in actors."""
    hosted = [each for each in scorer.filters if not isinstance(each, Measure)]
    for each in scorer.filters:
        nodes.carry(each.measure if isinstance(each, Measure) else type(each))
    with hosts.started([], hosted, pace.nodes) as actors:
        there = [hosts.Hosted.of(each, actors) if each in hosted else each for each in scorer.filters]
        return fill(table, scorer.fields, Scorer(there, 1), scorer.read, pace, where, scorer.lacking)


def embed(table: Table, network: vectors.Network, where: str | None, pace: Pace) -> int:
    """`photofound.room.vectors.embed` on a cluster."""
    with hosts.started([network], [], pace.nodes) as actors:
        compute = vectors.Embedding(network.field, hosts.Vectors(network.column, network.name, network.side, actors))
        return fill(table, [network.field], compute, vectors.Embedding.READ, pace, where)


def caption(table: Table, recipe: Recipe, pace: Pace, **how: Any) -> Captioned:
    """`photofound.room.captions.caption` on a cluster: pictures are decoded in tasks, captioned in actors. An endpoint
    is asked by one actor, so no more at once than without a cluster. ``how``: arguments of ``captions.caption``."""
    with hosts.started([], [], pace.nodes, recipe, recipe.away) as actors:
        there = hosts.HostedCaptioner(actors, *hosts.told(actors, "name", "batch", "instructed"))
        return captions.caption(table, there, **how, fill=partial(fill_slowly, table, pace=pace))


def matte(table: Table, find: mattes.Find | mattes.Loads, name: str, where: str | None, pace: Pace) -> tuple[int, int]:
    """`photofound.room.mattes.matte` on a cluster: in tasks, and in actors what has ``load``, as networks have."""
    fill = partial(fill_slowly, table, pace=pace)
    if not isinstance(find, mattes.Loads):
        nodes.carry(find.segmenter.find if isinstance(find, Search) else find)
        return mattes.matte(table, mattes.Each(find), name, where, fill)
    with hosts.started([], [], pace.nodes, partial(mattes.Loaded, find)) as actors:
        hosts.told(actors)
        return mattes.matte(table, hosts.Asked(actors, "mattes"), name, where, fill)


# ---------------------------------------------------------------------------------------------------------- duplicates


class OnNodes(dedup.Here):
    """Duplicates on a cluster: hashes by bucket, vectors by cell, from files in the room's folder. The same photographs
    double the same ones as in one process."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace

    def pairs_by_hash(self, rows: dedup.Rows, near: int) -> duplicates.Pairs:
        tables = len(duplicates.buckets(1, near))
        at_once = max(_BUCKET, min(duplicates.ROWS, rows.count * tables // (4 * self.pace.nodes.cpus)))
        duplicates.brightness(rows.bits, rows.colours).tofile(rows.folder / "light")
        buckets = duplicates.buckets(rows.count, near, at_once)
        yield from self._results(_bucket, [(str(rows.folder), bucket, near) for bucket in buckets], rows.count)

    def pairs_by_vector(self, rows: dedup.Rows, similar: float) -> duplicates.Pairs:
        import ray

        folder, width = str(rows.folder), rows.vectors.shape[1]
        middles = ray.put(dedup.centres(rows.vectors))
        parts = _shares(dedup.chunks(rows.count), 4 * self.pace.nodes.cpus)
        near: list[list[np.ndarray]] = [[] for _ in parts]
        for index, found in nodes.results(_nearest, ((folder, width, middles, p) for p in parts), self.pace.nodes):
            near[index] = _result(found)
        shares = _shares(dedup.cells([each for part in near for each in part]), 8 * self.pace.nodes.cpus)
        yield from self._results(_cells, [(folder, width, share, similar) for share in shares], rows.count)

    def _results(self, work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], count: int) -> duplicates.Pairs:
        self.pace.total += count
        for ended, (_, found) in enumerate(nodes.results(work, arguments, self.pace.nodes)):
            i, j = _result(found)
            share = count * (ended + 1) // len(arguments) - count * ended // len(arguments)
            self.pace.add(share, share)
            yield i, j

    def fill(self, table: Table, field: Any, answer: dedup.Answer, where: str | None) -> None:
        fill(table, [field], answer, ["key"], Pace(self.pace.nodes), where, batch=4096)


def _bucket(folder: str, bucket: duplicates.Bucket, near: int) -> tuple[np.ndarray, np.ndarray]:
    place = Path(folder)
    bits, colours = dedup.mapped_hashes(place)
    light = np.memmap(place / "light", np.uint8, "r")
    return duplicates.forest(duplicates.pairs_in(bucket, bits, light, near, colours))


def _nearest(folder: str, width: int, middles: np.ndarray, parts: Sequence[slice]) -> list[np.ndarray]:
    found = dedup.mapped_vectors(Path(folder), width)
    return [dedup.nearest(found, middles, part) for part in parts]


def _cells(folder: str, width: int, cells: Sequence[np.ndarray], similar: float) -> tuple[np.ndarray, np.ndarray]:
    found = dedup.mapped_vectors(Path(folder), width)
    return duplicates.forest(pair for rows in cells for pair in dedup.pairs_of_cell(found, rows, similar))


def _shares(work: Sequence[Any], count: int) -> list[list[Any]]:
    """The work in up to ``count`` parts of the same length, in its order."""
    size = max(1, -(-len(work) // count))
    return [list(work[start : start + size]) for start in range(0, len(work), size)]


def _result(found: Any) -> Any:
    if isinstance(found, Exception):
        raise ValueError(f"dedup: a part failed on the cluster ({first_line(found)}); the room is as it was") from None
    return found
