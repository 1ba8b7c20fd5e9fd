"""What happens when the widgets of the demo's page are used. ``page.Page`` has the widgets."""

from __future__ import annotations

import dataclasses
import functools
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from photofound import image
from photofound.demos import samples, studio
from photofound.demos.brush import painted, painting
from photofound.demos.studio import Desk, Form, Studio
from photofound.demos.words import in_words
from photofound.edits.task import LARGEST_SEED, LEAST_SEED, WRITTEN, Input, Task
from photofound.image import Picture

SHELF = ("coffee.png", "astronaut.png", "rocket.jpg", "chelsea.png", "motorcycle_left.png", "camera.png")
SAME_FORMAT = "same format"
WRONG = "This does not work"
EXPECTED = (
    ValueError,
    OSError,
    ImportError,
    RuntimeError,
    MemoryError,
)  # what a visitor may do wrong; the rest is a bug


@dataclass(frozen=True)
class Tab:
    """The widgets of one task.

    Attributes:
        inputs: by the input's name, in the task's order.
        view: what is kept exactly, or the photograph; ``caption`` says how large and how much.
    """

    task: Task
    inputs: dict[str, Any]
    view: Any
    caption: Any
    run: Any
    example: Any | None

    @property
    def declared(self) -> list[Input]:
        return studio.declared(self.task)

    @property
    def masks(self) -> dict[str, Any]:
        """The widgets that are brushed."""
        return {each.name: self.inputs[each.name] for each in self.declared if each.kind == "mask"}

    def raw(self, values: Sequence[Any]) -> dict[str, Any]:
        """Values of all widgets, by name; masks as arrays."""
        raw = dict(zip(self.inputs, values, strict=True))
        return raw | {name: painted(raw[name]) for name in self.masks}

    def shows(self, photo: studio.Photo, values: Sequence[Any]) -> bool:
        """Whether all that is brushed is brushed on this photograph, and not on one that was there before."""
        raw = dict(zip(self.inputs, values, strict=True))
        return all((raw[name] or {}).get("id") == photo.id for name in self.masks)


