"""Rows of parquet files, in row groups, which are finer to shuffle and to share out than files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from photofound import files, remote
from photofound.data.ledger import DAMAGED_COLUMN as DAMAGED
from photofound.data.ledger import error_text

_BUFFER = 2**20  # bytes that are read at once; without it pyarrow reads a whole row group into memory


def parts(paths: list[str]) -> list[tuple[str, int | None]]:
    """Files in their row groups; those behind a URL, and those that are damaged, as a whole."""
    import pyarrow.parquet as pq

    found: list[tuple[str, int | None]] = []
    for path in paths:
        try:
            groups = range(0 if files.local(path) is None else pq.ParquetFile(path).num_row_groups)
        except Exception as error:
            if len(paths) == 1:
                raise ValueError(error_text(error)) from None
            groups = range(0)
        found += [(path, group) for group in groups] or [(path, None)]
    return found


def read(
    part: tuple[str, int | None], start: int = 0, step: int = 1, opener: files.Opener = files.open_file
) -> Iterator[dict[str, Any]]:
    """Every ``step``-th row of a part from number ``start`` on; a damaged one ends with a row that says so."""
    yield from itertools.islice(_rows(*part, opener), start, None, step)


def _rows(path: str, group: int | None, opener: files.Opener) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    try:
        with opener(path) as file:
            groups = None if group is None else [group]
            for row in pq.ParquetFile(file, buffer_size=_BUFFER).iter_batches(1, groups):
                if row.nbytes > files.MAX_BYTES:
                    yield {"name": path, DAMAGED: f"a row of it has more than {files.MAX_BYTES:,} bytes"}
                else:
                    yield from row.to_pylist()
    except remote.Unreachable:  # no fault of the file's
        raise
    except Exception as error:  # pyarrow raises nearly anything
        yield {"name": path, DAMAGED: f"cannot be read ({error_text(error)})"}
