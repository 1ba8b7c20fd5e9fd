"""``photofound completion SHELL``: a script with which the Tab key completes commands, options and file names.

photofound completion bash > ~/.local/share/bash-completion/completions/photofound
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from photofound.cli.arguments import Parser, file_name, path

SUMMARY = "print a script that completes commands and options: photofound completion bash"


def run(argv: list[str], parsers: Callable[[], Mapping[str, Parser]]) -> int:
    """Print the script for a shell. ``parsers`` gives those of all commands, by name."""
    args = completion_parser().parse_args(argv)
    try:
        shtab: Any = importlib.import_module("shtab")
    except ImportError:
        raise ImportError("completion needs shtab; pip install 'photofound[completion]'") from None
    print(shtab.complete(_joined(parsers(), shtab.FILE), shell=args.shell))
    return 0


def completion_parser() -> Parser:
    parser = Parser(prog="photofound completion", description=SUMMARY)
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "tcsh"), help="bash, zsh or tcsh")
    return parser


def _joined(parsers: Mapping[str, Parser], file: dict[str, str]) -> Parser:
    """One parser of all commands, in which arguments that are files say so."""
    root = Parser(prog="photofound")
    commands = root.add_subparsers()
    for name, parser in parsers.items():
        # parents= copies the options, and with them -h
        command = commands.add_parser(name, parents=[parser], add_help=False, help=parser.description)
        for action in command._actions:
            if action.type in (path, file_name):
                action.complete = file  # type: ignore[attr-defined]
    return root
