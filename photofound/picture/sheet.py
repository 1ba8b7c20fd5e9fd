"""Contact sheets: pictures side by side in rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor


def sheet(rows: Sequence[Sequence[Tensor]], gap: int = 4) -> np.ndarray:
    """Rows of pictures, RGB (3, H, W) in [-1, 1] and of one size, on white: (height, width, 3) uint8."""
    height, width = rows[0][0].shape[-2:]
    columns = max(len(row) for row in rows)
    page = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            tile = ((picture.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
            page[r * (height + gap) :, c * (width + gap) :][:height, :width] = tile
    return page


def save_sheet(rows: Sequence[Sequence[Tensor]], path: Path, gap: int = 4) -> None:
    """Write a ``sheet`` as a PNG."""
    Image.fromarray(sheet(rows, gap)).save(path)
