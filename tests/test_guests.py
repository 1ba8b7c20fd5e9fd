"""Other people's pipelines behind our compositing: many families, tiny and random, and one that misbehaves on
purpose."""

import io
import json
import warnings

import cv2
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionControlNetPipeline, StableDiffusionImg2ImgPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from helpers import encoded, seeded
from PIL import Image
from starlette.testclient import TestClient
from tiny_guests import build, with_adapter
from tiny_parts import tokenizer

from photofound import EditPipeline, GeneratePipeline, InpaintPipeline, Picture, Request
from photofound.cli import main
from photofound.demos import comfyui
from photofound.edits import registration
from photofound.guests import GuestPipeline
from photofound.painter import abilities
from photofound.serve.app import create_app

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("words"))


@pytest.fixture
def small(monkeypatch):
    """Qwen-Image-Edit looks at a megapixel, whatever its model's size."""
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda area, ratio: (64, 64, None))
    for name in ("CONDITION_IMAGE_SIZE", "VAE_IMAGE_SIZE"):
        monkeypatch.setattr(pipeline_qwenimage_edit_plus, name, 64 * 64)


def guest_of(family, words):
    """Our pipeline around a family, which works at 64 pixels."""
    pipe = build(family, words)
    pipe.default_sample_size = max(1, 64 // getattr(pipe, "vae_scale_factor", 8))
    return GuestPipeline(pipe)


MASKED = ("sd", "sdxl", "sd3", "flux-fill", "qwen")
INSTRUCTED = ("flux-kontext", "qwen-edit", "qwen-edit-plus", "pix2pix")


@pytest.fixture
def scene():
    """A photograph with structure, 96 x 80, and a mask."""
    rng = np.random.default_rng(0)
    photo = cv2.resize(rng.integers(0, 256, (20, 24, 3), np.uint8), (96, 80), interpolation=cv2.INTER_CUBIC)
    mask = np.zeros((80, 96), np.uint8)
    mask[25:55, 30:65] = 255
    return photo, mask


@pytest.mark.parametrize("family", MASKED + INSTRUCTED)
def test_kept_pixels_are_exact_whoever_paints(family, words, scene, small):
    photo, mask = scene
    pipe = guest_of(family, words)
    assert pipe.painter.can.mask == (family in MASKED) and pipe.painter.can.instruction == (family in INSTRUCTED)
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
    pipe = guest_of("sd", words)
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


@pytest.mark.parametrize("family", ["sd-text", "z-image"])
def test_weights_that_make_pictures_from_words_fill_holes_too(family, words, scene, tmp_path):
    """By the class that diffusers has for it, from a folder that names another."""
    photo, mask = scene
    build(family, words).save_pretrained(tmp_path)
    pipe = InpaintPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32)
    pipe.painter.pipe.default_sample_size = max(1, 64 // pipe.painter.pipe.vae_scale_factor)
    pipe = pipe.for_task("inpaint")
    assert pipe.painter.can.mask and pipe.painter.can.words and "Inpaint" in type(pipe.painter.pipe).__name__
    with _quiet():
        made = np.asarray(pipe(photo, mask, "a cup", num_inference_steps=2, generator=0).images[0])
    assert (made[mask == 0] == photo[mask == 0]).all() and (made[mask > 0] != photo[mask > 0]).any()


@pytest.mark.parametrize("family", ["sd", "sd-text", "sd3", "flux-fill", "flux-kontext", "qwen", "z-image"])
def test_a_picture_is_made_from_words(family, words):
    pipe = guest_of(family, words)
    made = [
        pipe.answer(Request("generate", None, {"prompt": prompt, "size": "90x70"}, seed=1, steps=2)).images[0]
        for prompt in ("a cup", "a cup", "the sea")
    ]
    assert made[0].size == (90, 70) and (made[0].pixels == made[1].pixels).all()
    assert (made[0].pixels != made[2].pixels).any(), "the prompt is read"


def test_what_only_makes_pictures_does_nothing_else(words, scene, tmp_path, capsys):
    folder = tmp_path / "sana"
    build("sana", words).save_pretrained(folder)
    pipe = GeneratePipeline.from_pretrained(folder, torch_dtype=torch.float32)
    assert pipe(prompt="a cup", num_inference_steps=2).images[0].size == (64, 64), "the model's own size"
    assert pipe.offers("generate") and pipe.offers("cutout") and not pipe.offers("inpaint")
    line = ["generate", "--prompt", "a cup", "--size", "100x60", "--model", str(folder), "--dtype", "float32"]
    assert main([*line, "--steps", "1", "-o", str(tmp_path / "made.png")]) == 0
    assert Image.open(tmp_path / "made.png").size == (100, 60)
    capsys.readouterr()
    Image.fromarray(scene[0]).save(tmp_path / "photo.png")
    assert main(["expand", str(tmp_path / "photo.png"), "--left", "8", "--model", str(folder)]) == 2
    err = capsys.readouterr().err
    assert "expand: SanaPipeline cannot do it; it makes pictures from words alone" in err and err.count("\n") == 1


def test_one_that_only_changes_pictures_makes_none(words):
    with pytest.raises(ValueError, match="generate: QwenImageEditPipeline cannot do it"):
        guest_of("qwen-edit", words).answer(Request("generate", None, {"prompt": "a cup"}))


@pytest.mark.parametrize("family", ["flux-kontext", "flux2-klein", "qwen-edit-plus", "sd"])
def test_a_reference_is_looked_at(family, words, scene, small):
    photo, mask = scene
    pipe = guest_of(family, words)
    if family == "sd":
        with_adapter(pipe)
    references = [np.full((40, 90, 3), colour, np.uint8) for colour in ((250, 20, 20), (20, 20, 250))]
    inputs = {"mask_image": mask, "prompt": "a cup"}
    with _quiet():
        red, blue = (
            pipe.answer(Request("inpaint", Picture.from_any(photo), inputs | {"reference": each}, seed=1, steps=2))
            for each in references
        )
    red, blue = red.images[0].pixels, blue.images[0].pixels
    assert (red[mask == 0] == photo[mask == 0]).all() and (red[mask > 0] != blue[mask > 0]).any()
    if family == "sd":
        with pytest.raises(ValueError, match="reference: .* paints what a picture shows; pass one for its IP-adapter"):
            pipe.answer(Request("inpaint", Picture.from_any(photo), inputs))
        pipe.unload_ip_adapter()
        assert not pipe.painter.can.reference
    elif family == "qwen-edit-plus":
        with _quiet():
            asked = {"prompt": "put it on the table", "reference": references[0]}
            made = pipe.answer(Request("edit", Picture.from_any(photo), asked, seed=1, steps=1)).images[0]
        assert made.size == (96, 80)


def test_a_reference_for_a_guest_that_takes_none_is_refused(words, scene):
    inputs = {"mask_image": scene[1], "reference": scene[0]}
    with pytest.raises(ValueError, match="reference: FluxFillPipeline takes none; say it in the prompt"):
        guest_of("flux-fill", words).answer(Request("inpaint", Picture.from_any(scene[0]), inputs))
    with pytest.raises(ValueError, match=r"load_ip_adapter: a\.bin is a pickle"):
        guest_of("sd", words).load_ip_adapter("folder", subfolder="models", weight_name="a.bin")


def test_a_negative_prompt_reaches_the_guest(words, scene):
    photo, mask = scene
    pipe = guest_of("sd", words).for_task("inpaint")
    with _quiet():
        made = [
            np.asarray(pipe(photo, mask, "a cup", num_inference_steps=2, generator=0, negative_prompt=words_).images[0])
            for words_ in (None, "tea")
        ]
    assert (made[0] != made[1]).any()
    with pytest.raises(ValueError, match="negative_prompt: FluxFillPipeline takes none"):
        guest_of("flux-fill", words).for_task("inpaint")(photo, mask, negative_prompt="tea")


def test_dtype_loras_and_offloading_are_passed_on(words, scene, tmp_path, monkeypatch):
    photo, mask = scene
    guest = build("sd", words)
    guest.save_pretrained(tmp_path)
    pipe = InpaintPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert pipe.precision == torch.bfloat16 == pipe.painter.pipe.unet.dtype
    pipe = InpaintPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32)

    def made():
        with _quiet():
            return np.asarray(pipe(photo, mask, "a cup", num_inference_steps=2, generator=seeded(0)).images[0])

    plain, layer = made(), "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    lora = {f"{layer}.lora_A.weight": torch.randn(4, 8), f"{layer}.lora_B.weight": 9 * torch.randn(8, 4)}
    pipe.load_lora_weights(lora, adapter_name="style")
    assert (made() != plain).any()
    pipe.set_adapters(["style"], [0.0])
    assert (made() == plain).all()
    pipe.set_adapters(["style"], [1.0])
    styled = made()
    pipe.fuse_lora()
    assert np.abs(made().astype(int) - styled).max() <= 2
    called = []
    for name in ("enable_model_cpu_offload", "enable_sequential_cpu_offload"):
        monkeypatch.setattr(pipe.painter.pipe, name, lambda *_, name=name, **options: called.append((name, options)))
        getattr(pipe, name)(gpu_id=1)
    assert [name for name, _ in called] == ["enable_model_cpu_offload", "enable_sequential_cpu_offload"]
    assert all(options == {"gpu_id": 1} for _, options in called)


