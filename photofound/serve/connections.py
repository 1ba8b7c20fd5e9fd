"""The server's connections and its end: an address to listen at, clients that stall, signals.

uvicorn speaks HTTP. What it leaves open is closed here: a client that never finishes the head of its request, or does
not read its answer, is cut off, so that nobody holds a place or the server's end for ever.
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
"""Seconds that a client may stall; RATE, in bytes per second, is what it must send or read at least beyond that."""
RATE = 16 * 1024
PATIENCE_FOR_HEADS = 10.0  # of requests
PATIENCE_AT_THE_END = 4.0  # once the server stops


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises OSError in one line where the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"cannot listen on {host}:{port} ({reason}); choose another --port or --host") from None
    # asyncio sends small answers at once only where the socket says what it is, which create_server leaves out.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=bound.detach())


@dataclass(frozen=True)
class _Wait:
    """What a connection is waited for, since when, and how many bytes of its answer were unsent then."""

    what: str
    since: float
    unsent: int


class Server(uvicorn.Server):
    """uvicorn's, with two more rules: a client that stalls is cut off, and a second signal ends the process at once.

    Args:
        at_once: called before the process ends at a second signal.
    """

    def __init__(self, config: uvicorn.Config, at_once: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self._at_once = at_once
        self._waits: dict[Any, _Wait] = {}

    async def _serve(self, sockets: list[socket.socket] | None = None) -> None:
        watching = asyncio.create_task(self._watch())
        try:
            await super()._serve(sockets)
        finally:
            watching.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal lets what has been taken finish; it is not raised again, so that the process ends with 0."""
        with handled((signal.SIGINT, signal.SIGTERM), self.handle_exit):
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self._at_once()
            # Without an interpreter's orderly end, which a thread in the midst of its work would spoil.
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
        """Whether a client keeps the server waiting for too long."""
        cycle, unsent = connection.cycle, connection.transport.get_write_buffer_size()
        if unsent:
            what = "to read"
        elif cycle is None or cycle.response_complete:
            what = "to ask"
        elif cycle.more_body and self.should_exit:  # before that the application looks how fast a body arrives
            what = "to send"
        else:
            self._waits.pop(connection, None)
            return False
        patience = PATIENCE_FOR_HEADS if what == "to ask" else PATIENCE
        patience = PATIENCE_AT_THE_END if self.should_exit else patience
        now, wait = asyncio.get_running_loop().time(), self._waits.get(connection)
        if wait is None or wait.what != what or unsent > wait.unsent:
            self._waits[connection] = _Wait(what, now, unsent)
            return False
        if now - wait.since <= patience:
            return False
        self._waits[connection] = _Wait(what, now, unsent)
        return wait.unsent - unsent <= RATE * patience
