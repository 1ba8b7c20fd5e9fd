"""The formats of image files: their suffixes, which are read and written, and what each of them can hold."""

from __future__ import annotations

import os

from PIL import features

from photofound.picture.bounds import ImageError

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
"""The usual suffixes of all readable files: these are taken from a folder. A single file is read whatever its name."""

# Pillow knows many more, among them EPS, which would start Ghostscript on a stranger's file.
READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
"""Pillow's names of the formats that may be decoded. The variable PHOTOFOUND_FORMATS (``png,jpeg``) allows fewer."""
FORMATS_VARIABLE = "PHOTOFOUND_FORMATS"
_VARIANTS = {"BMP": ("DIB",)}  # Pillow has a name of its own for them

LOSSLESS = ("PNG", "TIFF", "BMP", "GIF", "PPM")  # a WebP may be either, its file says which
HOLDS_ALPHA = ("PNG", "TIFF", "WEBP", "AVIF")
HOLDS_16_BIT = ("PNG", "TIFF")
LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 32_768}  # pixels that can be written and read again


def readable() -> tuple[str, ...]:
    """Pillow's names of the formats that are read: all of ``READABLE``, or those that PHOTOFOUND_FORMATS names."""
    text = os.environ.get(FORMATS_VARIABLE, "")
    named = [name.strip().upper() for name in text.split(",") if name.strip()] or READABLE
    if unknown := set(named) - set(READABLE):
        choices = ", ".join(READABLE).lower()
        raise ImageError(f"{FORMATS_VARIABLE} is {text!r}: {min(unknown).lower()} is none of {choices}")
    return tuple(kind for name in READABLE if name in named for kind in (name, *_VARIANTS.get(name, ())))


def suffix_of(format: str) -> str:
    """The usual file suffix of a format: "JPEG" -> ".jpg"."""
    return next(suffix for suffix, name in SUFFIXES.items() if name == format)


def writable_names() -> str:
    """The formats that can be written, as users type them, in one line."""
    return ", ".join(sorted({suffix_of(name)[1:] for name in SUFFIXES.values()}))
