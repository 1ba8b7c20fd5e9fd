"""A pipeline's networks for other programs: graphs to files, and how near these are to torch.

    photofound export --to onnx -o DIR

The folder is a model folder (``model_index.json``, configurations, scheduler, tokenizer, card) with graphs in the place
of weights, and ``runtime.json``, which says for which runtime.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from photofound import __version__, files
from photofound.errors import first_line
from photofound.runtimes import mobile
from photofound.runtimes.check import RUNTIME
from photofound.runtimes.compact import compact, strip
from photofound.runtimes.graphs import Graph, graphs_of
from photofound.runtimes.session import SUFFIXES, Session, openvino_core, require

TARGETS = ("onnx", "openvino", "tensorrt", "executorch")
LIMIT = 1e-3  # of the difference to torch
OPSET = 20
_TRACED = {
    "batch": 2,
    "rows": 6,
    "columns": 10,
    "text": 5,
    "reference": 7,
}  # no two alike, none 1: these would be fixed
SIZES = (  # that parity is measured at; the last one is that of an edit's tile
    {"batch": 1, "rows": 4, "columns": 4, "text": 1, "reference": 1},
    {"batch": 3, "rows": 9, "columns": 5, "text": 37, "reference": 12},
    {"batch": 2, "rows": 16, "columns": 16, "text": 32, "reference": 64},
)


@dataclass(frozen=True)
class Parity:
    """How near a graph is to torch.

    Attributes:
        name: of the graph.
        sizes: what varied.
        difference: the largest of all outputs' values.
    """

    name: str
    sizes: dict[str, int]
    difference: float

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        return f"{self.name} ({sizes}): {self.difference:.1e}"


@torch.no_grad()
def export(pipe: Any, target: str, output: str | Path, say: Callable[[str], Any] = lambda line: None) -> float:
    """Write a pipeline's networks for another program, as they are in float32.

    Args:
        pipe: any task's pipeline of torch's networks, in float32 and on the CPU.
        target: ``onnx``, ``openvino``, ``tensorrt`` or ``executorch``.
        output: the folder to write: missing, empty, or one that was exported before. It appears when it is complete.
        say: is told each graph's difference, line by line.

    Returns:
        The largest difference to torch, over all graphs and sizes.

    Raises:
        ValueError: an output that is in use, a pipeline that has no graphs, a network that cannot be exported.
        ImportError: with the line that installs what is missing.
    """
    folder = files.output_path(output, "output")
    if folder.exists() and not (folder / RUNTIME).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"output {folder} is already there: remove it or name another folder")
    if target not in TARGETS:
        raise ValueError(f"export: {target!r} is unknown; use {', '.join(TARGETS)}")
    writer = _writer(target)
    _check(pipe)
    worst = 0.0
    with files.replacing(folder) as part:
        part.mkdir(parents=True)
        _write_configurations(pipe, part)
        found: dict[str, float] = {}
        for graph in graphs_of(pipe):
            path = part / graph.name
            path.parent.mkdir(exist_ok=True)
            try:
                with _quiet():
                    run = writer(graph, path)
                if target == "tensorrt" and not path.with_suffix(".engine").is_file():
                    say(engine_command(graph, folder))
                for parity in parities(graph, run):
                    say(str(parity))
                    found[graph.name] = max(found.get(graph.name, 0.0), parity.difference)
            except Exception as error:  # exporters raise nearly anything for what they do not know
                reason = f"{graph.name} cannot be exported to {target} ({first_line(error)})"
                raise ValueError(f"export: {reason}") from error
        worst = max(found.values())
        runtime = "onnx" if target == "tensorrt" else target
        record: dict[str, Any] = {"runtime": runtime, "target": target, "photofound": __version__}
        record |= {"source": pipe.fingerprint(), "max_difference": found}
        files.write(part / RUNTIME, json.dumps(record, indent=1) + "\n")
    return worst


def parities(graph: Graph, run: Callable[..., list[Tensor]]) -> Iterator[Parity]:
    """How near ``run`` is to a graph's module, at sizes that it was not traced at."""
    for number, sizes in enumerate(SIZES):
        given = graph.example(sizes, seed=number)
        wanted = graph.module(*given)
        wanted = [wanted] if isinstance(wanted, Tensor) else wanted
        made = run(*given)
        far = max((a - b).detach().abs().max().item() for a, b in zip(made, wanted, strict=True))
        yield Parity(graph.name, {name: sizes[name] for name in graph.varying}, far)


def _check(pipe: Any) -> None:
    """Raise ValueError for a pipeline that has no graphs of its own."""
    if not hasattr(getattr(pipe, "transformer", None), "encode_text") or hasattr(pipe, "painter"):
        raise ValueError("export: this is another project's pipeline; export it with its own tools (optimum)")
    for name in ("transformer", "vae", "text_encoder", "detail", "upscaler"):
        part = getattr(pipe, name)
        if part is not None and hasattr(part, "sessions"):
            raise ValueError("export: this model is graphs already; name the model that they were exported from")
        if part is not None and part.dtype != torch.float32:
            raise ValueError(f"export: {name} is in {part.dtype}; load the model with torch_dtype=torch.float32")


