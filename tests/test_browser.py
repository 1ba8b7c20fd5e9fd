"""The demo as a visitor sees it: Chromium uploads, paints, runs all five tasks with the embedded model, and downloads.

make test-browser      # installs Chromium on Debian first
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from photofound import image
from photofound.demos import app
from photofound.demos import page as pages
from photofound.demos.studio import Models, Studio
from photofound.edits.task import get_task

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZE = (161, 121)
PATIENCE = 120_000  # milliseconds; a busy machine is slow, and nothing here measures speed
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; make test-browser installs it on Debian"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The demo on a free port, with the embedded model."""
    folder = tmp_path_factory.mktemp("demo")
    patch = pytest.MonkeyPatch()
    for name, value in app.confined(folder, 10_000_000).items():
        patch.setenv(name, value)
    blocks = app.build(Studio(folder / "desks", Models(hub=False)))
    _, local, _ = blocks.launch(**app.launch_settings(upload="1mb"))
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
    """Open the page at a width; whatever it asks of other servers or reports as an error is collected."""
    pages = []

    def open_page(width=1280, **settings):
        page = chromium.new_page(viewport={"width": width, "height": 900}, **settings)
        page.set_default_timeout(PATIENCE)
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith((address, "data:", "blob:")) or leak(page, request))
        page.goto(address)
        page.locator("#info").get_by_text("coffee").wait_for()
        pages.append(page)
        return page

    def leak(page, request):
        page.wrong.append(f"asks for {request.url}")

    yield open_page
    for page in pages:
        assert not page.wrong
        page.close()


def photograph(path: Path, deep=False) -> np.ndarray:
    """A bright disc on a dark, noisy ground."""
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    disc = (x - 80) ** 2 + (y - 60) ** 2 < 35**2
    pixels = np.where(disc[..., None], 190, 40) + np.random.default_rng(0).integers(0, 40, (SIZE[1], SIZE[0], 3))
    pixels = (pixels * 257 + 3).astype(np.uint16) if deep else pixels.astype(np.uint8)
    image.save(pixels, path)
    return pixels


def upload(page, path: Path) -> None:
    page.locator("#upload input[type=file]").set_input_files(path)
    page.locator("#info").get_by_text(path.stem).wait_for()


def choose(page, task: str) -> None:
    """Open a task's tab; one that a narrow window has no room for is in the menu behind the tabs."""
    name = task.capitalize()
    page.get_by_role("tab").first.wait_for()
    if page.get_by_role("tab", name=name).is_visible():
        page.get_by_role("tab", name=name).click()
    else:
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown button", has_text=name).click()
    page.locator(f"#run-{task}").wait_for()


def ready(page, editor: str) -> None:
    """Wait until the photograph that was uploaded can be painted on."""
    page.locator(f"{editor} [data-ready=true] canvas[width='{SIZE[0]}']").wait_for()


def paint(page, task: str) -> None:
    """One stroke through the middle of the upper left quarter, and wait until the server has heard of it."""
    canvas = page.locator(f"#{task}-mask_image canvas")
    canvas.scroll_into_view_if_needed()
    ready(page, f"#{task}-mask_image")
    page.locator(f"#{task}-mask_image input[type=range]").fill("20")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.15 * box["width"], box["y"] + 0.25 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.35 * box["width"], box["y"] + 0.25 * box["height"], steps=4)
    page.mouse.up()


def run(page, task: str) -> None:
    page.locator(f"#run-{task}").click()
    page.locator("#file").get_by_text(f"{task}.").wait_for()  # the name of what can be downloaded


