"""The built pages: `make docs` builds them into build/site and runs this. A reader finds what a reader looks for."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import photofound

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "site"
REFERENCE = ROOT / "docs" / "reference"
ALIASES = ("image", "provenance", "edit", "geometry", "sources", "stream", "cluster", "transformer", "detail",
           "superresolution")  # fmt: skip


@cache
def anchors() -> frozenset[str]:
    """Every place of the reference that a link can lead to."""
    pages = (SITE / "reference").rglob("index.html")
    return frozenset(each for page in pages for each in re.findall(r'\bid="(photofound\.[\w.]+)"', page.read_text()))


@cache
def found(word: str) -> frozenset[str]:
    """The pages that the search's index has for a word."""
    index = json.loads((SITE / "search" / "search_index.json").read_text())
    texts = ((entry["location"].partition("#")[0], f"{entry['title']} {entry['text']}") for entry in index["docs"])
    return frozenset(page for page, text in texts if re.search(rf"\b{word}\b", text, re.IGNORECASE))


@pytest.mark.parametrize(
    "word, page",
    [("docker", "docker/"), ("podman", "docker/"), ("compose", "docker/"), ("mps", "gpu/"), ("rocm", "gpu/"),
     ("cuda", "gpu/"), ("offload", "gpu/"), ("windows", "windows/"), ("powershell", "windows/"), ("wsl", "windows/"),
     ("pipx", "install/"), ("uvx", "install/"), ("whl/cpu", "install/"), ("max-pixels", "reference/commands/"),
     ("healthz", "reference/http/"), ("weight_decay", "reference/settings/"), ("openai", "clients/")],
)  # fmt: skip
def test_search_finds_it(word, page):
    assert page in found(word)


def documented_modules() -> list[str]:
    """Modules that a page of the reference shows whole."""
    texts = "\n".join(page.read_text() for page in REFERENCE.glob("*.md"))
    return [name for name in re.findall(r"^::: (\S+)", texts, re.M) if not name.rpartition(".")[2][0].isupper()]


def public_names(module: str) -> list[str]:
    """Classes and functions that a module defines for others."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    if not path.is_file():  # a function, by its own name
        return []
    nodes = ast.parse(path.read_text()).body
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.name for node in nodes if isinstance(node, kinds) and not node.name.startswith("_")]


@pytest.mark.parametrize("module", sorted(set(documented_modules())))
def test_every_public_name_of_a_documented_module_has_its_place(module):
    assert not [name for name in public_names(module) if f"{module}.{name}" not in anchors()]


def test_every_name_of_the_package_is_in_the_reference():
    told = (REFERENCE / "package.md").read_text()
    assert not [name for name in photofound.__all__ if f"`{name}`" not in told]


@pytest.mark.parametrize("alias", ALIASES)
def test_names_that_others_import_lead_to_a_page(alias):
    """``photofound.image.load`` is ``photofound.picture.picture.load``, which has its place."""
    module = import_module(f"photofound.{alias}")
    known = {*documented_modules(), f"photofound.{alias}"}
    names = getattr(module, "__all__", None) or [
        name for name, each in vars(module).items() if name[0] != "_" and getattr(each, "__module__", "") in known
    ]
    ends = {each.rpartition(".")[2] for each in anchors()}
    assert not [name for name in names if not name.isupper() and name not in ends]
