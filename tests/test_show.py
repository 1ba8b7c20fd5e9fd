"""What a notebook shows: pictures and results as PNG, and one labelled bar for each call."""

from __future__ import annotations

import io

import numpy as np
import pytest
from helpers import noise
from PIL import Image

from photofound import InpaintPipeline, Picture, UpscalePipeline
from photofound.call import EditOutput


def shown(thing) -> Image.Image:
    picture = Image.open(io.BytesIO(thing._repr_png_()))
    assert picture.format == "PNG"
    return picture


def test_a_picture_shows_itself_as_it_is_or_smaller():
    photo = noise(30, 50)
    assert (np.asarray(shown(Picture.from_any(photo))) == photo).all()
    assert shown(Picture.from_any(noise(600, 3000))).size == (1024, 205)
    assert shown(Picture.from_any(noise(3000, 1))).size == (1, 1024)
    deep = Picture.from_any(noise(30, 50, dtype=np.uint16))
    assert shown(deep).mode == "RGB" and shown(Picture.from_any(noise(30, 50, 1))).mode == "RGB"


def test_transparency_is_shown_and_what_it_hides_is_not():
    pixels = np.full((20, 4000, 4), 255, np.uint8)
    pixels[:, ::2] = (255, 0, 0, 0)  # hidden red between white columns
    seen = np.asarray(shown(Picture.from_any(pixels)))
    assert seen.shape == (5, 1024, 4) and (seen[..., :3] == 255).all() and 100 < seen[..., 3].mean() < 156


@pytest.mark.parametrize("kind", ["pil", "np", "pt", "picture"])
def test_results_show_themselves_beside_each_other(tiny, photo, mask, kind):
    output = tiny(InpaintPipeline)(photo, mask, num_images_per_prompt=2, output_type=kind)
    assert shown(output).size == (90 * 2 + 8, 70)
    first = shown(EditOutput(images=output.images[:1]))
    assert (np.asarray(first)[mask == 0] == photo[mask == 0]).all()


def test_a_call_has_one_bar_with_the_name_of_its_task(tiny, photo, mask, monkeypatch):
    pipe, bars = tiny(InpaintPipeline), []
    make = pipe.progress_bar

    def recorded(*args, **kwargs):
        bars.append(make(*args, **kwargs))
        return bars[-1]

    monkeypatch.setattr(pipe, "progress_bar", recorded)
    pipe.set_progress_bar_config(disable=False, file=io.StringIO())
    pipe([photo, photo], mask, num_images_per_prompt=2, num_inference_steps=3)
    (bar,) = bars
    assert (bar.total, bar.n) == (12, 12) and bar.desc.startswith("inpaint")
    pipe.set_progress_bar_config(disable=False, file=io.StringIO(), desc="mine")
    pipe(photo, mask, num_inference_steps=1)
    assert len(bars) == 2 and bars[1].desc.startswith("mine")


def test_a_bar_that_is_switched_off_stays_off(tiny, photo, capsys):
    pipe = tiny(UpscalePipeline)
    pipe.set_progress_bar_config(disable=True)
    capsys.readouterr()
    pipe(photo)
    pipe(photo, num_images_per_prompt=2)
    assert capsys.readouterr().err == ""
