"""OpenAI's images API, as its clients call it: ``/v1/images/edits``, ``/v1/images/generations``,
``/v1/images/variations`` and ``/v1/models``.

    client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="x")
    answer = client.images.edit(image=photo, mask=mask, prompt="a plant")

A mask is a picture whose transparent part is edited. What is kept comes back bit for bit, as everywhere here. ``model``
may name a task; other names stand for the model that is served, since clients send that of another service.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Form, HTTPException, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from photofound.edits.geometry import parse_size
from photofound.edits.request import Request as EditRequest
from photofound.edits.task import Task
from photofound.image import Picture
from photofound.serve.codec import PICTURES
from photofound.serve.endpoint import unless_hung_up
from photofound.serve.errors import OpenAIErrorInfo, errors_as_answers
from photofound.serve.openapi import error_responses
from photofound.serve.service import EditService, Result

MOST = 10
"""Pictures of one request, as OpenAI has it."""

_FORM: Any = Form(media_type="multipart/form-data")
_LARGEST_SIDE = 16384
_OPAQUE = 1 - 8 / 255  # alpha above it is opaque: masks may have been compressed


class _Asked(BaseModel):
    """What all three ask for. Fields of the API that are not here (quality, style, user, ...) change nothing."""

    model: str | None = Field(default=None, max_length=200, description="a task, or any other name: the served model")
    n: int | None = Field(default=1, ge=1, le=MOST, description="how many pictures; each has a seed of its own")
    size: str | None = Field(default=None, pattern=r"^(auto|[0-9]{1,5}x[0-9]{1,5})$", examples=["1024x1024"])
    response_format: Literal["b64_json", "url"] | None = Field(default=None, description="b64_json; a URL is not given")
    output_format: Literal["png", "jpeg", "webp"] | None = Field(default=None, description="default: png, exact")
    stream: bool | None = Field(default=False, description="an event for each picture, once it is whole")
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1, description="of the first picture; default: a new one")

    @property
    def wanted_size(self) -> str | None:
        return None if self.size in (None, "auto") else self.size


class Generation(_Asked):
    """The body of ``/v1/images/generations``."""

    prompt: str = Field(max_length=32_000, description="what to show")


class Variation(_Asked):
    """The form of ``/v1/images/variations``."""

    image: UploadFile = Field(description="the photograph")


class Edit(_Asked):
    """The form of ``/v1/images/edits``."""

    prompt: str = Field(default="", max_length=32_000, description="what to paint")
    image: list[UploadFile] = Field(default=[], description="the photograph; a second one is a reference")
    several: list[UploadFile] = Field(default=[], alias="image[]", description="the same, as clients send a list")
    mask: UploadFile | None = Field(default=None, description="as large as the photograph; transparent = edit")


@dataclass(frozen=True)
class _Work:
    """A request, understood.

    Attributes:
        task: what is to be done.
        picture: the photograph, or None.
        inputs: of the task.
        fit: the size that results are made to fit, or None for their own.
        source: the photograph's file, for credentials.
    """

    task: Task
    picture: Picture | None
    inputs: dict[str, Any]
    fit: tuple[int, int] | None = None
    source: UploadFile | None = None


class ImagesAPI:
    """The three addresses' work."""

    def __init__(self, service: EditService) -> None:
        self.service = service

    async def edit(self, form: Edit) -> Response:
        files = [*form.image, *form.several]
        if not files:
            raise ValueError("image: is missing; send the photograph")
        if len(files) > 2:
            raise ValueError(f"image: there are {len(files)}; send the photograph, and at most one reference")
        uploads = dict(zip(("image", "reference"), files, strict=False)) | ({"mask": form.mask} if form.mask else {})
        warned: list[str] = []
        async with self.service.opened(uploads, False, warned.append, (form.n or 1) - 1) as pictures:
            task, inputs = await asyncio.to_thread(self._understood, form, pictures)
            fit = None if "size" in inputs else _pair(form.wanted_size)
            work = _Work(task, pictures["image"], inputs, fit, files[0])
            return await self._answer(form, work, "image_edit", warned)

    async def generate(self, body: Generation) -> Response:
        task = self.service.task("generate")
        inputs = {"prompt": body.prompt} | ({"size": body.wanted_size} if body.wanted_size else {})
        return await self._answer(body, _Work(task, None, inputs), "image_generation")

    async def vary(self, form: Variation) -> Response:
        """The subject stays, its background is another one each time."""
        warned: list[str] = []
        async with self.service.opened({"image": form.image}, False, warned.append, (form.n or 1) - 1) as pictures:
            work = _Work(self.service.task("outpaint"), pictures["image"], {}, _pair(form.wanted_size), form.image)
            return await self._answer(form, work, "image_edit", warned)

    # ----------------------------------------------------------------------------------------------- what is asked for

    def _understood(self, form: Edit, pictures: dict[str, Picture]) -> tuple[Task, dict[str, Any]]:
        """The task, and its inputs."""
        picture, mask = pictures["image"], pictures.get("mask")
        hole = None if mask is None else _hole(mask, "mask")
        name = form.model if form.model in self.service.tasks else self._fitting(picture, hole)
        task = self.service.task(name)
        takes, inputs = {each.name for each in task.inputs}, dict[str, Any]()
        if "prompt" in takes:
            inputs["prompt"] = form.prompt
        if hole is None and "mask_image" in takes and picture.has_alpha and not task.instructs:
            hole = _hole(picture, "image")
        if hole is not None:
            named = {"mask_image": hole} if "mask_image" in takes else {"subject": 1 - hole}
            if not takes.issuperset(named):
                raise ValueError(f"mask: {name} takes none; leave it out")
            inputs |= named
        if "reference" in pictures:
            if "reference" not in takes:
                raise ValueError(f"image: {name} takes no second picture; send one")
            inputs["reference"] = pictures["reference"]
        if "size" in takes and form.wanted_size:
            inputs["size"] = form.wanted_size
        return task, inputs

    def _fitting(self, picture: Picture, hole: np.ndarray | None) -> str:
        """The task of an edit whose ``model`` names none."""
        if hole is not None:
            return "inpaint"
        alpha = picture.alpha()
        if alpha is not None and (alpha < _OPAQUE).any():
            border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
            return "outpaint" if (border < _OPAQUE).mean() > 0.5 else "inpaint"  # a cut-out, or a picture with a hole
        if "edit" in self.service.tasks:
            return "edit"
        raise ValueError(
            "mask: is missing, and this server's model follows no instructions; send a mask whose transparent part is "
            "edited, or model='outpaint' to replace the background",
        )

    def _check_count(self, work: _Work, count: int) -> None:
        """All pictures of a request are in memory at once."""
        width, height = work.task.result_size(work.picture, **work.inputs)
        if count > 1 and count * width * height > PICTURES * self.service.config.max_pixels:
            raise HTTPException(413, f"n: {count} pictures of {width}x{height} are too many at once; ask for fewer")

    # ------------------------------------------------------------------------------------------------------ the answer

    async def _answer(self, asked: _Asked, work: _Work, kind: str, warned: Sequence[str] = ()) -> Response:
        if asked.response_format == "url":
            raise ValueError("response_format: 'url' is not offered; leave it out, or ask for 'b64_json'")
        format = self.service.output_format(work.task, work.picture, asked.output_format or "png", work.inputs)
        self._check_count(work, asked.n or 1)
        first, count = secrets.randbelow(2**31) if asked.seed is None else asked.seed, asked.n or 1
        requests = [EditRequest(work.task.name, work.picture, work.inputs, first + i) for i in range(count)]
        results = []
        for made, ticket in await self.service.compute(requests):
            fitted = made if work.fit is None else await asyncio.to_thread(_fitted, made, work.fit)
            results.append(await self.service.write(work.task, fitted, ticket, format, True, warned, work.source))
        headers = results[0].headers(work.task.name)
        del headers["Content-Disposition"]
        about = {"created": int(time.time()), "output_format": asked.output_format or "png", "size": _size(results[0])}
        if asked.stream:
            events = "".join(_events(results, kind, about))
            return Response(events, media_type="text/event-stream", headers=headers)
        data = [{"b64_json": _base64(each), "seed": each.seed} for each in results]
        notes = [each.note for each in results]
        told = {"task": work.task.name, "model": self.service.queue.metrics.model, "notes": notes}
        return JSONResponse(about | {"data": data, "photofound": told}, headers=headers)


