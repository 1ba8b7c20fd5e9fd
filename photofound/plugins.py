"""Files of yours that extend photofound: tasks, filters of a room. Each is a module of its own; its name is the file's.

They are found in the folders of an environment variable, separated like PATH, and as entry points of packages.
Nothing is imported before it is asked for, and nothing of a model, a room or a request is ever looked for here.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType


def finders(kind: str) -> dict[str, Callable[[], ModuleType]]:
    """Names and how to import each: of a kind, ``tasks``, the entry points of the group ``photofound.tasks``, each
    naming a module, and the files in the folders of ``PHOTOFOUND_TASKS``, which come before them."""
    found: dict[str, Callable[[], ModuleType]] = {e.name: e.load for e in entry_points(group=f"photofound.{kind}")}
    for folder in filter(None, os.environ.get(f"PHOTOFOUND_{kind.upper()}", "").split(os.pathsep)):
        for path in sorted(Path(folder).glob("[!_]*.py")):
            found[path.stem] = partial(_from_file, kind.removesuffix("s"), path)
    return found


def _from_file(kind: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"photofound_{kind}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module
