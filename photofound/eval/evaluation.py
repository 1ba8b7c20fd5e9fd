"""Methods side by side on the same problems: what each makes of them, measured.

    methods = [*classics(["telea"]), Ours("embedded")]
    found = evaluate(problems(find_photographs(folder), ["strokes-20"]), methods, Judges(perceptual=net))
    summaries = summarise(found)

Pictures are (H, W, 3) uint8, holes (H, W) bool.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from photofound.edits.masks import extent
from photofound.eval import metrics
from photofound.eval.methods import CLASSICS, Method
from photofound.eval.protocols import Problem
from photofound.image import to_tensor
from photofound.model.vision import FeatureNet, VisionModel

# ------------------------------------------------------------------------------------------------------------ measuring

Segmenter = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Judges:
    """The networks and functions that some metrics need; a metric whose judge is missing is left out.

    Attributes:
        perceptual: for the perceptual distance.
        features: for FID, KID and CMMD.
        clip: a network that knows language, for the CLIP score.
        segmenter: from (H, W, 3) float32 in [0, 1] and the known subject (H, W) bool to the whole subject (H, W) bool.
    """

    perceptual: VisionModel | None = None
    features: FeatureNet | None = None
    clip: FeatureNet | None = None
    segmenter: Segmenter = extent


def measure(problem: Problem, result: np.ndarray, judges: Judges) -> dict[str, float]:
    """Everything that can be said of one result, by the names in ``METRICS``."""
    made, given = (picture.astype(np.float32) / 255 for picture in (result, problem.given))
    row: dict[str, float] = {}
    if problem.truth is not None:
        row |= _against_truth(problem, made, problem.truth.astype(np.float32) / 255, judges)
    if problem.hole is not None:
        row["altered"] = metrics.altered(result, problem.given, ~problem.hole)
    if problem.hole is not None and problem.task != "outpaint":  # an object's outline is no seam
        original = problem.given if problem.truth is None else problem.truth
        row["seam"] = metrics.seam_excess(made, original.astype(np.float32) / 255, problem.hole)
    if problem.hole is not None and problem.task == "outpaint":
        found = judges.segmenter(made, ~problem.hole)
        row["growth"] = metrics.object_growth(~problem.hole, np.asarray(found) > 0.5)
    if problem.task == "upscale":
        row["consistency"] = metrics.consistency(made, given)
    if judges.clip is not None and problem.prompt:
        image, text = _embedded(judges.clip, made)[0], judges.clip.prompts([problem.prompt]).float().cpu().numpy()[0]
        row["clip_score"] = metrics.clip_score(image, text)
    return row


def _against_truth(problem: Problem, made: np.ndarray, truth: np.ndarray, judges: Judges) -> dict[str, float]:
    row = {"psnr": metrics.psnr(truth, made), "ssim": metrics.ssim(truth, made)}
    if problem.hole is not None:
        row["hole_psnr"] = metrics.psnr(truth, made, problem.hole)
    else:
        row["y_psnr"] = metrics.luma_psnr(truth, made, problem.scale)
    if judges.perceptual is not None:
        row["perceptual"] = metrics.perceptual(judges.perceptual, truth, made)
    return row


JUST_NOTICEABLE = 2.3  # in CIE L*a*b*


def follow(problem: Problem, before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """How much nearer the background came to the colour that the prompt names, and whether that can be seen, 1 or 0."""
    assert problem.hole is not None and problem.colour is not None
    shift = metrics.colour_shift(before / 255, after / 255, problem.hole, np.array(problem.colour))
    return {"followed": float(shift > JUST_NOTICEABLE), "shift": shift}


@torch.no_grad()
def _embedded(net: FeatureNet, picture: np.ndarray) -> np.ndarray:
    """(1, D)."""
    device = next(iter([*net.parameters(), *net.buffers()])).device
    return net(to_tensor(picture).to(device)).double().cpu().numpy()


@contextmanager
def cost(device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds of what runs inside, and the memory in MB that it needed at its peak beyond what was held before: of the
    GPU where it runs on one, else of the process (Linux only; left out where the system does not tell)."""
    spent: dict[str, float] = {}
    gpu = device.type == "cuda"
    held = torch.cuda.memory_allocated(device) if gpu else _resident("VmRSS", reset_peak=True)
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    yield spent
    if gpu:
        torch.cuda.synchronize(device)
    spent["seconds"] = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) if gpu else _resident("VmHWM")
    if held is not None and peak is not None:
        spent["memory"] = max(0, peak - held) / 2**20


