"""Optimizers: who is updated by what, schedules, and a restored state that goes on as if nothing had happened."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from photofound import EditPipeline
from photofound.train import optim


class Net(nn.Module):
    """A stem and a head around one hidden block; the stem is a convolution, whose memory format matters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.block(self.stem(x).mean((2, 3))))


def step(net, optimizers, seed, scale=1.0):
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    net(x).square().mean().backward()
    optimizers.step(scale)


def build(net, name):
    return optim.build(net, name, lr=1e-2, weight_decay=0.1, blocks=[net.block])


@pytest.mark.parametrize("name", ["adamw", "muon", "schedulefree"])
def test_a_part_has_a_rate_of_its_own(name):
    """AdamW's first step is as long as its rate. Those of other parts are as ever, and so is the order of the state."""
    moved = []
    for rates in ({}, {"stem": 0.1}):
        torch.manual_seed(0)
        net = Net()
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        optimizers = optim.build(net, name, 1e-2, 0.0, [net.block], rates=rates)
        step(net, optimizers, 0)
        moved.append({name: (p.detach() - before[name]).abs().mean() for name, p in net.named_parameters()})
        step(net, optimizers, 1, scale=0.5)
    for part, plain in moved[0].items():
        assert moved[1][part] == pytest.approx(float(plain) * (0.1 if part.startswith("stem") else 1), rel=1e-3), part


def test_prodigy_has_one_rate():
    with pytest.raises(ValueError, match="prodigy finds one rate for all parts"):
        optim.build(Net(), "prodigy", 1.0, 0.0, rates={"stem": 0.1})


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_restored_state_gives_the_identical_next_step(name, memory_format):
    net = Net().to(memory_format=memory_format)
    optimizers = build(net, name)
    for seed in range(3):
        step(net, optimizers, seed)

    resumed = copy.deepcopy(net)
    restored = build(resumed, name)
    restored.load_state_tensors({key: value.clone() for key, value in optimizers.state_tensors().items()})
    for seed in (3, 4):
        step(net, optimizers, seed, scale=0.5)
        step(resumed, restored, seed, scale=0.5)
    for ours, theirs in zip(net.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_state_is_flat_tensors_as_safetensors_wants_them():
    net = Net()
    optimizers = build(net, "muon")
    step(net, optimizers, 0)
    for name, value in optimizers.state_tensors().items():
        assert isinstance(value, torch.Tensor) and value.is_contiguous(), name


def test_muon_gets_the_matrices_of_the_blocks_and_adamw_the_rest():
    net = Net()
    adamw, muon = build(net, "muon").optimizers
    assert isinstance(muon, torch.optim.Muon)
    held = {id(p) for group in muon.param_groups for p in group["params"]}
    assert held == {id(net.block[0].weight), id(net.block[2].weight)}
    rest = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert rest == {id(p) for p in net.parameters()} - held


def test_muon_steps_along_the_orthogonalised_gradient_at_adamws_size():
    """W <- (1 - lr wd) W - lr 0.2 sqrt(max(m, n)) U f(S) V^T, where G = U S V^T is the gradient (the first step's
    momentum) and f brings singular values near 1: Newton-Schulz, five steps (arXiv:2502.16982, eq. 1 and section 2.2).
    """
    net = Net()
    net.block = nn.Linear(24, 8, bias=False)
    optimizers = optim.build(net, "muon", lr=1e-2, weight_decay=0.1, blocks=[net.block])
    before, gradient = net.block.weight.detach().clone(), torch.randn(8, 24)
    net.block.weight.grad = gradient.clone()
    optimizers.step(1.0)
    update = ((1 - 1e-2 * 0.1) * before - net.block.weight.detach()) / (1e-2 * 0.2 * 24**0.5)

    quintic = torch.linalg.svdvals(gradient) / gradient.norm()
    for _ in range(5):
        quintic = 3.4445 * quintic - 4.7750 * quintic**3 + 2.0315 * quintic**5
    assert quintic.min() > 0.6 and quintic.max() < 1.3
    u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
    assert torch.allclose(update, u @ torch.diag(quintic) @ vh, atol=0.03)  # computed in bfloat16
    assert (update * 0.2 * 24**0.5).square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)  # AdamW's RMS


def test_adamw_takes_everything_and_spares_vectors_the_decay():
    net = Net()
    (adamw,) = build(net, "adamw").optimizers
    decay = {id(p): group["weight_decay"] for group in adamw.param_groups for p in group["params"]}
    assert len(decay) == len(list(net.parameters()))
    assert all(decay[id(p)] == (0.1 if p.ndim > 1 else 0.0) for p in net.parameters())


def test_only_what_multiplies_its_input_is_decayed(tiny):
    """Whatever its number of dimensions: the biases of stacked heads and the rows of embeddings are added."""
    pipeline = tiny(EditPipeline)
    net = nn.ModuleDict({"transformer": pipeline.transformer, "text": pipeline.text_encoder})
    (adamw,) = optim.build(net, "adamw", lr=1e-2, weight_decay=0.1).optimizers
    decay = {id(p): group["weight_decay"] for group in adamw.param_groups for p in group["params"]}
    decayed = {name for name, p in net.named_parameters() if decay[id(p)]}
    spared = {name for name, p in net.named_parameters() if p.ndim > 1} - decayed
    assert {name.removeprefix("transformer.") for name in spared if "text." not in name} == {
        "task_in", "heads.bias", "heads.modulation_bias"
    }  # fmt: skip
    assert {name.split(".")[-2] for name in spared if "text." in name} == {"shared", "relative_attention_bias"}
    assert {"transformer.heads.weight", "transformer.heads.modulation_weight", "transformer.txt_in.weight"} <= decayed
    assert all(p.ndim > 1 for name, p in net.named_parameters() if name in decayed)


