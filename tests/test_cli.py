"""The command line with a fake task: what it parses, where it writes, and one clear line for every mistake."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import signal
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from photofound import cli, files, image
from photofound.cli.options import spelling, task_parser
from photofound.device import fast_dtype
from photofound.edits import task as edit
from photofound.edits.inputs import Input
from photofound.edits.task import Task

SIZE = (12, 9)


class FakePipeline:
    """Inverts the picture; remembers how it was made and called."""

    made: list = []
    calls: list = []
    fails_on: str | None = None

    @classmethod
    def from_pretrained(cls, *source, **settings):
        if source == ("nowhere",):
            raise OSError("Cannot load model nowhere: it is not cached (no snapshot). Check the stacktrace\nabove.")
        cls.made.append((source, settings))
        return cls()

    def to(self, device):
        return self

    def set_progress_bar_config(self, **settings):
        pass

    def for_task(self, name, quiet=True):
        return self

    def search(self, *told):
        pass

    def answer(self, request, count=1, callback=None):
        settings = {"num_inference_steps": request.steps, "guidance_scale": request.guidance}
        settings |= {"num_images_per_prompt": count, "generator": request.generator(), "output_type": "picture"}
        return self(request.picture, **request.inputs, **settings)

    def __call__(self, picture, **inputs):
        self.calls.append((picture, inputs))
        if self.fails_on and self.fails_on in str(picture.path):
            raise ValueError("the mask is empty (all black);\nmake white what is to be repainted")
        inverted = dataclasses.replace(picture, pixels=picture.depth - picture.pixels)
        keep = np.zeros((picture.height, picture.width), np.float32)
        keep[:, :4] = 1
        return types.SimpleNamespace(images=[inverted] * inputs["num_images_per_prompt"], keep=keep)


class Retouch(Task):
    """Every kind of input there is."""

    name = "retouch"
    summary = "smooth 100 % of the skin"
    inputs = (
        Input("prompt", "text", "what to paint"),
        Input("mask_image", "mask", "white = retouch", required=True),
        Input("subject", "mask", "white = keep, 50 % or more"),
        Input("style_image", "image", "a picture to imitate"),
        Input("grow", "int", "pixels", default=3),
        Input("left", "length", "pixels or 25%% of the width", default=0),
        Input("aspect", "aspect", "W:H"),
        Input("size", "size", "WxH"),
    )

    def prepare(self, picture, prompt="", **inputs):
        raise NotImplementedError

    def example(self, sample, generator):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def task(monkeypatch):
    """``retouch`` is a task, and the only one that is imported."""
    fake, known, get = Retouch(), edit.task_names(), edit.get_task
    monkeypatch.setattr(edit, "task_names", lambda: [*known, "retouch"])
    monkeypatch.setattr(edit, "get_task", lambda name: fake if name == "retouch" else get(name))
    monkeypatch.setattr("photofound.pipeline.EditPipeline", FakePipeline)
    monkeypatch.setattr(FakePipeline, "made", [])
    monkeypatch.setattr(FakePipeline, "calls", [])
    return fake


@pytest.fixture
def photo(tmp_path):
    """A function that writes a photograph."""

    def write(name="cup.png", size=SIZE, mode="RGB"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        gradient = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
        Image.fromarray(gradient).convert(mode).save(path)
        return path

    return write


@pytest.fixture
def run(capfd):
    """A function that runs a command and returns its status, stdout and stderr."""

    def call(*argv):
        status = cli.main([str(a) for a in argv])
        out, err = capfd.readouterr()
        return status, out, err

    return call


def refused(result, *texts):
    """Status 2 and one line on stderr that holds the texts."""
    status, out, err = result
    assert status == 2 and out == "", result
    assert err.count("\n") == 1 and err.startswith("photofound: "), err
    for text in texts:
        assert str(text) in err, err
    assert "Traceback" not in err


# ----------------------------------------------------------------------------------------------------- where results go


def test_one_photograph_is_edited_beside_itself(run, photo):
    cup, mask = photo("cup.png"), photo("mask.png", mode="L")
    status, out, err = run("retouch", cup, mask)
    assert (status, err) == (0, "")
    assert out == f"{cup.parent / 'cup-retouch.png'}\n"
    assert np.array_equal(255 - np.asarray(Image.open(cup)), np.asarray(Image.open(cup.parent / "cup-retouch.png")))


def test_the_inputs_arrive_as_declared(run, photo):
    cup, mask, style = photo("cup.png"), photo("mask.png"), photo("style.png", (5, 5))
    argv = [
        "--grow=7",
        "--left",
        "25%",
        "--aspect",
        "4:5",
        "--size",
        "30x20",
        "--style-image",
        style,
        "--prompt",
        "a b",
    ]
    argv += [
        "--steps=4",
        "--guidance=2.5",
        "--seed=9",
        "--num-images=2",
        "--dtype=float16",
        "--model=m",
        "--device=cpu",
    ]
    assert run("retouch", *argv, cup, mask)[0] == 0
    (source, loaded), (picture, inputs) = FakePipeline.made[0], FakePipeline.calls[0]
    assert source == ("m",) and str(loaded["torch_dtype"]) == "torch.float16"
    assert picture.path == cup and inputs["mask_image"].path == mask and inputs["style_image"].size == (5, 5)
    assert {k: inputs[k] for k in ("grow", "left", "aspect", "size", "prompt")} == {
        "grow": 7, "left": "25%", "aspect": "4:5", "size": "30x20", "prompt": "a b"
    }  # fmt: skip
    assert (inputs["num_inference_steps"], inputs["guidance_scale"], inputs["num_images_per_prompt"]) == (4, 2.5, 2)
    assert inputs["generator"].initial_seed() == 9 and inputs["output_type"] == "picture"


def test_omitted_inputs_have_their_default_or_are_left_to_the_pipeline(run, photo):
    assert run("retouch", "--device=cpu", photo(), photo("mask.png"))[0] == 0
    (source, loaded), (_, inputs) = FakePipeline.made[0], FakePipeline.calls[0]
    assert source == () and loaded == {"teacher": False, "runtime": None, "torch_dtype": fast_dtype("cpu")}
    assert inputs["prompt"] == "" and inputs["grow"] == 3 and inputs["left"] == 0
    assert not {"subject", "style_image", "aspect", "size"} & set(inputs)
    assert inputs["num_inference_steps"] is None and inputs["guidance_scale"] is None
    assert inputs["generator"].initial_seed() == 0


@pytest.mark.parametrize(
    ("name", "options", "expected", "format"),
    [
        ("cup.JPG", [], "cup-retouch.JPG", "JPEG"),
        ("cup.webp", [], "cup-retouch.webp", "WEBP"),
        ("cup.tiff", [], "cup-retouch.tiff", "TIFF"),
        ("cup.avif", [], "cup-retouch.avif", "AVIF"),
        ("cup.gif", [], "cup-retouch.png", "PNG"),
        ("cup.png", ["--format=jpg"], "cup-retouch.jpg", "JPEG"),
        ("cup.png", ["-o", "{}/done.webp"], "done.webp", "WEBP"),
        ("cup.jpg", ["-o", "{}/done"], "done", "JPEG"),
        ("cup.jpg", ["-o", "{}/new/"], "new/cup-retouch.jpg", "JPEG"),
        ("cup.jpg", ["-o", "{}"], "cup-retouch.jpg", "JPEG"),
        ("cup.jpg", ["-o", "{}/done", "--format", "png"], "done", "PNG"),
    ],
)
def test_the_output_keeps_the_format_unless_told_otherwise(run, photo, tmp_path, name, options, expected, format):
    assert run("retouch", photo(name), photo("mask.bmp"), *[o.replace("{}", str(tmp_path)) for o in options])[0] == 0
    assert Image.open(tmp_path / expected).format == format


def test_the_content_decides_the_format_not_the_name(run, photo, tmp_path):
    photo("cup.png").rename(tmp_path / "cup.jpg")  # a PNG, so the result must not become a lossy JPEG
    assert run("retouch", tmp_path / "cup.jpg", photo("mask.bmp"))[0] == 0
    assert Image.open(tmp_path / "cup-retouch.png").format == "PNG"


def test_a_jpeg_is_compressed_as_it_was_and_another_file_at_95_without_subsampling(run, photo, tmp_path):
    with Image.open(photo("plain.png")) as plain:
        plain.save(tmp_path / "cup.jpg", quality=61, subsampling="4:2:2", progressive=True)
    assert run("retouch", tmp_path / "cup.jpg", photo("mask.bmp"))[0] == 0
    assert run("retouch", tmp_path / "plain.png", tmp_path / "mask.bmp", "--format=jpg")[0] == 0
    given, same, fresh = (Image.open(tmp_path / n) for n in ("cup.jpg", "cup-retouch.jpg", "plain-retouch.jpg"))
    assert same.quantization == given.quantization and same.layer == given.layer and "progressive" in same.info
    assert fresh.layer[1][1:3] == (1, 1)  # chroma sampled as often as luma
    assert max(fresh.quantization[0]) <= 12  # libjpeg's luma table at quality 95


def test_strip_removes_the_place_and_nothing_else(run, photo, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8825)[1] = "N"
    exif[0x8825] = 0
    Image.open(photo("plain.png")).save(tmp_path / "cup.jpg", exif=exif)
    for options, places in ([], {1: "N"}), (["--strip", "--overwrite"], {}):
        assert run("retouch", tmp_path / "cup.jpg", photo("mask.bmp"), *options)[0] == 0
        found = Image.open(tmp_path / "cup-retouch.jpg").getexif()
        assert found[0x010F] == "Maker" and found.get_ifd(0x8825) == places


def test_several_images_are_numbered(run, photo, tmp_path):
    status, out, _ = run("retouch", photo(), photo("mask.png"), "--num-images", "2", "-o", tmp_path / "v.png")
    assert status == 0 and out.split() == [str(tmp_path / "v-1.png"), str(tmp_path / "v-2.png")]
    assert not (tmp_path / "v.png").exists()


def test_the_subject_is_saved_as_a_mask(run, photo, tmp_path):
    status, out, _ = run("retouch", photo(), photo("mask.png"), "--save-subject")
    assert status == 0 and str(tmp_path / "cup-retouch-subject.png") in out
    saved = np.asarray(Image.open(tmp_path / "cup-retouch-subject.png"))
    assert saved.shape == (SIZE[1], SIZE[0]) and (saved[:, :4] == 255).all() and (saved[:, 4:] == 0).all()
    assert "subject" not in FakePipeline.calls[0][1], "what the edit found itself is not given to it again"


def test_saving_the_subject_does_not_change_the_picture(tiny_folder, tmp_path):
    y, x = np.mgrid[:72, :72] - 36
    matte = np.clip((22 - np.hypot(y, x)) / 4, 0, 1)  # a soft edge, whose colours are the file's own
    cut_out = np.dstack([np.random.default_rng(0).uniform(0, 255, (72, 72, 3)), 255 * matte])
    Image.fromarray(cut_out.astype(np.uint8)).save(tmp_path / "cup.png")
    made = []
    for name, flags in (("plain", []), ("saved", ["--save-subject"])):
        out = tmp_path / f"{name}.png"
        flags += ["-o", str(out), "--model", str(tiny_folder), "--steps", "1", "--quiet"]
        assert cli.main(["outpaint", str(tmp_path / "cup.png"), *flags]) == 0
        made.append(np.asarray(Image.open(out)))
    assert (tmp_path / "saved-subject.png").is_file() and np.array_equal(*made)


def test_quiet_prints_nothing(run, photo):
    assert run("retouch", photo(), photo("mask.png"), "--quiet") == (0, "", "")


def test_overwrite_replaces(run, photo, tmp_path):
    (tmp_path / "cup-retouch.png").write_bytes(b"old")
    assert run("retouch", photo(), photo("mask.png"), "--overwrite")[0] == 0
    assert Image.open(tmp_path / "cup-retouch.png").size == SIZE


# -------------------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def folders(photo, tmp_path):
    """Three photographs with a mask each."""
    for name in ("a", "b", "c"):
        photo(f"photos/{name}.jpg")
        photo(f"masks/{name}.png")
    return tmp_path / "photos", tmp_path / "masks"


def test_a_folder_is_edited_into_a_folder_beside_it_with_one_model(run, folders, tmp_path):
    status, out, err = run("retouch", *folders)
    assert (status, err) == (0, "")
    written = [tmp_path / "photos-retouch" / f"{name}-retouch.jpg" for name in "abc"]
    assert out.split() == [str(p) for p in written] and all(p.is_file() for p in written)
    assert len(FakePipeline.made) == 1
    assert [inputs["mask_image"].path.name for _, inputs in FakePipeline.calls] == ["a.png", "b.png", "c.png"]


def test_the_folder_may_be_here_and_the_output_named(run, folders, tmp_path, monkeypatch):
    monkeypatch.chdir(folders[0])
    assert run("retouch", ".", "../masks")[0] == 0 and (tmp_path / "photos-retouch").is_dir()
    assert run("retouch", ".", "../masks", "-o", tmp_path / "deep" / "out")[0] == 0
    assert len(list((tmp_path / "deep" / "out").iterdir())) == 3


def test_one_mask_file_serves_all(run, folders):
    assert run("retouch", folders[0], folders[1] / "a.png")[0] == 0
    assert {inputs["mask_image"].path.name for _, inputs in FakePipeline.calls} == {"a.png"}


def test_every_file_of_a_folder_starts_from_the_seed(run, folders):
    assert run("retouch", *folders, "--seed=4")[0] == 0
    draws = [float(inputs["generator"].initial_seed()) for _, inputs in FakePipeline.calls]
    assert draws == [4, 4, 4] and len({id(inputs["generator"]) for _, inputs in FakePipeline.calls}) == 3


def test_a_bad_file_is_reported_and_the_rest_is_done(run, folders, tmp_path):
    (folders[0] / "b.jpg").write_bytes(b"not an image")
    (folders[1] / "c.png").unlink()
    status, out, err = run("retouch", *folders)
    assert status == 1 and out.split() == [str(tmp_path / "photos-retouch" / "a-retouch.jpg")]
    lines = err.splitlines()
    assert len(lines) == 3 and all(line.startswith("photofound: ") for line in lines), err
    assert str(folders[0] / "b.jpg") in lines[0] and "c.jpg" in lines[1] and lines[2].endswith("2 of 3 files failed")


def reported(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_report_has_a_line_per_file_and_is_appended_to(run, folders, tmp_path):
    (folders[0] / "b.jpg").write_bytes(b"not an image")
    report = tmp_path / "report.jsonl"
    assert run("retouch", *folders, "--seed=7", "--report", report)[0] == 1
    lines, done = reported(report), tmp_path / "photos-retouch"
    assert [set(line) for line in lines] == [{"input", "output", "seconds", "seed", "status", "error"}] * 3
    assert [line["input"] for line in lines] == [str(folders[0] / f"{name}.jpg") for name in "abc"]
    assert [line["status"] for line in lines] == ["done", "failed", "done"]
    assert lines[0]["output"] == str(done / "a-retouch.jpg") and lines[0]["error"] is None
    assert "b.jpg: is not an image" in lines[1]["error"] and all(line["seed"] == 7 for line in lines)
    assert all(0 <= line["seconds"] < 60 for line in lines)
    assert run("retouch", *folders, "--skip-existing", "--num-images=2", "--report", report)[0] == 1
    assert len(reported(report)) == 6 and reported(report)[3]["output"] == [
        str(done / f"a-retouch-{n}.jpg") for n in (1, 2)
    ]


def test_one_photograph_has_a_report_too(run, photo, tmp_path):
    cup, mask = photo(), photo("mask.png")
    assert run("retouch", cup, mask, "--report", tmp_path / "r.jsonl")[0] == 0
    cup.write_bytes(b"not an image")
    assert run("retouch", cup, mask, "--overwrite", "--report", tmp_path / "r.jsonl")[0] == 2
    assert [line["status"] for line in reported(tmp_path / "r.jsonl")] == ["done", "failed"]


def test_a_report_that_cannot_be_written_is_refused_before_the_work(run, folders, tmp_path):
    refused(run("retouch", *folders, "--report", tmp_path / "no" / "r.jsonl"), "r.jsonl", "does not exist")
    refused(run("retouch", *folders, "--report", tmp_path), "is a folder")
    refused(run("retouch", *folders, "--report", folders[0] / "a.jpg"), "a.jpg", "name another file")
    assert FakePipeline.made == []


@pytest.mark.slow
def test_a_folder_of_200_continues_where_it_stopped(run, photo, tmp_path, monkeypatch):
    """Interrupted at the 120th: those that are done are neither read nor edited again, and nothing else is there."""
    original = photo("photos/000.jpg").read_bytes()
    for number in range(1, 200):
        (tmp_path / "photos" / f"{number:03}.jpg").write_bytes(original)
    argv = ["retouch", tmp_path / "photos", photo("mask.png"), "--report", tmp_path / "r.jsonl", "--skip-existing"]
    edit_one = FakePipeline.__call__

    def interrupted(self, picture, **inputs):
        if picture.path.stem == "119":
            raise KeyboardInterrupt
        return edit_one(self, picture, **inputs)

    monkeypatch.setattr(FakePipeline, "__call__", interrupted)
    assert run(*argv)[0] == 130
    done = sorted((tmp_path / "photos-retouch").iterdir())
    assert [path.name for path in done] == [f"{number:03}-retouch.jpg" for number in range(119)]
    monkeypatch.setattr(FakePipeline, "__call__", edit_one)
    before, FakePipeline.calls[:] = {path: path.stat().st_mtime_ns for path in done}, []
    status, out, err = run(*argv)
    assert status == 0 and err == "photofound: 119 of 200 photographs were edited before and are skipped\n"
    assert len(out.splitlines()) == len(FakePipeline.calls) == 81
    assert all(path.stat().st_mtime_ns == before[path] for path in done)
    assert len(list((tmp_path / "photos-retouch").iterdir())) == 200
    statuses = [line["status"] for line in reported(tmp_path / "r.jsonl")]
    assert statuses == ["done"] * 119 + ["skipped"] * 119 + ["done"] * 81
    made = len(FakePipeline.made)
    assert run(*argv, "--quiet") == (0, "", "") and len(FakePipeline.made) == made  # nothing to do, so no model


def test_a_missing_variant_is_made_again(run, photo, tmp_path):
    cup, mask = photo(), photo("mask.png")
    assert run("retouch", cup, mask, "--num-images=2")[0] == 0
    (tmp_path / "cup-retouch-2.png").unlink()
    assert run("retouch", cup, mask, "--num-images=2", "--skip-existing")[0] == 0
    assert (tmp_path / "cup-retouch-2.png").exists() and len(FakePipeline.calls) == 2
    refused(run("retouch", cup, mask, "--skip-existing", "--overwrite"), "not allowed with")


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_writes_leaves_no_partial_file(run, folders, tmp_path, monkeypatch):
    """SIGKILL while the second file is written, so that nothing can clean up."""
    target = tmp_path / "photos-retouch"
    child = os.fork()
    if child == 0:
        sync, seen = os.fsync, []

        def die(file):
            seen.append(file)
            sync(file)
            if len(seen) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        os.fsync = die
        try:
            cli.main(["retouch", *map(str, folders), "--quiet"])
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [path.name for path in target.iterdir() if not path.name.endswith(".part")] == ["a-retouch.jpg"]
    if files._write_unnamed(
        tmp_path / "probe", b""
    ):  # elsewhere a hidden .part may stay, which nothing takes for a result
        assert len(list(target.iterdir())) == 1
    assert run("retouch", *folders, "--skip-existing")[0] == 0
    for name in "abc":
        assert image.load(target / f"{name}-retouch.jpg").size == SIZE


def test_an_error_of_an_edit_names_the_file(run, folders, monkeypatch):
    monkeypatch.setattr(FakePipeline, "fails_on", "b.jpg")
    status, _, err = run("retouch", *folders)
    assert status == 1 and err.splitlines()[0].startswith(f"photofound: {folders[0] / 'b.jpg'}: the mask is empty")


def test_two_masks_of_one_name_are_refused(run, folders, photo):
    photo("masks/a.bmp")
    status, _, err = run("retouch", *folders)
    assert status == 1 and "a.bmp and a.png" in err


def test_an_empty_folder_and_a_clash_of_names_are_refused(run, folders, photo, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(run("retouch", tmp_path / "empty", folders[1]), "holds no image")
    photo("photos/a.png")


def test_a_problem_with_one_file_stops_only_that_file(run, folders, photo, tmp_path):
    """Two that would go to one place, and a name too long with the edit's behind it."""
    photo("photos/a.png")
    long = photo(f"photos/{'x' * 250}.png")
    status, out, err = run("retouch", folders[0], folders[1] / "a.png", "--format=png", "--report", tmp_path / "r")
    assert status == 1 and [path[-13:] for path in out.split()] == ["a-retouch.png", "b-retouch.png", "c-retouch.png"]
    lines = err.splitlines()
    assert len(lines) == 3 and "both a.jpg and a.png go there; rename one" in lines[0]
    assert str(long) in lines[1] and "longer than 255 bytes" in lines[1] and lines[2].endswith("2 of 5 files failed")
    assert [line["status"] for line in reported(tmp_path / "r")] == ["done", "failed", "done", "done", "failed"]
    refused(run("retouch", long, folders[1] / "a.png"), "longer than 255 bytes")


