"""Training scripts: each is its launch command plus wiring; the loop is ``photofound.trainer``."""

if __name__ == "training":
    raise ImportError("import photofound.training, not training: the folder is a part of the photofound package")

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


STOPPED = 75  # exit status of a run that a signal stopped: saved, to be resumed (EX_TEMPFAIL)


def launch(
    config_class: type,
    stage_class: Callable[[Any, Any], Any],
    argv: Sequence[str] | None,
    doc: str | None,
    plan: Callable[[Any], Sequence[Any]] | None = None,
) -> int:
    """Run a stage from ``--config FILE [--run_dir DIR] [--resume latest|PATH] [--a.b=c ...]``, or say with
    ``--dry-run [--gpus N] [--price P] [--tflops T]`` what it would take (``photofound.estimate``, which ``plan`` is
    for).

    Returns the exit status: 0; 2 for a user's mistake, which is one line on stderr; 75 for a run that SIGTERM or
    SIGUSR1 stopped and that ``--resume latest`` goes on with.
    """
    parser = _Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML or JSON file; what it leaves out has its default")
    parser.add_argument("--run_dir", default="runs/latest", help="where checkpoints, metrics, samples and the model go")
    parser.add_argument("--resume", help="'latest' or a checkpoint folder")
    parser.add_argument("--dry-run", action="store_true", help="take one step and print what the run needs")
    parser.add_argument("--gpus", type=int, help="dry run: estimate for so many GPUs")
    parser.add_argument("--price", type=float, help="dry run: price of a GPU per hour")
    parser.add_argument("--tflops", type=float, help="dry run: what a GPU sustains; else as fast as the one here")
    try:
        args, overrides = parser.parse_known_args(argv)
        if args.dry_run:
            return _dry_run(config_class, stage_class, plan, args, overrides)
        finished = _run(config_class, stage_class, args.config, overrides, Path(args.run_dir), args.resume)
    except (ValueError, OSError) as error:
        print(f"photofound: {error}", file=sys.stderr)
        return 2
    return 0 if finished else STOPPED


def _run(
    config_class: type,
    stage_class: Callable[[Any, Any], Any],
    path: str | None,
    overrides: Sequence[str],
    run_dir: Path,
    resume: str | None,
) -> bool:
    from photofound import checkpoint, config
    from photofound.trainer import Trainer, make_engine

    settings: Any = config.load(config_class, path, list(overrides))
    if resume is None and checkpoint.steps(run_dir / "checkpoints"):
        raise ValueError(f"run_dir: {run_dir} holds a run; pass --resume latest to go on with it, or another --run_dir")
    engine = make_engine(settings.train, run_dir)
    if engine.main:
        run_dir.mkdir(parents=True, exist_ok=True)
        config.save(settings, run_dir / "config.yaml")
    engine.wait()
    with engine.first_on_node():
        stage = stage_class(settings, engine.world)
    finished = Trainer(settings.train, stage, run_dir, resume, engine).run()
    engine.leave()
    return finished


def _dry_run(
    config_class: type,
    stage_class: Callable[[Any, Any], Any],
    plan: Callable[[Any], Sequence[Any]] | None,
    args: argparse.Namespace,
    overrides: Sequence[str],
) -> int:
    from photofound import config, estimate

    offer = estimate.Offer(args.gpus, args.price, args.tflops)
    for line in estimate.dry_run(config.load(config_class, args.config, list(overrides)), stage_class, plan, offer):
        if os.environ.get("RANK", "0") == "0":
            print(line, flush=True)
    return 0
