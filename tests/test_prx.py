"""A small random PRX pipeline, saved by diffusers, becomes an editing pipeline that generates the same."""

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    PRXPipeline,
    PRXPixelPipeline,
    PRXTransformer2DModel,
)
from safetensors.torch import load_file, save_file
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaConfig
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from photofound.model.prx import convert_prx
from photofound.model.transformer import EditTransformer

WIDTH = 16


def text_encoder() -> T5GemmaEncoder:
    half = {"vocab_size": 40, "hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}  # fmt: skip
    return T5GemmaEncoder(T5GemmaConfig(encoder=half, decoder=half, vocab_size=40).encoder).eval()


def tokenizer() -> transformers.PreTrainedTokenizerBase:
    symbols = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    return transformers.GemmaTokenizer(vocab=vocabulary, merges=[], model_max_length=12)


def transformer(**changes) -> PRXTransformer2DModel:
    config = {"in_channels": 4, "context_in_dim": WIDTH, "hidden_size": 32, "num_heads": 2, "depth": 2,
              "axes_dim": [8, 8], **changes}  # fmt: skip
    model = PRXTransformer2DModel(**config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4,
        norm_num_groups=4,
        latent_channels=4,
        shift_factor=0.1,
    ).eval()


@pytest.fixture(scope="module")
def parts() -> dict:
    torch.manual_seed(0)
    return {
        "transformer": transformer(),
        "vae": autoencoder(),
        "text_encoder": text_encoder(),
        "tokenizer": tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


@pytest.fixture
def source(parts, tmp_path) -> Path:
    PRXPipeline(**parts).save_pretrained(tmp_path / "prx")
    return tmp_path / "prx"


@torch.no_grad()
def test_the_converted_pipeline_generates_what_prx_does(parts, source, tmp_path):
    folder = convert_prx(source, tmp_path / "ours")
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "EditPipeline"
    assert index["transformer"] == ["photofound.transformer", "EditTransformer"]
    assert index["vae"] == ["diffusers", "AutoencoderKL"]
    assert index["scheduler"] == ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    assert index["default_sample_size"] == 512

    def load(name):
        library = {"diffusers": diffusers, "transformers": transformers}[index[name][0]]
        return getattr(library, index[name][1]).from_pretrained(folder / name)

    ours = EditTransformer.from_pretrained(folder / "transformer")
    assert ours.config.condition_channels == 4 + 8 * 8
    assert (ours.config.condition_space, ours.config.prediction_type) == ("latents", "velocity")
    assert list(ours.config.tasks) == ["generate", "outpaint", "inpaint", "expand", "erase", "upscale"]

    tokens = load("tokenizer")(["a red cup", ""], padding="max_length", return_tensors="pt")
    assert tokens.input_ids.shape == (2, 12) and len(tokens.input_ids.unique()) > 4
    assert torch.equal(
        tokens.input_ids, parts["tokenizer"](["a red cup", ""], padding="max_length", return_tensors="pt").input_ids
    )
    text = load("text_encoder")(**tokens).last_hidden_state
    torch.testing.assert_close(text, parts["text_encoder"](**tokens).last_hidden_state)

    call = (torch.randn(2, 4, 6, 4), torch.tensor([0.2, 0.9]), text, tokens.attention_mask)
    edits = {"condition": torch.randn(2, 68, 6, 4), "task": torch.tensor([0, 5]), "strength": torch.tensor([0.3, 1.0])}
    expected = parts["transformer"](*call).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(*call, **edits).sample, expected, atol=1e-5, rtol=0)

    torch.testing.assert_close(load("vae").decode(call[0]).sample, parts["vae"].decode(call[0]).sample)
    assert load("scheduler").config.shift == 3.0


def test_a_diffusers_pipeline_loads_it(source, tmp_path):
    class EditPipeline(diffusers.DiffusionPipeline):
        def __init__(self, transformer, vae, text_encoder, tokenizer, scheduler):
            super().__init__()
            self.register_modules(
                transformer=transformer, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
            )

    folder = convert_prx(source, tmp_path / "ours")
    pipe = EditPipeline.from_pretrained(folder)
    assert isinstance(pipe.transformer, EditTransformer)
    pipe.save_pretrained(tmp_path / "again")
    assert isinstance(EditPipeline.from_pretrained(tmp_path / "again").transformer, EditTransformer)


def test_tasks_channels_and_dtype(parts, tmp_path):
    half = PRXPipeline(**{**parts, "transformer": transformer().bfloat16()})
    half.save_pretrained(tmp_path / "prx")
    folder = convert_prx(
        str(tmp_path / "prx"), str(tmp_path / "ours"), tasks=["generate", "erase"], condition_channels=9
    )
    weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert weights["condition_in.weight"].shape == (32, 9 * 4)
    assert weights["heads.weight"].shape[0] == 2
    text = load_file(folder / "text_encoder" / "model.safetensors")
    assert {tensor.dtype for tensor in text.values()} == {torch.float32}


@torch.no_grad()
def test_pixel_pipeline(parts, tmp_path):
    prx = transformer(in_channels=3, patch_size=4, bottleneck_size=8, resolution_embeds=True)
    config = transformers.T5Config(vocab_size=40, d_model=WIDTH, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    encoder = transformers.T5EncoderModel(config).eval()
    pipe = PRXPixelPipeline(prx, parts["scheduler"], encoder, parts["tokenizer"], noise_scale=2.0)
    pipe.save_pretrained(tmp_path / "prx")
    folder = convert_prx(tmp_path / "prx", tmp_path / "ours")
    index = json.loads((folder / "model_index.json").read_text())
    assert index["vae"] == [None, None] and index["noise_scale"] == 2.0
    assert index["text_encoder"] == ["transformers", "T5EncoderModel"]
    ours = EditTransformer.from_pretrained(folder / "transformer")
    assert ours.config.condition_channels == 4
    assert (ours.config.condition_space, ours.config.prediction_type) == ("pixels", "sample")
    call = (torch.randn(1, 3, 8, 12), torch.tensor([0.4]), torch.randn(1, 5, WIDTH))
    torch.testing.assert_close(ours(*call).sample, prx(*call).sample, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_text_encoder_with_the_configuration_of_both_halves(parts, source, tmp_path):
    half = parts["text_encoder"].config.to_dict()
    T5GemmaConfig(encoder=half, decoder=half, vocab_size=40).save_pretrained(source / "text_encoder")  # as on the Hub
    folder = convert_prx(source, tmp_path / "ours")
    ours = transformers.T5GemmaEncoderModel.from_pretrained(folder / "text_encoder")
    ids = torch.tensor([[6, 7, 8]])
    torch.testing.assert_close(ours(ids).last_hidden_state, parts["text_encoder"](ids).last_hidden_state)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("suffix", ["bin", "pt", "ckpt"])
def test_pickles_are_refused(source, tmp_path, suffix):
    (source / "text_encoder" / f"model.{suffix}").write_bytes(b"never opened")
    with pytest.raises(ValueError, match=f"model.{suffix} is a pickle.*safetensors"):
        convert_prx(source, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def drop_one(path: Path) -> None:
    weights = load_file(path)
    weights.pop(sorted(weights)[0])
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("harm", [damage, drop_one])
@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_damaged_weights_leave_nothing_behind(source, tmp_path, part, harm):
    harm(next((source / part).glob("*.safetensors")))
    with pytest.raises(ValueError, match=f"{part}.*download or save it again"):
        convert_prx(source, tmp_path / "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prx"]


def test_a_failure_while_writing_leaves_nothing_behind(source, tmp_path, monkeypatch):
    def fail(self, folder):
        raise OSError("disk full")

    monkeypatch.setattr(FlowMatchEulerDiscreteScheduler, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        convert_prx(source, tmp_path / "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prx"]


def test_what_is_missing_is_named(source, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        convert_prx(tmp_path / "nowhere", tmp_path / "ours")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"model_index\.json"):
        convert_prx(tmp_path / "empty", tmp_path / "ours")
    next((source / "vae").glob("*.safetensors")).unlink()
    with pytest.raises(FileNotFoundError, match="vae has no safetensors"):
        convert_prx(source, tmp_path / "ours")


def test_a_hub_id_that_cannot_be_had_is_named(tmp_path, monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(FileNotFoundError, match=r"Photoroom/nothing is neither .*: offline$"):
        convert_prx("Photoroom/nothing", tmp_path / "ours")


def test_an_output_in_use_is_left_alone(source, tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "precious.txt").write_text("keep")
    with pytest.raises(ValueError, match="ours is already there"):
        convert_prx(source, tmp_path / "ours")
    assert (tmp_path / "ours" / "precious.txt").read_text() == "keep"


def test_parts_that_do_not_belong_together_are_refused(source, parts, tmp_path):
    PRXPipeline(**{**parts, "transformer": transformer(in_channels=8)}).save_pretrained(tmp_path / "mixed")
    with pytest.raises(ValueError, match="4 latent channels and the transformer 8"):
        convert_prx(tmp_path / "mixed", tmp_path / "ours")
    PRXPipeline(**{**parts, "vae": None}).save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="4 channels but the pipeline has no vae"):
        convert_prx(tmp_path / "bare", tmp_path / "ours")


# ----------------------------------------------------------------------------------------------- what it can do at once

PROMPTS = ("A Red Cup & #12 (best offer) HTTP://shop.com", "two dogs")


def pictures_of(pipe, prompt: str, **settings) -> np.ndarray:
    return np.asarray(pipe(prompt=prompt, generator=torch.Generator().manual_seed(3), **settings).images[0], np.int16)


@pytest.mark.slow
@pytest.mark.parametrize("prompt", PROMPTS)
def test_generate_gives_the_pictures_of_prx(parts, source, tmp_path, prompt):
    """Resolution, steps, guidance, noise levels and the cleaning of prompts are PRX's without being told."""
    from photofound import GeneratePipeline

    theirs = PRXPipeline(**parts)
    theirs.set_progress_bar_config(disable=True)
    ours = GeneratePipeline.from_pretrained(convert_prx(source, tmp_path / "ours"), torch_dtype=torch.float32)
    ours.set_progress_bar_config(disable=True)
    assert (ours.config.tile, ours.config.default_steps, ours.config.default_guidance) == (512, 28, 4.0)
    ours.register_to_config(tile=64)  # 512 pixels would take long
    few = {"num_inference_steps": 3}
    wanted = pictures_of(theirs, prompt, height=64, width=64, use_resolution_binning=False, **few)
    made = pictures_of(ours, prompt, size=(64, 64), **few)
    assert wanted.std() > 3 and np.abs(made - wanted).max() <= 1
    plain = pictures_of(ours, prompt.lower()[:5], size="64x64", **few)
    assert np.abs(plain - wanted).max() > 1


def test_generate_gives_the_pictures_of_prx_in_pixels(parts, tmp_path):
    from photofound import GeneratePipeline

    prx = transformer(in_channels=3, patch_size=4, bottleneck_size=8)
    encoder = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=40, d_model=WIDTH, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    ).eval()
    theirs = PRXPixelPipeline(prx, parts["scheduler"], encoder, parts["tokenizer"], prompt_max_tokens=9)
    theirs.save_pretrained(tmp_path / "prx")
    folder = convert_prx(tmp_path / "prx", tmp_path / "ours")
    ours = GeneratePipeline.from_pretrained(folder, torch_dtype=torch.float32)
    assert (ours.config.tile, ours.config.noise_scale, ours.config.prompt_tokens) == (1024, 2.0, 9)
    assert ours.config.prompt_cleaning == "light"
    for pipe in (theirs, ours):
        pipe.set_progress_bar_config(disable=True)
    few = {"num_inference_steps": 3, "guidance_scale": 2.0}
    wanted = pictures_of(theirs, "A Red CUP", height=32, width=32, use_resolution_binning=False, **few)
    ours.register_to_config(tile=32)
    made = pictures_of(ours, "A Red CUP", size="32x32", **few)
    assert wanted.std() > 3 and np.abs(made - wanted).max() <= 1


@pytest.mark.slow
def test_a_converted_model_edits_at_once(source, tmp_path):
    """Untrained heads are not used: the hole is painted as text to image, and what is given is put back every step."""
    from photofound import EditPipeline, Picture, Request

    pipe = EditPipeline.from_pretrained(convert_prx(source, tmp_path / "ours"), torch_dtype=torch.float32)
    assert not pipe.is_trained("inpaint") and pipe.is_trained("generate")
    pipe.register_to_config(tile=64)
    photos = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8) for i in range(2)]
    mask = np.zeros((64, 64), np.float32)
    mask[16:48, 16:48] = 1
    made = [
        pipe.answer(Request("inpaint", Picture.from_any(photo), {"mask_image": mask, "prompt": "a cup"}, 1, 3)).images[
            0
        ]
        for photo in photos
    ]
    for photo, picture in zip(photos, made, strict=True):
        assert (picture.pixels[mask == 0] == photo[mask == 0]).all()
    assert (made[0].pixels[mask == 1] != made[1].pixels[mask == 1]).any(), "the fill knows what is around it"
    subject = 1 - mask
    for photo in photos:
        kept = pipe.answer(Request("outpaint", Picture.from_any(photo), {"subject": subject, "prompt": "x"}, 1, 2))
        assert (kept.images[0].pixels[subject == 1] == photo[subject == 1]).all()
    with pytest.raises(ValueError, match="upscale: this model has not learnt it"):
        pipe.answer(Request("upscale", Picture.from_any(photos[0])))
