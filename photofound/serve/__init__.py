"""The HTTP server.

Each file imports only files above it:

    config       ServeConfig: limits, keys, hosts, origins
    keys         API keys, from a file or the environment
    metrics      the figures for Prometheus
    workers      files of strangers, read and written in separate processes
    connections  an address to listen at, clients that stall, signals
    queue        a queue of edits, and the threads that compute them in batches
    upstream     another server that paints, behind our exact compositing
    codec        uploads to pictures, results to bytes, within a bound of memory
    form         the form of a request, from what the task declares
    service      what every address does with an edit: read, queue, wait, write
    errors       errors as answers, in the form that an address's clients know
    gate         which requests are let in
    endpoint     the handler of POST /v1/TASK
    openapi      /openapi.json and /docs
    openai       OpenAI's images API
    iopaint      IOPaint's /api/v1/inpaint
    store        jobs in an SQLite file
    jobs         POST /v1/jobs/TASK: edits to come back for, and callbacks
    choices      which of several results was chosen
    home         GET /, for people and for programs
    app          the application
    mcp          the edits as tools for assistants
    cluster      the server on a Ray cluster
"""

from importlib import import_module
from typing import Any

# The names of the server's Python interface; nothing is imported before one of them is used.
_PUBLIC = {"create_app": "app", "run": "app", "ServeConfig": "config", "listen": "connections"}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"photofound.serve.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'photofound.serve' has no attribute {name!r}")
