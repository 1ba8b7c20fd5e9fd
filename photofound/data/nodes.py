"""A Ray cluster: connecting to it, work spread over it, its pace and cost, and what goes wrong there in one line.

    nodes = connect("10.0.0.1:6379")
    for index, found in results(function, [(1, "a"), (2, "b")], nodes):     # in the order in which they end
        ...

Ray's tasks are used, not Ray Data's blocks: a unit of work (a tar, a fragment) is done whole by one process, and its
result is taken once, by the process that asked for it. So the death of a worker neither loses nor doubles anything.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from photofound.errors import first_line

TRIES = 5  # times that a unit is begun again after the death of its worker
_AHEAD = 2  # units that wait for each core, so that none is idle
_STORE = 2**29  # bytes of shared memory that Ray on this machine alone gets
_REACH = 5.0  # seconds in which a head node must answer


@dataclass(frozen=True)
class Nodes:
    """What a cluster has.

    Attributes:
        place: which one it is, for people.
    """

    count: int
    cpus: int
    gpus: int
    place: str = "Ray"

    def __str__(self) -> str:
        parts = [f"{self.count:,} node{'s' * (self.count != 1)}", f"{self.cpus:,} core{'s' * (self.cpus != 1)}"]
        return ", ".join(parts + ([f"{self.gpus:,} GPU{'s' * (self.gpus != 1)}"] if self.gpus else []))


def connect(address: str = "") -> Nodes:
    """Connect this process to a Ray cluster. What is connected stays so.

    Args:
        address: ``HOST:PORT`` of its head, or ``ray://HOST:PORT``; ``local``: Ray on this machine alone, which is
            started; empty: ``RAY_ADDRESS``, else the cluster that ``ray start`` has made this machine a node of, else
            ``local``. What another program has started for itself is never joined.

    Raises ImportError without Ray, ValueError for an address where nothing answers. Ray's own usage reports are off.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray warns of hidden GPUs, and starves its workers on a machine that is busy with something else.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError:
        raise ImportError("--cluster needs Ray, which is not installed; pip install 'photofound[cluster]'") from None
    place = "the Ray that this process is connected to"
    if not ray.is_initialized():
        address = address or os.environ.get("RAY_ADDRESS", "")
        address = _own_address() if address in ("", "auto") else address
        place = "Ray on this machine alone" if address == "local" else f"Ray at {address}"
        try:
            _connect(ray, address)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            if str(error).startswith("--cluster"):
                raise
            raise ValueError(f"--cluster: {address} cannot be used ({first_line(error)})") from None
    has = ray.cluster_resources()
    alive = sum(bool(node["Alive"]) for node in ray.nodes())
    return Nodes(max(1, alive), max(1, int(has.get("CPU", 1))), int(has.get("GPU", 0)), place)


def _connect(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        ray.init(address="local", include_dashboard=False, object_store_memory=_STORE, **quiet)
        return
    _reach(address)
    ray.init(address=address, **quiet)


def _own_address() -> str:
    """The cluster that ``ray start`` has made this machine a node of, where it still answers, else ``local``. Ray's
    ``auto`` would join what any program on the machine has started for itself, which ends with that program."""
    from ray._private.services import find_bootstrap_address

    address = find_bootstrap_address(None) or ""
    try:
        _reach(address)
    except ValueError:  # none, or one that has ended without 'ray stop'
        return "local"
    return address


def _reach(address: str) -> None:
    """Raise ValueError where nothing answers: Ray itself would wait for minutes, and end the process."""
    found = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d{1,5})", address)
    if not found or not 0 < int(found[2]) < 65536:
        raise ValueError(f"--cluster: {address!r} is no address; give HOST:PORT, as 'ray start --head' prints it")
    try:
        socket.create_connection((found[1], int(found[2])), _REACH).close()
    except OSError as error:
        advice = "start Ray there with 'ray start --head', or give 'local'"
        raise ValueError(f"--cluster: nothing answers at {address} ({error.strerror or error}); {advice}") from None


def results(
    work: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], nodes: Nodes, **options: Any
) -> Iterator[tuple[int, Any]]:
    """Call ``work`` with each of ``arguments`` on the cluster: (index, result) in the order in which they end.

    As many are begun as there are cores, and a few wait; so what lies in memory does not grow with the work. A worker
    that dies (killed, out of memory, its node gone) has its unit begun again elsewhere, ``TRIES`` times.

    Args:
        work: a function of a module that all nodes can import.
        arguments: taken when a core is free for them; those that are ``ray.ObjectRef`` arrive as what they stand for.
        options: of the task, as ``num_cpus``.

    Yields an exception in place of the result where ``work`` raised it, or its workers died.
    """
    import ray

    task = ray.remote(_call).options(
        max_retries=TRIES, name=getattr(work, "__name__", "unit"), **{"num_cpus": 1} | options
    )
    waiting = iter(enumerate(arguments))
    begun: dict[Any, int] = {}
    try:
        while True:
            while len(begun) < _AHEAD * nodes.cpus and (entry := next(waiting, None)) is not None:
                begun[task.remote(work, *entry[1])] = entry[0]
            if not begun:
                return
            (ended, *_), _ = ray.wait(list(begun), num_returns=1)
            index = begun.pop(ended)
            try:
                found = ray.get(ended)
            except ray.exceptions.RayError as error:
                found = why(error)
            yield index, found
    finally:
        for each in begun:
            ray.cancel(each, force=True)


