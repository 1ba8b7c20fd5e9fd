"""Fine-tuning from end to end on a few drawn products: what is trained, what is measured, what is written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from photofound import InpaintPipeline, cli, config
from photofound.data import chosen, drawn
from photofound.pipeline import EditPipeline
from photofound.train.distributed import World
from photofound.training import finetune
from photofound.training.finetune import Config, FinetuneStage, importance

pytestmark = pytest.mark.slow

CONFIGS = Path(finetune.__file__).parent / "configs"


@pytest.fixture(scope="session")
def products(tmp_path_factory):
    """A seller's folder: five photographs, with captions, three with masks."""
    folder = tmp_path_factory.mktemp("products")
    for index, photo in enumerate(drawn.photographs(5, size=96)):
        Image.fromarray(photo.pixels.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(photo.caption)
        if index < 3:
            Image.fromarray(photo.matte[0].numpy()).save(folder / f"{index}.mask.png")
    return folder


def overrides(tiny_folder, folder, *more):
    return [
        f"--model.start={tiny_folder}",
        f"--data.folder={folder}",
        "--data.sizes=[72]",
        "--data.crop=64",
        "--model.lora={rank: 4, alpha: 8}",
        "--validation.size=4",
        "--train.batch_size=6",
        "--train.steps=3",
        "--train.lr=0.01",
        "--train.warmup_steps=1",
        "--train.precision=fp32",
        *more,
    ]


@pytest.fixture
def stage(tiny_folder, products):
    def build(*more, folder=products):
        return FinetuneStage(config.load(Config, None, overrides(tiny_folder, folder, *more)), World())

    return build


def weights(stage):
    return {name: value.detach().clone() for name, value in stage.pipeline.transformer.named_parameters()}


def update(stage, count=2):
    """A few updates with everything that could move a weight on, weight decay aside."""
    parameters = [p for p in stage.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)
    for seed in range(count):
        loss, _ = stage.loss(stage.batch(torch.Generator().manual_seed(seed), 6, 0.5))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def run(run_dir, *arguments):
    return cli.main(["train", "finetune", "--run_dir", str(run_dir), *arguments])


def rows(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def velocity(pipeline):
    """What the transformer makes of fixed inputs."""
    model, generator = pipeline.transformer.eval(), torch.Generator().manual_seed(0)
    shapes = {"x": (2, 4, 8, 8), "text": (2, 5, 16), "condition": (2, model.config.condition_channels, 8, 8)}
    x, text, condition = (torch.randn(shape, generator=generator) for shape in shapes.values())
    with torch.no_grad():
        return model(x, torch.tensor([0.3, 0.7]), text, condition=condition, task=torch.tensor([1, 3])).sample


# ------------------------------------------------------------------------------------------------- what is trained


def test_a_lora_trains_nothing_but_itself(stage):
    lora = stage()
    before, unchanged = weights(lora), velocity(lora.pipeline)
    start = EditPipeline.from_pretrained(lora.config.model.start, dtype=torch.float32)
    torch.testing.assert_close(unchanged, velocity(start), rtol=0, atol=1e-5)  # the same but for rounding
    update(lora)
    moved = {name for name, value in weights(lora).items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "lora_" in name}  # every layer of it has a gradient
    assert not torch.equal(velocity(lora.pipeline), unchanged)
    saved = lora.module.state_dict()
    assert saved and all("lora_" in name for name in saved)  # so small are the checkpoints
    lora.module.load_state_dict(saved)
    with pytest.raises(RuntimeError, match="Missing key"):
        lora.module.load_state_dict(dict(list(saved.items())[1:]))


def test_a_new_head_trains_alone(stage, tiny, tmp_path):
    """A task that the start does not know: its row of the heads and its embedding move, and no other number."""
    pipe = tiny(EditPipeline)
    settings = {**pipe.transformer.config, "tasks": ["generate", "inpaint"]}
    transformer = type(pipe.transformer).from_config(settings)
    EditPipeline.from_pipe(pipe, transformer=transformer).save_pretrained(tmp_path)
    new = stage(f"--model.start={tmp_path}", "--model.train=head", "--mix.tasks={expand: 1.0}")
    before = weights(new)
    update(new)
    assert new.pipeline.transformer.config.tasks == ["generate", "inpaint", "expand"]
    moved = {name for name, value in weights(new).items() if not torch.equal(value, before[name])}
    heads = {f"heads.{name}" for name in ("modulation_weight", "modulation_bias", "weight", "bias")}
    assert moved <= heads | {"task_in"} and "heads.weight" in moved
    for name in moved:
        value = weights(new)[name]
        assert torch.equal(value[:2], before[name][:2]) and not torch.equal(value[2], before[name][2])
    assert set(new.module.state_dict()) == {f"transformer.{name}" for name in heads | {"task_in"}}


def test_all_weights_and_the_text_encoder(stage):
    full = stage("--model.train=full", "--model.train_text=true")
    assert all(p.requires_grad for p in full.module.parameters()) and "text_encoder" in full.module
    assert not any(p.requires_grad for p in stage("--model.train=full").pipeline.text_encoder.parameters())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.train=half"], "lora, full or head"),
        (["--model.train_text=true"], "model.train=full"),
        (["--model.lora.targets=[nothing]"], "nothing"),
        (["--model.train=head", "--train.weight_decay=0.01"], "weight_decay"),
        (["--prior.weight=1"], "prior.prompt"),
        (["--data.only={label: [Shoes]}"], "Shoes"),
        (["--data.crop=96"], "no photograph fits a crop of 96"),
        (["--data.cache=store"], "data.cache"),
        (["--loss.object_weight=0", "--loss.background_weight=0"], "object_weight"),
    ],
)
def test_mistakes_are_one_line(tiny_folder, products, tmp_path, capsys, arguments, words):
    assert run(tmp_path / "run", *overrides(tiny_folder, products, *arguments)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in error and error.startswith("photofound:")


# --------------------------------------------------------------------------------------------------- what it is fed


def test_photographs_are_chosen_by_their_metadata(products, tmp_path):
    lines = []
    for index in range(5):
        name = "shoe" if index < 3 else "hat"
        lines.append(
            {
                "file_name": Path(shutil.copy(products / f"{index}.png", tmp_path)).name,
                "text": f"a {name}",
                "label": name,
                "source": "shop",
            }
        )
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    shoes = chosen.read(str(tmp_path), 48, {"label": ("shoe",)}, {})
    assert [photo.caption for photo in shoes] == ["a shoe"] * 3 and shoes[0].source == "shop"
    assert min(shoes[0].pixels.shape[1:]) == 48 and shoes[0].pixels.dtype == torch.uint8
    assert [photo.caption for photo in chosen.read(str(tmp_path), 48, {}, {"label": ("shoe",)})] == ["a hat"] * 2
    some = chosen.read(str(tmp_path), 48, {}, {}, limit=2)
    assert len(some) == 2 and all(
        any(torch.equal(a.pixels, b.pixels) for b in chosen.read(str(tmp_path), 48, {}, {})) for a in some
    )
    with pytest.raises(ValueError, match="boot"):
        chosen.read(str(tmp_path), 48, {"label": ("boot",)}, {})


def test_three_photographs_without_masks_leave_out_what_needs_objects(stage, products, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (80, 72, 3), np.uint8)).save(tmp_path / f"{index}.jpg")
    few = stage(folder=tmp_path)
    assert "left out of the mix" in capsys.readouterr().out
    condition, sample, *_ = few.batch(torch.Generator().manual_seed(0), 6, 0.0)
    assert len(sample) == 6 and "outpaint" not in condition.task and set(condition.prompt) <= {""}
    with pytest.raises(ValueError, match="outpaint needs whole objects"):
        stage("--mix.tasks={outpaint: 1.0}", folder=tmp_path)


