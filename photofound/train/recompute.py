"""Activation checkpointing: a block's activations are computed twice instead of being kept until the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.attention.varlen  # registers its operator
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from photofound.train.settings import TrainConfig

_ATEN = torch.ops.aten
_PRODUCTS = {
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
    _ATEN.baddbmm.default,
    _ATEN.convolution.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
    torch.ops.torch_attn._varlen_attn.default,
}
"""Where nearly all of a block's work is, and less than half of its memory."""


def checkpointed(
    blocks: Sequence[nn.Module], keep: str = "inputs", every: int = 1, compiled: bool = False
) -> Callable[..., Any]:
    """What ``enable_gradient_checkpointing`` of a diffusers model takes: ``function(block, *args)``, which calls the
    block and forgets its activations.

    Args:
        blocks: the model's repeated blocks, in order.
        keep: what is kept of a block: its ``inputs``, so that it is computed once more (Chen et al., arXiv:1604.06174);
            or the ``products`` of its matrices and its attention, too, so that only norms, gates and positions are.
        every: of every n-th block alone; the others keep everything.
        compiled: whether the blocks are compiled. What is kept of one is then its compiler's business, which has to
            see the checkpoint, too.
    """
    left = {id(block) for index, block in enumerate(blocks) if index % every}
    context = partial(create_selective_checkpoint_contexts, _policy) if keep == "products" else None
    options: dict[str, Any] = {"use_reentrant": False} | ({"context_fn": context} if context else {})

    def through(block: Callable[..., Any], *args: Any) -> Any:
        return checkpoint(block, *args, **options)

    run = torch.compile(through) if compiled and context else through

    def call(block: Callable[..., Any], *args: Any) -> Any:
        return block(*args) if id(block) in left else run(block, *args)

    return call


def checkpoint_models(module: nn.Module, config: TrainConfig) -> None:
    able: list[Any] = [part for part in module.modules() if getattr(part, "_supports_gradient_checkpointing", False)]
    if not able:
        raise ValueError("train.checkpoint_activations: no model of this stage can do that; set it to false")
    for part in able:
        if part.is_gradient_checkpointing:  # the stage's own, for blocks that travel
            continue
        blocks = getattr(part, "blocks", ())
        part.enable_gradient_checkpointing(
            checkpointed(blocks, config.checkpoint_keep, config.checkpoint_every, config.compiled)
        )


def _policy(_: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in _PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE
