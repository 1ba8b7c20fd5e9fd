"""Room: a data room by one name.

room = Room("room")
room.add("photos", "s3://bucket/shards/*.tar", licence="CC0")
for found in room.search(like="shoe.jpg", where="licence = 'CC0' and width >= 1024"):
    print(found.distance, found.source, found.key)
room.export("shoes", to="webdataset", where="cluster = 3")
room.forget(source="example.com")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from photofound import files
from photofound.data.nodes import Pace, connect
from photofound.data.sources import Source
from photofound.data.table import Table, is_room
from photofound.room import add as adding
from photofound.room import captioners, mattes, optout, page, rows, scores, search, spread, vectors
from photofound.room import captions as captioning
from photofound.room import dedup as doubles
from photofound.room import export as exporting
from photofound.room import forget as forgetting
from photofound.room import stats as counting

Progress = Callable[[int], None]
Cluster = str | Pace | None
"""A Ray cluster to work on: its address, empty for this machine's; or a ``Pace``, which also says how it goes. None:
this process."""


def _silent(count: int) -> None:
    pass


def _pace(cluster: Cluster) -> Pace | None:
    return Pace(connect(cluster)) if isinstance(cluster, str) else cluster


@dataclass(frozen=True)
class Version:
    """A version of a room: when it was made, by what, and how many photographs it has."""

    number: int
    made: datetime
    photographs: int


class Room:
    """Photographs in a folder: found, balanced, exported and forgotten.

    Args:
        folder: the room; ``add`` makes it if it does not exist.
        version: look at the room as it was at this version; nothing can be changed then.

    ``where`` is always a filter in SQL over the columns (``photofound.data.table.COLUMNS``), such as
    ``licence = 'CC0' and width >= 1024``. Methods raise ValueError of one line for a filter that cannot be read, and
    FileNotFoundError where there is no room.
    """

    def __init__(self, folder: str | Path, version: int | None = None) -> None:
        self.folder, self.version = files.output_path(folder, "room"), version
        self._table: Table | None = None

    def __repr__(self) -> str:
        return f"Room({str(self.folder)!r}{f', version={self.version}' if self.version else ''})"

    def __len__(self) -> int:
        return self.table.count()

    @property
    def table(self) -> Table:
        """The table, to be read in batches (``scan``) and given computed columns (``fill``)."""
        if self._table is None:
            self._table = Table(self.folder, self.version)
        return self._table

    def _newest(self) -> Table:
        """The table at its newest version, to be written."""
        if self.version is not None:
            raise ValueError(f"{self.folder}: version {self.version} cannot be changed; 'room rollback' returns to it")
        self.table.refresh()
        return self.table

    def add(
        self,
        *sources: str | Path | Source,
        embed: Sequence[str] | None = None,
        licence: str = "",
        reference: bool = False,
        keep_gps: bool = False,
        opt_out: str | Path | None = None,
        workers: int = 0,
        reread: bool = False,
        progress: Progress = _silent,
        cluster: Cluster = None,
    ) -> adding.Added:
        """Add photographs of anything that training reads: folders, tars, parquet, URLs, ids of the Hub, other rooms.

        A photograph that is there is not added again, a part of a source that was written is not read again, and a call
        that was killed goes on. Several processes may add at once.

        Args:
            embed: networks whose embeddings are computed: ``small``, a SqueezeNet's ``.safetensors``, a folder or id of
                transformers. None: those that the room has, ``small`` for a new room; empty: none.
            licence: of photographs whose metadata name none.
            reference: keep the paths of an image folder's files in place of their bytes.
            keep_gps: leave in the files where they were taken. By default EXIF's GPS and places in XMP are taken out.
            opt_out: a list of hashes, sources, domains and patterns (``photofound.room.optout``) that stay out, now and
                later.
            workers: threads that decode; 0 = as many as there are processors, at most 8.
            reread: read what was written before, too.
            progress: is called with the number of photographs that were read.
            cluster: work on a Ray cluster.

        Raises ValueError for a source that cannot be read.
        """
        entries = list(optout.read(files.output_path(opt_out, "--opt-out"))) if opt_out else []
        made = [source if isinstance(source, Source) else Source(str(source)) for source in sources]
        pace = _pace(cluster)
        new = not is_room(self.folder)
        networks = [vectors.Network(name) for name in (embed if embed is not None else [vectors.SMALL] if new else [])]
        for network in networks:
            network.width  # noqa: B018  # one that cannot be loaded is an error before there is a room
        for source in made:
            adding.check(source, reference)
        table = self._table = Table.create(self.folder) if new else self._newest()
        if embed is None and not new:
            networks = vectors.networks(table)
        if entries:
            with table.lock():
                optout.extend(table.folder, entries, f"from {Path(str(opt_out)).name}")
        options = rows.Options(licence, reference, keep_gps, workers, reread)
        if pace is not None:
            added = spread.add(table, made, networks, options, pace)
        else:
            added = adding.add(table, made, networks, options, progress)
        if search.index(table):
            added.version = table.dataset.version
        return added

    def search(
        self,
        text: str | None = None,
        *,
        like: str | Path | None = None,
        where: str | None = None,
        limit: int = 10,
        embedding: str | None = None,
        exact: bool = False,
    ) -> list[search.Found]:
        """The photographs nearest to a file (``like``), or to words, the nearest first.

        Words need a network that knows them (CLIP, SigLIP). Without one the captions' words are searched, and
        ``distance`` is None.

        Args:
            embedding: the network to search by, where the room has several.
            exact: do not use the index of a large room.
        """
        if (text is None) == (like is None):
            raise ValueError("search: give words or a picture to search by, one of them")
        if like is not None:
            return search.like(self.table, like, where, limit, embedding, exact)
        return search.words(self.table, str(text), where, limit, embedding)[0]

    def stats(self, where: str | None = None) -> counting.Stats:
        """Counts and distributions; clusters are those of ``cluster``, else of a sample."""
        return counting.stats(self.table, where)

    def drift(self, since: int) -> list[counting.Drift]:
        """How the distributions have changed since a version, the largest change first."""
        return counting.drift(counting.stats(Table(self.folder, since)), self.stats())

    def page(self, where: str | None = None, since: int | None = None) -> str:
        """The statistics as an HTML page with pictures, which needs no other file."""
        found = self.stats(where)
        drifts = counting.drift(counting.stats(Table(self.folder, since), where), found) if since is not None else []
        return page.of_stats(self.table, found, drifts, since)

    def view(self, where: str | None = None, limit: int = 48) -> str:
        """Samples, spread evenly over the room, as an HTML page."""
        keys = list(self._spread(where, limit))
        about = f"{len(keys)} of {self.table.count(where):,} photographs" + (f" where {where}" if where else "")
        return page.of_samples(self.table, keys, self.folder.resolve().name, about)

    def _spread(self, where: str | None, limit: int) -> Iterator[str]:
        step, seen = max(1, -(-self.table.count(where) // limit)), 0
        for batch in self.table.scan(["key"], where, 65536):
            yield from batch["key"].to_pylist()[-seen % step :: step]
            seen += len(batch)

    def export(self, folder: str | Path, to: str, where: str | None = None, progress: Progress = _silent) -> int:
        """Write what matches into a new folder, as ``webdataset``, ``parquet``, ``mds`` or ``folder``; how many."""
        return exporting.export(self.table, to, Path(folder), where, progress)

    def forget(
        self, *, source: str | None = None, hash: str | Path | None = None, opted_out: bool = False
    ) -> forgetting.Forgotten:
        """Remove photographs from every version and from the disk, and keep them out.

        Args:
            source: what is from there: a source or SOURCE, a domain, a folder or a file's name.
            hash: one file: its SHA-256, or the beginning of it, or the file.
            opted_out: what the room's opt-out list names.

        Returns which they were, and which trainings and exports have read them.
        """
        if (source is not None) + (hash is not None) + opted_out != 1:
            raise ValueError("forget: name a source, a hash, or what has opted out; one of them")
        table = self._newest()
        if opted_out:
            return forgetting.forget(table, forgetting.of_list(optout.OptOut.of_room(table.folder)))
        if source is not None:
            return forgetting.forget(table, forgetting.of_source(source), source)
        assert hash is not None
        return forgetting.forget(table, forgetting.of_hash(hash))

    def embed(
        self, network: str, where: str | None = None, progress: Progress = _silent, cluster: Cluster = None
    ) -> int:
        """Compute the embeddings that are missing by a network; how many there were."""
        if (pace := _pace(cluster)) is not None:
            return spread.embed(self._newest(), vectors.Network(network), where, pace)
        return vectors.embed(self._newest(), vectors.Network(network), where, progress)

    def cluster(self, count: int | None = None, embedding: str | None = None) -> tuple[int, int]:
        """Number the clusters of the embeddings in the column ``cluster``. Returns how many there are, and how many
        photographs got a number. ``count`` finds new clusters; without it new photographs join those that there are."""
        table = self._newest()
        return vectors.cluster(table, search.column_for(table, embedding), count)

    def dedup(
        self,
        by: str = "phash",
        near: int = doubles.NEAR,
        similar: float = doubles.SIMILAR,
        prefer: str = doubles.PREFER,
        where: str | None = None,
        cluster: Cluster = None,
    ) -> doubles.Doubles:
        """Say in the column ``duplicate_of`` which photographs double others; nothing is removed.
        ``duplicate_of = key`` finds one of each, afterwards.

        Args:
            by: ``phash``, or a network whose embeddings the room has.
            near: bits of the perceptual hash (64) that may differ.
            similar: cosine of the embeddings, at least.
            prefer: an expression in SQL: of photographs that double each other the one with the most is kept.
        """
        pace = _pace(cluster)
        table = self._newest()
        column = by if by == "phash" else search.column_for(table, by)
        how = spread.OnNodes(pace) if pace is not None else None
        return doubles.dedup(table, column, near, similar, prefer, where, how)

    def filter(
        self,
        *filters: str,
        where: str | None = None,
        workers: int = 0,
        progress: Progress = _silent,
        cluster: Cluster = None,
    ) -> scores.Filtered:
        """Score photographs by filters, each by ``NAME``, ``NAME=THRESHOLD``, ``NAME:MODEL`` or
        ``NAME:MODEL=THRESHOLD``; none: those that the room has, else the default ones (``photofound.room.filters``).

        Only photographs without a score are looked at, all filters in one pass. The scores stand in ``score_NAME``; the
        column ``kept`` says which photographs pass every filter that the room has scores by.
        """
        if (pace := _pace(cluster)) is not None:
            return scores.filter_room(self._newest(), filters, where, 1, compute=partial(spread.score, pace=pace))
        return scores.filter_room(self._newest(), filters, where, workers, progress)

    def caption(
        self,
        captioner: str,
        *,
        model: str | None = None,
        kinds: Sequence[str] = (),
        prompts: Mapping[str, str] | None = None,
        where: str | None = None,
        replace: bool = False,
        workers: int = 8,
        progress: Progress = _silent,
        cluster: Cluster = None,
    ) -> captioning.Captioned:
        """Caption photographs that lack captions, by a vision-language model; who made each stands beside it.

        Args:
            captioner: a folder or id of transformers, or the URL of an OpenAI-compatible endpoint, whose key is that of
                the environment variable ``PHOTOFOUND_CAPTIONER_KEY``.
            model: what an endpoint is asked for.
            kinds: ``short`` (``caption_short``), ``dense`` (``caption_dense``); none: both.
            prompts: kind -> what to ask, in place of ``photofound.room.captions.PROMPTS``.
            replace: also captions of the source, by another model or of another prompt.
            workers: questions to an endpoint at once.
        """
        table = self._newest()
        table.count(where)  # a mistake in it is an error before a model is loaded
        what: dict[str, Any] = {"kinds": kinds, "prompts": prompts, "where": where, "replace": replace}
        if (pace := _pace(cluster)) is not None:
            return spread.caption(table, captioners.Recipe(captioner, model, workers), pace, **what)
        made = captioners.open_captioner(captioner, model, workers=workers)
        return captioning.caption(table, made, **what, fill=partial(table.fill, done=progress))

    def matte(
        self,
        find: mattes.Find | mattes.Loads,
        name: str,
        where: str | None = None,
        progress: Progress = _silent,
        cluster: Cluster = None,
    ) -> tuple[int, int]:
        """Give mattes (column ``mask``) to photographs that have none: how many got one, and in how many nothing was
        found. ``mask_by`` becomes ``name``.

        Args:
            find: (H, W, 3) float32 in [0, 1] to a matte (H, W) in [0, 1]: what ``EditPipeline.search`` gives, or yours.
                What has ``load()`` gives one, and is loaded once in each actor of a cluster
                (``photofound.finder.Finder``); other functions are called in tasks, on CPUs.
        """
        table = self._newest()
        table.count(where)  # a mistake in it is an error before a model is loaded
        if (pace := _pace(cluster)) is not None:
            return spread.matte(table, find, name, where, pace)
        each = mattes.Each(find.load() if isinstance(find, mattes.Loads) else find)
        return mattes.matte(table, each, name, where, partial(table.fill, done=progress))

    def index(self, force: bool = False) -> Sequence[str]:
        """Make or renew the indices of a room of 100,000 photographs or more (``force``: of any), as ``add`` does."""
        return search.index(self._newest(), force)

    def versions(self) -> list[Version]:
        """All versions that there are, the oldest first."""
        found: list[dict[str, Any]] = self.table.dataset.versions()
        return [Version(v["version"], v["timestamp"], int(v["metadata"].get("total_rows", 0))) for v in found]

    def rollback(self, version: int) -> int:
        """Return to a version: the room becomes what it was then, as a new version, whose number is returned."""
        table = self._newest()
        old = Table(self.folder, version).dataset
        with table.lock():
            old.restore()
            adding.forget_marks(table.folder, version)
            return int(table.refresh().version)
