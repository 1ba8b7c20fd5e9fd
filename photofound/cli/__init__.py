"""The command line: one command per task, built from the inputs that the task declares.

    photofound outpaint cup.png --prompt "on a marble table"
    photofound erase photos/ masks/ -o clean/

Results go beside the photograph as ``cup-outpaint.png``, those of a folder into ``photos-erase/`` beside it, unless
``-o`` says otherwise. ``--skip-existing`` continues a run over a folder, however it stopped: a result gets its name
only when it is whole, and a damaged one is made again. ``--report`` appends a line of JSON for each photograph.

torch is imported only when a model is loaded: ``--help``, a mistyped command and a missing file answer at once. Bad
input is one line on stderr and status 2, without a traceback. In a folder, a bad file is reported, the others are done,
and the status is 1.

Each file imports only files above it:

    console     lines, progress bars, warnings, streams that may fail
    arguments   a parser that raises, types, the options of a model
    options     the options of a task
    formats     which files are pictures, and which suffix a result gets
    plan        which photographs are read, and where each result goes
    model       load a model quietly
    proof       photofound verify, photofound redo
    edits       photofound TASK
    steps       a recipe: a YAML list of edits for a folder
    page        the report of a run over a folder
    run         photofound run
    learn       photofound learn
    room        photofound room
    serve       photofound serve
    mcp         photofound mcp
    export      photofound export
    completion  photofound completion
    commands    the other commands
    dispatch    which command it is; errors as one line and a status
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``photofound`` with ``argv``; None = the arguments of this process. Returns the exit status."""
    from photofound.cli import dispatch

    return dispatch.main(argv)
