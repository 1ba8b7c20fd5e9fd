"""Load a model for a command: quietly, with errors for people."""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from photofound.cli.console import first_sentence


def load_pipeline(args: argparse.Namespace) -> Any:
    """The model that ``arguments.add_model_options`` asks for, on its device. Raises ValueError if it cannot be had."""
    with without_gc():
        import torch

        from photofound.device import fast_dtype, resolve_device
        from photofound.pipeline import EditPipeline

    device = str(resolve_device(args.device, "device"))
    quiet_libraries()
    source = [] if args.model is None else [args.model]
    dtype = fast_dtype(device) if args.dtype == "auto" else getattr(torch, args.dtype)
    options = {"teacher": args.teacher, "runtime": args.runtime, "torch_dtype": dtype}
    try:
        with without_gc():
            pipe = EditPipeline.from_pretrained(*source, **options)
    except OSError as error:  # those of the Hub and of diffusers have several lines of advice for programmers
        if str(error).startswith("model:"):
            raise  # ours, and already clear
        advice = "--model takes a folder, or the id of a model that is cached or on the Hub"
        raise ValueError(f"{first_sentence(error)}; {advice}") from error
    optimize(pipe, args)
    pipe.to(device)
    return pipe


def optimize(pipe: Any, args: argparse.Namespace) -> None:
    """Save memory and time, and have a larger model at hand, as ``arguments.add_optimizations`` asks for. Raises
    ValueError where it cannot be."""
    if args.quantize:
        pipe.quantize(args.quantize)
    if args.cache_threshold is not None:
        pipe.enable_first_block_cache(args.cache_threshold)
    elif args.cache:
        pipe.enable_first_block_cache()
    if args.path_drop:
        pipe.enable_path_drop_guidance()
    if args.fallback is not None:
        more = {} if args.fallback_below is None else {"below": args.fallback_below}
        pipe.use_fallback(args.fallback, **more)
    elif args.fallback_below is not None:
        raise ValueError("--fallback-below: there is no --fallback; name a larger model")


@contextmanager
def without_gc() -> Iterator[None]:
    """Within the block, no garbage collection. Loading libraries and weights makes no garbage, and looking for it takes
    a sixth of the time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def quiet_libraries(importing: bool = False) -> None:
    """Switch off the log lines and loading bars of diffusers and transformers. Their errors are raised anyway.

    ``importing``: import them for it, where they come in only with the first model.
    """
    for name in ("diffusers.utils.logging", "transformers.utils.logging"):
        if importing or name.partition(".")[0] in sys.modules:
            logging = importlib.import_module(name)
            logging.set_verbosity_error()
            logging.disable_progress_bar()
