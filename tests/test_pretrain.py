"""Pretraining from end to end on generated pictures, and a sixth task that is one dropped-in file."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC
from PIL import Image

from photofound import cli, config, edit
from photofound.edit import Condition
from photofound.engine import World
from photofound.training.pretrain import Config, PretrainStage, blank


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """A tar of twelve pictures of coloured discs on plain grounds, half of them with mattes."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "photos-00000.tar", "w") as tar:
        for i in range(12):
            image, matte = disc(rng)
            add(tar, f"{i:03}.png", png(image))
            if i % 2:
                add(tar, f"{i:03}.mask.png", png(matte))
            add(tar, f"{i:03}.json", json.dumps({"text": "A photo of a ball.", "source": f"s{i % 3}"}).encode())
    return folder


def disc(rng, size=96):
    y, x = np.mgrid[:size, :size]
    inside = (y - size / 2) ** 2 + (x - size / 2) ** 2 < (size / 5) ** 2
    ground, ball = rng.integers(0, 256, (2, 3))
    image = np.where(inside[..., None], ball, ground) + rng.integers(-8, 8, (size, size, 3))
    return image.clip(0, 255).astype(np.uint8), (inside * 255).astype(np.uint8)


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def overrides(tiny_folder, shards, *more):
    return [
        f"--model.start={tiny_folder}",
        f"--data.folder={shards}",
        "--data.sizes=[72, 96]",
        "--data.crop=64",
        "--data.late_crop=64",
        "--train.batch_size=14",
        "--train.steps=2",
        "--train.warmup_steps=1",
        "--train.log_every=1",
        "--train.precision=fp32",
        *more,
    ]


@pytest.fixture
def stage(tiny_folder, shards):
    return PretrainStage(config.load(Config, None, overrides(tiny_folder, shards)), World())


def test_a_batch_mixes_the_tasks_in_their_shares(stage):
    generator = torch.Generator().manual_seed(0)
    counts: dict[str, int] = {}
    for _ in range(20):
        condition, target, _ = stage.batch(generator, 14, 0.0)
        assert len(condition) == len(target) == 14 and target.shape[1:] == (3, 64, 64)
        for name in condition.task:
            counts[name] = counts.get(name, 0) + 1
    shares = stage.config.mix.tasks
    expected = {name: share for name, share in shares.items() if name not in ("generate", "complete")}
    expected["generate"] = shares["generate"] + shares["complete"]  # both train the trunk's head
    for name, share in expected.items():
        assert abs(counts[name] / 280 - share / sum(shares.values())) < 0.05


def test_loss_is_finite_and_reaches_every_weight_that_it_should(stage):
    loss, logs = stage.loss(stage.batch(torch.Generator().manual_seed(0), 14, 0.0))
    loss.backward()
    assert torch.isfinite(loss) and {"inpaint", "outpaint", "upscale"} <= set(logs)
    without = [n for n, p in stage.module.named_parameters() if p.grad is None]
    assert not [name for name in without if "guidance" not in name]
    assert all(p.grad is None for p in stage.vae.parameters())


def test_blank_hides_everything_and_only_there():
    condition = Condition(torch.rand(2, 3, 8, 8), torch.zeros(2, 1, 8, 8), ["inpaint"] * 2, ["a", "b"], torch.zeros(2))
    hidden = blank(condition, torch.tensor([True, False]))
    assert hidden.canvas[0].abs().max() == 0 and hidden.hole[0].min() == 1
    assert torch.equal(hidden.canvas[1], condition.canvas[1]) and hidden.hole[1].max() == 0


def test_a_few_steps_lower_the_loss_on_one_batch(stage):
    from photofound import optim

    batch = stage.batch(torch.Generator().manual_seed(0), 14, 0.0)
    optimizers = optim.build(stage.module, "muon", 3e-3, 0.0, stage.blocks)
    losses = []
    for _ in range(12):
        torch.manual_seed(0)  # the same noise and times
        loss, _ = stage.loss(batch)
        loss.backward()
        optimizers.step(1.0)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_the_store_is_kept_between_runs(tiny_folder, shards, tmp_path):
    cache = tmp_path / "store.safetensors"
    arguments = overrides(tiny_folder, shards, f"--data.cache={cache}")
    first = PretrainStage(config.load(Config, None, arguments), World())
    assert cache.is_file()
    again = PretrainStage(config.load(Config, None, [a for a in arguments if "folder" not in a]), World())
    assert torch.equal(first.store.flat, again.store.flat) and first.store.captions == again.store.captions


