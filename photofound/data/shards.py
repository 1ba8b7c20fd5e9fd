"""One process's share of a source, epoch after epoch: many shards open at once, so that neighbours are of many."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from photofound import files
from photofound.data.cache import ShardCache
from photofound.data.ledger import Ledger, error_text
from photofound.data.sources import Part, Raw, Source, open_parts, raw

logger = logging.getLogger(__name__)


class _Unit(NamedTuple):
    """What one process reads as a whole: a shard, or where processes share a shard, every ``step``-th row of it."""

    part: Part
    start: int
    step: int


class _OpenUnit:
    """A unit that is being read; ``number``: its place in the process's share of the epoch."""

    def __init__(self, unit: _Unit, number: int, read: int, opener: files.Opener) -> None:
        self.number, self.read = number, read
        self._rows: Iterator[Mapping[str, Any]] = unit.part.rows(unit.start + read * unit.step, unit.step, opener)

    def next(self) -> Mapping[str, Any] | None:
        row = next(self._rows, None)
        self.read += row is not None
        return row


class EndlessSource:
    """One process's share of a source.

    The shards of all epochs, in another order in each, are one endless row, and the processes take them in turn: nobody
    reads what another one reads, and together they read every sample once an epoch. A source with fewer shards than
    there are processes is divided further: the rows of a shard are taken in turn, too.

    Args:
        interleave: shards that are open at once; each sample is of a random one.
        cache: keeps shards that lie behind URLs, and fetches them before they are read.
    """

    def __init__(
        self,
        source: Source,
        rank: int,
        world: int,
        seed: int,
        interleave: int,
        ledger: Ledger,
        cache: ShardCache | None = None,
    ) -> None:
        self.source, self.ledger, self.cache = source, ledger, cache
        self.rank, self.world, self.seed, self.interleave = rank, world, seed, interleave
        parts = open_parts(source)
        step = -(-world // len(parts))
        if step > 1:
            why = (
                f"its {len(parts)} shards are fewer than {world} processes, which read every {step}-th photograph each"
            )
            logger.warning("data: %s: %s; write more shards", source.path, why)
        self._units = [_Unit(part, start, step) for part in parts for start in range(step)]
        self.dry = 0  # epochs in a row without a sample
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        count = len(self._units)
        order = np.random.default_rng([self.seed, epoch, count]).permutation(count)
        self.epoch, self._share = epoch, order[(self.rank - epoch * count) % self.world :: self.world]
        self._opened, self._open = 0, list[_OpenUnit]()

    def _fill(self) -> None:
        """Open shards until there are enough, or none is left of this epoch."""
        while len(self._open) < self.interleave and self._opened < len(self._share):
            self._open.append(self._unit(self._opened))
            self._opened += 1

    def _unit(self, number: int, read: int = 0) -> _OpenUnit:
        """Open a unit of this epoch's share, behind ``read`` rows; fetch it, and those that come next."""
        unit = self._units[self._share[number]]
        if self.cache is None:
            return _OpenUnit(unit, number, read, files.open_file)
        for each in self._share[number : number + 1 + self.cache.ahead]:
            if (url := self._units[each].part.url) is not None:
                self.cache.fetch_soon(url)
        return _OpenUnit(unit, number, read, self.cache.open)

    def next(self, draw: float) -> Raw:
        """The next sample of one of the open shards, which ``draw`` in [0, 1) chooses."""
        while True:
            self._fill()
            if not self._open:
                self._end_epoch()
                continue
            unit = self._open[int(draw * len(self._open))]
            try:
                row = unit.next()
            except ValueError:
                raise
            except Exception as error:  # the Hub's client: what it raises ends its iterator
                raise ValueError(f"data: {self.source.path!r} cannot be read on ({error_text(error)})") from error
            if row is None:
                self._open.remove(unit)
                continue
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
        self._begin(self.epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        opened = [[unit.number, unit.read] for unit in self._open]
        return {"epoch": self.epoch, "opened": self._opened, "open": opened}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._begin(state["epoch"])
        if "open" not in state:
            logger.warning(
                "data: the checkpoint is of an older version; %s is read from an epoch's beginning", self.source.path
            )
            return
        self._opened = state["opened"]
        self._open = [self._unit(number, read) for number, read in state["open"]]
