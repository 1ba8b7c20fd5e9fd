"""Layers as a Photoshop file, in 8 or 16 bits, with the flat picture: the smallest part of Adobe's "Photoshop file
formats specification" that holds them.

psd-tools, which reads such files, writes layers through Pillow, so in 8 bits alone, and composes the flat picture anew.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

from photofound.picture.layers import Layer
from photofound.picture.openraster import bounds
from photofound.picture.picture import Picture

LARGEST = 30_000  # pixels of a side
_RAW, _ZIP = 0, 2  # compressions
_RGB = 3  # colour mode
_RESOLUTION, _PROFILE = 1005, 1039  # image resources
_HIDDEN = 0x02  # flag of a layer


def encode(found: Sequence[Layer], flat: Picture) -> bytes:
    """The bytes of the file. Raises ValueError for a picture that is too large for the format."""
    if max(flat.size) > LARGEST:
        raise ValueError(
            f"layers: PSD holds {LARGEST} pixels a side, the picture is {flat.width}x{flat.height}; use .ora"
        )
    depth = 8 if flat.depth == 255 else 16
    flat = flat.in_colour()
    planes = flat.pixels.shape[2]
    header = struct.pack(">4sH6xHIIHH", b"8BPS", 1, planes, flat.height, flat.width, depth, _RGB)
    # A negative count says that the first plane beyond the colours is the flat picture's transparency.
    layers = _layers(found, -len(found) if planes == 4 else len(found))
    if depth == 8:
        section = _sized(layers, 2) + struct.pack(">I", 0)
    else:  # layers of 16 bits stand in a block of their own
        section = struct.pack(">II", 0, 0) + b"8BIMLr16" + _sized(layers, 4)
    merged = struct.pack(">H", _RAW) + _big_endian(flat.pixels.transpose(2, 0, 1))
    data = header + _sized(b"") + _sized(_resources(flat)) + _sized(section) + merged
    if len(data) >= 2**31:
        raise ValueError("layers: PSD holds 2 GiB, and these layers need more; use .ora")
    return data


def _layers(found: Sequence[Layer], count: int) -> bytes:
    """The section "Layer info": records from the bottom to the top, then their channels."""
    records, channels = [], []
    for layer in found:
        left, top, right, bottom = bounds(layer.picture)
        part = layer.picture.pixels[top:bottom, left:right]
        data = [struct.pack(">H", _ZIP) + zlib.compress(_big_endian(part[..., i]), 6) for i in (3, 0, 1, 2)]
        record = struct.pack(">4iH", top, left, bottom, right, len(data))
        for number, channel in zip((-1, 0, 1, 2), data, strict=True):
            record += struct.pack(">hI", number, len(channel))
        record += b"8BIMnorm" + struct.pack(">BBBx", 255, 0, 0 if layer.visible else _HIDDEN)
        name = layer.name.encode("ascii", "replace")[:255]
        short = bytes([len(name)]) + name
        wide = layer.name.encode("utf-16-be")
        long_name = b"8BIMluni" + _sized(struct.pack(">I", len(wide) // 2) + wide, 4)
        records.append(record + _sized(struct.pack(">II", 0, 0) + short + bytes(-len(short) % 4) + long_name))
        channels += data
    return struct.pack(">h", count) + b"".join(records) + b"".join(channels)


def _resources(flat: Picture) -> bytes:
    """Resolution and colour profile, where the picture has them."""
    found = b""
    if flat.dpi is not None:
        across, down = (round(dots * 65536) for dots in flat.dpi)
        found += _resource(_RESOLUTION, struct.pack(">IHHIHH", across, 1, 1, down, 1, 1))
    return found + (_resource(_PROFILE, flat.icc_profile) if flat.icc_profile else b"")


def _resource(number: int, data: bytes) -> bytes:
    return b"8BIM" + struct.pack(">H2xI", number, len(data)) + data + bytes(len(data) % 2)


def _sized(data: bytes, multiple: int = 1) -> bytes:
    """Behind its length, padded to a multiple, which the length includes."""
    data += bytes(-len(data) % multiple)
    return struct.pack(">I", len(data)) + data


def _big_endian(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values).astype(values.dtype.newbyteorder(">")).tobytes()
