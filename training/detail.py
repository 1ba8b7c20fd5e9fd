"""Train the detail network, which paints at pixel resolution what the transformer guessed in latents.

    photofound train prepare SHARDS EXEMPLARS --exemplars=20000
    photofound train detail --config training/configs/nano-detail.yaml --data.exemplars="[EXEMPLARS]"
    --data.perceptual=FILE

It sees the exemplar canvas, the model's own sample and the hole. L1 in the hole, a perceptual distance, and a patch
critic that looks at the hole: regression alone would smooth the canvas's texture away.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from photofound.card import record
from photofound.data.exemplars import Exemplars
from photofound.data.photograph import random_int, to_bytes, to_unit
from photofound.device import fast_dtype
from photofound.edits.task import get_task
from photofound.model.detail import DetailNetwork
from photofound.model.flow import masked_mean
from photofound.model.vision import PerceptualNet
from photofound.picture import sheet as sheets
from photofound.pipeline import EMBEDDED, EditPipeline
from photofound.train.distributed import World
from photofound.train.idle import StageConfig
from photofound.train.losses import FeatureCritic, distance_of_taps, feature_adversarial_losses, perceptual_distance
from photofound.train.settings import HubConfig, TrainConfig

L1 = 0.5  # weight of the mean absolute error in the hole
_AT_ONCE = 32  # guesses that are sampled together
_REFRESH_EVERY = 200  # batches after which new shards are taken in, since the folders may still be filled


@dataclass(frozen=True)
class ModelConfig:
    """Whose guesses the network is trained on, and its shape."""

    start: str = "embedded"  # pipeline folder whose guesses it is trained on; embedded = the embedded model
    keep: bool = True  # go on from that folder's own detail network, where it has one
    widths: tuple[int, ...] = (64, 96, 128, 160)  # channels at each resolution
    blocks: tuple[int, ...] = (2, 2, 2, 1)  # residual blocks at each resolution


@dataclass(frozen=True)
class DataConfig:
    """Where the samples come from."""

    exemplars: tuple[str, ...] = ()  # folders that 'prepare --exemplars' wrote; one batch is of one folder
    perceptual: str | None = None  # a .safetensors file of SqueezeNet; null = no perceptual loss and no critic
    hold_out: int = 128  # samples of the first folder that are measured and not trained on


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms, beside L1 in the hole."""

    RETIRED: ClassVar = {"l1": L1}

    perceptual: float = 0.35  # weight of the perceptual distance of the whole picture
    adversarial: float = 0.05  # weight of a critic on the perceptual network's features; 0 = no critic
    adversarial_from: float = 0.15  # share of the run after which the critic joins


@dataclass(frozen=True)
class Config(StageConfig):
    """The options of ``photofound train detail``."""

    STAGE: ClassVar = "detail"

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    hub: HubConfig = field(default_factory=HubConfig)

    @property
    def turns(self) -> tuple[float, ...]:
        """The shares of the run at which its steps change."""
        return (self.loss.adversarial_from,) if self.loss.adversarial else ()


class Batch(NamedTuple):
    """Truth, canvas and guess (B, 3, H, W) in [-1, 1], hole (B, 1, H, W), and the share of the run that is over."""

    pixels: Tensor
    canvas: Tensor
    guess: Tensor
    hole: Tensor
    progress: float


