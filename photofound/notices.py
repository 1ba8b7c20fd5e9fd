"""What is told and what is not: warnings for people without a terminal, idle lines of libraries."""

from __future__ import annotations

import logging
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


# What libraries log when they are imported beside torchao or without torchvision, and what nobody has to mind.
_IDLE = {
    "torchao": "Failed to load",
    "torch.utils._pytree": "is an Enum subclass",
    "diffusers.quantizers.torchao.torchao_quantizer": "Unable to import `torchao`",
    "transformers.utils.import_utils": "requires torchvision (not installed); falling back",
}


def leave_out_idle_lines() -> None:
    """Keep these lines from everybody: diffusers imports torchao where it is installed, wanted or not, and asks
    transformers for readers of pictures that are made without torchvision, too."""
    for name, words in _IDLE.items():
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Without) for each in logger.filters):
            logger.addFilter(_Without(words))


class _Without(logging.Filter):
    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return self._words not in record.getMessage()
