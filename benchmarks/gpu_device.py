"""What ``benchmarks/gpu.py`` measures with: seconds, power, memory and MFU of calls on one device, and the networks'
sizes.

Seconds are the median of calls between CUDA events, after warming up; on a CPU by the clock. MFU is the model's FLOPs
(forward counted by ``torch.utils.flop_counter``, a training step three times as many, recomputed activations once) over
time and peak: that of a large matrix product in the same run, and the data sheet's for dense bf16. GiB are those that
torch allocated at most ("at rest": between two steps). Watts are the GPU's own energy counter over the timed calls.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from photofound import config
from photofound.device import device_name
from photofound.model.cost import forward_cost
from photofound.model.transformer import EditTransformer
from photofound.training.pretrain import Config

CONFIGS = Path(__file__).resolve().parent.parent / "training" / "configs"
TASKS = ("generate", "outpaint", "inpaint", "expand", "erase", "upscale")
SHEETS = {"H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "4090": 165}
"""Dense bf16 TFLOP/s of the data sheets, by a part of the device's name."""
HALF = torch.bfloat16


@dataclass(frozen=True)
class Sizes:
    """What is measured; pixels and batches of the parts."""

    matmul: int = 8192  # side of the matrices
    copy: int = 2**32  # bytes
    small: int = 512  # pixels
    large: int = 1024
    small_batch: int = 16  # as many tokens as in large_batch pictures of the large size
    large_batch: int = 4
    nano_batches: tuple[int, ...] = (512, 1024)
    nano_pixels: int = 128
    nano_photographs: int = 64
    edit: int = 512  # pixels of the embedded model's edits
    at_once: int = 8  # pictures in one call
    repeats: int = 5  # timed calls, at least
    seconds: float = 0.6  # ... and so many that they take as long, for the energy counter
    text_tokens: int = 256
    warm: int = 3  # calls at most before those that count


TOY = Sizes(128, 2**16, 64, 128, 2, 1, (4,), 64, 8, 64, 2, 1, 0.0, 16, warm=1)


@dataclass(frozen=True)
class Shape:
    """The networks: the transformer's arguments, the text encoder's, the autoencoder's channels."""

    transformer: dict[str, Any]
    text: dict[str, int]
    vae: tuple[int, ...]
    factor: int


def shape_1b() -> Shape:
    """1.2 billion parameters, an encoder of 2.6 billion, and the autoencoder with 16 channels."""
    model = config.load(Config, CONFIGS / "1b-latent-1024.yaml").model
    assert model.latent is not None
    channels, factor = model.latent
    names = ("hidden_size", "depth", "num_heads", "mlp_ratio", "patch_size", "condition_space")
    transformer = {name: getattr(model, name) for name in names}
    transformer |= {"in_channels": channels, "condition_channels": channels + factor**2, "tasks": TASKS}
    text = {"vocab_size": 256_000, "hidden_size": model.text_width, "intermediate_size": 9216, "head_dim": 256}
    text |= {"num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4}
    return Shape(transformer | {"context_in_dim": model.text_width}, text, (128, 256, 512, 512), factor)


def shape_toy() -> Shape:
    """The same networks, tiny."""
    sizes = {"hidden_size": 128, "depth": 5, "num_heads": 2, "mlp_ratio": 2.0, "context_in_dim": 32}
    text = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 32, "head_dim": 16}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    return Shape(shape_1b().transformer | sizes, text, (8, 8, 8, 8), 8)


# --------------------------------------------------------------------------------------------------- one measured run


