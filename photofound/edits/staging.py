"""A product on a surface: where it stands, from which side it is lit, and the grain of its photograph.

    scene = background(surface, rgb, matte, seed=0)     # the surface with the product's shadow, without the product
    scene = add_light(scene, made, again, hole)         # and the light that a model adds to it

All functions are pure. Shapes: pictures are (H, W, 3) float32 sRGB in [0, 1]; mattes (H, W) float32 in [0, 1], 1 =
subject.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from photofound.edits import surfaces
from photofound.edits.composite import harmonic
from photofound.edits.geometry import bounding_box
from photofound.edits.shadow import Shadow, cast, check_subject
from photofound.edits.surfaces import Surface

LIGHT_STRENGTH = 0.3  # share of a model's light that is used: more flattens folds and shadows (docs/experiments.md)
_CELLS = 12  # along the longer side: light does not vary faster
_MAX_GRAIN = 0.01  # standard deviation; more than that is texture


@dataclass(frozen=True)
class Standing:
    """Where a subject stands, in shares of the picture's height (y) and width (x).

    Attributes:
        base: y of its lowest part, where it meets the ground.
        top, left, right: of its bounding box.
    """

    base: float
    top: float
    left: float
    right: float

    @property
    def edge(self) -> float:
        """y where the ground should end: above the base, so that the subject stands on the ground."""
        wanted = self.base - 0.3 * (self.base - self.top) - 0.07
        return float(np.clip(wanted, min(0.3, max(0.08, self.base - 0.1)), 0.66))


def standing(matte: np.ndarray) -> Standing:
    """Where the subject stands. Raises ValueError if nothing is opaque."""
    check_subject(matte)
    rows, columns = (np.flatnonzero((matte > 0.5).any(axis)) for axis in (1, 0))
    height, width = matte.shape
    return Standing((rows[-1] + 1) / height, rows[0] / height, columns[0] / width, (columns[-1] + 1) / width)


def light_side(rgb: np.ndarray, matte: np.ndarray) -> float:
    """The side that a subject is lit from, -1 = left to 1 = right.

    It is the correlation of brightness with the horizontal position. The subject's own pattern can mislead it, so it
    stays within 0.25 and 0.6 on either side; a subject is never lit from straight above.
    """
    import cv2

    scale = min(1.0, 128 / max(matte.shape))
    size = max(1, round(matte.shape[1] * scale)), max(1, round(matte.shape[0] * scale))
    inside = cv2.resize(matte, size, interpolation=cv2.INTER_AREA) > 0.9
    if not inside.any():
        return 0.3
    luma = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA) @ np.array((0.299, 0.587, 0.114), np.float32)
    # Each row about its own mean: light tops and dark bottoms do not tell left from right.
    count = inside.sum(1, keepdims=True).clip(1)
    x = np.arange(size[0], dtype=np.float32)[None, :]
    offset = (x - (x * inside).sum(1, keepdims=True) / count) * inside
    deviation = (luma - (luma * inside).sum(1, keepdims=True) / count) * inside
    spread = math.sqrt(float((offset**2).sum() * (deviation**2).sum()))
    slope = float((offset * deviation).sum()) / spread if spread > 1e-4 else 0.0
    return math.copysign(min(0.6, 0.25 + abs(slope)), slope if slope else 1.0)


def estimate_grain(rgb: np.ndarray, matte: np.ndarray) -> float:
    """Standard deviation of the noise in a subject's photograph, at most ``_MAX_GRAIN``. It is measured in the
    smoothest parts, without texture, by a filter that ignores edges (Immerkaer 1996)."""
    import cv2

    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    grey = np.ascontiguousarray(rgb @ np.array((0.299, 0.587, 0.114), np.float32))
    response = np.abs(cv2.filter2D(grey, -1, kernel))
    rows, columns = (max(1, n // 16) for n in matte.shape)
    blocks = cv2.resize(response, (columns, rows), interpolation=cv2.INTER_AREA)
    inside = cv2.resize(matte, (columns, rows), interpolation=cv2.INTER_AREA) > 0.999
    if inside.sum() < 4:
        return 0.004
    noise = math.sqrt(math.pi / 2) / 6 * float(np.quantile(blocks[inside], 0.2))
    return min(noise, _MAX_GRAIN)


# ---------------------------------------------------------------------------------------------------------- composition


def background(
    ground: Surface | np.ndarray, rgb: np.ndarray, matte: np.ndarray, seed: int = 0, dark: np.ndarray | None = None
) -> np.ndarray:
    """A product's background: a surface, or a picture (h, w, 3) of any size, with the product's shadow and grain.

    Args:
        ground: a picture is scaled and cropped to fill the frame.
        rgb, matte: the photograph and its subject, (H, W, 3) and (H, W).
        seed: of the surface's pattern and grain.
        dark: (H, W), the share of the light that the product takes; None = as the light on it and the surface have it.

    Returns:
        (H, W, 3), the background everywhere, also behind the subject.
    """
    light, edge, view, blank = light_side(rgb, matte), 0.0, "ground", False
    if isinstance(ground, Surface):
        edge, view, blank = _edge(matte, seed), ground.view, ground.is_blank
    with ThreadPoolExecutor(1, "shadow") as beside:  # each needs one core
        falls = beside.submit(shadow, matte, light, view, edge) if dark is None else None
        if isinstance(ground, Surface):
            made = surfaces.render(ground, matte.shape[::-1], seed, light, edge)
        else:
            made = crop_to_fill(ground, matte.shape[::-1])
    if falls is not None:
        dark = falls.result() * np.float32(0.65 if blank else 1.0)
    assert dark is not None
    made *= 1 - dark[..., None]
    return made if blank else surfaces.with_grain(made, seed + 11, _missing_grain(rgb, matte))


def shadow(matte: np.ndarray, light: float = 0.4, view: str = "ground", edge: float = 0.4) -> np.ndarray:
    """(H, W) float32 in [0, 1]: the share of the light that the subject takes from a surface.

    Args:
        light: the side of the light, -1 = left to 1 = right; it is above and a little in front.
        view: as in ``Surface``; seen from above, the shadow lies all around.
        edge: y where the ground ends, as a share of the height.

    Raises ValueError if nothing is opaque.
    """
    turn = -math.degrees(math.atan2(light, 0.18))
    if view == "flat":
        return cast(matte, Shadow(direction=(180 - turn) % 360, intensity=0.75, pose="lying"))
    dark = cast(matte, Shadow(direction=turn % 360, intensity=0.75))
    below = 1 / (1 + np.exp(-(np.arange(len(matte), dtype=np.float32)[:, None] / len(matte) - edge) / 0.012))
    dark *= below  # no shadow on the room behind
    if view == "wall":
        behind = cast(matte, Shadow(direction=(180 - turn) % 360, intensity=0.35, pose="hanging"))
        dark = 1 - (1 - dark) * (1 - behind * (1 - below))
    return dark.astype(np.float32)


def ground(surface: Surface, rgb: np.ndarray, matte: np.ndarray, seed: int = 0) -> np.ndarray:
    """As ``background``, of a surface and without the shadow."""
    made = surfaces.render(surface, matte.shape[::-1], seed, light_side(rgb, matte), _edge(matte, seed))
    return made if surface.is_blank else surfaces.with_grain(made, seed + 11, _missing_grain(rgb, matte))


def _edge(matte: np.ndarray, seed: int) -> float:
    """Where the ground ends behind the subject, not always at the same height."""
    edge = standing(matte).edge
    return edge + (0.05 * float(np.random.default_rng([seed, 3]).uniform()) - 0.025) * (edge > 0.2)


def _missing_grain(rgb: np.ndarray, matte: np.ndarray) -> float:
    """Standard deviation of the grain that a drawn surface lacks beside the subject's."""
    return math.sqrt(max(0.0, estimate_grain(rgb, matte) ** 2 - 0.004**2))


