"""The description of the server: /openapi.json, /docs, and the answers of its other addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from photofound import image
from photofound.edits.task import Task, offered
from photofound.picture import layered
from photofound.serve.form import PHOTOGRAPH, field_name
from photofound.serve.service import mime_type


class ErrorInfo(BaseModel):
    """What every error looks like: one sentence that says what is wrong and what to do."""

    detail: str


class InputInfo(BaseModel):
    """A field of a task's form."""

    name: str
    kind: str
    help: str
    required: bool
    default: str | bool | int | float | None


class TaskInfo(BaseModel):
    """A task and how to call it."""

    name: str
    summary: str
    url: str
    inputs: list[InputInfo]


class Status(BaseModel):
    """The state of the server."""

    status: str


ERRORS = {
    400: "the form cannot be read",
    401: "the API key is missing or unknown",
    403: "the request came under another name of this server (Host), or from another page (Origin)",
    408: "the body took too long to arrive",
    413: "more bytes or pixels than this server takes, sent or asked for, or more memory than there is",
    422: "something about the request is wrong; the detail says what",
    500: "a fault of the server",
    502: "the upstream server, where there is one, failed",
    503: "the queue is full, or the server stops; Retry-After says for how long",
    504: "the edit took too long",
}
TAGS = (
    ("edits", "send a photograph and what to do with it, receive the edited photograph"),
    ("images", "the same for clients of other servers: OpenAI's images API, IOPaint"),
    ("jobs", "edits to come back for"),
    ("choices", "which results people took"),
    ("server", "the tasks, and the state of the server"),
)


def task_info(task: Task) -> TaskInfo:
    """The entry of a task at /v1/tasks."""
    fields = [
        InputInfo(
            name=field_name(each),
            kind=each.kind,
            help=each.help.replace("%%", "%"),
            required=each.required,
            default=each.default,
        )
        for each in (PHOTOGRAPH, *offered(task))
    ]
    return TaskInfo(name=task.name, summary=task.summary, url=f"/v1/{task.name}", inputs=fields)


def task_responses() -> dict[int | str, dict[str, Any]]:
    """The answers of ``POST /v1/TASK``, as FastAPI wants them."""
    # The last type is for programs that know bytes, but no pictures.
    known = {mime_type(kind) for kind in (*image.SUFFIXES.values(), *layered.MIME)}
    kinds = [*sorted(known), "application/octet-stream"]
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}
    return error_responses() | {200: {"description": "the picture", "content": content}}


def error_responses(form: type[BaseModel] = ErrorInfo) -> dict[int | str, dict[str, Any]]:
    """The errors of every address that edits, in the form of an address's clients."""
    return {status: {"model": form, "description": text} for status, text in ERRORS.items()}


def task_description(task: Task) -> str:
    """The task's summary and a command to try."""
    needed = "".join(f" -F {field_name(each)}=@{field_name(each)}.png" for each in task.inputs if each.required)
    return f"{task.summary[:1].upper()}{task.summary[1:]}.\n\n    curl -F image=@photo.jpg{needed} URL -o result.jpg"


def add_documentation(app: FastAPI) -> None:
    """Add /openapi.json and /docs. Scripts and styles of the page come from a package, not from another host."""

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> JSONResponse:
        return JSONResponse(description_of(app) | {"servers": [{"url": str(request.base_url).rstrip("/")}]})

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")
        return get_swagger_ui_html(
            title="photofound",
            openapi_url=f"{root}/openapi.json",
            swagger_js_url=f"{root}/docs/assets/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/docs/assets/swagger-ui.css",
            swagger_favicon_url=f"{root}/docs/assets/favicon.png",
        )

    assets = Path(fastapi_offline.__file__).parent / "static"
    app.mount("/docs/assets", StaticFiles(directory=assets), name="assets")


def description_of(app: FastAPI) -> dict[str, Any]:
    """FastAPI's schema, with forms in words that every generator of clients knows."""
    schema = app.openapi()
    schemas = schema.get("components", {}).get("schemas", {})
    forms = {name: _simplified(each) for name, each in schemas.items() if name.startswith("Body_")}
    components = schema["components"] | {"schemas": schemas | forms}
    return schema | {"components": components, "tags": [{"name": name, "description": text} for name, text in TAGS]}


def _simplified(schema: Any) -> Any:
    """``format: binary`` for files; no null for fields that may be left out; whole numbers as bounds."""
    if isinstance(schema, list):
        return [_simplified(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    options = schema.get("anyOf", ())
    if len(options) == 2 and {"type": "null"} in options:
        (kind,) = (option for option in options if option != {"type": "null"})
        schema = {key: value for key, value in schema.items() if key != "anyOf"} | kind
    if schema.get("contentMediaType") == "application/octet-stream":
        schema = {key: value for key, value in schema.items() if key != "contentMediaType"} | {"format": "binary"}
    if schema.get("type") == "integer":  # pydantic gives bounds as floats, which cannot hold 64 bits
        bounds = {key: min(int(schema[key]), 2**63 - 1) for key in ("minimum", "maximum") if key in schema}
        schema = schema | bounds | ({"format": "int64"} if bounds.get("maximum", 0) >= 2**31 else {})
    return {key: _simplified(value) for key, value in schema.items()}
