"""``photofound TASK``: edit a photograph, or a folder of them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from photofound.cli.console import print_line, progress_bar, say, warnings_about
from photofound.cli.model import load_pipeline, without_gc
from photofound.cli.options import inputs_of, task_parser
from photofound.cli.plan import Work, find_input, new_outputs, plan_work
from photofound.cli.proof import signing
from photofound.errors import EXPECTED, one_line

if TYPE_CHECKING:
    from photofound.edits.task import Task
    from photofound.image import Picture


def run_edit(name: str, argv: list[str]) -> int:
    """Run ``photofound NAME ARGV...``; returns the exit status."""
    from photofound.edits.task import get_task

    with without_gc():
        task = get_task(name)
    args = task_parser(task).parse_args(argv)
    if args.max_pixels is not None:
        os.environ["PHOTOFOUND_MAX_PIXELS"] = str(args.max_pixels)  # masks and enlarged canvases obey it too
    if task.generates:
        signing(args)  # a bad certificate is told before the work
    if not task.takes_picture:
        return _make(task, args)
    work = plan_work(task, args)
    model = cache(lambda: _load_model(task, args))
    if args.image.is_dir():
        return _edit_folder(task, args, work, model)
    status, error = _try_one(task, args, work[0], model)
    if error:
        raise error
    if status == "skipped" and not args.quiet:
        say("the photograph was edited before and is skipped")
    return 0


def _edit_folder(task: Task, args: argparse.Namespace, work: list[Work], model: Callable[[], Any]) -> int:
    failed = skipped = 0
    for each in progress_bar(work, args.quiet):
        with warnings_about(each.image):
            status, error = _try_one(task, args, each, model)
        if error:
            line = one_line(error)
            say(line if str(each.image) in line else f"{each.image}: {line}")
        failed += error is not None
        skipped += status == "skipped"
    if skipped and not args.quiet:
        say(f"{skipped} of {len(work)} photographs were edited before and are skipped")
    if failed:
        say(f"{failed} of {len(work)} files failed")
    return 1 if failed else 0


def _try_one(
    task: Task, args: argparse.Namespace, work: Work, model: Callable[[], Any]
) -> tuple[str, Exception | None]:
    """Edit one photograph and report on it. Returns ``done``, ``skipped`` or ``failed``, and the error."""
    started, status = time.monotonic(), "done"
    error = work.error
    if error is None and args.skip_existing and work.is_done():
        status = "skipped"
    elif error is None:
        if args.image.is_dir():
            model()  # a bad model is one error, not one for every file
        try:
            _edit_one(task, args, work, model)
        except EXPECTED as caught:
            error = caught
    status = "failed" if error else status
    if args.report is not None:
        try:
            _report(args, work, status, time.monotonic() - started, error)
        except OSError as caught:
            error = error or caught
    return status, error


def _report(args: argparse.Namespace, work: Work, status: str, seconds: float, error: Exception | None) -> None:
    """Append one line of JSON. One system call writes it, so that a killed run leaves no half of a line."""
    outputs = [str(path) for path in work.outputs]
    line = {
        "input": str(work.image),
        "output": outputs[0] if len(outputs) == 1 else outputs,
        "seconds": round(seconds, 3),
        "seed": args.seed,
        "status": status,
        "error": one_line(error) if error else None,
    }
    with open(args.report, "ab", buffering=0) as file:
        # A byte that is not UTF-8 becomes \udcXX, which JSON allows and Python reads back as the same file name.
        file.write((json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def _edit_one(task: Task, args: argparse.Namespace, work: Work, model: Callable[[], Any]) -> None:
    """Read, edit, write. The files are read before the model is loaded, so that a bad file is reported at once."""
    from photofound import image
    from photofound.edits.request import Request
    from photofound.picture import layered

    picture = image.load(work.image)
    if args.strip:
        picture = picture.without_location()
    inputs = _inputs_for(task, args, work.image)
    format = image.output_format(picture, work.outputs[0], args.format, task.result_alpha(**inputs))
    image.check_fit(picture, format, task.result_size(picture, **inputs))  # before the work
    sampling = args.seed, args.steps, args.guidance, args.resample
    request = Request(
        task.name, picture, inputs, *sampling, layers=bool(work.layers), best_of=getattr(args, "best_of", None)
    )
    edited = model().answer(request, args.num_images)
    overwrite = args.overwrite or args.skip_existing  # some of several variants may exist
    _save(task, args, edited.images, work.outputs, format, overwrite, work.image)
    for path, stack, flat in zip(work.layers, edited.layers if work.layers else (), edited.images, strict=False):
        layered.save(stack, _marked(task, args, flat), path, overwrite=overwrite)
    for fault in (fault for path in work.outputs for fault in task.faults(path, **inputs)):
        say(f"warning: {fault}")
    if work.subject is not None:
        image.save((edited.keep * 255).round().astype("uint8"), work.subject, overwrite=overwrite)
    if not args.quiet:
        for path in work.files:
            print_line(str(path))


def _save(
    task: Task,
    args: argparse.Namespace,
    pictures: Sequence[Picture],
    paths: Sequence[Path],
    format: str,
    overwrite: bool,
    photograph: Path | None = None,
) -> None:
    """Write the results, marked as generated and signed, and print what the edit notes."""
    from photofound import image

    if (note := pictures[0].note) and not args.quiet:
        say(note)
    whole = not task.takes_picture
    sign = signing(args)(photograph, whole) if task.generates and pictures[0].generated else None
    for path, result in zip(paths, pictures, strict=True):
        image.save(_marked(task, args, result), path, format, overwrite=overwrite, sign=sign)


def _marked(task: Task, args: argparse.Namespace, result: Picture) -> Picture:
    """The result with what its metadata is to say of it."""
    from photofound.picture import provenance

    result = dataclasses.replace(result, recipe="") if args.no_recipe else result
    return result if args.no_mark else provenance.mark(result, not task.takes_picture, task.generates)


def _make(task: Task, args: argparse.Namespace) -> int:
    """Make pictures without a photograph."""
    from photofound import image
    from photofound.edits.request import Request

    paths = new_outputs(task, args)
    inputs = {each.name: value for each in inputs_of(task) if (value := getattr(args, each.name)) is not None}
    format = image.output_format(None, paths[0], args.format, task.result_alpha(**inputs))
    for path in paths:
        image.check_output(path, args.overwrite)
    request = Request(task.name, None, inputs, args.seed, args.steps, args.guidance, args.resample)
    task.prepare(None, **task.with_defaults(inputs))  # what is wrong with it is said before the model is loaded
    made = _load_model(task, args).answer(request, args.num_images)
    _save(task, args, made.images, paths, format, args.overwrite)
    if not args.quiet:
        for path in paths:
            print_line(str(path))
    return 0


def _inputs_for(task: Task, args: argparse.Namespace, photograph: Path) -> dict[str, Any]:
    """The inputs of one photograph. What is left out and has no default is left to the pipeline."""
    from photofound import image

    inputs = {}
    for each in inputs_of(task):
        value = getattr(args, each.name)
        value = each.default if value is None else value
        if isinstance(value, Path) and each.kind not in ("folder", "preset"):
            value = image.load(find_input(value, args.image, photograph, each.name))
        if value is None and each.name == "prompt":
            value = ""
        if value is not None:
            inputs[each.name] = value
    return inputs


def _load_model(task: Task, args: argparse.Namespace) -> Any:
    """The task's pipeline, on its device. It shows a bar if a person waits for one picture."""
    from photofound.edits.inputs import SUBJECT_INPUTS

    pipe = load_pipeline(args).for_task(task.name, quiet=False)
    if task.wants_segmenter:
        pipe.search(*(getattr(args, each.name) for each in SUBJECT_INPUTS))  # a bad one is one error, not one for each
    one = not task.takes_picture or not args.image.is_dir()
    pipe.set_progress_bar_config(disable=args.quiet or not one or not sys.stderr.isatty(), leave=False)
    return pipe
