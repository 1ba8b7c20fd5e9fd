"""Colour words mean what people mean by them, and a ground takes a colour without touching the object."""

import numpy as np
import pytest
import skimage.color
import torch

from photofound.edits import colours
from photofound.edits.colours import COLOURS
from photofound.edits.ground import lab
from photofound.edits.task import Sample


def test_colours_are_compared_as_the_eye_sees_them():
    rgb = np.random.default_rng(0).integers(0, 256, (50, 3)).astype(np.float32)
    assert np.abs(lab(rgb) - skimage.color.rgb2lab(rgb / 255)).max() < 0.5


@pytest.mark.parametrize("name", COLOURS)
def test_a_colour_has_its_own_name(name):
    for shade in COLOURS[name]:
        assert colours.colour_name(np.array(shade, np.float32)) == name
        even = torch.tensor(shade, dtype=torch.uint8)[:, None, None].expand(3, 40, 50)
        assert colours.border_colour(even) == name


@pytest.mark.parametrize(
    "rgb, name",
    [
        ((255, 255, 255), "white"),
        ((0, 0, 0), "black"),
        ((255, 0, 0), "red"),
        ((65, 105, 225), "blue"),
        ((0, 0, 255), "blue"),
        ((0, 0, 205), "blue"),
        ((18, 10, 143), "dark blue"),
        ((0, 0, 128), "dark blue"),
        ((25, 25, 112), "dark blue"),
        ((75, 0, 130), "purple"),
        ((138, 43, 226), "purple"),
    ],
)
def test_near_colours_have_the_name_people_use(rgb, name):
    assert colours.colour_name(np.array(rgb, np.float32)) == name


def test_only_the_border_counts_and_only_one_colour():
    blue = torch.tensor(COLOURS["blue"][0], dtype=torch.uint8)[:, None, None].repeat(1, 64, 64)
    blue[:, 8:-8, 8:-8] = torch.randint(0, 256, (3, 48, 48)).byte()  # what stands in the middle is not the ground
    assert colours.border_colour(blue) == "blue"
    half = blue.clone()
    half[:, :, 32:] = torch.tensor(COLOURS["yellow"][0], dtype=torch.uint8)[:, None, None]
    assert colours.border_colour(half) is None
    assert colours.border_colour(torch.randint(0, 256, (3, 64, 64)).byte()) is None
    noisy = (blue.float() + torch.randn(3, 64, 64) * 4).clamp(0, 255).byte()
    assert colours.border_colour(noisy) == "blue"


def batch(count: int) -> Sample:
    generator = torch.Generator().manual_seed(0)
    matte = torch.zeros(count, 1, 32, 32)
    matte[:, :, 10:20, 10:20] = 1
    prompts = ["a cup on a white background", "on a grey background", "white background", "a cup"] * (count // 4)
    return Sample(torch.rand(count, 3, 32, 32, generator=generator) * 2 - 1, matte, prompts)


def test_recoloured_grounds_have_the_colour_that_the_prompt_names():
    given = batch(64)
    given.pixels[:] = given.pixels * 0.05  # a ground that is almost even
    made = colours.recolour_backgrounds(given, 0.5, torch.Generator().manual_seed(1))
    changed = [i for i in range(64) if not torch.equal(made.pixels[i], given.pixels[i])]
    assert 20 < len(changed) < 44
    right = 0
    for i in range(64):
        assert torch.equal(made.pixels[i, :, 10:20, 10:20], given.pixels[i, :, 10:20, 10:20])
        if i in changed:
            name = next(n for n in sorted(COLOURS, key=len, reverse=True) if f"on a {n} " in made.prompt[i])
            ground = ((made.pixels[i, :, :8] + 1) * 127.5).mean((1, 2)).numpy()
            distances = [np.abs(ground - shade).max() for shade in COLOURS[name]]
            right += min(distances) < 25
            assert made.prompt[i].startswith("on a ") or made.prompt[i].startswith("a cup on a ")
        else:
            assert made.prompt[i] == given.prompt[i]
    assert right >= 0.9 * len(changed)


def test_a_ground_keeps_its_light():
    pixels = torch.linspace(-0.8, 0.4, 32).expand(3, 32, 32)
    both = torch.stack([pixels, pixels.flip(0, 1)])
    made = (
        colours.recolour_background(both, torch.zeros(2, 1, 32, 32), torch.tensor([[0.4, 0.1, 0.1]] * 2))[0] / 2 + 0.5
    )
    luma = pixels[0] / 2 + 0.5
    torch.testing.assert_close(made[0], 0.4 * luma / luma.mean())
    torch.testing.assert_close(made[1] * 4, made[0])


def test_nothing_is_recoloured_unless_asked_for():
    given = batch(4)
    assert colours.recolour_backgrounds(given, 0.0, torch.Generator()) is given
