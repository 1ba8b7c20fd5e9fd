"""What an EditTransformer refuses: configurations and inputs that do not fit together.

Each function raises a ValueError that names the value and the remedy. Inputs are checked by their shapes alone, so that
nothing waits for the device.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MAX_DEPTH, MAX_SIZE = 1000, 2**20  # more is a typing mistake, and would take very long to build
CONDITION_SPACES = ("pixels", "latents")
PREDICTION_TYPES = ("velocity", "sample")


def check_inputs(
    model: Any,
    hidden_states: Tensor,
    text: Tensor | None,
    mask: Tensor | None,
    condition: Tensor | None,
    guidance: Tensor | None,
    text_kv: Tensor | None,
) -> None:
    """Inputs of a forward pass that do not fit each other or the model."""
    config, shape = model.config, tuple(hidden_states.shape)
    if len(shape) != 4 or shape[1] != config.in_channels:
        raise ValueError(f"hidden_states has shape {shape}: give (batch, {config.in_channels}, height, width)")
    if shape[2] % config.patch_size or shape[3] % config.patch_size:
        raise ValueError(
            f"latent of {shape[2]} x {shape[3]} does not divide into patches of {config.patch_size}: "
            f"pad or crop to multiples of {config.patch_size}"
        )
    if condition is not None:
        wanted = (shape[0], config.condition_channels, *shape[2:])
        if model.condition_in is None:
            raise ValueError("this model has no condition input: build it with condition_channels > 0")
        if tuple(condition.shape) != wanted:
            raise ValueError(f"condition has shape {tuple(condition.shape)}: give {wanted}")
    if guidance is not None and model.guidance_in is None:
        raise ValueError("this model has no guidance input: build it with guidance_embeds=True")

    if text is not None and text_kv is None:
        check_text(text, config.context_in_dim)
        batch, length = text.shape[:2]
    elif text_kv is not None and text is None:
        kv, form = tuple(text_kv.shape), (config.depth, 2, config.num_heads, config.hidden_size // config.num_heads)
        if len(kv) != 6 or (*kv[1:3], *kv[4:]) != form:
            hint = "give (batch, {}, {}, tokens, {}, {}), from this model's encode_text".format(*form)
            raise ValueError(f"text_kv has shape {kv}: {hint}")
        batch, length = kv[0], kv[3]
    else:
        raise ValueError("give either encoder_hidden_states or text_kv (from encode_text), one of the two")
    if batch not in (1, shape[0]):
        raise ValueError(f"{batch} texts for {shape[0]} latents: give one text for all, or one for each")
    if mask is not None and (mask.ndim != 2 or mask.shape[1] != length or mask.shape[0] not in (1, shape[0])):
        raise ValueError(f"attention_mask has shape {tuple(mask.shape)}: give ({shape[0]}, {length})")


def check_reference(
    model: Any, hidden_states: Tensor, latents: Tensor | None, kv: Tensor | None, referenced: Tensor | None
) -> None:
    """A reference that does not fit the latents or the model."""
    config, batch = model.config, hidden_states.shape[0]
    if latents is None and kv is None:
        return
    if latents is not None and kv is not None:
        raise ValueError("give either reference or reference_kv (from encode_reference), not both")
    if latents is not None:
        check_reference_latents(model, latents)
    if kv is not None:
        shape = tuple(kv.shape)
        form = (config.depth, 2, config.num_heads, config.hidden_size // config.num_heads)
        if model.reference_in is None or len(shape) != 6 or (*shape[1:3], *shape[4:]) != form:
            hint = "give (batch, {}, {}, tokens, {}, {}), from this model's encode_reference".format(*form)
            raise ValueError(f"reference_kv has shape {shape}: {hint}")
    count = next(given.shape[0] for given in (latents, kv) if given is not None)
    if referenced is not None and referenced.dtype == torch.long:
        if tuple(referenced.shape) != (count,):
            raise ValueError(f"referenced has shape {tuple(referenced.shape)}: give ({count},), one per reference")
        return
    if count not in (1, batch):
        raise ValueError(f"{count} references for {batch} latents: give one for all, or one for each")
    if referenced is not None and (referenced.ndim != 1 or referenced.shape[0] not in (1, batch)):
        raise ValueError(f"referenced has shape {tuple(referenced.shape)}: give ({batch},)")


def check_reference_latents(model: Any, latents: Tensor) -> None:
    if model.reference_in is None:
        raise ValueError("this model takes no reference image: build it with reference_embeds=True")
    shape, patch = tuple(latents.shape), model.config.patch_size
    if len(shape) != 4 or shape[1] != model.config.in_channels or shape[2] % patch or shape[3] % patch:
        wanted = f"(batch, {model.config.in_channels}, height, width), multiples of {patch}"
        raise ValueError(f"reference has shape {shape}: give {wanted}")


def check_routing(model: Any, hidden_states: Tensor, route: Tensor | None, tap: Any) -> None:
    """A route or a tap that does not fit the latents or the model."""
    batch, _, height, width = hidden_states.shape
    tokens = (height // model.config.patch_size) * (width // model.config.patch_size)
    wanted = () if tap is None else (tap,) if isinstance(tap, int) else tuple(tap)
    if list(wanted) != sorted(set(wanted)) or not all(0 <= index < len(model.blocks) for index in wanted):
        raise ValueError(f"tap={tap}: there are blocks 0 to {len(model.blocks) - 1}")
    if route is None:
        return
    if not model.route_span:
        raise ValueError(f"a route needs a depth of at least 6, and this model's is {len(model.blocks)}")
    if route.ndim != 2 or route.shape[0] != batch or not 0 < route.shape[1] <= tokens:
        raise ValueError(f"route has shape {tuple(route.shape)}: give ({batch}, 1 to {tokens}) token indices")


def check_path_drop(model: Any, hidden_states: Tensor, path_drop: Tensor | bool) -> None:
    """A path that is to be dropped from a model that has one alone."""
    if path_drop is False:
        return
    if model.fusion is None:
        raise ValueError("this model has one path, without a fusion: build it with token_fusion=True")
    batch = hidden_states.shape[0]
    if isinstance(path_drop, Tensor) and tuple(path_drop.shape) != (batch,):
        raise ValueError(f"path_drop has shape {tuple(path_drop.shape)}: give ({batch},)")


def check_text(text: Tensor, width: int) -> None:
    if text.ndim != 3 or text.shape[-1] != width:
        raise ValueError(f"encoder_hidden_states has shape {tuple(text.shape)}: give (batch, tokens, {width})")


def check_tasks(tasks: Sequence[str]) -> None:
    if isinstance(tasks, str) or not tasks or not all(isinstance(name, str) and name for name in tasks):
        raise ValueError(f"tasks={tasks!r}: give a list of at least one name")
    if len(set(tasks)) != len(tasks):
        raise ValueError(f"tasks={list(tasks)!r} names a task twice: each name has one head")


def check_sizes(sizes: dict[str, Any]) -> None:
    for name, value in sizes.items():
        most = MAX_DEPTH if name == "depth" else MAX_SIZE
        if not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError(f"{name}={value!r}: give a whole number from 1 to {most}")


def check_config(
    hidden_size: int,
    num_heads: int,
    axes_dim: tuple[int, ...],
    condition_channels: int,
    condition_space: str,
    tasks: Sequence[str],
    prediction_type: str,
) -> None:
    if hidden_size % num_heads:
        raise ValueError(f"hidden_size={hidden_size} is not a multiple of num_heads={num_heads}: change either")
    if len(axes_dim) != 2 or sum(axes_dim) != hidden_size // num_heads or any(n < 2 or n % 2 for n in axes_dim):
        head_dim = hidden_size // num_heads
        raise ValueError(f"axes_dim={list(axes_dim)}: give two even numbers that add up to the head size {head_dim}")
    if condition_channels < 0:
        raise ValueError(f"condition_channels={condition_channels}: give 0 (no edit input) or more")
    if condition_space not in CONDITION_SPACES:
        raise ValueError(f"condition_space={condition_space!r}: give one of {', '.join(CONDITION_SPACES)}")
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type={prediction_type!r}: give one of {', '.join(PREDICTION_TYPES)}")
    check_tasks(tasks)
