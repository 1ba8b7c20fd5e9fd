"""What tests of the stages that train the transformer share."""

from pathlib import Path

import numpy as np
import torch

from photofound import config
from photofound.train.distributed import World
from photofound.training.pretrain import Config, PretrainStage

CONFIGS = Path(__file__).parent.parent / "training" / "configs"


SMALL = ["--model.hidden_size=32", "--model.depth=6", "--model.num_heads=2", "--model.text_width=16",
         "--model.text_layers=1"]  # fmt: skip


def disc(rng, size=96):
    y, x = np.mgrid[:size, :size]
    inside = (y - size / 2) ** 2 + (x - size / 2) ** 2 < (size / 5) ** 2
    ground, ball = rng.integers(0, 256, (2, 3))
    image = np.where(inside[..., None], ball, ground) + rng.integers(-8, 8, (size, size, 3))
    return image.clip(0, 255).astype(np.uint8), (inside * 255).astype(np.uint8)


def overrides(tiny_folder, shards, *more):
    return [
        f"--model.start={tiny_folder}",
        f"--data.folder={shards}",
        "--data.sizes=[72, 96]",
        "--data.crop=64",
        "--data.late_crop=64",
        "--train.batch_size=14",
        "--train.steps=2",
        "--train.warmup_steps=1",
        "--train.log_every=1",
        "--train.precision=fp32",
        *more,
    ]


def new_stage(tiny_folder, shards, *more):
    """A stage around the tiny autoencoder, with a transformer deep enough for a route; later arguments win."""
    arguments = [a for a in overrides(tiny_folder, shards) if "start" not in a]
    arguments += [f"--model.vae={tiny_folder / 'vae'}", *SMALL, *more]
    return PretrainStage(config.load(Config, None, arguments), World())


def streamed(tiny_folder, shards, *more):
    sources = f"--data.sources=[{{path: {shards}}}]"
    small = ["--data.multiple=16", "--data.workers=0", "--train.device=cpu", *more]
    return config.load(Config, None, overrides(tiny_folder, shards, sources, *small))


def loss_of(stage, batch):
    torch.manual_seed(0)
    return stage.loss(batch)
