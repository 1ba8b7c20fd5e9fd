"""The report of an evaluation: JSON, Markdown, and one HTML page with pictures side by side."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from photofound.eval.methods import CLASSICAL
from photofound.eval.protocols import PROTOCOLS
from photofound.eval.run import Evaluation, Strip
from photofound.eval.summary import METRICS, Difference, Figure, Summary, differences, summarise


def write(folder: Path, evaluation: Evaluation, about: dict[str, Any]) -> list[Summary]:
    """Write ``report.json``, ``report.md`` and ``report.html`` into a folder; returns the summary.

    Args:
        about: facts about the run for the head of the report: title -> text or number.
    """
    summaries = summarise(evaluation)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(as_json(evaluation, summaries, about), encoding="utf-8")
    compared = differences(evaluation)
    rival = _rival_section(compare_with_rival(summaries, compared))
    (folder / "report.md").write_text(as_markdown(summaries, compared, about) + rival, encoding="utf-8")
    (folder / "report.html").write_text(as_html(summaries, compared, evaluation.strips, about), encoding="utf-8")
    return summaries


def as_json(evaluation: Evaluation, summaries: Sequence[Summary], about: dict[str, Any]) -> str:
    """``{"about", "metrics", "models", "summary", "differences", "rows"}``.

    ``models`` are the methods that are not classical. Figures that are not finite become null.
    """
    metrics = {
        name: {"title": each.title, "style": each.style, "better": each.better, "about": each.about}
        for name, each in METRICS.items()
    }
    tree: dict[str, Any] = {"about": about, "metrics": metrics, "models": evaluation.models}
    tree["summary"] = [asdict(each) for each in summaries]
    tree["differences"] = [asdict(each) for each in differences(evaluation)]
    return json.dumps(_finite(tree | {"rows": [asdict(row) for row in evaluation.rows]}), indent=1)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def by_protocol(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    """protocol -> its methods, in the order of the run."""
    grouped: dict[str, list[Summary]] = {}
    for each in summaries:
        grouped.setdefault(each.protocol, []).append(each)
    return grouped


def columns(methods: Sequence[Summary]) -> list[str]:
    """The metrics that at least one of these methods has."""
    return [name for name in METRICS if any(name in each.figures for each in methods)]


def best(methods: Sequence[Summary], name: str) -> float | None:
    """The best value of a metric; None if all are equal or fewer than two methods have it.

    The untouched photograph does not compete.
    """
    better = METRICS[name].better
    rivals = [each for each in methods if each.method != CLASSICAL["untouched"].name]
    values = [each.figures[name].value for each in rivals if name in each.figures]
    if better is None or len(set(values)) < 2:
        return None
    return max(values) if better > 0 else min(values) if better < 0 else min(values, key=abs)


# ------------------------------------------------------------------------------------------------------------- Markdown


def as_markdown(summaries: Sequence[Summary], compared: Sequence[Difference], about: dict[str, Any]) -> str:
    """A table per protocol, and every model against the other methods, picture by picture.

    The best figure of a column is bold; 95 % intervals are in brackets.
    """
    lines = ["# Evaluation", "", *(f"- {key}: {value}" for key, value in about.items()), ""]
    for protocol, methods in by_protocol(summaries).items():
        names = columns(methods)
        lines += [f"## {PROTOCOLS[protocol].title} (`{protocol}`)", "", _sentence(protocol, methods), ""]
        lines += [
            "| method | " + " | ".join(METRICS[name].title for name in names) + " |",
            "|---" * (len(names) + 1) + "|",
        ]
        for each in methods:
            cells = [_markdown_cell(each.figures.get(name), name, best(methods, name)) for name in names]
            lines.append(f"| {each.method} | " + " | ".join(cells) + " |")
        lines += ["", *(f"- {line}" for line in _paired_lines(protocol, compared)), ""]
    return "\n".join([*lines, *_legend(summaries), ""])


def contact_sheet(strips: Sequence[Strip]) -> np.ndarray:
    """(H, W, 3) uint8, a row per problem: the input, the results, the truth, each 320 x 240 pixels."""
    import cv2

    columns = max(len(strip.pictures) for strip in strips)
    rows = [list(strip.pictures.values()) for strip in strips]
    rows = [row + [np.full_like(row[0], 255)] * (columns - len(row)) for row in rows]
    return np.vstack(
        [np.hstack([cv2.resize(p, (320, 240), interpolation=cv2.INTER_AREA) for p in row]) for row in rows]
    )


def compare_with_rival(summaries: Sequence[Summary], compared: Sequence[Difference], rival: str = "patchmatch") -> str:
    """Markdown tables of every model against one classical method; "" if there is nothing to compare.

    The first table has a column per protocol that fills holes: the ratio of the perceptual distances (below 1: the
    model is nearer to the truth) and the difference in PSNR, with paired 95 % intervals. The second has the luma PSNR
    of all methods that enlarge.

    Args:
        rival: a key of ``CLASSICAL``.
    """
    title = CLASSICAL[rival].name
    pairs = [each for each in compared if each.rival == title and "hole_psnr" in _metrics(summaries, each.protocol)]
    names = list(dict.fromkeys(each.protocol for each in pairs))
    models = list(dict.fromkeys(each.method for each in pairs))
    tables = []
    if names:
        rows = [row for model in models for row in _rival_rows(model, title, names, pairs)]
        tables.append(_table(["", *(PROTOCOLS[name].title for name in names)], rows))
    enlarged = {name: each for name, each in by_protocol(summaries).items() if PROTOCOLS[name].enlarges}
    if enlarged:
        methods = list(dict.fromkeys(each.method for group in enlarged.values() for each in group))
        head = ["Y-PSNR dB", *(f"{PROTOCOLS[n].title}, {g[0].pictures} pictures" for n, g in enlarged.items())]
        tables.append(_table(head, [[m, *(_luma_cell(m, group) for group in enlarged.values())] for m in methods]))
    return "\n\n".join(tables)


def _metrics(summaries: Sequence[Summary], protocol: str) -> set[str]:
    return {name for each in summaries if each.protocol == protocol for name in each.figures}


def _rival_rows(model: str, rival: str, names: Sequence[str], pairs: Sequence[Difference]) -> list[list[str]]:
    def cell(metric: str, protocol: str) -> str:
        found = [e for e in pairs if (e.method, e.metric, e.protocol) == (model, metric, protocol)]
        figure = (found[0].ratio if metric == "perceptual" else found[0].figure) if found else None
        if figure is None:
            return "-"
        style = ".3f" if metric == "perceptual" else "+.2f"
        low, value, high = (format(v, style) for v in (figure.low, figure.value, figure.high))
        return f"{value} [{low}, {high}]"

    rows = {"perceptual": f"perceptual distance, {model} / {rival}", "psnr": f"PSNR dB, {model} - {rival}"}
    return [[title, *(cell(metric, name) for name in names)] for metric, title in rows.items()]


def _luma_cell(method: str, group: Sequence[Summary]) -> str:
    figure = next((each.figures.get("y_psnr") for each in group if each.method == method), None)
    return "-" if figure is None else " ".join(format_figure(figure, "y_psnr")).strip()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _rival_section(table: str) -> str:
    name = CLASSICAL["patchmatch"].name
    return f"\n## Against {name}\n\n{table}\n" if name in table else ""


def _sentence(protocol: str, methods: Sequence[Summary]) -> str:
    about, pictures = PROTOCOLS[protocol].about, methods[0].pictures
    stop = "" if about.endswith("?") else "."
    return f"{about[0].upper()}{about[1:]}{stop} {pictures} {'problem' if pictures == 1 else 'problems'}."


def _paired_lines(protocol: str, compared: Sequence[Difference]) -> list[str]:
    """Every model against every other method, by the first metric that was compared."""
    here = [each for each in compared if each.protocol == protocol]
    lines = []
    for each in (each for each in here if each.metric == here[0].metric):
        low, value, high = (format(v, "+" + METRICS[each.metric].style.lstrip("+")) for v in
                            (each.figure.low, each.figure.value, each.figure.high))  # fmt: skip
        lines.append(
            f"{each.method} against {each.rival}: {METRICS[each.metric].title} {value} [{low}, {high}], "
            f"better on {each.better} of {each.pictures}"
        )
    return lines


def _legend(summaries: Sequence[Summary]) -> list[str]:
    arrows = {1: "higher is better", -1: "lower is better", 0: "nearer to zero is better", None: ""}
    used = [METRICS[name] for name in columns(summaries)]
    return [f"- **{each.title}**: {each.about}; {arrows[each.better]}." for each in used]


def _markdown_cell(figure: Figure | None, name: str, best_value: float | None) -> str:
    if figure is None:
        return "-"
    value, interval = format_figure(figure, name)
    value = f"**{value}**" if figure.value == best_value else value
    return f"{value} {interval}".strip()


def format_figure(figure: Figure, name: str) -> tuple[str, str]:
    """A figure and its interval as text; the interval is "" if there is none to show."""
    style = METRICS[name].style
    value = "∞" if math.isinf(figure.value) else format(figure.value, style)
    if not all(map(math.isfinite, (figure.low, figure.high))) or name in ("seconds", "memory"):
        return value, ""
    low, high = format(figure.low, style), format(figure.high, style)
    return value, "" if low == high == value else f"[{low}, {high}]"


# ----------------------------------------------------------------------------------------------------------------- HTML


def as_html(
    summaries: Sequence[Summary], compared: Sequence[Difference], strips: Sequence[Strip], about: dict[str, Any]
) -> str:
    """One page without other files: tables with drawn intervals, and the pictures as small JPEGs."""
    grouped = by_protocol(summaries)
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{name}">{_text(PROTOCOLS[name].title)}</a>' for name in grouped)
    facts = "".join(f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in about.items())
    sections = "".join(
        _section(name, methods, _paired_lines(name, compared), strips) for name, methods in grouped.items()
    )
    legend = "".join(
        f"<dt>{_text(METRICS[n].title)}</dt><dd>{_text(METRICS[n].about)}</dd>" for n in columns(summaries)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head><body><main><h1>Evaluation</h1>"
        "<p>Means over photographs with their 95 % intervals; the best figure of a column is green.</p>"
        f"<dl>{facts}</dl><nav>{links}</nav>{sections}"
        f"<section><h2>What the columns mean</h2><dl>{legend}</dl></section>"
        "</main></body></html>\n"
    )


def _section(protocol: str, methods: Sequence[Summary], paired: Sequence[str], strips: Sequence[Strip]) -> str:
    names = columns(methods)
    head = "".join(f"<th>{_text(METRICS[name].title)}</th>" for name in names)
    body = "".join(
        f"<tr><td>{_text(each.method)}</td>" + "".join(_cell(each, name, methods) for name in names) + "</tr>"
        for each in methods
    )
    lines = "".join(f"<li>{_text(line)}</li>" for line in paired)
    pictures = "".join(_strip(strip) for strip in strips if strip.protocol == protocol)
    return (
        f'<section id="{protocol}"><h2>{_text(PROTOCOLS[protocol].title)}</h2>'
        f"<p>{_text(_sentence(protocol, methods))}</p>"
        f'<div class="scroll"><table><tr><th>method</th>{head}</tr>{body}</table></div>'
        f"<ul>{lines}</ul>{pictures}</section>"
    )


def _cell(summary: Summary, name: str, methods: Sequence[Summary]) -> str:
    figure = summary.figures.get(name)
    if figure is None:
        return "<td>-</td>"
    value, interval = format_figure(figure, name)
    best_one = ' class="best"' if figure.value == best(methods, name) else ""
    return f"<td{best_one}>{value}<small>{interval}</small>{_interval(figure, name, methods) if interval else ''}</td>"


def _interval(figure: Figure, name: str, methods: Sequence[Summary], width: int = 84) -> str:
    """The interval as a bar and the mean as a dot. All methods of a column share the scale."""
    others = [each.figures[name] for each in methods if name in each.figures]
    ends = [end for each in others for end in (each.low, each.high) if math.isfinite(end)]
    low, span = min(ends), (max(ends) - min(ends)) or 1.0
    left, middle, right = (4 + (value - low) / span * (width - 8) for value in (figure.low, figure.value, figure.high))
    return (
        f'<svg width="{width}" height="8" role="img" aria-label="interval">'
        f'<line x1="{left:.1f}" x2="{right:.1f}" y1="4" y2="4"/><circle cx="{middle:.1f}" cy="4" r="3.5"/></svg>'
    )


def _strip(strip: Strip) -> str:
    title = strip.picture + (f": “{strip.prompt}”" if strip.prompt else "")
    pictures = centre_crops(strip.pictures) if PROTOCOLS[strip.protocol].enlarges else strip.pictures
    figures = "".join(
        f'<figure><figcaption title="{_text(name)}">{_text(name)}</figcaption>'
        f'<img loading="lazy" alt="{_text(name)}" src="{data_uri(picture)}"></figure>'
        for name, picture in pictures.items()
    )
    return f'<h3>{_text(title)}</h3><div class="strip">{figures}</div>'


def centre_crops(pictures: dict[str, np.ndarray], side: int = 192) -> dict[str, np.ndarray]:
    """The same part of the middle of every picture, enlarged by repeating pixels to one size.

    Args:
        side: of the part, in pixels of the largest picture.
    """
    height, width = max(picture.shape[:2] for picture in pictures.values())
    crops = {}
    for name, picture in pictures.items():
        scale = height / picture.shape[0]
        part = [max(1, round(min(side, length) / scale)) for length in (height, width)]
        top, left = (picture.shape[0] - part[0]) // 2, (picture.shape[1] - part[1]) // 2
        middle = Image.fromarray(np.ascontiguousarray(picture[top : top + part[0], left : left + part[1]]))
        size = (2 * min(side, width), 2 * min(side, height))
        crops[name] = np.asarray(middle.resize(size, Image.Resampling.NEAREST))
    return crops


def data_uri(picture: np.ndarray, side: int = 384) -> str:
    """A small JPEG of (H, W, 3) uint8 as a data URI; its longer side has at most ``side`` pixels."""
    small = Image.fromarray(picture)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=84, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _text(value: Any) -> str:
    return html.escape(str(value))
