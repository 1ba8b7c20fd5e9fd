"""The server: every task over HTTP, batches that change no pixel, limits, and a clear answer to every mistake."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
import zipfile
from collections import Counter
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import schemathesis
import torch
import uvicorn
from helpers import encoded, extra_tasks, free_port, serve, wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import data, dictionaries, integers, one_of, sampled_from, text
from PIL import Image, ImageCms
from schemathesis import GenerationMode, checks
from starlette.testclient import TestClient

from photofound import InpaintPipeline, Picture, cli, image, provenance
from photofound.cli import serve as cli_serve
from photofound.edits.request import Request as EditRequest
from photofound.edits.task import get_task
from photofound.picture.provenance import COMPOSITE, source_type
from photofound.serve import codec, connections, gate, keys, queue
from photofound.serve.app import create_app
from photofound.serve.config import ServeConfig
from photofound.serve.endpoint import CLIENT_CLOSED
from photofound.serve.openapi import ERRORS
from photofound.serve.queue import Busy, EditQueue

PHOTO = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
MASK = np.zeros((64, 64), np.uint8)
MASK[20:40, 30:60] = 255
FILES = {"image": ("photo.png", encoded(PHOTO), "image/png"), "mask": ("mask.png", encoded(MASK), "image/png")}
MODEL = 'model="tiny0"'  # the label of the metrics: the name of the model's folder
# The least that each task wants besides the photograph.
NEEDS: dict[str, dict] = {
    "inpaint": {"files": FILES},
    "erase": {"files": FILES},
    "outpaint": {"files": {"image": FILES["image"], "subject": FILES["mask"]}},
    "expand": {"files": {"image": FILES["image"]}, "data": {"left": "25%"}},
    "upscale": {"files": {"image": FILES["image"]}},
}


@pytest.fixture(autouse=True)
def _limit(monkeypatch):
    monkeypatch.setenv("PHOTOFOUND_MAX_PIXELS", "1000000")  # create_app sets it for the process: put back afterwards


@pytest.fixture(scope="module")
def pipe(tiny_folder):
    return InpaintPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)


@pytest.fixture(scope="module")
def client(pipe):
    """One application for all tests that do not change it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PHOTOFOUND_MAX_PIXELS", "1000000")  # create_app sets it for the process
        with TestClient(create_app(pipe), raise_server_exceptions=False) as client:
            yield client


@contextmanager
def served(pipe, **config):
    with TestClient(create_app(pipe, ServeConfig(**config)), raise_server_exceptions=False) as client:
        yield client


def decoded(response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)))


def refused(response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    detail = response.json()["detail"]
    assert isinstance(detail, str) and "\n" not in detail
    for word in words:
        assert word in detail


# ------------------------------------------------------------------------------------------------------ key files


def test_keys_may_come_through_a_pipe_in_time_and_in_bounds(tmp_path, monkeypatch):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def written(*parts, ends=True):
        refused = threading.Event()

        def write():
            with open(pipe, "wb", buffering=0) as file, suppress(BrokenPipeError):
                for part in parts:
                    time.sleep(0.05)
                    file.write(part)
                ends or refused.wait(60)

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        try:
            return keys.read_keys(pipe)
        finally:
            refused.set()
            writer.join()

    assert written(b"one\nt", b"wo\n") == ("one", "two")
    with pytest.raises(ValueError, match="has more than 1,048,576 bytes"):
        written(b"x" * 3 * 2**20)
    monkeypatch.setattr(keys, "KEY_SECONDS", 0.3)
    with pytest.raises(ValueError, match="pipe: its writer did not finish within 0.3 s; name a file"):
        keys.read_keys(pipe)
    with pytest.raises(ValueError, match="pipe: its writer did not finish"):
        written(b"one", b"two", ends=False)


@pytest.mark.parametrize("path, why", [("/dev/zero", "is not a regular file"), ("{}", "is a folder"), ("", "is empty")])
def test_a_path_that_is_no_key_file_is_refused_at_once(tmp_path, path, why):
    with pytest.raises(ValueError, match=f"{why}; name a file with one API key per line"):
        keys.read_keys(path.format(tmp_path))
    with pytest.raises(ValueError, match="has more than 1,048,576 bytes"):
        (tmp_path / "large").write_bytes(b"k" * 2**21)
        keys.read_keys(tmp_path / "large")


# ---------------------------------------------------------------------------------------------- what it answers


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(NEEDS))
def test_every_task_answers_with_the_pixels_that_the_pipeline_gives(client, pipe, task):
    response = client.post(f"/v1/{task}", **NEEDS[task])
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-disposition"] == f'inline; filename="{task}.png"'
    inputs = {"inpaint": {"mask_image": MASK}, "erase": {"mask_image": MASK}, "outpaint": {"subject": MASK}}
    inputs["expand"] = {"left": "25%"}
    direct = pipe.for_task(task)
    expected = direct(PHOTO, generator=torch.Generator().manual_seed(0), **inputs.get(task, {})).images[0]
    assert (decoded(response) == np.asarray(expected)).all()


@pytest.mark.slow
def test_a_reference_is_an_optional_file_of_the_form(referring_folder):
    pipe = InpaintPipeline.from_pretrained(referring_folder, torch_dtype=torch.float32)
    seen = np.full((20, 30, 3), (200, 30, 40), np.uint8)
    with served(pipe) as client:
        sent = FILES | {"reference": ("surface.png", encoded(seen), "image/png")}
        with_it = client.post("/v1/inpaint", files=sent)
        without = client.post("/v1/inpaint", files=FILES)
        refused(client.post("/v1/inpaint", files=FILES | {"reference": ("r.png", b"no picture")}), 422, "reference")
    for response, reference in ((with_it, seen), (without, None)):
        generator = torch.Generator().manual_seed(0)
        expected = pipe(PHOTO, mask_image=MASK, reference=reference, generator=generator).images[0]
        assert (decoded(response) == np.asarray(expected)).all()
    assert (decoded(with_it) != decoded(without)).any()


@pytest.mark.parametrize("kind", ["ora", "psd"])
def test_the_layers_are_an_answer(client, kind):
    files = NEEDS["outpaint"]["files"]
    answer = client.post("/v1/packshot", files=files, data={"background": "wood", "layers": kind})
    assert answer.headers["content-disposition"] == f'inline; filename="packshot.{kind}"'
    flat = decoded(client.post("/v1/packshot", files=files, data={"background": "wood"}))
    if kind == "ora":
        assert answer.headers["content-type"] == "image/openraster"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert b'name="shadow"' in archive.read("stack.xml")
            found = archive.read("mergedimage.png")
        assert (np.asarray(Image.open(io.BytesIO(found))) == flat).all()
        assert provenance.recipe(image.decode(found))["task"] == "packshot"
    else:
        assert (decoded(answer) == flat).all() and Image.open(io.BytesIO(answer.content)).format == "PSD"
    both = client.post("/v1/packshot", files=files, data={"format": "png", "layers": kind})
    refused(both, 422, "leave format and best_of out")
    assert client.post("/v1/packshot", files=files, data={"layers": "jpg"}).status_code == 422


