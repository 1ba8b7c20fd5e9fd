"""Filters of photographs: what each tells apart, and how a room keeps scores, thresholds and decisions."""

from __future__ import annotations

import copy
import io
import shutil
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
from photofound.room import filters, measures, own, scores
from photofound.room.filters import MEASURES, Sample
from photofound.room.scores import parse


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


def with_words(pixels: np.ndarray) -> np.ndarray:
    return cv2.putText(
        pixels.copy(), "summer sale 50%", (30, 120), cv2.FONT_HERSHEY_SIMPLEX, 1, (255,) * 3, 2, cv2.LINE_AA
    )


def coarse(pixels: np.ndarray) -> np.ndarray:
    """As it was after a JPEG of low quality."""
    with Image.open(io.BytesIO(encoded(pixels, format="JPEG", quality=15))) as opened:
        return np.array(opened)


WORSE = {
    "text": with_words,
    "blocks": coarse,
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
    assert exposure(photograph // 6) < 0.4 and exposure(packshot) > 0.9
    packshot[60:180, 90:230] //= 40
    assert exposure(packshot) > 0.9, "a black thing is not dark"


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
    one = sample(np.zeros((70, 210, 3), np.uint8))
    assert [MEASURES[name].scores([one])[0] for name in ("resolution", "aspect")] == [70, 3]


def test_a_scorer_travels():
    made = copy.deepcopy(scores.Scorer([parse("graphics=0.3"), parse("caption")], workers=1))
    assert ForkingPickler.dumps(made)
    assert [each.condition for each in made.filters] == ["score_graphics <= 0.3", "score_caption >= 0.5"]


@pytest.mark.parametrize("name", MEASURES)
def test_a_filter_travels_and_never_fails(name, photograph):
    each = parse(name)
    assert ForkingPickler.dumps(each), "it is sent to other processes"
    odd = [np.zeros((1, 1, 3)), np.zeros((1, 300, 3)), np.full((40, 40, 3), 255), np.zeros((13, 12, 4))]
    samples = [sample(photograph, "a cup"), Sample(b"no picture"), *(sample(x.astype(np.uint8), "?") for x in odd)]
    found = each.scores(samples)
    assert found.dtype == np.float32 and found.shape == (6,)
    assert np.isfinite(np.delete(found, 1)).all()
    assert np.isnan(found[1])
    assert not each.kept(np.array([np.nan]))[0]


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("sharp", "'sharp' is unknown"),
        ("sharpness=", "no number"),
        ("sharpness=x", "no number"),
        ("aspect:net", "no model"),
        ("nsfw", "needs a model"),
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
    assert names(room, "kept") == {"good", "later"}, "and is not held back for it"


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


@pytest.mark.parametrize("blank", ["''", "' \t\n'"])
def test_an_empty_caption_is_none(room, blank, capsys):
    """Rooms may hold them from before, or from other programs: no filter waits for their score."""
    room.table.dataset.update(dict.fromkeys(filters.CAPTIONS, blank), where="width > 0")
    room.table.refresh()
    found = room.filter("caption", "resolution=8")
    assert found.unknown == 0 and found.counts["caption"] == (0, 0, 3)
    assert room.filter("caption").computed == 0, "it is not asked again"
    assert room.stats().tables["has"].get("caption", 0) == 0
    with pytest.raises(ValueError, match="no captions to search"):
        room.search("a cup")


GREEN = """
from photofound.room.filters import Measure

def green(sample):
    return float((sample.pixels[..., 1] > 200).mean()) {more}

FILTER = Measure("{name}", version="{version}", threshold=0.5, keeps="<=", about="share of green", measure=green)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes a file of a filter that is found."""
    folder = tmp_path / "filters"
    folder.mkdir()
    monkeypatch.setenv("PHOTOFOUND_FILTERS", str(folder))

    def write(file="green", name="green", version="1", more="", text=GREEN):
        (folder / f"{file}.py").write_text(text.format(name=name, version=version, more=more))
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)  # Python tells versions by whole seconds and the size
        own._finders.cache_clear()
        own.load.cache_clear()
        return folder / f"{file}.py"

    yield write
    own._finders.cache_clear()
    own.load.cache_clear()


def test_a_filter_of_yours_is_one_of_the_rooms(room, mine, capsys):
    mine()
    assert cli.main(["room", "filter", str(room.folder), "green", "resolution=8"]) == 0
    field = Table(room.folder).dataset.schema.field("score_green")
    said = {b"filter": b"green", b"version": b"1", b"threshold": b"0.5", b"keeps": b"<="}
    assert field.metadata.items() >= said.items()
    assert room.filter().computed == 0 and room.filter("green=0.9").computed == 0
    mine(version="2")
    assert room.filter().computed == 3, "another version is computed anew"
    assert [each.threshold for each in scores.stored(room.table) if each.name == "green"] == [0.9]
    assert cli.main(["room", "filter", str(room.folder), "--list"]) == 0
    assert "green             <= 0.5   share of green" in capsys.readouterr().out


def test_a_filter_that_is_not_known_here_still_decides_and_runs_no_code(room, mine, capsys, monkeypatch):
    file = mine()
    room.filter("green=-1", "resolution=8")
    file.unlink()
    own._finders.cache_clear()
    own.load.cache_clear()
    found = room.filter()
    assert found.kept == 0 and found.dropped == 3, "its scores are there"
    assert "green: this filter is not known here" in found.text
    with room.table.lock() as dataset:  # as a stranger's room may say
        dataset.update_field_metadata({"score_green": {"filter": "os:system", "keeps": "; drop"}})
    room.table.refresh()
    assert [each.name for each in scores.stored(room.table)] == ["resolution"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"name": "other"}, "filter: the file of 'green' must define FILTER, a Measure or Filter with that name"),
        ({"version": ""}, "filter: green: give version a text, threshold a number, and keeps '>=' or '<='"),
        ({"text": "1/0"}, "filter: the file of 'green' cannot be loaded (ZeroDivisionError: division by zero)"),
        ({"text": "FILTER = ="}, "filter: the file of 'green' cannot be loaded (SyntaxError: "),
        ({"more": "+ no"}, "filter: green: NameError: name 'no' is not defined"),
        ({"file": "Two", "name": "Two"}, "filter: 'Two' names a column; use small letters, digits and _"),
        ({"file": "text"}, "filter: 'text' is a built-in filter; give your file another name"),
    ],
)
def test_a_mistake_in_a_filter_of_yours_is_one_line(room, mine, how, said, capsys):
    mine(**how)
    name = how.get("file", "green")
    if name == "text":
        assert cli.main(["room", "filter", str(room.folder), "--list"]) == 0
    else:
        assert cli.main(["room", "filter", str(room.folder), name]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and len(error.splitlines()) == 1


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


def test_the_report_shows_both_sides_of_each_threshold(room, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert cli.main(["room", "filter", str(room.folder), "sharpness", "graphics", "--html", str(page)]) == 0
    text = page.read_text()
    assert text.count("<section>") == 2 and text.count("data:image/jpeg;base64,") == 6
    found = scores.summary(Table(room.folder)).filters[0]
    sides = scores.around(Table(room.folder), found, count=1)
    assert {title: len(row) for title, row in sides.items()} == {
        "dropped, furthest": 0, "dropped, nearest": 1, "kept, nearest": 1
    }  # fmt: skip
    assert sides["dropped, nearest"][0][1] < found.threshold <= sides["kept, nearest"][0][1]


# -------------------------------------------------------------------------------------------------------- by a network


@pytest.fixture(scope="module")
def judges_folder(tmp_path_factory):
    """Untrained networks of three kinds: of words, of labels, of objects."""
    import torch
    from tiny_parts import tokenizer
    from transformers import (
        CLIPConfig,
        CLIPModel,
        ViTConfig,
        ViTForImageClassification,
        YolosConfig,
        YolosForObjectDetection,
    )

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("judges")
    (folder / "words").mkdir()
    words = tokenizer(folder / "words")
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    text = small | {"vocab_size": len(words), "max_position_embeddings": 77}
    vision = small | {"image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder / "clip")
    words.save_pretrained(folder / "clip")
    labels = {"id2label": {0: "normal", 1: "NSFW"}, "label2id": {"normal": 0, "NSFW": 1}}
    ViTForImageClassification(ViTConfig(**vision, **labels)).save_pretrained(folder / "classes")
    objects = {"id2label": {0: "N/A", 1: "person", 2: "dog"}, "label2id": {"N/A": 0, "person": 1, "dog": 2}}
    net = YolosForObjectDetection(
        YolosConfig(**small, **objects, image_size=[32, 48], patch_size=8, num_detection_tokens=4)
    )
    net.save_pretrained(folder / "objects")
    return folder


@pytest.mark.parametrize(
    ("name", "model"),
    [("alignment", "clip"), ("aesthetic", "clip"), ("people", "clip"), ("nsfw", "classes"), ("people", "objects")],
)
def test_networks_score_whatever_their_kind_and_leave_out_what_they_cannot_judge(
    judges_folder, photograph, name, model
):
    each = parse(f"{name}:{judges_folder / model}=0.3")
    assert ForkingPickler.dumps(each) and each.threshold == 0.3
    samples = [
        sample(photograph, "a cup of coffee"),
        Sample(b"no picture"),
        sample(photograph),
        sample(drawing(), "bars"),
    ]
    found = each.scores(samples)
    assert found.dtype == np.float32 and np.isnan(found).tolist() == [False, True, name == "alignment", False]
    assert np.all(np.abs(found[[0, 3]]) <= 1) and (name == "alignment" or found[0] >= 0)
    alone = each.scores([sample(drawing(), "bars")])
    assert alone[0] == pytest.approx(found[3], abs=1e-5)


def test_the_labels_that_count_are_those_that_do_not_deny_it(judges_folder):
    from photofound.room.judges import network

    net = network(str(judges_folder / "classes"))
    assert net.counted(("nsfw",)) == [1]
    net.names = ["not_nsfw", "nsfw", "no person"]
    assert net.counted(("nsfw",)) == [1] and net.counted(("person",)) == []
    net.names = ["normal", "nsfw"]


@pytest.mark.parametrize(
    ("spec", "match"),
    [("people:{}/classes", "knows none of person"), ("alignment:{}/classes", "knows none of words"),
     ("nsfw:{}/none", "cannot be loaded"), ("aesthetic:{}/words", "is no model|cannot be loaded")],
)  # fmt: skip
def test_a_network_that_cannot_answer_is_one_line_and_changes_nothing(room, judges_folder, spec, match):
    before = len(room.versions())
    with pytest.raises((ValueError, OSError), match=match):
        room.filter(spec.format(judges_folder))
    assert len(room.versions()) == before


def test_networks_and_measures_share_a_pass_and_are_remembered(room, judges_folder):
    found = room.filter("sharpness", f"alignment:{judges_folder / 'clip'}=-1", f"nsfw:{judges_folder / 'classes'}=1")
    assert found.computed == 3 and found.counts["alignment"] == (3, 0, 0) == found.counts["nsfw"]
    again = room.filter("alignment=0.9")
    assert again.computed == 0 and again.counts["alignment"][0] < 3, "the room knows which network it was"
