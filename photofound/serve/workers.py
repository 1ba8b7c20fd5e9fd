"""Files of strangers, read and written in separate processes with a limit of time and memory.

    files = Files(count=4)
    picture = files.read(data, "image", max_pixels=24_000_000, seconds=15)
    data = files.write(picture, "JPEG", seconds=60)

Decoders are written in C. A hostile file may crash them, fill the memory or keep them busy, and Python cannot stop a
thread. A process can be killed, and the next picture gets a new one. The processes exchange JSON and plain bytes, never
pickles, so that nothing they send can run code.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import IO, Any

import numpy as np

from photofound import image
from photofound.image import Picture
from photofound.picture import layered, provenance
from photofound.picture.layers import Layer

MEMORY = 2 * 2**30
"""Bytes of memory of a process, beside ``PER_PIXEL`` bytes for each pixel of the largest picture."""

PER_PIXEL = 64
START_SECONDS = 60.0
"""How long a process may take to start."""

_MOST_WARNINGS = 20


class Files:
    """A few processes that read and write pictures. All methods may be called from any thread; they block.

    Args:
        count: largest number of processes; they start when they are needed.
        max_pixels: pixels of the largest picture, for the limit of memory.
        formats: Pillow's names of the formats that are read; None = all.
    """

    def __init__(self, count: int, max_pixels: int, formats: Sequence[str] | None = None) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        if formats is not None:
            environment[image.FORMATS_VARIABLE] = ",".join(formats)
        self._start = lambda: _Process(environment, MEMORY + PER_PIXEL * max_pixels)
        self._free = threading.Semaphore(count)
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()

    def size(self, data: bytes, name: str, seconds: float) -> tuple[int, int]:
        """As ``image.upright_size``, without its limit."""
        return self._ask(seconds, name, "size", data, name)

    def read(
        self,
        data: bytes,
        name: str,
        max_pixels: int,
        seconds: float,
        strip: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> Picture:
        """As ``image.decode``; ``strip``: without the place where it was taken. ``warn`` gets each warning."""
        return self._ask(seconds, name, "read", data, name, max_pixels, strip, warn=warn)

    def write(
        self,
        picture: Picture,
        format: str,
        seconds: float,
        mark: bool = False,
        whole: bool = False,
        generated: bool = True,
        warn: Callable[[str], None] | None = None,
    ) -> bytes:
        """As ``image.encode``; ``mark``: the metadata say what ``provenance.mark`` says with ``whole`` and
        ``generated``. ``warn`` gets each warning."""
        return self._ask(seconds, "the result", "write", picture, format, mark, whole, generated, warn=warn)

    def write_layers(
        self,
        found: Sequence[Layer],
        flat: Picture,
        kind: str,
        seconds: float,
        mark: bool = False,
        whole: bool = False,
        generated: bool = True,
        warn: Callable[[str], None] | None = None,
    ) -> bytes:
        """As ``layered.encode``; the rest as in ``write``, of the flat picture."""
        return self._ask(seconds, "layers", "layers", list(found), flat, kind, mark, whole, generated, warn=warn)

    def close(self) -> None:
        """End all processes, at once."""
        for process in list(self._all):
            process.kill()

    def _ask(self, seconds: float, name: str, *question: Any, warn: Callable[[str], None] | None = None) -> Any:
        with self._free:
            process = self._idle.pop() if self._idle else self._start()
            self._all.add(process)
            try:
                answer = process.ask(question, seconds, name)
            except BaseException:
                process.kill()
                self._all.discard(process)
                raise
            self._idle.append(process)
        kind, value, warned = answer
        for sentence in warned:
            if warn is not None:
                warn(sentence)
        if kind == "answer":
            return value
        raise {"ValueError": ValueError, "MemoryError": MemoryError}.get(kind, RuntimeError)(value)


class _Process:
    """One worker, seen from the server. It answers one question at a time."""

    def __init__(self, environment: dict[str, str], memory: int) -> None:
        command = [sys.executable, "-c", f"from photofound.serve import workers; workers.work({memory})"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment)
        self._ready = False

    def ask(self, question: Any, seconds: float, name: str) -> Any:
        """The answer. Raises ValueError if the time is over, or if the picture crashed the process. The time begins
        when the process has started, which takes long on a busy machine."""
        if not self._ready:
            self._answer(None, START_SECONDS, name, "cannot be read: this machine is too busy; send it again later")
            self._ready = True
        return self._answer(
            question, seconds, name, f"takes more than {seconds:g} s of work on its file; send it smaller"
        )

    def _answer(self, question: Any, seconds: float, name: str, late: str) -> Any:
        """The answer to a question; without one, that the process is ready. ``late``: what is wrong after the time."""
        assert self._process.stdin is not None and self._process.stdout is not None
        timed_out = threading.Event()

        def give_up() -> None:
            timed_out.set()
            self._process.kill()

        timer = threading.Timer(seconds, give_up)
        timer.start()
        answer = None
        try:
            if question is not None:
                _send(self._process.stdin, question)
            answer = _receive(self._process.stdout)
        except (OSError, EOFError):
            pass
        finally:
            timer.cancel()
            timer.join()  # it may be killing the process at this moment: then there is no answer, and no process
        if timed_out.is_set():
            raise ValueError(f"{name}: {late}")
        if answer is None:
            raise ValueError(f"{name}: the program that reads this kind of file failed; save it anew")
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            try:
                stream.close()
            except OSError:  # unwritten bytes are lost with the process
                pass


# --------------------------------------------------------------------------------------------------- within the process


def work(memory: int) -> None:
    """The worker's main loop: answer questions from standard input on standard output until it is closed."""
    import signal

    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not mix with answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal
    _limit_memory(memory)
    _send(answers, "ready")
    known: dict[str, Callable[..., Any]] = {"size": _size, "read": _read, "write": _write, "layers": _layers}
    while True:
        try:
            what, *arguments = _receive(questions)
        except EOFError:
            return
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            try:
                kind, value = "answer", known[what](*arguments)
            except (ValueError, MemoryError) as error:
                kind, value = "MemoryError" if isinstance(error, MemoryError) else "ValueError", str(error)
            except Exception:
                kind, value = "fault", traceback.format_exc()
        said = [" ".join(str(each.message).split()) for each in caught if each.category is UserWarning]
        _send(answers, (kind, value, list(dict.fromkeys(said))[:_MOST_WARNINGS]))


