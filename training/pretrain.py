"""Train the one transformer on everything at once: text-to-image, MAE-style completion and the edits.

    photofound train pretrain --config training/configs/nano-cpu.yaml --data.folder=DIR --model.vae=DIR

Every batch mixes tasks. Photographs lie in memory as uint8; crops, masks, conditions and target latents are made in
batches on the device.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from photofound import autoencoder, data, masks, objective, text
from photofound.composite import harmonic
from photofound.edit import Condition, Sample, get_task
from photofound.trainer import TrainConfig, World


@dataclass(frozen=True)
class ModelConfig:
    """The transformer's shape, the text encoder's, and which autoencoder."""

    vae: str = "photofound/weights/nano/vae"  # a diffusers folder
    start: str | None = None  # a pipeline folder to start from; its shapes replace those below
    hidden_size: int = 256
    depth: int = 12
    num_heads: int = 4
    mlp_ratio: float = 3.0
    patch_size: int = 2
    condition_space: str = "pixels"  # pixels | latents
    text_width: int = 192
    text_layers: int = 3
    text_length: int = 64  # bytes of a prompt that are read


@dataclass(frozen=True)
class DataConfig:
    """Photographs: where they are, at which sizes they are kept, how often each source is drawn."""

    folder: str = "data/train"
    cache: str | None = None  # a file that keeps the decoded store between runs
    sizes: tuple[int, ...] = (136, 208, 272)  # short sides
    crop: int = 128
    late_crop: int = 128  # the crop after ``late_from``
    late_from: float = 0.7  # share of the run
    late_batch: float = 1.0  # batch size after ``late_from``, as a share of the one before
    weights: dict[str, float] = field(default_factory=dict)  # source -> weight; 1 where it is not named
    limit: int | None = None


@dataclass(frozen=True)
class MixConfig:
    """Shares of a batch, and what is dropped from its conditions."""

    tasks: dict[str, float] = field(
        default_factory=lambda: {
            "generate": 0.08,
            "complete": 0.1,
            "inpaint": 0.22,
            "expand": 0.18,
            "outpaint": 0.2,
            "erase": 0.1,
            "upscale": 0.12,
        }
    )
    drop_text: float = 0.1
    drop_condition: float = 0.02
    drop_both: float = 0.02
    given_weight: float = 0.1
    shift: float = 1.0
    uniform_time: float = 0.1


@dataclass(frozen=True)
class Config:
    """Everything ``photofound train pretrain`` can be told."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def generate(sample: Sample, generator: torch.Generator) -> Condition:
    """Text to image: nothing is given."""
    canvas, hole = torch.zeros_like(sample.pixels), torch.ones_like(sample.pixels[:, :1])
    return _trunk(sample, canvas, hole)


def complete(sample: Sample, generator: torch.Generator) -> Condition:
    """MAE-style completion of hidden patches."""
    hole = masks.patches(len(sample), tuple(sample.pixels.shape[-2:]), generator)
    return _trunk(sample, harmonic(sample.pixels, hole == 0), hole)


def _trunk(sample: Sample, canvas: Tensor, hole: Tensor) -> Condition:
    """A condition for the trunk's own head, which no edit uses."""
    return Condition(canvas, hole, ["generate"] * len(sample), sample.prompt, hole.new_zeros(len(sample)))


PRETEXT = {"generate": generate, "complete": complete}


