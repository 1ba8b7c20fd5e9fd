"""Blocks that are skipped where little has changed since the last step."""

import pytest
import torch
from diffusers import FasterCacheConfig, FirstBlockCacheConfig
from torch import nn

from photofound.model.cache import FirstBlockCache
from photofound.model.transformer import EditTransformer


def model(dtype=torch.float32) -> EditTransformer:
    made = EditTransformer(
        in_channels=4, context_in_dim=24, hidden_size=32, num_heads=2, depth=4, tasks=("generate", "erase")
    )
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.15)
    return made.eval().to(dtype)


def steps(x: torch.Tensor, moves: torch.Tensor) -> list[torch.Tensor]:
    """Latents (B, 4, 8, 12) in six steps; sample i is moved anywhere by ``moves[i]`` in each."""
    here = [x]
    for _ in range(5):
        here.append(here[-1] + moves[:, None, None, None] * torch.randn(x.shape))
    return here


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_sample_decides_for_itself_bit_for_bit(dtype):
    """One stands still, one creeps, one leaps: in company each gives what it gives alone."""
    network, moves = model(dtype), torch.tensor([0.0, 0.08, 2.0])
    x, text = torch.randn(3, 4, 8, 12), torch.randn(3, 7, 24).to(dtype)
    mask = torch.arange(7) < torch.tensor([[7], [3], [5]])
    text_kv = torch.cat([network.encode_text(row) for row in text.split(1)])  # one by one, as the sampler does it

    path = steps(x, moves)

    def run(samples: slice) -> tuple[list[torch.Tensor], int]:
        cache, made = FirstBlockCache(0.1), []
        for x_t in path:
            time = torch.full((1,), 0.5)
            given = {"attention_mask": mask[samples], "text_kv": text_kv[samples], "cache": cache}
            made.append(network(x_t[samples].to(dtype), time, task=1, **given).sample)
        return made, cache.skipped

    together, skipped = run(slice(None))
    alone = [run(slice(i, i + 1)) for i in range(3)]
    assert [count for _, count in alone][::2] == [5, 0] and 0 < alone[1][1] < 5
    assert skipped == sum(count for _, count in alone)
    for i, (made, _) in enumerate(alone):
        assert all(torch.equal(a[i : i + 1], b) for a, b in zip(together, made, strict=True))


@torch.no_grad()
def test_what_is_skipped_is_what_the_other_blocks_did_before():
    network, x, text = model(), torch.randn(1, 4, 8, 8), torch.randn(1, 5, 24)
    plain = [network(each, torch.ones(1), text).sample for each in (x, x + 1e-3)]
    cache, runs = FirstBlockCache(0.1), []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda module, _: runs.append(module))
    made = [network(each, torch.ones(1), text, cache=cache).sample for each in (x, x + 1e-3)]
    assert runs == [*network.blocks, network.blocks[0]] and cache.skipped == 1
    assert torch.equal(made[0], plain[0]), "the first step is computed as ever"
    assert 0 < (made[1] - plain[1]).abs().max() < 0.05 * plain[1].abs().max()


@torch.no_grad()
def test_a_threshold_of_zero_computes_every_step():
    network, text, cache = model(), torch.randn(1, 5, 24), FirstBlockCache(0.0)
    for x in steps(torch.randn(1, 4, 8, 8), torch.tensor([1e-4])):
        plain = network(x, torch.ones(1), text).sample
        assert torch.equal(network(x, torch.ones(1), text, cache=cache).sample, plain)
    assert cache.skipped == 0


def test_diffusers_words_switch_it_on_and_off():
    network = model()
    assert network.new_cache() is None and not network.is_cache_enabled
    network.enable_cache(FirstBlockCacheConfig(threshold=0.2))
    assert network.is_cache_enabled and network.new_cache().threshold == 0.2
    assert network.new_cache() is not network.new_cache(), "one for each sampling"
    network.disable_cache()
    assert network.new_cache() is None
    with pytest.raises(ValueError, match="cache: FasterCacheConfig is not supported; pass a FirstBlockCacheConfig"):
        network.enable_cache(FasterCacheConfig())


@pytest.mark.parametrize("bad", [-0.1, 1.5, float("nan"), "0.1", True, None])
def test_bad_thresholds_are_refused(bad):
    with pytest.raises(ValueError, match="cache: .* must be a number from 0 to 1"):
        FirstBlockCache(bad)
