"""What choosing the best of several seeds is worth, by the truth and by scores that need none: one table.

    python benchmarks/seeds.py --data DIR --perceptual FILE [--limit 14] [--seeds 4]

The model is the embedded one. Photographs are scaled to 256 pixels; holes come from a fixed seed. A row's figure is the
perceptual distance (SqueezeNet's) of the seed that a score chooses, over the mean of all seeds, averaged over the
fills: 1 = as good as any. The ring around a hole is a 24th of the photograph's long side wide.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from photofound.eval import protocols
from photofound.eval.methods import PhotofoundMethod
from photofound.eval.metrics import perceptual, seam_step
from photofound.eval.photographs import find_photographs
from photofound.model.vision import PerceptualNet

FILLS = ("strokes-20", "box-centre", "border-12.5", "object-erase")
SCORES = (
    "the truth",
    "the smallest step at the seam",
    "sharpness nearest to the surroundings",
    "colours nearest to the surroundings",
)


def scores(rgb: np.ndarray, problem: protocols.Problem, network: PerceptualNet) -> list[float]:
    """One for each of ``SCORES``, less = better, of a result (H, W, 3) in [0, 1]."""
    hole = problem.hole
    assert hole is not None and problem.truth is not None
    reach = 2 * max(4, round(max(hole.shape) / 24)) + 1
    ring = (cv2.dilate(hole.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0) & ~hole
    curvature = np.abs(cv2.Laplacian(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.CV_32F)) + 1e-4
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
    return [
        perceptual(network, rgb, problem.truth.astype(np.float32) / 255),
        seam_step(rgb, hole),
        abs(float(np.log(curvature[hole].mean() / curvature[ring].mean()))),
        float(np.linalg.norm(lab[hole].mean(0) - lab[ring].mean(0))),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--perceptual", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=14)
    parser.add_argument("--seeds", type=int, default=4)
    args = parser.parse_args()

    network, method = PerceptualNet.from_file(args.perceptual), PhotofoundMethod()
    found = []  # (seeds, scores) for each fill
    for problem in protocols.problems(find_photographs(args.data), FILLS, args.limit, max_side=256):
        made = [method.edit(problem, seed).astype(np.float32) / 255 for seed in range(args.seeds)]
        found.append([scores(rgb, problem, network) for rgb in made])
        print(problem.protocol, problem.name, *(f"{each[0]:.4f}" for each in found[-1]), flush=True)
    table = np.array(found)
    distances, fills = table[..., 0], np.arange(len(table))
    print(f"\n{len(table)} fills, {args.seeds} seeds\n\n| chosen by | ratio |\n|---|---|")
    for name, score in zip(SCORES, np.moveaxis(table, -1, 0), strict=True):
        ratio = distances[fills, score.argmin(1)] / distances.mean(1)
        print(f"| {name} | {ratio.mean():.3f} |")


if __name__ == "__main__":
    main()
