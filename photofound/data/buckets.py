"""Photographs in memory at their own aspects: each is kept just as large as its bucket asks, and cut to that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from photofound.data.objects import resized
from photofound.data.photograph import Photograph
from photofound.data.store import PhotoStore
from photofound.edits.geometry import cover, nearest_bucket

ENLARGE = 1.25  # how much a photograph is enlarged at most, as in a stream


class Buckets:
    """A store of photographs for each of some shapes.

    Args:
        sizes: (W, H), of ``geometry.aspect_buckets``. A photograph goes to the one of its aspect, is scaled to cover
            it, and cut where it is drawn. One that is too small for that is left out.

    Attributes:
        stores: (H, W) -> its photographs; shapes without any are not among them.
        left_out: how many photographs were too small.
    """

    def __init__(self, photographs: Sequence[Photograph], sizes: Sequence[tuple[int, int]]) -> None:
        sorted_out: dict[tuple[int, int], list[Photograph]] = {}
        self.left_out = 0
        for photograph in photographs:
            height, width = photograph.pixels.shape[-2:]
            bucket = nearest_bucket(width, height, sizes)
            covering = cover(width, height, bucket)
            if covering[0] > ENLARGE * width + 1:
                self.left_out += 1
            else:
                sorted_out.setdefault(bucket[::-1], []).append(_scaled(photograph, covering[::-1]))
        self.stores = {
            shape: PhotoStore.build(kept, (max(max(each.pixels.shape) for each in kept),))
            for shape, kept in sorted(sorted_out.items())
        }

    def to(self, device: torch.device | str) -> Buckets:
        """Move the pixels to a device, in place."""
        self.stores = {shape: store.to(device) for shape, store in self.stores.items()}
        return self

    def pick(self, weights: Sequence[float], generator: torch.Generator) -> tuple[tuple[int, int], PhotoStore]:
        """A shape (H, W) and its store, each as likely as its weight; ``generator`` is on the CPU."""
        picked = torch.multinomial(torch.tensor(weights, dtype=torch.float64), 1, generator=generator)
        shape = list(self.stores)[int(picked)]
        return shape, self.stores[shape]


def _scaled(photograph: Photograph, shape: tuple[int, int]) -> Photograph:
    """A photograph at (H, W)."""
    if tuple(photograph.pixels.shape[-2:]) == shape:
        return photograph
    matte = None if photograph.matte is None else resized(photograph.matte, shape)
    return replace(photograph, pixels=resized(photograph.pixels, shape), matte=matte)
