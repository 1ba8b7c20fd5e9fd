"""Cut out: the subject of a photograph on nothing, by a head of the transformer that paints its matte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

import numpy as np

from photofound.edits.task import Condition, Job, Sample, Task
from photofound.picture.image import Picture
from photofound.pipeline import Callback, EditOutput, EditPipeline, ImageLike, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class CutoutPipeline(EditPipeline):
    """Takes the subject out of its background: RGBA, with the photograph's own colours where it is opaque."""

    task_name = "cutout"

    def __call__(self, image: ImageLike, **settings: Unpack[Settings]) -> EditOutput:
        """Cut out one picture's subject.

        Args:
            image: PIL image, numpy array (H, W) or (H, W, C), path or Picture; any size, 8 or 16 bit.
            **settings: what to return, see ``photofound.pipeline.Settings``; there is one right answer, so steps,
                guidance and seed change nothing.

        Returns:
            EditOutput with ``images``, each of the input's size with an alpha channel: 1 = subject. Where it is 1, the
            colours are the photograph's bit for bit; in the soft band they are the subject's own.

        Raises:
            ValueError: no subject found, unreadable image, bad setting. FileNotFoundError: missing file.
        """
        return self.edit(image, settings)

    def run(
        self,
        jobs: Sequence[Job],
        generators: Sequence[torch.Generator | None],
        steps: int,
        guidance: float,
        callback: Callback | None = None,
    ) -> list[Picture]:
        """One picture per job. The model's matte is only the start here: what it looks at and what becomes of it is
        ``segment`` and ``matting``, in place of sampling and ``finish``."""
        return [self._cut(job.picture) for job in jobs]

    def _cut(self, picture: Picture) -> Picture:
        from photofound.edits import masks, matting

        own = picture.alpha()
        if own is not None and own.min() < 1:  # it is cut out already
            return picture.with_alpha(own)
        rgb = picture.rgb()
        rough = masks.cut_out(rgb, self.segment if self.has_cutout else masks.grabcut)
        matte = masks.cut_out(rgb, lambda rgb: matting.refine(rgb, rough))
        # What the file will hold decides where the edge is soft.
        matte = np.rint(matte * picture.depth) / np.float32(picture.depth)
        soft = (matte > 0) & (matte < 1)
        if soft.any():
            colours = matting.subject_colours(rgb, matte)
            picture = picture.paste(colours, (~soft).astype(np.float32), opaque=False, colour=True, flatten=True)
        return picture.with_alpha(matte)


class Cutout(Task):
    name = "cutout"
    summary = "take the subject out of its background"
    inputs = ()
    pipeline = CutoutPipeline
    fit = "canvas"
    needs_object = True
    needs_others = True
    generates = False
    alpha = True
    regression = True

    def prepare(self, picture: Picture, prompt: str = "") -> Job:
        shape = (picture.height, picture.width)
        return Job(picture, hole=np.ones(shape, np.float32), keep=np.zeros(shape, np.float32))

    def canvas(self, pixels: Tensor, hole: Tensor) -> Tensor:
        """The photograph, all of it."""
        return pixels

    def compose(self, sample: Sample, others: Sample | None, generator: torch.Generator) -> Sample:
        """Objects on other grounds, see ``collage``."""
        from photofound.edits.collage import collage

        return collage(sample, others, generator)

    def example(self, sample: Sample, generator: torch.Generator) -> Condition:
        import torch

        condition = self.conditions(sample, torch.ones_like(sample.matte))
        return replace(condition, prompt=[""] * len(sample))

    def target(self, sample: Sample) -> Tensor:
        """The matte, as a grey picture."""
        return (2 * sample.matte - 1).expand(-1, 3, -1, -1)


TASK = Cutout()
