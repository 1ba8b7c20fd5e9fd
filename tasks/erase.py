"""Erase: take an object away; the background closes over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from photofound import image as images
from photofound.edits.task import Condition, Job, Sample, Task, asks
from photofound.image import Picture

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Erase(Task):
    """Removes what a mask covers; everything outside the (grown) mask comes back bit for bit. Results have the input's
    size."""

    name = "erase"
    summary = "take away what a mask covers"
    exemplars = True
    layer_names = ("painted", "photograph")
    rare = frozenset({"effects"})

    def prepare(
        self,
        picture: Picture,
        mask_image: Annotated[Any, asks("mask", "white = the object to take away")],
        grow: Annotated[
            int | None, asks("int", "pixels to widen the mask by; left out, 1.5 % of the short side", within=(0, 1000))
        ] = None,
        prompt: str = "",
        effects: Annotated[bool, asks("flag", "take the object's shadow away, too, where one is found")] = False,
    ) -> Job:
        """Check the mask and widen it.

        Args:
            mask_image: white = the object to take away; as large as the image, or of its aspect ratio. Coloured and
                transparent masks: ``photofound.image.load_mask``.
            grow: pixels by which the mask is widened, so that edges and shadows go too; None = 1.5 % of the short side.
            effects: add the object's shadow to the mask, where one is found beside it
                (``photofound.edits.effects``). What comes back exactly, and a preview shows, is what then remains.

        Raises:
            ValueError: empty, full or ill-fitting mask, unreadable image, bad setting. FileNotFoundError: missing file.
        """
        from photofound.edits import masks

        mask = images.load_mask(mask_image, picture.size)
        images.require_hole(mask)
        if effects:
            from photofound.edits.effects import shadow_beside

            mask = np.maximum(mask, shadow_beside(picture.rgb(), mask))
        if grow is None:
            grow = round(0.015 * min(picture.size))
        if not isinstance(grow, int) or not 0 <= grow <= 1000:
            raise ValueError(f"grow: {grow!r} must be whole pixels from 0 to 1000")
        # The edge of what is marked grows, not its fringe: of that there may be any amount.
        mask = np.maximum(mask, masks.grow_user_mask((mask >= 0.5).astype(np.float32), grow))
        images.require_hole(mask, "grown mask")
        return Job(picture, hole=(mask > 0).astype(np.float32), keep=1 - mask, prompt=prompt)

    def example(self, sample: Sample, generator: torch.Generator) -> Condition:
        """Another picture's object, shrunk and moved, is cut out of the photograph; the target is the photograph.

        Unlike an inpainting hole, it never fits what was there: what comes out of it is background. The model does not
        see what is taken away: kept pixels are exact, so a shadow outside the hole cannot be repainted anyway, and
        without the object the hole starts from the right colour.
        """
        import torch

        from photofound.edits import masks

        batch, size = len(sample), tuple(sample.pixels.shape[-2:])
        strokes = masks.strokes(batch, size, generator, widest=0.4)
        blob = torch.where(
            masks.uniform((batch, 1, 1, 1), 0, 1, generator) < 0.3, masks.boxes(batch, size, generator), strokes
        )
        matte = torch.where(sample.matte.mean((1, 2, 3), keepdim=True) > 0.01, sample.matte, blob)
        hole = _moved((matte.roll(1, 0) > 0.5).float(), generator)
        return self.conditions(sample, masks.grow((hole > 0.5).float(), max(1, min(size) // 48)))


def _moved(matte: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, H, W): each shrunk to 30-90 % and moved by up to 30 % of the picture."""
    import torch
    import torch.nn.functional as F

    from photofound.edits import masks

    batch = len(matte)
    zoom = 1 / masks.uniform((batch,), 0.3, 0.9, generator)
    shift = masks.uniform((batch, 2), -0.6, 0.6, generator) * zoom[:, None]
    theta = torch.zeros(batch, 2, 3, device=matte.device)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = zoom, zoom, shift
    grid = F.affine_grid(theta, list(matte.shape), align_corners=False)
    return F.grid_sample(matte, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


TASK = Erase()
