"""Weights of eight bits: which layers, how well, and what is refused."""

import sys

import pytest
import torch
from torch import nn

from photofound.model.quantize import KINDS, is_quantized, quantize
from photofound.model.transformer import EditTransformer

torchao = pytest.importorskip("torchao")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.norm, self.narrow = nn.Linear(128, 96), nn.Linear(128, 128), nn.Linear(96, 8)
        self.proj_out = nn.Linear(96, 96)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "error"), [("int8", 0.01), ("fp8", 0.04)])
def test_large_layers_are_rounded_row_by_row(kind, error):
    net = Net()
    net.wide.weight[0] *= 1e-3  # a row of small weights has a scale of its own
    whole = net.wide.weight.clone()
    assert quantize(net, kind) == 1 and is_quantized(net)
    assert type(net.norm.weight) is type(net.narrow.weight) is type(net.proj_out.weight) is nn.Parameter
    x = torch.randn(5, 128)
    for row in (0, 50):
        exact, made = x @ whole[row], (net.wide(x) - net.wide.bias)[:, row]
        assert 0 < (made - exact).norm() / exact.norm() < error
    batch = torch.randn(3, 16, 128)
    assert all(torch.equal(net.wide(batch)[i : i + 1], net.wide(batch[i : i + 1])) for i in range(3)), "as alone"
    stored = sum(getattr(net.wide.weight, name).nbytes for name in net.wide.weight.__tensor_flatten__()[0])
    assert stored < 0.3 * whole.nbytes


def test_of_our_transformer_the_blocks_alone():
    network = EditTransformer(
        in_channels=16, context_in_dim=64, hidden_size=64, num_heads=2, depth=2, condition_channels=33,
        guidance_embeds=True, reference_embeds=True, resolution_embeds=True,
    )  # fmt: skip
    quantize(network, "int8")
    rounded = {name for name, each in network.named_parameters() if type(each).__module__.startswith("torchao")}
    assert rounded and all(name.startswith("blocks.") for name in rounded)
    layers = {name for name, each in network.blocks.named_modules(prefix="blocks") if isinstance(each, nn.Linear)}
    assert rounded == {f"{name}.weight" for name in layers}


def test_what_cannot_be_is_refused(monkeypatch):
    net = Net()
    with pytest.raises(ValueError, match="quantize: 'int4' is unknown; use fp8 or int8"):
        quantize(net, "int4")
    quantize(net, KINDS[0])
    with pytest.raises(ValueError, match="the weights have eight bits already"):
        quantize(net, KINDS[1])
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match=r"quantize needs torchao: pip install 'photofound\[quantize\]'"):
        quantize(Net(), "int8")
