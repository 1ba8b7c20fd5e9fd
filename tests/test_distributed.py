"""The processes of a run: two train what one trains, sharded or not, and sharding that would not happen is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import gloo
import pytest
import torch
from safetensors.torch import load_file

from photofound.card import record
from photofound.train import distributed
from photofound.train.distributed import Engine, World, seed_of, shard_like, whole
from photofound.train.trainer import Trainer

pytestmark = pytest.mark.slow  # whole runs, in processes of their own


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def alone(folder, name):
    """The same run by one process."""
    config = replace(gloo.RUNS[name], parallel="ddp")
    Trainer(replace(config, steps=3), gloo.Toy(), folder).run()
    Trainer(config, gloo.Toy(), folder, "latest").run()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "within"),
    [("ddp", 1e-6), ("ddp-muon", 1e-6), ("fsdp", 1e-6), ("fsdp-muon", 1e-6), ("fsdp-bf16", 1e-2)],
)
def test_two_processes_train_what_one_does(gloo_runs, tmp_path, name, within):
    """Also after resuming half way, with a head that has no gradient in half of the steps, and with its moments."""
    one, two = alone(tmp_path, name), gloo_runs / name
    assert losses(two) == pytest.approx(losses(one), abs=within) and len(losses(one)) == 6
    for file in ("model", "ema", "optimizer"):
        a, b = (load_file(run / "checkpoints" / "step-6" / f"{file}.safetensors") for run in (one, two))
        assert a.keys() == b.keys() and all(value.shape == b[key].shape for key, value in a.items())
        for key, value in a.items():
            assert torch.allclose(value.float(), b[key].float(), atol=10 * within), (file, key)
    assert {p.name for p in (two / "samples").iterdir()} == {"step-3.png", "step-6.png"}
    (made,) = record.read(two / "model" / record.MODEL)
    assert [(s.count, s.steps, s.samples) for s in made.sessions] == [(2, 3, 24), (2, 3, 24)]  # of all, and once
    a, b = (
        load_file(run / "model" / "m.safetensors") for run in (one, two)
    )  # what a user loads: whole, fp32, averaged
    assert all(
        value.dtype == b[key].dtype and torch.allclose(value, b[key], atol=10 * within) for key, value in a.items()
    )


@pytest.mark.slow
def test_what_was_sharded_goes_on_in_one_process(gloo_runs, tmp_path, capsys):
    path = gloo_runs / "fsdp" / "checkpoints" / "step-3"
    Trainer(gloo.COMMON, gloo.Toy(), tmp_path / "on", str(path)).run()
    note = capsys.readouterr().out
    assert "step 3 was saved by 2 process(es), this is 1: sums run over processes in another order" in note
    assert losses(tmp_path / "on") == pytest.approx(losses(gloo_runs / "fsdp")[3:], abs=1e-6)


# ------------------------------------------------------------------------------------------------------------ sharding


@pytest.mark.parametrize("parallel", ["fsdp", "hsdp"])
def test_sharding_that_would_not_happen_is_refused(parallel, monkeypatch):
    """accelerate itself would go on without a word."""
    settings = {"device": "cpu", "precision": "fp32", "parallel": parallel}
    if parallel == "hsdp":
        with pytest.raises(ValueError, match="train.shard_size: 2 cannot divide 1 processes"):
            Engine(**settings, shard_size=2)
    else:
        with pytest.raises(
            ValueError, match="fsdp is not active, accelerate runs 1 process.* on cpu as NO; start on GPUs"
        ):
            Engine(**settings)


def test_two_processes_on_cpus_do_not_shard():
    with pytest.raises(ValueError, match="hsdp is not active, .* 2 process.* on cpu as MULTI_CPU"):
        distributed._check_sharding("hsdp", "MULTI_CPU", 2, torch.device("cpu"))


def test_a_configuration_of_accelerates_own_does_not_shard_in_secret():
    with pytest.raises(ValueError, match="ddp was asked for, but accelerate's own configuration says FSDP"):
        distributed._check_sharding("ddp", "FSDP", 2, torch.device("cuda"))


def test_one_process_that_should_be_several_says_so(monkeypatch):
    """What ``accelerate launch --cpu --num_processes 2`` leaves its only process with."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    Engine("cpu")  # asked for one
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ValueError, match="one process of several; on CPUs use 'torchrun"):
        Engine("cpu")


@pytest.mark.parametrize("size", [None, 1, 3, 4, 8])
def test_groups_that_do_not_come_out_are_refused(size):
    with pytest.raises(ValueError, match=f"train.shard_size: {size} cannot divide 4 processes"):
        distributed._sharding("hsdp", size, 4, "bf16")


def test_hsdp_repeats_the_model_across_groups():
    sizes = distributed._sharding("hsdp", 2, 8, "bf16")["parallelism_config"]
    assert (sizes.dp_shard_size, sizes.dp_replicate_size) == (2, 4)


# --------------------------------------------------------------------------------------------------------- small parts


def test_a_single_process_is_the_first_of_one():
    alone = Engine(device="cpu", precision="fp32")
    assert alone.world == World(0, 1, torch.device("cpu")) and alone.main and not alone.sharded
    assert alone.gather([1]) == [1] and alone.agree(2.5, True) == (2.5, True)


def test_runs_in_one_process_do_not_inherit_each_others_precision():
    seen = []
    for precision in ("bf16", "fp32"):
        layer = torch.nn.Linear(2, 2)
        made = Engine(device="cpu", precision=precision)
        call, _ = made.prepare(layer, [], [torch.optim.SGD(layer.parameters())])
        seen.append(call(layer, torch.ones(1, 2)).dtype)
    assert seen == [torch.bfloat16, torch.float32]


def test_seeds_are_the_same_everywhere_and_differ_in_every_part():
    assert seed_of(0, 1, "data") == seed_of(0, 1, "data") < 2**56
    assert len({seed_of(*parts) for parts in [(0, 1), (1, 0), (0, 11), (0, 1, 1), ("0/1",), (0, "1", "")]}) == 5


def test_what_is_not_sharded_stays_as_it_is():
    value = torch.ones(3)
    assert whole(value) is value and shard_like(value, torch.zeros(3)) is value


def test_trackers_that_are_missing_say_how_to_get_them(monkeypatch):
    with pytest.raises(ValueError, match="train.trackers: 'mlflow' is unknown; use tensorboard or wandb"):
        Engine(device="cpu", trackers=["mlflow"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"wandb is not installed; pip install 'photofound\[wandb\]'"):
        Engine(device="cpu", trackers=["wandb"])
