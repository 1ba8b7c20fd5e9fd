"""The room's work on a local Ray: the same rows as in one process, whatever is killed; one line for what goes wrong."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import psutil
import pytest
from helpers import encoded, made_once, write_tar

from photofound import Room, cli
from photofound.data import nodes
from photofound.room import add, captions, dedup, own, scores, spread
from photofound.room.filters import Filter

pytestmark = pytest.mark.slow  # Ray takes seconds to start, and each of its workers some more to import torch


@pytest.fixture(scope="module")
def local_ray():
    """Ray with two cores, once for the module."""
    ray = pytest.importorskip("ray", reason="Ray is not installed; pip install 'photofound[cluster]' to test it")
    os.environ["RAY_USAGE_STATS_ENABLED"] = os.environ["RAY_worker_niceness"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def blurred(number: int) -> bytes:
    """A large file, which takes a while to decode."""
    import cv2

    small = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
    return encoded(cv2.resize(small, (1600, 1200), interpolation=cv2.INTER_CUBIC), "JPEG")


def write_shards(folder):
    """Six tars of nine photographs, of which two lie in another tar, too, and a damaged file."""
    for shard in range(6):
        numbers = [*range(7 * shard, 7 * shard + 8), 3]
        members = {f"{shard}-{i}.jpg": blurred(number) for i, number in enumerate(numbers)}
        write_tar(folder / f"photos-{shard}.tar", members | {f"{shard}-bad.jpg": b"\xff\xd8 no picture"})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return made_once(tmp_path_factory, "spread_shards", write_shards)


@pytest.fixture
def small_units(monkeypatch):
    """A unit for each of its tars."""
    monkeypatch.setattr(spread, "_LEAST_UNIT", 1)


@pytest.fixture(scope="module")
def embed(networks):
    return ["small", str(networks / "squeezenet.safetensors")]


@pytest.fixture(scope="module")
def here(tmp_path_factory, source, embed):
    """The room as one process makes it."""
    room = Room(tmp_path_factory.mktemp("here") / "room")
    room.add(source, embed=embed)
    return room


def rows(room: Room) -> list[dict]:
    """All of a room but the time when each photograph was added, by key."""
    table = Room(room.folder).table
    columns = [name for name in table.columns if name != "added"]
    return sorted((r for b in table.scan(columns, batch=8) for r in b.to_pylist()), key=lambda row: row["key"])


def number_of(name: str) -> int:
    """Which of the ``blurred`` photographs a file of ``write_shards`` is."""
    shard, place = map(int, re.search(r"\((\d)-(\d)\.jpg\)", name).groups())
    return 3 if place == 8 else 7 * shard + place


def assert_same(one: Room, other: Room) -> None:
    """Of a photograph that lies in several tars, the one that was read first gives the name."""
    for a, b in zip(rows(one), rows(other), strict=True):
        assert number_of(a.pop("name")) == number_of(b.pop("name"))
        vectors = [name for name in a if name.startswith("embedding_")]  # batches of other sizes: the last bits differ
        for name in vectors:
            np.testing.assert_allclose(a.pop(name), b.pop(name), atol=1e-5)
        assert a == b


@contextmanager
def killing(title: str) -> Iterator[list[int]]:
    """Within the block the first process of Ray with such a title is killed, as soon as there is one; its number."""
    killed: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.01):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if (process.cmdline() or [""])[0].startswith(f"ray::{title}"):
                        stop.wait(0.1)
                        process.kill()
                        killed.append(process.pid)
                        return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


def test_killed_workers_lose_nothing_and_double_nothing(local_ray, small_units, tmp_path, source, embed, here):
    """One that reads and decodes, and one that has a network loaded."""
    room = Room(tmp_path / "room")
    lines: list[str] = []
    with killing("_add_unit") as reader, killing("Host") as network:
        pace = nodes.Pace(nodes.connect(), price=2.0, show=lines.append, every=0)
        added = room.add(source, embed=embed, cluster=pace)
    assert reader and network
    assert_same(room, here)
    assert (added.added, added.known, added.left_out) == (43, 11, {"damaged": 6})
    assert len((room.folder / "damaged.log").read_text().splitlines()) == 6
    assert "1 node, 2 cores" in lines[0] and " left; $" in lines[0] and pace.line.startswith("100% done, 60 photo")
    assert room.add(source, cluster="").parts_before == 6, "nothing is read again"


DRIVER = """
import os, signal, sys
from photofound import Room
from photofound.room import add, spread
spread._COMMIT = 0
spread._LEAST_UNIT = 1
commit, made = add.Writer.commit, []
def counted(self, written):
    if len(made) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    made.append(commit(self, written))
