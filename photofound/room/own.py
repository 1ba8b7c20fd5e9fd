"""Filters of yours: a file ``NAME.py`` in a folder of the environment variable ``PHOTOFOUND_FILTERS``, or an entry
point of the group ``photofound.filters``, that defines ``FILTER``.

    # filters/green.py
    from photofound.room.filters import Measure

    def green(sample):
        return float((sample.pixels[..., 1] > sample.pixels[..., 0]).mean())

    FILTER = Measure("green", version="1", threshold=0.5, keeps="<=", about="share of green pixels", measure=green)

A room only ever has its name, version and threshold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import ModuleType

from photofound import plugins
from photofound.errors import first_line
from photofound.room.filters import Filter, Measure


@cache
def _finders() -> dict[str, Callable[[], ModuleType]]:
    return plugins.finders("filters")


def names() -> list[str]:
    """All that there are."""
    return sorted(_finders())


@cache
def load(name: str) -> Filter:
    """A filter by its name. Raises ValueError of one line for a file that defines none."""
    try:
        found = getattr(_finders()[name](), "FILTER", None)
    except Exception as error:  # whatever a file of somebody raises
        raise ValueError(
            f"filter: the file of {name!r} cannot be loaded ({type(error).__name__}: {first_line(error)})"
        ) from None
    if not isinstance(found, Filter) or found.name != name:
        raise ValueError(f"filter: the file of {name!r} must define FILTER, a Measure or Filter with that name")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"filter: {name!r} names a column; use small letters, digits and _, and begin with a letter")
    number = isinstance(found.threshold, (int, float)) and math.isfinite(found.threshold)
    if not number or found.keeps not in (">=", "<=") or not (isinstance(found.version, str) and found.version):
        raise ValueError(f"filter: {name}: give version a text, threshold a number, and keeps '>=' or '<='")
    return replace(found, strict=True) if isinstance(found, Measure) else found
