"""The command line: one command per task, built from the inputs that the task declares.

    photofound outpaint cup.png --prompt "on a marble table"
    photofound erase photos/ masks/ -o clean/

Results go beside the photograph as ``cup-outpaint.png``, those of a folder into ``photos-erase/`` beside it, unless
``-o`` says otherwise. A run over a folder, however it was stopped, goes on with ``--skip-existing``: a result has its
name only once it is whole, and one that is damaged since is made again. ``--report`` appends a line of JSON for each
photograph.

Nothing heavy is imported before it is needed: ``--help`` and a mistyped command answer at once. Bad input is one line
on stderr and status 2, never a traceback; in a folder a bad file is reported, the others are done, and the status is 1.
What can or cannot be printed changes neither.
"""

from __future__ import annotations

import argparse
import codecs
import difflib
import gc
import importlib
import json
import math
import os
import pkgutil
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from photofound.errors import one_line

if TYPE_CHECKING:
    from photofound.edits.task import Input, Task
    from photofound.picture.image import Picture
    from photofound.serve.app import ServeConfig

# What bad input, a full disk, too little memory or a missing package raise. Anything else is a bug and shows as one.
EXPECTED = (ValueError, OSError, ImportError, RuntimeError, MemoryError)
DTYPES = ("auto", "float32", "bfloat16", "float16")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 done, 1 some files of a folder failed, 2 refused, 130 interrupted."""
    with _printable(), _plain_warnings():
        try:
            return _dispatch(list(sys.argv[1:] if argv is None else argv))
        except KeyboardInterrupt:
            _say("interrupted")
            return 130
        except EXPECTED as error:
            _say(one_line(error))
            return 2


def _dispatch(argv: list[str]) -> int:
    name, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if name in ("-h", "--help", "help"):
        return _help()
    if name == "--version":
        from photofound import __version__

        print(f"photofound {__version__}")
        return 0
    if name in COMMANDS:
        return COMMANDS[name][0](rest)

    from photofound.edits.task import task_names

    if name in task_names():
        return _edit(name, rest)
    if name.startswith("-"):
        raise ValueError(f"option {name!r} needs a command before it; see 'photofound --help'")
    raise ValueError(_unknown("command", name, [*task_names(), *COMMANDS]))


# ----------------------------------------------------------------------------------------------- commands besides tasks


def _help() -> int:
    """Names only: what a task does is told by importing it, which takes seconds."""
    from photofound.edits.task import task_names

    print("usage: photofound COMMAND ...\n\nEdit photographs with one latent diffusion transformer.\n\nedits:")
    print(f"  {', '.join(task_names())}\n\nother commands:")
    for name, (_, text) in COMMANDS.items():
        print(f"  {name:<10}{text}")
    print("\n'photofound COMMAND --help' explains one command; --version prints the version.")
    return 0


def _tasks(argv: list[str]) -> int:
    """List every task with its inputs; one that cannot be imported does not hide the others."""
    from photofound.edits.task import get_task, task_names

    _Parser(prog="photofound tasks", description=COMMANDS["tasks"][1]).parse_args(argv)
    status = 0
    for name in task_names():
        try:
            task = get_task(name)
        except Exception as error:  # anything can be wrong with a file that somebody dropped in
            _say(f"task {name!r} cannot be loaded: {one_line(error)}")
            status = 1
            continue
        print(f"{name}: {task.summary}")
        for each in _options(task):
            print(f"  {_spelling(each):<22}{each.help.replace('%%', '%')}")
    return status


def _train(argv: list[str]) -> int:
    """Hand everything behind the stage's name to the stage."""
    import photofound.training

    stages = sorted(module.name for module in pkgutil.iter_modules(photofound.training.__path__))
    if not argv:
        raise ValueError(f"train: which stage? name one of {', '.join(stages)}")
    if argv[0] in ("-h", "--help"):
        print(
            f"usage: photofound train {'|'.join(stages)} --config FILE [--run_dir DIR] [--resume latest] [--a.b=c ...]"
        )
        return 0
    if argv[0] not in stages:
        raise ValueError(_unknown("training stage", argv[0], stages))
    return importlib.import_module(f"photofound.training.{argv[0]}").main(argv[1:]) or 0


def _convert(argv: list[str]) -> int:
    parser = _Parser(prog="photofound convert", description=COMMANDS["convert"][1])
    parser.add_argument(
        "--from-prx", required=True, type=_place, metavar="DIR_OR_ID", help="a PRX pipeline as diffusers saves it"
    )
    parser.add_argument(
        "-o", "--output", required=True, type=_place, metavar="DIR", help="new folder for the editing model"
    )
    args = parser.parse_args(argv)
    from photofound.model.prx import convert_prx

    convert_prx(args.from_prx, args.output)
    print(args.output)
    return 0


