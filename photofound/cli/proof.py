"""``photofound verify`` and ``photofound redo``: whether a photograph was kept, and the same result again."""

from __future__ import annotations

import argparse
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from photofound.cli.arguments import DTYPES, Parser, add_credentials_options, add_model_options, path
from photofound.cli.console import print_line, say
from photofound.cli.model import load_pipeline, optimize, quiet_libraries

if TYPE_CHECKING:
    from photofound.edits.proof import Proof
    from photofound.image import Picture
    from photofound.picture.credentials import Credentials, Signer

VERIFY = "count the pixels of BEFORE that are identical in AFTER, by whichever program, and those that are not"
REDO = "make a result again, bit for bit, from what its file says"


def verify(argv: list[str]) -> int:
    """Returns 0 if nothing that had to be kept changed, else 1."""
    args = verify_parser().parse_args(argv)
    from photofound import image
    from photofound.edits import proof

    if args.output is not None:
        image.check_output(args.output, overwrite=True)
    before, after = image.load(args.before), image.load(args.after)
    found = proof.verify(before, after, args.mask, args.subject, args.at)
    credentials = _credentials(args.after)
    if args.output is not None:
        image.save(found.compared.picture(after), args.output, overwrite=True)
    fine = found.largest <= args.tolerance and not found.compared.missing
    if args.json:
        print(json.dumps(_facts(found, credentials)))
    else:
        for line in _lines(found, before, after, args, credentials):
            print_line(line)
    return 0 if fine else 1


def verify_parser() -> Parser:
    parser = Parser(prog="photofound verify", description=VERIFY)
    add = parser.add_argument
    add("before", metavar="BEFORE", type=path, help="the photograph")
    add("after", metavar="AFTER", type=path, help="what was made of it, by whichever program")
    marked = parser.add_mutually_exclusive_group()
    region = "white = repainted, black = had to be kept; default: as AFTER's recipe says, or all had to be kept"
    marked.add_argument("--mask", metavar="MASK", type=path, help=region)
    marked.add_argument(
        "--subject", metavar="MASK", type=path, help="in place of a mask: white or opaque = had to be kept"
    )
    add("--at", metavar="X,Y", type=_place, help="where in AFTER the first pixel of BEFORE lies; default: it is found")
    add("--tolerance", metavar="N", type=_steps, default=0, help="a difference that is still fine, of 255; default: 0")
    add("-o", "--output", metavar="PICTURE", type=path, help="write a picture: altered in red, free to change in blue")
    add("--json", action="store_true", help="print one line of JSON: identical, altered, largest, ...")
    return parser


def _place(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"-?[0-9]{1,6},-?[0-9]{1,6}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a place like 120,40, in pixels")
    x, y = text.split(",")
    return int(x), int(y)


