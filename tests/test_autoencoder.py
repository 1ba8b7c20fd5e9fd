"""Every kind of autoencoder behind the same four functions, with the scaling done by hand."""

from __future__ import annotations

from copy import deepcopy
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny

from photofound.model import autoencoder, deep_compression


def tiny_dc(**config):
    torch.manual_seed(0)
    widths = (8, 8, 8, 16)
    return AutoencoderDC(
        latent_channels=4,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(0, 1, 1, 1),
        decoder_layers_per_block=(0, 1, 1, 1),
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
        **config,
    ).eval()


def tiny_kl(**config):
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 8),
        layers_per_block=1,
        latent_channels=5,
        norm_num_groups=2,
        **config,
    ).eval()


def tiny_taesd(**config):
    torch.manual_seed(0)
    return AutoencoderTiny(
        encoder_block_out_channels=(4, 4, 4),
        decoder_block_out_channels=(4, 4, 4),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=7,
        **config,
    ).eval()


def pixels():
    return torch.rand(2, 3, 32, 40) * 2 - 1


KINDS = {"dc": (tiny_dc, 8, 4), "kl": (tiny_kl, 4, 5), "tiny": (tiny_taesd, 4, 7)}


@pytest.mark.parametrize("kind", KINDS)
def test_factor_and_channels_are_those_of_the_latents(kind):
    make, f, c = KINDS[kind]
    vae = make()
    assert (autoencoder.factor(vae), autoencoder.channels(vae)) == (f, c)
    with torch.no_grad():
        latents = autoencoder.encode(vae, pixels())
        assert latents.shape == (2, c, 32 // f, 40 // f)
        decoded = autoencoder.decode(vae, latents)
    assert decoded.shape == (2, 3, 32, 40) and decoded.dtype == torch.float32


def raw_latents(vae, x):
    """What the encoder itself says, each class in its own way."""
    if isinstance(vae, AutoencoderKL):
        return vae.encode(x).latent_dist.mean
    return vae.encode(x, return_dict=False)[0]


@pytest.mark.parametrize(
    "kind, config, scale, shift",
    [
        ("dc", {"scaling_factor": 0.4}, 0.4, 0.0),
        ("kl", {"scaling_factor": 0.3, "shift_factor": 0.12}, 0.3, 0.12),
        ("kl", {"scaling_factor": 0.3, "shift_factor": None}, 0.3, 0.0),
        ("tiny", {"scaling_factor": 2.0}, 2.0, 0.0),
        ("tiny", {"scaling_factor": 0.5, "shift_factor": -0.2}, 0.5, -0.2),
    ],
)
@torch.no_grad()
def test_latents_are_shifted_then_scaled_and_back(kind, config, scale, shift):
    vae = KINDS[kind][0](**config)
    x = pixels()
    raw = raw_latents(vae, x)
    latents = autoencoder.encode(vae, x)
    assert torch.allclose(latents, (raw - shift) * scale, atol=1e-6)
    expected = vae.decode(raw, return_dict=False)[0].clamp(-1, 1)
    assert torch.allclose(autoencoder.decode(vae, latents), expected, atol=1e-5)


@torch.no_grad()
def test_encoding_is_a_function():
    vae, x = tiny_kl(), pixels()
    assert torch.equal(autoencoder.encode(vae, x), autoencoder.encode(vae, x))


@torch.no_grad()
def test_decoded_pixels_are_clamped_and_float32():
    vae = tiny_kl().to(torch.bfloat16)
    vae.decoder.conv_out.weight.mul_(1e3)
    latents = autoencoder.encode(vae, pixels())
    assert latents.dtype == torch.bfloat16  # given float32 pixels
    decoded = autoencoder.decode(vae, latents.float())
    assert decoded.dtype == torch.float32 and decoded.min() == -1 and decoded.max() == 1


def test_gradients_reach_the_pixels():
    x = pixels().requires_grad_()
    autoencoder.encode(tiny_dc(), x).square().sum().backward()
    assert x.grad.abs().sum() > 0


def test_without_an_autoencoder_pixels_are_latents():
    x = pixels() * 2
    assert (autoencoder.factor(None), autoencoder.channels(None)) == (1, 3)
    assert autoencoder.encode(None, x) is x
    assert torch.equal(autoencoder.decode(None, x), x.clamp(-1, 1))
    assert autoencoder.decode(None, x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("make", [tiny_dc, tiny_taesd])
@pytest.mark.parametrize("size", [(88, 40), (64, 96)])
@torch.no_grad()
def test_windows_leave_no_trace(make, size, monkeypatch):
    """Coded window by window or in one piece: the same numbers, whether or not windows divide the size."""
    vae = make()
    f = autoencoder.factor(vae)
    x = torch.rand(1, 3, size[0] * f // 4, size[1] * f // 4) * 2 - 1
    latents = autoencoder.encode(vae, x)
    whole = autoencoder.decode(vae, latents)
    monkeypatch.setattr(autoencoder, "_WINDOW", 5)
    assert torch.allclose(autoencoder.encode(vae, x), latents, atol=1e-5)
    assert torch.allclose(autoencoder.decode(vae, latents), whole, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_norms_give_the_same_pictures(dtype, tmp_path):
    vae = tiny_dc().to(dtype)
    for name, weight in vae.named_parameters():  # a norm fresh from the shop has nothing to be wrong about
        if "norm" in name:
            weight.uniform_(0.5, 1.5)
    photograph = pixels()
    latents = autoencoder.encode(vae, photograph)
    decoded = autoencoder.decode(vae, latents)
    fast = deepcopy(vae)
    deep_compression.use_fast_blocks(fast)
    replaced = [type(module).__name__ for module in fast.modules()].count("ChannelNorm")
    assert replaced == 7 and list(fast.state_dict()) == list(vae.state_dict())
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(autoencoder.encode(fast, photograph), latents, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(autoencoder.decode(fast, latents), decoded, rtol=tolerance, atol=tolerance)
    assert len(ForkingPickler.dumps(fast)) > 1000, "it goes to another process"
    fast.save_pretrained(tmp_path)
    again = autoencoder.load(str(tmp_path)).to(dtype)
    assert torch.equal(autoencoder.decode(again, latents), decoded)


@torch.no_grad()
def test_autoencoders_that_look_far_are_never_cut(monkeypatch):
    """Group norms see the whole picture: windows would show."""
    vae, x = tiny_kl(), torch.rand(1, 3, 64, 64) * 2 - 1
    whole = autoencoder.encode(vae, x)
    monkeypatch.setattr(autoencoder, "_WINDOW", 2)
    monkeypatch.setattr(autoencoder, "_MARGIN", 1)
    assert torch.equal(autoencoder.encode(vae, x), whole)


def test_any_autoencoder_is_loaded_by_its_own_class_and_none_is_pixel_space(tmp_path):
    AutoencoderTiny(latent_channels=4).save_pretrained(tmp_path / "tiny")
    loaded = autoencoder.load(str(tmp_path / "tiny"))
    assert isinstance(loaded, AutoencoderTiny) and autoencoder.channels(loaded) == 4
    assert autoencoder.load("none") is None and autoencoder.load(None) is None


def test_what_is_no_autoencoder_is_refused_in_a_line(tmp_path):
    from diffusers import PRXTransformer2DModel

    with pytest.raises(
        FileNotFoundError, match="model.vae: .*nowhere does not exist; name a diffusers folder, or none"
    ):
        autoencoder.load(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="model.vae: .* cannot be loaded"):
        autoencoder.load(str(tmp_path))
    small = {"hidden_size": 16, "num_heads": 2, "depth": 1, "axes_dim": [4, 4], "context_in_dim": 8}
    PRXTransformer2DModel(**small).save_pretrained(tmp_path / "prx")
    with pytest.raises(ValueError, match="is a PRXTransformer2DModel, which is no autoencoder"):
        autoencoder.load(str(tmp_path / "prx"))


def test_an_outline_has_the_shape_without_the_weights(tmp_path):
    vae = AutoencoderTiny(latent_channels=4)
    vae.save_config(tmp_path)
    outline = autoencoder.outline(str(tmp_path))
    assert {p.device.type for p in outline.parameters()} == {"meta"}
    assert (autoencoder.factor(outline), autoencoder.channels(outline)) == (8, 4)
    far = autoencoder.outline("owner/name", (32, 16))
    assert (autoencoder.factor(far), autoencoder.channels(far)) == (16, 32)
    assert autoencoder.outline("none", (32, 16)) is None
    with pytest.raises(ValueError, match=r"model.latent: owner/name is not here; set its \[channels"):
        autoencoder.outline("owner/name")


def test_the_embedded_one_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outline = autoencoder.outline("embedded")
    assert (autoencoder.factor(outline), autoencoder.channels(outline)) == (8, 16)
    assert autoencoder.channels(autoencoder.load("embedded")) == 16
