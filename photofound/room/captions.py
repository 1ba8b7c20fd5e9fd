"""Captions of a room's photographs by a captioner: short and dense ones, each in its column, with who made them.

``caption_short`` and ``caption_dense`` hold the words, ``caption_short_by`` and ``caption_short_prompt`` (and those of
``dense``) the model and the prompt; these are null where the source itself had such a caption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from photofound.data.table import Table, quoted, worded
from photofound.room.captioners import Captioner
from photofound.room.describe import pictures_of
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


def lacks(kind: str) -> str:
    """Which photographs have no caption of a kind, in SQL."""
    return f"NOT {worded(f'caption_{kind}')}"


def _said(text: str | None) -> bool:
    return bool(text and text.strip())


@dataclass(frozen=True)
class Captioning:
    """The captions of a batch: what ``Table.fill`` calls, here and on other machines.

    Args:
        asked: kind of caption -> prompt.
        replace: also captions by others.
        stale: columns that judge captions; they become null where the caption that they judge is new.
        fields: ``pyarrow.Field`` of each column that is written, ``stale`` included.
    """

    captioner: Captioner
    asked: Mapping[str, str]
    replace: bool
    stale: Sequence[str]
    fields: Sequence[Any]

    @property
    def read(self) -> list[str]:
        """The columns of the room that a batch has."""
        return ["image", "reference", "collection", "caption", *(field.name for field in self.fields)]

    def mine(self, kind: str) -> str:
        """Which photographs have a caption that this would make, in SQL."""
        by, prompt = quoted(self.captioner.name), quoted(self.asked[kind])
        made = f"caption_{kind}_by = {by} AND caption_{kind}_prompt = {prompt}"
        return f"({worded(f'caption_{kind}')} AND coalesce({made}, false))"

    @property
    def lacking(self) -> str:
        """Which photographs lack a caption, in SQL."""
        one = (f"NOT {self.mine(k)}" if self.replace else lacks(k) for k in self.asked)
        return " OR ".join(f"({each})" for each in one)

    def __call__(self, batch: Any) -> dict[str, Any]:
        import pyarrow as pa

        columns = {name: batch[name].to_pylist() for name in ("caption", *(field.name for field in self.fields))}
        pictures = pictures_of(batch, SIDE)
        changed = set()
        for kind, prompt in self.asked.items():
            words, by, prompts = (columns[f"caption_{kind}{end}"] for end in ("", "_by", "_prompt"))
            mine = self.captioner.name, prompt
            rows = [i for i in pictures if not _said(words[i]) or (self.replace and (by[i], prompts[i]) != mine)]
            for start in range(0, len(rows), self.captioner.batch):
                part = rows[start : start + self.captioner.batch]
                answers = self.captioner.captions([pictures[i] for i in part], prompt, TOKENS[kind])
                for i, answer in zip(part, answers, strict=True):
                    if answer is not None:
                        words[i], (by[i], prompts[i]) = answer, mine
                        changed.add(i)
        for name in self.stale:
            for i in changed:
                columns[name][i] = columns[name][i] if _said(columns["caption"][i]) else None
        return {field.name: pa.array(columns[field.name], field.type) for field in self.fields}


def caption(
    table: Table,
    captioner: Captioner,
    kinds: Sequence[str] = (),
    prompts: Mapping[str, str] | None = None,
    where: str | None = None,
    replace: bool = False,
    fill: Callable[..., int] | None = None,
) -> Captioned:
    """Caption the photographs that lack a caption of these kinds. A call that was killed goes on.

    Args:
        kinds: ``short``, ``dense``; none: both, or ``short`` where the captioner follows no prompts.
        prompts: kind -> what to ask in place of ``PROMPTS``.
        replace: also captions by others, of the source, of another model or another prompt.
        fill: fills columns elsewhere (``photofound.room.spread``) in place of ``table.fill``.

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
    fields = [pa.field(f"caption_{k}{end}", pa.string()) for k in kinds for end in ("", "_by", "_prompt")]
    table.add_columns(fields)
    stale = [each.column for each in stored(table) if each.needs == CAPTIONED]
    stale += [KEPT] if stale and KEPT in table.columns else []
    fields += [table.dataset.schema.field(name) for name in stale]
    made = Captioning(captioner, asked, replace, stale, fields)

    def count(condition: str) -> int:
        return table.count(f"({condition}) AND ({where})" if where else condition)

    before = {kind: count(made.mine(kind)) for kind in kinds}
    batch = max(8, captioner.batch)
    (fill or table.fill)(fields, made, made.read, where=where, batch=batch, lacking=made.lacking)
    table.refresh()
    none = count(" OR ".join(lacks(kind) for kind in kinds))
    return Captioned({kind: count(made.mine(kind)) - before[kind] for kind in kinds}, none)
