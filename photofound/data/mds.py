"""Shards of mosaicml-streaming (MDS, version 2), read and written by their layout, without that library.

A shard is: the number of samples N (uint32); N + 1 offsets of the samples from the file's start (uint32); the columns
as JSON; the samples. A sample is: the sizes (uint32) of the values whose encoding has no fixed size; the values, by
name. ``index.json`` lists the shards. Read are all columns but those of ``pkl``, which run code when they are opened.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from photofound import files, remote
from photofound.data.ledger import DAMAGED_COLUMN as DAMAGED
from photofound.data.ledger import error_text, warn_passed_over

SIZE = 2**26  # bytes of a shard, at most, where a sample is not larger
INDEX = "index.json"
_FILES = ("bytes", "jpeg", "png")  # encodings whose value is a file as it is
_NUMBERS = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_NUMBERS |= {"float16", "float32", "float64"}
_COMPRESSIONS = {"zstd": "zstd", "gz": "gzip", "bz2": "bz2", "br": "brotli"}  # as pyarrow calls them


class Shard(NamedTuple):
    """One shard of an index: the URL or path of its file, its samples, and name -> encoding of its columns."""

    path: str
    samples: int
    columns: tuple[tuple[str, str], ...]
    compression: str | None
    size: int


def parts(folder: str) -> list[Shard]:
    """The shards that a folder's index lists. Raises ValueError for an index of another format, for compression that
    cannot be read, and for a shard that does not lie in the folder."""
    place = f"{folder.rstrip('/')}/{INDEX}"
    index = files.read_json(place, limit=files.MAX_BYTES)
    found = []
    for number, shard in enumerate(index.get("shards") or []):
        try:
            zipped = shard.get("zip_data")
            name = str((zipped or shard["raw_data"])["basename"])
            compression = str(shard["compression"]).partition(":")[0] if zipped else None
            columns = tuple(zip(map(str, shard["column_names"]), map(str, shard["column_encodings"]), strict=True))
            samples, size, kind = int(shard["samples"]), int(shard["raw_data"]["bytes"]), shard["format"]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError(f"{place}: shard {number} is not described as MDS has it; write the index again") from None
        if kind != "mds":
            raise ValueError(f"{place}: shard {number} is of format {kind!r}; write the collection as MDS")
        if compression is not None and compression not in _COMPRESSIONS:
            raise ValueError(f"{place}: compressed by {compression!r}; use one of {', '.join(_COMPRESSIONS)}")
        if ".." in name.split("/") or name.startswith("/") or ":" in name or "\\" in name:
            raise ValueError(f"{place}: names {name!r}, which is not below {folder}")
        found.append(Shard(f"{folder.rstrip('/')}/{name}", samples, columns, compression, size))
    if not found:
        raise ValueError(f"{place}: lists no shard; write the collection again")
    passed = sorted({f"{name} ({kind})" for shard in found for name, kind in shard.columns if not _is_read(kind)})
    warn_passed_over(folder, passed, "columns that can run code, or that are no files, texts or numbers")
    return found


def read(
    shard: Shard, start: int = 0, step: int = 1, opener: files.Opener = files.open_file
) -> Iterator[dict[str, Any]]:
    """Every ``step``-th row of a shard from number ``start`` on; a damaged one ends with a row that says so."""
    number = start
    try:
        with opener(shard.path) as stored, _unpacked(stored, shard) as file:
            offsets, columns = _head(file, shard)
            for number in range(start, shard.samples, step):
                first, last = int(offsets[number]), int(offsets[number + 1])
                if last - first > files.MAX_BYTES:
                    yield {"name": shard.path, DAMAGED: f"sample {number} has more than {files.MAX_BYTES:,} bytes"}
                    continue
                file.seek(first)
                yield {"name": f"{shard.path} ({number})"} | _row(file.read(last - first), columns, number)
    except remote.Unreachable:  # no fault of the shard's
        raise
    except Exception as error:
        if number < shard.samples:
            yield {"name": shard.path, DAMAGED: f"cannot be read from sample {number} on ({error_text(error)})"}


def _unpacked(stored: BinaryIO, shard: Shard) -> BinaryIO:
    """The shard without compression: a file without a name, on the disk."""
    if shard.compression is None:
        return stored
    import pyarrow as pa

    unpacked = cast(BinaryIO, tempfile.TemporaryFile())
    stream = pa.CompressedInputStream(pa.PythonFile(stored, "r"), _COMPRESSIONS[shard.compression])
    written = 0
    while content := stream.read(2**20):
        written += unpacked.write(content)
        if written > shard.size:
            raise ValueError(f"unpacks to more than the {shard.size:,} bytes that the index says")
    return unpacked


def _head(file: BinaryIO, shard: Shard) -> tuple[np.ndarray, list[tuple[str, str, int | None]]]:
    """Where the samples of a shard begin and end, and its columns: name, encoding, size or None."""
    file.seek(0)
    (count,) = np.frombuffer(file.read(4), "<u4")
    if count != shard.samples:
        raise ValueError(f"has {count} samples, and {shard.samples} by the index")
    offsets = np.frombuffer(file.read(4 * (int(count) + 1)), "<u4").astype(np.int64)
    if (np.diff(offsets) < 0).any() or offsets[-1] > file.seek(0, io.SEEK_END):
        raise ValueError("is shorter than its samples")
    file.seek(4 + 4 * (int(count) + 1))
    config = files.parse_json(file.read(int(offsets[0]) - file.tell()), shard.path)
    columns = zip(config["column_names"], config["column_encodings"], config["column_sizes"], strict=True)
    return offsets, [(str(name), str(kind), size) for name, kind, size in columns]


def _row(sample: bytes, columns: list[tuple[str, str, int | None]], number: int) -> dict[str, Any]:
    """The values of a sample that are read, by column."""
    free = sum(size is None for _, _, size in columns)
    sizes = iter(np.frombuffer(sample[: 4 * free], "<u4").tolist())
    place, row = 4 * free, dict[str, Any]()
    for name, kind, fixed in columns:
        end = place + (next(sizes) if fixed is None else fixed)
        if end > len(sample):
            return {DAMAGED: f"sample {number} ends within its column {name}"}
        try:
            if _is_read(kind):
                row[name] = _value(sample[place:end], kind)
        except Exception as error:  # of this sample alone
            return {DAMAGED: f"sample {number}: its column {name} cannot be read ({error_text(error)})"}
        place = end
    return row


def _is_read(kind: str) -> bool:
    texts = ("str", "json", "int", "pil", "str_int", "str_float", "str_decimal")
    return kind in _FILES or kind in _NUMBERS or kind in texts


def _value(content: bytes, kind: str) -> Any:
    if kind in _FILES:
        return content
    if kind == "int":
        return int(np.frombuffer(content, "<i8")[0])
    if kind in _NUMBERS:
        return np.frombuffer(content, np.dtype(kind).newbyteorder("<"))[0].item()
    if kind == "pil":
        return _picture(content)
    text = content.decode("utf-8")
    return json.loads(text) if kind == "json" else text


def _picture(content: bytes) -> bytes:
    """A picture that was kept as pixels (width, height, length of the mode, mode, values), as a file: PNG."""
    from PIL import Image

    width, height, length = np.frombuffer(content[:12], "<u4").tolist()
    mode = content[12 : 12 + length].decode("latin1")
    if mode not in ("L", "RGB", "RGBA") or width * height * len(mode) != len(content) - 12 - length:
        raise ValueError(f"its pixels are {width}x{height} of mode {mode[:20]!r}; write it as jpeg or png")
    out = io.BytesIO()
    Image.frombytes(mode, (width, height), content[12 + length :]).save(out, "PNG", compress_level=1)
    return out.getvalue()


class Writer:
    """Shards of a folder, one after another; ``close`` writes the last one, and the index.

    Args:
        columns: name -> encoding: ``str``, ``bytes`` or ``int`` (64 bits).
    """

    def __init__(self, folder: Path, columns: Mapping[str, str]) -> None:
        self.folder, self.columns = folder, dict(sorted(columns.items()))
        sizes = [8 if encoding == "int" else None for encoding in self.columns.values()]
        self._config = {
            "version": 2,
            "format": "mds",
            "compression": None,
            "hashes": [],
            "size_limit": SIZE,
            "column_names": list(self.columns),
            "column_encodings": list(self.columns.values()),
            "column_sizes": sizes,
        }
        self._head = json.dumps(self._config, sort_keys=True).encode()
        self._samples: list[bytes] = []
        self._size = self._empty = 4 + 4 + len(self._head)
        self._shards: list[dict[str, Any]] = []

    def write(self, sample: Mapping[str, Any]) -> None:
        """Add a sample: a value for every column."""
        values = [_encoded(sample[name], encoding) for name, encoding in self.columns.items()]
        sizes = [len(value) for value, encoding in zip(values, self.columns.values(), strict=True) if encoding != "int"]
        content = np.array(sizes, "<u4").tobytes() + b"".join(values)
        if self._samples and self._size + 4 + len(content) > SIZE:
            self._flush()
        self._samples.append(content)
        self._size += 4 + len(content)

    def close(self) -> None:
        self._flush()
        files.write(self.folder / INDEX, json.dumps({"version": 2, "shards": self._shards}, sort_keys=True))

    def _flush(self) -> None:
        if not self._samples:
            return
        count = len(self._samples)
        start = 4 + 4 * (count + 1) + len(self._head)
        offsets = start + np.concatenate([[0], np.cumsum([len(each) for each in self._samples])])
        if offsets[-1] >= 2**32:
            raise ValueError(f"mds: a sample of {len(self._samples[-1]):,} bytes is too large; export it as a folder")
        content = np.uint32(count).astype("<u4").tobytes() + offsets.astype("<u4").tobytes() + self._head
        content += b"".join(self._samples)
        name = f"shard.{len(self._shards):05d}.mds"
        files.write(self.folder / name, content)
        raw = {"basename": name, "bytes": len(content), "hashes": {}}
        self._shards.append(self._config | {"samples": count, "raw_data": raw, "zip_data": None})
        self._samples, self._size = [], self._empty


def _encoded(value: Any, encoding: str) -> bytes:
    if encoding == "int":
        return np.int64(value).astype("<i8").tobytes()
    return value.encode("utf-8", "replace") if encoding == "str" else bytes(value)
