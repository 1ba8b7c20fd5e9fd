"""What a forward pass of the transformer costs, counted without computing it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from photofound.model.transformer import EditTransformer


class FlopCounter(FlopCounterMode):
    """Counts FLOP within the block. It does not note in which module they are: the hooks for that do not take a
    gradient that is computed within a loss (gradient penalties)."""

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker = _Nowhere()  # type: ignore[assignment]  # all that the counter asks of one


class _Nowhere:
    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *error: Any) -> None: ...


@dataclass(frozen=True)
class Cost:
    """What one forward pass of one sample takes.

    Attributes:
        parameters: of the whole transformer, every task's head included.
        tokens: image tokens T.
        flops: floating-point operations of its matrix products and attention, a multiply-add being two. A training
            step takes three times as many, four times with activation checkpointing.
    """

    parameters: int
    tokens: int
    flops: int


def forward_cost(
    model: EditTransformer,
    height: int,
    width: int,
    text_tokens: int = 256,
    skip: float = 0.0,
    reference: tuple[int, int] | None = None,
) -> Cost:
    """Count a forward pass on a latent of height x width, on the meta device.

    Works on a model that is itself on the meta device, so that a billion parameters can be planned on a laptop:
    `with torch.device("meta"): forward_cost(EditTransformer(...), 128, 128)`. Adapters are not counted.

    Args:
        height, width: of the latent; of the picture in pixel space.
        text_tokens: length L of the text.
        skip: share of the tokens that a route leaves out (TREAD).
        reference: height and width of the reference's latent; None = there is none.
    """
    config = model.config
    tokens = (height // config.patch_size) * (width // config.patch_size)
    with torch.device("meta"), torch.no_grad(), FlopCounter() as counter:
        twin = EditTransformer.from_config(config)
        seen = config.condition_channels
        twin(
            torch.empty(1, config.in_channels, height, width),
            torch.empty(1),
            torch.empty(1, text_tokens, config.context_in_dim),
            condition=torch.empty(1, seen, height, width) if seen else None,
            strength=torch.empty(1),
            guidance=torch.empty(1) if config.guidance_embeds else None,
            reference=torch.empty(1, config.in_channels, *reference) if reference else None,
            route=torch.empty(1, tokens - int(skip * tokens), dtype=torch.long) if skip else None,
        )
    return Cost(sum(p.numel() for p in twin.parameters()), tokens, counter.get_total_flops())


@register_flop_formula(torch.ops.mkldnn._linear_pointwise)
def _fused_product(x: Sequence[int], *args: Any, out_shape: Sequence[int], **kwargs: Any) -> int:
    """A linear layer that oneDNN computes together with what follows it (`fused.geglu`)."""
    return 2 * math.prod(out_shape) * x[-1]
