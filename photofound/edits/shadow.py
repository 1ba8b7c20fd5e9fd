"""The shadow of a subject, from its matte: the mean of the silhouettes that many small lamps throw.

A soft light is many lamps side by side. Each throws the subject's outline onto the ground, sheared and laid down; where
the subject touches the ground all of these coincide, and farther away they drift apart. So the mean is sharp at the
contact and blurs with distance, as it does in a studio. There are two lights: the key, from one direction, and the sky,
from everywhere, which darkens the ground along the contact.

Mattes are (H, W) float32 in [0, 1], 1 = subject.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from photofound.edits.inputs import asks

KINDS = ("none", "soft", "hard", "contact")
POSES = ("standing", "lying", "hanging")

# What a task asks its user: one annotation for each option.
Kind = Annotated[Any, asks("text", "the subject's shadow", KINDS)]
Direction = Annotated[
    Any, asks("int", "degrees to where it falls: 0 behind, 90 right, 180 to the front", within=(0, 360))
]
Softness = Annotated[Any, asks("share", "size of the lamp: 0% a point, 100% a clouded sky", within=(0, 100))]
Spread = Annotated[Any, asks("share", "how far it reaches, as a share of the subject's height", within=(0, 300))]
Intensity = Annotated[Any, asks("share", "how dark it is where it is darkest", within=(0, 100))]
NAMES = ("shadow", "shadow_direction", "shadow_softness", "shadow_spread", "shadow_intensity", "shadow_pose")
Pose = Annotated[Any, asks("text", "how the subject is held; left out, standing", POSES)]


@dataclass(frozen=True)
class Shadow:
    """A shadow as a user asks for it; ``of`` makes one.

    Attributes:
        kind: ``soft``, ``hard``, or ``contact``, which is the sky's alone.
        direction: degrees to where it falls, seen from above: 0 = behind the subject, 90 = right, 180 = to the front,
            270 = left.
        softness: the size of the lamp, 0 = a point to 1 = as wide as the sky.
        spread: how far the top of the subject throws it, as a share of the subject's height; None = as usual for the
            kind, or as far as the frame has room for.
        intensity: the share of the light that is missing where it is darkest.
        pose: ``standing`` on the ground; ``lying`` on it, seen from above; ``hanging`` before a wall.
    """

    kind: str = "soft"
    direction: float = 75.0
    softness: float = 0.6
    spread: float | None = None
    intensity: float = 0.5
    pose: str = "standing"

    @classmethod
    def of(
        cls,
        kind: Any,
        direction: Any = None,
        softness: Any = None,
        spread: Any = None,
        intensity: Any = None,
        pose: Any = None,
    ) -> Shadow | None:
        """A shadow from the inputs of a task; None for ``none``. What is None has the kind's default. Raises
        ValueError."""
        if kind not in KINDS:
            raise ValueError(f"shadow: {kind!r} is unknown; use {', '.join(KINDS)}")
        pose = "standing" if pose is None else pose
        if pose not in POSES:
            raise ValueError(f"shadow_pose: {pose!r} is unknown; use {', '.join(POSES)}")
        if direction is not None and (isinstance(direction, bool) or not isinstance(direction, (int, float))):
            raise ValueError(f"shadow_direction: {direction!r} must be degrees, like 90")
        if kind == "none":
            return None
        usual = _USUAL[kind]
        angle = (75.0 if pose == "standing" else 155.0) if direction is None else float(direction) % 360
        return cls(
            kind,
            angle,
            share(softness, "shadow_softness", usual[0]),
            None if spread is None else share(spread, "shadow_spread", 0.0, most=3.0),
            share(intensity, "shadow_intensity", usual[1]),
            pose,
        )


AUTOMATIC = Shadow()
"""Stands for a shadow that fits the light on the subject and the ground: ``staging`` draws it."""


def of_inputs(given: Mapping[str, Any], usual: str) -> Shadow | None:
    """The shadow that a task's inputs ask for. Where nothing of it is said, its kind is ``usual``, or it is
    ``AUTOMATIC``. Raises ValueError."""
    settings = {name.removeprefix("shadow_"): given.get(name) for name in NAMES[1:]}
    kind = given.get("shadow")
    if kind is None:
        said = any(value is not None for value in settings.values())
        if usual == "automatic" and not said:
            return AUTOMATIC
        kind = "soft" if said and usual in ("none", "automatic") else usual
    return Shadow.of(kind, **settings)


_USUAL = {"soft": (0.6, 0.5), "hard": (0.06, 0.5), "contact": (1.0, 0.5)}  # softness, intensity
_SPREAD = 0.5


def share(value: Any, name: str, default: float, most: float = 1.0) -> float:
    """A share from ``"25%"`` or 0.25; ``default`` for None. Raises ValueError outside 0 to ``most``."""
    if value is None:
        return default
    number = value
    if isinstance(value, str):
        try:
            number = float(value.strip().removesuffix("%")) / (100 if "%" in value else 1)
        except ValueError:
            number = math.nan
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= most:
        raise ValueError(f"{name}: {value!r} must be a share from 0% to {most:.0%}")
    return float(number)


_SIDE = {"soft": 800, "hard": 1280, "contact": 800}  # longest side in pixels of what is computed
_COARSE = 320  # of what is soft all over
_LAMPS = {"soft": 64, "hard": 20, "contact": 0}
_PITCH = 0.3  # sine of the angle at which the camera looks down on the ground: what foreshortens it
_SLOPE, _RISE = 0.25, 0.1  # of the line on which a subject stands; the rise as a share of the same as depth
_DEPTH = 0.4  # of a subject, as a share of the root of its width times its height


def cast(matte: np.ndarray, shadow: Shadow) -> np.ndarray:
    """(H, W) float32 in [0, 1]: the share of the light that is missing on the ground, also under the subject.

    Raises ValueError if nothing is opaque.
    """
    check_subject(matte)
    work, coarse = _reduced(matte, _SIDE[shadow.kind]), _reduced(matte, _COARSE)
    parts = _StandingParts if shadow.pose == "standing" else _FlatParts
    fine, wide = parts(work, shadow), parts(coarse, shadow)
    key = (fine if shadow.softness < 0.2 else wide).key()
    strong = _STRENGTH[shadow.kind]
    lit = (1 - strong[0] * _resized(key, work.shape)) * (1 - strong[1] * _resized(wide.sky(), work.shape))
    dark = 1 - lit * (1 - strong[2] * fine.contact())
    return _resized((shadow.intensity * dark).astype(np.float32), matte.shape).clip(0, 1)


_STRENGTH = {"soft": (0.7, 0.95, 0.8), "hard": (0.9, 0.6, 0.8), "contact": (0.0, 0.9, 0.8)}  # of key, sky and contact


def _reduced(matte: np.ndarray, longest: int) -> np.ndarray:
    import cv2

    scale = min(1.0, longest / max(matte.shape))
    size = max(2, round(matte.shape[1] * scale)), max(2, round(matte.shape[0] * scale))
    small = cv2.resize(np.ascontiguousarray(matte, np.float32), size, interpolation=cv2.INTER_AREA)
    return small if (small > 0.5).any() else small / small.max()


def _resized(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    import cv2

    return x if x.shape == shape else cv2.resize(x, shape[::-1], interpolation=cv2.INTER_LINEAR)


def check_subject(matte: np.ndarray) -> None:
    """Raise ValueError if nothing is opaque."""
    if not (matte > 0.5).any():
        raise ValueError("subject: nothing is opaque; there is nothing to put on a surface")


def _lamps(shadow: Shadow, spread: float) -> list[tuple[float, float]]:
    """The key light as lamps: (direction in radians, reach as a share of the height), spread evenly over a disc."""
    golden, count, found = math.pi * (3 - math.sqrt(5)), _LAMPS[shadow.kind], []
    for i in range(count):
        radius, turn = math.sqrt((i + 0.5) / count), i * golden
        direction = math.radians(shadow.direction) + 1.1 * shadow.softness * radius * math.cos(turn)
        found.append((direction, max(0.02, spread * (1 + 0.9 * shadow.softness * radius * math.sin(turn)))))
    return found


def _sky(count: int = 12) -> Iterator[tuple[float, float, float]]:
    """The sky as lamps: (direction in radians, reach, weight); a flat ground gets the sine of their height."""
    bands = ((20, 35), (35, 50), (50, 65), (65, 78), (78, 90))  # degrees above the ground
    total = 1 - math.sin(math.radians(bands[0][0])) ** 2
    for band, (low, high) in enumerate(bands):
        weight = (math.sin(math.radians(high)) ** 2 - math.sin(math.radians(low)) ** 2) / total
        for i in range(count):
            direction = 2 * math.pi * (i + 0.5 * (band % 2) + 0.25) / count
            yield direction, 1 / math.tan(math.radians((low + high) / 2)), weight / count


class _StandingParts:
    """The parts of the shadow of a subject that stands: its outline is laid down on the ground, away from each lamp,
    along the line on which it stands."""

    def __init__(self, matte: np.ndarray, shadow: Shadow) -> None:
        solid = matte > 0.5
        rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
        self.shadow = shadow
        self.base, self.tall = float(rows[-1] + 1), float(rows[-1] + 1 - rows[0])
        self.unit = math.sqrt(self.tall * (columns[-1] + 1 - columns[0]))
        self.line, self.rows = standing_line(matte), len(matte)
        # What is in front of the base comes into the frame where a column moves back up.
        matte = np.pad(matte, ((0, math.ceil(max(0.0, self.base - float(self.line.min())))), (0, 0)))
        self.level = _columns_moved(matte, self.base - self.line)
        self.thick = max(1, round(_DEPTH * _PITCH * self.unit))
        self.spread = _room_for(solid, columns, self.tall, shadow) if shadow.spread is None else shadow.spread
        heights = (self.base - np.arange(len(matte), dtype=np.float32)) / (0.05 * self.unit)
        self.foot = self.level * np.clip(1 - heights, 0, 1)[:, None]

    def key(self) -> np.ndarray:
        lamps = _lamps(self.shadow, self.spread)
        made = np.zeros_like(self.level)
        for direction, length in lamps:
            made += self._laid(self.level, math.sin(direction) * length, math.cos(direction) * length, self.thick)
        return self._finished(made / max(1, len(lamps)), 0.004, 0.3 + self.shadow.softness)

    def sky(self) -> np.ndarray:
        made, wide = np.zeros_like(self.level), 0.4 * min(1.0, self.unit / self.tall)  # whatever its height
        for direction, length, weight in _sky():
            across, away = math.sin(direction) * length * wide, math.cos(direction) * length * wide
            made += weight * self._laid(self.level, across, away, self.thick)
        return self._finished(made, 0.03, 1.6)

    def contact(self) -> np.ndarray:
        """A narrow strip where it touches the ground."""
        strip = _smooth(self._laid(self.foot, 0.0, 0.3, 2), 0.006 * self.unit)
        return _columns_moved(strip, self.line - self.base)[: self.rows]

    def _laid(self, level: np.ndarray, across: float, away: float, thick: int) -> np.ndarray:
        """The outline laid down: what is h above the base lies h * across to the right of where it was, and h * away
        behind the base, foreshortened. The subject is so many rows ``thick``."""
        import cv2

        away = math.copysign(max(abs(away) * _PITCH, 0.03), away)
        move = np.array([[1, -across, across * self.base], [0, away, (1 - away) * self.base]], np.float64)
        laid = cv2.warpAffine(level, move, level.shape[::-1], flags=cv2.INTER_LINEAR)
        return cv2.dilate(laid, np.ones((thick, 1), np.uint8), anchor=(0, 0))

    def _finished(self, made: np.ndarray, least: float, most: float) -> np.ndarray:
        """Blurred the more the farther away the foot is, and back along the line on which the subject stands."""
        import cv2

        foot = self._laid(self.foot, 0.0, 0.3, self.thick)
        away = cv2.distanceTransform((foot < 0.2).astype(np.uint8), cv2.DIST_L2, 3) / self.unit
        sigmas = (least, *(most * share for share in (0.015, 0.035, 0.06)))
        place = np.clip(away / 0.5, 0, 1) ** 0.7 * (len(sigmas) - 1)
        blurred = np.zeros_like(made)
        for number, sigma in enumerate(sigmas):
            blurred += np.clip(1 - np.abs(place - number), 0, 1) * _smooth(made, sigma * self.unit)
        return _columns_moved(blurred, self.line - self.base)[: self.rows]


class _FlatParts:
    """The parts of the shadow of a subject that lies, seen from above, or hangs before a wall: its outline is moved
    away from each lamp. Lying, it touches the ground, and is thick."""

    def __init__(self, matte: np.ndarray, shadow: Shadow) -> None:
        self.matte, self.shadow = matte, shadow
        self.unit = math.sqrt(float((matte > 0.5).sum()))
        self.spread = _SPREAD if shadow.spread is None else shadow.spread
        low, high = (0.0, 0.09) if shadow.pose == "lying" else (0.1, 0.16)  # of the subject above the ground
        self.heights = np.linspace(low, high, 3) * self.unit

    def key(self) -> np.ndarray:
        lamps = _lamps(self.shadow, self.spread)
        made = np.zeros_like(self.matte)
        for direction, length in lamps:
            made += np.maximum.reduce([self._moved(direction, 2 * length * height) for height in self.heights])
        return _smooth(made / max(1, len(lamps)), 0.006 * self.unit)

    def sky(self) -> np.ndarray:
        made = np.zeros_like(self.matte)
        for direction, length, weight in _sky():
            made += weight * self._moved(direction, 0.6 * length * float(self.heights[-1]))
        return _smooth(made, 0.012 * self.unit)

    def contact(self) -> np.ndarray:
        """Where the rim of what lies touches the ground."""
        if self.shadow.pose == "hanging":
            return np.zeros_like(self.matte)
        return 0.6 * _smooth(self.matte, 0.008 * self.unit)

    def _moved(self, direction: float, distance: float) -> np.ndarray:
        import cv2

        move = np.array([[1, 0, math.sin(direction) * distance], [0, 1, -math.cos(direction) * distance]], np.float64)
        return cv2.warpAffine(self.matte, move, self.matte.shape[::-1], flags=cv2.INTER_LINEAR)


def _room_for(solid: np.ndarray, columns: np.ndarray, tall: float, shadow: Shadow) -> float:
    """The usual spread, or a smaller one that keeps the shadow in the frame."""
    side = math.sin(math.radians(shadow.direction))
    room = solid.shape[1] - columns[-1] - 1 if side > 0 else columns[0]
    farthest = abs(side) * (1 + 0.6 * shadow.softness) * tall
    return min(_SPREAD, max(0.12, 0.95 * room / farthest)) if farthest > 1 else _SPREAD


def standing_line(matte: np.ndarray) -> np.ndarray:
    """(W,) float32: the y on which each column of a subject stands. It is the lower hull of the outline, smoothed, and
    rises neither more steeply nor higher than the edge of a box on a ground that is seen from a little above."""
    import cv2

    solid = matte > 0.5
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    unit = math.sqrt((rows[-1] + 1 - rows[0]) * (columns[-1] + 1 - columns[0]))
    lowest = solid.shape[0] - np.argmax(solid[::-1, columns], axis=0).astype(np.float64)
    hull: list[tuple[float, float]] = []
    for x, y in zip(columns.tolist(), lowest.tolist(), strict=True):
        while len(hull) > 1 and _is_above(hull[-1], hull[-2], (x, y)):
            hull.pop()
        hull.append((x, y))
    across = np.arange(solid.shape[1])
    line = np.interp(across, [point[0] for point in hull], [point[1] for point in hull])
    line = np.maximum(line, rows[-1] + 1 - _RISE * unit)
    from_left = np.maximum.accumulate(line + _SLOPE * across) - _SLOPE * across
    from_right = np.maximum.accumulate((line - _SLOPE * across)[::-1])[::-1] + _SLOPE * across
    line = np.maximum(from_left, from_right)[None].astype(np.float32)
    return cv2.GaussianBlur(line, (0, 0), 0.04 * unit, sigmaY=0.1, borderType=cv2.BORDER_REPLICATE)[0]


def _is_above(point: tuple[float, float], start: tuple[float, float], end: tuple[float, float]) -> bool:
    """Whether a point lies on a line or above it; y points down."""
    across, down = end[0] - start[0], end[1] - start[1]
    return (point[1] - start[1]) * across <= down * (point[0] - start[0])


def _columns_moved(x: np.ndarray, down: np.ndarray) -> np.ndarray:
    """(H, W) with each column moved down by so many pixels (W,); its ends are repeated."""
    import cv2

    if not np.abs(down).max() > 0.01:
        return x
    rows, columns = np.indices(x.shape, np.float32)
    return cv2.remap(x, columns, rows - down[None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _smooth(x: np.ndarray, sigma: float) -> np.ndarray:
    import cv2

    return cv2.GaussianBlur(x, (0, 0), max(sigma, 0.4), borderType=cv2.BORDER_REPLICATE)