@pytest.mark.slow
def test_a_model_that_takes_no_reference_says_so(client):
    refused(client.post("/v1/inpaint", files=FILES | {"reference": FILES["image"]}), 422, "takes no reference image")


@pytest.mark.slow
def test_the_seed_and_the_settings_count(client):
    def ask(**data):
        return decoded(client.post("/v1/inpaint", files=FILES, data=data))

    plain = ask()
    assert (plain == ask(seed=0)).all() and (plain != ask(seed=1)).any()
    assert (plain != ask(num_inference_steps=1)).any() and (plain != ask(prompt="snow")).any()
    assert (ask(prompt="snow", guidance_scale=1) != ask(prompt="snow", guidance_scale=9)).any()
    assert (plain == PHOTO)[MASK == 0].all()


@pytest.mark.slow
def test_warnings_are_in_the_answers_note(client):
    """And only in that answer: the next request gets no note."""

    def note(photo=FILES["image"], mask=MASK, **data):
        files = {"image": photo, "mask": ("mask.png", encoded(mask))}
        response = client.post("/v1/inpaint", files=files, data=data)
        assert response.status_code == 200, response.text
        return response.headers.get("X-Photofound-Note", "")

    grey = np.where(MASK > 0, 128, 0).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(PHOTO).convert("CMYK").save(stream, "JPEG")
    cmyk = stream.getvalue()
    deep = ("photo.png", image.encode(Picture.from_any(PHOTO.astype(np.uint16) * 257 - (PHOTO > 3)), "PNG"))
    for _ in range(2):
        assert "the mask is grey for the most part" in note(mask=grey)
        assert "the mask is 32x32 but the image is 64x64; the mask was resized" in note(mask=MASK[::2, ::2])
        assert "JPEG holds 8 bits per channel: 16 are rounded" in note(deep, format="jpg")
        both = note(deep, grey, format="webp")
        assert "grey for the most part" in both and "WEBP holds 8 bits" in both
        clear = ("photo.png", encoded(np.dstack([PHOTO, np.full((64, 64), 99, np.uint8)])))
        assert "JPEG holds no transparency: flattened onto white" in note(clear, format="jpg")
        assert "image: is CMYK; converted to RGB" in note(("photo.jpg", cmyk))
        assert note() == note(format="jpg") == note(deep) == note(clear) == ""


@pytest.mark.slow
def test_settings_that_change_nothing_are_taken_and_noted(client):
    """Clients may send the same to every task."""
    cut = np.dstack([PHOTO, np.tri(*PHOTO.shape[:2], dtype=np.uint8) * 255])  # it is cut out already
    files = {"image": ("cut.png", encoded(cut), "image/png")}
    told = client.post("/v1/cutout", files=files, data={"steps": "3", "guidance_scale": "2", "seed": "4"})
    assert told.status_code == 200 and told.headers["X-Photofound-Note"].endswith(
        "cutout samples nothing, so steps, guidance_scale changed nothing"
    )
    plain = client.post("/v1/cutout", files=files)
    assert (decoded(told) == decoded(plain)).all() and "samples" not in plain.headers.get("X-Photofound-Note", "")


def test_a_request_is_prepared_once(client, monkeypatch):
    prepared = []
    for name in NEEDS:
        task = get_task(name)
        monkeypatch.setattr(task, "prepare", lambda *a, _do=task.prepare, **b: prepared.append(1) or _do(*a, **b))
        assert client.post(f"/v1/{name}", **NEEDS[name]).status_code == 200
        assert prepared.pop() and not prepared


@pytest.mark.slow
def test_a_prompt_that_is_cut_is_in_the_answers_note(client):
    def note(letters):
        response = client.post("/v1/inpaint", files=FILES, data={"prompt": "红" * letters})
        assert response.status_code == 200
        return response.headers.get("X-Photofound-Note", "")

    assert "its end is not read: it has 1026 bytes, and the model reads 1023" in note(342) and note(341) == ""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_the_answer_has_the_format_that_was_asked_for(client, suffix):
    response = client.post("/v1/expand", files={"image": FILES["image"]}, data={"left": 8, "format": suffix})
    image = Image.open(io.BytesIO(response.content))
    assert image.size == (72, 64) and response.headers["content-type"] == image.get_format_mimetype()
    assert response.headers["content-disposition"] == f'inline; filename="expand.{suffix}"'


def test_a_side_that_the_format_cannot_hold_is_refused_before_the_work(client):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EditQueue, "submit", lambda *_: pytest.fail("worked on"))
        wide = client.post("/v1/expand", files={"image": FILES["image"]}, data={"left": 16_384, "format": "webp"})
    refused(wide, 422, "WEBP holds at most 16383 pixels a side", "choose png")


@pytest.mark.slow
def test_the_format_profile_and_metadata_are_the_photographs(client):
    exif = Image.Exif()
    exif[0x010E] = "a cup"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = encoded(PHOTO, "JPEG", quality=95, exif=exif, icc_profile=profile)
    response = client.post("/v1/expand", files={"image": ("x", photo)}, data={"left": 8})
    image = Image.open(io.BytesIO(response.content))
    assert image.format == "JPEG" and image.getexif()[0x010E] == "a cup" and image.info["icc_profile"] == profile


@pytest.mark.slow
def test_the_answer_says_that_it_was_generated_unless_told_not_to(client):
    def ask(**fields):
        response = client.post("/v1/expand", files={"image": FILES["image"]}, data={"left": 8, **fields})
        return Picture.from_any(response.content)

    assert source_type(ask()) == COMPOSITE and source_type(ask(mark="false")) is None


@pytest.mark.slow
def test_the_answer_says_how_it_was_made_and_can_be_made_again(client, pipe, tmp_path):
    def ask(**fields):
        response = client.post("/v1/expand", files={"image": FILES["image"]}, data={"left": 8, "seed": 4, **fields})
        return Picture.from_any(response.content)

    answer = ask(prompt="a secret")
    said = provenance.recipe(answer)
    assert (said["task"], said["seed"], said["inputs"]["prompt"]) == ("expand", 4, "a secret")
    assert provenance.verify(Picture.from_any(FILES["image"][1]), answer).altered == 0
    image.save(Picture.from_any(FILES["image"][1]), tmp_path / "photo.png")
    assert provenance.redo(answer, places=[tmp_path], pipe=pipe).same
    untold = ask(prompt="a secret", recipe="false")
    assert source_type(untold) == COMPOSITE and provenance.recipe(untold) is None and b"secret" not in untold.xmp


