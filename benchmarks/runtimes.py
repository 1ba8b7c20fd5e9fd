"""What runs the networks best: torch eager and compiled, ONNX Runtime, OpenVINO; float32, bfloat16, eight bits.

    python benchmarks/runtimes.py --json table.json --markdown table.md     # edits at 512 x 512, each task once
    python benchmarks/runtimes.py --networks --ways eager compiled    # each network alone
    python benchmarks/runtimes.py --networks --programs DIR           # and programs that were exported for ExecuTorch
    python benchmarks/runtimes.py --start                             # the command line, from a cold start

All ways take turns in one process, on the same photograph and seed, so that whatever else the machine does meets all
alike. Ratios are of processor seconds, which a busy machine changes least, to eager float32. PSNR is that of what was
painted against eager float32.

With ``--json`` a task's figures are written when it is done, and a run that goes on does the others. The first task
that a run does pays for compiling; its first round is not counted.

Exported models come from the user's cache, where the first run puts them. ``int8`` is ONNX Runtime's dynamic
quantisation, and for OpenVINO the compression of weights by ``nncf``, if that is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from latency import of_task, photograph, request

from photofound.eval.metrics import psnr
from photofound.pipeline import EditPipeline
from photofound.runtimes import graphs, mobile
from photofound.runtimes.session import openvino_core
from photofound.storage import EMBEDDED, StoredPipeline

BASE = "eager float32"
WAYS = (
    *(BASE, "eager bfloat16", "compiled float32", "compiled bfloat16", "onnx float32", "onnx int8"),
    *("openvino float32", "openvino bfloat16", "openvino int8"),
)
TASKS = ("inpaint", "erase", "expand", "outpaint", "upscale")
SIZES = {"batch": 1, "rows": 16, "columns": 16, "text": 32, "reference": 64}  # a tile of 256 pixels
LARGE = {"detail": 16, "upscaler": 192}  # rows and columns of those that look at pixels: 256 and 192 pixels
COMPILED = ("transformer", "detail", "upscaler")


def load(way: str, model: str | None, folder: Path) -> Any:
    """A pipeline that computes in this way; what has to be written first goes into ``folder``."""
    kind, precision = way.split()
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    if kind in ("eager", "compiled"):
        pipe = EditPipeline.from_pretrained(model, torch_dtype=dtype)
        for name in COMPILED if kind == "compiled" else ():
            if getattr(pipe, name) is not None:
                getattr(pipe, name).compile()
        return pipe
    if precision != "int8":
        return EditPipeline.from_pretrained(model, runtime=kind, torch_dtype=dtype)
    source = StoredPipeline._exported.__func__(EditPipeline, Path(model or EMBEDDED), kind, False)
    shutil.copytree(source, folder / kind)
    (quantize_onnx if kind == "onnx" else quantize_openvino)(folder / kind)
    return EditPipeline.from_pretrained(folder / kind, torch_dtype=dtype)


def quantize_onnx(folder: Path) -> None:
    """Weights and activations of matrix products in eight bits; activations are measured at each call."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    for path in folder.rglob("*.onnx"):
        plain = path.with_suffix(".plain")
        quant_pre_process(str(path), str(plain), skip_symbolic_shape=True)  # folds the casts of bfloat16
        quantize_dynamic(str(plain), str(path), op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        plain.unlink()


def quantize_openvino(folder: Path) -> None:
    """Weights in eight bits."""
    import nncf
    import openvino

    for path in folder.rglob("*.xml"):
        model = nncf.compress_weights(openvino_core().read_model(path))
        openvino.save_model(model, path.with_suffix(".new.xml"), compress_to_fp16=False)
        for suffix in (".xml", ".bin"):
            path.with_suffix(f".new{suffix}").replace(path.with_suffix(suffix))


def edits(args: argparse.Namespace, load_all: Callable[[], dict[str, Any]]) -> Iterator[str]:
    """The rows of the table of edits."""
    done = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    yield "| task | way | seconds | CPU s | ratio | PSNR dB | largest difference |"
    yield "|" + "---|" * 7
    pipes: dict[str, Any] = {}
    for task in args.tasks:
        if task not in done:
            pipes = pipes or load_all()
            done[task] = list(edits_of(task, args, pipes))
            if args.json:
                args.json.write_text(json.dumps(done, indent=1))
        yield from done[task]


def edits_of(task: str, args: argparse.Namespace, pipes: dict[str, Any]) -> Iterator[str]:
    """The rows of one task: the best of each way's rounds, all ways taking turns."""
    side = args.size
    photo = photograph(side, side)
    inputs, rows = request(task, side, side), {way: list[Any]() for way in pipes}
    for _ in range(args.repeats + 1):  # the first one warms up
        for way, pipe in pipes.items():
            start, cpu = time.perf_counter(), time.process_time()
            made = of_task(pipe, task)(photo, **inputs, generator=torch.Generator().manual_seed(0)).images[0]
            seconds = time.perf_counter() - start, time.process_time() - cpu
            rows[way].append((*seconds, np.asarray(made, np.float32) / 255))
    best = {way: [min(row[i] for row in made[1:]) for i in range(2)] for way, made in rows.items()}
    for way, made in rows.items():
        a, b = made[-1][2], rows[BASE][-1][2]
        painted = (b != np.asarray(photo, np.float32) / 255).any(-1) if a.shape[:2] == (side, side) else None
        near = "" if way == BASE else f"{psnr(a, b, painted):.1f}"
        wall, cpu = best[way]
        far = round(255 * float(np.abs(a - b).max()))
        yield f"| {task} | {way} | {wall:.2f} | {cpu:.2f} | {cpu / best[BASE][1]:.2f} | {near} | {far} of 255 |"


def networks(args: argparse.Namespace, pipes: dict[str, Any]) -> Iterator[str]:
    """The rows of the table of networks: each graph alone, best of the repeats."""
    ways = [*pipes, *(["executorch float32"] if args.programs else [])]
    yield "| network | " + " | ".join(f"{way}, CPU ms" for way in ways) + " |"
    yield "|" + "---|" * (len(ways) + 1)
    plain = {graph.name: graph for graph in graphs.graphs_of(pipes[BASE])}
    for name, graph in plain.items():
        part, _, last = name.partition("/")
        given = graph.example(SIZES | dict.fromkeys(("rows", "columns"), LARGE.get(part, SIZES["rows"])))
        runs: dict[str, Any] = {}
        for way, pipe in pipes.items():
            if way.startswith(("eager", "compiled")):
                module = {each.name: each.module for each in graphs.graphs_of(pipe)}[name]
                dtype = getattr(pipe, part).dtype
                cast = [x.to(dtype) if x.is_floating_point() and x.ndim > 1 else x for x in given]
                runs[way] = lambda module=module, cast=cast: module(*cast)
            else:
                session = getattr(pipe, part).sessions[last]
                runs[way] = lambda session=session, given=given: session(*given)
        if args.programs:
            program = mobile.load((args.programs / name).with_suffix(mobile.SUFFIX))
            runs["executorch float32"] = lambda program=program, given=given: program(*given)
        best = dict.fromkeys(runs, float("inf"))
        for _ in range(args.repeats + 1):
            for way, run in runs.items():
                cpu = time.process_time()
                run()
                best[way] = min(best[way], time.process_time() - cpu)
        yield f"| {name} | " + " | ".join(f"{1000 * seconds:.1f}" for seconds in best.values()) + " |"


def start(args: argparse.Namespace) -> Iterator[str]:
    """Seconds and processor seconds of one edit from the command line, the ways taking turns."""
    ways = {"torch": ["--runtime", "torch"], "onnx": ["--runtime", "onnx"], "openvino": ["--runtime", "openvino"]}
    runs: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        photo, mask = Path(folder) / "photo.png", Path(folder) / "mask.png"
        photograph(512, 512).save(photo)
        request("inpaint", 512, 512)["mask_image"].save(mask)
        command = [sys.executable, "-m", "photofound", "inpaint", str(photo), str(mask), "--overwrite", "--quiet"]
        for _ in range(args.repeats + 1):
            for way, options in ways.items():
                begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run([*command, *options], check=True, capture_output=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                runs[way].append((time.perf_counter() - begin, used))
    yield "| runtime | seconds | CPU s |"
    yield "|---|---|---|"
    for way, made in runs.items():
        yield f"| {way} | {median(a for a, _ in made[1:]):.2f} | {median(b for _, b in made[1:]):.2f} |"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder; default: the embedded model")
    parser.add_argument(
        "--ways", nargs="+", default=WAYS, help="those whose name begins so; eager float32 is always one"
    )
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--networks", action="store_true", help="each network alone")
    parser.add_argument("--programs", type=Path, help="of the networks: a folder that was exported for ExecuTorch")
    parser.add_argument("--start", action="store_true", help="a cold start of the command line")
    parser.add_argument("--json", type=Path, help="edits: keep each task's figures here, and do not measure it again")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lines = [f"torch {torch.__version__}, {args.threads} threads", ""]
    with tempfile.TemporaryDirectory() as folder:
        if args.start:
            found = start(args)
        else:
            wanted = [way for way in WAYS if way == BASE or way.startswith(tuple(args.ways))]
            if importlib.util.find_spec("nncf") is None:
                wanted = [way for way in wanted if way != "openvino int8"]

            def load_all() -> dict[str, Any]:
                return {way: load(way, args.model, Path(folder)) for way in wanted}

            found = networks(args, load_all()) if args.networks else edits(args, load_all)
        print("\n".join(lines))
        for line in found:
            lines.append(line)
            print(line, flush=True)
    if args.markdown:
        args.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
