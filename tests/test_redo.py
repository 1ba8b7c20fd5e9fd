"""The same result again from what its file says; a clear line where something is not the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from photofound import (
    ErasePipeline,
    ExpandPipeline,
    InpaintPipeline,
    OutpaintPipeline,
    PackshotPipeline,
    cli,
    image,
    provenance,
)
from photofound.image import Picture
from photofound.redo import redo


@pytest.fixture
def scene(photo, mask, tmp_path, monkeypatch):
    """A folder with a photograph, a mask, and others of the same size."""
    monkeypatch.chdir(tmp_path)
    for name, pixels in (("cup.png", photo), ("a-other.png", photo[::-1]), ("m.png", mask)):
        Image.fromarray(pixels).save(name)
    return tmp_path


def edit(*words):
    assert cli.main([*map(str, words), "--steps", "1", "--quiet"]) == 0


def made(pipe, *args, **settings):
    return provenance.mark(pipe(*args, output_type="picture", **settings).images[0])


def test_the_same_file_again(tiny_folder, scene, capsys):
    edit("inpaint", "cup.png", "m.png", "--seed", "5", "-o", "out.png", "--model", tiny_folder)
    assert cli.main(["redo", "out.png", "-o", "again.png", "--model", str(tiny_folder)]) == 0
    assert "and the same file" in capsys.readouterr().err
    assert (scene / "out.png").read_bytes() == (scene / "again.png").read_bytes()


def test_without_the_mask_and_from_elsewhere(tiny_folder, scene, tmp_path_factory):
    edit("erase", "cup.png", "m.png", "-o", "out.png", "--model", tiny_folder)
    (scene / "m.png").unlink()  # black and white: the recipe has it
    away = tmp_path_factory.mktemp("away")
    (scene / "cup.png").rename(away / "renamed.png")
    for place in (away, away / "renamed.png"):
        words = ["redo", "out.png", "-o", "again.png", "--overwrite", "--model", str(tiny_folder), "--from", str(place)]
        assert cli.main(words) == 0


def test_each_of_several_variants(tiny_folder, scene):
    edit("inpaint", "cup.png", "m.png", "--images", "3", "-o", "out.png", "--model", tiny_folder)
    files = [scene / f"out-{i}.png" for i in (1, 2, 3)]
    assert len({path.read_bytes() for path in files}) == 3
    assert cli.main(["redo", "out-3.png", "-o", "again.png", "--model", str(tiny_folder)]) == 0
    assert (scene / "again.png").read_bytes() == files[2].read_bytes()


def test_a_chain_of_edits_needs_the_photograph_alone(tiny, tiny_folder, photo, mask, scene):
    pipe = tiny(InpaintPipeline)
    jpeg = image.load(image.save(made(pipe, scene / "cup.png", mask_image=mask, generator=1), "first.jpg"))
    last = made(ExpandPipeline.from_pipe(pipe), jpeg, left=8, generator=2)
    image.save(last, "last.png")
    (scene / "first.jpg").unlink()
    again = redo("last.png", pipe=pipe)
    assert again.same and np.array_equal(again.picture.pixels, last.pixels)


def test_pictures_and_folders_as_inputs_are_found(tiny, photo, scene):
    alpha = np.zeros((70, 90, 1), np.uint8)
    alpha[20:50, 30:60] = 255
    image.save(np.concatenate([photo, alpha], axis=2), "cut.png")
    (scene / "backgrounds").mkdir()
    Image.fromarray(photo[:, ::-1]).save("backgrounds/red-wall.png")
    Image.fromarray(photo[:50]).save("backgrounds/blue-sky.png")
    pipe = tiny(OutpaintPipeline)
    result = made(pipe, "cut.png", prompt="a red wall", gallery="backgrounds", generator=0)
    image.save(result, "out.png")
    again = redo("out.png", places=["backgrounds"], pipe=pipe)
    assert again.same and "red-wall.png" in again.picture.note
    with pytest.raises(ValueError, match="gallery: no picture of 90x70"):
        redo("out.png", pipe=pipe)


def test_a_packshot_on_a_picture_is_the_same_file_whatever_that_is_called(tiny, mask, photo, scene):
    pipe = tiny(PackshotPipeline)
    image.save(made(pipe, "cup.png", subject=mask, backdrop=photo[::-1], shadow="soft", generator=0), "out.jpg")
    again = redo("out.jpg", pipe=pipe)  # the background is found as a-other.png
    image.save(again.picture, "again.jpg")
    assert again.same and (scene / "again.jpg").read_bytes() == (scene / "out.jpg").read_bytes()


def test_what_saves_memory_and_time_is_done_again(tiny_folder, scene, capsys):
    pytest.importorskip("torchao", reason="torchao is not installed")
    edit("inpaint", "cup.png", "m.png", "-o", "out.png", "--model", tiny_folder, "--quantize", "int8", "--cache")
    said = provenance.recipe("out.png")["computed"]
    assert (said["quantize"], said["cache_threshold"]) == ("int8", 0.15)
    capsys.readouterr()
    assert cli.main(["redo", "out.png", "-o", "again.png", "--model", str(tiny_folder)]) == 0
    assert capsys.readouterr().err.startswith("photofound: the same pixels")
    plain = ["redo", "out.png", "-o", "again2.png", "--model", str(tiny_folder), "--cache-threshold", "0.5"]
    cli.main(plain)
    assert "cache_threshold is not the same: it was 0.15, this is 0.5" in capsys.readouterr().err


def test_places_that_were_stripped_stay_out(tiny_folder, photo, scene):
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 24.0)})
    exif[0x8825] = 0
    Image.fromarray(photo).save("there.jpg", exif=exif)
    for more, left in ((["--strip"], False), ([], True)):
        edit("expand", "there.jpg", "--left", "4", "-o", "out.png", "--overwrite", "--model", tiny_folder, *more)
        assert cli.main(["redo", "out.png", "-o", "again.png", "--overwrite", "--model", str(tiny_folder)]) == 0
        again = image.load(scene / "again.png")
        assert (again.exif != again.without_location().exif) == left


def test_a_changed_file_gives_the_former_result(tiny, mask, photo, scene):
    pipe = tiny(InpaintPipeline)
    result = made(pipe, photo, mask_image=mask, generator=0)
    changed = Picture(result.pixels ^ 1, xmp=result.xmp)
    again = redo(changed, places=["cup.png"], pipe=pipe)
    assert again.same and np.array_equal(again.picture.pixels, result.pixels)


def with_recipe(made: Picture, **changes) -> Picture:
    said = {**provenance.recipe(made), **changes}
    return provenance.mark(Picture(made.pixels, recipe=json.dumps(said)))


def test_what_is_not_the_same_is_said(tiny, tiny_folder, photo, mask, scene, capsys):
    pipe = tiny(ErasePipeline)
    result = made(pipe, photo, mask_image=mask, generator=0)
    image.save(result, "out.png")

    def refused(picture, line, **options):
        with pytest.raises(ValueError, match=line):
            redo(picture, places=["cup.png", "ball.png"], **{"pipe": pipe, **options})

    refused(photo, "no recipe")
    refused(with_recipe(result, seed=None), "^seed: the recipe does not say it")
    refused(with_recipe(result, task="polish"), "task: 'polish'.*not known here")
    refused(with_recipe(result, inputs={"colour": "red"}), "^colour: the recipe gives it, and erase does not ask")
    named = {"name": "theirs", "sha256": "0" * 64}
    refused(with_recipe(result, model=named), "^model: not the same.*theirs with 000000000000")
    refused(with_recipe(result, model=named), "name its folder with --model", pipe=None)
    refused(with_recipe(result, image={"sha256": "1" * 64, "size": [90, 70]}), "^image: no picture of 90x70.*--from")
    ball = np.full((70, 90, 3), 200, np.uint8)
    ball[20:50, 30:60] = (200, 30, 30)
    image.save(ball, "ball.png")
    other = made(OutpaintPipeline.from_pipe(pipe), ball, segmenter="grabcut", generator=0)
    assert redo(other, places=["ball.png"], pipe=pipe).same
    strange = {**provenance.recipe(other)["inputs"], "segmenter": "os:abort"}
    refused(with_recipe(other, inputs=strange), "^segmenter: it was made with 'os:abort'.*--segmenter")
    refused(with_recipe(result, inputs={"mask_image": {"sha256": "3", "size": ["x", 1]}}), "damaged")
    with pytest.warns(UserWarning, match=r"version is not the same.*photofound 0\.0\.1"):
        assert redo(with_recipe(result, photofound="0.0.1"), places=["cup.png"], pipe=pipe).same
    other = with_recipe(result, result={"sha256": "2" * 64, "size": [90, 70]})
    assert not redo(other, places=["cup.png"], pipe=pipe).same
    image.save(other, "other.png")
    assert cli.main(["redo", "other.png", "-o", "again.png", "--model", str(tiny_folder)]) == 1
    assert "not those that other.png was made with" in capsys.readouterr().err
    assert cli.main(["redo", "cup.png", "-o", "again2.png"]) == 2
    assert capsys.readouterr().err.startswith("photofound: cup.png: its metadata have no recipe")
    assert cli.main(["redo", "out.png", "-o", "again.png"]) == 2  # it exists
