"""From the rows of a run to figures with 95 % intervals: per method, and per pair of methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from photofound.eval import metrics
from photofound.eval.run import Evaluation, Row


@dataclass(frozen=True)
class Metric:
    """How to format and to read a metric.

    Attributes:
        style: the format of Python's ``format``.
        better: +1: higher is better; -1: lower; 0: nearer to zero; None: neither.
    """

    title: str
    style: str
    better: int | None
    about: str


METRICS = {
    "psnr": Metric("PSNR dB", ".2f", 1, "peak signal-to-noise ratio of the whole picture"),
    "y_psnr": Metric("Y-PSNR dB", ".2f", 1, "PSNR of BT.601 luma, without a frame as wide as the scale"),
    "hole_psnr": Metric("PSNR of the hole dB", ".2f", 1, "PSNR of the painted pixels"),
    "ssim": Metric("SSIM", ".3f", 1, "structural similarity of the whole picture"),
    "perceptual": Metric("perceptual distance", ".4f", -1, "distance over the features of the perceptual network"),
    "fid": Metric("FID", ".2f", -1, "Frechet distance between the features of results and truths"),
    "hole_fid": Metric(
        "Frechet distance of hole patches x100",
        ".2f",
        -1,
        "of 32 px squares cut from holes, over the perceptual network's features, times 100",
    ),
    "kid": Metric("KID x1000", ".2f", -1, "unbiased kernel distance of the same features, times 1,000"),
    "cmmd": Metric("CMMD", ".2f", -1, "Gaussian kernel distance of the same features, times 1,000"),
    "clip_score": Metric("CLIP score", ".1f", 1, "100 x cosine of prompt and picture"),
    "followed": Metric("colour followed", ".0%", 1, "share of swaps that bring the background visibly nearer"),
    "shift": Metric("colour shift", "+.1f", 1, "how much nearer the background comes, in CIE L*a*b*"),
    "growth": Metric("object growth", ".2%", -1, "area that the object gained, as a share of its own"),
    "seam": Metric("seam", "+.4f", 0, "step across the hole's border, minus the original's step at the same place"),
    "altered": Metric("kept pixels altered", ".2%", -1, "share of the pixels outside the hole that changed at all"),
    "consistency": Metric("consistency dB", ".1f", 1, "PSNR of the result, scaled back down, against the input"),
    "seconds": Metric("seconds", ".2f", -1, "per edit, from picture to picture; the first edit is not timed"),
    "memory": Metric("memory MB", ".0f", -1, "peak during the edit beyond what was held before"),
}


@dataclass(frozen=True)
class Figure:
    """The mean of a metric over all pictures, with its 95 % interval.

    Attributes:
        seeds: standard deviation between the seeds of one picture, averaged over pictures; None for one seed.
    """

    value: float
    low: float
    high: float
    seeds: float | None = None


@dataclass(frozen=True)
class Summary:
    """One method under one protocol."""

    protocol: str
    method: str
    pictures: int
    figures: dict[str, Figure]


def summarise(evaluation: Evaluation) -> list[Summary]:
    """The figures of every method under every protocol.

    A figure is the mean over pictures of the mean over seeds, with a bootstrap interval over pictures. Distances
    between sets of pictures have jackknife intervals.
    """
    grouped = _by_protocol_and_method(evaluation)
    order = list(dict.fromkeys(row.protocol for row in evaluation.rows))
    summaries = []
    for (protocol, method), rows in sorted(grouped.items(), key=lambda item: order.index(item[0][0])):
        figures = {name: _figure(name, rows) for name in METRICS if name in rows[0].values}
        figures |= _set_figures(evaluation.features.get((protocol, method), []), _SET_DISTANCES)
        figures |= _set_figures(evaluation.patches.get((protocol, method), []), _PATCH_DISTANCES)
        ordered = {name: figures[name] for name in METRICS if name in figures}
        summaries.append(Summary(protocol, method, len({row.picture for row in rows}), ordered))
    return summaries


def _by_protocol_and_method(evaluation: Evaluation) -> dict[tuple[str, str], list[Row]]:
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in evaluation.rows:
        grouped.setdefault((row.protocol, row.method), []).append(row)
    return grouped


def _by_picture(name: str, rows: Iterable[Row]) -> dict[str, list[float]]:
    """picture -> a metric's values, one per seed."""
    pictures: dict[str, list[float]] = {}
    for row in rows:
        if name in row.values:
            pictures.setdefault(row.picture, []).append(row.values[name])
    return pictures


