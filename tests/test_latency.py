"""The latency benchmark on an untrained model: its parts add up, and leave everything as it was."""

import argparse
import importlib.util
import sys
from pathlib import Path

import pytest

from photofound.edits.task import get_task
from photofound.model import autoencoder
from photofound.pipeline import EditPipeline


@pytest.fixture(scope="module")
def latency():
    path = Path(__file__).parent.parent / "benchmarks" / "latency.py"
    spec = importlib.util.spec_from_file_location("latency", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["latency"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    yield module
    del sys.modules["latency"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["inpaint", "erase", "expand", "outpaint", "upscale"])
def test_every_task_is_measured_and_so_is_prx(latency, tiny, task):
    pipe, encode = tiny(EditPipeline), autoencoder.encode
    bench = latency.Bench(pipe, argparse.Namespace(device="cpu", repeats=1, steps=None))
    ours, prx = bench.run(task, 96, 64), bench.run(task, 96, 64, latency.PRXInPlace(pipe.transformer))
    for row in (ours, prx):
        assert 0 < sum(row[part] for part in latency.PARTS) <= row["seconds"]
        assert {part for part in latency.PARTS if row[part] == 0} == {"encode", "enlarge"}  # in pixels; no upscaler
        assert row["calls"] == ours["calls"] >= 1
    assert autoencoder.encode is encode and "prepare" not in vars(get_task(task))


def test_sizes_are_sides_or_pairs(latency):
    assert latency.size_of("512") == (512, 512) and latency.size_of("4000x3000") == (4000, 3000)
    assert latency.photograph(40, 30).size == (40, 30)


@pytest.mark.slow
def test_savings_are_measured_beside_the_plain_model(latency, tiny):
    pytest.importorskip("torchao")
    args = argparse.Namespace(device="cpu", repeats=1, steps=4, sizes=["96x64"], tasks=["inpaint"])
    _, _, plain, *others = latency.savings(args, lambda: tiny(EditPipeline))
    assert plain.split("|")[3:7] == [" plain ", " 1.00 ", " 1.00 ", " 1.00 "] and len(others) == 6
    assert [line.split("|")[3].strip() for line in others] == list(latency.SAVINGS)[1:]
