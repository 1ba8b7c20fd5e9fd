"""``photofound run``: a killed run equals a whole one, only what changed is made again, and the page shows all."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from helpers import noise
from PIL import Image

from photofound import cli, image, provenance
from photofound.cli import run as run_command
from photofound.pipeline import EditPipeline

RECIPE = """
- erase: {mask: logos, grow: 2, optional: true}
- expand: {left: 8, prompt: more}
- upscale: {scale: 2}
- formats: [png, jpg]
"""


@pytest.fixture
def shop(tmp_path, monkeypatch, mask):
    """Three photographs, a mask for one of them, and a recipe."""
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "logos"):
        (tmp_path / folder).mkdir()
    exif = Image.Exif()
    exif[0x010E] = "a cup"
    for i, name in enumerate(("a.png", "b.jpg", "c.png")):
        Image.fromarray(noise(70, 90, seed=i)).save(tmp_path / "photos" / name, exif=exif)
    Image.fromarray(mask).save("logos/a.png")
    (tmp_path / "day.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def edits(monkeypatch):
    """The tasks of the edits that were computed; ``edits.stop_at`` ends the process's run as Ctrl-C does."""

    class Edits(list):
        stop_at = None

    done, answer = Edits(), EditPipeline.answer

    def counted(self, request, *rest, **more):
        if done.stop_at == len(done):
            raise KeyboardInterrupt
        done.append(request.task)
        return answer(self, request, *rest, **more)

    monkeypatch.setattr(EditPipeline, "answer", counted)
    return done


def run(tiny_folder, out, *more):
    return cli.main(["run", "day.yaml", "photos", "-o", str(out), "--model", str(tiny_folder), "--quiet", *more])


