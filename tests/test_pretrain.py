"""Pretraining from end to end on generated pictures, and a further task that is one dropped-in file."""

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC
from helpers import encoded, extra_tasks
from PIL import Image

from photofound import cli, config
from photofound.card import record
from photofound.data.store import PhotoStore
from photofound.edits.task import Condition
from photofound.train.distributed import World
from photofound.train.mix import assign, blank, hold_out, take
from photofound.train.plan import plan
from photofound.train.trainer import Trainer
from photofound.training.pretrain import Config, PretrainStage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """A tar of twelve pictures of coloured discs on plain grounds, half of them with mattes."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "photos-00000.tar", "w") as tar:
        for i in range(12):
            image, matte = disc(rng)
            add(tar, f"{i:03}.png", encoded(image))
            if i % 2:
                add(tar, f"{i:03}.mask.png", encoded(matte))
            add(tar, f"{i:03}.json", json.dumps({"text": "A photo of a ball.", "source": f"s{i % 3}"}).encode())
    return folder


def disc(rng, size=96):
    y, x = np.mgrid[:size, :size]
    inside = (y - size / 2) ** 2 + (x - size / 2) ** 2 < (size / 5) ** 2
    ground, ball = rng.integers(0, 256, (2, 3))
    image = np.where(inside[..., None], ball, ground) + rng.integers(-8, 8, (size, size, 3))
    return image.clip(0, 255).astype(np.uint8), (inside * 255).astype(np.uint8)


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
        condition, sample, *_ = stage.batch(generator, 14, 0.0)
        assert len(condition) == len(sample) == 14 and sample.pixels.shape[1:] == (3, 64, 64)
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


@pytest.fixture
def referring(tiny_folder, shards):
    """A stage whose model gets the reference input at its start."""
    arguments = overrides(tiny_folder, shards, "--model.reference=true", "--model.reference_size=32")
    return PretrainStage(config.load(Config, None, arguments), World())


def test_references_are_drawn_for_the_tasks_that_take_one(referring):
    generator, drawn = torch.Generator().manual_seed(0), []
    for _ in range(20):
        condition = referring.batch(generator, 14, 0.0).condition
        assert condition.reference.shape == (14, 3, 32, 32)
        drawn += zip(condition.task, condition.referenced.tolist(), strict=True)
    for name in {task for task, _ in drawn}:
        share = np.mean([has for task, has in drawn if task == name])
        assert 0.5 < share < 0.9 if name in ("inpaint", "outpaint") else share == 0


def test_an_added_reference_starts_as_the_model_it_was_added_to_and_learns_in_the_first_step(referring, stage):
    batch = referring.batch(torch.Generator().manual_seed(0), 14, 0.0)
    for each in (referring, stage):
        each.module.eval()
    x0 = referring.encode(batch.sample.pixels)
    t = torch.full((14,), 0.5)
    velocities = [each.predict(x0, t, batch.condition)[0] for each in (referring, stage)]
    assert torch.equal(*velocities)
    loss, _ = referring.loss(batch)
    loss.backward()
    gates = [block.attention.reference.out_proj.weight for block in referring.blocks]
    assert all(gate.abs().max() == 0 and gate.grad.abs().max() > 0 for gate in gates)
    assert all(p.grad is not None for n, p in referring.module.named_parameters() if "guidance" not in n)


def test_a_batch_without_references_reaches_the_same_weights(referring):
    batch = referring.batch(torch.Generator().manual_seed(0), 14, 0.0)
    bare = replace(batch.condition, reference=None, referenced=None)
    referring.loss(batch._replace(condition=bare))[0].backward()
    assert all(p.grad is not None for n, p in referring.module.named_parameters() if "reference" in n)


def test_guidance_has_a_branch_without_text_and_reference(tiny_folder, shards):
    arguments = overrides(tiny_folder, shards, "--model.reference=true", "--mix.drop_text=0.5", "--mix.reference=1")
    stage = PretrainStage(config.load(Config, None, [*arguments, "--mix.drop_both=0.1"]), World())
    condition = stage.batch(torch.Generator().manual_seed(0), 14, 0.0).condition
    condition = Condition.cat([take(condition, condition.referenced.nonzero()[:, 0])] * 200)
    dropped = stage.drop_conditions(condition, torch.Generator().manual_seed(0))
    text = torch.tensor([bool(prompt) for prompt in dropped.prompt])
    everything = dropped.hole.flatten(1).min(1).values == 1
    assert not dropped.referenced[everything & ~text].any()
    kept = dropped.referenced[~everything]
    assert kept[text[~everything]].all()
    assert 0.4 < kept[~text[~everything]].float().mean() < 0.6, "a reference alone is trained, and neither, too"


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


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--mix.reference=0.5"], "takes no reference; set model.reference"),
        (["--model.reference=true", "--mix.reference=1.5"], "mix.reference: 1.5"),
        (["--model.reference=true", "--model.reference_size=40"], "40 is no multiple of 16"),
    ],
)
def test_references_that_do_not_fit_are_refused(tiny_folder, shards, extra, said):
    with pytest.raises(ValueError, match=said):
        PretrainStage(config.load(Config, None, overrides(tiny_folder, shards, *extra)), World())


def test_the_plan_counts_the_reference(tiny_folder):
    small = config.load(Config, None, [f"--model.start={tiny_folder}", "--data.crop=64", "--data.late_crop=64"])
    larger = config.load(Config, None, [f"--model.start={tiny_folder}", "--data.crop=64",
                                                      "--data.late_crop=64", "--model.reference=true"])  # fmt: skip
    assert plan(larger)[0].flops > plan(small)[0].flops and plan(larger)[0].parameters > plan(small)[0].parameters


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

from photofound.edits.task import Input, Job, Task



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


# -------------------------------------------------------------------------------------------------------- recipes


SMALL = ["--model.hidden_size=32", "--model.depth=6", "--model.num_heads=2", "--model.text_width=16",
         "--model.text_layers=1"]  # fmt: skip


def new_stage(tiny_folder, shards, *more):
    """A stage around the tiny autoencoder, with a transformer deep enough for a route; later arguments win."""
    arguments = [a for a in overrides(tiny_folder, shards) if "start" not in a]
    arguments += [f"--model.vae={tiny_folder / 'vae'}", *SMALL, *more]
    return PretrainStage(config.load(Config, None, arguments), World())


def loss_of(stage, batch):
    torch.manual_seed(0)
    return stage.loss(batch)


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """An untrained vision model and an untrained SqueezeNet, as files."""
    from safetensors.torch import save_file
    from transformers import Dinov2Config, Dinov2Model

    from photofound.model.vision import PerceptualNet

    folder = tmp_path_factory.mktemp("networks")
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    Dinov2Model(Dinov2Config(**small, patch_size=14, image_size=28)).save_pretrained(folder / "dino")
    save_file(PerceptualNet().state_dict(), folder / "squeezenet.safetensors")
    return folder


def test_every_term_is_added_to_the_same_loss(tiny_folder, shards, networks):
    plain = new_stage(tiny_folder, shards, "--model.vae=none", "--model.patch_size=8")
    batch = plain.batch(torch.Generator().manual_seed(0), 14, 0.0)
    base, logs = loss_of(plain, batch)
    terms = {
        "contrastive": ["--recipe.contrastive=0.05"],
        "repa": ["--recipe.repa=0.5", f"--recipe.repa_teacher={networks / 'dino'}"],
        "lpips": ["--recipe.lpips=0.1", f"--recipe.lpips_net={networks / 'squeezenet.safetensors'}"],
        "dino": ["--recipe.dino=0.01", f"--recipe.dino_net={networks / 'dino'}"],
    }
    assert not set(logs) & set(terms)
    everything = [argument for arguments in terms.values() for argument in arguments]
    for names, arguments in (*(([name], arguments) for name, arguments in terms.items()), (list(terms), everything)):
        stage = new_stage(tiny_folder, shards, "--model.vae=none", "--model.patch_size=8", *arguments)
        loss, logs = loss_of(stage, batch)
        assert set(logs) & set(terms) == set(names) and all(logs[name] != 0 for name in names)
        assert loss.item() == pytest.approx(base.item() + sum(float(logs[name]) for name in names), rel=1e-5)
    loss.backward()
    without = [n for n, p in stage.module.named_parameters() if p.grad is None]
    assert not without and all(
        p.grad is None for net in (stage.recipe.teacher, stage.recipe.dino_net) for p in net.parameters()
    )


def test_an_untrained_model_gives_the_terms_that_follow_from_its_zero_velocity(tiny_folder, shards):
    """Output 0, so that the contrastive term is the mean square of the other samples' velocities."""
    stage = new_stage(tiny_folder, shards, "--recipe.contrastive=0.05", "--mix.tasks={generate: 1.0}")
    batch = stage.batch(torch.Generator().manual_seed(0), 14, 0.0)
    loss, logs = loss_of(stage, batch)
    assert float(logs["contrastive"]) == pytest.approx(-0.05 * float(logs["generate"]), rel=1e-4)
    assert loss.item() == pytest.approx(0.95 * float(logs["generate"]), rel=1e-4)


