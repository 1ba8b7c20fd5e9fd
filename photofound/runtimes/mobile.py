"""Graphs as ExecuTorch's programs for phones (``.pte``): XNNPACK computes what it can, ExecuTorch itself the rest.

A program's memory is planned when it is written, for the largest sizes that it will be given: ``MOST``, and ``SIDE``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from photofound.runtimes.graphs import Graph

SIDE = 512  # of pictures, in pixels
MOST = {"batch": 4, "text": 1024, "reference": 1024}
SUFFIX = ".pte"

_HIDDEN = -1e30  # added to the scores of keys that must not be seen; finite, so that all of them are no NaN


def most(graph: Graph) -> dict[str, int]:
    """The largest sizes that a graph's program can be given."""
    side = max(16, SIDE // graph.pixels)  # parity is measured at up to 16
    return {**MOST, "rows": side, "columns": side}


def write(program: Any, path: Path) -> Callable[..., list[Tensor]]:
    """Write a graph as a program, and load that one.

    Args:
        program: of torch.export, with sizes up to ``most``.
        path: without suffix.

    Returns:
        What runs it: inputs to outputs.
    """
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    # XNNPACK's way to add a dimension knows one size that varies, and its partitioner does not look (1.5.1).
    known = [each for each in ALL_PARTITIONER_CONFIGS if each.__name__ != "UnsqueezeCopyConfig"]
    edge = to_edge_transform_and_lower(
        program.run_decompositions(_PLAIN),
        partitioner=[XnnpackPartitioner(configs=known)],
        # Checking takes the first part of a split for the list of parts, asks how many there are, and so fixes the
        # batch to that of the example (1.5.1).
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    path = path.with_suffix(SUFFIX)
    path.write_bytes(edge.to_executorch().buffer)
    return load(path)


def load(path: Path) -> Callable[..., list[Tensor]]:
    """What runs a program of one's own: inputs to outputs. ExecuTorch trusts what it reads, so that a program of
    somebody else's must not be loaded."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")

    def run(*given: Tensor) -> list[Tensor]:
        return [each.clone() for each in method.execute(given)]  # copies: the next run writes where these lie

    return run


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention as products of matrices of three dimensions, which XNNPACK has, with no care for queries that may see
    nothing. torch's own form copies the scores six times for these: 3 GB for a transformer at 1,024 pixels, not .1."""
    batch, heads, tokens, size = query.shape
    keys = key.shape[2]
    assert not dropout_p, "graphs are of networks that are not trained"
    if enable_gqa:
        key, value = (each.repeat_interleave(heads // each.shape[1], 1) for each in (key, value))
    if is_causal:
        attn_mask = torch.ones(tokens, keys, dtype=torch.bool, device=query.device).tril()
    scale = 1 / math.sqrt(size) if scale is None else scale
    query = (query * scale).reshape(batch * heads, tokens, size)
    scores = torch.bmm(query, key.transpose(2, 3).reshape(batch * heads, size, keys))
    if attn_mask is not None:
        added = torch.where(attn_mask, 0.0, _HIDDEN) if attn_mask.dtype == torch.bool else attn_mask
        rows = added.shape[-2]  # 1 for all queries
        scores = scores + added.expand(batch, heads, rows, keys).reshape(batch * heads, rows, keys)
    seen = torch.bmm(scores.softmax(-1), value.reshape(batch * heads, keys, size))
    return seen.reshape(batch, heads, tokens, size)


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """The tanh form of GELU in full: XNNPACK's GELU is the other one, whatever is asked for, 5e-4 away."""
    if approximate != "tanh":
        return NotImplemented
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


_PLAIN: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.scaled_dot_product_attention.default: _attention,
    torch.ops.aten.gelu.default: _gelu,
}
