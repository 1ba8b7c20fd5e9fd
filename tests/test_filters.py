"""Filters of photographs: what each tells apart, and how a room keeps scores, thresholds and decisions."""

from __future__ import annotations

import copy
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler

import cv2
import numpy as np
import pytest
from helpers import encoded
from PIL import Image, ImageDraw
from skimage import data

from photofound import Room, cli
from photofound.data.sources import Source, open_source
from photofound.data.table import Table
from photofound.room import filters, measures, scores
from photofound.room.filters import MEASURES, Sample, parse


@pytest.fixture(scope="module")
def photograph():
    """(240, 320, 3) of a real one."""
    return cv2.resize(data.coffee()[:, :533], (320, 240), interpolation=cv2.INTER_AREA)


def sample(pixels: np.ndarray, caption: str = "", **options) -> Sample:
    return Sample(encoded(pixels, **options), {"caption": caption})


def drawing(size=(320, 240)) -> np.ndarray:
    """A chart: six bars of six colours, a line and words on white."""
    made = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(made)
    for i, colour in enumerate(("red", "green", "blue", "orange", "purple", "black")):
        draw.rectangle((20 + 48 * i, 200 - 25 * i, 55 + 48 * i, 220), fill=colour)
    draw.text((60, 10), "sales by month", fill="black")
    return np.array(made)


def framed(pixels: np.ndarray) -> np.ndarray:
    return cv2.copyMakeBorder(pixels, 20, 20, 0, 0, cv2.BORDER_CONSTANT, value=(0, 0, 0))


WORSE = {
    "sharpness": lambda pixels: cv2.GaussianBlur(pixels, (0, 0), 2),
    "exposure": lambda pixels: np.clip(pixels.astype(int) * 4, 0, 255).astype(np.uint8),
    "graphics": lambda pixels: drawing(),
    "borders": framed,
}


@pytest.mark.parametrize("name", WORSE)
def test_a_photograph_is_kept_and_a_worse_one_is_not(photograph, name):
    found = MEASURES[name].scores([sample(photograph), sample(WORSE[name](photograph))])
    assert MEASURES[name].kept(found).tolist() == [True, False], found


def test_what_is_dark_is_lost_too_and_a_plain_ground_is_not(photograph):
    def exposure(pixels):
        return MEASURES["exposure"].scores([sample(pixels)])[0]

    packshot = np.full((240, 320, 3), 255, np.uint8)
    packshot[90:150, 120:200] = photograph[90:150, 120:200]
    assert exposure(photograph // 8) < 0.1 and exposure(packshot) > 0.9


@pytest.mark.parametrize("quality", [5, 30, 49, 50, 75, 95, 100])
def test_the_quality_of_a_jpeg_is_read_of_its_table(photograph, quality):
    jpeg = sample(photograph, format="JPEG", quality=quality)
    assert MEASURES["jpeg"].scores([jpeg, sample(photograph)]).tolist() == [quality, 100]


@pytest.mark.parametrize(
    ("caption", "kept"),
    [
        ("A red shoe on a wooden floor, seen from above", True),
        ("un chien sur la plage", True),
        ("一只白色的猫坐在窗台上看外面", True),
        ("IMG_2041.jpg", False),
        ("DSC 0043", False),
        ("shoe shoe shoe shoe shoe shoe shoe", False),
        ("SKU 4432-11 99.90 2x 300x400", False),
        ("<b>Shoes</b> and more", False),
        ("red shoe https://shop.example/shoe", False),
        ("Royalty free stock photo of a shoe on the floor", False),
        ("shoe", False),
        ("?!", False),
    ],
)
def test_captions_that_say_something_are_kept(caption, kept):
    score = measures.caption_quality(caption)
    assert 0 <= score <= 1 and (score >= MEASURES["caption"].threshold) is kept, score


def test_the_sizes_are_those_of_the_file():
    found = {name: MEASURES[name].scores([sample(np.zeros((700, 2100, 3), np.uint8))])[0] for name in MEASURES}
    assert found["resolution"] == 700 and found["aspect"] == 3


def test_a_scorer_travels():
    made = copy.deepcopy(scores.Scorer([parse("graphics=0.3"), parse("caption")], workers=1))
    assert ForkingPickler.dumps(made)
    assert [each.condition for each in made.filters] == ["score_graphics <= 0.3", "score_caption >= 0.5"]


@pytest.mark.parametrize("name", MEASURES)
def test_a_filter_travels_and_never_fails(name, photograph):
    each = parse(name)
    assert ForkingPickler.dumps(each), "it is sent to other processes"
    odd = [np.zeros((1, 1, 3)), np.zeros((1, 300, 3)), np.full((40, 40, 3), 255), np.zeros((13, 12, 4))]
    samples = [sample(photograph), Sample(b"no picture"), *(sample(x.astype(np.uint8)) for x in odd)]
    found = each.scores(samples)
    assert found.dtype == np.float32 and found.shape == (6,)
    assert np.isfinite(np.delete(found, 1)).all()
    assert name == "caption" or np.isnan(found[1])
    assert not each.kept(np.array([np.nan]))[0]


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("sharp", "'sharp' is unknown"),
        ("sharpness=", "no number"),
        ("sharpness=x", "no number"),
        ("aspect:net", "no model"),
    ],
)
def test_a_filter_that_there_is_not_is_one_line(spec, match):
    with pytest.raises(ValueError, match=match):
        parse(spec)


