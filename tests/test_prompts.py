"""Pictures of the same prompts: made again with the weights of the time, kept as files, sent to the trackers."""

import numpy as np
import pytest
import torch
from helpers import encoded, noise
from PIL import Image
from stages import overrides

from photofound import config
from photofound.pipeline import EditPipeline
from photofound.train.distributed import Engine, World
from photofound.train.prompts import Prompts
from photofound.train.settings import PromptConfig
from photofound.train.trainer import Trainer
from photofound.training.finetune import Config, FinetuneStage


@pytest.fixture
def files(tmp_path):
    (tmp_path / "cup.png").write_bytes(encoded(noise(64, 64)))
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    (tmp_path / "mask.png").write_bytes(encoded(mask))
    return tmp_path


def test_an_edit_is_that_of_the_pipeline_with_the_weights_of_the_time(tiny, files):
    pipe = tiny(EditPipeline)
    inputs = {"mask_image": str(files / "mask.png")}
    prompts = Prompts(PromptConfig(("a red cup", "a cup"), "inpaint", str(files / "cup.png"), inputs, seed=3), pipe)
    before = prompts.pictures()
    assert list(before) == ["prompts/1 a red cup", "prompts/2 a cup"]
    given, kept = np.asarray(Image.open(files / "cup.png")), np.asarray(Image.open(files / "mask.png")) == 0
    for picture in before.values():
        assert picture.dtype == np.uint8 and np.array_equal(picture[kept], given[kept])
    asked = pipe.for_task("inpaint")(
        str(files / "cup.png"), inputs["mask_image"], "a cup", generator=torch.Generator().manual_seed(3)
    )
    assert np.array_equal(np.asarray(asked.images[0]), before["prompts/2 a cup"])
    assert all(np.array_equal(a, b) for a, b in zip(before.values(), prompts.pictures().values(), strict=True))
    with torch.no_grad():
        pipe.transformer.heads.weight *= -1
    assert not np.array_equal(prompts.pictures()["prompts/2 a cup"], before["prompts/2 a cup"])


def test_a_run_keeps_them_as_files_and_in_the_trackers(tiny_folder, shards, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(Engine, "log_image", lambda self, name, picture, step: told.append((name, picture, step)))
    settings = config.load(Config, None, overrides(
        tiny_folder, shards, "--prompts.texts=[a mug, a cup]", "--prompts.steps=1", "--train.sample_every=1",
        "--train.trackers=[]", "--train.device=cpu", "--train.batch_size=2", "--validation.times=0",
        "--model.lora.rank=2",
    ))  # fmt: skip
    stage = FinetuneStage(settings, World())
    stage.sheet = lambda: np.zeros((8, 8, 3), np.uint8)
    assert Trainer(settings.train, stage, tmp_path).run()
    names = ["samples", "prompts/1 a mug", "prompts/2 a cup"]
    assert [(name, step) for name, _, step in told] == [(n, step) for step in (1, 2, 2) for n in names]
    for step in (1, 2):
        for number in (1, 2):
            kept = np.asarray(Image.open(tmp_path / "samples" / f"step-{step}-{number}.png"))
            assert np.array_equal(kept, next(p for n, p, s in told[::-1] if s == step and n == names[number]))


def test_what_cannot_be_edited_is_refused_before_the_run(tiny, files):
    pipe, cup = tiny(EditPipeline), str(files / "cup.png")
    for wrong, line in [
        (PromptConfig(("a",), "fly"), "fly"),
        (PromptConfig(("a",), "inpaint"), "prompts.image: inpaint takes a photograph; name one"),
        (PromptConfig(("a",), "generate", cup), "prompts.image: generate takes no photograph; leave it out"),
        (PromptConfig(("a",), "inpaint", cup, {"mask": "x"}), "prompts.inputs: 'mask' is no input of inpaint"),
        (PromptConfig(("a",), "inpaint", cup, {"mask_image": "x.png"}), "x.png"),
        (PromptConfig(("a",), "inpaint", cup), "mask"),
    ]:
        with pytest.raises((ValueError, OSError), match=line):
            Prompts(wrong, pipe)
