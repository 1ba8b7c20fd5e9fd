"""The commands besides edits and the server. Each imports what it needs after its arguments are read."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from photofound.cli import completion, export, learn, mcp, proof, room, run, serve
from photofound.cli.arguments import Parser, add_optimizations, add_runtime, count, file_name, path, rate, unknown
from photofound.cli.console import say
from photofound.cli.model import optimize, quiet_libraries, without_gc
from photofound.cli.options import inputs_of, spelling, task_parser
from photofound.errors import one_line

if TYPE_CHECKING:
    from photofound.edits.task import Task


# ---------------------------------------------------------------------------------------------------------------- tasks


def loaded_tasks() -> Iterator[tuple[str, Task | None]]:
    """Every task's name and the task. It is None, and stderr says why, if its file cannot be imported."""
    from photofound.edits.task import get_task, task_names

    for name in task_names():
        try:
            yield name, get_task(name)
        except Exception as error:  # a user's file may raise anything
            say(f"task {name!r} cannot be loaded: {one_line(error)}")
            yield name, None


def _tasks(argv: list[str]) -> int:
    _parser("tasks").parse_args(argv)
    status = 0
    for _, task in loaded_tasks():
        if task is None:
            status = 1
            continue
        print(f"{task.name}: {task.summary}")
        for each in inputs_of(task):
            print(f"  {spelling(each):<22}{each.help.replace('%%', '%')}")
    return status


# ---------------------------------------------------------------------------------------------------- train, eval, card


def _train(argv: list[str]) -> int:
    """Pass the arguments after the stage's name on to the stage."""
    import photofound.training

    stages = training_stages()
    if not argv:
        raise ValueError(f"train: which stage? name one of {', '.join(stages)}")
    stage, *rest = argv
    if stage in ("-h", "--help"):
        print("usage: photofound train STAGE --config FILE [--run_dir DIR] [--resume latest] [--a.b=c ...]\n\nstages:")
        for name, summary in stages.items():
            print(f"  {name:<17}{summary}")
        print("\n'photofound train STAGE --help' lists the settings of a stage.")
        return 0
    if stage not in stages:
        raise unknown("training stage", stage, list(stages))
    return photofound.training.run(stage, rest)


def training_stages() -> dict[str, str]:
    """The stages of training and the first line of each file's docstring. Nothing is imported: they import torch."""
    import photofound.training

    stages = {}
    for module in pkgutil.iter_modules(photofound.training.__path__):
        path = Path(photofound.training.__path__[0]) / f"{module.name}.py"
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        stages[module.name] = text.partition("\n")[0].rstrip(".:")
    return dict(sorted(stages.items()))


def _eval(argv: list[str]) -> int:
    """The same as ``photofound train evaluate``."""
    return importlib.import_module("photofound.training.evaluate").main(argv)


def _card(argv: list[str]) -> int:
    args = _card_parser().parse_args(argv)
    from photofound.card import card, record
    from photofound.card.evaluation import read_report
    from photofound.data import photos

    last = args.runs[-1]
    folder = args.output or (last if (last / "model_index.json").is_file() else last / "model")
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"card: {folder} holds no model (no model_index.json); name its folder with -o")
    history = record.join(*(record.of_folder(run, photos.origins) for run in args.runs))
    own = folder / card.EVALUATION if args.runs == [folder] else None  # any other run changed the weights
    evaluation = args.eval or (own if own and own.is_file() else None)
    report = read_report(evaluation) if evaluation else None
    print(card.write(folder, history, report, args.method, dict(args.price), dict(args.watts)))
    return 0


def _card_parser() -> Parser:
    parser = _parser("card")
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", type=path, help="folders of runs or models, the first training first")
    add("--eval", type=path, metavar="FILE", help="report.json of 'photofound eval'")
    add("--method", metavar="NAME", help="the report's method that is this model; default: the one of the same name")
    rates: dict[str, Any] = {"type": rate, "action": "append", "default": [], "metavar": "[DEVICE=]X"}
    add("--price", **rates, help="price of a device for an hour; DEVICE: a part of its name; without it: all devices")
    add("--watts", **rates, help="power of a device while it computes")
    add("-o", "--output", type=path, metavar="DIR", help="the model's folder; default: that of the last RUN")
    return parser


