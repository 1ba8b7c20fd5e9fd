"""Picture: a decoded photograph with its metadata; reading files into pictures.

    picture = load("cup.png")                    # upright, at its own depth, in its own colour space
    rgb = picture.rgb()                          # (H, W, 3) float32 sRGB in [0, 1], for the model
    result = picture.paste(painted, keep)        # keep == 1: the file's own integers, bit for bit
    save(result, "out.png")                      # atomic; with profile, EXIF and XMP

There are two spaces. NATIVE values are the file's: uint8 or uint16, grey or RGB, in the file's colour profile. MODEL
values are float32 sRGB in [0, 1]. A kept pixel never leaves native space; that is why it comes back exact.
"""

from __future__ import annotations

import dataclasses
import io
import os
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from photofound.picture import arrays, bounds, colour, metadata, netpbm, profiles, reading, show, webp
from photofound.picture.jpeg import JpegSource

_HIDDEN = 8 / 255  # the colour of a less opaque pixel is hardly visible: rounding, or left there by a program


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded photograph with its file's values, upright. Immutable: every method returns a new one."""

    pixels: np.ndarray = field(repr=False)  # (H, W, C) uint8 or uint16; C = 1 grey, 2 grey+alpha, 3 RGB, 4 RGBA
    format: str | None = None  # the source file's: "PNG", "JPEG", ...; None for arrays
    icc_profile: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)  # orientation reset to 1, since the pixels are upright
    dpi: tuple[float, float] | None = None
    path: Path | None = None
    lossless: bool = True  # whether the file's encoding was; a WebP is written in the same way
    xmp: bytes | None = field(default=None, repr=False)  # UTF-8, orientation 1
    jpeg: JpegSource | None = field(default=None, repr=False)  # how a JPEG was compressed
    colour: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)  # a PNG's chunks about its colours
    generated: bool = True  # of an edit's result: whether a model has painted a part of it
    keep_white: bool = False  # in a JPEG, too, white stays exactly white: what marketplaces ask of a background
    note: str = ""  # an edit's description of its result; `provenance.mark` writes it into the metadata
    recipe: str = ""  # how a result was made, as JSON (`photofound.edits.recipe`); `provenance.mark` writes it, too

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
        8-bit if every value is some k/255 (up to the rounding of their own dtype), else 16-bit, so nothing is lost.
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
            bounds.check_size(image.size, "image", max_pixels)
            with bounds.one_line_errors("image"):
                return _from_pil(image, "image")
        if isinstance(image, np.ndarray):
            return Picture(arrays.from_array(image))
        if hasattr(image, "detach"):  # a torch tensor, without importing torch
            return Picture(arrays.from_array(arrays.channels_last(image.detach().cpu())))
        raise ValueError(f"cannot read an image from {type(image).__name__}; pass a path, PIL image, array or tensor")

    def rgb(self, hole: np.ndarray | None = None) -> np.ndarray:
        """(H, W, 3) float32 sRGB in [0, 1]: through the ICC profile if there is one, grey repeated. Colours that alpha
        hides are replaced first (`revealed`, which takes `hole`).

        16 bits stay 16, except through a profile that is made of tables, as scanners and printers have them: these
        are converted in 8 bits (Pillow's limit). A picture with a profile is converted once and keeps the result.
        """
        shown = self.revealed(hole)
        if shown is self and self.icc_profile:
            return self._srgb
        return colour.to_srgb(shown.colours, shown.icc_profile)

    @cached_property
    def _srgb(self) -> np.ndarray:
        rgb = colour.to_srgb(self.colours, self.icc_profile)
        rgb.flags.writeable = False
        return rgb

    @cached_property
    def _crops(self) -> dict[tuple[int, int, int, int], Picture]:
        """The crops that were made, so that each is converted to sRGB once."""
        return {}

    def revealed(self, hole: np.ndarray | None = None) -> Picture:
        """This picture with new colours where alpha (below 8/255) hides them: the colour of the nearest visible pixel,
        or black if none is visible. Hidden colours must not bleed into their neighbours. Alpha stays.

        Args:
            hole: (H, W) bool, pixels to take no colours from, unless there are no others.
        """
        alpha = self.alpha()
        if alpha is None or (seen := alpha >= _HIDDEN).all():
            return self
        known = seen if hole is None or not (seen & ~hole).any() else seen & ~hole
        around = arrays.nearest(self.colours, known) if seen.any() else np.zeros_like(self.colours)
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
        pixels = self.pixels if deep_grey else arrays.to_8_bit(self.pixels)
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
        image.info.update(self.pil_metadata)
        return image

    @property
    def pil_metadata(self) -> dict[str, Any]:
        """The profile, EXIF, XMP and resolution that it has, under Pillow's names in `info` and for `save`."""
        named = {"icc_profile": self.icc_profile, "exif": self.exif, "xmp": self.xmp, "dpi": self.dpi}
        return {name: value for name, value in named.items() if value}

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return show.png((self.rgb(), self.alpha()))

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
            colour: make a grey picture RGB (kept pixels r = g = b = grey); otherwise grey stays grey, by luma.
            flatten: drop the alpha channel; `keep` then already includes alpha, as in outpainting.
            opaque: generated pixels become opaque (a soft edge is composited over them); False leaves alpha as it is.
        """
        rgb, keep = _check_patch(rgb, keep, at, self.size)
        base = self._without_alpha() if flatten else self
        base = base.in_colour() if colour else base
        rows, columns = _box(keep < 1)  # a small hole in a large photograph is cheap
        rgb, keep = rgb[rows, columns], keep[rows, columns, None]
        pixels = base.pixels.copy()
        window = pixels[at[1] :, at[0] :][rows, columns]
        window[...] = _mix(window, base.native(rgb), keep, base.depth, base.has_alpha, opaque)
        return dataclasses.replace(base, pixels=pixels)

    def with_alpha(self, alpha: np.ndarray) -> Picture:
        """This picture in RGBA, with `alpha` (H, W) in [0, 1] in place of its own. Colours stay the same integers, and
        become black where alpha is 0."""
        base = self._without_alpha().in_colour()
        alpha = np.rint(alpha * base.depth).astype(base.pixels.dtype)[..., None]
        return dataclasses.replace(base, pixels=np.concatenate([base.pixels * (alpha > 0), alpha], axis=2))

    def in_srgb(self) -> Picture:
        """This picture with its colours converted to sRGB, without a profile; itself where they are sRGB already."""
        if colour.profile_mode(self.icc_profile, self.is_grey) is None:
            return dataclasses.replace(self, icc_profile=None) if self.icc_profile else self
        values = np.rint(colour.to_srgb(self.colours, self.icc_profile) * self.depth).astype(self.pixels.dtype)
        pixels = np.concatenate([values, self.pixels[..., -1:]], 2) if self.has_alpha else values
        return dataclasses.replace(self, pixels=pixels, icc_profile=None, colour=())

    def extend(self, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> Picture:
        """A canvas larger by these margins in pixels; the picture lies on it exactly, the rest is black and opaque."""
        margins = {"left": left, "top": top, "right": right, "bottom": bottom}
        for name, margin in margins.items():
            if margin < 0:
                raise ValueError(f"{name} margin is {margin}; it must be 0 or more pixels")
        width, height = self.width + left + right, self.height + top + bottom
        bounds.check_size((width, height), "the extended canvas", None)
        pixels = np.zeros((height, width, self.pixels.shape[2]), self.pixels.dtype)
        if self.has_alpha:
            pixels[..., -1] = self.depth
        pixels[top : top + self.height, left : left + self.width] = self.pixels
        return self.moved(pixels)

    def crop(self, box: tuple[int, int, int, int]) -> Picture:
        """The part within (left, top, right, bottom); a view, no pixels are copied."""
        if box in self._crops:
            return self._crops[box]
        left, top, right, bottom = box
        part = dataclasses.replace(self, pixels=self.pixels[top:bottom, left:right])
        if self.icc_profile:
            self._crops[box] = part
        if "_srgb" in self.__dict__:  # converted already
            part.__dict__["_srgb"] = self._srgb[top:bottom, left:right]
        return part

    def resize(self, size: tuple[int, int]) -> Picture:
        """This picture at (width, height), in native values: bicubic when growing, area average when shrinking. Colours
        that alpha hides do not run into visible ones (`revealed`)."""
        import cv2

        bounds.check_size(size, "the resized image", None)
        shrinks = size[0] < self.width or size[1] < self.height
        pixels = cv2.resize(self.revealed().pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        return self.moved(pixels.reshape(size[1], size[0], -1))

    def moved(self, pixels: np.ndarray) -> Picture:
        """This picture with pixels at other places, without the metadata that name places by pixels."""
        exif = metadata.exif_without(self.exif, metadata.EXIF_PLACES)
        return dataclasses.replace(self, pixels=pixels, exif=exif, xmp=metadata.without_stale(self.xmp, moved=True))

    def without_location(self) -> Picture:
        """This picture without EXIF's GPS folder and without the properties of the XMP that name a place."""
        exif, xmp = metadata.exif_without(self.exif, (metadata.GPS,)), metadata.xmp_without_location(self.xmp)
        return dataclasses.replace(self, exif=exif, xmp=xmp)

    def native(self, rgb: np.ndarray) -> np.ndarray:
        """(h, w, 3) sRGB, clipped to [0, 1] -> (h, w, 1 or 3) float32 native values, unrounded; inverts `rgb`."""
        return colour.from_srgb(rgb, self.icc_profile, self.is_grey, self.pixels.dtype)

    def _without_alpha(self) -> Picture:
        return dataclasses.replace(self, pixels=self.colours) if self.has_alpha else self

    def in_colour(self) -> Picture:
        """Grey as RGB with r = g = b; RGB as it is. A grey profile becomes one for RGB with the same curve. Without
        a curve it is dropped, with a warning."""
        if not self.is_grey:
            return self
        profile, chunks = self.icc_profile, self.colour
        mode = colour.profile_mode(profile, is_grey=True)
        if mode == "L":
            assert profile is not None
            profile = profiles.in_colour(profile)
            chunks = tuple(chunk for chunk in chunks if chunk[0] == b"gAMA" and profile)  # others name primaries
            if profile is None:
                warnings.warn("the picture's grey colour profile cannot hold colour and was dropped", stacklevel=3)
        elif mode is None:
            profile = None
        pixels = np.concatenate([np.repeat(self.colours, 3, axis=2), self.pixels[..., 1:]], axis=2)
        return dataclasses.replace(self, pixels=pixels, icc_profile=profile, colour=chunks)


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


