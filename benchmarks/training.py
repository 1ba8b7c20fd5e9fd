"""Training speed: our trainer on EditTransformer against a plain loop around diffusers' PRXTransformer2DModel.

    python benchmarks/training.py
    python benchmarks/training.py --shape nano --resolutions 128 256 --batches 8 32 --threads 2
    python benchmarks/training.py --device cuda --shape 1b --resolutions 512 1024 --batches 8 16 32 --compile step
    python benchmarks/training.py --device cuda --shape 1b --resolutions 1024 --batches 32 --optimizer muon
        --checkpoint-activations

Both train on latents and text embeddings in memory, in bf16 autocast with fp32 weights and AdamW, gradients
clipped to norm 1. Ours is a whole update of ``photofound.train.trainer`` as in a run (average of weights, NaN guard,
one head per task, the condition's input); theirs is a plain script without any of that. The rounds take
turns, and a row gives the median step of each. MFU is the FLOPs of the model (forward counted by
``torch.utils.flop_counter``, times three; recomputed activations count once) over the peak, which a large matrix
product reaches on this machine in the same run. Memory is the GPU's peak, on a CPU the size of the process.
"""

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from diffusers import PRXTransformer2DModel
from torch import Tensor, nn

from photofound.device import resolve_device
from photofound.model.cost import forward_cost
from photofound.model.transformer import EditTransformer
from photofound.train.settings import TrainConfig
from photofound.train.trainer import Trainer

FACTOR, CHANNELS = 8, 16  # of the latents
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 128, "depth": 2, "num_heads": 2, "mlp_ratio": 3.0, "context_in_dim": 64},
    "nano": {"hidden_size": 192, "depth": 8, "num_heads": 3, "mlp_ratio": 3.0, "context_in_dim": 128},
    "1b": {"hidden_size": 1792, "depth": 16, "num_heads": 28, "mlp_ratio": 3.5, "context_in_dim": 2304},
}
TEXT_TOKENS = {"tiny": 16, "nano": 64, "1b": 256}
TASKS = ("generate", "inpaint", "expand", "outpaint", "erase", "upscale")


class Latents:
    """A stage (see ``photofound.train.contract.Stage``) with data that cost nothing."""

    def __init__(self, args: argparse.Namespace, side: int) -> None:
        torch.manual_seed(0)
        condition = CHANNELS + FACTOR**2
        self.transformer = EditTransformer(
            in_channels=CHANNELS, condition_channels=condition, tasks=TASKS, **SHAPES[args.shape]
        ).to(args.device)
        self.module: nn.Module = self.transformer.train()
        self.blocks = list(self.transformer.blocks)
        self.text_shape = (TEXT_TOKENS[args.shape], SHAPES[args.shape]["context_in_dim"])
        self.side, self.condition = side, condition

    def batch(self, generator: torch.Generator, size: int, progress: float) -> tuple[Tensor, ...]:
        draw = {"generator": generator, "device": generator.device}
        latents = torch.randn(2, size, CHANNELS, self.side, self.side, **draw)
        condition = torch.randn(size, self.condition, self.side, self.side, **draw)
        text, t = torch.randn(size, *self.text_shape, **draw), torch.rand(size, **draw)
        return latents[0], latents[1], t, text, condition

    def loss(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        x0, noise, t, text, condition = batch
        task = torch.arange(len(t), device=t.device) % len(TASKS)
        x_t = torch.lerp(x0, noise, t[:, None, None, None])
        v = self.transformer(x_t, t, text, condition=condition, task=task, strength=t).sample
        return (v.float() - (noise - x0)).square().mean(), {}

    def compile_step(self) -> None:
        self.transformer.compile()

    def sheet(self) -> Any:
        raise NotImplementedError("speed is measured, not pictures")

    def export(self, folder: Path) -> None:
        raise NotImplementedError("speed is measured, nothing is kept")


def ours(args: argparse.Namespace, side: int, batch: int) -> Callable[[], object]:
    """A function that does one update."""
    config = TrainConfig(
        batch_size=batch,
        optimizer=args.optimizer,
        device=str(args.device),
        precision=args.precision,
        compile=args.compile == "blocks",
        compile_step=args.compile == "step",
        checkpoint_activations=args.checkpoint_activations,
        trackers=(),
    )
    trainer = Trainer(config, Latents(args, side), Path("unused"))
    return lambda: trainer.advance(0.0)


def theirs(args: argparse.Namespace, side: int, batch: int) -> Callable[[], object]:
    """The same around PRX: forward, loss, backward, clip, AdamW."""
    torch.manual_seed(0)
    model = PRXTransformer2DModel(in_channels=CHANNELS, patch_size=2, **SHAPES[args.shape]).to(args.device).train()
    if args.checkpoint_activations:
        model.enable_gradient_checkpointing()
    for part in {"blocks": model.blocks, "step": [model]}.get(args.compile, ()):
        part.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    generator = torch.Generator(args.device).manual_seed(0)
    text_shape = (batch, TEXT_TOKENS[args.shape], SHAPES[args.shape]["context_in_dim"])

    def step() -> float:
        draw = {"generator": generator, "device": args.device}
        x0, noise = torch.randn(2, batch, CHANNELS, side, side, **draw)
        t, text = torch.rand(batch, **draw), torch.randn(text_shape, **draw)
        with torch.autocast(args.device.type, torch.bfloat16, enabled=args.precision == "bf16"):
            v = model(torch.lerp(x0, noise, t[:, None, None, None]), t, text).sample
            loss = (v.float() - (noise - x0)).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())  # as ours: a step is over when its loss is known

    return step


