"""What reading an image file may cost, in pixels and beyond, and the errors of files that are refused.

Pillow walks files piece by piece, in Python: chunks, segments, blocks, tags. A picture of 8 x 8 pixels can have
millions of pieces, or pieces that repeat the same bytes, and then takes minutes. So a file is read through a stream
that counts, and what no stream sees is counted beforehand. Files of cameras, phones and editors stay far below every
limit here.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from photofound.errors import first_line

MAX_PIXELS = 200_000_000
"""Largest image that is decoded by default; ``max_pixels=`` or the variable PHOTOFOUND_MAX_PIXELS raise it."""

READS = 200_000  # of a file of any length, and READS_PER_KIB more
READS_PER_KIB = 12  # a GIF needs 8, for its blocks have 255 bytes
RUNS = 1_000_000  # reads of a BMP, which may be run-length encoded: two for each run
STRIPS = 2**16  # or tiles of a TIFF, and one more for each KiB
NUMBERS = 2**20  # in the tags of a TIFF or of EXIF data: each becomes an object
TAGS = 2**14
SHARED = 2**24  # bytes that all tags together may hold beyond the length of the file
EXIF = 2**22  # bytes
EXIF_SEGMENTS = 100  # of a JPEG, which are joined one by one
COMMENTS = 2**18  # bytes of a GIF's, which are joined block by block
JP2_HEADER = 2**21  # bytes of a JPEG 2000's, which holds its colour profile
CHUNKS = 2**16  # of a PNG, and one more for each KiB
SCANS = 100  # of a JPEG: a progressive photograph has ten, and each keeps the decoder busy with all of the picture
MARKERS = 2**17  # of a JPEG
JPEG_TABLES = 2**18  # bytes of a JPEG's frame headers and quantisation tables, which have some hundred
RECORDS = 2**14  # of Photoshop in a JPEG, where an editor writes less than a hundred


# ------------------------------------------------------------------------------------------------------------- errors


class ImageError(ValueError):
    """A ValueError whose message is already one clear line that names the image."""


class TooLarge(ImageError):
    """A picture, or one that was to be made, of more pixels than the limit."""


class TooMuch(ValueError):
    """A file that needs far more time or memory than other files of its length and pixels. The message says what it has
    too much of, and does not name the file."""


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Whatever Pillow or OpenCV raise on damaged data becomes one ValueError that names the file."""
    try:
        yield
    except ImageError:
        raise
    except TooMuch as error:
        raise too_much(name, error) from error
    except Exception as error:  # Pillow's parsers raise nearly anything on bad bytes
        raise damaged(name, error) from error


def damaged(name: str, error: Exception) -> ValueError:
    """The error for a file that ends too soon or cannot be decoded."""
    return ValueError(f"{name}: is truncated or damaged ({first_line(error)}); copy or download it again")


def too_much(name: str, error: TooMuch) -> ImageError:
    """The error for a file that costs more than its pixels say."""
    return ImageError(f"{name}: {error}; it would take too long to read, save it again with another program")


# ------------------------------------------------------------------------------------------------------------- pixels


def check_size(size: tuple[int, int], name: str, max_pixels: int | None) -> None:
    """Raise ValueError for a side below 1 pixel, TooLarge for more pixels than the limit."""
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


# -------------------------------------------------------------------------------------------------------------- pieces


class _Counting:
    """Raises TooMuch where a file is read in too many pieces."""

    left = 0

    def allow(self, reads: int, length: int) -> None:
        self.left = reads + length // 1024 * READS_PER_KIB

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise TooMuch("consists of too many tiny pieces")
        return super().read(size)  # type: ignore[misc]


class _Bytes(_Counting, io.BytesIO):
    pass


class _File(_Counting, io.BufferedReader):
    pass


def counting(source: bytes | io.FileIO) -> BinaryIO:
    """A stream over a file's bytes, or over a file that was opened without a buffer. It raises TooMuch if it is read in
    more pieces than files of its length have."""
    stream = _Bytes(source) if isinstance(source, bytes) else _File(source)
    length = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    stream.allow(READS, length)
    stream.allow(RUNS if stream.read(2) == b"BM" else READS, length)
    stream.seek(0)
    return cast(BinaryIO, stream)


def check(data: bytes) -> None:
    """Raise TooMuch for costs that the stream cannot count, or counts too late: lists that are joined piece by piece,
    tables of numbers, scans, checksums of chunks. Damaged files pass: the decoder refuses them."""
    if data.startswith(b"\x89PNG"):
        _check_png(data)
    elif data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        _check_gif(data)
    elif data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        check_tags(data)
    elif data[4:8] == b"jP  ":
        _check_jp2(data)


def _check_png(data: bytes) -> None:
    at, left = 8, CHUNKS + len(data) // 1024
    while at < len(data) and data[at + 4 : at + 8] != b"IEND":
        at, left = at + 12 + int.from_bytes(data[at : at + 4], "big"), left - 1
        if left < 0:
            raise TooMuch("consists of too many tiny pieces")


_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)  # everything but data, padding and restarts
_JPEG_TABLES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xDB)  # SOF, DQT
_EXIF = re.compile(rb"\xff\xe1..Exif\0\0", re.DOTALL)


