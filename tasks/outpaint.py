"""Outpaint: keep a product to the pixel, never extend it, and invent its background."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from photofound import image as images
from photofound.edits import background as backgrounds
from photofound.edits import placement as placements
from photofound.edits import shadow as shadows
from photofound.edits.geometry import Box
from photofound.edits.packshot import Reflection, Shot, finished
from photofound.edits.packshot import layers as layers_of
from photofound.edits.packshot import prepare as shot_of
from photofound.edits.placement import Placement, place, with_dpi
from photofound.edits.shadow import AUTOMATIC, Shadow
from photofound.edits.task import Backdrop, Condition, Job, Sample, Task, asks, drawn_seed, torch_from
from photofound.image import Picture

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from photofound.picture.layers import Layer

SOLID = 253.5 / 255  # of a matte: what is more opaque shows the background by less than a level of 8 bits


class Outpaint(Task):
    """Replaces the background of a product; where the subject is opaque, its pixels come back bit for bit. Results have
    the input's size, or the canvas's, and no alpha, unless the background is transparent; their notes say which
    background it is."""

    name = "outpaint"
    summary = "keep a product to the pixel and invent its background"
    fit = "canvas"
    needs_object = True
    wants_segmenter = True
    layer_names = ("background", "subject")
    rare = frozenset((*placements.NAMES, *backgrounds.NAMES, *shadows.NAMES, "reflection"))

    def prepare(
        self,
        picture: Picture,
        prompt: Annotated[str, asks("text", "the new background")] = "",
        subject: Annotated[
            Any, asks("mask", "white = keep; left out, the image's alpha, or else an automatic cut-out")
        ] = None,
        reference: Annotated[Any, asks("image", "a picture of the wanted background: its colour and texture")] = None,
        gallery: Annotated[
            Any, asks("folder", "your own backgrounds; chosen by the words of the prompt in their file names")
        ] = None,
        canvas: placements.Canvas = None,
        padding: placements.Padding = None,
        margin: placements.Margin = None,
        align: placements.Align = None,
        at: placements.At = None,
        fit: placements.Fit = None,
        reference_box: placements.Reference = None,
        snap: placements.Snap = None,
        enlarge: placements.Enlarge = None,
        dpi: placements.Dpi = None,
        background: backgrounds.Ground = None,
        backdrop: backgrounds.Backdrop = None,
        shadow: shadows.Kind = None,
        shadow_direction: shadows.Direction = None,
        shadow_softness: shadows.Softness = None,
        shadow_spread: shadows.Spread = None,
        shadow_intensity: shadows.Intensity = None,
        shadow_pose: shadows.Pose = None,
        reflection: Reflection = None,
        segment: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Job:
        """Find the subject, and the background that is painted if it is not invented.

        Args:
            prompt: the new background, like ``"on a dark red cloth"``. If it names a material, a colour or a studio,
                and the checkpoint wants it (``surfaces`` in its config), the model starts from a drawn surface.
            subject: white = keep; as large as the image, or of its aspect ratio; or a cut-out, whose opaque part is
                kept (``photofound.image.load_mask``). Where the image is transparent, nothing more is kept than its
                alpha shows. None = the image's alpha channel; with no alpha, the
                subject is cut out (``photofound.edits.masks.cut_out``).
            reference: a picture of the wanted background, of any size: its colour and texture. Its middle square is
                looked at. Only for a model that takes one, or that starts from surfaces: then it is that surface.
            gallery: a folder of backgrounds; the one whose file name shares most words with the prompt is taken.
            canvas, padding, margin, align, at, fit, reference_box, snap, enlarge, dpi: where the subject goes, as
                for ``packshot``. All None: it stays where it is.
            background, backdrop: instead of a prompt, as for ``packshot``. A colour, a picture, ``"blur"`` and
                ``"transparent"`` need no model; a surface is where the model starts from; other words are the prompt.
            shadow, shadow_direction, shadow_softness, shadow_spread, shadow_intensity, shadow_pose: as for
                ``packshot``; None = what fits the light on the subject.
            reflection: how strongly the ground mirrors the subject; where no model paints it.

        Raises:
            ValueError: empty, full or ill-fitting subject, unreadable image, bad setting, nothing in the gallery that
                fits, two backgrounds at once. FileNotFoundError: missing file or folder.
        """
        given = dict(locals())  # the inputs by name
        from photofound.edits.subject import find
        from photofound.edits.surface_words import from_gallery, surface_of

        placement = Placement.of(**given)
        named, prompt = _named(given)
        cut, matte = find(picture, subject, segment)
        if named is not None and named.surface is None:
            shade = shadows.of_inputs(given, "soft" if named.picture is not None else "none")
            mirrored = shadows.share(reflection, "reflection", 0.0)
            return shot_of(cut, matte, placement, named, shade, mirrored, photograph=picture)
        if shadows.share(reflection, "reflection", 0.0):
            raise ValueError("reflection: no model paints one; give a colour or a picture as background")
        shade = shadows.of_inputs(given, "automatic")
        if placement.is_default:
            cut, note = with_dpi(cut, dpi), ""
            lies: tuple[int, int] | None = (0, 0)
        else:
            placed = place(cut, matte, placement)
            cut, matte, note, lies = placed.picture, placed.matte, placed.note, placed.at
        wanted = None if reference is None else Picture.from_any(reference)
        own = images.load(from_gallery(gallery, prompt)) if gallery else None
        ground = own or wanted or (named.surface if named is not None else surface_of(prompt))
        hole = (matte < SOLID).astype(np.float32)  # behind glass and soft edges there is the new background, too
        return OutpaintJob(
            cut, hole, matte, prompt, reference=wanted, ground=ground, at=lies, shadow=shade, placed=note
        )

    def result_size(self, picture: Any, **inputs: Any) -> tuple[int, int]:
        return Placement.of(canvas=inputs.get("canvas")).canvas or picture.size

    def result_alpha(self, **inputs: Any) -> bool:
        return inputs.get("background") == "transparent" and inputs.get("backdrop") is None

    def run(
        self,
        pipe: Any,
        jobs: Sequence[Job],
        generators: Sequence[torch.Generator | None],
        steps: int,
        guidance: float,
        callback: Callable[..., Any] | None = None,
    ) -> list[Picture]:
        """The model paints, but where the background is given."""
        painted = [i for i, job in enumerate(jobs) if not isinstance(job, Shot)]
        chosen = [jobs[i] for i in painted], [generators[i] for i in painted]
        made = iter(pipe.paint(*chosen, steps, guidance, callback) if painted else [])
        results = []
        for job, generator in zip(jobs, generators, strict=True):
            if isinstance(job, Shot):
                results.append(finished(job, drawn_seed(generator)))
                continue
            picture = next(made)
            notes = picture.note, job.placed if isinstance(job, OutpaintJob) else ""
            results.append(dataclasses.replace(picture, note="; ".join(filter(None, notes))))
        return results

    def layers(
        self,
        pipe: Any,
        job: Job,
        generator: torch.Generator | None,
        steps: int,
        guidance: float,
        callback: Callable[..., Any] | None = None,
    ) -> list[Layer]:
        """As by default, and where no model paints, those of a packshot."""
        if isinstance(job, Shot):
            return layers_of(job, drawn_seed(generator))
        return super().layers(pipe, job, generator, steps, guidance, callback)

    def canvas(self, pixels: Tensor, hole: Tensor) -> Tensor:
        """The subject on nothing: its colours must not run into the background, or it would seem to grow."""
        return pixels * (1 - hole)

    def example(self, sample: Sample, generator: torch.Generator) -> Condition:
        """Complete objects by what of them is solid, a little eroded or dilated, since users' mattes are never quite
        right."""
        import torch

        from photofound.edits import masks

        radius = int(torch.randint(-2, 2, (1,), generator=generator, device=generator.device))
        return self.conditions(sample, 1 - masks.grow((sample.matte >= SOLID).float(), radius))

    def target(self, sample: Sample) -> Tensor:
        """The photograph, with the background alone behind what is soft, as far as its surroundings tell: ``finish``
        lays the subject over what is painted there."""
        import torch

        from photofound.edits.composite import harmonic

        soft = (sample.matte > 0) & (sample.matte < 1)
        if not soft.any():
            return sample.pixels
        return torch.where(soft, harmonic(sample.pixels, sample.matte == 0), sample.pixels)

    def backdrop(self, job: Job, generator: torch.Generator | None, surfaces: bool) -> Backdrop | None:
        """The surface that the prompt names, or the user's own picture, with the subject's shadow."""
        from photofound.edits import staging
        from photofound.edits.surfaces import Surface

        drawn, ground = isinstance(job.ground, Surface), job.ground
        own = not drawn and ground is not job.reference  # a reference is for models; those of surfaces start from it
        if ground is None or not (own or surfaces) or not (job.keep > 0.5).any():
            return None
        shade = _shadow_of(job)
        dark = None if shade is AUTOMATIC else shadows.cast(job.keep, shade) if shade else np.zeros_like(job.keep)
        behind = ground if drawn else ground.rgb()
        pixels = staging.background(behind, job.picture.rgb(), job.keep, drawn_seed(generator), dark)
        what = ground.description if drawn else ground.path.name if own else "as in the reference"
        return Backdrop(pixels, f"background: {what}")

    def finish(self, job: Job, generated: Tensor, box: Box) -> Picture:
        """The subject over the new background, by its alpha. No seam is closed: it would pull the background towards
        the subject."""
        keep, shade = job.keep[box.slices], _shadow_of(job)
        if job.bare:
            keep = np.zeros_like(keep)
            if job.ground is None:
                generated = _behind(generated, torch_from(job.hole[box.slices]))
        rgb = images.from_tensor(generated)
        if job.ground is None and shade is not None and shade is not AUTOMATIC:  # a backdrop has its shadow already
            rgb = rgb * (1 - shadows.cast(job.keep, shade)[box.slices][..., None])
        return job.picture.paste(rgb, keep, (box.left, box.top), colour=True, flatten=True)


def _behind(generated: Tensor, hole: Tensor) -> Tensor:
    """A background (1, 3, h, w) that goes on behind the subject, smoothly, so that the subject can be moved: the model
    has painted the subject itself there. What is nearest to it shows it, too, and is not gone by."""
    import torch

    from photofound.edits import masks
    from photofound.edits.composite import harmonic

    clear = masks.grow(hole, -max(1, round(0.02 * max(hole.shape[-2:]))))
    clear = clear if clear.any() else hole
    return torch.where(hole > 0, generated, harmonic(generated, clear > 0))


@dataclass(frozen=True)
class OutpaintJob(Job):
    """``shadow``: None for none. ``placed``: how the subject was placed, in words."""

    shadow: Shadow | None = AUTOMATIC
    placed: str = ""


def _shadow_of(job: Job) -> Shadow | None:
    return job.shadow if isinstance(job, OutpaintJob) else AUTOMATIC


def _named(given: Mapping[str, Any]) -> tuple[backgrounds.Background | None, str]:
    """The background that the inputs name, None where a model invents it, and the prompt."""
    named = backgrounds.of_inputs(given)
    if named is None:
        return None, given["prompt"]
    for other in ("prompt", "reference", "gallery"):
        if given[other] is not None and not (isinstance(given[other], str) and not given[other]):
            raise ValueError(f"background and {other}: each says what the background is; give one of them")
    return (None, named) if isinstance(named, str) else (named, "")


TASK = Outpaint()
