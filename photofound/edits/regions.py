"""Which holes of a picture are painted together, and at which size.

A model sees a box around its hole, scaled to the size that it was trained at. Holes that lie far apart would be specks
in one box, so each gets its own, unless one box for both costs no more and is about as sharp. A thin hole that runs
through a large photograph, such as a scratch, is cut into pieces that fade into each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from photofound.edits import masks
from photofound.edits.geometry import TILE_OVERLAP, Box, bounding_box, grow_box, tile_starts, tiles

MAX_TILES = 24  # a hole that would need more at native resolution is painted smaller
_CELL = 8  # pixels; holes nearer to each other are one
_MAX_ISLANDS = 2000  # if there are more (noise, small print), near ones are joined
_MAX_PIECES = 512  # of one hole; if there are more, each is painted smaller
_GIVES = 0.9  # of a scale: so much less is taken where fewer tiles are enough then
_MIN_SCALE = 0.7  # two holes are joined only if the scale stays above this share of the smaller of their scales


@dataclass(frozen=True)
class Part:
    """A part of a picture that is painted by itself.

    Attributes:
        box: where it is.
        size: (height, width) at which it is painted.
        own: (rows, columns) float32 in [0, 1], the share of this part in each pixel of the box; None = 1 everywhere.
    """

    box: Box
    size: tuple[int, int]
    own: np.ndarray | None = None

    def keep(self, keep: np.ndarray) -> np.ndarray:
        """A job's ``keep`` (H, W) with 1 where another part paints. Where two parts overlap, the later one fades in."""
        if self.own is None:
            return keep
        mine = np.ones_like(keep)
        mine[self.box.slices] = 1 - self.own * (1 - keep[self.box.slices])
        return mine


def whole(hole: np.ndarray, tile: int) -> Part:
    """All holes of a picture (H, W) as one part.

    A thin hole is filled at the picture's own resolution, tile by tile. A thick one must be seen as a whole with its
    surroundings, so the crop is scaled until it fits the model's size, or until its middle is at most a quarter of a
    tile from given pixels.
    """
    found = bounding_box(hole)
    box = _around(found, tile, hole.shape)
    return _part(box, found, masks.reach(hole[box.slices]), tile, hole.shape)


def split(hole: np.ndarray, keep: np.ndarray, tile: int) -> list[Part]:
    """The parts of a job with this ``hole`` and ``keep``, both (H, W): one, or several if holes lie far apart.

    Args:
        tile: the side in pixels that the model was trained at.
    """
    marked = (hole > 0) | (keep < 1)
    labels, cell, groups = _islands(marked, hole)
    parts: list[Part] = []
    for group, islands in _merged(groups, tile, hole.shape):
        found = Box(*(int(side) for side in group[:4]))
        box = _around(found, tile, hole.shape)
        part = _part(box, found, float(group[4]), tile, hole.shape)
        rows, columns = slice(box.top // cell, -(-box.bottom // cell)), slice(box.left // cell, -(-box.right // cell))
        own = np.isin(labels[rows, columns], islands).repeat(cell, 0).repeat(cell, 1)
        top, left = box.top - rows.start * cell, box.left - columns.start * cell
        part = Part(box, part.size, own[top : top + box.height, left : left + box.width].astype(np.float32))
        parts += _pieces(part, marked[box.slices], float(group[4]), tile)
    return [Part(parts[0].box, parts[0].size)] if len(parts) == 1 else parts


def _pieces(part: Part, marked: np.ndarray, reach: float, tile: int) -> list[Part]:
    """The part itself; or its pieces, if it is so large that it would be painted at less than half of the scale that
    its thin holes need.

    Args:
        marked: (rows, columns) bool, the pixels to paint in its box.
        reach: distance of the middle of its holes from given pixels.
    """
    box, own = part.box, part.own
    side = tile / min(1.0, 0.25 * tile / max(1.0, reach))  # pixels of the picture that are scaled to one tile
    if own is None or 2 * part.size[0] * side >= box.height * tile:
        return [part]
    mine = (own > 0) & marked
    while True:
        windows = tiles(box.width, box.height, round(side), round(side / 4))
        windows = [window for window in windows if mine[window.slices].any()]
        if len(windows) <= _MAX_PIECES:
            break
        side *= 1.5
    taken, pieces = np.zeros(mine.shape, bool), []
    for left, top, right, bottom in windows:
        rows, columns = _fade(top, bottom, box.height, side / 8), _fade(left, right, box.width, side / 8)
        here, weight = (slice(top, bottom), slice(left, right)), rows[:, None] * columns[None, :]
        share = np.where(taken[here], weight, weight > 0) * own[here]
        taken[here] |= weight > 0
        scale = tile / side
        size = max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale))
        place = Box(box.left + left, box.top + top, box.left + right, box.top + bottom)
        pieces.append(Part(place, size, share.astype(np.float32)))
    return pieces


