"""Expand: continue a photograph beyond its frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from photofound.edits.geometry import Margins, aspect_margins, parse_length, size_margins
from photofound.edits.task import Condition, Input, Job, Sample, Task
from photofound.picture.image import Picture
from photofound.pipeline import EditOutput, EditPipeline, ImageLike, Settings

if TYPE_CHECKING:
    import torch

SIDES = ("left", "right", "top", "bottom")


class ExpandPipeline(EditPipeline):
    """Paints margins around a picture; the picture itself comes back bit for bit."""

    task_name = "expand"

    def __call__(
        self,
        image: ImageLike,
        prompt: str = "",
        left: int | str = 0,
        right: int | str = 0,
        top: int | str = 0,
        bottom: int | str = 0,
        aspect: str | tuple[float, float] | None = None,
        size: str | tuple[int, int] | None = None,
        **settings: Unpack[Settings],
    ) -> EditOutput:
        """Edit one picture. Give margins, or an aspect ratio, or a size.

        Args:
            image: PIL image, numpy array (H, W) or (H, W, C), path or Picture; any size, 8 or 16 bit.
            prompt: what lies beyond the frame; empty lets the model continue what is there.
            left, right, top, bottom: pixels to add, or a share of that side's length, like ``"25%"``.
            aspect: W:H of the result, like ``"4:5"``; the picture is centred and only one direction grows.
            size: W x H of the result, like ``"1200x800"``; at least the picture's; the picture is centred.
            **settings: how to sample and what to return, see ``photofound.pipeline.Settings``.

        Returns:
            EditOutput with ``images``, each of the input's size plus the margins.

        Raises:
            ValueError: no margin at all, two ways to say it at once, unreadable image, bad setting. FileNotFoundError:
                missing file.
        """
        margins = {"left": left, "right": right, "top": top, "bottom": bottom}
        return self.edit(image, settings, prompt=prompt, aspect=aspect, size=size, **margins)


class Expand(Task):
    name = "expand"
    summary = "continue a photograph beyond its frame"
    inputs = (
        *(Input(side, "length", f"pixels or share (25%) to add on the {side}", default=0) for side in SIDES),
        Input("aspect", "aspect", "aspect ratio of the result, W:H"),
        Input("size", "size", "size of the result, WxH"),
        Input("prompt", "text", "what lies beyond the frame", default=""),
    )
    pipeline = ExpandPipeline
    exemplars = True

    def prepare(
        self, picture: Picture, prompt: str = "", aspect: Any = None, size: Any = None, **sides: int | str
    ) -> Job:
        m = _margins(picture, sides, aspect, size)
        canvas = picture.extend(m.left, m.top, m.right, m.bottom)
        hole = np.ones((canvas.height, canvas.width), np.float32)
        hole[m.top : m.top + picture.height, m.left : m.left + picture.width] = 0
        return Job(canvas, hole=hole, keep=1 - hole, prompt=prompt)

    def result_size(
        self, picture: Picture, aspect: Any = None, size: Any = None, prompt: str = "", **sides: int | str
    ) -> tuple[int, int]:
        m = _margins(picture, sides, aspect, size)
        return picture.width + m.left + m.right, picture.height + m.top + m.bottom

    def example(self, sample: Sample, generator: torch.Generator) -> Condition:
        from photofound.edits import masks

        return self.conditions(sample, masks.borders(len(sample), tuple(sample.pixels.shape[-2:]), generator))


def _margins(picture: Picture, sides: dict[str, int | str], aspect: Any, size: Any) -> Margins:
    whole = {"left": picture.width, "right": picture.width, "top": picture.height, "bottom": picture.height}
    margins = Margins(**{side: parse_length(value or 0, whole[side], side) for side, value in sides.items()})
    ways = [bool(margins), aspect is not None, size is not None]
    if sum(ways) > 1:
        raise ValueError("expand: give either margins (left, right, top, bottom), or aspect, or size, not two of them")
    if aspect is not None:
        margins = aspect_margins(*picture.size, aspect)
    if size is not None:
        margins = size_margins(*picture.size, size)
    if not margins:
        raise ValueError(
            f"expand: nothing to add to {picture.width}x{picture.height}; give a margin, another aspect or a size"
        )
    return margins


TASK = Expand()
