"""What a run's devices draw and do, as they measure it themselves: NVIDIA's GPUs by NVML, processors by RAPL."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")  # Linux's counters of Intel's and AMD's processors; mostly for root alone
EVERY = 1.0  # seconds between two readings: a reading of NVML takes about a millisecond


class Gauges:
    """Energy and load of one process's devices, from its start on.

    Args:
        device: what the process computes on.
        counts_processor: whether it counts the processor, too: one process of a node does.

    Attributes:
        joules: energy up to the last ``read``; None where nothing can be read, as in most containers without a GPU.
    """

    def __init__(self, device: torch.device, counts_processor: bool = True) -> None:
        self._gpu = _nvml(device) if device.type == "cuda" else None
        counters = _rapl(POWERCAP) if counts_processor else []
        if self._gpu is not None:
            counters.append(_Counter(lambda: _energy_of(self._gpu), 0.0))
        self._counters = counters
        self.joules: float | None = 0.0 if counters else None
        self._watts, self._load = 0.0, 0.0
        self._at = time.perf_counter()

    def read(self) -> dict[str, float]:
        """``watts``, the mean power since the last reading; of a GPU ``gpu_load``, the share of the time in which it
        computed, in [0, 1]. Empty where nothing can be read."""
        if self.joules is None:
            return {}
        now = time.perf_counter()
        if now - self._at >= EVERY or not self._watts:
            drawn = sum(counter.advance() for counter in self._counters)
            self.joules += drawn
            self._watts, self._at = drawn / max(now - self._at, 1e-6), now
            self._load = 0.0 if self._gpu is None else _load_of(self._gpu)
        return {"watts": self._watts} | ({} if self._gpu is None else {"gpu_load": self._load})


class _Counter:
    """A counter of joules that only grows, and begins again where it is full (``wraps_at``; 0: it never is)."""

    def __init__(self, read: Callable[[], float], wraps_at: float) -> None:
        self._read, self._wraps_at, self._last = read, wraps_at, read()

    def advance(self) -> float:
        """Joules since the last call."""
        now = self._read()
        grown, self._last = now - self._last, now
        return grown + self._wraps_at if grown < 0 else grown


def _rapl(folder: Path) -> list[_Counter]:
    """A counter for each processor package; its memory and cores are parts of it. Empty where they cannot be read."""
    found = []
    for package in sorted(folder.glob("*-rapl:[0-9]*")):
        if package.name.count(":") > 1:
            continue
        try:
            largest = _microjoules(package / "max_energy_range_uj")
            found.append(_Counter(partial(_microjoules, package / "energy_uj"), largest))
        except (OSError, ValueError):
            return []
    return found


def _microjoules(file: Path) -> float:
    return int(file.read_text()) / 1e6


def _nvml(device: torch.device) -> Any | None:
    """NVML's handle of a GPU; None without nvidia-ml-py, or where the driver does not count energy."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        return handle
    except Exception:  # ImportError, and NVML's own errors, which are its module's
        return None


def _energy_of(handle: Any) -> float:
    import pynvml

    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000


def _load_of(handle: Any) -> float:
    import pynvml

    return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
