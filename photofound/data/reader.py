"""The order of a stream: sources read in epochs, their samples shuffled and sorted into batches of one shape.

Nothing is decoded here. The position after a batch is a small dict, which a resumed run reads on from.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from photofound import image
from photofound.data.cache import ShardCache
from photofound.data.ledger import Ledger
from photofound.data.shards import EndlessSource
from photofound.data.sources import Raw, Source, by_cluster, pinned
from photofound.edits.geometry import cover, nearest_bucket

logger = logging.getLogger(__name__)

MAX_WAIT = 16  # rounds after which a bucket that does not fill is given, its samples repeated


@dataclass(frozen=True)
class Order:
    """What decides the order of a stream; the arguments are those of ``Stream``."""

    sources: tuple[Source, ...]
    batch_size: int
    buckets: tuple[tuple[int, int], ...]
    seed: int
    rank: int
    world: int
    shuffle: int
    interleave: int
    enlarge: float
    max_pixels: int | None

    @property
    def layout(self) -> dict[str, Any]:
        """What must not change for a resumed run to give the same batches."""
        buckets = [list(bucket) for bucket in self.buckets]
        shares = [[s.path, s.weight, *([s.where] if s.where else [])] for s in self.sources]
        return {"batch": self.batch_size, "buckets": buckets, "shuffle": self.shuffle, "seed": self.seed} | {
            "interleave": self.interleave,
            "sources": shares,
            "world": self.world,
        }


@dataclass(frozen=True)
class EncodedBatch:
    """A batch of files, all for one bucket; a worker decodes it."""

    bucket: tuple[int, int]
    samples: list[Raw]
    seed: list[int]


class BatchReader:
    """Batches of one bucket each, without end, and where to go on after each of them.

    Photographs are read in rounds. Those of a round are shuffled together and wait in their buckets until one is full,
    over as many rounds as it takes, so that every batch is full and every photograph comes once per epoch. (What is so
    rare that it waits for ``MAX_WAIT`` rounds is repeated to fill a batch.)

    The position after a batch is a small dict although photographs are waiting: where reading stood before the oldest
    one's round, how many were waiting then, and how many batches have been given since. Resuming reads from there,
    forgets what had been given, and decodes nothing.
    """

    def __init__(self, order: Order, ledger: Ledger, cache: ShardCache | None = None) -> None:
        self.order, self.ledger, self.cache = order, ledger, cache
        self.round, self.given, self._target = 0, 0, 0
        self._open([pinned(source) for source in order.sources])
        self._waiting: dict[int, list[tuple[int, Raw | None]]] = defaultdict(list)  # (round, sample); None: given
        self._anchors: dict[int, dict[str, Any]] = {}
        self._small = 0

    def _open(self, sources: Sequence[Source]) -> None:
        order, drawn = self.order, [each for source in sources for each in by_cluster(source)]
        shares = np.array([source.weight for source in drawn])
        self._shares, self._versions = shares / shares.sum(), [source.version for source in sources]
        interleave = [max(1, round(order.interleave * share)) for share in self._shares]
        self.sources = [
            EndlessSource(each, order.rank, order.world, order.seed, at_once, self.ledger, self.cache)
            for each, at_once in zip(drawn, interleave, strict=True)
        ]

    def __iter__(self) -> Iterator[tuple[EncodedBatch, dict[str, Any]]]:
        while True:
            self._anchors[self.round] = self._anchor()
            for sample in self._read_round():
                index = self._bucket(sample)
                if index is not None:
                    self._waiting[index].append((self.round, sample))
                    if len(self._waiting[index]) == self.order.batch_size:
                        yield from self._give(index)
            for index in [i for i, waiting in self._waiting.items() if waiting[0][0] <= self.round - MAX_WAIT]:
                yield from self._give(index)
            self.round += 1

    def _read_round(self) -> list[Raw]:
        order = self.order
        rng = np.random.default_rng([order.seed, order.rank, self.round])
        picks = rng.choice(len(self.sources), order.shuffle, p=self._shares)
        samples = [self.sources[i].next(draw) for i, draw in zip(picks, rng.random(order.shuffle), strict=True)]
        return [samples[i] for i in rng.permutation(len(samples))]

    def _bucket(self, sample: Raw) -> int | None:
        """The index of the sample's bucket; None for one that is damaged, or too small to be enlarged that much."""
        order = self.order
        try:
            width, height = image.upright_size(sample.image, sample.name, order.max_pixels)
        except Exception as error:
            self.ledger.skip(sample.name, error)
            self.ledger.check()
            return None
        bucket = nearest_bucket(width, height, order.buckets)
        if cover(width, height, bucket)[0] > order.enlarge * width + 1:
            self._small += 1
            if self._small == 10 * order.shuffle and not self.given:
                raise ValueError(
                    f"data: the first {self._small} photographs are all too small (the last, {sample.name}, is "
                    f"{width}x{height} for a batch of {bucket[0]}x{bucket[1]}); choose a smaller size, or raise enlarge"
                )
            return None
        return order.buckets.index(bucket)

    def _give(self, index: int) -> Iterator[tuple[EncodedBatch, dict[str, Any]]]:
        members = self._waiting.pop(index)
        self.given += 1
        if self.given <= self._target:
            return
        samples = [sample for _, sample in members if sample is not None]
        assert len(samples) == len(members), "a sample of before the checkpoint would be given again"
        full = [samples[i % len(samples)] for i in range(self.order.batch_size)]
        seed = [self.order.seed, self.order.rank, self.given]
        yield EncodedBatch(self.order.buckets[index], full, seed), self._state()

    def _anchor(self) -> dict[str, Any]:
        waiting = {str(index): [number for number, _ in members] for index, members in self._waiting.items()}
        sources = [source.state_dict() for source in self.sources]
        return {"round": self.round, "given": self.given, "waiting": waiting, "sources": sources}

    def _state(self) -> dict[str, Any]:
        oldest = min([self.round, *(number for members in self._waiting.values() for number, _ in members)])
        self._anchors = {number: anchor for number, anchor in self._anchors.items() if number >= oldest}
        rooms = {"versions": self._versions} if any(self._versions) else {}
        return {"layout": self.order.layout, "target": self.given} | rooms | self._anchors[oldest]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        versions = state.get("versions", self._versions)
        if versions != self._versions and len(versions) == len(self.order.sources):  # rooms have changed since
            try:
                self._open([replace(s, version=v) for s, v in zip(self.order.sources, versions, strict=True)])
            except ValueError as error:  # pictures were forgotten, and with them the old versions
                logger.warning("%s; the newest version is read, from its beginning", error)
                return
        if len(state["sources"]) != len(self.sources):
            logger.warning("data: the number of sources has changed; they are read from the beginning")
            return
        for source, position in zip(self.sources, state["sources"], strict=True):
            source.load_state_dict(position)
        self.round, self.given = state["round"], state["given"]
        if state["layout"] != self.order.layout:
            logger.warning("data: batch size, buckets or shuffling have changed; reading goes on, in other batches")
            return
        self._target = state["target"]
        for index, rounds in state["waiting"].items():
            self._waiting[int(index)] = [(number, None) for number in rounds]


def read_ahead(items: Iterator[Any], depth: int) -> Iterator[Any]:
    """The same items, read by a thread up to ``depth`` of them ahead: waiting for a disk or a network costs nothing."""
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> None:
        while not stop.is_set():
            try:
                return ready.put((item, error), timeout=0.1)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    return
        except BaseException as error:  # raised again where the items are wanted
            put(None, error)

    threading.Thread(target=read, daemon=True, name="photofound-reader").start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()
