"""Batches of files to batches of pixels: what the workers of a stream do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from photofound import image
from photofound.data.ledger import error_text
from photofound.data.photograph import decode, planes
from photofound.data.precomputed import unpack
from photofound.data.reader import EncodedBatch
from photofound.data.sources import Raw
from photofound.edits import geometry
from photofound.edits.geometry import Box, bounding_box, cover


class Crop(NamedTuple):
    """One sample of a batch: (3, H, W) and perhaps (1, H, W) uint8, and what was made of it before training."""

    name: str
    pixels: Tensor
    matte: Tensor | None
    prompt: str
    embedding: Tensor | None
    latents: Tensor | None


class BatchDecoder(torch.utils.data.Dataset):
    """What a worker does: batches of files to batches of pixels."""

    def __init__(self, flip: bool, max_pixels: int | None, precomputed: Sequence[str]) -> None:
        self.flip, self.max_pixels, self.precomputed = flip, max_pixels, precomputed

    def __getitem__(self, batch: EncodedBatch) -> dict[str, Any]:
        """``pixels`` (B, 3, H, W) and ``matte`` (B, 1, H, W) uint8, ``prompt``, ``embeddings``, ``latents`` or None,
        and the ``damaged`` ones as (name, reason). Another sample of its batch takes the place of a damaged one; there
        are no pixels if all are."""
        rng = np.random.default_rng(batch.seed)
        damaged: dict[str, str] = {}
        crops: list[Crop] = []
        for sample in batch.samples:
            try:
                crops.append(self._crop(sample, batch.bucket, rng))
            except Exception as error:
                damaged[sample.name] = error_text(error)
        crops = _of_one_shape(crops, damaged)
        if not crops:
            return {"damaged": list(damaged.items())}
        crops = [crops[i % len(crops)] for i in range(len(batch.samples))]
        latents = [crop.latents for crop in crops if crop.latents is not None]
        return {
            "pixels": torch.stack([crop.pixels for crop in crops]),
            "matte": _mattes(crops, batch.bucket),
            "prompt": [crop.prompt for crop in crops],
            "embeddings": {crop.prompt: crop.embedding for crop in crops if crop.embedding is not None},
            "latents": torch.stack(latents) if latents else None,
            "damaged": list(damaged.items()),
        }

    def _crop(self, sample: Raw, bucket: tuple[int, int], rng: np.random.Generator) -> Crop:
        size = cover(*image.upright_size(sample.image, sample.name, self.max_pixels), bucket)
        pixels, matte = decode(
            sample.image, size, sample.mask, sample.name, self.max_pixels, foreground=sample.foreground
        )
        still = "latents" in self.precomputed
        window = (geometry.middle(size, bucket) if still else _window(size, bucket, matte, rng)).slices
        step = -1 if self.flip and not still and rng.random() < 0.5 else 1
        prompt = ""
        if sample.captions:
            weights = np.array([weight for _, weight in sample.captions])
            prompt = sample.captions[rng.choice(len(weights), p=weights / weights.sum())][0]
        return Crop(
            sample.name,
            planes(pixels[window][:, ::step]),
            None if matte is None else planes(matte[window][:, ::step]),
            prompt,
            *self._precomputed(sample, prompt),
        )

    def _precomputed(self, sample: Raw, prompt: str) -> tuple[Tensor | None, Tensor | None]:
        """The embedding of the prompt and the latents, as far as they are asked for."""
        if not self.precomputed:
            return None, None
        embeddings, latents = unpack(sample.row.get("safetensors"))
        missing = [] if "latents" not in self.precomputed or latents is not None else ["no latents"]
        if "text" in self.precomputed and prompt and prompt not in embeddings:
            missing.append(f"no embedding of {prompt!r}")
        if missing:
            raise ValueError(f"has {' and '.join(missing)}; prepare the collection again")
        text = "text" in self.precomputed
        return embeddings.get(prompt) if text else None, latents if "latents" in self.precomputed else None


def _mattes(crops: list[Crop], bucket: tuple[int, int]) -> Tensor:
    """(B, 1, H, W) uint8. Where no sample has one, a single zero goes to the training, not a batch of them."""
    none = torch.zeros(1, 1, 1, dtype=torch.uint8).expand(1, bucket[1], bucket[0])
    if all(crop.matte is None for crop in crops):
        return none.expand(len(crops), -1, -1, -1)
    return torch.stack([none if crop.matte is None else crop.matte for crop in crops])


def _of_one_shape(crops: list[Crop], damaged: dict[str, str]) -> list[Crop]:
    """Those whose latents (C, h, w) and embeddings (L, D) are finite and of the shape that most have; the others are
    noted as damaged."""

    def shape(crop: Crop) -> tuple[Any, Any]:
        latents, embedding = crop.latents, crop.embedding
        return None if latents is None else latents.shape, None if embedding is None else embedding.shape[1:]

    def sound(crop: Crop) -> bool:
        made = [tensor for tensor in (crop.latents, crop.embedding) if tensor is not None]
        flat = crop.embedding is None or crop.embedding.ndim == 2
        return flat and all(tensor.isfinite().all() for tensor in made)

    usual = Counter(shape(crop) for crop in crops if sound(crop)).most_common(1)
    good = []
    for crop in crops:
        if sound(crop) and shape(crop) == usual[0][0]:
            good.append(crop)
        else:
            damaged[crop.name] = "its .safetensors holds tensors of other shapes, or values that are not finite"
    return good


def _window(size: tuple[int, int], bucket: tuple[int, int], matte: np.ndarray | None, rng: np.random.Generator) -> Box:
    """Where to cut the bucket out of a picture that covers it: anywhere, but neither through nor along an object
    that fits in."""
    box = bounding_box(matte > 127) if matte is not None and (matte > 127).any() else None
    starts = []
    for axis in (0, 1):
        low, high = 0, size[axis] - bucket[axis]
        if box is not None:
            first, last = max(low, box[axis + 2] + 1 - bucket[axis]), min(high, box[axis] - 1)
            low, high = (first, last) if first <= last else (low, high)
        starts.append(int(rng.integers(low, high + 1)))
    return Box(starts[0], starts[1], starts[0] + bucket[0], starts[1] + bucket[1])