def _cost(argv: list[str]) -> int:
    """What a recipe takes and costs: as the dry run says it, without taking a step."""
    import photofound.training
    from photofound.train import price

    args, overrides = _cost_parser().parse_known_args(argv)
    for line in photofound.training.cost(args.recipe, args.stage, price.budget_of(args), overrides):
        print(line, flush=True)
    return 0


def _cost_parser() -> Parser:
    from photofound.train import price

    parser = _parser("cost")
    add = parser.add_argument
    add("recipe", metavar="RECIPE", type=path, help="a file of settings, as 'photofound train STAGE --config' takes it")
    add("--stage", metavar="STAGE", help="what it is for; default: by its name and its settings")
    price.add_options(parser, gpu="H200")
    return parser


def _convert(argv: list[str]) -> int:
    args = _convert_parser().parse_args(argv)
    from photofound.model.prx import convert_prx

    convert_prx(args.from_prx, args.output)
    print(args.output)
    return 0


def _convert_parser() -> Parser:
    parser = _parser("convert")
    add = parser.add_argument
    prx = "a PRX pipeline in diffusers layout: a folder, or an id of the Hub"
    add("--from-prx", required=True, type=file_name, metavar="DIR_OR_ID", help=prx)
    add("-o", "--output", required=True, type=file_name, metavar="DIR", help="new folder for the editing model")
    return parser


def _unshard(argv: list[str]) -> int:
    args = _unshard_parser().parse_args(argv)
    from photofound.train import shards

    print(shards.unshard(args.checkpoint, args.output))
    return 0


def _unshard_parser() -> Parser:
    parser = _parser("unshard")
    add = parser.add_argument
    add("checkpoint", type=path, metavar="STEP_DIR", help="RUN/checkpoints/step-N, of a run with train.save_as=shards")
    add("-o", "--output", type=path, metavar="DIR", help="new folder for the whole one; default: in its place")
    return parser


# ---------------------------------------------------------------------------------------------------------------- check


def _check(argv: list[str]) -> int:
    """Hold files to a marketplace's rules. Status 0: all would be accepted, 1: not all."""
    args = _check_parser().parse_args(argv)
    from photofound.edits import presets
    from photofound.edits.check import faults

    preset = presets.load(args.preset)
    refused = 0
    for file in args.files:
        found = faults(file, preset)
        for fault in found:
            print(f"{file}: {fault}")
        if not found:
            print(f"{file}: accepted by {preset.name}")
        refused += bool(found)
    return 1 if refused else 0


def _check_parser() -> Parser:
    parser = _parser("check")
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", type=path, help="pictures")
    add(
        "--preset",
        required=True,
        metavar="NAME|FILE",
        type=_preset,
        help="amazon-main, ebay, etsy, ..., or a .yaml file",
    )
    return parser


def _preset(text: str) -> str | Path:
    from photofound.edits.inputs import names_file

    return path(text) if names_file("preset", text) else text


# ----------------------------------------------------------------------------------------------------------------- demo


def _demo(argv: list[str]) -> int:
    """Start the page in the browser. The command line fixes what visitors may choose."""
    args = _demo_parser().parse_args(argv)
    if args.models is not None and not args.models.is_dir():
        raise ValueError(f"--models: {args.models} is not a folder; name one that holds models")
    try:
        with without_gc():
            app = importlib.import_module("photofound.demos.app")
            importlib.import_module("photofound.pipeline")  # and the libraries that quiet_libraries switches off
    except ImportError as error:
        reason = f"the demo needs packages that are missing ({error}); pip install 'photofound[demo]'"
        raise ImportError(reason) from error
    from photofound.device import resolve_device

    quiet_libraries()
    device = str(resolve_device(args.device, "device"))
    local = args.host in ("127.0.0.1", "localhost", "::1") and not args.share
    app.serve(
        # Only on this machine may the page download models: other visitors must not fill the disk.
        app.Models(
            args.model,
            args.models,
            hub=local,
            device=device,
            segmenters=args.segmenter,
            runtime=args.runtime,
            optimize=lambda pipe: optimize(pipe, args),
        ),
        host=args.host,
        port=args.port,
        share=args.share,
        browser=args.open,
        max_pixels=args.max_pixels,
        max_upload=args.max_upload * 1_000_000,
        choices=args.choices,
        ready=lambda address: print(f"photofound demo: {address} (Ctrl-C stops)", flush=True),
    )
    return 0


