"""Packshot: a product cut out, placed, on another background, with its shadow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from photofound.edits import background as backgrounds
from photofound.edits import placement as placements
from photofound.edits import presets
from photofound.edits import shadow as shadows
from photofound.edits.background import Background
from photofound.edits.packshot import Reflection, Shot, finished, prepare
from photofound.edits.packshot import layers as layers_of
from photofound.edits.placement import Placement
from photofound.edits.task import Condition, Job, Sample, Task, asks, drawn_seed
from photofound.image import Picture

if TYPE_CHECKING:
    import torch

    from photofound.picture.layers import Layer


class Packshot(Task):
    """Places a product on a canvas, on a colour, a picture or a drawn surface, with its shadow. No network is involved
    but the one that cuts out. At its own size the subject's opaque pixels come back bit for bit; notes say where it was
    resampled. Results have the canvas's size."""

    name = "packshot"
    summary = "place a product on the background that a marketplace wants"
    wants_segmenter = True
    needs_network = False
    rare = frozenset({*placements.NAMES, *shadows.NAMES, "reflection"} - {"canvas", "padding", "shadow"})

    def prepare(
        self,
        picture: Picture,
        preset: presets.Name = None,
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
        subject: Annotated[
            Any, asks("mask", "white = the product; left out, the image's alpha, or else an automatic cut-out")
        ] = None,
        segment: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Job:
        """Find the subject and place it.

        Args:
            preset: a marketplace's rules (``photofound.edits.presets``), or the path of a YAML file. It sets what is
                not given.
            canvas: size of the result, like ``"2000x2000"``; None = the photograph's.
            padding: free space around the subject: ``"10%"``, ``40``, or ``"10%,5%,20,5%"`` (top, right, bottom, left);
                shares are of the canvas's width or height.
            margin: as padding, but nothing of the subject enters it, whatever ``fit`` and ``snap`` say.
            align: where in its room the subject lies: ``center``, ``top``, ``bottom-left``, ...
            at: where the centre of the subject lies, from the left and the top: ``"50%,60%"`` of the canvas, or pixels.
                Then neither ``align`` nor ``snap`` counts.
            fit: ``contain``: as large as its room; ``cover``: as large as covers it; ``none``: its own pixels; or a
                scale, ``"80%"``. Never larger than in the photograph, unless ``enlarge``.
            reference_box: what is fitted and aligned: the ``subject``, or the ``image`` with its frame.
            snap: whether sides at which the photograph's frame cuts the subject stay at the frame; None = yes.
            enlarge: let the subject become larger than in the photograph.
            dpi: dots per inch, written into the file.
            background: a colour (``"#ffffff"``, ``"teal"``), a surface with or without a colour (``"marble:black"``), a
                picture or its path, ``"blur"``, ``"transparent"``, or words that name a surface. None = white.
            backdrop: a picture as the background, for those who cannot give one as ``background``.
            shadow: ``none``, ``soft``, ``hard`` or ``contact``; None = ``none`` on colours, ``soft`` on surfaces.
            shadow_direction: degrees to where it falls: 0 = behind, 90 = right, 180 = to the front, 270 = left.
            shadow_softness, shadow_spread, shadow_intensity: shares: the size of the lamp, the reach as a share of the
                subject's height, the darkness.
            shadow_pose: ``standing``, ``lying`` (seen from above) or ``hanging`` (before a wall).
            reflection: how strongly the ground mirrors the subject, like ``"20%"``.
            subject: white = the product; None = the image's alpha channel; with no alpha, the subject is cut out.

        Raises:
            ValueError: no subject, a subject that fills the frame, unreadable image, bad setting. FileNotFoundError:
                missing file.
        """
        given = dict(locals())  # the inputs by name
        from photofound.edits.subject import find

        chosen = presets.load(preset) if preset else None
        if chosen is not None:
            given |= {name: value for name, value in chosen.inputs.items() if given.get(name) is None}
            if backdrop is not None:
                given["background"] = background
            if chosen.to_srgb:
                picture = picture.in_srgb()
        placement = Placement.of(**given)
        ground = _ground(given)
        drawn = ground.kind in ("surface", "picture")
        shade = shadows.of_inputs(given, "soft" if drawn else "none")
        mirrored = shadows.share(given["reflection"], "reflection", 0.0)
        cut, matte = find(picture, subject, segment, refine=True)
        return prepare(cut, matte, placement, ground, shade, mirrored, photograph=picture)

    def result_size(self, picture: Any, **inputs: Any) -> tuple[int, int]:
        chosen = presets.load(inputs["preset"]).inputs if inputs.get("preset") else {}
        canvas = inputs.get("canvas") or chosen.get("canvas")
        return Placement.of(canvas=canvas).canvas or picture.size

    def result_alpha(self, **inputs: Any) -> bool:
        return inputs.get("background") == "transparent" and inputs.get("backdrop") is None

    def result_format(self, **inputs: Any) -> str | None:
        return presets.load(inputs["preset"]).format if inputs.get("preset") else None

    def faults(self, path: Path, **inputs: Any) -> list[str]:
        from photofound.edits.check import faults

        chosen = presets.load(inputs["preset"]) if inputs.get("preset") else None
        return [] if chosen is None else [f"{chosen.name} would refuse it: {fault}" for fault in faults(path, chosen)]

    def run(
        self,
        pipe: Any,
        jobs: Sequence[Job],
        generators: Sequence[torch.Generator | None],
        steps: int,
        guidance: float,
        callback: Callable[..., Any] | None = None,
    ) -> list[Picture]:
        """Layers instead of a network (``photofound.edits.packshot``)."""
        shots = [job for job in jobs if isinstance(job, Shot)]
        return [finished(shot, drawn_seed(each)) for shot, each in zip(shots, generators, strict=True)]

    def layers(
        self,
        pipe: Any,
        job: Job,
        generator: torch.Generator | None,
        steps: int,
        guidance: float,
        callback: Callable[..., Any] | None = None,
    ) -> list[Layer]:
        """Background, shadow, reflection, subject, and the matte, hidden."""
        assert isinstance(job, Shot)
        return layers_of(job, drawn_seed(generator))

    def example(self, sample: Sample, generator: torch.Generator) -> Condition:
        raise NotImplementedError("packshot: there is nothing to train; it takes the subject from cutout")


def _ground(given: Mapping[str, Any]) -> Background:
    found = backgrounds.of_inputs(given) or backgrounds.WHITE
    if isinstance(found, str):
        raise ValueError(
            f"background: {found!r} names no colour and no material; use #ffffff, wood, marble:black, blur, "
            "transparent or a picture, or outpaint, where a model paints it"
        )
    return found


TASK = Packshot()
