"""EditTransformer: the latent diffusion transformer, its edit inputs and its task heads.

The trunk is weight-compatible with `diffusers.PRXTransformer2DModel` (PRX by Photoroom, Apache-2.0), a transformer in
DiT's line (arXiv:2212.09748). With the edit inputs at their initial values both give the same output.

Legend: B batch, C channels, H x W latent size, p patch, T = (H / p)(W / p) image tokens, L text tokens, D hidden size,
P = C p^2 values of a patch, N heads, d = D / N head size, K tasks, T' routed tokens, S reference tokens.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from diffusers import PRXTransformer2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import apply_lora_scale
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from photofound.model.layers import (
    NORM_EPS,
    Block,
    Embedder,
    OutputHeads,
    ReferenceAttention,
    ResolutionEmbedder,
    ScalarEmbedder,
    patchify,
    put_tokens,
    rope_table,
    take_tokens,
    unpatchify,
)

_DEEPEST, _WIDEST = 1000, 2**20  # more is a slip of the pen, and building it takes for ever
CONDITION_SPACES = ("pixels", "latents")
PREDICTION_TYPES = ("velocity", "sample")
PRX_FIELDS = (
    *("in_channels", "patch_size", "context_in_dim", "hidden_size", "mlp_ratio", "num_heads", "depth", "axes_dim"),
    *("theta", "time_factor", "time_max_period", "bottleneck_size", "resolution_embeds"),
)


@dataclass
class EditTransformerOutput(Transformer2DModelOutput):
    """`sample` (B, C, H, W); `features`, the tokens after the block that was tapped, or None."""

    features: Tensor | None = None


@dataclass(frozen=True)
class Cost:
    """What one forward pass of one sample takes.

    Attributes:
        parameters: of the whole transformer, every task's head included.
        tokens: image tokens T.
        flops: floating-point operations of its matrix products and attention, a multiply-add being two. A training
            step takes three times as many, four times with activation checkpointing.
    """

    parameters: int
    tokens: int
    flops: int


class EditTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin):
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

    Raises:
        ValueError: for a configuration that does not fit together; it names the value and the remedy.
    """

    __module__ = "photofound.transformer"  # what a saved model names: see that file

    config_name = "config.json"
    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["Block", "OutputHeads"]
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
    ):
        super().__init__()
        sizes = {"in_channels": in_channels, "patch_size": patch_size, "context_in_dim": context_in_dim}
        _check_sizes(sizes | {"hidden_size": hidden_size, "num_heads": num_heads, "depth": depth})
        head_dim = hidden_size // num_heads
        axes_dim = tuple(axes_dim) if axes_dim is not None else (head_dim // 2, head_dim // 2)
        _check_config(hidden_size, num_heads, axes_dim, condition_channels, condition_space, tasks, prediction_type)

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
            self._start_reference()
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
        tap: int | None = None,
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
            condition: (B, condition_channels, H, W), what may be seen of the picture and what is to be painted. None
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
                blocks in `route_span` and come back as they were (TREAD, arXiv:2501.04765, section 3.2). For training.
            tap: index of a block whose output tokens are wanted, too.

        Returns:
            `.sample` (B, C, H, W) and, with `tap`, `.features` (B, T, D); only the routed tokens, (B, T', D), where
            `tap` is a block of `route_span` other than its last, after which all tokens are together again.

        Raises:
            ValueError: when shapes do not fit each other or the configuration.
        """
        self._check_inputs(hidden_states, encoder_hidden_states, attention_mask, condition, guidance, text_kv)
        self._check_reference(hidden_states, reference, reference_kv, referenced)
        self._check_extras(hidden_states, route, tap)
        height, width = hidden_states.shape[-2:]
        patch = self.config.patch_size
        grid = (height // patch, width // patch)
        task = 0 if task is None else task

        x = self.img_in(patchify(hidden_states, patch))  # (B, T, D)
        if condition is not None:
            assert self.condition_in is not None
            x = x + self.condition_in(patchify(condition, patch))  # (B, T, D)
        text = self.txt_in(encoder_hidden_states) if text_kv is None else None  # (B, L, D)
        seen = None if reference is None else self._reference_tokens(reference)  # (B, S, D)
        activated = F.silu(self.embed_conditions(timestep, task, strength, guidance, height, width, x.dtype))  # (B, D)
        rope = rope_table(*grid, self.axes_dim, self.config.theta, x.device)  # (T, 1, d / 2, 2)
        mask = None if attention_mask is None else _key_mask(attention_mask, x.shape[1])  # (B, 1, 1, L + T)

        features, span = None, self.route_span
        for index, block in enumerate(self.blocks):
            if route is not None and index == span[0]:  # from here on only the routed tokens, at their own positions
                whole, x, rope, mask = (x, rope, mask), *_routed(x, rope, mask, route)
            block_kv, seen_kv = (  # keys, values: (B, L, N, d), (B, S, N, d)
                None if kv is None else kv[:, index].unbind(1) for kv in (text_kv, reference_kv)
            )
            given = (activated, text, rope, mask, block_kv, seen, seen_kv, referenced)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block, x, *given)
            else:
                x = block(x, *given)  # (B, T, D), within the route (B, T', D)
            if route is not None and index == span[-1]:
                x, (rope, mask) = put_tokens(whole[0], route, x), whole[1:]
            if index == tap:
                features = x

        sample = unpatchify(self.heads(x, activated, task), patch, height, width)  # (B, C, H, W)
        if return_dict:
            return EditTransformerOutput(sample=sample, features=features)
        return (sample,) if features is None else (sample, features)

    @property
    def route_span(self) -> range:
        """Blocks that a token outside the route skips: 2 to depth - 4, counted from 0 (TREAD's choice, section 4)."""
        return range(2, len(self.blocks) - 3)

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
        _check_text(encoder_hidden_states, self.config.context_in_dim)
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
        self._check_reference_latents(reference)
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

    def cost(
        self,
        height: int,
        width: int,
        text_tokens: int = 256,
        skip: float = 0.0,
        reference: tuple[int, int] | None = None,
    ) -> Cost:
        """Count a forward pass on a latent of height x width, without computing it (on the meta device).

        Args:
            height, width: of the latent; of the picture in pixel space.
            text_tokens: length L of the text.
            skip: share of the tokens that a route leaves out (TREAD).
            reference: height and width of the reference's latent; None = there is none.

        Works on a model that is itself on the meta device, so that a billion parameters can be planned on a laptop:
        `with torch.device("meta"): EditTransformer(...).cost(128, 128)`. Adapters are not counted.
        """
        tokens = (height // self.config.patch_size) * (width // self.config.patch_size)
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            twin = type(self).from_config(self.config)
            twin(
                torch.empty(1, self.config.in_channels, height, width),
                torch.empty(1),
                torch.empty(1, text_tokens, self.config.context_in_dim),
                condition=torch.empty(1, self.config.condition_channels, height, width)
                if self.condition_in is not None
                else None,
                strength=torch.empty(1),
                reference=torch.empty(1, self.config.in_channels, *reference) if reference else None,
                route=torch.empty(1, tokens - int(skip * tokens), dtype=torch.long) if skip else None,
            )
        return Cost(sum(p.numel() for p in twin.parameters()), tokens, counter.get_total_flops())

    def merged(self) -> "EditTransformer":
        """This transformer with its active LoRAs added to its weights, and without any LoRA; itself if there is none.

        What the LoRAs leave alone is shared, not copied.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = {name: module for name, module in self.named_modules() if isinstance(module, BaseTunerLayer)}
        if not layers:
            return self
        inside = tuple(f"{name}." for name in layers)
        weights = {key: value for key, value in self.state_dict().items() if not key.startswith(inside)}
        for name, layer in layers.items():
            if not layer.merged and not layer.disable_adapters:
                layer = copy.deepcopy(layer)
                layer.merge()
            weights |= {f"{name}.{key}": value for key, value in layer.get_base_layer().state_dict().items()}
        with torch.device("meta"):
            plain = type(self).from_config(self.config)
        plain.load_state_dict(weights, assign=True)
        return plain.train(self.training)

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """Load as in diffusers. Raises ValueError where the weights are not exactly those of the configuration: what is
        missing would be random, what is unknown would be lost."""
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

    @torch.no_grad()
    def add_task(self, name: str) -> int:
        """Add a task that starts as a copy of the first one (head and embedding); returns its index.

        Parameters are replaced by longer ones: build the optimizer, and wrap the model, afterwards.
        """
        tasks = list(self.config.tasks)
        _check_tasks([*tasks, name])
        self.heads.append_copy(0)
        grown = torch.cat((self.task_in, self.task_in[:1]))
        self.task_in = nn.Parameter(grown, requires_grad=self.task_in.requires_grad)
        self.register_to_config(tasks=[*tasks, name])
        return len(tasks)

    @torch.no_grad()
    def add_guidance(self) -> None:
        """Add the input for the guidance scale, which at first changes nothing; a model that has one keeps it.

        Its first layer is the same for everybody, so that a LoRA trained on one model that has been given the input
        fits another. Build the optimizer, and wrap the model, afterwards.
        """
        if self.guidance_in is not None:
            return
        added = ScalarEmbedder(self.config.hidden_size, self.config.time_factor, self.config.time_max_period)
        nn.init.normal_(added.in_layer.weight, std=0.02, generator=torch.Generator().manual_seed(0))
        for start_at_zero in (added.in_layer.bias, added.out_layer.weight, added.out_layer.bias):
            nn.init.zeros_(start_at_zero)
        self.guidance_in = added.to(self.task_in.device, self.task_in.dtype).train(self.training)
        self.register_to_config(guidance_embeds=True)

    @torch.no_grad()
    def add_reference(self, size: int = 128) -> None:
        """Add the input for a reference picture of `size` x `size` pixels, which at first changes nothing; a model that
        has one keeps it, and its size.

        It starts from what the model knows of pictures: the input projection, and each block's keys and values of image
        tokens. Build the optimizer, and wrap the model, afterwards.
        """
        if self.reference_in is not None:
            return
        self.reference_in = copy.deepcopy(self.img_in)
        for block in self._typed_blocks():
            added = ReferenceAttention(self.config.hidden_size, self.config.num_heads)
            weight = block.attention.img_qkv_proj.weight
            block.attention.reference = added.to(weight.device, weight.dtype).train(self.training)
        self._start_reference()
        self.register_to_config(reference_embeds=True, reference_size=size)

    def _start_reference(self) -> None:
        """Keys and values as of image tokens, and an output of zero: it changes nothing, yet its last layer has a
        gradient in the first step."""
        for block in self._typed_blocks():
            own = block.attention.reference
            assert own is not None
            own.kv_proj.weight.copy_(block.attention.img_qkv_proj.weight[self.config.hidden_size :])
            own.norm_k.weight.copy_(block.attention.norm_k.weight)
            nn.init.zeros_(own.out_proj.weight)

    @classmethod
    def from_prx(
        cls,
        prx: PRXTransformer2DModel,
        *,
        condition_channels: int = 0,
        condition_space: str = "pixels",
        tasks: Sequence[str] = ("generate",),
        guidance_embeds: bool = False,
        prediction_type: str = "velocity",
        reference_embeds: bool = False,
        reference_size: int = 128,
    ) -> "EditTransformer":
        """Build an editor from a `diffusers.PRXTransformer2DModel`, weights copied, in its dtype and on its device.

        Every task's head starts as PRX's final layer and the edit inputs start at zero, so the editor's output is at
        first PRX's. The pixel-space PRX models predict the clean image: pass `prediction_type="sample"` for them.
        """
        trunk = {name: prx.config[name] for name in PRX_FIELDS if name in prx.config}
        model = cls(
            **trunk,
            condition_channels=condition_channels,
            condition_space=condition_space,
            tasks=list(tasks),
            guidance_embeds=guidance_embeds,
            prediction_type=prediction_type,
        )
        nn.Module.to(model, device=prx.device, dtype=prx.dtype)  # diffusers' own `to` warns at any cast

        weights = dict(prx.state_dict())
        for ours, theirs in (
            ("modulation_weight", "adaLN_modulation.1.weight"),
            ("modulation_bias", "adaLN_modulation.1.bias"),
            ("weight", "linear.weight"),
            ("bias", "linear.bias"),
        ):
            head = weights.pop(f"final_layer.{theirs}")
            weights[f"heads.{ours}"] = head.expand(len(tasks), *head.shape)
        missing, unexpected = model.load_state_dict(weights, strict=False)
        edit_inputs = ("condition_in.", "task_in", "strength_in.", "guidance_in.")
        if unexpected or any(not name.startswith(edit_inputs) for name in missing):
            strays = [*unexpected, *(name for name in missing if not name.startswith(edit_inputs))]
            raise ValueError(f"{type(prx).__name__} is not a PRX transformer: {strays[0]} does not match")
        if reference_embeds:
            model.add_reference(reference_size)
        return model

    def _typed_blocks(self) -> Sequence[Block]:
        return cast("Sequence[Block]", self.blocks)  # a ModuleList does not tell type checkers what it holds

    def _check_inputs(
        self,
        hidden_states: Tensor,
        text: Tensor | None,
        mask: Tensor | None,
        condition: Tensor | None,
        guidance: Tensor | None,
        text_kv: Tensor | None,
    ) -> None:
        """Refuse what does not fit, by shapes only, so that nothing waits for the device."""
        config, shape = self.config, tuple(hidden_states.shape)
        if len(shape) != 4 or shape[1] != config.in_channels:
            raise ValueError(f"hidden_states has shape {shape}: give (batch, {config.in_channels}, height, width)")
        if shape[2] % config.patch_size or shape[3] % config.patch_size:
            raise ValueError(
                f"latent of {shape[2]} x {shape[3]} does not divide into patches of {config.patch_size}: "
                f"pad or crop to multiples of {config.patch_size}"
            )
        if condition is not None:
            wanted = (shape[0], config.condition_channels, *shape[2:])
            if self.condition_in is None:
                raise ValueError("this model has no condition input: build it with condition_channels > 0")
            if tuple(condition.shape) != wanted:
                raise ValueError(f"condition has shape {tuple(condition.shape)}: give {wanted}")
        if guidance is not None and self.guidance_in is None:
            raise ValueError("this model has no guidance input: build it with guidance_embeds=True")

        if text is not None and text_kv is None:
            _check_text(text, config.context_in_dim)
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

    def _check_reference(
        self, hidden_states: Tensor, latents: Tensor | None, kv: Tensor | None, referenced: Tensor | None
    ) -> None:
        """Refuse a reference that does not fit, by shapes only."""
        config, batch = self.config, hidden_states.shape[0]
        if latents is None and kv is None:
            return
        if latents is not None and kv is not None:
            raise ValueError("give either reference or reference_kv (from encode_reference), not both")
        if latents is not None:
            self._check_reference_latents(latents)
        if kv is not None:
            shape = tuple(kv.shape)
            form = (config.depth, 2, config.num_heads, config.hidden_size // config.num_heads)
            if self.reference_in is None or len(shape) != 6 or (*shape[1:3], *shape[4:]) != form:
                hint = "give (batch, {}, {}, tokens, {}, {}), from this model's encode_reference".format(*form)
                raise ValueError(f"reference_kv has shape {shape}: {hint}")
        count = next(len(given) for given in (latents, kv) if given is not None)
        if referenced is not None and referenced.dtype == torch.long:
            if tuple(referenced.shape) != (count,):
                raise ValueError(f"referenced has shape {tuple(referenced.shape)}: give ({count},), one per reference")
            return
        if count not in (1, batch):
            raise ValueError(f"{count} references for {batch} latents: give one for all, or one for each")
        if referenced is not None and (referenced.ndim != 1 or len(referenced) not in (1, batch)):
            raise ValueError(f"referenced has shape {tuple(referenced.shape)}: give ({batch},)")

    def _check_reference_latents(self, latents: Tensor) -> None:
        if self.reference_in is None:
            raise ValueError("this model takes no reference image: build it with reference_embeds=True")
        shape, patch = tuple(latents.shape), self.config.patch_size
        if len(shape) != 4 or shape[1] != self.config.in_channels or shape[2] % patch or shape[3] % patch:
            wanted = f"(batch, {self.config.in_channels}, height, width), multiples of {patch}"
            raise ValueError(f"reference has shape {shape}: give {wanted}")

    def _check_extras(self, hidden_states: Tensor, route: Tensor | None, tap: int | None) -> None:
        """Refuse a route or a tap that does not fit, by shapes only."""
        batch, _, height, width = hidden_states.shape
        tokens = (height // self.config.patch_size) * (width // self.config.patch_size)
        if tap is not None and not 0 <= tap < len(self.blocks):
            raise ValueError(f"tap={tap}: there are blocks 0 to {len(self.blocks) - 1}")
        if route is None:
            return
        if not self.route_span:
            raise ValueError(f"a route needs a depth of at least 6, and this model's is {len(self.blocks)}")
        if route.ndim != 2 or route.shape[0] != batch or not 0 < route.shape[1] <= tokens:
            raise ValueError(f"route has shape {tuple(route.shape)}: give ({batch}, 1 to {tokens}) token indices")


def _patch_projection(patch_dim: int, bottleneck_size: int | None, hidden_size: int) -> nn.Module:
    """From a patch's values to a token; through a bottleneck, two layers."""
    if bottleneck_size is None:
        return nn.Linear(patch_dim, hidden_size)
    return nn.Sequential(nn.Linear(patch_dim, bottleneck_size), nn.Linear(bottleneck_size, hidden_size))


def _routed(x: Tensor, rope: Tensor, mask: Tensor | None, route: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Tokens, rotary table and key mask of the routed tokens alone: (B, T', D), (B, T', 1, d / 2, 2), (.., L + T')."""
    gone = x.shape[1] - route.shape[1]
    # The mask's image part is all true, so any T' of it will do.
    return take_tokens(x, route), rope[route], None if mask is None else mask[..., : mask.shape[-1] - gone]


def _key_mask(attention_mask: Tensor, image_tokens: int) -> Tensor:
    """(B, L) -> (B, 1, 1, L + T): padding is hidden from every query, image tokens never are."""
    return F.pad(attention_mask.bool(), (0, image_tokens), value=True)[:, None, None]


def _check_text(text: Tensor, width: int) -> None:
    if text.ndim != 3 or text.shape[-1] != width:
        raise ValueError(f"encoder_hidden_states has shape {tuple(text.shape)}: give (batch, tokens, {width})")


def _check_tasks(tasks: Sequence[str]) -> None:
    if isinstance(tasks, str) or not tasks or not all(isinstance(name, str) and name for name in tasks):
        raise ValueError(f"tasks={tasks!r}: give a list of at least one name")
    if len(set(tasks)) != len(tasks):
        raise ValueError(f"tasks={list(tasks)!r} names a task twice: each name has one head")


def _check_sizes(sizes: dict[str, Any]) -> None:
    for name, value in sizes.items():
        most = _DEEPEST if name == "depth" else _WIDEST
        if not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError(f"{name}={value!r}: give a whole number from 1 to {most}")


def _check_config(
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
    _check_tasks(tasks)
