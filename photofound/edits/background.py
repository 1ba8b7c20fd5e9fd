"""What lies behind a placed subject: a colour, a picture, a drawn surface, the photograph itself out of focus, nothing.

background = parse("marble:black")
pixels = render(background, placed, photograph, matte)     # in the photograph's own values
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from PIL import ImageColor

from photofound import image as images
from photofound.edits.geometry import bounding_box
from photofound.edits.inputs import asks
from photofound.edits.placement import Placed
from photofound.image import Picture

if TYPE_CHECKING:
    from photofound.edits.materials import RGB, Surface

_HELP = "a colour (#ffffff, teal), a surface (wood, marble:black), blur, transparent, or words"
Ground = Annotated[Any, asks("background", _HELP)]
Backdrop = Annotated[Any, asks("image", "a picture as the background, cropped to cover")]
NAMES = ("background", "backdrop")
_BLUR = 0.035  # of the longer side: how far the background's farthest parts are out of focus


@dataclass(frozen=True)
class Background:
    """One of five kinds. ``note`` says which, in words.

    Attributes:
        kind: ``colour``, ``picture``, ``surface``, ``blur`` or ``transparent``.
        colour: sRGB, 0..255.
        picture: cropped and scaled to cover the canvas.
        surface: drawn in code (``photofound.edits.surfaces``).
    """

    kind: str
    note: str
    colour: RGB | None = None
    picture: Picture | None = None
    surface: Surface | None = None


def of_inputs(given: Mapping[str, Any]) -> Background | str | None:
    """The background that a task's inputs name, ``background`` or ``backdrop``; words that only a model can paint as
    they are; None where nothing is said of it. Raises ValueError."""
    said = given["background"]
    if isinstance(said, str) and not said.strip():
        said = None
    if given["backdrop"] is not None:
        if said is not None:
            raise ValueError("background and backdrop: each says what the background is; give one of them")
        return parse(Picture.from_any(given["backdrop"]))
    return None if said is None else parse(said) or str(said)


WHITE = Background("colour", "#ffffff", (255, 255, 255))


def parse(value: Any) -> Background | None:
    """The background that a user names; None for words that name no colour and no material, which only a model can
    paint.

    Args:
        value: text, or anything but text that ``Picture.from_any`` takes: text is never opened as a file.

    Raises ValueError for a colour that cannot be read, and for the name of a file.
    """
    from photofound.edits.materials import MATERIALS
    from photofound.edits.surface_words import surface_of

    if isinstance(value, Background):
        return value
    if not isinstance(value, str):
        return Background("picture", "a picture", picture=Picture.from_any(value))  # its name is nobody's business
    text = value.strip()
    if text in ("blur", "transparent"):
        return Background(text, text)
    if Path(text).suffix.lower() in images.READABLE_SUFFIXES:
        raise ValueError(f"background: {text!r} is a file's name; send the picture itself as backdrop")
    material, colon, colour = text.partition(":")
    is_code = text.startswith("#") or re.fullmatch(r"(rgb|hsl|hsv)\(.*\)", text)
    if is_code or (text.lower() in ImageColor.colormap and text not in MATERIALS):  # linen is a colour of CSS, too
        return Background("colour", text, colour_of(text))
    named = material in MATERIALS or colon
    surface = _surface(material.strip(), colour.strip()) if named else surface_of(text)
    return None if surface is None else Background("surface", surface.description, surface=surface)


def colour_of(text: str) -> RGB:
    """sRGB, 0..255, from ``#c00000``, ``#fff``, ``rgb(192, 0, 0)`` or a name of CSS. Raises ValueError."""
    try:
        found = ImageColor.getrgb(text)
    except ValueError:
        raise ValueError(f"background: {text!r} is no colour; write it like #c00000 or teal") from None
    if len(found) != 3:
        raise ValueError(f"background: {text!r} is in part transparent; write #rrggbb, or transparent")
    return found


def _surface(material: str, colour: str) -> Surface:
    from photofound.edits.materials import DEFAULTS, MATERIALS, Surface
    from photofound.edits.surface_words import surface_of

    if material not in MATERIALS:
        raise ValueError(f"background: there is no material {material!r}; use {', '.join(sorted(MATERIALS))}")
    if not colour:
        return Surface(material, DEFAULTS[material])
    named = surface_of(f"{colour} {material}", alone=True)  # a dark red as people see it, not CSS's
    if colour[0] != "#" and named is not None:
        return dataclasses.replace(named, material=material)
    return Surface(material, colour_of(colour))