def test_one_caption_for_all_and_nothing_mirrored(stage):
    token = stage("--data.caption=a photo of sks mug", "--mix.tasks={inpaint: 1.0}")
    condition, sample, *_ = token.batch(torch.Generator().manual_seed(0), 20, 0.0)
    assert set(condition.prompt) == {"a photo of sks mug"}
    store = token.store
    height, width = int(store.height[0]), int(store.width[0])
    photos = [store.flat[o : o + 3 * height * width].view(3, height, width) for o in store.offset.tolist()]
    crops = [photo.unfold(1, 64, 1).unfold(2, 64, 1) for photo in photos]  # (3, y, x, 64, 64)
    for picture in sample.pixels:
        wanted = ((picture + 1) * 127.5).round().to(torch.uint8)
        assert any((crop == wanted[:, None, None]).all(-1).all(-1).all(0).any() for crop in crops)


def test_the_object_counts_by_its_matte():
    matte = torch.zeros(2, 1, 4, 4)
    matte[0, :, :2] = 1.0
    matte[0, :, 2] = 0.5
    weight = importance(matte, 1.0, 0.2)
    assert torch.allclose(weight[0, 0, :, 0], torch.tensor([1.0, 1.0, 0.6, 0.2]))
    assert (weight[1] == 1).all()  # no mask: evenly
    assert importance(matte, 0.3, 0.3) is None


