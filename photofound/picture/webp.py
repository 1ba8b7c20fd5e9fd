"""Plain lossy WebP files, most of a training set's: read without Pillow, whose decoder of animations takes longer.

Plain means that a file has no alpha, animation, profile or metadata: its only chunk is ``VP8``.
"""

from __future__ import annotations

import numpy as np


def plain_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a whole file that is plain, from its header; None for any other file."""
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8 " or data[23:26] != b"\x9d\x01\x2a":
        return None
    if not int.from_bytes(data[16:20], "little") + 12 <= int.from_bytes(data[4:8], "little") <= len(data) - 8:
        return None
    width, height = (int.from_bytes(data[place : place + 2], "little") & 0x3FFF for place in (26, 28))
    return (width, height) if width and height else None


def plain_pixels(data: bytes) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB of a file that is plain, the same pixels as Pillow's; None for any other and for a damaged
    one."""
    import cv2

    if (size := plain_size(data)) is None:
        return None
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    if pixels is None or pixels.shape != (size[1], size[0], 3):
        return None
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