class DetailStage:
    """What the trainer needs: see ``photofound.train.contract.Stage``."""

    blocks: list[nn.Module] = []  # convolutions, of many shapes

    def __init__(self, config: Config, world: World) -> None:
        self.config, self.device = config, world.device
        torch.manual_seed(config.train.seed)
        if not config.data.exemplars:
            raise ValueError("data.exemplars: name folders that 'photofound train prepare --exemplars' has written")
        folder = None if config.model.start == "embedded" else config.model.start
        self.pipeline = EditPipeline.from_pretrained(folder, torch_dtype=fast_dtype(self.device.type)).to(self.device)
        self.pipeline.set_progress_bar_config(disable=True)
        known = self.pipeline.detail if config.model.keep else None
        self.network = known.float() if known else DetailNetwork(config.model.widths, config.model.blocks)
        for name in ("widths", "blocks"):
            if getattr(config.model, name) not in (getattr(ModelConfig, name), tuple(self.network.config[name])):
                value = getattr(config.model, name)
                raise ValueError(
                    f"model.{name}: {list(value)} is not of the network that goes on; set model.keep=false"
                )
        self.network.requires_grad_(True)
        parts: dict[str, nn.Module] = {"detail": self.network}
        if config.loss.adversarial and config.data.perceptual:
            parts["critic"] = FeatureCritic()
        self.module = nn.ModuleDict(parts).to(self.device)
        self.module = self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster convolutions
        path = config.data.perceptual
        self.perceptual = PerceptualNet.from_file(path).to(self.device) if path else None
        self.stores = [Exemplars(folder) for folder in config.data.exemplars]
        self.guesses = [torch.zeros_like(store.pixels) for store in self.stores]
        self.guessed = [torch.zeros(len(store), dtype=torch.bool) for store in self.stores]
        self.drawn = 0
        self.held_out = min(config.data.hold_out, len(self.stores[0]) // 4)

    # ------------------------------------------------------------------------------------------------------ batches

    def batch(self, generator: torch.Generator, size: int, progress: float) -> Batch:
        """One folder's samples, mirrored and turned; larger crops in smaller batches."""
        self.drawn += 1
        if self.drawn % _REFRESH_EVERY == 0:
            self._refresh()
        cpu = torch.Generator().manual_seed(random_int(2**31, generator))
        shares = torch.tensor([float(len(store)) for store in self.stores])
        which = int(torch.multinomial(shares, 1, generator=cpu))
        store, first = self.stores[which], self.held_out if which == 0 else 0
        size = max(1, round(size * (self.stores[0].crop / store.crop) ** 2))
        rows = torch.randint(first, len(store), (size,), generator=cpu)
        made = self.take(which, rows, progress)
        turns, mirror = int(torch.randint(4, (), generator=cpu)), bool(torch.rand((), generator=cpu) < 0.5)
        pixels, canvas, guess, hole = (_turned(each, turns, mirror) for each in made[:4])
        return Batch(pixels, canvas, guess, hole, progress)

    def _refresh(self) -> None:
        for i, store in enumerate(self.stores):
            if count := store.refresh():
                self.guesses[i] = torch.cat([self.guesses[i], torch.zeros_like(store.pixels[-count:])])
                self.guessed[i] = torch.cat([self.guessed[i], torch.zeros(count, dtype=torch.bool)])

    def take(self, which: int, rows: Tensor, progress: float = 1.0) -> Batch:
        """Rows of a store, with the model's guess for each, which is made once."""
        store = self.stores[which]
        missing = rows.unique()
        missing = missing[~self.guessed[which][missing]]
        for part in missing.split(_AT_ONCE) if len(missing) else ():
            self.guesses[which][part] = self._guess(store, part)
            self.guessed[which][part] = True
        condition, sample = store.take(rows, self.device)
        guess = to_unit(self.guesses[which][rows].to(self.device))
        return Batch(sample.pixels, condition.canvas, guess, condition.hole, progress)

    @torch.no_grad()
    def _guess(self, store: Exemplars, rows: Tensor) -> Tensor:
        """What the model paints, (N, 3, H, W) uint8, without a detail network; the seed is the row's number."""
        condition, sample = store.take(rows, self.device)
        if self.pipeline.config.canvas != "exemplar":
            known = [get_task(name) for name in condition.task]
            canvas = [task.canvas(sample.pixels[i : i + 1], condition.hole[i : i + 1]) for i, task in enumerate(known)]
            condition = replace(condition, canvas=torch.cat(canvas))
        generators = [torch.Generator().manual_seed(int(row)) for row in rows]
        made = self.pipeline.sample(condition, self.pipeline.config.default_steps, 1.0, generators)
        pasted = torch.where(condition.hole > 0, made.float(), sample.pixels)
        return to_bytes(pasted).cpu()

    # --------------------------------------------------------------------------------------------------------- loss

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        weights, (pixels, canvas, guess, hole, progress) = self.config.loss, batch
        painted, gate = self.network(canvas, guess, hole)
        l1 = _mean_in((painted - pixels).abs(), hole)
        logs = {"l1": l1, "psnr": _psnr(painted, pixels, hole), "gate": _mean_in(gate.detach(), hole)}
        total = L1 * l1
        if self.perceptual is not None:
            with torch.no_grad():
                real = self.perceptual(pixels)
            fake = self.perceptual(painted)
            logs["perceptual"] = distance_of_taps(fake, real).mean()
            total = total + weights.perceptual * logs["perceptual"]
            if weights.adversarial and progress >= weights.adversarial_from:
                judge: Any = self.module["critic"]
                generator, critic = feature_adversarial_losses(judge, real, fake, hole)
                logs |= {"generator": generator, "critic": critic}
                total = total + weights.adversarial * generator + critic
        return total, logs

    # ------------------------------------------------------------------------------------------------------ results

    @cached_property
    def _validation(self) -> Batch:
        return self.take(0, torch.arange(self.held_out))

    @torch.no_grad()
    def validate(self) -> dict[str, Tensor]:
        """On samples that are held out: perceptual distance as a share of the canvas's, and decibels beyond it."""
        pixels, canvas, guess, hole, _ = self._validation
        painted = torch.cat(
            [self.network(*part)[0] for part in zip(*(x.split(32) for x in (canvas, guess, hole)), strict=True)]
        )
        found = {"val_gain_db": _psnr(painted, pixels, hole) - _psnr(canvas, pixels, hole)}
        found["val_loss"] = _mean_in((painted - pixels).abs(), hole)
        if self.perceptual is not None:
            mine, theirs = (
                torch.cat(
                    [perceptual_distance(self.perceptual, *x) for x in zip(a.split(32), pixels.split(32), strict=True)]
                ).mean()
                for a in (painted, canvas)
            )
            found["val_ratio"] = mine / theirs
        return found

    def sheet(self) -> np.ndarray:
        """Given, canvas, guess, painted, truth; two samples in a row."""
        batch = self.take(0, torch.arange(min(16, self.held_out) // 2 * 2))
        painted = self.network(batch.canvas, batch.guess, batch.hole)[0].clamp(-1, 1)
        columns = (batch.pixels * (1 - batch.hole), batch.canvas, batch.guess, painted, batch.pixels)
        rows = [[column[i].float() for column in columns] for i in range(len(painted))]
        return sheets.sheet([a + b for a, b in zip(rows[::2], rows[1::2], strict=True)])

    def record(self) -> dict[str, Any]:
        """What the model's card says of the network."""
        parents = record.inherited(str(EMBEDDED) if self.config.model.start == "embedded" else self.config.model.start)
        data = dict.fromkeys(origin for store in self.stores for origin in store.origins())
        return {"parts": ["detail"], "parents": parents, "data": tuple(data)}

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Save the network, as the component ``detail`` of a pipeline."""
        self.network.save_pretrained(folder / "detail", safe_serialization=True)


def _mean_in(x: Tensor, where: Tensor) -> Tensor:
    """Mean of (B, C, H, W) over a region (B, 1, H, W), each sample by its own area."""
    return masked_mean(x, where, known_weight=0.0).mean()


def _psnr(a: Tensor, b: Tensor, hole: Tensor) -> Tensor:
    """Mean over the samples of the PSNR in the hole, dB."""
    error = (((a.detach().clamp(-1, 1) - b) / 2).square() * hole).sum((1, 2, 3))
    return -10 * (error / (3 * hole.sum((1, 2, 3)).clamp(min=1))).clamp(min=1e-10).log10().mean()


def _turned(x: Tensor, turns: int, mirror: bool) -> Tensor:
    x = x.rot90(turns, (-2, -1))
    return (x.flip(-1) if mirror else x).contiguous()


def main(argv: list[str] | None = None) -> int:
    from photofound.training import launch

    return launch(Config, DetailStage, argv, doc=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
