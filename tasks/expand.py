"""Expand: continue a photograph beyond its frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from photofound.edits.geometry import Margins, aspect_margins, parse_length, size_margins
from photofound.edits.task import Condition, Job, Sample, Task, asks
from photofound.image import Picture

if TYPE_CHECKING:
    import torch

SIDES = ("left", "right", "top", "bottom")


class Expand(Task):
    """Paints margins around a picture; the picture itself comes back bit for bit. Results have the input's size plus
    the margins."""

    name = "expand"
    summary = "continue a photograph beyond its frame"
    exemplars = True
    layer_names = ("painted", "photograph")

    def prepare(
        self,
        picture: Picture,
        prompt: Annotated[str, asks("text", "what lies beyond the frame")] = "",
        left: Annotated[int | str, asks("length", "pixels or share (25%) to add on the left")] = 0,
        right: Annotated[int | str, asks("length", "pixels or share (25%) to add on the right")] = 0,
        top: Annotated[int | str, asks("length", "pixels or share (25%) to add on the top")] = 0,
        bottom: Annotated[int | str, asks("length", "pixels or share (25%) to add on the bottom")] = 0,
        aspect: Annotated[Any, asks("aspect", "aspect ratio of the result, W:H")] = None,
        size: Annotated[Any, asks("size", "size of the result, WxH")] = None,
    ) -> Job:
        """Lay the photograph on the larger canvas. Give margins, or an aspect ratio, or a size.

        Args:
            prompt: what lies beyond the frame; empty lets the model continue what is there.
            left, right, top, bottom: pixels to add, or a share of that side's length, like ``"25%"``.
            aspect: W:H of the result, like ``"4:5"``; the picture is centred and only one direction grows.
            size: W x H of the result, like ``"1200x800"``; at least the picture's; the picture is centred.

        Raises:
            ValueError: no margin at all, two ways to say it at once, unreadable image, bad setting. FileNotFoundError:
                missing file.
        """
        sides = {"left": left, "right": right, "top": top, "bottom": bottom}
        m = _margins(picture, sides, aspect, size)
        canvas = picture.extend(m.left, m.top, m.right, m.bottom)
        hole = np.ones((canvas.height, canvas.width), np.float32)
        hole[m.top : m.top + picture.height, m.left : m.left + picture.width] = 0
        return Job(canvas, hole=hole, keep=1 - hole, prompt=prompt, at=(m.left, m.top))

    def result_size(self, picture: Any, **inputs: Any) -> tuple[int, int]:
        sides = {side: inputs.get(side, 0) for side in SIDES}
        m = _margins(picture, sides, inputs.get("aspect"), inputs.get("size"))
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
