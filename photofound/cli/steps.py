"""A recipe for a folder: a YAML list of edits, which every photograph goes through.

    - erase: {mask: logos/, grow: 8, optional: true}     # logos/ has a mask for some of the photographs
    - packshot: {preset: amazon-main}
    - upscale: {scale: 2}
    - formats: [jpg, webp]

What a step says is what the task asks for, and ``seed``, ``steps``, ``guidance`` and ``resample``. Files lie where the
recipe lies.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from photofound.cli.arguments import unknown
from photofound.cli.options import input_type, inputs_of, option, sampling_types

FORMATS = "formats"
_SAMPLING = ("seed", "steps", "guidance", "resample")
_LARGEST = 2**20  # bytes of a recipe
_MOST = 100  # steps


@dataclass(frozen=True)
class Step:
    """One edit.

    Attributes:
        task: its name.
        inputs: by the pipeline's names, as the command line reads them; files and folders as paths.
        sampling: seed, steps, guidance, resample, those that are given.
        optional: a photograph for which a folder holds no input is not edited here.
    """

    task: str
    inputs: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    optional: bool = False


@dataclass(frozen=True)
class Recipe:
    """The steps, and the formats of the results: name and quality. None = the photograph's own."""

    steps: tuple[Step, ...]
    formats: tuple[tuple[str | None, int | None], ...] = ((None, None),)


def read(path: Path, trusted: bool = False) -> Recipe:
    """A recipe from its file.

    Args:
        trusted: whether it may name functions of Python, which run when it does.

    Raises:
        ValueError, which names the step: a task or a key that does not exist (with the nearest one), a value that
            cannot be, an input that is missing. FileNotFoundError: a file that it names.
    """
    listed = _yaml(path)
    formats = Recipe.formats
    steps = []
    for number, entry in enumerate(listed, 1):
        name, given = _named(entry, f"{path}: step {number}")
        where = f"{path}: step {number}, {name}"
        if name == FORMATS:
            if number != len(listed):
                raise ValueError(f"{where}: must be the last one; move it to the end")
            formats = _formats(given, where)
        else:
            steps.append(_step(name, given, where, path.parent, trusted))
    if not steps:
        raise ValueError(f"{path}: holds no edit; write a list like '- upscale: {{scale: 2}}'")
    return Recipe(tuple(steps), formats)


def _yaml(path: Path) -> list[Any]:
    import yaml

    from photofound import files

    try:
        tree = yaml.safe_load(files.read(path, _LARGEST).decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is no text in UTF-8; name the YAML file of the recipe") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, list) or not 0 < len(tree) <= _MOST:
        raise ValueError(f"{path}: must be a list of 1 to {_MOST} edits, like '- upscale: {{scale: 2}}'")
    return tree


def _named(entry: Any, where: str) -> tuple[str, Any]:
    """The task of an entry and what is given to it: ``task``, or ``task: {key: value}``."""
    if isinstance(entry, str):
        return entry, {}
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ValueError(f"{where}: must be one task with its inputs, like 'upscale: {{scale: 2}}'")
    ((name, given),) = entry.items()
    return str(name), {} if given is None else given


def _formats(given: Any, where: str) -> tuple[tuple[str, int | None], ...]:
    """``png``, ``[png, jpg]`` or ``{jpg: 90, webp: 80}``: names, with a quality where one is given."""
    from photofound import image

    pairs = given.items() if isinstance(given, Mapping) else [(name, None) for name in _as_list(given)]
    found = []
    for name, quality in pairs:
        image.output_format(None, None, str(name))
        if quality is not None and not (isinstance(quality, int) and 1 <= quality <= 100):
            raise ValueError(f"{where}: {name}: quality is {quality!r}; it must be a whole number from 1 to 100")
        found.append((str(name), quality))
    if not found:
        raise ValueError(f"{where}: is empty; name formats like png, jpg, webp, avif, tif")
    return tuple(found)


def _step(name: str, given: Any, where: str, folder: Path, trusted: bool) -> Step:
    from photofound.edits.task import get_task, task_names

    if name not in task_names():
        raise ValueError(f"{where}: {unknown('task', name, [*task_names(), FORMATS])}")
    task = get_task(name)
    if not task.takes_picture:
        raise ValueError(f"{where}: takes no photograph, so it is no step of a recipe for photographs")
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: {given!r} is not what it takes; write its inputs as {{key: value}}")
    inputs = {option(each)[2:]: each for each in inputs_of(task)}
    found, sampling, optional = dict[str, Any](), dict[str, Any](), False
    for key, value in given.items():
        known = str(key).removesuffix("_image").replace("_", "-")
        if known in inputs:
            each = inputs[known]
            found[each.name] = _read(input_type(task, each), value, f"{where}: {key}", each.kind == "flag")
            if isinstance(found[each.name], Path):
                found[each.name] = _there(folder / found[each.name], f"{where}: {key}")
            elif each.kind == "segmenter" and not trusted:
                _check_segmenter(found[each.name], f"{where}: {key}")
        elif known in _SAMPLING and not (task.varies if known == "seed" else task.samples):
            raise ValueError(f"{where}: {key} changes nothing in {name}; leave it out")
        elif known in _SAMPLING:
            sampling[known] = _read(sampling_types()[known], value, f"{where}: {key}")
        elif known == "optional" and isinstance(value, bool):
            optional = value
        else:
            raise ValueError(f"{where}: {unknown('key', str(key), [*inputs, *_SAMPLING, 'optional'])}")
    if missing := [key for key, each in inputs.items() if each.required and each.name not in found]:
        raise ValueError(f"{where}: {missing[0]} is missing: {inputs[missing[0]].help}")
    return Step(name, found, sampling, optional)


def _read(parse: Any, value: Any, where: str, flag: bool = False) -> Any:
    """A value of YAML, read as if it had been typed."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, list) and all(isinstance(each, (str, int, float)) for each in value):
        text = ",".join(map(_typed, value))
    elif isinstance(value, (str, int, float)):
        text = _typed(value)
    else:
        raise ValueError(f"{where}: {value!r} is no value; write it as on the command line")
    if flag and not isinstance(value, bool):
        raise ValueError(f"{where}: {value!r} is not true or false")
    try:
        return parse(text)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{where}: {error}") from None


def _typed(value: str | int | float) -> str:
    whole = isinstance(value, float) and math.isfinite(value) and value == int(value)
    return str(int(value)) if whole else str(value)


def _there(path: Path, where: str) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{where}: {path}: no such file or folder; paths start where the recipe lies")
    return path


def _check_segmenter(name: str, where: str) -> None:
    """A recipe may be a stranger's; what it names must not run."""
    kind, colon, _ = name.partition(":")
    if colon and kind not in ("rembg", "nobg"):
        raise ValueError(f"{where}: {name!r} is a function, which runs when the recipe does; allow it with --trust")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
