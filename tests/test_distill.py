"""Distillation: the stage's parts, the command from end to end, and what users do with a student."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler
from helpers import load_pipeline, seeded
from PIL import Image
from safetensors.torch import save_file

from photofound import InpaintPipeline, OutpaintPipeline, cli, config
from photofound.edits.task import Condition
from photofound.model import flow
from photofound.model.condition import fold_condition
from photofound.model.transformer import EditTransformer
from photofound.model.vision import PerceptualNet
from photofound.pipeline import EMBEDDED, EditPipeline
from photofound.train import consistency, optim
from photofound.train.distributed import World
from photofound.training.distill import Config, DistillStage

pytestmark = pytest.mark.slow

TINY = [
    "--data.drawn=12",
    "--data.sizes=[72, 96]",
    "--data.crop=64",
    "--data.late_crop=64",
    "--train.batch_size=10",
    "--train.steps=2",
    "--train.warmup_steps=1",
    "--train.log_every=1",
    "--train.precision=fp32",
    "--train.trackers=[]",
]


def settings(tiny_folder, *more):
    return config.load(Config, None, [f"--start={tiny_folder}", *TINY, *more])


def build(tiny_folder, *more):
    torch.manual_seed(0)
    return DistillStage(settings(tiny_folder, *more), World())


@pytest.fixture
def stage(tiny_folder):
    return build(tiny_folder)


def loss_of(stage, batch):
    torch.manual_seed(1)
    return stage.loss(batch)


def weights(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


# ------------------------------------------------------------------------------------------------------------ the stage


def test_every_edit_is_distilled_with_what_is_given(stage):
    batch = stage.batch(seeded(), 20, 0.0)
    assert set(batch.condition.task) == {"inpaint", "expand", "outpaint", "erase", "upscale"}
    condition = stage.drop_conditions(batch.condition, seeded())
    assert torch.equal(condition.canvas, batch.condition.canvas) and torch.equal(condition.hole, batch.condition.hole)
    assert len(condition.prompt) == 20


def test_a_student_starts_as_its_unguided_teacher(stage):
    """Fresh student, average and, at scale 1, teacher are one field; another scale is a guided one."""
    batch = stage.batch(seeded(), 10, 0.0)
    x, t = torch.randn(10, 4, 8, 8), torch.linspace(0.1, 1, 10)
    with torch.no_grad():
        teacher, average, student = stage._fields(batch.condition, torch.ones(10))
        torch.testing.assert_close(student(x, t), teacher(x, t), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(average(x, t), student(x, t))
        guided = stage._fields(batch.condition, torch.full((10,), 3.0))[0]
        assert (guided(x, t) - teacher(x, t)).abs().max() > 1e-3


def test_both_branches_of_the_teacher_see_the_picture(stage):
    """Without a prompt they are the same, so that guidance means nothing; hiding the picture from one would show."""
    condition = stage.batch(seeded(), 10, 0.0).condition
    x, t = torch.randn(10, 4, 8, 8), torch.rand(10)
    fields = [stage._fields(replace(condition, prompt=[""] * 10), torch.full((10,), w))[0] for w in (1.0, 6.0)]
    torch.testing.assert_close(fields[0](x, t), fields[1](x, t), rtol=1e-3, atol=1e-3)


def test_guidance_of_the_teacher_covers_the_reference_and_the_student_is_trained_with_it(referring_folder):
    stage = build(referring_folder, "--mix.tasks={outpaint: 1, inpaint: 1}")
    batch = stage.batch(seeded(), 12, 0.0)
    condition = batch.condition
    assert 0 < condition.referenced.sum() < 12
    x, t = torch.randn(12, 4, 8, 8), torch.rand(12)
    fields = [stage._fields(replace(condition, prompt=[""] * 12), torch.full((12,), w))[0](x, t) for w in (1.0, 6.0)]
    apart = (fields[0] - fields[1]).abs().amax((1, 2, 3)) > 1e-3
    assert torch.equal(apart, condition.referenced), "without a prompt, the reference alone is what is guided"
    stage.loss(batch)[0].backward()
    grown = [p for n, p in stage.student.named_parameters() if "reference" in n]
    assert grown and all(p.grad is not None and p.grad.abs().sum() > 0 for p in grown)


def test_the_loss_trains_the_student_and_nothing_else(stage):
    loss, logs = stage.loss(stage.batch(seeded(), 10, 0.0))
    loss.backward()
    assert torch.isfinite(loss) and loss > 0 and set(logs) == {"inpaint", "expand", "outpaint", "erase", "upscale"}
    silent = [n for n, p in stage.student.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not silent
    assert stage.student.guidance_in.out_layer.weight.grad.abs().max() > 0
    frozen = (stage.module["target"], stage.teacher, stage.vae, stage.pipeline.text_encoder)
    assert all(p.grad is None and not p.requires_grad for part in frozen for p in part.parameters())


def test_a_task_with_one_right_answer_is_learnt_without_the_teacher(tiny_folder, monkeypatch):
    """The teacher has no head for it and is never asked; the others' targets are as they were."""
    stage = build(tiny_folder, "--mix.tasks={inpaint: 0.5, cutout: 0.5}")
    assert "cutout" not in EditTransformer.load_config(tiny_folder, subfolder="transformer")["tasks"]
    batch = stage.batch(seeded(), 10, 0.0)
    asked = []
    monkeypatch.setattr(
        consistency,
        "target",
        lambda x, times, *fields: asked.append(len(x)) or torch.zeros_like(x),
    )
    loss, logs = loss_of(stage, batch)
    assert asked == [batch.condition.task.count("inpaint")] and 0 < asked[0] < 10
    assert logs["cutout"] > 0
    loss.backward()
    head = stage.student.task_index("cutout")
    assert stage.student.task_in.grad[head].abs().sum() > 0


