"""Surfaces drawn in code: wood, marble, linen, ... in any colour, lit, flat or receding to a horizon; and the words for
them.

A model of a few million parameters does not know what wood is. A drawn surface gives it the material, the colour and
the perspective that a prompt asks for; joining them with a product is `grounds` and the model.

Units: 1 is the square root of the picture's area, so a plank is as wide in a small picture as in a large one. Noise is
value noise on lattices in these units (Perlin 1985; Ebert et al., "Texturing and Modeling", chapter 2): a seed gives
the same structure at every size. Pictures are (H, W, 3) float32 sRGB in [0, 1].
"""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from photofound.edits.colours import colour_name, lab
from photofound.image import READABLE_SUFFIXES

RGB = tuple[int, int, int]
VIEWS = ("ground", "wall", "flat")

_LEAST = 16  # pixels of a side
_WORK = 1024  # longest side that is drawn; larger pictures are enlarged from it, with grain of their own
_SHARP = 0.8  # texels per pixel at the near edge of a ground: it is seen enlarged there, as a lens blurs it
_STEEP = 1.35  # how much of the ground's depth a row shows: 1 / sin of the camera's pitch
_HORIZON = 0.36  # the horizon lies this much above the ground's far edge
_EDGE = 0.4  # where the ground ends by default, from the top


@dataclass(frozen=True)
class Surface:
    """What a background is made of.

    Attributes:
        material: a name in ``MATERIALS``.
        colour: sRGB, 0..255, of its mean.
        view: ``ground``: it recedes below a blurred room; ``wall``: upright, with a floor of the same; ``flat``: seen
            from straight above.
    """

    material: str
    colour: RGB
    view: str = "ground"

    def __post_init__(self) -> None:
        if self.material not in MATERIALS:
            raise ValueError(f"surface: {self.material!r} is unknown; choose one of {', '.join(sorted(MATERIALS))}")
        if self.view not in VIEWS:
            raise ValueError(f"surface: view {self.view!r} is unknown; choose one of {', '.join(VIEWS)}")
        if len(self.colour) != 3 or not all(0 <= part <= 255 for part in self.colour):
            raise ValueError(f"surface: colour {self.colour!r} must be three values from 0 to 255")

    @property
    def is_blank(self) -> bool:
        """Whether every pixel is to be white, as marketplaces ask for: "pure white"."""
        return self.material == "sweep" and tuple(self.colour) == (255, 255, 255)

    @property
    def description(self) -> str:
        """Like ``wood, brown``."""
        return f"{self.material}, {colour_name(np.array(self.colour, np.float32))}"


# ------------------------------------------------------------------------------------------------------ noise on planes


