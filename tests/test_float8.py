"""Training in eight bits: refused where it cannot be, and which layers it takes."""

import pytest
import torch

from photofound.model.layers import Block
from photofound.train import float8


def test_a_cpu_is_refused_in_one_line():
    with pytest.raises(ValueError, match="^train.fp8: cpu has no products of eight bits here; set it to false"):
        float8.convert([], torch.device("cpu"))


def test_an_older_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(ValueError, match="since Ada or Hopper"):
        float8.convert([], torch.device("cuda"))


def test_the_blocks_products_are_converted_and_keep_their_weights(monkeypatch):
    from torchao.float8.float8_linear import Float8Linear

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    block = Block(32, 2, mlp_ratio=3.5)
    before = {name: value.clone() for name, value in block.state_dict().items()}
    assert float8.convert([block], torch.device("cuda")) == 6
    assert isinstance(block.gate_proj, Float8Linear) and isinstance(block.attention.img_qkv_proj, Float8Linear)
    assert not isinstance(block.modulation.lin, Float8Linear)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
