"""Consistency against closed forms: a Gaussian data distribution has an exact flow, and so an exact consistency map."""

import pytest
import torch

from photofound.model import flow as objective
from photofound.train import consistency
from photofound.train.consistency import Times

MEAN, SPREAD = torch.tensor([0.7, -0.4]), 0.3  # the data: N(MEAN, SPREAD^2)


def moments(t):
    """Mean (B, 2) and standard deviation (B, 1) of x_t = (1 - t) x_0 + t eps."""
    t = t[:, None]
    return (1 - t) * MEAN, ((1 - t).square() * SPREAD**2 + t.square()).sqrt()


def flow(x, t, s):
    """The exact map: x keeps its place in units of the standard deviation."""
    (mean_t, spread_t), (mean_s, spread_s) = moments(t), moments(s)
    return mean_s + spread_s / spread_t * (x - mean_t)


def velocity(x, t):
    """The exact velocity, d flow / ds at s = t."""
    mean, spread = moments(t)
    t = t[:, None]
    return -MEAN + (t - (1 - t) * SPREAD**2) / spread.square() * (x - mean)


def secant(end):
    """A perfect student that jumps to ``end``: the mean velocity on the way."""
    return lambda x, t: (x - flow(x, t, end)) / (t - end).clamp(min=1e-9)[:, None]


def at(value, batch=64):
    return torch.full((batch,), value, dtype=torch.float64)


@pytest.fixture
def x():
    return torch.randn(64, 2, dtype=torch.float64)


def test_the_closed_form_is_the_path_of_flow_matching():
    """The velocity is the mean of eps - x_0 among the pairs that meet at a point, and the derivative of the flow."""
    generator = torch.Generator().manual_seed(0)
    x0 = MEAN + SPREAD * torch.randn(400_000, 2, generator=generator)
    noise = torch.randn(400_000, 2, generator=generator)
    t = torch.full((400_000,), 0.6)
    x_t, v = objective.add_noise(x0, noise, t), objective.velocity(x0, noise)
    near = (x_t - 0.2).abs().amax(1) < 0.05
    expected = velocity(x_t[near], t[near]).mean(0)
    assert torch.allclose(v[near].mean(0), expected, atol=0.06)
    point, t, h = torch.randn(5, 2, dtype=torch.float64), at(0.6, 5), 1e-6
    slope = (flow(point, t, t + h) - flow(point, t, t - h)) / (2 * h)
    assert torch.allclose(slope, velocity(point, t), atol=1e-7)


def test_a_jump_to_where_one_is_changes_nothing(x):
    v, t = 1e6 * torch.randn_like(x), torch.rand(64, dtype=torch.float64)
    assert torch.equal(consistency.jump(x, v, t, t), x)


def test_the_mean_velocity_makes_the_jump_exact(x):
    start, end = at(0.9), at(0.25)
    made = consistency.jump(x, secant(end)(x, start), start, end)
    assert torch.allclose(made, flow(x, start, end), atol=1e-12)


def test_the_target_of_a_perfect_student_is_its_own_jump_up_to_the_teachers_step(x):
    """The one error left is that of an Euler step, which is of second order: half the step, a quarter of the error."""
    end, errors = at(0.25), []
    for step in (0.04, 0.02, 0.01):
        start, after = at(0.7), at(0.7 - step)
        made = consistency.target(x, Times(start, after, end), velocity, secant(end))
        errors.append((made - flow(x, start, end)).abs().max().item())
    assert errors[0] < 1e-2
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1) and errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_at_the_end_of_a_phase_the_target_is_the_teachers_step_alone(x):
    start, end = at(0.52), at(0.5)
    made = consistency.target(x, Times(start, end, end), velocity, lambda x, t: torch.full_like(x, 1e9))
    assert torch.equal(made, consistency.jump(x, velocity(x, start), start, end))


@pytest.mark.parametrize("phases", [1, 4])
def test_what_training_converges_to_is_the_teachers_path(x, phases):
    """Students that fit their targets exactly, one step of the teacher after another, jump where it arrives; with
    small steps that is the exact consistency map."""
    inner, low = 200, 1 - 1 / phases
    times = [low + (1 - low) * k / inner for k in range(inner + 1)]
    end = at(low)

    def student(k):
        """The field at times[k] whose jump is the target built on the field at times[k - 1]."""

        def field(x, t):
            whole = Times(at(times[k]), at(times[k - 1]), end)
            below = student(k - 1) if k > 1 else lambda x, t: torch.zeros_like(x)
            return (x - consistency.target(x, whole, velocity, below)) / (times[k] - low)

        return field

    made = consistency.jump(x, student(inner)(x, at(1.0)), at(1.0), end)
    walked = x
    for k in range(inner, 0, -1):
        walked = walked + (times[k - 1] - times[k]) * velocity(walked, at(times[k]))
    assert torch.allclose(made, walked, atol=1e-9)
    assert torch.allclose(made, flow(x, at(1.0), end), atol=0.02)


