"""Seconds per edit, from PIL image to PIL image, per task and size, and of each part of an edit.

    python benchmarks/latency.py
    python benchmarks/latency.py --sizes 512 4000x3000 --tasks inpaint --repeats 5 --markdown FILE
    python benchmarks/latency.py --model editor --device cuda --sizes 1024 --steps 4
    python benchmarks/latency.py --teacher --savings --sizes 512 --tasks inpaint expand

The photograph is drawn and always the same: a lit ball on a textured background. Inpaint and erase take a hole as
wide as a quarter of the short side, expand adds a quarter of the width on the left and on the right, upscale doubles
the sides of what it is given (without an upscaler not at more than two megapixels), outpaint cuts the ball out by
itself and has a prompt.

A row gives the median of the whole call and of its parts: preparation (masks, cutting out), text, encoder,
network (all calls, and their number), decoder, upscaler, finishing (seams, compositing, back-projection); the rest is
scaling and sampling. "CPU" is processor time over all threads: on a busy machine it is
more stable.
"PRX" is the same call with diffusers' PRXTransformer2DModel of the same shape in place of our transformer (it has no
input for the photograph, so it does less work). The last table is the command line, from a cold start to the written
file.

With ``--savings`` there is another table instead: weights of eight bits and the first-block cache beside the plain
model, taking turns. Times are ratios to the plain model's of the same run, of the whole call and of the network alone;
"weights MB" are those of transformer and text encoder; PSNR is that of what was painted against the plain result.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from diffusers import PRXTransformer2DModel
from PIL import Image
from torch import Tensor, nn

from photofound.edits.task import get_task, task_names
from photofound.eval.metrics import psnr
from photofound.model import autoencoder, superresolution
from photofound.model.prx import PRX_FIELDS
from photofound.pipeline import EditPipeline, pipeline_class

PARTS = ("prepare", "text", "encode", "network", "decode", "enlarge", "finish")
COLUMNS = ("task", "size", "seconds", "CPU", *PARTS, "calls", "PRX", "PRX CPU", "peak MB")


def photograph(width: int, height: int) -> Image.Image:
    """A lit ball on a background with texture at every scale."""
    rng = np.random.default_rng(0)
    ground = sum(_noise(rng, width, height, 2**k) / 2**k for k in range(1, 7)) * 40 + (150, 120, 90)
    y, x = np.mgrid[:height, :width]
    radius = min(width, height) / 3.5
    v, u = (y - height / 2) / radius, (x - width / 2) / radius
    matte = np.clip((1 - np.hypot(u, v)) * radius, 0, 1)[..., None]
    ball = np.array((40, 70, 160)) * (1.2 - 0.4 * (u + v))[..., None]
    return Image.fromarray((matte * ball + (1 - matte) * ground).clip(0, 255).astype(np.uint8))


def _noise(rng: np.random.Generator, width: int, height: int, cells: int) -> np.ndarray:
    coarse = rng.normal(0, 1, (cells + 1, cells + 1, 3)).astype(np.float32)
    planes = [Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
    return np.stack([np.asarray(plane) for plane in planes], -1)


def request(task: str, width: int, height: int) -> dict[str, Any]:
    """The user's inputs besides the photograph."""
    if task in ("inpaint", "erase"):
        mask = np.zeros((height, width), np.uint8)
        half = min(width, height) // 8
        mask[height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half] = 255
        return {"mask_image": Image.fromarray(mask)}
    wanted: dict[str, dict[str, Any]] = {"outpaint": {"prompt": "on a marble table"}, "upscale": {"scale": 2}}
    return wanted.get(task, {"left": "25%", "right": "25%"} if task == "expand" else {})


