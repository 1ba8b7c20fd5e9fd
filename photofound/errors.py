"""What an error says, in one line: for a terminal, a page, or the message of another error."""

from __future__ import annotations

# Raised for bad input, a full disk, too little memory or a missing package. Anything else is a bug: a traceback shows.
EXPECTED = (ValueError, OSError, ImportError, RuntimeError, MemoryError)
_LONGEST = 300  # characters of another library's message inside one of ours


def first_line(error: BaseException) -> str:
    """The first line of the message, at most 300 characters; the name of the error's class where there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:_LONGEST]


def one_line(error: BaseException) -> str:
    """The whole message without line breaks; the system's own errors as "path: reason"."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