class Handlers:
    """The handlers of a page: they take widgets' values and give new ones."""

    work: Studio
    tabs: list[Tab]
    slider: Any
    gallery: Any
    status: Any
    use: Any
    download: Any
    file: Any

    def _no_result(self) -> list[Any]:
        off = gr.update(interactive=False)
        return [None, gr.update(value=None, visible=False), "The result appears here.", off, off, ""]

    def _result_widgets(self) -> list[Any]:
        return [self.slider, self.gallery, self.status, self.use, self.download, self.file]

    def on_start(self) -> list[Any]:
        """A visitor comes: the first photograph of the shelf lies there, so that every button does something."""
        return self._changed(self.work.open(shelf()[0]) if shelf() else None)

    def on_upload(self, desk: Desk | None, path: str | None) -> list[Any]:
        warn = lambda line: gr.Warning(in_words(line))  # noqa: E731
        return self._changed(self.work.open(_require(path, "photograph"), desk, warn=warn))

    def on_shelf(self, desk: Desk | None, index: int) -> list[Any]:
        return self._changed(self.work.open(shelf()[index], desk))

    def on_use(self, desk: Desk | None) -> list[Any]:
        return self._changed(self.work.use_result(_require(desk, "photograph")))

    def on_undo(self, desk: Desk | None, format: str) -> list[Any]:
        return self._changed(self.work.undo(_require(desk, "photograph")), format)

    def on_redo(self, desk: Desk | None, format: str) -> list[Any]:
        return self._changed(self.work.redo(_require(desk, "photograph")), format)

    def on_example(self, tab: Tab, desk: Desk | None) -> list[Any]:
        sample = _sample(tab)
        picture = Picture.from_any(samples.read(sample)[0])
        return self._changed(self.work.open_picture(picture, sample.photograph, desk))

    def on_fill(self, tab: Tab, desk: Desk) -> Any:
        """The example's own inputs: its mask, its words, its numbers."""
        sample, values = _sample(tab), list[Any]()
        mask = samples.read(sample)[1]
        for each in tab.declared:
            value = sample.inputs.get(each.name, each.default)
            if each.kind == "mask" and mask is not None and not studio.is_subject(each):
                values.append(self._painting(desk, np.asarray(mask, np.float32) / 255, each))
            elif each.kind == "mask":
                values.append(gr.skip())
            elif each.kind == "length":
                values.append(float(str(value or 0).removesuffix("%")))
            else:
                values.append("" if value is None and each.kind in ("text", *WRITTEN) else value)
        return values if len(values) > 1 else values[0]

    def _changed(self, desk: Desk | None, format: str = SAME_FORMAT) -> list[Any]:
        """The desk with its automatic subjects, and the widgets around it; with the results that it has."""
        if desk is None:
            off = gr.update(interactive=False)
            return [None, "Open a photograph to begin.", off, off, *self._no_result()]
        for tab in self.tabs:
            if any(map(studio.is_subject, tab.declared)):
                desk = self.work.cut_out(desk, tab.task)
        undo, redo = gr.update(interactive=bool(desk.undo)), gr.update(interactive=bool(desk.redo))
        results = self._finished(desk, format) if desk.results else self._no_result()
        return [desk, studio.file_line(desk.photo), undo, redo, *results]

    def on_draw(self, tab: Tab, desk: Desk | None, values: Sequence[Any]) -> list[Any]:
        """The masks as they start, and what would be kept. What was brushed on this photograph already stays: the one
        that was to replace it may have been refused."""
        if desk is None:
            return [*[None] * len(tab.masks), None, ""]
        if tab.masks and tab.shows(desk.photo, values):
            given = dict(
                zip(tab.inputs, values, strict=True)
            )  # sent back: a tab not yet shown would miss a skipped one
            return [*(given[name] for name in tab.masks), *self._preview(tab, desk, tab.raw(values))]
        matte = desk.mattes.get(tab.task.name)
        masks = [
            self._painting(desk, matte if studio.is_subject(each) else None, each)
            for each in tab.declared
            if each.kind == "mask"
        ]
        others = dict(zip(tab.inputs, values, strict=True)) | dict.fromkeys(tab.masks)
        return [*masks, *self._preview(tab, desk, others)]

    def on_preview(self, tab: Tab, desk: Desk | None, values: Sequence[Any]) -> list[Any]:
        if desk is None:
            return [None, ""]
        if not tab.shows(desk.photo, values):  # it is about to be drawn
            return [gr.skip(), gr.skip()]
        return self._preview(tab, desk, tab.raw(values))

    def _preview(self, tab: Tab, desk: Desk, raw: dict[str, Any]) -> list[Any]:
        job = self.work.prepare(desk, tab.task, raw)
        if job is None and any(map(studio.is_subject, tab.declared)):
            return [studio.preview(desk.photo.picture), "No subject was found: brush over what to keep."]
        return [studio.kept_preview(job) if job else studio.preview(desk.photo.picture), studio.size_line(desk, job)]

    def _painting(self, desk: Desk, mask: np.ndarray | None, each: Input) -> dict[str, str | None]:
        """What a brush shows: the photograph, and the mask as if it had been painted."""
        photograph = studio.preview(desk.photo.picture)
        small = None if mask is None else studio.resized(mask, photograph.shape[1::-1])
        return painting(photograph, small, _colour(each), desk.photo.id)

    def on_begin(self) -> list[Any]:
        return ["Waiting …", gr.update(visible=True)]

    def on_run_safely(self, tab: Tab, *args: Any) -> list[Any]:
        """``on_run`` for the page: what it made, the slider as it is, and what is wrong as the status."""
        made, line = _attempt(self.on_run, tab, *args)
        return [made, gr.skip(), line or gr.skip()]

    def on_run(
        self, tab: Tab, desk: Desk | None, values: Sequence[Any], progress: gr.Progress, request: gr.Request
    ) -> list[Any]:
        """``values``: those of the shared widgets as ``_wire_tab`` lists them, then those of the tab."""
        if desk is None and not tab.task.takes_picture:
            desk = self.work.blank()
        desk = _require(desk, "photograph")
        model, lora, lora_file, seed, variants, steps, guidance, format = values[:8]
        if not tab.shows(desk.photo, values[8:]):
            raise ValueError("the photograph was not drawn yet; run again, with what you brush on it")
        wanted = Form(
            task=tab.task.name,
            inputs=tab.raw(values[8:]),
            seed=_seed(seed),
            variants=int(variants),
            steps=int(steps) or None,
            guidance=float(guidance),
            model=model,
            lora=lora_file or lora or None,
            format=None if format == SAME_FORMAT else format,
        )
        desk, _, _ = self.work.run(
            desk,
            wanted,
            request.session_hash or "",
            progress=lambda share, what: progress(share, desc=what),
            warn=lambda line: gr.Warning(in_words(line)),
        )
        return [desk, *self._finished(desk, format)]

    def on_made(self, desk: Desk, made: list[Any] | None) -> list[Any]:
        """What ``on_run`` gave, where the photograph is still the same; then nothing waits any more."""
        skipped = [gr.skip()] * len(self._result_widgets())
        if made is None:
            return [gr.skip(), None, *skipped]
        adopted, line = _attempt(self.work.adopt, desk, made[0])
        if line:
            skipped[2] = line  # the status
            return [gr.skip(), None, *skipped]
        return [adopted, None, *made[1:]]

    def _finished(self, desk: Desk, format: str) -> list[Any]:
        several = len(desk.results) > 1
        pictures = [(studio.preview(each.picture, 480), f"seed {desk.seed + i}") for i, each in enumerate(desk.results)]
        chosen = desk.chosen if several else None
        gallery = gr.update(value=pictures if several else None, visible=several, selected_index=chosen)
        on = gr.update(interactive=True)
        return [self._compared(desk), gallery, desk.report, on, *self._file(desk, format)]

    def _compared(self, desk: Desk) -> tuple[np.ndarray, np.ndarray]:
        result = _require(desk.result, "result")
        return _require(desk.before, "result"), studio.preview(result.picture)

    def on_choose(self, desk: Desk | None, format: str, event: gr.SelectData) -> list[Any]:
        desk = dataclasses.replace(_require(desk, "photograph"), chosen=event.index)
        return [desk, self._compared(desk), *self._file(desk, format)]

    def _file(self, desk: Desk, format: str) -> list[Any]:
        """As ``on_format``; a result that cannot be written so is still there to be seen, or written as another."""
        try:
            return self.on_format(desk, format)
        except EXPECTED as error:
            return [gr.update(value=None, interactive=False), in_words(error)]

    def on_format(self, desk: Desk | None, format: str) -> list[Any]:
        """The chosen result as a file behind the button, and what is to be said about it."""
        desk = _require(desk, "photograph")
        if desk.result is None:
            return [gr.skip(), gr.skip()]
        path = self.work.export(desk, None if format == SAME_FORMAT else format)
        size = path.stat().st_size
        large = f"{size / 1e6:.1f} MB" if size > 1e5 else f"{size / 1e3:.0f} kB"
        line = f"{path.name} · {large} · seed {desk.seed + desk.chosen}"
        if lost := image.lost_depth(desk.result.picture, image.output_format(None, path)):
            line += f". {in_words(lost)}"
        if path.suffix in (".jpg", ".jpeg") or (path.suffix == ".webp" and not desk.result.picture.lossless):
            line += ". This format rounds every pixel; choose PNG to have the kept ones bit for bit."
        return [gr.update(value=str(path), interactive=True), line]

    def on_cancel(self, request: gr.Request) -> list[Any]:
        self.work.cancel(request.session_hash or "")
        return ["Cancelled.", gr.update(visible=False)]

    def on_leave(self, request: gr.Request) -> None:
        self.work.cancel(request.session_hash or "")

    def on_load(self, model: str | None, lora: str, lora_file: str | None) -> list[Any]:
        pipe = self.work.models.pipeline(self.tabs[0].task, model, lora_file or lora or None)
        millions = pipe.parameter_count / 1e6
        line = (
            f"Loaded: {millions:,.1f} million parameters, {pipe.config.default_steps} steps unless you say otherwise."
        )
        return [line, gr.update(value=pipe.config.default_guidance)]


