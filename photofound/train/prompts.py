"""Pictures of the same prompts while a run goes on: what people look at in a tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from photofound.data.photograph import to_8_bit
from photofound.edits.task import get_task
from photofound.picture import picture as pictures
from photofound.train.distributed import shared
from photofound.train.settings import PromptConfig


class Prompts:
    """Edits that are prepared once, before the run, and made again with whatever the weights are by then.

    Raises ValueError and OSError for what cannot be edited.
    """

    def __init__(self, config: PromptConfig, pipeline: Any) -> None:
        self.config, self.pipeline = config, pipeline
        task = get_task(config.task)
        given = {each.name for each in task.inputs}
        if unknown := [name for name in config.inputs if name not in given]:
            raise ValueError(f"prompts.inputs: {unknown[0]!r} is no input of {config.task}, whose are {sorted(given)}")
        if task.takes_picture != (config.image is not None):
            what = "a photograph; name one" if task.takes_picture else "no photograph; leave it out"
            raise ValueError(f"prompts.image: {config.task} takes {what}")
        picture = pictures.load(config.image) if config.image else None
        files = {name: Path(value) if Path(value).is_file() else value for name, value in config.inputs.items()}
        pipe = pipeline.for_task(config.task)
        self.jobs = [pipe.prepare(picture, prompt=text, **files) for text in config.texts]

    @torch.no_grad()
    def pictures(self) -> dict[str, np.ndarray]:
        """``prompts/<text>`` -> (H, W, 3) uint8, by the weights as they are. The processes share out the prompts."""
        pipe = self.pipeline.for_task(self.config.task)
        steps, guidance, _ = pipe.check(
            {"num_inference_steps": self.config.steps, "guidance_scale": self.config.guidance}
        )

        def make(job: Any) -> np.ndarray:
            (made,) = pipe.run([job], [torch.Generator().manual_seed(self.config.seed)], steps, guidance)
            return to_8_bit(made.rgb())

        names = [f"prompts/{number} {text[:80]}" for number, text in enumerate(self.config.texts, 1)]
        return dict(zip(names, shared(self.jobs, make), strict=True))