def _steps(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _credentials(path: Path) -> Credentials | str | None:
    """The file's Content Credentials, or a sentence why they cannot be told."""
    from photofound.picture import credentials

    if not credentials.has_credentials(path):
        return None
    try:
        return credentials.read(path)
    except (ImportError, ValueError) as error:
        return str(error)


def _facts(found: Proof, credentials: Credentials | str | None) -> dict[str, Any]:
    compared = found.compared
    known = None if credentials is None or isinstance(credentials, str) else vars(credentials)
    return {
        "identical": compared.identical,
        "altered": compared.altered,
        "largest": compared.largest,
        "depth": compared.depth,
        "missing": compared.missing,
        "kept": compared.kept,
        "pixels": compared.pixels,
        "at": list(compared.at),
        "region": found.source,
        "compared": "colours" if compared.as_colours else "values",
        "original": found.original,
        "as_recorded": found.as_recorded,
        "credentials": known,
    }


def _lines(
    found: Proof, before: Picture, after: Picture, args: argparse.Namespace, credentials: Credentials | str | None
) -> list[str]:
    compared = found.compared
    share = compared.kept / compared.pixels
    what = {"mask": "by the mask", "subject": "by the subject", "recipe": "by AFTER's recipe", "all": "all of BEFORE"}
    lines = [
        f"had to be kept: {compared.kept:,} of {compared.pixels:,} pixels ({share:.1%}), {what[found.source]}",
        f"identical:      {compared.identical:,}",
        f"altered:        {compared.altered:,}" + _by_how_much(found),
    ]
    if compared.at != (0, 0):
        lines.append(f"BEFORE lies at {compared.at[0]},{compared.at[1]} in AFTER")
    if compared.as_colours:
        lines.append("the colour profiles differ: colours were compared, in sRGB and rounded, not values")
    if found.original is False:
        lines.append("BEFORE is not the very picture that AFTER's recipe names: another one, or saved again")
    if found.as_recorded is not None:
        held = (
            "holds"
            if found.as_recorded
            else "does not hold any more"
            if after.lossless
            else "cannot hold in a lossy file"
        )
        lines.append(f"the digest of the kept region in AFTER's recipe {held}")
    if isinstance(credentials, str):
        lines.append(credentials)
    elif credentials is not None:
        lines.append(f"Content Credentials: {credentials.state.lower()}, signed by {credentials.signed_by}")
    if compared.altered and not (before.lossless and after.lossless):
        lossy = "AFTER" if not after.lossless else "BEFORE"
        lines.append(
            f"{lossy} is a lossy file, and compression rounds every pixel: compare a PNG, or allow --tolerance"
        )
    if args.output is not None:
        lines.append(str(args.output))
    return lines


def _by_how_much(found: Proof) -> str:
    compared, parts = found.compared, []
    if compared.largest:
        parts.append(f"the largest difference is {compared.largest} of {compared.depth}")
    if compared.missing:
        parts.append(f"{compared.missing:,} are outside AFTER")
    return f" ({'; '.join(parts)})" if parts else ""


# ---------------------------------------------------------------------------------------------------------------- redo


def redo(argv: list[str]) -> int:
    """Returns 0 if the pixels are the same, else 1."""
    args = redo_parser().parse_args(argv)
    from photofound import image
    from photofound.edits import recipe

    image.check_output(args.output, args.overwrite)
    result = image.load(args.result)
    if recipe.read(result) is None:
        raise ValueError(f"{args.result}: its metadata have no recipe, so it cannot be made again")
    format = image.output_format(result, args.output)
    sign = signing(args)
    from photofound.redo import redo as make_again

    quiet_libraries()
    again = make_again(result, args.places, _loader(args), args.segmenter)
    image.save(again.picture, args.output, format, overwrite=args.overwrite, sign=sign(None))
    print_line(str(args.output))
    if not again.same:
        say(f"{args.output}: its pixels are not those that {args.result} was made with; see 'photofound verify'")
        return 1
    if not args.quiet:
        same_file = args.output.read_bytes() == args.result.read_bytes()
        say("the same pixels, bit for bit" + (", and the same file" if same_file else ""))
    return 0


def redo_parser() -> Parser:
    parser = Parser(prog="photofound redo", description=REDO)
    add = parser.add_argument
    add("result", metavar="OUT", type=path, help="a result of photofound")
    add("-o", "--output", metavar="AGAIN", type=path, required=True, help="where the same result goes")
    add(
        "--from",
        dest="places",
        metavar="PATH",
        type=path,
        action="append",
        default=[],
        help="a file or folder in which the photograph and other inputs are looked for, by their digests; may be "
        "repeated; beside OUT they are found by themselves",
    )
    own = "what found the subject, where OUT names something else than cutout or grabcut: it may run code"
    add("--segmenter", metavar="NAME", help=own)
    add("--overwrite", action="store_true", help="replace AGAIN if it exists")
    add("--quiet", action="store_true", help="print the output, errors and warnings only")
    add_credentials_options(parser)
    add_model_options(parser)
    return parser


def _loader(args: argparse.Namespace) -> Any:
    """A function from a recipe to its model on the device: the one that the options name, or else the one that the
    recipe names; in the recipe's precision, unless the options say another."""

    def load(made: Any) -> Any:
        from photofound.device import resolve_device
        from photofound.redo import load_model, runtime_of

        if args.model is not None or args.teacher or args.runtime:
            written = made.get("computed", {}).get("dtype")
            dtype = written if args.dtype == "auto" and written in DTYPES else args.dtype
            same = {"dtype": dtype, "runtime": args.runtime or runtime_of(made)}
            return load_pipeline(argparse.Namespace(**{**vars(args), **same}))
        pipe = load_model(made)
        optimize(pipe, args)
        return pipe.to(str(resolve_device(args.device, "device")))

    return load


def signing(args: argparse.Namespace) -> Any:
    """A function from a photograph's path and ``whole`` to what signs its result: ``sign`` of ``image.save``. It gives
    None if nothing is to be signed. The certificate is read at once."""
    if args.c2pa_cert is None and args.c2pa_key is None:
        return lambda parent=None, whole=False: None
    if args.c2pa_cert is None or args.c2pa_key is None:
        missing = "--c2pa-key" if args.c2pa_key is None else "--c2pa-cert"
        raise ValueError(f"{missing}: is missing; a certificate and its key are given together")
    return _signer(args.c2pa_cert, args.c2pa_key).signing


@cache
def _signer(certificate: Path, key: Path) -> Signer:
    """Read once, however many photographs it signs."""
    from photofound.picture.credentials import Signer

    return Signer(certificate, key)
