"""What several test files need: seeds, random pictures, files, pipelines, extra tasks."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(height: int, width: int, channels: int = 3, dtype=np.uint8, seed: int = 0) -> np.ndarray:
    """A picture of random pixels, (H, W, C), or (H, W) for one channel: equal pixels are no accident."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def encoded(array: np.ndarray, format: str = "PNG", **options) -> bytes:
    """The bytes of a picture file."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format, **options)
    return stream.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes | dict]) -> None:
    """A tar of the given files; a dict becomes JSON."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            raw = json.dumps(content).encode() if isinstance(content, dict) else content
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))


def load_pipeline(pipeline, folder: Path | None = None, **options):
    """The pipeline of a model folder, in float32 and without a progress bar; None: the embedded model."""
    pipe = pipeline.from_pretrained(folder, **{"torch_dtype": torch.float32, **options})
    pipe.set_progress_bar_config(disable=True)
    return pipe


@contextmanager
def extra_tasks(folder: Path, monkeypatch) -> Iterator[None]:
    """Looks for tasks in ``folder``, too, and forgets them afterwards."""
    from photofound.edits import task

    def forget() -> None:
        for cached in (task._finders, task.get_task):
            cached.cache_clear()

    with monkeypatch.context() as patch:
        patch.setenv(task.TASK_PATH, str(folder))
        forget()
        yield
    forget()
