"""Upscale: enlarge a photograph with plausible detail that agrees with what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Unpack

import numpy as np
import torch

from photofound.edits.geometry import Box
from photofound.edits.task import Condition, Input, Job, Sample, Task, enlargement_strength, get_task
from photofound.model import superresolution
from photofound.picture import image as images
from photofound.picture.image import Picture
from photofound.pipeline import Callback, EditOutput, EditPipeline, ImageLike, Settings

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 4


class UpscalePipeline(EditPipeline):
    """Enlarges a picture; scaled back down, the result is the input."""

    task_name = "upscale"

    def __call__(self, image: ImageLike, scale: int = 2, **settings: Unpack[Settings]) -> EditOutput:
        """Edit one picture.

        Args:
            image: PIL image, numpy array (H, W) or (H, W, C), path or Picture; any size, 8 or 16 bit.
            scale: 2, 3 or 4.
            **settings: how to sample and what to return, see ``photofound.pipeline.Settings``.

        Returns:
            EditOutput with ``images``, each of ``scale`` times the input's size.

        Raises:
            ValueError: another scale, unreadable image, bad setting. FileNotFoundError: missing file.
        """
        return self.edit(image, settings, scale=scale)

    @torch.no_grad()
    def run(
        self,
        jobs: Sequence[Job],
        generators: Sequence[torch.Generator | None],
        steps: int,
        guidance: float,
        callback: Callback | None = None,
    ) -> list[Picture]:
        """Without steps the upscaler does it, which knows no seed; with steps the transformer."""
        if steps:
            return super().run(jobs, generators, steps, guidance, callback)
        return [self._enlarged_alone(job, callback) for job in jobs]

    def _enlarged_alone(self, job: Job, callback: Callback | None) -> Picture:
        assert isinstance(job, UpscaleJob) and job.source is not None
        low = images.to_tensor(job.source.rgb())
        parts = count()

        def step() -> bool:
            if callback is not None:
                callback(self, next(parts), torch.zeros(()), {"latents": low})
            return self.interrupt

        with self._call() as call:
            call.steps = superresolution.part_count(low)
            made = superresolution.enlarged_to(self.upscaler, low, (job.picture.height, job.picture.width), step=step)
        self.maybe_free_model_hooks()
        return get_task("upscale").finish(job, made, Box(0, 0, job.picture.width, job.picture.height))


@dataclass(frozen=True)
class UpscaleJob(Job):
    """``picture`` is the enlarged canvas; ``source`` the picture that was given."""

    source: Picture | None = None


class Upscale(Task):
    name = "upscale"
    summary = "enlarge a photograph"
    inputs = (Input("scale", "int", "2, 3 or 4", default=2, choices=(2, 3, 4)),)
    pipeline = UpscalePipeline
    fit = "tiles"

    def prepare(self, picture: Picture, prompt: str = "", scale: int = 2) -> Job:
        canvas = picture.resize(self.result_size(picture, scale=scale))
        shape = (canvas.height, canvas.width)
        hole, keep = np.ones(shape, np.float32), np.zeros(shape, np.float32)
        return UpscaleJob(canvas, hole, keep, prompt, strength=enlargement_strength(scale), source=picture)

    def result_size(self, picture: Picture, prompt: str = "", scale: int = 2) -> tuple[int, int]:
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

    def finish(self, job: Job, generated: Tensor, box: Box) -> Picture:
        """Back-projected, so that the enlarged picture scaled down is the one that was given."""
        from photofound.edits import composite

        assert isinstance(job, UpscaleJob) and job.source is not None
        low = images.to_tensor(job.source.rgb()).to(generated)
        rgb = images.from_tensor(composite.back_project(generated, low))
        return job.picture.paste(rgb, job.keep, opaque=False)


TASK = Upscale()
