"""Photographs for training that do not fit into memory: several sources, streamed, in batches of one shape.

    stream = Stream([Source("photos", weight=2), Source("org/products")], 32, aspect_buckets(512, 64))
    for sample in stream:  # an edit.Sample in the shape of one bucket; without end

Each process has one reader, which goes through its share of the sources and sorts files, still encoded, into batches of
one shape; workers decode them. Reading is a small part of the work, and since the reader alone decides the order, a run
gives the same batches with any number of workers, also when it is resumed with another number.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from photofound import files
from photofound.data import photos, precomputed
from photofound.data.photos import Ledger
from photofound.data.sources import Raw, Source, open_source, photograph, raw
from photofound.edits import geometry
from photofound.edits.geometry import Box, bounding_box, cover, nearest_bucket
from photofound.edits.task import Sample
from photofound.picture import image

logger = logging.getLogger(__name__)

PATIENCE = 16  # rounds after which a bucket that does not fill is given, its samples repeated


# ------------------------------------------------------------------------------------------------------------ reading


class _Endless:
    """One process's share of a source, epoch after epoch, its shards in another order each time."""

    def __init__(self, source: Source, rank: int, world: int, seed: int, ledger: Ledger) -> None:
        from datasets.distributed import split_dataset_by_node

        self.source, self.ledger = source, ledger
        opened = open_source(source)
        self.dataset = split_dataset_by_node(opened, rank, world) if world > 1 else opened
        self.dry = 0  # epochs in a row without a sample
        self._begin(1 + seed * 1_000_003)  # datasets shuffles shards by the epoch's number, and not in epoch 0

    def _begin(self, epoch: int, position: dict[str, Any] | None = None) -> None:
        self.dataset.set_epoch(epoch)
        self._begun = position is not None  # before the first row, the position of datasets is of another epoch
        if position is not None:
            self.dataset.load_state_dict(position)
        self._rows = iter(self.dataset)

    def next(self) -> Raw:
        while True:
            try:
                row = next(self._rows, None)
            except ValueError:
                raise
            except Exception as error:  # the Hub's client: what it raises ends its iterator
                raise ValueError(f"data: {self.source.path!r} cannot be read on ({photos.why(error)})") from error
            if row is None:
                self._end_epoch()
                continue
            self._begun = True
            self.ledger.seen += 1
            try:
                sample = raw(row, self.source)
            except Exception as error:  # whatever a row makes its readers raise, the others are good
                self.ledger.skip(str(row.get("name") or row.get("__key__") or self.source.path), error)
                self.ledger.check()
                continue
            self.dry = 0
            return sample

    def _end_epoch(self) -> None:
        self.ledger.check(least=1)
        self.dry += 1
        if self.dry == 2:
            raise ValueError(f"data: {self.source.path!r} gives no photograph; look at its format and columns")
        self._begin(self.dataset.epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.dataset.epoch, "position": self.dataset.state_dict() if self._begun else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._begin(state["epoch"], state["position"])


@dataclass(frozen=True)
class _Batch:
    """What a worker makes a batch of pixels from."""

    bucket: tuple[int, int]
    samples: list[Raw]
    seed: list[int]


class _Reader:
    """Batches of one bucket each, without end, and where to go on after each of them.

    Photographs are read in rounds. Those of a round are shuffled together and wait in their buckets until one is full,
    over as many rounds as it takes, so that every batch is full and every photograph comes once per epoch. (What is so
    rare that it waits for ``PATIENCE`` rounds is repeated to fill a batch.)

    The position after a batch is a small dict although photographs are waiting: where reading stood before the oldest
    one's round, how many were waiting then, and how many batches have been given since. Resuming reads from there,
    forgets what had been given, and decodes nothing.
    """

    def __init__(self, options: Stream) -> None:
        self.options, self.round, self.given, self._target = options, 0, 0, 0
        shares = np.array([source.weight for source in options.sources])
        self._shares = shares / shares.sum()
        self.sources = [
            _Endless(source, options.rank, options.world, options.seed, options.ledger) for source in options.sources
        ]
        self._waiting: dict[int, list[tuple[int, Raw | None]]] = defaultdict(list)  # (round, sample); None: given
        self._anchors: dict[int, dict[str, Any]] = {}
        self._small = 0

    def __iter__(self) -> Iterator[tuple[_Batch, dict[str, Any]]]:
        while True:
            self._anchors[self.round] = self._anchor()
            for sample in self._read_round():
                index = self._bucket(sample)
                if index is not None:
                    self._waiting[index].append((self.round, sample))
                    if len(self._waiting[index]) == self.options.batch_size:
                        yield from self._give(index)
            for index in [i for i, waiting in self._waiting.items() if waiting[0][0] <= self.round - PATIENCE]:
                yield from self._give(index)
            self.round += 1

    def _read_round(self) -> list[Raw]:
        options = self.options
        rng = np.random.default_rng([options.seed, options.rank, self.round])
        picks = rng.choice(len(self.sources), options.shuffle, p=self._shares)
        samples = [self.sources[i].next() for i in picks]
        return [samples[i] for i in rng.permutation(len(samples))]

    def _bucket(self, sample: Raw) -> int | None:
        """The index of the sample's bucket; None for one that is damaged, or too small to be enlarged that much."""
        options = self.options
        try:
            width, height = image.upright_size(sample.image, sample.name, options.max_pixels)
        except Exception as error:
            options.ledger.skip(sample.name, error)
            options.ledger.check()
            return None
        bucket = nearest_bucket(width, height, options.buckets)
        if cover(width, height, bucket)[0] > options.enlarge * width + 1:
            self._small += 1
            if self._small == 10 * options.shuffle and not self.given:
                raise ValueError(
                    f"data: the first {self._small} photographs are all too small (the last, {sample.name}, is "
                    f"{width}x{height} for a batch of {bucket[0]}x{bucket[1]}); choose a smaller size, or raise enlarge"
                )
            return None
        return options.buckets.index(bucket)

    def _give(self, index: int) -> Iterator[tuple[_Batch, dict[str, Any]]]:
        members = self._waiting.pop(index)
        self.given += 1
        if self.given <= self._target:
            return
        samples = [sample for _, sample in members if sample is not None]
        assert len(samples) == len(members), "a sample of before the checkpoint would be given again"
        full = [samples[i % len(samples)] for i in range(self.options.batch_size)]
        seed = [self.options.seed, self.options.rank, self.given]
        yield _Batch(self.options.buckets[index], full, seed), self._state()

    def _anchor(self) -> dict[str, Any]:
        waiting = {str(index): [number for number, _ in members] for index, members in self._waiting.items()}
        sources = [source.state_dict() for source in self.sources]
        return {"round": self.round, "given": self.given, "waiting": waiting, "sources": sources}

    def _state(self) -> dict[str, Any]:
        oldest = min([self.round, *(number for members in self._waiting.values() for number, _ in members)])
        self._anchors = {number: anchor for number, anchor in self._anchors.items() if number >= oldest}
        return {"layout": self.options.layout, "target": self.given} | self._anchors[oldest]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["sources"]) != len(self.sources):
            logger.warning("data: the number of sources has changed; they are read from the beginning")
            return
        for source, position in zip(self.sources, state["sources"], strict=True):
            source.load_state_dict(position)
        self.round, self.given = state["round"], state["given"]
        if state["layout"] != self.options.layout:
            logger.warning("data: batch size, buckets or shuffling have changed; reading goes on, in other batches")
            return
        self._target = state["target"]
        for index, rounds in state["waiting"].items():
            self._waiting[int(index)] = [(number, None) for number in rounds]


