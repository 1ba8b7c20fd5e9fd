"""What is added to the objective while training: token routes, alignment with a vision model, perceptual losses.

Shapes: B batch, C channels, H and W pixels, T tokens or patches. Pictures are RGB in [-1, 1].
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from photofound.objective import masked_mean

# The order that SqueezeNet v1.0 was trained with: BGR, 0..255, minus these means.
_BGR_MEAN = (104.0, 117.0, 123.0)
_FIRES = (2, 3, 4, 5, 6, 7, 8, 9)
SHOWN = 224  # side of the pictures that P-DINO compares
_TINY = 1e-12  # of a squared length


# ----------------------------------------------------------------------------------------------------- token routing


def sample_route(batch: int, tokens: int, skip: float, generator: torch.Generator) -> Tensor:
    """(B, T') long: for each sample, which tokens go through every block; drawn uniformly, in ascending order.

    TREAD (arXiv:2501.04765) leaves out half of them: ``skip`` = 0.5. For ``EditTransformer(route=...)``.
    Published: DiT-XL/2 gets to where it was after 400,000 steps 14 times sooner. PRX (1.2 B) reports that it hurts at
    256 tokens and helps, in quality and in speed, at 1,024 px.
    """
    scores = torch.rand(batch, tokens, generator=generator, device=generator.device)
    return scores.argsort(1)[:, : tokens - int(skip * tokens)].sort(1).values


# ---------------------------------------------------------------------------------------------------- vision models


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
    """A vision model without its weights, to count what it takes; None for one that is not here."""
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
            reason = str(error).strip().splitlines()[0]
            raise FileNotFoundError(f"vision model: {source} cannot be loaded: {reason}") from None
        model = getattr(model, "vision_model", model)  # CLIP and SigLIP hold a text model, too
        if getattr(model, "main_input_name", "") != "pixel_values":
            raise ValueError(f"vision model: {source} is a {type(model).__name__}, which does not look at pictures")
        return cls(model, *normalisation(str(source)))

    def patches(self, pixels: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, rows * columns, width), gradients included.

        The picture is resized so that the model's patches form ``grid`` (REPA, arXiv:2410.06940: 256 px are
        shown at 224, so that 14-pixel patches match 16 x 16 latent tokens).
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
    import inspect

    return argument in inspect.signature(model.forward).parameters


def normalisation(source: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel that a model expects, ImageNet's where it does not say."""
    from transformers.utils import cached_file

    try:
        path = cached_file(source, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    except OSError:
        path = None
    said = json.loads(Path(path).read_text()) if path else {}
    mean, std = said.get("image_mean"), said.get("image_std")
    return tuple(mean or (0.485, 0.456, 0.406)), tuple(std or (0.229, 0.224, 0.225))


def _regrid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Feature map (B, C, h, w) to (B, rows * columns, C)."""
    if tuple(features.shape[-2:]) != grid:
        features = F.interpolate(features.float(), size=grid, mode="bilinear", antialias=True)  # no bf16 kernel
    return features.flatten(2).transpose(1, 2)


# -------------------------------------------------------------------------------------------------------- alignment


class Projector(nn.Sequential):
    """Three layers with SiLU between, from the transformer's tokens to a vision model's width: (B, T, D) -> (B, T, C).

    REPA's (arXiv:2410.06940), whose inner width of 2,048 is kept to at most four times D.
    """

    def __init__(self, dim: int, width: int) -> None:
        inner = min(2048, 4 * dim)
        super().__init__(nn.Linear(dim, inner), nn.SiLU(), nn.Linear(inner, inner), nn.SiLU(), nn.Linear(inner, width))


def alignment_loss(projected: Tensor, target: Tensor) -> Tensor:
    """(B,) minus the mean cosine of corresponding patches, (B, T, C) each, in [-1, 1] (REPA, arXiv:2410.06940).

    Published weight 0.5, block 8 of 28: SiT-XL/2 gets to where it was after 7 million steps 17.5 times sooner. PRX
    (1.2 B, 256 px): FID 18.2 -> 14.6 with DINOv3 at 12 % fewer steps a second. It helps early and binds later, so it is
    stopped early (arXiv:2505.16792).
    """
    return -F.cosine_similarity(projected.float(), target.float(), dim=-1).mean(1)


# -------------------------------------------------------------------------------------------------- perceptual losses


def patch_distance(net: VisionModel, a: Tensor, b: Tensor) -> Tensor:
    """P-DINO (PixelGen, arXiv:2602.02493): (B,) 1 - mean cosine of the patches of two pictures, in [0, 2].

    ``a`` and ``b``: RGB (B, 3, H, W) in [-1, 1]; gradients reach both. Published weight 0.01, with DINOv2-B, which is
    shown them at 224 x 224 pixels; others than squares keep their shape, at as many pixels.
    """
    stretch = math.sqrt(a.shape[-2] / a.shape[-1])
    grid = tuple(max(1, round(SHOWN / net.side * scale)) for scale in (stretch, 1 / stretch))
    return 1 + alignment_loss(net.patches(a, (grid[0], grid[1])), net.patches(b, (grid[0], grid[1])))


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


def perceptual_distance(net: PerceptualNet, a: Tensor, b: Tensor) -> Tensor:
    """LPIPS's distance with uniform channel weights (arXiv:1801.03924, eq. 1): (B,), 0 = same features.

    Each tap is normalised to unit length over its channels; the squared difference is summed over channels, averaged
    over positions, and averaged over taps. ``a`` and ``b``: RGB (B, 3, H, W) in [-1, 1]. As a loss in pixel space its
    published weight is 0.1 (PixelGen, arXiv:2602.02493).
    """
    return distance_of_taps(net(a), net(b))


def distance_of_taps(taps_a: Sequence[Tensor], taps_b: Sequence[Tensor]) -> Tensor:
    """``perceptual_distance`` of feature maps that are there already, (B,)."""
    total = torch.zeros(len(taps_a[0]), device=taps_a[0].device)
    for a, b in zip(taps_a, taps_b, strict=True):
        distance: Tensor = _DirectionDistance.apply(a.float(), b.float())
        total = total + distance.mean((1, 2))
    return total / len(taps_a)


class _DirectionDistance(torch.autograd.Function):
    """|a / |a| - b / |b||^2 over the channels: (B, C, H, W) twice -> (B, H, W). Where a map is 0, so is its direction.

    By hand, since autograd would keep and pass over five maps of the size of ``a``, and passes over these maps are most
    of what a perceptual loss costs."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        # Where a map is 0 its direction is, too.
        lengths = [x.square().sum(1).clamp_(min=_TINY).sqrt_() for x in (a, b)]
        distance = (a / lengths[0][:, None]).sub_(b / lengths[1][:, None]).square_().sum(1)
        ctx.save_for_backward(a, b, *lengths, distance)
        return distance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b, length_a, length_b, distance = ctx.saved_tensors
        cosine = 1 - distance / 2  # of directions; a map of 0 has no direction and takes the gradient as it comes
        scale = -2 * gradients[0] / (length_a * length_b)

        def toward(x: Tensor, other: Tensor, length: Tensor, others: Tensor) -> Tensor:
            """d cosine / d x = (other - x * cosine * |other| / |x|) / (|x| |other|)."""
            return (other * scale[:, None]).addcmul_(x, (-scale * cosine * others / length)[:, None])

        wanted = ctx.needs_input_grad
        return (
            toward(a, b, length_a, length_b) if wanted[0] else None,
            toward(b, a, length_b, length_a) if wanted[1] else None,
        )


class FeatureCritic(nn.Module):
    """Critics on frozen features at three depths, pictures being told apart where a perceptual network looks (Projected
    GAN, arXiv:2111.01007): taps of ``PerceptualNet`` -> logits (B, 1, h, w) for each depth."""

    TAPS = {1: 128, 3: 256, 7: 512}  # index of the tap and its channels: 1/4, 1/4 and 1/8 of the resolution

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, width, 1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, 1, 1),
            )
            for channels in self.TAPS.values()
        )

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        chosen = [taps[index].float() for index in self.TAPS]
        # Directions, as the distance compares them, scaled to about unit variance.
        return [
            head(tap * (tap.square().mean(1, keepdim=True) + 1e-6).rsqrt())
            for head, tap in zip(self.heads, chosen, strict=True)
        ]


