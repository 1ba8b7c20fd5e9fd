"""The chunks of a PNG that are not pixels: profile, EXIF, XMP, resolution, and what its colours mean.

Pillow refuses a whole PNG where one of them is damaged, or larger than 1 MiB once it is decompressed. Here each is read
by itself, within the bounds that hold for all formats, and a damaged one is left out with a warning.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

from photofound.picture import bounds, colour, metadata

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LENGTHS = {b"cICP": 4, b"mDCV": 24, b"cLLI": 8, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"pHYs": 9, b"acTL": 8}
COLOURS = (b"cICP", b"mDCV", b"cLLI", b"sRGB", b"gAMA", b"cHRM")
"""Chunks that say what the colours mean."""
_XMP, _RAW_EXIF = b"XML:com.adobe.xmp", (b"Raw profile type exif", b"Raw profile type APP1")


class _Damaged(ValueError):
    """A chunk that cannot be read."""


def separated(data: bytes, name: str) -> tuple[bytes, dict[str, Any]]:
    """A PNG's pixels, and what its other chunks say.

    Args:
        data: the file.
        name: is used in warnings.

    Returns:
        The file without those chunks, and their contents under Pillow's names in ``info`` (``icc_profile``, ``exif``,
        ``xmp``, ``dpi``, ``gamma``, ``chromaticity``, ``srgb``), beside ``frames`` (of an animation) and
        ``colour_chunks`` (name and data of those in ``COLOURS``).
    """
    kept: list[bytes | memoryview] = [SIGNATURE]
    found: dict[bytes, bytes] = {}
    view = memoryview(data)
    for kind, start, end in _chunks(data):
        if not kind[0] & 0x20:  # a capital letter: needed to show the picture
            kept.append(view[start - 8 : end + 4])
            continue
        key = _key(kind, data[start : min(end, start + 32)])
        if key is None or key in found:  # of two, decoders take the first
            continue
        if zlib.crc32(view[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            _warn(name, kind, "its checksum is wrong")
        elif len(found.setdefault(key, data[start:end])) != _LENGTHS.get(kind, end - start):
            _warn(name, kind, "it is too short or too long")
            del found[key]
        elif kind == b"tRNS" and _is_transparency(data, found[key]):
            kept.append(view[start - 8 : end + 4])
        elif kind == b"tRNS":
            _warn(name, kind, "it does not fit the kind of pixels")
    return b"".join(kept), _contents(found, name)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each chunk's data. A chunk that is cut off reaches beyond the end of the file."""
    at = len(SIGNATURE)
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8].ljust(4, b"\0")
        yield kind, at + 8, at + 8 + length
        at += 12 + length
        if kind == b"IEND":
            return


def _key(kind: bytes, start: bytes) -> bytes | None:
    """What a chunk is known by here; None for one that nothing here reads."""
    if kind in _LENGTHS or kind in (b"iCCP", b"eXIf", b"tRNS"):
        return kind
    keyword = start.partition(b"\0")[0]
    if kind == b"iTXt" and keyword == _XMP:
        return _XMP
    return _RAW_EXIF[0] if kind in (b"zTXt", b"tEXt") and keyword in _RAW_EXIF else None


def _is_transparency(data: bytes, chunk: bytes) -> bool:
    """Whether a tRNS chunk fits the picture's kind of pixels, by the byte in its header."""
    return {0: len(chunk) == 2, 2: len(chunk) == 6, 3: 0 < len(chunk) <= 256}.get(data[25], False)


def _contents(found: dict[bytes, bytes], name: str) -> dict[str, Any]:
    """The contents of ``separated``. ``exif`` is there in any case, for Pillow decodes all pixels to look for it."""
    readers = {b"iCCP": _profile, _XMP: _xmp, b"eXIf": _exif, _RAW_EXIF[0]: _raw_exif}
    info: dict[str, Any] = {"exif": b""}
    for kind, read in readers.items():
        if kind in found and not (kind == _RAW_EXIF[0] and info["exif"]):
            try:
                info |= read(found[kind])
            except (_Damaged, ValueError) as error:
                _warn(name, kind, str(error))
    if b"pHYs" in found and found[b"pHYs"][8] == 1:
        x, y = struct.unpack(">II", found[b"pHYs"][:8])
        info["dpi"] = (x * 0.0254, y * 0.0254)
    if not any(found.get(b"gAMA", b"")):
        found.pop(b"gAMA", None)  # 0 says nothing
    if b"gAMA" in found:
        info["gamma"] = int.from_bytes(found[b"gAMA"], "big") / 100_000
    if b"cHRM" in found:
        info["chromaticity"] = tuple(number / 100_000 for number in struct.unpack(">8I", found[b"cHRM"]))
    if b"sRGB" in found:
        info["srgb"] = found[b"sRGB"][0]
    info["frames"] = int.from_bytes(found.get(b"acTL", b"")[:4], "big")
    info["colour_chunks"] = tuple((kind, data) for kind, data in found.items() if kind in COLOURS)
    return info


def _profile(chunk: bytes) -> dict[str, bytes]:
    return {"icc_profile": _inflated(chunk.partition(b"\0")[2][1:], colour.LARGEST_PROFILE)}


def _exif(chunk: bytes) -> dict[str, bytes]:
    return {"exif": b"Exif\0\0" + chunk.removeprefix(b"Exif\0\0")}


def _raw_exif(chunk: bytes) -> dict[str, bytes]:
    """EXIF as ImageMagick wrote it: compressed or plain text of a name, a length, and hexadecimal digits."""
    text = chunk.partition(b"\0")[2]
    if not text.startswith(b"\n"):  # 0 for zlib, then the data
        text = _inflated(text[1:], 3 * bounds.EXIF)
    try:
        exif = bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        raise _Damaged("it is no text of hexadecimal digits") from None
    return _exif(exif)


def _xmp(chunk: bytes) -> dict[str, bytes]:
    compressed, method, rest = *chunk[len(_XMP) + 1 :][:2].ljust(2, b"\1"), chunk[len(_XMP) + 3 :]
    text = rest.partition(b"\0")[2].partition(b"\0")[2]  # behind a language and a translated keyword
    if compressed and method:
        raise _Damaged("it is compressed by an unknown method")
    return {"xmp": _inflated(text, metadata.LARGEST_XMP) if compressed else text}


def _inflated(data: bytes, most: int) -> bytes:
    """Decompressed data. Raises _Damaged for what is cut off, and for more than ``most`` bytes."""
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, most + 1)
    except zlib.error as error:
        raise _Damaged(str(error)) from None
    if len(content) > most:
        raise _Damaged(f"it has more than {most / 2**20:.0f} MiB")
    if not stream.eof:
        raise _Damaged("it is cut off")
    return content


_WHAT = {b"iCCP": "colour profile", b"eXIf": "EXIF data", _RAW_EXIF[0]: "EXIF data", _XMP: "XMP"}


def _warn(name: str, kind: bytes, why: str) -> None:
    what = _WHAT.get(kind, f"chunk {kind.decode('latin-1')}")
    warnings.warn(f"{name}: its {what} is damaged or too large and was left out ({why})", stacklevel=6)
