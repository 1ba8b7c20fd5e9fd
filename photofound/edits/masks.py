"""Masks: random ones to train on (in batches, on the device), growing them, and cutting a subject out.

Shapes: training masks are (B, 1, H, W) float in {0, 1}, 1 = hidden. User masks are (H, W) float32 in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from photofound.edits.geometry import bounding_box, grow_box

_BLANK = 0.004  # standard deviation of colours below which a picture shows nothing, one level of 8 bits
GRABCUT_FRAME = 0.03  # width of the frame that GrabCut starts from as background, as a share of the short side


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Random floats in [low, high) on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


Size = int | tuple[int, ...]  # the side of a square, or (H, W); masks are stretched to it


def _shape(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _grid(size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixel centres in [0, 1]: y (H, 1) and x (1, W)."""
    y, x = ((torch.arange(side, device=device) + 0.5) / side for side in _shape(size))
    return y[:, None], x[None, :]


def strokes(batch: int, size: Size, generator: torch.Generator, widest: float = 0.25, vertices: int = 5) -> Tensor:
    """1 to 5 brush strokes with bends, after LaMa's generator (arXiv:2109.07161, section 2.3).

    ``widest`` is the largest brush width as a share of the side; widths are drawn per stroke, thin ones as often as
    wide ones.
    """
    y, x = _grid(size, generator.device)
    mask = torch.zeros(batch, *_shape(size), dtype=torch.bool, device=generator.device)
    count = torch.randint(1, 6, (batch,), generator=generator, device=generator.device)
    for stroke in range(5):
        radius = uniform((batch, 1, 1), np.log(0.012), np.log(widest / 2), generator).exp()
        point = uniform((batch, 2), 0.0, 1.0, generator)
        angle = uniform((batch,), 0.0, 2 * np.pi, generator)
        for _ in range(vertices - 1):
            angle = angle + uniform((batch,), -1.2, 1.2, generator)
            step = torch.stack([angle.sin(), angle.cos()], -1) * uniform((batch, 1), 0.05, 0.35, generator)
            near = _segment_distance(y, x, point, point + step) < radius
            mask |= near & (stroke < count)[:, None, None]
            point = point + step
    return mask[:, None].float()


