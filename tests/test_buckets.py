"""Photographs of a folder at their own aspects, and how often each folder's are drawn."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import encoded
from stages import overrides
from test_store import boxed, photograph

from photofound import config
from photofound.data import chosen
from photofound.data.buckets import Buckets
from photofound.data.store import PhotoStore, _Windows
from photofound.edits.geometry import aspect_buckets
from photofound.train.distributed import World
from photofound.train.trainer import Trainer
from photofound.training.finetune import Config, FinetuneStage

SIZES = aspect_buckets(64, 16)  # (W, H): 32x... to 80x48


def test_each_photograph_covers_the_bucket_of_its_aspect():
    given = [photograph(100, 100), photograph(80, 160, boxed(80, 160, 20, 50, 30, 90)), photograph(20, 20)]
    buckets = Buckets(given, SIZES)
    assert list(buckets.stores) == [(48, 80), (64, 64)] and buckets.left_out == 1  # 20 would be enlarged threefold
    wide = buckets.stores[48, 80]
    assert (int(wide.height[0]), int(wide.width[0])) == (48, 96)  # as large as covers it, not larger
    assert wide.rows((48, 80), objects=True).tolist() == [0] and wide.rows((49, 80)).tolist() == []
    picked = Counter(buckets.pick([1.0, 3.0], torch.Generator().manual_seed(i))[0] for i in range(400))
    assert picked[64, 64] == pytest.approx(300, abs=35)


def test_a_crop_is_a_window_of_any_shape():
    """The same window whether it is cut as views or gathered, and with a whole object in it."""
    store = PhotoStore.build([photograph(60, 90, boxed(60, 90, 20, 40, 30, 70))], (60,))
    rows = store.rows((40, 64), objects=True).repeat(8)
    sample = store.crops(rows, (40, 64), True, torch.Generator().manual_seed(0))
    assert sample.pixels.shape == (8, 3, 40, 64) and sample.matte.shape == (8, 1, 40, 64)
    assert (sample.matte.sum((1, 2, 3)) == 20 * 40).all()
    top, left, flip = torch.arange(8) % 3, torch.arange(8) % 5, torch.arange(8) % 2 > 0
    at = _Windows(store.height[rows], store.width[rows], top, left, flip, 40, 64)
    arguments = store.offset[rows], 3, at
    assert torch.equal(store._stacked(*arguments), store._gathered(*arguments))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """kohya's names: two square mugs thrice, a wide cup once, a tall one that is not wanted."""
    top = tmp_path_factory.mktemp("kohya")
    sizes = {"3_sks mug/a": (96, 96), "3_sks mug/b": (96, 96), "1_cup/c": (80, 150), "0_old/d": (150, 80)}
    for index, (name, (height, width)) in enumerate(sizes.items()):
        path = top / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(np.full((height, width, 3), 60 + 40 * index, np.uint8)))
    (top / "1_cup" / "c.txt").write_text("a cup")
    return top


def test_folders_say_how_often_their_photographs_count(folder, tmp_path):
    read = [(p.caption, p.repeats) for p in chosen.read(str(folder), 64, {}, {}, repeats_by_name=True)]
    assert sorted(read) == [("a cup", 1), ("sks mug", 3), ("sks mug", 3)]
    listed = chosen.read(str(folder), 64, {}, {}, repeats={"1_cup": 2.5})
    assert sorted((p.caption, p.repeats) for p in listed) == [("", 1), ("", 1), ("", 1), ("a cup", 2.5)]
    with pytest.raises(ValueError, match="data.repeats: no photograph lies in 'cups', below"):
        chosen.read(str(folder), 64, {}, {}, repeats={"cups": 2})
    (tmp_path / "0_old").mkdir()
    (tmp_path / "0_old" / "a.png").write_bytes((folder / "0_old" / "d.png").read_bytes())
    with pytest.raises(ValueError, match="data.repeats: they leave out every photograph"):
        chosen.read(str(tmp_path), 64, {}, {}, repeats_by_name=True)


def settings(tiny_folder, folder, *more):
    return config.load(
        Config,
        None,
        overrides(
            tiny_folder, folder, "--data.repeats_by_name=true", "--data.buckets=true", "--data.multiple=16",
            "--mix.tasks={inpaint: 1, expand: 1}", "--validation.times=0", "--train.batch_size=4",
            "--train.trackers=[]", "--train.device=cpu", "--train.schedule=constant", "--model.lora.rank=2", *more,
        ),
    )  # fmt: skip


def test_batches_have_a_buckets_shape_and_a_folders_share(tiny_folder, folder):
    stage = FinetuneStage(settings(tiny_folder, folder), World())
    batches = [stage.batch(torch.Generator().manual_seed(seed), 4, 0.0) for seed in range(60)]
    shapes = Counter(tuple(batch.sample.pixels.shape[-2:]) for batch in batches)
    assert set(shapes) == {(64, 64), (48, 80)}
    assert shapes[64, 64] / 60 == pytest.approx(6 / 7, abs=3 * math.sqrt(6 / 7 / 7 / 60))
    words = {prompt for batch in batches for prompt in batch.sample.prompt}
    assert any("sks mug" in each for each in words) and any("cup" in each for each in words)
    again = stage.batch(torch.Generator().manual_seed(7), 4, 0.0)
    assert torch.equal(again.sample.pixels, batches[7].sample.pixels)
    held = FinetuneStage(settings(tiny_folder, folder, "--data.hold_out=2"), World())
    assert sum(len(store.captions) for store in held.buckets.stores.values()) == int(
        held.store.photograph.unique().numel()
    )


@pytest.mark.slow
def test_a_run_on_buckets_resumes_exactly(tiny_folder, folder, tmp_path):
    def losses(name, steps, resume=None):
        made = settings(tiny_folder, folder, f"--train.steps={steps}")
        stage = FinetuneStage(made, World())
        stage.sheet = lambda: np.zeros((8, 8, 3), np.uint8)
        assert Trainer(made.train, stage, tmp_path / name, resume).run()
        return [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]

    whole = losses("whole", 3)
    losses("again", 2)
    assert losses("again", 3, "latest") == whole


def test_what_makes_no_sense_is_refused(tiny_folder, folder):
    def refused(line, *more):
        with pytest.raises(ValueError, match=line):
            FinetuneStage(settings(tiny_folder, folder, *more), World())

    refused("data.repeats: 1_cup has 0.0; give more than 0", "--data.repeats={1_cup: 0}")
    refused("a batch has one shape; leave prior out", "--prior.weight=1", "--prior.prompt=a mug")
    refused("are for data.folder; a stream has buckets", f"--data.sources=[{{path: {folder}}}]")
    refused("data.multiple: 24 is no multiple of a token's 16 pixels", "--data.multiple=24")
    refused("no photograph fits a crop of 256", "--data.crop=256", "--data.late_crop=256")
