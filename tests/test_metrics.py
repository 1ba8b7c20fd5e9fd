"""Every figure against a second implementation (scikit-image, SciPy, torchmetrics) or a closed form."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import scipy.spatial
import scipy.stats
import skimage.color
import skimage.metrics
import torch
import torchmetrics.functional.image
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from photofound.eval import metrics
from photofound.model.vision import PerceptualNet


def pair(height=32, width=41):
    rng = np.random.default_rng(0)
    a = cv2.GaussianBlur(rng.random((height, width, 3)), (0, 0), 1.5)
    return a, np.clip(a + rng.normal(0, 0.05, a.shape), 0, 1)


def test_psnr_is_scikit_images():
    a, b = pair()
    assert metrics.psnr(a, b) == pytest.approx(skimage.metrics.peak_signal_noise_ratio(a, b, data_range=1.0))
    low = metrics.psnr(a.astype(np.float32), b.astype(np.float32))
    assert low == pytest.approx(metrics.psnr(a, b), abs=1e-4)


def test_psnr_by_hand():
    a = np.zeros((4, 4, 3))
    assert metrics.psnr(a, a) == math.inf
    assert metrics.psnr(a, a + 0.1) == pytest.approx(20.0)
    assert metrics.psnr(a, np.ones_like(a)) == 0.0


def test_psnr_within_a_mask():
    a = np.zeros((4, 4, 3))
    b, where = a.copy(), np.zeros((4, 4), bool)
    b[0, 0] = 1
    where[0, :2] = True
    assert metrics.psnr(a, b, where) == pytest.approx(-10 * math.log10(0.5))
    assert metrics.psnr(a, b, ~where) == math.inf


def test_luma_is_opencvs_studio_y():
    rgb = np.random.default_rng(0).random((9, 7, 3))
    assert metrics.luma(np.ones((1, 1, 3)))[0, 0] == pytest.approx(235 / 255, abs=1e-5)
    assert metrics.luma(np.zeros((1, 1, 3)))[0, 0] == pytest.approx(16 / 255)
    full = cv2.cvtColor(rgb.astype(np.float32), cv2.COLOR_RGB2GRAY)  # the same weights in full range
    assert np.abs(metrics.luma(rgb) - (16 + 219 * full) / 255).max() < 1e-3


def test_ssim_is_the_papers_formula():
    """Means, variances and covariance under a Gaussian window cut off at 11 pixels, without the frame."""
    a, b = pair()

    def blur(x):
        return scipy.ndimage.gaussian_filter(x, 1.5, truncate=3.5)

    maps = []
    for x, y in zip(np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0), strict=True):
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
        c1, c2 = 0.01**2, 0.03**2
        maps.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    expected = np.mean([m[5:-5, 5:-5] for m in maps])
    assert metrics.ssim(a, b) == pytest.approx(expected, abs=1e-6)
    assert 0.3 < expected < 0.95 and metrics.ssim(a, a) == pytest.approx(1.0)


def test_perceptual_distance_of_arrays():
    torch.manual_seed(0)
    net = PerceptualNet()
    a, b = pair(48, 40)
    assert metrics.perceptual(net, a, a) == 0
    assert (
        metrics.perceptual(net, a, b) == pytest.approx(metrics.perceptual(net, b, a))
        and metrics.perceptual(net, a, b) > 0
    )


def test_altered_counts_pixels_not_values():
    original = np.zeros((4, 5, 3), np.uint8)
    result, keep = original.copy(), np.ones((4, 5), bool)
    keep[3] = False  # 15 pixels are kept
    result[3] = 9
    assert metrics.altered(result, original, keep) == 0
    result[0, 0, 1] = 1
    result[1, 1] = 255
    assert metrics.altered(result, original, keep) == pytest.approx(2 / 15)
    assert metrics.altered(result, original, np.zeros((4, 5), bool)) == 0


def test_a_seam_is_the_step_across_the_border():
    hole = np.zeros((12, 14))
    hole[3:8, 4:9] = 0.5  # a soft mask's hole is all above zero
    rgb = np.full((12, 14, 3), 0.4)
    assert metrics.seam_step(rgb, hole) == 0
    rgb[3:8, 4:9] = 0.4 + np.array([0.1, 0.2, -0.3])
    assert metrics.seam_step(rgb, hole) == pytest.approx(0.2)
    rgb[5, 6] = 1.0  # inside the hole, not at its border
    rgb[0, 0] = 0.0
    assert metrics.seam_step(rgb, hole) == pytest.approx(0.2)


def test_the_seam_of_a_ramp_is_averaged_over_all_crossings():
    rgb = np.repeat(np.repeat(np.linspace(0, 1.1, 12)[None, :, None], 10, 0), 3, 2)  # steps of 0.1 to the right
    hole = np.zeros((10, 12))
    hole[2:6, 3:9] = 1  # 4 rows cross twice sideways, 6 columns twice up and down
    assert metrics.seam_step(rgb, hole) == pytest.approx(0.1 * 8 / 20)
    hole[:] = 0
    hole[:, 6:] = 1
    assert metrics.seam_step(rgb, hole) == pytest.approx(0.1)


@pytest.mark.parametrize("hole", [np.zeros((5, 5)), np.ones((5, 5))])
def test_without_a_border_there_is_no_seam(hole):
    assert metrics.seam_step(np.random.rand(5, 5, 3), hole) == 0


def as_tensor(picture):
    return torch.from_numpy(picture).permute(2, 0, 1)[None]


def test_psnr_and_ssim_are_torchmetrics():
    a, b = pair()
    theirs = torchmetrics.functional.image
    expected = theirs.peak_signal_noise_ratio(as_tensor(a), as_tensor(b), data_range=1.0)
    assert metrics.psnr(a, b) == pytest.approx(float(expected), abs=1e-4)
    both, options = (as_tensor(a), as_tensor(b)), {"data_range": 1.0, "return_full_image": True}
    _, similar = theirs.structural_similarity_index_measure(*both, **options)
    inner = similar[..., 5:-5, 5:-5]  # without the frame, where half of the window is missing
    assert metrics.ssim(a, b) == pytest.approx(float(inner.mean()), abs=1e-6)


def test_luma_psnr_is_scikit_images_without_the_frame():
    a, b = pair()
    b = b.copy()
    ya, yb = (skimage.color.rgb2ycbcr(picture)[..., 0][4:-4, 4:-4] for picture in (a, b))
    expected = skimage.metrics.peak_signal_noise_ratio(ya, yb, data_range=255)
    assert metrics.luma_psnr(a, b, 4) == pytest.approx(expected, abs=1e-2)
    b[:4], b[:, -4:] = 0, 1  # the frame does not count
    assert metrics.luma_psnr(a, b, 4) == pytest.approx(expected, abs=1e-2)
    assert metrics.luma_psnr(a, b, 0) < expected - 3


def test_perceptual_distance_over_patches_is_one_less_the_cosine():
    class Colour:
        """One patch: the picture's mean colour."""

        width, side = 3, 224

        def patches(self, pixels, grid=None):
            return pixels.mean((2, 3))[:, None]

    red, green = np.zeros((8, 8, 3)), np.zeros((8, 8, 3))
    red[..., 0] = green[..., 1] = 1  # (1, -1, -1) and (-1, 1, -1): cosine -1/3
    assert metrics.perceptual(Colour(), red, green) == pytest.approx(4 / 3, abs=1e-6)
    assert metrics.perceptual(Colour(), red, red) == pytest.approx(0, abs=1e-6)


