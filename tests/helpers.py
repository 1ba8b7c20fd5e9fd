"""What several test files need: seeds, random pictures, files, pipelines, extra tasks."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import httpx
import numpy as np
import torch
from filelock import FileLock
from PIL import Image

T = TypeVar("T")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(height: int, width: int, channels: int = 3, dtype=np.uint8, seed: int = 0) -> np.ndarray:
    """A picture of random pixels, (H, W, C), or (H, W) for one channel: equal pixels are no accident."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def encoded(array: np.ndarray, format: str = "PNG", **options) -> bytes:
    """The bytes of a picture file."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format, **options)
    return stream.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes | dict]) -> None:
    """A tar of the given files; a dict becomes JSON."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            raw = json.dumps(content).encode() if isinstance(content, dict) else content
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))


def load_pipeline(pipeline, folder: Path | None = None, **options):
    """The pipeline of a model folder, in float32 and without a progress bar; None: the embedded model."""
    pipe = pipeline.from_pretrained(folder, **{"torch_dtype": torch.float32, **options})
    pipe.set_progress_bar_config(disable=True)
    return pipe


@contextmanager
def extra_tasks(folder: Path, monkeypatch) -> Iterator[None]:
    """Looks for tasks in ``folder``, too, and forgets them afterwards."""
    from photofound.edits import task

    def forget() -> None:
        for cached in (task._finders, task.get_task):
            cached.cache_clear()

    with monkeypatch.context() as patch:
        patch.setenv("PHOTOFOUND_TASKS", str(folder))
        forget()
        yield
    forget()


def made_once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that ``make`` fills, once for all of pytest-xdist's workers in a run."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        make(folder := tmp_path_factory.mktemp(name))
        return folder
    folder = tmp_path_factory.getbasetemp().parent / name  # the workers' folders lie side by side
    with FileLock(folder.with_suffix(".lock")):
        if not folder.with_suffix(".done").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            folder.with_suffix(".done").touch()
    return folder


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait for what comes soon, or late on a machine that is busy with something else. Raises AssertionError."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "what was waited for did not come"
        time.sleep(0.01)


def free_port() -> int:
    """A port for what cannot listen at port 0. It lies below those that systems hand out by themselves (from 32768 on
    Linux), so that nobody else gets it meanwhile; workers of pytest-xdist begin at different ones."""
    first = 20_000 + os.getpid() % 10_000
    for port in range(first, first + 1000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError(f"none of the ports from {first} on is free")


def serve(port: int, arguments: Sequence[str], ask: Callable[[str], T]) -> T:
    """Run ``photofound serve`` in this process until ``ask(address)``, in a thread, has returned; then SIGTERM ends it.
    A process of its own would spend seconds on imports. Returns what ``ask`` returned."""
    from photofound import cli
    from photofound.signals import handled

    address = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{address}/readyz", timeout=120).is_success
        return False

    def work() -> T:
        try:
            wait_until(is_ready)
            return ask(address)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def too_early(*_: object) -> None:
        raise AssertionError("the server did not start")

    with handled([signal.SIGTERM], too_early), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(work)
        status = cli.main(["serve", "--port", str(port), *arguments])
        logging.captureWarnings(False)  # the command captures them for good
        assert status == 0
        return asked.result()


def run_processes(script: Path, *arguments: object) -> None:
    """Run a script that starts several processes of one group. Raises AssertionError where it fails.

    It is tried twice: once in some twenty runs gloo's own threads abort a process that makes many process groups.
    accelerate leaves its settings in the environment of a process that used it; they are not handed on.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "FSDP_"))}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, script, *map(str, arguments)], capture_output=True, text=True, env=clean, timeout=280
        )
        if "terminate called without an active exception" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr[-5000:]
