"""What the demo does, without a browser: photographs, masks, models and runs. ``app.py`` puts widgets on it.

A visitor's photograph never passes through the browser's canvas: the browser is shown a preview and sends back brush
strokes, and the edit runs on the file that was uploaded. That is why kept pixels are exact in what is downloaded.
"""

from __future__ import annotations

import dataclasses
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from photofound import image
from photofound.demos.models import Models as Models
from photofound.demos.preview import PREVIEW as PREVIEW
from photofound.demos.preview import file_line as file_line
from photofound.demos.preview import kept_preview as kept_preview
from photofound.demos.preview import preview as preview
from photofound.demos.preview import preview_size as preview_size
from photofound.demos.preview import resized as resized
from photofound.demos.preview import size_line as size_line
from photofound.edits.request import Request
from photofound.edits.task import SUBJECT_INPUTS, WRITTEN, Input, Job, Task, get_task, offered
from photofound.image import Picture
from photofound.notices import warnings_to
from photofound.picture import provenance
from photofound.serve.workers import Files

READ_SECONDS = 15.0  # that reading a picture may take
UNDO = 10  # steps back, and forth again
HISTORY = 2 << 30  # bytes that these may take on disk, for each visitor; beyond it the farthest are forgotten
VARIANTS = 6  # at most, in one run
REPAINT, KEEP = (236, 72, 153), (20, 184, 166)  # colours of the two brushes
FORMATS = ("PNG", "TIFF", "WEBP", "JPEG")  # that a result can be downloaded as, besides the photograph's own
CANVAS_KINDS = ("length", "aspect", "size")  # three ways to say how large the canvas becomes; one at a time
SHORT_OF_ALIKE = 0.25  # how far a mask may differ after its way through the browser and still be the same


class Cancelled(Exception):
    """The visitor stopped the run, or left."""


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


@dataclass(frozen=True)
class Desk:
    """What lies before one visitor. Immutable: every step gives a new one.

    Attributes:
        folder: the visitor's own; holds everything below and is removed when they leave.
        photo: what the next edit starts from.
        undo: the desk as it was before, with its results, the newest last; ``redo``: as it was after, the newest first.
        mattes: for each task with a subject the automatic one, (H, W) float32 in [0, 1]; a task without is missing.
        results: of the last run, one per variant; ``chosen`` is the index of the one that is looked at.
        seed: of the first result; the others have the following ones.
        report: one line about the run.
        before: (h, w, 3) uint8, the photograph as it is compared with the results; None as long as there are none.
    """

    folder: Path
    photo: Photo
    undo: tuple[Desk, ...] = ()
    redo: tuple[Desk, ...] = ()
    mattes: dict[str, np.ndarray] = field(default_factory=dict)
    results: tuple[Photo, ...] = ()
    chosen: int = 0
    seed: int = 0
    report: str = ""
    before: np.ndarray | None = None

    @property
    def photos(self) -> set[Photo]:
        """All that is kept in files."""
        return {self.photo, *self.results}.union(*(each.photos for each in (*self.undo, *self.redo)))

    def without_history(self) -> Desk:
        """What is remembered of it: no past of its own, and no mattes, which are large and can be found again."""
        return dataclasses.replace(self, undo=(), redo=(), mattes={})

    @property
    def result(self) -> Photo | None:
        return self.results[self.chosen] if self.results else None


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
    model: str | None = None  # the one that the demo was started with
    lora: str | None = None
    format: str | None = None  # of the download; the photograph's own