add.Writer.commit = counted
Room(sys.argv[1]).add(sys.argv[2], embed=["small"], cluster=sys.argv[3])
"""


def test_a_killed_call_goes_on(local_ray, small_units, tmp_path, source, here):
    room = Room(tmp_path / "room")
    killed = subprocess.run([sys.executable, "-c", DRIVER, room.folder, source, local_ray], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert 0 < len(room) < 43
    assert room.add(source, cluster="").parts_before == 2
    assert [row["key"] for row in rows(room)] == [row["key"] for row in rows(here)]


@dataclass(frozen=True)
class Loaded(Filter):
    """A filter that is no measure, as those with networks are."""

    def scores(self, samples):
        return np.array([sample.pixels.mean() for sample in samples], np.float32)


@pytest.fixture
def copy(tmp_path, source):
    """A room of its own for each test, in several fragments."""
    room = Room(tmp_path / "copy")
    for shard in sorted(source.glob("*.tar"))[:3]:
        room.add(shard, embed=[])
    return room


def test_filters_give_the_same_scores(local_ray, copy):
    found = copy.filter("resolution", "sharpness=0.2", cluster="")
    values = [(row["score_resolution"], row["score_sharpness"], row["kept"]) for row in rows(copy)]
    assert found.computed == len(copy) == 22
    copy.table.drop_columns(["score_resolution", "score_sharpness"])
    copy.filter("resolution", "sharpness=0.2")
    assert [(row["score_resolution"], row["score_sharpness"], row["kept"]) for row in rows(copy)] == values
    assert copy.filter(cluster="").computed == 0

    scorer = scores.Scorer([Loaded("loaded", "1", 0.5, ">=", "")])
    assert spread.score(copy.table, scorer, "width > 0", nodes.Pace(nodes.connect())) == 22
    assert copy.table.count("score_loaded > 0") == 22


def test_a_filter_of_yours_travels_with_its_code(local_ray, copy, monkeypatch, tmp_path):
    text = (
        "from photofound.room.filters import Measure\nimport numpy as np\nHALF = 0.5\n"
        "FILTER = Measure('wide', '1', 1.0, '>=', '', '', lambda sample: HALF + np.float32(sample.size[0]))\n"
    )
    (tmp_path / "wide.py").write_text(text)
    monkeypatch.setenv("PHOTOFOUND_FILTERS", str(tmp_path))
    own._finders.cache_clear()
    assert copy.filter("wide", cluster="").computed == 22 == copy.table.count("score_wide = 1600.5")
    own._finders.cache_clear()


def test_embeddings_are_the_same(local_ray, copy, here):
    assert copy.embed("small", cluster="") == 22
    there = {row["key"]: row["embedding_small"] for row in rows(here)}
    assert all(row["embedding_small"] == there[row["key"]] for row in rows(copy))


class Says:
    """A captioner that needs a moment, and names the size of what it sees."""

    name, batch, instructed, away = "says", 2, True, False

    def __call__(self):
        return self

    def captions(self, pictures, prompt, most):
        time.sleep(0.05)
        return [f"{prompt} {picture.shape} {int(picture.sum())}" for picture in pictures]


class Fails(Says):
    """One that gives up at a picture that is alone."""

    def captions(self, pictures, prompt, most):
        if len(pictures) == 1:
            raise RuntimeError("it does not answer")
        return super().captions(pictures, prompt, most)


def test_captions_are_the_same_and_killed_workers_lose_and_double_none(local_ray, copy, monkeypatch):
    monkeypatch.setattr(spread, "_PART", 3)
    pace = nodes.Pace(nodes.connect())
    with killing("_part_unit") as killed:
        made = spread.caption(copy.table, Says(), pace, kinds=["short"], prompts={"short": "of"})
    assert killed
    assert made.made == {"short": 22} and made.none == 0 and pace.rows == 22 == pace.done
    found = rows(copy)
    copy.table.drop_columns(["caption_short_by", "caption_short_prompt"])
    again = captions.caption(copy.table, Says(), ["short"], {"short": "of"}, replace=True)
    assert again.made == {"short": 22} and rows(copy) == found


def test_captions_made_before_a_captioner_fails_stay(local_ray, copy):
    """Of fragments of 8, 7 and 7 photographs; and of one, what a task has made so far."""
    with pytest.raises(ValueError, match="2 of 3 parts failed .*, the first was fragment .: it does not answer; what"):
        spread.caption(copy.table, Fails(), nodes.Pace(nodes.connect()), kinds=["dense"])
    assert copy.table.count("caption_dense is not null") == 8

    def compute(batch):
        if len(batch) < 3:
            raise ValueError("too few")
        return {"caption_short": ["a"] * len(batch)}

    table = copy.table
    made, error = spread._part_unit(
        str(table.folder), table.dataset.version, 0, ["caption_short"], compute, [], "true", 3
    )
    assert len(made) == 6 and str(error) == "too few"


class Bright:
    """A segmenter with a network, as far as a room can tell."""

    def load(self):
        return bright


def bright(picture):
    return picture[..., 0] > 0.5


def test_mattes_are_the_same_in_tasks_and_in_actors(local_ray, copy):
    before = copy.table.dataset.version
    assert copy.matte(bright, "bright", cluster="") == (22, 0)
    in_tasks = rows(copy)
    copy.rollback(before)
    assert copy.matte(Bright(), "bright", cluster="") == (22, 0) and rows(copy) == in_tasks
    copy.rollback(before)
    assert copy.matte(Bright(), "bright") == (22, 0) and rows(copy) == in_tasks


def test_a_function_of_yours_travels_with_its_code(local_ray, copy, monkeypatch, capsys, tmp_path):
    (tmp_path / "mine.py").write_text("def find(picture):\n    return picture[..., 0] > 300\n")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["room", "matte", str(copy.folder), "--segmenter", "mine:find", "--cluster"]) == 0
    assert "0 mattes by mine:find; nothing was found in 22" in capsys.readouterr().out


def test_what_another_process_changes_meanwhile_is_worked_on_again(local_ray, copy, monkeypatch):
    put, calls = spread._put, []

    def late(table, again, found):
        if not calls:
            calls.append(len(found))
            with table.lock() as dataset:
                dataset.delete(f"key = '{rows(copy)[0]['key']}'")
        put(table, again, found)

    monkeypatch.setattr(spread, "_put", late)
    copy.filter("resolution", cluster="")
    assert len(copy) == copy.table.count("score_resolution = 1200") == 21


def test_duplicates_are_the_same(local_ray, tmp_path, monkeypatch):
    """Hashes in many buckets, vectors in many cells: the same pairs, as few as join the same photographs."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**63, 400, dtype=np.uint64)
    bits = np.concatenate([bits, bits ^ np.uint64(5), np.zeros(100, np.uint64)])
    vectors = rng.normal(size=(500, 16))
    vectors = np.concatenate([vectors, vectors + 0.01]) / np.linalg.norm(vectors)
    monkeypatch.setattr(spread, "_BUCKET", 100)
    for name, value in (("_EXACT", 100), ("_TOGETHER", 100)):
        monkeypatch.setattr(dedup, name, value)
    colours = np.zeros((len(bits), 48), np.uint8)
    bits.tofile(tmp_path / "one")
    colours.tofile(tmp_path / "other")

    class Rows:
        folder, count = tmp_path, len(bits)

    Rows.bits, Rows.colours = bits, colours
    on_nodes = spread.OnNodes(nodes.Pace(nodes.connect()))
    groups = [group.tolist() for group in dedup.duplicates.groups(900, dedup.Here().pairs_by_hash(Rows, 3))]
    assert [group.tolist() for group in dedup.duplicates.groups(900, on_nodes.pairs_by_hash(Rows, 3))] == groups
    assert len(groups) == 401

    Rows.vectors, Rows.count = (vectors * 20).astype(np.float16), 1000
    Rows.vectors.tofile(tmp_path / "one")
    pairs = list(dedup.Here().pairs_by_vector(Rows, 0.95))
    groups = [group.tolist() for group in dedup.duplicates.groups(1000, pairs)]
    found = dedup.duplicates.groups(1000, on_nodes.pairs_by_vector(Rows, 0.95))
    assert [group.tolist() for group in found] == groups and len(groups) > 10


