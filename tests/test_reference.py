"""References: what a user gives and what a photograph gives in training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import seeded

from photofound import Picture
from photofound.edits.reference import crops, free_squares, square, squares_in, with_references
from photofound.edits.task import Condition, Sample, get_task


def discs(batch=6, size=64, radius=18):
    """Red discs on blue grounds with a fine texture, and their mattes."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    matte = ((y - size / 2) ** 2 + (x - size / 2) ** 2 < radius**2).float().expand(batch, 1, size, size)
    ground = torch.tensor([-0.8, -0.6, 0.7])[:, None, None] + 0.2 * ((x + y) % 4 < 2)
    ball = torch.tensor([0.9, -0.9, -0.9])[:, None, None]
    return Sample(torch.lerp(ground.expand(batch, -1, -1, -1), ball, matte), matte, [""] * batch)


# --------------------------------------------------------------------------------------------------- what a user gives


def test_a_users_picture_is_seen_as_its_middle_square():
    photo = np.zeros((40, 100, 3), np.uint8)
    photo[:, 30:70] = (200, 100, 50)
    seen = square(Picture.from_any(photo), 32)
    assert seen.shape == (1, 3, 32, 32)
    expected = torch.tensor([200, 100, 50]) / 127.5 - 1
    assert (seen - expected[None, :, None, None]).abs().max() < 0.01


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 500, 3), (700, 300)])
def test_any_size_and_grey_will_do(shape):
    assert square(Picture.from_any(np.full(shape, 90, np.uint8)), 16).shape == (1, 3, 16, 16)


def test_what_is_transparent_takes_the_mean_colour_of_the_rest():
    photo = np.zeros((32, 32, 4), np.uint8)
    photo[:16] = (240, 20, 40, 255)
    photo[16:] = (0, 255, 0, 0)  # hidden green
    seen = square(Picture.from_any(photo), 32)
    assert (seen - torch.tensor([240, 20, 40])[None, :, None, None] / 127.5 + 1).abs().max() < 0.02
    nothing = square(Picture.from_any(np.zeros((8, 8, 4), np.uint8)), 8)
    assert nothing.isfinite().all()


# ---------------------------------------------------------------------------------------------- what a photograph gives


def test_squares_are_free_of_the_object_and_as_large_as_fits():
    taken = discs(200).matte
    boxes, found = free_squares(taken, seeded())
    assert found.all()
    for (row, column, side), matte in zip(boxes.tolist(), taken[:, 0], strict=True):
        top, left = round(row - side / 2), round(column - side / 2)
        assert 0 <= top and top + side <= 64 and 0 <= left and left + side <= 64
        assert matte[top : top + int(side), left : left + int(side)].sum() == 0
    # A disc of 36 leaves corners of 19 pixels.
    assert set(boxes[:, 2].tolist()) == {16.0, 12.0}
    assert len({tuple(box) for box in boxes.tolist()}) > 50, "always at the same place"


def test_a_sample_whose_object_leaves_no_square_has_no_reference():
    sample = discs()
    full = Sample(sample.pixels, torch.ones_like(sample.matte), sample.prompt)
    hole = torch.zeros_like(sample.matte)
    condition = Condition(sample.pixels, hole, ["outpaint"] * 6, sample.prompt, torch.zeros(6))
    condition = with_references(condition, full, True, 1.0, 32, seeded())
    assert not condition.referenced.any() and condition.reference.abs().max() == 0
    assert not free_squares(torch.ones(1, 1, 64, 64), seeded())[1].any()


def test_squares_for_a_hole_lie_around_it_and_in_the_picture():
    hole = torch.zeros(100, 1, 64, 64)
    hole[..., 50:60, :20] = 1
    boxes, found = squares_in(hole, seeded())
    half = boxes[:, 2] / 2
    assert found.all() and (boxes[:, :2] >= half[:, None]).all() and (boxes[:, :2] <= 64 - half[:, None]).all()
    reach = (boxes[:, 0] + half > 50) & (boxes[:, 1] - half < 20)
    assert reach.all()
    assert not squares_in(torch.zeros(1, 1, 64, 64), seeded())[1].any()


