"""The transformer's parts beside its attention: patches, routes, adaptive norms, MLP, embeddings, output heads.

The maths is that of PRX (Photoroom, Apache-2.0), and a module that PRX also has carries PRX's parameter names, so that
its weights map one to one.

Legend: B batch, H and W grid or image size, T image tokens, L text tokens, S reference tokens, D hidden size,
N heads, d = D / N head size, P patch values (channels x patch x patch), K tasks.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from photofound.model.attention import Attention
from photofound.model.fused import add_gated, geglu, modulated_norm

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


class Fusion(nn.Module):
    """Fuses what the inner blocks made of some tokens, or of all, with what all tokens were before (SPRINT,
    arXiv:2510.21986: the sparse, deep path and the dense, shallow one). It starts as the deep path alone, that of a new
    model as the mean of both."""

    def __init__(self, dim: int):
        super().__init__()
        self.mask = nn.Parameter(torch.empty(dim))
        self.proj = nn.Linear(2 * dim, dim, bias=False)
        self.start()

    @torch.no_grad()
    def start(self, shallow: float = 0.0) -> None:
        """Weights of a fusion that changes nothing where no token is left out: the deep path, or a mean of both where
        the inner blocks change nothing yet. A token that was left out has ``shallow`` times what it was."""
        dim = len(self.mask)
        nn.init.zeros_(self.mask)
        nn.init.zeros_(self.proj.weight)
        self.proj.weight[:, :dim].fill_diagonal_(shallow)
        self.proj.weight[:, dim:].fill_diagonal_(1 - shallow)

    def forward(
        self, shallow: Tensor, deep: Tensor | None, route: Tensor | None, dropped: Tensor | None = None
    ) -> Tensor:
        """shallow (B, T, D), deep (B, T, D), or (B, T', D) of the tokens that `route` (B, T') names -> (B, T, D).
        Tokens that were left out have a mask, the same for all, in place of a deep one; so have all those of samples
        that are `dropped` (B,), and all where `deep` is None."""
        masked = self.mask.to(shallow.dtype if deep is None else deep.dtype).expand_as(shallow)
        if deep is not None and route is not None:
            deep = put_tokens(masked, route, deep)
        if deep is not None and dropped is not None:
            deep = torch.where(dropped[:, None, None], masked, deep)
        return self.proj(torch.cat((shallow, masked if deep is None else deep), -1))


# ------------------------------------------------------------------------------------------------------- modulation


class Modulation(nn.Module):
    """A block's six adaLN vectors: (shift, scale, gate) for attention and for the MLP."""

    def __init__(self, dim: int):
        super().__init__()
        self.lin = nn.Linear(dim, 6 * dim)

    def forward(self, activated: Tensor) -> tuple[Tensor, ...]:
        """activated: (B, D), the conditioning vector after SiLU (one SiLU serves every block)."""
        return self.lin(activated)[:, None].chunk(6, dim=-1)  # 6 x (B, 1, D)


# ----------------------------------------------------------------------------------------------------------- blocks


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
        return self.down_proj(geglu(x, self.gate_proj, self.up_proj))

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
        x = add_gated(x, gate_a, attended)
        return add_gated(x, gate_m, self.mlp(modulated_norm(x, shift_m, scale_m)))


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
