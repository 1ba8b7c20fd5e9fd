"""Flow matching: the path between data and noise, when to train on it, and the masked loss.

Time runs from t = 1 (noise) to t = 0 (data): x_t = (1 - t) x_0 + t eps and v = eps - x_0 (arXiv:2209.03003, eq. 1;
arXiv:2403.03206).
Shapes: x (B, C, H, W); t (B,).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLE_FLOOR = 0.05  # smallest t that a sample prediction is divided by (JiT, arXiv:2511.13720, section 4)


def expand(t: Tensor, x: Tensor) -> Tensor:
    """(B,) to (B, 1, 1, 1), to multiply with x."""
    return t.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)


def add_noise(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x_0 + t eps."""
    return torch.lerp(x0, noise, expand(t, x0))


def velocity(x0: Tensor, noise: Tensor) -> Tensor:
    """v = eps - x_0, the derivative of the path."""
    return noise - x0


def to_sample(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The clean sample that a velocity points at: x_0 = x_t - t v."""
    return x_t - expand(t, x_t) * v


def to_velocity(x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """The velocity that a clean sample implies: v = (x_t - x_0) / max(t, 0.05)."""
    return (x_t - x0) / expand(t, x_t).clamp(min=SAMPLE_FLOOR)


def velocity_target(x_t: Tensor, x0: Tensor, noise: Tensor, t: Tensor, prediction_type: str) -> Tensor:
    """What the velocity of ``interpret`` is trained towards. For a sample prediction the clean sample is divided by
    max(t, 0.05), too: the exact answer so has no loss at any time."""
    return to_velocity(x_t, x0, t) if prediction_type == "sample" else velocity(x0, noise)


def interpret(output: Tensor, x_t: Tensor, t: Tensor, prediction_type: str) -> tuple[Tensor, Tensor]:
    """(velocity, clean sample) that a network's output stands for.

    ``velocity``: the output is v. ``sample``: it is x_0, and a loss on the velocity weighs its error by
    1 / max(t, 0.05)^2 (JiT, arXiv:2511.13720: the way to work on pixels in large patches).
    """
    if prediction_type == "sample":
        return to_velocity(x_t, output, t), output
    return output, to_sample(x_t, output, t)


def shift_time(t: Tensor, shift: float) -> Tensor:
    """s t / (1 + (s - 1) t): more noise for more pixels (arXiv:2403.03206, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def sample_time(batch: int, generator: torch.Generator, shift: float = 1.0, uniform: float = 0.1) -> Tensor:
    """(B,) times in (0, 1): logit-normal(0, 1) and shifted (arXiv:2403.03206, eq. 19 and 23), a share ``uniform`` of
    them uniform over (0, 1), whatever the shift: the ends are so never rare."""
    device = generator.device
    normal = torch.randn(batch, generator=generator, device=device).sigmoid()
    flat = torch.rand(batch, generator=generator, device=device)
    choose = torch.rand(batch, generator=generator, device=device) < uniform
    return torch.where(choose, flat, shift_time(normal, shift))


def regression_start(noise: Tensor, t: Tensor, regression: Tensor) -> tuple[Tensor, Tensor]:
    """Noise and times of a batch in which some tasks have one right answer: the samples with ``regression`` (B,) True
    start at t = 1 from zeros, so that the model predicts the answer in one step."""
    return noise * expand(~regression, noise), torch.where(regression, 1.0, t)


def masked_loss(
    prediction: Tensor, target: Tensor, hole: Tensor, known_weight: float = 0.1, weight: Tensor | None = None
) -> Tensor:
    """(B,) squared error over the hole plus ``known_weight`` times that over the known region, each by its own area.

    A small hole is so not swamped by the picture around it. Where a sample has only one of the two regions, the other
    counts 0.

    Args:
        prediction, target: (B, C, h, w).
        hole: (B, 1, H, W) in [0, 1]; brought to (h, w) by averaging.
        weight: (B, 1, H, W), >= 0, how much each pixel counts within its region (the object more than its ground);
            None = all the same. A region whose weights are all 0 counts 0.
    """
    return masked_mean((prediction.float() - target.float()).square(), hole, known_weight, weight)


def masked_mean(error: Tensor, hole: Tensor, known_weight: float = 0.1, weight: Tensor | None = None) -> Tensor:
    """(B,) mean of an error (B, C, h, w) over the hole plus ``known_weight`` times that over the known region; see
    ``masked_loss``."""
    size = (error.shape[-2], error.shape[-1])
    hole, counts = hole.float(), 1.0 if weight is None else weight.float()
    inner, outer = (F.adaptive_avg_pool2d(part * counts, size) for part in (hole, 1 - hole))
    error = error.mean(1, keepdim=True)
    inside = (error * inner).sum((1, 2, 3)) / inner.sum((1, 2, 3)).clamp(min=1e-3)
    outside = (error * outer).sum((1, 2, 3)) / outer.sum((1, 2, 3)).clamp(min=1e-3)
    return inside + known_weight * outside


def preference_loss(error: Tensor, reference: Tensor, beta: float) -> Tensor:
    """(N,) Diffusion-DPO (arXiv:2311.12908, eq. 14) for flow matching: -log sigmoid(-beta/2 (d_w - d_l)).

    d = |v - v_theta|^2 - |v - v_ref|^2 is by how much the model's error exceeds the reference's, for the preferred
    result (w) and for the rejected one (l), at the same time and noise. The paper's T omega(lambda_t) is constant and
    part of ``beta``; its experiments have 2,000 to 5,000, with errors that are means over the elements.

    Args:
        error, reference: (2, N), the model's and the frozen reference's errors; row 0 preferred, row 1 rejected.
        beta: how far the model may go from the reference; larger = less far.
    """
    excess = error - reference
    return -F.logsigmoid(-beta / 2 * (excess[0] - excess[1]))


def contrastive_term(prediction: Tensor, target: Tensor, hole: Tensor, known_weight: float = 0.1) -> Tensor:
    """(B,) ``masked_loss`` against another sample's velocity, to be SUBTRACTED with a small weight.

    Contrastive flow matching (arXiv:2506.05350): |v - u|^2 - 0.05 |v - u'|^2 with u' = eps' - x_0' of another sample of
    the batch, here the one before. Different conditions so lead to more distinct flows. Published for ImageNet: trains
    up to 9 times faster, FID lower by up to 8.9.

    Args:
        prediction, target: (B, C, h, w) velocities, B >= 2.
        hole: (B, 1, H, W) in [0, 1].

    Raises ValueError for a single sample: there is no other to compare it with.
    """
    if len(prediction) < 2:
        raise ValueError("recipe.contrastive: needs two samples at a time; raise train.batch_size")
    return masked_loss(prediction, target.roll(1, 0), hole, known_weight)
