"""From a rough matte to a fine one, against drawn truths."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from photofound.edits import guided, matting


def star(height=300, width=400, points=5):
    """A photograph (H, W, 3) of a star on an uneven ground, its true matte, and the two colours it is mixed of."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = (y - 0.55 * height) / height, (x - 0.45 * width) / height
    radius = 0.26 + 0.08 * np.cos(points * np.arctan2(y, x))
    matte = np.clip((radius - np.hypot(y, x)) * height / 3 + 0.5, 0, 1).astype(np.float32)
    rng = np.random.default_rng(0)
    ground = np.stack([0.35 + 0.3 * x, 0.5 + 0.2 * y, 0.75 - 0.2 * x], -1)
    own = np.stack([0.85 - 0.2 * y, 0.3 + 0.1 * x, 0.2 + 0 * x], -1)
    noise = rng.normal(0, 0.015, (height, width, 1))
    photo = (matte[..., None] * own + (1 - matte[..., None]) * ground + noise).clip(0, 1)
    return photo.astype(np.float32), matte, own.astype(np.float32)


def roughened(matte, side=24):
    """A matte as a coarse head would give it: small, blurred and a little beside itself."""
    height, width = matte.shape
    small = cv2.resize(matte, (side * width // height, side), interpolation=cv2.INTER_AREA)
    rough = cv2.resize(cv2.GaussianBlur(small, (0, 0), 0.6), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.roll(rough.clip(0, 1), (2, 2), (0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("working", [200, 1024])
def test_a_rough_matte_becomes_the_outline(soft, working):
    photo, truth, _ = star()
    rough = roughened(truth)
    fine = matting.refine(photo, rough, working, soft)
    before, after = (matting.iou(m > 0.5, truth > 0.5) for m in (rough, fine))
    assert before < 0.95 and after > 0.98 and np.abs(fine - truth).mean() < 0.25 * np.abs(rough - truth).mean()
    deep = cv2.erode((truth == 1).astype(np.uint8), np.ones((31, 31), np.uint8)) > 0
    far = cv2.dilate((truth > 0).astype(np.uint8), np.ones((31, 31), np.uint8)) == 0
    assert fine.dtype == np.float32 and (fine[deep] == 1).all() and (fine[far] == 0).all()


def mug(ground=0.96, side=200):
    """A red mug with a handle (H, W, 3) on an even ground, its true matte, and that of a head that fills the handle."""
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    body = (abs(x - 0.4) < 0.2) & (abs(y - 0.5) < 0.3)
    ring = np.hypot(x - 0.62, y - 0.5)
    truth, filled = body | ((ring < 0.17) & (ring > 0.1)), body | (ring < 0.17)
    noise = np.random.default_rng(0).normal(0, 0.01, (side, side, 1))
    photo = np.where(truth[..., None], (0.75, 0.15, 0.1), ground) + noise
    return photo.clip(0, 1).astype(np.float32), truth, filled.astype(np.float32)


def test_on_an_even_ground_what_has_its_colour_is_no_part_of_the_subject():
    photo, truth, filled = mug()
    rough = cv2.GaussianBlur(filled, (0, 0), 3) * 0.97
    assert matting.iou(rough > 0.5, truth) < 0.95 < matting.iou(matting.refine(photo, rough, soft=False) > 0.5, truth)
    photo[: len(photo) // 2] *= 0.5  # no even ground: the matte is all that is known of the handle
    assert matting.iou(matting.refine(photo, rough, soft=False) > 0.5, truth) < 0.95


def test_a_white_subject_on_white_stays_where_the_matte_is_sure():
    photo, _, filled = mug()
    photo[filled > 0] = photo[:5].mean((0, 1))
    assert matting.iou(matting.refine(photo, filled, soft=False) > 0.5, filled > 0.5) > 0.95


def test_a_faint_matte_is_followed():
    photo, truth, _ = mug()
    faint = cv2.GaussianBlur(truth.astype(np.float32), (0, 0), 2) * 0.45
    faint[80:90, 60:70] = 0.9  # sure of one place alone
    assert matting.iou(matting.refine(photo, faint, soft=False) > 0.5, truth) > 0.95


@pytest.mark.slow
def test_a_large_photograph_is_refined_at_the_working_size_and_keeps_its_own_edge():
    photo, truth, _ = star(1500, 2000)
    fine = matting.refine(photo, roughened(truth, 40), 512, soft=False)
    assert fine.shape == truth.shape and matting.iou(fine > 0.5, truth > 0.5) > 0.985
    assert ((fine > 0) & (fine < 1)).mean() < 0.05, "soft near the edge alone"


def test_grabcut_is_not_believed_where_it_disagrees(monkeypatch):
    photo, truth, _ = star()
    rough = roughened(truth)
    right = matting.refine_outline(photo, rough)

    def mistaken(pixels, label, *rest):
        label[:] = cv2.GC_BGD
        label[:10] = cv2.GC_FGD

    monkeypatch.setattr(cv2, "grabCut", mistaken)
    assert (matting.refine_outline(photo, rough) == (rough > 0.5)).all()
    assert (right != (rough > 0.5)).any()


@pytest.mark.parametrize("matte", [np.zeros((20, 30)), np.ones((20, 30)), np.eye(20, 30)])
def test_nothing_all_and_threads_are_no_errors(matte):
    matte = matte.astype(np.float32)
    fine = matting.refine(np.full((20, 30, 3), 0.5, np.float32), matte)
    assert fine.shape == matte.shape and np.isfinite(fine).all() and fine.min() >= 0 and fine.max() <= 1
    assert fine.any() == matte.any() or not matte.all()


def test_the_guided_filter_is_that_of_the_paper():
    rng = np.random.default_rng(0)
    guide, x = rng.random((12, 15, 3)).astype(np.float32), rng.random((12, 15)).astype(np.float32)
    radius, epsilon = 2, 0.01
    lines = np.zeros((12, 15, 4))
    colours, values = (
        np.pad(each, [(radius, radius)] * 2 + [(0, 0)] * (each.ndim - 2), "reflect") for each in (guide, x)
    )
    for i, j in np.ndindex(12, 15):
        g, p = colours[i : i + 5, j : j + 5].reshape(-1, 3), values[i : i + 5, j : j + 5].ravel()
        slope = np.linalg.solve(np.cov(g.T, bias=True) + epsilon * np.eye(3), g.T @ p / 25 - g.mean(0) * p.mean())
        lines[i, j] = *slope, p.mean() - slope @ g.mean(0)
    lines = np.pad(lines, [(radius, radius)] * 2 + [(0, 0)], "reflect")
    means = np.array([[lines[i : i + 5, j : j + 5].mean((0, 1)) for j in range(15)] for i in range(12)])
    expected = (means[..., :3] * guide).sum(2) + means[..., 3]
    assert np.abs(guided.guided_filter(guide, x, radius, epsilon) - expected).max() < 1e-4
    where = np.zeros((12, 15), bool)
    where[4:7, 6:9] = True
    part = guided.guided_filter(guide, x, radius, epsilon, where)
    assert np.abs(part - expected)[where].max() < 1e-4 and not part[~where].any()


def test_a_quick_edge_does_not_follow_the_stripes_of_a_table():
    """The dark stripes are as bright as the plate: by brightness alone the matte went on along them."""
    y, x = np.mgrid[:480, :480]
    truth = np.hypot(x - 240, y - 230) < 160
    stripes = np.where(((x + 2 * y) % 5 < 2)[..., None], (0.42, 0.28, 0.18), (0.85, 0.65, 0.4))
    photo = np.where(truth[..., None], (0.72, 0.1, 0.06), stripes).astype(np.float32)
    outside = cv2.dilate(truth.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
    grey = np.repeat(photo.mean(2, keepdims=True), 3, 2)
    leaks = [matting.soft_edge(each, truth, soft=False)[outside].max() for each in (photo, grey)]
    assert leaks[0] < 0.02 < 0.1 < leaks[1]


def test_soft_pixels_get_the_subjects_own_colours_and_others_stay():
    photo, matte, own = star()
    colours = matting.subject_colours(photo, matte)
    soft = (matte > 0.2) & (matte < 1)
    assert (colours[(matte == 0) | (matte == 1)] == photo[(matte == 0) | (matte == 1)]).all()
    assert np.abs(colours - own)[soft].mean() < 0.1 * np.abs(photo - own)[soft].mean()
    assert matting.subject_colours(photo, (matte > 0.5).astype(np.float32)) is photo


def glass(side=128):
    """A photograph of a pane before a ground in two halves, with an opaque frame of another colour; its matte, and the
    pane's colours."""
    matte = np.zeros((side, side), np.float32)
    matte[24:104, 24:104] = 1
    matte[32:96, 32:96] = 0.3
    own = np.where((matte == 1)[..., None], (0.1, 0.1, 0.1), (0.2, 0.8, 0.5)).astype(np.float32)
    ground = np.full((side, side, 3), 0.9, np.float32)
    photo = matte[..., None] * own + (1 - matte[..., None]) * ground
    return (np.rint(photo * 255) / 255).astype(np.float32), matte, own


def test_glass_has_its_own_colour_and_not_that_of_its_frame():
    photo, matte, own = glass()
    pane = matte == np.float32(0.3)
    colours = matting.subject_colours(photo, matte)
    wrong, frame, nothing = (np.abs(each - own)[pane].mean() for each in (colours, np.full_like(own, 0.1), photo))
    assert wrong < 0.6 * frame and wrong < 0.85 * nothing


def test_both_colours_mix_to_the_photograph():
    photo, matte, _ = star(60, 80)
    own, behind = matting.unmix(photo, matte)
    mixed = matte[..., None] * own + (1 - matte[..., None]) * behind
    assert own.shape == behind.shape == photo.shape and np.abs(mixed - photo).mean() < 0.01
    assert np.abs(own - photo)[matte == 1].max() < 1e-5 and np.abs(behind - photo)[matte == 0].max() < 1e-5


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (2, 2), (33, 5)])
def test_colours_of_tiny_pictures(shape):
    photo, matte = np.full((*shape, 3), 0.5, np.float32), np.full(shape, 0.5, np.float32)
    colours = matting.subject_colours(photo, matte)
    assert colours.shape == photo.shape and np.abs(colours - 0.5).max() < 1e-5


def test_a_large_soft_part_is_unmixed_at_a_bounded_size(monkeypatch):
    monkeypatch.setattr(matting, "_MOST_UNMIXED", 2000)
    photo, matte, own = star()
    colours = matting.subject_colours(photo, matte)
    soft = (matte > 0.2) & (matte < 1)
    assert (colours[~((matte > 0) & (matte < 1))] == photo[~((matte > 0) & (matte < 1))]).all()
    assert np.abs(colours - own)[soft].mean() < 0.5 * np.abs(photo - own)[soft].mean()


def test_both_soft_edges_are_near_the_truth_and_closed_form_is_nearer():
    photo, truth, _ = star()
    band = (truth > 0) & (truth < 1)
    errors = [np.abs(matting.soft_edge(photo, truth > 0.5, soft) - truth)[band].mean() for soft in (True, False)]
    assert errors[0] < errors[1] < 0.25


def test_iou():
    a, b = np.zeros((2, 4, 4), bool)
    assert matting.iou(a, b) == 1
    a[:2], b[1:3] = True, True
    assert matting.iou(a, b) == pytest.approx(1 / 3)


def plate():
    """A red plate (H, W, 3) on a table of stripes, which is no even ground, its truth, and a matte with a part of the
    table."""
    side = 160
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    truth = np.hypot(x - 0.5, y - 0.48) < 0.33
    table = np.stack([0.2 + 0.6 * x, 0.15 + 0.5 * x, 0.1 + 0.3 * y], -1) + 0.06 * np.sin(90 * y)[..., None]
    noise = np.random.default_rng(0).normal(0, 0.01, (side, side, 1))
    photo = np.where(truth[..., None], (0.8, 0.05, 0.05), table) + noise
    more = truth | ((np.hypot(x - 0.52, y - 0.5) < 0.34) & (y > 0.6))
    return photo.clip(0, 1).astype(np.float32), truth, more


def test_of_two_outlines_of_one_subject_the_one_along_edges_is_taken():
    photo, truth, more = plate()
    assert matting.ground_colour(photo * 255) is None
    assert matting.edge_strength(photo, truth) > matting.edge_strength(photo, more) + matting.SHARPER
    assert matting._sharper(photo, more, truth) is truth and matting._sharper(photo, truth, more) is truth
    half = truth & (np.arange(160) < 80)
    assert matting._sharper(photo, more, half) is more, "not of the same subject"
    assert matting.edge_strength(photo, np.ones_like(truth)) == 0


def test_grabcut_corrects_a_matte_that_took_in_some_of_the_table(monkeypatch):
    photo, truth, more = plate()
    fine = matting.refine(photo, more.astype(np.float32), soft=False) > 0.5
    monkeypatch.setattr(matting.masks, "grabcut", lambda rgb: np.zeros(rgb.shape[:2], np.float32))
    alone = matting.refine(photo, more.astype(np.float32), soft=False) > 0.5
    assert matting.iou(alone, truth) < 0.97 < matting.iou(fine, truth)
