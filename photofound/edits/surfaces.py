"""Photographs of surfaces, drawn in code: a material in any colour, lit, flat or receding to a horizon.

A model of a few million parameters does not know what wood is. A drawn surface gives it the material, the colour and
the perspective that a prompt asks for; joining them with a product is `staging` and the model.

Pictures are (H, W, 3) float32 sRGB in [0, 1]; lengths are in the units of ``noise``.
"""

from __future__ import annotations

import math

import numpy as np

from photofound.edits.ground import lab
from photofound.edits.materials import DEFAULTS, MATERIALS, VIEWS, Surface, two_colours
from photofound.edits.noise import Plane, blur, smoothstep
from photofound.edits.surface_words import from_gallery, surface_of

__all__ = ["DEFAULTS", "MATERIALS", "VIEWS", "Surface", "from_gallery", "render", "surface_of", "with_grain"]

_SMALLEST_SIDE = 16  # pixels
_LARGEST_SIDE = 1024  # pixels that are drawn; larger pictures are enlarged, and get their grain afterwards
_TEXELS = 0.8  # per pixel at the near edge of a ground: it is enlarged there, as a lens blurs it
_DEPTH_PER_ROW = 1.35  # how much of the ground's depth a row shows: 1 / sin of the camera's pitch
_HORIZON = 0.36  # the horizon lies this much above the ground's far edge, in shares of the height
_EDGE = 0.4  # where the ground ends by default, from the top

_BAND = 64  # rows that are worked on at a time: they stay in the cache

_SEAMLESS = ("sweep", "cloth", "paper", "linen", "bokeh")  # they hang behind the product and have no far edge
_OUTDOORS = ("grass", "sand")


def render(
    surface: Surface, size: tuple[int, int], seed: int = 0, light: float = 0.4, edge: float = _EDGE
) -> np.ndarray:
    """A photograph of a surface with nothing on it.

    Args:
        surface: material, colour and view.
        size: (width, height) in pixels.
        seed: the same seed gives the same pixels, another one another piece of the material.
        light: the side of the light, from -1 = left to 1 = right; it is above and in front.
        edge: where the ground ends or meets the wall, in shares of the height from the top.

    Returns:
        (H, W, 3) float32 in [0, 1].

    Raises ValueError for a size below 1, a light outside [-1, 1] or an edge outside (0, 1).
    """
    import cv2

    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"size: {size} must be at least 1x1 pixels")
    if not -1 <= light <= 1 or not 0 < edge < 1:
        raise ValueError(f"light: {light!r} must be from -1 to 1, edge: {edge!r} between 0 and 1")
    if surface.is_blank:
        return np.ones((height, width, 3), np.float32)
    scale = min(1.0, _LARGEST_SIDE / max(width, height))
    work = max(_SMALLEST_SIDE, round(width * scale)), max(_SMALLEST_SIDE, round(height * scale))
    made = _draw(surface, work, seed, light, edge)
    if work != size:
        made = cv2.resize(made, size, interpolation=cv2.INTER_CUBIC if scale < 1 else cv2.INTER_AREA)
    return with_grain(made, seed, 0.007, _FINENESS[surface.material] if scale < 1 else 0.0)


_FINENESS = {
    "wood": 0.025, "marble": 0.006, "linen": 0.04, "cloth": 0.02, "concrete": 0.035, "plaster": 0.015, "paper": 0.01,
    "sand": 0.06, "tiles": 0.01, "stone": 0.04, "grass": 0.05, "sweep": 0.0, "bokeh": 0.0,
}  # fmt: skip
_GRAIN_TILE = 509  # film grain repeats after so many pixels


def with_grain(pixels: np.ndarray, seed: int, amount: float, detail: float = 0.0) -> np.ndarray:
    """Add film grain to (H, W, 3) in place and clip it to [0, 1].

    Args:
        amount: standard deviation of the grain. Most of it is lightness, a little is colour.
        detail: standard deviation of a texture finer than what was drawn, as a share of each pixel's brightness.
    """
    rng = np.random.default_rng([seed, 2])

    def noise(sigma: float) -> np.ndarray:
        made = blur(rng.standard_normal((_GRAIN_TILE, _GRAIN_TILE), np.float32), sigma)
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


