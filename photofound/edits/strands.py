"""Hair, fur and threads before an even ground: where they are, and how much of each pixel they cover.

An outline with a narrow soft edge cuts strands off. Where the ground has one colour, nothing has to be learnt to find
them: what differs from it beside the subject, in fine lines that begin at the subject, is the subject.

Shapes: rgb (H, W, 3) float32 in [0, 1], mattes (H, W) float32 in [0, 1].
"""

from __future__ import annotations

import numpy as np

REACH = 0.06  # how far from the outline strands are looked for, as a share of the long side
INSIDE = 0.03  # how far inside the outline the ground may shine through
NEAR = 0.012  # what lies nearer is an edge, which a lens or JPEG may have made unsteady
DENSE = 2.5  # fine texture beside the subject, over the ground's own, from which it is strands ...
_LEAST = 1.5  # ... and by how many CIE units it has to be more
_FINE = 1.5  # pixels; what is finer than this is texture
_CONTRAST = 0.15  # between subject and ground, of 1, from which a pixel's share can be told
_OFF = 0.2  # how far, of 1, a pixel may be from all mixtures of the two colours
_FAINT, _FULL = 0.04, 0.96  # shares that count as none and as all
_LINKED = 0.03  # share from which a pixel carries a strand on


def with_strands(
    rgb: np.ndarray, edge: np.ndarray, outline: np.ndarray, ground: np.ndarray, sure: np.ndarray
) -> np.ndarray:
    """The matte of an outline, with the strands beside it; the same where there are none.

    A pixel's share is its place on the line from the ground's colour to the subject's near it.

    Args:
        edge: the matte.
        outline: (H, W) bool, which it is of.
        ground: (3,), 0..255, the colour of the ground.
        sure: (H, W) bool, what is the subject whatever its colour is.
    """
    import cv2

    beyond = _beyond(outline)
    band, inside = _hairy(rgb, outline, beyond), beyond < -2 * NEAR
    if not band.any() or not inside.any():
        return edge
    behind = (ground / 255).astype(np.float32)
    step = _mean_near(rgb, inside, REACH) - behind
    square = (step * step).sum(2)
    share = ((rgb - behind) * step).sum(2) / np.maximum(square, 1e-6)
    off = np.linalg.norm(rgb - behind - share.clip(0, 1)[..., None] * step, axis=2)
    told = band & ~sure & (square > _CONTRAST**2) & (off < _OFF)
    found = np.where(told, ((share - _FAINT) / (_FULL - _FAINT)).clip(0, 1), edge).astype(np.float32)
    _, labels = cv2.connectedComponents((found > _LINKED).astype(np.uint8))
    linked = np.isin(labels, np.unique(labels[outline & (labels > 0)]))
    return np.where(linked | ~told, found, 0)


def _hairy(rgb: np.ndarray, outline: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    """(H, W) bool: the surroundings of those parts of an outline beside which there is fine texture, and none further
    away; ``beyond`` is how far each pixel is outside the outline, inside below 0, over the long side."""
    import cv2

    colours = cv2.cvtColor(np.ascontiguousarray(rgb, np.float32), cv2.COLOR_RGB2LAB)
    fine = np.abs(colours - cv2.GaussianBlur(colours, (0, 0), _FINE)).sum(2)
    beside, ground = (beyond > NEAR) & (beyond <= REACH), (beyond > REACH) & (beyond <= 2 * REACH)
    if not beside.any() or not ground.any():
        return np.zeros_like(outline)
    level = float(fine[ground].mean())
    if fine[beside].max() < DENSE * level + _LEAST:
        return np.zeros_like(outline)
    here = _mean_near(fine, beside, REACH)
    dense = (here > DENSE * level) & (here > level + _LEAST)
    found: np.ndarray = dense & (beyond > -INSIDE) & (beyond <= REACH)
    return found


def _beyond(outline: np.ndarray) -> np.ndarray:
    """(H, W): how far a pixel is from an outline, as a share of the long side; below 0 inside."""
    import cv2

    apart = [cv2.distanceTransform(x.astype(np.uint8), cv2.DIST_L2, 5) for x in (~outline, outline)]
    distance: np.ndarray = (apart[0] - apart[1]) / max(outline.shape)
    return distance


def _mean_near(x: np.ndarray, where: np.ndarray, reach: float) -> np.ndarray:
    """The mean of x, (H, W) or (H, W, 3), over the pixels ``where``, each counting by a Gaussian of ``reach``, a share
    of the long side. Computed on a smaller picture: it is smooth."""
    import cv2

    sigma, (height, width) = reach * max(where.shape), where.shape
    step = max(1, int(sigma / 3))
    size = max(1, width // step), max(1, height // step)
    weight = where.astype(np.float32)
    planes = np.dstack([x * (weight if x.ndim == 2 else weight[..., None]), weight])
    planes = cv2.GaussianBlur(cv2.resize(planes, size, interpolation=cv2.INTER_AREA), (0, 0), sigma / step)
    mean = planes[..., :-1] / np.maximum(planes[..., -1:], 1e-6)
    found: np.ndarray = cv2.resize(mean, (width, height), interpolation=cv2.INTER_LINEAR)
    return found