def test_alignment_compares_the_tokens_that_the_tap_saw_and_stops_early(tiny_folder, shards, networks):
    teacher = [f"--recipe.repa_teacher={networks / 'dino'}", "--recipe.repa=0.5", "--recipe.repa_block=3"]
    stage = new_stage(tiny_folder, shards, *teacher, "--recipe.tread=0.5", "--recipe.repa_until=0.4")
    pixels, x0, features = torch.rand(2, 3, 64, 64), torch.zeros(2, 4, 8, 8), torch.randn(2, 8, 16)
    stage.recipe.projector = torch.nn.Identity()
    target = stage.recipe.teacher.patches(pixels, (4, 4))
    route = torch.stack([torch.randperm(16)[:8] for _ in range(2)])
    cosines = [torch.cosine_similarity(features[i], target[i, route[i]], dim=-1).mean() for i in range(2)]
    assert torch.allclose(stage.recipe.alignment(features, pixels, x0, route), -sum(cosines) / 2, atol=1e-5)

    stage = new_stage(tiny_folder, shards, *teacher, "--recipe.tread=0.5", "--recipe.repa_until=0.4")
    batch = stage.batch(torch.Generator().manual_seed(0), 14, 0.0)
    assert "repa" in loss_of(stage, batch._replace(progress=0.39))[1]
    loss, logs = loss_of(stage, batch._replace(progress=0.4))
    loss.backward()
    assert "repa" not in logs and all(p.grad is None for p in stage.module["projector"].parameters())


