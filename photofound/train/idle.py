"""Settings that do nothing: in a stage that does not read them, or beside another setting. They are refused.

Three tables say which. ``config.load`` asks them for every configuration that has a ``STAGE``. Nothing here imports
torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any, ClassVar

_NO_STREAM = "pairs lie in memory"
_NO_BLOCKS = "its network has no repeated blocks"
_NO_WORK = "mfu is logged for transformers alone"
_ONE_SIZE = "its crops have one size"
_STREAMED = ("shuffle", "interleave", "workers", "shard_cache", "shard_cache_gb", "prefetch", "log")

_OWN = {f"model.{name}": "the model that is adapted has its own" for name in ("vae", "text_encoder", "text_layers")}

NEVER: dict[str, dict[str, str]] = {
    "finetune": {
        **_OWN,
        "data.cache": "photographs are read anew each time",
        "data.late_crop": _ONE_SIZE,
        "data.held_out_crops": "validation.size says how many are measured",
        "mix.shift_by_size": _ONE_SIZE,
    },
    "preference": {
        **_OWN,
        "recipe": "it adds to the loss of pretraining and fine-tuning, and this one is of pairs",
        "data.drawn": "what is drawn are no pairs",
        "data.cache": "pairs are read anew each time",
        "data.sources": _NO_STREAM,
        "data.precomputed": _NO_STREAM,
        "data.multiple": _NO_STREAM,
        "data.widest": _NO_STREAM,
        **{f"data.{name}": _NO_STREAM for name in _STREAMED},
        "data.held_out": "the pairs of data.hold_out are measured",
        "data.held_out_crops": "validation.size says how many are measured",
        "data.recolour": "people chose between the colours that there are",
        "data.exemplars": "pairs have their own holes",
        "data.late_crop": _ONE_SIZE,
        "mix.exemplars": "pairs have their own holes",
        "mix.late_shift": "times are shifted alike throughout",
        "mix.shift_by_size": _ONE_SIZE,
        "mix.drop_text": "both results keep their prompt",
        "mix.drop_both": "both results keep their prompt and their picture",
        "mix.reference": "pairs do not say which reference they were made with",
        "model.reference": "pairs do not say which reference they were made with",
        "model.reference_size": "pairs do not say which reference they were made with",
        "model.fusion": "recipe.sprint, which it is for, does not apply",
    },
    "autoencoder": {"train.compile": _NO_BLOCKS, "train.fp8": _NO_BLOCKS, "train.peak": _NO_WORK},
    "detail": {"train.compile": _NO_BLOCKS, "train.fp8": _NO_BLOCKS, "train.peak": _NO_WORK},
    "superresolution": {"train.fp8": "it has no linear layers", "train.peak": _NO_WORK},
}
"""Stage -> setting, or group of them -> why nothing reads it there."""

_PREPARED = (
    "source",
    *("min_side", "max_aspect", "max_pixels", "scorer", "near", "short_side", "shard_size", "cluster"),
    *("captioner", "matte", "text", "latents"),
)
_LATE, _LORA, _SOURCES = "data.late_from<1", "model.train=lora", "data.sources"

NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    "*": {
        "recipe.tread_tokens": ("recipe.tread",),
        **{f"recipe.{name}": ("recipe.sprint",) for name in ("sprint_until", "sprint_grid", "sprint_drop")},
        **{f"recipe.{name}": ("recipe.repa",) for name in ("repa_teacher", "repa_block", "repa_until")},
        "recipe.repa_e_rate": ("recipe.repa_e",),
        "recipe.lpips_net": ("recipe.lpips", "recipe.repa_e"),
        "recipe.dino_net": ("recipe.dino",),
        "recipe.perceptual_below": ("recipe.lpips", "recipe.dino"),
        **{f"prompts.{n}": ("prompts.texts",) for n in ("task", "image", "inputs", "seed", "steps", "guidance")},
        "hub.private": ("hub.repo_id",),
        "train.shard_size": ("train.parallel=hsdp",),
        "train.checkpoint_keep": ("train.checkpoint_activations",),
        "train.checkpoint_every": ("train.checkpoint_activations",),
        **{f"data.{name}": (_SOURCES,) for name in _STREAMED},
        "data.multiple": (_SOURCES, "data.buckets"),
        "data.widest": (_SOURCES, "data.buckets"),
        "data.late_crop": (_LATE,),
        "data.late_batch": (_LATE,),
        "data.held_out_crops": ("train.validate_every",),
        "mix.late_shift": (_LATE,),
        "mix.shift_by_size": (_LATE,),
        "mix.exemplars": ("data.exemplars",),
        "model.reference_size": ("model.reference",),
        **{f"model.lora.{n}": (_LORA,) for n in ("rank", "alpha", "rslora", "dora", "targets")},
        "model.merged": (_LORA,),
        **{f"prior.{n}": ("prior.weight",) for n in ("folder", "prompt", "count", "steps")},
        **{f"prior.{n}": ("prior.folder",) for n in ("only", "without", "limit")},
        **{f"distill.{n}": ("distill.adversarial",) for n in ("adversarial_on", "adversarial_from", "r1")},
        "distill.lpips_net": ("distill.lpips", "distill.adversarial with distill.adversarial_on=pixels"),
        "loss.perceptual": ("data.perceptual",),
        "loss.adversarial_from": ("loss.adversarial",),
        "data.least": ("data.shrunk",),
    },
    "autoencoder": {"model.train_encoder": ("model.start",)},
    "detail": {"loss.adversarial": ("data.perceptual",)},
    "prepare": {
        **dict.fromkeys(("crop", "sizes", "weights", "cache"), ("exemplars",)),
        "min_score": ("scorer",),
        "quality": ("short_side",),
        "model": ("text", "latents"),
        "text_encoder": ("text",),
        "text_length": ("text",),
        **dict.fromkeys(("vae", "side", "multiple", "widest"), ("latents",)),
    },
}
"""Stage (* = every one that has them) -> setting -> settings of which one must be on for it to count: not empty, or of
this value, or below it; ``a with b``: both."""

REPLACED: dict[str, dict[str, str]] = {
    "*": {
        **{f"data.{name}": _SOURCES for name in ("drawn", "limit", "cache", "weights")},
        **{f"model.lora.{n}": "model.lora.start" for n in ("rank", "alpha", "rslora", "dora", "targets")},
        **{f"model.{name}": "model.start" for name in ("vae", "text_encoder")},
        "model.text_layers": "model.text_encoder",
        "train.ema": "train.optimizer=schedulefree",
    },
    "autoencoder": {f"model.{n}": "model.start" for n in ("latent_channels", "encoder_channels", "decoder_channels")},
    "superresolution": {f"model.{name}": "model.start" for name in ("channels", "depth", "scales")},
    "prepare": dict.fromkeys(_PREPARED, "exemplars"),
}
"""Stage (* = every one that has them) -> setting -> the setting that takes its place where it is on. Where a command
line switches that on, a file's value of the replaced one is no mistake: ``config.load`` leaves it out, and says so."""


