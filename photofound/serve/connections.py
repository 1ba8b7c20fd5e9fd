"""Connections: an address to listen at, clients that stall, and how the server stops.

uvicorn speaks HTTP. This file closes connections that uvicorn would leave open: those of clients that never finish the
head of their request, or do not read their answer. Otherwise such a client would keep its place in the queue, and the
server could not stop.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import uvicorn

from photofound.signals import handled

PATIENCE = 15.0
"""Seconds that a client may stall. After them it must send or read at least RATE bytes per second."""
RATE = 16 * 1024
PATIENCE_FOR_HEADS = 10.0  # until the head of a request is complete
PATIENCE_WHEN_STOPPING = 4.0


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises OSError, in one line, if the address is in use or not ours."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"cannot listen on {host}:{port} ({reason}); choose another --port or --host") from None
    # asyncio sets TCP_NODELAY only if the socket's protocol is TCP by name; create_server leaves it at 0.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=bound.detach())


@dataclass(frozen=True)
class _Wait:
    """What the server waits for on a connection, since when, and how many bytes of the answer were unsent then."""

    what: str
    since: float
    unsent: int


class Server(uvicorn.Server):
    """uvicorn's server with two more rules: a client that stalls is cut off, and a second signal ends the process at
    once.

    Args:
        before_exit: called before a second signal ends the process.
    """

    def __init__(self, config: uvicorn.Config, before_exit: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self._before_exit = before_exit
        self._waits: dict[Any, _Wait] = {}

    async def _serve(self, sockets: list[socket.socket] | None = None) -> None:
        watching = asyncio.create_task(self._watch())
        try:
            await super()._serve(sockets)
        finally:
            watching.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal lets running requests finish. It is not raised again, so the exit status is 0."""
        with handled((signal.SIGINT, signal.SIGTERM), self.handle_exit):
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self._before_exit()
            # Without the interpreter's shutdown: it would wait for the thread that computes.
            os._exit(128 + sig)
        self.should_exit = True

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            for connection in list(self.server_state.connections):
                if self._stalls(connection):
                    connection.transport.abort()
            self._waits = {each: self._waits[each] for each in self._waits.keys() & self.server_state.connections}

    def _stalls(self, connection: Any) -> bool:
        """Whether a client has kept the server waiting for too long."""
        cycle, unsent = connection.cycle, connection.transport.get_write_buffer_size()
        if unsent:
            what = "read"
        elif cycle is None or cycle.response_complete:
            what = "request"
        elif cycle.more_body and self.should_exit:  # until then, Gate checks how fast a body arrives
            what = "body"
        else:
            self._waits.pop(connection, None)
            return False
        patience = PATIENCE_FOR_HEADS if what == "request" else PATIENCE
        patience = PATIENCE_WHEN_STOPPING if self.should_exit else patience
        now, wait = asyncio.get_running_loop().time(), self._waits.get(connection)
        if wait is None or wait.what != what or unsent > wait.unsent:
            self._waits[connection] = _Wait(what, now, unsent)
            return False
        if now - wait.since <= patience:
            return False
        self._waits[connection] = _Wait(what, now, unsent)
        return wait.unsent - unsent <= RATE * patience
