"""What a task asks of its user: declared once, in the signature of ``Task.prepare``, and what text each kind takes.

The command line, the server's form, the page and the nodes are built from these.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from photofound.edits.segmenter import POINT

_LENGTH = r"[0-9]{1,9}(px)?|[0-9]{1,9}(\.[0-9]{1,9})?%"
# Kinds of input that are written as text: how, and what that is called.
SPELLINGS = {
    "text": (r"(?s:.*)", "text"),
    "int": (r"-?[0-9]{1,9}", "a whole number of at most 9 digits"),
    "length": (r"[0-9]{1,9}|[0-9]{1,9}(\.[0-9]{1,9})?%", "whole pixels like 200 or a share like 25%"),
    "aspect": (r"[0-9]{1,9}(\.[0-9]{1,9})?:[0-9]{1,9}(\.[0-9]{1,9})?", "an aspect ratio like 4:5"),
    "size": (r"[0-9]{1,9}x[0-9]{1,9}", "a size like 1200x800, in pixels"),
    "share": (r"[0-9]{1,3}(\.[0-9]{1,9})?%", "a share like 25%"),
    "sides": (
        rf"({_LENGTH})(\s*,\s*({_LENGTH})){{0,3}}",
        "one length like 40 or 10%, or one for each side: top,right,bottom,left",
    ),
    "place": (rf"({_LENGTH})\s*,\s*({_LENGTH})", "a place like 50%,60% or 400,300, from the left and the top"),
    "fit": (r"contain|cover|none|[0-9]{1,4}(\.[0-9]{1,9})?%", "contain, cover, none, or a scale like 80%"),
    "preset": (r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "the name of a preset, like amazon-main"),
    "background": (r"(?s:.*)", "a colour like #ffffff, a surface like wood:brown, blur or transparent"),
    "flag": (r"(?i:true|false|yes|no|on|off|1|0)", "yes or no"),
    "segmenter": (r"[^\0-\x1f]{1,300}", "the name of a segmenter"),
    "points": (rf"{POINT}([ ;]+{POINT}){{0,63}}", "points like 320,240 or 50%,40%; one off the subject like 10,20,0"),
}
WRITTEN = tuple(kind for kind in SPELLINGS if kind not in ("text", "int", "flag"))  # lines of text, like 25%
_YES = ("true", "yes", "on", "1")
LEAST_SEED, LARGEST_SEED = -(2**63), 2**64 - 1  # what a torch.Generator takes; -1 is the same seed as the largest
FILE_KINDS = ("image", "mask")  # kinds of input that are files
FOLDER = "folder"  # the kind that is a folder of this machine: nothing that a page or a server may be told to read


@dataclass(frozen=True)
class Input:
    """One thing that a task asks of its user; the CLI, the demo and the server are built from these.

    A task declares it once, in the signature of ``prepare``: see ``asks``.

    Attributes:
        name: the pipeline's argument.
        kind: ``image``, ``mask``, ``text``, ``int``, ``length`` (pixels or ``"25%"``), ``aspect`` (``"4:5"``), ``size``
            (``"800x600"``), ``share`` (``"25%"``), ``sides`` (``"10%"`` or ``"10%,5%,20,5%"``), ``place``
            (``"50%,60%"``), ``fit``, ``flag`` (yes or no), ``background`` and ``preset`` (text; on the command line and
            in Python a file's name, too), ``segmenter`` (what finds subjects, by name), ``points`` (``"320,240
            10,20,0"``), ``folder`` (of this machine: on the command line and in Python alone).
        help: one line for people.
        default: the value when it is left out.
        required: without it there is no edit; on the command line it is positional.
        choices: the only values there are, where they are few; empty where any of the kind will do.
        within: the least and the most that a widget offers of a number, or of a share in per cent; None = any.
    """

    name: str
    kind: str
    help: str
    default: Any = None
    required: bool = False
    choices: tuple[Any, ...] = ()
    within: tuple[int, int] | None = None

    @property
    def spelling(self) -> str:
        """The regular expression that its text must match as a whole, on the command line or in a form."""
        return SPELLINGS[self.kind][0]

    def parse(self, text: str) -> Any:
        """The pipeline's argument from text. Raises ValueError that says what is wanted."""
        pattern, wanted = SPELLINGS[self.kind]
        if self.kind in ("text", "background"):
            check_text(self.name, text)
        if self.choices:
            wanted = f"possible; give {', '.join(map(str, self.choices[:-1]))} or {self.choices[-1]}"
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text!r} is not {wanted}")
        if self.kind == "flag":
            return text.lower() in _YES
        whole = self.kind == "int" or (self.kind == "length" and not text.endswith("%"))
        value = int(text) if whole else text
        if self.choices and value not in self.choices:
            raise ValueError(f"{text!r} is not {wanted}")
        return value


SUBJECT_INPUTS = (
    Input("segmenter", "segmenter", "what finds the subject: cutout, grabcut, rembg, nobg, a model, module:function"),
    Input("subject_text", "text", "the subject in words, for a segmenter that reads: 'the left shoe'", default=""),
    Input("subject_points", "points", "places on the subject, and off it (,0), for a segmenter that takes them"),
)
"""What every task asks that finds a subject. The pipeline makes the ``segment`` of it that ``prepare`` takes."""


def names_file(kind: str, text: str) -> bool:
    """Whether an input that may be a file of this machine is one, by its suffix. A server never asks."""
    from photofound.image import READABLE_SUFFIXES

    return Path(text).suffix.lower() in {"background": READABLE_SUFFIXES, "preset": (".yaml", ".yml")}.get(kind, ())


def check_text(name: str, text: str) -> None:
    """Raise ValueError for text with bytes that are not UTF-8, as Python has them from a command line."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        place = f"at character {error.start + 1}"
        raise ValueError(
            f"{name}: is not UTF-8 text ({place}); type it in a terminal whose encoding is UTF-8"
        ) from None


def asks(kind: str, help: str, choices: Sequence[Any] = (), within: tuple[int, int] | None = None) -> Any:
    """What a parameter of ``Task.prepare`` is to its user: ``prompt: Annotated[str, asks("text", "what to paint")] =
    ""``. Name and default are the parameter's; one without a default is required."""
    return partial(Input, kind=kind, help=help, choices=tuple(choices), within=within)


def declared(prepare: Callable[..., Any]) -> tuple[Input, ...]:
    """The inputs that the signature of a ``prepare`` declares, in its order."""
    hints = get_type_hints(prepare, include_extras=True)
    found = []
    for name, parameter in inspect.signature(prepare).parameters.items():
        for make in getattr(hints.get(name), "__metadata__", ()):
            if isinstance(make, partial) and make.func is Input:
                required = parameter.default is parameter.empty
                found.append(make(name, default=None if required else parameter.default, required=required))
    return tuple(found)
