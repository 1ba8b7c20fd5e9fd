"""What a file's XMP says of bytes that are not written again: gain maps, the videos of motion photos, depth maps,
previews, further XMP. An edit changes the photograph and drops these, and a mark without them misleads who reads it."""

from __future__ import annotations

import re
import warnings
from xml.dom import minidom
from xml.parsers.expat import ExpatError

from photofound.errors import first_line

_ALL = r".*"
# Namespaces, and which of their properties go.
_GONE = {
    r"http://ns\.adobe\.com/hdr-gain-map/.*": _ALL,
    r"http://ns\.apple\.com/(HDRGainMap|pixeldatainfo|depthData|depthBlurEffect|PortraitLighting\w*)/.*": _ALL,
    r"http://ns\.google\.com/photos/1\.0/container/.*": _ALL,
    r"http://ns\.google\.com/photos/dd/1\.0/.*": _ALL,
    r"http://ns\.google\.com/photos/1\.0/(depthmap|image|audio)/": _ALL,
    r"http://ns\.google\.com/photos/1\.0/camera/": r"(MotionPhoto|MicroVideo|hdrp|HdrPlus|shot_log).*",
    r"http://ns\.(oplus|oppo|xiaomi|vivo|honor|huawei)\.com/photos/1\.0/camera/": _ALL,  # videos and depth, by offset
    r"http://purl\.org/dc/terms/": r"provenance",  # of a signature that is no longer this file's
    r"http://ns\.adobe\.com/xmp/note/": r"HasExtendedXMP",
    r"http://ns\.adobe\.com/xap/1\.0/": r"Thumbnails",
    r"http://ns\.adobe\.com/photoshop/1\.0/": r"(LegacyIPTCDigest|DocumentAncestors)",
    r"http://ns\.adobe\.com/tiff/1\.0/": r"(ImageWidth|ImageLength|NativeDigest)",
    r"http://ns\.adobe\.com/exif/1\.0/": r"(PixelXDimension|PixelYDimension|NativeDigest)",
}
# What names places in the picture by its size.
_OF_SIZE = {
    r"http://ns\.google\.com/photos/1\.0/panorama/": _ALL,
    r"http://www\.metadataworkinggroup\.com/schemas/regions/": r"Regions",
    r"http://ns\.microsoft\.com/photo/1\.2/": r"RegionInfo",
    r"http://ns\.apple\.com/faceinfo/.*": _ALL,
    r"http://ns\.adobe\.com/exif/1\.0/": r"Subject(Area|Location)|FocalPlane.*",
    r"http://ns\.adobe\.com/camera-raw-settings/1\.0/": r"(Has)?Crop.*",
}
_HINTS = re.compile(
    rb"hdr-gain-map|ns\.apple\.com|/photos/1\.0/|/photos/dd/|provenance|HasExtendedXMP|Thumbnails|LegacyIPTCDigest|DocumentAncestors|"
    rb"ImageWidth|ImageLength|Pixel[XY]Dimension|NativeDigest|schemas/regions|RegionInfo|"
    rb"Subject(Area|Location)|FocalPlane|Crop"
)


def pruned(xmp: bytes | None, of_size: bool = False) -> bytes | None:
    """XMP (UTF-8) without what is no longer true; None, with a warning, where that cannot be told from the rest.

    Args:
        of_size: whether its size changed, or it was turned, so that what names places in it goes.
    """
    if not xmp or not _HINTS.search(xmp):
        return xmp
    try:
        if b"<!DOCTYPE" in xmp or b"<!ENTITY" in xmp:
            raise ValueError("it declares entities")
        document = minidom.parseString(xmp)
        if not _prune(document, _OF_SIZE if of_size else _GONE):
            return xmp
        return "".join(node.toxml() for node in document.childNodes).encode("utf-8")
    except (ExpatError, ValueError, RecursionError) as error:
        reason = first_line(error)
        warnings.warn(f"the XMP names data that are not kept, cannot be read and was left out ({reason})", stacklevel=3)
        return None


def _prune(document: minidom.Document, unwanted: dict[str, str]) -> bool:
    """Remove properties, wherever they are; whether there were any."""

    def goes(space: str | None, name: str | None) -> bool:
        rules = unwanted.items()
        return any(re.fullmatch(where, space or "") and re.fullmatch(what, name or "") for where, what in rules)

    def is_unused(attribute: minidom.Attr) -> bool:
        """Whether it declares a namespace of which nothing stays."""
        gone = any(what == _ALL and re.fullmatch(where, attribute.value) for where, what in unwanted.items())
        return gone and attribute.name.startswith("xmlns:")

    found = False
    for element in list(document.getElementsByTagName("*")):
        for attribute in list(element.attributes.values()):
            if goes(attribute.namespaceURI, attribute.localName) or is_unused(attribute):
                element.removeAttributeNode(attribute)
                found = True
        if element.parentNode is not None and goes(element.namespaceURI, element.localName):
            element.parentNode.removeChild(element)
            found = True
    return found