def _write_configurations(pipe: Any, folder: Path) -> None:
    """All of the model's folder but the weights."""
    from photofound.card import card  # at use: whoever edits needs no card

    pipe.save_config(folder)
    for name, part in pipe.components.items():
        if part is None:
            continue
        if name in ("scheduler", "tokenizer"):
            part.save_pretrained(folder / name)
        elif hasattr(part, "save_config"):
            part.save_config(folder / name)
        else:
            part.config.save_pretrained(folder / name)
    for path in (folder / "model_index.json", *folder.glob("*/config.json")):
        entries = files.read_json(path)
        if entries.pop("_name_or_path", None) is not None:  # a path of this machine
            files.write(path, json.dumps(entries, indent=2) + "\n")
    if origin := pipe.config.get("_name_or_path"):
        card.copy_card(Path(origin), folder)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within the block, exporters keep to themselves what only their makers can use."""
    names = ("torch.onnx", "torch.export", "torch", "onnxscript", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


# --------------------------------------------------------------------------------------------------------- the writers


Writer = Callable[[Graph, Path], Callable[..., list[Tensor]]]  # writes a graph; gives what runs the file


def _writer(target: str) -> Writer:
    """Raises ImportError, which says what to install."""
    needed = ("executorch",) if target == "executorch" else ("onnx", "onnxscript")
    for name in needed:
        try:
            importlib.import_module(name)
        except ImportError as error:
            extra = "executorch" if target == "executorch" else "export"
            reason = f"export needs a package that is missing ({error})"
            raise ImportError(f"{reason}; pip install 'photofound[{extra}]'") from None
    if target != "executorch":
        require("openvino" if target == "openvino" else "onnx")
    return {"onnx": _onnx, "openvino": _openvino, "tensorrt": _tensorrt, "executorch": _executorch}[target]


def traced(graph: Graph, most: Mapping[str, int] = MappingProxyType({})) -> Any:
    """The graph as torch.export's program, its sizes varying, each up to ``most``."""
    return torch.export.export(graph.module.eval(), graph.example(_TRACED), dynamic_shapes=graph.dynamic_shapes(most))


def _write_onnx(graph: Graph, path: Path) -> None:
    names = [each.name for each in graph.inputs]
    program = torch.onnx.export(
        traced(graph),
        input_names=names,
        output_names=list(graph.outputs),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    strip(program.model)
    compact(program.model)
    program.save(str(path))


def _onnx(graph: Graph, path: Path) -> Callable[..., list[Tensor]]:
    path = path.with_suffix(SUFFIXES["onnx"])
    _write_onnx(graph, path)
    return Session(path, "onnx", [each.name for each in graph.inputs])


def _openvino(graph: Graph, path: Path) -> Callable[..., list[Tensor]]:
    import openvino

    between = path.with_suffix(SUFFIXES["onnx"])
    _write_onnx(graph, between)
    path = path.with_suffix(SUFFIXES["openvino"])
    openvino.save_model(openvino_core().read_model(between), path, compress_to_fp16=False)
    for part in (between, between.with_name(f"{between.name}.data")):
        part.unlink(missing_ok=True)
    return Session(path, "openvino", [each.name for each in graph.inputs])


def _tensorrt(graph: Graph, path: Path) -> Callable[..., list[Tensor]]:
    """ONNX, which TensorRT reads, and the engine where TensorRT is."""
    run = _onnx(graph, path)
    with contextlib.suppress(ImportError):
        import tensorrt

        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        builder = tensorrt.Builder(logger)
        network = builder.create_network()
        parser = tensorrt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(path.with_suffix(".onnx"))):
            raise ValueError(str(parser.get_error(0)))
        settings, profile = builder.create_builder_config(), builder.create_optimization_profile()
        for each in graph.inputs:
            profile.set_shape(each.name, *map(each.sizes, engine_sizes(graph)))
        settings.add_optimization_profile(profile)
        path.with_suffix(".engine").write_bytes(builder.build_serialized_network(network, settings))
    return run


def engine_sizes(graph: Graph) -> list[dict[str, int]]:
    """The least, the usual and the largest sizes that a TensorRT engine is built for: a tile of 256 pixels is usual,
    and pictures may have up to 1,024 pixels a side."""

    def sizes(batch: int, pixels: int, text: int, reference: int) -> dict[str, int]:
        side = max(4, pixels // graph.pixels)
        return {"batch": batch, "rows": side, "columns": side, "text": text, "reference": reference}

    return [sizes(1, 0, 1, 1), sizes(2, 256, 32, 64), sizes(8, 1024, 1024, 1024)]


def engine_command(graph: Graph, folder: Path) -> str:
    """The line that builds a graph's engine where TensorRT is."""
    path = folder / graph.name
    limits = []
    for name, sizes in zip(("min", "opt", "max"), engine_sizes(graph), strict=True):
        shapes = (f"{each.name}:{'x'.join(map(str, each.sizes(sizes)))}" for each in graph.inputs)
        limits.append(f"--{name}Shapes={','.join(shapes)}")
    return f"trtexec --onnx={path.with_suffix('.onnx')} --saveEngine={path.with_suffix('.engine')} {' '.join(limits)}"


def _executorch(graph: Graph, path: Path) -> Callable[..., list[Tensor]]:
    for parameter in graph.module.parameters():
        parameter.data = parameter.data.contiguous()  # as XNNPACK's partitioner wants them
    return mobile.write(traced(graph, mobile.most(graph)), path)
