"""``photofound learn DIR``: a LoRA of what people chose, kept only if held-out choices say that it is better."""

from __future__ import annotations

from photofound.cli.arguments import Parser, file_name, number_between, path
from photofound.cli.console import print_line, say

SUMMARY = "learn of people's choices: a LoRA for each task, kept if held-out choices say that it is better"


def run(argv: list[str]) -> int:
    """Returns 0 if a LoRA was kept, 1 if none was, 75 if a signal stopped it and the same command goes on."""
    args, overrides = learn_parser().parse_known_args(argv)
    wrong = [word for word in overrides if not (word.startswith("--") and "=" in word)]
    if wrong:
        raise ValueError(f"unrecognized arguments: {wrong[0]}; settings of the training are like --train.steps=200")
    if not args.folder.is_dir():
        raise ValueError(f"{args.folder}: is no folder; name the one that 'photofound demo --choices' has written to")
    from photofound import learn
    from photofound.training import STOPPED

    out = args.output or args.folder / "learned"
    asked = args.folder, out, args.model, args.task, args.hold_out / 100, overrides, args.minutes, print_line
    if args.dry_run:
        learn.dry_run(*asked)
        return 0
    kept = 0
    try:
        for outcome in learn.learn(*asked):
            print_line(outcome.line)
            kept += outcome.kept is not None
    except learn.Stopped as stopped:
        say(str(stopped))
        return STOPPED
    return 0 if kept else 1


def learn_parser() -> Parser:
    usage = "photofound learn DIR [options] [--train.steps=N ...]"
    parser = Parser(prog="photofound learn", usage=usage, description=SUMMARY)
    add = parser.add_argument
    add("folder", metavar="DIR", type=path, help="what 'photofound demo --choices DIR' or the server has written")
    add("-o", "--output", metavar="OUT", type=path, help="where TASK.safetensors goes; default: DIR/learned")
    add("--model", metavar="ID_OR_DIR", type=file_name, help="the model to adapt; default: the embedded one")
    add("--task", metavar="NAME", action="append", help="learn of this task's choices alone; may be repeated")
    held = "per cent of the edits that are held out, to judge by; default: 25"
    add("--hold-out", metavar="N", type=number_between(1, 90), default=25.0, help=held)
    minutes = "minutes that a task's training may take; default: 30, or 300 steps, whichever is over first"
    add("--minutes", metavar="N", type=number_between(0.1, 100_000), default=30.0, help=minutes)
    add("--dry-run", action="store_true", help="say what there is to learn of and how long it takes; write nothing")
    return parser
