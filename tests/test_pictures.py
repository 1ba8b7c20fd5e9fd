"""``make docs-pictures`` without its model: which files it writes, and that the pages show those and no other."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from photofound.demos import pictures
from photofound.edits.masks import grabcut

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "load", lambda model: SimpleNamespace(search=lambda: grabcut))
        patch.setattr(pictures, "edit", lambda pipe, sample, photograph, *_, **__: photograph.resize((1200, 800)))
        assert pictures.main(["--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_what_is_written_is_what_is_committed_and_what_the_pages_show(written):
    names = {path.name for path in written.iterdir()}
    assert names == {path.name for path in (DOCS / "pictures").iterdir()}
    shown = [re.findall(r"pictures/([\w-]+\.jpg)", page.read_text()) for page in DOCS.rglob("*.md")]
    assert names == {name for page in shown for name in page}


@pytest.mark.slow
def test_pictures_are_narrow_jpegs_that_say_where_the_mask_was(written):
    for path in written.iterdir():
        with Image.open(path) as picture:
            assert picture.format == "JPEG" and picture.mode == "RGB" and picture.width <= pictures.WIDEST
    with Image.open(written / "erase-given.jpg") as marked:
        red, green, blue = marked.getpixel((183, 250))
    assert red > 180 > green


def test_an_enlargement_is_shown_beside_an_interpolated_one():
    (figure,) = [each for each in pictures.FIGURES if each.name == "upscale"]
    photograph, mask = pictures.read(figure.sample)
    assert pictures.given(figure.sample, photograph, mask, (400, 360)).size == (400, 360)
