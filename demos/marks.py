"""Pictures and marks on their way to the browser and back, as data URLs: no photograph lies under an address."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from photofound import image

MOST_PIXELS = 4_000_000  # of marks that a browser sends


def marked(url: Any) -> np.ndarray | None:
    """The marks that the browser sent, (h, w) float32 in [0, 1], or None. Raises ValueError for what is no PNG."""
    if not url:
        return None
    start, _, data = str(url).partition(",")
    if start != "data:image/png;base64":
        raise ValueError("the marks are not a PNG; reload the page")
    return image.decode(base64.b64decode(data), "the marks", max_pixels=MOST_PIXELS).alpha()


class Marks:
    """Marks as a PNG in memory, for a history of them: some kilobytes in place of up to 16 MB.

    Args:
        mask: (h, w) float32 in [0, 1], in steps of 1/255 as a browser sends them.
    """

    def __init__(self, mask: np.ndarray) -> None:
        stream = io.BytesIO()
        Image.fromarray(np.rint(mask * 255).astype(np.uint8)).save(stream, "PNG")
        self.png = stream.getvalue()

    def mask(self) -> np.ndarray:
        with Image.open(io.BytesIO(self.png)) as opened:
            return np.asarray(opened).astype(np.float32) / np.float32(255)


def marks_url(mask: np.ndarray) -> str:
    """(h, w) in [0, 1] as a PNG that is as opaque as the mask is white."""
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[..., 3] = np.rint(mask * 255)
    return _url(layer, "PNG")


def picture_url(pixels: np.ndarray, quality: int = 90) -> str:
    """(h, w, 3) uint8 as a JPEG."""
    return _url(pixels, "JPEG", quality=quality)


def layer_url(pixels: np.ndarray, quality: int = 85) -> str:
    """(h, w, 4) uint8 as a WebP."""
    return _url(pixels, "WEBP", quality=quality, method=2)


def _url(pixels: np.ndarray, format: str, **options: Any) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
