"""Frozen networks that look at pictures: SqueezeNet, Inception, and the vision models of transformers.

``load_vision_model`` gives features patch by patch to align with, ``PerceptualNet`` the taps of a perceptual distance,
``load_features`` one vector of a picture or a prompt.

Shapes: B pictures, C channels, D features. Pictures are RGB (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from photofound import files
from photofound.errors import first_line

# The order that SqueezeNet v1.0 was trained with: BGR, 0..255, minus these means.
_BGR_MEAN = (104.0, 117.0, 123.0)
_FIRES = (2, 3, 4, 5, 6, 7, 8, 9)


# ------------------------------------------------------------------------------------------------- features by patches


class VisionModel(Protocol):
    """A frozen network that describes a picture patch by patch."""

    width: int
    side: int  # of a patch, in pixels

    def patches(self, pixels: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """(B, 3, H, W) to (B, rows * columns, width), patches row by row on ``grid``, or on the network's own."""
        ...


def load_vision_model(source: str | Path) -> Any:
    """A VisionModel: the SqueezeNet of a ``.safetensors`` file, else any vision model of ``transformers``.

    Args:
        source: a ``.safetensors`` file (``PerceptualNet``), a folder, or a Hub id (``facebook/dinov2-base``).

    Raises FileNotFoundError or ValueError.
    """
    return PerceptualNet.from_file(source) if str(source).endswith(".safetensors") else Patches.from_pretrained(source)


def outline(source: str | Path | None) -> Any | None:
    """A vision model without its weights, to count its work; None where its folder does not exist."""
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        if str(source).endswith(".safetensors"):
            return PerceptualNet()
        if not source or not (Path(source) / "config.json").is_file():
            return None
        try:
            model = AutoModel.from_config(AutoConfig.from_pretrained(str(source)))
            return Patches(getattr(model, "vision_model", model), (0.0,) * 3, (1.0,) * 3)
        except (OSError, ValueError):
            return None


class Patches(nn.Module):
    """Patch features of a vision model from ``transformers``: DINOv2, DINOv3, SigLIP, CLIP, ViT, ConvNeXt, ...

    Attributes:
        width: channels of a patch.
        side: pixels of a patch along each side.
        grid: patches (rows, columns) of the pictures that the model was trained on.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        config: Any = model.config
        self.model = model.requires_grad_(False).eval()
        self.width = int(config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size)
        # Pyramids (ConvNeXt, ResNet) start with 4 x 4 pixels and halve the grid from stage to stage.
        stages = len(getattr(config, "depths", [0]))
        self.side = int(getattr(config, "patch_size", 4)) << (stages - 1)
        self.grid = (int(getattr(config, "image_size", 224)) // self.side,) * 2
        self.interpolates = {"interpolate_pos_encoding": True} if _takes(model, "interpolate_pos_encoding") else {}
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Patches:
        """Load a folder or a Hub id, safetensors only. Raises FileNotFoundError or ValueError."""
        from transformers import AutoModel

        try:
            model = AutoModel.from_pretrained(str(source), use_safetensors=True)
        except OSError as error:
            raise FileNotFoundError(f"vision model: {source} cannot be loaded: {first_line(error)}") from None
        model = getattr(model, "vision_model", model)  # CLIP and SigLIP hold a text model, too
        if getattr(model, "main_input_name", "") != "pixel_values":
            raise ValueError(f"vision model: {source} is a {type(model).__name__}, which does not look at pictures")
        return cls(model, *normalisation(str(source)))

    def patches(self, pixels: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, rows * columns, width), gradients included.

        The picture is resized so that the model's patches form ``grid`` (REPA, arXiv:2410.06940: 256 px are
        scaled to 224, so that 14-pixel patches match 16 x 16 latent tokens).
        """
        rows, columns = grid or self.grid
        shape = (rows * self.side, columns * self.side)
        small = F.interpolate(pixels.float(), size=shape, mode="bicubic", antialias=True)
        hidden = self.model(
            pixel_values=(small / 2 + 0.5 - self.mean) / self.std, **self.interpolates
        ).last_hidden_state
        if hidden.ndim == 4:  # a convolutional network: (B, C, rows, columns)
            return _regrid(hidden, (rows, columns))
        return hidden[:, -rows * columns :]  # class and register tokens come first


