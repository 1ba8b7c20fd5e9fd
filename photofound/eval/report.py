"""What an evaluation found, for machines and people: JSON, Markdown, and one HTML page with pictures side by side."""

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

from photofound.eval.evaluation import METRICS, Difference, Evaluation, Figure, Strip, Summary, differences, summarise
from photofound.eval.methods import CLASSICS
from photofound.eval.protocols import PROTOCOLS


def write(folder: Path, found: Evaluation, about: dict[str, Any]) -> list[Summary]:
    """Write ``report.json``, ``report.md`` and ``report.html`` into a folder; returns the summary.

    Args:
        about: facts of the run for the head of the report: title -> text or number.
    """
    summaries = summarise(found)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(as_json(found, summaries, about))
    compared = differences(found)
    (folder / "report.md").write_text(as_markdown(summaries, compared, about) + _headed(opponent(summaries, compared)))
    (folder / "report.html").write_text(as_html(summaries, compared, found.strips, about))
    return summaries


def as_json(found: Evaluation, summaries: Sequence[Summary], about: dict[str, Any]) -> str:
    """``{"about", "metrics", "models", "summary", "differences", "rows"}``, where models are the methods that are not
    classical; figures that are not finite are null."""
    metrics = {
        name: {"title": each.title, "style": each.style, "better": each.better, "about": each.about}
        for name, each in METRICS.items()
    }
    tree: dict[str, Any] = {"about": about, "metrics": metrics, "models": found.models}
    tree["summary"] = [asdict(each) for each in summaries]
    tree["differences"] = [asdict(each) for each in differences(found)]
    return json.dumps(_finite(tree | {"rows": [asdict(row) for row in found.rows]}), indent=1)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def by_protocol(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    """In the order of the run."""
    grouped: dict[str, list[Summary]] = {}
    for each in summaries:
        grouped.setdefault(each.protocol, []).append(each)
    return grouped


def columns(methods: Sequence[Summary]) -> list[str]:
    """The metrics that any of these methods has."""
    return [name for name in METRICS if any(name in each.figures for each in methods)]


def best(methods: Sequence[Summary], name: str) -> float | None:
    """The best value of a metric, None for fewer than two methods or where all are equal. What is left untouched is no
    competitor."""
    better = METRICS[name].better
    rivals = [each for each in methods if each.method != CLASSICS["untouched"].name]
    values = [each.figures[name].value for each in rivals if name in each.figures]
    if better is None or len(set(values)) < 2:
        return None
    return max(values) if better > 0 else min(values) if better < 0 else min(values, key=abs)


# ------------------------------------------------------------------------------------------------------------- Markdown


def as_markdown(summaries: Sequence[Summary], compared: Sequence[Difference], about: dict[str, Any]) -> str:
    """A table per protocol, the best figure of a column in bold, 95 % intervals in brackets, and models against the
    rest picture by picture."""
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
        lines += ["", *(f"- {line}" for line in _against(protocol, compared)), ""]
    return "\n".join([*lines, *_legend(summaries), ""])


def contact_sheet(strips: Sequence[Strip]) -> np.ndarray:
    """(H, W, 3) uint8, one row per problem: what was given, the methods' results, the truth; 320 x 240 pixels each."""
    import cv2

    columns = max(len(strip.shown) for strip in strips)
    rows = [list(strip.shown.values()) for strip in strips]
    rows = [row + [np.full_like(row[0], 255)] * (columns - len(row)) for row in rows]
    return np.vstack(
        [np.hstack([cv2.resize(p, (320, 240), interpolation=cv2.INTER_AREA) for p in row]) for row in rows]
    )


def opponent(summaries: Sequence[Summary], compared: Sequence[Difference], rival: str = "patchmatch") -> str:
    """Every model against one classical method, a column per protocol: the ratio of the perceptual distances (below 1:
    nearer to the truth) and the difference in PSNR, both with paired intervals of 95 %; and of enlargements the PSNR of
    luma of all methods. Markdown; "" where there is nothing to say.

    Args:
        rival: a key of ``CLASSICS``.
    """
    theirs = CLASSICS[rival].name
    faced = [each for each in compared if each.rival == theirs and "hole_psnr" in _metrics(summaries, each.protocol)]
    names = list(dict.fromkeys(each.protocol for each in faced))
    models = list(dict.fromkeys(each.method for each in faced))
    tables = []
    if names:
        rows = [row for model in models for row in _duel(model, theirs, names, faced)]
        tables.append(_lines(["", *(PROTOCOLS[name].title for name in names)], rows))
    enlarged = {name: each for name, each in by_protocol(summaries).items() if PROTOCOLS[name].enlarges}
    if enlarged:
        methods = list(dict.fromkeys(each.method for found in enlarged.values() for each in found))
        heads = ["Y-PSNR dB", *(f"{PROTOCOLS[n].title}, {f[0].pictures} pictures" for n, f in enlarged.items())]
        tables.append(_lines(heads, [[m, *(_luma(m, found) for found in enlarged.values())] for m in methods]))
    return "\n\n".join(tables)


def _metrics(summaries: Sequence[Summary], protocol: str) -> set[str]:
    return {name for each in summaries if each.protocol == protocol for name in each.figures}


def _duel(model: str, theirs: str, names: Sequence[str], faced: Sequence[Difference]) -> list[list[str]]:
    def cell(metric: str, protocol: str) -> str:
        found = [e for e in faced if (e.method, e.metric, e.protocol) == (model, metric, protocol)]
        figure = (found[0].ratio if metric == "perceptual" else found[0].figure) if found else None
        if figure is None:
            return "-"
        style = ".3f" if metric == "perceptual" else "+.2f"
        low, value, high = (format(v, style) for v in (figure.low, figure.value, figure.high))
        return f"{value} [{low}, {high}]"

    rows = {"perceptual": f"perceptual distance, {model} / {theirs}", "psnr": f"PSNR dB, {model} - {theirs}"}
    return [[title, *(cell(metric, name) for name in names)] for metric, title in rows.items()]


def _luma(method: str, found: Sequence[Summary]) -> str:
    figure = next((each.figures.get("y_psnr") for each in found if each.method == method), None)
    return "-" if figure is None else " ".join(texts(figure, "y_psnr")).strip()


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _headed(table: str) -> str:
    name = CLASSICS["patchmatch"].name
    return f"\n## Against {name}\n\n{table}\n" if name in table else ""


def _sentence(protocol: str, methods: Sequence[Summary]) -> str:
    about, pictures = PROTOCOLS[protocol].about, methods[0].pictures
    stop = "" if about.endswith("?") else "."
    return f"{about[0].upper()}{about[1:]}{stop} {pictures} {'problem' if pictures == 1 else 'problems'}."


def _against(protocol: str, compared: Sequence[Difference]) -> list[str]:
    """Models against the rest, by the first metric that there is."""
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


def _markdown_cell(figure: Figure | None, name: str, top: float | None) -> str:
    if figure is None:
        return "-"
    value, interval = texts(figure, name)
    value = f"**{value}**" if figure.value == top else value
    return f"{value} {interval}".strip()


def texts(figure: Figure, name: str) -> tuple[str, str]:
    """A figure and its interval, as they are shown."""
    style = METRICS[name].style
    value = "∞" if math.isinf(figure.value) else format(figure.value, style)
    if not all(map(math.isfinite, (figure.low, figure.high))) or name in ("seconds", "memory"):
        return value, ""
    low, high = format(figure.low, style), format(figure.high, style)
    return value, "" if low == high == value else f"[{low}, {high}]"


# ----------------------------------------------------------------------------------------------------------------- HTML

_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f23; --soft: #6a7078; --line: #e3e5e8; --page: #fbfbfa; --card: #fff;
        --mark: #0b6e4f; --bar: #b9c0c8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e9eaec; --soft: #9aa1a9; --line: #33373d; --page: #16181b; --card: #1e2125; --mark: #5fd0a5;
          --bar: #565d66; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1440px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 2rem; margin: 0 0 .5rem; letter-spacing: -.02em; }
h2 { font-size: 1.25rem; margin: 0; }
p { margin: .25rem 0 1rem; color: var(--soft); }
nav { margin: 1.25rem 0 2rem; display: flex; flex-wrap: wrap; gap: .5rem; }
nav a { color: inherit; text-decoration: none; border: 1px solid var(--line); border-radius: 99px;
        padding: .15rem .8rem; background: var(--card); }
nav a:hover { border-color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: 1rem 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.25rem 1.5rem;
          margin: 0 0 1.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .45rem .9rem .45rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap;
         vertical-align: top; }
th { font-weight: 500; color: var(--soft); vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; }
td small { color: var(--soft); display: block; font-size: .75rem; }
td.best { color: var(--mark); font-weight: 600; } td.best small { font-weight: 400; }
svg { display: block; margin: .15rem 0 0 auto; fill: currentColor; stroke-linecap: round; }
line { stroke: var(--bar); stroke-width: 3; }
ul { margin: .9rem 0 0; padding: 0; list-style: none; color: var(--soft); font-size: .85rem; }
ul:empty { display: none; }
.strip { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(150px, 280px); gap: .6rem; overflow-x: auto;
         margin-top: 1.1rem; }
figure { margin: 0; } figcaption { font-size: .8rem; color: var(--soft); margin-bottom: .25rem; white-space: nowrap;
         overflow: hidden; text-overflow: ellipsis; }
img { width: 100%; display: block; border-radius: 6px; }
h3 { font-size: .85rem; font-weight: 500; color: var(--soft); margin: 1.25rem 0 -.6rem; }
"""


def as_html(
    summaries: Sequence[Summary], compared: Sequence[Difference], strips: Sequence[Strip], about: dict[str, Any]
) -> str:
    """One page that needs nothing beside it: tables with intervals drawn, and the pictures as small JPEGs."""
    grouped = by_protocol(summaries)
    links = "".join(f'<a href="#{name}">{_text(PROTOCOLS[name].title)}</a>' for name in grouped)
    facts = "".join(f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in about.items())
    sections = "".join(_section(name, methods, _against(name, compared), strips) for name, methods in grouped.items())
    legend = "".join(
        f"<dt>{_text(METRICS[n].title)}</dt><dd>{_text(METRICS[n].about)}</dd>" for n in columns(summaries)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main><h1>Evaluation</h1>"
        "<p>Means over photographs with their 95 % intervals; the best figure of a column is green.</p>"
        f"<dl>{facts}</dl><nav>{links}</nav>{sections}"
        f"<section><h2>What the columns mean</h2><dl>{legend}</dl></section>"
        "</main></body></html>\n"
    )


def _section(protocol: str, methods: Sequence[Summary], against: Sequence[str], strips: Sequence[Strip]) -> str:
    names = columns(methods)
    head = "".join(f"<th>{_text(METRICS[name].title)}</th>" for name in names)
    body = "".join(
        f"<tr><td>{_text(each.method)}</td>" + "".join(_cell(each, name, methods) for name in names) + "</tr>"
        for each in methods
    )
    lines = "".join(f"<li>{_text(line)}</li>" for line in against)
    shown = "".join(_strip(strip) for strip in strips if strip.protocol == protocol)
    return (
        f'<section id="{protocol}"><h2>{_text(PROTOCOLS[protocol].title)}</h2>'
        f"<p>{_text(_sentence(protocol, methods))}</p>"
        f'<div class="scroll"><table><tr><th>method</th>{head}</tr>{body}</table></div>'
        f"<ul>{lines}</ul>{shown}</section>"
    )


def _cell(summary: Summary, name: str, methods: Sequence[Summary]) -> str:
    figure = summary.figures.get(name)
    if figure is None:
        return "<td>-</td>"
    value, interval = texts(figure, name)
    best_one = ' class="best"' if figure.value == best(methods, name) else ""
    return f"<td{best_one}>{value}<small>{interval}</small>{_interval(figure, name, methods) if interval else ''}</td>"


def _interval(figure: Figure, name: str, methods: Sequence[Summary], width: int = 84) -> str:
    """The interval as a bar and the mean as a dot, on a scale that the methods of a column share."""
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
    shown = details(strip.shown) if PROTOCOLS[strip.protocol].enlarges else strip.shown
    figures = "".join(
        f'<figure><figcaption title="{_text(name)}">{_text(name)}</figcaption>'
        f'<img loading="lazy" alt="{_text(name)}" src="{data_uri(picture)}"></figure>'
        for name, picture in shown.items()
    )
    return f'<h3>{_text(title)}</h3><div class="strip">{figures}</div>'


def details(shown: dict[str, np.ndarray], side: int = 192) -> dict[str, np.ndarray]:
    """The middle of every picture, (side, side) pixels of the largest, each pixel as the square that it stands for."""
    height, width = max(picture.shape[:2] for picture in shown.values())
    details = {}
    for name, picture in shown.items():
        scale = height / picture.shape[0]
        part = [max(1, round(min(side, length) / scale)) for length in (height, width)]
        top, left = (picture.shape[0] - part[0]) // 2, (picture.shape[1] - part[1]) // 2
        middle = Image.fromarray(np.ascontiguousarray(picture[top : top + part[0], left : left + part[1]]))
        size = (2 * min(side, width), 2 * min(side, height))
        details[name] = np.asarray(middle.resize(size, Image.Resampling.NEAREST))
    return details


def data_uri(picture: np.ndarray, side: int = 384) -> str:
    """A small JPEG of (H, W, 3) uint8 as text, at most ``side`` pixels long."""
    made = Image.fromarray(picture)
    made.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    made.save(stream, "JPEG", quality=84, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _text(value: Any) -> str:
    return html.escape(str(value))
