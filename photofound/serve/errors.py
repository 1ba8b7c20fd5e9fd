"""Errors as answers: a status, and one sentence that says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from photofound import image
from photofound.errors import one_line
from photofound.serve.config import ServeConfig
from photofound.serve.queue import Busy, TooLong


@contextmanager
def errors_as_answers(config: ServeConfig) -> Iterator[None]:
    """Within the block, errors that a request may cause become HTTPException. Others are bugs and stay as they are."""
    try:
        yield
        return
    except (Busy, TooLong, ValueError, MemoryError, RuntimeError) as error:
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


async def invalid_form(request: Request, error: Exception) -> JSONResponse:
    """422: a form that does not fit, with one sentence per field."""
    assert isinstance(error, RequestValidationError)
    sentences = [f"{'.'.join(map(str, each['loc'][1:])) or 'body'}: {each['msg']}" for each in error.errors()]
    return JSONResponse({"detail": "; ".join(sentences)}, 422)


async def server_fault(request: Request, error: Exception) -> JSONResponse:
    """500: a bug. The log says which, the answer does not."""
    return JSONResponse({"detail": "this is a fault of the server; its log says more"}, 500)
