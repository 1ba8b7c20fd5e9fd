"""Whether a photograph was kept: a result, by whichever program, held against what it was made from.

found = verify("cup.png", "cup-outpaint.png")           # our own: the file says what had to be kept
found = verify("room.png", "theirs.png", mask="mask.png")
found.identical, found.altered, found.largest
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from photofound import image as images
from photofound.edits import recipe as recipes
from photofound.image import Picture
from photofound.picture.compare import Comparison, compare, locate
from photofound.picture.digest import digest, region_digest, unpack_region


@dataclass(frozen=True)
class Proof:
    """What ``verify`` found.

    Attributes:
        compared: pixel by pixel.
        source: what said which pixels had to be kept: ``mask``, ``subject``, ``recipe``, or ``all`` of them.
        original: whether the first picture is the one that the recipe names; None = there is no recipe.
        as_recorded: whether the kept region of the result still has the digest that its recipe says; None as above.
    """

    compared: Comparison
    source: str
    original: bool | None = None
    as_recorded: bool | None = None

    @property
    def identical(self) -> int:
        return self.compared.identical

    @property
    def altered(self) -> int:
        return self.compared.altered

    @property
    def largest(self) -> int:
        return self.compared.largest


def verify(before: Any, after: Any, mask: Any = None, subject: Any = None, at: tuple[int, int] | None = None) -> Proof:
    """Count the pixels of ``before`` that had to be kept, and are identical in ``after`` or not.

    Without a mask, what had to be kept is what the recipe in ``after`` says, through all edits since ``before``; with
    no recipe either, it is all of ``before``.

    Args:
        before, after: anything that ``Picture.from_any`` takes; ``after`` may be of any program.
        mask: white = repainted, black = had to be kept, grey = free to change; of the size of one of the two.
        subject: in place of a mask: white or opaque = had to be kept.
        at: (x, y) in ``after`` of the first pixel of ``before``; None = as the recipe says, or else where it is found.

    Raises:
        ValueError: an unreadable picture, a mask of another size, pictures of two sizes of which none lies in the
            other. FileNotFoundError: missing file.
    """
    before, after = Picture.from_any(before), Picture.from_any(after)
    if mask is not None and subject is not None:
        raise ValueError("mask, subject: say it in one way; a mask's white is repainted, a subject's white is kept")
    made = recipes.read(after)
    chain = None if made is None else _since(made, before)
    place = at or (chain.at if chain is not None else locate(before, after))
    if mask is not None or subject is not None:
        kept, source = _marked(mask, subject, before, after, place), "subject" if mask is None else "mask"
    elif chain is not None and at is None:
        kept, source = _window(_region(chain.steps, after.size), before.size, place, outside=False), "recipe"
    else:
        kept, source = None, "all"
    original = None if made is None else chain is not None and chain.original
    return Proof(compare(before, after, kept, place), source, original, _is_as_recorded(made, after))


# ---------------------------------------------------------------------------------------------------------- the recipe


@dataclass(frozen=True)
class _Chain:
    """The recipes from a result back to a photograph, the last edit first; ``original``: it is the very picture."""

    steps: list[Mapping[str, Any]]
    original: bool

    @property
    def at(self) -> tuple[int, int]:
        places = [each["kept"]["at"] for each in self.steps]
        return sum(place[0] for place in places), sum(place[1] for place in places)


def _since(made: Mapping[str, Any], before: Picture) -> _Chain | None:
    """The edits since ``before``. If no recipe names it, but the last edit was of a picture of its size, it is taken
    for that one: saved again, perhaps. None where some edit kept nothing in its place."""
    name, steps = digest(before), list[Mapping[str, Any]]()
    for step in _steps(made):
        steps.append(step)
        if step.get("image", {}).get("sha256") == name:
            return _Chain(steps, True) if all("kept" in each for each in steps) else None
    if "kept" in made and recipes.size_of(made.get("image")) == before.size:
        return _Chain([made], False)
    return None


def _steps(made: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    step: Any = made
    while isinstance(step, dict):
        yield step
        step = step.get("image", {}).get("recipe")


def _region(steps: list[Mapping[str, Any]], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of the last result's size: what all of the edits have kept."""
    region, left, top = np.ones(size[::-1], bool), 0, 0
    for step in steps:
        own = unpack_region(step["kept"]["region"], recipes.size_of(step["result"]))
        region &= _window(own, size, (-left, -top), outside=False)
        left, top = left + step["kept"]["at"][0], top + step["kept"]["at"][1]
    return region


def _is_as_recorded(made: Mapping[str, Any] | None, after: Picture) -> bool | None:
    """Whether the kept region has the values that were written down; None if nothing was."""
    kept = None if made is None else made.get("kept")
    if made is None or kept is None:
        return None
    if recipes.size_of(made["result"]) != after.size:
        return False
    return region_digest(after, unpack_region(kept["region"], after.size)) == kept["sha256"]


# ------------------------------------------------------------------------------------------------------------- regions


def _marked(mask: Any, subject: Any, before: Picture, after: Picture, at: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of ``before``'s size: what a mask or a subject says was to be kept."""
    given, name = (subject, "subject") if mask is None else (mask, "mask")
    picture = Picture.from_any(given)
    of_result = picture.size == after.size != before.size
    values = images.load_mask(picture, after.size if of_result else before.size, name, kept=mask is None)
    kept = values == 1 if mask is None else values == 0
    return _window(kept, before.size, at, outside=True) if of_result else kept  # what is not in the result is missing


def _window(region: np.ndarray, size: tuple[int, int], at: tuple[int, int], outside: bool) -> np.ndarray:
    """The part of a region (h, w) that a window of ``size`` (W, H) at ``at`` (x, y) shows, as (H, W) bool; ``outside``:
    what it shows beyond the region."""
    kept = np.full(size[::-1], outside)
    left, top = max(0, at[0]), max(0, at[1])
    part = region[top : max(0, at[1] + size[1]), left : max(0, at[0] + size[0])]
    kept[top - at[1] : top - at[1] + part.shape[0], left - at[0] : left - at[0] + part.shape[1]] = part
    return kept
