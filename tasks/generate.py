"""Generate: a picture from words alone."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from photofound.edits.geometry import parse_size
from photofound.edits.task import Backdrop, Condition, Job, Sample, Task, asks, drawn_seed
from photofound.image import Picture

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from photofound.edits.geometry import Box

LARGEST = 8192  # pixels of a side
_SIZE = (512, 512)  # of a picture, where neither its user nor the model says another


class Generate(Task):
    """Makes a picture from a prompt. Results have the size that was asked for, or the model's own."""

    name = "generate"
    summary = "make a picture from words"
    fit = "area"
    takes_picture = False

    def prepare(
        self,
        picture: Picture | None,
        prompt: Annotated[str, asks("text", "what to show")] = "",
        size: Annotated[Any, asks("size", "size of the picture, WxH; left out, the model's own")] = None,
    ) -> Job:
        """An empty canvas.

        Args:
            prompt: what to show.
            size: W x H in pixels, like ``"768x512"``; None = a square as large as the model works at.

        Raises:
            ValueError: no prompt, a size that cannot be, bad setting.
        """
        if not prompt.strip():
            raise ValueError("prompt: is empty; say what the picture shall show")
        width, height = self.result_size(None, size=size)
        canvas = Picture(np.full((height, width, 3), 255, np.uint8))
        shape = (height, width)
        return Job(canvas, np.ones(shape, np.float32), np.zeros(shape, np.float32), prompt, ground=_surface(prompt))

    def result_size(self, picture: Picture | None, **inputs: Any) -> tuple[int, int]:
        return parse_size(inputs.get("size") or _SIZE, LARGEST)

    def canvas(self, pixels: Tensor, hole: Tensor) -> Tensor:
        """Nothing is given."""
        return pixels * 0

    def backdrop(self, job: Job, generator: torch.Generator | None, surfaces: bool) -> Backdrop | None:
        """The surface that the prompt names. A model that draws surfaces says what else it cannot draw."""
        if not surfaces:
            return None
        if job.ground is None:
            warnings.warn(
                "generate: this model is small. It draws materials and colours (wood, a red cloth, ...) and makes "
                "soft shapes of anything else, no objects; use a larger model (--model)",
                stacklevel=2,
            )
            return None
        from photofound.edits.surfaces import render

        return Backdrop(render(job.ground, job.picture.size, drawn_seed(generator)), f"drawn: {job.ground.description}")

    def example(self, sample: Sample, generator: torch.Generator) -> Condition:
        import torch

        return self.conditions(sample, torch.ones_like(sample.pixels[:, :1]))

    def finish(self, job: Job, generated: Tensor, box: Box) -> Picture:
        """All of it is new."""
        from photofound.image import from_tensor

        return job.picture.paste(from_tensor(generated), job.keep)


def _surface(prompt: str) -> Any:
    from photofound.edits.surfaces import surface_of

    return surface_of(prompt, alone=True)


TASK = Generate()
