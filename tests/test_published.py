"""Published recipes by their equations: iREPA, LADD, SPRINT, REPA-E."""

import numpy as np
import pytest
import tiny_parts
import torch
import torch.nn.functional as F
from helpers import load_pipeline
from stages import SMALL, loss_of, new_stage, overrides

from photofound import config
from photofound.model import autoencoder, flow
from photofound.model.transformer import EditTransformer
from photofound.pipeline import EditPipeline
from photofound.train import end_to_end, losses
from photofound.train.distributed import World
from photofound.train.mix import take
from photofound.train.plan import plan
from photofound.train.recipe import Recipe
from photofound.train.settings import RecipeConfig
from photofound.train.trainer import Trainer
from photofound.training import distill, finetune, pretrain

# ------------------------------------------------------------------------------------------------------------- iREPA


def test_irepas_convolution_is_over_the_grid_of_tokens():
    projector, x = losses.SpatialProjector(8, 5), torch.randn(2, 6, 8)
    picture = x.reshape(2, 2, 3, 8).permute(0, 3, 1, 2)
    by_hand = (
        F.conv2d(picture, projector.conv.weight, projector.conv.bias, padding=1).permute(0, 2, 3, 1).reshape(2, 6, 5)
    )
    torch.testing.assert_close(projector(x, (2, 3)), by_hand)


def test_irepas_target_has_no_mean_and_unit_deviation_over_a_picture():
    target = torch.randn(2, 50, 4) * torch.tensor([1, 5, 9, 2]) + 100  # what all patches share outweighs the rest
    made = losses.spatially_normalized(target)
    torch.testing.assert_close(made.mean(1), torch.zeros(2, 4), atol=1e-4, rtol=0)
    torch.testing.assert_close(made.std(1), torch.ones(2, 4), atol=1e-3, rtol=0)
    assert losses.alignment_loss(target, target.roll(1, 1)).max() < -0.99  # unlike patches look alike before
    assert losses.alignment_loss(made, made.roll(1, 1)).min() > -0.5


def test_irepa_in_a_stage(tiny_folder, shards, networks):
    spatial = [f"--recipe.repa_teacher={networks / 'dino'}", "--recipe.repa=0.5", "--recipe.repa_spatial=true"]
    stage = new_stage(tiny_folder, shards, *spatial)
    assert isinstance(stage.module["projector"], losses.SpatialProjector)
    pixels, x0, features = torch.rand(2, 3, 64, 64), torch.zeros(2, 4, 8, 8), torch.randn(2, 16, 32)
    target = losses.spatially_normalized(stage.recipe.teacher.patches(pixels, (4, 4)))
    wanted = losses.alignment_loss(stage.recipe.projector(features, (4, 4)), target).mean()
    torch.testing.assert_close(stage.recipe.alignment(features, pixels, x0, None), wanted)
    loss, logs = loss_of(stage, stage.batch(torch.Generator().manual_seed(0), 14, 0.0))
    loss.backward()
    assert "repa" in logs and stage.module["projector"].conv.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="recipe.repa_spatial: block 3 sees only the tokens of the route"):
        new_stage(tiny_folder, shards, *spatial, "--recipe.tread=0.5", "--recipe.repa_block=3", "--model.depth=8")
    with pytest.raises(ValueError, match="recipe.repa_spatial: is a kind of REPA; set recipe.repa"):
        RecipeConfig(repa_spatial=True)


# -------------------------------------------------------------------------------------------------------------- LADD

LADD = ["--distill.adversarial=0.5", "--distill.adversarial_on=latents", "--distill.adversarial_from=0"]


def student(tiny_folder, shards, *more):
    arguments = [a.replace("model.start", "start") for a in overrides(tiny_folder, shards, *LADD, *more)]
    small = ["--train.batch_size=4", "--train.device=cpu", "--train.trackers=[]", "--mix.tasks={inpaint: 1}"]
    torch.manual_seed(0)
    return distill.DistillStage(config.load(distill.Config, None, [*arguments, *small]), World())


