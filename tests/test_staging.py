"""Products on surfaces: where they stand, how they are lit, their shadows; and outpainting from a given background."""

import numpy as np
import pytest
import torch
from PIL import Image

from photofound import InpaintPipeline, OutpaintPipeline, image
from photofound.edits import staging
from photofound.edits.ground import lab
from photofound.edits.surfaces import surface_of
from photofound.edits.task import get_task
from photofound.picture import provenance


def box(height=120, width=160, top=30, bottom=90, left=50, right=110):
    matte = np.zeros((height, width), np.float32)
    matte[top:bottom, left:right] = 1
    return matte


def lit_from(side, matte):
    """A grey subject that is brighter on one side, in (H, W, 3)."""
    ramp = np.linspace(-0.2, 0.2, matte.shape[1], dtype=np.float32) * side
    return np.broadcast_to((0.5 + ramp)[None, :, None], (*matte.shape, 3)).copy()


def test_where_a_subject_stands():
    where = staging.standing(box())
    assert (where.base, where.top) == (90 / 120, 30 / 120) and (where.left, where.right) == (50 / 160, 110 / 160)
    assert where.top < where.edge < where.base  # the ground ends behind it
    for bottom in (20, 60, 120):
        assert 0 < staging.standing(box(top=0, bottom=bottom)).edge < bottom / 120
    with pytest.raises(ValueError, match="nothing is opaque"):
        staging.standing(np.zeros((5, 5), np.float32))


def test_light_is_seen_on_the_subject_alone():
    matte = box()
    left, right = (staging.light_side(lit_from(side, matte), matte) for side in (-1, 1))
    assert -0.61 < left < -0.2 and 0.2 < right < 0.61
    disturbed = lit_from(-1, matte)
    disturbed[matte == 0] = lit_from(1, matte)[matte == 0]
    assert staging.light_side(disturbed, matte) == pytest.approx(left, abs=0.02)
    top = np.linspace(1, 0, 120, dtype=np.float32)[:, None, None] * np.ones((120, 160, 3), np.float32)
    assert abs(staging.light_side(top, matte)) < 0.35  # from above: no side


def test_grain_is_measured_in_smooth_parts():
    matte, rng = box(240, 320, 20, 220, 40, 280), np.random.default_rng(0)
    smooth = np.full((240, 320, 3), 0.5, np.float32)
    assert staging.estimate_grain(smooth, matte) < 1e-3
    noisy = smooth + 0.006 * rng.standard_normal((240, 320, 1)).astype(np.float32)
    assert staging.estimate_grain(noisy, matte) == pytest.approx(0.006, rel=0.25)
    noisy[:100] += 0.3 * (np.indices((100, 320)).sum(0) % 2)[..., None]  # a chequered part does not count
    assert staging.estimate_grain(noisy, matte) == pytest.approx(0.006, rel=0.35)


@pytest.mark.parametrize("view", ["ground", "wall", "flat"])
def test_shadow_is_darkest_at_the_contact_and_away_from_the_light(view):
    matte = box(240, 320, 60, 180, 110, 210)
    dark = staging.shadow(matte, 0.6, view, 0.4)  # light from the right
    assert dark.shape == matte.shape and 0 <= dark.min() and dark.max() <= 1
    outside = np.where(matte > 0, 0, dark)
    at_base, above = outside[181:187, 115:205].mean(), outside[20:50, 115:205].mean()
    assert at_base > 0.25 and at_base > 3 * above
    assert outside[165:200, 70:110].sum() > 1.15 * outside[165:200, 210:250].sum()
    assert outside[230:].max() < 0.5 * at_base  # and it ends
    mirrored = staging.shadow(matte[:, ::-1], -0.6, view, 0.4)[:, ::-1]
    assert np.abs(mirrored - dark).max() < 0.08


def test_the_ground_ends_and_so_do_shadows():
    matte = box(240, 320, 60, 180, 110, 210)
    assert staging.shadow(matte, 0.6, "ground", 0.6)[: int(0.52 * 240)].max() < 0.02
    assert staging.shadow(matte, 0.6, "wall", 0.6)[: int(0.52 * 240)].max() > 0.05  # a wall catches some


def test_shadows_do_not_depend_on_size():
    small, large = box(120, 160), box(480, 640, 120, 360, 200, 440)
    reduced = staging.shadow(large, 0.4)[2::4, 2::4]
    assert np.abs(reduced - staging.shadow(small, 0.4)).mean() < 0.02