def test_masked_loss_has_no_gradient_from_the_ground(stage):
    """With background_weight 0 the ground may be anything, and the object may not."""
    masked = stage("--loss.background_weight=0", "--mix.tasks={generate: 1.0}", "--mix.drop_text=0", "--data.limit=3")
    batch = masked.batch(torch.Generator().manual_seed(0), 4, 0.5)
    assert batch.weight is not None and 0 < batch.weight.mean() < 1
    seen = []
    masked.predict = lambda x_t, t, *rest, **more: (seen.append(0 * x_t) or seen[-1], x_t, None)
    masked.encode = lambda pixels: pixels  # so that latents are pixels

    def loss(pixels):
        torch.manual_seed(0)
        return float(masked.loss(batch._replace(sample=replace(batch.sample, pixels=pixels)))[0])

    ground = batch.weight == 0
    changed = torch.where(ground, batch.sample.pixels + 1, batch.sample.pixels)
    assert loss(changed) == pytest.approx(loss(batch.sample.pixels)) != pytest.approx(loss(batch.sample.pixels + 1))


def test_prior_photographs_are_made_and_take_their_share(stage, products, tmp_path):
    prior = ["--prior.weight=1", "--prior.prompt=a photo of a mug", "--prior.count=3", "--prior.steps=1"]
    token = ["--data.caption=a photo of sks mug", "--loss.background_weight=0", "--mix.drop_text=0"]
    first = stage(*prior, *token)
    batch = first.batch(torch.Generator().manual_seed(0), 12, 0.0)
    of_class = [prompt != "a photo of sks mug" for prompt in batch.condition.prompt]
    assert sum(of_class) == 6 and (batch.weight[of_class] == 1).all()  # the class is learnt as a whole
    assert torch.equal(first.prior.flat, stage(*prior, *token).prior.flat)  # the same ones whenever a run goes on


def test_a_folder_of_prior_photographs_is_read_and_never_written(stage, products, tmp_path):
    folder = tmp_path / "mugs"
    folder.mkdir()
    shutil.copy(products / "0.png", folder / "mug.png")
    prior = ["--prior.weight=1", "--prior.prompt=a photo of a mug", "--prior.count=3", "--prior.steps=1"]
    filled = stage(*prior, f"--prior.folder={folder}")
    assert [path.name for path in folder.iterdir()] == ["mug.png"]
    assert [words[0] for words in filled.prior.captions] == ["a mug"] * 3
    assert len(stage(prior[0], f"--prior.folder={folder}").prior.captions) == 1
    for name in ("nothing", "s3://bucket/mugs"):
        with pytest.raises(ValueError, match="cannot be read"):
            stage(*prior, f"--prior.folder={tmp_path / name if name == 'nothing' else name}")
    assert not (tmp_path / "nothing").exists()


def test_products_can_be_streamed(stage, products, tmp_path):
    sources = [f"--data.sources=[{{path: {products}}}]", "--data.multiple=16", "--data.workers=0"]
    streamed = stage(*sources, "--loss.background_weight=0.5", "--validation.sets={again: {limit: 3}}")
    batch = streamed.batch(torch.Generator().manual_seed(0), 6, 0.5)
    assert batch.sample.pixels.shape == (6, 3, 64, 64) and batch.weight.min() == 0.5 and batch.weight.max() == 1
    assert torch.isfinite(streamed.loss(batch)[0]) and streamed.validate()["loss_again"] > 0
    state = json.loads(json.dumps(streamed.state_dict()))
    wanted = streamed.batch(torch.Generator().manual_seed(1), 6, 0.5)
    resumed = stage(*sources)
    resumed.load_state_dict(state)
    assert torch.equal(resumed.batch(torch.Generator().manual_seed(1), 6, 0.5).sample.pixels, wanted.sample.pixels)
    with pytest.raises(ValueError, match="data.sources: data.only, .without, .limit, .caption and prior are for"):
        stage(*sources, "--data.caption=a photo of sks mug")


def test_validation_is_the_same_whenever_it_is_measured(stage):
    watched = stage("--data.hold_out=2", "--validation.sets={others: {limit: 2}}")
    with torch.no_grad():
        first = watched.measure()
        torch.randn(7)
        assert watched.measure() == first and set(first) == {"loss_held_out", "loss_others"}
    held = {tuple(watched.held_out.photograph.tolist())}
    assert held == {(0, 2, 4)} and watched.store.photograph.tolist() == [1, 3]
    update(watched)
    with torch.no_grad():
        assert watched.measure() != first


