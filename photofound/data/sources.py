"""Where photographs are read from: rooms, image folders, parquet, WebDataset tars and Hub ids, all as rows of
``datasets``.

A row is still encoded: opening a source decodes nothing. ``raw`` finds the picture, the mask and the captions in a row.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from photofound import files
from photofound.data import rooms
from photofound.data.ledger import DAMAGED_COLUMN as DAMAGED
from photofound.data.ledger import error_text, files_below, warn_passed_over
from photofound.data.table import Table, is_room
from photofound.data.tars import IMAGES, MASKS, read_tar, warn_unread
from photofound.errors import first_line

IMAGE_COLUMNS = ("image", "img", "photo", *(suffix[1:] for suffix in IMAGES))
CAPTION_COLUMNS = ("text", "caption", "prompt", "txt", "caption_short", "caption_dense")
MASK_COLUMNS = ("mask", "matte", *(suffix[1:] for suffix in MASKS))
FOREGROUND_COLUMNS = ("foreground", *(f"foreground{suffix}" for suffix in IMAGES))
MAX_JSON = 2**24  # bytes


@dataclass(frozen=True)
class Source:
    """Where photographs are read from, and what their columns mean; columns left out are found by their usual names.

    Attributes:
        path: a folder (of .tar, of .parquet, or of images with or without metadata.jsonl), a file or a pattern like
            ``shards/*.tar``; the URL of one (``file://``, ``s3://``, ``https://``, ``hf://``; images in folders of this
            machine only); or a dataset's id on the Hub.
        weight: how often it is drawn, relative to the other sources.
        split, subset: of a dataset on the Hub.
        image: column of the photograph; its alpha channel, where it has one, marks the foreground.
        captions: column -> how often it is taken where a sample has several; columns inside a ``.json`` are named
            like the others, deeper ones with dots.
        mask: column of a mask, white = foreground. It goes before ``foreground``, and that before the image's alpha.
        foreground: column of a cut-out in the photograph's frame, whose alpha marks the foreground.
        room: in place of ``path``: a room's folder.
        where: of a room, only the photographs that this filter in SQL matches: ``licence = 'CC0' and width >= 1024``.
        version: of a room, as it was at this version; None = the newest.
        clusters: of a room, how often the photographs of a cluster are drawn, relative to those that are not named (1).
        balance: of a room, 0: every photograph is drawn equally often, 1: every cluster is.
    """

    path: str = ""
    weight: float = 1.0
    split: str = "train"
    subset: str | None = None
    image: str | None = None
    captions: dict[str, float] = field(default_factory=dict)
    mask: str | None = None
    foreground: str | None = None
    room: str | None = None
    where: str | None = None
    version: int | None = None
    clusters: dict[int, float] = field(default_factory=dict)
    balance: float = 0.0

    def __post_init__(self) -> None:
        if self.room:
            if self.path and self.path != self.room:
                raise ValueError(
                    f"data: a source has a path, {self.path!r}, and a room, {self.room!r}; give one of them"
                )
            object.__setattr__(self, "path", self.room)
        if not self.path:
            raise ValueError("data: a source has no path; give a path, or a room")
        try:
            object.__setattr__(self, "clusters", {int(number): share for number, share in self.clusters.items()})
        except ValueError:
            raise ValueError(f"data: the clusters of {self.path!r} are numbers, not {list(self.clusters)}") from None
        if not 0 <= self.balance <= 1 or any(not share >= 0 for share in self.clusters.values()):
            raise ValueError(
                f"data: {self.path!r}: balance must be from 0 to 1, and the weights of clusters at least 0"
            )
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
    ``part`` pictures of a room or of an image folder. A row that cannot be read says so in ``DAMAGED``. Raises
    ValueError when there is no source."""
    import datasets

    with _reading(source):
        if (listed := _listed(source, part)) is not None:
            read, parts = listed
            return datasets.IterableDataset.from_generator(read, gen_kwargs={"parts": parts})
        dataset = datasets.load_dataset(source.path, source.subset, split=source.split, streaming=True)
        return dataset if dataset.features is None else dataset.decode(False)


class Part(NamedTuple):
    """A part of a source, which is read as a whole: ``rows()`` gives its rows, and ``identity`` is a text that changes
    when its files do; None where that is not known."""

    rows: Callable[[], Iterable[Mapping[str, Any]]]
    identity: str | None


def open_parts(source: Source, part: int = 64) -> list[Part]:
    """The shards of ``open_source``, to be read one by one, and to be known again when they are read the next time.
    Raises ValueError when there is no source."""
    with _reading(source):
        if (listed := _listed(source, part)) is not None:
            read, parts = listed
            return [Part(partial(read, [each]), _identity(each)) for each in parts]
    dataset = open_source(source, part)
    return [Part(partial(dataset.shard, dataset.num_shards, i), None) for i in range(dataset.num_shards)]


@contextmanager
def _reading(source: Source) -> Iterator[None]:
    """Within the block, whatever opening a source raises is a ValueError that names it."""
    try:
        yield
    except Exception as error:  # the Hub's client, fsspec's and the builders raise nearly anything
        if str(error).startswith(("data: ", "where: ")) or isinstance(error, ImportError):
            raise
        advice = "give a folder, .tar or .parquet files, a room, or the id of a dataset on the Hub"
        raise ValueError(f"data: {source.path!r} cannot be read ({first_line(error)}); {advice}") from None


Reader = Callable[[list[Any]], Iterator[dict[str, Any]]]  # the rows of some parts


def _listed(source: Source, part: int) -> tuple[Reader, list[Any]] | None:
    """How the parts of a source are read, and the parts; None for a dataset on the Hub."""
    here = files.local(source.path)
    if is_room(source.path):
        return rooms.read, rooms.parts(source.path, source.version, source.where, part)
    if source.room or source.where or source.version or source.clusters or source.balance:
        raise ValueError("it is no room, so it has no where, no version and no clusters")
    found = _files(source.path)
    if found:
        warn_unread(source.path, found)
    if all(file.endswith(".tar") for file in found) and found:
        return _read_tars, found
    if found:
        return _read_parquet, _row_groups(found)
    if here is not None and here.is_dir():
        return _read_rows, _folder(here, part)
    if here is None:
        raise ValueError("there is no .tar or .parquet")
    return None


def _identity(part: Any) -> str | None:
    """A text for a part: its names, and the size and time of each of its files. None for URLs."""
    if isinstance(part, rooms.RoomPart):
        return repr(part)
    paths = [part] if isinstance(part, str) else [part[0]] if isinstance(part, tuple) else None
    if paths is None:
        paths = [str(path) for listed in part for path in listed.files.values()]
    if any(files.local(path) is None for path in paths):
        return None
    try:
        stats = [os.stat(files.local(path) or path) for path in paths]
    except OSError:
        return None
    what = part if isinstance(part, (str, tuple)) else [[listed.row, list(listed.files)] for listed in part]
    names = [os.path.abspath(path) for path in paths]
    return json.dumps([what, names, [[stat.st_size, stat.st_mtime_ns] for stat in stats]], default=str)


def _files(path: str) -> list[str]:
    """The tars or the parquet files that a path or a URL names: a file, a pattern, or a folder of them."""
    folder, _, name = path.rstrip("/").rpartition("/")
    if any(character in name for character in ("*[" if "://" in path else "*?[")):
        return files.find(folder or ("/" if path.startswith("/") else "."), name)
    here = files.local(path)
    if here is None and name.endswith((".tar", ".parquet")):
        return [path]
    if here is None or here.is_dir():
        return files.find(path, "*.tar") or files.find(path, "**/*.parquet")
    return [str(here)] if here.is_file() else []