def test_dedup_fills_the_same_column(local_ray, copy, capsys):
    assert cli.main(["room", "dedup", str(copy.folder), "--near", "20", "--cluster", "--price", "1.5"]) == 0
    printed = capsys.readouterr()
    assert "22 photographs compared" in printed.out and "at $1.5 for a node hour (--price)" in printed.err
    assert "cluster: the Ray that this process is connected to, 1 node, 2 cores" in printed.err
    doubles = [row["duplicate_of"] for row in rows(copy)]
    copy.dedup(near=20)
    assert [row["duplicate_of"] for row in rows(copy)] == doubles and None not in doubles


# ------------------------------------------------------------------------------------------------------------ mistakes


def test_what_fails_there_is_said_in_one_line(local_ray, tmp_path, source, monkeypatch):
    monkeypatch.setattr(nodes, "TRIES", 0)
    has = nodes.connect()
    ((_, found),) = nodes.results(os._exit, [(1,)], has)
    assert str(found) == "its worker died 1 times (out of memory, or a file that ends its decoder)"
    found = dict(nodes.results(int, [("1",), ("x",)], has))
    assert found[0] == 1 and str(found[1]) == "invalid literal for int() with base 10: 'x'"
    failed = spread._Failures("room", 20)
    failed.note("a tar", ValueError("no good\nat all"))
    with pytest.raises(
        ValueError, match="1 of 20 parts failed on the cluster, the first was a tar: no good; what was done stays"
    ):
        failed.end()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cluster", "127.0.0.1:9"], "nothing answers at 127.0.0.1:9"),
        (["--cluster", "somewhere"], "'somewhere' is no address; give HOST:PORT"),
        (["--price", "3"], "--price: is of a cluster's node; add --cluster"),
    ],
)
def test_a_wrong_address_is_one_line(tmp_path, source, options, said, monkeypatch, capsys):
    ray = pytest.importorskip("ray", reason="Ray is not installed; pip install 'photofound[cluster]' to test it")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert cli.main(["room", "add", str(tmp_path / "room"), str(source), *options]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1 and not (tmp_path / "room").exists()


def test_without_an_address_it_is_the_cluster_of_this_machine_or_none(monkeypatch):
    """What 'ray start' has noted, while it answers; never what another program has started for itself."""
    services = pytest.importorskip("ray._private.services", reason="Ray is not installed; photofound[cluster]")
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: {"127.0.0.1:1"})
    with socket.create_server(("127.0.0.1", 0)) as server:
        noted = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(services, "find_bootstrap_address", lambda folder: noted)
        assert nodes._own_address() == noted
    assert nodes._own_address() == "local", "it has ended without 'ray stop'"
    monkeypatch.setattr(services, "find_bootstrap_address", lambda folder: None)
    assert nodes._own_address() == "local"


