"""Training steps with and without precomputed embeddings and latents, on the same shards.

    python benchmarks/precomputed.py --data SHARDS
    python benchmarks/precomputed.py --data SHARDS --model DIR --side 512 --batch 64 --device cuda

SHARDS are prepared into a temporary folder with the model's own text encoder and autoencoder. Each row is a whole step
of pretraining from a stream (drawing, loss, gradients; the optimizer aside), the text encoder frozen. The rows take
turns; a row gives the median, its ratio to computing everything, and the growth of a sample's file.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from photofound import config
from photofound.device import resolve_device
from photofound.pipeline import EMBEDDED
from photofound.train.distributed import World
from photofound.training.prepare import PrepareConfig, prepare
from photofound.training.pretrain import Config, PretrainStage

ROWS = {"nothing": [], "text": ["text"], "text, latents": ["text", "latents"]}


def stepper(args: argparse.Namespace, shards: Path, kinds: list[str]) -> Callable[[], None]:
    """A function that does one step."""
    settings = [
        f"--model.start={args.model}",
        "--model.train_text=false",
        f"--data.sources=[{{path: {shards}}}]",
        f"--data.precomputed={json.dumps(kinds)}",
        f"--data.sizes=[{args.side}]",
        *(f"--data.{name}={args.side}" for name in ("crop", "late_crop")),
        f"--data.workers={args.workers}",
    ]
    stage = PretrainStage(config.load(Config, None, settings), World(device=args.device))
    generator = torch.Generator(args.device).manual_seed(0)

    def step() -> None:
        stage.loss(stage.batch(generator, args.batch, 0.0))[0].backward()
        stage.module.zero_grad(set_to_none=True)
        if args.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def prepared(args: argparse.Namespace, folder: Path, kinds: list[str]) -> float:
    """Prepare the shards; bytes per sample."""
    made = dict.fromkeys(kinds, True)
    settings = PrepareConfig(model=args.model, side=args.side, near=-1, workers=args.workers, **made)
    report = prepare(args.data, folder, settings)
    return report["bytes"] / report["kept"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="anything that photofound train prepare reads")
    parser.add_argument("--model", default=str(EMBEDDED), help="a pipeline's folder")
    parser.add_argument("--side", type=int, default=128, help="pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each row")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.device = resolve_device(args.device)
    with tempfile.TemporaryDirectory() as temporary:
        sizes = {
            name: prepared(args, Path(temporary) / str(number), kinds)
            for number, (name, kinds) in enumerate(ROWS.items())
        }
        shards = Path(temporary) / str(len(ROWS) - 1)
        steps = {name: stepper(args, shards, kinds) for name, kinds in ROWS.items()}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(args.steps + 1):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                if turn:  # the first fills caches
                    seconds[name].append(time.perf_counter() - start)
    base, bare = median(seconds["nothing"]), sizes["nothing"]
    print("| read from the shards | ms/step | ratio | KB more per sample |\n|---|---|---|---|")
    for name, spent in seconds.items():
        size = (sizes[name] - bare) / 1000
        print(f"| {name} | {1000 * median(spent):.0f} | {base / median(spent):.2f} | {size:.1f} |")


if __name__ == "__main__":
    main()
