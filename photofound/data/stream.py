"""Photographs for training that do not fit into memory: several sources, streamed, in batches of one shape.

    stream = Stream([Source("photos", weight=2), Source("org/products")], 32, aspect_buckets(512, 64))
    for sample in stream:  # an edit.Sample in the shape of one bucket; without end

Each process has one reader, which goes through its share of the sources and sorts files, still encoded, into batches of
one shape; workers decode them. Reading is a small part of the work. The reader alone decides the order, so a run
gives the same batches with any number of workers, also when it is resumed with another number.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch

from photofound import files, image
from photofound.data.cache import ShardCache
from photofound.data.decoder import BatchDecoder
from photofound.data.ledger import Ledger
from photofound.data.photograph import Photograph, from_row, to_unit
from photofound.data.reader import BatchReader, EncodedBatch, Order, read_ahead
from photofound.data.sources import Source, open_source, raw
from photofound.edits.geometry import cover, nearest_bucket
from photofound.edits.task import Sample


class Stream:
    """Endless batches of photographs of several sources, each in the shape of one bucket.

    Args:
        sources: drawn by their weights, each in epochs of its own.
        batch_size: samples per batch; every batch has as many.
        buckets: (W, H), of ``geometry.aspect_buckets``. A photograph is scaled to cover the one of its shape; a random
            window of that is taken, around its object where it has one.
        seed: of all order and all windows.
        rank, world: this process among all.
        workers: processes that decode; 0 decodes in this one. The batches are the same whatever their number.
        shuffle: photographs that are shuffled together, after the shards have been; they lie in memory encoded.
        interleave: shards that are read at once, so that a batch is of many. Of several sources each gets its part, by
            weight.
        enlarge: photographs that would have to be enlarged more than this are passed over.
        flip: mirror every other photograph; not for products with words on them.
        max_pixels: larger photographs count as damaged; nothing is decoded of them.
        precomputed: ``text``, ``latents`` or both: read them from the shards, where ``photofound train prepare`` has
            put them. With ``latents`` every crop is the middle of its picture, not mirrored, like its latents.
        log: a file that names every damaged sample, besides the log of Python.
        cache: a folder that keeps shards of URLs; None: ``shards`` in this user's cache. Processes may share it.
        cache_bytes: of its files, at most; 0: shards are read from their URLs, and none is fetched ahead.
        prefetch: shards that are fetched into it before they are read, beyond those that are open.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        batch_size: int,
        buckets: Sequence[tuple[int, int]],
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 2,
        shuffle: int = 1024,
        interleave: int = 16,
        enlarge: float = 1.25,
        flip: bool = True,
        max_pixels: int | None = None,
        precomputed: Sequence[str] = (),
        device: torch.device | str = "cpu",
        log: Path | None = None,
        cache: Path | None = None,
        cache_bytes: int = 16 * 10**9,
        prefetch: int = 4,
    ) -> None:
        if not sources:
            raise ValueError("data: no source; name at least one")
        for name, value in (
            ("batch size", batch_size),
            ("shuffle", shuffle),
            ("interleave", interleave),
            ("prefetch", prefetch),
        ):
            if value < 1:
                raise ValueError(f"data: {name} is {value}; it must be at least 1")
        shape = (batch_size, tuple(buckets))
        self.order = Order(tuple(sources), *shape, seed, rank, world, shuffle, interleave, enlarge, max_pixels)
        self.workers, self.flip, self.precomputed = workers, flip, tuple(precomputed)
        log = None if log is None else files.output_path(log, "data.log")
        self.device, self.ledger = torch.device(device), Ledger(log)
        self._cache = (cache or files.cache_folder() / "shards", cache_bytes, prefetch)
        self._position: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was given, for JSON; empty before the first."""
        return {} if self._position is None else {"position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there at the next ``iter``."""
        self._position = state.get("position")

    def __iter__(self) -> Iterator[Sample]:
        remote = self._cache[1] > 0 and any(files.local(source.path) is None for source in self.order.sources)
        with closing(ShardCache(*self._cache)) if remote else nullcontext() as cache:
            reader = BatchReader(self.order, self.ledger, cache)
            if self._position is not None:
                reader.load_state_dict(self._position)
            yield from self._samples(reader)

    def _samples(self, reader: BatchReader) -> Iterator[Sample]:
        positions: deque[dict[str, Any]] = deque()
        for made in self._loader(reader, positions):
            self._position = positions.popleft()
            for name, reason in made["damaged"]:
                self.ledger.skip(name, reason)
            self.ledger.check()
            if "pixels" in made:
                pixels, matte = (made[key].to(self.device, non_blocking=True) for key in ("pixels", "matte"))
                latents, embeddings = made["latents"], made["embeddings"]
                yield Sample(
                    to_unit(pixels),
                    matte.float().div_(255),
                    made["prompt"],
                    None if latents is None else latents.to(self.device, non_blocking=True),
                    {words: value.to(self.device, non_blocking=True) for words, value in embeddings.items()},
                )

    def _loader(self, reader: BatchReader, positions: deque[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """torch's DataLoader with batches of files for indices: its workers get them in order, and answer in order."""

        class Files:
            def __iter__(self) -> Iterator[EncodedBatch]:
                for batch, position in read_ahead(iter(reader), depth=4):
                    positions.append(position)
                    yield batch

        yield from torch.utils.data.DataLoader(
            BatchDecoder(self.flip, self.order.max_pixels, self.precomputed),
            batch_size=None,
            sampler=Files(),
            num_workers=self.workers,
            worker_init_fn=_quiet_worker,
            generator=torch.Generator(),  # else each opening would draw a seed for the workers from the run's own
            pin_memory=self.device.type == "cuda",
        )


def _quiet_worker(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)  # the workers are the threads


def check_sizes(
    sources: Sequence[Source], buckets: Sequence[tuple[int, int]], enlarge: float = 1.25, count: int = 64
) -> None:
    """Raise ValueError when the first photographs of a source are all too small for the buckets, as ``Stream`` would
    when it comes to them."""
    for source in sources:
        large = small = 0
        for row in itertools.islice(open_source(source), count):
            try:
                sample = raw(row, source)
                width, height = image.upright_size(sample.image, sample.name)
            except Exception:  # named when it is read for training
                continue
            bucket = nearest_bucket(width, height, buckets)
            fits = cover(width, height, bucket)[0] <= enlarge * width + 1
            large, small = large + fits, small + (not fits)
        if small and not large:
            raise ValueError(
                f"data: the first {small} photographs of {source.path} are all too small (the last, {width}x{height}, "
                f"for a batch of {bucket[0]}x{bucket[1]}); choose a smaller size"
            )


def photographs(sources: Sequence[Source], count: int, short_side: int) -> list[Photograph]:
    """The first ``count`` photographs of the sources together, scaled down to ``short_side``: a sample to look at.

    Raises ValueError when a source holds none.
    """
    found: list[Photograph] = []
    for source in sources:
        ledger, rows = Ledger(), iter(open_source(source))
        for row in itertools.islice(rows, -(-count // len(sources))):
            try:
                found.append(from_row(raw(row, source), short_side))
            except Exception as error:
                ledger.skip(source.path, error)
    if not found:
        raise ValueError(f"data: {sources[0].path!r} gives no photograph; look at its format and columns")
    return found
