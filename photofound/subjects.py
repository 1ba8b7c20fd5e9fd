"""Finding a photograph's subject: by the head ``cutout`` of the transformer, or by another segmenter."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from photofound import image, segmenters
from photofound.edits import composite, geometry
from photofound.edits.condition import Condition
from photofound.edits.geometry import Box
from photofound.edits.segmenter import Search, Segmenter, of_function
from photofound.model import autoencoder
from photofound.model.condition import fold_condition
from photofound.painting import PaintingPipeline, scaled_size

_FIRST_LOOK = 0.625  # of the working size: enough to see where a subject is (docs/experiments.md)
_OUTLINE_SIDE = 512  # long side at which an edit refines an outline that it found; more takes longer than the edit


class SubjectPipeline(PaintingPipeline):
    """A pipeline that can look for the subject of a photograph, if its checkpoint has learnt to."""

    @property
    def has_cutout(self) -> bool:
        """Whether the checkpoint has a head that finds subjects."""
        return self.is_trained("cutout")

    def search(self, segmenter: Any = None, text: str | None = "", points: Any = ()) -> Search:
        """How to find subjects: a function from (H, W, 3) float32 in [0, 1] to the matte (H, W).

        Args:
            segmenter: a name (``photofound.segmenters``), ``cutout`` for the checkpoint's own head, or a function as
                ``segmenter.Find`` says. None: the head where the checkpoint has one, else GrabCut.
            text, points: what it is told of the subject (``segmenter.Search``).

        Raises ValueError for a segmenter that cannot be had, or cannot be told that.
        """
        return Search(self._segmenter(segmenter), text or "", () if points is None else points)

    def _segmenter(self, given: Any) -> Segmenter:
        if given is None or given == "":
            given = "cutout" if self.has_cutout else "grabcut"
        if callable(given):
            return of_function(given, getattr(given, "__name__", "your function"))
        if not isinstance(given, str):
            raise ValueError(f"segmenter: {given!r} is neither a name nor a function from a picture to a matte")
        if given.strip() != "cutout":
            return segmenters.load(given, self._execution_device)
        if not self.has_cutout:
            raise ValueError("segmenter: this model has no head that cuts out; leave the option out, or name another")
        return Segmenter(
            "cutout", lambda picture, **_: self.segment(picture.astype(np.float32) / 255), outline=_OUTLINE_SIDE
        )

    @torch.no_grad()
    def segment(self, rgb: np.ndarray) -> np.ndarray:
        """The subject's matte by the head ``cutout``: where it is is seen in a small picture, then the subject alone is
        looked at, closer, or all of the photograph if the subject fills most of it.

        Args:
            rgb: (H, W, 3) float32 in [0, 1].

        Returns:
            (H, W) float32 in [0, 1], 1 = subject; as fine as the model's working size.
        """
        matte = self._matte(rgb, _FIRST_LOOK)
        height, width = matte.shape
        box = geometry.bounding_box(matte > 0.5) if (matte > 0.5).any() else Box(0, 0, width, height)
        box = geometry.grow_box(box, max(4, max(box.width, box.height) // 6), 16, width, height)
        if max(box.width, box.height) > 0.8 * max(width, height):
            return self._matte(rgb)
        matte[box.slices] = self._matte(rgb[box.slices])
        return matte

    @torch.no_grad()
    def _matte(self, rgb: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """(H, W): one look of the head at (H, W, 3) and its mirror image, at ``scale`` of the working size."""
        whole = Box(0, 0, rgb.shape[1], rgb.shape[0])
        height, width = scaled_size(whole, scale * self.config.tile / max(whole.width, whole.height))
        pixels = self._padded(composite.resize(image.to_tensor(rgb), (height, width)).clamp(-1, 1))
        pixels = torch.cat([pixels, pixels.flip(-1)]).to(self._execution_device)
        condition = Condition(pixels, torch.ones_like(pixels[:, :1]), ["cutout"] * 2, [""] * 2, torch.zeros(2))
        folded = fold_condition(condition, self.vae, self.transformer.config.condition_space)
        latents = folded.new_zeros((2, self.transformer.config.in_channels, *folded.shape[-2:]), dtype=torch.float32)
        velocity = self._velocity(condition, folded.to(self.transformer.dtype), 1.0, condition.hole)
        made = autoencoder.decode(self.vae, latents - velocity(latents, torch.ones(()))).mean(1, keepdim=True)
        self.maybe_free_model_hooks()
        made = ((made[:1] + made[1:].flip(-1)) / 4 + 0.5)[..., :height, :width].cpu()
        return composite.resize(made, rgb.shape[:2])[0, 0].clamp(0, 1).numpy()
