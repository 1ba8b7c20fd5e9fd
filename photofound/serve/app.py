"""The HTTP server: ``photofound serve --port 8000``. Every task is ``POST /v1/TASK``, built from what it declares.

    curl -F image=@cup.jpg -F prompt="on a marble table" localhost:8000/v1/outpaint -o out.jpg

The event loop never computes. ``gate`` refuses a request before its body is read, ``codec`` reads and writes files in
processes, ``queue`` computes edits in one thread, in batches. A request holds a place in the queue from before its body
is read until its answer is sent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Response, Security
from fastapi.responses import PlainTextResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware.cors import CORSMiddleware

from photofound import __version__
from photofound.edits.task import Task, get_task, task_names
from photofound.pipeline import EMBEDDED, EditPipeline
from photofound.serve.choices import add_choices_api
from photofound.serve.codec import PictureCodec
from photofound.serve.config import ServeConfig as ServeConfig
from photofound.serve.connections import Server
from photofound.serve.endpoint import endpoint
from photofound.serve.errors import add_error_handlers
from photofound.serve.gate import Gate
from photofound.serve.home import add_home
from photofound.serve.iopaint import add_iopaint_api
from photofound.serve.jobs import Jobs, add_jobs
from photofound.serve.metrics import Metrics
from photofound.serve.openai import add_images_api
from photofound.serve.openapi import (
    ErrorInfo,
    Status,
    TaskInfo,
    add_documentation,
    task_description,
    task_info,
    task_responses,
)
from photofound.serve.queue import EditQueue
from photofound.serve.service import EditService

log = logging.getLogger("photofound.serve.app")

CLIENTS = {
    "/v1/images/edits": "images/edits",
    "/v1/images/generations": "images/generations",
    "/v1/images/variations": "images/variations",
    "/api/v1/inpaint": "iopaint",
}
"""Addresses of edits that clients of other servers know, and what the metrics call them."""


def create_app(pipe: EditPipeline, config: ServeConfig | None = None) -> FastAPI:
    """The server's ASGI application, with a queue that lives as long as it does.

    The limit on pixels becomes the process's (``PHOTOFOUND_MAX_PIXELS``), so that it bounds masks and enlarged canvases
    too.

    Args:
        pipe: any task's pipeline, on its device. All tasks that the model has learnt are served.
        config: the defaults if left out.
    """
    config = config or ServeConfig()
    os.environ["PHOTOFOUND_MAX_PIXELS"] = str(config.max_pixels)
    tasks = _tasks_of(pipe)
    queue, codec = EditQueue(pipe, config, Metrics(model_name(pipe))), PictureCodec(config)
    service = EditService(queue, codec, config, tasks)
    jobs = Jobs(service, config) if config.jobs else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        queue.start()
        if jobs is not None:
            jobs.start()
        yield
        if jobs is not None:
            await jobs.stop()
        await asyncio.get_running_loop().run_in_executor(None, queue.close)
        codec.close()

    app = FastAPI(
        title="photofound",
        version=__version__,
        description="Edit photographs.",
        lifespan=lifespan,
        openapi_url=None,  # add_documentation adds these, without files of other hosts
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.queue, app.state.close_at_once = queue, codec.close
    forms = {f"/v1/{task.name}" for task in tasks if task.takes_picture}
    doors = {f"/v1/{task.name}": task.name for task in tasks} | CLIENTS
    doors |= {f"/v1/jobs/{task.name}": f"jobs/{task.name}" for task in tasks if jobs is not None}
    forms |= {f"/v1/jobs/{task.name}" for task in tasks if task.takes_picture}
    if config.choices:
        doors, forms = doors | {"/v1/choices": "choices"}, forms | {"/v1/choices"}
    app.add_middleware(Gate, queue=queue, config=config, doors=doors, forms=forms)
    if config.origins:
        _allow_origins(app, config.origins)
    add_error_handlers(app)
    # For the documentation only; Gate checks the key.
    key = APIKeyHeader(name="X-API-Key", scheme_name="ApiKey", auto_error=False)
    bearer = HTTPBearer(scheme_name="Bearer", auto_error=False)
    secured: Any = {"dependencies": [Security(key), Security(bearer)] if config.keys else []}
    for task in tasks:
        app.post(
            f"/v1/{task.name}",
            name=task.name,
            tags=["edits"],
            summary=task.summary,
            description=task_description(task),
            response_class=Response,
            responses=task_responses(),
            **secured,
        )(endpoint(task, service))
    add_images_api(app, service, secured)
    add_iopaint_api(app, service, secured)
    if jobs is not None:
        add_jobs(app, jobs, secured)
    if config.choices:
        add_choices_api(app, service, secured)
    add_home(app, queue.metrics.model)
    _add_information(app, queue, tasks, secured)
    add_documentation(app)
    return app


def model_name(pipe: EditPipeline) -> str:
    """What a model is called in metrics and in OpenAI's list: the folder or the Hub id that it was loaded from."""
    loaded: Any = getattr(getattr(pipe, "painter", None), "pipe", pipe)  # a guest's own name
    source = str(loaded.name_or_path or type(loaded).__name__)
    if source == str(EMBEDDED):
        return "photofound-nano"
    return Path(source).name if Path(source).is_absolute() else source


def _allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages elsewhere call the server (CORS). This lies outside the gate: a browser's first question has no key."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "X-API-Key"],
        expose_headers=["Content-Disposition", "Location", "Retry-After", "Server-Timing", "X-Photofound-Note"],
        max_age=3600,
    )


def _tasks_of(pipe: EditPipeline) -> list[Task]:
    """The tasks that can be imported and that the model has learnt."""
    tasks = []
    for name in task_names():
        try:
            task = get_task(name)
        except Exception as error:  # a user's file may raise anything
            log.warning("task %r cannot be loaded: %s", name, error)
            continue
        if pipe.offers(name):
            tasks.append(task)
        else:
            log.warning("task %r is left out: the model has not learnt it", name)
    return tasks


def _add_information(app: FastAPI, queue: EditQueue, tasks: Sequence[Task], secured: dict[str, Any]) -> None:
    """Add the GETs: the tasks, and the state of the server."""
    no_key: dict[int | str, dict[str, Any]] = {401: {"model": ErrorInfo}}
    not_now: dict[int | str, dict[str, Any]] = {503: {"model": ErrorInfo}}

    @app.get("/v1/tasks", tags=["server"], summary="the tasks with their inputs", responses=no_key, **secured)
    async def list_tasks() -> list[TaskInfo]:
        return [task_info(task) for task in tasks]

    @app.get("/healthz", tags=["server"], summary="whether the server lives", responses=not_now)
    async def healthz() -> Status:
        if not queue.alive:
            raise HTTPException(503, "the worker is gone: start the server anew")
        return Status(status="alive")

    @app.get("/readyz", tags=["server"], summary="whether edits are accepted", responses=not_now)
    async def readyz() -> Status:
        if not queue.ready:
            raise HTTPException(503, "not ready: starting or stopping")
        return Status(status="ready")

    plain: Any = {"response_class": PlainTextResponse, "responses": no_key}

    @app.get("/metrics", tags=["server"], summary="for Prometheus", **plain, **secured)
    async def metrics() -> Response:
        return Response(generate_latest(queue.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def run(pipe: EditPipeline, config: ServeConfig, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C. The first signal lets running edits finish; a second one ends at once."""
    logging.captureWarnings(True)  # they are about clients' pictures, not for the server's operator
    app = create_app(pipe, config)
    settings = uvicorn.Config(app, log_level="warning", server_header=False)
    Server(settings, app.state.close_at_once).run(sockets=[listener])