@pytest.mark.slow
def test_a_server_with_a_certificate_signs_its_answers(pipe, tmp_path):
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    from test_credentials import certificate

    from photofound.picture import credentials

    chain, key = map(str, certificate(tmp_path))
    with served(pipe, c2pa_cert=chain, c2pa_key=key) as client:
        for fields, signed in (({}, True), ({"mark": "false"}, False)):
            answer = client.post("/v1/expand", files={"image": FILES["image"]}, data={"left": 8, **fields})
            (tmp_path / "answer.png").write_bytes(answer.content)
            found = credentials.read(tmp_path / "answer.png")
            assert (found is not None) == signed and (not signed or found.state == "Valid")
        bitmap = client.post("/v1/expand", files={"image": FILES["image"]}, data={"left": 8, "format": "bmp"})
        assert "BMP holds no Content Credentials" in bitmap.headers["X-Photofound-Note"]
    with pytest.raises(ValueError, match="belong together"):
        ServeConfig(c2pa_cert=chain)


@pytest.mark.slow
def test_the_place_is_left_out_on_demand(client):
    exif = Image.Exif()
    exif[0x010E] = "a cup"
    exif.get_ifd(0x8825)[1] = "N"
    files = {"image": ("x.jpg", encoded(PHOTO, "JPEG", exif=exif))}
    kept, left_out = (
        Image.open(io.BytesIO(client.post("/v1/expand", files=files, data={"left": 8, "strip": s}).content)).getexif()
        for s in ("false", "true")
    )
    assert 0x8825 in kept and 0x8825 not in left_out and left_out[0x010E] == "a cup"


def test_tasks_are_listed_with_their_fields(client):
    tasks = {task["name"]: task for task in client.get("/v1/tasks").json()}
    assert set(tasks) == {*NEEDS, "cutout", "generate", "packshot"}
    fields = {field["name"]: field for field in tasks["inpaint"]["inputs"]}
    assert list(fields) == ["image", "mask", "prompt", "reference"]
    assert fields["mask"]["required"] and not fields["prompt"]["required"]
    assert not fields["reference"]["required"] and fields["reference"]["kind"] == "image"
    assert tasks["upscale"]["url"] == "/v1/upscale" and tasks["upscale"]["inputs"][1]["default"] == 2


def test_the_documentation_has_every_field_bound_and_example(client):
    schema = client.get("/openapi.json").json()
    form = schema["paths"]["/v1/expand"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    fields = schema["components"]["schemas"][form["$ref"].rpartition("/")[2]]
    assert fields["required"] == ["image"]
    assert {"image", "left", "aspect", "seed", "format", "num_inference_steps"} <= set(fields["properties"])
    assert fields["properties"]["left"]["examples"] == ["25%"] and fields["properties"]["left"]["default"] == "0"
    answers = schema["paths"]["/v1/expand"]["post"]["responses"]
    assert {"200", "413", "422", "503"} <= set(answers) and "image/png" in answers["200"]["content"]
    assert client.get("/docs").status_code == 200


EXTRA_TASK = """
from photofound.edits.inputs import Input
from photofound.tasks.inpaint import Inpaint



class Retouch(Inpaint):
    name = "retouch"
    summary = "smooth what a mask covers"
    inputs = (Input("mask_image", "mask", "white = smooth", required=True), Input("size", "size", "unused"))

    def prepare(self, picture, prompt="", mask_image=None, size=None):
        assert size in (None, "8x8")
        return super().prepare(picture, mask_image, prompt)


TASK = Retouch()
"""


@pytest.fixture
def extra_task(tmp_path, monkeypatch):
    """A folder with one more task, and the tasks looked up anew."""
    (tmp_path / "retouch.py").write_text(EXTRA_TASK)
    (tmp_path / "broken.py").write_text("import nothing_that_exists")
    with extra_tasks(tmp_path, monkeypatch):
        yield


@pytest.mark.slow
def test_an_extra_task_appears_by_itself(tiny, extra_task):
    pipe = tiny(InpaintPipeline)
    with served(pipe) as client:
        assert client.post("/v1/retouch", files=FILES).status_code == 404, "the model has not learnt it"
    pipe.transformer.add_task("retouch")
    with served(pipe) as client:
        names = [task["name"] for task in client.get("/v1/tasks").json()]
        assert "retouch" in names and "broken" not in names
        assert (decoded(client.post("/v1/retouch", files=FILES, data={"size": "8x8"})) == PHOTO)[MASK == 0].all()
        refused(client.post("/v1/retouch", files=FILES, data={"size": "8"}), 422, "size")
        refused(client.post("/v1/retouch", files={"image": FILES["image"]}), 422, "mask")


# ---------------------------------------------------------------------------------------------- what it does not do


@pytest.mark.slow
def test_damaged_and_missing_files(client):
    def ask(**files):
        return client.post("/v1/inpaint", files=FILES | files)

    refused(ask(image=("x.png", b"not a picture")), 422, "image", "not an image")
    refused(ask(image=("x.png", b"")), 422, "image", "empty")
    refused(ask(image=("x.png", encoded(PHOTO)[:2000])), 422, "image", "truncated")
    refused(ask(mask=("x.png", encoded(np.zeros_like(MASK)))), 422, "mask is empty")
    refused(ask(mask=("x.png", encoded(MASK[:, :20]))), 422, "mask")
    refused(client.post("/v1/inpaint", files={"image": FILES["image"]}), 422, "mask")
    refused(client.post("/v1/inpaint", data={"image": "text", "mask": "text"}), 422, "image")
    refused(client.post("/v1/inpaint", content=b"{}", headers={"content-type": "application/json"}), 422, "image")
    broken = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/v1/inpaint", content=b"--x\r\nnonsense", headers=broken).status_code in (400, 422)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("seed", v) for v in ("-1", "1.5", "x", str(2**63))),
        *(("format", v) for v in ("gif", "exe", "../png")),
        *(("num_inference_steps", v) for v in ("0", "101", "many")),
        *(("guidance_scale", v) for v in ("-1", "nan", "inf", "101")),
        *(("left", v) for v in ("-5", "1e9", "٣", "25%%", "9" * 40)),
        *(("aspect", v) for v in ("4", "0:1", "1:0", "a:b")),
        *(("size", v) for v in ("8x8", "0x0", "800x")),
        ("prompt", "x" * 2001),
    ],
)
def test_bad_values_are_the_users_mistake_and_named(client, field, value):
    refused(client.post("/v1/expand", files={"image": FILES["image"]}, data={field: value}), 422)


def test_unknown_places_and_methods(client):
    refused(client.post("/v1/levitate", files=FILES), 404)
    refused(client.get("/v1/inpaint"), 405)


def test_too_many_bytes_are_refused_before_they_are_read_or_while_they_arrive(pipe):
    with served(pipe, max_bytes=10_000) as client:
        refused(client.post("/v1/inpaint", files=FILES), 413, "MiB")

        def chunks():  # without a length
            for _ in range(20):
                yield b"x" * 1000

        kind = {"content-type": "multipart/form-data; boundary=x"}
        refused(client.post("/v1/inpaint", content=chunks(), headers=kind), 413, "MiB")


