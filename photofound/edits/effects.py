"""What a thing does to its surroundings: its shadow on the ground, found in a photograph.

A shadow takes the same share of the light from all colours of the ground, and it has no edge of its own where it fades.

Shapes: rgb (H, W, 3) float32 sRGB in [0, 1]; masks (H, W) float32 in [0, 1], 1 = the thing.
"""

from __future__ import annotations

import math

import numpy as np

from photofound.edits.ground import ground_colour

_SIDE = 512  # long side at which shadows are looked for: they are soft
_TINT = 0.07  # by which the shares of the light in the three colours may differ
_DARKEST, _LIGHTEST = 0.12, 0.985  # share of the ground's light that a shadow leaves
_LEAST, _MOST = 0.004, 1.0  # a shadow's area over the thing's: what is larger is a ground of another tone
_STEP = 0.035  # of the light, from pixel to pixel: what changes faster is an edge, of another thing
_FADES = 0.8  # share of a shadow's rim that has no edge
_EVEN = 0.018  # the same where nothing is darker than the ground


def shadow_beside(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W) float32 in {0, 1}: the shadow of what a mask covers, outside of it. All zeros where there is none.

    It begins at the mask, and it is darker than the ground around, by the same share in all colours.
    """
    import cv2

    small, inside = _reduced(rgb, mask)
    if not (inside > 0.5).any() or (inside > 0.5).all():
        return np.zeros(mask.shape, np.float32)
    thing = (inside > 0.05).astype(np.uint8)
    reach = max(4.0, 0.9 * math.sqrt(float(thing.sum())))
    away = cv2.distanceTransform(1 - thing, cv2.DIST_L2, 3)
    near = away < reach
    share, tinted = _light(small, _ground(small, (away > 0.35 * reach).astype(np.float32), thing))
    dark = near & (thing == 0) & (share > _DARKEST) & (share < 0.94) & ~tinted
    dark = cv2.morphologyEx(dark.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    touching = cv2.dilate(thing, np.ones((7, 7), np.uint8))
    found = connected(dark, (dark > 0) & (touching > 0))
    if found.sum() < _LEAST * thing.sum():
        return np.zeros(mask.shape, np.float32)
    # Its fading rim, too, as far as it goes on getting lighter.
    rim = cv2.dilate(found.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    found = (found | (rim & near & (share < _LIGHTEST) & ~tinted)) & (thing == 0)
    found = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)).astype(np.float32)
    if found.sum() > _MOST * thing.sum():
        return np.zeros(mask.shape, np.float32)
    grown = cv2.resize(found, mask.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.25
    return (grown & (mask < 0.5)).astype(np.float32)


def without_shadow(rgb: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """A rough matte without the ground and the shadows that it has taken for the subject: what can be reached from the
    ground outside without crossing an edge, and is ground, darker or not. Only where the photograph's border shows one
    ground; a matte of which too little would be left comes back as it is."""
    import cv2

    small, inside = _reduced(rgb, matte)
    colour = ground_colour(small * 255)
    if colour is None or not (inside > 0.5).any():
        return matte
    share, tinted = _light(small, np.broadcast_to(np.maximum(colour / 255, 0.05), small.shape))
    step = cv2.morphologyEx(cv2.GaussianBlur(share, (0, 0), 0.8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    calm = np.where(share < 0.93, step < _STEP, step < _EVEN)
    passable = (share > _DARKEST) & (share < 1.03) & ~tinted & calm
    passable = cv2.erode(passable.astype(np.uint8), np.ones((3, 3), np.uint8))
    reached = connected(passable, (passable > 0) & (inside < 0.1))
    reached = cv2.dilate(reached.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    wrong = _without_rim(reached & (inside > 0.1), inside, step)
    rest = (inside > 0.5) & ~wrong
    if wrong.sum() < 0.01 * (inside > 0.5).sum() or rest.sum() < 0.25 * (inside > 0.5).sum():
        return matte
    _, labels, stats, _ = cv2.connectedComponentsWithStats(rest.astype(np.uint8))
    large = stats[:, cv2.CC_STAT_AREA] >= 0.03 * rest.sum()
    large[0] = False
    kept = cv2.GaussianBlur((large[labels] & rest).astype(np.float32), (0, 0), 0.7)
    return np.minimum(matte, cv2.resize(kept, matte.shape[::-1], interpolation=cv2.INTER_LINEAR))


def _without_rim(wrong: np.ndarray, inside: np.ndarray, step: np.ndarray) -> np.ndarray:
    """The parts of what was reached that fade into the ground outside. Those that a rim parts from it were reached
    through a gap, and belong to the subject."""
    import cv2

    around = cv2.dilate((inside < 0.1).astype(np.uint8), np.ones((7, 7), np.uint8))
    count, labels = cv2.connectedComponents(wrong.astype(np.uint8))
    found = np.zeros(wrong.shape, bool)
    for number in range(1, count):
        part = labels == number
        rim = (cv2.dilate(part.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0) & (around > 0)
        if rim.any() and (step[rim] < 2 * _STEP).mean() > _FADES:
            found |= part
    return found


def _reduced(rgb: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import cv2

    scale = min(1.0, _SIDE / max(mask.shape))
    size = max(4, round(mask.shape[1] * scale)), max(4, round(mask.shape[0] * scale))
    small, inside = (
        cv2.resize(np.ascontiguousarray(x, np.float32), size, interpolation=cv2.INTER_AREA) for x in (rgb, mask)
    )
    return small, inside


def _ground(rgb: np.ndarray, weight: np.ndarray, thing: np.ndarray) -> np.ndarray:
    """(H, W, 3): what the ground would be, from its brighter parts around the thing."""
    import cv2

    sigma = 0.06 * max(thing.shape)
    luma = rgb.mean(2)
    mean = cv2.GaussianBlur(luma * weight, (0, 0), sigma) / np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-3)
    bright = weight * (luma > 0.92 * mean)
    total = cv2.GaussianBlur(bright, (0, 0), 2 * sigma)
    ground = cv2.GaussianBlur(rgb * bright[..., None], (0, 0), 2 * sigma) / np.maximum(total, 1e-4)[..., None]
    whole = rgb[bright > 0].mean(0) if (bright > 0).any() else rgb.reshape(-1, 3).mean(0)
    return np.maximum(np.where(total[..., None] > 1e-3, ground, whole), 0.05).astype(np.float32)


def _light(rgb: np.ndarray, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of the ground's light that each pixel has, and whether it has another colour than the ground."""
    shares = rgb / ground
    spread = shares.max(2) - shares.min(2)
    share = shares.mean(2).astype(np.float32)
    return share, spread > _TINT + 0.12 * np.clip(1 - share, 0, 1)


def connected(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """(H, W) bool: the parts of a {0, 1} mask that hold a seed."""
    import cv2

    _, labels = cv2.connectedComponents(mask.astype(np.uint8))
    numbers = np.unique(labels[seeds])
    chosen = np.zeros(labels.max() + 1, bool)
    chosen[numbers[numbers > 0]] = True
    found: np.ndarray = chosen[labels] & (mask > 0)
    return found
