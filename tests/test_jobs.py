"""Jobs: they are done without anybody waiting, survive a restart, and tell callbacks that the owner allows."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import json
import sqlite3
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest
import torch
from helpers import encoded, free_port, noise, serve, wait_until
from PIL import Image
from starlette.testclient import TestClient

from photofound import InpaintPipeline
from photofound.edits.task import get_task
from photofound.serve import jobs as jobs_module
from photofound.serve.app import create_app
from photofound.serve.config import ServeConfig
from photofound.serve.jobs import check_callback, signed
from photofound.serve.store import JobStore

PHOTO = noise(48, 64)
MASK = np.zeros((48, 64), np.uint8)
MASK[10:30, 20:40] = 255
FILES = {"image": ("photo.png", encoded(PHOTO), "image/png"), "mask": ("mask.png", encoded(MASK), "image/png")}


@pytest.fixture(autouse=True)
def _limit(monkeypatch):
    monkeypatch.setenv("PHOTOFOUND_MAX_PIXELS", "1000000")


@pytest.fixture(scope="module")
def pipe(tiny_folder):
    return InpaintPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)


@contextmanager
def served(pipe, **config):
    with TestClient(create_app(pipe, ServeConfig(**config)), raise_server_exceptions=False) as client:
        yield client


def ended(client, name, **options) -> dict:
    def state() -> dict:
        return client.get(f"/v1/jobs/{name}", **options).json()

    wait_until(lambda: state()["state"] in ("done", "failed"))
    return state()


def submitted(client, **data) -> str:
    answer = client.post("/v1/jobs/inpaint", files=FILES, data=data)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    return answer.json()["id"]


def test_a_job_gives_what_the_edit_would_have_given(pipe):
    with served(pipe) as client:
        name = submitted(client, seed=5, prompt="a plant", format="webp")
        job = ended(client, name)
        assert job["state"] == "done" and job["task"] == "inpaint" and job["finished"] >= job["created"]
        result = client.get(f"/v1/jobs/{name}/result")
        direct = client.post("/v1/inpaint", files=FILES, data={"seed": 5, "prompt": "a plant", "format": "webp"})
        assert result.status_code == 200 and result.headers["content-type"] == "image/webp"
        assert result.content == direct.content
        assert result.headers["content-disposition"] == direct.headers["content-disposition"]
        assert client.get(f"/v1/jobs/{name}/result").content == result.content, "it is kept"
        assert 'photofound_requests_total{model="tiny0",status="202",task="jobs/inpaint"} 1.0' in (
            client.get("/metrics").text
        )
        assert client.delete(f"/v1/jobs/{name}").status_code == 204
        for gone in (client.get(f"/v1/jobs/{name}"), client.get(f"/v1/jobs/{name}/result")):
            assert gone.status_code == 404 and "no" in gone.json()["detail"]


def test_what_is_wrong_is_told_at_once_or_by_the_job(pipe):
    with served(pipe, max_pixels=10_000) as client:

        def refused(files=FILES, **data):
            answer = client.post("/v1/jobs/inpaint", files=files, data=data)
            return answer.status_code, answer.json()["detail"]

        assert refused(seed="x")[0] == 422
        assert refused({"image": FILES["image"]})[0] == 422
        assert refused(FILES | {"image": ("x", b"nonsense")})[0] == 422
        assert refused(FILES | {"image": ("x", encoded(noise(200, 200)))})[0] == 413
        status, detail = refused(callback="https://shop.example/hook")
        assert status == 422 and "--allow-callback" in detail
        assert client.post("/v1/jobs/levitate", files=FILES).status_code in (404, 405)
        empty = {"mask": ("m.png", encoded(MASK * 0))}
        name = client.post("/v1/jobs/inpaint", files=FILES | empty).json()["id"]
        job = ended(client, name)
        assert job["state"] == "failed" and job["status"] == 422 and "mask is empty" in job["detail"]
        result = client.get(f"/v1/jobs/{name}/result")
        assert result.status_code == 422 and result.json()["detail"] == job["detail"]


def test_a_job_that_is_not_done_says_so_and_a_fault_is_told(pipe, monkeypatch):
    go, prepare = threading.Event(), get_task("inpaint").prepare

    def wait(*args, **inputs):
        assert go.wait(120)
        raise KeyError("secret")

    monkeypatch.setattr(get_task("inpaint"), "prepare", wait)
    with served(pipe) as client:
        name = submitted(client)
        early = client.get(f"/v1/jobs/{name}/result")
        assert early.status_code == 409 and "not done yet" in early.json()["detail"] and early.headers["retry-after"]
        go.set()
        job = ended(client, name)
        assert job["status"] == 500 and "secret" not in job["detail"]
        monkeypatch.setattr(get_task("inpaint"), "prepare", prepare)
        assert ended(client, submitted(client))["state"] == "done"


def test_a_restart_loses_no_job_and_no_result(pipe, tmp_path, monkeypatch):
    path, go, prepare = str(tmp_path / "jobs.sqlite"), threading.Event(), get_task("inpaint").prepare

    def wait(*args, **inputs):
        go.wait(120)
        return prepare(*args, **inputs)

    with served(pipe, jobs=path) as client:
        done = submitted(client, seed=1)
        ended(client, done)
        picture = client.get(f"/v1/jobs/{done}/result").content
        monkeypatch.setattr(get_task("inpaint"), "prepare", wait)
        running, waiting = submitted(client, seed=2), submitted(client, seed=3)
        threading.Timer(0.2, go.set).start()
    monkeypatch.setattr(get_task("inpaint"), "prepare", prepare)
    with served(pipe, jobs=path) as client:
        assert client.get(f"/v1/jobs/{done}/result").content == picture
        for name, seed in ((running, 2), (waiting, 3)):
            assert ended(client, name)["state"] == "done"
            direct = client.post("/v1/inpaint", files=FILES, data={"seed": seed})
            assert client.get(f"/v1/jobs/{name}/result").content == direct.content
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT count(*) FROM files").fetchone() == (0,), "photographs go when they are done"


@pytest.mark.parametrize("turns", range(5))
def test_jobs_stop_whatever_happens_at_that_moment(turns):
    """A worker that wakes up while it is cancelled ends, too."""

    async def play():
        jobs = jobs_module.Jobs(None, ServeConfig(jobs=":memory:"))
        jobs.start()
        await asyncio.sleep(0.1)
        jobs._changed.set()
        jobs._ended.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(120):
            await jobs.stop()

    asyncio.run(play())


def test_results_go_after_their_time_and_room_is_bounded(pipe, tmp_path):
    with served(pipe, job_seconds=0.3) as client:
        name = submitted(client)
        wait_until(lambda: client.get(f"/v1/jobs/{name}").status_code != 200)
        assert client.get(f"/v1/jobs/{name}/result").status_code == 404
    with served(pipe, job_bytes=1000) as client:
        full = client.post("/v1/jobs/inpaint", files=FILES)
        assert full.status_code == 503 and full.headers["retry-after"] == "60"


def test_a_job_needs_the_key_and_an_id_that_nobody_guesses(pipe):
    with served(pipe, keys=("k",)) as client:
        assert client.post("/v1/jobs/inpaint", files=FILES).status_code == 401
        key = {"headers": {"x-api-key": "k"}}
        name = client.post("/v1/jobs/inpaint", files=FILES, **key).json()["id"]
        assert len(name) >= 24 and client.get(f"/v1/jobs/{name}").status_code == 401
        assert ended(client, name, **key)["state"] == "done"
        assert client.get(f"/v1/jobs/{name}/result").status_code == 401
        for guess in ("x", "../jobs", "%00", "' OR 1=1 --"):
            assert client.get(f"/v1/jobs/{guess}", **key).status_code == 404


# ------------------------------------------------------------------------------------------------------------ callbacks


@contextmanager
def hook(statuses):
    """A server that answers with one status after another; what it was told."""
    told = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append((dict(self.headers), self.rfile.read(int(self.headers["content-length"])), self.path))
            status = statuses.pop(0) if statuses else 200
            self.send_response(status)
            if status == 302:
                self.send_header("location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", told
    finally:
        server.shutdown()
        server.server_close()


def test_a_callback_is_told_signed_and_until_it_answers(pipe, monkeypatch):
    monkeypatch.setattr(jobs_module, "AGAIN", (0.05, 0.05, 0.05))
    monkeypatch.setattr(jobs_module, "_IDLE", 0.05)
    with hook([500, 302]) as (url, told), served(pipe, callbacks=(f"{url}/hooks",), callback_key="secret") as client:
        name = submitted(client, callback=f"{url}/hooks/done?order=7")
        wait_until(lambda: len(told) == 3)
        time.sleep(0.3)
        assert len(told) == 3, "nothing after a success, and a redirect is no success"
        assert {path for _, _, path in told} == {"/hooks/done?order=7"}
        headers = {key.lower(): value for key, value in told[-1][0].items()}
        body = told[-1][1]
        assert json.loads(body)["id"] == headers["webhook-id"] == name and json.loads(body)["state"] == "done"
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
        expected = hmac.new(b"secret", f"{name}.{headers['webhook-timestamp']}.".encode() + body, hashlib.sha256)
        assert headers["webhook-signature"] == f"v1,{base64.b64encode(expected.digest()).decode()}"


def test_a_signature_is_that_of_standard_webhooks():
    """The example of its specification's reference libraries."""
    headers = signed(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
        now=1614265330,
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


ALLOWED = ("https://shop.example/hooks", "http://127.0.0.1:9000")


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example/hooks",
        "https://shop.example/hooks/a?b=c",
        "https://SHOP.example:443/hooks/a",
        "http://127.0.0.1:9000/",
        "http://127.0.0.1:9000/x/y",
    ],
)
def test_a_callback_below_an_allowed_address_is_allowed(url):
    check_callback(url, ALLOWED)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "shop.example/hooks",
        "http://shop.example/hooks",
        "https://shop.example/hooksx",
        "https://shop.example/",
        "https://shop.example:8443/hooks",
        "https://shop.example.evil.example/hooks",
        "https://shop.example@evil.example/hooks",
        "https://me:secret@shop.example/hooks",
        "https://evil.example/https://shop.example/hooks",
        "https://shop.example/hooks/../admin",
        "https://shop.example/hooks/%2e%2e/admin",
        "https://shop.example/hooks/%252e%252E/admin",
        "https://shop.example\\@evil.example/hooks",
        "https://shop.example/hooks#x",
        "http://127.0.0.1/",
        "http://127.0.0.1:90001/",
        "http://127.1:9000/",
        "http://2130706433:9000/",
        "http://[::1]:9000/",
        "http://localhost:9000/",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "gopher://127.0.0.1:9000/",
        "https://shop.example/hooks\r\nHost: evil",
    ],
)
def test_any_other_callback_is_refused(url):
    with pytest.raises(ValueError, match="is not allowed; the owner of this server"):
        check_callback(url, ALLOWED)
    with pytest.raises(ValueError, match="is not allowed"):
        check_callback(url, ())