def test_placed_is_seeded_and_never_brighter_under_the_subject():
    matte = box(96, 128)
    rgb = lit_from(1, matte)
    surface = surface_of("on a wooden table")
    first, again, other = (staging.background(surface, rgb, matte, seed) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any(-1).mean() > 0.9
    assert first[91:94, 55:105].mean() < 0.8 * first[91:94, :30].mean()


def test_pure_white_stays_white_but_for_the_shadow():
    matte = box(96, 128, 20, 60, 50, 80)
    made = staging.background(surface_of("pure white"), lit_from(1, matte), matte)
    assert (made[:10] > 0.998).all() and (made[62, 55:75] < 0.95).all()


def test_a_picture_fills_the_frame():
    picture = np.zeros((50, 200, 3), np.float32)
    picture[:, 75:125] = 1  # the middle is kept
    assert staging.crop_to_fill(picture, (60, 60)).shape == (60, 60, 3)
    assert staging.crop_to_fill(picture, (60, 60)).mean() > 0.95
    assert staging.crop_to_fill(picture, (7, 300)).shape == (300, 7, 3)


def test_a_model_changes_light_and_nothing_else():
    torch.manual_seed(0)
    scene = torch.rand(1, 3, 64, 64) - 0.5
    again, hole = torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 32, 32)
    assert torch.allclose(staging.add_light(scene, again, again, hole), scene)
    tinted = again + torch.tensor([0.3, -0.1, -0.2])[None, :, None, None]  # no lightness in it
    assert torch.allclose(staging.add_light(scene, tinted, again, hole), scene, atol=1e-5)
    chequered = again + 0.2 * ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2 - 1)
    assert (staging.add_light(scene, chequered, again, hole) - scene).abs().max() < 0.01
    lighter = staging.add_light(scene, again + 0.1, again, hole) - scene
    assert torch.allclose(lighter, torch.full_like(lighter, 0.1 * staging.LIGHT_STRENGTH), atol=1e-4)
    white = torch.ones(1, 3, 64, 64)
    assert (staging.add_light(white, again - 0.5, again, hole) == 1).all()


# ---------------------------------------------------------------------------------------------------------- outpainting


def photo(height=72, width=88):
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (height, width, 3), np.uint8, endpoint=True)


def outpaint(pipe, prompt, seed=0, **inputs):
    matte = box(72, 88, 20, 60, 30, 60)
    settings = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(seed), "output_type": "picture"}
    return pipe(photo(), prompt=prompt, subject=(matte * 255).astype(np.uint8), **inputs, **settings), matte


@pytest.fixture
def drawing(tiny):
    pipe = tiny(OutpaintPipeline)
    pipe.register_to_config(surfaces=True)
    return pipe


@pytest.mark.slow
def test_a_prompt_chooses_the_background(drawing):
    for prompt, note, channel in (("on red cloth", "cloth, red", 0), ("on green grass", "grass, green", 1),
                                  ("a blue wall", "plaster, blue", 2)):  # fmt: skip
        output, matte = outpaint(drawing, prompt)
        (result,) = output.images
        assert output.notes == [result.note] == [f"background: {note}"]
        mean = result.pixels[matte == 0].mean(0)
        assert mean.argmax() == channel and mean[channel] > mean.mean() + 10
        assert (result.pixels[matte == 1] == photo()[matte == 1]).all()


def test_same_seed_same_pixels_and_others_another_surface(drawing):
    first, again, other = (outpaint(drawing, "on a wooden table", seed)[0].images[0].pixels for seed in (5, 5, 6))
    assert (first == again).all() and (first != other).any(-1).mean() > 0.4


@pytest.mark.slow
def test_seeds_have_no_pattern_in_common(drawing):
    """The mean of 32 seeds, high-passed, is as weak as chance leaves it (1); a stamp that all share would give 5.7."""
    import cv2

    matte = box(72, 88, 20, 60, 30, 60)
    picture, subject = image.Picture.from_any(photo()), (matte * 255).astype(np.uint8)
    job = get_task("outpaint").prepare(picture, prompt="on a red cloth", subject=subject, shadow="none")
    results = drawing.run([job] * 32, [torch.Generator().manual_seed(seed) for seed in range(32)], 2, 2.0)
    far = cv2.dilate(matte, np.ones((13, 13))) == 0
    grey = [result.rgb().mean(-1) for result in results]
    fine = [(each - cv2.GaussianBlur(each, (0, 0), 3))[far] for each in grey]
    shared = np.mean(fine, 0).std() / (np.mean([each.std() for each in fine]) / 32**0.5)
    assert shared < 1.6


@pytest.mark.slow
def test_without_a_known_word_or_the_setting_nothing_changes(tiny, drawing):
    plain = tiny(OutpaintPipeline)
    for prompt in ("in a kitchen", ""):
        mine, theirs = (outpaint(pipe, prompt)[0] for pipe in (drawing, plain))
        assert (mine.images[0].pixels == theirs.images[0].pixels).all() and mine.notes == [""]
    assert outpaint(plain, "on a red cloth")[0].notes == [""]


@pytest.mark.slow
def test_a_batch_is_its_members_alone(drawing):
    matte = (box(72, 88, 20, 60, 30, 60) * 255).astype(np.uint8)
    prompts = ("on red cloth", "in a kitchen", "on grey sand")
    jobs = [get_task("outpaint").prepare(image.Picture.from_any(photo()), prompt=p, subject=matte) for p in prompts]
    together = drawing.run(jobs, [torch.Generator().manual_seed(i) for i in range(3)], 2, 2.0)
    for i, (job, result) in enumerate(zip(jobs, together, strict=True)):
        (alone,) = drawing.run([job], [torch.Generator().manual_seed(i)], 2, 2.0)
        assert (alone.pixels == result.pixels).all() and alone.note == result.note


