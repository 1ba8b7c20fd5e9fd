"""Mattes of a room's photographs by any segmenter, in the column ``mask``; ``mask_by`` says whose they are.

``mask_by`` is null where the source itself had a matte. Where the segmenter finds nothing, it stands alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from photofound.data.table import Table, quoted
from photofound.edits.segmenter import NothingFound
from photofound.room.describe import pictures_of

SIDE = 1024
"""Short side, at most, of what segmenters see, and of mattes."""
BY = "mask_by"
_SOURCE = ("image", "reference", "collection")
_BATCH = 8

Find = Callable[[np.ndarray], np.ndarray]
"""(H, W, 3) float32 in [0, 1] to a matte (H, W) in [0, 1], 1 = object; ``NothingFound`` is raised for zeros."""


@runtime_checkable
class Loads(Protocol):
    """A ``Find`` that a network stands behind: it travels without it."""

    def load(self) -> Find: ...


@dataclass(frozen=True)
class Matting:
    """The columns of a batch, null for what cannot be read: what ``Table.fill`` calls.

    Args:
        mattes: pictures, (H, W, 3) uint8, to mattes, (H, W) uint8.
        name: what ``mask_by`` says.
    """

    mattes: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]
    name: str

    def __call__(self, batch: Any) -> dict[str, Any]:
        import pyarrow as pa

        pictures = pictures_of(batch, SIDE)
        made = self.mattes(list(pictures.values())) if pictures else []
        files = {i: _png(m) if (m > 127).any() else None for i, m in zip(pictures, made, strict=True)}
        by = [self.name if i in files else None for i in range(len(batch))]
        masks = [files.get(i) for i in range(len(batch))]
        return {BY: pa.array(by, pa.string()), "mask": pa.array(masks, pa.large_binary())}


@dataclass(frozen=True)
class Each:
    """``Matting.mattes`` by a function of one picture."""

    find: Find

    def __call__(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self._one(picture) for picture in pictures]

    def _one(self, picture: np.ndarray) -> np.ndarray:
        try:
            found = self.find(picture.astype(np.float32) / 255)
        except NothingFound:
            return np.zeros(picture.shape[:2], np.uint8)
        return np.rint(np.clip(found, 0, 1) * 255).astype(np.uint8)


class Loaded:
    """What an actor of a cluster has loaded."""

    def __init__(self, find: Loads) -> None:
        self.mattes = Each(find.load())


def matte(
    table: Table,
    mattes: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]],
    name: str,
    where: str | None = None,
    fill: Callable[..., int] | None = None,
) -> tuple[int, int]:
    """Give mattes to the photographs that have none and no cut-out. A call that was killed goes on.

    Args:
        mattes: as of ``Matting``.
        name: what ``mask_by`` says.
        fill: fills columns elsewhere (``photofound.room.spread``) in place of ``table.fill``.

    Returns how many got a matte, and in how many nothing was found.
    """
    import pyarrow as pa

    fields = [pa.field(BY, pa.string()), pa.field("mask", pa.large_binary())]
    table.add_columns(fields)
    mine = f"{BY} = {quoted(name)} AND mask IS"
    before = table.count(f"{mine} NOT NULL"), table.count(f"{mine} NULL")
    lacking = f"mask IS NULL AND foreground IS NULL AND {BY} IS NULL"
    (fill or table.fill)(fields, Matting(mattes, name), _SOURCE, where=where, batch=_BATCH, lacking=lacking)
    table.refresh()
    return table.count(f"{mine} NOT NULL") - before[0], table.count(f"{mine} NULL") - before[1]


def _png(matte: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(matte).save(stream, "PNG")
    return stream.getvalue()
