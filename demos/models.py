"""The models that visitors of the demo may choose from."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from photofound.edits.task import Task


class Models:
    """The models that visitors may choose from; the last two stay in memory.

    Args:
        default: folder or Hub id; "" is the embedded model.
        folder: holds further models as subfolders, and LoRAs as ``.safetensors``. Nothing else on this machine is read.
        hub: whether visitors may name any model of the Hub, which is then downloaded.
        segmenters: what visitors may find subjects with, beside the model's own way (``photofound.segmenters``).
        optimize: what is done to each model when it is loaded, such as fewer bits for its weights.
        runtime: what runs the networks, as in ``from_pretrained``; with a LoRA always torch.
    """

    def __init__(
        self,
        default: str = "",
        folder: Path | None = None,
        hub: bool = True,
        device: str = "cpu",
        segmenters: Sequence[str] = (),
        optimize: Callable[[Any], None] | None = None,
        runtime: str | None = None,
    ) -> None:
        self.default, self.folder, self.hub, self.device = default, folder, hub, device
        self.runtime = runtime
        self.segmenters = tuple(segmenters)
        self._optimize = optimize or (lambda pipe: None)
        self._loaded: OrderedDict[tuple[str, str | None], Any] = OrderedDict()

    def choices(self) -> list[str]:
        """Names of models: the embedded one as "", the one that the demo was started with, those of the folder."""
        found = sorted(path.parent.name for path in self.folder.glob("*/model_index.json")) if self.folder else []
        return list(dict.fromkeys([self.default, "", *found]))

    def loras(self) -> list[str]:
        """Names of the LoRA files in the folder."""
        return sorted(path.name for path in self.folder.glob("*.safetensors")) if self.folder else []

    def pipeline(self, task: Task, model: str | None = None, lora: str | None = None) -> Any:
        """The task's pipeline on that model; ``lora`` is a name of ``loras()`` or the path of an uploaded file.

        Raises ValueError for a model that is not offered, is no model, or does not fit the LoRA.
        """
        key = (self.default if model is None else model, lora)
        if key not in self._loaded:
            while len(self._loaded) > 1:
                self._loaded.popitem(last=False)
            self._loaded[key] = self._load(self._source(key[0]), lora)
        self._loaded.move_to_end(key)
        return self._loaded[key].for_task(task.name)

    def _source(self, model: str) -> str | None:
        """What to load for a name; None is the embedded model."""
        if model == self.default or not model:
            return model or None
        if self.folder is not None and model in self.choices():
            return str(self.folder / model)
        if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model):
            raise ValueError(f"model: {model!r} is not offered here; choose one of the list or a Hub id (owner/name)")
        if not self.hub or Path(model).exists():  # a folder of that name is not what the visitor may mean
            raise ValueError(f"model: {model!r} cannot be fetched, this demo offers its own models only; choose one")
        return model

    def _load(self, source: str | None, lora: str | None) -> Any:
        from photofound.pipeline import EditPipeline

        try:
            if not lora:
                pipe = EditPipeline.from_pretrained(source, runtime=self.runtime)
            else:
                file = Path(lora) if Path(lora).is_absolute() else self._own_lora(lora)
                with warnings.catch_warnings(action="ignore"):
                    pipe = EditPipeline.with_lora(source, file)
            self._optimize(pipe)
            return pipe.to(self.device)
        except OSError as error:  # the Hub's and diffusers' run to several lines of advice for programmers
            reason = re.split(r"\.\s|\n", str(error))[0]
            raise ValueError(reason if reason.startswith("model:") else f"model: {source!r}: {reason}") from error

    def _own_lora(self, name: str) -> Path:
        if self.folder is None or name not in self.loras():
            raise ValueError(
                f"LoRA: {name!r} is not offered here; choose one of the list or upload a .safetensors file"
            )
        return self.folder / name