@pytest.mark.parametrize(
    "url", ["", "shop.example", "ftp://x", "https://", "https://me@x/", "https://x/?a", "https://x/#a"]
)
def test_an_allowed_address_is_an_address(url):
    with pytest.raises(ValueError, match="callbacks has"):
        ServeConfig(callbacks=(url,), callback_key="k")


def test_callbacks_need_a_key():
    with pytest.raises(ValueError, match="--callback-key-file"):
        ServeConfig(callbacks=("https://shop.example",))


# ------------------------------------------------------------------------------------------------------------- the file


def test_a_file_in_use_or_of_another_program_is_refused(tmp_path):
    path = tmp_path / "jobs.sqlite"
    store = JobStore(str(path), 60, 10, 10**6)
    store.add("inpaint", {"seed": 1}, {"image": b"x"}, None)
    with pytest.raises(ValueError, match="is in use by another server"):
        JobStore(str(path), 60, 10, 10**6)
    store.close()
    JobStore(str(path), 60, 10, 10**6).close()
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE people (name TEXT)")
    with pytest.raises(ValueError, match="another program's"):
        JobStore(str(tmp_path / "other.sqlite"), 60, 10, 10**6)
    (tmp_path / "text").write_text("no database" * 100)
    for wrong in (tmp_path / "text", tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(ValueError, match="cannot be used"):
            JobStore(str(wrong), 60, 10, 10**6)


def test_photographs_are_overwritten_when_they_go(tmp_path):
    path = tmp_path / "jobs.sqlite"
    store = JobStore(str(path), 60, 10, 10**6)
    secret = b"the picture of somebody" * 400
    job = store.add("inpaint", {}, {"image": secret}, None)
    assert secret[:200] in path.read_bytes()
    store.finish(job.id, b"what was made of it", {})
    assert store.result(job.id) == b"what was made of it" and secret[:20] not in path.read_bytes()
    store.delete(job.id)
    store.close()
    assert b"what was made of it" not in path.read_bytes()


@pytest.mark.slow
def test_jobs_of_the_command_survive_its_end(tiny_folder, tmp_path, monkeypatch):
    """``photofound serve --port N``, ended and started again: the job's result is still there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    port = free_port()

    arguments = ["--model", str(tiny_folder)]

    def submit(address):
        return httpx.post(f"{address}/v1/jobs/inpaint", files=FILES, timeout=120)

    def fetch(address):
        with httpx.Client(base_url=address, timeout=120) as client:
            assert ended(client, answer.json()["id"])["state"] == "done"
            return client.get(f"/v1/jobs/{answer.json()['id']}/result").content

    answer = serve(port, arguments, submit)
    assert answer.status_code == 202
    made = np.asarray(Image.open(io.BytesIO(serve(port, arguments, fetch))))
    assert (made[MASK == 0] == PHOTO[MASK == 0]).all()
    (file,) = (tmp_path / "photofound").iterdir()
    assert file.name == f"jobs-{port}.sqlite" and file.stat().st_mode & 0o077 == 0
