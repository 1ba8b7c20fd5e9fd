"""Captions of a room's photographs by a captioner: short and dense ones, each in its column, with who made them.

``caption_short`` and ``caption_dense`` hold the words, ``caption_short_by`` and ``caption_short_prompt`` (and those of
``dense``) the model and the prompt; these are null where the source itself had such a caption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from photofound.data.table import Table, contents
from photofound.room.captioners import Captioner
from photofound.room.describe import pixels_of
from photofound.room.filters import CAPTIONED, SIDE
from photofound.room.scores import KEPT, stored

PROMPTS = {
    "short": "Describe this photograph in one short sentence: what it shows, and where. Do not begin with 'The image'.",
    "dense": (
        "Describe this photograph so that a painter could repeat it: the subject, its parts, colours and materials, "
        "where everything stands, the background, the light, the angle of view, and any text. Plain sentences, only "
        "what is visible, no guesses, no opinion."
    ),
}
TOKENS = {"short": 48, "dense": 320}


@dataclass(frozen=True)
class Captioned:
    """How many photographs got captions, and how many of those that were asked for got none."""

    made: dict[str, int]
    none: int

    @property
    def line(self) -> str:
        made = " and ".join(f"{count:,} {kind} captions" for kind, count in self.made.items())
        return f"{made} made" + (
            f"; {self.none:,} photographs got none and are asked again next time" if self.none else ""
        )


def caption(
    table: Table,
    captioner: Captioner,
    kinds: Sequence[str] = (),
    prompts: Mapping[str, str] | None = None,
    where: str | None = None,
    replace: bool = False,
    fragments: Sequence[int] | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> Captioned:
    """Caption the photographs that lack a caption of these kinds. A call that was killed goes on.

    Args:
        kinds: ``short``, ``dense``; none: both, or ``short`` where the captioner follows no prompts.
        prompts: kind -> what to ask in place of ``PROMPTS``.
        replace: also captions by others, of the source, of another model or another prompt.
        fragments: numbers of the table's fragments to work on, to share the work out.

    Where the source has no caption, filters judge these: their scores of what is captioned now become null, and
    ``kept`` with them. Raises ValueError.
    """
    import pyarrow as pa

    given = {kind: prompt for kind, prompt in (prompts or {}).items() if prompt}
    kinds = list(dict.fromkeys(kinds)) or [k for k in PROMPTS if captioner.instructed or k == "short" or k in given]
    if unknown := [kind for kind in [*kinds, *given] if kind not in PROMPTS]:
        raise ValueError(f"caption: {unknown[0]!r} is no kind of caption; there are {' and '.join(PROMPTS)}")
    if "dense" in kinds and not captioner.instructed and "dense" not in given:
        raise ValueError(
            f"caption: {captioner.name} follows no instructions; give its own prompt, or make short ones only"
        )
    asked = {kind: given.get(kind, PROMPTS[kind] if captioner.instructed else "") for kind in kinds}
    made, none = dict.fromkeys(kinds, 0), 0
    text = pa.string()
    fields = [pa.field(f"caption_{k}{end}", text) for k in kinds for end in ("", "_by", "_prompt")]
    table.add_columns(fields)
    stale = [each.column for each in stored(table) if each.needs == CAPTIONED]
    stale += [KEPT] if stale and KEPT in table.columns else []
    fields += [table.dataset.schema.field(name) for name in stale]

    def lacking(kind: str) -> str:
        mine = f"caption_{kind}_by = {_quoted(captioner.name)} AND caption_{kind}_prompt = {_quoted(asked[kind])}"
        return f"caption_{kind} IS NULL" + (f" OR NOT coalesce({mine}, false)" if replace else "")

    def compute(batch: Any) -> dict[str, Any]:
        nonlocal none
        columns = {name: batch[name].to_pylist() for name in ("caption", *(field.name for field in fields))}
        pictures = _pictures(batch)
        changed = set()
        for kind in kinds:
            words, by, prompt = (columns[f"caption_{kind}{end}"] for end in ("", "_by", "_prompt"))
            mine = captioner.name, asked[kind]
            rows = [i for i in pictures if words[i] is None or (replace and (by[i], prompt[i]) != mine)]
            for start in range(0, len(rows), captioner.batch):
                part = rows[start : start + captioner.batch]
                answers = captioner.captions([pictures[i] for i in part], asked[kind], TOKENS[kind])
                for i, said in zip(part, answers, strict=True):
                    if said is not None:
                        words[i], (by[i], prompt[i]) = said, mine
                        made[kind] += 1
                        changed.add(i)
        none += sum(any(columns[f"caption_{kind}"][i] is None for kind in kinds) for i in range(len(batch)))
        for name in stale:
            for i in changed:
                columns[name][i] = columns[name][i] if columns["caption"][i] else None
        return {field.name: pa.array(columns[field.name], field.type) for field in fields}

    read = ["image", "reference", "collection", "caption", *(field.name for field in fields)]
    some = " OR ".join(f"({lacking(kind)})" for kind in kinds)
    table.fill(fields, compute, read, where, max(8, captioner.batch), fragments, done, some)
    return Captioned(made, none)


def _pictures(batch: Any) -> dict[int, np.ndarray]:
    """Row -> (H, W, 3) uint8 of a batch; rows that cannot be read are left out."""
    found = {}
    for index, file in enumerate(contents(batch)):
        try:
            found[index] = pixels_of(file, SIDE)
        except Exception:  # it was whole when it was added: its reference has gone
            continue
    return found


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
