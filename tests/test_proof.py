"""Whether a photograph was kept: our own results by their recipes, anybody's by a mask; Python and command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import noise
from PIL import Image

from photofound import (
    ErasePipeline,
    ExpandPipeline,
    InpaintPipeline,
    OutpaintPipeline,
    UpscalePipeline,
    cli,
    image,
    provenance,
)
from photofound.edits import recipe
from photofound.edits.proof import verify
from photofound.image import Picture


def made(pipe, *args, path=None, **settings):
    """A marked result, through a file if a path is given."""
    found = provenance.mark(pipe(*args, output_type="picture", **settings).images[0])
    return image.load(image.save(found, path)) if path else found


def cut_out(photo):
    alpha = np.zeros((70, 90, 1), np.uint8)
    alpha[20:50, 30:60] = 255
    alpha[19, 30:60] = 130
    return np.concatenate([photo, alpha], axis=2)


def test_a_recipe_says_all_that_was_given_and_no_names(tiny, photo, mask, tmp_path):
    image.save(photo, tmp_path / "secret-client.png")
    pipe = tiny(ErasePipeline)
    result = made(pipe, tmp_path / "secret-client.png", mask_image=mask, grow=3, generator=7)
    said = provenance.recipe(result)
    assert (said["task"], said["seed"], said["variant"], said["steps"]) == ("erase", 7, 0, 2)
    assert said["inputs"]["grow"] == 3 and said["inputs"]["mask_image"]["size"] == [90, 70]
    assert said["model"]["sha256"] == pipe.fingerprint()["sha256"]
    assert "secret" not in json.dumps(said)
    assert np.array_equal(recipe.mask_of(said["inputs"]["mask_image"]).pixels[..., 0], mask)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_our_own_results_need_no_mask(tiny, photo, mask, tmp_path, suffix):
    before = image.save(photo, tmp_path / f"before{suffix}")
    after = made(tiny(InpaintPipeline), before, mask_image=mask, generator=0, path=tmp_path / f"after{suffix}")
    found = verify(before, after)
    assert (found.source, found.identical, found.altered) == ("recipe", 70 * 90 - 30 * 30, 0)
    assert found.original and found.as_recorded
    forged = after.pixels.copy()
    forged[0, 0, 0] ^= 1
    found = verify(before, Picture(forged, xmp=after.xmp))
    assert (found.altered, found.largest, found.as_recorded) == (1, 1, False)


def test_an_expanded_photograph_is_where_the_recipe_says(tiny, photo):
    after = made(tiny(ExpandPipeline), photo, left=16, top=9, generator=0)
    found = verify(photo, after)
    assert found.compared.at == (16, 9) and (found.identical, found.altered, found.source) == (6300, 0, "recipe")


def test_a_subject_is_kept_where_it_is_opaque(tiny, photo):
    after = made(tiny(OutpaintPipeline), cut_out(photo), generator=0)
    found = verify(cut_out(photo), after)
    assert (found.identical, found.altered, found.source) == (900, 0, "recipe")
    found = verify(photo, after, subject=cut_out(photo)[..., 3])
    assert (found.identical, found.altered, found.original) == (900, 0, False)


def test_sixteen_bits_are_verified_as_sixteen(tiny, mask, tmp_path):
    deep = noise(70, 90, dtype=np.uint16)
    before = image.save(deep, tmp_path / "before.png")
    after = made(tiny(InpaintPipeline), before, mask_image=mask, generator=0, path=tmp_path / "after.png")
    found = verify(before, after)
    assert found.altered == 0 and found.compared.depth == 65535 and found.as_recorded


def test_several_edits_keep_what_each_of_them_kept(tiny, photo, mask, tmp_path):
    first = made(tiny(InpaintPipeline), photo, mask_image=mask, generator=0)
    other = np.zeros_like(mask)
    other[60:, :20] = 255
    second = made(tiny(InpaintPipeline), first, mask_image=other, generator=1)
    third = made(tiny(ExpandPipeline), second, left=8, top=4, generator=2)
    found = verify(photo, third)
    assert (found.identical, found.altered) == (6300 - 900 - 200, 0) and found.compared.at == (8, 4) and found.original
    assert verify(first, third).identical == 6300 - 200  # what was painted first was kept, later
    forged = third.pixels.copy()
    forged[4 + 55, 8 + 5] ^= 1
    assert verify(photo, Picture(forged, xmp=third.xmp)).altered == 1


def test_a_photograph_that_is_not_the_recipes_is_said_so(tiny, photo, mask):
    after = made(tiny(InpaintPipeline), photo, mask_image=mask, generator=0)
    found = verify(photo ^ 1, after)
    assert found.original is False and found.source == "recipe" and found.identical == 0 and found.altered == 5400


def test_an_enlarged_photograph_has_no_pixels_of_the_small_one(tiny, photo):
    after = made(tiny(UpscalePipeline), photo, generator=0)
    assert "kept" not in provenance.recipe(after)
    with pytest.raises(ValueError, match="at its own scale|--at"):
        verify(photo, after)


def test_what_an_unmarked_edit_makes_has_no_recipe_of_before(tiny, photo, mask):
    first = made(tiny(InpaintPipeline), photo, mask_image=mask, generator=0)
    again = tiny(InpaintPipeline)(first, mask_image=mask, generator=0, output_type="picture").images[0]
    assert provenance.recipe(first) and provenance.recipe(again) is None


def test_seeds_are_known_where_they_can_be(tiny, photo, mask):
    import torch

    pipe, inputs = tiny(InpaintPipeline), {"mask_image": mask, "output_type": "picture"}

    def said(**settings):
        return [
            (recipe.get("seed"), recipe["variant"])
            for recipe in (json.loads(each.recipe) for each in pipe(photo, **inputs, **settings).images)
        ]

    used = torch.Generator().manual_seed(3)
    assert said(generator=5, num_images_per_prompt=2) == [(5, 0), (5, 1)]
    assert said(generator=[5, 6], num_images_per_prompt=2) == [(5, 0), (6, 0)]
    assert said(generator=used) == [(3, 0)] and said(generator=used)[0][0] is None and said()[0][0] is None


def test_a_damaged_recipe_is_left_out_of_account(tiny, photo, mask):
    after = made(tiny(InpaintPipeline), photo, mask_image=mask, generator=0)
    for written, read in ((b'"task"', b'"tusk"'), (b"&quot;task&quot;", b"&quot;tusk&quot;")):
        after = Picture(after.pixels, xmp=after.xmp.replace(written, read))
    with pytest.warns(UserWarning, match="damaged"):
        assert verify(photo, after).source == "all"


# -------------------------------------------------------------------------------------------------- the command line


def run(capsys, *words):
    status = cli.main([*map(str, words)])
    return status, capsys.readouterr()


def test_anybodys_result_is_held_against_a_mask(photo, mask, tmp_path, capsys):
    theirs = photo.copy()
    theirs[mask > 0] = 0
    for name, pixels in (("a.png", photo), ("b.png", theirs), ("m.png", mask)):
        Image.fromarray(pixels).save(tmp_path / name)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    status, said = run(capsys, "verify", *paths, "--mask", tmp_path / "m.png", "--json")
    facts = json.loads(said.out)
    assert status == 0 and (facts["identical"], facts["altered"], facts["largest"]) == (5400, 0, 0)
    status, said = run(capsys, "verify", *paths)
    assert status == 1 and "altered:        900 (the largest difference is" in said.out and "all of BEFORE" in said.out
    assert run(capsys, "verify", *paths, "-o", tmp_path / "d.png")[0] == 1
    assert image.load(tmp_path / "d.png").size == (90, 70)


def test_a_jpeg_is_said_to_be_rounded_and_may_be_tolerated(photo, mask, tmp_path, capsys):
    smooth = np.repeat(np.repeat(photo[::10, ::10], 10, axis=0), 10, axis=1)
    Image.fromarray(smooth).save(tmp_path / "a.png")
    Image.fromarray(smooth).save(tmp_path / "b.jpg", quality=95)
    status, said = run(capsys, "verify", tmp_path / "a.png", tmp_path / "b.jpg", "--json")
    facts = json.loads(said.out)
    assert status == 1 and facts["altered"] > 0 and 0 < facts["largest"] < 128
    status, said = run(capsys, "verify", tmp_path / "a.png", tmp_path / "b.jpg", "--tolerance", facts["largest"])
    assert status == 0 and "AFTER is a lossy file" in said.out


def test_a_place_is_found_or_given(photo, tmp_path, capsys):
    large = np.zeros((100, 120, 3), np.uint8)
    large[12:82, 7:97] = photo
    Image.fromarray(photo).save(tmp_path / "a.png")
    Image.fromarray(large).save(tmp_path / "b.png")
    status, said = run(capsys, "verify", tmp_path / "a.png", tmp_path / "b.png")
    assert status == 0 and "BEFORE lies at 7,12" in said.out
    assert run(capsys, "verify", tmp_path / "a.png", tmp_path / "b.png", "--at", "7,12")[0] == 0
    assert run(capsys, "verify", tmp_path / "a.png", tmp_path / "b.png", "--at", "8,12")[0] == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a.png", "none.png"], "none.png: no such file"),
        (["a.png", "a.png", "--at", "left"], "'left' is not a place like 120,40"),
        (["a.png", "a.png", "--mask", "small.png"], "the mask is 10x9 but the image is 90x70"),
        (["a.png", "a.png", "--tolerence", "3"], "did you mean --tolerance"),
    ],
)
def test_mistakes_are_one_line(photo, tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo).save("a.png")
    Image.new("L", (10, 9), 255).save("small.png")
    status, said = run(capsys, "verify", *words)
    assert status == 2 and line in said.err and len(said.err.strip().splitlines()) == 1


def test_results_without_a_recipe_if_wanted(tiny_folder, photo, tmp_path, capsys):
    Image.fromarray(photo).save(tmp_path / "a.png")
    words = [
        "expand",
        tmp_path / "a.png",
        "--left",
        "4",
        "--prompt",
        "a secret",
        "--model",
        tiny_folder,
        "--steps",
        "1",
    ]
    for more, there in (([], True), (["--no-recipe"], False), (["--no-mark"], False)):
        assert run(capsys, *words, "--quiet", "-o", tmp_path / "b.png", "--overwrite", *more)[0] == 0
        after = image.load(tmp_path / "b.png")
        assert (provenance.recipe(after) is not None) == there and (b"a secret" in (after.xmp or b"")) == there
