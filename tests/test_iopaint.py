"""IOPaint's address, asked as its clients ask: all fields of its request, with its defaults."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from helpers import encoded, noise
from PIL import Image
from starlette.testclient import TestClient

from photofound import InpaintPipeline
from photofound.serve.app import create_app

PHOTO = noise(48, 64)
HOLE = np.zeros((48, 64), np.uint8)
HOLE[10:30, 20:40] = 255


def base64_of(array) -> str:
    return base64.b64encode(encoded(array)).decode()


# What IOPaint's own page sends for an erase.
REQUEST = {
    "image": base64_of(PHOTO),
    "mask": "data:image/png;base64," + base64_of(HOLE),
    "ldm_steps": 30,
    "ldm_sampler": "ddim",
    "zits_wireframe": True,
    "cv2_flag": "INPAINT_NS",
    "cv2_radius": 5,
    "hd_strategy": "Crop",
    "hd_strategy_crop_trigger_size": 640,
    "hd_strategy_crop_margin": 128,
    "hd_strategy_resize_limit": 1280,
    "prompt": "",
    "negative_prompt": "",
    "use_croper": False,
    "croper_x": 0,
    "croper_y": 0,
    "croper_height": 512,
    "croper_width": 512,
    "use_extender": False,
    "extender_x": 0,
    "extender_y": 0,
    "extender_height": 512,
    "extender_width": 512,
    "sd_mask_blur": 12,
    "sd_strength": 1.0,
    "sd_steps": 50,
    "sd_guidance_scale": 7.5,
    "sd_sampler": "DPM++ 2M",
    "sd_seed": 42,
    "sd_match_histograms": False,
    "sd_keep_unmasked_area": True,
    "enable_controlnet": False,
    "controlnet_conditioning_scale": 0.4,
    "controlnet_method": "",
    "enable_brushnet": False,
    "enable_powerpaint_v2": False,
    "powerpaint_task": "text-guided",
}


@pytest.fixture(scope="module")
def client(tiny_folder):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PHOTOFOUND_MAX_PIXELS", "1000000")
        pipe = InpaintPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
        with TestClient(create_app(pipe), raise_server_exceptions=False) as client:
            yield client


def ask(client, **changes):
    answer = client.post("/api/v1/inpaint", json=REQUEST | changes)
    assert answer.status_code == 200, answer.text
    return answer, np.asarray(Image.open(io.BytesIO(answer.content)))


@pytest.mark.parametrize("prompt", ["", "a plant"])
def test_what_is_white_is_repainted_and_all_else_is_exact(client, prompt):
    answer, made = ask(client, prompt=prompt)
    assert answer.headers["content-type"] == "image/png" and answer.headers["x-seed"] == "42"
    assert (made[HOLE == 0] == PHOTO[HOLE == 0]).all() and (made[HOLE > 0] != PHOTO[HOLE > 0]).any()
    assert (ask(client, prompt=prompt)[1] == made).all()
    assert answer.headers["content-disposition"] == f'inline; filename="{"inpaint" if prompt else "erase"}.png"'


def test_minus_one_draws_a_seed_and_says_which(client):
    answer, made = ask(client, sd_seed=-1)
    assert (ask(client, sd_seed=int(answer.headers["x-seed"]))[1] == made).all()


def test_a_crop_bounds_the_mask(client):
    _, made = ask(client, use_croper=True, croper_x=24, croper_y=12, croper_width=6, croper_height=4)
    changed = (made != PHOTO).any(-1)
    assert changed.any() and not changed[:12].any() and not changed[16:].any() and not changed[:, 30:].any()


def test_the_extender_expands(client):
    box = {"extender_x": -8, "extender_y": 0, "extender_width": 80, "extender_height": 48}
    _, made = ask(client, mask=None, use_extender=True, **box)
    assert made.shape == (48, 80, 3) and (made[:, 8:72] == PHOTO).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": "???"}, "image: is no base64"),
        ({"image": base64.b64encode(b"nonsense").decode()}, "not an image"),
        ({"mask": None}, "mask: is missing"),
        ({"mask": base64_of(HOLE[:, :20])}, "mask: is 20x48, and the image 64x48"),
        ({"mask": base64_of(HOLE * 0)}, "mask is empty"),
        ({"use_extender": True, "extender_width": 10}, "must hold the whole picture"),
        ({"sd_seed": "x"}, "sd_seed"),
    ],
)
def test_a_mistake_is_one_sentence_where_clients_look_for_it(client, changes, words):
    answer = client.post("/api/v1/inpaint", json=REQUEST | changes)
    assert answer.status_code == 422 and words in answer.json()["errors"] and words in answer.json()["detail"]
