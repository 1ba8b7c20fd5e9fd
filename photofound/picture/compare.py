"""Which pixels of two pictures are identical, by how much the others differ, and where one lies in the other."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from photofound.picture import colour
from photofound.picture.arrays import to_8_bit
from photofound.picture.picture import Picture

_COARSE = 512  # pixels: the long side at which one picture is looked for in the other
_ALIKE = 12.0  # of 255: a mean difference at which pictures, compressed or not, still show the same
_RED, _YELLOW, _BLUE = (np.array(rgb, np.float32) for rgb in ((230, 20, 20), (255, 220, 60), (90, 140, 220)))


@dataclass(frozen=True)
class Comparison:
    """What became of the pixels that had to be kept.

    Attributes:
        identical, altered: how many of them have the same values, and how many do not.
        missing: how many of the altered ones lie outside the other picture.
        largest: the largest difference of a channel, in values up to ``depth``.
        depth: 255 or 65535: the finer of the two pictures' depths.
        at: (x, y) in the result of the original's first pixel.
        kept: how many pixels had to be kept; ``pixels``: how many the original has.
        as_colours: the colour profiles mean different colours, and so colours are compared, not values.
        difference: (H, W) of the result's size; 0 = identical.
        region: (H, W) bool of the result's size, what had to be kept.
    """

    identical: int
    altered: int
    missing: int
    largest: int
    depth: int
    at: tuple[int, int]
    pixels: int
    as_colours: bool
    difference: np.ndarray = field(repr=False)
    region: np.ndarray = field(repr=False)

    @property
    def kept(self) -> int:
        return self.identical + self.altered

    def picture(self, after: Picture) -> Picture:
        """The result in grey. Over it, what was altered: yellow by one step, red by half of the range and more; what
        did not have to be kept is blue."""
        grey = to_8_bit(after.revealed().pixels)[..., : 1 if after.is_grey else 3].mean(axis=2, dtype=np.float32)
        shown = np.repeat(64 + grey[..., None] / 2, 3, axis=2)
        free = ~self.region
        shown[free] = 0.6 * shown[free] + 0.4 * _BLUE
        wrong = (self.difference > 0) & self.region
        amount = np.log2(1 + self.difference[wrong].astype(np.float32) * (255 / self.depth)) / 7  # 127 steps: 1
        shown[wrong] = _YELLOW + amount.clip(0, 1)[:, None] * (_RED - _YELLOW)
        return Picture(np.rint(shown).astype(np.uint8))


def compare(
    before: Picture, after: Picture, kept: np.ndarray | None = None, at: tuple[int, int] = (0, 0)
) -> Comparison:
    """Compare the pixels of ``before`` that had to be kept with what ``after`` has in their place.

    Values are compared: those of 8 bits in 16 are times 257, grey is red, green and blue, no alpha is opaque. If the
    two colour profiles mean different colours, colours are compared instead, in sRGB and rounded.

    Args:
        kept: (H, W) bool of ``before``'s size; None = all of it.
        at: (x, y) in ``after`` of the first pixel of ``before``; it may lie outside.

    Raises ValueError if the pictures do not overlap.
    """
    if kept is None:
        kept = np.ones((before.height, before.width), bool)
    left, top = max(0, at[0]), max(0, at[1])
    right, bottom = min(after.width, at[0] + before.width), min(after.height, at[1] + before.height)
    if right <= left or bottom <= top:
        raise ValueError(f"at: at {at[0]},{at[1]} the {before.width}x{before.height} picture lies outside the other")
    source = before.crop((left - at[0], top - at[1], right - at[0], bottom - at[1]))
    found, depth, as_colours = differences(source, after.crop((left, top, right, bottom)))
    inside = kept[top - at[1] : bottom - at[1], left - at[0] : right - at[0]]
    missing, wrong = int(kept.sum()) - int(inside.sum()), int((inside & (found > 0)).sum())
    difference = np.zeros((after.height, after.width), found.dtype)
    difference[top:bottom, left:right] = found
    region = np.zeros(difference.shape, bool)
    region[top:bottom, left:right] = inside
    return Comparison(
        identical=int(inside.sum()) - wrong,
        altered=wrong + missing,
        missing=missing,
        largest=int(found[inside].max(initial=0)),
        depth=depth,
        at=at,
        pixels=before.width * before.height,
        as_colours=as_colours,
        difference=difference,
        region=region,
    )


def differences(before: Picture, after: Picture) -> tuple[np.ndarray, int, bool]:
    """The largest difference of each pixel's channels (H, W), for two pictures of one size; the value of white; whether
    colours were compared instead of values."""
    if before.is_grey and not after.is_grey:
        before = before.in_colour()
    elif after.is_grey and not before.is_grey:
        after = after.in_colour()
    depth = max(before.depth, after.depth)
    as_colours = not _same_colours(before, after)
    if as_colours:
        depth = min(before.depth, after.depth)
        channels = [np.rint(each.rgb() * depth).astype(np.int32) for each in (before, after)]
    else:
        channels = [each.colours.astype(np.int32) * (depth // each.depth) for each in (before, after)]
    largest = np.abs(channels[0] - channels[1]).max(axis=2)
    if before.has_alpha or after.has_alpha:
        opacity = [_alpha(each) * (depth / each.depth) for each in (before, after)]
        largest = np.maximum(largest, np.rint(np.abs(opacity[0] - opacity[1])).astype(np.int32))
    return largest.astype(np.uint16), depth, as_colours


def _alpha(picture: Picture) -> np.ndarray:
    """(H, W) in native values."""
    if picture.has_alpha:
        return picture.pixels[..., -1].astype(np.float64)
    return np.full((picture.height, picture.width), float(picture.depth))


def _same_colours(a: Picture, b: Picture) -> bool:
    """Whether the same values mean the same colours in both."""
    if a.icc_profile == b.icc_profile:
        return True
    return all(colour.profile_mode(each.icc_profile, each.is_grey) is None for each in (a, b))


# ----------------------------------------------------------------------------------------------------- finding a place


def locate(before: Picture, after: Picture) -> tuple[int, int]:
    """(x, y) in ``after`` of the first pixel of ``before``, where one of the two lies in the other, at the same scale.

    It is looked for in small, in greys, and then made exact around the best place.

    Raises ValueError if neither fits into the other, or if no place shows the same.
    """
    if before.size == after.size:
        return 0, 0
    import cv2

    swapped = before.width > after.width or before.height > after.height
    inner, outer = (after, before) if swapped else (before, after)
    sizes = f"the pictures are {before.width}x{before.height} and {after.width}x{after.height}"
    if inner.width > outer.width or inner.height > outer.height:
        raise ValueError(f"{sizes}, and neither fits into the other; say with --at X,Y where the first one lies")
    small, large = (
        cv2.cvtColor(to_8_bit(np.ascontiguousarray(_colours(each))), cv2.COLOR_RGB2GRAY) for each in (inner, outer)
    )
    factor = max(1, max(outer.size) // _COARSE)
    x, y = (factor * each for each in _best(_shrunk(large, factor), _shrunk(small, factor)))
    left = min(max(0, x - 2 * factor), outer.width - inner.width)
    top = min(max(0, y - 2 * factor), outer.height - inner.height)
    window = large[top : top + small.shape[0] + 4 * factor, left : left + small.shape[1] + 4 * factor]
    x, y = _best(window, small)
    x, y = left + x, top + y
    shown = large[y : y + small.shape[0], x : x + small.shape[1]]
    apart = np.abs(shown.astype(np.int16) - small)
    if apart.mean() > _ALIKE and (apart == 0).mean() < 0.05:
        raise ValueError(
            f"{sizes}, and the one is not found in the other at its own scale; say with --at X,Y where it lies"
        )
    return (-x, -y) if swapped else (x, y)


def _colours(picture: Picture) -> np.ndarray:
    return np.repeat(picture.colours, 3, axis=2) if picture.is_grey else picture.colours


def _shrunk(grey: np.ndarray, factor: int) -> np.ndarray:
    import cv2

    size = max(1, grey.shape[1] // factor), max(1, grey.shape[0] // factor)
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)


def _best(large: np.ndarray, small: np.ndarray) -> tuple[int, int]:
    """(x, y) of the place where ``small`` differs least from ``large``."""
    import cv2

    _, _, place, _ = cv2.minMaxLoc(cv2.matchTemplate(large, small, cv2.TM_SQDIFF))
    return int(place[0]), int(place[1])
