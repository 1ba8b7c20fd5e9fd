"""The picture of the page, docs/demo.jpg: the embedded model gives a cup new backgrounds, seed 0.

python docs/screenshot.py docs/demo.jpg       # needs photofound[demo,browser] and Chromium
"""

import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from photofound.demos import app
from photofound.demos.studio import Models, Studio

PROMPTS = ("on a red cloth", "on a dark wooden table", "on a marble table")
READY = ".bench[data-state=ready]:not([data-id=''])"


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        blocks = app.build(Studio(Path(folder) / "desks", Models(hub=False)), 1_000_000)
        _, address, _ = blocks.launch(**app.launch_settings(upload=1_000_000))
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(240_000)
        page.goto(address)
        page.locator(READY).wait_for()
        page.locator("[data-task=outpaint]").click()
        page.locator(READY).wait_for()
        for number, prompt in enumerate(PROMPTS, 1):
            page.locator("[data-prompt]").fill(prompt)
            page.locator("[data-do=run][aria-disabled=false]").click()
            page.locator(".strip li").nth(number).wait_for()
            page.locator(READY).wait_for()
        page.locator("[data-status]").evaluate(
            "each => { each.textContent = '' }"
        )  # seconds of whichever machine draws
        page.wait_for_timeout(1000)
        page.screenshot(path=Path(folder) / "page.png")
        Image.open(Path(folder) / "page.png").convert("RGB").save(target, quality=88)
        browser.close()
        blocks.close(verbose=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
