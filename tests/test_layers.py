"""The transformer's parts against plain formulas and against diffusers' PRX parts."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.transformers.transformer_prx import (
    PRXBlock,
    PRXEmbedND,
    apply_rope,
    get_image_ids,
    img2seq,
    seq2img,
)

from photofound.model.attention import HeadNorm, rope_table, rotate
from photofound.model.fused import fuses, geglu, in_place, modulated_norm
from photofound.model.layers import Block, OutputHeads, patchify, sinusoidal, unpatchify

CPU = torch.device("cpu")


def test_patchify_orders_values_as_prx_does_and_is_undone():
    image = torch.randn(2, 3, 8, 12)
    tokens = patchify(image, 4)
    assert torch.equal(tokens, img2seq(image, 4))
    assert torch.equal(unpatchify(tokens, 4, 8, 12), image)
    assert torch.equal(unpatchify(tokens, 4, 8, 12), seq2img(tokens, 4, (8, 12)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("axes_dim", [(8, 8), (4, 12)])
def test_rotation_is_prx_rotation_on_a_grid_that_is_not_square(axes_dim, dtype):
    x = torch.randn(2, 15, 3, 16, dtype=dtype)  # (B, T, N, d)
    table = PRXEmbedND(dim=16, theta=10000, axes_dim=list(axes_dim))(get_image_ids(2, 6, 10, 2, CPU))
    theirs = apply_rope(x.transpose(1, 2), table).transpose(1, 2)
    ours = rotate(x, rope_table(3, 5, axes_dim, 10000, CPU), dtype)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, atol=1e-6 if dtype == torch.float32 else 1e-2, rtol=0)


def test_scores_depend_on_relative_positions_only():
    q, k = torch.randn(2, 1, 1, 1, 16)
    table = rope_table(9, 9, (8, 8), 100.0, CPU).unflatten(0, (9, 9))

    def score(a, b):
        return (rotate(q, table[a][None], q.dtype) * rotate(k, table[b][None], k.dtype)).sum()

    torch.testing.assert_close(score((1, 2), (4, 3)), score((4, 7), (7, 8)))
    assert (score((1, 2), (4, 3)) - score((1, 2), (3, 4))).abs() > 1e-3


def test_rope_table_is_cached_per_grid():
    assert rope_table(3, 5, (8, 8), 10000, CPU) is rope_table(3, 5, [8, 8], 10000, CPU)
    assert not torch.equal(rope_table(3, 5, (8, 8), 10000, CPU), rope_table(5, 3, (8, 8), 10000, CPU))


def test_a_table_first_built_in_inference_mode_can_be_trained_with():
    with torch.inference_mode():
        table = rope_table(7, 11, (8, 8), 321.0, CPU)
    x = torch.randn(1, 77, 1, 16, requires_grad=True)
    rotate(x, table, x.dtype).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())  # a rotation keeps lengths


@pytest.mark.slow
def test_compiled_rotation_equals_the_eager_one():
    x, table = torch.randn(1, 6, 2, 16), rope_table(2, 3, (8, 8), 10000, CPU)
    compiled = torch.compile(rotate, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, table, x.dtype), rotate(x, table, x.dtype))


def test_head_norm_keeps_the_dtype_of_its_input():
    norm = HeadNorm(16)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(4, 16)
    expected = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)
    assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_modulated_norm():
    x, shift, scale = torch.randn(2, 5, 8), torch.randn(2, 1, 8), torch.randn(2, 1, 8)
    torch.testing.assert_close(modulated_norm(x, shift, scale), (1 + scale) * F.layer_norm(x, (8,), eps=1e-6) + shift)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
def test_eager_inference_on_a_cpu_gives_what_training_gives(dtype, within):
    """oneDNN's products with GELU inside, results in place, and a norm after the rotation instead of before."""
    block, rope = Block(32, 2, mlp_ratio=3.5).to(dtype), rope_table(2, 3, (8, 8), 10000, CPU)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, text, vector = (torch.randn(shape).to(dtype) for shape in ((2, 6, 32), (2, 4, 32), (2, 32)))
    before, trained = x.clone(), block(x, vector, text, rope)
    with torch.no_grad():
        assert fuses(x, block.gate_proj, block.up_proj) and in_place(x)
        inferred = block(x, vector, text, rope)
    assert not in_place(x) and torch.equal(x, before), "an input was written over"
    assert ((inferred - trained).abs().mean() / trained.std()).item() < within