class Studio:
    """The work behind the page. One model runs at a time; a visitor's desk is changed by that visitor alone.

    Args:
        folder: of the demo's own; every visitor gets a folder in it.
        max_pixels: largest photograph, before and after the edit.
        files: processes in which visitors' pictures are read; None = here, which is for pictures of one's own.
    """

    def __init__(self, folder: Path, models: Models, max_pixels: int = 40_000_000, files: Files | None = None) -> None:
        self.folder, self.models, self.max_pixels, self.files = folder, models, max_pixels, files
        self._model = threading.Lock()  # a scheduler knows one run at a time
        self._running: dict[str, threading.Event] = {}
        self._found: tuple[Any, np.ndarray] | None = None  # the last subject that a visitor described, and by what

    # --------------------------------------------------------------------------------------------------- photographs

    def open(
        self,
        path: str | Path,
        desk: Desk | None = None,
        name: str | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Desk:
        """A desk with this file on it; the visitor's folder is kept, what was done before is forgotten. ``warn`` gets
        what is lost in reading it, where that is done in another process."""
        return self.open_picture(self._read(path, warn), name or Path(path).stem, desk)

    def _read(self, path: str | Path, warn: Callable[[str], None] | None = None) -> Picture:
        """An upload. Its place on this machine is nobody's business, in messages neither."""
        data, name = Path(path).read_bytes(), Path(path).name
        if self.files is None:
            return image.decode(data, name, self.max_pixels)
        return self.files.read(data, name, self.max_pixels, READ_SECONDS, warn=warn)

    def open_picture(self, picture: Picture, name: str, desk: Desk | None = None) -> Desk:
        if desk is None:
            folder = self.folder / secrets.token_hex(8)
            folder.mkdir(parents=True)
        else:
            folder = desk.folder
        name = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80] or "photograph"
        return _pruned(Desk(folder, _stored(folder, picture, name)))

    def blank(self) -> Desk:
        """A desk for a visitor who makes a picture from nothing."""
        return self.open_picture(Picture(np.full((512, 512, 3), 255, np.uint8)), "picture")

    def use_result(self, desk: Desk) -> Desk:
        """The chosen result becomes the photograph, so that edits chain."""
        if desk.result is None:
            raise ValueError("there is no result yet; run an edit first")
        return _pruned(Desk(desk.folder, desk.result, (*desk.undo, desk.without_history())[-UNDO:]))

    def undo(self, desk: Desk) -> Desk:
        """The photograph, and the results made of it, as they were before a result was taken over."""
        if not desk.undo:
            raise ValueError("there is nothing to undo; this is the photograph that you opened")
        past = dataclasses.replace(desk.undo[-1], undo=desk.undo[:-1], redo=(desk.without_history(), *desk.redo)[:UNDO])
        return _pruned(past)

    def redo(self, desk: Desk) -> Desk:
        """The photograph and its results as they were before ``undo``."""
        if not desk.redo:
            raise ValueError("there is nothing to redo; this is the newest photograph")
        return _pruned(dataclasses.replace(desk.redo[0], undo=(*desk.undo, desk.without_history()), redo=desk.redo[1:]))

    def adopt(self, desk: Desk, made: Desk) -> Desk:
        """The desk with the results of ``made``, which ``run`` gave. Raises ValueError where another photograph was
        opened meanwhile."""
        if made.photo.id != desk.photo.id:
            _pruned(desk)
            raise ValueError("the photograph was changed during the run, so its result was dropped; run it again")
        names = ("results", "chosen", "seed", "report", "before")
        return _pruned(dataclasses.replace(desk, **{name: getattr(made, name) for name in names}))

    def close(self, desk: Desk | None) -> None:
        """Remove what a visitor leaves behind."""
        if desk is not None:
            shutil.rmtree(desk.folder, ignore_errors=True)

    def export(self, desk: Desk, format: str | None = None) -> Path:
        """The chosen result as a file that says what it is (``photofound.picture.provenance``): in the photograph's own
        format, or another."""
        if desk.result is None:
            raise ValueError("there is no result yet; run an edit first")
        picture, folder = desk.result.picture, desk.folder / "download"
        folder.mkdir(exist_ok=True)
        format = _format(picture, format)
        path = folder / f"{desk.result.name}{image.suffix_of(format)}"
        return image.save(provenance.mark(picture), path, format, overwrite=True)

    # -------------------------------------------------------------------------------------------------------- masks

    def cut_out(self, desk: Desk, task: Task) -> Desk:
        """The desk with the task's automatic subject; without one where none is found."""
        try:
            matte = self.models.pipeline(task).prepare(desk.photo.picture).keep
        except ValueError:
            return dataclasses.replace(desk, mattes={k: v for k, v in desk.mattes.items() if k != task.name})
        return dataclasses.replace(desk, mattes=desk.mattes | {task.name: matte})

    def inputs(self, desk: Desk, task: Task, raw: dict[str, Any]) -> dict[str, Any]:
        """What the widgets hold as arguments of the task; what is empty is left out.

        Masks come as (h, w) float32 in [0, 1] of the preview's size or None, images as paths, lengths as per cent.
        """
        found = {}
        for each in declared(task):
            value: Any = raw.get(each.name)
            if value is None or value == "" if not isinstance(value, np.ndarray) else not value.any():
                continue
            if each.kind == "mask":
                value = self._mask(desk, task, each, value)
            elif each.kind == "image":
                value = self._read(value)
            elif each.kind == "length":
                value = f"{value:g}%"
            elif each.kind == "int":
                value = int(value)
            elif each.kind == "segmenter" and value not in self.models.segmenters:
                raise ValueError(f"segmenter: {value!r} is not offered here; choose one of the list")
            elif each.kind in WRITTEN and isinstance(value, str):
                value = each.parse(value.strip())
            if value is not None:
                found[each.name] = value
        return found

    def _mask(self, desk: Desk, task: Task, each: Input, painted: np.ndarray) -> np.ndarray | None:
        """A brushed mask at the photograph's own size. A subject that was not touched is left to the task; of one that
        was, only what was brushed differs from the automatic one, whose edge stays as fine as it was."""
        size = desk.photo.picture.size
        automatic = desk.mattes.get(task.name) if is_subject(each) else None
        if automatic is None:
            return (resized(painted, size) > 0.5).astype(np.float32)
        changed = np.abs(painted - resized(automatic, painted.shape[::-1])) > SHORT_OF_ALIKE
        if not changed.any():
            return None
        touched = resized(changed.astype(np.float32), size) > 0.5
        return np.where(touched, resized(painted, size) > 0.5, automatic).astype(np.float32)

    def request(self, desk: Desk, form: Form) -> Request:
        """What the page asks for. Raises ValueError for widgets that hold what cannot be."""
        if not 1 <= form.variants <= VARIANTS:
            raise ValueError(f"variants: {form.variants} is not possible; give 1 to {VARIANTS}")
        inputs = self.inputs(desk, get_task(form.task), form.inputs)
        picture = desk.photo.picture if get_task(form.task).takes_picture else None
        return Request(form.task, picture, inputs, form.seed, form.steps, form.guidance)

    def prepare(self, desk: Desk, task: Task, raw: dict[str, Any]) -> Job | None:
        """The job that a run would do; None where something is still missing."""
        try:
            return self._job(desk, task, self.inputs(desk, task, raw))
        except ValueError:
            return None

    def _job(self, desk: Desk, task: Task, inputs: Mapping[str, Any]) -> Job:
        """What the pipeline would prepare, without a model: a subject that was found before is not looked for again."""
        if task.wants_segmenter:
            inputs = {**inputs, "segment": self._segment(desk, task, inputs)}
        picture = desk.photo.picture if task.takes_picture else None
        return task.prepare(picture, **task.with_defaults(inputs))

    def _segment(self, desk: Desk, task: Task, inputs: Mapping[str, Any]) -> Any:
        """How the subject is found: as the visitor says, else as it was before; None = as the model does by itself."""
        told = [inputs.get(each.name) for each in SUBJECT_INPUTS]
        shown = any(map(is_subject, declared(task)))
        if not any(told):
            matte = desk.mattes.get(task.name) if shown else None
            return None if matte is None else lambda rgb: matte
        search = self.models.pipeline(task).search(*told)
        key = (desk.photo.id, *map(str, told))

        def find(rgb: np.ndarray) -> np.ndarray:
            """What was found last is not looked for again: every change of the page asks for a preview."""
            if self._found is None or self._found[0] != key:
                self._found = key, search(rgb)
            return self._found[1]

        return find if shown else search

    # ---------------------------------------------------------------------------------------------------------- runs

    def run(
        self,
        desk: Desk,
        form: Form,
        visitor: str = "",
        progress: Callable[[float, str], None] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> tuple[Desk, str, list[str]]:
        """Make the variants: a desk with the results, one line about them, and warnings. Variant i has seed + i.

        ``warn`` is told the warnings, too, those that are known before the work then. What the page has shown as kept
        is what all variants are made of: it is prepared once.

        Raises ValueError for what cannot be edited, Cancelled after ``cancel(visitor)``.
        """
        progress = progress or (lambda share, what: None)
        task, request = get_task(form.task), self.request(desk, form)
        warned: list[str] = []
        stop = self._running[visitor] = threading.Event()

        made = steps_done = 0

        def report(what: str) -> None:
            """A share for each step, one for the decoding behind them, and one for saving all."""
            which = f"variant {made + 1} of {form.variants}, " if form.variants > 1 else ""
            done = made * (steps + 1) + min(steps_done, steps)
            progress(done / (form.variants * (steps + 1) + 1), which + what)

        def on_warning(line: str) -> None:
            if line not in warned:
                warned.append(line)
                if warn is not None:
                    warn(line)

        def on_step(_: Any, __: int, ___: Any, values: dict[str, Any]) -> dict[str, Any]:
            nonlocal steps_done
            if stop.is_set():
                raise Cancelled
            steps_done += 1
            step = (
                f"step {steps_done} of {steps}" if steps_done <= steps else f"part {steps_done}"
            )  # large pictures go part by part
            report(step if steps_done < steps else f"{step}, decoding")
            return values

        results: list[Picture] = []
        seconds = 0.0
        progress(0, "waiting for the model")
        try:
            with self._model, warnings_to(on_warning):
                job = self._job(desk, task, request.inputs)  # what is wrong is told before the model is loaded
                image.check_fit(desk.photo.picture, _format(job.picture, form.format), job.picture.size)
                pipe = self.models.pipeline(task, form.model, form.lora)
                settings = pipe.settings(request)
                steps = max(1, settings[0])
                if unread := pipe.unread(request.inputs.get("prompt")):
                    on_warning(unread)
                start = time.perf_counter()
                for made in range(form.variants):
                    if stop.is_set():
                        raise Cancelled
                    steps_done = 0
                    (result,) = pipe.run([job], [request.generator(made)], *settings, on_step)
                    asked = dataclasses.replace(request, seed=(request.seed or 0) + made)
                    results.append(pipe.with_recipe(result, asked, job))
                seconds = time.perf_counter() - start
        finally:
            self._running.pop(visitor, None)
        progress(1 - 1 / (form.variants * (steps + 1) + 1), "saving")
        if not task.takes_picture:
            results = [provenance.mark(result, whole=True) for result in results]
        photos = [_stored(desk.folder, result, f"{desk.photo.name}-{task.name}") for result in results]
        same = task.takes_picture and results[0].size == desk.photo.picture.size
        before = preview(desk.photo.picture) if same else kept_preview(job)
        desk = dataclasses.replace(desk, results=tuple(photos), chosen=0, seed=form.seed, before=before)
        desk = dataclasses.replace(desk, report=self._report(desk, seconds, form.variants))
        return desk, desk.report, warned

    def _report(self, desk: Desk, seconds: float, variants: int) -> str:
        size = desk.results[0].picture.size
        each = f", {seconds / variants:.1f} s each" if variants > 1 else ""
        note = desk.results[0].picture.note
        return f"**{seconds:.1f} s**{each} · {size[0]} × {size[1]}" + (f" · {note}" if note else "")

    def cancel(self, visitor: str = "") -> bool:
        """Stop the visitor's run after the step that it is in; False where none is running."""
        stop = self._running.get(visitor)
        if stop is not None:
            stop.set()
        return stop is not None

    def cancel_all(self) -> None:
        """Stop every run after the step that it is in."""
        for stop in list(self._running.values()):
            stop.set()


# -------------------------------------------------------------------------------------------------------- what is shown


def declared(task: Task) -> list[Input]:
    """The task's inputs that a page offers, required ones first, then masks."""
    return sorted(offered(task), key=lambda each: (not each.required, each.kind != "mask"))


def is_subject(each: Input) -> bool:
    """Whether a mask marks what is kept, and can be found without the visitor; every other one marks what goes."""
    return each.kind == "mask" and each.name == "subject" and not each.required


# ---------------------------------------------------------------------------------------------------------------- files


def _format(picture: Picture, asked: str | None) -> str:
    """Of the download: what was asked for, else the picture's own where that holds it."""
    return image.output_format(picture, None, asked, alpha=picture.has_alpha and asked is None)


def _stored(folder: Path, picture: Picture, name: str) -> Photo:
    """The picture with its pixels in a file, from where they are read when they are needed."""
    file = folder / f"{secrets.token_hex(8)}.npy"
    np.save(file, picture.pixels)
    pixels = np.asarray(np.load(file, mmap_mode="r"))
    return Photo(dataclasses.replace(picture, pixels=pixels), name, file)


def _pruned(desk: Desk) -> Desk:
    """The desk, with no longer a past than ``HISTORY`` allows, after removing the files that it no longer needs."""
    while len(desk.undo) + len(desk.redo) > 0 and sum(each.picture.pixels.nbytes for each in desk.photos) > HISTORY:
        if len(desk.redo) > len(desk.undo):
            desk = dataclasses.replace(desk, redo=desk.redo[:-1])
        else:
            desk = dataclasses.replace(desk, undo=desk.undo[1:])
    needed = {photo.file for photo in desk.photos}
    for file in desk.folder.glob("*.npy"):
        if file not in needed:
            file.unlink(missing_ok=True)
    return desk
