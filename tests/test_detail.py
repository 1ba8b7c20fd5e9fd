"""The detail network, its training, and what a pipeline does with it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import load_pipeline
from safetensors.torch import save_file
from skimage import data as pictures

from photofound import ExpandPipeline, InpaintPipeline, cli
from photofound.data import drawn, exemplars
from photofound.model.detail import DetailNetwork
from photofound.model.vision import PerceptualNet
from photofound.pipeline import EditPipeline
from photofound.train.losses import (
    FeatureCritic,
    balanced,
    distance_of_taps,
    feature_adversarial_losses,
    gradient_penalty,
)

TINY = {"widths": (8, 8), "blocks": (1, 1)}


def network(**options) -> DetailNetwork:
    torch.manual_seed(0)
    net = DetailNetwork(**{**TINY, **options})
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


def inputs(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    canvas, guess = (torch.rand(2, 3, height, width, generator=generator) * 2 - 1 for _ in range(2))
    hole = torch.zeros(2, 1, height, width)
    hole[..., height // 3 :, width // 4 :] = 1
    return canvas, guess, hole


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (1, 5), (3, 64)])
def test_what_is_given_comes_back_bit_for_bit_at_any_size(size):
    canvas, guess, hole = inputs(*size)
    painted, gate = network()(canvas, guess, hole)
    assert painted.shape == canvas.shape and gate.shape == hole.shape
    assert torch.equal(torch.where(hole > 0, 0, painted), torch.where(hole > 0, 0, canvas))
    assert ((gate >= 0) & (gate <= 1)).all()
    assert not torch.equal(painted, canvas)


def test_it_starts_halfway_between_canvas_and_guess():
    canvas, guess, hole = inputs(16, 16)
    painted, gate = DetailNetwork(**TINY)(canvas, guess, hole)
    assert torch.allclose(gate, torch.full_like(gate, 0.5))
    torch.testing.assert_close(painted, torch.where(hole > 0, (canvas + guess) / 2, canvas))


def test_far_pixels_do_not_depend_on_each_other():
    canvas, guess, hole = inputs(64, 64)
    net = network()
    before = net(canvas, guess, hole)[0]
    guess[..., -1, -1] += 1
    changed = (net(canvas, guess, hole)[0] != before).any(1)[0]
    assert changed[-1, -1] and not changed[22, 17], "a global operation is inside"


def test_a_shape_that_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="one number of blocks per width"):
        DetailNetwork(widths=(8, 8), blocks=(1,))


# ------------------------------------------------------------------------------------------------------------ pipeline


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """The tiny pipeline with a detail network that changes what it sees."""
    pipeline = EditPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
    pipeline.register_modules(detail=network())
    pipeline.save_pretrained(tmp_path / "detailed")
    return tmp_path / "detailed"


PHOTO = pictures.astronaut()[100:180, 180:276].copy()
MASK = np.zeros((80, 96), np.float32)
MASK[20:45, 30:60] = 1


def run(pipe, photo=PHOTO, seed=0, **inputs):
    return np.asarray(pipe(photo, generator=torch.Generator().manual_seed(seed), **inputs).images[0])


@pytest.mark.slow
def test_a_saved_detail_network_comes_back_and_paints(folder, tiny_folder):
    assert json.loads((folder / "model_index.json").read_text())["detail"] == [
        "photofound.detail",
        "DetailNetwork",
    ]
    detailed, plain = (run(load_pipeline(InpaintPipeline, each), mask_image=MASK) for each in (folder, tiny_folder))
    assert (detailed[MASK == 0] == PHOTO[MASK == 0]).all() and (plain[MASK == 0] == PHOTO[MASK == 0]).all()
    assert (detailed != plain).any()
    assert (detailed == run(load_pipeline(InpaintPipeline, folder), mask_image=MASK)).all(), "not the same again"


@pytest.mark.slow
def test_from_pipe_carries_it_and_kept_pixels_are_exact_when_expanding(folder):
    pipe = ExpandPipeline.from_pipe(load_pipeline(InpaintPipeline, folder))
    assert pipe.detail is not None
    wide = run(pipe, left=20, right=10)
    assert wide.shape == (80, 126, 3) and (wide[:, 20:116] == PHOTO).all()


@pytest.mark.slow
@pytest.mark.parametrize("canvas", ["harmonic", "exemplar"])
def test_large_holes_are_brought_to_the_photographs_size(folder, canvas):
    pipe = load_pipeline(InpaintPipeline, folder)
    pipe.register_to_config(canvas=canvas)
    photo = pictures.astronaut()[:300, :260].copy()
    mask = np.zeros((300, 260), np.float32)
    mask[60:240, 40:200] = 1
    result = run(pipe, photo, mask_image=mask)
    assert result.shape == photo.shape and (result[mask == 0] == photo[mask == 0]).all()


@pytest.mark.slow
def test_the_canvas_is_what_the_checkpoint_says(tiny_folder, monkeypatch):
    seen = {}

    def spy(self, condition, *args, **kwargs):
        seen[self.config.canvas] = condition.canvas.clone()
        return torch.zeros_like(condition.canvas)

    monkeypatch.setattr(EditPipeline, "sample", spy)
    for canvas in ("harmonic", "exemplar"):
        pipe = load_pipeline(InpaintPipeline, tiny_folder)
        pipe.register_to_config(canvas=canvas)
        run(pipe, mask_image=MASK)
    harmonic, exemplar = seen["harmonic"], seen["exemplar"]
    assert harmonic.shape == exemplar.shape and not torch.equal(harmonic, exemplar)

    def roughness(x):
        return float((x[..., 1:] - x[..., :-1]).abs().mean())

    assert roughness(exemplar) > roughness(harmonic), "exemplars are sharper than a smooth filling"


def test_an_unknown_canvas_is_refused(tiny_folder):
    parts = EditPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32).components
    with pytest.raises(ValueError, match="canvas: 'blurred' is unknown; use harmonic or exemplar"):
        EditPipeline(**parts, canvas="blurred")


# ------------------------------------------------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of exemplar samples, four to a shard."""
    folder = tmp_path_factory.mktemp("exemplars")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exemplars, "SHARD", 8)
        exemplars.write(drawn.store(6, (72,)), folder, 16, exemplars.Plan(crop=64), workers=1)
    return folder


