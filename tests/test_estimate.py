"""The dry run: what it counts is right, what it extrapolates is arithmetic, and nothing is left behind."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import gloo
import pytest

from photofound import cli
from photofound.train import estimate
from photofound.train.estimate import Budget, Measured, Phase
from photofound.train.settings import TrainConfig


@dataclass(frozen=True)
class Config:
    train: TrainConfig = field(default_factory=lambda: replace(gloo.COMMON, steps=1000))


def cost(parameters=10**9, tokens=256, flops=4 * 10**11, **more):
    return Phase(parameters, tokens, flops, **more)


class Toy(gloo.Toy):
    def __init__(self, config, world):
        super().__init__()


class Absent(Toy):
    def __init__(self, config, world):
        raise FileNotFoundError("model.vae: nowhere does not exist")


def lines(stage=Toy, plan=None, budget=None, config=None):
    said = estimate.dry_run(config or Config(), stage, plan, budget or Budget())
    return {line.split()[0].rstrip(":"): line for line in said}


def test_parameters_and_flops_are_counted():
    said = lines()
    assert said["parameters"].split()[1] == f"{sum(p.numel() for p in gloo.Toy().module.parameters()):,}"
    forward = 2 * (4 * 4 + 4 * 4 + 4 * 2)  # a sample through two blocks and a head; a multiply-add is two
    backward = 2 * forward - 2 * 4 * 4  # by weights and by inputs, but for the first layer's inputs
    assert f"{forward + backward} FLOP per sample" in said["FLOPs"]
    assert re.search(r"[\d.]+ images/s on 1 x .+ thread", said["speed"]) and "at the peak of a step" in said["memory"]


@dataclass(frozen=True)
class Turning(Config):
    turns: tuple[float, ...] = (0.75,)


class Shrinking(Toy):
    """Late in the run the batch is half as large."""

    def batch_size(self, size, progress):
        return size if progress < 0.75 else size // 2


def test_every_phase_counts_by_its_share_of_the_run():
    said = lines(Shrinking, config=Turning(), budget=Budget(gpus=2, tflops=1e-10))
    assert said["FLOPs"] == lines()["FLOPs"]  # per sample: the same at both ends
    flops = int(re.search(r"(\d+) FLOP per sample", said["FLOPs"])[1])
    samples = 1000 * (0.75 * 8 + 0.25 * 4)
    assert said["run"] == f"run         1,000 steps of 4 to 8 = {samples:,.0f} samples"
    assert f"{samples * flops / (2 * 1e2) / 3600:.1f} hours on 2 GPUs" in said["time"]


def test_time_and_cost_follow_from_the_speed_of_a_gpu():
    train = replace(Config().train, steps=9000, batch_size=1000, micro_batches=1)
    said = "\n".join(estimate._whole_run(train, [Measured(1.0, 1000, 2e12, 10.0)], Budget(gpus=5, price=2.0)))
    assert "9,000 steps of 1,000 = 9,000,000 samples" in said
    assert "5.0 hours on 5 GPUs, each as fast as this device" in said and "50.00 at 2 per GPU and hour" in said
    phases = [Measured(0.75, 1000, 2e15, 10.0), Measured(0.25, 250, 8e15, 40.0)]
    said = "\n".join(estimate._whole_run(train, phases, Budget(gpus=10, price=2.0, tflops=500)))
    assert "1.8 hours on 10 GPUs, at 500 TFLOP/s each" in said and "35.00 at 2 per" in said
    assert "9,000 steps of 250 to 1,000 = 7,312,500 samples" in said


def test_minutes_limit_time_and_cost():
    train = replace(Config().train, steps=9000, batch_size=1000, micro_batches=1, minutes=150.0)
    said = "\n".join(estimate._whole_run(train, [Measured(1.0, 1000, 2e12, 10.0)], Budget(gpus=5, price=2.0)))
    assert "2.5 hours on 5 GPUs" in said and "ends it after 50% of its steps" in said and "25.00 at 2" in said


def test_muon_is_counted_once_since_the_gpus_share_it():
    planned = [cost(work=1e12, update=4e12, counted=("transformer", "muon"), missing=("autoencoder",))]
    said = lines(Absent, lambda config: planned, Budget(gpus=4, tflops=100))
    assert said["optimizer"] == "optimizer   4 TFLOP a step, shared by the GPUs, 33% of the work"
    assert "transformer, muon; not counted, since it is not here: autoencoder" in said["counted"]
    assert f"{1000 * (8e12 + 4e12) / 4 / 100e12 / 60:.1f} minutes on 4 GPUs" in said["time"] and "cluster" not in said
    said = lines(Absent, lambda config: planned, Budget(gpus=4, gpu="H200"))
    minutes = 1000 * 12e12 / 4 / 316.5e12 / 60
    assert f"{1.5 * minutes:.1f} minutes to {2.2 * minutes:.1f} minutes, should it lose as much" in said["cluster"]
    class_flops = estimate.muon_flops((8, 4, 3, 3))  # a matrix of 8 x 36
    assert class_flops == 5 * (4 * 8 * 8 * 36 + 2 * 8**3) == estimate.muon_flops((36, 8))


def test_a_dry_run_tries_the_export_and_says_what_the_disk_needs():
    said = lines()
    assert re.search(r"a checkpoint, up to 3 at a time; \d+ MiB the exported model", said["disk"])

    class Broken(Toy):
        def export(self, folder):
            raise ValueError("export: no such thing")

    with pytest.raises(ValueError, match="export: no such thing"):
        lines(Broken)


def test_a_model_that_is_too_large_or_not_here_is_still_planned():
    small = lines(Absent, lambda config: [cost(parameters=1000)], Budget(gpus=8, price=3, tflops=400))
    assert small["not"] == "not measured: model.vae: nowhere does not exist"
    huge = lines(Toy, lambda config: [cost(parameters=10**15)], Budget(gpus=8, price=3, tflops=400))
    assert "training takes at least" in huge["not"] and "256 tokens, 400 GFLOP a forward pass" in huge["plan"]
    hours = 1000 * 8 * 3 * 4e11 / (8 * 400e12) / 3600
    assert f"{hours * 60:.1f} minutes on 8 GPUs, at 400 TFLOP/s each" in huge["time"]
    assert "--tflops" in lines(Absent, lambda config: [cost()])["no"]


def test_without_a_plan_a_mistake_is_a_mistake():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        lines(Absent)


@pytest.mark.slow
def test_from_the_command_line_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["train", "pretrain", "--model.vae=none", "--data.drawn=8", "--data.sizes=[32]", "--data.crop=32"]
    small = ["--model.hidden_size=32", "--model.num_heads=2", "--model.depth=1", "--model.patch_size=8"]
    small += ["--model.text_width=16", "--model.text_layers=1", "--train.batch_size=8", "--data.late_crop=32"]
    assert cli.main([*command, *small, "--dry-run", "--gpus", "8", "--price", "2.5"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("plan ", "parameters ", "memory ", "FLOPs ", "images/s", "on 8 GPUs", "cost "))
    assert not list(tmp_path.iterdir())
    assert cli.main([*command, *small, "--dry-run", "--gpus", "0"]) == 2
    assert "--gpus: 0 must be above 0" in capsys.readouterr().err
