"""Canvases: five ways to fill a hole before the model sees it, after equal training.

    photofound train prepare SHARDS EXEMPLARS --exemplars=4000
    python benchmarks/canvases.py --data SHARDS --exemplars EXEMPLARS --photos DIR --perceptual FILE
                                  [--steps 250] [--limit 12] [--sheets DIR]

Three trainings continue the same model for the same number of updates, which take equally long:

- exemplar: the samples of EXEMPLARS; their holes are filled with the photograph's own patches.
- harmonic: the same samples and holes, filled with the border's colours, interpolated smoothly.
- mixed: the samples of EXEMPLARS in 70 % of a batch; the others are new crops with harmonic canvases, as in the
  training of the embedded model.

Two more ways need no training of their own. They use the model that was trained on exemplars:

- residual paste: canvas + decode(z) - decode(encode(canvas)), so that only what the model changed is pasted.
- start at t = 0.5: sampling begins at the canvas's latents, half noised (SDEdit, arXiv:2108.01073).

None has a detail network. The canvas alone is PatchMatch. DIR holds photographs that were not trained on. Look at the
sheets: neither PSNR nor the perceptual distance shows that a fill is a double exposure.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from photofound.data.photograph import to_bytes, to_unit
from photofound.edits import exemplar
from photofound.edits.composite import harmonic
from photofound.edits.task import Condition, torch_from
from photofound.eval import protocols
from photofound.eval.methods import HOLES, Method, classical_methods
from photofound.eval.photographs import find_photographs
from photofound.eval.report import contact_sheet
from photofound.eval.run import MetricNetworks, evaluate
from photofound.eval.summary import Summary, summarise
from photofound.image import to_tensor
from photofound.model import autoencoder
from photofound.model.vision import PerceptualNet
from photofound.pipeline import EditPipeline

ROOT = Path(__file__).parent.parent
FILLS = ("strokes-20", "box-centre", "border-12.5")
SHARES = {"harmonic": 1.0, "exemplar": 1.0, "mixed": 0.7}  # training -> mix.exemplars
WAYS = {  # row of the table -> training, canvas, how its answer is used
    "harmonic": ("harmonic", "harmonic", "paste"),
    "exemplar": ("exemplar", "exemplar", "paste"),
    "mixed": ("mixed", "exemplar", "paste"),
    "exemplar, residual paste": ("exemplar", "exemplar", "residual"),
    "exemplar, start at t = 0.5": ("exemplar", "exemplar", "start"),
}
COLUMNS = {"perceptual": ".4f", "psnr": ".2f", "hole_fid": ".2f", "seam": "+.4f"}


def smooth_twin(exemplars: Path, folder: Path) -> Path:
    """The samples of a folder, in another one, with harmonic canvases."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(exemplars.glob("exemplars-*.safetensors")):
        if (folder / path.name).is_file():
            continue
        with safe_open(path, "pt") as file:
            tensors, words = {name: file.get_tensor(name) for name in ("pixels", "hole")}, file.metadata()
        smooth = harmonic(to_unit(tensors["pixels"]), tensors["hole"] == 0)
        save_file(tensors | {"canvas": to_bytes(smooth)}, folder / path.name, words)
    return folder


