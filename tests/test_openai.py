"""OpenAI's images API, asked with OpenAI's own client."""

from __future__ import annotations

import base64
import io

import numpy as np
import openai
import pytest
import torch
from helpers import encoded, noise
from PIL import Image
from starlette.testclient import TestClient

from photofound import InpaintPipeline
from photofound.picture.picture import Picture
from photofound.picture.provenance import COMPOSITE, source_type
from photofound.serve.app import create_app
from photofound.serve.config import ServeConfig

PHOTO = noise(48, 64)
HOLE = np.zeros((48, 64), bool)
HOLE[10:30, 20:40] = True
MASK = np.dstack([PHOTO, np.where(HOLE, 0, 255).astype(np.uint8)])


@pytest.fixture(autouse=True)
def _limit(monkeypatch):
    monkeypatch.setenv("PHOTOFOUND_MAX_PIXELS", "1000000")


@pytest.fixture(scope="module")
def pipe(tiny_folder):
    return InpaintPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)


@pytest.fixture(scope="module")
def http(pipe):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PHOTOFOUND_MAX_PIXELS", "1000000")
        with TestClient(create_app(pipe, ServeConfig(max_pixels=1_000_000)), raise_server_exceptions=False) as http:
            yield http


@pytest.fixture
def images(http):
    return openai.OpenAI(base_url="http://testserver/v1", api_key="x", http_client=http, max_retries=0).images


def file(array, name="photo.png"):
    return name, encoded(array), "image/png"


def pixels(image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image.b64_json))))


def test_the_transparent_part_of_the_mask_is_edited_and_all_else_is_exact(images):
    answer = images.edit(image=file(PHOTO), mask=file(MASK), prompt="a plant", n=3, model="gpt-image-1", quality="high")
    made = [pixels(each) for each in answer.data]
    for each in made:
        assert (each[~HOLE] == PHOTO[~HOLE]).all() and (each[HOLE] != PHOTO[HOLE]).any()
    assert len({each.tobytes() for each in made}) == 3, "each has a seed of its own"
    assert answer.size == "64x48" and answer.output_format == "png" and answer.created > 1e9
    assert answer.model_extra["photofound"]["task"] == "inpaint"
    seed = answer.data[1].model_extra["seed"]
    again = images.edit(image=file(PHOTO), mask=file(MASK), prompt="a plant", extra_body={"seed": seed})
    assert (pixels(again.data[0]) == made[1]).all()
    assert source_type(Picture.from_any(base64.b64decode(answer.data[0].b64_json))) == COMPOSITE


def test_a_new_request_gives_a_new_picture(images):
    asked = {"image": file(PHOTO), "mask": file(MASK), "prompt": ""}
    first, second = (pixels(images.edit(**asked).data[0]) for _ in range(2))
    assert (first != second).any()


def test_a_size_makes_the_result_fit_in_its_own_shape(images):
    asked = {"image": file(PHOTO), "mask": file(MASK), "prompt": "x"}
    for size, wanted in (("auto", "64x48"), ("64x48", "64x48"), ("32x32", "32x24"), ("256x256", "256x192")):
        answer = images.edit(**asked, size=size)
        assert answer.size == wanted and pixels(answer.data[0]).shape[1::-1] == tuple(map(int, wanted.split("x")))
    answer = images.edit(image=file(PHOTO), prompt="x", model="expand", size="96x48")
    assert answer.size == "96x48" and (pixels(answer.data[0])[:, 16:80] == PHOTO).all()


def test_without_a_mask_transparency_says_what_is_edited(images):
    hole = images.edit(image=file(MASK), prompt="x")
    assert hole.model_extra["photofound"]["task"] == "inpaint"
    assert (pixels(hole.data[0])[..., :3][~HOLE] == PHOTO[~HOLE]).all()
    cut_out = np.dstack([PHOTO, np.where(HOLE, 255, 0).astype(np.uint8)])
    behind = images.edit(image=file(cut_out), prompt="x")
    assert behind.model_extra["photofound"]["task"] == "outpaint"
    assert (pixels(behind.data[0])[HOLE] == PHOTO[HOLE]).all()
    named = images.edit(image=file(PHOTO), mask=file(MASK), prompt="x", model="outpaint")
    assert (pixels(named.data[0])[~HOLE] == PHOTO[~HOLE]).all(), "the opaque part is the subject"


