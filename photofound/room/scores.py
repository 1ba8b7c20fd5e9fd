"""Filters over a room: several in one pass, only what lacks a score, and what is kept in the end.

``Scorer`` computes the columns of a batch; it is what ``Table.fill`` calls, here and on other machines:

    scorer = prepare(table, ["sharpness", "graphics"])
    table.fill(scorer.fields, scorer, scorer.read, where, lacking=scorer.lacking, fragments=[3, 4])
    decide(table)
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from photofound.data.table import SCORE, Table, contents
from photofound.room import own
from photofound.room.filters import CAPTIONS, MEASURES, Filter, Measure, Sample
from photofound.room.judges import QUESTIONS, judge

KEPT = "kept"
DEFAULT = tuple(MEASURES)
"""What is computed where nothing is named."""
_READ = ("image", "reference", "collection", *CAPTIONS)


def parse(text: str) -> Filter:
    """A filter of ``NAME``, ``NAME=THRESHOLD``, ``NAME:MODEL`` or ``NAME:MODEL=THRESHOLD``: a built-in one, or one of
    yours (``photofound.room.own``). Raises ValueError."""
    words, given, number = text.partition("=")
    name, _, model = words.partition(":")
    built_in = [*MEASURES, *QUESTIONS]
    if name not in built_in and name not in own.names():
        raise ValueError(f"filter: {name!r} is unknown; there are {', '.join([*built_in, *own.names()])}")
    if name not in QUESTIONS and model:
        raise ValueError(f"filter: {name} needs no model; leave out {model!r}")
    made = judge(name, model) if name in QUESTIONS else MEASURES[name] if name in MEASURES else own.load(name)
    try:
        threshold = float(number) if given else made.threshold
    except ValueError:
        threshold = math.nan
    if not math.isfinite(threshold):
        raise ValueError(f"filter: {text!r} has no number after =; such as {name}={made.threshold:g}")
    return replace(made, threshold=threshold)


class Scorer:
    """The scores of a batch by several filters: each file is read and decoded once, and each filter only sees the
    photographs that lack its score.

    Can be sent to another process before it is first called.

    Args:
        workers: threads; 0 = as many as there are processors, at most 8.
    """

    def __init__(self, filters: Sequence[Filter], workers: int = 0) -> None:
        self.filters, self.workers = list(filters), workers
        self._pool: ThreadPoolExecutor | None = None

    @property
    def fields(self) -> list[Any]:
        """The columns, as ``pyarrow.Field``, with each filter's metadata."""
        import pyarrow as pa

        return [pa.field(each.column, pa.float32(), metadata=each.metadata) for each in self.filters]

    @property
    def read(self) -> list[str]:
        """The columns of the room that a batch has."""
        return [*_READ, *(each.column for each in self.filters)]

    @property
    def lacking(self) -> str:
        """Which photographs lack a score that they can have, in SQL."""
        missing = (f"{each.column} IS NULL" + (f" AND {each.needs}" if each.needs else "") for each in self.filters)
        return " OR ".join(f"({each})" for each in missing)

    def __call__(self, batch: Any) -> dict[str, Any]:
        """A ``pyarrow.RecordBatch`` with ``read`` to the columns' arrays; null where there is no score."""
        import pyarrow as pa

        names = {name: batch[name].to_pylist() for name in CAPTIONS}
        files = contents(batch)
        samples = [
            Sample(file, {name: texts[i] for name, texts in names.items()}) if isinstance(file, bytes) else None
            for i, file in enumerate(files)
        ]
        found: dict[str, list[float | None]] = {each.column: batch[each.column].to_pylist() for each in self.filters}

        def one(index: int) -> None:
            sample = samples[index]
            for each in self.filters:
                if sample is not None and isinstance(each, Measure) and found[each.column][index] is None:
                    found[each.column][index] = _plain(each.scores([sample])[0])

        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers or min(8, os.cpu_count() or 1))
        list(self._pool.map(one, range(len(samples))))
        for each in self.filters:
            values = found[each.column]
            asked = [i for i, sample in enumerate(samples) if sample is not None and values[i] is None]
            if not isinstance(each, Measure) and asked:
                chosen = [sample for i in asked if (sample := samples[i]) is not None]
                for i, score in zip(asked, each.scores(chosen), strict=True):
                    values[i] = _plain(score)
        return {column: pa.array(values, pa.float32()) for column, values in found.items()}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pool": None}


