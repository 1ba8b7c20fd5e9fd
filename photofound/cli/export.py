"""photofound export: a model for other programs."""

from __future__ import annotations

from photofound.cli.arguments import Parser, file_name
from photofound.cli.console import say
from photofound.cli.model import quiet_libraries, without_gc

SUMMARY = "write a model for ONNX Runtime, OpenVINO, TensorRT or ExecuTorch"
TARGETS = ("onnx", "openvino", "tensorrt", "executorch")


def run(argv: list[str]) -> int:
    """Export, and say how near the result is: one line for each graph and size, and last the largest of all. Status 0:
    below the limit, 1: not."""
    args = export_parser().parse_args(argv)
    import torch

    from photofound.pipeline import EditPipeline
    from photofound.runtimes import export

    quiet_libraries()
    with without_gc():
        pipe = EditPipeline.from_pretrained(args.model, teacher=args.teacher, torch_dtype=torch.float32)
    worst = export.export(pipe, args.to, args.output, print)
    if worst >= export.LIMIT:
        say(f"the difference is not below {export.LIMIT}; the folder is written, but do not rely on it")
    print(f"max difference {worst:.2e}")
    return int(worst >= export.LIMIT)


def export_parser() -> Parser:
    """The options of ``photofound export``."""
    parser = Parser(prog="photofound export", description=SUMMARY)
    add = parser.add_argument
    add("--to", required=True, choices=TARGETS, help="for which program")
    add("--model", metavar="ID_OR_DIR", type=file_name, help="a folder, or an id of the Hub; default: the embedded one")
    add("--teacher", action="store_true", help="the many-step model that a few-step model was distilled from")
    add("-o", "--output", required=True, type=file_name, metavar="DIR", help="new folder for the exported model")
    return parser
