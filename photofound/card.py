"""Pictures of results: contact sheets for runs, benchmarks and the README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor


def save_sheet(rows: Sequence[Sequence[Tensor]], path: Path, gap: int = 4) -> None:
    """Write rows of pictures, RGB (3, H, W) in [-1, 1] and of one size, as one PNG on white."""
    height, width = rows[0][0].shape[-2:]
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            tile = ((picture.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
            sheet[r * (height + gap) :, c * (width + gap) :][:height, :width] = tile
    Image.fromarray(sheet).save(path)
