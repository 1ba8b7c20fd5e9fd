"""Files and arrays <-> the pixels the model sees; nothing else in photofound touches ranges, channel order or metadata.

    picture = load("cup.png")                    # upright, at its own depth, in its own colour space
    rgb = picture.rgb()                          # (H, W, 3) float32 sRGB in [0, 1], for the model to look at
    result = picture.paste(painted, keep)        # keep == 1: the file's own integers, bit for bit
    save(result, "out.png")                      # atomic; profile, EXIF and XMP travel along

Two spaces meet here. NATIVE values are the file's: uint8 or uint16, grey or RGB, in the file's colour profile. MODEL
values are float32 sRGB in [0, 1]. A kept pixel never leaves native space; that is why it comes back exact.
"""

from __future__ import annotations

import codecs
import dataclasses
import hashlib
import io
import math
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError, features

from photofound import files
from photofound.errors import first_line
from photofound.picture import bounds, netpbm, profiles, stale

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 200_000_000
"""Largest image that is decoded by default; `max_pixels=` or the variable PHOTOFOUND_MAX_PIXELS raise it."""

SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
"""File suffix -> format, for every format that can be written."""
if features.check("avif"):  # a Pillow built from source may lack it
    SUFFIXES[".avif"] = "AVIF"

READABLE_SUFFIXES = (
    *(".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".heic", ".heics", ".heif", ".heifs", ".hif", ".j2c", ".j2k"),
    *(".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pfm", ".pgm", ".png", ".pnm"),
    *(".ppm", ".tif", ".tiff", ".webp"),
)
"""The usual names of all that can be read: what is taken from a folder. A file by itself is read whatever its name."""

# What may be decoded. Pillow knows many more, among them EPS, which would start Ghostscript on a stranger's file.
READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
"""Pillow's names of what may be decoded; the variable PHOTOFOUND_FORMATS, such as png,jpeg, makes it fewer."""
FORMATS_VARIABLE = "PHOTOFOUND_FORMATS"
_RELATED = {"BMP": ("DIB",)}  # kinds that have a name of their own
_LOSSLESS = ("PNG", "TIFF", "BMP", "GIF", "PPM")  # WebP may be either; its file says which
HOLDS_ALPHA = ("PNG", "TIFF", "WEBP", "AVIF")
_HOLDS_16_BIT = ("PNG", "TIFF")
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 32_768}  # in pixels, of what can be written and read again
_PNG_XMP = "XML:com.adobe.xmp"  # the keyword of the text chunk that holds it
_HIDDEN = 8 / 255  # less opaque, a pixel shows so little that its colour is rounding, or whatever was left there
_LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601, as Pillow and OpenCV weigh it