# ------------------------------------------------------------------------------------------------------------- helpers


def shelf() -> list[Path]:
    """The example photographs, where they lie in scikit-image's wheel; none without it."""
    try:
        import skimage.data
    except ImportError:
        return []
    folder = Path(skimage.data.__file__).parent
    return [folder / name for name in SHELF if (folder / name).is_file()]


def _colour(each: Input) -> tuple[int, int, int]:
    """What a mask is painted in."""
    return studio.KEEP if studio.is_subject(each) else studio.REPAINT


def _sample(tab: Tab) -> samples.Sample:
    return next(each for each in samples.SAMPLES if each.task == tab.task.name)


def _require(value: Any, what: str) -> Any:
    if value is None:
        raise ValueError(
            f"there is no {what} yet; " + ("open one first" if what == "photograph" else "run an edit first")
        )
    return value


def _attempt(handler: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, str]:
    """What the handler gives, or None and what is wrong in one line, which is shown on the page, too.

    Raised, an error would lie over the widgets with what is good in them, and nothing would happen that is to happen
    after the handler.
    """
    try:
        return handler(*args, **kwargs), ""
    except studio.Cancelled:
        return None, "Cancelled."
    except EXPECTED as error:
        line = in_words(error)
    except Exception:  # a bug, which is told to whoever runs the demo
        traceback.print_exc()
        line = "the page has made a mistake; what you have is still there"
    gr.Warning(line, title=WRONG)
    return None, f"{WRONG}: {line}"


def _guarded(handler: Callable[..., Any], outputs: Sequence[Any]) -> Callable[..., Any]:
    """The handler; of what is wrong one line is shown, and the widgets stay as they are."""

    @functools.wraps(handler)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        made, line = _attempt(handler, *args, **kwargs)
        return [gr.skip() for _ in outputs] if line else made

    return guarded


def _seed(value: float | None) -> int:
    seed = int(value or 0)
    if not LEAST_SEED <= seed <= LARGEST_SEED - studio.VARIANTS:
        raise ValueError(f"Seed: {seed} has more than 64 bits; give a smaller one")
    return seed
