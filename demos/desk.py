"""What lies before a visitor of the demo: a photograph, what was made of it, and who may come back to it."""

from __future__ import annotations

import dataclasses
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from photofound.demos.preview import preview
from photofound.image import Picture

SHOTS = 40  # pictures in the history
HISTORY = 2 << 30  # bytes that these may take on disk, for each visitor; beyond it the oldest are forgotten
SUBJECTS = 3  # pictures whose automatic subjects are kept in memory
THUMB = 96  # longest side of a picture in the strip of history
LINGER = 3600.0  # seconds that a desk waits for a visitor who does not come back
DESKS = 200  # at most; beyond it the one that was left longest ago goes


@dataclass(frozen=True)
class Form:
    """What the page's widgets hold when Run is pressed. ``inputs`` are the task's, by name; None = left out.
    ``Studio.request`` makes a Request of it."""

    task: str
    inputs: dict[str, Any]
    seed: int = 0
    variants: int = 1
    steps: int | None = None
    guidance: float | None = None
    best_of: int = 1
    model: str | None = None  # the one that the demo was started with
    lora: str | None = None
    format: str | None = None  # of the download; the photograph's own


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph or a result, with its pixels in a file of the visitor's folder, so that memory stays free."""

    picture: Picture
    name: str  # of the download, without suffix
    file: Path

    @property
    def id(self) -> str:
        """Tells this photograph from every other, also from one of the same name."""
        return self.file.stem


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture of the history: what was opened, or what an edit made.

    Attributes:
        parent: id of the photograph that it was made of; None for what was opened.
        report: one line about the run.
        before: (h, w, 3) uint8, what a result of another size is compared with; None = its parent, or nothing.
        generated: whether a model has painted a part of it.
        format: Pillow's name of the format that the edit's settings ask for; None = the photograph's.
        inputs: what was asked for in words, for rules that a file is held to (``Task.faults``).
        form: what it was asked for by, with its own seed; its layers are made again by that.
    """

    photo: Photo
    parent: str | None = None
    task: str = ""
    seed: int = 0
    report: str = ""
    before: np.ndarray | None = None
    generated: bool = False
    format: str | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    form: Form | None = None

    @property
    def id(self) -> str:
        return self.photo.id

    @cached_property
    def thumb(self) -> np.ndarray:
        """(h, w, 3) uint8, for the strip of history."""
        return preview(self.photo.picture, THUMB)


@dataclass(frozen=True)
class Desk:
    """What lies before one visitor. Immutable: every step gives a new one.

    Attributes:
        folder: the visitor's own; holds everything below and is removed when they leave.
        shots: the strip of history, in the order in which the pictures were made. The first is what was opened.
        trail: ids of the pictures that were looked at, one after the other; ``at`` is where on it the visitor is now.
            Undo and redo walk along it.
        subjects: the automatic subjects of the pictures that were looked at last, by their ids: (H, W) float32 in
            [0, 1], or None where there is none, and what found it and what that was told.
        taken: ids of the pictures that the visitor downloaded or edited further.
        asked: what was asked for last, and the id of the picture that it was asked of: for another try.
    """

    folder: Path
    shots: tuple[Shot, ...]
    trail: tuple[str, ...]
    at: int = 0
    subjects: Mapping[str, tuple[np.ndarray | None, tuple[Any, ...]]] = field(default_factory=dict)
    taken: frozenset[str] = frozenset()
    asked: tuple[Form, str] | None = None

    @property
    def token(self) -> str:
        """The desk's name, which only its visitor knows."""
        return self.folder.name

    @property
    def shot(self) -> Shot:
        """The picture that lies there now; the next edit starts from it."""
        return self.named(self.trail[self.at])

    @property
    def photo(self) -> Photo:
        return self.shot.photo

    @property
    def matte(self) -> np.ndarray | None:
        """The automatic subject of the picture that lies there, once it was looked for and found."""
        return self.subjects[self.shot.id][0] if self.shot.id in self.subjects else None

    @property
    def told(self) -> tuple[Any, ...]:
        """What found that subject, and what it was told."""
        return self.subjects[self.shot.id][1] if self.shot.id in self.subjects else (None, None, None)

    def with_subject(self, id: str, matte: np.ndarray | None, told: tuple[Any, ...]) -> Desk:
        """The desk with the subject of one of its pictures, and those that were found before, but for old ones."""
        others = [each for each in self.subjects.items() if each[0] != id][1 - SUBJECTS :]
        return dataclasses.replace(self, subjects=dict(others) | {id: (matte, told)})

    def named(self, id: str) -> Shot:
        """Raises ValueError for a picture that is not there any more."""
        for shot in self.shots:
            if shot.id == id:
                return shot
        raise ValueError("this picture is not in the history any more; choose another one")

    def holds(self, id: str | None) -> bool:
        return any(shot.id == id for shot in self.shots)

    def at_shot(self, id: str) -> Desk:
        """The desk with another picture of the history before the visitor; what was undone is no longer redone."""
        trail = (*self.trail[: self.at + 1], self.named(id).id)
        return dataclasses.replace(self, trail=trail, at=len(trail) - 1)


