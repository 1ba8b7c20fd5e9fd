"""A room as an HTML page with pictures, which needs no other file: its statistics, or samples of it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from photofound.data.table import Table, contents
from photofound.room.describe import pixels_of
from photofound.room.scores import Filtered, around
from photofound.room.stats import Drift, Stats, changed

_SIDE, _QUALITY = 160, 80  # of a small picture
_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f23; --soft: #6a7078; --line: #e3e5e8; --page: #fbfbfa; --card: #fff;
        --bar: #cfe3da; }
@media (prefers-color-scheme: dark) { :root { --ink: #e9eaec; --soft: #9aa1a9; --line: #33373d; --page: #16181b;
        --card: #1e2125; --bar: #1f4a3b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; letter-spacing: -.02em; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 0 0 .5rem; }
p { margin: .25rem 0 1.25rem; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1rem 1.25rem;
          margin: 0 0 1rem; min-width: 0; }
.tables { columns: 24rem; column-gap: 1rem; }
.tables section { break-inside: avoid; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
td, th { padding: .2rem .5rem .2rem 0; text-align: right; white-space: nowrap; }
th { font-weight: 500; color: var(--soft); }
td:first-child, th:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; }
td.bar { width: 30%; padding-right: 0; }
td.bar i { display: block; height: .8em; background: var(--bar); border-radius: 3px; min-width: 1px; }
.row { display: flex; flex-wrap: wrap; gap: .6rem; margin: 0 0 1.1rem; align-items: end; }
.row:last-child { margin: 0; }
.row img { max-width: 140px; max-height: 130px; }
.told { align-items: start; }
.told img { max-width: 160px; max-height: 160px; }
.told figure { width: 160px; }
figure { margin: 0; max-width: 160px; font-size: .8rem; color: var(--soft); overflow-wrap: anywhere; }
figure img { display: block; border-radius: 6px; margin-bottom: .2rem; }
h3 { font-size: .9rem; margin: 0 0 .4rem; font-weight: 600; } h3 small { color: var(--soft); font-weight: 400; }
"""
_ROW = 7  # pictures of a group
_SHOWN = ("key", "name", "source", "licence", "width", "height", "caption", "image", "reference", "collection")


def of_stats(table: Table, found: Stats, drifts: Sequence[Drift] = (), since: int | None = None) -> str:
    """The page of a room's statistics."""
    size = f"{found.photographs:,} photographs, {found.bytes / 1e6:,.1f} MB, version {found.version}"
    shown = {title: counts for title, counts in found.tables.items() if counts and title != "cluster"}
    cards = "".join(_card(title, counts, found) for title, counts in shown.items())
    tables = f'<div class="tables">{_drift(drifts, since)}{cards}{_scores(found)}</div>'
    return _page(table.folder.resolve().name, size, (_clusters(table, found) if found.centres else "") + tables)


def of_samples(table: Table, keys: Sequence[str], title: str, about: str) -> str:
    """A page of photographs, in the order of their keys."""
    pictures = rows_of(table, keys)
    figures = "".join(_figure(pictures[key], long=True) for key in keys if key in pictures)
    return _page(title, about, f'<section><div class="row told">{figures}</div></section>')


def of_groups(table: Table, groups: Sequence[Sequence[str]], title: str, about: str) -> str:
    """A page with a row for each group of photographs, given by their keys; of a large one the first few."""
    pictures = rows_of(table, (key for keys in groups for key in keys[:_ROW]))
    rows = []
    for keys in groups:
        figures = "".join(_figure(pictures[key], long=True) for key in keys[:_ROW] if key in pictures)
        rows.append(f'<section><h2>{len(keys):,} photographs</h2><div class="row">{figures}</div></section>')
    return _page(title, about, "".join(rows))


def of_filters(table: Table, found: Filtered, where: str | None = None) -> str:
    """A page of what each filter drops and keeps, with photographs on both sides of its threshold."""
    shown = {each.name: around(table, each, where) for each in found.filters}
    pictures = rows_of(table, (key for rows in shown.values() for row in rows.values() for key, _ in row))
    parts = []
    for each in found.filters:
        kept, dropped, unknown = found.counts[each.name]
        share = f"{kept:,} kept, {dropped:,} dropped ({dropped / max(1, kept + dropped):.1%}), {unknown:,} not judged"
        head = f"<h2>{_text(each.name)}</h2><p>{_text(each.about)}; keeps {each.keeps} {each.threshold:g}: {share}</p>"
        rows = []
        for title, row in shown[each.name].items():
            figures = "".join(_figure(pictures[key], said=f"{score:.3g}") for key, score in row if key in pictures)
            if figures:
                rows.append(f'<h3>{title}</h3><div class="row told">{figures}</div>')
        parts.append(f"<section>{head}{''.join(rows)}</section>")
    about = f"{found.kept:,} photographs kept by all filters, {found.dropped:,} dropped, {found.unknown:,} not judged"
    return _page(f"{table.folder.resolve().name}: filters", about, "".join(parts))


