"""Prodigy and schedule-free AdamW: what their papers say of them, and what the loop promises of every optimizer."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from test_trainer import TOY, Regression, metrics, same, weights
from torch import nn

from photofound.train import disk, memory, optim, untuned
from photofound.train.ema import average_of
from photofound.train.settings import TrainConfig
from photofound.train.trainer import Trainer

PRODIGY = replace(TOY, optimizer="prodigy", lr=1.0)
FREE = replace(TOY, optimizer="schedulefree", schedule="constant")


def train(run_dir, config, stage=None, resume=None, **changes):
    made = Trainer(replace(config, **changes), stage or Regression(), run_dir, resume)
    made.run()
    return made


@pytest.mark.parametrize("config", [PRODIGY, FREE], ids=["prodigy", "schedulefree"])
def test_a_killed_run_goes_on_exactly(tmp_path, config):
    """With measurements on the way, which change no bit of it either."""
    whole = train(tmp_path / "whole", config)
    killed = train(tmp_path / "killed", config, Regression(kill_at=3), sample_every=1)
    assert killed.step < config.steps
    resumed = train(tmp_path / "killed", config, resume="latest")
    assert same(weights(whole), weights(resumed))
    assert [row["loss"] for row in metrics(tmp_path / "killed")] == [r["loss"] for r in metrics(tmp_path / "whole")]
    exported = [(folder / "model" / "model.safetensors").read_bytes() for folder in tmp_path.iterdir()]
    assert exported[0] == exported[1]
    with pytest.raises(ValueError, match=f"was trained with {config.optimizer}; set train.optimizer"):
        train(tmp_path / "killed", TOY, resume="latest")


@pytest.mark.parametrize("config", [PRODIGY, FREE], ids=["prodigy", "schedulefree"])
def test_what_it_keeps_is_known_before(tmp_path, config):
    made = train(tmp_path, config, steps=2)
    kept = made.optimizers.state_tensors()
    trained = sum(p.numel() for p in made.stage.module.parameters())
    moments = sum(4 * value.numel() for value in kept.values() if value.ndim)
    assert moments == made.optimizers.moment_bytes() == memory.moments(config, trained, 0)
    model = disk.checkpoint_bytes(made.stage.module, {}, made.optimizers) - moments
    average = 0 if config is FREE else 4 * trained
    assert made.checkpoint_bytes() == model + moments + average


def test_prodigy_finds_its_rate_below_the_distance_to_the_solution():
    """d starts at 1e-6, never falls, and stays a lower bound of the distance to the best weights (theorem 1)."""
    torch.manual_seed(0)
    net = nn.Linear(8, 1, bias=False)
    goal, x = torch.randn(1, 8) * 3, torch.randn(64, 8)
    distance = float((net.weight.detach() - goal).abs().max())  # Adam measures each weight by itself
    optimizers = optim.build(net, "prodigy", lr=1.0, weight_decay=0.0)
    rates, losses = [], []
    for _ in range(200):
        losses.append((net(x) - x @ goal.T).square().mean())
        losses[-1].backward()
        optimizers.step(1.0)
        rates.append(optimizers.rate)
    assert rates == sorted(rates) and rates[0] < 1e-4 < 0.02 < rates[-1] <= distance
    assert losses[-1] < 0.01 * losses[0]


def test_prodigys_rate_is_in_the_log(tmp_path):
    made = train(tmp_path, PRODIGY, steps=30)
    rows = [json.loads(line)["lr"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0 < rows[0] < 1e-5 < rows[20] and made.optimizers.rate > rows[-1]


def test_schedule_free_exports_the_mean_of_its_iterates(tmp_path):
    """x is the mean of z_1 to z_n at a constant rate, and gradients are taken at y = (1 - b) z + b x (eq. 3 and 5)."""
    torch.manual_seed(0)
    net = nn.Linear(4, 2)
    optimizers = optim.build(net, "schedulefree", lr=0.1, weight_decay=0.0)
    average = average_of(net, replace(FREE), optimizers)
    points = []
    for seed in range(5):
        net(torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
        optimizers.step(1.0)
        points.append(optimizers.optimizers[0].state[net.weight]["z"].clone())
    y = net.weight.detach().clone()
    with average.applied():
        x = net.weight.detach().clone()
    torch.testing.assert_close(x, torch.stack(points).mean(0))
    torch.testing.assert_close(y, 0.1 * points[-1] + 0.9 * x)
    assert torch.equal(net.weight, y)  # not only nearly


def test_a_bad_batch_changes_nothing(tmp_path):
    for name, config in {"a": PRODIGY, "b": FREE}.items():
        made = train(tmp_path / name, config, Regression(bad=(3,)), steps=3, warmup_steps=1)
        assert made.skipped == 1
        other = train(tmp_path / f"{name}2", config, steps=2, warmup_steps=1)
        assert same(weights(made), weights(other))


def test_what_makes_no_sense_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="train.lr: 0.001 is a factor on the rate that prodigy finds; set train.lr=1"):
        TrainConfig(optimizer="prodigy")
    with pytest.raises(ValueError, match="trapezoid is not for schedulefree; set train.schedule=constant"):
        TrainConfig(optimizer="schedulefree")
    for name in ("prodigy", "schedulefree"):
        with pytest.raises(ValueError, match=f"{name} trains whole weights, not shards"):
            optim.build(nn.Linear(2, 2), name, 1.0, 0.0, sharded=True)
        with pytest.raises(ValueError, match=f"train.offload: {name} computes on the device"):
            optim.build(nn.Linear(2, 2), name, 1.0, 0.0, offload=True)
    for package, make in {"prodigyopt": untuned.prodigy, "schedulefree": untuned.schedule_free}.items():
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ValueError, match=f"needs {package}: pip install 'photofound.optimizers.'"):
            make([])
