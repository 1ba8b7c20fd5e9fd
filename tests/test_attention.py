"""Attention without a mask where texts are padded, against the masked form."""

import pytest
import torch

from photofound.model import attention
from photofound.model.attention import Attention, key_mask, packed_attention, packs, rope_table


class Uninitialised(torch.autograd.Function):
    """Leaves NaN as the gradient of the rows from ``used`` on."""

    @staticmethod
    def forward(ctx, x, used):
        ctx.used = used
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone()
        gradient[ctx.used :] = torch.nan
        return gradient, None


@pytest.fixture
def packing(monkeypatch):
    """torch's Flash attention of samples in a row, which has no kernel for CPUs."""

    def kernel(q, k, v, starts, ends, *most):
        k, v = (Uninitialised.apply(x, int(ends[-1])) for x in (k, v))
        rows = []
        for a, b, c, d in zip(starts[:-1], starts[1:], ends[:-1], ends[1:], strict=True):
            own = (t.transpose(0, 1) for t in (q[a:b], k[c:d], v[c:d]))
            rows.append(torch.nn.functional.scaled_dot_product_attention(*own).transpose(0, 1))
        assert starts.dtype == ends.dtype == torch.int32 and most == (starts.diff().max(), len(k) // (len(starts) - 1))
        return torch.cat(rows)

    monkeypatch.setattr(attention, "varlen_attn", kernel)
    monkeypatch.setattr(attention, "packs", lambda x: True)


LENGTHS = torch.tensor([[5], [1], [0], [7]])


def test_packed_samples_see_what_a_mask_shows_them(packing):
    q, k, v = torch.randn(4, 6, 2, 8), torch.randn(4, 13, 2, 8), torch.randn(4, 13, 2, 8)
    mask = key_mask(torch.arange(7) < LENGTHS, 6)
    heads = (x.transpose(1, 2) for x in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(packed_attention(q, k, v, mask[:, 0, 0]), expected, atol=1e-6, rtol=1e-6)


def test_packing_has_the_gradients_of_the_mask(packing, monkeypatch):
    """None of a text's padding, whatever the kernel leaves there."""
    layer, x, text = Attention(16, 2), torch.randn(4, 6, 16), torch.randn(4, 7, 16, requires_grad=True)
    mask, rope = key_mask(torch.arange(7) < LENGTHS, 6), rope_table(2, 3, (4, 4), 100.0, x.device)
    found = []
    for packed in (True, False):
        monkeypatch.setattr(attention, "packs", lambda x, packed=packed: packed)
        out = layer(x, layer.encode_text(text), rope, mask)
        found.append((out.detach(), *torch.autograd.grad(out.square().sum(), [text, *layer.parameters()])))
    for packed, masked in zip(*found, strict=True):
        torch.testing.assert_close(packed, masked, atol=1e-5, rtol=1e-5)
    assert not found[0][1][1, 1:].any() and not found[0][1][2].any()


def test_without_padding_nothing_is_packed(packing, monkeypatch):
    monkeypatch.setattr(attention, "varlen_attn", None)
    layer, x = Attention(16, 2), torch.randn(1, 6, 16)
    layer(x, layer.encode_text(x), rope_table(2, 3, (4, 4), 100.0, x.device), None)


def test_a_cpu_keeps_the_mask():
    assert not packs(torch.zeros(1, dtype=torch.bfloat16)) and not packs(torch.zeros(1))


@torch.no_grad()
@pytest.mark.parametrize(("lengths", "kept"), [((2, 5, 4), 5), ((5, 5, 5), 5), ((0, 0, 0), 1), ((7, 1, 3), 7)])
def test_padding_that_nobody_sees_is_left_out(lengths, kept):
    text = torch.randn(3, 7, 4)
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    short, seen = attention.without_padding(text, mask)
    assert torch.equal(short, text[:, :kept])
    if len(set(lengths)) == 1 and lengths[0]:
        assert seen is None, "a mask that hides nothing keeps fast kernels away"
    else:
        assert torch.equal(seen, mask[:, :kept])
