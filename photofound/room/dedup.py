"""Which photographs of a room double others, by their perceptual hashes or by an embedding.

Nothing is removed. The column ``duplicate_of`` gets the key of the photograph that is kept in place of each, which is
its own key where it is kept: ``duplicate_of = key`` finds one of each, for training, exports and searches.

By embedding, vectors are compared within clusters (SemDeDup: Abbas et al., 2023, arXiv:2303.09540); each lies in its
two nearest ones, so that few pairs are lost at their borders.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from photofound.data import duplicates
from photofound.data.table import Table, query_errors
from photofound.room import vectors

COLUMN = "duplicate_of"
PREFER = "width * height"
NEAR, SIMILAR = 3, 0.96
_SHOWN = 24  # groups that are reported
_TOGETHER = 1000  # vectors of a cluster that is compared
_EXACT = 20_000  # vectors that are compared each with each
_BLOCK = 2048


@dataclass(frozen=True)
class Doubles:
    """What was found.

    Attributes:
        compared: photographs that were compared.
        doubled: those that double a kept one.
        groups: the largest, each the keys of the kept photograph and of what doubles it.
    """

    compared: int
    doubled: int
    groups: list[list[str]] = field(repr=False)

    @property
    def line(self) -> str:
        share = self.doubled / max(1, self.compared)
        return f"{self.compared:,} photographs compared; {self.doubled:,} ({share:.1%}) double others"


def dedup(
    table: Table,
    by: str = "phash",
    near: int = NEAR,
    similar: float = SIMILAR,
    prefer: str = PREFER,
    where: str | None = None,
    how: Here | None = None,
) -> Doubles:
    """Fill ``duplicate_of``, anew, for photographs that match ``where``; null for all others.

    Args:
        by: ``phash``, or a column of embeddings (``embedding_small``).
        near: bits of the perceptual hash (64) that may differ; colours must be alike, too.
        similar: cosine of the vectors, at least.
        prefer: an expression in SQL; of photographs that double each other the one with the most is kept.
        how: where the work is done; None = in this process.

    What grows with the room lies in files beside it; memory is some 60 bytes a photograph. Raises ValueError.
    """
    import pyarrow as pa

    how = how or Here()
    if not 0 < similar <= 1:
        raise ValueError(f"dedup: similar={similar} is no cosine; give one from 0 to 1, such as {SIMILAR}")
    with tempfile.TemporaryDirectory(dir=table.folder, prefix=".dedup-") as folder:
        rows = Rows(Path(folder), table, by, prefer, where)
        kept = rows.kept_by_hash(near, how) if by == "phash" else rows.kept_by_vector(similar, how)
        kept.tofile(Path(folder) / "kept")
        table.drop_columns([COLUMN] if COLUMN in table.columns else [])
        about = {"by": by, "threshold": str(near if by == "phash" else similar), "prefer": prefer}
        how.fill(table, pa.field(COLUMN, pa.string(), metadata=about), Answer(Path(folder)), where)
        doubled = np.flatnonzero(kept != np.arange(len(kept)))
        return Doubles(len(kept), len(doubled), rows.largest(kept, doubled))


class Here:
    """Work in this process; ``photofound.room.spread`` does the same on a cluster."""

    def pairs_by_hash(self, rows: Rows, near: int) -> duplicates.Pairs:
        return duplicates.near_pairs(rows.bits, near, rows.colours)

    def pairs_by_vector(self, rows: Rows, similar: float) -> duplicates.Pairs:
        return similar_pairs(rows.vectors, similar)

    def fill(self, table: Table, field: Any, answer: Answer, where: str | None) -> None:
        table.fill([field], answer, ["key"], where, batch=4096)


class Answer:
    """Which photograph is kept in place of which, in files: photographs by their keys, and the number of the kept one.

    What ``Table.fill`` calls. Can be sent to other processes that see the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    @cached_property
    def _keys(self) -> np.ndarray:
        return _mapped(self.folder / "keys", np.uint8, 32)

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """The first 64 bits of the keys, sorted, and whose they are."""
        order = _mapped(self.folder / "order", np.int64, 1)[:, 0]
        return _mapped(self.folder / "short", np.uint64, 1)[:, 0], order

    @cached_property
    def _kept(self) -> np.ndarray:
        return _mapped(self.folder / "kept", np.int64, 1)[:, 0]

    def find(self, keys: list[str]) -> np.ndarray:
        """(M,) indices of photographs by their keys; -1 for what was added meanwhile."""
        short, order = self._sorted
        if not len(order):
            return np.full(len(keys), -1)
        first = np.array([int(key[:16], 16) for key in keys], np.uint64)
        index = order[np.minimum(np.searchsorted(short, first), len(order) - 1)]
        wanted = np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(-1, 32)
        return np.where((self._keys[index] == wanted).all(axis=1), index, -1)

    def __call__(self, batch: Any) -> dict[str, Any]:
        import pyarrow as pa

        index = self.find(batch["key"].to_pylist())
        names = [bytes(self._keys[self._kept[i]]).hex() if i >= 0 else None for i in index.tolist()]
        return {COLUMN: pa.array(names, pa.string())}