def build_pipeline(config: ModelConfig, tasks: list[str]) -> Any:
    """An EditPipeline to train: from ``config.start``, or new around the autoencoder."""
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler

    from photofound.pipeline import EditPipeline, condition_channels
    from photofound.transformer import EditTransformer

    if config.start:
        pipeline = EditPipeline.from_pretrained(config.start, torch_dtype=torch.float32)
        for task in tasks:
            if task not in pipeline.transformer.config.tasks:
                pipeline.transformer.add_task(task)
        return pipeline
    vae = AutoencoderDC.from_pretrained(config.vae)
    tokenizer, encoder = text.build_byte_encoder(config.text_width, config.text_layers)
    transformer = EditTransformer(
        in_channels=autoencoder.channels(vae),
        patch_size=config.patch_size,
        context_in_dim=config.text_width,
        hidden_size=config.hidden_size,
        mlp_ratio=config.mlp_ratio,
        num_heads=config.num_heads,
        depth=config.depth,
        condition_channels=condition_channels(vae, config.condition_space),
        condition_space=config.condition_space,
        tasks=("generate", *tasks),
    )
    return EditPipeline(transformer, vae, encoder, tokenizer, FlowMatchEulerDiscreteScheduler())


class PretrainStage:
    """What the trainer needs: see ``photofound.trainer.Stage``."""

    def __init__(self, config: Config, world: World) -> None:
        self.config, self.device = config, world.device
        torch.manual_seed(config.train.seed)
        self.shares = {name: share for name, share in config.mix.tasks.items() if share > 0}
        edits = [name for name in self.shares if name not in PRETEXT]
        self.examples = {name: PRETEXT[name] if name in PRETEXT else get_task(name).example for name in self.shares}
        self.objects = {name: name in edits and get_task(name).needs_object for name in self.shares}
        self.pipeline = build_pipeline(config.model, edits)
        self.pipeline.to(self.device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.vae = self.pipeline.vae.requires_grad_(False).eval() if self.pipeline.vae is not None else None
        self.module = nn.ModuleDict(
            {"transformer": self.pipeline.transformer, "text_encoder": self.pipeline.text_encoder}
        )
        self.module.requires_grad_(True).train()
        self.blocks: list[nn.Module] = list(self.pipeline.transformer.blocks)
        files = config.data
        self.store = data.PhotoStore.open(files.folder, files.sizes, files.cache, files.limit, mattes=True).to(
            self.device
        )
        self._rows: dict[tuple[int, bool], tuple[Tensor, Tensor]] = {}

    # ------------------------------------------------------------------------------------------------------ batches

    def batch(self, generator: torch.Generator, size: int, progress: float) -> tuple[Condition, Tensor]:
        """A mixed batch: (condition, target pixels)."""
        late = progress >= self.config.data.late_from
        crop = self.config.data.late_crop if late else self.config.data.crop
        size = max(1, round(size * self.config.data.late_batch)) if late else size
        cpu = torch.Generator().manual_seed(data.random_int(2**31, generator))
        conditions, targets = [], []
        for name, count in self._counts(size, cpu).items():
            rows, weights = self._choices(crop, self.objects[name])
            picks = rows[torch.multinomial(weights, count, replacement=True, generator=cpu)]
            sample = self.store.sample(picks, crop, self.objects[name], cpu)
            conditions.append(self.examples[name](sample, generator))
            targets.append(sample.pixels)
        return Condition.cat(conditions), torch.cat(targets)

    def _counts(self, size: int, cpu: torch.Generator) -> dict[str, int]:
        """How many samples of each task: the shares in whole numbers, the rest drawn at random so that the mean is
        right."""
        total = sum(self.shares.values())
        exact = {name: size * share / total for name, share in self.shares.items()}
        counts = {name: int(value) for name, value in exact.items()}
        missing = size - sum(counts.values())
        if missing:
            rest = torch.tensor([exact[name] - counts[name] for name in counts])
            for index in torch.multinomial(rest, missing, replacement=True, generator=cpu).tolist():
                counts[list(counts)[index]] += 1
        return {name: count for name, count in counts.items() if count}

    def _choices(self, crop: int, objects: bool) -> tuple[Tensor, Tensor]:
        """Rows that fit and their weights."""
        if (crop, objects) not in self._rows:
            rows = self.store.rows(crop, objects)
            if not len(rows):
                raise ValueError(f"data: no photograph fits a crop of {crop}" + " with a whole object" * objects)
            by_source = self.config.data.weights
            sources = [self.store.sources[int(p)] for p in self.store.photograph[rows]]
            self._rows[crop, objects] = rows, torch.tensor([by_source.get(s, 1.0) for s in sources])
        return self._rows[crop, objects]

    # --------------------------------------------------------------------------------------------------------- loss

    def loss(self, batch: tuple[Condition, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        from photofound.pipeline import fold_condition

        condition, pixels = batch
        mix, model = self.config.mix, self.pipeline.transformer
        generator = torch.Generator(self.device).manual_seed(int(torch.randint(2**31, (1,))))
        count = len(condition)
        drop = torch.rand(count, generator=generator, device=self.device)
        no_text = (drop < mix.drop_text) | (drop > 1 - mix.drop_both)
        condition = blank(condition, drop > 1 - mix.drop_both - mix.drop_condition)
        with torch.no_grad():
            x0 = autoencoder.encode(self.vae, pixels).float()
            folded = fold_condition(condition, self.vae, model.config.condition_space).float()
        t = objective.sample_time(count, generator, mix.shift, mix.uniform_time)
        noise = torch.randn(x0.shape, generator=generator, device=self.device)
        x_t = objective.add_noise(x0, noise, t)
        prompts = ["" if gone else prompt for gone, prompt in zip(no_text.tolist(), condition.prompt, strict=True)]
        pad = "max_length" if self.config.train.compile else "longest"
        length = self.config.model.text_length
        tokens, mask = text.encode(self.pipeline.tokenizer, self.pipeline.text_encoder, prompts, length, pad)
        task = torch.tensor([model.task_index(name) for name in condition.task], device=self.device)
        out = model(x_t, t, tokens, mask, condition=folded, task=task, strength=condition.strength).sample.float()
        if model.config.prediction_type == "sample":
            out = objective.to_velocity(x_t, out, t)
        losses = objective.masked_loss(out, objective.velocity(x0, noise), condition.hole, mix.given_weight)
        names = set(condition.task)
        logs = {
            name: losses.detach()[[i for i, n in enumerate(condition.task) if n == name]].mean()
            for name in sorted(names)
        }
        return losses.mean(), logs

    # ------------------------------------------------------------------------------------------------------ results

    def sample(self) -> np.ndarray:
        """One row per task: what is given, the model's picture, the target, three times over."""
        from photofound.card import sheet

        rows = []
        for name in self.shares:
            rows_of, weights = self._choices(self.config.data.late_crop, self.objects[name])
            cpu = torch.Generator().manual_seed(7)
            picks = rows_of[torch.multinomial(weights, 3, replacement=True, generator=cpu)]
            sample = self.store.sample(picks, self.config.data.late_crop, self.objects[name], cpu)
            condition = self.examples[name](sample, torch.Generator(self.device).manual_seed(7))
            made = self.pipeline.sample(
                condition, steps=12, guidance=2.0, generators=[torch.Generator().manual_seed(i) for i in range(3)]
            )
            shown = condition.canvas * (1 - 0.5 * condition.hole) + 0.5 * condition.hole
            rows.append([picture for i in range(3) for picture in (shown[i], made[i], sample.pixels[i])])
        return sheet(rows)

    def export(self, folder: Path) -> None:
        """Save the pipeline in diffusers layout."""
        self.pipeline.save_pretrained(folder, safe_serialization=True)


def blank(condition: Condition, gone: Tensor) -> Condition:
    """The same batch with nothing given in the samples where ``gone`` (B,) is True."""
    gone = gone[:, None, None, None]
    return replace(
        condition, canvas=condition.canvas.masked_fill(gone, 0.0), hole=condition.hole.masked_fill(gone, 1.0)
    )


def main(argv: list[str] | None = None) -> int:
    from photofound.training import launch

    return launch(Config, PretrainStage, argv, doc=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
