"""Checkpoints of a training run: atomic folders of safetensors and one JSON file. No pickle anywhere."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from photofound import files

_PREFIX = "step-"


def save(folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], keep: int = 2) -> Path:
    """Write ``folder/step-N`` in one rename, then delete all but this one and the newest others, ``keep`` in all.

    A run that is killed while saving leaves a ``.partial`` folder, which ``latest`` never sees and the next save
    removes. Earlier checkpoints are deleted when this one is on the disk, so there must be room for ``keep`` + 1.

    Raises OSError when it cannot be written (a full disk); what was there before stays.
    """
    if keep < 1:
        raise ValueError(f"checkpoint: keep is {keep}; it must be at least 1")
    clear_partial(folder)
    target = place(folder, step)
    try:
        with files.replacing(target) as partial:
            write(partial, tensors, {"step": step, "groups": sorted(tensors), **state})
    except Exception as error:
        raise unwritten(target, error) from None
    rotate(folder, step, keep)
    return target


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return folder / f"{_PREFIX}{step}"


def clear_partial(folder: Path) -> None:
    """Delete what a killed run left of a checkpoint."""
    for leftover in folder.glob(f"{_PREFIX}*.partial"):
        shutil.rmtree(leftover)


def rotate(folder: Path, step: int, keep: int) -> None:
    """Delete all checkpoints but that of ``step`` and the newest others, ``keep`` in all, and damaged ones."""
    for damaged in folder.glob(f"{_PREFIX}*.damaged"):
        _delete(damaged)
    others = [old for old in steps(folder) if old != step]  # this one stays, even if an earlier run got further
    for old in others[: max(0, len(others) - keep + 1)]:
        shutil.rmtree(folder / f"{_PREFIX}{old}", ignore_errors=True)


def unwritten(target: Path, error: object) -> OSError:
    """What to raise where a checkpoint cannot be written."""
    last = max(steps(target.parent), default=None)
    whole = "there is none before it" if last is None else f"step-{last} is whole"
    return OSError(f"checkpoint: {target} cannot be written ({error}); {whole}, make room and --resume latest")


def write(folder: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """All files of a checkpoint."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    for name, group in tensors.items():
        save_file(_separate(group), folder / f"{name}.safetensors")
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")


def _separate(group: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, none sharing memory: safetensors refuses tied weights, such as T5's embedding."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in group.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return separate


def steps(folder: Path) -> list[int]:
    """The steps with a whole checkpoint below ``folder``, oldest first. Its files are not read."""
    return [step for step in all_steps(folder) if (folder / f"{_PREFIX}{step}" / "state.json").is_file()]


def all_steps(folder: Path) -> list[int]:
    """The steps with a checkpoint below ``folder``, whole or not, oldest first."""
    names = (path.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*"))
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


class Damaged(ValueError):
    """A checkpoint that cannot be read as a whole."""

    def __init__(self, path: Path, reason: object) -> None:
        reason = " ".join(f"{type(reason).__name__}: {reason}".split())[:200]
        super().__init__(f"checkpoint: {path} is damaged ({reason}); resume from an earlier step")


def resolve(folder: Path, resume: str) -> list[Path]:
    """The checkpoints that ``resume`` names, the one to take first: all of them, the newest first, for ``latest`` (none
    when there is none yet, and damaged ones, too), else the one at a path."""
    if resume == "latest":
        return [folder / f"{_PREFIX}{step}" for step in reversed(all_steps(folder))]
    path = Path(resume)
    if not (path / "state.json").is_file():
        raise FileNotFoundError(f"resume: {path} is not a checkpoint (no state.json); pass 'latest' or a step-N folder")
    return [path]


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint to ``step-N.damaged``, which the next save deletes, so that it is not found again."""
    aside = path.with_name(f"{path.name}.damaged")
    _delete(aside)
    path.rename(aside)


def _delete(path: Path) -> None:
    """A folder or a file, which something else left in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def in_shards(path: Path) -> bool:
    """Whether ``photofound.train.shards`` wrote it. Raises Damaged."""
    return "shards" in load_state(path)


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read what ``save`` wrote. Raises Damaged, a ValueError, for a damaged or missing file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state = load_state(path)
    try:
        names = state.get("groups") or sorted(file.stem for file in path.glob("*.safetensors"))
        groups = {name: load_file(path / f"{name}.safetensors") for name in file_names(names)}
        check_finite(groups)
        return groups, state
    except (SafetensorError, ValueError, AttributeError, TypeError, KeyError, OSError) as error:
        raise Damaged(path, error) from None


def load_state(path: Path) -> dict[str, Any]:
    """A checkpoint's ``state.json``. Raises Damaged."""
    try:
        state: dict[str, Any] = files.read_json(path / "state.json")
        if type(state["step"]) is not int:
            raise ValueError("its state.json has no step")
        return state
    except (ValueError, KeyError, OSError) as error:
        raise Damaged(path, error) from None


def file_names(names: Any) -> list[str]:
    """A list of names that stay within their folder. Raises ValueError."""
    if not isinstance(names, list) or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ValueError("its groups are no names of files")
    return names


def check_finite(groups: dict[str, dict[str, Tensor]]) -> None:
    """Raises ValueError for values that are no numbers."""
    for name, group in groups.items():
        for key, tensor in group.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise ValueError(f"{key} of its {name} has values that are no numbers, NaN or infinite")
