"""A model folder of an earlier version loads for ever, and gives the same pixels: see tests/frozen/README.md."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import load_pipeline, seeded
from PIL import Image

from photofound import EditPipeline, InpaintPipeline, OutpaintPipeline, UpscalePipeline
from photofound.edits import exemplar

FROZEN = Path(__file__).parent / "frozen"
TOLERANCE = 3  # of 255: processors round sums of floats in different orders


def photo(height: int, width: int) -> np.ndarray:
    """Ramps to the right, downwards and along the diagonal, by whole numbers alone: the same on every machine."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) % 64 * 4], -1).astype(np.uint8)


def box() -> np.ndarray:
    """(64, 80) uint8, white in the middle."""
    mask = np.zeros((64, 80), np.uint8)
    mask[16:48, 24:64] = 255
    return mask


EDITS = {
    "inpaint": (InpaintPipeline, photo(64, 80), {"mask_image": box(), "prompt": "a cup"}),
    "outpaint": (OutpaintPipeline, photo(64, 80), {"subject": 255 - box(), "prompt": "on sand"}),
    "upscale": (UpscalePipeline, photo(24, 32), {"scale": 2}),
    "upscale_steps": (UpscalePipeline, photo(24, 32), {"scale": 2, "num_inference_steps": 2}),
}


@pytest.mark.parametrize("name", EDITS)
def test_it_gives_the_pixels_that_it_gave(name):
    pipeline, given, inputs = EDITS[name]
    result = load_pipeline(pipeline, FROZEN / "model")(given, generator=seeded(), **inputs).images[0]
    expected = np.asarray(Image.open(FROZEN / "pixels" / f"{name}.png")).astype(int)
    assert result.size == expected.shape[1::-1]
    assert np.abs(np.asarray(result) - expected).max() <= TOLERANCE
    if name.endswith("paint"):
        assert (np.asarray(result)[box() == 0] == given[box() == 0]).all()


def test_it_is_saved_again_under_the_same_names(tmp_path):
    load_pipeline(EditPipeline, FROZEN / "model").save_pretrained(tmp_path)
    before, after = (json.loads((folder / "model_index.json").read_text()) for folder in (FROZEN / "model", tmp_path))
    assert {name: after[name] for name in before if name != "_diffusers_version"} == {
        name: value for name, value in before.items() if name != "_diffusers_version"
    }


def test_exemplars_are_searched_while_the_model_works(monkeypatch):
    """On a thread of their own, with the same pixels (as the frozen ones above say)."""
    pipe, order = load_pipeline(InpaintPipeline, FROZEN / "model"), []
    search, sample, started = exemplar.canvas, type(pipe).sample, threading.Event()

    def slow(*args, **kwargs):
        assert started.wait(30)  # it would wait for ever, if the model waited for it
        order.append("exemplar")
        return search(*args, **kwargs)

    def sampled(*args, **kwargs):
        made = sample(*args, **kwargs)
        order.append("model")
        started.set()
        return made

    monkeypatch.setattr(exemplar, "canvas", slow)
    monkeypatch.setattr(type(pipe), "sample", sampled)
    pipe(photo(64, 80), box(), generator=seeded())
    assert order == ["model", "exemplar"]
