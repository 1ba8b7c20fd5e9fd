"""What a notebook shows of a picture: a PNG that is no larger than a page."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

_SIDE = 1024  # pixels of the longest side
_GAP = 8  # pixels between two pictures


def png(*pictures: tuple[np.ndarray, np.ndarray | None]) -> bytes:
    """Pictures beside each other, (H, W, 3) sRGB and (H, W) alpha in [0, 1], each as high as the lowest of them."""
    import cv2

    low = min(rgb.shape[0] for rgb, _ in pictures)
    wide = sum(rgb.shape[1] * low / rgb.shape[0] for rgb, _ in pictures) + _GAP * (len(pictures) - 1)
    scale = min(1.0, _SIDE / max(low, wide))
    height = max(1, round(low * scale))
    shown = []
    for rgb, alpha in pictures:
        opacity = np.ones(rgb.shape[:2], np.float32) if alpha is None else alpha
        layers = np.dstack([rgb * opacity[..., None], opacity]).astype(np.float32)
        size = max(1, round(rgb.shape[1] * low / rgb.shape[0] * scale)), height
        small = cv2.resize(layers, size, interpolation=cv2.INTER_AREA).reshape(height, size[0], 4)
        small[..., :3] /= np.maximum(small[..., 3:], 1e-6)  # what is transparent has not run into its neighbours
        shown += [small, np.zeros((height, _GAP, 4), np.float32)]
    sheet = np.concatenate(shown[:-1], axis=1).clip(0, 1)
    opaque = all(alpha is None for _, alpha in pictures) and len(pictures) == 1
    stream = io.BytesIO()
    Image.fromarray(np.rint(sheet[..., : 3 if opaque else 4] * 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()
