"""The plan of a run on the transformer: what one sample costs, counted without weights, data or memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from photofound.model import autoencoder, text, vision
from photofound.model.cost import Cost, FlopCounter, forward_cost
from photofound.model.transformer import EditTransformer
from photofound.train import fewer_bits, lora, losses, memory, optim
from photofound.train.batches import micro_batches
from photofound.train.build import add_inputs, transformer_options
from photofound.train.end_to_end import held
from photofound.train.estimate import Phase, muon_flops
from photofound.train.memory import Memory
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
    dense = [config.recipe.sprint_until] * bool(config.recipe.sprint)  # REPA's end is counted by its share
    return Outline.of(config, adapt).phases((*config.data.turns, *dense))


@dataclass(frozen=True)
class Outline:
    """What a run's phases are counted on: its networks without their weights. None for one that is not used, or whose
    folder does not exist."""

    config: EditConfig
    transformer: Any
    trained: nn.ModuleDict  # the transformer again, with its LoRA, and the text encoder if that is trained
    vae: Any
    text_encoder: Any
    teacher: Any
    lpips: Any
    dino: Any

    @classmethod
    def of(cls, config: EditConfig, adapt: Callable[[nn.ModuleDict], None] | None) -> Outline:
        model, recipe = config.model, config.recipe
        edits = [name for name, share in config.mix.tasks.items() if share > 0 and name not in PRETEXT]
        start = Path(model.start) if model.start else None
        here = start is not None and (start / "transformer" / "config.json").is_file()
        bare = here and start is not None and not (start / "vae").is_dir()  # a model of pixels
        known = start is not None and (here or model.latent is not None)
        vae = autoencoder.outline(None if bare else f"{start}/vae" if known else model.vae, model.latent)
        with torch.device("meta"):
            if here:
                assert start is not None
                part = "teacher" if (start / "teacher" / "config.json").is_file() else "transformer"  # of a student
                shape = EditTransformer.load_config(start, subfolder=part)
                transformer: Any = EditTransformer.from_config(shape)
                add_inputs(transformer, edits, model)
            else:
                transformer = EditTransformer(**transformer_options(model, edits, vae))
            encoder = _text_outline(start, model)
            trained = nn.ModuleDict({"transformer": EditTransformer.from_config(transformer.config)})
            if model.train_text and encoder is not None:
                trained["text_encoder"] = encoder
            if recipe.repa_e and vae is not None:
                trained["vae"] = vae
            if adapt:
                adapt(trained)
        wanted = (recipe.repa, recipe.repa_teacher), (recipe.lpips, recipe.lpips_net), (recipe.dino, recipe.dino_net)
        networks = [vision.outline(source) if weight else None for weight, source in wanted]
        for network in (None if "vae" in trained else vae, *networks, None if "text_encoder" in trained else encoder):
            if isinstance(network, nn.Module):
                network.requires_grad_(False)
        return cls(config, transformer, trained, vae, encoder, *networks)

    def phases(self, turns: Iterable[float]) -> list[Phase]:
        """Those between the shares of the run at which its steps change."""
        bounds = sorted({0.0, *(turn for turn in turns if 0 < turn < 1), 1.0})
        return [self.phase(since, until) for since, until in itertools.pairwise(bounds)]

    def phase(self, since: float, until: float) -> Phase:
        """What one sample costs between two shares of the run."""
        data, recipe, shape = self.config.data, self.config.recipe, self.transformer.config
        crop, batch = (data.late_crop, data.late_batch) if since >= data.late_from else (data.crop, 1.0)
        factor = autoencoder.factor(self.vae)
        skip = recipe.skipped(since, (crop // factor // shape.patch_size) ** 2)
        seen = (shape.reference_size // factor,) * 2 if shape.reference_embeds else None
        side, length = crop // factor, self.config.model.text_length
        cost = forward_cost(self.transformer, side, side, length, skip, seen)
        aligned = max(0.0, min(until, recipe.repa_until) - since) / (until - since)

        work, counted = self.trained_work(cost, crop, since, aligned)
        missing = list[str]()
        for name, network, times, call in self.beside(crop, aligned):
            if times:
                flops = _flops(network, call)
                (missing if flops is None else counted).append(name)
                work += times * (flops or 0)
        return Phase(
            cost.parameters,
            cost.tokens,
            cost.flops,
            work,
            update=float(sum(muon_flops(p.shape) for p in self._muon())) + self._beside_samples(),
            need=partial(self._need, crop, batch, skip, aligned),
            share=until - since,
            batch=batch,
            counted=tuple(dict.fromkeys((*counted, self.config.train.optimizer))),
            missing=tuple(missing),
        )

    def trained_work(self, cost: Cost, crop: int, since: float, aligned: float) -> tuple[float, list[str]]:
        """FLOP of what is trained, for a sample whose forward pass costs so much, and the names of what it is."""
        recipe, depth = self.config.recipe, self.transformer.config.depth
        weights = dict(self.trained["transformer"].named_parameters())
        added = sum(p.numel() for name, p in weights.items() if "lora_" in name)
        blocks = [p for name, p in weights.items() if name.startswith("blocks.") and "lora_" not in name]
        passes: float = 3 if any(p.requires_grad for p in blocks) else 2  # frozen weights need no gradient
        passes += repeated(self.config.train)
        if "vae" in self.trained:  # REPA-E: forward once more, and back from the aligned block, for latents alone
            block = depth // 2 if recipe.repa_block is None else recipe.repa_block
            passes += aligned * (1 + (block + 1) / depth)
        return float(passes * cost.flops + 6 * added * cost.tokens), ["transformer", *["LoRA"] * bool(added)]

    def beside(
        self, crop: int, aligned: float, batch: int = 1, training: bool = True
    ) -> Iterator[tuple[str, Any, float, Callable[[Any], Any]]]:
        """The other networks that ``batch`` samples go through: name, network, number of passes (a backward pass counts
        as one, or as two where weights are trained), and a call of one pass. Without ``training`` those alone that need
        no gradient."""
        data, recipe, length = self.config.data, self.config.recipe, self.config.model.text_length

        def pictures(side: int = crop) -> Tensor:
            return torch.empty(batch, 3, side, side)

        def latents() -> Tensor:
            side = crop // autoencoder.factor(self.vae)
            return torch.empty(batch, autoencoder.channels(self.vae), side, side)

        near = 3 * recipe.perceptual_below * training
        if self.vae is not None:
            encodings: float = "latents" not in data.precomputed
            encodings += self.transformer.config.condition_space == "latents"
            ours = 3 * aligned * training * ("vae" in self.trained)  # forward and back
            encodings += ours
            yield "autoencoder", self.vae, encodings, lambda net: net.encode(pictures())
            decodings = ours + 2 * recipe.perceptual_below * bool(recipe.lpips or recipe.dino) * training
            yield "decoder", self.vae, decodings, lambda net: net.decode(latents())
        trained = "text_encoder" in self.trained
        reads = 0 if "text" in data.precomputed else 3 * training if trained else 1
        yield "text encoder", self.text_encoder, reads, lambda net: net(input_ids=torch.zeros(batch, length).long())
        yield "REPA's teacher", self.teacher, aligned * bool(recipe.repa), lambda net: net.patches(pictures())
        yield "LPIPS", self.lpips, near * bool(recipe.lpips), lambda net: net(pictures())
        if recipe.repa_e_adversarial and training:  # of two pictures forward and back, of one back to the decoder
            with torch.device("meta"):
                critic = losses.PatchDiscriminator()
            yield "critic", critic, 8 * aligned, lambda net: net(pictures())
        side = losses.P_DINO_SIDE
        yield "P-DINO", self.dino, near * bool(recipe.dino), lambda net: net.patches(pictures(side))

    def _beside_samples(self) -> float:
        """FLOP of a step and process that do not depend on its samples: a DoRA's."""
        return float((self.config.train.micro_batches or 1) * lora.dora_flops(self.trained["transformer"]))

    def _muon(self) -> list[nn.Parameter]:
        """The matrices that Muon trains."""
        if self.config.train.optimizer != "muon":
            return []
        model: Any = self.trained["transformer"]
        return [p for p in optim.matrices(model.blocks) if p.requires_grad]

    # -------------------------------------------------------------------------------------------------------- memory

    def _need(self, crop: int, batch: float, skip: float, aligned: float, gpus: int) -> Memory:
        """What a step takes on each of so many GPUs. Raises ValueError where they cannot share a batch."""
        train, parts = self.config.train, self.trained
        count = micro_batches(train, gpus)
        samples = max(1, round(train.batch_size // count * batch))
        over = {"fsdp": gpus, "hsdp": train.shard_size or gpus}.get(train.parallel, 1)
        model, transformer = self.config.model, parts["transformer"]
        base, travelling = getattr(model, "base", "fp32"), getattr(model, "swap_blocks", 0)
        trained = sum(p.numel() for p in parts.parameters() if p.requires_grad)
        frozen = self.frozen()
        weights = sum(fewer_bits.size(part, base if part is transformer else "fp32") for part in parts.values())
        half = train.precision == "bf16"
        step = self._most_alive(crop, samples, skip, aligned, half, count > gpus, over > 1)
        if over > 1:
            step += 4 * trained / over + memory.gathered(transformer, half)
        return Memory(
            weights=(weights - memory.at_home(transformer, base, travelling)) / over,
            frozen=sum(fewer_bits.size(net, model.frozen) for net in frozen if isinstance(net, nn.Module)),
            moments=memory.moments(train, trained, sum(p.numel() for p in self._muon())) / over,
            average=0.0 if train.offload or train.optimizer == "schedulefree" else 4 * trained / over,
            step=step,
        )

    def frozen(self) -> list[Any]:
        """The networks that lie on the device and are not trained."""
        networks = [self.teacher, self.lpips, self.dino, *[self.vae] * ("vae" not in self.trained)]
        if "text_encoder" not in self.trained and "text" not in self.config.data.precomputed:
            networks.append(self.text_encoder)
        return networks

    def judges(self) -> dict[str, nn.Module]:
        """Networks that ``loss`` takes beside those of every run."""
        return {}

    def _most_alive(
        self, crop: int, samples: int, skip: float, aligned: float, half: bool, accumulated: bool, sharded: bool
    ) -> float:
        """The most bytes that a micro-batch adds: before the transformer, where frozen networks look at pictures, or
        with its activations."""
        before = 0
        for _, network, times, call in self.beside(crop, aligned, samples, training=False):
            if times and isinstance(network, nn.Module):
                before = max(before, _alive_in(network, call, half, self.config.model.frozen))
        networks = {"transformer": self.trained["transformer"]}
        if "text_encoder" in self.trained:
            networks["text_encoder"] = self.trained["text_encoder"]
        if aligned and self.teacher is not None:
            width = self.transformer.config.hidden_size
            with torch.device("meta"):
                kind = losses.SpatialProjector if self.config.recipe.repa_spatial else losses.Projector
                networks["projector"] = kind(width, self.teacher.width)
        wanted = {"vae": self.vae, "lpips": self.lpips, "dino": self.dino}
        networks |= {name: net for name, net in wanted.items() if isinstance(net, nn.Module)} | self.judges()
        compute = partial(self.loss, crop, samples, skip)
        model = self.config.model
        bits = {name: _dtype(model.frozen) for name in networks}
        bits["transformer"] = _dtype(getattr(model, "base", "fp32"))
        with_grad = memory.most_alive(networks, compute, half, bits, accumulated, sharded)
        held = 4 * sum(p.numel() for p in self.trained.parameters() if p.requires_grad) * (accumulated and not sharded)
        return max(before + held, with_grad)

    def loss(self, crop: int, samples: int, skip: float, networks: Mapping[str, Any]) -> Tensor:
        """A scalar that keeps what a stage's loss keeps."""
        recipe, length, transformer = self.config.recipe, self.config.model.text_length, networks["transformer"]
        memory.checkpoint_blocks(transformer, self.config.train, getattr(self.config.model, "swap_blocks", 0))
        shape, side = transformer.config, crop // autoencoder.factor(self.vae)
        batch = torch.empty(samples, 8, crop, crop)  # the photograph, its canvas, holes and mattes
        latents = torch.empty(samples, shape.in_channels, side, side)
        mask = torch.ones(samples, length, dtype=torch.bool)
        words = torch.empty(samples, length, shape.context_in_dim)
        if "text_encoder" in networks:
            ids = torch.zeros(samples, length, dtype=torch.long)
            words = networks["text_encoder"](input_ids=ids, attention_mask=mask).last_hidden_state
        seen = shape.reference_size // autoencoder.factor(self.vae) if shape.reference_embeds else 0
        tokens = (side // shape.patch_size) ** 2
        given = {
            "condition": torch.empty(samples, shape.condition_channels, side, side),
            "task": torch.zeros(samples, dtype=torch.long),
            "strength": torch.empty(samples),
            "reference": torch.empty(samples, shape.in_channels, seen, seen) if seen else None,
            "route": torch.zeros(samples, tokens - int(skip * tokens), dtype=torch.long) if skip else None,
            "tap": shape.depth // 2 if "projector" in networks else None,
            "guidance": torch.empty(samples) if shape.guidance_embeds else None,
        }
        out = transformer(latents, torch.empty(samples), words, mask, **given)
        sample = out.sample.float()
        loss = (sample - latents).square().mean()
        if "projector" in networks:
            if "vae" in self.trained:
                loss = loss + self._end_to_end(networks, batch[:, :3], words, mask, given)
            loss = loss + networks["projector"](out.features, (side // shape.patch_size,) * 2).float().square().mean()
        rows = max(1, round(samples * recipe.perceptual_below)) if recipe.lpips or recipe.dino else 0
        if rows and (self.vae is None or "vae" in networks):
            truth = batch[:rows, :3]
            painted = autoencoder.decode(networks.get("vae"), sample[:rows], clamp=False)
            if "lpips" in networks:
                loss = loss + losses.perceptual_distance(networks["lpips"], painted, truth).sum()
            if "dino" in networks:
                loss = loss + losses.patch_distance(networks["dino"], painted, truth).sum()
        return loss

    def _end_to_end(self, networks: Mapping[str, Any], pixels: Tensor, *given: Any) -> Tensor:
        """A scalar that keeps what REPA-E's terms keep."""
        words, mask, inputs = given
        latents = autoencoder.encode(networks["vae"], pixels)
        with held(*(network for name, network in networks.items() if name != "vae")):
            out = networks["transformer"](latents, torch.empty(len(pixels)), words.detach(), mask, **inputs)
        decoded = autoencoder.decode(networks["vae"], latents, clamp=False)
        return out.features.float().square().mean() + (decoded - pixels).abs().mean()


def repeated(train: Any) -> float:
    """How many forward passes activation checkpointing adds: none where all products are kept."""
    return train.checkpoint_activations * (train.checkpoint_keep == "inputs") / train.checkpoint_every


def _dtype(kind: str) -> torch.dtype:
    return torch.float32 if kind == "fp32" else torch.bfloat16


def _alive_in(network: nn.Module, call: Callable[[Any], Any], half: bool, frozen: str) -> int:
    """The most bytes that a call of a network needs beside its weights; 0 for one that cannot be run as shapes."""

    def compute(networks: Mapping[str, Any]) -> Tensor:
        with torch.no_grad():
            call(networks["it"])
        return torch.empty(())

    try:
        return memory.most_alive({"it": network}, compute, half, {"it": _dtype(frozen)})
    except Exception:  # networks that need values, not only shapes
        return 0


def _text_outline(start: Path | None, model: ModelConfig) -> Any | None:
    """The text encoder without weights: that of the start folder, the byte-level one, or that of a folder. None where
    the folder does not exist."""
    folder = start / "text_encoder" if start else Path(model.text_encoder) if model.text_encoder else None
    if folder is None:
        return text.build_byte_encoder(model.text_width, model.text_layers)[1]
    return text.outline(folder)


def _flops(net: Any, call: Callable[[Any], Any]) -> int | None:
    """FLOP of a call of a network on the meta device; None for a network that is missing, or cannot be counted."""
    if not isinstance(net, nn.Module):
        return None
    try:
        with torch.device("meta"), torch.no_grad(), FlopCounter() as counter:
            call(net)
    except Exception:  # networks that need values, not only shapes
        return None
    return int(counter.get_total_flops())
