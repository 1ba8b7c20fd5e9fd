"""Fills by a head that has only learnt text to image, against the heads that were trained for them: one table.

    python benchmarks/known_region.py --data DIR --perceptual FILE [--limit 8] [--steps 20] [--repeats 1 4] [--sheet
    PNG]

The model is the embedded one's teacher, without its detail network. ``known region`` asks its head for text to image
and puts the given latents back after every step (``photofound.sampling.KnownRegion``), each step taken N times; that is
how a converted PRX, or any checkpoint that ``trained_tasks`` describes so, edits before it is trained. Photographs are
scaled to 256 pixels; holes come from a fixed seed. The perceptual distance is SqueezeNet's, the seam is the step across
the hole's border beside the photograph's own steps (1 = no seam).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from photofound.edits.request import Request
from photofound.eval import protocols
from photofound.eval.methods import HOLES, Method, _task_inputs, classical_methods
from photofound.eval.photographs import find_photographs
from photofound.eval.report import contact_sheet
from photofound.eval.run import MetricNetworks, evaluate
from photofound.eval.summary import summarise
from photofound.image import Picture
from photofound.model.vision import PerceptualNet
from photofound.pipeline import EditPipeline

FILLS = ("strokes-20", "box-centre", "border-12.5")


class Way(Method):
    """The teacher's trained heads (``repeats`` None), or its head for text to image."""

    tasks = HOLES

    def __init__(self, pipe: Any, steps: int, repeats: int | None) -> None:
        self.pipe, self.steps, self.repeats = pipe, steps, repeats
        self.name = "trained heads" if repeats is None else f"known region, each step {repeats} x"

    def edit(self, problem: protocols.Problem, seed: int) -> np.ndarray:
        given, inputs = _task_inputs(problem)
        trained = None if self.repeats is None else ["generate"]
        self.pipe.register_to_config(trained_tasks=trained)
        request = Request(problem.task, Picture.from_any(given), inputs, seed, self.steps, resample=self.repeats)
        return np.asarray(self.pipe.answer(request).images[0].to_pil())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--perceptual", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()

    pipe = EditPipeline.from_pretrained(teacher=True, detail=None)
    pipe.set_progress_bar_config(disable=True)
    ways = [Way(pipe, args.steps, None), *(Way(pipe, args.steps, count) for count in args.repeats)]
    problems = protocols.problems(find_photographs(args.data), FILLS, args.limit, max_side=256)
    networks = MetricNetworks(perceptual=PerceptualNet.from_file(args.perceptual))
    strips = 10**9 if args.sheet else 0
    found = evaluate(
        problems, [*classical_methods(["patchmatch"]), *ways], networks, 1, strips, lambda line: print(line, flush=True)
    )
    columns = ("perceptual", "psnr", "seam", "altered", "seconds")
    print("\n| fill | method | perceptual distance | PSNR dB | seam | kept pixels altered | seconds |")
    print("|---|---|---|---|---|---|---|")
    for each in summarise(found):
        cells = [f"{each.figures[name].value:.4g}" if name in each.figures else "-" for name in columns]
        print(f"| {each.protocol} | {each.method} | " + " | ".join(cells) + " |")
    if args.sheet:
        Image.fromarray(contact_sheet(found.strips)).save(args.sheet)


if __name__ == "__main__":
    main()
