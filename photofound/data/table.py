"""A room: photographs as a Lance table in a folder. Its columns, its versions, queries in SQL, and safe writing.

A room is a folder; the table in it is ``photos.lance``, which LanceDB opens as the table ``photos``. Every change is a
new version of the table. Reading needs no lock and sees one version; writers take turns with a lock file.

    table = Table("room")
    for batch in table.scan(["key", "width"], where="licence = 'CC0' and width >= 1024"):   # pyarrow.RecordBatch
        ...
    table.fill([pa.field("score_blur", pa.float32())], read=["image"], compute=...)         # add a column, resumable

Nothing here holds a whole room in memory: what grows with the room is at most eight bytes a picture.
"""

from __future__ import annotations

import os
import re
import secrets
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from photofound import files, image
from photofound.errors import one_line

TABLE = "photos.lance"
EMBEDDING, SCORE = "embedding_", "score_"
"""Columns that networks and filters add begin with these."""
_BUFFER = 64 * 2**20  # bytes that Lance reads ahead; its own default is two gigabytes
_PAUSE = 60  # seconds of computed values after which `fill` writes them


class Column(NamedTuple):
    """A column: its name, its type as pyarrow calls it, and what it means."""

    name: str
    type: str
    meaning: str


COLUMNS = (
    Column("key", "string", "SHA-256 of the file as its source has it, in hex; the picture's name in the room"),
    Column("hash", "string", "SHA-256 of the file in the room; another than key where a place (GPS) was taken out"),
    Column("name", "string", "the file's name or key in its source"),
    Column("source", "string", "who it is from: 'source' in its metadata, else the SOURCE that was added"),
    Column("collection", "string", "the SOURCE that was added: a folder, a pattern, a URL, an id of the Hub"),
    Column("licence", "string", "'licence' or 'license' in its metadata, else --licence; empty if unknown"),
    Column("image", "large_binary", "the file; null where the room only has a reference to it"),
    Column("reference", "string", "path of the file, where the room does not hold it"),
    Column("bytes", "int64", "size of the file"),
    Column("format", "string", "JPEG, PNG, WEBP, ..."),
    Column("width", "int32", "pixels, upright"),
    Column("height", "int32", "pixels, upright"),
    Column("aspect", "float", "width over height"),
    Column("phash", "uint64", "perceptual hash: 64 bits of differences (photofound.data.duplicates)"),
    Column("colours", "binary", "colours at 4 x 4 places, row by row, three bytes of sRGB each"),
    Column("caption", "string", "the source's own caption, the first if it has several; 'meta' has all of them"),
    Column("caption_short", "string", "a caption of one sentence, by a captioner"),
    Column("caption_dense", "string", "a caption that says all that is to be seen, by a captioner"),
    Column("mask", "large_binary", "the object's matte as a file, white = object"),
    Column("foreground", "large_binary", "a cut-out in the photograph's frame, as a file with alpha"),
    Column("tags", "list<string>", "words that filters or people attach; array_has(tags, 'person') finds one"),
    Column("meta", "string", "all plain values of the source's row, as JSON"),
    Column("added", "timestamp[us, UTC]", "when it was added"),
)
"""The columns of every room. ``embedding_NETWORK``, ``score_FILTER`` and ``cluster`` join when they are computed."""


@cache
def schema() -> Any:
    """``COLUMNS`` as a ``pyarrow.Schema``."""
    import pyarrow as pa

    kinds = {"list<string>": pa.list_(pa.string()), "timestamp[us, UTC]": pa.timestamp("us", "UTC")}
    return pa.schema([pa.field(c.name, kinds.get(c.type) or pa.type_for_alias(c.type)) for c in COLUMNS])


def is_room(path: str | Path) -> bool:
    """Whether a path of this machine is a room."""
    here = files.local(path)
    return here is not None and (here / TABLE).is_dir()


def lance() -> Any:
    """The library. Raises ImportError that says how to get it."""
    os.environ.setdefault("LANCE_LOG", "error")  # it warns of what is no fault, such as a table that is new
    try:
        import lance
    except ImportError:
        raise ImportError("a room is kept by Lance, which is not installed; pip install 'photofound[room]'") from None
    # It warns at every fork. The processes that decode are forked, and never use it.
    warnings.filterwarnings("ignore", "lance is not fork-safe", UserWarning)
    return lance


