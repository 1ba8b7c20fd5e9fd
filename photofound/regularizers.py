"""Losses and distances computed by another network.

Shapes: B batch, C channels, H and W pixels. Pictures are RGB in [-1, 1].
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The order that SqueezeNet v1.0 was trained with: BGR, 0..255, minus these means.
_BGR_MEAN = (104.0, 117.0, 123.0)
_FIRES = (2, 3, 4, 5, 6, 7, 8, 9)


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
        x = F.relu(self.conv1(x))
        taps = [x]
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for i in _FIRES:
            x = getattr(self, f"fire{i}")(x)
            taps.append(x)
            if i in (4, 8):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        return taps


def perceptual_distance(net: PerceptualNet, a: Tensor, b: Tensor) -> Tensor:
    """LPIPS's distance with uniform channel weights (arXiv:1801.03924, eq. 1): (B,), 0 = same features.

    Each tap is normalised to unit length over its channels; the squared difference is summed over channels, averaged
    over positions, and averaged over taps. ``a`` and ``b``: RGB (B, 3, H, W) in [-1, 1].
    """
    taps_a, taps_b = net(a), net(b)
    total = torch.zeros(a.shape[0], device=a.device)
    for fa, fb in zip(taps_a, taps_b, strict=True):
        difference = F.normalize(fa.float(), dim=1, eps=1e-6) - F.normalize(fb.float(), dim=1, eps=1e-6)
        total = total + difference.square().sum(1).mean((1, 2))
    return total / len(taps_a)


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
