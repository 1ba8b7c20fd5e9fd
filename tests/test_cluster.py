"""The server on a Ray cluster: what its settings mean, what a replica is, and one of two replicas on a local Ray."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading

import httpx
import numpy as np
import pytest
from helpers import free_port, wait_until
from PIL import Image
from starlette.testclient import TestClient

from photofound.serve import cluster
from photofound.serve.cluster import ClusterConfig
from photofound.serve.config import ServeConfig


@pytest.fixture(autouse=True)
def _limit(monkeypatch):
    monkeypatch.setenv("PHOTOFOUND_MAX_PIXELS", "1000000")  # applications set it: put back afterwards


def files():
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)).save(stream, "PNG")
    return {"image": ("photo.png", stream.getvalue())}


@pytest.mark.slow
def test_a_replica_is_the_whole_server(tiny_folder, monkeypatch):
    monkeypatch.setenv("PHOTOFOUND_API_KEY", "secret")
    wanted = ClusterConfig(model=str(tiny_folder), server=ServeConfig(queue=3))
    with TestClient(cluster.replica(wanted)) as client:
        assert client.post("/v1/upscale", files=files()).status_code == 401
        answer = client.post("/v1/upscale", files=files(), headers={"X-API-Key": "secret"})
        assert Image.open(io.BytesIO(answer.content)).size == (96, 96)
        assert client.app.state.queue.config.queue == 3


def test_contradicting_bounds_are_refused():
    with pytest.raises(ValueError, match="min_replicas is 3"):
        ClusterConfig(min_replicas=3, max_replicas=2)


def ray_serve():
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed; pip install 'photofound[cluster]' to test it")


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"modell": "x"}, "model"), ({"server.queue": 0}, "queue"), ({"max_replicas": "many"}, "max_replicas")],
)
def test_wrong_settings_are_refused_before_anything_starts(settings, word):
    ray_serve()
    with pytest.raises(ValueError, match=word):
        cluster.build(settings)


@pytest.fixture
def local_ray(monkeypatch):
    ray_serve()
    import ray
    from ray import serve as ray_serving

    for name in ("READY_CHECK", "HEALTH_CHECK"):  # on a machine that is busy with something else
        monkeypatch.setenv(f"RAY_SERVE_PROXY_{name}_TIMEOUT_S", "60")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's 15 would starve there
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")])))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        port = free_port()
        with contextlib.suppress(TimeoutError):  # Ray waits for a minute; on a busy machine its proxy comes later
            ray_serving.start(http_options={"host": "127.0.0.1", "port": port})
        yield ray_serving, f"http://127.0.0.1:{port}"
    finally:
        ray_serving.shutdown()
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_two_replicas_give_the_same_answer_and_the_second_starts_under_load(local_ray, tiny_folder):
    ray_serving, address = local_ray
    settings = {"model": str(tiny_folder), "cpus": 0.5, "max_replicas": 2, "target": 1, "upscale_seconds": 0}
    ray_serving.run(cluster.build(settings), name="photofound")
    wait_until(lambda: ready(address), 600)
    assert len(httpx.get(f"{address}/v1/tasks", timeout=600).json()) == 5

    answers, stop = [], threading.Event()

    def keep_asking():
        while not stop.is_set():
            answers.append(httpx.post(f"{address}/v1/upscale", files=files(), data={"seed": 3}, timeout=600))

    askers = [threading.Thread(target=keep_asking) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        wait_until(lambda: running(ray_serving) == 2, 600)  # four at a time are more than one replica is to have
        before = len(answers)
        wait_until(lambda: len(answers) > before + 20, 600)  # for both to answer
    finally:
        stop.set()
        for asker in askers:
            asker.join()
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1, "one seed, one picture, whichever replica and batch"
    assert httpx.post(f"{address}/v1/upscale", timeout=600).status_code == 422


def ready(address) -> bool:
    with contextlib.suppress(httpx.TransportError):  # the proxy may come late
        return httpx.get(f"{address}/readyz", timeout=600).json() == {"status": "ready"}
    return False


def running(ray_serving) -> int:
    states = ray_serving.status().applications["photofound"].deployments["photofound"].replica_states
    return {str(getattr(state, "value", state)): count for state, count in states.items()}.get("RUNNING", 0)
