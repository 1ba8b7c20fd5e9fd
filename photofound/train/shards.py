"""Checkpoints in shards: each process writes its own part of them, while training goes on.

``torch.distributed.checkpoint`` copies the tensors to main memory when it is asked to, writes them in a thread, and
reads into any other layout. Files are safetensors: each process's holds the parts that it wrote, and its header says
where they lie in the whole tensors. No file is pickled. As soon as all processes have written, the first one adds
``state.json`` and gives the folder its name: no reader sees it before.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_into
from torch.distributed.checkpoint.state_dict_saver import async_save

from photofound import files
from photofound.train import checkpoint
from photofound.train.distributed import local

Like = Callable[[str, str], Tensor | None]
"""Of a group and a tensor's name: a tensor that has the layout to read it in; None: whole, on the CPU."""

_BETWEEN = "/"  # group and name


class Background:
    """The sharded checkpoints of a run, one at a time. All processes call every method, in the same order.

    Args:
        folder: where they go, on a disk that all processes share.
        keep: how many stay.
        timeout: minutes after which processes that wait for another one give up.
    """

    def __init__(self, folder: Path, keep: int, timeout: float) -> None:
        self.folder, self.keep = folder, keep
        self.several = dist.is_initialized() and dist.get_world_size() > 1
        # A group of its own: what is said in it is said by another thread, whenever the disk is ready.
        self._group = dist.new_group(backend="gloo", timeout=timedelta(minutes=timeout)) if self.several else None
        self._writing: Any = None
        self._target = folder

    def save(
        self, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], done: Callable[[], None]
    ) -> None:
        """Begin to write ``folder/step-N``. What the tensors hold now is written, whatever happens to them afterwards.

        ``done`` is called by the first process when the checkpoint is there. Raises OSError where the one before could
        not be written.
        """
        self.wait()
        self._target = checkpoint.place(self.folder, step)
        partial = self._target.with_name(f"{self._target.name}.partial")
        if not self.several or dist.get_rank() == 0:
            checkpoint.clear_partial(self.folder)
            partial.mkdir(parents=True)

        def finish(names: list[str]) -> None:
            content = json.dumps({"step": step, "groups": sorted(tensors), "shards": names, **state})
            (partial / "state.json").write_text(content, encoding="utf-8")
            files.put(partial, self._target)
            checkpoint.rotate(self.folder, step, self.keep)
            done()

        flat = {f"{group}{_BETWEEN}{name}": value for group, part in tensors.items() for name, value in part.items()}
        if self.several:
            dist.barrier(group=self._group)
        _quiet()
        self._writing = async_save(
            _separate(flat),
            storage_writer=_Writer(partial, finish),
            process_group=self._group,
            no_dist=not self.several,
        )

    def wait(self) -> None:
        """Wait until what was begun is on the disk. Raises OSError where it could not be written."""
        writing, self._writing = self._writing, None
        error = writing.exception() if writing is not None else None
        if error is not None:
            raise checkpoint.unwritten(self._target, _reason(error))


class _Writer(HuggingFaceStorageWriter):
    """Writes safetensors; ``then``, in the first process, gets the names of all files when they are on the disk."""

    def __init__(self, folder: Path, then: Callable[[list[str]], None]) -> None:
        super().__init__(str(folder), save_distributed=True)
        self.folder, self.then = folder, then

    def finish(self, metadata: Any, results: Any) -> None:
        names = sorted({result.storage_data.relative_path for part in results for result in part})
        if missing := [name for name in names if not (self.folder / name).is_file()]:
            raise OSError(f"{missing[0]} is not there; all processes must write to one disk that they share")
        self.then(names)


def load(path: Path, like: Like = lambda group, name: None) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read what ``Background`` wrote: each process the parts that it needs.

    Tensors that ``like`` has as sharded ones come in its layout, on its device; all others whole, on the CPU. Raises
    Damaged for what cannot be read.
    """
    state = checkpoint.load_state(path)
    try:
        names = checkpoint.file_names(state["shards"])
        if odd := set(names) ^ {file.name for file in path.glob("*.safetensors")}:
            raise ValueError(f"{min(odd)} is missing, or is not one of its shards")
        reader = HuggingFaceStorageReader(str(path))
        found = {name: _empty(name, saved, like) for name, saved in reader.read_metadata().state_dict_metadata.items()}
        _quiet()
        load_into(found, storage_reader=reader, no_dist=True)
        groups: dict[str, dict[str, Tensor]] = {name: {} for name in checkpoint.file_names(state["groups"])}
        for name, value in found.items():
            group, _, key = name.partition(_BETWEEN)
            groups[group][key] = value
        checkpoint.check_finite({group: {k: local(v) for k, v in part.items()} for group, part in groups.items()})
        return groups, state
    except CheckpointException as error:
        raise checkpoint.Damaged(path, _reason(error)) from None
    except Exception as error:  # the reader raises nearly anything for a damaged header
        raise checkpoint.Damaged(path, error) from None


def unshard(path: Path, target: Path | None = None) -> Path:
    """Write a checkpoint of shards as a whole one, in its place or as ``target``, in one rename.

    Raises ValueError for one that is whole or damaged, and where ``target`` exists; OSError where there is no room.
    """
    if target is not None and target.exists():
        raise ValueError(f"checkpoint: {target} exists already; name a new folder")
    if not checkpoint.in_shards(path):
        raise ValueError(f"checkpoint: {path} is whole already; resume from it as it is")
    groups, state = load(path)
    del state["shards"]
    target = target or path
    with files.replacing(target) as partial:
        checkpoint.write(partial, groups, state)
    return target


def _empty(name: str, saved: Any, like: Like) -> Tensor:
    """A tensor to read into. Raises ValueError where parts of the saved one are missing."""
    if sum(chunk.sizes.numel() for chunk in saved.chunks) != saved.size.numel():
        raise ValueError(f"parts of {name} are missing")
    group, _, key = name.partition(_BETWEEN)
    wanted = like(group, key)
    if wanted is not None and hasattr(wanted, "placements") and wanted.shape == saved.size:
        return torch.empty_like(wanted, dtype=saved.properties.dtype, requires_grad=False)
    return torch.empty(saved.size, dtype=saved.properties.dtype)


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, none sharing memory and all contiguous, as safetensors wants them."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        memory = local(tensor).untyped_storage().data_ptr()
        if not hasattr(tensor, "placements"):
            tensor = tensor.clone() if memory in seen else tensor.contiguous()
        separate[name] = tensor
        seen.add(memory)
    return separate


def _reason(error: BaseException) -> str:
    """What went wrong, in one line: of several processes the first one that failed."""
    failures = getattr(error, "failures", None)
    if failures:
        error = min(failures.items())[1][0]
    return f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error)


def _quiet() -> None:
    """Without the library's warning that one process saves or loads alone. For good: it saves in another thread."""
    warnings.filterwarnings("ignore", "torch.distributed is (disabled|unavailable)")
