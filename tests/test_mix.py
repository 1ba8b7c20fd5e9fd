"""Batches in which tasks are mixed: shares, conditions, references, streams."""

import json

import numpy as np
import pytest
import torch
from stages import new_stage, overrides, streamed

from photofound import config
from photofound.edits.task import Condition
from photofound.train.distributed import World
from photofound.train.mix import assign, blank, hold_out
from photofound.training.pretrain import Config, PretrainStage

pytestmark = pytest.mark.slow


@pytest.fixture
def stage(tiny_folder, shards):
    return PretrainStage(config.load(Config, None, overrides(tiny_folder, shards)), World())


@pytest.fixture
def referring(tiny_folder, shards):
    """A stage whose model gets the reference input at its start."""
    arguments = overrides(tiny_folder, shards, "--model.reference=true", "--model.reference_size=32")
    return PretrainStage(config.load(Config, None, arguments), World())


def test_a_batch_mixes_the_tasks_in_their_shares(stage):
    generator = torch.Generator().manual_seed(0)
    counts: dict[str, int] = {}
    for _ in range(20):
        condition, sample, *_ = stage.batch(generator, 14, 0.0)
        assert len(condition) == len(sample) == 14 and sample.pixels.shape[1:] == (3, 64, 64)
        for name in condition.task:
            counts[name] = counts.get(name, 0) + 1
    shares = stage.config.mix.tasks
    expected = {name: share for name, share in shares.items() if name not in ("generate", "complete")}
    expected["generate"] = shares["generate"] + shares["complete"]  # both train the trunk's head
    for name, share in expected.items():
        assert abs(counts[name] / 280 - share / sum(shares.values())) < 0.05


def test_blank_hides_everything_and_only_there():
    condition = Condition(torch.rand(2, 3, 8, 8), torch.zeros(2, 1, 8, 8), ["inpaint"] * 2, ["a", "b"], torch.zeros(2))
    hidden = blank(condition, torch.tensor([True, False]))
    assert hidden.canvas[0].abs().max() == 0 and hidden.hole[0].min() == 1
    assert torch.equal(hidden.canvas[1], condition.canvas[1]) and hidden.hole[1].max() == 0


def test_references_are_drawn_for_the_tasks_that_take_one(referring):
    generator, drawn = torch.Generator().manual_seed(0), []
    for _ in range(20):
        condition = referring.batch(generator, 14, 0.0).condition
        assert condition.reference.shape == (14, 3, 32, 32)
        drawn += zip(condition.task, condition.referenced.tolist(), strict=True)
    for name in {task for task, _ in drawn}:
        share = np.mean([has for task, has in drawn if task == name])
        assert 0.5 < share < 0.9 if name in ("inpaint", "outpaint") else share == 0


def test_a_recoloured_ground_is_what_the_reference_shows(tiny_folder, shards):
    tasks = "--mix.tasks={outpaint: 1}"
    extra = ("--model.reference=true", "--mix.reference=1", "--data.recolour=1", tasks)
    stage = PretrainStage(config.load(Config, None, overrides(tiny_folder, shards, *extra)), World())
    condition, sample, *_ = stage.batch(torch.Generator().manual_seed(0), 14, 0.0)
    pixels = sample.pixels
    assert condition.referenced.any()
    ground = condition.hole
    mean = (pixels * ground).sum((2, 3)) / ground.sum((2, 3))
    seen = condition.reference.mean((2, 3))
    assert (seen - mean)[condition.referenced].abs().max() < 0.15


def test_held_out_photographs_are_never_drawn(tiny_folder, shards):
    stage = new_stage(tiny_folder, shards, "--data.hold_out=4")
    assert set(stage.store.photograph.tolist()) == set(range(12)) - {0, 4, 8}
    everything = new_stage(tiny_folder, shards).store
    kept, held = hold_out(everything, 4)
    assert set(held.photograph.tolist()) == {0, 4, 8} and len(kept.table) + len(held.table) == len(everything.table)
    sample = held.crops(torch.tensor([0]), 64, False, torch.Generator().manual_seed(0))
    assert sample.pixels.shape == (1, 3, 64, 64)


def test_tasks_that_need_an_object_get_no_others():
    shares, objects = (
        {"outpaint": 0.5, "inpaint": 0.3, "expand": 0.2},
        {"outpaint": True, "inpaint": False, "expand": False},
    )
    cpu = torch.Generator().manual_seed(0)
    for wholes in range(11):
        whole = torch.arange(10) < wholes
        assigned = assign(shares, objects, whole, cpu)
        assert sorted(torch.cat(list(assigned.values())).tolist()) == list(range(10))
        assert len(assigned.get("outpaint", [])) == min(5, wholes)
        assert all(whole[i] for i in assigned.get("outpaint", []))
    with pytest.raises(ValueError, match="fits none of the tasks; add another task"):
        assign({"outpaint": 1.0}, {"outpaint": True}, whole & False, cpu)


def test_a_stream_takes_the_place_of_the_store(tiny_folder, shards):
    stage = PretrainStage(streamed(tiny_folder, shards), World())
    batch = stage.batch(torch.Generator().manual_seed(0), 14, 0.0)
    assert len(batch.condition) == 14 and batch.sample.pixels.shape == (14, 3, 64, 64)
    assert set(batch.condition.prompt) == {"A photo of a ball."}
    given = {name for name in batch.condition.task if name == "outpaint"}
    for task, hole in zip(batch.condition.task, batch.condition.hole, strict=True):
        if task == "outpaint":  # never without an object
            assert 0.2 < hole.mean() < 0.97
    assert given
    loss, _ = stage.loss(batch)
    assert torch.isfinite(loss)
    assert stage.sheet().ndim == 3  # sheets come from the first photographs


def test_a_streaming_stage_resumes_where_it_was_stopped(tiny_folder, shards):
    whole = PretrainStage(streamed(tiny_folder, shards), World())
    assert whole.state_dict() == {}
    batches = []
    for step in range(4):
        batches.append(whole.batch(torch.Generator().manual_seed(step), 6, 0.0))
        if step == 1:
            state = json.loads(json.dumps(whole.state_dict()))
    resumed = PretrainStage(streamed(tiny_folder, shards, "--data.workers=1"), World())
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state  # also before the first batch
    for step in (2, 3):
        batch = resumed.batch(torch.Generator().manual_seed(step), 6, 0.0)
        assert (
            torch.equal(batch.sample.pixels, batches[step].sample.pixels)
            and batch.condition.task == batches[step].condition.task
        )
    late = resumed.batch(torch.Generator().manual_seed(4), 5, 0.9)  # another size goes on reading
    assert len(late.sample) == 5
