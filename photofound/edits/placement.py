"""Where on a canvas a subject goes, and how large: one set of options for every task that places a subject.

    placement = Placement.of(canvas="2000x2000", padding="5%")
    placed = place(picture, matte, placement)      # the subject on the canvas, in the photograph's own values

Lengths are pixels of the canvas, or shares of its width (left and right) or height (top and bottom).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from PIL import Image

from photofound.edits.geometry import Box, bounding_box, parse_length, parse_size
from photofound.edits.inputs import asks
from photofound.image import Picture, nearest
from photofound.picture import metadata

LARGEST = 16_384  # pixels of a canvas's side
ALIGNMENTS = ("center", "top", "bottom", "left", "right", "top-left", "top-right", "bottom-left", "bottom-right")
REFERENCES = ("subject", "image")
SIDES = ("top", "right", "bottom", "left")
_FAINT = 0.05  # of a matte: what is less opaque does not count for the subject's box
_CUT = 0.01  # of a side: a subject that meets more of the frame is cut off by it
_RESOLUTION = (282, 283, 296)  # EXIF's tags, which would contradict another dpi

# What a task asks its user: one annotation for each option.
Canvas = Annotated[Any, asks("size", "size of the result, WxH; left out, the photograph's or the preset's")]
Padding = Annotated[Any, asks("sides", "free space around the subject, px or %: one value, or top,right,bottom,left")]
Margin = Annotated[Any, asks("sides", "the canvas's edge that nothing of the subject enters, as padding")]
Align = Annotated[Any, asks("text", "where in its room the subject lies; left out, center", ALIGNMENTS)]
At = Annotated[Any, asks("place", "where the subject's centre lies, X,Y in px or %; instead of align and snap")]
Fit = Annotated[Any, asks("fit", "contain (default), cover, none, or a scale like 80%; never larger without enlarge")]
Reference = Annotated[Any, asks("text", "what is placed: the subject (default), or all of the image", REFERENCES)]
Snap = Annotated[Any, asks("flag", "sides where the frame cuts the subject stay at the frame; left out, yes")]
Enlarge = Annotated[Any, asks("flag", "let the subject become larger than in the photograph")]
Dpi = Annotated[Any, asks("int", "dots per inch, written into the file", within=(1, 100_000))]
NAMES = ("canvas", "padding", "margin", "align", "at", "fit", "reference_box", "snap", "enlarge", "dpi")


@dataclass(frozen=True)
class Placement:
    """How a subject is placed; ``of`` makes one from what a user gives.

    Attributes:
        canvas: (width, height) of the result; None = the photograph's.
        padding: free space around the subject, lengths in the order of ``SIDES``. Not at sides that snap.
        margin: the canvas's edge, which nothing of the subject enters; what would is cut off.
        align: one of ``ALIGNMENTS``.
        at: lengths from the left and from the top to the centre of the subject; then neither ``align`` nor ``snap``
            counts.
        fit: ``contain``, ``cover``, or the scale of the subject, 1 = its own pixels.
        reference_box: what is fitted and aligned: the ``subject``, or the ``image`` with its frame.
        snap: whether sides of the subject that the photograph's frame cuts stay at the canvas's.
        enlarge: whether the subject may become larger than it is.
        dpi: dots per inch of the result; None = the photograph's.
    """

    canvas: tuple[int, int] | None = None
    padding: tuple[int | str, ...] = (0, 0, 0, 0)
    margin: tuple[int | str, ...] = (0, 0, 0, 0)
    align: str = "center"
    at: tuple[int | str, int | str] | None = None
    fit: str | float = "contain"
    reference_box: str = "subject"
    snap: bool = True
    enlarge: bool = False
    dpi: int | None = None

    @classmethod
    def of(cls, **given: Any) -> Placement:
        """A placement from the inputs of a task; what is None has its default. Raises ValueError."""
        asked = {name: value for name in NAMES if (value := given.get(name)) is not None}
        if "canvas" in asked:
            asked["canvas"] = parse_size(asked["canvas"], LARGEST)
        for name in ("padding", "margin"):
            if name in asked:
                asked[name] = parse_sides(asked[name], name)
        for name, known in (("align", ALIGNMENTS), ("reference_box", REFERENCES)):
            if asked.get(name, known[0]) not in known:
                raise ValueError(f"{name}: {asked[name]!r} is unknown; use {', '.join(known)}")
        if "at" in asked:
            asked["at"] = parse_place(asked["at"], "at")
        if "fit" in asked:
            asked["fit"] = _parse_fit(asked["fit"])
        dpi = asked.get("dpi", 72)
        if not isinstance(dpi, int) or isinstance(dpi, bool) or not 1 <= dpi <= 100_000:
            raise ValueError(f"dpi: {dpi!r} must be a whole number from 1 to 100000")
        placement = cls(**asked)
        if isinstance(placement.fit, float) and placement.fit > 1 and not placement.enlarge:
            raise ValueError(f"fit: {placement.fit:.0%} enlarges the subject, which makes no detail; pass enlarge, too")
        return placement

    @property
    def is_default(self) -> bool:
        """Whether nothing was asked for: the photograph is its own canvas."""
        return self == Placement(dpi=self.dpi)

    def room(self, size: tuple[int, int], snapped: Mapping[str, bool]) -> tuple[Box, Box]:
        """What of a canvas (width, height) the subject may enter, and where in it the subject is fitted: within the
        padding, but for sides that snap. Raises ValueError where margin and padding leave nothing."""
        whole = dict(zip(SIDES, size[::-1] * 2, strict=True))
        margins = [parse_length(each, whole[side], "margin") for each, side in zip(self.margin, SIDES, strict=True)]
        paddings = [
            0 if snapped[side] else parse_length(each, whole[side], "padding")
            for each, side in zip(self.padding, SIDES, strict=True)
        ]
        area = _inset(size, margins)
        inner = _inset(size, [margin + padding for margin, padding in zip(margins, paddings, strict=True)])
        for box, what in ((area, "margin"), (inner, "margin and padding")):
            if min(box.width, box.height) < 1:
                raise ValueError(f"{what}: nothing is left of a canvas of {size[0]}x{size[1]}; give less")
        return area, inner


@dataclass(frozen=True)
class Placed:
    """A subject on its canvas.

    Attributes:
        picture: of the canvas's size, in colour, without alpha: the subject's own values at its place, black elsewhere.
        matte: (H, W) float32 in [0, 1], 1 = subject.
        scale: of the subject; 1 = its pixels are the photograph's, bit for bit.
        origin: (x, y) on the canvas where the photograph's upper left corner lies.
        box: what was fitted and aligned, on the canvas, which it may leave.
        note: how the subject was placed, in words.
    """

    picture: Picture
    matte: np.ndarray
    scale: float
    origin: tuple[float, float]
    box: Box
    note: str

    @property
    def at(self) -> tuple[int, int] | None:
        """``origin``, where the photograph's pixels are kept; None where they were scaled."""
        return (round(self.origin[0]), round(self.origin[1])) if self.scale == 1 else None


