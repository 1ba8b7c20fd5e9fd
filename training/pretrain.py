"""Train the one transformer on everything at once: text-to-image, completion of hidden patches, and the edits.

    photofound train pretrain --config training/configs/nano-cpu.yaml --data.folder=DIR --model.vae=DIR

Every batch mixes tasks. Photographs lie in memory as uint8, or are streamed in aspect buckets with
--data.sources="[{path: SHARDS}]". Masks, conditions and target latents are made in batches on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from photofound.edits.task import is_regression
from photofound.model import flow
from photofound.train.end_to_end import autoencoder_terms
from photofound.train.mix import Batch, mean_per_task
from photofound.train.plan import plan
from photofound.train.settings import EditConfig
from photofound.train.stage import EditStage


@dataclass(frozen=True)
class Config(EditConfig):
    """The options of ``photofound train pretrain``."""

    STAGE: ClassVar = "pretrain"


class PretrainStage(EditStage):
    """All weights of the transformer, on all tasks."""

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return flow_matching_loss(self, batch)


def flow_matching_loss(stage: EditStage, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The masked flow-matching loss plus the terms of the recipe.

    Times and noise are drawn; some conditions are left out for classifier-free guidance. Tasks with one right answer
    start at t = 1 from zeros.

    Returns:
        The scalar to minimise, and what is logged: the flow-matching loss of each task, each term of the recipe.
    """
    config, recipe = stage.config, stage.config.recipe
    generator = torch.Generator(stage.device).manual_seed(int(torch.randint(2**31, (1,))))
    condition = stage.drop_conditions(batch.condition, generator)
    x0 = stage.clean_latents(batch.sample)
    t = flow.sample_time(len(x0), generator, stage.shift_at(batch.progress), config.mix.uniform_time)
    noise, t = flow.regression_start(stage.noise_like(x0, generator), t, is_regression(condition))
    x_t = flow.add_noise(x0, noise, t)
    route, block = stage.recipe.route(x0, generator, batch.progress), stage.recipe.aligned_block(batch.progress)
    dropped = stage.recipe.path_drop(len(x0), generator)
    v, x0_hat, features = stage.predict(
        x_t, t, condition, route, block, embeddings=batch.sample.embeddings, path_drop=dropped
    )
    target = stage.target(x_t, x0, noise, t)

    each = stage.masked_loss(v, target, condition.hole, config.mix.known_weight, batch.weight)
    terms: dict[str, Tensor] = {}
    if recipe.contrastive:
        others = flow.contrastive_term(v, target, condition.hole, config.mix.known_weight)
        terms["contrastive"] = -recipe.contrastive * others.mean()
    if block is not None:
        terms["repa"] = recipe.repa * stage.recipe.alignment(features, batch.sample.pixels, x0, route)
        if recipe.repa_e:
            terms |= autoencoder_terms(stage, batch, condition, noise, t, route, block)
    if recipe.lpips or recipe.dino:
        clear = t < recipe.perceptual_below
        terms |= stage.recipe.perceptual(x0_hat, batch.sample.pixels, condition.hole, clear)
    loss = each.mean() + sum(terms.values(), each.new_zeros(()))
    return loss, mean_per_task(each, condition.task) | {name: term.detach() for name, term in terms.items()}


PLAN = plan  # of `photofound cost` and the dry run


def main(argv: list[str] | None = None) -> int:
    from photofound.training import launch

    return launch(Config, PretrainStage, argv, doc=__doc__, plan=PLAN)


if __name__ == "__main__":
    raise SystemExit(main())
