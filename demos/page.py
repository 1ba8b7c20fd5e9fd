"""The page of the demo: one Gradio component, whose script does what the visitor sees, and the events behind it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from photofound.demos import offers, studio
from photofound.demos.calls import Calls, answered
from photofound.demos.endpoints import endpoints
from photofound.demos.studio import Studio
from photofound.edits.scores import MOST
from photofound.edits.task import task_names

WEB = Path(__file__).parent / "web"
SCRIPTS = ("words", "place", "stage", "fields", "panel", "bench")  # of the component, in one function
ONE_MODEL = {"concurrency_id": "model", "concurrency_limit": 1}  # the queue runs one of these events at a time


class Page:
    """The Blocks.

    Args:
        uploads: the folder in which Gradio puts what visitors upload.
        largest: bytes of the largest upload, which the script refuses before it is sent.
    """

    def __init__(self, work: Studio, uploads: Path, largest: int = 50_000_000) -> None:
        self.work = work
        tasks = offers.tasks_for(task_names())
        pipe = work.models.pipeline(tasks[0])  # a model that cannot be loaded is told at the start
        self.tasks = [task for task in tasks if not task.instructs or pipe.offers(task.name)]
        self.calls = Calls(work, self.tasks, uploads)
        self._sessions: dict[str, str] = {}
        with gr.Blocks(
            title="photofound", analytics_enabled=False, delete_cache=(600, 6 * 3600), fill_width=True
        ) as self.blocks:
            self.bench = self._bench(pipe.config.default_guidance, largest)
            self._wire()
            endpoints(work, self.tasks, uploads, **ONE_MODEL)

    def _bench(self, guidance: float, largest: int) -> gr.HTML:
        models = self.work.models
        return gr.HTML(
            html_template=(WEB / "bench.html").read_text(encoding="utf-8"),
            js_on_load="".join((WEB / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS),
            apply_default_css=False,
            elem_id="bench",
            server_functions=self.calls.functions(),
            tasks=[offers.described(task, models.segmenters) for task in self.tasks],
            shelf=offers.shelf_shown(),
            swatches=offers.backgrounds_shown(),
            formats=list(studio.FORMATS),
            candidates=MOST,
            models=models.choices(),
            model=models.default,
            loras=models.loras(),
            learns=self.work.choices is not None,
            # Only on this machine is it the visitor who has started the demo with a folder for choices.
            learn=self.work.choices is not None and models.hub,
            guidance=guidance,
            accept=offers.accepted(),
            largest=largest,
        )

    def _wire(self) -> None:
        """The events that wait in the queue, since they need the model or give a file. Each takes what the script sends
        with it and gives the component a new value, which the script shows."""
        listen: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        bench, calls = self.bench, self.calls

        def run(event: gr.EventData, request: gr.Request) -> dict[str, Any]:
            return self._told(calls.run, event, request)

        def load(event: gr.EventData, request: gr.Request) -> dict[str, Any]:
            return self._told(calls.load, event, request)

        def batch(event: gr.EventData, request: gr.Request) -> dict[str, Any]:
            return self._told(_with_file(calls.batch), event, request)

        def download(event: gr.EventData, request: gr.Request) -> dict[str, Any]:
            return {"what": "download"} | self._told(_with_file(calls.download), event, request)

        heavy = [
            bench.submit(run, None, bench, **listen, **ONE_MODEL),
            bench.load(load, None, bench, **listen, **ONE_MODEL),
            bench.batch(batch, None, bench, **listen, **ONE_MODEL),
        ]
        bench.download(download, None, bench, **listen)
        bench.stop(None, None, None, cancels=heavy, queue=False, **listen)
        self.blocks.unload(self._left)

    def _told(self, handler: Callable[..., dict[str, Any]], event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        data = dict(event._data or {})
        if request is not None and isinstance(data.get("token"), str):
            self._sessions[str(request.session_hash)] = data["token"]
        return answered(handler, data) | {"number": data.get("number")}

    def _left(self, request: gr.Request) -> None:
        """A visitor closes the page or loads it again: what runs for them is stopped."""
        self.work.cancel(self._sessions.pop(str(request.session_hash), ""))


def _with_file(handler: Callable[..., tuple[dict[str, Any], Path]]) -> Callable[..., dict[str, Any]]:
    """A handler that gives an answer and a file: the answer with the file as Gradio sends it."""

    def handle(*args: Any, **named: Any) -> dict[str, Any]:
        answer, path = handler(*args, **named)
        return answer | {"file": gr.FileData(path=str(path)).model_dump()}

    return handle