def test_perceptual_terms_count_samples_at_low_noise_only(tiny_folder, shards, networks):
    from photofound.train.losses import patch_distance, perceptual_distance

    nets = [f"--recipe.lpips_net={networks / 'squeezenet.safetensors'}", f"--recipe.dino_net={networks / 'dino'}"]
    pixel = ["--model.vae=none", "--model.patch_size=8", "--recipe.lpips=0.1", "--recipe.dino=0.01"]
    stage = new_stage(tiny_folder, shards, *pixel, *nets)
    guess, pixels = torch.rand(3, 3, 64, 64), torch.rand(3, 3, 64, 64)
    hole = torch.ones(3, 1, 64, 64)
    hole[2, :, :32] = 0
    terms = stage.recipe.perceptual(guess, pixels, hole, torch.tensor([True, False, True]))
    guess[2, :, :32] = pixels[2, :, :32]  # what is given counts as given
    lpips, dino = (
        perceptual_distance(stage.recipe.lpips_net, guess, pixels),
        patch_distance(stage.recipe.dino_net, guess, pixels),
    )
    assert terms["lpips"].item() == pytest.approx(0.1 * float(lpips[0] + lpips[2]) / 3, rel=1e-4)
    assert terms["dino"].item() == pytest.approx(0.01 * float(dino[0] + dino[2]) / 3, rel=1e-4)
    assert all(
        term == 0 for term in stage.recipe.perceptual(guess, pixels, hole, torch.zeros(3, dtype=torch.bool)).values()
    )


@pytest.mark.parametrize("space", ["pixels", "latents"])
def test_perceptual_terms_pull_at_pixels_beyond_white(tiny_folder, shards, networks, space, monkeypatch):
    net = ["--recipe.lpips=0.1", f"--recipe.lpips_net={networks / 'squeezenet.safetensors'}"]
    pixel = ["--model.vae=none", "--model.patch_size=8"] if space == "pixels" else []
    stage = new_stage(tiny_folder, shards, *net, *pixel)
    if space == "latents":
        decode = stage.vae.decode
        white = lambda z, **options: (0.1 * decode(z, **options)[0] + 1.3,)  # noqa: E731
        monkeypatch.setattr(stage.vae, "decode", white)
    made = torch.full((1, 3, 64, 64), 1.2) if space == "pixels" else torch.randn(1, 4, 8, 8)
    made = (made + 0.01 * torch.randn_like(made)).requires_grad_()
    everywhere = torch.ones(1, 1, 64, 64)
    term = stage.recipe.perceptual(made, torch.rand(1, 3, 64, 64), everywhere, torch.ones(1, dtype=torch.bool))["lpips"]
    term.backward()
    assert (made.grad != 0).float().mean() > 0.9