@pytest.mark.slow
def test_too_many_pixels_are_refused_before_they_are_decoded(pipe, monkeypatch):
    huge = encoded(np.zeros((3000, 3000), np.uint8))
    reads = []
    read = codec.Files.read
    monkeypatch.setattr(codec.Files, "read", lambda *args, **kwargs: reads.append(args[2]) or read(*args, **kwargs))
    with served(pipe, max_pixels=5000) as client:
        refused(client.post("/v1/upscale", files={"image": ("x.png", huge)}), 413, "image", "megapixels")
        refused(client.post("/v1/inpaint", files=FILES | {"mask": ("m.png", huge)}), 413, "mask")
        refused(client.post("/v1/inpaint", files=FILES | {"reference": ("r.png", huge)}), 413, "reference")
        assert not reads
        refused(client.post("/v1/upscale", files={"image": FILES["image"]}), 413, "limit")
        canvas = client.post("/v1/expand", files={"image": FILES["image"]}, data={"size": "99999999x99999999"})
        refused(canvas, 413, "this server makes no larger ones")
        assert "PHOTOFOUND" not in canvas.text


@pytest.mark.slow
def test_a_key_is_asked_for_before_anything_is_read(pipe):
    with served(pipe, keys=("first key", "clé")) as client:
        for headers in ({}, {"X-API-Key": "first"}, {"Authorization": "Basic first key"}, {"Authorization": "Bearer"}):
            refused(client.post("/v1/inpaint", content=b"x" * 100, headers=headers), 401, "X-API-Key")
            refused(client.get("/v1/tasks", headers=headers), 401)
            refused(client.get("/metrics", headers=headers), 401)
        for headers in ({"X-API-Key": "first key"}, {"Authorization": "Bearer first key"}):
            assert client.get("/v1/tasks", headers=headers).status_code == 200
            decoded(client.post("/v1/inpaint", files=FILES, headers=headers))
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        assert client.get("/openapi.json").json()["components"]["securitySchemes"]


@pytest.mark.slow
@pytest.mark.parametrize("root", ["", "/", "/api", "/api/", "/v1", "/v", "/v1/tasks", "/metrics", "/docs", "/healthz"])
def test_a_key_is_asked_for_under_any_root(pipe, root):
    """A key is needed with any root path of a proxy, whether the path includes it or not."""
    app = create_app(pipe, ServeConfig(keys=("secret",)))
    with TestClient(app, root_path=root, raise_server_exceptions=False) as client:
        for path in (
            "/v1/tasks",
            "/v1/inpaint",
            "/metrics",
            "/nowhere",
            "//v1/tasks",
            "/v1//tasks",
            "/V1/tasks",
            "/v1",
        ):
            for sent in {path, root.rstrip("/") + path}:
                for method in ("GET", "POST", "OPTIONS", "HEAD"):
                    assert client.request(method, sent).status_code in (401, 404, 405), (method, sent)
        listed = [
            client.get(r + "/v1/tasks", headers={"X-API-Key": "secret"}).status_code for r in ("", root.rstrip("/"))
        ]
        assert 200 in listed
        assert 200 in [client.get(r + "/healthz").status_code for r in ("", root.rstrip("/"))]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_key_beyond_ascii_is_accepted_in_every_encoding(pipe, encoding):
    with served(pipe, keys=("clé", "à", "杯")) as client:
        assert client.get("/v1/tasks", headers={b"X-API-Key": "clé".encode(encoding)}).status_code == 200
        assert client.get("/v1/tasks", headers={b"Authorization": b"Bearer " + "à".encode(encoding)}).status_code == 200
        assert client.get("/v1/tasks", headers={b"X-API-Key": "杯".encode()}).status_code == 200
        assert (
            client.get("/v1/tasks").status_code
            == client.get("/v1/tasks", headers={"X-API-Key": "?"}).status_code
            == 401
        )
        assert client.get("/v1/tasks", headers={b"X-API-Key": b"cl\xff"}).status_code == 401
        assert client.get("/v1/tasks", headers={b"X-API-Key": b"cl?"}).status_code == 401


@pytest.mark.parametrize("keys", [("",), (" ",), ("good", ""), "text", (None,)], ids=repr)
def test_keys_that_would_let_everybody_in_are_refused(keys):
    with pytest.raises(ValueError, match="serve: keys must be a list"):
        ServeConfig(keys=keys)


def test_comments_in_key_files(tmp_path, monkeypatch):
    path = tmp_path / "keys"
    path.write_bytes("\ufeff# all of them\r\nfirst  # Ann\r\n  # Bob's was\n\t#\nwith#sign\n#\n  clé \n".encode())
    assert keys.read_keys(path) == ("first", "with#sign", "clé")
    for nothing in ("# only\n  # comments\n", "", "\n \n"):
        path.write_text(nothing)
        with pytest.raises(ValueError, match="holds no API key"):
            keys.read_keys(path)
    path.write_bytes(b"cl\xe9")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        keys.read_keys(path)
    monkeypatch.setenv("PHOTOFOUND_API_KEY", "#no comment # here")
    assert keys.read_keys() == ("#no comment # here",)
    monkeypatch.setenv("PHOTOFOUND_API_KEY", " \n")
    with pytest.raises(ValueError, match="is blank"):
        keys.read_keys()


def test_keys_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    assert keys.read_keys() == ()
    monkeypatch.setenv("PHOTOFOUND_API_KEY", " one \n")
    assert keys.read_keys() == ("one",)
    (tmp_path / "keys").write_text("# people\n two\n\nthree\n")
    assert keys.read_keys(tmp_path / "keys") == ("two", "three")
    (tmp_path / "keys").write_text("\n")
    with pytest.raises(ValueError, match="holds no API key"):
        keys.read_keys(tmp_path / "keys")


@pytest.mark.parametrize("name", ["queue", "batch", "max_bytes", "max_pixels", "max_steps"])
def test_bounds_are_positive(name):
    with pytest.raises(ValueError, match=name):
        ServeConfig(**{name: 0})


def test_a_fault_is_a_500_without_details(pipe, monkeypatch):
    def fail(*_):
        raise KeyError("secret")

    with served(pipe) as client:
        monkeypatch.setattr(get_task("inpaint"), "prepare", fail)
        response = client.post("/v1/inpaint", files=FILES)
        assert response.status_code == 500 and "secret" not in response.text and "log" in response.json()["detail"]
        monkeypatch.undo()
        decoded(client.post("/v1/inpaint", files=FILES))  # and the server goes on


