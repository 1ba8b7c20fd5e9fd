"""Drawn photographs: shaded balls and boxes before plain grounds, the same for everybody, without a file.

For trying a training run (``data.drawn: 24``, training/configs/smoke.yaml) and for tests; a model
learns nothing of the world from them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from photofound.data.photograph import Photograph
from photofound.data.store import PhotoStore
from photofound.edits.colours import colour_name


def photographs(count: int, size: int = 96, seed: int = 0) -> list[Photograph]:
    """``count`` pictures of ``size`` x ``size`` pixels with mattes; the first n are the same for every count."""
    return [_draw(size, np.random.default_rng([seed, index])) for index in range(count)]


def store(count: int, sizes: Sequence[int], seed: int = 0) -> PhotoStore:
    """``count`` drawn photographs as a ``PhotoStore`` with short sides ``sizes``."""
    return PhotoStore.build(photographs(count, max(sizes), seed), sizes)


def _draw(size: int, rng: np.random.Generator) -> Photograph:
    """One object, lit from a random side, a soft shadow below it, and a little sensor noise."""
    thing, ground = rng.uniform(20, 235, (2, 3))
    shape = str(rng.choice(["ball", "box"]))
    y, x = np.mgrid[:size, :size] / size
    centre, radius, light = rng.uniform(0.42, 0.58, 2), rng.uniform(0.18, 0.3, 2), rng.uniform(-1, 1, 2)
    v, u = (y - centre[0]) / radius[0], (x - centre[1]) / radius[1]
    distance = np.hypot(v, u) if shape == "ball" else np.maximum(abs(v), abs(u))
    matte = np.clip((1 - distance) * size * radius.min() + 0.5, 0, 1)[..., None]  # edges one pixel wide
    shade = 1 + 0.25 * (light[0] * v + light[1] * u)[..., None]
    shadow = 1 - 0.4 * np.exp(-4 * (u**2 + (4 * (v - 1)) ** 2))[..., None]
    slope = 1 + 0.15 * (light[0] * (y - 0.5) + light[1] * (x - 0.5))[..., None]
    picture = matte * thing * shade + (1 - matte) * ground * slope * shadow
    picture = (picture + rng.normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8)
    return Photograph(
        torch.from_numpy(picture.transpose(2, 0, 1).copy()),
        torch.from_numpy((matte * 255).round().astype(np.uint8).transpose(2, 0, 1).copy()),
        f"A photo of a {colour_name(thing)} {shape} on a {colour_name(ground)} background.",
        "drawn",
    )
