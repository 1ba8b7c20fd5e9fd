"""What surfaces are made of: wood, marble, linen, ..., each drawn from noise as seen from straight above.

A material is a function from a ``Plane`` to its ``Maps``. Its colour, the light on it and the perspective are added by
``surfaces``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from photofound.edits.colours import colour_name
from photofound.edits.noise import Plane, smoothstep

RGB = tuple[int, int, int]
VIEWS = ("ground", "wall", "flat")


@dataclass
class Maps:
    """What a material looks like on a plane, without its colour; all (H, W) float32.

    Attributes:
        tone: logarithm of the brightness, about 0.
        bump: height in units, which the light makes visible.
        mix: share of the second colour, in [0, 1].
    """

    tone: np.ndarray
    bump: np.ndarray | None = None
    mix: np.ndarray | None = None


def _wood(plane: Plane) -> Maps:
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
    late = wave**3 * (1 - smoothstep(wave, 0.88, 1.0))  # early wood darkens slowly, and ends at once
    grain = plane.fractal("grain", 70, 2.2, 4, 0.7)
    pores = smoothstep(plane.noise("pores", 190, 9), 1.1, 2.4)
    tone = -0.42 * late + 0.07 * grain - 0.2 * pores + 0.05 * plane.fractal("stain", 1.5, 0.8, 4)
    tone += rng.uniform(-0.13, 0.13, count).astype(np.float32)[index][:, None]
    gap = np.abs(y / plank - np.round(y / plank)) * plank
    joint = 1 - smoothstep(gap, 0.0008, 0.0032)
    # Every plank ends somewhere, at another place than its neighbours.
    length, start = 2.6, rng.uniform(0, 2.6, count).astype(np.float32)
    run = (x + start[index][:, None]) / length
    joint = np.maximum(joint, 1 - smoothstep(np.abs(run - np.round(run)) * length, 0.0008, 0.0032))
    return Maps(tone - 1.1 * joint, -0.002 * joint - 0.0004 * pores, np.clip(0.25 + 0.6 * late + 0.1 * grain, 0, 1))


def _marble(plane: Plane) -> Maps:
    """Veins are where fractal noise passes zero; they swell, fade and run more one way than the other."""
    cloud = plane.fractal("cloud", 1.3, 1.8, 5, 0.55)
    veins = np.zeros(plane.shape, np.float32)
    for number, (rows, columns, width, strength) in enumerate(
        ((0.8, 1.5, 0.03, 1.0), (1.5, 2.3, 0.024, 0.5), (3.2, 4.4, 0.03, 0.28))
    ):
        field = plane.fractal(f"vein{number}", rows, columns, 7, 0.52) + 0.35 * number
        presence = smoothstep(plane.fractal(f"fade{number}", 1.1, 1.1, 3), -0.5, 1.4)
        wide = width * (0.4 + 1.6 * presence)
        vein = strength * presence * (np.exp(-np.abs(field) / wide) + 0.35 * np.exp(-((field / (6 * wide)) ** 2)))
        veins = np.maximum(veins, vein)
    smoke = smoothstep(cloud, 0.2, 2.2) * 0.28
    tone = 0.018 * cloud + 0.008 * plane.fractal("speck", 60, 60, 3)
    return Maps(tone, None, np.clip(0.85 * veins + smoke, 0, 1))


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


def _linen(plane: Plane) -> Maps:
    tone, _ = _weave(plane, 140, 0.055)
    streaks = plane.fractal("streak-y", 50, 0.9, 2) + plane.fractal("streak-x", 0.9, 50, 2)
    folds = 0.012 * plane.fractal("fold", 1.1, 1.4, 3, 0.4)
    return Maps(tone + 0.03 * streaks, folds)


def _cloth(plane: Plane) -> Maps:
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
        swell = smoothstep(coarse.noise(f"swell{number}", 1.0, 1.0), -0.6, 1.6)
        height = height + 0.055 * swell * ridge / pitch
    tone, _ = _weave(plane, 220, 0.02)
    height = cv2.resize(height.astype(np.float32), plane.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return Maps(0.5 * tone + 0.02 * plane.fractal("dye", 2, 2, 4), height)


def _concrete(plane: Plane) -> Maps:
    stain = plane.fractal("stain", 1.4, 1.4, 6, 0.6)
    flow = plane.fractal("flow", 1.2, 6.0, 4, 0.55)
    grit = plane.fractal("grit", 80, 80, 3, 0.8)
    pits = 0.8 * smoothstep(plane.noise("pits", 60, 60), 3.0, 3.6) + 0.6 * smoothstep(
        plane.noise("pinholes", 130, 130), 2.7, 3.4
    )
    crack = np.exp(-np.abs(plane.fractal("crack", 0.7, 0.7, 7, 0.55)) / 0.003)
    crack *= smoothstep(plane.noise("crack-fade", 0.9, 0.9), 0.9, 1.9)
    tone = 0.06 * stain + 0.03 * flow + 0.03 * grit - 0.3 * pits - 0.22 * crack
    return Maps(tone, -0.001 * pits + 0.0002 * grit + 0.0012 * stain)


def _plaster(plane: Plane) -> Maps:
    """Strokes of a trowel that overlap, over a wall that is not quite even."""
    way = plane.fractal("way", 2.2, 2.2, 2)
    a, b = plane.fractal("stroke-a", 9, 3.5, 3, 0.45), plane.fractal("stroke-b", 3.5, 9, 3, 0.45)
    share = smoothstep(way, -0.25, 0.25)
    relief = np.maximum(a * share, b * (1 - share))  # where one stroke lies over another it leaves a ridge
    tone = 0.02 * plane.fractal("stain", 1.5, 1.5, 4) + 0.014 * plane.fractal("grit", 90, 90, 3, 0.8)
    return Maps(tone, 0.0024 * relief + 0.003 * plane.fractal("uneven", 2, 2, 2))


def _paper(plane: Plane) -> Maps:
    fibres = plane.fractal("fibre", 60, 60, 4, 0.8)
    return Maps(0.008 * fibres + 0.012 * plane.fractal("pulp", 6, 6, 4), 0.00016 * plane.fractal("tooth", 110, 110, 2))


def _sand(plane: Plane) -> Maps:
    """Ripples of the wind under grains of several shades."""
    y, x = plane.grid()
    bend = plane.fractal("bend", 0.9, 1.3, 4, 0.5)
    phase = y * 7.5 + 0.9 * bend + 0.25 * x
    wave = phase - np.floor(phase)
    ripple = np.where(wave < 0.65, wave / 0.65, (1 - wave) / 0.35)  # the lee side is steeper
    ripple = ripple * ripple * (3 - 2 * ripple) * (0.35 + 0.65 * smoothstep(plane.noise("calm", 1.1, 1.1), -1.2, 1.0))
    grains = plane.noise("grain", plane.scale / 1.6) + 0.8 * plane.noise("coarse", 150, 150)
    specks = smoothstep(plane.noise("speck", 120, 120), 2.3, 3.2)
    tone = 0.055 * grains + 0.04 * plane.fractal("damp", 1.2, 1.2, 5) - 0.3 * specks
    return Maps(tone, 0.011 * ripple + 0.003 * plane.fractal("dune", 2.5, 2.5, 4), 0.3 + 0.12 * grains.clip(-2, 2))


def _tiles(plane: Plane) -> Maps:
    """Square tiles with rounded edges in grout."""
    y, x = plane.grid()
    side, rng = 0.34, plane.rng("tiles")
    y, x = y + np.float32(rng.uniform(0, side)), x + np.float32(rng.uniform(0, side))
    row, column = np.floor(y / side).astype(int), np.floor(x / side).astype(int)
    shade = rng.uniform(-1, 1, (row.max() + 1, column.max() + 1)).astype(np.float32)[row, column]
    edge = np.minimum(np.abs(y / side - np.round(y / side)), np.abs(x / side - np.round(x / side))) * side
    grout, bevel = 1 - smoothstep(edge, 0.003, 0.0055), smoothstep(edge, 0.003, 0.011)
    cloud = plane.fractal("glaze", 3, 3, 5, 0.55)
    tone = 0.06 * shade + 0.035 * cloud - 0.38 * grout + 0.012 * plane.fractal("grit", 80, 80, 2) * (1 + 3 * grout)
    return Maps(tone, 0.004 * bevel + 0.0008 * cloud, 0.6 * grout)


def _stone(plane: Plane) -> Maps:
    """Slate: layers that break off in steps, with a fine grain."""
    field = plane.fractal("layer", 1.6, 2.2, 6, 0.55) * 1.6
    step = np.floor(field)
    rise = smoothstep(field - step, 0.0, 0.12)
    grit = plane.fractal("grit", 40, 40, 5, 0.75)
    tone = 0.05 * grit + 0.05 * plane.fractal("tint", 1.2, 1.2, 4) + 0.04 * np.sin(step * 2.4)
    return Maps(tone, 0.006 * (step + rise) + 0.0009 * grit, np.clip(0.3 + 0.2 * np.sin(step * 1.7), 0, 1))


def _grass(plane: Plane) -> Maps:
    """The ground between the blades. ``surfaces`` draws the blades one by one."""
    tone = 0.16 * plane.fractal("tuft", 9, 9, 4, 0.7) + 0.08 * plane.fractal("patch", 1.2, 1.2, 3)
    return Maps(tone - 0.2, None, np.clip(0.4 + 0.2 * plane.fractal("dry", 2.5, 2.5, 4), 0, 1))


def _even(plane: Plane) -> Maps:
    """A studio's seamless backdrop, and the air behind lights."""
    return Maps(0.003 * plane.fractal("even", 1.5, 1.5, 3))


