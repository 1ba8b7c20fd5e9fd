"""Inpaint: repaint what a mask covers, guided by a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from photofound.edits.task import Backdrop, Condition, Input, Job, Sample, Task, drawn_seed
from photofound.picture import image as images
from photofound.picture.image import Picture
from photofound.pipeline import EditOutput, EditPipeline, ImageLike, Settings

if TYPE_CHECKING:
    import torch


class InpaintPipeline(EditPipeline):
    """Repaints the white part of a mask; everything else comes back bit for bit."""

    task_name = "inpaint"

    def __call__(
        self,
        image: ImageLike,
        mask_image: ImageLike | None = None,
        prompt: str = "",
        reference: ImageLike | None = None,
        **settings: Unpack[Settings],
    ) -> EditOutput:
        """Edit one picture.

        Args:
            image: PIL image, numpy array (H, W) or (H, W, C), path or Picture; any size, 8 or 16 bit.
            mask_image: white = repaint, black = keep, grey = soft edge; as large as the image, or of its aspect ratio.
                Coloured and transparent masks: ``photofound.picture.image.load_mask``.
            prompt: what to paint; empty lets the model continue what is around. Where it names nothing but a material,
                a colour or both and the checkpoint wants it (``surfaces`` in its config), a drawn surface is what the
                model starts from.
            reference: a picture of the surface to paint, of any size: its colour and texture. Its middle is taken.
                Only for a model that takes one, or that starts from surfaces: then it is that surface.
            **settings: how to sample and what to return, see ``photofound.pipeline.Settings``.

        Returns:
            EditOutput with ``images``, each of the input's size, and ``notes``: which surface it is, if one is.

        Raises:
            ValueError: empty, full or ill-fitting mask, unreadable image, bad setting. FileNotFoundError: missing file.
        """
        return self.edit(image, settings, mask_image=mask_image, prompt=prompt, reference=reference)


class Inpaint(Task):
    name = "inpaint"
    summary = "repaint what a mask covers"
    inputs = (
        Input("mask_image", "mask", "white = repaint, black = keep", required=True),
        Input("prompt", "text", "what to paint there", default=""),
        Input("reference", "image", "a picture of what to paint there: its colour and texture"),
    )
    pipeline = InpaintPipeline
    exemplars = True

    def prepare(self, picture: Picture, prompt: str = "", mask_image: Any = None, reference: Any = None) -> Job:
        from photofound.edits.surfaces import surface_of

        mask = images.load_mask(mask_image, picture.size)
        images.require_hole(mask)
        wanted = None if reference is None else Picture.from_any(reference)
        hole, ground = (mask > 0).astype(np.float32), wanted or surface_of(prompt, alone=True)
        return Job(picture, hole, keep=1 - mask, prompt=prompt, reference=wanted, ground=ground)

    def backdrop(self, job: Job, generator: torch.Generator | None, surfaces: bool) -> Backdrop | None:
        """The surface that the prompt names, or the reference, in the light of what is around the hole."""
        from photofound.edits import grounds
        from photofound.edits.surfaces import Surface

        if job.ground is None or not surfaces:
            return None
        drawn, seed = isinstance(job.ground, Surface), drawn_seed(generator)
        ground, rgb = job.ground if drawn else job.ground.rgb(), job.picture.rgb(job.hole > 0)
        pixels = grounds.filled(ground, rgb, job.hole, seed)
        return Backdrop(pixels, f"painted: {job.ground.description if drawn else 'as in the reference'}")

    def example(self, sample: Sample, generator: torch.Generator) -> Condition:
        """Strokes, boxes or, where there is one of fair size, the object, dilated."""
        import torch

        from photofound.edits import masks

        batch, size = len(sample), tuple(sample.pixels.shape[-2:])
        kind = masks.uniform((batch, 1, 1, 1), 0, 1, generator)
        hole = torch.where(kind < 0.55, masks.strokes(batch, size, generator), masks.boxes(batch, size, generator))
        objects = masks.grow((sample.matte > 0.1).float(), max(1, min(size) // 32))
        share = objects.mean((1, 2, 3), keepdim=True)
        return self.conditions(sample, torch.where((kind > 0.8) & (share > 0.01) & (share < 0.6), objects, hole))


TASK = Inpaint()