def test_formats_and_streams(images):
    asked = {"image": file(PHOTO), "mask": file(MASK), "prompt": "x"}
    jpeg = images.edit(**asked, output_format="jpeg", response_format="b64_json")
    assert base64.b64decode(jpeg.data[0].b64_json)[:2] == b"\xff\xd8" and jpeg.output_format == "jpeg"
    events = list(images.edit(**asked, n=2, stream=True))
    assert [each.type for each in events] == ["image_edit.completed"] * 2
    assert (pixels(events[0])[~HOLE] == PHOTO[~HOLE]).all()
    made = list(images.generate(prompt="marble", size="32x32", stream=True))
    assert [each.type for each in made] == ["image_generation.completed"] and made[0].size == "32x32"


def test_pictures_are_made_of_words_and_of_pictures(images):
    made = images.generate(prompt="marble", size="80x32", n=2, model="dall-e-3", style="vivid", user="me")
    assert [pixels(each).shape for each in made.data] == [(32, 80, 3)] * 2 and made.size == "80x32"
    assert images.generate(prompt="marble").size == "64x64", "the model's own size"
    cut_out = np.dstack([PHOTO, np.where(HOLE, 255, 0).astype(np.uint8)])
    varied = images.create_variation(image=file(cut_out), n=2)
    first, second = (pixels(each) for each in varied.data)
    assert (first[HOLE] == PHOTO[HOLE]).all() and (second[HOLE] == PHOTO[HOLE]).all() and (first != second).any()


@pytest.mark.parametrize(
    ("changed", "param", "words"),
    [
        ({"mask": None}, "mask", "model='outpaint'"),
        ({"mask": file(PHOTO)}, "mask", "has no transparency"),
        ({"mask": file(np.dstack([PHOTO, np.full_like(PHOTO[..., 0], 255)]))}, "mask", "is opaque all over"),
        ({"mask": file(MASK[:, 20:40])}, None, "mask is 20x48"),
        ({"image": ("x.png", b"nonsense")}, "image", "not an image"),
        ({"image": [file(PHOTO)] * 3}, "image", "at most one reference"),
        ({"image": [file(PHOTO)] * 2}, "reference", "takes no reference image"),
        ({"n": 11}, "n", "less than or equal to 10"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"size": "large"}, "size", "match pattern"),
        ({"response_format": "url"}, "response_format", "b64_json"),
        ({"output_format": "svg"}, "output_format", "'png', 'jpeg' or 'webp'"),
        ({"model": "upscale"}, "mask", "upscale takes none"),
    ],
)
def test_a_mistake_is_a_bad_request_in_the_clients_own_form(images, changed, param, words):
    asked = {"image": file(PHOTO), "mask": file(MASK), "prompt": "x"} | changed
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        images.edit(**{name: value for name, value in asked.items() if value is not None})
    assert caught.value.param == param and caught.value.type == "invalid_request_error"


def test_refusals_have_the_clients_form_too(pipe, images, http):
    with pytest.raises(openai.APIStatusError, match="too many at once") as caught:
        images.generate(prompt="x", size="1000x1000", n=4)
    assert caught.value.status_code == 413
    with pytest.raises(openai.BadRequestError) as caught:
        images.generate(prompt=" ")
    assert caught.value.param == "prompt"
    assert http.post("/v1/images/edits", content=b"{}").json()["error"]["param"] == "image"
    assert http.post("/v1/images/nothing").json()["error"]["code"] == "not_found"
    config = ServeConfig(keys=("secret",), max_bytes=5_000, max_pixels=1_000_000)
    with TestClient(create_app(pipe, config), raise_server_exceptions=False) as guarded:

        def client(key):
            return openai.OpenAI(base_url="http://testserver/v1", api_key=key, http_client=guarded, max_retries=0)

        with pytest.raises(openai.AuthenticationError, match="send an API key"):
            client("x").images.generate(prompt="marble", size="32x32")
        with pytest.raises(openai.APIStatusError, match="larger than") as caught:
            client("secret").images.edit(image=file(PHOTO), mask=file(MASK), prompt="x")
        assert caught.value.status_code == 413
        assert client("secret").images.generate(prompt="marble", size="32x32").size == "32x32"


def test_the_models_are_the_served_one_and_the_tasks(http):
    models = openai.OpenAI(base_url="http://testserver/v1", api_key="x", http_client=http).models
    names = [each.id for each in models.list()]
    assert names[0] == "tiny0" and {"inpaint", "outpaint", "generate"} <= set(names)
    assert models.retrieve("inpaint").owned_by == "photofound"
    with pytest.raises(openai.NotFoundError, match="'gpt-5' is not served"):
        models.retrieve("gpt-5")


def test_metrics_name_the_address_the_task_and_the_model(images, http):
    images.edit(image=file(PHOTO), mask=file(MASK), prompt="x")
    figures = http.get("/metrics").text
    assert 'photofound_requests_total{model="tiny0",status="200",task="images/edits"}' in figures
    assert 'photofound_edit_seconds_count{model="tiny0",task="inpaint"}' in figures
