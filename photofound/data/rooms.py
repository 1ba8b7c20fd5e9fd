"""Rows of a room, as they are read for training: in parts that are shuffled as a whole, and weighted by cluster."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from photofound.data.ledger import DAMAGED_COLUMN, error_text
from photofound.data.table import Table, query_errors, referenced

COLUMNS = ("key", "name", "source", "collection", "licence", "image", "reference", "mask", "foreground", "caption",
           "caption_short", "caption_dense", "meta")  # fmt: skip
"""What a row has. ``meta`` is its ``.json``: what stands in it counts as columns, too."""


_MOST_PARTS = 16384


class RoomPart(NamedTuple):
    """Some of the photographs of one fragment of a room that match: from ``start`` on, ``length`` of them."""

    room: str
    version: int
    where: str | None
    fragment: int
    start: int
    length: int


def parts(room: str, version: int | None, where: str | None, part: int) -> list[RoomPart]:
    """The photographs of a room that match, in parts of ``part`` or, in a large room, in some ten thousand parts.

    Raises ValueError where there are none, and for a filter that cannot be read."""
    table = Table(room, version)
    with query_errors(where, table):
        counts = {each.fragment_id: each.count_rows(where) for each in table.dataset.get_fragments()}
    part = max(part, -(-sum(counts.values()) // _MOST_PARTS))
    found = []
    for fragment, count in counts.items():
        place = (room, table.dataset.version, where, fragment)
        found += [RoomPart(*place, start, min(part, count - start)) for start in range(0, count, part)]
    if not found:
        raise ValueError(f"data: {room} has no photograph" + (f" where {where}" if where else "; add some"))
    return found


def read(part: RoomPart, start: int = 0, step: int = 1, opener: object = None) -> Iterator[dict[str, Any]]:
    """Every ``step``-th row of a part from number ``start`` on, with the bytes of its files; one whose file cannot be
    had says so in ``DAMAGED_COLUMN``."""
    room, version, where, fragment, first, length = part
    if start >= length:
        return
    batches = _table(room, version).scan(COLUMNS, where, 16, [fragment], offset=first + start, limit=length - start)
    for full in itertools.islice((row for batch in batches for row in batch.to_pylist()), 0, None, step):
        row = {column: value for column, value in full.items() if value is not None}
        row["json"] = json.loads(row.pop("meta", "{}"))
        path, collection = row.pop("reference", None), row.pop("collection", "")
        if "image" not in row:
            try:
                row["image"] = referenced(path, collection)
            except Exception as error:
                row = {"name": row["name"], DAMAGED_COLUMN: error_text(error)}
        yield row


@lru_cache(maxsize=16)
def _table(room: str, version: int) -> Table:
    return Table(room, version)


def shares(table: Table, where: str | None, weights: Mapping[int, float], balance: float) -> dict[str, float]:
    """How much of a draw each cluster of a room gets: its filter -> its share of 1.

    Args:
        weights: cluster -> how often its photographs are drawn, relative to those of clusters that are not named (1).
        balance: 0: every photograph is drawn equally often, 1: every cluster is; between, by the power 1 - balance.

    Raises ValueError for a room without clusters, and where nothing would be drawn.
    """
    if "cluster" not in table.columns:
        raise ValueError(
            f"data: {table.folder} has no clusters; find them with 'photofound room cluster {table.folder}'"
        )
    counts: Counter[int | None] = Counter()
    for batch in table.scan(["cluster"], where):
        counts.update(batch["cluster"].to_pylist())
    drawn = {c: (1.0 if c is None else weights.get(c, 1.0)) * n ** (1 - balance) for c, n in counts.items()}
    total = sum(drawn.values())
    if not total > 0:
        raise ValueError(f"data: {table.folder} has no photograph in a cluster that is drawn; change the weights")
    found = {}
    for cluster in sorted((c for c in drawn if drawn[c] > 0), key=lambda c: -1 if c is None else c):
        only = "cluster IS NULL" if cluster is None else f"cluster = {cluster}"
        found[f"({where}) AND {only}" if where else only] = drawn[cluster] / total
    return found
