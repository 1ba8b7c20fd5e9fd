"""The transformer's attention: rotary positions, normed queries and keys, padded text, references.

The maths is that of PRX (Photoroom, Apache-2.0), with its parameter names. Image tokens are the queries; keys and
values are text tokens followed by image tokens.

Legend: B batch, T image tokens, L text tokens, S reference tokens, D hidden size, N heads, d = D / N head size.
"""

from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake
from torch.nn.attention.varlen import varlen_attn

from photofound.model.fused import NORM_EPS, in_place

# ------------------------------------------------------------------------------------------------- rotary positions


def rope_table(rows: int, columns: int, axes_dim: tuple[int, ...], theta: float, device: torch.device) -> Tensor:
    """Cosines and sines of the rotary embedding on a grid (RoFormer, arXiv:2104.09864, eq. 15, once per axis).

    Channel pair i of an axis with n channels turns by position * theta^(-2i/n). The first `axes_dim[0]` channels of a
    head carry the row, the next `axes_dim[1]` the column. Returns float32 (rows * columns, 1, d / 2, 2), the middle
    axis being there to broadcast over heads; angles are computed in float64, as PRX does, where the device has it.

    The table is cached per grid and device. Treat it as read-only.
    """
    # Under a tracer the cache would hand out (or worse, keep) tensors that belong to one trace only.
    build = _rope_table if torch.compiler.is_compiling() else _cached_rope_table
    return build(rows, columns, tuple(axes_dim), theta, torch.device(device))


def _rope_table(rows: int, columns: int, axes_dim: tuple[int, ...], theta: float, device: torch.device) -> Tensor:
    narrow = device.type in ("mps", "npu", "neuron") or torch.compiler.is_exporting()  # as TensorRT is
    dtype = torch.float32 if narrow else torch.float64
    positions = (
        torch.arange(rows, device=device, dtype=dtype)[:, None].expand(rows, columns).flatten(),
        torch.arange(columns, device=device, dtype=dtype)[None].expand(rows, columns).flatten(),
    )
    per_axis = [
        position[:, None] / theta ** (torch.arange(0, n, 2, device=device, dtype=dtype) / n)
        for position, n in zip(positions, axes_dim, strict=True)
    ]
    angles = torch.cat(per_axis, dim=-1)[:, None]  # (T, 1, d / 2)
    return torch.stack((angles.cos(), angles.sin()), dim=-1).float()


@lru_cache(maxsize=32)  # 32 grids: aspect buckets of a training run, at 4,096 tokens and d = 64 one MiB each
def _cached_rope_table(
    rows: int, columns: int, axes_dim: tuple[int, ...], theta: float, device: torch.device
) -> Tensor:
    # A tensor born in inference mode can never enter a graph, and the cache outlives the mode.
    with torch.inference_mode(False), torch.no_grad():
        return _rope_table(rows, columns, axes_dim, theta, device)


