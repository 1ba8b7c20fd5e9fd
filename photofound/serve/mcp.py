"""The edits as tools for assistants that speak MCP (Model Context Protocol), over standard input and output.

    photofound mcp --folder ~/Pictures

A tool for each task, with the inputs that the task declares, and ``verify``. Pictures are files of this machine, below
the folders that the user names; nothing is overwritten. A result is a new file, and a small picture of it.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from fastmcp import FastMCP
from fastmcp.exceptions import ToolError, ValidationError
from fastmcp.server.middleware import Middleware
from fastmcp.tools import Tool, ToolResult
from fastmcp.utilities.types import Image
from pydantic import Field

from photofound import __version__, image
from photofound.edits import proof
from photofound.edits.inputs import FILE_KINDS, Input
from photofound.edits.request import Request
from photofound.edits.segmenter import OWN
from photofound.edits.task import Task, get_task, offered, task_names
from photofound.errors import EXPECTED, one_line
from photofound.image import Picture
from photofound.picture import layered, provenance

_SHOWN = 512  # longest side of the picture that the assistant sees
_NEW_NAMES = 1000


def build(load: Callable[[], Any], folders: Sequence[Path], segmenters: Sequence[str] = ()) -> FastMCP:
    """The server. ``load`` gives the pipeline, and is called for the first edit; ``folders`` are what it may read and
    write, the first one is where relative names begin; ``segmenters``: what may find subjects, beside ``cutout`` and
    ``grabcut``: other names load models, or run code."""
    desk = Desk(load, folders)
    server: FastMCP = FastMCP(
        "photofound",
        version=__version__,
        instructions="Edits photographs. What is not to be changed comes back bit for bit; verify proves it. Pictures "
        f"are files below {', '.join(map(str, desk.folders))}; results are new files.",
    )
    server.add_middleware(_OneLine())
    for name in task_names():
        task = get_task(name)
        if not task.instructs:  # few models do; the tool would mislead
            server.add_tool(_tool(desk, task, segmenters))
    server.add_tool(Tool.from_function(desk.verify, name="verify"))
    return server


class _OneLine(Middleware):
    """Says in one line what is wrong with a tool's arguments; pydantic takes five."""

    async def on_call_tool(self, context: Any, call_next: Callable[[Any], Any]) -> Any:
        try:
            return await call_next(context)
        except ValidationError as error:
            cause = error.__cause__
            if not isinstance(cause, pydantic.ValidationError):
                raise
            first = cause.errors()[0]
            raise ToolError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


class Desk:
    """What the tools share: one model, and where files may lie."""

    def __init__(self, load: Callable[[], Any], folders: Sequence[Path]) -> None:
        self.folders = [folder.expanduser().resolve() for folder in folders]
        self._pipe, self._turn = cache(load), threading.Lock()

    def path(self, name: str) -> Path:
        """A file that may be read or written. Raises ValueError for one elsewhere, also by a link."""
        path = (self.folders[0] / Path(name).expanduser()).resolve()
        if not any(path.is_relative_to(folder) for folder in self.folders):
            allowed = ", ".join(map(str, self.folders))
            raise ValueError(f"{name}: lies outside of {allowed}; start photofound mcp with --folder for more")
        return path

    def edit(self, task: Task, given: dict[str, Any]) -> ToolResult:
        """Read, edit, write a new file."""
        asked = {each.name: each for each in offered(task)}
        source = self.path(given["image"]) if task.takes_picture else None
        picture = None if source is None else image.load(source)
        inputs: dict[str, Any] = {}
        for name, each in asked.items():
            if (value := given[name]) is not None:
                inputs[name] = self._input(each, value)
        named, usual = given["output"] and Path(given["output"]), task.result_format(**inputs)
        wanted = image.suffix_of(usual) if usual and not named else None
        format = image.output_format(picture, named, wanted, task.result_alpha(**inputs))
        output = self._output(task, source, given["output"], image.suffix_of(format))
        layers = given.get("layers") and layered.check_path(self.path(given["layers"]))
        sampling = given.get("seed", 0), given.get("steps"), given.get("guidance")
        request = Request(task.name, picture, inputs, *sampling, layers=bool(layers))
        with self._turn:
            edited = self._pipe().answer(request)
        (made,) = edited.images
        marked = provenance.mark(made, whole=not task.takes_picture) if task.generates else made
        image.save(marked, output, format)
        if layers:
            layered.save(edited.layers[0], marked, layers)
        told = {"path": str(output), "width": made.width, "height": made.height, "note": made.note}
        told |= {"layers": str(layers)} if layers else {}
        sentence = f"{output} ({made.width}x{made.height})" + (f"; {made.note}" if made.note else "")
        return ToolResult(content=[sentence, Image(data=_preview(made), format="jpeg")], structured_content=told)

    def verify(self, before: str, after: str, mask: str | None = None) -> dict[str, Any]:
        """Count the pixels of a photograph that had to be kept, and those that are identical in what was made of it, by
        whichever program. The mask is white where the edit was allowed; without one the result's own recipe says so.
        """
        try:
            marked = None if mask is None else self.path(mask)
            found = proof.verify(image.load(self.path(before)), image.load(self.path(after)), marked).compared
        except EXPECTED as error:
            raise ToolError(one_line(error)) from None
        kept = {"had_to_be_kept": found.kept, "identical": found.identical, "altered": found.altered}
        return kept | {"largest_difference": found.largest, "missing": found.missing, "pixels": found.pixels}

    def _input(self, each: Input, value: Any) -> Any:
        if each.kind in FILE_KINDS:
            return image.load(self.path(value))
        return each.parse(value) if isinstance(value, str) else value

    def _output(self, task: Task, source: Path | None, wanted: str | None, suffix: str) -> Path:
        """A file that does not exist yet. Raises ValueError, or FileExistsError for one that was asked for."""
        if wanted is not None:
            path = self.path(wanted)
            image.check_output(path, overwrite=False)
            return path
        first = self.folders[0] / task.name if source is None else source.with_name(f"{source.stem}-{task.name}")
        names = [first.name, *(f"{first.name}-{number}" for number in range(2, _NEW_NAMES))]
        free = (path for name in names if not (path := first.with_name(name + suffix)).exists())
        found = next(free, None)
        if found is None:
            raise ValueError(f"output: {first}{suffix} and {_NEW_NAMES} more exist; give another name")
        return self.path(str(found))


