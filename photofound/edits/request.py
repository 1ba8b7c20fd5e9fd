"""What somebody asks for, whichever way it came: command line, server, demo, ComfyUI or evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from photofound.image import Picture


@dataclass(frozen=True)
class Request:
    """One edit of one photograph. It becomes a picture in three steps:

        pipe = any_pipeline.for_task(request.task)
        job = pipe.prepare(request.picture, **request.inputs)   # once, however many pictures are made of it
        pictures = pipe.run([job], [request.generator()], *pipe.settings(request))

    ``EditPipeline.answer`` takes the three together.

    Attributes:
        task: its name.
        picture: the photograph; None for a task that takes none.
        inputs: what the task asks for, by name; masks and images as pictures or arrays. What is left out has its
            default.
        seed: the same seed gives the same pixels, alone or in a batch; None = unknown, for a recipe alone.
        steps, guidance, resample: None = the model's own, see ``photofound.pipeline.Settings``.
        best_of: of how many results the best is returned; None = 1. Not together with layers.
        layers: whether the layers of the result are wanted, too.
    """

    task: str
    picture: Picture | None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = 0
    steps: int | None = None
    guidance: float | None = None
    resample: int | None = None
    layers: bool = False
    best_of: int | None = None

    def generator(self, variant: int = 0) -> torch.Generator:
        """What the noise of a variant is drawn from: on the CPU, so that every device draws the same numbers."""
        import torch

        assert self.seed is not None
        return torch.Generator().manual_seed(self.seed + variant)
