"""Published recipes of pretraining, each trained for the same time or the same number of steps: one table.

    python benchmarks/ablations.py --data SHARDS --perceptual squeezenet1_0.safetensors --minutes 15
    python benchmarks/ablations.py ... --steps 145                    # on a machine that does other work, too
    python benchmarks/ablations.py ... --only base tread repa --seeds 0 1
    python benchmarks/ablations.py ... --set train.batch_size=16 --set train.warmup_steps=50

Every run is ``photofound train pretrain`` with the configuration ``--config`` and the overrides of ``RECIPES``; every
n-th photograph is kept out of training. The averaged model of each run is then measured on crops of those photographs,
a fixed number per task, with fixed noise:

- loss: ``objective.masked_loss`` of the velocity at fixed times, without any term of the recipe. It compares recipes
  with the same autoencoder and noise scale. It cannot compare pixels with latents, where the table leaves it out. A
  model that predicts the sample is compared fairly, but its errors are weighted by 1 / t^2: early in training a few
  small times decide.
- hole dB: PSNR, inside the hole and in pixels, of the clean sample that the model predicts from pure noise (t = 1), its
  best guess at the mean. It compares all recipes, and includes the error of the autoencoder. It does not reward
  texture: look at the samples in the runs' folders.
- autoencoder dB: PSNR of the crops through the autoencoder and back, since REPA-E trains it. The loss of such a model
  is in latents of its own, so the table leaves it out, too.
- processor s: what the run's process used of all cores, with reading the photographs and drawing the last samples.

``--minutes`` is wall-clock time, so nothing else may run on the machine. ``--steps`` gives every recipe the same
samples wherever it runs; what a step of it costs is then told by the processor seconds.

A stopped script continues: runs that have a model are only measured again.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor

from photofound import config
from photofound.data.store import PhotoStore
from photofound.edits.task import get_task
from photofound.model import autoencoder, flow, text
from photofound.model.condition import fold_condition
from photofound.pipeline import EditPipeline
from photofound.train.mix import PRETEXT, hold_out
from photofound.training.pretrain import Config

ROOT = Path(__file__).parent.parent
BASE = "base"
PIXELS = ["model.vae=none", "model.patch_size=16", "model.condition_space=pixels", "model.prediction_type=sample"]
PIXELS += ["model.bottleneck_size=64", "recipe.perceptual_below=0.7"]
REPA = ["recipe.repa=0.5", "recipe.repa_teacher={net}"]
REPA_E = [*REPA, "recipe.repa_e=1.5", "recipe.lpips_net={net}"]
SPRINT = ["model.fusion=true", "recipe.sprint=0.75"]
# What differs from the configuration; {net} is the file that --perceptual names.
RECIPES: dict[str, list[str]] = {
    BASE: [],
    "adamw": ["train.optimizer=adamw"],
    "schedulefree": ["train.optimizer=schedulefree", "train.schedule=constant"],
    "prodigy": ["train.optimizer=prodigy", "train.lr=1", "train.schedule=constant"],
    "shift": ["mix.shift_by_size=true"],
    "tread": ["recipe.tread=0.5"],
    "sprint": SPRINT,
    "sprint-any": [*SPRINT, "recipe.sprint_grid=false"],
    "repa": REPA,
    "irepa": [*REPA, "recipe.repa_spatial=true"],
    "repa-e": REPA_E,
    "repa-e-critic": [*REPA_E, "recipe.repa_e_adversarial=0.1"],
    "contrastive": ["recipe.contrastive=0.05"],
    "sample": ["model.prediction_type=sample"],
    "folded": ["model.condition_space=pixels"],
    "small-only": ["data.late_from=1.0"],
    "large-only": ["data.late_from=0.0"],
    "pixels": PIXELS,
    "pixels-perceptual": [*PIXELS, "recipe.lpips=0.1", "recipe.lpips_net={net}"],
    "pixels-p-dino": [*PIXELS, "recipe.dino=0.01", "recipe.dino_net={net}"],
}
OTHER_SPACE = tuple(n for n, changes in RECIPES.items() if PIXELS[0] in changes or "recipe.repa_e=1.5" in changes)
Judge = Callable[[Path], dict[str, float]]


def train(folder: Path, args: argparse.Namespace, overrides: list[str]) -> None:
    """One run in a process of its own, unless it is there; raises ValueError with the run's last line of errors."""
    if (folder / "model" / "model_index.json").is_file():
        return
    command = [sys.executable, "-m", "photofound.training.pretrain", "--config", args.config]
    command += ["--run_dir", str(folder)]
    command += [f"--{override}" for override in overrides]
    if (folder / "checkpoints").is_dir():
        command += ["--resume", "latest"]
    before = os.times()
    with (folder.with_suffix(".log")).open("a") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    after, spent = os.times(), folder.with_suffix(".seconds")
    used = after.children_user - before.children_user + after.children_system - before.children_system
    spent.write_text(str(used + _seconds(spent)))  # a run that was stopped and went on used both
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["no reason given"])[-1])


