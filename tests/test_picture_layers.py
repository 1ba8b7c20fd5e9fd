"""Layers of a picture: flat they are the picture bit for bit, in memory, as OpenRaster and as a Photoshop file."""

from __future__ import annotations

import io
import struct
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import load_pipeline, noise
from PIL import Image, ImageCms

from photofound import (
    CutoutPipeline,
    ErasePipeline,
    ExpandPipeline,
    InpaintPipeline,
    OutpaintPipeline,
    Picture,
    UpscalePipeline,
    cli,
    image,
)
from photofound.picture import layered, layers, psd
from photofound.picture.layers import Layer

HEIGHT, WIDTH = 40, 56
SOFT = np.zeros((HEIGHT, WIDTH), np.float32)
SOFT[8:30, 12:40], SOFT[8:12, 12:40], SOFT[20:24, 16:30] = 1, 0.4, 0.7


def stack(dtype=np.uint8, **more):
    """A ground, something half transparent, a subject, and a hidden mask."""
    depth = np.iinfo(dtype).max
    found = []
    for i, (name, alpha) in enumerate((("ground", np.ones_like(SOFT)), ("shadow", 0.3 * SOFT), ("subject", SOFT))):
        pixels = noise(HEIGHT, WIDTH, 4, dtype, seed=i)
        pixels[..., 3] = np.rint(alpha * depth)
        found.append(Layer(name, Picture(pixels, **more)))
    return [*found, layers.mask_layer(found[0].picture, SOFT)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_flat_is_one_over_the_other(dtype):
    found, depth = stack(dtype), np.iinfo(dtype).max
    flat = layers.flatten(found)
    assert flat.pixels.shape == (HEIGHT, WIDTH, 3) and flat.pixels.dtype == dtype
    wanted = found[0].picture.pixels[..., :3].astype(np.float64)
    for each in found[1:3]:
        share = each.picture.pixels[..., 3:] / depth
        wanted = np.rint(share * each.picture.pixels[..., :3] + (1 - share) * wanted)
    assert np.abs(flat.pixels - wanted).max() <= 1
    assert (flat.pixels[SOFT == 1] == found[2].picture.pixels[SOFT == 1][:, :3]).all()


def test_flat_is_near_to_what_pillow_makes():
    found = stack()
    composed = Image.fromarray(found[0].picture.pixels)
    for each in found[1:3]:
        composed = Image.alpha_composite(composed, Image.fromarray(each.picture.pixels))
    assert np.abs(np.asarray(composed)[..., :3].astype(int) - layers.flatten(found).pixels).max() <= 2


def test_without_a_ground_it_stays_transparent():
    flat = layers.flatten(stack()[1:])
    assert flat.pixels.shape[2] == 4 and (flat.pixels[..., 3] > 0).sum() == (SOFT > 0).sum()
    covered = SOFT == 1
    assert (flat.pixels[covered] == stack()[2].picture.pixels[covered]).all()


def read_ora(data):
    """The layers of an OpenRaster file from the bottom to the top, and its flat picture."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    first = archive.infolist()[0]
    assert first.filename == "mimetype" and archive.read(first) == b"image/openraster" and first.compress_type == 0
    root = ElementTree.fromstring(archive.read("stack.xml"))
    size = int(root.get("w")), int(root.get("h"))
    found = []
    for each in reversed(root.findall("stack/layer")):
        part = image.decode(archive.read(each.get("src"))).pixels
        whole = np.zeros((size[1], size[0], 4), part.dtype)
        left, top = int(each.get("x")), int(each.get("y"))
        whole[top : top + part.shape[0], left : left + part.shape[1]] = part
        found.append(Layer(each.get("name"), Picture(whole), each.get("visibility") == "visible"))
    thumbnail = image.decode(archive.read("Thumbnails/thumbnail.png"))
    assert max(thumbnail.size) <= 256
    return found, image.decode(archive.read("mergedimage.png")), root


def read_psd(data):
    """The same of a Photoshop file, by psd-tools."""
    psd_tools = pytest.importorskip("psd_tools", reason="needs psd-tools")
    document = psd_tools.PSDImage.open(io.BytesIO(data))
    found = []
    for each in document:
        part = np.rint(each.numpy() * (2**document.depth - 1)).astype(np.uint8 if document.depth == 8 else np.uint16)
        whole = np.zeros((document.height, document.width, 4), part.dtype)
        whole[each.top : each.bottom, each.left : each.right] = part
        found.append(Layer(each.name, Picture(whole), each.visible))
    flat = np.rint(document.numpy() * (2**document.depth - 1)).astype(found[0].picture.pixels.dtype)
    return found, Picture(flat), document


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("suffix", "read"), [(".ora", read_ora), (".psd", read_psd)])
def test_files_hold_the_layers_and_the_flat_picture(tmp_path, suffix, read, dtype):
    found = stack(dtype)
    path = layered.save(found, layers.flatten(found), tmp_path / f"out{suffix}")
    again, flat, _ = read(path.read_bytes())
    assert [(each.name, each.visible) for each in again] == [(each.name, each.visible) for each in found]
    for a, b in zip(again, found, strict=True):
        seen = b.picture.pixels[..., 3] > 0
        assert (a.picture.pixels[seen] == b.picture.pixels[seen]).all() and not a.picture.pixels[~seen][:, 3].any()
    assert (flat.pixels == layers.flatten(found).pixels).all()
    assert (layers.flatten(again).pixels == flat.pixels).all()
    assert layered.save(found, layers.flatten(found), path, overwrite=True).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("suffix", "read"), [(".ora", read_ora), (".psd", read_psd)])
def test_files_keep_profile_resolution_and_transparency(tmp_path, suffix, read):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = stack(icc_profile=profile, dpi=(300.0, 300.0))[1:]
    path = layered.save(found, layers.flatten(found), tmp_path / f"out{suffix}")
    _, flat, document = read(path.read_bytes())
    assert (flat.pixels[..., 3] == layers.flatten(found).pixels[..., 3]).all()
    if suffix == ".ora":
        assert flat.icc_profile == profile and document.get("xres") == "300"
    else:
        assert document.image_resources.get_data(1039) == profile


def test_a_layer_that_shows_nothing(tmp_path):
    empty = Layer("nothing", Picture(np.zeros((HEIGHT, WIDTH, 4), np.uint8)))
    found = [stack()[0], empty]
    again, flat, _ = read_ora(layered.save(found, layers.flatten(found), tmp_path / "out.ora").read_bytes())
    assert not again[1].picture.pixels.any() and (flat.pixels == found[0].picture.pixels[..., :3]).all()


def test_a_photoshop_file_is_as_adobe_describes_it():
    """The lengths of its sections lead from one to the next, to the end."""
    data = psd.encode(stack(), layers.flatten(stack()))
    assert struct.unpack(">4sH6xHIIHH", data[:26]) == (b"8BPS", 1, 3, HEIGHT, WIDTH, 8, 3)
    place = 26
    for _ in range(3):
        place += 4 + struct.unpack(">I", data[place : place + 4])[0]
    assert len(data) - place == 2 + 3 * HEIGHT * WIDTH


def test_what_a_photoshop_file_cannot_hold_is_refused():
    wide = Picture(np.zeros((1, 30_001, 4), np.uint8))
    with pytest.raises(ValueError, match="layers: PSD holds 30000 pixels a side, the picture is 30001x1; use .ora"):
        psd.encode([Layer("wide", wide)], wide)


def test_other_files_are_refused(tmp_path):
    for name in ("out.png", "out"):
        with pytest.raises(ValueError, match=r"is neither .ora \(OpenRaster: GIMP, Krita\) nor .psd"):
            layered.check_path(tmp_path / name)
    (tmp_path / "out.ora").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        layered.save(stack(), layers.flatten(stack()), tmp_path / "out.ora")


# ---------------------------------------------------------------------------------------------------------------- edits


def asked(cls):
    """A photograph, and what an edit of it is asked for; with soft edges."""
    photo, inputs = noise(HEIGHT, WIDTH), {}
    if cls in (InpaintPipeline, ErasePipeline):
        inputs["mask_image"] = 1 - SOFT
    if cls is OutpaintPipeline:
        inputs |= {"subject": SOFT, "prompt": "on snow"}
    if cls is ExpandPipeline:
        inputs["left"] = 10
    if cls is CutoutPipeline:
        photo = np.full((HEIGHT, WIDTH, 3), 230, np.uint8)
        photo[12:30, 18:40] = (60, 120, 40)
    return photo, inputs


NAMES = {
    OutpaintPipeline: ["background", "subject", "mask"],
    InpaintPipeline: ["painted", "photograph", "mask"],
    ErasePipeline: ["painted", "photograph", "mask"],
    ExpandPipeline: ["painted", "photograph", "mask"],
    CutoutPipeline: ["subject", "mask"],
}


@pytest.mark.slow
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("cls", NAMES)
def test_the_layers_of_an_edit_are_its_result_bit_for_bit(tiny_folder, cls, depth):
    pipe = load_pipeline(cls, tiny_folder)
    photo, inputs = asked(cls)
    photo = photo if depth is np.uint8 else photo.astype(np.uint16) * 257 - (photo > 9) * np.uint16(5)
    plain, layered = (pipe(photo, **inputs, generator=3, output_type="picture", layers=how) for how in (None, True))
    assert plain.layers is None and [each.name for each in layered.layers[0]] == NAMES[cls]
    assert (layered.images[0].pixels == plain.images[0].pixels).all() and layered.images[0].note == plain.images[0].note
    assert (layers.flatten(layered.layers[0]).pixels == plain.images[0].pixels).all()


@pytest.mark.slow
def test_the_background_of_an_outpaint_goes_on_behind_the_subject(tiny_folder):
    pipe = load_pipeline(OutpaintPipeline, tiny_folder)
    photo = np.full((64, 64, 3), 250, np.uint8)
    photo[20:44, 20:44] = (255, 0, 0)
    subject = np.zeros((64, 64), np.uint8)
    subject[20:44, 20:44] = 255
    found = pipe(photo, subject=subject, generator=0, layers=True).layers[0]
    assert (found[0].picture.pixels[..., 3] == 255).all()
    assert (np.abs(found[0].picture.pixels[30:34, 30:34, :3].astype(int) - (255, 0, 0)).max(-1) > 30).all()


@pytest.mark.slow
def test_grey_photographs_have_layers_too(tiny_folder):
    pipe = load_pipeline(InpaintPipeline, tiny_folder)
    settings = {"mask_image": 1 - SOFT, "generator": 0, "output_type": "picture"}
    plain, layered = (pipe(noise(HEIGHT, WIDTH, 1), **settings, layers=how).images[0] for how in (None, True))
    assert (layered.pixels == plain.pixels).all()


@pytest.mark.slow
def test_tasks_without_layers_say_so(tiny_folder):
    with pytest.raises(ValueError, match="layers: upscale has none; leave them out"):
        load_pipeline(UpscalePipeline, tiny_folder)(noise(16, 16), layers=True)
    see_through = noise(HEIGHT, WIDTH, 4)
    with pytest.raises(ValueError, match="layers: the photograph is transparent in part"):
        load_pipeline(InpaintPipeline, tiny_folder)(see_through, mask_image=1 - SOFT, layers=True)


@pytest.mark.slow
def test_python_writes_them_numbered(tiny_folder, tmp_path):
    pipe = load_pipeline(OutpaintPipeline, tiny_folder)
    photo, inputs = asked(OutpaintPipeline)
    made = pipe(
        photo, **inputs, generator=0, num_images_per_prompt=2, layers=tmp_path / "out.ora", output_type="picture"
    )
    for i, picture in enumerate(made.images):
        assert (read_ora((tmp_path / f"out-{i + 1}.ora").read_bytes())[1].pixels == picture.pixels).all()
    with pytest.raises(ValueError, match="is neither .ora"):
        pipe(photo, **inputs, layers=tmp_path / "out.xcf")


def run(*argv):
    return cli.main([str(each) for each in argv])


@pytest.mark.slow
def test_the_command_line_writes_them_beside_the_flat_picture(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photo, _ = asked(CutoutPipeline)
    (tmp_path / "cups").mkdir()
    for path in ("cup.png", "cups/a.png", "cups/b.png"):
        Image.fromarray(photo).save(tmp_path / path)
    model = ("--model", tiny_folder, "--quiet")
    assert run("outpaint", "cup.png", "--layers", "out.ora", "-o", "out.png", *model) == 0
    found, flat, _ = read_ora((tmp_path / "out.ora").read_bytes())
    assert (flat.pixels == np.asarray(Image.open("out.png"))).all()
    assert (layers.flatten(found).pixels == flat.pixels).all()
    assert run("outpaint", "cup.png", "--layers", "out.ora", "-o", "other.png", *model) == 2
    assert "out.ora: exists already" in capsys.readouterr().err
    assert run("cutout", "cups", "--layers", "psd", "-o", "cut", *model) == 0
    assert sorted(path.name for path in (tmp_path / "cut").glob("*.psd")) == ["a-cutout.psd", "b-cutout.psd"]
    for wrong, line in (("out.xcf", "neither .ora"), ("cut.ora", "is one file, and there are many photographs")):
        assert run("cutout", "cups", "--layers", wrong, "-o", "again", *model) == 2
        assert line in capsys.readouterr().err
