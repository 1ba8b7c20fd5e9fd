"""The published additions to the loss."""

import pytest
import torch
from stages import loss_of, new_stage, overrides

from photofound import config
from photofound.train.distributed import World
from photofound.training.pretrain import Config, PretrainStage

pytestmark = pytest.mark.slow


@pytest.fixture
def stage(tiny_folder, shards):
    return PretrainStage(config.load(Config, None, overrides(tiny_folder, shards)), World())


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
    stage.recipe.projector = lambda tokens, grid: tokens
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
    with pytest.raises(ValueError, match="recipe.tread, .* depth of at least 6, and this is 3"):
        new_stage(tiny_folder, shards, "--recipe.tread=0.5", "--model.depth=3")
