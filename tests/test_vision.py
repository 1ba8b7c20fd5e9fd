"""Networks that describe a picture or a prompt with one vector, with tiny models of transformers' own classes."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
import torch
from torchmetrics.functional.multimodal import clip_score
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, Dinov2Config, Dinov2Model

from photofound.eval import metrics
from photofound.model.vision import Inception, PerceptualNet, load_features

TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = TEXT | {"image_size": 32, "patch_size": 8}
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    words = [
        "<|startoftext|>",
        "<|endoftext|>",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"{c}</w>" for c in "abcdefghijklmno"),
    ]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    text = TEXT | {"vocab_size": len(words), "eos_token_id": 1, "bos_token_id": 0, "max_position_embeddings": 20}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=12))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return folder


def picture(size=32, seed=0):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_clip_score_is_torchmetrics(clip_folder):
    """On a picture of the model's own size, where no two ways of resizing differ."""
    net = load_features(clip_folder)
    said, shown = "a cab", picture()

    def processor(text=None, images=None, return_tensors="pt", padding=True):
        if images is not None:
            pixels = (torch.stack(images) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
            return {"pixel_values": pixels}
        return CLIPTokenizer.from_pretrained(clip_folder)(text, return_tensors="pt", padding=padding)

    class Plain(CLIPModel):
        """Embeddings as they are, not in transformers 5's output object, which torchmetrics does not know."""

        def get_image_features(self, pixel_values):
            return super().get_image_features(pixel_values).pooler_output

        def get_text_features(self, input_ids, attention_mask):
            return super().get_text_features(input_ids, attention_mask).pooler_output

    model = Plain.from_pretrained(clip_folder)
    expected = clip_score((shown[0] + 1) * 127.5, said, model_name_or_path=lambda: (model, processor))
    image, text = net(shown)[0].numpy(), net.prompts([said])[0].numpy()
    assert metrics.clip_score(image, text) == pytest.approx(float(expected), abs=1e-3)
    assert image.shape == text.shape == (12,) and net.name == clip_folder.name


def test_long_prompts_are_cut_to_what_the_model_knows(clip_folder):
    net = load_features(clip_folder)
    assert torch.isfinite(net.prompts(["a" * 300, "b"])).all()


def test_a_vision_model_gives_its_pooled_features_of_any_shape(tmp_path):
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    model = Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    net = load_features(tmp_path)
    shown = picture(28)
    pixels = (shown / 2 + 0.5 - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = model(pixel_values=pixels).pooler_output
    assert torch.allclose(net(shown), expected, atol=1e-5)
    assert net(torch.zeros(2, 3, 40, 90)).shape == (2, 16)
    with pytest.raises(ValueError, match="knows no language; name a CLIP model"):
        net.prompts(["a cup"])


def test_the_offline_network_is_the_mean_of_the_last_map(tmp_path):
    from safetensors.torch import save_file

    net = PerceptualNet()
    save_file(net.state_dict(), tmp_path / "squeeze.safetensors")
    shown = picture(48)
    expected = net(shown)[-1].flatten(2).mean(2) / 25
    assert torch.allclose(load_features(tmp_path / "squeeze.safetensors")(shown), expected)


def test_inception_is_torch_fidelitys_given_bytes(monkeypatch):
    """torch-fidelity cannot be installed beside this torch; what is tested is what it is given and asked."""
    asked = {}

    class FeatureExtractorInceptionV3:
        def __init__(self, name, features):
            asked["features"] = features

        def __call__(self, pixels):
            asked["pixels"] = pixels
            return (torch.ones(len(pixels), 2048),)

    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = FeatureExtractorInceptionV3
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert load_features("inception")(torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)).shape == (1, 2048)
    assert asked["features"] == ["2048"] and asked["pixels"].dtype == torch.uint8
    assert asked["pixels"].flatten().tolist() == [0, 128, 255]


def test_a_network_that_cannot_be_had_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match="pip install torch-fidelity"):
        Inception()
    with pytest.raises(FileNotFoundError, match="nowhere/at-all cannot be loaded"):
        load_features("nowhere/at-all")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is no model of transformers"):
        load_features(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"squeeze\.safetensors does not exist"):
        load_features(tmp_path / "squeeze.safetensors")


def test_embeddings_tell_pictures_apart(clip_folder):
    net = load_features(clip_folder)
    a, b = net(picture(64, 0)).numpy(), net(picture(64, 1)).numpy()
    assert not np.allclose(a, b)