def pinned(source: Source) -> Source:
    """The source with the version of its room that is the newest now; any other source as it is."""
    if source.version is not None or not is_room(source.path):
        return source
    return replace(source, version=Table(source.path).dataset.version)


def by_cluster(source: Source) -> list[Source]:
    """A source for each cluster of a room, weighted by ``clusters`` and ``balance``; a source without these as it is.

    Raises ValueError for a room without clusters.
    """
    if not source.clusters and not source.balance:
        return [source]
    shares = rooms.shares(Table(source.path, source.version), source.where, source.clusters, source.balance)
    plain = replace(source, clusters={}, balance=0.0)
    return [replace(plain, where=where, weight=source.weight * share) for where, share in shares.items()]


def _read_tars(parts: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of tars, one column per extension; a damaged tar ends with a row that says so."""
    for tar in parts:
        for sample in read_tar(tar):
            name, damaged = (sample.pop(key, b"").decode(errors="replace") for key in ("name", "damaged"))
            content = {extension[1:]: content for extension, content in sample.items()}
            yield {"name": name} | ({DAMAGED: damaged} if damaged else content)


def _row_groups(paths: list[str]) -> list[tuple[str, int | None]]:
    """Files of parquet in their row groups, which are finer to shuffle and to share out; those behind a URL, and those
    that are damaged, as a whole."""
    import pyarrow.parquet as pq

    parts: list[tuple[str, int | None]] = []
    for path in paths:
        try:
            groups = range(0 if files.local(path) is None else pq.ParquetFile(path).num_row_groups)
        except Exception as error:
            if len(paths) == 1:
                raise ValueError(error_text(error)) from None
            groups = range(0)
        parts += [(path, group) for group in groups] or [(path, None)]
    return parts


def _read_parquet(parts: list[tuple[str, int | None]]) -> Iterator[dict[str, Any]]:
    """Rows of parquet, one at a time; a damaged group ends with a row that says so."""
    import pyarrow.parquet as pq

    for path, group in parts:
        try:
            with files.open_file(path) as file:
                groups = None if group is None else [group]
                for row in pq.ParquetFile(file).iter_batches(1, groups):
                    if row.nbytes > files.MAX_BYTES:
                        yield {"name": path, DAMAGED: f"a row of it has more than {files.MAX_BYTES:,} bytes"}
                    else:
                        yield from row.to_pylist()
        except Exception as error:  # pyarrow raises nearly anything
            yield {"name": path, DAMAGED: f"cannot be read ({error_text(error)})"}


def _read_rows(parts: list[list[_Listed]]) -> Iterator[dict[str, Any]]:
    """Rows of an image folder with the bytes of their files."""
    for listed in (each for part in parts for each in part):
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


class _Listed(NamedTuple):
    """A row of an image folder: its metadata, and its files by column."""

    row: dict[str, Any]
    files: dict[str, Path]


def _folder(folder: Path, part: int) -> list[list[_Listed]]:
    """Rows of an image folder, in parts that are shuffled and shared out as a whole.

    Described by ``metadata.jsonl`` (``file_name``, further files as ``NAME_file_name``, anything else), in it or in
    folders below it, as ``datasets`` does; without one, every image is a row, with the files beside it that are named
    like it: its caption ``NAME.txt``, its mask ``NAME.mask.png`` (or any other suffix of a picture). Hidden files are
    left out, and a warning names the other files that are not read.
    """
    rows: list[_Listed] = []
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


def _pictures(folder: Path) -> list[_Listed]:
    """A row for each picture of a folder, with its caption and its mask."""
    there = files_below(folder)
    pictures = [path for path in there if path.suffix.lower() in IMAGES]
    masks = {str(path.with_suffix(""))[: -len(".mask")]: path for path in pictures if path.stem.endswith(".mask")}
    rows = []
    for path in (path for path in pictures if not path.stem.endswith(".mask")):
        beside = {"text_file": path.with_suffix(".txt"), "mask": masks.get(str(path.with_suffix("")))}
        found = {column: file for column, file in beside.items() if file is not None and file.is_file()}
        rows.append(_Listed({"name": str(path)}, {"image": path, **found}))
    return rows


def _metadata(table: Path) -> Iterator[_Listed]:
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
            yield _Listed(row | {"name": str(paths["image"])}, paths)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            why = str(error) if "is not below" in str(error) else "is no JSON object with a file_name; mend it"
            yield _Listed({"name": f"{table}, line {number}", DAMAGED: why}, {})


def _is_below(path: Path, folder: Path) -> bool:
    """Whether a file that a table names lies below the table's folder, links followed. In the Hub's own cache, where
    all files are links, that is its repository."""
    base = Path(os.path.realpath(folder))  # unlike Path.resolve, it takes links that lead in a circle
    base = next((p.parent for p in base.parents if p.name == "snapshots" and (p.parent / "blobs").is_dir()), base)
    return Path(os.path.realpath(path)).is_relative_to(base)


def raw(row: Mapping[str, Any], source: Source) -> Raw:
    """The sample in a row. A text in it is never opened as a path or a URL.

    Raises ValueError for a column that it lacks, and the errors of its readers when it is damaged.
    """
    name = str(row.get("name") or row.get("__key__") or "a sample")
    if DAMAGED in row:
        raise ValueError(str(row[DAMAGED]))
    table = dict(row)
    if "json" in row:
        inner = row["json"] if isinstance(row["json"], dict) else _json(row["json"])
        if not isinstance(inner, dict):
            raise ValueError(f"{name}: its .json is no object of names and values")
        table = inner | table
    found = _column({k: v for k, v in row.items() if not isinstance(v, str)}, source.image, IMAGE_COLUMNS)
    if found is None:
        wanted = source.image or "image, img, photo, or a picture's suffix such as jpg"
        raise ValueError(f"{name}: has no image column ({wanted}), only {', '.join(map(str, row))}")
    if isinstance(found, dict) and found.get("path"):
        name = str(row.get("name") or found["path"])
    mask = _column(row, source.mask, MASK_COLUMNS)  # of the row alone: there are no files in its .json
    foreground = _column(row, source.foreground, FOREGROUND_COLUMNS)
    return Raw(
        name,
        _file(found, source, "image"),
        None if mask is None or mask == "" else _file(mask, source, "mask"),
        None if foreground is None or foreground == "" else _file(foreground, source, "foreground"),
        _captions(table, source),
        table,
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


def _file(value: Any, source: Source, column: str) -> bytes:
    """The bytes of a file: themselves, or ``{"bytes", "path"}`` as ``datasets`` has it. A path is opened only where
    ``datasets`` has listed it in the very dataset of the Hub that the source is."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and _in_dataset(value, source.path):
        return files.read(value)
    what = f"the text {value[:80]!r}" if isinstance(value, str) else f"a {type(value).__name__}"
    raise ValueError(f"its {column} is {what}, no picture; the column must hold files, and text is never opened")


def _in_dataset(url: str, dataset: str) -> bool:
    """Whether a URL is of a file, or of a member of an archive, in a dataset of the Hub."""
    inside = rf"(?:(?:zip|tar)://[^:]*::)?hf://datasets/{re.escape(dataset)}(?:@[^/:]+)?/[^:]+"
    return re.fullmatch(inside, url) is not None and ".." not in url.split("/")


def _json(content: Any) -> Any:
    if len(content) > MAX_JSON:
        raise ValueError(f"its .json has more than {MAX_JSON:,} bytes")
    return json.loads(content)


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
    return found
