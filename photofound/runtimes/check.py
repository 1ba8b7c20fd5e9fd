"""What may be loaded of a folder that was exported: graphs of standard operators, whose weights lie in the folder.

A graph is data, not code, as long as no library of operators is loaded with it; none ever is here. What is left is a
file that reads another one (external data) or wants operators that only such a library has: both are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from photofound import files

RUNTIME = "runtime.json"  # says what a folder was exported for
_DOMAINS = ("", "ai.onnx")
_MOST_BYTES = 2**31  # of a graph without its external data: what protobuf can hold
_MOST_XML = 64 * 2**20
_MOST_NODES = 200_000
_AGAIN = "export it again"


def exported_for(folder: Path) -> str | None:
    """Which runtime a model folder was exported for; None for a folder of torch's weights. Raises ValueError for a
    damaged record."""
    path = Path(folder) / RUNTIME
    if not path.is_file():
        return None
    runtime = files.read_json(path).get("runtime")
    if runtime == "executorch":
        raise ValueError(f"model: {folder} was exported for ExecuTorch, which runs on phones; load what it was made of")
    if runtime not in ("onnx", "openvino"):
        raise ValueError(f"model: {path}: runtime is {runtime!r}; it must be onnx or openvino; {_AGAIN}")
    return str(runtime)


def check_file(path: Path, most: int) -> None:
    """Raise ValueError for a file that is missing, leads out of its folder, or is too large."""
    if path.is_symlink() and not _is_cached(path) or (path.exists() and not path.is_file()):
        raise ValueError(f"model: {path} is no plain file; {_AGAIN}")
    if not path.is_file():
        raise ValueError(f"model: {path} is missing; {_AGAIN}")
    if path.stat().st_size > most:
        raise ValueError(f"model: {path} has more than {most:,} bytes; {_AGAIN}")


def _is_cached(path: Path) -> bool:
    """Whether a link is one of the Hub's cache: from a snapshot to the blobs beside it."""
    snapshot = next((each for each in path.parents if each.parent.name == "snapshots"), None)
    return snapshot is not None and path.resolve().parent == (snapshot.parent.parent / "blobs").resolve()


def check_onnx(path: Path, names: Sequence[str]) -> None:
    """Raise ValueError for an ONNX file that must not be loaded, or whose inputs are not ``names``."""
    check_file(path, _MOST_BYTES)
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    check_names(path, [each.name for each in model.graph.input], names)
    count = 0
    for operator in _operators(model):
        count += 1
        if operator.domain not in _DOMAINS:
            raise ValueError(
                f"model: {path} wants the operator {operator.domain}.{operator.op_type}, which only foreign code has; "
                "only ONNX's own operators are run"
            )
        if count > _MOST_NODES:
            raise ValueError(f"model: {path} has more than {_MOST_NODES:,} operators; {_AGAIN}")
    for tensor in _tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value != f"{path.name}.data":
                raise ValueError(
                    f"model: {path} reads its weights from {entry.value[:120]!r}; only {path.name}.data, beside it, "
                    "is read"
                )
        if tensor.external_data:
            check_file(path.with_name(f"{path.name}.data"), 2**63)


def check_openvino(path: Path) -> None:
    """Raise ValueError for an IR that must not be loaded."""
    check_file(path, _MOST_XML)
    check_file(path.with_suffix(".bin"), 2**63)


def check_names(path: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise ValueError for a graph of other inputs than its network has."""
    if sorted(found) != sorted(wanted):
        raise ValueError(
            f"model: {path} is given {', '.join(sorted(found))}, but its network {', '.join(sorted(wanted))}; {_AGAIN}"
        )


def _operators(model: Any) -> Iterator[Any]:
    yield from _within(model.graph)
    for function in model.functions:
        yield from function.node


def _within(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _within(inner)


def _tensors(model: Any) -> Iterator[Any]:
    yield from _initializers(model.graph)
    for node in _operators(model):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _initializers(inner)


def _initializers(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
