"""Photographs of a folder of WebDataset tars, in memory. For more than memory holds see ``stream.py``."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from photofound import files
from photofound.card.record import licence_of
from photofound.data.ledger import without_damaged
from photofound.data.photograph import Photograph, photograph
from photofound.data.tars import IMAGES, MASKS, read_tar, warn_unread


def read(folder: str | Path, short_side: int = 288, limit: int | None = None) -> list[Photograph]:
    """All photographs below ``folder``, a path or a URL, scaled down so that the short side is ``short_side`` (never
    up). Damaged ones are left out and named in the log.

    Raises FileNotFoundError when there is no tar, ValueError when none holds a picture with a caption, or when more
    than 1 % of them are damaged.
    """
    tars = files.find(folder, "*.tar")
    if not tars:
        raise FileNotFoundError(f"data: {folder} holds no .tar; point data.folder at WebDataset tars")
    warn_unread(folder, tars)
    found = (sample for tar in tars for sample in read_tar(tar) if ".json" in sample or "damaged" in sample)
    with ThreadPoolExecutor(4) as pool:
        decoded = list(pool.map(lambda s: _decoded(s, short_side), itertools.islice(found, limit)))
    photographs = without_damaged(decoded)
    if not photographs:
        raise ValueError(f"data: no sample in {folder} has both a picture and a .json; see the WebDataset format")
    return photographs


def origins(folder: str | Path, limit: int | None = None) -> list[tuple[str, str]]:
    """Source and licence of each photograph of ``read``, in its order, "" where unknown. No picture is decoded."""
    found = (sample for tar in files.find(folder, "*.tar") for sample in read_tar(tar) if ".json" in sample)
    return [_origin(sample) for sample in itertools.islice(found, limit)]


def _origin(sample: dict[str, bytes]) -> tuple[str, str]:
    try:
        table = json.loads(sample[".json"])
        return str(table.get("source", "")), licence_of(table)
    except (ValueError, AttributeError, RecursionError):
        return "", ""


def _decoded(sample: dict[str, bytes], short_side: int) -> Photograph | tuple[str, Exception]:
    """A photograph, or its name and what is wrong with it."""
    try:
        return _decode(sample, short_side)
    except Exception as error:
        return sample["name"].decode(errors="replace"), error


def _decode(sample: dict[str, bytes], short_side: int) -> Photograph:
    name = sample["name"].decode(errors="replace")
    if "damaged" in sample:
        raise ValueError(sample["damaged"].decode(errors="replace"))
    try:
        meta: dict[str, Any] = json.loads(sample[".json"])
        file = next(sample[e] for e in IMAGES if e in sample)
        mask = next((sample[e] for e in MASKS if e in sample), None)
        about = (str(meta["text"]), str(meta.get("source", "")), licence_of(meta))
        return photograph(file, short_side, mask, name, None, *about)
    except KeyError:
        raise ValueError('its .json has no "text"') from None
