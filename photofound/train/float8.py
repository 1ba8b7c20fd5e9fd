"""Training in eight bits: products of the blocks' linear layers in float8, by torchao; weights stay as they are.

Activations, weights and gradients are scaled and rounded just before each product. Published: up to 1.5 times as fast
on H100s for models of billions of parameters (https://pytorch.org/blog/training-using-float8-fsdp2/).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

LEAST = (8, 9)  # the compute capability of Ada; Hopper is (9, 0)


def convert(blocks: Sequence[nn.Module], device: torch.device) -> int:
    """Replace the linear layers of the blocks, in place, by those of torchao; returns how many.

    Layers whose sides are no multiples of 16, and those of adapters, stay as they are.

    Raises ValueError where the device or the installation cannot do it.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < LEAST:
        raise ValueError(f"train.fp8: {device.type} has no products of eight bits here; set it to false (it needs an "
                         "NVIDIA GPU since Ada or Hopper)")  # fmt: skip
    try:
        from torchao.float8 import convert_to_float8_training
    except ImportError:
        raise ValueError("train.fp8: torchao is not installed; pip install 'photofound[quantize]'") from None
    count = 0

    def chosen(layer: nn.Module, name: str) -> bool:
        nonlocal count
        fits = type(layer) is nn.Linear and not layer.in_features % 16 and not layer.out_features % 16
        wanted = fits and "lora_" not in name and "modulation" not in name
        count += wanted
        return wanted

    for block in blocks:
        convert_to_float8_training(block, module_filter_fn=chosen)
    return count
