"""Fill a hole from the photograph's own patches, so that the model repairs a sharp proposal instead of a blur.

PatchMatch (Barnes et al. 2009) with coarse-to-fine voting (Wexler et al. 2007), by the library PyPatchMatch, at a size
that takes a fraction of a second; ``texture`` brings the result to the photograph's own size by copying whole blocks of
its pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from photofound.edits.composite import harmonic, resize, resize_given, shrink
from photofound.edits.masks import summed_areas, window_sums

_SMALLEST_PATCH = 2
_MAX_PIXELS = 256 * 256  # of a picture that is filled at its own size; larger ones are filled smaller
_BLOCK = 8  # side of the blocks that are copied at the photograph's size, in pixels of the small picture
_MARGIN = 2  # overlap of neighbouring blocks, in pixels of the small picture
_ALL_PLACES = 4096  # up to so many places are all compared; of more, a quarter, and then the neighbours of the best
_CHUNK = 2048  # places that all blocks are compared with at once: their distances are to stay in the cache


@dataclass(frozen=True)
class Search:
    """How much is searched.

    Attributes:
        hole: pixels of a hole that is filled at its own size, for the search is linear in the hole's size; pictures
            with larger ones are filled smaller, unless ``worth`` is not reached.
        worth: scales above this are not worth it.
        radius: of the patches that are compared, where so large ones are given.
        parts: of a hole that are filled side by side, each by a thread, at most.
    """

    hole: int = 30_000
    worth: float = 1.0
    radius: int = 5
    parts: int = 1


SEARCHES = {"thorough": Search(), "quick": Search(12_000, 0.85, 2, 2)}
"""What a pipeline's setting ``exemplars`` names. Folders of earlier versions are searched thoroughly, so that they give
the pixels that they gave. ``quick`` takes a third to two thirds of the time, and on average comes out no worse
(docs/experiments.md)."""


def attempt(number: int, search: Search) -> tuple[int, Search]:
    """Seed and search of candidate ``number`` of an edit (``photofound.judging``). The first is what is made alone. The
    others are thorough, by patches of two radii in turn, which differ more than two seeds; which fits better depends
    on the hole (docs/experiments.md)."""
    if number == 0:
        return 0, search
    if search == SEARCHES["thorough"]:
        return number // 2, Search(radius=3 if number % 2 else 5)
    return number, Search(radius=3 if number % 2 else 2)


def patchmatch_missing() -> str:
    """Why PatchMatch is not available, and what to install; "" if it is available."""
    try:
        import patchmatch as library
    except ImportError:
        return "patchmatch needs PyPatchMatch: pip install 'PyPatchMatch>=2.2'"
    if library.patchmatch_available:
        return ""
    return (
        "patchmatch: PyPatchMatch is installed without its native library, since no wheel fits this platform; install "
        "a C++17 compiler, CMake and OpenCV's headers (Debian: apt-get install g++ cmake libopencv-dev; macOS: brew "
        "install cmake opencv), then pip install --force-reinstall --no-deps --no-cache-dir PyPatchMatch"
    )


class _Seed:
    """The library's seed, which is global: searches with the same one run side by side, others wait."""

    def __init__(self) -> None:
        self._changed, self._seed, self._running = Condition(), 0, 0

    @contextmanager
    def held(self, seed: int) -> Iterator[None]:
        import patchmatch as library

        with self._changed:
            self._changed.wait_for(lambda: not self._running or self._seed == seed)
            library.set_random_seed(seed)
            self._seed, self._running = seed, self._running + 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()


_seed = _Seed()


def patchmatch(
    rgb: np.ndarray, hole: np.ndarray, patch: int = 5, seed: int = 0, unknown: np.ndarray | None = None
) -> np.ndarray:
    """The library's own filling of (H, W, 3) uint8 where ``hole`` (H, W) is True. Equal arguments give equal pixels.

    Nothing is copied from where ``unknown`` (H, W) is True, and nothing is painted there.

    Raises ImportError, which says what to install, if the library is missing.
    """
    if missing := patchmatch_missing():
        raise ImportError(missing)
    import patchmatch as library

    masks = [None if each is None else each.astype(np.uint8) * 255 for each in (hole, unknown)]
    with _seed.held(seed):
        return library.inpaint(rgb, masks[0], patch_size=patch, global_mask=masks[1])


def fill(rgb: np.ndarray, hole: np.ndarray, seed: int = 0, patch: int = 5, parts: int = 1) -> np.ndarray:
    """Fill the hole from the pixels around it; given pixels do not change.

    The same picture, hole and seed give the same pixels, with any number of threads. If no whole patch is given, the
    hole is filled smoothly from its border.

    Args:
        rgb: (H, W, 3) uint8; pixels in the hole are ignored.
        hole: (H, W) bool.
        seed: of the random search.
        patch: radius of the patches, where so large ones are given.
        parts: of the hole that are filled side by side at most; they copy nothing from each other.

    Returns:
        (H, W, 3) uint8.
    """
    largest = _patch(hole, patch)
    if not hole.any():
        return rgb.copy()
    if largest is None:
        return _fill_smoothly(rgb, hole)
    blank = np.where(hole[..., None], 0, rgb).astype(np.uint8)
    groups = _groups(hole, largest, parts)
    filled = rgb.copy()
    with ThreadPoolExecutor(len(groups), "patchmatch") as threads:
        made = threads.map(lambda own: patchmatch(blank, own, largest, seed, hole & ~own), groups)
        for own, pixels in zip(groups, made, strict=True):
            filled[own] = pixels[own]
    return filled


