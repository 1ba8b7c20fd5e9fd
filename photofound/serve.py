"""The HTTP server: ``photofound serve --port 8000``. Every task is ``POST /v1/TASK``, built from what it declares.

Two parts. ``Engine`` edits: one worker thread that owns the pipeline takes requests from a bounded queue, those of one
task and size together. ``create_app`` speaks HTTP: a FastAPI application whose event loop never computes. Files are
decoded and encoded in two further threads, so what is in memory at once is bounded by the queue.

    curl -F image=@cup.jpg -F prompt="on a marble table" localhost:8000/v1/outpaint -o out.jpg
"""

from __future__ import annotations

import asyncio
import hmac
import inspect
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import uvicorn
from fastapi import FastAPI, File, Form, HTTPException, Request, Response, Security, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from photofound import __version__, image
from photofound.edit import Input, Task, get_task, offered, task_names
from photofound.image import Picture
from photofound.pipeline import EditPipeline
from photofound.provenance import mark

log = logging.getLogger("photofound.serve")

# Fields of every form: names that no task's input may have.
FIELDS = ("image", "seed", "format", "strip", "mark", "num_inference_steps", "guidance_scale")
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
        keys: API keys that are let in; with none, everybody is.
    """

    queue: int = 32
    batch: int = 8
    window: float = 0.005
    max_bytes: int = 32 * 2**20
    max_pixels: int = 24_000_000
    max_steps: int = 100
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("queue", "batch", "max_bytes", "max_pixels", "max_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"serve: {name} is {getattr(self, name)}; give 1 or more")
        if not 0 <= self.window <= 10:
            raise ValueError(f"serve: window is {self.window}; give seconds from 0 to 10")


def read_keys(path: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """The API keys in a file, one per line, or the one in the environment variable PHOTOFOUND_API_KEY; none without
    either. They never stand on the command line, which other users of the machine can read."""
    lines = Path(path).read_text().splitlines() if path is not None else [os.environ.get("PHOTOFOUND_API_KEY", "")]
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if path is not None and not keys:
        raise ValueError(f"{path}: holds no API key; write one per line, or leave the file out to let everybody in")
    return keys


# ----------------------------------------------------------------------------------------------------------- the engine


class Busy(Exception):
    """The queue is full; ``seconds`` is when to come again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full; try again in {seconds} s")
        self.seconds = seconds


class Abandoned(Exception):
    """Nobody waits for the result any more."""


@dataclass(frozen=True)
class Edit:
    """What somebody asks for.

    Attributes:
        task: its name.
        picture: the photograph.
        inputs: those that the task declares, masks as pictures.
        seed: same seed, same pixels, alone or in a batch.
        steps, guidance: None = the model's.
    """

    task: str
    picture: Picture
    inputs: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None

    @property
    def kind(self) -> Any:
        """What edits must have in common to be worth computing together."""
        return self.task, self.picture.size, self.steps, self.guidance


