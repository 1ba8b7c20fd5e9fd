"""Pretraining from end to end on generated pictures, and a further task that is one dropped-in file."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC
from helpers import extra_tasks
from PIL import Image
from stages import SMALL, disc, new_stage, overrides, streamed

from photofound import cli, config
from photofound.card import record
from photofound.data.store import PhotoStore
from photofound.train.distributed import World
from photofound.train.mix import take
from photofound.train.trainer import Trainer
from photofound.training.pretrain import Config, PretrainStage

pytestmark = pytest.mark.slow


@pytest.fixture
def stage(tiny_folder, shards):
    return PretrainStage(config.load(Config, None, overrides(tiny_folder, shards)), World())


def test_loss_is_finite_and_reaches_every_weight_that_it_should(stage):
    loss, logs = stage.loss(stage.batch(torch.Generator().manual_seed(0), 14, 0.0))
    loss.backward()
    assert torch.isfinite(loss) and {"inpaint", "outpaint", "upscale"} <= set(logs)
    without = [n for n, p in stage.module.named_parameters() if p.grad is None]
    assert not [name for name in without if "guidance" not in name]
    assert all(p.grad is None for p in stage.vae.parameters())


@pytest.mark.slow
def test_a_model_learns_to_follow_the_colour_of_a_reference():
    """Two hundred steps on drawn pictures: from pure noise, each of five colours moves the background its own way."""
    from photofound.train import optim

    small = {"hidden_size": 32, "depth": 1, "num_heads": 2, "patch_size": 8, "text_width": 32, "text_layers": 1}
    files = ["--data.drawn=24", "--data.sizes=[40]", "--data.crop=32", "--data.late_crop=32", "--data.recolour=1"]
    mix = ["--mix.tasks={outpaint: 1}", "--mix.reference=1"]
    model = ["--model.vae=none", "--model.prediction_type=sample", "--model.train_text=false", "--model.reference=true"]
    shape = [f"--model.{name}={value}" for name, value in (small | {"reference_size": 16, "text_length": 8}).items()]
    stage = PretrainStage(config.load(Config, None, [*files, *mix, *model, *shape]), World())
    generator = torch.Generator().manual_seed(0)
    optimizers = optim.build(stage.module, "muon", 0.01, 0.0, stage.blocks)
    for step in range(200):
        stage.loss(stage.batch(generator, 16, 0.0))[0].backward()
        optimizers.step(min(1.0, 2 - step / 100))

    colours = torch.tensor([[0.6, -0.7, -0.7], [-0.6, 0.3, -0.6], [-0.6, -0.3, 0.6], [0.9] * 3, [-0.9] * 3])
    batch = take(stage.batch(generator, 16, 0.0).condition, torch.arange(5))
    seen = colours[:, :, None, None].expand(-1, -1, 16, 16).contiguous()
    asked = replace(batch, prompt=[""] * 5, reference=seen, referenced=torch.ones(5, dtype=torch.bool))
    asked = replace(asked, canvas=asked.canvas[:1].expand(5, -1, -1, -1), hole=asked.hole[:1].expand(5, -1, -1, -1))
    noise = torch.randn(1, 3, 32, 32).expand(5, -1, -1, -1)
    with torch.no_grad():
        made = stage.predict(noise, torch.ones(5), asked)[1]
    ground = (made * asked.hole).sum((2, 3)) / asked.hole.sum((2, 3))
    towards = torch.cosine_similarity(ground - ground.mean(0), colours - colours.mean(0))
    assert towards.min() > 0.75, towards


def test_a_few_steps_lower_the_loss_on_one_batch(stage):
    from photofound.train import optim

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
    chain = record.read(second / "model" / record.MODEL)
    assert [(made.name, made.parts, made.steps, made.samples) for made in chain] == [
        ("autoencoder", ("vae",), 2, 8)
    ] * 2
    assert chain[0] == record.read(first / record.RUN)[0] and sum(o.photographs for o in chain[1].data) > 0


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
    card = (run / "model" / "README.md").read_text()
    assert "# run\n" in card and "| pretrain | transformer, text_encoder | 2 | 28 |" in card
    photo = tmp_path / "photo.png"
    Image.fromarray(disc(np.random.default_rng(1))[0]).save(photo)
    common = ["--model", str(run / "model"), "--steps", "1", "--quiet"]
    assert cli.main(["expand", str(photo), "--left", "8", "-o", str(tmp_path / "out.png"), *common]) == 0
    assert Image.open(tmp_path / "out.png").size == (104, 96)
    assert cli.main(["train", "pretrain", "--run_dir", str(run), *arguments, *small]) == 2  # never over another run


def test_the_record_chains_the_models_that_a_run_started_from(tiny_folder, shards, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    vae, all_of_it = record.Training("v", "autoencoder", ("vae",)), record.Training("m", "pretrain", ("transformer",))
    record.write(folder / record.MODEL, [vae, all_of_it])
    arguments = overrides(folder, shards)
    going_on = PretrainStage(config.load(Config, None, arguments), World()).record()
    assert going_on["parents"] == [vae, all_of_it] and going_on["parts"] == ["transformer", "text_encoder"]
    assert going_on["data"] == PhotoStore.open(str(shards), (72,)).origins()
    anew = [a for a in arguments if "start" not in a] + [f"--model.vae={folder / 'vae'}", "--model.text_width=192"]
    assert PretrainStage(config.load(Config, None, anew), World()).record()["parents"] == [vae]
    anew[-2] = "--model.vae=embedded"
    parents = PretrainStage(config.load(Config, None, anew), World()).record()["parents"]
    assert parents and all(made.parts == ("vae",) for made in parents)
    stream = PretrainStage(streamed(tiny_folder, shards), World()).record()
    assert stream["data"] == [record.Origin(Path(shards).name)]  # counted by nobody, and it says so


EXTRA_TASK = '''
"""Mirror the left half: the smallest task that is one."""

from __future__ import annotations

import dataclasses

import numpy as np

from photofound.edits.inputs import Input
from photofound.edits.task import Job, Task



@dataclasses.dataclass(frozen=True)
class Half:
    share: int


class Mirror(Task):
    name = "mirror"
    summary = "repaint the right part"
    inputs = (Input("share", "int", "percent of the width", default=50),)

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
def extra_task(tmp_path, monkeypatch):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "mirror.py").write_text(EXTRA_TASK)
    with extra_tasks(folder, monkeypatch):
        yield


def test_an_extra_task_is_one_file(extra_task, tiny_folder, shards, tmp_path, capsys):
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
        (["--train.optimizer=sgd"], "adamw or adamw8bit or muon"),
        (["--mix.tasks={paint: 1.0}"], "paint"),
        (["--resume", "/nowhere"], "not a checkpoint"),
    ],
)
def test_mistakes_are_one_line(tiny_folder, shards, tmp_path, capsys, arguments, words):
    command = ["train", "pretrain", "--run_dir", str(tmp_path / "run"), *overrides(tiny_folder, shards), *arguments]
    assert cli.main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in error and error.startswith("photofound:")


def test_pixels_with_the_whole_recipe_from_the_command_line(shards, networks, tmp_path):
    """The 24-hour recipe at toy size: it trains, and what it leaves is a pipeline that edits, without the projector."""
    run = tmp_path / "run"
    arguments = [a for a in overrides("", shards) if "start" not in a]
    model = ["--model.vae=none", "--model.patch_size=8", "--model.bottleneck_size=16", "--model.noise_scale=2.0"]
    squeezenet = networks / "squeezenet.safetensors"
    recipe = ["--recipe.tread=0.5", "--recipe.tread_tokens=50", "--recipe.repa=0.5", "--recipe.lpips=0.1"]
    recipe += ["--recipe.dino=0.01", f"--recipe.repa_teacher={squeezenet}", f"--recipe.lpips_net={squeezenet}"]
    recipe += [f"--recipe.dino_net={networks / 'dino'}"]
    train = ["--model.prediction_type=sample", "--train.optimizer=muon", "--data.crop=48", "--data.late_from=0.5"]
    assert cli.main(["train", "pretrain", "--run_dir", str(run), *arguments, *SMALL, *model, *recipe, *train]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"repa", "lpips", "dino"} <= set(rows[0]) and "repa" not in rows[1]
    index = json.loads((run / "model" / "model_index.json").read_text())
    assert index["vae"] == [None, None] and index["noise_scale"] == 2.0 and "projector" not in index
    saved = json.loads((run / "model" / "transformer" / "config.json").read_text())
    assert (saved["prediction_type"], saved["bottleneck_size"]) == ("sample", 16)
    photo = tmp_path / "photo.png"
    Image.fromarray(disc(np.random.default_rng(1))[0]).save(photo)
    common = ["--model", str(run / "model"), "--steps", "1", "--quiet"]
    assert cli.main(["expand", str(photo), "--left", "8", "-o", str(tmp_path / "out.png"), *common]) == 0


def test_a_pretrained_text_encoder_is_used_and_left_as_it_is(tiny_folder, shards, tmp_path):
    from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration

    torch.manual_seed(1)
    pair = T5ForConditionalGeneration(
        T5Config(vocab_size=384, d_model=24, d_kv=12, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    )
    pair.save_pretrained(tmp_path)
    ByT5Tokenizer().save_pretrained(tmp_path)
    named = [f"--model.text_encoder={tmp_path}", "--model.text_layers=3", "--model.train_text=false"]
    with pytest.raises(ValueError, match=r"model.text_width: 16, but .* gives 24; set 24"):
        new_stage(tiny_folder, shards, *named)
    stage = new_stage(tiny_folder, shards, *named, "--model.text_width=24")
    encoder = stage.pipeline.text_encoder
    assert type(encoder).__name__ == "T5EncoderModel" and "text_encoder" not in stage.module
    for ours, theirs in zip(encoder.encoder.parameters(), pair.encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    stage.loss(stage.batch(torch.Generator().manual_seed(0), 14, 0.0))[0].backward()
    assert all(p.grad is None for p in encoder.parameters())


def test_checkpointed_activations_are_computed_again(tiny_folder, shards, tmp_path):

    calls = {}
    for checkpointed in (False, True):
        arguments = overrides(tiny_folder, shards, "--train.device=cpu", "--train.trackers=[]")
        settings = config.load(Config, None, [*arguments, f"--train.checkpoint_activations={checkpointed}".lower()])
        stage, seen = PretrainStage(settings, World()), []
        for block in stage.blocks:
            block.attention.img_qkv_proj.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        Trainer(settings.train, stage, tmp_path / str(checkpointed)).advance(0.0)
        calls[checkpointed] = len(seen)
    assert calls[False] == len(stage.blocks) and calls[True] == 2 * calls[False]


def test_a_compiled_step_is_the_eager_one(tiny_folder, shards, tmp_path, monkeypatch):
    """Everything is traced, but no code is made of it: that takes minutes."""
    graphs, compile_ = [], torch.compile

    def traced(function, **options):
        graphs.append(function)
        return compile_(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", traced)
    torch._dynamo.reset()
    weights = []
    for whole in (False, True):
        more = [
            "--train.optimizer=muon",
            "--train.device=cpu",
            "--train.trackers=[]",
            f"--train.compile_step={str(whole).lower()}",
        ]
        settings = config.load(Config, None, overrides(tiny_folder, shards, *more))
        padded = replace(settings, train=replace(settings.train, compile=True))  # text of one length in both
        trainer = Trainer(settings.train, PretrainStage(padded, World()), tmp_path / str(whole))
        losses = [trainer.advance(step / 2)[0]["loss"] for step in range(2)]
        weights.append((losses, [value.detach().clone() for value in trainer.stage.module.parameters()]))
    assert len(graphs) == 4  # the transformer, the loss, Muon's work, the average
    assert weights[1][0] == pytest.approx(weights[0][0], rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(weights[0][1], weights[1][1], strict=True))
    with pytest.raises(ValueError, match="train.compile_step: shards are gathered block by block"):
        config.load(Config, None, ["--train.compile_step=true", "--train.parallel=fsdp"])


def test_a_run_logs_its_validation(tiny_folder, shards, tmp_path):
    arguments = overrides(
        tiny_folder, shards, "--data.hold_out=4", "--data.held_out_crops=6", "--train.validate_every=2"
    )
    assert cli.main(["train", "pretrain", "--run_dir", str(tmp_path), "--train.device=cpu", *arguments]) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert "val_loss" not in rows[0] and rows[1]["val_loss"] > 0


def test_training_adds_its_tasks_to_those_that_a_model_has_learnt(tiny_folder, tmp_path):
    """A converted model has heads that were never trained; after training they are used."""
    from photofound.pipeline import EditPipeline
    from photofound.train.build import build_pipeline
    from photofound.train.settings import ModelConfig

    pipe = EditPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
    pipe.register_to_config(trained_tasks=["generate"])
    pipe.save_pretrained(tmp_path / "converted")
    built = build_pipeline(ModelConfig(start=str(tmp_path / "converted")), ["inpaint", "expand"])
    assert built.config.trained_tasks == ["generate", "inpaint", "expand"]
    assert build_pipeline(ModelConfig(start=str(tiny_folder)), ["inpaint"]).config.trained_tasks is None
