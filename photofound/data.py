"""Photographs for training: read once, kept in memory as uint8, cropped and batched on the device.

The source is a folder of WebDataset tars, each sample ``KEY.webp|jpg|png`` with ``KEY.json`` (``text``) and, where there is one, a
foreground mask ``KEY.mask.png`` (white = object).
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

_IMAGES = (".webp", ".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Photograph:
    """One training photograph. ``pixels``: (3, H, W) uint8; ``matte``: (1, H, W) uint8, 255 = object, or None."""

    pixels: Tensor
    matte: Tensor | None
    caption: str
    source: str


def read(folder: str | Path, short_side: int = 288, limit: int | None = None) -> list[Photograph]:
    """All photographs below ``folder``, scaled down so that the short side is ``short_side`` (never up).

    Raises FileNotFoundError when there is no tar, ValueError when a tar holds no picture with a caption.
    """
    tars = sorted(Path(folder).glob("*.tar"))
    if not tars:
        raise FileNotFoundError(f"data: {folder} holds no .tar; point data.folder at WebDataset tars")
    samples = (sample for tar in tars for sample in _samples(tar))
    with ThreadPoolExecutor(4) as pool:
        photographs = list(pool.map(lambda s: _decode(s, short_side), _take(samples, limit)))
    if not photographs:
        raise ValueError(f"data: no sample in {folder} has both a picture and a .json; see the WebDataset format")
    return photographs


def _take(samples: Iterator[dict[str, bytes]], limit: int | None) -> Iterator[dict[str, bytes]]:
    for i, sample in enumerate(samples):
        if limit is not None and i >= limit:
            return
        yield sample


def _samples(tar: Path) -> Iterator[dict[str, bytes]]:
    """Group a tar's members by key; members of a sample lie together."""
    current: str | None = None
    sample: dict[str, bytes] = {}
    with tarfile.open(tar) as archive:
        for member in archive:
            if not member.isfile():
                continue
            key, _, extension = Path(member.name).name.partition(".")
            if key != current:
                if _whole(sample):
                    yield sample
                current, sample = key, {}
            file = archive.extractfile(member)
            assert file is not None
            sample["." + extension] = file.read()
    if _whole(sample):
        yield sample


def _whole(sample: dict[str, bytes]) -> bool:
    return ".json" in sample and any(e in sample for e in _IMAGES)


def _decode(sample: dict[str, bytes], short_side: int) -> Photograph:
    meta: dict[str, Any] = json.loads(sample[".json"])
    data = next(sample[e] for e in _IMAGES if e in sample)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    matte = Image.open(io.BytesIO(sample[".mask.png"])).convert("L") if ".mask.png" in sample else None
    scale = min(1.0, short_side / min(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    if matte is not None and matte.size != size:
        matte = matte.resize(size, Image.Resampling.BOX)
    return Photograph(_tensor(image), _tensor(matte) if matte else None, meta["text"], meta.get("source", ""))


def _tensor(image: Image.Image) -> Tensor:
    array = np.asarray(image)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1).transpose(2, 0, 1).copy())


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 0..255 to float32 [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1)


def random_int(high: int, generator: torch.Generator) -> int:
    """A uniform integer in [0, high)."""
    return int(torch.randint(high, (1,), generator=generator, device=generator.device))


def random_crop(photograph: Photograph, size: int, generator: torch.Generator, scales: tuple[float, float]) -> Tensor:
    """A square crop, resized to ``size`` and flipped at random: (3, size, size) uint8.

    ``scales`` bounds the crop's side as a share of the short side (log-uniform), so that the model sees both texture and layout.
    """
    _, height, width = photograph.pixels.shape
    low, high = (torch.tensor(s).log().item() for s in scales)
    share = float(torch.rand(1, generator=generator, device=generator.device)) * (high - low) + low
    side = max(min(size, height, width), round(min(height, width) * float(np.exp(share))))
    top, left = random_int(height - side + 1, generator), random_int(width - side + 1, generator)
    crop = photograph.pixels[:, top : top + side, left : left + side]
    if side != size:
        crop = F.interpolate(crop[None].float(), size=(size, size), mode="bilinear", antialias=True)[0].round().to(torch.uint8)
    return crop.flip(-1) if random_int(2, generator) else crop