class PRXInPlace(nn.Module):
    """diffusers' transformer behind our interface; it ignores inputs that it does not have."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        shape = {name: ours.config[name] for name in PRX_FIELDS if name in ours.config}
        self.prx = PRXTransformer2DModel(**{**shape, "axes_dim": list(ours.axes_dim)})
        self.prx.to(ours.device, ours.dtype).eval()
        self.config, self.dtype, self.device, self.task_index = ours.config, ours.dtype, ours.device, ours.task_index

    def encode_text(self, tokens: Tensor) -> Tensor:
        return tokens

    def new_cache(self) -> None:
        """It has none."""

    def forward(self, x: Tensor, t: Tensor, text_kv: Tensor, attention_mask: Tensor | None, **edit_inputs: Any) -> Any:
        return self.prx(x, t, text_kv.expand(len(x), -1, -1), attention_mask)


@contextmanager
def timed(owner: Any, name: str, spent: list[float], wait: Callable[[], None]) -> Iterator[None]:
    """Within the block, every call of ``owner.name`` adds its seconds to ``spent``."""
    original, own = getattr(owner, name), name in vars(owner)

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = original(*args, **kwargs)
        wait()
        spent.append(time.perf_counter() - start)
        return result

    setattr(owner, name, call)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)  # back to the class's


@contextmanager
def timed_all(
    places: dict[str, tuple[Any, str]], spent: dict[str, list[float]], wait: Callable[[], None]
) -> Iterator[None]:
    with ExitStack() as stack:
        for part, (owner, name) in places.items():
            stack.enter_context(timed(owner, name, spent[part], wait))
        yield


@dataclass
class Bench:
    """One model, its options, and how often to repeat."""

    pipeline: Any
    args: argparse.Namespace

    def wait(self) -> None:
        if self.args.device.startswith("cuda"):
            torch.cuda.synchronize()

    def run(self, task: str, width: int, height: int, transformer: Any = None) -> dict[str, float]:
        """Medians over the repeats, after one call to warm up."""
        replaced = {"transformer": transformer} if transformer is not None else {}
        pipe = of_task(self.pipeline, task, **replaced)
        photo, inputs = photograph(width, height), request(task, width, height)
        rows = [self.once(pipe, task, photo, inputs) for _ in range(self.args.repeats + 1)][1:]
        return {name: median(row[name] for row in rows) for name in rows[0] if name != "image"}

    def once(self, pipe: Any, task: str, photo: Image.Image, inputs: dict[str, Any]) -> dict[str, Any]:
        spent: dict[str, list[float]] = {part: [] for part in PARTS}
        places = {
            "prepare": (get_task(task), "prepare"),
            "text": (pipe, "_encode_prompts"),
            "encode": (autoencoder, "encode"),
            "network": (pipe.transformer, "forward"),
            "decode": (autoencoder, "decode"),
            "enlarge": (superresolution, "enlarged"),
            "finish": (get_task(task), "finish"),
        }
        settings = {"num_inference_steps": self.args.steps, "generator": torch.Generator().manual_seed(0)}
        with timed_all(places, spent, self.wait):
            start, cpu = time.perf_counter(), time.process_time()
            made = pipe(photo, **inputs, **settings).images[0]
            self.wait()
            row = {"seconds": time.perf_counter() - start, "CPU": time.process_time() - cpu, "image": made}
        return row | {part: sum(seconds) for part, seconds in spent.items()} | {"calls": len(spent["network"])}


def peak(device: str) -> int:
    """Peak memory in MB: of the GPU, or of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() // 10**6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000


SAVINGS = {"plain": {}, "int8": {"quantize": "int8"}, "fp8": {"quantize": "fp8"}} | {
    f"cache {threshold}": {"cache": threshold} for threshold in (0.1, 0.15, 0.2, 0.3)
}


def savings(args: argparse.Namespace, load: Callable[[], Any]) -> Iterator[str]:
    """The lines of the table of ``--savings``."""
    pipes = {name: load() for name, asked in SAVINGS.items() if "cache" not in asked}
    for name, pipe in pipes.items():
        if name != "plain":
            pipe.quantize(SAVINGS[name]["quantize"])
    yield "| task | size | option | seconds | CPU | network | weights MB | PSNR dB |"
    yield "|" + "---|" * 8
    for width, height in map(size_of, args.sizes):
        for task in args.tasks:
            rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SAVINGS}
            photo, inputs = photograph(width, height), request(task, width, height)
            for _ in range(args.repeats + 1):  # the first one warms up
                for name, asked in SAVINGS.items():
                    bench = Bench(pipes.get(name, pipes["plain"]), args)
                    bench.pipeline.enable_first_block_cache(asked.get("cache", 0))
                    rows[name].append(bench.once(of_task(bench.pipeline, task), task, photo, inputs))
            plain = rows["plain"]
            for name, made in rows.items():
                ratios = [median(r[key] for r in made[1:]) / median(r[key] for r in plain[1:]) for key in RATIOS]
                weights = weight_bytes(pipes.get(name, pipes["plain"])) / 1e6
                a, b = (np.asarray(each[-1]["image"], np.float32) / 255 for each in (made, plain))
                same = a.shape[:2] == photo.size[::-1]
                painted = (b != np.asarray(photo, np.float32) / 255).any(-1) if same else None
                near = "" if name == "plain" else f"{psnr(a, b, painted):.1f}"
                times = " | ".join(f"{ratio:.2f}" for ratio in ratios)
                yield f"| {task} | {width}x{height} | {name} | {times} | {weights:.1f} | {near} |"


