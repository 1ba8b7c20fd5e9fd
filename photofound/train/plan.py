"""The plan of a run on the transformer: what one sample costs, counted without weights, data or memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from photofound.model import autoencoder, text, vision
from photofound.model.cost import forward_cost
from photofound.model.transformer import EditTransformer
from photofound.train import losses, optim
from photofound.train.build import add_inputs, transformer_options
from photofound.train.estimate import Phase, muon_flops
from photofound.train.mix import PRETEXT
from photofound.train.settings import EditConfig, ModelConfig


def plan(config: EditConfig, adapt: Callable[[nn.ModuleDict], None] | None = None) -> list[Phase]:
    """What one sample costs in this run: one phase, or two where pictures grow late in the run.

    It is counted on the meta device, without memory, data or weights. Of ``model.vae``, ``model.start`` and the other
    networks only the configuration in their folder is read. Where there is no such folder, ``model.latent`` and the
    other shapes of the configuration are used. ``parameters``, ``tokens`` and ``flops`` are those of the transformer,
    with TREAD's savings; ``work`` counts the frozen networks, too.

    Args:
        adapt: a function that freezes a part of the weights and adds a LoRA.

    Raises ValueError where the configuration does not fit together.
    """
    outline = _Outline.of(config, adapt)
    turns = sorted({0.0, *(turn for turn in config.data.turns if 0 < turn < 1), 1.0})
    return [outline.phase(since, until) for since, until in itertools.pairwise(turns)]


@dataclass(frozen=True)
class _Outline:
    """A run's networks without their weights. None for one that is not used, or whose folder does not exist."""

    config: EditConfig
    transformer: Any
    trained: nn.ModuleDict  # the transformer again, with its LoRA, and the text encoder if that is trained
    vae: Any
    text_encoder: Any
    teacher: Any
    lpips: Any
    dino: Any

    @classmethod
    def of(cls, config: EditConfig, adapt: Callable[[nn.ModuleDict], None] | None) -> _Outline:
        model, recipe = config.model, config.recipe
        edits = [name for name, share in config.mix.tasks.items() if share > 0 and name not in PRETEXT]
        start = Path(model.start) if model.start else None
        here = start is not None and (start / "transformer" / "config.json").is_file()
        inside = str(start / "vae") if start and (start / "vae").is_dir() else None
        vae = autoencoder.outline(inside if here else model.vae, model.latent)
        with torch.device("meta"):
            if here:
                shape = EditTransformer.load_config(start, subfolder="transformer")
                transformer: Any = EditTransformer.from_config(shape)
                add_inputs(transformer, edits, model)
            else:
                transformer = EditTransformer(**transformer_options(model, edits, vae))
            encoder = _text_outline(start if here else None, model)
            trained = nn.ModuleDict({"transformer": EditTransformer.from_config(transformer.config)})
            if model.train_text and encoder is not None:
                trained["text_encoder"] = encoder
            if adapt:
                adapt(trained)
        wanted = (recipe.repa, recipe.repa_teacher), (recipe.lpips, recipe.lpips_net), (recipe.dino, recipe.dino_net)
        networks = [vision.outline(source) if weight else None for weight, source in wanted]
        return cls(config, transformer, trained, vae, encoder, *networks)

    def phase(self, since: float, until: float) -> Phase:
        """What one sample costs between two shares of the run."""
        data, recipe, shape = self.config.data, self.config.recipe, self.transformer.config
        crop, batch = (data.late_crop, data.late_batch) if since >= data.late_from else (data.crop, 1.0)
        factor = autoencoder.factor(self.vae)
        skip = recipe.tread if (crop // factor // shape.patch_size) ** 2 >= recipe.tread_tokens else 0.0
        seen = (shape.reference_size // factor,) * 2 if shape.reference_embeds else None
        side, length = crop // factor, self.config.model.text_length
        cost = forward_cost(self.transformer, side, side, length, skip, seen)
        aligned = max(0.0, min(until, recipe.repa_until) - since) / (until - since)

        weights = dict(self.trained["transformer"].named_parameters())
        lora = sum(p.numel() for name, p in weights.items() if "lora_" in name)
        blocks = [p for name, p in weights.items() if name.startswith("blocks.") and "lora_" not in name]
        passes = 3 if any(p.requires_grad for p in blocks) else 2  # frozen weights need no gradient
        passes += self.config.train.checkpoint_activations
        work = float(passes * cost.flops + 6 * lora * cost.tokens)
        counted, missing = ["transformer", *["LoRA"] * bool(lora)], list[str]()
        for name, network, times, call in self._beside(crop, aligned):
            if times:
                flops = _flops(network, call)
                (missing if flops is None else counted).append(name)
                work += times * (flops or 0)
        return Phase(
            cost.parameters,
            cost.tokens,
            cost.flops,
            work,
            update=float(sum(muon_flops(p.shape) for p in self._muon())),
            memory=self._memory(),
            share=until - since,
            batch=batch,
            counted=(*counted, self.config.train.optimizer),
            missing=tuple(missing),
        )

    def _beside(self, crop: int, aligned: float) -> Iterator[tuple[str, Any, float, Callable[[Any], Any]]]:
        """The other networks that a sample goes through: name, network, number of passes (a backward pass counts as
        one, or as two where weights are trained), and a call of one pass."""
        data, recipe, length = self.config.data, self.config.recipe, self.config.model.text_length
        with torch.device("meta"):
            picture, tokens = torch.empty(1, 3, crop, crop), torch.empty(1, length, dtype=torch.long)
            if self.vae is not None:
                side = crop // autoencoder.factor(self.vae)
                latents = torch.empty(1, autoencoder.channels(self.vae), side, side)
        near = 3 * recipe.perceptual_below
        if self.vae is not None:
            encodings = ("latents" not in data.precomputed) + (self.transformer.config.condition_space == "latents")
            yield "autoencoder", self.vae, encodings, lambda net: net.encode(picture)
            decodings = 2 * recipe.perceptual_below * bool(recipe.lpips or recipe.dino)
            yield "decoder", self.vae, decodings, lambda net: net.decode(latents)
        reads = 0 if "text" in data.precomputed else 3 if "text_encoder" in self.trained else 1
        yield "text encoder", self.text_encoder, reads, lambda net: net(input_ids=tokens)
        yield "REPA's teacher", self.teacher, aligned * bool(recipe.repa), lambda net: net.patches(picture)
        yield "LPIPS", self.lpips, near * bool(recipe.lpips), lambda net: net(picture)
        small = torch.empty(1, 3, losses.P_DINO_SIDE, losses.P_DINO_SIDE, device="meta")
        yield "P-DINO", self.dino, near * bool(recipe.dino), lambda net: net.patches(small)

    def _muon(self) -> list[nn.Parameter]:
        """The matrices that Muon trains."""
        if self.config.train.optimizer != "muon":
            return []
        model: Any = self.trained["transformer"]
        return [p for p in optim.matrices(model.blocks) if p.requires_grad]

    def _memory(self) -> float:
        """Bytes of all weights and, of those that are trained, gradients, moments (Muon has one) and average."""
        networks = (self.trained, self.vae, self.text_encoder, self.teacher, self.lpips, self.dino)
        modules = [network for network in networks if isinstance(network, nn.Module)]
        weights = {id(p): p.numel() for module in modules for p in module.parameters()}
        trained = sum(p.numel() for p in self.trained.parameters() if p.requires_grad)
        return 4.0 * (sum(weights.values()) + 4 * trained - sum(p.numel() for p in self._muon()))


def _text_outline(start: Path | None, model: ModelConfig) -> Any | None:
    """The text encoder without weights: that of the start folder, the byte-level one, or that of a folder. None where
    the folder does not exist."""
    folder = start / "text_encoder" if start else Path(model.text_encoder) if model.text_encoder else None
    if folder is None:
        return text.build_byte_encoder(model.text_width, model.text_layers)[1]
    return text.outline(folder)


def _flops(net: Any, call: Callable[[Any], Any]) -> int | None:
    """FLOP of a call of a network on the meta device; None for a network that is missing, or cannot be counted."""
    from torch.utils.flop_counter import FlopCounterMode

    if not isinstance(net, nn.Module):
        return None
    try:
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            call(net)
    except Exception:  # networks that need values, not only shapes
        return None
    return int(counter.get_total_flops())
