"""The command line, built from what tasks declare.

Each file imports only files above it:

    commands  the parser and the commands
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``photofound`` with ``argv``, None = the arguments of this process; returns the exit status."""
    from photofound.cli import commands

    return commands.main(argv)
