"""The stage that trains the transformer: what it refuses, its times, sheets and validation, and precomputed data."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from stages import new_stage, overrides, streamed

from photofound import config
from photofound.edits.task import Condition
from photofound.train.distributed import World
from photofound.train.mix import take
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
    for wrong in ("shift: 0", "late_shift: -1", "uniform_time: 2", "shift_by_size: true"):
        with pytest.raises(ValueError, match="mix." + wrong.split(":")[0]):  # the last one where no size changes
            config.load(Config, None, [f"--mix.{wrong.replace(': ', '=')}"])


@pytest.mark.parametrize("arguments, end", [
    (["--mix.shift=3.0"], 3.0),
    (["--mix.shift=2.0", "--mix.late_shift=3.0"], 3.0),
    (["--mix.shift=2.0", "--mix.late_shift=3.0", "--data.late_from=1.0"], 2.0),
    (["--mix.shift=2.0", "--mix.shift_by_size=true", "--data.crop=48", "--data.late_crop=64"], 2.0 * 64 / 48),
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


def test_stages_that_do_not_stream_say_so(tiny_folder, shards):
    from photofound.training import preference

    with pytest.raises(ValueError, match="data.sources: .* does nothing in 'photofound train preference'"):
        config.load(preference.Config, None, ["--data.hold_out=0", f"--data.sources=[{{path: {shards}}}]"])


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


def test_prompts_are_cleaned_as_the_model_is_used_to(stage):
    """A converted PRX reads lower case, in training as in use."""
    plain, _ = stage.encode_prompts(["a CUP!"])
    wanted, _ = stage.encode_prompts(["a cup!"])
    assert plain.shape != wanted.shape or not torch.equal(plain, wanted)
    stage.pipeline.register_to_config(prompt_cleaning="full")
    try:
        cleaned, _ = stage.encode_prompts(["a CUP!"])
        partly, _ = stage.encode_prompts(["a CUP!", "known"], {"known": cleaned[0]})
    finally:
        stage.pipeline.register_to_config(prompt_cleaning=None)
    assert torch.equal(cleaned, wanted) and torch.allclose(partly[0], wanted[0], atol=1e-5)


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


def test_held_out_photographs_are_measured_alike_every_time(tiny_folder, shards):
    measured = "--data.hold_out=4", "--data.held_out_crops=10", "--train.validate_every=1"
    settings = config.load(
        Config,
        None,
        overrides(tiny_folder, shards, *measured, "--mix.drop_text=1"),
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--recipe.tread=1.0"], "recipe.tread: 1.0"),
        (["--recipe.repa=0.5"], "recipe.repa_teacher: recipe.repa needs a network"),
        (["--model.vae=none", "--model.condition_space=latents"], "no latents without an autoencoder"),
        (["--model.vae=/nowhere"], "model.vae: /nowhere does not exist"),
        (["--model.text_encoder=/nowhere", "--model.text_layers=3"], "model.text_encoder: /nowhere cannot be loaded"),
    ],
)
def test_options_that_do_not_fit_are_refused(tiny_folder, shards, arguments, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        new_stage(tiny_folder, shards, *arguments)
