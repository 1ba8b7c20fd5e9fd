"""The demo without a browser: the page is built from what tasks declare, and what its buttons do is exact."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import types
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from helpers import extra_tasks
from PIL import Image

from photofound import cli, image
from photofound.demos import app, brush, handlers, studio
from photofound.demos import page as pages
from photofound.demos.studio import Cancelled, Form, Models, Studio
from photofound.demos.words import in_words
from photofound.edits.task import get_task
from photofound.picture import formats, provenance

pytestmark = pytest.mark.slow

SIZE = (72, 48)
RETOUCH = """
    from photofound.edits.task import Input, Task

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
    return pages.Page(Studio(tmp_path_factory.mktemp("page"), Models(str(tiny_folder))))


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
    inputs = {"inpaint": {"mask_image": hole()}, "erase": {"mask_image": hole()}, "expand": {"left": 25}}
    inputs["generate"] = {"prompt": "a cup", "size": "72x48"}
    return Form(**{"task": task, "inputs": inputs.get(task, {}), "steps": 1, "guidance": 1.0} | changes)


def visitor(name="anna"):
    return types.SimpleNamespace(session_hash=name)


def opened(work, photograph, *tasks):
    desk = work.open(photograph)
    for task in tasks:
        desk = work.cut_out(desk, get_task(task))
    return desk


# ------------------------------------------------------------------------------------------------------------- the page


def labels(page):
    return [tab.task.name for tab in page.tabs]


def test_there_is_a_tab_for_each_task_with_a_widget_for_each_input(page):
    assert labels(page) == list(pages.FIRST)
    for tab in page.tabs:
        assert list(tab.inputs) == [each.name for each in studio.declared(tab.task)]
    expand = next(tab for tab in page.tabs if tab.task.name == "expand")
    assert isinstance(expand.inputs["left"], gr.Slider) and isinstance(expand.inputs["aspect"], gr.Radio)
    assert {"1:1", "4:5", "9:16", "16:9"} <= {value for _, value in expand.inputs["aspect"].choices}


def test_an_extra_task_appears_by_itself_and_a_broken_one_is_named(extra_task, work, capsys):
    page = pages.Page(work)
    assert labels(page) == [*pages.FIRST, "retouch"]
    tab = page.tabs[-1]
    kinds = {name: type(widget) for name, widget in tab.inputs.items()}
    assert kinds == {
        "mask_image": gr.HTML,
        "style_image": gr.File,
        "amount": gr.Radio,
        "left": gr.Slider,
        "aspect": gr.Radio,
        "size": gr.Textbox,
        "prompt": gr.Textbox,
    }
    assert tab.run.value == "Retouch"
    assert "task 'broken' has no tab: half a file" in capsys.readouterr().err


def test_every_event_is_private_and_the_queue_is_bounded(work):
    blocks = app.build(work)
    assert all(each.api_visibility == "private" for each in blocks.fns.values() if each.fn is not None and each.queue)
    assert blocks._queue.max_size == app.WAITING
    ids = {each.concurrency_id for each in blocks.fns.values() if each.concurrency_limit == 1}
    assert ids == {"model"}


# ------------------------------------------------------------------------------------------------- editing, by handlers


@pytest.mark.parametrize("task", [name for name in pages.FIRST if get_task(name).takes_picture])
def test_kept_pixels_are_exact_in_the_file_that_is_downloaded(work, photograph, task):
    desk, report, warned = work.run(opened(work, photograph, task), request(task))
    assert len(desk.results) == 1 and " s**" in report and not warned
    path = work.export(desk)
    assert path.name == f"my-cup-{task}.png" and Image.open(path).format == "PNG"
    assert provenance.source_type(image.load(path)) == provenance.COMPOSITE
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
    update, line = page.on_format(desk, pages.SAME_FORMAT)
    assert Path(update["value"]).suffix == ".jpg" and "choose PNG" in line
    update, line = page.on_format(desk, "PNG")
    result, given = np.asarray(Image.open(update["value"])), np.asarray(Image.open(path))
    assert (result[hole() == 0] == given[hole() == 0]).all() and "choose" not in line


