"""The handler of ``POST /v1/TASK``: read the form's pictures, queue the edit, wait, write the result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Form, Request, Response
from PIL import Image
from starlette.datastructures import UploadFile

from photofound import image
from photofound.edits import request as edits
from photofound.edits.task import Task, offered
from photofound.image import Picture
from photofound.serve.codec import PictureCodec
from photofound.serve.config import ServeConfig
from photofound.serve.errors import errors_as_answers
from photofound.serve.form import field_name, form_model
from photofound.serve.queue import EditQueue, Ticket, TooLong

_LONGEST_NOTE = 4000  # characters; proxies refuse headers of 8 KiB
CLIENT_CLOSED = 499  # nginx's status for a client that hung up


def endpoint(task: Task, queue: EditQueue, config: ServeConfig, codec: PictureCodec) -> Callable[..., Any]:
    """The handler for one task. Its form, and so its documentation, come from what the task declares."""
    inputs = {field_name(each): each for each in offered(task)}

    async def answer(fields: dict[str, Any]) -> Response:
        uploads = {name: value for name, value in fields.items() if isinstance(value, UploadFile)}
        weight = sum([await codec.weigh(upload, name) for name, upload in uploads.items()])
        async with codec.room(weight):
            warned: list[str] = []
            pictures = {
                name: await codec.read(upload, name, fields["strip"], warned.append) for name, upload in uploads.items()
            }
            picture, given = pictures.get("image"), dict[str, Any]()
            for name, each in inputs.items():
                value = pictures.get(name, fields[name])
                if value is not None:
                    given[each.name] = each.parse(value) if isinstance(value, str) else value
            format = _output_format(task, picture, fields["format"], given)
            ticket = queue.submit(edits.Request(task.name, picture, given, *_sampling(fields)))
            result = await _result(queue, ticket)
            mark, whole = fields["mark"] and task.generates, not task.takes_picture
            told = result if fields["recipe"] else replace(result, recipe="")
            data = await codec.write(told, format, mark, whole, warned.append, uploads.get("image"))
        notes = [result.note, ticket.note, *warned]
        return Response(data, media_type=mime_type(format), headers=_headers(task, format, ticket, notes))

    async def edit(request: Request, form: Any) -> Response:
        with errors_as_answers(config):
            return await _unless_hung_up(request, answer(dict(form)))

    model = form_model(task, config)
    edit.__name__ = task.name
    edit.__annotations__ |= {"request": Request, "form": Annotated[model, Form(media_type="multipart/form-data")]}
    return edit


def mime_type(format: str) -> str:
    """``image/png`` for Pillow's ``PNG``."""
    Image.init()
    return Image.MIME[format]


def _sampling(fields: dict[str, Any]) -> tuple[int, int | None, float | None]:
    """Seed, steps and guidance; the names of diffusers count where ours are left out."""
    steps = fields["num_inference_steps"] if fields["steps"] is None else fields["steps"]
    guidance = fields["guidance_scale"] if fields["guidance"] is None else fields["guidance"]
    return fields["seed"], steps, guidance


def _output_format(task: Task, photograph: Picture | None, wanted: str | None, inputs: dict[str, Any]) -> str:
    """The answer's format: the wanted one, else the photograph's, or PNG if that cannot hold the result. Raises
    ValueError if the result will be too large for it."""
    format = image.output_format(photograph, None, wanted, task.alpha)
    image.check_side(task.result_size(photograph, **inputs), format)
    return format


async def _result(queue: EditQueue, ticket: Ticket) -> Picture:
    """Wait for an edit. Raises TooLong after its deadline. If the waiting ends for any reason, the work ends too."""
    result = asyncio.wrap_future(ticket.result)
    try:
        while not result.done():
            if time.monotonic() > ticket.deadline:
                raise TooLong
            await asyncio.wait([result], timeout=min(1.0, max(0.01, ticket.deadline - time.monotonic())))
        return await result
    finally:
        if not result.done():
            queue.abandon(ticket)
            result.cancel()


async def _unless_hung_up(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The answer. If the client hangs up before, the work is cancelled."""
    working, hung_up = asyncio.ensure_future(work), asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait([working, hung_up], return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else Response(status_code=CLIENT_CLOSED)
    finally:
        hung_up.cancel()
        working.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _headers(task: Task, format: str, ticket: Ticket, notes: Sequence[str]) -> dict[str, str]:
    """A name to save the answer under, the times that browsers show, and what to tell the client."""
    computed = time.monotonic() - ticket.queued - ticket.waited
    note = "; ".join(dict.fromkeys(filter(None, notes))).encode("ascii", "replace").decode()
    note = "".join(character if character.isprintable() else "?" for character in note)[:_LONGEST_NOTE]
    headers = {"X-Photofound-Note": note} if note else {}
    return headers | {
        "Content-Disposition": f'inline; filename="{task.name}{image.suffix_of(format)}"',
        "Server-Timing": f"queue;dur={ticket.waited * 1e3:.0f}, edit;dur={computed * 1e3:.0f}",
    }
