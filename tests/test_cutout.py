"""Cutting out: the photograph's own colours on nothing, by the checkpoint's head or without one; and its training."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from photofound import CutoutPipeline, OutpaintPipeline, Picture, cli, config, image
from photofound.edits import matting
from photofound.edits.task import Condition, Sample, get_task, is_regression
from photofound.picture.provenance import COMPOSITE, source_type
from photofound.pipeline import EditPipeline
from photofound.serve import app as serve
from photofound.train.distributed import World
from photofound.training import distill, preference, pretrain


def disc(height=96, width=128, dtype=np.uint8, grey=False):
    """A disc on an even ground with grain, and where it is."""
    y, x = np.mgrid[:height, :width]
    inside = (y - 0.5 * height) ** 2 + (x - 0.4 * width) ** 2 < (0.28 * height) ** 2
    values = np.where(inside[..., None], (190, 60, 40), (225, 225, 220)) + np.random.default_rng(0).integers(
        -6, 7, (height, width, 3)
    )
    values = (values * (257 if dtype == np.uint16 else 1)).astype(dtype)
    return (values[..., 0] if grey else values), inside


def matte_of(inside):
    """A head that knows the truth, of all of the picture or of the part that it is shown."""
    looks = []

    def look(self, rgb, scale=1.0):
        looks.append(rgb.shape[:2])
        red = (rgb[..., 0] - rgb[..., 2] > 0.2).astype(np.float32)
        return red if red.any() else inside.astype(np.float32)

    return look, looks


@pytest.fixture
def headed(tiny):
    """Loads a pipeline whose checkpoint has the head, untrained."""

    def load(pipeline):
        pipe = tiny(pipeline)
        pipe.transformer.add_task("cutout")
        return pipe

    return load


# ------------------------------------------------------------------------------------------------------- what comes out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "grey", "size"),
    [
        (np.uint8, False, (96, 128)),
        (np.uint16, False, (75, 61)),
        (np.uint8, True, (64, 64)),
        (np.uint8, False, (700, 900)),
    ],
)
def test_opaque_pixels_are_the_photographs_bit_for_bit(tiny, dtype, grey, size):
    photo, inside = disc(*size, dtype, grey)
    result = tiny(CutoutPipeline)(photo, output_type="picture").images[0]
    colours, alpha = result.pixels[..., :3], result.pixels[..., 3]
    given = np.repeat(photo[..., None], 3, 2) if grey else photo
    opaque = alpha == np.iinfo(dtype).max
    assert result.pixels.shape == (*size, 4) and result.pixels.dtype == dtype
    assert (colours[opaque] == given[opaque]).all() and (colours[alpha == 0] == 0).all()
    assert matting.iou(alpha > 0.5 * alpha.max(), inside) > 0.95 and opaque[inside].mean() > 0.85
    assert result.to_pil().mode == "RGBA"


@pytest.mark.slow
def test_soft_colours_lose_the_ground(tiny):
    photo, inside = disc(300, 400)
    blurred = np.asarray(Image.fromarray(photo).resize((200, 150), Image.BOX).resize((400, 300), Image.BICUBIC))
    result = np.asarray(tiny(CutoutPipeline)(blurred).images[0]).astype(float)
    soft = (result[..., 3] > 60) & (result[..., 3] < 255)
    own = np.array([190, 60, 40])
    assert soft.sum() > 100
    assert np.abs(result[soft, :3] - own).mean() < 0.5 * np.abs(blurred[soft] - own).mean()


def test_what_has_alpha_is_cut_out_already(tiny):
    photo = np.random.default_rng(0).integers(1, 256, (40, 50, 4), np.uint8)
    photo[:10, :, 3] = 0
    result = np.asarray(tiny(CutoutPipeline)(photo).images[0])
    assert (result[10:] == photo[10:]).all() and (result[:10] == 0).all()


def test_no_subject_is_one_line(tiny, headed, monkeypatch):
    for pipe in (tiny(CutoutPipeline), headed(CutoutPipeline)):
        monkeypatch.setattr(EditPipeline, "_matte", lambda self, rgb, scale=1.0: np.zeros(rgb.shape[:2], np.float32))
        with pytest.raises(ValueError, match=r"^subject: .*no subject.*") as error:
            pipe(np.full((64, 64, 3), 127, np.uint8))
        assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------------- the head


@pytest.mark.slow
def test_the_head_is_asked_where_there_is_one_and_looks_twice(headed, monkeypatch):
    photo, inside = disc(160, 300)
    look, looks = matte_of(inside)
    monkeypatch.setattr(EditPipeline, "_matte", look)
    result = headed(CutoutPipeline)(photo, output_type="picture").images[0]
    assert matting.iou(result.alpha() > 0.5, inside) > 0.97
    assert looks[0] == (160, 300) and len(looks) == 2 and looks[1][1] < 200, "the second time closer"
    looks.clear()
    headed(CutoutPipeline)(disc()[0][16:80, 18:86])
    assert looks == [(64, 68)] * 2, "it fills the picture, and all of it is looked at closer"


@pytest.mark.slow
def test_outpaint_keeps_what_the_head_finds(headed, tiny, monkeypatch):
    photo, inside = disc(160, 300)
    look, looks = matte_of(inside)
    monkeypatch.setattr(EditPipeline, "_matte", look)
    pipe = headed(OutpaintPipeline)
    job = pipe.prepare(Picture.from_any(photo))
    assert looks and matting.iou(job.keep > 0.5, inside) > 0.97
    result = pipe(photo, num_inference_steps=1, output_type="picture").images[0].pixels
    assert (result[job.keep == 1] == photo[job.keep == 1]).all() and (result[~inside] != photo[~inside]).any()
    looks.clear()
    pipe.prepare(Picture.from_any(photo), subject=inside.astype(np.uint8) * 255)
    tiny(OutpaintPipeline).prepare(Picture.from_any(photo))
    assert not looks, "not asked where the subject is given, or the checkpoint has no head"


def test_an_untrained_head_gives_a_matte_that_depends_on_the_photograph_alone(headed):
    pipe = headed(CutoutPipeline)
    rgb = np.random.default_rng(0).random((50, 91, 3)).astype(np.float32)
    matte = pipe.segment(rgb)
    assert matte.shape == (50, 91) and matte.dtype == np.float32 and 0 <= matte.min() < matte.max() <= 1
    torch.manual_seed(5)
    assert (pipe.segment(rgb) == matte).all() and (pipe._matte(rgb[::-1]) != pipe._matte(rgb)[::-1]).any()


def test_a_mirrored_photograph_has_the_mirrored_matte(headed):
    pipe = headed(CutoutPipeline)
    rgb = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32)
    assert np.abs(pipe._matte(rgb[:, ::-1].copy()) - pipe._matte(rgb)[:, ::-1]).max() < 1e-4


def test_one_right_answer_needs_one_step_and_no_noise(headed):
    pipe = headed(CutoutPipeline)
    canvas = torch.rand(2, 3, 64, 64) * 2 - 1
    condition = Condition(canvas, torch.ones(2, 1, 64, 64), ["cutout", "inpaint"], ["", ""], torch.zeros(2))
    assert is_regression(condition).tolist() == [True, False]

    def made(steps, seed):
        return pipe.sample(condition, steps, 1.0, [torch.Generator().manual_seed(seed) for _ in range(2)])

    first, second = made(1, 0), made(3, 1)
    assert torch.allclose(first[0], second[0], atol=1e-5) and not torch.allclose(first[1], second[1], atol=1e-2)


# ------------------------------------------------------------------------------------------------------------- training


def sample(batch=24, size=48):
    """Magenta discs on grey photographs, and as many grey photographs."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = ((y - size / 2) ** 2 + (x - size / 2) ** 2 < (size / 4) ** 2).float()
    matte = inside.expand(batch, 1, -1, -1)
    grey = (torch.rand(batch, 1, size, size) - 0.5).expand(-1, 3, -1, -1)
    pixels = torch.lerp(grey, torch.tensor([0.9, -0.9, 0.9]).reshape(1, 3, 1, 1).expand_as(grey), matte)
    return Sample(pixels, matte, ["a disc"] * batch), Sample(grey.flip(0), torch.zeros_like(matte), ["grey"] * batch)