RATIOS = ("seconds", "CPU", "network")


def weight_bytes(pipe: Any) -> int:
    """Bytes of the weights of transformer and text encoder; those of eight bits have parts."""
    networks = [part for part in (pipe.transformer, pipe.text_encoder) if part is not None]
    tensors = [each for network in networks for each in network.parameters()]
    parts = [
        [getattr(t, n) for n in t.__tensor_flatten__()[0]] if hasattr(t, "__tensor_flatten__") else [t] for t in tensors
    ]
    return sum(part.nbytes for each in parts for part in each if part is not None)


def of_task(pipeline: Any, task: str, **replaced: Any) -> Any:
    """The pipeline of a task with the same weights, and without a progress bar."""
    pipe = pipeline_class(task).from_pipe(pipeline, **replaced)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def cold_start(args: argparse.Namespace) -> tuple[float, float]:
    """Median seconds, and processor seconds, of the command line, from start to a written file of 512x512."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        photo, mask = Path(folder) / "photo.png", Path(folder) / "mask.png"
        photograph(512, 512).save(photo)
        request("inpaint", 512, 512)["mask_image"].save(mask)
        command = [sys.executable, "-m", "photofound", "inpaint", str(photo), str(mask), "--overwrite", "--quiet"]
        command += ["--device", args.device, *(["--model", args.model] if args.model else [])]
        for _ in range(args.repeats):
            start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            runs.append((time.perf_counter() - start, used))
    return median(a for a, _ in runs), median(b for _, b in runs)


def cells(row: dict[str, Any]) -> list[str]:
    return [f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name]) for name in COLUMNS]


def size_of(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height or width)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["256", "512", "1024", "4000x3000"], help="SIDE or WxH")
    parser.add_argument("--tasks", nargs="+", default=["inpaint", "erase", "expand", "outpaint", "upscale"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", help="a folder or Hub id; default: the embedded model")
    parser.add_argument("--teacher", action="store_true", help="the many-step model of a few-step one")
    parser.add_argument("--savings", action="store_true", help="eight bits and skipped blocks, beside the plain model")
    parser.add_argument("--steps", type=int, help="default: the model's")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: what is fast here")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's")
    parser.add_argument("--no-prx", action="store_true", help="without the comparison with diffusers' transformer")
    parser.add_argument("--no-cold", action="store_true", help="without the command line")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    if unknown := set(args.tasks) - set(task_names()):
        parser.error(f"unknown task {', '.join(unknown)}")
    return args


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    start = time.perf_counter()
    dtype = getattr(torch, args.dtype) if args.dtype else None

    def load() -> Any:
        return EditPipeline.from_pretrained(args.model, teacher=args.teacher, torch_dtype=dtype).to(args.device)

    if args.savings:
        table = []
        for line in savings(args, load):
            table.append(line)
            print(line, flush=True)
        if args.markdown:
            args.markdown.write_text("\n".join(table) + "\n")
        return
    pipeline = load()
    lines = [
        f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads, {pipeline.transformer.dtype}, "
        f"loaded in {time.perf_counter() - start:.2f} s",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    print("\n".join(lines), flush=True)
    bench = Bench(pipeline, args)
    prx = None if args.no_prx else PRXInPlace(pipeline.transformer)
    for width, height in map(size_of, args.sizes):
        for task in args.tasks:
            if task == "upscale" and width * height > 2_000_000 and pipeline.upscaler is None:
                continue
            row: dict[str, Any] = {"task": task, "size": f"{width}x{height}", **bench.run(task, width, height)}
            row |= {"calls": int(row["calls"]), "peak MB": peak(args.device)}
            other = {} if prx is None else bench.run(task, width, height, prx)
            row |= {"PRX": other.get("seconds", ""), "PRX CPU": other.get("CPU", "")}
            lines.append("| " + " | ".join(cells(row)) + " |")
            print(lines[-1], flush=True)
    if not args.no_cold:
        seconds, used = cold_start(args)
        lines += ["", f"command line, cold start to written file: {seconds:.2f} s, {used:.2f} s of processor time"]
        print("\n".join(lines[-2:]), flush=True)
    if args.markdown:
        args.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
