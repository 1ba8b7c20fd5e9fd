"""Jobs: edits that nobody waits for at the other end of a connection.

    POST /v1/jobs/TASK        the form of /v1/TASK -> 202 and an id
    GET /v1/jobs/ID           its state
    GET /v1/jobs/ID/result    the picture
    DELETE /v1/jobs/ID        forget it

A job and its result lie in a file (``store``), so a restart loses none. A ``callback`` of the form is told when the job
ends, signed as Standard Webhooks has it (HMAC-SHA256 of ``id.timestamp.body``); only where the server's owner allows.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Annotated, Any

import httpx
from fastapi import FastAPI, Form, Request, Response
from pydantic import BaseModel, Field, create_model
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from photofound.edits.task import Task
from photofound.serve.config import ServeConfig
from photofound.serve.errors import errors_as_answers
from photofound.serve.form import form_model
from photofound.serve.openapi import ErrorInfo, task_description, task_responses
from photofound.serve.queue import Busy
from photofound.serve.service import EditService
from photofound.serve.store import Full, Job, JobStore

log = logging.getLogger("photofound.serve.jobs")

AGAIN = (5.0, 30.0, 120.0, 600.0)
"""Seconds after which a callback that failed is tried again."""

CALLBACK_SECONDS = 10.0
_FORM: Any = Form(media_type="multipart/form-data")
_IDLE = 5.0  # seconds between looks at what is due
_RETRY = {"Retry-After": "1"}


class JobInfo(BaseModel):
    """A job."""

    id: str
    task: str
    state: str = Field(description="waiting, running, done or failed")
    created: float = Field(description="seconds since 1970")
    finished: float | None = None
    status: int | None = Field(default=None, description="of a failed job: what an answer would have been")
    detail: str | None = Field(default=None, description="of a failed job: what is wrong, and what to do")
    note: str | None = Field(default=None, description="what an answer would have said in X-Photofound-Note")

    @classmethod
    def of(cls, job: Job) -> JobInfo:
        shown = {
            name: getattr(job, name) for name in ("id", "task", "state", "created", "finished", "status", "detail")
        }
        return cls(**shown, note=job.headers.get("X-Photofound-Note"))


class Jobs:
    """The jobs of a server, and what works them off. One belongs to one event loop."""

    def __init__(self, service: EditService, config: ServeConfig) -> None:
        self.service, self.config = service, config
        self._store = JobStore(config.jobs, config.job_seconds, config.job_count, config.job_bytes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="photofound-jobs")
        self._changed, self._ended = asyncio.Event(), asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._workers = [asyncio.create_task(self._work_off()), asyncio.create_task(self._tell())]

    async def stop(self) -> None:
        """Leave what is not done for the next start."""
        tasks = [*self._workers, *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._do(self._store.close)
        self._thread.shutdown()

    async def submit(self, task: Task, form: dict[str, Any]) -> Job:
        """Keep a job. Raises ValueError for a callback that is not allowed, Busy if there is no room."""
        callback = form.pop("callback")
        if callback is not None:
            check_callback(callback, self.config.callbacks)
        uploads = {name: value for name, value in form.items() if isinstance(value, UploadFile)}
        fields = {name: value for name, value in form.items() if name not in uploads}
        for name, upload in uploads.items():
            await self.service.codec.weigh(upload, name)  # what is no picture is refused at once
        files = {name: await upload.read() for name, upload in uploads.items()}
        try:
            job: Job = await self._do(self._store.add, task.name, fields, files, callback)
        except Full:
            raise Busy(60) from None
        self._changed.set()
        return job

    async def get(self, name: str) -> Job:
        job: Job | None = await self._do(self._store.get, name)
        if job is None:
            raise _gone(name)
        return job

    async def result(self, name: str) -> Response:
        job = await self.get(name)
        if job.state == "failed":
            raise HTTPException(job.status or 500, job.detail)
        if job.state != "done":
            raise HTTPException(409, f"job: is not done yet, it is {job.state}; ask again", _RETRY)
        picture = await self._do(self._store.result, name)
        if picture is None:
            raise _gone(name)
        return Response(picture, headers=dict(job.headers))

    async def delete(self, name: str) -> None:
        await self.get(name)
        await self._do(self._store.delete, name)
        if name in self._running:
            self._running[name].cancel()

    # --------------------------------------------------------------------------------------------------------- the work

    async def _work_off(self) -> None:
        """As many jobs at a time as the queue computes together."""
        at_once = self.config.batch * self.config.workers
        while True:
            self._changed.clear()
            while len(self._running) < at_once and (job := await self._do(self._store.claim)):
                self._running[job.id] = asyncio.create_task(self._work(job))
            await _set(self._changed)

    async def _work(self, job: Job) -> None:
        try:
            with errors_as_answers(self.config):
                if job.task not in self.service.tasks:
                    raise HTTPException(404, f"task: {job.task!r} is no longer served")
                files = {name: UploadFile(io.BytesIO(data), filename=name) for name, data in job.files.items()}
                task = self.service.tasks[job.task]
                result = await self.service.perform(task, {**_defaults(task, self.config), **job.fields, **files})
            headers = result.headers(task.name) | {"Content-Type": result.mime_type}
            await self._do(self._store.finish, job.id, result.data, headers)
        except HTTPException as refused:
            if refused.status_code == 503 and not self.service.queue.ready:
                return  # the server stops: the job stays for the next one
            await self._do(self._store.fail, job.id, refused.status_code, str(refused.detail))
        except Exception:
            log.exception("job %s failed", job.id)
            await self._do(self._store.fail, job.id, 500, "this is a fault of the server; its log says more")
        finally:
            self._running.pop(job.id, None)
            self._changed.set()
            self._ended.set()

    async def _tell(self) -> None:
        """Tell callbacks, again and again if need be."""
        async with httpx.AsyncClient(timeout=CALLBACK_SECONDS) as client:  # redirects are not followed
            while True:
                self._ended.clear()
                due = await self._do(self._store.due)
                await asyncio.gather(*(self._tell_of(client, job) for job in due))
                await _set(self._ended)

    async def _tell_of(self, client: httpx.AsyncClient, job: Job) -> None:
        last = await self._told(client, job) or job.tries >= len(AGAIN)
        await self._do(self._store.told, job.id, None if last else AGAIN[job.tries])

    async def _told(self, client: httpx.AsyncClient, job: Job) -> bool:
        assert job.callback is not None
        body = JobInfo.of(job).model_dump_json().encode()
        try:
            check_callback(job.callback, self.config.callbacks)  # the owner may have changed his mind since
            headers = {"Content-Type": "application/json", **signed(self.config.callback_key, job.id, body)}
            async with asyncio.timeout(CALLBACK_SECONDS):
                async with client.stream("POST", job.callback, content=body, headers=headers) as answer:
                    return answer.is_success
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            log.warning("the callback of job %s failed: %s", job.id, type(error).__name__)
            return False

    async def _do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


async def _set(event: asyncio.Event) -> None:
    """Wait for an event, ``_IDLE`` seconds at most. ``asyncio.wait_for`` may swallow the cancellation of a task whose
    event is set at that moment (until Python 3.12); the task would never end."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_IDLE):
            await event.wait()