def _tool(desk: Desk, task: Task, segmenters: Sequence[str]) -> Tool:
    """A function with the task's inputs as its parameters, which is what fastmcp reads."""
    parameters = [_parameter("image", str, "the photograph, a file")] if task.takes_picture else []
    parameters += [_of_input(each, segmenters) for each in offered(task)]
    beside = "name of the result; left out, one beside the photograph"
    parameters.append(_parameter("output", str | None, beside, None))
    if task.varies:
        parameters.append(_parameter("seed", int, "the same seed gives the same pixels", 0))
    if task.samples:
        parameters += [
            _parameter("steps", int | None, "sampling steps; left out, the model's own", None),
            _parameter("guidance", float | None, "how strongly to follow the prompt; left out, the model's own", None),
        ]
    if task.has_layers:
        stacked = "also write the layers, to this new file: .ora (GIMP, Krita) or .psd (Photoshop)"
        parameters.append(_parameter("layers", str | None, stacked, None))
    parameters.sort(key=lambda each: each.default is not each.empty)

    def edit(**given: Any) -> ToolResult:
        try:
            return desk.edit(task, given)
        except EXPECTED as error:
            raise ToolError(one_line(error)) from None

    hints = {each.name: each.annotation for each in parameters}
    edit.__signature__ = inspect.Signature(parameters, return_annotation=ToolResult)  # type: ignore[attr-defined]
    edit.__annotations__ = hints | {"return": ToolResult}
    edit.__name__ = task.name
    return Tool.from_function(edit, name=task.name, description=_description(task))


def _description(task: Task) -> str:
    return f"{task.summary[:1].upper()}{task.summary[1:]}. The result is a new file."


def _of_input(each: Input, segmenters: Sequence[str]) -> inspect.Parameter:
    kinds: dict[str, Any] = {"int": int, "flag": bool}
    kind: Any = kinds.get(each.kind, str)
    choices = tuple(dict.fromkeys((*OWN, *segmenters))) if each.kind == "segmenter" else each.choices
    if choices:
        kind = Literal[choices]
    help = each.help.replace("%%", "%") + (", a file" if each.kind in FILE_KINDS else "")
    if each.required:
        return _parameter(each.name, kind, help)
    plain = each.default is None or isinstance(each.default, (str, int, bool))
    default = each.default if plain else None
    if kind is str and isinstance(default, int):
        default = str(default)
    return _parameter(each.name, kind if default is not None else kind | None, help, default)


def _parameter(name: str, kind: Any, help: str, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    annotation = Annotated[kind, Field(description=help)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _preview(made: Picture) -> bytes:
    """A small JPEG, without metadata."""
    scale = min(1.0, _SHOWN / max(made.size))
    size = max(1, round(made.width * scale)), max(1, round(made.height * scale))
    small = Picture.from_any((made.rgb() * 255).round().astype("uint8")).resize(size)
    return image.encode(replace(small, format="JPEG"), "JPEG")
