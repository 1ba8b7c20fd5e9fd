"""Embeddings and latents made before training: what is packed is what comes out, and only the same networks fit."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from photofound.data import precomputed
from photofound.data.sources import Source
from photofound.model import text


def test_what_is_packed_comes_out_by_its_caption():
    rows = {"a cup: blue": torch.randn(3, 4), "": torch.randn(1, 4)}
    latents = torch.randn(2, 5, 6)
    embeddings, found = precomputed.unpack(precomputed.pack(rows, latents))
    assert embeddings.keys() == rows.keys() and all(v.dtype == torch.bfloat16 for v in embeddings.values())
    assert all(torch.equal(embeddings[name], value.bfloat16()) for name, value in rows.items())
    assert torch.equal(found, latents.half())
    assert precomputed.unpack(None) == ({}, None)
    assert precomputed.unpack(precomputed.pack({}))[1] is None
    with pytest.raises(ValueError, match="its .safetensors is damaged"):
        precomputed.unpack(b"no tensors at all")


def test_a_fingerprint_is_of_the_weights_not_of_how_they_are_kept():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(100, 90), nn.Linear(90, 3)).bfloat16()
    mark = precomputed.network_fingerprint(network)
    assert mark == precomputed.network_fingerprint(nn.ModuleDict({"a": network}).float()) and len(mark) == 16
    assert mark != precomputed.network_fingerprint(network, 0.13025)
    with torch.no_grad():
        network[0].weight.mul_(1.01)
    assert mark != precomputed.network_fingerprint(network)


@pytest.fixture
def shards(tmp_path):
    made = {"text": {"model": "a", "length": 64}, "latents": {"model": "b", "side": 64, "multiple": 16, "widest": 2.0}}
    (tmp_path / "index.json").write_text(json.dumps({"precomputed": made}))
    return tmp_path


def test_the_same_maker_is_accepted(shards):
    precomputed.check(Source(str(shards)), "text", {"model": "a", "length": 64})
    precomputed.check(Source(str(shards / "*.tar")), "latents", {"model": "b", "side": 64, "multiple": 16, "widest": 2})


@pytest.mark.parametrize(
    ("kind", "mine", "says"),
    [
        ("text", {"model": "x", "length": 64}, "text of .* were made by another text encoder"),
        ("text", {"model": "a", "length": 256}, "were made with length 64, not 256; run 'photofound train prepare'"),
        ("latents", {"model": "x"}, "latents of .* were made by another autoencoder"),
        ("latents", {"model": "b", "side": 128}, "were made with side 64, not 128"),
    ],
)
def test_another_maker_is_refused(shards, kind, mine, says):
    with pytest.raises(ValueError, match=says):
        precomputed.check(Source(str(shards)), kind, mine)


def test_shards_without_any_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="has no text by its index.json; run 'photofound train prepare' with text=true"
    ):
        precomputed.check(Source(str(tmp_path)), "text", {})


def test_rows_are_stacked_as_a_batch_is_encoded():
    tokenizer, encoder = text.build_byte_encoder(width=16, layers=1, heads=2, feed_forward=16)
    prompts = ["a cup", "", "a longer one"]
    with torch.no_grad():
        hidden, mask = text.encode(tokenizer, encoder, prompts)
        rows = [text.encode(tokenizer, encoder, [prompt])[0][0] for prompt in prompts]
    stacked, stacked_mask = text.stack(rows)
    assert torch.equal(mask, stacked_mask)
    assert torch.allclose(hidden[mask], stacked[stacked_mask], atol=1e-5)
    assert text.stack(rows, 20)[0].shape == (3, 20, 16) and text.stack(rows[:1])[1] is None
