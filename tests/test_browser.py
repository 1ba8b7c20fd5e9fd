"""The demo as a visitor sees it: Chromium uploads, paints, runs all tasks with the embedded model, and downloads.

make test-browser      # installs Chromium on Debian first
"""

from __future__ import annotations

import base64
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from photofound import image
from photofound.demos import app
from photofound.demos.studio import Models, Studio
from photofound.edits.task import get_task

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZE = (161, 121)
SIZES = ((1440, 900, {}), (390, 844, {"is_mobile": True, "has_touch": True}))
TASKS = ("packshot", "outpaint", "erase", "inpaint", "expand", "upscale", "cutout", "generate")
PATIENCE = 120_000  # milliseconds; a busy machine is slow, and nothing here measures speed
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; make test-browser installs it on Debian"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def address(folder):
    """The demo on a free port, with the embedded model and a folder for choices."""
    patch = pytest.MonkeyPatch()
    for name, value in app.confined(folder, 10_000_000).items():
        patch.setenv(name, value)
    blocks = app.build(Studio(folder / "desks", Models(hub=False), choices=folder / "choices"), 1_000_000)
    _, local, _ = blocks.launch(**app.launch_settings(upload=1_000_000))
    yield local
    blocks.close(verbose=False)
    patch.undo()


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing; make test-browser installs it")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, address):
    """Open the page at a size; whatever it asks of other servers or reports as an error is collected."""
    pages = []

    def open_page(width=1440, height=900, **settings):
        page = chromium.new_page(viewport={"width": width, "height": height}, **settings)
        page.set_default_timeout(PATIENCE)
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("console", lambda message: message.type == "error" and page.wrong.append(message.text))
        page.on("request", lambda request: request.url.startswith((address, "data:", "blob:")) or leak(page, request))
        page.goto(address)
        ready(page)
        pages.append(page)
        return page

    def leak(page, request):
        page.wrong.append(f"asks for {request.url}")

    yield open_page
    for page in pages:
        assert not page.wrong
        page.close()


def photograph(path: Path, deep=False, times=1) -> np.ndarray:
    """A bright disc on a dark, noisy ground; larger, edits take longer."""
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    disc = (x - 80) ** 2 + (y - 60) ** 2 < 35**2
    pixels = np.where(disc[..., None], 190, 40) + np.random.default_rng(0).integers(0, 40, (SIZE[1], SIZE[0], 3))
    pixels = (pixels * 257 + 3).astype(np.uint16) if deep else pixels.astype(np.uint8)
    pixels = pixels.repeat(times, 0).repeat(times, 1)
    image.save(pixels, path)
    return pixels


def ready(page) -> None:
    """Wait until a photograph lies there and nothing is being prepared."""
    page.locator(".bench[data-state=ready]:not([data-id='']), .bench[data-state=waiting]:not([data-id=''])").wait_for()


def reload(page) -> None:
    """Load the page anew. Gradio's client reports the requests that the former document leaves behind, on its console,
    as errors; nobody sees them, and they are not the page's."""
    former = len(page.wrong)
    page.reload(wait_until="commit")
    page.evaluate("0")  # what the former document said came before this answer
    del page.wrong[former:]
    page.wait_for_load_state()


def about(page, words: str) -> None:
    page.locator("[data-about]").get_by_text(words).wait_for(state="attached")
    ready(page)


def status(page, words: str) -> None:
    page.locator("[data-status]").get_by_text(words).wait_for()


def upload(page, path: Path) -> None:
    page.locator("[data-file=open]").set_input_files(path)
    about(page, path.stem)


def choose(page, task: str) -> None:
    page.locator(f"[data-task={task}]").click()
    ready(page)


