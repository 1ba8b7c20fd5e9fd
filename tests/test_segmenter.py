"""What a segmenter may be told, and what it must give."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from photofound.edits import masks, segmenter
from photofound.edits.segmenter import Point, Search, Segmenter, is_points, of_function, places

RED = np.full((60, 80, 3), 0.9, np.float32)
RED[15:45, 20:60] = (0.8, 0.1, 0.1)


def reds(picture):
    return (picture[..., 0] > picture[..., 1] * 1.5).astype(np.float32)


def test_a_function_is_given_8_bit_pixels_and_what_it_asks_for():
    seen = {}

    def everything(picture, text="", points=()):
        seen.update(picture=picture, text=text, points=points)
        return reds(picture) > 0

    matte = Search(of_function(everything, "mine"), " the shoe ", "30,20 10%,90%,0")(RED)
    assert seen["picture"].dtype == np.uint8 and (seen["picture"] == np.rint(RED * 255)).all()
    assert seen["text"] == "the shoe" and seen["points"] == (Point(30, 20, True), Point(8, 54, False))
    assert matte.dtype == np.float32 and (matte == reds(seen["picture"])).all()
    assert (Search(of_function(reds, "mine"))(RED) == matte).all(), "one without further parameters"


def test_grabcut_is_the_one_that_was_there_before():
    assert (Search(segmenter.grabcut())(RED) == masks.grabcut(RED)).all()


def test_an_outline_is_refined_where_the_segmenter_is_coarse():
    def blocks(picture):
        return np.kron(reds(picture)[4::12, 5::10], np.ones((12, 10), np.float32))[:60, :80]

    truth = reds(np.rint(RED * 255).astype(np.uint8)) > 0
    coarse, refined = (Search(Segmenter("mine", blocks, outline=side))(RED) > 0.5 for side in (0, 512))
    square = np.ones((3, 3), np.uint8)
    edge = (cv2.dilate(truth.astype(np.uint8), square) != cv2.erode(truth.astype(np.uint8), square)) > 0
    assert (refined != truth).sum() < 0.3 * (coarse != truth).sum()
    assert not (refined != truth)[~edge].any() and (coarse != truth)[~edge].any(), "within a pixel of its edge"


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (np.zeros((60, 80)), "segmenter: mine found no 'cup' in the picture"),
        (np.zeros((60, 81)), r"gave an array of shape \(60, 81\); it must give a matte of \(60, 80\)"),
        (np.full((60, 80), 255, np.uint8), "gave uint8; it must give floats from 0 to 1, or booleans"),
        (np.full((60, 80), 2.0), "gave values from 2 to 2; a matte is from 0 to 1"),
        (np.full((60, 80), np.nan), "gave values from nan"),
        (None, r"gave an array of shape \(\)"),
    ],
)
def test_what_is_no_matte_is_refused(found, wrong):
    with pytest.raises(ValueError, match=wrong):
        Search(Segmenter("mine", lambda picture, **_: found, frozenset({"text"})), "cup")(RED)


def test_what_a_segmenter_cannot_be_told_is_refused():
    with pytest.raises(ValueError, match="subject_text: grabcut takes no words; leave it out, or name a segmenter"):
        Search(segmenter.grabcut(), "the cup")
    with pytest.raises(ValueError, match="subject_points: grabcut takes no points"):
        Search(segmenter.grabcut(), points=[(3, 4)])
    Search(segmenter.grabcut(), "  ", "")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("3,4", [(3, 4, True)]),
        (" 3.5,4;50%,25%,0\n1,1,1 ", [(3.5, 4, True), (40, 15, False), (1, 1, True)]),
        ((3, 4), [(3, 4, True)]),
        ([3, 4, 1], [(3, 4, True)]),
        ([(3, 4), (5, 6, False)], [(3, 4, True), (5, 6, False)]),
        (np.array([[3, 4], [5, 6]]), [(3, 4, True), (5, 6, True)]),
        (None, []),
        ("", []),
        ([], []),
    ],
)
def test_points(given, wanted):
    assert list(places(given, (80, 60))) == wanted


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ("3", "'3' is no point; write X,Y in pixels or per cent"),
        ("3,4,2", "'3,4,2' is no point"),
        ("-3,4", "'-3,4' is no point"),
        ([(1, 2, 3, 4)], "is no point"),
        (["a"], "is no point"),
        ("81,4", "81,4 lies outside the picture, which is 80x60"),
        ("3,101%", "lies outside"),
        ("3,4,0", "none lies on the subject"),
        ([(1, 1)] * 65, "got 65; give 64 at most"),
    ],
)
def test_what_is_no_point_is_refused(given, wrong):
    with pytest.raises(ValueError, match=f"subject_points: .*{wrong}"):
        places(given, (80, 60))


def test_points_of_one_picture_are_told_from_those_of_many():
    assert is_points((3, 4)) and is_points([(3, 4), (5, 6, 0)]) and is_points([[3, 4]])
    assert not is_points([[(3, 4)], [(5, 6)]]) and not is_points(["3,4", "5,6"]) and not is_points([])