def _ahead(items: Iterator[Any], depth: int) -> Iterator[Any]:
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


# ----------------------------------------------------------------------------------------------------------- decoding


class _Crop(NamedTuple):
    """One sample of a batch: (3, H, W) and (1, H, W) uint8, and what was made of it before training."""

    name: str
    pixels: Tensor
    matte: Tensor
    prompt: str
    embedding: Tensor | None
    latents: Tensor | None


class _Decoder(torch.utils.data.Dataset):
    """What a worker does: batches of files to batches of pixels."""

    def __init__(self, flip: bool, max_pixels: int | None, made_before: Sequence[str]) -> None:
        self.flip, self.max_pixels, self.made_before = flip, max_pixels, made_before

    def __getitem__(self, batch: _Batch) -> dict[str, Any]:
        """``pixels`` (B, 3, H, W) and ``matte`` (B, 1, H, W) uint8, ``prompt``, ``embeddings``, ``latents`` or None,
        and the ``damaged`` ones as (name, reason). Another sample of its batch takes the place of a damaged one; there
        are no pixels if all are."""
        rng = np.random.default_rng(batch.seed)
        damaged: dict[str, str] = {}
        crops: list[_Crop] = []
        for sample in batch.samples:
            try:
                crops.append(self._crop(sample, batch.bucket, rng))
            except Exception as error:
                damaged[sample.name] = photos.why(error)
        crops = _alike(crops, damaged)
        if not crops:
            return {"damaged": list(damaged.items())}
        crops = [crops[i % len(crops)] for i in range(len(batch.samples))]
        latents = [crop.latents for crop in crops if crop.latents is not None]
        return {
            "pixels": torch.stack([crop.pixels for crop in crops]),
            "matte": torch.stack([crop.matte for crop in crops]),
            "prompt": [crop.prompt for crop in crops],
            "embeddings": {crop.prompt: crop.embedding for crop in crops if crop.embedding is not None},
            "latents": torch.stack(latents) if latents else None,
            "damaged": list(damaged.items()),
        }

    def _crop(self, sample: Raw, bucket: tuple[int, int], rng: np.random.Generator) -> _Crop:
        size = cover(*image.upright_size(sample.image, sample.name, self.max_pixels), bucket)
        pixels, matte = photos.decode(
            sample.image, size, sample.mask, sample.name, self.max_pixels, foreground=sample.foreground
        )
        if matte is None:
            matte = np.zeros(pixels.shape[:2], np.uint8)
        still = "latents" in self.made_before
        window = (geometry.middle(size, bucket) if still else _window(size, bucket, matte, rng)).slices
        step = -1 if self.flip and not still and rng.random() < 0.5 else 1
        prompt = ""
        if sample.captions:
            weights = np.array([weight for _, weight in sample.captions])
            prompt = sample.captions[rng.choice(len(weights), p=weights / weights.sum())][0]
        return _Crop(
            sample.name,
            _planes(pixels[window][:, ::step]),
            _planes(matte[window][:, ::step]),
            prompt,
            *self._made(sample, prompt),
        )

    def _made(self, sample: Raw, prompt: str) -> tuple[Tensor | None, Tensor | None]:
        """The embedding of the prompt and the latents, as far as they are asked for."""
        if not self.made_before:
            return None, None
        embeddings, latents = precomputed.unpack(sample.row.get("safetensors"))
        missing = [] if "latents" not in self.made_before or latents is not None else ["no latents"]
        if "text" in self.made_before and prompt and prompt not in embeddings:
            missing.append(f"no embedding of {prompt!r}")
        if missing:
            raise ValueError(f"has {' and '.join(missing)}; prepare the collection again")
        text = "text" in self.made_before
        return embeddings.get(prompt) if text else None, latents if "latents" in self.made_before else None


