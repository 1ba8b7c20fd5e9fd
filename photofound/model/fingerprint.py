"""Which model it is: a digest of the files that were loaded, for recipes."""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

_SUFFIXES = (".json", ".safetensors", ".txt", ".model")
_GRAPHS = (".onnx", ".data", ".xml", ".bin")  # of a model that was exported; elsewhere they are not loaded
_NOT_THE_MODEL = ("evaluation.json", "training.json", "validation.json", "runtime.json")  # what is said about it
_WHOLE = 2**30  # bytes: of larger files samples are read, so that a model of 24 GB does not cost half a minute
_SAMPLE, _EVERY = 2**16, 2**23


def of_pipeline(pipe: Any) -> dict[str, Any]:
    """A diffusers pipeline's ``name``, a folder's or an id of the Hub, and its ``sha256``: that of the folder which it
    was loaded from, or of its weights if these are no folder's. A LoRA beside them has its own, ``lora``."""
    origin, weights = pipe.config.get("_name_or_path"), dict[str, Any]()
    for name, part in sorted(vars(pipe).items()):  # not ``components``, which refuses pipelines of a loose making
        if hasattr(part, "state_dict") and hasattr(part, "parameters"):
            weights |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
    lora = {name: value for name, value in weights.items() if "lora_" in name}
    added = {"lora": of_weights(lora)} if lora else {}
    if origin and Path(origin).is_dir():
        return {"name": name_of(Path(origin)), "sha256": of_folder(Path(origin)), **added}
    return {"name": None, "sha256": of_weights({k: v for k, v in weights.items() if k not in lora}), **added}


def name_of(folder: Path) -> str:
    """What a model folder is called; of a snapshot in the Hub's cache the model's id."""
    folder = folder.resolve()
    cached = folder.parent.parent.name  # models--OWNER--NAME/snapshots/REVISION
    if cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/")
    return "photofound-nano" if folder == embedded().resolve() else folder.name


def embedded() -> Path:
    """The folder of the model that comes along; torch is not imported for it."""
    return Path(__file__).parents[1] / "weights" / "nano"


def of_folder(folder: Path) -> str:
    """SHA-256 over the names and contents of a model folder's configurations, tokenizers and weights, as 64 hexadecimal
    digits. Cards and records do not count.

    Of a file of more than 1 GiB its size and 64 KiB of every 8 MiB are read, which tells trainings apart, but is no
    proof against somebody who forges one. A file of the Hub's cache has its digest as its name.
    """
    suffixes = _SUFFIXES + _GRAPHS if (folder / "runtime.json").is_file() else _SUFFIXES
    files = sorted(path for path in folder.rglob("*") if path.suffix in suffixes and path.name not in _NOT_THE_MODEL)
    named = [(path.relative_to(folder).as_posix(), path) for path in files if path.is_file()]
    named = [(name, path) for name, path in named if not name.startswith("teacher/")]  # another model
    with ThreadPoolExecutor(4) as threads:
        digests = threads.map(_of_file, [path for _, path in named])
        lines = [f"{name} {digest}\n" for (name, _), digest in zip(named, digests, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def of_weights(tensors: dict[str, Any]) -> str:
    """SHA-256 of tensors by name: weights that are no folder's, such as those with a LoRA."""
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.dequantize() if type(tensor).__module__.startswith("torchao") else tensor
        found.update(plain.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _of_file(path: Path) -> str:
    blob = path.resolve().name if path.is_symlink() else ""
    if re.fullmatch("[0-9a-f]{64}", blob):
        return blob
    stat = path.stat()
    return _read(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _read(path: Path, size: int, changed: int) -> str:
    """The digest of a file, which is read again when it has changed."""
    with path.open("rb") as file:
        if size <= _WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        found = hashlib.sha256(f"{size}\n".encode())
        for start in range(0, size, _EVERY):
            file.seek(start)
            found.update(file.read(_SAMPLE))
        return found.hexdigest()