def _fade(start: int, stop: int, length: int, rise: float) -> np.ndarray:
    """Weights of a window along one side of ``length``: 1 inside, 0 at its ends, except at the ends of the whole side.
    They rise over ``rise`` pixels, from half as many pixels inside the window on."""
    position = np.arange(stop - start) + 0.5
    weight = np.ones(stop - start)
    if start > 0:
        weight = np.minimum(weight, (position - rise / 2) / rise)
    if stop < length:
        weight = np.minimum(weight, (position[::-1] - rise / 2) / rise)
    return weight.clip(0, 1)


def _around(found: Box, tile: int, shape: tuple[int, ...]) -> Box:
    return grow_box(found, max(32, max(found.width, found.height) // 4), tile, shape[1], shape[0])


def _part(box: Box, found: Box, reach: float, tile: int, shape: tuple[int, ...]) -> Part:
    scale = _in_fewer_tiles(box, float(_scale_and_cost(np.array([[*found, reach]]), tile, shape)[0][0]), tile)
    return Part(box, (max(1, round(box.height * scale)), max(1, round(box.width * scale))))


def _in_fewer_tiles(box: Box, scale: float, tile: int) -> float:
    """The scale at which a box is painted, or a little less where that saves a third of its tiles or more. What is
    painted at the picture's own size stays so."""
    if scale == 1:
        return scale

    def counts(at: float) -> tuple[int, int]:
        width, height = (len(tile_starts(round(side * at), tile, overlap)) for side in (box.width, box.height))
        return width, height

    overlap = tile // TILE_OVERLAP
    now = counts(scale)
    fitting = [
        (tile + (count - 2) * (tile - overlap)) / side
        for count, side in zip(now, (box.width, box.height), strict=True)
        if count > 1
    ]
    fitting = [each for each in fitting if each >= _GIVES * scale and 3 * math.prod(counts(each)) <= 2 * math.prod(now)]
    return min(fitting, key=lambda each: (math.prod(counts(each)), -each), default=scale)


def _scale_and_cost(groups: np.ndarray, tile: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The scale at which each group of holes is painted, and its number of pixels at that scale.

    Args:
        groups: (N, 5): left, top, right and bottom, and the distance of the middle from given pixels.
    """
    extent = groups[:, 2:4] - groups[:, :2]  # (N, 2) width and height
    margin = np.maximum(32, extent.max(1, keepdims=True) // 4)
    sides = np.minimum(np.maximum(extent + 2 * margin, tile), [shape[1], shape[0]])
    area = sides.prod(1)
    fits, near = tile / sides.max(1), 0.25 * tile / np.maximum(1.0, groups[:, 4])
    few = np.sqrt(MAX_TILES * tile * tile / area)
    scale = np.minimum(1.0, np.maximum(fits, np.minimum(near, few)))
    return scale, area * scale**2


def _islands(marked: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, int, np.ndarray]:
    """The islands of a mask (H, W): labels of its cells from 1 on, the cells' side in pixels, and the islands as groups
    (N, 5), see ``_scale_and_cost``."""
    import cv2

    height, width = marked.shape
    cell, count = _CELL, _MAX_ISLANDS + 1
    while count > _MAX_ISLANDS:
        cells = np.logical_or.reduceat(marked, np.arange(0, height, cell), axis=0)
        cells = np.logical_or.reduceat(cells, np.arange(0, width, cell), axis=1)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(cells.astype(np.uint8))
        cell *= 2
    cell //= 2
    groups = []
    for left, top, columns, rows, _ in stats[1:].tolist():
        left, top = left * cell, top * cell
        found = bounding_box(marked[top : top + rows * cell, left : left + columns * cell])
        box = Box(left + found.left, top + found.top, left + found.right, top + found.bottom)
        with_edge = grow_box(box, 1, 1, width, height)
        groups.append([*box, masks.reach(hole[with_edge.slices])])
    return labels, cell, np.array(groups, np.float64)


def _merged(groups: np.ndarray, tile: int, shape: tuple[int, ...]) -> list[tuple[np.ndarray, list[int]]]:
    """Merge islands as long as painting two groups together is as fast and about as sharp. Returns the groups, each
    with the labels of its islands."""
    size = (groups[:, 2] - groups[:, 0]) * (groups[:, 3] - groups[:, 1])
    waiting = [(groups[i], [i + 1]) for i in np.argsort(size)]
    done = np.empty((0, 5))
    members: list[list[int]] = []
    while waiting:
        group, islands = waiting.pop()
        together = np.concatenate([np.minimum(done[:, :2], group[:2]), np.maximum(done[:, 2:], group[2:])], 1)
        (mine,), (cost,) = _scale_and_cost(group[None], tile, shape)
        scales, costs = _scale_and_cost(done, tile, shape)
        scale, cost_together = _scale_and_cost(together, tile, shape)
        fits = np.flatnonzero((cost_together <= cost + costs) & (scale >= _MIN_SCALE * np.minimum(mine, scales)))
        if len(fits):
            waiting.append((together[fits[0]], islands + members.pop(fits[0])))
            done = np.delete(done, fits[0], 0)
        else:
            done = np.concatenate([done, group[None]])
            members.append(islands)
    return list(zip(done, members, strict=True))
