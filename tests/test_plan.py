"""The plan of a run: costs by the configuration alone."""

import pytest
import torch
from stages import CONFIGS, overrides

from photofound import config
from photofound.train.distributed import World
from photofound.train.plan import plan
from photofound.training.pretrain import Config, PretrainStage

pytestmark = pytest.mark.slow


def test_the_plan_counts_the_reference(tiny_folder):
    small = config.load(Config, None, [f"--model.start={tiny_folder}", "--data.crop=64", "--data.late_crop=64"])
    larger = config.load(Config, None, [f"--model.start={tiny_folder}", "--data.crop=64",
                                                      "--data.late_crop=64", "--model.reference=true"])  # fmt: skip
    assert plan(larger)[0].flops > plan(small)[0].flops and plan(larger)[0].parameters > plan(small)[0].parameters


def test_a_plan_counts_what_stands_beside_the_transformer(tiny_folder, shards, networks):
    def planned(*more, of=plan):
        return of(config.load(Config, None, overrides(tiny_folder, shards, *more)))[0]

    plain = planned("--model.train_text=false")
    assert {"transformer", "autoencoder", "text encoder", "adamw"} == set(plain.counted) and not plain.missing
    assert planned().work > plain.work > 3 * plain.flops and planned().need(1).peak > plain.need(1).peak
    assert planned("--train.checkpoint_activations=true").work - planned().work == plain.flops
    muon = planned("--model.train_text=false", "--train.optimizer=muon")
    assert muon.update > 0 and muon.need(1).moments < plain.need(1).moments and plain.update == 0
    repa = ["--recipe.repa=0.5", "--recipe.repa_teacher"]
    assert planned(*repa[:1], f"{repa[1]}={networks / 'dino'}").work > planned().work
    assert planned(*repa[:1], f"{repa[1]}=owner/elsewhere").missing == ("REPA's teacher",)
    lpips = ["--recipe.lpips=0.1", f"--recipe.lpips_net={networks / 'squeezenet.safetensors'}"]
    assert set(planned(*lpips).counted) >= {"LPIPS", "decoder"}


def test_a_plan_of_a_lora_counts_what_is_frozen(tiny_folder, shards):
    from photofound.train.adapt import plan_adapted
    from photofound.training import finetune

    def planned(*more):
        arguments = overrides(tiny_folder, shards, *more)
        return plan_adapted(config.load(finetune.Config, None, arguments))[0]

    lora, full = planned("--model.lora.rank=4"), planned("--model.train=full")
    assert "LoRA" in lora.counted and "LoRA" not in full.counted
    need = lora.need(1)
    assert lora.work < full.work and need.moments < 0.1 * full.need(1).moments
    assert planned("--model.lora.rank=16").work > lora.work
    dora = planned("--model.lora.rank=4", "--model.lora.dora=true")
    assert dora.update > lora.update == 0 and dora.need(1).step > need.step
    free = planned("--model.lora.rank=4", "--train.optimizer=schedulefree", "--train.schedule=constant").need(1)
    assert free.moments == need.moments and need.average and not free.average


def test_a_late_phase_has_its_share_and_its_batch():
    settings = config.load(Config, CONFIGS / "1b-latent-1024.yaml")
    early, late = plan(settings)
    assert (early.share, early.batch) == (0.7, 1.0)
    assert (late.share, late.batch) == (pytest.approx(0.3), 0.25)


# Parameters in millions, and per picture size: tokens and TFLOP of a forward pass. The trunk alone is 1.17 billion;
# five more heads, the edit inputs and, on pixels, patches of 3,072 values come on top.
PLANS = {
    "nano-cpu": (7.0, {64: 0.000635, 144: 0.0014}),
    "nano-gpu": (17.8, {64: 0.00164, 256: 0.00652}),
    "1b-latent-512": (1208, {256: 0.45, 1024: 1.73}),
    "1b-latent-1024": (1208, {1024: 1.73, 4096: 5.08}),
    "1b-pixel-1024": (1248, {256: 0.46, 1024: 1.16}),
    "1b-from-prx": (1208, {1024: 1.73}),
}


def test_every_configuration_has_its_plan_here():
    assert {path.stem for path in CONFIGS.glob("1b-*.yaml")} == {name for name in PLANS if name.startswith("1b-")}


@pytest.mark.parametrize("name", PLANS)
def test_a_configuration_is_instantiated_without_memory(name):
    costs = plan(config.load(Config, CONFIGS / f"{name}.yaml", ["--model.latent=[16, 8]"]))
    millions, phases = PLANS[name]
    assert {cost.tokens: cost.flops / 1e12 for cost in costs} == pytest.approx(phases, rel=0.02)
    assert all(cost.parameters / 1e6 == pytest.approx(millions, rel=0.005) for cost in costs)


@pytest.mark.parametrize(
    ("overrides", "tokens", "tflop"),
    [
        (["--recipe.tread=0"], 4096, 8.2),
        (["--recipe.tread=0", "--model.latent=[32, 32]", "--model.patch_size=1"], 1024, 1.75),
    ],
)
def test_a_billion_parameters_cost_what_was_designed(overrides, tokens, tflop):
    """8.2 TFLOP at 4,096 tokens with 256 of text, 1.75 at 1,024, for a trunk of 1.17 billion."""
    from photofound.model.cost import forward_cost
    from photofound.model.transformer import EditTransformer

    settings = config.load(Config, CONFIGS / "1b-latent-1024.yaml", overrides)
    late = plan(settings)[-1]
    assert late.tokens == tokens and late.flops / 1e12 == pytest.approx(tflop, rel=0.02)
    with torch.device("meta"):
        trunk = EditTransformer(hidden_size=1792, depth=16, num_heads=28, mlp_ratio=3.5, context_in_dim=2304)
    assert forward_cost(trunk, 128, 128).parameters / 1e9 == pytest.approx(1.17, abs=0.005)


def test_a_start_folder_is_planned_by_its_own_configuration(tiny_folder, shards):
    settings = config.load(Config, None, overrides(tiny_folder, shards, "--mix.tasks={inpaint: 1.0, erase: 1.0}"))
    (cost,) = plan(settings)
    model = PretrainStage(settings, World()).pipeline.transformer
    assert cost.tokens == 16 and cost.parameters == sum(p.numel() for p in model.parameters())
    with pytest.raises(ValueError, match="model.latent: elsewhere/vae is not here"):
        plan(config.load(Config, None, ["--model.vae=elsewhere/vae"]))