def _alike(crops: list[_Crop], damaged: dict[str, str]) -> list[_Crop]:
    """Those whose latents (C, h, w) and embeddings (L, D) are finite and of the shape that most have; the others are
    noted as damaged."""

    def shape(crop: _Crop) -> tuple[Any, Any]:
        latents, embedding = crop.latents, crop.embedding
        return None if latents is None else latents.shape, None if embedding is None else embedding.shape[1:]

    def sound(crop: _Crop) -> bool:
        made = [tensor for tensor in (crop.latents, crop.embedding) if tensor is not None]
        flat = crop.embedding is None or crop.embedding.ndim == 2
        return flat and all(tensor.isfinite().all() for tensor in made)

    usual = Counter(shape(crop) for crop in crops if sound(crop)).most_common(1)
    good = []
    for crop in crops:
        if sound(crop) and shape(crop) == usual[0][0]:
            good.append(crop)
        else:
            damaged[crop.name] = "its .safetensors holds tensors of other shapes, or values that are not finite"
    return good


def _window(size: tuple[int, int], bucket: tuple[int, int], matte: np.ndarray, rng: np.random.Generator) -> Box:
    """Where to cut the bucket out of a picture that covers it: anywhere, but neither through nor along an object
    that fits in."""
    box = bounding_box(matte > 127) if (matte > 127).any() else None
    starts = []
    for axis in (0, 1):
        low, high = 0, size[axis] - bucket[axis]
        if box is not None:
            first, last = max(low, box[axis + 2] + 1 - bucket[axis]), min(high, box[axis] - 1)
            low, high = (first, last) if first <= last else (low, high)
        starts.append(int(rng.integers(low, high + 1)))
    return Box(starts[0], starts[1], starts[0] + bucket[0], starts[1] + bucket[1])


