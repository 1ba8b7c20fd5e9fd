"""Which autoencoder stands between pixels and latents: a diffusers class, or none.

Shapes: pictures RGB (B, 3, H, W) in [-1, 1]; latents (B, C, H/f, W/f), scaled to about unit variance.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def factor(vae: Any | None) -> int:
    """Pixels per latent along each side: 8 for an f8 autoencoder, 1 without one (pixel space)."""
    if vae is None:
        return 1
    ratio = getattr(vae, "spatial_compression_ratio", None)
    return int(ratio) if ratio else 2 ** (len(vae.config.block_out_channels) - 1)


def channels(vae: Any | None) -> int:
    """Latent channels; 3 without an autoencoder."""
    return 3 if vae is None else int(vae.config.latent_channels)


def _scale_shift(vae: nn.Module) -> tuple[float, float]:
    config: Any = vae.config
    shift = getattr(config, "shift_factor", None)
    return float(getattr(config, "scaling_factor", None) or 1.0), float(shift) if shift is not None else 0.0


def encode(vae: Any | None, pixels: Tensor) -> Tensor:
    """Pixels to scaled latents: ``(z - shift) * scale``. A variational encoder gives its mode, so that encoding is a function."""
    if vae is None:
        return pixels
    out = vae.encode(pixels.to(vae.dtype))
    latents = out.latent_dist.mode() if hasattr(out, "latent_dist") else getattr(out, "latents", getattr(out, "latent", None))
    scale, shift = _scale_shift(vae)
    return (latents - shift) * scale


def decode(vae: Any | None, latents: Tensor) -> Tensor:
    """Scaled latents to pixels in [-1, 1], clamped, float32."""
    if vae is None:
        return latents.float().clamp(-1, 1)
    scale, shift = _scale_shift(vae)
    return vae.decode(latents.to(vae.dtype) / scale + shift, return_dict=False)[0].float().clamp(-1, 1)
