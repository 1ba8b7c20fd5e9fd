"""Cut out: the subject of a photograph on nothing, by a head of the transformer that paints its matte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from photofound.edits.segmenter import Search
from photofound.edits.task import Condition, Job, Sample, Task
from photofound.image import Picture

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from photofound.picture.layers import Layer


class Cutout(Task):
    """Takes the subject out of its background: RGBA, with the photograph's own colours.

    Results have the input's size and an alpha channel: 1 = subject. Where it is 1, the colours are the photograph's bit
    for bit; in the soft band they are the subject's own. There is one right answer, so steps, guidance and seed change
    nothing.
    """

    name = "cutout"
    summary = "take the subject out of its background"
    fit = "canvas"
    needs_object = True
    needs_others = True
    wants_segmenter = True
    generates = False
    needs_network = False
    alpha = True
    regression = True

    def prepare(self, picture: Picture, prompt: str = "", segment: Search | None = None) -> Job:
        """All of the photograph is looked at.

        Raises:
            ValueError: no subject found, unreadable image, bad setting. FileNotFoundError: missing file.
        """
        shape = (picture.height, picture.width)
        return Job(picture, hole=np.ones(shape, np.float32), keep=np.zeros(shape, np.float32), segment=segment)

    def run(
        self,
        pipe: Any,
        jobs: Sequence[Job],
        generators: Sequence[torch.Generator | None],
        steps: int,
        guidance: float,
        callback: Callable[..., Any] | None = None,
    ) -> list[Picture]:
        """A segmenter and ``matting`` do what sampling and ``finish`` do for the other tasks."""
        return [_cut(job.picture, job.segment or pipe.search()) for job in jobs]

    def layers(
        self,
        pipe: Any,
        job: Job,
        generator: torch.Generator | None,
        steps: int,
        guidance: float,
        callback: Callable[..., Any] | None = None,
    ) -> list[Layer]:
        """The subject, and its matte, hidden."""
        from photofound.picture.layers import Layer, mask_layer

        (cut,) = self.run(pipe, [job], [generator], steps, guidance)
        alpha = cut.alpha()
        assert alpha is not None
        return [Layer("subject", cut), mask_layer(cut, alpha)]

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


def _cut(picture: Picture, segment: Search) -> Picture:
    """The picture with its subject's matte as alpha; one that has transparent parts is cut out already. What is
    found is refined, unless its soft edge is to be trusted."""
    from photofound.edits import masks, matting

    own = picture.alpha()
    if own is not None and own.min() < 1:
        return picture.with_alpha(own)
    rgb = picture.rgb()
    matte = masks.cut_out(rgb, segment if segment.fine else lambda rgb: matting.refine(rgb, segment.rough(rgb)))
    # What the file will hold decides where the edge is soft.
    matte = np.rint(matte * picture.depth) / np.float32(picture.depth)
    soft = (matte > 0) & (matte < 1)
    if soft.any():
        colours = matting.subject_colours(rgb, matte)
        picture = picture.paste(colours, (~soft).astype(np.float32), opaque=False, colour=True, flatten=True)
    return picture.with_alpha(matte)


TASK = Cutout()
