"""The demo without a browser: the page is built from what tasks declare, and what its buttons do is exact."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import sys
import tempfile
import textwrap
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import extra_tasks
from PIL import Image

from photofound import cli, image
from photofound.demos import app, batch, calls, marks, offers, studio
from photofound.demos import desk as desk_module
from photofound.demos import page as pages
from photofound.demos.studio import Cancelled, Form, Models, Studio
from photofound.demos.words import in_words
from photofound.edits.task import get_task
from photofound.picture import formats, provenance
from photofound.signals import handled

pytestmark = pytest.mark.slow

SIZE = (72, 48)
RETOUCH = """
    from photofound.edits.inputs import Input
    from photofound.edits.task import Task

    class Retouch(Task):
        name = "retouch"
        summary = "smooth the skin"
        inputs = (
            Input("mask_image", "mask", "white = retouch", required=True),
            Input("style_image", "image", "a picture to imitate"),
            Input("amount", "int", "how much", default=3, choices=(1, 2, 3)),
            Input("left", "length", "pixels", default=0),
            Input("aspect", "aspect", "W:H"),
            Input("size", "size", "WxH"),
            Input("ground", "background", "what lies behind"),
            Input("prompt", "text", "what to paint", default=""),
        )

        def prepare(self, picture, prompt="", mask_image=None, **inputs):
            raise ValueError("not today")

        def example(self, sample, generator):
            raise NotImplementedError

    TASK = Retouch()
"""


def pixels(depth=np.uint8, channels=3, size=SIZE):
    """A bright disc on a dark ground, so that there is a subject to cut out."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    disc = (x - size[0] / 2) ** 2 + (y - size[1] / 2) ** 2 < (0.3 * size[1]) ** 2
    noise = np.random.default_rng(0).integers(0, 20, (size[1], size[0], channels))
    values = np.where(disc[..., None], 200, 30) + noise
    return (values * (257 if depth == np.uint16 else 1)).astype(depth)


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "my cup.png"
    Image.fromarray(pixels()).save(path)
    return path


@pytest.fixture
def work(tiny_folder, tmp_path):
    return Studio(tmp_path / "desks", Models(str(tiny_folder)))


@pytest.fixture(scope="module")
def page(tiny_folder, tmp_path_factory):
    """Shared, since a page knows nothing of its visitors."""
    return pages.Page(Studio(tmp_path_factory.mktemp("page"), Models(str(tiny_folder))), tmp_path_factory.getbasetemp())


