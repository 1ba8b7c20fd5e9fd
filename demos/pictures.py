"""The pictures of docs/tasks: edits of scikit-image's photographs by the embedded model, seed 0.

    make docs-pictures                             # or: python -m photofound.demos.pictures --out docs/pictures

Writes ``NAME-given.jpg``, the photograph with its mask in colour, and one ``NAME-WAY.jpg`` for each way to edit it; for
outpainting ``NAME-replaced.jpg``, too, what lies outside the automatic cut-out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from photofound.demos.samples import SAMPLES, Sample, edit, load, marked, read

WIDEST, QUALITY = 600, 80  # of the files: pixels, and JPEG's scale; a page of them must load on a phone


@dataclass(frozen=True)
class Figure:
    """One photograph and the ways in which it is edited: file name -> what is asked for."""

    name: str
    sample: Sample
    ways: dict[str, dict[str, Any]]


def patches(draw: ImageDraw.ImageDraw) -> None:
    """A small, a medium and a large hole in the cat."""
    draw.ellipse((300, 40, 324, 64), fill=255)
    draw.ellipse((60, 120, 116, 176), fill=255)
    draw.ellipse((180, 190, 300, 290), fill=255)


_SAMPLES = {sample.task: sample for sample in SAMPLES}
FIGURES = (
    Figure(
        "outpaint",
        _SAMPLES["outpaint"],
        {
            "marble": {"prompt": "on a marble table"},
            "wood": {"prompt": "on a wooden table"},
            "cloth": {"prompt": "on a dark green cloth"},
        },
    ),
    Figure("inpaint", _SAMPLES["inpaint"], {"filled": {}}),
    Figure("inpaint-sizes", Sample("inpaint", "cat", "holes of three sizes", mask=patches), {"filled": {}}),
    Figure("expand", _SAMPLES["expand"], {"top": {"top": "40%"}}),
    Figure(
        "expand-aspects", Sample("expand", "cat", "aspects"), {"wide": {"aspect": "16:9"}, "square": {"aspect": "1:1"}}
    ),
    Figure("erase", _SAMPLES["erase"], {"clean": {}}),
    Figure("upscale", _SAMPLES["upscale"], {"2": {"scale": 2}}),
    Figure("upscale-small", replace(_SAMPLES["upscale"], crop=(150, 90, 250, 180)), {"4": {"scale": 4}}),
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="folder for the pictures")
    parser.add_argument("--model", help="another model than the embedded one: a folder or a Hub id")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    pipe = load(args.model)
    for figure in FIGURES:
        draw(pipe, figure, args.out)
    return 0


def draw(pipe: Any, figure: Figure, out: Path) -> None:
    """All files of one figure."""
    photograph, mask = read(figure.sample)
    for way, inputs in figure.ways.items():
        result = edit(pipe, replace(figure.sample, inputs=inputs), photograph, mask, steps=None, seed=0)
        write(result, out / f"{figure.name}-{way}.jpg")
    write(given(figure.sample, photograph, mask, result.size), out / f"{figure.name}-given.jpg")
    if figure.sample.task == "outpaint":
        write(marked(photograph, cut_out(pipe, photograph)), out / f"{figure.name}-replaced.jpg")


def given(sample: Sample, photograph: Image.Image, mask: Image.Image | None, size: tuple[int, int]) -> Image.Image:
    """What the task starts from, as a reader should see it beside the result."""
    if sample.task == "upscale":  # as any viewer would enlarge it
        return photograph.resize(size, Image.Resampling.BICUBIC)
    return marked(photograph, mask)


def cut_out(pipe: Any, photograph: Image.Image) -> Image.Image:
    """What outpainting replaces, white, where nobody says what is to be kept."""
    from photofound.edits.subject import matte_of
    from photofound.image import Picture

    matte = matte_of(Picture.from_any(photograph), None, pipe.search())
    return Image.fromarray(((1 - matte) * 255).round().astype("uint8"))


def write(picture: Image.Image, path: Path) -> None:
    """A JPEG that is at most ``WIDEST`` pixels wide."""
    picture = picture.convert("RGB")
    if picture.width > WIDEST:
        picture = picture.resize((WIDEST, round(picture.height * WIDEST / picture.width)), Image.Resampling.LANCZOS)
    picture.save(path, quality=QUALITY, optimize=True)
    print(f"{path}  {picture.width}x{picture.height}  {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    raise SystemExit(main())
