"""Methods to compare: photofound's models, classical methods of OpenCV, scikit-image, Pillow and PyPatchMatch, and any
diffusers pipeline.

Pictures are (H, W, 3) uint8, holes (H, W) bool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from photofound.device import fast_dtype, resolve_device
from photofound.edits.exemplar import patchmatch, patchmatch_missing
from photofound.edits.request import Request
from photofound.edits.task import Condition
from photofound.errors import first_line
from photofound.eval.protocols import Problem
from photofound.guests import GuestPipeline
from photofound.image import Picture, to_tensor
from photofound.pipeline import EditPipeline

HOLES = ("inpaint", "expand", "erase")


class Method:
    """Something that edits pictures.

    Attributes:
        tasks: the edits that it can do.
        uses_seed: whether its result depends on a seed.
    """

    name: str
    tasks: tuple[str, ...]
    uses_seed = True

    def edit(self, problem: Problem, seed: int) -> np.ndarray:
        """The result (H, W, 3) uint8, with the size of ``problem.truth``."""
        raise NotImplementedError

    def device(self) -> torch.device:
        """The device that it computes on."""
        return torch.device("cpu")


@dataclass(frozen=True)
class ClassicalMethod(Method):
    """A method without a model. It gives the same result every time."""

    name: str
    tasks: tuple[str, ...]
    function: Callable[[Problem], np.ndarray]
    uses_seed = False

    def edit(self, problem: Problem, seed: int) -> np.ndarray:
        return self.function(problem)


def _opencv(flag: str) -> Callable[[Problem], np.ndarray]:
    def inpaint(problem: Problem) -> np.ndarray:
        import cv2

        assert problem.hole is not None
        return cv2.inpaint(problem.given, problem.hole.astype(np.uint8), 4, getattr(cv2, flag))

    return inpaint


def _biharmonic(problem: Problem) -> np.ndarray:
    try:
        from skimage.restoration import inpaint_biharmonic
    except ImportError:
        raise ImportError("biharmonic needs scikit-image: pip install 'photofound[eval]'") from None
    filled = inpaint_biharmonic(problem.given / 255, problem.hole, channel_axis=-1)
    return np.rint(filled.clip(0, 1) * 255).astype(np.uint8)


def _patchmatch(problem: Problem) -> np.ndarray:
    """Barnes et al. 2009, patches of 5 x 5 pixels, seed 0: equal problems get equal results."""
    assert problem.hole is not None
    return patchmatch(
        problem.given, problem.hole, 2
    )  # of 2, 3 and 5 the radius that comes nearest to photographs of 256 pixels


def _resample(name: str) -> Callable[[Problem], np.ndarray]:
    def enlarge(problem: Problem) -> np.ndarray:
        size = (problem.given.shape[1] * problem.scale, problem.given.shape[0] * problem.scale)
        return np.asarray(Image.fromarray(problem.given).resize(size, Image.Resampling[name]))

    return enlarge


CLASSICAL = {
    "telea": ClassicalMethod("Telea", HOLES, _opencv("INPAINT_TELEA")),
    "navier-stokes": ClassicalMethod("Navier-Stokes", HOLES, _opencv("INPAINT_NS")),
    "biharmonic": ClassicalMethod("biharmonic", HOLES, _biharmonic),
    "patchmatch": ClassicalMethod("PatchMatch", HOLES, _patchmatch),
    "bicubic": ClassicalMethod("bicubic", ("upscale",), _resample("BICUBIC")),
    "lanczos": ClassicalMethod("Lanczos", ("upscale",), _resample("LANCZOS")),
    "untouched": ClassicalMethod("untouched", ("outpaint",), lambda problem: problem.given),
}


def classical_methods(names: Iterable[str]) -> list[Method]:
    """The methods with these names of ``CLASSICAL``.

    They are OpenCV's Telea and Navier-Stokes (radius 4), scikit-image's biharmonic filling, PyPatchMatch's PatchMatch
    (patch 5), Pillow's bicubic and Lanczos. ``untouched`` returns the product photograph as it is: its figures are the
    error of the measurement itself.

    Raises ValueError for other names, ImportError if PatchMatch is named and not installed.
    """
    names = list(names)
    unknown = sorted(set(names) - set(CLASSICAL))
    if unknown:
        raise ValueError(f"method {unknown[0]!r} is unknown; known: {', '.join(CLASSICAL)}")
    missing = patchmatch_missing() if "patchmatch" in names else ""
    if missing:
        raise ImportError(f"{missing}; or leave the method out")
    return [CLASSICAL[name] for name in names]


class PhotofoundMethod(Method):
    """All tasks of one photofound model.

    Args:
        source: a folder, a Hub id, or ``embedded``.
        steps, guidance: None for the model's own.
        teacher: use the model that a few-step student was distilled from.
        name: its name in reports; None: made of the folder's name, the steps and the guidance.
        device: ``auto`` uses a GPU if there is one.
        best_of: of how many results the best is taken.
        optimize: what is done to the pipeline when it is loaded, such as fewer bits for its weights.
    """

    tasks = (*HOLES, "upscale", "outpaint")

    def __init__(
        self,
        source: str = "embedded",
        steps: int | None = None,
        guidance: float | None = None,
        teacher: bool = False,
        name: str | None = None,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        optimize: Callable[[Any], None] | None = None,
        best_of: int | None = None,
    ) -> None:
        folder = None if source == "embedded" else source
        target = resolve_device(device, "device")
        pipe = EditPipeline.from_pretrained(folder, teacher=teacher, torch_dtype=dtype or fast_dtype(target.type))
        if optimize is not None:
            optimize(pipe)
        self.pipe = pipe.to(target)
        self.steps, self.guidance, self.best_of = steps, guidance, best_of
        stem = "photofound-nano" if folder is None else Path(source).name
        parts = [stem, "teacher" if teacher else "", f"{steps} steps" if steps else ""]
        parts.append("" if guidance is None else f"guidance {guidance:g}")
        parts.append(f"best of {best_of}" if best_of else "")
        self.name = name or ", ".join(filter(None, parts))

    def device(self) -> torch.device:
        return self.pipe.device

    def edit(self, problem: Problem, seed: int) -> np.ndarray:
        given, inputs = _task_inputs(problem)
        return np.asarray(self.run(problem.task, given, seed, **inputs))

    def run(self, task: str, given: np.ndarray, seed: int, **inputs: Any) -> Image.Image:
        """One edit by the name of its task, with the task's inputs."""
        request = Request(task, Picture.from_any(given), inputs, seed, self.steps, self.guidance, best_of=self.best_of)
        result: Picture = self.pipe.answer(request).images[0]
        return result.to_pil()


