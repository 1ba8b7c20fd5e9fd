"""Activation checkpointing gives the same gradients, whatever is kept, and runs a block's products once or twice."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from photofound.model.transformer import EditTransformer
from photofound.train.recompute import checkpointed


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = EditTransformer(
        in_channels=4, patch_size=1, context_in_dim=8, hidden_size=32, num_heads=2, depth=3, condition_channels=4
    )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # zeros would hide a missing gradient
    return made


def gradients(model, precision):
    generator = torch.Generator().manual_seed(1)
    latents, condition = (torch.randn(2, 4, 4, 4, generator=generator) for _ in range(2))
    text, times = torch.randn(2, 5, 8, generator=generator), torch.rand(2, generator=generator)
    model.zero_grad()
    with FlopCounterMode(display=False) as counter:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(latents, times, text, condition=condition).sample.float().square().mean()
        loss.backward()
    return loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, counter.get_total_flops()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_the_same(model, precision):
    model.disable_gradient_checkpointing()
    loss, plain, flops = gradients(model, precision)
    spent = {}
    for keep, every in (("inputs", 1), ("products", 1), ("inputs", 2)):
        model.enable_gradient_checkpointing(checkpointed(model.blocks, keep, every))
        again, found, spent[keep, every] = gradients(model, precision)
        assert torch.equal(loss, again) and found.keys() == plain.keys()
        assert all(torch.equal(found[name], plain[name]) for name in plain)
    model.disable_gradient_checkpointing()
    assert spent["products", 1] == flops < spent["inputs", 2] < spent["inputs", 1]
