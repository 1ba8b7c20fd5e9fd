"""Segmenters: what one is, what it may be told, and how it is asked.

search = Search(segmenter, "the left shoe")      # from a name: photofound.segmenters
matte = search(picture.rgb())                    # (H, W) float32 in [0, 1], 1 = subject
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

POINT = r"[0-9]{1,6}(\.[0-9]{1,6})?%?,[0-9]{1,6}(\.[0-9]{1,6})?%?(,[01])?"
"""A place as it is typed: ``320,240`` in pixels or ``50%,40%`` of the picture; ``,0`` behind it: not the subject."""
MOST_POINTS = 64
OWN = ("cutout", "grabcut")
"""Segmenters that load nothing and take nothing from elsewhere: the checkpoint's own head, and GrabCut."""


class Point(NamedTuple):
    """A place in a picture, in pixels from its left upper corner, and whether the subject is there."""

    x: float
    y: float
    inside: bool = True


class Find(Protocol):
    """What a segmenter does. A function of yours may leave out ``text`` and ``points``."""

    def __call__(self, picture: np.ndarray, *, text: str = "", points: Sequence[Point] = ()) -> np.ndarray:
        """The subject's matte.

        Args:
            picture: (H, W, 3) uint8 sRGB.
            text: the subject in words; empty = not said.
            points: places on the subject, and beside it.

        Returns:
            (H, W) float in [0, 1], or bool; 1 = subject. All zeros where nothing is found.
        """


class NothingFound(ValueError):
    """A segmenter has found nothing in a picture."""


@dataclass(frozen=True)
class Segmenter:
    """Something that finds subjects.

    Attributes:
        name: as people type it.
        find: does it.
        takes: which of ``text`` and ``points`` it can be told.
        outline: long side in pixels at which an edit refines the outline that it finds; 0 = it is used as it is.
        fine: whether its soft edge is to be trusted; if not, a cut-out makes one of its own (``matting.refine``).
    """

    name: str
    find: Find
    takes: frozenset[str] = frozenset()
    outline: int = 0
    fine: bool = False


def of_function(function: Any, name: str) -> Segmenter:
    """A function from a picture to a matte as a segmenter. It is told what its parameters ask for (``Find``)."""
    parameters = inspect.signature(function).parameters
    takes = frozenset(each for each in ("text", "points") if each in parameters)
    return Segmenter(name, function, takes, fine=True)


def grabcut() -> Segmenter:
    """GrabCut, which wants a product on a calm background (``masks.grabcut``)."""
    from photofound.edits import masks

    return Segmenter("grabcut", lambda picture, **_: masks.grabcut(picture.astype(np.float32) / 255))