def place(picture: Picture, matte: np.ndarray, placement: Placement) -> Placed:
    """Put a subject onto a canvas.

    Args:
        picture: the photograph, with the subject's own colours where the matte is soft.
        matte: (H, W) float32 in [0, 1], 1 = subject.

    Raises ValueError for a subject that is nowhere opaque, and for a canvas that has no room.
    """
    if not (matte > _FAINT).any():
        raise ValueError("subject: nothing of it is opaque; mark what is to be placed")
    picture, size = _plain(with_dpi(picture, placement.dpi)), placement.canvas or picture.size
    subject = placement.reference_box == "subject"
    box = bounding_box(matte > _FAINT) if subject else Box(0, 0, picture.width, picture.height)
    cut = _cut_sides(matte) if subject else dict.fromkeys(SIDES, False)
    snaps = placement.snap and placement.at is None
    snapped = cut if snaps else dict.fromkeys(SIDES, False)
    area, room = placement.room(size, snapped)
    scale, note = _scale(box, room, placement)
    wide, tall = _scaled(box.width, scale), _scaled(box.height, scale)
    if placement.at is not None:
        x, y = (parse_length(each, whole, "at") for each, whole in zip(placement.at, size, strict=True))
        left, top = x - wide // 2, y - tall // 2
    else:
        left = room.left + _offset(room.width - wide, placement.align, "left", "right", snapped)
        top = room.top + _offset(room.height - tall, placement.align, "top", "bottom", snapped)
    part = bounding_box(matte > 0)
    colours, alpha = picture.pixels[part.slices], matte[part.slices]
    if scale != 1:
        colours, alpha = _resampled(colours, alpha, scale)
    at = left + round((part.left - box.left) * scale), top + round((part.top - box.top) * scale)
    ends = at[0] + alpha.shape[1], at[1] + alpha.shape[0]
    seen = Box(*np.maximum(at, area[:2]).tolist(), *np.minimum(ends, area[2:]).tolist())
    if seen.width < 1 or seen.height < 1:
        name, way = ("fit", "use contain") if placement.at is None else ("at", "give a place on it, like 50%,50%")
        raise ValueError(f"{name}: nothing of the subject lies on the canvas; {way}")
    if placement.fit != "cover" and _leaves(alpha, at, area):
        note += ", in part beyond the canvas"
    if any(cut.values()) and not snaps:
        sides = ", ".join(side for side in SIDES if cut[side])
        note += f"; it meets the photograph's frame ({sides}) and may be cut off"
    source = slice(seen.top - at[1], seen.bottom - at[1]), slice(seen.left - at[0], seen.right - at[0])
    pixels = np.zeros((size[1], size[0], 3), picture.pixels.dtype)
    placed = np.zeros((size[1], size[0]), np.float32)
    pixels[seen.slices], placed[seen.slices] = colours[source], alpha[source]
    origin = left - box.left * scale, top - box.top * scale
    return Placed(picture.moved(pixels), placed, scale, origin, Box(left, top, left + wide, top + tall), note)


