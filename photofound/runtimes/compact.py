"""An ONNX file with no more in it than it needs.

The exporter notes for each node where in the source it comes from, with the paths of the machine that it ran on.

A checkpoint of bfloat16 is exported in float32, since runtimes on processors compute in it, and would be twice as
large. Where each value of a weight is one of bfloat16, that is stored, and a Cast widens it when the file is loaded.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_LEAST = 1024  # values; a smaller weight is not worth a node


def strip(model: Any) -> None:
    """Take the exporter's notes out of an ``onnx_ir.Model``, in place."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        graph.doc_string = None
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.doc_string = None
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()


def compact(model: Any) -> int:
    """Store what can be in bfloat16, in place, in an ``onnx_ir.Model``; returns how many weights."""
    import ml_dtypes
    import onnx_ir

    graph, count = model.graph, 0
    for value in list(graph.initializers.values()):
        wide = value.const_value.numpy()
        if wide.dtype != np.float32 or wide.size < _LEAST:
            continue
        narrow = wide.astype(ml_dtypes.bfloat16)
        if (narrow.astype(np.float32) != wide).any():
            continue
        small = onnx_ir.val(f"{value.name}.bfloat16", onnx_ir.DataType.BFLOAT16, value.shape)
        small.const_value = onnx_ir.tensor(narrow, name=small.name)
        cast = onnx_ir.node("Cast", [small], {"to": onnx_ir.DataType.FLOAT})
        cast.outputs[0].name, cast.outputs[0].dtype = f"{value.name}.float32", onnx_ir.DataType.FLOAT
        cast.outputs[0].shape = value.shape
        value.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[value.name]
        graph.initializers[small.name] = small
        graph.insert_before(graph[0], cast)
        count += 1
    return count
