"""Training scripts: each is its launch command plus wiring; the loop is ``photofound.train.trainer``."""

if __name__ == "training":
    raise ImportError("import photofound.training, not training: the folder is a part of the photofound package")

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def split(self, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
        """What this parser knows, and ``--name=value`` of everything else, which may be given as ``--name value``."""
        joined: list[str] = []
        for word in sys.argv[1:] if argv is None else argv:
            last = joined[-1] if joined else ""
            waits = last.startswith("--") and "=" not in last and last not in self._option_string_actions
            if waits and not word.startswith("--"):
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return self.parse_known_args(joined)


STOPPED = 75  # exit status of a run that a signal stopped: saved, to be resumed (EX_TEMPFAIL)


def launch(
    config_class: type,
    stage_class: Callable[[Any, Any], Any],
    argv: Sequence[str] | None,
    doc: str | None,
    plan: Callable[[Any], Sequence[Any]] | None = None,
) -> int:
    """Run a stage from ``--config FILE [--run-dir DIR] [--resume latest|PATH] [--a.b=c ...]``, or say with
    ``--dry-run [--gpus N] [--price P] [--tflops T]`` what it would take (``photofound.train.estimate``, which ``plan``
    is for).

    Returns the exit status: 0; 2 for a user's mistake, which is one line on stderr; 75 for a run that SIGTERM or
    SIGUSR1 stopped and that ``--resume latest`` goes on with.
    """
    parser = _Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML or JSON file; what it leaves out has its default")
    where = "where checkpoints, metrics, samples and the model go"
    parser.add_argument("--run-dir", "--run_dir", default="runs/latest", help=where)
    parser.add_argument("--resume", help="'latest' or a checkpoint folder")
    parser.add_argument("--dry-run", action="store_true", help="take one step and print what the run needs")
    parser.add_argument("--gpus", type=int, help="dry run: estimate for so many GPUs")
    parser.add_argument("--price", type=float, help="dry run: price of a GPU per hour")
    parser.add_argument("--tflops", type=float, help="dry run: what a GPU sustains; else as fast as the one here")
    try:
        args, overrides = parser.split(argv)
        if args.dry_run:
            return _dry_run(config_class, stage_class, plan, args, overrides)
        finished = _run(config_class, stage_class, args.config, overrides, args.run_dir, args.resume)
    except (ValueError, OSError) as error:
        line = f"photofound: {' '.join(str(error).split())}"
        print(line, file=sys.stderr)
        _tell_launcher(line)
        return 2
    return 0 if finished else STOPPED


def _tell_launcher(line: str) -> None:
    """Put the line where torchrun, and ``accelerate launch`` with several processes, look for what to say at their end:
    else it stands far above their own lines."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        Path(path).write_text(json.dumps({"message": line, "timestamp": int(time.time())}))


def _run(
    config_class: type,
    stage_class: Callable[[Any, Any], Any],
    path: str | None,
    overrides: Sequence[str],
    run_dir: str,
    resume: str | None,
) -> bool:
    from photofound import config, files
    from photofound.train import checkpoint
    from photofound.train.trainer import Trainer, make_engine

    settings: Any = config.load(config_class, path, list(overrides))
    folder = files.output(run_dir, "--run-dir")
    if resume is None and checkpoint.steps(folder / "checkpoints"):
        raise ValueError(
            f"--run-dir: {folder} holds a run; pass --resume latest to go on with it, or another --run-dir"
        )
    engine = make_engine(settings.train, folder)
    if engine.main:
        folder.mkdir(parents=True, exist_ok=True)
        config.save(settings, folder / "config.yaml")
    engine.wait()
    with engine.first_on_node():
        stage = stage_class(settings, engine.world)
    finished = Trainer(settings.train, stage, folder, resume, engine).run()
    if finished and engine.main:
        _write_card(folder / "model")
    engine.leave()
    return finished


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
    from photofound import config
    from photofound.train import estimate

    offer = estimate.Offer(args.gpus, args.price, args.tflops)
    for line in estimate.dry_run(config.load(config_class, args.config, list(overrides)), stage_class, plan, offer):
        if os.environ.get("RANK", "0") == "0":
            print(line, flush=True)
    return 0
