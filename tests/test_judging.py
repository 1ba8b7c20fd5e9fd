"""The best of several results, and the larger model that gets what did not come out well."""

import numpy as np
import pytest
from helpers import seeded

from photofound import EditPipeline, ErasePipeline, InpaintPipeline, OutpaintPipeline, Picture, Request
from photofound.edits import scores
from photofound.edits.scores import Scores


@pytest.fixture
def judged(monkeypatch):
    """All results that were judged, and their scores."""
    calls, original = [], scores.of_fill

    def of_fill(rgb, *rest, **more):
        calls.append((rgb, original(rgb, *rest, **more)))
        return calls[-1][1]

    monkeypatch.setattr(scores, "of_fill", of_fill)
    return calls


def test_candidates_are_the_variants_and_the_chosen_one_is_returned(tiny, photo, mask, judged):
    pipe = tiny(InpaintPipeline)
    variants = [np.asarray(each) for each in pipe(photo, mask, num_images_per_prompt=4, generator=seeded(3)).images]
    made = pipe(photo, mask, best_of=4, generator=seeded(3))
    pictures, found = zip(*judged, strict=True)
    index = int(np.argmin([each.faults for each in found]))
    assert (
        len(pictures) == 4
        and made.scores == [found[index]]
        and len(made.images) == 1
        and isinstance(made.scores[0], Scores)
    )
    assert all((np.rint(p * 255) == v).all() for p, v in zip(pictures, variants, strict=True))
    assert (np.asarray(made.images[0]) == variants[index]).all()
    assert made.notes == [f"the best of 4: score {made.scores[0].total:.2f}"]
    assert (np.asarray(made.images[0])[mask == 0] == photo[mask == 0]).all()
    assert pipe(photo, mask).scores is None


def test_several_bests_and_lists(tiny, photo, mask):
    made = tiny(InpaintPipeline)([photo, np.roll(photo, 9, 1)], mask, best_of=2, num_images_per_prompt=2, generator=1)
    assert len(made.images) == len(made.scores) == len(made.notes) == 4


@pytest.mark.parametrize("bad", [0, 17, 1.5, "4", True])
def test_bad_numbers_are_refused(tiny, photo, mask, bad):
    with pytest.raises(ValueError, match="best_of: .* must be a whole number from 1 to 16"):
        tiny(InpaintPipeline)(photo, mask, best_of=bad)


def test_what_keeps_nothing_is_not_judged(tiny, photo):
    for task, picture, inputs in (
        ("generate", None, {"prompt": "wood"}),
        ("upscale", Picture.from_any(photo), {"scale": 2}),
    ):
        pipe = tiny(EditPipeline).for_task(task)
        with pytest.raises(ValueError, match=f"best_of: {task} keeps nothing that its results could be judged by"):
            pipe.answer(Request(task, picture, inputs, best_of=3))


@pytest.mark.slow
def test_other_candidates_start_from_other_patches(photo):
    """The embedded model's holes start from the photograph's patches: each candidate from others."""
    from photofound.edits import exemplar

    patches, original = [], exemplar.patchmatch
    pipe = InpaintPipeline.from_pretrained()
    mask = np.zeros((70, 90), np.uint8)
    mask[20:50, 30:60] = 255
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exemplar, "patchmatch", lambda *given: (patches.append(given[2:4]), original(*given))[1])
        made = pipe(photo, mask, best_of=3, generator=1).images[0]
    assert patches == [(2, 0), (3, 1), (2, 2)] and (np.asarray(made)[mask == 0] == photo[mask == 0]).all()


def test_an_interrupted_call_chooses_among_what_there_is(tiny, photo, mask, judged):
    def stop(pipe, step, *rest):
        pipe._interrupt = True

    made = tiny(InpaintPipeline)(photo, mask, best_of=4, callback_on_step_end=stop)
    assert len(made.images) == len(judged) == 1 and made.scores


def test_what_a_prompt_asks_for_need_not_be_like_the_photograph(tiny, photo, mask):
    pipe = tiny(InpaintPipeline)
    alone, asked = (pipe(photo, mask, prompt, best_of=2, generator=0).scores[0] for prompt in ("", "a plant"))
    assert alone.unlike != 0 and asked.unlike == 0


def test_outpainting_is_judged_by_the_subjects_growth(tiny, photo, mask):
    made = tiny(OutpaintPipeline)(photo, subject=mask, best_of=2, generator=0)
    assert made.scores[0] == Scores(growth=made.scores[0].growth)


# ------------------------------------------------------------------------------------------------------- a larger model


@pytest.fixture
def pair(tiny_folder, tmp_path, monkeypatch):
    """A pipeline, and another one of other weights as its fallback, whose results are always the better ones."""
    import torch

    small, large = (EditPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32) for _ in "ab")
    for parameter in large.transformer.parameters():
        parameter.data.mul_(1.5)
    large.save_pretrained(tmp_path / "large")
    order = []

    def of_fill(rgb, hole, continues):
        order.append(1)
        return Scores(sharpness=2.0 if len(order) % 2 else 0.0)

    monkeypatch.setattr(scores, "of_fill", of_fill)
    return small, tmp_path / "large", order