def test_perceptual_terms_look_at_latents_decoded(tiny_folder, shards, networks):
    from photofound.model import autoencoder
    from photofound.train.losses import perceptual_distance

    net = ["--recipe.lpips=0.1", f"--recipe.lpips_net={networks / 'squeezenet.safetensors'}"]
    stage = new_stage(tiny_folder, shards, *net)
    latents, pixels = torch.randn(2, 4, 8, 8, requires_grad=True), torch.rand(2, 3, 64, 64)
    term = stage.recipe.perceptual(latents, pixels, torch.ones(2, 1, 64, 64), torch.ones(2, dtype=torch.bool))["lpips"]
    term.backward()
    seen = perceptual_distance(
        stage.recipe.lpips_net, autoencoder.decode(stage.vae, latents.detach(), clamp=False), pixels
    )
    assert term.item() == pytest.approx(0.1 * float(seen.mean()), rel=1e-4) and latents.grad.abs().max() > 0
    assert all(p.grad is None for net in (stage.vae, stage.recipe.lpips_net) for p in net.parameters())


def test_tread_leaves_out_half_of_the_tokens_of_large_pictures_only(tiny_folder, shards):
    generator = torch.Generator().manual_seed(0)
    stage = new_stage(tiny_folder, shards, "--recipe.tread=0.5", "--recipe.tread_tokens=16")
    assert stage.recipe.route(torch.zeros(2, 4, 8, 8), generator).shape == (2, 8)
    assert stage.recipe.route(torch.zeros(2, 4, 6, 6), generator) is None
    batch = stage.batch(torch.Generator().manual_seed(0), 14, 0.0)
    loss_of(stage, batch)[0].backward()
    assert all(p.grad is not None for p in stage.pipeline.transformer.blocks.parameters())
    with pytest.raises(ValueError, match="recipe.tread: .* depth of at least 6, and this is 3"):
        new_stage(tiny_folder, shards, "--recipe.tread=0.5", "--model.depth=3")


def test_late_in_the_run_pictures_and_noise_grow(tiny_folder, shards, monkeypatch):
    from photofound.model import flow

    stage = new_stage(tiny_folder, shards, "--data.crop=48", "--data.late_from=0.5", "--mix.late_shift=3.0")
    shifts, sample_time = [], flow.sample_time
    monkeypatch.setattr(flow, "sample_time", lambda n, g, s, u: shifts.append(s) or sample_time(n, g, s, u))
    for progress, side in ((0.49, 48), (0.5, 64)):
        batch = stage.batch(torch.Generator().manual_seed(0), 14, progress)
        assert batch.sample.pixels.shape[-2:] == (side, side)
        stage.loss(batch)
    assert shifts == [1.0, 3.0]
    for wrong in ("shift: 0", "late_shift: -1", "uniform_time: 2"):
        with pytest.raises(ValueError, match="mix." + wrong.split(":")[0]):
            config.load(Config, None, [f"--mix.{wrong.replace(': ', '=')}"])


@pytest.mark.parametrize("arguments, end", [
    (["--mix.shift=3.0"], 3.0),
    (["--mix.shift=2.0", "--mix.late_shift=3.0"], 3.0),
    (["--mix.shift=2.0", "--mix.late_shift=3.0", "--data.late_from=1.0"], 2.0),
    ([], 1.0),
])  # fmt: skip
def test_the_model_is_sampled_with_the_shift_that_it_was_trained_with(tiny_folder, shards, tmp_path, arguments, end):
    stage = new_stage(tiny_folder, shards, *arguments)
    stage.export(tmp_path)
    scheduler = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["shift"] == end


def test_a_model_keeps_its_shift_unless_another_is_asked_for(tiny_folder, shards, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "shifted")
    path = tmp_path / "shifted" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shift": 3.0}))
    for arguments, shift in (([], 3.0), (["--mix.shift=1.5"], 1.5)):
        stage = PretrainStage(config.load(Config, None, overrides(tmp_path / "shifted", shards, *arguments)), World())
        assert stage.shift_at(0.0) == stage.pipeline.scheduler.config.shift == shift


