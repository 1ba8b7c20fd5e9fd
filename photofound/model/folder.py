"""Checks of pipeline folders and LoRA files from elsewhere, before anything in them is used.

Only JSON and the headers of safetensors are read here, within bounds. Models are built on torch's meta device, without
memory, to learn which weights they need.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from photofound import files
from photofound.errors import first_line

_TRUSTED = ("diffusers", "transformers", "photofound")
_OWN = ("photofound.transformer", "photofound.detail", "photofound.superresolution")
_MOST_LAYERS = 1000
_LAYERS = re.compile("depth|layers|blocks")  # names of numbers in a configuration that repeat something
_MOST_TIMES = 100_000  # training timesteps of a scheduler, which makes a table of them
_AGAIN = "download or copy the checkpoint again"


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds a diffusers pipeline that is not ours."""
    import diffusers

    try:
        name = files.read_json(folder / "model_index.json").get("_class_name")
    except (OSError, ValueError):
        return False
    cls = getattr(diffusers, name, None) if isinstance(name, str) and name.isidentifier() else None
    library = diffusers.DiffusionPipeline
    return isinstance(cls, type) and issubclass(cls, library) and cls.__module__.startswith("diffusers.")


def check_folder(folder: Path, without: Collection[str] = ()) -> None:
    """Raise an error of one line for a folder that cannot or must not be loaded. The components ``without`` are not
    checked, since they come from elsewhere.

    Raises FileNotFoundError for a missing folder; ValueError for missing or damaged shards, weights that are not
    safetensors, weights that the configuration does not have or that it has and are missing, and classes other than
    diffusers', transformers' and photofound's models, schedulers and tokenizers.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"model: {folder} is a file; pass the folder in diffusers layout that it belongs to")
    if not folder.is_dir():
        raise FileNotFoundError(
            f"model: {folder} does not exist; pass a folder in diffusers layout or a Hub id (owner/name)"
        )
    path = folder / "model_index.json"
    index = read_json(path)
    if not isinstance(index.get("_class_name"), str):
        raise ValueError(f"model: {path}: _class_name is {index.get('_class_name')!r}; it must name a pipeline")
    kinds = _kinds()
    there = set()
    for name, entry in index.items():
        own = name in kinds or (isinstance(entry, list) and not name.startswith("_") and (folder / name).is_dir())
        if own and name not in without and (cls := _class(folder, name, entry, kinds.get(name, ()))) is not None:
            check_part(folder / name, cls)
            there.add(name)
    there |= set(without)
    if missing := {"transformer", "scheduler"} - there:
        raise ValueError(f"model: {path} has no {missing.pop()}; {_AGAIN}")
    if len(lone := {"text_encoder", "tokenizer"} - there) == 1:
        raise ValueError(f"model: {path} has no {lone.pop()}, but its counterpart; {_AGAIN}")


@contextmanager
def loading_errors(source: Any) -> Iterator[None]:
    """Turn the errors of libraries about a folder into one ValueError. Errors that are not about the folder (no such
    id, no memory) pass."""
    try:
        yield
    except (OSError, MemoryError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"model: {source} cannot be loaded ({first_line(error)}); {_AGAIN}") from error


def check_part(folder: Path, cls: type) -> None:
    """Raise ValueError for a component's folder that ``cls`` cannot load."""
    from diffusers import SchedulerMixin

    if not folder.is_dir():
        raise ValueError(f"model: {folder} is missing; {_AGAIN}")
    if issubclass(cls, nn.Module):
        found = _shapes(folder)
        config = read_json(folder / "config.json")
        if "quantization_config" not in config:  # those hold other tensors than the plain model
            _compare(folder, built(folder, cls, config), found)
    elif issubclass(cls, SchedulerMixin):
        path = folder / "scheduler_config.json"
        steps = read_json(path).get("num_train_timesteps", 1000)
        if not isinstance(steps, int) or not 1 <= steps <= _MOST_TIMES:
            raise ValueError(f"model: {path}: num_train_timesteps {steps!r} must be from 1 to {_MOST_TIMES}")


