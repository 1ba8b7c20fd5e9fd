"""Drawn surfaces: a seed gives the same picture at every size, colours are reached, materials differ, words are
understood."""

import cv2
import numpy as np
import pytest
from PIL import Image

from photofound.edits import surfaces
from photofound.edits.ground import lab
from photofound.edits.surfaces import MATERIALS, Surface, render, surface_of

SHADES = {"red": (186, 28, 34), "blue": (45, 95, 190), "green": (60, 145, 60), "white": (245, 245, 245),
          "black": (22, 22, 23), "yellow": (235, 205, 60)}  # fmt: skip


def surface(material, view="flat"):
    return Surface(material, surfaces.DEFAULTS[material], view)


@pytest.mark.parametrize("material", MATERIALS)
@pytest.mark.parametrize("view", surfaces.VIEWS)
def test_a_seed_is_a_picture(material, view):
    first, again, other = (render(surface(material, view), (120, 90), seed) for seed in (3, 3, 4))
    assert first.shape == (90, 120, 3) and first.dtype == np.float32 and 0 <= first.min() <= first.max() <= 1
    assert (first == again).all() and (first != other).mean() > 0.5


@pytest.mark.parametrize("material", sorted(set(MATERIALS) - {"sweep", "grass", "bokeh"}))
def test_a_larger_picture_has_the_same_structure(material):
    """Half as large again and reduced: the same rings, veins and folds in the same places."""
    small, large = (render(surface(material), (side, side), 1) for side in (256, 384))
    reduced = cv2.resize(large, (256, 256), interpolation=cv2.INTER_AREA)
    coarse = [cv2.GaussianBlur(each.mean(-1), (0, 0), 4) for each in (small, reduced)]
    assert np.corrcoef(coarse[0].ravel(), coarse[1].ravel())[0, 1] > 0.8


@pytest.mark.parametrize("material", sorted(set(MATERIALS) - {"bokeh"}))
@pytest.mark.parametrize("name", SHADES)
def test_the_mean_is_the_colour(material, name):
    made = render(Surface(material, SHADES[name], "flat"), (128, 128), 2)
    wanted = lab(np.array([SHADES[name]], np.float32))[0]
    assert np.linalg.norm(lab(made.reshape(-1, 3) * 255).mean(0) - wanted) < 12


@pytest.mark.slow
def test_materials_look_different():
    """Nearest reference by the energy of four scales and two directions: at least 9 of 10 surfaces of a new seed."""
    names = ["wood", "marble", "linen", "concrete", "grass", "sand", "tiles", "cloth"]

    def described(name, seed):
        grey = render(Surface(name, (150, 150, 150), "flat"), (160, 160), seed).mean(-1)
        found = []
        for sigma in (0.8, 1.6, 3.2, 6.4, 12.8):
            band = cv2.GaussianBlur(grey, (0, 0), sigma) - cv2.GaussianBlur(grey, (0, 0), 2 * sigma)
            down, across = np.gradient(band)
            skew = float((band**3).mean() / (band.std() ** 3 + 1e-9))
            found += [np.log(band.std() + 1e-5), np.log((down.std() + 1e-5) / (across.std() + 1e-5)), 0.5 * skew]
        return np.array(found)

    known = [(name, described(name, seed)) for name in names for seed in range(100, 103)]
    right = 0
    for name in names:
        for seed in (1, 2):
            found = described(name, seed)
            right += min(known, key=lambda each: np.linalg.norm(each[1] - found))[0] == name
    assert right >= 0.9 * 2 * len(names)


@pytest.mark.slow
def test_the_ground_recedes():
    """Tiles far away are smaller: more joints cross a row near the edge than one at the bottom."""
    made = render(surface("tiles", "ground"), (512, 512), 1, edge=0.4).mean(-1)
    far, near = made[260:276].mean(0), made[490:506].mean(0)

    def joints(row):
        dark = row - cv2.GaussianBlur(row[None], (0, 0), 12)[0] < -0.03
        return int((np.diff(dark.astype(int)) > 0).sum())

    assert joints(far) > joints(near) >= 2


def test_light_comes_from_its_side():
    left, right = (render(surface("plaster"), (128, 128), 1, light=side) for side in (-0.9, 0.9))
    assert left[:, :40].mean() > left[:, -40:].mean() and right[:, :40].mean() < right[:, -40:].mean()


@pytest.mark.slow
def test_large_pictures_are_not_soft():
    """Beyond the size that is drawn, a texture finer than what was drawn is added."""
    made = render(surface("concrete"), (2000, 1500), 1).mean(-1)
    assert (made - cv2.GaussianBlur(made, (0, 0), 1.2)).std() > 0.005


def test_pure_white_is_white():
    assert (render(surface_of("pure white"), (40, 30)) == 1).all()


