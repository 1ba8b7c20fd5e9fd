"""Checkpoints of a training run: atomic folders of safetensors and one JSON file. No pickle anywhere."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

_PREFIX = "step-"


def save(folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], keep: int = 2) -> Path:
    """Write ``folder/step-N`` in one rename, then delete all but the newest ``keep``.

    A run that is killed while saving leaves a ``.partial`` folder, which ``latest`` never sees and the next save removes.
    """
    from safetensors.torch import save_file

    target, partial = folder / f"{_PREFIX}{step}", folder / f"{_PREFIX}{step}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, group in tensors.items():
        save_file({k: v.detach().cpu().contiguous() for k, v in group.items()}, partial / f"{name}.safetensors")
    (partial / "state.json").write_text(json.dumps({"step": step, **state}))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    for old in steps(folder)[:-keep]:
        shutil.rmtree(folder / f"{_PREFIX}{old}", ignore_errors=True)
    return target


def steps(folder: Path) -> list[int]:
    """The steps with a whole checkpoint below ``folder``, oldest first."""
    names = (p.name.removeprefix(_PREFIX) for p in folder.glob(f"{_PREFIX}*") if (p / "state.json").is_file())
    return sorted(int(name) for name in names if name.isdigit())


def resolve(folder: Path, resume: str) -> Path | None:
    """The checkpoint that ``resume`` names: ``latest`` (None when there is none yet) or a path."""
    if resume == "latest":
        found = steps(folder)
        return folder / f"{_PREFIX}{found[-1]}" if found else None
    path = Path(resume)
    if not (path / "state.json").is_file():
        raise FileNotFoundError(f"resume: {path} is not a checkpoint (no state.json); pass 'latest' or a step-N folder")
    return path


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read what ``save`` wrote. Raises ValueError for a damaged file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
        return tensors, json.loads((path / "state.json").read_text())
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"checkpoint: {path} is damaged ({error}); resume from an earlier step") from None
