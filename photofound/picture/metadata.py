"""EXIF, XMP and resolution: what is read, what stays true after an edit, and what names a place.

An edit changes the photograph and writes no previews, gain maps, depth maps or videos again. Metadata that describe
these, or pixels at places where they no longer are, would mislead a reader, and are dropped.
"""

from __future__ import annotations

import codecs
import math
import re
import struct
import warnings
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import Any
from xml.dom import minidom
from xml.parsers import expat

from PIL import Image

from photofound.errors import first_line
from photofound.picture import bounds

# ------------------------------------------------------------------------------------------- orientation and resolution


def orientation(image: Image.Image) -> int:
    """1 to 8, by EXIF, else by XMP, where Pillow misses some encodings and spellings."""
    found = image.getexif().get(0x0112)
    packet = image.info.get("xmp") or b""
    if found is None and image.format in ("JPEG", "MPO", "PNG", "WEBP") and len(packet) <= LARGEST_XMP:
        with suppress(UnicodeError):
            text = packet if isinstance(packet, str) else _xmp_text(bytes(packet))
            match = re.search(r"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])", text)
            found = int(match[1]) if match else None
    return 1 if found is None else found


def dpi(value: Any) -> tuple[float, float] | None:
    """Pillow's resolution as (x, y) dots per inch; None where it is missing or makes no sense."""
    try:
        x, y = float(value[0]), float(value[1])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    return (x, y) if math.isfinite(x) and math.isfinite(y) and 0 < x < 1e6 and 0 < y < 1e6 else None


# ---------------------------------------------------------------------------------------------------------------- EXIF

# IFD0 tags that describe the photograph; the others describe how one file lays out its bytes (TIFF) or are private.
_EXIF_TAGS = (270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 316, 18246, 33432, 40091, 40092, 40093, 40094, 40095)
_EXIF, GPS = 0x8769, 0x8825  # folders
# The folders that are kept, and which of their tags are not: pixel sizes (they change), offsets, and the maker's note,
# which names previews, videos and places of bytes by where they lay in the file.
_EXIF_FOLDERS = {_EXIF: (0xA002, 0xA003, 0xA005, 0x927C), GPS: ()}
EXIF_PLACES = (0x9214, 0xA214, 0xA20E, 0xA20F, 0xA210)
"""Tags of the folder Exif that name places by pixels: the subject's, and how many pixels the sensor has per cm."""
EXIF_ERRORS = (OSError, SyntaxError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, struct.error)
"""What Pillow raises on damaged EXIF data."""


def drop_bad_exif(image: Image.Image, name: str) -> None:
    """Remove EXIF data that cannot be read, or would take long to read, from a PIL image, with a warning."""
    exif = image.info.get("exif")
    if not exif:
        return
    try:
        bounds.check_exif(exif)
        Image.Exif().load(exif)
    except EXIF_ERRORS as error:
        warnings.warn(f"{name}: its EXIF data is damaged and was left out ({first_line(error)})", stacklevel=6)
        image.info["exif"] = b""


def exif_bytes(exif: Image.Exif, name: str) -> bytes | None:
    """The describing part of EXIF as bytes ("Exif" header included), orientation 1; None if there is nothing."""
    try:
        kept = Image.Exif()
        for tag in _EXIF_TAGS:
            if tag in exif:
                kept[tag] = 1 if tag == 0x0112 else exif[tag]
        for folder, left_out in _EXIF_FOLDERS.items():
            entries = {tag: value for tag, value in exif.get_ifd(folder).items() if tag not in left_out}
            if entries:
                kept.get_ifd(folder).update(entries)
                kept[folder] = 0  # Pillow writes a folder only if its tag is there, and fills in the offset
        return kept.tobytes() if len(kept) else None
    except EXIF_ERRORS as error:  # camera makers write anything, and a broken note must not cost the picture
        warnings.warn(f"{name}: its EXIF data is damaged and was left out ({first_line(error)})", stacklevel=6)
        return None


def exif_without(exif: bytes | None, tags: Iterable[int]) -> bytes | None:
    """EXIF without some tags of its folder Exif; a folder among ``tags`` goes as a whole."""
    if exif is None:
        return None
    parsed = Image.Exif()
    parsed.load(exif)
    for tag in tags:
        parsed.get_ifd(_EXIF).pop(tag, None)
        parsed.pop(tag, None)
    return exif_bytes(parsed, "image")


def exif_entries(exif: bytes | None) -> dict[int, Any]:
    """EXIF bytes as {tag: value}, with the folders Exif and GPS as dictionaries."""
    parsed = Image.Exif()
    parsed.load(exif or b"")
    folders = {folder: dict(parsed.get_ifd(folder)) for folder in _EXIF_FOLDERS if folder in parsed}
    return {tag: parsed[tag] for tag in parsed if tag not in _EXIF_FOLDERS} | folders