# ------------------------------------------------------------------------------------------------------------ the room


@pytest.fixture
def room(tmp_path, photograph):
    """A photograph, a blurred one, and a chart."""
    folder = tmp_path / "photos"
    folder.mkdir()
    pictures = {"good": photograph, "soft": WORSE["sharpness"](photograph), "chart": drawing()}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name} picture of a cup")
    made = Room(tmp_path / "room")
    made.add(folder, embed=[])
    return made


def names(room: Room, where: str) -> set[str]:
    found = (name for batch in Table(room.folder).scan(["name"], where) for name in batch["name"].to_pylist())
    return {name.rpartition("/")[2].partition(".")[0] for name in found}


def test_scores_are_computed_once_for_what_lacks_them(room, tmp_path, photograph):
    found = room.filter("sharpness", "graphics", "resolution=100")
    assert found.computed == 3 and found.counts["graphics"] == (2, 1, 0)
    assert (found.kept, found.dropped, found.unknown) == (1, 2, 0)
    assert names(room, "kept") == {"good"} and names(room, "score_sharpness < 0.4") == {"soft"}
    assert room.filter().computed == 0, "the same again"
    later = tmp_path / "later"
    later.mkdir()
    Image.fromarray(photograph[::-1]).save(later / "later.png")
    room.add(later)
    assert names(room, "kept IS NULL") == {"later"}
    assert room.filter(where="width > 5000").computed == 0
    assert room.filter().computed == 1 and names(room, "kept") == {"good", "later"}
    assert room.filter("caption").computed == 3, "one has no caption"
    assert names(room, "kept IS NULL") == {"later"} and names(room, "kept") == {"good"}


def test_a_threshold_is_kept_and_changes_without_computing(room):
    room.filter("sharpness=0.2")
    assert names(room, "kept") == {"good", "soft", "chart"}
    assert room.filter("sharpness").filters[0].threshold == 0.2
    changed = room.filter("sharpness=0.45")
    assert changed.computed == 0 and changed.dropped == 1
    said = Table(room.folder).dataset.schema.field("score_sharpness").metadata
    assert said == {b"filter": b"sharpness", b"version": b"1", b"threshold": b"0.45", b"keeps": b">="}


def test_another_version_is_computed_anew(room, monkeypatch):
    room.filter("sharpness", "graphics")
    monkeypatch.setitem(MEASURES, "sharpness", replace(MEASURES["sharpness"], version="2", measure=lambda sample: 0.7))
    found = room.filter()
    assert found.computed == 3 and found.counts["sharpness"] == (3, 0, 0) and found.counts["graphics"] == (2, 1, 0)


def test_what_was_killed_goes_on_and_each_filter_sees_only_what_it_lacks(room, monkeypatch):
    seen = []
    watched = replace(MEASURES["sharpness"], measure=lambda sample: seen.append(1) or 0.5)
    monkeypatch.setitem(MEASURES, "sharpness", watched)
    room.filter("sharpness", where="name like '%good%'")
    assert len(seen) == 1
    scorer = scores.prepare(room.table, ["sharpness", "graphics"])
    table = Table(room.folder)  # as on another machine
    assert table.fill(scorer.fields, scorer, scorer.read, batch=1, lacking=scorer.lacking, fragments=[0]) == 3
    assert len(seen) == 3, "the first was not asked again"


def test_what_is_kept_is_a_source_and_an_export(room, tmp_path, capsys):
    assert cli.main(["room", "filter", str(room.folder), "sharpness", "graphics"]) == 0
    said = capsys.readouterr().out
    assert "sharpness" in said and "2 (66.7%)" in said
    rows = list(open_source(Source(room=str(room.folder), where="kept")))
    assert [row["caption"] for row in rows] == ["a good picture of a cup"]
    assert Room(room.folder).export(tmp_path / "out", "folder", "kept") == 1
    assert cli.main(["room", "stats", str(room.folder), "--where", "NOT kept"]) == 0
    assert "score_graphics" in capsys.readouterr().out


def test_a_mistake_is_one_line_and_changes_nothing(room, capsys):
    before = len(room.versions())
    for words in (["sharp"], ["sharpness", "sharpness=1"], ["sharpness", "--where", "widht > 1"]):
        assert cli.main(["room", "filter", str(room.folder), *words]) == 2
    assert len(room.versions()) == before
    assert cli.main(["room", "filter", str(room.folder), "--list"]) == 0
    assert set(MEASURES) <= set(capsys.readouterr().out.split())


def test_samples_are_decoded_once(photograph, monkeypatch):
    decoded = []
    original = filters.pixels_of
    monkeypatch.setattr(filters, "pixels_of", lambda *a: decoded.append(1) or original(*a))
    one = sample(photograph)
    for each in MEASURES.values():
        each.scores([one])
    assert len(decoded) == 1
