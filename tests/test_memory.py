"""The memory that a plan states: as torch's own tracker finds it, and as a GPU measured it."""

import copy
from contextlib import nullcontext

import pytest
import torch
from stages import CONFIGS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from photofound import config
from photofound.model import attention
from photofound.train import memory, optim
from photofound.train.ema import EMA
from photofound.train.plan import Outline, plan
from photofound.train.recompute import checkpointed
from photofound.training.pretrain import Config

SMALL = ["--model.vae=none", "--model.patch_size=8", "--model.hidden_size=128", "--model.depth=2",
         "--model.num_heads=4", "--model.text_width=64", "--model.text_layers=1", "--data.crop=128",
         "--data.late_crop=128", "--train.batch_size=8"]  # fmt: skip


@pytest.fixture(autouse=True)
def no_kept_tables():
    attention._cached_rope_table.cache_clear()
    yield
    attention._cached_rope_table.cache_clear()


def tracked(settings, trained):
    """Bytes at the peak of an update by torch's tracker, with the optimizer and the average that a run has."""
    train, trained = settings.train, copy.deepcopy(trained)
    parts = train.micro_batches or 1
    with FakeTensorMode(allow_non_fake_inputs=True):
        module = trained.to_empty(device="cpu")
        transformer = module["transformer"]
        if train.checkpoint_activations:
            call = checkpointed(transformer.blocks, train.checkpoint_keep, train.checkpoint_every)
            transformer.enable_gradient_checkpointing(call)
        optimizers, average = optim.build(module, train.optimizer, 1e-3, 0.01, transformer.blocks), EMA(module, 0.99)
        for parameter in module.parameters():
            parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        optimizers.step(1.0)  # as if an update had been: the moments are there
        tracker = MemTracker()
        tracker.track_external(module, *optimizers.optimizers, *average.average.values())
        with tracker:
            for _ in range(parts):
                tracker.reset_mod_stats()
                loss(module, train.batch_size // parts, settings).backward()
            optimizers.step(1.0)
            average.update()
        return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


def loss(module, samples, settings):
    crop, length = settings.data.crop, settings.model.text_length
    pictures = torch.empty(samples, 3, crop, crop), torch.empty(samples, 5, crop, crop)
    ids, seen = torch.zeros(samples, length, dtype=torch.long), torch.ones(samples, length, dtype=torch.bool)
    half = settings.train.precision == "bf16"
    with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
        text = torch.empty(samples, length, settings.model.text_width)
        if "text_encoder" in module:
            text = module["text_encoder"](input_ids=ids, attention_mask=seen).last_hidden_state
        transformer = module["transformer"]
        condition = torch.empty(samples, transformer.config.condition_channels, crop, crop)
        task, t = ids[:, 0], torch.empty(samples)
        out = transformer(pictures[0], t, text, seen, condition=condition, task=task, strength=t).sample
        return (out.float() - pictures[0]).square().mean()


@pytest.mark.parametrize(
    "changes",
    [
        ["--train.precision=fp32", "--train.batch_size=16", "--train.micro_batches=2", "--train.optimizer=muon"],
        ["--train.batch_size=32"],
        ["--train.batch_size=32", "--train.checkpoint_activations=true", "--train.checkpoint_every=2"],
        ["--train.batch_size=32", "--train.checkpoint_activations=true", "--train.checkpoint_keep=products",
         "--model.train_text=false"],
    ],
)  # fmt: skip
@pytest.mark.slow
def test_a_plan_says_what_torch_tracks(changes):
    settings = config.load(Config, None, [*SMALL, *changes])
    planned = plan(settings)[0].need(1)
    trained = Outline.of(settings, None).trained
    assert planned.peak - planned.frozen == pytest.approx(tracked(settings, trained), rel=0.1)


@pytest.mark.slow
def test_checkpointing_keeps_less_and_micro_batches_divide():
    def peak(*changes):
        return plan(config.load(Config, None, [*SMALL, "--train.batch_size=32", *changes]))[0].need(1).step

    every = "--train.checkpoint_activations=true"
    steps = [peak(), peak(every, "--train.checkpoint_keep=products"), peak(every), peak("--train.micro_batches=16")]
    assert steps == sorted(steps, reverse=True) and steps[1] < 0.75 * steps[0] and steps[3] < 0.15 * steps[0]


@pytest.mark.slow  # it counts the 16 blocks of 1.2 billion parameters
def test_a_billion_parameters_take_what_a_gpu_measured():
    """docs/experiments.md: 51.9 GiB for 16 pictures of 512 px, eager, AdamW, latents and text in memory, on an H200."""
    changes = ["--data.crop=512", "--data.late_from=1.0", "--train.batch_size=16"]
    changes += ["--train.optimizer=adamw", "--recipe.repa=0", "--recipe.tread=0", "--train.micro_batches=1",
                "--train.checkpoint_activations=false"]  # fmt: skip
    phase, *_ = plan(config.load(Config, CONFIGS / "1b-latent-1024.yaml", changes))
    assert phase.need(1).peak / 2**30 == pytest.approx(51.9, rel=0.03)


@pytest.mark.slow
def test_shards_take_their_share():
    one = config.load(Config, None, [*SMALL, "--train.batch_size=32"])
    shared = config.load(Config, None, [*SMALL, "--train.batch_size=32", "--train.parallel=fsdp"])
    alone, spread = plan(one)[0].need(8), plan(shared)[0].need(8)
    assert spread.weights == alone.weights / 8 and spread.moments == alone.moments / 8
    assert spread.step < alone.step + memory.gathered(Outline.of(one, None).transformer, True)
    with pytest.raises(ValueError, match="cannot be shared evenly by 7"):
        plan(config.load(Config, None, [*SMALL, "--train.micro_batches=4"]))[0].need(7)
