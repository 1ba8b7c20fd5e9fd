"""What stands for pixels in a recipe: digests of pictures and of regions, and regions as a line of text."""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Any

import numpy as np

from photofound.picture.picture import Picture

_LONGEST_REGION = 12_000  # characters; a JPEG has room for 65,000 bytes of XMP
_COARSEST = 64  # pixels a cell


def digest(picture: Picture) -> str:
    """SHA-256 of a picture's size, depth, values and colour profile, as 64 hexadecimal digits. Other metadata and the
    file's format do not count: a PNG and a TIFF of the same pixels have the same digest."""
    pixels = _little_endian(picture.pixels)
    found = hashlib.sha256(f"photofound picture 1 {pixels.dtype.str} {pixels.shape}\n".encode())
    found.update(hashlib.sha256(picture.icc_profile or b"").digest())
    found.update(pixels.data)
    return found.hexdigest()


def region_digest(picture: Picture, region: np.ndarray) -> str:
    """SHA-256 of the values at the True pixels of ``region`` (H, W), row by row, as RGBA of the picture's own depth: a
    grey or opaque picture has the digest of its copy with more channels."""
    values = picture.pixels[region]
    colours = values[:, : 1 if picture.is_grey else 3]
    rgba = np.full((len(values), 4), picture.depth, picture.pixels.dtype)
    rgba[:, :3] = colours
    if picture.has_alpha:
        rgba[:, 3] = values[:, -1]
    return hashlib.sha256(_little_endian(rgba).data).hexdigest()


def _little_endian(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<"))


# ------------------------------------------------------------------------------------------------------------- regions


def pack_region(region: np.ndarray) -> dict[str, Any]:
    """A region (H, W) bool as JSON: ``cell``, the pixels a side of what one bit stands for, and ``bits``.

    A region whose outline is too long for a file's metadata is written in cells of 2, 4, ... pixels; a cell counts only
    if all of it does, so the region becomes smaller, never larger. ``unpack_region`` gives what was written.
    """
    cell = 1
    while True:
        bits = _packed(_in_cells(region, cell))
        if len(bits) <= _LONGEST_REGION or cell == _COARSEST:
            return {"cell": cell, "bits": bits if len(bits) <= _LONGEST_REGION else _packed(np.zeros_like(region))}
        cell *= 2


def unpack_region(packed: Any, size: tuple[int, int]) -> np.ndarray:
    """The region (H, W) bool for a picture of ``size`` (width, height). Raises ValueError for what is no region."""
    width, height = size
    try:
        cell, bits = packed["cell"], packed["bits"]
        assert isinstance(cell, int) and 1 <= cell <= _COARSEST and isinstance(bits, str)
        rows, columns = -(-height // cell), -(-width // cell)
        stride = -(-columns // 8)
        unzip = zlib.decompressobj()
        raw = unzip.decompress(
            base64.b64decode(bits, validate=True), rows * stride
        )  # a bound: the text comes from a stranger's file
        lines = np.frombuffer(raw, np.uint8).reshape(rows, stride)
    except (AssertionError, KeyError, TypeError, ValueError, zlib.error):
        raise ValueError("the recipe's region is damaged; compare without it, with --mask") from None
    cells = np.unpackbits(np.bitwise_xor.accumulate(lines, axis=0), axis=1, count=columns).astype(bool)
    return cells.repeat(cell, 0)[:height].repeat(cell, 1)[:, :width]


def _in_cells(region: np.ndarray, cell: int) -> np.ndarray:
    """Which cells lie in the region as a whole; at the right and lower edge they may be cut off."""
    height, width = region.shape
    padded = np.pad(region, ((0, -height % cell), (0, -width % cell)), constant_values=True)
    cells: np.ndarray = np.all(padded.reshape(padded.shape[0] // cell, cell, -1, cell), axis=(1, 3))
    return cells


def _packed(cells: np.ndarray) -> str:
    """Bits, each row as its difference from the row above, compressed."""
    lines = np.packbits(cells, axis=1)
    lines[1:] ^= lines[:-1].copy()
    return base64.b64encode(zlib.compress(lines.tobytes(), 9)).decode()
