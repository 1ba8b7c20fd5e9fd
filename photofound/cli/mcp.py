"""``photofound mcp``: the edits as tools for assistants."""

from __future__ import annotations

from pathlib import Path

from photofound.cli.arguments import Parser, add_model_options, path
from photofound.cli.model import load_pipeline, without_gc

SUMMARY = "offer the edits and verify to assistants that speak MCP, over standard input and output"


def run(argv: list[str]) -> int:
    """Serve until standard input ends. The model is loaded for the first edit."""
    args = mcp_parser().parse_args(argv)
    folders = args.folder or [Path()]
    for folder in folders:
        if not folder.expanduser().is_dir():
            raise ValueError(f"--folder: {folder} is no folder; name one that exists")
    try:
        with without_gc():
            from photofound.serve import mcp
    except ModuleNotFoundError as error:
        raise ValueError(f"mcp needs {error.name}; pip install 'photofound[mcp]'") from None

    server = mcp.build(lambda: load_pipeline(args), folders, args.segmenter)
    server.run(transport="stdio", show_banner=False, log_level="ERROR")
    return 0


def mcp_parser() -> Parser:
    parser = Parser(prog="photofound mcp", description=SUMMARY)
    help = "folder whose pictures may be read, and where results go; may be repeated; default: the current one"
    parser.add_argument("--folder", action="append", type=path, default=[], metavar="DIR", help=help)
    help = "what may find subjects, beside cutout and grabcut; may be repeated: docs/segmenters.md"
    parser.add_argument("--segmenter", action="append", default=[], metavar="NAME", help=help)
    add_model_options(parser)
    return parser