def test_ladd_shows_the_critic_the_teachers_tokens_at_the_same_noise(tiny_folder, shards, monkeypatch):
    stage = student(tiny_folder, shards, "--distill.phases=1", "--distill.teacher_steps=2")
    batch = stage.batch(torch.Generator().manual_seed(0), 4, 0.5)
    x0, chosen, asked = stage.clean_latents(batch.sample), torch.tensor([0, 2]), []
    predict = stage.predict
    monkeypatch.setattr(stage, "predict", lambda *given: asked.append(given) or predict(*given))
    made = x0.clone().requires_grad_()
    real, fake, (grid, times) = stage._seen_by_teacher(made, batch, batch.condition.hole, chosen)
    assert grid == (4, 4) and len(real) == len(fake) == stage.teacher.config.depth
    torch.testing.assert_close(real, fake, atol=1e-4, rtol=1e-3)  # a perfect student cannot be told apart
    (x_t, t, condition, route, every, model, _), (other, *_) = asked
    assert model is stage.teacher and route is None and every == (0, 1)
    torch.testing.assert_close(x_t, other, atol=1e-4, rtol=1e-3)
    noise = (x_t - (1 - t[:, None, None, None]) * x0[chosen]) / t[:, None, None, None]
    torch.testing.assert_close(flow.add_noise(x0[chosen], noise, t), x_t)
    assert condition.task == take(batch.condition, chosen).task and torch.equal(times, t)
    sum(tap.sum() for tap in fake).backward()
    assert made.grad[chosen].abs().sum() > 0 and not made.grad[[1, 3]].any()
    assert not any(p.requires_grad for p in stage.teacher.parameters())


def test_ladds_times_are_mostly_late():
    """logit(t) ~ N(1, 1), as the paper chose it."""
    torch.manual_seed(0)

    class Stage:
        device = torch.device("cpu")
        teacher = type("Model", (), {"config": type("Config", (), {"depth": 1, "patch_size": 1})})
        clean_latents = staticmethod(lambda sample: torch.zeros(4000, 1, 1, 1))
        noise_like = staticmethod(lambda x, generator: torch.zeros_like(x))
        predict = staticmethod(lambda *given: (None, None, (given[0],)))

    class Given:
        embeddings = None

        def __getitem__(self, rows):
            return self

    batch = type("Batch", (), {"sample": Given(), "condition": None})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distill, "take", lambda condition, rows: condition)
        *_, (_, times) = distill.DistillStage._seen_by_teacher(
            Stage(), torch.zeros(4000, 1, 1, 1), batch, None, torch.arange(4000)
        )
    logits = times.logit()
    assert float(logits.mean()) == pytest.approx(1, abs=0.06) and float(logits.std()) == pytest.approx(1, abs=0.05)


def test_ladds_critic_knows_the_time_and_has_a_head_for_each_block():
    torch.manual_seed(0)
    critic = losses.TokenCritic(8, 3, width=4)
    taps = [torch.randn(2, 6, 8) for _ in range(3)]
    logits = critic(taps, (2, 3), torch.tensor([0.2, 0.9]))
    assert [tuple(each.shape) for each in logits] == [(2, 1, 2, 3)] * 3
    others = critic([taps[0], 2 * taps[1], taps[2]], (2, 3), torch.tensor([0.2, 0.5]))
    assert torch.equal(others[0][0], logits[0][0]) and not torch.equal(others[0][1], logits[0][1])
    torch.testing.assert_close(others[1][0], logits[1][0], atol=1e-4, rtol=1e-3)  # directions, not lengths
    fake = [torch.randn(2, 6, 8, requires_grad=True) for _ in range(3)]
    given = (2, 3), torch.tensor([0.2, 0.9])
    for_generator, for_critic = losses.feature_adversarial_losses(critic, taps, fake, None, given)
    on_real, on_fake = critic(taps, *given), critic(fake, *given)
    hinge = [F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(on_real, on_fake, strict=True)]
    torch.testing.assert_close(for_critic, torch.stack(hinge).mean())
    torch.testing.assert_close(for_generator, -torch.stack([f.mean() for f in on_fake]).mean())
    for_generator.backward(retain_graph=True)
    assert all(tap.grad is not None for tap in fake) and all(p.grad is None for p in critic.parameters())
    assert losses.gradient_penalty(critic, taps, given) > 0


@pytest.mark.slow
def test_a_student_of_ladd_trains_and_resumes_exactly(tiny_folder, shards, tmp_path):
    def run(name, steps, resume=None):
        stage = student(tiny_folder, shards, f"--train.steps={steps}", "--distill.phases=1",
                        "--train.schedule=constant", "--distill.keep_teacher=false")  # fmt: skip
        stage.sheet = lambda: np.zeros((8, 8, 3), np.uint8)
        made = Trainer(stage.config.train, stage, tmp_path / name, resume)
        assert made.run()
        return {key: value.clone() for key, value in stage.module.state_dict().items()}

    begin = {key: value.clone() for key, value in student(tiny_folder, shards).module.state_dict().items()}
    whole = run("whole", 2)
    run("again", 1)
    again = run("again", 2, "latest")
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    moved = {key.split(".")[0] for key in whole if not torch.equal(whole[key], begin[key])}
    assert moved >= {"transformer", "critic"}


