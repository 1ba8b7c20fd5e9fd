"""What the demo shows of pictures: previews for the browser, and lines about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from photofound.edits.task import Job
from photofound.image import Picture

if TYPE_CHECKING:
    from photofound.demos.desk import Desk, Photo

PREVIEW = 1536  # longest side of what is shown, in pixels


def preview(picture: Picture, side: int = PREVIEW) -> np.ndarray:
    """A picture as the browser shows it: (h, w, 3) uint8 sRGB of at most ``side``, what is transparent chequered."""
    small = picture.resize(preview_size(picture.size, side))
    rgb, alpha = small.rgb(), small.alpha()
    return _bytes(rgb if alpha is None else _over_chequers(rgb, alpha))


def kept_preview(job: Job, side: int = PREVIEW) -> np.ndarray:
    """What comes back exactly, on chequers: (h, w, 3) uint8. For a job that keeps nothing as it is, all of it."""
    if not job.keep.any():
        return preview(job.picture, side)
    size = preview_size(job.picture.size, side)
    return _bytes(_over_chequers(job.picture.resize(size).rgb(), resized(job.keep, size)))


def size_line(desk: Desk, job: Job | None) -> str:
    """One line about a job: the size before and after, and how much is kept."""
    width, height = desk.photo.picture.size
    if job is None:
        return f"{width} × {height}"
    after = "" if job.picture.size == (width, height) else f" → {job.picture.width} × {job.picture.height}"
    share = float((job.keep == 1).mean())
    return f"{width} × {height}{after}" + (f" · {share:.0%} kept bit for bit" if share > 0 else "")


def file_line(photo: Photo) -> str:
    """One line about a photograph's file."""
    picture = photo.picture
    kind = {1: "grey", 2: "grey, alpha", 3: "RGB", 4: "RGB, alpha"}[picture.pixels.shape[2]]
    depth = 8 * picture.pixels.dtype.itemsize
    return f"{photo.name} · {picture.width} × {picture.height} · {picture.format or 'PNG'}, {depth} bit {kind}"


def preview_size(size: tuple[int, int], side: int = PREVIEW) -> tuple[int, int]:
    """(width, height) of at most ``side``, never enlarged."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) in [0, 1] at (width, height), as (height, width) float32."""
    import cv2

    mask = np.ascontiguousarray(mask, np.float32)
    if mask.shape[::-1] == tuple(size):
        return mask
    shrinks = size[0] < mask.shape[1]
    return cv2.resize(mask, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _over_chequers(rgb: np.ndarray, alpha: np.ndarray, square: int = 12) -> np.ndarray:
    rows, columns = (np.arange(side) // square for side in alpha.shape)
    ground = np.where((rows[:, None] + columns) % 2, 0.80, 0.92)[..., None]
    return rgb * alpha[..., None] + ground * (1 - alpha[..., None])


def _bytes(rgb: np.ndarray) -> np.ndarray:
    return np.rint(rgb.clip(0, 1) * 255).astype(np.uint8)
