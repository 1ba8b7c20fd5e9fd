"""Upscale: enlarge a photograph with plausible detail that agrees with what is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from photofound import image as images
from photofound.edits.geometry import Box
from photofound.edits.task import Condition, Job, Sample, Task, asks, enlargement_strength
from photofound.image import Picture

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LARGEST = 4


@dataclass(frozen=True)
class UpscaleJob(Job):
    """``picture`` is the enlarged canvas; ``source`` the picture that was given."""

    source: Picture | None = None


class Upscale(Task):
    """Enlarges a picture; scaled back down, the result is the input. Results have ``scale`` times the input's size."""

    name = "upscale"
    summary = "enlarge a photograph"
    fit = "tiles"

    def prepare(
        self,
        picture: Picture,
        scale: Annotated[int, asks("int", "2, 3 or 4", choices=(2, 3, 4))] = 2,
        prompt: str = "",
    ) -> Job:
        """Enlarge the photograph, for the model to add detail.

        Args:
            scale: 2, 3 or 4.

        Raises:
            ValueError: another scale, unreadable image, bad setting. FileNotFoundError: missing file.
        """
        canvas = picture.resize(self.result_size(picture, scale=scale))
        shape = (canvas.height, canvas.width)
        hole, keep = np.ones(shape, np.float32), np.zeros(shape, np.float32)
        return UpscaleJob(canvas, hole, keep, prompt, strength=enlargement_strength(scale), at=None, source=picture)

    def result_size(self, picture: Any, **inputs: Any) -> tuple[int, int]:
        scale = inputs.get("scale", 2)
        if not isinstance(scale, int) or not 2 <= scale <= LARGEST:
            raise ValueError(f"scale: {scale!r} is not possible; give 2, 3 or 4 (for more, upscale the result again)")
        return picture.width * scale, picture.height * scale

    def canvas(self, pixels: Tensor, hole: Tensor) -> Tensor:
        """The enlarged picture, as it is."""
        return pixels

    def example(self, sample: Sample, generator: torch.Generator) -> Condition:
        """A third of the batch each at x2, x3 and x4, degraded (``photofound.edits.degradation``)."""
        import torch

        from photofound.edits.degradation import degraded_canvas

        factors = torch.arange(len(sample), device=sample.pixels.device) % 3 + 2
        canvas = torch.empty_like(sample.pixels)
        for factor in (2, 3, 4):
            if (chosen := factors == factor).any():
                canvas[chosen] = degraded_canvas(sample.pixels[chosen], factor, generator)
        strength = torch.tensor([enlargement_strength(f) for f in factors.tolist()], device=sample.pixels.device)
        hole = torch.ones_like(sample.pixels[:, :1])
        return self.conditions(sample, hole, canvas=canvas, strength=strength)

    def run(
        self,
        pipe: Any,
        jobs: Sequence[Job],
        generators: Sequence[torch.Generator | None],
        steps: int,
        guidance: float,
        callback: Callable[..., Any] | None = None,
    ) -> list[Picture]:
        """Without steps the upscaler does it, which knows no seed; with steps the transformer."""
        if steps:
            return super().run(pipe, jobs, generators, steps, guidance, callback)
        return [self._enlarged_alone(pipe, job, callback) for job in jobs]

    def _enlarged_alone(self, pipe: Any, job: Job, callback: Callable[..., Any] | None) -> Picture:
        assert isinstance(job, UpscaleJob) and job.source is not None
        width, height = job.picture.size
        made = pipe.enlarge(images.to_tensor(job.source.rgb()), (height, width), callback)
        return self.finish(job, made, Box(0, 0, width, height))

    def finish(self, job: Job, generated: Tensor, box: Box) -> Picture:
        """Back-projected, so that the enlarged picture scaled down is the one that was given."""
        from photofound.edits import composite

        assert isinstance(job, UpscaleJob) and job.source is not None
        low = images.to_tensor(job.source.rgb()).to(generated)
        rgb = images.from_tensor(composite.back_project(generated, low))
        return job.picture.paste(rgb, job.keep, opaque=False)


TASK = Upscale()