def test_ladd_needs_no_network_and_pixels_do():
    distill.DistillConfig(adversarial=0.5, adversarial_on="latents")
    with pytest.raises(ValueError, match="distill.lpips_net: distill.adversarial needs a network"):
        distill.DistillConfig(adversarial=0.5)
    with pytest.raises(ValueError, match="distill.adversarial_on: 'dino' is unknown; use pixels or latents"):
        distill.DistillConfig(adversarial_on="dino")


# ------------------------------------------------------------------------------------------------------------ SPRINT


SHAPE = {"in_channels": 4, "patch_size": 1, "context_in_dim": 8, "hidden_size": 32, "num_heads": 2, "depth": 6}


def fusing(**more):
    torch.manual_seed(0)
    model = EditTransformer(**SHAPE | more)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@torch.no_grad()
def test_sprint_fuses_the_sparse_path_with_the_dense_one():
    """h = W [f; pad(g)]: f are all tokens before the inner blocks, g those of the route after them, masks elsewhere."""
    model = fusing(token_fusion=True)
    assert model.route_span == range(2, 4)
    x, t, text = torch.randn(2, 4, 4, 4), torch.tensor([0.3, 0.8]), torch.randn(2, 3, 8)
    route = losses.sample_route(2, 16, 0.75, torch.Generator().manual_seed(0))
    assert route.shape == (2, 4)
    seen = {}
    for index in (1, 2, 3, 4):
        model.blocks[index].register_forward_hook(
            lambda _, given, out, index=index: seen.update({index: (given[0], out)})
        )
    model(x, t, text, route=route)
    shallow, deep = seen[1][1], seen[3][1]
    assert seen[2][0].shape == deep.shape == (2, 4, 32)  # a quarter of the tokens is what the inner blocks compute
    torch.testing.assert_close(seen[2][0], shallow.gather(1, route[..., None].expand(-1, -1, 32)))
    padded = model.fusion.mask.expand(2, 16, 32).clone()
    for sample in range(2):
        padded[sample, route[sample]] = deep[sample]
    torch.testing.assert_close(seen[4][0], torch.cat([shallow, padded], -1) @ model.fusion.proj.weight.T)
    model(x, t, text)  # all tokens: no mask
    torch.testing.assert_close(seen[4][0], torch.cat([seen[1][1], seen[3][1]], -1) @ model.fusion.proj.weight.T)


@torch.no_grad()
def test_a_new_fusion_loses_no_token():
    """The blocks of a new model are identities: with all tokens it changes nothing, and what is left out is halved."""
    model = EditTransformer(**SHAPE, token_fusion=True).eval()
    x, t, text = torch.randn(2, 4, 4, 4), torch.tensor([0.3, 0.8]), torch.randn(2, 3, 8)
    route = losses.sample_route(2, 16, 0.75, torch.Generator().manual_seed(0))
    seen = []
    model.blocks[1].register_forward_hook(lambda _, given, out: seen.append(out))
    model.blocks[4].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for chosen in (None, route):
        model(x, t, text, route=chosen)
        shallow, fused = seen[-2:]
        share = torch.full((2, 16), 1.0 if chosen is None else 0.5)
        share.scatter_(1, route, 1.0)
        torch.testing.assert_close(fused, shallow * share[..., None])


@torch.no_grad()
def test_a_fusion_that_is_added_changes_nothing_and_is_saved(tmp_path):
    model = fusing()
    given = torch.randn(2, 4, 4, 4), torch.tensor([0.3, 0.8]), torch.randn(2, 3, 8)
    before = model(*given).sample
    model.add_fusion()
    torch.testing.assert_close(model(*given).sample, before, atol=1e-5, rtol=1e-5)
    model.fusion.proj.weight += 0.1
    model.save_pretrained(tmp_path)
    loaded = EditTransformer.from_pretrained(tmp_path)
    assert torch.equal(loaded(*given).sample, model(*given).sample)
    with pytest.raises(ValueError, match="model.fusion: needs a depth of at least 5, and this is 4"):
        fusing(depth=4).add_fusion()