def _takes(model: nn.Module, argument: str) -> bool:
    return argument in inspect.signature(model.forward).parameters


def normalisation(source: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel that a model expects, ImageNet's where it does not say."""
    from transformers.utils import cached_file

    try:
        path = cached_file(source, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    except OSError:
        path = None
    said = files.read_json(path) if path else {}
    mean, std = said.get("image_mean"), said.get("image_std")
    return tuple(mean or (0.485, 0.456, 0.406)), tuple(std or (0.229, 0.224, 0.225))


def _regrid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Feature map (B, C, h, w) to (B, rows * columns, C)."""
    if tuple(features.shape[-2:]) != grid:
        features = F.interpolate(features.float(), size=grid, mode="bilinear", antialias=True)  # no bf16 kernel
    return features.flatten(2).transpose(1, 2)


# ---------------------------------------------------------------------------------------------------------- SqueezeNet


class _Fire(nn.Module):
    """Squeeze to few channels, expand by 1x1 and 3x3 side by side (arXiv:1602.07360, figure 2)."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class PerceptualNet(nn.Module):
    """SqueezeNet v1.0 (arXiv:1602.07360) as a frozen feature extractor.

    ``forward`` takes RGB (B, 3, H, W) in [-1, 1], H and W >= 32, and returns the feature maps after conv1 and each fire
    module. Weights come from a safetensors file with keys ``conv1``, ``fire2`` .. ``fire9`` (``squeeze``,
    ``expand1x1``, ``expand3x3``).
    """

    mean: Tensor
    width, side = 512, 16

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2)
        plan = [(96, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128)]
        plan += [(256, 48, 192), (384, 48, 192), (384, 64, 256), (512, 64, 256)]
        for i, shape in zip(_FIRES, plan, strict=True):
            self.add_module(f"fire{i}", _Fire(*shape))
        self.register_buffer("mean", torch.tensor(_BGR_MEAN).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def from_file(cls, path: str | Path) -> PerceptualNet:
        """Read the weights from a safetensors file. Raises FileNotFoundError or ValueError."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not Path(path).is_file():
            raise FileNotFoundError(
                f"perceptual network: {path} does not exist; name a SqueezeNet v1.0 safetensors file"
            )
        try:
            state = {k: v.float() for k, v in load_file(path).items() if not k.startswith("conv_final")}
        except SafetensorError as error:
            raise ValueError(f"perceptual network: {path} is no safetensors file ({error}); fetch it again") from None
        net = cls()
        wanted = {name: value.shape for name, value in net.state_dict().items()}
        found = {name: value.shape for name, value in state.items()}
        if wanted != found:
            differing = sorted({name for name, _ in wanted.items() ^ found.items()})[:3]
            raise ValueError(f"perceptual network: {path} is not a SqueezeNet v1.0; it differs at {differing}")
        net.load_state_dict(state)
        return net

    def forward(self, x: Tensor) -> list[Tensor]:
        x = (x.flip(1) + 1) * 127.5 - self.mean  # RGB -> BGR
        x = x.contiguous(memory_format=torch.channels_last)  # pools and norms over channels take half the time
        x = F.relu(self.conv1(x))
        taps = [x]
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for i in _FIRES:
            x = getattr(self, f"fire{i}")(x)
            taps.append(x)
            if i in (4, 8):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        return taps

    def patches(self, pixels: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """(B, rows * columns, 512): the last feature map, which has a value per 16 pixels, on ``grid`` or its own."""
        last = self(pixels)[-1]
        return _regrid(last, grid or (last.shape[-2], last.shape[-1]))


# ---------------------------------------------------------------------------------------------- one vector of a picture


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
            raise FileNotFoundError(f"features: {source} cannot be loaded: {first_line(error)}") from None
        except ValueError as error:
            raise ValueError(f"features: {source} is no model of transformers: {first_line(error)}") from None
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
