"""Terms that are added to the objective: token routes, alignment with a vision model, perceptual and adversarial
losses.

Shapes: B batch, C channels, H and W pixels, T tokens or patches. Pictures are RGB in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from photofound.model.flow import masked_mean
from photofound.model.layers import ScalarEmbedder
from photofound.model.vision import PerceptualNet, VisionModel

P_DINO_SIDE = 224  # side of the pictures that P-DINO compares
_TINY = 1e-12  # of a squared length


# ----------------------------------------------------------------------------------------------------- token routing


def sample_route(batch: int, tokens: int, skip: float, generator: torch.Generator) -> Tensor:
    """(B, T') long: for each sample, which tokens go through every block; drawn uniformly, in ascending order.

    TREAD (arXiv:2501.04765) leaves out half of them: ``skip`` = 0.5. For ``EditTransformer(route=...)``.
    Published: DiT-XL/2 reaches its quality of 400,000 steps 14 times sooner. PRX (1.2 B) reports that it hurts at
    256 tokens and helps, in quality and in speed, at 1,024 px.
    """
    scores = torch.rand(batch, tokens, generator=generator, device=generator.device)
    return scores.argsort(1)[:, : tokens - int(skip * tokens)].sort(1).values


def sample_grid_route(batch: int, grid: tuple[int, int], skip: float, generator: torch.Generator) -> Tensor:
    """As ``sample_route``, spread over the picture: of each neighbourhood of 2 x 2 tokens (4 x 4, where fewer than one
    in four are kept) as many as of the others, the neighbourhoods' grid shifted at random (SPRINT, arXiv:2510.21986).

    Of neighbourhoods that the edge cuts, and where the share is no whole number of their tokens, chance decides.

    Args:
        grid: rows and columns of tokens.
        skip: share of the tokens that is left out; published 0.75, one of each 2 x 2.
    """
    rows, columns, device = *grid, generator.device
    side = 2 if 4 * (1 - skip) >= 1 else 4
    shift = torch.randint(side, (2, batch, 1), generator=generator, device=device)
    y, x = ((torch.arange(length, device=device) + by) // side for length, by in zip(grid, shift, strict=True))
    group = (y[:, :, None] * (columns // side + 2) + x[:, None, :]).flatten(1)  # (B, T)
    order = (group + torch.rand(group.shape, generator=generator, device=device)).argsort(1)  # random within each
    groups = (rows // side + 2) * (columns // side + 2)
    size = torch.zeros(batch, groups, device=device).scatter_add_(1, group, torch.ones_like(group, dtype=torch.float))
    first = size.cumsum(1) - size  # where a group begins in the order
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(rows * columns, device=device).expand_as(order))
    start = torch.rand(batch, groups, generator=generator, device=device)
    # Tokens of a group lie evenly in (0, 1], from a random start: below any bound there is the same share of each.
    place = (rank - first.gather(1, group) + start.gather(1, group)) / size.gather(1, group)
    kept = place.argsort(1)[:, : rows * columns - int(skip * rows * columns)]
    return kept.sort(1).values


# -------------------------------------------------------------------------------------------------------- alignment


class Projector(nn.Sequential):
    """Three layers with SiLU between, from the transformer's tokens to a vision model's width: (B, T, D) -> (B, T, C).

    REPA's (arXiv:2410.06940), whose inner width of 2,048 is kept to at most four times D.
    """

    def __init__(self, dim: int, width: int) -> None:
        inner = min(2048, 4 * dim)
        super().__init__(nn.Linear(dim, inner), nn.SiLU(), nn.Linear(inner, inner), nn.SiLU(), nn.Linear(inner, width))

    def forward(self, x: Tensor, grid: Any = None) -> Tensor:
        return super().forward(x)


class SpatialProjector(nn.Module):
    """iREPA's (arXiv:2512.10794): one convolution of 3 x 3 over the grid of tokens, which keeps what is near what:
    (B, T, D) -> (B, T, C), T = rows x columns."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, width, 3, padding=1)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.conv(x.mT.unflatten(2, grid)).flatten(2).mT


def spatially_normalized(target: Tensor, eps: float = 1e-6) -> Tensor:
    """A vision model's patches (B, T, C) less their mean over the picture, over their deviation, channel by channel
    (iREPA, arXiv:2512.10794): what all patches share, which says what the picture is of, goes; what differs between
    them, which says what is where, counts."""
    return (target - target.mean(1, keepdim=True)) / (target.std(1, keepdim=True) + eps)


def alignment_loss(projected: Tensor, target: Tensor) -> Tensor:
    """(B,) minus the mean cosine of corresponding patches, (B, T, C) each, in [-1, 1] (REPA, arXiv:2410.06940).

    Published weight 0.5, block 8 of 28: SiT-XL/2 reaches its quality of 7 million steps 17.5 times sooner. PRX
    (1.2 B, 256 px): FID 18.2 -> 14.6 with DINOv3 at 12 % fewer steps a second. It helps early and restrains the model
    later, so it is stopped early (arXiv:2505.16792)."""
    return -F.cosine_similarity(projected.float(), target.float(), dim=-1).mean(1)


# -------------------------------------------------------------------------------------------------- perceptual losses


def patch_distance(net: VisionModel, a: Tensor, b: Tensor) -> Tensor:
    """P-DINO (PixelGen, arXiv:2602.02493): (B,) 1 - mean cosine of the patches of two pictures, in [0, 2].

    ``a`` and ``b``: RGB (B, 3, H, W) in [-1, 1]; gradients reach both. Published weight 0.01, with DINOv2-B at
    224 x 224 pixels. Pictures that are not square keep their aspect, at as many pixels.
    """
    stretch = math.sqrt(a.shape[-2] / a.shape[-1])
    grid = tuple(max(1, round(P_DINO_SIDE / net.side * scale)) for scale in (stretch, 1 / stretch))
    return 1 + alignment_loss(net.patches(a, (grid[0], grid[1])), net.patches(b, (grid[0], grid[1])))


def perceptual_distance(net: PerceptualNet, a: Tensor, b: Tensor) -> Tensor:
    """LPIPS's distance with uniform channel weights (arXiv:1801.03924, eq. 1): (B,), 0 = same features.

    Each tap is normalised to unit length over its channels; the squared difference is summed over channels, averaged
    over positions, and averaged over taps. ``a`` and ``b``: RGB (B, 3, H, W) in [-1, 1]. As a loss in pixel space its
    published weight is 0.1 (PixelGen, arXiv:2602.02493).
    """
    return distance_of_taps(net(a), net(b))


def distance_of_taps(taps_a: Sequence[Tensor], taps_b: Sequence[Tensor]) -> Tensor:
    """``perceptual_distance`` of feature maps that are computed already, (B,)."""
    total = torch.zeros(len(taps_a[0]), device=taps_a[0].device)
    for a, b in zip(taps_a, taps_b, strict=True):
        distance: Tensor = _DirectionDistance.apply(a.float(), b.float())
        total = total + distance.mean((1, 2))
    return total / len(taps_a)


class _DirectionDistance(torch.autograd.Function):
    """|a / |a| - b / |b||^2 over the channels: (B, C, H, W) twice -> (B, H, W). Where a map is 0, so is its direction.

    Written by hand: autograd would keep five maps of the size of ``a`` and read them again, and reading such maps is
    most of the cost of a perceptual loss."""

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
    """Critics on frozen features at three depths of a perceptual network (Projected GAN, arXiv:2111.01007): taps of
    ``PerceptualNet`` -> logits (B, 1, h, w) for each depth."""

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


class TokenCritic(nn.Module):
    """Critics on the tokens of a frozen diffusion transformer after each of its blocks, which know how noisy the
    latents are that it looks at (LADD, arXiv:2403.12015, section 3): tokens (B, T, D) of every block, the grid that
    they lie on and times (B,) -> logits (B, 1, rows, columns) for each block.

    The paper's heads see the text, too. Here it reaches them through the transformer, which reads it.
    """

    def __init__(self, dim: int, depth: int, width: int = 64) -> None:
        super().__init__()
        self.TAPS = range(depth)
        self.time_in = nn.ModuleList(ScalarEmbedder(width, 1000.0, 10_000) for _ in range(depth))
        self.enter = nn.ModuleList(nn.Conv2d(dim, width, 1) for _ in range(depth))
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.LeakyReLU(0.2), nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 1)
            )
            for _ in range(depth)
        )

    def forward(self, taps: Sequence[Tensor], grid: tuple[int, int], times: Tensor) -> list[Tensor]:
        logits = []
        for tokens, time_in, enter, head in zip(taps, self.time_in, self.enter, self.heads, strict=True):
            tokens = F.layer_norm(tokens.float(), tokens.shape[-1:])  # blocks differ in size by far
            x = enter(tokens.mT.unflatten(2, grid)) + time_in(times, torch.float32)[:, :, None, None]
            logits.append(head(x))
        return logits