def test_without_ray_its_absence_names_the_line(tmp_path, source, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["room", "add", str(tmp_path / "room"), str(source), "--cluster"]) == 2
    assert "pip install 'photofound[cluster]'" in capsys.readouterr().err


def test_a_call_killed_between_adding_and_taking_back_is_mended(tmp_path, source, monkeypatch):
    """Two processes have written the same photographs; the second is killed before it has deleted its own again."""
    room = Room(tmp_path / "room")
    shard = source / "photos-0.tar"
    room.add(shard, embed=[])
    writers = [add.Writer(room.table, [], add.Options(reread=True), lambda count: None) for _ in range(2)]
    other = sorted(source.glob("*.tar"))[1]
    written = [
        spread._add_unit(str(room.folder), source_of(other), writer.unread(source_of(other)), writer.options,
                         writer.known.version, writer.known.beginnings, [], [], 0)[0]
        for writer in writers
    ]  # fmt: skip
    writers[0].commit(written[0])
    with monkeypatch.context() as patch:
        patch.setattr(add.Writer, "_take_back", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            writers[1].commit(written[1])
    keys = [row["key"] for row in rows(room)]
    assert len(keys) > len(set(keys))
    room.add(shard)
    keys = [row["key"] for row in rows(room)]
    assert len(keys) == len(set(keys)) == 15
    assert room.add(shard, reread=True).known == 9


def source_of(path):
    from photofound.data.sources import Source

    return Source(str(path))
