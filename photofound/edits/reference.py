"""Reference pictures of a surface: a user's picture made ready for the model, and crops of photographs to train on.

Shapes: B batch, H and W pixels, R the reference's side. Pictures are RGB in [-1, 1].
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from photofound import image
from photofound.edits import composite
from photofound.edits.masks import grow, summed_areas, uniform, window_sums
from photofound.edits.task import Condition, Sample
from photofound.image import Picture

SIDES = (0.6, 0.45, 0.33, 0.25, 0.18, 0.125)  # of squares without the object, over the short side; large ones first
TURN = math.radians(15)  # a crop's largest rotation: with more, the grain of wood would have no direction


def square(picture: Picture, side: int) -> Tensor:
    """A user's picture as the model sees it: its middle square, (1, 3, side, side) in [-1, 1]. Transparent pixels take
    the mean colour of the others, because a surface has no border."""
    pixels = image.to_tensor(picture.rgb())  # (1, 3, H, W)
    alpha = picture.alpha()
    if alpha is not None:
        seen = torch.from_numpy(alpha)[None, None].to(pixels)
        mean = (pixels * seen).sum((2, 3), keepdim=True) / seen.sum().clamp(min=1e-6)
        pixels = torch.lerp(mean, pixels, seen)
    height, width = pixels.shape[-2:]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    return composite.resize(pixels[..., top : top + short, left : left + short], (side, side)).clamp(-1, 1)


def with_references(
    condition: Condition, sample: Sample, needs_object: bool, share: float, size: int, generator: torch.Generator
) -> Condition:
    """Training conditions with references of ``size`` for about ``share`` of them: pieces of the target's own surface.

    If the target is a background (``needs_object``), the piece is a square without the object, else a square around a
    place in the hole. It is mirrored, scaled and turned a little, so that it shows the material and not the layout. A
    sample without such a square has no reference.
    """
    taken = grow((sample.matte > 0.05).float(), 2) if needs_object else None
    boxes, found = free_squares(taken, generator) if taken is not None else squares_in(condition.hole, generator)
    wanted = uniform((len(sample),), 0, 1, generator).to(found.device) < share
    pictures, referenced = crops(sample.pixels, boxes, size, generator), found & wanted
    pictures = pictures.masked_fill(~referenced[:, None, None, None], 0.0)
    return replace(condition, reference=pictures, referenced=referenced)


def inset(shown: Tensor, condition: Condition) -> Tensor:
    """Pictures (B, 3, H, W) of conditions, with their references, if any, small in the lower right corner."""
    if condition.reference is None or condition.referenced is None:
        return shown
    side = min(shown.shape[-2:]) // 3
    small, with_it = composite.resize(condition.reference, (side, side)), shown.clone()
    with_it[..., -side:, -side:] = small
    return torch.where(condition.referenced[:, None, None, None], with_it, shown)


def free_squares(taken: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random square per sample without any pixel of ``taken`` (B, 1, H, W) in {0, 1}. Its size is the largest of
    ``SIDES`` that fits, or the second largest.

    Returns:
        (B, 3): the middle's row and column and the side, in pixels; and (B,) bool, False if no square fits.
    """
    batch, _, height, width = taken.shape
    table = summed_areas(taken[:, 0])
    boxes = taken.new_zeros(batch, 3)
    chosen = torch.zeros(batch, dtype=torch.long, device=taken.device)  # squares that fit, of the sizes tried so far
    second = uniform((batch,), 0, 1, generator).to(taken.device) < 0.4  # these take the second largest
    for share in SIDES:
        side = max(4, round(share * min(height, width)))
        inside = window_sums(table, side)
        free = (inside < 0.5).flatten(1)
        fits = free.any(1)
        place = (uniform(tuple(free.shape), 0, 1, generator).to(taken.device) * free).argmax(1)
        columns = width - side + 1
        box = torch.stack((place // columns + side / 2, place % columns + side / 2, torch.full_like(place, side)), 1)
        take = fits & ((chosen == 0) | ((chosen == 1) & second))
        boxes = torch.where(take[:, None], box.to(boxes), boxes)
        chosen += fits
    return boxes, chosen > 0


def squares_in(hole: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A square per sample around a random place in the hole (B, 1, H, W), a fifth to a half of the short side. Returns
    the same as ``free_squares``."""
    batch, _, height, width = hole.shape
    side = uniform((batch,), 0.2, 0.5, generator).to(hole) * min(height, width)
    noise = uniform((batch, height * width), 0, 1, generator).to(hole)
    place = (noise * (hole > 0.5).flatten(1)).argmax(1)
    row, column = (place // width).to(hole), (place % width).to(hole)
    row = torch.minimum(row.maximum(side / 2), height - side / 2)
    column = torch.minimum(column.maximum(side / 2), width - side / 2)
    return torch.stack((row, column, side), 1), (hole > 0.5).flatten(1).any(1)


def crops(pixels: Tensor, boxes: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Squares of pictures (B, 3, H, W) at ``boxes`` (B, 3), as pictures (B, 3, size, size).

    Each is randomly mirrored, turned by up to ``TURN``, and enlarged by a random factor of at most what fills the size.
    A square that is too small for the size is continued by reflection, so that its texture keeps its scale.
    """
    height, width = pixels.shape[-2:]
    if (factor := min(height, width) // (2 * size)) > 1:  # sampling below would skip pixels
        pixels, boxes = F.avg_pool2d(pixels, factor), boxes / factor
        height, width = pixels.shape[-2:]
    batch = len(pixels)
    middle, side = boxes[:, None, None, :2], boxes[:, 2].clamp(min=2)  # (B, 1, 1, 2), (B,)
    u = uniform((batch, 4), 0, 1, generator).to(pixels)
    fill = size / side  # the scale at which the square fills the size
    zoom = torch.exp(u[:, 0] * fill.clamp(min=1).log()) * fill.clamp(max=1)
    angle, across, down = (2 * u[:, 1] - 1) * TURN, 1 - 2 * (u[:, 2] < 0.5).float(), 1 - 2 * (u[:, 3] < 0.25).float()
    at = torch.arange(size, device=pixels.device, dtype=pixels.dtype) + 0.5 - size / 2
    rows, columns = (at[:, None] * down[:, None, None], at[None, :] * across[:, None, None])  # (B, R, 1), (B, 1, R)
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    turned = torch.stack((cos * rows - sin * columns, sin * rows + cos * columns), -1) / zoom[:, None, None, None]
    reach = (side / 2 - 0.5).clamp(min=0.5)[:, None, None, None]  # pixel centres of the square
    folded = ((turned + reach).remainder(4 * reach) - 2 * reach).abs() - reach  # a triangle wave between its borders
    place = middle - folded  # (B, R, R, 2) rows and columns in pixels
    scale = place.new_tensor([2 / height, 2 / width])
    grid = (place * scale - 1).flip(-1)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
