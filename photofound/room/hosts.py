"""Networks on a Ray cluster: loaded once, in actors, and asked by tasks that read and decode.

    actors = start(networks, filters, nodes)        # one for each GPU
    embedder(layout, actors, number)                # in a task: pictures to vectors
    Hosted.of(filter, actors).scores(samples)       # in a task: a filter whose network lies there

While a network computes, the next pictures are decoded and sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from photofound.data.nodes import Nodes
from photofound.room import vectors
from photofound.room.filters import Filter, Sample

_RECENT = 128  # photographs that an actor keeps for other filters


class Host:
    """An actor that has networks loaded."""

    def __init__(self, networks: Sequence[str], filters: Sequence[Filter]) -> None:
        self.networks = {network.column: network for network in map(vectors.Network, networks)}
        self.filters = {each.name: each for each in filters}
        self.recent: dict[bytes, Sample] = {}
        for network in self.networks.values():
            network.net  # noqa: B018  # load it once, now
        for each in filters:
            each.load()

    def vectors(self, column: str, squares: np.ndarray) -> np.ndarray:
        return self.networks[column].of_squares(squares)

    def scores(self, name: str, samples: Sequence[Sample]) -> np.ndarray:
        # What one filter has made of a photograph serves the next one that asks the same network.
        found = self.filters[name].scores([self.recent.setdefault(sample.file, sample) for sample in samples])
        for file in list(self.recent)[:-_RECENT]:
            self.recent.pop(file, None)
        return found


def start(networks: Sequence[vectors.Network], filters: Sequence[Filter], has: Nodes) -> list[Any]:
    """Actors for networks, one for each GPU, else for every second core; none where nothing needs one. Those that die
    are started again, and asked again."""
    import ray

    names = [network.name for network in networks if network.name != vectors.SMALL]
    if not names and not filters:
        return []
    lent = {"num_gpus": 1, "num_cpus": 0} if has.gpus else {"num_cpus": min(1, has.cpus - 1)}
    # Two at once on a GPU: while one computes, the next comes in.
    more = {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": 2 if has.gpus else 1}
    count = has.gpus or max(1, has.cpus // 2)
    return [ray.remote(Host).options(**lent, **more).remote(names, list(filters)) for _ in range(count)]


def embedder(layout: Sequence[tuple[str, str, int]], actors: Sequence[Any], number: int) -> Callable[..., Any]:
    """Embeddings for ``photofound.room.rows``: ``small`` here, networks where they are loaded, while this goes on."""
    import ray

    turns = iter(range(number, 2**62))
    here = [vectors.Network(name) for _, name, _ in layout if name == vectors.SMALL]

    def embed(pictures: Sequence[np.ndarray]) -> Callable[[], Mapping[str, Any]]:
        asked = {
            column: actors[next(turns) % len(actors)].vectors.remote(column, vectors.squares(pictures, side))
            for column, name, side in layout
            if name != vectors.SMALL
        }
        made = {network.column: network.array(pictures) for network in here}
        return lambda: made | {column: vectors.as_array(ray.get(each)) for column, each in asked.items()}

    return embed


@dataclass(frozen=True)
class Hosted(Filter):
    """A filter whose network lies in actors. Pixels are decoded where it is asked."""

    actors: tuple[Any, ...] = ()

    @classmethod
    def of(cls, filter: Filter, actors: Sequence[Any]) -> Hosted:
        said = (filter.name, filter.version, filter.threshold, filter.keeps, filter.about, filter.needs)
        return cls(*said, actors=tuple(actors))

    def scores(self, samples: Sequence[Sample]) -> np.ndarray:
        import ray

        for sample in samples:
            with suppress(Exception):  # a damaged file: the filter says so
                sample.pixels  # noqa: B018
        actor = self.actors[hash(samples[0].file) % len(self.actors)]
        return ray.get(actor.scores.remote(self.name, list(samples)))


@dataclass(frozen=True)
class Vectors:
    """Pictures to vectors, where the network is loaded."""

    column: str
    name: str
    side: int
    actors: Sequence[Any]

    def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        import ray

        if not self.actors:
            return vectors.Network(self.name).pictures(pictures)
        actor = self.actors[int(pictures[0].sum()) % len(self.actors)]
        return ray.get(actor.vectors.remote(self.column, vectors.squares(pictures, self.side)))
