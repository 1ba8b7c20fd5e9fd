"""ICC colour profiles of a matrix and tone curves, as nearly all photographs have them: parsed and applied in floats,
because Pillow converts in 8 bits, and built from the primaries that other kinds of files name.

Shapes: native values (H, W, C) uint16; colours (H, W, 3 or 1) float32 sRGB in [0, 1].
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_LARGEST = 500_000  # bytes; a larger profile is one of tables
_STEPS = 65536  # of a curve: one for each native value

D50 = np.array([0.9642, 1.0, 0.8249])  # the white of profiles
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

# x, y of white, red, green and blue, as in PNG's cHRM; and coding-independent code points (ITU-T H.273, table 2).
SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE_RGB = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
PRIMARIES = {
    1: SRGB,
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # DCI-P3
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # gamma, a, b, c, d of ICC's parametric type 3
_VIDEO_CURVE = (1 / 0.45, 1 / 1.0993, 0.0993 / 1.0993, 1 / 4.5, 0.0812)  # BT.709, BT.601 and BT.2020
CURVES: dict[int, tuple[float, ...]] = {
    **dict.fromkeys((1, 6, 14, 15), _VIDEO_CURVE),
    4: (2.2,),
    5: (2.8,),
    8: (1.0,),
    13: _SRGB_CURVE,
}


@dataclass(frozen=True, eq=False)
class Profile:
    """A parsed profile.

    Attributes:
        curves: (65536,) float32 each, linear light of every native value; one for grey, three for RGB.
        matrix: (3, 3) from the profile's linear RGB to that of sRGB; None for grey.
    """

    curves: tuple[np.ndarray, ...]
    matrix: np.ndarray | None

    def to_srgb(self, values: np.ndarray) -> np.ndarray:
        """Native values (H, W, C) uint16, one channel per curve, to sRGB (H, W, C), clipped to its gamut."""
        linear = np.stack([curve[values[..., i]] for i, curve in enumerate(self.curves)], axis=2)
        if self.matrix is not None:
            linear = linear @ self.matrix.T.astype(np.float32)
        return _from_linear(linear.clip(0, 1))

    def from_srgb(self, rgb: np.ndarray) -> np.ndarray:
        """sRGB (H, W, 3) to native values (H, W, 3 or 1) in [0, 1]: inverts ``to_srgb``."""
        linear = _to_linear(rgb.astype(np.float32))
        if self.matrix is None:
            linear = linear @ np.array([[0.2126], [0.7152], [0.0722]], np.float32)
        else:
            linear = linear @ np.linalg.inv(self.matrix).T.astype(np.float32)
        steps = np.linspace(0, 1, _STEPS)
        native = [np.interp(linear[..., i], curve, steps) for i, curve in enumerate(self.curves)]
        return np.stack(native, axis=2).astype(np.float32)


def _to_linear(x: np.ndarray) -> np.ndarray:
    """sRGB to linear light (IEC 61966-2-1)."""
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4).astype(x.dtype)


def _from_linear(x: np.ndarray) -> np.ndarray:
    return np.where(x <= 0.0031308, x * 12.92, 1.055 * x ** (1 / 2.4) - 0.055).astype(x.dtype)


@lru_cache(maxsize=8)
def parse(profile: bytes) -> Profile | None:
    """A profile in floats; None for a profile of tables, or one that cannot be read."""
    if len(profile) > _LARGEST:
        return None
    try:
        tags = _tags(profile)
        if any(name in tags for name in (b"A2B0", b"A2B1")):
            return None
        if profile[16:20] == b"GRAY":
            return Profile((_curve(tags[b"kTRC"]),), None)
        if profile[16:20] != b"RGB " or profile[20:24] != b"XYZ ":
            return None
        colorants = [struct.unpack(">3i", tags[name][8:20]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        matrix = np.linalg.inv(_to_d50(SRGB)) @ (np.array(colorants).T / 65536)
        np.linalg.inv(matrix)
        return Profile(tuple(_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")), matrix)
    except (KeyError, ValueError, struct.error, np.linalg.LinAlgError):
        return None


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack(">I", profile[128:132])
    tags = {}
    for i in range(min(count, 100)):
        name, start, size = struct.unpack(">4sII", profile[132 + 12 * i : 144 + 12 * i])
        tags[name] = profile[start : start + size]
    return tags


def _curve(tag: bytes) -> np.ndarray:
    """(65536,) float32, rising: linear light of every native value."""
    with np.errstate(all="ignore"):  # damaged curves are refused below
        y = _values(tag, np.linspace(0, 1, _STEPS))
    if not np.isfinite(y).all() or y[-1] <= y[0]:
        raise ValueError("a curve does not rise")
    return np.maximum.accumulate(y.clip(0, 1)).astype(np.float32)


def _values(tag: bytes, x: np.ndarray) -> np.ndarray:
    """A curve's values at ``x``."""
    if tag[:4] == b"curv":
        (count,) = struct.unpack(">I", tag[8:12])
        table = np.frombuffer(tag[12 : 12 + 2 * count], ">u2").astype(np.float64)
        if len(table) != count:
            raise ValueError("a curve is cut off")
        if count == 0:
            return x
        if count == 1:
            return x ** (table[0] / 256)
        return np.interp(x, np.linspace(0, 1, count), table / 65535)
    if tag[:4] == b"para":
        (kind,) = struct.unpack(">H", tag[8:10])
        if kind > 4:
            raise ValueError(f"a parametric curve of kind {kind}")
        numbers = struct.unpack_from(f">{(1, 3, 4, 5, 7)[kind]}i", tag, 12)
        return _parametric(x, kind, [number / 65536 for number in numbers])
    raise ValueError(f"a curve of type {tag[:4]!r}")