def feature_adversarial_losses(
    critic: FeatureCritic, real: Sequence[Tensor], fake: Sequence[Tensor], where: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(generator loss, critic loss) as in ``adversarial_losses``, from the taps of real and fake pictures, averaged
    over the depths and counted in the region ``where`` (B, 1, H, W) in [0, 1]; None = everywhere."""
    frozen = {name: p.detach() for name, p in critic.named_parameters()}
    on_fake = torch.func.functional_call(critic, frozen, (fake,))
    generator = torch.stack([-_mean_where(x.float(), where) for x in on_fake]).mean()
    terms = []
    for x, y in zip(critic([tap.detach() for tap in real]), critic([tap.detach() for tap in fake]), strict=True):
        terms.append(_mean_where(F.relu(1 - x.float()), where) + _mean_where(F.relu(1 + y.float()), where))
    return generator, torch.stack(terms).mean()


def gradient_penalty(critic: FeatureCritic, real: Sequence[Tensor]) -> Tensor:
    """R1 (arXiv:1801.04406, eq. 9): the mean squared gradient of a critic's logits at real pictures, which keeps it
    from winning by steepness. Taken at the features, beyond which nothing is trained."""
    taps = [tap.detach().float().requires_grad_(index in critic.TAPS) for index, tap in enumerate(real)]
    logits = sum(scores.float().sum() for scores in critic(taps))
    with torch.enable_grad():
        slopes = torch.autograd.grad(logits, [taps[index] for index in critic.TAPS], create_graph=True)
    return torch.stack([slope.square().sum(1).mean() for slope in slopes]).mean()


def balanced(term: Tensor, loss: Tensor, at: Tensor) -> Tensor:
    """An additional term whose gradient at ``at`` is brought to the length of that of the loss there, so that no weight
    has to be found by hand (VQGAN, arXiv:2012.09841, eq. 7, at the network's output instead of its last layer).

    Args:
        term: scalar, of which the graph behind ``at`` is used up.
        loss: scalar that stays to be differentiated.
        at: the tensor that both are functions of.

    Returns:
        A scalar with the value of ``term`` and the balanced gradient with respect to ``at``.
    """
    (wanted,) = torch.autograd.grad(loss, at, retain_graph=True)
    (slope,) = torch.autograd.grad(term, at)
    direction = slope * (wanted.norm() / slope.norm().clamp(min=1e-8))
    surrogate = (at * direction.detach()).sum()
    return term.detach() + surrogate - surrogate.detach()


def _mean_where(x: Tensor, where: Tensor | None) -> Tensor:
    """The mean of (B, 1, h, w) over the samples, each over its own part of a region (B, 1, H, W)."""
    return x.mean() if where is None else masked_mean(x, where, given_weight=0.0).mean()


class PatchDiscriminator(nn.Module):
    """A small PatchGAN critic (arXiv:1611.07004, section 3.2): RGB (B, 3, H, W) -> logits (B, 1, H/8, W/8)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for i in range(3):
            layers += [nn.Conv2d(channels, width << i, 4, 2, 1), nn.LeakyReLU(0.2)]
            channels = width << i
        layers += [nn.Conv2d(channels, 1, 3, 1, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def adversarial_losses(critic: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """(generator loss, critic loss), hinge form (arXiv:1705.02894, eq. 3-4), to be added and differentiated together.

    The generator's term sees the critic's weights as constants and the critic's term sees the picture as a constant, so
    that one backward pass through the sum is the simultaneous update of both players.
    """
    frozen = {name: p.detach() for name, p in critic.named_parameters()}
    generator = -torch.func.functional_call(critic, frozen, (fake,)).mean()
    scores_real, scores_fake = critic(real), critic(fake.detach())
    return generator, F.relu(1 - scores_real).mean() + F.relu(1 + scores_fake).mean()