def test_a_reference_is_an_upload_of_its_own_within_the_same_limits(page, referring_folder, photograph, tmp_path):
    for tab in page.tabs:
        assert ("reference" in tab.inputs) == (tab.task.name in ("inpaint", "outpaint"))
    tab = next(tab for tab in page.tabs if tab.task.name == "outpaint")
    assert isinstance(tab.inputs["reference"], gr.File) and {"image", ".jfif"} <= set(
        tab.inputs["reference"].file_types
    )
    work = Studio(tmp_path / "desks", Models(str(referring_folder)))
    surface = tmp_path / "surface.png"
    Image.fromarray(np.full((30, 30, 3), (200, 30, 40), np.uint8)).save(surface)
    desk = opened(work, photograph, "outpaint")
    made = [
        work.run(desk, request("outpaint", inputs=inputs))[0].results[0].picture.pixels.copy()
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
    made = [each.picture.pixels.copy() for each in several.results]
    assert not (made[0] == made[1]).all() and not (made[1] == made[2]).all()
    again, _, _ = work.run(desk, request("inpaint", seed=6))
    assert (again.results[0].picture.pixels == made[1]).all()
    with pytest.raises(ValueError, match="variants: 99 .* give 1 to 6"):
        work.run(desk, request("inpaint", variants=99))


@pytest.mark.parametrize("task", pages.FIRST)
def test_variants_are_made_of_one_preparation(work, photograph, monkeypatch, task):
    desk, prepared = opened(work, photograph, task), []
    prepare = get_task(task).prepare
    monkeypatch.setattr(get_task(task), "prepare", lambda *a, **b: prepared.append(prepare(*a, **b)) or prepared[-1])
    made, _, _ = work.run(desk, request(task, variants=2))
    assert len(made.results) == 2 and len(prepared) == 1


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


def test_bits_that_a_download_loses_are_told(page, work, tmp_path):
    path = tmp_path / "deep.png"
    image.save(pixels(np.uint16) - np.uint16(1), path)
    desk, _, _ = work.run(work.open(path), request("inpaint"))
    assert "JPEG holds 8 bits per channel: 16 are rounded; choose PNG beside" in page.on_format(desk, "JPEG")[1]
    assert "8 bits" not in page.on_format(desk, "PNG")[1] + page.on_format(desk, pages.SAME_FORMAT)[1]


def test_edits_chain_without_loss_and_can_be_undone(work, tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels()).save(path)
    first = work.open(path)
    given = first.photo.picture.pixels.copy()
    desk, _, _ = work.run(first, request("inpaint"))
    result = desk.result.picture.pixels.copy()
    desk = work.use_result(desk)
    assert not desk.results and (desk.photo.picture.pixels == result).all()  # not through a JPEG
    desk, _, _ = work.run(desk, request("expand"))
    assert (desk.result.picture.pixels[:, 18:] == result).all()
    desk = work.use_result(desk)
    assert work.export(work.run(desk, request("upscale"))[0]).name == "photo-inpaint-expand-upscale.jpg"
    desk = work.undo(work.undo(desk))
    assert (desk.photo.picture.pixels == given).all() and not desk.undo
    with pytest.raises(ValueError, match="nothing to undo"):
        work.undo(desk)
    assert len(list(desk.folder.glob("*.npy"))) == 3  # what redo needs; the last run's result is gone


def test_undo_and_redo_keep_the_results_of_every_step(work, photograph):
    first, *_ = work.run(work.open(photograph), request("inpaint", variants=2))
    second, *_ = work.run(work.use_result(first), request("expand"))
    assert work.undo(second).results == first.results and work.undo(second).before is first.before
    forth = work.redo(work.undo(second))
    assert forth.results == second.results and forth.photo is second.photo and not forth.redo
    assert all(photo.file.exists() for photo in forth.photos) and len(forth.photos) == 4
    with pytest.raises(ValueError, match="nothing to redo"):
        work.redo(forth)
    other = work.use_result(work.undo(second))  # a new way: the old one cannot be gone any more
    assert not other.redo and not second.result.file.exists()


def test_of_a_long_past_only_what_fits_on_the_disk_is_kept(work, photograph, monkeypatch):
    monkeypatch.setattr(studio, "HISTORY", 4 * pixels().nbytes)
    desk = work.open(photograph)
    for _ in range(5):
        desk = work.use_result(work.run(desk, request("inpaint"))[0])
    assert len(desk.undo) == 3 and len(list(desk.folder.glob("*.npy"))) == 4
    assert work.undo(work.undo(work.undo(desk))).undo == ()


def test_a_result_is_of_the_photograph_that_lies_there_or_dropped(page, work, photograph):
    desk = work.open(photograph)
    made, *_ = work.run(desk, request("inpaint"))
    assert work.adopt(desk, made).results == made.results
    again, *_ = work.run(desk, request("inpaint"))
    other = work.open(photograph, desk)  # meanwhile, of the same name even
    with pytest.raises(ValueError, match="changed during the run"):
        work.adopt(other, again)
    kept, waiting, *_, status, _, _, _ = page.on_made(other, [again, *page._no_result()])
    assert waiting is None and "dropped" in status and kept == gr.skip()
    assert [path.stem for path in desk.folder.glob("*.npy")] == [other.photo.id]


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
    assert work.run(desk, request("inpaint"), "anna")[0].results  # and the next one runs


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


def brushed(desk, colour=studio.REPAINT):
    """A brush's value once ``hole()`` is painted on the desk's photograph."""
    return brush.painting(pixels(), hole(), colour, desk.photo.id)


def through_the_browser(mask):
    """What a canvas sends back of what it was sent."""
    return brush.painted(brush.painting(pixels(), mask, studio.KEEP))


def test_a_mask_comes_back_from_the_browser_as_it_went():
    mask = np.random.default_rng(0).random((48, 72)).astype(np.float32)
    assert np.abs(through_the_browser(mask) - mask).max() <= 0.5 / 255 + 1e-6
    assert through_the_browser(None) is None and brush.painted(None) is None
    with pytest.raises(ValueError, match="not a PNG"):
        brush.painted({"mask": "http://example.com/a.png"})


def test_an_untouched_subject_is_left_to_the_task(work, photograph):
    task, desk = get_task("outpaint"), opened(work, photograph, "outpaint")
    sent = studio.resized(desk.mattes["outpaint"], SIZE)
    assert work.inputs(desk, task, {"subject": through_the_browser(sent)}) == {}


def test_of_a_corrected_subject_only_what_was_brushed_differs(work, tmp_path):
    path = tmp_path / "large.png"
    Image.fromarray(pixels(size=(1500, 1000))).save(path)
    task, desk = get_task("outpaint"), opened(work, path, "outpaint")
    matte = desk.mattes["outpaint"]
    size = studio.preview_size((1500, 1000))
    assert size == (1024, 683)
    painted = through_the_browser(studio.resized(matte, size))
    painted[:50, :50] = 1  # brushed: keep this corner too
    subject = work.inputs(desk, task, {"subject": painted})["subject"]
    assert (subject[:70, :70] == 1).all()
    assert (subject[100:] == matte[100:]).all() and ((matte > 0) & (matte < 1))[100:].any()


def test_without_a_subject_the_visitor_is_asked_to_paint_one(page, work, tmp_path):
    path = tmp_path / "flat.png"
    Image.new("RGB", SIZE, "grey").save(path)
    desk = opened(work, path, "outpaint")
    assert desk.mattes == {}
    tab = page.tabs[0]
    painting, view, line = page.on_draw(tab, desk, [None, "", None, "", "", ""])
    assert painting["mask"] is None and "brush over what to keep" in line
    view, line = page.on_preview(tab, desk, [brushed(desk, studio.KEEP), "", None, "", "", ""])
    assert line == "72 × 48 · 6% kept bit for bit"


def test_a_picture_is_made_without_a_photograph(work):
    desk, report, _ = work.run(
        work.blank(), request("generate", inputs={"prompt": "a cup", "size": "48x32"}, variants=2)
    )
    assert [each.picture.size for each in desk.results] == [(48, 32)] * 2 and "48 × 32" in report
    assert provenance.source_type(desk.results[0].picture) == provenance.GENERATED
    with pytest.raises(ValueError, match="prompt: is empty"):
        work.run(work.blank(), request("generate", inputs={}))
    edited, *_ = work.run(work.use_result(desk), request("expand"))
    assert edited.result.picture.size == (60, 32)


def test_the_preview_shows_what_is_kept_on_chequers(page, work, photograph):
    desk = opened(work, photograph, "outpaint")
    expand = next(tab for tab in page.tabs if tab.task.name == "expand")
    values = dict.fromkeys(expand.inputs, 0) | {"aspect": "1:1", "size": "", "prompt": ""}
    view, line = page.on_preview(expand, desk, [values[name] for name in expand.inputs])
    assert view.shape == (72, 72, 3) and line == "72 × 48 → 72 × 72 · 67% kept bit for bit"
    assert (view[12:60] == pixels()).all() and set(np.unique(view[:12])) == {204, 235}
    view, line = page.on_preview(expand, desk, [values[name] if name != "aspect" else "" for name in expand.inputs])
    assert line == "72 × 48" and (view == pixels()).all()


def test_each_way_to_say_the_canvas_clears_the_others(page):
    expand = next(tab for tab in page.tabs if tab.task.name == "expand")
    cleared = {}
    for each in page.blocks.fns.values():
        for block, event in each.targets:
            if event == "input":
                name = next((n for n, widget in expand.inputs.items() if widget._id == block), None)
                if name:
                    cleared[name] = {n for n, w in expand.inputs.items() if w in each.outputs}, each.fn()
    sides = {"left", "right", "top", "bottom"}
    assert cleared["aspect"] == (sides | {"size"}, [0, 0, 0, 0, ""])
    assert cleared["left"] == ({"aspect", "size"}, ["", ""])


# ------------------------------------------------------------------------------------------------------------- handlers


def test_a_whole_visit(page, photograph):
    """Open, edit, look at the second variant, take it over, undo: as the buttons do it."""
    desk, info, undo, redo, *_ = page.on_upload(None, str(photograph))
    assert info.startswith("**my-cup** · 72 × 48 · PNG, 8 bit RGB")
    assert undo["interactive"] is redo["interactive"] is False
    tab = page.tabs[1]
    shared = [None, "", None, 3, 2, 1, 1.0, pages.SAME_FORMAT]
    desk, slider, gallery, report, use, download, line = page.on_run(
        tab,
        desk,
        [*shared, brushed(desk), "", None],
        lambda *a, **k: None,
        visitor(),
    )
    assert [caption for _, caption in gallery["value"]] == ["seed 3", "seed 4"] and gallery["visible"]
    assert (slider[0] == pixels()).all() and use["interactive"] and download["value"].endswith("my-cup-inpaint.png")
    chosen, slider, *_ = page.on_choose(desk, pages.SAME_FORMAT, types.SimpleNamespace(index=1))
    assert (slider[1] == chosen.results[1].picture.pixels).all()
    used, _, undo, redo, slider, *_ = page.on_use(chosen)
    assert (used.photo.picture.pixels == chosen.results[1].picture.pixels).all()
    assert undo["interactive"] and not redo["interactive"] and slider is None
    back, _, undo, redo, slider, gallery, report, *_ = page.on_undo(used, pages.SAME_FORMAT)
    assert (back.photo.picture.pixels == pixels()).all() and redo["interactive"] and not undo["interactive"]
    assert back.results == chosen.results and back.chosen == 1 and report == chosen.report
    assert (slider[1] == chosen.results[1].picture.pixels).all() and gallery["selected_index"] == 1
    again, _, undo, *_ = page.on_redo(back, pages.SAME_FORMAT)
    assert again.photo is used.photo and undo["interactive"]


def test_every_example_can_be_run(page):
    """Photographs from scikit-image's wheel, with their masks and words."""
    for tab in (tab for tab in page.tabs if tab.example is not None):
        desk, *_ = page.on_example(tab, None)
        values = page.on_fill(tab, desk)
        values = values if len(tab.inputs) > 1 else [values]
        values = [None if "__type__" in str(value) else value for value in values]  # gr.skip()
        assert page.work.prepare(desk, tab.task, tab.raw(values)) is not None, tab.task.name


SHARED = [None, "", None, 0, 1, 1, 1.0, pages.SAME_FORMAT]


def test_a_mask_of_another_photograph_is_never_used(page, photograph):
    """Brushed, then another photograph opened: before it is drawn, neither a run nor a preview takes the mask."""
    tab = page.tabs[1]
    first, *_ = page.on_upload(None, str(photograph))
    values = [brushed(first), "", None]
    second, *_ = page.on_upload(first, str(photograph))  # the same file even
    with pytest.raises(ValueError, match="not drawn yet; run again"):
        page.on_run(tab, second, [*SHARED, *values], lambda *a, **k: None, visitor())
    assert page.on_preview(tab, second, values) == [gr.skip(), gr.skip()]
    painting, *_ = page.on_draw(tab, second, values)
    assert painting["id"] == second.photo.id and painting["mask"] is None


def test_what_is_brushed_stays_when_a_new_photograph_is_refused(page, photograph):
    desk, *_ = page.on_upload(None, str(photograph))
    value = brushed(desk)
    drawn, view, line = page.on_draw(page.tabs[1], desk, [value, "", None])
    assert drawn is value and "kept bit for bit" in line and view.shape == (*SIZE[::-1], 3)


def test_nothing_can_be_run_until_the_photograph_is_drawn(page):
    """Each event that changes it first switches all the buttons off, and each drawing ends with one being on."""
    runs = [tab.run for tab in page.tabs]
    starts = {page.upload._id: "upload", page.use._id: "click", page.undo._id: "click", page.redo._id: "click"}
    starts |= {page.shelf._id: "select"} | {tab.example._id: "click" for tab in page.tabs if tab.example}
    for block, event in starts.items():
        first = [each for each in page.blocks.fns.values() if (block, event) in each.targets]
        assert len(first) == 1 and set(runs) <= set(first[0].outputs) and not first[0].queue
    on = [each for each in page.blocks.fns.values() if len(each.outputs) == 1 and each.outputs[0] in runs]
    assert len(on) == (len(starts) + 1) * len(runs) and all(each.fn()["interactive"] for each in on)


def test_after_an_error_the_good_result_is_still_there(page, photograph, said):
    """Nothing is raised, which would lie over it: only the status changes, and the next run works."""
    desk, *_ = page.on_upload(None, str(photograph))
    tab = page.tabs[1]
    ask = [tab, desk, [*SHARED, brush.painting(pixels(), None, studio.REPAINT, desk.photo.id), "", None]]
    made, slider, status = page.on_run_safely(*ask, lambda *a, **k: None, visitor())
    assert made is None and slider == gr.skip()
    assert said == ["nothing is brushed; brush over what to change"] and said[0] in status
    assert page.on_made(desk, made) == [gr.skip(), None, *[gr.skip()] * 6]
    ask[2] = [*SHARED, brushed(desk), "", None]
    made, slider, status = page.on_run_safely(*ask, lambda *a, **k: None, visitor())
    after, waiting, slider, *_ = page.on_made(desk, made)
    assert after.results and waiting is None and slider is not None


def test_a_result_that_a_format_cannot_hold_is_told_before_and_lost_never(page, work, photograph, monkeypatch):
    monkeypatch.setitem(formats.LONGEST_SIDE, "WEBP", 50)
    desk = work.open(photograph)
    with pytest.raises(ValueError, match="WEBP holds at most 50 pixels a side, not 72x48"):
        work.run(desk, request("inpaint", format="WEBP"))
    desk, *_ = work.run(desk, request("inpaint"))
    update, line = page._file(desk, "WEBP")
    assert not update["interactive"] and line.endswith("not 72x48; choose PNG beside Download")
    assert page._finished(desk, "WEBP")[0] is not None


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
        assert handlers._seed(seed) == int(seed or 0)
        return
    with pytest.raises(ValueError, match="more than 64 bits"):
        handlers._seed(seed)


@pytest.fixture
def said(monkeypatch):
    """What the page shows beside its widgets."""
    lines = []
    monkeypatch.setattr(gr, "Warning", lambda message, **_: lines.append(message))
    return lines


def guarded(handler, *args):
    """As the page calls it, with two widgets to fill."""
    return pages._guarded(handler, [None, None])(*args)


def test_a_visitor_without_a_photograph_is_told_so(page, said):
    assert guarded(page.on_use, None) == [gr.skip(), gr.skip()]
    assert guarded(page.work.use_result, page.on_start()[0]) == [gr.skip(), gr.skip()]
    assert said == [
        "there is no photograph yet; open one first",
        "there is no result yet; run an edit first",
    ]


def test_a_bug_leaves_the_page_usable_and_is_told_on_the_server(said, capfd):
    assert guarded(lambda: {}["nothing"]) == [gr.skip(), gr.skip()]
    assert said == ["the page has made a mistake; what you have is still there"]
    assert "KeyError: 'nothing'" in capfd.readouterr().err


# --------------------------------------------------------------------------------------------------------------- limits


def test_what_is_too_large_or_no_picture_is_one_line(page, tmp_path, photograph, monkeypatch, said):
    monkeypatch.setattr(page.work, "max_pixels", 1000)
    guarded(page.on_upload, None, str(photograph))
    (tmp_path / "song.png").write_bytes(b"ID3" * 100)
    guarded(page.on_upload, None, str(tmp_path / "song.png"))
    assert "above the limit" in said[0] and said[1].startswith("song.png: is not an image that can be read")


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
    plain = work.run(desk, request("inpaint"))[0].result.picture.pixels.copy()
    lora = work.run(desk, request("inpaint", lora=str(path)))[0].result.picture.pixels
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
    _, address, public = blocks.launch(**app.launch_settings(upload="10kb"))
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


def test_share_is_never_the_default():
    assert app.launch_settings()["share"] is False and app.launch_settings()["server_name"] == "127.0.0.1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_visitors_photographs_go_when_the_demo_is_ended(tiny_folder, tmp_path, photograph, number):
    code = f"""
        import signal, sys, threading, os
        from pathlib import Path
        from photofound import cli
        from photofound.demos import app, studio

        def ready(address):
            (folder,) = Path({str(tmp_path)!r}).glob("photofound-demo-*")
            studio.Studio(folder / "desks", None).open({str(photograph)!r})
            assert list(folder.rglob("*.npy"))
            threading.Timer(0.2, os.kill, (os.getpid(), {int(number)})).start()

        serve = app.serve
        app.serve = lambda models, **settings: serve(models, **settings | {{"ready": ready}})
        sys.exit(cli.main(["demo", "--model", {str(tiny_folder)!r}, "--device", "cpu"]))
    """
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    run = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == (130 if number == signal.SIGINT else 128 + number), done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("photofound-demo-*"))


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