def results(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*")) if path.suffix in (".png", ".jpg")}


def test_a_killed_run_equals_a_whole_one(tiny_folder, shop, edits):
    assert run(tiny_folder, "whole") == 0 and edits == ["erase", *["expand", "upscale"] * 3]
    whole = results(shop / "whole")
    assert sorted(whole) == ["a.jpg", "a.png", "b.jpg", "b.png", "c.jpg", "c.png"]
    for stop in range(7):
        out = shop / f"killed-{stop}"
        edits.clear()
        edits.stop_at = stop
        assert run(tiny_folder, out) == 130
        edits.clear()
        edits.stop_at = None
        assert run(tiny_folder, out) == 0 and len(edits) == 7 - stop  # nothing is made twice
        assert results(out) == whole


def test_a_result_has_all_of_the_way_in_its_recipe(tiny_folder, shop):
    assert run(tiny_folder, "out") == 0
    said = provenance.recipe(shop / "out" / "a.png")
    tasks = []
    while said:
        tasks.append(said["task"])
        said = said["image"].get("recipe")
    assert tasks == ["upscale", "expand", "erase"]
    found = image.load(shop / "out" / "b.jpg")
    assert found.size == (196, 140) and b"a cup" in found.exif
    assert cli.main(["redo", "out/a.png", "-o", "again.png", "--from", "photos", "--model", str(tiny_folder)]) == 0


def test_only_what_changed_is_made_again(tiny_folder, shop, edits, capsys):
    def again(*more):
        edits.clear()
        assert run(tiny_folder, "out", *more) == 0
        return list(edits)

    assert len(again()) == 7 and again() == []
    whole = results(shop / "out")
    (shop / "out" / "a.jpg").write_bytes(b"damaged")
    (shop / "out" / "b.png").unlink()
    assert again() == [] and results(shop / "out") == whole  # from the steps that were kept
    Image.fromarray(noise(70, 90, seed=9)).save(shop / "photos" / "c.png")
    assert again() == ["expand", "upscale"]
    (shop / "day.yaml").write_text(RECIPE.replace("more", "much more"))
    assert again() == ["expand", "upscale"] * 3
    (shop / "day.yaml").write_text(RECIPE.replace("more", "much more").replace("[png, jpg]", "[webp]"))
    assert again() == [] and (shop / "out" / "a.webp").is_file()
    Image.fromarray(255 - np.asarray(Image.open("logos/a.png"))).save("logos/a.png")
    assert again() == ["erase", "expand", "upscale"]
    assert again("--seed", "3") == ["erase", *["expand", "upscale"] * 3]
    kept = len(list((shop / "out" / ".photofound" / "steps").glob("*.png")))
    assert kept == 7  # those of former recipes are gone
    assert again("--seed", "3", "--forget") == [] and not (shop / "out" / ".photofound" / "steps").exists()
    assert again("--seed", "3") == []


def test_a_bad_photograph_does_not_stop_the_others(tiny_folder, shop, capsys):
    (shop / "photos" / "bad.png").write_bytes(b"no picture")
    (shop / "day.yaml").write_text(RECIPE.replace(", optional: true", ""))
    assert cli.main(["run", "day.yaml", "photos", "-o", "out", "--model", str(tiny_folder)]) == 1
    said = capsys.readouterr()
    assert sorted(results(shop / "out")) == ["a.jpg", "a.png"]
    assert "photos/b.jpg: logos must hold one mask called b.*" in said.err.replace(str(shop) + "/", "")
    assert "photos/bad.png: is not an image" in said.err and "1 of 4 photographs done" in said.err
    page = (shop / "out" / "report.html").read_text()
    assert page.count('class="failed"') == 3 and "must hold one mask" in page


def test_the_page_needs_no_other_file(tiny_folder, shop):
    (shop / "photos" / "a.png").rename(shop / "photos" / "<b>&.png")
    (shop / "logos" / "a.png").rename(shop / "logos" / "<b>&.png")
    assert run(tiny_folder, "out") == 0
    page = (shop / "out" / "report.html").read_text()
    assert "<b>" not in page and "&lt;b&gt;&amp;.png" in page
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', page))
    assert page.count("<figure>") == 3 * 4 and "left out: no input for it" in page and "http" not in page
    for link in re.findall(r'href="([^"#]+)"', page):
        from html import unescape
        from urllib.parse import unquote

        assert (shop / "out" / unquote(unescape(link))).is_file()
    before = page.count("data:image/")
    assert run(tiny_folder, "out") == 0
    assert (shop / "out" / "report.html").read_text().count("data:image/") == before  # also where nothing was made


def test_folders_below_and_results_of_one_name(tiny_folder, shop, capsys):
    (shop / "photos" / "more").mkdir()
    os.rename("photos/c.png", "photos/more/c.png")
    Image.fromarray(noise(70, 90)).save(shop / "photos" / "a.bmp")
    (shop / "day.yaml").write_text("- upscale\n- formats: png\n")
    assert run(tiny_folder, "photos/out", "--recursive") == 1  # in the folder itself, and left out of it
    assert "a.png: both a.bmp and a.png go there" in capsys.readouterr().err
    assert (shop / "photos" / "out" / "more" / "c.png").is_file()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["none.yaml", "photos"], "none.yaml: no such file"),
        (["day.yaml", "none"], "none: is no folder"),
        (["day.yaml", "photos", "-o", "photos"], "-o: photos is the folder of the photographs"),
        (["day.yaml", "logos", "--model", "none"], "none"),
    ],
)
def test_what_nothing_can_be_done_with_is_one_line(shop, capsys, words, line):
    assert cli.main(["run", *words, "--quiet"]) == 2
    error = capsys.readouterr().err.strip()
    assert line in error and len(error.splitlines()) == 1


def test_a_preset_may_be_a_file_and_says_the_format(tiny_folder, shop):
    (shop / "mine.yaml").write_text("title: Mine\nmake: {canvas: 60x60, background: white, format: jpg}\n")
    (shop / "day.yaml").write_text("- packshot: {preset: mine.yaml, subject: logos/a.png}\n")
    assert run(tiny_folder, "out") == 0
    assert sorted(file.name for file in (shop / "out").iterdir()) == [
        ".photofound",
        "a.jpg",
        "b.jpg",
        "c.jpg",
        "report.html",
    ]
    assert Image.open(shop / "out" / "a.jpg").size == (60, 60)


def test_what_is_transparent_gets_a_file_that_holds_it(tiny_folder, shop):
    (shop / "day.yaml").write_text("- packshot: {background: transparent, subject: logos/a.png}\n")
    assert run(tiny_folder, "out") == 0
    assert Image.open(shop / "out" / "b.png").mode == "RGBA", "b.jpg could not hold it"


def test_another_fallback_is_another_model(tiny_folder, shop):
    parse = run_command.run_parser().parse_args
    lines = [[], ["--fallback", "large"], ["--fallback", "large", "--fallback-below", "0.5"]]
    keys = {run_command._model_key(parse(["day.yaml", "photos", "--model", str(tiny_folder), *more])) for more in lines}
    assert len(keys) == 3
