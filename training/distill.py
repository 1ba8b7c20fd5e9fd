"""Distil an editor of many guided steps into a student of a few unguided ones: latent consistency, plain or phased.

    photofound train distill --config training/configs/distill-nano-cpu.yaml --data.folder=DIR

The teacher is the model that the run starts from, frozen. The student learns every edit in the mix, each with its
condition, and takes the guidance scale as an input. docs/distillation.md explains the result and how to use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from photofound.edits.task import Condition, get_task, is_regression, task_names
from photofound.model import autoencoder, flow, vision
from photofound.model.condition import fold_condition
from photofound.model.transformer import EditTransformer
from photofound.picture import sheet as sheets
from photofound.pipeline import EMBEDDED
from photofound.train import consistency, lora, losses, settings
from photofound.train.distributed import World
from photofound.train.idle import StageConfig
from photofound.train.mix import Batch, mean_per_task, take
from photofound.train.plan_distilled import plan_distilled
from photofound.train.settings import DataConfig, TrainConfig
from photofound.train.stage import EditStage

Judged = tuple[Sequence[Tensor], Sequence[Tensor], tuple[Any, ...]]
"""What a critic compares: taps of the photographs, of the jumps, and what else it is told."""

_SHAPE = ("hidden_size", "depth", "patch_size", "in_channels", "condition_space", "prediction_type", "reference_embeds")


@dataclass(frozen=True)
class MixConfig:
    """Shares of a batch, and what of it counts."""

    RENAMED: ClassVar = settings.MixConfig.RENAMED

    tasks: dict[str, float] = field(
        default_factory=lambda: {"inpaint": 0.25, "expand": 0.2, "outpaint": 0.25, "erase": 0.15, "upscale": 0.15}
    )  # task -> its share of a batch, relative to the others
    drop_text: float = 0.1  # share of the samples without a prompt, for which guidance means nothing
    reference: float | None = None  # share with a reference, of tasks that take one; null = 0.7 if it takes one
    exemplars: float = 0.7  # share of the holes in known pixels whose canvas is an exemplar one (data.exemplars)
    known_weight: float = 0.1  # weight of the loss outside the hole


@dataclass(frozen=True)
class DistillConfig:
    """What kind of student; see ``photofound.train.consistency``."""

    phases: int = 4  # 1: plain LCM, for one step or a few noisy ones; P: phased, for P deterministic steps
    task_phases: dict[str, int] = field(default_factory=dict)  # tasks with another number, like {upscale: 1}
    teacher_steps: int = 50  # steps of the teacher from noise to picture; the student copies one at a time
    guidance: tuple[float, float] = (1.5, 6.0)  # range of the guidance scales that the student can be asked for
    ema: float = 0.95  # decay of the network that makes the targets; 0 = the student itself
    huber: float = 1e-3  # error at which the loss turns from square to absolute
    lpips: float = 0.0  # weight of the perceptual distance between the last jump and the photograph
    lpips_net: str | None = None  # a .safetensors file of SqueezeNet
    adversarial: float = 0.0  # pull of a critic on the last jump, as a share of the loss's own gradient; try 0.5
    adversarial_on: str = "pixels"  # what it sees: pixels, by lpips_net | latents, by the teacher (LADD)
    adversarial_from: float = 0.3  # share of the run after which the critic pulls; before, it only learns
    r1: float = 0.01  # weight of the critic's gradient penalty
    lora_rank: int = 0  # rank of a LoRA on every linear layer; 0 = all weights
    keep_teacher: bool = True  # save the teacher beside the student
    student: str | None = None  # a student of the same teacher to go on from; null = the teacher's own weights

    def __post_init__(self) -> None:
        for name, phases in {"phases": self.phases, **self.task_phases}.items():
            if not 1 <= phases <= self.teacher_steps:
                where = "phases" if name == "phases" else f"task_phases.{name}"
                raise ValueError(
                    f"distill.{where}: {phases} must be from 1 to distill.teacher_steps ({self.teacher_steps})"
                )
        if self.task_phases and self.phases == 1:
            raise ValueError("distill.task_phases: plain LCM (distill.phases: 1) has one phase for all; leave it out")
        if not 0 <= self.guidance[0] <= self.guidance[1]:
            raise ValueError(f"distill.guidance: {list(self.guidance)} is no range; give [low, high] like [1.5, 6]")
        if not 0 <= self.ema < 1:
            raise ValueError(f"distill.ema: {self.ema} must be from 0 to less than 1")
        if self.lora_rank < 0 or self.huber <= 0:
            raise ValueError("distill: lora_rank must be 0 or more, and huber more than 0")
        if self.adversarial_on not in ("pixels", "latents"):
            raise ValueError(f"distill.adversarial_on: {self.adversarial_on!r} is unknown; use pixels or latents")
        for name in ("lpips", "adversarial" if self.adversarial_on == "pixels" else "lpips"):
            if getattr(self, name) and not self.lpips_net:
                raise ValueError(f"distill.lpips_net: distill.{name} needs a network; name a file")


@dataclass(frozen=True)
class Config(StageConfig):
    """The options of ``photofound train distill``."""

    STAGE: ClassVar = "distill"

    start: str | None = None  # the teacher: a pipeline folder or Hub id; null = the embedded model
    text_length: int = 64  # tokens of a prompt that are read
    data: DataConfig = field(default_factory=DataConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    prompts: settings.PromptConfig = field(default_factory=settings.PromptConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    hub: settings.HubConfig = field(default_factory=settings.HubConfig)

    @property
    def turns(self) -> tuple[float, ...]:
        """The shares of the run at which its steps change."""
        return (*self.data.turns, *([self.distill.adversarial_from] if self.distill.adversarial else []))

    @property
    def teacher(self) -> str:
        """Where the teacher is."""
        return self.start or str(EMBEDDED)

    def as_edits(self) -> settings.EditConfig:
        """The options of ``EditStage``, which draws photographs and conditions."""
        dropped: dict[str, Any] = {"drop_text": self.mix.drop_text, "drop_both": 0.0}
        same = {name: getattr(self.mix, name) for name in ("reference", "exemplars", "known_weight")}
        mix = settings.MixConfig(self.mix.tasks, **dropped, **same)
        model = settings.ModelConfig(start=self.teacher, text_length=self.text_length, train_text=False)
        recipe = settings.RecipeConfig(lpips=self.distill.lpips, lpips_net=self.distill.lpips_net)
        return settings.EditConfig(
            model=model, data=self.data, mix=mix, recipe=recipe, prompts=self.prompts, train=self.train
        )


class DistillStage(EditStage):
    """Teacher, student and the student's moving average; photographs and conditions are those of ``EditStage``."""

    ahead = False  # the average takes in the student with each batch

    def __init__(self, config: Config, world: World) -> None:
        self._check_tasks(config)
        super().__init__(config.as_edits(), world)
        self.options = config.distill
        self.teacher = deepcopy(self.pipeline.transformer).requires_grad_(False).eval()
        self.teacher_pipeline = type(self.pipeline).from_pipe(self.pipeline, transformer=self.teacher)
        self.teacher_pipeline.set_progress_bar_config(disable=True)
        self._make_student()
        self.module["target"] = deepcopy(self.student).requires_grad_(False)
        if self.options.adversarial and self.options.adversarial_on == "latents":
            shape = self.teacher.config
            self.module["critic"] = losses.TokenCritic(shape.hidden_size, shape.depth).to(self.device)
        elif self.options.adversarial:
            read = vision.PerceptualNet.from_file
            self.judge = self.recipe.lpips_net or read(str(self.options.lpips_net)).to(self.device)
            self.module["critic"] = losses.FeatureCritic().to(self.device)
        models: tuple[Any, ...] = (self.student, self.module["target"], self.teacher)
        self.blocks = [block for model in models for block in model.blocks]
        self._averaged_at: float | None = None

    @staticmethod
    def _check_tasks(config: Config) -> None:
        """Raise ValueError for tasks that the teacher cannot teach. One with one right answer needs no teacher."""
        for name, folder in (("start", config.teacher), ("distill.student", config.distill.student)):
            if folder and not Path(folder).is_dir() and folder.count("/") != 1:
                raise FileNotFoundError(f"{name}: {folder} does not exist; name a pipeline folder or a Hub id")
        known = EditTransformer.load_config(config.teacher, subfolder="transformer")["tasks"]
        wanted = [name for name, share in config.mix.tasks.items() if share > 0 and name not in known]
        if unknown := [name for name in wanted if name not in task_names() or not get_task(name).regression]:
            raise ValueError(f"mix.tasks: the teacher does not know {unknown[0]!r}, only {', '.join(known[1:])}")
        if idle := [name for name in config.distill.task_phases if not config.mix.tasks.get(name)]:
            raise ValueError(f"distill.task_phases: {idle[0]!r} is not distilled; give it a share in mix.tasks")

    def _make_student(self) -> None:
        """Turn the pipeline's transformer into the student, and the pipeline into one that samples it."""
        from diffusers import FlowMatchLCMScheduler

        options, pipeline = self.options, self.pipeline
        self.student = pipeline.transformer
        self.student.add_guidance()
        if options.student:
            self._go_on_from(options.student)
        if options.lora_rank:
            lora.add_everywhere(self.student, options.lora_rank)
        self.shift = float(pipeline.scheduler.config.shift)
        if options.phases == 1:
            if pipeline.config.noise_scale != 1:
                raise ValueError("distill.phases: plain LCM adds noise of scale 1, and this model's is another; take 4")
            pipeline.register_modules(scheduler=FlowMatchLCMScheduler(shift=self.shift))
        pipeline.register_to_config(
            default_steps=options.phases,
            task_steps=options.task_phases or None,
            distilled={
                "phases": options.phases,
                "guidance": list(options.guidance),
                "teacher_steps": pipeline.config.default_steps,
                "task_steps": pipeline.config.task_steps,
            },
        )

    def _go_on_from(self, folder: str) -> None:
        """Give the student the weights of an earlier one; tasks that are new to it start as copies of its first."""
        earlier = EditTransformer.from_pretrained(folder, subfolder="transformer", torch_dtype=torch.float32)
        for task in self.student.config.tasks:
            if task not in earlier.config.tasks:
                earlier.add_task(task)
        apart = [key for key in ("tasks", *_SHAPE) if earlier.config[key] != self.student.config[key]]
        if apart:
            values = f"{earlier.config[apart[0]]} against {self.student.config[apart[0]]}"
            raise ValueError(f"distill.student: {folder} is no student of this teacher ({apart[0]}: {values})")
        earlier.add_guidance()
        self.student.load_state_dict(earlier.state_dict())

    # ------------------------------------------------------------------------------------------------------ training

    def batch(self, generator: torch.Generator, size: int, progress: float) -> Batch:
        """As in ``EditStage``. Before the first one of an update, the moving average takes in the student."""
        if progress != self._averaged_at:  # all micro-batches of an update are at the same progress
            self._averaged_at = progress
            live = {name: weight for name, weight in self.student.named_parameters() if weight.requires_grad}
            average = dict(self.module["target"].named_parameters())
            consistency.ema_update({name: average[name] for name in live}, live, self.options.ema)
        return super().batch(generator, size, progress)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """How far the student's jumps are from their targets: pseudo-Huber, weighed as the objective weighs the hole;
        to be logged, per task."""
        options, n = self.options, len(batch.condition)
        generator = torch.Generator(self.device).manual_seed(int(torch.randint(2**31, (1,))))
        condition = self.drop_conditions(batch.condition, generator)
        phases = torch.tensor([options.task_phases.get(name, options.phases) for name in condition.task])
        times = consistency.sample_times(n, phases, options.teacher_steps, generator, self.shift)
        scale = consistency.sample_guidance(n, *options.guidance, generator)
        x0 = self.clean_latents(batch.sample)
        regression = is_regression(condition)  # there the student learns what the teacher did: the answer itself
        noise, start = flow.regression_start(self.noise_like(x0, generator), times.start, regression)
        times = times._replace(start=start, end=torch.where(regression, 0.0, times.end))
        x = flow.add_noise(x0, noise, times.start)

        taught = (~regression).nonzero()[:, 0]  # the others need no teacher
        teacher, average, student = self._fields(condition, scale, batch.sample.embeddings, taught)
        goal = x0.clone()
        if len(taught):
            few = consistency.Times(*(time[taught] for time in times))
            goal[taught] = consistency.target(x[taught], few, teacher, average)
        made = consistency.jump(x, student(x, times.start), times.start, times.end)
        error = consistency.pseudo_huber(made, goal, options.huber)
        each = flow.masked_mean(error, condition.hole, self.config.mix.known_weight)
        terms: dict[str, Tensor] = {}
        if options.lpips:
            terms = self.recipe.perceptual(made, batch.sample.pixels, condition.hole, times.end == 0)
        if options.adversarial and made.requires_grad:
            last = (times.end == 0) & ~regression
            terms |= self._adversarial(made, batch, condition.hole, last, each.mean())
        loss = each.mean() + sum(terms.values(), each.new_zeros(()))
        return loss, mean_per_task(each, condition.task) | {name: term.detach() for name, term in terms.items()}

    def _adversarial(self, made: Tensor, batch: Batch, hole: Tensor, last: Tensor, loss: Tensor) -> dict[str, Tensor]:
        """The terms of generator and critic for the samples ``last`` (B,), whose jump ends at the picture. The critic
        compares it with the photograph, in the hole: both decoded, the picture pasted, on the features of a frozen
        network; or as latents, on those of the teacher."""
        chosen = last.nonzero()[:, 0]
        critic: Any = self.module["critic"]
        if not len(chosen):  # the same weights have a gradient in every process: shards are summed together
            return {"critic": 0 * sum(weight.sum() for weight in critic.parameters())}
        seen = self._seen_by_teacher if self.options.adversarial_on == "latents" else self._seen_in_pixels
        real, fake, given = seen(made, batch, hole, chosen)
        generator, judged = losses.feature_adversarial_losses(critic, real, fake, hole[chosen], given)
        penalty = self.options.r1 * losses.gradient_penalty(critic, real, given)
        terms = {"critic": judged, "r1": penalty}
        if batch.progress >= self.options.adversarial_from:
            terms["generator"] = self.options.adversarial * losses.balanced(generator, loss, made)
        return terms

    def _seen_in_pixels(self, made: Tensor, batch: Batch, hole: Tensor, chosen: Tensor) -> Judged:
        """Taps of a frozen network on the photographs and on the pictures that the jump gives, pasted into them."""
        pixels = batch.sample.pixels[chosen]
        pasted = torch.lerp(pixels, autoencoder.decode(self.vae, made[chosen], clamp=False), hole[chosen])
        with torch.no_grad():
            real = self.judge(pixels)
        return real, self.judge(pasted), ()

    def _seen_by_teacher(self, made: Tensor, batch: Batch, hole: Tensor, chosen: Tensor) -> Judged:
        """LADD (arXiv:2403.12015, section 3): photographs and jumps as latents, with the same noise at times of which
        most are late, logit of them ~ N(1, 1), and the teacher's tokens after each block. Nothing is decoded."""
        generator = torch.Generator(self.device).manual_seed(int(torch.randint(2**31, (1,))))
        sample, condition = batch.sample[chosen], take(batch.condition, chosen)
        x0 = self.clean_latents(sample)
        t = (1 + torch.randn(len(x0), generator=generator, device=self.device)).sigmoid()
        noise, every = self.noise_like(x0, generator), tuple(range(self.teacher.config.depth))

        def taps(latents: Tensor) -> Sequence[Tensor]:
            x_t = flow.add_noise(latents, noise, t)
            return self.predict(x_t, t, condition, None, every, self.teacher, sample.embeddings)[2]

        with torch.no_grad():
            real = taps(x0)
        patch = self.teacher.config.patch_size
        return real, taps(made[chosen].float()), ((x0.shape[-2] // patch, x0.shape[-1] // patch), t)

    def validate(self) -> dict[str, Tensor]:
        """``val_loss``: this stage's loss on the held-out photographs, always with the same noise and times."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return {"val_loss": self.loss(self.validation_batch)[0]}

    def _fields(
        self,
        condition: Condition,
        scale: Tensor,
        embeddings: Mapping[str, Tensor] | None = None,
        taught: Tensor | None = None,
    ) -> tuple[consistency.Field, consistency.Field, consistency.Field]:
        """The velocities of the guided teacher and of the average under the conditions ``taught``, indices into the
        batch (None = all), and of the student under all of them. Both branches of the guidance see the picture; what
        one of them lacks is the text and the reference."""
        n, config = len(condition), self.student.config
        taught = torch.arange(n, device=self.device) if taught is None else taught
        with torch.no_grad():
            folded = fold_condition(condition, self.vae, config.condition_space).float()
            tokens, mask = self.encode_prompts([*condition.prompt, ""], embeddings)
        task = torch.tensor([config.tasks.index(name) for name in condition.task], device=self.device)
        given = {"condition": folded, "task": task, "strength": condition.strength}
        few = {name: value[taught] for name, value in given.items()}
        seen = self.reference_inputs(self.student, take(condition, taught))
        twice = {name: torch.cat([value, value]) for name, value in few.items()} | seen
        if seen and seen["referenced"].shape == taught.shape and seen["referenced"].dtype == torch.bool:
            twice["reference"] = torch.cat([seen["reference"], seen["reference"]])
            twice["referenced"] = torch.cat([seen["referenced"], torch.zeros_like(seen["referenced"])])
        # Otherwise they are the rows that have one, which lie in the first branch, or one for all that no sample has.
        few |= seen
        given |= self.reference_inputs(self.student, condition)
        both = torch.cat([taught, torch.full_like(taught, n)])  # rows of the text: their own, none

        def velocity(model: nn.Module, x: Tensor, t: Tensor, rows: Tensor | slice, **inputs: Any) -> Tensor:
            out = model(x, t, tokens[rows], None if mask is None else mask[rows], **inputs).sample.float()
            return flow.interpret(out, x, t, config.prediction_type)[0]

        def teacher(x: Tensor, t: Tensor) -> Tensor:
            with_text, without = velocity(self.teacher, x.repeat(2, 1, 1, 1), t.repeat(2), both, **twice).chunk(2)
            return consistency.guide(with_text, without, scale[taught])

        def average(x: Tensor, t: Tensor) -> Tensor:
            return velocity(self.module["target"], x, t, taught, **few, guidance=scale[taught])

        def student(x: Tensor, t: Tensor) -> Tensor:
            return velocity(self.student, x, t, slice(n), **given, guidance=scale)

        return teacher, average, student

    # ------------------------------------------------------------------------------------------------------- results

    def sheet(self) -> np.ndarray:
        """One row per edit: the canvas, the teacher after its steps, the student after its own, the target."""
        count, guidance = (
            2 * len(self.mixer.shares),
            max(self.options.guidance[0], self.pipeline.config.default_guidance),
        )
        generator = torch.Generator(self.device).manual_seed(7)
        condition, sample = self.draw(self.store, self.last_crop, count, generator)
        made = [
            pipeline.sample(condition, steps, guidance, [torch.Generator().manual_seed(i) for i in range(count)])
            for pipeline, steps in ((self.teacher_pipeline, 20), (self.pipeline, self.options.phases))
        ]
        canvas = condition.canvas * (1 - 0.5 * condition.hole) + 0.5 * condition.hole
        return sheets.sheet([list(pictures) for pictures in zip(canvas, *made, sample.pixels, strict=True)])

    def export(self, folder: Path) -> None:
        """Save the student as a pipeline; a LoRA is merged into it, and saved in ``lora/``, too. The teacher
        is saved as ``teacher/``."""
        pipeline = self.pipeline
        if self.options.lora_rank:
            lora.save(pipeline, folder / "lora")
            pipeline = lora.merge(pipeline)
        pipeline.save_pretrained(folder, safe_serialization=True)
        if self.options.keep_teacher:
            self.teacher.save_pretrained(folder / "teacher", safe_serialization=True)
            self.teacher_pipeline.scheduler.save_pretrained(folder / "teacher")


PLAN = plan_distilled  # of `photofound cost` and the dry run


def main(argv: list[str] | None = None) -> int:
    from photofound.training import launch

    return launch(Config, DistillStage, argv, doc=__doc__, plan=PLAN)


if __name__ == "__main__":
    raise SystemExit(main())
