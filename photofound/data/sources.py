"""Where photographs are read from: rooms, image folders, parquet, WebDataset tars and Hub ids, all as rows, in parts.

A row is still encoded: opening a source decodes nothing. ``raw`` finds the picture, the mask and the captions in a row.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from photofound import files, remote
from photofound.data import folders, lances, mds, parquet, rooms
from photofound.data.ledger import DAMAGED_COLUMN as DAMAGED
from photofound.data.table import Table, is_room
from photofound.data.tars import IMAGES, MASKS, read_tar, warn_unread
from photofound.errors import first_line

IMAGE_COLUMNS = ("image", "img", "photo", *(suffix[1:] for suffix in IMAGES))
CAPTION_COLUMNS = ("text", "caption", "prompt", "txt", "caption_short", "caption_dense")
MASK_COLUMNS = ("mask", "matte", *(suffix[1:] for suffix in MASKS))
FOREGROUND_COLUMNS = ("foreground", *(f"foreground{suffix}" for suffix in IMAGES))
MAX_JSON = 2**24  # bytes
_MOST_NUMBERED = 1_000_000  # files of a pattern {a..b}
_PHOTOGRAPH = 2**17  # bytes of a photograph that is not looked at yet


@dataclass(frozen=True)
class Source:
    """Where photographs are read from, and what their columns mean; columns left out are found by their usual names.

    Attributes:
        path: a folder (of .tar, of .parquet, or of images with or without metadata.jsonl), a file or a pattern like
            ``shards/*.tar`` or ``shards/{000..127}.tar``; the URL of one (``file://``, ``s3://``, ``https://``,
            ``hf://``; images in folders of this machine only); or a dataset's id on the Hub.
        weight: how often it is drawn, relative to the other sources.
        split, subset: of a dataset on the Hub.
        image: column of the photograph; its alpha channel, where it has one, marks the foreground.
        captions: column -> how often it is taken where a sample has several; columns inside a ``.json`` are named
            like the others, deeper ones with dots.
        mask: column of a mask, white = foreground. It goes before ``foreground``, and that before the image's alpha.
        foreground: column of a cut-out in the photograph's frame, whose alpha marks the foreground.
        room: in place of ``path``: a room's folder, or the URL of one on object storage.
        where: of a room or a Lance table, only what this filter in SQL matches: ``licence = 'CC0' and width >= 1024``.
        version: of a room or a Lance table, as it was at this version; None = the newest.
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


Reader = Callable[[Any, int, int, files.Opener], Iterator[dict[str, Any]]]
"""Of a part's place, every step-th row from a number on."""


@dataclass(frozen=True)
class Raw:
    """One sample as its source has it: files still encoded, and every caption with its weight."""

    name: str
    image: bytes
    mask: bytes | None
    foreground: bytes | None
    captions: list[tuple[str, float]]
    row: Mapping[str, Any] = field(repr=False)


class Part:
    """A part of a source, a shard: it is shuffled, shared out and read as a whole."""

    def __init__(self, read: Reader, place: Any) -> None:
        self._read, self._place = read, place

    def rows(
        self, start: int = 0, step: int = 1, opener: files.Opener = files.open_file
    ) -> Iterator[Mapping[str, Any]]:
        """Every ``step``-th row from number ``start`` on; one that cannot be read says so in ``DAMAGED``.

        Args:
            opener: opens the files that the part consists of; a cache of shards has one.
        """
        return self._read(self._place, start, step, opener)

    @property
    def url(self) -> str | None:
        """Where its file lies, if that is behind a URL."""
        if isinstance(self._place, lances.LancePart):
            return None  # Lance reads it
        path = self._place[0] if isinstance(self._place, tuple) else self._place  # a shard's path comes first
        return path if isinstance(path, str) and files.local(path) is None else None

    @property
    def identity(self) -> str | None:
        """A text that changes when the part's files do; None where that is not known."""
        return _identity(self._place)

    @property
    def bytes(self) -> int:
        """About how large it is, to share out work; 0 where that is not known. A row group counts as its file."""
        return _size(self._place)


def open_source(source: Source) -> Iterator[Mapping[str, Any]]:
    """All rows of a source, nothing decoded. Raises ValueError when there is no source."""
    return itertools.chain.from_iterable(part.rows() for part in open_parts(source))


def open_parts(source: Source, part: int = 64) -> list[Part]:
    """The parts of a source: tars, row groups of parquet, shards of the Hub, or ``part`` pictures of a room or of an
    image folder. Raises ValueError when there is no source."""
    with _reading(source):
        read, places = _listed(source, part) or _on_the_hub(source)
        return [Part(read, place) for place in places]


@contextmanager
def _reading(source: Source) -> Iterator[None]:
    """Within the block, whatever opening a source raises is a ValueError that names it."""
    try:
        yield
    except Exception as error:  # the Hub's client, fsspec's and the builders raise nearly anything
        if str(error).startswith(("data: ", "where: ")) or isinstance(error, ImportError):
            raise
        if isinstance(error, remote.Unreachable):
            raise ValueError(f"data: {error}") from None
        advice = "give a folder, .tar or .parquet files, a room, or the id of a dataset on the Hub"
        raise ValueError(f"data: {source.path!r} cannot be read ({first_line(error)}); {advice}") from None


def _on_the_hub(source: Source) -> tuple[Reader, list[Any]]:
    """How the shards of a dataset on the Hub are read, and their numbers."""
    import datasets

    dataset = datasets.load_dataset(source.path, source.subset, split=source.split, streaming=True)
    dataset = dataset if dataset.features is None else dataset.decode(False)

    def read(shard: _HubShard, start: int, step: int, opener: files.Opener) -> Iterator[dict[str, Any]]:
        yield from itertools.islice(dataset.shard(dataset.num_shards, shard.number), start, None, step)

    return read, [_HubShard(number) for number in range(dataset.num_shards)]


class _HubShard(NamedTuple):
    number: int


def _listed(source: Source, part: int) -> tuple[Reader, list[Any]] | None:
    """How the parts of a source are read, and the parts; None for a dataset on the Hub."""
    here = files.local(source.path)
    if is_room(source.path):
        return rooms.read, rooms.parts(source.path, source.version, source.where, part)
    table = lances.table_of(source.path, bool(source.room))
    if table is not None and not (source.clusters or source.balance):
        return lances.read, lances.parts(table, source.version, source.where, part)
    if table is not None:
        raise ValueError("clusters are drawn of a room on this machine alone; choose them with where")
    if source.room or source.where or source.version or source.clusters or source.balance:
        raise ValueError("it is no room, so it has no where, no version and no clusters")
    if _has_index(source.path):
        return mds.read, mds.parts(source.path)
    found = _files(source.path)
    if found:
        warn_unread(source.path, found)
    if all(file.endswith(".tar") for file in found) and found:
        return _read_tar, found
    if found:
        return parquet.read, parquet.parts(found)
    if here is not None and here.is_dir():
        return folders.read, folders.parts(here, part)
    if here is None:
        raise ValueError("there is no .tar or .parquet")
    return None


def _has_index(path: str) -> bool:
    """Whether a folder has shards of mosaicml-streaming: an ``index.json`` with shards. Ours beside tars has none."""
    here = files.local(path)
    if here is None and path.rstrip("/").endswith((".tar", ".parquet")) or "*" in path or "{" in path:
        return False
    content = files.read_beside(path, mds.INDEX) if here is None or here.is_dir() else None
    try:
        return content is not None and bool(json.loads(content)["shards"][0]["column_encodings"])
    except (ValueError, LookupError, TypeError):
        return False


def _identity(part: Any) -> str | None:
    """A text for a part: its names, and the size and time of each of its files. None for URLs."""
    if isinstance(part, (rooms.RoomPart, lances.LancePart)):
        return repr(part)
    if isinstance(part, _HubShard):
        return None  # it may have changed on the Hub
    paths = _paths(part)
    if any(files.local(path) is None for path in paths):
        return None
    try:
        stats = [os.stat(files.local(path) or path) for path in paths]
    except OSError:
        return None
    what = part if isinstance(part, (str, tuple)) else [[listed.row, list(listed.files)] for listed in part]
    names = [os.path.abspath(path) for path in paths]
    return json.dumps([what, names, [[stat.st_size, stat.st_mtime_ns] for stat in stats]], default=str)


def _size(part: Any) -> int:
    """About how many bytes a part has; 0 for URLs."""
    if isinstance(part, rooms.RoomPart):
        return part.length * _PHOTOGRAPH
    here = [files.local(path) for path in _paths(part)] if not isinstance(part, _HubShard) else []
    return sum(path.stat().st_size for path in here if path is not None and path.is_file())


def _paths(part: Any) -> list[str]:
    """The files of a tar, of a row group, or of rows of an image folder."""
    if isinstance(part, str):
        return [part]
    return [part[0]] if isinstance(part, tuple) else [str(path) for each in part for path in each.files.values()]


def _files(path: str) -> list[str]:
    """The tars or the parquet files that a path or a URL names: a file, a pattern, numbered ones, or a folder."""
    if (braces := re.search(r"\{(\d+)\.\.(\d+)\}", path)) is not None:
        first, last, width = int(braces[1]), int(braces[2]), len(braces[1])
        if not 0 <= last - first < _MOST_NUMBERED:
            raise ValueError(f"{braces[0]} must count up, to {_MOST_NUMBERED:,} files at most")
        numbered = (f"{path[: braces.start()]}{n:0{width}d}{path[braces.end() :]}" for n in range(first, last + 1))
        return [file for each in numbered for file in _files(each)]
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
    """The source with the version of its room or table that is the newest now; any other source as it is."""
    if source.version is not None:
        return source
    if is_room(source.path):
        return replace(source, version=Table(source.path).dataset.version)
    if (table := lances.table_of(source.path, bool(source.room))) is None:
        return source
    with _reading(source):
        return replace(source, version=lances.version(table))


def by_cluster(source: Source) -> list[Source]:
    """A source for each cluster of a room, weighted by ``clusters`` and ``balance``; a source without these as it is.

    Raises ValueError for a room without clusters.
    """
    if not source.clusters and not source.balance or not is_room(source.path):  # opening it says so
        return [source]
    shares = rooms.shares(Table(source.path, source.version), source.where, source.clusters, source.balance)
    plain = replace(source, clusters={}, balance=0.0)
    return [replace(plain, where=where, weight=source.weight * share) for where, share in shares.items()]


def _read_tar(tar: str, start: int, step: int, opener: files.Opener) -> Iterator[dict[str, Any]]:
    """Rows of a tar, one column per extension; a damaged one ends with a row that says so."""
    for sample in read_tar(tar, start, step, opener):
        name, damaged = (sample.pop(key, b"").decode(errors="replace") for key in ("name", "damaged"))
        content = {extension[1:]: content for extension, content in sample.items()}
        yield {"name": name} | ({DAMAGED: damaged} if damaged else content)


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
    if not source.captions:
        named = (_texts(row.get(name)) for name in CAPTION_COLUMNS)
        texts = next((each for each in named if each), [])
        return [(text, 1 / len(texts)) for text in texts]
    found: list[tuple[str, float]] = []
    for column, weight in source.captions.items():
        texts = _texts(_column(row, column, ()))
        found += [(text, weight / len(texts)) for text in texts]
    return found


def _texts(value: Any) -> list[str]:
    """The captions in a value, without those that say nothing."""
    value = value.decode() if isinstance(value, bytes) else value
    values = value if isinstance(value, list) else [value]
    return [text for each in values if isinstance(each, str) and (text := each.strip())]
