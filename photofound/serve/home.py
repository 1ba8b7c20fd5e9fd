"""``GET /``: what this server is, and where to go on. HTML for a browser, JSON for anything else."""

from __future__ import annotations

import html
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from photofound import __version__

_LINKS = {
    "docs": "every address, with its fields, to try out",
    "openapi.json": "the same for programs",
    "v1/tasks": "the edits and what each takes",
    "v1/models": "the model and the edits, as OpenAI's clients ask for them",
    "healthz": "whether the server lives",
    "readyz": "whether it accepts edits",
    "metrics": "figures for Prometheus",
}
_STYLE = (
    "body{font:1rem/1.6 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;color-scheme:light dark}"
    "pre{overflow:auto;padding:1rem;border:1px solid #8888;border-radius:.5rem}dt{margin-top:.5rem}dd{margin:0}"
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>photofound</title><style>{style}</style></head><body><main>
<h1>photofound</h1>
<p>This server edits photographs. What you do not touch comes back bit for bit. Version {version}, model {model}.</p>
<pre><code>curl -F image=@room.jpg -F mask=@mask.png -F prompt="a plant" {url}v1/inpaint -o out.jpg</code></pre>
<pre><code>openai.OpenAI(base_url="{url}v1", api_key="x").images.edit(image=..., mask=..., prompt=...)</code></pre>
<dl>{links}</dl></main></body></html>
"""


def add_home(app: FastAPI, model: str) -> None:
    """Add the page."""

    @app.get("/", include_in_schema=False)
    async def home(request: Request) -> Response:
        url = str(request.base_url)
        if "text/html" not in request.headers.get("accept", ""):
            links: dict[str, Any] = {path: url + path for path in _LINKS}
            about = {"name": "photofound", "version": __version__, "model": model}
            return JSONResponse(about | {"about": "edits photographs; every task is POST /v1/TASK", "links": links})
        here = html.escape(url)
        listed = "".join(
            f'<dt><a href="{here}{path}">{path}</a></dt><dd>{about}</dd>' for path, about in _LINKS.items()
        )
        page = _PAGE.format(style=_STYLE, version=__version__, model=html.escape(model), url=here, links=listed)
        return HTMLResponse(page)
