"""Mattes of a room's photographs by any segmenter, in the column ``mask``; ``mask_by`` says whose they are.

``mask_by`` is null where the source itself had a matte. Where the segmenter finds nothing, it stands alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from photofound.data.table import Table, contents
from photofound.room.describe import pixels_of

SIDE = 1024
"""Short side, at most, of what segmenters see, and of mattes."""
BY = "mask_by"
_SOURCE = ("image", "reference", "collection")


def matte(
    table: Table,
    find: Callable[[np.ndarray], np.ndarray],
    name: str,
    where: str | None = None,
    fragments: Sequence[int] | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> tuple[int, int]:
    """Give mattes to the photographs that have none and no cut-out. A call that was killed goes on.

    Args:
        find: (H, W, 3) float32 in [0, 1] to a matte (H, W) in [0, 1], 1 = object.
        name: what ``mask_by`` says.

    Returns how many got a matte, and in how many nothing was found.
    """
    import pyarrow as pa

    found = nothing = 0

    def compute(batch: Any) -> dict[str, Any]:
        nonlocal found, nothing
        mattes: list[bytes | None] = []
        by: list[str | None] = []
        for file in contents(batch):
            try:
                pixels = pixels_of(file, SIDE)
            except Exception:  # it was whole when it was added: its reference has gone
                mattes.append(None)
                by.append(None)
                continue
            made = np.rint(np.clip(find(pixels.astype(np.float32) / 255), 0, 1) * 255).astype(np.uint8)
            some = bool((made > 127).any())
            found, nothing = found + some, nothing + (not some)
            mattes.append(_png(made) if some else None)
            by.append(name)
        return {BY: pa.array(by, pa.string()), "mask": pa.array(mattes, pa.large_binary())}

    fields = [pa.field(BY, pa.string()), pa.field("mask", pa.large_binary())]
    lacking = f"mask IS NULL AND foreground IS NULL AND {BY} IS NULL"
    table.fill(fields, compute, _SOURCE, where, 8, fragments, done, lacking)
    return found, nothing


def _png(matte: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(matte).save(stream, "PNG")
    return stream.getvalue()
