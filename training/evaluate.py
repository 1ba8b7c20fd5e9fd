"""Evaluate models on named protocols beside classical methods: a report as JSON, Markdown and one HTML page.

    photofound eval PHOTOS -o report
    photofound eval PHOTOS --protocols strokes-20,x4 --model embedded@4 --model runs/mine/model --perceptual FILE
    photofound eval Set5 --protocols x2,x4 --methods bicubic,lanczos
    photofound eval PHOTOS --blind embedded patchmatch -o blind      # a page of pairs without names, and its key
    photofound eval --score choices.json --key blind/blind-key.json  # the result of a person's choices

PHOTOS is a folder, with or without masks and captions, or any other source that training reads. docs/evaluation.md
lists the protocols and metrics.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from photofound import __version__, config, files
from photofound.cli import model as cli_model
from photofound.cli.arguments import Parser, add_optimizations, path
from photofound.errors import one_line

KEY = "blind-key.json"
MODEL = re.compile(r"(?:(?P<name>[^=]+)=)?(?P<source>.+?)(?P<teacher>:teacher)?(?:@(?P<steps>\d+))?")


def parser() -> Parser:
    """Every option, without importing anything heavy."""
    made = Parser(prog="photofound eval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add(
        "data",
        metavar="PHOTOS",
        nargs="?",
        help="a folder of photographs, parquet files, tars, or a dataset's id on the Hub",
    )
    add("-o", "--output", type=path, default=Path("evaluation"), help="folder for the report; default: evaluation")
    add("--overwrite", action="store_true", help="replace an existing report")
    add(
        "--protocols", type=_names, help="names, separated by commas; default: all that the photographs can be used for"
    )
    add("--methods", type=_names, help="classical methods, separated by commas, or none; default: all")
    add("--model", action="append", default=[], metavar="[NAME=]ID_OR_DIR[:teacher][@STEPS]",
        help="a photofound model; may be repeated; default: embedded; 'none' for no model")  # fmt: skip
    add("--pipeline", action="append", default=[], metavar="[NAME=]ID_OR_DIR[@STEPS]",
        help="a diffusers inpainting or upscaling pipeline; may be repeated")  # fmt: skip
    add("--guidance", type=float, help="guidance scale of all models; default: each model's own")
    add(
        "--best-of",
        type=_count,
        metavar="N",
        help="of how many results of photofound's models the best is taken; default: 1",
    )
    add("--seeds", type=_count, default=1, metavar="N", help="seeds per model and problem; default: 1")
    add("--limit", type=_count, metavar="N", help="at most N photographs per protocol, spread evenly")
    add("--match", metavar="WORD", help="only photographs whose name, label or source contains WORD")
    add("--max-side", type=_count, metavar="PX", help="scale larger photographs down to this side")
    add("--mask-seed", type=int, default=0, help="seed of holes, positions and degradations; default: 0")
    add(
        "--perceptual",
        metavar="FILE_OR_ID",
        help="network of the perceptual distance: SqueezeNet .safetensors, DINO, ...",
    )
    add(
        "--features", metavar="FILE_OR_ID", help="network of FID, KID, CMMD: .safetensors, 'inception', CLIP, DINO, ..."
    )
    add("--clip", metavar="ID_OR_DIR", help="CLIP model for the CLIP score, and for --features if that is not given")
    add("--segmenter", metavar="MODULE:FUNCTION", help="(RGB, known object) -> whole object; default: GrabCut")
    add("--blind", nargs=2, metavar=("A", "B"),
        help="write a page of shuffled pairs without names, and its key, instead of a report; A and B: models as for "
        "--model or a classical method")  # fmt: skip
    add("--score", type=path, metavar="CHOICES", help="print the result of the choices that such a page saved")
    add("--key", type=path, metavar="FILE", help=f"key for --score; default: {KEY} beside CHOICES or in -o")
    add(
        "--pictures",
        type=_whole,
        default=4,
        metavar="N",
        help="problems per protocol with pictures in the report; default: 4",
    )
    add("--device", default="auto", help="cpu, cuda, ...; default: cuda if there is one")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the fastest of the device")
    add_optimizations(made)
    add("--quiet", action="store_true", help="print errors only")
    return made


def _names(text: str) -> list[str]:
    return [] if text == "none" else [name.strip() for name in text.split(",") if name.strip()]


def _whole(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _count(text: str) -> int:
    if _whole(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def models(args: argparse.Namespace) -> list[Any]:
    """The photofound models, then the diffusers pipelines."""
    import diffusers
    import torch
    import transformers

    from photofound.eval.methods import DiffusersMethod, PhotofoundMethod

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    dtype = getattr(torch, args.dtype) if args.dtype else None
    common = {"guidance": args.guidance, "device": args.device, "dtype": dtype}
    sources = [each for each in args.model or ["embedded"] if each != "none"]
    optimize = functools.partial(cli_model.optimize, args=args)  # photofound's models alone
    methods: list[Any] = [
        PhotofoundMethod(**_model(each), **common, optimize=optimize, best_of=args.best_of) for each in sources
    ]
    for each in args.pipeline if not args.blind else []:
        arguments = _model(each)
        if arguments.pop("teacher"):
            raise ValueError(f"pipeline: {each!r} has no teacher; leave ':teacher' out")
        methods.append(DiffusersMethod(**arguments, **common))
    return methods


def _model(text: str) -> dict[str, Any]:
    """``NAME=SOURCE:teacher@STEPS`` as the arguments of a method."""
    found = MODEL.fullmatch(text)
    if found is None:
        raise ValueError(f"model: {text!r} names nothing; write [NAME=]ID_OR_DIR[@STEPS]")
    steps = found["steps"]
    return {
        "name": found["name"],
        "source": found["source"],
        "steps": int(steps) if steps else None,
        "teacher": bool(found["teacher"]),
    }


def metric_networks(args: argparse.Namespace) -> Any:
    """The networks that the arguments name."""
    from photofound.device import resolve_device
    from photofound.eval.run import MetricNetworks
    from photofound.model.vision import load_features, load_vision_model

    chosen: dict[str, Any] = {}
    device = resolve_device(args.device, "device")
    if args.perceptual:
        chosen["perceptual"] = load_vision_model(args.perceptual)
    if args.clip:
        chosen["clip"] = chosen["features"] = load_features(args.clip).to(device)
        chosen["clip"].prompts([""])  # fails now if the network has no text encoder
    if args.features:
        chosen["features"] = load_features(args.features).to(device)
    if args.segmenter:
        try:
            chosen["segmenter"] = config.function(args.segmenter)
        except ValueError as error:
            raise ValueError(f"segmenter: {error}") from None
    return MetricNetworks(**chosen)


def check_output(folder: Path, overwrite: bool) -> None:
    """Raises ValueError if a report would be overwritten."""
    files.output_path(folder, "output")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output: {folder} is a file; name a folder")
    if (folder / "report.json").exists() and not overwrite:
        raise ValueError(f"output: {folder} holds a report; pass --overwrite or another -o")


def run(args: argparse.Namespace) -> str:
    """Evaluate and write the report; returns the text to print."""
    if args.data is None:
        raise ValueError("data: no photographs are named; name a folder of them")
    check_output(args.output, args.overwrite)
    from photofound.edits.exemplar import patchmatch_missing
    from photofound.eval import protocols, report
    from photofound.eval.methods import CLASSICAL, classical_methods
    from photofound.eval.photographs import find_photographs
    from photofound.eval.run import Evaluation, evaluate
    from photofound.eval.summary import differences

    entries = find_photographs(args.data, args.match)
    names = args.protocols or protocols.available(entries)
    protocols.check_names(names, entries)
    missing = patchmatch_missing() if args.methods is None else ""
    if missing:
        print(f"photofound: left out: {missing}", file=sys.stderr)
    available = [name for name in CLASSICAL if not (missing and name == "patchmatch")]
    methods = classical_methods(available if args.methods is None else args.methods)
    networks = metric_networks(args)
    methods += models(args)
    if not methods:
        raise ValueError("methods: none were named; leave --methods or --model out, or name one")
    if len({method.name for method in methods}) < len(methods):
        raise ValueError("model: two of the same name; tell them apart with NAME=ID_OR_DIR")
    args.output.mkdir(parents=True, exist_ok=True)  # fails now, not after hours
    problems = protocols.problems(entries, names, args.limit, args.mask_seed, args.max_side)
    start, evaluation, ended = time.perf_counter(), Evaluation(), False
    try:
        evaluate(problems, methods, networks, args.seeds, args.pictures, _progress(args.quiet), evaluation)
        ended = True
    finally:  # also if the run was interrupted or a method failed
        if evaluation.rows:
            about = _about(args, time.perf_counter() - start, ended) | ({"left out": "PatchMatch"} if missing else {})
            summaries = report.write(args.output, evaluation, about)
    if not evaluation.rows:
        tried = ", ".join(method.name for method in methods)
        raise ValueError(f"methods: none of {tried} can do {', '.join(names)} on these photographs; name others")
    comparison = report.compare_with_rival(summaries, differences(evaluation))
    return "\n\n".join(filter(None, [comparison, str(args.output / PAGE)]))


PAGE = "report.html"


def blind(args: argparse.Namespace) -> str:
    """Write the page of a blind comparison and its key; returns the text to print."""
    from photofound.eval import protocols
    from photofound.eval.blind import make_pairs, write
    from photofound.eval.methods import CLASSICAL, classical_methods
    from photofound.eval.photographs import find_photographs, sample_photographs

    if (args.output / KEY).exists() and not args.overwrite:
        raise ValueError(f"output: {args.output} holds a blind comparison; pass --overwrite or another -o")
    if args.output.exists() and not args.output.is_dir():
        raise ValueError(f"output: {args.output} is a file; name a folder")
    entries = sample_photographs() if args.data is None else find_photographs(args.data, args.match)
    names = args.protocols or [name for name in protocols.available(entries) if name != "colour-words"]
    protocols.check_names(names, entries)
    methods: list[Any] = []
    for name in args.blind:
        args.model = [name]
        methods += classical_methods([name]) if name in CLASSICAL else models(args)
    if methods[0].name == methods[1].name:
        raise ValueError(f"blind: both methods are called {methods[0].name}; tell them apart with NAME=ID_OR_DIR")
    problems = protocols.problems(entries, names, args.limit or 4, args.mask_seed, args.max_side or 512)
    pairs = make_pairs(problems, methods[0], methods[1], args.mask_seed, _progress(args.quiet))
    page = write(args.output, pairs, (methods[0].name, methods[1].name), args.mask_seed)
    return f"{page}\n{len(pairs)} pairs; keep {args.output / KEY} from the person who chooses"


def score_choices(args: argparse.Namespace) -> str:
    """The text to print about the choices of a blind comparison."""
    from photofound.eval.blind import as_text, score

    places = [args.score.parent / KEY, args.output / KEY]
    key = args.key or next((place for place in places if place.is_file()), None)
    if key is None:
        raise ValueError(f"score: no {KEY} lies beside {args.score} or in {args.output}; name it with --key")
    return as_text(score(args.score, key))


def _about(args: argparse.Namespace, seconds: float, ended: bool) -> dict[str, Any]:
    """The head of the report: the settings and the machine. Folders appear without their paths."""
    import torch

    from photofound.device import device_name, resolve_device

    networks = {name: getattr(args, name) for name in ("perceptual", "features", "clip", "segmenter")}
    network_names = {f"{name} network": Path(value).name for name, value in networks.items() if value}
    return {
        "photographs": Path(args.data).resolve().name + (f", only {args.match}" if args.match else ""),
        "seeds": args.seeds,
        "mask seed": args.mask_seed,
        **({"at most": f"{args.limit} photographs per protocol"} if args.limit else {}),
        **({"scaled down to": f"{args.max_side} px"} if args.max_side else {}),
        **network_names,
        "versions": f"photofound {__version__}, torch {torch.__version__}",
        "machine": device_name(resolve_device(args.device)),
        "took": f"{seconds / 60:.1f} minutes" + ("" if ended else ", stopped before the end"),
    }


def _progress(quiet: bool) -> Callable[[str], None]:
    """Prints progress on stderr: one line that is overwritten, and nothing if stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        return lambda line: None
    return lambda line: print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 after an error, which is one line on stderr."""
    try:
        args = parser().parse_args(argv)
        if args.blind and args.score:
            raise ValueError("blind: --blind makes a page and --score reads its choices back; pass one of them")
        text = score_choices(args) if args.score else blind(args) if args.blind else run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"photofound: {one_line(error)}", file=sys.stderr)
        return 2
    if args.score or not args.quiet:
        print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
