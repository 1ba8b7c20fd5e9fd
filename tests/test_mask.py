"""mask.py: what is marked in a mask, and what is refused as one."""

import io
import warnings

import cv2
import numpy as np
import pytest
import torch
from native import refused, write
from PIL import Image

from photofound.image import Picture, decode, encode, load, load_mask, require_hole

pytestmark = pytest.mark.usefixtures("no_surprises")


def test_masks_from_anything(tmp_path):
    drawn = np.zeros((6, 8), np.uint8)
    drawn[2:4, 3:6] = 255
    expected = (drawn > 0).astype(np.float32)
    rgba = np.dstack([np.full((6, 8, 3), 77, np.uint8), drawn])
    sources = [drawn, drawn > 0, expected, drawn.astype(np.uint16) * 257, np.dstack([drawn] * 3), rgba]
    sources += [np.dstack([drawn, np.full_like(drawn, 255)]), Image.fromarray(drawn).convert("1")]
    sources += [write(tmp_path / "m.png", drawn[..., None]), np.dstack([drawn] * 3 + [np.full_like(drawn, 255)])]
    for source in sources:
        mask = load_mask(source, (8, 6))
        assert mask.dtype == np.float32 and mask.shape == (6, 8)
        np.testing.assert_array_equal(mask, expected)
    soft = load_mask(np.uint8([[0, 40, 128, 215, 255, 255]]), (6, 1))
    np.testing.assert_allclose(soft, np.float32([[0, 40, 128, 215, 255, 255]]) / 255)


DRAWN = np.zeros((48, 64), np.uint8)


DRAWN[10:30, 20:50] = 255


def painted(colour, ground=(0, 0, 0)):
    return np.where(DRAWN[..., None] > 0, np.uint8(colour), np.uint8(ground))


