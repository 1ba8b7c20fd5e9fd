"""``photofound serve``: the HTTP server."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from photofound.cli.arguments import Parser, add_credentials_options, add_model_options, count, file_name, number, port
from photofound.cli.console import print_line, say
from photofound.cli.model import load_pipeline, quiet_libraries, without_gc
from photofound.cli.proof import signing
from photofound.serve.config import ServeConfig
from photofound.serve.keys import read_keys

SUMMARY = "serve the edits over HTTP: photofound serve --port N"


def run(argv: list[str]) -> int:
    """Serve until SIGTERM or Ctrl-C. The port is bound before the model is loaded, so that a port in use is reported at
    once."""
    args = serve_parser().parse_args(argv)
    try:
        from photofound.serve import app
        from photofound.serve.connections import listen
    except ModuleNotFoundError as error:
        raise ValueError(f"serve needs {error.name}; pip install 'photofound[serve]'") from None

    signing(args)  # a bad certificate is told before the model is loaded
    config = _config(args, read_keys(args.api_key_file), _jobs_file(args))
    with listen(args.host, args.port) as listener:
        pipe = load_pipeline(args) if args.upstream is None else _upstream(args)
        host, port = listener.getsockname()[:2]
        if not args.quiet:
            print_line(f"http://{f'[{host}]' if ':' in host else host}:{port}/docs")
        if not config.keys and host not in ("127.0.0.1", "::1"):
            say(f"warning: {host} is open to others and there is no API key; see --api-key-file")
        for name in config.segmenters:
            pipe.search(name)  # what cannot be had is told at the start
        app.run(pipe, config, listener)
    return 0


def _upstream(args: argparse.Namespace) -> Any:
    """The tasks painted by another server."""
    with without_gc():
        from photofound.serve import upstream

    quiet_libraries()
    given = {"model": args.upstream_model, "sizes": args.upstream_sizes.split(","), "seconds": args.upstream_seconds}
    key = upstream.read_key(args.upstream_key_file)
    return upstream.UpstreamPipeline(upstream.Upstream(args.upstream, key, **given, max_pixels=args.max_pixels))


def _jobs_file(args: argparse.Namespace) -> str:
    """Where jobs are kept: what was said, or a file of this user for each port; with any port, or where nothing can be
    written, in memory."""
    if args.jobs_file is not None:
        return str(args.jobs_file)
    if args.port == 0:
        return ":memory:"
    state = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.local/state"
    folder = Path(state).expanduser() / "photofound"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"jobs-{args.port}.sqlite"
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # others must not read the photographs in it
        return str(path)
    except OSError as error:
        say(f"warning: jobs are lost when the server ends ({error.strerror}: {folder}); see --jobs-file")
        return ":memory:"


def _config(args: argparse.Namespace, keys: tuple[str, ...], jobs: str) -> ServeConfig:
    gateway = args.upstream is not None
    if gateway and args.model is not None:
        raise ValueError("--upstream: another server paints, so --model has nothing to do; leave one of them out")
    return ServeConfig(
        queue=args.queue,
        batch=1 if gateway else args.batch,
        workers=args.batch if gateway else 1,
        window=args.window / 1000,
        max_bytes=args.max_megabytes * 2**20,
        max_pixels=args.max_pixels,
        max_steps=args.max_steps,
        max_uploads=args.max_upload_megabytes * 2**20,
        read_seconds=args.read_seconds,
        edit_seconds=args.edit_seconds,
        jobs=jobs,
        job_seconds=args.job_hours * 3600,
        job_bytes=args.job_megabytes * 2**20,
        callbacks=tuple(args.allow_callback),
        callback_key=next(iter(read_keys(args.callback_key_file, "PHOTOFOUND_CALLBACK_KEY")), ""),
        formats=tuple(name.strip().upper() for name in args.formats.split(",")),
        segmenters=tuple(args.segmenter),
        keys=keys,
        hosts=_hosts(args.host, args.allow_host),
        origins=tuple(args.allow_origin),
        choices=str(args.choices or ""),
        c2pa_cert=str(args.c2pa_cert or ""),
        c2pa_key=str(args.c2pa_key or ""),
    )


def _hosts(host: str, allowed: list[str]) -> tuple[str, ...]:
    """The names in the header Host that the server answers to; empty = all. A server for this machine only must not
    answer to other names: a page elsewhere could let its own name point here (DNS rebinding)."""
    if "*" in allowed:
        return ()
    return ("localhost", *allowed) if allowed or host in ("127.0.0.1", "::1", "localhost") else ()


def serve_parser() -> Parser:
    """The options of ``photofound serve``; their defaults are those of ``ServeConfig``."""
    parser = Parser(prog="photofound serve", usage="photofound serve [options]", description=SUMMARY)
    parser.add_argument("--quiet", action="store_true", help="print errors and warnings only")
    default = ServeConfig()
    _add_address(parser)
    add_model_options(parser)
    help = "keep in this folder which results clients' users chose (POST /v1/choices), for 'photofound learn'"
    parser.add_argument("--choices", metavar="DIR", type=file_name, help=help)
    add_credentials_options(parser)
    help = "what clients may find subjects with, beside cutout and grabcut; may be repeated: docs/segmenters.md"
    parser.add_argument("--segmenter", action="append", default=[], metavar="NAME", help=help)
    _add_upstream(parser)
    _add_work(parser, default)
    _add_jobs(parser, default)
    _add_limits(parser, default)
    return parser


def _add_address(parser: Parser) -> None:
    add = parser.add_argument_group("address and access").add_argument
    add("--host", default="127.0.0.1", help="address to listen on; default: this machine only; 0.0.0.0: all networks")
    add("--port", type=port, default=8000, metavar="N", help="default: 8000; 0: any free one")
    add(
        "--api-key-file",
        type=file_name,
        metavar="FILE",
        help="API keys, one per line; default: the key in $PHOTOFOUND_API_KEY, or no keys",
    )
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name of this server (header Host), beside addresses and localhost; may be repeated; *: any name. "
        "Default: any name, but with the default --host only localhost",
    )
    add(
        "--allow-origin",
        action="append",
        default=[],
        metavar="URL",
        help="pages that may call the server from a browser, like https://example.com; may be repeated; *: all pages",
    )


def _add_upstream(parser: Parser) -> None:
    add = parser.add_argument_group("another server as the painter").add_argument
    what = "where its images API (OpenAI's) begins, like https://api.example/v1; what is kept stays exact"
    add("--upstream", metavar="URL", help=what)
    key = "file with its API key; default: the key in $PHOTOFOUND_UPSTREAM_KEY, or none"
    add("--upstream-key-file", type=file_name, metavar="FILE", help=key)
    add("--upstream-model", metavar="NAME", help="the model to ask it for; default: its own choice")
    sizes = "1024x1024,1536x1024,1024x1536"
    add("--upstream-sizes", default=sizes, metavar="A,B", help="sizes that it makes; default: %(default)s")
    add("--upstream-seconds", type=number, default=120.0, metavar="S", help="to answer; default: %(default)s")


def _add_work(parser: Parser, default: ServeConfig) -> None:
    add = parser.add_argument_group("queue and batches").add_argument
    add("--queue", type=count, default=default.queue, metavar="N", help="requests that may wait; default: %(default)s")
    batch = "largest batch, or how many edits another server is sent at a time; default: %(default)s"
    add("--batch", type=count, default=default.batch, metavar="N", help=batch)
    wait = "how long the first request of a batch waits for others, in milliseconds; default: %(default)s"
    add("--window", type=number, default=default.window * 1000, metavar="MS", help=wait)


def _add_jobs(parser: Parser, default: ServeConfig) -> None:
    add = parser.add_argument_group("jobs (POST /v1/jobs/TASK)").add_argument
    where = "file that they are kept in; default: jobs-PORT.sqlite in ~/.local/state/photofound"
    add("--jobs-file", type=file_name, metavar="FILE", help=where)
    add("--job-hours", type=number, default=24.0, metavar="H", help="how long a result is kept; default: %(default)s")
    size = "size of all pictures of jobs together; default: %(default)s"
    add("--job-megabytes", type=count, default=default.job_bytes // 2**20, metavar="N", help=size)
    may = "what the URL of a callback may begin with, like https://shop.example/hooks; may be repeated; default: none"
    add("--allow-callback", action="append", default=[], metavar="URL", help=may)
    key = "file with the key that callbacks are signed with; default: the key in $PHOTOFOUND_CALLBACK_KEY"
    add("--callback-key-file", type=file_name, metavar="FILE", help=key)


def _add_limits(parser: Parser, default: ServeConfig) -> None:
    add = parser.add_argument_group("limits").add_argument
    request, all_requests = default.max_bytes // 2**20, default.max_uploads // 2**20
    add("--max-megabytes", type=count, default=request, metavar="N", help="size of a request; default: %(default)s")
    add(
        "--max-upload-megabytes",
        type=count,
        default=all_requests,
        metavar="N",
        help="size of all requests together, in memory and on disk; default: %(default)s",
    )
    pixels = "pixels of a picture and of a result; default: 24 million"
    add("--max-pixels", type=count, default=default.max_pixels, metavar="N", help=pixels)
    add(
        "--max-steps", type=count, default=default.max_steps, metavar="N", help="steps of an edit; default: %(default)s"
    )
    reading, editing = default.read_seconds, default.edit_seconds
    add("--read-seconds", type=number, default=reading, metavar="S", help="to read a picture; default: %(default)s")
    add("--edit-seconds", type=number, default=editing, metavar="S", help="to compute an edit; default: %(default)s")
    formats = ",".join(default.formats).lower()
    add("--formats", default=formats, metavar="A,B", help="file formats that are read; default: %(default)s")