def test_a_bad_model_is_one_error_not_one_for_each_file(run, folders):
    refused(
        run("retouch", *folders, "--model", "nowhere"), "Cannot load model nowhere: it is not cached", "--model takes"
    )


def test_a_folder_is_edited_whole_and_skipped_files_are_listed(run, photo, tmp_path):
    picture = photo("photos/a.jpg").read_bytes()
    for name in ("b.jfif", "c.JPE", "d.mpo", "e"):
        (tmp_path / "photos" / name).write_bytes(picture)
    for name in ("notes.txt", ".hidden.jpg", "f.raw", "g.bak", "h", "i.zip"):
        (tmp_path / "photos" / name).write_text("not a photograph")
    (tmp_path / "photos" / "sub.jpg").mkdir()
    argv = ["retouch", tmp_path / "photos", photo("mask.png")]
    status, out, err = run(*argv)
    assert status == 0 and [line.split("/")[-1] for line in out.split()] == [f"{name}-retouch.jpg" for name in "abcde"]
    assert err == (
        f"photofound: {tmp_path / 'photos'}: passed over .hidden.jpg (hidden); f.raw, g.bak, h, 2 more (no picture); "
        "sub.jpg (a folder, see --recursive)\n"
    )
    assert run(*argv, "--quiet", "--overwrite")[1:] == ("", "")


