"""Where to compute, and in which precision."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

import torch


def resolve_device(name: str, setting: str = "train.device") -> torch.device:
    """``auto`` is the GPU where there is one. Raises ValueError, which names the setting, for a device that is unknown
    or not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"{setting}: {name!r} is unknown; use auto, cpu or cuda") from None
    here = torch.accelerator.current_accelerator()
    found = torch.accelerator.device_count() if here is not None and here.type == device.type else 0
    if device.type != "cpu" and (device.index or 0) >= found:
        raise ValueError(f"{setting}: {name!r} is not here, torch sees {found} of them; use auto or cpu")
    return device


def fast_dtype(device: str | None = None) -> torch.dtype:
    """bfloat16 where ``device`` (None: the GPU, where there is one) computes in it: a GPU, or a CPU with AMX or
    AVX512-BF16. Else float32."""
    if torch.cuda.is_available() if device is None else torch.device(device).type == "cuda":
        return torch.bfloat16
    native = any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return torch.bfloat16 if native else torch.float32


def device_name(device: torch.device) -> str:
    """What it is called by its maker; of a CPU also how many threads compute on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = found[0] if found else platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)}"
