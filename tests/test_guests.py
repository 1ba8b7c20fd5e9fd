"""Other people's pipelines behind our compositing: six families, tiny and random, and one that misbehaves on
purpose."""

import io
import json

import cv2
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxFillPipeline,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3InpaintPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLInpaintPipeline,
)
from helpers import encoded, seeded
from PIL import Image
from starlette.testclient import TestClient
from tiny_parts import SIDE, clip, tokenizer, unet, vae
from transformers import T5Config, T5EncoderModel

from photofound import EditPipeline, InpaintPipeline, Picture, Request
from photofound.cli import main
from photofound.demos import comfyui
from photofound.edits import registration
from photofound.guests import GuestPipeline, abilities
from photofound.model import text
from photofound.serve.app import create_app

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("words"))


def t5():
    return T5EncoderModel(T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).eval()


def flux(channels, words, cls, out=16):
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=channels, out_channels=out, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )  # fmt: skip
    return cls(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(latents=4, shift_factor=0.0, scaling_factor=1.0),
        text_encoder=clip(words),
        tokenizer=words,
        text_encoder_2=t5(),
        tokenizer_2=text.build_byte_encoder()[0],
        transformer=transformer,
    )


def build(family, words):
    """A pipeline of a family with random weights."""
    torch.manual_seed(0)
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if family == "sd":
        parts = {"vae": vae(), "unet": unet(9), "scheduler": DDIMScheduler()}
        return StableDiffusionInpaintPipeline(**parts, text_encoder=clip(words), tokenizer=words, **none)
    if family == "pix2pix":
        parts = {"vae": vae(), "unet": unet(8), "scheduler": DDIMScheduler()}
        return StableDiffusionInstructPix2PixPipeline(**parts, text_encoder=clip(words), tokenizer=words, **none)
    if family == "sdxl":
        more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "cross_attention_dim": 32}
        network = unet(9, projection_class_embeddings_input_dim=16 + 6 * 8, **more)
        encoders = {"text_encoder": clip(words), "text_encoder_2": clip(words, projected=True)}
        both = {"tokenizer": words, "tokenizer_2": words}
        return StableDiffusionXLInpaintPipeline(
            vae=vae(), unet=network, scheduler=DDIMScheduler(), **encoders, **both, add_watermarker=False
        )
    if family == "sd3":
        network = SD3Transformer2DModel(
            sample_size=SIDE // 2, patch_size=1, in_channels=16, out_channels=16, num_layers=1, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
        )  # fmt: skip
        encoders = {f"text_encoder{n}": clip(words, projected=True) for n in ("", "_2")} | {"text_encoder_3": None}
        tokenizers = {f"tokenizer{n}": words for n in ("", "_2")} | {"tokenizer_3": None}
        return StableDiffusion3InpaintPipeline(
            transformer=network,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=vae(latents=16, shift_factor=0.0),
            **encoders,
            **tokenizers,
        )
    if family == "flux-fill":
        return flux(4 * 4 * 2 + 16, words, FluxFillPipeline)
    assert family == "flux-kontext"
    return flux(16, words, FluxKontextPipeline)


FAMILIES = ("sd", "sdxl", "sd3", "flux-fill", "flux-kontext", "pix2pix")


@pytest.fixture
def scene():
    """A photograph with structure, 96 x 80, and a mask."""
    rng = np.random.default_rng(0)
    photo = cv2.resize(rng.integers(0, 256, (20, 24, 3), np.uint8), (96, 80), interpolation=cv2.INTER_CUBIC)
    mask = np.zeros((80, 96), np.uint8)
    mask[25:55, 30:65] = 255
    return photo, mask


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_pixels_are_exact_whoever_paints(family, words, scene):
    photo, mask = scene
    pipe = GuestPipeline(build(family, words))
    pipe.painter.pipe.set_progress_bar_config(disable=True)
    assert pipe.painter.can.mask == (family not in ("flux-kontext", "pix2pix"))
    requests = {
        "inpaint": {"mask_image": mask, "prompt": "a cup"},
        "erase": {"mask_image": mask},
        "outpaint": {"subject": mask, "prompt": "on a table"},
        "expand": {"left": 24, "prompt": "more"},
    }
    for task, inputs in requests.items():
        with _quiet():
            job = pipe.for_task(task).prepare(Picture.from_any(photo), **inputs)
            made = pipe.answer(Request(task, Picture.from_any(photo), inputs, seed=1, steps=2)).images[0]
        assert made.size == job.picture.size
        kept = job.keep == 1
        assert kept.any() and (made.pixels[kept] == job.picture.pixels[kept]).all(), task
        assert (made.pixels[~kept] != job.picture.pixels[~kept]).any(), task


