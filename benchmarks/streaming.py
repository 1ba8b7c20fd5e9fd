"""How many shards a batch mixes, what that costs in memory and time, and how shards are shared out.

    python benchmarks/streaming.py --data SHARDS
    python benchmarks/streaming.py --data SHARDS --per-shard 1000 --batch 256

The photographs are packed anew into tars of --per-shard. For each number of shards that are open at once, a process of
its own reads two epochs' worth of batches without decoding: the shards in a batch, in the mean; photographs per CPU
second; how much its memory grew. Then four processes share an epoch: how many photographs and shards each of them read.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from photofound.data.ledger import Ledger
from photofound.data.reader import BatchReader, Order
from photofound.data.shards import EndlessSource
from photofound.data.sources import Source
from photofound.data.tars import read_tar, write_tar


def repack(data: str, folder: Path, per_shard: int) -> int:
    """Photographs in tars of ``per_shard``; how many there are."""
    pending, count, number = [], 0, 0
    for tar in sorted(Path(data).glob("photos-*.tar")) or sorted(Path(data).glob("*.tar")):
        for sample in read_tar(tar):
            files = {extension[1:]: content for extension, content in sample.items() if extension.startswith(".")}
            pending.append((f"{count:07d}", files))
            count += 1
            if len(pending) == per_shard:
                write_tar(folder / f"{number:05d}.tar", pending)
                pending, number = [], number + 1
    if pending:
        write_tar(folder / f"{number:05d}.tar", pending)
    return count


def mixed(folder: str, interleave: int, batch: int, count: int) -> tuple[float, float, float]:
    """Shards per batch, photographs per CPU second, MiB that the process grew by."""
    order = Order((Source(folder),), batch, ((256, 256),), 0, 0, 1, 1024, interleave, 100.0, None)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    shards = []
    for number, (given, _) in enumerate(BatchReader(order, Ledger())):
        shards.append(len({sample.name.partition(" ")[0] for sample in given.samples}))
        if number * batch >= count:
            break
    seconds = time.process_time() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return float(np.mean(shards)), len(shards) * batch / seconds, grown / 1024


def share(folder: str, rank: int, world: int) -> tuple[int, int]:
    """Photographs and shards that a process reads in an epoch."""
    source, draws = EndlessSource(Source(folder), rank, world, 0, 16, Ledger()), np.random.default_rng(rank)
    names = []
    while True:
        sample = source.next(draws.random())
        if source.epoch:
            return len(names), len({name.partition(" ")[0] for name in names})
        names.append(sample.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of WebDataset tars")
    parser.add_argument("--per-shard", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    spawned = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        count = repack(args.data, Path(folder), args.per_shard)
        print(f"{count} photographs in {len(os.listdir(folder))} tars, batches of {args.batch}\n")
        print("| open at once | shards in a batch | photographs per CPU second | memory, MiB |\n|---|---|---|---|")
        for interleave in (1, 4, 16, 64):
            with spawned.Pool(1) as pool:
                mean, speed, grown = pool.apply(mixed, (folder, interleave, args.batch, 2 * count))
            print(f"| {interleave} | {mean:.1f} | {speed:.0f} | {grown:.0f} |", flush=True)
        print("\n| process of 4 | photographs of an epoch | tars |\n|---|---|---|")
        for rank in range(4):
            photographs, tars = share(folder, rank, 4)
            print(f"| {rank} | {photographs} | {tars} |")


if __name__ == "__main__":
    main()