def rotate(x: Tensor, rope: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn neighbouring channel pairs of x (B, T, N, d) by the angles of `rope` (T, 1, d / 2, 2); result in `dtype`.

    Where samples hold different tokens (`take_tokens`), each has its own table: rope (B, T, 1, d / 2, 2).
    Computed in float32: at bfloat16's 8 bits the far corners of a large grid would blur into each other.
    """
    pairs = x.float().unflatten(-1, (-1, 2))  # (B, T, N, d / 2, 2)
    if torch.compiler.is_compiling():
        # Compilers and exporters know no complex numbers, but fuse these four products by themselves.
        (a, b), (cos, sin) = pairs.unbind(-1), rope.unbind(-1)
        turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)
    else:
        # Eagerly, a complex product is one pass over memory where the real form takes six.
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rope))
    return turned.flatten(-2).to(dtype)


class HeadNorm(nn.RMSNorm):
    """RMSNorm over the head size (arXiv:1910.07467), with which queries and keys are bounded."""

    def __init__(self, head_dim: int):
        super().__init__(head_dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        # Under autocast x is bfloat16 and the weight float32, a mix for which torch has no fused kernel: cast the d
        # weights, not the activations. The kernel itself accumulates in float32.
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)

    def rotated(self, x: Tensor, rope: Tensor, dtype: torch.dtype) -> Tensor:
        """`rotate` of the normed x (B, T, N, d)."""
        if not in_place(x):
            return rotate(self(x), rope, dtype)
        # The same in one buffer: turning does not change lengths, so the norm may come last. A quarter to a half of the
        # time of the two apart.
        scaled = x.float() * self.weight.float()
        torch.view_as_complex(scaled.unflatten(-1, (-1, 2))).mul_(torch.view_as_complex(rope))
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = length.square_().mul_(1 / x.shape[-1]).add_(self.eps).rsqrt_()
        return scaled.mul_(scale).to(dtype)


# ----------------------------------------------------------------------------------------------------- padded text


def key_mask(attention_mask: Tensor, image_tokens: int) -> Tensor:
    """(B, L) -> (B, 1, 1, L + T): padding is hidden from every query, image tokens never are."""
    return F.pad(attention_mask.bool(), (0, image_tokens), value=True)[:, None, None]


def without_padding(text: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Text (B, L, D) and its mask (B, L) up to the last token that any sample sees; None for a mask that hides nothing
    of it. Only in eager code on a CPU that wants no gradient: elsewhere the number of tokens would have to be waited
    for, or be traced, a plan of a run has shapes only, and a training step is to round as where it is compiled."""
    if attention_mask is None or not in_place(text) or is_fake(attention_mask):
        return text, attention_mask
    seen = attention_mask.bool()
    length = max(1, int((seen.any(0) * torch.arange(1, seen.shape[1] + 1)).max()))
    seen = seen[:, :length]
    return text[:, :length], None if bool(seen.all()) else seen


def packed_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Attention without a mask, of samples that have keys in different numbers.

    Args:
        q: (B, T, N, d); k and v (B, K, N, d).
        seen: (B, K) bool, which keys a sample may see.

    Returns:
        (B, T, N, d).

    A mask would keep Flash attention away. Instead all keys stand in one row, those of a sample side by side, and those
    that nobody may see behind the last one's. Nothing waits for the device: how many there are is known there alone.
    """
    batch, tokens, keys = *q.shape[:2], k.shape[1]
    order = (~seen.flatten()).argsort(stable=True)
    ends = F.pad(seen.sum(1).cumsum(0), (1, 0))  # (B + 1,)
    used = (torch.arange(batch * keys, device=k.device) < ends[-1])[:, None, None]

    def packed(x: Tensor) -> Tensor:
        row = x.flatten(0, 1).index_select(0, order)
        # The kernel leaves the gradients of keys beyond the last sample's as it finds them.
        return torch.where(used, row, 0) if row.requires_grad else row

    starts = torch.arange(0, (batch + 1) * tokens, tokens, device=q.device, dtype=torch.int32)
    row = q.flatten(0, 1), packed(k), packed(v)
    return cast(Tensor, varlen_attn(*row, starts, ends.int(), tokens, keys)).unflatten(0, (batch, tokens))


def packs(x: Tensor) -> bool:
    """Whether Flash attention takes samples in a row: 16 bits on an NVIDIA GPU since Ampere."""
    half = x.dtype in (torch.bfloat16, torch.float16)
    return half and x.is_cuda and torch.version.hip is None and torch.cuda.get_device_capability(x.device) >= (8, 0)


# ------------------------------------------------------------------------------------------------------- attention


class ReferenceAttention(nn.Module):
    """Image tokens attend to the tokens of a reference picture, apart from text and image (IP-Adapter's decoupled
    attention, arXiv:2308.06721, eq. 5): the block's own queries, without positions, since a surface has no place."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.kv_proj = nn.Linear(dim, 2 * dim, bias=False)
        self.norm_k = HeadNorm(dim // heads)
        self.out_proj = nn.Linear(dim, dim, bias=False)  # starts at zero, and is the gate

    def encode(self, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values: (B, S, D) -> two of (B, S, N, d)."""
        k, v = self.kv_proj(reference).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return self.norm_k(k).to(v.dtype), v

    def forward(self, q: Tensor, kv: tuple[Tensor, Tensor], referenced: Tensor | None) -> Tensor:
        """q (B, T, N, d); kv from `encode`, of batch B or 1; referenced (B,) or (1,) bool, None = all; or (R,) long,
        the samples that R keys and values belong to -> (B, T, D), exactly zero for samples without a reference."""
        batch, few = q.shape[0], referenced is not None and referenced.dtype == torch.long
        q = q[referenced] if few else q
        k, v = (t.expand(q.shape[0], -1, -1, -1).transpose(1, 2) for t in kv)  # (B, N, S, d)
        out = F.scaled_dot_product_attention(q.transpose(1, 2).to(v.dtype), k, v)  # (B, N, T, d)
        out = self.out_proj(out.transpose(1, 2).flatten(2))  # (B, T, D)
        if referenced is None:
            return out
        if few:
            return out.new_zeros(batch, *out.shape[1:]).index_copy(0, referenced, out)
        return out.masked_fill(~referenced[:, None, None], 0.0)


class Attention(nn.Module):
    """Image tokens attend to text and image tokens, with RMS-normed queries and keys and rotary image positions; with
    `reference`, also to those of a reference picture."""

    reference: ReferenceAttention | None

    def __init__(self, dim: int, heads: int, reference: bool = False):
        super().__init__()
        self.heads = heads
        head_dim = dim // heads
        self.img_qkv_proj = nn.Linear(dim, 3 * dim, bias=False)
        self.txt_kv_proj = nn.Linear(dim, 2 * dim, bias=False)
        self.norm_q = HeadNorm(head_dim)
        self.norm_k = HeadNorm(head_dim)
        self.norm_added_k = HeadNorm(head_dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim, bias=False)])  # a list only for PRX's parameter name
        self.reference = ReferenceAttention(dim, heads) if reference else None

    def encode_text(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the text, which carry no position: (B, L, D) -> two of (B, L, N, d)."""
        k, v = self.txt_kv_proj(text).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return self.norm_added_k(k).to(v.dtype), v

    def forward(
        self,
        x: Tensor,
        text_kv: tuple[Tensor, Tensor],
        rope: Tensor,
        mask: Tensor | None,
        reference_kv: tuple[Tensor, Tensor] | None = None,
        referenced: Tensor | None = None,
    ) -> Tensor:
        """x (B, T, D); text_kv from `encode_text`, of batch B or 1; mask (B, 1, 1, L + T), True = may be seen;
        reference_kv and referenced as in `ReferenceAttention`."""
        q, k, v = self.img_qkv_proj(x).unflatten(-1, (3, self.heads, -1)).unbind(2)  # (B, T, N, d) each
        unrotated = None if reference_kv is None else self.norm_q(q)  # without positions, for the reference
        if unrotated is None or in_place(q):
            q = self.norm_q.rotated(q, rope, v.dtype)
        else:
            q = rotate(unrotated, rope, v.dtype)
        k = self.norm_k.rotated(k, rope, v.dtype)
        text_k, text_v = (t.expand(x.shape[0], -1, -1, -1) for t in text_kv)  # (B, L, N, d)
        if mask is not None and packs(v):
            pair = torch.cat((text_k, k), dim=1), torch.cat((text_v, v), dim=1)  # (B, L + T, N, d)
            out = packed_attention(q, *pair, mask[:, 0, 0])  # (B, T, N, d)
        else:
            # Keys and values have to be copied to be joined, so they are copied head by head, which the kernel reads
            # 5 % faster at 4,096 tokens; queries and output go in and out as views.
            k = torch.cat((text_k.transpose(1, 2), k.transpose(1, 2)), dim=2)  # (B, N, L + T, d)
            v = torch.cat((text_v.transpose(1, 2), v.transpose(1, 2)), dim=2)
            out = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask).transpose(1, 2)
        out = self.to_out[0](out.flatten(2))  # (B, T, D)
        if reference_kv is None:
            return out
        assert self.reference is not None and unrotated is not None, "keys of a reference for a block that takes none"
        return out + self.reference(unrotated, reference_kv, referenced)