def _segment_distance(y: Tensor, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(B, H, W) distances of the pixels to the segments from a to b, each (B, 2) as (y, x)."""
    d = b - a
    dy, dx = (y - a[:, 0, None, None]), (x - a[:, 1, None, None])
    along = (dy * d[:, 0, None, None] + dx * d[:, 1, None, None]) / d.square().sum(-1)[:, None, None].clamp(min=1e-8)
    along = along.clamp(0, 1)
    return ((dy - along * d[:, 0, None, None]).square() + (dx - along * d[:, 1, None, None]).square()).sqrt()


def boxes(batch: int, size: Size, generator: torch.Generator) -> Tensor:
    """1 to 4 boxes with sides of 10 to 60 % of the picture's."""
    y, x = _grid(size, generator.device)
    mask = torch.zeros(batch, *_shape(size), dtype=torch.bool, device=generator.device)
    count = torch.randint(1, 5, (batch,), generator=generator, device=generator.device)
    for i in range(4):
        side = uniform((batch, 2), 0.1, 0.6, generator) / (1 + 0.35 * (count[:, None] - 1))
        corner = uniform((batch, 2), 0.0, 1.0, generator) * (1 - side)
        inside_y = (y >= corner[:, 0, None, None]) & (y < (corner + side)[:, 0, None, None])
        inside_x = (x >= corner[:, 1, None, None]) & (x < (corner + side)[:, 1, None, None])
        mask |= inside_y & inside_x & (i < count)[:, None, None]
    return mask[:, None].float()


def borders(batch: int, size: Size, generator: torch.Generator) -> Tensor:
    """Everything but a crop that keeps 50 to 96 % per side, cut on 1 to 4 sides."""
    y, x = _grid(size, generator.device)
    cut = uniform((batch, 4), 0.04, 0.5, generator)
    on = torch.rand(batch, 4, generator=generator, device=generator.device) < 0.6
    first = torch.randint(4, (batch,), generator=generator, device=generator.device)
    on |= F.one_hot(first, 4).bool()  # at least one side
    cut = cut * on
    # Opposite cuts together take at most 50 %.
    for a, b in ((0, 1), (2, 3)):
        total = (cut[:, a] + cut[:, b]).clamp(min=0.5)
        cut[:, a], cut[:, b] = cut[:, a] * 0.5 / total, cut[:, b] * 0.5 / total
    top, bottom, left, right = (c[:, None, None] for c in cut.unbind(1))
    given = (y >= top) & (y < 1 - bottom) & (x >= left) & (x < 1 - right)
    return (~given)[:, None].float()


def patches(batch: int, size: Size, generator: torch.Generator, patch: int = 16) -> Tensor:
    """25 to 90 % of the patches hidden, scattered (MAE, arXiv:2111.06377) or in blobs (as BEiT's blocks,
    arXiv:2106.08254)."""
    rows, columns = (max(1, side // patch) for side in _shape(size))
    noise = torch.rand(batch, 1, rows, columns, generator=generator, device=generator.device)
    coarse = torch.rand(batch, 1, rows // 4 + 1, columns // 4 + 1, generator=generator, device=generator.device)
    blobs = F.interpolate(coarse, size=(rows, columns), mode="bilinear", align_corners=True)
    scattered = torch.rand(batch, 1, 1, 1, generator=generator, device=generator.device) < 0.5
    score = torch.where(scattered, noise, blobs)
    rank = score.flatten(1).argsort(1).argsort(1).reshape_as(score) / (rows * columns)
    hidden = rank < uniform((batch, 1, 1, 1), 0.25, 0.9, generator)
    return F.interpolate(hidden.float(), size=_shape(size), mode="nearest")


def summed_areas(mask: Tensor) -> Tensor:
    """The summed-area table of masks (Crow 1984): (..., H, W) -> (..., H + 1, W + 1) float64."""
    return F.pad(mask.double().cumsum(-2).cumsum(-1), (1, 0, 1, 0))


def window_sums(table: Tensor, side: int) -> Tensor:
    """The sum in each square window of a ``summed_areas`` table, by its upper left corner: (..., H - side + 1,
    W - side + 1)."""
    below, above = table[..., side:, :], table[..., :-side, :]
    return below[..., side:] - above[..., side:] - below[..., :-side] + above[..., :-side]


def grow(mask: Tensor, radius: int) -> Tensor:
    """Dilate (B, 1, H, W) by ``radius`` pixels (a square brush), or erode it by a negative radius."""
    if radius == 0:
        return mask
    sign = 1 if radius > 0 else -1
    return sign * F.max_pool2d(sign * mask, 2 * abs(radius) + 1, stride=1, padding=abs(radius))


def grow_user_mask(mask: np.ndarray, radius: int) -> np.ndarray:
    """Dilate an (H, W) mask by ``radius`` pixels with a round brush."""
    import cv2

    if radius <= 0 or not mask.any():
        return mask
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    near = grow_box(bounding_box(mask), radius, 1, mask.shape[1], mask.shape[0]).slices
    grown = mask.copy()
    grown[near] = cv2.dilate(np.ascontiguousarray(mask[near]), brush)
    return grown


def reach(mask: np.ndarray) -> float:
    """The largest distance of a pixel in the hole from the nearest given pixel, in pixels."""
    import cv2

    return float(cv2.distanceTransform((mask > 0).astype(np.uint8), cv2.DIST_L2, 3).max())


def grabcut(rgb: np.ndarray) -> np.ndarray:
    """Cut the subject out with GrabCut (Rother et al. 2004), started from a frame of sure background.

    Args:
        rgb: (H, W, 3) float32 in [0, 1].

    Returns:
        (H, W) float32 in [0, 1], 1 = subject; all zeros if it finds nothing.
    """
    import cv2

    height, width = rgb.shape[:2]
    scale = min(1.0, 224 / max(height, width))  # GrabCut is slow and its colour models need few pixels
    small_size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize((rgb * 255).round().astype(np.uint8), small_size, interpolation=cv2.INTER_AREA)
    label = np.full(small.shape[:2], cv2.GC_PR_FGD, np.uint8)
    edge = max(1, round(GRABCUT_FRAME * min(small_size)))
    label[:edge], label[-edge:], label[:, :edge], label[:, -edge:] = (cv2.GC_BGD,) * 4
    cv2.setRNGSeed(0)
    cv2.grabCut(
        np.ascontiguousarray(small[..., ::-1]),
        label,
        None,
        np.zeros((1, 65)),
        np.zeros((1, 65)),
        3,
        cv2.GC_INIT_WITH_MASK,
    )
    mask = _largest(np.isin(label, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)).astype(np.float32)
    mask = cv2.GaussianBlur(mask, (0, 0), 0.7)
    mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(mask * 1.5 - 0.25, 0, 1)  # back to a narrow edge, so that the inside is fully opaque


def extent(rgb: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """The whole subject as a viewer sees it, from the known part ``subject``: GrabCut starts from it and can only grow
    it.

    The rest lies within a third of the known part's size and is connected with it.

    Args:
        rgb: (H, W, 3) float32 in [0, 1].
        subject: (H, W) bool.

    Returns:
        (H, W) bool, a superset of ``subject``.
    """
    import cv2

    height, width = subject.shape
    scale = min(1.0, 512 / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize((rgb * 255).round().astype(np.uint8), size, interpolation=cv2.INTER_AREA)
    known = cv2.resize(subject.astype(np.uint8), size, interpolation=cv2.INTER_AREA)
    box = bounding_box(known) if known.any() else None
    if box is None or known.all():
        return subject.copy()
    near = grow_user_mask(known, max(2, max(box.width, box.height) // 3))
    label = np.where(known > 0, cv2.GC_FGD, np.where(near > 0, cv2.GC_PR_BGD, cv2.GC_BGD)).astype(np.uint8)
    if not (label == cv2.GC_PR_BGD).any():
        return subject.copy()
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(small[..., ::-1]), label, None, *models, 3, cv2.GC_INIT_WITH_MASK)
    _, parts = cv2.connectedComponents(np.isin(label, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8))
    found = np.isin(parts, np.unique(parts[known > 0]))
    return subject | cv2.resize(found.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a {0, 1} mask, with its pinholes filled."""
    import cv2

    kernel = np.ones((3, 3), np.uint8)
    mask = cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel), cv2.MORPH_CLOSE, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    return (labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8) if count > 1 else mask


def cut_out(rgb: np.ndarray, segmenter: Callable[[np.ndarray], np.ndarray] = grabcut) -> np.ndarray:
    """The subject's mask, (H, W) float32 in [0, 1], 1 = subject, by any function from pixels to mask.

    Raises ValueError if the picture is of one colour, or if the mask is empty or covers everything.
    """
    step = max(1, max(rgb.shape[:2]) // 256)
    if rgb[::step, ::step].std((0, 1)).max() < _BLANK:  # a network sees things in it
        raise ValueError("subject: the picture is of one colour, which is no subject; pass subject=MASK")
    mask = segmenter(rgb)
    share = float((mask > 0.5).mean())
    if not 0.002 < share < 0.98:
        raise ValueError(
            f"subject: the automatic cut-out covers {share:.1%} of the picture, which is no subject; pass subject=MASK"
        )
    return mask.astype(np.float32)


def blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (B, C, H, W), one ``sigma`` in pixels per sample (B,); edges are replicated."""
    radius = max(1, int(3 * float(sigma.max()) + 0.5))
    offsets = torch.arange(-radius, radius + 1, device=pixels.device, dtype=pixels.dtype)
    kernel = (-0.5 * (offsets / sigma.to(pixels)[:, None].clamp(min=1e-3)).square()).exp()
    kernel = kernel / kernel.sum(1, keepdim=True)
    batch, channels, height, width = pixels.shape
    kernel = kernel.repeat_interleave(channels, 0)[:, None]
    flat = F.pad(pixels, (radius,) * 4, mode="replicate").reshape(
        1, batch * channels, height + 2 * radius, width + 2 * radius
    )
    flat = F.conv2d(flat, kernel[:, :, :, None], groups=batch * channels)
    flat = F.conv2d(flat, kernel[:, :, None, :], groups=batch * channels)
    return flat.reshape(pixels.shape)
