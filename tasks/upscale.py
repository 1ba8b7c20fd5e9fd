"""Upscale: enlarge a photograph with plausible detail that agrees with what is there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Unpack

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from photofound.edits import composite, masks
from photofound.edits.geometry import Box
from photofound.edits.task import Condition, Input, Job, Sample, Task, enlargement_strength, get_task
from photofound.model import superresolution
from photofound.picture import image as images
from photofound.picture.image import Picture
from photofound.pipeline import Callback, EditOutput, EditPipeline, ImageLike, Settings

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
        """A third of the batch each at x2, x3 and x4, degraded in random order (Real-ESRGAN, arXiv:2107.10833, section
        3.1)."""
        factors = torch.arange(len(sample), device=sample.pixels.device) % 3 + 2
        canvas = torch.empty_like(sample.pixels)
        for factor in (2, 3, 4):
            if (chosen := factors == factor).any():
                canvas[chosen] = degrade(sample.pixels[chosen], factor, generator)
        strength = torch.tensor([enlargement_strength(f) for f in factors.tolist()], device=sample.pixels.device)
        hole = torch.ones_like(sample.pixels[:, :1])
        return self.conditions(sample, hole, canvas=canvas, strength=strength)

    def finish(self, job: Job, generated: Tensor, box: Box) -> Picture:
        """Back-projected, so that the enlarged picture scaled down is the one that was given."""
        assert isinstance(job, UpscaleJob) and job.source is not None
        low = images.to_tensor(job.source.rgb()).to(generated)
        rgb = images.from_tensor(composite.back_project(generated, low))
        return job.picture.paste(rgb, job.keep, opaque=False)


def degrade(pixels: Tensor, factor: int, generator: torch.Generator) -> Tensor:
    """What ``degraded`` gives, enlarged again: (B, 3, H, W) in [-1, 1]."""
    low = degraded(pixels, factor, generator)
    return F.interpolate(low, size=pixels.shape[-2:], mode="bicubic", align_corners=False).clamp(-1, 1)


def degraded(pixels: Tensor, factor: int, generator: torch.Generator, share: float = 0.5) -> Tensor:
    """Shrink (B, 3, H, W) in [-1, 1] by ``factor``, blurred, noised and JPEG-coded each for a part of the batch: (B, 3,
    h, w).

    The rest of the batch, 1 - ``share``, is only shrunk, since many photographs that people enlarge are clean.
    """
    batch, _, height, width = pixels.shape
    on = (torch.rand(3, batch, 1, 1, 1, generator=generator, device=generator.device) < 0.6) & (
        torch.rand(batch, 1, 1, 1, generator=generator, device=generator.device) < share
    )
    sigma = masks.uniform((batch,), 0.3, 0.5 * factor, generator)
    low = torch.where(on[0], masks.blur(pixels, sigma), pixels) if on.any() else pixels
    low = composite.shrink(low, (math.ceil(height / factor), math.ceil(width / factor))).clamp(-1, 1)
    steps = [
        lambda x: torch.where(on[1], _noised(x, generator), x),
        lambda x: torch.where(on[2], _jpeg(x, generator), x),
    ]
    for i in torch.randperm(2, generator=generator, device=generator.device).tolist():
        low = steps[i](low) if on.any() else low
    return low


def _noised(pixels: Tensor, generator: torch.Generator) -> Tensor:
    sigma = masks.uniform((len(pixels), 1, 1, 1), 0.0, 0.08, generator)
    noise = torch.randn(pixels.shape, generator=generator, device=generator.device)
    return (pixels + sigma * noise).clamp(-1, 1)


@cache
def _dct() -> Tensor:
    """The orthonormal 8-point DCT-II matrix."""
    n = torch.arange(8).float()
    matrix = torch.cos((2 * n[None, :] + 1) * n[:, None] * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


# Luminance quantisation of JPEG's annex K, at quality 50; used for the chroma too, which is a milder coder than most.
_QUANTISER = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
).float()
_YCBCR = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def _jpeg(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """What JPEG at quality 40 to 95 does to (B, 3, H, W): 8x8 DCT of YCbCr, quantised, and back."""
    batch, _, height, width = pixels.shape
    quality = masks.uniform((batch, 1, 1, 1, 1, 1), 40, 95, generator)
    table = _QUANTISER.to(pixels) * torch.where(quality < 50, 50 / quality, 2 - quality / 50) / 127.5
    to_ycc, dct = _YCBCR.to(pixels), _dct().to(pixels)
    padded = F.pad(pixels, (0, -width % 8, 0, -height % 8), mode="replicate")
    ycc = torch.einsum("ij,bjhw->bihw", to_ycc, padded)
    blocks = ycc.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # (B, 3, rows, columns, 8, 8)
    coefficients = dct @ blocks @ dct.T
    blocks = dct.T @ ((coefficients / table).round() * table) @ dct
    ycc = blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return torch.einsum("ij,bjhw->bihw", torch.linalg.inv(to_ycc), ycc)[..., :height, :width].clamp(-1, 1)


TASK = Upscale()
