"""Photographs like one, or of words: nearest neighbours, exact in small rooms, by an index (IVF-PQ) in large ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from photofound import files
from photofound.data.table import Table, query_errors, worded
from photofound.room.describe import pixels_of
from photofound.room.vectors import Network, column_of

INDEX_FROM = 100_000
"""Photographs from which on a room gets indices; below, reading all is as fast, and exact."""
CAPTIONS = ("caption", "caption_short", "caption_dense")
SHOWN = ("key", "source", "name", "licence", "width", "height", "caption")
PROBES, REFINE = 64, 10  # partitions that are looked into, and how many times the results are compared exactly


@dataclass(frozen=True)
class Found:
    """A photograph that was found.

    Attributes:
        distance: 1 - cosine of the embeddings, 0: the same, 2: the opposite; None for captions.
        score: of captions, how well they match (BM25); None for embeddings.
    """

    key: str
    source: str
    name: str
    licence: str
    width: int
    height: int
    caption: str | None = None
    distance: float | None = None
    score: float | None = None


def column_for(table: Table, embedding: str | None) -> str:
    """The column of vectors that a query uses: a network's, or the first. Raises ValueError where there is none."""
    vectors = table.vectors()
    if embedding is None and vectors:
        return next(iter(vectors))
    for column, network in vectors.items():
        if embedding in (column, network) or (embedding and column_of(embedding) == column):
            return column
    has = f"it has {', '.join(vectors.values())}" if vectors else "it has none"
    raise ValueError(
        f"{table.folder}: has no embedding{f' by {embedding}' if embedding else ''}, {has}; see 'room embed'"
    )


def like(
    table: Table, picture: str | Path, where: str | None, limit: int, embedding: str | None, exact: bool = False
) -> list[Found]:
    """The photographs nearest to a file by their embedding, the nearest first.

    Raises OSError and ValueError for a file that is no picture, a filter that cannot be read, a room without
    embeddings.
    """
    column = column_for(table, embedding)
    network = Network(table.vectors()[column])
    vector = network.pictures([pixels_of(files.read(picture))])[0]
    return nearest(table, column, vector, where, limit, exact)


def nearest(
    table: Table, column: str, vector: np.ndarray, where: str | None, limit: int, exact: bool = False
) -> list[Found]:
    """The photographs nearest to a vector (D,) of length 1."""
    nearest = {"column": column, "q": vector, "k": limit, "metric": "cosine"}
    nearest |= {"use_index": False} if exact else {"nprobes": PROBES, "refine_factor": REFINE}
    with query_errors(where, table):
        found = table.dataset.scanner([*SHOWN, "_distance"], filter=where, nearest=nearest, prefilter=True).to_table()
    rows = found.rename_columns([name if name != "_distance" else "distance" for name in found.column_names])
    return [Found(**row) for row in rows.to_pylist()]


def words(table: Table, text: str, where: str | None, limit: int, embedding: str | None) -> tuple[list[Found], str]:
    """The photographs that words describe, and how they were found, for people.

    By a network of the room that knows words; where there is none, by the words of the captions.

    Raises ValueError where the room has neither.
    """
    vectors = table.vectors()
    chosen = {column_for(table, embedding): ""} if embedding else vectors
    for column in chosen:
        network = Network(vectors[column])
        try:
            vector = network.words(text)
        except ValueError as error:
            if embedding and "knows no" not in str(error):
                raise
            continue
        return nearest(table, column, vector, where, limit), f"by {network.name}"
    advice = (
        f"text needs a model of text and images: 'photofound room embed {table.folder} --network ID' with a CLIP's id"
    )
    if not _has_captions(table):
        raise ValueError(f"{table.folder}: {advice}; and it has no captions to search in their place")
    return _by_captions(table, text, where, limit), f"by the words of captions; {advice}"


def _has_captions(table: Table) -> bool:
    return table.count(" OR ".join(map(worded, CAPTIONS))) > 0


def _by_captions(table: Table, text: str, where: str | None, limit: int) -> list[Found]:
    """By BM25 over all captions. The index is made when it is first needed, and follows the table."""
    from lance.query import MultiMatchQuery

    _index_captions(table)
    with query_errors(where, table):
        found = table.dataset.scanner(
            [*SHOWN, "_score"], filter=where, full_text_query=MultiMatchQuery(text, list(CAPTIONS)), prefilter=True,
            limit=limit,
        ).to_table()  # fmt: skip
    rows = found.rename_columns([name if name != "_score" else "score" for name in found.column_names])
    return sorted((Found(**row) for row in rows.to_pylist()), key=lambda each: -(each.score or 0))


def _index_captions(table: Table) -> None:
    """Each caption column gets its index; photographs that were added since are searched without it."""
    missing = [column for column in CAPTIONS if column not in _indexed(table)]
    if missing:
        with table.lock() as dataset:
            for column in missing:
                dataset.create_scalar_index(column, "INVERTED", with_position=False)
            table.refresh()


def _indexed(table: Table) -> set[str]:
    return {field for index in table.dataset.describe_indices() for field in index.field_names}


def index(table: Table, force: bool = False) -> Sequence[str]:
    """Make or renew the indices of a large room: of keys, and of every embedding. Returns the columns that got one.

    An index of vectors is made anew when more than a tenth of the photographs are not in it; until then those are
    compared one by one, beside it.
    """
    count = table.refresh().count_rows()
    if count < INDEX_FROM and not force:
        return []
    done = []
    with table.writing():  # without the lock: others may add meanwhile
        dataset = table.dataset
        missing = {c: _missing(dataset, c, count) for c in ("key", "hash", *table.vectors())}
        for column in (column for column in ("key", "hash") if missing[column]):
            dataset.create_scalar_index(column, "BTREE", replace=True)
            done.append(column)
        for column in (column for column in table.vectors() if missing[column] > 0.1 * count):
            create_vector_index(dataset, column, count)
            done.append(column)
    table.refresh()
    return done


def _missing(dataset: Any, column: str, count: int) -> int:
    """How many rows the index of a column lacks; all of them where there is none."""
    for found in dataset.describe_indices():
        if column in found.field_names:
            return max(0, count - int(found.num_rows_indexed))
    return count


def create_vector_index(dataset: Any, column: str, count: int) -> None:
    """IVF-PQ: about the square root of the photographs as partitions, four dimensions to a byte."""
    width = dataset.schema.field(column).type.list_size
    parts = next((n for n in (width // 4, width // 8, width // 2, 16, 8, 4, 2) if n and width % n == 0), 1)
    partitions = max(1, min(round(count**0.5), count // 256))
    dataset.create_index(
        column, "IVF_PQ", metric="cosine", num_partitions=partitions, num_sub_vectors=parts, replace=True
    )
