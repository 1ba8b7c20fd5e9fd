"""Sampling that keeps what is given, for a task that the model was never trained for."""

import numpy as np
import pytest
import torch

from photofound import EditPipeline, Picture, Request
from photofound.sampling import KnownRegion, as_text_to_image
from tests.helpers import seeded


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def untrained(tiny_folder, request):
    pipe = EditPipeline.from_pretrained(tiny_folder, torch_dtype=request.param)
    pipe.register_to_config(trained_tasks=["generate"])
    return pipe


def test_at_the_end_what_is_given_is_the_photographs(photo):
    """A field that leads anywhere: outside the hole the last latents are the clean ones."""
    clean, hole = torch.randn(1, 4, 8, 8), torch.zeros(1, 1, 64, 64)
    hole[..., 17:40, 9:30] = 1
    known = KnownRegion.of(hole, clean, resample=3)
    assert known.hole[0, 0, 2:5, 1:4].all() and known.hole.sum() == 9, "each latent that a pixel of the hole lies in"
    x = known.noise = torch.randn(1, 4, 8, 8)
    times = torch.linspace(1, 0, 5)
    for t, after in zip(times[:-1], times[1:], strict=True):
        x, _ = known.step(lambda x, t: torch.randn_like(x), x, t, after, [seeded()])
    outside = (known.hole == 0).expand_as(x)
    assert torch.equal(x[outside], clean[outside]) and not torch.isclose(x, clean)[~outside].any()


def test_a_step_that_is_taken_again_has_the_noise_of_its_time():
    """What comes back from t to a later time has that time's variance (x_t = (1 - t) x0 + t eps)."""
    x0, t, later = torch.full((1, 1, 200, 200), 2.0), torch.tensor(0.3), torch.tensor(0.7)
    x = (1 - t) * x0 + t * torch.randn_like(x0)
    again = KnownRegion._noised(x, t, later, [seeded(9)])
    assert abs(again.mean() - 0.3 * 2) < 0.02 and abs(again.std() - 0.7) < 0.02


def test_the_exact_field_is_followed_with_any_number_of_repeats():
    """With the velocity of a known picture, resampled or not, sampling ends at that picture."""
    x0 = torch.randn(1, 4, 6, 6)
    for resample in (1, 4):
        known = KnownRegion(torch.ones(1, 1, 6, 6), x0 * 0, torch.randn_like(x0), resample)
        x, times = known.noise, torch.linspace(1, 0, 6)
        for t, after in zip(times[:-1], times[1:], strict=True):
            x, _ = known.step(lambda x, t: (x - x0) / t, x, t, after, [seeded()])
        torch.testing.assert_close(x, x0, atol=1e-4, rtol=1e-4)


def test_only_the_head_for_text_to_image_is_asked(untrained, photo, mask, monkeypatch):
    asked = []
    forward = untrained.transformer.forward
    monkeypatch.setattr(
        untrained.transformer,
        "forward",
        lambda *args, **inputs: (
            asked.append((inputs["task"], float(inputs["condition"][:, -64:].min()))) or forward(*args, **inputs)
        ),
    )
    request = Request("inpaint", Picture.from_any(photo), {"mask_image": mask}, steps=2, resample=3)
    made = untrained.answer(request).images[0]
    assert (made.pixels[mask == 0] == photo[mask == 0]).all()
    assert asked == [(0, 1.0)] * 6, "two steps, three times each, with nothing given"


def test_resampling_changes_the_result_and_seeds_keep_it(untrained, photo, mask):
    picture = Picture.from_any(photo)
    made = {
        n: [
            untrained.answer(Request("inpaint", picture, {"mask_image": mask}, 5, 3, resample=n)).images[0]
            for _ in "ab"
        ]
        for n in (1, 4)
    }
    assert all((a.pixels == b.pixels).all() for a, b in made.values())
    assert (made[1][0].pixels != made[4][0].pixels).any()


def test_bad_repeats_are_refused(untrained, photo, mask):
    for bad in (0, 21, "x", 1.5, True):
        with pytest.raises(ValueError, match="resample: .* from 1 to 20"):
            untrained.answer(Request("inpaint", Picture.from_any(photo), {"mask_image": mask}, resample=bad))


def test_a_trained_model_is_not_touched(tiny_folder, photo, mask):
    """``trained_tasks`` None is every task: resampling changes nothing."""
    pipe = EditPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
    picture = Picture.from_any(photo)
    a, b = (pipe.answer(Request("inpaint", picture, {"mask_image": mask}, 5, 1, resample=n)).images[0] for n in (1, 5))
    assert (a.pixels == b.pixels).all()


def test_settings_are_kept_by_saving_and_other_tasks(untrained, tmp_path):
    assert untrained.for_task("erase").config.trained_tasks == ["generate"]
    untrained.save_pretrained(tmp_path / "again")
    assert EditPipeline.from_pretrained(tmp_path / "again").config.trained_tasks == ["generate"]


def test_a_condition_of_text_alone_gives_nothing(photo):
    from photofound.edits.task import Condition

    given = Condition(torch.rand(2, 3, 8, 8), torch.zeros(2, 1, 8, 8), ["inpaint"] * 2, ["a", "b"], torch.ones(2))
    made = as_text_to_image(given)
    assert not made.canvas.any() and made.hole.all() and made.task == ["generate"] * 2 and made.prompt == ["a", "b"]
    assert not np.any(made.strength.numpy())
