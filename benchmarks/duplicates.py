"""Near-duplicates at scale: seconds and memory over the number of pictures, and what more would cost. Prints Markdown.

    python benchmarks/duplicates.py
    python benchmarks/duplicates.py --counts 100000 1000000 10000000
    python benchmarks/duplicates.py --room ROOM     # hashes as skewed as those of real photographs

Pictures are synthetic: random 64-bit hashes and 4 x 4 colours; one in ten doubles another, with three bits turned
over and colours up to eight levels away. With ``--room`` they are those of a room, drawn again and again with up to
five bits turned over and other colours, so that plain grounds crowd together as they do in life. Each count runs in a
process of its own on one thread, over files, as ``photofound room dedup`` has them. The first count is also done by
bands of bits in a Python dictionary, which is how it was done before; its answer must be the same.

The last rows are extrapolated by N log N through the largest count; the price of a core is an assumption that
``--price`` sets. Twenty tables are independent of each other, so that many cores share the time.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from photofound.data.duplicates import fingerprints_alike, groups, near_pairs, representatives

NEAR = 3
EXTRAPOLATED = (90_000_000, 1_000_000_000)


def draw(count: int, room: str | None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (N,) and colours (N, 48); the last tenth doubles earlier ones."""
    rng = np.random.default_rng(seed)
    doubled = count // 10
    first = count - doubled
    if room is None:
        bits = rng.integers(0, 2**64, first, dtype=np.uint64)
        colours = rng.integers(0, 256, (first, 48), dtype=np.uint8)
    else:
        from photofound.data.table import Table

        batches = [(b["phash"].to_numpy(), b["colours"].to_pylist()) for b in Table(room).scan(["phash", "colours"])]
        hashes = np.concatenate([each for each, _ in batches])
        places = np.frombuffer(b"".join(c for _, many in batches for c in many), np.uint8).reshape(-1, 48)
        chosen = rng.integers(len(hashes), size=first)
        bits, colours = turned(rng, hashes[chosen], 5), moved(rng, places[chosen], 40)
    source = rng.integers(0, first, doubled)
    return (
        np.concatenate([bits, turned(rng, bits[source], NEAR)]),
        np.concatenate([colours, moved(rng, colours[source], 8)]),
    )


def turned(rng: np.random.Generator, bits: np.ndarray, most: int) -> np.ndarray:
    for _ in range(most):
        bits = bits ^ (np.uint64(1) << rng.integers(0, 64, len(bits)).astype(np.uint64))
    return bits


def moved(rng: np.random.Generator, colours: np.ndarray, most: int) -> np.ndarray:
    shift = rng.integers(-most, most + 1, colours.shape, dtype=np.int16)
    return np.clip(colours + shift, 0, 255).astype(np.uint8)


def by_sorting(bits: np.ndarray, colours: np.ndarray) -> np.ndarray:
    found = groups(len(bits), near_pairs(bits, NEAR, colours))
    return representatives(len(bits), found, fingerprints_alike(bits, colours, NEAR))


def by_bands(bits: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """One picture after the other, against the kept ones that agree with it in one of four bands of 16 bits."""
    bands: dict[tuple[int, int], list[int]] = defaultdict(list)
    places, kept = colours.astype(np.int16), np.arange(len(bits))
    for index, value in enumerate(bits.tolist()):
        keys = [(band, value >> 16 * band & 0xFFFF) for band in range(4)]
        others = np.array(sorted({i for key in keys for i in bands[key]}), np.int64)
        alike = np.bitwise_count(bits[others] ^ bits[index]) <= NEAR
        alike[alike] = np.abs(places[others[alike]] - places[index]).max(1) <= 8
        if alike.any():
            kept[index] = others[alike][0]
        else:
            for key in keys:
                bands[key].append(index)
    return kept


def measure(count: int, room: str | None, bands: bool) -> dict[str, float]:
    """One count, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        for name, array in zip(("bits", "colours"), draw(count, room), strict=True):
            np.save(Path(folder) / name, array)
            del array
        bits, colours = (np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in ("bits", "colours"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        kept = by_sorting(bits, colours)
        seconds = time.process_time() - start
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = {"count": count, "doubled": int((kept != np.arange(count)).sum()), "seconds": seconds}
        found |= {"peak": after / 1024, "added": (after - before) / 1024}
        if bands:
            start = time.process_time()
            assert np.array_equal(by_bands(np.array(bits), np.array(colours)), kept), "the two answers differ"
            found["bands"] = time.process_time() - start
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[100_000, 1_000_000], help="pictures")
    parser.add_argument("--room", help="take the hashes of this room")
    parser.add_argument("--price", type=float, default=0.04, help="dollars for an hour of a core; default: 0.04")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(**json.loads(args.one))))
        return
    rows = []
    for count in args.counts:
        wanted = json.dumps({"count": count, "room": args.room, "bands": count == args.counts[0]})
        done = subprocess.run([sys.executable, __file__, "--one", wanted], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        rows.append(json.loads(done.stdout))
    print("| pictures | double others | CPU seconds | peak MiB (drawing them) | bands in a dictionary, CPU seconds |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        old = f"{row['bands']:.1f}" if "bands" in row else ""
        peak = f"{row['peak']:,.0f} ({row['peak'] - row['added']:,.0f})"
        print(f"| {row['count']:,} | {row['doubled']:,} | {row['seconds']:.1f} | {peak} | {old} |")
    last = rows[-1]
    rate = last["seconds"] / (last["count"] * math.log2(last["count"]))
    print("\n| pictures, extrapolated | core hours | dollars |\n| --- | --- | --- |")
    for count in EXTRAPOLATED:
        hours = rate * count * math.log2(count) / 3600
        print(f"| {count:,} | {hours:.2f} | {hours * args.price:.2f} |")


if __name__ == "__main__":
    main()