def _task_inputs(problem: Problem) -> tuple[np.ndarray, dict[str, Any]]:
    """The picture, and the other inputs of its task."""
    if problem.task == "upscale":
        return problem.given, {"scale": problem.scale}
    if problem.task == "expand":
        return _without_border(problem)
    assert problem.hole is not None
    hole = problem.hole.astype(np.float32)
    if problem.task == "outpaint":
        return problem.given, {"subject": 1 - hole, "prompt": problem.prompt}
    inputs = {"grow": 0} if problem.task == "erase" else {"prompt": problem.prompt}
    return problem.given, {"mask_image": hole} | inputs


def _without_border(problem: Problem) -> tuple[np.ndarray, dict[str, int]]:
    """The picture without its grey border, and the margins to add to it again."""
    assert problem.hole is not None
    rows, columns = np.flatnonzero(~problem.hole.all(1)), np.flatnonzero(~problem.hole.all(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    height, width = problem.hole.shape
    margins = {"left": left, "top": top, "right": width - right, "bottom": height - bottom}
    return problem.given[top:bottom, left:right], {side: int(value) for side, value in margins.items()}


class DiffusersMethod(Method):
    """Any inpainting, editing or upscaling pipeline of diffusers, as its users get it: kept pixels are not pasted back.
    The same folder as a ``PhotofoundMethod`` is the guest behind our compositing (``photofound.guests``).

    Args:
        source: a folder or a Hub id.
        steps, guidance: None for the pipeline's own.
    """

    def __init__(
        self,
        source: str,
        steps: int | None = None,
        guidance: float | None = None,
        name: str | None = None,
        device: str = "auto",
        dtype: torch.dtype | None = None,
    ) -> None:
        target = resolve_device(device, "device")
        try:
            self.guest = GuestPipeline.load(source, dtype=dtype or fast_dtype(target.type)).to(target)
        except (OSError, ValueError) as error:
            reason = first_line(error)
            raise ValueError(f"pipeline: {source} cannot be loaded for inpainting or upscaling ({reason})") from None
        can = self.guest.painter.can
        self.tasks = ("upscale",) if can.enlarges else (*HOLES, "outpaint")
        self.steps, self.guidance = steps or can.steps, can.guidance if guidance is None else guidance
        self.name = name or ", ".join([Path(source).name, *([f"{steps} steps"] if steps else [])])

    def device(self) -> torch.device:
        return self.guest.device

    def edit(self, problem: Problem, seed: int) -> np.ndarray:
        height, width = problem.given.shape[:2]
        painter, size = self.guest.painter, (width * problem.scale, height * problem.scale)
        given, hole = to_tensor(problem.given.astype(np.float32) / 255), torch.zeros(1, 1, height, width)
        if problem.hole is None:
            working = height * painter.can.enlarges, width * painter.can.enlarges
        else:
            working = _to_multiple(height), _to_multiple(width)
            hole = torch.from_numpy(problem.hole.astype(np.float32))[None, None]
        pixels = F.interpolate(given, working, mode="bicubic", antialias=True).clamp(-1, 1)
        hole = F.interpolate(hole, working)
        condition = Condition(pixels, hole, [problem.task], [problem.prompt], torch.zeros(1))
        result = painter.ask(condition, self.steps, self.guidance, torch.Generator().manual_seed(seed))
        picture = Image.fromarray(np.rint(result * 255).astype(np.uint8))
        return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def _to_multiple(side: int) -> int:
    """A side that every autoencoder divides; the result is resized to the photograph's own."""
    return round(side / 64) * 64 or 64