def test_the_autoencoder_trains_and_its_decoder_alone_too(shards, tmp_path):
    """The stage from the command line, with a critic; then again from its result with the encoder kept."""
    small = ["--model.encoder_channels=[8, 8, 16]", "--model.decoder_channels=[8, 8, 16]", "--data.sizes=[72, 96]"]
    common = [f"--data.folder={shards}", "--data.crop=64", "--train.batch_size=4", "--train.steps=2", "--train.ema=0"]
    critic = ["--loss.adversarial=0.1", "--loss.adversarial_from=0.5"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli.main(["train", "autoencoder", "--run_dir", str(first), *small, *common, *critic]) == 0
    rows = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    assert "critic" not in rows[0] and "critic" in rows[1] and all(row["psnr"] > 0 for row in rows)
    again = [f"--model.start={first / 'model' / 'vae'}", "--model.train_encoder=false", "--data.sizes=[72, 96]"]
    assert cli.main(["train", "autoencoder", "--run_dir", str(second), *again, *common]) == 0
    a, b = (AutoencoderDC.from_pretrained(run / "model" / "vae") for run in (first, second))
    assert all(torch.equal(x, y) for x, y in zip(a.encoder.parameters(), b.encoder.parameters(), strict=True))
    assert any(not torch.equal(x, y) for x, y in zip(a.decoder.parameters(), b.decoder.parameters(), strict=True))
    assert a.config.scaling_factor == b.config.scaling_factor != 1


def test_a_new_model_from_an_autoencoder(tiny_folder, shards, tmp_path):
    """The command as the README has it, with a new transformer and text encoder around the autoencoder."""
    run = tmp_path / "run"
    arguments = [a for a in overrides(tiny_folder, shards) if "start" not in a]
    small = ["--model.hidden_size=32", "--model.depth=2", "--model.num_heads=2", "--model.text_width=16"]
    small += ["--model.condition_space=latents", "--model.text_layers=1", f"--model.vae={tiny_folder / 'vae'}"]
    assert cli.main(["train", "pretrain", "--run_dir", str(run), *arguments, *small]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and all(np.isfinite(row["loss"]) for row in rows)
    assert (run / "config.yaml").is_file() and list((run / "samples").glob("*.png"))
    photo = tmp_path / "photo.png"
    Image.fromarray(disc(np.random.default_rng(1))[0]).save(photo)
    common = ["--model", str(run / "model"), "--steps", "1", "--quiet"]
    assert cli.main(["expand", str(photo), "--left", "8", "-o", str(tmp_path / "out.png"), *common]) == 0
    assert Image.open(tmp_path / "out.png").size == (104, 96)
    assert cli.main(["train", "pretrain", "--run_dir", str(run), *arguments, *small]) == 2  # never over another run


SIXTH = '''
"""Mirror the left half: the smallest task that is one."""

from __future__ import annotations

import dataclasses

import numpy as np

from photofound.edit import Input, Job, Task
from photofound.pipeline import EditPipeline


class MirrorPipeline(EditPipeline):
    task_name = "mirror"

    def __call__(self, image, share=50, **settings):
        return self.edit(image, settings, share=share)


@dataclasses.dataclass(frozen=True)
class Half:
    share: int


class Mirror(Task):
    name = "mirror"
    summary = "repaint the right part"
    inputs = (Input("share", "int", "percent of the width", default=50),)
    pipeline = MirrorPipeline

    def prepare(self, picture, prompt="", share=50):
        hole = np.zeros((picture.height, picture.width), np.float32)
        hole[:, picture.width * (100 - Half(share).share) // 100 :] = 1
        return Job(picture, hole, 1 - hole)

    def example(self, sample, generator):
        hole = (sample.pixels[:, :1] * 0)
        hole[..., hole.shape[-1] // 2 :] = 1
        return self.conditions(sample, hole)


TASK = Mirror()
'''


@pytest.fixture
def sixth(tmp_path, monkeypatch):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "mirror.py").write_text(SIXTH)
    monkeypatch.setenv(edit.TASK_PATH, str(folder))
    for cached in (edit._finders, edit.get_task):
        cached.cache_clear()
    yield
    monkeypatch.undo()
    for cached in (edit._finders, edit.get_task):
        cached.cache_clear()


def test_a_sixth_task_is_one_file(sixth, tiny_folder, shards, tmp_path, capsys):
    """Dropped into a folder it is listed, trained for two steps with a head of its own, and run like the others."""
    assert cli.main(["tasks"]) == 0
    assert "mirror" in capsys.readouterr().out
    run = tmp_path / "run"
    mix = ["--mix.tasks={mirror: 1.0, inpaint: 1.0}"]
    assert cli.main(["train", "pretrain", "--run_dir", str(run), *overrides(tiny_folder, shards), *mix]) == 0
    saved = json.loads((run / "model" / "transformer" / "config.json").read_text())
    assert saved["tasks"][-1] == "mirror" and "mirror" in json.loads((run / "metrics.jsonl").read_text().split("\n")[0])
    photo = Image.fromarray(disc(np.random.default_rng(1))[0])
    photo.save(tmp_path / "photo.png")
    common = ["-o", str(tmp_path / "out.png"), "--model", str(run / "model"), "--steps", "1", "--quiet"]
    assert cli.main(["mirror", str(tmp_path / "photo.png"), "--share", "25", *common]) == 0
    before, after = np.asarray(photo), np.asarray(Image.open(tmp_path / "out.png"))
    assert (after[:, :72] == before[:, :72]).all() and (after[:, 72:] != before[:, 72:]).any()
    capsys.readouterr()
    assert cli.main(["mirror", str(tmp_path / "photo.png"), *common[2:], "--model", str(tiny_folder)]) == 2
    assert "generate, inpaint" in capsys.readouterr().err  # a checkpoint that never learnt it says what it knows


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data.folder=/nowhere"], "holds no .tar"),
        (["--model.depht=3"], "depth"),
        (["--train.optimizer=sgd"], "adamw or muon"),
        (["--mix.tasks={paint: 1.0}"], "paint"),
        (["--resume", "/nowhere"], "not a checkpoint"),
    ],
)
def test_mistakes_are_one_line(tiny_folder, shards, tmp_path, capsys, arguments, words):
    command = ["train", "pretrain", "--run_dir", str(tmp_path / "run"), *overrides(tiny_folder, shards), *arguments]
    assert cli.main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in error and error.startswith("photofound:")
