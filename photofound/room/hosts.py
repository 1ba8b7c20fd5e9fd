"""Networks on a Ray cluster: loaded once, in actors, and asked by tasks that read and decode.

    actors = start(networks, filters, nodes)        # one for each GPU
    embedder(layout, actors, number)                # in a task: pictures to vectors
    Hosted.of(filter, actors).scores(samples)       # in a task: a filter whose network lies there
    Asked(actors, "captions")(pictures, prompt, 48) # in a task: a method of what ``start(tool=...)`` has loaded

While a network computes, the next pictures are decoded and sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from photofound.data.nodes import Nodes, why
from photofound.room import vectors
from photofound.room.filters import Filter, Sample

_RECENT = 128  # photographs that an actor keeps for other filters


class Host:
    """An actor that has networks loaded.

    Args:
        tool: makes what ``ask`` asks, a captioner or a segmenter; it is called when that is first needed.
    """

    def __init__(
        self, networks: Sequence[str], filters: Sequence[Filter], tool: Callable[[], Any] | None = None
    ) -> None:
        self.make_tool = tool
        self.networks = {network.column: network for network in map(vectors.Network, networks)}
        self.filters = {each.name: each for each in filters}
        self.recent: dict[bytes, Sample] = {}
        for network in self.networks.values():
            network.net  # noqa: B018  # load it once, now
        for each in filters:
            each.load()

    @cached_property
    def tool(self) -> Any:
        assert self.make_tool is not None
        return self.make_tool()

    def ask(self, method: str, *arguments: Any) -> Any:
        return getattr(self.tool, method)(*arguments)

    def tell(self, names: Sequence[str]) -> list[Any]:
        """Attributes of the tool."""
        return [getattr(self.tool, name) for name in names]

    def vectors(self, column: str, squares: np.ndarray) -> np.ndarray:
        return self.networks[column].of_squares(squares)

    def scores(self, name: str, samples: Sequence[Sample]) -> np.ndarray:
        # What one filter has made of a photograph serves the next one that asks the same network.
        found = self.filters[name].scores([self.recent.setdefault(sample.file, sample) for sample in samples])
        for file in list(self.recent)[:-_RECENT]:
            self.recent.pop(file, None)
        return found


def start(
    networks: Sequence[vectors.Network],
    filters: Sequence[Filter],
    has: Nodes,
    tool: Callable[[], Any] | None = None,
    away: bool = False,
) -> list[Any]:
    """Actors for networks, one for each GPU, else for every second core; none where nothing needs one. Those that die
    are started again, and asked again.

    Args:
        tool: makes what ``Asked`` asks, in each of them.
        away: it computes elsewhere, behind a URL: one actor, which needs no core, and bounds what is asked at once.
    """
    import ray

    names = [network.name for network in networks if network.name != vectors.SMALL]
    if not names and not filters and tool is None:
        return []
    lent = {"num_gpus": 1, "num_cpus": 0} if has.gpus else {"num_cpus": min(1, has.cpus - 1)}
    lent = {"num_cpus": 0} if away else lent
    # Two at once on a GPU: while one computes, the next comes in.
    more = {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": 2 if has.gpus or away else 1}
    count = 1 if away else has.gpus or max(1, has.cpus // 2)
    return [ray.remote(Host).options(**lent, **more).remote(names, list(filters), tool) for _ in range(count)]


@contextmanager
def started(*what: Any, **more: Any) -> Iterator[list[Any]]:
    """``start`` for a block: the actors end with it."""
    import ray

    actors = start(*what, **more)
    try:
        yield actors
    finally:
        for actor in actors:
            ray.kill(actor)


def told(actors: Sequence[Any], *names: str) -> list[Any]:
    """Attributes of the tool that actors have. Raises what loading it raises."""
    import ray

    try:
        found: list[Any] = ray.get(actors[0].tell.remote(names))
    except ray.exceptions.RayError as error:
        raise why(error) from None
    return found


@dataclass(frozen=True)
class Asked:
    """A method of the tool that actors have loaded; the first argument is a list of pictures."""

    actors: Sequence[Any]
    method: str

    def __call__(self, pictures: Sequence[np.ndarray], *more: Any) -> Any:
        import ray

        actor = self.actors[int(pictures[0].sum()) % len(self.actors)]
        return ray.get(actor.ask.remote(self.method, list(pictures), *more))


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


@dataclass
class HostedCaptioner:
    """A ``Captioner`` that lies in actors."""

    actors: Sequence[Any]
    name: str
    batch: int
    instructed: bool

    def captions(self, pictures: Sequence[np.ndarray], prompt: str, most: int) -> list[str | None]:
        found: list[str | None] = Asked(self.actors, "captions")(pictures, prompt, most)
        return found


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