@pytest.fixture
def extra_task(tmp_path, monkeypatch):
    """A task in a folder of its own, and a file that is none."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "retouch.py").write_text(textwrap.dedent(RETOUCH))
    (folder / "broken.py").write_text("raise RuntimeError('half a file')")
    with extra_tasks(folder, monkeypatch):
        yield


def hole(size=SIZE):
    mask = np.zeros((size[1], size[0]), np.float32)
    mask[10:20, 20:40] = 1
    return mask


def request(task, **changes):
    inputs = {"inpaint": {"mask_image": hole()}, "erase": {"mask_image": hole()}, "expand": {"left": "25%"}}
    inputs["generate"] = {"prompt": "a cup", "size": "72x48"}
    return Form(**{"task": task, "inputs": inputs.get(task, {}), "steps": 1, "guidance": 1.0} | changes)


def opened(work, photograph, *tasks):
    desk = work.open(photograph)
    for task in tasks:
        if any(map(studio.is_subject, get_task(task).inputs)):
            desk = work.cut_out(desk, get_task(task))
    return desk


# ------------------------------------------------------------------------------------------------------------- the page


FIRST = ("outpaint", "erase", "inpaint", "expand", "upscale", "cutout", "generate")


def test_every_input_of_every_task_has_its_place(page):
    """In the bar, on the canvas, or as a field."""
    assert [task.name for task in page.tasks if task.name in FIRST] == list(FIRST)
    for task in page.tasks:
        shown = offers.described(task, ["rembg"])
        placed = [each["name"] for each in shown["fields"]] + [each["name"] for each in shown["frame"] or []]
        placed += ["prompt"] * bool(shown["prompt"]) + ["aspect"] * bool(shown["frame"]) + ["at"] * shown["places"]
        masks = [each for each in studio.declared(task) if each.kind == "mask"]
        assert len(masks) == bool(shown["changes"]) + shown["keeps"]
        assert sorted([*placed, *(each.name for each in masks)]) == sorted(e.name for e in studio.declared(task))
    expand = offers.described(get_task("expand"))
    assert [each["name"] for each in expand["frame"]] == ["left", "right", "top", "bottom"]
    assert offers.described(get_task("erase"))["changes"] == "required"
    assert {"finds": True, "choices": ["rembg"]}.items() <= next(
        each for each in offers.described(get_task("outpaint"), ["rembg"])["fields"] if each["kind"] == "segmenter"
    ).items()
    assert not [each for each in offers.described(get_task("outpaint"))["fields"] if each["finds"]]


def test_an_extra_task_appears_by_itself_and_a_broken_one_is_named(extra_task, work, tmp_path, capsys):
    page = pages.Page(work, tmp_path)
    assert page.tasks[-1].name == "retouch"
    shown = offers.described(page.tasks[-1])
    assert shown["title"] == "Retouch" and shown["changes"] == "required" and shown["frame"] is None
    kinds = {each["name"]: each["kind"] for each in shown["fields"]}
    assert kinds == {"style_image": "image", "amount": "int", "left": "length", "aspect": "aspect", "size": "size"} | {
        "ground": "background"
    }
    assert "task 'broken' is not on the page: half a file" in capsys.readouterr().err


def test_events_of_the_page_are_private_tasks_are_not_and_the_queue_is_bounded(work):
    blocks = app.build(work)
    public = {each.api_name for each in blocks.fns.values() if each.api_visibility == "public"}
    assert public == {task.name for task in offers.tasks_for([*FIRST, "packshot"])}
    assert blocks._queue.max_size == app.WAITING
    ids = {each.concurrency_id for each in blocks.fns.values() if each.concurrency_limit == 1}
    assert ids == {"model"}
    assert all(each.concurrency_id == "model" for each in blocks.fns.values() if each.api_visibility == "public")


def test_the_script_speaks_five_languages():
    """Whatever the script and its page say is there in each language, with the same numbers in it."""
    words = json.loads((pages.WEB / "words.json").read_text(encoding="utf-8"))
    assert set(words) == {"de", "es", "fr", "ja", "zh"}
    script = "".join((pages.WEB / f"{name}.js").read_text() for name in pages.SCRIPTS)
    markup = re.sub(r"\s+", " ", (pages.WEB / "bench.html").read_text())
    said = set(re.findall(r"\bt\('([^']+)'\)", script)) | set(offers.TITLES.values())
    said |= {name for name, *_ in offers.BACKGROUNDS} | set(re.findall(r'aria-label="([^"]+)"', markup))
    said |= {text.strip() for text in re.findall(r"<(?:button|label><span|summary|p)\b[^>]*>([^<]{2,})<", markup)}
    for task in map(get_task, (*FIRST, "packshot", "edit")):
        shown = offers.described(task, ["rembg"])
        said |= {f"{shown['summary']}.", shown["example"] or "More", (shown["prompt"] or {"help": "More"})["help"]}
        for each in [*shown["fields"], *(shown["frame"] or [])]:
            said |= {each["label"], each["help"]}
            said |= {choice for choice in each["choices"] if isinstance(choice, str) and not each["titles"]} - {"rembg"}
    assert len(said) > 150
    for language, known in words.items():
        assert not said - set(known), f"{language}: {sorted(said - set(known))}"
        assert set(known) == set(words["de"])
        assert not [key for key, value in known.items() if key.count("#") != value.count("#") or not value.strip()]


# ------------------------------------------------------------------------------------------------- editing, by handlers


@pytest.mark.parametrize("task", [name for name in FIRST if get_task(name).takes_picture])
def test_kept_pixels_are_exact_in_the_file_that_is_downloaded(work, photograph, task):
    desk, report, warned = work.run(opened(work, photograph, task), request(task))
    assert len(desk.shots) == 2 and " s · " in report and not warned
    path = work.export(desk)
    assert path.name == f"my-cup-{task}.png" and Image.open(path).format == "PNG"
    marked = provenance.source_type(image.load(path))
    assert marked == (provenance.COMPOSITE if get_task(task).generates else None)
    result, given = np.asarray(Image.open(path)), pixels()
    job = get_task(task).prepare(image.load(photograph), **work.inputs(desk, get_task(task), request(task).inputs))
    if task == "cutout":
        opaque = result[..., 3] == 255
        assert 0.05 < opaque.mean() < 0.5 and (result[opaque, :3] == given[opaque]).all()
        return
    kept = job.keep == 1
    assert result.shape == job.picture.pixels.shape
    if task == "upscale":
        assert result.shape == (96, 144, 3) and not kept.any()
        return
    assert 0.05 < kept.mean() < 1 and (result[kept] == job.picture.pixels[kept]).all()
    assert (result[~kept] != job.picture.pixels[~kept]).any()
    if task == "expand":
        assert (result[:, 18:] == given).all()


def test_depth_profile_and_format_of_the_photograph_survive(work, tmp_path):
    path = tmp_path / "deep.tif"
    image.save(pixels(np.uint16), path)
    desk, _, _ = work.run(work.open(path), request("inpaint"))
    download = work.export(desk)
    result = image.load(download)
    assert download.suffix == ".tif" and result.depth == 65535
    kept = hole() == 0
    assert (result.pixels[kept] == pixels(np.uint16)[kept]).all()


def test_a_jpeg_comes_back_as_jpeg_and_on_request_exactly(page, work, tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels()).save(path, quality=90)
    desk, _, _ = work.run(work.open(path), request("inpaint"))
    answer, file = downloaded(page, desk)
    assert file.suffix == ".jpg" and "choose PNG" in answer["line"]
    answer, file = downloaded(page, desk, "PNG")
    result, given = np.asarray(Image.open(file)), np.asarray(Image.open(path))
    assert (result[hole() == 0] == given[hole() == 0]).all() and "choose" not in answer["line"]


def test_a_reference_is_an_upload_of_its_own_within_the_same_limits(page, referring_folder, photograph, tmp_path):
    for task in page.tasks:
        kinds = {each["name"]: each["kind"] for each in offers.described(task)["fields"]}
        assert (kinds.get("reference") == "image") == (task.name in ("inpaint", "outpaint"))
    assert {"image/*", ".jfif"} <= set(offers.accepted().split(","))
    work = Studio(tmp_path / "desks", Models(str(referring_folder)))
    surface = tmp_path / "surface.png"
    Image.fromarray(np.full((30, 30, 3), (200, 30, 40), np.uint8)).save(surface)
    desk = opened(work, photograph, "outpaint")
    made = [
        work.run(desk, request("outpaint", inputs=inputs))[0].photo.picture.pixels.copy()
        for inputs in ({}, {"reference": str(surface)}, {"reference": None})
    ]
    assert (made[0] != made[1]).any() and (made[0] == made[2]).all()
    work.max_pixels = 800
    with pytest.raises(ValueError, match="above the limit"):
        work.run(desk, request("outpaint", inputs={"reference": str(surface)}))


def test_visitors_pictures_are_read_in_processes_of_their_own(photograph, tmp_path):
    from photofound.serve.workers import Files

    files = Files(1, 40_000_000)
    try:
        work = Studio(tmp_path / "desks", None, files=files)
        desk = work.open(photograph)
        assert (desk.photo.picture.pixels == pixels()).all() and len(files._all) == 1
        (tmp_path / "broken.png").write_bytes(b"no picture")
        with pytest.raises(ValueError, match="^broken.png: is not an image"):
            work.open(tmp_path / "broken.png")
    finally:
        files.close()


def test_variants_have_seeds_of_their_own_and_the_same_seed_gives_the_same_pixels(work, photograph):
    desk = work.open(photograph)
    several, _, _ = work.run(desk, request("inpaint", seed=5, variants=3))
    made = [each.photo.picture.pixels.copy() for each in several.shots[1:]]
    assert [each.seed for each in several.shots[1:]] == [5, 6, 7]
    assert not (made[0] == made[1]).all() and not (made[1] == made[2]).all()
    again, _, _ = work.run(desk, request("inpaint", seed=6))
    assert (again.photo.picture.pixels == made[1]).all()
    with pytest.raises(ValueError, match="variants: 99 .* give 1 to 6"):
        work.run(desk, request("inpaint", variants=99))


@pytest.mark.parametrize("task", FIRST)
def test_variants_are_made_of_one_preparation(work, photograph, monkeypatch, task):
    desk, prepared = opened(work, photograph, task), []
    prepare = get_task(task).prepare
    monkeypatch.setattr(get_task(task), "prepare", lambda *a, **b: prepared.append(prepare(*a, **b)) or prepared[-1])
    made, _, _ = work.run(desk, request(task, variants=2))
    assert len(made.shots) == 3 and len(prepared) == 1


def test_what_a_format_cannot_hold_is_told_before_the_work(work, tmp_path, monkeypatch):
    path = tmp_path / "deep.png"
    image.save(pixels(np.uint16) - np.uint16(1), path)
    desk, told = work.open(path), []
    monkeypatch.setattr(work.models, "pipeline", lambda *_: told.append("the model is loaded") or 1 / 0)
    for format, words in (("JPEG", ["JPEG holds 8 bits"]), ("PNG", []), (None, [])):
        told.clear()
        with pytest.raises(ZeroDivisionError):
            work.run(desk, request("inpaint", format=format), warn=told.append)
        assert [a.startswith(b) for a, b in zip(told, [*words, "the model"], strict=True)] == [True] * len(told)


@pytest.mark.parametrize("task", ["inpaint", "packshot"])
def test_layers_are_a_download(page, work, photograph, task):
    form = request("inpaint") if task == "inpaint" else Form("packshot", {"background": "wood"}, format="ORA")
    desk, _, _ = work.run(work.open(photograph), form)
    path = work.export(desk, "ORA")
    with zipfile.ZipFile(path) as archive:
        flat = archive.read("mergedimage.png")
        assert b'name="mask"' in archive.read("stack.xml")
    assert (np.asarray(Image.open(io.BytesIO(flat))) == desk.photo.picture.pixels).all()
    assert provenance.recipe(image.decode(flat))["task"] == task
    assert downloaded(page, desk, "PSD")[0]["name"].endswith(".psd")
    with pytest.raises(ValueError, match="layers: this picture has none"):
        work.export(work.undo(desk), "ORA")


def test_bits_that_a_download_loses_are_told(page, work, tmp_path):
    path = tmp_path / "deep.png"
    image.save(pixels(np.uint16) - np.uint16(1), path)
    desk, _, _ = work.run(work.open(path), request("inpaint"))
    assert (
        "JPEG holds 8 bits per channel: 16 are rounded; choose PNG beside" in downloaded(page, desk, "JPEG")[0]["line"]
    )
    assert "8 bits" not in downloaded(page, desk, "PNG")[0]["line"] + downloaded(page, desk)[0]["line"]


def test_edits_chain_without_loss_and_can_be_undone(work, tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels()).save(path)
    first = work.open(path)
    given = first.photo.picture.pixels.copy()
    desk, _, _ = work.run(first, request("inpaint"))
    result = desk.photo.picture.pixels.copy()  # it has taken the photograph's place, and not through a JPEG
    desk, _, _ = work.run(desk, request("expand"))
    assert (desk.photo.picture.pixels[:, 18:] == result).all()
    assert work.export(work.run(desk, request("upscale"))[0]).name == "photo-inpaint-expand-upscale.jpg"
    desk = work.undo(work.undo(desk))
    assert (desk.photo.picture.pixels == given).all() and not desk.at
    with pytest.raises(ValueError, match="nothing to undo"):
        work.undo(desk)
    desk = work.redo(desk)
    assert (desk.photo.picture.pixels == result).all()
    with pytest.raises(ValueError, match="nothing to redo"):
        work.redo(work.redo(desk))


def test_after_undo_another_way_can_be_gone_and_nothing_leaves_the_history(work, photograph):
    first, *_ = work.run(work.open(photograph), request("inpaint", variants=2))
    second, *_ = work.run(first, request("expand"))
    back = work.undo(second)
    assert back.shot is first.shot and len(back.shots) == 4
    other = back.at_shot(back.shots[2].id)  # the second variant
    assert other.trail == (*back.trail[:2], other.shot.id) and second.shot in other.shots
    with pytest.raises(ValueError, match="nothing to redo"):
        work.redo(other)
    assert work.undo(other).shot is first.shot
    with pytest.raises(ValueError, match="not in the history any more"):
        other.at_shot("0123")


def test_of_a_long_past_only_what_fits_on_the_disk_is_kept(work, photograph, monkeypatch):
    monkeypatch.setattr(desk_module, "HISTORY", 4 * pixels().nbytes)
    desk = opening = work.open(photograph)
    for _ in range(5):
        desk = work.adopt(desk, work.run(desk, request("inpaint"))[0])
    assert len(desk.shots) == 4 and len(list(desk.folder.glob("*.npy"))) == 4
    assert desk.shots[0] is opening.shot and desk.shot is desk.shots[-1]
    assert work.undo(desk).shot is desk.shots[-2] and work.undo(work.undo(work.undo(desk))).shot is opening.shot
    assert work.redo(work.undo(desk)).shot is desk.shot


def test_a_result_is_of_the_photograph_that_lies_there_or_dropped(work, photograph):
    desk = work.open(photograph)
    made, *_ = work.run(desk, request("inpaint"))
    assert work.adopt(desk, made).shots == made.shots
    again, *_ = work.run(desk, request("inpaint"))
    other = work.open(photograph, desk)  # meanwhile, of the same name even
    with pytest.raises(ValueError, match="changed during the run"):
        work.adopt(other, again)
    assert [path.stem for path in desk.folder.glob("*.npy")] == [other.photo.id]


def test_a_desk_is_found_by_its_token_until_its_visitor_is_gone_for_long(work, photograph):
    now = [0.0]
    desks = desk_module.Desks(lambda: now[0])
    first, second = desks.put(work.open(photograph)), desks.put(work.open(photograph))
    assert first.token != second.token and len(first.token) == 32
    for wrong in (None, "", "0" * 32, ["a"], {"a": 1}):
        assert desks.get(wrong) is None
    now[0] = desk_module.LINGER - 1
    assert desks.get(first.token) is first
    now[0] += 2
    assert desks.get(second.token) is None and not second.folder.exists()
    assert desks.get(first.token) is first and first.folder.exists()


def test_what_is_not_generated_is_not_marked_so(work, photograph):
    """An enlarged photograph is marked, one that was made smaller on the way back is what it was."""
    desk, *_ = work.run(work.open(photograph), request("inpaint"))
    assert provenance.source_type(image.load(work.export(desk))) == provenance.COMPOSITE
    assert provenance.source_type(image.load(work.export(work.undo(desk)))) is None


def test_a_visitors_folder_goes_with_the_visitor(work, photograph):
    desk = work.open(photograph)
    other = work.open(photograph)
    work.close(desk)
    work.close(None)
    assert not desk.folder.exists() and other.folder.exists()


def test_progress_is_told_step_by_step(work, photograph):
    heard = []
    work.run(
        work.open(photograph),
        request("inpaint", steps=2, variants=2),
        progress=lambda share, what: heard.append((share, what)),
    )
    shares, lines = zip(*heard, strict=True)
    assert shares == pytest.approx([0, 1 / 7, 2 / 7, 4 / 7, 5 / 7, 6 / 7])
    assert lines[1:] == (
        "variant 1 of 2, step 1 of 2",
        "variant 1 of 2, step 2 of 2, decoding",
        "variant 2 of 2, step 1 of 2",
        "variant 2 of 2, step 2 of 2, decoding",
        "saving",
    )


def test_a_run_is_cancelled_after_the_step_that_it_is_in(work, photograph):
    desk, steps = work.open(photograph), []

    def progress(share, what):
        steps.append(share)
        assert not work.cancel("bert")  # another visitor's run is none of his business
        if share > 0:
            assert work.cancel("anna")

    with pytest.raises(Cancelled):
        work.run(desk, request("inpaint", steps=8), "anna", progress)
    assert steps == [0, 1 / 10]
    assert not work.cancel("anna")
    assert len(work.run(desk, request("inpaint"), "anna")[0].shots) == 2  # and the next one runs


def test_one_model_runs_at_a_time(work, photograph):
    desk, inside, most = work.open(photograph), [], []

    def progress(share, what):
        if share > 0:
            inside.append(threading.get_ident())
            most.append(len(set(inside)))
        if what == "saving":
            inside.clear()

    threads = [
        threading.Thread(target=work.run, args=(desk, request("inpaint", steps=3), name, progress)) for name in "ab"
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert most == [1] * 8


# ---------------------------------------------------------------------------------------------------------------- masks


def through_the_browser(mask):
    """What a canvas sends back of what it was sent."""
    return marks.marked(marks.marks_url(mask))


def test_a_mask_comes_back_from_the_browser_as_it_went():
    mask = np.random.default_rng(0).random((48, 72)).astype(np.float32)
    assert np.abs(through_the_browser(mask) - mask).max() <= 0.5 / 255 + 1e-6
    assert marks.marked(None) is None
    for wrong in ("http://example.com/a.png", {"a": 1}, 7):
        with pytest.raises(ValueError, match="not a PNG"):
            marks.marked(wrong)


def test_an_untouched_subject_is_left_to_the_task(work, photograph):
    task, desk = get_task("outpaint"), opened(work, photograph, "outpaint")
    sent = studio.resized(desk.matte, SIZE)
    assert work.inputs(desk, task, {"subject": through_the_browser(sent)}) == {}


def test_of_a_corrected_subject_only_what_was_brushed_differs(work, tmp_path):
    path = tmp_path / "large.png"
    Image.fromarray(pixels(size=(2250, 1500))).save(path)
    task, desk = get_task("outpaint"), opened(work, path, "outpaint")
    matte = desk.matte
    size = studio.preview_size((2250, 1500))
    assert size == (1536, 1024)
    painted = through_the_browser(studio.resized(matte, size))
    painted[:50, :50] = 1  # brushed: keep this corner too
    subject = work.inputs(desk, task, {"subject": painted})["subject"]
    assert (subject[:70, :70] == 1).all()
    assert (subject[100:] == matte[100:]).all() and ((matte > 0) & (matte < 1))[100:].any()


def test_without_a_subject_the_visitor_is_asked_to_paint_one(page, tmp_path):
    path = tmp_path / "flat.png"
    Image.new("RGB", SIZE, "grey").save(path)
    state = open_file(page, path)
    assert ask(page, "desk_subject", state, task="outpaint")["mask"] is None
    assert ask(page, "desk_check", state, task="outpaint")["line"] == "72 × 48"
    keep = marks.marks_url(hole())
    assert ask(page, "desk_check", state, task="outpaint", keep=keep)["line"] == "72 × 48 · 6% kept bit for bit"
    assert "brush over what to keep" in run(page, state, "outpaint")["error"]


def test_a_picture_is_made_without_a_photograph(work):
    desk, report, _ = work.run(
        work.blank(), request("generate", inputs={"prompt": "a cup", "size": "48x32"}, variants=2)
    )
    assert [each.photo.picture.size for each in desk.shots[1:]] == [(48, 32)] * 2 and "48 × 32" in report
    assert provenance.source_type(desk.photo.picture) == provenance.GENERATED
    with pytest.raises(ValueError, match="prompt: is empty"):
        work.run(work.blank(), request("generate", inputs={}))
    edited, *_ = work.run(desk, request("expand"))
    assert edited.photo.picture.size == (60, 32)


def test_a_result_of_another_size_is_compared_with_the_photograph_on_chequers(page, photograph):
    state = open_file(page, photograph)
    told = ask(page, "desk_check", state, task="expand", inputs={"aspect": "1:1", "size": "", "left": 0}, view=True)
    assert told["view"].startswith("data:image/jpeg;base64,")
    line = told["line"]
    assert line == "72 × 48 → 72 × 72 · 67% kept bit for bit"
    waits = ask(page, "desk_check", state, task="expand", inputs={})
    assert waits["line"] == "72 × 48" and waits["wrong"].startswith("expand: nothing to add") and not waits.get("view")
    made = run(page, state, "expand", inputs={"aspect": "1:1"})
    view = page.calls.desks.get(made["token"]).shot.before
    assert view.shape == (72, 72, 3) and (view[12:60] == pixels()).all() and set(np.unique(view[:12])) == {204, 235}
    shown = ask(page, "desk_start", made)
    assert shown["size"] == [72, 72] and shown["before"].startswith("data:image/jpeg;base64,")


# ----------------------------------------------------------------------------------------------- what the script asks


def ask(page, call, state=None, **data):
    """A call as the script makes it, from the desk that ``state`` describes."""
    function = next(each for each in page.calls.functions() if each.__name__ == call)
    sent = {key: state[key] for key in ("token", "id") if state and key in state} | data
    return function(json.loads(json.dumps(sent)))  # whatever goes through is JSON


def open_file(page, path, state=None):
    return ask(page, "desk_open", state, path=str(path), name=Path(path).name)


def run(page, state, task, **data):
    sent = {"token": state["token"], "id": state.get("id"), "task": task, "steps": 1, "guidance": 1} | data
    return calls.answered(page.calls.run, sent)


def downloaded(page, desk, format=""):
    """The answer and the file for the picture of a desk."""
    page.calls.desks.put(desk)
    return page.calls.download({"token": desk.token, "format": format}, None)


def test_a_whole_visit(page, photograph):
    """Open, edit, look at the second variant, try another, undo, come back after a reload: as the script does it."""
    state = open_file(page, photograph)
    assert state["about"] == "my-cup · 72 × 48 · PNG, 8 bit RGB" and state["before"] is None
    assert state["can"] == {"undo": False, "redo": False, "another": False}
    change = marks.marks_url(hole())
    told = run(page, state, "inpaint", change=change, seed=3, variants=2)
    assert told["what"] == "run" and not told["warnings"]
    shown = ask(page, "desk_start", state)
    assert [each["seed"] for each in shown["strip"]] == [0, 3, 4] and shown["id"] == shown["strip"][1]["id"]
    assert shown["before"] and " s · 72 × 48" in shown["report"] and shown["about"].startswith("my-cup-inpaint")
    second = ask(page, "desk_go", state, id=shown["strip"][2]["id"])
    assert second["id"] == shown["strip"][2]["id"] and second["can"]["undo"]
    run(page, second, "inpaint", another=True, seed=77)
    third = ask(page, "desk_start", state)
    assert [each["seed"] for each in third["strip"]] == [0, 3, 4, 77]
    desk = page.calls.desks.get(state["token"])
    assert desk.shot.parent == state["id"] and (desk.photo.picture.pixels[hole() == 0] == pixels()[hole() == 0]).all()
    back = ask(page, "desk_undo", state)
    assert back["id"] == second["id"] and back["can"]["redo"]
    assert ask(page, "desk_redo", state)["id"] == third["id"] == ask(page, "desk_start", state)["id"]
    assert downloaded(page, desk)[1].name == "my-cup-inpaint.png"


def test_a_second_background_is_made_of_the_photograph_and_not_of_the_first(page, photograph):
    state = open_file(page, photograph)
    keep = marks.marks_url(hole())
    run(page, state, "outpaint", keep=keep, inputs={"prompt": "wood"})
    first = ask(page, "desk_start", state)
    run(page, first, "outpaint", again=True, inputs={"prompt": "red cloth"})
    second = page.calls.desks.get(state["token"])
    assert second.shot.parent == state["id"] and second.asked[0].inputs["prompt"] == "red cloth"
    kept = hole() == 1
    assert (second.photo.picture.pixels[kept] == pixels()[kept]).all()
    chained = ask(page, "desk_start", state)
    run(page, chained, "outpaint", keep=keep, inputs={"prompt": "wood"})
    assert page.calls.desks.get(state["token"]).shot.parent == chained["id"]


def test_a_packshot_is_held_to_its_marketplaces_rules(page, photograph):
    fields = {each["name"]: each for each in offers.described(get_task("packshot"))["fields"]}
    assert "amazon-main" in fields["preset"]["choices"] and fields["background"]["kind"] == "background"
    state = open_file(page, photograph)
    inputs = {"preset": "ebay", "canvas": "96x96", "background": "#ffffff"}
    assert run(page, state, "packshot", inputs=inputs)["what"] == "run"
    answer, path = downloaded(page, page.calls.desks.get(state["token"]))
    assert Image.open(path).size == (96, 96) and "ebay would refuse it" in answer["line"]
    assert provenance.source_type(image.load(path)) is None  # nothing was generated
    state = ask(page, "desk_start", state)
    for background in offers.BACKGROUNDS:
        checked = ask(page, "desk_check", state, task="packshot", inputs={"background": background[2]})
        assert "kept bit for bit" in checked.get("line", ""), (background, checked)


def test_a_subject_is_placed_before_the_run_and_again_after_it(page, photograph):
    """What the page draws while the subject is dragged; and the second packshot is made of the photograph."""
    state = open_file(page, photograph)
    ask(page, "desk_subject", state, task="packshot")
    data = {"task": "packshot", "placing": True, "inputs": {"canvas": "200x100", "at": "25%,50%", "fit": "50%"}}
    checked = ask(page, "desk_check", state, **data)
    shown = checked["placed"]
    assert shown["canvas"] == [200, 100] and shown["scale"] == 0.5 and "bit for bit" not in checked["line"]
    left, top, right, bottom = shown["box"]
    assert (left + right) // 2 == 50 and (top + bottom) // 2 == 50 and 10 <= right - left <= 16
    look, ground = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[name].partition(",")[2]))).convert("L"))
        for name in ("look", "ground")
    )
    assert look.shape == ground.shape == (100, 200) and ground.min() > 250 and (look < 230).any()
    assert abs(int(np.flatnonzero((look < 230).any(0)).mean()) - 50) <= 2
    ghost = Image.open(io.BytesIO(base64.b64decode(shown["ghost"]["url"].partition(",")[2])))
    assert ghost.mode == "RGBA" and ghost.getextrema()[3][1] == 255
    known = ask(page, "desk_check", state, **data, ghost=shown["ghost"]["key"])["placed"]["ghost"]
    assert known["url"] is None and known["key"] == shown["ghost"]["key"]
    run(page, state, **{name: data[name] for name in ("task", "inputs")})
    made = ask(page, "desk_start", state)
    again = ask(page, "desk_check", made, **data, again=True, ghost=known["key"])["placed"]
    assert again["box"] == shown["box"] and again["ghost"]["url"] is None  # of the photograph, not of the result
    clear = ask(page, "desk_check", made, **data | {"inputs": {"background": "transparent"}}, again=True)["placed"]
    assert clear["ground"] is None and clear["canvas"] == list(SIZE)
    wrong = ask(page, "desk_check", made, **data | {"inputs": {"at": "900,900"}}, again=True)
    assert "placed" not in wrong and wrong["wrong"].startswith("at: nothing of the subject lies on the canvas")


def test_every_example_can_be_run(page):
    """Photographs from scikit-image's wheel, with their masks and words."""
    for task in (task for task in page.tasks if offers.sample_of(task)):
        state = ask(page, "desk_example", task=task.name)
        inputs = state["fields"] | (state["frame"] or {}) | {"prompt": state["prompt"]}
        change = (state["marks"] or {}).get("change")
        line = ask(page, "desk_check", state, task=task.name, inputs=inputs, change=change)["line"]
        assert "kept bit for bit" in line or task.name in ("upscale", "outpaint"), task.name


