"""Which results people chose: pairs as training reads them, from the demo and the server if they are told to."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import encoded, noise
from PIL import Image

from photofound import InpaintPipeline, UpscalePipeline, choices, cli, image, provenance
from photofound.demos.studio import Form, Models, Studio
from photofound.image import Picture


@pytest.fixture
def variants(tiny, photo, mask):
    """Results of one edit by several seeds."""
    pipe = tiny(InpaintPipeline)

    def made(count=3, prompt="a vase", photograph=photo):
        settings = {"generator": 0, "num_images_per_prompt": count, "output_type": "picture"}
        return pipe(photograph, mask_image=mask, prompt=prompt, **settings).images

    return made


def lines(folder):
    return [json.loads(line) for line in (folder / "inpaint" / "metadata.jsonl").read_text().splitlines()]


def test_pairs_are_written_as_training_reads_them(variants, mask, tmp_path):
    from photofound.training import preference

    first, second, third = variants()
    assert choices.record(tmp_path, [second], [first, third]) == 2
    pairs = lines(tmp_path)
    assert {pair["text"] for pair in pairs} == {"a vase"} and len({pair["edit"] for pair in pairs}) == 1
    assert choices.tasks_in(tmp_path) == {"inpaint": tmp_path / "inpaint"}
    preferred, rejected = preference.read(str(tmp_path / "inpaint"), 70)
    assert len(preferred) == 2 and np.array_equal(preferred[0].pixels.permute(1, 2, 0), second.pixels)
    assert np.array_equal(rejected[1].pixels.permute(1, 2, 0), third.pixels)
    assert np.array_equal(preferred[0].matte[0], mask)


def test_files_say_what_results_in_memory_say(variants, tmp_path):
    first, second = variants(2)
    paths = [image.save(provenance.mark(each), tmp_path / f"{i}.png") for i, each in enumerate((first, second))]
    assert choices.record(tmp_path / "c", [paths[0]], [paths[1]]) == 1
    assert choices.record(tmp_path / "c", [first], [second]) == 1
    assert len(lines(tmp_path / "c")) == 1  # said twice


def test_who_thinks_again_is_taken_by_the_last_word(variants, tmp_path):
    first, second, third = variants()
    choices.record(tmp_path, [first], [second, third])
    choices.record(tmp_path, [second], [first])
    assert len(lines(tmp_path)) == 2 and {pair["file_name"] for pair in lines(tmp_path)} == {
        lines(tmp_path)[0]["file_name"],
        lines(tmp_path)[1]["file_name"],
    }
    choices.record(tmp_path, [first, second], [third])  # both are good: neither is better
    pairs = lines(tmp_path)
    assert len(pairs) == 2 and len({pair["rejected_file_name"] for pair in pairs}) == 1


def test_large_results_are_kept_small(tmp_path, monkeypatch, variants):
    monkeypatch.setattr(choices, "_LONGEST_SIDE", 45)
    first, second = variants(2)
    choices.record(tmp_path, [first], [second])
    (pair,) = lines(tmp_path)
    sizes = {
        Image.open(tmp_path / "inpaint" / pair[key]).size
        for key in ("file_name", "rejected_file_name", "mask_file_name")
    }
    assert sizes == {(45, 35)}


def test_what_is_no_choice_is_refused(tiny, variants, photo, mask, tmp_path):
    first, second = variants(2)
    other = variants(1, prompt="a lamp")[0]
    large = tiny(UpscalePipeline)(photo, generator=0, output_type="picture").images[0]
    for sides, line in (
        (([first], []), "at least one chosen and one rejected"),
        (([Picture(photo)], [second]), "no recipe"),
        (([first], [other]), "not of one edit"),
        (([large], [large]), "upscale has no variants"),
    ):
        with pytest.raises(ValueError, match=line):
            choices.record(tmp_path, *sides)
    assert not list(tmp_path.iterdir())
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch, pytest.raises(ValueError, match="which is enough"):
        patch.setattr(choices, "_MOST", 0)
        choices.record(tmp_path, [first], [second])


def test_a_line_that_was_cut_off_costs_itself_alone(variants, tmp_path):
    first, second, third = variants()
    choices.record(tmp_path, [first], [second])
    table = tmp_path / "inpaint" / "metadata.jsonl"
    table.write_text(table.read_text() + '{"file_name": "a.p')
    choices.record(tmp_path, [first], [third])
    assert len(lines(tmp_path)) == 2


# ------------------------------------------------------------------------------------------------- the demo, the server


def studied(tmp_path, tiny_folder, mask, folder):
    work = Studio(tmp_path / "desks", Models(str(tiny_folder)), choices=folder)
    desk = work.open_picture(Picture(noise(70, 90)), "cup")
    form = Form("inpaint", {"mask_image": mask.astype(np.float32) / 255, "prompt": "a vase"}, variants=3, steps=1)
    return work, work.run(desk, form)[0], form


def test_the_demo_remembers_what_is_taken(tiny_folder, mask, tmp_path):
    import dataclasses

    work, desk, form = studied(tmp_path, tiny_folder, mask, tmp_path / "c")
    opened, *made = [shot.id for shot in desk.shots]
    desk = work.take(desk.at_shot(made[1]))
    assert desk.taken == {made[1]} and len(lines(tmp_path / "c")) == 2
    desk = work.take(desk.at_shot(made[2]))
    assert len(lines(tmp_path / "c")) == 2  # two are good, one is not
    work.take(desk.at_shot(made[0]))
    assert len(lines(tmp_path / "c")) == 2  # all of them: that says nothing
    assert work.take(desk.at_shot(opened)).taken == {*made[1:], opened} and len(lines(tmp_path / "c")) == 2
    tried = work.run(desk.at_shot(opened), dataclasses.replace(form, seed=9, variants=1))[0]  # another try
    work.take(tried)
    assert len(lines(tmp_path / "c")) == 3


def test_the_demo_remembers_nothing_unless_it_is_told_to(tiny_folder, mask, tmp_path):
    work, desk, _ = studied(tmp_path, tiny_folder, mask, None)
    work.take(desk)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["desks"]


@pytest.mark.slow
def test_the_page_asks(tiny_folder, tmp_path, mask):
    pytest.importorskip("gradio")
    from photofound.demos import page

    def asked(folder, hub):
        made = page.Page(Studio(tmp_path / "desks", Models(str(tiny_folder), hub=hub), choices=folder), tmp_path)
        return made.bench.props["learns"], made.bench.props["learn"]

    assert asked(None, True) == (False, False)
    assert asked(tmp_path / "c", True) == (True, True)
    assert asked(tmp_path / "c", False) == (True, False)  # visitors from elsewhere say so themselves


@pytest.mark.slow
def test_a_server_keeps_choices_only_if_it_is_told_to(tiny, photo, mask, tmp_path):
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    from photofound.serve.app import create_app
    from photofound.serve.config import ServeConfig

    pipe = tiny(InpaintPipeline)
    files = {"image": ("a.png", encoded(photo)), "mask": ("m.png", encoded(mask))}
    for folder in (str(tmp_path / "c"), ""):
        with TestClient(create_app(pipe, ServeConfig(choices=folder))) as client:
            made = [client.post("/v1/inpaint", files=files, data={"seed": seed}).content for seed in range(3)]
            sent = [("chosen", ("a", made[0])), ("rejected", ("b", made[1])), ("rejected", ("c", made[2]))]
            answer = client.post("/v1/choices", files=sent)
            if not folder:
                assert answer.status_code == 404 and "/v1/choices" not in client.get("/openapi.json").json()["paths"]
                continue
            assert answer.status_code == 200 and answer.json() == {"pairs": 2}
            for wrong, words in (
                ([("chosen", ("a", made[0])), ("rejected", ("b", encoded(photo)))], "no recipe"),
                ([("chosen", ("a", made[0])), *[("rejected", ("b", made[1]))] * 8], "8 are the most"),
                ([("chosen", ("a", made[0]))], "rejected"),
            ):
                answer = client.post("/v1/choices", files=wrong)
                assert answer.status_code == 422 and words in answer.text
    assert len(lines(tmp_path / "c")) == 2 and len(list(tmp_path.iterdir())) == 1


def test_the_command_line_offers_it():
    for command in ("demo", "serve"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
