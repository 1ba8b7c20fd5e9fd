"""What a photograph is like, in numbers, without a network: sharpness, exposure, graphics, text, borders, compression,
faces, and whether its caption says anything.

Measures of pixels take grey (H, W) float32 in [0, 1] or colours (H, W, 3) uint8. How well each tells good photographs
from bad ones is measured by ``benchmarks/filters.py``.
"""

from __future__ import annotations

import io
import re
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

# ISO/IEC 10918-1, table K.1: what libjpeg scales for a quality of 1 to 100.
_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip


def grey(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 to (H, W) float32 in [0, 1]."""
    import cv2

    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255


def sharpness(image: np.ndarray) -> float:
    """How much of an edge's height lies between two neighbouring pixels, at the sharpest of the strong edges: 1 of a
    step, less of what is out of focus, shaken or enlarged. Where nothing has an edge: 0.

    Edges are compared with themselves, so that neither contrast nor a plain or soft ground counts.
    """
    height, width = image.shape
    if min(height, width) < 12:
        return 0.0
    found = []
    for each in (image, image.T):
        near = np.abs(each[:, 1:] - each[:, :-1])  # between x and x + 1
        wide = np.abs(each[:, 5:] - each[:, :-5])  # from x - 2 to x + 3, around the same middle
        middle = near[:, 2:-2]
        strong = wide >= max(0.12, float(np.quantile(wide[::3, ::3], 0.98)))
        # the steepest pair within reach of each edge
        steepest = np.maximum(np.maximum(middle, near[:, 1:-3]), near[:, 3:-1])
        found.append((steepest / np.maximum(wide, 1e-6))[strong])
    ratios = np.concatenate(found)
    return float(np.quantile(np.minimum(ratios, 1), 0.75)) if len(ratios) >= 16 else 0.0


def jpeg_quality(file: bytes) -> float:
    """The quality (1 to 100) that libjpeg would have been asked for, of a JPEG's own quantisation table; 100 of what is
    no JPEG. It says how the file was written last, not what had happened before."""
    with Image.open(io.BytesIO(file)) as opened:
        tables: dict[int, Any] = getattr(opened, "quantization", None) or {}
    return float(np.interp(-sum(tables[min(tables)]), -_sums(), np.arange(1, 101))) if tables else 100.0


def blocks(image: np.ndarray) -> float:
    """How much more steps there are at every eighth line than elsewhere, over their mean, in the direction with fewer:
    about 0 of a photograph, 2 and more of one that was ever a JPEG of low quality, however its file was written last.
    Where the picture was scaled since, nothing is seen of it."""
    found = []
    for each in (image, image.T):
        if each.shape[1] < 24:
            return 0.0
        near = np.abs(each[:, 1:] - each[:, :-1])
        alone = near[:, 1:-1] - np.maximum(near[:, :-2], near[:, 2:])  # a step beside which there is none
        lines = np.clip(alone, 0, 0.06).mean(0)
        phases = lines[: len(lines) // 8 * 8].reshape(-1, 8).mean(0)
        first = int(np.argmax(phases))
        found.append((phases[first] - np.median(np.delete(phases, first))) / (phases.mean() + 1e-4))
    return float(min(found))


@cache
def _sums() -> np.ndarray:
    """(100,) sum of the luminance table at each quality, as libjpeg scales it."""
    qualities = np.arange(1, 101)
    scale = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    return np.clip((np.array(_LUMINANCE)[:, None] * scale + 50) // 100, 1, 255).sum(0)


def ground(pixels: np.ndarray, near: int = 6) -> np.ndarray:
    """(H, W) bool: what is of the frame's most usual colour, within ``near`` levels, and joined to the frame."""
    import cv2

    usual = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)
    alike = cv2.inRange(pixels, usual - near, usual + near)
    count, parts = cv2.connectedComponents(alike, connectivity=4)
    joined = np.zeros(count, bool)
    joined[np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])] = True
    joined[0] = False
    return joined[parts]


