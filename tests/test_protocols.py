"""The same photographs give the same problems, in every layout that people keep photographs in."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import noise
from PIL import Image

from photofound.eval import protocols
from photofound.eval.photographs import find_photographs
from photofound.eval.protocols import PROTOCOLS, SWAPS, problems

HOLES = ("strokes-20", "box-centre", "border-12.5")


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def blob(height=41, width=54):
    mask = np.zeros((height, width), np.uint8)
    mask[10:30, 12:32] = 255
    return mask


@pytest.fixture
def folder(tmp_path):
    """Three photographs, the second and third with a mask, the second with a caption."""
    for i in range(3):
        save(tmp_path / f"{i}.png", noise(41, 54, seed=i))
    for i in (1, 2):
        save(tmp_path / f"{i}.mask.png", blob())
    (tmp_path / "1.txt").write_text("a noisy square\n")
    return tmp_path


def made(folder, *names, **options):
    return list(problems(find_photographs(folder), names, **options))


def test_holes_hide_their_share_and_the_truth():
    for i, seed in enumerate((0, 7)):
        hole = protocols.strokes(60, 80, seed)
        assert 0.2 <= hole.mean() < 0.32, i
        assert (hole == protocols.strokes(60, 80, seed)).all()
    assert (protocols.strokes(60, 80, 0) != protocols.strokes(60, 80, 1)).any()
    assert protocols.centre_box(90, 60).sum() == 30 * 20 and protocols.centre_box(90, 60)[30:60, 20:40].all()
    inner = ~protocols.border(80, 160)
    assert inner.sum() == 60 * 120 and inner[10:70, 20:140].all()


def test_a_hole_is_grey_and_all_else_the_truth(folder):
    for problem in made(folder, *HOLES):
        assert problem.given.shape == (40, 52, 3)  # what 4 divides
        assert (problem.given[problem.hole] == 127).all()
        assert (problem.given[~problem.hole] == problem.truth[~problem.hole]).all()
        assert (problem.truth == noise(41, 54, seed=int(problem.name[0]))[:40, :52]).all()


def test_two_people_get_the_same_problems_and_another_seed_gives_others(folder):
    names = ("strokes-20", "object-erase", "x2-real")
    first, again, other = made(folder, *names), made(folder, *names), made(folder, *names, seed=5)
    assert [p.name for p in first] == [p.name for p in again] and len(first) == 9
    for a, b, c in zip(first, again, other, strict=True):
        assert (a.given == b.given).all() and (a.given != c.given).any()


def test_what_is_to_be_erased_was_pasted_onto_the_truth(folder):
    for problem in made(folder, "object-erase"):
        changed = (problem.given != problem.truth).any(-1)
        assert changed.any() and not (changed & ~problem.hole).any() and 0.05 < problem.hole.mean() < 0.5


def test_products_keep_what_their_mask_marks(folder):
    first, second = made(folder, "outpaint-product")
    assert (first.hole == (blob() == 0)).all() and (first.given == noise(41, 54, seed=1)).all()
    assert first.truth is None and first.prompt and second.name == "2.png"


def test_enlargements_start_from_small_pictures(folder):
    sizes = {(p.protocol, p.given.shape, p.truth.shape) for p in made(folder, "x2", "x4", "x4-real")}
    whole = {"x2": (40, 54, 3), "x4": (40, 52, 3), "x4-real": (40, 52, 3)}  # what the scale divides
    small = {"x2": (20, 27, 3), "x4": (10, 13, 3), "x4-real": (10, 13, 3)}
    assert sizes == {(name, small[name], whole[name]) for name in whole}
    clean, real = made(folder, "x4", "x4-real", limit=1)
    assert np.abs(clean.given.astype(int) - real.given).mean() > 1


def test_real_degradations_vary_with_the_seed_and_keep_the_light():
    rgb = np.full((64, 64, 3), 90, np.uint8)
    made = [protocols.degrade(rgb, 4, seed).astype(float) for seed in range(12)]
    noise = [picture.std() for picture in made]
    assert max(noise) > 2 * min(noise) and all(abs(picture.mean() - 90) < 3 for picture in made)


def test_colour_words_are_swapped_ten_times_round_the_products(folder):
    asked = made(folder, "colour-words")
    assert len(asked) == len(SWAPS) == 10 and len({p.name for p in asked}) == 10
    for problem, (before, after) in zip(asked, SWAPS, strict=True):
        assert problem.prompt == f"on a {after} background" and problem.contrast == f"on a {before} background"
        assert len(problem.colour) == 3 and 0 <= min(problem.colour) <= max(problem.colour) <= 1
    assert {before for before, _ in SWAPS} == {after for _, after in SWAPS}


def test_own_masks_come_with_their_captions(folder):
    first, second = made(folder, "own-masks")
    assert first.prompt == "a noisy square" and second.prompt == ""
    assert (first.hole == (blob() > 0)).all() and first.task == "inpaint"


def test_a_limit_spreads_evenly_and_large_photographs_are_scaled_down(tmp_path):
    for i in range(7):
        save(tmp_path / f"{i}.png", noise(80, 120, seed=i))
    chosen = made(tmp_path, "box-centre", limit=3)
    assert [p.name for p in chosen] == ["0.png", "2.png", "4.png"]
    (small,) = made(tmp_path, "box-centre", limit=1, max_side=60)
    assert small.truth.shape == (40, 60, 3)


def test_a_listing_says_what_is_for_what(tmp_path):
    for name in ("photo", "cup", "street", "no-mask"):
        save(tmp_path / "images" / f"{name}.png", noise(41, 54))
    save(tmp_path / "cup-mask.png", blob())
    tasks = {"photo": "photo", "cup": "product", "street": "object-removal", "no-mask": "product"}
    listing = [{"file": f"images/{name}.png", "task": task, "source": "here"} for name, task in tasks.items()]
    listing[1]["mask"] = listing[2]["mask"] = "cup-mask.png"
    (tmp_path / "eval.json").write_text(json.dumps(listing))
    entries = find_photographs(tmp_path)
    roles = {entry.name: set(entry.roles) for entry in entries}
    assert roles == {"images/photo.png": {"photo"}, "images/cup.png": {"product"}, "images/street.png": {"removal"}}
    assert {"strokes-20", "object-erase", "outpaint-product", "object-removal"} <= set(protocols.available(entries))
    (removal,) = problems(entries, ["object-removal"])
    assert removal.truth is None and (removal.given == noise(41, 54)).all() and (removal.hole == (blob() > 0)).all()
    assert [e.name for e in find_photographs(tmp_path, match="STREET")] == ["images/street.png"]
    assert len(find_photographs(tmp_path, match="here")) == 3


def test_brushbench_is_read_with_both_of_its_masks(tmp_path):
    save(tmp_path / "images" / "a.png", noise(512, 512))
    inside = [1, 2, 513, 3]  # pixels 0 and 1 of the first row, 0 to 2 of the second
    entry = {"image": "images/a.png", "caption": "a cat", "inpainting_mask": inside, "outpainting_mask": [3, 510]}
    (tmp_path / "mapping_file.json").write_text(json.dumps({"0": entry}))
    assert protocols.available(find_photographs(tmp_path)) == ["brushbench-inside", "brushbench-outside"]
    first, second = made(tmp_path, "brushbench-inside", "brushbench-outside")
    assert first.hole[0, :2].all() and first.hole[1, :3].all() and first.hole.sum() == 5
    assert second.hole[0, 2:].all() and second.hole.sum() == 510
    assert first.prompt == "a cat" and (first.truth == noise(512, 512)).all()


@pytest.mark.parametrize("suffix, of_mask", [("jpg", "png"), ("gif", "bmp")])
def test_rord_knows_the_place_without_the_object(tmp_path, suffix, of_mask):
    for kind, seed in (("img", 0), ("gt", 1)):
        save(tmp_path / kind / "scene" / f"1.{suffix}", noise(41, 54, seed=seed))
    save(tmp_path / "mask" / "scene" / f"1.{of_mask}", blob())
    (problem,) = made(tmp_path, "rord")
    assert problem.task == "erase" and (problem.hole == (blob() > 0)).all() and (problem.truth != problem.given).any()
    (tmp_path / "gt" / "scene" / f"1.{suffix}").unlink()
    with pytest.raises(ValueError, match="is missing, which belongs to .*; copy the whole set"):
        find_photographs(tmp_path)


@pytest.mark.parametrize("originals", ["GTmod12/baby.png", "HR/baby.png", "image_SRF_4/img_001_SRF_4_HR.png"])
def test_of_a_super_resolution_set_only_the_originals_are_taken(tmp_path, originals):
    save(tmp_path / originals, noise(41, 54))
    save(tmp_path / originals.replace("GTmod12", "LRbicx4").replace("HR", "LR"), noise(10, 13))
    (problem,) = made(tmp_path, "x4")
    assert problem.truth.shape == (40, 52, 3)


def set5_pair(folder, scale, number, height, width):
    """As SelfExSR's repository has it: the original, cropped to what the scale divides, beside its reduction."""
    name = folder / f"image_SRF_{scale}" / f"img_{number:03}_SRF_{scale}_"
    rgb = noise(height // scale * scale, width // scale * scale, seed=number)
    save(name.with_name(name.name + "HR.png"), rgb)
    save(name.with_name(name.name + "LR.png"), rgb[::scale, ::scale])


def test_of_pairs_at_several_scales_every_picture_is_taken_once(tmp_path):
    for scale in (2, 3, 4):
        for number in range(1, 6):
            set5_pair(tmp_path / "Set5", scale, number, 62, 74)
    asked = made(tmp_path / "Set5", "x2", "x4")
    assert len(asked) == 10 and all("SRF_2_HR" in problem.name for problem in asked)
    assert {p.truth.shape for p in asked if p.protocol == "x2"} == {(62, 74, 3)}  # as the literature has it
    assert {p.truth.shape for p in asked if p.protocol == "x4"} == {(60, 72, 3)}
    set5_pair(tmp_path / "Set14", 4, 1, 62, 74)
    assert len(made(tmp_path, "x4")) == 6  # two sets in one folder
    set5_pair(tmp_path / "only", 3, 1, 62, 74)
    assert made(tmp_path / "only", "x2")[0].truth.shape == (60, 72, 3)


@pytest.mark.parametrize("name", ["baby.png", "Set5_HR/baby.png", "original/baby.png"])
def test_further_layouts_of_set5(tmp_path, name):
    save(tmp_path / "Set5" / name, noise(41, 54))
    if "/" in name:
        save(tmp_path / "Set5" / "Set5_LR_x4" / "baby.png", noise(10, 13))
    (problem,) = made(tmp_path / "Set5", "x2")
    assert problem.truth.shape == (40, 54, 3)


def imresize(rgb, scale, shape):
    """MATLAB's imresize of uint8 (bicubic, antialiased, edges mirrored), written from its documentation: a second
    opinion on Pillow's."""

    def weights(size, wanted):
        k = min(scale, 1)
        centre = (np.arange(wanted) + 0.5) / scale - 0.5
        near = np.floor(centre - 2 / k)[:, None] + np.arange(int(4 / k) + 2)
        x = np.abs(k * (centre[:, None] - near))
        cubic = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x <= 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
        mirrored = np.r_[np.arange(size), np.arange(size)[::-1]][near.astype(int) % (2 * size)]
        matrix = np.zeros((wanted, size))
        np.add.at(matrix, (np.arange(wanted)[:, None], mirrored), cubic / cubic.sum(1, keepdims=True))
        return matrix

    rows, columns = weights(rgb.shape[0], shape[0]), weights(rgb.shape[1], shape[1])
    made = np.stack([rows @ channel @ columns.T for channel in np.moveaxis(rgb.astype(float), -1, 0)], -1)
    return np.rint(made).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("scale", [2, 4])
def test_bicubic_on_luma_is_the_literatures(tmp_path, scale):
    """What papers call bicubic is MATLAB's, down and up: Pillow's gives the same PSNR of luma to 0.05 dB."""
    from skimage import data, metrics

    from photofound.eval.methods import CLASSICAL
    from photofound.eval.run import MetricNetworks, measure

    truth = data.cat()[:256, :256]
    save(tmp_path / "cat.png", truth)
    (problem,) = made(tmp_path, f"x{scale}")
    found = measure(problem, CLASSICAL["bicubic"].edit(problem, 0), MetricNetworks())["y_psnr"]
    small = imresize(truth, 1 / scale, (256 // scale, 256 // scale))
    pair = [(16 + p / 255 @ np.array([65.481, 128.553, 24.966])) for p in (truth, imresize(small, scale, (256, 256)))]
    inner = [luma[scale:-scale, scale:-scale] for luma in pair]
    assert found == pytest.approx(metrics.peak_signal_noise_ratio(*inner, data_range=255), abs=0.05)


def test_a_photograph_that_cannot_be_judged_by_is_left_out_with_a_warning(folder):
    (folder / "bad.png").write_bytes(b"no picture")
    save(folder / "tiny.png", noise(20, 60))
    save(folder / "1.mask.png", blob() * 0)
    with pytest.warns(UserWarning, match="left out: ") as warned:
        photos = [p.name for p in made(folder, "box-centre")]
    assert photos == ["0.png", "1.png", "2.png"]
    said = " ".join(str(w.message) for w in warned)
    assert "bad.png" in said and "tiny.png: 60x20 is too small to judge by, a side needs 32 pixels" in said
    with pytest.warns(UserWarning, match="left out: 1.png: its mask marks nothing of it"):
        assert [p.name for p in made(folder, "outpaint-product")] == ["2.png"]


def test_what_cannot_be_asked_is_one_line(tmp_path, folder):
    save(tmp_path / "plain" / "a.png", noise(41, 54))
    plain = find_photographs(tmp_path / "plain")
    with pytest.raises(ValueError, match="protocol 'strokes' is unknown; known: strokes-20"):
        list(problems(plain, ["strokes"]))
    with pytest.raises(ValueError, match="'object-erase' needs photographs with the mask of an object"):
        list(problems(plain, ["object-erase"]))
    with pytest.raises(ValueError, match=r"'brushbench-inside' needs the mapping_file\.json"):
        list(problems(plain, ["brushbench-inside"]))
    with pytest.raises(ValueError, match="no photographs that 'dog' describes"):
        find_photographs(folder, match="dog")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "eval.json").write_text("{}")
    with pytest.raises(ValueError, match="must hold a JSON array"):
        find_photographs(tmp_path / "bad")
    (tmp_path / "bad" / "eval.json").write_text('[{"task": "photo"}]')
    with pytest.raises(ValueError, match="must list objects with file and task"):
        find_photographs(tmp_path / "bad")


def test_the_protocols_that_people_know_have_their_names():
    named = {"strokes-20", "box-centre", "border-12.5", "object-erase", "outpaint-product", "x2", "x4"}
    assert named | {"x2-real", "x4-real", "colour-words", "brushbench-inside", "rord"} <= set(PROTOCOLS)
