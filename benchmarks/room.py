"""The data room: how fast it fills, what its index finds of the exact neighbours, what its embeddings are worth.

    python benchmarks/room.py index --rows 100000 --width 384
    python benchmarks/room.py add --data SHARDS --limit 1000
    python benchmarks/room.py embeddings --data SHARDS --networks small squeezenet1_0.safetensors

``index``: synthetic vectors near a plane of 16 dimensions; queries are others of the same kind, not in the table.
``embeddings``: of each photograph, whether the nearest other one, and the five nearest, have its label (the metadata's
``label`` and ``source``); labels of fewer than five photographs are not asked for. Times are of this process's CPU.
"""

import argparse
import itertools
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from photofound.data.sources import Source, open_source, raw
from photofound.data.table import TABLE, Table, lance
from photofound.room import search, vectors
from photofound.room.describe import describe, pixels_of
from photofound.room.room import Room

DIMENSIONS = 16  # that synthetic vectors really have


def synthetic(count: int, plane: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N, D) of length 1: without bunches, which would be easy, near a plane of few dimensions, as embeddings are."""
    width = plane.shape[1]
    noise = rng.normal(size=(count, width)).astype(np.float32) / width**0.5
    return vectors.unit(rng.normal(size=(count, len(plane))).astype(np.float32) @ plane + 0.5 * noise)


def index(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    plane = vectors.unit(rng.normal(size=(DIMENSIONS, args.width)))
    with tempfile.TemporaryDirectory() as folder:
        table = Table.create(Path(folder) / "room")
        kind = pa.list_(pa.float32(), args.width)
        table.add_columns([pa.field("embedding_x", kind, metadata={"network": "x"})])
        layout = table.refresh().schema
        for start in range(0, args.rows, 50_000):
            size = min(50_000, args.rows - start)
            columns = {field.name: pa.nulls(size, field.type) for field in layout}
            columns["key"] = pa.array([f"{i:064x}" for i in range(start, start + size)])
            columns["hash"] = columns["key"]
            columns["embedding_x"] = vectors.as_array(synthetic(size, plane, rng))
            lance().write_dataset(pa.table(columns, layout), str(table.folder / TABLE), mode="append")
        table.refresh()
        queries = synthetic(args.queries, plane, rng)

        def ask(**how) -> tuple[list[set[str]], float]:
            start = time.process_time()
            found = [search.nearest(table, "embedding_x", query, None, 10, **how) for query in queries]
            return [{each.key for each in one} for one in found], (time.process_time() - start) / len(queries)

        truth, exact = ask(exact=True)
        start = time.process_time()
        search.index(table, force=True)
        print(f"{args.rows:,} vectors of {args.width}; index in {time.process_time() - start:.0f} CPU s")
        size = sum(path.stat().st_size for path in (table.folder / TABLE / "_indices").rglob("*") if path.is_file())
        print(f"index: {size / 1e6:.1f} MB of {4 * args.rows * args.width / 1e6:.1f} MB of vectors")
        print("| partitions | compared exactly | recall of 10 | ms of CPU | exact search |\n|---|---|---|---|---|")
        for probes, refine in itertools.product(args.probes, args.refine):
            search.PROBES, search.REFINE = probes, refine
            found, seconds = ask()
            recall = np.mean([len(a & b) / len(a) for a, b in zip(found, truth, strict=True)])
            print(f"| {probes} | {10 * refine} | {recall:.3f} | {1e3 * seconds:.1f} | {1e3 * exact:.1f} |", flush=True)


def samples(args: argparse.Namespace):
    source = Source(args.data)
    return itertools.islice((raw(row, source) for row in open_source(source)), args.limit)


def add(args: argparse.Namespace) -> None:
    """What a photograph costs, and which part of it."""
    found = list(samples(args))
    start = time.process_time()
    described = [describe(sample, args.data) for sample in found]
    decoded = (time.process_time() - start) / len(found)
    print(f"{len(found):,} photographs; {1e3 * decoded:.2f} ms of CPU each to decode and describe")
    for name in args.networks:
        network = vectors.Network(name, "cpu")
        network.pictures([described[0].pixels])
        start = time.process_time()
        network.pictures([each.pixels for each in described])
        print(f"embedding by {Path(name).name}: {1e3 * (time.process_time() - start) / len(found):.2f} ms each")
    with tempfile.TemporaryDirectory() as folder:
        start, clock = time.process_time(), time.perf_counter()
        added = Room(Path(folder) / "room").add(args.data, embed=["small"], workers=args.workers)
        cpu, wall = time.process_time() - start, time.perf_counter() - clock
        rates = f"{added.added / cpu:.0f} per second of CPU, {added.added / wall:.0f} by the clock"
        print(f"room add: {added.added:,} photographs, {rates}")
        start = time.process_time()
        Room(Path(folder) / "room").add(args.data, workers=args.workers, reread=True)
        print(f"all of them again: {1e3 * (time.process_time() - start) / added.read:.2f} ms of CPU each")


def embeddings(args: argparse.Namespace) -> None:
    found = list(samples(args))
    labels = np.array([f"{sample.row.get('label')} {sample.row.get('source')}" for sample in found])
    counts = Counter(labels.tolist())
    asked = np.array([counts[label] >= 5 for label in labels])
    pictures = [pixels_of(sample.image) for sample in found]
    print(f"{len(found):,} photographs, {asked.sum():,} are asked for, {len(counts):,} labels")
    print("| embedding | numbers | nearest | of five | ms of CPU |\n|---|---|---|---|---|")
    rows = {"colours at 4 x 4 places": None} | {name: vectors.Network(name, "cpu") for name in args.networks}
    for name, network in rows.items():
        start = time.process_time()
        made = thumbnails(pictures) if network is None else network.pictures(pictures)
        seconds = (time.process_time() - start) / len(found)
        alike = made @ made.T
        np.fill_diagonal(alike, -2)
        near = np.argsort(-alike, axis=1)[:, :5]
        same = (labels[near] == labels[:, None])[asked]
        row = f"| {Path(name).stem} | {made.shape[1]} | {same[:, 0].mean():.3f} | {same.mean():.3f} "
        print(row + f"| {1e3 * seconds:.1f} |", flush=True)


def thumbnails(pictures: list[np.ndarray]) -> np.ndarray:
    import cv2

    small = [cv2.resize(picture, (4, 4), interpolation=cv2.INTER_AREA).ravel() for picture in pictures]
    return vectors.unit(np.stack(small).astype(np.float32) - 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("index", "add", "embeddings"))
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--probes", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--refine", type=int, nargs="+", default=[1, 5, 10])
    parser.add_argument("--data", default="data/train")
    parser.add_argument("--networks", nargs="+", default=["small"])
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    {"index": index, "add": add, "embeddings": embeddings}[args.what](args)


if __name__ == "__main__":
    main()
