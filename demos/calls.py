"""What the page's script asks of the server: each call takes a dictionary from the browser and gives one back.

Whatever comes from a browser may be wrong or hostile: a desk is found by a token that only its visitor knows, files are
those that were uploaded, and inputs are read as a form's are.
"""

from __future__ import annotations

import dataclasses
import traceback
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from photofound import image
from photofound.demos import batch, offers, samples, studio
from photofound.demos.desk import Desk, Desks, Form, Shot
from photofound.demos.marks import layer_url, marked, marks_url, picture_url
from photofound.demos.preview import file_line, kept_preview, looked_at, size_line, subject_alone
from photofound.demos.studio import Studio
from photofound.demos.words import in_words
from photofound.edits import packshot
from photofound.edits.geometry import parse_length
from photofound.edits.inputs import LARGEST_SEED, LEAST_SEED
from photofound.edits.task import Task, get_task
from photofound.errors import EXPECTED
from photofound.image import Picture
from photofound.notices import warnings_to
from photofound.picture import layered

VIEW = 420  # longest side of the picture of what is kept
NO_PHOTOGRAPH = "there is no photograph yet; open one first"
Data = Mapping[str, Any]
Warn = Callable[[str], None]


def answered(handler: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """What the handler gives, with its warnings; or what is wrong in one line. ``handler`` is given ``args`` and
    ``warn``."""
    warnings: list[str] = []
    try:
        answer = handler(*args, warn=lambda line: warnings.append(in_words(line)))
    except studio.Cancelled:
        answer = {"error": "Cancelled."}
    except EXPECTED as error:
        answer = {"error": in_words(error)}
    except Exception:  # a bug, which is told to whoever runs the demo
        traceback.print_exc()
        answer = {"error": "the page has made a mistake; what you have is still there"}
    return answer | {"warnings": warnings}


class Calls:
    """The calls, and the desks that they are about.

    Args:
        uploads: the folder in which Gradio puts what visitors upload; no other file of theirs is read.
    """

    def __init__(self, work: Studio, tasks: list[Task], uploads: Path) -> None:
        self.work, self.uploads = work, uploads
        self.tasks = {task.name: task for task in tasks}
        self.desks = Desks()
        self._progress: dict[str, tuple[float, str]] = {}

    def functions(self) -> list[Callable[[Any], dict[str, Any]]]:
        """Every ``desk_*`` method as a function of what the browser sends, which never raises."""
        return [self._function(name) for name in sorted(dir(self)) if name.startswith("desk_")]

    def _function(self, name: str) -> Callable[[Any], dict[str, Any]]:
        handler = getattr(self, name)

        def function(data):  # type: ignore[no-untyped-def]  # Gradio reads annotations, and knows none of ours
            return answered(handler, data if isinstance(data, dict) else {})

        function.__name__ = name
        return function

    # --------------------------------------------------------------------------------------------------- photographs

    def desk_start(self, data: Data, warn: Warn) -> dict[str, Any]:
        """A visitor comes, or comes back after a reload: then all lies there as it did. For a new one it is the first
        photograph of the shelf, so that every button does something."""
        desk = self.desks.get(data.get("token"))
        if desk is None and offers.shelf():
            desk = self.desks.put(self.work.open(offers.shelf()[0]))
        return state(desk)

    def desk_open(self, data: Data, warn: Warn) -> dict[str, Any]:
        name = Path(str(data.get("name") or "photograph")).name
        return self._opened(data, self.work.read(self.uploaded(data.get("path")), name, warn), Path(name).stem)

    def desk_shelf(self, data: Data, warn: Warn) -> dict[str, Any]:
        path = offers.shelf()[int(data.get("index") or 0)]
        return self._opened(data, image.load(path), path.stem)

    def desk_example(self, data: Data, warn: Warn) -> dict[str, Any]:
        """The photograph of a task's example, with the example's own mask, words and numbers."""
        task = self.task(data)
        sample = offers.sample_of(task)
        if sample is None:
            raise ValueError(f"{task.name} has no example; open a photograph")
        photograph, mask = samples.read(sample)
        answer = self._opened(data, Picture.from_any(photograph), sample.photograph)
        whole = dict(zip(_SIDES, 2 * photograph.size, strict=True))
        sides = {each: parse_length(sample.inputs[each], whole[each], each) for each in _SIDES if each in sample.inputs}
        small = mask and marks_url(np.asarray(mask.resize(studio.preview_size(mask.size)), np.float32) / 255)
        return answer | {
            "prompt": sample.inputs.get("prompt", ""),
            "fields": {name: value for name, value in sample.inputs.items() if name not in ("prompt", *sides)},
            "frame": dict.fromkeys(_SIDES, 0) | sides if sides else None,
            "marks": small and {"change": small},
        }

    def _opened(self, data: Data, picture: Picture, name: str) -> dict[str, Any]:
        desk = self.work.open_picture(picture, name, self.desks.get(data.get("token")))
        return state(self.desks.put(desk))

    def uploaded(self, path: Any) -> Path:
        """A file that was uploaded to this page. Raises ValueError for any other."""
        file = Path(str(path or "")).resolve()
        if not file.is_file() or not file.is_relative_to(self.uploads.resolve()):
            raise ValueError(f"{file.name or 'the file'}: was not uploaded here; choose it again")
        return file

    # ------------------------------------------------------------------------------------------------------- history

    def desk_go(self, data: Data, warn: Warn) -> dict[str, Any]:
        return self._moved(data, lambda desk: desk.at_shot(str(data.get("id"))))

    def desk_undo(self, data: Data, warn: Warn) -> dict[str, Any]:
        return self._moved(data, self.work.undo)

    def desk_redo(self, data: Data, warn: Warn) -> dict[str, Any]:
        return self._moved(data, self.work.redo)

    def _moved(self, data: Data, change: Callable[[Desk], Desk]) -> dict[str, Any]:
        return state(self.desks.update(str(data.get("token")), change))

    # ------------------------------------------------------------------------------------------------ before the run

    def desk_subject(self, data: Data, warn: Warn) -> dict[str, Any]:
        """The task's automatic subject as marks; none where it finds none."""
        desk = self.desk(data)
        found = self.work.cut_out(desk, self.task(data), data.get("inputs") or {})

        def remember(now: Desk) -> Desk:
            id = desk.photo.id
            return now.with_subject(id, found.matte, found.told) if now.holds(id) else now

        self.desks.update(desk.token, remember)
        size = studio.preview_size(desk.photo.picture.size)
        small = None if found.matte is None else studio.resized(found.matte, size)
        return {"id": desk.photo.id, "mask": None if small is None else marks_url(small)}

    def desk_check(self, data: Data, warn: Warn) -> dict[str, Any]:
        """What a run would keep and how large its result becomes, in one line, or why it would fail; with ``view`` as a
        picture, too, and with ``placing`` how a subject lies on its canvas. ``ghost``: the key of the one that the page
        has."""
        desk, task = self.desk(data), self.task(data)
        job, line, answer = None, "", dict[str, Any]()
        desk, form = self._asked(data, desk, task)
        try:
            job = self.work.prepare(desk, task, form.inputs)
            line = size_line(desk, job)
        except ValueError as error:
            line, answer["wrong"] = size_line(desk, None), in_words(error)
        if data.get("view") and job is not None and job.keep.any():
            answer["view"] = picture_url(kept_preview(job, VIEW))
        if data.get("placing") and isinstance(job, packshot.Shot):
            answer["placed"] = placed_shown(job, desk.photo.id, data.get("ghost"))
        return answer | {"line": line}

    def desk_progress(self, data: Data, warn: Warn) -> dict[str, Any]:
        """How far the visitor's run has come; it also says that the visitor is still there."""
        self.desks.get(data.get("token"))
        share, what = self._progress.get(str(data.get("token")), (0.0, ""))
        return {"share": share, "what": what}

    def desk_stop(self, data: Data, warn: Warn) -> dict[str, Any]:
        return {"stopped": self.work.cancel(str(data.get("token")))}

    # ---------------------------------------------------------------------------------------------------------- runs

    def run(self, data: Data, warn: Warn) -> dict[str, Any]:
        """Make what the form asks for; with ``again``, of what the picture was made of; with ``another``, what was
        asked for last, with another seed."""
        desk = self.desks.get(data.get("token"))
        if data.get("another") and desk is not None and desk.asked is not None:
            form, id = desk.asked
            form = dataclasses.replace(form, seed=seed_of(data.get("seed")), variants=1)
            desk = desk if desk.photo.id == id else desk.at_shot(id)
        else:
            task = self.task(data)
            if desk is None and not task.takes_picture:
                desk = self.desks.put(self.work.blank())
            if desk is None:
                raise ValueError(NO_PHOTOGRAPH)
            if task.takes_picture and data.get("id") != desk.photo.id:
                raise ValueError("the photograph was not drawn yet; run again, with what you brush on it")
            start, form = self._asked(data, desk, task)
            if start.photo.id == desk.photo.id and task.takes_picture:
                self._take(data, desk)
            desk = start
        made, _, _ = self.work.run(desk, form, desk.token, self.telling(desk.token), warn)
        now = self.desks.update(desk.token, lambda now: self.work.adopt(now, made))
        return {"what": "run", "token": now.token}

    def _asked(self, data: Data, desk: Desk, task: Task) -> tuple[Desk, Form]:
        """The form, and the desk that it is about: with ``again``, what the picture was made of."""
        form = self.form(data, desk, task)
        if data.get("again") and desk.shot.task == task.name and desk.holds(desk.shot.parent):
            return _once_more(desk, form)
        return desk, form

    def telling(self, token: str) -> Callable[[float, str], None]:
        """For ``Studio.run``: where ``desk_progress`` finds how far it is."""

        def tell(share: float, what: str) -> None:
            self._progress[token] = share, what

        self._progress.pop(token, None)
        return tell

    def batch(self, data: Data, warn: Warn) -> tuple[dict[str, Any], Path]:
        """The form's edit of many uploads: a zip, and what failed."""
        task = self.task(data)
        desk = self.desks.get(data.get("token")) or self.desks.put(self.work.blank())
        sent = data.get("files") or []
        files = [(Path(str(each.get("name"))).name, self.uploaded(each.get("path"))) for each in sent]
        form = self.form({**data, "id": None, "change": None, "keep": None}, desk, task)
        progress = self.telling(desk.token)
        packed, failed = batch.edit_all(self.work, files, form, desk.folder, desk.token, progress)
        line = f"{len(files) - len(failed)} of {len(files)} photographs are done"
        return {"what": "batch", "line": line, "lines": failed, "name": packed.name}, packed

    def load(self, data: Data, warn: Warn) -> dict[str, Any]:
        """Load a model, and say what it is."""
        form = self.form(data, None, self.task(data))
        pipe = self.work.models.pipeline(self.task(data), form.model, form.lora)
        millions, steps = pipe.parameter_count / 1e6, pipe.config.default_steps
        line = f"Loaded: {millions:,.1f} million parameters, {steps} steps unless you say otherwise."
        return {"what": "load", "line": line, "guidance": pipe.config.default_guidance}

    def download(self, data: Data, warn: Warn) -> tuple[dict[str, Any], Path]:
        """The picture before the visitor as a file, and what is to be said about it."""
        desk, format = self.desk(data), data.get("format") or None
        self._take(data, desk)
        with warnings_to(lambda line: None):  # the line below says it
            path = self.work.export(desk, format)
        size = path.stat().st_size
        line = f"{path.name} · {f'{size / 1e6:.1f} MB' if size > 1e5 else f'{size / 1e3:.0f} kB'}"
        if path.suffix in layered.SUFFIXES:
            return {"what": "download", "line": line, "name": path.name}, path
        if lost := image.lost_depth(desk.photo.picture, image.output_format(None, path)):
            line += f". {in_words(lost)}"
        if path.suffix in (".jpg", ".jpeg") or (path.suffix == ".webp" and not desk.photo.picture.lossless):
            line += ". This format rounds every pixel; choose PNG to have the kept ones bit for bit."
        if desk.shot.task:
            line += "".join(f". {fault}" for fault in get_task(desk.shot.task).faults(path, **desk.shot.inputs))
        return {"what": "download", "line": line, "name": path.name}, path

    def _take(self, data: Data, desk: Desk) -> None:
        """What lies there is taken; that is remembered for those who say so."""
        if data.get("learn"):
            taken = self.work.take(desk).taken
            self.desks.update(desk.token, lambda now: dataclasses.replace(now, taken=taken))

    # ---------------------------------------------------------------------------------------------- what is sent here

    def desk(self, data: Data) -> Desk:
        desk = self.desks.get(data.get("token"))
        if desk is None:
            raise ValueError(NO_PHOTOGRAPH)
        return desk

    def task(self, data: Data) -> Task:
        task = self.tasks.get(str(data.get("task")))
        if task is None:
            raise ValueError(f"task: {data.get('task')!r} is not on this page; choose another one")
        return task

    def inputs(self, data: Data, desk: Desk, task: Task) -> dict[str, Any]:
        """The raw inputs of a form: masks as arrays, pictures as paths of uploads. Marks of another photograph than
        the one that lies there are refused."""
        if data.get("id") not in (None, desk.photo.id):
            raise ValueError("the photograph was not drawn yet; run again, with what you brush on it")
        sent = data.get("inputs") or {}
        raw: dict[str, Any] = {}
        for each in studio.declared(task):
            if each.kind == "mask":
                raw[each.name] = marked(data.get("keep" if studio.is_subject(each) else "change"))
            elif each.kind == "image":
                one = sent.get(each.name)
                raw[each.name] = self.uploaded(one.get("path")) if isinstance(one, dict) else None
            else:
                raw[each.name] = sent.get(each.name)
        return raw

    def form(self, data: Data, desk: Desk | None, task: Task) -> Form:
        lora, file = data.get("lora") or None, data.get("lora_file")
        return Form(
            task=task.name,
            inputs=self.inputs(data, desk, task) if desk is not None else {},
            seed=seed_of(data.get("seed")),
            variants=int(data.get("variants") or 1) if task.varies else 1,
            steps=int(data.get("steps") or 0) or None,
            guidance=float(data.get("guidance") or 1),
            best_of=int(data.get("best_of") or 1),
            model=None if data.get("model") is None else str(data["model"]),
            lora=str(self.uploaded(file.get("path"))) if isinstance(file, dict) else lora and str(lora),
            format=data.get("format") or None,
        )


# -------------------------------------------------------------------------------------------------------- what is shown


def state(desk: Desk | None) -> dict[str, Any]:
    """A desk, as the page shows it."""
    if desk is None:
        can = {"undo": False, "redo": False, "another": False}
        empty = {"token": None, "id": None, "size": [0, 0], "picture": None, "before": None}
        return empty | {"strip": [], "report": "", "about": "", "can": can}
    shot, before = desk.shot, _before(desk)
    return {
        "token": desk.token,
        "id": shot.id,
        "size": list(shot.photo.picture.size),
        "about": file_line(shot.photo),
        "report": shot.report,
        "picture": picture_url(studio.preview(shot.photo.picture)),
        "before": None if before is None else picture_url(before),
        "strip": [_entry(each) for each in desk.shots],
        "can": {
            "undo": desk.at > 0,
            "redo": desk.at + 1 < len(desk.trail),
            "another": desk.asked is not None and desk.holds(desk.asked[1]),
        },
    }


def _once_more(desk: Desk, form: Form) -> tuple[Desk, Form]:
    """The form for the picture that this one was made of, with the masks that were asked for then."""
    assert desk.shot.parent is not None
    then = desk.asked[0].inputs if desk.asked and desk.asked[1] == desk.shot.parent else {}
    masks = {each.name: then.get(each.name) for each in studio.declared(get_task(form.task)) if each.kind == "mask"}
    return desk.at_shot(desk.shot.parent), dataclasses.replace(form, inputs=form.inputs | masks)


def _entry(shot: Shot) -> dict[str, Any]:
    width, height = shot.photo.picture.size
    about = f"{width} × {height}"
    thumb = picture_url(shot.thumb, 75)
    return {"id": shot.id, "task": shot.task, "seed": shot.seed, "about": about, "thumb": thumb}


def placed_shown(shot: packshot.Shot, source: str, known: Any) -> dict[str, Any]:
    """A subject on its canvas as the page shows it: the finished picture, and what it draws while the subject is
    dragged: the background, and the subject alone (the ``ghost``), unless the page has that already."""
    look, ground = looked_at(shot)
    pixels, lies = subject_alone(shot)
    key = f"{source}-{zlib.crc32(pixels.tobytes()):x}"
    return {
        "canvas": list(shot.picture.size),
        "scale": shot.placed.scale,
        "box": list(shot.placed.box),
        "look": picture_url(look, 85),
        "ground": None if ground is None else picture_url(ground, 80),
        "ghost": {"key": key, "box": lies, "url": None if key == known else layer_url(pixels)},
    }


def _before(desk: Desk) -> np.ndarray | None:
    """What a result is compared with."""
    shot = desk.shot
    if shot.before is not None or not desk.holds(shot.parent) or not get_task(shot.task).takes_picture:
        return shot.before
    assert shot.parent is not None
    return studio.preview(desk.named(shot.parent).photo.picture)


_SIDES = ("left", "top", "right", "bottom")


def seed_of(value: Any) -> int:
    seed = int(value or 0)
    if not LEAST_SEED <= seed <= LARGEST_SEED - studio.VARIANTS:
        raise ValueError(f"Seed: {seed} has more than 64 bits; give a smaller one")
    return seed