def spot(page, x: float, y: float) -> tuple[float, float]:
    """Where a place of the photograph, in shares of its sides, is on the screen; the view is as it was fitted."""
    box = page.locator(".view canvas").bounding_box()
    frame = 26 if page.locator(".bench").get_attribute("data-layer") == "frame" else 8
    scale = min((box["width"] - 2 * frame) / SIZE[0], (box["height"] - 2 * frame) / SIZE[1], 2)
    left = box["x"] + (box["width"] - SIZE[0] * scale) / 2
    top = box["y"] + (box["height"] - SIZE[1] * scale) / 2
    return left + x * SIZE[0] * scale, top + y * SIZE[1] * scale


def colour(page, x: float, y: float) -> list[int]:
    """The colour that the canvas shows at a place of the photograph."""
    at = spot(page, x, y)
    page.wait_for_timeout(100)  # the next frame
    return page.evaluate(
        """([x, y]) => {
            const canvas = document.querySelector('.view canvas'), box = canvas.getBoundingClientRect();
            const scale = canvas.width / box.width, context = canvas.getContext('2d');
            return [...context.getImageData((x - box.left) * scale, (y - box.top) * scale, 1, 1).data].slice(0, 3);
        }""",
        at,
    )


def stroke(page, start=(0.15, 0.25), end=(0.35, 0.25)) -> None:
    """One stroke, by default through the middle of the upper left quarter."""
    page.locator("[data-size]").fill("20")
    page.mouse.move(*spot(page, *start))
    page.mouse.down()
    page.mouse.move(*spot(page, *end), steps=4)
    page.mouse.up()


def shots(page) -> int:
    return page.locator(".strip li").count()


def run(page) -> None:
    """Press Run, and wait for the result in the history."""
    before = shots(page)
    page.locator("[data-do=run][aria-disabled=false]").click()
    page.locator(".strip li").nth(before).wait_for()
    ready(page)