def test_too_little_memory_is_a_413(client, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(get_task("inpaint"), "prepare", fail)
    refused(client.post("/v1/inpaint", files=FILES), 413, "memory")


# ---------------------------------------------------------------------------------------------- strangers


def segments(count: int) -> bytes:
    """A JPEG of 8 x 8 pixels with that many comments."""
    jpeg = encoded(PHOTO[:8, :8], "JPEG")
    return jpeg[:2] + b"\xff\xfe\0\2" * count + jpeg[2:]


@pytest.mark.slow
def test_a_picture_of_many_segments_is_refused_at_once_and_delays_no_other(client):
    refused(client.post("/v1/upscale", files={"image": ("x.jpg", segments(1_000_000))}), 422, "image", "tiny pieces")
    decoded(client.post("/v1/upscale", files={"image": FILES["image"]}))


def test_reading_has_a_time_limit(pipe, monkeypatch):
    def late(*args):
        raise ValueError("image: takes more than 1 s of work on its file; send it smaller")

    monkeypatch.setattr(codec.Files, "size", late)
    with served(pipe, read_seconds=1) as client:
        refused(client.post("/v1/upscale", files={"image": FILES["image"]}), 422, "takes more than 1 s")


@pytest.mark.slow
def test_formats_that_are_not_listed_are_not_read(pipe):
    files = {"image": ("x.jp2", encoded(PHOTO, "JPEG2000"))}
    with served(pipe) as client:
        refused(client.post("/v1/upscale", files=files), 422, "can be read (PNG, JPEG")
    with served(pipe, formats=("JPEG2000",)) as client:
        assert decoded(client.post("/v1/upscale", files=files)).shape == (128, 128, 3)
    with pytest.raises(ValueError, match="formats"):
        ServeConfig(formats=("EPS",))


def test_an_edit_has_a_time_limit(pipe):
    with served(pipe, edit_seconds=0.001) as client:
        refused(client.post("/v1/upscale", files={"image": FILES["image"]}), 504, "took more than 0.001 s")


def test_an_edit_that_is_late_stops_at_its_next_step(pipe):
    steps = []
    count = pipe.transformer.register_forward_hook(lambda *_: steps.append(1))
    try:
        with PausedQueue(pipe, edit_seconds=0.01) as paused:
            ticket = paused.occupy()
            time.sleep(0.05)
            paused.open.set()
            assert isinstance(ticket.result.exception(120), queue.TooLong)
            assert len(steps) < 2
    finally:
        count.remove()


@pytest.mark.slow
def test_all_uploads_together_are_bounded(pipe):
    with served(pipe, max_uploads=5000) as client:
        full = client.post("/v1/inpaint", files=FILES)
        refused(full, 503)
        assert int(full.headers["retry-after"]) >= 1

        def chunks():  # without a length
            yield b"--x\r\nContent-Disposition: form-data; name=image; filename=x\r\n\r\n"
            for _ in range(20):
                yield b"x" * 1000

        kind = {"content-type": "multipart/form-data; boundary=x"}
        refused(client.post("/v1/inpaint", content=chunks(), headers=kind), 503)
        assert "photofound_upload_bytes 0.0" in client.get("/metrics").text
    with served(pipe, max_uploads=100_000) as client:
        for _ in range(10):  # what was sent is no longer counted
            assert client.post("/v1/inpaint", files=FILES).status_code == 200


@pytest.mark.slow
def test_a_place_is_taken_before_the_body_is_read_and_kept_until_the_answer_is_sent(pipe):
    """Straight through ASGI: places while the body arrives, and while the client takes its time to read."""
    app = create_app(pipe, ServeConfig(queue=1, batch=1))
    waiting, request = app.state.queue, httpx.Request("POST", "http://x/v1/inpaint", files=FILES)
    body, seen = request.read(), []
    pieces = [body[:100], body[100:]]

    async def ask():
        async def receive():
            if not pieces:
                await asyncio.sleep(60)
            seen.append(waiting._places)
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        async def send(message):
            seen.append((message["type"], waiting._places))

        headers = [(name.lower(), value) for name, value in request.headers.raw]
        scope = {"type": "http", "method": "POST", "path": "/v1/inpaint", "headers": headers, "query_string": b""}
        await app(scope | {"root_path": "", "client": None, "server": ("x", 80)}, receive, send)

    waiting.start()
    try:
        asyncio.run(ask())
    finally:
        waiting.close(), app.state.close_at_once()
    assert seen == [1, 1, ("http.response.start", 1), ("http.response.body", 1)] and waiting._places == 0


def test_pictures_of_a_refused_request_are_released_at_once(client, monkeypatch):
    """Without waiting for a collection of cycles: an error's traceback holds frames, and these hold pictures."""
    held = weakref.WeakSet()
    made = Picture.__post_init__
    monkeypatch.setattr(Picture, "__post_init__", lambda self: (made(self), held.add(self))[0])
    gc.disable()
    try:
        for _ in range(3):
            black = {"mask": ("mask.png", encoded(np.zeros_like(MASK)))}
            refused(client.post("/v1/inpaint", files=FILES | black), 422, "mask is empty")
        wait_until(lambda: not held)
    finally:
        gc.enable()


def test_pixels_in_memory_are_bounded():
    desk = codec.PictureCodec(ServeConfig(max_pixels=100, max_bytes=30))
    order = []

    async def hold(name, pixels, until):
        async with desk.room(pixels):
            order.append(name)
            await until.wait()

    async def all_blocked():
        for _ in range(100):  # turns of the loop; there is nothing that comes from outside
            await asyncio.sleep(0)

    async def play():
        first, rest = asyncio.Event(), asyncio.Event()
        tasks = [asyncio.create_task(hold(*each)) for each in (("a", 300, first), ("b", 100, rest), ("c", 5, rest))]
        await all_blocked()
        assert order == ["a"], "there is no room for b, and c, which would fit, came later"
        first.set()
        await all_blocked()
        assert order == ["a", "b", "c"]
        rest.set()
        await asyncio.gather(*tasks)
        async with desk.room(310):
            pass

    asyncio.run(play())
    desk.close()


def test_a_body_that_arrives_too_slowly_loses_its_place(pipe, monkeypatch):
    monkeypatch.setattr(gate, "PATIENCE", 0.3)
    app = create_app(pipe)
    with listening(app) as address:
        url = httpx.URL(address)
        with socket.create_connection((url.host, url.port)) as slow:
            head = b"POST /v1/inpaint HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=a\r\n"
            slow.sendall(head + b"Content-Length: 1000000\r\n\r\n--a\r\n")
            slow.settimeout(120)
            assert b" 408 " in slow.recv(1000).partition(b"\r\n")[0]
        wait_until(lambda: not app.state.queue._places)


def test_a_body_that_is_no_form_is_not_read(client):
    refused(client.post("/v1/inpaint", data={"image": "text"}), 422, "multipart/form-data")
    refused(client.post("/v1/inpaint", content=b"a&" * 1000, headers={"content-type": "text/plain"}), 422, "image")


def test_an_unknown_host_is_not_answered(pipe):
    with served(pipe, hosts=("photos.example",)) as client:
        for host in ("photos.example", "Photos.Example:80", "localhost:8000", "127.0.0.1", "[::1]:8000", "10.0.0.7:80"):
            assert client.get("/healthz", headers={"host": host}).status_code == 200, host
        for host in ("evil.example", "photos.example.evil", "127.0.0.1.evil.example", "evil.example:8000"):
            refused(client.get("/healthz", headers={"host": host}), 403, "--allow-host")
            refused(client.post("/v1/inpaint", files=FILES, headers={"host": host}), 403)
    with served(pipe) as client:
        assert client.get("/healthz", headers={"host": "anything.example"}).status_code == 200
    assert cli_serve._hosts("127.0.0.1", []) == ("localhost",) and cli_serve._hosts("0.0.0.0", []) == ()
    assert cli_serve._hosts("0.0.0.0", ["a"]) == ("localhost", "a") and cli_serve._hosts("127.0.0.1", ["*"]) == ()


@pytest.mark.slow
def test_a_page_elsewhere_may_not_edit_unless_it_is_allowed(pipe):
    own, other = {"origin": "http://testserver"}, {"origin": "https://other.example"}
    with served(pipe) as client:
        assert client.post("/v1/inpaint", files=FILES, headers=own).status_code == 200
        for origin in ("https://other.example", "null", "http://testserver:81", "http://testserver.other.example"):
            refused(client.post("/v1/inpaint", files=FILES, headers={"origin": origin}), 403, "--allow-origin")
        assert "access-control-allow-origin" not in client.get("/v1/tasks", headers=other).headers
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    with served(pipe, origins=("https://other.example",), keys=("k",)) as client:
        allowed = client.options("/v1/inpaint", headers=other | asks)
        assert allowed.status_code == 200 and "POST" in allowed.headers["access-control-allow-methods"]
        assert client.options("/v1/inpaint", headers={"origin": "https://third.example"} | asks).status_code == 400
        answer = client.post("/v1/inpaint", files=FILES, headers=other | {"x-api-key": "k"})
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://other.example"
        assert "X-Photofound-Note" in answer.headers["access-control-expose-headers"]
        refused(client.post("/v1/inpaint", files=FILES, headers={"origin": "https://third.example"}), 403)
    with served(pipe, origins=("*",)) as client:
        assert client.post("/v1/inpaint", files=FILES, headers=other).headers["access-control-allow-origin"] == "*"


# ---------------------------------------------------------------------------------------------- generated clients


def test_generators_of_clients_understand_the_description(pipe):
    with served(pipe, keys=("k",)) as client:
        described = client.get("/openapi.json").json()
    assert described["servers"] == [{"url": "http://testserver"}]
    operations = {path: each for path, methods in described["paths"].items() for each in methods.values()}
    every = [each for methods in described["paths"].values() for each in methods.values()]
    assert {each["operationId"] for each in every} == {
        *NEEDS,
        "cutout",
        "generate",
        "images_edit",
        "images_generate",
        "images_vary",
        "list_models",
        "show_model",
        "iopaint_inpaint",
        "packshot",
        *(f"job_{task}" for task in (*NEEDS, "generate", "cutout", "packshot")),
        "show_job",
        "job_result",
        "delete_job",
        "list_tasks",
        "healthz",
        "readyz",
        "metrics",
    }
    tags = {tag["name"] for tag in described["tags"]}
    assert all(len(each["tags"]) == 1 and set(each["tags"]) <= tags for each in every)
    assert operations["/v1/inpaint"]["security"] == [{"ApiKey": []}, {"Bearer": []}]
    assert set(described["components"]["securitySchemes"]) == {"ApiKey", "Bearer"}
    form = described["components"]["schemas"]["Body_inpaint"]
    for name in ("image", "mask", "reference"):
        assert (form["properties"][name]["type"], form["properties"][name]["format"]) == ("string", "binary"), name
    assert form["required"] == ["image", "mask"] and "null" not in str(form) and "anyOf" not in str(form)
    seed = form["properties"]["seed"]
    assert seed["format"] == "int64" and seed["maximum"] == 2**63 - 1 and isinstance(seed["minimum"], int)
    for task in NEEDS:
        answers = operations[f"/v1/{task}"]["responses"]
        for kind in ("image/png", "image/jpeg", "application/octet-stream"):
            assert answers["200"]["content"][kind]["schema"] == {"type": "string", "format": "binary"}
        assert set(answers) == {"200", *map(str, ERRORS)}


@pytest.mark.slow
def test_the_page_for_people_fetches_nothing_from_elsewhere(client):
    page = client.get("/docs").text
    parts = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert len(parts) == 3 and all(part.startswith("/docs/assets/") for part in parts) and "//" not in "".join(parts)
    assert all(client.get(part).status_code == 200 for part in parts)
    assert "'/openapi.json'" in page
    assert client.get("/docs/assets/../../serve.py").status_code == 404


def test_the_documentation_lists_every_status():
    page = (Path(__file__).parent.parent / "docs" / "serving.md").read_text()
    listed = {int(status) for status in re.findall(r"^\| (\d{3}) \|", page, re.MULTILINE)}
    assert listed == {200, 404, *ERRORS}


# ----------------------------------------------------------------------------------------------- the queue


def edits(count: int) -> list[EditRequest]:
    prompts = ("a cup", "", "on a table", "")
    return [
        EditRequest(
            "inpaint", Picture.from_any(np.roll(PHOTO, i, 1)), {"mask_image": MASK, "prompt": prompts[i % 4]}, i
        )
        for i in range(count)
    ]


class PausedQueue:
    """A queue whose worker waits before every batch until it is released, and records the batches."""

    def __init__(self, pipe, **config):
        self.queue = EditQueue(pipe, ServeConfig(**{"window": 0.0, **config}))
        self.open, self.arrived, self.batches = threading.Event(), threading.Event(), []
        work = self.queue._compute

        def wait_and_record(prepared):
            self.batches.append([ticket.request.seed for ticket, _ in prepared])
            self.arrived.set()
            assert self.open.wait(120)
            work(prepared)

        self.queue._compute = wait_and_record

    def __enter__(self):
        self.queue.start()
        return self

    def __exit__(self, *_):
        self.open.set()
        self.queue.close()

    def occupy(self):
        """Give the worker something to wait with, so that what follows stays in the queue."""
        ticket = self.queue.submit(EditRequest("upscale", Picture.from_any(PHOTO), seed=99))
        assert self.arrived.wait(120)
        return ticket


def test_pixels_are_the_same_alone_and_in_a_batch(pipe):
    with PausedQueue(pipe) as paused:
        paused.occupy()
        together = [paused.queue.submit(edit) for edit in edits(4)]
        paused.open.set()
        results = [ticket.result.result(120) for ticket in together]
        assert paused.batches == [[99], [0, 1, 2, 3]]
        for edit, result in zip(edits(4), results, strict=True):
            assert (paused.queue.submit(edit).result.result(120).pixels == result.pixels).all()


def test_a_batch_waits_for_requests_of_the_same_kind(pipe):
    """Two requests one after the other share a batch, because the window is long and ends when the batch is full."""
    with PausedQueue(pipe, window=10.0, batch=2) as paused:
        paused.open.set()
        tickets = [paused.queue.submit(edit) for edit in edits(2)]
        for ticket in tickets:
            ticket.result.result(120)
        assert paused.batches == [[0, 1]]


def test_only_similar_requests_share_a_batch_and_the_oldest_goes_first(pipe):
    with PausedQueue(pipe, batch=2) as paused:
        paused.occupy()
        a, b, c, d = edits(4)
        other = EditRequest("inpaint", a.picture, a.inputs, 7, steps=1)
        tickets = [paused.queue.submit(edit) for edit in (a, other, b, c, d)]
        paused.open.set()
        for ticket in tickets:
            ticket.result.result(120)
        assert paused.batches == [[99], [0, 1], [7], [2, 3]]


def test_a_full_queue_says_when_to_retry(pipe):
    line = EditQueue(pipe, ServeConfig(queue=2, batch=1))
    with line.place(), line.place(), line.place():
        with pytest.raises(Busy, match="queue is full") as caught, line.place():
            pass
        assert caught.value.seconds >= 1
    with line.place():
        pass


def test_an_abandoned_request_is_never_computed(pipe):
    with PausedQueue(pipe, queue=2) as paused:
        paused.occupy()
        first, second = (paused.queue.submit(edit) for edit in edits(2))
        paused.queue.abandon(first)
        third = paused.queue.submit(edits(3)[2])  # there is room again
        paused.open.set()
        second.result.result(120), third.result.result(120)
        assert first.result.cancelled() and paused.batches == [[99], [1, 2]]


def test_sampling_stops_when_its_whole_batch_is_abandoned(pipe):
    with PausedQueue(pipe) as paused:
        steps = []
        count = pipe.transformer.register_forward_hook(lambda *_: steps.append(1))
        try:
            alone = paused.occupy()
            paused.queue.abandon(alone)
            pair = [paused.queue.submit(EditRequest("inpaint", e.picture, e.inputs, e.seed, steps=5)) for e in edits(2)]
            pair[1].abandoned = True  # one of two: the other's wish counts
            paused.open.set()
            assert isinstance(alone.result.exception(120), queue.Abandoned)
            done = len(steps)
            assert done < 2, "of an upscale's two steps only one was taken"
            assert pair[0].result.result(120).size == (64, 64)
        finally:
            count.remove()


def test_one_bad_request_does_not_spoil_its_batch(pipe, monkeypatch):
    finish = get_task("inpaint").finish

    def fail_on_seed_one(job, generated, box):
        if job.prompt == "" and (job.picture.pixels == edits(2)[1].picture.pixels).all():
            raise ValueError("the generated image has NaN")
        return finish(job, generated, box)

    monkeypatch.setattr(get_task("inpaint"), "finish", fail_on_seed_one)
    with PausedQueue(pipe) as paused:
        paused.occupy()
        tickets = [paused.queue.submit(edit) for edit in edits(3)]
        bad = paused.queue.submit(EditRequest("inpaint", edits(1)[0].picture, {"mask_image": np.zeros_like(MASK)}, 9))
        paused.open.set()
        assert isinstance(bad.result.exception(120), ValueError)
        assert [type(ticket.result.exception(120)) for ticket in tickets] == [type(None), ValueError, type(None)]


def test_health_and_readiness_follow_the_worker(pipe):
    app = create_app(pipe)
    client = TestClient(app)  # entered later: until then nothing has started
    refused(client.get("/readyz"), 503, "not ready")
    refused(client.get("/healthz"), 503, "worker")
    with client:
        assert client.get("/readyz").json() == {"status": "ready"}
        assert client.get("/healthz").json() == {"status": "alive"}
    refused(client.get("/readyz"), 503, "not ready")


def test_closing_finishes_the_queue_and_accepts_no_more(pipe):
    with PausedQueue(pipe) as paused:
        paused.occupy()
        tickets = [paused.queue.submit(edit) for edit in edits(3)]
        closing = threading.Thread(target=paused.queue.close)
        closing.start()
        wait_until(lambda: not paused.queue.ready)
        with pytest.raises(Busy):
            paused.queue.submit(edits(1)[0])
        paused.open.set()
        closing.join()
        assert all(ticket.result.done() for ticket in tickets) and not paused.queue.ready


# ---------------------------------------------------------------------------------------------- over a real connection


@contextmanager
def listening(app):
    """A server on a free port of this machine, in a thread: its address."""
    listener = connections.listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(120)
        listener.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def address(pipe):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PHOTOFOUND_MAX_PIXELS", "100000")  # create_app sets it for the process: put back afterwards
        with listening(create_app(pipe, ServeConfig(max_steps=3, max_pixels=100_000))) as address:
            yield address


class BlockedTask:
    """A task whose ``prepare`` does not return until it is released."""

    def __init__(self, task, monkeypatch):
        self.entered, self.go, prepare = threading.Semaphore(0), threading.Event(), get_task(task).prepare

        def wait(*args, **kwargs):
            self.entered.release()
            assert self.go.wait(120)
            return prepare(*args, **kwargs)

        monkeypatch.setattr(get_task(task), "prepare", wait)


def in_thread(call, *args, **kwargs) -> Future:
    """The call's future result."""
    future: Future = Future()

    def work():
        try:
            future.set_result(call(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=work).start()
    return future


@pytest.mark.slow
def test_the_loop_answers_while_the_worker_computes_and_a_full_queue_says_so(pipe, monkeypatch):
    blocked = BlockedTask("inpaint", monkeypatch)
    app = create_app(pipe, ServeConfig(queue=1, batch=1))
    with listening(app) as address:

        def edit():
            return httpx.post(f"{address}/v1/inpaint", files=FILES, timeout=120)

        try:
            computing = in_thread(edit)
            assert blocked.entered.acquire(timeout=120)
            waiting = in_thread(edit)
            wait_until(lambda: app.state.queue._waiting)
            assert httpx.get(f"{address}/healthz", timeout=120).json() == {"status": "alive"}
            metrics = httpx.get(f"{address}/metrics", timeout=120).text
            assert "photofound_queue_length 1.0" in metrics
            full = edit()
            refused(full, 503, "queue is full")
            assert int(full.headers["retry-after"]) >= 1
        finally:
            blocked.go.set()
        assert decoded(computing.result(120)).shape == decoded(waiting.result(120)).shape
        metrics = httpx.get(f"{address}/metrics", timeout=120).text
        assert f'photofound_requests_total{{{MODEL},status="503",task="inpaint"}} 1.0' in metrics
        assert f'photofound_requests_total{{{MODEL},status="200",task="inpaint"}} 2.0' in metrics
        assert f'photofound_batch_size_count{{{MODEL},task="inpaint"}} 2.0' in metrics


@pytest.mark.slow
def test_the_edit_of_a_client_that_hangs_up_is_dropped(pipe, monkeypatch):
    blocked = BlockedTask("inpaint", monkeypatch)
    app = create_app(pipe, ServeConfig(batch=1))
    line = app.state.queue
    with listening(app) as address:
        try:
            first = in_thread(httpx.post, f"{address}/v1/inpaint", files=FILES, timeout=120)
            assert blocked.entered.acquire(timeout=120)
            request = httpx.Request("POST", f"{address}/v1/inpaint", files=FILES)
            head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
            with socket.create_connection((request.url.host, request.url.port)) as client:
                client.sendall(f"POST /v1/inpaint HTTP/1.1\r\n{head}\r\n".encode() + request.read())
                wait_until(lambda: line._waiting)
            wait_until(lambda: not line._waiting)  # it left the queue without being computed
        finally:
            blocked.go.set()
        assert first.result(120).status_code == 200
        assert not blocked.entered.acquire(blocking=False), "only the first was prepared"
        wait_until(lambda: line._places == 0)
        assert f'status="{CLIENT_CLOSED}",task="inpaint"}} 1.0' in httpx.get(f"{address}/metrics", timeout=120).text


@pytest.mark.slow
def test_stopping_finishes_accepted_requests(pipe, monkeypatch):
    blocked = BlockedTask("inpaint", monkeypatch)
    app = create_app(pipe, ServeConfig(batch=1))
    with listening(app) as address:
        asked = [in_thread(httpx.post, f"{address}/v1/inpaint", files=FILES, timeout=120) for _ in range(3)]
        assert blocked.entered.acquire(timeout=120)
        wait_until(lambda: len(app.state.queue._waiting) == 2)
        threading.Timer(0.2, blocked.go.set).start()  # once the server is stopping
    assert [future.result(120).status_code for future in asked] == [200, 200, 200]


@contextmanager
def command(*options: str):
    """``photofound serve`` in a process of its own, and its address."""
    line = [sys.executable, "-m", "photofound", "serve", "--port", "0", *map(str, options)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process, process.stdout.readline().strip().removesuffix("/docs")
        finally:
            process.kill()


def resident(process) -> float:
    """MiB of a process and of those that it started."""
    parent = psutil.Process(process.pid)
    return sum(each.memory_info().rss for each in (parent, *parent.children())) / 2**20


@pytest.mark.hostile
def test_hostile_pictures_neither_stop_nor_fill_the_server(tiny_folder):
    """Every attack of tests/test_bounds.py at 30 MiB, two at a time, while an honest client keeps asking; then 24
    pictures of a few kB with 24 megapixels each."""
    from test_bounds import attacks

    stop, honest = threading.Event(), []

    def ask_honestly(address):
        while not stop.is_set():
            started = time.monotonic()
            answer = httpx.post(f"{address}/v1/inpaint", files=FILES, timeout=120)
            honest.append((answer.status_code, time.monotonic() - started))

    with command("--model", tiny_folder) as (process, address):
        asking = in_thread(ask_honestly, address)
        try:
            for name, data in attacks(30).items():
                both = [
                    in_thread(httpx.post, f"{address}/v1/upscale", files={"image": ("x", data)}, timeout=120)
                    for _ in range(2)
                ]
                assert {each.result(120).status_code for each in both} <= {200, 413, 422}, name
            flat = encoded(np.zeros((3999, 6000), np.uint8))
            many = [
                in_thread(
                    httpx.post, f"{address}/v1/erase", files={"image": ("x", flat), "mask": ("x", flat)}, timeout=300
                )
                for _ in range(24)
            ]
            highest = 0.0
            while not all(each.done() for each in many):
                highest = max(highest, resident(process))
                time.sleep(0.2)
            assert {each.result().status_code for each in many} <= {422, 503}
            assert highest < 2500, highest
        finally:
            stop.set()
        asking.result(120)
        assert {status for status, _ in honest} == {200} and max(seconds for _, seconds in honest) < 30, honest
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0


@pytest.mark.slow
def test_nothing_that_the_documentation_allows_or_forbids_makes_the_server_fail(address):
    """schemathesis makes up requests from the OpenAPI description, good and bad; none may end in a 500."""
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    seen = Counter()

    @settings(max_examples=4, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data())
    def try_one(operation, draw):
        strategy = operation.as_strategy(generation_mode=draw.draw(sampled_from(list(GenerationMode))))
        response = (case := draw.draw(strategy)).call(timeout=120)
        case.validate_response(response, checks=[checks.not_a_server_error, checks.response_schema_conformance])
        seen[operation.path, response.status_code] += 1

    for operation in schema.get_all_operations():
        try_one(operation.ok())
    assert {path for path, _ in seen} >= {f"/v1/{task}" for task in NEEDS} | {"/v1/tasks", "/metrics"}
    assert not [status for _, status in seen if status >= 500]


@pytest.mark.slow
def test_real_pictures_with_made_up_settings_never_make_it_fail(address):
    """schemathesis cannot make up pictures; here the pictures are real, and hypothesis varies the other fields."""
    values = one_of(
        text(max_size=12), integers().map(str), sampled_from(["25%", "4:5", "80x80", "1", "2", "png", "true"])
    )
    statuses = Counter()

    @settings(max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(sampled_from(sorted(NEEDS)), data())
    def try_one(task, draw):
        fields = sampled_from(
            ["prompt", "seed", "format", "strip", "guidance_scale", "grow", "left", "aspect", "scale"]
        )
        form = draw.draw(dictionaries(fields, values, max_size=3))
        response = httpx.post(f"{address}/v1/{task}", files=NEEDS[task]["files"], data=form, timeout=120)
        statuses[response.status_code] += 1
        assert response.status_code in (200, 413, 422), (form, response.text)

    try_one()
    assert statuses[200] and statuses[422]


def test_the_command_serves_until_sigterm(tiny_folder, tmp_path):
    """SIGTERM during an edit: it answers, then ends with status 0, which ``serve`` asserts."""
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    headers = {"X-API-Key": "secret"}

    def ask(address):
        assert httpx.post(f"{address}/v1/upscale", files=NEEDS["upscale"]["files"], timeout=120).status_code == 401
        files = {"image": ("photo.png", encoded(np.tile(PHOTO, (4, 4, 1))))}
        asked = in_thread(httpx.post, f"{address}/v1/upscale", files=files, headers=headers, timeout=120)

        def is_begun():
            page = httpx.get(f"{address}/metrics", headers=headers, timeout=120).text
            return "photofound_queue_seconds_count" in page

        wait_until(is_begun)
        return asked

    options = ["--model", str(tiny_folder), "--api-key-file", str(keys), "--device", "cpu"]
    asked = serve(free_port(), options, ask)
    assert decoded(asked.result(120)).shape == (512, 512, 3)


def test_a_port_in_use_is_one_line(tiny_folder, capsys):
    with connections.listen("127.0.0.1", 0) as taken:
        assert cli.main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "cannot listen" in error and "--port" in error


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--port", "x"], "port"),
        (["--port", "70000"], "--port"),
        (["--queue", "0"], "queue"),
        (["--window", "-1"], "window"),
    ]
    + [(["--api-key-file", "nowhere"], "nowhere"), (["--host", "300.1.1.1"], "listen"), (["here"], "here")],
)
def test_wrong_options_are_one_line(options, word, capsys):
    assert cli.main(["serve", *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and word in error
