"""Files behind URLs: a network that fails at times, one that is gone, and the shards that are kept on this machine."""

from __future__ import annotations

import io
import itertools
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers import encoded, noise

from photofound import remote
from photofound.data import cache as cache_module
from photofound.data.cache import ShardCache
from photofound.data.sources import Source, open_source
from photofound.data.stream import Stream


class FlakyFile(io.BytesIO):
    """Breaks off every third time that it is read."""

    def __init__(self, content, store):
        super().__init__(content)
        self.store, self.size = store, len(content)

    def read(self, count=-1):
        self.store.fail("read")
        return super().read(min(count, 5000) if count > 0 else count)


class Flaky(MemoryFileSystem):
    """Object storage in memory, behind a network that fails: at every ``every``-th call, or always."""

    protocol = "flaky"
    store, pseudo_dirs = {}, [""]
    every, calls, opened = 3, 0, 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def ls(self, path, detail=True, **settings):
        self.fail("ls")
        return super().ls(path, detail, **settings)

    @classmethod
    def fail(cls, what):
        Flaky.calls += 1
        if cls.every and cls.calls % cls.every == 0:
            raise ConnectionResetError(f"{what}: connection reset by peer")

    def _open(self, path, mode="rb", **settings):
        if mode != "rb":
            return super()._open(path, mode, **settings)
        self.fail("open")
        Flaky.opened += path.endswith(".tar")
        with super()._open(path, "rb") as file:
            return FlakyFile(file.getvalue(), type(self))

    def info(self, path, **settings):
        self.fail("info")
        return super().info(path, **settings)


@pytest.fixture
def flaky(monkeypatch):
    """A network that fails at every third call. ``flaky.every = 1`` cuts it."""
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.every, Flaky.calls, Flaky.opened = 3, 0, 0
    yield Flaky
    Flaky.every = 0
    Flaky.store.clear()


def put(count, per_shard=4, folder="/shop"):
    """Numbered photographs in tars behind ``flaky://shop``."""
    store = fsspec.filesystem("flaky")
    every, Flaky.every = Flaky.every, 0
    for first in range(0, count, per_shard):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for i in range(first, first + per_shard):
                for name, content in (
                    (f"{i:03}.png", encoded(noise(16, 16))),
                    (f"{i:03}.json", json.dumps({"text": str(i)}).encode()),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        store.pipe(f"{folder}/{first:03}.tar", out.getvalue())
    Flaky.every = every
    return store


def words_of(opened, count):
    return [list(sample.prompt) for sample in itertools.islice(iter(opened), count)]


def stream(folder, **settings):
    given = {"workers": 0, "shuffle": 8, "interleave": 4, "prefetch": 2, "cache": folder} | settings
    return Stream([Source("flaky://shop")], 4, [(16, 16)], **given)


# ----------------------------------------------------------------------------------------------------------- attempts


def test_what_a_network_loses_is_asked_for_again(flaky):
    put(8)
    rows = list(open_source(Source("flaky://shop")))
    assert [json.loads(row["json"])["text"] for row in rows] == [str(i) for i in range(8)]
    assert flaky.calls > 12 and not any("damaged" in str(row) for row in rows)


def test_a_network_that_is_gone_ends_in_one_line(flaky, tmp_path):
    put(8)
    opened = stream(tmp_path)
    batches = iter(opened)
    next(batches)
    flaky.every = 1
    says = r"does not answer after 8 attempts in \d+ s \(.*reset.*\); check the network"
    with pytest.raises(ValueError, match=f"^data: 'flaky://shop' cannot be read on .*{says}") as error:
        list(batches)
    assert "\n" not in str(error.value)
    with pytest.raises(OSError, match=says):
        list(open_source(Source("flaky://shop/000.tar")))
    flaky.every = 0
    resumed = stream(tmp_path)
    resumed.load_state_dict(opened.state_dict())
    assert words_of(resumed, 3)


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("gone"), PermissionError("no"), ValueError("x"), type("E", (Exception,), {"status": 403})()],
)
def test_what_no_attempt_can_change_is_said_at_once(error):
    calls = []

    def call():
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        remote.retried("s3://x", call)
    assert len(calls) == 1


def test_a_web_server_that_fails_is_no_missing_file(monkeypatch):
    """fsspec says FileNotFoundError of every answer but 200."""
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    causes = [ConnectionResetError("reset"), ConnectionResetError("reset"), FileNotFoundError("404")]
    calls = iter(causes)

    def call():
        raise FileNotFoundError("https://x") from next(calls)

    with pytest.raises(FileNotFoundError):
        remote.retried("https://x", call)
    assert next(calls, None) is None


def test_pauses_grow_and_no_random_number_of_the_run_is_drawn(monkeypatch):
    import random

    pauses, before = [], random.getstate()
    monkeypatch.setattr(remote.time, "sleep", pauses.append)
    with pytest.raises(remote.Unreachable):
        remote.retried("s3://x", lambda: 1 / 0)
    assert random.getstate() == before and len(pauses) == 7
    assert all(0.25 * 2**i <= pause <= 0.75 * 2**i for i, pause in enumerate(pauses))