def test_a_mask_of_another_photograph_is_never_used(page, photograph):
    """Brushed, then another photograph opened: before it is drawn, neither a run nor a check takes the mask."""
    first = open_file(page, photograph)
    second = open_file(page, photograph, first)  # the same file even
    assert second["token"] == first["token"] and second["id"] != first["id"]
    change = marks.marks_url(hole())
    assert "not drawn yet; run again" in run(page, first, "inpaint", change=change)["error"]
    assert "not drawn yet" in ask(page, "desk_check", first, task="inpaint", change=change)["error"]
    assert "error" not in run(page, second, "inpaint", change=change)


def test_after_an_error_all_is_still_there(page, photograph, tmp_path):
    state = open_file(page, photograph)
    assert run(page, state, "inpaint")["error"] == "nothing is brushed; brush over what to change"
    (tmp_path / "song.png").write_bytes(b"ID3" * 100)
    assert "song.png: is not an image that can be read" in open_file(page, tmp_path / "song.png", state)["error"]
    assert ask(page, "desk_start", state)["id"] == state["id"]
    assert "error" not in run(page, state, "inpaint", change=marks.marks_url(hole()))


@pytest.mark.parametrize("path", ["/etc/passwd", "", None, "../..", "README.md"])
def test_no_file_is_read_that_was_not_uploaded(page, work, photograph, tmp_path, path):
    """A hostile visitor names files of the server; what is said of them is nothing but their names."""
    own = pages.Calls(work, page.tasks, tmp_path / "uploads")
    (tmp_path / "uploads").mkdir()
    for name in (path, str(photograph)):
        for data in ({"path": name}, {"path": name, "token": "x"}):
            (answer,) = (each(data) for each in own.functions() if each.__name__ == "desk_open")
            assert "was not uploaded here" in answer["error"] and "/" not in answer["error"]
    desk = own.desks.put(work.open(photograph))
    sent = {"token": desk.token, "task": "outpaint", "inputs": {"reference": {"path": str(photograph)}}}
    assert "was not uploaded here" in calls.answered(own.run, sent | {"id": desk.photo.id})["error"]


