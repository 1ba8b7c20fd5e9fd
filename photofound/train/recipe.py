"""Published additions to the training objective, each an option of ``RecipeConfig``: token routing, alignment with a
vision model, perceptual distances. Formulas: ``photofound.train.losses``.

Shapes: B samples, latents (B, C, h, w), pictures (B, 3, H, W) in [-1, 1], T tokens of width D.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from photofound.model import autoencoder, layers, vision
from photofound.train import fewer_bits, losses
from photofound.train.settings import RecipeConfig


class Recipe:
    """The frozen networks of a recipe, and the terms of the loss that are computed with them.

    Attributes:
        projector: REPA's projector, which is trained with the model and not exported; None without REPA.
        lpips_net: the network of LPIPS; None without LPIPS.
        critic: REPA-E's, which is trained with the model and not exported; None without its adversarial term.
    """

    def __init__(
        self, config: RecipeConfig, transformer: Any, vae: Any | None, device: torch.device, frozen: str = "fp32"
    ) -> None:
        self.config, self.vae, self.patch_size = config, vae, transformer.config.patch_size
        self.projector: nn.Module | None = None
        self.lpips_net: Any = None
        if config.repa:
            self.block = transformer.config.depth // 2 if config.repa_block is None else config.repa_block
            self.teacher = vision.load_vision_model(str(config.repa_teacher)).to(device)
            kind = losses.SpatialProjector if config.repa_spatial else losses.Projector
            self.projector = kind(transformer.config.hidden_size, self.teacher.width).to(device)
            if config.repa_spatial and (config.tread or config.sprint) and self.block in transformer.route_span[:-1]:
                raise ValueError(
                    f"recipe.repa_spatial: block {self.block} sees only the tokens of the route, and a convolution "
                    f"needs all; set recipe.repa_block to 1 or to {transformer.route_span[-1]}"
                )
        if config.sprint and transformer.fusion is None:
            raise ValueError("recipe.sprint: the model has no layer that fuses its paths; set model.fusion=true")
        if config.sprint and not transformer.fusion.mask.requires_grad:
            raise ValueError("recipe.sprint: is for trainings of all weights; set model.train=full, or leave it out")
        if config.lpips or (config.repa_e and config.lpips_net):
            self.lpips_net = vision.PerceptualNet.from_file(str(config.lpips_net)).to(device)
        self.critic = losses.PatchDiscriminator().to(device) if config.repa_e_adversarial else None
        if config.repa_e_kl and not isinstance(vae, AutoencoderKL):
            raise ValueError(
                f"recipe.repa_e_kl: {type(vae).__name__} has no distribution of latents, which it is a distance of; "
                "set it to 0"
            )
        if config.dino:
            self.dino_net = vision.load_vision_model(str(config.dino_net)).to(device)
        for network in ("teacher", "lpips_net", "dino_net"):
            if isinstance(getattr(self, network, None), nn.Module):
                fewer_bits.lower(getattr(self, network).requires_grad_(False), frozen)

    def aligned_block(self, progress: float) -> int | None:
        """The transformer block whose output REPA aligns at this share of the run; None for none."""
        return self.block if self.config.repa and progress < self.config.repa_until else None

    def route(self, x0: Tensor, generator: torch.Generator, progress: float = 0.0) -> Tensor | None:
        """(B, T') indices of the tokens that go through every block (TREAD, SPRINT); None for all."""
        grid = self._grid(x0)
        skip = self.config.skipped(progress, math.prod(grid))
        if skip and self.config.sprint and self.config.sprint_grid:
            return losses.sample_grid_route(len(x0), grid, skip, generator)
        return losses.sample_route(len(x0), math.prod(grid), skip, generator) if skip else None

    def path_drop(self, batch: int, generator: torch.Generator) -> Tensor | bool:
        """(B,) bool: the samples whose inner blocks count for nothing (SPRINT); False for none."""
        if not (self.config.sprint and self.config.sprint_drop):
            return False
        return torch.rand(batch, generator=generator, device=generator.device) < self.config.sprint_drop

    def alignment(self, features: Tensor, pixels: Tensor, x0: Tensor, route: Tensor | None) -> Tensor:
        """REPA's term, without its weight, on the tokens (B, T', D) that the aligned block saw."""
        assert self.projector is not None
        with torch.no_grad():
            target = self.teacher.patches(pixels, self._grid(x0))
            if self.config.repa_spatial:
                target = losses.spatially_normalized(target.float())
        if route is not None and features.shape[1] < target.shape[1]:
            target = layers.take_tokens(target, route)
        return losses.alignment_loss(self.projector(features, self._grid(x0)), target).mean()

    def perceptual(self, x0: Tensor, pixels: Tensor, hole: Tensor, chosen: Tensor) -> dict[str, Tensor]:
        """LPIPS and P-DINO between the photograph and the estimate x0, weighted.

        The estimate is decoded and pasted into the hole. The distances are computed for the samples ``chosen`` (B,)
        bool, and averaged over the whole batch.
        """
        config, rows = self.config, chosen.nonzero()[:, 0]
        terms = {name: 0 * x0.mean() for name in ("lpips", "dino") if getattr(config, name)}
        if not len(rows):
            return terms
        truth = pixels[rows]
        # Not clamped, so that a pixel beyond white has a gradient, too.
        painted = torch.lerp(truth, autoencoder.decode(self.vae, x0[rows], clamp=False), hole[rows])
        if config.lpips:
            distance = losses.perceptual_distance(self.lpips_net, painted, truth)
            terms["lpips"] = config.lpips * distance.sum() / len(chosen)
        if config.dino:
            distance = losses.patch_distance(self.dino_net, painted, truth)
            terms["dino"] = config.dino * distance.sum() / len(chosen)
        return terms

    def _grid(self, x0: Tensor) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return x0.shape[-2] // self.patch_size, x0.shape[-1] // self.patch_size
