"""The metrics as pure functions.

Unless a docstring says otherwise, pictures are (H, W, 3) float arrays in [0, 1], masks (H, W), and features (N, D)
arrays with a row per picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from photofound.edits.ground import lab
from photofound.edits.scores import object_growth as object_growth
from photofound.edits.scores import seam_step as seam_step
from photofound.model.vision import PerceptualNet, VisionModel
from photofound.train.losses import patch_distance, perceptual_distance

# ------------------------------------------------------------------------------------------ a picture against the truth


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures. ``where`` (H, W) bool restricts it to a mask."""
    error = np.square(a.astype(np.float64) - b.astype(np.float64))
    mean = error.mean() if where is None else error[where].mean()
    return float("inf") if mean == 0 else float(-10 * np.log10(mean))


def luma(rgb: np.ndarray) -> np.ndarray:
    """Y of ITU-R BT.601 in studio range, in [16/255, 235/255]. Super-resolution papers measure PSNR on it."""
    return (16 + rgb @ np.array([65.481, 128.553, 24.966])) / 255


def luma_psnr(a: np.ndarray, b: np.ndarray, crop: int) -> float:
    """PSNR of ``luma`` in dB without ``crop`` pixels at every edge. Super-resolution papers report it with the scale as
    the crop."""
    inner = (slice(crop, -crop or None),) * 2
    return psnr(luma(a)[inner], luma(b)[inner])


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) with the paper's Gaussian window, mean over channels; 1 = equal."""
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        raise ImportError("ssim needs scikit-image: pip install 'photofound[eval]'") from None
    options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(a, b, channel_axis=-1, data_range=1.0, **options))


@torch.no_grad()
def perceptual(net: VisionModel, a: np.ndarray, b: np.ndarray) -> float:
    """Distance over a frozen network; 0 = equal.

    Over a ``PerceptualNet`` it is computed as in LPIPS (``perceptual_distance``), over any other vision model as the
    cosine distance of patches (``patch_distance``).
    """
    from photofound.image import to_tensor

    distance: Callable[..., torch.Tensor] = perceptual_distance if isinstance(net, PerceptualNet) else patch_distance
    return float(distance(net, to_tensor(a), to_tensor(b)))


def consistency(result: np.ndarray, given: np.ndarray) -> float:
    """PSNR in dB between the input and its enlargement, scaled back down with an antialiased bicubic filter.

    Above about 45 dB nothing in the enlargement contradicts the input.
    """
    from photofound.edits.composite import shrink
    from photofound.image import from_tensor, to_tensor

    return psnr(from_tensor(shrink(to_tensor(result), given.shape[:2])), given)


# -------------------------------------------------------------------------------------------------- faults of an edit


def altered(result: np.ndarray, original: np.ndarray, keep: np.ndarray) -> float:
    """Share of the pixels in ``keep`` (H, W) bool that differ in at least one channel."""
    return float((result[keep] != original[keep]).any(-1).mean()) if keep.any() else 0.0