def download(page, folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.locator("[data-do=download]").click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_all_tasks_from_upload_to_download(visit, tmp_path):
    """What is kept is compared in the downloaded files, pixel by pixel."""
    given = photograph(tmp_path / "cup.png")
    page = visit()
    upload(page, tmp_path / "cup.png")
    results = {}
    for task in ("packshot", "outpaint", "inpaint", "erase", "expand", "upscale", "cutout"):
        choose(page, task)
        if task == "erase":
            page.get_by_label("Remove as soon as a stroke ends").uncheck()
        if task == "inpaint":
            stroke(page)  # which erase has, too: the marks are shared
        if task == "expand":
            page.get_by_role("button", name="16:9", exact=True).click()
            page.locator("[data-line]").get_by_text("215 × 121").wait_for()
        run(page)
        path = download(page, tmp_path)
        assert path.name == f"cup-{task}.png"
        results[task] = np.asarray(Image.open(path))
        page.locator("[data-do=undo]").click()
        about(page, "cup · ")

    subject = get_task("outpaint").prepare(image.load(tmp_path / "cup.png")).keep == 1
    assert 0.1 < subject.mean() < 0.5
    assert (results["packshot"][subject] == given[subject]).all() and (results["packshot"][0, 0] == 255).all()
    assert (results["outpaint"][subject] == given[subject]).all() and (results["outpaint"] != given).mean() > 0.3
    for task in ("inpaint", "erase"):
        changed = (results[task] != given).any(axis=2)
        rows, columns = np.nonzero(changed)
        assert 0.005 < changed.mean() < 0.1  # the stroke and nothing else
        assert 18 <= rows.min() and rows.max() <= 42 and 12 <= columns.min() and columns.max() <= 68
    assert results["expand"].shape == (121, 215, 3) and (results["expand"][:, 27:188] == given).all()
    assert results["upscale"].shape == (242, 322, 3)
    back = results["upscale"].reshape(121, 2, 161, 2, 3).mean(axis=(1, 3))
    assert np.abs(back - given).mean() < 4
    assert results["cutout"].shape == (121, 161, 4)


def test_edits_chain_in_the_photographs_own_depth_and_survive_a_reload(visit, tmp_path):
    given = photograph(tmp_path / "deep.tif", deep=True)
    page = visit()
    upload(page, tmp_path / "deep.tif")
    about(page, "TIFF, 16 bit RGB")
    choose(page, "inpaint")
    stroke(page)
    page.locator("[data-prompt]").fill("wood")
    page.get_by_text("Seed, images, steps").click()
    page.locator("[data-do=dice]").click()
    seed = int(page.locator("[data-set=seed]").input_value())
    page.locator("[data-set=variants]").fill("2")
    page.locator("[data-set=variants]").press("Tab")
    run(page)
    assert shots(page) == 3 and seed > 0
    page.get_by_role("button", name=f"3: Retouch, seed {seed + 1}").click()
    page.locator("[data-shot][aria-current]").get_by_text("Retouch").wait_for()
    ready(page)
    first = image.load(download(page, tmp_path))
    assert first.depth == 65535 and first.format == "TIFF"
    same = (first.pixels == given).all(axis=2)
    assert 0.9 < same.mean() < 1 and same[50:].all()

    choose(page, "expand")
    page.get_by_role("button", name="1:1", exact=True).click()
    page.locator("[data-line]").get_by_text("161 × 161").wait_for()
    run(page)
    second = image.load(download(page, tmp_path))
    assert second.path.name == "deep-inpaint-expand.tif" and second.depth == 65535
    assert (second.pixels[20:141] == first.pixels).all()

    reload(page)
    about(page, "deep-inpaint-expand")
    assert shots(page) == 5 and page.locator("[data-prompt]").input_value() == "wood"
    assert page.locator("[data-task=expand]").get_attribute("aria-checked") == "true"
    for name in ("deep-inpaint · ", "deep-inpaint · ", "deep · 161 × 121"):
        page.locator("[data-do=undo]").click()
        about(page, name)
    assert page.locator("[data-do=undo]").is_disabled()
    page.locator("[data-do=redo]").click()
    about(page, "deep-inpaint · ")


def test_the_variant_that_is_taken_is_kept_for_those_who_say_so(visit, folder, tmp_path):
    photograph(tmp_path / "cup.png")
    page = visit()
    upload(page, tmp_path / "cup.png")
    choose(page, "inpaint")
    stroke(page)
    page.locator("[data-prompt]").fill("wood")
    page.get_by_text("Seed, images, steps").click()
    page.locator("[data-set=variants]").fill("3")
    page.locator("[data-set=variants]").press("Tab")
    run(page)
    table = folder / "choices" / "inpaint" / "metadata.jsonl"
    download(page, tmp_path)
    assert not table.exists() and not page.locator("[data-set=learn]").is_checked()
    page.locator("[data-set=learn]").check()
    page.get_by_role("button", name="3: Retouch, seed 1").click()
    ready(page)
    taken = download(page, tmp_path)
    pairs = [json.loads(line) for line in table.read_text().splitlines()]
    assert len(pairs) == 2 and len({pair["rejected_file_name"] for pair in pairs}) == 2
    kept = image.load(table.parent / pairs[0]["file_name"])
    assert np.array_equal(kept.pixels, image.load(taken).pixels)


def test_marks_survive_a_reload(visit, tmp_path):
    photograph(tmp_path / "cup.png")
    page = visit()
    upload(page, tmp_path / "cup.png")
    choose(page, "inpaint")
    stroke(page)
    page.locator("[data-line]").get_by_text("kept bit for bit").wait_for()
    line = page.locator("[data-line]").inner_text()
    reload(page)
    ready(page)
    page.locator("[data-line]").get_by_text(line).wait_for()
    run(page)


def test_the_cut_out_can_be_corrected(visit, tmp_path):
    photograph(tmp_path / "cup.png")
    page = visit()
    upload(page, tmp_path / "cup.png")
    share = float((get_task("outpaint").prepare(image.load(tmp_path / "cup.png")).keep == 1).mean())
    choose(page, "outpaint")
    page.get_by_text("What is kept exactly").click()
    page.locator("[data-kept]").wait_for()
    whole = page.locator("[data-line]").get_by_text(f"161 × 121 · {share:.0%} kept bit for bit")
    whole.wait_for()
    page.locator("[data-tool=eraser]").click()
    stroke(page, (0.4, 0.5), (0.6, 0.5))
    whole.wait_for(state="detached")
    page.keyboard.press("Control+z")
    whole.wait_for()
    page.keyboard.press("Control+Shift+Z")
    whole.wait_for(state="detached")


def test_run_says_why_it_waits_and_is_always_there(visit, tmp_path):
    """At both sizes, for every task, without scrolling."""
    photograph(tmp_path / "cup.png")
    for width, height, settings in SIZES:
        page = visit(width, height, **settings)
        upload(page, tmp_path / "cup.png")
        button = page.locator("[data-do=run]")
        waits = {
            "erase": "Brush something first",
            "expand": "Drag the frame first",
            "generate": "Say it in words first",
        }
        for task in TASKS:
            choose(page, task)
            box = button.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["y"] + box["height"] <= height
            assert page.evaluate("document.documentElement.scrollWidth") == width
            if task in waits:
                assert button.inner_text() == waits[task]
        choose(page, "erase")
        button.click(force=True)  # it says so to those who press it, too
        status(page, "Brush something first")
        assert shots(page) == 1


def test_a_stroke_of_the_eraser_of_objects_runs_and_another_seed_is_tried(visit, tmp_path):
    given = photograph(tmp_path / "cup.png")
    page = visit()
    upload(page, tmp_path / "cup.png")
    choose(page, "erase")
    stroke(page)
    page.locator(".strip li").nth(1).wait_for()
    ready(page)
    page.locator("[data-do=another]").click()
    page.locator(".strip li").nth(2).wait_for()
    ready(page)
    seed = int(page.locator("[data-set=seed]").input_value())
    assert page.locator(".strip button").nth(2).get_attribute("aria-label") == f"3: Remove, seed {seed}"
    result = np.asarray(Image.open(download(page, tmp_path)))
    assert 0 < (result != given).any(axis=2).mean() < 0.1


def test_a_held_key_and_a_held_button_show_the_picture_before(visit, tmp_path):
    photograph(tmp_path / "cup.png")
    page = visit()
    upload(page, tmp_path / "cup.png")
    choose(page, "outpaint")
    page.locator("[data-prompt]").fill("plain red background")
    veiled = colour(page, 0.05, 0.5)
    assert min(veiled) > 150  # what is replaced is chequered
    run(page)
    after = colour(page, 0.05, 0.5)
    assert max(np.subtract(after, min(after))) > 60  # the result is not
    page.locator(".view canvas").focus()
    page.keyboard.down("b")
    before = colour(page, 0.05, 0.5)
    page.keyboard.up("b")
    assert colour(page, 0.05, 0.5) == after and np.abs(np.subtract(before, after)).max() > 40
    page.locator("[data-do=before]").hover()
    page.mouse.down()
    assert colour(page, 0.05, 0.5) == before
    page.mouse.up()
    assert colour(page, 0.05, 0.5) == after


def test_the_frame_is_dragged_by_its_edges_and_corners(visit, tmp_path):
    given = photograph(tmp_path / "cup.png")
    page = visit()
    upload(page, tmp_path / "cup.png")
    choose(page, "expand")
    page.mouse.move(*spot(page, 1, 0.3))  # an edge, away from its handle
    page.mouse.down()
    page.mouse.move(*spot(page, 1.25, 0.3), steps=3)
    page.mouse.up()
    assert page.locator("[data-side=right]").input_value() == "40"
    page.locator("[data-side=top]").fill("11")
    page.locator("[data-side=top]").press("Tab")
    page.locator("[data-line]").get_by_text("161 × 121 → 201 × 132").wait_for()
    run(page)
    result = np.asarray(Image.open(download(page, tmp_path)))
    assert result.shape == (132, 201, 3) and (result[11:, :161] == given).all()


def placed(page) -> dict[str, float]:
    """Where the page says that the subject lies: its centre and its size, in per cent."""
    page.wait_for_function("() => document.querySelector('[data-place=x]')?.value")
    return {name: float(page.locator(f"[data-place={name}]").input_value()) for name in ("x", "y", "size")}


def test_a_subject_is_dragged_to_its_place(visit, tmp_path):
    """By the pointer, at a corner, by keys and by numbers, and after a run once more; the file is as drawn."""
    given = photograph(tmp_path / "cup.png")
    page = visit()
    upload(page, tmp_path / "cup.png")
    page.locator("#field-canvas").fill("300x200")
    page.locator("#field-canvas").press("Tab")
    page.locator("[data-line]").get_by_text("161 × 121 → 300 × 200").wait_for()
    assert placed(page)["size"] == 100 and page.locator("[data-free]").is_disabled()
    box = page.locator(".view canvas").bounding_box()
    zoom = min((box["width"] - 52) / 300, (box["height"] - 52) / 200, 2)
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag(start, end):
        for press, (x, y) in (("", start), ("down", end), ("up", (0, 0))):
            if press != "up":
                page.mouse.move(middle[0] + x * zoom, middle[1] + y * zoom, steps=4)
            if press != "down":
                (page.mouse.up if press == "up" else page.mouse.down)()

    drag((0, 0), (60, 20))
    assert placed(page) == pytest.approx({"x": 70, "y": 60, "size": 100}, abs=0.6)
    page.locator("[data-line]").get_by_text("kept bit for bit").wait_for()
    run(page)
    result = np.asarray(Image.open(download(page, tmp_path)))
    assert result.shape == (200, 300, 3)
    rows, columns = np.nonzero((result < 250).any(axis=2))
    assert abs(np.median(rows) - 120) <= 2 and abs(np.median(columns) - 210) <= 2
    y, x = round(np.median(rows)), round(np.median(columns))
    here, there = result[y - 20 : y + 20, x - 20 : x + 20], given[40:80, 60:100]
    assert any((here == np.roll(there, (i, j), (0, 1))).mean() > 0.8 for i in range(-3, 4) for j in range(-3, 4))

    drag((95, 55), (60, 20))  # the lower right corner to the middle: half the size, and a place further up
    half = placed(page)
    assert 40 < half["size"] < 60 and half["x"] < 68 and half["y"] < 58
    page.locator("[data-line]").get_by_text("resampled").wait_for()
    page.locator(".view canvas").focus()
    page.keyboard.press("Shift+ArrowRight")
    status(page, "% from the left")
    page.keyboard.press("[")
    moved = placed(page)
    assert moved["x"] == pytest.approx(half["x"] + 5, abs=0.5) and moved["size"] == pytest.approx(
        half["size"] / 1.2, abs=0.5
    )
    page.locator("[data-place=size]").fill("100")
    page.locator("[data-place=size]").press("Tab")
    page.locator("[data-line]").get_by_text("kept bit for bit").wait_for()
    page.locator("[data-free]").click()
    page.wait_for_function("() => Math.abs(document.querySelector('[data-place=x]').value - 50) < 0.5")
    run(page)
    again = np.asarray(Image.open(download(page, tmp_path)))
    assert shots(page) == 3 and again.shape == (
        200,
        300,
        3,
    )  # of the photograph: its subject is not placed in the result
    rows, columns = np.nonzero((again < 250).any(axis=2))
    assert abs(np.median(rows) - 100) <= 2 and abs(np.median(columns) - 150) <= 2


def test_all_can_be_done_by_keys(visit, tmp_path):
    """Marks by a moved brush and by numbers, the brush's size, undo, and Run from the prompt."""
    given = photograph(tmp_path / "cup.png")
    page = visit()
    upload(page, tmp_path / "cup.png")
    choose(page, "inpaint")
    page.locator("[data-size]").fill("40")
    page.locator(".view canvas").focus()
    page.keyboard.press("]")
    assert page.locator("[data-size]").input_value() == "48"
    page.keyboard.press("[")
    page.keyboard.press("ArrowLeft")
    status(page, "% from the left")
    page.keyboard.press(" ")
    status(page, "Marked.")
    page.keyboard.press("Control+z")
    assert page.locator("[data-do=run]").inner_text() == "Brush something first"
    page.get_by_role("button", name="Mark a box by numbers").click()
    for name, value in (("x", 10), ("y", 20), ("w", 30), ("h", 40)):
        page.locator(f".numbers [name={name}]").fill(str(value))
    page.keyboard.press("Enter")
    page.locator("[data-prompt]").focus()
    page.keyboard.press("Enter")
    page.locator(".strip li").nth(1).wait_for()
    ready(page)
    changed = (np.asarray(Image.open(download(page, tmp_path))) != given).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), columns.min()) == (24, 16) and abs(rows.max() - 72) <= 1 and abs(columns.max() - 64) <= 1


