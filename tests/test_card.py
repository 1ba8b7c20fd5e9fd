"""Contact sheets: every picture where it belongs, pixel for pixel."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from photofound.card import save_sheet


def picture(height=5, width=7):
    return torch.randint(0, 256, (3, height, width)).float() / 127.5 - 1


def pixels(tensor):
    return ((tensor + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def test_every_picture_is_in_its_place_on_white(tmp_path):
    rows = [[picture(), picture(), picture()], [picture()]]
    save_sheet(rows, tmp_path / "sheet.png", gap=2)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 5 + 2, 3 * 7 + 2 * 2, 3)
    expected = np.full_like(sheet, 255)
    for r, row in enumerate(rows):
        for c, tensor in enumerate(row):
            expected[r * 7 : r * 7 + 5, c * 9 : c * 9 + 7] = pixels(tensor)
    assert np.array_equal(sheet, expected)


def test_values_are_clamped_and_any_precision_will_do(tmp_path):
    wild = torch.tensor([-3.0, -1.0, 0.0, 1.0, 5.0]).expand(3, 2, 5)
    save_sheet([[wild.bfloat16()]], tmp_path / "sheet.png")
    assert np.asarray(Image.open(tmp_path / "sheet.png"))[1, :, 2].tolist() == [0, 0, 128, 255, 255]


def test_a_strided_picture_is_drawn_too(tmp_path):
    tensor = picture(6, 6).flip(-1).transpose(1, 2)
    save_sheet([[tensor]], tmp_path / "sheet.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), pixels(tensor))
