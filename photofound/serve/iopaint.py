"""IOPaint's ``/api/v1/inpaint``, for its clients: JSON with pictures in base64, answered with a PNG.

White in the mask is repainted: with a prompt as ``inpaint``, without one as ``erase``, exactly within the mask. The
extender is ``expand``. Settings of other models (samplers, steps, strategies for large pictures) change nothing: the
served model has its own.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import secrets
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response, UploadFile
from pydantic import BaseModel, Field

from photofound import image
from photofound.edits.request import Request as EditRequest
from photofound.image import Picture
from photofound.serve.endpoint import unless_hung_up
from photofound.serve.errors import IOPaintErrorInfo, errors_as_answers
from photofound.serve.openapi import error_responses
from photofound.serve.service import EditService

PNG: dict[int | str, dict[str, Any]] = {200: {"description": "the picture", "content": {"image/png": {}}}}


class InpaintBody(BaseModel):
    """What counts of IOPaint's request; its other fields are read over."""

    image: str = Field(min_length=1, description="the photograph in base64, also as a data URL")
    mask: str | None = Field(default=None, description="white = repaint, in base64, also as a data URL")
    prompt: str = Field(default="", max_length=2000)
    sd_seed: int = Field(default=42, ge=-1, le=2**63 - 1, description="-1: another one each time")
    use_croper: bool = Field(default=False, description="repaint within this box alone")
    croper_x: int = 0
    croper_y: int = 0
    croper_width: int = 512
    croper_height: int = 512
    use_extender: bool = Field(default=False, description="the box that the picture grows to; it has no mask then")
    extender_x: int = 0
    extender_y: int = 0
    extender_width: int = 640
    extender_height: int = 640
    paint_by_example_example_image: str | None = Field(default=None, description="a reference, in base64")


def add_iopaint_api(app: FastAPI, service: EditService, settings: dict[str, Any]) -> None:
    """Add the address; ``settings`` are those of all routes that need a key."""

    answers: dict[str, Any] = {"tags": ["images"], "responses": error_responses(IOPaintErrorInfo) | PNG}

    @app.post("/api/v1/inpaint", summary="IOPaint's inpaint", response_class=Response, **answers, **settings)
    async def iopaint_inpaint(request: Request, body: InpaintBody) -> Response:
        with errors_as_answers(service.config):
            return await unless_hung_up(request, _inpaint(service, body))


async def _inpaint(service: EditService, body: InpaintBody) -> Response:
    given = {"image": body.image, "mask": body.mask, "reference": body.paint_by_example_example_image}
    uploads = {name: await asyncio.to_thread(_upload, text, name) for name, text in given.items() if text}
    warned: list[str] = []
    async with service.opened(uploads, False, warned.append) as pictures:
        name, inputs = await asyncio.to_thread(_inputs, body, pictures)
        task, picture = service.task(name), pictures["image"]
        seed = secrets.randbelow(2**31) if body.sd_seed == -1 else body.sd_seed
        format = service.output_format(task, picture, "png", inputs)
        ((made, ticket),) = await service.compute([EditRequest(name, picture, inputs, seed)])
        result = await service.write(task, made, ticket, format, True, warned, uploads["image"])
    return Response(result.data, media_type=result.mime_type, headers=result.headers(name) | {"X-Seed": str(seed)})


def _upload(text: str, name: str) -> UploadFile:
    """A picture in base64, with or without the head of a data URL, as a file of a form."""
    try:
        return UploadFile(io.BytesIO(base64.b64decode(text.rpartition(",")[2], validate=True)), filename=name)
    except binascii.Error:
        raise ValueError(f"{name}: is no base64; send the bytes of a picture file in base64") from None


def _inputs(body: InpaintBody, pictures: dict[str, Picture]) -> tuple[str, dict[str, Any]]:
    """The task, and its inputs."""
    picture, mask = pictures["image"], pictures.get("mask")
    prompt = {"prompt": body.prompt} if body.prompt else {}
    if body.use_extender:
        left, top = -body.extender_x, -body.extender_y
        right, bottom = body.extender_width - picture.width - left, body.extender_height - picture.height - top
        sides = {"left": left, "top": top, "right": right, "bottom": bottom}
        if min(sides.values()) < 0:
            raise ValueError("extender: the box must hold the whole picture; make it larger")
        return "expand", sides | prompt
    if mask is None:
        raise ValueError("mask: is missing; send a picture of the photograph's size in which white is repainted")
    if mask.size != picture.size:
        sizes = f"{mask.width}x{mask.height}, and the image {picture.width}x{picture.height}"
        raise ValueError(f"mask: is {sizes}; send it as large as the image")
    hole = image.load_mask(mask, picture.size)
    if body.use_croper:
        box = np.zeros_like(hole)
        top, left = max(0, body.croper_y), max(0, body.croper_x)
        box[top : top + max(0, body.croper_height), left : left + max(0, body.croper_width)] = 1
        hole = hole * box
    inputs: dict[str, Any] = {"mask_image": (hole > 0.5).astype(np.float32)}
    reference = {"reference": pictures["reference"]} if "reference" in pictures else {}
    return ("inpaint", inputs | prompt | reference) if prompt or reference else ("erase", inputs | {"grow": 0})