def test_composites_and_their_mattes_agree(monkeypatch):
    from photofound.edits import collage

    plain = collage._plain
    monkeypatch.setattr(collage, "_plain", lambda *of: plain(*of).mean(1, keepdim=True).expand(-1, 3, -1, -1))
    task, (given, others) = get_task("cutout"), sample()
    made = task.compose(given, others, torch.Generator().manual_seed(0))
    condition, target = task.example(made, torch.Generator()), task.target(made)
    assert torch.equal(condition.canvas, made.pixels) and (condition.hole == 1).all()
    assert set(condition.prompt) == {""} and set(condition.task) == {"cutout"}
    assert target.shape == given.pixels.shape and torch.equal(target[:, :1], 2 * made.matte - 1)
    assert made.pixels.abs().max() <= 1 and 0 <= made.matte.min() and made.matte.max() <= 1
    magenta = made.pixels[:, 0] - made.pixels[:, 1]
    assert magenta[made.matte[:, 0] > 0.9].quantile(0.02) > 0.5, "all that is in the matte is the object"
    assert magenta[made.matte[:, 0] == 0].quantile(0.98) < 0.3, "and nothing else is"
    shares = made.matte.mean((1, 2, 3))
    assert (shares > 0).all() and shares.max() > 2 * shares.min(), "of many sizes"
    frame = torch.cat([made.matte[..., 0], made.matte[..., -1], made.matte[..., 0, :], made.matte[..., -1, :]], -1)
    assert 0.02 < (frame.amax((1, 2)) > 0.5).float().mean() < 0.8, "some are cut by the frame"


