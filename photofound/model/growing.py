"""What a trained transformer gains later: tasks and inputs that change nothing until they are trained.

Parameters are added or replaced: build the optimizer, and wrap the model, afterwards.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from photofound.model import checks
from photofound.model.attention import ReferenceAttention
from photofound.model.layers import Fusion, ScalarEmbedder


class Growing:
    """The methods by which an ``EditTransformer`` grows."""

    config: Any
    training: bool
    blocks: Any
    heads: Any
    img_in: Any
    task_in: nn.Parameter
    guidance_in: ScalarEmbedder | None
    reference_in: nn.Module | None
    fusion: Fusion | None
    register_to_config: Any

    @torch.no_grad()
    def add_task(self, name: str) -> int:
        """Add a task that starts as a copy of the first one (head and embedding); returns its index.

        Parameters are replaced by longer ones: build the optimizer, and wrap the model, afterwards.
        """
        tasks = list(self.config.tasks)
        checks.check_tasks([*tasks, name])
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
        for block in self.blocks:
            added = ReferenceAttention(self.config.hidden_size, self.config.num_heads)
            weight = block.attention.img_qkv_proj.weight
            block.attention.reference = added.to(weight.device, weight.dtype).train(self.training)
        self.start_reference()
        self.register_to_config(reference_embeds=True, reference_size=size)

    @torch.no_grad()
    def add_fusion(self) -> None:
        """Add the fusion, which at first changes nothing; a model that has one keeps it. Build the optimizer, and wrap
        the model, afterwards. Raises ValueError for fewer than five blocks."""
        if self.fusion is not None:
            return
        if len(self.blocks) < 5:
            raise ValueError(f"model.fusion: needs a depth of at least 5, and this is {len(self.blocks)}")
        self.fusion = Fusion(self.config.hidden_size).to(self.task_in.device, self.task_in.dtype).train(self.training)
        self.register_to_config(token_fusion=True)

    def start_reference(self) -> None:
        """Keys and values as of image tokens, and an output of zero: it changes nothing, yet its last layer has a
        gradient in the first step."""
        for block in self.blocks:
            own = block.attention.reference
            assert own is not None
            own.kv_proj.weight.copy_(block.attention.img_qkv_proj.weight[self.config.hidden_size :])
            own.norm_k.weight.copy_(block.attention.norm_k.weight)
            nn.init.zeros_(own.out_proj.weight)
