"""Counts and distributions of a room, and how they drift between versions. One pass, in bounded memory."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from photofound.data.table import SCORE, Table, worded
from photofound.edits.colours import colour_names
from photofound.room import vectors
from photofound.room.search import CAPTIONS

SIDES = (256, 384, 512, 768, 1024, 1536, 2048)
ASPECTS = (0.5, 0.67, 0.9, 1.12, 1.5, 2.0)
_MOST = 20  # rows of a distribution of names; the others are counted together
_CLUSTER_SAMPLE = 20_000  # vectors, where the room's photographs have no clusters yet
_COLUMNS = ("width", "height", "aspect", "bytes", "format", "licence", "source", "colours", "tags")


@dataclass
class Stats:
    """What is in a room.

    Attributes:
        version: of the table.
        photographs, bytes: how many, and how large their files are together.
        tables: title -> name -> photographs: short side, aspect, format, source, licence, colour, has, cluster, tags.
        scores: column -> its quartiles: least, 25 %, median, 75 %, most.
        sampled: how many photographs the clusters were found among; 0 where the column ``cluster`` has them.
        centres: cluster -> key of photographs near its middle, the nearest first.
        mean: the mean of the vectors, (D,), by their column; what drift compares.
    """

    version: int
    photographs: int = 0
    bytes: int = 0
    tables: dict[str, dict[str, int]] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    sampled: int = 0
    centres: dict[str, list[str]] = field(default_factory=dict)
    mean: dict[str, np.ndarray] = field(default_factory=dict, repr=False)


def stats(table: Table, where: str | None = None, pictures: int = 8) -> Stats:
    """Count the photographs that match. ``pictures``: how many of each cluster are named."""
    made = Stats(table.dataset.version)
    counts: dict[str, Counter[str]] = {
        title: Counter() for title in ("short side", "aspect", "colour", "format", "source", "licence", "has", "tags")
    }
    has = ("mask", "foreground", *CAPTIONS, "reference", *table.vectors())
    presence = {f"has_{name}": worded(name) if name in CAPTIONS else f"{name} IS NOT NULL" for name in has}
    columns = {name: name for name in _COLUMNS} | presence
    for batch in table.scan(columns, where, 4096):
        made.photographs += len(batch)
        made.bytes += int(np.sum(_numbers(batch["bytes"])))
        sides = np.minimum(_numbers(batch["width"]), _numbers(batch["height"]))
        counts["short side"].update(bins(sides, SIDES))
        counts["aspect"].update(bins(_numbers(batch["aspect"]), ASPECTS))
        counts["colour"].update(_colours(batch["colours"].to_pylist()))
        for name in ("format", "source", "licence"):
            counts[name].update((value or "").strip() or "unknown" for value in batch[name].to_pylist())
        counts["tags"].update(tag for tags in batch["tags"].to_pylist() for tag in tags or ())
        for name in presence:
            counts["has"][name.removeprefix("has_")] += int(np.sum(_numbers(batch[name])))
    made.tables = {
        "short side": _ordered(counts["short side"], SIDES),
        "aspect": _ordered(counts["aspect"], ASPECTS),
        **{title: _most(counts[title]) for title in ("colour", "format", "source", "licence", "has", "tags")},
    }
    _scores(table, where, made)
    _clusters(table, where, made, pictures)
    return made


def _numbers(column: Any) -> np.ndarray:
    return np.asarray(column.cast("double").fill_null(0).to_numpy(zero_copy_only=False))


def bins(values: np.ndarray, edges: Sequence[float]) -> list[str]:
    """The name of the interval that each value lies in."""
    names = _names(edges)
    return [names[i] for i in np.searchsorted(edges, values, side="right")]


def _names(edges: Sequence[float]) -> list[str]:
    return [f"below {edges[0]}", *(f"{a} to {b}" for a, b in itertools.pairwise(edges)), f"from {edges[-1]}"]


def _ordered(counts: Counter[str], edges: Sequence[float]) -> dict[str, int]:
    return {name: counts[name] for name in _names(edges) if counts[name]}


def _most(counts: Counter[str]) -> dict[str, int]:
    """The most frequent ones; the rest together."""
    most = len(counts) if len(counts) == _MOST + 1 else _MOST
    found = {name: count for name, count in counts.most_common(most) if count}
    rest = sum(counts.values()) - sum(found.values())
    return found | ({f"{len(counts) - len(found)} others": rest} if rest else {})


def _colours(places: Sequence[bytes | None]) -> list[str]:
    """The most frequent colour of each picture, by name, of its 4 x 4 places."""
    known = [each for each in places if each is not None and len(each) == 48]
    if not known:
        return []
    names = colour_names(np.frombuffer(b"".join(known), np.uint8).reshape(-1, 3).astype(np.float32))
    return [Counter(names[i : i + 16]).most_common(1)[0][0] for i in range(0, len(names), 16)]


def _scores(table: Table, where: str | None, made: Stats) -> None:
    """Quartiles of the scores of filters, of a sample."""
    for column in (name for name in table.columns if name.startswith(SCORE)):
        present = f"{column} IS NOT NULL" + (f" AND ({where})" if where else "")
        step = max(1, table.count(present) // 100_000)
        parts = [_numbers(batch[column])[::step] for batch in table.scan([column], present, 65536)]
        if parts:
            made.scores[column] = [float(q) for q in np.quantile(np.concatenate(parts), (0, 0.25, 0.5, 0.75, 1))]


def _clusters(table: Table, where: str | None, made: Stats, pictures: int) -> None:
    """The sizes of clusters and photographs near their middles, of a sample; also the mean of each kind of vector."""
    columns = list(table.vectors())
    for column in columns:
        found = vectors.sample(table, column, 5000, where)
        if len(found):
            made.mean[column] = found.mean(0)
    if not made.mean:
        return
    column = next(iter(made.mean))
    stored = vectors.CLUSTER in table.columns
    if stored:
        counts: Counter[int] = Counter()
        for batch in table.scan([vectors.CLUSTER], where, 65536):
            counts.update(value for value in batch[vectors.CLUSTER].to_pylist() if value is not None)
        column = (table.dataset.schema.field(vectors.CLUSTER).metadata or {}).get(b"vectors", column.encode()).decode()
    keys, found, numbers = _sampled(table, column, where, stored)
    if stored:
        chosen = [number for number, _ in counts.most_common(_MOST)]
    else:
        numbers = np.argmax(found @ vectors.kmeans(found, vectors.default_clusters(len(found))).T, axis=1)
        counts = Counter(numbers.tolist())
        chosen = [number for number, _ in counts.most_common()]
        made.sampled = len(found)
    made.tables["cluster"] = {str(number): counts[number] for number in chosen}
    for number in chosen:
        members = np.flatnonzero(numbers == number)
        middle = found[members].mean(0) if len(members) else np.zeros(found.shape[1])
        order = members[np.argsort(-(found[members] @ middle), kind="stable")]
        made.centres[str(number)] = [keys[i] for i in order[:pictures]]


def _sampled(table: Table, column: str, where: str | None, stored: bool) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Keys, vectors and stored clusters of up to ``_CLUSTER_SAMPLE`` photographs, spread evenly."""
    present = f"{column} IS NOT NULL" + (f" AND ({where})" if where else "")
    step = max(1, -(-table.count(present) // _CLUSTER_SAMPLE))
    keys, rows, numbers, seen = [], [], [], 0
    for batch in table.scan(["key", column, *([vectors.CLUSTER] if stored else [])], present):
        every = slice(-seen % step, None, step)
        keys += batch["key"].to_pylist()[every]
        rows.append(vectors.matrix(batch[column])[every])
        if stored:
            numbers.append(np.asarray(batch[vectors.CLUSTER].fill_null(-1))[every])
        seen += len(batch)
    return keys, np.concatenate(rows), np.concatenate(numbers) if numbers else np.zeros(len(keys), int)


# --------------------------------------------------------------------------------------------------------------- drift


@dataclass(frozen=True)
class Drift:
    """How a distribution has changed. ``divergence``: of Jensen and Shannon in bits, 0: none, 1: nothing in common."""

    title: str
    divergence: float
    changes: list[tuple[str, float, float]]  # name, share before, share now; the largest changes first


def drift(before: Stats, now: Stats) -> list[Drift]:
    """How the distributions of a room have changed between two versions, the largest change first."""
    found = []
    for title in ("short side", "aspect", "colour", "format", "source", "licence", "cluster"):
        old, new = before.tables.get(title, {}), now.tables.get(title, {})
        if title == "cluster" and (before.sampled or now.sampled):  # clusters of samples have no lasting numbers
            continue
        names = [*dict.fromkeys([*old, *new])]
        if not names or not sum(old.values()) or not sum(new.values()):
            continue
        p, q = (np.array([each.get(name, 0) for name in names]) / sum(each.values()) for each in (old, new))
        order = np.argsort(-np.abs(q - p), kind="stable")[:5]
        changes = [(names[i], float(p[i]), float(q[i])) for i in order if p[i] != q[i]]
        found.append(Drift(title, divergence(p, q), changes))
    for column in before.mean.keys() & now.mean.keys():
        means = [vectors.unit(each.mean[column][None])[0] for each in (before, now)]
        found.append(Drift(f"mean of {column}", float(1 - means[0] @ means[1]), []))
    return sorted(found, key=lambda each: -each.divergence)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Of Jensen and Shannon (Lin, 1991), in bits: 0 to 1."""
    middle = (p + q) / 2

    def to_middle(x: np.ndarray) -> float:
        some = x > 0
        return float((x[some] * np.log2(x[some] / middle[some])).sum())

    return max(0.0, (to_middle(p) + to_middle(q)) / 2)


# ------------------------------------------------------------------------------------------------------- for a terminal


def as_text(found: Stats, drifts: Sequence[Drift] = (), since: int | None = None) -> str:
    """Tables for a terminal."""
    lines = [f"{found.photographs:,} photographs, {found.bytes / 1e6:,.1f} MB; version {found.version}"]
    for title, counts in found.tables.items():
        if counts:
            about = f" (of a sample of {found.sampled:,})" if title == "cluster" and found.sampled else ""
            lines += ["", f"{title}{about}", *_rows(counts, found.sampled if about else found.photographs)]
    if found.scores:
        lines += ["", f"{'score':<30}{'least':>10}{'25 %':>10}{'median':>10}{'75 %':>10}{'most':>10}"]
        lines += [f"{name:<30}" + "".join(f"{q:>10.3g}" for q in quartiles) for name, quartiles in found.scores.items()]
    if since is not None:
        lines += ["", f"since version {since} (Jensen-Shannon divergence, 0: none, 1: nothing in common)"]
        lines += [f"  {each.title:<28} {each.divergence:.4f}  {changed(each)}".rstrip() for each in drifts]
    return "\n".join(lines)


def changed(drift: Drift) -> str:
    """The largest changes of a distribution."""
    return ", ".join(f"{name[:30]} {before:.1%} to {now:.1%}" for name, before, now in drift.changes[:3])


def _rows(counts: Mapping[str, int], total: int) -> list[str]:
    most = max(counts.values())
    return [
        f"  {name[:44]:<44} {count:>12,} {count / max(1, total):>7.1%}  {'#' * round(24 * count / most)}".rstrip()
        for name, count in counts.items()
    ]
