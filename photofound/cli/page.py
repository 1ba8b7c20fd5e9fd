"""The report of ``photofound run``: one HTML page with small pictures, which needs no other file."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from photofound.image import Picture

_SIDE, _QUALITY = 240, 80  # of a small picture
_MOST = 1000  # photographs with pictures; further ones are lines of text, or the page could not be opened
_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f23; --soft: #6a7078; --line: #e3e5e8; --page: #fbfbfa; --card: #fff;
        --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e9eaec; --soft: #9aa1a9; --line: #33373d; --page: #16181b;
        --card: #1e2125; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; letter-spacing: -.02em; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .25rem 0 1rem; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1rem 1.25rem;
          margin: 0 0 1rem; }
section.failed { border-color: var(--bad); }
.bad { color: var(--bad); overflow-wrap: anywhere; }
header { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: baseline; }
header small, figcaption small { color: var(--soft); }
.row { display: flex; gap: .75rem; overflow-x: auto; margin-top: .75rem; }
.row { align-items: end; }
figure { margin: 0; flex: 0 0 auto; max-width: 240px; }
figure img { display: block; max-width: 100%; max-height: 200px; border-radius: 6px;
             background: repeating-conic-gradient(#8882 0 25%, transparent 0 50%) 0 0/16px 16px; }
figcaption { font-size: .85rem; margin-top: .25rem; } figcaption small { display: block; }
a { color: inherit; }
"""


@dataclass
class Stage:
    """What became of one step of a photograph: its result in small, as a file, and what is to be said of it."""

    name: str
    picture: bytes
    note: str = ""

    @property
    def encoded(self) -> str:
        """The small picture as text."""
        return base64.b64encode(self.picture).decode()


@dataclass
class Done:
    """What became of a photograph. ``status``: ``done``, ``skipped`` or ``failed``."""

    photograph: Path
    status: str = "done"
    stages: list[Stage] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    seconds: float = 0.0
    error: str = ""


def small(picture: Picture) -> bytes:
    """A small PNG if it is transparent, else a JPEG."""
    import numpy as np
    from PIL import Image

    scale = min(1.0, _SIDE / max(picture.size))
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    small = picture.resize(size) if size != picture.size else picture
    rgb = np.rint(small.rgb() * 255).astype(np.uint8)
    alpha, stream = small.alpha(), io.BytesIO()
    if alpha is not None and alpha.min() < 1:
        rgba = np.dstack([rgb, np.rint(alpha * 255).astype(np.uint8)])
        Image.fromarray(rgba).save(stream, "PNG")
    else:
        Image.fromarray(rgb).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


def write(path: Path, recipe: Path, done: Sequence[Done], seconds: float) -> Path:
    """Write the page; returns its path."""
    from photofound import files

    files.write(path, as_html(recipe, done, seconds, path.parent))
    return path


def as_html(recipe: Path, done: Sequence[Done], seconds: float, folder: Path) -> str:
    """The page; links to results start from ``folder``."""
    count = {what: sum(each.status == what for each in done) for what in ("done", "skipped", "failed")}
    title = f"{recipe.stem}: {len(done)} photographs"
    said = f"{count['done']} made in {seconds:.0f} s, {count['skipped']} as they were, {count['failed']} failed"
    bad = [f'<li><a href="#p{i}">{_text(each.photograph)}</a>' for i, each in enumerate(done) if each.error]
    failed = f'<p class="bad">Failed:</p><ul>{"".join(bad)}</ul>' if bad else ""
    few = f"<p>Pictures of the first {_MOST} photographs.</p>" if len(done) > _MOST else ""
    rows = "".join(_row(i, each, folder) for i, each in enumerate(done))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style><main><h1>{_text(title)}</h1><p>{said}</p>{failed}{few}{rows}</main></html>\n"
    )


def _row(number: int, done: Done, folder: Path) -> str:
    links = ", ".join(f'<a href="{_link(file, folder)}">{_text(file.name)}</a>' for file in done.files)
    state = {"skipped": "as it was", "failed": "failed"}.get(done.status, f"{done.seconds:.1f} s")
    error = f'<p class="bad">{_text(done.error)}</p>' if done.error else ""
    pictures = "".join(map(_figure, done.stages)) if number < _MOST else ""
    return (
        f'<section id="p{number}" class="{done.status}"><header><h2>{_text(done.photograph)}</h2><small>{state}</small>'
        f'<span>{links}</span></header>{error}<div class="row">{pictures}</div></section>'
    )


def _figure(each: Stage) -> str:
    kind = "png" if each.picture.startswith(b"\x89PNG") else "jpeg"
    return (
        f'<figure><img loading="lazy" alt="{_text(each.name)}" src="data:image/{kind};base64,{each.encoded}">'
        f"<figcaption>{_text(each.name)}<small>{_text(each.note)}</small></figcaption></figure>"
    )


def _text(value: Any) -> str:
    return html.escape(str(value).encode("utf-8", "replace").decode())


def _link(file: Path, folder: Path) -> str:
    return html.escape(quote(os.fsencode(os.path.relpath(file, folder))))
