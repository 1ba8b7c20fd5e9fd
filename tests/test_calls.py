"""Calls as programs make them: from threads, stopped half way, with callbacks that only look, with numpy's numbers, in
lists; and pipelines that travel to another process."""

import copy
import subprocess
import sys
import textwrap
import threading
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from diffusers import FlowMatchLCMScheduler
from helpers import seeded

from photofound import EditPipeline, ErasePipeline, ExpandPipeline, InpaintPipeline, OutpaintPipeline, UpscalePipeline

# -------------------------------------------------------------------------------------------------------------- threads


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["euler", "lcm"])
def test_threads_share_one_pipeline_or_its_weights(tiny, photo, mask, scheduler):
    """Other numbers of steps side by side, over and over, with results as alone."""
    pipe = tiny(InpaintPipeline)
    if scheduler == "lcm":
        pipe = InpaintPipeline.from_pipe(pipe, scheduler=FlowMatchLCMScheduler())
    other = ErasePipeline.from_pipe(pipe)
    for each in (pipe, other):
        each.set_progress_bar_config(disable=True)
    calls = [(pipe, 3), (pipe, 7), (other, 5)]

    def run(index):
        each, steps = calls[index]
        return np.asarray(each(photo, mask, num_inference_steps=steps, generator=seeded(index)).images[0])

    alone = [run(i) for i in range(3)]
    start, found = threading.Barrier(3), {}

    def work(index):
        start.wait()
        found[index] = [run(index) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 1, 2], "none of the threads failed"
    assert all((result == alone[i]).all() for i, results in found.items() for result in results)


def test_a_call_leaves_the_scheduler_as_it_was(tiny, photo, mask):
    pipe = tiny(InpaintPipeline)
    before = pipe.scheduler.timesteps.clone()
    pipe(photo, mask, num_inference_steps=3)
    assert torch.equal(pipe.scheduler.timesteps, before) and pipe.scheduler.step_index is None


# ------------------------------------------------------------------------------------------------------------- stopping


def test_interrupt_ends_the_call_with_a_whole_picture_and_nothing_else(tiny, photo, mask):
    pipe, seen = tiny(InpaintPipeline), []

    def stop(pipe, step, t, tensors):
        seen.append(step)
        pipe._interrupt = step == 1

    made = pipe(photo, mask, num_inference_steps=9, num_images_per_prompt=3, callback_on_step_end=stop).images
    assert seen == [0, 1] and len(made) == 1, "variants that were not begun are not in the result"
    kept = mask == 0
    assert (np.asarray(made[0])[kept] == photo[kept]).all()
    assert not pipe.interrupt, "the next call is not stopped by the last one"
    assert len(pipe([photo, photo], mask, num_images_per_prompt=2).images) == 4


def test_an_interrupted_picture_is_what_the_model_saw_coming(tiny, photo, mask):
    """Not the noise that is left: with one step taken of many, nearer to the one-step picture than to any noise."""
    pipe = tiny(InpaintPipeline)

    def stop(pipe, *rest):
        pipe._interrupt = True

    stopped = pipe(photo, mask, num_inference_steps=50, callback_on_step_end=stop, generator=seeded()).images[0]
    once = pipe(photo, mask, num_inference_steps=1, generator=seeded()).images[0]
    assert np.abs(np.asarray(stopped).astype(int) - np.asarray(once).astype(int)).max() <= 2