def palette(*colours):
    made = Image.frombytes("P", DRAWN.shape[::-1], (DRAWN // 255).tobytes())
    made.putpalette([channel for colour in colours for channel in colour] + [0] * (768 - 3 * len(colours)))
    return made


def photograph():
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[:48, 180:244])


UNDERSTOOD = {
    "0 and 1": DRAWN // 255,
    "0 and 1, 16 bit": DRAWN.astype(np.uint16) // 255,
    "0 and 1, 64 bit": DRAWN.astype(np.int64) // 255,
    "0 and 255, 64 bit": DRAWN.astype(np.int64),
    "0 and 255 in 16 bits": DRAWN.astype(np.uint16),
    "half floats": (DRAWN / 255).astype(np.float16),
    "a PIL image of 32 bits": Image.fromarray(DRAWN.astype(np.int32)),
    "a PIL image of floats": Image.fromarray((DRAWN / 255).astype(np.float32)),
    "a tensor (H, W)": torch.from_numpy(DRAWN),
    "a boolean tensor": torch.from_numpy(DRAWN > 0),
    "a tensor of whole numbers": torch.from_numpy(DRAWN // 255).long(),
    "a red brush on nothing": painted((255, 0, 0, 255), (0, 0, 0, 0)),
    "a white brush on nothing, white below": painted((255, 255, 255, 255), (255, 255, 255, 0)),
    "blue on black": painted((0, 0, 255)),
    "a dark class colour": painted((64, 0, 128)),
    "a palette": palette((0, 0, 0), (128, 0, 0)),
    "a grey palette": palette((0, 0, 0), (1, 1, 1)),
    "black and white on nothing": np.dstack([painted((255, 255, 255)), DRAWN | np.uint8(255) * (np.arange(64) > 9)]),
    "nearly opaque": np.dstack([painted((255, 255, 255)), np.full_like(DRAWN, 250)]),
    "noise in the black": DRAWN | np.random.default_rng(0).integers(0, 4, DRAWN.shape, np.uint8),
    "an uneven black": np.maximum(DRAWN, np.uint8(2)),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_what_a_mask_means(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask = load_mask(UNDERSTOOD[name], (64, 48))
    np.testing.assert_array_equal(mask, (DRAWN > 0).astype(np.float32))


def test_of_a_photograph_with_a_hole_the_hole_is_marked_and_of_a_cut_out_the_subject():
    photo = photograph()
    for given in (np.dstack([photo, 255 - DRAWN]), np.dstack([photo[..., 0], 255 - DRAWN])):
        np.testing.assert_array_equal(load_mask(given, (64, 48)), DRAWN / 255)
    cut_out = np.dstack([photo * (DRAWN[..., None] > 0), DRAWN])
    np.testing.assert_array_equal(load_mask(cut_out, (64, 48), "subject", kept=True), DRAWN / 255)


def classes(*values):
    """(48, 64) uint8: upright bars of three values."""
    return np.repeat(np.uint8(values), [24, 20, 20])[None].repeat(48, axis=0)


REFUSED = {
    "a photograph": (photograph(), "many colours"),
    "a flat map of classes": (np.dstack([DRAWN, 255 - DRAWN, DRAWN]), "many colours"),
    "red on white": (painted((255, 0, 0), (255, 255, 255)), "many colours"),
    "two colours": (np.where(np.arange(64)[None, :, None] < 32, painted((255, 0, 0)), painted((0, 255, 0))), "many"),
    "two colours on nothing": (
        np.where(
            np.arange(64)[None, :, None] < 32, painted((255, 0, 0, 255), [0] * 4), painted((0, 9, 0, 255), [0] * 4)
        ),
        "several colours",
    ),
    "class numbers": (np.where(DRAWN > 0, 2, np.arange(48)[:, None] < 5).astype(np.uint8), "class numbers"),
    "one class": (DRAWN // 17, "class numbers"),
    "a class with its outline": (np.where(DRAWN > 0, 15, np.pad(DRAWN, 2)[:48, :64]).astype(np.uint8), "class numbers"),
    "black on nothing": (painted((0, 0, 0, 255), (0, 0, 0, 0)), "black on nothing"),
    "nothing": (np.zeros((48, 64, 4), np.uint8), "transparent all over"),
    "classes and 255 for none": (classes(1, 2, 255), "class numbers"),
    "classes from 7 on": (classes(7, 8, 255), "class numbers"),
    "negative": (DRAWN.astype(int) - 1, "from -1 to 254"),
    "floats to 255": (DRAWN.astype(float), "scale it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_mask_is_refused(name):
    source, message = REFUSED[name]
    refused(message, load_mask, source, (64, 48))


@pytest.mark.parametrize("values", [(0, 40, 255), (0, 56, 255), (0, 90, 255), (33, 34, 255)])
def test_even_areas_of_an_odd_grey_warn(values):
    with pytest.warns(UserWarning, match="even areas of grey .* class numbers"):
        load_mask(classes(*values), (64, 48))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [(0, 128, 255), (0, 64, 255), (0, 191, 255), (3, 255, 255), (0, 255, 255)])
def test_even_areas_of_a_usual_share_do_not(values):
    mask = load_mask(classes(*values), (64, 48))
    assert mask.max() == 1 and mask.min() == 0


def test_a_mask_of_greys_warns():
    for grey in (np.tile(np.linspace(0, 1, 64), (48, 1)), DRAWN // 2 + np.uint8(1)):
        with pytest.warns(UserWarning, match="the mask is grey for the most part"):
            load_mask(grey, (64, 48))


def greys():
    """Photographs in grey, as masks that nobody meant."""
    from skimage import data

    camera = data.camera()
    yield from (camera, camera[::3, ::3], camera.astype(np.float32) / 255, camera.astype(np.uint16) * 257)
    yield from (np.asarray(Image.fromarray(each()).convert("L")) for each in (data.coffee, data.astronaut, data.rocket))
    yield decode(encode(Picture(camera[..., None]), "JPEG", 60))
    yield Image.fromarray(camera).resize((2048, 2048), Image.Resampling.BICUBIC)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(9))
def test_a_grey_photograph_is_no_mask(index):
    grey = list(greys())[index]
    size = grey.size if hasattr(grey, "to_pil") or isinstance(grey, Image.Image) else grey.shape[::-1]
    for kept in (False, True):
        refused("the subject is a grey photograph .* pass a mask", load_mask, grey, size, "subject", kept)


def soft():
    """Masks that are grey on purpose, (240, 320) in [0, 255]."""

    y, x = np.mgrid[:240, :320].astype(np.float32)
    rng, far = np.random.default_rng(0), np.hypot(x - 160, y - 120)
    blob = cv2.circle(np.zeros((240, 320), np.float32), (160, 120), 70, 255, -1)
    clouds = cv2.GaussianBlur(rng.random((240, 320)).astype(np.float32), (0, 0), 20)
    return {
        "gradient": x / 319 * 255,
        "steep": np.abs(x - 160) * 1.5,
        "radial": 255 - far,
        "wheel": (np.arctan2(y - 120, x - 160) + np.pi) / (2 * np.pi) * 255,
        "feathered": cv2.GaussianBlur(blob, (0, 0), 30),
        "hair": np.where(np.abs(far - 80) < 12, rng.random((240, 320)) * 255, np.where(far < 80, 255, 0)),
        "clouds": (clouds - clouds.min()) / (clouds.max() - clouds.min()) * 255,
        "depth": 250 - y / 2 - 60 * (blob > 0),
        "grainy": x / 319 * 255 + rng.normal(0, 2, (240, 320)),
    }


@pytest.mark.parametrize("name", soft())
def test_a_soft_mask_is_one(name):
    grey = np.rint(soft()[name].clip(0, 255)).astype(np.uint8)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the mask is grey for the most part")
        for each in (grey, decode(encode(Picture(grey[..., None]), "JPEG", 75)), grey[::4, ::4]):
            size = each.size if isinstance(each, Picture) else each.shape[::-1]
            mask = load_mask(each, size)
            assert ((mask > 0) & (mask < 1)).any()


@pytest.mark.parametrize("quality", [60, 75, 90])
def test_a_jpeg_that_pillow_or_opencv_read_has_no_noise(quality):

    drawn = cv2.circle(np.zeros((200, 200), np.uint8), (90, 110), 50, 255, -1)
    file = encode(Picture(drawn[..., None]), "JPEG", quality)
    near = cv2.dilate(drawn, np.ones((17, 17)))  # within a block of 8 pixels
    for read in (
        np.asarray(Image.open(io.BytesIO(file))),
        cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR),
    ):
        assert (read[drawn == 0] > 16).any() or quality > 75, "this JPEG has no ringing, so the test shows nothing"
        mask = load_mask(read, (200, 200))
        assert mask[near == 0].max() == 0 and mask[cv2.erode(drawn, np.ones((17, 17))) > 0].min() == 1


def test_jpeg_noise_does_not_leak_into_a_mask(tmp_path):
    drawn = np.zeros((32, 32, 1), np.uint8)
    drawn[5:27, 5:27] = 255
    path = write(tmp_path / "m.jpg", drawn, quality=90)
    assert set(np.unique(load(path).pixels)) - {0, 255}, "this JPEG has no ringing, so the test shows nothing"
    np.testing.assert_array_equal(load_mask(path, (32, 32)), drawn[..., 0] / 255)


def test_a_mask_of_another_size(tmp_path):
    drawn = np.zeros((40, 60), bool)
    drawn[:, :30] = True
    with pytest.warns(UserWarning, match="the mask is 60x40 but the image is 120x80; the mask was resized"):
        mask = load_mask(drawn, (120, 80))
    assert mask.shape == (80, 120) and set(np.unique(mask)) == {0, 1} and (mask[:, :60] == 1).all()
    with pytest.warns(UserWarning, match="resized"):
        soft = load_mask(np.linspace(0, 3, 60)[None].repeat(40, 0).clip(0, 1), (30, 20))
    assert soft.shape == (20, 30) and 0 <= soft.min() < soft.max() <= 1 and len(np.unique(soft)) > 10
    refused("the subject is 60x40 but the image is 60x60; make the subject", load_mask, drawn, (60, 60), "subject")
    refused("60x40.*40x60", load_mask, drawn, (40, 60))


def test_require_hole():
    mask = np.zeros((4, 4), np.float32)
    refused("the mask is empty.*repainted", require_hole, mask)
    refused("the mask is full", require_hole, mask + 1)
    refused("the subject is empty.*kept", require_hole, mask, "subject", "kept")
    mask[1, 1] = 1
    require_hole(mask)
    require_hole(1 - mask)
