"""Masks: from any file or array to (H, W) in [0, 1], and the rule of what in it is marked."""

from __future__ import annotations

import warnings
from functools import reduce
from typing import Any

import numpy as np
from PIL import Image

from photofound.picture import arrays
from photofound.picture.picture import Picture

_NOISE = 16 / 255  # values as near to black or white are these, changed by compression, scaling or anti-aliasing
_SPECK = 64  # pixels; the ringing of a JPEG leaves no larger islands of pale grey
_COLOURED = 24 / 255  # channels that differ by more are a colour, by less a compressed grey


def load_mask(source: Any, size: tuple[int, int], name: str = "mask", kept: bool = False) -> np.ndarray:
    """A mask from anything that `Picture.from_any` takes, for a picture of `size` (width, height).

    Arrays and tensors may hold whole numbers of any dtype, and tensors may be (H, W). The rule, in this order:

    1. Transparent, one colour (a brush on an empty layer): the paint is marked, in part where it is half transparent.
       Black paint is refused, because a black sheet with a hole looks the same.
    2. Transparent, black and white: the same on black.
    3. Transparent, many colours (a photograph with a part rubbed out, a cut-out): the transparent part is marked, with
       `kept` the opaque part.
    4. Opaque, black and one colour: the colour is marked.
    5. Opaque, grey: white is marked, grey in part; if all numbers are 0 or 1, 1 is white.

    Values within 16/255 of black or white are black or white, and pale specks in black are black: they are noise.
    Photographs (grey ones are recognised by their detail), several colours, class numbers (even areas of 1 to 32 beside
    black, or of several such values) and masks without white are refused. A mask that is mostly grey warns, and so does
    one with white and even areas of a grey that is not a quarter, half or three quarters. A mask of another size with
    the same aspect ratio (within 1 %) is resized, with a warning.

    Args:
        name: what errors and warnings call the mask.
        kept: the mask marks what is kept, such as a subject.

    Returns:
        (H, W) float32 in [0, 1], 1 = marked.

    Raises ValueError, in one line, for anything that the rule refuses.
    """
    if source is None:
        raise ValueError(f"the {name} is missing; pass a picture of the image's size in which white marks the place")
    picture = Picture.from_any(_whole_numbers(source, name))
    if picture.depth > 255 and picture.pixels.max() <= 255:  # 8-bit numbers in a wider type
        picture = Picture(picture.pixels.astype(np.uint8))
    mask = _without_noise(_marked(picture, name, kept))
    grey, white = int(((mask > 0) & (mask < 1)).sum()), int((mask == 1).sum())
    if grey > 3 * white:
        warnings.warn(f"the {name} is grey for the most part, and grey marks only in part; is it a mask?", stacklevel=2)
    return mask if picture.size == tuple(size) else _resized_mask(mask, size, name)


def _whole_numbers(source: Any, name: str) -> Any:
    """An array or tensor of whole numbers as uint8 or uint16, which `from_any` takes; anything else unchanged."""
    if hasattr(source, "detach"):
        source = arrays.channels_last(source.detach().cpu())
    if not isinstance(source, np.ndarray) or source.dtype.kind not in "iu" or source.size == 0:
        return source
    low, high = int(source.min()), int(source.max())
    if low < 0 or high > 65535:
        raise ValueError(f"the {name} has values from {low} to {high}; make it 0 and 255, or pass booleans")
    return source.astype(np.uint8 if high <= 255 else np.uint16)