@pytest.mark.slow
def test_the_setting_is_kept(drawing, tmp_path):
    assert OutpaintPipeline.from_pipe(drawing).config.surfaces is True
    drawing.save_pretrained(tmp_path)
    assert OutpaintPipeline.from_pretrained(tmp_path).config.surfaces is True
    assert OutpaintPipeline.from_pretrained().config.surfaces is True  # the embedded model


def test_a_gallery_is_used_whatever_the_checkpoint(tiny, tmp_path):
    Image.new("RGB", (64, 64), (20, 200, 40)).save(tmp_path / "garden.png")
    output, matte = outpaint(tiny(OutpaintPipeline), "in the garden", gallery=tmp_path)
    mean = output.images[0].pixels[:10].mean((0, 1))
    assert output.notes == ["background: garden.png"] and mean[1] > 150 > 60 > mean[0]
    assert (output.images[0].pixels[matte == 1] == photo()[matte == 1]).all()


def test_nobody_from_outside_names_a_folder():
    from photofound.demos import comfyui, studio
    from photofound.edits.task import offered

    task = get_task("outpaint")
    assert "gallery" in {each.name for each in task.inputs}
    for shown in (offered(task), studio.declared(task), comfyui._inputs(task)):
        assert "prompt" in {each.name for each in shown} and "gallery" not in {each.name for each in shown}


def test_metadata_say_what_was_chosen(drawing):
    output, _ = outpaint(drawing, "on a marble table")
    marked = provenance.mark(output.images[0])
    assert b"background: marble, white" in marked.xmp and b"AIPromptInformation" in marked.xmp


# ----------------------------------------------------------------------------------------------------------- inpainting


def inpaint(pipe, prompt="", seed=0, **inputs):
    mask = (box(72, 88, 20, 60, 30, 60) * 255).astype(np.uint8)
    settings = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(seed), "output_type": "picture"}
    output = pipe(photo(), mask_image=mask, prompt=prompt, **inputs, **settings)
    return output, mask > 0


@pytest.fixture
def painting(tiny):
    pipe = tiny(InpaintPipeline)
    pipe.register_to_config(surfaces=True)
    return pipe


@pytest.mark.parametrize(
    "word", ["red", "green", "yellow", "white", "black", "orange", "pink", "brown", "grey", "blue"]
)
def test_a_hole_takes_the_colour_that_the_prompt_names(painting, word):
    """And not that of the photograph's own patches: within 30 degrees of hue, or as light and as grey as the word."""
    output, hole = inpaint(painting, f"{word} cloth")
    (result,) = output.images
    assert output.notes == [f"painted: cloth, {word}"]
    assert (result.pixels[~hole] == photo()[~hole]).all()
    (light, *made), (wanted_light, *wanted) = lab(np.array([result.pixels[hole].mean(0), surface_of(word).colour]))
    turn = np.degrees(np.angle(complex(*made) * complex(*wanted).conjugate()))
    assert abs(turn) < 30 if np.hypot(*wanted) > 15 else np.hypot(*made) < 15
    assert abs(light - wanted_light) < 20


def test_a_hole_takes_the_look_of_a_reference(painting):
    reference = np.full((40, 40, 3), (20, 160, 60), np.uint8)
    output, hole = inpaint(painting, reference=reference)
    mean = output.images[0].pixels[hole].mean(0)
    assert output.notes == ["painted: as in the reference"] and mean.argmax() == 1 and mean[1] > mean.mean() + 30


@pytest.mark.parametrize("prompt", ["a wooden chair", "a cat on a red sofa", "a table", ""])
def test_what_is_more_than_a_surface_is_left_to_the_model(tiny, painting, prompt):
    plain = tiny(InpaintPipeline)
    mine, theirs = (inpaint(pipe, prompt)[0] for pipe in (painting, plain))
    assert (mine.images[0].pixels == theirs.images[0].pixels).all() and mine.notes == [""]
    assert inpaint(plain, "red cloth")[0].notes == [""]


def test_a_filled_hole_is_lit_as_what_is_around_it():
    rgb = np.repeat(np.linspace(0.2, 0.9, 96, dtype=np.float32)[None, :, None], 64, 0).repeat(3, 2)
    hole = box(64, 96, 16, 48, 16, 80)
    made = staging.fill(surface_of("grey paper"), rgb, hole)
    assert made.shape == rgb.shape
    assert made[16:48, 60:80].mean() > 1.2 * made[16:48, 16:36].mean()
    assert (staging.fill(surface_of("pure white"), rgb, hole)[hole > 0] > 0.99).all()


def test_of_a_reference_the_middle_fills_the_holes_box():
    picture = np.zeros((50, 200, 3), np.float32)
    picture[:, 75:125] = 1
    made = staging.fill(picture, np.full((64, 64, 3), 0.5, np.float32), box(64, 64, 10, 30, 20, 40))
    assert made[10:30, 20:40].mean() > 0.9