def _card(argv: list[str]) -> int:
    """``photofound.card.card`` says what the card is made of."""
    parser = _Parser(prog="photofound card", description=COMMANDS["card"][1])
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", type=_path, help="folders of runs or models, in the order of their making")
    add("--eval", type=_path, metavar="FILE", help="report.json of 'photofound eval'")
    add("--method", metavar="NAME", help="which of the report's methods it is; default: the one called like the model")
    rate: dict[str, Any] = {"type": _rate, "action": "append", "default": [], "metavar": "[DEVICE=]X"}
    add("--price", **rate, help="of a device for an hour; DEVICE is a part of its name, without it X is for all")
    add("--watts", **rate, help="that a device takes while it computes")
    add("-o", "--output", type=_path, metavar="DIR", help="the model's folder; default: that of the last RUN")
    args = parser.parse_args(argv)
    from photofound.card import card, record
    from photofound.data import photos

    last = args.runs[-1]
    folder = args.output or (last if (last / "model_index.json").is_file() else last / "model")
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"card: {folder} holds no model (no model_index.json); name its folder with -o")
    chain = record.join(*(record.of_folder(run, photos.origins) for run in args.runs))
    known = folder / card.EVALUATION if args.runs == [folder] else None  # of other weights it would not be true
    known = args.eval or (known if known and known.is_file() else None)
    report = card.read_report(known) if known else None
    print(card.write(folder, chain, report, args.method, dict(args.price), dict(args.watts)))
    return 0


def _demo(argv: list[str]) -> int:
    """Start the page in the browser. What visitors may choose is fixed here, by who starts it."""
    parser = _Parser(prog="photofound demo", description=COMMANDS["demo"][1])
    add = parser.add_argument
    add("--model", default="", metavar="ID_OR_DIR", help="a model of the Hub or a folder; default: the embedded one")
    add("--models", type=_path, metavar="DIR", help="offer the models (subfolders) and LoRAs (.safetensors) in it too")
    add("--host", default="127.0.0.1", help="0.0.0.0 lets others on the network in; default: this machine alone")
    add("--port", type=_count, metavar="N", help="default: the first free one from 7860 on")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: cuda where there is one")
    add("--share", action="store_true", help="a public address through Gradio's tunnel; never without this option")
    add("--open", action="store_true", help="open the page in the browser")
    add("--max-pixels", type=_count, default=40_000_000, metavar="N", help="largest photograph; default: 40 million")
    add("--max-upload", type=_count, default=50, metavar="MB", help="largest file to upload; default: 50")
    args = parser.parse_args(argv)
    if args.models is not None and not args.models.is_dir():
        raise ValueError(f"--models: {args.models} is not a folder; name one that holds models")
    try:
        app = importlib.import_module("photofound.demos.app")
    except ImportError as error:
        raise ImportError(
            f"the demo needs packages that are missing ({error}); pip install 'photofound[demo]'"
        ) from error
    importlib.import_module("photofound.pipeline")  # brings in the libraries that are to be quiet
    from photofound.device import resolve_device

    _hush_libraries()
    local = args.host in ("127.0.0.1", "localhost", "::1") and not args.share  # strangers must not fill the disk
    app.serve(
        app.Models(args.model, args.models, hub=local, device=str(resolve_device(args.device, "device"))),
        host=args.host,
        port=args.port,
        share=args.share,
        browser=args.open,
        max_pixels=args.max_pixels,
        max_upload=f"{args.max_upload}mb",
        ready=lambda address: print(f"photofound demo: {address} (Ctrl-C stops)", flush=True),
    )
    return 0


def _serve(argv: list[str]) -> int:
    """Bind the port first, so that a taken one is told before the model is loaded."""
    try:
        from photofound.serve import app as serve
    except ModuleNotFoundError as error:
        raise ValueError(f"serve needs {error.name}; pip install 'photofound[serve]'") from None

    args = _serve_parser(serve.ServeConfig()).parse_args(argv)
    keys = serve.read_keys(args.api_key_file)
    config = serve.ServeConfig(
        queue=args.queue,
        batch=args.batch,
        window=args.window / 1000,
        max_bytes=args.max_megabytes * 2**20,
        max_pixels=args.max_pixels,
        max_steps=args.max_steps,
        max_uploads=args.max_upload_megabytes * 2**20,
        read_seconds=args.read_seconds,
        edit_seconds=args.edit_seconds,
        formats=tuple(name.strip().upper() for name in args.formats.split(",")),
        keys=keys,
        hosts=_hosts(args.host, args.allow_host),
        origins=tuple(args.allow_origin),
    )
    with serve.listen(args.host, args.port) as listener:
        pipe = _load_pipeline(args)
        host, port = listener.getsockname()[:2]
        if not args.quiet:
            _print(f"http://{f'[{host}]' if ':' in host else host}:{port}/docs")
        if not keys and host not in ("127.0.0.1", "::1"):
            _say(f"warning: {host} is open to others and there is no API key; see --api-key-file")
        serve.run(pipe, config, listener)
    return 0