@pytest.mark.slow
def test_gradient_descent_finds_the_exact_map():
    """A student that is affine in x at every time, trained by targets, pseudo-Huber loss and average on data: one jump
    from noise ends where ten Euler steps of the exact velocity do."""
    inner, generator = 10, torch.Generator().manual_seed(0)
    slope, offset = (torch.zeros(inner + 1, n, requires_grad=True) for n in (1, 2))
    average = {"slope": torch.zeros(inner + 1, 1), "offset": torch.zeros(inner + 1, 2)}
    optimizer = torch.optim.Adam([slope, offset], lr=0.03)

    def field(slope, offset):
        def v(x, t):
            row = (t * inner).round().long()
            return slope[row] * x + offset[row]

        return v

    for step in range(500):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / 500)
        times = consistency.sample_times(256, 1, inner, generator)
        x0 = MEAN + SPREAD * torch.randn(256, 2, generator=generator)
        x = objective.add_noise(x0, torch.randn(256, 2, generator=generator), times.start)
        goal = consistency.target(x, times, velocity, field(**average))
        made = consistency.jump(x, field(slope, offset)(x, times.start), times.start, times.end)
        consistency.pseudo_huber(made, goal).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        consistency.ema_update(average, {"slope": slope, "offset": offset}, 0.95)
    ends = []
    for start in (torch.zeros(1, 2), torch.ones(1, 2)):
        walked = start
        for k in range(inner, 0, -1):
            walked = walked - velocity(walked, torch.tensor([k / inner])) / inner
        ends.append(walked)
    one = torch.ones(1)
    for start, expected in zip((torch.zeros(1, 2), torch.ones(1, 2)), ends, strict=True):
        made = consistency.jump(start, field(slope, offset)(start, one), one, 0 * one)
        assert torch.allclose(made, expected, atol=0.05)


@pytest.mark.parametrize(("phases", "steps", "inner"), [(1, 50, 50), (4, 50, 13), (3, 6, 2)])
def test_times_lie_on_the_teachers_steps_within_their_phase(phases, steps, inner):
    times = consistency.sample_times(20_000, phases, steps, torch.Generator().manual_seed(0))
    grid, length = phases * inner, 1 / (phases * inner)
    assert torch.allclose(times.start - times.after, torch.full((20_000,), length), atol=1e-6)
    assert (times.after >= times.end).all() and times.start.max() == 1 and times.after.min() == 0
    ends = (times.end * phases).round()
    assert torch.allclose(times.end * phases, ends, atol=1e-6) and set(ends.tolist()) == set(range(phases))
    assert (times.start <= times.end + 1 / phases + 1e-6).all()
    counts = torch.bincount((times.start * grid).round().long(), minlength=grid + 1)
    assert counts[0] == 0 and (counts[1:] / 20_000 * grid - 1).abs().max() < 0.25  # each as likely as the others


def test_each_sample_may_have_phases_of_its_own():
    phases = torch.tensor([1, 2]).repeat(1_000)
    times = consistency.sample_times(2_000, phases, 2, torch.Generator().manual_seed(0))
    one, two = (list(zip(*(t[i::2].tolist() for t in times), strict=True)) for i in range(2))
    assert set(one) == {(1.0, 0.5, 0.0), (0.5, 0.0, 0.0)} and set(two) == {(1.0, 0.5, 0.5), (0.5, 0.0, 0.0)}


def test_phases_end_where_a_shifted_sampler_stops():
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=[1, 0.75, 0.5, 0.25])
    times = consistency.sample_times(1_000, 4, 50, torch.Generator().manual_seed(0), shift=3.0)
    assert torch.allclose(times.end.unique(), scheduler.sigmas.flip(0)[:4], atol=1e-6)


def test_guidance_leads_away_from_no_text_by_each_samples_scale():
    with_text, without = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    made = consistency.guide(with_text, without, torch.tensor([0.0, 1.0, 3.0]))
    assert torch.equal(made[0], without[0]) and torch.allclose(made[1], with_text[1], atol=1e-6)
    assert torch.allclose(made[2] - with_text[2], 2 * (with_text[2] - without[2]), atol=1e-5)
    scales = consistency.sample_guidance(10_000, 1.5, 6.0, torch.Generator().manual_seed(0))
    assert 1.5 <= scales.min() < 1.51 and 5.99 < scales.max() <= 6 and abs(scales.mean() - 3.75) < 0.05


def test_pseudo_huber_is_square_near_zero_and_absolute_far_away():
    a = torch.tensor([0.0, 1e-5, 2.0], dtype=torch.bfloat16).float()
    made = consistency.pseudo_huber(a, torch.zeros(3))
    assert made[0] == 0 and made[1] == pytest.approx(a[1].item() ** 2 / 2e-3, abs=1e-7)
    assert made[2] == pytest.approx(2 - 1e-3, abs=1e-5)


def test_the_target_passes_no_gradient(x):
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    made = consistency.target(x, Times(at(0.8), at(0.7), at(0.5)), velocity, lambda x, t: weight * x)
    assert not made.requires_grad


def test_the_average_follows():
    average, live = {"a": torch.zeros(2), "b": torch.ones(3)}, {"a": torch.ones(2), "b": torch.ones(3), "c": None}
    for _ in range(3):
        consistency.ema_update(average, live, 0.95)
    assert torch.allclose(average["a"], torch.full((2,), 1 - 0.95**3)) and torch.equal(average["b"], torch.ones(3))
