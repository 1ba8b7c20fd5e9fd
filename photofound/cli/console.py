"""Lines, progress bars and warnings for people, on streams that may fail.

Printing never decides whether an edit succeeds.
"""

from __future__ import annotations

import codecs
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO, TypeVar

from photofound.errors import one_line

Item = TypeVar("Item")


def print_line(line: str, file: Any = None) -> None:
    """Print without tearing a progress bar."""
    from tqdm import tqdm

    tqdm.write(line, file=file)


def say(line: str) -> None:
    """Print one line on stderr."""
    print_line(f"photofound: {line}", sys.stderr)


def quiet_imports() -> None:
    """Where torchao is installed, diffusers imports it, and both log what nobody at a command line can do anything
    about: kernels of other GPUs, classes of older versions."""
    for name in ("torchao", "torch.utils._pytree", "diffusers.quantizers"):
        logging.getLogger(name).setLevel(logging.ERROR)


def progress_bar(items: Iterable[Item], quiet: bool) -> Iterable[Item]:
    """The same items, with a bar on stderr if that is a terminal."""
    from tqdm import tqdm

    return tqdm(items, unit="file", disable=quiet or not sys.stderr.isatty())


def first_sentence(error: BaseException) -> str:
    """The first sentence of an error's message. What torch and the Hub add to it is for programmers."""
    return re.split(r"\.\s|\n|\.$|\s\(", str(error))[0]


# -------------------------------------------------------------------------------------------------------------- streams


@contextmanager
def safe_streams() -> Iterator[None]:
    """Within the block, printing raises nothing: neither a character that stdout cannot encode, nor a closed pipe."""
    given = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    with ExitStack() as after:
        for name, stream in given.items():
            after.callback(setattr, sys, name, stream)
            if stream is None or stream.closed:
                stream = open(os.devnull, "w", encoding="utf-8")
            if isinstance(stream, TextIOWrapper):  # a notebook or a test has streams of its own
                after.callback(stream.reconfigure, errors=stream.errors, line_buffering=stream.line_buffering)
                stream.reconfigure(errors="photofound", line_buffering=True)
            setattr(sys, name, _SafeStream(stream))
            after.callback(getattr(sys, name).flush)
        yield


class _SafeStream:
    """A standard stream that drops what it cannot write.

    Its reader may have gone (``| head``), its disk may be full, or there may be no stream (a service, ``>&-``). After
    the first failure it writes to /dev/null, so that flushing its buffer at exit does not fail again.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, call: Callable[..., Any], *args: Any) -> None:
        try:
            call(*args)
        except BrokenPipeError:  # the reader has seen enough
            self._discard()
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self._discard()
            if self is sys.stdout:
                say(f"warning: what follows cannot be printed any more ({one_line(error)})")

    def _discard(self) -> None:
        """From now on, write to /dev/null."""
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _replace_unencodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """A codec's error handler. The bytes of a file name that is not UTF-8 are printed as they are, so that other
    programs find the file; any other character is printed as its number."""
    assert isinstance(error, UnicodeEncodeError)  # the stream is written to
    bytewise = not error.encoding.startswith(("utf-16", "utf-32", "utf_16", "utf_32"))
    try:
        return codecs.lookup_error("surrogateescape" if bytewise else "backslashreplace")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


codecs.register_error("photofound", _replace_unencodable)


# ------------------------------------------------------------------------------------------------------------- warnings


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Within the block, each warning is one line on stderr, once, without code. Those for developers are not shown."""
    shown = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        line = " ".join(str(message).split())
        if line not in shown:
            shown.add(line)
            say(f"warning: {line}")

    with warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        yield


@contextmanager
def warnings_about(photograph: Path) -> Iterator[None]:
    """Within the block, each warning names the photograph, and is shown once."""
    show, shown = warnings.showwarning, set()

    def show_with_name(message: Warning | str, *rest: Any, **more: Any) -> None:
        text = str(message)
        if text not in shown:
            shown.add(text)
            show(text if str(photograph) in text else f"{photograph}: {text}", *rest, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)  # Python shows a warning once; each photograph has its own
        warnings.showwarning = show_with_name
        yield