def _hole(picture: Picture, name: str) -> np.ndarray:
    """(H, W) float32 in [0, 1], 1 = transparent."""
    alpha = picture.alpha()
    if alpha is None:
        raise ValueError(f"{name}: has no transparency; make the part that is to be edited transparent")
    if not (alpha < _OPAQUE).any():
        raise ValueError(f"{name}: is opaque all over; make the part that is to be edited transparent")
    return np.where(alpha >= _OPAQUE, 0, 1 - alpha).astype(np.float32)


def _pair(size: str | None) -> tuple[int, int] | None:
    return None if size is None else parse_size(size, _LARGEST_SIDE)


def _fitted(picture: Picture, size: tuple[int, int]) -> Picture:
    """The picture as large as it can be within ``size``, in its own shape."""
    scale = min(size[0] / picture.width, size[1] / picture.height)
    fitting = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture if fitting == picture.size else replace(picture.resize(fitting), recipe="")  # it names other pixels


def _size(result: Result) -> str:
    return f"{result.size[0]}x{result.size[1]}"


def _base64(result: Result) -> str:
    return base64.b64encode(result.data).decode()


def _events(results: Sequence[Result], kind: str, about: dict[str, Any]) -> Iterator[str]:
    """Server-sent events as the API has them: one for each picture. None is sent half made."""
    for each in results:
        event = {"type": f"{kind}.completed", "b64_json": _base64(each), "created_at": about["created"]}
        event |= {"output_format": about["output_format"], "size": _size(each), "quality": "auto", "background": "auto"}
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"


