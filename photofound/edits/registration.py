"""Where a model has moved, zoomed or tinted the picture that it was given, and how that is undone.

Editing models that are not ours return the whole picture anew, often shifted by a few pixels, zoomed by a percent, or
in slightly other colours. What was given tells by how much.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_SIDE = 512  # longest side at which the motion is measured; more finds it no better
_LEAST_SHARE = 0.02  # of the picture; less that was given says nothing reliable of a motion
_AGREES = 0.6  # correlation of what was given with what came back, below which the two are not the same picture
_RING = 16  # pixels beside the hole whose colours are compared, at the working size
_CHANGE = 0.06  # of full scale; smaller differences are an autoencoder's, not an edit's
_GAINS = (0.75, 1.35)  # of a colour channel; beyond them it is another picture, not a tint


@dataclass(frozen=True)
class Registration:
    """What was found and undone.

    Attributes:
        matrix: (2, 3), from a pixel of the given picture to the same point in the one that came back; None = not found.
        agreement: correlation of the two where pixels were given, -1 to 1, after alignment.
    """

    matrix: np.ndarray | None
    agreement: float

    @property
    def failed(self) -> bool:
        """Whether what came back is not the picture that was given."""
        return self.agreement < _AGREES

    def shift(self, size: tuple[int, int]) -> float:
        """How far the corners of a picture of ``size`` (width, height) were moved at most, in pixels."""
        if self.matrix is None:
            return 0.0
        width, height = size
        corners = np.array([(0, 0, 1), (width, 0, 1), (0, height, 1), (width, height, 1)], np.float64)
        return float(np.linalg.norm(corners @ self.matrix.T - corners[:, :2], axis=1).max())


def register(made: np.ndarray, given: np.ndarray, hole: np.ndarray) -> Registration:
    """Find the affine motion of what was given (enhanced correlation coefficient, Evangelidis and Psarakis 2008).

    Args:
        made, given: (H, W, 3) float32 in [0, 1].
        hole: (H, W) bool, True = invented; what lies there is not compared.
    """
    known = ~hole
    if known.mean() < _LEAST_SHARE:
        return Registration(None, 1.0)
    scale = min(1.0, _SIDE / max(hole.shape))
    size = max(8, round(hole.shape[1] * scale)), max(8, round(hole.shape[0] * scale))
    a, b = (_grey(each, size) for each in (given, made))
    mask = (cv2.resize(known.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) * 255).astype(np.uint8)
    mask = cv2.erode(mask, np.ones((3, 3), np.uint8))
    before = _correlation(a, b, mask > 0)
    if not (mask > 0).any() or a[mask > 0].std() < 1e-3:  # nothing to go by
        return Registration(None, 1.0)
    warp = np.eye(2, 3, dtype=np.float32)
    try:
        criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 80, 1e-5)
        cv2.findTransformECC(a, b, warp, cv2.MOTION_AFFINE, criteria, mask, 5)
    except cv2.error:  # it does not converge for pictures that differ
        return Registration(None, before)
    aligned = cv2.warpAffine(
        b, warp, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    after = _correlation(a, aligned, mask > 0)
    whole = warp.astype(np.float64)
    to_work = np.diag([size[0] / hole.shape[1], size[1] / hole.shape[0]])
    whole[:, :2], whole[:, 2] = np.linalg.inv(to_work) @ whole[:, :2] @ to_work, np.linalg.inv(to_work) @ whole[:, 2]
    plausible = np.abs(whole[:, :2] - np.eye(2)).max() < 0.2
    if after <= before + 1e-3 or not plausible:
        return Registration(None, before)
    return Registration(whole, after)


def aligned(made: np.ndarray, found: Registration) -> np.ndarray:
    """What came back, where it belongs: (H, W, 3) float32."""
    if found.matrix is None:
        return made
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    size = made.shape[1], made.shape[0]
    return cv2.warpAffine(made, found.matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101).clip(0, 1)


def toned(made: np.ndarray, given: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """What came back in the colours that were given, channel by channel a gain and an offset, which what was given
    beside
    the hole tells: (H, W, 3) float32 in [0, 1]."""
    near = cv2.dilate(hole.astype(np.uint8), np.ones((2 * _RING + 1,) * 2, np.uint8)).astype(bool) & ~hole
    if near.sum() < 64:
        return made
    result = made.copy()
    for channel in range(3):
        x, y = made[near, channel].astype(np.float64), given[near, channel].astype(np.float64)
        spread = x.var()
        gain = float(np.clip(((x - x.mean()) * (y - y.mean())).mean() / spread, *_GAINS)) if spread > 1e-4 else 1.0
        result[..., channel] = made[..., channel] * gain + (y.mean() - gain * x.mean())
    return result.clip(0, 1)


def changed(made: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Where an edited picture differs from the given one: (H, W) float32 in [0, 1], 1 = changed, with soft edges.

    An autoencoder changes every pixel a little; what counts as changed is what differs by more than it usually does, in
    pieces that are no specks, and a margin around them.
    """
    side = max(made.shape[:2])
    sigma = max(1.0, side / 256)
    difference = np.abs(cv2.GaussianBlur(np.ascontiguousarray(made - given, np.float32), (0, 0), sigma)).max(-1)
    usual = float(np.median(difference))
    marked = (difference > max(_CHANGE, 4 * usual)).astype(np.uint8)
    speck = max(3, round(side / 128) | 1)
    marked = cv2.morphologyEx(marked, cv2.MORPH_OPEN, np.ones((speck, speck), np.uint8))
    margin = 2 * max(2, round(side / 64)) + 1
    marked = cv2.dilate(marked, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (margin, margin)))
    soft = cv2.GaussianBlur(marked.astype(np.float32), (0, 0), margin / 6)
    return np.where(marked > 0, np.clip(soft, 0, 1), 0).astype(np.float32)


def _grey(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(
        cv2.cvtColor(np.ascontiguousarray(rgb, np.float32), cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA
    )


def _correlation(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    x, y = a[where].astype(np.float64), b[where].astype(np.float64)
    if not len(x) or x.std() < 1e-6 or y.std() < 1e-6:
        return 1.0 if len(x) and np.abs(x - y).mean() < 0.02 else 0.0
    return float(np.corrcoef(x, y)[0, 1])
