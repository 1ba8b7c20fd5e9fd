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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from photofound import choices, image
from photofound.demos.desk import Desk as Desk
from photofound.demos.desk import Form as Form
from photofound.demos.desk import Photo as Photo
from photofound.demos.desk import Shot as Shot
from photofound.demos.desk import pruned, stored
from photofound.demos.marks import Marks
from photofound.demos.models import Models as Models
from photofound.demos.preview import kept_preview as kept_preview
from photofound.demos.preview import preview as preview
from photofound.demos.preview import preview_size as preview_size
from photofound.demos.preview import resized as resized
from photofound.edits.inputs import SUBJECT_INPUTS, Input
from photofound.edits.request import Request
from photofound.edits.task import Job, Task, get_task, offered
from photofound.image import Picture
from photofound.notices import warnings_to
from photofound.picture import layered, layers, provenance
from photofound.picture.layers import Layer
from photofound.serve.workers import Files

READ_SECONDS = 15.0  # that reading a picture may take
VARIANTS = 6  # at most, in one run
LONGEST = 2000  # characters of a text
FORMATS = (
    "PNG",
    "TIFF",
    "WEBP",
    "JPEG",
    *layered.MIME,
)  # that a result can be downloaded as, besides the photograph's own
SHORT_OF_ALIKE = 0.25  # how far a mask may differ after its way through the browser and still be the same


class Cancelled(Exception):
    """The visitor stopped the run, or left."""


