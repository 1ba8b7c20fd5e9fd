"""The options of ``photofound TASK``, from the inputs that the task declares."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from photofound.cli.arguments import (
    Parser,
    add_credentials_options,
    add_idle,
    add_model_options,
    count,
    file_name,
    number_between,
    path,
    whole_number,
)

if TYPE_CHECKING:
    from photofound.edits.inputs import Input
    from photofound.edits.task import Task

PLACEHOLDERS = {
    "folder": "DIR",
    "image": "IMAGE",
    "mask": "MASK",
    "text": "TEXT",
    "int": "N",
    "length": "PX|N%",
    "aspect": "W:H",
    "size": "WxH",
    "share": "N%",
    "sides": "PX|N%[,...]",
    "place": "X,Y",
    "fit": "HOW|N%",
    "background": "COLOUR|IMAGE|SURFACE",
    "preset": "NAME|FILE",
    "flag": "",
    "segmenter": "NAME",
    "points": "X,Y",
}


def task_parser(task: Task) -> Parser:
    """``photofound TASK IMAGE [required inputs] [options]``. Raises ValueError for an input of an unknown kind."""
    inputs = inputs_of(task)
    usage = " ".join(
        [
            f"photofound {task.name}",
            *["IMAGE"] * task.takes_picture,
            *(spelling(each) for each in inputs if each.required),
        ]
    )
    parser = Parser(prog=f"photofound {task.name}", usage=f"{usage} [options]", description=task.summary)
    parser.add_argument("--quiet", action="store_true", help="print errors and warnings only")
    pixels = "largest image to open, in pixels; default: 200 million"
    parser.add_argument("--max-pixels", type=count, metavar="N", help=pixels)
    group = parser.add_argument_group("inputs")
    if task.takes_picture:
        group.add_argument("image", metavar="IMAGE", type=path, help="a photograph, or a folder of them")
    for each in inputs:
        settings: dict[str, Any] = {
            "metavar": placeholder(each),
            "type": input_type(task, each),
            "help": _help_text(each),
        }
        if each.kind == "flag":
            settings = {"action": argparse.BooleanOptionalAction, "default": None, "help": _help_text(each)}
        if each.required:
            group.add_argument(each.name, **settings)
        else:
            group.add_argument(option(each), dest=each.name, **settings)
    _add_sampling(parser, task)
    _add_result(parser, task)
    add_model_options(parser, task.samples)
    if task.generates:
        add_credentials_options(parser)
    if task.takes_picture:
        _add_folder(parser)
    return parser


def sampling_types() -> dict[str, Callable[[str], Any]]:
    """How the options of sampling are read, from the command line and from a recipe."""
    from photofound.edits.inputs import LARGEST_SEED, LEAST_SEED

    return {
        "seed": whole_number(LEAST_SEED, LARGEST_SEED),
        "steps": whole_number(1, 1000),
        "guidance": number_between(0, 100),
        "resample": whole_number(1, 20),
    }


def _add_sampling(parser: Parser, task: Task) -> None:
    types = sampling_types()
    add = parser.add_argument_group("sampling" if task.samples else "variants").add_argument
    repeat = "repetitions of each step, if the model was never trained on the task; default: 4"
    weight = "how strongly to follow the prompt, 0 to 100; default: the model's"
    if task.samples:
        add("--steps", type=types["steps"], metavar="N", help="sampling steps; default: the model's")
        add("--resample", type=types["resample"], metavar="N", help=repeat)
        add("--guidance", type=types["guidance"], metavar="X", help=weight)
    else:
        add_idle(parser, steps=None, resample=None, guidance=None)
    if task.keeps:
        best = "make N results, judge them, keep the best; default: 1"
        add("--best-of", type=whole_number(1, 16), metavar="N", help=best)
    if not task.varies:
        add_idle(parser, seed=0, num_images=1)
        add_idle(parser, images=1)
        return
    add("--seed", type=types["seed"], default=0, metavar="N", help="same seed, same result; default: 0")
    numbered: dict[str, Any] = {"dest": "num_images", "type": whole_number(1, 64), "metavar": "N"}
    add("--images", default=1, help="variants, numbered -1, -2, ...; default: 1", **numbered)
    add("--num-images", default=argparse.SUPPRESS, help=argparse.SUPPRESS, **numbered)  # its old name


def _add_result(parser: Parser, task: Task) -> None:
    group = parser.add_argument_group("result")
    add = group.add_argument
    add(
        "-o",
        "--output",
        metavar="PATH",
        type=file_name,
        help="a file, or a folder (end it with /); default: "
        + ("beside IMAGE" if task.takes_picture else f"{task.name}.png"),
    )
    default = "as IMAGE" if task.takes_picture else "by the name of the output, or png"
    add("--format", metavar="NAME", help=f"png, jpg, webp, avif, tif or bmp; default: {default}")
    existing = group.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    add(
        "--no-mark",
        action="store_true",
        help="say in the metadata neither that a part was generated nor how it was made",
    )
    add(
        "--no-recipe",
        action="store_true",
        help="do not say in the metadata how it was made (the prompt, the seed, ...)",
    )
    if not task.takes_picture:
        return
    existing.add_argument("--skip-existing", action="store_true", help="keep outputs that exist: continue after a stop")
    add("--strip", action="store_true", help="leave out where the photograph was taken (GPS in EXIF, places in XMP)")
    if task.has_layers:
        layers = "also write background, subject, ... as layers: OUT.ora, OUT.psd; ora or psd: beside each result"
        add("--layers", metavar="PATH", type=file_name, help=layers)
    if any(each.name == "subject" for each in task.inputs):
        add("--save-subject", action="store_true", help="also write what was kept, as a mask, to NAME-subject.png")


def _add_folder(parser: Parser) -> None:
    add = parser.add_argument_group("many photographs").add_argument
    add("--recursive", action="store_true", help="also edit the photographs in the folders below IMAGE")
    add("--report", metavar="FILE", type=path, help="append a line of JSON per photograph: status, seconds, error, ...")


def inputs_of(task: Task) -> list[Input]:
    """The declared inputs except the photograph itself, required ones first."""
    from photofound.edits.task import offered

    return sorted(offered(task, folders=True), key=lambda each: not each.required)


def option(each: Input) -> str:
    """``--style-image`` for ``style_image``, but ``--mask`` for ``mask_image``."""
    name = each.name.removesuffix("_image") if each.kind == "mask" else each.name
    return "--" + name.replace("_", "-")


def placeholder(each: Input) -> str:
    """What stands for the value in a help text."""
    if each.required:
        return each.name.removesuffix("_image").upper()
    return PLACEHOLDERS.get(each.kind, each.name.upper())


def spelling(each: Input) -> str:
    """How an input is typed: ``MASK``, or ``--prompt TEXT``."""
    return placeholder(each) if each.required else f"{option(each)} {placeholder(each)}".rstrip()


def _help_text(each: Input) -> str:
    """The help with per cent signs doubled, as argparse wants them; some tasks have doubled them already."""
    return each.help.replace("%%", "%").replace("%", "%%")


def input_type(task: Task, each: Input) -> Callable[[str], Any]:
    """The function that reads an input from the command line."""
    from photofound.edits.inputs import FILE_KINDS, FOLDER, SPELLINGS, names_file

    if each.kind in (*FILE_KINDS, FOLDER):
        return path
    if each.kind not in SPELLINGS:
        kinds = ", ".join((*SPELLINGS, *FILE_KINDS, FOLDER))
        raise ValueError(f"task {task.name!r}: input {each.name!r} has kind {each.kind!r}; use {kinds}")

    def read(text: str) -> Any:
        if names_file(each.kind, text):
            return path(text)
        try:
            return each.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read
