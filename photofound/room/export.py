"""What a query finds, written as WebDataset tars, parquet, MDS shards, or a folder of images."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from photofound import files
from photofound.data import mds
from photofound.data.ledger import Ledger
from photofound.data.table import Table, contents
from photofound.data.tars import IMAGES, write_tar
from photofound.room import readers
from photofound.room.search import CAPTIONS

KINDS = ("webdataset", "parquet", "mds", "folder")
_COLUMNS = ("key", "name", "source", "licence", "image", "reference", "collection", "format", "width", "height",
            "caption", "caption_short", "caption_dense", "mask", "foreground", "tags", "meta")  # fmt: skip
_SHARD, _SHARD_BYTES = 1000, 2**28  # samples of a tar or a row group, and bytes of their files
_SUFFIXES = {"JPEG": "jpg", "TIFF": "tif"}


@dataclasses.dataclass
class Sample:
    """A photograph to be written: its files by their suffixes, and what is said of it, for JSON."""

    key: str
    files: dict[str, bytes]
    meta: dict[str, Any]

    @property
    def size(self) -> int:
        return sum(map(len, self.files.values()))


def export(
    table: Table, kind: str, folder: Path, where: str | None = None, progress: Callable[[int], None] = lambda n: None
) -> int:
    """Write a new folder, whole or not at all; how many photographs it has.

    Beside them lies ``report.json`` with sources and licences, which a training's card is made of. The room notes the
    export.

    Raises ValueError for a folder that is not empty, a filter that cannot be read or finds nothing, and where more than
    1 % cannot be read.
    """
    if kind not in KINDS:
        raise ValueError(f"--to: {kind!r} is unknown; use {', '.join(KINDS)}")
    folder = files.output_path(folder, "-o")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: is not empty; choose another folder")
    if not (count := table.count(where)):
        raise ValueError(f"{table.folder}: has no photograph" + (f" where {where}" if where else "") + " to export")
    folder.parent.mkdir(parents=True, exist_ok=True)
    ledger = Ledger()
    with files.replacing(folder) as partial:
        partial.mkdir()
        write = {"webdataset": _tars, "parquet": _parquet, "mds": _mds, "folder": _folder}[kind]
        write(partial, _counted(_samples(table, where, ledger), progress))
        origins = [dataclasses.asdict(each) for each in readers.origins(table, where)]
        report = {"kept": count - ledger.damaged, "read": count, "dropped": {}, "origins": origins}
        report |= {"room": table.folder.resolve().name, "version": table.dataset.version, "where": where or ""}
        (partial / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    readers.note(table, where, "export", str(folder.resolve()))
    return count - ledger.damaged


def _counted(samples: Iterator[Sample], progress: Callable[[int], None]) -> Iterator[Sample]:
    for sample in samples:
        yield sample
        progress(1)


def _samples(table: Table, where: str | None, ledger: Ledger) -> Iterator[Sample]:
    """What is written of each photograph; one whose file cannot be had is named in the log."""
    for batch in table.scan(_COLUMNS, where, 16):
        for row, file in zip(batch.to_pylist(), contents(batch), strict=True):
            ledger.seen += 1
            if isinstance(file, Exception):
                ledger.skip(row["name"], file)
                ledger.check()
                continue
            named = {_suffix(file, row["format"]): file}
            named |= {f"{k}.{_suffix(row[k])}": row[k] for k in ("mask", "foreground") if row[k] is not None}
            yield Sample(row["key"][:32], named, _meta(row))
    ledger.check(least=1)


def _meta(row: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a photograph: what its source said, and what the room knows."""
    meta = json.loads(row["meta"] or "{}")
    known = {name: row[name] for name in ("key", "source", "licence", "width", "height", "tags") if row[name]}
    said = {name: row[name] for name in ("caption_short", "caption_dense") if (row[name] or "").strip()}
    text = next((each for name in CAPTIONS if (each := (row[name] or "").strip())), "")
    return meta | said | known | {"text": meta.get("text") or text, "name": Path(row["name"]).name}


