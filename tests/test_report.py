"""Reports say what was measured, and the page needs nothing beside it."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from photofound.eval import report
from photofound.eval.run import Evaluation, Row, Strip
from photofound.eval.summary import METRICS, Figure, Summary, differences, summarise


@pytest.fixture
def found():
    rows = []
    for method, shift in (("Telea", 0.0), ("mine <b>", 3.0)):
        values = [{"psnr": 20 + shift + i, "seam": 0.02 - shift / 100, "seconds": 1 + shift} for i in range(4)]
        rows += [Row("strokes-20", method, f"{i}.png", 0, v) for i, v in enumerate(values)]
    rows.append(Row("x4", "bicubic", "0.png", 0, {"psnr": math.inf, "seconds": 0.0}))
    colours = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)
    shown = dict(zip(("given", "mine <b>", "truth"), colours, strict=True))
    return Evaluation(["mine <b>"], rows, [Strip("strokes-20", "0.png", "a 'red' cup", shown)])


ABOUT = {"photographs": "holiday", "seeds": 1}


def test_markdown_has_a_row_per_method_with_the_best_in_bold(found):
    text = report.as_markdown(summarise(found), differences(found), ABOUT)
    assert "- photographs: holiday" in text and "## strokes 20 % (`strokes-20`)" in text and "4 problems." in text
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert lines[0] == ["method", "PSNR dB", "seam", "seconds"]
    assert lines[1] == ["Telea", "21.50 [20.50, 22.50]", "+0.0200", "**1.00**"]
    assert lines[2] == ["mine <b>", "**24.50** [23.50, 25.50]", "**-0.0100**", "4.00"]  # nearer to zero is better
    assert "- **seam**: " in text and "∞" in text
    assert "- mine <b> against Telea: PSNR dB +3.00 [+3.00, +3.00], better on 4 of 4" in text


def test_a_model_is_set_against_patchmatch_in_one_table():
    rows = []
    for name, (distance, decibels) in {"PatchMatch": (0.2, 24.0), "mine": (0.25, 25.0), "Telea": (0.3, 23.0)}.items():
        for protocol, shift in (("strokes-20", 0.0), ("box-centre", 0.1)):
            values = [(distance + shift * (name == "mine"), decibels + i) for i in range(3)]
            rows += [
                Row(protocol, name, f"{i}.png", 0, {"perceptual": d, "psnr": p, "hole_psnr": p})
                for i, (d, p) in enumerate(values)
            ]
    rows += [Row("x2", name, "0.png", 0, {"y_psnr": v, "psnr": v}) for name, v in (("bicubic", 33.5), ("mine", 36.25))]
    found = Evaluation(["mine"], rows)
    table = report.compare_with_rival(summarise(found), differences(found))
    assert table.splitlines() == [
        "|  | strokes 20 % | centre box 1/9 |",
        "| --- | --- | --- |",
        "| perceptual distance, mine / PatchMatch | 1.250 [1.250, 1.250] | 1.750 [1.750, 1.750] |",
        "| PSNR dB, mine - PatchMatch | +1.00 [+1.00, +1.00] | +1.00 [+1.00, +1.00] |",
        "",
        "| Y-PSNR dB | upscale x2, 1 pictures |",
        "| --- | --- |",
        "| bicubic | 33.50 |",
        "| mine | 36.25 |",
    ]
    assert "mine / Telea | 0.833 [" in report.compare_with_rival(summarise(found), differences(found), "telea")
    alone = Evaluation(["mine"], [row for row in rows if row.method != "PatchMatch" and row.protocol != "x2"])
    assert report.compare_with_rival(summarise(alone), differences(alone)) == ""


def test_json_holds_rows_and_intervals_and_no_infinity(found):
    tree = json.loads(report.as_json(found, summarise(found), ABOUT), parse_constant=pytest.fail)
    assert tree["about"] == ABOUT and len(tree["rows"]) == 9 and tree["rows"][-1]["values"]["psnr"] is None
    first = tree["summary"][0]
    assert first["method"] == "Telea" and first["pictures"] == 4 and set(tree["metrics"]) == set(METRICS)
    psnr = first["figures"]["psnr"]
    assert psnr["value"] == 21.5 and psnr["low"] <= 20.75 and psnr["high"] >= 22.25 and psnr["seeds"] is None


class Balanced(HTMLParser):
    """Fails on a tag that is not closed; keeps sources and text."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "line", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_stands_alone_and_shows_the_pictures(found):
    page = report.as_html(summarise(found), differences(found), found.strips, ABOUT)
    parser = Balanced()
    parser.feed(page)
    assert not parser.open and "mine <b>" in parser.text and "0.png: “a 'red' cup”" in parser.text
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in parser.links)
    assert {link[1:] for link in parser.links if link[0] == "#"} <= set(re.findall(r'id="([\w.-]+)"', page))
    assert "24.50" in parser.text and "[23.50, 25.50]" in parser.text and page.count('class="best"') == 3


def test_pictures_are_small_and_true():
    rng = np.random.default_rng(0)
    flat = np.full((600, 900, 3), rng.integers(0, 256, 3), np.uint8)
    shown = Image.open(io.BytesIO(base64.b64decode(report.data_uri(flat).removeprefix("data:image/jpeg;base64,"))))
    assert shown.size == (384, 256) and np.abs(np.asarray(shown).astype(int) - flat[0, 0]).max() < 4


def test_of_enlargements_the_middle_is_shown_in_squares():
    truth = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
    shown = report.centre_crops({"given": truth[::4, ::4], "truth": truth})
    assert {picture.shape for picture in shown.values()} == {(384, 384, 3)}
    assert (shown["truth"][::2, ::2] == truth[104:296, 204:396]).all()
    assert (shown["given"][::8, ::8] == truth[104:296:4, 204:396:4]).all()
    tiny = report.centre_crops({"given": truth[:10, :20], "truth": truth[:40, :80]})
    assert {picture.shape for picture in tiny.values()} == {(80, 160, 3)}


def test_what_is_left_untouched_is_no_competitor():
    figures = [("untouched", 0.0), ("a", 0.2), ("b", 0.1)]
    methods = [Summary("outpaint-product", n, 1, {"growth": Figure(v, v, v)}) for n, v in figures]
    assert report.best(methods, "growth") == 0.1 and report.best(methods[:2], "growth") is None


def test_everything_is_written(found, tmp_path):
    report.write(tmp_path / "new" / "folder", found, ABOUT)
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {
        "report.json", "report.md", "report.html"
    }  # fmt: skip


def test_a_contact_sheet_has_a_row_for_each_problem_and_white_where_a_method_is_missing():
    red, blue = (np.full((30, 40, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    strips = [Strip("box-centre", "a", "", {"given": red, "ours": blue}), Strip("x2", "b", "", {"given": red})]
    sheet = report.contact_sheet(strips)
    assert sheet.shape == (480, 640, 3)
    assert (sheet[:240, 320:] == blue[0, 0]).all() and (sheet[240:, 320:] == 255).all()