def _plain(score: np.floating[Any]) -> float | None:
    return None if np.isnan(score) else float(score)


def stored(table: Table) -> list[Filter]:
    """The filters that a room has scores by, with its thresholds. Of one that is not known here, such as a colleague's,
    it has what decides: a plain ``Filter``, which gives no scores. No code is named by a room."""
    found = []
    for field in table.dataset.schema:
        said = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
        if field.name.startswith(SCORE) and {"filter", "version", "threshold"} <= said.keys():
            with suppress(ValueError):
                found.append(replace(_known(field.name.removeprefix(SCORE), said), version=said["version"]))
    return found


def _known(name: str, said: Mapping[str, str]) -> Filter:
    try:
        return parse(f"{said['filter']}={said['threshold']}")
    except ValueError:
        keeps, threshold = said.get("keeps", ""), float(said["threshold"])
        if keeps not in (">=", "<=") or not math.isfinite(threshold):
            raise
        return Filter(name, "", threshold, keeps, "", said.get("needs", ""))


def is_known(each: Filter) -> bool:
    """Whether a filter of ``stored`` can give scores here."""
    return type(each) is not Filter


def prepare(table: Table, specs: Sequence[str] = (), workers: int = 0) -> Scorer:
    """A scorer of filters by name (``NAME[:MODEL][=THRESHOLD]``), and the room made ready for it: a column whose
    version is another one is removed, to be computed anew; a threshold that is given is written.

    Where no filter is named, those that the room has; in a room without, the default ones. Raises ValueError.
    """
    there = {each.name: each for each in stored(table)}
    chosen = []
    for spec in dict.fromkeys(specs or [each.spec for each in there.values() if is_known(each)] or DEFAULT):
        name, given, number = spec.partition("=")
        each = parse(f"{there[name].spec}{given}{number}" if name in there else spec)  # the room knows its model
        before = there.get(each.name)
        if before is not None and "=" not in spec:
            each = replace(each, threshold=before.threshold)
        chosen.append(each)
    names = [each.name for each in chosen]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"filter: {twice[0]} is named twice; name it once")
    for each in chosen:
        each.load()
    old = [each.column for each in chosen if each.name in there and there[each.name].version != each.version]
    if old:
        table.drop_columns(old)
    scorer = Scorer(chosen, workers)
    table.add_columns(scorer.fields)
    now = {each.name: each.threshold for each in stored(table)}
    changed = {each.column: each.metadata for each in chosen if now.get(each.name) != each.threshold}
    if changed:
        with table.lock() as dataset:
            dataset.update_field_metadata(changed)
            table.refresh()
    return scorer


def decide(table: Table) -> str:
    """Say in the column ``kept`` which photographs pass every filter that the room has scores by: true, false, or null
    where it depends on a score that is missing. A filter holds nothing back that lacks what it needs, like a caption.
    Returns that in SQL."""
    condition = " AND ".join(f"({each.passes})" for each in stored(table))
    with table.lock() as dataset:
        if KEPT in dataset.schema.names:
            dataset.drop_columns([KEPT])
        if condition:
            dataset.add_columns({KEPT: condition})
        table.refresh()
    return condition