def _hosts(host: str, allowed: list[str]) -> tuple[str, ...]:
    """Names that the server answers to; none = all. On this machine only, another name is a page's trick."""
    if "*" in allowed:
        return ()
    return ("localhost", *allowed) if allowed or host in ("127.0.0.1", "::1", "localhost") else ()


def _serve_parser(default: ServeConfig) -> _Parser:
    parser = _Parser(prog="photofound serve", description=COMMANDS["serve"][1])
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; default: this machine only; 0.0.0.0: all")
    add("--port", type=_port, default=8000, metavar="N", help="default: 8000; 0: any free one")
    _add_model(add)
    add("--queue", type=_count, default=default.queue, metavar="N", help="requests that may wait; default: %(default)s")
    add("--batch", type=_count, default=default.batch, metavar="N", help="computed together; default: %(default)s")
    add(
        "--window",
        type=_finite,
        default=default.window * 1000,
        metavar="MS",
        help="a batch waits; default: %(default)s",
    )
    add(
        "--max-megabytes",
        type=_count,
        default=default.max_bytes // 2**20,
        metavar="N",
        help="of a request; default: %(default)s",
    )
    add("--max-pixels", type=_count, default=default.max_pixels, metavar="N", help="of a picture; default: 24 million")
    add("--max-steps", type=_count, default=default.max_steps, metavar="N", help="of an edit; default: %(default)s")
    add(
        "--max-upload-megabytes",
        type=_count,
        default=default.max_uploads // 2**20,
        metavar="N",
        help="of all requests together, in memory and on disk; default: %(default)s",
    )
    seconds: dict[str, Any] = {"type": _finite, "metavar": "S"}
    add("--read-seconds", default=default.read_seconds, help="to read a picture; default: %(default)s", **seconds)
    add("--edit-seconds", default=default.edit_seconds, help="for an edit once begun; default: %(default)s", **seconds)
    add(
        "--formats",
        default=",".join(default.formats).lower(),
        metavar="A,B",
        help="that are read; default: %(default)s",
    )
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="in the header Host, beside addresses and localhost; may be repeated; *: all, which is the default unless "
        "--host is this machine only",
    )
    add(
        "--allow-origin",
        action="append",
        default=[],
        metavar="URL",
        help="of pages elsewhere that may call the server, such as https://example.com; may be repeated; *: all",
    )
    add(
        "--api-key-file",
        type=_place,
        metavar="FILE",
        help="keys, one per line; without it, $PHOTOFOUND_API_KEY if it is set",
    )
    add("--quiet", action="store_true", help="print errors and warnings only")
    return parser


def _eval(argv: list[str]) -> int:
    """The same as ``photofound train evaluate``: who judges a model does not look for it among what trains one."""
    return importlib.import_module("photofound.training.evaluate").main(argv)


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "tasks": (_tasks, "list the edits with their inputs"),
    "demo": (_demo, "try the edits in a browser, on this machine"),
    "train": (_train, "train a model: photofound train STAGE --config FILE"),
    "card": (_card, "write a model's card from what its training recorded"),
    "serve": (_serve, "serve the edits over HTTP: photofound serve --port N"),
    "eval": (_eval, "judge models and other methods on photographs, and write a report"),
    "convert": (_convert, "make an editing model of a PRX text-to-image pipeline"),
}


# ------------------------------------------------------------------------------------------------------- parsing a task


