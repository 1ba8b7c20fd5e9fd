"""The shadow that a thing throws, found in a photograph."""

import numpy as np
import pytest

from photofound import ErasePipeline
from photofound.edits.effects import shadow_beside, without_shadow
from photofound.edits.shadow import Shadow, cast
from photofound.image import Picture


def scene(ground=(0.8, 0.75, 0.7), shade=True):
    """A green box that throws a shadow on a ground with grain; its mask, and where the shadow is clearly seen."""
    rng = np.random.default_rng(0)
    mask = np.zeros((240, 320), np.float32)
    mask[60:180, 120:180] = 1
    dark = cast(mask, Shadow("soft", 80, spread=0.6)) if shade else np.zeros_like(mask)
    rgb = np.array(ground, np.float32) * (1 - dark[..., None]) + 0.004 * rng.standard_normal((240, 320, 1))
    rgb[mask == 1] = (0.1, 0.6, 0.2)
    return rgb.clip(0, 1).astype(np.float32), mask, (dark > 0.15) & (mask == 0)


@pytest.mark.parametrize("ground", [(0.8, 0.75, 0.7), (0.95, 0.95, 0.95), (0.5, 0.3, 0.2)])
def test_a_shadow_is_found_beside_its_thing(ground):
    rgb, mask, seen = scene(ground)
    found = shadow_beside(rgb, mask)
    assert found[seen].mean() > 0.85 and not found[mask == 1].any()
    assert found[:40].max() == 0 and found[:, :40].max() == 0  # the ground is not taken with it


def test_without_a_shadow_nothing_is_found():
    rgb, mask, _ = scene(shade=False)
    assert not shadow_beside(rgb, mask).any()


def test_a_ground_that_is_darker_below_a_horizon_is_no_shadow():
    rgb, mask, _ = scene(shade=False)
    rgb[150:][mask[150:] == 0] *= 0.6
    assert not shadow_beside(rgb, mask).any()


def test_another_thing_beside_it_is_no_shadow():
    rgb, mask, _ = scene(shade=False)
    rgb[120:180, 182:230] = (0.2, 0.2, 0.6)  # darker, but blue
    assert shadow_beside(rgb, mask)[125:175, 186:225].mean() < 0.05


def test_a_matte_loses_the_shadow_that_it_took_for_the_subject():
    rgb, mask, seen = scene((0.95, 0.95, 0.94))
    rough = np.maximum(mask, seen.astype(np.float32))
    matte = without_shadow(rgb, rough)
    fading = seen & (np.arange(320) > 192)
    assert matte[70:170, 125:175].min() > 0.9 and matte[fading].mean() < 0.3 < rough[fading].mean()
    assert (without_shadow(rgb, mask)[mask == 1] > 0.5).mean() > 0.97


def test_erase_takes_the_shadow_with_it_when_asked(tiny):
    rgb, mask, seen = scene()
    pipe = tiny(ErasePipeline)
    picture = Picture.from_any(rgb)
    plain, more = (pipe.prepare(picture, mask_image=mask, effects=wanted) for wanted in (False, True))
    assert more.hole[seen].mean() > 0.85 > plain.hole[seen].mean() + 0.3
    assert (more.keep[:40] == 1).all()
