"""The object in a photograph: which is complete, and mattes and captions of plain grounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import noise

from photofound.data.captions import captions
from photofound.data.objects import cut_clean, grabcut, matte_plain_grounds, object_box
from photofound.data.photograph import Photograph
from photofound.edits.colours import COLOURS


def photograph(height=40, width=52, matte=None, caption="a cup", seed=0, source="here"):
    pixels = torch.from_numpy(noise(height, width, seed=seed).transpose(2, 0, 1).copy())
    return Photograph(pixels, matte, caption, source)


def boxed(height, width, top, bottom, left, right):
    """The matte of an object that fills a box."""
    matte = torch.zeros(1, height, width, dtype=torch.uint8)
    matte[:, top:bottom, left:right] = 255
    return matte


@pytest.mark.parametrize(
    "box, whole",
    [
        ((8, 30, 10, 32), True),
        ((1, 39, 1, 51), False),  # nearly everything
        ((8, 12, 10, 14), False),  # 16 of 2,080 pixels
        ((0, 30, 10, 32), False),
        ((8, 40, 10, 32), False),
        ((8, 30, 0, 32), False),
        ((8, 30, 10, 52), False),
    ],
)
def test_which_object_is_complete(box, whole):
    found = object_box(boxed(40, 52, *box))
    assert found == ((box[2], box[0], box[3], box[1]) if whole else (0, 0, 0, 0))


def test_captions_name_the_ground_where_it_has_one_colour():
    even = torch.tensor(COLOURS["teal"][0], dtype=torch.uint8)[:, None, None].expand(3, 40, 50)
    photo = Photograph(even, None, " A photo of a cup on a table. ", "")
    assert captions(photo) == [
        "a cup on a table",
        "a cup on a teal background",
        "on a teal background",
        "teal background",
    ]
    mixed = photograph(caption="A product photo of apples in a grocery store")
    assert captions(mixed) == ["apples in a grocery store", "apples in a grocery store", "apples"]


def test_objects_on_plain_grounds_get_a_matte():
    y, x = np.mgrid[:90, :120]
    inside = np.hypot(y - 45, x - 60) < 25
    array = np.where(inside[..., None], (200, 30, 35), (205, 205, 205)) + np.random.default_rng(0).normal(
        0, 3, (90, 120, 3)
    )
    plain = Photograph(torch.from_numpy(array.clip(0, 255).astype(np.uint8).transpose(2, 0, 1).copy()), None, "", "")
    busy, has = photograph(90, 120), photograph(40, 52, boxed(40, 52, 8, 30, 10, 32))
    empty = Photograph(torch.full((3, 60, 60), 205, dtype=torch.uint8), None, "", "")
    matted = matte_plain_grounds([plain, busy, has, empty])
    found = matted[0].matte[0].numpy() > 127
    assert matted[0].matte.shape == (1, 90, 120)
    assert (found & inside).sum() / (found | inside).sum() > 0.9
    assert matted[1] is busy and matted[2] is has and matted[3] is empty


def test_mattes_of_cut_objects_and_of_shadows_are_not_clean():
    y, x = np.mgrid[:90, :120]
    noise = np.random.default_rng(0).normal(0, 3, (90, 120, 3))

    def matted(inside, segmenter=grabcut):
        array = np.where(inside[..., None], (200, 30, 35), (205, 205, 205)) + noise
        pixels = torch.from_numpy(array.clip(0, 255).astype(np.uint8).transpose(2, 0, 1).copy())
        return cut_clean(pixels, segmenter)

    whole, cut = np.hypot(y - 45, x - 60) < 25, np.hypot(y - 80, x - 60) < 30
    assert matted(whole) is not None
    assert matted(cut) is None  # GrabCut's matte ends just inside the frame

    def with_shadow(rgb):
        """The object and as much of the ground beside it."""
        rows, columns = np.mgrid[: rgb.shape[0], : rgb.shape[1]] * 90 / rgb.shape[0]
        return (np.hypot(rows - 45, columns - 60) < 36).astype(np.float32)

    assert matted(whole, with_shadow) is None
