"""Photographs of any source, chosen by their metadata, in memory."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
    repeats: Mapping[str, float] | None = None,
    repeats_by_name: bool = False,
) -> list[Photograph]:
    """Photographs of any source that ``photofound.data.sources`` reads, chosen by their metadata, scaled down to a
    short side of ``short_side``.

    Args:
        repeats: folder below ``folder`` -> how often its photographs are drawn where others are drawn once.
        repeats_by_name: folders named ``N_name`` say so themselves; 0 leaves theirs out, and ``name`` is the caption of
            those that have none.

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
    counted = [_repeats(Path(raw.name), Path(folder), repeats or {}, repeats_by_name) for raw in picked]
    if unused := set(repeats or {}) - {where for where, *_ in counted}:
        raise ValueError(f"data.repeats: no photograph lies in {min(unused)!r}, below {folder}; name folders of it")
    with ThreadPoolExecutor(4) as pool:
        decoded = list(pool.map(lambda raw: _photograph(raw, short_side), picked))
    kept = [
        each if isinstance(each, tuple) else replace(each, repeats=times, caption=each.caption or caption)
        for each, (_, times, caption) in zip(decoded, counted, strict=True)
        if times
    ]
    if not kept:
        raise ValueError(f"data.repeats: they leave out every photograph of {folder}; give some folder 1 or more")
    return without_damaged(kept)


def _repeats(path: Path, top: Path, repeats: Mapping[str, float], by_name: bool) -> tuple[str | None, float, str]:
    """Which entry of ``repeats`` a photograph is under, how often it counts, and the caption of its folder's name; by
    the nearest folder that says so."""
    try:
        folders = path.relative_to(top).parts[:-1]
    except ValueError:  # a member of a tar, a row of a table
        return None, 1.0, ""
    for depth in range(len(folders), 0, -1):
        if (name := "/".join(folders[:depth])) in repeats:
            return name, repeats[name], ""
        if by_name and (match := re.fullmatch(r"(\d+)_(.+)", folders[depth - 1])):
            return None, float(match[1]), match[2]
    return None, 1.0, ""


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
