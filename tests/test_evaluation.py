"""Rows, costs, summaries: what a run measures is what the metrics say of the results."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import noise

from photofound.edits.masks import extent
from photofound.eval import metrics
from photofound.eval.methods import CLASSICAL, Method
from photofound.eval.protocols import Problem, centre_box
from photofound.eval.run import Evaluation, MetricNetworks, Row, evaluate, measure, measure_cost
from photofound.eval.summary import METRICS, differences, summarise
from photofound.model.vision import FeatureNet


def hidden(seed=0):
    truth, hole = noise(24, 32, seed=seed), centre_box(24, 32)
    return Problem("box-centre", f"{seed}.png", "inpaint", np.where(hole[..., None], np.uint8(127), truth), hole, truth)


class Noisy(Method):
    """The truth with noise in the hole, by the seed; remembers what it was asked."""

    name, tasks = "noisy", ("inpaint", "outpaint")

    def __init__(self):
        self.asked = []

    def edit(self, problem, seed):
        self.asked.append((problem.name, problem.prompt, seed))
        result = problem.given.copy()
        result[problem.hole] = noise(24, 32, seed=seed + 100)[problem.hole]
        return result


class Mean(FeatureNet):
    """Three features: the mean colour, also of the word for it."""

    name = "mean"

    def __init__(self):
        super().__init__()
        self.register_buffer("words", torch.tensor([[1.0, 0.0, 0.0]]))

    def forward(self, pixels):
        return (pixels + 1).mean((2, 3))

    def prompts(self, texts):
        return self.words.expand(len(texts), 3)


def test_a_row_holds_what_the_metrics_say():
    problem = hidden()
    result = Noisy().edit(problem, 0)
    made, truth = result.astype(np.float32) / 255, problem.truth.astype(np.float32) / 255
    row = measure(problem, result, MetricNetworks())
    assert set(row) == {"psnr", "ssim", "hole_psnr", "altered", "seam"}
    assert row["psnr"] == metrics.psnr(truth, made) and row["ssim"] == metrics.ssim(truth, made)
    assert row["hole_psnr"] == metrics.psnr(truth, made, problem.hole) < row["psnr"]
    assert row["seam"] == metrics.seam_excess(made, truth, problem.hole)
    assert row["altered"] == 0
    result[0, 0] ^= 1
    assert measure(problem, result, MetricNetworks())["altered"] == pytest.approx(1 / (~problem.hole).sum())


def test_an_enlargement_has_luma_and_consistency_and_a_prompt_its_score():
    truth = noise(24, 32)
    problem = Problem("x2", "n", "upscale", truth[::2, ::2], None, truth, scale=2)
    row = measure(problem, truth, MetricNetworks())
    assert set(row) == {"psnr", "ssim", "y_psnr", "consistency"} and row["psnr"] == math.inf
    red = np.zeros((24, 32, 3), np.uint8)
    red[..., 0] = 255
    said = replace(hidden(), prompt="red")
    assert measure(said, red, MetricNetworks(clip=Mean()))["clip_score"] == pytest.approx(100)
    assert "clip_score" not in measure(hidden(), red, MetricNetworks(clip=Mean()))


def test_growth_is_measured_by_the_segmenter_that_is_named():
    subject = np.zeros((24, 32), bool)
    subject[8:16, 8:16] = True
    problem = Problem("outpaint-product", "n", "outpaint", noise(24, 32), ~subject, None)

    def one_column_more(rgb, known):
        assert rgb.dtype == np.float32 and (known == subject).all()
        return np.roll(known, 1, 1)

    row = measure(problem, noise(24, 32), MetricNetworks(segmenter=one_column_more))
    assert row["growth"] == pytest.approx(8 / 64) and "seam" not in row


def test_grabcut_sees_an_object_that_was_extended_and_none_that_was_not():
    subject = np.zeros((96, 96), bool)
    subject[40:60, 30:66] = True
    rng = np.random.default_rng(0)
    alone = np.where(subject[..., None], (0.8, 0.1, 0.1), (0.2, 0.5, 0.3)) + rng.normal(0, 0.02, (96, 96, 3))
    longer = alone.copy()
    longer[60:67, 40:56] = (0.8, 0.1, 0.1)  # 7 x 16 pixels more, a handle
    alone, longer = (p.clip(0, 1).astype(np.float32) for p in (alone, longer))
    assert metrics.object_growth(subject, extent(alone, subject)) < 0.01
    assert metrics.object_growth(subject, extent(longer, subject)) == pytest.approx(7 * 16 / (20 * 36), rel=0.15)
    apart = alone.copy()
    apart[70:80, 40:56] = (0.8, 0.1, 0.1)  # another such thing is not the object
    assert metrics.object_growth(subject, extent(apart, subject)) < 0.01
    for empty in (np.zeros_like(subject), np.ones_like(subject)):
        assert (extent(alone, empty) == empty).all()


def test_every_seed_is_asked_of_methods_that_draw_and_the_first_edit_is_not_timed():
    method = Noisy()
    found = evaluate([hidden(0), hidden(1)], [CLASSICAL["telea"], method], seeds=3)
    assert method.asked == [("0.png", "", 0), *[(f"{i}.png", "", seed) for i in (0, 1) for seed in (0, 1, 2)]]
    assert [(r.method, r.picture, r.seed) for r in found.rows[:4]] == [
        ("Telea", "0.png", 0), *[("noisy", "0.png", seed) for seed in (0, 1, 2)]
    ]  # fmt: skip
    assert all(row.values["seconds"] >= 0 for row in found.rows)
    assert [list(strip.pictures) for strip in found.strips] == [["given", "Telea", "noisy", "truth"]] * 2


def test_methods_are_asked_only_what_they_can_do():
    outpaint = Problem(
        "colour-words", "n", "outpaint", noise(24, 32), centre_box(24, 32), None, "red", "blue", (1, 0, 0)
    )
    found = evaluate([outpaint], [CLASSICAL["telea"], CLASSICAL["untouched"], Noisy()])
    assert [row.method for row in found.rows] == ["noisy"]
    plain = replace(outpaint, contrast="", colour=None)
    assert [row.method for row in evaluate([plain], [CLASSICAL["untouched"]]).rows] == ["untouched"]


@pytest.mark.parametrize(("painted", "moved"), [((250, 0, 0), 1.0), ((101, 100, 100), 0.0), ((0, 0, 250), 0.0)])
def test_a_colour_word_counts_when_the_background_visibly_follows(painted, moved):
    class Prompted(Method):
        name, tasks = "prompted", ("outpaint",)

        def edit(self, problem, seed):
            return np.full_like(problem.given, painted if problem.prompt == "red" else 100)

    problem = Problem(
        "colour-words", "n", "outpaint", noise(24, 32), centre_box(24, 32), None, "red", "blue", (1, 0, 0)
    )
    found = evaluate([problem], [Prompted()])
    assert found.rows[0].values["followed"] == moved
    assert list(found.strips[0].pictures) == ["given", "prompted, blue", "prompted"]
    assert (found.strips[0].pictures["prompted, blue"] == 100).all()


def test_a_result_of_another_size_is_refused():
    class Wrong(Noisy):
        def edit(self, problem, seed):
            return problem.given[:-1]

    with pytest.raises(ValueError, match=r"noisy returned \(23, 32, 3\) for 0.png, not \(24, 32, 3\)"):
        evaluate([hidden()], [Wrong()])


def test_strips_are_kept_of_the_first_problems_only():
    assert [s.picture for s in evaluate([hidden(i) for i in range(3)], [Noisy()], strips=2).strips] == [
        "0.png",
        "1.png",
    ]


@pytest.mark.slow
def test_memory_is_what_an_edit_needs_beyond_what_is_held():
    held = np.ones(2**23)  # 64 MB that do not count
    with measure_cost(torch.device("cpu")) as spent:
        needed = np.ones(2**24)  # 128 MB that do, for a moment
        del needed
    if "memory" not in spent:
        pytest.skip("this system does not tell")
    assert 120 < spent["memory"] < 160 and spent["seconds"] > 0 and held[0] == 1


def test_means_are_over_pictures_with_their_seeds_averaged_first():
    values = {"a": [1.0, 3.0], "b": [10.0]}
    rows = [Row("x4", "m", name, i, {"psnr": v}) for name, all in values.items() for i, v in enumerate(all)]
    (summary,) = summarise(Evaluation([], rows + [Row("x4", "m", "b", 1, {"psnr": 10.0})]))
    figure = summary.figures["psnr"]
    assert figure.value == pytest.approx((2 + 10) / 2) and summary.pictures == 2
    assert (figure.low, figure.high) == (2, 10)  # of two pictures, each may be drawn twice
    assert figure.seeds == pytest.approx(math.sqrt(2) / 2)


def test_a_model_is_compared_picture_by_picture():
    pictures = {"a": (3.0, 1.0), "b": (20.0, 18.5), "c": (7.0, 7.5)}
    rows = [
        Row("x4", name, p, 0, {"psnr": v}) for p, both in pictures.items() for name, v in zip("mt", both, strict=True)
    ]
    (found,) = differences(Evaluation(["m"], rows))
    assert (found.method, found.rival, found.metric) == ("m", "t", "psnr") and (found.better, found.pictures) == (2, 3)
    assert found.figure.value == pytest.approx(1.0) and (found.figure.low, found.figure.high) == (-0.5, 2.0)
    lower = [replace(row, values={"perceptual": row.values["psnr"]}) for row in rows]
    assert differences(Evaluation(["m"], lower))[0].better == 1 and differences(Evaluation([], rows)) == []


def test_a_ratio_is_of_the_means_of_pairs():
    values = {"a": (0.2, 0.4), "b": (0.3, 0.3)}
    rows = [
        Row("x4", name, p, seed, {"perceptual": v + seed / 10 * (name == "m"), "psnr": v})
        for p, both in values.items()
        for name, v in zip("mt", both, strict=True)
        for seed in (0, 1)
    ]
    found = {each.metric: each for each in differences(Evaluation(["m"], rows))}
    assert found["perceptual"].ratio.value == pytest.approx((0.25 + 0.35) / 0.7)
    assert found["perceptual"].ratio.low == pytest.approx(0.25 / 0.4) and found["psnr"].ratio is None
    perfect = [replace(row, values={"perceptual": 0.0}) for row in rows]
    assert differences(Evaluation(["m"], perfect))[0].ratio is None


def test_patches_of_holes_are_compared_as_one_set():
    class Half(torch.nn.Module):
        width, side = 3, 1

        def patches(self, pixels, grid=None):
            return (pixels + 1).flatten(2).transpose(1, 2)

    problems, method, net = [hidden(i) for i in range(4)], Noisy(), Half()
    found = evaluate(problems, [method], MetricNetworks(perceptual=net), seeds=2)

    def features(picture, hole):
        return metrics.patch_features(net, metrics.hole_patches((picture / 255).astype(np.float32), hole))

    truths = np.concatenate([features(p.truth, p.hole) for p in problems])
    made = [np.concatenate([features(method.edit(p, seed), p.hole) for p in problems]) for seed in (0, 1)]
    expected = np.mean([metrics.frechet_distance(each, truths) for each in made])
    figure = summarise(found)[0].figures["hole_fid"]
    assert truths.shape == (64, 3) and figure.value == pytest.approx(100 * expected)
    assert figure.low < figure.value < figure.high
    perfect = replace(found, patches={k: [(n, t, t) for n, _, t in v] for k, v in found.patches.items()})
    assert summarise(perfect)[0].figures["hole_fid"].value == pytest.approx(0, abs=1e-9)
    larger = Problem("x2", "n", "upscale", noise(24, 32)[::2, ::2], None, noise(24, 32), scale=2)
    assert not evaluate([larger], [CLASSICAL["bicubic"]], MetricNetworks(perceptual=net)).patches


def test_sets_are_compared_over_the_features_of_all_pictures():
    problems, method = [hidden(i) for i in range(5)], Noisy()
    found = evaluate(problems, [method], MetricNetworks(features=Mean()), seeds=2)
    (summary,) = summarise(found)
    sets = [np.array([2 * (method.edit(p, seed) / 255).mean((0, 1)) for p in problems]) for seed in (0, 1)]
    b = np.array([2 * (problem.truth / 255).mean((0, 1)) for problem in problems])

    def over_seeds(distance):
        return np.mean([distance(a, b) for a in sets])

    assert summary.figures["fid"].value == pytest.approx(over_seeds(metrics.frechet_distance), rel=1e-3)
    assert summary.figures["kid"].value == pytest.approx(1000 * over_seeds(metrics.kernel_distance), rel=1e-2)
    assert summary.figures["cmmd"].value == pytest.approx(over_seeds(metrics.clip_distance), rel=1e-2)
    assert summary.figures["fid"].low < summary.figures["fid"].value < summary.figures["fid"].high
    assert list(summary.figures) == [name for name in METRICS if name in summary.figures]
    del found.features[("box-centre", "noisy")][-1]  # stopped before the second seed of the last picture
    assert math.isfinite(summarise(found)[0].figures["fid"].value)
    few = summarise(evaluate(problems[:2], [method], MetricNetworks(features=Mean())))[0]
    assert "fid" not in few.figures