def _gone(name: str) -> HTTPException:
    return HTTPException(404, f"job: there is no {name[:40]!r}; it was never here, or its time is over")


def check_callback(url: str, allowed: Sequence[str]) -> None:
    """Raise ValueError unless a URL begins with one that the server's owner allows: the same scheme, host and port, and
    a path below it. Anything else could reach what only this machine can (SSRF)."""
    refused = f"callback: {url[:200]!r} is not allowed; the owner of this server names what is (--allow-callback)"
    parts = _parsed(url)
    if parts is None or parts.userinfo or parts.fragment or "\\" in url or ".." in _unquoted(parts):
        raise ValueError(refused)
    for each in allowed:
        base = _parsed(each)
        assert base is not None, each
        same = (parts.scheme, parts.host, parts.port) == (base.scheme, base.host, base.port)
        below = parts.path == base.path or parts.path.startswith(base.path.rstrip("/") + "/")
        if same and below:
            return
    raise ValueError(refused)


def _parsed(url: str) -> httpx.URL | None:
    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        return None
    return parts if parts.scheme in ("http", "https") and parts.host else None


def _unquoted(parts: httpx.URL) -> str:
    """The path with its dots shown, however they were written."""
    raw = parts.raw_path.partition(b"?")[0].decode("latin-1").lower()
    return raw.replace("%2e", ".").replace("%252e", ".")


