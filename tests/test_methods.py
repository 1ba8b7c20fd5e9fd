"""What is compared: each method does what its own library does, and answers in the truth's size."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.restoration import inpaint_biharmonic
from tiny_parts import clip, tokenizer, unet, vae

from photofound import UpscalePipeline
from photofound.eval.methods import CLASSICAL, DiffusersMethod, PhotofoundMethod, classical_methods
from photofound.eval.protocols import Problem, border, centre_box


def smooth(height=48, width=64):
    noise = np.random.default_rng(0).random((height, width, 3)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 5), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def hidden(task="inpaint", draw=centre_box, **more):
    truth = smooth()
    hole = draw(*truth.shape[:2])
    return Problem("p", "n", task, np.where(hole[..., None], np.uint8(127), truth), hole, truth, **more)


def small(scale=2):
    truth = smooth()
    given = np.asarray(Image.fromarray(truth).resize((64 // scale, 48 // scale), Image.Resampling.BICUBIC))
    return Problem("p", "n", "upscale", given, None, truth, scale=scale)


@pytest.mark.parametrize("name", ["telea", "navier-stokes", "biharmonic", "patchmatch"])
def test_a_classic_fills_holes_and_leaves_the_rest(name):
    problem = hidden()
    result = CLASSICAL[name].edit(problem, 0)
    assert (result[~problem.hole] == problem.truth[~problem.hole]).all()
    error = np.abs(result.astype(int) - problem.truth)[problem.hole].mean()
    assert error < np.abs(problem.given.astype(int) - problem.truth)[problem.hole].mean()


def test_classics_are_their_libraries_own():
    problem = hidden()
    mask = problem.hole.astype(np.uint8)
    assert (CLASSICAL["telea"].edit(problem, 0) == cv2.inpaint(problem.given, mask, 4, cv2.INPAINT_TELEA)).all()
    assert (CLASSICAL["navier-stokes"].edit(problem, 0) == cv2.inpaint(problem.given, mask, 4, cv2.INPAINT_NS)).all()
    theirs = inpaint_biharmonic(problem.given / 255, problem.hole, channel_axis=-1) * 255
    assert np.abs(CLASSICAL["biharmonic"].edit(problem, 0) - theirs).max() <= 0.5
    given = Image.fromarray(small().given)
    for name, method in (("bicubic", Image.Resampling.BICUBIC), ("lanczos", Image.Resampling.LANCZOS)):
        assert (CLASSICAL[name].edit(small(), 0) == np.asarray(given.resize((64, 48), method))).all()


def test_patchmatch_is_the_librarys_own_and_the_same_every_time():
    import patchmatch

    problem = hidden()
    result = CLASSICAL["patchmatch"].edit(problem, 0)
    patchmatch.set_random_seed(0)
    mask = problem.hole.astype(np.uint8) * 255
    assert (result == patchmatch.inpaint(problem.given, mask, patch_size=2)).all()
    patchmatch.set_random_seed(5)  # by somebody else
    other = patchmatch.inpaint(problem.given, mask, patch_size=2)
    with ThreadPoolExecutor(3) as pool:
        again = list(pool.map(lambda seed: CLASSICAL["patchmatch"].edit(problem, seed), range(3)))
    assert all((each == result).all() for each in again) and (other != result).any()
    assert CLASSICAL["patchmatch"].tasks == ("inpaint", "expand", "erase") and not CLASSICAL["patchmatch"].uses_seed


def test_where_patchmatch_is_missing_it_is_said_what_to_install(monkeypatch):
    import patchmatch

    monkeypatch.setattr(patchmatch, "patchmatch_available", False)
    for ask in (lambda: classical_methods(["telea", "patchmatch"]), lambda: CLASSICAL["patchmatch"].edit(hidden(), 0)):
        with pytest.raises(ImportError, match="without its native library.*CMake and OpenCV.*pip install --force-re"):
            ask()
    assert [method.name for method in classical_methods(["telea"])] == ["Telea"]
    monkeypatch.setitem(sys.modules, "patchmatch", None)
    with pytest.raises(ImportError, match="patchmatch needs PyPatchMatch: pip install 'PyPatchMatch>=2.2'"):
        classical_methods(["patchmatch"])


def test_methods_are_named_and_unknown_ones_refused():
    assert [m.name for m in classical_methods(["lanczos", "telea"])] == ["Lanczos", "Telea"]
    with pytest.raises(ValueError, match="method 'cubic' is unknown; known: telea"):
        classical_methods(["telea", "cubic"])


@pytest.mark.parametrize("task", ["inpaint", "erase", "outpaint", "expand"])
def test_ours_answers_every_task_in_the_truths_size_with_kept_pixels(tiny_folder, task):
    ours = PhotofoundMethod(str(tiny_folder), steps=1, dtype=torch.float32)
    problem = hidden(task, border if task == "expand" else centre_box, prompt="a cup")
    result = ours.edit(problem, 0)
    assert result.shape == problem.truth.shape and result.dtype == np.uint8
    assert (result[~problem.hole] == problem.given[~problem.hole]).all()
    assert (result == ours.edit(problem, 0)).all() and (result != ours.edit(problem, 1)).any()


@pytest.mark.slow
def test_ours_is_the_pipeline_itself_with_its_steps(tiny, tiny_folder):
    pipe, problem = tiny(UpscalePipeline), small()
    for steps in (1, 3):
        ours = PhotofoundMethod(str(tiny_folder), steps=steps, guidance=1.0, dtype=torch.float32)
        seed = torch.Generator().manual_seed(4)
        made = pipe(problem.given, scale=2, num_inference_steps=steps, guidance_scale=1.0, generator=seed).images[0]
        assert (ours.edit(problem, 4) == np.asarray(made)).all()
        assert ours.name == f"{tiny_folder.name}, {steps} steps, guidance 1"
    assert PhotofoundMethod(str(tiny_folder), name="mine").name == "mine"
    with pytest.raises(ValueError, match="no few-step student"):
        PhotofoundMethod(str(tiny_folder), teacher=True)


# ----------------------------------------------------------------------------------------------- pipelines of diffusers


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    words = tokenizer(tmp_path_factory.mktemp("text"))
    return {"text_encoder": clip(words), "tokenizer": words}


@pytest.fixture(scope="module")
def inpainter(tmp_path_factory, text):
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline

    folder = tmp_path_factory.mktemp("models") / "tiny-inpaint"
    parts = {"vae": vae(), "unet": unet(9), "scheduler": DDIMScheduler(), **text}
    empty = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
    pipe = StableDiffusionInpaintPipeline(**parts, **empty, requires_safety_checker=False)
    pipe.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_any_inpainting_pipeline_of_diffusers_can_be_asked(inpainter):
    method = DiffusersMethod(str(inpainter), steps=2, dtype=torch.float32)
    assert method.name == "tiny-inpaint, 2 steps" and set(method.tasks) == {"inpaint", "expand", "erase", "outpaint"}
    problem = hidden(prompt="a cup")
    result = method.edit(problem, 0)
    assert result.shape == problem.truth.shape and (result == method.edit(problem, 0)).all()
    assert (result != method.edit(problem, 1)).any()


@pytest.mark.slow
def test_any_upscaling_pipeline_of_diffusers_can_be_asked(tmp_path, text):
    from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionUpscalePipeline

    folder = tmp_path / "tiny-upscale"
    parts = {"vae": vae((8, 8, 8)), "unet": unet(7, num_class_embeds=1000), **text}
    pipe = StableDiffusionUpscalePipeline(**parts, scheduler=DDIMScheduler(), low_res_scheduler=DDPMScheduler())
    pipe.save_pretrained(folder)
    method = DiffusersMethod(str(folder), steps=1, dtype=torch.float32)
    assert method.tasks == ("upscale",)
    assert method.edit(small(4), 0).shape == (48, 64, 3)
    assert method.edit(small(2), 0).shape == (48, 64, 3)  # it only knows x4; brought down to what was asked


def test_a_pipeline_that_cannot_do_it_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="pipeline: nowhere/at-all cannot be loaded for inpainting or upscaling"):
        DiffusersMethod("nowhere/at-all")
    (tmp_path / "model_index.json").write_text('{"_class_name": "DDPMPipeline", "_diffusers_version": "0.40"}')
    with pytest.raises(ValueError, match="cannot be loaded for inpainting or upscaling"):
        DiffusersMethod(str(tmp_path))