def check_settings(settings: Mapping[str, Any], where: str = "model") -> None:
    """Raise ValueError for settings of a pipeline (``model_index.json``) that no edit could work with."""

    def number(value: Any, low: float, high: float, whole: bool = False) -> bool:
        kinds = (int,) if whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high

    def steps(value: Any) -> bool:
        return value is None or (
            isinstance(value, dict) and all(isinstance(k, str) and number(v, 0, 1000, True) for k, v in value.items())
        )

    def names(value: Any) -> bool:
        return value is None or (isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value))

    def distilled(value: Any) -> bool:
        if not value:
            return value in (None, {})
        scales = value.get("guidance") if isinstance(value, dict) else None
        pair = isinstance(scales, (list, tuple)) and len(scales) == 2 and all(number(s, 0, 100) for s in scales)
        return pair and number(value.get("teacher_steps"), 1, 1000, True) and steps(value.get("task_steps"))

    wanted = {
        "tile": (lambda v: number(v, 16, 8192, True), "a whole number of pixels from 16 to 8192"),
        "default_steps": (lambda v: number(v, 1, 1000, True), "a whole number from 1 to 1000"),
        "default_guidance": (lambda v: number(v, 0, 100), "a number from 0 to 100"),
        "noise_scale": (lambda v: number(v, 1e-3, 1e3), "a number above 0"),
        "task_steps": (steps, "a mapping of tasks to steps from 0 to 1000"),
        "distilled": (distilled, "a mapping with guidance [low, high] and teacher_steps"),
        "surfaces": (lambda v: isinstance(v, bool), "true or false"),
        "trained_tasks": (names, "a list of tasks"),
        "sigmas": (lambda v: v in ("linear", "scheduler"), "linear or scheduler"),
        "prompt_cleaning": (lambda v: v in (None, "light", "full"), "light, full or null"),
        "exemplars": (lambda v: v in ("thorough", "quick"), "thorough or quick"),
        "prompt_tokens": (lambda v: v is None or number(v, 1, 100_000, True), "a whole number, or null"),
    }
    for name, (fits, text) in wanted.items():
        if name in settings and not fits(settings[name]):
            raise ValueError(f"{where}: {name} is {settings[name]!r}; it must be {text}")


FOR_TEACHER = ":teacher"  # the end of base_model_name_or_path, for a LoRA trained on a student's teacher


def find_lora(source: str | Path, weight_name: str | None = None) -> Path | None:
    """The file of a LoRA that lies on this machine; None for an id of the Hub.

    Raises FileNotFoundError where there is nothing, ValueError for a folder without exactly one.
    """
    path = Path(source)
    if path.is_dir():
        path = path / (weight_name or "pytorch_lora_weights.safetensors")
        others = sorted(path.parent.glob("*.safetensors"))
        if not path.is_file() and weight_name is None and len(others) == 1:
            path = others[0]
        if not path.is_file():
            raise ValueError(f"LoRA: {path.parent} holds no {path.name}; name the .safetensors file")
    elif not path.is_file():
        if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and path.suffix != ".safetensors":
            return None
        raise FileNotFoundError(f"LoRA: {source} does not exist; pass a .safetensors file, its folder or a Hub id")
    return path


def is_for_teacher(path: Path) -> bool:
    """Whether a LoRA file says that it was trained on a few-step student's teacher."""
    with one_line("LoRA", Path(path.name)):
        return str(lora_settings(path).get("base_model_name_or_path") or "").endswith(FOR_TEACHER)


@contextmanager
def lora_errors(name: str) -> Iterator[None]:
    """Turn the errors of diffusers, peft and safetensors about a LoRA into one ValueError."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"LoRA: {name} cannot be loaded here ({first_line(error)}); choose another") from error


def check_lora(path: Path, transformer: nn.Module) -> None:
    """Raise ValueError for a LoRA file that does not fit the transformer."""
    if path.suffix != ".safetensors":
        raise ValueError(
            f"LoRA: {path.name} is not a .safetensors file; other formats can run code when they are loaded"
        )
    with one_line("LoRA", Path(path.name)):
        shapes = header(path)
        settings = lora_settings(path)
    known = {name: module for name, module in transformer.named_modules() if hasattr(module, "weight")}
    ranks = set()
    for key, shape in shapes.items():
        layer, found, rest = key.removeprefix("transformer.").partition(".lora_")
        if not found or rest not in ("A.weight", "B.weight"):
            continue  # of another kind: peft checks it
        module = known.get(layer)
        size = None if module is None else tuple(getattr(module, "base_layer", module).weight.shape)
        side = 1 if rest == "A.weight" else 0
        if size is None or len(size) != 2 or len(shape) != 2 or shape[side] != size[side]:
            raise ValueError(
                f"LoRA: {path.name} does not fit this model: it has no such layer as {layer}; choose another"
            )
        ranks.add(shape[1 - side])
    stated = [settings.get("r"), *(settings.get("rank_pattern") or {}).values()] if ranks else []
    if any(rank is not None and rank not in ranks for rank in stated):
        raise ValueError(f"LoRA: {path.name} is damaged: the rank in its settings is not that of its weights; {_AGAIN}")


def lora_settings(path: Path) -> dict[str, Any]:
    """Peft's configuration of a LoRA file, as ``save_lora_weights`` writes it; empty where there is none."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("lora_adapter_metadata", "{}")
    tree = files.parse_json(text, "its configuration")
    if not isinstance(tree.get("transformer.rank_pattern") or {}, dict):
        raise ValueError("its settings are no JSON object")
    return {name.removeprefix("transformer."): value for name, value in tree.items()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError for a file that is missing, too large or anything else."""
    try:
        return files.read_json(path)
    except FileNotFoundError:
        raise ValueError(f"model: {path} is missing; the folder is not a pipeline in diffusers layout") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"model: {first_line(error)}; {_AGAIN}") from None


# ------------------------------------------------------------------------------------------------------------- helpers


def _kinds() -> dict[str, tuple[type, ...]]:
    """The classes that the parts of a pipeline may have."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler, ModelMixin
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from photofound.model.detail import DetailNetwork
    from photofound.model.superresolution import Upscaler
    from photofound.model.transformer import EditTransformer

    return {
        "transformer": (EditTransformer,),
        "vae": (ModelMixin,),
        "text_encoder": (PreTrainedModel,),
        "tokenizer": (PreTrainedTokenizerBase,),
        "scheduler": (FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler),
        "detail": (DetailNetwork,),
        "upscaler": (Upscaler,),
    }


def component_class(folder: Path, name: str, entry: Any) -> type | None:
    """The class that an entry of ``model_index.json`` names for a part of a pipeline; None where it names none. Raises
    ValueError for one that is not trusted."""
    return _class(folder, name, entry, _kinds()[name])


def _class(folder: Path, name: str, entry: Any, kinds: tuple[type, ...]) -> type | None:
    """The class that ``model_index.json`` names for a component; None where it names none."""
    if entry is None or entry == [None, None]:
        return None
    if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(part, str) for part in entry):
        raise ValueError(f"model: {folder / 'model_index.json'}: {name} is {entry!r}; it must be [library, class]")
    library, wanted = entry
    if library.split(".")[0] not in _TRUSTED:
        raise ValueError(
            f"model: {folder} wants the class {wanted} from {library!r}; only {', '.join(_TRUSTED)} are trusted"
        )
    known = library in (*_TRUSTED, *_OWN)
    cls = getattr(importlib.import_module(library), wanted, None) if known and wanted.isidentifier() else None
    if not isinstance(cls, type) or not issubclass(cls, kinds or (object,)):
        raise ValueError(f"model: {folder}: {library}.{wanted} is no {name} that can be loaded; {_AGAIN}")
    return cls


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors in a folder's safetensors."""
    for index in folder.glob("*.safetensors.index.json"):
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
            raise ValueError(f"model: {index} is damaged: its weight_map must name files; {_AGAIN}")
        for shard in sorted(set(places.values())):
            if Path(shard).name != shard or not (folder / shard).is_file():
                raise ValueError(f"model: {folder / shard} is missing; {_AGAIN}")
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        if pickled := [p for p in folder.iterdir() if p.suffix in files.PICKLE_SUFFIXES]:
            raise ValueError(
                f"model: {pickled[0]} is not safetensors and can run code when it is loaded; convert it to .safetensors"
            )
        raise ValueError(f"model: {folder} has no .safetensors weights; {_AGAIN}")
    found: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        with one_line("model", shard):
            found |= header(shard)
    return found


