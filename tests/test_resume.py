"""A run that was stopped half-way and resumed is the run that was not stopped, for every kind of stage that has a state
of its own beside weights, moments and step.

The trainer's own part (schedules, optimizers, kills at any moment) is proven with a toy in test_trainer.py, whole
processes in test_training.py, several processes in test_distributed.py, streams in test_stream.py. Stages that are not
here keep nothing: their batches come from the run's seed and the step.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from photofound import config
from photofound.data import drawn
from photofound.train.distributed import World
from photofound.train.trainer import Trainer
from photofound.training import distill, finetune, pretrain

SHORT = ["--data.sizes=[72]", "--data.crop=64", "--data.late_crop=64", "--train.steps=4", "--train.save_every=2",
         "--train.batch_size=4", "--train.warmup_steps=1", "--train.precision=fp32", "--train.device=cpu",
         "--train.trackers=[]"]  # fmt: skip
KINDS = {
    # the position in a stream
    "stream": (pretrain, pretrain.PretrainStage, ["--model.start={tiny}", "--data.sources=[{{path: {photos}}}]",
               "--data.multiple=16", "--data.workers=0", "--mix.tasks={{inpaint: 1}}"]),
    # what was measured on the way; checkpoints without the frozen weights
    "finetune": (finetune, finetune.FinetuneStage, ["--model.start={tiny}", "--data.drawn=8", "--data.hold_out=3",
                 "--model.lora.rank=4", "--validation.times=4", "--validation.size=4", "--model.merged=false"]),
    # the moving average that makes the targets
    "distill": (distill, distill.DistillStage, ["--start={tiny}", "--data.drawn=8"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for index, photo in enumerate(drawn.photographs(12, size=72)):
        Image.fromarray(photo.pixels.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return folder


def rows(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    clock = ("images_per_s", "tokens_per_s", "mfu", "watts", "gpu_load", "kwh", "gco2", "minutes")
    return [{name: value for name, value in json.loads(line).items() if name not in clock} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_same_run(tiny_folder, photos, tmp_path, kind):
    script, stage_class, options = KINDS[kind]
    settings = config.load(script.Config, None, [*SHORT, *(o.format(tiny=tiny_folder, photos=photos) for o in options)])

    def train(folder, resume=None):
        torch.manual_seed(0)
        assert Trainer(settings.train, stage_class(settings, World()), folder, resume).run()

    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(straight)
    shutil.copytree(straight, stopped)
    for later in ("checkpoints/step-4", "model", "samples"):
        shutil.rmtree(stopped / later)
    train(stopped, "latest")
    assert rows(straight) == rows(stopped) and len(rows(straight)) == 4
    files = [path.relative_to(straight) for path in straight.rglob("*.safetensors")]
    assert files
    for file in files:
        a, b = load_file(straight / file), load_file(stopped / file)
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a), file
    if kind == "finetune":
        assert not (straight / "model" / "model_index.json").exists()
        measured = [(run / "model" / "validation.json").read_text() for run in (straight, stopped)]
        assert measured[0] == measured[1] and "before" in measured[0]