def test_recursive_edits_the_folders_below_with_the_masks_at_the_same_path(run, photo, tmp_path):
    for name in ("a", "x/a", "x/y/b"):
        photo(f"photos/{name}.jpg")
        photo(f"photos/masks/{name}.png")  # the masks may lie among the photographs, as may the results
    photo("photos/.thumbs/a.jpg")
    argv = ["retouch", tmp_path / "photos", tmp_path / "photos" / "masks", "--recursive", "-o", tmp_path / "photos/out"]
    status, out, err = run(*argv)
    assert status == 0 and "masks" not in err and ".thumbs (a folder that is hidden or a link)" in err
    names = ["a-retouch.jpg", "x/a-retouch.jpg", "x/y/b-retouch.jpg"]
    assert out.split() == [str(tmp_path / "photos" / "out" / name) for name in names]
    masks = [inputs["mask_image"].path for _, inputs in FakePipeline.calls]
    assert masks == [tmp_path / "photos" / "masks" / name for name in ("a.png", "x/a.png", "x/y/b.png")]
    assert run(*argv, "--skip-existing")[1] == ""
    refused(run("retouch", tmp_path / "photos" / "a.jpg", tmp_path / "photos" / "masks", "--recursive"), "not a folder")


@pytest.mark.parametrize("options", [[], ["--num-images=2"], ["--save-subject"]])
def test_results_in_the_photographs_own_folder_are_not_edited_again(run, photo, tmp_path, options):
    photo("photos/a.jpg"), photo("photos/b.jpg")
    photo("photos/lost-retouch.jpg")  # of no photograph that is here: one by itself
    argv = ["retouch", tmp_path / "photos", photo("photos/mask.png"), "-o", tmp_path / "photos", *options]
    assert run(*argv)[0] == 0
    before = sorted((tmp_path / "photos").iterdir())
    assert len(before) == 4 + 3 * (1 if not options else 2)
    status, out, err = run(*argv, "--skip-existing")
    assert (status, out) == (0, "") and "(a result of this edit)" in err and "3 of 3 photographs" in err
    assert sorted((tmp_path / "photos").iterdir()) == before


