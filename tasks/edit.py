"""Edit: change a photograph by an instruction, and put back all that the instruction did not touch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from photofound import image as images
from photofound.edits.task import Condition, Job, Sample, Task, asks
from photofound.image import Picture

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from photofound.edits.geometry import Box


class Edit(Task):
    """Changes a photograph by an instruction. With a mask, all outside it comes back bit for bit; without one, all that
    the model has not changed. Notes say how much was kept. It needs a model that follows instructions
    (docs/models.md)."""

    name = "edit"
    summary = "change a photograph by an instruction"
    fit = "area"
    instructs = True

    def prepare(
        self,
        picture: Picture,
        prompt: Annotated[str, asks("text", "the instruction: make the mug green")] = "",
        mask_image: Annotated[
            Any, asks("mask", "white = may change; left out, what the model changes is found")
        ] = None,
        reference: Annotated[Any, asks("image", "a picture of what to put in, for a model that looks at two")] = None,
    ) -> Job:
        """Check the instruction and the mask.

        Args:
            prompt: the instruction, like ``"make the mug green"``.
            mask_image: white = may change, black = keep, grey = soft edge; None = the change is found by comparison.
            reference: a second picture that the instruction speaks of, of any size: ``"put this cup on the table"``.
                Only for a model that looks at two (docs/models.md).

        Raises:
            ValueError: no instruction, empty or ill-fitting mask, unreadable image, a model that follows no
                instructions.
        """
        if not prompt.strip():
            raise ValueError("prompt: is empty; say what to change, like: make the mug green")
        shape = (picture.height, picture.width)
        seen = None if reference is None else Picture.from_any(reference)
        if mask_image is None:
            all_of_it = np.ones(shape, np.float32)
            return EditJob(picture, all_of_it, 1 - all_of_it, prompt, reference=seen, found=True)
        mask = images.load_mask(mask_image, picture.size)
        images.require_hole(mask)
        return EditJob(picture, (mask > 0).astype(np.float32), 1 - mask, prompt, reference=seen)

    def canvas(self, pixels: Tensor, hole: Tensor) -> Tensor:
        """The photograph, all of it: an instruction is about what is there."""
        return pixels

    def example(self, sample: Sample, generator: torch.Generator) -> Condition:
        raise NotImplementedError("edit: there is no training for instructions; use a guest that follows them")

    def finish(self, job: Job, generated: Tensor, box: Box) -> Picture:
        """The model's pixels where they differ, the photograph's elsewhere."""
        from photofound.edits.registration import changed

        assert isinstance(job, EditJob)
        if job.found:
            given, made = job.picture.crop(box).rgb(), images.from_tensor(generated)
            job = replace(job, hole=(change := changed(made, given)), keep=1 - change)
        kept = float((job.keep == 1).mean())
        return replace(super().finish(job, generated, box), note=f"kept bit for bit: {kept:.0%} of the photograph")


@dataclass(frozen=True)
class EditJob(Job):
    """``found``: the change is found by comparison with what comes back."""

    found: bool = False


TASK = Edit()
