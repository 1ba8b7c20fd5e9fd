"""Training scripts: each is its launch command plus wiring; the loop is ``photofound.train.trainer``."""

if __name__ == "training":
    raise ImportError("import photofound.training, not training: the folder is a part of the photofound package")

import argparse
import ast
import difflib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from photofound import config, options
from photofound.cli.arguments import Parser, file_name
from photofound.cli.model import quiet_libraries, without_gc
from photofound.errors import one_line
from photofound.train import idle, price


def _config_name(stage: str) -> str:
    return "PrepareConfig" if stage == "prepare" else "Config"


class _StageParser(Parser):
    """The parser of a stage; ``--help`` also lists the settings of its configuration."""

    def __init__(self, stage: str, doc: str | None) -> None:
        self.stage = stage
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=f"photofound train {stage}", description=doc, formatter_class=form)

    def format_help(self) -> str:
        hidden = partial(idle.ignored, self.stage)
        described = options.describe(f"photofound.training.{self.stage}", _config_name(self.stage), hidden)
        return super().format_help() + "\n" + described + "\n"

    def split(self, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
        """The words that this parser knows, and ``--name=value`` for each setting, which may be given as ``--name
        value``."""
        joined: list[str] = []
        for word in sys.argv[1:] if argv is None else argv:
            last = joined[-1] if joined else ""
            waits = last.startswith("--") and "=" not in last and last not in self._option_string_actions
            if waits and not word.startswith("--"):
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return self.parse_known_args(joined)


def parser(stage: str, doc: str | None) -> _StageParser:
    """The parser of a stage: ``prepare`` takes two places, the trainings a run."""
    made = _StageParser(stage, doc)
    if stage == "prepare":
        made.add_argument(
            "source", metavar="SRC", type=_named, help="folder, file, pattern, URL, or a dataset's id on the Hub"
        )
        made.add_argument(
            "folder", metavar="DST", type=_named, help="new folder, or one that an earlier call was stopped in"
        )
        made.add_argument("--config", type=file_name, help="YAML or JSON file of the settings")
        return made
    made.add_argument("--config", type=file_name, help="YAML or JSON file; what it leaves out has its default")
    where = "where checkpoints, metrics, samples and the model go"
    made.add_argument("--run-dir", "--run_dir", type=_named, default="runs/latest", help=where)
    made.add_argument("--resume", type=file_name, help="'latest' or a checkpoint folder")
    made.add_argument("--dry-run", action="store_true", help="take one step and print what the run needs")
    price.add_options(made, "dry run: ")
    return made


def _named(text: str) -> str:
    """A place; where it may not be a URL, the stage says so."""
    if not text:
        raise argparse.ArgumentTypeError("'' is no name of a file or folder")
    return text


def run(stage: str, argv: Sequence[str]) -> int:
    """Run a stage by its name, as ``photofound train`` does; returns the exit status.

    The stage, and torch with it, is imported when its words make sense: ``--help``, a misspelt option and a missing
    configuration file answer before. Raises ValueError and OSError for those, SystemExit after the help.
    """
    if stage != "evaluate":  # its module imports no torch
        text = Path(__file__).with_name(f"{stage}.py").read_text(encoding="utf-8")
        args, overrides = parser(stage, ast.get_docstring(ast.parse(text))).split(argv)
        if args.config:
            config.read(Path(args.config))
        try:
            _check_names(stage, overrides)
        except ValueError as error:
            _write_for_launcher(f"photofound: {one_line(error)}")
            raise
    with without_gc():
        module = import_module(f"photofound.training.{stage}")
    quiet_libraries()  # those that the stage has imported
    return module.main(list(argv)) or 0


def _check_names(stage: str, overrides: Sequence[str]) -> None:
    """Refuse a misspelt setting before torch is imported. What the dataclasses still read by an old name passes, and so
    does anything below a known name: the configuration itself checks all of it later. Raises ValueError."""
    parts = options.sections(f"photofound.training.{stage}", _config_name(stage))
    current = [each.name for part in parts for each in part.options]
    known = [*current, *(name for part in parts for name in part.former)]
    for word in overrides:
        name = word.removeprefix("--").partition("=")[0]
        passes = any(f"{name}.".startswith(f"{each}.") or each.startswith(f"{name}.") for each in known)
        if passes or not word.startswith("--"):
            continue
        close = difflib.get_close_matches(name, current, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"see 'photofound train {stage} --help'"
        raise ValueError(f"config: unknown key {name!r}; {hint}")


STOPPED = 75  # exit status of a run that a signal stopped: saved, to be resumed (EX_TEMPFAIL)


def cost(recipe: Path, stage: str | None, budget: price.Budget, overrides: Sequence[str]) -> Iterator[str]:
    """What a recipe takes and costs, line by line, by its plan alone. Raises ValueError and OSError."""
    from photofound.train import estimate

    stage = stage or stage_of(recipe)
    if stage not in TRAININGS:
        raise ValueError(f"--stage: {stage!r} is no training; use {', '.join(TRAININGS)}")
    _check_names(stage, overrides)
    with without_gc():
        module = import_module(f"photofound.training.{stage}")
    settings = config.load(module.Config, recipe, list(overrides))
    yield f"recipe      {recipe.name}, photofound train {stage}"
    yield from estimate.dry_run(settings, None, getattr(module, "PLAN", None), budget)


TRAININGS = ("pretrain", "finetune", "distill", "preference", "autoencoder", "detail", "superresolution")


def stage_of(recipe: Path) -> str:
    """The stage that a file of settings is for: the one whose name is in the file's, else the first that has all its
    settings. Raises ValueError where no stage has them."""
    words = config.leaves(config.read(recipe))
    fitting = []
    for stage in TRAININGS:
        parts = options.sections(f"photofound.training.{stage}", "Config")
        known = {each.name for part in parts for each in part.options} | {n for part in parts for n in part.former}
        if all(any(word == name or word.startswith(f"{name}.") for name in known) for word in words):
            fitting.append(stage)
    named = [stage for stage in fitting if stage in recipe.stem]
    if not fitting:
        raise ValueError(f"cost: {recipe} has settings that no stage has together; name the stage with --stage")
    return (named or fitting)[0]


def launch(
    config_class: type,
    stage_class: Callable[[Any, Any], Any],
    argv: Sequence[str] | None,
    doc: str | None,
    plan: Callable[[Any], Sequence[Any]] | None = None,
) -> int:
    """Run a stage from ``--config FILE [--run-dir DIR] [--resume latest|PATH] [--a.b=c ...]``, or say with
    ``--dry-run [--gpus N] [--gpu NAME] ...`` what it would take (``photofound.train.estimate``, which ``plan``
    is for).

    Returns the exit status: 0; 1 for a finished run whose model the Hub did not get; 2 for a user's mistake; each is
    one line on stderr; 75 for a run that SIGTERM or SIGUSR1 stopped and that ``--resume latest`` goes on with.
    """
    try:
        args, overrides = parser(_name_of(config_class), doc).split(argv)
        if args.dry_run:
            return _dry_run(config_class, stage_class, plan, args, overrides)
        return _run(config_class, stage_class, args.config, overrides, args.run_dir, args.resume)
    except (ValueError, OSError) as error:
        line = f"photofound: {one_line(error)}"
        print(line, file=sys.stderr)
        _write_for_launcher(line)
        return 2


def _name_of(config_class: type) -> str:
    """The stage that a configuration is of; ``python -m`` calls its module ``__main__``."""
    return Path(sys.modules[config_class.__module__].__file__ or "").stem


def _write_for_launcher(line: str) -> None:
    """Write the line to the file whose text torchrun, and ``accelerate launch`` with several processes, print at their
    end. Otherwise it stands far above their own lines."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        Path(path).write_text(json.dumps({"message": line, "timestamp": int(time.time())}), encoding="utf-8")


def _run(
    config_class: type,
    stage_class: Callable[[Any, Any], Any],
    path: str | None,
    overrides: Sequence[str],
    run_dir: str,
    resume: str | None,
) -> int:
    from photofound import files
    from photofound.train import checkpoint, hub
    from photofound.train.distributed import make_engine
    from photofound.train.trainer import Trainer

    settings: Any = config.load(config_class, path, list(overrides))
    folder = files.output_path(run_dir, "--run-dir")
    if resume is None and checkpoint.all_steps(folder / "checkpoints"):
        raise ValueError(
            f"--run-dir: {folder} holds a run; pass --resume latest to go on with it, or another --run-dir"
        )
    engine = make_engine(settings.train, folder)
    if engine.main:
        hub.check(settings.hub)
        folder.mkdir(parents=True, exist_ok=True)
        config.save(settings, folder / "config.yaml")
    engine.wait()
    with engine.first_on_node():
        stage = stage_class(settings, engine.world)
    finished = Trainer(settings.train, stage, folder, resume, engine).run()
    if finished and engine.main:
        _write_card(folder / "model")
    engine.leave()
    if not finished:
        return STOPPED
    failure = hub.push(settings.hub, folder / "model") if engine.main and settings.hub.repo_id else None
    if failure:
        print(f"photofound: {failure}", file=sys.stderr)
    return 1 if failure else 0


def _write_card(model: Path) -> None:
    """The card of an exported pipeline, from the record beside it; a single part has the record alone."""
    from photofound.card import card, record

    if (model / "model_index.json").is_file():
        card.write(model, record.read(model / record.MODEL))


def _dry_run(
    config_class: type,
    stage_class: Callable[[Any, Any], Any],
    plan: Callable[[Any], Sequence[Any]] | None,
    args: argparse.Namespace,
    overrides: Sequence[str],
) -> int:
    from photofound.train import estimate

    budget = price.budget_of(args)
    for line in estimate.dry_run(config.load(config_class, args.config, list(overrides)), stage_class, plan, budget):
        if os.environ.get("RANK", "0") == "0":
            print(line, flush=True)
    return 0
