"""The HTTP server: ``photofound serve --port 8000``. Every task is ``POST /v1/TASK``, built from what it declares.

Two parts. ``Engine`` edits: one worker thread that owns the pipeline takes requests from a bounded queue, those of one
task and size together. ``create_app`` speaks HTTP: a FastAPI application whose event loop never computes. A request has
its place before its body is read and until its answer is sent. Files are decoded and encoded in processes of their own
(``photofound.serve.workers``), so many pixels at a time.

    curl -F image=@cup.jpg -F prompt="on a marble table" localhost:8000/v1/outpaint -o out.jpg
"""

from __future__ import annotations

import asyncio
import hmac
import inspect
import ipaddress
import logging
import math
import os
import re
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import fastapi_offline
import uvicorn
from fastapi import FastAPI, File, Form, HTTPException, Request, Response, Security, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.staticfiles import StaticFiles
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.datastructures import UploadFile as StarletteUpload
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from photofound import __version__
from photofound.edits.request import Request as EditRequest
from photofound.edits.task import Input, Task, get_task, offered, task_names
from photofound.notices import heard
from photofound.picture import image
from photofound.picture.image import Picture
from photofound.pipeline import EditPipeline
from photofound.serve.connections import PATIENCE, RATE, Server
from photofound.serve.connections import listen as listen
from photofound.serve.workers import Files

log = logging.getLogger("photofound.serve.app")

GONE = 499  # what web servers log for a client that did not wait


@dataclass(frozen=True)
class ServeConfig:
    """How much a server takes on.

    Attributes:
        queue: requests that may wait; one more is answered with 503.
        batch: requests that are computed together at most; 1 switches batching off.
        window: seconds that the first request of a batch waits for others of its kind.
        max_bytes: of a request's body, checked while it arrives.
        max_pixels: of a picture, checked before it is decoded, and of the result.
        max_steps: sampling steps that may be asked for.
        max_uploads: bytes of all requests' bodies together, in memory and on disk; one more is answered with 503.
        read_seconds: that reading one picture may take; the process that reads it is killed then.
        edit_seconds: that an edit may take once it is begun, and writing its result as long again.
        formats: Pillow's names of those that are read.
        keys: API keys that are let in; with none, everybody is.
        hosts: names in the header Host that are answered, beside addresses and localhost; with none, all are.
        origins: of pages elsewhere that may call the server from a browser, such as https://example.com; * = all.
    """

    queue: int = 32
    batch: int = 8
    window: float = 0.005
    max_bytes: int = 32 * 2**20
    max_pixels: int = 24_000_000
    max_steps: int = 100
    max_uploads: int = 512 * 2**20
    read_seconds: float = 15.0
    edit_seconds: float = 300.0
    formats: tuple[str, ...] = ("PNG", "JPEG", "WEBP", "AVIF", "HEIF", "TIFF", "BMP", "GIF")
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("queue", "batch", "max_bytes", "max_pixels", "max_steps", "max_uploads"):
            if getattr(self, name) < 1:
                raise ValueError(f"serve: {name} is {getattr(self, name)}; give 1 or more")
        if isinstance(self.keys, str) or not all(isinstance(key, str) and key.strip() for key in self.keys):
            raise ValueError("serve: keys must be a list of keys, none of them blank; give none to let everybody in")
        if not 0 <= self.window <= 10:
            raise ValueError(f"serve: window is {self.window}; give seconds from 0 to 10")
        for name in ("read_seconds", "edit_seconds"):
            if not 0 < getattr(self, name) <= 86400:
                raise ValueError(f"serve: {name} is {getattr(self, name)}; give seconds, more than 0")
        if unknown := [name for name in self.formats if name not in image.READABLE] or not self.formats:
            known = ", ".join(image.READABLE).lower()
            raise ValueError(f"serve: formats has {unknown if self.formats else 'nothing'}; give some of {known}")


