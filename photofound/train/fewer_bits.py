"""Weights that are not trained, in fewer bits: bfloat16, eight bits, or NF4 (QLoRA, arXiv:2305.14314, section 3).

A LoRA is trained on top of them, in float32. What is exported is merged into the weights as they were read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from photofound.model.quantize import torchao_quantization

KINDS = ("fp32", "bf16", "int8", "nf4")
_BLOCK, _SCALES = 64, 256  # NF4: weights that share a scale, scales that share another


def lower(network: nn.Module, kind: str) -> None:
    """Keep the weights that need no gradient in fewer bits, in place; for ``int8`` and ``nf4`` those of the linear
    layers in the blocks, all others in bfloat16.

    Args:
        kind: ``fp32`` changes nothing; ``bf16``; ``int8`` with a scale for each row; ``nf4``.

    Raises ValueError for an unknown kind, and without torchao.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is unknown; use {', '.join(KINDS)}")
    if kind == "fp32":
        return
    for parameter in network.parameters():
        if not parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16)
    if kind != "bf16":
        for layer in quantizable(network):
            layer.weight = nn.Parameter(_quantized(layer.weight.detach(), kind), requires_grad=False)


def quantizable(network: nn.Module) -> list[nn.Linear]:
    """The frozen linear layers of a network's blocks that are large enough."""
    layers = [layer for block in getattr(network, "blocks", ()) for layer in block.modules()]
    return [
        layer
        for layer in layers
        if isinstance(layer, nn.Linear)
        and not layer.weight.requires_grad
        and not layer.weight.numel() % (_BLOCK * _SCALES)
    ]


def size(network: nn.Module, kind: str) -> float:
    """Bytes of the network's weights after ``lower``; it may be on the meta device."""
    whole = sum(p.numel() for p in network.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    if kind == "fp32":
        return 4.0 * (whole + frozen)
    few = sum(layer.weight.numel() for layer in quantizable(network)) if kind != "bf16" else 0
    rows = sum(layer.out_features for layer in quantizable(network))
    bits = {"bf16": 0.0, "int8": few + 2.0 * rows, "nf4": few * (0.5 + 1 / _BLOCK + 4 / (_BLOCK * _SCALES))}[kind]
    return 4.0 * whole + 2.0 * (frozen - few) + bits


def _quantized(weight: torch.Tensor, kind: str) -> Any:
    try:
        library = torchao_quantization()
    except ImportError as error:
        raise ValueError(f"model.base: {error}") from None
    if kind == "nf4":
        return library.to_nf4(weight, _BLOCK, _SCALES)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    library.quantize_(layer, library.Int8WeightOnlyConfig())
    return layer.weight.detach()