def test_a_truncated_result_is_made_again(run, folders, tmp_path):
    assert run("retouch", *folders)[0] == 0
    done = tmp_path / "photos-retouch"
    (done / "a-retouch.jpg").write_bytes((done / "a-retouch.jpg").read_bytes()[:-40])
    (done / "b-retouch.jpg").write_bytes(b"")
    status, out, err = run("retouch", *folders, "--skip-existing")
    assert status == 0 and out.split() == [str(done / "a-retouch.jpg"), str(done / "b-retouch.jpg")]
    for name in "ab":
        assert f"warning: {done / name}-retouch.jpg: is not a whole picture and is made again" in err
        assert image.is_whole(done / f"{name}-retouch.jpg")
    assert err.endswith("1 of 3 photographs were edited before and are skipped\n")


# ------------------------------------------------------------------------------------------------------------- printing


NAMES = ("plain.png", "日本語.png", os.fsdecode(b"caf\xe9.png"))


@pytest.fixture
def odd_names(photo, tmp_path):
    for name in NAMES:
        photo(f"photos/{name}")
    return ["retouch", str(tmp_path / "photos"), str(photo("mask.png")), "--report", str(tmp_path / "r")]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "utf-16"])
def test_every_file_name_can_be_printed(odd_names, tmp_path, monkeypatch, encoding):
    with open(tmp_path / "list", "w", encoding=encoding) as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert cli.main(odd_names) == 0
    assert [line["status"] for line in reported(tmp_path / "r")] == ["done"] * 3
    assert {line["input"].split("/")[-1] for line in reported(tmp_path / "r")} == set(NAMES)
    if encoding == "utf-16":  # of two bytes each, among which none can be put as it is
        assert r"caf\udce9-retouch.png" in (tmp_path / "list").read_text(encoding)
        return
    printed = (tmp_path / "list").read_bytes().splitlines()
    assert len(printed) == 3 and any(line.endswith(b"caf\xe9-retouch.png") for line in printed)
    japanese = "日本語" if encoding == "utf-8" else r"\u65e5\u672c\u8a9e"
    assert any(line.endswith(f"{japanese}-retouch.png".encode()) for line in printed)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("kind", ["a pipe without reader", "a full disk", "closed", "none"])