def rows_of(table: Table, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Photographs by their keys, each with ``small``: a JPEG of at most 160 pixels, None where it cannot be read."""
    wanted, found = list(dict.fromkeys(keys)), {}
    for start in range(0, len(wanted), 512):
        words = ", ".join(f"'{key}'" for key in wanted[start : start + 512])
        for batch in table.scan(_SHOWN, f"key IN ({words})", 16) if words else ():
            for row, file in zip(batch.drop_columns(["image"]).to_pylist(), contents(batch), strict=True):
                found[row["key"]] = row | {"small": small(file)}
    return found


def small(file: bytes | Exception) -> bytes | None:
    """A small JPEG of a file; None where it cannot be read."""
    from PIL import Image

    try:
        made = Image.fromarray(pixels_of(file, _SIDE))
    except Exception:  # a reference that has gone
        return None
    made.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    made.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


def _page(title: str, about: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style><main><h1>{_text(title)}</h1><p>{_text(about)}</p>{body}</main></html>\n"
    )


def _card(title: str, counts: Mapping[str, int], found: Stats) -> str:
    total, most = max(1, found.photographs), max(counts.values())
    rows = "".join(
        f"<tr><td>{_text(name)}<td>{count:,}<td>{count / total:.1%}"
        f'<td class="bar"><i style="width:{100 * count / most:.1f}%"></i>'
        for name, count in counts.items()
    )
    return f"<section><h2>{_text(title)}</h2><table>{rows}</table></section>"


def _scores(found: Stats) -> str:
    if not found.scores:
        return ""
    rows = "".join(
        f"<tr><td>{_text(name)}" + "".join(f"<td>{quartile:.3g}" for quartile in quartiles)
        for name, quartiles in found.scores.items()
    )
    head = "<tr><th>score<th>least<th>25 %<th>median<th>75 %<th>most"
    return f"<section><h2>scores</h2><table>{head}{rows}</table></section>"


def _drift(drifts: Sequence[Drift], since: int | None) -> str:
    if since is None:
        return ""
    rows = "".join(
        f"<tr><td>{_text(each.title)}<br><small>{_text(changed(each))}</small><td>{each.divergence:.4f}"
        for each in drifts
    )
    head = "<tr><th>distribution<th>divergence"
    return f"<section><h2>drift since version {since}</h2><table>{head}{rows}</table></section>"


def _clusters(table: Table, found: Stats) -> str:
    pictures = rows_of(table, (key for keys in found.centres.values() for key in keys))
    rows = []
    for number, keys in found.centres.items():
        figures = "".join(_figure(pictures[key]) for key in keys if key in pictures)
        count, total = found.tables["cluster"][number], max(1, found.sampled or found.photographs)
        said = f"{count:,}, {count / total:.1%}"
        rows.append(f'<h3>cluster {number} <small>{said}</small></h3><div class="row">{figures}</div>')
    about = f" of a sample of {found.sampled:,}" if found.sampled else ""
    return f"<section><h2>clusters{about}</h2>{''.join(rows)}</section>"


def _figure(row: Mapping[str, Any], long: bool = False, said: str = "") -> str:
    told = (row["caption"] or "").strip() or row["name"]
    if row["small"] is None:
        shown = "<em>cannot be read</em>"
    else:
        content = base64.b64encode(row["small"]).decode()
        shown = f'<img loading="lazy" alt="{_text(told)}" src="data:image/jpeg;base64,{content}">'
    lines = [told, f"{row['width']}x{row['height']}", row["source"], row["licence"], row["key"][:16]] if long else []
    lines += [said, told] if said else []
    caption = "<br>".join(_text(line) for line in lines if line)
    return f'<figure title="{_text(row["key"])}">{shown}<figcaption>{caption}</figcaption></figure>'


def _text(value: Any) -> str:
    return html.escape(str(value).encode("utf-8", "replace").decode())