def test_a_background_in_words_is_no_file_of_the_server(extra_task, work, photograph):
    desk, task = work.open(photograph), get_task("retouch")
    assert work.inputs(desk, task, {"ground": "wood:brown"}) == {"ground": "wood:brown"}
    for name in (str(photograph), "secret.png", "../rules.yaml"):
        with pytest.raises(ValueError, match="names a file, and none of this server is read"):
            work.inputs(desk, task, {"ground": name})


@pytest.mark.parametrize(
    "data",
    [
        {"task": "none"},
        {"task": "inpaint", "change": "data:image/png;base64,AAAA"},
        {"task": "inpaint", "change": "file:///etc/passwd"},
        {"task": "upscale", "inputs": {"scale": "many"}},
        {"task": "upscale", "inputs": {"scale": 7}},
        {"task": "upscale", "seed": 1e30},
        {"task": "upscale", "variants": 99},
        {"task": "upscale", "format": "EXE"},
        {"task": "outpaint", "inputs": {"segmenter": "os:system"}},
        {"task": "outpaint", "model": "/etc"},
        {"task": "expand", "inputs": {"left": -5}},
    ],
)
def test_what_a_hostile_visitor_sends_is_refused_in_one_line(page, photograph, data, capfd):
    state = open_file(page, photograph)
    error = run(page, state, **data)["error"]
    assert "\n" not in error and "mistake" not in error and "Traceback" not in capfd.readouterr().err


