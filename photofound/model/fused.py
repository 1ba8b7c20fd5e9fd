"""What eager code on a CPU computes in one pass: products with what follows them, and results in place.

Legend: B batch, T tokens, D hidden size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6  # PRX's value, in every norm


def in_place(x: Tensor) -> bool:
    """Whether a result may take the place of what it was made from: where eager code on a CPU wants no gradient. A
    fresh buffer of a large model's activations costs more there than the product that fills it."""
    traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not traced


def fuses(x: Tensor, *layers: nn.Module) -> bool:
    """Whether oneDNN may compute these layers together with what follows them: plain linear layers, without adapters
    or weights of eight bits, in the precision of x."""
    plain = (type(layer) is nn.Linear and type(layer.weight) is nn.Parameter for layer in layers)
    return (
        in_place(x)
        and torch.backends.mkldnn.is_available()
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_autocast_enabled("cpu")
        and all(plain)
        and all(layer.weight.dtype == x.dtype for layer in layers)
    )


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN (DiT, arXiv:2212.09748, section 3.2): (1 + scale) * LayerNorm(x) + shift, without learned affine.

    x (B, T, D); shift and scale (B, 1, D), or (1, 1, D) for a whole batch.
    """
    normed = F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
    fits = in_place(x) and normed.dtype == shift.dtype == scale.dtype
    return torch.addcmul(shift, normed, 1 + scale, out=normed if fits else None)


def add_gated(x: Tensor, gate: Tensor, update: Tensor) -> Tensor:
    """x + gate * update, which may take the place of `update`: (B, T, D), and gate (B, 1, D) or (1, 1, D)."""
    fits = in_place(x) and update.shape == x.shape and x.dtype == update.dtype == gate.dtype
    return torch.addcmul(x, gate, update, out=update if fits else None)


def geglu(x: Tensor, gate: nn.Module, up: nn.Module) -> Tensor:
    """GEGLU (arXiv:2002.05202, eq. 6), tanh form of GELU: (B, T, D) -> (B, T, inner)."""
    if fuses(x, gate, up):
        # GELU as its product's last step, and the second product's times the first: a tenth of a forward in bfloat16.
        gated = torch.ops.mkldnn._linear_pointwise(x, gate.weight, None, "gelu", [], "tanh")
        return torch.ops.mkldnn._linear_pointwise.binary(x, gated, up.weight, None, "mul")
    # In place, because a fresh buffer of 3.5 D per token costs more than the product; autograd keeps what it needs.
    return F.gelu(gate(x), approximate="tanh").mul_(up(x))
