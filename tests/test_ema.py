"""The moving average: what it holds, and that borrowing the module gives it back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from photofound.train.ema import EMA


def net():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    module[1].bias.requires_grad_(False)
    return module


def set_weights(module, value):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


def test_the_average_follows_the_formula():
    module = net()
    set_weights(module, 0.0)
    ema = EMA(module, decay=0.5)
    expected = 0.0
    for n in range(1, 30):
        set_weights(module, float(n))
        ema.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    assert torch.allclose(ema.average["0.weight"], torch.full((3, 3), expected))


def test_only_what_is_trained_is_averaged_in_float32():
    ema = EMA(net().to(torch.bfloat16), 0.9)
    assert set(ema.average) == {"0.weight", "0.bias", "1.weight"}
    assert all(value.dtype == torch.float32 for value in ema.average.values())


def test_the_average_is_a_copy():
    module = net()
    ema = EMA(module, 0.9)
    before = ema.average["0.weight"].clone()
    set_weights(module, 7.0)
    assert torch.equal(ema.average["0.weight"], before)


def test_applied_lends_the_average_and_gives_the_weights_back():
    module = net()
    ema = EMA(module, 0.9)
    average = ema.average["0.weight"].clone()
    set_weights(module, 7.0)
    with ema.applied():
        assert torch.equal(module[0].weight, average)
    assert torch.equal(module[0].weight, torch.full((3, 3), 7.0))


def test_applied_gives_the_weights_back_after_an_error():
    module = net()
    ema = EMA(module, 0.9)
    set_weights(module, 7.0)
    with pytest.raises(RuntimeError, match="sampling failed"), ema.applied():
        raise RuntimeError("sampling failed")
    assert torch.equal(module[0].weight, torch.full((3, 3), 7.0))


def test_applied_keeps_the_dtype_of_the_module():
    module = net().to(torch.bfloat16)
    with EMA(module, 0.9).applied():
        assert module[0].weight.dtype == torch.bfloat16


def test_tied_weights_are_averaged_once():
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    ema = EMA(module, 0.9)
    assert list(ema.average) == ["0.weight"]
    with ema.applied():
        assert module[1].weight is module[0].weight