@pytest.fixture(scope="module")
def perceptual(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("net") / "squeeze.safetensors"
    save_file(PerceptualNet().state_dict(), path)
    return path


@pytest.mark.slow
def test_the_command_trains_saves_and_loads(made, perceptual, tiny_folder, tmp_path, capfd):
    command = ["train", "detail", f"--run_dir={tmp_path / 'run'}", f"--model.start={tiny_folder}"]
    command += [f"--data.exemplars=[{made}]", f"--data.perceptual={perceptual}", "--data.hold_out=4"]
    command += ["--model.widths=[8, 8]", "--model.blocks=[1, 1]", "--loss.adversarial_from=0.0"]
    command += ["--train.steps=3", "--train.batch_size=4", "--train.warmup_steps=1", "--train.trackers=[]"]
    assert cli.main([*command, "--train.log_every=1", "--train.validate_every=2"]) == 0, capfd.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"l1", "psnr", "perceptual", "generator", "critic"} <= set(lines[-1])
    assert any("val_ratio" in line for line in lines)
    loaded = DetailNetwork.from_pretrained(tmp_path / "run" / "model" / "detail")
    assert list(loaded.config.widths) == [8, 8]


def test_training_without_samples_says_what_to_do(tiny_folder, tmp_path, capfd):
    assert cli.main(["train", "detail", f"--run_dir={tmp_path}", f"--model.start={tiny_folder}"]) == 2
    assert "prepare --exemplars" in capfd.readouterr().err


# -------------------------------------------------------------------------------------------------------------- losses


def taps(seed: int, requires_grad: bool = False) -> list[torch.Tensor]:
    """Feature maps like those of the perceptual network, at few positions."""
    generator = torch.Generator().manual_seed(seed)
    widths = (96, 128, 128, 256, 256, 384, 384, 512, 512)
    return [torch.randn(2, width, 4, 4, generator=generator).requires_grad_(requires_grad) for width in widths]


def test_the_distance_is_that_of_directions_and_so_is_its_gradient():
    a, b = taps(0, True), taps(1)
    a[0].data[0, :, 0, 0] = 0  # no direction at all
    distance = distance_of_taps(a, b)
    unit = torch.nn.functional.normalize
    wanted = torch.stack(
        [
            (unit(x, dim=1, eps=1e-6) - unit(y, dim=1, eps=1e-6)).square().sum(1).mean((1, 2))
            for x, y in zip(a, b, strict=True)
        ]
    ).mean(0)
    torch.testing.assert_close(distance, wanted, rtol=1e-4, atol=1e-5)
    mine = torch.autograd.grad(distance.sum(), a[1:])
    theirs = torch.autograd.grad(wanted.sum(), a[1:])
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-7)


@pytest.mark.slow
def test_the_critic_learns_to_tell_and_only_where_it_is_asked():
    critic = FeatureCritic(8)
    real, fake = taps(0), taps(1)
    optimizer = torch.optim.Adam(critic.parameters(), 0.01)
    first = None
    for _ in range(40):
        _, loss = feature_adversarial_losses(critic, real, fake)
        first = float(loss.detach()) if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * first
    nowhere = torch.zeros(2, 1, 8, 8)
    assert all(float(x) == 0 for x in feature_adversarial_losses(critic, real, fake, nowhere))


def test_the_generators_term_does_not_train_the_critic_and_the_critics_not_the_picture():
    critic, real, fake = FeatureCritic(8), taps(0), taps(1, True)
    generator, judged = feature_adversarial_losses(critic, real, fake)
    assert all(
        x is None
        for x in torch.autograd.grad(generator, list(critic.parameters()), allow_unused=True, retain_graph=True)
    )
    assert all(x is None for x in torch.autograd.grad(judged, fake, allow_unused=True))


def test_the_penalty_is_the_squared_gradient_and_trains_the_critic():
    critic, real = FeatureCritic(4), taps(0)
    penalty = gradient_penalty(critic, real)
    penalty.backward()
    assert float(penalty.detach()) > 0 and any(p.grad is not None and p.grad.any() for p in critic.parameters())
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()
    assert float(gradient_penalty(critic, real).detach()) == 0


def test_a_balanced_term_pulls_as_hard_as_the_loss_and_its_own_way():
    at = torch.randn(3, 4, requires_grad=True) * 1.0
    loss, term = at.square().sum(), (1000 * at).sum()
    both = balanced(term, loss, at)
    assert torch.isclose(both.detach(), term.detach())
    (pull,) = torch.autograd.grad(both, at, retain_graph=True)
    (wanted,) = torch.autograd.grad(loss, at)
    torch.testing.assert_close(pull.norm(), wanted.norm())
    assert (pull > 0).all()
