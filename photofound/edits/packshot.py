"""A packshot as layers: background, shadow, reflection, subject. Laid over each other they are the picture.

    shot = prepare(picture, matte, placement, background, shadow)
    picture = finished(shot)            # its layers, laid over each other

Layers have the photograph's own values and colour profile. No network is involved.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from photofound.edits import background as backgrounds
from photofound.edits import shadow as shadows
from photofound.edits.background import Background
from photofound.edits.geometry import Box, bounding_box, grow_box
from photofound.edits.inputs import asks
from photofound.edits.placement import Placed, Placement, place
from photofound.edits.shadow import Shadow
from photofound.edits.task import Job
from photofound.image import Picture
from photofound.picture.layers import Layer, flatten, mask_layer

Reflection = Annotated[Any, asks("share", "how strongly the ground mirrors the subject, like 20%", within=(0, 100))]
_MIRRORED = 0.55  # of the subject's height: how deep its reflection is seen
_FRAME = 0.035  # of the canvas's shorter side: within it a shadow on an even ground fades, so that the frame is even


@dataclass(frozen=True)
class Shot(Job):
    """A packshot made ready. As a Job, ``picture`` and ``keep`` are the subject on its canvas.

    Attributes:
        placed: the subject on its canvas.
        background: what lies behind; None where a model paints it.
        shadow: None for none.
        reflection: how strongly the ground mirrors the subject, in [0, 1].
        photograph, matte: where the subject comes from.
    """

    placed: Placed = dataclasses.field(kw_only=True)
    background: Background | None = None
    shadow: Shadow | None = None
    reflection: float = 0.0
    photograph: Picture = dataclasses.field(kw_only=True)
    matte: np.ndarray = dataclasses.field(kw_only=True)

    @property
    def note(self) -> str:
        """What was done, in words."""
        parts = [f"background: {self.background.note}"] if self.background else []
        return "; ".join([*parts, self.placed.note])


def prepare(
    picture: Picture,
    matte: np.ndarray,
    placement: Placement,
    background: Background | None,
    shadow: Shadow | None = None,
    reflection: float = 0.0,
    photograph: Picture | None = None,
) -> Shot:
    """Place a subject.

    Args:
        picture: with the subject's own colours where ``matte`` (H, W) is soft.
        photograph: as it was before; None = ``picture``.

    Raises ValueError for a subject or a canvas that leaves nothing to do.
    """
    placed = place(picture, matte, placement)
    return Shot(
        placed.picture,
        hole=(placed.matte < 1).astype(np.float32),
        keep=placed.matte,
        at=placed.at,
        placed=placed,
        background=background,
        shadow=shadow,
        reflection=reflection,
        photograph=picture if photograph is None else photograph,
        matte=matte,
    )


def layers(shot: Shot, seed: int = 0) -> list[Layer]:
    """The layers from the bottom to the top, and the matte, hidden. ``seed``: of a drawn surface."""
    return [*_visible_layers(shot, seed), mask_layer(shot.picture, shot.keep)]


def _visible_layers(shot: Shot, seed: int) -> list[Layer]:
    assert shot.background is not None, "a model paints the background"
    ground = backgrounds.render(shot.background, shot.placed, shot.photograph, shot.matte, seed)
    alpha = shot.picture.depth if shot.background.kind != "transparent" else 0
    below, note = _layer(shot, "background", ground, alpha), shot.note
    white = shot.background.colour == (255, 255, 255)
    below = dataclasses.replace(
        below, picture=dataclasses.replace(below.picture, note=note, keep_white=white, generated=False)
    )
    return [below, *upper_layers(shot)]


def upper_layers(shot: Shot) -> list[Layer]:
    """What lies on the background: shadow, reflection, subject; what there is none of is missing."""
    found, depth = [], shot.picture.depth
    if shot.shadow is not None:
        dark = shadows.cast(shot.keep, shot.shadow)
        if shot.background is not None and shot.background.kind == "colour":
            dark = dark * _within_frame(dark.shape)
        black = np.broadcast_to(np.zeros_like(shot.picture.pixels[:1]), shot.picture.pixels.shape)
        found.append(_layer(shot, "shadow", black, np.rint(dark * depth)))
    if shot.reflection > 0:
        found.append(_layer(shot, "reflection", *_mirrored(shot)))
    return [*found, _layer(shot, "subject", shot.picture.pixels, np.rint(shot.keep * depth))]


def finished(shot: Shot, seed: int = 0) -> Picture:
    """The packshot as one picture, with a note of how it was made."""
    return flatten(_visible_layers(shot, seed))


def _layer(shot: Shot, name: str, colours: np.ndarray, alpha: np.ndarray | int) -> Layer:
    import cv2

    pixels = cv2.cvtColor(np.ascontiguousarray(colours, shot.picture.pixels.dtype), cv2.COLOR_RGB2RGBA)
    pixels[..., 3] = alpha
    return Layer(name, dataclasses.replace(shot.picture, pixels=pixels))


def _within_frame(shape: tuple[int, ...]) -> np.ndarray:
    """(H, W): 1, and 0 at the frame."""
    reach = _FRAME * min(shape)
    rows, columns = (
        np.clip((np.minimum(np.arange(n), n - 1 - np.arange(n)) - 1) / reach, 0, 1).astype(np.float32) for n in shape
    )
    return (rows * rows * (3 - 2 * rows))[:, None] * (columns * columns * (3 - 2 * columns))[None]


def _mirrored(shot: Shot) -> tuple[np.ndarray, np.ndarray]:
    """The subject mirrored on the ground, its colours and its alpha in native values: paler and softer with depth."""
    import cv2

    height, width = shot.keep.shape
    box = bounding_box(shot.keep > 0.5)
    line = shadows.standing_line(shot.keep)
    tall, unit = box.height, (box.width * box.height) ** 0.5
    deep = max(1, round(_MIRRORED * tall))
    near = grow_box(
        Box(box.left, box.top, box.right, min(height, box.bottom + deep)), round(0.02 * unit) + 2, 1, width, height
    )
    rows, columns = np.indices((near.height, near.width), np.float32)
    below = rows + near.top + 0.5 - line[None, near.left : near.right]  # depth under the ground's line
    source = line[None, near.left : near.right] - below - 0.5 - near.top
    colours = shot.picture.pixels[near.slices].astype(np.float32)
    alpha = shot.keep[near.slices] * shot.picture.depth
    premultiplied = np.dstack([colours * (alpha[..., None] / shot.picture.depth), alpha])
    turned = cv2.remap(premultiplied, columns, source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    turned *= (below > 0)[..., None]
    depth = np.clip(below / deep, 0, 1)[..., None]
    soft = cv2.GaussianBlur(turned, (0, 0), max(0.5, 0.012 * unit))
    turned = turned + (soft - turned) * np.clip(1.5 * depth, 0, 1)
    own = turned[..., :3] / np.maximum(turned[..., 3:] / shot.picture.depth, 1e-3)
    made = np.zeros_like(shot.picture.pixels)
    made[near.slices] = np.rint(own.clip(0, shot.picture.depth))
    seen = np.zeros((height, width), np.float32)
    seen[near.slices] = np.rint(turned[..., 3] * shot.reflection * (1 - depth[..., 0]) ** 1.6)
    return made, seen
