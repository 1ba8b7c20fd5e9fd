"""Where a photograph was taken: found in a file, and taken out of it. Nothing else in the file changes, and it is not
compressed again."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator

from PIL import Image

from photofound.picture.metadata import EXIF_ERRORS, GPS

_TIFF = re.compile(rb"II\*\0|MM\0\*")  # how EXIF begins, in whatever container it lies
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes of EXIF's types
_PACKET = re.compile(rb"<x:xmpmeta\b.*?</x:xmpmeta>|<rdf:RDF\b.*?</rdf:RDF>", re.S)
_PLACE = rb"[\w.-]+:(?:GPS\w*|\w*(?:Latitude|Longitude|Altitude|Location)\w*)"
_PROPERTY = re.compile(
    rb"<(" + _PLACE + rb")\b[^>]*?(?:/>|>.*?</\1\s*>)|\s" + _PLACE + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')", re.S
)
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"eXIf")  # chunks in which a PNG may hide EXIF or XMP, packed or as hex


def without_place(file: bytes) -> bytes:
    """The same file without GPS in EXIF and without the properties of XMP that name a place; the very same bytes where
    there are none.

    Raises ValueError where a place is named in a way that cannot be taken out.
    """
    if not names_place(file):
        return file
    cleaned = bytearray(file)
    for match in _TIFF.finditer(file):
        _wipe_gps(cleaned, match.start())
    for packet in _PACKET.finditer(file):
        for found in _PROPERTY.finditer(file, *packet.span()):
            cleaned[found.start() : found.end()] = b" " * (found.end() - found.start())
    made = bytes(cleaned)
    if file.startswith(_PNG):
        made = b"".join(_png_chunks(made))
        if names_place(made):
            made = b"".join(_png_chunks(made, without=_PNG_TEXT))
    if names_place(made):
        raise ValueError("names the place where it was taken, in a way that cannot be taken out; convert it before")
    return made


def names_place(file: bytes) -> bool:
    """Whether a file's EXIF or XMP names a place, as far as they can be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(file)) as image:
                xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
                if image.getexif().get_ifd(GPS):
                    return True
        except EXIF_ERRORS:
            return False
    packet = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    return any(_PROPERTY.search(file, *found.span()) for found in _PACKET.finditer(file)) or bool(
        _PROPERTY.search(packet)
    )


def _wipe_gps(file: bytearray, start: int) -> None:
    """Empty the GPS folder of the EXIF that begins at ``start``, and drop its entry; nothing if there is none."""
    order = "<" if file[start : start + 1] == b"I" else ">"

    def number(offset: int, kind: str) -> int:
        return int(struct.unpack_from(order + kind, file, start + offset)[0])

    try:
        folder = number(4, "I")
        count = number(folder, "H")
        entries = [folder + 2 + 12 * i for i in range(count)]
        if not 0 < count <= 512 or any(number(entry + 2, "H") not in _SIZES for entry in entries):
            return
        index = next((i for i, entry in enumerate(entries) if number(entry, "H") == GPS), None)
        if index is None:
            return
        gps = number(entries[index] + 8, "I")
        inside = number(gps, "H")
        if inside > 512:
            return
        for entry in (gps + 2 + 12 * i for i in range(inside)):
            size = _SIZES.get(number(entry + 2, "H"), 0) * number(entry + 4, "I")
            value = number(entry + 8, "I")
            if 4 < size <= 2**16 and start + value + size <= len(file):
                file[start + value : start + value + size] = bytes(size)
        file[start + gps : start + gps + 2 + 12 * inside] = bytes(2 + 12 * inside)
        after = start + entries[-1] + 12 + 4  # the offset of the next folder stands behind the entries
        kept = file[start + entries[index] + 12 : after]
        file[start + entries[index] : after] = kept + bytes(12)
        struct.pack_into(order + "H", file, start + folder, count - 1)
    except (struct.error, IndexError):  # it only looked like EXIF, or it is cut off
        return


def _png_chunks(file: bytes, without: tuple[bytes, ...] = ()) -> Iterator[bytes]:
    """The parts of a PNG with right checksums, without some kinds of chunks."""
    yield _PNG
    position = len(_PNG)
    while position + 12 <= len(file):
        size = int.from_bytes(file[position : position + 4])
        body = file[position + 4 : position + 8 + size]
        if body[:4] not in without:
            yield size.to_bytes(4) + body + zlib.crc32(body).to_bytes(4)
        position += 12 + size
