"""Our edits and classical methods on photographs with a known truth: one table.

    python benchmarks/edits.py --data DIR --perceptual squeezenet1_0.safetensors [--limit 12] [--markdown FILE]
                               [--sheet FILE.png]
    python benchmarks/edits.py --data DIR --perceptual squeezenet1_0.safetensors --max-side 256 --seeds 3 --set5 SET5
                               --against patchmatch     # one rival alone: ratios and differences, with intervals

DIR holds photographs, or an ``eval.json`` that lists ``file``, ``task`` (the ``photo`` ones are used) and, for
products, ``mask``. ``photofound eval`` runs the same protocols and more, with intervals and pictures.

Holes come from a fixed seed: strokes over 20 % of the picture, a centre box of a ninth, a border of 12.5 % on every
side. For erasing, a product is pasted on the photograph, and the photograph is the truth. x2 and x4 start from a
bicubic reduction. PSNR, SSIM and perceptual distance (SqueezeNet, lower is better) are of the whole picture.
Outpainting has no truth: only changes of the product's pixels are counted. SET5 is a folder of a super-resolution set,
measured on luma; of an ``eval.json`` the photographs from Set5 are used.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from photofound.eval import protocols
from photofound.eval.methods import CLASSICAL, HOLES, Method, PhotofoundMethod, classical_methods
from photofound.eval.photographs import find_photographs
from photofound.eval.protocols import PROTOCOLS
from photofound.eval.report import compare_with_rival, contact_sheet
from photofound.eval.run import Evaluation, MetricNetworks, evaluate
from photofound.eval.summary import Summary, differences, summarise
from photofound.model.vision import PerceptualNet

FILLS = ("strokes-20", "box-centre", "border-12.5", "object-erase")
ENLARGES = ("x2", "x4")
NAMES = (*FILLS, *ENLARGES, "outpaint-product")
CLASSIC = ("telea", "navier-stokes", "patchmatch", "bicubic", "lanczos")
COLUMNS = {"psnr": ".2f", "ssim": ".3f", "perceptual": ".4f", "altered": ".2%", "seconds": ".2f"}


def table(summaries: Sequence[Summary]) -> str:
    lines = [
        "| task | method | PSNR dB | SSIM | perceptual distance | kept pixels altered | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in summaries:
        shown = {name: each.figures[name].value for name in COLUMNS if name in each.figures}
        cells = [format(shown[name], style) if name in shown else "-" for name, style in COLUMNS.items()]
        lines.append(f"| {PROTOCOLS[each.protocol].title} | {each.method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def seconds_at_512(ours: PhotofoundMethod) -> str:
    """Median of three edits of a 512x512 photograph per task, PIL in to PIL out."""
    from skimage import data

    photo = data.astronaut()
    box = protocols.centre_box(512, 512).astype(np.float32)
    cases = {
        "outpaint": (photo, {"subject": box, "prompt": "on a dark red cloth"}),
        "inpaint": (photo, {"mask_image": box}),
        "expand": (photo[64:-64, 64:-64], dict.fromkeys(("left", "right", "top", "bottom"), 64)),
        "erase": (photo, {"mask_image": box}),
        "upscale": (photo[128:384, 128:384], {"scale": 2}),
    }
    lines = ["| task at 512x512 | seconds |", "|---|---|"]
    for task, (rgb, inputs) in cases.items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            ours.run(task, rgb, 0, **inputs)
            times.append(time.perf_counter() - start)
        lines.append(f"| {task} | {sorted(times)[1]:.2f} |")
    return "\n".join(lines)


def machine() -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"torch {torch.__version__}, {device}, {platform.machine()}, commit {commit.stdout.strip() or 'unknown'}"


def command(args: argparse.Namespace) -> str:
    """The command line, without this machine's folders and the output options."""
    said = {name: value for name, value in vars(args).items() if value is not None}
    said = {k: Path(v).name if isinstance(v, Path) else v for k, v in said.items() if k not in ("markdown", "sheet")}
    options = (f"--{name.replace('_', '-')} {value}" for name, value in said.items())
    return "python benchmarks/edits.py " + " ".join(options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--perceptual", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--max-side", type=int, help="scale larger photographs down to it")
    parser.add_argument("--seeds", type=int, help="seeds of our model; default: 1")
    parser.add_argument("--tasks", help="only those whose name holds this word")
    parser.add_argument("--protocols", help=f"only these, with commas, of {', '.join(NAMES)}")
    parser.add_argument("--set5", type=Path, help="folder of a super-resolution set, at x2 and x4, at its own size")
    parser.add_argument("--against", choices=sorted(name for name, each in CLASSICAL.items() if each.tasks == HOLES),
                        help="compare the fills with this method alone, and print nothing else")  # fmt: skip
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--sheet", type=Path, help="PNG: one row per photograph and task: input, methods, truth")
    args = parser.parse_args()

    entries = find_photographs(args.data)
    names = [name for name in (FILLS if args.against else NAMES) if name in protocols.available(entries)]
    names = [name for name in names if not args.tasks or args.tasks in PROTOCOLS[name].title]
    names = [name for name in names if not args.protocols or name in args.protocols.split(",")]
    if not names:
        raise SystemExit(f"--tasks, --protocols: no task is called so; name one of {', '.join(NAMES)}")
    ours = PhotofoundMethod(args.model or "embedded", args.steps, args.guidance, name="ours")
    rivals = [args.against, "bicubic"] if args.against else CLASSIC
    methods: list[Method] = [*classical_methods(rivals), ours]
    networks = MetricNetworks(perceptual=PerceptualNet.from_file(args.perceptual) if args.perceptual else None)
    problems = protocols.problems(entries, names, args.limit, max_side=args.max_side)
    strips = 10**9 if args.sheet else 0

    def ask(problems: Iterable[protocols.Problem]) -> Evaluation:
        return evaluate(problems, methods, networks, args.seeds or 1, strips, lambda line: print(line, flush=True))

    found = ask(problems)
    summaries = summarise(found)
    large = None
    if args.set5:
        match = "Set5" if (args.set5 / "eval.json").is_file() else None
        large = ask(protocols.problems(find_photographs(args.set5, match), ENLARGES, args.limit))
    photographs = max(each.pictures for each in summaries)
    compared = compare_with_rival(summaries, differences(found), args.against or "patchmatch")
    set5 = compare_with_rival(summarise(large), differences(large)) if large else ""
    whole = [] if args.against else [table(summaries), seconds_at_512(ours)]
    text = "\n\n".join(filter(None, [*whole, compared, set5, f"{photographs} photographs; {machine()}\n"]))
    print("\n" + text)
    if args.markdown:
        about = " ".join((__doc__ or "").split("\n\n")[3].split())
        args.markdown.write_text(f"# Edits, measured\n\n{about}\n\n    {command(args)}\n\n{text}")
    if args.sheet:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(contact_sheet(found.strips)).save(args.sheet)


if __name__ == "__main__":
    main()