# -------------------------------------------------------------------------------------------------------------- cache


def test_a_cache_gives_what_the_urls_give_and_asks_for_each_shard_once(flaky, tmp_path):
    put(32)
    first = words_of(stream(tmp_path), 20)
    opened = flaky.opened
    assert words_of(stream(tmp_path), 20) == first and flaky.opened == opened  # all of it lies here
    assert words_of(stream(None, cache_bytes=0), 20) == first


def kept(folder):
    return [path for path in folder.iterdir() if path.is_file()]


def test_a_cache_keeps_to_its_bound_and_drops_what_was_used_longest_ago(flaky, tmp_path):
    store = put(40)
    flaky.every = 0
    size = store.size("/shop/000.tar")
    urls = [f"flaky://shop/{i:03}.tar" for i in range(0, 40, 4)]
    cache = ShardCache(tmp_path, int(3.5 * size), 1)
    for url in urls[:3]:
        cache.open(url).close()
        for path in kept(tmp_path):  # file systems are coarse: make the order plain
            os.utime(path, (path.stat().st_mtime - 100,) * 2)
    cache.open(urls[0]).close()  # used again
    opened = flaky.opened
    cache.open(urls[3]).close()
    assert len(kept(tmp_path)) == 3 and flaky.opened == opened + 1
    for url in (urls[0], urls[2], urls[3]):
        cache.open(url).close()
    assert flaky.opened == opened + 1
    cache.open(urls[1]).close()
    assert flaky.opened == opened + 2


def test_what_is_being_read_is_not_dropped(flaky, tmp_path, caplog):
    store = put(16)
    flaky.every = 0
    urls = [f"flaky://shop/{i:03}.tar" for i in range(0, 16, 4)]
    cache = ShardCache(tmp_path, int(2.5 * store.size("/shop/000.tar")), 1)
    with cache.open(urls[0]) as one, cache.open(urls[1]) as two, cache.open(urls[2]) as three:
        assert len(kept(tmp_path)) == 2 and "has no room" in caplog.text
        assert [file.read() for file in (one, two, three)] == [
            store.cat(url.removeprefix("flaky://")) for url in urls[:3]
        ]
    cache.open(urls[3]).close()
    assert len(kept(tmp_path)) == 2


def test_half_written_files_are_never_read(flaky, tmp_path, monkeypatch):
    store = put(4)
    flaky.every = 0
    url, cache = "flaky://shop/000.tar", ShardCache(tmp_path, 10**9, 1)
    cache.open(url).close()
    (path,) = kept(tmp_path)
    path.rename(path.with_name(path.name + ".part"))  # as a killed process leaves it
    os.truncate(path.with_name(path.name + ".part"), 100)
    with cache.open(url) as file:
        assert file.read() == store.cat("/shop/000.tar")
    path.unlink()
    monkeypatch.setattr(cache_module.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with cache.open(url) as file:
        assert file.read() == store.cat("/shop/000.tar")
    assert not kept(tmp_path)


def test_a_shard_that_has_changed_is_fetched_again(flaky, tmp_path):
    put(4)
    flaky.every = 0
    cache = ShardCache(tmp_path, 10**9, 1)
    cache.open("flaky://shop/000.tar").close()
    fsspec.filesystem("flaky").pipe("/shop/000.tar", b"another")
    assert cache.open("flaky://shop/000.tar").read() == b"another"


def test_processes_and_threads_share_a_cache(flaky, tmp_path):
    store = put(40)
    flaky.every = 0
    limit = 4 * store.size("/shop/000.tar")
    caches = [ShardCache(tmp_path, limit, 2) for _ in range(4)]
    urls = [f"flaky://shop/{i:03}.tar" for i in range(0, 40, 4)]
    most = []

    def work(number):
        for i in np.random.default_rng(number).permutation(len(urls)).tolist() * 3:
            with caches[number].open(urls[i]) as file:
                assert file.read() == store.cat(urls[i].removeprefix("flaky://"))
            most.append(sum(size for _, _, size in caches[number]._files()))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert max(most) <= limit


def test_a_stream_behind_a_flaky_network_resumes_exactly(flaky, tmp_path):
    put(24)
    whole = stream(tmp_path / "a", rank=1, world=2, seed=4)
    batches, states = [], []
    for sample in itertools.islice(iter(whole), 12):
        batches.append(list(sample.prompt))
        states.append(json.dumps(whole.state_dict()))
    for stop in (0, 4, 7):
        resumed = stream(tmp_path / "b", rank=1, world=2, seed=4)
        resumed.load_state_dict(json.loads(states[stop]))
        assert words_of(resumed, 11 - stop) == batches[stop + 1 :]