class Desks:
    """The desks of all visitors, by their tokens, in memory. All methods may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._desks: dict[str, tuple[Desk, float]] = {}
        self._lock = threading.RLock()
        self._clock = clock

    def get(self, token: Any) -> Desk | None:
        """The desk, which is then not forgotten for another while; None where it was, or for a token that is none."""
        with self._lock:
            self._sweep()
            found = self._desks.get(token) if isinstance(token, str) else None
            if found is not None:
                self._desks[token] = found[0], self._clock()
            return found[0] if found else None

    def put(self, desk: Desk) -> Desk:
        with self._lock:
            self._desks[desk.token] = desk, self._clock()
            self._sweep()
        return desk

    def update(self, token: str, change: Callable[[Desk], Desk]) -> Desk:
        """Change the desk as it is now. ``change`` must be quick: others wait."""
        with self._lock:
            desk = self.get(token)
            if desk is None:
                raise ValueError("there is no photograph yet; open one first")
            return self.put(change(desk))

    def _sweep(self) -> None:
        """Forget the desks that were left, with their files."""
        late = self._clock() - LINGER
        left = sorted(self._desks.items(), key=lambda each: each[1][1])
        for i, (token, (desk, when)) in enumerate(left):
            if when < late or len(left) - i > DESKS:
                del self._desks[token]
                shutil.rmtree(desk.folder, ignore_errors=True)


def stored(folder: Path, picture: Picture, name: str) -> Photo:
    """The picture with its pixels in a file, from where they are read when they are needed."""
    file = folder / f"{secrets.token_hex(8)}.npy"
    np.save(file, picture.pixels)
    pixels = np.asarray(np.load(file, mmap_mode="r"))
    return Photo(dataclasses.replace(picture, pixels=pixels), name, file)


def pruned(desk: Desk) -> Desk:
    """The desk, with no longer a history than ``HISTORY`` and ``SHOTS`` allow, after removing the files that it no
    longer needs. What was opened, what lies there and what that was made of are kept."""
    kept = {desk.shots[0].id, desk.shot.id, desk.shot.parent, desk.asked[1] if desk.asked else None}
    old = [shot for shot in desk.shots if shot.id not in kept]
    while old and (len(desk.shots) > SHOTS or sum(each.photo.picture.pixels.nbytes for each in desk.shots) > HISTORY):
        gone, now = old.pop(0), desk.at
        now -= desk.trail[:now].count(gone.id)
        trail = tuple(id for id in desk.trail if id != gone.id)
        desk = dataclasses.replace(
            desk, shots=tuple(shot for shot in desk.shots if shot is not gone), trail=trail, at=now
        )
    needed = {shot.photo.file for shot in desk.shots}
    for file in desk.folder.glob("*.npy"):
        if file not in needed:
            file.unlink(missing_ok=True)
    return desk