def test_the_fields_of_a_part_are_those_of_the_whole(stage):
    batch = stage.batch(seeded(), 10, 0.0)
    few = torch.tensor([1, 4, 7])
    x, t, scale = torch.randn(10, 4, 8, 8), torch.rand(10), torch.linspace(1, 6, 10)
    arguments = batch.condition, scale
    with torch.no_grad():
        for whole, part in zip(stage._fields(*arguments)[:2], stage._fields(*arguments, taught=few)[:2], strict=True):
            torch.testing.assert_close(part(x[few], t[few]), whole(x, t)[few], rtol=1e-4, atol=1e-4)


def test_the_loss_is_that_of_the_hole():
    """An error outside the hole counts a tenth of one inside, whatever their areas."""
    hole = torch.zeros(2, 1, 64, 64)
    hole[:, :, :16, :16] = 1
    inside = torch.zeros(2, 1, 8, 8)
    inside[:, :, :2, :2] = 1
    for error, expected in ((inside, 1.0), (1 - inside, 0.1)):
        made = flow.masked_mean(consistency.pseudo_huber(error, 0 * error, 1e-6), hole)
        torch.testing.assert_close(made, torch.full((2,), expected), rtol=1e-4, atol=1e-4)


def test_a_task_may_have_phases_of_its_own(tiny_folder, monkeypatch):
    stage = build(tiny_folder, "--distill.phases=2", "--distill.teacher_steps=2", "--distill.task_phases={upscale: 1}")
    assert stage.pipeline.config.default_steps == 2 and stage.pipeline.config.task_steps == {"upscale": 1}
    drawn, sample_times = [], consistency.sample_times
    monkeypatch.setattr(consistency, "sample_times", lambda *a: drawn.append(sample_times(*a)) or drawn[-1])
    batch = stage.batch(seeded(), 40, 0.0)
    stage.loss(batch)
    upscaled = torch.tensor([name == "upscale" for name in batch.condition.task])
    assert (drawn[0].end[upscaled] == 0).all() and set(drawn[0].end[~upscaled].tolist()) == {0, 0.5}


def test_the_last_jump_can_be_compared_with_the_photograph(tiny_folder, tmp_path):
    net = tmp_path / "squeezenet.safetensors"
    save_file(PerceptualNet().state_dict(), net)
    batch = build(tiny_folder).batch(seeded(), 10, 0.0)
    (plain, before), (with_term, logs) = (
        loss_of(build(tiny_folder, *options), batch)
        for options in ([], ["--distill.lpips=0.1", f"--distill.lpips_net={net}"])
    )
    assert "lpips" not in before and logs["lpips"] > 0 and not logs["lpips"].requires_grad
    torch.testing.assert_close(with_term, plain + logs["lpips"], rtol=1e-4, atol=1e-6)


def test_the_average_follows_once_an_update(stage):
    before = weights(stage.module["target"])
    with torch.no_grad():
        for weight in stage.student.parameters():
            weight += 1
    for _ in range(3):  # three micro-batches of one update
        stage.batch(seeded(), 5, 0.25)
    after = weights(stage.module["target"])
    assert all(torch.allclose(after[name], before[name] + 0.05, atol=1e-5) for name in before)
    stage.batch(seeded(), 5, 0.5)
    assert all(
        torch.allclose(w, before[n] + 1 - 0.95**2, atol=1e-5) for n, w in weights(stage.module["target"]).items()
    )