def read_keys(path: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """The API keys in a file, one per line, or the one in the environment variable PHOTOFOUND_API_KEY; none without
    either. They never stand on the command line, which other users of the machine can read.

    A ``#`` at the start of a line or after a space begins a comment. In the variable it is a part of the key.

    The file may be a pipe, as of a shell's ``<(...)``; it must be written within 10 seconds. Raises ValueError for what
    is no file, for one without a key, of more than 1 MiB or that is no UTF-8 text, and for a variable of spaces.
    """
    if path is None:
        given = os.environ.get("PHOTOFOUND_API_KEY", "")
        if given and not given.strip():
            raise ValueError("PHOTOFOUND_API_KEY: is blank; set it to a key, or unset it to let everybody in")
        return (given.strip(),) if given else ()
    try:
        lines = _read_bounded(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is no UTF-8 text; write one API key per line") from None
    keys = tuple(filter(None, (re.split(r"(?:^|\s)#", line.strip(), maxsplit=1)[0].strip() for line in lines)))
    if not keys:
        raise ValueError(f"{path}: holds no API key; write one per line, or leave the file out to let everybody in")
    return keys


KEY_BYTES = 2**20
KEY_SECONDS = 10.0


def _read_bounded(path: str | os.PathLike[str]) -> bytes:
    """A small file, or what is written into a pipe in time. Raises ValueError for anything else that has a path."""
    advice = "name a file with one API key per line"
    if not os.fspath(path):
        raise ValueError(f"--api-key-file: the path is empty; {advice}")
    kind = os.stat(path).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
        raise ValueError(f"{path}: {'is a folder' if stat.S_ISDIR(kind) else 'is not a regular file'}; {advice}")
    late = time.monotonic() + KEY_SECONDS
    content = b""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # opening a pipe waits for nobody
    try:
        while len(content) <= KEY_BYTES:
            try:
                more = os.read(file, KEY_BYTES)
            except BlockingIOError:  # a writer that is silent
                more = None
            if more:
                content += more
            elif more is not None and (content or stat.S_ISREG(kind)):
                return content
            elif time.monotonic() > late:
                raise ValueError(f"{path}: nobody wrote it to its end within {KEY_SECONDS:g} s; {advice}")
            else:
                time.sleep(0.01)
    finally:
        os.close(file)
    raise ValueError(f"{path}: has more than {KEY_BYTES:,} bytes; {advice}")


# ----------------------------------------------------------------------------------------------------------- the engine


class Busy(Exception):
    """The queue is full; ``seconds`` is when to come again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full; try again in {seconds} s")
        self.seconds = seconds


class TooLong(Exception):
    """The edit was not done in its time."""


class Abandoned(Exception):
    """Nobody waits for the result any more."""


def kind(request: EditRequest) -> Any:
    """What requests must have in common to be worth computing together."""
    return request.task, request.picture.size, request.steps, request.guidance


@dataclass(eq=False)
class Ticket:
    """An edit's place in the queue, and its result to come."""

    request: EditRequest
    result: Future[Picture] = field(default_factory=Future)
    queued: float = field(default_factory=time.monotonic)
    waited: float = 0.0  # seconds, until work on it began
    until: float = math.inf  # when it must be done; known once work on it begins
    note: str = ""  # what there is to tell of the request, besides the result
    abandoned: bool = False


class Engine:
    """A worker thread that edits, and the queue before it. All methods may be called from any thread.

    Args:
        pipe: any task's pipeline; the other tasks share its weights.
        config: bounds of queue and batch.
        metrics: told of batches and waiting times.
    """

    def __init__(self, pipe: EditPipeline, config: ServeConfig | None = None, metrics: Metrics | None = None) -> None:
        self.config = config or ServeConfig()
        self.metrics = metrics or Metrics()
        self.metrics.waiting.set_function(lambda: len(self._queue))
        self._pipe = pipe
        self._queue: list[Ticket] = []
        self._taken = 0  # places
        self._changed = threading.Condition()
        self._closing = False
        self._seconds = 1.0  # that one edit takes, a running mean
        self._thread = threading.Thread(target=self._work, name="photofound-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Take nothing more, finish what is queued, and return when it is done."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether there is a worker; without one only a new process helps."""
        return self._thread.is_alive()

    @property
    def ready(self) -> bool:
        """Whether edits are taken."""
        return self.alive and not self._closing

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one request, from before its body is read until its answer is sent. There are as many as edits
        may wait and be computed at once. Raises Busy when all are taken, or the engine is closed."""
        with self._changed:
            if self._closing:
                raise Busy(5)
            if self._taken >= self.config.queue + self.config.batch:
                raise Busy(max(1, math.ceil(self._taken * self._seconds)))
            self._taken += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1

    def submit(self, request: EditRequest) -> Ticket:
        """Queue an edit; ``ticket.result`` is its future. Raises Busy when the engine is closed. How many may wait is
        bounded by ``place``."""
        with self._changed:
            if self._closing:
                raise Busy(5)
            ticket = Ticket(request)
            self._queue.append(ticket)
            self._changed.notify_all()
        return ticket

    def abandon(self, ticket: Ticket) -> None:
        """Nobody wants the result: it leaves the queue, or its sampling stops once its whole batch is abandoned."""
        with self._changed:
            ticket.abandoned = True
            if ticket in self._queue:
                self._queue.remove(ticket)
                ticket.result.cancel()
                self._changed.notify_all()

    def _work(self) -> None:
        while (batch := self._take()) is not None:
            self._process(batch)
            del batch  # and with it what may be a hundred megabytes, before the next one is waited for

    def _process(self, batch: list[Ticket]) -> None:
        start = time.monotonic()
        prepared = []
        for ticket in batch:
            ticket.waited = start - ticket.queued
            ticket.until = start + self.config.edit_seconds * len(batch)
            self.metrics.wait.labels(ticket.request.task).observe(ticket.waited)
        for ticket in batch:
            job = self._prepare(ticket)
            if isinstance(job, Exception):
                ticket.result.set_exception(job)
            else:
                prepared.append((ticket, job))
        if prepared:
            self._edit(prepared)
            self._seconds += 0.2 * ((time.monotonic() - start) / len(batch) - self._seconds)

    def _take(self) -> list[Ticket] | None:
        """The oldest ticket and others of its kind, some of which may still arrive within the window; None to stop."""
        with self._changed:
            while not self._queue:
                if self._closing:
                    return None
                self._changed.wait()
            wanted, until = kind(self._queue[0].request), self._queue[0].queued + self.config.window
            while True:
                batch = [ticket for ticket in self._queue if kind(ticket.request) == wanted][: self.config.batch]
                left = until - time.monotonic()
                if len(batch) == self.config.batch or left <= 0 or self._closing:
                    break
                self._changed.wait(left)
            self._queue = [ticket for ticket in self._queue if ticket not in batch]
            return [ticket for ticket in batch if ticket.result.set_running_or_notify_cancel()]

    def _prepare(self, ticket: Ticket) -> Any:
        """The ticket's Job, or what is wrong."""
        try:
            pipe = self._pipe.for_task(ticket.request.task)
            warned: list[str] = []
            with heard(warned.append):
                job = pipe.prepare(ticket.request.picture, **ticket.request.inputs)
            ticket.note = "; ".join(filter(None, [pipe.unread(ticket.request.inputs.get("prompt")), *warned]))
            return job
        except Exception as error:
            return error

    def _edit(self, prepared: Sequence[tuple[Ticket, Any]]) -> None:
        """Sample a batch. If it fails its members are tried one by one, so that no request suffers from another's."""
        tickets, jobs = zip(*prepared, strict=True)
        results = self._sample(tickets, jobs)
        if not isinstance(results, Exception):
            self.metrics.batch.labels(tickets[0].request.task).observe(len(tickets))
            for ticket, result in zip(tickets, results, strict=True):
                ticket.result.set_result(result)
        elif len(prepared) == 1 or isinstance(results, (Abandoned, TooLong)):
            for ticket in tickets:
                ticket.result.set_exception(results)
        else:
            for each in prepared:
                self._edit([each])

    def _sample(self, tickets: Sequence[Ticket], jobs: Sequence[Any]) -> Sequence[Picture] | Exception:
        """The results, or what went wrong."""

        def watch(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if all(ticket.abandoned for ticket in tickets):
                raise Abandoned
            if time.monotonic() > max(ticket.until for ticket in tickets):
                raise TooLong
            return tensors

        first = tickets[0].request
        try:
            pipe = self._pipe.for_task(first.task)
            generators = [ticket.request.generator() for ticket in tickets]
            return pipe.run(jobs, generators, *pipe.settings(first), watch)
        except Exception as error:
            return error


class Metrics:
    """What Prometheus is told at /metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        seconds = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
        sizes = (1, 2, 4, 8, 16, 32)
        to = self.registry
        self.requests = Counter("photofound_requests", "Answers by task and status", ["task", "status"], registry=to)
        self.seconds = Histogram("photofound_request_seconds", "Whole", ["task"], buckets=seconds, registry=to)
        self.wait = Histogram("photofound_queue_seconds", "In the queue", ["task"], buckets=seconds, registry=to)
        self.batch = Histogram("photofound_batch_size", "Edits computed together", ["task"], buckets=sizes, registry=to)
        self.waiting = Gauge("photofound_queue_length", "Edits that wait", registry=to)
        self.uploads = Gauge("photofound_upload_bytes", "Of the bodies of requests that are under way", registry=to)


# ------------------------------------------------------------------------------------------------------------- the form


def upload_name(each: Input) -> str:
    """The form's field for an input: files without ``_image``, all else as the pipeline calls it."""
    return each.name.removesuffix("_image") if each.kind in ("image", "mask") else each.name


_EXAMPLES = {"length": "25%", "aspect": "4:5", "size": "1200x800", "text": "on a marble table"}


def _parameter(each: Input) -> inspect.Parameter:
    """The input as FastAPI wants to see it: a parameter whose annotation says type, bounds, help and example."""
    kind: Any
    if each.kind in ("image", "mask"):
        kind, extra = UploadFile, File(description=each.help)
    elif each.kind == "int":
        kind, extra = int, Form(description=each.help, ge=-(10**9), le=10**9)
    elif each.kind == "text":
        kind, extra = str, Form(description=each.help, max_length=2000, examples=[_EXAMPLES["text"]])
    else:
        pattern = f"^({each.spelling})$"
        example = _EXAMPLES[each.kind]
        kind, extra = str, Form(description=each.help, max_length=40, pattern=pattern, examples=[example])
    optional = not each.required and each.default is None
    default = inspect.Parameter.empty if each.required else each.default
    if kind is str and default not in (None, inspect.Parameter.empty):
        default = str(default)
    annotation = Annotated[kind | None, extra] if optional else Annotated[kind, extra]
    return inspect.Parameter(upload_name(each), inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _parameters(task: Task, config: ServeConfig) -> list[inspect.Parameter]:
    """The whole form of a task."""
    inputs = offered(task)
    only = inspect.Parameter.KEYWORD_ONLY
    formats: Any = Literal[tuple(sorted(suffix[1:] for suffix in image.SUFFIXES))]

    def common(name: str, kind: Any, default: Any, text: str, **bounds: Any) -> inspect.Parameter:
        return inspect.Parameter(
            name, only, default=default, annotation=Annotated[kind, Form(description=text, **bounds)]
        )

    return [
        inspect.Parameter("request", only, annotation=Request),
        _parameter(Input("image", "image", "the photograph", required=True)),
        *map(_parameter, inputs),
        common("seed", int, 0, "same seed, same pixels", ge=0, le=2**63 - 1, examples=[7]),
        common("format", formats | None, None, "of the answer; left out, the photograph's"),
        common("strip", bool, False, "leave out where the photograph was taken"),
        common("mark", bool, True, "say in the metadata that a part of it was generated"),
        common("num_inference_steps", int | None, None, "left out, the model's", ge=1, le=config.max_steps),
        common("guidance_scale", float | None, None, "left out, the model's", ge=0, le=100, allow_inf_nan=False),
    ]


# ------------------------------------------------------------------------------------------------------ the application


class Problem(BaseModel):
    """What every error looks like: one sentence that says what is wrong and what to do."""

    detail: str


class InputInfo(BaseModel):
    """A field of a task's form."""

    name: str
    kind: str
    help: str
    required: bool
    default: str | int | float | None


class TaskInfo(BaseModel):
    """A task and how to call it."""

    name: str
    summary: str
    url: str
    inputs: list[InputInfo]


class Status(BaseModel):
    """How the server is."""

    status: str


_PROBLEMS = {
    400: "no form that can be read",
    401: "no API key, or an unknown one",
    403: "a Host that this server does not answer to, or a page of another Origin",
    408: "the body took too long to arrive",
    413: "more bytes or pixels than this server takes, sent or asked for, or more memory than there is",
    422: "something about the request is wrong; the detail says what",
    500: "a fault of the server",
    503: "the queue is full, or the server stops; Retry-After says for how long",
    504: "the edit took too long",
}


def create_app(pipe: EditPipeline, config: ServeConfig | None = None) -> FastAPI:
    """The server's ASGI application, with an engine on ``pipe`` that lives as long as it does.

    The limit on pixels becomes the process's (``PHOTOFOUND_MAX_PIXELS``), so that masks and enlarged canvases obey it.
    """
    config = config or ServeConfig()
    os.environ["PHOTOFOUND_MAX_PIXELS"] = str(config.max_pixels)
    engine = Engine(pipe, config)
    desk = Desk(config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.get_running_loop().run_in_executor(None, engine.close)
        desk.close()

    app = FastAPI(
        title="photofound",
        version=__version__,
        description="Edit photographs.",
        lifespan=lifespan,
        openapi_url=None,  # _add_documentation adds these, without anything from elsewhere
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.engine, app.state.close_at_once = engine, desk.close
    tasks = _tasks_of(pipe)
    app.add_middleware(Gate, engine=engine, config=config, tasks=frozenset(task.name for task in tasks))
    if config.origins:  # outside the gate: a browser asks first, without a key
        told = ["Content-Disposition", "Retry-After", "Server-Timing", "X-Photofound-Note"]
        asked = ["Authorization", "Content-Type", "X-API-Key"]
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.origins,
            allow_methods=["GET", "POST"],
            allow_headers=asked,
            expose_headers=told,
            max_age=3600,
        )
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _broken)
    key, bearer = (
        APIKeyHeader(name="X-API-Key", scheme_name="ApiKey", auto_error=False),
        HTTPBearer(scheme_name="Bearer", auto_error=False),
    )
    # For the documentation; Gate looks at the key.
    secured: Any = {"dependencies": [Security(key), Security(bearer)] if config.keys else []}
    refusals: Any = {status: {"model": Problem, "description": text} for status, text in _PROBLEMS.items()}
    for task in tasks:
        app.post(
            f"/v1/{task.name}",
            name=task.name,
            tags=["edits"],
            summary=task.summary,
            description=_description(task),
            response_class=Response,
            responses=refusals | {200: {"description": "the picture", "content": _picture_content()}},
            **secured,
        )(_endpoint(task, engine, config, desk))
    _add_information(app, engine, tasks, secured)
    _add_documentation(app)
    return app


class Desk:
    """Where pictures are read and written: in processes, and so many pixels at a time that memory is bounded by the
    largest picture, not by the number of requests. It belongs to one event loop."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self._files = Files(PROCESSES, config.max_pixels, config.formats)
        self._threads = ThreadPoolExecutor(PROCESSES, thread_name_prefix="photofound-files")
        self._free = PICTURES * config.max_pixels + config.max_bytes // 3
        self._heads = asyncio.Semaphore(PROCESSES)
        self._turn, self._changed = asyncio.Lock(), asyncio.Event()

    def close(self) -> None:
        self._files.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def room(self, pixels: int) -> AsyncIterator[None]:
        """Waits, first come, first served, until pictures of so many pixels in all may be held."""
        async with self._turn:
            while self._free < pixels:
                self._changed.clear()
                await self._changed.wait()
            self._free -= pixels
        try:
            yield
        finally:
            self._free += pixels
            self._changed.set()

    async def weigh(self, upload: StarletteUpload, name: str) -> int:
        """What a picture weighs in ``room``: its pixels, and its file's bytes, three for one. Raises HTTPException 413
        for too many pixels, ValueError for what is no picture."""
        async with self._heads:
            data = await upload.read()
            await upload.seek(0)
            if not data:
                raise ValueError(f"{name}: is empty (0 bytes); send a picture")
            width, height = await self._do(self._files.size, data, name, self.config.read_seconds)
        if width * height > self.config.max_pixels:
            size, limit = f"{width}x{height}, {width * height / 1e6:.1f} megapixels", self.config.max_pixels / 1e6
            raise HTTPException(413, f"{name}: is {size}; this server takes up to {limit:.1f}, send it smaller")
        return width * height + len(data) // 3

    async def read(self, upload: StarletteUpload, name: str, strip: bool) -> Picture:
        """The picture in an upload. Raises ValueError for what is no whole picture."""
        limits = (self.config.max_pixels, self.config.read_seconds)
        return await self._do(self._files.read, await upload.read(), name, *limits, strip)

    async def write(self, result: Picture, kind: str, marked: bool) -> bytes:
        """The answer's bytes, with the photograph's profile and metadata."""
        return await self._do(self._files.write, result, kind, self.config.edit_seconds, marked)

    async def _do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


PROCESSES = 4
"""That read and write pictures; each starts when it is needed."""

PICTURES = 3
"""Of the largest size that are held decoded at once: a photograph, its mask and a reference. Others wait as files."""


def _tasks_of(pipe: EditPipeline) -> list[Task]:
    """The tasks that can be imported and that the model has learnt."""
    tasks = []
    for name in task_names():
        try:
            task = get_task(name)
        except Exception as error:  # anything can be wrong with a file that somebody dropped in
            log.warning("task %r cannot be loaded: %s", name, error)
            continue
        if name in pipe.transformer.config.tasks:
            tasks.append(task)
        else:
            log.warning("task %r is left out: the model has not learnt it", name)
    return tasks


def _description(task: Task) -> str:
    """The task's summary and a command to try."""
    needed = "".join(f" -F {upload_name(each)}=@{upload_name(each)}.png" for each in task.inputs if each.required)
    return f"{task.summary[:1].upper()}{task.summary[1:]}.\n\n    curl -F image=@photo.jpg{needed} URL -o result.jpg"


def _picture_content() -> dict[str, Any]:
    """Of the answer; the last name is for programs that know bytes, but no pictures."""
    kinds = [*sorted({_mime(kind) for kind in image.SUFFIXES.values()}), "application/octet-stream"]
    return {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}


def _mime(format: str) -> str:
    Image.init()
    return Image.MIME[format]


def _add_information(app: FastAPI, engine: Engine, tasks: Sequence[Task], secured: dict[str, Any]) -> None:
    """The GETs: what there is, how it goes."""

    @app.get(
        "/v1/tasks",
        tags=["server"],
        summary="the tasks with their inputs",
        responses={401: {"model": Problem}},
        **secured,
    )
    async def list_tasks() -> list[TaskInfo]:
        return [_info(task) for task in tasks]

    @app.get("/healthz", tags=["server"], summary="whether the server lives", responses={503: {"model": Problem}})
    async def healthz() -> Status:
        if not engine.alive:
            raise HTTPException(503, "the worker is gone: start the server anew")
        return Status(status="alive")

    @app.get("/readyz", tags=["server"], summary="whether edits are taken", responses={503: {"model": Problem}})
    async def readyz() -> Status:
        if not engine.ready:
            raise HTTPException(503, "not ready: starting or stopping")
        return Status(status="ready")

    @app.get(
        "/metrics",
        tags=["server"],
        summary="for Prometheus",
        response_class=PlainTextResponse,
        responses={401: {"model": Problem}},
        **secured,
    )
    async def metrics() -> Response:
        return Response(generate_latest(engine.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_documentation(app: FastAPI) -> None:
    """/openapi.json as programs that generate clients want it, and /docs, whose parts come from a package."""

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> JSONResponse:
        return JSONResponse(_described(app) | {"servers": [{"url": str(request.base_url).rstrip("/")}]})

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")
        return get_swagger_ui_html(
            title="photofound",
            openapi_url=f"{root}/openapi.json",
            swagger_js_url=f"{root}/docs/assets/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/docs/assets/swagger-ui.css",
            swagger_favicon_url=f"{root}/docs/assets/favicon.png",
        )

    assets = Path(fastapi_offline.__file__).parent / "static"
    app.mount("/docs/assets", StaticFiles(directory=assets), name="assets")


def _described(app: FastAPI) -> dict[str, Any]:
    """The description, with files and optional fields in words that every generator knows: ``format: binary`` says that
    something is a file, and what is not required may be left out, never null."""

    def plain(schema: Any) -> Any:
        if isinstance(schema, list):
            return [plain(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        options = schema.get("anyOf", ())
        if len(options) == 2 and {"type": "null"} in options:
            (kind,) = (option for option in options if option != {"type": "null"})
            schema = {key: value for key, value in schema.items() if key != "anyOf"} | kind
        if schema.get("contentMediaType") == "application/octet-stream":
            schema = {key: value for key, value in schema.items() if key != "contentMediaType"} | {"format": "binary"}
        if schema.get("type") == "integer":  # bounds come as floats, which hold no 64 bits
            bounds = {key: min(int(schema[key]), 2**63 - 1) for key in ("minimum", "maximum") if key in schema}
            schema = schema | bounds | ({"format": "int64"} if bounds.get("maximum", 0) >= 2**31 else {})
        return {key: plain(value) for key, value in schema.items()}

    described = app.openapi()
    schemas = described.get("components", {}).get("schemas", {})
    forms = {name: plain(schema) for name, schema in schemas.items() if name.startswith("Body_")}
    components = described["components"] | {"schemas": schemas | forms}
    return described | {"components": components, "tags": [{"name": name, "description": text} for name, text in TAGS]}


TAGS = (
    ("edits", "a photograph and what is asked for, the edited photograph back"),
    ("server", "what there is, how it is"),
)


def _info(task: Task) -> TaskInfo:
    given = [Input("image", "image", "the photograph", required=True), *offered(task)]
    fields = [
        InputInfo(
            name=upload_name(i), kind=i.kind, help=i.help.replace("%%", "%"), required=i.required, default=i.default
        )
        for i in given
    ]
    return TaskInfo(name=task.name, summary=task.summary, url=f"/v1/{task.name}", inputs=fields)


def _endpoint(task: Task, engine: Engine, config: ServeConfig, desk: Desk) -> Callable[..., Any]:
    """The handler of ``POST /v1/TASK``; its signature, and so its form and its documentation, come from the task."""
    inputs = {upload_name(each): each for each in offered(task)}

    async def answer(fields: dict[str, Any]) -> Response:
        uploads = {name: value for name, value in fields.items() if isinstance(value, StarletteUpload)}
        weight = sum([await desk.weigh(upload, name) for name, upload in uploads.items()])
        async with desk.room(weight):
            pictures = {name: await desk.read(upload, name, fields["strip"]) for name, upload in uploads.items()}
            picture, given = pictures["image"], {}
            for name, each in inputs.items():
                value = pictures.get(name, fields[name])
                if value is not None:
                    given[each.name] = each.parse(value) if isinstance(value, str) else value
            settings = (fields["seed"], fields["num_inference_steps"], fields["guidance_scale"])
            kind = _format(task, picture, fields["format"], given)
            ticket = engine.submit(EditRequest(task.name, picture, given, *settings))
            result = await _result(engine, ticket)
            data = await desk.write(result, kind, fields["mark"] and task.generates)
        notes = [result.note, ticket.note, image.lost_depth(picture, kind)]
        return Response(data, media_type=_mime(kind), headers=_headers(task, kind, ticket, notes))

    async def edit(request: Request, **fields: Any) -> Response:
        with _as_answers(config):
            return await _unless_hung_up(request, answer(fields))

    edit.__name__ = task.name
    edit.__signature__ = inspect.Signature(_parameters(task, config))  # type: ignore[attr-defined]
    return edit


def _format(task: Task, photograph: Picture, asked: str | None, inputs: dict[str, Any]) -> str:
    """The answer's: the photograph's, unless another is asked for, or the photograph's cannot hold the result. Raises
    ValueError where the result will be too large for it."""
    kind = image.output_format(photograph, None, asked, task.alpha)
    image.check_side(task.result_size(photograph, **inputs), kind)
    return kind


async def _result(engine: Engine, ticket: Ticket) -> Picture:
    """What comes of an edit. Raises TooLong once its time is over. Whatever ends the waiting, the work ends, too."""
    result = asyncio.wrap_future(ticket.result)
    try:
        while not result.done():
            if time.monotonic() > ticket.until:
                raise TooLong
            await asyncio.wait([result], timeout=min(1.0, max(0.01, ticket.until - time.monotonic())))
        return await result
    finally:
        if not result.done():
            engine.abandon(ticket)
            result.cancel()


async def _unless_hung_up(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The answer, unless the client hangs up before: then the work on it ends."""
    working, gone = asyncio.ensure_future(work), asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else Response(status_code=GONE)
    finally:
        gone.cancel()
        working.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@contextmanager
def _as_answers(config: ServeConfig) -> Iterator[None]:
    """What goes wrong with an edit as the status and sentence that its sender gets; a bug stays one."""
    try:
        yield
        return
    except (Busy, TooLong, ValueError, MemoryError, RuntimeError) as error:
        answer = _answer_to(error, config)
        if answer is None:
            raise
        _forget(error)
    raise answer  # here, where it does not refer to the error


def _answer_to(error: Exception, config: ServeConfig) -> HTTPException | None:
    """None for what is no mistake of the sender's."""
    told = " ".join(str(error).split())
    if isinstance(error, Busy):
        return HTTPException(503, told, {"Retry-After": str(error.seconds)})
    if isinstance(error, TooLong):
        advice = "send a smaller picture or ask for fewer steps"
        return HTTPException(504, f"the edit took more than {config.edit_seconds:g} s; {advice}")
    if isinstance(error, image.TooLarge):
        return HTTPException(413, f"{told.partition(';')[0]}; this server makes no larger ones, ask for less")
    if isinstance(error, ValueError):
        return HTTPException(422, told)
    if isinstance(error, MemoryError) or "memory" in told:
        return HTTPException(413, "this edit needs more memory than there is; send a smaller picture")
    return None


def _forget(error: BaseException | None) -> None:
    """Let go of the functions that an error remembers, and of their pictures: up to hundreds of megabytes, which only
    the next collection of cycles would find."""
    while error is not None:
        cause = error.__cause__ or error.__context__
        error.__traceback__ = error.__cause__ = error.__context__ = None
        error = cause


def _headers(task: Task, kind: str, ticket: Ticket, notes: Sequence[str]) -> dict[str, str]:
    """A name to save the answer under, where its time went, as browsers show it, and what there is to say of it."""
    spent = time.monotonic() - ticket.queued - ticket.waited
    note = "; ".join(filter(None, notes))
    said = {"X-Photofound-Note": note.encode("ascii", "replace").decode()} if note else {}
    return said | {
        "Content-Disposition": f'inline; filename="{task.name}{image.suffix_of(kind)}"',
        "Server-Timing": f"queue;dur={ticket.waited * 1e3:.0f}, edit;dur={spent * 1e3:.0f}",
    }


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """A form that does not fit, in one sentence per field."""
    assert isinstance(error, RequestValidationError)
    told = [f"{'.'.join(map(str, each['loc'][1:])) or 'body'}: {each['msg']}" for each in error.errors()]
    return JSONResponse({"detail": "; ".join(told)}, 422)


async def _broken(request: Request, error: Exception) -> JSONResponse:
    """A bug. What it is stands in the log, not in the answer."""
    return JSONResponse({"detail": "this is a fault of the server; its log says more"}, 500)


LINGER = 5.0
"""Seconds for which the body of a refused request is passed over."""


class Gate:
    """ASGI middleware before all else: turns requests away before their body is read (no key, too large, no place),
    stops a body that grows too large or arrives too slowly, holds the place until the answer is sent, and counts the
    answers."""

    def __init__(self, app: ASGIApp, engine: Engine, config: ServeConfig, tasks: frozenset[str]) -> None:
        self.app, self.engine, self.config, self.tasks = app, engine, config, tasks
        self._keys = [spelling for key in config.keys for spelling in _spellings(key)]
        self._uploads = 0  # bytes of all bodies that are under way
        engine.metrics.uploads.set_function(lambda: self._uploads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        task = _route(scope).removeprefix("/v1/")
        task = task if task in self.tasks and scope["method"] == "POST" else ""
        started, status = time.monotonic(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if refusal := self._refusal(scope, task):
                await self._refuse(refusal, scope, receive, watched)
            elif not task:
                await self.app(scope, self._bounded(receive, _Body(0)), watched)
            else:
                await self._take(scope, receive, watched)
        finally:
            if task:
                self.engine.metrics.requests.labels(task, str(status)).inc()
                self.engine.metrics.seconds.labels(task).observe(time.monotonic() - started)

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to the application, in a place that is its own until the answer is sent."""
        body = _Body(_length(Headers(scope=scope)) or 0)
        try:
            with self.engine.place():
                try:
                    self._count(body.declared)
                    await self.app(scope, self._bounded(receive, body), send)
                finally:
                    self._uploads -= max(body.declared, body.received)
        except Busy as busy:
            answer = JSONResponse({"detail": str(busy)}, 503, {"Retry-After": str(busy.seconds)})
            await self._refuse(answer, scope, receive, send)

    async def _refuse(self, answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and pass over what the client still sends for a while: else its system may drop the answer."""

        async def unfinished(message: Message) -> None:
            is_body = message["type"] == "http.response.body"
            await send({**message, "more_body": True} if is_body else message)

        await answer(scope, receive, unfinished)
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (await receive()).get("more_body", False):
                    pass
        await send({"type": "http.response.body", "body": b""})

    def _count(self, more: int) -> None:
        """Count bytes of a body. Raises Busy where all bodies together would be too large."""
        self._uploads += more
        if self._uploads > self.config.max_uploads:
            raise Busy(5)

    def _bounded(self, receive: Receive, body: _Body) -> Receive:
        """``receive``, with a body that may be neither too large nor too slow."""

        async def bounded() -> Message:
            if body.is_whole:  # what comes now is the client's end
                return await receive()
            late = body.started + PATIENCE + body.received / RATE - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, late))
            except TimeoutError:
                body.is_whole = True
                raise HTTPException(408, "the body of the request took too long to arrive; send it again") from None
            more = len(message.get("body", b""))
            body.is_whole = not message.get("more_body", False)
            before, body.received = max(body.declared, body.received), body.received + more
            if body.received > self.config.max_bytes:
                raise HTTPException(413, self._too_large())
            try:
                self._count(max(0, body.received - before))
            except Busy as busy:
                raise HTTPException(503, str(busy), {"Retry-After": str(busy.seconds)}) from None
            return message

        return bounded

    def _refusal(self, scope: Scope, task: str) -> Response | None:
        """The answer to a request that need not be read."""
        headers = Headers(scope=scope)
        if problem := self._foreign(scope, headers):
            return JSONResponse({"detail": problem}, 403)
        if self._keys and not _is_open(_route(scope)) and not self._knows(headers):
            wanted = "send an API key: 'X-API-Key: KEY' or 'Authorization: Bearer KEY'"
            return JSONResponse({"detail": wanted}, 401, {"WWW-Authenticate": "Bearer"})
        if (_length(headers) or 0) > self.config.max_bytes:
            return JSONResponse({"detail": self._too_large()}, 413)
        if task and not headers.get("content-type", "").lower().startswith("multipart/form-data"):
            wanted = "image: is missing; send a form (multipart/form-data) with the photograph as its field 'image'"
            return JSONResponse({"detail": wanted}, 422)
        return None

    def _foreign(self, scope: Scope, headers: Headers) -> str | None:
        """What is wrong with the names that a browser gives: a page elsewhere must not edit here unasked, nor reach
        this server under a name of its own."""
        host = headers.get("host", "")
        if self.config.hosts and not _is_own(_name(host), self.config.hosts):
            return f"this server does not answer to the name {_name(host)!r}; it must be started with --allow-host"
        origin = headers.get("origin")
        if scope["method"] in ("GET", "HEAD", "OPTIONS") or origin is None or origin.partition("//")[2] == host:
            return None  # what is read from elsewhere, a browser keeps to itself
        if "*" in self.config.origins or origin in self.config.origins:
            return None
        return f"pages of {origin!r} may not call this server; it must be started with --allow-origin"

    def _knows(self, headers: Headers) -> bool:
        """Compared in constant time, with every key, so that the time tells nothing."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key") or (bearer.strip(" \t") if scheme.lower() == "bearer" else "")
        matches = [hmac.compare_digest(given.encode("latin-1"), key) for key in self._keys]  # as it was sent
        return any(matches)

    def _too_large(self) -> str:
        return f"the request is larger than the {self.config.max_bytes / 2**20:.0f} MiB that this server takes"


@dataclass
class _Body:
    """How much of a request's body was announced and has arrived."""

    declared: int
    received: int = 0
    is_whole: bool = False
    started: float = field(default_factory=time.monotonic)


_OPEN = ("/healthz", "/readyz", "/docs", "/redoc", "/openapi.json")  # need no key: they tell nothing of anybody


def _route(scope: Scope) -> str:
    """The path below the root that a proxy or another application serves this one under, as Starlette finds it."""
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _spellings(key: str) -> list[bytes]:
    """The bytes that a key may arrive as: clients differ in how they send letters beyond ASCII."""
    kinds = ("utf-8", "latin-1") if all(ord(letter) < 256 for letter in key) else ("utf-8",)
    return [key.encode(kind) for kind in kinds]


def _is_open(route: str) -> bool:
    """Whether a path needs no key. All others do, even those that lead nowhere: what nobody thought of is shut."""
    return route in _OPEN or route.startswith("/docs/")


def _length(headers: Headers) -> int | None:
    """Content-Length, if there is one that can be."""
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) < 20 else None


def _name(host: str) -> str:
    """A header Host without its port."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def _is_own(name: str, hosts: Sequence[str]) -> bool:
    """Whether a server that answers to ``hosts`` answers to a name: to addresses, too, which nobody can redirect."""
    name = name.lower().rstrip(".")
    try:
        ipaddress.ip_address(name.strip("[]"))
        return True
    except ValueError:
        return name in ("", "localhost", *map(str.lower, hosts)) or name.endswith(".localhost")


# -------------------------------------------------------------------------------------------------------- the process


def run(pipe: EditPipeline, config: ServeConfig, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; what has been taken is finished first, a second signal ends at once."""
    logging.captureWarnings(True)  # about somebody's picture, of no interest to whoever runs the server
    app = create_app(pipe, config)
    settings = uvicorn.Config(app, log_level="warning", server_header=False)
    Server(settings, app.state.close_at_once).run(sockets=[listener])