class Studio:
    """The work behind the page. One model runs at a time; a visitor's desk is changed by that visitor alone.

    Args:
        folder: of the demo's own; every visitor gets a folder in it.
        max_pixels: largest photograph, before and after the edit.
        files: processes in which visitors' pictures are read; None = here, which is for pictures of one's own.
        choices: folder in which is kept which variants visitors took (``photofound.choices``), or None.
    """

    def __init__(
        self,
        folder: Path,
        models: Models,
        max_pixels: int = 40_000_000,
        files: Files | None = None,
        choices: Path | None = None,
    ) -> None:
        self.folder, self.models, self.max_pixels, self.files = folder, models, max_pixels, files
        self.choices = choices
        self._model = threading.Lock()  # a scheduler knows one run at a time
        self._running: dict[str, threading.Event] = {}

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
        return self.open_picture(self.read(path, None, warn), name or Path(path).stem, desk)

    def read(self, path: str | Path, name: str | None = None, warn: Callable[[str], None] | None = None) -> Picture:
        """An upload. Its place on this machine is nobody's business, in messages neither."""
        data, name = Path(path).read_bytes(), name or Path(path).name
        if self.files is None:
            return image.decode(data, name, self.max_pixels)
        return self.files.read(data, name, self.max_pixels, READ_SECONDS, warn=warn)

    def open_picture(self, picture: Picture, name: str, desk: Desk | None = None) -> Desk:
        if desk is None:
            folder = self.folder / secrets.token_hex(16)
            folder.mkdir(parents=True)
        else:
            folder = desk.folder
        name = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80] or "photograph"
        shot = Shot(stored(folder, picture, name))
        return pruned(Desk(folder, (shot,), (shot.id,)))

    def blank(self) -> Desk:
        """A desk for a visitor who makes a picture from nothing."""
        return self.open_picture(Picture(np.full((512, 512, 3), 255, np.uint8)), "picture")

    def undo(self, desk: Desk) -> Desk:
        """The picture that lay there before."""
        if not desk.at:
            raise ValueError("there is nothing to undo; this is the photograph that you opened")
        return dataclasses.replace(desk, at=desk.at - 1)

    def redo(self, desk: Desk) -> Desk:
        """The picture that lay there before ``undo``."""
        if desk.at + 1 == len(desk.trail):
            raise ValueError("there is nothing to redo; this is the newest picture")
        return dataclasses.replace(desk, at=desk.at + 1)

    def adopt(self, desk: Desk, made: Desk) -> Desk:
        """The desk with the results of ``made``, which ``run`` gave, the first of them before the visitor. Raises
        ValueError where another photograph was opened meanwhile."""
        assert made.asked is not None
        if not desk.holds(made.asked[1]):
            pruned(desk)
            raise ValueError("the photograph was changed during the run, so its result was dropped; run it again")
        new = tuple(shot for shot in made.shots if not desk.holds(shot.id) and shot.parent == made.asked[1])
        desk = dataclasses.replace(desk, shots=(*desk.shots, *new), asked=made.asked)
        return pruned(desk.at_shot(new[0].id))

    def take(self, desk: Desk) -> Desk:
        """The visitor takes the picture that lies there: to keep it, or to edit it further. So it is better than the
        other variants of its edit that were not taken; that is written down, where the demo keeps choices."""
        taken = desk.taken | {desk.shot.id}
        if self.choices is not None:
            alike = [shot for shot in desk.shots if choices.same_edit(shot.photo.picture, desk.photo.picture)]
            good, rest = (
                [shot.photo.picture for shot in alike if (shot.id in taken) == side] for side in (True, False)
            )
            if good and rest:
                choices.record(self.choices, good, rest)
        return dataclasses.replace(desk, taken=taken)

    def close(self, desk: Desk | None) -> None:
        """Remove what a visitor leaves behind."""
        if desk is not None:
            shutil.rmtree(desk.folder, ignore_errors=True)

    def export(self, desk: Desk, format: str | None = None) -> Path:
        """The picture before the visitor as a file that says what it is (``photofound.picture.provenance``): in the
        photograph's own format, or another. Of ``ORA`` and ``PSD`` its layers, which are made again."""
        picture, folder = desk.photo.picture, desk.folder / "download"
        folder.mkdir(exist_ok=True)
        if format in layered.MIME:
            path = folder / f"{desk.photo.name}.{format.lower()}"
            stack = self._layers(desk)
            flat = layers.flatten(stack)
            flat = _marked(dataclasses.replace(flat, recipe=picture.recipe), desk.shot)
            return layered.save(stack, flat, path, overwrite=True)
        format = _format(picture, format or desk.shot.format)
        path = folder / f"{desk.photo.name}{image.suffix_of(format)}"
        return image.save(_marked(picture, desk.shot), path, format, overwrite=True)

    def _layers(self, desk: Desk) -> list[Layer]:
        """The layers of the picture before the visitor, by the edit that it was made by. Raises ValueError for one
        that has none."""
        shot = desk.shot
        task = get_task(shot.task) if shot.form is not None else None
        if task is None or not task.has_layers:
            raise ValueError("layers: this picture has none; choose PNG, or an edit that lays one thing on another")
        assert shot.form is not None and shot.parent is not None
        if shot.form.best_of and shot.form.best_of > 1:
            raise ValueError("layers: the best of several results has none; choose PNG, or make one result")
        before = desk.at_shot(shot.parent)
        if any(map(is_subject, declared(task))):
            before = self.cut_out(before, task, shot.form.inputs)
        request = self.request(before, shot.form)
        with self._model:
            pipe = self.models.pipeline(task, shot.form.model, shot.form.lora)
            job = self._job(before, task, request.inputs)
            return list(pipe.layers(job, request.generator(), *pipe.settings(request)))

    # -------------------------------------------------------------------------------------------------------- masks

    def cut_out(self, desk: Desk, task: Task, raw: Mapping[str, Any] | None = None) -> Desk:
        """The desk with the photograph's subject as the task would find it; without one where there is none. ``raw``
        may say what finds it, or what it is, as for ``inputs``."""
        from photofound.edits.subject import matte_of

        wanted = {each.name: (raw or {}).get(each.name) for each in SUBJECT_INPUTS}
        told = _told(self.inputs(desk, task, wanted))
        if desk.matte is not None and told == desk.told:
            return desk
        try:
            matte = matte_of(desk.photo.picture, None, self.models.pipeline(task).search(*told))
        except ValueError:
            if any(told):
                raise
            matte = None
        return desk.with_subject(desk.shot.id, matte, told)

    def inputs(self, desk: Desk, task: Task, raw: dict[str, Any]) -> dict[str, Any]:
        """What the widgets hold as arguments of the task; what is empty is left out.

        Masks come as (h, w) float32 in [0, 1] of the preview's size or None, images as paths; both also as pictures,
        which are taken as they are. All else comes as it is written, or as a number.
        """
        found = {}
        for each in declared(task):
            value: Any = raw.get(each.name)
            value = value.mask() if isinstance(value, Marks) else value
            if isinstance(value, Picture):
                found[each.name] = value
                continue
            if value is None or value == "" if not isinstance(value, np.ndarray) else not value.any():
                continue
            if each.kind == "mask":
                value = self._mask(desk, each, value)
            elif each.kind == "image":
                value = self.read(value)
            elif each.kind == "segmenter" and value not in self.models.segmenters:
                raise ValueError(f"segmenter: {str(value)[:40]!r} is not offered here; choose one of the list")
            elif each.kind != "flag" or not isinstance(value, bool):
                value = each.parse(_no_file(each.name, str(value).strip()[:LONGEST]))
            if value is not None:
                found[each.name] = value
        return found

    def _mask(self, desk: Desk, each: Input, painted: np.ndarray) -> np.ndarray | None:
        """A brushed mask at the photograph's own size. A subject that was not touched is left to the task; of one that
        was, only what was brushed differs from the automatic one, whose edge stays as fine as it was."""
        size = desk.photo.picture.size
        automatic = desk.matte if is_subject(each) else None
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
        best_of = form.best_of if get_task(form.task).keeps else None
        steps, guidance = (form.steps, form.guidance) if get_task(form.task).samples else (None, None)
        return Request(form.task, picture, inputs, form.seed, steps, guidance, best_of=best_of)

    def prepare(self, desk: Desk, task: Task, raw: dict[str, Any]) -> Job:
        """The job that a run would do. Raises ValueError where something is still missing, or wrong."""
        return self._job(desk, task, self.inputs(desk, task, raw))

    def _job(self, desk: Desk, task: Task, inputs: Mapping[str, Any]) -> Job:
        """What the pipeline would prepare. A model is needed for a subject alone, if none was found before."""
        if task.wants_segmenter:
            inputs = {**inputs, "segment": self._segment(desk, task, inputs)}
        picture = desk.photo.picture if task.takes_picture else None
        return task.prepare(picture, **task.with_defaults(inputs))

    def _segment(self, desk: Desk, task: Task, inputs: Mapping[str, Any]) -> Any:
        """How the subject is found: as it was before, else as the visitor says, or as the model does by itself."""
        told, shown = _told(inputs), any(map(is_subject, declared(task)))
        matte = desk.matte if shown and told == desk.told else None
        if matte is not None:
            return lambda rgb: matte
        return self.models.pipeline(task).search(*told)

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

        given = {name: Marks(v) if isinstance(v, np.ndarray) else v for name, v in form.inputs.items()}
        form = dataclasses.replace(form, inputs=given)  # what the history keeps
        results: list[Picture] = []
        seconds = 0.0
        progress(0, "waiting for the model")
        with self.stoppable(visitor) as stop, self._model, warnings_to(on_warning):
            job = self._job(desk, task, request.inputs)  # what is wrong is told before the model is loaded
            image.check_fit(
                desk.photo.picture,
                _format(job.picture, _flat(form.format) or task.result_format(**request.inputs)),
                job.picture.size,
            )
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
                (result,) = pipe.run([job], [request.generator(made)], *settings, on_step, request.best_of)
                asked = dataclasses.replace(request, seed=(request.seed or 0) + made)
                results.append(pipe.with_recipe(result, asked, job))
            seconds = time.perf_counter() - start
        progress(1 - 1 / (form.variants * (steps + 1) + 1), "saving")
        if not task.takes_picture:
            results = [provenance.mark(result, whole=True) for result in results]
        start_from, report_line = desk.shot, _report(results[0], seconds / form.variants)
        other = task.takes_picture and results[0].size != desk.photo.picture.size
        before = kept_preview(job) if other else None
        shots = [
            Shot(
                stored(desk.folder, result, f"{desk.photo.name}-{task.name}"),
                start_from.id,
                task.name,
                form.seed + i,
                report_line,
                before,
                (task.generates and result.generated) or (start_from.generated and task.takes_picture),
                task.result_format(**request.inputs),
                {name: value for name, value in request.inputs.items() if isinstance(value, str)},
                dataclasses.replace(form, seed=form.seed + i, variants=1),
            )
            for i, result in enumerate(results)
        ]
        desk = dataclasses.replace(desk, shots=(*desk.shots, *shots), asked=(form, start_from.id))
        return desk.at_shot(shots[0].id), report_line, warned

    @contextmanager
    def stoppable(self, visitor: str) -> Iterator[threading.Event]:
        """What ``cancel(visitor)`` sets, until the block ends; inside another such block it is the outer one's."""
        outer = self._running.get(visitor)
        if outer is not None:
            yield outer
            return
        stop = self._running[visitor] = threading.Event()
        try:
            yield stop
        finally:
            self._running.pop(visitor, None)

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