@dataclass(eq=False)
class Ticket:
    """An edit's place in the queue, and its result to come."""

    edit: Edit
    result: Future[Picture] = field(default_factory=Future)
    queued: float = field(default_factory=time.monotonic)
    waited: float = 0.0  # seconds, until work on it began
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

    def check_room(self) -> None:
        """Raise Busy if the queue is full."""
        if len(self._queue) >= self.config.queue:
            raise Busy(max(1, math.ceil(len(self._queue) * self._seconds)))

    def submit(self, edit: Edit) -> Ticket:
        """Queue an edit; ``ticket.result`` is its future. Raises Busy when the queue is full or closed."""
        with self._changed:
            if self._closing:
                raise Busy(5)
            self.check_room()
            ticket = Ticket(edit)
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
            start = time.monotonic()
            for ticket in batch:
                ticket.waited = start - ticket.queued
                self.metrics.wait.labels(ticket.edit.task).observe(ticket.waited)
            prepared = [(ticket, job) for ticket in batch if (job := self._prepare(ticket)) is not None]
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
            kind, until = self._queue[0].edit.kind, self._queue[0].queued + self.config.window
            while True:
                batch = [ticket for ticket in self._queue if ticket.edit.kind == kind][: self.config.batch]
                left = until - time.monotonic()
                if len(batch) == self.config.batch or left <= 0 or self._closing:
                    break
                self._changed.wait(left)
            self._queue = [ticket for ticket in self._queue if ticket not in batch]
            return [ticket for ticket in batch if ticket.result.set_running_or_notify_cancel()]

    def _prepare(self, ticket: Ticket) -> Any:
        """The ticket's Job, or None, with the ticket told why there is none."""
        try:
            return self._pipeline(ticket.edit.task).prepare(ticket.edit.picture, **ticket.edit.inputs)
        except Exception as error:
            ticket.result.set_exception(error)
            return None

    def _edit(self, prepared: Sequence[tuple[Ticket, Any]]) -> None:
        """Sample a batch. If it fails its members are tried one by one, so that no request suffers from another's."""
        tickets, jobs = zip(*prepared, strict=True)

        def watch(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if all(ticket.abandoned for ticket in tickets):
                raise Abandoned
            return tensors

        first = tickets[0].edit
        generators = [torch.Generator().manual_seed(ticket.edit.seed) for ticket in tickets]
        try:
            pipe = self._pipeline(first.task)
            given = {"num_inference_steps": first.steps, "guidance_scale": first.guidance}
            steps, guidance, _ = pipe.check(given)
            results = pipe.run(jobs, generators, steps, guidance, watch)
        except Exception as error:
            if len(prepared) == 1 or isinstance(error, Abandoned):
                for ticket in tickets:
                    ticket.result.set_exception(error)
                return
            for each in prepared:
                self._edit([each])
            return
        self.metrics.batch.labels(first.task).observe(len(tickets))
        for ticket, result in zip(tickets, results, strict=True):
            ticket.result.set_result(result)

    def _pipeline(self, task: str) -> Any:
        """The task's pipeline on the shared weights; made anew each time, for it costs microseconds."""
        pipe: Any = get_task(task).pipeline
        pipe = pipe.from_pipe(self._pipe)
        pipe.set_progress_bar_config(disable=True)
        return pipe


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
    for each in inputs:
        if upload_name(each) in FIELDS:
            raise ValueError(
                f"task {task.name!r}: its input {each.name!r} clashes with a field of the server; rename it"
            )
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
        common("seed", int, 0, "same seed, same pixels", ge=0, lt=2**63, examples=[7]),
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
    401: "no API key, or an unknown one",
    413: "more bytes or pixels than this server takes",
    422: "something about the request is wrong; the detail says what",
    503: "the queue is full; Retry-After says for how long",
}


def create_app(pipe: EditPipeline, config: ServeConfig | None = None) -> FastAPI:
    """The server's ASGI application, with an engine on ``pipe`` that lives as long as it does.

    The limit on pixels becomes the process's (``PHOTOFOUND_MAX_PIXELS``), so that masks and enlarged canvases obey it.
    """
    config = config or ServeConfig()
    os.environ["PHOTOFOUND_MAX_PIXELS"] = str(config.max_pixels)
    engine = Engine(pipe, config)
    files = ThreadPoolExecutor(2, thread_name_prefix="photofound-files")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.get_running_loop().run_in_executor(None, engine.close)
        files.shutdown()

    app = FastAPI(title="photofound", version=__version__, description="Edit photographs.", lifespan=lifespan)
    app.state.engine = engine
    tasks = _tasks_of(pipe)
    app.add_middleware(Gate, engine=engine, config=config, tasks=frozenset(task.name for task in tasks))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _broken)
    security = [Security(APIKeyHeader(name="X-API-Key", auto_error=False)), Security(HTTPBearer(auto_error=False))]
    secured: Any = {"dependencies": security if config.keys else []}  # for the documentation; Gate looks at the key
    refusals: Any = {status: {"model": Problem, "description": text} for status, text in _PROBLEMS.items()}
    for task in tasks:
        app.post(
            f"/v1/{task.name}",
            name=task.name,
            summary=task.summary,
            description=_description(task),
            response_class=Response,
            responses=refusals | {200: {"description": "the picture", "content": _picture_content()}},
            **secured,
        )(_endpoint(task, engine, config, files))
    _add_information(app, engine, tasks, secured)
    return app


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
    return {
        mime: {"schema": {"type": "string", "format": "binary"}} for mime in sorted(map(_mime, image.SUFFIXES.values()))
    }


