"""``photofound learn DIR``: a LoRA of what people chose, kept only if held-out choices say that it is better."""

from __future__ import annotations

from photofound.cli.arguments import Parser, file_name, number_between, path
from photofound.cli.console import print_line

SUMMARY = "learn of people's choices: a LoRA for each task, kept if held-out choices say that it is better"


def run(argv: list[str]) -> int:
    """Returns 0 if a LoRA was kept, 1 if none was."""
    args, overrides = learn_parser().parse_known_args(argv)
    wrong = [word for word in overrides if not (word.startswith("--") and "=" in word)]
    if wrong:
        raise ValueError(f"unrecognized arguments: {wrong[0]}; settings of the training are like --train.steps=200")
    if not args.folder.is_dir():
        raise ValueError(f"{args.folder}: is no folder; name the one that 'photofound demo --choices' has written to")
    from photofound.cli.model import quiet_libraries
    from photofound.learn import learn

    quiet_libraries()
    out = args.output or args.folder / "learned"
    kept = 0
    for outcome in learn(args.folder, out, args.model, args.task, args.hold_out / 100, overrides):
        print_line(outcome.line)
        kept += outcome.kept is not None
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
    return parser