@dataclass
class GPU:
    """The device, what is measured on it, and what has been measured."""

    device: torch.device
    toy: bool
    path: Path
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sizes, self.shape = (TOY, shape_toy()) if self.toy else (Sizes(), shape_1b())
        self.cuda = self.device.type == "cuda"

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Give the last row's memory and compiled code back."""
        gc.collect()
        torch._dynamo.reset()  # each row compiles for its own shapes
        if self.cuda:
            torch.cuda.empty_cache()

    def count_memory(self) -> None:
        """From here on: what a network takes while it is built does not count."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)

    def memory(self) -> dict[str, float]:
        """What was allocated at most, and is now."""
        if not self.cuda:
            return {}
        most, now = torch.cuda.max_memory_allocated(self.device), torch.cuda.memory_allocated(self.device)
        return {"peak GiB": most / 2**30, "at rest GiB": now / 2**30}

    def timed(self, call: Callable[[], object], warm: int = 3) -> dict[str, float]:
        """Median seconds of a call, those of the very first one, the GPU's power and how busy it was."""
        self.count_memory()
        start = time.perf_counter()
        call()
        self.wait()
        first = last = time.perf_counter() - start
        for _ in range(min(warm, self.sizes.warm) - 1):
            start = time.perf_counter()
            call()
            self.wait()
            last = time.perf_counter() - start
        repeats = max(self.sizes.repeats, min(200, int(self.sizes.seconds / last)))
        power: dict[str, float] = {}
        with self.power(power):
            seconds = self._by_events(call, repeats) if self.cuda else self._by_clock(call, repeats)
        return {"s": median(seconds), "first s": first, **power}

    def _by_events(self, call: Callable[[], object], repeats: int) -> list[float]:
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        marks[0].record()
        for mark in marks[1:]:
            call()
            mark.record()
        self.wait()
        return [a.elapsed_time(b) / 1000 for a, b in zip(marks, marks[1:], strict=False)]

    def _by_clock(self, call: Callable[[], object], repeats: int) -> list[float]:
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return seconds

    @cached_property
    def _nvml(self) -> Any | None:
        """nvidia-ml-py's module and this GPU, or None where there is none."""
        if not self.cuda:
            return None
        try:
            import pynvml

            pynvml.nvmlInit()
            uuid = f"GPU-{torch.cuda.get_device_properties(self.device).uuid}"
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except Exception:  # not installed, or a driver that does not tell
            return None
        return pynvml, handle

    @contextmanager
    def power(self, into: dict[str, float]) -> Iterator[None]:
        """Watts on average over the block, and the share of the last second in which the GPU computed."""
        if self._nvml is None:
            yield
            return
        nvml, handle = self._nvml
        start, before = time.perf_counter(), nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        yield
        joules = (nvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1000
        into["W"] = joules / (time.perf_counter() - start)
        with suppress(nvml.NVMLError):
            into["busy"] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100

    def rates(self, timed: dict[str, float], batch: int, flops: float, tokens: int) -> dict[str, float]:
        """Speed and MFU of a batch whose samples take ``flops`` and have ``tokens``; their memory."""
        per_s = batch / timed["s"]
        sheet = next((value * 1e12 for name, value in SHEETS.items() if name in device_name(self.device)), None)
        row = {"s": timed["s"], "tokens/s": tokens * per_s, "TFLOP/s": flops * per_s / 1e12}
        row["MFU"] = flops * per_s / self.top
        if sheet and self.cuda:
            row["MFU of the data sheet"] = flops * per_s / sheet
        return row | self.memory() | {name: value for name, value in timed.items() if name != "s"}

    @cached_property
    def top(self) -> float:
        """FLOP/s of a large matrix product: that of the file, or measured now."""
        rows = self.found.get("parts", {}).get("peak", {}).get("rows", {})
        known = rows.get("matrix product", {}).get("TFLOP/s")
        return 1e12 * (known or self.matmul()["TFLOP/s"])

    def matmul(self) -> dict[str, float]:
        """A product of large bf16 matrices."""
        side = self.sizes.matmul
        a, b = (torch.randn(side, side, device=self.device, dtype=HALF) for _ in range(2))
        timed = self.timed(lambda: a @ b)
        return {"TFLOP/s": 2 * side**3 / timed["s"] / 1e12, **timed}

    def cost(self, px: int) -> tuple[int, int]:
        """FLOPs and image tokens of one sample's forward pass."""
        side = px // self.shape.factor
        with torch.device("meta"):
            cost = forward_cost(EditTransformer(**self.shape.transformer), side, side, self.sizes.text_tokens)
        return cost.flops, cost.tokens

    def transformer(self, dtype: torch.dtype) -> EditTransformer:
        """With random weights, also where training starts from zeros: zeros cost less power, and run faster."""
        torch.manual_seed(0)
        with self.device:
            model = EditTransformer(**self.shape.transformer)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.std() == 0:
                    parameter.normal_(parameter.mean().item(), 0.02)
        nn.Module.to(model, dtype=dtype)  # diffusers' own `to` warns at any cast
        return model