def parse_sides(value: Any, name: str) -> tuple[int | str, ...]:
    """Four lengths, in the order of ``SIDES``, from one for all, two (vertical, horizontal), three or four, as in CSS:
    ``"10%"``, ``40``, ``"10%,5%,20,5%"`` or ``(10, "5%", 20, "5%")``. Raises ValueError."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (tuple, list)) else [value]
    lengths = tuple(part.strip() if isinstance(part, str) else part for part in parts)
    if not 1 <= len(lengths) <= 4:
        raise ValueError(f"{name}: got {len(lengths)} lengths; give one, or one for each of top,right,bottom,left")
    for length in lengths:
        parse_length(length, 100, name)
    top = lengths[0]
    right = lengths[1] if len(lengths) > 1 else top
    return top, right, lengths[2] if len(lengths) > 2 else top, lengths[3] if len(lengths) > 3 else right


def parse_place(value: Any, name: str) -> tuple[int | str, int | str]:
    """A place on a canvas, lengths from the left and from the top: ``"50%,60%"`` or ``(400, "60%")``. Raises
    ValueError."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (tuple, list)) or len(parts) != 2:
        raise ValueError(f"{name}: {value!r} is not a place; give two lengths, from the left and the top, like 50%,60%")
    x, y = (part.strip() if isinstance(part, str) else part for part in parts)
    for length in (x, y):
        parse_length(length, 100, name)
    return x, y


def _parse_fit(value: Any) -> str | float:
    if value in ("contain", "cover"):
        return str(value)
    if value == "none":
        return 1.0
    number = value
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d{1,4}(?:\.\d{1,9})?)\s*%\s*", value)):
        number = float(match[1]) / 100
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0.001 <= number <= 20:
        raise ValueError(f"fit: {value!r} is unknown; use contain, cover, none, or a scale from 0.1% to 2000%")
    return float(number)


