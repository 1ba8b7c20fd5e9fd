"""The page of the demo: its widgets, and what happens when they are used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from photofound.demos import samples, studio
from photofound.demos.brush import brush
from photofound.demos.handlers import SAME_FORMAT, Handlers, Tab, _attempt, _colour, _guarded, shelf
from photofound.demos.studio import Desk, Studio
from photofound.edits.task import SUBJECT_INPUTS, WRITTEN, Input, Task, get_task, task_names
from photofound.errors import one_line
from photofound.image import READABLE_SUFFIXES, Picture

FIRST = (
    "outpaint",
    "inpaint",
    "erase",
    "expand",
    "upscale",
    "cutout",
    "generate",
)  # the order of tabs; further tasks follow
ASPECTS = (("free", ""), ("square", "1:1"), ("4:5", "4:5"), ("9:16", "9:16"), ("16:9", "16:9"))
KINDS = ("image", "mask", "text", "int", "flag", *WRITTEN)
PICTURES = ["image", *READABLE_SUFFIXES]  # browsers and mimetypes know but a part of the suffixes

MASTHEAD = """<h1>photo<b>found</b></h1><p>Edit a photograph. What you do not touch stays as it is, bit for bit.</p>"""
TO_RESULT = """() => {
  document.getElementById('result').scrollIntoView({behavior: 'smooth', block: 'nearest'});
  return [];
}"""
DICE = "() => Math.floor(Math.random() * 2147483648)"


class Page(Handlers):
    """The widgets that all tabs share, and what happens when they are used."""

    def __init__(self, work: Studio) -> None:
        self.work = work
        tasks = tabs_for(task_names())
        pipe = work.models.pipeline(tasks[0])  # a model that cannot be loaded is told at the start
        tasks = [task for task in tasks if not task.instructs or pipe.offers(task.name)]
        settings = {"title": "photofound", "analytics_enabled": False, "delete_cache": (600, 6 * 3600)}
        with gr.Blocks(**settings) as self.blocks:
            self.desk = gr.State(None, delete_callback=work.close)
            self.picked = gr.State(None)  # the index of an example photograph
            self.made = gr.State(None)  # what a run made, until it is adopted
            gr.HTML(MASTHEAD, elem_id="masthead", padding=False)
            self._photograph()
            with gr.Row(equal_height=False):
                with gr.Column(scale=6, min_width=340):
                    with gr.Tabs():
                        self.tabs = [self._tab(task) for task in tasks]
                with gr.Column(scale=5, min_width=340):
                    with gr.Column(elem_id="result"):
                        self._result()
                    self._settings(pipe.config.default_guidance)
                    self._model()
            self._wire()

    # ------------------------------------------------------------------------------------------------------- widgets

    def _photograph(self) -> None:
        with gr.Row(equal_height=True):
            self.upload = gr.File(
                show_label=False, file_types=PICTURES, height=132, elem_id="upload", scale=4, min_width=300
            )
            self.shelf = gr.Gallery(
                value=[studio.preview(Picture.from_any(path), 240) for path in shelf()],
                show_label=False,
                columns=6,
                height=132,
                object_fit="cover",
                allow_preview=False,
                buttons=[],
                interactive=False,
                visible=bool(shelf()),
                elem_id="shelf",
                scale=7,
                min_width=300,
            )
        with gr.Row(elem_classes=["tight", "line"]):
            self.info = gr.Markdown(elem_classes="quiet", elem_id="info")
            self.undo = gr.Button("↩ Undo", size="sm", scale=0, min_width=110, interactive=False, elem_id="undo")
            self.redo = gr.Button("↪ Redo", size="sm", scale=0, min_width=110, interactive=False, elem_id="redo")

    def _tab(self, task: Task) -> Tab:
        declared = studio.declared(task)
        masks = [each for each in declared if each.kind == "mask"]
        folded = [each for each in declared if is_folded(each)]
        sample = next((each for each in samples.SAMPLES if each.task == task.name), None) if shelf() else None
        with gr.Tab(task.name.capitalize(), id=task.name, elem_id=f"tab-{task.name}"):
            gr.Markdown(f"{task.summary[:1].upper()}{task.summary[1:]}.", elem_classes="quiet")
            made = {each.name: self._widget(task, each) for each in masks}
            view, caption = (None, None) if masks else self._view(task, 420)
            self._canvas_inputs(task, declared, made)
            for each in declared:
                if each.name not in made and each not in folded:
                    made[each.name] = self._widget(task, each)
            with gr.Row(elem_classes="tight"):
                run = gr.Button(task.name.capitalize(), variant="primary", min_width=200, elem_id=f"run-{task.name}")
                example = (
                    gr.Button(f"Example: {sample.caption}", min_width=200, elem_classes="example") if sample else None
                )
            if masks:
                with gr.Accordion("What is kept exactly", open=any(map(studio.is_subject, masks))):
                    view, caption = self._view(task, 300)
            if folded:
                with gr.Accordion("More", open=False):
                    made |= {each.name: self._widget(task, each) for each in folded}
        inputs = {each.name: made[each.name] for each in declared}
        return Tab(task, inputs, view, caption, run, example)

    def _view(self, task: Task, height: int) -> tuple[Any, Any]:
        view = gr.Image(
            show_label=False,
            interactive=False,
            height=height,
            buttons=["fullscreen"],
            elem_id=f"view-{task.name}",
        )
        return view, gr.Markdown(elem_classes="quiet", elem_id=f"caption-{task.name}")

    def _canvas_inputs(self, task: Task, declared: Sequence[Input], made: dict[str, Any]) -> None:
        """Aspect ratios first, then the margins, two in a row."""
        for each in declared:
            if each.kind == "aspect":
                made[each.name] = self._widget(task, each)
        margins = [each for each in declared if each.kind == "length"]
        for pair in (margins[i : i + 2] for i in range(0, len(margins), 2)):
            with gr.Row(elem_classes="tight"):
                made |= {each.name: self._widget(task, each) for each in pair}

    def _widget(self, task: Task, each: Input) -> Any:
        label = each.name.removesuffix("_image").replace("_", " ").capitalize()
        shared: dict[str, Any] = {"label": label, "elem_id": f"{task.name}-{each.name}"}
        if each.kind == "mask":
            return self._brush(each, shared)
        if each.kind == "image":
            return gr.File(file_types=PICTURES, height=110, **shared | {"label": f"{label}: {each.help}"})
        if each.kind == "length":
            return gr.Slider(0, 100, value=0, step=1, min_width=140, buttons=[], **shared | {"label": f"{label}, %"})
        if each.kind == "aspect":
            return gr.Radio(list(ASPECTS), value="", **shared)
        if each in SUBJECT_INPUTS:
            shared["visible"] = bool(self.work.models.segmenters)  # the model's own way can be told nothing
        if each.kind == "segmenter":
            names = [("automatic", ""), *((name, name) for name in self.work.models.segmenters)]
            return gr.Dropdown(names, value="", info="what finds the subject", **shared)
        if each.choices:
            choices = [("as usual", "")] * (each.default is None) + [(str(each), each) for each in each.choices]
            return gr.Radio(choices, value="" if each.default is None else each.default, **shared)
        if each.kind == "flag":
            return gr.Checkbox(bool(each.default), info=each.help, **shared)
        if each.kind == "int":
            return gr.Number(each.default, precision=0, info=each.help, **shared)
        return gr.Textbox(each.default or "", placeholder=each.help, lines=1, max_lines=3, **shared)

    def _brush(self, each: Input, shared: dict[str, Any]) -> Any:
        what = "keep" if studio.is_subject(each) else "change"
        label = f"Brush over what to {what}"
        return brush(_colour(each), container=True, padding=True, show_label=True, **shared | {"label": label})

    def _settings(self, guidance: float) -> None:
        with gr.Accordion("Seed, variants, steps", open=False, elem_id="settings"):
            with gr.Row(elem_classes="tight"):
                self.seed = gr.Number(0, precision=0, label="Seed", elem_id="seed", min_width=120)
                self.dice = gr.Button("⚄", elem_classes="dice", elem_id="dice")
                self.variants = gr.Slider(
                    1, studio.VARIANTS, value=1, step=1, label="Images", buttons=[], elem_id="variants", min_width=160
                )
            with gr.Row(elem_classes="tight"):
                self.steps = gr.Slider(
                    0, 50, value=0, step=1, label="Steps (0: default)", buttons=[], elem_id="steps", min_width=160
                )
                self.guidance = gr.Slider(1, 10, value=guidance, step=0.5, label="Guidance", buttons=[], min_width=160)

    def _model(self) -> None:
        models = self.work.models
        names = [(name or "photofound-nano (embedded)", name) for name in models.choices()]
        hint = "or the id of a model on the Hub, owner/name" if models.hub else None
        with gr.Accordion("Model", open=False, elem_id="models"):
            self.model = gr.Dropdown(
                names, value=models.default, allow_custom_value=models.hub, label="Model", info=hint, elem_id="model"
            )
            self.lora = gr.Dropdown(
                ["", *models.loras()], value="", label="LoRA", visible=bool(models.loras()), elem_id="lora"
            )
            gr.Markdown("A LoRA of yours, as .safetensors:", elem_classes="quiet")
            self.lora_file = gr.File(file_types=[".safetensors"], show_label=False, height=132, elem_id="lora-file")
            with gr.Row(elem_classes="tight"):
                self.load = gr.Button("Load", size="sm", scale=0, min_width=110, elem_id="load")
                self.loaded = gr.Markdown(elem_classes="quiet", elem_id="loaded")

    def _result(self) -> None:
        self.slider = gr.ImageSlider(
            show_label=False, interactive=False, buttons=["fullscreen"], max_height=560, elem_id="slider"
        )
        self.status = gr.Markdown("The result appears here.", elem_classes="quiet", elem_id="status")
        self.cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="cancel")
        self.gallery = gr.Gallery(
            show_label=False,
            columns=3,
            object_fit="cover",
            allow_preview=False,
            interactive=False,
            buttons=[],
            visible=False,
            elem_id="variants-made",
        )
        with gr.Row(elem_classes="tight"):
            self.use = gr.Button("Use as input", interactive=False, elem_id="use", min_width=140)
            self.download = gr.DownloadButton("Download", interactive=False, elem_id="download", min_width=140)
            self.format = gr.Dropdown(
                [SAME_FORMAT, *studio.FORMATS], value=SAME_FORMAT, show_label=False, container=False, min_width=150
            )
        self.file = gr.Markdown(elem_classes="quiet", elem_id="file")

    # -------------------------------------------------------------------------------------------------------- events

    def _wire(self) -> None:
        """Connect widgets and handlers. Whatever changes the photograph is followed by a redrawing of every tab; until
        that is done, nothing can be run."""
        desk = self.desk
        listen: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        changed = [desk, self.info, self.undo, self.redo, *self._result_widgets()]
        buttons = [tab.run for tab in self.tabs]

        def wait() -> Any:
            return gr.update(interactive=False)

        def pick(event: gr.SelectData) -> list[Any]:
            return [event.index, *(wait() for _ in buttons)]

        for event, handler, inputs in (
            (self.blocks.load, self.on_start, []),
            (self.upload.upload, self.on_upload, [desk, self.upload]),
            (self.shelf.select, self.on_shelf, [desk, self.picked]),
            (self.use.click, self.on_use, [desk]),
            (self.undo.click, self.on_undo, [desk, self.format]),
            (self.redo.click, self.on_redo, [desk, self.format]),
        ):
            if handler == self.on_shelf:
                begun = event(pick, None, [self.picked, *buttons], queue=False, **listen)
            else:
                begun = event(lambda: [wait() for _ in buttons], None, buttons, queue=False, **listen)
            happened = begun.then(_guarded(handler, changed), inputs, changed, **listen)
            self._redraw(happened, listen)
            if handler == self.on_upload:
                happened.then(lambda: None, None, self.upload, **listen)  # the next one can be dropped at once
        runs = [self._wire_tab(tab, changed, listen) for tab in self.tabs]
        self.cancel.click(self.on_cancel, None, [self.status, self.cancel], cancels=runs, queue=False, **listen)
        self.blocks.unload(self.on_leave)
        self.dice.click(None, None, self.seed, js=DICE, **listen)
        chosen = [desk, self.slider, self.download, self.file]
        self.gallery.select(_guarded(self.on_choose, chosen), [desk, self.format], chosen, **listen)
        file = [self.download, self.file]
        self.format.input(_guarded(self.on_format, file), [desk, self.format], file, **listen)
        model = [self.model, self.lora, self.lora_file]
        settings = [self.loaded, self.guidance]
        self.load.click(
            _guarded(self.on_load, settings),
            model,
            settings,
            **listen | {"show_progress": "minimal"},
            **_one_model_at_a_time(),
        )

    def _wire_tab(self, tab: Tab, changed: list[Any], listen: dict[str, Any]) -> Any:
        """The events of one tab; returns that of its run."""
        desk = self.desk
        inputs = list(tab.inputs.values())
        drawn = [tab.view, tab.caption]

        def preview(desk: Desk | None, *values: Any) -> list[Any]:
            return self.on_preview(tab, desk, values)

        # Gradio puts the two where it finds their types, before the values of the widgets.
        def run(request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> list[Any]:  # noqa: B008
            return self.on_run_safely(tab, values[0], values[1:], progress, request)

        for each in tab.declared:
            if each.kind in ("mask", "int", *studio.CANVAS_KINDS):
                tab.inputs[each.name].change(
                    _guarded(preview, drawn), [desk, *inputs], drawn, trigger_mode="always_last", **listen
                )
        self._alternatives(tab, listen)
        shared = [
            self.model,
            self.lora,
            self.lora_file,
            self.seed,
            self.variants,
            self.steps,
            self.guidance,
            self.format,
        ]
        begun = tab.run.click(self.on_begin, None, [self.status, self.cancel], js=TO_RESULT, queue=False, **listen)
        ran = begun.then(
            run,
            [desk, *shared, *inputs],
            [self.made, self.slider, self.status],
            show_progress="full",
            show_progress_on=[self.slider],
            api_visibility="private",
            **_one_model_at_a_time(),
        )
        adopted = [desk, self.made, *self._result_widgets()]
        ran.then(_guarded(self.on_made, adopted), [desk, self.made], adopted, **listen).then(
            lambda: gr.update(visible=False), None, self.cancel, queue=False, **listen
        )
        if tab.example is not None:
            self._wire_example(tab, tab.example, changed, listen)
        return ran

    def _wire_example(self, tab: Tab, button: gr.Button, changed: list[Any], listen: dict[str, Any]) -> None:
        inputs = list(tab.inputs.values())

        def fill(desk: Desk) -> Any:
            made, line = _attempt(self.on_fill, tab, desk)
            return made if not line else [gr.skip() for _ in inputs] if len(inputs) > 1 else gr.skip()

        def show(desk: Desk | None) -> list[Any]:
            return self.on_example(tab, desk)

        buttons = [each.run for each in self.tabs] or [tab.run]
        begun = button.click(
            lambda: [gr.update(interactive=False) for _ in buttons], None, buttons, queue=False, **listen
        )
        self._redraw(
            begun.then(_guarded(show, changed), self.desk, changed, **listen),
            listen,
            {tab.task.name: lambda event: event.then(fill, self.desk, inputs, **listen)},
        )

    def _alternatives(self, tab: Tab, listen: dict[str, Any]) -> None:
        """Margins, an aspect ratio and a size are three ways to say one thing: using one of them clears the others."""
        ways = {each.name: each.kind for each in tab.declared if each.kind in studio.CANVAS_KINDS}
        for name, kind in ways.items():
            others = [tab.inputs[other] for other, its in ways.items() if its != kind]
            cleared = [0 if its == "length" else "" for its in ways.values() if its != kind]
            if others:
                values = cleared if len(cleared) > 1 else cleared[0]
                tab.inputs[name].input(lambda values=values: values, None, others, **listen)

    def _redraw(self, event: Any, listen: dict[str, Any], after: dict[str, Callable[[Any], Any]] | None = None) -> None:
        """Every tab shows the new photograph; its masks start anew, and it can run. ``after`` follows that of one
        tab."""
        for tab in self.tabs:

            def draw(desk: Desk | None, *values: Any, tab: Tab = tab) -> list[Any]:
                return self.on_draw(tab, desk, values)

            outputs = [*tab.masks.values(), tab.view, tab.caption]
            drawn = event.then(_guarded(draw, outputs), [self.desk, *tab.inputs.values()], outputs, **listen)
            drawn = (after or {}).get(tab.task.name, lambda event: event)(drawn)
            drawn.then(lambda: gr.update(interactive=True), None, tab.run, queue=False, **listen)


# ------------------------------------------------------------------------------------------------------------- helpers


def tabs_for(names: Sequence[str]) -> list[Task]:
    """The tasks in the order of their tabs. One that cannot be loaded, or asks for what no widget can give, is named on
    stderr and left out."""
    tasks = []
    for name in sorted(names, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name)):
        try:
            task = get_task(name)
            for each in studio.declared(task):
                if each.kind not in KINDS:
                    raise ValueError(f"input {each.name!r} has kind {each.kind!r}; use {', '.join(KINDS)}")
            tasks.append(task)
        except Exception as error:  # anything can be wrong with a file that somebody dropped in
            print(f"photofound: task {name!r} has no tab: {one_line(error)}", file=sys.stderr)
    return tasks


def is_folded(each: Input) -> bool:
    """Whether an input is for the few who look for it: what the task can do without and says no default of."""
    rare = each.kind in ("int", "size", "share", "sides", "fit", "flag") or each.name in (
        "align",
        "reference_box",
        "snap",
    )
    rare = each.default is None and (rare or each.name.startswith("shadow_"))
    return not each.required and (rare or each in SUBJECT_INPUTS)


def _one_model_at_a_time() -> dict[str, Any]:
    """The queue runs one of the events with this name at a time, in the order of arrival."""
    return {"concurrency_id": "model", "concurrency_limit": 1}