def hole_patches(rgb: np.ndarray, hole: np.ndarray, side: int = 32, count: int = 16) -> np.ndarray:
    """Squares (at most ``count``, side, side, 3) around pixels of ``hole`` (H, W) bool.

    They are spread evenly over the hole, row by row; equal holes give equal places. A square at the edge is moved
    inwards. A picture that is smaller than ``side`` gives smaller squares.
    """
    places = np.flatnonzero(hole)
    chosen = places[np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)]
    height, width = hole.shape
    side = min(side, height, width)
    rows, columns = np.divmod(chosen, width)
    tops, lefts = (rows - side // 2).clip(0, height - side), (columns - side // 2).clip(0, width - side)
    cut = [rgb[top : top + side, left : left + side] for top, left in zip(tops, lefts, strict=True)]
    return np.stack(cut) if cut else np.empty((0, side, side, 3), rgb.dtype)


@torch.no_grad()
def patch_features(net: VisionModel, patches: np.ndarray) -> np.ndarray:
    """Features (N, D) of patches (N, h, w, 3) that distinguish textures.

    They are the mean over positions of unit-length features: of fire5 of a ``PerceptualNet`` (D = 256, each sees about
    50 pixels), of any other vision model those of its patches.
    """
    from photofound.image import to_tensor

    if not len(patches):
        return np.empty((0, 0))
    batch = torch.cat([to_tensor(patch) for patch in patches])
    found = net(batch)[4].flatten(2).transpose(1, 2) if isinstance(net, PerceptualNet) else net.patches(batch)
    return F.normalize(found.double(), dim=-1).mean(1).cpu().numpy()


def seam_excess(result: np.ndarray, original: np.ndarray, hole: np.ndarray) -> float:
    """The step across the hole's border minus the original's step at the same place, in [-1, 1].

    Above 0 it is a visible seam, below 0 smoother than the photograph.
    """
    return seam_step(result, hole) - seam_step(original, hole)


def colour_shift(before: np.ndarray, after: np.ndarray, where: np.ndarray, target: np.ndarray) -> float:
    """How much nearer the mean colour in ``where`` (H, W) bool came to ``target`` (3,) in [0, 1].

    It is a difference of distances in CIE L*a*b*; about 2.3 is just noticeable.
    """
    means = np.array([before[where].mean(0), after[where].mean(0), target])
    was, became, wanted = lab(means * 255)
    return float(np.linalg.norm(was - wanted) - np.linalg.norm(became - wanted))


# --------------------------------------------------------------------------------------------- prompts and whole sets


def clip_score(image: np.ndarray, text: np.ndarray) -> float:
    """CLIPScore (arXiv:2104.08718) of two embeddings (D,) as commonly reported: 100 max(cos, 0)."""
    cosine = np.dot(image, text) / (np.linalg.norm(image) * np.linalg.norm(text))
    return float(100 * max(cosine, 0.0))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of two sets of features as Gaussians (FID, arXiv:1706.08500, eq. 6); 0 = same.

    tr (Ca Cb)^1/2 is the sum of the singular values of A B^T, where A and B are the centred features divided by
    sqrt(N - 1). So no matrix root is needed, and there may be fewer pictures than features. The distance is biased for
    few pictures: compare it only over equal numbers of them.
    """
    _require_set(a, b)
    mean_a, mean_b = a.mean(0), b.mean(0)
    centred_a, centred_b = (a - mean_a) / np.sqrt(len(a) - 1), (b - mean_b) / np.sqrt(len(b) - 1)
    root_a, root_b = (np.asarray(np.linalg.qr(x, mode="r")) for x in (centred_a, centred_b))
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    spread = np.square(centred_a).sum() + np.square(centred_b).sum()
    return float(np.square(mean_a - mean_b).sum() + spread - 2 * cross)


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3 (KID, arXiv:1801.01401, section 4).

    0 = same; small sets may be below 0.
    """
    _require_set(a, b)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: np.ndarray) -> float:
        k = kernel(x, x)
        return float((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())


def clip_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared MMD of unit-length features with a Gaussian kernel, sigma 10, times 1,000 (CMMD, arXiv:2401.09603).

    Its authors use CLIP's features. 0 = same.
    """
    _require_set(a, b)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.exp(-(2 - 2 * x @ y.T) / (2 * 10**2)).mean())

    return 1000 * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b))


def _require_set(a: np.ndarray, b: np.ndarray) -> None:
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a distance of sets needs 2 pictures or more, got {len(a)} and {len(b)}")


# ----------------------------------------------------------------------------------------------------------- intervals


def bootstrap(values: np.ndarray, level: float = 0.95, rounds: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean of (N,) values under resampling with replacement (Efron 1979)."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (rounds, len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_ratio(
    a: np.ndarray, b: np.ndarray, level: float = 0.95, rounds: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of mean(a) / mean(b) of paired (N,) values. Pairs are resampled together."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(a), (rounds, len(a)))
    low, high = np.quantile(a[chosen].mean(1) / b[chosen].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value of wins and losses if both were equally likely, without ties; 1 for no trials."""
    count, most = wins + losses, max(wins, losses)
    return min(1.0, 2 * _tail(most, count, 0.5)) if count else 1.0


def proportion_interval(successes: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share (Clopper and Pearson 1934) that covers at least ``level``; [0, 1] for no trials."""
    alpha = (1 - level) / 2

    def bisect(rises: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if rises(middle) else (middle, high)
        return (low + high) / 2

    lower = bisect(lambda p: _tail(successes, count, p) > alpha) if successes else 0.0
    upper = bisect(lambda p: 1 - _tail(successes + 1, count, p) < alpha) if successes < count else 1.0
    return lower, upper


def _tail(least: int, count: int, chance: float) -> float:
    """P(X >= least) of a binomial X, 0 < chance < 1."""

    def log(k: int) -> float:  # of the probability of k: powers and binomials alone would overflow
        ways = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        return ways + k * math.log(chance) + (count - k) * math.log1p(-chance)

    return math.fsum(math.exp(log(k)) for k in range(least, count + 1))


def jackknife(statistic: Callable[[np.ndarray], float], count: int, groups: int = 20) -> float:
    """Standard error of a statistic of ``count`` pictures, leaving out one group of them at a time (Shao and Wu 1989).

    For distances of sets: a bootstrap would draw pictures twice, and such distances take that for less variety.

    Args:
        statistic: from the indices (n,) of the remaining pictures to a number.
    """
    parts = np.array_split(np.arange(count), min(groups, count))
    values = np.array([statistic(np.setdiff1d(np.arange(count), part)) for part in parts])
    return float(np.sqrt((len(parts) - 1) * values.var()))
