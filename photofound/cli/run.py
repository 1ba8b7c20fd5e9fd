"""``photofound run RECIPE FOLDER -o OUT``: every photograph of a folder through the same edits.

The result of each step is kept in ``OUT/.photofound/steps``, called by a digest of everything that it depends on: the
photograph, the steps before, inputs, settings, model, version. So a run that was killed goes on where it stopped, and a
changed recipe makes only those steps again that changed. ``journal.jsonl`` beside it names the finished files.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from photofound import __version__
from photofound.cli.arguments import Parser, add_credentials_options, add_model_options, path, whole_number
from photofound.cli.console import print_line, progress_bar, say, warnings_about
from photofound.cli.formats import output_suffix
from photofound.cli.options import inputs_of
from photofound.cli.page import Done, Stage, small, write
from photofound.cli.plan import find_input, find_photographs, require_file
from photofound.cli.proof import signing
from photofound.cli.steps import Recipe, Step, read
from photofound.errors import EXPECTED, one_line

if TYPE_CHECKING:
    from photofound.image import Picture

SUMMARY = "take every photograph of a folder through a list of edits: photofound run RECIPE.yaml FOLDER -o OUT"
_OURS = ".photofound"  # folder of OUT
_MODEL_OPTIONS = (
    *("model", "teacher", "device", "dtype", "quantize", "cache", "cache_threshold", "path_drop"),
    *("fallback", "fallback_below"),
)
_RESULT_OPTIONS = ("strip", "no_mark", "no_recipe", "c2pa_cert", "c2pa_key")


def run(argv: list[str]) -> int:
    """Returns 0: all done, 1: some photographs failed."""
    args = run_parser().parse_args(argv)
    require_file(args.recipe)
    recipe = read(args.recipe, args.trust)
    if not args.folder.is_dir():
        raise ValueError(f"{args.folder}: is no folder; name one with photographs")
    out = args.output or args.folder.parent / f"{args.folder.resolve().name}-{args.recipe.stem}"
    if out.resolve() == args.folder.resolve():
        raise ValueError(f"-o: {out} is the folder of the photographs; name another for the results")
    named = [out, args.recipe, *(value for step in recipe.steps for value in step.inputs.values())]
    photographs = find_photographs(args.folder, [each for each in named if isinstance(each, Path)], args)
    work = Run(recipe, args, out)
    started = time.monotonic()
    for photograph in progress_bar(photographs, args.quiet):
        try:
            with warnings_about(photograph):
                done = work.take(photograph)
        except _NoModel as error:
            assert error.__cause__ is not None
            raise error.__cause__ from None
        if done.error:
            line = done.error
            say(line if str(photograph) in line else f"{photograph}: {line}")
        elif not args.quiet:
            for file in done.files:
                print_line(str(file))
    work.finish()
    report = write(out / "report.html", args.recipe, work.done, time.monotonic() - started)
    failed, skipped = (sum(each.status == what for each in work.done) for what in ("failed", "skipped"))
    if not args.quiet:
        say(f"{len(photographs) - failed} of {len(photographs)} photographs done, {skipped} of them before: {report}")
    return 1 if failed else 0


def run_parser() -> Parser:
    parser = Parser(prog="photofound run", description=SUMMARY)
    add = parser.add_argument
    add("recipe", metavar="RECIPE", type=path, help="a YAML list of edits: docs/recipes.md")
    add("folder", metavar="FOLDER", type=path, help="the photographs; they stay as they are")
    add(
        "-o", "--output", metavar="OUT", type=path, help="folder of the results and report.html; default: FOLDER-RECIPE"
    )
    add("--recursive", action="store_true", help="also the photographs in the folders below FOLDER")
    add(
        "--seed",
        type=whole_number(-(2**63), 2**64 - 1),
        default=0,
        metavar="N",
        help="of steps without one; default: 0",
    )
    add(
        "--forget",
        action="store_true",
        help="delete the results of single steps at the end; a later run makes them again",
    )
    add("--trust", action="store_true", help="let the recipe name functions of Python, which run then")
    add("--strip", action="store_true", help="leave out where the photographs were taken")
    add("--no-mark", action="store_true", help="say in the metadata neither what was generated nor how it was made")
    add("--no-recipe", action="store_true", help="do not say in the metadata how it was made")
    add("--quiet", action="store_true", help="print errors and warnings only")
    add_credentials_options(parser)
    add_model_options(parser)
    return parser


class _NoModel(Exception):
    """The model cannot be loaded; why is its cause."""


class Run:
    """A run over a folder. ``take`` each photograph, then ``finish``."""

    def __init__(self, recipe: Recipe, args: argparse.Namespace, out: Path) -> None:
        self._recipe, self._args, self._out = recipe, args, out
        self._ours = out / _OURS
        self._steps, self._small = self._ours / "steps", self._ours / "small"
        for folder in (self._steps, self._small):
            folder.mkdir(parents=True, exist_ok=True)
        self._model_key = _model_key(args)
        self._used: set[str] = set()
        self._taken: dict[Path, Path] = {}  # results of this run, and of which photograph
        self._finished = dict(_journal(self._ours / "journal.jsonl"))
        self._sign: Callable[..., Any] = signing(args)
        self._model = cache(lambda: _load(args))
        self._of_input = cache(_of_file)  # inputs are the same for all photographs
        self.done: list[Done] = []

    def take(self, photograph: Path) -> Done:
        """Edit one photograph. An expected error becomes part of what is returned."""
        started, done = time.monotonic(), Done(photograph)
        try:
            self._take(photograph, done)
        except EXPECTED as error:
            done.status, done.error, done.files = "failed", one_line(error), []
        done.seconds = time.monotonic() - started
        self.done.append(done)
        return done

    def finish(self) -> None:
        """Delete results of steps that nothing needs any more."""
        if self._args.forget:
            shutil.rmtree(self._steps, ignore_errors=True)
            return
        failed = any(each.status == "failed" for each in self.done)
        for file in [] if failed else [*self._steps.glob("*.png"), *self._small.glob("*.json")]:
            if file.stem not in self._used:
                file.unlink(missing_ok=True)

    def _take(self, photograph: Path, done: Done) -> None:
        from photofound import image

        args, data = self._args, photograph.read_bytes()
        first, *keys = self._keys(photograph, data)
        settings = {name: str(getattr(args, name)) for name in _RESULT_OPTIONS}
        last = _digest(keys[-1], self._recipe.formats, settings)
        files, name = self._files(photograph), str(photograph.relative_to(args.folder))
        self._used.update([first, *keys])
        if self._finished.get(name) == [last, *map(_of_file, files)]:
            names = ["before", *(step.task for step in self._recipe.steps)]
            seen = [self._seen(each, key) for each, key in zip(names, [first, *keys], strict=True)]
            done.status, done.files, done.stages = "skipped", files, [stage for stage in seen if stage is not None]
            return
        picture = image.load(photograph)
        done.stages.append(self._see("before", first, picture))
        picture = picture.without_location() if args.strip else picture
        for step, key in zip(self._recipe.steps, keys, strict=True):
            picture, note = self._result(step, key, picture, photograph)
            done.stages.append(self._seen(step.task, key) or self._see(step.task, key, picture, note))
        self._write(picture, files, photograph)
        done.files = files
        _append(self._ours / "journal.jsonl", {"name": name, "made": [last, *map(_of_file, files)]})

    def _see(self, name: str, key: str, picture: Picture, note: str = "") -> Stage:
        """A step for the report, kept for later reports."""
        from photofound import files

        stage = Stage(name, small(picture), "; ".join(filter(None, [f"{picture.width} x {picture.height}", note])))
        files.write(self._small / f"{key}.json", json.dumps({"note": stage.note, "picture": stage.encoded}))
        return stage

    def _seen(self, name: str, key: str) -> Stage | None:
        """A step for the report as an earlier run has kept it."""
        from photofound import files

        try:
            kept = files.read_json(self._small / f"{key}.json")
            return Stage(name, base64.b64decode(kept["picture"], validate=True), str(kept["note"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    # --------------------------------------------------------------------------------------------------------- steps

    def _keys(self, photograph: Path, data: bytes) -> Iterator[str]:
        """Digests of all that the photograph, and then each step's result, depend on."""
        settings = self._args.strip, self._args.no_mark, self._model_key
        key = _digest(__version__, hashlib.sha256(data).hexdigest(), settings)
        yield key
        for step in self._recipe.steps:
            given = {}
            for name, kind, value in _inputs_of(step):
                is_file = isinstance(value, Path)
                given[name] = self._input_digest(value, photograph, name, kind) if is_file else repr(value)
            key = _digest(key, step.task, given, {"seed": self._args.seed, **step.sampling}, step.optional)
            yield key

    def _input_digest(self, value: Path, photograph: Path, name: str, kind: str) -> str:
        if kind == "folder":
            return _digest(
                *(f"{each.name} {self._of_input(each)}" for each in sorted(value.iterdir()) if each.is_file())
            )
        try:
            return self._of_input(find_input(value, self._args.folder, photograph, name))
        except ValueError:
            return "missing"

    def _kept(self, key: str) -> Picture | None:
        """The result of a step that was made before; None if there is none, or if it is damaged."""
        from photofound import image

        file = self._steps / f"{key}.png"
        return image.load(file) if file.is_file() and image.is_whole(file) else None

    def _result(self, step: Step, key: str, picture: Picture, photograph: Path) -> tuple[Picture, str]:
        """The result of a step, and what is to be said of it. What a later step sees is always what was read from the
        file, so that it makes no difference when the file was written."""
        from photofound import files, image
        from photofound.edits.request import Request
        from photofound.edits.task import get_task
        from photofound.picture import provenance

        found, note = self._kept(key), "made before"
        if found is None:
            task = get_task(step.task)
            try:
                inputs = self._inputs(step, photograph)
            except ValueError:
                if step.optional:
                    return picture, "left out: no input for it"
                raise
            request = Request(step.task, picture, inputs, **{"seed": self._args.seed, **step.sampling})
            try:
                made = self._pipe().for_task(step.task).answer(request).images[0]
            except ValueError as error:
                raise ValueError(f"{step.task}: {one_line(error)}") from error
            note = made.note
            made = made if self._args.no_mark else provenance.mark(made, generated=task.generates)
            data = image.encode(made, "PNG")
            files.write(self._steps / f"{key}.png", data)
            found = image.decode(data, step.task)
        return replace(
            found, format=picture.format, lossless=picture.lossless, jpeg=picture.jpeg, path=photograph
        ), note

    def _pipe(self) -> Any:
        """The model. One that cannot be had is one error, not one for every photograph."""
        try:
            return self._model()
        except EXPECTED as error:
            raise _NoModel from error

    def _inputs(self, step: Step, photograph: Path) -> dict[str, Any]:
        from photofound import image

        found = {}
        for name, kind, value in _inputs_of(step):
            if isinstance(value, Path) and kind not in ("folder", "preset"):
                value = image.load(find_input(value, self._args.folder, photograph, name))
            found[name] = value
        return found

    # ------------------------------------------------------------------------------------------------------- results

    def _files(self, photograph: Path) -> list[Path]:
        """Where the results of a photograph go. Raises ValueError where another one's go already."""
        from photofound import image
        from photofound.edits.task import get_task

        folder = self._out / photograph.parent.relative_to(self._args.folder)
        last = self._recipe.steps[-1]
        task = get_task(last.task)
        usual, alpha = task.result_format(**last.inputs), task.result_alpha(**last.inputs)
        files = []
        for name, _ in self._recipe.formats:
            format = name or (image.suffix_of(usual) if usual else None)
            file = folder / f"{photograph.stem}{output_suffix(photograph, format, alpha)}"
            if (other := self._taken.setdefault(file, photograph)) != photograph:
                raise ValueError(f"{file}: both {other.name} and {photograph.name} go there; rename one")
            files.append(file)
        return files

    def _write(self, picture: Picture, files: list[Path], photograph: Path) -> None:
        from photofound import image
        from photofound.picture import provenance

        if self._args.no_recipe:
            picture = provenance.without_recipe(picture)
        for file, (_, quality) in zip(files, self._recipe.formats, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            told = picture if quality is None else replace(picture, lossless=False)  # a WebP may be either
            image.save(told, file, quality=quality, overwrite=True, sign=self._sign(photograph))


def _inputs_of(step: Step) -> Iterator[tuple[str, str, Any]]:
    """The inputs that a step names: name, kind, value."""
    from photofound.edits.task import get_task

    kinds = {each.name: each.kind for each in inputs_of(get_task(step.task))}
    yield from ((name, kinds[name], value) for name, value in step.inputs.items())


def _load(args: argparse.Namespace) -> Any:
    from photofound.cli.model import load_pipeline

    pipe = load_pipeline(args)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _model_key(args: argparse.Namespace) -> str:
    """What stands for the model and how it computes, without loading it; a model of the Hub by its id."""
    from photofound.model import fingerprint

    folder = fingerprint.embedded() if args.model is None else Path(args.model)
    files = fingerprint.of_folder(folder) if folder.is_dir() else ""
    return _digest(files, {name: str(getattr(args, name)) for name in _MODEL_OPTIONS if name != "model" or not files})


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _of_file(file: Path) -> str:
    """The digest of a file; "" if there is none."""
    if not file.is_file():
        return ""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------------------- journal


def _journal(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Which photographs are finished: name, and the digests of how and of the results' files. A killed run may have
    left half of a line."""
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            yield entry["name"], entry["made"]
        except (ValueError, TypeError, KeyError):
            continue


def _append(file: Path, entry: dict[str, Any]) -> None:
    """Add a line, in one write. It begins with a line break, in case the last one was cut off."""
    with open(file, "ab", buffering=0) as stream:
        stream.write(("\n" + json.dumps(entry)).encode("utf-8", "backslashreplace"))