def _quiet():
    import warnings

    return warnings.catch_warnings(action="ignore", category=UserWarning)


def test_a_folder_of_a_guest_is_loaded_by_everybody(words, scene, tmp_path, capsys):
    photo, mask = scene
    folder = tmp_path / "guest"
    build("sd", words).save_pretrained(folder)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    pipe = InpaintPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    assert isinstance(pipe, GuestPipeline) and pipe.task_name == "inpaint"
    with _quiet():
        made = pipe(photo, mask, "a cup", num_inference_steps=2, generator=seeded(0)).images[0]
        again = pipe(photo, mask, "a cup", num_inference_steps=2, generator=seeded(0)).images[0]
        other = pipe(photo, mask, "a cup", num_inference_steps=2, generator=seeded(1)).images[0]
    assert (np.asarray(made) == np.asarray(again)).all() and (np.asarray(made) != np.asarray(other)).any()
    line = ["inpaint", str(tmp_path / "photo.png"), str(tmp_path / "mask.png"), "--model", str(folder), "--steps", "2"]
    assert main([*line, "--dtype", "float32", "-o", str(tmp_path / "out.png")]) == 0
    result = np.asarray(Image.open(tmp_path / "out.png"))
    assert (result[mask == 0] == photo[mask == 0]).all()
    assert main(["upscale", str(tmp_path / "photo.png"), "--model", str(folder)]) == 2
    assert "upscale: StableDiffusionInpaintPipeline cannot do it" in capsys.readouterr().err


def test_a_guest_is_served_and_a_node(words, scene, tmp_path):
    photo, mask = scene
    pipe = GuestPipeline(build("sd", words))
    pipe.painter.pipe.set_progress_bar_config(disable=True)
    files = {"image": ("a.png", encoded(photo)), "mask": ("m.png", encoded(mask))}
    with TestClient(create_app(pipe), raise_server_exceptions=False) as client, _quiet():
        assert {task["name"] for task in client.get("/v1/tasks").json()} >= {
            "inpaint",
            "outpaint",
            "expand",
            "erase",
            "cutout",
        }
        answer = client.post("/v1/inpaint", files=files, data={"prompt": "a cup", "steps": 2})
        assert answer.status_code == 200, answer.text
        made = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert (made[mask == 0] == photo[mask == 0]).all()
        assert client.post("/v1/upscale", files={"image": files["image"]}).status_code == 404
        node = comfyui.NODE_CLASS_MAPPINGS["PhotofoundInpaint"]()
        given = torch.from_numpy(photo.astype(np.float32) / 255)[None]
        out, _ = node.edit(pipe, given, seed=1, steps=2, mask_image=torch.from_numpy(mask.astype(np.float32) / 255))
    assert torch.equal(out[0][mask == 0], given[0][mask == 0]) and pipe.parameter_count > 1000


def test_an_upscaling_pipeline_enlarges(words, scene):
    parts = {
        "vae": vae((8, 8, 8)),
        "unet": unet(7, num_class_embeds=1000),
        "text_encoder": clip(words),
        "tokenizer": words,
    }
    guest = StableDiffusionUpscalePipeline(**parts, scheduler=DDIMScheduler(), low_res_scheduler=DDPMScheduler())
    guest.set_progress_bar_config(disable=True)
    pipe = GuestPipeline(guest)
    assert abilities(guest).enlarges == 4
    photo = scene[0][:24, :32]
    made = pipe.answer(Request("upscale", Picture.from_any(photo), {"scale": 4}, steps=1)).images[0]
    assert made.size == (128, 96)
    with pytest.raises(ValueError, match="inpaint: StableDiffusionUpscalePipeline cannot do it"):
        pipe.answer(Request("inpaint", Picture.from_any(photo), {"mask_image": photo[..., 0] > 127}))


@pytest.mark.parametrize(
    ("harm", "words_of_it"),
    [
        (lambda folder: (folder / "pipeline.py").write_text("print('run')"), "is code, which is never run"),
        (lambda folder: pickled(folder), "is a pickle"),
        (lambda folder: foreign(folder), "only diffusers and transformers are trusted"),
    ],
)
def test_bad_guests_are_refused_in_one_line(words, tmp_path, capsys, harm, words_of_it):
    folder = tmp_path / "guest"
    build("sd", words).save_pretrained(folder)
    harm(folder)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    capsys.readouterr()
    assert main(["erase", str(tmp_path / "a.png"), str(tmp_path / "a.png"), "--model", str(folder)]) == 2
    err = capsys.readouterr().err
    assert words_of_it in err and "Traceback" not in err and err.count("\n") == 1


