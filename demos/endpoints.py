"""The demo as an API: an endpoint for each task, called by its name with ``gradio_client``.

client = Client("http://127.0.0.1:7860")
file = client.predict(image=handle_file("cup.png"), prompt="on a marble table", api_name="/outpaint")
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from photofound.demos import studio
from photofound.demos.calls import seed_of
from photofound.demos.desk import Form
from photofound.demos.studio import Studio
from photofound.demos.words import in_words
from photofound.edits.inputs import FILE_KINDS, Input
from photofound.edits.task import Task
from photofound.errors import EXPECTED

_PHOTOGRAPH = Input("image", "image", "the photograph", required=True)
_SEED = Input("seed", "int", "the same seed gives the same pixels", default=0)
_FORMAT = Input("format", "text", "of the result, like PNG; left out, the photograph's own", default="")


def endpoints(work: Studio, tasks: list[Task], folder: Path, **queue: Any) -> None:
    """Add an endpoint for each task to the Blocks that are being built. Results lie in ``folder``; ``queue``: settings
    of ``gr.api``."""
    for task in tasks:
        gr.api(_function(work, task, folder), api_name=task.name, api_description=_sentence(task.summary), **queue)


def _function(work: Studio, task: Task, folder: Path) -> Callable[..., Any]:
    """The endpoint's function. Its signature, from which Gradio makes the description, has the task's inputs."""
    asked = [*[_PHOTOGRAPH] * task.takes_picture, *studio.declared(task), _SEED, _FORMAT]

    def endpoint(*values: Any, **named: Any) -> Any:
        given = {each.name: value for each, value in zip(asked, values, strict=False)} | named
        try:
            return gr.FileData(path=str(_answer(work, task, given, folder)))
        except EXPECTED as error:
            raise gr.Error(in_words(error), print_exception=False) from None

    parameters = [
        inspect.Parameter(
            each.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            annotation=_kind(each),
            default=inspect.Parameter.empty if each.required else each.default,
        )
        for each in asked
    ]
    endpoint.__name__ = task.name
    endpoint.__signature__ = inspect.Signature(parameters, return_annotation=gr.FileData)  # type: ignore[attr-defined]
    endpoint.__annotations__ = {each.name: _kind(each) for each in asked} | {"return": gr.FileData}
    return endpoint


def _kind(each: Input) -> Any:
    if each.kind in FILE_KINDS:
        return gr.FileData if each.required else gr.FileData | None
    kind = {"int": int, "flag": bool}.get(each.kind, str)
    return kind if each.required or each.default is not None else kind | None


def _answer(work: Studio, task: Task, given: dict[str, Any], folder: Path) -> Path:
    """Edit as the page does, on a desk of the call's own; the result goes into ``folder``, which Gradio clears."""
    format = str(given.get("format") or "").upper() or None
    raw = {
        each.name: work.read(_path(value))
        if each.kind in FILE_KINDS and (value := given.get(each.name))
        else given.get(each.name)
        for each in studio.declared(task)
    }
    if task.takes_picture:
        file = Path(_path(given["image"]))
        desk = work.open_picture(work.read(file), file.stem)
    else:
        desk = work.blank()
    try:
        made, _, _ = work.run(desk, Form(task.name, raw, seed_of(given.get("seed")), format=format), desk.token)
        own = folder / desk.token
        own.mkdir(parents=True)
        return Path(shutil.move(work.export(made, format), own))
    finally:
        work.close(desk)


def _path(file: Any) -> str:
    return str(file["path"] if isinstance(file, dict) else getattr(file, "path", file))


def _sentence(summary: str) -> str:
    return f"{summary[:1].upper()}{summary[1:]}."
