"""EditPipeline: it is a diffusers pipeline, seeds mean what they say, and what cannot be loaded is refused in one
line."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import seeded
from PIL import Image

from photofound import ErasePipeline, ExpandPipeline, InpaintPipeline, OutpaintPipeline, Picture, UpscalePipeline
from photofound.edits.task import Condition, get_task
from photofound.model.condition import condition_channels, fold_condition
from photofound.model.folder import check_folder
from photofound.pipeline import EditPipeline

# ------------------------------------------------------------------------------------------------------------ sampling


def test_same_seed_same_pixels_and_another_seed_other_pixels(tiny, photo, mask):
    pipe = tiny(InpaintPipeline)
    a, b, c = (np.asarray(pipe(photo, mask, generator=seeded(s)).images[0]) for s in (0, 0, 1))
    assert (a == b).all() and (a != c).any()


def test_variants_equal_single_calls_that_share_the_generator(tiny, photo, mask):
    pipe = tiny(InpaintPipeline)
    together = pipe(photo, mask, num_images_per_prompt=3, generator=seeded()).images
    generator = seeded()
    alone = [pipe(photo, mask, generator=generator).images[0] for _ in range(3)]
    assert [t.tobytes() for t in together] == [a.tobytes() for a in alone]
    assert together[0].tobytes() != together[1].tobytes()
    listed = pipe(photo, mask, num_images_per_prompt=2, generator=[seeded(5), seeded(0)]).images
    assert listed[1].tobytes() == together[0].tobytes()


def test_the_prompt_and_the_guidance_reach_the_model(tiny, photo, mask):
    pipe = tiny(InpaintPipeline)

    def run(**settings):
        return np.asarray(pipe(photo, mask, generator=seeded(), **settings).images[0])

    assert (run(prompt="a red ribbon") != run(prompt="snow")).any()
    assert (run(prompt="snow", guidance_scale=1.0) != run(prompt="snow", guidance_scale=6.0)).any()
    assert (run(num_inference_steps=1) != run(num_inference_steps=3)).any()


def test_guidance_one_is_the_conditional_velocity_alone(tiny):
    """w = 1 skips the second branch; w -> 1 from above must agree with it."""
    pipe = tiny(InpaintPipeline)
    condition = Condition(torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64), ["inpaint"], ["snow"], torch.zeros(1))
    off = pipe.sample(condition, 2, 1.0, [seeded()])
    nearly = pipe.sample(condition, 2, 1.0 + 1e-5, [seeded()])
    torch.testing.assert_close(off, nearly, atol=2e-4, rtol=0)


def test_sample_is_plain_euler_when_one_tile_is_enough(tiny):
    """The sampler against five lines of Euler around the transformer."""
    from photofound.model import autoencoder, text

    pipe = tiny(InpaintPipeline)
    condition = Condition(torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64), ["inpaint"], ["snow"], torch.zeros(1))
    folded = fold_condition(condition, pipe.vae, "pixels")
    x = torch.randn((1, 4, 8, 8), generator=seeded())
    tokens, _ = text.encode(pipe.tokenizer, pipe.text_encoder, ["snow"])
    task = torch.tensor([pipe.transformer.task_index("inpaint")])
    with torch.no_grad():
        for t, s in ((1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)):
            v = pipe.transformer(
                x, torch.tensor([t]), tokens, condition=folded, task=task, strength=condition.strength
            ).sample
            x = x + (s - t) * v
        expected = autoencoder.decode(pipe.vae, x)
    torch.testing.assert_close(pipe.sample(condition, 4, 1.0, [seeded()]), expected, atol=1e-4, rtol=0)


def test_tiles_agree_where_they_overlap_and_cover_everything(tiny):
    pipe = tiny(UpscalePipeline)
    hole = torch.ones(1, 1, 160, 208)
    boxes, weight, coverage = (getattr(pipe._tiling(hole), name) for name in ("boxes", "weight", "coverage"))
    assert len(boxes) > 1 and all(b.width == b.height == 8 and b.left % 2 == b.top % 2 == 0 for b in boxes)
    assert weight.shape == (8, 8) and weight.min() > 0
    total = torch.zeros(20, 26)
    for box in boxes:
        total[box.slices] += weight
    assert (total > 0).all() and torch.allclose(total, coverage)
    only_left = torch.zeros_like(hole)
    only_left[..., :8] = 1
    assert {b.left for b in pipe._tiling(only_left).boxes} == {0}  # tiles without a hole cost nothing


def test_tiles_are_computed_together_as_one_by_one(tiny, monkeypatch):
    """With two samples of other prompts, tasks and strengths, and guidance: nothing may get to another's tile."""
    pipe, calls = tiny(InpaintPipeline), []
    pipe.transformer.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    condition = Condition(
        torch.rand(2, 3, 64, 160), torch.ones(2, 1, 64, 160), ["inpaint", "upscale"], ["a cup", "red"], torch.rand(2)
    )
    made = []
    for tokens in (1, 1_000):
        monkeypatch.setattr("photofound.sampling._TOKENS_AT_ONCE", tokens)
        made.append(pipe.sample(condition, 1, 3.0, [seeded(), seeded(1)]))
    assert calls == [4, 4, 4, 12], "three tiles of two samples in two branches"
    torch.testing.assert_close(made[0], made[1], atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model", ["tiny", "nano"])
def test_a_picture_has_the_same_pixels_alone_and_in_company(tiny, photo, model, dtype):
    """Bit for bit: other pictures, masks, prompts (short, long, none) and seeds must not change a rounding."""
    pipe = tiny(InpaintPipeline, torch_dtype=dtype) if model == "tiny" else InpaintPipeline.from_pretrained(dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    jobs = []
    for i, prompt in enumerate(("a cup", "some trees", "", "")):
        mask = np.zeros((64, 64), np.uint8)
        mask[20 : 40 + i, 30:60] = 255
        jobs.append(get_task("inpaint").prepare(Picture.from_any(np.roll(photo, i, 1)[:64, :64]), mask, prompt))
    calls = []
    pipe.transformer.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    together = pipe.run(jobs, [seeded(i) for i in range(4)], 1, 3.0)
    guided = 2 if pipe.config.distilled else 4
    assert calls == [guided, 2], "two prompts in two branches (a student needs one), and two without"
    for i, (job, result) in enumerate(zip(jobs, together, strict=True)):
        assert (pipe.run([job], [seeded(i)], 1, 3.0)[0].pixels == result.pixels).all()


@pytest.fixture
def referring(referring_folder):
    """Loads a task's pipeline of a model that takes references."""

    def load(pipeline, **kwargs):
        pipe = pipeline.from_pretrained(referring_folder, **{"torch_dtype": torch.float32, **kwargs})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return load


def surface(colour, size=(50, 70)):
    return np.broadcast_to(np.array(colour, np.uint8), (*size, 3))


@pytest.mark.slow
def test_the_reference_reaches_the_model_and_guidance_covers_it(referring, photo, mask):
    pipe = referring(InpaintPipeline)

    def run(**settings):
        return np.asarray(pipe(photo, mask, generator=seeded(), **settings).images[0])

    plain, red = run(), run(reference=surface((200, 20, 20)))
    assert (red != plain).any() and (red != run(reference=surface((20, 20, 200)))).any()
    assert (red == plain)[mask == 0].all(), "kept pixels are kept"
    assert (red != run(reference=surface((200, 20, 20)), guidance_scale=1.0)).any(), "without a prompt, too"
    assert (red == run(reference=Image.fromarray(surface((200, 20, 20), (300, 90)).copy()))).all()
    outpainted = [
        np.asarray(referring(OutpaintPipeline)(photo, subject=mask, reference=given, generator=seeded()).images[0])
        for given in (None, surface((200, 20, 20)))
    ]
    assert (outpainted[0] != outpainted[1]).any() and (outpainted[0] == outpainted[1])[mask == 255].all()


def test_guidance_with_a_reference_is_the_difference_to_neither_text_nor_reference(referring):
    """The sampler's one step against the guided velocity by hand."""
    from photofound.model import autoencoder, text

    pipe = referring(InpaintPipeline)
    seen = torch.rand(1, 3, 32, 32)
    plain = Condition(torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64), ["inpaint"], ["snow"], torch.zeros(1))
    condition = replace(plain, reference=seen, referenced=torch.ones(1, dtype=torch.bool))
    x = torch.randn((1, 4, 8, 8), generator=seeded())
    given = {"condition": fold_condition(plain, pipe.vae, "pixels"), "strength": plain.strength}
    given["task"] = torch.tensor([pipe.transformer.task_index("inpaint")])
    with torch.no_grad():
        snow, nothing = (text.encode(pipe.tokenizer, pipe.text_encoder, [words])[0] for words in ("snow", ""))
        latents = autoencoder.encode(pipe.vae, seen)
        time = torch.ones(1)
        both = pipe.transformer(x, time, snow, reference=latents, **given).sample
        neither = pipe.transformer(x, time, nothing, **given).sample
        expected = autoencoder.decode(pipe.vae, x - (neither + 3 * (both - neither)))
    torch.testing.assert_close(pipe.sample(condition, 1, 3.0, [seeded()]), expected, atol=1e-4, rtol=0)


def test_a_reference_is_encoded_once_and_seen_by_every_tile(referring, monkeypatch):
    pipe, calls, encoded = referring(InpaintPipeline), [], []
    pipe.transformer.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    block = pipe.transformer.blocks[0].attention.reference
    block.kv_proj.register_forward_hook(lambda module, args, out: encoded.append(1))
    condition = Condition(
        torch.rand(2, 3, 64, 160), torch.ones(2, 1, 64, 160), ["inpaint"] * 2, ["a cup", "red"], torch.rand(2),
        torch.rand(2, 3, 32, 32), torch.ones(2, dtype=torch.bool),
    )  # fmt: skip
    made = []
    for tokens in (1, 1_000):
        monkeypatch.setattr("photofound.sampling._TOKENS_AT_ONCE", tokens)
        made.append(pipe.sample(condition, 2, 3.0, [seeded(), seeded(1)]))
    assert calls == [4, 4, 4] * 2 + [12] * 2 and len(encoded) == 2 * 2, "per run and sample, not per step"
    torch.testing.assert_close(made[0], made[1], atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_with_references_a_picture_has_the_same_pixels_alone_and_in_company(referring, photo, dtype):
    pipe, calls = referring(InpaintPipeline, torch_dtype=dtype), []
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 30:60] = 255
    wanted = [("a cup", (200, 20, 20)), ("a cup", None), ("snow", (20, 200, 20)), ("", (20, 20, 200)), ("", None)]
    jobs = [
        get_task("inpaint").prepare(
            Picture.from_any(np.roll(photo, i, 1)[:64, :64]), mask, prompt, colour and surface(colour)
        )
        for i, (prompt, colour) in enumerate(wanted)
    ]
    pipe.transformer.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    together = pipe.run(jobs, [seeded(i) for i in range(5)], 1, 3.0)
    assert calls == [4, 2, 2, 1], "two alike; a prompt alone; a reference alone; neither, which needs no guidance"
    for i, (job, result) in enumerate(zip(jobs, together, strict=True)):
        assert (pipe.run([job], [seeded(i)], 1, 3.0)[0].pixels == result.pixels).all()


def test_a_model_that_takes_no_reference_says_so(tiny, photo, mask):
    for pipeline, given in ((InpaintPipeline, {"mask_image": mask}), (OutpaintPipeline, {"subject": mask})):
        with pytest.raises(ValueError, match="reference: this model takes no reference image; leave it out"):
            tiny(pipeline)(photo, reference=surface((1, 2, 3)), **given)


def test_jobs_of_several_sizes_come_back_in_order(tiny, photo):
    pipe = tiny(ExpandPipeline)
    pictures = [Picture.from_any(part) for part in (photo, photo[:, :50], photo)]
    jobs = [get_task("expand").prepare(picture, left=20) for picture in pictures]
    results = pipe.run(jobs, [seeded(), seeded(), seeded(1)], 1, 1.0)
    assert [r.size for r in results] == [(110, 70), (70, 70), (110, 70)]
    for result, picture in zip(results, pictures, strict=True):
        assert (result.pixels[:, 20:] == picture.pixels).all()
    assert (results[0].pixels != results[2].pixels).any(), "each has its own seed"


def test_condition_is_folded_without_loss(tiny):
    vae = tiny(InpaintPipeline).vae
    condition = Condition(torch.rand(2, 3, 32, 16), torch.rand(2, 1, 32, 16), ["inpaint"] * 2, [""] * 2, torch.zeros(2))
    folded = fold_condition(condition, vae, "pixels")
    assert folded.shape == (2, condition_channels(vae, "pixels"), 4, 2)
    unfolded = torch.nn.functional.pixel_shuffle(folded[:, 192:], 8)
    assert torch.equal(unfolded, condition.hole)
    assert fold_condition(condition, vae, "latents").shape == (2, condition_channels(vae, "latents"), 4, 2)


def test_callback_sees_every_step_and_can_change_the_latents(tiny, photo, mask):
    pipe, seen = tiny(InpaintPipeline), []

    def watch(pipe, step, timestep, tensors):
        seen.append((step, tuple(tensors["latents"].shape)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    changed = pipe(photo, mask, num_inference_steps=3, generator=seeded(), callback_on_step_end=watch).images[0]
    plain = pipe(photo, mask, num_inference_steps=3, generator=seeded()).images[0]
    assert [step for step, _ in seen] == [0, 1, 2]
    assert changed.tobytes() != plain.tobytes()


def test_output_types(tiny, photo, mask):
    pipe = tiny(InpaintPipeline)

    def run(kind):
        return pipe(photo, mask, generator=seeded(), output_type=kind).images[0]

    pil, array, tensor, picture = (run(kind) for kind in ("pil", "np", "pt", "picture"))
    assert isinstance(pil, Image.Image) and isinstance(picture, Picture)
    assert array.dtype == np.float32 and array.shape == (70, 90, 3) and tensor.shape == (3, 70, 90)
    assert (np.rint(array * 255) == np.asarray(pil)).all() and (picture.pixels == np.asarray(pil)).all()
    assert isinstance(pipe(photo, mask, return_dict=False), tuple)


def test_progress_bar_counts_the_steps(tiny, photo, mask, capsys):
    pipe = tiny(InpaintPipeline)
    pipe.set_progress_bar_config(disable=False)
    pipe(photo, mask, num_inference_steps=3)
    assert "3/3" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- a diffusers pipeline


def test_save_and_load_give_the_same_pixels(tiny, photo, mask, tmp_path):
    pipe = tiny(InpaintPipeline)
    pipe.save_pretrained(tmp_path / "copy")
    again = InpaintPipeline.from_pretrained(tmp_path / "copy", torch_dtype=torch.float32)
    a, b = (p(photo, mask, generator=seeded()).images[0].tobytes() for p in (pipe, again))
    assert a == b and again.config.tile == 64 and again.config.default_steps == 2
    index = json.loads((tmp_path / "copy" / "model_index.json").read_text())
    assert index["transformer"] == ["photofound.transformer", "EditTransformer"]  # a file format: never rename


def test_a_task_may_have_steps_of_its_own(tiny, photo, mask):
    calls = []
    for task, wanted in ((InpaintPipeline, 3), (ErasePipeline, 2)):
        pipe = task.from_pipe(tiny(InpaintPipeline), task_steps={"inpaint": 3})
        calls.append([])
        pipe(photo, mask, callback_on_step_end=lambda pipe, i, t, kwargs: calls[-1].append(i) or {})
        assert len(calls[-1]) == wanted
        assert pipe.from_pipe(pipe).config.task_steps == {"inpaint": 3}


def test_from_pipe_shares_the_weights(tiny):
    pipe = tiny(OutpaintPipeline)
    for other in (InpaintPipeline, ExpandPipeline, ErasePipeline, UpscalePipeline):
        twin = other.from_pipe(pipe)
        assert twin.transformer is pipe.transformer and twin.vae is pipe.vae
        assert twin.config.tile == pipe.config.tile and twin.transformer.dtype == torch.float32


def test_to_moves_and_casts(tiny, photo, mask):
    pipe = tiny(InpaintPipeline).to("cpu", torch.bfloat16)
    assert pipe.transformer.dtype == pipe.vae.dtype == torch.bfloat16
    assert pipe(photo, mask).images[0].size == (90, 70)


def test_offload_runs_each_part_where_it_is_sent(tiny, photo, mask):
    """Without a GPU the device is the CPU, but the hooks are diffusers' own: each part must be called through its
    forward."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    pipe, called = tiny(InpaintPipeline), []

    class Note(ModelHook):
        def __init__(self, name):
            self.name = name

        def pre_forward(self, module, *args, **kwargs):
            called.append(self.name)
            return args, kwargs

    for name in ("text_encoder", "transformer"):
        add_hook_to_module(getattr(pipe, name), Note(name))
    pipe(photo, mask)
    assert {"text_encoder", "transformer"} <= set(called)
    parts = ["text_encoder", "transformer", "vae", "detail", "upscaler"]
    assert pipe.model_cpu_offload_seq.split("->") == parts


@pytest.mark.slow
def test_group_offload(tiny, photo, mask):
    pipe = tiny(InpaintPipeline)
    before = pipe(photo, mask, generator=seeded()).images[0].tobytes()
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    assert pipe(photo, mask, generator=seeded()).images[0].tobytes() == before


@pytest.mark.slow
def test_lora_changes_the_picture_and_goes_away_again(tiny, photo, mask, tmp_path):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = tiny(InpaintPipeline)
    plain = pipe(photo, mask, generator=seeded()).images[0].tobytes()
    donor = tiny(InpaintPipeline)
    donor.transformer.add_adapter(LoraConfig(r=2, target_modules=["img_qkv_proj"], init_lora_weights=False))
    donor.save_lora_weights(tmp_path, get_peft_model_state_dict(donor.transformer))
    (file,) = tmp_path.glob("*.safetensors")
    for source in (tmp_path, file):
        pipe.load_lora_weights(source)
        assert pipe(photo, mask, generator=seeded()).images[0].tobytes() != plain
        pipe.unload_lora_weights()
        assert pipe(photo, mask, generator=seeded()).images[0].tobytes() == plain


# ---------------------------------------------------------------------------------------------------- refused, in words


@pytest.fixture
def copy(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def refused(folder, error=ValueError):
    with pytest.raises(error) as caught:
        InpaintPipeline.from_pretrained(folder)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("model:")
    return message


def test_missing_folder(tmp_path):
    assert "does not exist" in refused(tmp_path / "nowhere", FileNotFoundError)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert "model.safetensors is a file; pass the folder" in refused(tmp_path / "model.safetensors")


def test_folder_that_is_no_pipeline(tmp_path):
    assert "model_index.json" in refused(tmp_path)


def test_damaged_weights(copy):
    shard = next((copy / "transformer").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    assert shard.name in refused(copy)


def test_missing_weights(copy):
    next((copy / "transformer").glob("*.safetensors")).unlink()
    assert "no .safetensors" in refused(copy)


def test_missing_shard(tiny, tmp_path):
    tiny(InpaintPipeline).save_pretrained(tmp_path, max_shard_size="40KB")
    shards = sorted((tmp_path / "transformer").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    shards[1].unlink()
    assert shards[1].name in refused(tmp_path)


def test_pickled_weights(copy):
    shard = next((copy / "transformer").glob("*.safetensors"))
    shard.rename(shard.with_suffix(".bin"))
    assert "not safetensors" in refused(copy)


def test_classes_of_foreign_modules(copy):
    index = json.loads((copy / "model_index.json").read_text())
    index["scheduler"] = ["subprocess", "Popen"]
    (copy / "model_index.json").write_text(json.dumps(index))
    assert "subprocess" in refused(copy)


def test_what_the_hub_sends_is_checked_too(copy, monkeypatch):
    """A Hub id is downloaded first, then looked at like a folder, before anything of it is loaded."""
    index = json.loads((copy / "model_index.json").read_text())
    index["scheduler"] = ["subprocess", "Popen"]
    (copy / "model_index.json").write_text(json.dumps(index))
    asked = []
    monkeypatch.setattr(InpaintPipeline, "download", lambda name, **options: asked.append((name, options)) or str(copy))
    assert "subprocess" in refused("somebody/model")
    assert asked == [("somebody/model", {"use_safetensors": True})]


def test_a_good_folder_passes(tiny_folder):
    check_folder(tiny_folder)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"guidance_scale": -1}, "guidance_scale"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
        ({"output_type": "jpeg"}, "output_type"),
        ({"num_images_per_prompt": 2, "generator": [torch.Generator()]}, "generator"),
    ],
)
def test_bad_settings(tiny, photo, mask, settings, word):
    with pytest.raises(ValueError, match=word):
        tiny(InpaintPipeline)(photo, mask, **settings)


def test_unknown_argument(tiny, photo, mask):
    with pytest.raises(TypeError, match="strenght"):
        tiny(InpaintPipeline)(photo, mask, strenght=1)


def test_a_checkpoint_without_the_task_says_which_it_has(tiny, photo, mask):
    pipe = tiny(InpaintPipeline)
    pipe.transformer.register_to_config(tasks=("generate", "outpaint"))
    with pytest.raises(ValueError, match="generate, outpaint"):
        pipe(photo, mask)


def test_plan_sees_thick_holes_small_and_thin_ones_at_full_size(tiny):
    pipe = tiny(InpaintPipeline)  # a tile of 64
    task = get_task("inpaint")
    thin, thick = np.zeros((300, 400), np.float32), np.zeros((300, 400), np.float32)
    thin[150:154, 100:140] = 1
    thick[50:250, 100:300] = 1
    box, size = pipe.plan(task, thin)
    assert size == (box.height, box.width) and box.width < 400
    box, size = pipe.plan(task, thick)
    assert max(size) <= 64 and box.width >= 200
    assert pipe.plan(get_task("upscale"), np.ones((300, 400), np.float32))[1] == (300, 400)
    assert max(pipe.plan(get_task("outpaint"), thick)[1]) == 64
    assert isinstance(pipe, EditPipeline)
