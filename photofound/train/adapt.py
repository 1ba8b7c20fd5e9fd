"""Stages that adapt a trained model: they freeze a part of it, measure held-out photographs, and write the result.

Fine-tuning and preferences share this.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn, no_grad

from photofound.data.store import PhotoStore
from photofound.model.folder import FOR_TEACHER
from photofound.pipeline import EMBEDDED, EditPipeline
from photofound.train import fewer_bits, lora
from photofound.train.distributed import World
from photofound.train.estimate import Phase
from photofound.train.plan import plan
from photofound.train.recompute import checkpointed
from photofound.train.settings import AdaptedModelConfig, EditConfig
from photofound.train.stage import EditStage
from photofound.train.swap import BlockSwap


def adapt(module: nn.ModuleDict, config: AdaptedModelConfig) -> None:
    """Freeze what ``config.train`` does not train, add the LoRA's layers, and keep frozen weights out of checkpoints.

    Raises ValueError for an unknown kind, and for layers that the transformer does not have.
    """
    transformer: Any = module["transformer"]
    if config.train not in ("lora", "full", "head"):
        raise ValueError(f"model.train: {config.train!r} is unknown; use lora, full or head")
    if config.train == "full":
        return
    if config.train_text:
        raise ValueError(f"model.train_text: a text encoder is trained with model.train=full, not {config.train}")
    transformer.requires_grad_(False)
    if config.train == "lora":
        lora.add(transformer, config.lora)
        if lora.is_dora(transformer) and config.base in ("int8", "nf4"):
            raise ValueError(f"model.base: a DoRA measures the weights, not their {config.base}; use fp32 or bf16")
    else:  # the heads are one stacked tensor; those of tasks that are not in the mix get no gradient
        transformer.heads.requires_grad_(True)
        transformer.task_in.requires_grad_(True)
    _leave_frozen_out(module)


def _leave_frozen_out(module: nn.Module) -> None:
    """Leave frozen weights out of the module's ``state_dict``; loading one does not miss them."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}

    def after_saving(_: nn.Module, state: dict[str, Any], prefix: str, __: Any) -> None:
        for name in frozen:
            state.pop(prefix + name, None)

    def after_loading(_: nn.Module, incompatible: Any) -> None:
        incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if name not in frozen]

    module.register_state_dict_post_hook(after_saving)
    module.register_load_state_dict_post_hook(after_loading)