def _marked(picture: Picture, name: str, kept: bool) -> np.ndarray:
    """(H, W) float32 in [0, 1], 1 = marked: rules 1 to 5 of `load_mask`."""
    alpha = picture.alpha()
    if alpha is None or alpha.min() >= 1 - _NOISE:
        low, high = _darkest_and_brightest(picture.colours)
        if (high - low).max() <= _COLOURED * picture.depth:
            return _from_greys(low + (high - low) // 2, picture, name)
        return _from_brush(picture, low, high, name)
    colours = picture.colours.astype(np.float32) / np.float32(picture.depth)
    seen = alpha > _NOISE
    if not seen.any():
        raise ValueError(f"the {name} is transparent all over; paint the place to mark on it")
    shown, opacity = colours[seen], alpha[seen]
    paint = shown[opacity.argmax()]
    if (np.abs(shown - paint).max(axis=1) * opacity).max() <= _COLOURED:
        if paint.max() <= _NOISE:
            raise ValueError(f"the {name} is black on nothing: is the black or the nothing meant? Paint it white")
        return alpha
    if _is_black_and_white(shown):
        return colours.mean(axis=2) * alpha
    if kept:
        return alpha
    if _is_flat(shown[opacity >= 1 - _NOISE]):
        raise ValueError(f"the {name} is painted in several colours; use one, best white on black")
    return 1 - alpha


def _darkest_and_brightest(colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest channel of each pixel of (H, W, C), twice (H, W). numpy's `min` and `max` over the
    last axis take seconds."""
    channels = [colours[..., i] for i in range(colours.shape[2])]
    return reduce(np.minimum, channels), reduce(np.maximum, channels)


def _from_greys(values: np.ndarray, picture: Picture, name: str) -> np.ndarray:
    """Rule 5 of `load_mask` for the picture's greys (H, W)."""
    top = int(values.max())
    if top == 1 and picture.lossless:
        return values.astype(np.float32)
    why = ""
    if 0 < top < picture.depth / 2:
        why = f"has no clear white, {picture.depth}"
    elif _has_class_numbers(values):
        why = "has even areas of small numbers"
    if why and picture.lossless:
        raise ValueError(
            f"the {name} {why}; are these class numbers? Pass (classes == number) as an array, or make what is to be "
            "marked white"
        )
    if picture.lossless and (greys := _even_greys(values)):
        numbers = " and ".join(map(str, greys[:3]))
        warnings.warn(
            f"the {name} has even areas of grey {numbers} beside white, which mark only in part; if they are class "
            f"numbers, pass (classes == number)",
            stacklevel=4,
        )
    amount = values.astype(np.float32) / np.float32(picture.depth)
    if _is_photograph(amount):
        raise ValueError(
            f"the {name} is a grey photograph by its mid-tones and details; pass a mask: white on black marks the place"
        )
    return amount


def _is_photograph(greys: np.ndarray) -> bool:
    """Whether (H, W) in [0, 1] has mostly mid-tones, many levels and much detail. Soft masks (gradients, feathered or
    blurred edges) are smooth, and so are depth maps except at their edges."""
    import cv2

    middle = (greys > _NOISE) & (greys < 1 - _NOISE)
    if middle.mean() < 0.75 or np.count_nonzero(np.histogram(greys, 256, (0, 1))[0] > greys.size / 4096) < 32:
        return False
    scale = min(0.5, 256 / max(greys.shape))  # a smaller picture still has the detail, and not the grain
    size = [max(1, round(side * scale)) for side in greys.shape[::-1]]
    small = cv2.resize(greys, size, interpolation=cv2.INTER_AREA)
    detail = np.abs(cv2.Laplacian(small, cv2.CV_32F)) / 4 > 2 / 255  # unlike the mean of its neighbours
    return bool(detail.mean() > (0.2 if min(size) >= 64 else 0.6))  # in a tiny picture soft edges are detail, too


def _has_class_numbers(values: np.ndarray) -> bool:
    """Whether there are even regions of small numbers beside black: class numbers, often with 255 for "no class".
    Without any 0, the smallest of them may be a pale black."""
    if values.dtype != np.uint8:
        return False
    counts = np.bincount(values.ravel(), minlength=256)
    different = np.count_nonzero(counts)
    if different > 64:  # a compressed picture
        return False
    least = max(64, counts[239:].sum() / 2)
    small = [value for value in range(1 if different <= 4 else 4, 33) if counts[value] >= least]
    if counts[0] == 0:
        small = small[1:]
    return any(_is_even(values, value) for value in small)


def _even_greys(values: np.ndarray) -> list[int]:
    """The greys of even regions beside white that mark an odd part: few people mean 40/255, many class maps have it."""
    if values.dtype != np.uint8:
        return []
    counts = np.bincount(values.ravel(), minlength=256)
    if counts[255] == 0 or np.count_nonzero(counts) > 64:
        return []
    usual = {round(255 * part / 4) + rounding for part in (1, 2, 3) for rounding in (-1, 0, 1)}
    least = max(64, values.size / 1000)
    odd = (value for value in range(33, 239) if value not in usual and counts[value] >= least)
    return [value for value in odd if _is_even(values, value)]


def _is_even(values: np.ndarray, value: int) -> bool:
    """Whether a quarter or more of the pixels of a value lie amid 5 x 5 pixels of that value."""
    import cv2

    same = (values == value).astype(np.uint8)
    return bool(4 * cv2.erode(same, np.ones((5, 5), np.uint8)).sum() >= same.sum())


def _from_brush(picture: Picture, low: np.ndarray, high: np.ndarray, name: str) -> np.ndarray:
    """Rule 4 of `load_mask`: the share of the one colour in each pixel (H, W). Raises ValueError for several colours.
    `low` and `high` are each pixel's smallest and largest channels."""
    import cv2

    spread = high - low
    paint = np.median(picture.colours[spread >= spread.max() / 2], axis=0) / picture.depth
    amount = (high.astype(np.float32) / np.float32(picture.depth * paint.max())).clip(0, 1)
    shown = amount > _NOISE
    colours = picture.colours[shown].astype(np.float32) / np.float32(picture.depth)
    even = np.abs(colours - paint).max(axis=1) < 0.025  # paint is even, edges and photographs are not
    other = np.zeros(shown.shape, np.uint8)
    other[shown] = np.abs(colours - amount[shown][:, None] * paint).max(axis=1) > 0.25
    other = cv2.erode(other, np.ones((9, 9), np.uint8))  # a JPEG's edges have other colours, too
    if even.mean() < 0.5 or other.any():
        raise ValueError(
            f"the {name} has many colours, as a photograph or a map of classes; pass a mask: white (or one colour) on "
            "black marks the place"
        )
    return amount


def _is_black_and_white(shown: np.ndarray) -> bool:
    """Whether colours (N, C) in [0, 1] are black and white alone."""
    return bool(((shown <= _NOISE).all(axis=1) | (shown >= 1 - _NOISE).all(axis=1)).all())


def _is_flat(shown: np.ndarray) -> bool:
    """Whether a handful of colours makes up nearly all of (N, C): paint, not a photograph."""
    shown = np.rint(shown[:: max(1, len(shown) // 1_000_000)] * 255).astype(np.uint8)
    counts = np.sort(np.unique(shown, axis=0, return_counts=True)[1])
    return bool(counts[-8:].sum() >= 0.95 * len(shown))


def _without_noise(mask: np.ndarray) -> np.ndarray:
    """A mask with exact black and white for values near them, for pale specks in black and for dark ones in white."""
    mask = np.where(mask <= _NOISE, 0, np.where(mask >= 1 - _NOISE, 1, mask)).astype(np.float32)
    if not ((mask > 0) & (mask < 1)).any():
        return mask
    return np.where(_specks(mask), np.float32(0), np.where(_specks(1 - mask), np.float32(1), mask))


def _specks(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: small islands in the black that are pale all over."""
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8))
    small = stats[:, cv2.CC_STAT_AREA] <= _SPECK
    small[np.unique(labels[mask >= 0.4])] = False
    small[0] = False  # the black around
    return small[labels]


def _resized_mask(mask: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    width, height = mask.shape[1], mask.shape[0]
    sizes = f"the {name} is {width}x{height} but the image is {size[0]}x{size[1]}"
    if abs((width * size[1]) / (height * size[0]) - 1) > 0.01:
        raise ValueError(f"{sizes}; make the {name} the size of the image (after its EXIF rotation)")
    warnings.warn(f"{sizes}; the {name} was resized", stacklevel=3)
    binary = bool(np.isin(mask, (0, 1)).all())
    resample = Image.Resampling.NEAREST if binary else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(mask).resize(size, resample)).clip(0, 1)


def require_hole(mask: np.ndarray, name: str = "mask", white: str = "repainted") -> None:
    """Raise ValueError if the mask (H, W) in [0, 1] marks nothing or everything. `white` says what happens to white."""
    if mask.max() <= 0:
        raise ValueError(f"the {name} is empty (all black); make white what is to be {white}")
    if mask.min() >= 1:
        raise ValueError(f"the {name} is full (all white); make black what is not to be {white}")
