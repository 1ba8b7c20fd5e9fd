"""GET /: what the server says of itself, to people and to programs."""

import re

from starlette.testclient import TestClient

from photofound import InpaintPipeline
from photofound.serve.app import create_app
from photofound.serve.config import ServeConfig


def test_the_first_page_says_what_it_is_and_its_links_lead_somewhere(tiny_folder, monkeypatch):
    monkeypatch.setenv("PHOTOFOUND_MAX_PIXELS", "1000000")
    pipe = InpaintPipeline.from_pretrained(tiny_folder)
    with TestClient(create_app(pipe, ServeConfig(keys=("k",)))) as client:
        page = client.get("/", headers={"accept": "text/html,application/xhtml+xml"})
        assert page.headers["content-type"].startswith("text/html") and "edits photographs" in page.text
        links = re.findall(r'href="([^"]+)"', page.text)
        told = client.get("/").json()
        assert told["name"] == "photofound" and told["model"] == "tiny0" and set(told["links"].values()) == set(links)
        assert len(links) == 7
        assert {client.get(link, headers={"x-api-key": "k"}).status_code for link in links} == {200}
        odd = client.get("/", headers={"accept": "text/html", "host": 'x"><script>'})
        assert "<script>" not in odd.text
