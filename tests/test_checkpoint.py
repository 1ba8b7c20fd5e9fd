"""Checkpoints: whole or not there, whatever happens while one is written."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from photofound.train import checkpoint


def tensors(value=1.0):
    return {"model": {"w": torch.full((4, 4), value)}, "rng": {"data": torch.arange(5, dtype=torch.uint8)}}


def test_what_is_saved_is_loaded_back(tmp_path):
    path = checkpoint.save(tmp_path, 7, tensors(2.0), {"seconds": 1.5})
    loaded, state = checkpoint.load(path)
    assert path.name == "step-7" and state["step"] == 7 and state["seconds"] == 1.5
    assert set(loaded) == {"model", "rng"}
    assert torch.equal(loaded["model"]["w"], torch.full((4, 4), 2.0))
    assert torch.equal(loaded["rng"]["data"], torch.arange(5, dtype=torch.uint8))


def test_tied_and_strided_weights_are_saved(tmp_path):
    tied = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    tied["b"].weight = tied["a"].weight
    conv = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    path = checkpoint.save(tmp_path, 1, {"tied": dict(tied.state_dict()), "conv": dict(conv.state_dict())}, {})
    loaded, _ = checkpoint.load(path)
    assert torch.equal(loaded["tied"]["a.weight"], loaded["tied"]["b.weight"])
    assert torch.equal(loaded["conv"]["weight"], conv.weight)


def test_the_newest_are_kept(tmp_path):
    for step in (5, 10, 100, 20):
        checkpoint.save(tmp_path, step, tensors(), {}, keep=2)
    assert checkpoint.steps(tmp_path) == [20, 100]


def test_the_one_just_written_is_never_deleted(tmp_path):
    for step in (1000, 2000, 3000):
        checkpoint.save(tmp_path, step, tensors(), {}, keep=3)
    checkpoint.save(tmp_path, 10, tensors(), {}, keep=1)
    assert checkpoint.steps(tmp_path) == [10]


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep is 0"):
        checkpoint.save(tmp_path, 1, tensors(), {}, keep=0)


def test_the_same_step_is_replaced(tmp_path):
    checkpoint.save(tmp_path, 3, tensors(1.0), {})
    path = checkpoint.save(tmp_path, 3, tensors(2.0), {})
    assert float(checkpoint.load(path)[0]["model"]["w"][0, 0]) == 2.0
    assert [p.name for p in tmp_path.iterdir()] == ["step-3"]


@pytest.mark.parametrize(
    "state",
    ["[]", "3", "[" * 10**5, "{", '{"groups": 5}', '{"groups": ["../x"]}', '{"groups": [1]}', '{"groups": ["no"]}'],
)
def test_an_odd_state_is_told_in_one_line(tmp_path, state):
    path = checkpoint.save(tmp_path, 3, tensors(), {})
    (path / "state.json").write_text(state)
    with pytest.raises(ValueError, match="^checkpoint: .* is damaged"):
        checkpoint.load(path)


def test_resolve_finds_the_latest_or_the_named_one(tmp_path):
    assert checkpoint.resolve(tmp_path, "latest") == []
    for step in (9, 10):
        checkpoint.save(tmp_path, step, tensors(), {})
    assert checkpoint.resolve(tmp_path, "latest") == [tmp_path / "step-10", tmp_path / "step-9"]
    assert checkpoint.resolve(tmp_path, str(tmp_path / "step-9")) == [tmp_path / "step-9"]
    with pytest.raises(FileNotFoundError, match="nowhere is not a checkpoint"):
        checkpoint.resolve(tmp_path, "nowhere")


KILLED = """
    import os, pathlib, signal, sys
    import safetensors.torch, torch
    from photofound.train import checkpoint

    folder, when = pathlib.Path(sys.argv[1]), sys.argv[2]
    group = {"w": torch.ones(4)}
    checkpoint.save(folder, 1, {"model": group, "optimizer": group}, {})
    die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
    if when == "between":  # one group is written, the second is not
        real, calls = safetensors.torch.save_file, []
        safetensors.torch.save_file = lambda *a, **k: die() if calls else (calls.append(1), real(*a, **k))
    else:  # everything is written but for the rename
        os.replace = die
    checkpoint.save(folder, 2, {"model": group, "optimizer": group}, {})
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["between", "rename"])
def test_a_run_killed_while_saving_resumes_from_the_checkpoint_before(tmp_path, when):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), when], env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "step-2.partial").is_dir()
    (path,) = checkpoint.resolve(tmp_path, "latest")
    assert path == tmp_path / "step-1"
    assert set(checkpoint.load(path)[0]) == {"model", "optimizer"}

    checkpoint.save(tmp_path, 3, tensors(), {})  # the next save clears up, whatever its step
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-1", "step-3"]


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path):
    """The second checkpoint is larger than what may still be written."""
    checkpoint.save(tmp_path, 1, tensors(1.0), {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"step-2 cannot be written \(.*\); step-1 is whole, make room and --resume"):
            checkpoint.save(tmp_path, 2, {"model": {"w": torch.zeros(100_000)}}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]  # the part that was written does not keep the disk full
    assert float(checkpoint.load(tmp_path / "step-1")[0]["model"]["w"][0, 0]) == 1.0


def damaged(tmp_path, name, content):
    path = checkpoint.save(tmp_path, 1, tensors(), {})
    if content is None:
        (path / name).unlink()
    else:
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{"),  # truncated
        ("model.safetensors", b""),
        ("model.safetensors", b"not safetensors at all, but long enough to have a header"),
        ("model.safetensors", None),
        ("state.json", None),
        ("state.json", b"{"),
        ("state.json", b"\xff\xfe"),
        ("state.json", b"[]"),
        ("state.json", b"{}"),
        ("state.json", b'{"step": "one"}'),
        ("state.json", b'{"step": 1, "groups": 5}'),
        ("state.json", b'{"a":' * 3000 + b"1" + b"}" * 3000),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path, name, content):
    path = damaged(tmp_path, name, content)
    with pytest.raises(ValueError, match="damaged .*; resume from an earlier step") as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("group", ["model", "ema"])
def test_weights_that_are_no_numbers_are_damaged(tmp_path, group):
    groups = tensors() | {group: {"w": torch.tensor([1.0, float("nan")])}}
    path = checkpoint.save(tmp_path, 1, groups, {})
    with pytest.raises(checkpoint.Damaged, match=f"of its {group} has values that are no numbers"):
        checkpoint.load(path)


def test_no_pickle_is_written(tmp_path):
    path = checkpoint.save(tmp_path, 1, tensors(), {})
    assert sorted(p.suffix for p in path.iterdir()) == [".json", ".safetensors", ".safetensors"]