def _size(data: bytes, name: str) -> tuple[int, int]:
    return image.upright_size(data, name, max_pixels=2**62)


def _read(data: bytes, name: str, max_pixels: int, strip: bool) -> Picture:
    picture = image.decode(data, name, max_pixels)
    return picture.without_location() if strip else picture


def _write(picture: Picture, format: str, mark: bool, whole: bool, generated: bool) -> bytes:
    return image.encode(provenance.mark(picture, whole, generated) if mark else picture, format)


def _layers(found: Sequence[Layer], flat: Picture, kind: str, mark: bool, whole: bool, generated: bool) -> bytes:
    return layered.encode(found, provenance.mark(flat, whole, generated) if mark else flat, kind)


def _limit_memory(size: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


# ----------------------------------------------------------------------------------------------- between the processes


def _send(stream: IO[bytes], value: Any) -> None:
    """Send a line of JSON, then the bytes of its arrays."""
    parts: list[Any] = []
    stream.write(json.dumps(_plain(value, parts)).encode() + b"\n")
    for part in parts:
        stream.write(part)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    """Receive what ``_send`` sent. Raises EOFError if the stream is closed."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return _from_plain(json.loads(line), stream)


def _plain(value: Any, parts: list[Any]) -> Any:
    """``value`` as JSON allows it; bytes and arrays go into ``parts``, in the order in which they appear."""
    if isinstance(value, bytes):
        parts.append(value)
        return {"bytes": len(value)}
    if isinstance(value, np.ndarray):
        value = np.ascontiguousarray(value)
        parts.append(value.reshape(-1).view(np.uint8).data)
        return {"array": [value.dtype.str, *value.shape]}
    if dataclasses.is_dataclass(value):
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        return {type(value).__name__: _plain(fields, parts)}
    if isinstance(value, dict):
        return {"dict": [[_plain(key, parts), _plain(each, parts)] for key, each in value.items()]}
    if isinstance(value, (tuple, list)):
        return [_plain(each, parts) for each in value]
    assert value is None or isinstance(value, (bool, int, float, str)), type(value)
    return value


def _from_plain(value: Any, stream: IO[bytes]) -> Any:
    """The inverse of ``_plain``; lists become tuples."""
    if isinstance(value, list):
        return tuple(_from_plain(each, stream) for each in value)
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "bytes":
        return _exactly(stream, content)
    if kind == "array":
        dtype, *shape = content
        whole = np.dtype(dtype)
        return np.frombuffer(_exactly(stream, int(np.prod(shape)) * whole.itemsize), whole).reshape(shape)
    if kind == "dict":
        return {_from_plain(key, stream): _from_plain(each, stream) for key, each in content}
    made = {"Picture": Picture, "JpegSource": image.JpegSource, "Layer": Layer}[kind]
    return made(**_from_plain(content, stream))


def _exactly(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data
