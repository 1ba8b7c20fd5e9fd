"""Painting: what a task made ready is cropped, scaled, sampled, and brought back to the photograph's own size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from photofound import image
from photofound.edits import composite, exemplar, masks, reference, regions, staging, surfaces
from photofound.edits.geometry import Box
from photofound.edits.regions import MAX_TILES, Part
from photofound.edits.task import Backdrop, Condition, Job, Task, enlargement_strength, get_task, torch_from
from photofound.image import Picture
from photofound.model import autoencoder, superresolution
from photofound.sampling import Callback, SamplingPipeline

_TOGETHER = 8  # edits of this many parts are sampled at once: more are no faster, and want more memory
_TONE = 6.0  # working pixels; what is coarser is colour and light, what is finer is texture
_DETAIL_SHARE = 4  # what was made smaller is brought to the picture's size in a quarter of the steps: it decides little


class Exemplar(NamedTuple):
    """A hole filled from the picture's own patches, searched beside the model.

    Attributes:
        canvas: the picture with its hole filled, (1, 3, h, w) at the working size.
        texture: what is finer, (1, 3, H, W) at the picture's own size; None where both are of one size.
    """

    canvas: Future[Tensor]
    texture: Future[Tensor | None]


@dataclass(frozen=True)
class Draft:
    """A job as the model is to see it.

    Attributes:
        job: what is to be done, at the picture's own size.
        part: which part of the picture is worked on, and at which size, before padding.
        hole: (1, 1, H, W), the job's hole within the part's box.
        condition: of batch 1, at the working size, padded.
        generator: what its noise is drawn from.
        exemplar: the hole filled from the picture's own patches, or None.
        backdrop: the background that it starts from, or None.
        start: (1, 3, H, W), the subject before the backdrop, as the condition in size; or None.
    """

    job: Job
    part: Part
    hole: Tensor
    condition: Condition
    generator: torch.Generator | None
    exemplar: Exemplar | None = None
    backdrop: Backdrop | None = None
    start: Tensor | None = None


class PaintingPipeline(SamplingPipeline):
    """From jobs to pictures: the parts of each hole, their drafts, the model's answer, its detail, and the seam."""

    @torch.no_grad()
    def paint(
        self,
        jobs: Sequence[Job],
        generators: Sequence[torch.Generator | None],
        steps: int,
        guidance: float,
        callback: Callback | None = None,
    ) -> list[Picture]:
        """What most tasks do: the transformer paints the holes, and the task puts them into the pictures.

        Holes far apart are parts of a job, each worked on by itself (``photofound.edits.regions``). Jobs and parts that
        look alike to the model (working size, tiles, length of the prompt) are sampled together. The same
        generator gives the same pixels in any company, since whatever rounds differently in another batch is computed
        one by one or once for all; ``sample`` says what that is.
        """
        # Where the model does not look at exemplars, they are searched while it works: PatchMatch needs one core.
        with ThreadPoolExecutor(1, "exemplar") as beside:
            return self._painted(jobs, generators, steps, guidance, callback, beside)

    def _painted(
        self,
        jobs: Sequence[Job],
        generators: Sequence[torch.Generator | None],
        steps: int,
        guidance: float,
        callback: Callback | None,
        beside: ThreadPoolExecutor,
    ) -> list[Picture]:
        task = get_task(self.task_name)
        drafts, owners = [], []
        for owner, (job, generator) in enumerate(zip(jobs, generators, strict=True)):
            backdrop = task.backdrop(job, generator, bool(self.config.get("surfaces")))  # one for all parts
            job = job if backdrop is not None else replace(job, ground=None)
            found = self._parts(task, job)
            for part, own in zip(found, _generators_of_parts(generator, len(found)), strict=True):
                drafts.append(self._draft(task, job, part, own, backdrop, beside))
                owners.append(owner)
        alike: dict[Any, list[int]] = {}
        for index, draft in enumerate(drafts):
            key = draft.start is None, draft.job.resample, *self._batch_key(draft.condition)
            alike.setdefault(key, []).append(index)
        pictures = [job.picture for job in jobs]
        most = max(_TOGETHER, len(jobs))
        for group in (like[i : i + most] for like in alike.values() for i in range(0, len(like), most)):
            condition = Condition.cat([drafts[i].condition for i in group])
            starts = [start for i in group if (start := drafts[i].start) is not None]
            start, draws = torch.cat(starts) if starts else None, [drafts[i].generator for i in group]
            resample = drafts[group[0]].job.resample
            made = self.sample(condition, steps, guidance, draws, callback, start=start, resample=resample).cpu()
            for i, pixels in zip(group, made.split(1), strict=True):
                draft = drafts[i]
                pictures[owners[i]] = self._put(task, draft, pixels, pictures[owners[i]])
        return pictures

    def _put(self, task: Task, draft: Draft, made: Tensor, picture: Picture) -> Picture:
        """What the model made of a draft, put into the picture, of which other parts may be done already."""
        job = replace(draft.job, picture=picture, keep=draft.part.keep(draft.job.pasted))
        if draft.backdrop is None:
            return task.finish(job, self._finished(made, draft), draft.part.box)
        return replace(task.finish(job, self._joined(draft, made), draft.part.box), note=draft.backdrop.note)

    def _joined(self, draft: Draft, made: Tensor) -> Tensor:
        """(1, 3, H, W): the backdrop at its own size, with the light that the model gave it."""
        assert draft.backdrop is not None and draft.start is not None
        start = draft.start.to(self._execution_device)
        again = autoencoder.decode(self.vae, autoencoder.encode(self.vae, start)).cpu()
        scene = image.to_tensor(draft.backdrop.pixels[draft.part.box.slices])
        return staging.add_light(scene, made, again, draft.condition.hole)

    def _parts(self, task: Task, job: Job) -> list[Part]:
        if task.fit != "hole":
            return [Part(*self.plan(task, job.hole))]
        return regions.split(job.hole, job.keep, self.config.tile)

    def plan(self, task: Task, hole: np.ndarray) -> tuple[Box, tuple[int, int]]:
        """Which part of the picture the model works on, and at which size (height, width), if it works on all of the
        hole at once (``photofound.edits.regions``)."""
        height, width = hole.shape
        tile = self.config.tile
        whole = Box(0, 0, width, height)
        if task.fit == "tiles":
            return whole, (height, width)
        if task.fit == "canvas":
            return whole, scaled_size(whole, tile / max(height, width))
        if task.fit == "area":
            return whole, scaled_size(whole, tile / math.sqrt(height * width))
        part = regions.whole(hole, tile)
        return part.box, part.size

    def _draft(
        self,
        task: Task,
        job: Job,
        part: Part,
        generator: torch.Generator | None,
        backdrop: Backdrop | None,
        beside: ThreadPoolExecutor,
    ) -> Draft:
        """Crop, scale to the working size, and pad."""
        box, size = part.box, part.size
        hole_here = job.hole[box.slices]
        native, native_hole = image.to_tensor(job.picture.crop(box).rgb(hole_here > 0)), torch_from(hole_here)
        small = composite.resize_given(native, native_hole, size)
        small_hole = _shrink_hole(native_hole, size)
        wanted = task.exemplars and backdrop is None and self._wants_exemplars()
        filled = self._exemplar(native, native_hole, small, small_hole, job.attempt, beside) if wanted else None
        pixels, hole = self._padded(small), self._padded(small_hole, hole=True)
        if filled is not None and self.config.canvas == "exemplar":
            canvas = self._padded(filled.canvas.result())
        else:
            canvas = task.canvas(pixels, hole)
        strength = torch.full((1,), job.strength)
        condition = Condition(canvas, hole, [task.name], [job.prompt], strength)
        seen = None if job.reference is None else self._reference(job.reference, backdrop)
        if seen is not None:
            condition = replace(condition, reference=seen, referenced=torch.ones(1, dtype=torch.bool))
        start = None
        if backdrop is not None:
            behind = composite.shrink(image.to_tensor(backdrop.pixels[box.slices]), size).clamp(-1, 1)
            start = self._padded(behind) * hole + pixels * (1 - hole)
        return Draft(job, part, native_hole, condition, generator, filled, backdrop, start)

    def _exemplar(
        self,
        pixels: Tensor,
        hole: Tensor,
        small: Tensor,
        small_hole: Tensor,
        number: int,
        beside: ThreadPoolExecutor,
    ) -> Exemplar:
        """Candidate ``number``'s filling of the small picture, and its texture at the size of ``pixels``."""
        search = exemplar.attempt(number, exemplar.SEARCHES[self.config.exemplars])
        canvas = beside.submit(exemplar.canvas, small, small_hole, *search)

        def texture() -> Tensor | None:
            filled = canvas.result()
            return None if hole.shape == small_hole.shape else exemplar.texture(pixels, hole, filled, small_hole)

        return Exemplar(canvas, beside.submit(texture))

    def _wants_exemplars(self) -> bool:
        return self.detail is not None or self.config.canvas == "exemplar"

    def _reference(self, picture: Picture, backdrop: Backdrop | None) -> Tensor | None:
        """A reference as the transformer looks at it, (1, 3, R, R); None where it looks at none. Raises ValueError
        where nothing would: no backdrop is made of it either."""
        config = self.transformer.config
        if config.reference_embeds:
            return reference.square(picture, config.reference_size)
        if backdrop is None:
            raise ValueError(
                "reference: this model takes no reference image; leave it out and say it in the prompt, or train the "
                "model with model.reference=true"
            )
        return None

    def _batch_key(self, condition: Condition) -> Any:
        """What two conditions of batch 1 must have in common to be sampled together and come out as they would
        alone."""
        (prompt,), tiles = condition.prompt, self._tiling(condition.hole).boxes
        seen, room = condition.reference is not None, self._room([prompt])
        return condition.canvas.shape, tuple(condition.task), condition.strength.item(), room, seen, *tiles

    @property
    def _pixel_multiple(self) -> int:
        """What the sides of a working picture must be a multiple of."""
        return int(autoencoder.factor(self.vae) * self.transformer.config.patch_size)

    def _padded(self, x: Tensor, hole: bool = False) -> Tensor:
        """(B, C, H, W) up to whole patches, to the right and below. The model paints the padding, which nobody sees."""
        multiple = self._pixel_multiple
        padding = (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple)
        return F.pad(x, padding, value=1.0) if hole else F.pad(x, padding, mode="replicate")

    def _finished(self, made: Tensor, draft: Draft) -> Tensor:
        """What the model made (1, 3, H, W), padded, as the picture's own pixels within the box: (1, 3, H', W')."""
        height, width = draft.part.size
        made = made[..., :height, :width].float()
        if draft.exemplar is None:
            return self._enlarged(made, draft.hole, draft.generator)
        canvas = draft.exemplar.canvas.result()
        hole = draft.condition.hole[..., :height, :width]
        painted, followed = torch.where(hole > 0, made, canvas), torch.zeros_like(hole)
        if surfaces.surface_of(draft.job.prompt):  # words say which colour: the photograph's patches lend texture alone
            canvas = torch.where(hole > 0, canvas + masks.blur(painted - canvas, hole.new_tensor([_TONE])), canvas)
            canvas = canvas.clamp(-1, 1)
        if self.detail is not None:
            device = self._execution_device
            painted, followed = self.detail(canvas.to(device), painted.to(device), hole.to(device))
            painted, followed = painted.clamp(-1, 1).cpu(), followed.cpu()
            self.maybe_free_model_hooks()
        texture = draft.exemplar.texture.result()  # it was searched beside the detail network, too
        if texture is None:
            return painted
        # Texture of the photograph, where its own patches were followed and not the model.
        native = texture.shape[-2], texture.shape[-1]
        kept = 1 - composite.resize(followed, native)
        return (composite.resize(painted, native) + kept * texture).clamp(-1, 1)

    def _enlarged(self, made: Tensor, hole: Tensor, generator: torch.Generator | None) -> Tensor:
        """What was made at the working size, at the size of ``hole`` (1, 1, H, W): by the upscaler, or by the upscale
        task, where the checkpoint has it and the enlargement is worth it and not too large; by bicubic interpolation
        otherwise."""
        height, width = hole.shape[-2:]
        scale = max(height / made.shape[-2], width / made.shape[-1])
        if scale >= 1.25 and self.upscaler is not None:
            where = _shrink_hole(hole, (made.shape[-2], made.shape[-1]))
            detailed = superresolution.enlarged_to(self.upscaler, made, (height, width), where)
            return composite.back_project(detailed, made)
        pixels = composite.resize(made, (height, width))
        tiles = height * width / self.config.tile**2
        if scale < 1.25 or tiles > MAX_TILES or not self.is_trained("upscale") or self.interrupt:
            return pixels
        canvas = self._padded(pixels)
        strength = torch.tensor([enlargement_strength(scale)])
        condition = Condition(canvas, torch.ones_like(canvas[:, :1]), ["upscale"], [""], strength)
        steps = max(1, self._default_steps("upscale") // _DETAIL_SHARE)
        detailed = self.sample(condition, steps, 1.0, [generator], where=self._padded(hole, hole=True))
        return composite.back_project(detailed.cpu()[..., :height, :width], made)

    @torch.no_grad()
    def enlarge(self, low: Tensor, size: tuple[int, int], callback: Callback | None = None) -> Tensor:
        """(1, 3, h, w) in [-1, 1] at ``size`` (height, width), by the upscaler alone, part by part."""
        parts = itertools.count()

        def after_part() -> bool:
            if callback is not None:
                callback(self, next(parts), torch.zeros(()), {"latents": low})
            bar.update()
            return self.interrupt

        with self._call() as call:
            bar = self._bar(call, superresolution.part_count(low))
            made = superresolution.enlarged_to(self.upscaler, low, size, step=after_part)
        self.maybe_free_model_hooks()
        return made

    def _default_steps(self, task: str) -> int:
        default = 0 if self._enlarges_alone(task) else self.config.default_steps
        return (self.config.task_steps or {}).get(task, default)


def _generators_of_parts(generator: torch.Generator | None, count: int) -> list[torch.Generator | None]:
    """One for each part of an edit. Several draw from generators of their own, so that the order in which they are
    sampled, which company may change, does not matter."""
    if count == 1 or generator is None:
        return [generator] * count
    seeds = torch.randint(2**62, (count,), generator=generator, device=generator.device).tolist()
    return [torch.Generator(generator.device).manual_seed(seed) for seed in seeds]


def scaled_size(box: Box, scale: float) -> tuple[int, int]:
    return max(1, round(box.height * scale)), max(1, round(box.width * scale))


def _shrink_hole(hole: Tensor, size: tuple[int, int]) -> Tensor:
    """A hole at another size; a pixel belongs to it as soon as any part of it does."""
    return (F.interpolate(hole, size=size, mode="area") > 1e-4).float()
