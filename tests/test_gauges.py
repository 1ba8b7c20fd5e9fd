"""Energy as devices measure it: counters that wrap, that cannot be read, that are there."""

import sys
from types import SimpleNamespace

import pytest
import torch

from photofound.train import gauges
from photofound.train.gauges import Gauges

CPU = torch.device("cpu")


@pytest.fixture
def rapl(tmp_path, monkeypatch):
    """Two packages; of the first, its memory, too, which is a part of it."""
    for name in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text("1000000")
        (tmp_path / name / "max_energy_range_uj").write_text("5000000")
    monkeypatch.setattr(gauges, "POWERCAP", tmp_path)
    monkeypatch.setattr(gauges, "EVERY", 0.0)
    return tmp_path


def test_packages_are_added_up_and_a_full_counter_begins_again(rapl):
    meter = Gauges(CPU)
    (rapl / "intel-rapl:0" / "energy_uj").write_text("4000000")
    (rapl / "intel-rapl:0:0" / "energy_uj").write_text("3000000")
    (rapl / "intel-rapl:1" / "energy_uj").write_text("500000")
    read = meter.read()
    assert meter.joules == pytest.approx(3 + 4.5) and read["watts"] > 0 and "gpu_load" not in read


def test_one_process_of_a_node_counts_the_processor(rapl):
    assert Gauges(CPU, counts_processor=False).read() == {}


def test_what_cannot_be_read_is_left_out(rapl):
    (rapl / "intel-rapl:1" / "energy_uj").unlink()
    meter = Gauges(CPU)
    assert meter.read() == {} and meter.joules is None


def test_a_gpu_counts_millijoules(monkeypatch):
    counted = iter([1000, 1000, 4500])
    fake = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(counted),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=75),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1-2"))
    meter = Gauges(torch.device("cuda"), counts_processor=False)
    read = meter.read()
    assert meter.joules == 3.5 and read["gpu_load"] == 0.75 and read["watts"] > 0


def test_a_gpu_without_nvml_is_no_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Gauges(torch.device("cuda"), counts_processor=False).read() == {}