def _figure(name: str, rows: Sequence[Row]) -> Figure:
    pictures = _by_picture(name, rows)
    several_seeds = max(len(values) for values in pictures.values()) > 1
    with np.errstate(invalid="ignore"):  # a perfect picture has infinite PSNR: there is a mean, but no interval
        means = np.array([np.mean(values) for values in pictures.values()])
        spread = float(np.mean([np.std(values, ddof=1) for values in pictures.values()])) if several_seeds else None
        return Figure(float(means.mean()), *metrics.bootstrap(means), spread)


# ---------------------------------------------------------------------------------------------------- pairs of methods


@dataclass(frozen=True)
class Difference:
    """A model minus another method, picture by picture.

    It is much more certain than two intervals side by side, since a hard picture is hard for both.

    Attributes:
        figure: of the difference.
        better: the number of ``pictures`` on which the model is strictly better.
        ratio: the model's mean divided by the rival's, for metrics that are 0 for equal pictures; otherwise None.
    """

    protocol: str
    method: str
    rival: str
    metric: str
    figure: Figure
    better: int
    pictures: int
    ratio: Figure | None = None


DISTANCES = ("perceptual",)
COMPARED = ("perceptual", "psnr", "y_psnr", "hole_psnr", "ssim", "growth", "clip_score")


def differences(evaluation: Evaluation) -> list[Difference]:
    """Every model against every other method, for every metric of ``COMPARED`` that both have."""
    grouped = _by_protocol_and_method(evaluation)
    found = []
    for protocol, method in grouped:
        rivals = [other for other in grouped if other[0] == protocol and other[1] != method]
        for _, rival in rivals if method in evaluation.models else []:
            for metric in COMPARED:
                ours, theirs = (_by_picture(metric, grouped[protocol, name]) for name in (method, rival))
                if ours.keys() & theirs.keys():
                    found.append(_difference(protocol, method, rival, metric, ours, theirs))
    return found


def _difference(
    protocol: str, method: str, rival: str, metric: str, ours: dict[str, list[float]], theirs: dict[str, list[float]]
) -> Difference:
    with np.errstate(invalid="ignore"):
        pairs = np.array([(np.mean(ours[name]), np.mean(theirs[name])) for name in ours if name in theirs])
        gains = pairs[:, 0] - pairs[:, 1]
        figure = Figure(float(gains.mean()), *metrics.bootstrap(gains))
    better = int((gains * (METRICS[metric].better or 0) > 0).sum())
    ratio = None
    if metric in DISTANCES and (pairs[:, 1] > 0).all():
        a, b = pairs[:, 0], pairs[:, 1]
        ratio = Figure(float(a.mean() / b.mean()), *metrics.bootstrap_ratio(a, b))
    return Difference(protocol, method, rival, metric, figure, better, len(gains), ratio)


# ----------------------------------------------------------------------------------- distances between sets of pictures

SetDistance = Callable[[np.ndarray, np.ndarray], float]
_SET_DISTANCES: dict[str, SetDistance] = {
    "fid": metrics.frechet_distance,
    "kid": lambda a, b: 1000 * metrics.kernel_distance(a, b),
    "cmmd": metrics.clip_distance,
}
_PATCH_DISTANCES: dict[str, SetDistance] = {"hole_fid": lambda a, b: 100 * metrics.frechet_distance(a, b)}


def _set_figures(
    pairs: Sequence[tuple[str, np.ndarray, np.ndarray]], distances: dict[str, SetDistance]
) -> dict[str, Figure]:
    """Distances between results and truths.

    They are computed per seed and averaged: several results of one picture in one set would look like a lack of
    variety. The jackknife leaves out pictures with all their seeds.
    """
    counts = Counter(name for name, _, _ in pairs)
    names = [name for name, count in counts.items() if count == max(counts.values())]  # without interrupted pictures
    if len(names) < 3:  # fewer than two pictures once one is left out
        return {}
    results = [[np.atleast_2d(result) for name, result, _ in pairs if name == each] for each in names]
    truths = [np.atleast_2d(next(truth for name, _, truth in pairs if name == each)) for each in names]
    figures = {}
    for metric, distance in distances.items():

        def of(chosen: np.ndarray, distance: SetDistance = distance) -> float:
            truth = np.concatenate([truths[i] for i in chosen])
            per_seed = [np.concatenate([results[i][seed] for i in chosen]) for seed in range(len(results[0]))]
            return float(np.mean([distance(each, truth) for each in per_seed]))

        value, error = of(np.arange(len(names))), metrics.jackknife(of, len(names))
        figures[metric] = Figure(value, value - 1.96 * error, value + 1.96 * error)
    return figures
