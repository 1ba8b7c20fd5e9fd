"""Independent units of work: one after another, over processes, or over a Ray cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

import torch

from photofound.data import nodes
from photofound.errors import first_line

Work = Callable[[int], None]  # does one unit, named by its number; can be pickled


def run(work: Work, units: Sequence[int], name: str, workers: int = 0, cluster: bool = False) -> None:
    """Do ``work`` for each of ``units``, with a progress bar called ``name``.

    Args:
        workers: processes; 0 or 1 works in this one.
        cluster: use a Ray cluster in place of processes.

    Raises what ``work`` raises, and ValueError where a process was killed or the cluster failed.
    """
    from tqdm import tqdm

    if cluster:
        done = _on_cluster(work, units)
    elif workers > 1 and len(units) > 1:
        done = _over_processes(work, units, workers)
    else:
        done = _here(work, units)
    for _ in tqdm(done, name, len(units), unit="unit", disable=not sys.stderr.isatty()):
        pass


def _here(work: Work, units: Sequence[int]) -> Iterator[None]:
    for unit in units:
        work(unit)
        yield


def _over_processes(work: Work, units: Sequence[int], workers: int) -> Iterator[None]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    context = multiprocessing.get_context("spawn")  # models and their threads do not survive a fork
    with ProcessPoolExecutor(min(workers, len(units)), context, torch.set_num_threads, (1,)) as pool:
        futures = [pool.submit(work, unit) for unit in units]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise ValueError("prepare: a worker was killed (out of memory?); the same command goes on") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _on_cluster(work: Work, units: Sequence[int]) -> Iterator[None]:
    has = nodes.connect()
    print(f"cluster: {has.place}, {has}", file=sys.stderr)
    for _, found in nodes.results(work, [(unit,) for unit in units], has):
        if isinstance(found, Exception):
            raise ValueError(f"prepare: a unit failed on the cluster ({first_line(found)})")
        yield