@torch.no_grad()
def test_what_onednn_cannot_fuse_is_left_to_torch():
    x, gate, up = torch.randn(2, 5, 8), torch.nn.Linear(8, 12, bias=False), torch.nn.Linear(8, 12, bias=False)
    wrapped = torch.nn.Sequential(gate)  # as adapters are
    assert fuses(x, gate, up) and not fuses(x, wrapped, up) and not fuses(x.double(), gate, up)
    assert not fuses(x.bfloat16(), gate, up), "weights of another precision"
    with torch.autocast("cpu", torch.bfloat16):
        assert not fuses(x, gate, up)
    torch.testing.assert_close(geglu(x, gate, up), geglu(x, wrapped, up))
    assert geglu(x[:0], gate, up).shape == (0, 5, 12)


def test_sinusoids_are_those_of_diffusers():
    time = torch.tensor([0.0, 0.37, 1.0])
    theirs = get_timestep_embedding(time, 256, flip_sin_to_cos=True, downscale_freq_shift=0.0, scale=1000.0)
    assert torch.equal(sinusoidal(time, 256, 10000, 1000.0), theirs)


def test_block_has_prx_outputs_and_gradients():
    theirs, ours = PRXBlock(32, 2, mlp_ratio=3.5), Block(32, 2, mlp_ratio=3.5)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours.load_state_dict(theirs.state_dict())
    x, text, vector = torch.randn(2, 6, 32), torch.randn(2, 4, 32), torch.randn(2, 32)
    table = PRXEmbedND(dim=16, theta=10000, axes_dim=[8, 8])(get_image_ids(2, 2, 3, 1, CPU))
    expected = theirs(x, text, vector, table)
    got = ours(x, F.silu(vector), text, rope_table(2, 3, (8, 8), 10000, CPU))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)

    expected.square().sum().backward()
    got.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-3, rtol=1e-4, msg=name)


def test_heads_gather_equals_a_loop_over_samples():
    heads = OutputHeads(8, 6, tasks=3)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter)
    x, activated, task = torch.randn(5, 4, 8), torch.randn(5, 8), torch.tensor([2, 0, 1, 2, 0])
    mixed = heads(x, activated, task)
    for index, own in enumerate(task.tolist()):
        alone = heads(x[index : index + 1], activated[index : index + 1], own)
        torch.testing.assert_close(mixed[index : index + 1], alone)
    shared = heads(x, activated[:1], task)  # one time for the whole batch
    torch.testing.assert_close(shared, heads(x, activated[:1].expand(5, -1), task))


def test_every_head_has_a_gradient_even_in_a_batch_without_its_task():
    heads = OutputHeads(8, 6, tasks=3)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter)
    heads(torch.randn(2, 4, 8), torch.randn(2, 8), torch.tensor([1, 1])).sum().backward()
    for parameter in heads.parameters():
        assert parameter.grad is not None
        assert parameter.grad[1].abs().sum() > 0
        assert parameter.grad[[0, 2]].abs().sum() == 0


def test_fused_products_are_counted():
    from torch.utils.flop_counter import FlopCounterMode

    from photofound.model import cost  # noqa: F401  # knows oneDNN's products

    x, gate, up = torch.randn(2, 5, 8), torch.nn.Linear(8, 12, bias=False), torch.nn.Linear(8, 12, bias=False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert fuses(x, gate, up)
        geglu(x, gate, up)
    assert counter.get_total_flops() == 2 * 2 * (2 * 5) * 8 * 12
