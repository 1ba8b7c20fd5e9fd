"""Where photographs are read from: image folders, parquet, WebDataset tars and Hub ids, all as rows of ``datasets``.

A row is still encoded: opening a source decodes nothing, and ``raw`` says which of its columns is what.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from photofound import data
from photofound.record import licence_of

IMAGE_COLUMNS = ("image", "img", "photo", "webp", "jpg", "jpeg", "png")
CAPTION_COLUMNS = ("text", "caption", "prompt", "txt")
MASK_COLUMNS = ("mask", "matte", "mask.png")
FOREGROUND_COLUMNS = ("foreground", "foreground.png")


@dataclass(frozen=True)
class Source:
    """Where photographs are read from, and what their columns mean; columns left out are found by their usual names.

    Attributes:
        path: a folder (of .tar, of .parquet, or of images with or without metadata.jsonl), a file or a pattern like
            ``shards/*.tar``, a URL, or a dataset's id on the Hub.
        weight: how often it is drawn, relative to the other sources.
        split, subset: of a dataset on the Hub.
        image: column of the photograph; its alpha channel, where it has one, marks the foreground.
        captions: column -> how often it is taken where a sample has several; columns inside a ``.json`` are named
            like the others, deeper ones with dots.
        mask: column of a mask, white = foreground. It goes before ``foreground``, and that before the image's alpha.
        foreground: column of a cut-out in the photograph's frame, whose alpha marks the foreground.
    """

    path: str
    weight: float = 1.0
    split: str = "train"
    subset: str | None = None
    image: str | None = None
    captions: dict[str, float] = field(default_factory=dict)
    mask: str | None = None
    foreground: str | None = None

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"data: the weight of {self.path!r} is {self.weight}; it must be above 0")
        if any(not share > 0 for share in self.captions.values()):
            raise ValueError(f"data: the weights of captions {self.captions} must be above 0; leave others out")


@dataclass(frozen=True)
class Raw:
    """One sample as its source has it: files still encoded, and every caption with its weight."""

    name: str
    image: bytes
    mask: bytes | None
    foreground: bytes | None
    captions: list[tuple[str, float]]
    row: Mapping[str, Any] = field(repr=False)


def open_source(source: Source, part: int = 64) -> Any:
    """The ``datasets.IterableDataset`` of a source, nothing decoded; its shards are tars, row groups of parquet, or
    ``part`` files of an image folder. Raises ValueError when there is none."""
    import datasets

    path, pattern = Path(source.path), Path(source.path).name
    files = sorted(path.parent.glob(pattern)) if any(c in pattern for c in "*?[") else [path]
    if path.is_dir():
        files = sorted(path.glob("*.tar")) or sorted(path.rglob("*.parquet"))
        if not files:
            return datasets.IterableDataset.from_generator(_read_rows, gen_kwargs={"parts": _folder(path, part)})
    kinds = {each.suffix for each in files}
    try:
        if "://" in source.path:
            kind = "webdataset" if path.suffix == ".tar" else "parquet"
            found = datasets.load_dataset(kind, data_files=source.path, split="train", streaming=True)
        elif not all(each.is_file() for each in files) or not files:
            found = datasets.load_dataset(source.path, source.subset, split=source.split, streaming=True)
        elif kinds == {".tar"}:
            return datasets.IterableDataset.from_generator(_read_tars, gen_kwargs={"tars": [str(f) for f in files]})
        else:
            found = datasets.load_dataset("parquet", data_files=[str(f) for f in files], split="train", streaming=True)
            found = found.reshard()  # row groups in place of files: finer to shuffle and to share out
    except Exception as error:  # the Hub's client and the builders raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = "give a folder, .tar or .parquet files, or the id of a dataset on the Hub"
        raise ValueError(f"data: {source.path!r} cannot be read ({reason}); {advice}") from None
    return found if found.features is None else found.decode(False)


def _read_tars(tars: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of tars, one column per extension; a damaged tar ends with a row that says so."""
    for tar in tars:
        try:
            for sample in data.samples(Path(tar)):
                name = sample.pop("name").decode()
                yield {"name": name} | {extension[1:]: content for extension, content in sample.items()}
        except ValueError as error:
            yield {"name": tar, "damaged": str(error)}


def _read_rows(parts: list[list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for part in parts:
        yield from part


def _folder(folder: Path, part: int) -> list[list[dict[str, Any]]]:
    """Rows of an image folder, in parts that are shuffled and shared out as a whole.

    Described by ``metadata.jsonl`` (``file_name``, further files as ``NAME_file_name``, anything else), in it or in
    folders below it, as ``datasets`` does; without one, every image is a row, with the files beside it that are named
    like it: its caption ``NAME.txt``, its mask ``NAME.mask.png``.
    """
    rows: list[dict[str, Any]] = []
    tables = sorted(folder.rglob("metadata.jsonl"))
    for table in tables:
        rows += _metadata(table)
    if not tables:
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in data.IMAGES)
        for path in (p for p in files if not p.name.endswith(".mask.png")):
            beside = {"text_file": path.with_suffix(".txt"), "mask": path.with_suffix(".mask.png")}
            found = {column: str(file) for column, file in beside.items() if file.is_file()}
            rows.append({"name": str(path), "image": str(path), **found})
    if not rows:
        raise ValueError(f"data: {folder} holds no .tar, .parquet or image; name another folder")
    return [rows[i : i + part] for i in range(0, len(rows), part)]


def _metadata(table: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(table.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = row.pop("file_name")
        except (ValueError, KeyError, AttributeError, TypeError):
            raise ValueError(f"data: {table}, line {number}, is no JSON object with a file_name; mend it") from None
        files = {key.removesuffix("_file_name"): key for key in row if key.endswith("_file_name") and row[key]}
        for column, key in files.items():
            row[column] = str(table.parent / row.pop(key))
        yield row | {"name": str(table.parent / name), "image": str(table.parent / name)}


def raw(row: Mapping[str, Any], source: Source) -> Raw:
    """What a row holds. Raises ValueError or OSError when it is damaged, ValueError also for a column that it lacks."""
    name = str(row.get("name") or row.get("__key__") or "a sample")
    if "damaged" in row:
        raise ValueError(row["damaged"])
    table = dict(row)
    if "json" in row:
        inner = row["json"] if isinstance(row["json"], dict) else json.loads(row["json"])
        if not isinstance(inner, dict):
            raise ValueError(f"{name}: its .json is no object of names and values")
        table = inner | table
    found = _column(table, source.image, IMAGE_COLUMNS)
    if found is None:
        wanted = source.image or " or ".join(IMAGE_COLUMNS)
        raise ValueError(f"{name}: has no image column ({wanted}), only {', '.join(map(str, row))}")
    if isinstance(found, dict) and found.get("path"):
        name = str(row.get("name") or found["path"])
    mask = _column(table, source.mask, MASK_COLUMNS)
    foreground = _column(table, source.foreground, FOREGROUND_COLUMNS)
    return Raw(
        name,
        _file(found),
        None if mask is None else _file(mask),
        None if foreground is None else _file(foreground),
        _captions(table, source),
        table,
    )


def photograph(sample: Raw, short_side: int) -> data.Photograph:
    """The sample decoded, scaled down to a short side of ``short_side``, with its first caption.

    Raises ValueError or OSError when it is damaged.
    """
    about = {"caption": sample.captions[0][0] if sample.captions else "", "source": str(sample.row.get("source", ""))}
    return data.photograph(
        sample.image, short_side, sample.mask, sample.name, sample.foreground, **about, licence=licence_of(sample.row)
    )


def _column(row: Mapping[str, Any], named: str | None, usual: Sequence[str]) -> Any:
    """The value of the named column, else of the first usual one that there is; None for none."""
    if named is None:
        return next((row[name] for name in usual if row.get(name) is not None), None)
    value: Any = row
    if named in row:
        return row[named]
    for part in named.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _file(value: Any) -> bytes:
    """The bytes of a file: themselves, ``{"bytes", "path"}`` as ``datasets`` has it, or a path."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"a {type(value).__name__} is no picture; the column must hold files")
    import fsspec

    with fsspec.open(value, "rb") as file:
        return bytes(file.read())


def _captions(row: Mapping[str, Any], source: Source) -> list[tuple[str, float]]:
    """Every caption that the row has, with its weight; a list of captions shares its column's."""
    columns = source.captions or {name: 1.0 for name in CAPTION_COLUMNS if row.get(name)}
    if not source.captions:
        columns = dict(list(columns.items())[:1])
    found: list[tuple[str, float]] = []
    for column, weight in columns.items():
        value = _column(row, column, ())
        value = value.decode() if isinstance(value, bytes) else value
        words = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str) and each]
        found += [(each.strip(), weight / len(words)) for each in words]
    if not found and "text_file" in row:
        found = [(Path(row["text_file"]).read_text().strip(), 1.0)]
    return found