def test_what_cannot_be_drawn_is_one_line():
    with pytest.raises(ValueError, match="'lava' is unknown; choose one of bokeh"):
        Surface("lava", (1, 2, 3))
    with pytest.raises(ValueError, match="view 'side' is unknown"):
        Surface("wood", (1, 2, 3), "side")
    with pytest.raises(ValueError, match="three values from 0 to 255"):
        Surface("wood", (1, 2, 300))
    with pytest.raises(ValueError, match="at least 1x1"):
        render(surface("wood"), (0, 5))
    with pytest.raises(ValueError, match="light: 2"):
        render(surface("wood"), (5, 5), light=2)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (17, 5)])
@pytest.mark.parametrize("material", MATERIALS)
def test_odd_sizes(material, size):
    for view in surfaces.VIEWS:
        assert render(surface(material, view), size).shape == (size[1], size[0], 3)


# ---------------------------------------------------------------------------------------------------------------- words

PROMPTS = {
    "on a wooden table": ("wood", "ground", None),
    "on a dark oak table": ("wood", "ground", None),
    "walnut": ("wood", "ground", (92, 62, 43)),
    "on a marble table": ("marble", "ground", (228, 227, 225)),
    "on a black marble countertop": ("marble", "ground", (22, 22, 23)),
    "on green grass": ("grass", "ground", (92, 128, 48)),
    "on a lawn": ("grass", "ground", (92, 128, 48)),
    "on a red cloth": ("cloth", "ground", (186, 28, 34)),
    "on a dark red cloth": ("cloth", "ground", (102, 15, 19)),
    "pure white": ("sweep", "ground", (255, 255, 255)),
    "a pure white background": ("sweep", "ground", (255, 255, 255)),
    "grey concrete wall": ("concrete", "wall", (150, 149, 147)),
    "a red cup on a white table": ("wood", "ground", (245, 245, 245)),
    "against a pink wall": ("plaster", "wall", (235, 150, 175)),
    "blurred lights at night": ("bokeh", "ground", (58, 48, 46)),
    "on a beach": ("sand", "ground", (205, 179, 139)),
    "on white marble, flat lay": ("marble", "flat", (228, 227, 225)),
    "green fabric from above": ("cloth", "flat", (60, 145, 60)),
    "light blue studio backdrop": ("sweep", "ground", (110, 145, 210)),
    "auf einem Holztisch": ("wood", "ground", (150, 104, 66)),
    "vor einer roten Wand": ("plaster", "wall", (186, 28, 34)),
    "auf weißem Marmor": ("marble", "ground", (228, 227, 225)),
    "sur une table en marbre noir": ("marble", "ground", (22, 22, 23)),
    "sobre arena": ("sand", "ground", (205, 179, 139)),
    "fondo verde": ("sweep", "ground", (60, 145, 60)),
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_are_understood(prompt):
    material, view, colour = PROMPTS[prompt]
    found = surface_of(prompt)
    assert (found.material, found.view) == (material, view) and colour in (None, found.colour)


def test_the_darker_of_two():
    assert sum(surface_of("on dark oak").colour) < sum(surface_of("on oak").colour) < sum(surface_of("pale oak").colour)


@pytest.mark.parametrize(
    "prompt", ["", "in a kitchen", "with red roses", "a red car", "on the moon", "日本", "a" * 5000]
)
def test_what_names_nothing_known_is_no_surface(prompt):
    assert surface_of(prompt) is None


def test_ten_colour_words():
    from photofound.edits.colours import colour_name

    for word in "red green yellow white black orange pink brown grey blue".split():
        found = surface_of(f"a {word} background")
        assert word in colour_name(np.array(found.colour, np.float32)) and found.description.startswith("sweep, ")


# -------------------------------------------------------------------------------------------------------------- gallery


@pytest.fixture
def gallery(tmp_path):
    for name in ("dark-wooden-table.jpg", "beach_sunset.png", "white marble.webp", "wooden_table.png", "notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("no picture")
        else:
            Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    return tmp_path


def test_the_gallery_is_chosen_from_by_name(gallery):
    assert surfaces.from_gallery(gallery, "on a marble table").name == "dark-wooden-table.jpg"
    assert surfaces.from_gallery(gallery, "white marble").name == "white marble.webp"
    assert surfaces.from_gallery(gallery, "at the beach, sunset").name == "beach_sunset.png"
    assert surfaces.from_gallery(str(gallery), "a wooden table").name == "dark-wooden-table.jpg"  # a tie: by name


def test_a_gallery_without_it_names_what_it_has(gallery, tmp_path):
    with pytest.raises(ValueError, match="no file name shares a word with 'snow'.*beach_sunset.png"):
        surfaces.from_gallery(gallery, "snow")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        surfaces.from_gallery(gallery / "nowhere", "snow")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no picture"):
        surfaces.from_gallery(tmp_path / "empty", "snow")
