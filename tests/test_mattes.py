"""Mattes of a room's photographs, by any segmenter."""

from __future__ import annotations

import io

import numpy as np
import pytest
from helpers import encoded
from PIL import Image

from photofound import Room, cli
from photofound.data.table import Table


@pytest.fixture
def room(tmp_path):
    """A red square on grey, nothing but grey, and a picture that has a matte."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("square", (200, 20, 20)), ("empty", (120, 120, 120)), ("has", (20, 20, 200))):
        pixels = np.full((60, 80, 3), 120, np.uint8)
        pixels[20:40, 30:50] = colour
        (folder / f"{name}.png").write_bytes(encoded(pixels))
    Image.new("L", (80, 60), 255).save(folder / "has.mask.png")
    made = Room(tmp_path / "room")
    made.add(folder, embed=[])
    return made


def rows(room: Room) -> dict[str, tuple[bytes | None, str | None]]:
    found = [row for batch in Table(room.folder).scan(["name", "mask", "mask_by"]) for row in batch.to_pylist()]
    return {row["name"].rpartition("/")[2].partition(".")[0]: (row["mask"], row["mask_by"]) for row in found}


def reds(picture: np.ndarray) -> np.ndarray:
    assert picture.dtype == np.float32 and picture.max() <= 1
    return (picture[..., 0] > picture[..., 1] + 0.2).astype(np.float32)


def test_what_has_no_matte_gets_one_once(room):
    (before,) = (mask for b in room.table.scan(["mask"], "mask IS NOT NULL") for mask in b["mask"].to_pylist())
    assert room.matte(reds, "reds") == (1, 1)
    found = rows(room)
    with Image.open(io.BytesIO(found["square"][0])) as opened:
        matte = np.array(opened)
    assert matte.shape == (60, 80) and (matte[20:40, 30:50] == 255).all() and matte.sum() == 400 * 255
    assert found["square"][1] == "reds" and found["empty"] == (None, "reds")
    assert found["has"] == (before, None), "its source's own stays"
    assert room.matte(reds, "reds") == (0, 0)


def test_the_command_takes_any_segmenter(room, capsys):
    assert (
        cli.main(["room", "matte", str(room.folder), "--segmenter", "grabcut", "--where", "name like '%square%'"]) == 0
    )
    assert "1 mattes by grabcut; nothing was found in 0" in capsys.readouterr().out
    assert rows(room)["square"][1] == "grabcut" and rows(room)["empty"] == (None, None)
    assert cli.main(["room", "matte", str(room.folder), "--segmenter", "no such"]) != 0
    assert "is unknown" in capsys.readouterr().err