def fill(ground: Surface | np.ndarray, rgb: np.ndarray, hole: np.ndarray, seed: int = 0) -> np.ndarray:
    """A hole's new content: a surface, seen from straight above, in the light of the hole's surroundings.

    Args:
        ground: a picture is scaled and cropped to fill the hole's bounding box.
        rgb, hole: the photograph (H, W, 3) and its hole (H, W), 1 = painted, with at least one such pixel.
        seed: of the surface's pattern and grain.

    Returns:
        (H, W, 3); only the hole's pixels are meaningful.
    """
    box = bounding_box(hole > 0)
    blank = isinstance(ground, Surface) and ground.is_blank
    if isinstance(ground, Surface):
        made = surfaces.render(replace(ground, view="flat"), hole.shape[::-1], seed)
    else:
        made = np.zeros_like(rgb)
        made[box.slices] = crop_to_fill(ground, (box.width, box.height))
    if blank:
        return made
    made[box.slices] *= _light_across(rgb, hole)[box.slices][..., None]
    return surfaces.with_grain(made.clip(0, 1), seed + 11, _missing_grain(rgb, 1 - hole))


def _light_across(rgb: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """(H, W): the brightness of each place over the hole's mean, interpolated from the hole's surroundings. At most a
    quarter more or less, because the surroundings may be bright by their material."""
    import cv2

    scale = min(1.0, 128 / max(hole.shape))
    size = max(1, round(hole.shape[1] * scale)), max(1, round(hole.shape[0] * scale))
    luma = cv2.resize(rgb @ np.array((0.299, 0.587, 0.114), np.float32), size, interpolation=cv2.INTER_AREA)
    gap = cv2.resize(np.ascontiguousarray(hole, np.float32), size, interpolation=cv2.INTER_AREA) > 1e-4
    smooth = harmonic(torch.from_numpy(luma)[None, None], torch.from_numpy(~gap)[None, None])[0, 0].numpy()
    share = (smooth / max(1e-3, float(smooth[gap].mean()))).clip(0.75, 1.25)
    return cv2.resize(share, hole.shape[::-1], interpolation=cv2.INTER_LINEAR)


def crop_to_fill(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (h, w, 3) scaled to fill (width, height), its middle kept and the rest cut off."""
    import cv2

    width, height = size
    scale = max(width / pixels.shape[1], height / pixels.shape[0])
    wide, tall = max(width, round(pixels.shape[1] * scale)), max(height, round(pixels.shape[0] * scale))
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    grown = cv2.resize(np.ascontiguousarray(pixels, np.float32), (wide, tall), interpolation=kind)
    left, top = (wide - width) // 2, (tall - height) // 2
    return np.ascontiguousarray(grown[top : top + height, left : left + width].clip(0, 1))


def add_light(scene: Tensor, made: Tensor, again: Tensor, hole: Tensor, strength: float = LIGHT_STRENGTH) -> Tensor:
    """A scene with the soft light that a model gives it, and its own texture.

    The model sees the scene through an autoencoder, so ``made - again`` is what it changes. Only the smooth part of
    that is added, which keeps the scene's texture, and only to the lightness, because light does not change colours.
    White stays white.

    Args:
        scene: (1, 3, H, W) in [-1, 1], native.
        made, again: (1, 3, h, w), what the model painted, and the scene decoded from its latents.
        hole: (1, 1, h, w), 1 = background.
        strength: share of the change that is added.
    """
    change = (made - again) * hole
    side = max(change.shape[-2:])
    small = (max(1, round(change.shape[-2] * _CELLS / side)), max(1, round(change.shape[-1] * _CELLS / side)))
    weight = F.interpolate(hole, size=small, mode="area")
    change = F.interpolate(change, size=small, mode="area") / weight.clamp(min=0.05)
    change = strength * change.mean(1, keepdim=True).clamp(-0.12, 0.12)
    light = F.interpolate(change, size=scene.shape[-2:], mode="bicubic", align_corners=False)
    return (scene + light * (10 * (1 - scene)).clamp(0, 1)).clamp(-1, 1)