def _resident(field: str, reset_peak: bool = False) -> int | None:
    """Bytes of this process in memory, now (VmRSS) or at the peak since the last reset (VmHWM)."""
    try:
        if reset_peak:
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free but not given back would hide what is needed
            Path("/proc/self/clear_refs").write_text("5")
        (line,) = re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except (OSError, ValueError, AttributeError):  # another system, or not allowed
        return None
    return int(line) * 1024


# ---------------------------------------------------------------------------------------------------------- a whole run


@dataclass(frozen=True)
class Row:
    """What was measured of one result."""

    protocol: str
    method: str
    picture: str
    seed: int
    values: dict[str, float]


@dataclass
class Strip:
    """One problem's pictures side by side: what was given, each method's result for the first seed, the truth."""

    protocol: str
    picture: str
    prompt: str
    shown: dict[str, np.ndarray]


@dataclass
class Evaluation:
    """All that a run found.

    Attributes:
        models: the methods that draw.
        features: (protocol, method) -> picture, and the vectors (D,) of its result and its truth.
        patches: the same with the vectors (P, D) of squares around its hole.
    """

    models: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)
    features: dict[tuple[str, str], list[tuple[str, np.ndarray, np.ndarray]]] = field(default_factory=dict)
    patches: dict[tuple[str, str], list[tuple[str, np.ndarray, np.ndarray]]] = field(default_factory=dict)


def evaluate(
    problems: Iterable[Problem],
    methods: Sequence[Method],
    judges: Judges | None = None,
    seeds: int = 1,
    strips: int = 4,
    progress: Callable[[str], None] = lambda line: None,
    found: Evaluation | None = None,
) -> Evaluation:
    """Every method on every problem that it can do.

    Args:
        seeds: how often a method that draws is asked, with the seeds 0, 1, ...
        strips: of how many problems per protocol the pictures are kept.
        progress: is told what is being done.
        found: what is filled, None for a new one; whoever holds it has what was found if the run does not end well.
    """
    judges = judges or Judges()
    found = Evaluation() if found is None else found
    found.models = [method.name for method in methods if method.draws]
    shown: dict[str, int] = {}
    warm: set[tuple[str, str]] = set()
    for problem in problems:
        progress(f"{problem.protocol}: {problem.name}")
        strip = Strip(problem.protocol, problem.name, problem.prompt, {"given": problem.given})
        truth = None if judges.features is None or problem.truth is None else _embed(judges.features, problem.truth)
        known = judges.perceptual is not None and problem.hole is not None and problem.truth is not None
        hidden = _hole_features(problem, problem.truth, judges) if known and problem.truth is not None else None
        for method in (method for method in methods if _can(method, problem)):
            if method.draws and (method.name, problem.task) not in warm:
                method.edit(problem, 0)  # what happens only once is not timed
                warm.add((method.name, problem.task))
            for seed in range(seeds if method.draws else 1):
                result, before, values = _ask(method, problem, seed, judges)
                found.rows.append(Row(problem.protocol, method.name, problem.name, seed, values))
                if seed == 0 and before is not None:
                    strip.shown[f"{method.name}, {problem.contrast}"] = before
                if seed == 0 and method is not CLASSICS["untouched"]:
                    strip.shown[method.name] = result
                if truth is not None and judges.features is not None:
                    pair = (problem.name, _embed(judges.features, result), truth)
                    found.features.setdefault((problem.protocol, method.name), []).append(pair)
                if hidden is not None:
                    pair = (problem.name, _hole_features(problem, result, judges), hidden)
                    found.patches.setdefault((problem.protocol, method.name), []).append(pair)
        if problem.truth is not None:
            strip.shown["truth"] = problem.truth
        shown[problem.protocol] = shown.get(problem.protocol, 0) + 1
        if shown[problem.protocol] <= strips:
            found.strips.append(strip)
    return found


def _can(method: Method, problem: Problem) -> bool:
    """The untouched photograph is no answer to a prompt."""
    return problem.task in method.tasks and not (method is CLASSICS["untouched"] and problem.contrast)


