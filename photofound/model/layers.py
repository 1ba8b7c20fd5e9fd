"""The transformer's parts: rotary positions, attention, adaptive norms, MLP, embeddings, output heads.

The maths is that of PRX (Photoroom, Apache-2.0), and a module that PRX also has carries PRX's parameter names, so that
its weights map one to one. Image tokens are the queries; keys and values are text tokens followed by image tokens.

Legend: B batch, H and W grid or image size, T image tokens, L text tokens, S reference tokens, D hidden size,
N heads, d = D / N head size, P patch values (channels x patch x patch), K tasks.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6  # PRX's value, in every norm


# ---------------------------------------------------------------------------------------------------------- patches


def patchify(image: Tensor, patch_size: int) -> Tensor:
    """Cut (B, C, H, W) into (B, T, C * patch * patch); rows first, channels slowest inside a patch."""
    return F.pixel_unshuffle(image, patch_size).flatten(2).transpose(1, 2)  # (B, T, P)


def unpatchify(tokens: Tensor, patch_size: int, height: int, width: int) -> Tensor:
    """Undo `patchify`: (B, T, C * patch * patch) -> (B, C, height, width)."""
    grid = tokens.transpose(1, 2).unflatten(2, (height // patch_size, width // patch_size))  # (B, P, H/p, W/p)
    return F.pixel_shuffle(grid, patch_size)


# --------------------------------------------------------------------------------------------------------- routing


def take_tokens(x: Tensor, route: Tensor) -> Tensor:
    """The tokens that `route` (B, T') names: (B, T, D) -> (B, T', D)."""
    return x.gather(1, route[..., None].expand(-1, -1, x.shape[-1]))


def put_tokens(x: Tensor, route: Tensor, routed: Tensor) -> Tensor:
    """Undo `take_tokens`: x (B, T, D) with the tokens that `route` (B, T') names replaced by `routed` (B, T', D)."""
    return x.scatter(1, route[..., None].expand(-1, -1, x.shape[-1]), routed.to(x.dtype))


def routed(x: Tensor, rope: Tensor, mask: Tensor | None, route: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Tokens, rotary table and key mask of the routed tokens alone: (B, T', D), (B, T', 1, d / 2, 2), (.., L + T')."""
    gone = x.shape[1] - route.shape[1]
    # The mask's image part is all true, so any T' of it will do.
    return take_tokens(x, route), rope[route], None if mask is None else mask[..., : mask.shape[-1] - gone]


