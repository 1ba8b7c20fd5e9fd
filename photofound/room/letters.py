"""Lines of letters in a picture, without a network: text, watermarks, dates, logos with words.

Letters are parts of a picture that are lighter or darker than what is around them, of one tone, with strokes of one
width, and stand side by side on a line. Candidates are found as connected parts of a local threshold and chained from
left to right; a logistic regression over ``FEATURES`` of a chain says how likely it is a line of text. Its weights were
fitted on words that were drawn into photographs: ``python benchmarks/filters.py fit-text``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_AROUND = 31  # pixels that the local threshold looks at
_APART = 14  # levels that a letter is lighter or darker than these
_LEAST = 3  # letters of a line
_MOST = 1000  # candidates of a picture; the largest ones are taken
FEATURES = ("letters", "heights", "widths", "baseline", "texture", "tones", "grounds", "contrast", "filled", "fillings",
            "gaps", "gap", "strokes", "stroke", "height", "width")  # fmt: skip
"""What is known of a chain: log of its letters' number, spread of their heights and widths, distance from a straight
baseline, spread of tones within letters, among letters and among their grounds over the contrast, log of the contrast,
share of its box that a letter fills and its spread, spread and mean of gaps, spread of stroke widths, stroke width over
height, log of the height, width over height."""
WEIGHTS = np.array([0.727, -3.322, 1.051, -5.616, -10.062, -3.445, 2.859, 1.646, 3.424, 3.679, -1.847, -0.587, 0.798,
                    -26.515, -2.226, 3.25])  # fmt: skip
BIAS = 2.309


class Letters(NamedTuple):
    """Parts that may be letters, (N,) each: boxes in pixels, area, tone of the letter and its spread, tone of what is
    around it, and the width of its stroke."""

    x: np.ndarray
    y: np.ndarray
    width: np.ndarray
    height: np.ndarray
    area: np.ndarray
    tone: np.ndarray
    texture: np.ndarray
    ground: np.ndarray
    stroke: np.ndarray

    def take(self, index: np.ndarray) -> Letters:
        return Letters(*(values[index] for values in self))


class Line(NamedTuple):
    """A chain of letters: its box (left, top, right, bottom) in pixels, and its features."""

    box: tuple[float, float, float, float]
    features: np.ndarray


def text(grey: np.ndarray) -> float:
    """How likely the picture bears text: 0 to 1, by its likeliest line. ``grey``: (H, W) float32 in [0, 1]."""
    found = lines(np.rint(grey * 255).astype(np.uint8))
    if not found:
        return 0.0
    return float(max(likelihood(np.stack([line.features for line in found]))))


def likelihood(features: np.ndarray) -> np.ndarray:
    """(N, F) to (N,)."""
    return 1 / (1 + np.exp(-(features @ WEIGHTS + BIAS)))


def lines(grey: np.ndarray) -> list[Line]:
    """Chains of what may be letters, lighter or darker than their ground. ``grey``: (H, W) uint8."""
    import cv2

    if min(grey.shape) < 12:
        return []
    around = cv2.blur(grey, (_AROUND, _AROUND), borderType=cv2.BORDER_REPLICATE)
    made = []
    for image, light in ((grey, cv2.subtract(grey, around)), (255 - grey, cv2.subtract(around, grey))):
        letters = _letters(image, (light > _APART).astype(np.uint8))
        made += [_line(letters.take(np.array(chain))) for chain in _chains(letters)]
    return made


def _letters(grey: np.ndarray, light: np.ndarray) -> Letters:
    """Light parts of the size and the shape of letters. ``light``: (H, W) uint8, 1 where it is lighter than around."""
    import cv2

    high, wide = grey.shape
    count, parts, boxes, _ = cv2.connectedComponentsWithStats(light, connectivity=8)
    x, y, width, height, area = boxes.T
    inside = (x > 0) & (y > 0) & (x + width < wide) & (y + height < high)
    sized = (height >= 6) & (height <= high / 5) & (width <= 1.6 * height + 2) & (area >= 8)
    filled = area / (width * height)
    shaped = (filled >= 0.15) & ((filled <= 0.88) | (width < 0.45 * height))
    chosen = np.flatnonzero(inside & sized & shaped)
    chosen = chosen[np.argsort(-area[chosen], kind="stable")[:_MOST]]
    chosen = chosen[np.argsort(x[chosen], kind="stable")]
    inner = np.flatnonzero(light)
    place, tones = parts.ravel()[inner], grey.ravel()[inner].astype(np.float64)
    total = np.bincount(place, tones, count)
    tone = total / area
    texture = np.sqrt(np.maximum(np.bincount(place, tones**2, count) / area - tone**2, 0))
    left, top = np.maximum(x - 1, 0), np.maximum(y - 1, 0)
    right, bottom = np.minimum(x + width + 1, wide), np.minimum(y + height + 1, high)
    sums = cv2.integral(grey).astype(np.float64)
    box = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    ground = (box - total) / np.maximum((right - left) * (bottom - top) - area, 1)
    core = np.bincount(place, cv2.erode(light, np.ones((3, 3), np.uint8)).ravel()[inner], count)
    stroke = 2 * area / np.maximum(area - core, 1)  # area over half the outline
    found = (x, y, width, height, area, tone, texture, ground, stroke)
    return Letters(*(values[chosen].astype(np.float64) for values in found))


def _chains(letters: Letters) -> list[list[int]]:
    """Letters that follow each other from left to right, each with its nearest neighbour, at least three."""
    if len(letters.x) < _LEAST:
        return []
    x, right, bottom = letters.x, letters.x + letters.width, letters.y + letters.height
    middle, contrast = letters.y + letters.height / 2, letters.tone - letters.ground
    tall = np.maximum(letters.height[:, None], letters.height)
    short = np.minimum(letters.height[:, None], letters.height)
    gap = x - right[:, None]
    level = (np.abs(bottom[:, None] - bottom) <= 0.22 * tall) | (np.abs(middle[:, None] - middle) <= 0.15 * tall)
    near = (gap >= -0.15 * short) & (gap <= 0.8 * tall) & (x > x[:, None]) & (short >= 0.45 * tall)
    alike = np.abs(letters.tone[:, None] - letters.tone) <= 0.5 * np.minimum(contrast[:, None], contrast) + 8
    distance = np.where(level & near & alike, gap, np.inf)
    follower = np.argmin(distance, axis=1)
    before: dict[int, int] = {}
    for i in np.flatnonzero(np.isfinite(distance.min(axis=1))).tolist():
        j = int(follower[i])
        if j not in before or distance[i, j] < distance[before[j], j]:
            before[j] = i
    after = {i: j for j, i in before.items()}
    found = []
    for start in sorted(after.keys() - before.keys()):
        chain = [start]
        while chain[-1] in after:
            chain.append(after[chain[-1]])
        if len(chain) >= _LEAST:
            found.append(chain)
    return found


def _line(letters: Letters) -> Line:
    height, bottom = letters.height.mean(), letters.y + letters.height
    right = letters.x + letters.width
    contrast = (letters.tone - letters.ground).mean() + 1
    filled = letters.area / (letters.width * letters.height)
    gaps = letters.x[1:] - right[:-1]
    along = letters.x - letters.x.mean()
    slope = (along * bottom).sum() / max((along**2).sum(), 1e-9)
    features = (
        np.log(len(letters.x)),
        letters.height.std() / height,
        letters.width.std() / letters.width.mean(),
        np.median(np.abs(bottom - bottom.mean() - slope * along)) / height,
        letters.texture.mean() / contrast,
        letters.tone.std() / contrast,
        letters.ground.std() / contrast,
        np.log(max(contrast, 1.0)),
        filled.mean(),
        filled.std(),
        gaps.std() / height,
        gaps.mean() / height,
        letters.stroke.std() / letters.stroke.mean(),
        (letters.stroke / letters.height).mean(),
        np.log(height),
        (letters.width / letters.height).mean(),
    )
    box = float(letters.x.min()), float(letters.y.min()), float(right.max()), float(bottom.max())
    return Line(box, np.array(features))