def refuse(stage: str, config: Any, named: Collection[str] | None = None) -> None:
    """Refuse what differs from its default and does nothing. 0, null and empty are no request, so they pass.

    Args:
        config: of the stage.
        named: what was set by name, dotted. A switch among them that is off is meant to be: a file may hold what a
            command line switches off for once. None: not known, so ``NEVER`` alone is asked.

    Raises ValueError for the first such setting.
    """
    for name, value, usual in _changes(config, type(config)()):
        if name == "data.late_crop" and value == config.data.crop:
            continue  # pictures that stay as large
        if why := _never(stage, name):
            raise ValueError(f"{name}: {value!r} does nothing in 'photofound train {stage}': {why}; leave it out")
        if named is None:
            continue
        needs = _rule(NEEDS, stage, name)
        if needs and not any(_on(config, each) or _is_off(config, each, named) for each in needs):
            remedy = f"set that, or leave this at its default, {usual!r}"
            raise ValueError(f"{name}: {value!r} does nothing without {' or '.join(needs)}; {remedy}")
        instead = _rule(REPLACED, stage, name)
        if instead and _on(config, instead):
            remedy = f"leave one of them out, or this at its default, {usual!r}"
            raise ValueError(f"{name}: {value!r} does nothing beside {instead}; {remedy}")


def replaced(stage: str, config: Any, given: Collection[str]) -> Iterator[tuple[str, Any, str]]:
    """The settings in whose place others stand that were ``given`` later: dotted name, value, the other one."""
    for name, value, _ in _changes(config, type(config)()):
        instead = _rule(REPLACED, stage, name)
        if instead and _on(config, instead) and _name(instead) in given:
            yield name, value, instead


def ignored(stage: str, name: str) -> bool:
    """Whether the stage reads a setting under no circumstances."""
    return _never(stage, name) is not None


class StageConfig:
    """The configuration of a stage; what does nothing in it is refused when it is loaded.

    Attributes:
        STAGE: its name in the tables.
    """

    STAGE: ClassVar[str] = ""

    def refuse_idle(self, named: Collection[str] | None = None) -> None:
        """See ``refuse``."""
        refuse(self.STAGE, self, named)

    def replaced(self, given: Collection[str]) -> Iterator[tuple[str, Any, str]]:
        """See ``replaced``."""
        return replaced(self.STAGE, self, given)


def _never(stage: str, name: str) -> str | None:
    table = NEVER.get(stage, {})
    return next((why for each, why in table.items() if name == each or name.startswith(f"{each}.")), None)


def _rule(table: dict[str, dict[str, Any]], stage: str, name: str) -> Any:
    return table.get(stage, {}).get(name) or table["*"].get(name)


def _changes(config: Any, default: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The settings that ask for something and are not at their default: dotted name, value, default."""
    for each in dataclasses.fields(config):
        value, usual, name = getattr(config, each.name), getattr(default, each.name), where + each.name
        if dataclasses.is_dataclass(value):
            yield from _changes(value, usual, f"{name}.")
        elif value != usual and (value or value is False):
            yield name, value, usual


def _name(switch: str) -> str:
    return switch.partition("=")[0].partition("<")[0]


def _is_off(config: Any, switch: str, named: Collection[str]) -> bool:
    """Whether it, the first one of ``a with b``, was switched off by name."""
    first = switch.partition(" with ")[0]
    return _name(first) in named and not _on(config, first)


def _on(config: Any, switch: str) -> bool:
    """Whether ``a.b`` is not empty, ``a.b=value`` is so, ``a.b<value`` is below, and ``a with b`` both. A setting that
    the configuration does not have is off."""
    if " with " in switch:
        return all(_on(config, each) for each in switch.split(" with "))
    value = config
    for part in _name(switch).split("."):
        value = getattr(value, part, None)
    if "=" in switch:
        return str(value) == switch.partition("=")[2]
    return value < float(switch.partition("<")[2]) if "<" in switch else bool(value)