def test_a_few_steps_bring_the_student_to_its_teacher(stage):
    """On one batch, jumps come nearer to where the teacher's own steps lead."""
    optimizers = optim.build(stage.module, "adamw", 3e-3, 0.0, stage.blocks)
    losses = []
    for step in range(15):
        torch.manual_seed(step % 3)
        loss, _ = stage.loss(stage.batch(seeded(), 10, step / 15))
        loss.backward()
        optimizers.step(1.0)
        losses.append(float(loss.detach()))
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_a_lora_leaves_the_weights_alone(tiny_folder):
    stage = build(tiny_folder, "--distill.lora_rank=2")
    trained = [name for name, weight in stage.module.named_parameters() if weight.requires_grad]
    assert trained and all("lora_" in name and name.startswith("transformer.") for name in trained)
    loss, _ = stage.loss(stage.batch(seeded(), 10, 0.0))
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in stage.student.parameters())


# --------------------------------------------------------------------------------------------------------- the student


@pytest.fixture(scope="module")
def students(tiny_folder, tmp_path_factory):
    """Folders of students by their kind, trained for two steps from the command line."""
    folder = tmp_path_factory.mktemp("students")
    kinds = {"phased": ["--distill.phases=4"], "plain": ["--distill.phases=1"], "lora": ["--distill.lora_rank=2"]}
    for kind, options in kinds.items():
        run = ["train", "distill", "--run_dir", str(folder / kind), f"--start={tiny_folder}", *TINY, *options]
        assert cli.main([*run, "--train.lr=0.02"]) == 0
    return {kind: folder / kind / "model" for kind in kinds}


PHOTO = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
MASK = np.zeros((64, 64), np.uint8)
MASK[16:48, 16:48] = 255


def edit(pipe, **options):
    return np.asarray(pipe(PHOTO, MASK, "a red ball", generator=seeded(), **options).images[0])


@pytest.mark.parametrize("kind, steps", [("phased", 4), ("plain", 1), ("lora", 4)])
def test_a_student_says_what_it_is_and_edits(students, kind, steps):
    index = json.loads((students[kind] / "model_index.json").read_text())
    assert index["default_steps"] == index["distilled"]["phases"] == steps
    assert index["distilled"]["guidance"] == [1.5, 6.0] and index["distilled"]["teacher_steps"] == 2
    pipe = load_pipeline(InpaintPipeline, students[kind])
    assert isinstance(pipe.scheduler, FlowMatchLCMScheduler if steps == 1 else FlowMatchEulerDiscreteScheduler)
    seen = []
    pipe.transformer.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[0]))
    made = edit(pipe, guidance_scale=3.0)
    assert seen == [1] * steps, "as many calls as steps, none of them doubled"
    assert (made[MASK == 0] == PHOTO[MASK == 0]).all() and (made != PHOTO).any()
    assert (made == edit(pipe, guidance_scale=3.0)).all(), "the same seed, the same pixels"


def test_guidance_is_told_within_the_range_that_was_trained(students):
    pipe, told = load_pipeline(InpaintPipeline, students["phased"]), []
    pipe.transformer.guidance_in.register_forward_pre_hook(lambda module, args: told.append(args[0].item()))
    for scale in (1.0, 3.0, 50.0):
        edit(pipe, guidance_scale=scale, num_inference_steps=1)
    assert told == [1.5, 3.0, 6.0]


def test_phased_students_take_euler_steps_from_phase_to_phase(students):
    """By hand: four jumps of the network's own velocity."""
    pipe = load_pipeline(InpaintPipeline, students["phased"])
    condition = Condition(torch.zeros(1, 3, 64, 64), torch.ones(1, 1, 64, 64), ["inpaint"], ["a cup"], torch.zeros(1))
    states = []
    pipe.sample(condition, 4, 3.0, [seeded()], callback=lambda pipe, i, t, kept: states.append(kept["latents"]) or {})
    x = torch.randn(1, 4, 8, 8, generator=seeded())
    tokens, mask = pipe._encode_prompts(["a cup"])
    given = {"condition": fold_condition(condition, pipe.vae, "pixels"), "strength": condition.strength}
    given |= {"task": pipe.transformer.task_index("inpaint"), "guidance": torch.tensor([3.0])}
    with torch.no_grad():
        for k, state in zip((4, 3, 2, 1), states, strict=True):
            t = torch.tensor([k / 4])
            v = pipe.transformer(x, t, tokens, mask, **given).sample
            x = consistency.jump(x, v, t, t - 0.25)
            torch.testing.assert_close(state, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["phased", "plain", "lora"])
def test_the_teacher_is_one_argument_away(students, tiny_folder, kind):
    teacher, original = (
        load_pipeline(InpaintPipeline, students[kind], teacher=True),
        load_pipeline(InpaintPipeline, tiny_folder),
    )
    assert teacher.config.default_steps == 2 and teacher.config.distilled is None
    assert (edit(teacher, guidance_scale=3.0) == edit(original, guidance_scale=3.0)).all()
    assert (edit(load_pipeline(InpaintPipeline, students[kind]), num_inference_steps=2) != edit(teacher)).any()