def test_a_run_writes_a_lora_that_loads_and_a_pipeline_that_has_it(tiny_folder, products, tmp_path, tiny, monkeypatch):
    """Three steps from the command line. The trained model, the LoRA loaded into its start, and the merged pipeline
    agree, with an alpha that is not the rank."""
    stages = []
    build = FinetuneStage.__init__
    monkeypatch.setattr(FinetuneStage, "__init__", lambda self, *args: stages.append(self) or build(self, *args))
    arguments = overrides(tiny_folder, products, "--data.hold_out=3", "--validation.times=2", "--train.ema=0")
    assert run(tmp_path / "run", *arguments) == 0
    trained = velocity(stages[0].pipeline)
    pipe = tiny(InpaintPipeline)
    start = velocity(pipe)
    pipe.load_lora_weights(tmp_path / "run" / "model" / "lora")
    assert torch.allclose(velocity(pipe), trained, atol=1e-6) and not torch.allclose(start, trained, atol=1e-4)
    whole = InpaintPipeline.from_pretrained(tmp_path / "run" / "model", torch_dtype=torch.float32)
    assert torch.allclose(velocity(whole), trained, atol=1e-5)
    logged = ["loss_held_out" in row for row in rows(tmp_path / "run")]
    assert logged == [True, False, True]  # at the start, half-way (the step after 50 %), which is also the last
    measured = json.loads((tmp_path / "run" / "model" / "validation.json").read_text())
    assert measured["before"]["loss_held_out"] == pytest.approx(rows(tmp_path / "run")[0]["loss_held_out"], rel=1e-5)
    assert measured["after"]["loss_held_out"] != measured["before"]["loss_held_out"]


def test_room_for_the_whole_model_is_asked_for_though_a_lora_is_small(
    tiny_folder, products, tmp_path, capsys, monkeypatch
):
    size = sum(path.stat().st_size for path in tiny_folder.rglob("*.safetensors"))
    monkeypatch.setattr("photofound.train.disk.shutil.disk_usage", lambda _: SimpleNamespace(free=size // 2))
    assert run(tmp_path / "run", *overrides(tiny_folder, products, "--model.lora.rank=1")) == 2
    assert "are free; make room, or lower train.keep" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_captions_that_are_cut_are_told(stage, capsys, products):
    longest = max(len(path.read_text()) for path in products.glob("*.txt"))
    stage(f"--model.text_length={longest + 1}")
    assert "captions" not in capsys.readouterr().out
    stage("--model.text_length=5")
    assert "5 of 5 captions have more than the 5 tokens of text_length; their ends" in capsys.readouterr().out


@pytest.mark.parametrize("start, base", [("embedded", "embedded:teacher"), ("tiny", None)])
def test_a_lora_says_which_model_it_is_for(tiny_folder, start, base):
    """A run that starts from a student trains its teacher."""
    from types import SimpleNamespace

    from photofound.pipeline import EMBEDDED

    folder = str(EMBEDDED) if start == "embedded" else str(tiny_folder)
    stage = SimpleNamespace(config=SimpleNamespace(model=SimpleNamespace(start=folder)))
    assert FinetuneStage._base(stage) == (base or tiny_folder.name)


def test_a_dry_run_says_what_a_run_takes(tiny_folder, products, tmp_path, capsys):
    arguments = overrides(tiny_folder, products, "--dry-run", "--validation.times=0")
    assert run(tmp_path / "run", *arguments) == 0
    assert "parameters" in capsys.readouterr().out and not (tmp_path / "run").exists()


def test_a_lora_learns_its_products(stage):
    """A few dozen steps on three photographs lower their own loss at fixed noise and times."""
    learner = stage("--validation.sets={own: {}}", "--model.lora.rank=8", "--mix.tasks={inpaint: 1.0, generate: 1.0}")
    with torch.no_grad():
        before = learner.measure()["loss_own"]
    update(learner, 40)
    with torch.no_grad():
        assert learner.measure()["loss_own"] < 0.9 * before


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("finetune-*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_configuration_runs(path, tiny_folder, products, tmp_path):
    """One step of each with the tiny model, and with what its first lines say must be given."""
    prior = ["--prior.prompt=a photo of a mug", "--prior.count=2", "--prior.steps=1"]
    given = ["--data.caption=a photo of sks mug", *prior * ("prior:" in path.read_text())]
    small = ["--data.hold_out=0", "--data.only={}", "--validation.sets={}", "--train.steps=1"]
    arguments = overrides(tiny_folder, products, *given, *small)
    assert run(tmp_path / "run", "--config", str(path), *(a for a in arguments if "lora" not in a)) == 0
    assert (tmp_path / "run" / "model" / "model_index.json").is_file()


def test_what_fits_is_known_by_store_not_by_where_it_lay_in_memory(stage):
    """A store that is gone may leave its address to another, smaller one."""
    made = stage()
    for count in range(4, 0, -1):
        store = drawn.store(count, (64,))
        rows, _ = made.mixer.choices(store, 64, False)
        assert len(rows) == count
        del store
