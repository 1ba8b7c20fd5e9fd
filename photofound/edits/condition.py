"""What a model is given and what it is trained on: the ``Condition`` and the ``Sample``.

Shapes: B batch, H and W pixels. Pictures are RGB in [-1, 1]; holes are in [0, 1], 1 = the model paints here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """What the model is given, one for training and inference alike.

    Attributes:
        canvas: (B, 3, H, W) in [-1, 1], the pixels that the model may look at.
        hole: (B, 1, H, W) in [0, 1]; 1 = the model paints here, 0 = given.
        task: name of the edit; a training batch may mix tasks, so one per sample.
        prompt: one per sample; may be empty.
        strength: (B,) in [0, 1], how much of the canvas is trusted (upscale: degradation level).
        reference: (B, 3, R, R) in [-1, 1], pictures of the wanted surfaces, or None; a guest's are not square.
        referenced: (B,) bool, which samples have a reference; None where ``reference`` is.
    """

    canvas: Tensor
    hole: Tensor
    task: Sequence[str]
    prompt: Sequence[str]
    strength: Tensor
    reference: Tensor | None = None
    referenced: Tensor | None = None

    def __post_init__(self) -> None:
        batch, channels, *size = self.canvas.shape
        assert channels == 3 and self.hole.shape == (batch, 1, *size), (self.canvas.shape, self.hole.shape)
        assert len(self.task) == len(self.prompt) == len(self.strength) == batch
        assert (self.reference is None) == (self.referenced is None), "a reference, and who has one: both or neither"
        if self.reference is not None and self.referenced is not None:
            assert len(self.reference) == len(self.referenced) == batch, (self.reference.shape, self.referenced.shape)

    def __len__(self) -> int:
        return len(self.canvas)

    def to(self, device: torch.device | str) -> Condition:
        """The same condition on another device."""
        tensors = ("canvas", "hole", "strength", "reference", "referenced")
        moved = {name: value.to(device) for name in tensors if (value := getattr(self, name)) is not None}
        return replace(self, **moved)

    def split(self) -> list[Condition]:
        """Undo ``cat``: one condition of batch 1 per sample."""
        parts = zip(
            self.canvas.split(1), self.hole.split(1), self.task, self.prompt, self.strength.split(1), strict=True
        )
        split = [Condition(canvas, hole, [task], [prompt], strength) for canvas, hole, task, prompt, strength in parts]
        if self.reference is None or self.referenced is None:
            return split
        pairs = zip(split, self.reference.split(1), self.referenced.split(1), strict=True)
        return [replace(part, reference=r, referenced=has) if bool(has) else part for part, r, has in pairs]

    @staticmethod
    def cat(parts: Sequence[Condition]) -> Condition:
        """Conditions of one size, joined along the batch."""
        import torch

        references = [p.reference for p in parts if p.reference is not None]
        blank = references[0][:1] * 0 if references else None

        def of(part: Condition) -> tuple[Tensor, Tensor]:
            if part.reference is not None and part.referenced is not None:
                return part.reference, part.referenced
            assert blank is not None
            nobody = torch.zeros(len(part), dtype=torch.bool, device=blank.device)
            return blank.expand(len(part), -1, -1, -1), nobody

        pairs = [of(p) for p in parts] if references else []
        return Condition(
            torch.cat([p.canvas for p in parts]),
            torch.cat([p.hole for p in parts]),
            [t for p in parts for t in p.task],
            [t for p in parts for t in p.prompt],
            torch.cat([p.strength for p in parts]),
            torch.cat([pair[0] for pair in pairs]) if pairs else None,
            torch.cat([pair[1] for pair in pairs]) if pairs else None,
        )


@dataclass(frozen=True)
class Sample:
    """A training batch as it comes from the data: what ``Task.example`` makes a Condition of.

    Attributes:
        pixels: (B, 3, H, W) in [-1, 1]; the target of most tasks, see ``Task.target``.
        matte: (B, 1, H, W) in [0, 1], 1 = the object; zeros where there is none. With a task's ``needs_object`` it is a
            complete object that does not touch the frame.
        prompt: one caption per sample.
        latents: (B, C, h, w), the target's, where they were made before training; see ``precomputed``.
        embeddings: prompt -> (L, D), of those whose embeddings were.
    """

    pixels: Tensor
    matte: Tensor
    prompt: Sequence[str]
    latents: Tensor | None = None
    embeddings: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: Tensor) -> Sample:
        latents, prompt = (
            None if self.latents is None else self.latents[index],
            [self.prompt[i] for i in index.tolist()],
        )
        return Sample(self.pixels[index], self.matte[index], prompt, latents, self.embeddings)

    @staticmethod
    def cat(parts: Sequence[Sample]) -> Sample:
        """Samples of one size, joined along the batch."""
        import torch

        latents = [part.latents for part in parts if part.latents is not None]
        assert len(latents) in (0, len(parts)), "all of a batch have latents, or none"
        return Sample(
            torch.cat([part.pixels for part in parts]),
            torch.cat([part.matte for part in parts]),
            [prompt for part in parts for prompt in part.prompt],
            torch.cat(latents) if latents else None,
            {prompt: value for part in parts for prompt, value in part.embeddings.items()},
        )
