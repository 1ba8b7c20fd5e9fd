"""Train the upscaler: small pictures -> large ones.

    photofound train superresolution --config training/configs/nano-superresolution.yaml --data.folder=DIR

Pairs are made from photographs: a detailed crop, and the same crop scaled down with the bicubic filter of the
super-resolution literature. L1 on RGB and on luma, and if wanted a little of a perceptual distance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from photofound.card import record
from photofound.data import drawn
from photofound.data.photograph import random_int
from photofound.data.store import PhotoStore
from photofound.edits import composite
from photofound.edits.degradation import degrade
from photofound.model.superresolution import Upscaler, enlarge
from photofound.model.vision import PerceptualNet
from photofound.picture import sheet as sheets
from photofound.train.distributed import World
from photofound.train.idle import StageConfig
from photofound.train.losses import perceptual_distance
from photofound.train.settings import HubConfig, TrainConfig

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the ``Upscaler``."""

    start: str | None = None  # folder of an Upscaler to go on from; its shape replaces the one below
    channels: int = 64  # width of its layers
    depth: int = 5  # residual blocks
    scales: tuple[int, ...] = (2, 3, 4)  # factors that it enlarges by


@dataclass(frozen=True)
class DataConfig:
    """Where the pictures come from and how they are cut."""

    folder: str = "data/train"  # folder or URL of WebDataset tars
    drawn: int = 0  # train on this many drawn pictures instead, to try a run without data
    perceptual: str | None = None  # a .safetensors file of SqueezeNet, for loss.perceptual
    cache: str | None = None  # file that keeps the decoded photographs between runs
    short_side: int = 288  # short side in pixels at which photographs are kept
    limit: int | None = None  # read only this many photographs
    crop: int = 40  # side of the small crop in pixels
    shares: tuple[float, ...] = (0.4, 0.2, 0.4)  # share of the batches for each of model.scales
    shrunk: float = 0.7  # share of the batches whose photographs are scaled down first, which hides their compression
    least: float = 0.6  # smallest factor of that
    candidates: int = 2  # crops drawn for each one used, the one with most detail
    degraded: float = 0.0  # share of the small crops that are also blurred, noised and JPEG-coded


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms."""

    luma: float = 1.0  # weight of L1 on luma, beside L1 on RGB
    perceptual: float = 0.0  # weight of the distance by data.perceptual's network


@dataclass(frozen=True)
class Config(StageConfig):
    """The options of ``photofound train superresolution``."""

    STAGE: ClassVar = "superresolution"

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    hub: HubConfig = field(default_factory=HubConfig)


@dataclass(frozen=True)
class Pairs:
    """``low`` (B, 3, h, w) and ``high`` (B, 3, scale h, scale w) in [-1, 1]."""

    low: Tensor
    high: Tensor
    scale: int


class SuperresolutionStage:
    """What the trainer needs: see ``photofound.train.contract.Stage``."""

    def __init__(self, config: Config, world: World) -> None:
        self.config, self.device = config, world.device
        data, shape = config.data, config.model
        if len(data.shares) != len(shape.scales):
            raise ValueError(f"data.shares: {len(data.shares)} shares for {len(shape.scales)} scales; give one each")
        self.perceptual = PerceptualNet.from_file(data.perceptual).to(self.device) if data.perceptual else None
        torch.manual_seed(config.train.seed)
        self.model: Any = (
            Upscaler.from_pretrained(shape.start)
            if shape.start
            else Upscaler(shape.channels, shape.depth, list(shape.scales))
        )
        self.scales = tuple(self.model.config.scales)
        self.module = self.model.to(self.device, memory_format=torch.channels_last)
        self.blocks: list[nn.Module] = [*self.model.blocks, self.model.body]
        sizes = (data.short_side,)
        store = (
            drawn.store(data.drawn, sizes)
            if data.drawn
            else PhotoStore.open(data.folder, sizes, data.cache, data.limit)
        )
        self.store = store.to(self.device)
        self.rows = self.store.rows(data.crop * max(self.scales))
        if not len(self.rows):
            raise ValueError(f"data: no photograph is {data.crop * max(self.scales)} px wide and high, as a crop is")
        self.room = int(torch.minimum(self.store.height, self.store.width)[self.rows].min())

    def batch(self, generator: torch.Generator, size: int, progress: float) -> Pairs:
        """One scale and one reduction per batch, so that it is one tensor."""
        data = self.config.data
        cpu = torch.Generator().manual_seed(random_int(2**31, generator))
        pick = int(torch.multinomial(torch.tensor(data.shares), 1, generator=cpu))
        return self._pairs(self.scales[pick], size, cpu)

    def _pairs(self, scale: int, size: int, cpu: torch.Generator) -> Pairs:
        data = self.config.data
        side = data.crop * scale
        chance, where = torch.rand(2, generator=cpu).tolist()
        reduction = data.least + where * (0.95 - data.least) if chance < data.shrunk else 1.0
        source = min(round(side / reduction), self.room)
        high = self._detailed(source, size, cpu)
        if source > side:
            high = composite.shrink(high, (side, side)).clamp_(-1, 1)
        high = _turned(high, cpu)
        low = degrade(high, scale, _like(cpu, high), data.degraded)
        low = ((low + 1) * 127.5).round_().div_(127.5).sub_(1)  # as the file of it is
        return Pairs(low, high, scale)

    def _detailed(self, side: int, size: int, cpu: torch.Generator) -> Tensor:
        """Of ``candidates`` crops each the one with the largest mean gradient: flat grounds teach nothing."""
        count = self.config.data.candidates
        picks = self.rows[torch.randint(len(self.rows), (size * count,), generator=cpu)]
        pixels = self.store.crops(picks, side, False, cpu).pixels
        if count == 1:
            return pixels
        thin = pixels[:, 1, ::2]
        energy = (thin[..., 1:] - thin[..., :-1]).abs().mean((1, 2)).view(size, count)
        best = energy.argmax(1) + torch.arange(size, device=energy.device) * count
        return pixels[best]

    def loss(self, batch: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
        low = batch.low.contiguous(memory_format=torch.channels_last)
        made = self.model(low, batch.scale)
        error = made - batch.high
        luma = _luma(error)
        l1, l1_luma = error.abs().mean(), luma.abs().mean()
        before = _luma(enlarge(batch.low, batch.scale) - batch.high).square().mean()
        gain = 10 * (before / luma.square().mean().clamp(min=1e-12)).log10().detach()
        none = torch.full_like(gain, float("nan"))
        logs = {"l1": l1} | {f"gain_x{s}": gain if s == batch.scale else none for s in self.scales}
        # The other scales' weights have a gradient, too, if of zero: in every process the same ones must have one.
        total = l1 + self.config.loss.luma * l1_luma + 0 * sum(w.sum() for w in self.model.tails.parameters())
        if self.perceptual is not None:
            logs["perceptual"] = perceptual_distance(self.perceptual, made, batch.high).mean()
            total = total + self.config.loss.perceptual * logs["perceptual"]
        return total, logs

    def sheet(self) -> np.ndarray:
        """At the largest scale: bicubic, ours, the photographs."""
        scale = max(self.scales)
        pairs = self._pairs(scale, 6, torch.Generator().manual_seed(1))
        made = self.model(pairs.low, scale).clamp(-1, 1)
        return sheets.sheet([list(enlarge(pairs.low, scale).clamp(-1, 1)), list(made), list(pairs.high)])

    def validate(self) -> dict[str, Tensor]:
        """What is gained in dB of luma over bicubic interpolation, the same 32 crops each time."""
        gains = {}
        for scale in self.scales:
            pairs = self._pairs(scale, 32, torch.Generator().manual_seed(scale))
            gains[f"validation_x{scale}"] = self.loss(pairs)[1][f"gain_x{scale}"]
        return gains

    def record(self) -> dict[str, Any]:
        """What the model's card says of the data and of the model that this one started from."""
        data = self.config.data
        filtering = () if data.drawn else record.prepared(data.folder)[1]
        parents = record.inherited(self.config.model.start)
        return {"parts": ["upscaler"], "parents": parents, "data": self.store.origins(), "filtering": filtering}

    def export(self, folder: Path) -> None:
        self.model.save_pretrained(folder / "upscaler", safe_serialization=True)


def _luma(rgb: Tensor) -> Tensor:
    """(B, 3, H, W) to (B, H, W)."""
    red, green, blue = rgb.unbind(1)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _turned(pixels: Tensor, cpu: torch.Generator) -> Tensor:
    """One of four quarter turns for each quarter of the batch, at random; the store has mirrored already."""
    turns = torch.randint(4, (len(pixels),), generator=cpu)
    out = torch.empty_like(pixels)
    for turn in range(4):
        if (chosen := (turns == turn).to(pixels.device)).any():
            out[chosen] = pixels[chosen].rot90(turn, (2, 3))
    return out


def _like(cpu: torch.Generator, pixels: Tensor) -> torch.Generator:
    """A generator on the device of ``pixels``, seeded by one on the CPU."""
    return torch.Generator(pixels.device).manual_seed(random_int(2**31, cpu))


def main(argv: list[str] | None = None) -> int:
    from photofound.training import launch

    return launch(Config, SuperresolutionStage, argv, doc=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