@pytest.mark.slow
def test_an_outpainting_reference_shows_the_ground_alone_in_its_share_of_the_samples():
    sample, task = discs(200), get_task("outpaint")
    condition = with_references(task.example(sample, seeded()), sample, True, 0.7, 32, seeded(1))
    assert condition.reference.shape == (200, 3, 32, 32) and condition.referenced.dtype == torch.bool
    assert 0.6 < condition.referenced.float().mean() < 0.8
    seen = condition.reference[condition.referenced]
    assert seen[:, 0].max() < -0.55 and seen[:, 2].min() > 0.65, "red got in"
    assert condition.reference[~condition.referenced].abs().max() == 0
    texture = seen[:, 0].flatten(1).std(1)
    assert texture.min() > 0.02, "its texture is gone"
    again = with_references(task.example(sample, seeded()), sample, True, 0.7, 32, seeded(1))
    assert torch.equal(again.reference, condition.reference)


def test_crops_are_never_the_place_itself_and_stay_within_their_square():
    """A ramp tells where each pixel is from."""
    ramp = torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij"))
    pixels = torch.cat((ramp, torch.zeros(1, 64, 64)))[None].expand(80, -1, -1, -1)
    boxes = torch.tensor([[20.0, 40.0, 16.0]]).expand(80, 3)
    made = crops(pixels, boxes, 32, seeded())
    assert made[:, 0].min() >= 12 - 1e-3 and made[:, 0].max() <= 27 + 1e-3
    assert made[:, 1].min() >= 32 - 1e-3 and made[:, 1].max() <= 47 + 1e-3
    forwards = (made[:, 1, 16, 17] > made[:, 1, 16, 15]).float().mean()
    assert 0.2 < forwards < 0.8, "not mirrored in half of the cases"
    steps = (made[:, 1, 16, 17] - made[:, 1, 16, 16]).abs()
    assert steps.min() < 0.6 < 0.85 < steps.max(), "always at one scale"


def test_large_pictures_are_averaged_not_skipped_through():
    noise = torch.randn(4, 3, 256, 256, generator=seeded())
    boxes = torch.tensor([[128.0, 128.0, 250.0]]).expand(4, 3)
    assert crops(noise, boxes, 16, seeded()).std() < 0.35


# ----------------------------------------------------------------------------------------------------------- conditions


def given(batch, referenced=None):
    condition = Condition(torch.rand(batch, 3, 8, 8), torch.ones(batch, 1, 8, 8), ["inpaint"] * batch, [""] * batch,
                          torch.zeros(batch))  # fmt: skip
    if referenced is None:
        return condition
    has = torch.tensor(referenced)
    return replace(condition, reference=torch.rand(batch, 3, 4, 4) * has[:, None, None, None], referenced=has)


def test_conditions_with_and_without_references_join_and_part():
    with_it, without = given(2, [True, False]), given(1)
    both = Condition.cat([without, with_it])
    assert both.referenced.tolist() == [False, True, False]
    assert both.reference[0].abs().max() == 0 and torch.equal(both.reference[1], with_it.reference[0])
    assert [part.reference is None for part in both.split()] == [True, False, True]
    assert torch.equal(both.split()[1].reference, with_it.reference[:1])
    assert Condition.cat([without, given(3)]).reference is None
    assert both.to("cpu").referenced.tolist() == [False, True, False] and without.to("cpu").reference is None


def test_a_reference_without_who_has_it_is_a_mistake():
    with pytest.raises(AssertionError, match="both or neither"):
        Condition(torch.rand(1, 3, 8, 8), torch.ones(1, 1, 8, 8), ["inpaint"], [""], torch.zeros(1),
                  torch.rand(1, 3, 4, 4))  # fmt: skip
