"""Facts for a model's card: its components, and the hours, energy and cost of its training."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from photofound.card.rates import GRID, GRID_SOURCE, Rates, carbon_text, rate_of
from photofound.card.record import Origin, Session, Training
from photofound.model.folder import one_line, read_json

# ----------------------------------------------------------------------------------------------------------- components


@dataclass(frozen=True)
class Component:
    """One component of a pipeline, from its configuration and the headers of its weights."""

    name: str
    kind: str
    shape: str
    parameters: int
    dtype: str
    bytes: int


def components(folder: Path) -> list[Component]:
    """The components with weights of a folder in diffusers layout, and a student's teacher as one more."""
    index = read_json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    names = [name for name, entry in index.items() if isinstance(entry, list) and any(entry)]
    return [_component(folder / name) for name in (*names, "teacher") if any((folder / name).glob("*.safetensors"))]


def _component(folder: Path) -> Component:
    from safetensors import safe_open

    settings = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    parameters = 0
    dtypes: dict[str, None] = {}
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with one_line("model", file), safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                tensor = tensors.get_slice(name)
                parameters += math.prod(tensor.get_shape())
                dtypes[tensor.get_dtype()] = None
    kind = settings.get("_class_name") or ", ".join(settings.get("architectures") or ()) or "unknown"
    size = sum(file.stat().st_size for file in files)
    return Component(folder.name, kind, _shape(settings), parameters, ", ".join(dtypes), size)


_SHAPE = {
    "depth": "{} blocks", "hidden_size": "width {}", "num_heads": "{} heads", "patch_size": "patch {}",
    "in_channels": "{} channels in", "latent_channels": "{} latent channels", "num_layers": "{} layers",
    "d_model": "width {}", "condition_space": "condition in {}", "prediction_type": "predicts the {}",
    "tasks": "tasks: {}",
}  # fmt: skip


def _shape(settings: Mapping[str, Any]) -> str:
    """The settings that describe an architecture, as text."""
    values = {key: ", ".join(v) if isinstance(v, list) else v for key, v in settings.items() if key in _SHAPE}
    return "; ".join(text.format(values[key]) for key, text in _SHAPE.items() if values.get(key) is not None)


# ----------------------------------------------------------------------------------------------------------------- cost


def cost_cells(trainings: Sequence[Training], rates: Rates) -> tuple[str, str, str, str, str]:
    """Hours by the clock, hardware, energy, CO2 and cost of some trainings together, as text."""
    devices: Counter[str] = Counter()
    for training in trainings:
        devices.update(training.device_hours)
    hardware = "; ".join(f"{hours_text(hours)} of {device or 'unknown hardware'}" for device, hours in devices.items())
    energies, cost = [_joules(training, rates) for training in trainings], _total(devices, rates.price)
    energy = None if None in energies else sum(filter(None, energies))
    return (
        hours_text(sum(training.hours for training in trainings)),
        hardware,
        "unknown" if energy is None else f"{energy / 3.6e6:.2g} kWh",
        carbon_text(energy, rates.grid),
        "unknown" if cost is None else f"{rates.currency}{cost:,.2f}",
    )


def _joules(training: Training, rates: Rates) -> float | None:
    """A training's energy: what its devices measured, or hours times the power that was stated; None if unknown."""
    if training.joules is not None:
        return training.joules
    stated = _total(training.device_hours, rates.watts)
    return None if stated is None else 3600 * stated


def _total(devices: Mapping[str, float], rates: Mapping[str, float]) -> float | None:
    """The sum of hours times rate over all devices; None if a device has no rate."""
    found = [(hours, rate_of(device, rates)) for device, hours in devices.items()]
    return None if any(rate is None for _, rate in found) else sum(hours * rate for hours, rate in found if rate)


