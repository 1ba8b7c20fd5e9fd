"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from photofound.train import frugal, untuned
from photofound.train.distributed import shard_like, whole
from photofound.train.muon import FilterMuon, Muon

MOMENTS = {"adamw": 2, "adamw8bit": 2, "muon": 2, "prodigy": 4, "schedulefree": 2}
"""Optimizer -> what it keeps of a weight's size; of those that Muon trains, 1."""


class Optimizers:
    """Several torch optimizers stepped as one; each remembers the base rate it was made with."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], name: str = "adamw") -> None:
        self.optimizers, self.name = list(optimizers), name
        for group in self._groups():
            group["base_lr"] = float(group["lr"])

    def _groups(self) -> Iterable[dict]:
        return (group for optimizer in self.optimizers for group in optimizer.param_groups)

    def step(self, scale: float, bad: Tensor | None = None) -> None:
        """One update at ``scale`` times the base learning rates; none where ``bad``, a bool on the device, is true.

        Fused AdamW and Muon leave the question to their kernels. For other optimizers the processor waits for it."""
        for group in self._groups():
            lr = group["base_lr"] * scale
            group["lr"] = group["lr"].fill_(lr) if isinstance(group["lr"], Tensor) else lr  # torchao's is a tensor
        for optimizer in self.optimizers:
            inner = _inner(optimizer)
            if bad is None:
                optimizer.step()
            elif isinstance(inner, Muon) or type(inner) is torch.optim.AdamW:
                vars(inner).update(grad_scale=None, found_inf=bad.float())
                optimizer.step()
            elif not bool(bad):
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    @property
    def rate(self) -> float:
        """What the rate that is asked for is multiplied with, by Prodigy's estimate."""
        return untuned.found_rate(self.optimizers[0])

    def moment_bytes(self) -> int:
        """The size of the state in a checkpoint, in fp32."""
        return sum(
            4 * p.numel() * (1 if isinstance(_inner(o), Muon) else MOMENTS[self.name])
            for o in self.optimizers
            for group in o.param_groups
            for p in group["params"]
        )

    def compile(self) -> None:
        """Compile what is no kernel of torch's already: Muon's orthogonalisation."""
        for optimizer in map(_inner, self.optimizers):
            if isinstance(optimizer, Muon):
                optimizer.newton_schulz = torch.compile(optimizer.newton_schulz)

    def state_tensors(self, of: Callable[[Tensor], Tensor] = whole) -> dict[str, Tensor]:
        """The state as flat named tensors, for safetensors; sharded ones in whole, so every process must call it,
        unless ``of`` leaves them as they are."""
        flat = {}
        for o, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                for key, value in (item for pair in state.items() for item in frugal.flat(*pair).items()):
                    flat[f"{o}.{index}.{key}"] = of(torch.as_tensor(value)).contiguous()
            flat |= {f"{o}.{name}": value for name, value in untuned.counters(_inner(optimizer)).items()}
        return flat

    def weight_of(self, name: str) -> Tensor | None:
        """The weight that a tensor of the state belongs to; None: none."""
        o, index, _ = name.split(".", 2) if name.count(".") > 1 else (*name.split("."), "")
        weights = [weight for group in self.optimizers[int(o)].param_groups for weight in group["params"]]
        return weights[int(index)] if index.isdigit() else None

    def load_state_tensors(self, flat: dict[str, Tensor]) -> None:
        """Restore the tensors that ``state_tensors`` returned."""
        for o, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            own = {name.partition(".")[2]: value for name, value in flat.items() if name.startswith(f"{o}.")}
            for name, value in own.items():
                index, _, key = name.partition(".")
                if index.isdigit():
                    state.setdefault(int(index), {})[key] = value
            groups = optimizer.state_dict()["param_groups"]
            whole_state = {index: frugal.joined(values) for index, values in state.items()}
            optimizer.load_state_dict({"state": whole_state, "param_groups": groups})
            untuned.set_counters(_inner(optimizer), own)
            _lay_out_like_weights(optimizer)


def _inner(optimizer: Any) -> Any:
    """An optimizer without accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def matrices(module: nn.Module) -> set[nn.Parameter]:
    """The parameters that weight decay is for: those that multiply their input.

    They are called ``weight`` and have two or more dimensions. Biases, gains and embeddings are not among them, even
    where they are stacked or have a row per task."""
    return {
        parameter
        for owner in module.modules()
        for name, parameter in owner.named_parameters(recurse=False)
        if name.endswith("weight") and parameter.ndim > 1 and not isinstance(owner, nn.Embedding)
    }


def _lay_out_like_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give moments the layout of their weights: their shard, their memory format.

    Files hold them contiguous, and the fused AdamW walks both through memory in one order: with channels_last weights
    it would silently pair each weight with the moments of another one.
    """
    for weight, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and not frugal.is_coded(value):
                state[key] = torch.empty_like(weight, dtype=value.dtype).copy_(shard_like(value, weight))