def _groups(hole: np.ndarray, patch: int, most: int) -> list[np.ndarray]:
    """The hole's parts in masks (H, W) of about equal size, ``most`` or fewer. Parts whose patches would overlap are
    one."""
    import cv2

    if most == 1:
        return [hole]

    near = cv2.dilate(hole.astype(np.uint8), np.ones((2 * patch + 1, 2 * patch + 1), np.uint8))
    labels = np.where(hole, cv2.connectedComponents(near)[1], 0)
    sizes = np.bincount(labels[hole])
    group_of, filled = np.full(len(sizes), -1), [0] * most
    for label in np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)].tolist():
        group_of[label] = least = filled.index(min(filled))
        filled[least] += int(sizes[label])
    group_of[0] = -1  # what is given
    return [group_of[labels] == group for group in range(most) if filled[group]]


def _patch(hole: np.ndarray, most: int) -> int | None:
    """The largest radius up to ``most`` of a patch that is given as a whole; None if not even small ones are."""
    import cv2

    # A frame of hole, since patches must lie inside the picture.
    given = cv2.copyMakeBorder((~hole).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    room = int(cv2.distanceTransform(given, cv2.DIST_C, 3).max()) - 1
    return min(most, room) if room >= _SMALLEST_PATCH else None


def _fill_smoothly(rgb: np.ndarray, hole: np.ndarray) -> np.ndarray:
    pixels = torch.from_numpy(rgb.transpose(2, 0, 1).astype(np.float32))[None]
    filled = harmonic(pixels, torch.from_numpy(~hole)[None, None])[0].permute(1, 2, 0)
    return filled.round().clamp(0, 255).to(torch.uint8).numpy()


def canvas(pixels: Tensor, hole: Tensor, seed: int = 0, search: Search = SEARCHES["thorough"]) -> Tensor:
    """``fill`` for a batch: (B, 3, H, W) in [-1, 1] and (B, 1, H, W), hole where above 0.

    Pictures of more than 256 x 256 pixels, and those with a larger hole than ``search`` says, are filled smaller,
    enlarged, and given ``texture``.
    """
    filled = [_fill_one(each, gap[0] > 0, seed, search) for each, gap in zip(pixels.cpu(), hole.cpu(), strict=True)]
    return torch.where(hole > 0, torch.stack(filled).to(pixels), pixels)


def _fill_one(pixels: Tensor, hole: Tensor, seed: int, search: Search) -> Tensor:
    """One picture (3, H, W) in [-1, 1] and its hole (H, W) bool."""
    height, width = hole.shape
    scale = min(_MAX_PIXELS / hole.numel(), search.hole / max(1, int(hole.sum()))) ** 0.5
    if scale >= search.worth:
        return _to_pixels(fill(_to_rgb(pixels), hole.numpy(), seed, search.radius, search.parts))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    gap = hole[None, None].float()
    small = resize_given(pixels[None], gap, size)
    small_hole = F.interpolate(gap, size=size, mode="area") > 0.5
    small = _to_pixels(fill(_to_rgb(small[0]), small_hole[0, 0].numpy(), seed, search.radius, search.parts))[None]
    enlarged = resize(small, (height, width))
    return (enlarged + texture(pixels[None], gap, small, small_hole)).clamp(-1, 1)[0]


def _to_rgb(pixels: Tensor) -> np.ndarray:
    array: np.ndarray = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(array)


def _to_pixels(rgb: np.ndarray) -> Tensor:
    return torch.from_numpy(rgb.transpose(2, 0, 1).astype(np.float32)) / 127.5 - 1


@torch.no_grad()
def texture(pixels: Tensor, hole: Tensor, small: Tensor, small_hole: Tensor) -> Tensor:
    """The photograph's texture for a hole that was filled at a smaller size.

    For every block of the small hole the most similar given block is found: products of matrices compare it with a
    quarter of all places at half the size, then the neighbours of the best are compared. The photograph's pixels of
    that place are copied. Blocks overlap and fade into each other. Only what is finer than a pixel of the small picture
    is returned: it is added to the enlarged small picture.

    Args:
        pixels: (1, 3, H, W) in [-1, 1], the photograph; pixels in its hole are ignored.
        hole: (1, 1, H, W), hole where above 0.
        small: (1, 3, h, w), filled; h / H is about w / W.
        small_hole: (1, 1, h, w), hole where above 0.

    Returns:
        (1, 3, H, W), 0 outside the hole, and 0 everywhere if no whole block is given.
    """
    height, width = hole.shape[-2:]
    blocks = _match_blocks(small[0], small_hole[0, 0] > 0)
    if blocks is None:
        return torch.zeros_like(pixels)
    fine = torch.where(hole > 0, resize(small, (height, width)), pixels)
    fine = _copy_blocks(fine[0], pixels[0], (small_hole.shape[-2], small_hole.shape[-1]), blocks)[None]
    coarse = resize(shrink(fine, small_hole.shape[-2:]), (height, width))
    return torch.where(hole > 0, fine - coarse, 0)


def _match_blocks(small: Tensor, hole: Tensor) -> tuple[Tensor, Tensor] | None:
    """Tops and lefts (N, 2) of the windows that cover the hole of a small picture (3, h, w), and tops and lefts (N, 2)
    of the most similar given windows; None if no whole window is given."""
    side = _BLOCK + 2 * _MARGIN
    height, width = hole.shape
    if min(height, width) < side or not hole.any():
        return None
    windows = small.unfold(1, side, 1).unfold(2, side, 1)  # (3, rows, columns, side, side), a view
    missing = window_sums(summed_areas(hole), side)
    is_given = missing == 0  # (rows, columns): whether all of a window is given
    places = is_given.nonzero()
    if not len(places):
        return None
    steps = [[max(0, min(i, n - side)) for i in range(-_MARGIN, n - _MARGIN, _BLOCK)] for n in (height, width)]
    wanted = torch.cartesian_prod(*map(torch.tensor, steps))
    wanted = wanted[missing[wanted[:, 0], wanted[:, 1]] > 0]
    sought = windows[:, wanted[:, 0], wanted[:, 1]].transpose(0, 1)  # (N, 3, side, side)
    halves = is_given[::2, ::2].nonzero()
    if len(places) <= _ALL_PLACES or not len(halves):  # a strip may hold no even row
        return wanted, places[_nearest(sought.flatten(1), windows, places)]
    # Every other place of every other row at half the size first, then the neighbours of each block's best.
    coarse = F.avg_pool2d(small, 2).unfold(1, side // 2, 1).unfold(2, side // 2, 1)
    found = 2 * halves[_nearest(F.avg_pool2d(sought, 2).flatten(1), coarse, halves)]
    around = found[:, None] + torch.tensor([[y, x] for y in (-1, 0, 1) for x in (-1, 0, 1)])  # (N, 9, 2)
    y, x = around[..., 0].clamp(0, is_given.shape[0] - 1), around[..., 1].clamp(0, is_given.shape[1] - 1)
    near = windows[:, y, x].movedim(0, 2).flatten(2)  # (N, 9, 3 side^2)
    distance = (near - sought.flatten(1)[:, None]).square().sum(2).masked_fill(~is_given[y, x], torch.inf)
    which = distance.argmin(1, keepdim=True)
    return wanted, torch.stack([y.gather(1, which)[:, 0], x.gather(1, which)[:, 0]], 1)


def _nearest(sought: Tensor, windows: Tensor, places: Tensor) -> Tensor:
    """For blocks ``sought`` (N, D) the most similar of the windows at ``places`` (M, 2): their numbers (N,)."""
    best, found = torch.full((len(sought),), torch.inf), torch.zeros(len(sought), dtype=torch.long)
    for part in torch.arange(len(places)).split(_CHUNK):
        given = windows[:, places[part, 0], places[part, 1]].transpose(0, 1).flatten(1)  # (M, D)
        distance = torch.addmm(given.square().sum(1), sought, given.T, alpha=-2)
        least, which = distance.min(1)
        found = torch.where(least < best, part[which], found)
        best = torch.minimum(best, least)
    return found


def _copy_blocks(fine: Tensor, pixels: Tensor, size: tuple[int, int], blocks: tuple[Tensor, Tensor]) -> Tensor:
    """(3, H, W): ``fine`` with windows of the photograph blended over it. ``size`` is the small picture's (h, w), in
    which ``blocks`` are given."""
    height, width = fine.shape[-2:]
    scale = np.array([height / size[0], width / size[1]])
    side = np.rint((_BLOCK + 2 * _MARGIN) * scale).astype(int)
    ramps = [_ramp(int(n), max(1, round(2 * _MARGIN * s))) for n, s in zip(side, scale, strict=True)]
    weight = ramps[0][:, None] * ramps[1][None, :]
    total, seen = torch.zeros_like(fine), torch.zeros(height, width)
    limit = np.array([height, width]) - side
    targets, sources = (np.rint(each.numpy() * scale).astype(int).clip(0, limit) for each in blocks)
    for (y, x), (v, u) in zip(targets.tolist(), sources.tolist(), strict=True):
        total[:, y : y + side[0], x : x + side[1]] += weight * pixels[:, v : v + side[0], u : u + side[1]]
        seen[y : y + side[0], x : x + side[1]] += weight
    return torch.where(seen > 1e-3, total / seen.clamp(min=1e-3), fine)


def _ramp(length: int, rise: int) -> Tensor:
    """Weights that rise over ``rise`` pixels from each end and never reach 0."""
    position = torch.arange(length) + 0.5
    return torch.minimum(position, length - position).clamp(max=rise) / rise
