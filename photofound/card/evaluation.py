"""A report of ``photofound eval`` in a card: its tables, and sentences on where the model is better or worse.

An evaluation is a part of the report's JSON: ``method`` (the model's name in it), ``summary``, ``metrics``, ``models``,
``differences``, ``about``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from photofound.card import record

JUDGED = ("perceptual", "y_psnr", "psnr")  # the first of these that was measured decides which method is better
COSTS = ("seconds", "memory")  # they depend on the machine and are no quality
STRONGEST = "PatchMatch"  # the strongest method without a model; a claim without it would be empty
UNTOUCHED = "untouched"


def read_report(path: Path) -> dict[str, Any]:
    """A report.json. Raises FileNotFoundError, and ValueError for a file of another kind."""
    if not path.is_file():
        raise FileNotFoundError(f"card: {path} does not exist; write it with 'photofound eval PHOTOS -o DIR'")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if not all(each["figures"].items() for each in tree["summary"]):
            raise ValueError("a summary without figures")
        return tree
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"card: {path} is no report of 'photofound eval' ({error}); name its report.json") from None


def excerpt(report: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The part of a report that a card needs, without paths.

    Args:
        method: the model's name in the report, or the beginning of it.

    Raises ValueError if the report has no such method.
    """
    names = list(dict.fromkeys(each["method"] for each in report["summary"]))
    found = report.get("method") or next((name for name in names if name == method), None)
    found = found or next((name for name in names if name.startswith(method)), None)
    if found is None:
        raise ValueError(f"card: the report has no method {method!r}; name one of {', '.join(names)} with --method")
    kept = {key: report[key] for key in ("about", "metrics", "models", "summary") if key in report}
    paired = [each for each in report.get("differences", ()) if each["method"] == found and each["metric"] in JUDGED]
    kept |= {"differences": paired} if paired else {}
    return {"method": found} | record.without_paths(kept)


def by_protocol(evaluation: Mapping[str, Any] | None) -> dict[str, list[dict[str, Any]]]:
    """protocol -> the summaries of its methods."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for each in evaluation["summary"] if evaluation else ():
        grouped.setdefault(each["protocol"], []).append(each)
    return grouped


def own_figures(evaluation: Mapping[str, Any], summaries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The model's figures under one protocol; empty if it was not measured there."""
    return next((each["figures"] for each in summaries if each["method"] == evaluation["method"]), {})


def cost_of_thousand(evaluation: Mapping[str, Any] | None, price: Mapping[str, float], currency: str) -> str:
    """The time and, by the price of the machine that they were made on, the money of 1,000 images; empty
    where no seconds were measured.

    Args:
        price: part of the machine's name -> for an hour; "" stands for all.
    """
    own = [own_figures(evaluation, each) for each in by_protocol(evaluation).values()] if evaluation else []
    seconds = [figures["seconds"]["value"] for figures in own if figures.get("seconds", {}).get("value")]
    if not evaluation or not seconds:
        return ""
    machine, mean = evaluation.get("about", {}).get("machine", ""), sum(seconds) / len(seconds)
    rate = next((x for name, x in price.items() if name and name.lower() in machine.lower()), price.get(""))
    hours = mean * 1000 / 3600
    money = f", {currency}{hours * rate:,.2g} at {currency}{rate:g} an hour" if rate else ""
    return f"{hours:.2g} hours{money}: {mean:.2g} s each on {machine or 'an unknown machine'}"


# --------------------------------------------------------------------------------------------------------------- tables


