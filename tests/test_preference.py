"""Diffusion-DPO: the loss of the stage against the formula, and a synthetic taste that it must learn."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from photofound import EditPipeline, cli, config
from photofound.data import drawn
from photofound.model import flow
from photofound.train.distributed import World
from photofound.train.mix import take
from photofound.training import preference
from photofound.training.preference import Config, PreferenceStage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Twelve pairs: people prefer the brighter of two results."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for index, photo in enumerate(drawn.photographs(12, size=72)):
        pixels = photo.pixels.permute(1, 2, 0).numpy().astype(np.float32)
        for name, picture in (("a", pixels * 0.5 + 127), ("b", pixels * 0.5)):
            Image.fromarray(picture.astype(np.uint8)).save(folder / f"{index}{name}.png")
        Image.fromarray(255 - photo.matte[0].numpy()).save(folder / f"{index}-hole.png")
        line = {"file_name": f"{index}a.png", "rejected_file_name": f"{index}b.png", "text": "on a table"}
        lines.append(json.dumps({**line, "mask_file_name": f"{index}-hole.png"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def overrides(tiny_folder, folder, *more):
    return [
        f"--model.start={tiny_folder}",
        f"--data.folder={folder}",
        "--data.sizes=[72]",
        "--data.crop=64",
        "--data.hold_out=3",
        "--model.lora.rank=4",
        "--validation.size=12",
        "--train.batch_size=8",
        "--train.steps=3",
        "--train.warmup_steps=1",
        "--train.precision=fp32",
        *more,
    ]


@pytest.fixture
def stage(tiny_folder, pairs):
    def build(*more, folder=pairs):
        return PreferenceStage(config.load(Config, None, overrides(tiny_folder, folder, *more)), World())

    return build


def perturb(stage):
    """Move what is trained away from the reference."""
    for parameter in stage.module.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)


@pytest.mark.parametrize("train", ["lora", "full"])
def test_the_loss_is_the_formula(stage, tiny, train):
    """Written out for a batch, with the start loaded anew as the reference."""
    learner = stage(f"--model.train={train}", "--beta=50", "--mix.uniform_time=1")
    perturb(learner)
    batch = learner.batch(torch.Generator().manual_seed(0), 4, 0.5)
    torch.manual_seed(0)
    loss, logs = learner.loss(batch)

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, (1,))))
    x = [learner.encode(pixels) for pixels in batch.sample.pixels.chunk(2)]
    t = flow.sample_time(4, generator, 1.0, 1.0)
    noise = torch.randn(x[0].shape, generator=generator)
    start, condition = tiny(EditPipeline).transformer.eval(), take(batch.condition, torch.arange(4))
    excess = []
    with torch.no_grad():
        for x0 in x:
            x_t, v = flow.add_noise(x0, noise, t), noise - x0
            ours, theirs = (
                learner.predict(x_t, t, condition)[0],
                learner.predict(x_t, t, condition, model=start)[0],
            )
            hole = torch.nn.functional.avg_pool2d(condition.hole, 8)
            error = [
                ((out - v).square().mean(1, keepdim=True) * hole).sum((1, 2, 3)) / hole.sum((1, 2, 3))
                for out in (ours, theirs)
            ]
            excess.append(error[0] - error[1])
    expected = -torch.log(torch.sigmoid(-50 / 2 * (excess[0] - excess[1]))).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert logs["accuracy"] == (excess[0] < excess[1]).float().mean()
    loss.backward()
    gradients = [p.grad is not None for p in learner.module.parameters() if p.requires_grad]
    assert sum(gradients) > 0.8 * len(gradients)  # heads and inputs of other tasks have none


def test_before_training_nothing_is_preferred(stage):
    learner = stage()
    loss, logs = learner.loss(learner.batch(torch.Generator().manual_seed(0), 4, 0.5))
    assert loss.item() == pytest.approx(math.log(2), rel=1e-5) and logs["accuracy"] == 0.5


def test_both_results_are_cropped_alike(stage):
    learner = stage()
    batch = learner.batch(torch.Generator().manual_seed(0), 8, 0.0)
    assert set(batch.condition.task) == {"outpaint"} and set(batch.condition.prompt) == {"on a table"}
    preferred, rejected = batch.sample.pixels.chunk(2)
    difference = (preferred - rejected) * 127.5  # the brighter is 127 above the other, everywhere
    assert (difference - 127).abs().max() < 0.01
    subject, canvas = batch.condition.hole == 0, preferred.repeat(2, 1, 1, 1)  # both are results of one edit
    assert torch.equal(batch.condition.canvas, canvas * subject) and subject.any()


def test_it_learns_that_brighter_is_better(stage):
    """On pairs that it has not seen the implicit reward prefers the brighter one after a few dozen steps."""
    learner = stage("--mix.tasks={generate: 1.0}", "--beta=200")
    with torch.no_grad():
        assert learner.measure()["accuracy_held_out"] == 0.5
    parameters = [p for p in learner.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.003, weight_decay=0.0)
    for seed in range(40):
        loss, _ = learner.loss(learner.batch(torch.Generator().manual_seed(seed), 8, 0.5))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        after = learner.measure()
    assert after["accuracy_held_out"] > 0.9 and after["loss_held_out"] < 0.6


def test_a_run_from_the_command_line(tiny_folder, pairs, tmp_path):
    run = tmp_path / "run"
    assert cli.main(["train", "preference", "--run_dir", str(run), *overrides(tiny_folder, pairs)]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] == pytest.approx(math.log(2), rel=1e-4) and rows[0]["accuracy_held_out"] == 0.5
    measured = json.loads((run / "model" / "validation.json").read_text())
    assert set(measured["after"]) == {"accuracy_held_out", "loss_held_out"}
    assert (run / "model" / "lora" / "pytorch_lora_weights.safetensors").is_file()


def test_pairs_of_unequal_size_are_refused(pairs, tmp_path):
    Image.new("RGB", (72, 72)).save(tmp_path / "a.png")
    Image.new("RGB", (80, 72)).save(tmp_path / "b.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "rejected_file_name": "b.png"}')
    with pytest.raises(ValueError, match="differ in size"):
        preference.read(str(tmp_path), 72)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}')
    with pytest.raises(ValueError, match="rejected"):
        preference.read(str(tmp_path), 72)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mix.tasks={outpaint: 1.0, inpaint: 1.0}"], "the one task"),
        (["--mix.tasks={upscale: 1.0}"], "with a hole"),
        (["--beta=0"], "beta"),
        (["--recipe.tread=0.5"], "recipe"),
        (["--model.train=full", "--model.train_text=true"], "train_text"),
    ],
)
def test_mistakes_are_one_line(tiny_folder, pairs, tmp_path, capsys, arguments, words):
    command = ["train", "preference", "--run_dir", str(tmp_path / "run"), *overrides(tiny_folder, pairs, *arguments)]
    assert cli.main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in error and error.startswith("photofound:")
