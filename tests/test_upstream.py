"""The gateway: a fake server of the images API that moves, zooms, tints and compresses, and one that misbehaves."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from contextlib import contextmanager
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import openai
import pytest
from helpers import encoded, free_port, serve
from PIL import Image
from starlette.testclient import TestClient

from photofound.cli import main
from photofound.serve import upstream
from photofound.serve.app import create_app
from photofound.serve.config import ServeConfig
from photofound.serve.upstream import Frame, Upstream, UpstreamPipeline

WIDTH, HEIGHT = 240, 160
SIZES = ("240x160", "160x160", "160x240")


def scene(width=WIDTH, height=HEIGHT) -> np.ndarray:
    """A photograph-like picture: smooth shapes of many sizes, so that a motion can be found."""
    rng = np.random.default_rng(3)
    layers = [
        cv2.resize(rng.uniform(size=(n, n, 3)), (width, height), interpolation=cv2.INTER_CUBIC) for n in (5, 13, 40)
    ]
    return (np.clip(0.5 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2], 0, 1) * 255).astype(np.uint8)


PHOTO = scene()
HOLE = np.zeros((HEIGHT, WIDTH), np.uint8)
HOLE[50:110, 90:150] = 255
MASK = np.dstack([PHOTO, 255 - HOLE])
PAINT = (40, 200, 90)


class Fake:
    """What a fake upstream was asked, and how it answers: ``behave`` gets the picture with its hole painted."""

    def __init__(self):
        self.asked = []
        self.behave = lambda picture: picture
        self.answer = None  # (status, body, headers) in place of a picture
        self.format = "JPEG"
        self.go = threading.Event()  # until then nothing is answered
        self.go.set()
        self.url_first = False

    def respond(self, path, headers, body):
        fields, files = _form(headers, body)
        self.asked.append((path, {name.lower(): value for name, value in headers.items()}, fields, files))
        self.go.wait(120)
        if self.answer is not None:
            return self.answer
        if self.url_first and "response_format" not in fields:
            return 200, json.dumps({"created": 1, "data": [{"url": "http://127.0.0.1:1/secret"}]}).encode(), {}
        if "image" in files:
            made = np.asarray(Image.open(io.BytesIO(files["image"]))).copy()
            if "mask" in files:
                made[np.asarray(Image.open(io.BytesIO(files["mask"])))[..., 3] == 0] = PAINT
        else:
            width, height = map(int, fields["size"].split("x"))
            made = np.full((height, width, 3), PAINT, np.uint8)
        data = encoded(self.behave(made), self.format, quality=85)
        return 200, json.dumps({"created": 1, "data": [{"b64_json": base64.b64encode(data).decode()}]}).encode(), {}


def _form(headers, body):
    if headers["content-type"].startswith("application/json"):
        return json.loads(body), {}
    parts = BytesParser().parsebytes(b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body)
    fields, files = {}, {}
    for part in parts.get_payload():
        name = part.get_param("name", header="content-disposition")
        into = files if part.get_filename() else fields
        into[name] = part.get_payload(decode=True) if part.get_filename() else part.get_payload()
    return fields, files


@contextmanager
def running(fake):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            status, answer, headers = fake.respond(self.path, self.headers, body)
            try:
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)
            except (BrokenPipeError, ConnectionResetError):  # the gateway had enough
                pass

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def gateway_to(fake, seconds=120.0):
    """A client of a gateway whose upstream is ``fake``, and what asks it."""
    with running(fake) as url:
        asker = Upstream(url, key="secret", model="gpt-image-1", sizes=SIZES, seconds=seconds, max_pixels=1_000_000)
        config = ServeConfig(batch=1, workers=4, max_pixels=1_000_000)
        try:
            with TestClient(create_app(UpstreamPipeline(asker), config), raise_server_exceptions=False) as client:
                yield client, asker
        finally:
            asker.close()


@pytest.fixture(scope="module")
def kept():
    """The fake upstream that all tests share, a client of the gateway to it, and what asks it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PHOTOFOUND_MAX_PIXELS", "1000000")  # create_app sets it for the process
        with gateway_to(fake := Fake()) as (client, asker):
            yield fake, client, asker


@pytest.fixture
def fake(kept):
    """As new in each test, and the gateway knows nothing of it."""
    fake, _, asker = kept
    fake.__init__()
    asker._wants_format = False
    return fake


@pytest.fixture
def gateway(kept, fake, monkeypatch):
    monkeypatch.setenv("PHOTOFOUND_MAX_PIXELS", "1000000")
    return kept[1]


def images_of(client):
    return openai.OpenAI(base_url="http://testserver/v1", api_key="x", http_client=client, max_retries=0).images


@pytest.fixture
def images(gateway):
    return images_of(gateway)