def test_consistency_of_flat_pictures_and_of_a_second_bicubic_filter():
    flat = np.full((8, 8, 3), 0.4)
    assert metrics.consistency(np.full((32, 32, 3), 0.5), flat) == pytest.approx(20, abs=1e-3)
    rng = np.random.default_rng(0)
    large = cv2.GaussianBlur(rng.random((64, 48, 3)).astype(np.float32), (0, 0), 1.0)
    from PIL import Image

    bands = [Image.fromarray(large[..., c]).resize((12, 16), Image.Resampling.BICUBIC) for c in range(3)]
    small = np.stack([np.asarray(band) for band in bands], -1)
    assert metrics.consistency(large, small) > 60  # Pillow and torch share the kernel, a = -0.5
    assert metrics.consistency(large, small + 0.1) == pytest.approx(20, abs=0.1)


def test_seam_excess_is_what_the_original_does_not_have():
    hole = np.zeros((12, 14), bool)
    hole[3:8, 4:9] = True
    original, result = np.full((12, 14, 3), 0.4), np.full((12, 14, 3), 0.4)
    original[hole] += 0.05
    result[hole] += 0.2
    assert metrics.seam_excess(result, original, hole) == pytest.approx(0.15)
    assert metrics.seam_excess(original, result, hole) == pytest.approx(-0.15)


def test_growth_is_the_added_area_over_the_objects():
    subject, found = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    subject[5:15, 5:15] = True
    found[7:17, 5:15] = True  # two rows more below, two less above
    union = (subject | found).sum() - subject.sum()
    assert metrics.object_growth(subject, found) == pytest.approx(union / subject.sum()) == pytest.approx(0.2)
    assert metrics.object_growth(subject, np.zeros_like(subject)) == 0
    with pytest.raises(ValueError, match="mask is empty"):
        metrics.object_growth(np.zeros_like(subject), found)