def test_a_stream_that_cannot_be_written_is_no_failure(odd_names, tmp_path, monkeypatch, capfd, stream, kind):
    (tmp_path / "photos" / "notes.txt").touch()  # something to say on stderr, before the work
    if kind == "a pipe without reader":
        reader, writer = os.pipe()
        os.close(reader)
        broken = os.fdopen(writer, "w")
    else:
        broken = None if kind == "none" else open("/dev/full", "w")
        if kind == "closed":
            broken.close()
    monkeypatch.setattr(sys, stream, broken)
    assert cli.main(odd_names) == 0
    assert len(list((tmp_path / "photos-retouch").iterdir())) == 3
    assert [line["status"] for line in reported(tmp_path / "r")] == ["done"] * 3
    if broken is not None:
        broken.close()  # flushes what it still holds
    if stream == "stdout":
        assert ("cannot be printed any more" in capfd.readouterr().err) == (kind == "a full disk")


def test_a_version_that_cannot_be_printed_says_nothing_of_results(monkeypatch, capfd):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.main(["--version"]) == 0
        monkeypatch.undo()
    assert "results" not in capfd.readouterr().err


def test_a_report_that_fails_midway_costs_no_result(run, folders, tmp_path):
    status, out, err = run("retouch", *folders, "--report", "/dev/full")
    refused((status, out, err), "/dev/full: is not a regular file")
    (tmp_path / "r").symlink_to("/dev/full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image, "check_output", lambda *_, **__: None)
        status, out, err = run("retouch", *folders, "--report", tmp_path / "r")
    assert status == 1 and len(out.split()) == 3 and err.count("No space left on device") == 3


# ------------------------------------------------------------------------------------------- one line for what is wrong


def test_files_that_cannot_be_read(run, photo, tmp_path):
    mask = photo("mask.png")
    whole = photo("whole.png", (64, 64)).read_bytes()
    for name, content in {"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"hello there"}.items():
        (tmp_path / f"{name}.png").write_bytes(content)
        refused(run("retouch", tmp_path / f"{name}.png", mask), f"{name}.png")
    refused(run("retouch", tmp_path / "missing.png", mask), "missing.png", "no such file")
    refused(run("retouch", photo(), tmp_path / "missing.png"), "missing.png", "no such file")
    refused(run("retouch", photo(), tmp_path / "text.png"), "text.png")
    assert FakePipeline.made == []  # told before the model is loaded


def test_a_path_that_is_no_file_is_refused_at_once(run, photo, tmp_path):
    """A pipe, which would wait for a writer, a device, a link to nowhere, no path at all, and ``-``."""
    cup, mask = photo(), photo("mask.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "lost.jpg").symlink_to("nowhere.jpg")
    for path, text in ((tmp_path / "pipe.jpg", "not a regular file"), ("/dev/null", "not a regular file"),
                       (tmp_path / "lost.jpg", "no such file"), ("", "''"), ("-", "'-'")):  # fmt: skip
        refused(run("retouch", path, mask), text)
        refused(run("retouch", cup, path), text)
        refused(run("retouch", cup, mask, "--style-image", path), text)
    for path in (tmp_path / "pipe.jpg", "/dev/null"):
        refused(run("retouch", cup, mask, "-o", path, "--overwrite"), "not a regular file")
        refused(run("retouch", cup, mask, "--report", path), "not a regular file")
    for option in ("-o", "--report", "--model"):
        refused(run("retouch", cup, mask, option, ""), option, "''")
        refused(run("retouch", cup, mask, option, "-"), option, "'-'")
    assert FakePipeline.made == [] and not (tmp_path / "-").exists()


def test_an_entry_of_a_folder_that_is_no_file_fails_alone(run, folders, tmp_path):
    os.mkfifo(folders[0] / "pipe.jpg")
    (folders[0] / "lost.jpg").symlink_to("nowhere.jpg")
    status, out, err = run("retouch", folders[0], folders[1] / "a.png")
    assert status == 1 and len(out.split()) == 3 and err.endswith("2 of 5 files failed\n")
    assert "lost.jpg: no such file" in err and "pipe.jpg: is not a regular file" in err


@pytest.mark.parametrize("recursive", [[], ["--recursive"]])
def test_a_link_that_leads_in_a_circle_fails_alone(run, folders, recursive):
    (folders[0] / "loop.png").symlink_to("loop.png")
    (folders[0] / "round").symlink_to("round")
    status, out, err = run("retouch", folders[0], folders[1] / "a.png", *recursive)
    assert status == 1 and len(out.split()) == 3 and err.endswith("1 of 4 files failed\n")
    assert "loop.png: no such file" in err


def test_an_output_behind_a_url_is_refused(run, photo, folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cup, mask = photo(), photo("mask.png")
    before = sorted(tmp_path.iterdir())
    for url in ("s3://bucket/out/", "memory://out.png", "https://example.com/a.png"):
        for option in ("-o", "--report"):
            refused(run("retouch", cup, mask, option, url), option, "is a URL; only training data")
        refused(run("retouch", *folders, "-o", url), "is a URL")
        refused(run("card", tmp_path, "-o", url), "is a URL")
        refused(run("convert", "--from-prx", tmp_path, "-o", url), "is a URL")
        refused(run("eval", folders[0], "-o", url), "is a URL")
        refused(run("train", "pretrain", "--run-dir", url), "is a URL")
        refused(run("retouch", url, mask), "is a URL")
        with pytest.raises(ValueError, match="is a URL, and nothing is written there: only training data"):
            image.save(np.zeros((4, 4, 3), np.uint8), Path(url) / "a.png")
    assert sorted(tmp_path.iterdir()) == before and FakePipeline.made == []
    assert run("retouch", cup, mask, "-o", f"file://{tmp_path}/made.png")[0] == 0 and (tmp_path / "made.png").is_file()


def test_a_prompt_that_is_not_utf_8_is_told_by_its_name(run, photo):
    refused(run("retouch", photo(), photo("mask.png"), "--prompt", "a caf\udce9"), "--prompt", "is not UTF-8 text")


def test_a_file_called_minus_is_read_and_written(run, photo, tmp_path, monkeypatch):
    photo("cup.png").rename(tmp_path / "-")
    photo("mask.png")
    monkeypatch.chdir(tmp_path)
    assert run("retouch", "./-", "mask.png", "-o", "./-.png")[:2] == (0, "-.png\n")


def test_a_size_that_the_format_cannot_hold_is_refused_before_the_work(run, photo, tmp_path, monkeypatch):
    wide, mask = photo("wide.png", (16_384, 1)), photo("mask.png")
    argv = ["retouch", wide, mask, "-o", tmp_path / "out.webp"]
    refused(run(*argv), "WEBP holds at most 16383 pixels a side, not 16384x1", "choose png")
    monkeypatch.setattr(Retouch, "result_size", lambda self, picture, **_: (40_000, 40_000))
    refused(run("retouch", photo(), mask, "--format", "avif"), "AVIF", "not 40000x40000")
    assert FakePipeline.made == []


def test_a_note_says_that_16_bits_become_8(run, photo, tmp_path):
    image.save(np.arange(324, dtype=np.uint16).reshape(9, 12, 3) * 200, tmp_path / "deep.png")
    argv = ["retouch", tmp_path / "deep.png", photo("mask.png")]
    assert run(*argv, "--format=jpg")[2].count("JPEG holds 8 bits per channel: 16 are rounded") == 1
    assert run(*argv)[2] == ""


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63, 2**64 - 1])
def test_every_seed_of_torch_is_accepted(run, photo, seed):
    assert run("retouch", photo(), photo("mask.png"), "--seed", str(seed))[0] == 0
    assert FakePipeline.calls[0][1]["generator"].initial_seed() == seed % 2**64


def test_a_decompression_bomb_is_refused_with_the_option_that_allows_it(run, photo, monkeypatch):
    monkeypatch.setenv("PHOTOFOUND_MAX_PIXELS", "1000000")  # restored after the test
    refused(run("retouch", photo(), photo("mask.png"), "--max-pixels=100"), "12x9")
    assert run("retouch", photo(), photo("mask.png"), "--max-pixels=108")[0] == 0


def test_outputs_are_checked_before_the_work(run, photo, tmp_path):
    cup, mask = photo(), photo("mask.png")
    (tmp_path / "there.png").write_bytes(b"old")
    (tmp_path / "file").write_bytes(b"")
    refused(run("retouch", cup, mask, "-o", tmp_path / "there.png"), "there.png", "exists", "--overwrite")
    refused(run("retouch", cup, mask, "-o", tmp_path / "no" / "x.png"), "does not exist")
    refused(run("retouch", cup, mask, "-o", tmp_path / "file" / "x.png"), "file")
    refused(run("retouch", cup, mask, "-o", tmp_path / "x.xyz"), "x.xyz")
    refused(run("retouch", cup, mask, "-o", tmp_path / "x.png", "--format=jpg"), "x.png")
    refused(run("retouch", cup, mask, "--format=psd"), "'psd'")
    (tmp_path / "v-2.png").write_bytes(b"old")
    refused(run("retouch", cup, mask, "-o", tmp_path / "v.png", "--num-images=2"), "v-2.png")
    (tmp_path / "s-subject.png").write_bytes(b"old")
    refused(run("retouch", cup, mask, "-o", tmp_path / "s.png", "--save-subject"), "s-subject.png")
    assert (tmp_path / "there.png").read_bytes() == b"old" and FakePipeline.made == []


def test_existing_outputs_of_a_folder_are_refused_before_the_work(run, folders):
    assert run("retouch", *folders)[0] == 0
    calls = len(FakePipeline.calls)
    refused(run("retouch", *folders), "a-retouch.jpg", "--overwrite", "--skip-existing")
    assert len(FakePipeline.calls) == calls


def test_an_edit_that_fails_leaves_no_half_file(run, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(FakePipeline, "fails_on", "cup")
    cup, mask = photo(), photo("mask.png")
    before = sorted(tmp_path.iterdir())
    refused(run("retouch", cup, mask), "the mask is empty (all black); make white what is to be repainted")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("argv", "texts"),
    [
        (["eraze"], ["'eraze' is unknown", "did you mean 'erase'?"]),
        (["xyzzy"], ["'xyzzy' is unknown", "known: "]),
        (["--steps"], ["'--steps'", "photofound --help"]),
        (["retouch"], ["IMAGE, MASK", "photofound retouch --help"]),
        (["retouch", "{cup}"], ["MASK"]),
        (["retouch", "{cup}", "{mask}", "{mask}"], ["unrecognized"]),
        (["retouch", "{cup}", "{mask}", "--step=3"], ["--step"]),
        (["retouch", "{cup}", "{mask}", "--steps=0"], ["--steps", "'0'"]),
        (["retouch", "{cup}", "{mask}", "--steps=many"], ["--steps", "'many'"]),
        (["retouch", "{cup}", "{mask}", "--num-images=0"], ["--num-images"]),
        (["retouch", "{cup}", "{mask}", "--guidance=nan"], ["--guidance", "'nan'"]),
        (["retouch", "{cup}", "{mask}", "--seed=1.5"], ["--seed", "'1.5'", "from -9223372036854775808 to"]),
        (["retouch", "{cup}", "{mask}", "--seed=18446744073709551616"], ["--seed", "to 18446744073709551615"]),
        (["retouch", "{cup}", "{mask}", "--steps=99999999999999"], ["from 1 to 1000;"]),
        (["retouch", "{cup}", "{mask}", "--guidance=101"], ["--guidance", "from 0 to 100"]),
        (["retouch", "{cup}", "{mask}", "--grow=12345678901"], ["--grow", "at most 9 digits"]),
        (["upscale", "{cup}", "--scale=1.5"], ["--scale", "'1.5' is not possible; give 2, 3 or 4"]),
        (["upscale", "{cup}", "--scale=8"], ["--scale", "'8' is not possible; give 2, 3 or 4"]),
        (["serve", "--port=99999"], ["--port", "from 0 to 65535"]),
        (["retouch", "{cup}", "{mask}", "--dtype=int8"], ["--dtype", "bfloat16"]),
        (["retouch", "{cup}", "{mask}", "--device=gpu"], ["'gpu'", "use auto, cpu or cuda"]),
        (["retouch", "{cup}", "{mask}", "--device=cuda:99"], ["'cuda:99'", "use auto or cpu"]),
        (["retouch", "{cup}", "{mask}", "--model=nowhere"], ["nowhere"]),
        (["retouch", "{cup}", "{mask}", "--grow=1.5"], ["--grow", "'1.5'"]),
        (["retouch", "{cup}", "{mask}", "--left=-5"], ["--left", "'-5'", "25%"]),
        (["retouch", "{cup}", "{mask}", "--aspect=wide"], ["--aspect", "4:5"]),
        (["retouch", "{cup}", "{mask}", "--size=12"], ["--size", "1200x800"]),
        (["train"], ["autoencoder"]),
        (["train", "autoencoders"], ["did you mean 'autoencoder'?"]),
        (["train", "autoencoder", "--config", "{cup}/no.yaml"], ["no.yaml"]),
        (["convert"], ["--from-prx", "photofound convert --help"]),
        (["tasks", "please"], ["please"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(run, photo, argv, texts):
    cup, mask = photo(), photo("mask.png")
    refused(run(*[a.replace("{cup}", str(cup)).replace("{mask}", str(mask)) for a in argv]), *texts)


def test_warnings_are_one_line_and_those_for_developers_silent(run, photo, monkeypatch):
    def warn(self, picture, **inputs):
        warnings.warn("the mask is 6x4 but the image is 12x9;\nthe mask was resized", stacklevel=1)
        warnings.warn("old", FutureWarning, stacklevel=1)
        return types.SimpleNamespace(images=[picture])

    monkeypatch.setattr(FakePipeline, "__call__", warn)
    status, _, err = run("retouch", photo(), photo("mask.png"))
    assert status == 0
    assert err == "photofound: warning: the mask is 6x4 but the image is 12x9; the mask was resized\n"


def test_in_a_folder_a_warning_names_its_photograph_once(run, folders, monkeypatch):
    def warn(self, picture, **inputs):
        for _ in range(2):
            warnings.warn("the mask was resized", stacklevel=1)
        warnings.warn("old", FutureWarning, stacklevel=1)
        return types.SimpleNamespace(images=[picture])

    monkeypatch.setattr(FakePipeline, "__call__", warn)
    _, _, err = run("retouch", *folders)
    names = [folders[0] / f"{name}.jpg" for name in "abc"]
    assert err.splitlines() == [f"photofound: warning: {name}: the mask was resized" for name in names]


def test_running_out_of_memory_is_one_line_too(run, photo, monkeypatch):
    def fail(self, picture, **inputs):
        raise RuntimeError("CUDA out of memory.\nTried to allocate 20.00 GiB")

    monkeypatch.setattr(FakePipeline, "__call__", fail)
    refused(run("retouch", photo(), photo("mask.png")), "CUDA out of memory. Tried")


def test_an_interrupt_ends_with_130(run, photo, monkeypatch):
    def interrupt(self, picture, **inputs):
        raise KeyboardInterrupt

    monkeypatch.setattr(FakePipeline, "__call__", interrupt)
    assert run("retouch", photo(), photo("mask.png")) == (130, "", "photofound: interrupted\n")


def test_an_input_with_a_reserved_name_or_an_unknown_kind_is_refused(run, task, monkeypatch):
    monkeypatch.setattr(Retouch, "inputs", (Input("seed", "int", "mine"),))
    refused(run("retouch", "x.png"), "'seed'", "rename")
    monkeypatch.setattr(Retouch, "inputs", (Input("mood", "emotion", "how it feels"),))
    refused(run("retouch", "x.png"), "'mood'", "'emotion'")


# ------------------------------------------------------------------------------------------------------- other commands


def test_help_and_version(run, capfd):
    for argv in ([], ["--help"], ["-h"]):
        status, out, err = run(*argv)
        assert status == 0 and err == "" and "retouch" in out and "convert" in out
    assert run("--version")[1].startswith("photofound ")
    with pytest.raises(SystemExit) as done:
        cli.main(["retouch", "--help"])
    out = capfd.readouterr().out
    assert done.value.code == 0 and "IMAGE MASK" in out and "25% of the width" in out and "--style-image" in out


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_tasks_options_and_commands(run, shell):
    pytest.importorskip("shtab")
    status, out, err = run("completion", shell)
    assert (status, err) == (0, "")
    assert all(word in out for word in ("retouch", "--style-image", "--skip-existing", "serve", "--api-key-file"))


def test_a_mask_has_one_name_whether_it_is_required_or_not():
    assert spelling(Input("mask_image", "mask", "white = repaint", required=True)) == "MASK"
    assert spelling(Input("mask_image", "mask", "white = repaint")) == "--mask MASK"
    assert spelling(Input("style_image", "image", "a picture to imitate")) == "--style-image IMAGE"


def test_tasks_lists_the_inputs(run, monkeypatch):
    monkeypatch.setattr(edit, "task_names", lambda: ["retouch"])
    status, out, err = run("tasks")
    assert (status, err) == (0, "")
    assert out.splitlines()[:2] == ["retouch: smooth 100 % of the skin", "  MASK                  white = retouch"]
    assert "  --left PX|N%          pixels or 25% of the width" in out
    assert "  --style-image IMAGE   a picture to imitate" in out


def test_a_task_that_cannot_be_imported_does_not_hide_the_others(run, task, monkeypatch):
    def get(name):
        if name == "broken":
            raise SyntaxError("invalid syntax")
        return task

    monkeypatch.setattr(edit, "task_names", lambda: ["broken", "retouch"])
    monkeypatch.setattr(edit, "get_task", get)
    status, out, err = run("tasks")
    assert (
        status == 1
        and out.startswith("retouch: ")
        and err == "photofound: task 'broken' cannot be loaded: invalid syntax\n"
    )


def test_train_passes_its_arguments_on(run, monkeypatch, tmp_path):
    seen = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").touch()
    spec = importlib.util.find_spec("photofound.training.autoencoder")  # where the names of its settings are read
    module = types.SimpleNamespace(main=lambda argv: seen.append(argv), __spec__=spec)
    monkeypatch.setitem(sys.modules, "photofound.training.autoencoder", module)
    assert run("train", "autoencoder", "--config", "c.yaml", "--train.minutes=1")[0] == 0
    assert seen == [["--config", "c.yaml", "--train.minutes=1"]]


def test_convert_gets_the_source_and_the_folder(run, monkeypatch):
    seen = []
    monkeypatch.setitem(
        sys.modules, "photofound.model.prx", types.SimpleNamespace(convert_prx=lambda *a: seen.append(a))
    )
    assert run("convert", "--from-prx", "a/b", "-o", "out") == (0, "out\n", "")
    assert seen == [("a/b", "out")]


# ------------------------------------------------------------------------------------------------------- the five tasks


@pytest.mark.parametrize(
    "line",
    [
        "outpaint IMAGE --prompt TEXT --subject MASK --save-subject",
        "outpaint IMAGE --prompt TEXT",
        "outpaint IMAGE --reference IMAGE --prompt TEXT",
        "inpaint IMAGE MASK --reference IMAGE",
        "inpaint IMAGE MASK --prompt TEXT",
        "inpaint IMAGE MASK",
        "expand IMAGE --left 20 --right 25% --top 0 --bottom 5%",
        "expand IMAGE --aspect 4:5 --prompt TEXT",
        "expand IMAGE --size 1200x800",
        "erase IMAGE MASK --grow 4",
        "upscale IMAGE --scale 4",
        "upscale IMAGE -o PATH --model DIR --device cpu --dtype auto --steps 4 --guidance 3 --seed 1 --num-images 2"
        " --format png --overwrite --quiet",
    ],
)
def test_every_documented_line_is_understood(line):
    name, *argv = line.split()
    task_parser(edit.get_task(name)).parse_args(argv)
