"""PBM, PGM and PPM by numpy: Pillow reads all of their kinds but two number by number, in Python."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from photofound.picture.bounds import TooMuch

_COMMENTS = 2**16  # among the numbers
_SPACES = np.frombuffer(b" \t\n\v\f\r", np.uint8)


def decode_with_numpy(image: Image.Image, data: bytes) -> None:
    """Decode a PBM, PGM or PPM that Pillow has opened, but not loaded: its ``load`` then gives the values that it would
    have given, much sooner. Other images stay as they are.

    Args:
        data: the bytes of the image's file.

    Raises ValueError where numbers are missing or out of range.
    """
    if image.format != "PPM" or image.tile[0].codec_name not in ("ppm", "ppm_plain"):  # type: ignore[attr-defined]
        return
    assert isinstance(image, ImageFile.ImageFile)
    tile: Any = image.tile[0]
    count = image.width * image.height * len(image.getbands())
    if tile.codec_name == "ppm":
        kind = np.dtype(">u2" if tile.args[-1] > 255 else "u1")
        numbers = np.frombuffer(data[tile.offset : tile.offset + count * kind.itemsize], kind)
    else:
        body = _without_comments(data[tile.offset :])
        numbers = _bits(body) if image.mode == "1" else np.fromstring(body, np.int32, sep=" ")
    if len(numbers) < count:
        raise ValueError(f"{len(numbers)} of {count} numbers")
    white = 1 if image.mode == "1" else tile.args[-1]
    if tile.codec_name == "ppm_plain" and not (numbers.min() >= 0 and numbers.max() <= white):
        raise ValueError(f"numbers from {numbers.min()} to {numbers.max()}, where {white} is the largest")
    most = 65535 if image.mode == "I" else 255
    values = np.minimum(np.rint(np.arange(65536) / white * most), most)
    values = most - values if image.mode == "1" else values  # where 1 is black
    pixels = values.astype("<u4" if image.mode == "I" else "u1")[numbers[:count]].tobytes()
    rawmode = {"1": "1;8", "I": "I;32"}.get(image.mode, image.mode)
    image.fp = io.BytesIO(pixels)
    image.tile = [ImageFile._Tile("raw", (0, 0, *image.size), 0, rawmode)]


def _without_comments(body: bytes) -> bytes:
    if body.count(b"#") > _COMMENTS:
        raise TooMuch("consists of too many tiny pieces")
    return re.sub(rb"#[^\r\n]*[\r\n]?", b"", body)


def _bits(body: bytes) -> np.ndarray:
    """Digits that need no space between them."""
    digits = np.frombuffer(body, np.uint8)
    return digits[~np.isin(digits, _SPACES)].astype(np.int32) - ord("0")