def test_a_checkpoint_of_before_finds_its_weights(tiny):
    """Its state is in the order of the weights: those of two and more dimensions, then the others."""
    net = tiny(EditPipeline).transformer
    (adamw,) = optim.build(net, "adamw", lr=1e-2, weight_decay=0.1).optimizers
    found = [id(p) for group in adamw.param_groups for p in group["params"]]
    assert found == [id(p) for p in sorted(net.parameters(), key=lambda p: p.ndim <= 1)]


def test_filters_are_not_muons_in_shards():
    blocks = [Net().stem]
    with pytest.raises(ValueError, match="muon cannot train the filters of convolutions in shards; use adamw"):
        optim.build(blocks[0], "muon", lr=1e-2, weight_decay=0.1, blocks=blocks, sharded=True)


def test_frozen_weights_are_left_alone():
    net = Net()
    net.block.requires_grad_(False)
    with pytest.raises(
        ValueError, match="train.optimizer: muon is for matrices of repeated blocks, and none is trained"
    ):
        build(net, "muon")
    optimizers = build(net, "adamw")
    assert len(optimizers.optimizers) == 1
    before = net.block[0].weight.clone()
    step(net, optimizers, 0)
    assert torch.equal(before, net.block[0].weight)


def test_the_scale_multiplies_the_base_rate_and_does_not_add_up():
    net = Net()
    optimizers = build(net, "muon")
    for scale in (0.5, 0.5, 0.25):
        step(net, optimizers, 0, scale)
    assert all(g["lr"] == pytest.approx(1e-2 * 0.25) for o in optimizers.optimizers for g in o.param_groups)


def test_a_step_at_scale_zero_moves_nothing_and_clears_the_gradients():
    net = Net()
    before = copy.deepcopy(net.state_dict())
    optimizers = build(net, "muon")
    step(net, optimizers, 0, scale=0.0)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match="'sgd' is unknown; use adamw, adamw8bit, muon, prodigy, schedulefree"):
        build(Net(), "sgd")


@pytest.mark.parametrize("kind", ["constant", "cosine", "trapezoid"])
def test_every_schedule_rises_from_nothing_and_stays_within_one(kind):
    first = [optim.schedule(step, 0.0, 10, kind) for step in range(12)]
    assert first == sorted(first) and first[0] == pytest.approx(0.1) and first[-1] == 1.0
    assert all(0 <= optim.schedule(100, p / 20, 10, kind) <= 1 for p in range(21))


def test_what_the_schedules_do_at_their_ends():
    assert optim.schedule(100, 1.0, 10, "constant") == 1.0
    assert optim.schedule(100, 0.5, 10, "cosine") == pytest.approx(0.5)
    assert optim.schedule(100, 1.0, 10, "cosine") == pytest.approx(0.0)
    assert optim.schedule(100, 0.6, 10, "trapezoid") == 1.0
    assert optim.schedule(100, 0.8, 10, "trapezoid") == pytest.approx(0.5)
    assert optim.schedule(100, 1.2, 10, "trapezoid") == 0.0  # the clock may run over
    assert optim.schedule(0, 0.0, 0, "constant") == 1.0  # no warm-up


def test_an_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="'linear' is unknown; use constant, cosine or trapezoid"):
        optim.schedule(0, 0.0, 1, "linear")


def test_our_muon_is_torchs_bit_for_bit():
    """Whatever the processes share; here one does all of it."""
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape)) for shape in ((8, 24), (24, 8), (8, 8))]
    twins = [nn.Parameter(weight.detach().clone()) for weight in weights]
    options = {"lr": 1e-2, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    ours, theirs = optim.Muon(weights, **options), torch.optim.Muon(twins, **options)
    ours.found_inf = torch.zeros(())
    for _ in range(3):
        for weight, twin in zip(weights, twins, strict=True):
            weight.grad = torch.randn_like(weight)
            twin.grad = weight.grad.clone()
        ours.step()
        theirs.step()
    assert all(torch.equal(weight, twin) for weight, twin in zip(weights, twins, strict=True))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_bad_batch_changes_neither_weights_nor_moments(name):
    net = Net()
    optimizers = build(net, name)
    step(net, optimizers, 0)
    before = (
        [p.detach().clone() for p in net.parameters()],
        {k: v.clone() for k, v in optimizers.state_tensors().items()},
    )
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    optimizers.step(1.0, torch.tensor(True))
    assert all(torch.equal(a, b) for a, b in zip(before[0], net.parameters(), strict=True))
    assert all(torch.equal(value, before[1][key]) for key, value in optimizers.state_tensors().items())
    assert all(parameter.grad is None for parameter in net.parameters())
