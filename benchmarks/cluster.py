"""The data room on Ray: photographs per second of a core and of a node, and what many would take on many nodes.

    python benchmarks/cluster.py --data SHARDS --limit 2000
    python benchmarks/cluster.py --data SHARDS --photographs 90000000 --nodes 100 --cores 16 --price 0.64

All rows are of one run, one after another: this process alone with one thread, then Ray on this machine with one and
with two workers. CPU seconds are of this process and of all of Ray's workers; by them, what others do on the machine
does not count. A node is all workers of this machine, by the clock. Workers have been started, and have imported
everything, before.

The extrapolation takes the CPU seconds of a photograph with two workers, and says what it takes for granted. A node's
price is an assumption: 4 cents for a core hour, unless --price says otherwise.
"""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from photofound.data import duplicates, nodes
from photofound.data.sources import Source, open_source, raw
from photofound.data.table import TABLE, Table
from photofound.data.tars import write_tar
from photofound.room import dedup, spread
from photofound.room.add import Writer, Written
from photofound.room.room import Room
from photofound.room.rows import Options, Tally

SHARD = 125  # photographs of a tar, so that there are some for each worker


class Clock:
    """Seconds by the clock, and of the CPU: of this process and of Ray's workers."""

    def __init__(self) -> None:
        self.wall, self.cpu, self.here = time.perf_counter(), cpu_seconds(), time.process_time()

    def stop(self) -> tuple[float, float, float]:
        """By the clock, of the CPU, and of the CPU in this process alone."""
        return time.perf_counter() - self.wall, cpu_seconds() - self.cpu, time.process_time() - self.here


def cpu_seconds() -> float:
    total = time.process_time()
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith("ray::"):
                times = process.cpu_times()
                total += times.user + times.system
        except psutil.Error:
            continue
    return total


def memory() -> float:
    """MiB of the largest worker."""
    found = [0.0]
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith("ray::"):
                found.append(process.memory_info().rss / 2**20)
        except psutil.Error:
            continue
    return max(found)


def shards(data: str, folder: Path, limit: int) -> tuple[int, int]:
    """Photographs of a source in small tars; how many, and their bytes."""
    count = size = 0
    members: list[tuple[str, dict[str, bytes]]] = []
    source = Source(data)
    for row in open_source(source):
        sample = raw(row, source)
        members.append((f"{count:06}", {"webp": sample.image}))
        count, size = count + 1, size + len(sample.image)
        if len(members) == SHARD or count == limit:
            write_tar(folder / f"{count:06}.tar", members)
            members = []
        if count == limit:
            return count, size
    if members:
        write_tar(folder / f"{count:06}.tar", members)
    return count, size


