"""Rows of any Lance table with a column of pictures, and of rooms on object storage, which are read only."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from photofound import files
from photofound.data.table import TABLE, lance, query_errors

_BUFFER, _ROWS = 16 * 2**20, 16  # bytes that are read ahead of a scan, rows of a batch
_MOST_PARTS = 16384


class LancePart(NamedTuple):
    """Some of the rows of one fragment that match: from ``first`` on, ``length`` of them."""

    table: str
    version: int
    where: str | None
    fragment: int
    first: int
    length: int
    columns: tuple[str, ...]


def table_of(path: str, is_room: bool = False) -> str | None:
    """The URI of the table that a source's path names: a Lance folder, or with ``is_room`` the room at a URL; None
    where it is neither."""
    here, text = files.local(path), path.rstrip("/")
    if here is not None:
        return str(here) if (here / "_versions").is_dir() else None
    if is_room:
        return f"{text}/{TABLE}"
    return text if text.endswith(".lance") else None


def version(table: str) -> int:
    """The newest version. Raises what Lance raises."""
    return int(lance().dataset(table).version)


def parts(table: str, version: int | None, where: str | None, part: int) -> list[LancePart]:
    """The rows of a table that match, in parts of ``part``, in a large one in some ten thousand parts. Columns of
    vectors are left out.

    Raises ValueError where there are none, and for a filter that cannot be read."""
    opened = _opened(table, version or lance().dataset(table).version)
    with query_errors(where):
        counts = {each.fragment_id: each.count_rows(where) for each in opened.get_fragments()}
    columns = tuple(field.name for field in opened.schema if not _is_vector(field.type))
    part = max(part, -(-sum(counts.values()) // _MOST_PARTS))
    found = []
    for fragment, count in counts.items():
        place = (table, opened.version, where, fragment)
        found += [LancePart(*place, i, min(part, count - i), columns) for i in range(0, count, part)]
    if not found:
        raise ValueError(f"data: {table} has no row" + (f" where {where}" if where else ""))
    return found


def read(part: LancePart, start: int = 0, step: int = 1, opener: object = None) -> Iterator[dict[str, Any]]:
    """Every ``step``-th row of a part from number ``start`` on; what is null is left out."""
    if start >= part.length:
        return
    opened = _opened(part.table, part.version)
    batches = opened.scanner(
        list(part.columns),
        filter=part.where,
        fragments=[opened.get_fragment(part.fragment)],
        offset=part.first + start,
        limit=part.length - start,
        batch_size=_ROWS,
        io_buffer_size=_BUFFER,
        batch_readahead=1,
        blob_handling="all_binary",
    ).to_batches()
    for full in itertools.islice((row for batch in batches for row in batch.to_pylist()), 0, None, step):
        row = {column: value for column, value in full.items() if value is not None}
        if part.table.endswith(f"/{TABLE}") and "meta" in row:  # a room's
            row["json"] = row.pop("meta").encode()
        yield {"name": part.table} | row


def _is_vector(kind: Any) -> bool:
    import pyarrow.types as types

    lists = types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind)
    return lists and types.is_floating(kind.value_type)


@lru_cache(maxsize=16)
def _opened(table: str, version: int) -> Any:
    return lance().dataset(table, version=version)