def _parametric(x: np.ndarray, kind: int, numbers: Sequence[float]) -> np.ndarray:
    """ICC.1:2022, table 68: five kinds with more and more of the numbers g, a, b, c, d, e, f."""
    g, a, b, c, d, e, f = [*numbers, *(1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)[len(numbers) :]]
    if kind in (1, 2):  # below the power function the curve is constant
        return np.where(x >= -b / a, np.maximum(a * x + b, 0) ** g, 0) + c
    power = np.maximum(a * x + b, 0) ** g + e
    return np.where(x >= d, power, c * x + f) if kind > 2 else power


# ------------------------------------------------------------------------------------------------------------ building


def _to_d50(primaries: Sequence[float]) -> np.ndarray:
    """(3, 3) from linear RGB of these primaries to XYZ as profiles have it, by way of Bradford's cone responses."""

    def xyz(x: float, y: float) -> np.ndarray:
        return np.array([x / y, 1.0, (1 - x - y) / y])

    white = xyz(*primaries[:2])
    matrix = np.stack([xyz(*primaries[i : i + 2]) for i in (2, 4, 6)], axis=1)
    matrix = matrix * np.linalg.solve(matrix, white)
    cones = (_BRADFORD @ D50) / (_BRADFORD @ white)
    adapted: np.ndarray = np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ matrix
    return adapted


def build(primaries: Sequence[float], curve: Sequence[float], name: str, grey: bool = False) -> bytes | None:
    """A profile's bytes; None if the primaries make no colour space.

    Args:
        primaries: x, y of white, red, green and blue.
        curve: gamma alone, or gamma, a, b, c, d: y = (a x + b)^gamma from d on, c x below.
        name: for readers, in ASCII.
        grey: a profile for grey pictures; then the primaries do not matter.
    """
    if not all(np.isfinite(primaries)) or min(primaries[1::2]) <= 0 or not 0.1 < curve[0] < 10:
        return None
    try:
        colorants = _to_d50(primaries)
        np.linalg.inv(colorants)
    except np.linalg.LinAlgError:
        return None
    if np.abs(colorants).max() > 100:
        return None
    tone = b"para" + bytes(4) + struct.pack(">HH", 0 if len(curve) == 1 else 3, 0) + _fixed(curve)
    return _written(None if grey else colorants, tone, name)


def in_colour(grey: bytes) -> bytes | None:
    """The profile for RGB that has the curve of a grey one, and sRGB's primaries: equal values are the same greys. None
    for a profile without a curve."""
    try:
        tone = _tags(grey)[b"kTRC"]
        _curve(tone)
    except (KeyError, ValueError, struct.error):
        return None
    return _written(_to_d50(SRGB), tone, "grey in colour")


def _written(colorants: np.ndarray | None, tone: bytes, name: str) -> bytes:
    """A profile's bytes: its colorants (3, 3), or None for grey; the tag of its curve; its name for readers."""
    tags = {b"desc": _text(name), b"cprt": _text("no copyright"), b"wtpt": b"XYZ " + bytes(4) + _fixed(D50)}
    if colorants is None:
        tags[b"kTRC"] = tone
    else:
        for i, channel in enumerate((b"r", b"g", b"b")):
            tags[channel + b"XYZ"] = b"XYZ " + bytes(4) + _fixed(colorants[:, i])
            tags[channel + b"TRC"] = tone
    table, data, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        value += bytes(-len(value) % 4)
        table += struct.pack(">4sII", tag, start + len(data), len(value))
        data += value
    space = b"GRAY" if colorants is None else b"RGB "
    header = struct.pack(">I4sI4s4s4s", start + len(data), bytes(4), 0x04300000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(D50) + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + data


def _fixed(numbers: Sequence[float] | np.ndarray) -> bytes:
    """ICC's numbers, in 65536ths."""
    return struct.pack(f">{len(numbers)}i", *(round(float(number) * 65536) for number in numbers))


def _text(text: str) -> bytes:
    return (
        b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 2 * len(text), 28) + text.encode("utf-16-be")
    )
