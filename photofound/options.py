"""The options of a training stage, read from the source of its dataclasses: name, type, default and comment.

Nothing is imported, so that ``photofound train STAGE --help`` answers at once. The comment behind a field is its help.
A field that a subclass gives another default keeps the comment of its base, unless it has one of its own.
"""

from __future__ import annotations

import ast
import json
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Option:
    """One field: its dotted name, its type and its default as a user writes them, and its help."""

    name: str
    type: str
    default: str
    help: str


@dataclass(frozen=True)
class Section:
    """The fields of one dataclass, the first sentence of its docstring, and the dotted names that it had once and still
    reads (``photofound.config``)."""

    about: str
    options: tuple[Option, ...]
    former: tuple[str, ...]


def sections(module: str, name: str) -> list[Section]:
    """The options of the dataclass ``name`` in ``module`` (dotted), its own and then those of its parts."""
    return list(_sections(_Source.of(module), name, ""))


def describe(module: str, name: str, hidden: Callable[[str], bool] = lambda name: False) -> str:
    """The same as text, at most 120 characters wide, without the ``hidden`` ones."""
    lines = ["settings, in the file of --config or as --NAME=VALUE (YAML):"]
    for section in sections(module, name):
        shown = [option for option in section.options if not hidden(option.name)]
        if not shown:
            continue
        lines += ["", textwrap.fill(section.about, 120)]
        for option in shown:
            lines.append(f"  {f'{option.name}={option.default}':<44} {option.type}")
            if option.help:
                lines += textwrap.wrap(option.help, 112, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


@dataclass(frozen=True)
class _Source:
    """A module's source: its classes, its constants, and where the names that it imports come from."""

    lines: list[str]
    classes: dict[str, ast.ClassDef]
    constants: dict[str, ast.expr]
    imported: dict[str, tuple[str, str]]  # name -> module, name in it

    @staticmethod
    @cache
    def of(module: str) -> _Source:
        spec = find_spec(module)
        assert spec is not None and spec.origin is not None, module
        text = Path(spec.origin).read_text(encoding="utf-8")
        body = ast.parse(text).body
        return _Source(
            text.splitlines(),
            {node.name: node for node in body if isinstance(node, ast.ClassDef)},
            {
                target.id: node.value
                for node in body
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name)
            },
            {
                alias.asname or alias.name: (node.module, alias.name)
                for node in body
                if isinstance(node, ast.ImportFrom) and node.module
                for alias in node.names
            },
        )

    def find(self, dotted: str) -> tuple[_Source, ast.ClassDef] | None:
        """The class that an expression like ``Config`` or ``settings.Config`` names; None for any other."""
        first, _, rest = dotted.partition(".")
        if not rest and first in self.classes:
            return self, self.classes[first]
        if first not in self.imported:
            return None
        module, name = self.imported[first]
        if not module.startswith("photofound"):
            return None
        return _Source.of(f"{module}.{name}").find(rest) if rest else _Source.of(module).find(name)

    def comment(self, node: ast.AST) -> str:
        """The comment behind a field."""
        assert isinstance(node, ast.AnnAssign) and node.end_lineno is not None
        return self.lines[node.end_lineno - 1][node.end_col_offset :].partition("#")[2].strip()

    def default(self, node: ast.expr) -> str:
        """A default as YAML; one that is not a plain value as Python source."""
        if isinstance(node, ast.Call) and node.keywords:  # field(default_factory=...)
            factory = node.keywords[0].value
            if isinstance(factory, ast.Lambda):
                return self.default(factory.body)
            return {"dict": "{}", "list": "[]", "tuple": "[]"}.get(ast.unparse(factory), "")
        if isinstance(node, ast.Name) and node.id in self.constants:
            return self.default(self.constants[node.id])
        try:
            value = ast.literal_eval(node)
        except ValueError:
            return ast.unparse(node)
        return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _fields(source: _Source, node: ast.ClassDef) -> dict[str, tuple[_Source, ast.AnnAssign, str]]:
    """The fields of a dataclass, those of its bases first: name -> where it stands, the field, its comment."""
    fields: dict[str, tuple[_Source, ast.AnnAssign, str]] = {}
    for base in node.bases:
        if found := source.find(ast.unparse(base)):
            fields |= _fields(*found)
    for each in node.body:
        if not isinstance(each, ast.AnnAssign) or "ClassVar" in ast.unparse(each.annotation):
            continue
        name = ast.unparse(each.target)
        inherited = fields[name][2] if name in fields else ""
        fields[name] = source, each, source.comment(each) or inherited
    return fields


def _former(source: _Source, node: ast.ClassDef, table: str) -> list[str]:
    """The keys of a class's ``RENAMED`` or ``RETIRED``: its own, another class's that it names, or its base's."""
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and ast.unparse(each.target) == table and each.value is not None:
            if isinstance(each.value, ast.Dict):
                return [ast.literal_eval(key) for key in each.value.keys if key is not None]
            owner = source.find(ast.unparse(each.value).removesuffix(f".{table}"))
            assert owner is not None, ast.unparse(each)
            return _former(*owner, table)
    bases = (found for base in node.bases if (found := source.find(ast.unparse(base))))
    return next((names for base in bases if (names := _former(*base, table))), [])


def _sections(source: _Source, name: str, prefix: str) -> Iterator[Section]:
    found = source.find(name)
    assert found is not None, name
    options, parts = [], []
    for field, (where, node, comment) in _fields(*found).items():
        annotation = ast.unparse(node.annotation)
        if where.find(annotation):
            parts.append(_sections(where, annotation, f"{prefix}{field}."))
        elif node.value is not None:
            options.append(Option(prefix + field, _type(annotation), where.default(node.value), comment))
    about = " ".join((ast.get_docstring(found[1]) or "").split()).partition(". ")[0]
    former = [prefix + old for table in ("RENAMED", "RETIRED") for old in _former(*found, table)]
    if options:
        yield Section(about.rstrip(".") + ":", tuple(options), tuple(former))
    for part in parts:
        yield from part


def _type(annotation: str) -> str:
    """A type as a user reads it: ``tuple[int, ...] | None`` is ``[int, ...] or null``."""
    kinds = [kind.strip() for kind in annotation.split(" | ")]
    return " or ".join("null" if kind == "None" else _plain(kind) for kind in kinds)


def _plain(kind: str) -> str:
    outer, _, inner = kind.partition("[")
    inner = inner.removesuffix("]")
    if outer == "tuple":
        return f"[{inner}]"
    if outer == "dict":
        return "{name: " + _plain(inner.partition(", ")[2]) + "}"
    return {"str": "text", "bool": "true or false", "float": "number", "int": "whole number"}.get(kind, kind)