def _box(where: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around the True values of (h, w); empty slices if there are none."""
    sides = (np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0)))
    rows, columns = (slice(side[0], side[-1] + 1) if len(side) else slice(0) for side in sides)
    return rows, columns


def _mix(kept: np.ndarray, made: np.ndarray, keep: np.ndarray, depth: int, has_alpha: bool, opaque: bool) -> np.ndarray:
    """Mix kept (h, w, C) native integers and made (h, w, C without alpha) native floats by keep (h, w, 1); integers."""
    if not has_alpha:
        # What is made, and how much is kept, are rounded first: layers of a file, laid over each other, give the same.
        share = np.rint(keep * depth) / np.float32(depth)
        mixed = share * kept + (1 - share) * np.rint(made).clip(0, depth)
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

    The size in the header is checked before anything is decoded. If there are several frames, the first is used, with a
    warning. Raises FileNotFoundError, or ValueError for anything that is not one whole image within `max_pixels`.
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


_COMPRESSED = ("AVIF", "WEBP")  # no such file ends in many zeros, but decoders take one that does
_ZERO_TAIL = 64
_LAST_BYTES = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}  # decoders do not notice when these are missing


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a picture of any size and is complete, not cut off by a stopped copy or a full disk.

    A BMP of the whole length whose end is zeros counts as whole: zeros are black there.
    """
    with warnings.catch_warnings(action="ignore"):
        try:
            kind = str(load(path, max_pixels=2**62).format)
            with open(path, "rb") as stream:
                stream.seek(-min(_ZERO_TAIL, os.path.getsize(path)), io.SEEK_END)
                tail = stream.read()
            filled = kind not in _COMPRESSED or any(tail)
            return filled and tail.endswith(_LAST_BYTES.get(kind, b""))
        except (ValueError, OSError):
            return False


def decode(
    data: bytes, name: str = "image", max_pixels: int | None = None, at_least: tuple[int, int] | None = None
) -> Picture:
    """The same as `load` from the bytes of a file; errors use `name`.

    Args:
        at_least: (width, height), upright. A JPEG that is far larger is decoded at 1/2, 1/4 or 1/8 of its size, which
            is many times faster, but never below this size. The picture is to be looked at, not to be written: it
            says nothing of how its file was encoded.
    """
    if at_least is not None and (size := webp.plain_size(data)) is not None:
        bounds.check_size(size, name, max_pixels)
        if (pixels := webp.plain_pixels(data)) is not None:  # else the error is Pillow's
            return Picture(pixels, "WEBP", lossless=False)
    return _decode(bounds.counting(data), name, max_pixels, at_least)


def upright_size(data: bytes, name: str = "image", max_pixels: int | None = None) -> tuple[int, int]:
    """(width, height) when upright, from the header alone. Raises ValueError as `load` does."""
    if (size := webp.plain_size(data)) is not None:
        bounds.check_size(size, name, max_pixels)
        return size
    image, _ = reading.open_header(bounds.counting(data), name)
    with image:
        bounds.check_size(image.size, name, max_pixels)
        with bounds.one_line_errors(name):
            return image.size[::-1] if metadata.orientation(image) in arrays.SIDEWAYS else image.size


def _decode(stream: BinaryIO, name: str, max_pixels: int | None, at_least: tuple[int, int] | None = None) -> Picture:
    if stream.seek(0, io.SEEK_END) == 0:
        raise ValueError(f"{name}: is empty (0 bytes); copy or download it again")
    stream.seek(0)
    image, stream = reading.open_header(stream, name)
    with image:
        bounds.check_size(image.size, name, max_pixels)
        with bounds.one_line_errors(name):
            animated = getattr(image, "is_animated", False) or image.info.get("frames", 1) > 1
            if animated and image.format != "MPO":  # MPO: a phone's JPEG with a preview
                warnings.warn(f"{name}: has several frames or pages; only the first is used", stacklevel=4)
            if at_least is not None and image.format in ("JPEG", "MPO"):
                sideways = metadata.orientation(image) in arrays.SIDEWAYS
                image.draft(None, at_least[::-1] if sideways else at_least)
            stream.seek(0)
            netpbm.decode_with_numpy(image, stream.read() if image.format == "PPM" else b"")
            if image.format == "TIFF":
                reading.check_strips(image, stream)
            image.load()  # this also notices a truncated file, which OpenCV would read in part
            deep = reading.deep_pixels(image, stream, name)
            chunks = image.info.get("colour_chunks", ())
            image.info["code_points"] = reading.code_points(image.format, stream, chunks)
            picture = _from_pil(image, name, deep)
            jpeg = JpegSource.of(image, stream) if at_least is None else None
    lossless = reading.is_lossless(picture.format, stream)
    return dataclasses.replace(picture, lossless=lossless, jpeg=jpeg, colour=chunks)


def _from_pil(image: Image.Image, name: str, pixels: np.ndarray | None = None) -> Picture:
    """Picture from a PIL image. `pixels` (H, W, C), not yet upright, replace the image's if Pillow reduced those."""
    image.load()  # before the EXIF: Pillow turns TIFFs upright on load and then drops their orientation
    exif, kind, dpi = image.getexif(), image.format, metadata.dpi(image.info.get("dpi"))  # lost in a conversion
    orientation = metadata.orientation(image)
    xmp = metadata.without_stale(metadata.xmp_bytes(image.info.get("xmp"), name))
    profile = colour.profile_of(image, name)
    if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        image, profile = colour.as_rgb(image, profile, name)
    if pixels is None:
        pixels = arrays.from_pil(image, name)
    turned = Picture(
        pixels=arrays.upright(pixels, orientation),
        format="JPEG" if kind == "MPO" else kind,
        icc_profile=profile,
        exif=metadata.exif_bytes(exif, name),
        dpi=dpi,
        xmp=xmp,
    )
    return turned if orientation == 1 else turned.moved(turned.pixels)
