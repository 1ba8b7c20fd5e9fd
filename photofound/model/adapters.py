"""LoRAs on a model: the model with them added to its weights."""

from __future__ import annotations

import copy
from typing import Any

import torch


def merged(model: Any) -> Any:
    """A model with its active LoRAs added to its weights, and without any LoRA; itself if it has none.

    What the LoRAs leave alone is shared, not copied.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    if not layers:
        return model
    inside = tuple(f"{name}." for name in layers)
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith(inside)}
    for name, layer in layers.items():
        if not layer.merged and not layer.disable_adapters:
            layer = copy.deepcopy(layer)
            layer.merge()
        weights |= {f"{name}.{key}": value for key, value in layer.get_base_layer().state_dict().items()}
    with torch.device("meta"):
        plain = type(model).from_config(model.config)
    plain.load_state_dict(weights, assign=True)
    return plain.train(model.training)
