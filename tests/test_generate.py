"""Pictures from words: in Python, on the command line, through the server and in ComfyUI."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from photofound import EditPipeline, GeneratePipeline
from photofound.cli import main
from photofound.demos import comfyui
from photofound.image import Picture
from photofound.picture import provenance
from photofound.serve.app import create_app
from tests.helpers import load_pipeline, seeded


def test_a_picture_of_the_wanted_size(tiny_folder):
    pipe = load_pipeline(GeneratePipeline, tiny_folder)
    for size, shape in (("72x48", (48, 72)), ((40, 56), (56, 40)), (None, (64, 64))):
        pipe.register_to_config(tile=64)
        made = pipe(prompt="a cup", size=size, num_inference_steps=1, output_type="np").images[0]
        assert made.shape == (*shape, 3)
    a, b, c = (
        np.asarray(pipe("a cup", "64x64", generator=seeded(s), num_inference_steps=1).images[0]) for s in (1, 1, 2)
    )
    assert (a == b).all() and (a != c).any()
    both = pipe(["a cup", "a dog"], "64x64", generator=seeded(1), num_inference_steps=1, guidance_scale=3.0).images
    assert len(both) == 2


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "prompt: is empty"),
        ({"prompt": " "}, "prompt: is empty"),
        ({"prompt": "a", "size": "0x5"}, "size: .* positive"),
        ({"prompt": "a", "size": "9000x5"}, "size: .* from 1x1 to 8192x8192"),
        ({"prompt": "a", "size": "big"}, "size"),
    ],
)
def test_what_cannot_be_made_is_refused(tiny_folder, inputs, words):
    with pytest.raises(ValueError, match=words):
        load_pipeline(GeneratePipeline, tiny_folder)(**inputs)


@pytest.mark.slow
def test_the_embedded_model_draws_surfaces_and_says_what_it_cannot(recwarn):
    pipe = load_pipeline(GeneratePipeline)
    out = pipe(prompt="red cloth", size="96x64", generator=seeded())
    red, green, blue = np.asarray(out.images[0]).reshape(-1, 3).mean(0)
    assert out.notes == ["drawn: cloth, red"] and red > green + 60 and red > blue + 60 and not recwarn.list
    with pytest.warns(UserWarning, match="this model is small"):
        pipe(prompt="a horse on the moon", size="64x64", generator=seeded())


def test_the_command_line(tiny_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ["generate", "--prompt", "a cup", "--size", "64x48", "--model", str(tiny_folder), "--steps", "1", "--quiet"]
    assert main([*line, "-o", "made/cup.jpg", "--images", "2"]) == 0
    with Image.open("made/cup-1.jpg") as one:
        assert one.size == (64, 48) and one.format == "JPEG"
    assert provenance.source_type(Picture.from_any("made/cup-2.jpg")) == provenance.GENERATED
    assert main(line) == 0 and (tmp_path / "generate.png").is_file()
    capsys.readouterr()
    assert main(line) == 2 and "generate.png" in capsys.readouterr().err, "nothing is overwritten"
    assert main([*line, "--overwrite"]) == 0
    assert main(["generate", "--size", "64x48", "-o", "new.png"]) == 2 and "prompt: is empty" in capsys.readouterr().err
    assert main(["generate", "cup.png", "--prompt", "x"]) == 2 and "unrecognized" in capsys.readouterr().err


@pytest.mark.slow
def test_the_server(tiny_folder):
    pipe = EditPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
    with TestClient(create_app(pipe), raise_server_exceptions=False) as client:
        answer = client.post("/v1/generate", data={"prompt": "a cup", "size": "64x48", "steps": 1, "seed": 4})
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/png", answer.text
        picture = Image.open(io.BytesIO(answer.content))
        assert picture.size == (64, 48)
        same = client.post("/v1/generate", data={"prompt": "a cup", "size": "64x48", "steps": 1, "seed": 4})
        assert (np.asarray(Image.open(io.BytesIO(same.content))) == np.asarray(picture)).all()
        assert client.post("/v1/generate", data={"size": "64x48"}).status_code == 422
        assert client.post("/v1/generate", data={"prompt": "x", "size": "9000x9000"}).status_code in (413, 422)


def test_a_node_for_comfyui(tiny_folder):
    node = comfyui.NODE_CLASS_MAPPINGS["PhotofoundGenerate"]
    assert "image" not in node.INPUT_TYPES()["required"]
    pipe = EditPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
    (made,) = node().edit(pipe=pipe, seed=1, steps=1, guidance=1.0, prompt="a cup", size="64x48")
    assert made.shape == (1, 48, 64, 3)