# ------------------------------------------------------------------------------------------------------- the picture


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded photograph as its file has it, upright. Immutable: every method returns a new one."""

    pixels: np.ndarray = field(repr=False)  # (H, W, C) uint8 or uint16; C = 1 grey, 2 grey+alpha, 3 RGB, 4 RGBA
    format: str | None = None  # the source file's: "PNG", "JPEG", ...; None for arrays
    icc_profile: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)  # orientation reset to 1, since the pixels are upright
    dpi: tuple[float, float] | None = None
    path: Path | None = None
    lossless: bool = True  # whether the source's encoding was; a WebP is then written so too
    xmp: bytes | None = field(default=None, repr=False)  # UTF-8, orientation 1
    jpeg: JpegSource | None = field(default=None, repr=False)  # how a JPEG was compressed
    colour: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)  # a PNG's chunks that say what colours mean
    note: str = ""  # what an edit says of itself; `provenance.mark` writes it into the metadata

    def __post_init__(self) -> None:
        assert self.pixels.ndim == 3 and self.pixels.shape[2] in (1, 2, 3, 4), self.pixels.shape
        assert self.pixels.dtype in (np.uint8, np.uint16) and self.pixels.size > 0, self.pixels.dtype
        view = self.pixels.view()
        view.flags.writeable = False  # guards the promise of exact pixels against a careless in-place edit
        object.__setattr__(self, "pixels", view)

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as in Pillow."""
        return self.width, self.height

    @property
    def depth(self) -> int:
        """The native value of white: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    @property
    def has_alpha(self) -> bool:
        return self.pixels.shape[2] in (2, 4)

    @property
    def is_grey(self) -> bool:
        return self.pixels.shape[2] in (1, 2)

    @property
    def colours(self) -> np.ndarray:
        """(H, W, 1 or 3) native values without alpha."""
        return self.pixels[..., : 1 if self.is_grey else 3]

    @staticmethod
    def from_any(image: Any, max_pixels: int | None = None) -> Picture:
        """Picture from a Picture, PIL image, path (str or Path), encoded bytes, numpy array or torch tensor.

        Arrays are (H, W) or (H, W, 1 | 2 | 3 | 4), uint8, uint16, bool (True = white) or float in [0, 1]. Floats become
        8-bit when every value is some k/255 (up to the rounding of their own dtype), else 16-bit, so nothing is lost.
        Tensors are (H, W), (C, H, W) or (1, C, H, W), with the same dtypes and ranges.
        Raises ValueError or FileNotFoundError with one line that names the value and the remedy.
        """
        if isinstance(image, Picture):
            return image
        if isinstance(image, (str, os.PathLike)):
            return load(image, max_pixels)
        if isinstance(image, (bytes, bytearray)):
            return decode(bytes(image), max_pixels=max_pixels)
        if isinstance(image, Image.Image):
            _check_size(image.size, "image", max_pixels)
            with _one_line_errors("image"):
                return _from_pil(image, "image")
        if isinstance(image, np.ndarray):
            return Picture(_pixels_from_array(image))
        if hasattr(image, "detach"):  # a torch tensor, told without importing torch
            return Picture(_pixels_from_array(_channels_last(image.detach().cpu())))
        raise ValueError(f"cannot read an image from {type(image).__name__}; pass a path, PIL image, array or tensor")

    def rgb(self, hole: np.ndarray | None = None) -> np.ndarray:
        """(H, W, 3) float32 sRGB in [0, 1]: through the ICC profile if there is one, grey replicated. What lies unseen
        under alpha is not looked at (`revealed`).

        The depth is kept, but for 16 bits through a profile that is made of tables, as scanners and printers have them:
        these are converted in 8 bits (Pillow's limit).
        """
        shown = self.revealed(hole).colours
        convert = _colour_transform(self.icc_profile, self.is_grey, True)
        if convert is None:
            colours = shown.astype(np.float32) / np.float32(self.depth)
        elif (exact := self._exact_profile()) is not None:
            colours = exact.to_srgb(_expand(shown, convert[1]))
        else:
            transform, native = convert
            colours = _apply(transform, _expand(_to_8_bit(shown), native)).astype(np.float32) / np.float32(255)
        return _expand(colours, "RGB")

    def _exact_profile(self) -> profiles.Profile | None:
        """What converts 16 bits without loss, where that is needed and possible."""
        return profiles.parsed(self.icc_profile) if self.depth > 255 and self.icc_profile else None

    def revealed(self, hole: np.ndarray | None = None) -> Picture:
        """This picture with the colours that its alpha hides (below 8/255) taken from the nearest pixel that is seen:
        what a program left there must not run into its neighbours. Alpha stays. Of a picture that shows nothing all
        is black.

        Args:
            hole: (H, W) bool, where colours are not taken from, unless there are no others.
        """
        alpha = self.alpha()
        if alpha is None or (seen := alpha >= _HIDDEN).all():
            return self
        known = seen if hole is None or not (seen & ~hole).any() else seen & ~hole
        around = nearest(self.colours, known) if seen.any() else np.zeros_like(self.colours)
        colours = np.where(seen[..., None], self.colours, around)
        return dataclasses.replace(self, pixels=np.concatenate([colours, self.pixels[..., -1:]], axis=2))

    def alpha(self) -> np.ndarray | None:
        """(H, W) float32 in [0, 1], exactly 1 where opaque; None when the picture has no alpha channel."""
        return self.pixels[..., -1].astype(np.float32) / np.float32(self.depth) if self.has_alpha else None

    def to_float(self) -> np.ndarray:
        """(H, W, C) float32 in [0, 1]: native values with alpha, no colour conversion."""
        return self.pixels.astype(np.float32) / np.float32(self.depth)

    def to_pil(self) -> Image.Image:
        """PIL image of mode L, LA, RGB or RGBA; 16-bit grey is I;16, other 16-bit is rounded to 8 (Pillow has no more).

        `info` carries the profile, EXIF, XMP and dpi, so that Pillow's own `save` keeps the colours right.
        """
        deep_grey = self.depth > 255 and self.pixels.shape[2] == 1
        pixels = self.pixels if deep_grey else _to_8_bit(self.pixels)
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
        image.info.update(_pil_metadata(self))
        return image

    def paste(
        self,
        rgb: np.ndarray,
        keep: np.ndarray,
        at: tuple[int, int] = (0, 0),
        *,
        colour: bool = False,
        flatten: bool = False,
        opaque: bool = True,
    ) -> Picture:
        """This picture with generated colours where `keep` is below 1. Kept pixels are the same integers, bit for bit.

        Args:
            rgb: (h, w, 3) float sRGB in [0, 1], clipped; is converted to this picture's profile, depth and mode.
            keep: (h, w) float in [0, 1]: 1 = untouched, 0 = generated, between = mixed in native values and rounded.
            at: (left, top) of the patch in the picture; everything outside the patch is kept.
            colour: promote a grey picture to RGB (kept pixels r = g = b = grey); otherwise grey stays grey, by luma.
            flatten: drop the alpha channel; `keep` then already includes alpha, as outpainting does it.
            opaque: generated pixels become opaque (a soft edge is composited over them); False leaves alpha as it is.
        """
        rgb, keep = _check_patch(rgb, keep, at, self.size)
        base = self._without_alpha() if flatten else self
        base = base._promoted() if colour else base
        rows, columns = _bounds(keep < 1)  # no work where nothing changes: a small hole in a large photograph is cheap
        rgb, keep = rgb[rows, columns], keep[rows, columns, None]
        pixels = base.pixels.copy()
        window = pixels[at[1] :, at[0] :][rows, columns]
        window[...] = _mix(window, base._native(rgb), keep, base.depth, base.has_alpha, opaque)
        return dataclasses.replace(base, pixels=pixels)

    def with_alpha(self, alpha: np.ndarray) -> Picture:
        """This picture in RGBA, with `alpha` (H, W) in [0, 1] in place of its own; colours stay the same integers, but
        where nothing of them is seen they are black."""
        base = self._without_alpha()._promoted()
        alpha = np.rint(alpha * base.depth).astype(base.pixels.dtype)[..., None]
        return dataclasses.replace(base, pixels=np.concatenate([base.pixels * (alpha > 0), alpha], axis=2))

    def extend(self, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> Picture:
        """A canvas larger by these margins in pixels; the picture lies on it exactly, the rest is black and opaque."""
        margins = {"left": left, "top": top, "right": right, "bottom": bottom}
        for name, margin in margins.items():
            if margin < 0:
                raise ValueError(f"{name} margin is {margin}; it must be 0 or more pixels")
        width, height = self.width + left + right, self.height + top + bottom
        _check_size((width, height), "the extended canvas", None)
        pixels = np.zeros((height, width, self.pixels.shape[2]), self.pixels.dtype)
        if self.has_alpha:
            pixels[..., -1] = self.depth
        pixels[top : top + self.height, left : left + self.width] = self.pixels
        return self._moved(pixels)

    def crop(self, box: tuple[int, int, int, int]) -> Picture:
        """The part within (left, top, right, bottom); a view, no pixels are copied."""
        left, top, right, bottom = box
        return dataclasses.replace(self, pixels=self.pixels[top:bottom, left:right])

    def resize(self, size: tuple[int, int]) -> Picture:
        """This picture at (width, height), in native values: bicubic when growing, area average when shrinking. Colours
        that alpha hides do not run into those that are seen (`revealed`)."""
        import cv2

        _check_size(size, "the resized image", None)
        shrinks = size[0] < self.width or size[1] < self.height
        pixels = cv2.resize(self.revealed().pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        return self._moved(pixels.reshape(size[1], size[0], -1))

    def _moved(self, pixels: np.ndarray) -> Picture:
        """With pixels that are elsewhere now: without the metadata that name places among them."""
        exif, xmp = _exif_without(self.exif, _EXIF_PLACES), stale.pruned(self.xmp, of_size=True)
        return dataclasses.replace(self, pixels=pixels, exif=exif, xmp=xmp)

    def without_location(self) -> Picture:
        """This picture without where it was taken: EXIF's GPS folder, and every property of the XMP that names a place.
        All other metadata stays."""
        return dataclasses.replace(self, exif=_exif_without(self.exif, (0x8825,)), xmp=_xmp_without_place(self.xmp))

    def _native(self, rgb: np.ndarray) -> np.ndarray:
        """(h, w, 3) sRGB, clipped to [0, 1] -> (h, w, 1 or 3) float32 native values, unrounded; inverts `rgb`."""
        rgb = rgb.clip(0, 1)
        convert = _colour_transform(self.icc_profile, self.is_grey, False) if rgb.size else None
        if convert is not None and (exact := self._exact_profile()) is not None:
            rgb = exact.from_srgb(rgb)
        elif convert is not None:
            rgb = _apply(convert[0], np.rint(rgb * 255).astype(np.uint8)).astype(np.float32) / np.float32(255)
        if self.is_grey and rgb.shape[2] == 3:
            rgb = (rgb @ _LUMA)[..., None].astype(np.float32)
        return rgb * np.float32(self.depth)

    def _without_alpha(self) -> Picture:
        return dataclasses.replace(self, pixels=self.colours) if self.has_alpha else self

    def _promoted(self) -> Picture:
        """Grey as RGB with r = g = b. A grey profile cannot describe RGB and is dropped, with a warning if it shows."""
        if not self.is_grey:
            return self
        convert = _colour_transform(self.icc_profile, True, True)
        profile = self.icc_profile
        if convert is not None and convert[1] == "L":
            warnings.warn("the picture's grey colour profile cannot hold colour and was dropped", stacklevel=3)
            profile = None
            self = dataclasses.replace(self, colour=())
        elif convert is None:
            profile = None
        pixels = np.concatenate([np.repeat(self.colours, 3, axis=2), self.pixels[..., 1:]], axis=2)
        return dataclasses.replace(self, pixels=pixels, icc_profile=profile)


def nearest(colours: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(H, W, C): everywhere the colour of the nearest pixel of `known` (H, W) bool, which must not be empty."""
    import cv2

    unknown = (~known).astype(np.uint8)
    _, labels = cv2.distanceTransformWithLabels(unknown, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    of_label = np.zeros((labels.max() + 1, colours.shape[2]), colours.dtype)
    of_label[labels[known]] = colours[known]
    found: np.ndarray = of_label[labels]
    return found


def _check_patch(rgb: Any, keep: Any, at: tuple[int, int], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """rgb (h, w, 3) and keep (h, w) as float32, or ValueError."""
    rgb, keep = np.asarray(rgb, np.float32), np.asarray(keep, np.float32)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or keep.shape != rgb.shape[:2]:
        raise ValueError(f"paste needs rgb (h, w, 3) and keep (h, w) of one size, got {rgb.shape} and {keep.shape}")
    if min(at) < 0 or at[0] + keep.shape[1] > size[0] or at[1] + keep.shape[0] > size[1]:
        patch = f"{keep.shape[1]}x{keep.shape[0]} patch at {at}"
        raise ValueError(f"the {patch} lies outside the {size[0]}x{size[1]} picture")
    if not np.isfinite(rgb).all():
        raise ValueError("the generated image has NaN or infinite values; try --dtype float32 or another seed")
    if not (keep.min() >= 0 and keep.max() <= 1):  # written so that NaN fails too
        raise ValueError(f"keep must lie in [0, 1], got values from {keep.min()} to {keep.max()}")
    return rgb, keep


def _bounds(where: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around the True of a (h, w) array; empty slices if there is none."""
    sides = (np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0)))
    rows, columns = (slice(side[0], side[-1] + 1) if len(side) else slice(0) for side in sides)
    return rows, columns


def _mix(kept: np.ndarray, made: np.ndarray, keep: np.ndarray, depth: int, has_alpha: bool, opaque: bool) -> np.ndarray:
    """kept (h, w, C) native integers and made (h, w, C without alpha) native floats, by keep (h, w, 1), as integers."""
    if not has_alpha:
        mixed = keep * kept + (1 - keep) * made
    elif opaque:  # `kept over made`: transparent pixels weigh nothing, however opaque `keep` is
        weight = keep * kept[..., -1:] / depth
        alpha = weight + (1 - keep)
        colours = (weight * kept[..., :-1] + (1 - keep) * made) / np.maximum(alpha, 1e-6)
        mixed = np.concatenate([colours, alpha * depth], axis=2)
    else:
        mixed = np.concatenate([keep * kept[..., :-1] + (1 - keep) * made, kept[..., -1:]], axis=2)
    return np.where(keep == 1, kept, np.rint(mixed).clip(0, depth).astype(kept.dtype))


# ----------------------------------------------------------------------------------------------------------- reading


def load(path: str | os.PathLike[str], max_pixels: int | None = None) -> Picture:
    """Read an image file: PNG, JPEG, WebP, TIFF, BMP, GIF, PPM, JPEG 2000, AVIF; HEIC if pillow-heif is installed.

    The size is checked from the header, before anything is decoded. Of several frames the first is used, and it warns.
    Raises FileNotFoundError, or ValueError for anything that is not one whole image within `max_pixels`.
    """
    if not os.fspath(path):
        raise ValueError("the path is empty; name one image file")
    path = Path(path)
    if not os.path.exists(path):  # unlike Path.exists, also False for impossible names
        raise FileNotFoundError(f"{path}: no such file; check the path")
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "is not a regular file"
        raise ValueError(f"{path}: {kind}; name one image file")
    try:
        with bounds.counting(open(path, "rb", buffering=0)) as stream:
            return dataclasses.replace(_decode(stream, str(path), max_pixels), path=path)
    except PermissionError:
        raise ValueError(f"{path}: cannot be read, permission denied") from None


_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}  # what decoders do not miss


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a picture to its very end, of whatever size: none that a copy or a full disk cut off."""
    with warnings.catch_warnings(action="ignore"):
        try:
            end = _ENDS.get(str(load(path, max_pixels=2**62).format), b"")
            with open(path, "rb") as stream:
                stream.seek(-len(end), io.SEEK_END)
                return stream.read() == end or not end
        except (ValueError, OSError):
            return False


def decode(
    data: bytes, name: str = "image", max_pixels: int | None = None, at_least: tuple[int, int] | None = None
) -> Picture:
    """As `load`, from the bytes of a file; `name` is used in errors.

    Args:
        at_least: (width, height), upright; a JPEG that is far larger is decoded at 1/2, 1/4 or 1/8 of its size, which
            is many times faster, but never below this.
    """
    return _decode(bounds.counting(data), name, max_pixels, at_least)


def upright_size(data: bytes, name: str = "image", max_pixels: int | None = None) -> tuple[int, int]:
    """(width, height) once turned upright, from the header alone. Raises ValueError as `load` does."""
    with _open_header(bounds.counting(data), name) as image:
        _check_size(image.size, name, max_pixels)
        with _one_line_errors(name):
            return image.size[::-1] if _orientation(image) in _SIDEWAYS else image.size


def _decode(stream: BinaryIO, name: str, max_pixels: int | None, at_least: tuple[int, int] | None = None) -> Picture:
    if stream.seek(0, io.SEEK_END) == 0:
        raise ValueError(f"{name}: is empty (0 bytes); copy or download it again")
    stream.seek(0)
    with _open_header(stream, name) as image:
        _check_size(image.size, name, max_pixels)
        with _one_line_errors(name):
            if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a phone's JPEG with a preview
                warnings.warn(f"{name}: has several frames or pages; only the first is used", stacklevel=4)
            if at_least is not None and image.format in ("JPEG", "MPO"):
                sideways = _orientation(image) in _SIDEWAYS
                image.draft(None, at_least[::-1] if sideways else at_least)
            stream.seek(0)
            netpbm.hasten(image, stream.read() if image.format == "PPM" else b"")
            image.load()  # also what finds a truncated file, before OpenCV would half read it
            deep = _deep_pixels(image, stream, name)
            chunks = _colour_chunks(stream) if image.format == "PNG" else ()
            image.info["code_points"] = _code_points(image.format, stream, chunks)
            picture = _from_pil(image, name, deep)
            jpeg = JpegSource.of(image, stream) if at_least is None else None
    lossless = _is_lossless(picture.format, stream)
    return dataclasses.replace(picture, lossless=lossless, jpeg=jpeg, colour=chunks)


def _open_header(stream: BinaryIO, name: str) -> ImageFile.ImageFile:
    """The file as Pillow knows it before it decodes any pixels."""
    Image.init()
    allowed = readable()
    formats = [kind for kind in allowed if kind in Image.OPEN]
    try:
        stream.seek(0)
        bounds.check(stream.read())
        image = _identified(stream, formats)
        _check_exif(image, name)
        return image
    except bounds.TooMuch as error:
        raise _too_much(name, error) from error
    except UnidentifiedImageError:
        if _is_heic(stream) and "HEIF" in allowed and "HEIF" not in formats:
            _register_heic(name)
            return _open_header(stream, name)
        raise ValueError(f"{name}: is not an image that can be read ({', '.join(formats)}), or is damaged") from None
    except Exception as error:  # Pillow's parsers raise nearly anything on bad bytes
        raise _damaged(name, error) from error


def _identified(stream: BinaryIO, formats: list[str]) -> ImageFile.ImageFile:
    """As Image.open, without Pillow's own limit on pixels: it is a global below ours; `_check_size` takes its place."""
    stream.seek(0)
    prefix = stream.read(16)
    for kind in formats:
        factory, accepts = Image.OPEN[kind]
        try:
            if accepts is None or accepts(prefix) is True:
                stream.seek(0)
                return factory(stream, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    raise UnidentifiedImageError


def _check_exif(image: Image.Image, name: str) -> None:
    """Drop EXIF data that would take long to read, with a warning."""
    raw = image.info.get("Raw profile type exif")  # of a PNG, in hexadecimal
    try:
        bounds.check_exif(image.info.get("exif") or bytes.fromhex("".join(raw.split("\n")[3:]) if raw else ""))
    except ValueError as error:
        warnings.warn(f"{name}: its EXIF data is damaged and was left out ({first_line(error)})", stacklevel=6)
        for key in ("exif", "Raw profile type exif"):
            image.info.pop(key, None)


def readable() -> tuple[str, ...]:
    """Pillow's names of the formats that are read: ``READABLE``, or those of them that PHOTOFOUND_FORMATS names."""
    text = os.environ.get(FORMATS_VARIABLE, "")
    named = [name.strip().upper() for name in text.split(",") if name.strip()] or READABLE
    if unknown := set(named) - set(READABLE):
        choices = ", ".join(READABLE).lower()
        raise _ImageError(f"{FORMATS_VARIABLE} is {text!r}: {min(unknown).lower()} is none of {choices}")
    return tuple(kind for name in READABLE if name in named for kind in (name, *_RELATED.get(name, ())))


def _is_heic(stream: BinaryIO) -> bool:
    stream.seek(0)
    start = stream.read(12)
    stream.seek(0)
    return start[4:8] == b"ftyp" and start[8:] in (b"heic", b"heix", b"heim", b"heis", b"mif1")


def _register_heic(name: str) -> None:
    """Teach Pillow to read what iPhones write, or say what is missing."""
    try:
        import pillow_heif
    except ImportError:
        advice = "pip install 'photofound[heic]', or save it as JPEG"
        raise ValueError(f"{name}: is a HEIC photograph, which needs a package: {advice}") from None
    pillow_heif.register_heif_opener()


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    """Whatever Pillow or OpenCV raise on damaged data becomes one ValueError; our own pass through."""
    try:
        yield
    except _ImageError:
        raise
    except bounds.TooMuch as error:
        raise _too_much(name, error) from error
    except Exception as error:
        raise _damaged(name, error) from error


class _ImageError(ValueError):
    """A ValueError whose message is already the clear line."""


class TooLarge(_ImageError):
    """A picture, or one that was to be made, of more pixels than the limit."""


def _damaged(name: str, error: Exception) -> ValueError:
    return ValueError(f"{name}: is truncated or damaged ({first_line(error)}); copy or download it again")


def _too_much(name: str, error: Exception) -> ValueError:
    return _ImageError(f"{name}: {error}; it would take too long to read, save it anew with another program")


def _check_size(size: tuple[int, int], name: str, max_pixels: int | None) -> None:
    """ValueError for a side below 1 or more pixels than the limit."""
    limit = _pixel_limit() if max_pixels is None else max_pixels
    if min(size) < 1:
        raise ValueError(f"{name}: is {size[0]}x{size[1]}; both sides must be at least 1 pixel")
    if size[0] * size[1] > limit:
        raise TooLarge(
            f"{name}: is {size[0]}x{size[1]}, {size[0] * size[1] / 1e6:.1f} megapixels, above the limit of "
            f"{limit / 1e6:.1f}; if you trust it, set max_pixels or PHOTOFOUND_MAX_PIXELS to {size[0] * size[1]}"
        )


def _pixel_limit() -> int:
    text = os.environ.get("PHOTOFOUND_MAX_PIXELS", str(MAX_PIXELS))
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"PHOTOFOUND_MAX_PIXELS is {text!r}; set it to a number of pixels such as {MAX_PIXELS}")
    return int(text)


def _is_lossless(kind: str | None, stream: BinaryIO) -> bool:
    if kind != "WEBP":
        return kind in _LOSSLESS
    stream.seek(12)  # past "RIFF", length, "WEBP": a list of chunks, of which one holds the pixels
    while len(header := stream.read(8)) == 8:
        if header[:4] in (b"VP8 ", b"VP8L"):
            return header[:4] == b"VP8L"
        if header[:4] == b"ANMF":  # a frame of an animation: 16 bytes, then chunks of its own
            stream.seek(16, io.SEEK_CUR)
            continue
        length = int.from_bytes(header[4:], "little")
        stream.seek(length + length % 2, io.SEEK_CUR)
    return False


def _deep_pixels(image: Image.Image, stream: BinaryIO, name: str) -> np.ndarray | None:
    """(H, W, C) uint16 of a 16-bit file that Pillow reduces to 8 bits, in RGB order; None for all others."""
    if image.mode.startswith(("I", "F")) or (bits := _bits(image, stream)) <= 8:
        return None
    if bits != 16:
        warnings.warn(f"{name}: has {bits} bits per channel, of which 8 are read; a 16-bit PNG keeps all", stacklevel=5)
        return None

    import cv2

    unreadable = _ImageError(f"{name}: is a kind of 16-bit {image.format} that cannot be read; save it as a 16-bit PNG")
    tags = getattr(image, "tag_v2", {})
    if image.mode == "CMYK" or tags.get(284) == 2:  # planes apart, which OpenCV takes for something else
        raise unreadable
    stream.seek(0)
    data = stream.read()
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[1::-1] != image.size:
        raise unreadable
    if image.format == "PNG" and data[25] == 4:  # grey + alpha, which OpenCV gives as BGRA
        return pixels[..., [0, 3]]
    pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    extra = tags.get(338, (2,))[0]  # what a TIFF's fourth channel is
    if pixels.shape[2] == 4 and extra != 2:
        pixels = _straight(pixels) if extra == 1 else pixels[..., :3]
    return pixels


_PPM_HEADER = re.compile(rb"P[36](?:(?:\s|#[^\n]*\n)+(\d+)){3}\s")  # the last group that matches is white


def _bits(image: Image.Image, stream: BinaryIO) -> int:
    """Bits per channel in the file; 8 for formats that have no more."""
    if image.format == "TIFF":
        return max(getattr(image, "tag_v2", {}).get(258, (8,)))
    if image.format == "HEIF":
        return image.info.get("bit_depth", 8)
    stream.seek(0)
    start = stream.read(65_536)
    if image.format == "PNG":
        return start[24]
    if image.format == "PPM" and (header := _PPM_HEADER.match(start)):  # other whites than 65535 are not 16 bits' own
        return 16 if header[1] == b"65535" else min(int(header[1]).bit_length(), 15)
    if image.format == "JPEG2000" and len(size := start.partition(b"\xff\x4f\xff\x51")[2]) > 38:
        return (size[38] & 0x7F) + 1
    if image.format == "AVIF" and len(codec := start.partition(b"av1C")[2]) > 2:
        return {0x40: 10, 0x60: 12}.get(codec[2] & 0x60, 8)
    return 8


def _straight(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint16 with colours multiplied by alpha -> not multiplied."""
    alpha = pixels[..., 3:].astype(np.float64)
    colours = np.rint(pixels[..., :3] * (65535 / np.maximum(alpha, 1))).clip(0, 65535)
    return np.concatenate([colours, alpha], axis=2).astype(np.uint16)


def _from_pil(image: Image.Image, name: str, pixels: np.ndarray | None = None) -> Picture:
    """Picture from a PIL image; `pixels` (H, W, C), not yet upright, replace its own where those are reduced."""
    image.load()  # before the EXIF: Pillow turns TIFFs upright on load and then drops their orientation
    exif, kind, dpi = image.getexif(), image.format, _dpi(image.info.get("dpi"))  # lost in a conversion
    orientation = _orientation(image)
    xmp = stale.pruned(_xmp_bytes(image.info.get("xmp"), name))
    profile = image.info.get("icc_profile") or None
    if profile and len(profile) > _LARGEST_PROFILE:
        warnings.warn(f"{name}: its colour profile was left out: {_profile_size(profile)}", stacklevel=5)
        profile = None
    profile = profile or _named_profile(image, name)
    if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        image, profile = _as_srgb(image, profile, name)
    if pixels is None:
        pixels = _pixels_from_pil(image, name)
    turned = Picture(
        pixels=_upright(pixels, orientation),
        format="JPEG" if kind == "MPO" else kind,
        icc_profile=profile,
        exif=_exif_bytes(exif, name),
        dpi=dpi,
        xmp=xmp,
    )
    return turned if orientation == 1 else turned._moved(turned.pixels)


@dataclass(frozen=True, eq=False)
class JpegSource:
    """How a JPEG was compressed, so that what stays of it comes out of the same quantisation nearly as it went in."""

    data: bytes  # the file
    size: tuple[int, int]  # upright
    is_grey: bool
    orientation: int
    options: dict[str, Any]  # Pillow's, to compress in the same way once upright

    @staticmethod
    def of(image: Image.Image, stream: BinaryIO) -> JpegSource | None:
        """That of a grey or colour JPEG, if Pillow can write its kind and its blocks stay where they are."""
        if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.mode not in ("L", "RGB"):
            return None
        sampling = 0 if image.mode == "L" else JpegImagePlugin.get_sampling(image)
        orientation = _orientation(image)
        tables = _upright_tables(image, orientation)
        if sampling not in (0, 1, 2) or tables is None or not _keeps_blocks(image.size, sampling, orientation):
            return None
        options = {"qtables": tables, "subsampling": sampling, "progressive": "progressive" in image.info}
        options["keep_rgb"] = image.layer[0][0] == ord("R")  # components named R, G, B: not converted to YCbCr
        stream.seek(0)
        size = image.size[::-1] if orientation in _SIDEWAYS else image.size
        return JpegSource(stream.read(), size, image.mode == "L", orientation, options)

    def fits(self, picture: Picture) -> bool:
        return picture.size == self.size and picture.is_grey == self.is_grey

    def restored(self, picture: Picture) -> Image.Image:
        """What to compress: the picture, with the file's own luma and chroma where it still has the file's colours.

        Chroma at half size is interpolated for the eye when it is read, and would be blurred a little by every further
        averaging. Repeated instead, its average is what the file holds.
        """
        image = picture.to_pil()
        if self.is_grey or self.options["keep_rgb"] or self.options["subsampling"] == 1 or min(self.size) < 16:
            return image
        ycbcr = self._decoded("YCbCr")
        if self.options["subsampling"] == 2:
            ycbcr[..., 1:] = self._decoded("YCbCr", 2)[..., 1:]
        changed = (picture.pixels != self._decoded("RGB")).any(axis=2)
        ycbcr[changed] = np.asarray(image.convert("YCbCr"))[changed]
        return Image.fromarray(ycbcr, "YCbCr")

    def _decoded(self, mode: str, scale: int = 1) -> np.ndarray:
        """(H, W, 3) uint8, upright. Decoded at half its size, and repeated, chroma at half size is as it is stored."""
        with _open_header(io.BytesIO(self.data), "image") as image:
            width, height = image.size
            image.draft(mode, (width // scale, height // scale))
            pixels = np.asarray(image) if scale == 1 else np.asarray(image).repeat(scale, axis=0).repeat(scale, axis=1)
            return np.array(_upright(pixels[:height, :width], self.orientation))


def _upright_tables(image: JpegImagePlugin.JpegImageFile, orientation: int) -> list[list[int]] | None:
    """The quantisation tables of the components; in a picture turned by a right angle frequencies change places."""
    order = [8 * (n % 8) + n // 8 if orientation in _SIDEWAYS else n for n in range(64)]
    tables = [image.quantization[table] for _, _, _, table in image.layer if table in image.quantization]
    if not tables or len(tables) < len(image.layer):
        return None
    while len(tables) > 1 and tables[-1] == tables[-2]:  # the last one serves all further components
        tables.pop()
    return [[table[n] for n in order] for table in tables]


def _keeps_blocks(size: tuple[int, int], sampling: int, orientation: int) -> bool:
    """Whether the blocks of a JPEG stay blocks when it is turned upright: they start at the top left corner."""
    width, height = (16, 8) if sampling == 1 else (16, 16) if sampling == 2 else (8, 8)
    if orientation in (2, 3, 7, 8) and size[0] % width or orientation in (3, 4, 6, 7) and size[1] % height:
        return False
    return not (sampling == 1 and orientation in _SIDEWAYS)  # 4:2:2 on its side is not a kind that Pillow writes


_COLOUR_CHUNKS = (b"cICP", b"mDCV", b"cLLI", b"sRGB", b"gAMA", b"cHRM")


def _colour_chunks(stream: BinaryIO) -> tuple[tuple[bytes, bytes], ...]:
    """Names and data of a PNG's chunks that say what its colours mean."""
    found = []
    stream.seek(8)
    while len(header := stream.read(8)) == 8 and header[4:] not in (b"IDAT", b"IEND"):
        length = int.from_bytes(header[:4], "big")
        if header[4:] in _COLOUR_CHUNKS and length <= 64:
            found.append((header[4:], stream.read(length)))
            length = 0
        stream.seek(length + 4, io.SEEK_CUR)
    return tuple(found)


def _code_points(kind: str | None, stream: BinaryIO, chunks: tuple[tuple[bytes, bytes], ...]) -> tuple[int, int] | None:
    """Colour primaries and transfer function by ITU-T H.273, where a PNG or AVIF names them."""
    if len(named := dict(chunks).get(b"cICP", b"")) == 4:
        return named[0], named[1]
    if kind == "AVIF":
        stream.seek(0)
        box = stream.read(65_536).partition(b"colrnclx")[2]
        return (int.from_bytes(box[:2], "big"), int.from_bytes(box[2:4], "big")) if len(box) > 6 else None
    return None


def _named_profile(image: Image.Image, name: str) -> bytes | None:
    """A profile of the colours that a file without one names otherwise: by code points, by PNG's gamma and primaries,
    or by EXIF as Adobe RGB, as cameras do. None where they are sRGB, or close to it."""
    grey, info = image.mode in ("1", "L", "LA", "La", "I", "I;16"), image.info
    primaries, transfer = info.get("code_points") or (1, 13)
    if transfer in (16, 18):
        warnings.warn(f"{name}: is an HDR picture; its values are read as sRGB, and a PNG keeps its mark", stacklevel=5)
        return None
    if info.get("code_points"):
        if (primaries, transfer) in ((1, 13), (1, 1), (1, 6), (2, 2)) or primaries not in profiles.PRIMARIES:
            return None
        curve = profiles.CURVES.get(transfer, profiles.CURVES[13])
        return profiles.made(profiles.PRIMARIES[primaries], curve, f"H.273 {primaries}/{transfer}", grey)
    if "srgb" in info:
        return None
    if "gamma" in info or "chromaticity" in info:
        return _profile_of_gamma(info.get("gamma"), info.get("chromaticity"), grey)
    exif = image.getexif()
    with suppress(*_EXIF_ERRORS):
        if not grey and exif.get_ifd(0x8769).get(0xA001) == 65535 and exif.get_ifd(0xA005).get(1) == "R03":
            return profiles.made(profiles.ADOBE_RGB, (563 / 256,), "Adobe RGB (1998)")
    return None


def _profile_of_gamma(gamma: Any, primaries: Any, grey: bool) -> bytes | None:
    """Of PNG's gAMA (None = sRGB's curve) and cHRM (None = sRGB's primaries)."""
    primaries = profiles.SRGB if primaries is None else tuple(float(each) for each in primaries)
    is_srgb = len(primaries) == 8 and max(abs(a - b) for a, b in zip(primaries, profiles.SRGB, strict=True)) < 0.005
    usual = not gamma or abs(gamma * 2.2 - 1) <= 0.05  # many programs write sRGB so
    if len(primaries) != 8 or (usual and (is_srgb or grey)):
        return None
    curve = profiles.CURVES[13] if not gamma else (1 / gamma,)
    return profiles.made(primaries, curve, f"gamma {1 / gamma:.2g}" if gamma else "primaries of a PNG", grey)


def _pixels_from_pil(image: Image.Image, name: str) -> np.ndarray:
    """(H, W, C) native values of any PIL mode: palettes, bits and transparent colours become L, LA, RGB or RGBA."""
    mode, transparent = image.mode, image.has_transparency_data
    if mode.startswith("I;16") or mode == "I":
        grey = np.asarray(image)
        if getattr(image, "tag_v2", {}).get(262) == 0 and mode != "I":
            grey = 65535 - grey  # a TIFF in which white is zero, which Pillow minds at 8 bits only
        if grey.min() < 0 or grey.max() > 65535:
            raise _ImageError(f"{name}: has values from {grey.min()} to {grey.max()}; rescale it to 0 to 65535")
        channels = [grey]
        if transparent:
            channels.append(np.where(grey == image.info["transparency"], 0, 65535))  # one grey value means transparent
        return np.stack(channels, axis=2).astype(np.uint16)
    if mode == "F":
        return _pixels_from_array(np.asarray(image), name)
    if mode in ("1", "L", "LA", "La"):
        image = image.convert("LA" if transparent else "L")
    else:
        image = image.convert("RGBA" if transparent else "RGB")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _pixels_from_array(array: np.ndarray, name: str = "image") -> np.ndarray:
    """(H, W, C) uint8 or uint16 from what `Picture.from_any` accepts as an array."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4):
        raise _ImageError(f"{name}: array has shape {array.shape}; it must be (H, W) or (H, W, C) with C of 1 to 4")
    if 0 in array.shape:
        raise _ImageError(f"{name}: array of shape {array.shape} has no pixels")
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(array.dtype.newbyteorder("="), copy=True)
    if not np.issubdtype(array.dtype, np.floating):
        raise _ImageError(f"{name}: array has dtype {array.dtype}; it must be uint8, uint16 or float in [0, 1]")
    if not np.isfinite(array).all():
        raise _ImageError(f"{name}: array has NaN or infinite values; replace them, for example with numpy.nan_to_num")
    if array.min() < 0 or array.max() > 1:
        raise _ImageError(f"{name}: float array has values from {array.min():g} to {array.max():g}; scale it to [0, 1]")
    exact = array.astype(np.float64) * 255
    rounding = max(
        1e-3, 255 * float(np.finfo(array.dtype).eps) / 4
    )  # the second is float16's own; 16 bits step by 1/257
    if np.abs(exact - np.rint(exact)).max() <= rounding:
        return np.rint(exact).astype(np.uint8)
    return np.rint(array.astype(np.float64) * 65535).astype(np.uint16)


def _channels_last(tensor: Any) -> np.ndarray:
    """(H, W), (C, H, W) or (1, C, H, W) tensor -> (H, W, C) array."""
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim not in (2, 3):
        raise ValueError(f"image tensor has shape {tuple(tensor.shape)}; it must be (H, W), (C, H, W) or (1, C, H, W)")
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    if tensor.ndim == 2:
        tensor = tensor[None]
    return tensor.permute(1, 2, 0).numpy()


_TURNS = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height


def _orientation(image: Image.Image) -> int:
    """1 to 8, by EXIF, else by XMP, of which Pillow knows not all encodings and spellings."""
    found = image.getexif().get(0x0112)
    packet = image.info.get("xmp") or b""
    if found is None and image.format in ("JPEG", "MPO", "PNG", "WEBP") and len(packet) <= _LARGEST_XMP:
        with suppress(UnicodeError):
            text = packet if isinstance(packet, str) else _xmp_text(bytes(packet))
            match = re.search(r"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])", text)
            found = int(match[1]) if match else None
    return 1 if found is None else found


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the EXIF orientation (1-8; anything else counts as 1)."""
    turn = _TURNS.get(orientation)
    return np.ascontiguousarray(turn(pixels) if turn else pixels)


# IFD0 tags that describe the photograph; the others describe how one file lays out its bytes (TIFF) or are private.
_EXIF_TAGS = (270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 316, 18246, 33432, 40091, 40092, 40093, 40094, 40095)
# Exif less pixel sizes (they change), offsets, and the maker's note: it names previews, videos and places of bytes by
# where they lay in the file; GPS.
_EXIF_FOLDERS = {0x8769: (0xA002, 0xA003, 0xA005, 0x927C), 0x8825: ()}
_EXIF_PLACES = (0x9214, 0xA214, 0xA20E, 0xA20F, 0xA210)  # the subject's, and how many pixels the sensor has per cm
_EXIF_ERRORS = (OSError, SyntaxError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, struct.error)


def _exif_bytes(exif: Image.Exif, name: str) -> bytes | None:
    """The describing part of EXIF as bytes ("Exif" header included), orientation 1; None if there is nothing."""
    try:
        upright = Image.Exif()
        for tag in _EXIF_TAGS:
            if tag in exif:
                upright[tag] = 1 if tag == 0x0112 else exif[tag]
        for folder, left_out in _EXIF_FOLDERS.items():
            entries = {tag: value for tag, value in exif.get_ifd(folder).items() if tag not in left_out}
            if entries:
                upright.get_ifd(folder).update(entries)
                upright[folder] = 0  # Pillow writes a folder only if its tag is there, and fills in the offset
        return upright.tobytes() if len(upright) else None
    except _EXIF_ERRORS as error:  # camera makers write anything, and a broken note must not cost the picture
        warnings.warn(f"{name}: its EXIF data is damaged and was left out ({first_line(error)})", stacklevel=5)
        return None


def _exif_without(exif: bytes | None, tags: Iterable[int]) -> bytes | None:
    """EXIF without some tags of its folder Exif, and without whatever folder is among them."""
    if exif is None:
        return None
    parsed = Image.Exif()
    parsed.load(exif)
    for tag in tags:
        parsed.get_ifd(0x8769).pop(tag, None)
        parsed.pop(tag, None)
    return _exif_bytes(parsed, "image")


_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>)\s*)[2-8]")
_XMP_PLACE = re.compile("gps|latitude|longitude|altitude|location|^(city|state|provincestate|country(code)?)$", re.I)


_XMP_ENCODING = re.compile(r"^(\s*<\?xml[^>]*?)\s+encoding\s*=\s*([\"'])[^\"'>]*\2")
_LARGEST_XMP = 4 * 2**20  # bytes; a history of years has some hundred kilobytes
_DEEPEST_XMP = 64  # elements within elements; what editors write has less than twenty


def _xmp_bytes(xmp: Any, name: str) -> bytes | None:
    """An XMP packet as UTF-8 with orientation 1; None if there is none or it cannot be read."""
    if not xmp:
        return None
    try:
        packet = (xmp if isinstance(xmp, str) else _xmp_text(bytes(xmp))).encode("utf-8")
        check_xmp(packet)
        return _XMP_ORIENTATION.sub(rb"\g<1>1", packet) or None
    except UnicodeError:
        warnings.warn(f"{name}: its XMP is not UTF-8 text and was left out", stacklevel=6)
    except (TypeError, ValueError) as error:
        warnings.warn(f"{name}: its XMP was left out ({first_line(error)})", stacklevel=6)
    return None


def _xmp_text(xmp: bytes) -> str:
    """XMP may be UTF-8, UTF-16 or UTF-32 (ISO 16684-1, 7.3.1), with a byte order mark or a "<" that tells which."""
    for start, encoding in (
        *((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
        *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"), (b"<\0\0\0", "utf-32-le")),
        *((b"\0\0\0<", "utf-32-be"), (b"<\0", "utf-16-le"), (b"\0<", "utf-16-be")),
    ):
        if xmp.startswith(start):
            return _XMP_ENCODING.sub(r"\1", xmp.decode(encoding).rstrip("\0"))
    return xmp.rstrip(b"\0").decode("utf-8")


def check_xmp(xmp: bytes) -> None:
    """Refuse XMP that would take long to read or has no business in a file: larger than 4 MiB, elements more than 64
    deep, declarations of entities. Raises ValueError. What is no XML at all passes: nothing reads it."""
    from xml.parsers import expat

    if len(xmp) > _LARGEST_XMP:
        raise ValueError(f"it has {len(xmp) / 2**20:.0f} MiB, more than {_LARGEST_XMP / 2**20:.0f}")
    depth, parser = 0, expat.ParserCreate()

    def start(*_: Any) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST_XMP:
            raise ValueError(f"its elements are nested more than {_DEEPEST_XMP} deep")

    def end(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    def declared(*_: Any) -> None:
        raise ValueError("it declares entities")

    parser.StartElementHandler, parser.EndElementHandler, parser.StartDoctypeDeclHandler = start, end, declared
    with suppress(expat.ExpatError):
        parser.Parse(xmp, True)


def _xmp_without_place(xmp: bytes | None) -> bytes | None:
    """XMP without the properties that name a place, whatever their namespace; None where it is no clean XML."""
    from xml.dom import minidom
    from xml.parsers.expat import ExpatError

    if not xmp:
        return None
    try:
        check_xmp(xmp)
        if b"<!" in xmp:
            raise ValueError("comments and declarations may name it, too")
        document = minidom.parseString(xmp)
        for element in document.getElementsByTagName("*"):
            for name in [n for n in element.attributes.keys() if _XMP_PLACE.search(n.rpartition(":")[2])]:
                element.removeAttribute(name)
            if element.parentNode and _XMP_PLACE.search(element.tagName.rpartition(":")[2]):
                element.parentNode.removeChild(element)
        return "".join(node.toxml() for node in document.childNodes).encode("utf-8")
    except (ExpatError, ValueError) as error:
        warnings.warn(f"the XMP cannot be searched for places and was left out ({first_line(error)})", stacklevel=3)
        return None


def _pil_metadata(picture: Picture) -> dict[str, Any]:
    """What goes into a file beside the pixels, under Pillow's names."""
    named = {"icc_profile": picture.icc_profile, "exif": picture.exif, "xmp": picture.xmp, "dpi": picture.dpi}
    return {name: value for name, value in named.items() if value}


def _dpi(value: Any) -> tuple[float, float] | None:
    try:
        x, y = float(value[0]), float(value[1])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    return (x, y) if math.isfinite(x) and math.isfinite(y) and 0 < x < 1e6 and 0 < y < 1e6 else None


# ----------------------------------------------------------------------------------------------------------- colours


_LARGEST_PROFILE = 8 * 2**20  # bytes; those of displays have some kilobytes, of printers up to a few megabytes


class _Profile:
    """A colour profile as the key of a cache: told by its hash, so that nothing large is kept or compared."""

    def __init__(self, data: bytes) -> None:
        self.data: bytes | None = data
        self.digest = hashlib.sha256(data).digest()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Profile) and self.digest == other.digest


def _colour_transform(profile: bytes | None, grey: bool, to_srgb: bool) -> tuple[Any, str] | None:
    """(ImageCms transform, the profile's mode "RGB" or "L"), or None when native values already are sRGB.

    A damaged or very large profile, or one for another kind of picture, is ignored with a warning.
    """
    if profile is None:
        return None
    if len(profile) > _LARGEST_PROFILE:
        warnings.warn(f"the picture's colour profile is ignored: {_profile_size(profile)}", stacklevel=4)
        return None
    key = _Profile(profile)
    try:
        return _built_transform(key, grey, to_srgb)
    finally:
        key.data = None  # the cache keeps the key


def _profile_size(profile: bytes) -> str:
    return (
        f"it has {len(profile) / 2**20:.0f} MiB, more than {_LARGEST_PROFILE / 2**20:.0f}; its values are read as sRGB"
    )


@lru_cache(maxsize=32)
def _built_transform(key: _Profile, grey: bool, to_srgb: bool) -> tuple[Any, str] | None:
    from PIL import ImageCms

    assert key.data is not None
    profile = key.data

    try:
        native = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB": "RGB", "GRAY": "L"}[native.profile.xcolor_space.strip()]
        if mode == "L" and not grey:
            raise ValueError("a grey profile on a colour picture")
        srgb = ImageCms.createProfile("sRGB")
        intent, black_point = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        there = ImageCms.buildTransform(native, srgb, mode, "RGB", intent, black_point)
        if _changes_nothing(there, mode):
            return None
        return (there if to_srgb else ImageCms.buildTransform(srgb, native, "RGB", mode, intent, black_point)), mode
    except (ImageCms.PyCMSError, KeyError, OSError, TypeError, ValueError) as error:
        warnings.warn(f"the picture's colour profile is ignored: {error!r}; its values are read as sRGB", stacklevel=5)
        return None


def _changes_nothing(to_srgb: Any, mode: str) -> bool:
    """Whether a transform stays within 1/255 everywhere: the many profiles that are sRGB under some name."""
    if mode == "L":
        native = np.arange(256, dtype=np.uint8)[None, :, None]
    else:
        steps = np.linspace(0, 255, 16).astype(np.uint8)
        native = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(64, 64, 3)
    return bool(np.abs(_apply(to_srgb, native).astype(int) - native).max() <= 1)


def _apply(transform: Any, pixels: np.ndarray) -> np.ndarray:
    """(H, W, 1 or 3) uint8 through an ImageCms transform, (H, W, 1 or 3) uint8."""
    from PIL import ImageCms

    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    converted = np.asarray(ImageCms.applyTransform(image, transform))
    return converted[..., None] if converted.ndim == 2 else converted


def _as_srgb(image: Image.Image, profile: bytes | None, name: str) -> tuple[Image.Image, bytes | None]:
    """An image of a mode the model cannot see (CMYK, LAB, ...) as RGB, with the profile that then applies."""
    from PIL import ImageCms

    if image.mode in ("YCbCr", "HSV"):  # other axes of the same space, so the profile stays right
        return image.convert("RGB"), profile
    warnings.warn(f"{name}: is {image.mode}; converted to RGB", stacklevel=6)
    source: Any = io.BytesIO(profile) if profile else None
    if image.mode == "LAB":  # absolute colours, which need no profile
        source = ImageCms.createProfile("LAB")
    try:
        if source is not None:
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, source, srgb, outputMode="RGB") or image, None
    except (ImageCms.PyCMSError, OSError) as error:
        warnings.warn(f"{name}: its colour profile is ignored ({first_line(error)})", stacklevel=6)
    return image.convert("RGB"), None


def _expand(pixels: np.ndarray, mode: str) -> np.ndarray:
    """Grey (H, W, 1) replicated to (H, W, 3) if mode is "RGB"; otherwise as it is."""
    return np.repeat(pixels, 3, axis=2) if mode == "RGB" and pixels.shape[2] == 1 else pixels


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """uint8 as it is; uint16 rounded to the nearest of 0..255 (65535 = 255 x 257)."""
    return pixels if pixels.dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


# ----------------------------------------------------------------------------------------------------------- writing


def output_format(
    source: Picture | None,
    path: str | os.PathLike[str] | None = None,
    format: str | None = None,
    alpha: bool = False,
) -> str:
    """The format to write: `format` if given, else the path's suffix, else the source's, else PNG. With `alpha` it is
    one that holds an alpha channel: PNG in place of a source's that does not.

    Raises ValueError for an unknown format or suffix, for a path whose suffix belongs to another format, and for one
    that was asked for and does not hold alpha.
    """
    kind = _output_format(source, path, format)
    if not alpha or kind in HOLDS_ALPHA:
        return kind
    if format is None and (path is None or not Path(path).suffix):
        return "PNG"
    kept = ", ".join(sorted(suffix_of(name)[1:] for name in HOLDS_ALPHA))
    raise ValueError(f"{path or format}: {kind} holds no transparency; use one of {kept}")


def _output_format(source: Picture | None, path: str | os.PathLike[str] | None, format: str | None) -> str:
    suffix = Path(path).suffix.lower() if path is not None else ""
    if format is not None:
        wanted = SUFFIXES.get("." + format.lower().lstrip("."))
        if wanted is None:
            raise ValueError(f"unknown format {format!r}; use one of {_names()}")
        if SUFFIXES.get(suffix, wanted) != wanted:
            raise ValueError(f"format is {format!r} but the output is named {path}; change one of the two")
        return wanted
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if suffix:
        raise ValueError(f"{path}: cannot write {suffix!r} files; use one of {_names()} or give a format")
    kind = (source.format if source is not None else None) or "PNG"
    return kind if kind in SUFFIXES.values() else "PNG"


def suffix_of(format: str) -> str:
    """The usual file suffix of a format as `output_format` names it: "JPEG" -> ".jpg"."""
    return next(suffix for suffix, name in SUFFIXES.items() if name == format)


def _names() -> str:
    return ", ".join(sorted({suffix_of(name)[1:] for name in SUFFIXES.values()}))


def save(
    picture: Any,
    path: str | os.PathLike[str],
    format: str | None = None,
    quality: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write anything `from_any` takes to `path` and return the path. Never leaves half a file or touches the old one.

    Format as in `output_format`. PNG, TIFF and BMP are lossless; PNG and TIFF hold 16 bits, others round to 8 with a
    warning. WebP is lossless if the source was. JPEG, AVIF and other WebP lose a little in every pixel: at `quality` (1
    to 100), without subsampling. If it is None, a JPEG that was a JPEG of this size is compressed as it was, so that
    what did not change changes least; all else at 95. JPEG and BMP hold no alpha: it is flattened onto white with a
    warning. The profile, EXIF and XMP are kept (BMP has none; colours are converted to sRGB). docs/file-formats.md has
    the measured details.
    Raises FileExistsError without `overwrite`, ValueError for a bad format or size, OSError if the place is unwritable.
    """
    path, picture = Path(path), Picture.from_any(picture)
    format = output_format(picture, path, format)
    check_output(path, overwrite)
    files.write(path, encode(picture, format, quality))
    return path


def check_output(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Raise what `save` would raise about the place itself, so that a caller can ask before the work is done."""
    if not os.fspath(path):
        raise ValueError("the output's path is empty; name a file")
    path = Path(path)
    if len(os.fsencode(path.name)) > 255:  # of nearly every file system
        raise ValueError(f"{path}: the name is longer than 255 bytes; choose a shorter output")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file for the output")
    if path.exists() and not path.is_file():  # replacing a pipe or a device would help nobody
        raise ValueError(f"{path}: is not a regular file; name a file for the output")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: exists already; choose another output or pass --overwrite (overwrite=True)")
    if not path.parent.exists():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist; create it first")
    if not path.parent.is_dir():
        raise NotADirectoryError(f"{path}: {path.parent} is not a folder; choose another output")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: the folder {path.parent} cannot be written to; choose another output")


def check_fit(picture: Picture, format: str, size: tuple[int, int] | None = None) -> None:
    """Say what `format` cannot hold, so that a caller can ask before the work is done: raise ValueError, as `encode`
    does, for a result of `size` (width, height; None = the picture's own) that is too large for it, and warn that 16
    bits per channel become 8."""
    check_side(size or picture.size, format)
    if lost := lost_depth(picture, format):
        warnings.warn(lost, stacklevel=3)


def lost_depth(picture: Picture, format: str) -> str:
    """One sentence where the picture has more bits per channel than `format` holds, else nothing."""
    if picture.depth == 255 or format in _HOLDS_16_BIT:
        return ""
    return f"{format} holds 8 bits per channel: 16 are rounded; save as PNG to keep them"


def check_side(size: tuple[int, int], format: str) -> None:
    """ValueError for (width, height) beyond what ``format`` holds."""
    longest = _LONGEST_SIDE.get(format)
    if longest is not None and max(size) > longest:
        raise ValueError(f"{format} holds at most {longest} pixels a side, not {size[0]}x{size[1]}; choose png or tif")


def encode(picture: Picture, format: str, quality: int | None = None) -> bytes:
    """The bytes of an image file; `format` as `output_format` returns it, the rest as in `save`."""
    if format not in SUFFIXES.values():
        raise ValueError(f"unknown format {format!r}; use one of {_names()}")
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}; it must lie between 1 and 100")
    check_side(picture.size, format)
    picture = _fit_to_format(picture, format)
    if format == "TIFF":
        return _encode_tiff(picture)
    if picture.depth > 255:
        return _with_colour_chunks(_encode_png_16(picture), picture)
    stream = io.BytesIO()
    try:
        image, options = _compression(picture, format, quality)
        image.save(stream, format, **_pil_metadata(picture), **options)  # not every writer looks into `info`
    except (OSError, ValueError, RuntimeError, struct.error) as error:
        size = f"{picture.width}x{picture.height}"
        raise ValueError(f"cannot write a {size} image as {format} ({first_line(error)}); try PNG") from error
    return _with_colour_chunks(stream.getvalue(), picture) if format == "PNG" else stream.getvalue()


def _compression(picture: Picture, format: str, quality: int | None) -> tuple[Image.Image, dict[str, Any]]:
    """What Pillow is to compress, and how."""
    source = picture.jpeg if format == "JPEG" and quality is None else None
    if source is not None and source.fits(picture):
        return source.restored(picture), source.options | {"optimize": True}
    quality = 95 if quality is None else quality
    options: dict[str, Any] = {}
    if format == "JPEG":
        options = {"quality": quality, "subsampling": "4:4:4", "optimize": True}
    elif format == "WEBP":
        options = {"lossless": picture.lossless, "quality": 80 if picture.lossless else quality, "exact": True}
    elif format == "AVIF":  # at Pillow's own speed of 6, twelve megapixels take more than a minute
        options = {"quality": quality, "subsampling": "4:4:4", "speed": 8}
    elif format == "PNG" and picture.xmp:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt(_PNG_XMP, picture.xmp.decode("utf-8"))
    return picture.to_pil(), options


def _fit_to_format(picture: Picture, format: str) -> Picture:
    """The nearest picture that the format can hold."""
    if (alpha := picture.alpha()) is not None and format not in HOLDS_ALPHA:
        warnings.warn(f"{format} holds no transparency: flattened onto white; save as PNG to keep it", stacklevel=5)
        white = np.ones((picture.height, picture.width, 3), np.float32)
        picture = picture.paste(white, alpha, flatten=True)
    if format == "BMP" and _colour_transform(picture.icc_profile, picture.is_grey, True) is not None:
        warnings.warn("BMP holds no colour profile: colours converted to sRGB; save as PNG to keep them", stacklevel=5)
        picture = dataclasses.replace(picture, pixels=np.rint(picture.rgb() * 255).astype(np.uint8), icc_profile=None)
    if lost := lost_depth(picture, format):
        warnings.warn(lost, stacklevel=5)
        picture = dataclasses.replace(picture, pixels=_to_8_bit(picture.pixels))
    # WebP has no grey, and neither Pillow nor OpenCV read a 16-bit grey TIFF with alpha.
    if picture.is_grey and (format == "WEBP" or (format == "TIFF" and picture.has_alpha and picture.depth > 255)):
        picture = picture._promoted()
    if format == "JPEG" and picture.exif and len(picture.exif) > 65_000:
        warnings.warn("the EXIF data is too long for a JPEG and was left out", stacklevel=5)
        picture = dataclasses.replace(picture, exif=None)
    if format == "JPEG" and picture.xmp and len(picture.xmp) > 65_000:
        warnings.warn("the XMP data is too long for a JPEG and was left out", stacklevel=5)
        picture = dataclasses.replace(picture, xmp=None)
    return picture


def _encode_png_16(picture: Picture) -> bytes:
    """A 16-bit PNG of any channel count (Pillow writes only grey, OpenCV no grey + alpha and no profile)."""
    height, width, channels = picture.pixels.shape
    lines = picture.pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.empty((height, 1 + lines.shape[1]), np.uint8)
    filtered[:, 0] = 2  # every line as its difference from the line above ("Up"), modulo 256
    filtered[0, 1:] = lines[0]
    filtered[1:, 1:] = lines[1:] - lines[:-1]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    if picture.icc_profile:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.icc_profile)))
    if picture.dpi:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(dots / 0.0254) for dots in picture.dpi), 1)))
    if picture.exif:
        chunks.append((b"eXIf", picture.exif.removeprefix(b"Exif\0\0")))
    if picture.xmp:  # not compressed, no language
        chunks.append((b"iTXt", _PNG_XMP.encode() + bytes(5) + picture.xmp))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + _png_chunks(chunks)


