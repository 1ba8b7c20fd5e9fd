"""Segmentation models of transformers: each family, tiny and with random weights, from its folder to a matte."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import tiny_segmenters
import torch
from helpers import noise

from photofound.edits.segmenter import Point
from photofound.model import segmentation
from photofound.model.segmentation import Frame, load

PICTURE = noise(60, 90)
RED = np.full((60, 90, 3), 230, np.uint8)
RED[15:45, 30:70] = (200, 30, 30)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of models, made when they are asked for."""
    root = tmp_path_factory.mktemp("segmenters")

    def folder(name):
        if not (root / name).is_dir():
            (root / name).mkdir()
            getattr(tiny_segmenters, name)(root / name)
        return str(root / name)

    return folder


@pytest.mark.parametrize(
    ("name", "takes", "told"),
    [
        ("segformer", {"text", "points"}, {"text": "some shoes"}),
        ("segformer", {"text", "points"}, {"points": [Point(40, 30)]}),
        ("mask2former", {"text", "points"}, {}),
        ("oneformer", {"text", "points"}, {"text": "bag"}),
        ("sam", {"points"}, {"points": [Point(40, 30), Point(2, 2, False)]}),
        ("sam", {"points"}, {}),
        ("sam2", {"points"}, {"points": [Point(40, 30)]}),
        ("sam2", {"points"}, {}),
        ("clipseg", {"text"}, {"text": "the left shoe"}),
        ("sam3", {"text"}, {"text": "the left shoe"}),
    ],
)
def test_each_family_gives_a_matte_of_the_pictures_size(folders, name, takes, told):
    segmenter = load(folders(name))
    assert segmenter.takes == takes and segmenter.name == folders(name) and not segmenter.fine
    matte, again = segmenter.find(PICTURE, **told), segmenter.find(PICTURE, **told)
    assert matte.shape == (60, 90) and matte.dtype == np.float32 and (matte == again).all()
    assert 0 <= matte.min() and matte.max() <= 1


def test_points_and_words_change_what_is_found(folders):
    sam = load(folders("sam2")).find
    assert (sam(PICTURE, points=[Point(5, 5)]) != sam(PICTURE, points=[Point(80, 50)])).any()
    clipseg = load(folders("clipseg")).find
    assert (clipseg(PICTURE, text="shoe") != clipseg(PICTURE, text="bag")).any()
    former = load(folders("segformer")).find
    assert (former(PICTURE, text="shoe") != former(PICTURE, text="a wall")).any()


def answering(segmenter, answer):
    """The segmenter, with a network that sees red where its picture is red."""
    find = segmenter.find

    def network(pixel_values, **inputs):
        assert pixel_values.shape[1] == 3
        red = (pixel_values[:, 0] > pixel_values[:, 1] + 0.5).float()
        return SimpleNamespace(**answer(red, inputs))

    network.config, network.device = find.network.config, torch.device("cpu")
    find.network = network
    return find


SURE = 12.0  # of a logit


def classes(red, inputs):
    return {"logits": torch.stack([SURE * (1 - red), SURE * red, torch.zeros_like(red)], 1)}


def objects(red, inputs):
    scores = torch.tensor([[[SURE, 0, 0, 0], [0, SURE, 0, 0], [0, 0, 0, SURE]]])  # a wall, a shoe, nothing
    maps = torch.stack([SURE * (1 - 2 * red), SURE * (2 * red - 1), SURE * torch.ones_like(red)], 1)
    return {"class_queries_logits": scores, "masks_queries_logits": maps}


def prompted(red, inputs):
    maps = torch.stack([-SURE * torch.ones_like(red), SURE * (2 * red - 1)], 1)[:, None]
    return {"pred_masks": maps[..., ::2, ::2], "iou_scores": torch.tensor([[[0.1, 0.9]]])}


@pytest.mark.parametrize(
    ("name", "answer", "told"),
    [
        ("segformer", classes, {}),
        ("segformer", classes, {"text": "shoe"}),
        ("segformer", classes, {"points": [Point(50, 30), Point(2, 2, False)]}),
        ("mask2former", objects, {}),
        ("mask2former", objects, {"text": "two shoes"}),
        ("sam", prompted, {}),
        ("sam2", prompted, {"points": [Point(50, 30)]}),
    ],
)
def test_what_the_network_sees_lies_where_the_picture_has_it(folders, name, answer, told):
    matte = answering(load(folders(name)), answer)(RED, **told)
    truth = RED[..., 1] < 100
    assert ((matte > 0.5) & truth).sum() / ((matte > 0.5) | truth).sum() > 0.9
    assert matte.max() > 0.95 and matte.min() < 0.05


def test_prompts_lie_where_the_picture_has_them(folders):
    asked = {}

    def answer(red, inputs):
        asked.update(inputs)
        return prompted(red, inputs)

    find = answering(load(folders("sam")), answer)
    find(RED, points=[Point(45, 30), Point(9, 3, False)])
    assert asked["input_points"].tolist() == [
        [[[32.0, pytest.approx(21.5)], [pytest.approx(6.4), pytest.approx(2.15)]]]
    ]
    assert asked["input_labels"].tolist() == [[[1, 0]]] and asked["multimask_output"]
    asked.clear()
    find(RED)
    assert np.allclose(asked["input_boxes"][0, 0], np.array([30, 15, 70, 45]) * 64 / 90, atol=1.5)
    assert not asked["multimask_output"] and "input_points" not in asked