class _Parser(argparse.ArgumentParser):
    """argparse, but an error is a ValueError of one line, like every other error here."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see '{self.prog} --help'")


def _parser(task: Task) -> _Parser:
    """``photofound TASK IMAGE [required inputs] [other inputs] [common options]``."""
    parser = _Parser(prog=f"photofound {task.name}", description=task.summary)
    parser.add_argument("image", metavar="IMAGE", type=_path, help="a photograph, or a folder of them")
    for each in _options(task):
        flags = [each.name] if each.required else ["--" + each.name.replace("_", "-")]
        parser.add_argument(*flags, metavar=_metavar(each), type=_type(task, each), help=_help_text(each))
    _add_common(parser, saves_subject=any(each.name == "subject" for each in _options(task)))
    return parser


def _add_common(parser: _Parser, saves_subject: bool) -> None:
    from photofound.edits.task import LARGEST_SEED, LEAST_SEED

    add = parser.add_argument_group("common options").add_argument
    add(
        "-o",
        "--output",
        metavar="PATH",
        type=_place,
        help="a file; or a folder: one that exists, or a name ending in /, which is created. Default: beside IMAGE",
    )
    add("--recursive", action="store_true", help="of a folder, edit the photographs in its folders, too")
    _add_model(add)
    add("--steps", type=_count, metavar="N", help="sampling steps; default: the model's")
    add("--guidance", type=_finite, metavar="X", help="how strongly to follow the prompt; default: the model's")
    add(
        "--seed",
        type=_whole(LEAST_SEED, LARGEST_SEED),
        default=0,
        metavar="N",
        help="same seed, same result; default: 0",
    )
    add("--num-images", type=_count, default=1, metavar="N", help="variants, numbered -1, -2, ...; default: 1")
    add("--format", metavar="NAME", help="png, jpg, webp, avif, tif or bmp; default: as IMAGE")
    add("--strip", action="store_true", help="leave out where the photograph was taken (GPS in EXIF, places in XMP)")
    add("--no-mark", action="store_true", help="do not say in the metadata that a part of the picture was generated")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    existing.add_argument(
        "--skip-existing", action="store_true", help="leave photographs alone whose outputs exist: go on after a stop"
    )
    add(
        "--report", metavar="FILE", type=_path, help="append a line of JSON per photograph: status, seconds, error, ..."
    )
    add("--quiet", action="store_true", help="print errors and warnings only")
    add("--max-pixels", type=_count, metavar="N", help="largest image to open, in pixels; default: 200 million")
    if saves_subject:
        add("--save-subject", action="store_true", help="also write what was kept, as a mask, to NAME-subject.png")


def _add_model(add: Callable[..., Any]) -> None:
    """Which model, and where and how it computes."""
    add("--model", metavar="ID_OR_DIR", type=_place, help="a model of the Hub or a folder; default: the embedded one")
    add("--teacher", action="store_true", help="of a model of few steps, the one of many that it was distilled from")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: cuda where there is one")
    add("--dtype", default="auto", choices=DTYPES, help="precision of the weights; default: auto")


def _options(task: Task) -> list[Input]:
    """The declared inputs but the photograph itself, required ones first."""
    from photofound.edits.task import offered

    return sorted(offered(task, folders=True), key=lambda each: not each.required)


def _metavar(each: Input) -> str:
    kinds = {"folder": "DIR", "image": "IMAGE", "mask": "MASK", "text": "TEXT", "int": "N"}
    kinds |= {"length": "PX|N%", "aspect": "W:H", "size": "WxH"}
    if each.required:
        return each.name.removesuffix("_image").upper()
    return kinds.get(each.kind, each.name.upper())


def _spelling(each: Input) -> str:
    return _metavar(each) if each.required else f"--{each.name.replace('_', '-')} {_metavar(each)}"


def _help_text(each: Input) -> str:
    """Per cent signs doubled, as argparse wants them, whether or not they are already."""
    return each.help.replace("%%", "%").replace("%", "%%")


def _type(task: Task, each: Input) -> Callable[[str], Any]:
    """How to read an input of this kind from the command line."""
    from photofound.edits.task import FILE_KINDS, FOLDER, SPELLINGS

    if each.kind in (*FILE_KINDS, FOLDER):
        return _path
    if each.kind not in SPELLINGS:
        kinds = ", ".join((*SPELLINGS, *FILE_KINDS, FOLDER))
        raise ValueError(f"task {task.name!r}: input {each.name!r} has kind {each.kind!r}; use {kinds}")

    def read(text: str) -> Any:
        try:
            return each.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _whole(least: int, most: int) -> Callable[[str], int]:
    """A type for argparse: a whole number of that range; the error says the range."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,30}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return read


_count = _whole(1, 10**12)
_port = _whole(0, 65535)


def _place(text: str) -> str:
    """The name of a file or folder. ``-`` would be one, too, but who writes it means a pipe."""
    if not text:
        raise argparse.ArgumentTypeError("'' is no name of a file or folder")
    if text == "-":
        raise argparse.ArgumentTypeError(
            "'-' is not supported, pictures go from file to file; for a file of that name, write ./-"
        )
    return text