def test_the_exact_clean_sample_has_no_loss(tiny_folder, shards, monkeypatch):
    from photofound.model import flow
    from photofound.model.transformer import EditTransformerOutput

    stage = new_stage(tiny_folder, shards, "--model.vae=none", "--model.patch_size=8", "--model.prediction_type=sample")
    batch = stage.batch(torch.Generator().manual_seed(0), 14, 0.0)
    monkeypatch.setattr(
        stage.pipeline.transformer, "forward", lambda *_, **__: EditTransformerOutput(batch.sample.pixels)
    )
    monkeypatch.setattr(flow, "sample_time", lambda n, *_: torch.full((n,), 0.005))
    assert stage.loss(batch)[0] < 1e-9
    condition = take(batch.condition, torch.arange(14))
    assert stage.validation_loss(batch._replace(condition=condition)) < 1e-9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data.late_crop=128", "--data.late_from=0.9"], "no photograph fits a crop of 128"),
        (["--data.late_crop=60"], "data.late_crop: 60 is no multiple of a token's 16 pixels"),
        (["--data.crop=60", "--data.late_from=1.0"], "data.crop: 60 is no multiple"),
        (["--recipe.contrastive=0.05", "--data.late_batch=0.1"], "late batches have 1"),
        (
            ["--recipe.tread=0.5", "--recipe.tread_tokens=16", "--data.crop=48", "--model.depth=3"],
            "depth of at least 6",
        ),
    ],
)
def test_what_would_stop_a_run_late_stops_it_before_its_first_step(tiny_folder, shards, arguments, said):
    with pytest.raises(ValueError, match=said):
        new_stage(tiny_folder, shards, *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data.late_crop=160"], "the first 12 photographs of .* are all too small .*96x96, for a batch of 160x160"),
        (["--data.late_crop=80", "--data.sizes=[72]"], "data.sizes: sheets of samples show crops of 80 pixels, and 72"),
        (["--data.multiple=8"], "data.multiple: 8 is no multiple of a token's 16 pixels"),
    ],
)
def test_a_stream_is_looked_at_before_the_first_step(tiny_folder, shards, arguments, said):
    with pytest.raises(ValueError, match=said):
        PretrainStage(streamed(tiny_folder, shards, *arguments), World())


def test_a_sheet_shows_crops_that_the_run_has_had(tiny_folder, shards):
    stage = new_stage(tiny_folder, shards, "--data.late_crop=128", "--data.late_from=1.0")
    assert stage.sheet().ndim == 3


def test_a_plan_counts_what_stands_beside_the_transformer(tiny_folder, shards, networks):
    def planned(*more, of=plan):
        return of(config.load(Config, None, overrides(tiny_folder, shards, *more)))[0]

    plain = planned("--model.train_text=false")
    assert {"transformer", "autoencoder", "text encoder", "adamw"} == set(plain.counted) and not plain.missing
    assert planned().work > plain.work > 3 * plain.flops and planned().memory > plain.memory
    assert planned("--train.checkpoint_activations=true").work - planned().work == plain.flops
    muon = planned("--model.train_text=false", "--train.optimizer=muon")
    assert muon.update > 0 and muon.memory < plain.memory and plain.update == 0
    repa = ["--recipe.repa=0.5", "--recipe.repa_teacher"]
    assert planned(*repa[:1], f"{repa[1]}={networks / 'dino'}").work > planned().work
    assert planned(*repa[:1], f"{repa[1]}=owner/elsewhere").missing == ("REPA's teacher",)
    lpips = ["--recipe.lpips=0.1", f"--recipe.lpips_net={networks / 'squeezenet.safetensors'}"]
    assert set(planned(*lpips).counted) >= {"LPIPS", "decoder"}


def test_a_plan_of_a_lora_counts_what_is_frozen(tiny_folder, shards):
    from photofound.train.adapt import plan_adapted
    from photofound.training import finetune

    def planned(*more):
        arguments = overrides(tiny_folder, shards, *more)
        return plan_adapted(config.load(finetune.Config, None, arguments))[0]

    lora, full = planned("--model.lora.rank=4"), planned("--model.train=full")
    assert "LoRA" in lora.counted and "LoRA" not in full.counted
    assert lora.work < full.work and lora.memory < 0.5 * full.memory
    assert planned("--model.lora.rank=16").work > lora.work