def file(array):
    return "x.png", encoded(array), "image/png"


def pixels(answer) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json))))


def warped(matrix, tint=1.0, offset=0):
    """A behaviour: the picture moved by an affine map, its colours changed."""

    def behave(picture):
        size = picture.shape[1::-1]
        moved = cv2.warpAffine(picture, np.float32(matrix), size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        return (moved.astype(np.float32) * tint + offset).clip(0, 255).astype(np.uint8)

    return behave


SHIFTS = [[1, 0, 4], [0, 1, -3]]
ZOOMS = [[1.02, 0, -2.4], [0, 1.02, -1.6]]
BEHAVIOURS = {
    "as it is": lambda picture: picture,
    "shifted": warped(SHIFTS),
    "zoomed": warped(ZOOMS),
    "tinted": warped([[1, 0, 0], [0, 1, 0]], 0.9, 12),
    "all of it": warped([[1.02, 0, 2], [0, 1.02, -4]], 0.92, 8),
    "smaller": lambda picture: cv2.resize(picture, (120, 80), interpolation=cv2.INTER_AREA),
}


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_what_is_protected_is_exact_and_what_was_altered_is_told(fake, images, name):
    fake.behave = BEHAVIOURS[name]
    answer = images.edit(image=file(PHOTO), mask=file(MASK), prompt="a plant")
    made = pixels(answer)
    assert (made[HOLE == 0] == PHOTO[HOLE == 0]).all()
    middle = made[60:100, 100:140].reshape(-1, 3).mean(0)
    assert np.abs(middle - PAINT).max() < 60, "what the upstream painted is there"
    (note,) = answer.model_extra["photofound"]["notes"]
    count, protected = map(int, re.search(r"altered (\d+) of (\d+) protected pixels", note).groups())
    assert protected == (HOLE == 0).sum() and 0.5 * protected < count <= protected, "JPEG alters most"
    assert ("had moved the picture" in note) == (name in ("shifted", "zoomed", "all of it")), note


def test_an_upstream_that_alters_nothing_is_said_to(fake, images):
    fake.format = "PNG"
    answer = images.edit(image=file(PHOTO), mask=file(MASK), prompt="a plant")
    assert "altered 0 of 34800 protected pixels (0%" in answer.model_extra["photofound"]["notes"][0]


def test_a_shift_is_undone_so_that_the_paint_lies_in_the_hole(fake, images):
    """A dot in the middle of the hole comes back where it was painted, though the whole picture was moved."""

    def behave(picture):
        picture[78:82, 118:122] = 255
        return warped(SHIFTS)(picture)

    fake.behave = behave
    made = pixels(images.edit(image=file(PHOTO), mask=file(MASK), prompt="x")).astype(int).sum(-1)
    inside = np.where(HOLE > 0, made, 0)
    y, x = np.argwhere(inside > inside.max() - 60).mean(0)
    assert abs(y - 79.5) < 1 and abs(x - 119.5) < 1


def test_the_upstream_is_asked_in_its_own_words(fake, gateway, images):
    images.edit(image=file(PHOTO), mask=file(MASK), prompt="a plant")
    path, headers, fields, files = fake.asked.pop()
    assert path == "/v1/images/edits" and headers["authorization"] == "Bearer secret"
    assert fields == {"prompt": "a plant", "n": "1", "size": "240x160", "model": "gpt-image-1"}
    alpha = np.asarray(Image.open(io.BytesIO(files["mask"])))[..., 3]
    assert ((alpha == 0) == (HOLE > 0)).all()
    sent = np.asarray(Image.open(io.BytesIO(files["image"])))
    assert (sent[HOLE == 0] == PHOTO[HOLE == 0]).all()
    gateway.post("/v1/erase", files={"image": file(PHOTO), "mask": file(HOLE)})
    assert "Remove what is in the transparent area" in fake.asked.pop()[2]["prompt"]
    made = images.generate(prompt="a cup", size="160x160")
    assert pixels(made).shape == (160, 160, 3) and fake.asked.pop()[0] == "/v1/images/generations"


def test_an_instruction_goes_to_the_whole_picture_and_what_did_not_change_is_exact(fake, images):
    def behave(picture):
        picture[50:110, 90:150] = PAINT
        return picture

    fake.behave, fake.format = behave, "PNG"
    answer = images.edit(image=file(PHOTO), prompt="make it green")
    made = pixels(answer)
    assert "mask" not in fake.asked[0][3] and answer.model_extra["photofound"]["task"] == "edit"
    far = np.ones((HEIGHT, WIDTH), bool)
    far[30:130, 70:170] = False
    assert (made[far] == PHOTO[far]).all() and np.abs(made[70:90, 110:130].astype(int) - PAINT).max() < 12


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (77, 51), (1, 240)])
def test_any_shape_goes_there_in_a_frame_and_comes_back_in_its_own_size(fake, gateway, size):
    photo = scene(*size)
    hole = np.zeros(size[::-1], np.uint8)
    hole[size[1] // 3 : 2 * size[1] // 3, : max(1, size[0] // 2)] = 255
    answer = gateway.post("/v1/inpaint", files={"image": file(photo), "mask": file(hole)}, data={"prompt": "x"})
    made = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert made.shape == photo.shape and (made[hole == 0] == photo[hole == 0]).all()
    assert fake.asked[0][2]["size"] in SIZES
    assert "protected pixels" in answer.headers["x-photofound-note"]


def test_many_holes_are_one_question(fake, gateway):
    holes = np.zeros((HEIGHT, WIDTH), np.uint8)
    holes[5:20, 5:20] = holes[130:150, 200:230] = 255
    answer = gateway.post("/v1/inpaint", files={"image": file(PHOTO), "mask": file(holes)})
    assert answer.status_code == 200 and len(fake.asked) == 1


def test_other_edits_are_painted_by_it_too(fake, gateway):
    assert {task["name"] for task in gateway.get("/v1/tasks").json()} >= {"inpaint", "outpaint", "expand", "edit"}
    wide = gateway.post("/v1/expand", files={"image": file(PHOTO)}, data={"left": 40})
    made = np.asarray(Image.open(io.BytesIO(wide.content)))
    assert made.shape == (HEIGHT, WIDTH + 40, 3) and (made[:, 40:] == PHOTO).all()
    behind = gateway.post("/v1/outpaint", files={"image": file(PHOTO), "subject": file(HOLE)}, data={"prompt": "wood"})
    made = np.asarray(Image.open(io.BytesIO(behind.content)))
    assert (made[HOLE > 0] == PHOTO[HOLE > 0]).all() and (made[HOLE == 0] != PHOTO[HOLE == 0]).any()
    assert gateway.post("/v1/upscale", files={"image": file(PHOTO)}).status_code == 404


def test_a_url_is_not_fetched_but_the_picture_asked_for(fake, images):
    fake.url_first = True
    for _ in range(2):
        images.edit(image=file(PHOTO), mask=file(MASK), prompt="x")
    assert ["response_format" in each[2] for each in fake.asked] == [False, True, True]


def test_two_who_learn_of_it_at_once_both_get_their_picture(monkeypatch):
    asker = Upstream("http://127.0.0.1:1")
    picture = base64.b64encode(encoded(PHOTO)).decode()

    def posted(url, body):
        if "response_format" in body["json"]:
            return {"data": [{"b64_json": picture}]}
        asker._wants_format = True  # another worker was told so meanwhile
        return {"data": [{"url": "http://127.0.0.1:1/secret"}]}

    monkeypatch.setattr(asker, "_posted", posted)
    try:
        assert (asker._ask("images/generations", {}, None) * 255).round().astype(np.uint8).shape == PHOTO.shape
    finally:
        asker.close()


def nonsense(text):
    return 200, json.dumps({"data": [{"b64_json": text}]}).encode(), {}


def refusal(status, message, **headers):
    return status, json.dumps({"error": {"message": message}}).encode(), headers


FAILURES = {
    "no JSON": ((200, b"<html>", {}), 502, "no JSON"),
    "deep JSON": ((200, b"[" * 100_000, {}), 502, "no JSON"),
    "no data": ((200, b'{"data": []}', {}), 502, "without a picture"),
    "a number": ((200, b"7", {}), 502, "without a picture"),
    "another type": ((200, b'{"data": [{"b64_json": 7}]}', {}), 502, "without a picture"),
    "only a URL": ((200, b'{"data": [{"url": "http://127.0.0.1:1/x"}]}', {}), 502, "without a picture"),
    "no base64": (nonsense("???"), 502, "cannot be read: base64"),
    "no picture": (nonsense(base64.b64encode(b"nonsense").decode()), 502, "cannot be read"),
    "too many pixels": (nonsense(base64.b64encode(encoded(np.zeros((2000, 900), np.uint8))).decode()), 502, "cannot"),
    "another shape": (nonsense(base64.b64encode(encoded(np.zeros((160, 160), np.uint8))).decode()), 502, "160x160"),
    "a redirect": ((302, b"", {"location": "http://127.0.0.1:1/"}), 502, "status 302"),
    "a fault": ((500, b"", {}), 502, "status 500"),
    "a wrong key": (refusal(401, "bad key sk-123"), 502, "does not accept this server's key"),
    "too busy": (refusal(429, "slow down", **{"retry-after": "7"}), 503, "try again in 7 s"),
    "a refusal": (refusal(400, "not\nsafe \x1b[31m"), 400, "refused the edit: not safe"),
    "a silent refusal": ((400, b"?", {}), 400, "it does not say why"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_an_upstream_that_fails_is_one_clear_error_in_the_clients_form(fake, images, name):
    fake.answer, status, words = FAILURES[name]
    with pytest.raises(openai.APIStatusError, match=re.escape(words)) as caught:
        images.edit(image=file(PHOTO), mask=file(MASK), prompt="x")
    message = caught.value.body["message"]
    assert caught.value.status_code == status and message.startswith("the upstream server") and "\n" not in message
    assert "sk-123" not in message and "127.0.0.1" not in message
    fake.answer = None
    images.edit(image=file(PHOTO), mask=file(MASK), prompt="x")  # and the gateway goes on


def test_too_many_bytes_and_too_much_time_are_errors(fake, images, monkeypatch):
    asked = {"image": file(PHOTO), "mask": file(MASK), "prompt": "x"}
    monkeypatch.setattr(upstream, "MOST_BYTES", 2**20)
    fake.answer = (200, b" " * 2**22, {})
    with pytest.raises(openai.InternalServerError, match="more than 1 MiB"):
        images.edit(**asked)
    fake.answer = None
    fake.go.clear()
    with gateway_to(fake, seconds=0.5) as (late, _):
        with pytest.raises(openai.InternalServerError, match="did not answer within 0.5 s") as caught:
            images_of(late).edit(**asked)
        assert caught.value.status_code == 504
        fake.go.set()


def test_an_upstream_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setenv("PHOTOFOUND_MAX_PIXELS", "1000000")
    other = Upstream("http://127.0.0.1:9", sizes=SIZES)
    with TestClient(create_app(UpstreamPipeline(other)), raise_server_exceptions=False) as client:
        answer = client.post("/v1/inpaint", files={"image": file(PHOTO), "mask": file(HOLE)})
        assert answer.status_code == 502 and "cannot be reached (ConnectError)" in answer.json()["detail"]
    other.close()


def test_edits_are_sent_side_by_side(fake, gateway):
    together, statuses = threading.Barrier(4), []

    def wait_for_the_others(picture):
        together.wait(timeout=120)  # raises if they come one by one
        return picture

    fake.behave = wait_for_the_others

    def ask():
        answer = gateway.post("/v1/inpaint", files={"image": file(PHOTO), "mask": file(HOLE)})
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 4


def test_a_frame_holds_the_picture_in_its_middle():
    frame = Frame.around((60, 100, 3), (200, 100))
    picture = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
    padded = frame.padded(picture)
    assert padded.shape == (100, 200, 3) and (frame.cropped(padded) == picture).all()
    assert (padded[0, 50:150] == picture[0]).all()
    hole = frame.padded(np.zeros((60, 100), bool), outside=True)
    assert hole.sum() == 100 * 200 - 60 * 100


@pytest.mark.slow
def test_the_command_is_a_gateway(fake, monkeypatch):
    """``photofound serve --port N --upstream URL``."""

    def ask(address):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0)
        return pixels(client.images.edit(image=file(PHOTO), mask=file(MASK), prompt="a plant"))

    monkeypatch.setenv("PHOTOFOUND_MAX_PIXELS", "1000000")  # the command sets it: put back afterwards
    with running(fake) as url:
        made = serve(free_port(), ["--upstream", url, "--upstream-sizes", ",".join(SIZES)], ask)
    assert (made[HOLE == 0] == PHOTO[HOLE == 0]).all() and (made[70:90, 110:130] != PHOTO[70:90, 110:130]).any()


@pytest.mark.parametrize("url", ["", "ftp://x/v1", "nowhere", "http://", "http://me:secret@x/v1", "http://x/v1?key=1"])
def test_an_address_that_is_none_is_one_line(url, capsys):
    assert main(["serve", "--port", "0", "--upstream", url]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "upstream" in error


def test_where_the_api_begins():
    addresses = {"http://x": "http://x/v1", "http://x/": "http://x/v1", "https://x/api/v1/": "https://x/api/v1"}
    assert {url: upstream._checked(url) for url in addresses} == addresses


def test_a_model_and_an_upstream_exclude_each_other(capsys):
    assert main(["serve", "--upstream", "http://x", "--model", "m"]) == 2
    assert "leave one of them out" in capsys.readouterr().err


def test_the_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    assert upstream.read_key(None) is None
    (tmp_path / "key").write_text("abc\n")
    assert upstream.read_key(tmp_path / "key") == "abc"
    monkeypatch.setenv("PHOTOFOUND_UPSTREAM_KEY", "def")
    assert upstream.read_key(None) == "def"