def _seconds(file: Path) -> float:
    return float(file.read_text()) if file.is_file() else 0.0


def judge(settings: Config, count: int, device: str) -> Judge:
    """The judge of all runs: model folder -> its figures on held-out crops, the same with the same noise for all."""
    files, tasks = settings.data, [name for name, share in settings.mix.tasks.items() if share > 0]
    store = PhotoStore.open(files.folder, files.sizes, files.cache, files.limit, mattes=True)
    _, held = hold_out(store, files.hold_out)
    held = held.to(device)

    @torch.no_grad()
    def judged(folder: Path) -> dict[str, float]:
        pipe = EditPipeline.from_pretrained(folder, torch_dtype=torch.float32).to(device)
        results = [
            one_task(pipe, held, name, settings.data.late_crop, count, settings.model.text_length, seed)
            for seed, name in enumerate(tasks)
        ]
        return {name: mean(each[name] for each in results) for name in results[0]}

    return judged


def one_task(
    pipe: EditPipeline, store: PhotoStore, name: str, crop: int, count: int, length: int, seed: int
) -> dict[str, float]:
    """The figures of ``count`` crops of one task; everything random comes from ``seed``."""
    model, cpu = pipe.transformer, torch.Generator().manual_seed(seed)
    on_device = torch.Generator(store.device).manual_seed(seed)
    task = None if name in PRETEXT else get_task(name)
    objects = task is not None and task.needs_object
    rows = store.rows(crop, objects)
    if not len(rows):
        raise ValueError(f"no held-out photograph fits a crop of {crop} for {name}; lower --hold-out")
    sample = store.crops(rows[torch.randint(len(rows), (count,), generator=cpu)], crop, objects, cpu)
    condition = (task.example if task else PRETEXT[name])(sample, on_device)

    x0 = autoencoder.encode(pipe.vae, sample.pixels)
    noise = torch.randn(x0.shape, generator=cpu).to(x0) * pipe.config.noise_scale
    tokens, mask = text.encode(pipe.tokenizer, pipe.text_encoder, condition.prompt, length)
    index = torch.full((count,), model.task_index(condition.task[0]), device=x0.device)
    folded = fold_condition(condition, pipe.vae, model.config.condition_space)

    def predict(t: Tensor) -> tuple[Tensor, Tensor]:
        x_t = flow.add_noise(x0, noise, t)
        out = model(x_t, t, tokens, mask, condition=folded, task=index, strength=condition.strength).sample
        return flow.interpret(out, x_t, t, model.config.prediction_type)

    # Equally likely stretches of the times that are trained on, each by its middle.
    levels = (torch.arange(count, device=x0.device) + 0.5) / count
    t = torch.distributions.Normal(0.0, 1.0).icdf(levels).sigmoid()
    loss = flow.masked_loss(predict(t)[0], flow.velocity(x0, noise), condition.hole)
    guess = autoencoder.decode(pipe.vae, predict(torch.ones_like(t))[1])
    whole = torch.ones_like(condition.hole)
    return {
        "loss": float(loss.mean()),
        "decibels": _decibels(guess, sample.pixels, condition.hole),
        "coded": _decibels(autoencoder.decode(pipe.vae, x0), sample.pixels, whole),
    }