def test_many_photographs_become_a_zip_with_a_report(page, work, tmp_path, monkeypatch):
    for name, picture in (("a.png", pixels()), ("b.jpg", pixels()), ("sub/a.png", 255 - pixels())):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / name)
    (tmp_path / "song.png").write_bytes(b"ID3" * 100)
    sent = [
        {"path": str(tmp_path / name), "name": Path(name).name} for name in ("a.png", "song.png", "b.jpg", "sub/a.png")
    ]
    state = open_file(page, tmp_path / "a.png")
    before = set(work.folder.parent.rglob("*.npy"))
    data = {
        "token": state["token"],
        "task": "expand",
        "inputs": {"aspect": "1:1"},
        "steps": 1,
        "files": sent,
        "seed": 4,
        "variants": 3,
    }
    runs: list[int] = []
    monkeypatch.setattr(
        page.work,
        "run",
        lambda desk, form, *rest: runs.append(form.variants) or Studio.run(page.work, desk, form, *rest),
    )
    answer, path = page.calls.batch(data, None)
    assert runs == [1, 1, 1]  # of several variants all but one would be thrown away
    assert answer["line"] == "3 of 4 photographs are done" and answer["name"] == "photofound-expand.zip"
    assert len(answer["lines"]) == 1 and answer["lines"][0].startswith("song.png: is not an image")
    with zipfile.ZipFile(path) as packed:
        assert sorted(packed.namelist()) == ["a-expand-2.png", "a-expand.png", "b-expand.jpg", "report.jsonl"]
        result = np.asarray(Image.open(packed.open("a-expand.png")))
        report = [json.loads(line) for line in packed.read("report.jsonl").decode().splitlines()]
    assert result.shape == (72, 72, 3) and (result[12:60] == pixels()).all()
    assert [line["status"] for line in report] == ["done", "failed", "done", "done"]
    assert set(report[0]) == {"input", "output", "seconds", "seed", "status", "error"}
    assert set(work.folder.parent.rglob("*.npy")) == before  # the desks of the batch are gone
    for wrong, words in (({"task": "inpaint"}, "needs a mask for each"), ({"files": []}, "0 photographs are too many")):
        with pytest.raises(ValueError, match=words):
            page.calls.batch(data | wrong, None)


