"""How a result was made, as JSON in its metadata: what was asked for, of which pictures, and what was kept.

    {"photofound": "0.2.0", "task": "erase",
     "image": {"sha256": ..., "size": [640, 480], "format": of a lossy file, "recipe": of one that is a result itself},
     "inputs": {"grow": 4, "mask_image": {"sha256": ..., "size": ..., "region": a black and white mask itself}},
     "seed": 0, "variant": 0, "steps": 2, "guidance": 1.0, "model": {"name": ..., "sha256": ...},
     "computed": {"device": "cpu", "dtype": "bfloat16", "torch": "2.13.0"},
     "kept": {"sha256": ..., "pixels": 301234, "at": [0, 0], "region": {"cell": 1, "bits": ...}},
     "result": {"sha256": ..., "size": [640, 480]}}

Digests of pictures are those of ``photofound.picture.digest``. No file names and no times are written, so the same edit
gives the same file. ``photofound.redo`` makes a result again from it, ``photofound.edits.proof`` holds it against the
photograph.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from photofound import __version__
from photofound.edits.inputs import FILE_KINDS, FOLDER, names_file
from photofound.edits.request import Request
from photofound.edits.task import Job, get_task
from photofound.image import Picture
from photofound.picture import compare, provenance
from photofound.picture.digest import digest, pack_region, region_digest, unpack_region

_LONGEST = 40_000  # characters of JSON: a JPEG has room for 65,000 bytes of XMP, and the photograph has its own
_SPECK = 3  # pixels a side: what is equal by chance is smaller


def of(
    request: Request,
    job: Job,
    result: Picture,
    sampled: Mapping[str, Any],
    made_by: Mapping[str, Any],
    variant: int = 0,
) -> str:
    """The recipe of a result, as JSON.

    Args:
        request: what was asked for; its seed, and other settings that are not None, are written.
        job: what was prepared of it.
        sampled: the settings that were left to the model, filled in: ``steps``, ``guidance``, ...
        made_by: ``model`` and ``computed``, see above.
        variant: which of the pictures that drew from one generator in turn, from 0.
    """
    source = request.picture
    settings = {each.name: getattr(request, each.name) for each in fields(request)}
    settings = {name: value for name, value in settings.items() if name not in ("task", "picture", "inputs", "layers")}
    made: dict[str, Any] = {"photofound": __version__, "task": request.task}
    if source is not None:
        made["image"] = _named(source) | ({} if source.lossless else {"format": source.format})
        if (earlier := _recipe_of(source)) is not None:
            made["image"]["recipe"] = earlier
    made["inputs"] = _inputs(request, job)
    made |= {name: value for name, value in {**settings, **sampled}.items() if value is not None}
    made |= {"variant": variant, **made_by}
    if source is not None and (kept := _kept(source, job, result)) is not None:
        made["kept"] = kept
    made["result"] = _named(result)
    return _short(made)


def _named(picture: Picture) -> dict[str, Any]:
    return {"sha256": digest(picture), "size": list(picture.size)}


def _recipe_of(picture: Picture) -> dict[str, Any] | None:
    """That of a photograph which is a result itself; a damaged one is none."""
    try:
        return provenance.recipe(picture)
    except ValueError:
        return None


def _short(made: dict[str, Any]) -> str:
    """JSON that fits into a file's metadata: of a long chain of edits the first ones are left out."""
    text = json.dumps(made, ensure_ascii=False, separators=(",", ":"))
    while len(text.encode()) > _LONGEST:
        last = made
        while "recipe" in last.get("image", {}).get("recipe", {}).get("image", {}):
            last = last["image"]["recipe"]
        if last.get("image", {}).pop("recipe", None) is None:
            break
        text = json.dumps(made, ensure_ascii=False, separators=(",", ":"))
    return text


# -------------------------------------------------------------------------------------------------------------- inputs


def _inputs(request: Request, job: Job) -> dict[str, Any]:
    """What was given, by name: pictures as their digests, anything else as it is."""
    kinds = {each.name: each.kind for each in get_task(request.task).inputs}
    found = {name: _input(kinds.get(name), value, job) for name, value in request.inputs.items() if value is not None}
    return {name: value for name, value in found.items() if value is not None}


def _input(kind: str | None, value: Any, job: Job) -> Any:
    if kind == FOLDER:  # the picture in it that was chosen
        chosen = job.ground if isinstance(job.ground, Picture) else None
        return None if chosen is None or chosen.path is None else {**_named(chosen), "name": chosen.path.name}
    if kind == "segmenter":  # of a folder its name, of a function where it is
        known = isinstance(value, str) and not Path(value).is_dir()
        return value if known else _name_of(value)
    if kind == "preset":  # of a file its name
        return Path(value).name if isinstance(value, Path) else value
    is_file = kind in FILE_KINDS or (kind == "background" and isinstance(value, str) and names_file(kind, value))
    if _is_plain(value) and not (is_file and isinstance(value, str)):
        return value
    picture = Picture.from_any(os.fspath(value) if isinstance(value, Path) else value)
    region = _black_and_white(picture) if kind == "mask" else None
    packed = None if region is None else pack_region(region)
    exact = packed is not None and packed["cell"] == 1
    return {**_named(picture), **({"region": packed} if exact else {})}


