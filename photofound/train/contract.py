"""What the loop asks of a stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn


class Stage(Protocol):
    """What a training script supplies.

    It is built by ``StageClass(config, world)``, where ``world`` says on which device, and which share of the data is
    this process's (a stage that draws from what lies in memory needs only the device). Every process builds the same
    weights. Optional: ``batch_size(size, progress) -> int``, how many samples take the place of ``size`` at that
    progress; ``validate() -> dict`` of scalars, what is held out measured in the same way each time, and ``pictures()
    -> dict`` of (H, W, 3) uint8, named pictures beside each sheet, which are called as ``sheet`` is; ``work(progress)
    -> (tokens, FLOP)``, of a sample in a step; ``ahead``, true where batches do not depend on what is trained, so that
    the next one may be drawn before a step is over; and for a stage that reads a stream ``state_dict() -> dict``
    (anything JSON can hold) and ``load_state_dict(dict)``, its position in the data, which are called with a
    checkpoint, in every process.
    ``compile_step()`` compiles its networks and losses whole, for ``train.compile_step``. ``rates`` is a dict: part of
    ``module`` -> its learning rate over ``train.lr``.
    Optional, for the model's card: ``record() -> dict`` with some of ``parts`` (names of the components trained),
    ``data`` (of ``record.Origin``), ``filtering`` (sentences), ``rooms`` (of ``record.RoomRead``) and ``parents`` (of
    ``record.Training``); ``note_reading(run_dir, training)`` is called when the run begins.

    Attributes:
        module: everything that is trained. Its tensors that need no gradient are kept, too.
        blocks: its repeated blocks: the unit of compiling and of sharding; their matrices are Muon's.
    """

    module: nn.Module
    blocks: Sequence[nn.Module]

    def batch(self, generator: torch.Generator, size: int, progress: float) -> Any:
        """About ``size`` samples at ``progress`` (the share of the run that is over, in [0, 1]).

        ``generator`` is on the device and is this micro-batch's own. All that is random, here and in ``loss``, comes
        from it or from torch's own generators, which are seeded just before, for each of the two anew.
        """

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise, a mean over the batch, and scalars to log; what is NaN among them is left out."""

    def sheet(self) -> np.ndarray:
        """A sheet of sample pictures, (H, W, 3) uint8, always of the same inputs. Every process calls it, without
        gradients, in evaluation mode, with the averaged weights."""

    def export(self, folder: Path) -> None:
        """Write the model as a user loads it. Called once, by the first process, when the run is finished."""
