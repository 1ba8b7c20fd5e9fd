"""Frozen networks that describe a picture, or a prompt, with one vector: for distances of sets and the CLIP score.

Shapes: B pictures, D features. Pictures are RGB (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from photofound.regularizers import PerceptualNet, normalisation


def load_features(source: str | Path) -> FeatureNet:
    """What ``source`` names: a SqueezeNet's ``.safetensors`` file, ``inception`` (with torch-fidelity), or the folder
    or Hub id of a vision model of transformers (CLIP, DINO, ViT, ...).

    Raises FileNotFoundError, ImportError or ValueError.
    """
    if str(source) == "inception":
        return Inception()
    return Squeeze(source) if str(source).endswith(".safetensors") else Pretrained(source)


class FeatureNet(nn.Module):
    """``forward`` gives one vector per picture, (B, D); ``prompts`` one per prompt, where the network knows language.

    Attributes:
        name: what reports call it.
    """

    name: str

    def prompts(self, texts: list[str]) -> Tensor:
        """(B, D) of prompts, in the space of the pictures. ValueError for a network that has never seen text."""
        raise ValueError(f"{self.name}: knows no language; name a CLIP model")


class Squeeze(FeatureNet):
    """The mean of SqueezeNet's last feature map over 25, 512 features, of the picture at its own size. So they are
    about 0.4 on average, as Inception's are, for which the constant in KID's kernel was chosen."""

    scale = 1 / 25

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.net = PerceptualNet.from_file(path)
        self.name = Path(path).stem

    def forward(self, pixels: Tensor) -> Tensor:
        return self.net(pixels)[-1].mean((2, 3)) * self.scale


class Inception(FeatureNet):
    """FID's own network (arXiv:1706.08500), 2,048 features, as torch-fidelity has it, which fetches its weights."""

    name = "inception"

    def __init__(self) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            advice = "pip install torch-fidelity, in an environment that has torchvision; or name another network"
            raise ImportError(f"inception needs torch-fidelity ({error}): {advice}") from None
        self.net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])

    def forward(self, pixels: Tensor) -> Tensor:
        return self.net(((pixels + 1) * 127.5).round().to(torch.uint8))[0]


class Pretrained(FeatureNet):
    """A vision model of transformers, safetensors only: CLIP's embeddings, or the class token or pooled features of
    others. Pictures are resized to the model's square, whatever their shape, so that all of each is seen."""

    mean: Tensor
    std: Tensor

    def __init__(self, source: str | Path) -> None:
        super().__init__()
        from transformers import AutoModel

        try:
            model: Any = AutoModel.from_pretrained(str(source), use_safetensors=True)
        except OSError as error:
            reason = str(error).strip().splitlines()[0]
            raise FileNotFoundError(f"features: {source} cannot be loaded: {reason}") from None
        except ValueError as error:
            raise ValueError(f"features: {source} is no model of transformers: {str(error).splitlines()[0]}") from None
        self.speaks = hasattr(model, "get_text_features")
        if not self.speaks and getattr(model, "main_input_name", "") != "pixel_values":
            raise ValueError(f"features: {source} is a {type(model).__name__}, which does not look at pictures")
        self.model = model.requires_grad_(False).eval()
        self.source, self.name = str(source), Path(source).name
        vision = getattr(model.config, "vision_config", model.config)
        self.side = int(getattr(vision, "image_size", 224))
        mean, std = normalisation(self.source)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        small = F.interpolate(pixels, size=(self.side, self.side), mode="bicubic", antialias=True).clamp(-1, 1)
        small = (small / 2 + 0.5 - self.mean) / self.std
        if self.speaks:
            return _embedding(self.model.get_image_features(pixel_values=small))
        said = self.model(pixel_values=small)
        pooled = getattr(said, "pooler_output", None)
        return (said.last_hidden_state[:, 0] if pooled is None else pooled).flatten(1)

    def prompts(self, texts: list[str]) -> Tensor:
        if not self.speaks:
            return super().prompts(texts)
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.source)
        most = self.model.config.text_config.max_position_embeddings
        options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": most, "return_tensors": "pt"}
        return _embedding(self.model.get_text_features(**tokenizer(texts, **options).to(self.mean.device)))


def _embedding(said: Any) -> Tensor:
    """transformers 5 wraps the projected embedding in an output object."""
    return said if isinstance(said, Tensor) else said.pooler_output