@dataclass(frozen=True)
class Filtered:
    """What filters say of the photographs of a room.

    Attributes:
        filters: with their thresholds.
        counts: name -> photographs that it keeps, drops, and does not judge.
        kept, dropped, unknown: by all filters of the room together.
        computed: photographs that got a score now.
    """

    filters: list[Filter]
    counts: dict[str, tuple[int, int, int]]
    kept: int
    dropped: int
    unknown: int
    computed: int

    @property
    def text(self) -> str:
        lines = [f"{'filter':<14}{'keeps':>10}{'kept':>12}{'dropped':>20}{'not judged':>12}"]
        for each in self.filters:
            kept, dropped, unknown = self.counts[each.name]
            share = f"{dropped:,} ({dropped / max(1, kept + dropped):.1%})"
            lines.append(f"{each.name:<14}{f'{each.keeps} {each.threshold:g}':>10}{kept:>12,}{share:>20}{unknown:>12,}")
        for each in self.filters:
            if not is_known(each):
                lines.append(f"{each.name}: this filter is not known here, so photographs without its score get none")
        share = f"{self.dropped:,} ({self.dropped / max(1, self.kept + self.dropped):.1%})"
        return "\n".join([*lines, f"{'all':<14}{'':>10}{self.kept:>12,}{share:>20}{self.unknown:>12,}"])


def filter_room(
    table: Table,
    specs: Sequence[str] = (),
    where: str | None = None,
    workers: int = 0,
    done: Callable[[int], None] = lambda count: None,
    compute: Callable[[Table, Scorer, str | None], int] | None = None,
) -> Filtered:
    """Score the photographs that lack scores, and decide which are kept. ``compute`` fills a scorer's columns elsewhere
    (``photofound.room.spread.score``)."""
    table.count(where)  # a mistake in it is an error before anything is changed
    scorer = prepare(table, specs, workers)
    if compute is not None:
        computed = compute(table, scorer, where)
    else:
        computed = table.fill(scorer.fields, scorer, scorer.read, where, done=done, lacking=scorer.lacking)
    decide(table)
    return summary(table, where, computed)


def summary(table: Table, where: str | None = None, computed: int = 0) -> Filtered:
    """Count what the room's filters keep and drop."""
    filters = stored(table)

    def count(condition: str) -> int:
        return table.count(f"({condition}) AND ({where})" if where else condition)

    counts = {}
    for each in filters:
        kept, unknown = count(each.condition), count(f"{each.column} IS NULL")
        counts[each.name] = kept, table.count(where) - kept - unknown, unknown
    if not filters:
        return Filtered([], {}, 0, 0, table.count(where), computed)
    return Filtered(filters, counts, count(KEPT), count(f"NOT {KEPT}"), count(f"{KEPT} IS NULL"), computed)


def around(table: Table, each: Filter, where: str | None = None, count: int = 7) -> dict[str, list[tuple[str, float]]]:
    """Photographs by their score, as keys with scores: the furthest from the threshold that are dropped, the nearest
    that are dropped, the nearest that are kept; up to ``count`` of each."""
    scored = f"{each.column} IS NOT NULL" + (f" AND ({where})" if where else "")
    kept, dropped = f"{scored} AND ({each.condition})", f"{scored} AND NOT ({each.condition})"
    nearest = _first(table, each, dropped, 1, count)
    return {
        "dropped, furthest": [one for one in _first(table, each, dropped, -1, count) if one not in nearest],
        "dropped, nearest": nearest,
        "kept, nearest": _first(table, each, kept, 1, count),
    }


def _first(table: Table, each: Filter, where: str, sign: int, count: int) -> list[tuple[str, float]]:
    """The nearest to the threshold (``sign`` 1), or the furthest (-1), in one pass."""
    best: list[tuple[float, str, float]] = []
    for batch in table.scan(["key", each.column], where, 65536):
        scores = batch[each.column].to_numpy(zero_copy_only=False)
        distance = sign * np.abs(scores - each.threshold)
        order = np.argsort(distance, kind="stable")[:count].tolist()
        best += [(float(distance[i]), batch["key"][i].as_py(), float(scores[i])) for i in order]
        best = sorted(best)[:count]
    return [(key, score) for _, key, score in best]