def render(background: Background, placed: Placed, photograph: Picture, matte: np.ndarray, seed: int = 0) -> np.ndarray:
    """The background everywhere, also behind the subject; (H, W, 3) in the values of ``placed.picture``.

    Args:
        photograph, matte: from where the subject comes, for ``blur``.
        seed: of a surface's pattern.
    """
    from photofound.edits import staging

    picture, size = placed.picture, placed.picture.size
    if background.colour is not None:
        row = np.tile(native(background.colour, picture), (1, size[0], 1))  # a row is copied faster than a pixel
        return np.broadcast_to(row, (*size[::-1], 3))
    if background.kind == "transparent":
        return np.zeros((*size[::-1], 3), picture.pixels.dtype)
    if background.picture is not None:
        return _whole_numbers(staging.crop_to_fill(background.picture.rgb(), size), picture)
    if background.surface is not None:
        return _whole_numbers(staging.ground(background.surface, picture.rgb(), placed.matte, seed), picture)
    return _out_of_focus(placed, photograph, matte)


def native(colour: RGB, picture: Picture) -> np.ndarray:
    """A colour (3,) in a picture's own values. White is the largest of these, whatever the profile."""
    if tuple(colour) == (255, 255, 255):
        return np.full(3, picture.depth, picture.pixels.dtype)
    return _whole_numbers(np.array(colour, np.float32)[None, None] / 255, picture)[0, 0]


def _whole_numbers(rgb: np.ndarray, picture: Picture) -> np.ndarray:
    """(h, w, 3) sRGB in [0, 1] as a picture's own values."""
    return np.rint(picture.native(rgb)).astype(picture.pixels.dtype)


def _out_of_focus(placed: Placed, photograph: Picture, matte: np.ndarray) -> np.ndarray:
    """The photograph behind its subject, out of focus; the subject does not run into it. The order of depths stays:
    where the subject stands the ground is sharp, and what lies behind or before that, higher or lower in the picture,
    the less sharp the farther."""
    import cv2

    given = photograph.in_colour().colours.astype(np.float32)
    scale, (left, top) = placed.scale, placed.origin
    size = placed.picture.size
    far = _BLUR * max(size) / scale  # in the photograph's pixels
    reduction = max(1.0, far / 6)
    small = tuple(max(2, round(side / reduction)) for side in photograph.size)
    known = (matte <= 0).astype(np.float32)
    pixels = cv2.resize(given * known[..., None], small, interpolation=cv2.INTER_AREA)
    weight = cv2.resize(known, small, interpolation=cv2.INTER_AREA)
    behind = _without_subject(pixels, weight)
    move = np.array([[scale, 0, left], [0, scale, top]], np.float64)
    levels = [_filled(given, known, behind)]
    levels += [cv2.resize(cv2.GaussianBlur(behind, (0, 0), share * 6), photograph.size) for share in (0.25, 0.5, 1.0)]
    levels = [
        cv2.warpAffine(level, move, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101) for level in levels
    ]
    box = bounding_box(placed.matte > 0.5) if (placed.matte > 0.5).any() else bounding_box(placed.matte > 0)
    rows = np.arange(size[1], dtype=np.float32)
    reach = max(1.0, 0.6 * box.height)
    base = box.bottom - 0.06 * box.height
    depth = np.clip(np.abs(rows - base) / reach, 0, 1)[:, None]
    depth = np.maximum(depth, _beyond(placed, photograph)) * (len(levels) - 1)
    made = np.zeros_like(levels[0])
    for number, level in enumerate(levels):
        made += np.clip(1 - np.abs(depth - number), 0, 1)[..., None] * level
    return np.rint(made.clip(0, placed.picture.depth)).astype(placed.picture.pixels.dtype)


def _beyond(placed: Placed, photograph: Picture) -> np.ndarray:
    """(H, W): 1 beyond the photograph's frame, where it goes on as in a mirror, and 0 well within it."""
    soft = 0.04 * min(placed.picture.size)
    near = []
    for side, origin, length in zip(placed.picture.size, placed.origin, photograph.size, strict=True):
        at = np.arange(side, dtype=np.float32)
        if origin <= 1 and origin + length * placed.scale >= side - 1:  # it fills the canvas
            near.append(np.zeros(side, np.float32))
        else:
            within = np.minimum(at - origin, origin + length * placed.scale - 1 - at)
            near.append(np.clip(1 - within / soft, 0, 1))
    return np.maximum(near[1][:, None], near[0][None])


def _without_subject(pixels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Pixels (h, w, 3) times their weight, spread into where there is none."""
    import torch

    from photofound.edits.composite import harmonic

    known = torch.from_numpy(weight > 0.5)[None, None]
    values = torch.from_numpy(pixels / np.maximum(weight, 1e-3)[..., None]).permute(2, 0, 1)[None]
    spread: np.ndarray = harmonic(values, known)[0].permute(1, 2, 0).contiguous().numpy()
    return spread


def _filled(given: np.ndarray, known: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """The photograph, with what lies smoothly around its subject in the subject's place."""
    import cv2

    around = cv2.erode(known, np.ones((9, 9), np.uint8))  # its edge is mixed with the subject
    share = cv2.GaussianBlur(around, (0, 0), 2.0)[..., None] * known[..., None]
    return given * share + cv2.resize(behind, given.shape[1::-1]) * (1 - share)
