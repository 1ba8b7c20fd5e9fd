"""What a model does badly, in pictures for its card: made of the sample photographs in scikit-image's wheel.

    python -m photofound.demos.limits photofound/weights/nano

Writes ``limit-hole.jpg`` (a large hole), ``limit-prompt.jpg`` (scenes in prompts) and ``limit-text.jpg`` (a line of
print) into the model's folder, each with what was given on the left. Seed 0, the model's own steps; nothing is picked
by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

HEIGHT = 216  # of a picture on a sheet, in pixels
SCENES = ("in a busy street", "under water", "held in a hand", "among flowers")  # what no drawn surface stands for


def hole(pipe: Any) -> list[np.ndarray]:
    """A quarter of a cat is missing."""
    from skimage import data

    return _filled(pipe, data.cat()[0:300, 75:375], (75, 225, 75, 225))


def prompt(pipe: Any) -> list[np.ndarray]:
    """A cup in scenes that the model does not know."""
    from skimage import data

    from photofound import OutpaintPipeline

    cup, outpaint = data.coffee(), OutpaintPipeline.from_pipe(pipe)
    made = [_ask(outpaint, cup, prompt=scene) for scene in SCENES]
    return [cup, *made]


def text(pipe: Any) -> list[np.ndarray]:
    """A line of print is missing."""
    from skimage import data

    page = np.repeat(data.page()[:190, :190, None], 3, 2)
    return _filled(pipe, page, (80, 104, 20, 170))


def _filled(pipe: Any, photograph: np.ndarray, box: tuple[int, int, int, int]) -> list[np.ndarray]:
    """The photograph with a white box (top, bottom, left, right), what the model makes of it, the photograph."""
    from photofound import InpaintPipeline

    mask = np.zeros(photograph.shape[:2], np.float32)
    mask[box[0] : box[1], box[2] : box[3]] = 1
    given = np.where(mask[..., None] > 0, 255, photograph).astype(np.uint8)
    return [given, _ask(InpaintPipeline.from_pipe(pipe), photograph, mask_image=mask), photograph]


def _ask(pipe: Any, photograph: np.ndarray, **inputs: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(pipe(photograph, generator=torch.Generator().manual_seed(0), **inputs).images[0].convert("RGB"))


def _scaled(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((HEIGHT * picture.shape[1] // picture.shape[0], HEIGHT)))


PICTURES: dict[str, Callable[[Any], list[np.ndarray]]] = {"hole": hole, "prompt": prompt, "text": text}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the model's folder")
    folder = parser.parse_args(argv).folder
    from photofound import EditPipeline

    pipe = EditPipeline.from_pretrained(folder)
    for name, make in PICTURES.items():
        row = [_scaled(picture) for picture in make(pipe)]
        path = folder / f"limit-{name}.jpg"
        Image.fromarray(np.concatenate(row, axis=1)).save(path, quality=85)
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
