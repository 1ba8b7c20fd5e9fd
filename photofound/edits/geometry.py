"""Sizes, margins, boxes, tiles and aspect buckets: integer geometry without pixels."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

TILE_OVERLAP = 8  # neighbouring tiles share an eighth of their side at least; twice as much looks no better


class Box(NamedTuple):
    """A half-open rectangle in pixels."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, for indexing an (H, W) array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple that is not below ``value``."""
    return -(-value // multiple) * multiple


def parse_length(value: int | str, whole: int, name: str) -> int:
    """Pixels from ``40``, ``"40"`` or ``"25%"`` (of ``whole``). Raises ValueError for anything else or a negative
    length."""
    huge = isinstance(value, int) and abs(value) >= 10**12  # of thousands of digits, perhaps
    match = None if huge else re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,40})?)\s*(%|px)?\s*", str(value))
    if isinstance(value, bool) or not match or ("." in match[1] and match[2] != "%"):
        shown = "a number of more than 12 digits" if huge else reprlib.repr(value)
        raise ValueError(f"{name}: {shown} is not a length; give whole pixels (40) or a share of the side (25%)")
    number = float(match[1])
    return round(whole * number / 100) if match[2] == "%" else int(number)


def parse_pair(value: str | tuple[float, float], separators: str, name: str, example: str) -> tuple[float, float]:
    """Two positive numbers from ``"4:5"``, ``"800x600"`` or a tuple."""
    try:
        parts = re.split(f"[{separators}]", value) if isinstance(value, str) else list(value)
        first, second = (float(p) for p in parts)
    except OverflowError:
        raise ValueError(f"{name}: the numbers are too large; write it like {example}") from None
    except (TypeError, ValueError):
        raise ValueError(f"{name}: {value!r} cannot be read; write it like {example}") from None
    if not (first > 0 and second > 0 and math.isfinite(first) and math.isfinite(second)):
        raise ValueError(f"{name}: {value!r} must be two positive numbers, like {example}")
    return first, second


@dataclass(frozen=True)
class Margins:
    """Pixels added on each side."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def __bool__(self) -> bool:
        return any((self.left, self.right, self.top, self.bottom))

    @classmethod
    def to_reach(cls, width: int, height: int, target_width: int, target_height: int) -> Margins:
        """Margins that centre a picture on a larger canvas; an odd pixel goes to the right and the bottom."""
        x, y = target_width - width, target_height - height
        return cls(x // 2, x - x // 2, y // 2, y - y // 2)


def aspect_margins(width: int, height: int, aspect: str | tuple[float, float]) -> Margins:
    """The smallest margins that give the canvas the aspect ratio W:H."""
    w, h = parse_pair(aspect, ":/x", "aspect", "4:5")
    ratio = w / h
    if not 1e-3 <= ratio <= 1e3:
        raise ValueError(f"aspect: {aspect!r} is more than a thousand times as long as wide; write it like 4:5")
    target = (round(height * ratio), height) if ratio >= width / height else (width, round(width / ratio))
    return Margins.to_reach(width, height, max(width, target[0]), max(height, target[1]))


def size_margins(width: int, height: int, size: str | tuple[int, int]) -> Margins:
    """Margins that centre the picture on a canvas of ``size`` (W x H). Raises ValueError if it is smaller than the
    picture."""
    w, h = parse_pair(size, "x×", "size", "1200x800")
    if w != int(w) or h != int(h):
        raise ValueError(f"size: {size!r} must be whole pixels, like 1200x800")
    if w < width or h < height:
        raise ValueError(
            f"size: {int(w)}x{int(h)} is smaller than the picture ({width}x{height}); give a larger canvas"
        )
    return Margins.to_reach(width, height, int(w), int(h))


def parse_size(size: str | tuple[int, int], largest: int) -> tuple[int, int]:
    """(width, height) of a picture to be made, from 1 to ``largest`` each. Raises ValueError."""
    width, height = parse_pair(size, "x×", "size", "1200x800")
    if width != int(width) or height != int(height) or not (1 <= width <= largest and 1 <= height <= largest):
        raise ValueError(f"size: {size!r} must be whole pixels from 1x1 to {largest}x{largest}, like 1200x800")
    return int(width), int(height)


def bounding_box(mask: np.ndarray) -> Box:
    """The smallest box around the non-zero part of an (H, W) mask, which must not be empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert rows.size and columns.size, "an empty mask has no bounding box"
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def grow_box(box: Box, margin: int, least: int, width: int, height: int) -> Box:
    """``box`` with ``margin`` around it and at least ``least`` long per side, moved and cut to lie within the
    picture."""

    def span(low: int, high: int, limit: int) -> tuple[int, int]:
        length = min(limit, max(high - low + 2 * margin, least))
        start = min(max(0, (low + high - length) // 2), limit - length)
        return start, start + length

    left, right = span(box.left, box.right, width)
    top, bottom = span(box.top, box.bottom, height)
    return Box(left, top, right, bottom)


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin that cover ``length`` evenly and overlap by at least ``overlap``."""
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def tiles(width: int, height: int, tile: int, overlap: int) -> list[Box]:
    """Boxes of at most ``tile`` x ``tile`` that cover a picture, row by row."""
    assert 0 <= overlap < tile, (tile, overlap)
    return [
        Box(x, y, min(x + tile, width), min(y + tile, height))
        for y in tile_starts(height, tile, overlap)
        for x in tile_starts(width, tile, overlap)
    ]


def aspect_buckets(side: int, multiple: int, widest: float = 2.0) -> list[tuple[int, int]]:
    """The sizes (W, H) of training batches: multiples of ``multiple``, at most ``side`` squared pixels, from tall to
    wide.

    Each short side comes with the longest side that the area allows, so a step costs about the same in every bucket
    (after SDXL, arXiv:2307.01952, appendix I, and NovelAI's aspect ratio bucketing).

    Args:
        widest: the most extreme aspect ratio, at least 1; 1 leaves only the square.
    """
    if multiple < 1 or side < multiple or side % multiple:
        raise ValueError(f"side: {side} must be a positive multiple of {multiple}")
    if not 1 <= widest <= 100:
        raise ValueError(f"widest: {widest} must be between 1 and 100, like 2 for 1:2 to 2:1")
    wide = []
    for short in range(side, 0, -multiple):
        long = side * side // short // multiple * multiple
        if long > widest * short:
            break
        wide.append((long, short))
    return [(short, long) for long, short in reversed(wide[1:])] + wide


def nearest_bucket(width: int, height: int, buckets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The bucket with the nearest aspect ratio, so that the least is cut off."""
    return min(buckets, key=lambda bucket: abs(math.log(width * bucket[1] / (height * bucket[0]))))


def cover(width: int, height: int, bucket: tuple[int, int]) -> tuple[int, int]:
    """The size to scale a picture to, so that it covers the bucket and fits one of its sides."""
    scale = max(bucket[0] / width, bucket[1] / height)
    return max(bucket[0], round(width * scale)), max(bucket[1], round(height * scale))


def middle(size: tuple[int, int], bucket: tuple[int, int]) -> Box:
    """The box of the bucket's size in the middle of a picture that covers it; both (W, H)."""
    left, top = (size[0] - bucket[0]) // 2, (size[1] - bucket[1]) // 2
    return Box(left, top, left + bucket[0], top + bucket[1])
