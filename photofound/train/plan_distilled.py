"""The plan of a distillation: one sample of the student, with its teacher, its moving average and its critic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from photofound.edits.task import get_task
from photofound.model import autoencoder
from photofound.model.cost import Cost, FlopCounter
from photofound.model.transformer import EditTransformer
from photofound.model.vision import PerceptualNet
from photofound.train import lora, losses
from photofound.train.estimate import Phase
from photofound.train.mix import PRETEXT
from photofound.train.plan import Outline, repeated


def plan_distilled(config: Any) -> list[Phase]:
    """What one sample costs in a distillation, phase by phase: see ``plan``. The critic's part is run as shapes.

    Args:
        config: that of ``photofound train distill``. Shapes are those of its ``start``; where that is not a folder of
            this machine, there is no plan.
    """
    if not (Path(config.teacher) / "transformer" / "config.json").is_file():
        return []
    return _Distillation.around(config).phases(config.turns)


@dataclass(frozen=True)
class _Distillation(Outline):
    """The networks of a distillation: ``transformer`` is the teacher, ``trained`` has the student and the critic.

    Attributes:
        options: ``DistillConfig``.
        taught: share of the samples that the teacher is asked about: all but those with one right answer.
        last: share of the samples whose jump ends at the picture, those with one right answer left out.
    """

    options: Any
    taught: float
    last: float

    @classmethod
    def around(cls, config: Any) -> _Distillation:
        options, shares = config.distill, {name: share for name, share in config.mix.tasks.items() if share > 0}
        each = {name: share / sum(shares.values()) for name, share in shares.items()}
        taught = {name: s for name, s in each.items() if name in PRETEXT or not get_task(name).regression}
        last = sum(share / options.task_phases.get(name, options.phases) for name, share in taught.items())
        edits, all_taught = config.as_edits(), sum(taught.values())
        decoded = last + 1 - all_taught  # by the perceptual distance; one right answer is given in one jump
        edits = replace(edits, recipe=replace(edits.recipe, perceptual_below=decoded))
        outline = Outline.of(edits, lambda parts: _add_student(parts, options))
        same = {each.name: getattr(outline, each.name) for each in fields(Outline)}
        return cls(**same, options=options, taught=all_taught, last=last)

    def trained_work(self, cost: Cost, crop: int, since: float, aligned: float) -> tuple[float, list[str]]:
        """The student forward and back, the critic with what it looks at."""
        student = _flops(lambda: self._student(self.trained["transformer"], crop, 1).float().sum().backward())
        work, counted = student + repeated(self.config.train) * cost.flops, ["student"]
        if "critic" in self.trained:
            pulls = since >= self.options.adversarial_from
            networks = {**self.judges(), "critic": self.trained["critic"], "vae": self.vae}
            work += self.last * _flops(lambda: self._judged(networks, crop, 1, pulls).backward())
            counted.append("critic")
        return work, counted

    def beside(
        self, crop: int, aligned: float, batch: int = 1, training: bool = True
    ) -> Iterator[tuple[str, Any, float, Callable[[Any], Any]]]:
        """As in ``Outline``; the guided teacher, one pass for both branches, and the average."""
        yield from super().beside(crop, aligned, batch, training)
        yield "teacher", self.transformer, self.taught, lambda net: self._student(net, crop, 2 * batch)
        yield "average", self.trained["transformer"], self.taught, lambda net: self._student(net, crop, batch)
        if self.options.adversarial_on == "latents" and "critic" in self.trained:
            length, again = self.config.model.text_length, 2 * self.last * ("text" not in self.config.data.precomputed)
            ids = (batch, length)
            yield "text encoder", self.text_encoder, again, lambda net: net(input_ids=torch.zeros(ids).long())

    def frozen(self) -> list[Any]:
        """As in ``Outline``, with the teacher, the average and the critic's network."""
        beside = {id(net): net for net in (*super().frozen(), self.transformer, *self.judges().values())}
        return [*beside.values(), self.trained["transformer"]]

    def judges(self) -> dict[str, nn.Module]:
        """What the critic looks through: the teacher, or a perceptual network."""
        if "critic" not in self.trained:
            return {}
        if self.options.adversarial_on == "latents":
            return {"judge": self.transformer, "critic": self.trained["critic"]}
        with torch.device("meta"):
            network = self.lpips if isinstance(self.lpips, nn.Module) else PerceptualNet().requires_grad_(False)
        return {"judge": network, "critic": self.trained["critic"]}

    def loss(self, crop: int, samples: int, skip: float, networks: Mapping[str, Any]) -> Tensor:
        """As in ``Outline``, with the critic's terms."""
        total = super().loss(crop, samples, skip, networks)
        rows = max(1, round(samples * self.last))
        return total + self._judged(networks, crop, rows, True) if "critic" in networks else total

    def _student(self, network: Any, crop: int, batch: int) -> Tensor:
        """A pass of the teacher's shape, without or with a scale of guidance."""
        shape, side = network.config, crop // autoencoder.factor(self.vae)
        seen = shape.reference_size // autoencoder.factor(self.vae) if shape.reference_embeds else 0
        return network(
            torch.empty(batch, shape.in_channels, side, side),
            torch.empty(batch),
            torch.empty(batch, self.config.model.text_length, shape.context_in_dim),
            condition=torch.empty(batch, shape.condition_channels, side, side) if shape.condition_channels else None,
            task=torch.zeros(batch, dtype=torch.long),
            strength=torch.empty(batch),
            guidance=torch.empty(batch) if shape.guidance_embeds else None,
            reference=torch.empty(batch, shape.in_channels, seen, seen) if seen else None,
        ).sample

    def _judged(self, networks: Mapping[str, Any], crop: int, batch: int, pulls: bool) -> Tensor:
        """The terms of generator and critic of ``DistillStage`` for so many jumps that end at the picture."""
        pixels, hole = torch.empty(batch, 3, crop, crop), torch.empty(batch, 1, crop, crop)
        shape, side = self.transformer.config, crop // autoencoder.factor(self.vae)
        made = torch.empty(batch, shape.in_channels, side, side).requires_grad_()
        judge, vae = networks["judge"], networks.get("vae")
        given: tuple[Any, ...] = ()
        if self.options.adversarial_on == "latents":
            words = torch.empty(batch, self.config.model.text_length, shape.context_in_dim)
            t, every = torch.empty(batch), tuple(range(shape.depth))
            condition = torch.empty(batch, shape.condition_channels, side, side)

            def taps(latents: Tensor) -> Any:
                return judge(latents, t, words, condition=condition, strength=t, tap=every).features

            with torch.no_grad():
                x0 = made if "latents" in self.config.data.precomputed else autoencoder.encode(vae, pixels)
                real = taps(x0.float())
            fake, given = taps(made), ((side // shape.patch_size,) * 2, t)
        else:
            with torch.no_grad():
                real = judge(pixels)
            fake = judge(torch.lerp(pixels, autoencoder.decode(vae, made, clamp=False), hole))
        critic = networks["critic"]
        generator, judged = losses.feature_adversarial_losses(critic, real, fake, hole, given)
        total = judged + self.options.r1 * losses.gradient_penalty(critic, real, given)
        return total + losses.balanced(generator, made.square().mean(), made) if pulls else total


def _add_student(parts: nn.ModuleDict, options: Any) -> None:
    """Turn the outline of a transformer into that of a student; add its critic."""
    teacher: Any = parts["transformer"]
    shape = dict(teacher.config) | {"guidance_embeds": True}
    parts["transformer"] = student = EditTransformer.from_config(shape)
    if options.lora_rank:
        lora.add_everywhere(student, options.lora_rank)
    if options.adversarial:
        on_latents = options.adversarial_on == "latents"
        size = shape["hidden_size"], shape["depth"]
        parts["critic"] = losses.TokenCritic(*size) if on_latents else losses.FeatureCritic()


def _flops(work: Callable[[], Any]) -> float:
    """FLOP of what is computed on the meta device."""
    with torch.device("meta"), FlopCounter() as counter:
        work()
    return float(counter.get_total_flops())