def _check_jpeg(data: bytes) -> None:
    if len(_EXIF.findall(data)) > EXIF_SEGMENTS:
        raise TooMuch(f"has more than {EXIF_SEGMENTS} segments of EXIF data")
    if data.count(b"8BIM") > RECORDS:
        raise TooMuch(f"has more than {RECORDS} records of Photoshop")
    markers = scans = tables = 0
    marker = _MARKER.search(data)
    while marker and not (scans and data[marker.end() - 1] == 0xD9):  # EOI; what follows is a preview, or a video
        kind, markers = data[marker.end() - 1], markers + 1
        scans += kind == 0xDA  # SOS
        if scans > SCANS:
            raise TooMuch(f"is a JPEG of {scans} scans or more, where {SCANS} are the limit")
        if markers > MARKERS:
            raise TooMuch("consists of too many tiny pieces")
        is_bare = kind in (0xD8, 0xD9, 0x01)  # SOI, EOI and TEM have no length
        length = 0 if is_bare else int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        tables += length if kind in _JPEG_TABLES else 0
        if tables > JPEG_TABLES:
            raise TooMuch(f"has more than {JPEG_TABLES} bytes of frame headers and quantisation tables")
        marker = _MARKER.search(data, marker.end() + length)


def _check_gif(data: bytes) -> None:
    """Walk through the blocks as Pillow does, up to the second picture: it searches for one to recognise animations."""
    at = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0)
    comments = pictures = 0
    left = READS + len(data) // 1024 * READS_PER_KIB

    def byte() -> int:
        """The next byte, or 0 behind the end."""
        nonlocal at, left
        at, left = at + 1, left - 1
        if left < 0:
            raise TooMuch("consists of too many tiny pieces")
        return data[at - 1] if at <= len(data) else 0

    def block() -> int:
        """Skip a block. Returns its length."""
        nonlocal at
        length = byte()
        at += length
        return length

    while at < len(data) and pictures < 2 and (kind := byte()) != 0x3B:
        if kind == 0x2C:  # a picture
            palette = data[at + 8] if at + 8 < len(data) else 0
            at += 10 + (3 << (palette & 7) + 1 if palette & 0x80 else 0)
            pictures += 1
        elif kind == 0x21:  # an extension
            label, at = data[at : at + 1], at + 1
            length = block()
            if label == b"\xfe":
                while length and comments <= COMMENTS:
                    comments, length = comments + length, block()
                comments += 1  # they are joined with a line break
                if comments > COMMENTS:
                    raise TooMuch(f"has more than {COMMENTS} bytes of comments")
                continue
        else:
            continue
        while block():
            pass


def _check_jp2(data: bytes) -> None:
    """Pillow reads the header at once, and then walks it."""
    at, left = 0, READS
    while at + 8 <= len(data) and left:
        length, head = int.from_bytes(data[at : at + 4], "big"), 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if data[at + 4 : at + 8] == b"jp2h" and min(length or len(data), len(data) - at) > JP2_HEADER:
            raise TooMuch(f"has a header of more than {JP2_HEADER} bytes")
        at, left = at + max(length, head) if length else len(data), left - 1


def check_tags(data: bytes) -> None:
    """Raise TooMuch for a TIFF, or EXIF data, with tags that share their bytes, or with far too many numbers."""
    while data.startswith(b"Exif\0\0"):
        data = data[6:]
    order = "<" if data.startswith(b"II") else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    count_form, entry_form, offset_form = ("Q", "HHQ8s", "Q") if is_big else ("H", "HHL4s", "L")
    entry = struct.Struct(order + entry_form)

    def number(form: str, at: int) -> int:
        return struct.unpack_from(order + form, data, at)[0]

    held = numbers = strips = tags = 0
    try:
        folders, seen = [number(offset_form, 8 if is_big else 4)], set()
        while folders:
            at = folders.pop()
            if at in seen:
                continue
            seen.add(at)
            start = at + struct.calcsize(order + count_form)
            for n in range(number(count_form, at)):
                tag, kind, count, value = entry.unpack_from(data, start + n * entry.size)
                count = count if kind in _SIZES else 0  # Pillow skips other types
                size, tags = count * _SIZES.get(kind, 0), tags + 1
                if size > len(value):
                    left = len(data) - struct.unpack(order + offset_form, value)[0]
                    held += max(0, min(size, left))
                    count = count if size <= left else 0  # Pillow skips tags that are cut off
                elif tag in _FOLDERS:
                    folders.append(struct.unpack_from(order + ("H" if kind == 3 else offset_form), value)[0])
                numbers += count * _COSTS.get(kind, 1)
                strips += count if tag in _STRIPS else 0
                if tags > TAGS or numbers > NUMBERS or strips > STRIPS + len(data) // 1024:
                    raise TooMuch("has too many tags, or too many numbers in them")
                if held > SHARED + len(data):
                    raise TooMuch("has parts that repeat the same bytes")
    except struct.error:
        pass  # ends too early: damaged


def check_exif(data: bytes) -> None:
    """Raise TooMuch for EXIF data that would take long to read."""
    if len(data) > EXIF:
        raise TooMuch(f"has {len(data)} bytes, where {EXIF} are the limit")
    check_tags(data)


_FOLDERS = (34665, 34853, 40965)  # Exif, GPS, interoperability: further lists of tags
_STRIPS = (273, 324)  # where strips or tiles begin
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_COSTS = {1: 0, 2: 0, 6: 0, 7: 0, 5: 16, 10: 16}  # of each value by its type: bytes stay together, fractions cost more