def pickled(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")


def foreign(folder):
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["os", "system"]
    (folder / "model_index.json").write_text(json.dumps(index))


# ---------------------------------------------------------------------------------------- guests that do not keep still


class Mover(DiffusionPipeline):
    """Paints stripes into the hole, and hands all of it back moved, zoomed and tinted."""

    def __init__(self, shift=(0.0, 0.0), zoom=1.0, gain=1.0, forgets=False, side=256):
        super().__init__()
        self.register_to_config(side=side)
        self.shift, self.zoom, self.gain, self.forgets = shift, zoom, gain, forgets
        self.default_sample_size = 256

    def __call__(self, prompt, image, mask_image, num_inference_steps=1, guidance_scale=1.0, generator=None):
        picture = np.asarray(image, np.float32) / 255
        if self.forgets:
            picture = np.random.default_rng(1).random(picture.shape, np.float32)
        height, width = picture.shape[:2]
        stripes = 0.5 + 0.4 * np.sin(np.arange(width, dtype=np.float32) / 3)[None, :, None]
        picture = np.where(np.asarray(mask_image)[..., None] > 127, stripes, picture).astype(np.float32)
        centre = width / 2 * (1 - self.zoom) + self.shift[0], height / 2 * (1 - self.zoom) + self.shift[1]
        matrix = np.array([[self.zoom, 0, centre[0]], [0, self.zoom, centre[1]]])
        moved = cv2.warpAffine(
            picture, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
        )
        return type("Output", (), {"images": [(moved * self.gain).clip(0, 1)]})()


def wide_scene():
    rng = np.random.default_rng(3)
    coarse = cv2.resize(rng.random((9, 11, 3)).astype(np.float32), (256, 224), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(rng.random((60, 70, 3)).astype(np.float32), (256, 224), interpolation=cv2.INTER_CUBIC)
    photo = (coarse * 0.7 + fine * 0.3).clip(0, 1)
    hole = np.zeros((224, 256), bool)
    hole[80:150, 90:170] = True
    return photo, hole


@pytest.mark.parametrize(
    ("shift", "zoom", "gain"),
    [((3.0, 0.0), 1.0, 1.0), ((-2.0, 2.5), 1.0, 1.0), ((0.0, 0.0), 1.01, 1.0), ((1.0, -2.0), 0.99, 0.9)],
)
def test_what_was_moved_zoomed_or_tinted_is_put_right(shift, zoom, gain):
    photo, hole = wide_scene()
    mover = Mover(shift, zoom, gain)
    made = mover(
        "", Image.fromarray((photo * 255).astype(np.uint8)), Image.fromarray(hole.astype(np.uint8) * 255)
    ).images[0]
    made = made.astype(np.float32)
    found = registration.register(made, photo, hole)
    assert not found.failed and found.shift((256, 224)) > 0.9
    right = registration.toned(registration.aligned(made, found), photo, hole)
    inner = ~cv2.dilate(hole.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
    inner[:12], inner[-12:], inner[:, :12], inner[:, -12:] = False, False, False, False
    before, after = (np.abs(each - photo)[inner].mean() for each in (made, right))
    assert after < 0.012 and after < before / 2


def test_one_that_keeps_still_is_left_alone():
    photo, hole = wide_scene()
    made = np.where(hole[..., None], 0.5, photo).astype(np.float32)
    found = registration.register(made, photo, hole)
    assert not found.failed and found.shift((256, 224)) < 0.3


def test_one_that_forgets_the_picture_is_reported(scene):
    photo, mask = scene
    pipe = GuestPipeline(Mover(forgets=True))
    with pytest.warns(UserWarning, match="Mover did not return the picture that it was given"):
        made = pipe.answer(Request("inpaint", Picture.from_any(photo), {"mask_image": mask})).images[0]
    assert (made.pixels[mask == 0] == photo[mask == 0]).all()


def test_a_moved_guest_fits_its_surroundings(monkeypatch):
    """The fill of a guest that shifts by 3 pixels is nearer to that of one that keeps still when it is put right."""
    photo, hole = wide_scene()
    picture, mask = Picture.from_any((photo * 255).astype(np.uint8)), hole.astype(np.uint8) * 255

    def filled(*shift: float) -> np.ndarray:
        pipe = GuestPipeline(Mover(shift))
        made = pipe.answer(Request("inpaint", picture, {"mask_image": mask})).images[0].pixels.astype(int)
        assert (made[~hole] == picture.pixels[~hole]).all()
        return made[hole]

    still, put_right = filled(0.0, 0.0), filled(3.0, 0.0)
    monkeypatch.setattr(registration, "register", lambda *_: registration.Registration(None, 1.0))
    left_alone = filled(3.0, 0.0)
    assert np.abs(put_right - still).mean() < 0.7 * np.abs(left_alone - still).mean()


def test_the_default_model_is_no_guest(tiny_folder):
    assert not isinstance(EditPipeline.from_pretrained(tiny_folder), GuestPipeline)


# ------------------------------------------------------------------------------------------------- edits by instruction


class Painted(Mover):
    """Follows an instruction: a red box at a place that only it knows; the rest as ``Mover`` does."""

    def __call__(self, prompt, image, num_inference_steps=1, guidance_scale=1.0, generator=None):
        picture = np.array(image)
        height, width = picture.shape[:2]
        picture[height // 3 : height // 2, width // 3 : width // 2] = (200, 20, 20)
        nothing = Image.new("L", image.size)
        return super().__call__(prompt, Image.fromarray(picture), nothing)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (2.0, 1.0)])
def test_an_instruction_changes_what_it_names_and_nothing_else(shift):
    photo, _ = wide_scene()
    picture = Picture.from_any((photo * 255).astype(np.uint8))
    pipe = GuestPipeline(Painted(shift))
    assert pipe.painter.can.instruction and pipe.offers("edit")
    made = pipe.answer(Request("edit", picture, {"prompt": "a red box"}))
    pixels, box = made.images[0].pixels, np.zeros((224, 256), bool)
    box[80:108, 90:122] = True
    assert np.abs(pixels[box].astype(int) - (200, 20, 20)).mean() < 12
    far = ~cv2.dilate(box.astype(np.uint8), np.ones((61, 61), np.uint8)).astype(bool)
    same = (pixels == picture.pixels).all(-1)
    assert same[far].mean() > 0.97 and same.mean() > 0.8
    assert made.notes[0].startswith("kept bit for bit: 9") or made.notes[0].startswith("kept bit for bit: 8")


def test_with_a_mask_all_outside_it_is_exact():
    photo, hole = wide_scene()
    picture, mask = Picture.from_any((photo * 255).astype(np.uint8)), hole.astype(np.uint8) * 255
    pipe = GuestPipeline(Painted((2.0, 0.0)))
    made = pipe.answer(Request("edit", picture, {"prompt": "a red box", "mask_image": mask})).images[0].pixels
    assert (made[~hole] == picture.pixels[~hole]).all() and (made[hole] != picture.pixels[hole]).any()


def test_a_model_that_follows_no_instructions_says_so(tiny_folder, scene, words):
    for pipe in (EditPipeline.from_pretrained(tiny_folder), GuestPipeline(build("sd", words))):
        with pytest.raises(ValueError, match="edit: .* (follows no instructions|cannot do it)"):
            pipe.answer(Request("edit", Picture.from_any(scene[0]), {"prompt": "make it red"}))
    with pytest.raises(ValueError, match="prompt: is empty; say what to change"):
        GuestPipeline(Painted()).answer(Request("edit", Picture.from_any(scene[0])))


def test_memory_and_time_are_saved_where_a_guest_can(words, scene):
    photo, mask = scene
    pipe = GuestPipeline(build("flux-fill", words))
    pipe.painter.pipe.set_progress_bar_config(disable=True)
    request = Request("inpaint", Picture.from_any(photo), {"mask_image": mask, "prompt": "a cup"}, seed=1, steps=4)
    pipe.enable_first_block_cache(1.0)
    assert pipe.painter.pipe.transformer.is_cache_enabled
    with _quiet():
        a, b = (pipe.for_task("inpaint").answer(request).images[0].pixels for _ in "ab")
    assert (a == b).all() and (a[mask == 0] == photo[mask == 0]).all(), "nothing is left over from the last call"
    pipe.enable_first_block_cache(0.2)  # another threshold, without an error of diffusers
    pipe.disable_first_block_cache()
    assert not pipe.painter.pipe.transformer.is_cache_enabled
    pipe.enable_vae_tiling()
    assert pipe.painter.pipe.vae.use_tiling
    with pytest.raises(ValueError, match="cache: UNet2DConditionModel has no blocks that may be skipped"):
        GuestPipeline(build("sd", words)).enable_first_block_cache()


def test_a_guests_weights_take_eight_bits(words, scene, tmp_path):
    pytest.importorskip("torchao")
    photo, mask = scene
    pipe = GuestPipeline(build("sd", words))
    pipe.painter.pipe.unet.up_blocks[0].attentions[0].proj_in = torch.nn.Linear(64, 64)  # one that is large enough
    with pytest.raises(ValueError, match="quantize: 'int2' is unknown"):
        pipe.quantize("int2")
    pipe.quantize("int8")
    with pytest.raises(ValueError, match="save_pretrained: the weights have eight bits by now"):
        pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