def _planes(array: np.ndarray) -> Tensor:
    """(H, W) or (H, W, C) to (C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(array.reshape(*array.shape[:2], -1).transpose(2, 0, 1)))


def _quiet_worker(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)  # the workers are the threads


# --------------------------------------------------------------------------------------------------------- the stream


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
        enlarge: photographs that would have to be enlarged more than this are passed over.
        flip: mirror every other photograph; not for products with words on them.
        max_pixels: larger photographs count as damaged; nothing is decoded of them.
        made_before: ``text``, ``latents`` or both: what is read that ``photofound train prepare`` computed, besides the
            pixels. With ``latents`` every picture is shown as its latents are, its middle, unmirrored.
        log: a file that names every damaged sample, besides the log of Python.
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
        enlarge: float = 1.25,
        flip: bool = True,
        max_pixels: int | None = None,
        made_before: Sequence[str] = (),
        device: torch.device | str = "cpu",
        log: Path | None = None,
    ) -> None:
        if not sources:
            raise ValueError("data: no source; name at least one")
        if batch_size < 1 or shuffle < 1:
            raise ValueError(f"data: batch size {batch_size} and shuffle {shuffle} must be at least 1")
        self.sources, self.batch_size, self.buckets = list(sources), batch_size, list(buckets)
        self.seed, self.rank, self.world, self.workers = seed, rank, world, workers
        self.shuffle, self.enlarge, self.flip, self.max_pixels = shuffle, enlarge, flip, max_pixels
        log = None if log is None else files.output(log, "data.log")
        self.made_before, self.device, self.ledger = tuple(made_before), torch.device(device), Ledger(log)
        self._position: dict[str, Any] | None = None

    @property
    def layout(self) -> dict[str, Any]:
        """What must not change for a resumed run to give the same batches."""
        buckets = [list(bucket) for bucket in self.buckets]
        shares = [[source.path, source.weight] for source in self.sources]
        return {"batch": self.batch_size, "buckets": buckets, "shuffle": self.shuffle, "seed": self.seed} | {
            "sources": shares,
            "world": self.world,
        }

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was given, for JSON; empty before the first."""
        return {} if self._position is None else {"position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there at the next ``iter``."""
        self._position = state.get("position")

    def __iter__(self) -> Iterator[Sample]:
        reader = _Reader(self)
        if self._position is not None:
            reader.load_state_dict(self._position)
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
                    photos.to_unit(pixels),
                    matte.float().div_(255),
                    made["prompt"],
                    None if latents is None else latents.to(self.device, non_blocking=True),
                    {words: value.to(self.device, non_blocking=True) for words, value in embeddings.items()},
                )

    def _loader(self, reader: _Reader, positions: deque[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """torch's DataLoader with batches of files for indices: its workers get them in order, and answer in order."""

        class Files:
            def __iter__(self) -> Iterator[_Batch]:
                for batch, position in _ahead(iter(reader), depth=4):
                    positions.append(position)
                    yield batch

        yield from torch.utils.data.DataLoader(
            _Decoder(self.flip, self.max_pixels, self.made_before),
            batch_size=None,
            sampler=Files(),
            num_workers=self.workers,
            worker_init_fn=_quiet_worker,
            generator=torch.Generator(),  # else each opening would draw a seed for the workers from the run's own
            pin_memory=self.device.type == "cuda",
        )


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


def photographs(sources: Sequence[Source], count: int, short_side: int) -> list[photos.Photograph]:
    """The first ``count`` photographs of the sources together, scaled down to ``short_side``: a sample to look at.

    Raises ValueError when a source holds none.
    """
    found: list[photos.Photograph] = []
    for source in sources:
        ledger, rows = Ledger(), iter(open_source(source))
        for row in itertools.islice(rows, -(-count // len(sources))):
            try:
                found.append(photograph(raw(row, source), short_side))
            except Exception as error:
                ledger.skip(source.path, error)
    if not found:
        raise ValueError(f"data: {sources[0].path!r} gives no photograph; look at its format and columns")
    return found