def feature_adversarial_losses(
    critic: nn.Module,
    real: Sequence[Tensor],
    fake: Sequence[Tensor],
    where: Tensor | None = None,
    given: Sequence[Any] = (),
) -> tuple[Tensor, Tensor]:
    """(generator loss, critic loss) as in ``adversarial_losses``, from the taps of real and fake pictures, averaged
    over the depths and counted in the region ``where`` (B, 1, H, W) in [0, 1]; None = everywhere. ``given`` is what the
    critic is told beside the taps."""
    frozen = {name: p.detach() for name, p in critic.named_parameters()}
    on_fake = torch.func.functional_call(critic, frozen, (fake, *given))
    generator = torch.stack([-_mean_where(x.float(), where) for x in on_fake]).mean()
    terms = []
    on_real, on_fake = (critic([tap.detach() for tap in taps], *given) for taps in (real, fake))
    for x, y in zip(on_real, on_fake, strict=True):
        terms.append(_mean_where(F.relu(1 - x.float()), where) + _mean_where(F.relu(1 + y.float()), where))
    return generator, torch.stack(terms).mean()


def gradient_penalty(critic: Any, real: Sequence[Tensor], given: Sequence[Any] = ()) -> Tensor:
    """R1 (arXiv:1801.04406, eq. 9): the mean squared gradient of a critic's logits at real pictures, which keeps it
    from winning by steepness. Taken at the features, beyond which nothing is trained."""
    taps = [tap.detach().float().requires_grad_(index in critic.TAPS) for index, tap in enumerate(real)]
    logits = sum(scores.float().sum() for scores in critic(taps, *given))
    with torch.enable_grad():
        slopes = torch.autograd.grad(logits, [taps[index] for index in critic.TAPS], create_graph=True)
    return torch.stack([slope.square().sum(1).mean() for slope in slopes]).mean()


def balanced(term: Tensor, loss: Tensor, at: Tensor) -> Tensor:
    """An additional term whose gradient at ``at`` is brought to the length of that of the loss there, so that no weight
    has to be found by hand (VQGAN, arXiv:2012.09841, eq. 7, at the network's output instead of its last layer).

    Args:
        term: scalar; its graph up to ``at`` is freed.
        loss: scalar; its graph is kept.
        at: the tensor that both depend on.

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
    return x.mean() if where is None else masked_mean(x, where, known_weight=0.0).mean()


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
