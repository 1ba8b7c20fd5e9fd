"""EditTransformer against diffusers' PRXTransformer2DModel, on the same weights, in one run.

    python benchmarks/transformer.py
    python benchmarks/transformer.py --tokens 256 4096 --dtypes bfloat16 --hidden 1792 --depth 16 --device cuda
    python benchmarks/transformer.py --tokens 1024 --dtypes float32 --repeats 3 --threads 1
    python benchmarks/transformer.py --prompt-tokens 32

Two rows per size and dtype: one forward pass, and a sampling loop of 20 Euler steps without guidance, in which ours
computes the text's keys and values once (inside the timed part). The two models take turns step by step, so other load
on the machine affects both; with one thread of a CPU the processor's seconds are counted, not those of the clock. A row
gives each model's median seconds and the median of the repeats' ratios, above 1 if ours is faster. `--compile` compiles
the blocks of both. The last column is the largest difference of the outputs over their standard deviation: the two must
also agree.

With `--prompt-tokens` the text is a prompt of so many tokens and padding after it. Both models get the same text and
mask, as in diffusers' PRXPipeline, which fills every prompt up to 256 tokens. Our loop leaves the padding out, as our
pipelines do.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median

import torch
from diffusers import PRXTransformer2DModel
from torch import Tensor, nn

from photofound.model.prx import transformer_from_prx
from photofound.model.transformer import EditTransformer

HEAD_DIM = 64
Run = Callable[[], Iterator[Tensor]]


def models(args: argparse.Namespace, dtype: torch.dtype) -> tuple[nn.Module, EditTransformer]:
    """PRX with random weights, modulations included, and ours with the same."""
    torch.manual_seed(0)
    prx = PRXTransformer2DModel(
        in_channels=16,
        patch_size=2,
        context_in_dim=args.text_dim,
        hidden_size=args.hidden,
        num_heads=args.hidden // HEAD_DIM,
        depth=args.depth,
    )
    for block in prx.blocks:
        nn.init.normal_(block.modulation.lin.weight, std=0.02)
    nn.Module.to(prx, device=args.device, dtype=dtype).eval()
    ours = transformer_from_prx(prx).eval()
    for block in (*prx.blocks, *ours.blocks) if args.compile else ():
        block.compile()
    return prx, ours


def euler_prx(model: nn.Module, x: Tensor, text: Tensor, mask: Tensor | None, times: list[float]) -> Iterator[Tensor]:
    """Each state of an Euler loop from times[0] to times[-1]."""
    for now, then in pairwise(times):
        x = x + (then - now) * model(x, torch.full((1,), now, device=x.device), text, mask).sample
        yield x


def euler_ours(
    model: EditTransformer, x: Tensor, text: Tensor, mask: Tensor | None, times: list[float]
) -> Iterator[Tensor]:
    """The same; the text goes in once, without its padding."""
    text_kv = model.encode_text(text if mask is None else text[:, : int(mask[0].sum())])
    for now, then in pairwise(times):
        x = x + (then - now) * model(x, torch.full((1,), now, device=x.device), text_kv=text_kv).sample
        yield x


def forward(model: nn.Module, x: Tensor, text: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
    yield model(x, torch.full((1,), 0.5, device=x.device), text, mask).sample


def race(runs: list[Run], device: str, flip: bool) -> tuple[list[float], list[Tensor]]:
    """Advance both runs in turn to their end; seconds and last state of each."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    iterators = [run() for run in runs]
    spent, last = [0.0, 0.0], [torch.empty(0), torch.empty(0)]
    running = True
    while running:
        for index in (1, 0) if flip else (0, 1):
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            start = clock()
            state = next(iterators[index], None)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            spent[index] += clock() - start
            running = state is not None
            last[index] = state if running else last[index]
    return spent, last


def compare(theirs: Run, ours: Run, repeats: int, device: str) -> tuple[float, float, float, float]:
    """Median seconds of both, median ratio, and how far the outputs are apart."""
    _, (expected, got) = race([theirs, ours], device, flip=False)  # the warm-up
    apart = ((got - expected).float().abs().max() / expected.float().std()).item()
    spent = [race([theirs, ours], device, flip=bool(repeat % 2))[0] for repeat in range(repeats)]
    return median(a for a, _ in spent), median(b for _, b in spent), median(a / b for a, b in spent), apart


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024, 4096], help="image tokens, square numbers")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--hidden", type=int, default=384, help=f"width, a multiple of {HEAD_DIM}")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--text-tokens", type=int, default=256, help="256 is PRX's own length")
    parser.add_argument("--prompt-tokens", type=int, help="how many of them are a prompt, not padding; default: all")
    parser.add_argument("--text-dim", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=9, help="of the forward; the loop has a third as many")
    parser.add_argument("--compile", action="store_true", help="torch.compile, block by block, of both")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default: torch's")
    return parser.parse_args()


@torch.inference_mode()
def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"cpu, {torch.get_num_threads()} threads"
    said = f"{args.text_tokens} text tokens" + f", {args.prompt_tokens} of them a prompt" * (
        args.prompt_tokens is not None
    )
    print(f"torch {torch.__version__}, {name}; hidden {args.hidden}, depth {args.depth}, {said}")
    print(f"{'dtype':9} {'tokens':>6} {'what':>9} {'diffusers s':>12} {'ours s':>9} {'ratio':>6} {'apart':>8}")
    for dtype_name in args.dtypes:
        for tokens in args.tokens:
            measure(args, dtype_name, tokens)


def measure(args: argparse.Namespace, dtype_name: str, tokens: int) -> None:
    """Print the two rows of one size."""
    dtype, side = getattr(torch, dtype_name), round(tokens**0.5)
    prx, ours = models(args, dtype)
    x = torch.randn(args.batch, 16, 2 * side, 2 * side, device=args.device, dtype=dtype)
    text = torch.randn(args.batch, args.text_tokens, args.text_dim, device=args.device, dtype=dtype)
    mask = None
    if args.prompt_tokens is not None:
        mask = (torch.arange(args.text_tokens, device=args.device) < args.prompt_tokens).expand(args.batch, -1)
    times = torch.linspace(1, 0, args.steps + 1).tolist()
    rows: dict[str, tuple[Run, Run, int]] = {
        "forward": (lambda: forward(prx, x, text, mask), lambda: forward(ours, x, text, mask), args.repeats),
        f"{args.steps} steps": (
            lambda: euler_prx(prx, x, text, mask, times),
            lambda: euler_ours(ours, x, text, mask, times),
            max(1, args.repeats // 3),
        ),
    }
    for what, (theirs, mine, repeats) in rows.items():
        first, second, ratio, apart = compare(theirs, mine, repeats, args.device)
        row = f"{dtype_name:9} {side * side:6} {what:>9} {first:12.4f} {second:9.4f} {ratio:6.3f} {apart:8.1e}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
