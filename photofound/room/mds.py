"""Shards as mosaicml-streaming reads them (MDS, version 2), written from their layout, without that library.

A shard is: the number of samples N (uint32); N + 1 offsets of the samples from the file's start (uint32); the columns
as JSON; the samples. A sample is: the sizes (uint32) of the values whose encoding has no fixed size; the values, by
name. ``index.json`` lists the shards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from photofound import files

SIZE = 2**26  # bytes of a shard, at most, where a sample is not larger


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
        files.write(self.folder / "index.json", json.dumps({"version": 2, "shards": self._shards}, sort_keys=True))

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