def _call(work: Callable[..., Any], *arguments: Any) -> Any:
    return work(*arguments)


def carry(thing: Any) -> None:
    """Let a function, or what a class makes, travel with its code where the module that it is of is no installed one,
    such as a file of yours. What that module imports has to be installed on all nodes."""
    import ray

    name = getattr(thing, "__module__", None) or ""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    installed = [Path(sysconfig.get_path(each)).resolve() for each in ("stdlib", "purelib", "platlib")]
    ours = name.partition(".")[0] == "photofound"
    if file and not ours and not any(Path(file).resolve().is_relative_to(each) for each in installed):
        ray.cloudpickle.register_pickle_by_value(module)


def why(error: Exception) -> Exception:
    """What went wrong on a worker, as if it had been here: without Ray's traces."""
    import ray

    if isinstance(error, ray.exceptions.RayTaskError):
        cause = error.cause
        return why(cause) if isinstance(cause, ray.exceptions.RayError) else cause
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return ValueError(f"its node has too little memory; it was tried {TRIES + 1} times")
    if isinstance(error, ray.exceptions.ActorDiedError) and "creation task" in str(error):
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        return ValueError(f"an actor could not be started there ({said[-1]})")
    if isinstance(error, (ray.exceptions.WorkerCrashedError, ray.exceptions.ActorDiedError)):
        return ValueError(f"its worker died {TRIES + 1} times (out of memory, or a file that ends its decoder)")
    return ValueError(f"the cluster failed ({first_line(error)})")


@dataclass
class Pace:
    """How fast work goes, how much is done, what is left, and what it costs.

    Attributes:
        nodes: what it runs on.
        price: of a node for an hour, in dollars; None = node hours are named.
        total: of the work, in any unit; ``done`` is in the same.
        rows: photographs that were worked on.
        show: is called with a line while something is left, at most every ``every`` seconds.
    """

    nodes: Nodes
    price: float | None = None
    total: float = 0.0
    done: float = 0.0
    rows: int = 0
    show: Callable[[str], None] = lambda line: None
    every: float = 10.0
    started: float = field(default_factory=time.monotonic)
    _shown: float = field(default_factory=time.monotonic)

    def add(self, done: float, rows: int) -> None:
        """Note what was done."""
        self.done, self.rows = self.done + done, self.rows + rows
        if self.done < self.total and time.monotonic() - self._shown >= self.every:
            self._shown = time.monotonic()
            self.show(self.line)

    @property
    def seconds(self) -> float:
        return max(1e-9, time.monotonic() - self.started)

    @property
    def line(self) -> str:
        """For people: ``41 % done, 12,345 photographs, 310/s on 2 nodes, 32 cores; 2 min left; ...``"""
        share = self.done / self.total if self.total else 1.0
        share = share if share < 1 - 1e-9 else 1.0
        left = self.seconds * (1 / share - 1) if share else None
        pace = f"{self.rows:,} photographs, {self.rows / self.seconds:,.0f}/s on {self.nodes}"
        parts = [f"{share:.0%} done, {pace}"]
        if share < 1 and left is not None:
            parts.append(f"{duration(left)} left")
        hours = self.nodes.count * self.seconds / 3600
        whole = hours / share if share else None
        return "; ".join([*parts, self._cost(hours, whole if share < 1 else None)])

    def _cost(self, hours: float, whole: float | None) -> str:
        if self.price is None:
            return f"{hours:.3g} node hours" + (f" of about {whole:.3g}" if whole is not None else "")
        of = f" of about ${whole * self.price:,.2f}" if whole is not None else ""
        return f"${hours * self.price:,.2f}{of}, at ${self.price:g} for a node hour (--price)"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    for size, unit in ((86400 * 2, "days"), (7200, "h"), (120, "min")):
        if seconds >= size:
            value = seconds / {"days": 86400, "h": 3600, "min": 60}[unit]
            return f"{value:.0f} {unit}" if unit == "min" else f"{value:.1f} {unit}"
    return f"{seconds:.0f} s"
