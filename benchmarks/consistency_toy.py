"""Few-step students on a problem of two dimensions: how far are they from 50 guided steps of their teacher?

    python benchmarks/consistency_toy.py

Data: two classes, eight narrow Gaussians on a circle, four of each class, alternating. The teacher, a small MLP, learns
them by flow matching with 10 % of the classes dropped. Students start from it and are distilled by
``photofound.train.consistency``: plain LCM (P = 1) and phased (P = 4), with an averaged target (0.95) and without.
Distance: RMS over 4,096 points between a sampler's result in N steps and that of 50 guided Euler steps of the teacher
from the same noise, for the scale 3. Plain LCM is sampled as it is used, with new noise after each step; its
distance from more than one step therefore also holds that noise, so the last columns show the distance between
distributions too (energy distance, which needs no pairs).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from photofound.model import flow
from photofound.train import consistency

STEPS, SCALE, COUNT = (1, 2, 4, 8), 3.0, 4096


class Net(nn.Module):
    """v(x (B, 2), t (B,), class (B,) in {0, 1, 2 = none}, scale (B,))."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.classes = nn.Embedding(3, width)
        self.enter = nn.Linear(2 + 16, width)
        self.scale = nn.Linear(1, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.leave = nn.Linear(width, 2)
        nn.init.zeros_(self.scale.weight)

    def forward(self, x: Tensor, t: Tensor, label: Tensor, scale: Tensor | None = None) -> Tensor:
        angles = t[:, None] * 2.0 ** torch.arange(8) * 0.5
        h = self.enter(torch.cat([x, angles.sin(), angles.cos()], 1)) + self.classes(label)
        if scale is not None:
            h = h + self.scale(scale[:, None] - SCALE)
        for layer in self.layers:
            h = h + layer(nn.functional.silu(h))
        return self.leave(nn.functional.silu(h))


def data(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points (B, 2) and their classes (B,)."""
    mode = torch.randint(8, (count,), generator=generator)
    angle = mode * torch.pi / 4
    centre = 1.5 * torch.stack([angle.cos(), angle.sin()], 1)
    return centre + 0.12 * torch.randn(count, 2, generator=generator), mode % 2


def descend(net: nn.Module, steps: int, lr: float, loss: Callable[[], Tensor], after: Callable[[], None]) -> None:
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(1.0, 2 * (1 - step / steps))
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        after()


def train_teacher(steps: int) -> Net:
    net, generator = Net(), torch.Generator().manual_seed(1)

    def loss() -> Tensor:
        x0, label = data(1024, generator)
        label = torch.where(torch.rand(1024, generator=generator) < 0.1, 2, label)
        noise, t = torch.randn(1024, 2, generator=generator), torch.rand(1024, generator=generator)
        v = net(flow.add_noise(x0, noise, t), t, label)
        return (v - flow.velocity(x0, noise)).square().mean()

    descend(net, steps, 2e-3, loss, lambda: None)
    return net.requires_grad_(False)


def guided(teacher: Net, label: Tensor, scale: Tensor) -> consistency.Field:
    nobody = torch.full_like(label, 2)
    return lambda x, t: consistency.guide(teacher(x, t, label), teacher(x, t, nobody), scale)


def train_student(teacher: Net, phases: int, ema: float, steps: int) -> Net:
    student, generator = deepcopy(teacher).requires_grad_(True), torch.Generator().manual_seed(2)
    average = deepcopy(student).requires_grad_(False)

    def loss() -> Tensor:
        x0, label = data(512, generator)
        times = consistency.sample_times(512, phases, 50, generator)
        scale = consistency.sample_guidance(512, 1.5, 6.0, generator)
        x = flow.add_noise(x0, torch.randn(512, 2, generator=generator), times.start)
        goal = consistency.target(x, times, guided(teacher, label, scale), lambda x, t: average(x, t, label, scale))
        made = consistency.jump(x, student(x, times.start, label, scale), times.start, times.end)
        return consistency.pseudo_huber(made, goal).mean()

    def follow() -> None:
        consistency.ema_update(dict(average.named_parameters()), dict(student.named_parameters()), ema)

    descend(student, steps, 5e-4, loss, follow)
    return student.requires_grad_(False)


def euler(field: consistency.Field, x: Tensor, steps: int) -> Tensor:
    for k in range(steps, 0, -1):
        now, then = (torch.full((len(x),), i / steps) for i in (k, k - 1))
        x = consistency.jump(x, field(x, now), now, then)
    return x


def noisy(field: consistency.Field, x: Tensor, steps: int) -> Tensor:
    """As ``FlowMatchLCMScheduler``: jump to the end, add new noise."""
    generator = torch.Generator().manual_seed(3)
    for k in range(steps, 0, -1):
        now, then = (torch.full((len(x),), i / steps) for i in (k, k - 1))
        clean = consistency.jump(x, field(x, now), now, 0 * now)
        x = flow.add_noise(clean, torch.randn(x.shape, generator=generator), then)
    return x


def energy(a: Tensor, b: Tensor) -> float:
    """The energy distance of two sets of points (Szekely and Rizzo 2013, eq. 2), square root."""
    a, b = a[:2048], b[:2048]
    squared = 2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()
    return float(squared.clamp(min=0).sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--teacher-steps", type=int, default=3000, help="updates of the teacher")
    parser.add_argument("--student-steps", type=int, default=4000, help="updates of each student")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    start = time.process_time()
    teacher = train_teacher(args.teacher_steps)
    generator = torch.Generator().manual_seed(4)
    noise, label = torch.randn(COUNT, 2, generator=generator), torch.arange(COUNT) % 2
    scale = torch.full((COUNT,), SCALE)
    field = guided(teacher, label, scale)
    with torch.no_grad():
        truth = euler(field, noise, 50)
    print("| distance to 50 guided steps | calls per step | " + " | ".join(f"{n} steps" for n in STEPS), end=" | ")
    print(" | ".join(f"energy, {n}" for n in STEPS) + " |\n|" + "---|" * (2 + 2 * len(STEPS)))

    def report(name: str, calls: int, sampler: Callable[..., Tensor], field: consistency.Field) -> None:
        with torch.no_grad():
            made = [sampler(field, noise, n) for n in STEPS]
        paired = [f"{(m - truth).square().sum(1).mean().sqrt():.3f}" for m in made]
        numbers = paired + [f"{energy(m, truth):.3f}" for m in made]
        print(f"| {name} | {calls} | " + " | ".join(numbers) + " |", flush=True)

    report("teacher, Euler", 2, euler, field)
    for ema in (0.95, 0.0):
        said = f"averaged target {ema}" if ema else "no average"
        for phases, name, sampler in ((1, "plain LCM", noisy), (4, "phased, P = 4", euler)):
            student = train_student(teacher, phases, ema, args.student_steps)
            report(f"{name}, {said}", 1, sampler, lambda x, t, net=student: net(x, t, label, scale))  # type: ignore[misc]
            if phases == 1:
                report(f"{name} by Euler steps, {said}", 1, euler, lambda x, t, net=student: net(x, t, label, scale))  # type: ignore[misc]
    print(f"\n{time.process_time() - start:.0f} s of processor time", flush=True)


if __name__ == "__main__":
    main()
