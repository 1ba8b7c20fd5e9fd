"""Photographs of any source, chosen by their metadata, in memory."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from photofound.data import sources
from photofound.data.ledger import Ledger, without_damaged
from photofound.data.photograph import Photograph, from_row


def read(
    folder: str,
    short_side: int,
    only: Mapping[str, Sequence[str]],
    without: Mapping[str, Sequence[str]],
    limit: int | None = None,
) -> list[Photograph]:
    """Photographs of any source that ``photofound.data.sources`` reads, chosen by their metadata, scaled down to a
    short side of ``short_side``.

    Damaged ones are left out and named in the log. Raises ValueError when none is left, or when more than 1 % of them
    are damaged.
    """
    source = sources.Source(folder)

    def chosen(row: Mapping[str, Any]) -> bool:
        wanted = all(str(row.get(key)) in values for key, values in only.items())
        return wanted and not any(str(row.get(key)) in values for key, values in without.items())

    ledger = Ledger()
    found = (raw for raw in _raws(source, ledger) if chosen(raw.row))
    picked = list(found) if limit is None else heapq.nsmallest(limit, found, key=lambda raw: _hash(Path(raw.name).name))
    ledger.check(least=1)
    if not picked:
        raise ValueError(f"data: {folder} has no photograph with {dict(only)} and without {dict(without)}; change them")
    with ThreadPoolExecutor(4) as pool:
        return without_damaged(list(pool.map(lambda raw: _photograph(raw, short_side), picked)))


def _raws(source: sources.Source, ledger: Ledger) -> Iterator[sources.Raw]:
    """What the rows of a source hold, without the damaged ones."""
    for row in sources.open_source(source):
        ledger.seen += 1
        try:
            yield sources.raw(row, source)
        except Exception as error:
            ledger.skip(str(row.get("name") or source.path), error)


def _photograph(raw: sources.Raw, short_side: int) -> Photograph | tuple[str, Exception]:
    """The photograph, or its name and what is wrong with it."""
    try:
        return from_row(raw, short_side)
    except Exception as error:
        return raw.name, error


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode()).digest()
