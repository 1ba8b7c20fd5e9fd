"""Strands before an even ground: found where they are, and nothing else changes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from photofound.edits import matting
from photofound.edits.strands import with_strands

GROUND = np.array([240.0, 240.0, 240.0])
SIDE = 256


def furry(strands=160, seed=0):
    """A photograph (H, W, 3) of a dark disc with strands on an even ground, its true matte, and the disc alone."""
    rng, large = np.random.default_rng(seed), 4 * SIDE
    disc = np.zeros((large, large), np.uint8)
    cv2.circle(disc, (large // 2, large // 2), large // 4, 255, -1, cv2.LINE_AA)
    whole = disc.copy()
    for _ in range(strands):
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.27, 0.3) * large
        ends = [(large / 2 + r * np.array([np.cos(angle), np.sin(angle)])).astype(int) for r in (large / 5, length)]
        cv2.line(whole, ends[0].tolist(), ends[1].tolist(), 255, 6, cv2.LINE_AA)
    matte, core = (cv2.resize(x, (SIDE, SIDE), interpolation=cv2.INTER_AREA) / np.float32(255) for x in (whole, disc))
    colours = np.array([0.25, 0.15, 0.1], np.float32)
    rgb = matte[..., None] * colours + (1 - matte[..., None]) * (GROUND / 255)
    return np.rint(rgb * 255).astype(np.float32) / 255, matte, core > 0.5


NOWHERE = np.zeros((SIDE, SIDE), bool)


def test_strands_are_found_with_their_shares():
    rgb, truth, outline = furry()
    edge = matting.soft_edge(rgb, outline, False)
    found = with_strands(rgb, edge, outline, GROUND, NOWHERE)
    before, after = (np.abs(each - truth).sum() for each in (edge, found))
    assert after < before / 3 and found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    assert (found[np.hypot(*(np.mgrid[:SIDE, :SIDE] - SIDE / 2)) > 0.37 * SIDE] == 0).all()


@pytest.mark.parametrize("blur", [0.01, 3.0])
def test_without_strands_nothing_changes(blur):
    rgb, _, outline = furry(strands=0)
    rgb = cv2.GaussianBlur(rgb, (0, 0), blur)
    edge = matting.soft_edge(rgb, outline, False)
    assert with_strands(rgb, edge, outline, GROUND, NOWHERE) is edge


def test_what_is_sure_stays_and_what_does_not_begin_at_the_subject_is_none():
    rgb, _, outline = furry()
    edge = matting.soft_edge(rgb, outline, False)
    sure = outline & (np.mgrid[:SIDE, :SIDE][1] < SIDE // 2)
    rgb[sure] = GROUND / 255  # a white label, say
    rgb[10:14, 120:124] = 0.2  # a speck of dust
    found = with_strands(rgb, edge, outline, GROUND, sure)
    assert (found[sure] == edge[sure]).all() and (found[10:14, 120:124] == 0).all()


def test_refining_uses_them_on_an_even_ground_alone(monkeypatch):
    rgb, truth, outline = furry()
    rough = cv2.GaussianBlur(outline.astype(np.float32), (0, 0), 3)
    fine = matting.refine(rgb, rough, soft=False)
    grounds = []
    monkeypatch.setattr(matting, "with_strands", lambda rgb, edge, *more: grounds.append(more) or edge)
    plain = matting.refine(rgb, rough, soft=False)
    assert np.abs(fine - truth).sum() < 0.6 * np.abs(plain - truth).sum() and len(grounds) == 1
    noise = np.random.default_rng(0).uniform(0, 1, rgb.shape).astype(np.float32)
    matting.refine(np.where(truth[..., None] > 0.5, rgb, noise), rough, soft=False)
    assert len(grounds) == 1
