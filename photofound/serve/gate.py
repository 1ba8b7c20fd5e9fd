"""The gate: which requests are let in, how large they may be and how slowly they may arrive.

It refuses a request before its body is read: without an API key, from a page elsewhere, too large, or if the queue is
full.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from fastapi import HTTPException, Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from photofound.serve.config import ServeConfig
from photofound.serve.connections import PATIENCE, RATE
from photofound.serve.errors import error_answer, route_of
from photofound.serve.queue import Busy, EditQueue

DRAIN_SECONDS = 5.0
"""How long the body of a refused request is read and thrown away."""


class Gate:
    """ASGI middleware before all others. It refuses requests before their body is read, stops a body that grows too
    large or arrives too slowly, holds a place in the queue until the answer is sent, and counts the answers.

    Args:
        app: the application behind it.
        queue: where a request gets its place.
        config: limits, keys, hosts and origins.
        doors: the addresses that are posted to for an edit, and what each is called in the metrics.
        forms: those of them that want a form (multipart/form-data).
    """

    def __init__(
        self, app: ASGIApp, queue: EditQueue, config: ServeConfig, doors: Mapping[str, str], forms: Collection[str]
    ) -> None:
        self.app, self.queue, self.config, self.doors, self.forms = app, queue, config, doors, forms
        self._keys = [encoded for key in config.keys for encoded in _encodings(key)]
        self._uploads = 0  # bytes of all bodies in progress
        queue.metrics.uploads.set_function(lambda: self._uploads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        door = self.doors.get(route_of(scope), "") if scope["method"] == "POST" else ""
        started, status = time.monotonic(), 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if refusal := self._refusal(scope):
                await self._refuse(refusal, scope, receive, send_and_note_status)
            elif not door:
                await self.app(scope, self._bounded(receive, _Body(0)), send_and_note_status)
            else:
                await self._let_in(scope, receive, send_and_note_status)
        finally:
            if door:
                self.queue.metrics.answered(door, status, time.monotonic() - started)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, with a place in the queue until its answer is sent."""
        body = _Body(_length(Headers(scope=scope)) or 0)
        try:
            with self.queue.place():
                try:
                    self._count(body.declared)
                    await self.app(scope, self._bounded(receive, body), send)
                finally:
                    self._uploads -= max(body.declared, body.received)
        except Busy as busy:
            answer = error_answer(route_of(scope), 503, str(busy), {"Retry-After": str(busy.seconds)})
            await self._refuse(answer, scope, receive, send)

    async def _refuse(self, answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, then read what the client still sends for a while. If the connection closed at once, the
        client's system might drop the answer."""

        async def keep_open(message: Message) -> None:
            is_body = message["type"] == "http.response.body"
            await send({**message, "more_body": True} if is_body else message)

        await answer(scope, receive, keep_open)
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while (await receive()).get("more_body", False):
                    pass
        await send({"type": "http.response.body", "body": b""})

    def _count(self, more: int) -> None:
        """Count bytes of a body. Raises Busy if all bodies together become too large."""
        self._uploads += more
        if self._uploads > self.config.max_uploads:
            raise Busy(5)

    def _bounded(self, receive: Receive, body: _Body) -> Receive:
        """``receive``, which raises HTTPException if the body becomes too large or too slow."""

        async def bounded() -> Message:
            if body.is_whole:  # the next message is the client's disconnect
                return await receive()
            left = body.started + PATIENCE + body.received / RATE - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left)):
                    message = await receive()
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

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that is refused; None if it is let in."""
        headers, route = Headers(scope=scope), route_of(scope)
        if problem := self._wrong_name(scope, headers):
            return error_answer(route, 403, problem)
        if self._keys and not _is_open(route) and not self._has_key(headers):
            advice = "send an API key: 'X-API-Key: KEY' or 'Authorization: Bearer KEY'"
            return error_answer(route, 401, advice, {"WWW-Authenticate": "Bearer"})
        if (_length(headers) or 0) > self.config.max_bytes:
            return error_answer(route, 413, self._too_large())
        if scope["method"] == "POST" and route in self.forms and not _is_multipart(headers):
            problem = "image: is missing; send a form (multipart/form-data) with the photograph as its field 'image'"
            return error_answer(route, 422, problem, field="image")
        return None

    def _wrong_name(self, scope: Scope, headers: Headers) -> str | None:
        """What is wrong with the headers Host and Origin, or None. A page elsewhere must not call this server unless it
        is allowed to (CSRF), nor reach it under a name of its own (DNS rebinding)."""
        host = headers.get("host", "")
        if self.config.hosts and not _is_own(_name(host), self.config.hosts):
            return f"this server does not answer to the name {_name(host)!r}; it must be started with --allow-host"
        origin = headers.get("origin")
        if scope["method"] in ("GET", "HEAD", "OPTIONS") or origin is None or origin.partition("//")[2] == host:
            return None  # the browser does not show a page elsewhere what it has read
        if "*" in self.config.origins or origin in self.config.origins:
            return None
        return f"pages of {origin!r} may not call this server; it must be started with --allow-origin"

    def _has_key(self, headers: Headers) -> bool:
        """Whether the request has a valid key. Every key is compared, in constant time: the time reveals nothing."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key") or (bearer.strip(" \t") if scheme.lower() == "bearer" else "")
        matches = [hmac.compare_digest(given.encode("latin-1"), key) for key in self._keys]  # the bytes that were sent
        return any(matches)

    def _too_large(self) -> str:
        return f"the request is larger than the {self.config.max_bytes / 2**20:.0f} MiB that this server takes"


@dataclass
class _Body:
    """How many bytes of a request's body were announced and have arrived."""

    declared: int
    received: int = 0
    is_whole: bool = False
    started: float = field(default_factory=time.monotonic)


# These need no key: they reveal nothing about anybody.
_OPEN = ("/", "/healthz", "/readyz", "/docs", "/redoc", "/openapi.json")


def _encodings(key: str) -> list[bytes]:
    """The bytes that a key may arrive as: clients encode letters beyond ASCII in different ways."""
    kinds = ("utf-8", "latin-1") if all(ord(letter) < 256 for letter in key) else ("utf-8",)
    return [key.encode(kind) for kind in kinds]


def _is_open(route: str) -> bool:
    """Whether a path needs no key. All others do, also those that do not exist."""
    return route in _OPEN or route.startswith("/docs/")


def _length(headers: Headers) -> int | None:
    """The header Content-Length, or None if it is missing or no length."""
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) < 20 else None


def _name(host: str) -> str:
    """The header Host without its port."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def _is_own(name: str, hosts: Sequence[str]) -> bool:
    """Whether a name is one of ``hosts``, localhost, or an address. Nobody can make an address point elsewhere."""
    name = name.lower().rstrip(".")
    try:
        ipaddress.ip_address(name.strip("[]"))
        return True
    except ValueError:
        return name in ("", "localhost", *map(str.lower, hosts)) or name.endswith(".localhost")


def _is_multipart(headers: Headers) -> bool:
    return headers.get("content-type", "").lower().startswith("multipart/form-data")