def test_a_late_phase_has_its_share_and_its_batch():
    settings = config.load(Config, CONFIGS / "1b-latent-1024.yaml")
    early, late = plan(settings)
    assert (early.share, early.batch) == (0.7, 1.0)
    assert (late.share, late.batch) == (pytest.approx(0.3), 0.25)


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
    named = [f"--model.text_encoder={tmp_path}", "--model.train_text=false"]
    with pytest.raises(ValueError, match=r"model.text_width: 16, but .* gives 24; set 24"):
        new_stage(tiny_folder, shards, *named)
    stage = new_stage(tiny_folder, shards, *named, "--model.text_width=24")
    encoder = stage.pipeline.text_encoder
    assert type(encoder).__name__ == "T5EncoderModel" and "text_encoder" not in stage.module
    for ours, theirs in zip(encoder.encoder.parameters(), pair.encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    stage.loss(stage.batch(torch.Generator().manual_seed(0), 14, 0.0))[0].backward()
    assert all(p.grad is None for p in encoder.parameters())


def test_held_out_photographs_are_never_drawn(tiny_folder, shards):
    stage = new_stage(tiny_folder, shards, "--data.hold_out=4")
    assert set(stage.store.photograph.tolist()) == set(range(12)) - {0, 4, 8}
    everything = new_stage(tiny_folder, shards).store
    kept, held = hold_out(everything, 4)
    assert set(held.photograph.tolist()) == {0, 4, 8} and len(kept.table) + len(held.table) == len(everything.table)
    sample = held.crops(torch.tensor([0]), 64, False, torch.Generator().manual_seed(0))
    assert sample.pixels.shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--recipe.tread=1.0"], "recipe.tread: 1.0"),
        (["--recipe.repa=0.5"], "recipe.repa_teacher: recipe.repa needs a network"),
        (["--model.vae=none", "--model.condition_space=latents"], "no latents without an autoencoder"),
        (["--model.vae=/nowhere"], "model.vae: /nowhere does not exist"),
        (["--model.text_encoder=/nowhere"], "model.text_encoder: /nowhere cannot be loaded"),
    ],
)
def test_options_that_do_not_fit_are_refused(tiny_folder, shards, arguments, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        new_stage(tiny_folder, shards, *arguments)


# ---------------------------------------------------------------------------------------------------- configurations


CONFIGS = Path(__file__).parent.parent / "training" / "configs"
# Parameters in millions, and per picture size: tokens and TFLOP of a forward pass. The trunk alone is 1.17 billion;
# five more heads, the edit inputs and, on pixels, patches of 3,072 values come on top.
PLANS = {
    "nano-cpu": (7.0, {64: 0.000635, 144: 0.0014}),
    "nano-gpu": (17.8, {64: 0.00164, 256: 0.00652}),
    "1b-latent-512": (1208, {256: 0.45, 1024: 1.73}),
    "1b-latent-1024": (1208, {1024: 1.73, 4096: 5.08}),
    "1b-pixel-1024": (1248, {256: 0.46, 1024: 1.16}),
    "1b-from-prx": (1208, {1024: 1.73}),
}


def test_every_configuration_has_its_plan_here():
    assert {path.stem for path in CONFIGS.glob("1b-*.yaml")} == {name for name in PLANS if name.startswith("1b-")}


@pytest.mark.parametrize("name", PLANS)
def test_a_configuration_is_instantiated_without_memory(name):
    costs = plan(config.load(Config, CONFIGS / f"{name}.yaml", ["--model.latent=[16, 8]"]))
    millions, phases = PLANS[name]
    assert {cost.tokens: cost.flops / 1e12 for cost in costs} == pytest.approx(phases, rel=0.02)
    assert all(cost.parameters / 1e6 == pytest.approx(millions, rel=0.005) for cost in costs)


@pytest.mark.parametrize(
    ("overrides", "tokens", "tflop"),
    [
        (["--recipe.tread=0"], 4096, 8.2),
        (["--recipe.tread=0", "--model.latent=[32, 32]", "--model.patch_size=1"], 1024, 1.75),
    ],
)
def test_a_billion_parameters_cost_what_was_designed(overrides, tokens, tflop):
    """8.2 TFLOP at 4,096 tokens with 256 of text, 1.75 at 1,024, for a trunk of 1.17 billion."""
    from photofound.model.cost import forward_cost
    from photofound.model.transformer import EditTransformer

    settings = config.load(Config, CONFIGS / "1b-latent-1024.yaml", overrides)
    late = plan(settings)[-1]
    assert late.tokens == tokens and late.flops / 1e12 == pytest.approx(tflop, rel=0.02)
    with torch.device("meta"):
        trunk = EditTransformer(hidden_size=1792, depth=16, num_heads=28, mlp_ratio=3.5, context_in_dim=2304)
    assert forward_cost(trunk, 128, 128).parameters / 1e9 == pytest.approx(1.17, abs=0.005)


def test_a_start_folder_is_planned_by_its_own_configuration(tiny_folder, shards):
    settings = config.load(Config, None, overrides(tiny_folder, shards, "--mix.tasks={inpaint: 1.0, erase: 1.0}"))
    (cost,) = plan(settings)
    model = PretrainStage(settings, World()).pipeline.transformer
    assert cost.tokens == 16 and cost.parameters == sum(p.numel() for p in model.parameters())
    with pytest.raises(ValueError, match="model.latent: elsewhere/vae is not here"):
        plan(config.load(Config, None, ["--model.vae=elsewhere/vae"]))


# ---------------------------------------------------------------------------------------------------------- streaming


def streamed(tiny_folder, shards, *more):
    sources = f"--data.sources=[{{path: {shards}}}]"
    small = ["--data.multiple=16", "--data.workers=0", "--train.device=cpu", *more]
    return config.load(Config, None, overrides(tiny_folder, shards, sources, *small))


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


def test_stages_that_do_not_stream_say_so(tiny_folder, shards):
    from photofound.training import preference

    pairs = config.load(preference.Config, None, ["--data.hold_out=0", f"--data.sources=[{{path: {shards}}}]"])
    with pytest.raises(ValueError, match="data.sources: this stage does not stream; name a folder"):
        preference.PreferenceStage(pairs, World())


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


@pytest.fixture(scope="module")
def prepared(tiny_folder, shards, tmp_path_factory):
    """The same shards with embeddings and latents of the tiny pipeline."""
    from photofound.training.prepare import PrepareConfig, prepare

    folder = tmp_path_factory.mktemp("prepared") / "out"
    settings = {"model": str(tiny_folder), "text": True, "latents": True, "captioner": "colour", "workers": 0}
    prepare(str(shards), folder, PrepareConfig(**settings, min_side=64, near=-1, side=64, multiple=16))
    return folder


USING = ["--data.precomputed=[text, latents]", "--model.train_text=false"]


def test_what_was_computed_before_gives_the_same_loss(tiny_folder, prepared, monkeypatch):
    from photofound.model import text

    stage = PretrainStage(streamed(tiny_folder, prepared, *USING, "--mix.drop_text=0.3"), World())
    batch = stage.batch(torch.Generator().manual_seed(0), 14, 0.0)
    assert (
        batch.sample.latents.shape == (14, 4, 8, 8)
        and batch.sample.latents.dtype == torch.float16
        and batch.sample.embeddings
    )
    encode, encoded = text.encode, []
    monkeypatch.setattr(
        text, "encode", lambda t, e, prompts, *more: encoded.extend(prompts) or encode(t, e, prompts, *more)
    )

    def loss(batch):
        torch.manual_seed(5)
        encoded.clear()
        return stage.loss(batch)[0].item(), list(encoded)

    used, prompts = loss(batch)
    assert prompts == [""]  # what was dropped; no caption
    monkeypatch.setattr(stage, "encode", lambda pixels: pytest.fail("the target was encoded again"))
    assert loss(batch)[0] == used
    monkeypatch.undo()
    computed, _ = loss(batch._replace(sample=replace(batch.sample, latents=None, embeddings={})))
    assert used == pytest.approx(computed, rel=1e-4) and used != computed  # half precision, and no more than that
    wanted = stage.encode(batch.sample.pixels)
    assert torch.allclose(batch.sample.latents.float(), wanted, atol=1e-3 * float(wanted.abs().max()))
    assert not torch.allclose(batch.sample.latents.roll(1, 0).float(), wanted, atol=1e-2 * float(wanted.abs().max()))


def test_mirrored_and_moved_pictures_have_no_latents_but_embeddings(tiny_folder, prepared):
    stage = PretrainStage(streamed(tiny_folder, prepared, "--data.precomputed=[text]", USING[1]), World())
    batch = stage.batch(torch.Generator().manual_seed(0), 14, 0.0)
    assert batch.sample.latents is None and set(batch.condition.prompt) <= set(batch.sample.embeddings)
    assert torch.isfinite(stage.loss(batch)[0])


def test_sheets_are_of_the_same_inputs_and_noise(stage):
    with torch.no_grad():
        first = stage.sheet()
        stage.batch(torch.Generator().manual_seed(3), 4, 0.0)
        torch.rand(7)
        assert np.array_equal(first, stage.sheet())


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


def test_held_out_photographs_are_measured_alike_every_time(tiny_folder, shards):
    settings = config.load(
        Config,
        None,
        overrides(tiny_folder, shards, "--data.hold_out=4", "--data.held_out_crops=10", "--mix.drop_text=1"),
    )
    stage, again = PretrainStage(settings, World()), PretrainStage(settings, World())
    with torch.no_grad():
        first = stage.validate()["val_loss"]
        stage.loss(stage.batch(torch.Generator().manual_seed(0), 4, 0.0))
        assert first == stage.validate()["val_loss"] == again.validate()["val_loss"]
        assert len(stage.validation_batch.condition) == 10
        for parameter in stage.pipeline.transformer.parameters():
            parameter.mul_(1.5)
        assert stage.validate()["val_loss"] != first


def test_a_stream_is_measured_on_other_photographs(tiny_folder, shards, tmp_path):
    held_out = f"--data.held_out=[{{path: {shards}}}]"
    arguments = ["--train.validate_every=1", "--data.held_out_crops=6", held_out]
    stage = PretrainStage(streamed(tiny_folder, shards, *arguments), World())
    with torch.no_grad():
        assert torch.isfinite(stage.validate()["val_loss"])
    with pytest.raises(ValueError, match="nothing is held out; set data.hold_out or data.held_out"):
        PretrainStage(streamed(tiny_folder, shards, "--train.validate_every=1"), World())
    with pytest.raises(ValueError, match="data.hold_out: divides what lies in memory"):
        streamed(tiny_folder, shards, "--data.hold_out=4")


def test_a_run_logs_its_validation(tiny_folder, shards, tmp_path):
    arguments = overrides(
        tiny_folder, shards, "--data.hold_out=4", "--data.held_out_crops=6", "--train.validate_every=2"
    )
    assert cli.main(["train", "pretrain", "--run_dir", str(tmp_path), "--train.device=cpu", *arguments]) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert "val_loss" not in rows[0] and rows[1]["val_loss"] > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data.precomputed=[text]"], "model.train_text: embeddings are of the encoder before it is trained"),
        ([*USING, "--data.crop=32", "--data.late_crop=32"], "were made with side 64, not 32"),
        ([*USING, "--data.late_crop=96"], "data.late_crop: 96 is not the size of the latents; set it to 64"),
        ([*USING, "--data.recolour=0.5"], "data.recolour: changes the pictures"),
        ([*USING, "--model.text_length=32"], "were made with length 64, not 32"),
        (["--data.precomputed=[latent]"], "'latent' is unknown; use text and latents"),
    ],
)
def test_what_was_computed_otherwise_is_refused(tiny_folder, prepared, arguments, says):
    with pytest.raises(ValueError, match=says):
        PretrainStage(streamed(tiny_folder, prepared, *arguments), World())


