"""Our edits against what everybody has, on photographs with a known truth: one table.

    python benchmarks/edits.py --data DIR --perceptual squeezenet1_0.safetensors [--limit 12] [--markdown FILE]
                               [--sheet FILE.png]

DIR holds photographs, or an ``eval.json`` that lists ``file``, ``task`` (the ``photo`` ones are used) and, for
products, ``mask``.

Holes come from a fixed seed: strokes over 20 % of the picture, a centre box of a ninth, a border of 12.5 % on every
side. To erase, a product is pasted onto the photograph, whose own pixels are the truth. x2 and x4 start from a bicubic
reduction. PSNR, SSIM and perceptual distance (SqueezeNet, lower is better) are of the whole picture. Outpainting has no
truth: only what happened to the product's pixels is counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from photofound import ErasePipeline, ExpandPipeline, InpaintPipeline, OutpaintPipeline, UpscalePipeline, metrics
from photofound.regularizers import PerceptualNet

Edit = Callable[[np.ndarray], np.ndarray]  # uint8 (H, W, 3) in, uint8 out


def strokes(height: int, width: int, seed: int, share: float = 0.2) -> np.ndarray:
    """Brush strokes until they cover ``share`` of the picture: (H, W) bool."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    side = min(height, width)
    while mask.mean() < share:
        point = rng.uniform((0, 0), (width, height))
        angle, thickness = rng.uniform(0, 2 * np.pi), max(2, round(side * rng.uniform(0.02, 0.08)))
        for _ in range(rng.integers(2, 6)):
            angle += rng.uniform(-1, 1)
            end = point + side * rng.uniform(0.05, 0.3) * np.array([np.cos(angle), np.sin(angle)])
            a, b = (tuple(int(v) for v in p) for p in (point, end))
            cv2.line(mask, a, b, 1, thickness)
            point = end
    return mask.astype(bool)


