"""One training photograph: its file decoded, at the size that is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from photofound import image
from photofound.card.record import licence_of
from photofound.data.sources import Raw


@dataclass(frozen=True)
class Photograph:
    """One training photograph. ``pixels``: (3, H, W) uint8; ``matte``: (1, H, W) uint8, 255 = object, or None;
    ``source`` and ``licence`` as its metadata name them, "" where they do not; ``repeats``: how often it is drawn where
    others are drawn once."""

    pixels: Tensor
    matte: Tensor | None
    caption: str
    source: str
    licence: str = ""
    repeats: float = 1.0


def photograph(
    file: bytes,
    short_side: int,
    mask: bytes | None = None,
    name: str = "image",
    foreground: bytes | None = None,
    caption: str = "",
    source: str = "",
    licence: str = "",
) -> Photograph:
    """A photograph of a file, scaled down (never up) to a short side of ``short_side``; the rest is as in ``decode``.

    Raises ValueError or OSError when it is damaged.
    """
    pixels, matte = decode(file, scaled(image.upright_size(file, name), short_side), mask, name, foreground=foreground)
    return Photograph(planes(pixels), None if matte is None else planes(matte), caption, source, licence)


def from_row(sample: Raw, short_side: int) -> Photograph:
    """The photograph of a source's row, scaled down to a short side of ``short_side``, with its first caption.

    Raises whatever its decoder raises when it is damaged.
    """
    caption = sample.captions[0][0] if sample.captions else ""
    source, licence = str(sample.row.get("source", "")), licence_of(sample.row)
    return photograph(sample.image, short_side, sample.mask, sample.name, sample.foreground, caption, source, licence)


def scaled(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """A size (W, H) brought down, never up, to a short side of ``short_side``."""
    scale = min(1.0, short_side / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def decode(
    file: bytes,
    size: tuple[int, int],
    mask: bytes | None = None,
    name: str = "image",
    max_pixels: int | None = None,
    foreground: bytes | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """A photograph at ``size`` (W, H), upright, in sRGB, transparent parts on white.

    JPEGs are decoded at a fraction of their size where that is enough.

    Returns:
        (H, W, 3) uint8 and the matte (H, W) uint8, 255 = object: ``mask``, else the alpha of the cut-out
        ``foreground``, else the photograph's own alpha, else None.
    """
    picture = image.decode(file, name, max_pixels, at_least=size)
    alpha = picture.alpha()
    if alpha is not None:  # before it is resized: hidden colours must not bleed into visible ones
        picture = image.Picture.from_any(picture.rgb() * alpha[..., None] + (1 - alpha[..., None]))
    pixels = _in_8_bit(picture.resize(size))
    if mask is not None:
        given = _same_frame(mask, size, f"{name}, mask")
        matte = image.load_mask(given, given.size, f"mask of {name}", kept=True)
        return pixels, to_8_bit(_resized_matte(matte, size))
    if foreground is not None:
        cut_out = _same_frame(foreground, size, f"{name}, foreground")
        alpha = cut_out.alpha()
        if alpha is None:
            raise ValueError(f"{name}: its foreground has no alpha channel; pass a mask if it is one")
    return pixels, None if alpha is None or alpha.min() == 1 else to_8_bit(_resized_matte(alpha, size))


def _in_8_bit(picture: image.Picture) -> np.ndarray:
    """(H, W, 3) uint8 sRGB, with no way through floats where there is nothing to convert: it is a third of the time."""
    if picture.depth == 255 and not picture.icc_profile and not picture.has_alpha:
        return np.repeat(picture.pixels, 3, axis=2) if picture.is_grey else picture.pixels
    return to_8_bit(picture.rgb())


def _same_frame(file: bytes, size: tuple[int, int], name: str) -> image.Picture:
    """A mask or a cut-out, which must be of about the photograph's shape."""
    picture = image.decode(file, name)
    if abs(picture.width * size[1] / (picture.height * size[0]) - 1) > 0.05:
        raise ValueError(f"{name}: is {picture.width}x{picture.height}, of another shape than the photograph")
    return picture


def _resized_matte(matte: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import cv2

    method = cv2.INTER_AREA if size[0] < matte.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(matte, size, interpolation=method)


def to_8_bit(array: np.ndarray) -> np.ndarray:
    return np.rint(array * 255).astype(np.uint8)


def planes(array: np.ndarray) -> Tensor:
    """(H, W) or (H, W, C) to (C, H, W)."""
    return torch.from_numpy(array.reshape(*array.shape[:2], -1).transpose(2, 0, 1).copy())


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 0..255 to float32 [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1)


def to_bytes(pixels: Tensor) -> Tensor:
    """Float [-1, 1] to uint8 0..255: the other way; what lies beyond is clipped."""
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def random_int(high: int, generator: torch.Generator) -> int:
    """A uniform integer in [0, high)."""
    return int(torch.randint(high, (1,), generator=generator, device=generator.device))
