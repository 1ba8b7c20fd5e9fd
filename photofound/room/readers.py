"""Which trainings and exports have read which photographs: the answer to "which models saw this picture?".

Each reading is a line of ``readers.jsonl`` in the room: who, when, by which query at which version. Which photographs
those were is a file of eight bytes each, the beginnings of their keys, sorted, named by their digest: it stays right
when the version is gone, and the same query of the same photographs is kept once.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from photofound import files
from photofound.card.record import Origin, RoomRead, count_origins
from photofound.data.table import Table
from photofound.errors import one_line

logger = logging.getLogger(__name__)

LIST, FOLDER = "readers.jsonl", "readers"


@dataclass(frozen=True)
class Reader:
    """A training or an export that has read photographs. ``kind``: ``training`` or ``export``; ``id`` of a training as
    in its record; ``name``: the folder of its run, or of the export."""

    kind: str
    name: str
    id: str
    date: str
    version: int
    where: str
    photographs: int
    digest: str


def look(table: Table, where: str | None = None) -> RoomRead:
    """What a query finds now, to be kept in the record of a training."""
    keys = _keys(table, where)
    return RoomRead(table.folder.resolve().name, table.dataset.version, where or "", len(keys), _digest(keys))


def origins(table: Table, where: str | None = None) -> tuple[Origin, ...]:
    """Sources and licences of what a query finds, and how many photographs are of each."""
    pairs = (
        pair
        for batch in table.scan(["source", "licence"], where)
        for pair in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    )
    return count_origins((source or "", licence or "") for source, licence in pairs)


def note(table: Table, where: str | None, kind: str, name: str, id: str = "") -> None:
    """Write a reading into the room, and which photographs it has read. A room that cannot be written is named in the
    log."""
    keys = _keys(table, where)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    reader = Reader(kind, name, id, date, table.dataset.version, where or "", len(keys), _digest(keys))
    if any((each.name, each.id, each.digest) == (name, id, reader.digest) for each in of_room(table.folder)):
        return  # it goes on
    try:
        path = table.folder / FOLDER / reader.digest
        path.parent.mkdir(exist_ok=True)
        if not path.is_file():
            files.write(path, keys.tobytes())
        with (table.folder / LIST).open("a") as file:
            file.write(json.dumps(vars(reader)) + "\n")
    except OSError as error:
        logger.warning(
            "room: what %s reads cannot be noted (%s); 'room forget' will not name it", name, one_line(error)
        )


def of_room(folder: Path) -> list[Reader]:
    """The readings that a room knows of."""
    path = folder / LIST
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            found.append(Reader(**json.loads(line)))
        except (ValueError, TypeError):  # half a line of a killed process
            continue
    return found


def who_saw(folder: Path, keys: Iterable[str]) -> list[tuple[Reader, int]]:
    """Who has read some of these photographs, and how many of them each has; the last first."""
    wanted = _shortened(list(keys))
    counts: dict[str, int] = {}
    found = []
    for reader in reversed(of_room(folder)):
        if reader.digest not in counts:
            path = folder / FOLDER / reader.digest
            seen: Any = np.memmap(path, np.uint64, "r") if path.is_file() and path.stat().st_size else np.zeros(0)
            place = np.minimum(np.searchsorted(seen, wanted), max(0, len(seen) - 1))
            counts[reader.digest] = int((seen[place] == wanted).sum()) if len(seen) else 0
        if counts[reader.digest]:
            found.append((reader, counts[reader.digest]))
    return found


def _keys(table: Table, where: str | None) -> np.ndarray:
    parts = [_shortened(batch["key"].to_pylist()) for batch in table.scan(["key"], where, batch=65536)]
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)


def _shortened(keys: list[str]) -> np.ndarray:
    """(N,) uint64: the first eight bytes of each key."""
    return np.array([int(key[:16], 16) for key in keys], np.uint64)


def _digest(keys: np.ndarray) -> str:
    return hashlib.sha256(keys.tobytes()).hexdigest()[:32]
