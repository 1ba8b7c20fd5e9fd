"""Lengths, margins, boxes and tiles: integers, by hand and by counting pixels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from photofound.edits.geometry import (
    Box,
    Margins,
    aspect_buckets,
    aspect_margins,
    bounding_box,
    cover,
    grow_box,
    middle,
    nearest_bucket,
    parse_length,
    parse_pair,
    parse_size,
    round_up,
    size_margins,
    tile_starts,
    tiles,
)


def test_a_box_indexes_rows_then_columns():
    box = Box(2, 1, 6, 4)
    picture = np.arange(5 * 7).reshape(5, 7)
    assert (box.width, box.height) == (4, 3)
    assert np.array_equal(picture[box.slices], picture[1:4, 2:6])


@pytest.mark.parametrize("value, multiple, expected", [(0, 8, 0), (1, 8, 8), (8, 8, 8), (9, 8, 16), (333, 16, 336)])
def test_round_up(value, multiple, expected):
    assert round_up(value, multiple) == expected


@pytest.mark.parametrize(
    "value, expected",
    [(0, 0), (40, 40), ("40", 40), (" 40px ", 40), ("25%", 50), ("12.5%", 25), ("12.5 %", 25), (np.int64(7), 7)],
)
def test_lengths_are_pixels_or_a_share(value, expected):
    assert parse_length(value, 200, "left") == expected


@pytest.mark.parametrize("value", [-1, "-5", "-5%", 2.5, "2.5", "2.5px", "ten", "", "%", True, None, "5 %%", "1e3"])
def test_what_is_no_length_is_named(value):
    with pytest.raises(ValueError, match="left: .*is not a length; give whole pixels") as caught:
        parse_length(value, 200, "left")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", ["4:5", "4/5", "4x5", " 4 : 5 ", (4, 5), [4.0, 5.0]])
def test_pairs(value):
    assert parse_pair(value, ":/x", "aspect", "4:5") == (4.0, 5.0)


@pytest.mark.parametrize("value", ["4", "4:5:6", "a:b", "", (1,), (1, 2, 3), 5, None, object])
def test_what_is_no_pair_is_named(value):
    with pytest.raises(ValueError, match="aspect: .* cannot be read; write it like 4:5") as caught:
        parse_pair(value, ":/x", "aspect", "4:5")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", ["0:5", "-4:5", "inf:2", "nan:1", (1, 0)])
def test_a_pair_is_positive_and_finite(value):
    with pytest.raises(ValueError, match="must be two positive numbers"):
        parse_pair(value, ":/x", "aspect", "4:5")


def test_margins_centre_and_are_false_when_there_are_none():
    assert Margins.to_reach(10, 10, 15, 10) == Margins(left=2, right=3, top=0, bottom=0)
    assert not Margins() and Margins(bottom=1)


@pytest.mark.parametrize("aspect", ["1:1", "4:5", "16:9", "9:16", "3:1", (2, 3)])
@pytest.mark.parametrize("width, height", [(100, 100), (333, 517), (517, 333), (1, 1)])
def test_aspect_grows_one_direction_as_little_as_it_can(width, height, aspect):
    m = aspect_margins(width, height, aspect)
    new_width, new_height = width + m.left + m.right, height + m.top + m.bottom
    ratio = np.divide(*parse_pair(aspect, ":", "aspect", "4:5"))
    assert min(m.left, m.right, m.top, m.bottom) >= 0
    assert new_width == width or new_height == height
    assert abs(new_width - ratio * new_height) <= 0.5 * max(1, ratio) + 1e-9  # the grown side is within half a pixel
    assert 0 <= m.right - m.left <= 1 and 0 <= m.bottom - m.top <= 1


@pytest.mark.parametrize("aspect", ["1:1e300", "1e300:1e-300", "1e-300:1e300", "5000:1"])
def test_an_absurd_aspect_is_refused(aspect):
    with pytest.raises(ValueError, match="aspect: '.*' is more than a thousand times"):
        aspect_margins(100, 100, aspect)


def test_size_margins():
    assert size_margins(333, 517, "400x517") == Margins(33, 34, 0, 0)
    assert size_margins(3, 3, (4, 5)) == Margins(0, 1, 1, 1)
    assert size_margins(3, 3, "4×5") == Margins(0, 1, 1, 1)
    with pytest.raises(ValueError, match=r"size: 100x50 is smaller than the picture \(80x60\)"):
        size_margins(80, 60, "100x50")
    with pytest.raises(ValueError, match="size: '100.5x50' must be whole pixels"):
        size_margins(80, 60, "100.5x50")
    with pytest.raises(ValueError, match="size: 'big' cannot be read; write it like 1200x800"):
        size_margins(80, 60, "big")


def test_bounding_box_is_the_smallest_that_holds_the_mask():
    for _ in range(20):
        mask = np.random.rand(9, 13) > 0.93
        if not mask.any():
            continue
        box = bounding_box(mask)
        assert mask[box.slices].sum() == mask.sum()
        inner = mask[box.slices]
        assert inner[0].any() and inner[-1].any() and inner[:, 0].any() and inner[:, -1].any()


def test_growing_a_box_stays_inside_keeps_it_and_reaches_the_margin():
    rng = np.random.default_rng(0)
    for _ in range(300):
        width, height = rng.integers(1, 60, 2)
        left, top = rng.integers(0, width), rng.integers(0, height)
        box = Box(left, top, rng.integers(left, width) + 1, rng.integers(top, height) + 1)
        margin, least = rng.integers(0, 20), rng.integers(0, 50)
        grown = grow_box(box, margin, least, width, height)
        assert 0 <= grown.left <= box.left and box.right <= grown.right <= width
        assert 0 <= grown.top <= box.top and box.bottom <= grown.bottom <= height
        assert grown.width == min(width, max(box.width + 2 * margin, least))
        assert grown.height == min(height, max(box.height + 2 * margin, least))


def test_growing_far_from_the_frame_is_symmetric():
    assert grow_box(Box(40, 50, 60, 60), 5, 0, 200, 200) == Box(35, 45, 65, 65)
    assert grow_box(Box(0, 190, 10, 200), 5, 0, 200, 200) == Box(0, 180, 20, 200)  # moved, not cut


@pytest.mark.parametrize(
    "length, tile, overlap", list(itertools.product((1, 9, 10, 11, 25, 100, 101), (10,), (0, 3, 9)))
)
def test_tiles_of_one_length_cover_it_with_overlap(length, tile, overlap):
    begins = tile_starts(length, tile, overlap)
    assert begins[0] == 0 and begins[-1] == max(0, length - tile)
    steps = np.diff(begins)
    assert (steps > 0).all() and (steps <= tile - overlap).all()
    fewest = 1 if length <= tile else 1 + -(-(length - tile) // (tile - overlap))
    assert len(begins) == fewest


@pytest.mark.parametrize("width, height", [(5, 7), (64, 64), (65, 64), (150, 97)])
def test_tiles_cover_every_pixel_of_a_picture(width, height):
    count = np.zeros((height, width), int)
    boxes = tiles(width, height, 64, 16)
    for box in boxes:
        assert box.width <= 64 and box.height <= 64
        assert count[box.slices].size == box.width * box.height  # none reaches outside
        count[box.slices] += 1
    assert count.min() == 1
    assert boxes == sorted(boxes, key=lambda box: (box.top, box.left))


def test_tiles_that_overlap_wholly_are_a_mistake_of_ours():
    with pytest.raises(AssertionError):
        tiles(10, 10, 8, 8)


@pytest.mark.parametrize("side, multiple, widest", [(128, 16, 2.0), (512, 64, 4.0), (1024, 32, 3.0), (64, 64, 2.0)])
def test_buckets_are_alike_in_area_and_mirror_each_other(side, multiple, widest):
    buckets = aspect_buckets(side, multiple, widest)
    assert (side, side) in buckets and len(set(buckets)) == len(buckets)
    assert buckets == sorted(buckets, key=lambda b: b[0] / b[1])
    assert {(h, w) for w, h in buckets} == set(buckets)
    for width, height in buckets:
        assert width % multiple == height % multiple == 0 and max(width, height) <= widest * min(width, height)
        assert side * side - multiple * min(width, height) < width * height <= side * side


def test_buckets_by_hand():
    assert aspect_buckets(128, 16) == [(96, 160), (112, 144), (128, 128), (144, 112), (160, 96)]
    assert aspect_buckets(128, 16, 1) == [(128, 128)]
    with pytest.raises(ValueError, match="side: 100 must be a positive multiple of 16"):
        aspect_buckets(100, 16)
    with pytest.raises(ValueError, match="widest: 0.5 must be between 1 and 100"):
        aspect_buckets(128, 16, 0.5)


@pytest.mark.parametrize(
    "size, bucket", [((300, 500), (96, 160)), ((1, 9), (96, 160)), ((99, 100), (128, 128)), ((640, 480), (144, 112))]
)
def test_a_picture_goes_to_the_bucket_of_its_shape(size, bucket):
    assert nearest_bucket(*size, aspect_buckets(128, 16)) == bucket


@pytest.mark.parametrize("size", [(300, 500), (7, 5), (128, 128), (1000, 3)])
def test_a_covering_picture_fits_one_side_of_its_bucket(size):
    width, height = cover(*size, (144, 112))
    assert width >= 144 and height >= 112 and (width == 144 or height == 112)
    scale = max(144 / size[0], 112 / size[1])  # the shape is kept up to rounding
    assert abs(width - size[0] * scale) <= 0.5 + 1e-9 and abs(height - size[1] * scale) <= 0.5 + 1e-9


@pytest.mark.parametrize("size", [(51, 80), (48, 81), (48, 80)])
def test_the_middle_has_the_buckets_size_and_as_much_cut_off_on_either_side(size):
    box = middle(size, (48, 80))
    assert (box.width, box.height) == (48, 80)
    for low, high, length in ((box.left, box.right, size[0]), (box.top, box.bottom, size[1])):
        assert 0 <= (length - high) - low <= 1


def test_numbers_of_hundreds_of_digits_are_refused():
    for call in (
        lambda huge: parse_length(huge, 200, "left"),
        lambda huge: parse_length(str(huge), 200, "left"),
        lambda huge: parse_length(f"{huge}%", 200, "left"),
        lambda huge: aspect_margins(20, 20, (huge, 1)),
        lambda huge: aspect_margins(20, 20, f"{huge}:1"),
        lambda huge: size_margins(20, 20, (huge, huge)),
        lambda huge: parse_size((1, huge), 100),
    ):
        with pytest.raises(ValueError, match=r"left|aspect|size"):
            call(10**400)
    assert parse_length("33.333333333333336%", 300, "left") == 100
