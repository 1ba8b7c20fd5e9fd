"""Photographs removed from a room: from every version, from the indices, and from the disk."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from photofound import files
from photofound.data.table import Table, lance
from photofound.room import optout, readers
from photofound.room.describe import sha256
from photofound.room.search import CAPTIONS

logger = logging.getLogger(__name__)

_COLUMNS = ("key", "hash", "source", "collection", "name", "meta")
_FRAGMENT = 8192  # photographs that a fragment should have when fragments are written again
_AT_ONCE = 2048  # keys of one deletion


@dataclass
class Forgotten:
    """What was removed.

    Attributes:
        keys: of the photographs, in any version.
        readers: who has read how many of them.
        version: the only one that is left.
    """

    keys: list[str] = field(default_factory=list)
    readers: list[tuple[readers.Reader, int]] = field(default_factory=list)
    version: int = 0


Matches = Callable[[dict[str, Any]], bool]


def of_source(source: str) -> Matches:
    """Matches what is from a source: by name, by the SOURCE that was added, by domain, or below a folder."""
    places = optout.OptOut([source, os.path.abspath(source)])

    def matches(row: dict[str, Any]) -> bool:
        return _place_matches(places, row)

    return matches


def of_hash(digest: str | Path) -> Matches:
    """Matches one file, by its SHA-256 or the beginning of it (8 digits or more), or by the file itself.

    Raises ValueError for anything else.
    """
    if Path(digest).is_file():
        digest = sha256(Path(digest).read_bytes())
    digest = str(digest).lower().removeprefix("sha256:")
    if len(digest) < 8 or set(digest) - set("0123456789abcdef"):
        raise ValueError(f"--hash: {digest!r} is neither a file nor 8 to 64 digits of its SHA-256")
    return lambda row: row["key"].startswith(digest) or row["hash"].startswith(digest)


def of_list(listed: optout.OptOut) -> Matches:
    """Matches what has opted out."""
    return lambda row: listed.has_hash(row["key"], row["hash"]) or _place_matches(listed, row)


def _place_matches(places: optout.OptOut, row: dict[str, Any]) -> bool:
    return places.has_place(row["source"], row["collection"], row["name"], meta=json.loads(row["meta"] or "{}"))


def forget(table: Table, matches: Matches, source: str | None = None) -> Forgotten:
    """Remove photographs from every version. Their bytes are gone from the folder, and so are all older versions:
    there is no rollback past this. Later adds leave them out: their hashes, and ``source``, join the opt-out list.

    Raises ValueError while another process adds to the room, which could bring them back.
    """
    noted = [row | {"hash": row["key"], "name": "", "meta": ""} for row in optout.other_sources(table.folder)]
    others = {row["key"] for row in noted if matches(row)}
    rows = {row["key"]: row for row in _found(table, lambda row: row["key"] in others or matches(row))}
    entries = [digest for row in rows.values() for digest in dict.fromkeys((row["key"], row["hash"]))]
    with table.writing(alone=True), table.lock() as dataset:
        note = f"forgotten {datetime.now(UTC).date()}"
        optout.extend(table.folder, [*entries, *([source] if source else [])], note)
        if rows:
            _remove(dataset, sorted(rows))
            left = [row for row in optout.other_sources(table.folder) if row["key"] not in rows]
            files.write(table.folder / optout.SOURCES, "".join(json.dumps(row) + "\n" for row in left))
        table.refresh()
    return Forgotten(sorted(rows), readers.who_saw(table.folder, rows), table.dataset.version)


def _found(table: Table, matches: Matches) -> Iterator[dict[str, Any]]:
    """The rows that match, in the newest version and in what older ones have besides."""
    seen: set[str] = set()
    versions = [each["version"] for each in table.dataset.versions()]
    for version in sorted(versions, reverse=True):
        old = Table(table.folder, version)
        new = []
        for fragment in old.dataset.get_fragments():
            paths = {each.path for each in fragment.data_files()}
            if not paths <= seen:
                new.append(fragment.fragment_id)
            seen |= paths
        if new:
            for batch in old.scan(_COLUMNS, fragments=new, include_deleted_rows=False):
                yield from (row for row in batch.to_pylist() if matches(row))


def _remove(dataset: Any, keys: list[str]) -> None:
    """Delete the rows, write their fragments again without them, and delete all other versions and their files."""
    for part in (keys[i : i + _AT_ONCE] for i in range(0, len(keys), _AT_ONCE)):
        dataset.delete(f"key IN ({', '.join(repr(key) for key in part)})")
    for index in dataset.describe_indices():
        if set(index.field_names) & set(CAPTIONS):  # its words are of photographs that are gone; search makes it again
            dataset.drop_index(index.name)
    largest = max((fragment.count_rows() for fragment in dataset.get_fragments()), default=0)
    dataset.optimize.compact_files(
        target_rows_per_fragment=max(_FRAGMENT, largest),
        materialize_deletions=True,
        materialize_deletions_threshold=0.0,
    )
    dataset = lance().dataset(dataset.uri)
    for name, tag in dataset.tags.list().items():
        if tag["version"] != dataset.version:
            logger.warning("room: the tag %s named a version that is gone, and is deleted", name)
            dataset.tags.delete(name)
    dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