class Table:
    """The table of a room, at its newest version or at ``version``.

    Raises FileNotFoundError where there is no room, ValueError for a version that there is not.
    """

    def __init__(self, folder: str | Path, version: int | None = None) -> None:
        self.folder = files.output_path(folder, "room")
        self.version = version
        if not is_room(self.folder):
            raise FileNotFoundError(f"{folder}: is no room; make one with 'photofound room add {folder} SOURCE'")
        self._opened: Any = None

    @classmethod
    def create(cls, folder: str | Path) -> Table:
        """The room in a folder, which may have one already. Raises ValueError for a folder that holds other things."""
        place = files.output_path(folder, "room")
        if not is_room(place):
            if place.is_dir() and any(not entry.name.startswith(".") for entry in place.iterdir()):
                raise ValueError(f"{folder}: is a folder of other things; name a new folder for the room")
            place.mkdir(parents=True, exist_ok=True)
            with _locked(place):
                if not is_room(place):
                    lance().write_dataset(schema().empty_table(), str(place / TABLE), data_storage_version="stable")
        return cls(folder)

    # ------------------------------------------------------------------------------------------------------- reading

    @property
    def dataset(self) -> Any:
        """The ``lance.LanceDataset`` that is read; the newest is opened once, until ``refresh``."""
        if self._opened is None:
            try:
                self._opened = lance().dataset(str(self.folder / TABLE), version=self.version)
            except (OSError, ValueError) as error:
                if self.version is None:
                    raise ValueError(f"{self.folder}: cannot be read ({_reason(error)})") from None
                advice = f"'photofound room versions {self.folder}' lists those that there are"
                raise ValueError(f"{self.folder}: has no version {self.version}; {advice}") from None
        return self._opened

    def refresh(self) -> Any:
        """The newest version, also where another process has written it."""
        assert self.version is None, "an old version does not change"
        self._opened = None
        return self.dataset

    @property
    def columns(self) -> list[str]:
        return list(self.dataset.schema.names)

    def count(self, where: str | None = None) -> int:
        """How many photographs there are, or match. Raises ValueError for a filter that cannot be read."""
        with query_errors(where, self):
            return int(self.dataset.count_rows(where))

    def scan(
        self,
        columns: Sequence[str] | Mapping[str, str],
        where: str | None = None,
        batch: int = 1024,
        fragments: Any = None,
        **more: Any,
    ) -> Iterator[Any]:
        """Batches (``pyarrow.RecordBatch``) of some columns, in the order of the table.

        Args:
            columns: their names, or a name for each expression in SQL: ``{"has_mask": "mask IS NOT NULL"}``.
            where: a filter in SQL, as Lance has it: ``width >= 1024 and licence like 'CC%'``.
            batch: rows of a batch, at most; with pictures, whose bytes they hold, take few.
            fragments: numbers of the fragments to read; None = all.
            more: further arguments of ``LanceDataset.scanner``.

        Raises ValueError for a filter that cannot be read.
        """
        chosen = None if fragments is None else [self.dataset.get_fragment(number) for number in fragments]
        options = {"batch_size": batch, "io_buffer_size": _BUFFER, "batch_readahead": 2, "fragment_readahead": 1}
        with query_errors(where, self):
            chosen_columns = dict(columns) if isinstance(columns, Mapping) else list(columns)
            scanner = self.dataset.scanner(chosen_columns, filter=where, fragments=chosen, **options | more)
            batches = iter(scanner.to_batches())
            while (found := next(batches, None)) is not None:
                if len(found):
                    yield found

    def vectors(self) -> dict[str, str]:
        """Columns of embeddings -> the network that made each."""
        fields = [field for field in self.dataset.schema if field.name.startswith(EMBEDDING)]
        return {f.name: (f.metadata or {}).get(b"network", b"").decode() or f.name for f in fields}

    def known(self, hashes: Sequence[str], fragments: Any = None) -> dict[str, tuple[str, str]]:
        """Which of these are the key or the hash of a photograph in the room: -> its key and its source."""
        if not hashes:
            return {}
        wanted = set(hashes)
        found: dict[str, tuple[str, str]] = {}
        for batch in self.scan(["key", "hash", "source"], of_hashes(hashes), fragments=fragments):
            for row in batch.to_pylist():
                found |= {each: (row["key"], row["source"]) for each in (row["key"], row["hash"]) if each in wanted}
        return found

    # ------------------------------------------------------------------------------------------------------- writing

    @contextmanager
    def lock(self) -> Iterator[Any]:
        """Within the block no other process writes; gives the newest version. Work that takes long goes before it."""
        with _locked(self.folder):
            yield self.refresh()

    @contextmanager
    def writing(self, alone: bool = False) -> Iterator[None]:
        """Around a call that writes files of photographs before it commits them. Several may do so; ``alone``
        makes sure that none does, to delete what killed ones have left.

        Raises ValueError where another process writes, for one that must be alone, or where one must be.
        """
        from filelock import FileLock, Timeout

        folder = self.folder / ".writing"
        folder.mkdir(exist_ok=True)
        with ExitStack() as held:
            try:
                if alone:
                    held.enter_context(FileLock(self.folder / ".alone", timeout=0))
                    for mark in folder.iterdir():
                        held.enter_context(FileLock(mark, timeout=0))
                        held.callback(mark.unlink, missing_ok=True)
                else:
                    with FileLock(self.folder / ".alone", timeout=600):
                        mark = folder / secrets.token_hex(8)
                        held.enter_context(FileLock(mark))
                        held.callback(mark.unlink, missing_ok=True)
            except Timeout:
                what = "another process adds to it" if alone else "another process removes pictures from it"
                raise ValueError(f"{self.folder}: {what}; wait until it has ended, or stop it") from None
            yield

    def commit(self, operation: Any, message: str = "") -> Any:
        """Make a new version by a ``lance.LanceOperation``, within ``lock``."""
        made = lance().LanceDataset
        self._opened = made.commit(
            str(self.folder / TABLE), operation, read_version=self.dataset.version, commit_message=message or None
        )
        return self._opened

    def add_columns(self, fields: Iterable[Any]) -> None:
        """Add columns (``pyarrow.Field``) that are null everywhere; those that are there stay. Raises ValueError for
        one that is there with another type."""
        import pyarrow as pa

        with self.lock() as dataset:
            missing = []
            for field in fields:
                if field.name not in dataset.schema.names:
                    missing.append(field)
                elif (there := dataset.schema.field(field.name).type) != field.type:
                    raise ValueError(f"{self.folder}: its column {field.name} is a {there}, not a {field.type}")
            if missing:
                dataset.add_columns(pa.schema(missing))
                self.refresh()

    def drop_columns(self, names: Sequence[str]) -> None:
        """Remove columns that were added; those of ``COLUMNS`` stay."""
        with self.lock() as dataset:
            dataset.drop_columns([name for name in names if name not in schema().names])
            self.refresh()

    def fill(
        self,
        fields: Sequence[Any],
        compute: Callable[[Any], Mapping[str, Any]],
        read: Sequence[str],
        where: str | None = None,
        batch: int = 32,
        fragments: Iterable[int] | None = None,
        done: Callable[[int], None] = lambda count: None,
        lacking: str | None = None,
    ) -> int:
        """Compute columns for the photographs that lack them: the first of ``fields`` is null there, or as ``lacking``
        says.

        It is written fragment by fragment, and within one every minute, so that a killed call loses little and the
        same call goes on. Pictures are not written again. Other processes may add photographs meanwhile.

        Args:
            fields: ``pyarrow.Field`` of each column, new or there; metadata of a field (network, version, threshold)
                stay with a new column.
            compute: a ``pyarrow.RecordBatch`` of ``key`` and ``read`` to the columns' values in its order. It may
                return null for what it cannot do; that is asked again at the next call.
            read: columns that ``compute`` needs; ``contents`` gives the files of a batch with ``image``, ``reference``
                and ``collection``.
            where: only these photographs.
            batch: rows that ``compute`` gets, at most.
            fragments: numbers of those to work on, to share the work out; None = all.
            done: is called with the rows that were computed.
            lacking: which photographs lack values, in SQL, where that is not the first of ``fields`` alone.

        Returns how many rows were computed.
        """
        self.add_columns(fields)
        lacking = lacking_rows(fields, where, lacking)
        total = 0
        everything = [fragment.fragment_id for fragment in self.dataset.get_fragments()]
        for number in everything if fragments is None else fragments:
            if self.dataset.get_fragment(number) is None:  # it was merged with others meanwhile
                continue
            made: list[Any] = []
            start = time.monotonic()
            try:
                for values in self.computed(number, [field.name for field in fields], compute, read, lacking, batch):
                    made.append(values)
                    total += len(values)
                    done(len(values))
                    if time.monotonic() - start > _PAUSE:
                        self.put(number, made)
                        made, start = [], time.monotonic()
            finally:  # what was computed before an error stays
                self.put(number, made)
        return total

    def computed(
        self,
        fragment: int,
        columns: Sequence[str],
        compute: Callable[[Any], Mapping[str, Any]],
        read: Sequence[str],
        where: str,
        batch: int,
    ) -> Iterator[Any]:
        """Values of columns that are there, for the photographs of a fragment that match: for each batch a
        ``pyarrow.Table`` of ``key`` and the columns. Nothing is written."""
        import pyarrow as pa

        kept = pa.schema([pa.field("key", pa.string()), *(self.dataset.schema.field(name) for name in columns)])
        for rows in self.scan(["key", *(c for c in read if c != "key")], where, batch, fragments=[fragment]):
            values = compute(rows)
            yield pa.table([rows["key"], *(values[name] for name in columns)], schema=kept)

    def put(self, number: int, made: Sequence[Any]) -> None:
        """Write computed columns of a fragment, found again by the photographs' keys."""
        import pyarrow as pa

        if not made:
            return
        with self.lock() as dataset:
            fragment = dataset.get_fragment(number)
            if fragment is None:  # merged meanwhile: the values are computed at the next call
                return
            changed, fields = fragment.update_columns(pa.concat_tables(made), left_on="key", right_on="key")
            update = lance().LanceOperation.Update(
                updated_fragments=[changed], fields_modified=fields, update_mode="rewrite_columns"
            )
            self.commit(update)