def test_the_lora_makes_the_student_of_the_teacher(students):
    teacher = load_pipeline(InpaintPipeline, students["lora"], teacher=True)
    teacher.transformer.add_guidance()
    teacher.load_lora_weights(students["lora"] / "lora")
    distilled = {"phases": 4, "guidance": [1.5, 6.0], "teacher_steps": 20}
    pipe = InpaintPipeline.from_pipe(teacher, distilled=distilled, default_steps=4)
    pipe.set_progress_bar_config(disable=True)
    expected = edit(load_pipeline(InpaintPipeline, students["lora"]), guidance_scale=3.0).astype(int)
    assert np.abs(edit(pipe, guidance_scale=3.0) - expected).max() <= 1
    assert (students["lora"] / "lora" / "pytorch_lora_weights.safetensors").stat().st_size < 100_000


def test_a_student_survives_saving_and_other_tasks(students, tmp_path):
    pipe = OutpaintPipeline.from_pipe(load_pipeline(InpaintPipeline, students["plain"]))
    assert pipe.config.distilled["phases"] == 1 and isinstance(pipe.scheduler, FlowMatchLCMScheduler)
    pipe.save_pretrained(tmp_path / "again")
    again = load_pipeline(InpaintPipeline, tmp_path / "again")
    assert (edit(again) == edit(load_pipeline(InpaintPipeline, students["plain"]))).all()
    with pytest.raises(ValueError, match="no teacher to load, its folder holds no teacher/"):
        load_pipeline(InpaintPipeline, tmp_path / "again", teacher=True)


def test_training_starts_from_the_teacher_of_a_student(students, tiny_folder):
    stage = build(students["phased"])
    original = EditTransformer.from_pretrained(tiny_folder / "transformer")
    assert all(torch.equal(a, b) for a, b in zip(stage.teacher.parameters(), original.parameters(), strict=True))


def test_distillation_goes_on_from_an_earlier_student(students):
    first = EditTransformer.from_pretrained(students["phased"] / "transformer")
    stage = build(students["phased"], f"--distill.student={students['phased']}", "--mix.tasks={inpaint: 1, cutout: 1}")
    assert stage.student.config.tasks == [*first.config.tasks, "cutout"]
    for name, value in first.named_parameters():
        grown = dict(stage.student.named_parameters())[name]
        assert torch.equal(grown[tuple(slice(size) for size in value.shape)], value), name


def test_the_command_line_takes_the_teacher_too(students, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    made = []
    for name, options in (("student", []), ("teacher", ["--teacher"])):
        out = tmp_path / f"{name}.png"
        arguments = ["expand", str(tmp_path / "photo.png"), "--left", "8", "-o", str(out), "--quiet"]
        assert cli.main([*arguments, "--model", str(students["phased"]), *options]) == 0
        made.append(np.asarray(Image.open(out)))
    assert (made[0] != made[1]).any()


# ------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--distill.phases=0"], "distill.phases: 0"),
        (["--distill.task_phases={upscale: 60}"], "distill.task_phases.upscale: 60"),
        (["--distill.task_phases={upscale: 1}", "--distill.phases=1"], "one phase for all"),
        (["--distill.task_phases={fly: 1}"], "'fly' is not distilled"),
        (["--distill.lpips=0.1"], "distill.lpips_net"),
        (["--distill.guidance=[6, 2]"], "no range"),
        (["--distill.ema=1"], "less than 1"),
        (["--mix.tasks={fly: 1}"], "does not know 'fly'"),
        (["--start=nowhere"], "nowhere does not exist"),
        (["--distill.student=nowhere"], "distill.student: nowhere does not exist"),
        ([f"--distill.student={EMBEDDED}"], "is no student of this teacher"),
    ],
)
def test_mistakes_are_one_line(tiny_folder, tmp_path, capsys, arguments, words):
    run = ["train", "distill", "--run_dir", str(tmp_path / "run"), f"--start={tiny_folder}", *TINY, *arguments]
    assert cli.main(run) == 2
    assert words in capsys.readouterr().err


def test_only_a_student_has_a_teacher(tiny_folder):
    with pytest.raises(ValueError, match="no few-step student"):
        EditPipeline.from_pretrained(tiny_folder, teacher=True)


@pytest.mark.parametrize("path", sorted((Path(__file__).parent.parent / "training/configs").glob("distill-*.yaml")))
def test_the_recipes_are_valid(path):
    made = config.load(Config, path)
    assert made.distill.phases == (2 if "nano" in path.stem else 4)
    assert made.as_edits().model.start == made.teacher
