"""Configurations: frozen dataclasses, read from YAML or JSON, overridden by ``--a.b=value`` on the command line.

A stage declares its options as a tree of frozen dataclasses; a file says only what differs from the defaults.
There are no class paths in strings and no registry: the type annotations are the schema, and every unknown key or wrong
type is an error that names the key and the closest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import json
import math
import reprlib
import sys
import types
import typing
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from photofound import files
from photofound.errors import one_line

T = TypeVar("T")


def load(cls: type[T], path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()) -> T:
    """Build ``cls`` from a file and ``--a.b=value`` overrides.

    Args:
        cls: a frozen dataclass whose fields are plain values, tuples or further dataclasses.
        path: a ``.yaml``, ``.yml`` or ``.json`` file; None uses the defaults alone.
        overrides: strings like ``--train.minutes=5`` (the leading dashes are optional). Values are read as YAML.

    A value of the file that does nothing beside what an override switches on falls back to its default, with a warning.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown key, wrong type, a malformed override, or a setting that does nothing (a class may say
            which, in ``refuse_idle``); the message names the key and the remedy.
    """
    tree = read(Path(path)) if path is not None else {}
    given = []
    for override in overrides:
        keys, value = _parse_override(override)
        given.append(".".join(keys))
        _seed_mapping(cls, tree, keys)
        _assign(tree, keys, value)
    built = build(cls, tree)
    if hasattr(built, "replaced") and (idle := [each for each in built.replaced(given) if not _below(each[0], given)]):
        for name, value, instead in idle:
            _remove(tree, name.split("."))
            usual = functools.reduce(getattr, name.split("."), cls())
            idle_value = f"config: {name}: {reprlib.repr(value)} of the file does nothing beside {instead}"
            warnings.warn(f"{idle_value}; it is left at {usual!r}", stacklevel=2)
        built = build(cls, tree)
    if hasattr(built, "refuse_idle"):
        built.refuse_idle(leaves(tree))
    return built


def _below(name: str, given: Sequence[str]) -> bool:
    """Whether a setting, or an entry of it, is among those that are given."""
    return any(f"{each}.".startswith(f"{name}.") for each in given)


def _remove(tree: dict[str, Any], keys: list[str]) -> None:
    for key in keys[:-1]:
        tree = tree[key]
    del tree[keys[-1]]


def build(cls: type[T], tree: dict[str, Any], where: str = "") -> T:
    """Build the dataclass ``cls`` from a nested dict; ``where`` is the dotted path used in error messages."""
    tree = _up_to_date(cls, tree, where)
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in tree:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise ValueError(f"config: unknown key {where + str(key)!r}; {hint}")
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        if f.name not in tree and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ValueError(f"config: {where + f.name!r} is missing and has no default; set it")
    return cls(**{key: _coerce(hints[key], value, where + key) for key, value in tree.items()})


def _up_to_date(cls: type, tree: dict[str, Any], where: str) -> dict[str, Any]:
    """The tree without keys of earlier versions, which old files have.

    A key in ``cls.RENAMED`` (old -> new) gets its new name, with a warning. A key in ``cls.RETIRED`` (key -> the value
    that is built in now) is left out where it has that value.
    """
    renamed = {old: new for old, new in getattr(cls, "RENAMED", {}).items() if old in tree}
    for old, new in renamed.items():
        if new in tree:
            raise ValueError(f"config: {where + old!r} is the old name of {where + new!r}; give one of them")
        warnings.warn(f"config: {where + old} is now called {where + new}", stacklevel=2)
    retired = {key: value for key, value in getattr(cls, "RETIRED", {}).items() if key in tree}
    for key, value in retired.items():
        if tree[key] != value:
            raise ValueError(f"config: {where + key!r} is no longer an option, its value is {value}; leave it out")
    return {renamed.get(key, key): value for key, value in tree.items() if key not in retired}


def to_dict(config: Any) -> dict[str, Any]:
    """The nested dict of a configuration, ready for JSON or YAML (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def save(config: Any, path: str | Path) -> None:
    """Write a configuration as YAML; ``load`` reads it back equal."""
    import yaml

    Path(path).write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")


_LARGEST = 2**20  # bytes of a file
_MOST_NODES = 20_000  # keys and values, each alias counted as what it stands for
_DEEPEST = 50


def parse_yaml(text: str) -> Any:
    """Plain values from YAML. Aliases may be used. The values that they expand to are bounded (20,000, 50 deep): ten
    lines could expand to ten billion.

    Raises ValueError for text that is not YAML, exceeds the bounds, or would build objects.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        count = depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.count, self.depth = self.count + 1, self.depth + 1
            _bound(self.count, self.depth)
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    try:
        loader = Loader(text)
        node = loader.get_single_node()
        _weigh(node, {}, 0)
        return None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(one_line(error)) from None


def _bound(count: int, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"its values are nested more than {_DEEPEST} deep")
    if count > _MOST_NODES:
        raise ValueError(f"it stands for more than {_MOST_NODES:,} values")


def _weigh(node: Any, known: dict[int, int], depth: int) -> int:
    """How many values a node stands for. Raises ValueError for too many, too deep, or one that holds itself."""
    _bound(0, depth)
    value = getattr(node, "value", None)
    if not isinstance(value, list):
        return 1
    if id(node) not in known:
        known[id(node)] = _MOST_NODES  # until it is known: what holds itself stands for too many
        parts = (part for each in value for part in (each if isinstance(each, tuple) else (each,)))
        known[id(node)] = 1 + sum(_weigh(part, known, depth + 1) for part in parts)
    _bound(known[id(node)], depth)
    return known[id(node)]


def read(path: Path) -> dict[str, Any]:
    """The nested dict in a YAML or JSON file. Raises FileNotFoundError and ValueError."""
    if not path.exists():
        raise FileNotFoundError(f"config: {path} does not exist; pass a .yaml or .json file")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file, but a pipe or a device"
        raise ValueError(f"config: {path} is {kind}; pass a .yaml or .json file")
    try:
        text = files.read(path, _LARGEST).decode("utf-8")
        tree = json.loads(text) if path.suffix == ".json" else parse_yaml(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"config: {path} cannot be read: {one_line(error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ValueError(f"config: {path} holds a {type(tree).__name__}; it must be a mapping of names to values")
    return tree


def leaves(tree: dict[str, Any], where: str = "") -> list[str]:
    """The dotted names of the values in a nested dict."""
    names = []
    for key, value in tree.items():
        names += leaves(value, f"{where}{key}.") if isinstance(value, dict) and value else [f"{where}{key}"]
    return names


def function(name: str) -> Callable[..., Any]:
    """The function that ``module:function`` names; modules of the current folder count. Raises ValueError when there is
    none."""
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name!r} is no module:function that can be imported ({error}); check the name") from None
    return found


def _parse_override(text: str) -> tuple[list[str], Any]:
    name, equals, value = text.lstrip("-").partition("=")
    if not equals or not name:
        raise ValueError(f"config: {text!r} is not an override; write --a.b=value")
    try:
        return name.replace("-", "_").split("."), parse_yaml(value)
    except ValueError:
        raise ValueError(f"config: the value in {text[:200]!r} is not valid YAML; quote it") from None


def _seed_mapping(cls: type, tree: dict[str, Any], keys: list[str]) -> None:
    """Where ``keys`` leads below a mapping that the file leaves out, put its default there: an override of one entry
    keeps the others."""
    for key in keys[:-1]:
        field = next((f for f in dataclasses.fields(cls) if f.name == key), None)
        hint = typing.get_type_hints(cls).get(key)
        if field and typing.get_origin(hint) is dict and field.default_factory is not dataclasses.MISSING:
            tree.setdefault(key, dict(field.default_factory()))
        if not isinstance(hint, type) or not dataclasses.is_dataclass(hint) or not isinstance(tree.get(key, {}), dict):
            return
        cls, tree = hint, tree.setdefault(key, {})


def _assign(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ValueError(f"config: {'.'.join(keys)!r} goes below {key!r}, which holds a plain value")
    tree[keys[-1]] = value


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """Check ``value`` against a type hint; ints become floats, lists become tuples, dicts become dataclasses."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ValueError(f"config: {where!r} is a section; give it keys, not {reprlib.repr(value)}")
        return build(typing.cast(type, hint), value, where + ".")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(next(a for a in args if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"config: {where!r} takes a list like [a, b], not {reprlib.repr(value)}")
        return tuple(_coerce(args[0], v, where) for v in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"config: {where!r} takes a mapping like {{a: 1}}, not {reprlib.repr(value)}")
        return {k: _coerce(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if hint is float and isinstance(value, str):  # YAML reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"config: {where!r} is not a number; give one")
    if hint is Any or type(value) is hint:
        return value
    raise ValueError(f"config: {where!r} takes a {getattr(hint, '__name__', hint)}, not {reprlib.repr(value)}")
