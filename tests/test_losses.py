"""Routes, alignment and perceptual losses by their formulas; vision models of many kinds; the adversarial losses."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from photofound.model import vision
from photofound.model.vision import Patches, PerceptualNet, load_vision_model
from photofound.train.losses import (
    PatchDiscriminator,
    Projector,
    adversarial_losses,
    alignment_loss,
    patch_distance,
    perceptual_distance,
    sample_grid_route,
    sample_route,
)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return PerceptualNet()


def pictures(count=2, size=48):
    return torch.rand(count, 3, size, size) * 2 - 1


def test_the_layers_are_squeezenets(net):
    taps = net(pictures(1, 64))
    # conv1 7x7/2 without padding, then 3x3/2 pools (rounded up) after conv1, fire4 and fire8.
    assert [tuple(tap.shape[1:]) for tap in taps] == [
        (96, 29, 29),
        *[(c, 14, 14) for c in (128, 128, 256)],
        *[(c, 7, 7) for c in (256, 384, 384, 512)],
        (512, 3, 3),
    ]
    assert sum(p.numel() for p in net.parameters()) == 735_424  # 1,248,424 less the classifier's 513,000
    assert all((tap >= 0).all() for tap in taps)


def test_it_is_frozen_in_evaluation_mode_and_gradients_pass_through(net):
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    x = pictures().requires_grad_()
    net(x)[-1].sum().backward()
    assert x.grad.abs().sum() > 0


def test_pixels_become_bgr_less_the_mean():
    """conv1 turned into a window that passes its middle pixel's channels through."""
    net = PerceptualNet()
    nn.init.zeros_(net.conv1.weight)
    nn.init.zeros_(net.conv1.bias)
    for c in range(3):
        net.conv1.weight[c, c, 3, 3] = 1
        net.conv1.weight[3 + c, c, 3, 3] = -1  # what the ReLU cuts off
    x = pictures(1)
    first = net(x)[0]
    seen = first[:, :3] - first[:, 3:6]
    rgb = (x[..., 3:-3:2, 3:-3:2] + 1) / 2 * 255
    for channel, (which, mean) in enumerate(((2, 104), (1, 117), (0, 123))):  # blue, green, red
        assert torch.allclose(seen[:, channel], rgb[:, which] - mean, atol=1e-3)


def test_a_fire_module_by_hand(net):
    fire = net.fire3
    x = torch.rand(1, 128, 5, 5)
    squeezed = F.relu(
        torch.einsum("oc,bchw->bohw", fire.squeeze.weight[:, :, 0, 0], x) + fire.squeeze.bias[:, None, None]
    )
    wide = F.unfold(squeezed, 3, padding=1).view(1, 16, 9, 5, 5)
    small = (
        torch.einsum("oc,bchw->bohw", fire.expand1x1.weight[:, :, 0, 0], squeezed) + fire.expand1x1.bias[:, None, None]
    )
    large = torch.einsum("ock,bckhw->bohw", fire.expand3x3.weight.flatten(2), wide) + fire.expand3x3.bias[:, None, None]
    assert torch.allclose(fire(x), F.relu(torch.cat([small, large], 1)), atol=1e-4)


def test_the_distance_is_zero_for_equal_pictures_symmetric_and_per_sample(net):
    a, b = pictures(), pictures()
    b[1] = a[1]
    distance = perceptual_distance(net, a, b)
    assert distance.shape == (2,) and distance[0] > 0.01 and distance[1] == 0
    assert torch.allclose(distance, perceptual_distance(net, b, a))
    assert torch.allclose(distance[:1], perceptual_distance(net, a[:1], b[:1]), rtol=1e-4)


def test_the_distance_grows_with_the_difference(net):
    a = pictures(1).expand(4, -1, -1, -1)
    noisy = a + torch.tensor([0.0, 0.05, 0.2, 0.8])[:, None, None, None] * torch.randn(3, 48, 48)
    assert (perceptual_distance(net, a, noisy).diff() > 0).all()


