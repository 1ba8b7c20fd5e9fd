"""The embedded model: small enough, whole, safe, and its seams do not show."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from photofound import InpaintPipeline
from photofound.edits.task import get_task, task_names
from photofound.eval import metrics
from photofound.model.folder import check_folder
from photofound.pipeline import EMBEDDED

MB = 1_000_000


@pytest.fixture(scope="module")
def pipe():
    pipe = InpaintPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_weights_are_small_and_safe():
    check_folder(EMBEDDED)
    files = [p for p in EMBEDDED.rglob("*") if p.is_file()]
    shards = [p for p in files if p.suffix == ".safetensors"]
    assert shards and sum(p.stat().st_size for p in files) <= 48 * MB
    assert all(p.stat().st_size <= 15 * MB for p in shards)
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".md", ".yaml", ".jpg"}


def test_it_knows_the_five_tasks(pipe):
    for name in ("outpaint", "inpaint", "expand", "erase", "upscale"):
        assert name in task_names() and pipe.transformer.task_index(name) > 0


@pytest.mark.slow
def test_bfloat16_and_float32_agree(pipe):
    """What is fast must look like what is exact."""
    from skimage import data

    photo = data.astronaut()[:160, :160]
    mask = np.zeros((160, 160), np.float32)
    mask[60:90, 60:90] = 1
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        twin = InpaintPipeline.from_pretrained(torch_dtype=dtype)
        twin.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        results.append(np.asarray(twin(photo, mask, generator=generator).images[0], np.float32) / 255)
    assert metrics.psnr(*results, where=mask > 0) > 25


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coffee", "astronaut", "cat", "rocket"])
def test_seams_do_not_show(pipe, name):
    """The mean colour step across the hole's border is at most that of the untouched photograph plus 2/255."""
    from skimage import data

    photo = np.ascontiguousarray(getattr(data, name)()[:288, :288])
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[110:170, 90:180] = 255
    generator = torch.Generator().manual_seed(0)
    result = np.asarray(pipe(photo, mask_image=mask, generator=generator).images[0])
    before, after = (metrics.seam_step(p.astype(np.float32) / 255, mask) for p in (photo, result))
    assert after <= before + 2 / 255
    assert (result[mask == 0] == photo[mask == 0]).all() and (result[mask > 0] != photo[mask > 0]).any()


@pytest.mark.slow
def test_the_model_paints_and_does_not_only_blur(pipe):
    """Other noise, other pixels: a model that had collapsed onto its canvas would paint the same twice."""
    from skimage import data

    photo = data.astronaut()[:192, :192]
    mask = np.zeros((192, 192), np.uint8)
    mask[50:140, 50:140] = 255
    a, b = (
        np.asarray(pipe(photo, mask, generator=torch.Generator().manual_seed(s)).images[0], np.float32) for s in (0, 1)
    )
    assert np.abs(a - b)[mask > 0].mean() > 1


def test_the_card_tells_what_the_model_is():
    card = (EMBEDDED / "README.md").read_text()
    config = json.loads((EMBEDDED / "transformer" / "config.json").read_text())
    for word in ("license: apache-2.0", "parameters", "licence", "limits", *config["tasks"][1:]):
        assert word.lower() in card.lower(), word
    assert isinstance(get_task("inpaint").name, str) and Path(EMBEDDED).name == "nano"
