"""Weights of eight bits, by torchao: half the memory of bfloat16, a quarter of float32.

Only weights are stored so. Activations and sums stay as they were, every row has a scale of its own, and a layer
computes what it would with the rounded weights: in a batch the same as alone, and in several threads at once. The
layerwise casting of diffusers is not used: it rounds without scales, and moves weights to and fro while it computes,
which two threads must not do to one layer.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

KINDS = ("fp8", "int8")
_LEAST = 64  # features; smaller layers are not worth it, LoRAs among them


def quantize(network: nn.Module, kind: str) -> int:
    """Store the weights of a network's linear layers in eight bits, in place; returns how many layers.

    What the network names in diffusers' ``_skip_layerwise_casting_patterns`` stays as it is: norms, inputs, outputs.

    Args:
        kind: ``int8``, or ``fp8`` (e4m3); either with a scale for each row.

    Raises:
        ValueError: an unknown kind, or a network that is quantized already. ImportError: without torchao.
    """
    if kind not in KINDS:
        raise ValueError(f"quantize: {kind!r} is unknown; use {' or '.join(KINDS)}")
    if is_quantized(network):
        raise ValueError("quantize: the weights have eight bits already; load the model anew for others")
    torchao = torchao_quantization()
    config = torchao.Int8WeightOnlyConfig() if kind == "int8" else torchao.Float8WeightOnlyConfig()
    skipped = getattr(network, "_skip_layerwise_casting_patterns", None) or (
        "pos_embed",
        "patch_embed",
        "norm",
        "proj_out",
    )
    count = 0

    def chosen(module: nn.Module, name: str) -> bool:
        nonlocal count
        large = isinstance(module, nn.Linear) and min(module.in_features, module.out_features) >= _LEAST
        wanted = large and not any(re.search(pattern, name) for pattern in skipped)
        count += wanted
        return wanted

    torchao.quantize_(network, config, filter_fn=chosen)
    return count


def is_quantized(network: nn.Module | None) -> bool:
    """Whether ``quantize`` has changed a network."""
    return network is not None and any(type(each).__module__.startswith("torchao") for each in network.parameters())


def torchao_quantization() -> Any:
    """The library. Raises ImportError where it is not installed."""
    try:
        import torchao.quantization
    except ImportError:
        raise ImportError("quantize needs torchao: pip install 'photofound[quantize]'") from None
    return torchao.quantization
