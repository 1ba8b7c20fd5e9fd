"""Checkpoints in shards: the state of their step, written while training goes on, for any number of processes."""

from __future__ import annotations

import json
from functools import partial

import gloo
import pytest
import torch
from safetensors.torch import load_file

from photofound.cli import main
from photofound.train import checkpoint, shards
from photofound.train.trainer import Trainer


@pytest.fixture
def saved(tmp_path):
    """One process's checkpoints of steps 1 and 2, one tensor in them tied to another, one of eight bits."""
    background, weight, done = shards.Background(tmp_path, 2, 1.0), torch.ones(4, 4), []
    for step in (1, 2):
        tensors = {
            "model": {"w": weight, "tied": weight, "t": weight.T[:2]},
            "optimizer": {"0.0.step": torch.tensor(3.0)},
        }
        background.save(step, tensors, {"seconds": 1.5}, partial(done.append, step))
        weight.mul_(2)  # the copy is taken
    background.wait()
    assert done == [1, 2]
    return tmp_path


def flat(groups):
    return {f"{group}.{name}": value for group, part in groups.items() for name, value in part.items()}


def test_what_was_there_when_it_was_asked_for_is_saved(saved):
    groups, state = shards.load(saved / "step-2")
    assert (state["step"], state["seconds"], state["groups"]) == (2, 1.5, ["model", "optimizer"])
    assert all((groups["model"][name] == 2).all() for name in ("w", "tied", "t"))
    assert groups["model"]["t"].shape == (2, 4) and groups["optimizer"]["0.0.step"] == 3
    assert {file.suffix for file in (saved / "step-2").iterdir()} == {".safetensors", ".json"}  # no pickle


def test_the_newest_are_kept(saved):
    (saved / "step-7.partial").mkdir()  # of a killed run
    background = shards.Background(saved, 2, 1.0)
    background.save(3, {"model": {"w": torch.ones(2)}}, {}, lambda: None)
    background.wait()
    assert sorted(path.name for path in saved.iterdir()) == ["step-2", "step-3"]


def test_what_cannot_be_written_is_said_when_the_next_one_is_due(saved, monkeypatch):
    background = shards.Background(saved, 2, 1.0)

    def full(self, *arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards._Writer, "write_data", full)
    background.save(3, {"model": {"w": torch.ones(2)}}, {}, lambda: None)
    with pytest.raises(OSError, match=r"step-3 cannot be written \(.*No space left.*\); step-2 is whole, make room"):
        background.save(4, {"model": {"w": torch.ones(2)}}, {}, lambda: None)
    assert checkpoint.steps(saved) == [1, 2]


def test_a_shard_that_is_missing_or_damaged_is_one_clear_line(saved):
    (file,) = (saved / "step-1").glob("*.safetensors")
    file.unlink()
    with pytest.raises(checkpoint.Damaged, match=f"step-1 is damaged .*{file.name} is missing"):
        shards.load(saved / "step-1")
    (file,) = (saved / "step-2").glob("*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content.replace(b"saved_offsets", b"other_offsets"))
    with pytest.raises(checkpoint.Damaged, match="step-2 is damaged"):
        shards.load(saved / "step-2")
    file.write_bytes(content[:-4] + b"\0\0\xc0\x7f")
    with pytest.raises(checkpoint.Damaged, match="values that are no numbers"):
        shards.load(saved / "step-2")
    file.write_bytes(content[:-4])
    with pytest.raises(checkpoint.Damaged, match="step-2 is damaged"):
        shards.load(saved / "step-2")


def test_shards_become_a_whole_checkpoint(saved, tmp_path, capsys):
    before = flat(shards.load(saved / "step-2")[0])
    assert main(["unshard", str(saved / "step-2")]) == 0
    assert capsys.readouterr().out.strip() == str(saved / "step-2")
    groups, state = checkpoint.load(saved / "step-2")
    assert all(torch.equal(value, before[name]) for name, value in flat(groups).items()) and "shards" not in state
    assert main(["unshard", str(saved / "step-1"), "-o", str(tmp_path / "whole")]) == 0
    assert checkpoint.in_shards(saved / "step-1") and checkpoint.load(tmp_path / "whole")[1]["step"] == 1
    assert (
        main(["unshard", str(saved / "step-2")]) == main(["unshard", str(saved / "step-1"), "-o", str(tmp_path)]) == 2
    )
    errors = capsys.readouterr().err.splitlines()
    assert "is whole already" in errors[0] and "exists already" in errors[1] and len(errors) == 2


# --------------------------------------------------------------------------------------------------- several processes


@pytest.mark.slow
def test_what_is_written_later_is_the_state_of_its_step(gloo_runs):
    """Bit for bit what a run with whole checkpoints saves, though its files were written two steps later."""
    late, state = shards.load(gloo_runs / "shards" / "checkpoints" / "step-3")
    assert len(state["shards"]) == 2
    for step, groups in ((3, late), (6, checkpoint.load(gloo_runs / "shards" / "checkpoints" / "step-6")[0])):
        whole = flat(checkpoint.load(gloo_runs / "whole" / "checkpoints" / f"step-{step}")[0])
        assert whole.keys() == flat(groups).keys()  # weights, average, momenta of Muon and AdamW
        assert all(torch.equal(value, whole[name]) for name, value in flat(groups).items())


@pytest.mark.slow
def test_another_number_of_processes_goes_on(gloo_runs, tmp_path):
    """Three did, and now one, with the losses of the two that began."""
    path = gloo_runs / "shards" / "checkpoints" / "step-3"
    config = gloo.replace(gloo.IN_SHARDS, parallel="ddp", save_as="whole")
    assert Trainer(config, gloo.Toy(), tmp_path / "one", str(path)).run()
    rows = {
        run: [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()][-3:]
        for run in (gloo_runs / "whole", gloo_runs / "three", tmp_path / "one")
    }
    wanted, *others = rows.values()
    assert all(found == pytest.approx(wanted, abs=1e-5) for found in others)


@pytest.mark.slow
def test_a_kill_while_shards_are_written_leaves_the_last_ones_whole(gloo_runs, tmp_path):
    folder = gloo_runs / "killed" / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"step-4", "step-5.partial"}
    path, *_ = checkpoint.resolve(folder, "latest")
    groups, state = shards.load(path)
    assert state["step"] == 4 and len(state["shards"]) == 3 and set(groups) == {"model", "ema", "optimizer"}
    model = load_file(gloo_runs / "three" / "checkpoints" / "step-6" / "model.safetensors")
    assert {name: value.shape for name, value in groups["model"].items()} == {k: v.shape for k, v in model.items()}
