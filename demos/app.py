"""The demo in a browser: ``photofound demo``. One canvas for all tasks, whose fields are the inputs that they declare.

A result takes the photograph's place, so that edits chain; the history has all of them. The page fetches nothing from
elsewhere, and the server reads and writes nothing outside a temporary folder of its own that goes when it stops, but
for the models that it was started with.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from photofound.demos.page import WEB, Page
from photofound.demos.studio import Models as Models
from photofound.demos.studio import Studio
from photofound.serve.workers import Files
from photofound.signals import handled

FONTS = (
    "ui-sans-serif",
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Helvetica Neue",
    "sans-serif",
)  # fetched: none
MAX_UPLOAD = 50_000_000  # bytes
WAITING = 20  # visitors in the queue; the next one is told to come back


def build(work: Studio, max_upload: int = MAX_UPLOAD) -> Any:
    """The page as gradio Blocks, ready to be launched."""
    from gradio.utils import get_upload_folder

    page = Page(work, Path(get_upload_folder()), max_upload)
    page.blocks.queue(max_size=WAITING, default_concurrency_limit=4, api_open=False)
    return page.blocks


def serve(
    models: Models,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    browser: bool = False,
    max_pixels: int = 40_000_000,
    max_upload: int = MAX_UPLOAD,
    ready: Callable[[str], None] = print,
    choices: Path | None = None,
) -> None:
    """Run the demo until it is interrupted. ``ready`` is told the address once the page can be opened.

    Args:
        host: who may come: this machine (127.0.0.1), or everybody who can reach it (0.0.0.0).
        port: None = the first free one from 7860 on.
        share: also through a public tunnel of Gradio's, which is never asked for by itself.
        max_pixels: largest photograph, before and after the edit.
        max_upload: largest file, in bytes.
        choices: folder in which is kept which of several variants a visitor took; None = nowhere.
    """
    with (
        _ended_by_signals(),
        tempfile.TemporaryDirectory(prefix="photofound-demo-", ignore_cleanup_errors=True) as folder,
    ):
        os.environ |= confined(Path(folder), max_pixels)
        files = Files(2, max_pixels)
        work = Studio(Path(folder) / "desks", models, max_pixels, files, choices)
        blocks = build(work, max_upload)
        _, local, public = blocks.launch(**launch_settings(host, port, share, browser, max_upload))
        try:
            ready(public or local)
            threading.Event().wait()
        finally:
            work.cancel_all()
            blocks.close(verbose=False)
            files.close()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does, so that visitors' photographs go with it. A second one ends it at
    once."""
    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield
        return

    def end(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    with handled(numbers, end):
        yield


def confined(folder: Path, max_pixels: int) -> dict[str, str]:
    """Environment variables that keep Gradio's files in ``folder`` and its telemetry off."""
    return {
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "GRADIO_EXAMPLES_CACHE": str(folder / "examples"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SHARE": "False",
        "PHOTOFOUND_MAX_PIXELS": str(max_pixels),  # what enlarged canvases are held to
    }


def launch_settings(
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    browser: bool = False,
    upload: int = MAX_UPLOAD,
) -> dict[str, Any]:
    """Arguments of ``Blocks.launch``."""
    return {
        "server_name": host,
        "server_port": port,
        "share": share,
        "inbrowser": browser,
        "max_file_size": upload,
        "allowed_paths": [],
        "prevent_thread_lock": True,
        "_frontend": False,  # else a machine too busy to answer within three seconds is taken for one without localhost
        "quiet": True,
        "footer_links": [],
        "ssr_mode": False,
        "max_threads": 8,
        "theme": gr.themes.Base(font=FONTS, font_mono=("ui-monospace", "monospace")),
        "head": f"<style>{(WEB / 'bench.css').read_text(encoding='utf-8')}</style>",
        "i18n": gr.I18n(**json.loads((WEB / "words.json").read_text(encoding="utf-8"))),
    }