def _suffix(file: bytes, format: str | None = None) -> str:
    """jpg, png, webp, ...: by the file's first bytes, else by its format's name."""
    kinds = {b"\xff\xd8": "jpg", b"\x89PNG": "png"}
    if file[:4] == b"RIFF" and file[8:12] == b"WEBP":
        return "webp"
    known = next((kind for magic, kind in kinds.items() if file.startswith(magic)), None)
    named = _SUFFIXES.get(format or "", (format or "png").lower())
    return known or (named if f".{named}" in IMAGES else "png")


def _shards(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    """Lists that are bounded by their number and their bytes."""
    shard: list[Sample] = []
    size = 0
    for sample in samples:
        shard.append(sample)
        size += sample.size
        if len(shard) == _SHARD or size >= _SHARD_BYTES:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _tars(folder: Path, samples: Iterator[Sample]) -> None:
    shards = []
    for number, shard in enumerate(_shards(samples)):
        members = [(s.key, s.files | {"json": json.dumps(s.meta, ensure_ascii=False).encode()}) for s in shard]
        shards.append(write_tar(folder / f"photos-{number:05d}.tar", members))
    index = {"samples": sum(each["samples"] for each in shards), "bytes": sum(each["bytes"] for each in shards)}
    (folder / "index.json").write_text(json.dumps(index | {"shards": shards}))


def _parquet(folder: Path, samples: Iterator[Sample]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = ("key", "name", "source", "licence", "text", "caption_short", "caption_dense", "json")
    numbers = [("width", pa.int32()), ("height", pa.int32())]
    schema = pa.schema(
        [("image", picture), ("mask", picture), ("foreground", picture), *((n, pa.string()) for n in texts), *numbers]
    )
    for number, shard in enumerate(_shards(samples)):
        rows = []
        for sample in shard:
            row = {name: sample.meta.get(name) for name in schema.names}
            for suffix, content in sample.files.items():
                column = suffix.partition(".")[0] if "." in suffix else "image"
                row[column] = {"bytes": content, "path": f"{sample.key}.{suffix}"}
            rows.append(
                row | {"json": json.dumps(sample.meta, ensure_ascii=False), "text": _string(sample.meta["text"])}
            )
        table = pa.Table.from_pylist(rows, schema)
        pq.write_table(table, folder / f"photos-{number:05d}.parquet", row_group_size=100)


def _mds(folder: Path, samples: Iterator[Sample]) -> None:
    columns = {"image": "bytes", "mask": "bytes", "foreground": "bytes", "text": "str", "key": "str", "json": "str"}
    writer = mds.Writer(folder, columns | {"source": "str", "licence": "str", "width": "int", "height": "int"})
    for sample in samples:
        row = {name: sample.meta.get(name) or "" for name in ("key", "source", "licence")}
        parts = {name.partition(".")[0] if "." in name else "image": file for name, file in sample.files.items()}
        row |= {name: parts.get(name, b"") for name in ("image", "mask", "foreground")}
        row |= {"width": sample.meta["width"], "height": sample.meta["height"], "text": _string(sample.meta["text"])}
        writer.write(row | {"json": json.dumps(sample.meta, ensure_ascii=False)})
    writer.close()


def _folder(folder: Path, samples: Iterator[Sample]) -> None:
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as lines:
        for sample in samples:
            line: dict[str, Any] = {}
            for suffix, content in sample.files.items():
                path = folder / f"{sample.key}.{suffix}"
                path.write_bytes(content)
                line[f"{suffix.partition('.')[0]}_file_name" if "." in suffix else "file_name"] = path.name
            lines.write(json.dumps(line | sample.meta, ensure_ascii=False) + "\n")


def _string(value: Any) -> str:
    """A caption as text; the first of several."""
    return str(value[0] if isinstance(value, list) and value else value or "")
