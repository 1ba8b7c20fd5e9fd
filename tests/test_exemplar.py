"""Exemplar canvases: what is given stays, texture is copied, every hole has an answer."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from skimage import data

from photofound.edits import exemplar


def photograph(side: int = 96) -> np.ndarray:
    """Grass-like texture: the lower right of scikit-image's cat would do, but a brick wall has more to copy."""
    rgb = np.repeat(data.brick()[:side, :side, None], 3, 2).copy()
    rgb[..., 2] //= 2
    return rgb


def hole_of(side: int, low: float, high: float) -> np.ndarray:
    hole = np.zeros((side, side), bool)
    hole[int(side * low) : int(side * high), int(side * low) : int(side * high)] = True
    return hole


def test_what_is_given_comes_back_and_the_hole_has_the_pictures_texture():
    rgb, hole = photograph(), hole_of(96, 0.3, 0.6)
    filled = exemplar.fill(rgb, hole)
    assert (filled[~hole] == rgb[~hole]).all()
    inside, outside = filled[hole][:, 0].std(), rgb[~hole][:, 0].std()
    assert 0.5 < inside / outside < 1.5
    assert (filled[hole][:, 2] <= 128).all(), "colours that the picture does not have"


def test_what_stood_in_the_hole_is_not_looked_at():
    rgb, hole = photograph(), hole_of(96, 0.3, 0.6)
    other = rgb.copy()
    other[hole] = (255, 0, 255)
    assert (exemplar.fill(rgb, hole) == exemplar.fill(other, hole)).all()