class Rows:
    """What is compared, in files: keys (N, 32) bytes, and hashes and colours, or vectors (N, D)."""

    def __init__(self, folder: Path, table: Table, by: str, prefer: str, where: str | None) -> None:
        hashes = by == "phash"
        self.folder = folder
        if not hashes and by not in table.vectors():
            there = ", ".join(["phash", *table.vectors()])
            raise ValueError(f"dedup: {by!r} is nothing to compare by; there are {there}")
        present = "phash IS NOT NULL AND colours IS NOT NULL" if hashes else f"{by} IS NOT NULL"
        columns = {"key": "key", "quality": f"CAST({prefer} AS DOUBLE)"}
        columns |= {name: name for name in (("phash", "colours") if hashes else (by,))}
        quality = []
        width = 0 if hashes else table.dataset.schema.field(by).type.list_size
        paths = [folder / name for name in ("keys", "one", "other")]
        with open(paths[0], "wb") as keys, open(paths[1], "wb") as one, open(paths[2], "wb") as other:
            with query_errors(prefer, table):
                for batch in table.scan(columns, f"({where}) AND {present}" if where else present, 8192):
                    keys.write(bytes.fromhex("".join(batch["key"].to_pylist())))
                    quality.append(np.nan_to_num(batch["quality"].to_numpy(zero_copy_only=False), nan=-np.inf))
                    if hashes:
                        one.write(batch["phash"].to_numpy().tobytes())
                        other.write(b"".join(batch["colours"].to_pylist()))
                    else:
                        one.write(vectors.matrix(batch[by]).astype(np.float16).tobytes())
        self.quality = np.concatenate(quality) if quality else np.zeros(0)
        self.count = len(self.quality)
        self.keys = _mapped(paths[0], np.uint8, 32)
        if hashes:
            self.bits, self.colours = mapped_hashes(folder)
        else:
            self.vectors = mapped_vectors(folder, width)
        short = self.keys[:, :8].copy().view(">u8")[:, 0].astype(np.uint64)  # a SHA-256's first 64 bits
        order = np.argsort(short)
        short[order].tofile(folder / "short")
        order.tofile(folder / "order")
        # Equal qualities are told apart by their keys, so that the answer is the same whatever was added first.
        self.rank = np.empty(self.count, np.int64)
        self.rank[order[np.argsort(-self.quality[order], kind="stable")]] = np.arange(self.count)

    def key(self, index: int) -> str:
        return bytes(self.keys[index]).hex()

    def kept_by_hash(self, near: int, how: Here) -> np.ndarray:
        pairs = how.pairs_by_hash(self, near)
        alike = duplicates.fingerprints_alike(self.bits, self.colours, near)
        return duplicates.representatives(self.count, duplicates.groups(self.count, pairs), alike, self.rank)

    def kept_by_vector(self, similar: float, how: Here) -> np.ndarray:
        def alike(one: int, others: np.ndarray) -> np.ndarray:
            return self.vectors[others].astype(np.float32) @ self.vectors[one].astype(np.float32) >= similar

        groups = duplicates.groups(self.count, how.pairs_by_vector(self, similar))
        return duplicates.representatives(self.count, groups, alike, self.rank)

    def largest(self, kept: np.ndarray, doubled: np.ndarray) -> list[list[str]]:
        firsts, counts = np.unique(kept[doubled], return_counts=True)
        found = []
        for first in firsts[np.argsort(-counts, kind="stable")[:_SHOWN]].tolist():
            members = doubled[kept[doubled] == first]
            found.append([self.key(index) for index in [first, *members.tolist()]])
        return found