def timed(step: Callable[[], object], steps: int, device: torch.device) -> tuple[list[float], int]:
    """Seconds of each of ``steps`` steps after two that warm up, and bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for number in range(steps + 2):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number > 1:
            seconds.append(time.perf_counter() - start)
    size = torch.cuda.max_memory_allocated() if device.type == "cuda" else psutil.Process().memory_info().rss
    return seconds, size


def peak(device: torch.device, precision: str) -> float:
    """FLOP/s of a large matrix product, the best of ten."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    best = float("inf")
    for _ in range(12):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def measure(args: argparse.Namespace, resolution: int, batch: int, top: float) -> None:
    """Print the two rows of one size."""
    side = resolution // FACTOR
    with torch.device("meta"):
        model = EditTransformer(in_channels=CHANNELS, **SHAPES[args.shape])
    flops = 3 * forward_cost(model, side, side, TEXT_TOKENS[args.shape]).flops
    builds = {"theirs": theirs, "ours": ours}
    rounds: dict[str, list[tuple[list[float], int]]] = {name: [] for name in builds}
    for _ in range(args.rounds):
        for name, build in builds.items():
            try:
                rounds[name].append(timed(build(args, side, batch), args.steps, args.device))
            except torch.OutOfMemoryError:
                pass
            gc.collect()
            if args.device.type == "cuda":
                torch.cuda.empty_cache()
    rates: dict[str, float] = {}
    for name, done in rounds.items():
        if not done:
            print(f"| {resolution} | {batch} | {name} | out of memory | | | | |", flush=True)
            continue
        seconds, size = median(s for spent, _ in done for s in spent), max(size for _, size in done)
        rates[name] = rate = batch / seconds
        print(
            f"| {resolution} | {batch} | {name} | {1000 * seconds:.1f} | {rate:.2f} | {flops * rate / top:.1%} "
            f"| {size / 2**30:.2f} | {rate / rates.get('theirs', rate):.2f} |",
            flush=True,
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=SHAPES, help="default: nano on a CPU, 1b on a GPU")
    parser.add_argument("--resolutions", type=int, nargs="+", help="pixels; the latents are an eighth")
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--precision", choices=["bf16", "fp32"], help="default: fp32 on a CPU, bf16 on a GPU")
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default="adamw", help="ours; theirs has AdamW")
    parser.add_argument(
        "--compile", nargs="?", const="blocks", choices=["blocks", "step"], help="both: block by block, or whole"
    )
    parser.add_argument("--checkpoint-activations", action="store_true", help="both")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's")
    args = parser.parse_args()
    args.device = resolve_device(args.device)
    gpu = args.device.type == "cuda"
    args.shape = args.shape or ("1b" if gpu else "nano")
    args.resolutions = args.resolutions or ([512, 1024] if gpu else [128, 256])
    args.batches = args.batches or ([8, 16, 32] if gpu else [4, 16])
    args.precision = args.precision or ("bf16" if gpu else "fp32")
    return args


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    gpu = args.device.type == "cuda"
    name = torch.cuda.get_device_name(args.device) if gpu else f"cpu, {torch.get_num_threads()} threads"
    top = peak(args.device, args.precision)
    extras = [f"compiled by {args.compile}s"] * bool(args.compile)
    extras += ["checkpoint_activations"] * args.checkpoint_activations
    print(f"torch {torch.__version__}, {name}; {args.shape}, {args.precision}, {args.optimizer} {' '.join(extras)}")
    print(f"peak by matmul: {top:.3e} FLOP/s\n")
    print("| px | batch | loop | ms/step | images/s | MFU | GiB | ratio |\n|---|---|---|---|---|---|---|---|")
    for resolution in args.resolutions:
        for batch in args.batches:
            measure(args, resolution, batch, top)


if __name__ == "__main__":
    main()
