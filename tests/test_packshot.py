"""Packshots: layers, the task in Python and on the command line, and what a marketplace would refuse."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from photofound import PackshotPipeline, cli, image
from photofound.edits import background, packshot
from photofound.edits.placement import Placement
from photofound.edits.shadow import Shadow
from photofound.edits.task import get_task
from photofound.image import Picture
from photofound.picture import profiles, provenance
from photofound.picture.layers import flatten


def product(width=160, height=120, depth=np.uint8):
    """A noisy disc with a soft edge on grey, and its matte."""
    y, x = np.mgrid[:height, :width]
    matte = np.clip(0.32 * height - np.hypot(y - height / 2, x - width / 2) + 0.5, 0, 1).astype(np.float32)
    most = np.iinfo(depth).max
    noise = np.random.default_rng(0).integers(0, most, (height, width, 3), depth, endpoint=True)
    return Picture(np.where(matte[..., None] > 0, noise, most // 2).astype(depth)), matte


def mask_file(path, matte):
    Image.fromarray(np.rint(matte * 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def pipe(tiny):
    return tiny(PackshotPipeline)


@pytest.fixture
def files(tmp_path):
    picture, matte = product(900, 700)
    image.save(picture, tmp_path / "shoe.png")
    return tmp_path / "shoe.png", mask_file(tmp_path / "mask.png", matte)


# ----------------------------------------------------------------------------------------------------------- the layers


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_layers_flattened_are_the_picture(depth):
    picture, matte = product(depth=depth)
    placement = Placement.of(canvas="200x180")
    shot = packshot.prepare(picture, matte, placement, background.parse("#c00000"), Shadow(), 0.2)
    found = packshot.layers(shot)
    assert [layer.name for layer in found] == ["background", "shadow", "reflection", "subject", "mask"]
    assert all(layer.picture.size == (200, 180) and layer.picture.has_alpha for layer in found)
    flat, made = flatten(found), packshot.finished(shot)
    assert (flat.pixels == made.pixels).all() and made.pixels.shape == (180, 200, 3)
    by_hand = found[0].picture.to_float()[..., :3].astype(np.float64)
    for layer in found[1:-1]:
        values = layer.picture.to_float().astype(np.float64)
        by_hand = by_hand * (1 - values[..., 3:]) + values[..., :3] * values[..., 3:]
    assert np.abs(by_hand - made.to_float()).max() <= 2.1 / 255


@pytest.mark.parametrize("shadow", [None, Shadow(), Shadow("hard"), Shadow("contact"), Shadow(pose="lying")])
def test_the_subject_is_bit_for_bit(shadow):
    picture, matte = product()
    shot = packshot.prepare(picture, matte, Placement.of(canvas="200x180"), background.WHITE, shadow, 0.3)
    made = packshot.finished(shot)
    x, y = shot.at
    assert (made.pixels[y : y + 120, x : x + 160][matte == 1] == picture.pixels[matte == 1]).all()
    assert (packshot.finished(shot).pixels == made.pixels).all()


def test_white_is_white_everywhere_outside_the_matte():
    picture, matte = product()
    shot = packshot.prepare(
        picture, matte, Placement.of(canvas="300x300", padding="10%", enlarge=True), background.WHITE
    )
    made = packshot.finished(shot)
    assert made.keep_white and (made.pixels[shot.keep == 0] == 255).all()
    again = image.decode(image.encode(made, "JPEG"))
    assert (again.pixels[shot.keep == 0] == 255).all()


def test_the_frame_of_an_even_ground_stays_even():
    picture, matte = product(160, 160)
    wide = Shadow(spread=2.0, direction=90)
    made = packshot.finished(packshot.prepare(picture, matte, Placement.of(fit="none"), background.WHITE, wide))
    frame = np.ones((160, 160), bool)
    frame[2:-2, 2:-2] = False
    assert (made.pixels[frame] == 255).all() and (made.pixels[110:140, 120:150] < 250).any()


def test_nothing_behind():
    picture, matte = product()
    shot = packshot.prepare(picture, matte, Placement(), background.parse("transparent"), Shadow())
    made = packshot.finished(shot)
    assert made.has_alpha and (made.alpha()[shot.keep == 1] == 1).all() and made.alpha()[0, 0] == 0
    below = made.alpha()[100:108, 70:90]
    assert (below > 0.08).all() and (made.pixels[104, 80, :3] == 0).all()  # the shadow is black and half transparent


def test_a_reflection_is_the_subject_upside_down_and_fades():
    pixels = np.full((200, 100, 3), 128, np.uint8)
    matte = np.zeros((200, 100), np.float32)
    matte[20:120, 30:70] = 1
    pixels[20:110], pixels[110:120] = (0, 0, 255), (255, 0, 0)  # blue on a red foot
    shot = packshot.prepare(
        Picture(pixels), matte, Placement.of(fit="none", align="top", padding="20,0"), background.WHITE, None, 0.4
    )
    made = packshot.finished(shot).pixels.astype(int)
    foot = np.flatnonzero((shot.keep > 0).any(1))[-1] + 1
    near, far, end = made[foot + 4, 50], made[foot + 25, 50], made[foot + 70, 50]
    assert near[0] > near[2] + 50 and far[2] > far[0] + 20 and (end == 255).all()
    assert 255 - near[1] > 255 - far[1]


# ------------------------------------------------------------------------------------------------------------- the task


def test_it_needs_no_network(pipe, monkeypatch):
    monkeypatch.setattr(type(pipe), "sample", lambda *a, **k: pytest.fail("a network was called"))
    picture, matte = product()
    output = pipe(picture, canvas="240x240", subject=matte, shadow="soft", output_type="picture")
    (made,) = output.images
    assert made.size == (240, 240) and made.note == output.notes[0] and "at its own size" in made.note
    assert output.keep.shape == (240, 240) and not made.generated


@pytest.mark.slow
@pytest.mark.parametrize("given", [{"background": "wood:brown"}, {"backdrop": np.full((9, 9, 3), 90, np.uint8)}])
def test_surfaces_and_pictures_have_a_shadow_by_themselves(pipe, given):
    picture, matte = product()
    with_shadow, without = (
        pipe(picture, subject=matte, **given, **more, generator=1, output_type="np").images[0]
        for more in ({}, {"shadow": "none"})
    )
    assert (with_shadow[90:105, 60:110] < without[90:105, 60:110] - 0.05).any()


def test_a_seed_draws_another_surface(pipe):
    picture, matte = product()
    one, two = (
        pipe(picture, subject=matte, background="wood", generator=seed, output_type="np").images[0] for seed in (1, 2)
    )
    assert (one != two).any()


@pytest.mark.slow
def test_a_preset_sets_what_is_not_given(pipe):
    picture, matte = product()
    (made,) = pipe(picture, preset="amazon-main", subject=matte, output_type="picture").images
    assert made.size == (2000, 2000) and "enlarged to" in made.note
    output = pipe(picture, preset="amazon-main", canvas="300x300", enlarge=False, subject=matte, output_type="picture")
    assert output.images[0].size == (300, 300) and "at its own size" in output.notes[0]


def test_marketplaces_get_srgb_and_others_their_own(pipe):
    picture, matte = product()
    p3 = profiles.build(profiles.PRIMARIES[12], profiles.CURVES[13], "Display P3")
    wide = Picture(picture.pixels, icc_profile=p3)
    (kept,) = pipe(wide, subject=matte, background="#c00000", output_type="picture").images
    assert kept.icc_profile == p3 and np.abs(kept.rgb()[0, 0] * 255 - (192, 0, 0)).max() < 1.5
    given = {"preset": "amazon-main", "canvas": "160x160", "padding": 0, "enlarge": False}
    (changed,) = pipe(wide, subject=matte, output_type="picture", **given).images
    x, y = pipe.prepare(wide, subject=matte, **given).at
    assert changed.icc_profile is None
    assert np.abs(changed.rgb()[60 + y, 80 + x] - wide.rgb()[60, 80]).max() < 0.01


def test_bad_input_is_one_clear_line(pipe):
    grey = np.full((60, 60, 3), 128, np.uint8)
    cases = [
        (grey, {}, "no subject|covers"),
        (np.zeros((1, 1, 3), np.uint8), {}, "subject"),
        (np.zeros((40, 40, 4), np.uint8), {}, "the subject is empty"),
        (grey, {"subject": np.ones((60, 60), np.float32)}, "the subject is full"),
        (grey, {"subject": product(60, 60)[1], "background": "in a kitchen"}, "names no colour and no material"),
        (grey, {"subject": product(60, 60)[1], "background": "#fff", "backdrop": grey}, "give one of them"),
        (grey, {"preset": "amazonia"}, "preset: 'amazonia' is unknown; use amazon-main, ebay"),
        (grey, {"reflection": "200%"}, "reflection: '200%' must be a share"),
    ]
    for picture, given, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            pipe(picture, **given)
        assert "\n" not in str(error.value)


def test_a_path_is_a_background_in_python_and_never_in_a_request(pipe, tmp_path):
    picture, matte = product()
    Image.new("RGB", (50, 50), (10, 200, 10)).save(tmp_path / "green.png")
    (made,) = pipe(
        picture, subject=matte, background=str(tmp_path / "green.png"), shadow="none", output_type="np"
    ).images
    assert np.abs(made[0, 0] * 255 - (10, 200, 10)).max() < 1
    with pytest.raises(ValueError, match="is a file's name"):
        pipe.prepare(picture, subject=matte, background=str(tmp_path / "green.png"))
    with pytest.raises(ValueError, match="preset: '/etc/x.yaml' is unknown"):
        pipe.prepare(picture, subject=matte, preset="/etc/x.yaml")


# --------------------------------------------------------------------------------------------------- the command line


@pytest.mark.slow
def test_as_typed_by_a_seller(files, tiny_folder, tmp_path, capsys):
    photograph, mask = files
    out, model = tmp_path / "out.jpg", ["--model", str(tiny_folder), "--subject", str(mask)]
    assert cli.main(["packshot", str(photograph), "--preset", "amazon-main", "-o", str(out), *model]) == 0
    assert "warning" not in capsys.readouterr().err
    assert cli.main(["check", str(out), "--preset", "amazon-main"]) == 0
    assert "accepted by amazon-main" in capsys.readouterr().out
    made = image.load(out)
    assert made.format == "JPEG" and made.size == (2000, 2000) and (made.pixels[0] == 255).all()
    history = made.xmp.decode()
    assert "enlarged to" in history and provenance.source_type(made) is None
    assert provenance.recipe(made)["task"] == "packshot"
    png = tmp_path / "out.png"
    typed = ["--canvas", "1200x1200", "--padding", "10%", "--background", "#ffffff", "--shadow", "soft", "-o", str(png)]
    assert cli.main(["packshot", str(photograph), *typed, *model]) == 0
    made = image.load(png)
    assert made.size == (1200, 1200) and (made.pixels[:2] == 255).all() and (made.pixels < 200).any()
    assert cli.main(["check", str(png), "--preset", "amazon-main"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("1200x1200; sides must be 1600 to 10000" in line for line in lines)


def test_a_preset_names_the_format_of_a_folders_results(files, tiny_folder, tmp_path):
    (tmp_path / "in").mkdir()
    files[0].rename(tmp_path / "in" / "shoe.png")
    (tmp_path / "masks").mkdir()
    files[1].rename(tmp_path / "masks" / "shoe.png")
    given = ["--preset", "instagram-4x5", "--subject", str(tmp_path / "masks"), "--model", str(tiny_folder), "--quiet"]
    assert cli.main(["packshot", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *given]) == 0
    made = image.load(tmp_path / "out" / "shoe-packshot.jpg")
    assert made.size == (1080, 1350)


def test_transparent_results_are_png_and_a_jpeg_is_refused(files, tiny_folder, tmp_path, capsys):
    given = ["--background", "transparent", "--subject", str(files[1]), "--model", str(tiny_folder)]
    assert cli.main(["packshot", str(files[0]), *given, "-o", str(tmp_path / "a.jpg")]) == 2
    assert "holds no transparency" in capsys.readouterr().err
    assert cli.main(["packshot", str(files[0]), *given, "-o", str(tmp_path / "a.png")]) == 0
    assert image.load(tmp_path / "a.png").has_alpha


def test_outpaint_takes_the_same_options(tiny):
    from photofound import OutpaintPipeline

    pipe = tiny(OutpaintPipeline)
    names = {each.name for each in get_task("outpaint").inputs}
    own = {each.name for each in get_task("packshot").inputs}
    assert own - names == {"preset"}
    picture, matte = product()
    asked = {"canvas": "200x180", "subject": matte, "output_type": "picture"}
    given = {"background": "#00f", "shadow": "soft"}
    one = pipe(picture, **asked, **given).images[0]
    other = tiny(PackshotPipeline)(picture, **asked, **given).images[0]
    assert (one.pixels == other.pixels).all() and not one.generated
    output = pipe(picture, "in a kitchen", num_inference_steps=1, generator=0, **asked)
    made = output.images[0]
    assert made.size == (200, 180) and made.generated and "at its own size" in made.note
    x, y = pipe.prepare(picture, prompt="in a kitchen", canvas="200x180", subject=matte).at
    assert (made.pixels[y : y + 120, x : x + 160][matte == 1] == picture.pixels[matte == 1]).all()
    words = pipe(picture, background="in a kitchen", num_inference_steps=1, generator=0, **asked).images[0]
    assert (words.pixels == made.pixels).all()
    dark = pipe(picture, "in a kitchen", shadow="hard", num_inference_steps=1, generator=0, **asked).images[0]
    assert (dark.pixels <= made.pixels).all() and (dark.pixels < made.pixels.astype(int) - 10).any()
    with pytest.raises(ValueError, match="background and prompt: each says"):
        pipe(picture, "in a kitchen", background="wood", **asked)


@pytest.mark.slow
def test_the_server_reads_every_option(pipe):
    from tests.test_serve import served

    picture, matte = product()
    files = {
        "image": image.encode(picture, "PNG"),
        "subject": image.encode(Picture(np.rint(matte * 255).astype(np.uint8)[..., None]), "PNG"),
    }
    with served(pipe) as client:
        data = {"canvas": "200x180", "background": "#0f0", "shadow": "soft", "snap": "false", "padding": "5%,1,2,3"}
        answer = client.post("/v1/packshot", files=files, data=data)
        assert answer.status_code == 200 and "at its own size" in answer.headers["x-photofound-note"]
        made = Image.open(io.BytesIO(answer.content))
        assert made.size == (200, 180) and made.getpixel((0, 0)) == (0, 255, 0)
        jpeg = client.post("/v1/packshot", files=files, data={"preset": "instagram-1x1"})
        assert jpeg.headers["content-type"] == "image/jpeg"
        for bad, message in (
            ({"background": "/etc/secret.png"}, "is a file's name"),
            ({"shadow": "long"}, "shadow"),
            ({"preset": "../x.yaml"}, "preset"),
        ):
            answer = client.post("/v1/packshot", files=files, data=bad)
            assert answer.status_code == 422 and message in json.dumps(answer.json())