def test_a_photograph_is_pasted_or_dropped_anywhere(visit, tmp_path):
    photograph(tmp_path / "cup.png")
    page = visit()
    data = base64.b64encode((tmp_path / "cup.png").read_bytes()).decode()
    send = """([type, name, data]) => {
        const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0)), transfer = new DataTransfer();
        transfer.items.add(new File([bytes], name, {type: 'image/png'}));
        const event = type === 'paste'
            ? new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true})
            : new DragEvent(type, {dataTransfer: transfer, bubbles: true});
        document.querySelector('.panel').dispatchEvent(event);
    }"""
    page.evaluate(send, ["paste", "pasted.png", data])
    about(page, "pasted · 161 × 121")
    page.evaluate(send, ["drop", "dropped.png", data])
    about(page, "dropped · 161 × 121")


def test_what_is_refused_changes_nothing(visit, tmp_path):
    """A result, then a picture that is none, one that is too large, a run without a mask: the result is still there."""
    photograph(tmp_path / "cup.png")
    photograph(tmp_path / "pot.png")
    (tmp_path / "song.png").write_bytes(b"ID3" * 100)
    (tmp_path / "large.png").write_bytes(b"0" * 2_000_000)
    page = visit()
    upload(page, tmp_path / "cup.png")
    choose(page, "upscale")
    run(page)
    for name, said in (
        ("song", "song.png: is not an image that can be read"),
        ("large", "large.png: is larger than this page takes"),
    ):
        page.locator("[data-file=open]").set_input_files(tmp_path / f"{name}.png")
        status(page, said)
        assert "/tmp" not in page.locator("[data-status]").inner_text()
        ready(page)
    about(page, "cup-upscale")
    assert image.load(download(page, tmp_path)).size == (2 * SIZE[0], 2 * SIZE[1])
    upload(page, tmp_path / "pot.png")
    choose(page, "inpaint")
    stroke(page)
    run(page)
    assert image.load(download(page, tmp_path)).path.name == "pot-inpaint.png"


