"""Train the autoencoder: pixels <-> latents.

    photofound train autoencoder --config training/configs/nano-autoencoder.yaml --data.folder=DIR
    --data.perceptual=FILE

L1 plus a perceptual distance, with a little noise on the latents so that the decoder forgives what the diffusion model
gets slightly wrong, and optionally a small patch critic for the last part of the run.
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
from photofound.model import autoencoder
from photofound.model.vision import PerceptualNet
from photofound.picture import sheet as sheets
from photofound.train.distributed import World
from photofound.train.idle import StageConfig
from photofound.train.losses import PatchDiscriminator, adversarial_losses, perceptual_distance
from photofound.train.settings import HubConfig, TrainConfig

# Residual blocks at full, 1/2, 1/4 and 1/8 resolution. None at full: the first step is a pixel-unshuffle, the last a
# pixel-shuffle.
ENCODER_LAYERS, DECODER_LAYERS = (0, 1, 1, 2), (0, 1, 2, 2)
LATENT_NOISE = 0.03  # standard deviation of the noise on latents in training, in units of the latents' own
LATENT_NORM = 0.01  # weight of the term that pulls each channel of the latents towards mean 0 and variance 1


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the ``AutoencoderDC`` (arXiv:2410.10733): channels and residual blocks at 1/2, 1/4 and 1/8 of the
    resolution."""

    RETIRED: ClassVar = {"encoder_layers": [1, 1, 2], "decoder_layers": [1, 2, 2]}

    start: str | None = None  # folder of an AutoencoderDC to go on from; its shape replaces the one below
    train_encoder: bool = True  # false keeps the latents as they are and trains the decoder alone
    latent_channels: int = 16  # channels of a latent
    encoder_channels: tuple[int, ...] = (32, 64, 128)  # channels at 1/2, 1/4 and 1/8 of the resolution
    decoder_channels: tuple[int, ...] = (48, 96, 192)  # the same of the decoder


@dataclass(frozen=True)
class DataConfig:
    """Where the pictures come from and how they are cut."""

    folder: str = "data/train"  # folder or URL of WebDataset tars
    drawn: int = 0  # train on this many drawn pictures instead, to try a run without data
    perceptual: str | None = None  # a .safetensors file of SqueezeNet; null = L1 alone
    cache: str | None = None  # file that keeps the decoded photographs between runs
    sizes: tuple[int, ...] = (136, 208, 272)  # short sides in pixels at which every photograph is kept
    crop: int = 128  # side of a crop in pixels
    limit: int | None = None  # read only this many photographs


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms."""

    RETIRED: ClassVar = {"latent_noise": LATENT_NOISE, "latent_norm": LATENT_NORM}

    perceptual: float = 0.2  # weight of the perceptual distance
    adversarial: float = 0.0  # weight of a patch critic; 0 = no critic
    adversarial_from: float = 0.6  # share of the run after which the critic joins


@dataclass(frozen=True)
class Config(StageConfig):
    """The options of ``photofound train autoencoder``."""

    STAGE: ClassVar = "autoencoder"

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    hub: HubConfig = field(default_factory=HubConfig)

    @property
    def turns(self) -> tuple[float, ...]:
        """The shares of the run at which its steps change."""
        return (self.loss.adversarial_from,) if self.loss.adversarial else ()


def build_model(config: ModelConfig) -> Any:
    """A diffusers ``AutoencoderDC`` with f8 and nothing but convolutions at full resolution's edge."""
    from diffusers import AutoencoderDC

    if config.start:
        vae = AutoencoderDC.from_pretrained(config.start)
        vae.encoder.requires_grad_(config.train_encoder)
        return vae
    stages = len(config.encoder_channels) + 1
    return AutoencoderDC(
        latent_channels=config.latent_channels,
        encoder_block_out_channels=(config.encoder_channels[0], *config.encoder_channels),
        decoder_block_out_channels=(config.decoder_channels[0], *config.decoder_channels),
        encoder_layers_per_block=ENCODER_LAYERS,
        decoder_layers_per_block=DECODER_LAYERS,
        encoder_qkv_multiscales=((),) * stages,
        decoder_qkv_multiscales=((),) * stages,
    )


