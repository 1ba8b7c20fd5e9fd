"""Detail network or conditioned decoder, trained for the same CPU seconds on the same samples.

    photofound train prepare SHARDS EXEMPLARS --exemplars=4000
    python benchmarks/decoders.py --exemplars EXEMPLARS --photos DIR --perceptual squeezenet1_0.safetensors
                                  [--seconds 900] [--limit 12] [--sheet FILE.png]

- network: ``photofound.model.detail``, a U-Net after the decoder. It starts from nothing.
- decoder: the autoencoder's own decoder, which gets features of canvas and hole at each of its sizes, as diffusers'
  AsymmetricAutoencoderKL does (arXiv:2306.04632), and a gate between the canvas and its answer. It starts from the
  weights of the decoder; what is added starts at zero.

Both see the exemplar canvas, the embedded model's guess and the hole, and are trained with the terms of
``photofound train detail``. They take turns, so other load on the machine affects both. DIR holds photographs that were
not trained on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from photofound.eval import protocols
from photofound.eval.methods import Method, PhotofoundMethod, classical_methods
from photofound.eval.photographs import find_photographs
from photofound.eval.report import compare_with_rival, contact_sheet
from photofound.eval.run import Evaluation, MetricNetworks, evaluate
from photofound.eval.summary import differences, summarise
from photofound.model import autoencoder
from photofound.model.detail import ResidualBlock
from photofound.model.vision import PerceptualNet
from photofound.train.distributed import World
from photofound.train.settings import TrainConfig
from photofound.train.trainer import Trainer
from photofound.training.detail import Config, DataConfig, DetailStage, LossConfig, ModelConfig

FILLS = ("strokes-20", "box-centre", "border-12.5")


class ConditionedDecoder(nn.Module):
    """The decoder of an AutoencoderDC that also sees canvas and hole. ``forward`` is that of ``DetailNetwork``."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = deepcopy(vae).float().requires_grad_(False)
        self.decoder = deepcopy(self.vae.decoder).requires_grad_(True)
        half, quarter, eighth = self.vae.config.decoder_block_out_channels[1:]
        self.stem = nn.Sequential(nn.Conv2d(4 * 4, half, 3, padding=1), ResidualBlock(half), ResidualBlock(half))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in ((half, quarter), (quarter, eighth)))
        self.blocks = nn.ModuleList(nn.Sequential(ResidualBlock(n), ResidualBlock(n)) for n in (half, quarter, eighth))
        self.inject = nn.ModuleList(_zero(nn.Conv2d(n, n, 1)) for n in (half, quarter, eighth))
        self.gate = _zero(nn.Conv2d(half, 4, 3, padding=1))

    @property
    def dtype(self) -> torch.dtype:
        return self.gate.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.gate.weight.device

    def forward(self, canvas: Tensor, guess: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        height, width = canvas.shape[-2:]
        padding = (0, -width % 16, 0, -height % 16)
        shown, guess = (F.pad(x, padding, mode="replicate") for x in (torch.cat([canvas, 2 * hole - 1], 1), guess))
        with torch.no_grad():
            z = autoencoder.encode(self.vae, guess.to(self.dtype)) / self.vae.config.scaling_factor
        features = [self.stem(F.pixel_unshuffle(shown.to(self.dtype), 2))]
        for shrink in self.shrink:
            features.append(shrink(features[-1]))
        features = [blocks(x) for blocks, x in zip(self.blocks, features, strict=True)]
        decoder: Any = self.decoder
        x = z.repeat_interleave(decoder.in_shortcut_repeats, 1) + decoder.conv_in(z)
        for level in (2, 1, 0):  # an eighth, a quarter, half of the resolution
            stage = decoder.up_blocks[level + 1]
            if level < 2:
                x = stage[0](x)
            x = x + self.inject[level](features[level])
            for block in stage[1:] if level < 2 else stage:
                x = block(x)
        x = decoder.conv_act(decoder.norm_out(x.movedim(1, -1)).movedim(-1, 1))
        made = decoder.conv_out(x)[..., :height, :width].float()
        gate = F.pixel_shuffle(self.gate(x), 2)[..., :height, :width].float().sigmoid()
        return torch.where(hole > 0, torch.lerp(canvas.float(), made, gate), canvas.float()), gate


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def make_stage(args: argparse.Namespace, way: str, other: DetailStage | None) -> DetailStage:
    """The stage of one way; it shares the guesses of ``other``."""
    stage = DetailStage(settings(args), World())
    if way == "decoder":
        stage.network = ConditionedDecoder(stage.pipeline.vae)  # type: ignore[assignment]
        stage.module["detail"] = stage.network
        stage.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if other is not None:
        stage.guesses, stage.guessed = other.guesses, other.guessed
    return stage


def settings(args: argparse.Namespace) -> Config:
    data = DataConfig((str(args.exemplars),), str(args.perceptual), hold_out=64)
    train = TrainConfig(
        steps=10**6, batch_size=16, lr=args.lr, warmup_steps=30, schedule="cosine", ema=0.99, weight_decay=0.0,
        trackers=(),
    )  # fmt: skip
    return Config(ModelConfig(keep=False), data, loss=LossConfig(0.8, 0.5, 0.01, 0.0), train=train)


def train(trainers: dict[str, Trainer], seconds: float) -> dict[str, int]:
    """The one that has had less time gets the next update. Returns the number of updates of each."""
    spent = dict.fromkeys(trainers, 0.0)
    said = 0.0
    while (least := min(spent.values())) < seconds:
        name = min(spent, key=lambda each: spent[each])
        start = time.process_time()
        row, _ = trainers[name].advance(spent[name] / seconds)
        spent[name] += time.process_time() - start
        if least - said >= seconds / 20:
            said = least
            print(f"{name}: {least:.0f} s, step {trainers[name].step}, perceptual {row['perceptual']:.4f}", flush=True)
    return {name: trainer.step for name, trainer in trainers.items()}


def evaluate_networks(networks: dict[str, Any], args: argparse.Namespace) -> Evaluation:
    """Evaluates the embedded model with each network in place of its own, and without one."""
    methods: list[Method] = list(classical_methods(["patchmatch"]))
    for name, network in networks.items():
        ours = PhotofoundMethod(name=name)
        network = None if network is None else network.eval().to(ours.pipe.transformer.dtype)
        ours.pipe = type(ours.pipe).from_pipe(ours.pipe, detail=network, canvas="harmonic")
        methods.append(ours)
    problems = protocols.problems(find_photographs(args.photos), FILLS, args.limit, max_side=256)
    networks = MetricNetworks(perceptual=PerceptualNet.from_file(args.perceptual))
    return evaluate(problems, methods, networks, args.seeds, strips=10**9 if args.sheet else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exemplars", type=Path, required=True, help="folder of 'prepare --exemplars'")
    parser.add_argument("--photos", type=Path, required=True, help="photographs to be judged on")
    parser.add_argument("--perceptual", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=900.0, help="CPU seconds of each training")
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--limit", type=int, help="photographs; default: all")
    parser.add_argument("--sheet", type=Path, help="PNG: given, PatchMatch, every way, truth")
    args = parser.parse_args()

    stages: dict[str, DetailStage] = {}
    for way in ("network", "decoder"):
        stages[way] = make_stage(args, way, stages.get("network"))
    first = stages["network"]
    first.take(0, torch.arange(len(first.stores[0])))  # the guesses, before the clocks start
    with tempfile.TemporaryDirectory() as folder:
        config = settings(args).train
        trainers = {way: Trainer(config, stage, Path(folder) / way) for way, stage in stages.items()}
        steps = train(trainers, args.seconds)
    networks: dict[str, Any] = {"no network": None}
    for way, trainer in trainers.items():
        with trainer.ema.applied(), torch.no_grad():
            held = {name: float(value) for name, value in stages[way].validate().items()}
            networks[way] = deepcopy(stages[way].network)
        size = sum(p.numel() for p in networks[way].parameters() if p.requires_grad)
        print(f"{way}: {size / 1e6:.2f} M parameters, {steps[way]} updates, held-out samples {held}", flush=True)
    found = evaluate_networks(networks, args)
    print(compare_with_rival(summarise(found), differences(found), "patchmatch"))
    if args.sheet:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(contact_sheet(found.strips)).save(args.sheet)


if __name__ == "__main__":
    main()