def figure_table(
    evaluation: Mapping[str, Any], summaries: Sequence[Mapping[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a protocol's table; the best figure of a column is bold."""
    metrics = evaluation.get("metrics", {})
    names = list(dict.fromkeys(name for each in summaries for name in each["figures"]))
    best = {name: best_value(summaries, name, metrics.get(name, {}).get("better")) for name in names}
    head = ["method", *(metrics.get(name, {}).get("title", name) for name in names)]
    rows = [[each["method"], *(figure_text(each["figures"], n, metrics, best[n]) for n in names)] for each in summaries]
    return head, rows


def best_value(summaries: Sequence[Mapping[str, Any]], name: str, better: int | None) -> float | None:
    """The best value of a metric; None if no value is better than another."""
    values = [each["figures"][name]["value"] for each in summaries if name in each["figures"]]
    values = [value for value in values if value is not None]
    if better is None or len(set(values)) < 2:
        return None
    return max(values) if better > 0 else min(values) if better < 0 else min(values, key=abs)


def figure_text(figures: Mapping[str, Any], name: str, metrics: Mapping[str, Any], best: float | None = None) -> str:
    """A figure with its interval, bold if it is the best."""
    figure = figures.get(name)
    if figure is None or figure["value"] is None:
        return "-"
    style = metrics.get(name, {}).get("style", ".4g")
    value, low, high = (
        None if x is None else format(x, style) for x in (figure["value"], figure.get("low"), figure.get("high"))
    )
    text = f"**{value}**" if figure["value"] == best else str(value)
    return text if None in (low, high) or low == high else f"{text} [{low}, {high}]"


def legend(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The metrics that appear in the tables and have an explanation."""
    used = {name for each in evaluation["summary"] for name in each["figures"]}
    return [metric for name, metric in evaluation.get("metrics", {}).items() if name in used and metric.get("about")]


# ------------------------------------------------------------------------------------------------------------ sentences


def comparisons(evaluation: Mapping[str, Any] | None) -> list[str]:
    """A sentence per protocol on whether the model is better than every method without a model.

    It is better than another method if the paired interval of their difference excludes 0, or, in a report without
    differences, if its mean is better. For filled holes nothing is claimed unless PatchMatch was measured, too.
    """
    sentences = []
    for protocol, summaries in by_protocol(evaluation).items():
        assert evaluation is not None
        ours = own_figures(evaluation, summaries)
        metric = next((name for name in JUDGED if ours.get(name, {}).get("value") is not None), None)
        others = {each["method"]: each["figures"] for each in summaries if each["method"] != evaluation["method"]}
        rivals = [name for name in others if name not in (UNTOUCHED, *evaluation.get("models", ()))]
        rivals = [name for name in rivals if others[name].get(metric, {}).get("value") is not None]
        if metric is None or not rivals:
            continue
        title = evaluation["metrics"].get(metric, {}).get("title", metric)
        if "seam" in ours and STRONGEST not in rivals:
            sentences.append(f"{protocol}: {STRONGEST} was not asked, so nothing is claimed.")
            continue
        not_beaten = [name for name in rivals if not _is_better(evaluation, protocol, metric, ours, name, others[name])]
        if not not_beaten:
            sentences.append(f"{protocol}: better than every method without a model ({', '.join(rivals)}) by {title}.")
        for name in not_beaten:
            mine, theirs = (figure_text(figures, metric, evaluation["metrics"]) for figures in (ours, others[name]))
            by_mean = {**evaluation, "differences": ()}
            worse = not _is_better(by_mean, protocol, metric, ours, name, others[name])
            relation = "worse than" if worse else "not surely better than"
            sentences.append(f"{protocol}: {relation} {name}: {title} {mine} against {theirs}.")
    return sentences


def _is_better(
    evaluation: Mapping[str, Any],
    protocol: str,
    metric: str,
    ours: Mapping[str, Any],
    rival: str,
    theirs: Mapping[str, Any],
) -> bool:
    """Whether the model is better than a rival by a metric."""
    sign = evaluation["metrics"].get(metric, {}).get("better") or (-1 if metric == "perceptual" else 1)
    for each in evaluation.get("differences", ()):
        if (each["protocol"], each["rival"], each["metric"]) == (protocol, rival, metric):
            worst = each["figure"]["low" if sign > 0 else "high"]
            return worst is not None and sign * worst > 0
    return sign * (ours[metric]["value"] - theirs[metric]["value"]) > 0


def weaknesses(evaluation: Mapping[str, Any] | None) -> list[str]:
    """A sentence for every metric by which another method of the report is better; costs do not count."""
    sentences = []
    for protocol, summaries in by_protocol(evaluation).items():
        assert evaluation is not None
        metrics = evaluation.get("metrics", {})
        ours = own_figures(evaluation, summaries)
        for name in (name for name in ours if name not in COSTS):
            best = best_value(summaries, name, metrics.get(name, {}).get("better"))
            if best is None or ours[name]["value"] in (best, None):
                continue
            other = next(each for each in summaries if each["figures"].get(name, {}).get("value") == best)
            title = metrics[name].get("title", name)
            mine, theirs = (figure_text(figures, name, metrics) for figures in (ours, other["figures"]))
            if mine != theirs:  # equal once rounded
                sentences.append(f"{protocol}: {title} {mine}, where {other['method']} has {theirs}.")
    return sentences