class Plane:
    """A rectangle of a material from straight above, ``height`` x ``width`` units at ``scale`` pixels per unit."""

    def __init__(self, height: float, width: float, scale: float, seed: int) -> None:
        self.height, self.width, self.scale, self.seed = height, width, scale, seed
        self.shape = max(1, round(height * scale)), max(1, round(width * scale))

    def rng(self, name: str, number: int = 0) -> np.random.Generator:
        """A generator of its own for every purpose, so that leaving one out does not change the others."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode()), number])

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixel centres in units: y (H, 1) and x (1, W)."""
        y, x = ((np.arange(n, dtype=np.float32) + 0.5) / self.scale for n in self.shape)
        return y[:, None], x[None, :]

    def noise(self, name: str, rows: float, columns: float | None = None, number: int = 0) -> np.ndarray:
        """(H, W) smooth noise of about unit variance with so many cells per unit down and across; zeros where they are
        finer than the pixels."""
        import cv2

        cells = rows, rows if columns is None else columns
        if max(cells) > 0.8 * self.scale:
            return np.zeros(self.shape, np.float32)
        sides = [math.ceil(length * n) + 3 for length, n in zip((self.height, self.width), cells, strict=True)]
        lattice = self.rng(name, number).standard_normal(sides, np.float32) * np.float32(1.5)
        size = [math.ceil(side * self.scale / n) for side, n in zip(sides, cells, strict=True)]
        fine = cv2.resize(lattice, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
        top, left = (round(self.scale / n) for n in cells)
        return fine[top : top + self.shape[0], left : left + self.shape[1]]

    def fractal(
        self, name: str, rows: float, columns: float | None = None, octaves: int = 5, gain: float = 0.5
    ) -> np.ndarray:
        """(H, W), octaves of ``noise``, each twice as fine and ``gain`` times as strong; about unit variance."""
        import cv2

        columns = rows if columns is None else columns
        coarse = Plane(self.height, self.width, self.scale / 4, self.seed)  # smooth octaves need few pixels
        smooth, fine = np.zeros(coarse.shape, np.float32), np.zeros(self.shape, np.float32)
        power, drawn = 0.0, False
        for i in range(octaves):
            cells, strength = (rows * 2**i, columns * 2**i), np.float32(gain**i)
            power += gain ** (2 * i)
            if max(cells) < coarse.scale / 5:
                smooth += strength * coarse.noise(name, *cells, i)
                drawn = True
            else:
                fine += strength * self.noise(name, *cells, i)
        if drawn:
            fine += cv2.resize(smooth, self.shape[::-1], interpolation=cv2.INTER_LINEAR)
        fine /= np.float32(math.sqrt(power))
        return fine


@dataclass
class Skin:
    """A material's look on a plane, all (H, W).

    Attributes:
        tone: logarithm of the brightness, about 0.
        bump: height in units, which the light makes visible.
        mix: share of the second colour, in [0, 1].
    """

    tone: np.ndarray
    bump: np.ndarray | None = None
    mix: np.ndarray | None = None


def _step(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Smooth step from 0 at ``low`` to 1 at ``high``."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _blur(x: np.ndarray, sigma: float) -> np.ndarray:
    import cv2

    return cv2.GaussianBlur(x, (0, 0), sigma) if sigma > 0.3 else x


def _wood(plane: Plane) -> Skin:
    """Planks with year rings that run out in arches, pores along the grain, and joints."""
    y, x = plane.grid()
    rng, plank = plane.rng("plank"), 0.24
    y = y + np.float32(rng.uniform(0, plank))
    index = np.floor(y[:, 0] / plank).astype(int)
    count = index.max() + 1
    middle = (np.arange(count) + rng.uniform(-0.3, 1.3, count)) * plank
    across = y - middle[index].astype(np.float32)[:, None]
    along = plane.fractal("run", 1.2, 0.9, 2)  # the trunk bends
    wide = plane.fractal("swell", 5, 0.7, 3)
    field = np.sqrt(across**2 * 2.2 + (0.05 + 0.045 * along) ** 2) + 0.012 * wide
    field += 0.0012 * plane.noise("rough", 90, 7)
    ring = field * 46
    wave = ring - np.floor(ring)
    late = wave**3 * (1 - _step(wave, 0.88, 1.0))  # early wood darkens slowly, and ends at once
    grain = plane.fractal("grain", 70, 2.2, 4, 0.7)
    pores = _step(plane.noise("pores", 190, 9), 1.1, 2.4)
    tone = -0.42 * late + 0.07 * grain - 0.2 * pores + 0.05 * plane.fractal("stain", 1.5, 0.8, 4)
    tone += rng.uniform(-0.13, 0.13, count).astype(np.float32)[index][:, None]
    gap = np.abs(y / plank - np.round(y / plank)) * plank
    joint = 1 - _step(gap, 0.0008, 0.0032)
    # Every plank ends somewhere, at another place than its neighbours.
    length, start = 2.6, rng.uniform(0, 2.6, count).astype(np.float32)
    run = (x + start[index][:, None]) / length
    joint = np.maximum(joint, 1 - _step(np.abs(run - np.round(run)) * length, 0.0008, 0.0032))
    return Skin(tone - 1.1 * joint, -0.002 * joint - 0.0004 * pores, np.clip(0.25 + 0.6 * late + 0.1 * grain, 0, 1))


def _marble(plane: Plane) -> Skin:
    """Veins are where fractal noise passes zero; they swell, fade and run more one way than the other."""
    cloud = plane.fractal("cloud", 1.3, 1.8, 5, 0.55)
    veins = np.zeros(plane.shape, np.float32)
    for number, (rows, columns, width, strength) in enumerate(
        ((0.8, 1.5, 0.03, 1.0), (1.5, 2.3, 0.024, 0.5), (3.2, 4.4, 0.03, 0.28))
    ):
        field = plane.fractal(f"vein{number}", rows, columns, 7, 0.52) + 0.35 * number
        presence = _step(plane.fractal(f"fade{number}", 1.1, 1.1, 3), -0.5, 1.4)
        wide = width * (0.4 + 1.6 * presence)
        vein = strength * presence * (np.exp(-np.abs(field) / wide) + 0.35 * np.exp(-((field / (6 * wide)) ** 2)))
        veins = np.maximum(veins, vein)
    smoke = _step(cloud, 0.2, 2.2) * 0.28
    tone = 0.018 * cloud + 0.008 * plane.fractal("speck", 60, 60, 3)
    return Skin(tone, None, np.clip(0.85 * veins + smoke, 0, 1))


def _weave(plane: Plane, threads: float, slub: float) -> tuple[np.ndarray, np.ndarray]:
    """Tone and height of a plain weave with uneven threads."""
    y, x = plane.grid()
    rng = plane.rng("weave")
    y, x = y + np.float32(rng.uniform(0, 0.1)), x + np.float32(rng.uniform(0, 0.1))
    wobble = 0.12 * plane.noise("wobble-x", 9, 9), 0.12 * plane.noise("wobble-y", 9, 9)
    u, v = x * threads + wobble[0], y * threads + wobble[1]
    over = np.sign(np.sin(math.pi * u) * np.sin(math.pi * v))
    warp, weft = np.abs(np.sin(math.pi * u)), np.abs(np.sin(math.pi * v))
    height = np.where(over > 0, warp**0.6 * (0.55 + 0.45 * weft), weft**0.6 * (0.55 + 0.45 * warp))
    thick = np.where(over > 0, plane.noise("slub-x", 5, threads), plane.noise("slub-y", threads, 5))
    fibre = plane.noise("fibre", threads * 2, threads * 2)
    visible = min(1.0, plane.scale / threads / 3)  # threads finer than pixels are seen as their mean
    return visible * 0.34 * (height - 0.62) + slub * thick + 0.04 * fibre, height.astype(np.float32)


def _linen(plane: Plane) -> Skin:
    tone, _ = _weave(plane, 140, 0.055)
    streaks = plane.fractal("streak-y", 50, 0.9, 2) + plane.fractal("streak-x", 0.9, 50, 2)
    folds = 0.012 * plane.fractal("fold", 1.1, 1.4, 3, 0.4)
    return Skin(tone + 0.03 * streaks, folds)


def _cloth(plane: Plane) -> Skin:
    """Long soft folds that cross at low angles, in a fine weave."""
    import cv2

    coarse = Plane(plane.height, plane.width, plane.scale / 4, plane.seed)  # folds are smooth
    y, x = coarse.grid()
    rng = coarse.rng("folds")
    bend = 0.13 * coarse.fractal("bend", 1.1, 1.1, 2)
    height = 0.028 * coarse.fractal("drape", 1.3, 1.3, 2, 0.35)
    for number in range(4):
        angle, pitch = rng.uniform(0.1, 0.9) * rng.choice([-1, 1]), rng.uniform(0.9, 2.2)
        phase = (x * math.cos(angle) + y * math.sin(angle) + bend) * pitch + rng.uniform()
        ridge = (0.5 + 0.5 * np.cos(2 * math.pi * phase)) ** 2.5  # narrow on top, wide in the valley
        swell = _step(coarse.noise(f"swell{number}", 1.0, 1.0), -0.6, 1.6)
        height = height + 0.055 * swell * ridge / pitch
    tone, _ = _weave(plane, 220, 0.02)
    height = cv2.resize(height.astype(np.float32), plane.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return Skin(0.5 * tone + 0.02 * plane.fractal("dye", 2, 2, 4), height)


def _concrete(plane: Plane) -> Skin:
    stain = plane.fractal("stain", 1.4, 1.4, 6, 0.6)
    flow = plane.fractal("flow", 1.2, 6.0, 4, 0.55)
    grit = plane.fractal("grit", 80, 80, 3, 0.8)
    pits = 0.8 * _step(plane.noise("pits", 60, 60), 3.0, 3.6) + 0.6 * _step(plane.noise("pinholes", 130, 130), 2.7, 3.4)
    crack = np.exp(-np.abs(plane.fractal("crack", 0.7, 0.7, 7, 0.55)) / 0.003)
    crack *= _step(plane.noise("crack-fade", 0.9, 0.9), 0.9, 1.9)
    tone = 0.06 * stain + 0.03 * flow + 0.03 * grit - 0.3 * pits - 0.22 * crack
    return Skin(tone, -0.001 * pits + 0.0002 * grit + 0.0012 * stain)


def _plaster(plane: Plane) -> Skin:
    """Strokes of a trowel that overlap, over a wall that is not quite even."""
    way = plane.fractal("way", 2.2, 2.2, 2)
    a, b = plane.fractal("stroke-a", 9, 3.5, 3, 0.45), plane.fractal("stroke-b", 3.5, 9, 3, 0.45)
    share = _step(way, -0.25, 0.25)
    relief = np.maximum(a * share, b * (1 - share))  # where one stroke lies over another it leaves a ridge
    tone = 0.02 * plane.fractal("stain", 1.5, 1.5, 4) + 0.014 * plane.fractal("grit", 90, 90, 3, 0.8)
    return Skin(tone, 0.0024 * relief + 0.003 * plane.fractal("uneven", 2, 2, 2))


def _paper(plane: Plane) -> Skin:
    fibres = plane.fractal("fibre", 60, 60, 4, 0.8)
    return Skin(0.008 * fibres + 0.012 * plane.fractal("pulp", 6, 6, 4), 0.00016 * plane.fractal("tooth", 110, 110, 2))


def _sand(plane: Plane) -> Skin:
    """Ripples of the wind under grains of several shades."""
    y, x = plane.grid()
    bend = plane.fractal("bend", 0.9, 1.3, 4, 0.5)
    phase = y * 7.5 + 0.9 * bend + 0.25 * x
    wave = phase - np.floor(phase)
    ripple = np.where(wave < 0.65, wave / 0.65, (1 - wave) / 0.35)  # the lee side is steeper
    ripple = ripple * ripple * (3 - 2 * ripple) * (0.35 + 0.65 * _step(plane.noise("calm", 1.1, 1.1), -1.2, 1.0))
    grains = plane.noise("grain", plane.scale / 1.6) + 0.8 * plane.noise("coarse", 150, 150)
    specks = _step(plane.noise("speck", 120, 120), 2.3, 3.2)
    tone = 0.055 * grains + 0.04 * plane.fractal("damp", 1.2, 1.2, 5) - 0.3 * specks
    return Skin(tone, 0.011 * ripple + 0.003 * plane.fractal("dune", 2.5, 2.5, 4), 0.3 + 0.12 * grains.clip(-2, 2))


def _tiles(plane: Plane) -> Skin:
    """Square tiles with rounded edges in grout."""
    y, x = plane.grid()
    side, rng = 0.34, plane.rng("tiles")
    y, x = y + np.float32(rng.uniform(0, side)), x + np.float32(rng.uniform(0, side))
    row, column = np.floor(y / side).astype(int), np.floor(x / side).astype(int)
    shade = rng.uniform(-1, 1, (row.max() + 1, column.max() + 1)).astype(np.float32)[row, column]
    edge = np.minimum(np.abs(y / side - np.round(y / side)), np.abs(x / side - np.round(x / side))) * side
    grout, bevel = 1 - _step(edge, 0.003, 0.0055), _step(edge, 0.003, 0.011)
    cloud = plane.fractal("glaze", 3, 3, 5, 0.55)
    tone = 0.06 * shade + 0.035 * cloud - 0.38 * grout + 0.012 * plane.fractal("grit", 80, 80, 2) * (1 + 3 * grout)
    return Skin(tone, 0.004 * bevel + 0.0008 * cloud, 0.6 * grout)


def _stone(plane: Plane) -> Skin:
    """Slate: layers that break off in steps, with a fine grain."""
    field = plane.fractal("layer", 1.6, 2.2, 6, 0.55) * 1.6
    step = np.floor(field)
    rise = _step(field - step, 0.0, 0.12)
    grit = plane.fractal("grit", 40, 40, 5, 0.75)
    tone = 0.05 * grit + 0.05 * plane.fractal("tint", 1.2, 1.2, 4) + 0.04 * np.sin(step * 2.4)
    return Skin(tone, 0.006 * (step + rise) + 0.0009 * grit, np.clip(0.3 + 0.2 * np.sin(step * 1.7), 0, 1))


def _grass(plane: Plane) -> Skin:
    """What lies between the blades, which are drawn one by one (``_blades``)."""
    tone = 0.16 * plane.fractal("tuft", 9, 9, 4, 0.7) + 0.08 * plane.fractal("patch", 1.2, 1.2, 3)
    return Skin(tone - 0.2, None, np.clip(0.4 + 0.2 * plane.fractal("dry", 2.5, 2.5, 4), 0, 1))


def _sweep(plane: Plane) -> Skin:
    return Skin(0.003 * plane.fractal("even", 1.5, 1.5, 3))


MATERIALS: dict[str, Callable[[Plane], Skin]] = {
    "wood": _wood, "marble": _marble, "linen": _linen, "cloth": _cloth, "concrete": _concrete, "plaster": _plaster,
    "paper": _paper, "sand": _sand, "tiles": _tiles, "stone": _stone, "grass": _grass, "sweep": _sweep, "bokeh": _sweep,
}  # fmt: skip

DEFAULTS: dict[str, RGB] = {
    "wood": (150, 104, 66), "marble": (228, 227, 225), "linen": (207, 196, 178), "cloth": (196, 190, 182),
    "concrete": (150, 149, 147), "plaster": (222, 217, 209), "paper": (238, 236, 231), "sand": (205, 179, 139),
    "tiles": (221, 222, 220), "stone": (92, 94, 98), "grass": (92, 128, 48), "sweep": (228, 228, 228),
    "bokeh": (58, 48, 46),
}  # fmt: skip
_SEAMLESS = ("sweep", "cloth", "paper", "linen", "bokeh")  # hung up behind the product: they have no far edge
_OUTDOORS = ("grass", "sand")
_OWN = ("grass", "wood", "marble", "concrete")  # a word for the colour that they have anyway changes nothing


# ------------------------------------------------------------------------------------------------------------ rendering


def render(
    surface: Surface, size: tuple[int, int], seed: int = 0, light: float = 0.4, edge: float = _EDGE
) -> np.ndarray:
    """A photograph of a surface with nothing on it.

    Args:
        surface: what, in which colour, from where.
        size: (width, height) in pixels.
        seed: same seed, same pixels; another one, another piece of the material.
        light: the side that the light comes from, -1 = left to 1 = right; it is above and in front.
        edge: where the ground ends or meets the wall, in shares of the height from the top.

    Returns:
        (H, W, 3) float32 in [0, 1].

    Raises ValueError for a size or a value that cannot be.
    """
    import cv2

    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"size: {size} must be at least 1x1 pixels")
    if not -1 <= light <= 1 or not 0 < edge < 1:
        raise ValueError(f"light: {light!r} must be from -1 to 1, edge: {edge!r} between 0 and 1")
    if surface.is_blank:
        return np.ones((height, width, 3), np.float32)
    scale = min(1.0, _WORK / max(width, height))
    work = max(_LEAST, round(width * scale)), max(_LEAST, round(height * scale))
    made = _drawn(surface, work, seed, light, edge)
    if work != size:
        made = cv2.resize(made, size, interpolation=cv2.INTER_CUBIC if scale < 1 else cv2.INTER_AREA)
    return with_grain(made, seed, 0.007, _FINENESS[surface.material] if scale < 1 else 0.0)


_FINENESS = {
    "wood": 0.025, "marble": 0.006, "linen": 0.04, "cloth": 0.02, "concrete": 0.035, "plaster": 0.015, "paper": 0.01,
    "sand": 0.06, "tiles": 0.01, "stone": 0.04, "grass": 0.05, "sweep": 0.0, "bokeh": 0.0,
}  # fmt: skip
_GRAIN_TILE = 509  # film grain repeats after so many pixels


def with_grain(pixels: np.ndarray, seed: int, amount: float, detail: float = 0.0) -> np.ndarray:
    """Film grain added in place to (H, W, 3), clipped to [0, 1].

    Args:
        amount: standard deviation of the grain, which is mostly of lightness and a little of colour.
        detail: of a texture finer than what was drawn, as a share of each pixel's brightness.
    """
    rng = np.random.default_rng([seed, 2])

    def noise(sigma: float) -> np.ndarray:
        made = _blur(rng.standard_normal((_GRAIN_TILE, _GRAIN_TILE), np.float32), sigma)
        return made / made.std()

    luma, red, blue = noise(0.6), noise(0.8), noise(0.8)
    tile = np.float32(amount) * np.stack([luma + 0.25 * red, luma, luma + 0.25 * blue], -1)
    gain = 1 + np.float32(detail) * noise(1.6)[..., None] if detail else None
    for top in range(0, pixels.shape[0], _GRAIN_TILE):
        for left in range(0, pixels.shape[1], _GRAIN_TILE):
            part = pixels[top : top + _GRAIN_TILE, left : left + _GRAIN_TILE]
            height, width = part.shape[:2]
            if gain is not None:
                part *= gain[:height, :width]
            part += tile[:height, :width]
            np.clip(part, 0, 1, out=part)
    return pixels


def _drawn(surface: Surface, size: tuple[int, int], seed: int, light: float, edge: float) -> np.ndarray:
    width, height = size
    unit = math.sqrt(width * height)
    if surface.view == "flat":
        made = _lit(surface, Plane(height / unit, width / unit, unit, seed), light)
        if surface.material == "grass":
            made = _blades(made, surface, seed, None)
        return made * _pool(size, light, 0.5, 0.16)[..., None]
    if surface.material == "bokeh":
        return _bokeh(surface, size, seed, edge)
    ground = _ground(surface, size, seed, light, edge)
    if surface.material in _SEAMLESS and surface.view == "ground" or surface.material == "sweep":
        behind = _hung(surface, size, seed, light)
        soft = _rows(size, edge, 0.16 if surface.material == "sweep" else 0.07)
        shade = 1 - 0.07 * np.exp(-(((np.arange(height) / height - edge - 0.02) / 0.09) ** 2))
        made = (behind * (1 - soft) + ground * soft) * shade[:, None, None].astype(np.float32)
    elif surface.view == "wall":
        behind = _hung(surface, size, seed + 17, light)
        y = np.arange(height, dtype=np.float32) / height - edge
        corner = 1 - 0.3 * np.exp(-np.abs(y) / np.where(y < 0, 0.07, 0.035))
        soft = _rows(size, edge, 0.007)
        made = (behind * (1 - soft) + ground * soft * 0.93) * corner[:, None, None]
    else:
        soft = _rows(size, edge, 0.02 if surface.material in _OUTDOORS else 0.009)
        made = _room(surface, size, seed, light) * (1 - soft) + ground * soft
        if surface.material == "grass":
            made = _blades(made, surface, seed, edge)
    return (made * _pool(size, light, 0.62, 0.22)[..., None]).astype(np.float32)


def _rows(size: tuple[int, int], edge: float, soft: float) -> np.ndarray:
    """(H, 1, 1): 0 above the edge, 1 below."""
    y = (np.arange(size[1], dtype=np.float32) + 0.5) / size[1]
    return _step(y, edge - soft, edge + soft)[:, None, None]


def _pool(size: tuple[int, int], light: float, middle: float, depth: float) -> np.ndarray:
    """(H, W): a large soft lamp and the lens's vignette; 1 on average over the middle."""
    y = ((np.arange(size[1], dtype=np.float32) + 0.5) / size[1])[:, None]
    x = ((np.arange(size[0], dtype=np.float32) + 0.5) / size[0])[None, :]
    lamp = np.exp(-(((x - 0.5 - 0.3 * light) / 0.75) ** 2) - ((y - middle) / 0.75) ** 2)
    vignette = (x - 0.5) ** 2 + (y - 0.5) ** 2
    return (1 + depth * (lamp - 0.72) - 0.3 * depth * vignette + 0.04 * light * (x - 0.5)).astype(np.float32)


def _lit(surface: Surface, plane: Plane, light: float, strength: float = 1.0) -> np.ndarray:
    """The material on a plane in its colour; its height shaded by a lamp (Lambert), its mean the surface's colour."""
    skin = MATERIALS[surface.material](plane)
    tone = skin.tone
    if skin.bump is not None:
        slope_y, slope_x = np.gradient(_blur(skin.bump, 0.6) * np.float32(plane.scale))
        direction = light if abs(light) > 0.3 else math.copysign(0.3, light)
        shade = slope_x * np.float32(-direction) + slope_y * np.float32(0.7)
        tone = tone + np.tanh(shade * strength * 1.3).astype(np.float32) * 0.55
    base, second = (c.astype(np.float32) / 255 for c in _palette(surface))
    made = base[None, None] * np.exp(tone)[..., None]
    if skin.mix is not None:
        made += (second - base)[None, None] * skin.mix[..., None] * np.exp(tone)[..., None]
    target = np.array(surface.colour, np.float32) / 255
    made *= (target / np.maximum(made.mean((0, 1)), 1e-3))[None, None]
    return _shoulder(made)


def _shoulder(x: np.ndarray) -> np.ndarray:
    """Highlights roll off as in a photograph: the identity up to 0.85, below 1 for everything."""
    over = np.maximum(x - 0.85, 0)
    return np.where(x > 0.85, 0.85 + 0.15 * (1 - np.exp(-over / 0.15)), x) if over.max() > 0.15 else x


def _palette(surface: Surface) -> tuple[np.ndarray, np.ndarray]:
    """A surface's first and second colour, sRGB 0..255."""
    base = np.array(surface.colour, np.float64)
    grey = np.full(3, base.mean())
    light = base.mean() > 90
    second = {
        "wood": base * (0.78, 0.68, 0.56) if light else base * 0.6,
        "marble": 0.35 * base + 0.65 * grey * 0.5 if light else base * 0.4 + 150,
        "sand": base * (0.86, 0.8, 0.72),
        "tiles": 0.6 * base + 0.4 * grey,
        "stone": base * (1.08, 1.02, 0.92),
        "grass": base * (1.25, 1.05, 0.9),
    }.get(surface.material, base)
    return base, np.clip(second, 0, 255)


def _ground(surface: Surface, size: tuple[int, int], seed: int, light: float, edge: float) -> np.ndarray:
    """(H, W, 3), the plane in perspective; only rows below ``edge`` are meant to be seen."""
    import cv2

    width, height = size
    unit = math.sqrt(width * height)
    rng = np.random.default_rng([seed, 77])
    horizon = edge - _HORIZON
    y = (np.arange(height, dtype=np.float32) + 0.5) / height
    near = np.maximum((y - horizon) / (1 - horizon), (edge - 0.03 - horizon) / (1 - horizon))  # scale, 1 at the bottom
    depth = _STEEP * (1 - horizon) * (1 / near - 1) * height / unit
    turn = 0.05 * rng.standard_normal() if surface.material != "wood" else 0.02 * rng.standard_normal()
    length, breadth = float(depth.max()) + 0.05, width / unit / float(near.min()) + 0.1
    along = surface.material == "wood" and rng.uniform() < 0.35  # planks that run away from us
    turned = (breadth, length) if along else (length, breadth)
    plane = Plane(turned[0] + 0.2, turned[1] + 0.2, unit * _SHARP, seed)
    texture = _lit(surface, plane, light, 0.8)
    if along:
        texture = np.ascontiguousarray(texture.transpose(1, 0, 2))
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width - 0.5) * width / unit
    u, v = x[None, :] / near[:, None], np.broadcast_to(depth[:, None], (height, width))
    scale = np.float32(unit * _SHARP)
    mapped_x = (u * math.cos(turn) - v * math.sin(turn) + breadth / 2 + 0.1) * scale
    mapped_y = (length - v * math.cos(turn) - u * math.sin(turn) * 0.5 + 0.05) * scale
    made = np.zeros((height, width, 3), np.float32)
    # Rows far away show several texels in a pixel: they read a smaller version of the texture.
    level = np.log2(np.maximum(_SHARP * (0.35 / near + 0.65 * _STEEP / near**2 / 1.35), 1.0))
    for number in range(3):
        share = np.clip(1 - np.abs(np.minimum(level, 2) - number), 0, 1)[:, None, None]
        rows = np.flatnonzero(share[:, 0, 0] > 0)
        if len(rows):
            part = slice(rows[0], rows[-1] + 1)
            at_x, at_y = (np.ascontiguousarray(m[part], np.float32) / 2**number for m in (mapped_x, mapped_y))
            seen = cv2.remap(texture, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
            made[part] += share[part] * seen
        if number < 2:
            texture = cv2.resize(texture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return _unfocused(made, y, edge)


def _unfocused(made: np.ndarray, y: np.ndarray, edge: float) -> np.ndarray:
    """Depth of field: rows towards the far edge lose their sharpness, those in front a little."""
    far = _step(y, edge + 0.26, edge - 0.02)[:, None, None]
    soft = _blur(made, 0.006 * math.sqrt(made.shape[0] * made.shape[1]))
    return made + (soft - made) * far


def _hung(surface: Surface, size: tuple[int, int], seed: int, light: float) -> np.ndarray:
    """(H, W, 3), the material upright behind the product, a little out of focus."""
    width, height = size
    unit = math.sqrt(width * height)
    far = 1.8 if surface.view == "wall" else 1.4  # it hangs behind, so that more of it is in the picture
    made = _lit(surface, Plane(far * height / unit, far * width / unit, unit / far, seed + 5), light)[:height, :width]
    made = np.pad(made, ((0, height - made.shape[0]), (0, width - made.shape[1]), (0, 0)), mode="edge")
    return _blur(made, (0.0016 if surface.view == "wall" else 0.0035) * unit)


def _room(surface: Surface, size: tuple[int, int], seed: int, light: float) -> np.ndarray:
    """(H, W, 3), what is far behind a table or a lawn, out of focus: a wall with the light of a window, or trees and
    sky."""
    width, height = size
    unit = math.sqrt(width * height)
    small = Plane(height / unit, width / unit, 96, seed)
    y, x = small.grid()
    colour = np.array(surface.colour, np.float32) / 255
    blot = _blur(small.fractal("blot", 2.2, 2.6, 2), 3.0)
    if surface.material == "grass":
        leaves = _discs(small, seed, 46, (0.025, 0.07), 0.0, 0.5)
        low, high = colour * (0.5, 0.56, 0.5), np.clip(colour * 0.75 + (0.36, 0.36, 0.24), 0, 1)
        share = np.clip(0.42 + 0.26 * blot - 0.5 * (y - 0.2) + 0.55 * leaves, 0, 1)[..., None]
        made = low * (1 - share) + high * share
    elif surface.material == "sand":
        sky, haze = np.array((0.60, 0.74, 0.86)), np.array((0.86, 0.88, 0.87))
        share = np.clip(y / 0.42 + 0.05 * blot, 0, 1)[..., None]
        made = sky * (1 - share) + haze * share
        tint = colour / max(colour.max(), 1e-3)
        made = made * (0.6 + 0.4 * tint)
    else:
        level = float(lab(np.array([surface.colour], np.float32))[0, 0]) / 100
        neutral = np.full(3, 0.24 + 0.63 * level) * (1.015, 1.0, 0.975)
        wall = 0.62 * neutral + 0.38 * colour
        window = np.exp(-(((x - small.width * (0.5 + 0.42 * light)) / 0.5) ** 2) - ((y - 0.12) / 0.4) ** 2)
        rng = small.rng("room")
        made = np.broadcast_to(wall, (*small.shape, 3)) * (1 + 0.05 * blot + 0.2 * (window - 0.4))[..., None]
        for _ in range(int(rng.integers(2, 5))):  # something stands there: a shelf, a frame, a plant
            left, wide = rng.uniform(-0.1, 1.0) * small.width, rng.uniform(0.08, 0.35)
            top, shade = rng.uniform(-0.2, 0.3), rng.uniform(-0.16, 0.1)
            inside = _step(x, left, left + 0.02) * (1 - _step(x, left + wide, left + wide + 0.02))
            made = made * (1 + shade * (inside * _step(y, top, top + 0.02)))[..., None]
        made = _blur(made.astype(np.float32), 5.0)
    import cv2

    return cv2.resize(made.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)


def _discs(plane: Plane, seed: int, count: int, radii: tuple[float, float], top: float, bottom: float) -> np.ndarray:
    """(H, W) lights out of focus: discs with soft edges, brighter at the rim, added up."""
    y, x = plane.grid()
    rng = np.random.default_rng([seed, 31])
    total = np.zeros(plane.shape, np.float32)
    for _ in range(count):
        cy, cx = rng.uniform(top, bottom) * plane.height, rng.uniform(-0.05, 1.05) * plane.width
        radius, power = rng.uniform(*radii), rng.uniform(0.15, 1.0) ** 2
        away = np.sqrt((y - cy) ** 2 + (x - cx) ** 2) / radius
        total += np.float32(power) * (1 - _step(away, 0.9, 1.04)) * (0.75 + 0.25 * away**4)
    return total


def _bokeh(surface: Surface, size: tuple[int, int], seed: int, edge: float) -> np.ndarray:
    """Lights of the evening behind a dark table that mirrors them."""
    import cv2

    width, height = size
    unit = math.sqrt(width * height)
    plane = Plane(height / unit, width / unit, min(unit, 384), seed)
    y, _ = plane.grid()
    base = np.array(surface.colour, np.float32) / 255
    lift = (0.75 + 0.16 * plane.fractal("air", 1.5, 1.5, 3))[..., None]
    made = base * lift
    hues = np.array([(1.0, 0.82, 0.55), (1.0, 0.7, 0.38), (1.0, 0.93, 0.8)])
    if np.ptp(surface.colour) > 60:
        hues = hues * 0.4 + 0.6 * (base / base.max())
    for number, hue in enumerate(hues):
        lights = _discs(plane, seed + 7 * number, 15, (0.02, 0.062), -0.02, max(edge, 0.12) * 0.98)
        made = made + 0.5 * lights[..., None] * hue.astype(np.float32)
    made = _blur(made.astype(np.float32), 1.2)
    rows = _step(y / plane.height, edge - 0.01, edge + 0.02)[..., None]
    line = round(edge * plane.shape[0])
    source = np.clip(2 * line - np.arange(plane.shape[0]), 0, plane.shape[0] - 1)
    mirrored = cv2.GaussianBlur(made[source], (0, 0), sigmaX=plane.scale * 0.012, sigmaY=plane.scale * 0.05)
    fade = np.exp(-np.maximum(y / plane.height - edge, 0) / 0.22)[..., None]
    table = base * 0.62 + (mirrored - base * 0.6) * 0.42 * fade
    made = made * (1 - rows) + table * rows
    made = _shoulder(np.maximum(made, 0).astype(np.float32))
    return cv2.resize(made, size, interpolation=cv2.INTER_CUBIC)


def _blades(made: np.ndarray, surface: Surface, seed: int, edge: float | None) -> np.ndarray:
    """Blades of grass one by one, from far to near; ``edge`` None: seen from above."""
    import cv2

    height, width = made.shape[:2]
    unit = math.sqrt(width * height)
    rng = np.random.default_rng([seed, 5])
    count = 15000
    row = rng.uniform(0, 1, count)
    if edge is None:
        near, y = np.full(count, 0.8), row * 1.1 - 0.05
    else:
        near0 = _HORIZON / (1 - edge + _HORIZON)
        near = near0 * (1.12 / near0) ** row  # as many blades in a square of the ground, near or far, as one can see
        near = np.sort(near)
        y = edge - _HORIZON + near * (1 - edge + _HORIZON) + 0.03 * near
    x = rng.uniform(-0.05, 1.05, count) * width
    tall = unit * 0.085 * near * rng.uniform(0.45, 1.25, count)
    lean = rng.normal(0.05, 0.42, count) if edge is not None else rng.uniform(-math.pi, math.pi, count)
    bend = rng.normal(0, 0.35, count)
    shade = np.exp(rng.normal(-0.06, 0.3, count))
    dry = rng.uniform(0, 1, count) ** 3
    base, second = (c / 255 for c in _palette(surface))
    wide = np.maximum(0.0052 * unit * near * rng.uniform(0.5, 1.2, count), 0.6)
    colour = (base + (second - base) * dry[:, None]) * shade[:, None]
    target = np.clip(made * 255, 0, 255).astype(np.uint8)
    t = np.linspace(0, 1, 4)
    angle = lean[:, None] + bend[:, None] * t
    px = x[:, None] + tall[:, None] * np.sin(angle) * t
    py = (y * height)[:, None] - tall[:, None] * np.cos(angle) * t
    half = wide[:, None] * (1 - t) ** 0.7 / 2
    left = np.stack([px - half, py], -1)
    right = np.stack([px + half, py], -1)[:, ::-1]
    outline = np.round(np.concatenate([left, right], 1) * 16).astype(np.int32)
    paint = np.clip(colour * 255, 0, 255)
    for i in range(count):
        cv2.fillPoly(target, [outline[i]], paint[i].tolist(), cv2.LINE_AA, 4)
    drawn = target.astype(np.float32) / 255
    if edge is None:
        shape = drawn
    else:
        rows = (np.arange(height, dtype=np.float32) + 0.5) / height
        shape = _unfocused(drawn, rows, edge)
        front = _step(rows, 0.86, 1.06)[:, None, None]
        shape = shape + (_blur(shape, 0.006 * unit) - shape) * front
        part = shape[round(edge * height) :]
        target_colour = np.array(surface.colour, np.float32) / 255
        gain = target_colour / np.maximum(part.mean((0, 1)), 1e-3)
        return shape * (1 + (gain - 1) * _rows((width, height), edge, 0.05))
    return shape * (np.array(surface.colour, np.float32) / 255 / np.maximum(shape.mean((0, 1)), 1e-3))


# ---------------------------------------------------------------------------------------------------- words to surfaces

# material, its view (None: what the other words say), its own colour (None: the material's), then the words for it: in
# English, German, French and Spanish, without accents. "holz*" is the beginning of a word.
_WORDS: tuple[tuple[str, str | None, RGB | None, str], ...] = (
    ("wood", None, None, "wood wooden woods plank planks timber parquet holz* bois madera"),
    ("wood", None, (168, 122, 78), "oak eiche* chene roble"),
    ("wood", None, (92, 62, 43), "walnut mahogany nuss* noyer nogal"),
    ("wood", None, (214, 178, 132), "pine birch maple ash beech bamboo kiefer* birke* pin pino"),
    ("marble", None, None, "marble marbled marmor* marbre marmol"),
    ("linen", None, None, "linen burlap canvas jute hessian leinen* lin lino"),
    ("cloth", None, None, "cloth fabric textile tablecloth silk satin velvet cotton blanket sheet towel drape drapery "
     "curtain stoff* tuch* tischdecke tissu nappe tela mantel"),
    ("concrete", None, None, "concrete cement beton* hormigon cemento"),
    ("plaster", "wall", None, "plaster stucco plastered putz* gips* platre yeso estuco"),
    ("paper", None, None, "paper cardboard papier* papel"),
    ("sand", "ground", None, "sand sandy beach desert dune dunes strand* wuste* sable plage arena playa"),
    ("tiles", None, None, "tile tiles tiled ceramic porcelain fliese* kachel* carrelage carreaux azulejo azulejos"),
    ("stone", None, None, "stone slate rock granite stein* schiefer* pierre ardoise piedra pizarra"),
    ("grass", "ground", None, "grass grassy lawn meadow turf field gras rasen* wiese* herbe pelouse pre hierba cesped "
     "prado"),
    ("bokeh", "ground", None, "bokeh lights lichter lumieres luces"),
    ("sweep", "ground", None, "studio backdrop sweep seamless background hintergrund fond fondo estudio"),
    ("plaster", "wall", None, "wall wand mur pared muro"),
)  # fmt: skip
_PLACES = {  # words that say where it stands but not of what it is: view, material without another word
    "ground": ("wood", "table tabletop desk counter countertop worktop shelf board bench floor flooring tisch* boden "
               "regal table sol plancher mesa suelo escritorio"),
    "flat": ("sweep", "flatlay overhead topdown"),
    "plain": ("sweep", "surface ground setting oberflache untergrund surface superficie"),
}  # fmt: skip
_FLAT = ("flat lay", "from above", "top view", "top down", "bird s eye", "von oben", "vue de dessus", "desde arriba")
_TONES = {"dark": 0.55, "deep": 0.68, "light": 1.45, "pale": 1.5, "bright": 1.15, "dunkel": 0.55, "hell": 1.45,
          "fonce": 0.55, "clair": 1.45, "oscuro": 0.55, "claro": 1.45}  # fmt: skip
_SHADES: dict[str, RGB] = {
    "white": (245, 245, 245), "black": (22, 22, 23), "grey": (140, 140, 140), "gray": (140, 140, 140),
    "red": (186, 28, 34), "green": (60, 145, 60), "blue": (45, 95, 190), "yellow": (235, 205, 60),
    "orange": (232, 126, 36), "pink": (235, 150, 175), "brown": (122, 80, 50), "beige": (220, 200, 170),
    "purple": (110, 60, 150), "teal": (40, 135, 135), "cream": (244, 234, 210), "ivory": (246, 242, 226),
    "navy": (28, 42, 92), "turquoise": (64, 200, 194), "mint": (178, 226, 200), "olive": (112, 116, 52),
    "burgundy": (110, 22, 40), "crimson": (176, 20, 50), "coral": (244, 126, 104), "lavender": (196, 182, 226),
    "violet": (120, 70, 170), "magenta": (200, 40, 140), "cyan": (70, 190, 220), "gold": (206, 164, 74),
    "golden": (206, 164, 74), "silver": (188, 190, 194), "charcoal": (58, 60, 64), "tan": (200, 164, 124),
    "khaki": (180, 168, 120), "rust": (160, 76, 40), "peach": (248, 200, 170), "sky": (140, 196, 235),
    "emerald": (30, 130, 90), "mustard": (205, 160, 50), "anthracite": (52, 55, 60), "snowy": (244, 247, 250),
}  # fmt: skip
_FOREIGN = {
    "white": "weiss* blanc blanche blanco blanca", "black": "schwarz* noir noire negro negra",
    "grey": "grau* gris grise", "red": "rot rote roten roter rotes rotem rouge rojo roja",
    "green": "grun* vert verte verde", "blue": "blau* bleu bleue azul", "yellow": "gelb* jaune amarillo amarilla",
    "orange": "naranja", "pink": "rosa rose", "brown": "braun* marron brun brune", "purple": "lila morado morada",
}  # fmt: skip
_BEFORE = {"on", "onto", "upon", "over", "against", "before", "front", "atop", "with", "in", "at", "auf", "vor", "an",
           "sur", "devant", "contre", "sobre", "ante", "contra", "en"}  # fmt: skip
_MODIFIERS = {"pure", "plain", "solid", "a", "an", "the", "of", "very", "clean", "simple", "rein*", "uni", "puro"}


@cache
def _lookup() -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """What each word means: ("material", row), ("place", view), ("colour", name) or ("tone", factor); words, and
    beginnings of words."""
    exact: dict[str, Any] = {}
    stems: list[tuple[str, Any]] = []

    def learn(words: str, meaning: Any) -> None:
        for word in words.split():
            if word.endswith("*"):
                stems.append((word[:-1], meaning))
            else:
                exact.setdefault(word, meaning)

    for name in _SHADES:
        learn(name, ("colour", "grey" if name == "gray" else name))
    for name, words in _FOREIGN.items():
        learn(words, ("colour", name))
    for tone, factor in _TONES.items():
        learn(tone, ("tone", factor))
    for row in _WORDS:
        learn(row[3], ("material", row))
    for view, (_, words) in _PLACES.items():
        learn(words, ("place", view))
    return exact, stems


def _meaning(word: str) -> list[Any]:
    """What a word says; a German compound (Holztisch) says two things."""
    exact, stems = _lookup()
    if word in exact:
        return [exact[word]]
    if word.endswith("s") and word[:-1] in exact:
        return [exact[word[:-1]]]
    found = [meaning for stem, meaning in stems if word.startswith(stem)]
    for tail, meaning in (("tisch", ("place", "ground")), ("boden", ("place", "ground")), ("wand", exact["wand"])):
        if len(word) > len(tail) and word.endswith(tail):
            found.append(meaning)
            found += [exact[word[: -len(tail)]]] if word[: -len(tail)] in exact else []
    return found


def surface_of(prompt: str, alone: bool = False) -> Surface | None:
    """The surface that a prompt names, or None where it names none.

    Materials, places (table, wall, floor, studio) and colours are known in English, and the commonest in German, French
    and Spanish. Of "a red cup on a white table" only what follows the first "on", "before", "against", ... is read. A
    colour alone is a studio's backdrop; a table alone is of wood. With ``alone`` the prompt must name a material or a
    colour and nothing else: "dark wooden planks" is a surface, "a wooden chair" and "a table" are none.
    """
    plain = unicodedata.normalize("NFKD", prompt.lower().replace("ß", "ss"))
    words = re.findall(r"[a-z]+", "".join(c for c in plain if not unicodedata.combining(c)))[:200]
    if alone:
        kinds = {kind for word in words for kind, _ in _meaning(word)}
        if not kinds & {"material", "colour"} or not all(_meaning(w) or w in _MODIFIERS | _BEFORE for w in words):
            return None
    after = next((i + 1 for i, word in enumerate(words) if word in _BEFORE), 0)
    for part in (words[after:], words) if after else (words,):
        found = _read(part, bare=part is words)
        if found is not None:
            return found
    return None


def _read(words: Sequence[str], bare: bool) -> Surface | None:
    said = [meaning for word in words for meaning in _meaning(word)]
    materials = [row for kind, row in said if kind == "material"]
    places = [view for kind, view in said if kind == "place"]
    colours = [name for kind, name in said if kind == "colour"]
    tones = [factor for kind, factor in said if kind == "tone"]
    only = all(_meaning(word) or word in _MODIFIERS for word in words)
    if not materials and not places and not (colours and only and bare):
        return None
    walls = [row for row in materials if row[0] == "plaster"]
    firm = [row for row in materials if row not in walls and row[0] != "sweep"]  # a "wooden wall" is of wood
    rows = firm or walls or [row for row in materials if row[0] == "sweep"]
    if rows:
        material, view, own = rows[0][0], rows[0][1], rows[0][2]
    else:
        material, view, own = (_PLACES[places[0]][0] if places else "sweep"), None, None
    if walls and view is None:
        view = "wall"
    if "flat" in places or any(phrase in " ".join(words) for phrase in _FLAT):
        view = "flat"
    colour = own or DEFAULTS[material]
    named = colour_name(np.array(colour, np.float32))
    if colours and not (material in _OWN and colours[0] in named):  # brown wood is the wood that it is
        colour = _SHADES[colours[0]]
        if colours[0] == "white" and "pure" in words:
            colour = (255, 255, 255)
    if tones:
        colour = _toned(colour, tones[0])
    return Surface(material, colour, view or "ground")


def _toned(colour: RGB, factor: float) -> RGB:
    """A darker colour, or a lighter one, which is also paler."""
    rgb = np.array(colour, np.float64)
    rgb = rgb * factor if factor <= 1 else 255 - (255 - rgb) / factor
    red, green, blue = (int(part) for part in rgb.round().clip(0, 255))
    return red, green, blue


# --------------------------------------------------------------------------------------------------------- own pictures


def from_gallery(folder: str | Path, prompt: str) -> Path:
    """The picture in a folder whose file name shares most words with the prompt; of equals, the first by name.

    Raises FileNotFoundError for a folder that is not there, ValueError, with the names, where none fits.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"gallery: {folder} is no folder; name one that holds pictures")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in READABLE_SUFFIXES and path.is_file())
    wanted = _words(prompt)
    shared = [len(wanted & _words(path.stem)) for path in files]
    best = max(shared, default=0)
    if not best:
        names = ", ".join(path.name for path in files[:20]) or "no picture"
        raise ValueError(f"gallery: no file name shares a word with {prompt!r}; {folder} holds {names}")
    return files[shared.index(best)]


def _words(text: str) -> set[str]:
    """Words of two letters and more, without plural s and without words that name nothing."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    found = (word for word in re.findall(r"[^\W\d_]{2,}", plain) if word not in _BEFORE | _MODIFIERS)
    return {word[:-1] if len(word) > 3 and word.endswith("s") else word for word in found}
