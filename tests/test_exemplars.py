"""Samples with exemplar canvases that are made ahead of training."""

from __future__ import annotations

import pytest
import torch

from photofound import cli
from photofound.data import drawn, exemplars
from photofound.data.exemplars import Exemplars, Plan

PLAN = Plan(crop=64)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(exemplars, "SHARD", 4)


@pytest.fixture(scope="module")
def store():
    return drawn.store(6, (72,))


@pytest.mark.slow
def test_holes_are_filled_and_the_rest_is_the_photograph(store, tmp_path):
    assert exemplars.write(store, tmp_path, 8, PLAN, workers=1) == 2
    made = Exemplars(tmp_path)
    assert len(made) == 8 and made.crop == 64 and set(made.task) <= set(PLAN.tasks)
    condition, sample = made.take(torch.arange(8))
    given = (condition.hole == 0).expand_as(sample.pixels)
    assert torch.equal(condition.canvas[given], sample.pixels[given])
    assert (condition.canvas[~given] != sample.pixels[~given]).any()
    assert made.origins() == store.origins()
    assert list(condition.task) == made.task and ((condition.hole == 0) | (condition.hole == 1)).all()


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_files(store, tmp_path):
    exemplars.write(store, tmp_path / "whole", 12, PLAN, workers=1)
    exemplars.write(store, tmp_path / "parts", 4, PLAN, workers=1)
    assert exemplars.write(store, tmp_path / "parts", 12, PLAN, workers=2) == 2
    assert exemplars.write(store, tmp_path / "parts", 12, PLAN, workers=2) == 0
    names = sorted(path.name for path in (tmp_path / "whole").glob("*.safetensors"))
    assert len(names) == 3
    whole, parts = Exemplars(tmp_path / "whole"), Exemplars(tmp_path / "parts")
    assert torch.equal(whole.pixels, parts.pixels) and torch.equal(whole.canvas, parts.canvas)
    assert torch.equal(whole.hole, parts.hole) and (whole.task, whole.prompt) == (parts.task, parts.prompt)


def test_another_plan_wants_another_folder(store, tmp_path):
    exemplars.write(store, tmp_path, 4, PLAN, workers=1)
    with pytest.raises(ValueError, match="another plan"):
        exemplars.write(store, tmp_path, 4, Plan(crop=32), workers=1)
    with pytest.raises(ValueError, match="no photograph is as large as 500"):
        exemplars.write(store, tmp_path / "other", 4, Plan(crop=500), workers=1)


@pytest.mark.slow
def test_new_shards_are_taken_in_and_old_rows_keep_their_numbers(store, tmp_path):
    exemplars.write(store, tmp_path, 4, PLAN, workers=1)
    made = Exemplars(tmp_path)
    before = made.pixels.clone()
    assert made.refresh() == 0
    exemplars.write(store, tmp_path, 8, PLAN, workers=1)
    assert made.refresh() == 4 and len(made) == 8 and torch.equal(made.pixels[:4], before)
    rows = made.rows(made.task[0])
    assert 0 in rows.tolist() and all(made.task[i] == made.task[0] for i in rows.tolist())


def test_missing_and_damaged_files_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="prepare --exemplars"):
        Exemplars(tmp_path)
    (tmp_path / "exemplars-00000.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged"):
        Exemplars(tmp_path)


def test_the_command_says_where_it_went_wrong(tmp_path, capsys):
    assert cli.main(["train", "prepare", str(tmp_path), str(tmp_path / "out"), "--exemplars=4"]) == 2
    assert "holds no .tar" in capsys.readouterr().err