def download(page, folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.locator("#download").click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_all_five_tasks_from_upload_to_download(visit, tmp_path):
    """What is kept is compared in the downloaded files, pixel by pixel."""
    given = photograph(tmp_path / "cup.png")
    page = visit()
    upload(page, tmp_path / "cup.png")
    results = {}
    for task in pages.FIRST:
        choose(page, task)
        if task in ("inpaint", "erase"):
            paint(page, task)
        if task == "expand":
            page.get_by_text("16:9", exact=True).click()
            page.locator("#caption-expand").get_by_text("215 × 121").wait_for()
        run(page, task)
        path = download(page, tmp_path)
        assert path.name == f"cup-{task}.png"
        results[task] = np.asarray(Image.open(path))

    subject = get_task("outpaint").prepare(image.load(tmp_path / "cup.png")).keep == 1
    assert 0.1 < subject.mean() < 0.5
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


def test_edits_chain_and_are_undone_in_the_photographs_own_format(visit, tmp_path):
    given = photograph(tmp_path / "deep.tif", deep=True)
    page = visit()
    upload(page, tmp_path / "deep.tif")
    page.locator("#info").get_by_text("TIFF, 16 bit RGB").wait_for()
    choose(page, "inpaint")
    paint(page, "inpaint")
    page.get_by_text("Seed, variants, steps").click()
    page.locator("#dice").click()
    page.locator("#variants input[type=number]").fill("2")
    page.locator("#variants input[type=number]").press("Tab")
    run(page, "inpaint")
    seed = page.locator("#seed input").input_value()
    assert int(seed) > 0
    page.locator("#variants-made").get_by_text(f"seed {int(seed) + 1}").wait_for()
    page.locator("#variants-made button").nth(1).click()
    page.locator("#file").get_by_text(f"seed {int(seed) + 1}").wait_for()
    first = image.load(download(page, tmp_path))
    assert first.depth == 65535 and first.format == "TIFF"
    same = (first.pixels == given).all(axis=2)
    assert 0.9 < same.mean() < 1 and same[50:].all()

    page.locator("#use").click()
    page.locator("#info").get_by_text("deep-inpaint").wait_for()
    choose(page, "expand")
    page.get_by_text("square", exact=True).click()
    page.locator("#caption-expand").get_by_text("161 × 161").wait_for()
    run(page, "expand")
    second = image.load(download(page, tmp_path))
    assert second.path.name == "deep-inpaint-expand.tif" and second.depth == 65535
    assert (second.pixels[20:141] == first.pixels).all()

    page.locator("#undo").click()
    page.locator("#undo:disabled").wait_for()
    assert page.locator("#info").inner_text().startswith("deep · 161 × 121")


def test_the_cut_out_can_be_corrected_and_what_is_wrong_is_told(visit, tmp_path):
    photograph(tmp_path / "cup.png")
    page = visit()
    upload(page, tmp_path / "cup.png")
    share = float((get_task("outpaint").prepare(image.load(tmp_path / "cup.png")).keep == 1).mean())
    whole = page.locator("#caption-outpaint").get_by_text(f"161 × 121 · {share:.0%} kept bit for bit")
    whole.wait_for()
    editor = page.locator("#outpaint-subject")
    ready(page, "#outpaint-subject")
    editor.get_by_text("Eraser").click()
    editor.locator("canvas").scroll_into_view_if_needed()
    box = editor.locator("canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.up()
    whole.wait_for(state="detached")
    editor.get_by_text("Undo").click()
    whole.wait_for()

    choose(page, "inpaint")
    page.locator("#run-inpaint").click()
    page.get_by_text("nothing is brushed; brush over what to change").first.wait_for()
    (tmp_path / "song.png").write_bytes(b"ID3" * 100)
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "song.png")
    page.get_by_text("is not an image that can be read").first.wait_for()


def test_a_refused_upload_is_replaced_and_an_error_leaves_what_is_there(visit, tmp_path):
    """A result, then a picture that is none, one that is too large, a run without a mask: the result is still there."""
    photograph(tmp_path / "cup.png")
    photograph(tmp_path / "pot.png")
    (tmp_path / "song.png").write_bytes(b"ID3" * 100)
    (tmp_path / "large.png").write_bytes(b"0" * 2_000_000)
    page = visit()
    upload(page, tmp_path / "cup.png")
    choose(page, "upscale")
    run(page, "upscale")
    status = page.locator("#status").inner_text()
    for name, said in (("song", "song.png: is not an image that can be read"), ("large", "")):
        page.locator("#upload input[type=file]").set_input_files(tmp_path / f"{name}.png")
        toast = page.locator(".toast-body").first
        toast.wait_for()
        assert said in toast.inner_text() and "/tmp" not in toast.inner_text()
        toast.locator("button").first.click()
        toast.wait_for(state="detached")
        page.locator("#upload input[type=file]").wait_for(state="attached")
    choose(page, "inpaint")
    page.locator("#run-inpaint").click()
    page.locator("#status").get_by_text("nothing is brushed; brush over what to change").wait_for()
    page.locator("#cancel").wait_for(state="hidden")
    assert page.locator("#slider img").first.is_visible() and not page.locator("#slider .error").is_visible()
    assert image.load(download(page, tmp_path)).size == (2 * SIZE[0], 2 * SIZE[1])

    page.locator("#use").click()
    page.locator("#info").get_by_text("cup-upscale").wait_for()
    page.locator("#undo:enabled").click()
    page.locator("#redo:enabled").wait_for()
    page.locator("#status").get_by_text(status).wait_for()
    assert page.locator("#slider img").first.is_visible()

    upload(page, tmp_path / "pot.png")
    paint(page, "inpaint")
    run(page, "inpaint")
    assert image.load(download(page, tmp_path)).path.name == "pot-inpaint.png"


def test_a_run_takes_no_mask_of_the_photograph_before(visit, tmp_path):
    """Brushed, and another photograph opened: Run waits until that one is drawn, and then nothing is brushed."""
    photograph(tmp_path / "cup.png")
    photograph(tmp_path / "pot.png")
    page = visit()
    upload(page, tmp_path / "cup.png")
    choose(page, "inpaint")
    paint(page, "inpaint")
    upload(page, tmp_path / "pot.png")
    page.locator("#run-inpaint").click()
    page.locator("#status").get_by_text("nothing is brushed; brush over what to change").wait_for()
    assert page.locator("#file").get_by_text("pot-inpaint").count() == 0

    paint(page, "inpaint")
    page.locator("#run-inpaint").click()  # a run of this photograph, while another one is opened
    upload(page, tmp_path / "cup.png")
    page.locator("#cancel").wait_for(state="hidden")
    page.locator("#run-inpaint:enabled").wait_for()
    assert page.locator("#file").get_by_text("pot-inpaint").count() == 0
    assert page.locator("#info").inner_text().startswith("cup")


def test_a_telephone_is_wide_enough(visit):
    page = visit(width=390, is_mobile=True, has_touch=True)
    for task in pages.FIRST:
        choose(page, task)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator(f"#run-{task}").is_visible()
