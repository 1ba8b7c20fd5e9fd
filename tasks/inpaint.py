"""Inpaint: repaint what a mask covers, guided by a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from photofound import image as images
from photofound.edits.task import Backdrop, Condition, Job, Sample, Task, asks, drawn_seed
from photofound.image import Picture

if TYPE_CHECKING:
    import torch


class Inpaint(Task):
    """Repaints the white part of a mask; everything else comes back bit for bit. Results have the input's size; their
    notes say which surface was painted, if one was."""

    name = "inpaint"
    summary = "repaint what a mask covers"
    exemplars = True
    layer_names = ("painted", "photograph")

    def prepare(
        self,
        picture: Picture,
        mask_image: Annotated[Any, asks("mask", "white = repaint, black = keep")],
        prompt: Annotated[str, asks("text", "what to paint there")] = "",
        reference: Annotated[Any, asks("image", "a picture of what to paint there: its colour and texture")] = None,
    ) -> Job:
        """Check the mask, and look for a surface that the words name.

        Args:
            mask_image: white = repaint, black = keep, grey = soft edge; as large as the image, or of its aspect ratio.
                Coloured and transparent masks: ``photofound.image.load_mask``.
            prompt: what to paint; empty lets the model continue what is around. If it names only a material, a colour
                or both, and the checkpoint wants it (``surfaces`` in its config), the model starts from a drawn
                surface.
            reference: a picture of the surface to paint, of any size: its colour and texture. Its middle is taken.
                Only for a model that takes one, or that starts from surfaces: then it is that surface.

        Raises:
            ValueError: empty, full or ill-fitting mask, unreadable image, bad setting. FileNotFoundError: missing file.
        """
        from photofound.edits.surfaces import surface_of

        mask = images.load_mask(mask_image, picture.size)
        images.require_hole(mask)
        wanted = None if reference is None else Picture.from_any(reference)
        hole, ground = (mask > 0).astype(np.float32), wanted or surface_of(prompt, alone=True)
        return Job(picture, hole, keep=1 - mask, prompt=prompt, reference=wanted, ground=ground)

    def backdrop(self, job: Job, generator: torch.Generator | None, surfaces: bool) -> Backdrop | None:
        """The surface that the prompt names, or the reference, in the light of what is around the hole."""
        from photofound.edits import staging
        from photofound.edits.surfaces import Surface

        if job.ground is None or not surfaces:
            return None
        drawn, seed = isinstance(job.ground, Surface), drawn_seed(generator)
        ground, rgb = job.ground if drawn else job.ground.rgb(), job.picture.rgb(job.hole > 0)
        pixels = staging.fill(ground, rgb, job.hole, seed)
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
