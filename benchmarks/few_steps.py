"""Students of few steps against the 50 guided steps of their teacher, on fixed conditions of every edit.

    python benchmarks/few_steps.py --photos SHARDS --students runs/phased/model runs/plain/model
    python benchmarks/few_steps.py --drawn 24 --students runs/student/model --crop 64 --count 4

SHARDS holds photographs as training reads them; take ones that were not trained on. Each edit gets ``--count`` crops,
with holes and noise from a fixed seed. Distance: RMS, over the latents of the hole, between a model's result in N
steps and its teacher's in 50 guided steps from the same noise; 0 is the teacher, and two unrelated results are about
1.4 standard deviations apart. A plain LCM student adds new noise after each step, which counts against it here
from two steps on, as it should: it no longer follows its seed. The teacher is the first student's own, or --teacher.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from photofound.data import drawn
from photofound.data.store import PhotoStore
from photofound.edits.task import Condition, get_task
from photofound.model import flow
from photofound.pipeline import EditPipeline

STEPS, TASKS = (1, 2, 4, 8), ("outpaint", "inpaint", "expand", "erase", "upscale")


def conditions(store: PhotoStore, task: str, crop: int, count: int) -> Condition:
    """Conditions of ``count`` crops, always the same."""
    generator = torch.Generator().manual_seed(7)
    rows = store.rows(crop, get_task(task).needs_object)
    if not len(rows):
        raise SystemExit(f"no photograph fits a crop of {crop} for {task}: lower --crop, or give others")
    picks = rows[torch.randint(len(rows), (count,), generator=generator)]
    sample = store.crops(picks, crop, get_task(task).needs_object, generator)
    return get_task(task).example(sample, generator)


def latents(pipe: Any, condition: Condition, steps: int, guidance: float) -> Tensor:
    """The pipeline's result as latents (B, C, h, w)."""
    last: list[Tensor] = []

    def keep(pipe: Any, step: int, t: Tensor, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        last[:] = [kept["latents"]]
        return kept

    pipe.sample(condition, steps, guidance, [torch.Generator().manual_seed(i) for i in range(len(condition))], keep)
    return last[0].float().cpu()


def load(source: Path | None, device: str, **options: Any) -> Any:
    pipe = EditPipeline.from_pretrained(source, **options).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=Path, nargs="+", required=True, help="folders of distilled pipelines")
    parser.add_argument("--teacher", type=Path, help="default: the one that lies beside the first student")
    parser.add_argument("--photos", type=Path, help="a folder of WebDataset tars")
    parser.add_argument("--drawn", type=int, default=0, help="this many drawn pictures instead")
    parser.add_argument("--crop", type=int, default=192, help="side of the crops in pixels")
    parser.add_argument("--count", type=int, default=16, help="crops of each edit")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if not args.photos and not args.drawn:
        parser.error("give --photos or --drawn")
    store = (
        drawn.store(args.drawn, (args.crop,))
        if args.drawn
        else PhotoStore.open(args.photos, (args.crop + 16,), None, 2000, mattes=True)
    )
    asked = {task: conditions(store, task, args.crop, args.count) for task in TASKS}
    teacher = load(args.teacher or args.students[0], args.device, **({} if args.teacher else {"teacher": True}))
    truth = {task: latents(teacher, condition, 50, args.guidance) for task, condition in asked.items()}
    print(f"guidance {args.guidance}, {args.count} crops of {args.crop} px for each edit\n")
    print("| model | edit | " + " | ".join(f"{n} steps" for n in STEPS) + " |\n|---|---|" + "---|" * len(STEPS))
    for name, pipe in [("teacher, Euler", teacher), *((str(s), load(s, args.device)) for s in args.students)]:
        if pipe.config.distilled:
            name += f", P = {pipe.config.distilled['phases']}"
        errors = {
            task: [distance(latents(pipe, condition, n, args.guidance), truth[task], condition.hole) for n in STEPS]
            for task, condition in asked.items()
        }
        errors = {"all": [sum(column) / len(TASKS) for column in zip(*errors.values(), strict=True)], **errors}
        for task, row in errors.items():
            print(f"| {name} | {task} | " + " | ".join(f"{error:.3f}" for error in row) + " |", flush=True)


def distance(a: Tensor, b: Tensor, hole: Tensor) -> float:
    return float(flow.masked_mean((a - b).square(), hole, 0.0).sqrt().mean())


if __name__ == "__main__":
    main()