@pytest.mark.parametrize(("family", "factor"), [("upscaler", 4), ("latent-upscaler", 2)])
def test_an_upscaling_pipeline_enlarges(family, factor, words, scene):
    guest = build(family, words)
    pipe = GuestPipeline(guest)
    assert abilities(guest).enlarges == factor
    photo = scene[0][:64, :64] if family == "latent-upscaler" else scene[0][:24, :32]
    made = pipe.answer(Request("upscale", Picture.from_any(photo), {"scale": factor}, steps=1)).images[0]
    assert made.size == (photo.shape[1] * factor, photo.shape[0] * factor)
    with pytest.raises(ValueError, match=f"inpaint: {type(guest).__name__} cannot do it"):
        pipe.answer(Request("inpaint", Picture.from_any(photo), {"mask_image": photo[..., 0] > 127}))


def test_pipelines_that_do_something_else_are_refused(words):
    parts = dict(build("sd-text", words).components.items())
    steered = StableDiffusionControlNetPipeline(**parts, controlnet=parts["unet"], requires_safety_checker=False)
    with pytest.raises(ValueError, match="StableDiffusionControlNetPipeline neither edits a picture"):
        GuestPipeline(steered)
    with pytest.raises(ValueError, match="StableDiffusionImg2ImgPipeline"):

        class StableDiffusionImg2ImgPipelineOfOthers(StableDiffusionImg2ImgPipeline): ...

        GuestPipeline(StableDiffusionImg2ImgPipelineOfOthers(**parts, requires_safety_checker=False))


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
    pipe = guest_of("flux-fill", words)
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
