"""Arrays, tensors and PIL images -> native pixels, and operations on pixels that do not depend on their colours.

NATIVE pixels are (H, W, C) uint8 or uint16 as a file holds them: C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from photofound.picture.bounds import ImageError

if TYPE_CHECKING:
    import torch

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
_TURNS = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


# ------------------------------------------------------------------------------------------------------- native pixels


def from_pil(image: Image.Image, name: str) -> np.ndarray:
    """Native pixels of a PIL image of any mode: palettes, bits and transparent colours become L, LA, RGB or RGBA."""
    mode, transparent = image.mode, image.has_transparency_data
    if mode.startswith("I;16") or mode == "I":
        grey = np.asarray(image)
        if getattr(image, "tag_v2", {}).get(262) == 0 and mode != "I":
            grey = 65535 - grey  # a TIFF in which white is zero; Pillow inverts it at 8 bits only
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageError(f"{name}: has values from {grey.min()} to {grey.max()}; rescale it to 0 to 65535")
        channels = [grey]
        if transparent:
            channels.append(np.where(grey == image.info["transparency"], 0, 65535))  # one grey value means transparent
        return np.stack(channels, axis=2).astype(np.uint16)
    if mode == "F":
        return from_array(np.asarray(image), name)
    if mode in ("1", "L", "LA", "La"):
        image = image.convert("LA" if transparent else "L")
    else:
        image = image.convert("RGBA" if transparent else "RGB")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def from_array(array: np.ndarray, name: str = "image") -> np.ndarray:
    """Native pixels of an array as ``Picture.from_any`` takes them. Raises ValueError for any other array."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4):
        raise ImageError(f"{name}: array has shape {array.shape}; it must be (H, W) or (H, W, C) with C of 1 to 4")
    if 0 in array.shape:
        raise ImageError(f"{name}: array of shape {array.shape} has no pixels")
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(array.dtype.newbyteorder("="), copy=True)
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(f"{name}: array has dtype {array.dtype}; it must be uint8, uint16 or float in [0, 1]")
    if not np.isfinite(array).all():
        raise ImageError(f"{name}: array has NaN or infinite values; replace them, for example with numpy.nan_to_num")
    if array.min() < 0 or array.max() > 1:
        raise ImageError(f"{name}: float array has values from {array.min():g} to {array.max():g}; scale it to [0, 1]")
    exact = array.astype(np.float64) * 255
    rounding = max(1e-3, 255 * float(np.finfo(array.dtype).eps) / 4)  # the second is float16's; 16 bits step by 1/257
    if np.abs(exact - np.rint(exact)).max() <= rounding:
        return np.rint(exact).astype(np.uint8)
    return np.rint(array.astype(np.float64) * 65535).astype(np.uint16)


def channels_last(tensor: Any) -> np.ndarray:
    """(H, W), (C, H, W) or (1, C, H, W) tensor -> (H, W, C) array."""
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim not in (2, 3):
        raise ValueError(f"image tensor has shape {tuple(tensor.shape)}; it must be (H, W), (C, H, W) or (1, C, H, W)")
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    if tensor.ndim == 2:
        tensor = tensor[None]
    return tensor.permute(1, 2, 0).numpy()


# ----------------------------------------------------------------------------------------------------------- operations


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the EXIF orientation (1 to 8; anything else counts as 1)."""
    turn = _TURNS.get(orientation)
    return np.ascontiguousarray(turn(pixels) if turn else pixels)


def unpremultiplied(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint16 with colours multiplied by alpha -> not multiplied."""
    alpha = pixels[..., 3:].astype(np.float64)
    colours = np.rint(pixels[..., :3] * (65535 / np.maximum(alpha, 1))).clip(0, 65535)
    return np.concatenate([colours, alpha], axis=2).astype(np.uint16)


def to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """uint8 as it is; uint16 rounded to the nearest of 0..255 (65535 = 255 x 257)."""
    return pixels if pixels.dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def grey_to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Grey (H, W, 1) repeated to (H, W, 3); RGB as it is."""
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def nearest(colours: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(H, W, C): everywhere the colour of the nearest pixel of ``known`` (H, W) bool, which must not be empty."""
    import cv2

    unknown = (~known).astype(np.uint8)
    _, labels = cv2.distanceTransformWithLabels(unknown, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    of_label = np.zeros((labels.max() + 1, colours.shape[2]), colours.dtype)
    of_label[labels[known]] = colours[known]
    found: np.ndarray = of_label[labels]
    return found


# -------------------------------------------------------------------------------------------------------------- tensors


def to_tensor(rgb: np.ndarray) -> torch.Tensor:
    """(H, W, 3) in [0, 1] -> (1, 3, H, W) float32 tensor in [-1, 1]."""
    import torch

    return torch.from_numpy(np.array(rgb, np.float32)).permute(2, 0, 1)[None].contiguous() * 2 - 1


def from_tensor(tensor: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) or (3, H, W) tensor in [-1, 1], any device and dtype -> (H, W, 3) float32 in [0, 1], clipped."""
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3:
        raise ValueError(f"expected a tensor of one image, (1, 3, H, W), got {tuple(tensor.shape)}")
    rgb = tensor.detach().float().cpu().permute(1, 2, 0).numpy()
    return np.ascontiguousarray((rgb * 0.5 + 0.5).clip(0, 1))