def _decibels(made: Tensor, truth: Tensor, where: Tensor) -> float:
    """Mean PSNR of pictures in [-1, 1], each over its own part of the region (B, 1, H, W); inf where all are equal."""
    error = ((made - truth).square().mean(1, keepdim=True) * where).sum((1, 2, 3)) / where.sum((1, 2, 3)).clamp(min=1)
    return float((10 * torch.log10(4 / error)).mean())  # a range of 2, squared


def table(results: dict[str, list[dict[str, float]]], failures: dict[str, str]) -> str:
    """One Markdown row per recipe: means over seeds, the spread between them where there are several."""
    columns = "recipe", "held-out loss", "against base", "hole dB", "autoencoder dB", "steps", "processor s"
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    base = mean(row["loss"] for row in results[BASE]) if results.get(BASE) else None
    for name in RECIPES:
        if name in failures:
            lines.append(f"| {name} | failed: {failures[name]}" + " |" * (len(columns) - 1))
        if not (rows := results.get(name)):
            continue
        loss, decibels, coded = ([row[key] for row in rows] for key in ("loss", "decibels", "coded"))
        comparable = name not in OTHER_SPACE
        shown = _with_spread(loss, 4) if comparable else "other space"
        against = f"{100 * (mean(loss) / base - 1):+.1f} %" if comparable and base and name != BASE else ""
        through = _with_spread(coded, 2) if isfinite(mean(coded)) else "none"
        steps, seconds = (mean(row[key] for row in rows) for key in ("steps", "seconds"))
        cells = name, shown, against, _with_spread(decibels, 2), through, f"{steps:,.0f}", f"{seconds:,.0f}"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _with_spread(values: list[float], digits: int) -> str:
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def _cost(folder: Path) -> dict[str, float]:
    last = (folder / "metrics.jsonl").read_text().splitlines()[-1]
    return {"steps": json.loads(last)["step"], "seconds": _seconds(folder.with_suffix(".seconds"))}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "training/configs/nano-cpu.yaml"), help="what all runs share")
    parser.add_argument("--data", required=True, help="a folder of WebDataset tars")
    parser.add_argument("--perceptual", required=True, help="safetensors of a SqueezeNet v1.0")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=15.0, help="of training, for each run; default: 15")
    length.add_argument("--steps", type=int, help="of training, for each run, in place of minutes")
    parser.add_argument("--run-dir", default="runs/ablations", help="each run in a folder of its own below")
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES), help="some of the recipes")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--hold-out", type=int, default=20, help="every n-th photograph is kept out")
    parser.add_argument("--count", type=int, default=48, help="held-out crops per task")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="an override for all runs")
    parser.add_argument("--device", default="cpu", help="where models are judged")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    args.config = str(Path(args.config).resolve())
    root = Path(args.run_dir).resolve()
    root.mkdir(parents=True, exist_ok=True)
    net = str(Path(args.perceptual).resolve())
    shared = [f"data.folder={Path(args.data).resolve()}", f"data.cache={root / 'store.safetensors'}"]
    length = ["train.minutes=null", f"train.steps={args.steps}"] if args.steps else [f"train.minutes={args.minutes}"]
    shared += [f"data.hold_out={args.hold_out}", *length, *args.set]
    verdict = judge(config.load(Config, args.config, shared), args.count, args.device)
    results: dict[str, list[dict[str, float]]] = {}
    failures: dict[str, str] = {}
    for seed in args.seeds:
        for name in args.only:
            folder = root / f"{name}-{seed}"
            overrides = [override.replace("{net}", net) for override in RECIPES[name]]
            try:
                train(folder, args, [*shared, f"train.seed={seed}", *overrides])
            except ValueError as error:  # a recipe that cannot be run is a result, too
                failures[name] = str(error)
                continue
            row = verdict(folder / "model") | _cost(folder)
            results.setdefault(name, []).append(row)
            said = f"loss {row['loss']:.4f}, hole {row['decibels']:.2f} dB, {row['seconds']:.0f} processor s"
            print(f"{name} (seed {seed}): {said}", file=sys.stderr, flush=True)
    print(table(results, failures))


if __name__ == "__main__":
    main()