def signed(key: str, name: str, body: bytes, now: float | None = None) -> dict[str, str]:
    """The headers of Standard Webhooks: which message it is, when it was sent, and the HMAC-SHA256 of both and the
    body. A key like ``whsec_...`` is base64 after that, any other its own bytes."""
    secret = base64.b64decode(key.removeprefix("whsec_")) if key.startswith("whsec_") else key.encode()
    moment = str(int(time.time() if now is None else now))
    digest = hmac.new(secret, f"{name}.{moment}.".encode() + body, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": name, "webhook-timestamp": moment, "webhook-signature": signature}


def _defaults(task: Task, config: ServeConfig) -> dict[str, Any]:
    """The form's defaults, for jobs that an earlier version kept."""
    return {name: each.get_default() for name, each in form_model(task, config).model_fields.items()}


def add_jobs(app: FastAPI, jobs: Jobs, settings: dict[str, Any]) -> None:
    """Add the addresses; ``settings`` are those of all routes that need a key."""
    refused: dict[int | str, dict[str, Any]] = {401: {"model": ErrorInfo}, 404: {"model": ErrorInfo}}
    asked: dict[str, Any] = settings | {"tags": ["jobs"], "responses": refused}
    for task in jobs.service.tasks.values():
        add = app.post(
            f"/v1/jobs/{task.name}",
            name=f"job_{task.name}",
            status_code=202,
            tags=["jobs"],
            summary=f"{task.summary}, later",
            description=task_description(task),
            responses={status: each for status, each in task_responses().items() if status != 200},
            **settings,
        )
        add(_submission(task, jobs))

    @app.get("/v1/jobs/{id}", summary="the state of a job", **asked)
    async def show_job(id: str) -> JobInfo:
        return JobInfo.of(await jobs.get(id))

    ended = refused | {409: {"model": ErrorInfo}, 200: task_responses()[200]}
    picture: dict[str, Any] = asked | {"response_class": Response, "responses": ended}

    @app.get("/v1/jobs/{id}/result", summary="the picture of a job; why there is none, if it failed", **picture)
    async def job_result(id: str) -> Response:
        return await jobs.result(id)

    @app.delete("/v1/jobs/{id}", status_code=204, summary="forget a job and its result", **asked)
    async def delete_job(id: str) -> None:
        await jobs.delete(id)


def _submission(task: Task, jobs: Jobs) -> Callable[..., Any]:
    """The handler of ``POST /v1/jobs/TASK``."""
    callback = (str | None, Field(default=None, max_length=2000, description="a URL that is told when the job ends"))
    fields: Any = {"callback": callback}
    model = create_model(f"Body_job_{task.name}", __base__=form_model(task, jobs.config), **fields)

    async def submit(request: Request, response: Response, form: Any) -> JobInfo:
        with errors_as_answers(jobs.config):
            job = await jobs.submit(task, dict(form))
        response.headers["Location"] = f"{request.scope.get('root_path', '').rstrip('/')}/v1/jobs/{job.id}"
        return JobInfo.of(job)

    submit.__name__ = f"job_{task.name}"
    submit.__annotations__ |= {"form": Annotated[model, _FORM], "request": Request, "response": Response}
    submit.__annotations__ |= {"return": JobInfo}
    return submit