# ----------------------------------------------------------------------------------------------------------------- XMP

LARGEST_XMP = 4 * 2**20
"""Bytes. A history of years has some hundred kilobytes."""
_LONGEST_XMP = 2**15  # elements, attributes and comments, where years of edits leave some thousand
_DEEPEST_XMP = 64  # elements within elements; what editors write has less than twenty
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>)\s*)[2-8]")
_XMP_ENCODING = re.compile(r"^(\s*<\?xml[^>]*?)\s+encoding\s*=\s*([\"'])[^\"'>]*\2")
_XMP_STARTS = (  # a byte order mark, or a "<", says which encoding it is
    *((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"), (b"<\0\0\0", "utf-32-le")),
    *((b"\0\0\0<", "utf-32-be"), (b"<\0", "utf-16-le"), (b"\0<", "utf-16-be")),
)


def xmp_bytes(xmp: Any, name: str) -> bytes | None:
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
    """XMP may be UTF-8, UTF-16 or UTF-32 (ISO 16684-1, 7.3.1)."""
    for start, encoding in _XMP_STARTS:
        if xmp.startswith(start):
            return _XMP_ENCODING.sub(r"\1", xmp.decode(encoding).rstrip("\0"))
    return xmp.rstrip(b"\0").decode("utf-8")


def check_xmp(xmp: bytes) -> None:
    """Refuse XMP that would take long to read or has no business in a file: larger than 4 MiB, more than 32,768
    elements and attributes, elements more than 64 deep, declarations of entities. Raises ValueError. Bytes that are not
    XML pass, because nothing reads them."""
    if len(xmp) > LARGEST_XMP:
        raise ValueError(f"it has {len(xmp) / 2**20:.0f} MiB, more than {LARGEST_XMP / 2**20:.0f}")
    count, depth, parser = 0, 0, expat.ParserCreate()

    def counted(*_: Any, more: int = 0) -> None:
        nonlocal count
        count += 1 + more
        if count > _LONGEST_XMP:
            raise ValueError(f"it has more than {_LONGEST_XMP} elements and attributes")

    def start(_: str, attributes: list[str]) -> None:
        nonlocal depth
        depth += 1
        counted(more=len(attributes) // 2)
        if depth > _DEEPEST_XMP:
            raise ValueError(f"its elements are nested more than {_DEEPEST_XMP} deep")

    def end(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    def declared(*_: Any) -> None:
        raise ValueError("it declares entities")

    parser.ordered_attributes = True
    parser.StartElementHandler, parser.EndElementHandler, parser.StartDoctypeDeclHandler = start, end, declared
    parser.CommentHandler = parser.ProcessingInstructionHandler = parser.StartCdataSectionHandler = counted
    with suppress(expat.ExpatError):
        parser.Parse(xmp, True)


_NAMES_PLACE = re.compile("gps|latitude|longitude|altitude|location|^(city|state|provincestate|country(code)?)$", re.I)


def xmp_without_location(xmp: bytes | None) -> bytes | None:
    """XMP without the properties that name a place, whatever their namespace, the same bytes if there are none; None
    where it is no clean XML."""
    if not xmp:
        return None
    try:
        check_xmp(xmp)
        if b"<!" in xmp:
            raise ValueError("comments and declarations may name it, too")
        document, found = minidom.parseString(xmp), False
        for element in document.getElementsByTagName("*"):
            for name in [n for n in element.attributes.keys() if _NAMES_PLACE.search(n.rpartition(":")[2])]:
                element.removeAttribute(name)
                found = True
            if element.parentNode and _NAMES_PLACE.search(element.tagName.rpartition(":")[2]):
                element.parentNode.removeChild(element)
                found = True
        return _to_bytes(document) if found else xmp
    except (expat.ExpatError, ValueError) as error:
        warnings.warn(f"the XMP cannot be searched for places and was left out ({first_line(error)})", stacklevel=3)
        return None


def _to_bytes(document: minidom.Document) -> bytes:
    return "".join(node.toxml() for node in document.childNodes).encode("utf-8")


# --------------------------------------------------------------------------------------- XMP that is no longer true

_ALL = r".*"
# Namespace -> the properties that describe bytes of the file which are not written again: gain maps, videos of motion
# photos, depth maps, previews, further XMP.
_OF_OTHER_DATA = {
    r"http://ns\.adobe\.com/hdr-gain-map/.*": _ALL,
    r"http://ns\.apple\.com/(HDRGainMap|pixeldatainfo|depthData|depthBlurEffect|PortraitLighting\w*)/.*": _ALL,
    r"http://ns\.google\.com/photos/1\.0/container/.*": _ALL,
    r"http://ns\.google\.com/photos/dd/1\.0/.*": _ALL,
    r"http://ns\.google\.com/photos/1\.0/(depthmap|image|audio|focus)/": _ALL,
    r"http://ns\.google\.com/photos/1\.0/camera/": r"(MotionPhoto|MicroVideo|hdrp|HdrPlus|shot_log).*",
    r"http://ns\.(oplus|oppo|xiaomi|vivo|honor|huawei)\.com/photos/1\.0/camera/": _ALL,  # videos and depth, by offset
    r"http://purl\.org/dc/terms/": r"provenance",  # of a signature that is no longer this file's
    r"http://ns\.adobe\.com/xmp/note/": r"HasExtendedXMP",
    r"http://ns\.adobe\.com/xap/1\.0/": r"Thumbnails",
    r"http://ns\.adobe\.com/photoshop/1\.0/": r"(LegacyIPTCDigest|DocumentAncestors)",
    r"http://ns\.adobe\.com/tiff/1\.0/": r"(ImageWidth|ImageLength|NativeDigest)",
    r"http://ns\.adobe\.com/exif/1\.0/": r"(PixelXDimension|PixelYDimension|NativeDigest)",
}
# Namespace -> the properties that name places in the picture by its pixels.
_OF_PLACES = {
    r"http://ns\.google\.com/photos/1\.0/panorama/": _ALL,
    r"http://www\.metadataworkinggroup\.com/schemas/regions/": r"Regions",
    r"http://ns\.microsoft\.com/photo/1\.2/": r"RegionInfo",
    r"http://ns\.apple\.com/faceinfo/.*": _ALL,
    r"http://iptc\.org/std/Iptc4xmpExt/2008-02-29/": r"ImageRegion",
    r"http://ns\.adobe\.com/exif/1\.0/": r"Subject(Area|Location)|FocalPlane.*",
    r"http://ns\.adobe\.com/camera-raw-settings/1\.0/": r"(Has)?Crop.*",
}
_HINTS = re.compile(  # XMP without any of these is not parsed
    rb"hdr-gain-map|ns\.apple\.com|/photos/1\.0/|/photos/dd/|provenance|HasExtendedXMP|Thumbnails|LegacyIPTCDigest|"
    rb"DocumentAncestors|ImageWidth|ImageLength|Pixel[XY]Dimension|NativeDigest|schemas/regions|RegionInfo|ImageRegion|"
    rb"Subject(Area|Location)|FocalPlane|Crop"
)


def without_stale(xmp: bytes | None, moved: bool = False) -> bytes | None:
    """XMP (UTF-8) without what is no longer true of the file that will be written.

    Args:
        moved: drop what names places by pixels, because pixels have moved (a new size, turned upright). By default drop
            what describes other data of the old file.

    Returns None, with a warning, where the XMP cannot be parsed.
    """
    if not xmp or not _HINTS.search(xmp):
        return xmp
    try:
        if b"<!DOCTYPE" in xmp or b"<!ENTITY" in xmp:
            raise ValueError("it declares entities")
        document = minidom.parseString(xmp)
        return _to_bytes(document) if _remove(document, _OF_PLACES if moved else _OF_OTHER_DATA) else xmp
    except (expat.ExpatError, ValueError, RecursionError) as error:
        reason = first_line(error)
        warnings.warn(f"the XMP names data that are not kept, cannot be read and was left out ({reason})", stacklevel=3)
        return None


def _remove(document: minidom.Document, unwanted: dict[str, str]) -> bool:
    """Remove properties, wherever they are. Returns whether there were any."""

    @cache  # of thousands of elements, most have the same few names
    def is_unwanted(space: str | None, name: str | None) -> bool:
        rules = unwanted.items()
        return any(re.fullmatch(where, space or "") and re.fullmatch(what, name or "") for where, what in rules)

    def is_unused(attribute: minidom.Attr) -> bool:
        """Whether it declares a namespace that loses all of its properties."""
        gone = any(what == _ALL and re.fullmatch(where, attribute.value) for where, what in unwanted.items())
        return gone and attribute.name.startswith("xmlns:")

    found = False
    for element in list(document.getElementsByTagName("*")):
        for attribute in list(element.attributes.values()):
            if is_unwanted(attribute.namespaceURI, attribute.localName) or is_unused(attribute):
                element.removeAttributeNode(attribute)
                found = True
        if element.parentNode is not None and is_unwanted(element.namespaceURI, element.localName):
            element.parentNode.removeChild(element)
            found = True
    return found