def add_images_api(app: FastAPI, service: EditService, settings: dict[str, Any]) -> None:
    """Add the addresses; ``settings`` are those of all routes that need a key."""
    api = ImagesAPI(service)
    settings = settings | {"responses": error_responses(OpenAIErrorInfo)}
    posts: dict[str, Any] = settings | {"tags": ["images"]}

    @app.post("/v1/images/edits", summary="OpenAI's images.edit", **posts)
    async def images_edit(request: Request, form: Annotated[Edit, _FORM]) -> Response:
        with errors_as_answers(service.config):
            return await unless_hung_up(request, api.edit(form))

    @app.post("/v1/images/generations", summary="OpenAI's images.generate", **posts)
    async def images_generate(request: Request, body: Generation) -> Response:
        with errors_as_answers(service.config):
            return await unless_hung_up(request, api.generate(body))

    @app.post("/v1/images/variations", summary="OpenAI's images.create_variation", **posts)
    async def images_vary(request: Request, form: Annotated[Variation, _FORM]) -> Response:
        with errors_as_answers(service.config):
            return await unless_hung_up(request, api.vary(form))

    started = int(time.time())

    @app.get("/v1/models", tags=["server"], summary="OpenAI's models.list", **settings)
    async def list_models() -> dict[str, Any]:
        names = [service.queue.metrics.model, *service.tasks]
        return {"object": "list", "data": [_model(name, started) for name in names]}

    @app.get("/v1/models/{name:path}", tags=["server"], summary="OpenAI's models.retrieve", **settings)
    async def show_model(name: str) -> dict[str, Any]:
        if name != service.queue.metrics.model and name not in service.tasks:
            raise HTTPException(404, f"model: {name!r} is not served; /v1/models lists what is")
        return _model(name, started)


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "photofound"}
