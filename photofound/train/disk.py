"""What a run writes to the disk, and whether there is room for it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from photofound.train import checkpoint
from photofound.train.distributed import Engine
from photofound.train.optim import Optimizers
from photofound.train.settings import TrainConfig


def checkpoint_bytes(module: nn.Module, average: Mapping[str, Tensor], optimizers: Optimizers) -> int:
    """The size of a checkpoint: weights, average and moments, whole and in fp32."""
    model = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    return model + 4 * sum(value.numel() for value in average.values()) + optimizers.moment_bytes()


def model_bytes(stage: Any) -> int:
    """The size of the exported model, with frozen weights and the other parts of a pipeline."""
    parts = getattr(getattr(stage, "pipeline", None), "components", {}).values()
    modules: Sequence[nn.Module] = [stage.module, *(part for part in parts if isinstance(part, nn.Module))]
    return sum({id(p): 4 * p.numel() for module in modules for p in module.parameters()}.values())


def check_room(run_dir: Path, config: TrainConfig, step: int, checkpoint_size: int, model: int, engine: Engine) -> None:
    """Raise ValueError where the disk has no room for the checkpoints of a run at ``step`` and its model, or where a
    file is in the place of a folder. Every process must call it."""
    folder, there = run_dir / "checkpoints", len(checkpoint.steps(run_dir / "checkpoints"))
    for name in ("checkpoints", "samples", "model", ""):
        if (path := run_dir / name).exists() and not path.is_dir():
            raise ValueError(f"--run-dir: {path} is a file, where a folder goes; remove it, or take another")
    saves = (config.steps - step) // config.save_every + 1
    need = checkpoint_size * max(0, min(config.keep + 1 - there, saves)) + model
    home = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    (free, *_) = engine.gather([shutil.disk_usage(home).free])
    if need > free:
        raise ValueError(
            f"--run-dir: {folder} needs {need / 2**30:.2f} GiB ({checkpoint_size / 2**30:.2f} a checkpoint, "
            f"{model / 2**30:.2f} the model), {free / 2**30:.2f} are free; make room, or lower train.keep"
        )
