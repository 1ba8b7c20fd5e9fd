"""API keys, from a file or the environment."""

from __future__ import annotations

import os
import re
import stat
import time

KEY_BYTES = 2**20
KEY_SECONDS = 10.0


def read_keys(path: str | os.PathLike[str] | None = None, variable: str = "PHOTOFOUND_API_KEY") -> tuple[str, ...]:
    """The API keys in a file, one per line, or the one in an environment variable; empty if there is neither. They are
    never command-line options, which other users of the machine can read.

    A ``#`` at the start of a line or after a space begins a comment. In the variable it is a part of the key.

    The file may be a pipe, as of a shell's ``<(...)``; it must be written within 10 seconds. Raises ValueError for a
    path that is neither, for a file without a key, of more than 1 MiB or not in UTF-8, and for a blank variable.
    """
    if path is None:
        given = os.environ.get(variable, "")
        if given and not given.strip():
            raise ValueError(f"{variable}: is blank; set it to a key, or unset it to do without")
        return (given.strip(),) if given else ()
    try:
        lines = _read_bounded(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8 text; write one API key per line") from None
    keys = tuple(filter(None, (re.split(r"(?:^|\s)#", line.strip(), maxsplit=1)[0].strip() for line in lines)))
    if not keys:
        raise ValueError(f"{path}: holds no API key; write one per line, or leave the file out to let everybody in")
    return keys


def _read_bounded(path: str | os.PathLike[str]) -> bytes:
    """The content of a small file, or of a pipe that is written in time. Raises ValueError for any other path."""
    advice = "name a file with one API key per line"
    if not os.fspath(path):
        raise ValueError(f"--api-key-file: the path is empty; {advice}")
    kind = os.stat(path).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
        raise ValueError(f"{path}: {'is a folder' if stat.S_ISDIR(kind) else 'is not a regular file'}; {advice}")
    deadline = time.monotonic() + KEY_SECONDS
    content = b""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # else opening a pipe waits for its writer
    try:
        while len(content) <= KEY_BYTES:
            try:
                more = os.read(file, KEY_BYTES)
            except BlockingIOError:  # the writer has not written yet
                more = None
            if more:
                content += more
            elif more is not None and (content or stat.S_ISREG(kind)):
                return content
            elif time.monotonic() > deadline:
                raise ValueError(f"{path}: its writer did not finish within {KEY_SECONDS:g} s; {advice}")
            else:
                time.sleep(0.01)
    finally:
        os.close(file)
    raise ValueError(f"{path}: has more than {KEY_BYTES:,} bytes; {advice}")