def _no_file(name: str, text: str) -> str:
    """The text, unless it could be taken for the name of a file of this machine, as some inputs are in Python."""
    if Path(text).suffix.lower() in (*image.READABLE_SUFFIXES, ".yaml", ".yml"):
        raise ValueError(f"{name}: {text[:40]!r} names a file, and none of this server is read; upload it instead")
    return text


def _told(inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    """What finds the subject, and what it was told of it."""
    return tuple(inputs.get(each.name) for each in SUBJECT_INPUTS)


def is_subject(each: Input) -> bool:
    """Whether a mask marks what is kept, and can be found without the visitor; every other one marks what goes."""
    return each.kind == "mask" and each.name == "subject" and not each.required


# ---------------------------------------------------------------------------------------------------------------- files


def _marked(picture: Picture, shot: Shot) -> Picture:
    """A result as its file is to be: with its recipe, and the mark of what a model has painted."""
    return provenance.mark(picture, generated=shot.generated) if shot.task else picture


def _flat(asked: str | None) -> str | None:
    """The format of the flat picture, where layers are asked for, which is none in particular."""
    return None if asked in layered.MIME else asked


def _format(picture: Picture, asked: str | None) -> str:
    """Of the download: what was asked for, else the picture's own where that holds it."""
    return image.output_format(picture, None, asked, alpha=picture.has_alpha and asked is None)


def _report(result: Picture, seconds: float) -> str:
    """One line about a run; ``seconds`` of each result."""
    note = f" · {result.note}" if result.note else ""
    return f"{seconds:.1f} s · {result.width} × {result.height}{note}"
