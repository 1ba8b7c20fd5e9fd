"""What an edit is: the ``Job`` that a request is made into, and the ``Task`` that makes it.

Shapes: B batch, H and W pixels. Pictures are RGB in [-1, 1]; holes are in [0, 1], 1 = the model paints here.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from photofound.edits.condition import Condition as Condition
from photofound.edits.condition import Sample as Sample
from photofound.edits.inputs import FOLDER, SUBJECT_INPUTS, Input, declared
from photofound.edits.inputs import asks as asks
from photofound.edits.segmenter import Search
from photofound.plugins import finders

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from photofound.edits.geometry import Box
    from photofound.image import Picture
    from photofound.picture.layers import Layer

# Names that belong to every edit, in one entry or another: an input of a task must not have them.
RESERVED = frozenset(
    """
    image pipe seed steps guidance images num_images num_inference_steps guidance_scale num_images_per_prompt generator
    callback_on_step_end callback_on_step_end_tensor_inputs output_type return_dict layers
    output format resample strip mark no_mark recipe no_recipe c2pa_cert c2pa_key overwrite skip_existing recursive
    report quiet max_pixels save_subject
    help model teacher device dtype best_of fallback fallback_below quantize cache cache_threshold path_drop
    """.split()
)


SAMPLING = ("steps", "guidance", "resample", "num_inference_steps", "guidance_scale", "negative_prompt")
"""Settings of how results are sampled, under all their names."""


@dataclass(frozen=True)
class Job:
    """A request made ready at the photograph's own size (W x H).

    Attributes:
        picture: the native pixels that the result is composited onto (expand: already on the larger canvas).
        hole: (H, W) float32 in {0, 1}; 1 = the model paints here.
        keep: (H, W) float32 in [0, 1]; 1 = this pixel of ``picture`` comes back exactly, between = soft edge.
        prompt: may be empty.
        strength: in [0, 1], see Condition.
        reference: a picture of the wanted surface, as the user gave it, or None.
        ground: the surface or picture that is painted; None where the model invents it.
        resample: how often each step is taken if the model was never trained for the task.
        attempt: which of several candidates it is: each starts from other patches of the photograph.
        segment: how the subject is found, for a task that finds it in ``run``; None = as the model does by itself.
        at: (x, y) in ``picture`` of the photograph's first pixel; None = it was scaled, and none of its pixels is kept.
        asked: the Request that it was made of, as far as ``prepare`` knows it.
        bare: what is painted is wanted alone, as a layer: nothing that is kept is laid over it.
    """

    picture: Picture
    hole: np.ndarray
    keep: np.ndarray
    prompt: str = ""
    strength: float = 0.0
    reference: Picture | None = None
    ground: Any = None
    resample: int = 1
    attempt: int = 0
    segment: Search | None = None
    at: tuple[int, int] | None = (0, 0)
    asked: Any = None
    bare: bool = False

    @property
    def pasted(self) -> np.ndarray:
        """``keep`` as what is painted is pasted by; of a bare job, 0 wherever it is soft."""
        return (self.keep >= 1).astype(np.float32) if self.bare else self.keep


@dataclass(frozen=True)
class Backdrop:
    """A background that a model starts from instead of noise.

    Attributes:
        pixels: (H, W, 3) float32 in [0, 1], at the photograph's own size.
        note: what it is, in words: ``background: wood, brown``.
    """

    pixels: np.ndarray
    note: str


class Task(ABC):
    """One edit. Subclasses are stateless; ``get_task`` gives the one instance.

    A task file defines a subclass and ``TASK = ThatSubclass()``. ``prepare`` and ``finish`` are the two ends of
    inference, ``compose``, ``example`` and ``target`` are training, and ``canvas`` is what both show to the model.

    Attributes:
        name: as people type it: ``photofound NAME``. A pipeline is made of it: ``photofound.NamePipeline``.
        summary: one line for people.
        inputs: what its user gives beside the photograph; from the annotated parameters of ``prepare``.
        fit: what the model works on. ``hole``: a crop around the hole; ``canvas``: all of the picture, its long side
            scaled to the model's size; ``area``: all of it, scaled to the model's area; ``tiles``: all of it at its own
            size, tile by tile.
        needs_object: whether ``example`` wants samples whose matte is a complete object.
        layer_names: what the painted and the kept layer are called, where a result has such (``layers``).
        exemplars: whether a hole is one in given pixels, which may be filled from the photograph's own patches
            (``photofound.edits.exemplar``).
        needs_others: whether ``compose`` wants other photographs.
        wants_segmenter: whether ``prepare`` takes ``segment``, a ``segmenter.Search``, which finds the subject of
            (H, W, 3) float32 in [0, 1]. Such a task also asks for ``SUBJECT_INPUTS``, from which the search is made.
        generates: whether results may hold pixels that a model has painted (``Picture.generated``), and so are marked
            (``provenance``).
        rare: names of inputs for the few who look for them: a page folds them away.
        needs_network: whether a network makes its results; without, every model offers it.
        instructs: whether its prompt is an instruction, which few models follow.
        takes_picture: whether it works on a photograph; if not, ``prepare`` is given None, and the task asks for a
            ``size``.
        alpha: whether results have an alpha channel, which not every file format holds.
        regression: whether there is one right answer, which the model gives in one step from x_1 = 0: such a task is
            trained at t = 1 without noise, and neither steps, guidance nor seed change what comes out.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    inputs: ClassVar[tuple[Input, ...]] = ()
    fit: ClassVar[str] = "hole"
    needs_object: ClassVar[bool] = False
    needs_others: ClassVar[bool] = False
    wants_segmenter: ClassVar[bool] = False
    generates: ClassVar[bool] = True
    takes_picture: ClassVar[bool] = True
    rare: ClassVar[frozenset[str]] = frozenset()
    needs_network: ClassVar[bool] = True
    instructs: ClassVar[bool] = False
    alpha: ClassVar[bool] = False
    regression: ClassVar[bool] = False
    exemplars: ClassVar[bool] = False
    layer_names: ClassVar[tuple[str, str] | None] = None

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "prepare" in cls.__dict__ and "inputs" not in cls.__dict__:
            cls.inputs = declared(cls.prepare) + (SUBJECT_INPUTS if cls.wants_segmenter else ())

    @property
    def has_layers(self) -> bool:
        """Whether a result can be had as layers."""
        return self.layer_names is not None or type(self).layers is not Task.layers

    @property
    def takes_reference(self) -> bool:
        """Whether its user may give a picture of the wanted surface."""
        return any(each.name == "reference" for each in self.inputs)

    @property
    def samples(self) -> bool:
        """Whether its results are sampled, so that steps, guidance and the like count."""
        return self.needs_network

    @property
    def varies(self) -> bool:
        """Whether another seed can give another result."""
        return not self.regression

    def ignored(self, settings: Mapping[str, Any]) -> str:
        """What to tell of settings of sampling that are given to a task that samples nothing, in one sentence; else
        empty. Whoever offers settings leaves these out; pipelines and the server, whose callers may give the same ones
        to every task, as in diffusers, take them and tell this."""
        given = [] if self.samples else [name for name in SAMPLING if settings.get(name) is not None]
        return f"{self.name} samples nothing, so {', '.join(given)} changed nothing" if given else ""

    @property
    def keeps(self) -> bool:
        """Whether its results keep a part of the photograph that the rest can be judged by (``best_of``)."""
        return self.takes_picture and self.generates and self.needs_network and self.fit != "tiles"

    def with_defaults(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs, and the defaults of those that were left out; None for a required one, which ``prepare``
        refuses. Without ``SUBJECT_INPUTS``: ``prepare`` takes ``segment`` in their place."""
        given = {each.name: each.default for each in self.inputs} | dict(inputs)
        searched = {each.name for each in SUBJECT_INPUTS} if self.wants_segmenter else set()
        return {name: value for name, value in given.items() if name not in searched}

    @abstractmethod
    def prepare(self, picture: Any, *args: Any, **inputs: Any) -> Job:
        """Check what the user gave and make a Job of it. A subclass names its inputs here, each annotated with what it
        asks (``asks``), in the order of the pipeline's arguments. Raises ValueError for what cannot be edited."""

    def result_size(self, picture: Any, **inputs: Any) -> tuple[int, int]:
        """(width, height) of what comes out, before anything is computed; ``inputs`` as for ``prepare``. A task that
        changes the size, or takes no picture, overrides this."""
        size: tuple[int, int] = picture.size
        return size

    def result_alpha(self, **inputs: Any) -> bool:
        """Whether the result has an alpha channel; ``inputs`` as for ``prepare``, before anything is read."""
        return self.alpha

    def result_format(self, **inputs: Any) -> str | None:
        """Pillow's name of the format that a result gets where nobody names one; None = the photograph's."""
        return None

    def faults(self, path: Path, **inputs: Any) -> list[str]:
        """What is wrong with a file that was written, by the rules that ``inputs`` name; one line each."""
        return []

    def run(
        self,
        pipe: Any,
        jobs: Sequence[Job],
        generators: Sequence[torch.Generator | None],
        steps: int,
        guidance: float,
        callback: Callable[..., Any] | None = None,
    ) -> list[Picture]:
        """Work on jobs: one picture for each. ``pipe`` is an EditPipeline, whose ``paint`` does it by default."""
        return list(pipe.paint(jobs, generators, steps, guidance, callback))

    def layers(
        self,
        pipe: Any,
        job: Job,
        generator: torch.Generator | None,
        steps: int,
        guidance: float,
        callback: Callable[..., Any] | None = None,
    ) -> list[Layer]:
        """The result as layers, from the bottom to the top; flat they are the result. By default what is painted, what
        is kept over it by its alpha, and the mask, hidden; of tasks with ``layer_names``. Raises ValueError of others,
        and for a result that is transparent in part."""
        from photofound.picture.layers import layer, mask_layer

        if self.layer_names is None:
            raise ValueError(f"layers: {self.name} has none; leave the option out")
        (painted,) = self.run(pipe, [replace(job, bare=True)], [generator], steps, guidance, callback)
        if painted.has_alpha:
            raise ValueError("layers: the photograph is transparent in part; lay it on a colour first")
        kept = replace(job.picture, pixels=job.picture.colours)
        below, above = self.layer_names
        return [layer(below, painted), layer(above, kept, job.keep), mask_layer(painted, job.keep)]

    @abstractmethod
    def example(self, sample: Sample, generator: torch.Generator) -> Condition:
        """Training conditions for the ``target`` of a sample."""

    def target(self, sample: Sample) -> Tensor:
        """What the model is trained to paint: (B, 3, H, W) in [-1, 1]."""
        return sample.pixels

    def compose(self, sample: Sample, others: Sample | None, generator: torch.Generator) -> Sample:
        """What becomes of the photographs before ``example`` and ``target`` see them. ``others`` are as many random
        photographs, for tasks with ``needs_others``."""
        return sample

    def canvas(self, pixels: Tensor, hole: Tensor) -> Tensor:
        """What the model sees: (B, 3, H, W). By default the hole is filled smoothly from its border, so that the model
        starts from the right colour and light and spends its capacity on what is missing."""
        from photofound.edits.composite import harmonic

        return harmonic(pixels, hole == 0)

    def backdrop(self, job: Job, generator: torch.Generator | None, surfaces: bool) -> Backdrop | None:
        """The background that sampling starts from, or None, as by default: from noise.

        Args:
            generator: the edit's own; whoever draws from it returns a backdrop.
            surfaces: whether the checkpoint wants drawn surfaces where a prompt names one.
        """
        return None

    def finish(self, job: Job, generated: Tensor, box: Box) -> Picture:
        """Put ``generated`` (1, 3, h, w) in [-1, 1], which covers ``box`` of the picture, into it. Kept pixels stay
        exact; by default the seam is closed on the generated side, but for that of another surface: there is one."""
        from photofound import image
        from photofound.edits.composite import close_seam

        hole = job.hole[box.slices]
        given = image.to_tensor(job.picture.crop(box).rgb(hole > 0)).to(generated)
        meets = job.ground is None
        closed = close_seam(generated, given, torch_from(hole).to(generated)) if meets else generated
        return job.picture.paste(image.from_tensor(closed), job.keep[box.slices], (box.left, box.top))

    def conditions(
        self, sample: Sample, hole: Tensor, canvas: Tensor | None = None, strength: Tensor | None = None
    ) -> Condition:
        """A training batch of this one task, with ``canvas()`` applied to the sample unless a canvas is given."""
        return Condition(
            canvas=self.canvas(sample.pixels, hole) if canvas is None else canvas,
            hole=hole,
            task=[self.name] * len(sample),
            prompt=sample.prompt,
            strength=hole.new_zeros(len(sample)) if strength is None else strength,
        )


def offered(task: Task, folders: bool = False) -> list[Input]:
    """What to ask a task's user for, besides the photograph itself; ``folders`` of this machine are asked for on the
    command line alone. Raises ValueError for a name that every edit has already."""
    found = [each for each in task.inputs if each.name != "image" and (folders or each.kind != FOLDER)]
    for each in found:
        if {each.name, each.name.removesuffix("_image")} & RESERVED:  # forms call files without the ending
            own = f"task {task.name!r}: its input {each.name!r}"
            raise ValueError(f"{own} clashes with what every edit takes; rename it")
    return found


def is_regression(condition: Condition) -> Tensor:
    """(B,) bool: which samples belong to a task with one right answer (``Task.regression``)."""
    import torch

    known = set(task_names())  # a model's trunk has a head too, and no task
    flags = [name in known and get_task(name).regression for name in condition.task]
    return torch.tensor(flags, dtype=torch.bool, device=condition.canvas.device)


def enlargement_strength(scale: float) -> float:
    """The strength that stands for an enlargement: 0 for x1, 1 for x4 and more."""
    return min(1.0, max(0.0, (scale - 1) / 3))


def torch_from(mask: np.ndarray) -> Tensor:
    """(H, W) array to (1, 1, H, W) float tensor."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(mask, np.float32))[None, None]


def drawn_seed(generator: torch.Generator | None) -> int:
    """A seed of 31 bits for what is not torch's, drawn from an edit's generator."""
    import torch

    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**31, (), generator=generator, device=device))


@cache
def _finders() -> dict[str, Callable[[], ModuleType]]:
    """Task names and how to import each; nothing is imported here."""
    package = importlib.import_module("photofound.tasks")
    found = [info.name for info in pkgutil.iter_modules(package.__path__)]
    return {name: partial(importlib.import_module, f"photofound.tasks.{name}") for name in found} | finders("tasks")


def class_name(task: str) -> str:
    """What a task's pipeline is called: ``InpaintPipeline`` for ``inpaint``, and ``InstructPipeline`` for ``edit``,
    since ``EditPipeline`` is what all of them derive from."""
    if task == "edit":
        return "InstructPipeline"
    return "".join(part.capitalize() for part in task.split("_")) + "Pipeline"


def task_names() -> list[str]:
    """All tasks that can be had: the built-in ones, those of entry points (group ``photofound.tasks``, each naming a
    module) and the files in the folders of the environment variable ``PHOTOFOUND_TASKS``."""
    return sorted(_finders())


@cache
def get_task(name: str) -> Task:
    """The task called ``name``. Raises ValueError naming the known ones."""
    known = _finders()
    if name not in known:
        raise ValueError(f"task: {name!r} is unknown; choose one of {', '.join(sorted(known))}")
    task = getattr(known[name](), "TASK", None)
    if not isinstance(task, Task) or task.name != name:
        raise ValueError(f"task: the file of {name!r} must define TASK, a photofound.edits.task.Task with that name")
    return task
