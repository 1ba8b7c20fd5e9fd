"""Segmenters by name, and the same choice in every entry: Python, command line, server, demo, ComfyUI, training."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import encoded, load_pipeline
from PIL import Image

from photofound import CutoutPipeline, OutpaintPipeline, cli, segmenters
from photofound.edits.inputs import SUBJECT_INPUTS
from photofound.edits.segmenter import Search
from photofound.edits.task import get_task

PICTURE = np.full((48, 64, 3), 230, np.uint8)
PICTURE[12:36, 20:44] = (180, 40, 30)
TRUTH = PICTURE[..., 1] < 100
FUNCTION = """
def reds(picture, text="", points=()):
    if text == "nothing":
        return picture[..., 0] < 0
    if points:
        assert len(points) == 2 and not points[1].inside
    return picture[..., 1] < 100
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """``mine:reds``, a function of the current folder."""
    (tmp_path / "mine.py").write_text(FUNCTION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    segmenters._load.cache_clear()
    yield "mine:reds"
    segmenters._load.cache_clear()


@pytest.fixture(scope="module")
def pipe(tiny_folder):
    return load_pipeline(OutpaintPipeline, tiny_folder)


@pytest.fixture(scope="module")
def cutter(tiny_folder):
    return load_pipeline(CutoutPipeline, tiny_folder)


def test_names(mine, tmp_path):
    assert segmenters.load("grabcut").name == "grabcut" and segmenters.load(" grabcut ") is segmenters.load("grabcut")
    assert (Search(segmenters.load(mine))(PICTURE / np.float32(255)) == TRUTH).all()
    assert segmenters.is_function(mine) and not segmenters.is_function("rembg:u2net")
    assert not segmenters.is_function("nobg:a/b") and not segmenters.is_function("a/b")
    (tmp_path / "a:b").mkdir()
    assert not segmenters.is_function("a:b"), "a folder"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("magic", "segmenter: 'magic' is unknown; give cutout, grabcut, rembg, nobg, a model's folder or Hub id, or"),
        ("/no/such/folder", "segmenter: '/no/such/folder' is unknown"),
        ("nobody/nothing", "segmenter: nobody/nothing is unknown: not on this machine"),
        ("mine:blues", "segmenter: 'mine:blues' is no module:function that can be imported"),
        ("not.there:f", "segmenter: 'not.there:f' is no module:function"),
    ],
)
def test_unknown_names(mine, name, wrong):
    with pytest.raises(ValueError, match=wrong) as caught:
        segmenters.load(name)
    assert "\n" not in str(caught.value)


def test_rembg(monkeypatch):
    segmenters._load.cache_clear()
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(
        ValueError, match=r"segmenter: rembg needs rembg, which is missing; pip install 'photofound\[re"
    ):
        segmenters.load("rembg")

    def new_session(model):
        if model == "magic":
            raise ValueError("No session class found\nfor model 'magic'")
        return model

    def remove(picture, session, only_mask):
        assert session == "isnet-general-use" and only_mask and picture.dtype == np.uint8
        return np.where(picture[..., 1] < 100, 255, 0).astype(np.uint8)

    module = ModuleType("rembg")
    module.new_session, module.remove = new_session, remove
    monkeypatch.setitem(sys.modules, "rembg", module)
    segmenter = segmenters.load("rembg")
    assert segmenter.fine and (Search(segmenter)(PICTURE / np.float32(255)) == TRUTH).all()
    with pytest.raises(ValueError, match="segmenter: rembg cannot load 'magic' .No session class found for model"):
        segmenters.load("rembg:magic")
    segmenters._load.cache_clear()


def test_the_tasks_that_find_a_subject_ask_for_it(pipe):
    for name in ("outpaint", "cutout"):
        assert get_task(name).inputs[-3:] == SUBJECT_INPUTS
    assert "segmenter: what finds the subject" in OutpaintPipeline.__call__.__doc__
    assert "subject_points" in CutoutPipeline.__call__.__doc__