def _name_of(segmenter: Any) -> str:
    if isinstance(segmenter, (str, Path)):
        return Path(segmenter).name
    return f"{getattr(segmenter, '__module__', 'function')}:{getattr(segmenter, '__qualname__', 'unknown')}"


def _is_plain(value: Any) -> bool:
    """Whether JSON holds it as it is."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str))


def _black_and_white(picture: Picture) -> np.ndarray | None:
    """(H, W) bool, where a mask is white, if all of it is opaque black or white; else None."""
    white = picture.pixels.min(axis=2) == picture.depth
    black = picture.colours.max(axis=2) == 0
    if picture.has_alpha or not (white | black).all():
        return None
    return white


def mask_of(written: Mapping[str, Any]) -> Picture | None:
    """The black and white mask that a recipe holds itself, or None. Raises ValueError for a damaged one."""
    if "region" not in written:
        return None
    region = unpack_region(written["region"], size_of(written))
    return Picture((region * np.uint8(255))[..., None])


def read(picture: Picture) -> dict[str, Any] | None:
    """The recipe in a picture's metadata; None if there is none, and with a warning if it is damaged."""
    try:
        made = provenance.recipe(picture)
        if made is not None:
            _check(made)
        return made
    except ValueError as error:
        warnings.warn(f"{picture.path or 'image'}: {error}; it is left out of account", stacklevel=3)
        return None


def _check(made: dict[str, Any]) -> None:
    """Raise ValueError unless a recipe has the structure that it was written with; it may be a stranger's."""
    step: Any = made
    while step is not None:
        if not isinstance(step, dict):
            raise ValueError("the recipe in its metadata is damaged")
        image, kept = step.get("image", {}), step.get("kept")
        fine = isinstance(step.get("task"), str) and isinstance(step.get("inputs"), dict)
        fine = fine and isinstance(image, dict) and isinstance(step.get("model", {}), dict)
        if fine and kept is not None:
            at = kept.get("at") if isinstance(kept, dict) else None
            fine = isinstance(at, list) and len(at) == 2 and all(isinstance(n, int) and abs(n) < 10**6 for n in at)
            fine = fine and isinstance(kept.get("region"), dict) and isinstance(kept.get("sha256"), str)
        if not fine:
            raise ValueError("the recipe in its metadata is damaged")
        size_of(step.get("result"))
        if image:
            size_of(image)
        step = image.get("recipe")


def size_of(written: Any) -> tuple[int, int]:
    """(width, height) of a picture in a recipe. Raises ValueError for what is none."""
    size = written.get("size") if isinstance(written, dict) else None
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(n, int) and 0 < n < 10**6 for n in size):
        raise ValueError("the recipe in its metadata is damaged: it names a picture without a size")
    return size[0], size[1]


# ----------------------------------------------------------------------------------------------------- the kept region


def _kept(source: Picture, job: Job, result: Picture) -> dict[str, Any] | None:
    """The region of the result that is the photograph's, bit for bit; None if its pixels were scaled or moved."""
    at = _place(source, job, result)
    if at is None:
        return None
    promised = job.keep == 1 if job.keep.shape == (result.height, result.width) else np.zeros((1, 1), bool)
    same = _same(source, result, at)
    if not promised.any():  # found by the task after the model has painted
        promised = _without_specks(same)
    packed = pack_region(promised & same)
    region = unpack_region(packed, result.size)
    if not region.any():
        return None
    return {
        "sha256": region_digest(result, region),
        "pixels": int(region.sum()),
        "at": list(at),
        "region": packed,
    }


def _place(source: Picture, job: Job, result: Picture) -> tuple[int, int] | None:
    if job.at is None or (job.keep == 1).any() or source.size == result.size:
        return job.at
    return None


def _same(source: Picture, result: Picture, at: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of the result's size: where the photograph lies and has the same values."""
    compared = compare.compare(source, result, at=at)
    if compared.as_colours:
        return np.zeros_like(compared.region)
    return compared.region & (compared.difference == 0)


def _without_specks(region: np.ndarray) -> np.ndarray:
    import cv2

    kernel = np.ones((_SPECK, _SPECK), np.uint8)
    opened: np.ndarray = cv2.morphologyEx(region.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    return opened.astype(bool)
