"""What the page offers, as the browser needs it: tasks with their fields, sample photographs, backgrounds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from photofound.demos import samples, studio
from photofound.demos.marks import picture_url
from photofound.edits import presets
from photofound.edits.inputs import SUBJECT_INPUTS, WRITTEN, Input
from photofound.edits.task import Task, get_task
from photofound.errors import one_line
from photofound.image import READABLE_SUFFIXES, Picture
from photofound.serve.form import EXAMPLES

TITLES = {  # what the trade calls a task; the order of the bar, in which further tasks follow
    "packshot": "Packshot",
    "outpaint": "New background",
    "erase": "Remove",
    "inpaint": "Retouch",
    "expand": "Resize",
    "upscale": "Enlarge",
    "cutout": "Cut out",
    "generate": "Create",
    "edit": "Instruct",
}
LABELS = {  # of inputs whose names say little to those who do not program
    "at": "Centre",
    "backdrop": "Your own background",
    "dpi": "DPI",
    "effects": "Shadow, too",
    "reference_box": "What is placed",
    "grow": "Widen the mark",
}
KINDS = ("image", "mask", "text", "int", "flag", *WRITTEN)  # of inputs that a page can ask for
SHELF = ("coffee.png", "astronaut.png", "rocket.jpg", "chelsea.png", "motorcycle_left.png", "camera.png")
BACKGROUNDS = (  # name, as words of a prompt, as a background: what is drawn well without a large model
    ("White", "plain white studio background", "#ffffff"),
    ("Light grey", "light grey studio backdrop", "sweep:#d8d8d6"),
    ("Wood", "on a wooden table", "wood"),
    ("Walnut", "on a walnut table", "wood:#5c3e2b"),
    ("Marble", "on a marble table", "marble"),
    ("Black marble", "on black marble", "marble:black"),
    ("Linen", "on linen", "linen"),
    ("Concrete", "on concrete", "concrete"),
    ("Red cloth", "on a red cloth", "cloth:red"),
    ("Grass", "on grass", "grass"),
)


def tasks_for(names: Sequence[str]) -> list[Task]:
    """The tasks in the order of the bar. One that cannot be loaded, or asks for what no field can give, is named on
    stderr and left out."""
    tasks, order = [], list(TITLES)
    for name in sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name)):
        try:
            task = get_task(name)
            for each in studio.declared(task):
                if each.kind not in KINDS:
                    raise ValueError(f"input {each.name!r} has kind {each.kind!r}; use {', '.join(KINDS)}")
            tasks.append(task)
        except Exception as error:  # anything can be wrong with a file that somebody dropped in
            print(f"photofound: task {name!r} is not on the page: {one_line(error)}", file=sys.stderr)
    return tasks


def described(task: Task, segmenters: Sequence[str] = ()) -> dict[str, Any]:
    """What ``bench.js`` knows of a task. ``segmenters``: what may find a subject, beside the model's own way, which can
    be told nothing.

    The prompt has its place in the bar, masks and the frame are on the canvas; the ``fields`` are what remains.
    """
    declared = [each for each in studio.declared(task) if segmenters or each not in SUBJECT_INPUTS]
    masks = [each for each in declared if each.kind == "mask"]
    changes = next((each for each in masks if not studio.is_subject(each)), None)
    prompt = next((each for each in declared if each.name == "prompt"), None)
    sides = [each for each in declared if each.kind == "length" and each.name in ("left", "right", "top", "bottom")]
    framed, places = len(sides) == 4, _places(task)
    placed = {"prompt", *(each.name for each in masks)} | ({"at"} if places else set())
    placed |= (
        {each.name for each in (*sides, *(each for each in declared if each.kind == "aspect"))} if framed else set()
    )
    sample = sample_of(task)
    return {
        "name": task.name,
        "title": TITLES.get(task.name, _label(task.name)),
        "summary": task.summary[:1].upper() + task.summary[1:],
        "picture": task.takes_picture,
        "changes": None if changes is None else "required" if changes.required else "possible",
        "keeps": any(map(studio.is_subject, masks)),
        "prompt": prompt and {"help": prompt.help, "required": task.instructs or not task.takes_picture},
        "places": places,
        "judged": task.keeps,
        "samples": task.samples,
        "varies": task.varies,
        "frame": [_described(task, each) for each in sides] if framed else None,
        "fields": [_described(task, each, segmenters) for each in declared if each.name not in placed],
        "gallery": task.name == "outpaint",
        "example": sample.caption if sample else None,
        "batch": task.takes_picture and not any(each.required and each.kind == "mask" for each in declared),
    }


def _described(task: Task, each: Input, segmenters: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "name": each.name,
        "label": _label(each.name),
        "kind": each.kind,
        "help": each.help[:1].upper() + each.help[1:],
        "default": each.default,
        "choices": _choices(each, segmenters),
        "within": each.within,
        "titles": {name: presets.load(name).title for name in presets.names()} if each.kind == "preset" else {},
        "example": EXAMPLES.get(each.kind, ""),
        "finds": each in SUBJECT_INPUTS,
        "folded": is_folded(task, each),
    }


def _places(task: Task) -> bool:
    """Whether a subject is placed by dragging, on a background that is known before the run."""
    return not task.needs_network and {"canvas", "at", "fit", "enlarge"} <= {each.name for each in task.inputs}


def _choices(each: Input, segmenters: Sequence[str]) -> list[Any]:
    """The only values there are on this page; none where any of the kind will do."""
    if each.kind == "preset":
        return presets.names()
    return list(segmenters if each.kind == "segmenter" else each.choices)


def _label(name: str) -> str:
    return LABELS.get(name) or name.removesuffix("_image").replace("_", " ").capitalize()


def is_folded(task: Task, each: Input) -> bool:
    """Whether an input is for the few who look for it: as the task says, or else what it can do without and says no
    default of."""
    usual = not each.required and each.default is None and each.kind in ("int", "size")
    return each.name in task.rare or each in SUBJECT_INPUTS or (usual and not task.rare)


@cache
def shelf() -> list[Path]:
    """The sample photographs, where they lie in scikit-image's wheel; none without it."""
    try:
        import skimage.data
    except ImportError:
        return []
    folder = Path(skimage.data.__file__).parent
    return [folder / name for name in SHELF if (folder / name).is_file()]


def shelf_shown() -> list[dict[str, str]]:
    """Name and picture of each sample photograph."""
    return [
        {"name": path.stem.split("_")[0], "thumb": picture_url(studio.preview(Picture.from_any(path), 160), 80)}
        for path in shelf()
    ]


def sample_of(task: Task) -> samples.Sample | None:
    """The task's example among those of ``make edit``."""
    return next((each for each in samples.SAMPLES if each.task == task.name), None) if shelf() else None


def backgrounds_shown() -> list[dict[str, str]]:
    """The backgrounds, each drawn small. They are what the task makes of their words."""
    from photofound.edits.surfaces import render, surface_of

    shown = []
    for name, prompt, background in BACKGROUNDS:
        surface = surface_of(prompt)
        assert surface is not None, prompt
        drawn = (render(surface, (168, 124), seed=1).clip(0, 1) * 255).round().astype("uint8")
        shown.append({"name": name, "prompt": prompt, "background": background, "url": picture_url(drawn, 80)})
    return shown


def accepted() -> str:
    """What the browser's file dialogue offers: browsers and mimetypes know but a part of the suffixes."""
    return ",".join(["image/*", *READABLE_SUFFIXES])