def _mime(format: str) -> str:
    Image.init()
    return Image.MIME[format]


def _add_information(app: FastAPI, engine: Engine, tasks: Sequence[Task], secured: dict[str, Any]) -> None:
    """The GETs: what there is, how it goes."""

    @app.get("/v1/tasks", summary="the tasks with their inputs", responses={401: {"model": Problem}}, **secured)
    async def list_tasks() -> list[TaskInfo]:
        return [_info(task) for task in tasks]

    @app.get("/healthz", summary="whether the server lives", responses={503: {"model": Problem}})
    async def healthz() -> Status:
        if not engine.alive:
            raise HTTPException(503, "the worker is gone: start the server anew")
        return Status(status="alive")

    @app.get("/readyz", summary="whether edits are taken", responses={503: {"model": Problem}})
    async def readyz() -> Status:
        if not engine.ready:
            raise HTTPException(503, "not ready: starting or stopping")
        return Status(status="ready")

    @app.get(
        "/metrics", summary="for Prometheus", response_class=Response, responses={401: {"model": Problem}}, **secured
    )
    async def metrics() -> Response:
        return Response(generate_latest(engine.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _info(task: Task) -> TaskInfo:
    given = [Input("image", "image", "the photograph", required=True), *offered(task)]
    fields = [
        InputInfo(
            name=upload_name(i), kind=i.kind, help=i.help.replace("%%", "%"), required=i.required, default=i.default
        )
        for i in given
    ]
    return TaskInfo(name=task.name, summary=task.summary, url=f"/v1/{task.name}", inputs=fields)


def _endpoint(task: Task, engine: Engine, config: ServeConfig, files: ThreadPoolExecutor) -> Callable[..., Any]:
    """The handler of ``POST /v1/TASK``; its signature, and so its form and its documentation, come from the task."""
    inputs = {upload_name(each): each for each in offered(task)}

    async def edit(request: Request, image: UploadFile, **fields: Any) -> Response:
        in_thread = partial(asyncio.get_running_loop().run_in_executor, files)
        with _as_answers():
            picture = await in_thread(_read, image, "image", config.max_pixels)
            picture = picture.without_location() if fields["strip"] else picture
            given = {}
            for name, each in inputs.items():
                value = fields[name]
                if each.kind in ("image", "mask") and value is not None:
                    value = await in_thread(_read, value, name, config.max_pixels)
                if value is not None:
                    given[each.name] = each.parse(value) if isinstance(value, str) else value
            settings = (fields["seed"], fields["num_inference_steps"], fields["guidance_scale"])
            kind = _format(task, picture, fields["format"])
            ticket = engine.submit(Edit(task.name, picture, given, *settings))
            if (result := await _wait(request, engine, ticket)) is None:
                return Response(status_code=GONE)
            data = await in_thread(_encode, result, kind, fields["mark"] and task.generates)
        return Response(data, media_type=_mime(kind), headers=_headers(task, kind, ticket, result.note))

    edit.__name__ = task.name
    edit.__signature__ = inspect.Signature(_parameters(task, config))  # type: ignore[attr-defined]
    return edit


def _read(upload: UploadFile, name: str, max_pixels: int) -> Picture:
    """The picture in an upload. Raises HTTPException 413 for one that is too large, before it is decoded, and
    ValueError for what is no whole picture."""
    data = upload.file.read()
    if not data:
        raise ValueError(f"{name}: is empty (0 bytes); send a picture")
    width, height = image.upright_size(data, name, max_pixels=2**62)
    if width * height > max_pixels:
        size, limit = f"{width}x{height}, {width * height / 1e6:.1f} megapixels", f"{max_pixels / 1e6:.1f}"
        raise HTTPException(413, f"{name}: is {size}; this server takes up to {limit}, send it smaller")
    return image.decode(data, name, max_pixels)


def _format(task: Task, photograph: Picture, asked: str | None) -> str:
    """The answer's: the photograph's, unless another is asked for, or the photograph's cannot hold the result."""
    return image.output_format(photograph, None, asked, task.alpha)


def _encode(result: Picture, kind: str, marked: bool) -> bytes:
    """The answer's bytes, with the photograph's profile and metadata."""
    return image.encode(mark(result) if marked else result, kind)


async def _wait(request: Request, engine: Engine, ticket: Ticket) -> Picture | None:
    """The result, or None once the client has hung up. Whatever ends the waiting, nobody works for nobody."""
    result = asyncio.wrap_future(ticket.result)
    gone = asyncio.create_task(_hung_up(request))
    try:
        waiting: set[asyncio.Future[Any]] = {result, gone}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return await result if result.done() else None
    finally:
        gone.cancel()
        if not result.done():
            engine.abandon(ticket)
            result.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@contextmanager
def _as_answers() -> Iterator[None]:
    """What goes wrong with an edit as the status and sentence that its sender gets; a bug stays one."""
    try:
        yield
    except Busy as busy:
        raise HTTPException(503, str(busy), {"Retry-After": str(busy.seconds)}) from None
    except ValueError as error:
        raise HTTPException(422, " ".join(str(error).split())) from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise HTTPException(413, "this edit needs more memory than there is; send a smaller picture") from error


def _headers(task: Task, kind: str, ticket: Ticket, note: str) -> dict[str, str]:
    """A name to save the answer under, where its time went, as browsers show it, and what the edit says of itself."""
    spent = time.monotonic() - ticket.queued - ticket.waited
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


class Gate:
    """ASGI middleware before all else: turns requests away before their body is read (no key, too large, queue full),
    stops a body that grows too large, and counts the answers."""

    def __init__(self, app: ASGIApp, engine: Engine, config: ServeConfig, tasks: frozenset[str]) -> None:
        self.app, self.engine, self.config, self.tasks = app, engine, config, tasks
        self._keys = [key.encode() for key in config.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        task = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix("/v1/")
        task = task if task in self.tasks and scope["method"] == "POST" else ""
        started, status, received = time.monotonic(), 500, 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.config.max_bytes:
                raise HTTPException(413, self._too_large())
            return message

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await (self._refusal(scope, task) or self.app)(scope, counted, watched)
        finally:
            if task:
                self.engine.metrics.requests.labels(task, str(status)).inc()
                self.engine.metrics.seconds.labels(task).observe(time.monotonic() - started)

    def _refusal(self, scope: Scope, task: str) -> Response | None:
        """The answer to a request that need not be read."""
        headers = Headers(scope=scope)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if self._keys and path.startswith(("/v1/", "/metrics")) and not self._knows(headers):
            wanted = "send an API key: 'X-API-Key: KEY' or 'Authorization: Bearer KEY'"
            return JSONResponse({"detail": wanted}, 401, {"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.config.max_bytes:
            return JSONResponse({"detail": self._too_large()}, 413)
        if task:
            try:
                self.engine.check_room()
            except Busy as busy:
                return JSONResponse({"detail": str(busy)}, 503, {"Retry-After": str(busy.seconds)})
        return None

    def _knows(self, headers: Headers) -> bool:
        """Compared in constant time, with every key, so that the time tells nothing."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")
        matches = [hmac.compare_digest(given.encode(), key) for key in self._keys]
        return any(matches)

    def _too_large(self) -> str:
        return f"the request is larger than the {self.config.max_bytes / 2**20:.0f} MiB that this server takes"


# -------------------------------------------------------------------------------------------------------- the process


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises OSError in one line where the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"cannot listen on {host}:{port} ({reason}); choose another --port or --host") from None


def run(pipe: EditPipeline, config: ServeConfig, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; what has been taken is finished first, a second signal ends at once."""
    signal.signal(
        signal.SIGTERM, lambda *_: None
    )  # uvicorn raises it again once all is finished: nothing is left to do
    logging.captureWarnings(True)  # about somebody's picture, of no interest to whoever runs the server
    server = uvicorn.Server(uvicorn.Config(create_app(pipe, config), log_level="warning", server_header=False))
    server.run(sockets=[listener])