def test_the_distance_by_hand():
    class Two(nn.Module):
        """Two taps: the picture itself and its half-size mean."""

        def forward(self, x):
            return [x, F.avg_pool2d(x, 2)]

    a, b = pictures(1, 4), pictures(1, 4)
    expected = 0.0
    for fa, fb in ((a, b), (F.avg_pool2d(a, 2), F.avg_pool2d(b, 2))):
        cosine = (fa * fb).sum(1) / (fa.norm(dim=1) * fb.norm(dim=1))
        expected += float((2 - 2 * cosine).mean()) / 2  # squared distance of unit vectors
    assert perceptual_distance(Two(), a, b).item() == pytest.approx(expected, rel=1e-4)


def test_weights_come_from_a_file(net, tmp_path):
    state = {name: value.half() for name, value in net.state_dict().items()}
    state |= {"conv_final.weight": torch.zeros(2, 2), "conv_final.bias": torch.zeros(2)}  # the classifier is not read
    save_file(state, tmp_path / "net.safetensors")
    read = PerceptualNet.from_file(str(tmp_path / "net.safetensors"))
    assert all(torch.equal(value, net.state_dict()[name].half().float()) for name, value in read.state_dict().items())
    assert not read.training and not any(p.requires_grad for p in read.parameters())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="perceptual network: .*none.safetensors does not exist; name a SqueezeNet"
    ):
        PerceptualNet.from_file(tmp_path / "none.safetensors")


def without(state):
    del state["fire5.squeeze.bias"]


def with_more(state):
    state["head.weight"] = torch.zeros(1)


def with_another_shape(state):
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)  # SqueezeNet v1.1's


@pytest.mark.parametrize(
    "change, key", [(without, "fire5.squeeze.bias"), (with_more, "head.weight"), (with_another_shape, "conv1.weight")]
)
def test_another_networks_file_is_refused(net, tmp_path, change, key):
    state = dict(net.state_dict())
    change(state)
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=f"is not a SqueezeNet v1.0; it differs at .*{key}"):
        PerceptualNet.from_file(tmp_path / "net.safetensors")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    (tmp_path / "net.safetensors").write_bytes(b"not weights at all, but long enough to have a header")
    with pytest.raises(ValueError, match="net.safetensors is no safetensors file"):
        PerceptualNet.from_file(tmp_path / "net.safetensors")


def test_the_critic_judges_patches():
    critic = PatchDiscriminator(width=4)
    assert critic(pictures(2, 32)).shape == (2, 1, 4, 4)
    x = pictures(1, 64).requires_grad_()
    critic(x)[0, 0, 0, 0].backward()
    seen = x.grad.abs().sum((0, 1)).nonzero().amax(0)
    assert (seen < 40).all()  # one logit sees a patch only


def players():
    generator, critic = nn.Conv2d(3, 3, 1), PatchDiscriminator(width=4)
    return generator, critic, generator(pictures(2, 16)), pictures(2, 16)


def gradients(module):
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def test_each_loss_reaches_its_own_player_only():
    generator, critic, fake, real = players()
    for_generator, for_critic = adversarial_losses(critic, real, fake)
    for_generator.backward(retain_graph=True)
    assert all(g is not None and g.abs().sum() > 0 for g in gradients(generator))
    assert all(g is None for g in gradients(critic))
    generator.zero_grad()
    for_critic.backward()
    assert all(g is None for g in gradients(generator))
    assert all(g is not None for g in gradients(critic))


def test_one_backward_pass_is_both_players_turns():
    generator, critic, fake, real = players()
    sum(adversarial_losses(critic, real, fake)).backward(retain_graph=True)
    together = gradients(generator), gradients(critic)
    generator.zero_grad()
    critic.zero_grad()
    (-critic(fake).mean()).backward(retain_graph=True)
    alone = gradients(generator)
    critic.zero_grad()
    (F.relu(1 - critic(real)).mean() + F.relu(1 + critic(fake.detach())).mean()).backward()
    for got, expected in zip((*together[0], *together[1]), (*alone, *gradients(critic)), strict=True):
        assert torch.allclose(got, expected, atol=1e-6)


def test_the_hinge_by_hand():
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean((1, 2, 3))

    real, fake = (torch.full((2, 3, 4, 4), v) for v in (0.25, -3.0))
    for_generator, for_critic = adversarial_losses(Mean(), real, fake)
    assert for_generator.item() == 3.0 and for_critic.item() == 0.75  # the fake is beyond the margin and costs nothing