def _demo_parser() -> Parser:
    parser = _parser("demo")
    add = parser.add_argument
    add("--model", default="", metavar="ID_OR_DIR", help="a folder, or an id of the Hub; default: the embedded one")
    add("--models", type=path, metavar="DIR", help="a folder of further models (subfolders) and LoRAs (.safetensors)")
    add("--host", default="127.0.0.1", help="default: this machine only; 0.0.0.0: all networks")
    add("--port", type=count, metavar="N", help="default: the first free one from 7860 on")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: cuda if there is one")
    add_runtime(parser)
    segmenter = "what visitors may find subjects with, beside the model's own way; may be repeated: docs/segmenters.md"
    add("--segmenter", action="append", default=[], metavar="NAME", help=segmenter)
    add("--share", action="store_true", help="get a public address through Gradio's tunnel")
    add("--open", action="store_true", help="open the page in the browser")
    help = "keep in this folder which variant was taken, with the pictures, for 'photofound learn'; visitors are asked"
    add("--choices", type=path, metavar="DIR", help=help)
    add("--max-pixels", type=count, default=40_000_000, metavar="N", help="largest photograph; default: 40 million")
    add("--max-upload", type=count, default=50, metavar="MB", help="largest file to upload; default: 50")
    add_optimizations(parser)
    return parser


# ----------------------------------------------------------------------------------------------------------- completion


def parsers() -> dict[str, Parser]:
    """The parsers of all commands, by name: for completion, and for the manual's page of the command line."""
    train = _parser("train")
    train.add_argument("stage", choices=list(training_stages()), metavar="STAGE", help=", ".join(training_stages()))
    train.add_argument("--config", type=path, metavar="FILE", help="the settings, as YAML or JSON")
    train.add_argument(
        "--run-dir", type=path, metavar="DIR", help="where checkpoints, metrics, samples and the model go"
    )
    made = {task.name: task_parser(task) for _, task in loaded_tasks() if task is not None}
    made |= {"tasks": _parser("tasks"), "run": run.run_parser(), "verify": proof.verify_parser()}
    made |= {"redo": proof.redo_parser(), "demo": _demo_parser(), "learn": learn.learn_parser(), "train": train}
    made |= {"card": _card_parser(), "cost": _cost_parser(), "serve": serve.serve_parser(), "mcp": mcp.mcp_parser()}
    made |= {"eval": importlib.import_module("photofound.training.evaluate").parser(), "check": _check_parser()}
    made |= {"completion": completion.completion_parser(), "convert": _convert_parser()}
    made |= {"room": room.room_parser(), "export": export.export_parser(), "unshard": _unshard_parser()}
    return made


def _completion(argv: list[str]) -> int:
    return completion.run(argv, parsers)


# --------------------------------------------------------------------------------------------------------- the commands


def _parser(name: str) -> Parser:
    return Parser(prog=f"photofound {name}", description=COMMANDS[name][1])


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "tasks": (_tasks, "list the edits with their inputs"),
    "run": (run.run, run.SUMMARY),
    "verify": (proof.verify, proof.VERIFY),
    "redo": (proof.redo, proof.REDO),
    "demo": (_demo, "try the edits in a browser, on this machine"),
    "learn": (learn.run, learn.SUMMARY),
    "room": (room.run, room.SUMMARY),
    "train": (_train, "train a model: photofound train STAGE --config FILE"),
    "cost": (_cost, "say what a training recipe takes: GPUs, memory, hours, money, energy, carbon"),
    "card": (_card, "write a model's card from what its training recorded"),
    "serve": (serve.run, serve.SUMMARY),
    "mcp": (mcp.run, mcp.SUMMARY),
    "eval": (_eval, "judge models and other methods on photographs, and write a report"),
    "check": (_check, "say what a marketplace would refuse of a picture"),
    "completion": (_completion, completion.SUMMARY),
    "export": (export.run, export.SUMMARY),
    "convert": (_convert, "turn a PRX text-to-image pipeline into an editing model"),
    "unshard": (_unshard, "turn a training's checkpoint in shards into a whole one"),
}
