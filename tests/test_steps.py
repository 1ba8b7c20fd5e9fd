"""Recipes for folders: what a YAML file may say, and one clear line for what it may not."""

from __future__ import annotations

import pytest
from PIL import Image

from photofound.cli.steps import read


@pytest.fixture
def recipe(tmp_path):
    def written(text, **options):
        path = tmp_path / "day.yaml"
        path.write_text(text, encoding="utf-8")
        return read(path, **options)

    return written


def test_values_are_read_as_on_the_command_line(recipe, tmp_path):
    (tmp_path / "logos").mkdir()
    found = recipe(
        """
        - erase: {mask: logos, grow: 4, optional: true, seed: 7}
        - outpaint: {prompt: on wood, guidance: 1.5, subject-text: the shoe}
        - expand: {left: 25%, right: 10}
        - upscale
        - formats: {jpg: 90, webp: }
        """
    )
    erase, outpaint, expand, upscale = found.steps
    assert erase.inputs == {"mask_image": tmp_path / "logos", "grow": 4}
    assert (erase.sampling, erase.optional, upscale.optional) == ({"seed": 7}, True, False)
    assert outpaint.inputs["subject_text"] == "the shoe" and outpaint.sampling == {"guidance": 1.5}
    assert expand.inputs == {"left": "25%", "right": 10} and upscale.inputs == {}
    assert found.formats == (("jpg", 90), ("webp", None))
    assert recipe("- upscale").formats == ((None, None),)
    assert recipe("[{upscale: {scale: 2}}, {formats: png}]").formats == (("png", None),)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "must be a list of 1 to 100 edits"),
        ("upscale: {scale: 2}", "must be a list of 1 to 100 edits"),
        ("- upscale: {scale: 2", "is no YAML"),
        ("- formats: [png]", "holds no edit"),
        ("- upscail: {scale: 2}", r"step 1, upscail: task 'upscail' is unknown; did you mean 'upscale'\?"),
        ("- upscale: {scail: 2}", r"step 1, upscale: key 'scail' is unknown; did you mean 'scale'\?"),
        ("- upscale: {scale: 7}", "step 1, upscale: scale: '7' is not possible; give 2, 3 or 4"),
        ("- upscale: {scale: {a: 1}}", "scale: .* is no value"),
        ("- upscale: 2", "2 is not what it takes"),
        ("- {upscale: {}, erase: {}}", "step 1: must be one task with its inputs"),
        ("- erase: {grow: 2}", "step 1, erase: mask is missing: white = the object to take away"),
        ("- erase: {mask: none.png}", "none.png: no such file or folder; paths start where the recipe lies"),
        ("- generate: {prompt: a, size: 64x64}", "step 1, generate: takes no photograph"),
        ("- upscale: {seed: many}", "seed: 'many' is not a whole number"),
        ("- formats: png\n- upscale", "step 1, formats: must be the last one"),
        ("- upscale\n- formats: [pngg]", "unknown format 'pngg'"),
        ("- upscale\n- formats: {jpg: 500}", "jpg: quality is 500; it must be a whole number from 1 to 100"),
        ("- upscale\n- formats: []", "is empty"),
        ("- outpaint: {segmenter: 'os:abort'}", "'os:abort' is a function.*--trust"),
        ("- !!python/object/apply:os.abort []", "is no YAML"),
    ],
)
def test_mistakes_name_the_step_and_the_remedy(recipe, text, line):
    with pytest.raises((ValueError, FileNotFoundError), match=line) as error:
        recipe(text)
    assert "\n" not in str(error.value)


def test_functions_are_for_those_who_trust_the_recipe(recipe):
    assert recipe("- outpaint: {segmenter: 'mine:find'}", trusted=True).steps[0].inputs["segmenter"] == "mine:find"


def test_a_file_that_is_no_text_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="is no text"):
        read(tmp_path / "a.png")