# ----------------------------------------------------------------------------------------------------- token routing


def test_a_route_is_a_uniform_choice_without_repeats():
    routes = sample_route(4000, 10, 0.3, torch.Generator().manual_seed(0))
    assert routes.shape == (4000, 7) and routes.dtype == torch.long
    assert (routes.diff(dim=1) > 0).all() and routes.min() == 0 and routes.max() == 9
    shares = torch.bincount(routes.flatten(), minlength=10) / 4000
    assert torch.allclose(shares, torch.full((10,), 0.7), atol=0.03)
    assert sample_route(1, 9, 0.5, torch.Generator()).shape == (1, 5)  # what is left out is rounded down


# ---------------------------------------------------------------------------------------- vision models and alignment


def vision_model(kind):
    """An untrained model of ``transformers``, its patch side and its width."""
    import transformers as tf

    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    pyramid = {"depths": [1, 1, 1, 1]}
    configs = {
        "Dinov2": (tf.Dinov2Config(**small, patch_size=14, image_size=42), 14, 16),
        "DINOv3ViT": (tf.DINOv3ViTConfig(**small, patch_size=8, image_size=24, num_register_tokens=3), 8, 16),
        "ViT": (tf.ViTConfig(**small, patch_size=8, image_size=24), 8, 16),
        "SiglipVision": (tf.SiglipVisionConfig(**small, patch_size=8, image_size=24), 8, 16),
        "CLIPVision": (tf.CLIPVisionConfig(**small, patch_size=8, image_size=24), 8, 16),
        "ConvNext": (tf.ConvNextConfig(**pyramid, hidden_sizes=[4, 4, 8, 8], image_size=96), 32, 8),
    }
    config, side, width = configs[kind]
    torch.manual_seed(0)
    return getattr(tf, kind + "Model")(config), side, width


@pytest.mark.parametrize("kind", ["Dinov2", "DINOv3ViT", "ViT", "SiglipVision", "CLIPVision", "ConvNext"])
def test_any_vision_model_gives_patches_on_the_grid_that_is_asked_for(kind, tmp_path):
    model, side, width = vision_model(kind)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    net = load_vision_model(tmp_path)
    assert (net.side, net.width, net.grid) == (side, width, (3, 3))
    x = pictures(2, 64).requires_grad_()
    assert net.patches(x).shape == (2, 9, width)
    features = net.patches(x, (2, 4))
    assert features.shape == (2, 8, width)
    features.sum().backward()
    assert x.grad.abs().sum() > 0 and not any(p.requires_grad for p in net.parameters())

    exact = pictures(1, 3 * side)  # at the model's own size nothing is resized: compare with the model itself
    options = {"interpolate_pos_encoding": True} if kind in ("ViT", "SiglipVision", "CLIPVision") else {}
    hidden = model.eval()(pixel_values=((exact + 1) / 2 - 0.5) / 0.25, **options).last_hidden_state
    hidden = hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden
    assert torch.allclose(net.patches(exact), hidden[:, hidden.shape[1] - 9 :], atol=1e-5)


def test_the_vision_half_of_a_pair_is_taken_and_imagenets_normalisation_where_none_is_named(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    config = CLIPConfig(
        text_config={**small, "vocab_size": 10}, vision_config={**small, "patch_size": 8, "image_size": 24}
    )
    CLIPModel(config).save_pretrained(tmp_path)
    net = Patches.from_pretrained(tmp_path)
    assert net.patches(pictures(1, 40)).shape == (1, 9, 16)
    assert torch.allclose(net.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))


def test_what_is_no_vision_model_is_refused_in_a_line(tmp_path):
    from photofound.model.text import build_byte_encoder

    with pytest.raises(FileNotFoundError, match="vision model: .*nowhere cannot be loaded"):
        load_vision_model(tmp_path / "nowhere")
    build_byte_encoder(16, 1, 2, 16)[1].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="vision model: .* is a T5.*, which does not look at pictures"):
        load_vision_model(tmp_path)