MATERIALS: dict[str, Callable[[Plane], Maps]] = {
    "wood": _wood, "marble": _marble, "linen": _linen, "cloth": _cloth, "concrete": _concrete, "plaster": _plaster,
    "paper": _paper, "sand": _sand, "tiles": _tiles, "stone": _stone, "grass": _grass, "sweep": _even, "bokeh": _even,
}  # fmt: skip

# Mean colours where the prompt names none.
DEFAULTS: dict[str, RGB] = {
    "wood": (150, 104, 66), "marble": (228, 227, 225), "linen": (207, 196, 178), "cloth": (196, 190, 182),
    "concrete": (150, 149, 147), "plaster": (222, 217, 209), "paper": (238, 236, 231), "sand": (205, 179, 139),
    "tiles": (221, 222, 220), "stone": (92, 94, 98), "grass": (92, 128, 48), "sweep": (228, 228, 228),
    "bokeh": (58, 48, 46),
}  # fmt: skip


@dataclass(frozen=True)
class Surface:
    """A background: a material in a colour, seen from somewhere.

    Attributes:
        material: a name in ``MATERIALS``.
        colour: the mean colour, sRGB, 0..255.
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
        """Whether every pixel is white, as marketplaces ask: "pure white"."""
        return self.material == "sweep" and tuple(self.colour) == (255, 255, 255)

    @property
    def description(self) -> str:
        """Like ``wood, brown``."""
        return f"{self.material}, {colour_name(np.array(self.colour, np.float32))}"


def two_colours(surface: Surface) -> tuple[np.ndarray, np.ndarray]:
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