def build(
    module: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    blocks: Sequence[nn.Module] = (),
    sharded: bool = False,
    offload: bool = False,
    rates: Mapping[str, float] = MappingProxyType({}),
) -> Optimizers:
    """AdamW for everything, or Muon for the matrices and filters of ``blocks`` and AdamW for the rest.

    Args:
        module: the module to train.
        name: one of ``MOMENTS``: ``adamw``, ``adamw8bit`` (moments of eight bits), ``muon``, or one of ``untuned``:
            ``prodigy``, ``schedulefree``.
        lr: base learning rate; Muon's updates are scaled to AdamW's RMS (``match_rms_adamw``, arXiv:2502.16982,
            section 2.2), so that one rate and one weight decay serve both.
        weight_decay: decoupled; for ``matrices`` alone.
        blocks: the repeated blocks, whose weights map hidden to hidden. The filters (O, I, k, k) of a convolution are
            a matrix (O, k k I) to Muon.
        sharded: whether the weights will be spread over processes, as no filter is for Muon.
        offload: AdamW computes on the CPU, where its moments lie.
        rates: part of ``module`` -> its learning rate over ``lr``; of what AdamW trains in it.
    """
    if name not in MOMENTS:
        raise ValueError(f"train.optimizer: {name!r} is unknown; use {', '.join(MOMENTS)}")
    if offload and name != "adamw":
        raise ValueError(f"train.offload: {name} computes on the device; use train.optimizer=adamw")
    if sharded and (offload or name == "adamw8bit"):
        what = "offload" if offload else "optimizer"
        raise ValueError(f"train.{what}: shards have their moments on the device, as float32; use train.parallel=ddp")
    if sharded and name in ("prodigy", "schedulefree"):
        raise ValueError(f"train.optimizer: {name} trains whole weights, not shards; use train.parallel=ddp")
    if rates and name == "prodigy":
        raise ValueError(
            "train.optimizer: prodigy finds one rate for all parts, and recipe.repa_e needs two; use adamw"
        )
    trainable = [p for p in module.parameters() if p.requires_grad]
    decayed = matrices(module)
    inner = {p for m in blocks for p in matrices(m) if p.ndim in (2, 4) and p.requires_grad}
    hidden = inner if name == "muon" else set()
    if name == "muon" and not hidden:
        raise ValueError("train.optimizer: muon is for matrices of repeated blocks, and none is trained; use adamw")
    # The order is that of the optimizer's state in checkpoints: groups are runs of it.
    rest = sorted((p for p in trainable if p not in hidden), key=lambda p: p.ndim <= 1)
    slower = {p: rate for part, rate in rates.items() for p in module.get_submodule(part).parameters()}
    groups = [
        {"params": list(run), "weight_decay": weight_decay if multiplies else 0.0, "lr": lr * rate}
        for (multiplies, rate), run in itertools.groupby(rest, lambda p: (p in decayed, slower.get(p, 1.0)))
    ]
    adam: dict[str, Any] = {"lr": lr, "betas": (0.9, 0.99), "eps": 1e-8}
    optimizers: list[torch.optim.Optimizer] = []
    if name == "adamw8bit":
        optimizers.append(frugal.adamw_8bit(groups, **adam))
    elif name == "prodigy":
        optimizers.append(untuned.prodigy(groups, **adam))
    elif name == "schedulefree":
        optimizers.append(untuned.schedule_free(groups, **adam))
    elif offload:
        optimizers.append(frugal.OffloadedAdamW(groups, **adam))
    else:
        optimizers.append(torch.optim.AdamW(groups, **adam, fused=True))
    if hidden:
        inside = [p for p in trainable if p in hidden]
        flat, filters = [p for p in inside if p.ndim == 2], [p for p in inside if p.ndim == 4]
        if filters and sharded:
            raise ValueError(
                "train.optimizer: muon cannot train the filters of convolutions in shards; use adamw, or "
                "train.parallel=ddp"
            )
        options: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "adjust_lr_fn": "match_rms_adamw"}
        optimizers += [Muon(flat, **options)] if flat else []
        optimizers += [FilterMuon(filters, **options)] if filters else []
    return Optimizers(optimizers, name)


def schedule(step: int, progress: float, warmup_steps: int, kind: str) -> float:
    """The factor on the learning rate, in [0, 1].

    Args:
        step: updates done.
        progress: share of the run that is over, in [0, 1]; by steps or by the clock.
        warmup_steps: linear rise from 0.
        kind: ``constant``; ``cosine`` (to 0); ``trapezoid`` (constant, then linear to 0 over the last 40 %).
    """
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    progress = min(1.0, max(0.0, progress))
    if kind == "constant":
        return warm
    if kind == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * progress))
    if kind == "trapezoid":
        return warm * min(1.0, (1 - progress) / 0.4)
    raise ValueError(f"train.schedule: {kind!r} is unknown; use constant, cosine or trapezoid")