def centre_box(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = True
    return mask


def border(height: int, width: int, share: float = 0.125) -> np.ndarray:
    mask = np.ones((height, width), bool)
    y, x = round(height * share), round(width * share)
    mask[y : height - y, x : width - x] = False
    return mask


def opencv(mask: np.ndarray) -> dict[str, Edit]:
    methods = {"Telea": cv2.INPAINT_TELEA, "Navier-Stokes": cv2.INPAINT_NS}
    hole = mask.astype(np.uint8)
    return {name: lambda rgb, flag=flag: cv2.inpaint(rgb, hole, 4, flag) for name, flag in methods.items()}


def resample(method: Image.Resampling, scale: int) -> Edit:
    def enlarge(rgb: np.ndarray) -> np.ndarray:
        image = Image.fromarray(rgb)
        return np.asarray(image.resize((image.width * scale, image.height * scale), method))

    return enlarge


class Ours:
    """The pipelines of one checkpoint, with the options of the command line."""

    def __init__(self, model: str | None, options: dict) -> None:
        self.inpaint = InpaintPipeline.from_pretrained(model)
        self.inpaint.set_progress_bar_config(disable=True)
        self.options = options

    def run(self, pipeline: type, rgb: np.ndarray, **inputs: object) -> np.ndarray:
        pipe = pipeline.from_pipe(self.inpaint)
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        return np.asarray(pipe(rgb, generator=generator, output_type="pil", **self.options, **inputs).images[0])

    def fill(self, mask: np.ndarray) -> Edit:
        return lambda rgb: self.run(InpaintPipeline, rgb, mask_image=mask.astype(np.float32))

    def expand(self, mask: np.ndarray) -> Edit:
        rows, columns = np.flatnonzero(~mask.all(1)), np.flatnonzero(~mask.all(0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        margins = {"left": left, "top": top, "right": mask.shape[1] - right, "bottom": mask.shape[0] - bottom}
        margins = {side: int(value) for side, value in margins.items()}
        return lambda rgb: self.run(ExpandPipeline, rgb[top:bottom, left:right], **margins)

    def erase(self, mask: np.ndarray) -> Edit:
        return lambda rgb: self.run(ErasePipeline, rgb, mask_image=mask.astype(np.float32), grow=0)

    def upscale(self, scale: int) -> Edit:
        return lambda rgb: self.run(UpscalePipeline, rgb, scale=scale)

    def outpaint(self, mask: np.ndarray) -> Edit:
        subject = (~mask).astype(np.float32)
        return lambda rgb: self.run(OutpaintPipeline, rgb, subject=subject, prompt="on a wooden table")


@dataclass(frozen=True)
class Problem:
    """What every method is given, the hole (None for upscaling), the truth (None where nobody knows it)."""

    name: str
    given: np.ndarray
    hole: np.ndarray | None
    truth: np.ndarray | None
    methods: dict[str, Edit]


Product = tuple[np.ndarray, np.ndarray]  # uint8 (H, W, 3), bool (H, W)


def pasted(rgb: np.ndarray, product: Product, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The photograph with a product a third as large upon it, and the product's mask, grown by 4 pixels."""
    pixels, mask = product
    height, width = rgb.shape[:2]
    scale = min(height, width) / 3 / max(mask.shape)
    size = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
    rng = np.random.default_rng(seed)
    top, left = rng.integers(0, height - size[1]), rng.integers(0, width - size[0])
    given, hole = rgb.copy(), np.zeros((height, width), np.uint8)
    given[top : top + size[1], left : left + size[0]][small] = pixels[small]
    hole[top : top + size[1], left : left + size[0]] = small
    return given, cv2.dilate(hole, np.ones((9, 9), np.uint8)).astype(bool)


def problems(rgb: np.ndarray, seed: int, ours: Ours, product: Product | None) -> Iterator[Problem]:
    """Everything that is asked of one photograph."""
    height, width = rgb.shape[:2]
    holes = {
        "strokes 20 %": strokes(height, width, seed),
        "centre box 1/9": centre_box(height, width),
        "border 12.5 %": border(height, width),
    }
    for name, mask in holes.items():
        masked = np.where(mask[..., None], np.uint8(127), rgb)  # nobody sees the truth
        mine = (ours.expand if name.startswith("border") else ours.fill)(mask)
        yield Problem(name, masked, mask, rgb, opencv(mask) | {"ours": mine})
    if product is not None:
        given, mask = pasted(rgb, product, seed)
        yield Problem("erase a pasted object", given, mask, rgb, opencv(mask) | {"ours": ours.erase(mask)})
    for scale in (2, 4):
        small = np.asarray(Image.fromarray(rgb).resize((width // scale, height // scale), Image.Resampling.BICUBIC))
        methods = {name: resample(Image.Resampling[name.upper()], scale) for name in ("bicubic", "Lanczos")}
        yield Problem(f"upscale x{scale}", small, None, rgb, methods | {"ours": ours.upscale(scale)})
    if product is not None:
        pixels, mask = product
        yield Problem("outpaint a product", pixels, ~mask, None, {"ours": ours.outpaint(~mask)})


def measure(problem: Problem, result: np.ndarray, net: PerceptualNet | None) -> dict[str, float]:
    row = {}
    if problem.truth is not None:
        a, b = problem.truth.astype(np.float32) / 255, result.astype(np.float32) / 255
        row = {"PSNR": metrics.psnr(a, b), "SSIM": metrics.ssim(a, b)}
        if net is not None:
            row["perceptual"] = metrics.perceptual(net, a, b)
    if problem.hole is not None:
        kept = problem.given if problem.truth is None else problem.truth
        row["altered"] = metrics.altered(result, kept, ~problem.hole)
    return row


def listed(folder: Path, task: str) -> list[dict[str, str]]:
    listing = folder / "eval.json"
    entries = json.loads(listing.read_text()) if listing.is_file() else []
    return [entry for entry in entries if entry["task"] == task]


def photographs(folder: Path, limit: int | None) -> list[Path]:
    files = [folder / entry["file"] for entry in listed(folder, "photo")]
    if not files:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if not files:
        raise SystemExit(f"{folder} holds no photographs")
    return files if limit is None else files[:: max(1, len(files) // limit)][:limit]


def products(folder: Path) -> list[Product]:
    """Products with their mattes, not larger than 768 px."""
    found = []
    for entry in listed(folder, "product"):
        if "mask" in entry:
            image, mask = Image.open(folder / entry["file"]).convert("RGB"), Image.open(folder / entry["mask"])
            image.thumbnail((768, 768))
            mask = mask.convert("L").resize(image.size)
            found.append((np.asarray(image), np.asarray(mask) > 127))
    return found


def table(rows: dict[tuple[str, str], list[dict[str, float]]]) -> str:
    columns = {"PSNR": ".2f", "SSIM": ".3f", "perceptual": ".4f", "altered": ".2%", "seconds": ".2f"}
    lines = [
        "| task | method | PSNR dB | SSIM | perceptual distance | kept pixels altered | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for (task, method), values in rows.items():
        means = {name: float(np.mean([v[name] for v in values])) for name in columns if name in values[0]}
        cells = [format(means[name], style) if name in means else "-" for name, style in columns.items()]
        lines.append(f"| {task} | {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def seconds_at_512(ours: Ours) -> str:
    """Median of three edits of a 512x512 photograph per task, PIL in to PIL out."""
    from skimage import data

    photo = data.astronaut()
    box = centre_box(512, 512).astype(np.float32)
    cases = {
        "outpaint": (OutpaintPipeline, photo, {"subject": box, "prompt": "on a dark red cloth"}),
        "inpaint": (InpaintPipeline, photo, {"mask_image": box}),
        "expand": (ExpandPipeline, photo[64:-64, 64:-64], dict.fromkeys(("left", "right", "top", "bottom"), 64)),
        "erase": (ErasePipeline, photo, {"mask_image": box}),
        "upscale": (UpscalePipeline, photo[128:384, 128:384], {"scale": 2}),
    }
    lines = ["| task at 512x512 | seconds |", "|---|---|"]
    for name, (pipeline, rgb, inputs) in cases.items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            ours.run(pipeline, rgb, **inputs)
            times.append(time.perf_counter() - start)
        lines.append(f"| {name} | {sorted(times)[1]:.2f} |")
    return "\n".join(lines)


def machine() -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"torch {torch.__version__}, {device}, {platform.machine()}, commit {commit.stdout.strip() or 'unknown'}"


def command(args: argparse.Namespace) -> str:
    """What was typed, without the folders of this machine and where results go."""
    said = {name: value for name, value in vars(args).items() if value is not None}
    said = {k: Path(v).name if isinstance(v, Path) else v for k, v in said.items() if k not in ("markdown", "sheet")}
    return "python benchmarks/edits.py " + " ".join(f"--{name} {value}" for name, value in said.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--perceptual", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--tasks", help="only those whose name holds this word")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--sheet", type=Path, help="PNG: one row per photograph and task: input, methods, truth")
    args = parser.parse_args()

    ours = Ours(args.model, {"num_inference_steps": args.steps, "guidance_scale": args.guidance})
    net = PerceptualNet.from_file(args.perceptual) if args.perceptual else None
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    strips: list[np.ndarray] = []
    files, objects = photographs(args.data, args.limit), products(args.data)
    for seed, file in enumerate(files):
        rgb = np.asarray(Image.open(file).convert("RGB"))
        rgb = np.ascontiguousarray(rgb[: rgb.shape[0] // 4 * 4, : rgb.shape[1] // 4 * 4])
        for problem in problems(rgb, seed, ours, objects[seed % len(objects)] if objects else None):
            if args.tasks and args.tasks not in problem.name:
                continue
            shown = [problem.given]
            for method, edit in problem.methods.items():
                start = time.perf_counter()
                result = edit(problem.given)
                seconds = time.perf_counter() - start
                row = measure(problem, result, net) | {"seconds": seconds}
                rows.setdefault((problem.name, method), []).append(row)
                shown.append(result)
            shown += [problem.given if problem.truth is None else problem.truth] * (5 - len(shown))
            strips.append(np.hstack([cv2.resize(p, (320, 240), interpolation=cv2.INTER_AREA) for p in shown]))
        print(f"{seed + 1}/{len(files)} {file.name}", flush=True)
    text = table(rows) + "\n\n" + seconds_at_512(ours) + f"\n\n{len(files)} photographs; {machine()}\n"
    print("\n" + text)
    if args.markdown:
        about = " ".join((__doc__ or "").split("\n\n")[3].split())
        args.markdown.write_text(f"# Edits, measured\n\n{about}\n\n    {command(args)}\n\n{text}")
    if args.sheet:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.vstack(strips)).save(args.sheet)


if __name__ == "__main__":
    main()
