"""EditTransformer: the latent diffusion transformer, its edit inputs and its task heads.

The trunk is weight-compatible with `diffusers.PRXTransformer2DModel` (PRX by Photoroom, Apache-2.0), a transformer in
DiT's line (arXiv:2212.09748). With the edit inputs at their initial values both give the same output.

Legend: B batch, C channels, H x W latent size, p patch, T = (H / p)(W / p) image tokens, L text tokens, D hidden size,
P = C p^2 values of a patch, N heads, d = D / N head size, K tasks, T' routed tokens, S reference tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import apply_lora_scale
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from photofound.model import adapters, checks
from photofound.model.attention import ReferenceAttention, key_mask, rope_table, without_padding
from photofound.model.cache import CachedSampling, FirstBlockCache
from photofound.model.fused import NORM_EPS
from photofound.model.growing import Growing
from photofound.model.layers import (
    Block,
    Embedder,
    Fusion,
    Given,
    OutputHeads,
    ResolutionEmbedder,
    ScalarEmbedder,
    patchify,
    put_tokens,
    routed,
    unpatchify,
)


@dataclass
class EditTransformerOutput(Transformer2DModelOutput):
    """`sample` (B, C, H, W); `features`, the tokens after the block or the blocks that were tapped, or None."""

    features: Any = None


class EditTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin, CachedSampling, Growing):
    """A diffusion transformer that edits: noisy latents, a time, a text, a condition and a task -> velocity.

    The first thirteen arguments are PRX's, with PRX's meaning.

    Args:
        in_channels: channels C of the latent (3 in pixel space); the output has as many.
        patch_size: side p of the square patches; height and width must be multiples of it.
        context_in_dim: width of the text encoder's output.
        hidden_size: width D of the transformer, a multiple of `num_heads`.
        mlp_ratio: width of the gated MLP over D.
        num_heads: attention heads N.
        depth: number of blocks.
        axes_dim: channels of a head that carry the row and the column (even, adding up to D / N); None halves the head.
        theta: base of the rotary frequencies.
        time_factor: what time in [0, 1] is multiplied by before it is embedded.
        time_max_period: longest period of the sinusoids.
        bottleneck_size: if set, patches enter through two linear layers with this width between (pixel space).
        resolution_embeds: whether the latent's height and width are embedded into the conditioning vector.
        condition_channels: channels of the folded condition map at latent resolution; 0 = no edit input.
        condition_space: "pixels" or "latents", what the condition's canvas part is made of. Recorded for the pipeline
            and the trainer, which build the condition; the transformer itself does not look at it.
        tasks: names of the edits, one output head each. The first is the trunk's own head, used when no task is given.
        guidance_embeds: whether there is an input for the guidance scale (distilled students).
        prediction_type: "velocity" or "sample", what the output means. Recorded for samplers and losses.
        reference_embeds: whether there is an input for a reference picture, the wanted surface.
        reference_size: side of that picture in pixels. Recorded for the pipeline and the trainer; the transformer takes
            latents of any size.
        token_fusion: whether the tokens that inner blocks were given are fused with what they make of them (SPRINT).

    Raises:
        ValueError: for a configuration that does not fit together; it names the value and the remedy.
    """

    __module__ = "photofound.transformer"  # what a saved model names: see that file

    config_name = "config.json"
    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["Block", "OutputHeads"]
    # Inputs and heads are small, and all that is painted goes through them: eight bits are for the blocks.
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = [
        "norm",
        "_in$",
        "_in[.]",
        "resolution_embedder",
        "heads",
        "fusion",
    ]
    _repeated_blocks: ClassVar[list[str]] = ["Block"]  # what `compile_repeated_blocks` compiles, once for all

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        patch_size: int = 2,
        context_in_dim: int = 2304,
        hidden_size: int = 1792,
        mlp_ratio: float = 3.5,
        num_heads: int = 28,
        depth: int = 16,
        axes_dim: Sequence[int] | None = None,
        theta: int = 10000,
        time_factor: float = 1000.0,
        time_max_period: int = 10000,
        bottleneck_size: int | None = None,
        resolution_embeds: bool = False,
        condition_channels: int = 0,
        condition_space: str = "pixels",
        tasks: Sequence[str] = ("generate",),
        guidance_embeds: bool = False,
        prediction_type: str = "velocity",
        reference_embeds: bool = False,
        reference_size: int = 128,
        token_fusion: bool = False,
    ):
        super().__init__()
        sizes = {"in_channels": in_channels, "patch_size": patch_size, "context_in_dim": context_in_dim}
        checks.check_sizes(sizes | {"hidden_size": hidden_size, "num_heads": num_heads, "depth": depth})
        head_dim = hidden_size // num_heads
        axes_dim = tuple(axes_dim) if axes_dim is not None else (head_dim // 2, head_dim // 2)
        checks.check_config(
            hidden_size, num_heads, axes_dim, condition_channels, condition_space, tasks, prediction_type
        )

        self.axes_dim = axes_dim
        patch_dim = in_channels * patch_size**2
        self.img_in = _patch_projection(patch_dim, bottleneck_size, hidden_size)
        self.txt_in = nn.Linear(context_in_dim, hidden_size)
        self.time_in = ScalarEmbedder(hidden_size, time_factor, time_max_period)
        self.resolution_embedder = ResolutionEmbedder(hidden_size, time_max_period) if resolution_embeds else None

        # The edit inputs. `condition_in` has no bias, so that an all-zero condition means the same as none.
        condition_dim = condition_channels * patch_size**2
        self.condition_in = nn.Linear(condition_dim, hidden_size, bias=False) if condition_channels else None
        self.task_in = nn.Parameter(torch.empty(len(tasks), hidden_size))
        self.strength_in = ScalarEmbedder(hidden_size, time_factor, time_max_period)
        self.guidance_in = ScalarEmbedder(hidden_size, time_factor, time_max_period) if guidance_embeds else None

        self.reference_in = _patch_projection(patch_dim, bottleneck_size, hidden_size) if reference_embeds else None

        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, mlp_ratio, reference_embeds) for _ in range(depth))
        self.fusion = Fusion(hidden_size) if token_fusion else None
        self.heads = OutputHeads(hidden_size, patch_dim, len(tasks))

        self.gradient_checkpointing = False
        self.initialize_weights()

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Set every parameter for training from scratch (DiT's recipe, arXiv:2212.09748, section 3.2, adaLN-Zero)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)  # keeps the variance of tokens from layer to layer
                if module.bias is not None:
                    nn.init.zeros_(module.bias)  # no direction of the hidden space is preferred at the start
        for block in self._typed_blocks():
            for fused, parts in ((block.attention.img_qkv_proj, 3), (block.attention.txt_kv_proj, 2)):
                for part in fused.weight.chunk(parts):
                    nn.init.xavier_uniform_(part)  # the fan-out is that of one projection, not of the fused matrix
            nn.init.zeros_(block.modulation.lin.weight)  # gates at 0: each block starts as the identity
        if self.reference_in is not None:
            self.start_reference()
        if self.fusion is not None:
            self.fusion.start(0.5)  # else what a route leaves out would be lost to the last blocks
        for embedder in self.modules():
            if isinstance(embedder, Embedder):
                nn.init.normal_(embedder.in_layer.weight, std=0.02)  # sinusoids are not unit normal: start gently
                nn.init.normal_(embedder.out_layer.weight, std=0.02)
        for parameter in self.heads.parameters():
            nn.init.zeros_(parameter)  # output 0, the best constant guess; adaLN starts as a plain LayerNorm
        # Edit inputs start at 0 at their LAST layer: they change nothing, yet have a gradient in the first step.
        if self.condition_in is not None:
            nn.init.zeros_(self.condition_in.weight)
        nn.init.zeros_(self.task_in)
        for embedder in (self.strength_in, self.guidance_in):
            if embedder is not None:
                nn.init.zeros_(embedder.out_layer.weight)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
        *,
        condition: Tensor | None = None,
        task: Tensor | int | None = None,
        strength: Tensor | None = None,
        guidance: Tensor | None = None,
        text_kv: Tensor | None = None,
        reference: Tensor | None = None,
        reference_kv: Tensor | None = None,
        referenced: Tensor | None = None,
        route: Tensor | None = None,
        tap: int | Sequence[int] | None = None,
        cache: FirstBlockCache | None = None,
        path_drop: Tensor | bool = False,
    ) -> EditTransformerOutput | tuple[Tensor, ...]:
        """Predict the velocity (or the clean sample, see `prediction_type`) of noisy latents.

        Args:
            hidden_states: noisy latents (B, C, H, W); H and W are multiples of `patch_size`, not necessarily equal.
            timestep: (B,), or (1,) for all, in [0, 1]; 1 = noise, 0 = data. Times, strengths and guidance scales stay
                float32 in a bfloat16 model, since bfloat16 would round 0.97 to 0.969 and they are multiplied by 1,000.
            encoder_hidden_states: text (B, L, context_in_dim), or of batch 1 for all. May be left out with `text_kv`.
            attention_mask: (B, L), true where there is text, false where there is padding; None = all text.
            attention_kwargs: {"scale": s} scales the active LoRA adapters; anything else is ignored.
            return_dict: False returns a tuple.
            condition: (B, condition_channels, H, W), the canvas and the hole (`fold_condition`). None
                is the same as zeros.
            task: (B,) indices into `tasks`, or one int for all (cheaper: no gather). None = 0.
            strength: (B,) or (1,) in [0, 1], how much of the canvas is to be trusted. None adds nothing.
            guidance: (B,) or (1,), the guidance scale to imitate. None adds nothing.
            text_kv: the result of `encode_text`, of batch B or 1, in place of `encoder_hidden_states`.
            reference: (B, C, H', W'), clean latents of a picture of the wanted surface, of any size, or of batch 1 for
                all. None adds nothing.
            reference_kv: the result of `encode_reference`, of batch B or 1, in place of `reference`.
            referenced: (B,) or (1,) bool, which samples have a reference: to the others it adds exactly nothing. Or
                (R,) long, the samples that R references belong to; nothing is computed for the others. None = all.
            route: (B, T') long, without repeats: the image tokens that go through every block. The others skip the
                blocks in `route_span` and come back as they were (TREAD, arXiv:2501.04765, section 3.2), or, where
                there is a fusion, masked. For training.
            tap: index of a block whose output tokens are wanted, too; or several, in order.
            cache: of one sampling, which lets the samples that the first block changes as before skip the other blocks.
                Not together with `route` or `tap`.
            path_drop: (B,) bool, the samples that get the fusion's mask in place of what the blocks in `route_span`
                make (SPRINT's path-drop learning); True: all, and those blocks are not computed (its guidance).

        Returns:
            `.sample` (B, C, H, W) and, with `tap`, `.features` (B, T, D), of several blocks a tuple of them; only the
            routed tokens, (B, T', D), where `tap` is a block of `route_span` other than its last, after which all
            tokens are together again.

        Raises:
            ValueError: when shapes do not fit each other or the configuration.
        """
        checks.check_inputs(self, hidden_states, encoder_hidden_states, attention_mask, condition, guidance, text_kv)
        checks.check_reference(self, hidden_states, reference, reference_kv, referenced)
        checks.check_routing(self, hidden_states, route, tap)
        checks.check_path_drop(self, hidden_states, path_drop)
        assert cache is None or (route is None and tap is None), "a cache is for sampling, a route or tap for training"
        height, width = hidden_states.shape[-2:]
        patch = self.config.patch_size
        grid = (height // patch, width // patch)
        task = 0 if task is None else task

        x = self.img_in(patchify(hidden_states, patch))  # (B, T, D)
        if condition is not None:
            assert self.condition_in is not None
            x = x + self.condition_in(patchify(condition, patch))  # (B, T, D)
        text = None
        if text_kv is None:
            assert encoder_hidden_states is not None
            seen_text, attention_mask = without_padding(encoder_hidden_states, attention_mask)
            text = self.txt_in(seen_text)  # (B, L, D)
        seen = None if reference is None else self._reference_tokens(reference)  # (B, S, D)
        activated = F.silu(self.embed_conditions(timestep, task, strength, guidance, height, width, x.dtype))  # (B, D)
        rope = rope_table(*grid, self.axes_dim, self.config.theta, x.device)  # (T, 1, d / 2, 2)
        mask = None if attention_mask is None else key_mask(attention_mask, x.shape[1])  # (B, 1, 1, L + T)

        given = Given(activated, text, rope, mask, text_kv, seen, reference_kv, referenced)
        if cache is None:
            x, features = self._through_blocks(x, given, range(len(self.blocks)), route, tap, path_drop)
        else:
            first, rest = range(1), range(1, len(self.blocks))
            x, features = (
                cache(
                    x,
                    lambda tokens: self._through_blocks(tokens, given, first)[0],
                    lambda tokens, samples: self._through_blocks(
                        tokens, given.of_samples(samples), rest, path_drop=path_drop
                    )[0],
                ),
                None,
            )

        sample = unpatchify(self.heads(x, activated, task), patch, height, width)  # (B, C, H, W)
        if return_dict:
            return EditTransformerOutput(sample=sample, features=features)
        return (sample,) if features is None else (sample, features)

    def _through_blocks(
        self,
        x: Tensor,
        given: Given,
        indices: range,
        route: Tensor | None = None,
        tap: int | Sequence[int] | None = None,
        path_drop: Tensor | bool = False,
    ) -> tuple[Tensor, Any]:
        """Tokens (B, T, D) after some of the blocks, and those after the blocks that are tapped."""
        span = self.route_span
        tapped: list[Tensor] = []
        wanted = () if tap is None else (tap,) if isinstance(tap, int) else tap
        for index in indices:
            if path_drop is True and index in span:
                if index == span[0] and self.fusion is not None:
                    x = self.fusion(x, None, None)
                continue
            if span and index == span[0]:
                shallow, every = x, given
                if route is not None:  # from here on only the routed tokens, at their own positions
                    x, rope, mask = routed(x, given.rope, given.mask, route)
                    given = given._replace(rope=rope, mask=mask)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(self.blocks[index], x, *given.of_block(index))
            else:
                x = self.blocks[index](x, *given.of_block(index))  # (B, T, D), within the route (B, T', D)
            if span and index == span[-1]:
                given = every
                if self.fusion is not None:
                    x = self.fusion(shallow, x, route, None if path_drop is False else path_drop)
                elif route is not None:
                    x = put_tokens(shallow, route, x)
            if index in wanted:
                tapped.append(x)
        return x, None if tap is None else tapped[0] if isinstance(tap, int) else tuple(tapped)

    @property
    def route_span(self) -> range:
        """Blocks that a token outside the route skips: 2 to depth - 4, counted from 0 (TREAD's choice, section 4); with
        a fusion all but the first two and the last two (SPRINT's)."""
        return range(2, len(self.blocks) - (3 if self.fusion is None else 2))

    @apply_forward_hook  # so that model offload moves the weights to the device first, as it does for `forward`
    def encode_text(self, encoder_hidden_states: Tensor) -> Tensor:
        """Compute every block's keys and values of a text, once per prompt, since they do not depend on time.

        Args:
            encoder_hidden_states: (B, L, context_in_dim).

        Returns:
            (B, depth, 2, L, N, d), for `forward(text_kv=...)`. The batch comes first, so that `torch.cat`,
            `repeat_interleave` and indexing work as on any other batch. Use it for sampling; in training pass the text
            to `forward`, which needs less memory and lets sharded blocks gather their own weights.
        """
        checks.check_text(encoder_hidden_states, self.config.context_in_dim)
        text = self.txt_in(encoder_hidden_states)  # (B, L, D)
        per_block = [torch.stack(block.attention.encode_text(text), dim=1) for block in self._typed_blocks()]
        return torch.stack(per_block, dim=1)  # (B, depth, 2, L, N, d)

    @apply_forward_hook
    def encode_reference(self, reference: Tensor) -> Tensor:
        """Compute every block's keys and values of a reference picture, once per edit, as `encode_text` does.

        Args:
            reference: clean latents (B, C, H', W').

        Returns:
            (B, depth, 2, S, N, d), for `forward(reference_kv=...)`.
        """
        checks.check_reference_latents(self, reference)
        tokens = self._reference_tokens(reference)  # (B, S, D)
        per_block = [
            torch.stack(cast(ReferenceAttention, block.attention.reference).encode(tokens), dim=1)
            for block in self._typed_blocks()
        ]
        return torch.stack(per_block, dim=1)  # (B, depth, 2, S, N, d)

    def _reference_tokens(self, reference: Tensor) -> Tensor:
        """(B, C, H', W') -> (B, S, D), normed, as the image tokens are that a block makes keys and values of."""
        assert self.reference_in is not None
        tokens = self.reference_in(patchify(reference, self.config.patch_size))
        return F.layer_norm(tokens, tokens.shape[-1:], eps=NORM_EPS).to(tokens.dtype)

    def embed_conditions(
        self,
        timestep: Tensor,
        task: Tensor | int,
        strength: Tensor | None,
        guidance: Tensor | None,
        height: int,
        width: int,
        dtype: torch.dtype,
    ) -> Tensor:
        """Add up what modulates every block: time, resolution, task, strength, guidance -> (B, D) or (1, D)."""
        vector = self.time_in(timestep.reshape(-1), dtype)  # (B, D)
        if self.resolution_embedder is not None:
            vector = vector + self.resolution_embedder(height, width, vector.device, dtype)
        own = self.task_in[task][None] if isinstance(task, int) else self.task_in.index_select(0, task)
        vector = vector + own.to(vector.dtype)
        if strength is not None:
            vector = vector + self.strength_in(strength.reshape(-1), dtype)
        if guidance is not None:
            assert self.guidance_in is not None
            vector = vector + self.guidance_in(guidance.reshape(-1), dtype)
        return vector

    def merged(self) -> "EditTransformer":
        """This transformer with its active LoRAs added to its weights, and without any LoRA: see `adapters`."""
        return cast(EditTransformer, adapters.merged(self))

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """Load as in diffusers. Raises ValueError where weights are missing, which would be random, or unknown, which
        would be lost."""
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        for kind in ("missing", "unexpected", "mismatched"):
            if keys := info.get(f"{kind}_keys"):
                raise ValueError(f"{args[0] if args else 'transformer'}: {kind} weights, {keys[0]} among {len(keys)}")
        return (model, info) if output_loading_info else model

    @wraps(ModelMixin.save_pretrained, assigned=())  # pipelines look at its parameters
    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save as in diffusers. LoRAs that are active are merged into what is written, so that it gives the same
        pictures; this transformer keeps them apart."""
        ModelMixin.save_pretrained(self.merged(), save_directory, *args, **kwargs)

    def task_index(self, name: str) -> int:
        """Which head belongs to the task `name`; ValueError names the known ones."""
        tasks = list(self.config.tasks)
        if name not in tasks:
            raise ValueError(f"unknown task {name!r}: this model knows {', '.join(tasks)}; add_task({name!r}) adds it")
        return tasks.index(name)

    def _typed_blocks(self) -> Sequence[Block]:
        return cast("Sequence[Block]", self.blocks)  # a ModuleList does not tell type checkers what it holds


def _patch_projection(patch_dim: int, bottleneck_size: int | None, hidden_size: int) -> nn.Module:
    """From a patch's values to a token; through a bottleneck, two layers."""
    if bottleneck_size is None:
        return nn.Linear(patch_dim, hidden_size)
    return nn.Sequential(nn.Linear(patch_dim, bottleneck_size), nn.Linear(bottleneck_size, hidden_size))