def test_only_what_is_poor_goes_to_the_larger_model(pair, photo, mask):
    small, folder, order = pair
    request = Request("inpaint", Picture.from_any(photo), {"mask_image": mask}, seed=5)
    plain = small.answer(request).images[0].pixels
    small.use_fallback(folder)
    made = small.answer(request)
    theirs = EditPipeline.from_pretrained(folder, torch_dtype=small.transformer.dtype).answer(request)
    assert (made.images[0].pixels != plain).any() and (made.images[0].pixels[mask == 0] == photo[mask == 0]).all()
    assert f"fallback {folder}: taken, score 1.00 after" in made.notes[0] and made.scores == [Scores()]
    assert small.fallback._pipe.transformer.num_parameters() == small.transformer.num_parameters()
    del theirs
    small.use_fallback(folder, below=0)
    assert (small.answer(request).images[0].pixels == plain).all() and small.fallback._pipe is None, "not even loaded"
    small.use_fallback(None)
    order.clear()
    assert (small.answer(request).images[0].pixels == plain).all() and not order, "nothing is judged"


def test_the_larger_models_result_is_what_it_gives_alone(pair, photo, mask):
    small, folder, _ = pair
    large = EditPipeline.from_pretrained(folder, torch_dtype=small.transformer.dtype)
    request = Request("inpaint", Picture.from_any(photo), {"mask_image": mask}, seed=5)
    alone = large.answer(request).images[0]
    small.use_fallback(large)
    made = small.answer(request).images[0]
    assert (made.pixels == alone.pixels).all() and made.recipe == alone.recipe, "the recipe tells who made it"


def test_the_better_one_is_returned(pair, photo, mask):
    small, folder, order = pair
    order.append(1)  # the first result is the good one now
    request = Request("inpaint", Picture.from_any(photo), {"mask_image": mask}, seed=5)
    plain = small.answer(request).images[0].pixels
    small.use_fallback(folder, below=1)
    monkey = small.answer(request)
    assert (monkey.images[0].pixels == plain).all() and "fallback" not in monkey.notes[0], "a full score is never low"


def test_tasks_share_the_fallback_and_bad_bounds_are_refused(tiny):
    pipe = tiny(InpaintPipeline)
    pipe.use_fallback("some/model")
    assert pipe.for_task("erase").fallback is pipe.fallback is ErasePipeline.from_pipe(pipe).fallback
    for bad in (-1, 2, "x", True):
        with pytest.raises(ValueError, match="fallback_below: .* must be a number from 0 to 1"):
            pipe.use_fallback("some/model", below=bad)


def test_every_entry_has_it(tiny, photo, mask, tmp_path, capsys):
    import io

    import torch
    from helpers import encoded
    from PIL import Image
    from starlette.testclient import TestClient

    from photofound.cli import main
    from photofound.demos import comfyui
    from photofound.serve.app import create_app

    pipe = tiny(InpaintPipeline)
    wanted = np.asarray(pipe(photo, mask, best_of=3, generator=7).images[0])
    node = comfyui.NODE_CLASS_MAPPINGS["PhotofoundInpaint"]()
    as_tensor = torch.from_numpy(photo.astype(np.float32) / 255)[None]
    out, _ = node.edit(pipe, as_tensor, seed=7, best_of=3, mask_image=torch.from_numpy(mask / 255).float())
    assert (np.rint(out[0].numpy() * 255) == wanted).all()
    with TestClient(create_app(pipe), raise_server_exceptions=False) as client:
        files = {"image": ("a.png", encoded(photo)), "mask": ("m.png", encoded(mask))}
        answer = client.post("/v1/inpaint", files=files, data={"seed": 7, "best_of": 3})
        assert (np.asarray(Image.open(io.BytesIO(answer.content))) == wanted).all()
        assert "the best of 3: score" in answer.headers["X-Photofound-Note"]
        assert client.post("/v1/inpaint", files=files, data={"best_of": 99}).status_code == 422
    Image.fromarray(photo).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    pipe.save_pretrained(tmp_path / "model")
    line = ["inpaint", str(tmp_path / "a.png"), str(tmp_path / "m.png"), "--model", str(tmp_path / "model")]
    line += ["--dtype", "float32", "--seed", "7"]
    assert main([*line, "--best-of", "3", "-o", str(tmp_path / "o.png")]) == 0
    assert (np.asarray(Image.open(tmp_path / "o.png")) == wanted).all()
    assert "the best of 3: score" in capsys.readouterr().err
    assert main([*line, "--fallback-below", "0.5", "-o", str(tmp_path / "p.png")]) == 2
    assert "there is no --fallback" in capsys.readouterr().err
    more = ["--fallback", str(tmp_path / "model"), "--fallback-below", "1", "-o", str(tmp_path / "p.png")]
    assert main([*line, *more]) == 0
    assert "fallback " in capsys.readouterr().err
