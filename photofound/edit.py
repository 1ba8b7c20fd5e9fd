"""The two things that every edit is made of: the ``Condition`` that flows through the house, and the ``Task`` that makes it.

Shapes: B batch, H and W pixels. Pictures are RGB in [-1, 1]; holes are in [0, 1], 1 = the model paints here.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from photofound.image import Picture


@dataclass(frozen=True)
class Condition:
    """What the model is given, one for training and inference alike.

    Attributes:
        canvas: (B, 3, H, W) in [-1, 1], the pixels that the model may look at.
        hole: (B, 1, H, W) in [0, 1]; 1 = the model paints here, 0 = given.
        task: name of the edit; a training batch may mix tasks, so one per sample.
        prompt: one per sample; may be empty.
        strength: (B,) in [0, 1], how much of the canvas is trusted (upscale: degradation level).
    """

    canvas: Tensor
    hole: Tensor
    task: Sequence[str]
    prompt: Sequence[str]
    strength: Tensor

    def __post_init__(self) -> None:
        batch, channels, *size = self.canvas.shape
        assert channels == 3 and self.hole.shape == (batch, 1, *size), (self.canvas.shape, self.hole.shape)
        assert len(self.task) == len(self.prompt) == len(self.strength) == batch

    def __len__(self) -> int:
        return len(self.canvas)

    def to(self, device: torch.device | str) -> Condition:
        """The same condition on another device."""
        return replace(self, canvas=self.canvas.to(device), hole=self.hole.to(device), strength=self.strength.to(device))

    @staticmethod
    def cat(parts: Sequence[Condition]) -> Condition:
        """Conditions of one size, joined along the batch."""
        import torch

        return Condition(
            torch.cat([p.canvas for p in parts]),
            torch.cat([p.hole for p in parts]),
            [t for p in parts for t in p.task],
            [t for p in parts for t in p.prompt],
            torch.cat([p.strength for p in parts]),
        )


@dataclass(frozen=True)
class Sample:
    """A training batch as it comes from the data: what ``Task.example`` makes a Condition of.

    Attributes:
        pixels: (B, 3, H, W) in [-1, 1]; the target of every task.
        matte: (B, 1, H, W) in [0, 1], 1 = the object; zeros where there is none.
        whole: (B,) bool, True where the matte is a complete object that does not touch the frame.
        prompt: one caption per sample.
    """

    pixels: Tensor
    matte: Tensor
    whole: Tensor
    prompt: Sequence[str]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: Tensor) -> Sample:
        return Sample(self.pixels[index], self.matte[index], self.whole[index], [self.prompt[i] for i in index.tolist()])


@dataclass(frozen=True)
class Input:
    """One thing that a task asks of its user; the CLI, the demo and the server are built from these.

    Attributes:
        name: the pipeline's argument.
        kind: ``image``, ``mask``, ``text``, ``int``, ``length`` (pixels or ``"25%"``), ``aspect`` (``"4:5"``), ``size`` (``"800x600"``).
        help: one line for people.
        default: the value when it is left out.
        required: without it there is no edit; on the command line it is positional.
    """

    name: str
    kind: str
    help: str
    default: Any = None
    required: bool = False


@dataclass(frozen=True)
class Job:
    """A request made ready at the photograph's own size.

    Attributes:
        picture: the native pixels that the result is composited onto (for expand: already on the larger canvas).
        condition: of batch 1, at the picture's size.
        fit: what the model works on: ``hole`` = a crop around the hole; ``canvas`` = all of it, scaled; ``tiles`` = all of it at its size.
        extras: what ``finish`` needs besides.
    """

    picture: Picture
    condition: Condition
    fit: str = "hole"
    extras: dict[str, Any] = field(default_factory=dict)


class Task:
    """One edit. Subclasses are stateless; ``get_task`` gives the one instance.

    A task file defines a subclass, its pipeline class, and ``TASK = ThatSubclass()``.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    inputs: ClassVar[tuple[Input, ...]]
    pipeline: ClassVar[type]

    def condition(self, picture: Picture, prompt: str = "", **inputs: Any) -> Job:
        """Turn what the user gave into a Job. Raises ValueError for what cannot be edited."""
        raise NotImplementedError(f"task {self.name!r} does not define condition()")

    def example(self, sample: Sample, generator: torch.Generator) -> Condition:
        """Make training conditions whose target is ``sample.pixels``."""
        raise NotImplementedError(f"task {self.name!r} does not define example()")

    def usable(self, sample: Sample) -> Tensor:
        """(B,) bool: which samples this task can learn from; all, unless it says otherwise."""
        import torch

        return torch.ones(len(sample), dtype=torch.bool, device=sample.pixels.device)

    def finish(self, job: Job, generated: Tensor) -> Picture:
        """Put ``generated`` (3, H, W) in [-1, 1], at the picture's size, into the picture; kept pixels stay exact."""
        raise NotImplementedError(f"task {self.name!r} does not define finish()")


TASK_PATH = "PHOTOFOUND_TASKS"  # folders of further task files, separated like PATH
ENTRY_POINTS = "photofound.tasks"


@cache
def _finders() -> dict[str, Callable[[], ModuleType]]:
    """Task names and how to import each; nothing is imported here."""

    def from_file(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"photofound_task_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    package = importlib.import_module("photofound.tasks")
    found: dict[str, Callable[[], ModuleType]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        found[info.name] = lambda name=info.name: importlib.import_module(f"photofound.tasks.{name}")
    for entry in entry_points(group=ENTRY_POINTS):
        found[entry.name] = entry.load
    for folder in filter(None, os.environ.get(TASK_PATH, "").split(os.pathsep)):
        for path in sorted(Path(folder).glob("[!_]*.py")):
            found[path.stem] = lambda path=path: from_file(path)
    return found


def task_names() -> list[str]:
    """All tasks that can be had: the built-in ones, those of entry points (group ``photofound.tasks``, each naming a module) and
    the files in the folders of the environment variable ``PHOTOFOUND_TASKS``."""
    return sorted(_finders())


@cache
def get_task(name: str) -> Task:
    """The task called ``name``. Raises ValueError naming the known ones."""
    finders = _finders()
    if name not in finders:
        raise ValueError(f"task: {name!r} is unknown; choose one of {', '.join(sorted(finders))}")
    task = getattr(finders[name](), "TASK", None)
    if not isinstance(task, Task) or task.name != name:
        raise ValueError(f"task: the file of {name!r} must define TASK, a photofound.edit.Task with that name")
    return task