def hashes(folder: Path, count: int) -> dedup.Rows:
    """Synthetic fingerprints, a tenth of them near others, as the room's duplicates lay them out."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**63, count, dtype=np.uint64)
    bits[: count // 10] = bits[count // 10 : 2 * (count // 10)] ^ np.uint64(1)
    colours = np.zeros((count, 3 * duplicates.PLACES**2), np.uint8)
    bits.tofile(folder / "one")
    colours.tofile(folder / "other")
    made = dedup.Rows.__new__(dedup.Rows)
    made.folder, made.count = folder, count
    made.bits, made.colours = dedup.mapped_hashes(folder)
    return made


def versions(folder: Path, count: int) -> float:
    """CPU seconds that making a version takes for each of ``count`` photographs, which are keys alone."""
    import pyarrow as pa
    from lance.fragment import write_fragments

    table = Table.create(folder / "versions")
    writer = Writer(table, [], Options(), lambda number: None)
    written = []
    for start in range(0, count, 8192):
        columns = {each.name: pa.nulls(8192, each.type) for each in writer.table.dataset.schema}
        columns["key"] = columns["hash"] = pa.array([f"{(start + i) * 2**230:064x}" for i in range(8192)])
        rows = pa.table(columns, writer.table.dataset.schema)
        made = write_fragments(rows, str(table.folder / TABLE), schema=rows.schema)
        written.append(Written(made, columns["key"].to_pylist(), [], writer.known.version, [], Tally()))
    begun = time.process_time()
    writer.commit(written)
    return (time.process_time() - begun) / len(table.refresh().to_table(["key"]))


def warm(number: int) -> None:
    """Makes a worker import what it needs; long enough that each of them gets one."""
    import photofound.room.spread  # noqa: F401

    time.sleep(0.5)


def measured(folder: Path, source: Path, count: int, workers: int, rows: int) -> dict[str, tuple]:
    """Each kind of work: (photographs, seconds, CPU seconds, those of this process). ``workers``: 0 = this process."""
    cluster = None
    if workers:
        import ray

        os.environ["RAY_worker_niceness"] = os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        ray.init(address="local", num_cpus=workers, object_store_memory=2**28, **quiet)
        list(nodes.results(warm, [(number,) for number in range(4 * workers)], nodes.connect()))
        cluster = ""
    found: dict[str, tuple] = {}

    def take(what: str, number: int, work: Callable[[], object]) -> None:
        clock = Clock()
        work()
        found[what] = number, *clock.stop()

    room = Room(folder / f"room{workers}")
    take("add", count, lambda: room.add(str(source), embed=["small"], workers=1, cluster=cluster))
    take("filter", count, lambda: room.filter(workers=1, cluster=cluster))
    place = folder / f"hashes{workers}"
    place.mkdir()
    compared = hashes(place, rows)
    how = spread.OnNodes(nodes.Pace(nodes.connect())) if workers else dedup.Here()
    take("dedup (hashes)", rows, lambda: list(duplicates.groups(rows, how.pairs_by_hash(compared, 3))))
    if workers:
        print(f"{workers} worker{'s' * (workers > 1)}: {memory():.0f} MiB in the largest", flush=True)
        ray.shutdown()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/train")
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--hashes", type=int, default=500_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--photographs", type=int, default=90_000_000)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--cores", type=int, default=16)
    parser.add_argument("--price", type=float, help="of a node for an hour; default: 4 cents for each core")
    args = parser.parse_args()
    logging.getLogger("photofound").setLevel(logging.ERROR)
    spread._LEAST_UNIT = 2**21  # so that few photographs are several parts, too
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "shards"
        source.mkdir()
        count, size = shards(args.data, source, args.limit)
        print(f"{count:,} photographs of {size / count / 1000:.0f} kB in tars of {SHARD}")
        rows = {}
        for workers in [0, *args.workers]:
            rows[workers] = measured(folder, source, count, workers, args.hashes)
        commit = versions(folder, 2**19)
    print("\n| work | workers | per second of a core | of one process | per second of the node | of one process |")
    print("|---|---|---|---|---|---|")
    for what in rows[0]:
        number, wall, cpu, _ = rows[0][what]
        alone, clock = number / cpu, number / wall
        print(f"| {what} | this process | {alone:,.0f} | 1 | {clock:,.0f} | 1 |")
        for workers in args.workers:
            number, wall, cpu, _ = rows[workers][what]
            core, node = number / cpu, number / wall
            print(f"| {what} | {workers} | {core:,.0f} | {core / alone:.2f} | {node:,.0f} | {node / clock:.2f} |")
    extrapolate(args, rows[args.workers[-1]], size / count, commit)


def extrapolate(args: argparse.Namespace, row: dict[str, tuple], size: float, commit: float) -> None:
    """What the whole would take, and what has to hold for that."""
    cores = args.nodes * args.cores
    price = args.price if args.price is not None else 0.04 * args.cores
    print(
        f"\n{args.photographs:,} photographs on {args.nodes:,} nodes of {args.cores} cores at ${price:g} a node hour:\n"
    )
    print(
        "| work | core hours | on all nodes | cost | read by a node | in the first process |\n|---|---|---|---|---|---|"
    )
    for what, (number, _, cpu, here) in row.items():
        pairs = "hashes" in what
        serial = args.photographs * (here / number if pairs else commit if what == "add" else 0)
        hours = args.photographs * (cpu - here) / number / 3600
        wall = max(3600 * hours / cores, 1e-9)
        rate = "" if pairs else f"{args.photographs * size / args.nodes / wall / 1e6:,.0f} MB/s"
        cost = price * args.nodes * max(wall, serial) / 3600
        first = nodes.duration(serial) if serial else ""
        print(f"| {what} | {hours:,.1f} | {nodes.duration(wall)} | ${cost:,.2f} | {rate} | {first} |")
    print(f"\nMaking versions takes {1e6 * commit:.2f} us a photograph in the first process, beside the workers.")
    print(
        "\nIt takes for granted: photographs of this size and format; cores as fast as these, all of them busy;\n"
        "storage that gives each node what it reads and takes what it writes (as much again for add); parts that are\n"
        "small beside the work of a node; no photographs in two parts. Not in it: starting nodes, networks, indices."
    )


if __name__ == "__main__":
    main()