def test_in_python_by_name_or_function(pipe, cutter, mine):
    def everything_red(picture):
        return (picture[..., 1] < 100).astype(float)

    for given in (mine, everything_red):
        made = pipe(PICTURE, segmenter=given, generator=0)
        assert (made.keep == TRUTH).all() and (np.asarray(made.images[0])[TRUTH] == PICTURE[TRUTH]).all()
        cut = np.asarray(cutter(PICTURE, segmenter=given).images[0])
        assert (cut[..., 3] == 255 * TRUTH).all(), "its matte is used as it is"
    with pytest.raises(ValueError, match="segmenter: mine:reds found no 'nothing' in the picture"):
        pipe(PICTURE, segmenter=mine, subject_text="nothing")
    with pytest.raises(ValueError, match="segmenter: 3 is neither a name nor a function"):
        pipe(PICTURE, segmenter=3)
    with pytest.raises(ValueError, match="subject_text: grabcut takes no words"):
        pipe(PICTURE, segmenter="grabcut", subject_text="cup")


def test_points_in_python(pipe, mine):
    points = [(32, 24), (2, 2, False)]
    for given in (points, np.array([[32, 24, 1], [2, 2, 0]]), "32,24 2,2,0"):
        assert (pipe(PICTURE, segmenter=mine, subject_points=given, generator=0).keep == TRUTH).all()
    both = pipe([PICTURE, PICTURE], segmenter=mine, subject_points=[points, points], generator=[0, 1])
    assert len(both.images) == 2
    with pytest.raises(ValueError, match="subject_points: 99,24 lies outside the picture, which is 64x48"):
        pipe(PICTURE, segmenter=mine, subject_points=(99, 24))


def test_the_head_and_grabcut(pipe, cutter, monkeypatch):
    monkeypatch.setattr(type(pipe), "has_cutout", True)
    assert pipe.search().segmenter.name == "cutout", "the model's own"
    assert pipe.search("grabcut").segmenter.name == "grabcut" and not pipe.search("grabcut").fine
    assert np.asarray(cutter(PICTURE, segmenter="grabcut").images[0])[24, 32, 3] == 255


def test_a_model_without_a_head_says_so(pipe, monkeypatch):
    monkeypatch.setattr(type(pipe), "has_cutout", False)
    assert pipe.search().segmenter.name == "grabcut"
    with pytest.raises(ValueError, match="segmenter: this model has no head that cuts out; leave the option out"):
        pipe.search("cutout")


def run(*argv):
    return cli.main([str(each) for each in argv])


@pytest.mark.slow
def test_on_the_command_line(tmp_path, tiny_folder, mine, capsys):
    Image.fromarray(PICTURE).save(tmp_path / "cup.png")
    model = ("--model", tiny_folder, "--quiet")
    told = ("--segmenter", mine, "--subject-points", "32,24 5%,5%,0")
    assert run("cutout", "cup.png", *told, "-o", "cut.png", *model) == 0
    assert (np.asarray(Image.open("cut.png"))[..., 3] == 255 * TRUTH).all()
    assert run("outpaint", "cup.png", *told, "--save-subject", "-o", "out.png", *model) == 0
    assert (np.asarray(Image.open("out-subject.png").convert("L")) == 255 * TRUTH).all()
    capsys.readouterr()
    for wrong, line in (
        (("--segmenter", "magic"), "segmenter: 'magic' is unknown"),
        (("--segmenter", mine, "--subject-text", "nothing"), "segmenter: mine:reds found no 'nothing'"),
        (("--subject-points", "1"), "--subject-points: '1' is not points like 320,240"),
        (("--segmenter", "grabcut", "--subject-text", "cup"), "subject_text: grabcut takes no words"),
    ):
        assert run("outpaint", "cup.png", *wrong, "-o", "wrong.png", *model) == 2
        error = capsys.readouterr().err
        assert line in error and len(error.strip().splitlines()) == 1, error


