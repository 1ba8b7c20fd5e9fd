"""The names of our pipelines in diffusers, which looks a folder's class up among its own.

``DiffusionPipeline.from_pretrained(folder)`` reads ``InpaintPipeline`` in ``model_index.json`` and asks the module
``diffusers`` for it. So that this works after ``import photofound``, that module is given names that it does not know
from ``photofound``. Nothing is imported before somebody asks: neither diffusers nor our pipelines.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def known_to_diffusers() -> None:
    """Let diffusers know our pipelines by name, now or when it is imported."""
    if "diffusers" in sys.modules:
        _lend(sys.modules["diffusers"])
    elif not any(isinstance(finder, _AfterDiffusers) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterDiffusers())


def _lend(module: ModuleType) -> None:
    """Let a module find in ``photofound`` the pipelines that it does not know."""
    former: Any = type(module)
    if former.__name__ == "_WithOurs":
        return

    class _WithOurs(former):  # the module keeps its own ways, such as diffusers' lazy imports
        def __getattr__(self, name: str) -> Any:
            own = getattr(super(), "__getattr__", None)
            try:
                if own is not None:
                    return own(name)
            except AttributeError:
                if not name.endswith("Pipeline"):
                    raise
            found = getattr(sys.modules.get("photofound"), name, None) if name.endswith("Pipeline") else None
            if found is None:
                raise AttributeError(f"module {self.__name__} has no attribute {name}")
            return found

    module.__class__ = _WithOurs


class _AfterDiffusers(MetaPathFinder):
    """Finds diffusers once, as anybody would, and sees to it after it was executed."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "diffusers":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Executing(spec.loader)
        return spec


class _Executing(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _lend(sys.modules[module.__name__])  # diffusers puts another module in its place

    def __getattr__(self, name: str) -> Any:  # get_data, is_package, ...: what readers of resources ask for
        return getattr(self._loader, name)
