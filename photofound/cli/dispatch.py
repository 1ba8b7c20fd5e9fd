"""Find the command and run it; print an error as one line and return the exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from photofound.cli.arguments import unknown
from photofound.cli.commands import COMMANDS, loaded_tasks
from photofound.cli.console import plain_warnings, quiet_imports, safe_streams, say
from photofound.cli.edits import run_edit
from photofound.errors import EXPECTED, one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0: done, 1: some files of a folder failed, 2: refused, 130: interrupted."""
    quiet_imports()
    with safe_streams(), plain_warnings():
        try:
            return _dispatch(list(sys.argv[1:] if argv is None else argv))
        except KeyboardInterrupt:
            say("interrupted")
            return 130
        except EXPECTED as error:
            say(one_line(error))
            return 2


def _dispatch(argv: list[str]) -> int:
    name, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if name in ("-h", "--help", "help"):
        return _help()
    if name == "--version":
        from photofound import __version__

        print(f"photofound {__version__}")
        return 0
    if name in COMMANDS:
        run, _ = COMMANDS[name]
        return run(rest)

    from photofound.edits.task import task_names

    if name in task_names():
        return run_edit(name, rest)
    if name.startswith("-"):
        raise ValueError(f"option {name!r} needs a command before it; see 'photofound --help'")
    raise unknown("command", name, [*task_names(), *COMMANDS])


def _help() -> int:
    print("usage: photofound COMMAND ...\n\nEdit photographs with one latent diffusion transformer.\n\nedits:")
    for name, task in loaded_tasks():
        print(f"  {name:<11}{task.summary if task else 'cannot be loaded'}")
    print("\nother commands:")
    for name, (_, summary) in COMMANDS.items():
        print(f"  {name:<11}{summary}")
    print("\n'photofound COMMAND --help' explains one command; --version prints the version.")
    return 0
