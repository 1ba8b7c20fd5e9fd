"""What people chose: pairs of a preferred and a rejected result of the same edit, in a folder that trainings read.

    record("choices", chosen=[best], rejected=others)
    photofound learn choices

Results say by their recipes (``photofound.edits.recipe``) which edit they are of. Each task has a folder, with pictures
and a ``metadata.jsonl`` as ``photofound train preference`` reads it. Nothing leaves this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from photofound import files, image
from photofound.edits import recipe as recipes
from photofound.edits.task import get_task, task_names
from photofound.image import Picture
from photofound.picture.digest import unpack_region

METADATA = "metadata.jsonl"
_LONGEST_SIDE = 1024  # pixels of what is kept: crops that are trained on are smaller
_MOST = 20_000  # pairs of a task
_lock = threading.Lock()


def record(folder: str | Path, chosen: Sequence[Any], rejected: Sequence[Any]) -> int:
    """Write that people preferred each of ``chosen`` to each of ``rejected``; returns the number of pairs.

    Args:
        folder: is created. A pair that says the opposite of an earlier one, or of two that are both chosen now,
            replaces that.
        chosen, rejected: results of one edit, with their recipes: anything that ``Picture.from_any`` takes.

    Raises ValueError for pictures without a recipe, of several edits, or of a task that has no preferences.
    """
    good, bad = ([Picture.from_any(each) for each in side] for side in (chosen, rejected))
    if not good or not bad:
        raise ValueError("choices: give at least one chosen and one rejected result")
    mades = [_made(picture) for picture in (*good, *bad)]
    task = _task_of(mades)
    holes = [_hole(made) for made in mades]
    place = files.output_path(folder, "choices") / task
    place.mkdir(parents=True, exist_ok=True)
    edit = edit_of(mades[0])
    hole = np.logical_or.reduce([each for each in holes if each is not None]) if holes[0] is not None else None
    line: dict[str, Any] = {"text": str(mades[0]["inputs"].get("prompt") or ""), "edit": edit}
    if hole is not None:
        line["mask_file_name"] = _keep(place, Picture((hole * np.uint8(255))[..., None]), "-hole")
    best, others = ([_keep(place, _plain(picture)) for picture in side] for side in (good, bad))
    made = [(a, b) for a in dict.fromkeys(best) for b in dict.fromkeys(others) if a != b]
    with _lock:
        _write(place / METADATA, made, set(best), line)
    return len(made)


def read(folder: Path) -> list[dict[str, Any]]:
    """The pairs of a task's folder, as they are in ``metadata.jsonl``; a line that is cut off is left out."""
    table = folder / METADATA
    found = []
    for line in table.read_text(encoding="utf-8").splitlines() if table.is_file() else []:
        try:
            pair = json.loads(line)
            found.append({**pair, "edit": str(pair.get("edit") or pair["file_name"])})
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return found


def tasks_in(folder: Path) -> dict[str, Path]:
    """Task -> its folder, of those in a folder of choices."""
    return {name: folder / name for name in task_names() if (folder / name / METADATA).is_file()}


def copy(pairs: Iterable[dict[str, Any]], source: Path, target: Path) -> None:
    """A folder of some pairs of another: hard links where the disk has them."""
    target.mkdir(parents=True, exist_ok=True)
    lines = []
    for pair in pairs:
        for name in (pair[key] for key in ("file_name", "rejected_file_name", "mask_file_name") if key in pair):
            if not (target / name).exists():
                _link(source / name, target / name)
        lines.append(json.dumps(pair))
    files.write(target / METADATA, "\n".join(lines) + "\n")


def same_edit(a: Picture, b: Picture) -> bool:
    """Whether two pictures are results of one edit, whose results differ by seed, so that there is something to choose.
    A picture that only was opened is a result of none."""
    if not a.recipe or not b.recipe:
        return False
    one, other = json.loads(a.recipe), json.loads(b.recipe)
    return _has_variants(str(one["task"])) and edit_of(one) == edit_of(other)


def _has_variants(task: str) -> bool:
    return task in task_names() and not get_task(task).regression and get_task(task).fit != "tiles"


def edit_of(made: dict[str, Any]) -> str:
    """What stands for an edit, whichever seed and model: its task, photograph and inputs."""
    said = made["task"], made.get("image", {}).get("sha256"), made["inputs"], made["result"]["size"]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _made(picture: Picture) -> dict[str, Any]:
    made = json.loads(picture.recipe) if picture.recipe else recipes.read(picture)
    if made is None:
        raise ValueError(
            "choices: a result has no recipe in its metadata; choose between results that say how they were made"
        )
    return dict(made)


def _task_of(mades: Sequence[dict[str, Any]]) -> str:
    if len({edit_of(made) for made in mades}) > 1:
        raise ValueError(
            "choices: the results are not of one edit; choose between variants of the same photograph and inputs"
        )
    name = str(mades[0]["task"])
    if not _has_variants(name):
        raise ValueError(f"choices: {name} has no variants to choose between; choose between results of another task")
    return name


def _hole(made: dict[str, Any]) -> np.ndarray | None:
    """(H, W) bool, what an edit repainted; None = all of the picture."""
    if "kept" not in made:
        return None
    return ~unpack_region(made["kept"]["region"], recipes.size_of(made["result"]))


def _plain(picture: Picture) -> Picture:
    """In sRGB and 8 bits, without metadata."""
    return Picture(np.rint(picture.rgb() * 255).astype(np.uint8))


def _keep(place: Path, picture: Picture, ending: str = "") -> str:
    """Write a picture, not too large, under the digest of its pixels; returns the file's name."""
    scale = min(1.0, _LONGEST_SIDE / max(picture.size))
    if scale < 1:
        picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    name = f"{hashlib.sha256(picture.pixels.tobytes()).hexdigest()[:16]}{ending}.png"
    if not (place / name).is_file():
        image.save(picture, place / name)
    return name


def _write(table: Path, made: Sequence[tuple[str, str]], best: set[str], line: dict[str, Any]) -> None:
    """Add pairs, and drop those that they contradict."""
    opposite = {(b, a) for a, b in made}
    before = [(pair.get("file_name"), pair.get("rejected_file_name"), pair) for pair in read(table.parent)]
    kept = [pair for a, b, pair in before if (a, b) not in {*opposite, *made} and not {a, b} <= best]
    if len(kept) + len(made) > _MOST:
        raise ValueError(
            f"choices: {table.parent} has {_MOST} pairs, which is enough; learn of them, or name another folder"
        )
    kept += [{"file_name": a, "rejected_file_name": b, **line} for a, b in made]
    files.write(table, "".join(json.dumps(pair) + "\n" for pair in kept))