def test_a_thread_stops_its_own_call_and_an_onlooker_all_of_them(tiny, photo, mask):
    pipe, steps = tiny(InpaintPipeline), {"stops": 0, "goes on": 0, "later": 0}
    there = threading.Barrier(2)

    def call(name, then):
        def watch(pipe, step, t, tensors):
            steps[name] += 1
            then(pipe, step)

        pipe(photo, mask, num_inference_steps=6, callback_on_step_end=watch)

    def stop_at_once(pipe, step):
        there.wait(60)  # both calls run
        pipe._interrupt = True

    threads = [
        threading.Thread(target=call, args=("stops", stop_at_once)),
        threading.Thread(target=call, args=("goes on", lambda pipe, step: step or there.wait(60))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (steps["stops"], steps["goes on"]) == (1, 6)

    begun, told = threading.Event(), threading.Event()

    def wait_to_be_told(pipe, step):
        begun.set()
        told.wait(60)

    thread = threading.Thread(target=call, args=("later", wait_to_be_told))
    thread.start()
    assert begun.wait(60)
    pipe._interrupt = True
    told.set()
    thread.join()
    assert steps["later"] == 1


def test_interrupt_reaches_the_upscaler(tiny, monkeypatch):
    from photofound.model.superresolution import Upscaler

    monkeypatch.setattr("photofound.model.superresolution._PART", 16)
    pipe = UpscalePipeline.from_pipe(tiny(UpscalePipeline), upscaler=Upscaler(8, 1))
    computed = []
    pipe.upscaler.register_forward_hook(lambda *_: computed.append(1))

    def stop(pipe, step, *rest):
        if step == 2:
            pipe._interrupt = True

    made = pipe(np.full((48, 48, 3), 90, np.uint8), callback_on_step_end=stop).images[0]
    assert len(computed) == 2 and made.size == (96, 96)


# ------------------------------------------------------------------------------------------------------------ callbacks


@pytest.mark.parametrize("kind", [InpaintPipeline, UpscalePipeline], ids=lambda kind: kind.__name__)
def test_a_callback_knows_how_many_steps_there_are(tiny, photo, mask, kind, monkeypatch):
    from photofound.model.superresolution import Upscaler

    monkeypatch.setattr("photofound.model.superresolution._PART", 64)
    pipe, seen = tiny(kind), []
    if kind is UpscalePipeline:
        pipe = UpscalePipeline.from_pipe(pipe, upscaler=Upscaler(8, 1))
    given = {"mask_image": mask, "num_inference_steps": 3} if kind is InpaintPipeline else {}
    pipe(photo, **given, callback_on_step_end=lambda pipe, step, *rest: seen.append((step, pipe.num_timesteps)))
    steps = len(seen)
    assert steps > 2 and seen == [(step, steps) for step in range(steps)] and pipe.num_timesteps == 0


def test_a_callback_may_return_nothing_or_other_latents_and_nothing_else(tiny, photo, mask):
    pipe = tiny(InpaintPipeline)

    def run(callback):
        return np.asarray(pipe(photo, mask, generator=seeded(), callback_on_step_end=callback).images[0])

    plain = run(None)
    assert (run(lambda *_: None) == plain).all() and (run(lambda *_: {}) == plain).all()
    assert (run(lambda p, i, t, tensors: {"latents": tensors["latents"] + 1}) != plain).any()
    with pytest.raises(ValueError, match="it returned a list; return a dict, or None"):
        run(lambda *_: [1])
    with pytest.raises(ValueError, match="latents must stay a tensor of shape"):
        run(lambda p, i, t, tensors: {"latents": tensors["latents"][0]})
    with pytest.raises(ValueError, match="callback_on_step_end: 3 is no function"):
        run(3)
    given = []
    named = {
        "callback_on_step_end_tensor_inputs": ["latents"],
        "callback_on_step_end": lambda *a: given.append(set(a[3])),
    }
    pipe(photo, mask, **named)
    assert given == [{"latents"}] * 2
    with pytest.raises(ValueError, match="there is no 'noise', only 'latents'"):
        pipe(photo, mask, callback_on_step_end_tensor_inputs=["latents", "noise"])


# ------------------------------------------------------------------------------------------------------ types of inputs


@pytest.mark.slow
@pytest.mark.parametrize("number", [np.int64, np.uint8, torch.tensor, np.array], ids=lambda kind: kind.__name__)
def test_numbers_of_numpy_and_torch_are_numbers(tiny, photo, mask, number):
    def same(pipe, *given, **inputs):
        plain, odd = (
            pipe(*given, **{k: kind(v) for k, v in inputs.items()}, generator=seeded()).images
            for kind in (lambda value: value, number)
        )
        assert len(plain) == len(odd) and plain[0].tobytes() == odd[0].tobytes()

    same(tiny(InpaintPipeline), photo, mask, num_inference_steps=3, num_images_per_prompt=2, guidance_scale=2)
    same(tiny(UpscalePipeline), photo, scale=3)
    same(tiny(ErasePipeline), photo, mask, grow=2)
    same(tiny(ExpandPipeline), photo, left=9, top=4)


@pytest.mark.slow
def test_none_is_what_is_left_out(tiny, photo, mask):
    def same(pipe, *given, **inputs):
        left_out, none = (pipe(*given, **more, generator=seeded()).images[0] for more in ({}, inputs))
        assert left_out.tobytes() == none.tobytes()

    settings = {"num_inference_steps": None, "guidance_scale": None, "num_images_per_prompt": None}
    same(tiny(InpaintPipeline), photo, mask, prompt=None, reference=None, callback_on_step_end=None, **settings)
    same(tiny(ErasePipeline), photo, mask, grow=None)
    same(tiny(UpscalePipeline), photo, scale=None)
    same(tiny(OutpaintPipeline), np.dstack([photo, mask]), prompt=None, subject=None, gallery=None)
    pipe = tiny(ExpandPipeline)
    plain, none = (
        pipe(photo, left=5, **more, generator=seeded()).images[0] for more in ({}, {"top": None, "prompt": None})
    )
    assert plain.tobytes() == none.tobytes()


@pytest.mark.parametrize("prompt", [5, b"a cup", {"a": 1}], ids=repr)
def test_what_is_no_prompt_is_refused(tiny, photo, mask, prompt):
    with pytest.raises(ValueError, match="prompt: .* is no text; pass a string"):
        tiny(InpaintPipeline)(photo, mask, prompt=prompt)


@pytest.mark.slow
def test_a_prompt_that_is_cut_is_warned_of(tiny, photo, mask, recwarn):
    pipe, room = tiny(InpaintPipeline), "红" * 341
    pipe(photo, mask, prompt=room)
    assert not [each for each in recwarn if "prompt" in str(each.message)]
    for prompt in (room + "蓝", ["a", room + "蓝"]):
        with pytest.warns(
            UserWarning, match="prompt: its end is not read: it has 1026 bytes, and the model reads 1023"
        ):
            pipe(photo, mask, prompt=prompt)


def test_what_is_no_generator_is_refused(tiny, photo, mask):
    for odd in ("7", np.random.default_rng(0), ["7"], True):
        with pytest.raises(ValueError, match="generator: .*pass torch.Generator"):
            tiny(InpaintPipeline)(photo, mask, generator=odd)


@pytest.mark.slow
def test_lists_are_one_for_each_picture(tiny, photo, mask):
    pipe, other = tiny(InpaintPipeline), np.roll(photo, 7, 1)
    generators = [seeded(i) for i in range(4)]
    together = pipe([photo, other], mask, prompt=["a", "b"], num_images_per_prompt=2, generator=generators).images
    cases = [(photo, "a", 0), (photo, "a", 1), (other, "b", 2), (other, "b", 3)]
    alone = [pipe(given, mask, prompt=prompt, generator=seeded(seed)).images[0] for given, prompt, seed in cases]
    assert [t.tobytes() for t in together] == [a.tobytes() for a in alone]
    assert len(pipe(photo, mask, prompt=["a", "b", "c"]).images) == 3, "one picture for all prompts"
    assert pipe([photo], [mask], prompt=["a"], generator=seeded(0)).images[0].tobytes() == alone[0].tobytes()
    assert tiny(ExpandPipeline)(photo, aspect=(2, 1)).images[0].size == (140, 70), "a pair is one aspect ratio"
    with pytest.raises(ValueError, match="image: got 2 for 3 pictures; give one for all"):
        pipe([photo, other], [mask] * 3)
    for batch, masks in (
        (np.stack([photo, other]), mask),
        (np.stack([photo, other]), np.stack([mask, mask])[..., None]),
    ):
        made = pipe(batch, masks, prompt=["a", "b"], generator=[seeded(0), seeded(2)], output_type=None).images
        assert [m.tobytes() for m in made] == [alone[0].tobytes(), alone[2].tobytes()]
    tensors = torch.from_numpy(np.stack([photo, other])).permute(0, 3, 1, 2)
    assert pipe(tensors, mask, prompt="a", generator=[seeded(0), seeded(2)]).images[0].tobytes() == alone[0].tobytes()
    with pytest.raises(ValueError, match="image: got 0 for 1 pictures"):
        pipe([], mask)


# ------------------------------------------------------------------------------------------------------ other processes


@pytest.mark.slow
@pytest.mark.parametrize("kind", [InpaintPipeline, UpscalePipeline], ids=lambda kind: kind.__name__)
def test_a_pipeline_can_be_pickled_and_copied(kind, photo, mask):
    """The embedded model, with every part that a checkpoint can have."""
    pipe = kind.from_pretrained(torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    given = {"mask_image": mask} if kind is InpaintPipeline else {}
    expected = pipe(photo, **given, generator=seeded()).images[0].tobytes()
    for twin in (_sent(pipe), copy.deepcopy(pipe)):
        assert twin(photo, **given, generator=seeded()).images[0].tobytes() == expected
    assert type(_sent(pipe.vae)) is type(pipe.vae)


def _sent(thing):
    """As another process would get it."""
    return ForkingPickler.loads(ForkingPickler.dumps(thing))


def test_results_and_a_bare_pipeline_can_be_pickled(tiny, photo, mask):
    result = tiny(InpaintPipeline)(photo, mask, output_type="picture")
    assert (_sent(result).images[0].pixels == result.images[0].pixels).all()
    assert isinstance(_sent(tiny(EditPipeline)), EditPipeline)


# ------------------------------------------------------------------------------------------------ habits from diffusers


def test_a_seed_may_be_a_number(tiny, photo, mask):
    pipe = tiny(InpaintPipeline)
    made = [
        np.asarray(pipe(photo, mask, num_inference_steps=1, generator=seed).images[0])
        for seed in (5, np.int64(5), torch.Generator().manual_seed(5), 6)
    ]
    assert (made[0] == made[1]).all() and (made[0] == made[2]).all() and (made[0] != made[3]).any()
    with pytest.raises(ValueError, match="generator"):
        pipe(photo, mask, generator="five")


def test_a_torch_mask_is_a_mask(tiny, photo, mask):
    pipe = tiny(InpaintPipeline)
    made = [
        np.asarray(pipe(photo, each, num_inference_steps=1, generator=1).images[0])
        for each in (mask, torch.from_numpy(mask) / 255, torch.from_numpy(mask) > 0)
    ]
    assert (made[0] == made[1]).all() and (made[0] == made[2]).all()


def test_a_negative_prompt_leads_away_from_it(tiny, photo, mask):
    pipe = tiny(InpaintPipeline)

    def made(**more):
        settings = {"num_inference_steps": 2, "guidance_scale": 4.0, "generator": 1}
        return np.asarray(pipe(photo, mask, "a cup", **settings, **more).images[0])

    plain = made()
    assert (made(negative_prompt="") == plain).all() and (made(negative_prompt=None) == plain).all()
    assert (made(negative_prompt="blue")[mask > 0] != plain[mask > 0]).any()
    assert (made() == plain).all(), "it is forgotten after its call"
    with pytest.raises(ValueError, match="negative_prompt: .* is no text"):
        made(negative_prompt=["a", "b"])
    student = InpaintPipeline.from_pretrained()
    with pytest.raises(ValueError, match="negative_prompt: a few-step model"):
        student(photo, mask, negative_prompt="blue")


@pytest.mark.parametrize("name", ["height", "width", "strength", "padding_mask_crop", "prompt_embeds", "latents"])
def test_arguments_of_other_pipelines_are_answered_in_our_words(tiny, photo, mask, name):
    with pytest.raises(ValueError, match=rf"^{name}: "):
        tiny(InpaintPipeline)(photo, mask, **{name: 1})


def test_diffusers_loads_a_folder_of_ours(tiny_folder, tmp_path):
    from diffusers import DiffusionPipeline

    assert isinstance(DiffusionPipeline.from_pretrained(tiny_folder), EditPipeline)
    ErasePipeline.from_pretrained(tiny_folder).save_pretrained(tmp_path / "erase")
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "erase")) is ErasePipeline


@pytest.mark.slow
def test_diffusers_loads_it_after_photofound_alone(tiny_folder):
    """Whichever is imported first; and nobody hears of torchao, which diffusers imports where it is installed."""
    script = f"""
        import gc, sys, photofound
        gc.disable()  # it only takes time
        assert not {{"torch", "diffusers"}} & set(sys.modules)
        from diffusers import DiffusionPipeline
        assert "photofound.pipeline" not in sys.modules
        print(type(DiffusionPipeline.from_pretrained({str(tiny_folder)!r})).__name__)
        import diffusers
        assert not hasattr(diffusers, "NoSuchPipeline") and not hasattr(diffusers, "nothing")
        assert diffusers.ErasePipeline is photofound.ErasePipeline
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "EditPipeline\n", done.stderr
    assert "torchao" not in done.stderr and "is an Enum subclass" not in done.stderr


def test_modules_keep_their_own_ways(monkeypatch):
    import types

    from photofound import names

    module = types.ModuleType("diffusers")
    module.OwnPipeline = "own"
    names._lend(module)
    names._lend(module)  # a second time is no harm
    assert module.OwnPipeline == "own" and module.InpaintPipeline is InpaintPipeline
    with pytest.raises(AttributeError, match="module diffusers has no attribute NoSuchPipeline"):
        module.NoSuchPipeline  # noqa: B018