def similar_pairs(found: np.ndarray, similar: float) -> duplicates.Pairs:
    """Pairs of vectors (N, D) of length 1 whose cosine is ``similar`` or more: all of them up to 20,000 vectors, above
    that those that share one of their two nearest clusters of some 1,000."""
    middles = centres(found)
    for rows in cells([nearest(found, middles, part) for part in chunks(len(found))]):
        yield from pairs_of_cell(found, rows, similar)


def centres(found: np.ndarray) -> np.ndarray:
    """(K, D) of the clusters that vectors are compared in; one where there are few vectors."""
    count = len(found)
    if count <= _EXACT:
        return np.zeros((1, found.shape[1]), np.float32)
    spread = found[:: -(-count // 50_000)].astype(np.float32)
    return vectors.kmeans(spread, min(4096, count // _TOGETHER), rounds=10)


def chunks(count: int) -> list[slice]:
    """Parts of the vectors to be given to ``nearest``."""
    return [slice(start, start + 8192) for start in range(0, count, 8192)]


def nearest(found: np.ndarray, middles: np.ndarray, part: slice) -> np.ndarray:
    """(M, 2) int32: the two nearest centres of some vectors, or (M, 1) of the only one."""
    some = found[part]
    if len(middles) == 1:
        return np.zeros((len(some), 1), np.int32)
    return np.argpartition(-(some.astype(np.float32) @ middles.T), 1, axis=1)[:, :2].astype(np.int32)


def cells(near: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each centre the indices of the vectors that it is near to, of all ``nearest`` in their order."""
    if not near:
        return []
    every = np.concatenate(near)
    order = np.argsort(every.ravel(), kind="stable")
    edges = np.flatnonzero(np.diff(every.ravel()[order])) + 1
    return [rows // every.shape[1] for rows in np.split(order, edges)]


def pairs_of_cell(found: np.ndarray, rows: np.ndarray, similar: float) -> duplicates.Pairs:
    """Pairs of some vectors, each compared with each."""
    inside = found[rows].astype(np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = inside[start : start + _BLOCK] @ inside[start:].T >= similar
        i, j = np.nonzero(np.triu(block, 1))
        if len(i):
            yield rows[start + i], rows[start + j]


def mapped_hashes(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N,) uint64 and (N, 48) uint8 that ``Rows`` has written."""
    return _mapped(folder / "one", np.uint64, 1)[:, 0], _mapped(folder / "other", np.uint8, 3 * duplicates.PLACES**2)


def mapped_vectors(folder: Path, width: int) -> np.ndarray:
    """(N, D) float16 that ``Rows`` has written."""
    return _mapped(folder / "one", np.float16, width)


def _mapped(path: Path, kind: type, width: int) -> np.ndarray:
    """(N, width): the numbers of a file, read when they are asked for."""
    if not path.stat().st_size:
        return np.zeros((0, width), kind)
    return np.memmap(path, kind, "r").reshape(-1, width)