def _ask(
    method: Method, problem: Problem, seed: int, judges: Judges
) -> tuple[np.ndarray, np.ndarray | None, dict[str, float]]:
    """A method's result, that of the problem's other prompt if it has one, and what is measured."""
    with cost(method.device()) as spent:
        result = method.edit(problem, seed)
    wanted = (problem.given if problem.truth is None else problem.truth).shape
    if result.shape != wanted:
        raise ValueError(f"{method.name} returned {result.shape} for {problem.name}, not {wanted}; leave it out")
    values = measure(problem, result, judges) | spent
    if not problem.contrast:
        return result, None, values
    before = method.edit(replace(problem, prompt=problem.contrast), seed)
    return result, before, values | follow(problem, before, result)


def _embed(net: FeatureNet, picture: np.ndarray) -> np.ndarray:
    return _embedded(net, picture.astype(np.float32) / 255)[0]


def _hole_features(problem: Problem, picture: np.ndarray, judges: Judges) -> np.ndarray:
    assert problem.hole is not None and judges.perceptual is not None
    patches = metrics.hole_patches(picture.astype(np.float32) / 255, problem.hole)
    return metrics.patch_features(judges.perceptual, patches)


# ------------------------------------------------------------------------------------------------------------- summary


@dataclass(frozen=True)
class Metric:
    """How to show and to read a figure. ``better``: +1 higher, -1 lower, 0 nearer to zero, None neither."""

    title: str
    style: str
    better: int | None
    about: str


METRICS = {
    "psnr": Metric("PSNR dB", ".2f", 1, "peak signal-to-noise ratio of the whole picture"),
    "y_psnr": Metric("Y-PSNR dB", ".2f", 1, "PSNR of BT.601 luma without a frame as wide as the scale"),
    "hole_psnr": Metric("PSNR of the hole dB", ".2f", 1, "PSNR of what was painted"),
    "ssim": Metric("SSIM", ".3f", 1, "structural similarity of the whole picture"),
    "perceptual": Metric("perceptual distance", ".4f", -1, "distance over the features of the perceptual network"),
    "fid": Metric("FID", ".2f", -1, "Frechet distance of the features of results and truths"),
    "hole_fid": Metric(
        "Frechet distance of hole patches x100",
        ".2f",
        -1,
        "of 32 px squares cut from holes, over the perceptual network's features, times 100",
    ),
    "kid": Metric("KID x1000", ".2f", -1, "kernel distance of the same features, unbiased, times 1,000"),
    "cmmd": Metric("CMMD", ".2f", -1, "Gaussian kernel distance of the same features, times 1,000"),
    "clip_score": Metric("CLIP score", ".1f", 1, "100 x cosine of prompt and picture"),
    "followed": Metric("colour followed", ".0%", 1, "share of swaps that bring the background visibly nearer"),
    "shift": Metric("colour shift", "+.1f", 1, "how much nearer the background comes, in CIE L*a*b*"),
    "growth": Metric("object growth", ".2%", -1, "area that the object gained, as a share of its own"),
    "seam": Metric("seam", "+.4f", 0, "step across the hole's border less that in the original's same place"),
    "altered": Metric("kept pixels altered", ".2%", -1, "share of the pixels outside the hole that changed at all"),
    "consistency": Metric("consistency dB", ".1f", 1, "PSNR of the result, scaled back down, against what was given"),
    "seconds": Metric("seconds", ".2f", -1, "per edit, picture in to picture out, after a first one that is not timed"),
    "memory": Metric("memory MB", ".0f", -1, "peak during the edit beyond what was held before"),
}


@dataclass(frozen=True)
class Figure:
    """A metric over all pictures, with the 95 % interval of its mean. ``seeds``: standard deviation between the seeds
    of one picture, on average; None for one seed."""

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


def summarise(found: Evaluation) -> list[Summary]:
    """Means over pictures, after means over the seeds of each, with bootstrap intervals over pictures; distances of
    sets with jackknife intervals."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in found.rows:
        grouped.setdefault((row.protocol, row.method), []).append(row)
    order = list(dict.fromkeys(row.protocol for row in found.rows))
    summaries = []
    for (protocol, method), rows in sorted(grouped.items(), key=lambda item: order.index(item[0][0])):
        figures = {name: _figure(name, rows) for name in METRICS if name in rows[0].values}
        figures |= _set_figures(found.features.get((protocol, method), []), _SET_DISTANCES)
        figures |= _set_figures(found.patches.get((protocol, method), []), _PATCH_DISTANCES)
        ordered = {name: figures[name] for name in METRICS if name in figures}
        summaries.append(Summary(protocol, method, len({row.picture for row in rows}), ordered))
    return summaries


def _by_picture(name: str, rows: Iterable[Row]) -> dict[str, list[float]]:
    """picture -> a metric's values over the seeds."""
    pictures: dict[str, list[float]] = {}
    for row in rows:
        if name in row.values:
            pictures.setdefault(row.picture, []).append(row.values[name])
    return pictures