def _png_chunks(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def _with_colour_chunks(png: bytes, picture: Picture) -> bytes:
    """A PNG with the chunks that said what the colours mean; they stand between the header and all else."""
    chunks = [(name, data) for name, data in picture.colour if not (name == b"sRGB" and picture.icc_profile)]
    return png[:33] + _png_chunks(chunks) + png[33:]


def _encode_tiff(picture: Picture) -> bytes:
    """A baseline TIFF, 8 or 16 bits: one deflated strip of horizontal differences.

    Of the writers at hand Pillow's has no 16-bit colour and fails on EXIF folders, and OpenCV's has no profile.
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    height, width, channels = picture.pixels.shape
    lines = picture.pixels.astype(picture.pixels.dtype.newbyteorder("<"))
    lines[:, 1:] -= picture.pixels[:, :-1]
    strip = zlib.compress(lines.tobytes(), 6)
    start = b"II*\0\x08\0\0\0"  # little-endian, the one directory follows at byte 8
    tags = ImageFileDirectory_v2(start)
    for tag, value in _exif_entries(picture.exif).items():
        tags[tag] = value
    tags[256], tags[257] = width, height
    tags[258], tags[339] = (lines.dtype.itemsize * 8,) * channels, (1,) * channels  # bits, unsigned
    tags[259], tags[317] = 8, 2  # deflate, horizontal differences
    tags[262], tags[277] = 1 if picture.is_grey else 2, channels  # black is zero, or RGB
    tags[273], tags[278], tags[279] = 0, height, len(strip)
    if picture.has_alpha:
        tags[338] = 2  # straight, not premultiplied
    if picture.icc_profile:
        tags.tagtype[34675] = 7  # bytes as they are
        tags[34675] = picture.icc_profile
    if picture.xmp:
        tags.tagtype[700] = 1
        tags[700] = picture.xmp
    if picture.dpi:
        tags[296], tags[282], tags[283] = 2, *picture.dpi
    stream = io.BytesIO()
    stream.write(start)
    tags.save(stream)  # moves the strip's offset to just behind the directory
    return stream.getvalue() + strip


def _exif_entries(exif: bytes | None) -> dict[int, Any]:
    """EXIF bytes as {tag: value}, Exif and GPS folders as dictionaries."""
    parsed = Image.Exif()
    parsed.load(exif or b"")
    folders = {folder: dict(parsed.get_ifd(folder)) for folder in _EXIF_FOLDERS if folder in parsed}
    return {tag: parsed[tag] for tag in parsed if tag not in _EXIF_FOLDERS} | folders


# ------------------------------------------------------------------------------------------------------------- masks


_NOISE = 16 / 255  # so far from black or white a mask's values are compression, scaling or anti-aliasing
_SPECK = 64  # pixels; a JPEG's ringing leaves no larger islands of pale grey
_COLOURED = 24 / 255  # channels further apart are a colour, nearer ones a grey that was compressed


def load_mask(source: Any, size: tuple[int, int], name: str = "mask", kept: bool = False) -> np.ndarray:
    """(H, W) float32 in [0, 1], 1 = marked, for a picture of `size` (width, height); from anything `from_any` takes.

    Arrays and tensors may hold whole numbers of any dtype, and tensors may be (H, W). The rule, in this order:

    1. Transparent, one colour (a brush on an empty layer): what is painted is marked, as much as it is opaque. Black is
       refused: it might as well be a sheet with a hole.
    2. Transparent, black and white: as on black.
    3. Transparent, many colours (a photograph with something rubbed out, a cut-out): what is transparent is marked;
       with `kept` what is opaque.
    4. Opaque, black and one colour: the colour is marked.
    5. Opaque, grey: white is marked and grey marked in part; numbers that are all 0 or 1 mean black and white.

    Values within 16/255 of black or white are these, and pale specks in black are black: noise is nobody's intent.
    Everything else is refused with ValueError: photographs (grey ones by their detail), several colours, class numbers,
    no white at all. A mask that is grey for the most part warns. One of another size is resized with a warning if its
    aspect ratio is within 1 %, else refused.
    """
    if source is None:
        raise ValueError(f"the {name} is missing; pass a picture of the image's size in which white marks the place")
    picture = Picture.from_any(_whole_numbers(source, name))
    if picture.depth > 255 and picture.pixels.max() <= 255:  # 8-bit numbers in a wider type
        picture = Picture(picture.pixels.astype(np.uint8))
    mask = _settled(_meaning(picture, name, kept))
    grey, white = int(((mask > 0) & (mask < 1)).sum()), int((mask == 1).sum())
    if grey > 3 * white:
        warnings.warn(f"the {name} is grey for the most part, and grey marks only in part; is it a mask?", stacklevel=2)
    return mask if picture.size == tuple(size) else _resized_mask(mask, size, name)


def _whole_numbers(source: Any, name: str) -> Any:
    """An array or tensor of whole numbers in the smallest type that `from_any` takes; anything else as it is."""
    if hasattr(source, "detach"):
        source = _channels_last(source.detach().cpu())
    if not isinstance(source, np.ndarray) or source.dtype.kind not in "iu" or source.size == 0:
        return source
    low, high = int(source.min()), int(source.max())
    if low < 0 or high > 65535:
        raise ValueError(f"the {name} has values from {low} to {high}; make it 0 and 255, or pass booleans")
    return source.astype(np.uint8 if high <= 255 else np.uint16)


def _meaning(picture: Picture, name: str, kept: bool) -> np.ndarray:
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
        raise ValueError(f"the {name} is transparent all over; paint on it what is to be marked")
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
    """Of the channels of each pixel (H, W, C), twice (H, W); numpy takes seconds for `min` and `max` over an axis."""
    channels = [colours[..., i] for i in range(colours.shape[2])]
    return reduce(np.minimum, channels), reduce(np.maximum, channels)


def _from_greys(values: np.ndarray, picture: Picture, name: str) -> np.ndarray:
    """White is marked; `values` are the picture's greys."""
    top = int(values.max())
    if top == 1 and picture.lossless:
        return values.astype(np.float32)
    if picture.lossless and (0 < top < picture.depth / 2 or _has_class_numbers(values)):
        raise ValueError(
            f"the {name} has no clear white, {picture.depth}; are these class numbers? Pass (classes == number) as an "
            f"array, or make what is to be marked white"
        )
    amount = values.astype(np.float32) / np.float32(picture.depth)
    if _is_photograph(amount):
        raise ValueError(
            f"the {name} is a grey photograph by its mid-tones and details; pass a mask: white on black marks the place"
        )
    return amount


def _is_photograph(greys: np.ndarray) -> bool:
    """Whether (H, W) in [0, 1] is hardly black and white, of many levels, and full of detail. Soft masks are smooth:
    gradients, feathered edges, blurred ones; so are depth maps, but for their edges."""
    import cv2

    middle = (greys > _NOISE) & (greys < 1 - _NOISE)
    if middle.mean() < 0.75 or np.count_nonzero(np.histogram(greys, 256, (0, 1))[0] > greys.size / 4096) < 32:
        return False
    scale = min(0.5, 256 / max(greys.shape))  # detail of a large photograph is seen from afar, and grain is not
    size = [max(1, round(side * scale)) for side in greys.shape[::-1]]
    small = cv2.resize(greys, size, interpolation=cv2.INTER_AREA)
    detail = np.abs(cv2.Laplacian(small, cv2.CV_32F)) / 4 > 2 / 255  # unlike the mean of its neighbours
    return bool(detail.mean() > (0.2 if min(size) >= 64 else 0.6))  # in few pixels soft edges are detail, too


def _has_class_numbers(values: np.ndarray) -> bool:
    """Whether even regions are all but black beside black ones: numbers of classes, and 255 is what has none."""
    import cv2

    if values.dtype != np.uint8:
        return False
    counts = np.bincount(values.ravel(), minlength=256)
    different = np.count_nonzero(counts)
    if counts[0] == 0 or different > 64:  # of one dark ground, and of compression, there are no regions
        return False
    for value in range(1 if different <= 4 else 4, 33):
        if counts[value] >= max(64, counts[239:].sum() / 2):
            inside = cv2.erode((values == value).astype(np.uint8), np.ones((5, 5), np.uint8))
            if 4 * inside.sum() >= counts[value]:
                return True
    return False


def _from_brush(picture: Picture, low: np.ndarray, high: np.ndarray, name: str) -> np.ndarray:
    """How much of the one colour is in each pixel of an opaque picture, (H, W), 1 = all; ValueError for others. `low`
    and `high` are each pixel's darkest and brightest channels."""
    import cv2

    spread = high - low
    paint = np.median(picture.colours[spread >= spread.max() / 2], axis=0) / picture.depth
    amount = (high.astype(np.float32) / np.float32(picture.depth * paint.max())).clip(0, 1)
    shown = amount > _NOISE
    colours = picture.colours[shown].astype(np.float32) / np.float32(picture.depth)
    even = np.abs(colours - paint).max(axis=1) < 0.025  # paint is even; what is not is an edge, or a photograph
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
    """Whether a handful of colours makes up nearly all of (N, C): paint, no photograph."""
    shown = np.rint(shown[:: max(1, len(shown) // 1_000_000)] * 255).astype(np.uint8)
    counts = np.sort(np.unique(shown, axis=0, return_counts=True)[1])
    return bool(counts[-8:].sum() >= 0.95 * len(shown))


def _settled(mask: np.ndarray) -> np.ndarray:
    """A mask without noise: near black and white are these, and so are pale specks in black and dark ones in white."""
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
    """ValueError if the mask (H, W) in [0, 1] marks nothing or everything; `white` says what becomes of white."""
    if mask.max() <= 0:
        raise ValueError(f"the {name} is empty (all black); make white what is to be {white}")
    if mask.min() >= 1:
        raise ValueError(f"the {name} is full (all white); make black what is not to be {white}")


# ----------------------------------------------------------------------------------------------------------- tensors


def to_tensor(rgb: np.ndarray) -> torch.Tensor:
    """(H, W, 3) in [0, 1] -> (1, 3, H, W) float32 tensor in [-1, 1]."""
    import torch

    return torch.from_numpy(np.array(rgb, np.float32)).permute(2, 0, 1)[None].contiguous() * 2 - 1


def from_tensor(tensor: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) or (3, H, W) tensor in [-1, 1], any device and dtype -> (H, W, 3) float32 in [0, 1], clipped."""
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3:
        raise ValueError(f"expected a tensor of one image, (1, 3, H, W), got {tuple(tensor.shape)}")
    rgb = tensor.detach().float().cpu().permute(1, 2, 0).numpy()
    return np.ascontiguousarray((rgb * 0.5 + 0.5).clip(0, 1))