def test_a_batch_is_cancelled_between_two_photographs(work, photograph, tmp_path):
    def progress(share, what):
        if "photograph 2" in what:
            assert work.cancel("anna")

    with pytest.raises(Cancelled):
        batch.edit_all(work, [("a.png", photograph)] * 3, request("upscale"), tmp_path, "anna", progress)
    assert not work.cancel("anna")


def test_a_result_that_a_format_cannot_hold_is_told_before_and_lost_never(page, work, photograph, monkeypatch):
    monkeypatch.setitem(formats.LONGEST_SIDE, "WEBP", 50)
    desk = work.open(photograph)
    with pytest.raises(ValueError, match="WEBP holds at most 50 pixels a side, not 72x48"):
        work.run(desk, request("inpaint", format="WEBP"))
    desk, *_ = work.run(desk, request("inpaint"))
    page.calls.desks.put(desk)
    answer = calls.answered(page.calls.download, {"token": desk.token, "format": "WEBP"})
    assert answer["error"].endswith("not 72x48; choose PNG beside Download")
    assert downloaded(page, desk)[1].is_file()


NO_WORDS = ValueError("model: 'owner/name' is not offered; write 4/5 or 1 / 2")
TOO_LARGE = "a: is 9x9, above the limit of 0.0; if you trust it, set max_pixels or PHOTOFOUND_MAX_PIXELS to 81"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("/tmp/photofound-demo-x1/gradio/ab/song.png: is no image"), "song.png: is no image"),
        (ValueError(r"C:\Users\me\song.png: is empty"), "song.png: is empty"),
        (
            ValueError("model: '/srv/models/mine': no weights in /srv/models/mine/vae"),
            "model: 'mine': no weights in vae",
        ),
        (ValueError("'/srv/my models/mine': is bad"), "'mine': is bad"),
        (ValueError("model: /srv/my models/mine: is bad"), "model: mine: is bad"),
        (ValueError("file:///srv/models/mine.json is bad"), "mine.json is bad"),
        (ValueError("cannot open(../srv/models/mine.json)"), "cannot open(mine.json)"),
        (ValueError("aspect: '4/5' is not owner/model"), "aspect: '4/5' is not owner/model"),
        (NO_WORDS, str(NO_WORDS)),
        (OSError(28, "No space left on device", "/tmp/x/y.npy"), "the server cannot use one of its files (no space"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "the server has too little memory for this"),
        (ValueError("num_inference_steps: 0 must be a whole number"), "Steps: 0 must be a whole number"),
        (
            ValueError("the mask is empty (all black); make white what is to go"),
            "nothing is brushed; brush over what to",
        ),
        (
            ValueError("the mask is missing; pass a picture of its size"),
            "nothing is brushed; brush over what to change",
        ),
        (ValueError("the grown mask is full (all white); make black what is not"), "all of it is brushed; leave"),
        (ValueError(TOO_LARGE), "a: is 9x9, above the limit of 0.0; this page takes none larger"),
        (ValueError("which is no subject; pass subject=MASK"), "which is no subject; brush over what to keep"),
    ],
)
def test_messages_are_in_the_pages_words_and_tell_no_place(error, words):
    said = in_words(error)
    assert said.startswith(words)
    assert not any(each in said for each in ("/tmp", "/srv", "Users", "max_pixels", "PHOTOFOUND", "white", "=MASK"))