def _path(text: str) -> Path:
    return Path(_place(text))


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def _rate(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    if (rate := _finite(value)) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is below 0")
    return name, rate


# ---------------------------------------------------------------------------------------------------- planning the work


@dataclass(frozen=True)
class Work:
    """One photograph and where its results go."""

    image: Path
    outputs: list[Path]
    subject: Path | None = None  # where to write the subject's mask
    error: Exception | None = None  # why it cannot be begun

    @property
    def files(self) -> list[Path]:
        """All that is written."""
        return [*self.outputs, *([self.subject] if self.subject else [])]

    def is_done(self) -> bool:
        """Whether all results are there, whole. One that is not is named, and will be made again."""
        from photofound.picture import image

        there = [path for path in self.files if path.is_file()]
        broken = [path for path in there if not image.is_whole(path)]
        for path in broken:
            _say(f"warning: {path}: is not a whole picture and is made again")
        return len(there) == len(self.files) and not broken


def _plan(task: Task, args: argparse.Namespace) -> list[Work]:
    """What is to be done. All that is wrong about the outputs is found here, before the model is even loaded: what is
    wrong for one photograph of a folder stops that one alone."""
    from photofound.picture import image

    if args.format is not None:
        image.output_format(None, None, args.format, task.alpha)
    _require(args.image)
    for name in _given_files(task, args):
        _require(getattr(args, name))
    folder = args.image.is_dir()
    if args.recursive and not folder:
        raise ValueError(f"--recursive: {args.image} is not a folder; leave the option out")
    work: list[Work] = []
    taken: dict[Path, Path] = {}
    for photograph in _photographs(task, args) if folder else [args.image]:
        try:
            each = _work(task, args, photograph, folder)
            for path in each.files:
                if (other := taken.setdefault(path, photograph)) != photograph:
                    raise ValueError(f"{path}: both {other.name} and {photograph.name} go there; rename one")
                _check_output(path, args, folder)
            image.output_format(None, each.outputs[0], args.format, task.alpha)
        except FileExistsError:  # nothing is done yet, and what to do about it holds for all
            raise
        except (OSError, ValueError) as error:
            each = Work(photograph, [], error=error)
        work.append(each)
    if all(each.error for each in work):
        raise next(each.error for each in work if each.error)
    if args.report is not None:
        image.check_output(args.report, overwrite=True)
        if args.report in taken or _is_picture(args.report):
            raise ValueError(f"--report: {args.report} is a picture, or named like one; name another file")
    return work


def _check_output(path: Path, args: argparse.Namespace, folder: bool) -> None:
    from photofound.picture import image

    try:
        image.check_output(path, args.overwrite or args.skip_existing)
    except FileExistsError as error:
        raise FileExistsError(f"{error}" + (", or --skip-existing to go on" if folder else "")) from None


def _photographs(task: Task, args: argparse.Namespace) -> list[Path]:
    """The photographs of a folder, sorted. What is passed over is said, but for what this command itself names."""
    found: list[Path] = []
    passed: dict[str, list[str]] = {}
    named = [getattr(args, name) for name in _given_files(task, args)]
    named += [Path(each) for each in (args.output, args.report, getattr(args, "gallery", None)) if each]
    own = {path.resolve() for path in named} - {args.image.resolve()}

    def unreadable(error: OSError) -> None:
        if Path(error.filename) == args.image:
            raise error
        passed.setdefault("cannot be read", []).append(error.filename)

    for top, folders, names in os.walk(args.image, onerror=unreadable):
        here = [path for path in map(Path(top).joinpath, sorted(names)) if path.resolve() not in own]
        below = [path for path in map(Path(top).joinpath, sorted(folders)) if path.resolve() not in own]
        results = _results(task, args, Path(top), [path.stem for path in here])
        for path in here:
            if path.name.startswith("."):
                passed.setdefault("hidden", []).append(path.name)
            elif not _is_picture(path):
                passed.setdefault("no picture", []).append(path.name)
            elif path.stem in results:
                passed.setdefault("a result of this edit", []).append(path.name)
            else:
                found.append(path)
        entered = [p for p in below if args.recursive and not p.name.startswith(".") and not p.is_symlink()]
        why = "a folder that is hidden or a link" if args.recursive else "a folder, see --recursive"
        passed.setdefault(why, []).extend(path.name for path in below if path not in entered)
        folders[:] = [path.name for path in entered]
    said = "; ".join(f"{_some(names)} ({why})" for why, names in passed.items() if names)
    if not found:
        advice = f"; passed over: {said}" if said else ""
        raise ValueError(f"{args.image}: the folder holds no image to edit, name another{advice}")
    if said and not args.quiet:
        _say(f"{args.image}: passed over {said}")
    return sorted(found)


def _results(task: Task, args: argparse.Namespace, folder: Path, stems: Sequence[str]) -> set[str]:
    """Which of a folder's stems are results of the others: those that this run would write into that same folder."""
    if args.output is None or Path(args.output).resolve() != args.image.resolve():
        return set()
    known = set(stems)
    made = {stem: re.fullmatch(rf"(.+)-{re.escape(task.name)}(-\d+)?(-subject)?", stem, re.DOTALL) for stem in stems}
    return {stem for stem, match in made.items() if match and match[1] in known}


def _is_picture(path: Path) -> bool:
    """By its suffix; a file without one by its first bytes."""
    from photofound.picture.image import READABLE_SUFFIXES

    return path.suffix.lower() in READABLE_SUFFIXES if path.suffix else _kind(path) is not None


def _some(names: Sequence[str], most: int = 3) -> str:
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])


