"""Training scripts: each is its launch command plus wiring; the loop is ``photofound.trainer``."""

if __name__ == "training":
    raise ImportError("import photofound.training, not training: the folder is a part of the photofound package")

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def launch(config_class: type, stage_class: Callable[[Any], Any], argv: Sequence[str] | None, doc: str | None) -> int:
    """Parse ``--config FILE [--run_dir DIR] [--resume latest|PATH] [--a.b=c ...]``, build the stage and run the trainer."""
    import argparse

    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML or JSON file; what it leaves out has its default")
    parser.add_argument("--run_dir", default="runs/latest", help="where checkpoints, metrics, samples and the model go")
    parser.add_argument("--resume", help="'latest' or a checkpoint folder")
    args, overrides = parser.parse_known_args(argv)

    from photofound import config
    from photofound.trainer import Trainer

    settings = config.load(config_class, args.config, overrides)
    run_dir = Path(args.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    config.save(settings, run_dir / "config.yaml")
    Trainer(settings.train, stage_class(settings), run_dir, args.resume).run()
    return 0
