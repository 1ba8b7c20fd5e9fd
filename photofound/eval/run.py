"""Runs methods on the same problems and measures every result.

    methods = [*classical_methods(["telea"]), PhotofoundMethod("embedded")]
    evaluation = evaluate(problems(find_photographs(folder), ["strokes-20"]), methods, MetricNetworks(perceptual=net))
    summaries = summarise(evaluation)  # photofound.eval.summary

Pictures are (H, W, 3) uint8, holes (H, W) bool.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from photofound.edits.masks import extent
from photofound.eval import metrics
from photofound.eval.methods import CLASSICAL, Method
from photofound.eval.protocols import Problem
from photofound.image import to_tensor
from photofound.model.vision import FeatureNet, VisionModel

# ----------------------------------------------------------------------------------------------------------- one result

Segmenter = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class MetricNetworks:
    """The networks and functions that some metrics need. A metric without its network is left out.

    Attributes:
        perceptual: for the perceptual distance.
        features: for FID, KID and CMMD.
        clip: a network for pictures and text, for the CLIP score.
        segmenter: from (H, W, 3) float32 in [0, 1] and the known subject (H, W) bool to the whole subject (H, W) bool.
    """

    perceptual: VisionModel | None = None
    features: FeatureNet | None = None
    clip: FeatureNet | None = None
    segmenter: Segmenter = extent


def measure(problem: Problem, result: np.ndarray, networks: MetricNetworks) -> dict[str, float]:
    """All metrics of one result; the names are those of ``photofound.eval.summary.METRICS``."""
    output, given = (picture.astype(np.float32) / 255 for picture in (result, problem.given))
    values: dict[str, float] = {}
    if problem.truth is not None:
        values |= _against_truth(problem, output, problem.truth.astype(np.float32) / 255, networks)
    if problem.hole is not None:
        values["altered"] = metrics.altered(result, problem.given, ~problem.hole)
    if problem.hole is not None and problem.task != "outpaint":  # an object's outline is no seam
        original = problem.given if problem.truth is None else problem.truth
        values["seam"] = metrics.seam_excess(output, original.astype(np.float32) / 255, problem.hole)
    if problem.hole is not None and problem.task == "outpaint":
        segmented = networks.segmenter(output, ~problem.hole)
        values["growth"] = metrics.object_growth(~problem.hole, np.asarray(segmented) > 0.5)
    if problem.task == "upscale":
        values["consistency"] = metrics.consistency(output, given)
    if networks.clip is not None and problem.prompt:
        image, text = _embed(networks.clip, output), networks.clip.prompts([problem.prompt])
        values["clip_score"] = metrics.clip_score(image, text.float().cpu().numpy()[0])
    return values


def _against_truth(
    problem: Problem, output: np.ndarray, truth: np.ndarray, networks: MetricNetworks
) -> dict[str, float]:
    values = {"psnr": metrics.psnr(truth, output), "ssim": metrics.ssim(truth, output)}
    if problem.hole is not None:
        values["hole_psnr"] = metrics.psnr(truth, output, problem.hole)
    else:
        values["y_psnr"] = metrics.luma_psnr(truth, output, problem.scale)
    if networks.perceptual is not None:
        values["perceptual"] = metrics.perceptual(networks.perceptual, truth, output)
    return values


JUST_NOTICEABLE = 2.3  # distance in CIE L*a*b*


def colour_response(problem: Problem, before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """``shift``: how much nearer the background came to the prompt's colour. ``followed``: 1 if visible, else 0.

    ``before`` is the result of ``problem.contrast``, ``after`` that of ``problem.prompt``.
    """
    assert problem.hole is not None and problem.colour is not None
    shift = metrics.colour_shift(before / 255, after / 255, problem.hole, np.array(problem.colour))
    return {"followed": float(shift > JUST_NOTICEABLE), "shift": shift}


@torch.no_grad()
def _embed(net: FeatureNet, picture: np.ndarray) -> np.ndarray:
    """(D,) features of a picture (H, W, 3) in [0, 1]."""
    device = next(iter([*net.parameters(), *net.buffers()])).device
    return net(to_tensor(picture).to(device)).double().cpu().numpy()[0]


@contextmanager
def measure_cost(device: torch.device) -> Iterator[dict[str, float]]:
    """Measures ``seconds`` and ``memory`` of the code inside; the dict is filled at its end.

    Memory is the peak in MB beyond what was held before: of the GPU if the code runs on one, otherwise of the process.
    The process's memory is known on Linux only and is left out elsewhere.
    """
    costs: dict[str, float] = {}
    gpu = device.type == "cuda"
    before = torch.cuda.memory_allocated(device) if gpu else _process_memory("VmRSS", reset_peak=True)
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    yield costs
    if gpu:
        torch.cuda.synchronize(device)
    costs["seconds"] = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) if gpu else _process_memory("VmHWM")
    if before is not None and peak is not None:
        costs["memory"] = max(0, peak - before) / 2**20


def _process_memory(field: str, reset_peak: bool = False) -> int | None:
    """Bytes of this process in memory: now (VmRSS), or the peak since the last reset (VmHWM)."""
    try:
        if reset_peak:
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that is free but not returned would hide the need
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        (line,) = re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except (OSError, ValueError, AttributeError):  # another operating system, or not allowed
        return None
    return int(line) * 1024


# ---------------------------------------------------------------------------------------------------------- a whole run


@dataclass(frozen=True)
class Row:
    """The metrics of one result."""

    protocol: str
    method: str
    picture: str
    seed: int
    values: dict[str, float]


@dataclass
class Strip:
    """One problem's pictures side by side: the input, each method's result for seed 0, the truth."""

    protocol: str
    picture: str
    prompt: str
    pictures: dict[str, np.ndarray]


# (protocol, method) -> picture, features of its result, features of its truth
FeaturePairs = dict[tuple[str, str], list[tuple[str, np.ndarray, np.ndarray]]]


@dataclass
class Evaluation:
    """Everything that a run measured.

    Attributes:
        models: names of the methods that use a seed.
        features: features (D,) of whole pictures.
        patches: features (P, D) of squares around the hole.
    """

    models: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)
    features: FeaturePairs = field(default_factory=dict)
    patches: FeaturePairs = field(default_factory=dict)


def evaluate(
    problems: Iterable[Problem],
    methods: Sequence[Method],
    networks: MetricNetworks | None = None,
    seeds: int = 1,
    strips: int = 4,
    progress: Callable[[str], None] = lambda line: None,
    evaluation: Evaluation | None = None,
) -> Evaluation:
    """Runs every method on every problem that it can do.

    Args:
        seeds: how many seeds (0, 1, ...) a method that uses one is run with.
        strips: of how many problems per protocol the pictures are kept.
        progress: called with a line about each problem.
        evaluation: the object to fill, None for a new one. A caller that passes one keeps what was measured if the run
            is interrupted.
    """
    networks = networks or MetricNetworks()
    evaluation = Evaluation() if evaluation is None else evaluation
    evaluation.models = [method.name for method in methods if method.uses_seed]
    counts: dict[str, int] = {}
    warm: set[tuple[str, str]] = set()
    for problem in problems:
        progress(f"{problem.protocol}: {problem.name}")
        strip = Strip(problem.protocol, problem.name, problem.prompt, {"given": problem.given})
        truth = _features(problem, problem.truth, networks) if problem.truth is not None else {}
        for method in (method for method in methods if _can_edit(method, problem)):
            if method.uses_seed and (method.name, problem.task) not in warm:
                method.edit(problem, 0)  # the first call also loads and compiles; it is not timed
                warm.add((method.name, problem.task))
            for seed in range(seeds if method.uses_seed else 1):
                result, contrast, values = _edit_and_measure(method, problem, seed, networks)
                evaluation.rows.append(Row(problem.protocol, method.name, problem.name, seed, values))
                if seed == 0 and contrast is not None:
                    strip.pictures[f"{method.name}, {problem.contrast}"] = contrast
                if seed == 0 and method is not CLASSICAL["untouched"]:
                    strip.pictures[method.name] = result
                for name, features in (_features(problem, result, networks) if truth else {}).items():
                    pairs: FeaturePairs = getattr(evaluation, name)
                    pairs.setdefault((problem.protocol, method.name), []).append((problem.name, features, truth[name]))
        if problem.truth is not None:
            strip.pictures["truth"] = problem.truth
        counts[problem.protocol] = counts.get(problem.protocol, 0) + 1
        if counts[problem.protocol] <= strips:
            evaluation.strips.append(strip)
    return evaluation


def _can_edit(method: Method, problem: Problem) -> bool:
    """The untouched photograph is no answer to a prompt."""
    return problem.task in method.tasks and not (method is CLASSICAL["untouched"] and problem.contrast)


def _edit_and_measure(
    method: Method, problem: Problem, seed: int, networks: MetricNetworks
) -> tuple[np.ndarray, np.ndarray | None, dict[str, float]]:
    """A method's result, the result for ``problem.contrast`` if there is one, and the metrics."""
    with measure_cost(method.device()) as costs:
        result = method.edit(problem, seed)
    expected = (problem.given if problem.truth is None else problem.truth).shape
    if result.shape != expected:
        raise ValueError(f"{method.name} returned {result.shape} for {problem.name}, not {expected}; leave it out")
    values = measure(problem, result, networks) | costs
    if not problem.contrast:
        return result, None, values
    contrast = method.edit(replace(problem, prompt=problem.contrast), seed)
    return result, contrast, values | colour_response(problem, contrast, result)


def _features(problem: Problem, picture: np.ndarray, networks: MetricNetworks) -> dict[str, np.ndarray]:
    """What the distances between sets of pictures need: the keys are fields of ``Evaluation``."""
    values, floats = {}, picture.astype(np.float32) / 255
    if networks.features is not None:
        values["features"] = _embed(networks.features, floats)
    if networks.perceptual is not None and problem.hole is not None:
        patches = metrics.hole_patches(floats, problem.hole)
        values["patches"] = metrics.patch_features(networks.perceptual, patches)
    return values
