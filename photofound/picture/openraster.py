"""Layers as an OpenRaster file, which GIMP, Krita and MyPaint open: a zip of PNGs and a list of them
(https://www.openraster.org, version 0.0.3)."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

import numpy as np

from photofound.picture import encode as encoding
from photofound.picture.layers import Layer
from photofound.picture.picture import Picture

_THUMBNAIL = 256  # long side, at most
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same layers are the same bytes


def encode(found: Sequence[Layer], flat: Picture) -> bytes:
    """The bytes of the file. Each layer is stored without its empty border."""
    stream = io.BytesIO()
    entries = []
    with zipfile.ZipFile(stream, "w") as archive:
        _add(archive, "mimetype", b"image/openraster")
        for number, layer in enumerate(found):
            left, top, right, bottom = bounds(layer.picture)
            name = f"data/{number:03}.png"
            part = dataclasses.replace(layer.picture.crop((left, top, right, bottom)), exif=None, xmp=None)
            _add(archive, name, encoding.encode(part, "PNG"))  # the flat picture has the metadata
            shown = "visible" if layer.visible else "hidden"
            entries.append(
                f'<layer name={quoteattr(layer.name)} src="{name}" x="{left}" y="{top}" opacity="1.0" '
                f'visibility="{shown}" composite-op="svg:src-over"/>'
            )
        size = f'w="{flat.width}" h="{flat.height}"'
        dots = "" if flat.dpi is None else f' xres="{round(flat.dpi[0])}" yres="{round(flat.dpi[1])}"'
        stack = "".join(reversed(entries))  # the topmost comes first
        xml = (
            f'<?xml version="1.0" encoding="UTF-8"?><image version="0.0.3" {size}{dots}><stack>{stack}</stack></image>'
        )
        _add(archive, "stack.xml", xml.encode("utf-8"))
        _add(archive, "mergedimage.png", encoding.encode(flat, "PNG"))
        scale = min(1.0, _THUMBNAIL / max(flat.size))
        small = flat.resize((max(1, round(flat.width * scale)), max(1, round(flat.height * scale))))
        _add(archive, "Thumbnails/thumbnail.png", encoding.encode(small, "PNG"))
    return stream.getvalue()


def bounds(picture: Picture) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of what a layer shows; one pixel where it shows nothing."""
    seen = picture.pixels[..., 3] > 0
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    if not len(rows):
        return 0, 0, 1, 1
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Stored, since PNGs are compressed already, and the first entry must be plain."""
    archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