SPRINT = ["--recipe.sprint=0.75", "--model.fusion=true", "--recipe.sprint_until=0.5"]


@pytest.mark.slow
def test_sprint_in_a_stage_ends_with_all_tokens(tiny_folder, shards, monkeypatch):
    stage = new_stage(tiny_folder, shards, *SPRINT)
    routes = []
    predict = stage.predict
    monkeypatch.setattr(stage, "predict", lambda *given, **more: routes.append(given[3]) or predict(*given, **more))
    batch = stage.batch(torch.Generator().manual_seed(0), 14, 0.0)
    loss_of(stage, batch)[0].backward()
    assert routes[0].shape == (14, 4) and stage.pipeline.transformer.fusion.mask.grad is not None
    loss_of(stage, batch._replace(progress=0.5))
    assert routes[1] is None
    sparse, dense = stage.work(0.0), stage.work(0.5)
    assert sparse[0] == dense[0] and sparse[1] < dense[1]
    early, late = plan(stage.config)
    assert (early.share, late.share) == (0.5, 0.5) and 3 * early.flops < early.work < late.work
    assert early.flops == pytest.approx(sparse[1] / 3) and early.need(1).step < late.need(1).step


@pytest.mark.slow
def test_a_run_of_sprint_resumes_exactly(tiny_folder, shards, tmp_path):
    def run(name, steps, resume=None):
        stage = new_stage(tiny_folder, shards, *SPRINT, f"--train.steps={steps}", "--train.batch_size=4",
                          "--train.device=cpu", "--train.trackers=[]", "--train.schedule=constant")  # fmt: skip
        stage.sheet = lambda: np.zeros((8, 8, 3), np.uint8)
        assert Trainer(stage.config.train, stage, tmp_path / name, resume).run()
        return {key: value.clone() for key, value in stage.module.state_dict().items()}

    whole = run("whole", 4)
    killed = Trainer.launch
    with pytest.MonkeyPatch.context() as patch:  # a run of four updates that is stopped after two of them
        patch.setattr(
            Trainer, "launch", lambda self, at: (setattr(self, "stopping", self.step == 1), killed(self, at))[1]
        )
        stage = new_stage(tiny_folder, shards, *SPRINT, "--train.steps=4", "--train.batch_size=4",
                          "--train.device=cpu", "--train.trackers=[]", "--train.schedule=constant")  # fmt: skip
        assert not Trainer(stage.config.train, stage, tmp_path / "again").run()
    again = run("again", 4, "latest")
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_sprint_keeps_a_grid_and_drops_the_path_of_some_samples(tiny_folder, shards, monkeypatch):
    stage = new_stage(tiny_folder, shards, *SPRINT, "--recipe.sprint_drop=0.5")
    for parameter in stage.pipeline.transformer.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # at 0 nothing would flow back
    seen, predict = {}, stage.predict
    monkeypatch.setattr(
        stage, "predict", lambda *given, **more: (seen.update(more, route=given[3]), predict(*given, **more))[1]
    )
    batch = stage.batch(torch.Generator().manual_seed(0), 14, 0.0)
    loss_of(stage, batch)[0].backward()
    assert seen["path_drop"].shape == (14,) and 0 < int(seen["path_drop"].sum()) < 14
    groups = [
        {(int(i) // 4 + y) // 2 * 4 + (int(i) % 4 + x) // 2 for i in row}
        for row in seen["route"]
        for y in (0, 1)
        for x in (0, 1)
    ]
    assert sum(len(each) == 4 for each in groups) >= 14, "one of each neighbourhood"
    loss_of(stage, batch._replace(progress=0.6))
    assert seen["route"] is None and isinstance(seen["path_drop"], torch.Tensor), "guidance is learnt to the end"
    plain = new_stage(tiny_folder, shards, *SPRINT, "--recipe.sprint_drop=0", "--recipe.sprint_grid=false")
    assert plain.recipe.path_drop(4, torch.Generator()) is False


def test_sprint_refuses_what_makes_no_sense(tiny_folder, shards):
    with pytest.raises(ValueError, match="recipe.sprint: leaves out tokens as recipe.tread does; choose one"):
        RecipeConfig(sprint=0.75, tread=0.5)
    with pytest.raises(ValueError, match="must be shares from 0 to 1"):
        RecipeConfig(sprint=1.5)
    with pytest.raises(ValueError, match="set model.fusion=true"):
        new_stage(tiny_folder, shards, "--recipe.sprint=0.75")
    stage = new_stage(tiny_folder, shards, "--model.fusion=true")
    stage.pipeline.transformer.requires_grad_(False)
    with pytest.raises(ValueError, match="recipe.sprint: is for trainings of all weights; set model.train=full"):
        Recipe(RecipeConfig(sprint=0.75), stage.pipeline.transformer, stage.vae, stage.device)


# ------------------------------------------------------------------------------------------------------------ REPA-E


@pytest.fixture
def repa_e(networks):
    return [f"--recipe.repa_teacher={networks / 'dino'}", "--recipe.repa=0.5", "--recipe.repa_e=1.5"]


def gradients(stage, batch):
    stage.module.zero_grad(set_to_none=True)
    loss, logs = loss_of(stage, batch)
    loss.backward()
    return {name: p.grad for name, p in stage.module.named_parameters()}, logs


def test_repa_es_gradients_are_those_of_its_equation(tiny_folder, shards, repa_e, monkeypatch):
    """The autoencoder hears of the alignment and of its own pictures, never of flow matching; the transformer and the
    projector learn what they would learn without it."""
    stage = new_stage(tiny_folder, shards, *repa_e)
    for parameter in stage.pipeline.transformer.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # at 0 nothing would flow back
    for block in stage.pipeline.transformer.blocks:
        torch.nn.init.normal_(block.modulation.lin.weight, std=0.1)
    batch = stage.batch(torch.Generator().manual_seed(0), 6, 0.0)
    whole, logs = gradients(stage, batch)
    assert {"repa", "repa_e", "vae_l1", "vae_norm"} <= logs.keys()
    assert float(logs["repa_e"]) == pytest.approx(3 * float(logs["repa"]), rel=1e-3)  # the same alignment, 1.5 to 0.5
    monkeypatch.setattr(pretrain, "autoencoder_terms", lambda *given: {})
    plain, _ = gradients(stage, batch)
    for name, gradient in whole.items():
        if not name.startswith("vae."):
            torch.testing.assert_close(gradient, plain[name], msg=name)
    vae = [name for name in whole if name.startswith("vae.")]
    assert all(plain[name] is None for name in vae)  # flow matching and the ordinary REPA leave it alone
    assert all(whole[name] is not None for name in vae)
    assert all(p.requires_grad for p in stage.module.parameters())
    monkeypatch.undo()
    later, logs = gradients(stage, batch._replace(progress=0.5))
    assert "repa_e" not in logs and all(later[name] is None for name in vae)  # it ends with the alignment


@pytest.mark.slow
def test_a_run_of_repa_e_resumes_exactly_and_exports_its_autoencoder(tiny_folder, shards, repa_e, tmp_path):
    def run(name, steps, resume=None):
        stage = new_stage(tiny_folder, shards, *repa_e, f"--train.steps={steps}", "--train.batch_size=4",
                          "--train.device=cpu", "--train.trackers=[]", "--train.schedule=constant", "--train.ema=0",
                          "--recipe.repa_until=1")  # fmt: skip
        stage.sheet = lambda: np.zeros((8, 8, 3), np.uint8)
        assert Trainer(stage.config.train, stage, tmp_path / name, resume).run()
        return {key: value.clone() for key, value in stage.module.state_dict().items()}

    whole = run("whole", 2)
    run("again", 1)
    again = run("again", 2, "latest")
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    exported = load_pipeline(EditPipeline, tmp_path / "whole" / "model").vae.state_dict()
    start = load_pipeline(EditPipeline, tiny_folder).vae.state_dict()
    assert all(torch.equal(exported[key], whole[f"vae.{key}"]) for key in exported)
    assert any(not torch.equal(exported[key], start[key]) for key in exported)


@pytest.fixture(scope="module")
def variational(tmp_path_factory):
    """The folder of an autoencoder whose latents have a distribution, with a factor of eight."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("variational")
    tiny_parts.vae((8, 8, 8, 8)).save_pretrained(folder)
    return f"--model.vae={folder}"


def test_repa_es_divergence_and_critic_reach_the_autoencoder_alone(tiny_folder, shards, repa_e, variational):
    more = ["--recipe.repa_e_kl=1e-6", "--recipe.repa_e_adversarial=0.1", variational]
    stage = new_stage(tiny_folder, shards, *repa_e, *more)
    batch = stage.batch(torch.Generator().manual_seed(0), 6, 0.0)
    found, logs = gradients(stage, batch)
    with torch.no_grad():
        distribution = stage.vae.encode(batch.sample.pixels).latent_dist
    mean, var = distribution.mean, distribution.var
    kl = 0.5 * (mean.square() + var - 1 - var.log()).sum((1, 2, 3)).mean()
    assert float(logs["vae_kl"]) == pytest.approx(1e-6 * float(kl), rel=1e-3)
    assert {"vae_generator", "vae_critic"} <= logs.keys() and "critic" in stage.module
    assert found["vae.quant_conv.weight"][4:].abs().sum() > 0, "the variance is trained, too"
    assert all(found[name].abs().sum() > 0 for name in found if name.startswith("critic.") and name.endswith("weight"))
    assert stage.rates == {"vae": 0.1, "critic": 0.1} and new_stage(tiny_folder, shards).rates == {}


def test_repa_e_keeps_the_autoencoder_an_autoencoder(repa_e):
    """The embedded one, five updates: pictures come back as before with its own terms, and worse by the alignment
    alone, which wants other latents."""

    def error(only_aligned):
        words = [*SMALL, *repa_e, "--model.depth=2", "--data.drawn=4", "--data.sizes=[72]", "--data.crop=64",
                 "--data.late_from=1", "--train.precision=fp32", "--train.device=cpu"]  # fmt: skip
        stage = pretrain.PretrainStage(config.load(pretrain.Config, None, words), World())
        for block in stage.pipeline.transformer.blocks:
            torch.nn.init.normal_(block.modulation.lin.weight, std=0.3)  # at 0 nothing would flow back
        optimizer = torch.optim.AdamW(stage.vae.parameters(), 3e-5, weight_decay=0)
        batch = stage.batch(torch.Generator().manual_seed(0), 2, 0.0)
        pixels, noise = batch.sample.pixels, torch.randn(2, 16, 8, 8)
        given = stage, batch, batch.condition, noise, torch.full((2,), 0.5), None, stage.recipe.block

        @torch.no_grad()
        def apart():
            return float((autoencoder.decode(stage.vae, autoencoder.encode(stage.vae, pixels)) - pixels).abs().mean())

        before = apart()
        for _ in range(5):
            optimizer.zero_grad()
            terms = end_to_end.autoencoder_terms(*given)
            (terms["repa_e"] if only_aligned else sum(terms.values())).backward()
            optimizer.step()
        return apart() / before

    assert error(only_aligned=False) < 1.03 < 1.1 < error(only_aligned=True)


@pytest.mark.slow
def test_repa_e_is_planned(tiny_folder, shards, repa_e):
    arguments = overrides(tiny_folder, shards, *repa_e[:2])
    repa, both = (plan(config.load(pretrain.Config, None, [*arguments, *more]))[0] for more in ([], repa_e[2:]))
    more, less = both.need(1), repa.need(1)
    assert both.work > repa.work and more.step > less.step
    assert more.moments > less.moments and more.frozen < less.frozen


def test_repa_e_refuses_what_makes_no_sense(tiny_folder, shards, repa_e):
    with pytest.raises(ValueError, match="recipe.repa_e: is a kind of REPA; set recipe.repa"):
        RecipeConfig(repa_e=1.5)
    with pytest.raises(ValueError, match="recipe.repa_e_kl: is a part of REPA-E; set recipe.repa_e, too"):
        RecipeConfig(repa_e_kl=1e-6)
    with pytest.raises(ValueError, match="recipe.repa_e_kl: AutoencoderDC has no distribution of latents"):
        new_stage(tiny_folder, shards, *repa_e, "--recipe.repa_e_kl=1e-6")
    with pytest.raises(ValueError, match="recipe.repa_e: changes the latents that data.precomputed has"):
        new_stage(tiny_folder, shards, *repa_e, "--data.sources=[{path: x}]", "--data.precomputed=[latents]")
    with pytest.raises(ValueError, match="goes with neither train.checkpoint_activations nor shards"):
        new_stage(tiny_folder, shards, *repa_e, "--train.checkpoint_activations=true")
    with pytest.raises(ValueError, match="recipe.repa_e: there is no autoencoder to train"):
        new_stage(tiny_folder, shards, *repa_e, "--model.vae=none")
    tuned = config.load(finetune.Config, None, overrides(tiny_folder, shards, *repa_e))
    with pytest.raises(ValueError, match="recipe.repa_e: trains the autoencoder and all weights; set model.train=full"):
        finetune.FinetuneStage(tuned, World())
