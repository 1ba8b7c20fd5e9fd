"""What GPU hours cost: money, energy, carbon, and 1,000 edits. Each assumption has a default with its source, and an
option of ``photofound cost`` and of the dry run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from photofound.card.rates import GRID, GRID_SOURCE, PEAK_TFLOPS


@dataclass(frozen=True)
class Device:
    """A GPU by its data sheet: dense bfloat16 TFLOP/s, watts, GB of memory; and dollars an hour, with their source."""

    tflops: float
    watts: float
    memory: int
    price: float | None = None
    priced: str = ""


# mercatus-ai.com/blog/cloud-gpu-pricing, May 2026: H100 2.50 to 3.50, A100 1.10 to 1.50; hyperscalers ask 1.5 times as
# much. An H200 is 3.50 to 4.50 there; what a report of a whole training says that it paid is half of that.
_CLOUDS = "the middle of specialised clouds on demand, May 2026"
DEVICES = {
    "H200": Device(PEAK_TFLOPS["H200"], 700, 141, 1.95, "PRX: 24 hours of 32 for $1,500"),
    "H100": Device(PEAK_TFLOPS["H100"], 700, 80, 3.0, _CLOUDS),
    "A100": Device(PEAK_TFLOPS["A100"], 400, 80, 1.3, _CLOUDS),
    "L40S": Device(PEAK_TFLOPS["L40S"], 350, 48),
    "L4": Device(PEAK_TFLOPS["L4"], 72, 24),
    "4090": Device(PEAK_TFLOPS["4090"], 450, 24),
}

# Of the data sheet, training: 46 % of what a large product reaches. By the FLOPs of DiT's paper, fast-DiT's published
# 0.84 updates a second of 128 pictures on an A100 (README, DiT-XL/2, all activations computed twice) are .33.
MFU = 0.32
MFU_SOURCE = "measured on an H200 with 1.2 billion parameters, eager: docs/experiments.md"
LATE = (1.5, 2.2)
"""How many times as long a whole run on a cluster took as its FLOPs do at this speed: PRX's 24 hours, if each GPU did
all of Muon's work, or its share (docs/training.md)."""
PUE, PUE_SOURCE = 1.56, "mean of data centres, Uptime Institute 2024"  # its global survey; 1.58 in 2023, new ones 1.3
EDITS, EDITS_SOURCE = 2.1, "inpaint, 1024 px, 4 steps, 1.2 billion parameters on an H200: docs/experiments.md"


CPU = "this machine's CPU"


