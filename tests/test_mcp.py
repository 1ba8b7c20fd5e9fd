"""``photofound mcp``, asked by an MCP client: within the process, and over standard input and output."""

from __future__ import annotations

import asyncio
import io
import sys
import zipfile

import numpy as np
import pytest
import torch
from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from fastmcp.exceptions import ToolError
from helpers import encoded, noise
from PIL import Image

from photofound import InpaintPipeline
from photofound.cli import main
from photofound.serve.mcp import build

PHOTO = noise(48, 64)
MASK = np.zeros((48, 64), np.uint8)
MASK[10:30, 20:40] = 255


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "pictures"
    inside.mkdir()
    for name, pixels in (("photo.png", PHOTO), ("mask.png", MASK)):
        (inside / name).write_bytes(encoded(pixels))
        (tmp_path / name).write_bytes(encoded(pixels))
    (inside / "link.png").symlink_to(tmp_path / "photo.png")
    return inside


@pytest.fixture(scope="module")
def pipe(tiny_folder):
    return InpaintPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)


@pytest.fixture
def call(folder, pipe):
    """Calls a tool."""
    server = build(lambda: pipe, [folder])

    def ask(name, **arguments):
        async def talk():
            async with Client(server) as client:
                return await client.call_tool(name, arguments)

        return asyncio.run(talk())

    return ask


def test_there_is_a_tool_for_each_task_with_its_inputs(folder):
    async def talk():
        async with Client(build(lambda: pytest.fail("loaded"), [folder])) as client:
            return {tool.name: tool for tool in await client.list_tools()}

    tools = asyncio.run(talk())
    assert set(tools) >= {"inpaint", "outpaint", "expand", "erase", "upscale", "cutout", "generate", "verify"}
    schema = vars(tools["inpaint"]).get("input_schema") or tools["inpaint"].inputSchema
    assert set(schema["required"]) == {"image", "mask_image"}
    assert {"prompt", "reference", "output", "seed", "steps"} <= set(schema["properties"])
    assert "white = repaint" in schema["properties"]["mask_image"]["description"]


def test_an_edit_is_a_new_file_and_a_picture_to_look_at(call, folder):
    made = call("inpaint", image="photo.png", mask_image="mask.png", prompt="a plant", seed=3)
    told = made.structured_content
    assert told["path"] == str(folder / "photo-inpaint.png") and (told["width"], told["height"]) == (64, 48)
    result = np.asarray(Image.open(told["path"]))
    assert (result[MASK == 0] == PHOTO[MASK == 0]).all() and (result[MASK > 0] != PHOTO[MASK > 0]).any()
    text, shown = made.content
    assert told["path"] in text.text
    mime = vars(shown).get("mime_type") or shown.mimeType
    assert mime == "image/jpeg"
    again = call("inpaint", image=str(folder / "photo.png"), mask_image="mask.png", prompt="a plant", seed=3)
    assert again.structured_content["path"] == str(folder / "photo-inpaint-2.png"), "nothing is overwritten"
    assert (np.asarray(Image.open(again.structured_content["path"])) == result).all()


def test_layers_are_a_new_file_beside_it(call, folder):
    given = {"image": "photo.png", "subject": "mask.png", "background": "wood", "layers": "photo.ora"}
    told = call("packshot", **given).structured_content
    assert told["layers"] == str(folder / "photo.ora")
    with zipfile.ZipFile(told["layers"]) as archive:
        flat = Image.open(io.BytesIO(archive.read("mergedimage.png")))
        assert (np.asarray(flat) == np.asarray(Image.open(told["path"]))).all()
    for layers, words in (("photo.ora", "exists"), ("../photo.ora", "lies outside of"), ("photo.png", "neither .ora")):
        with pytest.raises(ToolError, match=words):
            call("packshot", **given | {"layers": layers})


def test_other_tasks_take_their_own_inputs(call, folder):
    wide = call("expand", image="photo.png", left="25%", output="wide.webp").structured_content
    assert wide["path"] == str(folder / "wide.webp") and wide["width"] == 80
    assert call("upscale", image="photo.png", scale=2).structured_content["width"] == 128
    assert call("generate", prompt="marble", size="32x48").structured_content["path"] == str(folder / "generate.png")


def test_a_result_gets_a_format_that_holds_it(call, folder):
    (folder / "photo.jpg").write_bytes(encoded(PHOTO, "JPEG"))
    asked = {"image": "photo.jpg", "subject": "mask.png"}
    clear = call("packshot", **asked, background="transparent").structured_content
    assert clear["path"].endswith(".png") and Image.open(clear["path"]).mode == "RGBA"
    assert call("packshot", **asked, background="white").structured_content["path"].endswith(".jpg")


def test_verify_counts_what_was_kept(call, folder):
    call("inpaint", image="photo.png", mask_image="mask.png")
    found = call("verify", before="photo.png", after="photo-inpaint.png", mask="mask.png").structured_content
    assert found["identical"] == found["had_to_be_kept"] == (MASK == 0).sum() and found["altered"] == 0
    spoiled = np.asarray(Image.open(folder / "photo-inpaint.png")).copy()
    spoiled[0, :5] ^= 1
    (folder / "spoiled.png").write_bytes(encoded(spoiled))
    found = call("verify", before="photo.png", after="spoiled.png", mask="mask.png").structured_content
    assert found["altered"] == 5 and found["largest_difference"] == 1


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("inpaint", {"image": "../photo.png", "mask_image": "mask.png"}, "lies outside of"),
        ("inpaint", {"image": "/etc/passwd", "mask_image": "mask.png"}, "lies outside of"),
        ("inpaint", {"image": "link.png", "mask_image": "mask.png"}, "lies outside of"),
        ("inpaint", {"image": "photo.png", "mask_image": "mask.png", "output": "../out.png"}, "lies outside of"),
        ("inpaint", {"image": "photo.png", "mask_image": "mask.png", "output": "mask.png"}, "exists"),
        ("inpaint", {"image": "none.png", "mask_image": "mask.png"}, "none.png"),
        ("expand", {"image": "photo.png", "left": "wide"}, "'wide' is not"),
        ("cutout", {"image": "photo.png", "segmenter": "os:system"}, "'cutout' or 'grabcut'"),
        ("verify", {"before": "photo.png", "after": "../photo.png"}, "lies outside of"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_outside_is_touched(call, folder, tool, arguments, words):
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(ToolError, match=words) as caught:
        call(tool, **arguments)
    assert "\n" not in str(caught.value) and sorted(folder.parent.rglob("*")) == before


@pytest.mark.slow
def test_the_command_speaks_over_standard_input_and_output(folder, tiny_folder):
    arguments = ["-m", "photofound", "mcp", "--folder", str(folder), "--model", str(tiny_folder)]

    async def talk():
        async with Client(StdioTransport(sys.executable, arguments)) as client:
            names = {tool.name for tool in await client.list_tools()}
            made = await client.call_tool("erase", {"image": "photo.png", "mask_image": "mask.png", "grow": 0})
            return names, made.structured_content["path"]

    names, path = asyncio.run(talk())
    made = np.asarray(Image.open(io.BytesIO(open(path, "rb").read())))
    assert "verify" in names and (made[MASK == 0] == PHOTO[MASK == 0]).all()


def test_a_folder_that_is_none_is_one_line(capsys):
    assert main(["mcp", "--folder", "nowhere"]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err