def test_a_frame_is_what_the_models_own_processor_makes(folders):
    """Where that does without torchvision."""
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
    from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

    for name, processor in (("sam", SamImageProcessorPil), ("segformer", SegformerImageProcessorPil)):
        folder = folders(name)
        settings = json.loads(open(f"{folder}/preprocessor_config.json").read())
        wanted = processor(**settings)(RED, return_tensors="pt")["pixel_values"]
        found = Frame.read(folder, SimpleNamespace()).tensor(RED)
        assert found.shape == wanted.shape and (found - wanted).abs().mean() < 0.02, name


def test_frames_of_all_kinds(tmp_path):
    def frame(given, **config):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
        return Frame.read(str(tmp_path), SimpleNamespace(**config))

    assert frame({}, image_size=48).extent((60, 90)) == (48, 48)
    assert frame({"size": 32}).extent((60, 90)) == (32, 32)
    assert frame({"size": {"shortest_edge": 64, "longest_edge": 96}}).extent((60, 90)) == (64, 96)
    padded = frame({"size": {"longest_edge": 45}, "pad_size": {"height": 48, "width": 48}})
    assert padded.extent((60, 90)) == (30, 45) and padded.tensor(RED).shape == (1, 3, 48, 48)
    square = frame({"size": {"shortest_edge": 64, "longest_edge": 64}, "do_pad": True}, image_size=64)
    assert square.tensor(RED).shape == (1, 3, 64, 64)
    plain = frame({"size": 32, "do_normalize": False, "do_flip_channel_order": True}).tensor(RED)
    assert plain.min() >= 0 and plain.max() <= 1 and plain[0, 2, 16, 16] > plain[0, 0, 16, 16]


def test_nothing_is_found_by_a_model_that_sees_nothing(folders):
    def nothing(red, inputs):
        scores = torch.tensor([[[0.0, 0, 0, SURE]]])
        return {"class_queries_logits": scores, "masks_queries_logits": torch.zeros(1, 1, 8, 8)}

    assert not answering(load(folders("mask2former")), nothing)(RED).any()
    assert not load(folders("sam3")).find(RED, text="shoe").any(), "no object is likely enough"


def test_models_that_want_words_say_so(folders):
    for name in ("clipseg", "sam3"):
        with pytest.raises(ValueError, match="wants words; say what the subject is with subject_text"):
            load(folders(name)).find(RED)
    with pytest.raises(ValueError, match="'a cup' names none of this model's 3 classes .wall, shoe, hand bag"):
        load(folders("segformer")).find(RED, text="a cup")


def test_what_is_no_segmentation_model_is_refused_in_one_line(tmp_path, folders):
    def refused(source):
        with pytest.raises(ValueError, match="^segmenter: ") as caught:
            load(str(source))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "it has no config.json" in refused(tmp_path)
    assert "nobody/nothing is unknown: not on this machine" in refused("nobody/nothing")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "is a bert, which segments nothing" in refused(tmp_path)
    own = {"model_type": "birefnet", "auto_map": {"AutoConfig": "birefnet.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    (tmp_path / "birefnet.py").write_text("raise SystemExit('this was run')")
    assert f"wants to run code of its own, which is never done; for a BiRefNet try nobg:{tmp_path}" in refused(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "is a pickle, which may run code" in refused(tmp_path)


def test_only_safetensors_are_read(tmp_path, folders):
    config = open(f"{folders('segformer')}/config.json").read()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match="segmenter: .* cannot be loaded"):
        load(str(tmp_path))


class BiRefNet:
    """In the place of nobg's, which needs torchvision."""

    config = SimpleNamespace(image_size=32)

    @classmethod
    def from_pretrained(cls, source):
        return cls()

    def to(self, device):
        return self

    def eval(self):
        return self

    def __call__(self, x):
        return {"logits": SURE * (x[:, :1] - x[:, 1:2] - 1)}


def test_matting_models_of_nobg(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "nobg", None)
    with pytest.raises(ValueError, match="segmenter: nobg needs nobg, which is missing; pip install nobg torchvision"):
        segmentation.load_nobg(str(tmp_path))
    module = ModuleType("nobg")
    module.BiRefNet = BiRefNet
    monkeypatch.setitem(sys.modules, "nobg", module)
    segmenter = segmentation.load_nobg(str(tmp_path))
    matte = segmenter.find(RED)
    assert segmenter.fine and not segmenter.takes and (matte[20:40, 35:65] > 0.9).all() and matte[:5].max() < 0.1
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="is a pickle"):
        segmentation.load_nobg(str(tmp_path))
    with pytest.raises(ValueError, match="segmenter: nobg:nobody/nothing "):
        segmentation.load_nobg("nobody/nothing")
