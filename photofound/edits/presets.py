"""Presets: what a marketplace asks of a picture, and the settings that give it. Each is a YAML file.

    title: My shop
    sources: [https://...]      # where the rules stand
    date: 2026-11-26            # when they were read
    make: {canvas: 1600x1600, padding: 5%, background: "#ffffff", shadow: soft, profile: srgb, format: jpg}
    rules: {formats: [JPEG], shortest: [1600, 10000], aspect: "1:1", background: "#ffffff", fill: [0.85, 1]}

``make`` holds inputs of the task ``packshot``, and ``profile`` and ``format`` of the file. ``rules`` is what
``photofound check`` holds a file to (``Rules``). A user's own are files or folders in the variable PHOTOFOUND_PRESETS,
separated like PATH, or named by their path.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from photofound.edits.background import colour_of
from photofound.edits.geometry import parse_pair
from photofound.edits.inputs import asks
from photofound.picture.formats import SUFFIXES

VARIABLE = "PHOTOFOUND_PRESETS"
SUFFIX = ".yaml"
_LARGEST_FILE = 100_000  # bytes
_FILE = ("profile", "format")  # of ``make``: about the file, not inputs of the task

Name = Annotated[Any, asks("preset", "a marketplace's rules: amazon-main, ebay, etsy, shopify, google-shopping, ...")]


@dataclass(frozen=True)
class Rules:
    """What a file is held to; what is None is free.

    Attributes:
        formats: Pillow's names of the formats that are taken.
        width, height, longest, shortest, sides: (least, most) in pixels; ``sides`` is both of them.
        aspect: width over height.
        megapixels: at most.
        bytes: of the file, at most.
        profile: ``srgb``: no other colour profile.
        transparent: False: no alpha channel with anything transparent.
        background: sRGB, 0..255, of all pixels along the frame.
        shadow: False: outside the subject there is nothing but the background.
        fill: (least, most): the longer side of the subject's box as a share of the picture's side.
    """

    formats: tuple[str, ...] | None = None
    width: tuple[float, float] | None = None
    height: tuple[float, float] | None = None
    longest: tuple[float, float] | None = None
    shortest: tuple[float, float] | None = None
    sides: tuple[float, float] | None = None
    aspect: float | None = None
    megapixels: float | None = None
    bytes: int | None = None
    profile: str | None = None
    transparent: bool | None = None
    background: tuple[int, int, int] | None = None
    shadow: bool | None = None
    fill: tuple[float, float] | None = None


@dataclass(frozen=True)
class Preset:
    """One preset: its name is its file's."""

    name: str
    title: str
    sources: tuple[str, ...]
    date: str
    make: Mapping[str, Any] = field(default_factory=dict)
    rules: Rules = Rules()

    @property
    def inputs(self) -> dict[str, Any]:
        """The inputs of ``packshot`` that it sets."""
        return {name: value for name, value in self.make.items() if name not in _FILE}

    @property
    def format(self) -> str | None:
        """Pillow's name of the format that a result gets where nobody names one."""
        return SUFFIXES["." + self.make["format"]] if "format" in self.make else None

    @property
    def to_srgb(self) -> bool:
        return self.make.get("profile") == "srgb"


def load(name: Any) -> Preset:
    """The preset of this name; a ``Path`` names a file. Raises ValueError that lists the known names."""
    if isinstance(name, Preset):
        return name
    if isinstance(name, Path):
        if not name.is_file():
            raise FileNotFoundError(f"preset: {name}: no such file; check the path")
        return _read(name)
    files = _files(os.environ.get(VARIABLE, ""))
    if name not in files:
        raise ValueError(f"preset: {name!r} is unknown; use {', '.join(files)}, or the path of a {SUFFIX} file")
    return _read(files[name])


def names() -> list[str]:
    """All presets that have a name."""
    return list(_files(os.environ.get(VARIABLE, "")))


def _files(own: str) -> dict[str, Path]:
    """Where presets lie, by name: the package's, then the user's, which replace those of the same name."""
    folders = [Path(__file__).parents[1] / "presets", *(Path(each) for each in own.split(os.pathsep) if each)]
    found = {}
    for place in folders:
        for path in sorted(place.glob(f"*{SUFFIX}")) if place.is_dir() else [place]:
            found[path.stem] = path
    return dict(sorted(found.items()))


def _read(path: Path) -> Preset:
    state = path.stat()
    return _parsed(path, state.st_mtime_ns, state.st_size)


@cache
def _parsed(path: Path, changed: int, size: int) -> Preset:
    """The preset in a file of this state. Raises ValueError for what is no preset."""
    import yaml

    if size > _LARGEST_FILE:
        raise ValueError(f"preset: {path}: has {size} bytes, which is no preset; it may have {_LARGEST_FILE}")
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"preset: {path}: is no YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise ValueError(f"preset: {path}: must hold title, sources, date, make and rules")
    known = ("title", "sources", "date", "make", "rules")
    _refuse_unknown(path, content, known, "the preset")
    make, rules = content.get("make") or {}, content.get("rules") or {}
    if not isinstance(make, dict) or not isinstance(rules, dict):
        raise ValueError(f"preset: {path}: make and rules must be lists of names and values")
    _refuse_unknown(path, rules, [each.name for each in dataclasses.fields(Rules)], "rules")
    if make.get("format") is not None and f".{make['format']}" not in SUFFIXES:
        raise ValueError(f"preset: {path}: cannot write {make['format']!r} files")
    date = content.get("date", "")
    return Preset(
        path.stem,
        str(content.get("title", path.stem)),
        tuple(map(str, content.get("sources") or ())),
        date.isoformat() if isinstance(date, datetime.date) else str(date),
        {name: str(value) if name == "canvas" else value for name, value in make.items()},
        Rules(**{name: _rule(path, name, value) for name, value in rules.items()}),
    )


def _refuse_unknown(path: Path, given: Mapping[str, Any], known: Any, where: str) -> None:
    if unknown := sorted(str(name) for name in given if name not in known):
        raise ValueError(f"preset: {path}: {where} has no {unknown[0]!r}; it may have {', '.join(known)}")


def _rule(path: Path, name: str, value: Any) -> Any:
    """A rule's value as ``Rules`` has it."""
    try:
        if name == "formats":
            return tuple(str(each).upper() for each in value)
        if name in ("width", "height", "longest", "shortest", "sides", "fill"):
            least, most = map(float, value)
            return least, most
        if name == "aspect" and not isinstance(value, str):
            raise ValueError(f"preset: {path}: aspect {value!r} is a number to YAML; write it in quotes, like '4:5'")
        if name == "aspect":
            across, down = parse_pair(value, ":/x", "aspect", "4:5")
            return across / down
        if name == "background":
            return colour_of(str(value))
        if name in ("transparent", "shadow"):
            return bool(value)
        if name == "profile":
            if value != "srgb":
                raise ValueError(value)
            return value
        return float(value)
    except (TypeError, ValueError) as error:
        if str(error).startswith("preset:"):
            raise
        raise ValueError(f"preset: {path}: {name} cannot be {value!r}") from None
