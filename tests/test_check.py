"""Presets, and what a marketplace would refuse of a file."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from photofound import cli, image
from photofound.edits import presets
from photofound.edits.check import faults
from photofound.edits.task import get_task
from photofound.image import Picture
from photofound.picture import profiles

SHOP = """
title: My shop
sources: [https://example.com/rules]
date: 2026-01-02
make: {canvas: 300x200, background: "#ffffff", shadow: none, profile: srgb, format: jpg}
rules: {formats: [JPEG, PNG], sides: [100, 500], aspect: "3:2", background: "#ffffff", shadow: false, fill: [0.5, 1]}
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    (tmp_path / "shop.yaml").write_text(SHOP)
    monkeypatch.setenv(presets.VARIABLE, str(tmp_path))
    return presets.load("shop")


def fine(width=300, height=200):
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[height // 8 : -height // 8, width // 3 : -width // 3] = (200, 30, 30)
    return pixels


def test_the_packages_presets_can_be_made_and_name_their_sources():
    known = {"amazon-main", "ebay", "etsy", "shopify", "google-shopping", "instagram-1x1", "instagram-4x5"}
    assert known <= set(presets.names())
    inputs = {each.name for each in get_task("packshot").inputs}
    for name in known:
        preset = presets.load(name)
        assert preset.title and preset.date >= "2026" and all(each.startswith("https://") for each in preset.sources)
        assert preset.inputs.keys() <= inputs and preset.to_srgb and preset.format in preset.rules.formats
        assert get_task("packshot").result_size(None, preset=name)
    amazon = presets.load("amazon-main").rules
    assert amazon.background == (255, 255, 255) and amazon.fill[0] == 0.85 and amazon.sides[0] == 1600
    assert amazon.aspect == 1 and amazon.profile == "srgb" and amazon.shadow is False


def test_a_users_own(shop, tmp_path):
    assert shop.title == "My shop" and shop.rules.aspect == 1.5 and shop.format == "JPEG"
    assert presets.load(tmp_path / "shop.yaml").rules == shop.rules
    (tmp_path / "shop.yaml").write_text(SHOP.replace("My shop", "Another"))
    assert presets.load("shop").title == "Another"  # a file that changes is read again


@pytest.mark.parametrize(
    "text, message",
    [
        ("rules: {fil: 1}", "rules has no 'fil'; it may have formats"),
        ("colour: red", "the preset has no 'colour'"),
        ("rules: {aspect: 4:5}", "write it in quotes"),
        ("rules: {fill: 3}", "fill cannot be 3"),
        ("rules: {background: blurple}", "background cannot be 'blurple'"),
        ("make: {format: psd}", "cannot write 'psd' files"),
        ("{", "is no YAML"),
        ("- 1", "must hold title"),
    ],
)
def test_bad_presets_are_one_line(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        presets.load(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_what_is_fine_is_accepted(shop, tmp_path):
    path = image.save(Picture(fine()), tmp_path / "a.png")
    assert faults(path, shop) == []


def changed(rows, columns, value):
    pixels = fine()
    pixels[rows, columns] = value
    return pixels


WRONG = {
    "size": (fine(60, 40), "size: 60x40; sides must be 100 to 500"),
    "aspect": (fine(300, 190), "aspect: 300x190 is 1.579, not 1.500"),
    "frame": (changed(0, slice(20, 40), 254), "of the frame is not #ffffff; the worst is #fefefe at"),
    "off-white": (changed(slice(5, 195), slice(5, 60), 250), "not #ffffff: a shadow, a gradient or off-white"),
    "fill": (changed(slice(80, 200), slice(0, 300), 255), "subject: fills 33% of the frame; it must be 50% to 100%"),
    "empty": (np.full((200, 300, 3), 255, np.uint8), "subject: nothing stands out"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said(shop, tmp_path, what):
    pixels, message = WRONG[what]
    (found,) = faults(image.save(Picture(pixels), tmp_path / "a.png"), shop)
    assert message in found


def test_formats_profiles_bytes_and_transparency(shop, tmp_path):
    Image.fromarray(fine()).save(tmp_path / "a.webp", lossless=True)
    assert any("format: WEBP is not taken; use JPEG, PNG" in each for each in faults(tmp_path / "a.webp", shop))
    (tmp_path / "b.jpg").write_bytes(image.save(Picture(fine()), tmp_path / "b.png").read_bytes())
    assert any("it is PNG but named .jpg" in each for each in faults(tmp_path / "b.jpg", shop))
    rules = dataclasses.replace(shop.rules, bytes=100, profile="srgb", transparent=False)
    strict = dataclasses.replace(shop, rules=rules)
    p3 = profiles.build(profiles.PRIMARIES[12], profiles.CURVES[13], "Display P3")
    alpha = np.dstack([fine(), np.full((200, 300), 255, np.uint8)])
    alpha[:50, :50, 3] = 0
    path = image.save(Picture(alpha, icc_profile=p3), tmp_path / "c.png")
    said = "; ".join(faults(path, strict))
    assert "MB is more than" in said and "not sRGB" in said and "transparent" in said


def test_a_jpegs_ringing_at_the_subject_is_no_shadow(shop, tmp_path):
    Image.fromarray(fine()).save(tmp_path / "a.jpg", quality=80)
    assert faults(tmp_path / "a.jpg", shop) == []


@pytest.mark.parametrize("around", [False, True])
def test_a_pale_part_of_the_product_is_no_off_white(shop, tmp_path, around):
    """It ends in a step, as an outline does. Pale all around the product, it is another ground."""
    pixels = np.full((320, 480, 3), 255, np.uint8)
    pixels[5:315, 5 : 475 if around else 240] = 245
    pixels[60:260, 160:400] = 40
    found = faults(image.save(Picture(pixels), tmp_path / "a.png"), shop)
    assert [each[:11] for each in found] == ["background:"] * around


def test_a_shadow_does_not_count_as_fill_where_it_is_allowed(shop, tmp_path):
    free = dataclasses.replace(shop, rules=dataclasses.replace(shop.rules, shadow=None, fill=(0.5, 0.8)))
    pixels = fine()
    pixels[150:199, 20:290] = 190  # grey and wide
    path = image.save(Picture(pixels), tmp_path / "a.png")
    assert not any("subject" in each for each in faults(path, free))
    narrow = dataclasses.replace(free, rules=dataclasses.replace(free.rules, fill=(0.2, 0.4)))
    assert any("subject: fills" in each for each in faults(path, narrow))


def test_the_command(shop, tmp_path, capsys):
    good = image.save(Picture(fine()), tmp_path / "good.png")
    bad = image.save(Picture(fine(300, 190)), tmp_path / "bad.png")
    assert cli.main(["check", str(good), "--preset", "shop"]) == 0
    assert cli.main(["check", str(good), str(bad), "--preset", str(tmp_path / "shop.yaml")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{good}: accepted by shop" and lines[-1].startswith(f"{bad}: aspect")
    assert cli.main(["check", str(good), "--preset", "nowhere"]) == 2
    assert cli.main(["check", str(tmp_path / "none.png"), "--preset", "shop"]) == 2
    assert "no such file" in capsys.readouterr().err
