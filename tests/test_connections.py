"""Connections: small answers are sent at once, clients that stall are cut off, one signal and two."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import uvicorn
from helpers import wait_until

from photofound.serve import connections


async def application(scope, receive, send):
    """Answer a GET with 32 MiB, more than the system buffers, and a POST when its body has arrived."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    body = bytes(2**25 if scope["method"] == "GET" else 2)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def serving(monkeypatch, **patience):
    """A server in a thread, and where it listens."""
    for name, seconds in patience.items():
        monkeypatch.setattr(connections, name, seconds)
    listener = connections.listen("127.0.0.1", 0)
    server = connections.Server(uvicorn.Config(application, log_level="critical", lifespan="off"))
    monkeypatch.setattr(server, "capture_signals", contextlib.nullcontext)  # only the main thread may catch any
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield server, listener.getsockname(), thread
    finally:
        server.should_exit = True
        thread.join(120)
        assert not thread.is_alive()


def connected(address, request: bytes, buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    if buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.connect(address)
    client.sendall(request)
    return client


def closes(client: socket.socket, seconds: float) -> bool:
    """Whether the server closes the connection within so many seconds, whatever it says before."""
    client.settimeout(seconds)
    try:
        while client.recv(2**16):
            pass
        return True
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_the_listener_says_that_it_is_tcp():
    """Without it asyncio leaves Nagle's algorithm on, and small answers wait for 40 ms."""
    with connections.listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
        with socket.create_connection(listener.getsockname()):
            assert listener.accept()[0].proto == socket.IPPROTO_TCP


def test_a_client_that_sends_half_a_head_is_cut_off(monkeypatch):
    with serving(monkeypatch, PATIENCE_FOR_HEADS=0.5) as (_, address, _):
        with connected(address, b"GET / HTTP/1.1\r\nHost: x\r\nA:") as client:
            assert closes(client, 120)


def test_a_client_that_does_not_read_its_answer_is_cut_off(monkeypatch):
    with serving(monkeypatch, PATIENCE=0.5) as (server, address, _):
        with connected(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", buffer=4096):
            wait_until(lambda: any(each.cycle for each in server.server_state.connections))  # its head has arrived
            wait_until(lambda: not server.server_state.connections)


def test_a_slow_but_steady_reader_gets_its_answer(monkeypatch):
    with serving(monkeypatch, PATIENCE=0.5) as (_, address, _):
        with connected(address, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", buffer=2**16) as client:
            received, started = 0, time.monotonic()
            while data := client.recv(2**18):
                received += len(data)
                if time.monotonic() - started < 2:
                    time.sleep(0.01)
            assert received > 2**25


@pytest.mark.parametrize(
    "request_", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n"]
)
def test_stalled_clients_do_not_delay_stopping(request_, monkeypatch):
    with serving(monkeypatch, PATIENCE_WHEN_STOPPING=0.5) as (server, address, thread):
        request_ = request_ if request_.endswith(b"\r\n\r\n") else request_ + b"Host: x\r\n\r\nabc"
        with connected(address, request_, buffer=4096):
            wait_until(lambda: any(each.cycle for each in server.server_state.connections))  # its head has arrived
            server.should_exit = True
            thread.join(120)
            assert not thread.is_alive()


PROCESS = """
    import asyncio, sys, time, uvicorn
    from photofound.serve import connections

    async def application(scope, receive, send):
        if scope["type"] == "http":
            print("working", flush=True)
            while not server.should_exit:
                await asyncio.sleep(0.01)
            print("stopping", flush=True)
            await asyncio.sleep(float(sys.argv[1]))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"done"})

    listener = connections.listen("127.0.0.1", 0)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(application, log_level="critical", lifespan="off")
    server = connections.Server(config, lambda: print("at once", flush=True))
    server.run(sockets=[listener])
"""


@contextlib.contextmanager
def busy_server(seconds: float):
    """The process of a server that computes a request, until so many seconds after a signal."""
    command = [sys.executable, "-c", textwrap.dedent(PROCESS), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            port = int(process.stdout.readline())
            with connected(("127.0.0.1", port), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as client:
                assert process.stdout.readline() == "working\n"
                yield process, client
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_one_signal_finishes_accepted_requests():
    with busy_server(0.5) as (process, client):
        process.send_signal(signal.SIGTERM)
        client.settimeout(120)
        assert b"200 OK" in client.recv(1000)
        assert process.wait(120) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(second):
    with busy_server(600.0) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "stopping\n"  # else two signals of one kind would count as one
        process.send_signal(second)
        assert process.wait(120) == 128 + second
        assert process.stdout.read() == "at once\n"