def _require(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check the path")
    if not path.is_dir() and not path.is_file():
        raise ValueError(f"{path}: is not a regular file; name one image file or a folder")


def _given_files(task: Task, args: argparse.Namespace) -> list[str]:
    """Names of the inputs that are files and were given."""
    from photofound.edits.task import FILE_KINDS

    return [each.name for each in _options(task) if each.kind in FILE_KINDS and getattr(args, each.name) is not None]


def _work(task: Task, args: argparse.Namespace, photograph: Path, folder: bool) -> Work:
    """Name the outputs of one photograph: PATH, or NAME-TASK.SUFFIX in a folder; numbered where there are several."""
    target = Path(args.output) if args.output else None
    if target is None or folder or target.is_dir() or args.output.endswith(("/", os.sep)):
        target = target or _default_folder(task, args.image, folder)
        target = target / photograph.parent.relative_to(args.image) if folder else target
        target.mkdir(parents=True, exist_ok=True)
        target = target / f"{photograph.stem}-{task.name}{_suffix(photograph, args.format, task.alpha)}"
    numbers = [""] if args.num_images == 1 else [f"-{n + 1}" for n in range(args.num_images)]
    outputs = [target.with_name(f"{target.stem}{number}{target.suffix}") for number in numbers]
    saves_subject = getattr(args, "save_subject", False)
    return Work(photograph, outputs, target.with_name(f"{target.stem}-subject.png") if saves_subject else None)


def _default_folder(task: Task, path: Path, folder: bool) -> Path:
    """Beside a photograph; for a folder not inside it, where a second run would edit the results of the first."""
    if not folder:
        return path.parent
    path = path if path.name not in ("", "..") else path.resolve()
    return path.parent / f"{path.name}-{task.name}"


_MAGIC = {
    rb"\x89PNG": "PNG",
    rb"\xff\xd8": "JPEG",
    rb"RIFF....WEBP": "WEBP",
    rb"II[*+]\0|MM\0[*+]": "TIFF",
    rb"BM": "BMP",
    rb"....ftypavi[fs]": "AVIF",
    rb"GIF8[79]a": "GIF",
    rb"P[1-6Ff]\s": "PPM",
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": "JPEG2000",
    rb"....ftyp(hei[cxms]|mif1)": "HEIF",
}


def _kind(path: Path) -> str | None:
    """The format by the file's first bytes; None for what is no picture, no file, or cannot be opened."""
    try:
        if not path.is_file():  # opening a pipe would wait for somebody to write
            return None
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return None
    return next((name for magic, name in _MAGIC.items() if re.match(magic, start, re.DOTALL)), None)


def _suffix(photograph: Path, format: str | None, alpha: bool = False) -> str:
    """The output's suffix: of the format asked for, else of what the photograph is (whatever its name), else .png. With
    ``alpha`` it is .png, too, where the photograph's format holds none."""
    from photofound.picture.image import HOLDS_ALPHA, SUFFIXES, output_format, suffix_of

    if format is not None:
        return suffix_of(output_format(None, None, format))
    named, known = SUFFIXES.get(photograph.suffix.lower()), _kind(photograph)
    kind = known or named
    if kind is None or kind not in SUFFIXES.values() or (alpha and kind not in HOLDS_ALPHA):
        return ".png"
    return photograph.suffix if named == kind else suffix_of(kind)


# ------------------------------------------------------------------------------------------------------- doing the work


def _edit(name: str, argv: list[str]) -> int:
    from photofound.edits.task import get_task

    with _not_collecting():
        task = get_task(name)
    args = _parser(task).parse_args(argv)
    if args.max_pixels is not None:
        os.environ["PHOTOFOUND_MAX_PIXELS"] = str(args.max_pixels)  # masks and enlarged canvases obey it too
    work = _plan(task, args)
    model = cache(lambda: _load_model(task, args))
    if args.image.is_dir():
        return _edit_folder(task, args, work, model)
    status, error = _try_one(task, args, work[0], model)
    if error:
        raise error
    if status == "skipped" and not args.quiet:
        _say("the photograph was edited before and is skipped")
    return 0


def _edit_folder(task: Task, args: argparse.Namespace, work: list[Work], model: Callable[[], Any]) -> int:
    failed = skipped = 0
    for each in _bar(work, args.quiet):
        with _warnings_name(each.image):
            status, error = _try_one(task, args, each, model)
        if error:
            line = one_line(error)
            _say(line if str(each.image) in line else f"{each.image}: {line}")
        failed += error is not None
        skipped += status == "skipped"
    if skipped and not args.quiet:
        _say(f"{skipped} of {len(work)} photographs were edited before and are skipped")
    if failed:
        _say(f"{failed} of {len(work)} files failed")
    return 1 if failed else 0


def _try_one(
    task: Task, args: argparse.Namespace, work: Work, model: Callable[[], Any]
) -> tuple[str, Exception | None]:
    """Edit one photograph and report on it; returns how that went, and what went wrong."""
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
    """Append one line. It is written at once and whole, so that a run that is killed leaves no half of one."""
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
    """Read, edit, write. The files are read before the model is loaded, so that a bad one is told at once."""
    from photofound.edits.request import Request
    from photofound.picture import image, provenance

    picture = image.load(work.image)
    if args.strip:
        picture = picture.without_location()
    inputs = _inputs(task, args, work.image)
    format = image.output_format(picture, work.outputs[0], args.format, task.alpha)
    image.check_fit(picture, format, task.result_size(picture, **inputs))  # told before the work
    request = Request(task.name, picture, inputs, args.seed, args.steps, args.guidance)
    edited = model().answer(request, args.num_images)
    images = edited.images
    if (note := images[0].note) and not args.quiet:
        _say(note)
    overwrite = args.overwrite or args.skip_existing  # of several variants some may be there
    for path, result in zip(work.outputs, images, strict=True):
        result = result if args.no_mark or not task.generates else provenance.mark(result)
        image.save(result, path, format, overwrite=overwrite)
    if work.subject is not None:
        image.save((edited.keep * 255).round().astype("uint8"), work.subject, overwrite=overwrite)
    if not args.quiet:
        for path in work.files:
            _print(str(path))


def _inputs(task: Task, args: argparse.Namespace, photograph: Path) -> dict[str, Any]:
    """The task's inputs for one photograph; what was left out and has no default is left to the pipeline."""
    inputs = {}
    for each in _options(task):
        value = getattr(args, each.name)
        value = each.default if value is None else value
        if isinstance(value, Path) and each.kind != "folder":
            value = _read(value, args.image, photograph, each.name)
        if value is None and each.name == "prompt":
            value = ""
        if value is not None:
            inputs[each.name] = value
    return inputs


def _read(path: Path, top: Path, photograph: Path, name: str) -> Picture:
    """The picture at ``path`` or, where that is a folder, the one in it with the photograph's stem; for a photograph in
    a folder below ``top``, in the folder of that name below ``path``."""
    from photofound.picture import image

    if path.is_dir():
        folder = path / photograph.parent.relative_to(top) if top.is_dir() else path
        names = os.listdir(folder) if folder.is_dir() else []  # pathlib takes seconds for a large folder
        named = (folder / each for each in names if os.path.splitext(each)[0] == photograph.stem)
        matches = sorted(each for each in named if _is_picture(each))
        if len(matches) != 1:
            found = " and ".join(p.name for p in matches[:2]) or "nothing"
            what = name.removesuffix("_image")
            raise ValueError(
                f"{photograph}: {folder} must hold one {what} called {photograph.stem}.*, it holds {found}"
            )
        path = matches[0]
    return image.load(path)


def _load_model(task: Task, args: argparse.Namespace) -> Any:
    """The task's pipeline, on its device, with a bar for a person who waits for one picture."""
    pipe = _load_pipeline(args).for_task(task.name, quiet=False)
    one = not args.image.is_dir()
    pipe.set_progress_bar_config(disable=args.quiet or not one or not sys.stderr.isatty(), leave=False)
    return pipe


def _load_pipeline(args: argparse.Namespace) -> Any:
    """The model, on its device."""
    import torch

    from photofound.device import fast_dtype, resolve_device
    from photofound.pipeline import EditPipeline

    device = str(resolve_device(args.device, "device"))
    _hush_libraries()
    source = [] if args.model is None else [args.model]
    dtype = fast_dtype(device) if args.dtype == "auto" else getattr(torch, args.dtype)
    try:
        with _not_collecting():
            pipe = EditPipeline.from_pretrained(*source, teacher=args.teacher, torch_dtype=dtype)
    except OSError as error:  # the Hub's and diffusers' run to several lines of advice for programmers
        if str(error).startswith("model:"):
            raise  # ours, and already clear
        advice = "--model takes a folder, or the id of a model that is cached or on the Hub"
        raise ValueError(f"{_first_sentence(error)}; {advice}") from error
    pipe.to(device)
    return pipe


@contextmanager
def _not_collecting() -> Iterator[None]:
    """While libraries and weights are loaded nothing becomes garbage, and looking for it takes a sixth of the time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _hush_libraries() -> None:
    """Their chatter and loading bars; what goes wrong is raised anyway."""
    for name in ("diffusers.utils.logging", "transformers.utils.logging"):
        if name.partition(".")[0] in sys.modules:
            logging = importlib.import_module(name)
            logging.set_verbosity_error()
            logging.disable_progress_bar()


# ---------------------------------------------------------------------------------------------------- talking to people


def _bar(work: Iterable[Work], quiet: bool) -> Iterable[Work]:
    from tqdm import tqdm

    return tqdm(work, unit="file", disable=quiet or not sys.stderr.isatty())


def _say(line: str) -> None:
    """One line on stderr."""
    _print(f"photofound: {line}", sys.stderr)


def _print(line: str, file: Any = None) -> None:
    """Print without tearing a progress bar."""
    from tqdm import tqdm

    tqdm.write(line, file=file)


def _first_sentence(error: BaseException) -> str:
    """What torch and the Hub have to say, without their advice for programmers."""
    return re.split(r"\.\s|\n|\.$|\s\(", str(error))[0]


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"{what} {name!r} is unknown; " + (f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}")


class _Stream:
    """A standard stream whose failures decide nothing: what cannot be written is dropped.

    Its reader may have gone (``| head``), its disk may be full, or there is none (a service, ``>&-``). From the first
    failure on it leads nowhere, so that what it still holds does not fail once more when Python ends.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, call: Callable[..., Any], *args: Any) -> None:
        try:
            call(*args)
        except BrokenPipeError:  # whoever read it has seen enough
            self._lead_nowhere()
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self._lead_nowhere()
            if self is sys.stdout:
                _say(f"warning: the list of results cannot be printed any more ({one_line(error)})")

    def _lead_nowhere(self) -> None:
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _as_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    """What to print where a stream's encoding lacks a character: the bytes of a file name that is not UTF-8 as they
    are, so that other programs find the file; anything else as its number."""
    assert isinstance(error, UnicodeEncodeError)  # of a stream that is written to
    bytewise = not error.encoding.startswith(("utf-16", "utf-32", "utf_16", "utf_32"))
    try:
        return codecs.lookup_error("surrogateescape" if bytewise else "backslashreplace")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


