"""What the demo shows of pictures: previews for the browser, and lines about them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from photofound.edits.geometry import bounding_box
from photofound.edits.packshot import Shot, layers
from photofound.edits.task import Job
from photofound.image import Picture
from photofound.picture.layers import flatten

if TYPE_CHECKING:
    from photofound.demos.desk import Desk, Photo

LOOK = 768  # longest side of what is shown while a subject is placed
PREVIEW = 1536  # longest side of what is shown, in pixels


def preview(picture: Picture, side: int = PREVIEW) -> np.ndarray:
    """A picture as the browser shows it: (h, w, 3) uint8 sRGB of at most ``side``, what is transparent chequered."""
    small = picture.resize(preview_size(picture.size, side))
    rgb, alpha = small.rgb(), small.alpha()
    return _bytes(rgb if alpha is None else _over_chequers(rgb, alpha))


def kept_preview(job: Job, side: int = PREVIEW) -> np.ndarray:
    """What comes back exactly, on chequers: (h, w, 3) uint8. For a job that keeps nothing as it is, all of it."""
    if not job.keep.any() or job.at is None:
        return preview(job.picture, side)
    size = preview_size(job.picture.size, side)
    return _bytes(_over_chequers(job.picture.resize(size).rgb(), resized(job.keep, size)))


def looked_at(shot: Shot, side: int = LOOK) -> tuple[np.ndarray, np.ndarray | None]:
    """A packshot at a glance, and its background alone, which is None where it is transparent: (h, w, 3) uint8 of at
    most ``side``. It is made small, so that it takes a tenth of a second whatever the canvas."""
    scale = min(1.0, side / max(shot.picture.size))
    if scale < 1:
        alpha = np.rint(shot.keep * shot.picture.depth).astype(shot.picture.pixels.dtype)
        both = dataclasses.replace(shot.picture, pixels=np.dstack([shot.picture.colours, alpha]))
        small = both.resize(preview_size(shot.picture.size, side))
        matte = small.alpha()
        assert matte is not None
        picture = dataclasses.replace(small, pixels=small.colours)
        x, y = shot.placed.origin
        placed = dataclasses.replace(
            shot.placed, picture=picture, matte=matte, scale=shot.placed.scale * scale, origin=(x * scale, y * scale)
        )
        hole = (matte < 1).astype(np.float32)
        shot = dataclasses.replace(shot, picture=picture, keep=matte, hole=hole, placed=placed)
    found = layers(shot)
    ground = None if shot.background is not None and shot.background.kind == "transparent" else found[0].picture
    return preview(flatten(found), side), None if ground is None else preview(ground, side)


def subject_alone(shot: Shot, side: int = LOOK) -> tuple[np.ndarray, list[float]]:
    """The subject without its background, (h, w, 4) uint8, and where that lies on the canvas: left, top, width and
    height."""
    box = bounding_box(shot.matte > 0)
    size = preview_size((box.width, box.height), side)
    rgb = shot.photograph.crop(box).resize(size).rgb()
    matte = resized(shot.matte[box.slices], size)
    scale, (x, y) = shot.placed.scale, shot.placed.origin
    lies = [x + box.left * scale, y + box.top * scale, box.width * scale, box.height * scale]
    return _bytes(np.dstack([rgb, matte])), lies


def size_line(desk: Desk, job: Job | None) -> str:
    """One line about a job: the size before and after, and how much is kept."""
    width, height = desk.photo.picture.size
    if job is None:
        return f"{width} × {height}"
    after = "" if job.picture.size == (width, height) else f" → {job.picture.width} × {job.picture.height}"
    share = float((job.keep == 1).mean()) if job.at is not None else 0
    note = job.placed.note if isinstance(job, Shot) else ""
    kept = f"{share:.0%} kept bit for bit" if share > 0 else ""
    return " · ".join(filter(None, [f"{width} × {height}{after}", kept, note]))


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
