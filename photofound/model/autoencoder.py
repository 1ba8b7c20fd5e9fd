"""Which autoencoder stands between pixels and latents: a diffusers class, or none.

Shapes: pictures RGB (B, 3, H, W) in [-1, 1]; latents (B, C, H/f, W/f), scaled to about unit variance.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from photofound import files
from photofound.errors import first_line

EMBEDDED = Path(__file__).parents[1] / "weights" / "nano"  # the model that comes along, in diffusers layout
_WINDOW, _MARGIN = 96, 16  # in latents: the side of a window, and a margin beyond the receptive field


def load(source: str | None) -> Any | None:
    """A diffusers autoencoder of any class, weights in safetensors only.

    Args:
        source: a folder, a Hub id ``owner/name``, or ``owner/name/vae`` for one that lies inside a pipeline;
            ``embedded``: that of the embedded model. None or ``none``: no autoencoder, pixel space.

    Raises FileNotFoundError when it does not exist, ValueError when it is not an autoencoder.
    """
    source = resolved(source)
    if source is None:
        return None
    import diffusers

    hub = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:/([\w.-]+))?", source)
    if not Path(source).is_dir() and not hub:
        raise FileNotFoundError(f"model.vae: {source} does not exist; name a diffusers folder, or none for pixel space")
    name, part = (source, None) if Path(source).is_dir() or not hub else hub.groups()
    try:
        place = {"subfolder": part} if part else {}
        kind = getattr(diffusers, diffusers.AutoModel.load_config(name, **place)["_class_name"])
        vae, info = kind.from_pretrained(name, use_safetensors=True, output_loading_info=True, **place)
        if strays := [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]:
            raise ValueError(f"its weights are not those of its configuration, {strays[0]} among {len(strays)}")
    except Exception as error:  # libraries raise nearly anything for a folder that they do not understand
        wrong = FileNotFoundError if isinstance(error, OSError) else ValueError
        raise wrong(f"model.vae: {source} cannot be loaded: {first_line(error)}") from None
    if not hasattr(vae, "encode") or not hasattr(vae.config, "latent_channels"):
        raise ValueError(f"model.vae: {source} is a {type(vae).__name__}, which is no autoencoder")
    return vae


def outline(source: str | None, latent: Sequence[int] | None = None) -> Any | None:
    """An autoencoder without its weights, for ``factor`` and ``channels``, to plan a run.

    Args:
        source: as in ``load``; only a folder's configuration is read.
        latent: its channels and its factor, for one that is not here.

    Raises ValueError where neither says.
    """
    source = resolved(source)
    if source is None:
        return None
    config = Path(source) / "config.json"
    if config.is_file():
        import diffusers

        try:
            entries = files.read_json(config)
            with torch.device("meta"):
                return getattr(diffusers, entries["_class_name"]).from_config(entries)
        except Exception as error:  # the file is the user's, and libraries raise nearly anything
            raise ValueError(f"model.vae: {config} describes no autoencoder ({first_line(error)})") from error
    if latent is None:
        raise ValueError(f"model.latent: {source} is not here; set its [channels, pixels per latent], like [16, 8]")
    return SimpleNamespace(spatial_compression_ratio=latent[1], config=SimpleNamespace(latent_channels=latent[0]))


def resolved(source: str | None) -> str | None:
    """The path that ``embedded`` stands for, None for ``none``; anything else as it is."""
    return {"none": None, "embedded": str(EMBEDDED / "vae")}.get(source or "none", source)


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


def raw_latents(encoded: Any) -> Tensor:
    """What an autoencoder's ``encode`` returns, as unscaled latents; of a distribution its mode."""
    if hasattr(encoded, "latent_dist"):
        mode: Tensor = encoded.latent_dist.mode()
        return mode
    latents: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent
    return latents


def scaled(vae: nn.Module, latents: Tensor) -> Tensor:
    """Latents as an autoencoder gives them -> ``(z - shift) * scale``."""
    scale, shift = _scale_shift(vae)
    return (latents - shift) * scale


def encode(vae: Any | None, pixels: Tensor) -> Tensor:
    """Pixels to scaled latents: ``(z - shift) * scale``. A variational encoder gives its mode, so that encoding is a
    function."""
    if vae is None:
        return pixels
    f = factor(vae)

    def one(window: Tensor) -> Tensor:
        return scaled(vae, raw_latents(vae.encode(window.to(vae.dtype, memory_format=torch.channels_last))))

    return _windowed(one, pixels, f, (1, f), channels(vae)) if _is_local(vae) else one(pixels)


def decode(vae: Any | None, latents: Tensor, clamp: bool = True) -> Tensor:
    """Scaled latents to pixels, float32, clamped to [-1, 1]. A loss takes them unclamped: what is clamped has no
    gradient."""
    bounded = (lambda pixels: pixels.clamp(-1, 1)) if clamp else (lambda pixels: pixels)
    if vae is None:
        return bounded(latents.float())
    scale, shift = _scale_shift(vae)
    f = factor(vae)

    def one(window: Tensor) -> Tensor:
        window = window.to(vae.dtype, memory_format=torch.channels_last) / scale + shift
        return bounded(vae.decode(window, return_dict=False)[0].float())

    return _windowed(one, latents, 1, (f, 1), 3) if _is_local(vae) else one(latents)


def _is_local(vae: Any) -> bool:
    """Whether each output depends on a small neighbourhood only: convolutions and per-position norms, no attention, no
    group norm. Large pictures can then be coded window by window without seams; other autoencoders have
    ``enable_tiling`` for that."""
    vae = getattr(vae, "outline", vae)  # of one that is a graph
    if type(vae).__name__ == "AutoencoderTiny":
        return True
    kinds = [getattr(vae.config, name, None) for name in ("encoder_block_types", "decoder_block_types")]
    return all(set([kind] if isinstance(kind, str) else kind or [None]) == {"ResBlock"} for kind in kinds)


def _windowed(
    code: Callable[[Tensor], Tensor], x: Tensor, unit: int, ratio: tuple[int, int], out_channels: int
) -> Tensor:
    """Apply ``code`` to windows of (B, C, H, W), each with a margin that is cut off afterwards; small inputs go through
    in one piece.

    Args:
        unit: input pixels per latent.
        ratio: output pixels over input pixels, as a fraction (numerator, denominator).
    """
    height, width = x.shape[-2:]
    window, margin = _WINDOW * unit, _MARGIN * unit
    if max(height, width) <= window + 2 * margin:
        return code(x)

    def to_out(value: int) -> int:
        return value * ratio[0] // ratio[1]

    out: Tensor | None = None
    for y in range(0, height, window):
        for x0 in range(0, width, window):
            top, left = max(0, y - margin), max(0, x0 - margin)
            bottom, right = min(height, y + window), min(width, x0 + window)
            coded = code(x[..., top : min(height, bottom + margin), left : min(width, right + margin)])
            if out is None:
                out = coded.new_empty(len(x), out_channels, to_out(height), to_out(width))
            rows, columns = slice(to_out(y), to_out(bottom)), slice(to_out(x0), to_out(right))
            out[..., rows, columns] = coded[
                ..., to_out(y - top) : to_out(bottom - top), to_out(x0 - left) : to_out(right - left)
            ]
    assert out is not None
    return out