def _draw(surface: Surface, size: tuple[int, int], seed: int, light: float, edge: float) -> np.ndarray:
    width, height = size
    unit = math.sqrt(width * height)
    if surface.view == "flat":
        made = _shaded(surface, Plane(height / unit, width / unit, unit, seed), light)
        if surface.material == "grass":
            made = _with_blades(made, surface, seed, None)
        return made * _lighting(size, light, 0.5, 0.16)[..., None]
    if surface.material == "bokeh":
        return _bokeh(surface, size, seed, edge)
    ground = _ground(surface, size, seed, light, edge)
    if surface.material in _SEAMLESS and surface.view == "ground" or surface.material == "sweep":
        behind = _backdrop(surface, size, seed, light)
        soft = _below(size, edge, 0.16 if surface.material == "sweep" else 0.07)
        shade = 1 - 0.07 * np.exp(-(((np.arange(height) / height - edge - 0.02) / 0.09) ** 2))
        made = (behind * (1 - soft) + ground * soft) * shade[:, None, None].astype(np.float32)
    elif surface.view == "wall":
        behind = _backdrop(surface, size, seed + 17, light)
        y = np.arange(height, dtype=np.float32) / height - edge
        corner = 1 - 0.3 * np.exp(-np.abs(y) / np.where(y < 0, 0.07, 0.035))
        soft = _below(size, edge, 0.007)
        made = (behind * (1 - soft) + ground * soft * 0.93) * corner[:, None, None]
    else:
        soft = _below(size, edge, 0.02 if surface.material in _OUTDOORS else 0.009)
        made = _far_background(surface, size, seed, light) * (1 - soft) + ground * soft
        if surface.material == "grass":
            made = _with_blades(made, surface, seed, edge)
    return (made * _lighting(size, light, 0.62, 0.22)[..., None]).astype(np.float32)


def _below(size: tuple[int, int], edge: float, soft: float) -> np.ndarray:
    """(H, 1, 1): 0 above the edge, 1 below."""
    y = (np.arange(size[1], dtype=np.float32) + 0.5) / size[1]
    return smoothstep(y, edge - soft, edge + soft)[:, None, None]


def _lighting(size: tuple[int, int], light: float, middle: float, depth: float) -> np.ndarray:
    """(H, W): a large soft lamp and the lens's vignette; 1 on average over the middle."""
    y = ((np.arange(size[1], dtype=np.float32) + 0.5) / size[1])[:, None]
    x = ((np.arange(size[0], dtype=np.float32) + 0.5) / size[0])[None, :]
    lamp = np.exp(-(((x - 0.5 - 0.3 * light) / 0.75) ** 2) - ((y - middle) / 0.75) ** 2)
    vignette = (x - 0.5) ** 2 + (y - 0.5) ** 2
    return (1 + depth * (lamp - 0.72) - 0.3 * depth * vignette + 0.04 * light * (x - 0.5)).astype(np.float32)


def _shaded(surface: Surface, plane: Plane, light: float, strength: float = 1.0) -> np.ndarray:
    """(H, W, 3): the material on a plane, with the surface's colour as its mean and its bumps shaded by a lamp."""
    import cv2

    maps = MATERIALS[surface.material](plane)
    tone = maps.tone.astype(np.float32, copy=False)
    if maps.bump is not None:
        side = light if abs(light) > 0.3 else math.copysign(0.3, light)
        slope = np.array(
            ((0, -0.35, 0), (0.5 * side, 0, -0.5 * side), (0, 0.35, 0)), np.float32
        )  # half of (i+1) - (i-1)
        height = blur(maps.bump.astype(np.float32, copy=False), 0.6)
        shade = cv2.filter2D(
            height, -1, slope * np.float32(plane.scale * strength * 1.3), borderType=cv2.BORDER_REPLICATE
        )
        tone = tone + np.float32(0.55) * np.tanh(shade, out=shade)
    parts = [np.exp(tone)]
    base, second = (colour / 255 for colour in two_colours(surface))
    shares = [base]
    if maps.mix is not None:
        parts.append(parts[0] * maps.mix)
        shares.append(second - base)
    colours = np.stack(shares, 1)  # (3, parts): what each part adds to a channel
    mean = colours @ [part.mean(dtype=np.float64) for part in parts]
    colours *= (np.array(surface.colour) / 255 / np.maximum(mean, 1e-3))[:, None]
    made = cv2.transform(np.stack(parts, -1) if len(parts) > 1 else parts[0], colours.astype(np.float32))
    return _roll_off_highlights(made)


def _roll_off_highlights(x: np.ndarray) -> np.ndarray:
    """Highlights as in a photograph: unchanged up to 0.85, and never quite 1 above. In place."""
    if x.max() <= 1:
        return x
    for top in range(0, len(x), _BAND):
        part = x[top : top + _BAND]
        over = np.maximum(part - np.float32(0.85), 0)
        np.minimum(part, 0.85, out=part)
        part -= np.float32(0.15) * np.expm1(over / np.float32(-0.15))
    return x


