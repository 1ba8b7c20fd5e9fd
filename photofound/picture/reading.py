"""Opening an image file with Pillow, within bounds, and reading what Pillow leaves out: 16-bit colour, and what a PNG,
an AVIF or a WebP says of its colours and its encoding."""

from __future__ import annotations

import io
import re
import struct
import warnings
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from photofound.picture import arrays, bounds, metadata, png
from photofound.picture.formats import LOSSLESS, readable

# ----------------------------------------------------------------------------------------------------------- the header


def open_header(stream: BinaryIO, name: str) -> tuple[ImageFile.ImageFile, BinaryIO]:
    """The file as Pillow knows it before it decodes any pixels, and the stream to decode them from.

    A PNG's stream is a new one, without the chunks that are not pixels (``png.separated``). Raises ValueError for
    anything but a readable image.
    """
    Image.init()
    allowed = readable()
    formats = [kind for kind in allowed if kind in Image.OPEN]
    try:
        stream.seek(0)
        data, info = stream.read(), dict[str, Any]()
        bounds.check(data)
        if data.startswith(png.SIGNATURE):
            data, info = png.separated(data, name)
            stream = bounds.counting(data)
        image = _identify(stream, formats)
        image.info.update(info)
        metadata.drop_bad_exif(image, name)
        return image, stream
    except bounds.TooMuch as error:
        raise bounds.too_much(name, error) from error
    except UnidentifiedImageError:
        if _is_heic(stream) and "HEIF" in allowed and "HEIF" not in formats:
            _register_heic(name)
            return open_header(stream, name)
        raise ValueError(f"{name}: is not an image that can be read ({', '.join(formats)}), or is damaged") from None
    except Exception as error:  # Pillow's parsers raise nearly anything on bad bytes
        raise bounds.damaged(name, error) from error


def _identify(stream: BinaryIO, formats: list[str]) -> ImageFile.ImageFile:
    """Image.open without Pillow's own limit on pixels, a global below ours; ``bounds.check_size`` takes its place."""
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


def _is_heic(stream: BinaryIO) -> bool:
    stream.seek(0)
    start = stream.read(12)
    stream.seek(0)
    return start[4:8] == b"ftyp" and start[8:] in (b"heic", b"heix", b"heim", b"heis", b"mif1")


def _register_heic(name: str) -> None:
    """Teach Pillow to read what iPhones write, or say which package is missing."""
    try:
        import pillow_heif
    except ImportError:
        advice = "pip install 'photofound[heic]', or save it as JPEG"
        raise ValueError(f"{name}: is a HEIC photograph, which needs a package: {advice}") from None
    pillow_heif.register_heif_opener()


# -------------------------------------------------------------------------------------------------------------- 16 bits


def deep_pixels(image: Image.Image, stream: BinaryIO, name: str) -> np.ndarray | None:
    """(H, W, C) uint16 of a 16-bit file that Pillow reduces to 8 bits, in RGB order; None for all others."""
    if image.mode.startswith(("I", "F")) or (bits := bits_per_channel(image, stream)) <= 8:
        return None
    if bits != 16:
        warnings.warn(f"{name}: has {bits} bits per channel and is read with 8; a 16-bit PNG keeps all", stacklevel=5)
        return None

    import cv2

    advice = "save it as a 16-bit PNG"
    unreadable = bounds.ImageError(f"{name}: is a kind of 16-bit {image.format} that cannot be read; {advice}")
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
        pixels = arrays.unpremultiplied(pixels) if extra == 1 else pixels[..., :3]
    return pixels


_PPM_HEADER = re.compile(rb"P[36](?:(?:\s|#[^\n]*\n)+(\d+)){3}\s")  # the last group that matches is white


_TIFF_COMPRESSED = (5, 7, 8, 32773, 32946, 34925, 50000, 50001)  # LZW, JPEG, deflate, PackBits, LZMA, Zstd, WebP
_TAIL = 16  # zero bytes, with which nothing that is compressed so ends


def check_strips(image: Image.Image, stream: BinaryIO) -> None:
    """Raise ValueError for a TIFF with a compressed strip or tile that ends in zeros: a copy that was broken off in a
    file of the whole length. Decoders fill the picture and do not look at the strip's end."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(259) not in _TIFF_COMPRESSED:
        return
    for offsets, lengths in ((273, 279), (324, 325)):
        for offset, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False):
            if length >= 2 * _TAIL:
                stream.seek(offset + length - _TAIL)
                if not any(stream.read(_TAIL)):
                    raise ValueError("its second part is zeros")


def bits_per_channel(image: Image.Image, stream: BinaryIO) -> int:
    """Bits per channel in the file; 8 for formats that have no more."""
    if image.format == "TIFF":
        return max(getattr(image, "tag_v2", {}).get(258, (8,)))
    if image.format == "HEIF":
        return image.info.get("bit_depth", 8)
    stream.seek(0)
    start = stream.read(65_536)
    if image.format == "PNG":
        return start[24]
    if image.format == "PPM" and (header := _PPM_HEADER.match(start)):  # 16 bits mean white is 65535
        return 16 if header[1] == b"65535" else min(int(header[1]).bit_length(), 15)
    if image.format == "JPEG2000" and len(size := start.partition(b"\xff\x4f\xff\x51")[2]) > 38:
        return (size[38] & 0x7F) + 1
    if image.format == "AVIF" and len(codec := start.partition(b"av1C")[2]) > 2:
        return {0x40: 10, 0x60: 12}.get(codec[2] & 0x60, 8)
    return 8


# ----------------------------------------------------------------------------------------- what the file says of itself


def code_points(kind: str | None, stream: BinaryIO, chunks: tuple[tuple[bytes, bytes], ...]) -> tuple[int, int] | None:
    """Colour primaries and transfer function by ITU-T H.273, where a PNG or AVIF names them."""
    if named := dict(chunks).get(b"cICP"):
        return named[0], named[1]
    if kind == "AVIF":
        stream.seek(0)
        box = stream.read(65_536).partition(b"colrnclx")[2]
        return (int.from_bytes(box[:2], "big"), int.from_bytes(box[2:4], "big")) if len(box) > 6 else None
    return None


def is_lossless(kind: str | None, stream: BinaryIO) -> bool:
    """Whether the file's encoding keeps every value."""
    if kind != "WEBP":
        return kind in LOSSLESS
    stream.seek(12)  # past "RIFF", length, "WEBP": a list of chunks, and one of them holds the pixels
    while len(header := stream.read(8)) == 8:
        if header[:4] in (b"VP8 ", b"VP8L"):
            return header[:4] == b"VP8L"
        if header[:4] == b"ANMF":  # a frame of an animation: 16 bytes, then chunks of its own
            stream.seek(16, io.SEEK_CUR)
            continue
        length = int.from_bytes(header[4:], "little")
        stream.seek(length + length % 2, io.SEEK_CUR)
    return False
