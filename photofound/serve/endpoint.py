"""The handler of ``POST /v1/TASK``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Form, Request, Response

from photofound.edits.task import Task
from photofound.serve.errors import errors_as_answers
from photofound.serve.form import form_model
from photofound.serve.service import EditService

CLIENT_CLOSED = 499  # nginx's status for a client that hung up


def endpoint(task: Task, service: EditService) -> Callable[..., Any]:
    """The handler for one task. Its form, and so its documentation, come from what the task declares."""

    async def answer(fields: dict[str, Any]) -> Response:
        result = await service.perform(task, fields)
        return Response(result.data, media_type=result.mime_type, headers=result.headers(task.name))

    async def edit(request: Request, form: Any) -> Response:
        with errors_as_answers(service.config):
            return await unless_hung_up(request, answer(dict(form)))

    model = form_model(task, service.config)
    edit.__name__ = task.name
    edit.__annotations__ |= {"request": Request, "form": Annotated[model, Form(media_type="multipart/form-data")]}
    return edit


async def unless_hung_up(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
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
