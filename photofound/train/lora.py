"""LoRA and DoRA on a transformer: added new, or from a file to go on with; saved; merged into the weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from photofound.model import folder
from photofound.model.transformer import EditTransformer
from photofound.train.settings import LoraConfig

_PREFIXES = ("transformer.", "base_model.model.")  # of diffusers' files, of peft's
_OLD = {".lora.down.": ".lora_A.", ".lora.up.": ".lora_B.", ".lora_down.": ".lora_A.", ".lora_up.": ".lora_B."}
_KEY = re.compile(r"(.+)\.lora_(A\.weight|B\.weight|magnitude_vector)")
_TAKEN = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "target_modules")


def add(transformer: Any, config: LoraConfig) -> None:
    """Add the layers of a LoRA (arXiv:2106.09685), W + alpha / rank * B A, or of a DoRA (arXiv:2402.09353, eq. 5),
    which scales the rows of that sum to a length m that is trained: m (W + alpha / rank * B A) / |W + ...|.

    Of one to go on with (``config.start``) only the file's header is read. Raises ValueError for layers that the
    transformer does not have, and for a file that is no LoRA for it.
    """
    if not config.start:
        scale = {"lora_alpha": config.alpha, "use_rslora": config.rslora, "use_dora": config.dora}
        transformer.add_adapter(_peft(r=config.rank, target_modules=list(config.targets), **scale))
        return
    path = _file(config.start)
    shapes, settings = _shapes(path)
    known = {name for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)}
    for key in shapes:
        if (name := key.partition(".lora_")[0]) not in known:
            raise ValueError(
                f"model.lora.start: {path} does not fit this model, which has no {name}; name another file"
            )
    with folder.lora_errors(path.name):
        transformer.add_adapter(_configuration(shapes, settings))
    _compare(path, {name: tuple(value.shape) for name, value in _layers(transformer).items()}, shapes)


def load(transformer: Any, source: str) -> None:
    """The weights of the LoRA that ``add`` has added layers for."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = {_name(key): value.float() for key, value in load_file(_file(source)).items()}
    set_peft_model_state_dict(transformer, weights)


def is_dora(transformer: Any) -> bool:
    """Whether the transformer has a DoRA."""
    return any(config.use_dora for config in getattr(transformer, "peft_config", {}).values())


def dora_flops(transformer: nn.Module) -> int:
    """FLOP of a DoRA in a forward pass, whatever the batch: B A, and the lengths of W's rows with it."""
    layers: list[Any] = [m for m in transformer.modules() if getattr(m, "use_dora", {}).get("default")]
    sizes = [(layer.in_features, layer.out_features, layer.r["default"]) for layer in layers]
    return sum(2 * rank * wide * (wide + tall) + 3 * wide * tall for wide, tall, rank in sizes)


def add_everywhere(model: Any, rank: int) -> None:
    """Freeze the model and add a trainable LoRA (arXiv:2106.09685) to each of its linear layers."""
    model.requires_grad_(False)
    names = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    model.add_adapter(_peft(r=rank, lora_alpha=rank, target_modules=names))


def save(pipeline: Any, place: Path, base: str | None = None) -> None:
    """Write the transformer's LoRA for ``pipe.load_lora_weights(place)``; ``base`` names the model that it belongs
    to."""
    settings = pipeline.transformer.peft_config["default"].to_dict() | {"base_model_name_or_path": base}
    pipeline.save_lora_weights(place, _layers(pipeline.transformer), settings)


def merge(pipeline: Any) -> Any:
    """A pipeline whose transformer has the LoRA added to its weights, and no LoRA any more."""
    trained = pipeline.transformer
    transformer: Any = EditTransformer.from_config(trained.config)  # built anew: a sharded one cannot be copied
    transformer.add_adapter(trained.peft_config["default"])
    transformer.load_state_dict(trained.state_dict())
    transformer.fuse_lora()
    transformer.unload_lora()
    return type(pipeline).from_pipe(pipeline, transformer=transformer)


@contextmanager
def without(transformer: Any) -> Iterator[None]:
    """Within the block the transformer computes what it did before a LoRA was added."""
    transformer.disable_adapters()
    try:
        yield
    finally:
        transformer.enable_adapters()


# --------------------------------------------------------------------------------------------- files of other trainings


def _file(source: str) -> Path:
    """The file that is named, on the Hub or here."""
    path = folder.find_lora(source)
    if path is None:
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(source, "pytorch_lora_weights.safetensors"))
    if path.suffix != ".safetensors":
        raise ValueError(f"model.lora.start: {path.name} is not a .safetensors file; others can run code when loaded")
    return path


def _name(key: str) -> str:
    """A layer's name in peft's words and without a prefix."""
    for old, new in _OLD.items():
        key = key.replace(old, new)
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _shapes(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Names and shapes of a file's layers, and peft's configuration in it, if there is one."""
    with folder.one_line("model.lora.start", path):
        shapes, settings = folder.header(path), folder.lora_settings(path)
    odd = [key for key in shapes if not _KEY.fullmatch(_name(key))]
    if odd or not shapes:
        what = f"its {odd[0][:120]} is no layer of a LoRA for a transformer" if odd else "it is empty"
        raise ValueError(f"model.lora.start: {path} cannot be gone on with: {what}; name another file")
    return {_name(key): shape for key, shape in shapes.items()}, settings


def _configuration(shapes: dict[str, tuple[int, ...]], settings: dict[str, Any]) -> Any:
    """Peft's configuration of a file; where it has none, alpha is the rank, as diffusers takes it."""
    if settings:
        return _peft(**{name: settings[name] for name in _TAKEN if name in settings})
    ranks = {key.removesuffix(".lora_A.weight"): shape[0] for key, shape in shapes.items() if key.endswith("A.weight")}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {f"^{name}": other for name, other in ranks.items() if other != rank}
    dora = any(key.endswith("magnitude_vector") for key in shapes)
    patterns: dict[str, Any] = {"rank_pattern": others, "alpha_pattern": others, "use_dora": dora}
    return _peft(r=rank, lora_alpha=rank, target_modules=list(ranks), **patterns)


def _compare(path: Path, wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless a file has the layers that the transformer got for it, in their shapes."""
    unknown, missing = sorted(found.keys() - wanted.keys()), sorted(wanted.keys() - found.keys())
    apart = [name for name in sorted(found.keys() & wanted.keys()) if found[name] != wanted[name]]
    for names, what in ((unknown, "nothing of this LoRA"), (missing, "it is missing"), (apart, "another shape")):
        if names:
            raise ValueError(f"model.lora.start: {path} does not fit this model: {names[0]}: {what}; name another file")


def _layers(transformer: Any) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    layers: dict[str, Tensor] = get_peft_model_state_dict(transformer)
    return layers


def _peft(**options: Any) -> Any:
    from peft import LoraConfig as PeftConfig

    return PeftConfig(**options)
