"""Five edits of the sample photographs in scikit-image's wheel, with the embedded model and without a download.

    make edit                                      # or: python -m photofound.demos.samples --out out

Writes one result per task and ``samples.png``, before and after side by side, and prints the seconds of each edit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLUMN, ROW, GAP, CAPTION = 300, 300, 12, 40  # of the contact sheet, in pixels
MARK = (255, 40, 90)  # colour of masks on the sheet


@dataclass(frozen=True)
class Sample:
    """One edit: which photograph, what is asked for, and what is drawn over the photograph on the sheet."""

    task: str
    photograph: str
    caption: str
    inputs: dict[str, Any] = field(default_factory=dict)
    crop: tuple[int, int, int, int] | None = None
    mask: Callable[[ImageDraw.ImageDraw], None] | None = None


def scratches(draw: ImageDraw.ImageDraw) -> None:
    """Three scratches across the astronaut."""
    for line in (
        [(20, 330), (150, 270), (300, 330), (500, 260)],
        [(330, 20), (290, 190), (340, 420)],
        [(60, 20), (90, 500)],
    ):
        draw.line(line, fill=255, width=13, joint="curve")


def tower(draw: ImageDraw.ImageDraw) -> None:
    """The tower to the left of the rocket."""
    draw.polygon([(182, 118), (212, 118), (222, 427), (168, 427)], fill=255)


SAMPLES = (
    Sample("outpaint", "coffee", "on a marble table", {"prompt": "on a marble table"}),
    Sample("inpaint", "astronaut", "repair scratches", mask=scratches),
    Sample("expand", "rocket", "40 % more sky", {"top": "40%"}),
    Sample("erase", "rocket", "without a tower", mask=tower),
    Sample("upscale", "cat", "twice the size", {"scale": 2}, crop=(110, 60, 310, 240)),
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results")
    parser.add_argument("--model", help="another model than the embedded one: a folder or a Hub id")
    parser.add_argument("--steps", type=int, help="sampling steps; default: the model's")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    start = time.perf_counter()
    pipe = load(args.model)
    print(f"{'load':<10}{time.perf_counter() - start:6.2f} s")
    pairs = []
    for sample in SAMPLES:
        photograph, mask = read(sample)
        start = time.perf_counter()
        result = edit(pipe, sample, photograph, mask, args.steps, args.seed)
        seconds = time.perf_counter() - start
        path = args.out / f"{sample.task}.png"
        result.save(path)
        size = f"{photograph.width}x{photograph.height} -> {result.width}x{result.height}"
        print(f"{sample.task:<10}{seconds:6.2f} s  {size:<24}{path}", flush=True)
        pairs.append((f"{sample.task}: {sample.caption}", marked(photograph, mask), result, f"{seconds:.1f} s"))
    contact_sheet(pairs).save(args.out / "samples.png")
    print(f"before and after: {args.out / 'samples.png'}")
    return 0


def load(model: str | None) -> Any:
    """One pipeline on the best device; the others are made from it and share its weights."""
    import torch

    from photofound import OutpaintPipeline

    pipe = OutpaintPipeline.from_pretrained(*filter(None, [model]))
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def read(sample: Sample) -> tuple[Image.Image, Image.Image | None]:
    """The photograph, cropped, and its hand-drawn mask."""
    from skimage import data

    photograph = Image.fromarray(getattr(data, sample.photograph)())
    if sample.crop:
        photograph = photograph.crop(sample.crop)
    if sample.mask is None:
        return photograph, None
    mask = Image.new("L", photograph.size)
    sample.mask(ImageDraw.Draw(mask))
    return photograph, mask


def edit(
    pipe: Any, sample: Sample, photograph: Image.Image, mask: Image.Image | None, steps: int | None, seed: int
) -> Image.Image:
    """One edit, as a user would write it."""
    import torch

    inputs = dict(sample.inputs) if mask is None else {**sample.inputs, "mask_image": mask}
    generator = torch.Generator().manual_seed(seed)
    return pipe.for_task(sample.task)(photograph, **inputs, num_inference_steps=steps, generator=generator).images[0]


# ------------------------------------------------------------------------------------------------ the contact sheet


def marked(photograph: Image.Image, mask: Image.Image | None) -> Image.Image:
    """The photograph with its mask in colour."""
    if mask is None:
        return photograph
    return Image.composite(
        Image.new("RGB", photograph.size, MARK), photograph, mask.point(lambda value: value * 7 // 10)
    )


def contact_sheet(pairs: list[tuple[str, Image.Image, Image.Image, str]]) -> Image.Image:
    """A column for each edit: its caption, before, after, its seconds. Both pictures of a column are to one scale."""
    width = GAP + len(pairs) * (COLUMN + GAP)
    sheet = Image.new("RGB", (width, CAPTION + 2 * (ROW + GAP) + CAPTION), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=17)
    for column, (caption, before, after, seconds) in enumerate(pairs):
        left = GAP + column * (COLUMN + GAP)
        middle = left + COLUMN // 2
        draw.text((middle, CAPTION // 2), caption, fill="black", font=font, anchor="mm")
        for row, picture in enumerate(to_one_scale(before, after)):
            top = CAPTION + row * (ROW + GAP)
            sheet.paste(picture, (middle - picture.width // 2, top + (ROW - picture.height) // 2))
        draw.text((middle, sheet.height - CAPTION // 2), seconds, fill="grey", font=font, anchor="mm")
    return sheet


def to_one_scale(before: Image.Image, after: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Both fitted into a cell by one factor; an enlarged picture and its small original are shown equally large."""
    if np.allclose(np.divide(after.size, before.size), after.width / before.width, rtol=0.01):
        before = before.resize(after.size, Image.Resampling.NEAREST)
    factor = min(COLUMN / max(before.width, after.width), ROW / max(before.height, after.height))

    def fit(picture: Image.Image) -> Image.Image:
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)

    return fit(before), fit(after)


if __name__ == "__main__":
    raise SystemExit(main())