def things(pixels: np.ndarray) -> np.ndarray:
    """(N, 3): the pixels that are no plain ground; all where nearly all is ground."""
    around = ground(pixels)
    rest = pixels[~around]
    return rest if len(rest) >= 0.03 * around.size else pixels.reshape(-1, 3)


def exposure(pixels: np.ndarray, things: np.ndarray) -> float:
    """Share of pixels whose brightest channel is below 253, less where the whole picture is dark: times the 98th
    percentile of brightness over 150, if that is below 1. White is looked for in ``things`` (N, 3) alone, since grounds
    may be white on purpose; darkness in all ``pixels``, since things may be black."""
    red, green, blue = things.T
    burnt = (np.maximum(np.maximum(red, green), blue) >= 253).mean()
    return float((1 - burnt) * min(1.0, np.quantile(pixels[::2, ::2].max(2), 0.98) / 150))


def graphics(things: np.ndarray) -> float:
    """Share of pixels (N, 3) that have one of the 16 most frequent colours, exactly. A plain ground is left out before.
    Drawings, charts and screenshots have few colours; photographs have noise."""
    red, green, blue = things.astype(np.int32).T
    ordered = np.sort(red << 16 | green << 8 | blue)
    edges = np.flatnonzero(np.diff(ordered, prepend=-1, append=-1))
    return float(np.sort(np.diff(edges))[-16:].sum() / len(ordered))


def borders(pixels: np.ndarray) -> float:
    """Share of the picture that is frame: strips of one colour along its sides, each up to a straight line where most
    of the picture begins at once. The ground of a packshot ends at no straight line."""
    height, width = pixels.shape[:2]
    turned = pixels.transpose(1, 0, 2)
    top, bottom, left, right = (_strip(each) for each in (pixels, pixels[::-1], turned, turned[::-1]))
    return 1 - (height - top - bottom) * (width - left - right) / (height * width)


def _strip(lines: np.ndarray) -> int:
    """Lines of one colour at the beginning; 0 if they end at no straight line."""
    half = len(lines) // 2
    if half < 4:
        return 0
    colour = np.median(lines[0], axis=0).astype(np.int16)
    for count in range(half - 2):
        away = np.abs(lines[count].astype(np.int16) - colour).max(1)
        if (away <= 8).mean() < 0.99:
            after = np.abs(lines[count + 2].astype(np.int16) - colour).max(1)
            return count if count >= 2 and (after > 12).mean() >= 0.6 else 0
    return 0


# ------------------------------------------------------------------------------------------------------------ captions

_WORD = re.compile(r"[^\W\d_]{2,}|\b[aAI]\b")
_RUBBISH = re.compile(
    r"https?://|www\.|<[a-z/!][^>]*>|&[a-z]+;|[\w-]+\.(jpe?g|png|gif|webp|tiff?|heic)\b|\b(img|dsc|dscn|pict|image)[_-]?\d+"
    r"|\b(stock (photo|image|vector)s?|royalty[- ]free|all rights reserved|click here|buy now|free shipping"
    r"|untitled)\b",
    re.IGNORECASE,
)


def caption_quality(text: str) -> float:
    """0 to 1: whether a caption says something. Few words, repeated ones, numbers and codes in their place count
    against it; names of files, addresses, markup and what shops say of every picture make it 0."""
    words = [word.lower() for word in _WORD.findall(text)]
    if not words or _RUBBISH.search(text):
        return 0.0
    tokens = len(re.findall(r"\S+", text)) if " " in text.strip() else max(1, len(text.strip()) // 6)
    enough = min(1.0, len(words) / 4) if text.isascii() or " " in text.strip() else min(1.0, len(text.strip()) / 8)
    different = min(1.0, len(set(words)) / len(words) * 1.5)
    spelled = min(1.0, len(words) / tokens * 1.25)
    return enough * different * spelled
