"""Where on a canvas a subject goes, and how large."""

import numpy as np
import pytest
from PIL import Image

from photofound.edits.geometry import bounding_box
from photofound.edits.placement import Placement, place, with_dpi
from photofound.image import Picture


def subject(size=(120, 80), box=(40, 20, 80, 60), depth=np.uint8):
    """A noisy picture and the matte of a box in it."""
    noise = np.random.default_rng(0).integers(0, np.iinfo(depth).max, (size[1], size[0], 3), depth, endpoint=True)
    matte = np.zeros((size[1], size[0]), np.float32)
    matte[box[1] : box[3], box[0] : box[2]] = 1
    return Picture(noise), matte


def placed_box(placed):
    return tuple(bounding_box(placed.matte > 0.5))


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_at_its_own_size_every_pixel_is_the_photographs(depth):
    picture, matte = subject(depth=depth)
    placed = place(picture, matte, Placement.of(canvas="200x300", padding="10%"))
    assert placed.scale == 1 and placed.picture.size == (200, 300) and placed.at == (40, 110)
    assert placed_box(placed) == (80, 130, 120, 170) and "at its own size" in placed.note
    assert (placed.picture.pixels[placed.matte == 1] == picture.pixels[matte == 1]).all()
    assert (placed.picture.pixels[placed.matte == 0] == 0).all()


def test_what_is_too_large_is_resampled_and_says_so():
    picture, matte = subject((400, 400), (50, 100, 350, 300))
    placed = place(picture, matte, Placement.of(canvas="200x200", padding="10%"))
    assert placed_box(placed) == (20, 47, 180, 153) and placed.at is None
    assert placed.scale == pytest.approx(160 / 300) and "resampled to 53.3%" in placed.note
    assert (placed.matte[60:140, 30:170] == 1).all() and (placed.matte[:44] == 0).all()


def test_a_soft_edge_beyond_the_canvas_is_no_part_of_the_subject():
    picture, matte = subject()
    matte[18:20, 40:80] = 0.01
    placed = place(picture, matte, Placement.of(canvas="120x80", align="top"))
    assert placed_box(placed)[1] == 0 and "beyond" not in placed.note
    assert "in part beyond" in place(picture, matte, Placement.of(canvas="120x80", at="50%,10")).note


def test_it_grows_only_when_that_is_asked_for():
    picture, matte = subject()
    small = place(picture, matte, Placement.of(canvas="400x400", padding="10%"))
    assert small.scale == 1 and "enlarge would fill it" in small.note
    large = place(picture, matte, Placement.of(canvas="400x400", padding="10%", enlarge=True))
    assert placed_box(large) == (40, 40, 360, 360) and "enlarged to 800%" in large.note
    with pytest.raises(ValueError, match="fit: 150% enlarges the subject.*pass enlarge"):
        Placement.of(fit="150%")
    assert place(picture, matte, Placement.of(canvas="400x400", fit="150%", enlarge=True)).scale == 1.5


@pytest.mark.parametrize(
    "align, corner",
    [("center", (80, 80)), ("top", (80, 10)), ("bottom-right", (150, 150)), ("left", (10, 80)), ("top-left", (10, 10))],
)
def test_alignment_within_the_padding(align, corner):
    placed = place(*subject(), Placement.of(canvas="200x200", padding=10, align=align))
    assert placed_box(placed)[:2] == corner


def test_any_place_by_the_centre_of_the_subject():
    given = {"canvas": "200x100", "padding": "10%"}
    for at, corner in (("50%,50%", (80, 30)), ("25%, 70", (30, 50)), ((150, "40%"), (130, 20)), ("0,100%", (0, 80))):
        assert placed_box(place(*subject(), Placement.of(**given, at=at, align="top-left")))[:2] == corner
    half = place(*subject(), Placement.of(**given, at="0,100%"))
    assert placed_box(half) == (0, 80, 20, 100) and half.at == (-60, 60) and "in part beyond" in half.note
    cut = subject((100, 100), (30, 50, 70, 100))  # whose frame holds nothing then
    assert placed_box(place(*cut, Placement.of(canvas="200x200", at="50%,50%"))) == (80, 75, 120, 125)
    with pytest.raises(ValueError, match="at: nothing of the subject lies on the canvas; give a place on it"):
        place(*subject(), Placement.of(**given, at="900,50%"))


