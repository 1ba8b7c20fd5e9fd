"""The first minutes on a GPU: how fast the networks run, train and edit, how much memory they take, part by part.

    python benchmarks/gpu.py --json gpu.json                         # every part, the most telling first
    python benchmarks/gpu.py --json gpu.json --parts train,memory    # these alone
    python benchmarks/gpu.py --json gpu.json --minutes 4             # no new row is begun after four minutes
    python benchmarks/gpu.py --table gpu.json                        # what was measured, as Markdown
    python benchmarks/gpu.py --device cpu --toy --json toy.json      # the same code at toy size, in seconds

The file is written after every row. A second call measures what is missing in it, and tries again what failed: a row
that fails (no memory, no package) holds its error, and the others go on. Nothing is downloaded: weights are random, of
the shape in ``training/configs/1b-latent-1024.yaml``. ``gpu_parts`` has the parts, ``gpu_device`` says how seconds,
power, memory and MFU are measured.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from gpu_device import GPU
from gpu_parts import PARTS

from photofound import files
from photofound.device import device_name, resolve_device
from photofound.errors import one_line


def machine(gpu: GPU) -> dict[str, Any]:
    """What the figures are of."""
    about: dict[str, Any] = {"device": device_name(gpu.device), "toy": gpu.toy}
    about |= {module.__name__: module.__version__ for module in (torch, diffusers, transformers)}
    if gpu.cuda:
        properties = torch.cuda.get_device_properties(gpu.device)
        about |= {"GiB": properties.total_memory / 2**30, "cuda": torch.version.cuda}
    return about


def open_file(gpu: GPU) -> None:
    """Take over what an earlier call has measured. Raises ValueError where that was on another machine."""
    about = machine(gpu)
    gpu.found = json.loads(gpu.path.read_text()) if gpu.path.exists() else {"machine": about, "parts": {}}
    if (before := gpu.found.get("machine")) != about:
        raise ValueError(f"--json: {gpu.path} was measured on {before}, this is {about}; give another file")


def measure(gpu: GPU, names: list[str], minutes: float) -> int:
    """Measure what is missing, row by row; how many rows were left out for the time."""
    start, late = time.perf_counter(), 0
    for name in names:
        part = gpu.found["parts"].setdefault(name, {"about": " ".join(str(PARTS[name].__doc__).split()), "rows": {}})
        for title, run in PARTS[name](gpu):
            if "error" not in part["rows"].get(title, {"error": "missing"}):
                continue
            if time.perf_counter() - start > 60 * minutes:
                late += 1
                continue
            part["rows"][title] = row = guarded(gpu, run)
            save(gpu)
            shown = ", ".join(f"{key} {cell(key, value)}" for key, value in row.items())
            print(f"{time.perf_counter() - start:6.1f} s  {name}: {title}: {shown}", flush=True)
    save(gpu)
    return late


def save(gpu: GPU) -> None:
    """Write the file whole, or leave the one before."""
    files.write(gpu.path, json.dumps(gpu.found, indent=1) + "\n")


def guarded(gpu: GPU, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row, or its error in one line; and how long it took with all that belongs to it."""
    gpu.free()
    start = time.perf_counter()
    try:
        with torch.compiler.set_stance("force_eager" if gpu.toy else "default"):  # compiling takes half a minute a row
            row = run()
    except Exception as error:  # whatever it is, the other rows go on
        row = {"error": f"{type(error).__name__}: {one_line(error)[:300]}"}
    return row | {"took s": time.perf_counter() - start}


def cell(name: str, value: Any) -> str:
    """A figure as it is read: shares in percent, others with four digits."""
    if not isinstance(value, float):
        return str(value).replace("|", "/")
    if name.startswith("MFU") or name == "busy":
        return f"{value:.1%}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(found: dict[str, Any]) -> str:
    """What a file holds, as Markdown: a table for each part."""
    lines = [", ".join(f"{name} {cell(name, value)}" for name, value in found["machine"].items())]
    for name, part in found["parts"].items():
        rows = part["rows"]
        columns = list(dict.fromkeys(key for row in rows.values() for key in row))
        lines += ["", f"**{name}** {part['about']}", ""]
        lines += ["| " + " | ".join(["", *columns]) + " |", "|" + "---|" * (len(columns) + 1)]
        for title, row in rows.items():
            lines.append("| " + " | ".join([title, *(cell(key, row.get(key, "")) for key in columns)]) + " |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="the file that is written, and gone on with")
    parser.add_argument("--table", type=Path, metavar="JSON", help="print such a file as Markdown, and measure nothing")
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=8.0, help="after so many no new row is begun")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--toy", action="store_true", help="tiny networks, nothing compiled: to try the program")
    args = parser.parse_args()
    if not args.json and not args.table:
        parser.error("--json: give the file to write, or a file to print with --table")
    if unknown := [name for name in args.parts.split(",") if name not in PARTS]:
        parser.error(f"--parts: {unknown[0]!r} is unknown; use {', '.join(PARTS)}")
    return args


def main() -> int:
    args = arguments()
    if args.table:
        print(table(json.loads(args.table.read_text())))
        return 0
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    gpu = GPU(resolve_device(args.device, "--device"), args.toy, args.json)
    try:
        open_file(gpu)
    except ValueError as error:
        print(error)
        return 2
    if late := measure(gpu, args.parts.split(","), args.minutes):
        print(f"{late} rows are left for another call: --minutes is over")
    rows = [row for part in gpu.found["parts"].values() for row in part["rows"].values()]
    failed = sum("error" in row for row in rows)
    print(f"{len(rows)} rows in {args.json}" + f", {failed} failed: the same command tries them again" * bool(failed))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