def test_a_run_takes_no_mask_of_the_photograph_before_and_is_stopped(visit, tmp_path):
    photograph(tmp_path / "cup.png")
    photograph(tmp_path / "pot.png", times=4)  # its steps are seen even if the browser is late
    page = visit()
    upload(page, tmp_path / "cup.png")
    choose(page, "inpaint")
    stroke(page)
    upload(page, tmp_path / "pot.png")
    assert page.locator("[data-do=run]").inner_text() == "Brush something first"
    stroke(page)
    page.get_by_text("Seed, images, steps").click()
    page.locator("[data-set=steps]").fill("50")
    page.locator("[data-set=variants]").fill("6")
    page.locator("[data-set=variants]").press("Tab")
    page.locator("[data-do=run]").click()
    status(page, "step")
    page.locator("[data-do=stop]").click()
    status(page, "Cancelled.")
    ready(page)
    assert shots(page) == 1
    page.locator("[data-set=steps]").fill("1")
    page.locator("[data-set=variants]").fill("1")
    page.locator("[data-set=variants]").press("Tab")
    run(page)
    assert shots(page) == 2


def test_two_fingers_zoom_and_one_paints(visit, tmp_path):
    photograph(tmp_path / "cup.png")
    page = visit(390, 844, is_mobile=True, has_touch=True)
    upload(page, tmp_path / "cup.png")
    choose(page, "inpaint")
    touch = page.context.new_cdp_session(page)

    def send(kind, *points):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    x, y = spot(page, 0.5, 0.5)
    dark = colour(page, 0.02, 0.5)
    send("touchStart", (x - 20, y))
    send("touchStart", (x - 20, y), (x + 20, y))
    for far in (40, 80, 160):
        send("touchMove", (x - far, y), (x + far, y))
    send("touchEnd")
    assert np.abs(np.subtract(colour(page, 0.02, 0.5), dark)).max() > 60  # the disc in the middle covers it now
    assert page.locator("[data-do=run]").inner_text() == "Brush something first"  # and nothing was painted
    send("touchStart", (x - 20, y))
    send("touchMove", (x + 20, y))
    send("touchEnd")
    page.locator("[data-do=run][aria-disabled=false]").wait_for()