def rates_text(trainings: Sequence[Training], rates: Rates) -> str:
    """Sentences on what energy, CO2 and cost were computed from."""
    measured = [training.name for training in trainings if training.joules is not None]
    stated = [training for training in trainings if training.joules is None]
    parts = [f"{device}: {rates.currency}{price:g} an hour" for device, price in _rated(trainings, rates.price).items()]
    sentences = [f"Energy of {', '.join(measured)} was measured by the devices themselves."] if measured else []
    powers = [f"{device}: {watts:g} W" for device, watts in _rated(stated, rates.watts).items()]
    if stated and powers:
        which = "Energy" if not measured else f"That of {', '.join(training.name for training in stated)}"
        text = "; ".join(powers)
        sentences.append(f"{which} was not measured: it is hours times the power that was stated ({text}).")
    elif stated and not measured:
        sentences.append("Energy was not measured, and no power was stated to estimate it from.")
    if measured or powers:
        source = f" ({GRID_SOURCE})" if rates.grid == GRID else ""
        sentences.append(f"CO2 is at {rates.grid:g} g for a kilowatt-hour{source}.")
    if parts:
        sentences.append(f"The cost is hours times the price that was stated ({'; '.join(parts)}).")
    return " ".join(sentences)


def _rated(trainings: Iterable[Training], rates: Mapping[str, float]) -> dict[str, float]:
    """The devices of these trainings that have a rate, and it."""
    devices = dict.fromkeys(device for training in trainings for device in training.device_hours)
    found = {device or "unknown hardware": rate_of(device, rates) for device in devices}
    return {device: rate for device, rate in found.items() if rate is not None}


# ------------------------------------------------------------------------------------------------------ data, sessions


def with_unique_names(trainings: Iterable[Training]) -> list[Training]:
    """The same trainings, named apart: pretrain, pretrain 2, ..."""
    counts: Counter[str] = Counter()
    renamed = []
    for training in trainings:
        counts[training.name] += 1
        number = f" {counts[training.name]}" * (counts[training.name] > 1)
        renamed.append(replace(training, name=training.name + number))
    return renamed


def _stage(name: str) -> str:
    """The stage of a training that ``with_unique_names`` has named."""
    return re.sub(r" \d+$", "", name)


def users_of_origins(trainings: Iterable[Training]) -> dict[Origin, list[str]]:
    """origin of photographs -> names of the trainings that used it."""
    users: dict[Origin, list[str]] = {}
    for training in trainings:
        for origin in training.data:
            if training.name not in users.setdefault(origin, []):
                users[origin].append(training.name)
    return users


def names_text(names: Sequence[str], every: int) -> str:
    """Trainings' names in few words: ``pretrain, detail (5)``, or ``all`` where there are more than three."""
    if len(names) == every and every > 3:
        return "all"
    kinds = Counter(map(_stage, names))
    if len(names) <= 3:
        return ", ".join(names)
    return ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in kinds.items())


def main_settings(training: Training) -> str:
    """The settings that a reader asks for first; ``training.json`` has all of them."""
    given: Mapping[str, Any] = training.settings.get("train") or {}
    words = {"lr": "rate {}", "batch_size": "batch {}", "optimizer": "{}", "precision": "{}"}
    return ", ".join(text.format(given[key]) for key, text in words.items() if given.get(key) is not None) or "unknown"


def session_cells(session: Session) -> tuple[str, ...]:
    """A row of the table of sessions: begun, updates, time, devices, torch, changed settings."""
    devices = f"{session.count} x {session.device}" if session.device else "unknown"
    changed = ", ".join(f"`{name}` {change}" for name, change in session.changed.items()) or "-"
    time = hours_text(session.seconds / 3600)
    return session.date or "unknown", number_text(session.steps), time, devices, session.torch or "unknown", changed


# ------------------------------------------------------------------------------------------------------ numbers as text


def number_text(value: int | None) -> str:
    return "not counted" if value is None else f"{value:,}"


def count_text(parameters: int) -> str:
    for scale, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= scale:
            return f"{parameters / scale:.3g} {name}"
    return str(parameters)


def bytes_text(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def hours_text(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 10 else f"{hours:.2f} h" if hours >= 1 else f"{hours * 60:.1f} min"
