"""The plan of a distillation against the FLOP of its loss, forward and back."""

import pytest
import torch

from photofound import cli, config
from photofound.model.cost import FlopCounter
from photofound.train.distributed import World
from photofound.train.plan_distilled import plan_distilled
from photofound.training.distill import Config, DistillStage

pytestmark = pytest.mark.slow

ONE_SIZE = ["--data.drawn=12", "--data.sizes=[72]", "--data.crop=64", "--data.late_from=1", "--text_length=8",
            "--train.precision=fp32", "--train.device=cpu", "--train.batch_size=8", "--distill.phases=1"]  # fmt: skip


def measured(settings, progress):
    """FLOP of a sample."""
    stage = DistillStage(settings, World())
    batch = stage.batch(torch.Generator().manual_seed(0), 8, progress)
    with FlopCounter() as counter:
        stage.loss(batch)[0].backward()
    return counter.get_total_flops() / 8


CASES = {
    "a LoRA": ["--mix.tasks={inpaint: 1}", "--distill.lora_rank=4"],
    "half of them with one right answer": ["--mix.tasks={inpaint: 1, cutout: 1}"],
    "a critic on latents": [
        "--mix.tasks={inpaint: 1}",
        "--distill.adversarial=0.5",
        "--distill.adversarial_on=latents",
    ],
    "a critic on pixels": ["--mix.tasks={inpaint: 1}", "--distill.adversarial=0.5", "--distill.lpips_net=NET"],
    "a perceptual distance": ["--mix.tasks={inpaint: 1}", "--distill.lpips=0.5", "--distill.lpips_net=NET"],
}


@pytest.mark.parametrize("case", CASES)
def test_a_plan_counts_what_a_step_computes(case, tiny_folder, networks):
    words = [word.replace("NET", str(networks / "squeezenet.safetensors")) for word in CASES[case]]
    settings = config.load(Config, None, [f"--start={tiny_folder}", *ONE_SIZE, *words])
    phases = plan_distilled(settings)
    assert len(phases) == 1 + ("critic" in case)
    for phase, progress in zip(phases, (0.0, 0.99), strict=False):
        assert phase.work == pytest.approx(measured(settings, progress), rel=0.05)
        assert ("critic" in phase.counted) == ("critic" in case) and {"teacher", "average"} <= set(phase.counted)
        assert phase.need(1).peak > 0


def test_the_critic_and_the_teacher_take_memory(tiny_folder):
    plain, judged = (
        plan_distilled(config.load(Config, None, [f"--start={tiny_folder}", *ONE_SIZE, *words]))[-1].need(1)
        for words in ([], CASES["a critic on latents"])
    )
    assert judged.weights > plain.weights and judged.step > plain.step
    assert plain.frozen >= 2 * plain.weights, "teacher and average beside the student"


def test_cost_prices_a_distillation(tiny_folder, tmp_path, capsys):
    path = tmp_path / "distill.yaml"
    path.write_text("distill: {adversarial: 0.5, adversarial_on: latents}\ntrain: {steps: 1000, batch_size: 64}")
    assert cli.main(["cost", str(path), f"--start={tiny_folder}", "--gpu", "H100"]) == 0
    printed = capsys.readouterr().out
    assert "distill.yaml, photofound train distill" in printed
    assert "teacher" in printed and "average" in printed and "critic" in printed and "per GPU and hour" in printed
    path.write_text("distill: {phases: 2}\nstart: owner/elsewhere\ntrain: {minutes: 60}")
    assert cli.main(["cost", str(path), "--gpu", "H100"]) == 0 and "by train.minutes" in capsys.readouterr().out
