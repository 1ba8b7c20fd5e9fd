"""Photographs that fit into memory: kept as uint8 at a few sizes, cropped in batches on the device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from photofound import files
from photofound.card.record import Origin, count_origins
from photofound.data.captions import captions
from photofound.data.objects import matte_plain_grounds, object_box, resized, shape_of_short_side
from photofound.data.photograph import Photograph, to_unit
from photofound.data.photos import origins, read
from photofound.edits.task import Sample

Crop = int | tuple[int, int]
"""The side of a square, or (H, W)."""


class PhotoStore:
    """All photographs at a few sizes in one flat uint8 tensor on the device.

    Sizes take the place of random rescaling: a crop from the smallest size is nearly the whole picture, one from the
    largest is texture. A photograph below several sizes is kept once; its rows share their pixels. Crops are views; a
    batch of them is one copy, on the CPU or a GPU alike.

    Attributes:
        flat: all pixels and mattes, uint8.
        table: (R, 9) int64, one row per photograph and size: offset of the pixels, of the matte (-1 = none), height,
            width, the complete object's left, top, right and bottom (zeros = none), and the photograph's index.
        captions, sources, licences: per photograph, the ways to caption it, where it is from, under which licence.
        repeats: per photograph, how often it is drawn where others are drawn once.
    """

    def __init__(
        self,
        flat: Tensor,
        table: Tensor,
        captions: list[list[str]],
        sources: list[str],
        licences: list[str] | None = None,
        repeats: list[float] | None = None,
    ) -> None:
        self.flat, self.table, self.captions, self.sources = flat, table, captions, sources
        self.licences = licences or [""] * len(sources)
        self.repeats = repeats or [1.0] * len(sources)
        self.offset, self.matte_offset, self.height, self.width = table[:, :4].unbind(1)
        self.box, self.photograph = table[:, 4:8], table[:, 8]

    @classmethod
    def build(cls, photographs: Sequence[Photograph], sizes: Sequence[int]) -> PhotoStore:
        rows: list[list[int]] = []
        chunks: list[Tensor] = []
        offset = 0
        for index, photograph in enumerate(photographs):
            kept: dict[tuple[int, ...], list[int]] = {}  # shape -> row
            for size in sizes:
                pixels, matte = _scaled(photograph, size)
                if pixels.shape not in kept:
                    matte_offset = -1 if matte is None else offset + pixels.numel()
                    kept[pixels.shape] = [offset, matte_offset, *pixels.shape[-2:], *object_box(matte), index]
                    chunks += [pixels.flatten()] if matte is None else [pixels.flatten(), matte.flatten()]
                    offset += sum(x.numel() for x in (pixels, matte) if x is not None)
                rows.append(kept[pixels.shape])
        sources, licences = [p.source for p in photographs], [p.licence for p in photographs]
        words, repeats = [captions(p) for p in photographs], [p.repeats for p in photographs]
        return cls(torch.cat(chunks), torch.tensor(rows), words, sources, licences, repeats)

    def save(self, path: Path) -> None:
        """Write the store as one safetensors file, whole or not at all."""
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        words = {name: json.dumps(getattr(self, name)) for name in ("captions", "sources", "licences")}
        with files.replacing(path) as partial:
            save_file({"flat": self.flat, "table": self.table.contiguous()}, partial, words)

    @classmethod
    def load(cls, path: Path) -> PhotoStore:
        """Read what ``save`` wrote. Raises ValueError for any other file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                words = file.metadata() or {}
                captions, sources = json.loads(words["captions"]), json.loads(words["sources"])
                licences = json.loads(words.get("licences", "null"))  # older stores have none
                return cls(file.get_tensor("flat"), file.get_tensor("table"), captions, sources, licences)
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"data.cache: {path} is no photo store ({error}); delete it, it is made again") from None

    def to(self, device: torch.device | str) -> PhotoStore:
        """The same store with its pixels on ``device``."""
        return PhotoStore(self.flat.to(device), self.table, self.captions, self.sources, self.licences, self.repeats)

    def part(self, rows: Tensor) -> PhotoStore:
        """Some rows of the store, chosen by (R,) bool; the pixels are shared."""
        return PhotoStore(self.flat, self.table[rows], self.captions, self.sources, self.licences, self.repeats)

    def origins(self) -> tuple[Origin, ...]:
        """Where the photographs of its rows are from, under which licences, and how many they are."""
        return count_origins((self.sources[i], self.licences[i]) for i in self.photograph.unique().tolist())

    @property
    def device(self) -> torch.device:
        return self.flat.device

    @classmethod
    def open(
        cls, folder: str, sizes: Sequence[int], cache: str | None = None, limit: int | None = None, mattes: bool = False
    ) -> PhotoStore:
        """The store of a folder of tars: from its cache file where that exists, else built, and cached if a file is
        named. ``mattes`` adds those of ``matte_plain_grounds``."""
        path = files.output_path(cache, "data.cache") if cache else None
        if path and path.is_file():
            return cls.load(path)._licensed(folder, limit)
        photographs = read(folder, max(sizes), limit)
        store = cls.build(matte_plain_grounds(photographs) if mattes else photographs, sizes)
        if path:
            store.save(path)
        return store

    def _licensed(self, folder: str, limit: int | None) -> PhotoStore:
        """This store; one without licences takes them from the tars that it was made of, if they are still there."""
        if not any(self.licences) and (here := files.local(folder)) is not None and here.is_dir():
            found = origins(folder, limit)
            if [source for source, _ in found] == self.sources:
                self.licences = [licence for _, licence in found]
        return self

    def rows(self, crop: Crop, objects: bool = False) -> Tensor:
        """Indices of the rows that a crop fits into; with ``objects``, those whose whole object fits into it."""
        tall, wide = _sides(crop)
        fits = (self.height >= tall) & (self.width >= wide)
        if objects:
            width, height = self.box[:, 2] - self.box[:, 0], self.box[:, 3] - self.box[:, 1]
            fits &= (torch.maximum(width, height) > min(tall, wide) // 5) & (width <= wide - 4) & (height <= tall - 4)
        return fits.nonzero()[:, 0]

    def crops(self, rows: Tensor, crop: Crop, objects: bool, generator: torch.Generator, mirror: bool = True) -> Sample:
        """Random crops of the given rows, with ``mirror`` every other one mirrored; with ``objects`` each holds the
        whole object.

        ``generator`` is on the CPU; the pixels and mattes of the result are on the store's device.
        """
        count, (tall, wide) = len(rows), _sides(crop)
        height, width, box = self.height[rows], self.width[rows], self.box[rows]
        top_range, left_range = torch.zeros(count, 2), torch.zeros(count, 2)
        top_range[:, 1], left_range[:, 1] = height - tall, width - wide
        if objects:  # the window must begin before the object and end after it
            top_range[:, 0], left_range[:, 0] = (box[:, 3] - tall).clamp(min=0), (box[:, 2] - wide).clamp(min=0)
            top_range[:, 1] = torch.minimum(top_range[:, 1], box[:, 1].float())
            left_range[:, 1] = torch.minimum(left_range[:, 1], box[:, 0].float())
        u = torch.rand(count, 2, generator=generator).clamp(max=1 - 1e-6)  # else rounding can step over the end
        top = (top_range[:, 0] + u[:, 0] * (top_range[:, 1] - top_range[:, 0] + 1)).floor().long()
        left = (left_range[:, 0] + u[:, 1] * (left_range[:, 1] - left_range[:, 0] + 1)).floor().long()
        flip = torch.rand(count, generator=generator) < 0.5 * mirror
        cut = self._gathered if self.device.type == "cuda" else self._stacked
        at = _Windows(height, width, top, left, flip, tall, wide)
        pixels, matte = cut(self.offset[rows], 3, at), cut(self.matte_offset[rows], 1, at)
        picks = torch.rand(count, generator=generator)
        prompts = [_pick(self.captions[int(c)], float(u)) for c, u in zip(self.photograph[rows], picks, strict=True)]
        return Sample(to_unit(pixels), matte.float().div_(255), prompts)

    def _stacked(self, offset: Tensor, channels: int, at: _Windows) -> Tensor:
        """Windows (N, channels, tall, wide) as a stack of views, which is the fastest way on a CPU; zeros where the
        offset is below 0."""
        empty = torch.zeros(channels, at.tall, at.wide, dtype=torch.uint8, device=self.device)
        made = []
        numbers = (x.tolist() for x in (offset, at.height, at.width, at.top, at.left, at.flip))
        for start, height, width, top, left, flip in zip(*numbers, strict=True):
            if start < 0:
                made.append(empty)
                continue
            planes = self.flat[start : start + channels * height * width].view(channels, height, width)
            window = planes[:, top : top + at.tall, left : left + at.wide]
            made.append(window.flip(-1) if flip else window)
        return torch.stack(made)

    def _gathered(self, offset: Tensor, channels: int, at: _Windows) -> Tensor:
        """The same windows in a few kernels for all of them, which is the fastest way on a GPU."""
        numbers = torch.stack([offset, at.height, at.width, at.top, at.left, at.flip.long()])
        offset, height, width, top, left, flip = (x.view(-1, 1, 1, 1) for x in numbers.to(self.device).unbind())
        down, right = (torch.arange(side, device=self.device) for side in (at.tall, at.wide))
        plane = torch.arange(channels, device=self.device).view(1, -1, 1, 1)
        across = torch.where(flip > 0, at.wide - 1 - right, right)  # (N, 1, 1, wide)
        index = offset + (plane * height + top + down[:, None]) * width + left + across
        return self.flat[index.clamp(min=0)].masked_fill(offset < 0, 0)


class _Windows(NamedTuple):
    """Windows of ``tall`` x ``wide`` pixels; for each (N,) its photograph's size, its place there, and whether it is
    mirrored."""

    height: Tensor
    width: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor
    tall: int
    wide: int


def _sides(crop: Crop) -> tuple[int, int]:
    """Height and width of a crop."""
    return (crop, crop) if isinstance(crop, int) else crop


def _pick(choices: Sequence[str], u: float) -> str:
    return choices[min(int(u * len(choices)), len(choices) - 1)]


def _scaled(photograph: Photograph, size: int) -> tuple[Tensor, Tensor | None]:
    """The photograph with a short side of ``size`` (as it is, if it is smaller)."""
    shape = shape_of_short_side(photograph.pixels, size)
    if shape == tuple(photograph.pixels.shape[-2:]):
        return photograph.pixels, photograph.matte
    return resized(photograph.pixels, shape), None if photograph.matte is None else resized(photograph.matte, shape)
