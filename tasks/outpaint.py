"""Outpaint: keep a product to the pixel, never extend it, and invent its background."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from photofound import image as images
from photofound.edits.geometry import Box
from photofound.edits.task import Backdrop, Condition, Job, Sample, Task, asks, drawn_seed, torch_from
from photofound.image import Picture

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SOLID = 253.5 / 255  # of a matte: what is more opaque shows the background by less than a level of 8 bits


class Outpaint(Task):
    """Replaces the background of a product; where the subject is opaque, its pixels come back bit for bit. Results have
    the input's size and no alpha; their notes say which background it is."""

    name = "outpaint"
    summary = "keep a product to the pixel and invent its background"
    fit = "canvas"
    needs_object = True
    wants_segmenter = True
    layer_names = ("background", "subject")

    def prepare(
        self,
        picture: Picture,
        prompt: Annotated[str, asks("text", "the new background")] = "",
        subject: Annotated[
            Any, asks("mask", "white = keep; left out, the image's alpha, or else an automatic cut-out")
        ] = None,
        reference: Annotated[Any, asks("image", "a picture of the wanted background: its colour and texture")] = None,
        gallery: Annotated[
            Any, asks("folder", "your own backgrounds; chosen by the words of the prompt in their file names")
        ] = None,
        segment: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Job:
        """Find the subject, and the background that is painted if it is not invented.

        Args:
            prompt: the new background, like ``"on a dark red cloth"``. If it names a material, a colour or a studio,
                and the checkpoint wants it (``surfaces`` in its config), the model starts from a drawn surface.
            subject: white = keep; as large as the image, or of its aspect ratio; or a cut-out, whose opaque part is
                kept (``photofound.image.load_mask``). Where the image is transparent, nothing more is kept than its
                alpha shows. None = the image's alpha channel; with no alpha, the
                subject is cut out (``photofound.edits.masks.cut_out``).
            reference: a picture of the wanted background, of any size: its colour and texture. Its middle square is
                looked at. Only for a model that takes one, or that starts from surfaces: then it is that surface.
            gallery: a folder of backgrounds; the one whose file name shares most words with the prompt is taken.

        Raises:
            ValueError: empty, full or ill-fitting subject, unreadable image, bad setting, nothing in the gallery that
                fits. FileNotFoundError: missing file or folder.
        """
        from photofound.edits import surfaces
        from photofound.edits.subject import find

        picture, matte = find(picture, subject, segment)
        wanted = None if reference is None else Picture.from_any(reference)
        own = images.load(surfaces.from_gallery(gallery, prompt)) if gallery else None
        ground = own or wanted or surfaces.surface_of(prompt)
        hole = (matte < SOLID).astype(np.float32)  # behind glass and soft edges there is the new background, too
        return Job(picture, hole, keep=matte, prompt=prompt, reference=wanted, ground=ground)

    def canvas(self, pixels: Tensor, hole: Tensor) -> Tensor:
        """The subject on nothing: its colours must not run into the background, or it would seem to grow."""
        return pixels * (1 - hole)

    def example(self, sample: Sample, generator: torch.Generator) -> Condition:
        """Complete objects by what of them is solid, a little eroded or dilated, since users' mattes are never quite
        right."""
        import torch

        from photofound.edits import masks

        radius = int(torch.randint(-2, 2, (1,), generator=generator, device=generator.device))
        return self.conditions(sample, 1 - masks.grow((sample.matte >= SOLID).float(), radius))

    def target(self, sample: Sample) -> Tensor:
        """The photograph, with the background alone behind what is soft, as far as its surroundings tell: ``finish``
        lays the subject over what is painted there."""
        import torch

        from photofound.edits.composite import harmonic

        soft = (sample.matte > 0) & (sample.matte < 1)
        if not soft.any():
            return sample.pixels
        return torch.where(soft, harmonic(sample.pixels, sample.matte == 0), sample.pixels)

    def backdrop(self, job: Job, generator: torch.Generator | None, surfaces: bool) -> Backdrop | None:
        """The surface that the prompt names, or the user's own picture, with the subject's shadow."""
        from photofound.edits import staging
        from photofound.edits.surfaces import Surface

        drawn, ground = isinstance(job.ground, Surface), job.ground
        own = not drawn and ground is not job.reference  # a reference is for models; those of surfaces start from it
        if ground is None or not (own or surfaces) or not (job.keep > 0.5).any():
            return None
        subject = job.picture.rgb(), job.keep
        pixels = staging.background(ground if drawn else ground.rgb(), *subject, drawn_seed(generator))
        what = ground.description if drawn else ground.path.name if own else "as in the reference"
        return Backdrop(pixels, f"background: {what}")

    def finish(self, job: Job, generated: Tensor, box: Box) -> Picture:
        """The subject over the new background, by its alpha. No seam is closed: it would pull the background towards
        the subject."""
        keep = job.keep[box.slices]
        if job.bare:
            keep = np.zeros_like(keep)
            if job.ground is None:
                generated = _behind(generated, torch_from(job.hole[box.slices]))
        rgb = images.from_tensor(generated)
        return job.picture.paste(rgb, keep, (box.left, box.top), colour=True, flatten=True)


def _behind(generated: Tensor, hole: Tensor) -> Tensor:
    """A background (1, 3, h, w) that goes on behind the subject, smoothly, so that the subject can be moved: the model
    has painted the subject itself there. What is nearest to it shows it, too, and is not gone by."""
    import torch

    from photofound.edits import masks
    from photofound.edits.composite import harmonic

    clear = masks.grow(hole, -max(1, round(0.02 * max(hole.shape[-2:]))))
    clear = clear if clear.any() else hole
    return torch.where(hole > 0, generated, harmonic(generated, clear > 0))


TASK = Outpaint()