def _ground(surface: Surface, size: tuple[int, int], seed: int, light: float, edge: float) -> np.ndarray:
    """(H, W, 3), the plane in perspective. Only its rows below ``edge`` are used."""
    import cv2

    width, height = size
    unit = math.sqrt(width * height)
    rng = np.random.default_rng([seed, 77])
    horizon = edge - _HORIZON
    y = (np.arange(height, dtype=np.float32) + 0.5) / height
    near = np.maximum((y - horizon) / (1 - horizon), (edge - 0.03 - horizon) / (1 - horizon))  # scale, 1 at the bottom
    depth = _DEPTH_PER_ROW * (1 - horizon) * (1 / near - 1) * height / unit
    turn = 0.05 * rng.standard_normal() if surface.material != "wood" else 0.02 * rng.standard_normal()
    length, breadth = float(depth.max()) + 0.05, width / unit / float(near.min()) + 0.1
    along = surface.material == "wood" and rng.uniform() < 0.35  # planks that run away from the camera
    turned = (breadth, length) if along else (length, breadth)
    plane = Plane(turned[0] + 0.2, turned[1] + 0.2, unit * _TEXELS, seed)
    texture = _shaded(surface, plane, light, 0.8)
    if along:
        texture = np.ascontiguousarray(texture.transpose(1, 0, 2))
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width - 0.5) * width / unit
    u, v = x[None, :] / near[:, None], np.broadcast_to(depth[:, None], (height, width))
    scale = np.float32(unit * _TEXELS)
    mapped_x = (u * math.cos(turn) - v * math.sin(turn) + breadth / 2 + 0.1) * scale
    mapped_y = (length - v * math.cos(turn) - u * math.sin(turn) * 0.5 + 0.05) * scale
    made = np.zeros((height, width, 3), np.float32)
    # Rows far away show several texels in a pixel: they read a smaller version of the texture.
    level = np.log2(np.maximum(_TEXELS * (0.35 / near + 0.65 * _DEPTH_PER_ROW / near**2 / 1.35), 1.0))
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
    return _depth_of_field(made, y, edge)


def _depth_of_field(made: np.ndarray, y: np.ndarray, edge: float) -> np.ndarray:
    """Rows lose their sharpness towards the far edge."""
    far = smoothstep(y, edge + 0.26, edge - 0.02)[:, None, None]
    soft = blur(made, 0.006 * math.sqrt(made.shape[0] * made.shape[1]))
    return made + (soft - made) * far


def _backdrop(surface: Surface, size: tuple[int, int], seed: int, light: float) -> np.ndarray:
    """(H, W, 3), the material upright behind the product, a little out of focus."""
    width, height = size
    unit = math.sqrt(width * height)
    far = 1.8 if surface.view == "wall" else 1.4  # it hangs behind, so that more of it is in the picture
    plane = Plane(far * height / unit, far * width / unit, unit / far, seed + 5)
    made = _shaded(surface, plane, light)[:height, :width]
    made = np.pad(made, ((0, height - made.shape[0]), (0, width - made.shape[1]), (0, 0)), mode="edge")
    return blur(made, (0.0016 if surface.view == "wall" else 0.0035) * unit)


def _far_background(surface: Surface, size: tuple[int, int], seed: int, light: float) -> np.ndarray:
    """(H, W, 3), out of focus, far behind a table or a lawn: a wall with the light of a window, or trees and sky."""
    import cv2

    width, height = size
    unit = math.sqrt(width * height)
    small = Plane(height / unit, width / unit, 96, seed)
    y, x = small.grid()
    colour = np.array(surface.colour, np.float32) / 255
    blot = blur(small.fractal("blot", 2.2, 2.6, 2), 3.0)
    if surface.material == "grass":
        leaves = _lights(small, seed, 46, (0.025, 0.07), 0.0, 0.5)
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
            inside = smoothstep(x, left, left + 0.02) * (1 - smoothstep(x, left + wide, left + wide + 0.02))
            made = made * (1 + shade * (inside * smoothstep(y, top, top + 0.02)))[..., None]
        made = blur(made.astype(np.float32), 5.0)
    return cv2.resize(made.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)


def _lights(plane: Plane, seed: int, count: int, radii: tuple[float, float], top: float, bottom: float) -> np.ndarray:
    """(H, W) lights out of focus: discs with soft edges, brighter at the rim, added up."""
    y, x = plane.grid()
    rng = np.random.default_rng([seed, 31])
    total = np.zeros(plane.shape, np.float32)
    for _ in range(count):
        cy, cx = rng.uniform(top, bottom) * plane.height, rng.uniform(-0.05, 1.05) * plane.width
        radius, power = rng.uniform(*radii), rng.uniform(0.15, 1.0) ** 2
        away = np.sqrt((y - cy) ** 2 + (x - cx) ** 2) / radius
        total += np.float32(power) * (1 - smoothstep(away, 0.9, 1.04)) * (0.75 + 0.25 * away**4)
    return total


