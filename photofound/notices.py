"""Warnings for people without a terminal: the client of a server, the visitor of a page."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def warnings_to(notify: Callable[[str], None]) -> Iterator[None]:
    """Within the block, ``notify`` gets every UserWarning of this thread as one line, also a warning that was shown
    before. Warnings of other threads are shown as usual. Blocks of two threads must not overlap."""
    thread = threading.get_ident()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_or_notify(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if category is UserWarning and threading.get_ident() == thread:
                notify(" ".join(str(message).split()))
            else:
                show(message, category, *rest, **more)

        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show_or_notify
        yield