@pytest.mark.slow
def test_same_seed_same_pixels_in_any_thread():
    rgb, hole = photograph(64), hole_of(64, 0.2, 0.7)
    alone = {seed: exemplar.fill(rgb, hole, seed) for seed in range(4)}
    together: dict[int, np.ndarray] = {}

    def work(seed: int) -> None:
        together[seed] = exemplar.fill(rgb, hole, seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((alone[seed] == together[seed]).all() for seed in alone)
    assert any((alone[0] != alone[seed]).any() for seed in (1, 2, 3)), "the seed decides nothing"


@pytest.mark.parametrize("kept", [0, 1, 10])
@pytest.mark.parametrize("shape", [(40, 40), (1, 30), (30, 1), (1, 1), (7, 5)])
def test_degenerate_holes_are_filled_smoothly(kept, shape):
    rgb = np.full((*shape, 3), 77, np.uint8)
    hole = np.ones(shape, bool)
    hole.flat[:kept] = False
    filled = exemplar.fill(rgb, hole)
    assert filled.shape == rgb.shape
    if kept:
        assert np.abs(filled.astype(int) - 77).max() <= 1


def test_no_hole_changes_nothing():
    rgb = photograph(32)
    assert (exemplar.fill(rgb, np.zeros((32, 32), bool)) == rgb).all()


def as_pixels(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rgb.transpose(2, 0, 1).astype(np.float32))[None] / 127.5 - 1


@pytest.mark.slow
def test_large_pictures_have_texture_of_their_own_resolution():
    side = 512
    rgb, hole = photograph(side), hole_of(side, 0.35, 0.6)
    mask = torch.from_numpy(hole)[None, None].float()
    filled = exemplar.canvas(as_pixels(rgb), mask)
    assert torch.equal(filled[:, :, ~hole], as_pixels(rgb)[:, :, ~hole])

    def fineness(x: torch.Tensor, where: np.ndarray) -> float:
        steps = (x[..., 1:] - x[..., :-1]).abs()[0, 0].numpy()
        return float(steps[where[:, 1:]].mean())

    inside = hole_of(side, 0.38, 0.57)
    assert fineness(filled, inside) > 0.7 * fineness(as_pixels(rgb), ~hole), "smoother than the photograph"


def test_texture_is_nothing_outside_the_hole_and_where_nothing_is_left_to_copy():
    pixels = as_pixels(photograph(64))
    hole = torch.zeros(1, 1, 64, 64)
    hole[..., 20:40, 20:40] = 1
    small, small_hole = torch.nn.functional.interpolate(pixels, scale_factor=0.5), hole[..., ::2, ::2]
    fine = exemplar.texture(pixels, hole, small, small_hole)
    assert fine.shape == pixels.shape and not fine[(hole == 0).expand_as(fine)].any() and fine.any()
    everything = torch.ones_like(hole)
    assert not exemplar.texture(pixels, everything, small, torch.ones_like(small_hole)).any()


def test_a_batch_is_its_members():
    pixels = torch.cat([as_pixels(photograph(48)), as_pixels(photograph(48)).flip(-1)])
    hole = torch.zeros(2, 1, 48, 48)
    hole[0, :, 10:25, 10:25] = 1
    hole[1, :, 20:40, 5:25] = 1
    together = exemplar.canvas(pixels, hole)
    assert torch.equal(together, torch.cat([exemplar.canvas(pixels[i : i + 1], hole[i : i + 1]) for i in (0, 1)]))


def test_the_lookup_finds_where_a_block_was_copied_from():
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(3, 128, 128, generator=generator)  # more places than are all looked at
    small = torch.nn.functional.avg_pool2d(small, 5, 1, 2)  # neighbours are alike, as in a photograph
    hole = torch.zeros(128, 128, dtype=torch.bool)
    hole[64:80, 64:80] = True
    small[:, 52:92, 52:92] = small[:, 5:45, 14:54]  # from an odd row and an even column
    wanted, found = exemplar._match_blocks(small, hole)
    assert len(wanted) and ((wanted - found) == torch.tensor([47, 38])).all()


def test_parts_of_a_hole_are_filled_side_by_side_and_copy_nothing_from_each_other():
    rgb, hole = photograph(), np.zeros((96, 96), bool)
    hole[:, :16] = hole[:, -16:] = True
    hole[40:44, 40:44] = True
    groups = exemplar._groups(hole, 3, 2)
    assert sorted(np.count_nonzero(group) for group in groups) == [16 * 96, 16 * 96 + 16]
    assert (sum(groups) == hole).all()
    filled = exemplar.fill(rgb, hole, parts=2)
    assert (filled[~hole] == rgb[~hole]).all()
    assert filled[hole].min() >= rgb[~hole].min(), "black comes from a part that was not filled yet"
    near = np.zeros((96, 96), bool)
    near[20:30, 20:30] = near[20:30, 33:40] = True
    assert len(exemplar._groups(near, 3, 2)) == 1, "patches of the one part see the other"


def test_a_hole_of_a_thousand_dots_is_one_question():
    hole = np.zeros((256, 256), bool)
    hole[::16, ::16] = True
    groups = exemplar._groups(hole, 2, 2)
    assert len(groups) == 2 and abs(np.count_nonzero(groups[0]) - np.count_nonzero(groups[1])) <= 1


def test_a_quick_search_compares_less_and_a_thorough_one_is_the_default(monkeypatch):
    seen = []
    original = exemplar.patchmatch
    monkeypatch.setattr(
        exemplar, "patchmatch", lambda rgb, *rest: (seen.append((rgb.shape[:2], *rest[1:3])), original(rgb, *rest))[1]
    )
    pixels, hole = as_pixels(photograph(200)), torch.zeros(1, 1, 200, 200)
    hole[..., 40:180, 40:180] = 1
    quick = exemplar.SEARCHES["quick"]
    for options in ((), exemplar.attempt(3, exemplar.SEARCHES["thorough"]), (0, quick), exemplar.attempt(2, quick)):
        exemplar.canvas(pixels, hole, *options)
    hole[..., 60:, :] = 0  # so small a hole is searched at its own size
    exemplar.canvas(pixels, hole, 7, quick)
    full, small = (200, 200), (156, 156)
    assert seen == [(full, 5, 0), (full, 3, 1), (small, 2, 0), (full, 2, 2), (full, 2, 7)]