@dataclass(frozen=True)
class Search:
    """A segmenter and what it is told about the subject.

    Attributes:
        text: the subject in words; empty = not said.
        points: as they are typed, or a sequence of (x, y) or (x, y, inside); see ``places``.
    """

    segmenter: Segmenter
    text: str = ""
    points: Any = ()

    def __post_init__(self) -> None:
        given = {"text": bool(self.text.strip()), "points": _some(self.points)}
        for name, told in given.items():
            if told and name not in self.segmenter.takes:
                means = "words" if name == "text" else "points"
                who = f"{self.segmenter.name} takes no {means}"
                raise ValueError(f"subject_{name}: {who}; leave it out, or name a segmenter that does")

    @property
    def fine(self) -> bool:
        """Whether the soft edge of what it finds is to be trusted."""
        return self.segmenter.fine

    @property
    def takes_shadows(self) -> bool:
        """Whether it takes a shadow on a plain ground for a part of the subject, as GrabCut does."""
        return self.segmenter.name == "grabcut"

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """The subject's matte, (H, W) float32 in [0, 1], its outline refined at the segmenter's size.

        Args:
            rgb: (H, W, 3) float32 in [0, 1].

        Raises NothingFound where the segmenter finds nothing, ValueError for a function that gives no matte.
        """
        matte = self.rough(rgb)
        if self.segmenter.fine or not self.segmenter.outline:
            return matte
        from photofound.edits import matting

        return matting.refine(rgb, matte, self.segmenter.outline, soft=False)

    def rough(self, rgb: np.ndarray) -> np.ndarray:
        """The same before its outline is refined, for who refines it at a size of their own."""
        height, width = rgb.shape[:2]
        told: dict[str, Any] = {"text": self.text.strip(), "points": places(self.points, (width, height))}
        told = {name: value for name, value in told.items() if name in self.segmenter.takes}
        found = self.segmenter.find(np.rint(rgb * 255).astype(np.uint8), **told)
        matte = self._checked(found, (height, width))
        if not (matte > 0.5).any() and self.segmenter.name not in OWN:  # of these masks.cut_out says it
            what = repr(self.text.strip()) if self.text.strip() else "subject"
            advice = "say it in other words, point at it, or pass subject=MASK"
            raise NothingFound(f"segmenter: {self.segmenter.name} found no {what} in the picture; {advice}")
        if self.segmenter.fine:  # networks come close to 0 and 1, and do not reach them; what is kept is to be exact
            return ((matte - 0.02) / 0.96).clip(0, 1)
        return matte

    def _checked(self, found: Any, shape: tuple[int, int]) -> np.ndarray:
        matte = np.asarray(found)
        matte = matte[..., 0] if matte.ndim == 3 and matte.shape[2] == 1 else matte
        who = f"segmenter: {self.segmenter.name}"
        if matte.shape != shape:
            raise ValueError(f"{who} gave an array of shape {matte.shape}; it must give a matte of {shape}")
        if matte.dtype.kind not in "fb":
            raise ValueError(f"{who} gave {matte.dtype}; it must give floats from 0 to 1, or booleans")
        matte = matte.astype(np.float32)
        if not (np.isfinite(matte).all() and matte.min() >= -1e-3 and matte.max() <= 1 + 1e-3):
            raise ValueError(f"{who} gave values from {matte.min():.3g} to {matte.max():.3g}; a matte is from 0 to 1")
        return matte.clip(0, 1)


def places(points: Any, size: tuple[int, int]) -> tuple[Point, ...]:
    """Points within a picture of ``size`` (width, height).

    Args:
        points: text like ``"320,240 10%,90%,0"``, one (x, y) or (x, y, inside), or a sequence of them, in pixels.

    Raises ValueError for what is no point, for points outside the picture, and where none lies on the subject.
    """
    if not _some(points):
        return ()
    rows = _typed(points, size) if isinstance(points, str) else _numbers(points)
    if len(rows) > MOST_POINTS:
        raise ValueError(f"subject_points: got {len(rows)}; give {MOST_POINTS} at most")
    found = tuple(Point(float(row[0]), float(row[1]), bool(row[2]) if len(row) > 2 else True) for row in rows)
    for x, y, _ in found:
        if not (0 <= x <= size[0] and 0 <= y <= size[1]):
            raise ValueError(f"subject_points: {x:g},{y:g} lies outside the picture, which is {size[0]}x{size[1]}")
    if not any(point.inside for point in found):
        raise ValueError("subject_points: none lies on the subject; give one without ',0' behind it")
    return found


def is_points(value: Any) -> bool:
    """Whether a list or tuple is one picture's points: a pair of numbers (or three), or a sequence of such."""
    return _is_point(value) or (isinstance(value, (list, tuple)) and bool(value) and all(map(_is_point, value)))


def _is_point(value: Any) -> bool:
    plain = isinstance(value, (list, tuple, np.ndarray)) and len(value) in (2, 3)
    return plain and all(isinstance(each, (int, float, np.number, np.bool_)) for each in value)


def _some(points: Any) -> bool:
    return points is not None and (bool(points.strip()) if isinstance(points, str) else len(points) > 0)


def _typed(text: str, size: tuple[int, int]) -> list[list[float]]:
    words = re.split(r"[\s;]+", text.strip())
    for word in words:
        if not re.fullmatch(POINT, word):
            raise ValueError(f"subject_points: {word!r} is no point; write X,Y in pixels or per cent, like 320,240")
    rows = [word.split(",") for word in words]
    return [[_pixels(row[0], size[0]), _pixels(row[1], size[1]), *map(float, row[2:])] for row in rows]


def _pixels(text: str, length: int) -> float:
    return float(text[:-1]) / 100 * length if text.endswith("%") else float(text)


def _numbers(points: Any) -> list[Any]:
    rows = [points] if _is_point(points) else list(points)
    for row in rows:
        if not _is_point(row):
            raise ValueError(f"subject_points: {row!r} is no point; give (x, y), or (x, y, inside), in pixels")
    return rows