def test_composites_follow_the_seed_and_take_any_shape():
    task, (given, others) = get_task("cutout"), sample()
    first, again, other = (task.compose(given, others, torch.Generator().manual_seed(s)).pixels for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    wide = Sample(given.pixels[:3, :, 10:38], given.matte[:3, :, 10:38], [""] * 3)
    made = task.compose(wide, None, torch.Generator().manual_seed(0))
    assert made.pixels.shape == (3, 3, 28, 48) and torch.isfinite(made.pixels).all()


def drawn(tiny_folder, *more, stage=pretrain):
    options = ["--data.drawn=12", "--data.sizes=[72]", "--data.crop=64", "--data.late_crop=64", "--train.batch_size=8"]
    return config.load(stage.Config, None, [*options, "--train.precision=fp32", *more])


def test_training_is_a_regression_on_the_target(tiny_folder):
    mix = "--mix.tasks={cutout: 0.5, inpaint: 0.5}"
    stage = pretrain.PretrainStage(drawn(tiny_folder, f"--model.start={tiny_folder}", mix), World())
    batch = stage.batch(torch.Generator().manual_seed(0), 8, 0.0)
    cut = is_regression(batch.condition)
    assert cut.sum() == 4 and (batch.condition.hole[cut] == 1).all()
    grey = batch.sample.pixels[cut]
    assert torch.equal(grey[:, 0], grey[:, 2]) and (grey == -1).any() and (grey == 1).any()
    seen = {}

    def predict(x_t, t, condition, *rest, **more):
        seen.update(x_t=x_t, t=t, canvas=condition.canvas)
        return original(x_t, t, condition, *rest, **more)

    original, stage.predict = stage.predict, predict
    loss, logs = stage.loss(batch)
    assert torch.isfinite(loss) and {"cutout", "inpaint"} <= set(logs)
    assert (seen["x_t"][cut] == 0).all() and (seen["t"][cut] == 1).all()
    assert (seen["t"][~cut] < 1).any() and (seen["x_t"][~cut] != 0).any()
    assert stage.pipeline.transformer.config.tasks[-1] == "cutout"
    assert stage.sheet().shape[2] == 3


@pytest.mark.slow
def test_a_student_learns_the_answer_itself(tiny_folder, tmp_path):
    pipe = EditPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
    pipe.transformer.add_task("cutout")
    pipe.save_pretrained(tmp_path / "teacher")
    options = [f"--start={tmp_path / 'teacher'}", "--mix.tasks={cutout: 1.0}", "--distill.huber=0.001"]
    stage = distill.DistillStage(drawn(tiny_folder, *options, stage=distill), World())
    batch = stage.batch(torch.Generator().manual_seed(0), 4, 0.0)
    torch.manual_seed(3)
    before = stage.loss(batch)[0]
    optimizer = torch.optim.Adam(stage.student.parameters(), lr=5e-3)
    for _ in range(8):
        torch.manual_seed(3)
        loss = stage.loss(batch)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.8 * before, "towards the matte, whatever the teacher says"
    assert torch.equal(batch.sample.pixels[:, 0], batch.sample.pixels[:, 1])


def test_there_are_no_preferences_about_a_right_answer(tiny_folder):
    with pytest.raises(ValueError, match="mix.tasks: cutout has one right answer"):
        preference._check(config.load(preference.Config, None, ["--mix.tasks={cutout: 1.0}"]))


# ------------------------------------------------------------------------------------------------ files and the server


@pytest.mark.slow
def test_a_file_that_holds_no_transparency_is_refused_or_becomes_png(tmp_path, tiny_folder, capfd):
    photo, inside = disc()
    Image.fromarray(photo).save(tmp_path / "cup.jpg", quality=98)
    model = f"--model={tiny_folder}"
    assert cli.main(["cutout", str(tmp_path / "cup.jpg"), "-o", str(tmp_path / "out.jpg"), model]) != 0
    said = capfd.readouterr().err
    assert "out.jpg: JPEG holds no transparency; use one of avif, png, tif, webp" in said and said.count("\n") == 1
    assert cli.main(["cutout", str(tmp_path / "cup.jpg"), "--format=bmp", model]) != 0
    assert cli.main(["cutout", str(tmp_path / "cup.jpg"), model]) == 0
    assert cli.main(["cutout", str(tmp_path / "cup.jpg"), "-o", str(tmp_path / "out.webp"), model]) == 0
    made, webp = (image.load(tmp_path / name) for name in ("cup-cutout.png", "out.webp"))
    given = image.load(tmp_path / "cup.jpg").pixels
    opaque = made.pixels[..., 3] == 255
    assert made.format == "PNG" and (made.pixels[opaque, :3] == given[opaque]).all() and webp.has_alpha
    assert matting.iou(opaque, inside) > 0.9 and source_type(made) != COMPOSITE, "nothing of it was generated"


def test_formats_with_alpha():
    jpeg = Picture.from_any(disc()[0])
    assert image.output_format(jpeg, "x.webp", None, alpha=True) == "WEBP"
    assert image.output_format(None, None, "tif", alpha=True) == "TIFF"
    for path, format in (("x.jpg", None), (None, "jpeg"), (None, "bmp")):
        assert image.output_format(jpeg, path, format) in ("JPEG", "BMP")
        with pytest.raises(ValueError, match="holds no transparency"):
            image.output_format(jpeg, path, format, alpha=True)


@pytest.mark.slow
def test_the_server_answers_in_a_format_with_alpha(headed, monkeypatch):
    monkeypatch.setenv("PHOTOFOUND_MAX_PIXELS", "1000000")
    photo, inside = disc()
    monkeypatch.setattr(EditPipeline, "_matte", matte_of(inside)[0])
    data = io.BytesIO()
    Image.fromarray(photo).save(data, "JPEG", quality=98)
    with TestClient(serve.create_app(headed(CutoutPipeline)), raise_server_exceptions=False) as client:
        response = client.post("/v1/cutout", files={"image": ("cup.jpg", data.getvalue())})
        assert response.headers["content-type"] == "image/png"
        alpha = np.asarray(Image.open(io.BytesIO(response.content)).getchannel("A"))
        assert matting.iou(alpha > 127, inside) > 0.95
        refused = client.post("/v1/cutout", files={"image": ("c.jpg", data.getvalue())}, data={"format": "jpg"})
        assert refused.status_code == 422 and "holds no transparency" in refused.json()["detail"]
        kept = client.post("/v1/outpaint", files={"image": ("cup.jpg", data.getvalue())}, data={"format": "png"})
        given = np.asarray(Image.open(data))
        deep = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # its edge is mixed anew
        assert (np.asarray(Image.open(io.BytesIO(kept.content)))[deep] == given[deep]).all() and alpha[deep].all()