def _figure(name: str, rows: Sequence[Row]) -> Figure:
    pictures = _by_picture(name, rows)
    several = max(len(values) for values in pictures.values()) > 1
    with np.errstate(invalid="ignore"):  # a perfect picture has infinite PSNR, and a mean, but no interval
        means = np.array([np.mean(values) for values in pictures.values()])
        between = float(np.mean([np.std(values, ddof=1) for values in pictures.values()])) if several else None
        return Figure(float(means.mean()), *metrics.bootstrap(means), between)


@dataclass(frozen=True)
class Difference:
    """A model less a rival, picture by picture: far surer than two intervals side by side, since what is hard about a
    picture is so for both.

    Attributes:
        better: on so many of the ``pictures`` the model is strictly better.
        ratio: the model's mean over the rival's, of metrics of which 0 is perfect; else None.
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


def differences(found: Evaluation) -> list[Difference]:
    """Every model against every other method, by every metric of ``COMPARED`` that both have."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in found.rows:
        grouped.setdefault((row.protocol, row.method), []).append(row)
    made = []
    for protocol, method in grouped:
        rivals = [other for other in grouped if other[0] == protocol and other[1] != method]
        for _, rival in rivals if method in found.models else []:
            for metric in COMPARED:
                mine, theirs = (_by_picture(metric, grouped[protocol, name]) for name in (method, rival))
                if mine.keys() & theirs.keys():
                    made.append(_difference(protocol, method, rival, metric, mine, theirs))
    return made


def _difference(
    protocol: str, method: str, rival: str, metric: str, mine: dict[str, list[float]], theirs: dict[str, list[float]]
) -> Difference:
    with np.errstate(invalid="ignore"):
        both = np.array([(np.mean(mine[name]), np.mean(theirs[name])) for name in mine if name in theirs])
        steps = both[:, 0] - both[:, 1]
        figure = Figure(float(steps.mean()), *metrics.bootstrap(steps))
    better = int((steps * (METRICS[metric].better or 0) > 0).sum())
    ratio = None
    if metric in DISTANCES and (both[:, 1] > 0).all():
        a, b = both[:, 0], both[:, 1]
        ratio = Figure(float(a.mean() / b.mean()), *metrics.bootstrap_ratio(a, b))
    return Difference(protocol, method, rival, metric, figure, better, len(steps), ratio)


_SET_DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "fid": metrics.frechet_distance,
    "kid": lambda a, b: 1000 * metrics.kernel_distance(a, b),
    "cmmd": metrics.clip_distance,
}


_PATCH_DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "hole_fid": lambda a, b: 100 * metrics.frechet_distance(a, b)
}


def _set_figures(
    pairs: Sequence[tuple[str, np.ndarray, np.ndarray]], distances: dict[str, Callable[[np.ndarray, np.ndarray], float]]
) -> dict[str, Figure]:
    """Distances of results and truths, the mean over seeds: several results of one picture in one set would look like a
    lack of variety. Pictures, with all their seeds, are what is left out in turn."""
    counts = Counter(name for name, _, _ in pairs)
    names = [name for name, count in counts.items() if count == max(counts.values())]  # all but where a run was stopped
    if len(names) < 3:  # less than two pictures, once one is left out
        return {}
    results = [[np.atleast_2d(result) for name, result, _ in pairs if name == each] for each in names]
    truths = [np.atleast_2d(next(truth for name, _, truth in pairs if name == each)) for each in names]
    figures = {}
    for metric, distance in distances.items():

        def of(chosen: np.ndarray, distance: Callable[..., float] = distance) -> float:
            known = np.concatenate([truths[i] for i in chosen])
            made = [np.concatenate([results[i][seed] for i in chosen]) for seed in range(len(results[0]))]
            return float(np.mean([distance(each, known) for each in made]))

        value, error = of(np.arange(len(names))), metrics.jackknife(of, len(names))
        figures[metric] = Figure(value, value - 1.96 * error, value + 1.96 * error)
    return figures
