"""The contract between tasks and everything else: the Condition, and how tasks are found."""

from __future__ import annotations

import inspect
import os
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from photofound.edits import task as edit
from photofound.edits.task import Condition, Sample, get_task

TASK = """
    from __future__ import annotations
    from dataclasses import dataclass
    from photofound.edits.inputs import Input
    from photofound.edits.task import Task

    @dataclass(frozen=True)
    class Settings:
        strength: float = 0.5

    class Retouch(Task):
        name = "{name}"
        summary = "smooth the skin"
        inputs = (Input("mask_image", "mask", "white = retouch", required=True),)

        def prepare(self, picture, prompt="", mask_image=None):
            return None

        def example(self, sample, generator):
            return None

    TASK = Retouch()
"""


@pytest.fixture
def task_folder(tmp_path, monkeypatch):
    """A function that drops files into a folder of further tasks."""
    monkeypatch.setenv("PHOTOFOUND_TASKS", str(tmp_path))

    def drop(name: str, text: str = TASK) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(text).replace("{name}", name))
        forget()
        return path

    yield drop
    monkeypatch.undo()
    forget()


def forget():
    edit._finders.cache_clear()
    edit.get_task.cache_clear()


def condition(batch=2, size=8, **changes):
    values = {
        "canvas": torch.zeros(batch, 3, size, size),
        "hole": torch.ones(batch, 1, size, size),
        "task": ["erase"] * batch,
        "prompt": [""] * batch,
        "strength": torch.zeros(batch),
    }
    return Condition(**values | changes)


def test_the_five_tasks_are_known_without_importing_them():
    assert {"outpaint", "inpaint", "expand", "erase", "upscale"} <= set(edit.task_names())


def test_a_task_is_a_file_in_a_folder(task_folder):
    task_folder("retouch")
    assert "retouch" in edit.task_names()
    task = edit.get_task("retouch")
    assert task.summary == "smooth the skin" and task.inputs[0].required
    assert edit.get_task("retouch") is task


def test_several_folders_are_searched_and_private_files_are_not_tasks(task_folder, tmp_path, monkeypatch):
    more = tmp_path / "more"
    more.mkdir()
    task_folder("retouch").rename(more / "retouch.py")
    (tmp_path / "_helper.py").write_text("raise RuntimeError('not a task')")
    monkeypatch.setenv("PHOTOFOUND_TASKS", os.pathsep.join([str(tmp_path), str(more)]))
    forget()
    assert "retouch" in edit.task_names() and "_helper" not in edit.task_names()


def test_an_unknown_task_names_the_known_ones():
    with pytest.raises(ValueError, match="'eraze' is unknown; choose one of .*erase"):
        edit.get_task("eraze")


@pytest.mark.parametrize("text", ["x = 1\n", "TASK = 'retouch'\n", TASK.replace("{name}", "other")])
def test_a_file_without_its_task_is_refused(task_folder, text):
    task_folder("retouch", text)
    with pytest.raises(ValueError, match="the file of 'retouch' must define TASK"):
        edit.get_task("retouch")


def test_a_condition_has_one_task_prompt_and_strength_for_each_sample():
    assert len(condition()) == 2
    for wrong in ({"task": ["erase"]}, {"prompt": []}, {"strength": torch.zeros(3)}, {"hole": torch.ones(2, 3, 8, 8)}):
        with pytest.raises(AssertionError):
            condition(**wrong)


def test_conditions_are_joined_in_order():
    joined = Condition.cat([condition(1, task=["erase"]), condition(2, task=["expand", "inpaint"], prompt=["a", "b"])])
    assert (
        len(joined) == 3
        and list(joined.task) == ["erase", "expand", "inpaint"]
        and list(joined.prompt) == ["", "a", "b"]
    )
    assert joined.canvas.shape == (3, 3, 8, 8)


def test_a_condition_moves_with_everything_in_it():
    moved = condition().to("meta")
    assert {moved.canvas.device.type, moved.hole.device.type, moved.strength.device.type} == {"meta"}


def test_samples_are_picked_by_index():
    pixels = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    sample = Sample(pixels, torch.zeros(3, 1, 4, 4), ["a", "b", "c"])
    picked = sample[torch.tensor([2, 0])]
    assert len(picked) == 2 and list(picked.prompt) == ["c", "a"] and float(picked.pixels[0, 0, 0, 0]) == 2.0