class AdaptedStage(EditStage):
    """Trains some weights of a trained model, and measures it on held-out photographs. A subclass adds ``measure`` and
    ``loss``.

    Attributes:
        before, after: what ``measure`` gave before the first step and after the last one.
    """

    def __init__(
        self, config: Any, world: World, photographs: PhotoStore | None = None, hole_is_matte: bool = False
    ) -> None:
        super().__init__(with_start(config), world, photographs, hole_is_matte)
        self.measured = 0  # how many times
        self.before: dict[str, float] = {}
        self.after: dict[str, float] = {}

    def _build_networks(self, edits: Sequence[str]) -> None:
        """As in ``EditStage``; then send the blocks that travel to the CPU."""
        super()._build_networks(edits)
        model, train = self.config.model, self.config.train
        if not model.swap_blocks:
            return
        if train.compiled:
            raise ValueError("train.compile: weights that travel cannot be compiled for; set it to false")
        other = None
        if train.checkpoint_activations:
            other = checkpointed(self.blocks, train.checkpoint_keep, train.checkpoint_every)
        swap = BlockSwap(self.blocks, model.swap_blocks, self.device, other)
        self.pipeline.transformer.enable_gradient_checkpointing(swap)

    def _freeze(self) -> None:
        """Freeze what is not trained, in as many bits as ``model.base`` and ``model.frozen`` say."""
        super()._freeze()
        model = self.config.model
        if self.config.recipe.repa_e and model.train != "full":
            raise ValueError(
                "recipe.repa_e: trains the autoencoder and all weights; set model.train=full, or leave it out"
            )
        adapt(self.module, model)
        if model.lora.start and model.train == "lora":
            lora.load(self.pipeline.transformer, model.lora.start)
        if model.base not in ("fp32", "bf16") and self.config.train.precision != "bf16":
            raise ValueError(f"model.base: {model.base} goes with train.precision=bf16")
        fewer_bits.lower(self.pipeline.transformer, model.base)

    def measure(self) -> dict[str, Tensor]:
        """Named scalars, the same for the same weights. Called without gradients."""
        raise NotImplementedError

    def validate(self) -> dict[str, Tensor]:
        """For ``train.validate_every``: ``measure`` of the averaged weights; the held-out loss is ``val_loss``, too,
        which ``train.patience`` looks at."""
        measured = self.measure()
        return measured | ({"val_loss": measured["loss_held_out"]} if "loss_held_out" in measured else {})

    def measure_if_due(self, progress: float) -> dict[str, Tensor]:
        """``measure()`` where ``validation.times`` asks for it at this progress, else nothing."""
        times = self.config.validation.times
        last = times and self.config.train.steps * (1 - progress) < 1.5
        due = times + 1 if last else math.floor(progress * times) + 1 if times else 0
        if due <= self.measured:
            return {}
        self.measured = due
        with no_grad():
            results = self.measure()
        if progress == 0:
            self.before = _numbers(results)
        return results

    def state_dict(self) -> dict[str, Any]:
        """The position in a stream, and what was measured."""
        return super().state_dict() | {"measured": self.measured, "before": self.before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.measured, self.before = state["measured"], state["before"]
        super().load_state_dict({name: value for name, value in state.items() if name == "position"})

    def sheet(self) -> np.ndarray:
        """The sheet of ``EditStage``. It shows the averaged weights, which are exported: they are measured here."""
        self.after = _numbers(self.measure())
        return super().sheet()

    def export(self, folder: Path) -> None:
        """Write the pipeline, the LoRA below it in ``lora/``, and ``validation.json``."""
        added = self.config.model.train == "lora"
        folder.mkdir(parents=True, exist_ok=True)
        if added:
            lora.save(self.pipeline, folder / "lora", self._base())
        if self.config.model.merged or not added:
            pipeline = self.as_read(self.pipeline)
            pipeline = lora.merge(pipeline) if added else pipeline
            pipeline.save_pretrained(folder, safe_serialization=True)
        (folder / "validation.json").write_text(
            json.dumps({"before": self.before, "after": self.after}, indent=2), encoding="utf-8"
        )
        for name, value in self.after.items():
            print(f"{name}: {value:.4f}" + (f", before {self.before[name]:.4f}" if name in self.before else ""))

    def as_read(self, pipeline: Any) -> Any:
        """A pipeline whose frozen weights are as they were read; what was trained is as it is."""
        pipeline = super().as_read(pipeline)
        model = self.config.model
        if model.base == "fp32" and not model.swap_blocks:
            return pipeline
        trained = {
            name: p.detach().cpu() for name, p in self.pipeline.transformer.named_parameters() if p.requires_grad
        }
        read = nn.ModuleDict({"transformer": self._read_again().transformer})
        adapt(read, model)
        read["transformer"].load_state_dict(trained, strict=False)
        return type(pipeline).from_pipe(pipeline, transformer=read["transformer"])

    def _base(self) -> str:
        """The name, without its path, of the model that the LoRA was trained from; of a student it is the teacher."""
        start = str(self.config.model.start)
        name = "embedded" if start == str(EMBEDDED) else Path(start).name
        return name + FOR_TEACHER * bool(EditPipeline.load_config(start).get("distilled"))


def plan_adapted(config: Any) -> list[Phase]:
    """The plan of a run with frozen weights and a LoRA: see ``photofound.train.plan``."""
    filled = with_start(config)
    return plan(filled, lambda module: adapt(module, filled.model))


def with_start(config: EditConfig) -> Any:
    """The configuration with the embedded model as its start, where it names none, and one crop size throughout."""
    model = replace(config.model, start=config.model.start or str(EMBEDDED))
    return replace(config, model=model, data=replace(config.data, late_crop=config.data.crop))


def _numbers(measured: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in measured.items()}
