"""Warnings for whoever asked for the work, where that is nobody at a terminal: a client, a visitor of a page."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def heard(tell: Callable[[str], None]) -> Iterator[None]:
    """Within the block ``tell`` gets what this thread warns users of, line by line, however often it was said before.
    What other threads warn of goes its own way. Blocks of two threads must not overlap."""
    here = threading.get_ident()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def hear(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if category is UserWarning and threading.get_ident() == here:
                tell(" ".join(str(message).split()))
            else:
                show(message, category, *rest, **more)

        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = hear
        yield
