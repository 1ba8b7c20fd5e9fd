"""What every address of the server does with an edit: read its pictures, queue it, wait, write the result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from fastapi import HTTPException
from PIL import Image
from starlette.datastructures import UploadFile

from photofound import image
from photofound.edits.request import Request
from photofound.edits.task import Task, offered
from photofound.image import Picture
from photofound.picture import layered
from photofound.serve.codec import PictureCodec
from photofound.serve.config import ServeConfig
from photofound.serve.form import field_name
from photofound.serve.queue import EditQueue, Ticket, TooLong

_LONGEST_NOTE = 4000  # characters; proxies refuse headers of 8 KiB


@dataclass(frozen=True)
class Result:
    """An edit's result as it is sent.

    Attributes:
        data: the file.
        format: Pillow's name of its format, or that of a file of layers.
        size: (width, height).
        note: what to tell the client beside the picture, in one line; may be empty.
        timing: of the header Server-Timing.
        seed: what it was made with.
    """

    data: bytes
    format: str
    size: tuple[int, int]
    note: str
    timing: str
    seed: int | None

    @property
    def mime_type(self) -> str:
        return mime_type(self.format)

    @property
    def suffix(self) -> str:
        return f".{self.format.lower()}" if self.format in layered.MIME else image.suffix_of(self.format)

    def headers(self, task: str) -> dict[str, str]:
        """A name to save it under, the times that browsers show, and what to tell the client."""
        note = self.note.encode("ascii", "replace").decode()
        note = "".join(character if character.isprintable() else "?" for character in note)[:_LONGEST_NOTE]
        headers = {"X-Photofound-Note": note} if note else {}
        return headers | {
            "Content-Disposition": f'inline; filename="{task}{self.suffix}"',
            "Server-Timing": self.timing,
        }


class EditService:
    """The edits of a server, for all its addresses.

    Args:
        queue: where edits wait and are computed.
        codec: what reads and writes files.
        config: the limits.
        tasks: those that are served.
    """

    def __init__(self, queue: EditQueue, codec: PictureCodec, config: ServeConfig, tasks: Sequence[Task]) -> None:
        self.queue, self.codec, self.config = queue, codec, config
        self.tasks = {task.name: task for task in tasks}

    def task(self, name: str) -> Task:
        """A task that is served. Raises HTTPException 404 for another one."""
        if name not in self.tasks:
            raise HTTPException(404, f"this server's model cannot {name}; it can {', '.join(self.tasks)}")
        return self.tasks[name]

    async def perform(self, task: Task, fields: Mapping[str, Any]) -> Result:
        """One edit by the fields of a task's form (``form.form_model``); files are UploadFile. Raises ValueError and
        what ``errors.errors_as_answers`` knows."""
        uploads = {name: value for name, value in fields.items() if isinstance(value, UploadFile)}
        warned: list[str] = []
        async with self.opened(uploads, fields["strip"], warned.append) as pictures:
            picture, given = pictures.get("image"), dict[str, Any]()
            for each in offered(task):
                value = pictures.get(field_name(each), fields[field_name(each)])
                if value is not None:
                    given[each.name] = each.parse(value) if isinstance(value, str) else value
            layers, best_of = fields.get("layers"), fields.get("best_of")
            if layers and (fields["format"] or (best_of or 1) > 1):
                raise ValueError("layers: the answer is one file of layers; leave format and best_of out")
            format = self.output_format(task, picture, fields["format"], given)
            format = layers.upper() if layers else format
            if told := task.ignored(fields):
                warned.append(told)
            seed, steps, guidance = _sampling(fields)
            if not task.samples:
                steps = guidance = None
            ((made, ticket),) = await self.compute(
                [Request(task.name, picture, given, seed, steps, guidance, layers=bool(layers), best_of=best_of)]
            )
            made = made if fields["recipe"] else replace(made, recipe="")
            return await self.write(task, made, ticket, format, fields["mark"], warned, uploads.get("image"))

    @asynccontextmanager
    async def opened(
        self, uploads: Mapping[str, UploadFile], strip: bool, warn: Callable[[str], None], copies: int = 0
    ) -> AsyncIterator[dict[str, Picture]]:
        """The pictures in uploads, while there is room for them, and for ``copies`` more of the first."""
        weights = [await self.codec.weigh(upload, name) for name, upload in uploads.items()]
        weight = sum(weights) + copies * (weights[0] if weights else 0)
        async with self.codec.room(min(weight, self.codec.capacity)):
            yield {name: await self.codec.read(upload, name, strip, warn) for name, upload in uploads.items()}

    def output_format(
        self, task: Task, photograph: Picture | None, wanted: str | None, inputs: Mapping[str, Any]
    ) -> str:
        """The answer's format: the wanted one, else the photograph's, or PNG if that cannot hold the result. Raises
        ValueError if the result will be too large for it."""
        usual, alpha = task.result_format(**inputs), task.result_alpha(**inputs)
        format = image.output_format(photograph, None, wanted or (image.suffix_of(usual) if usual else None), alpha)
        image.check_side(task.result_size(photograph, **inputs), format)
        return format

    async def compute(self, requests: Sequence[Request]) -> list[tuple[Picture, Ticket]]:
        """Wait for edits. Raises TooLong after a deadline. If the waiting ends for any reason, the work ends, too."""
        tickets = [self.queue.submit(request) for request in requests]
        try:
            return [(await _result(ticket), ticket) for ticket in tickets]
        finally:
            for ticket in tickets:
                if not ticket.result.done():
                    self.queue.abandon(ticket)

    async def write(
        self,
        task: Task,
        made: Picture,
        ticket: Ticket,
        format: str,
        mark: bool,
        warned: Sequence[str] = (),
        source: UploadFile | None = None,
    ) -> Result:
        """A result's file, or that of its layers. ``mark``: its metadata say what was generated, and how it was made.
        ``warned`` is told beside what the format cannot hold. ``source``: the photograph's file, for credentials."""
        told = list(warned)
        marked = mark, not task.takes_picture, task.generates
        if ticket.layers is None:
            data = await self.codec.write(made, format, *marked, told.append, source)
        else:
            data = await self.codec.write_layers(ticket.layers, made, format, *marked, told.append)
        computed = time.monotonic() - ticket.queued - ticket.waited
        timing = f"queue;dur={ticket.waited * 1e3:.0f}, edit;dur={computed * 1e3:.0f}"
        note = "; ".join(dict.fromkeys(filter(None, [made.note, ticket.note, *told])))
        return Result(data, format, made.size, note, timing, ticket.request.seed)


def mime_type(format: str) -> str:
    """``image/png`` for Pillow's ``PNG``; those of files of layers, too."""
    Image.init()
    return layered.MIME.get(format) or Image.MIME[format]


def _sampling(fields: Mapping[str, Any]) -> tuple[int, int | None, float | None]:
    """Seed, steps and guidance; the names of diffusers count where ours are left out."""
    steps = fields["num_inference_steps"] if fields["steps"] is None else fields["steps"]
    guidance = fields["guidance_scale"] if fields["guidance"] is None else fields["guidance"]
    return fields["seed"], steps, guidance


async def _result(ticket: Ticket) -> Picture:
    result = asyncio.wrap_future(ticket.result)
    try:
        while not result.done():
            if time.monotonic() > ticket.deadline:
                raise TooLong
            await asyncio.wait([result], timeout=min(1.0, max(0.01, ticket.deadline - time.monotonic())))
        return await result
    finally:
        if not result.done():
            result.cancel()
