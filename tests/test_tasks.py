"""The promises, task by task: kept pixels are exact, sizes are right, bad input is one clear line.

Weights are untrained here: what is promised must hold whatever the model paints.
"""

import argparse
import dataclasses
import warnings

import numpy as np
import pytest
import torch
from helpers import noise
from PIL import Image

from photofound import (
    CutoutPipeline,
    ErasePipeline,
    ExpandPipeline,
    InpaintPipeline,
    OutpaintPipeline,
    UpscalePipeline,
    cli,
    image,
)
from photofound.edits.task import Sample, enlargement_strength, get_task, task_names
from photofound.image import Picture
from photofound.picture import colour, profiles

TASKS = ("erase", "expand", "inpaint", "outpaint", "upscale")


def hole_in(height, width, box):
    mask = np.zeros((height, width), np.uint8)
    mask[box] = 255
    return mask


def run(pipe, picture, **inputs):
    settings = {"num_inference_steps": 1, "generator": torch.Generator().manual_seed(0), "output_type": "picture"}
    return pipe(picture, **inputs, **settings).images[0]


def test_the_five_tasks_are_there():
    assert set(TASKS) <= set(task_names())


# ------------------------------------------------------------------------------------------------------- kept exactly

PHOTOS = {
    "8 bit": noise(83, 57),
    "16 bit": noise(45, 61, dtype=np.uint16),
    "grey": noise(64, 64, 1),
    "grey 16 bit": noise(33, 50, 1, np.uint16),
    "tiny": noise(5, 3),
}


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_inpaint_keeps_what_is_outside_the_hole(tiny, tmp_path, name, suffix):
    photo = PHOTOS[name]
    height, width = photo.shape[:2]
    mask = hole_in(height, width, np.s_[height // 3 : height // 3 + 2, width // 3 : width // 3 + 2])
    result = run(tiny(InpaintPipeline), photo, mask_image=mask)
    path = image.save(result, tmp_path / f"out{suffix}")
    for pixels in (result.pixels, image.load(path).pixels):
        kept = pixels.reshape(photo.shape)[mask == 0]
        assert pixels.dtype == photo.dtype and (kept == photo[mask == 0]).all()
    assert (result.pixels.reshape(photo.shape)[mask > 0] != photo[mask > 0]).any()


@pytest.mark.parametrize(("height", "width"), [(333, 517), (64, 200), (17, 400)])
def test_one_pixel_hole_and_odd_sizes(tiny, height, width):
    photo = noise(height, width)
    mask = hole_in(height, width, np.s_[height // 2, width // 2])
    for pipeline, inputs in ((InpaintPipeline, {}), (ErasePipeline, {"grow": 0})):
        result = run(tiny(pipeline), photo, mask_image=mask, **inputs).pixels
        assert result.shape == photo.shape and (result[mask == 0] == photo[mask == 0]).all()


@pytest.mark.slow
def test_large_photograph(tiny):
    photo = noise(2000, 3000)
    mask = hole_in(2000, 3000, np.s_[900:1000, 1500:1620])
    result = run(tiny(InpaintPipeline), photo, mask_image=mask).pixels
    assert (result[mask == 0] == photo[mask == 0]).all() and (result[mask > 0] != photo[mask > 0]).any()


def test_soft_masks_keep_exactly_what_is_black(tiny):
    photo = noise(60, 60)
    mask = np.zeros((60, 60), np.uint8)
    mask[20:40, 20:40] = np.linspace(1, 600, 20).clip(0, 255).astype(np.uint8)
    result = run(tiny(InpaintPipeline), photo, mask_image=mask).pixels
    assert (result[mask == 0] == photo[mask == 0]).all()


def test_rgba_keeps_alpha_outside_and_is_opaque_inside(tiny):
    photo = noise(50, 50, 4)
    mask = hole_in(50, 50, np.s_[10:30, 10:30])
    result = run(tiny(InpaintPipeline), photo, mask_image=mask).pixels
    assert (result[mask == 0] == photo[mask == 0]).all() and (result[mask > 0][:, 3] == 255).all()


def test_exif_rotated_jpeg_is_edited_upright(tiny, tmp_path):
    upright = Image.fromarray(noise(40, 64))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    mask = hole_in(40, 64, np.s_[5:15, 5:15])
    result = run(tiny(InpaintPipeline), tmp_path / "turned.png", mask_image=mask)
    assert result.size == (64, 40) and (result.pixels[mask == 0] == np.asarray(upright)[mask == 0]).all()


def test_icc_profile_is_kept_and_so_are_the_pixels(tiny, tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = noise(40, 40)
    Image.fromarray(photo).save(tmp_path / "in.png", icc_profile=profile)
    mask = hole_in(40, 40, np.s_[5:15, 5:15])
    result = run(tiny(InpaintPipeline), tmp_path / "in.png", mask_image=mask)
    again = image.load(image.save(result, tmp_path / "out.png"))
    assert again.icc_profile == profile and (again.pixels[mask == 0] == photo[mask == 0]).all()


SOFT = hole_in(96, 80, np.s_[20:70, 20:70])
SOFT[20] = 128


@pytest.mark.parametrize(
    ("pipeline", "inputs", "times"),
    [
        (InpaintPipeline, {"mask_image": hole_in(96, 80, np.s_[30:50, 30:50])}, 1),
        (ErasePipeline, {"mask_image": hole_in(96, 80, np.s_[30:50, 30:50])}, 1),
        (ExpandPipeline, {"left": 10}, 1),
        (UpscalePipeline, {"scale": 2}, 2),  # and so is its enlargement
        (OutpaintPipeline, {"subject": hole_in(96, 80, np.s_[20:70, 20:70])}, 1),
        (OutpaintPipeline, {"subject": SOFT}, 2),  # given its own colours first
    ],
)
def test_a_photograph_is_converted_to_srgb_once_in_an_edit(tiny, monkeypatch, pipeline, inputs, times):
    profile = profiles.build(profiles.ADOBE_RGB, (563 / 256,), "Adobe RGB (1998)")
    picture = dataclasses.replace(Picture(noise(96, 80)), icc_profile=profile)
    convert, calls = colour.to_srgb, []
    monkeypatch.setattr(colour, "to_srgb", lambda *args: calls.append(args) or convert(*args))
    run(tiny(pipeline), picture, **inputs)
    assert len(calls) == times


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_outpaint_keeps_the_opaque_subject_and_repaints_the_rest(tiny, dtype):
    photo = noise(77, 91, dtype=dtype)
    subject = hole_in(77, 91, np.s_[20:60, 30:70])
    result = run(tiny(OutpaintPipeline), photo, subject=subject, prompt="on snow")
    assert result.pixels.dtype == dtype and not result.has_alpha and result.size == (91, 77)
    assert (result.pixels[subject > 0] == photo[subject > 0]).all()
    assert (result.pixels[subject == 0] != photo[subject == 0]).any(-1).mean() > 0.9


def test_outpaint_takes_alpha_for_the_subject_and_mixes_only_soft_edges(tiny):
    photo = noise(64, 64, 4)
    photo[..., 3] = 0
    photo[10:50, 10:50, 3] = 128
    photo[15:45, 15:45, 3] = 255
    result = run(tiny(OutpaintPipeline), photo).pixels
    assert result.shape == (64, 64, 3) and (result[15:45, 15:45] == photo[15:45, 15:45, :3]).all()


def test_the_subject_never_grows(tiny):
    """Nothing of the subject's colour appears outside it: the model sees only the subject, and no seam pulls its colour
    outwards."""
    photo = np.full((64, 64, 3), 250, np.uint8)
    photo[20:44, 20:44] = (255, 0, 0)
    subject = hole_in(64, 64, np.s_[20:44, 20:44])
    other = photo.copy()
    other[subject == 0] = noise(64, 64)[subject == 0]  # another old background
    a, b = (run(tiny(OutpaintPipeline), p, subject=subject).pixels for p in (photo, other))
    assert (a == b).all()  # the old background is never looked at


def test_soft_edges_do_not_carry_the_old_background_along(tiny):
    """A red disc photographed on white: no pixel of its soft edge may be paler than red over the new background."""
    import cv2

    disc = np.zeros((96, 96), np.float32)
    cv2.circle(disc, (48, 48), 28, 1.0, -1)
    matte = cv2.GaussianBlur(disc, (0, 0), 1.5)
    photo = np.rint(matte[..., None] * np.array([200, 0, 0]) + (1 - matte[..., None]) * 255).astype(np.uint8)
    matte = np.where(matte > 0.98, 1, matte)
    job = get_task("outpaint").prepare(Picture.from_any(photo), subject=matte)
    soft = (matte > 0.07) & (matte < 0.93)
    assert job.picture.pixels[soft][:, 1:].max() <= 16 < photo[soft][:, 1:].max()
    assert (job.picture.pixels[matte >= 1] == photo[matte >= 1]).all()
    with_alpha = np.dstack([photo, np.rint(matte * 255).astype(np.uint8)])
    kept = get_task("outpaint").prepare(Picture.from_any(with_alpha)).picture.pixels
    assert (kept == with_alpha).all()  # the file's own alpha comes with the file's own colours


def test_the_new_background_is_seen_through_glass(tiny):
    """What the model painted behind a pane depends on nothing that is in front of it."""
    photo = noise(64, 64, 4)
    photo[..., 3] = 0
    photo[12:52, 12:52, 3] = 255
    photo[20:44, 20:44, 3] = 153  # a pane, 60 % opaque
    photo[20:44, 20:44, :3] = 100
    other = photo.copy()
    other[20:44, 20:44, :3] = (200, 0, 100)
    a, b = (run(tiny(OutpaintPipeline), each).pixels[20:44, 20:44].astype(int) for each in (photo, other))
    assert np.abs((b - a) - 0.6 * np.array([100, -100, 0])).max() <= 1
    assert a.std((0, 1)).max() > 2, "the background must be seen, too"


def test_a_subject_is_kept_no_further_than_the_pictures_alpha(tiny):
    """Colours under transparency are nowhere seen, and glass stays glass."""
    photo = np.zeros((64, 64, 4), np.uint8)
    photo[..., :3] = (255, 0, 255)
    photo[20:44, 20:44] = (90, 120, 60, 255)
    photo[28:36, 28:36, 3] = 128
    subject = hole_in(64, 64, np.s_[12:52, 12:52])
    job = get_task("outpaint").prepare(Picture.from_any(photo), subject=subject)
    assert np.array_equal(job.keep, photo[..., 3] / np.float32(255) * (subject > 0))
    other = np.where(photo[..., 3:] == 0, np.uint8([0, 255, 0, 0]), photo)
    a, b = (run(tiny(OutpaintPipeline), each, subject=subject).pixels for each in (photo, other))
    assert (a == b).all() and (a[20:28, 20:44] == (90, 120, 60)).all()
    assert (np.abs(a[28:36, 28:36].astype(int) - (90, 120, 60)).max(2) > 2).any()
    for outside in (np.s_[:10], np.s_[50:]):
        with pytest.raises(ValueError, match="lies where the image is transparent"):
            get_task("outpaint").prepare(Picture.from_any(photo), subject=hole_in(64, 64, outside))


def test_an_edit_says_what_it_kept_and_prepares_once(tiny, monkeypatch):
    prepare, calls = get_task("outpaint").prepare, []
    monkeypatch.setattr(get_task("outpaint"), "prepare", lambda *a, **k: calls.append(1) or prepare(*a, **k))
    subject = hole_in(40, 40, np.s_[10:30, 10:30])
    pipe = tiny(OutpaintPipeline)
    settings = {"num_inference_steps": 1, "num_images_per_prompt": 2}
    edited = pipe(noise(40, 40), subject=subject, **settings)
    assert np.array_equal(edited.keep, subject / np.float32(255)) and len(calls) == 1
    assert len(pipe(noise(40, 40), subject=subject, **settings, return_dict=False)) == 1


def test_grey_product_gets_a_coloured_background(tiny):
    photo = noise(64, 64, 1)
    subject = hole_in(64, 64, np.s_[20:44, 20:44])
    result = run(tiny(OutpaintPipeline), photo, subject=subject).pixels
    assert result.shape == (64, 64, 3) and (result[subject > 0] == photo[subject > 0][:, None]).all()


@pytest.mark.parametrize(
    ("inputs", "size", "at"),
    [
        ({"left": 10, "top": "25%"}, (71, 60), (10, 12)),
        ({"aspect": "1:1"}, (61, 61), (0, 6)),
        ({"aspect": "2:1"}, (96, 48), (17, 0)),
        ({"size": "80x70"}, (80, 70), (9, 11)),
        ({"right": "7"}, (68, 48), (0, 0)),
    ],
)
def test_expand_places_the_picture_exactly(tiny, inputs, size, at):
    photo = noise(48, 61)
    result = run(tiny(ExpandPipeline), photo, **inputs)
    assert result.size == size
    assert (result.pixels[at[1] : at[1] + 48, at[0] : at[0] + 61] == photo).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_upscaling_is_faithful(tiny, scale, dtype):
    """Scaled back down, the result is the input to within 2/255 on average, whatever the model painted."""
    from skimage import data

    photo = data.astronaut()[40:101, 180:261].astype(dtype) * (257 if dtype == np.uint16 else 1)
    result = run(tiny(UpscalePipeline), photo, scale=scale)
    assert result.size == (81 * scale, 61 * scale) and result.pixels.dtype == dtype
    down = np.asarray(result.to_pil().resize((81, 61), Image.Resampling.BICUBIC), np.float32)
    assert np.abs(down / 255 - photo / np.iinfo(dtype).max).mean() < 2 / 255


def test_upscale_keeps_alpha(tiny):
    photo = noise(24, 24, 4)
    photo[..., 3] = 255
    photo[:12, :, 3] = 0
    result = run(tiny(UpscalePipeline), photo).pixels
    assert result.shape == (48, 48, 4) and result[:10, :, 3].max() == 0 and result[-10:, :, 3].min() == 255


def test_erase_grows_the_mask_and_keeps_the_rest(tiny):
    photo = noise(80, 80)
    mask = hole_in(80, 80, np.s_[30:50, 30:50])
    result = run(tiny(ErasePipeline), photo, mask_image=mask, grow=3).pixels
    changed = (result != photo).any(-1)
    assert changed[27:53, 40].all() and not changed[:27].any() and not changed[53:].any()


HIDDEN = {
    "inpaint": (InpaintPipeline, {"mask_image": hole_in(60, 60, np.s_[20:44, 20:40])}),
    "inpaint where nothing is seen": (InpaintPipeline, {"mask_image": hole_in(60, 60, np.s_[50:58, 50:58])}),
    "erase": (ErasePipeline, {"mask_image": hole_in(60, 60, np.s_[20:44, 20:40])}),
    "expand": (ExpandPipeline, {"left": 10, "bottom": 7}),
    "upscale": (UpscalePipeline, {"scale": 2}),
    "outpaint": (OutpaintPipeline, {"prompt": "on a red cloth"}),
    "cutout": (CutoutPipeline, {}),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_lies_hidden_under_transparency_is_never_looked_at(tiny, name):
    pipeline, inputs = HIDDEN[name]
    y, x = np.mgrid[:60, :60] - 28
    photo = np.dstack([noise(60, 60), np.clip((22 - np.hypot(y, x)) * 60, 0, 255).astype(np.uint8)])
    other = np.where(photo[..., 3:] == 0, np.uint8([9, 200, 60, 0]), photo)
    seen = []
    for given in (photo, other):
        pixels = run(tiny(pipeline), given, **inputs).pixels
        shown = pixels[..., 3:] > 0 if pixels.shape[2] == 4 else True
        seen.append(pixels * shown)
    assert np.array_equal(*seen)


@pytest.mark.parametrize("under", [0, 255])
def test_an_enlarged_cut_out_has_no_fringe(tiny, under):
    y, x = np.mgrid[:32, :32] - 15.5
    alpha = np.clip(11 - np.hypot(y, x), 0, 1)
    cut_out = np.full((32, 32, 4), under, np.uint8)
    cut_out[alpha > 0, :3], cut_out[..., 3] = (230, 200, 60), np.rint(alpha * 255)
    canvas = Picture.from_any(cut_out).resize((64, 64)).pixels
    assert np.abs(canvas[..., :3].astype(int) - (230, 200, 60))[canvas[..., 3] > 0].max() <= 1


@pytest.mark.parametrize("fringe", [3, 60], ids=["noise", "anti-aliased edge"])
def test_only_what_is_marked_grows(tiny, fringe):
    """Neither noise nor a pale fringe is widened along with it."""
    photo, mask = noise(80, 80), np.zeros((80, 80), np.uint8)
    mask[28:52, 28:52], mask[30:50, 30:50] = fringe, 255
    mask[::7, ::7] = np.maximum(mask[::7, ::7], 3)
    result = run(tiny(ErasePipeline), photo, mask_image=mask, grow=4).pixels
    changed = (result != photo).any(-1)
    assert changed[26:54, 40].all() and not changed[:26].any() and not changed[54:].any()


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("pipeline", "inputs", "words"),
    [
        (InpaintPipeline, {"mask_image": np.zeros((40, 40), np.uint8)}, "empty"),
        (InpaintPipeline, {"mask_image": np.full((40, 40), 255, np.uint8)}, "full"),
        (InpaintPipeline, {"mask_image": np.zeros((20, 40), np.uint8)}, "40x20"),
        (InpaintPipeline, {}, "mask"),
        (ErasePipeline, {"mask_image": hole_in(40, 40, np.s_[:9, :9]), "grow": -1}, "grow"),
        (ErasePipeline, {"mask_image": hole_in(40, 40, np.s_[1:39, 1:39]), "grow": 9}, "full"),
        (ExpandPipeline, {}, "nothing to add"),
        (ExpandPipeline, {"left": 4, "aspect": "1:1"}, "not two"),
        (ExpandPipeline, {"left": "a lot"}, "a lot"),
        (ExpandPipeline, {"left": -4}, "-4"),
        (ExpandPipeline, {"aspect": "wide"}, "wide"),
        (ExpandPipeline, {"size": "30x90"}, "smaller"),
        (OutpaintPipeline, {}, "no subject"),
        (OutpaintPipeline, {"subject": np.zeros((40, 40), np.uint8)}, "empty"),
        (UpscalePipeline, {"scale": 9}, "9"),
    ],
)
def test_bad_input_is_one_line(tiny, pipeline, inputs, words):
    with pytest.raises(ValueError) as caught:
        run(tiny(pipeline), np.full((40, 40, 3), 128, np.uint8), **inputs)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_not_a_number(tiny):
    photo = np.full((40, 40, 3), np.nan, np.float32)
    with pytest.raises(ValueError, match="NaN|finite"):
        run(tiny(UpscalePipeline), photo)


# ----------------------------------------------------------------------------------------------------------- training


def batch(height=32, width=32, count=6):
    generator = torch.Generator().manual_seed(0)
    matte = torch.zeros(count, 1, height, width)
    matte[:, :, 8:24, 10:22] = 1
    return Sample(torch.rand(count, 3, height, width, generator=generator) * 2 - 1, matte, ["a cup"] * count)


@pytest.mark.parametrize("shape", [(32, 32), (64, 32), (32, 48)])  # buckets
@pytest.mark.parametrize("name", TASKS)
def test_examples_show_the_truth_only_where_it_is_given(name, shape):
    sample = batch(*shape)
    condition = get_task(name).example(sample, torch.Generator().manual_seed(1))
    again = get_task(name).example(sample, torch.Generator().manual_seed(1))
    assert len(condition) == len(sample) and set(condition.task) == {name}
    assert torch.equal(condition.canvas, again.canvas)  # the generator decides everything
    assert condition.canvas.abs().max() <= 1 and condition.hole.min() >= 0 and condition.hole.max() <= 1
    given = (condition.hole == 0).expand_as(sample.pixels)
    if name != "upscale":
        assert given.any() and torch.equal(condition.canvas[given], sample.pixels[given])
        assert (condition.hole.flatten(1).sum(1) > 0).all()
    hidden = (condition.hole == 1).expand_as(sample.pixels)
    assert not torch.allclose(condition.canvas[hidden], sample.pixels[hidden])


@pytest.mark.parametrize("name", ["inpaint", "expand", "outpaint", "erase"])
def test_what_is_hidden_does_not_leak(name):
    """Changing the truth inside the hole changes nothing that the model sees."""
    sample = batch()
    task = get_task(name)
    condition = task.example(sample, torch.Generator().manual_seed(1))
    other = torch.where(condition.hole > 0, -sample.pixels, sample.pixels)
    again = task.example(Sample(other, sample.matte, sample.prompt), torch.Generator().manual_seed(1))
    assert torch.equal(condition.canvas, again.canvas)


def test_outpaint_shows_the_object_alone():
    condition = get_task("outpaint").example(batch(), torch.Generator().manual_seed(1))
    assert condition.canvas[:, :, :4].abs().max() == 0 and condition.hole[:, :, :4].min() == 1


def test_erase_cuts_out_the_shape_of_another_picture():
    """The hole is no object of the photograph itself: its target is background."""
    sample = batch()
    sample.matte[0, :, :, :] = 0
    sample.matte[0, :, 4:28, 15:17] = 1  # the only upright bar; the second picture is to get it
    condition = get_task("erase").example(sample, torch.Generator().manual_seed(3))
    rows, columns = (condition.hole[1, 0].amax(axis).sum() for axis in (1, 0))
    assert rows > 2 * columns  # still a bar
    assert all(condition.hole[i].mean() < 0.6 for i in range(6))


def test_upscale_degrades_more_with_the_factor():
    from skimage import data

    from photofound.edits.degradation import degraded_canvas

    photo = torch.from_numpy(data.astronaut()[:96, 180:276]).permute(2, 0, 1)[None].float() / 127.5 - 1
    errors = []
    for factor in (2, 3, 4):
        low = degraded_canvas(photo.repeat(8, 1, 1, 1), factor, torch.Generator().manual_seed(0))
        assert low.shape == (8, 3, 96, 96)
        errors.append(float((low - photo).abs().mean()))
    assert errors == sorted(errors) and errors[0] > 0.01
    assert [enlargement_strength(s) for s in (1, 4, 9)] == [0, 1, 1]


def test_jpeg_simulation_is_close_to_the_real_thing():
    """Our batched coder against Pillow's at the same quality and without chroma subsampling: errors of the same
    size."""
    import io

    from skimage import data

    from photofound.edits import degradation

    photo = np.ascontiguousarray(data.astronaut()[:128, 128:256])
    pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 127.5 - 1
    ours = degradation._jpeg_round_trip(pixels, torch.Generator().manual_seed(0))
    quality = round(float(torch.rand(1, generator=torch.Generator().manual_seed(0)) * 55 + 40))
    stream = io.BytesIO()
    Image.fromarray(photo).save(stream, "JPEG", quality=quality, subsampling=0)
    theirs = torch.from_numpy(np.asarray(Image.open(stream)).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    ratio = float((ours - pixels).square().mean() / (theirs - pixels).square().mean())
    assert 0.5 < ratio < 2.0


# ---------------------------------------------------------------------------------------------------------- subjects


def test_another_segmenter_can_be_plugged_in(tiny, monkeypatch):
    from photofound.edits import masks

    photo = noise(40, 40)
    mask = masks.cut_out(photo.astype(np.float32) / 255, lambda rgb: (rgb[..., 0] > 0.5).astype(np.float32))
    assert mask.shape == (40, 40) and 0.3 < mask.mean() < 0.7


def test_cut_out_finds_a_plain_object(tiny):
    photo = np.full((80, 80, 3), 235, np.uint8)
    photo[20:60, 25:55] = (180, 30, 40)
    result = run(tiny(OutpaintPipeline), photo)
    assert isinstance(result, Picture) and (result.pixels[25:55, 30:50] == photo[25:55, 30:50]).all()
    assert (result.pixels[:15] != photo[:15]).any()


# ------------------------------------------------------------------------- what samples nothing offers nothing of it

SAMPLERS = {"steps", "guidance", "resample", "best_of", "cache", "cache_threshold", "fallback", "fallback_below"}


def offered_by(name: str) -> dict[str, set[str]]:
    """Entry -> which settings of sampling it offers for a task."""
    from photofound.cli.options import task_parser
    from photofound.demos import comfyui, offers
    from photofound.serve.config import ServeConfig
    from photofound.serve.form import form_model
    from photofound.serve.mcp import _tool

    task = get_task(name)
    shown = {each.dest for each in task_parser(task)._actions if each.help != argparse.SUPPRESS}
    node = type("Node", (comfyui.TaskNode,), {"task": task}).INPUT_TYPES()
    widgets = {n for part in node.values() for n, (_, *o) in part.items() if not (o and o[0].get("hidden"))}
    page = offers.described(task)
    return {
        "command": shown,
        "form": set(form_model(task, ServeConfig()).model_json_schema()["properties"]),
        "assistant": set(_tool(None, task, ()).parameters["properties"]),
        "node": widgets,
        "page": ({"steps", "guidance"} if page["samples"] else set()) | ({"seed"} if page["varies"] else set()),
    }


@pytest.mark.parametrize("name", task_names())
def test_what_samples_nothing_offers_nothing_of_it(name, capsys):
    task = get_task(name)
    diffusers = {"num_inference_steps", "guidance_scale", "negative_prompt"}
    for entry, found in offered_by(name).items():
        assert ({"steps", "guidance"} <= found) is task.samples, entry
        assert task.samples or not found & (SAMPLERS | diffusers), entry
        assert ("seed" in found) is task.varies, entry
    idle = [] if task.samples else [each.replace("_", "-") for each in sorted(SAMPLERS - {"best_of"})]
    for option in [*idle, *([] if task.varies else ["seed", "images"])]:
        words = [name, "photo.png", *(["x"] * sum(each.required for each in task.inputs)), f"--{option}", "3"]
        assert cli.main(words) == 2
        assert f"--{option} changes nothing in {name}; leave it out" in capsys.readouterr().err


def test_pipelines_take_what_changes_nothing_and_say_so(tiny, photo):
    def bright(picture):
        return picture[..., 0] > 128

    alike = tiny(CutoutPipeline)
    with pytest.warns(UserWarning, match="^cutout samples nothing, so num_inference_steps, guidance_scale changed no"):
        told = alike(photo, segmenter=bright, num_inference_steps=3, guidance_scale=2.0).images[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(told, alike(photo, segmenter=bright).images[0])