def key_mask(attention_mask: Tensor, image_tokens: int) -> Tensor:
    """(B, L) -> (B, 1, 1, L + T): padding is hidden from every query, image tokens never are."""
    return F.pad(attention_mask.bool(), (0, image_tokens), value=True)[:, None, None]


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
    dtype = torch.float32 if device.type in ("mps", "npu", "neuron") else torch.float64
    positions = (
        torch.arange(rows, device=device, dtype=dtype).repeat_interleave(columns),
        torch.arange(columns, device=device, dtype=dtype).repeat(rows),
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


# ------------------------------------------------------------------------------------------------ norms, modulation


class HeadNorm(nn.RMSNorm):
    """RMSNorm over the head size (arXiv:1910.07467), with which queries and keys are bounded."""

    def __init__(self, head_dim: int):
        super().__init__(head_dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        # Under autocast x is bfloat16 and the weight float32, a mix for which torch has no fused kernel: cast the d
        # weights, not the activations. The kernel itself accumulates in float32.
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN (DiT, arXiv:2212.09748, section 3.2): (1 + scale) * LayerNorm(x) + shift, without learned affine.

    x (B, T, D); shift and scale (B, 1, D), or (1, 1, D) for a whole batch.
    """
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=NORM_EPS), 1 + scale)


class Modulation(nn.Module):
    """A block's six adaLN vectors: (shift, scale, gate) for attention and for the MLP."""

    def __init__(self, dim: int):
        super().__init__()
        self.lin = nn.Linear(dim, 6 * dim)

    def forward(self, activated: Tensor) -> tuple[Tensor, ...]:
        """activated: (B, D), the conditioning vector after SiLU (one SiLU serves every block)."""
        return self.lin(activated)[:, None].chunk(6, dim=-1)  # 6 x (B, 1, D)


# ----------------------------------------------------------------------------------------------- attention and block


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
        unrotated = self.norm_q(q)  # without positions, for the reference
        q = rotate(unrotated, rope, v.dtype)
        k = rotate(self.norm_k(k), rope, v.dtype)
        text_k, text_v = (t.expand(x.shape[0], -1, -1, -1) for t in text_kv)  # (B, L, N, d)
        # Keys and values have to be copied to be joined, so they are copied head by head, which the kernel reads 5 %
        # faster at 4,096 tokens; queries and output go in and out as views.
        k = torch.cat((text_k.transpose(1, 2), k.transpose(1, 2)), dim=2)  # (B, N, L + T, d)
        v = torch.cat((text_v.transpose(1, 2), v.transpose(1, 2)), dim=2)
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask)  # (B, N, T, d)
        out = self.to_out[0](out.transpose(1, 2).flatten(2))  # (B, T, D)
        if reference_kv is None:
            return out
        assert self.reference is not None, "keys of a reference for a block that takes none"
        return out + self.reference(unrotated, reference_kv, referenced)


class Given(NamedTuple):
    """What every block is given beside the tokens; of batch B, or of batch 1 for all."""

    activated: Tensor  # (B, D)
    text: Tensor | None  # (B, L, D), or text_kv
    rope: Tensor  # (T, 1, d / 2, 2), within a route (B, T', 1, d / 2, 2)
    mask: Tensor | None  # (B, 1, 1, L + T)
    text_kv: Tensor | None  # (B, depth, 2, L, N, d)
    reference: Tensor | None  # (B, S, D), or reference_kv
    reference_kv: Tensor | None  # (B, depth, 2, S, N, d)
    referenced: Tensor | None  # (B,) bool, or (R,) long

    def of_block(self, index: int) -> tuple[Any, ...]:
        """The arguments of block `index` after the tokens."""
        text_kv, reference_kv = (  # keys, values: (B, L, N, d), (B, S, N, d)
            None if kv is None else kv[:, index].unbind(1) for kv in (self.text_kv, self.reference_kv)
        )
        own = self._replace(text_kv=text_kv, reference_kv=reference_kv)  # type: ignore[arg-type]
        return tuple(own)

    def of_samples(self, samples: Tensor | None) -> "Given":
        """For these samples (R,) long of the batch alone; None = all. What all have in common stays as it is, and so
        does the table of positions."""
        if samples is None:
            return self

        def few(value: Any) -> Any:
            return value if value is None or len(value) == 1 else value[samples]

        return self._replace(**{name: few(value) for name, value in self._asdict().items() if name != "rope"})


class Block(nn.Module):
    """One layer: modulated attention, then modulated gated MLP, each added through its gate (DiT, fig. 3)."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, reference: bool = False):
        super().__init__()
        inner = int(dim * mlp_ratio)
        self.modulation = Modulation(dim)
        self.attention = Attention(dim, heads, reference)
        self.gate_proj = nn.Linear(dim, inner, bias=False)
        self.up_proj = nn.Linear(dim, inner, bias=False)
        self.down_proj = nn.Linear(inner, dim, bias=False)

    def mlp(self, x: Tensor) -> Tensor:
        """GEGLU (arXiv:2002.05202, eq. 6), tanh form of GELU."""
        # In place, because a fresh buffer of 3.5 D per token costs more than the product; autograd keeps what it needs.
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh").mul_(self.up_proj(x)))

    def forward(
        self,
        x: Tensor,
        activated: Tensor,
        text: Tensor | None,
        rope: Tensor,
        mask: Tensor | None = None,
        text_kv: tuple[Tensor, Tensor] | None = None,
        reference: Tensor | None = None,
        reference_kv: tuple[Tensor, Tensor] | None = None,
        referenced: Tensor | None = None,
    ) -> Tensor:
        """x (B, T, D), activated (B, D), and either text (B, L, D) or its `text_kv` -> (B, T, D). Of a reference, too,
        either the tokens (B, S, D) or its keys and values; `referenced` (B,) tells which samples have one."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(activated)
        if text_kv is None:
            assert text is not None, "a block needs a text or its keys and values"
            text_kv = self.attention.encode_text(text)
        if reference is not None:
            assert self.attention.reference is not None, "a reference for a block that takes none"
            reference_kv = self.attention.reference.encode(reference)
        attended = self.attention(modulated_norm(x, shift_a, scale_a), text_kv, rope, mask, reference_kv, referenced)
        x = torch.addcmul(x, gate_a, attended)
        return torch.addcmul(x, gate_m, self.mlp(modulated_norm(x, shift_m, scale_m)))


# ------------------------------------------------------------------------------------------------------- embeddings


def sinusoidal(values: Tensor, dim: int, max_period: float, factor: float = 1.0) -> Tensor:
    """Cosines, then sines, of factor * value at dim / 2 frequencies from 1 towards 1 / max_period.

    (B,) -> (B, dim) float32. The factor comes last, as in PRX: at angles near 1,000 a float32 is good to 6e-5, so that
    another order of the same products is another cosine.
    """
    half = dim // 2
    frequencies = torch.exp(
        -math.log(max_period) * torch.arange(half, device=values.device, dtype=torch.float32) / half
    )
    angles = factor * (values.float()[:, None] * frequencies)  # (B, dim / 2)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class Embedder(nn.Module):
    """Two layers that turn sinusoids into a conditioning vector: (B, in_dim) -> (B, D)."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.in_layer = nn.Linear(in_dim, dim)
        self.out_layer = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(F.silu(self.in_layer(x)))


class ScalarEmbedder(Embedder):
    """Embeds one number per sample (time, strength, guidance), times `factor`, by 256 sinusoids: (B,) -> (B, D)."""

    SINUSOIDS = 256

    def __init__(self, dim: int, factor: float, max_period: float):
        super().__init__(self.SINUSOIDS, dim)
        self.factor = factor
        self.max_period = max_period

    def forward(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return super().forward(sinusoidal(x, self.SINUSOIDS, self.max_period, self.factor).to(dtype))


class ResolutionEmbedder(nn.Module):
    """Embeds a latent's height and width, 128 sinusoids each, into one vector (1, D) for the whole batch."""

    def __init__(self, dim: int, max_period: float):
        super().__init__()
        self.max_period = max_period
        self.mlp = Embedder(256, dim)

    def forward(self, height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        size = torch.tensor([height, width], device=device, dtype=torch.float32)
        return self.mlp(sinusoidal(size, 128, self.max_period).flatten()[None].to(dtype))


# ----------------------------------------------------------------------------------------------------- output heads


class OutputHeads(nn.Module):
    """One output head per task, an adaLN and a linear layer each (DiT, section 3.2), stacked along K.

    Stacked, because a mixed batch then picks its heads by one gather instead of a loop over tasks, and because every
    head has a gradient in every step, which is what data-parallel training asks for.
    """

    def __init__(self, dim: int, out_dim: int, tasks: int):
        super().__init__()
        self.modulation_weight = nn.Parameter(torch.empty(tasks, 2 * dim, dim))
        self.modulation_bias = nn.Parameter(torch.empty(tasks, 2 * dim))
        self.weight = nn.Parameter(torch.empty(tasks, out_dim, dim))
        self.bias = nn.Parameter(torch.empty(tasks, out_dim))

    def forward(self, x: Tensor, activated: Tensor, task: Tensor | int) -> Tensor:
        """x (B, T, D), activated (B, D) or (1, D), task (B,) long or one int for all -> (B, T, P)."""
        if isinstance(task, int):  # the whole batch through one head: no gather
            shift, scale = F.linear(activated, self.modulation_weight[task], self.modulation_bias[task]).chunk(2, -1)
            return F.linear(modulated_norm(x, shift[:, None], scale[:, None]), self.weight[task], self.bias[task])
        tasks, batch = self.weight.shape[0], x.shape[0]
        # All K modulations are computed and the samples' picked: copying a (2 D, D) matrix per sample costs far more.
        every = F.linear(activated, self.modulation_weight.flatten(0, 1), self.modulation_bias.flatten())  # (B, K 2D)
        every = every.expand(batch, -1).reshape(batch * tasks, -1)  # (B K, 2D)
        own = task + tasks * torch.arange(batch, device=task.device)
        shift, scale = every.index_select(0, own)[:, None].chunk(2, dim=-1)  # (B, 1, D) each
        weight = self.weight.index_select(0, task).transpose(1, 2)  # (B, D, P)
        return torch.baddbmm(self.bias.index_select(0, task)[:, None], modulated_norm(x, shift, scale), weight)

    @torch.no_grad()
    def append_copy(self, source: int) -> None:
        """Add a head that starts as a copy of head `source`."""
        for name, values in list(self.named_parameters(recurse=False)):
            grown = nn.Parameter(torch.cat((values, values[source : source + 1])), requires_grad=values.requires_grad)
            setattr(self, name, grown)