class AutoencoderStage:
    """What the trainer needs: see ``photofound.train.contract.Stage``."""

    blocks: list[nn.Module] = []  # convolutions, of many shapes

    def __init__(self, config: Config, world: World) -> None:
        self.config, self.device = config, world.device
        torch.manual_seed(config.train.seed)
        self.vae = build_model(config.model)
        parts: dict[str, nn.Module] = {"vae": self.vae}
        if config.loss.adversarial:
            parts["critic"] = PatchDiscriminator()
        self.module = nn.ModuleDict(parts).to(self.device)
        self.module = self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster convolutions
        path = config.data.perceptual
        self.perceptual = PerceptualNet.from_file(path).to(self.device) if path else None
        data = config.data
        store = (
            drawn.store(data.drawn, data.sizes)
            if data.drawn
            else PhotoStore.open(data.folder, data.sizes, data.cache, data.limit)
        )
        self.store = store.to(self.device)
        self.rows = self.store.rows(data.crop)
        if not len(self.rows):
            raise ValueError(f"data: no photograph is as large as data.crop ({data.crop}) at any of data.sizes")
        self.progress = 0.0

    def batch(self, generator: torch.Generator, size: int, progress: float) -> Tensor:
        self.progress = progress
        cpu = torch.Generator().manual_seed(random_int(2**31, generator))
        picks = self.rows[torch.randint(len(self.rows), (size,), generator=cpu)]
        pixels = self.store.crops(picks, self.config.data.crop, False, cpu).pixels
        return pixels.contiguous(memory_format=torch.channels_last)

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        weights = self.config.loss
        latents = self.vae.encode(batch, return_dict=False)[0].float()
        noise = torch.randn_like(latents) * latents.detach().std() * LATENT_NOISE
        decoded = self.vae.decode(latents + noise, return_dict=False)[0].float()
        l1 = (decoded - batch).abs().mean()
        norm = (latents.std((0, 2, 3)) - 1).square().mean() + latents.mean((0, 2, 3)).square().mean()
        logs = {"l1": l1, "psnr": -10 * ((decoded.clamp(-1, 1) - batch) / 2).square().mean().log10(), "latent": norm}
        total = l1 + LATENT_NORM * norm
        if self.perceptual is not None and weights.perceptual:
            logs["perceptual"] = perceptual_distance(self.perceptual, decoded, batch).mean()
            total = total + weights.perceptual * logs["perceptual"]
        if weights.adversarial and self.progress >= weights.adversarial_from:
            generator, critic = adversarial_losses(self.module["critic"], batch, decoded)
            logs |= {"generator": generator, "critic": critic}
            total = total + weights.adversarial * generator + critic
        return total, logs

    def sheet(self) -> np.ndarray:
        """Originals above reconstructions."""
        pictures = self.batch(torch.Generator(self.device).manual_seed(1), 8, self.progress)
        decoded = autoencoder.decode(self.vae, autoencoder.encode(self.vae, pictures))
        return sheets.sheet([list(pictures), list(decoded)])

    def record(self) -> dict[str, Any]:
        """What the model's card says of the data and of the model that this one started from."""
        data = self.config.data
        filtering = () if data.drawn else record.prepared(data.folder)[1]
        parents = record.inherited(self.config.model.start)
        return {"parts": ["vae"], "parents": parents, "data": self.store.origins(), "filtering": filtering}

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Save the diffusers folder with ``scaling_factor`` = 1 / RMS of the latents of eight batches."""
        generator = torch.Generator(self.device).manual_seed(2)
        if not self.config.model.train_encoder:
            self.vae.save_pretrained(folder / "vae", safe_serialization=True)  # the factor belongs to the latents
            return
        size = self.config.train.batch_size
        batches = [self.batch(generator, size, 1.0) for _ in range(8)]
        squares = [self.vae.encode(batch, return_dict=False)[0].square().mean() for batch in batches]
        self.vae.register_to_config(scaling_factor=round(float(torch.stack(squares).mean().rsqrt()), 4))
        self.vae.save_pretrained(folder / "vae", safe_serialization=True)


def main(argv: list[str] | None = None) -> int:
    from photofound.training import launch

    return launch(Config, AutoencoderStage, argv, doc=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