def test_the_squeezenet_file_is_a_vision_model_too(net, tmp_path):
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    read = load_vision_model(tmp_path / "net.safetensors")
    x = pictures(2, 96)
    own = read.patches(x)
    assert own.shape == (2, 25, read.width) and torch.equal(own, net(x)[-1].flatten(2).transpose(1, 2))
    assert read.patches(x, (12, 10)).shape == (2, 120, 512)
    assert torch.equal(read.patches(x, (5, 5)), own)


def test_features_are_put_on_another_grid_under_autocast():
    features = torch.rand(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        moved = vision._regrid(features.bfloat16(), (4, 4))
    exact = F.interpolate(features, size=(4, 4), mode="bilinear", antialias=True)
    assert (moved - exact.flatten(2).transpose(1, 2)).abs().max() < 0.01


def test_the_alignment_by_hand():
    a, b = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    cosines = [[float(a[i, n] @ b[i, n] / (a[i, n].norm() * b[i, n].norm())) for n in range(5)] for i in range(2)]
    assert alignment_loss(a, b).tolist() == pytest.approx([-sum(row) / 5 for row in cosines], rel=1e-4)
    assert torch.allclose(alignment_loss(a, 3 * a), torch.tensor([-1.0, -1.0]))  # lengths do not count


def test_the_projector_is_three_layers_with_silu():
    projector, x = Projector(8, 5), torch.randn(2, 3, 8)
    first, _, second, _, third = projector
    by_hand = third(F.silu(second(F.silu(first(x)))))
    assert torch.equal(projector(x), by_hand) and by_hand.shape == (2, 3, 5)
    assert first.out_features == second.out_features == 32 and Projector(1792, 768)[0].out_features == 2048


def test_p_dino_by_hand():
    class Quarters:
        """Four patches, each described by its mean colour."""

        width, side = 3, 14

        def patches(self, pixels, grid=None):
            self.grid = grid
            return F.adaptive_avg_pool2d(pixels, 2).flatten(2).transpose(1, 2)

    a, b = pictures(2, 8), pictures(2, 8)
    pa, pb = (F.adaptive_avg_pool2d(x, 2).flatten(2) for x in (a, b))
    cosine = (pa * pb).sum(1) / (pa.norm(dim=1) * pb.norm(dim=1))
    assert torch.allclose(patch_distance(Quarters(), a, b), 1 - cosine.mean(1), atol=1e-5)
    assert torch.allclose(patch_distance(Quarters(), a, a), torch.zeros(2), atol=1e-6)
    for shape, grid in (((512, 512), (16, 16)), ((64, 64), (16, 16)), ((512, 128), (32, 8))):  # 224 x 224 pixels
        net, picture = Quarters(), torch.rand(1, 3, *shape)
        patch_distance(net, picture, picture)
        assert net.grid == grid


@pytest.mark.parametrize(("skip", "side", "kept"), [(0.75, 2, 1), (0.5, 2, 2), (0.875, 4, 2)])
def test_a_grid_route_keeps_as_many_tokens_of_each_neighbourhood(skip, side, kept):
    """Counted on every shift of the grid, of which the route's is one: within one token where edges cut groups."""
    route = sample_grid_route(400, (8, 12), skip, torch.Generator().manual_seed(0))
    assert route.shape == (400, 96 - int(skip * 96)) and bool((route.diff(dim=1) > 0).all())
    seen, fits = torch.zeros(400, 96).scatter_(1, route, 1.0).view(400, 8, 12), []
    for y in range(side):
        for x in range(side):
            inner = seen[:, y : 8 - (side - y) % side or None, x : 12 - (side - x) % side or None]
            whole = inner.unfold(1, side, side).unfold(2, side, side).sum((-2, -1)).flatten(1)
            fits.append(((whole - kept).abs() <= (x > 0 or y > 0)).all(1))
    assert bool(torch.stack(fits).any(0).all()) and bool(fits[0].any())
    assert (seen.mean(0) - (1 - skip)).abs().max() < 0.12, "no place is preferred"
    assert not torch.equal(route[0], route[1])


def test_a_grid_route_takes_every_size():
    for grid, skip in (((3, 5), 0.75), ((1, 7), 0.5), ((6, 6), 0.6)):
        route = sample_grid_route(3, grid, skip, torch.Generator().manual_seed(0))
        tokens = grid[0] * grid[1]
        assert route.shape == (3, tokens - int(skip * tokens)) and int(route.max()) < tokens