def test_latents_of_another_autoencoder_are_refused(tiny_folder, prepared, tmp_path):
    from photofound.pipeline import EditPipeline

    pipe = EditPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
    pipe.vae.encoder.conv_out.weight.data.mul_(1.1)
    pipe.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="the latents of .* were made by another autoencoder"):
        PretrainStage(streamed(tmp_path / "other", prepared, *USING), World())


def test_shards_without_embeddings_are_refused(tiny_folder, shards):
    with pytest.raises(ValueError, match="has no text by its index.json"):
        PretrainStage(streamed(tiny_folder, shards, *USING), World())


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


def test_training_adds_its_tasks_to_those_that_a_model_has_learnt(tiny_folder, tmp_path):
    """A converted model has heads that were never trained; after training they are used."""
    from photofound.pipeline import EditPipeline
    from photofound.train.build import build_pipeline
    from photofound.train.stage import ModelConfig

    pipe = EditPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
    pipe.register_to_config(trained_tasks=["generate"])
    pipe.save_pretrained(tmp_path / "converted")
    built = build_pipeline(ModelConfig(start=str(tmp_path / "converted")), ["inpaint", "expand"])
    assert built.config.trained_tasks == ["generate", "inpaint", "expand"]
    assert build_pipeline(ModelConfig(start=str(tiny_folder)), ["inpaint"]).config.trained_tasks is None
