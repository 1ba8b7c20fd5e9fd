"""`photofound eval` from the command line to the report, and one line for all that is wrong."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from photofound import cli
from photofound.eval import methods
from photofound.model.vision import PerceptualNet
from photofound.training import evaluate

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three photographs, two of them of an object."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    mask = np.zeros((48, 64), np.uint8)
    mask[14:34, 20:44] = 255
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(folder / f"{i}.png")
        if i:
            Image.fromarray(mask).save(folder / f"{i}.mask.png")
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "squeeze.safetensors"
    save_file(PerceptualNet().state_dict(), path)
    return path


@pytest.mark.slow
def test_a_report_of_models_and_classics(photos, network, tiny_folder, tmp_path, capsys):
    models = ["--model", f"one={tiny_folder}@1", "--model", f"{tiny_folder}@2", "--dtype", "float32"]
    networks = ["--perceptual", str(network), "--features", str(network)]
    asked = "strokes-20,border-12.5,object-erase,x4-real,outpaint-product"
    more = ["--protocols", asked, "--seeds", "2", "--pictures", "1", "--max-side", "48", "-o", str(tmp_path / "out")]
    assert cli.main(["eval", str(photos), *models, *networks, *more]) == 0
    said = capsys.readouterr().out.strip().splitlines()
    assert said[-1] == str(tmp_path / "out" / "report.html")
    assert said[2].startswith("| perceptual distance, one / PatchMatch | ") and said[2].count("]") == 3
    assert "\n".join(said[:4]) in (tmp_path / "out" / "report.md").read_text()
    tree = json.loads((tmp_path / "out" / "report.json").read_text())
    shown: dict = {}
    for each in tree["summary"]:
        shown.setdefault(each["protocol"], []).append(each["method"])
    ours = ["one", f"{tiny_folder.name}, 2 steps"]
    classic = ["Telea", "Navier-Stokes", "biharmonic", "PatchMatch"]
    assert all(shown[name] == [*classic, *ours] for name in ("strokes-20", "border-12.5", "object-erase"))
    assert shown["x4-real"] == ["bicubic", "Lanczos", *ours]
    assert shown["outpaint-product"] == ["untouched", *ours]
    (strokes,) = [e for e in tree["summary"] if (e["protocol"], e["method"]) == ("strokes-20", "one")]
    wanted = {"psnr", "ssim", "hole_psnr", "perceptual", "fid", "kid", "cmmd", "seam", "altered", "seconds"}
    assert wanted <= set(strokes["figures"]) and strokes["figures"]["altered"]["value"] == 0
    assert strokes["figures"]["psnr"]["seeds"] > 0 and strokes["pictures"] == 3
    seeds = {row["seed"] for row in tree["rows"] if row["method"] == "one"}
    assert seeds == {0, 1} and tree["about"]["features network"] == "squeeze.safetensors"
    assert not [value for value in tree["about"].values() if str(tmp_path) in str(value)]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<h3>") == len(shown) and "## strokes 20 %" in (tmp_path / "out" / "report.md").read_text()


def run(photos, *options):
    return cli.main(["eval", str(photos), "--model", "none", *options])


@pytest.mark.slow
def test_left_out_protocols_are_all_that_the_photographs_allow(photos, tmp_path):
    assert run(photos, "--limit", "1", "-o", str(tmp_path)) == 0
    asked = {each["protocol"] for each in json.loads((tmp_path / "report.json").read_text())["summary"]}
    wanted = {"strokes-20", "box-centre", "border-12.5", "object-erase", "own-masks", "outpaint-product"}
    assert asked == wanted | {"x2", "x4", "x2-real", "x4-real"}  # no classic follows a colour word


def test_a_set_for_enlarging_needs_no_model(photos, tmp_path):
    out = ["-o", str(tmp_path), "--quiet"]
    assert run(photos, "--protocols", "x4,x2", "--methods", "bicubic,lanczos", "--limit", "1", *out) == 0
    tree = json.loads((tmp_path / "report.json").read_text())
    assert [(e["protocol"], e["method"]) for e in tree["summary"]] == [
        (protocol, method) for protocol in ("x4", "x2") for method in ("bicubic", "Lanczos")
    ]
    assert "y_psnr" in tree["summary"][0]["figures"]


def own_segmenter(rgb, subject):
    return np.ones_like(subject)


def test_a_segmenter_of_ones_own(photos, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    named = ["--segmenter", f"{Path(__file__).stem}:own_segmenter"]
    assert run(photos, "--protocols", "outpaint-product", "-o", str(tmp_path), *named) == 0
    growth = json.loads((tmp_path / "report.json").read_text())["summary"][0]["figures"]["growth"]["value"]
    assert growth == pytest.approx(48 * 64 / (20 * 24) - 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--protocols", "strokes"], "protocol 'strokes' is unknown; known: strokes-20, "),
        (["--protocols", "rord"], "protocol 'rord' needs the folders img/, gt/ and mask/ of RORD"),
        (["--methods", "lama"], "method 'lama' is unknown; known: telea, "),
        (["--methods", "bicubic", "--protocols", "box-centre"], "none of bicubic can do box-centre"),
        (["--methods", "none"], "methods: none were named"),
        (["--limit", "0"], "'0' is not a whole number above 0"),
        (["--limit", "many"], "'many' is not a whole number"),
        (["--match", "dog"], "no photographs that 'dog' describes"),
        (["--perceptual", "gone.safetensors"], "gone.safetensors does not exist"),
        (["--clip", "gone/at-all"], "features: gone/at-all cannot be loaded"),
        (["--segmenter", "json:nothing"], "segmenter: 'json:nothing' is no module:function"),
        (["--pipeline", "gone/at-all"], "pipeline: gone/at-all cannot be loaded"),
        (["--pipeline", "gone:teacher"], "has no teacher"),
        (["--model", "gone/at-all"], "gone/at-all"),
        (["--device", "gpu"], "device: 'gpu' is unknown; use auto, cpu or cuda"),
        (["--guidence", "3"], "unrecognized arguments: --guidence 3"),
    ],
)
def test_a_mistake_is_one_line(photos, tmp_path, capsys, options, line):
    assert run(photos, "-o", str(tmp_path / "out"), *options) == 2
    said = capsys.readouterr().err
    assert line in said and said.startswith("photofound: ") and said.count("\n") == 1, said
    assert not (tmp_path / "out" / "report.json").exists()


def test_what_was_found_is_written_also_when_a_method_fails(photos, tmp_path, monkeypatch, capsys):
    asked = []

    def failing(problem):
        asked.append(problem.name)
        if len(asked) == 2:
            raise ValueError("out of luck; try again")
        return problem.truth

    monkeypatch.setitem(methods.CLASSICAL, "bicubic", methods.ClassicalMethod("bicubic", ("upscale",), failing))
    assert run(photos, "--protocols", "x2", "--methods", "bicubic", "-o", str(tmp_path)) == 2
    assert capsys.readouterr().err == "photofound: out of luck; try again\n"
    tree = json.loads((tmp_path / "report.json").read_text())
    assert len(tree["rows"]) == 1 and tree["about"]["took"].endswith("stopped before the end")


def test_a_report_is_not_overwritten_by_accident(photos, tmp_path, capsys):
    options = ["--protocols", "x4", "--methods", "bicubic", "-o", str(tmp_path)]
    assert run(photos, *options) == 0
    assert run(photos, *options) == 2 and "holds a report; pass --overwrite" in capsys.readouterr().err
    assert run(photos, *options, "--overwrite") == 0
    assert cli.main(["eval", str(tmp_path / "gone")]) == 2


@pytest.mark.parametrize(
    ("text", "name", "source", "steps", "teacher"),
    [
        ("embedded", None, "embedded", None, False),
        ("runs/a/model@4", None, "runs/a/model", 4, False),
        ("best=owner/name@12", "best", "owner/name", 12, False),
        ("embedded:teacher@20", None, "embedded", 20, True),
    ],
)
def test_models_are_named_with_their_steps(text, name, source, steps, teacher):
    assert evaluate._model(text) == {"name": name, "source": source, "steps": steps, "teacher": teacher}


@pytest.mark.slow
def test_the_benchmark_prints_the_same_table(photos, network, tiny_folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("skimage")
    options = ["--data", photos, "--perceptual", network, "--limit", 1, "--model", tiny_folder, "--steps", 1]
    options += ["--tasks", "box", "--markdown", tmp_path / "table.md", "--sheet", tmp_path / "sheet.png"]
    monkeypatch.setattr(sys, "argv", ["edits.py", *map(str, options)])
    monkeypatch.setattr(
        "photofound.eval.methods.PhotofoundMethod.run", lambda self, task, given, seed, **inputs: Image.fromarray(given)
    )
    runpy.run_path(str(ROOT / "benchmarks" / "edits.py"), run_name="__main__")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[6].startswith("| task | method | PSNR dB | SSIM | perceptual distance | kept pixels altered | seconds")
    assert [line.split(" | ")[1] for line in lines[8:12]] == ["Telea", "Navier-Stokes", "PatchMatch", "ours"]
    assert "| perceptual distance, ours / PatchMatch | " in (tmp_path / "table.md").read_text()
    assert lines[4].endswith("--limit 1 --tasks box") and "1 photographs; torch" in capsys.readouterr().out
    assert Image.open(tmp_path / "sheet.png").size == (6 * 320, 240)


@pytest.mark.slow
def test_the_benchmark_prints_the_opponents_table_alone(photos, network, tiny_folder, monkeypatch, capsys):
    options = ["--data", photos, "--perceptual", network, "--limit", 1, "--model", tiny_folder, "--set5", photos]
    options += ["--against", "patchmatch", "--protocols", "strokes-20,border-12.5", "--max-side", 48, "--seeds", 2]
    monkeypatch.setattr(sys, "argv", ["edits.py", *map(str, options)])
    answer = np.full((48, 64, 3), 127, np.uint8)

    def run(self, task, given, seed, **inputs):
        height, width = (48, 64) if task == "upscale" else (36, 48)  # the scaled photograph's
        return Image.fromarray(answer[:height, :width])

    monkeypatch.setattr("photofound.eval.methods.PhotofoundMethod.run", run)
    runpy.run_path(str(ROOT / "benchmarks" / "edits.py"), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert lines[0] == "|  | strokes 20 % | border 12.5 % |" and "ours / PatchMatch" in lines[2]
    assert lines[3].startswith("| PSNR dB, ours - PatchMatch | ")
    assert lines[4] == "| Y-PSNR dB | upscale x2, 1 pictures | upscale x4, 1 pictures |"
    assert [line.split(" | ")[0] for line in lines[6:]] == ["| bicubic", "| ours"]


def test_without_patchmatchs_library_the_rest_is_measured_and_it_is_said(photos, tmp_path, monkeypatch, capsys):
    import patchmatch

    monkeypatch.setattr(patchmatch, "patchmatch_available", False)
    options = ["--protocols", "box-centre", "--limit", "1", "-o", str(tmp_path)]
    assert run(photos, *options) == 0
    assert "left out: patchmatch: PyPatchMatch is installed without its native library" in capsys.readouterr().err
    tree = json.loads((tmp_path / "report.json").read_text())
    assert [each["method"] for each in tree["summary"]] == ["Telea", "Navier-Stokes", "biharmonic"]
    assert tree["about"]["left out"] == "PatchMatch"
    assert run(photos, *options, "--overwrite", "--methods", "patchmatch") == 2
    assert "install a C++17 compiler" in capsys.readouterr().err
