"""Noise on a rectangle of a material, in units that do not depend on the picture's size.

Units: 1 is the square root of the picture's area, so a plank is as wide in a small picture as in a large one. Noise is
value noise on lattices in these units (Perlin 1985; Ebert et al., "Texturing and Modeling", chapter 2): a seed gives
the same structure at every size.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

_SMOOTH = 20  # pixels a cell: wider cells are drawn on fewer pixels


class Plane:
    """A rectangle of a material from straight above, ``height`` x ``width`` units at ``scale`` pixels per unit."""

    def __init__(self, height: float, width: float, scale: float, seed: int) -> None:
        self.height, self.width, self.scale, self.seed = height, width, scale, seed
        self.shape = max(1, round(height * scale)), max(1, round(width * scale))

    def rng(self, name: str, number: int = 0) -> np.random.Generator:
        """A generator of its own for every purpose, so that leaving one out does not change the others."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode()), number])

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixel centres in units: y (H, 1) and x (1, W)."""
        y, x = ((np.arange(n, dtype=np.float32) + 0.5) / self.scale for n in self.shape)
        return y[:, None], x[None, :]

    def noise(self, name: str, rows: float, columns: float | None = None, number: int = 0) -> np.ndarray:
        """(H, W) smooth noise of about unit variance with so many cells per unit down and across; zeros where they are
        finer than the pixels."""
        cells = rows, rows if columns is None else columns
        if max(cells) < self.scale / _SMOOTH:
            return self._enlarged(self._coarse()._octave(name, cells, number))
        return self._octave(name, cells, number)

    def fractal(
        self, name: str, rows: float, columns: float | None = None, octaves: int = 5, gain: float = 0.5
    ) -> np.ndarray:
        """(H, W), octaves of ``noise``, each twice as fine and ``gain`` times as strong; about unit variance."""
        import cv2

        columns = rows if columns is None else columns
        coarse = self._coarse()
        smooth, fine = np.zeros(coarse.shape, np.float32), np.zeros(self.shape, np.float32)
        strength = 1 / math.sqrt(sum(gain ** (2 * i) for i in range(octaves)))
        for i in range(octaves):
            cells = rows * 2**i, columns * 2**i
            plane, total = (coarse, smooth) if max(cells) < self.scale / _SMOOTH else (self, fine)
            cv2.scaleAdd(plane._octave(name, cells, i), strength * gain**i, total, dst=total)
        fine += self._enlarged(smooth)
        return fine

    def _octave(self, name: str, cells: tuple[float, float], number: int) -> np.ndarray:
        import cv2

        if max(cells) > 0.8 * self.scale:
            return np.zeros(self.shape, np.float32)
        sides = [math.ceil(length * n) + 3 for length, n in zip((self.height, self.width), cells, strict=True)]
        lattice = self.rng(name, number).standard_normal(sides, np.float32) * np.float32(1.5)
        size = [math.ceil(side * self.scale / n) for side, n in zip(sides, cells, strict=True)]
        fine = cv2.resize(lattice, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
        top, left = (round(self.scale / n) for n in cells)
        return fine[top : top + self.shape[0], left : left + self.shape[1]]

    def _coarse(self) -> Plane:
        """The same rectangle with a quarter of the pixels a side, which are enough for smooth noise."""
        return Plane(self.height, self.width, self.scale / 4, self.seed)

    def _enlarged(self, coarse: np.ndarray) -> np.ndarray:
        import cv2

        return cv2.resize(coarse, self.shape[::-1], interpolation=cv2.INTER_LINEAR)


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Smooth step from 0 at ``low`` to 1 at ``high``."""
    t = np.clip((x - low) / (high - low), 0, 1)
    step = 3 - 2 * t
    step *= t
    step *= t
    return step


def blur(x: np.ndarray, sigma: float) -> np.ndarray:
    import cv2

    return cv2.GaussianBlur(x, (0, 0), sigma) if sigma > 0.3 else x