def _bokeh(surface: Surface, size: tuple[int, int], seed: int, edge: float) -> np.ndarray:
    """(H, W, 3): evening lights out of focus, behind a dark table that mirrors them."""
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
        lights = _lights(plane, seed + 7 * number, 15, (0.02, 0.062), -0.02, max(edge, 0.12) * 0.98)
        made = made + 0.5 * lights[..., None] * hue.astype(np.float32)
    made = blur(made.astype(np.float32), 1.2)
    rows = smoothstep(y / plane.height, edge - 0.01, edge + 0.02)[..., None]
    line = round(edge * plane.shape[0])
    source = np.clip(2 * line - np.arange(plane.shape[0]), 0, plane.shape[0] - 1)
    mirrored = cv2.GaussianBlur(made[source], (0, 0), sigmaX=plane.scale * 0.012, sigmaY=plane.scale * 0.05)
    fade = np.exp(-np.maximum(y / plane.height - edge, 0) / 0.22)[..., None]
    table = base * 0.62 + (mirrored - base * 0.6) * 0.42 * fade
    made = made * (1 - rows) + table * rows
    made = _roll_off_highlights(np.maximum(made, 0).astype(np.float32))
    return cv2.resize(made, size, interpolation=cv2.INTER_CUBIC)


def _with_blades(made: np.ndarray, surface: Surface, seed: int, edge: float | None) -> np.ndarray:
    """(H, W, 3) with blades of grass in front, far ones first; ``edge`` None: seen from above."""
    import cv2

    height, width = made.shape[:2]
    target = np.clip(made * 255, 0, 255).astype(np.uint8)
    for outline, colour in zip(*_blades((width, height), surface, seed, edge), strict=True):
        cv2.fillPoly(target, [outline], colour.tolist(), cv2.LINE_AA, 4)
    drawn = target.astype(np.float32) / 255
    wanted = np.array(surface.colour, np.float32) / 255
    if edge is None:
        return drawn * (wanted / np.maximum(drawn.mean((0, 1)), 1e-3))
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height
    drawn = _depth_of_field(drawn, rows, edge)
    front = smoothstep(rows, 0.86, 1.06)[:, None, None]
    drawn = drawn + (blur(drawn, 0.006 * math.sqrt(width * height)) - drawn) * front
    gain = wanted / np.maximum(drawn[round(edge * height) :].mean((0, 1)), 1e-3)
    return drawn * (1 + (gain - 1) * _below((width, height), edge, 0.05))


def _blades(
    size: tuple[int, int], surface: Surface, seed: int, edge: float | None, count: int = 15_000
) -> tuple[np.ndarray, np.ndarray]:
    """Outlines (count, 8, 2) in sixteenths of a pixel and colours (count, 3), 0..255, of blades of grass, from far to
    near."""
    width, height = size
    unit = math.sqrt(width * height)
    rng = np.random.default_rng([seed, 5])
    row = rng.uniform(0, 1, count)
    if edge is None:
        near, y = np.full(count, 0.8), row * 1.1 - 0.05
    else:
        farthest = _HORIZON / (1 - edge + _HORIZON)
        near = np.sort(farthest * (1.12 / farthest) ** row)  # as dense far away as near, for the eye
        y = edge - _HORIZON + near * (1 - edge + _HORIZON) + 0.03 * near
    x = rng.uniform(-0.05, 1.05, count) * width
    tall = unit * 0.085 * near * rng.uniform(0.45, 1.25, count)
    lean = rng.normal(0.05, 0.42, count) if edge is not None else rng.uniform(-math.pi, math.pi, count)
    bend = rng.normal(0, 0.35, count)
    shade = np.exp(rng.normal(-0.06, 0.3, count))
    dry = rng.uniform(0, 1, count) ** 3
    fresh, hay = (colour / 255 for colour in two_colours(surface))
    colours = (fresh + (hay - fresh) * dry[:, None]) * shade[:, None]
    wide = np.maximum(0.0052 * unit * near * rng.uniform(0.5, 1.2, count), 0.6)
    t = np.linspace(0, 1, 4)  # from the root to the tip
    angle = lean[:, None] + bend[:, None] * t
    spine_x = x[:, None] + tall[:, None] * np.sin(angle) * t
    spine_y = (y * height)[:, None] - tall[:, None] * np.cos(angle) * t
    half = wide[:, None] * (1 - t) ** 0.7 / 2
    left = np.stack([spine_x - half, spine_y], -1)
    right = np.stack([spine_x + half, spine_y], -1)[:, ::-1]
    outlines = np.round(np.concatenate([left, right], 1) * 16).astype(np.int32)
    return outlines, np.clip(colours * 255, 0, 255)
