"""``POST /v1/choices``: which of several results a client's user chose; a server that was started with a folder for it
writes that there, for ``photofound learn``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, UploadFile
from pydantic import BaseModel, Field

from photofound import choices
from photofound.serve.errors import errors_as_answers
from photofound.serve.openapi import error_responses
from photofound.serve.service import EditService

MOST = 8  # results in a request


class Chosen(BaseModel):
    """How many pairs of a chosen and a rejected result were written."""

    pairs: int = Field(examples=[3])


def add_choices_api(app: FastAPI, service: EditService, settings: dict[str, Any]) -> None:
    """Add the address; ``settings`` are those of all routes that need a key."""

    @app.post(
        "/v1/choices",
        tags=["choices"],
        summary="which of several results was chosen",
        description="Results of one edit as the server sent them, with their recipes in the metadata. They are kept on "
        "the server's machine, to learn from.",
        responses=error_responses(),
        **settings,
    )
    async def choose(request: Request, chosen: list[UploadFile], rejected: list[UploadFile]) -> Chosen:
        with errors_as_answers(service.config):
            if len(chosen) + len(rejected) > MOST:
                raise ValueError(f"choices: {len(chosen) + len(rejected)} results, and {MOST} are the most; send fewer")
            named = {f"chosen {i + 1}": each for i, each in enumerate(chosen)}
            named |= {f"rejected {i + 1}": each for i, each in enumerate(rejected)}
            async with service.opened(named, False, lambda line: None) as pictures:
                read = list(pictures.values())
                sides = read[: len(chosen)], read[len(chosen) :]
                return Chosen(pairs=await asyncio.to_thread(choices.record, Path(service.config.choices), *sides))
