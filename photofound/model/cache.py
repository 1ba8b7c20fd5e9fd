"""First-block cache: a sampling step whose first block does nearly what it did before takes the other blocks' work of
that time.

The idea is ParaAttention's (https://github.com/chengzeyi/ParaAttention), a simple form of TeaCache (arXiv:2411.19108):
neighbouring steps are alike, and the first block, which is cheap, tells how much. B batch, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

THRESHOLD = 0.15  # of the first block's change, relative (docs/experiments.md)


class FirstBlockCache:
    """What one sampling remembers from step to step. Every sample decides for itself, so that it comes out as it would
    alone.

    Args:
        threshold: how far, relative to its size, the first block's work may be from that of the step whose results
            are used again, in [0, 1]; 0 = every step is computed.
    """

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self.threshold = check_threshold(threshold)
        self.skipped = 0  # samples that took what was remembered, over all steps
        self._first: Tensor | None = None  # (B, T, D), what the first block added when the others were last computed
        self._rest: Tensor | None = None  # (B, T, D), what the others added then

    def __call__(
        self, x: Tensor, first: Callable[[Tensor], Tensor], rest: Callable[[Tensor, Tensor | None], Tensor]
    ) -> Tensor:
        """Tokens (B, T, D) after all blocks.

        Args:
            first: the first block.
            rest: the others, for some samples: their tokens (R, T, D) and which of the batch they are, (R,) long, or
                None for all.
        """
        entered = first(x)
        added = entered - x
        if self._first is None or self._rest is None:
            made = rest(entered, None)
            self._first, self._rest = added, made - entered
            return made
        samples = self._changed(added, self._first)
        self.skipped += len(x) - len(samples)
        made = entered + self._rest
        if len(samples):
            anew = rest(entered[samples], samples)
            made[samples] = anew  # not what rounding makes of it: a sample is the same in any company
            self._first[samples], self._rest[samples] = added[samples], anew - entered[samples]
        return made

    def _changed(self, added: Tensor, before: Tensor) -> Tensor:
        """Which samples (R,) long must be computed anew. One by one: a mean over a batch rounds differently."""
        far = [
            (new.float() - old.float()).abs().mean() > self.threshold * old.float().abs().mean()
            for new, old in zip(added, before, strict=True)
        ]
        return torch.stack(far).nonzero()[:, 0]


class CachedSampling:
    """What diffusers' transformers call `CacheMixin`, for a transformer whose `forward` takes a `cache`. What is
    remembered belongs to each sampling, so that several threads may sample at once."""

    _threshold = 0.0

    def enable_cache(self, config: Any) -> None:
        """Skip blocks in sampling steps that change little, by a ``FirstBlockCacheConfig(threshold=0.15)``. Raises
        ValueError for another kind of cache, or a threshold outside [0, 1]."""
        if type(config).__name__ != "FirstBlockCacheConfig":
            raise ValueError(f"cache: {type(config).__name__} is not supported; pass a FirstBlockCacheConfig")
        self._threshold = check_threshold(config.threshold)

    def disable_cache(self) -> None:
        """Compute every block of every step again."""
        self._threshold = 0.0

    @property
    def is_cache_enabled(self) -> bool:
        return self._threshold > 0

    def new_cache(self) -> FirstBlockCache | None:
        """What one sampling passes to `forward`: None where every block of every step is computed."""
        return FirstBlockCache(self._threshold) if self._threshold else None


def check_threshold(value: float) -> float:
    """The value as a number. Raises ValueError for anything but one in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"cache: {value!r} must be a number from 0 to 1; about {THRESHOLD} is usual")
    return float(value)
