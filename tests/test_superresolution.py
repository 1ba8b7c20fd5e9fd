"""The upscaler: its parts make the whole, it comes and goes with a folder, and training teaches it to enlarge."""

import json

import numpy as np
import pytest
import torch
from helpers import load_pipeline

from photofound import Picture, UpscalePipeline, config
from photofound.edits.task import get_task
from photofound.model import superresolution
from photofound.model.superresolution import Upscaler, enlarge, enlarged
from photofound.pipeline import EditPipeline
from photofound.train.distributed import World
from photofound.train.trainer import Trainer
from photofound.training import superresolution as training


def upscaler(**shape) -> Upscaler:
    """Tiny and untrained, with no layer at zero that would hide what flows through it."""
    torch.manual_seed(0)
    model = Upscaler(**{"channels": 16, "depth": 2, **shape}).eval()
    for layer in model.tails.values():
        torch.nn.init.normal_(layer.weight, std=0.02)
    return model


def photo(height=40, width=56, channels=3, dtype=np.uint8):
    from skimage import data

    rgb = data.astronaut()[40 : 40 + height, 180 : 180 + width].astype(dtype) * (257 if dtype == np.uint16 else 1)
    if channels == 4:
        alpha = np.full((height, width, 1), np.iinfo(dtype).max, dtype)
        alpha[: height // 2] = 0
        return np.concatenate([rgb, alpha], -1)
    return rgb if channels == 3 else rgb[..., 1]


def pixels(height=40, width=56):
    return torch.from_numpy(photo(height, width).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


# ------------------------------------------------------------------------------------------------------------- network


@torch.no_grad()
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_an_untrained_one_is_the_bicubic_enlargement(scale):
    low = pixels()
    assert torch.equal(Upscaler(16, 1)(low, scale), enlarge(low, scale))
    assert (upscaler()(low, scale) != enlarge(low, scale)).any()


def test_the_enlargement_is_that_of_the_literature():
    """Keys' kernel at a = -1/2 (MATLAB's): for x2 its weights are -3, 29, 111 and -9 in 128."""
    line = torch.zeros(1, 1, 8, 8)
    line[..., 4, :] = 1
    column = enlarge(line.expand(1, 3, 8, 8), 2)[0, 0, :, 8] * 128
    assert column[5:13].tolist() == pytest.approx([-3, -9, 29, 111, 111, 29, -9, -3], abs=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (53, 1), (61, 47)])
def test_parts_make_the_whole(size, monkeypatch):
    """Exact where the arithmetic allows it: each part sees all that its result depends on."""
    monkeypatch.setattr(superresolution, "_PART", 16)
    model, low = upscaler(), torch.rand(1, 3, *size) * 2 - 1
    for scale in (2, 3):
        steps = []
        made = enlarged(model, low, scale, step=lambda steps=steps: steps.append(1))
        torch.testing.assert_close(made, model(low, scale).clamp(-1, 1), atol=1e-5, rtol=0)
        assert len(steps) == -(-size[0] // 16) * -(-size[1] // 16)


@torch.no_grad()
def test_its_reach_is_as_far_as_it_sees():
    """Not a pixel less, or parts would have seams; not more, or it would be wasted."""
    model, low = upscaler(), torch.zeros(1, 3, 41, 41)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.constant_(layer.weight, 0.01)  # no signal cancels on its way
            torch.nn.init.ones_(layer.bias)
    other = low.clone()
    other[..., 20, 20] = 1
    seen = ((model(other, 2) - model(low, 2)).abs().amax((0, 1)) > 0).nonzero()
    assert seen.min() == 2 * (20 - model.reach) and seen.max() == 2 * (20 + model.reach) + 1


@torch.no_grad()
def test_parts_that_nobody_wants_are_interpolated(monkeypatch):
    monkeypatch.setattr(superresolution, "_PART", 16)
    model, low = upscaler(), torch.rand(1, 3, 16, 32) * 2 - 1
    where = torch.zeros(1, 1, 16, 32)
    where[..., 20:22] = 1
    made = enlarged(model, low, 2, where=where)
    torch.testing.assert_close(made[..., :32], enlarge(low, 2)[..., :32].clamp(-1, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(made[..., 32:], model(low, 2)[..., 32:].clamp(-1, 1), atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------------------------------ pipeline


@pytest.fixture
def folder(tiny, tmp_path):
    """The tiny pipeline, saved with an upscaler."""
    UpscalePipeline.from_pipe(tiny(UpscalePipeline), upscaler=upscaler()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_it_is_saved_and_loaded_with_a_pipeline(folder, tiny):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["upscaler"] == ["photofound.superresolution", "Upscaler"]
    loaded = EditPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    assert loaded.upscaler.dtype == torch.bfloat16
    again = UpscalePipeline.from_pipe(load_pipeline(UpscalePipeline, folder))
    for name, weight in upscaler().state_dict().items():
        assert torch.equal(again.upscaler.state_dict()[name], weight)
    assert tiny(UpscalePipeline).upscaler is None


def test_a_folder_of_before_there_were_upscalers_loads_as_before(tiny_folder, tiny, tmp_path):
    import shutil

    shutil.copytree(tiny_folder, tmp_path / "old")
    path = tmp_path / "old" / "model_index.json"
    index = json.loads(path.read_text())
    index.pop("upscaler", None)
    path.write_text(json.dumps(index))
    seeded = [torch.Generator().manual_seed(0) for _ in range(2)]
    old, new = load_pipeline(UpscalePipeline, tmp_path / "old"), tiny(UpscalePipeline)
    assert old.upscaler is None and old.check({})[0] == 2
    results = [pipe(photo(), generator=g).images[0] for pipe, g in zip((old, new), seeded, strict=True)]
    assert results[0].tobytes() == results[1].tobytes()


@pytest.mark.slow
def test_without_steps_the_upscaler_does_it_and_with_steps_the_transformer(folder, tiny):
    pipe, calls = load_pipeline(UpscalePipeline, folder), []
    pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    result = np.asarray(pipe(photo()).images[0])
    assert result.shape == (80, 112, 3) and not calls
    by_hand = enlarged(pipe.upscaler, pixels(), 2)
    by_hand = superresolution_result(by_hand)
    assert (result == by_hand).all()
    seeded = [torch.Generator().manual_seed(0) for _ in range(2)]
    asked = pipe(photo(), num_inference_steps=2, generator=seeded[0]).images[0]
    without = tiny(UpscalePipeline)(photo(), num_inference_steps=2, generator=seeded[1]).images[0]
    assert len(calls) == 2 and asked.tobytes() == without.tobytes()


def superresolution_result(made):
    from photofound.edits import composite
    from photofound.image import from_tensor

    return np.rint(from_tensor(composite.back_project(made, pixels())) * 255).astype(np.uint8)


@pytest.mark.slow
def test_steps_must_be_possible(folder, tiny):
    with pytest.raises(ValueError, match="num_inference_steps: -1 must be a whole number from 0 to 1000"):
        load_pipeline(UpscalePipeline, folder)(photo(), num_inference_steps=-1)
    with pytest.raises(ValueError, match="num_inference_steps: 0 must be a whole number from 1 to 1000"):
        tiny(UpscalePipeline)(photo(), num_inference_steps=0)
    pipe = load_pipeline(UpscalePipeline, folder)
    pipe.register_to_config(task_steps={"upscale": 2})
    assert pipe.check({})[0] == 2, "the checkpoint's own word counts"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_picture_has_the_same_pixels_alone_and_in_company(folder, dtype):
    pipe, task = load_pipeline(UpscalePipeline, folder, torch_dtype=dtype), get_task("upscale")
    jobs = [task.prepare(Picture.from_any(photo(30 + i, 40)), scale=2 + i) for i in range(3)]
    together = pipe.run(jobs, [None] * 3, 0, 1.0)
    for job, result in zip(jobs, together, strict=True):
        assert (pipe.run([job], [None], 0, 1.0)[0].pixels == result.pixels).all()


@pytest.mark.parametrize(
    "given",
    [photo(1, 30), photo(30, 1), photo(channels=1), photo(channels=4), photo(dtype=np.uint16)],
    ids=["flat", "thin", "grey", "alpha", "16 bit"],
)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_picture_is_enlarged_and_comes_back(folder, given, scale):
    """Kind, depth and alpha stay, and scaled back down it is what was given."""
    from PIL import Image

    result = load_pipeline(UpscalePipeline, folder)(given, scale=scale, output_type="picture").images[0]
    height, width = given.shape[:2]
    assert result.size == (width * scale, height * scale) and result.pixels.dtype == given.dtype
    assert result.pixels.shape[2:] == (given.shape[2:] or (1,))
    if given.ndim == 3 and given.shape[2] == 4:
        assert result.pixels[: (height // 2 - 2) * scale, :, 3].max() == 0
    small = Picture.from_any(result).to_pil().convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    before = Picture.from_any(given).revealed().to_pil().convert("RGB")
    assert np.abs(np.asarray(small, float) - np.asarray(before, float)).mean() < 2


def test_what_was_made_smaller_is_enlarged_by_it(folder):
    """Of a fill only what lies in the hole, at any size; scaled down it is what was made."""
    pipe, low = load_pipeline(UpscalePipeline, folder), pixels()
    pipe.transformer.register_forward_hook(lambda *_: pytest.fail("the transformer is not needed"))
    hole = torch.zeros(1, 1, 93, 131)
    hole[..., 20:60, 30:70] = 1
    made = pipe._enlarged(low, hole, None)
    assert made.shape == (1, 3, 93, 131)
    assert (superresolution.composite.shrink(made, (40, 56)) - low).abs().mean() < 2 / 255
    by_hand = superresolution.composite.resize(enlarged(pipe.upscaler, low, 3), (93, 131))
    by_hand = superresolution.composite.back_project(by_hand, low)
    torch.testing.assert_close(made, by_hand, atol=1e-5, rtol=0)
    assert pipe._enlarged(low, torch.ones(1, 1, 400, 560), None).shape == (1, 3, 400, 560), "beyond its scales, too"


def test_a_scale_that_it_does_not_know_is_made_of_the_next(folder):
    pipe = load_pipeline(UpscalePipeline, folder)
    pipe.register_modules(upscaler=upscaler(scales=(2, 4)))
    assert np.asarray(pipe(photo(), scale=3).images[0]).shape == (120, 168, 3)


def test_a_long_one_can_be_stopped(folder, monkeypatch):
    """The callback comes before each part, as it does after each step of the transformer."""
    monkeypatch.setattr(superresolution, "_PART", 16)
    seen = []
    load_pipeline(UpscalePipeline, folder)(
        photo(), callback_on_step_end=lambda pipe, i, t, tensors: seen.append(i) or tensors
    )
    assert seen == list(range(12))


# ------------------------------------------------------------------------------------------------------------ training


def stage(*overrides):
    settings = ["data.drawn=6", "data.short_side=160", "data.crop=20", "model.channels=32", "model.depth=1"]
    return training.SuperresolutionStage(config.load(training.Config, None, [*settings, *overrides]), World())


def test_pairs_are_a_picture_and_the_same_scaled_down():
    made = stage()
    for scale in (2, 3, 4):
        pairs = made._pairs(scale, 3, torch.Generator().manual_seed(scale))
        again = made._pairs(scale, 3, torch.Generator().manual_seed(scale))
        assert torch.equal(pairs.low, again.low) and torch.equal(pairs.high, again.high)
        assert pairs.low.shape == (3, 3, 20, 20) and pairs.high.shape == (3, 3, 20 * scale, 20 * scale)
        levels = (pairs.low + 1) * 127.5
        assert (levels - levels.round()).abs().max() < 1e-3, "eight bits, as a file has them"
        down = superresolution.F.interpolate(pairs.high, size=(20, 20), mode="bicubic", antialias=True)
        assert (down.clamp(-1, 1) - pairs.low).abs().max() < 1 / 127.5


def test_crops_with_detail_are_preferred():
    from photofound.training.superresolution import SuperresolutionStage

    def energy(made: SuperresolutionStage) -> float:
        crops = made._detailed(40, 64, torch.Generator().manual_seed(0))
        return float((crops[..., 1:] - crops[..., :-1]).abs().mean())

    assert energy(stage("data.candidates=4")) > 1.2 * energy(stage("data.candidates=1"))


def test_degraded_pairs_are_degraded():
    clean, poor = (stage(f"data.degraded={share}")._pairs(2, 8, torch.Generator().manual_seed(0)) for share in (0, 1))
    assert torch.equal(clean.high, poor.high)
    changed = (clean.low - poor.low).abs().amax((1, 2, 3)) > 2 / 255
    assert changed.sum() >= 6


def test_a_perceptual_distance_joins_the_loss(tmp_path):
    from safetensors.torch import save_file

    from photofound.model.vision import PerceptualNet
    from photofound.train.losses import perceptual_distance

    net = PerceptualNet()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    made = stage("loss.perceptual=0.5", f"data.perceptual={tmp_path / 'net.safetensors'}")
    pairs = made._pairs(4, 2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        (plain, _), (total, logs) = stage().loss(pairs), made.loss(pairs)
        distance = perceptual_distance(net, enlarge(pairs.low, 4).clamp(-1, 1), pairs.high).mean()
    assert distance > 0 and float(logs["perceptual"]) == pytest.approx(float(distance), rel=1e-4)
    assert float(total - plain) == pytest.approx(0.5 * float(distance), rel=1e-3)


@pytest.mark.slow
def test_training_beats_interpolation_and_leaves_a_model(tmp_path):
    settings = ["model.scales=[2, 4]", "data.shares=[0.7, 0.3]", "train.steps=100", "train.batch_size=8"]
    settings += ["train.warmup_steps=5", "train.lr=0.003", "train.ema=0.9", "train.optimizer=muon"]
    settings += ["train.weight_decay=0.0", "train.precision=fp32", "train.trackers=[]"]
    made = stage(*settings, "train.schedule=cosine")
    run = Trainer(made.config.train, made, tmp_path)
    before = made.validate()
    assert run.run() and max(abs(float(v)) for v in before.values()) < 1e-3
    model = Upscaler.from_pretrained(tmp_path / "model" / "upscaler")
    made.model.load_state_dict(model.state_dict())
    gains = {name: float(value) for name, value in made.validate().items()}
    assert set(gains) == {"validation_x2", "validation_x4"} and min(gains.values()) > 0.03
    assert (tmp_path / "model" / "training.json").is_file()


def test_mistakes_are_said_in_a_line():
    with pytest.raises(ValueError, match="data.shares: 2 shares for 3 scales; give one each"):
        stage("data.shares=[0.5, 0.5]")
    with pytest.raises(ValueError, match="loss.perceptual: 0.1 does nothing without data.perceptual"):
        stage("loss.perceptual=0.1")
    with pytest.raises(ValueError, match="data: no photograph is 400 px wide and high, as a crop is"):
        stage("data.crop=100")