@dataclass(frozen=True)
class Budget:
    """The GPUs that an estimate is for; what is None has its default.

    Attributes:
        gpus: how many.
        gpu: a name in ``DEVICES``; None: the device that the dry run is on.
        price: of one, for an hour.
        tflops: what one sustains; in place of ``mfu``, the share of its data sheet.
        watts: what one takes.
        pue: what its data centre takes over what its machines do.
        grid: grams of CO2 for a kilowatt-hour.
        edits: results a second of one GPU.

    Raises ValueError for a value that is not above 0, and an unknown GPU.
    """

    gpus: int | None = None
    price: float | None = None
    tflops: float | None = None
    gpu: str | None = None
    mfu: float | None = None
    watts: float | None = None
    pue: float | None = None
    grid: float | None = None
    edits: float | None = None

    def __post_init__(self) -> None:
        for name in ("gpus", "price", "tflops", "mfu", "watts", "pue", "grid", "edits"):
            if (value := getattr(self, name)) is not None and not value > 0:
                option = "edits-per-second" if name == "edits" else name
                raise ValueError(f"--{option}: {value} must be above 0")
        if self.gpu is not None and self.gpu not in DEVICES:
            raise ValueError(
                f"--gpu: {self.gpu!r} is unknown; use {', '.join(DEVICES)}, or give --tflops, --watts and --price"
            )
        if (self.mfu or 0) > 1:
            raise ValueError(f"--mfu: {self.mfu} must be a share from 0 to 1")
        if self.pue is not None and self.pue < 1:
            raise ValueError(f"--pue: {self.pue} must be 1 or more")

    @property
    def device(self) -> Device | None:
        return DEVICES[self.gpu] if self.gpu else None

    @property
    def sustained(self) -> float | None:
        """TFLOP/s that a GPU sustains; None: as fast as the device of the dry run."""
        return self.tflops or (self.device.tflops * (self.mfu or MFU) if self.device else None)

    def devices(self, on_cpu: bool) -> str:
        """What a run takes its time on, and how fast that is, for people. ``on_cpu``: no GPU is here."""
        if on_cpu and not any(value is not None for value in vars(self).values()):
            return CPU
        count = self.gpus or 1
        return f"{count:,} GPU{'s' * (count != 1)}, {self.speed}"

    @property
    def speed(self) -> str:
        """Where ``sustained`` is from."""
        if self.tflops or not self.device:
            return f"at {self.tflops:g} TFLOP/s each" if self.tflops else "each as fast as this device"
        source = "" if self.mfu else f" ({MFU_SOURCE})"
        share = f"{self.mfu or MFU:.0%} of the {self.gpu}'s {self.device.tflops:g}"
        return f"at {self.sustained:.0f} TFLOP/s each, {share}{source}"

    def lines(self, hours: float, parameters: float = 0.0) -> Iterator[str]:
        """What ``hours`` of all GPUs cost, and 1,000 edits of a model of so many parameters."""
        spent = hours * (self.gpus or 1)
        price = self.price or (self.device.price if self.device else None)
        watts = self.watts or (self.device.watts if self.device else None)
        if price:
            source = "" if self.price else f" ({self.device.priced})" if self.device else ""
            yield f"cost        {spent * price:,.2f} at {price:g} per GPU and hour{source}"
        else:
            yield "cost        say what a GPU costs per hour with --price"
        if watts:
            source = "" if self.watts else f" ({self.gpu}'s data sheet)"
            yield f"energy      {self._kwh(spent, watts):,.3g} kWh: {watts:g} W a GPU{source}, {self._said('pue')}"
            yield f"carbon      {self._kilograms(spent, watts):,.3g} kg of CO2 at {self._said('grid')}"
        elif price:
            yield "energy      say what a GPU takes with --watts"
        yield from self._edits(price, watts, parameters)

    def _edits(self, price: float | None, watts: float | None, parameters: float) -> Iterator[str]:
        measured = self.gpu == "H200" and 0.8e9 < parameters < 1.6e9
        if not self.edits and not measured:
            yield "edits       say how many a GPU makes in a second with --edits-per-second"
            return
        rate = self.edits or EDITS
        spent = 1000 / rate / 3600
        money = f", {spent * price:,.3g}" if price else ""
        energy = (
            f", {self._kwh(spent, watts):.2g} kWh, {1000 * self._kilograms(spent, watts):.3g} g of CO2" if watts else ""
        )
        source = "" if self.edits else f" ({EDITS_SOURCE})"
        yield f"edits       1,000 take {60 * spent:.3g} minutes of a GPU{money}{energy}: {rate:g} a second{source}"

    def _kwh(self, hours: float, watts: float) -> float:
        return hours * watts / 1000 * (self.pue or PUE)

    def _kilograms(self, hours: float, watts: float) -> float:
        return self._kwh(hours, watts) * (self.grid or GRID) / 1000

    def _said(self, name: str) -> str:
        value, usual, source = {"pue": (self.pue, PUE, PUE_SOURCE), "grid": (self.grid, GRID, GRID_SOURCE)}[name]
        text = f"a PUE of {value or usual:g}" if name == "pue" else f"{value or usual:g} g/kWh"
        return text if value else f"{text} ({source})"


def add_options(parser: argparse.ArgumentParser, note: str = "", gpu: str | None = None) -> None:
    """The options of a ``Budget``."""
    add = parser.add_argument
    add("--gpus", type=int, help=f"{note}estimate for so many GPUs")
    add("--gpu", default=gpu, metavar="NAME", help=f"{note}{', '.join(DEVICES)}: its speed, power and price")
    add("--price", type=float, help=f"{note}price of a GPU per hour")
    add("--tflops", type=float, help=f"{note}what a GPU sustains; else by --gpu and --mfu, or as fast as the one here")
    add("--mfu", type=float, help=f"{note}share of the data sheet's TFLOP/s that is reached; default {MFU}")
    add("--watts", type=float, help=f"{note}power of a GPU; default: its data sheet's")
    add("--pue", type=float, help=f"{note}what the data centre takes over what its machines do; default {PUE}")
    add("--grid", type=float, metavar="G", help=f"{note}grams of CO2 for a kilowatt-hour; default {GRID:g}")
    add("--edits-per-second", type=float, metavar="X", help=f"{note}results of one GPU, for the cost of 1,000")


def budget_of(args: argparse.Namespace) -> Budget:
    """The budget that options ask for. Raises ValueError."""
    same = {name: getattr(args, name) for name in ("gpus", "gpu", "price", "tflops", "mfu", "watts", "pue", "grid")}
    return Budget(**same, edits=args.edits_per_second)
