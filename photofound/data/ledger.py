"""Damaged samples: each is named in the log and left out; too many of them end the run. Files that are not read are
named, too."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

logger = logging.getLogger(__name__)

DAMAGED = 0.01  # a larger share of damaged samples ends the run
DAMAGED_COLUMN = "__damaged__"  # of a row that cannot be read, which says why
T = TypeVar("T")


class Ledger:
    """Counts samples and the damaged ones, names each of these in the log, and ends a run that meets too many."""

    def __init__(self, log: Path | None = None) -> None:
        self.log, self.seen, self.damaged = log, 0, 0
        self._last = ""

    def skip(self, name: str, reason: object) -> None:
        """Note a damaged sample."""
        self.damaged += 1
        what = error_text(reason).removeprefix(f"{name}: ")
        self._last = " ".join(f"{name[:300]} ({what[:300]})".split())  # names come from foreign files: one short line
        logger.warning("data: skipped %s", self._last)
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8") as file:
                file.write(self._last + "\n")

    def check(self, least: int = 1000) -> None:
        """Raise ValueError when more than 1 % are damaged, of ``least`` samples or more."""
        if self.damaged > DAMAGED * max(self.seen, least):
            raise ValueError(
                f"data: {self.damaged} of {self.seen} samples are damaged, more than {DAMAGED:.0%}; the last is "
                f"{self._last}; drop them with 'photofound train prepare'"
            )


def error_text(error: object) -> str:
    """The text of an error, with its kind where the text alone is not clear."""
    if not isinstance(error, Exception) or (isinstance(error, (ValueError, OSError)) and str(error)):
        return str(error)
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def without_damaged(found: Sequence[T | tuple[str, Exception]]) -> list[T]:
    """A collection without its damaged samples, which are (name, error) each; they are counted and named in the log.

    Raises ValueError when more than 1 % of it are damaged.
    """
    ledger = Ledger()
    ledger.seen = len(found)
    for damaged in found:
        if isinstance(damaged, tuple):
            ledger.skip(*damaged)
    ledger.check(least=1)
    return [each for each in found if not isinstance(each, tuple)]


def warn_passed_over(where: str | Path, names: Sequence[str], why: str = "") -> None:
    """One line in the log; the same one once, not in every epoch."""
    if names:
        rest = f", {len(names) - 3} more" if len(names) > 3 else ""
        warn_once(f"data: {where}: passed over {', '.join(names[:3])}{rest}" + (f" ({why})" if why else ""))


@lru_cache(maxsize=1000)
def warn_once(line: str) -> None:
    """A warning that is given once, although the same is met in every epoch."""
    logger.warning("%s", line)


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and of those in it, sorted; nothing that is hidden."""
    found: list[Path] = []
    for top, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(top, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())