def test_padding_and_margin_of_each_side():
    placement = Placement.of(canvas="200x100", padding="10%,5,0,20", align="top-right")
    assert placed_box(place(*subject(), placement)) == (155, 10, 195, 50)
    for given, sides in ((7, (7, 7, 7, 7)), ("1,2", ("1", "2", "1", "2")), ((1, "2%", 3), (1, "2%", 3, "2%"))):
        assert Placement.of(padding=given).padding == sides
    both = Placement.of(canvas="200x100", margin=10, padding=5, align="bottom-left")
    assert placed_box(place(*subject(), both)) == (15, 45, 55, 85)


def test_covering_stays_within_the_margin():
    placed = place(*subject((200, 200), (20, 80, 180, 120)), Placement.of(canvas="100x100", fit="cover", margin="10%"))
    assert placed_box(placed) == (10, 30, 90, 70) and placed.scale == 1  # it would have to grow
    large = Placement.of(canvas="100x100", fit="cover", margin="10%", enlarge=True)
    assert placed_box(place(*subject((200, 200), (20, 80, 180, 120)), large)) == (10, 10, 90, 90)


def test_the_image_as_what_is_placed():
    picture, matte = subject((100, 100), (0, 20, 30, 60))
    placed = place(picture, matte, Placement.of(canvas="200x200", reference_box="image", align="center"))
    assert placed_box(placed) == (50, 70, 80, 110)
    assert placed.at == (50, 50)


def test_sides_that_the_frame_cuts_stay_at_the_frame():
    picture, matte = subject((100, 100), (30, 50, 70, 100))  # cut off below
    placed = place(picture, matte, Placement.of(canvas="200x200", padding="10%"))
    assert placed_box(placed) == (80, 150, 120, 200)
    free = place(picture, matte, Placement.of(canvas="200x200", padding="10%", snap=False))
    assert placed_box(free)[3] < 180
    wide, band = subject((100, 100), (0, 40, 100, 60))  # left and right
    assert placed_box(place(wide, band, Placement.of(canvas="50x50", padding="10%"))) == (0, 20, 50, 30)


def test_hidden_colours_do_not_bleed_when_resampled():
    pixels = np.full((90, 90, 3), (0, 255, 0), np.uint8)
    matte = np.zeros((90, 90), np.float32)
    matte[20:70, 20:70] = 1
    pixels[matte == 1] = (200, 10, 10)
    placed = place(Picture(pixels), matte, Placement.of(canvas="60x60", fit="37%"))
    assert (placed.picture.pixels[placed.matte > 0] == (200, 10, 10)).all()


def test_dpi_replaces_what_the_file_says():
    exif = Image.Exif()
    exif[282], exif[271] = 72.0, "maker"
    picture = Picture(np.zeros((4, 4, 3), np.uint8), exif=exif.tobytes(), dpi=(72, 72))
    changed = with_dpi(picture, 300)
    read = Image.Exif()
    read.load(changed.exif)
    assert changed.dpi == (300, 300) and 282 not in read and read[271] == "maker"


@pytest.mark.parametrize(
    "given, message",
    [
        ({"canvas": "0x5"}, "canvas|size"),
        ({"padding": "50%"}, "nothing is left of a canvas of 100x100"),
        ({"margin": "60", "padding": 1}, "nothing is left"),
        ({"padding": "1,2,3,4,5"}, "got 5 lengths"),
        ({"padding": "-3"}, "padding: '-3' is not a length"),
        ({"align": "middle"}, "align: 'middle' is unknown; use center"),
        ({"at": "50%"}, "at: '50%' is not a place; give two lengths"),
        ({"at": "left,top"}, "at: 'left' is not a length"),
        ({"at": 5}, "at: 5 is not a place"),
        ({"fit": "stretch"}, "fit: 'stretch' is unknown"),
        ({"reference_box": "frame"}, "reference_box: 'frame' is unknown"),
        ({"dpi": 0}, "dpi: 0 must be"),
    ],
)
def test_bad_settings_are_one_line(given, message):
    with pytest.raises(ValueError, match=message) as error:
        place(*subject(), Placement.of(**{"canvas": "100x100", **given}))
    assert "\n" not in str(error.value)


def test_a_subject_that_is_nowhere_opaque():
    with pytest.raises(ValueError, match="nothing of it is opaque"):
        place(subject()[0], np.zeros((80, 120), np.float32), Placement())
