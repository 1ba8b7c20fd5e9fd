"""The path between data and noise, its times and its loss, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from photofound.model import flow


def pair(*shape):
    return torch.randn(shape or (4, 3, 5, 6)), torch.randn(shape or (4, 3, 5, 6))


def test_the_path_runs_from_data_to_noise():
    x0, noise = pair()
    assert torch.equal(flow.add_noise(x0, noise, torch.zeros(4)), x0)
    assert torch.equal(flow.add_noise(x0, noise, torch.ones(4)), noise)
    t = torch.tensor([0.1, 0.4, 0.7, 0.9])
    x_t = flow.add_noise(x0, noise, t)
    for i in range(4):
        assert torch.allclose(x_t[i], (1 - t[i]) * x0[i] + t[i] * noise[i], atol=1e-6)


def test_velocity_is_the_paths_derivative():
    x0, noise = (x.double() for x in pair())
    t = torch.rand(4, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(x0)
    (slope,) = torch.autograd.grad((flow.add_noise(x0, noise, t) * weights).sum(), t)
    assert torch.allclose(slope, (flow.velocity(x0, noise) * weights).sum((1, 2, 3)))


def test_sample_and_velocity_imply_each_other():
    x0, noise = (x.double() for x in pair())
    t = torch.tensor([0.05, 0.3, 0.8, 1.0], dtype=torch.float64)
    x_t, v = flow.add_noise(x0, noise, t), flow.velocity(x0, noise)
    assert torch.allclose(flow.to_sample(x_t, v, t), x0)
    assert torch.allclose(flow.to_velocity(x_t, x0, t), v)
    guess = torch.randn_like(v)
    assert torch.allclose(flow.to_velocity(x_t, flow.to_sample(x_t, guess, t), t), guess)


def test_below_the_floor_a_sample_is_divided_by_the_floor():
    x0, noise = pair(2, 3, 4, 4)
    t = torch.tensor([0.0, 0.02])
    x_t = flow.add_noise(x0, noise, t)
    assert torch.allclose(flow.to_velocity(x_t, x0, t), (x_t - x0) / 0.05)


def test_times_fit_any_number_of_axes_and_any_dtype():
    x = torch.zeros(2, 7, 3, dtype=torch.bfloat16)
    assert flow.expand(torch.rand(2), x).shape == (2, 1, 1)
    assert flow.expand(torch.rand(2), x).dtype == torch.bfloat16
    assert flow.add_noise(x, torch.ones_like(x), torch.tensor([0.0, 1.0]))[1].eq(1).all()


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_shift(shift):
    t = torch.linspace(0, 1, 11)
    shifted = flow.shift_time(t, shift)
    for before, after in zip(t.tolist(), shifted.tolist(), strict=True):
        assert after == pytest.approx(shift * before / (1 + (shift - 1) * before))
    assert shifted[0] == 0 and shifted[-1] == 1 and (shifted.diff() > 0).all()
    odds = shifted[1:-1] / (1 - shifted[1:-1])  # the shift multiplies the odds
    assert torch.allclose(odds, shift * t[1:-1] / (1 - t[1:-1]), rtol=1e-4)


@pytest.mark.parametrize("shift", [1.0, 2.5])
def test_times_are_logit_normal(shift):
    t = flow.sample_time(40_000, torch.Generator().manual_seed(0), shift, uniform=0.0)
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    expected = flow.shift_time(Normal(0.0, 1.0).icdf(levels).sigmoid(), shift)
    assert torch.allclose(torch.quantile(t, levels), expected, atol=0.01)
    assert t.min() > 0 and t.max() < 1


def test_a_share_of_the_times_is_uniform():
    generator = torch.Generator().manual_seed(0)
    flat = flow.sample_time(40_000, generator, uniform=1.0)
    assert torch.allclose(torch.quantile(flat, torch.tensor([0.1, 0.5, 0.9])), torch.tensor([0.1, 0.5, 0.9]), atol=0.01)
    mixed = flow.sample_time(40_000, generator, uniform=0.1)
    for low in (0.02, 0.05, 0.1):  # the mixture's distribution function is the mixture of the two
        expected = 0.9 * float(Normal(0.0, 1.0).cdf(torch.tensor(low).logit())) + 0.1 * low
        assert float((mixed < low).float().mean()) == pytest.approx(expected, abs=0.004)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_uniform_times_are_uniform_whatever_the_shift(shift):
    t = flow.sample_time(40_000, torch.Generator().manual_seed(0), shift, uniform=1.0)
    assert torch.allclose(torch.quantile(t, torch.tensor([0.1, 0.5, 0.9])), torch.tensor([0.1, 0.5, 0.9]), atol=0.01)
    normal = flow.sample_time(40_000, torch.Generator().manual_seed(0), shift, uniform=0.0)
    mixed = flow.sample_time(40_000, torch.Generator().manual_seed(0), shift, uniform=0.1)
    expected = 0.9 * float((normal < 0.05).float().mean()) + 0.1 * 0.05
    assert float((mixed < 0.05).float().mean()) == pytest.approx(expected, abs=0.003)


def test_times_follow_their_generator():
    draw = [flow.sample_time(8, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])


def test_the_loss_by_hand():
    prediction, target = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    prediction[0, :, 0, 0] = torch.tensor([1.0, 3.0])  # in the hole: mean square 5
    prediction[0, :, 1, 1] = torch.tensor([2.0, 0.0])  # given: mean square 2, with two more at 0
    hole = torch.tensor([[1.0, 0.0], [0.0, 0.0]])[None, None]
    assert flow.masked_loss(prediction, target, hole).item() == pytest.approx(5 + 0.1 * 2 / 3)
    assert flow.masked_loss(prediction, target, hole, known_weight=1.0).item() == pytest.approx(5 + 2 / 3)


def test_the_hole_is_brought_to_the_latents_by_its_share():
    prediction, target = pair(2, 4, 2, 2)
    hole = torch.zeros(2, 1, 16, 16)
    hole[:, :, :8, :4] = 1  # half of the first latent
    error = (prediction - target).square().mean(1)
    outside = (error.sum((1, 2)) - 0.5 * error[:, 0, 0]) / 3.5
    assert torch.allclose(flow.masked_loss(prediction, target, hole), error[:, 0, 0] + 0.1 * outside)


def test_only_hole_and_no_hole():
    prediction, target = pair(3, 4, 6, 6)
    mean = (prediction - target).square().mean((1, 2, 3))
    full, empty = torch.ones(3, 1, 48, 48), torch.zeros(3, 1, 48, 48)
    assert torch.allclose(flow.masked_loss(prediction, target, full), mean)
    assert torch.allclose(flow.masked_loss(prediction, target, empty), 0.1 * mean)


def test_a_small_hole_is_not_swamped():
    hole = torch.zeros(1, 1, 128, 128)
    hole[..., 40:48, 40:48] = 1  # one latent of 256
    right, wrong_inside, wrong_outside = torch.zeros(3, 1, 4, 16, 16)
    wrong_inside[..., 5, 5] = 1
    wrong_outside[..., 9, 9] = 1
    assert flow.masked_loss(right, right, hole) == 0
    assert flow.masked_loss(wrong_inside, right, hole).item() == pytest.approx(1.0)
    assert flow.masked_loss(wrong_outside, right, hole).item() == pytest.approx(0.1 / 255)


def test_a_single_pixels_hole_counts_in_full():
    hole = torch.zeros(1, 1, 128, 128)
    hole[..., 40, 40] = 1
    prediction = torch.zeros(1, 4, 16, 16)
    prediction[..., 5, 5] = 1
    assert flow.masked_loss(prediction, torch.zeros_like(prediction), hole, 0.0).item() == pytest.approx(1.0)


def test_the_loss_is_in_float32():
    prediction, target = pair(2, 4, 8, 8)
    low = flow.masked_loss(prediction.bfloat16(), target.bfloat16(), torch.ones(2, 1, 8, 8, dtype=torch.bool))
    assert low.dtype == torch.float32
    assert torch.allclose(low, (prediction.bfloat16().float() - target.bfloat16().float()).square().mean((1, 2, 3)))


def test_the_contrastive_term_by_hand():
    prediction, target = pair(3, 4, 2, 2)
    hole = torch.ones(3, 1, 16, 16)
    loss = flow.masked_loss(prediction, target, hole) - 0.05 * flow.contrastive_term(prediction, target, hole)
    for i, other in enumerate((2, 0, 1)):
        own = (prediction[i] - target[i]).square().mean() - 0.05 * (prediction[i] - target[other]).square().mean()
        assert loss[i].item() == pytest.approx(own.item(), rel=1e-5)


def test_the_contrastive_term_counts_given_regions_like_the_loss():
    prediction, target = pair(2, 4, 2, 2)
    hole = torch.zeros(2, 1, 16, 16)
    hole[:, :, :8, :8] = 1
    expected = flow.masked_loss(prediction, target.flip(0), hole, 0.3)
    assert torch.allclose(flow.contrastive_term(prediction, target, hole, 0.3), expected)


def test_one_sample_has_no_other():
    with pytest.raises(ValueError, match="needs two samples"):
        flow.contrastive_term(*pair(1, 4, 2, 2), torch.ones(1, 1, 16, 16))


@pytest.mark.parametrize("kind", ["velocity", "sample"])
def test_an_output_is_read_as_what_it_predicts(kind):
    x0, noise = pair(3, 4, 2, 2)
    t = torch.tensor([0.04, 0.3, 0.9])
    x_t, perfect = flow.add_noise(x0, noise, t), x0 if kind == "sample" else noise - x0
    v, clean = flow.interpret(perfect, x_t, t, kind)
    assert torch.allclose(clean, x0, atol=1e-5) and torch.allclose(v[1:], (noise - x0)[1:], atol=1e-5)
    off = torch.randn_like(x0)
    v, clean = flow.interpret(perfect + off, x_t, t, kind)
    floor = torch.tensor([0.05, 0.3, 0.9])[:, None, None, None]
    if kind == "sample":
        assert torch.equal(clean, perfect + off)
        assert torch.allclose(v, (x_t - clean) / floor)
    else:
        assert torch.equal(v, perfect + off)
        assert torch.allclose(clean, x_t - t[:, None, None, None] * v)


@pytest.mark.parametrize("kind", ["velocity", "sample"])
def test_the_exact_answer_has_no_loss_at_any_time(kind):
    x0, noise = pair(4, 4, 2, 2)
    t = torch.tensor([0.0, 0.005, 0.04, 0.9])
    x_t, exact = flow.add_noise(x0, noise, t), x0 if kind == "sample" else noise - x0
    v, _ = flow.interpret(exact, x_t, t, kind)
    target = flow.velocity_target(x_t, x0, noise, t, kind)
    assert torch.allclose(v, target, atol=1e-6)
    assert torch.allclose(target[3], (noise - x0)[3], atol=1e-5)  # above the floor both kinds have one target


def test_weights_count_within_their_region_only():
    prediction, target = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    target[..., :2, :], target[..., 2:, :] = 1.0, 3.0  # squared errors of 1 above and 9 below
    hole, weight = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    weight[..., 4:, :] = 0.0
    assert flow.masked_loss(prediction, target, hole).item() == 5
    assert flow.masked_loss(prediction, target, hole, weight=weight).item() == 1  # the object alone
    weight[..., 4:, :] = 1 / 3
    assert flow.masked_loss(prediction, target, hole, weight=weight).item() == pytest.approx((1 + 3) / (4 / 3))
    hole[..., :4] = 0.0  # the given half has the same errors
    with_given = flow.masked_loss(prediction, target, hole, known_weight=0.1, weight=weight)
    assert with_given.item() == pytest.approx(1.1 * 3)
    assert flow.masked_loss(prediction, target, hole, weight=0 * weight).item() == 0


def test_preference_loss_is_diffusion_dpo():
    """Equation 14 of arXiv:2311.12908, written out for one pair with numbers."""
    error, reference, beta = torch.tensor([[0.30], [0.50]]), torch.tensor([[0.40], [0.45]]), 10.0
    inner = -beta / 2 * ((0.30 - 0.40) - (0.50 - 0.45))  # better than the reference on w, worse on l
    assert flow.preference_loss(error, reference, beta).item() == pytest.approx(-math.log(1 / (1 + math.exp(-inner))))
    unchanged = flow.preference_loss(reference, reference, beta)
    assert unchanged.item() == pytest.approx(math.log(2))
    assert flow.preference_loss(error.flip(0), reference.flip(0), beta) > unchanged  # the wrong one preferred