def _inset(size: tuple[int, int], lengths: Sequence[int]) -> Box:
    """A canvas (width, height) without its edges, in the order of ``SIDES``."""
    top, right, bottom, left = lengths
    return Box(left, top, size[0] - right, size[1] - bottom)


def _cut_sides(matte: np.ndarray) -> dict[str, bool]:
    """At which sides the photograph's frame cuts the subject off."""
    edges = {"top": matte[0], "right": matte[:, -1], "bottom": matte[-1], "left": matte[:, 0]}
    return {side: bool((edge > 0.5).mean() > _CUT) for side, edge in edges.items()}


def _scale(box: Box, room: Box, placement: Placement) -> tuple[float, str]:
    """The subject's scale, and what is to be said about it."""
    across, down = room.width / box.width, room.height / box.height
    wanted = (
        placement.fit
        if isinstance(placement.fit, float)
        else {"contain": min, "cover": max}[placement.fit](across, down)
    )
    if wanted > 1 and not placement.enlarge:
        return 1.0, f"subject at its own size, {1 / wanted:.0%} of its room; enlarge would fill it"
    if wanted == 1:
        return 1.0, "subject at its own size"
    if wanted > 1:
        return wanted, f"subject enlarged to {wanted:.0%} of its size, which adds no detail"
    return wanted, f"subject resampled to {wanted:.1%} of its size"


def _scaled(length: int, scale: float) -> int:
    """Never more than there is room for."""
    return max(1, math.floor(length * scale + 1e-6))


def _offset(free: int, align: str, low: str, high: str, snapped: Mapping[str, bool]) -> int:
    """Where in the ``free`` pixels of one direction the subject begins. Sides that the frame cut come first."""
    if snapped[low] != snapped[high]:
        return 0 if snapped[low] else free
    if not snapped[low] and (low in align or high in align):
        return 0 if low in align else free
    return free // 2


def with_dpi(picture: Picture, dpi: int | None) -> Picture:
    """The picture with another resolution, and without what would contradict it; None = its own."""
    if dpi is None:
        return picture
    exif = metadata.exif_without(picture.exif, _RESOLUTION)
    return dataclasses.replace(picture, dpi=(dpi, dpi), exif=exif)


def _plain(picture: Picture) -> Picture:
    """In colour and without alpha. It is no longer the file that it was read from, so a JPEG is not compressed like
    that one."""
    return dataclasses.replace(picture, pixels=picture.colours, jpeg=None).in_colour()


def _leaves(alpha: np.ndarray, at: tuple[int, int], area: Box) -> bool:
    """Whether a subject with its corner ``at`` leaves a part of the canvas by more than a pixel, which an edge is soft
    by, or was rounded by."""
    own = bounding_box(alpha > _FAINT)
    starts, ends = (at[0] + own.left, at[1] + own.top), (at[0] + own.right, at[1] + own.bottom)
    return bool((np.array(starts) < np.array(area[:2]) - 1).any() or (np.array(ends) > np.array(area[2:]) + 1).any())


def _resampled(colours: np.ndarray, matte: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Colours (h, w, 3) and matte (h, w) at another size, by Lanczos's filter. What the matte hides does not run into
    what it shows."""
    if (hidden := matte <= 0).any():
        colours = np.where(hidden[..., None], nearest(colours, ~hidden), colours)
    size = _scaled(matte.shape[1], scale), _scaled(matte.shape[0], scale)
    most = np.iinfo(colours.dtype).max
    if colours.dtype == np.uint8:
        made = np.asarray(Image.fromarray(colours).resize(size, Image.Resampling.LANCZOS))
    else:
        channels = [_resized(np.ascontiguousarray(colours[..., i], np.float32), size) for i in range(3)]
        made = np.rint(np.stack(channels, -1).clip(0, most)).astype(colours.dtype)
    # In steps of the file's own, so that what is opaque stays so and nothing is left around it.
    alpha = np.rint(_resized(np.ascontiguousarray(matte, np.float32), size).clip(0, 1) * most) / most
    return made, alpha.astype(np.float32)


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.LANCZOS))