def header(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}


@contextmanager
def one_line(what: str, path: Path) -> Iterator[None]:
    """Turn the errors of reading a safetensors file into one ValueError."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{what}: {path} is damaged ({first_line(error)}); {_AGAIN}") from None


def built(folder: Path, cls: Any, config: dict[str, Any]) -> Any:
    """The model of a configuration, without memory for its weights. Raises ValueError for one that describes none."""
    for name, value in config.items():
        most = max(value, default=0, key=_size) if isinstance(value, list) else value
        if _LAYERS.search(name) and _size(most) > _MOST_LAYERS:
            raise ValueError(
                f"model: {folder / 'config.json'}: {name} is {value!r}, more than {_MOST_LAYERS}; {_AGAIN}"
            )
    try:
        with torch.device("meta"):
            return cls.from_config(config) if hasattr(cls, "from_config") else cls(cls.config_class.from_dict(config))
    except Exception as error:  # libraries raise nearly anything for numbers that do not fit together
        reason = first_line(error)
        raise ValueError(f"model: {folder / 'config.json'} describes no model ({reason}); {_AGAIN}") from None


def _compare(folder: Path, model: Any, found: dict[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless the files hold every weight of the model, in its shape, and no others."""
    state = {name: tuple(value.shape) for name, value in model.state_dict(keep_vars=True).items()}
    same: dict[int, list[str]] = {}  # names of one and the same weight
    for name, value in model.state_dict(keep_vars=True).items():
        same.setdefault(id(value), []).append(name)
    prefix = getattr(model, "base_model_prefix", None) or ""  # transformers find weights with it and without
    names = {alias: name for name in state for alias in (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))}
    names |= {old: name for name in state if (old := _old_name(name)) not in state}
    ignored = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    unknown = [key for key in found if key not in names and not any(re.search(each, key) for each in ignored)]
    there = {names[key] for key in found if key in names}
    optional = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    missing = [
        twins[0]
        for twins in same.values()
        if not there & set(twins) and not any(re.search(each, twins[0]) for each in optional)
    ]
    wrong = [key for key in found if key in names and found[key] != state[names[key]]]
    kinds = ((unknown, "weights that its configuration does not know"), (missing, "not all of its weights"))
    for keys, text in (*kinds, (wrong, "weights of another shape than its configuration's")):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ValueError(f"model: {folder} has {text}: {keys[0][:120]}{more}; {_AGAIN}")


def _old_name(name: str) -> str:
    """The earlier name of an autoencoder's attention weight, which diffusers still reads."""
    for new, old in ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")):
        name = name.replace(new, old)
    return name


def _size(value: Any) -> float:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else math.inf if value != value else 0
