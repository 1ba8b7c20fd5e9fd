"""What is known of a photograph after one look: a row of the room's table."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from PIL import Image

from photofound import image
from photofound.card.record import licence_of
from photofound.data.duplicates import fingerprint
from photofound.data.photograph import decode, scaled
from photofound.data.sources import Raw
from photofound.data.table import contents
from photofound.picture.places import without_place

SIDE = 256
"""Short side, at most, of the pixels that hashes and embeddings are computed of."""
_MOST_META = 2**20  # bytes of a row's metadata


@dataclass(frozen=True)
class Described:
    """A row of the table, and its pixels for networks.

    Attributes:
        row: column -> value.
        pixels: (H, W, 3) uint8, upright, in sRGB, transparent parts on white; short side at most ``SIDE``.
    """

    row: dict[str, Any]
    pixels: np.ndarray


def sha256(file: bytes) -> str:
    return hashlib.sha256(file).hexdigest()


def source_of(sample: Raw, collection: str) -> str:
    """Who a photograph is from: as its metadata say, else the SOURCE that was added."""
    return str(sample.row.get("source") or "").strip() or collection


def describe(
    sample: Raw, collection: str, licence: str = "", reference: bool = False, keep_gps: bool = False
) -> Described:
    """A photograph's row: hashes, size, format, licence, captions, metadata. The file is decoded to its end.

    Args:
        collection: the SOURCE that is added.
        licence: of a photograph whose metadata name none.
        reference: keep ``sample.name``, which is its path or URL, in place of the file.
        keep_gps: leave in the file where it was taken.

    Raises whatever its decoder raises when it is damaged.
    """
    key, file = sha256(sample.image), sample.image
    if not keep_gps and not reference:
        file = without_place(file)
    width, height = image.upright_size(file, sample.name)
    pixels, _ = decode(file, scaled((width, height), SIDE), None, sample.name)
    bits, colours = fingerprint(pixels)
    row: dict[str, Any] = {
        "key": key,
        "hash": key if file is sample.image else sha256(file),
        "name": sample.name,
        "source": source_of(sample, collection),
        "collection": collection,
        "licence": licence_of(sample.row) or licence,
        "image": None if reference else file,
        "reference": os.path.abspath(sample.name) if reference else None,
        "bytes": len(file),
        "format": _format(file),
        "width": width,
        "height": height,
        "aspect": width / height,
        "phash": bits,
        "colours": bytes.fromhex(colours),
        "mask": sample.mask,
        "foreground": sample.foreground,
        "meta": _meta(sample.row, keep_gps),
        "added": datetime.now(UTC),
    }
    return Described(row | _captions(sample), pixels)


def _format(file: bytes) -> str:
    with Image.open(io.BytesIO(file)) as opened:
        return "JPEG" if opened.format == "MPO" else str(opened.format)


def _captions(sample: Raw) -> dict[str, str | None]:
    """The source's own caption, and its short and dense one where it names them so."""
    named = {
        column: _text(sample.row.get(column)) or _text(sample.row.get(f"{column.removeprefix('caption_')}_caption"))
        for column in ("caption_short", "caption_dense")
    }
    own = [words for words, _ in sample.captions if words.strip() and words not in named.values()]
    return {"caption": own[0] if own else None} | named


def _text(value: Any) -> str | None:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return text.strip() or None if isinstance(text, str) else None


def _meta(row: Mapping[str, Any], keep_gps: bool) -> str:
    """The plain values of a source's row as JSON; places named by numbers go with GPS."""
    left_out = ("json", "image", "name") + (() if keep_gps else ("gps", "latitude", "longitude", "lat", "lon", "lng"))
    kept = {k: v for k, v in row.items() if _is_plain(v) and str(k).lower().removeprefix("gps_") not in left_out}
    text = json.dumps(kept, ensure_ascii=False, default=str)
    if len(text.encode("utf-8", "replace")) > _MOST_META:
        raise ValueError(f"its metadata have more than {_MOST_META:,} bytes")
    return text.encode("utf-8", "replace").decode()


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether JSON holds it: text, finite numbers, and lists and mappings of these."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return depth < 5 and all(isinstance(k, str) and _is_plain(v, depth + 1) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return depth < 5 and all(_is_plain(each, depth + 1) for each in value)
    return isinstance(value, (str, int, bool))


def pixels_of(file: bytes | Exception, side: int = SIDE) -> np.ndarray:
    """(H, W, 3) uint8 of a file of the room, its short side at most ``side``. Raises what its decoder raises."""
    if isinstance(file, Exception):
        raise file
    return decode(file, scaled(image.upright_size(file), side))[0]


def pictures_of(batch: Any, side: int) -> dict[int, np.ndarray]:
    """Row -> (H, W, 3) uint8 of a batch with ``image``, ``reference`` and ``collection``, the short side at most
    ``side``; rows that cannot be read are left out."""
    found = {}
    for index, file in enumerate(contents(batch)):
        try:
            found[index] = pixels_of(file, side)
        except Exception:  # it was whole when it was added: its reference has gone
            continue
    return found
