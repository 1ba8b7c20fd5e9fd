"""REPA-E: the autoencoder is trained with the transformer, by what aligns the transformer's features.

The loss of flow matching would make latents easy instead of good, so it sees them as constants. What reaches the
encoder is the alignment alone, and what keeps it an autoencoder: its pictures must come back, for a critic, too, its
latents stay at mean 0 and deviation 1, and the distributions that an AutoencoderKL draws them from stay near the normal
one. The authors' batch norm between the two networks is not built: docs/finetuning.md says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from photofound.edits.task import Condition
from photofound.model import autoencoder, flow
from photofound.train.losses import adversarial_losses, perceptual_distance
from photofound.train.mix import Batch

NORM = 0.01  # weight of the term that holds each channel of the latents at mean 0 and deviation 1
PERCEPTUAL = 1.0  # weight of LPIPS on what is decoded, where recipe.lpips_net names a network


def autoencoder_terms(
    stage: Any, batch: Batch, condition: Condition, noise: Tensor, t: Tensor, route: Tensor | None, block: int
) -> dict[str, Tensor]:
    """What the autoencoder is trained with (REPA-E, arXiv:2504.10483, section 3): w L_REPA of its latents through a
    transformer and a projector that are held, and L_REG. In sum with the ordinary terms, on latents without a gradient,
    it is L = L_DIFF(theta) + lambda L_REPA(theta, omega) + w L_REPA(phi) + L_REG(phi).

    Args:
        stage: an ``EditStage`` whose ``module`` has a ``vae``.
        noise, t, route, block: those of the ordinary terms.
    """
    pixels, recipe = batch.sample.pixels, stage.recipe
    latents, drawn, kl = _encoded(stage.vae, pixels, recipe.config.repa_e_kl)
    with held(*(part for name, part in stage.module.items() if name != "vae")):
        x_t = flow.add_noise(latents, noise, t)
        features = stage.predict(x_t, t, condition, route, block, embeddings=batch.sample.embeddings)[2]
        aligned = recipe.alignment(features, pixels, latents, route)
    decoded = autoencoder.decode(stage.vae, drawn, clamp=False)
    spread = (latents.std((0, 2, 3)) - 1).square().mean() + latents.mean((0, 2, 3)).square().mean()
    terms = {"repa_e": recipe.config.repa_e * aligned, "vae_l1": (decoded - pixels).abs().mean()}
    terms["vae_norm"] = NORM * spread
    if recipe.lpips_net is not None:
        terms["vae_lpips"] = PERCEPTUAL * perceptual_distance(recipe.lpips_net, decoded, pixels).mean()
    if kl is not None:
        terms["vae_kl"] = recipe.config.repa_e_kl * kl
    if recipe.critic is not None:
        generator, critic = adversarial_losses(recipe.critic, pixels, decoded)
        terms |= {"vae_generator": recipe.config.repa_e_adversarial * generator, "vae_critic": critic}
    return terms


def _encoded(vae: Any, pixels: Tensor, kl_weight: float) -> tuple[Tensor, Tensor, Tensor | None]:
    """The latents that the transformer sees, those that are decoded, and with a weight of it the KL divergence of their
    distribution from the normal one, summed over a picture. What is decoded is drawn from the distribution then."""
    if not kl_weight:
        latents = autoencoder.encode(vae, pixels).float()
        return latents, latents, None
    distribution = vae.encode(pixels.to(vae.dtype)).latent_dist
    latents, drawn = (autoencoder.scaled(vae, each).float() for each in (distribution.mode(), distribution.sample()))
    return latents, drawn, distribution.kl().mean()


@contextmanager
def held(*parts: nn.Module) -> Iterator[None]:
    """Within the block these networks are functions: gradients go through them, not to them."""
    trained = [p for part in parts for p in part.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
