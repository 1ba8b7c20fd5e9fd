"""Filters of photographs by name: each gives a score, a threshold says which scores are kept.

    for each in (MEASURES["sharpness"], judge("alignment", "openai/clip-vit-base-patch32")):
        scores = each.scores(samples)          # (N,) float32, NaN where it cannot say
        kept = each.kept(scores)               # (N,) bool

``Sample`` is what a filter sees: the file, its pixels, and its captions. A filter can be sent to other processes; a
network is loaded when it is first asked, once in each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from photofound import image
from photofound.data.table import SCORE, worded
from photofound.errors import first_line
from photofound.room import letters, measures
from photofound.room.describe import pixels_of

SIDE = 512
"""Short side, at most, of the pixels that filters see."""
CAPTIONS = ("caption", "caption_dense", "caption_short")


class Sample:
    """A photograph as filters see it. What is made of its file is made when it is first asked for, and once.

    Args:
        file: as the room holds it.
        captions: column -> text; empty ones are left out.
    """

    def __init__(self, file: bytes, captions: Mapping[str, str | None] | None = None) -> None:
        self.file = file
        self.captions = {name: text for name, text in (captions or {}).items() if text and text.strip()}
        self.features: dict[str, Any] = {}  # what networks that several filters share have made of it

    @property
    def caption(self) -> str:
        """Its source's own, else by a captioner; "" for none."""
        return next((self.captions[name] for name in CAPTIONS if name in self.captions), "")

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height of the file, upright."""
        return image.upright_size(self.file)

    @cached_property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8, upright, in sRGB, transparent parts on white; short side at most ``SIDE``."""
        return pixels_of(self.file, SIDE)

    @cached_property
    def grey(self) -> np.ndarray:
        """(H, W) float32 in [0, 1]."""
        return measures.grey(self.pixels)

    @cached_property
    def things(self) -> np.ndarray:
        """(N, 3) uint8: the pixels that are no plain ground."""
        return measures.things(self.pixels)


@dataclass(frozen=True)
class Filter:
    """A filter: a score for each photograph, and which scores are kept.

    Attributes:
        name: letters and underscores; the room's column is ``score_NAME``.
        version: changes whenever the same photograph would get another score; of a network it has its id.
        threshold: where it keeps and drops.
        keeps: ``>=``: at least the threshold is kept; ``<=``: at most.
        about: what the score is, in a line.
        needs: which photographs it can judge, in SQL over the room's columns; empty = all.
    """

    name: str
    version: str
    threshold: float
    keeps: str
    about: str
    needs: str = ""

    def scores(self, samples: Sequence[Sample]) -> np.ndarray:
        """(N,) float32, in the samples' order; NaN for one that it cannot judge. Never raises for a damaged file."""
        raise NotImplementedError

    def load(self) -> None:
        """Load what it needs, once in a process; it is done by the first ``scores``, too. Raises FileNotFoundError or
        ValueError where that cannot be had."""

    def kept(self, scores: np.ndarray) -> np.ndarray:
        """(N,) bool: which scores are on the good side of the threshold; NaN is not."""
        return scores >= self.threshold if self.keeps == ">=" else scores <= self.threshold

    @property
    def column(self) -> str:
        return SCORE + self.name

    @property
    def condition(self) -> str:
        """What is kept, in SQL."""
        return f"{self.column} {self.keeps} {self.threshold:g}"

    @property
    def passes(self) -> str:
        """What is not dropped, in SQL: what is kept, and what it cannot judge for want of what it ``needs``."""
        return f"({self.condition} OR NOT {self.needs})" if self.needs else self.condition

    @property
    def spec(self) -> str:
        """What ``parse`` makes it of again, without its threshold."""
        return self.name

    @property
    def metadata(self) -> dict[str, str]:
        """What stands with the column: the filter, its version, its threshold."""
        said = {"filter": self.spec, "version": self.version, "threshold": f"{self.threshold:g}", "keeps": self.keeps}
        return said | ({"needs": self.needs} if self.needs else {})


@dataclass(frozen=True)
class Measure(Filter):
    """A filter that looks at one photograph after the other, without a network.

    Attributes:
        measure: a photograph to its score; NaN where it cannot judge.
        strict: raise what ``measure`` raises of a whole photograph, as a ValueError of one line.
    """

    measure: Callable[[Sample], float] = lambda sample: math.nan
    strict: bool = False

    def scores(self, samples: Sequence[Sample]) -> np.ndarray:
        return np.array([self._one(sample) for sample in samples], np.float32)

    def _one(self, sample: Sample) -> float:
        try:
            return self.measure(sample)
        except Exception as error:  # a damaged file, whatever its decoder raises
            if self.strict and is_whole(sample):
                raise ValueError(f"filter: {self.name}: {type(error).__name__}: {first_line(error)}") from None
            return math.nan


def is_whole(sample: Sample) -> bool:
    """Whether a photograph can be decoded."""
    try:
        return bool(sample.pixels.size)
    except Exception:  # a damaged file, whatever its decoder raises
        return False


def _resolution(sample: Sample) -> float:
    return float(min(sample.size))


def _aspect(sample: Sample) -> float:
    return max(sample.size) / min(sample.size)


def _sharpness(sample: Sample) -> float:
    return measures.sharpness(sample.grey)


def _exposure(sample: Sample) -> float:
    return measures.exposure(sample.pixels, sample.things)


def _jpeg(sample: Sample) -> float:
    return measures.jpeg_quality(sample.file)


def _blocks(sample: Sample) -> float:
    return measures.blocks(sample.grey)


def _graphics(sample: Sample) -> float:
    return measures.graphics(sample.things)


def _text(sample: Sample) -> float:
    return letters.text(sample.grey)


def _borders(sample: Sample) -> float:
    return measures.borders(sample.pixels)


def _caption(sample: Sample) -> float:
    return measures.caption_quality(sample.caption) if sample.caption else math.nan


CAPTIONED = "(" + " OR ".join(map(worded, CAPTIONS)) + ")"
MEASURES: dict[str, Measure] = {
    each.name: each
    for each in (
        Measure("resolution", "1", 256, ">=", "short side of the file in pixels", "", _resolution),
        Measure("aspect", "1", 3, "<=", "long side over short side", "", _aspect),
        Measure("sharpness", "1", 0.4, ">=", "share of an edge's height between two pixels", "", _sharpness),
        Measure(
            "exposure", "2", 0.75, ">=", "share of pixels that are not burnt out; less of dark ones", "", _exposure
        ),
        Measure("jpeg", "1", 60, ">=", "quality that a JPEG was written with; others: 100", "", _jpeg),
        Measure("blocks", "1", 1.75, "<=", "steps at every eighth line: a JPEG of low quality once", "", _blocks),
        Measure("graphics", "1", 0.3, "<=", "share of the 16 most frequent colours: drawings", "", _graphics),
        Measure("text", "1", 0.9, "<=", "how likely it bears a line of text: captions, dates, watermarks", "", _text),
        Measure("borders", "1", 0.005, "<=", "share of the picture that is a frame", "", _borders),
        Measure("caption", "1", 0.5, ">=", "whether the caption says something", CAPTIONED, _caption),
    )
}
"""The filters without a network."""
