"""Which files are pictures, and which suffix a result gets."""

from __future__ import annotations

import re
from pathlib import Path

# The first bytes of a file, as regular expressions, and Pillow's name of its format.
_MAGIC = {
    rb"\x89PNG": "PNG",
    rb"\xff\xd8": "JPEG",
    rb"RIFF....WEBP": "WEBP",
    rb"II[*+]\0|MM\0[*+]": "TIFF",
    rb"BM": "BMP",
    rb"....ftypavi[fs]": "AVIF",
    rb"GIF8[79]a": "GIF",
    rb"P[1-6Ff]\s": "PPM",
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": "JPEG2000",
    rb"....ftyp(hei[cxms]|mif1)": "HEIF",
}


def is_picture(path: Path) -> bool:
    """Whether a file is a picture: by its suffix, or by its first bytes if it has none."""
    from photofound.image import READABLE_SUFFIXES

    return path.suffix.lower() in READABLE_SUFFIXES if path.suffix else _format_of(path) is not None


def _format_of(path: Path) -> str | None:
    """Pillow's name of the format, by the first bytes; None if it is no picture, no file, or cannot be opened."""
    try:
        if not path.is_file():  # opening a pipe would wait for a writer
            return None
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return None
    return next((name for magic, name in _MAGIC.items() if re.match(magic, start, re.DOTALL)), None)


def output_suffix(photograph: Path, format: str | None, alpha: bool = False) -> str:
    """The suffix of a result: of ``format`` if it is given, else of the photograph's real format, not its name's.

    It is .png if we cannot write that format, or if the result has an alpha channel and the format has none.
    """
    from photofound.image import HOLDS_ALPHA, SUFFIXES, output_format, suffix_of

    if format is not None:
        return suffix_of(output_format(None, None, format))
    named, known = SUFFIXES.get(photograph.suffix.lower()), _format_of(photograph)
    kind = known or named
    if kind is None or kind not in SUFFIXES.values() or (alpha and kind not in HOLDS_ALPHA):
        return ".png"
    return photograph.suffix if named == kind else suffix_of(kind)
