"""Holes far apart: each is worked on by itself, as sharp and in the time as if it were alone."""

import time

import numpy as np
import pytest
import torch

from photofound import ErasePipeline, InpaintPipeline
from photofound.edits.regions import split, whole
from photofound.edits.task import get_task
from photofound.image import Picture

TILE = 256


def holes(height, width, *boxes):
    """Boxes are (top, left, rows, columns)."""
    hole = np.zeros((height, width), np.float32)
    for top, left, rows, columns in boxes:
        hole[top : top + rows, left : left + columns] = 1
    return hole


def parts_of(hole, tile=TILE):
    return split(hole, 1 - hole, tile)


def specks(count, height=1500, width=2000, seed=0):
    rng = np.random.default_rng(seed)
    return holes(height, width, *((*rng.integers(60, (height - 60, width - 60)), 11, 11) for _ in range(count)))


def check_shared_out(hole, parts):
    """Every pixel of the hole is painted, and no other."""
    painted = np.zeros_like(hole)
    for part in parts:
        keep = part.keep(1 - hole)
        assert (keep[hole == 0] == 1).all()
        painted = np.maximum(painted, 1 - keep)
    assert np.array_equal(painted, hole)


@pytest.mark.slow
def test_specks_are_worked_on_at_the_photographs_own_scale():
    hole = specks(8)
    parts = parts_of(hole)
    assert len(parts) > 4 and all(part.size == (part.box.height, part.box.width) for part in parts)
    assert sum(np.prod(part.size) for part in parts) <= 8 * TILE**2
    check_shared_out(hole, parts)
    assert max(whole(hole, TILE).size) < 1800, "in one box they would be shrunk"


@pytest.mark.slow
def test_three_holes_in_a_panorama():
    hole = holes(400, 9_000, (200, 500, 120, 150), (300, 4_800, 30, 400), (80, 8_300, 200, 180))
    parts = parts_of(hole)
    assert len(parts) == 3
    for part in parts:
        alone = whole(hole * (part.keep(1 - hole) < 1), TILE)
        assert (part.box, part.size) == (alone.box, alone.size)
    check_shared_out(hole, parts)


def test_a_part_is_painted_a_little_smaller_where_that_saves_tiles():
    sides = np.zeros((512, 768), np.float32)
    sides[:, :128] = sides[:, -128:] = 1
    assert whole(sides, 256).size == (256, 384), "268 x 402 would take two rows of tiles instead of one"
    wide = np.zeros((700, 1000), np.float32)
    wide[:, :100] = wide[:, -100:] = 1
    assert whole(wide, 256).size == (469, 670), "nine tenths of the scale save no tile"
    thin = np.zeros((300, 300), np.float32)
    thin[149:151] = 1
    assert whole(thin, 256).size == (256, 300), "what is painted at its own size stays so"


@pytest.mark.parametrize(
    "boxes", [[(40, 50, 9, 9)], [(40, 50, 9, 9), (60, 90, 9, 9)], [(100, 60, 90, 90), (95, 170, 90, 90)]]
)
def test_one_hole_and_near_ones_are_one_part(boxes):
    hole = holes(300, 400, *boxes)
    assert parts_of(hole) == [whole(hole, TILE)]


def test_no_part_is_smaller_than_its_holes_alone_and_all_cost_no_more_than_their_sum():
    hole = holes(1500, 2000, (100, 100, 200, 200), (150, 420, 40, 40), (900, 1500, 300, 300), (1300, 100, 20, 600))
    parts = parts_of(hole)
    assert len(parts) > 1
    check_shared_out(hole, parts)
    alone = [
        whole(holes(1500, 2000, box), TILE)
        for box in ((100, 100, 200, 200), (150, 420, 40, 40), (900, 1500, 300, 300), (1300, 100, 20, 600))
    ]
    assert sum(np.prod(part.size) for part in parts) <= sum(np.prod(part.size) for part in alone)


def test_soft_edges_go_with_their_hole():
    mask = holes(600, 1200, (100, 100, 40, 40), (400, 1000, 40, 40))
    mask[96:100, 100:140] = 0.4
    parts = split((mask > 0).astype(np.float32), 1 - mask, TILE)
    assert len(parts) == 2 and np.allclose(sum(1 - part.keep(1 - mask) for part in parts), mask)


@pytest.mark.slow
@pytest.mark.parametrize("count", [100, 1500])
def test_dust_all_over_is_split_in_a_moment(count):
    hole = specks(count)
    start = time.process_time()
    parts = parts_of(hole, 128)
    assert time.process_time() - start < 20
    assert 50 < len(parts) <= 512 and all(part.size == (part.box.height, part.box.width) for part in parts)
    painted = np.zeros(hole.shape)
    for part in parts:
        painted[part.box.slices] = np.maximum(painted[part.box.slices], part.own)
    assert (painted[hole > 0] == 1).all()


@pytest.mark.slow
def test_a_scratch_through_a_large_photograph_is_cut_into_pieces_that_fade():
    hole = np.zeros((1200, 1800), np.float32)
    y, x = np.mgrid[:1200, :1800]
    hole[np.abs(2 * x - 3 * y) < 20] = 1
    parts = parts_of(hole, 128)
    assert 15 <= len(parts) <= 50
    assert all(part.size == (128, 128) == (part.box.height, part.box.width) for part in parts)
    check_shared_out(hole, parts)
    assert any(((part.own > 0) & (part.own < 1)).any() for part in parts[1:])
    assert set(np.unique(parts[0].own)) == {0, 1}, "nothing lies below the first one to fade into"


# ------------------------------------------------------------------------------------------------------------- edits


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (90, 400, 3), np.uint8)


def mask_of(hole):
    return (hole * 255).astype(np.uint8)


FAR = mask_of(holes(90, 400, (30, 20, 8, 8), (50, 350, 12, 9)))


def edit(pipe, photo, mask, seed=0, **inputs):
    settings = {"num_inference_steps": 1, "generator": torch.Generator().manual_seed(seed), "output_type": "picture"}
    return pipe(photo, mask_image=mask, **inputs, **settings).images[0].pixels


def test_far_holes_are_painted_and_nothing_else(tiny, photo):
    pipe = tiny(ErasePipeline)
    assert (
        len(pipe._parts(get_task("erase"), get_task("erase").prepare(Picture.from_any(photo), mask_image=FAR, grow=0)))
        == 2
    )
    made, again, other = (edit(pipe, photo, FAR, seed, grow=0) for seed in (0, 0, 1))
    assert (made[FAR == 0] == photo[FAR == 0]).all() and np.array_equal(made, again)
    for half in (np.s_[:, :200], np.s_[:, 200:]):
        inside = FAR[half] > 0
        assert (made[half][inside] != photo[half][inside]).any(-1).mean() > 0.9
        assert (made[half][inside] != other[half][inside]).any(), "each part has noise of the seed"


def test_the_parts_of_one_edit_do_not_depend_on_company(tiny, photo):
    pipe, task = tiny(InpaintPipeline), get_task("inpaint")
    near = mask_of(holes(90, 400, (30, 20, 8, 8)))
    jobs = [task.prepare(Picture.from_any(np.roll(photo, i, 1)), mask) for i, mask in enumerate((near, FAR, near))]

    def run(jobs, seeds):
        return pipe.run(jobs, [torch.Generator().manual_seed(seed) for seed in seeds], 1, 1.0)

    together = run(jobs, (5, 7, 9))
    for job, seed, result in zip(jobs, (5, 7, 9), together, strict=True):
        assert np.array_equal(run([job], [seed])[0].pixels, result.pixels)