@pytest.mark.slow
def test_a_bad_segmenter_is_one_error_for_a_whole_folder(tmp_path, tiny_folder, mine, capsys):
    (tmp_path / "cups").mkdir()
    for name in "abc":
        Image.fromarray(PICTURE).save(tmp_path / "cups" / f"{name}.png")
    assert run("cutout", "cups", "--segmenter", "magic", "--model", tiny_folder, "--quiet") == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_servers_owner_decides(pipe, mine, monkeypatch):
    from starlette.testclient import TestClient

    from photofound.serve.app import create_app
    from photofound.serve.config import ServeConfig

    monkeypatch.setenv("PHOTOFOUND_MAX_PIXELS", "1000000")
    form = {"files": {"image": ("cup.png", encoded(PICTURE), "image/png")}}
    with TestClient(create_app(pipe)) as client:
        for refused in (mine, "nobody/nothing", "rembg"):
            answer = client.post("/v1/cutout", **form, data={"segmenter": refused})
            assert answer.status_code == 422 and "segmenter" in answer.json()["detail"]
        assert client.post("/v1/cutout", **form, data={"segmenter": "grabcut"}).status_code == 200
    with TestClient(create_app(pipe, ServeConfig(segmenters=(mine,)))) as client:
        told = {"segmenter": mine, "subject_points": "32,24 2,2,0", "format": "png"}
        answer = client.post("/v1/cutout", **form, data=told)
        assert answer.status_code == 200, answer.text
        nothing = client.post("/v1/cutout", **form, data={"segmenter": mine, "subject_text": "nothing"})
        assert nothing.status_code == 422 and "found no 'nothing'" in nothing.json()["detail"]


@pytest.mark.slow
def test_the_demo_offers_what_it_was_started_with(tmp_path, tiny_folder, mine):
    from photofound.demos.studio import Form, Models, Studio

    work = Studio(tmp_path / "desks", Models(str(tiny_folder), segmenters=[mine]))
    Image.fromarray(PICTURE).save(tmp_path / "cup.png")
    task = get_task("outpaint")
    desk = work.cut_out(work.open(tmp_path / "cup.png"), task)
    told = {"segmenter": mine, "subject_points": "32,24 2,2,0"}
    assert (work.prepare(desk, task, told).keep == TRUTH).all()
    with pytest.raises(ValueError, match="segmenter: 'nobody/nothing' is not offered here"):
        work.prepare(desk, task, {"segmenter": "nobody/nothing"})
    with pytest.raises(ValueError, match="segmenter: 'nobody/nothing' is not offered here"):
        work.run(desk, Form("outpaint", {"segmenter": "nobody/nothing"}))
    made, _, _ = work.run(desk, Form("cutout", {"segmenter": mine}))
    assert (made.shots[-1].photo.picture.pixels[..., 3] == 255 * TRUTH).all()


def test_the_page_shows_it_only_then(mine):
    from photofound.demos import offers

    for offered in ([], [mine]):
        fields = {each["name"]: each for each in offers.described(get_task("cutout"), offered)["fields"]}
        assert [each.name in fields for each in SUBJECT_INPUTS] == [bool(offered)] * 3
    assert fields["segmenter"]["choices"] == [mine]


@pytest.mark.slow
def test_in_comfyui_models_are_named_and_code_is_not(pipe, mine):
    from photofound.demos import comfyui

    node = comfyui.NODE_CLASS_MAPPINGS["PhotofoundCutout"]
    declared = node.INPUT_TYPES()
    assert {each.name for each in SUBJECT_INPUTS} <= set(declared["optional"]) and "segmenter" not in declared[
        "required"
    ]
    image = torch.from_numpy(PICTURE / np.float32(255))[None]
    cut, _, mask = node().edit(pipe, image, segmenter="grabcut", subject_text="", subject_points="")
    assert cut.shape == (1, 48, 64, 4) and mask.shape == (1, 48, 64)
    with pytest.raises(ValueError, match="segmenter: 'mine:reds' is code, and workflows may come from strangers"):
        node().edit(pipe, image, segmenter=mine)


def test_mattes_to_train_on_come_from_segmenters_too(monkeypatch):
    from photofound.train import annotate

    seen = SimpleNamespace(name="a/b", find=lambda picture, **_: picture[..., 1] < 100, takes=(), outline=0, fine=True)
    monkeypatch.setattr(segmenters, "load", lambda name, device="cpu": seen)
    matte = annotate.cut_out("a/b", PICTURE)
    assert matte is not None and ((matte > 127) == TRUTH).mean() > 0.99
    assert annotate.cut_out("a/b", np.full_like(PICTURE, 230)) is None
