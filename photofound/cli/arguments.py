"""What all commands need to read their arguments: a parser that raises, types, the options of a model."""

from __future__ import annotations

import argparse
import difflib
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZED = ("fp8", "int8")
RUNTIMES = ("torch", "onnx", "openvino")


def unknown(what: str, name: str, known: Sequence[str]) -> ValueError:
    """The error for a name that does not exist; it suggests a similar one, or lists all."""
    close = difflib.get_close_matches(name, known, 1)
    advice = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    return ValueError(f"{what} {name!r} is unknown; {advice}")


class Parser(argparse.ArgumentParser):
    """argparse, but an error is a ValueError of one line, with a suggestion for a misspelt option."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: -"):
            name = message.split()[2].partition("=")[0]
            if close := difflib.get_close_matches(name, self._option_string_actions, 1):
                message += f" (did you mean {close[0]}?)"
        raise ValueError(f"{message}; see '{self.prog} --help'")


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A type for argparse: a whole number in this range."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,30}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return read


count = whole_number(1, 10**12)
port = whole_number(0, 65535)


def file_name(text: str) -> str:
    """The name of a file or folder of this machine, also as ``file://``. ``-`` is refused, because people who write it
    mean a pipe."""
    if not text:
        raise argparse.ArgumentTypeError("'' is not the name of a file or folder")
    if text == "-":
        raise argparse.ArgumentTypeError(
            "'-' is not supported, pictures go from file to file; for a file of that name, write ./-"
        )
    if "://" in text:
        from photofound import files

        try:
            return str(files.output_path(text, "path"))
        except ValueError:
            reason = "is a URL; only training data may lie at URLs, all else is read and written on this machine"
            raise argparse.ArgumentTypeError(f"{text!r} {reason}") from None
    return text


def path(text: str) -> Path:
    """A file or folder."""
    return Path(file_name(text))


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def number_between(least: float, most: float) -> Callable[[str], float]:
    """A type for argparse: a number in this range."""

    def read(text: str) -> float:
        if not least <= (value := number(text)) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return value

    return read


def rate(text: str) -> tuple[str, float]:
    """``NAME=X`` or ``X``: a name, which may be empty, and a number of at least 0."""
    name, _, value = text.rpartition("=")
    if (parsed := number(value)) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is below 0")
    return name, parsed


class Idle(argparse.Action):
    """An option of other tasks: it is not shown, and is an error."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        task = parser.prog.rpartition(" ")[2]
        raise ValueError(f"{self.option_strings[0]} changes nothing in {task}; leave it out")


def add_idle(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Options that have no meaning here, by their names, with the values that the others' code reads."""
    for name, value in defaults.items():
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, dest=name, default=value, nargs="?", action=Idle, help=argparse.SUPPRESS)


def add_model_options(parser: argparse.ArgumentParser, samples: bool = True) -> None:
    """The options that say which model, and where and how it computes. ``model.load_pipeline`` reads them. ``samples``:
    whether there is anything to sample."""
    add = parser.add_argument_group("model").add_argument
    add("--model", metavar="ID_OR_DIR", type=file_name, help="a folder, or an id of the Hub; default: the embedded one")
    add("--teacher", action="store_true", help="use the many-step model that a few-step model was distilled from")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: cuda if there is one")
    add("--dtype", default="auto", choices=DTYPES, help="precision of the weights; default: auto")
    add_runtime(parser)
    add_optimizations(parser, samples)


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """The option that says what runs the networks."""
    what = "what runs the networks (docs/export.md); default: what the model was exported for, else torch"
    parser.add_argument("--runtime", choices=RUNTIMES, help=what)


def add_optimizations(parser: argparse.ArgumentParser, samples: bool = True) -> None:
    """The options that save memory and time, or spend time only where it helps. ``model.optimize`` reads them."""
    add = parser.add_argument_group("memory and time").add_argument
    skip = "skip blocks in sampling steps that change little, for models of many steps: faster, not quite the same"
    add("--quantize", choices=QUANTIZED, help="weights of eight bits: half the memory, no faster")
    if not samples:
        add_idle(parser, cache=False, cache_threshold=None, path_drop=False, fallback=None, fallback_below=None)
        return
    add("--cache", action="store_true", help=skip)
    add("--cache-threshold", type=number_between(0, 1), metavar="X", help="how little, 0 to 1; default: 0.15")
    paths = "guide by the model's outer blocks alone, for models trained with recipe.sprint: nearly half the time"
    add("--path-drop", action="store_true", help=paths)
    larger = "a larger model, loaded when it is needed, for results whose score is low: a folder, or an id of the Hub"
    add("--fallback", metavar="ID_OR_DIR", type=file_name, help=larger)
    add("--fallback-below", type=number_between(0, 1), metavar="X", help="which score is low, 0 to 1; default: 0.65")


def add_credentials_options(parser: argparse.ArgumentParser) -> None:
    """The options by which results are signed (Content Credentials). ``proof.signing`` reads them."""
    add = parser.add_argument_group("Content Credentials (C2PA)").add_argument
    add("--c2pa-cert", metavar="PEM", type=path, help="sign results: your certificate, with its chain")
    add("--c2pa-key", metavar="PEM", type=path, help="its private key, without a password")