def lacking_rows(fields: Sequence[Any], where: str | None, lacking: str | None) -> str:
    """Which rows `fill` computes, in SQL."""
    return f"({lacking or f'{fields[0].name} IS NULL'})" + (f" AND ({where})" if where else "")


def worded(column: str) -> str:
    """Which rows have words in a column, in SQL; white space is none."""
    return rf"coalesce(regexp_like({column}, '\S'), false)"


def quoted(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def contents(batch: Any) -> list[bytes | Exception]:
    """The files of a batch with ``image``, ``reference`` and ``collection``; for one that cannot be had, why."""
    found: list[bytes | Exception] = []
    for file, path, collection in zip(
        *(batch[c].to_pylist() for c in ("image", "reference", "collection")), strict=True
    ):
        try:
            found.append(file if file is not None else referenced(path, collection))
        except Exception as error:
            found.append(error)
    return found


def referenced(path: str | None, collection: str) -> bytes:
    """The file that a room refers to. It must lie in the folder that was added, and be named like a picture: a room may
    come from anybody, and must not name other files. Raises ValueError or OSError."""
    if not path:
        raise ValueError("the room has neither the file nor a reference to it")
    here = Path(os.path.realpath(path))
    if not here.is_relative_to(os.path.realpath(collection)) or here.suffix.lower() not in image.READABLE_SUFFIXES:
        raise ValueError(f"{path} is no picture that lies in {collection}, which was added; add it again")
    return files.read(here)


# ------------------------------------------------------------------------------------------------------------- helpers


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    from filelock import FileLock

    try:
        with FileLock(folder / ".lock"):
            yield
    except PermissionError as error:
        raise ValueError(
            f"{folder}: cannot be written ({error.strerror}); copy the room, or change its rights"
        ) from None


def of_hashes(hashes: Sequence[str]) -> str:
    """The rows whose key or hash is one of these, which must not be none; in SQL."""
    words = ", ".join(f"'{each}'" for each in hashes)
    return f"key IN ({words}) OR hash IN ({words})"


@contextmanager
def query_errors(where: str | None, table: Table | None = None) -> Iterator[None]:
    """Within the block, what Lance says of a filter is a ValueError of one line."""
    try:
        yield
    except (OSError, ValueError) as error:
        if where is None or isinstance(error, UnicodeError):
            raise
        reason = _reason(error)
        if "No field named" in reason and table is not None:
            named = re.search(r"No field named ([^ ]+?)\.? ", reason + " ")
            reason = f"there is no column {named[1] if named else ''}; there are {', '.join(table.columns)}"
        raise ValueError(f"where: {where!r} is no filter: {reason}") from None


def _reason(error: Exception) -> str:
    """What Lance says, without where in its code it says so."""
    text = re.sub(r",? */\S+\.rs:\d+(:\d+)?", "", one_line(error))
    text = re.sub(
        r"^((Invalid user input|Schema error|LanceError\(\w+\)|Encountered internal error\.[^:]*): )+", "", text
    )
    return text[:200].rstrip(" ,.")