def test_samples_keep_what_was_computed_of_them_when_they_are_picked_and_joined():
    pixels = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    known = {"a": torch.ones(2, 5)}
    sample = Sample(pixels, pixels[:, :1], ["a", "b", "c"], pixels[:, :2, :1, :1], known)
    joined = Sample.cat([sample[torch.tensor([2])], sample[torch.tensor([0, 1])]])
    assert joined.prompt == ["c", "a", "b"] and joined.latents[:, 0, 0, 0].tolist() == [2, 0, 1]
    assert torch.equal(joined.pixels[:, 0, 0, 0], joined.latents[:, 0, 0, 0]) and joined.embeddings == known
    without = Sample(pixels, pixels[:, :1], ["a", "b", "c"])
    assert Sample.cat([without, without]).latents is None
    with pytest.raises(AssertionError, match="all of a batch have latents, or none"):
        Sample.cat([sample, without])


# ------------------------------------------------------------------------------------ one declaration, one request


DECLARED = """
    from typing import Annotated, Any

    from photofound.edits.task import Job, Task, asks

    class Tint(Task):
        \"\"\"Tints a picture.\"\"\"

        name = "soft_tint"
        summary = "tint a picture"

        def prepare(
            self,
            picture,
            mask_image: Annotated[Any, asks("mask", "white = tint")],
            amount: Annotated[int, asks("int", "how much", choices=(1, 2))] = 1,
            hidden: str = "",
        ):
            \"\"\"Make it ready.

            Args:
                mask_image: where.
                amount: how much.

            Raises:
                ValueError: no mask.
            \"\"\"
            raise ValueError(f"mask {mask_image}, amount {amount}")

        def example(self, sample, generator):
            return None

    TASK = Tint()
"""


def test_what_a_task_declares_is_its_inputs_and_its_pipelines_signature(tmp_path, monkeypatch, tiny_folder):
    import photofound

    (tmp_path / "soft_tint.py").write_text(textwrap.dedent(DECLARED))
    monkeypatch.setenv("PHOTOFOUND_TASKS", str(tmp_path))
    edit._finders.cache_clear()
    try:
        task = get_task("soft_tint")
        assert [(each.name, each.kind, each.required, each.default) for each in task.inputs] == [
            ("mask_image", "mask", True, None),
            ("amount", "int", False, 1),
        ]
        assert task.inputs[1].choices == (1, 2)
        pipeline = photofound.SoftTintPipeline
        parameters = ["self", "image", "mask_image", "amount", "settings"]
        assert list(inspect.signature(pipeline.__call__).parameters) == parameters
        assert "mask_image: where." in pipeline.__call__.__doc__ and "ValueError: no mask." in pipeline.__call__.__doc__
        assert getattr(photofound, pipeline.__qualname__) is pipeline, "pickle finds it so"
        pipe = photofound.EditPipeline.from_pretrained(tiny_folder).for_task("soft_tint")
        assert type(pipe) is pipeline
        picture = np.zeros((8, 8, 3), np.uint8)
        with pytest.raises(ValueError, match="mask x, amount 2"):
            pipe(picture, "x", 2)
        with pytest.raises(ValueError, match="mask None, amount 1"):
            pipe(picture)
        with pytest.raises(TypeError, match="unexpected|unknown"):
            pipe(picture, "x", depth=3)
    finally:
        monkeypatch.undo()
        edit._finders.cache_clear()
        edit.get_task.cache_clear()


def test_a_request_is_what_the_call_gives(tiny_folder):
    """``answer`` and the pipeline's call make the same pixels, and prepare once however many pictures are wanted."""
    from photofound import EditPipeline, InpaintPipeline, Request
    from photofound.image import Picture

    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.float32)
    mask[16:40, 20:44] = 1
    pipe = EditPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
    request = Request("inpaint", Picture.from_any(photo), {"mask_image": mask}, seed=5, steps=1)
    answered = pipe.answer(request, count=2)
    call = InpaintPipeline.from_pipe(pipe)
    given = call(photo, mask, num_inference_steps=1, num_images_per_prompt=2, generator=request.generator())
    for ours, theirs in zip(answered.images, given.images, strict=True):
        assert (ours.pixels == np.asarray(theirs)).all()
    assert (answered.keep == 1 - mask).all()
