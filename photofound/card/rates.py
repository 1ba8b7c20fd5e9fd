"""What devices cost, take and can do: prices and powers that are stated, peaks of data sheets, the grid's carbon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GRID, GRID_SOURCE = 473.0, "the world's mean of 2024, Ember"
"""Grams of CO2 equivalent that a kilowatt-hour stands for, by the Global Electricity Review 2025: 14.6 billion tonnes
of 2024, fuels' supply included. The IEA counts 445, of what power stations emit (Electricity 2025)."""

PEAK_TFLOPS: Mapping[str, float] = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "4090": 165,
    "3090": 71,
}
"""Part of a device's name -> dense bfloat16 TFLOP/s of its data sheet, the longer names first."""


@dataclass(frozen=True)
class Rates:
    """What a device costs and takes: part of the device's name -> number. The name "" stands for all devices.

    Attributes:
        price: for an hour of one device.
        watts: of one device while it computes.
        grid: grams of CO2 for a kilowatt-hour.
    """

    price: Mapping[str, float] = field(default_factory=dict)
    watts: Mapping[str, float] = field(default_factory=dict)
    currency: str = "$"
    grid: float = GRID


def rate_of(device: str, rates: Mapping[str, float]) -> float | None:
    """The rate whose name is a part of the device's name; otherwise the rate of "", or None."""
    named = (rate for name, rate in rates.items() if name and name.lower() in device.lower())
    return next(named, rates.get(""))


def carbon_text(joules: float | None, grid: float) -> str:
    """Kilograms of CO2 of this energy, or grams; "unknown" without it."""
    if joules is None:
        return "unknown"
    grams = joules / 3.6e6 * grid
    return f"{grams / 1000:.2g} kg" if grams >= 100 else f"{grams:.2g} g"
