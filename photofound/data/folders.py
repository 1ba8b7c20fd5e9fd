"""Rows of an image folder: pictures with their captions and masks, or what ``metadata.jsonl`` lists."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from photofound import files
from photofound.data.ledger import DAMAGED_COLUMN as DAMAGED
from photofound.data.ledger import error_text, files_below, warn_passed_over
from photofound.data.tars import IMAGES


class Listed(NamedTuple):
    """A row of an image folder: its metadata, and its files by column."""

    row: dict[str, Any]
    files: dict[str, Path]


def parts(folder: Path, part: int) -> list[list[Listed]]:
    """Rows of an image folder, in parts that are shuffled and shared out as a whole.

    Described by ``metadata.jsonl`` (``file_name``, further files as ``NAME_file_name``, anything else), in it or in
    folders below it, as ``datasets`` does; without one, every image is a row, with the files beside it that are named
    like it: its caption ``NAME.txt``, its mask ``NAME.mask.png`` (or any other suffix of a picture). Hidden files are
    left out, and a warning names the other files that are not read.
    """
    rows: list[Listed] = []
    tables = sorted(folder.rglob("metadata.jsonl"))
    for table in tables:
        rows += _metadata(table)
    if not tables:
        rows = _pictures(folder)
    read = {os.path.normpath(file) for row in rows for file in (*row.files.values(), *tables)}
    others = [path.name for path in files_below(folder) if os.path.normpath(path) not in read]
    warn_passed_over(folder, others, "not in metadata.jsonl" if tables else "no picture, nor named like one")
    if not rows:
        raise ValueError(f"data: {folder} holds no .tar, .parquet or image; name another folder")
    return [rows[i : i + part] for i in range(0, len(rows), part)]


def read(part: list[Listed], start: int = 0, step: int = 1, opener: object = None) -> Iterator[dict[str, Any]]:
    """Every ``step``-th row of a part from number ``start`` on, with the bytes of its files."""
    for listed in part[start::step]:
        if DAMAGED in listed.row:
            yield listed.row
            continue
        try:
            content: dict[str, Any] = {column: files.read(path) for column, path in listed.files.items()}
            if "text_file" in content:
                content["text"] = content.pop("text_file").decode()
            yield listed.row | content
        except Exception as error:
            yield {"name": listed.row["name"], DAMAGED: error_text(error)}


def _pictures(folder: Path) -> list[Listed]:
    """A row for each picture of a folder, with its caption and its mask."""
    there = files_below(folder)
    pictures = [path for path in there if path.suffix.lower() in IMAGES]
    masks = {str(path.with_suffix(""))[: -len(".mask")]: path for path in pictures if path.stem.endswith(".mask")}
    rows = []
    for path in (path for path in pictures if not path.stem.endswith(".mask")):
        beside = {"text_file": path.with_suffix(".txt"), "mask": masks.get(str(path.with_suffix("")))}
        found = {column: file for column, file in beside.items() if file is not None and file.is_file()}
        rows.append(Listed({"name": str(path)}, {"image": path, **found}))
    return rows


def _metadata(table: Path) -> Iterator[Listed]:
    """The rows of a table, whose files lie below its folder."""
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            names = {"image": row.pop("file_name")}
            for key in [key for key in row if key.endswith("_file_name")]:
                if name := row.pop(key):
                    names[key.removesuffix("_file_name")] = name
            paths = {column: table.parent / name for column, name in names.items()}
            if outside := [path for path in paths.values() if not _is_below(path, table.parent)]:
                raise ValueError(f"names {outside[0]}, which is not below {table.parent}")
            yield Listed(row | {"name": str(paths["image"])}, paths)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            why = str(error) if "is not below" in str(error) else "is no JSON object with a file_name; mend it"
            yield Listed({"name": f"{table}, line {number}", DAMAGED: why}, {})


def _is_below(path: Path, folder: Path) -> bool:
    """Whether a file that a table names lies below the table's folder, links followed. In the Hub's own cache, where
    all files are links, that is its repository."""
    base = Path(os.path.realpath(folder))  # unlike Path.resolve, it takes links that lead in a circle
    base = next((p.parent for p in base.parents if p.name == "snapshots" and (p.parent / "blobs").is_dir()), base)
    return Path(os.path.realpath(path)).is_relative_to(base)