codecs.register_error("photofound", _as_bytes)


@contextmanager
def _printable() -> Iterator[None]:
    """Printing never decides whether an edit succeeds: no name is beyond stdout's encoding, no lost reader an error."""
    given = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    with ExitStack() as after:
        for name, stream in given.items():
            after.callback(setattr, sys, name, stream)
            if stream is None or stream.closed:
                stream = open(os.devnull, "w", encoding="utf-8")
            if isinstance(stream, TextIOWrapper):  # else a notebook's or a test's own
                after.callback(stream.reconfigure, errors=stream.errors, line_buffering=stream.line_buffering)
                stream.reconfigure(errors="photofound", line_buffering=True)
            setattr(sys, name, _Stream(stream))
            after.callback(getattr(sys, name).flush)
        yield


@contextmanager
def _warnings_name(photograph: Path) -> Iterator[None]:
    """Of many photographs, each warning says which one it is about, once."""
    show, said = warnings.showwarning, set()

    def named(message: Warning | str, *rest: Any, **more: Any) -> None:
        text = str(message)
        if text not in said:
            said.add(text)
            show(text if str(photograph) in text else f"{photograph}: {text}", *rest, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)  # else what was said of one is not said of the next
        warnings.showwarning = named
        yield


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as one line for people, once, without the line of code; those for developers stay silent."""
    said = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        line = " ".join(str(message).split())
        if line not in said:
            said.add(line)
            _say(f"warning: {line}")

    with warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        yield


if __name__ == "__main__":
    raise SystemExit(main())