def test_what_is_lost_in_reading_an_upload_is_said(tmp_path):
    from photofound.serve.workers import Files

    said, files = [], Files(1, 10**6)
    Image.new("CMYK", (64, 64)).save(tmp_path / "cup.jpg")
    try:
        Studio(tmp_path, None, files=files).open(tmp_path / "cup.jpg", warn=said.append)
    finally:
        files.close()
    assert said == ["cup.jpg: is CMYK; converted to RGB"]


def test_uploads_are_told_by_their_names_alone(page, work, photograph, tmp_path):
    bad = tmp_path / "deep" / "song.png"
    bad.parent.mkdir()
    bad.write_bytes(b"ID3" * 100)
    desk = work.open(photograph)
    for call in (lambda: work.open(bad), lambda: work.inputs(desk, get_task("outpaint"), {"reference": str(bad)})):
        with pytest.raises(ValueError, match=r"^song\.png: is not an image") as caught:
            call()
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(("seed", "good"), [(-5, True), (None, True), (2.0**53, True), (1e30, False)])
def test_a_seed_is_any_of_64_bits(seed, good):
    if good:
        assert calls.seed_of(seed) == int(seed or 0)
        return
    with pytest.raises(ValueError, match="more than 64 bits"):
        calls.seed_of(seed)


def test_a_visitor_without_a_photograph_is_told_so(page):
    for name in ("desk_undo", "desk_go", "desk_check", "desk_subject"):
        assert (
            ask(page, name, {"token": "0" * 32}, task="outpaint")["error"]
            == "there is no photograph yet; open one first"
        )
    assert run(page, {"token": None}, "upscale")["error"] == "there is no photograph yet; open one first"
    assert "nothing to undo" in ask(page, "desk_undo", ask(page, "desk_start"))["error"]


def test_a_bug_leaves_the_page_usable_and_is_told_on_the_server(capfd):
    answer = calls.answered(lambda warn: {}["nothing"])
    assert answer == {"error": "the page has made a mistake; what you have is still there", "warnings": []}
    assert "KeyError: 'nothing'" in capfd.readouterr().err


# --------------------------------------------------------------------------------------------------------------- limits


def test_what_is_too_large_is_one_line(page, photograph, monkeypatch):
    monkeypatch.setattr(page.work, "max_pixels", 1000)
    assert "above the limit" in open_file(page, photograph)["error"]


def test_models_are_those_that_were_offered(tiny_folder, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "mine").symlink_to(tiny_folder)
    models = Models(folder=folder, hub=False)
    assert models.choices() == ["", "mine"]
    assert models.pipeline(get_task("erase"), "mine").config.default_steps == 2
    for name in (str(tiny_folder), "../mine", "/etc", "mine/../mine"):
        with pytest.raises(ValueError, match="not offered here"):
            models.pipeline(get_task("erase"), name)
    with pytest.raises(ValueError, match="cannot be fetched"):
        models.pipeline(get_task("erase"), "owner/name")
    with pytest.raises(ValueError, match="not offered here"):
        models.pipeline(get_task("erase"), None, "missing.safetensors")


