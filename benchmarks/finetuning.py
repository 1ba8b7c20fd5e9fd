"""Before and after fine-tuning, on photographs that were held out: a table of losses and a sheet of pictures.

    python benchmarks/finetuning.py RUN --out finetune.jpg

RUN is the folder of a finished ``photofound train finetune`` of a LoRA with ``data.hold_out``. Each row of the sheet
is one photograph: the input, the start's result, the fine-tuned model's result, the photograph. Both start from
the same noise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from PIL import Image

from photofound import config
from photofound.picture.sheet import sheet
from photofound.train.distributed import World
from photofound.training.finetune import Config, FinetuneStage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--task", default="outpaint")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--columns", type=int, default=2, help="photographs in a row")
    parser.add_argument("--steps", type=int, default=None, help="sampling steps; the checkpoint's default if left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("finetune.jpg"))
    args = parser.parse_args()

    measured = json.loads((args.run / "model" / "validation.json").read_text())
    print("| held-out loss | before | after | change |\n|---|---|---|---|")
    for name, after in measured["after"].items():
        before = measured["before"][name]
        print(f"| {name.removeprefix('loss_')} | {before:.4f} | {after:.4f} | {after / before - 1:+.1%} |")

    only = f"--mix.tasks={{{args.task}: 1.0}}"
    stage = FinetuneStage(config.load(Config, args.run / "config.yaml", [only, "--validation.sets={}"]), World())
    stage.module.eval()
    count = args.rows * args.columns
    generator = torch.Generator().manual_seed(args.seed)
    condition, sample = stage.draw(stage.held_out, stage.config.data.crop, count, generator)
    steps, guidance = args.steps or stage.pipeline.config.default_steps, stage.pipeline.config.default_guidance

    def results() -> torch.Tensor:
        return stage.pipeline.sample(
            condition, steps, guidance, [torch.Generator().manual_seed(i) for i in range(count)]
        )

    before = results()  # the stage's own LoRA is untrained and changes nothing
    stage.pipeline.unload_lora_weights()
    stage.pipeline.load_lora_weights(args.run / "model" / "lora")
    after = results()
    kept, given = condition.hole == 0, condition.canvas
    shown = torch.where(kept, given, given * 0.5 + 0.5)
    columns = [shown, *(torch.where(kept, sample.pixels, made) for made in (before, after)), sample.pixels]
    rows = [[x[i] for i in range(r, r + args.columns) for x in columns] for r in range(0, count, args.columns)]
    Image.fromarray(sheet(rows)).save(args.out, quality=88)


if __name__ == "__main__":
    main()
