"""Errors as answers: a status, and one sentence that says what is wrong and what to do, in the form that the clients of
an address know."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from photofound import image
from photofound.errors import one_line
from photofound.serve.config import ServeConfig
from photofound.serve.queue import Busy, TooLong, UpstreamFailed


@contextmanager
def errors_as_answers(config: ServeConfig) -> Iterator[None]:
    """Within the block, errors that a request may cause become HTTPException. Others are bugs and stay as they are."""
    try:
        yield
        return
    except (Busy, TooLong, UpstreamFailed, ValueError, MemoryError, RuntimeError) as error:
        answer = _answer_to(error, config)
        if answer is None:
            raise
        _release_frames(error)
    raise answer  # outside the except block, so that it holds no reference to the error


def _answer_to(error: Exception, config: ServeConfig) -> HTTPException | None:
    """None for a bug."""
    message = one_line(error)
    if isinstance(error, Busy):
        return HTTPException(503, message, {"Retry-After": str(error.seconds)})
    if isinstance(error, TooLong):
        advice = "send a smaller picture or ask for fewer steps"
        return HTTPException(504, f"the edit took more than {config.edit_seconds:g} s; {advice}")
    if isinstance(error, UpstreamFailed):
        return HTTPException(error.status, message, {"Retry-After": str(error.seconds)} if error.seconds else None)
    if isinstance(error, image.TooLarge):
        return HTTPException(413, f"{message.partition(';')[0]}; this server makes no larger ones, ask for less")
    if isinstance(error, ValueError):
        return HTTPException(422, message)
    if isinstance(error, MemoryError) or "memory" in message:
        return HTTPException(413, "this edit needs more memory than there is; send a smaller picture")
    return None


def _release_frames(error: BaseException | None) -> None:
    """Drop an error's tracebacks. Their frames hold pictures of up to hundreds of megabytes, which otherwise stay in
    memory until the next collection of reference cycles."""
    while error is not None:
        cause = error.__cause__ or error.__context__
        error.__traceback__ = error.__cause__ = error.__context__ = None
        error = cause


OPENAI = ("/v1/images/", "/v1/models")
"""Where the addresses begin that clients of OpenAI's API call."""

IOPAINT = "/api/v1/"
"""Where the addresses begin that clients of IOPaint call."""


class OpenAIError(BaseModel):
    """What is wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorInfo(BaseModel):
    """What every error of the images API looks like."""

    error: OpenAIError


class IOPaintErrorInfo(BaseModel):
    """What every error looks like to IOPaint's clients: ``errors`` and ``detail`` are one sentence."""

    error: str
    detail: str
    body: str
    errors: str


_OPENAI_STATUS = {422: 400}  # its API has no 422
_OPENAI_CODES = {401: "invalid_api_key", 404: "not_found", 413: "request_too_large", 503: "server_busy", 504: "timeout"}


def error_answer(
    path: str, status: int, detail: str, headers: Mapping[str, str] | None = None, field: str | None = None
) -> JSONResponse:
    """An error in the form that clients of an address know.

    Args:
        path: the address, without a proxy's root path.
        detail: one sentence.
        field: which field of the request is wrong; left out, the name that the sentence begins with.
    """
    if path.startswith(OPENAI):
        kind = "server_error" if status >= 500 else "invalid_request_error"
        named = re.match(r"([a-z_]+): ", detail)
        param = field or (named[1] if named else None)
        error = {"message": detail, "type": kind, "param": param, "code": _OPENAI_CODES.get(status)}
        body: dict[str, Any] = {"error": error}
        return JSONResponse(body, _OPENAI_STATUS.get(status, status), dict(headers or {}))
    if path.startswith(IOPAINT):
        body = {"error": "HTTPException", "detail": detail, "body": "", "errors": detail}
        return JSONResponse(body, status, dict(headers or {}))
    return JSONResponse({"detail": detail}, status, dict(headers or {}))


def add_error_handlers(app: FastAPI) -> None:
    """Answer refused requests, forms that do not fit and bugs in one sentence."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return error_answer(route_of(request.scope), error.status_code, str(error.detail), error.headers)

    async def invalid_form(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = error.errors()
        names = [".".join(map(str, each["loc"][1:])) or "body" for each in found]
        sentences = [f"{name}: {each['msg']}" for name, each in zip(names, found, strict=True)]
        return error_answer(route_of(request.scope), 422, "; ".join(sentences), field=names[0])

    async def server_fault(request: Request, error: Exception) -> JSONResponse:
        detail = "this is a fault of the server; its log says more"  # the log says which, the answer does not
        return error_answer(route_of(request.scope), 500, detail)

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid_form)
    app.add_exception_handler(Exception, server_fault)


def route_of(scope: Mapping[str, Any]) -> str:
    """The path without ``root_path``, under which a proxy or another application serves this one; as in Starlette."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path