def test_a_lora_changes_the_result_and_only_safetensors_are_read(work, photograph, tmp_path, tiny):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    from photofound import InpaintPipeline

    pipe = tiny(InpaintPipeline)
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["q_proj", "img_qkv_proj"], init_lora_weights=False))
    pipe.save_lora_weights(tmp_path, get_peft_model_state_dict(pipe.transformer))
    (path,) = tmp_path.glob("*.safetensors")
    desk = work.open(photograph)
    plain = work.run(desk, request("inpaint"))[0].photo.picture.pixels.copy()
    lora = work.run(desk, request("inpaint", lora=str(path)))[0].photo.picture.pixels
    assert (lora != plain).any()
    pickled = path.rename(tmp_path / "lora.bin")
    with pytest.raises(ValueError, match="not a .safetensors file"):
        work.run(desk, request("inpaint", lora=str(pickled)))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="^LoRA: broken.safetensors is damaged"):
        work.run(desk, request("inpaint", lora=str(broken)))


@pytest.fixture
def served(work, tmp_path, monkeypatch):
    """The page behind its real server, on a free port of this machine."""
    for name, value in app.confined(tmp_path / "demo", work.max_pixels).items():
        monkeypatch.setenv(name, value)
    blocks = app.build(work)
    _, address, public = blocks.launch(**app.launch_settings(upload=10_000))
    assert public is None
    yield address.rstrip("/")
    blocks.close(verbose=False)


def test_the_server_gives_no_file_but_its_own_and_takes_none_too_large(served):
    import httpx

    root = Path(__file__).parent.parent
    with httpx.Client(trust_env=False, timeout=60) as client:
        page = client.get(served)
        assert page.status_code == 200
        for path in ("/etc/passwd", root / "README.md", root / "pyproject.toml", "../README.md"):
            assert client.get(f"{served}/gradio_api/file={path}").status_code == 403
        sent = client.post(f"{served}/gradio_api/upload", files={"files": ("a.png", b"0" * 20_000)})
        assert sent.status_code == 413
        assert client.get(f"{served}/config").json()["analytics_enabled"] is False
        fonts = [each for each in page.text.split('"') if "fonts.googleapis" in each]
        assert not fonts


def test_each_task_is_an_endpoint_for_gradios_client(served, photograph, tmp_path):
    """What a Space's users call: files by name, the task's own inputs, and a file back."""
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(served, verbose=False, download_files=str(tmp_path / "got"))
    api = client.view_api(return_format="dict")["named_endpoints"]
    assert {f"/{name}" for name in FIRST} <= set(api)
    names = [each["parameter_name"] for each in api["/inpaint"]["parameters"]]
    assert names == ["image", "mask_image", "prompt", "reference", "seed", "format"]
    Image.fromarray((hole() * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    given = {"image": handle_file(photograph), "mask_image": handle_file(tmp_path / "mask.png")}
    path = client.predict(**given, prompt="wood", seed=3, api_name="/inpaint")
    result = np.asarray(Image.open(path))
    assert Path(path).name == "my-cup-inpaint.png" and (result[hole() == 0] == pixels()[hole() == 0]).all()
    assert (result[hole() == 1] != pixels()[hole() == 1]).any()
    wide = client.predict(image=handle_file(photograph), aspect="1:1", format="tiff", api_name="/expand")
    assert Image.open(wide).size == (72, 72) and Path(wide).suffix == ".tif"
    with pytest.raises(AppError, match="aspect") as caught:
        client.predict(image=handle_file(photograph), aspect="square", api_name="/expand")
    assert str(tmp_path) not in str(caught.value)


def test_share_is_never_the_default():
    assert app.launch_settings()["share"] is False and app.launch_settings()["server_name"] == "127.0.0.1"


def run_demo(number, model, folder, photograph) -> int:
    """The demo's command, ended by a signal once a visitor has opened a photograph; its status."""

    def ready(address):
        (made,) = Path(folder).glob("photofound-demo-*")
        studio.Studio(made / "desks", None).open(str(photograph))
        assert list(made.rglob("*.npy"))
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()

    with pytest.MonkeyPatch.context() as patched:
        serve = app.serve
        patched.setattr(app, "serve", lambda models, **settings: serve(models, **settings | {"ready": ready}))
        patched.setattr(tempfile, "tempdir", str(folder))
        for name in app.confined(Path(folder), 1):
            patched.setenv(name, "")  # the command's own settings go with the block
        return cli.main(["demo", "--model", str(model), "--device", "cpu"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_visitors_photographs_go_with_the_process(tiny_folder, tmp_path, photograph, capfd, number):
    # What a shell starts in the background ignores Ctrl-C from its birth.
    with handled([signal.SIGINT], signal.default_int_handler):
        try:
            status = run_demo(number, tiny_folder, tmp_path, photograph)
        except SystemExit as left:
            status = left.code
    assert status == 128 + number
    assert "Traceback" not in capfd.readouterr().err and not list(tmp_path.glob("photofound-demo-*"))


# ----------------------------------------------------------------------------------------------------- the command line


def test_the_command_starts_what_was_asked_for(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(app, "serve", lambda models, **settings: calls.append((models, settings)))
    assert cli.main(["demo"]) == 0
    assert cli.main(["demo", "--host", "0.0.0.0", "--port", "8000", "--models", str(tmp_path), "--device", "cpu"]) == 0
    (models, settings), (others, public) = calls
    assert models.hub and settings["share"] is False and settings["host"] == "127.0.0.1" and settings["port"] is None
    assert not others.hub and others.folder == tmp_path and public["port"] == 8000


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--port", "many"], "'many' is not a whole number"),
        (["--models", "nowhere"], "--models: nowhere is not a folder"),
        (["--sharing"], "unrecognized arguments: --sharing"),
    ],
)
def test_a_wrong_option_is_one_line(capsys, arguments, line):
    assert cli.main(["demo", *arguments]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1


def test_without_gradio_the_way_to_it_is_told(capsys, monkeypatch):
    for name in ("app", "page"):
        monkeypatch.delitem(sys.modules, f"photofound.demos.{name}")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["demo"]) == 2
    assert "pip install 'photofound[demo]'" in capsys.readouterr().err


def test_the_history_keeps_masks_small_and_exact():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:1200, :1600]
    brushed = (np.hypot(x - 700, y - 500) < 300).astype(np.float32)
    brushed[:, :3] = rng.integers(0, 256, (1200, 3)).astype(np.float32) / np.float32(255)
    kept = marks.Marks(brushed)
    assert np.array_equal(kept.mask(), brushed) and kept.mask().dtype == np.float32
    assert len(kept.png) * 100 < brushed.nbytes