def train(name: str, args: argparse.Namespace) -> float:
    """Train one model in a process of its own, unless it exists. Returns the CPU seconds, 0 if it existed."""
    folder = args.runs / name
    if (folder / "model" / "model_index.json").is_file():
        return 0.0
    samples = smooth_twin(args.exemplars, args.runs / "smooth") if name == "harmonic" else args.exemplars
    settings = {
        "model.start": args.start,
        "model.train_text": "false",
        "data.folder": args.data,
        "data.cache": args.cache or "null",
        "data.sizes": "[136, 208, 272]",
        "data.exemplars": f"[{samples}]",
        "mix.tasks": "{inpaint: 0.5, expand: 0.35, erase: 0.15}",
        "mix.exemplars": SHARES[name],
        "train.steps": args.steps,
        "train.batch_size": 32,
        "train.lr": args.lr,
        "train.schedule": "cosine",
        "train.warmup_steps": 20,
        "train.ema": 0.98,
    }
    command = [sys.executable, "-m", "photofound.training.pretrain", "--run_dir", str(folder)]
    command += [f"--{key}={value}" for key, value in settings.items()]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Way(Method):
    """A model on one kind of canvas, without a detail network."""

    tasks = HOLES

    def __init__(self, name: str, pipe: Any, canvas: str, use: str, steps: int) -> None:
        self.name, self.pipe, self.canvas, self.use, self.steps = name, pipe, canvas, use, steps

    def edit(self, problem: protocols.Problem, seed: int) -> np.ndarray:
        assert problem.hole is not None
        pixels = to_tensor(problem.given.astype(np.float32) / 255)
        hole = torch_from(problem.hole.astype(np.float32))
        filled = harmonic(pixels, hole == 0) if self.canvas == "harmonic" else exemplar.canvas(pixels, hole)
        made = torch.where(hole > 0, self.painted(problem, filled, hole, seed), pixels).clamp(-1, 1)
        return to_bytes(made)[0].permute(1, 2, 0).numpy()

    def painted(self, problem: protocols.Problem, canvas: Tensor, hole: Tensor, seed: int) -> Tensor:
        """(1, 3, H, W), the model's result for a canvas of that shape."""
        height, width = hole.shape[-2:]
        padding = (0, -width % 16, 0, -height % 16)
        canvas, hole = F.pad(canvas, padding, mode="replicate"), F.pad(hole, padding, value=1.0)
        condition = Condition(canvas, hole, [problem.task], [""], torch.zeros(1))
        generators = [torch.Generator().manual_seed(seed)]
        start = canvas if self.use == "start" else None
        made = self.pipe.sample(condition, self.steps, 1.0, generators, start=start).float()
        if self.use == "residual":
            vae = self.pipe.vae
            with torch.no_grad():
                made = canvas + made - autoencoder.decode(vae, autoencoder.encode(vae, canvas)).float()
        return made[..., :height, :width]


def table(summaries: list[Summary], names: list[str]) -> str:
    """One row per way and protocol."""
    lines = ["| fill | canvas | perceptual distance | PSNR dB | hole patches | seam |", "|---|---|---|---|---|---|"]
    for each in sorted(summaries, key=lambda each: (FILLS.index(each.protocol), names.index(each.method))):
        cells = [format(each.figures[name].value, style) for name, style in COLUMNS.items()]
        lines.append(f"| {protocols.PROTOCOLS[each.protocol].title} | {each.method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="shards to train on")
    parser.add_argument("--cache", type=Path, help="as data.cache")
    parser.add_argument("--exemplars", type=Path, required=True, help="folder of 'prepare --exemplars', crop 128")
    parser.add_argument("--photos", type=Path, required=True, help="photographs to be judged on")
    parser.add_argument("--perceptual", type=Path, required=True)
    parser.add_argument("--start", type=Path, default=ROOT / "photofound" / "weights" / "nano")
    parser.add_argument("--runs", type=Path, default=Path("runs/canvases"), help="where the trained models are kept")
    parser.add_argument("--steps", type=int, default=250, help="updates of each training, 32 crops each")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--sampling", type=int, default=2, help="steps of sampling")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--limit", type=int, help="photographs; default: all")
    parser.add_argument("--sheets", type=Path, help="folder for one PNG per fill: given, every way, truth")
    args = parser.parse_args()

    spent = {name: train(name, args) for name in SHARES}
    methods: list[Method] = list(classical_methods(["patchmatch"]))
    pipes = {name: EditPipeline.from_pretrained(args.runs / name / "model") for name in SHARES}
    for pipe in pipes.values():
        pipe.set_progress_bar_config(disable=True)
    for name, (training, canvas, use) in WAYS.items():
        methods.append(Way(name, pipes[training], canvas, use, args.sampling))
    problems = protocols.problems(find_photographs(args.photos), FILLS, args.limit, max_side=256)
    networks = MetricNetworks(perceptual=PerceptualNet.from_file(args.perceptual))
    found = evaluate(problems, methods, networks, args.seeds, strips=10**9 if args.sheets else 0)
    print(table(summarise(found), [method.name for method in methods]))
    pictures = max(each.pictures for each in summarise(found))
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in spent.items())
    print(f"\n{pictures} photographs, {args.steps} updates; CPU seconds of the trainings: {seconds}")
    for name in FILLS if args.sheets else ():
        args.sheets.mkdir(parents=True, exist_ok=True)
        strips = [strip for strip in found.strips if strip.protocol == name]
        Image.fromarray(contact_sheet(strips)).save(args.sheets / f"{name}.png")


if __name__ == "__main__":
    main()