def test_the_shift_of_a_colour_is_measured_in_lab():
    where = np.zeros((6, 6), bool)
    where[:3] = True
    before, after, red = np.full((6, 6, 3), 0.5), np.full((6, 6, 3), 0.5), np.array([0.8, 0.1, 0.1])
    after[where] = (0.6, 0.4, 0.4)
    after[~where] = red  # not looked at
    to_lab = skimage.color.rgb2lab
    distances = [np.linalg.norm(to_lab(p[None, None]) - to_lab(red[None, None])) for p in (before[0, 0], after[0, 0])]
    assert metrics.colour_shift(before, after, where, red) == pytest.approx(distances[0] - distances[1], abs=0.3)
    assert metrics.colour_shift(after, before, where, red) < 0 == metrics.colour_shift(before, before, where, red)


# ---------------------------------------------------------------------------------------------------- sets of features


def gaussian(mean, cov, count=400, seed=0):
    """Features whose sample mean and covariance are exactly these."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return white @ np.linalg.cholesky(np.array(cov)).T + mean


def test_the_frechet_distance_of_gaussians_is_the_closed_form():
    a, b = gaussian([0, 1, 2], np.diag([1.0, 4.0, 9.0])), gaussian([1, 1, 0], np.diag([4.0, 4.0, 1.0]), seed=1)
    means, deviations = 1 + 0 + 4, (1 - 2) ** 2 + 0 + (3 - 1) ** 2  # commuting covariances: sums of squares
    assert metrics.frechet_distance(a, b) == pytest.approx(means + deviations, rel=1e-9)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("count", [60, 5], ids=["many", "fewer pictures than features"])
def test_the_frechet_distance_is_scipys_and_torchmetrics(count):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(count, 8)) @ rng.normal(size=(8, 8))
    b = rng.normal(size=(count + 1, 8)) @ rng.normal(size=(8, 8)) + 0.3
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(ca @ cb + 1e-12 * np.eye(8)).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca + cb - 2 * root)
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-3)
    theirs = FrechetInceptionDistance(feature=Given(8), normalize=True, input_img_size=(3, 2, 2)).double()
    assert compute(theirs, a, b) == pytest.approx(expected, rel=1e-3)


class Given(torch.nn.Module):
    """A feature network that is told the features in place of pictures."""

    def __init__(self, num_features):
        super().__init__()
        self.num_features = num_features
        self.answer = torch.zeros(1, num_features, dtype=torch.float64)

    def forward(self, pictures):
        return self.answer if len(pictures) == len(self.answer) else self.answer[:1]


def compute(metric, a, b):
    for features, real in ((a, True), (b, False)):
        metric.inception.answer = torch.from_numpy(features)
        metric.update(torch.zeros(len(features), 3, 2, 2), real=real)
    result = metric.compute()
    return float(result[0] if isinstance(result, tuple) else result)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception")
def test_the_kernel_distance_is_torchmetrics_and_the_double_sum():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 5)), rng.normal(size=(9, 5)) + 0.5
    theirs = KernelInceptionDistance(feature=Given(5), subset_size=9, subsets=1, normalize=True)
    assert metrics.kernel_distance(a, b) == pytest.approx(compute(theirs, a, b), rel=1e-6)

    def k(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / 5 + 1) ** 3

    pairs = [(i, j) for i in range(9) for j in range(9) if i != j]
    within = sum(k(s[i], s[j]) for s in (a, b) for i, j in pairs) / len(pairs)
    between = sum(k(x, y) for x in a for y in b) / 81
    assert metrics.kernel_distance(a, b) == pytest.approx(within - 2 * between, rel=1e-9)


def test_the_clip_distance_is_scipys_and_a_closed_form():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 5)), rng.normal(size=(6, 5)) + 1
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]

    def kernel(x, y):
        return np.exp(-scipy.spatial.distance.cdist(x, y, "sqeuclidean") / 200).mean()

    expected = kernel(unit[0], unit[0]) + kernel(unit[1], unit[1]) - 2 * kernel(*unit)
    assert metrics.clip_distance(a, b) == pytest.approx(1000 * expected, rel=1e-6)
    east, north = np.array([[1.0, 0], [2, 0]]), np.array([[0, 3.0], [0, 1]])  # squared distance 2 between unit vectors
    assert metrics.clip_distance(east, north) == pytest.approx(2000 * (1 - math.exp(-0.01)))


@pytest.mark.parametrize(("height", "width"), [(64, 80), (20, 80)])
def test_hole_patches_lie_around_the_hole_and_within_the_picture(height, width):
    rows, columns = np.mgrid[:height, :width]
    where = np.stack([rows, columns, rows * 0], -1)  # every pixel says where it is
    hole = np.zeros((height, width), bool)
    hole[:9, 50:] = True
    found = metrics.hole_patches(where, hole)
    side = min(32, height)
    assert found.shape == (16, side, side, 3) and (found == metrics.hole_patches(where, hole)).all()
    for patch in found:
        top, left = patch[0, 0, :2]
        assert (patch == where[top : top + side, left : left + side]).all()
        assert hole[top : top + side, left : left + side].any()
    assert len({tuple(patch[0, 0]) for patch in found}) > 4
    assert metrics.hole_patches(where, hole & (rows + columns < 52)).shape[0] == 3  # no pixel twice
    assert metrics.hole_patches(where, hole & False).shape == (0, side, side, 3)


def test_features_of_patches_are_fire5s_mean():
    torch.manual_seed(0)
    net = PerceptualNet()
    patches = np.random.default_rng(0).random((3, 32, 32, 3)).astype(np.float32)
    found = metrics.patch_features(net, patches)
    assert found.shape == (3, 256)
    pixels = torch.from_numpy(patches[1:2]).permute(0, 3, 1, 2) * 2 - 1
    maps = net(pixels)[4][0].double()  # (256, rows, columns)
    assert found[1] == pytest.approx((maps / maps.square().sum(0).sqrt()).mean((1, 2)).numpy(), abs=1e-5)


def test_distances_of_sets_need_two_pictures():
    for distance in (metrics.frechet_distance, metrics.kernel_distance, metrics.clip_distance):
        with pytest.raises(ValueError, match="2 pictures or more, got 1 and 3"):
            distance(np.ones((1, 2)), np.ones((3, 2)))


def test_the_clip_score_is_a_hundred_cosines_and_never_negative():
    assert metrics.clip_score(np.array([3.0, 0]), np.array([1.0, 1.0])) == pytest.approx(100 / math.sqrt(2))
    assert metrics.clip_score(np.array([1.0, 0]), np.array([-1.0, 0])) == 0


# ---------------------------------------------------------------------------------------------------------- intervals


def test_the_bootstrap_is_scipys():
    values = np.random.default_rng(1).gamma(2.0, size=40)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=1).confidence_interval
    low, high = metrics.bootstrap(values)
    assert low == pytest.approx(theirs.low, rel=0.03) and high == pytest.approx(theirs.high, rel=0.03)
    assert metrics.bootstrap(values) == (low, high)  # the same for everybody
    assert metrics.bootstrap(np.array([2.0, 2.0])) == (2.0, 2.0)


def test_ratios_are_of_means_and_pairs_are_drawn_together():
    rng = np.random.default_rng(0)
    b = rng.gamma(3.0, size=60)
    low, high = metrics.bootstrap_ratio(0.8 * b, b)
    assert low == pytest.approx(0.8) and high == pytest.approx(0.8)
    a = b * rng.normal(0.9, 0.1, 60)
    low, high = metrics.bootstrap_ratio(a, b)

    def ratio(x, y, axis):
        return x.mean(axis=axis) / y.mean(axis=axis)

    options = {"n_resamples": 5000, "method": "percentile", "paired": True, "vectorized": True, "rng": 1}
    theirs = scipy.stats.bootstrap((a, b), ratio, **options).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.005) and low < a.mean() / b.mean() < high


@pytest.mark.slow
@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 0), (3, 3), (14, 6), (6, 14), (260, 205), (4000, 3900)])
def test_the_sign_test_and_its_interval_are_scipys(wins, losses):
    count = wins + losses
    if not count:
        assert metrics.sign_test(0, 0) == 1 and metrics.proportion_interval(0, 0) == (0, 1)
        return
    theirs = scipy.stats.binomtest(wins, count)
    assert metrics.sign_test(wins, losses) == pytest.approx(theirs.pvalue, rel=1e-6)
    exact = theirs.proportion_ci(0.95, "exact")
    assert metrics.proportion_interval(wins, count) == pytest.approx((exact.low, exact.high), abs=1e-6)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(1).normal(size=15)
    error = metrics.jackknife(lambda kept: float(values[kept].mean()), 15)
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(15))
    many = np.random.default_rng(1).normal(size=2000)
    error = metrics.jackknife(lambda kept: float(many[kept].mean()), 2000, groups=40)
    assert error == pytest.approx(many.std() / math.sqrt(2000), rel=0.3)