def test_many_photographs_are_edited_and_come_as_a_zip(visit, tmp_path):
    photograph(tmp_path / "cup.png")
    photograph(tmp_path / "pot.png")
    page = visit()
    choose(page, "expand")
    page.get_by_role("button", name="1:1", exact=True).click()
    page.get_by_text("Many photographs").click()
    page.locator("[data-file=batch]").set_input_files([tmp_path / "cup.png", tmp_path / "pot.png"])
    status(page, "2 photographs are ready")
    page.locator("[data-do=batch]").click()
    status(page, "2 of 2 photographs are done")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="photofound-expand.zip").click()
    waiting.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as packed:
        assert packed.namelist() == ["cup-expand.png", "pot-expand.png", "report.jsonl"]
        assert Image.open(packed.open("pot-expand.png")).size == (161, 161)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_is_hard_to_see_to_reach_or_to_read_aloud(visit, tmp_path, dark):
    """axe-core finds nothing (contrast, names, roles, ...), and what is pressed is 44 pixels large, at both sizes."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="make test-browser installs it").Axe()
    photograph(tmp_path / "cup.png")
    for width, height, settings in SIZES:
        page = visit(width, height, color_scheme="dark" if dark else "light", **settings)
        upload(page, tmp_path / "cup.png")
        choose(page, "upscale")
        run(page)
        for task in TASKS:
            choose(page, task)
            for details in page.locator(".panel details:not([hidden])").all():
                details.evaluate("(each) => { each.open = true; }")
            if page.locator("[data-do=numbers][aria-expanded=false]").is_visible():
                page.locator("[data-do=numbers]").click()
            found = axe.run(page).response["violations"]
            assert not [(each["id"], each["nodes"][0]["html"]) for each in found], task
            small = page.evaluate(
                """() => [...document.querySelectorAll('.bench :is(button, select, textarea, summary, label.check, a), '
                    + '.bench input:not([type=checkbox], [type=radio])')]
                    .filter((each) => each.offsetParent)
                    .map((each) => [each.getBoundingClientRect(), each.outerHTML.slice(0, 100)])
                    .filter(([box]) => box.height < 44 || box.width < 44).map(([, html]) => html)"""
            )
            assert not small, task


@pytest.mark.parametrize(
    ("locale", "title", "why"),
    [
        ("de-DE", "Entfernen", "Erst etwas markieren"),
        ("fr-FR", "Effacer", "Marquez d'abord une zone"),
        ("es-MX", "Quitar", "Marca algo primero"),
        ("zh-CN", "消除", "请先涂抹一处"),
        ("ja-JP", "消す", "先にどこかを塗ってください"),
        ("it-IT", "Remove", "Brush something first"),
    ],
)
def test_the_page_speaks_its_visitors_language(visit, locale, title, why):
    page = visit(locale=locale)
    assert page.locator("html").get_attribute("lang") == locale[:2].replace("it", "en")
    choose(page, "erase")
    assert page.locator("[data-task=erase]").inner_text().split() == [*title.split(), "erase"]
    assert page.locator("[data-do=run]").inner_text() == why
