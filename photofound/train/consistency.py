"""Few-step students: latent consistency models, plain and phased, for flow matching.

The map f(x, t -> s) = x - (t - s) v(x, t) jumps along the flow from time t to an earlier s. A network that predicts the
mean velocity between the two, instead of the one at t, makes the jump exact; at t = s it is exact whatever the network
says, so that no c_skip and c_out are needed. Latent consistency models (arXiv:2310.04378) jump to s = 0. Phased ones
(arXiv:2405.18407) cut [0, 1] into P phases and jump to the lower end of the one that t is in: P deterministic steps
follow the flow, where a plain model must add noise again after each.

Shapes: x and v (B, C, ...); times and guidance scales (B,). Time runs from t = 1 (noise) to t = 0 (data).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from photofound.model.flow import expand, shift_time

Field = Callable[[Tensor, Tensor], Tensor]  # (x (B, C, ...), t (B,)) -> velocity (B, C, ...)


class Times(NamedTuple):
    """Where a student is trained, (B,) each, start > after >= end: it must jump from ``start`` to ``end`` as it does
    from ``after``, one step of the teacher away."""

    start: Tensor
    after: Tensor
    end: Tensor


def jump(x: Tensor, v: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The consistency map f(x, t -> s) = x - (t - s) v; an Euler step too, if v is the velocity at t."""
    return x - expand(t - s, x) * v


def guide(with_text: Tensor, without: Tensor, scale: Tensor) -> Tensor:
    """v_u + w (v_c - v_u), one scale per sample (arXiv:2207.12598, eq. 6)."""
    return without + expand(scale, without) * (with_text - without)


def sample_guidance(batch: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(B,) scales w ~ U(low, high) (arXiv:2310.04378, section 4.2)."""
    return low + (high - low) * torch.rand(batch, generator=generator, device=generator.device)


def sample_times(batch: int, phases: int | Tensor, steps: int, generator: torch.Generator, shift: float = 1.0) -> Times:
    """Times to train at: a phase, and in it a step of the teacher, each as likely as the others.

    Args:
        phases: P >= 1, one for all or (B,); the phases end at the times that a sampler of P steps stops at.
        steps: of the teacher from 1 to 0, at least; each phase has the same whole number of them (the skipping step of
            arXiv:2310.04378, section 4.3: 50 steps of 20 out of 1,000).
        shift: of the sampler's times, see ``flow.shift_time``.
    """
    device = generator.device
    phases = torch.as_tensor(phases, device=device).expand(batch)
    inner = -(-steps // phases)
    phase, step = (
        (torch.rand(batch, generator=generator, device=device, dtype=torch.float64) * count).long()
        for count in (phases, inner)
    )
    step = step + 1
    unshifted = ((phase * inner + done) / (phases * inner) for done in (step, step - 1, 0 * step))
    return Times(*(shift_time(t, shift) for t in unshifted))


@torch.no_grad()
def target(x: Tensor, times: Times, teacher: Field, average: Field) -> Tensor:
    """What the student's jump from x at ``times.start`` should give: one Euler step of the guided teacher, and from
    there the jump of the student's own moving average (arXiv:2310.04378, algorithm 1; arXiv:2405.18407, section 3)."""
    start, after, end = times
    closer = jump(x, teacher(x, start), start, after)
    return jump(closer, average(closer, after), after, end)


def pseudo_huber(a: Tensor, b: Tensor, c: float = 1e-3) -> Tensor:
    """sqrt((a - b)^2 + c^2) - c, element by element (arXiv:2310.14189, section 3.3; c as in diffusers' LCM recipe)."""
    return ((a.float() - b.float()).square() + c * c).sqrt() - c


@torch.no_grad()
def ema_update(average: Mapping[str, Tensor], live: Mapping[str, Tensor], decay: float) -> None:
    """average = decay * average + (1 - decay) * live, in place, for every name in ``average`` (arXiv:2310.04378,
    algorithm 1)."""
    torch._foreach_lerp_(list(average.values()), [live[name].detach() for name in average], 1 - decay)
