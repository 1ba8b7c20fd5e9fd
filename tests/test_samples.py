"""``make edit`` without its model: the photographs are at hand, the masks lie on them, the sheet shows all."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from photofound.demos import samples


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No socket can be opened: what is shown must lie in scikit-image's wheel."""

    def refuse(*_):
        raise AssertionError("a sample was downloaded")

    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.mark.parametrize("sample", samples.SAMPLES, ids=lambda sample: sample.task)
def test_the_photographs_are_there_and_the_masks_fit(sample):
    photograph, mask = samples.read(sample)
    assert photograph.mode == "RGB" and min(photograph.size) >= 150
    assert (mask is not None) == (sample.task in ("inpaint", "erase"))
    if mask is not None:
        share = (np.asarray(mask) > 0).mean()
        assert mask.size == photograph.size and 0.01 < share < 0.3


def test_there_is_one_sample_for_each_task():
    from photofound.edits.task import task_names

    assert {"outpaint", "inpaint", "expand", "erase", "upscale"} <= {sample.task for sample in samples.SAMPLES}
    assert {sample.task for sample in samples.SAMPLES} <= set(task_names())


class FakePipeline:
    """Gives the photograph back, twice as large."""

    def set_progress_bar_config(self, **_):
        pass

    def __call__(self, photograph, **inputs):
        from types import SimpleNamespace

        return SimpleNamespace(images=[photograph.resize((photograph.width * 2, photograph.height * 2))])


@pytest.mark.slow
def test_results_a_sheet_and_the_seconds_of_each_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(samples, "load", lambda model: FakePipeline())
    monkeypatch.setattr(samples, "edit", lambda pipe, sample, photograph, *_: pipe(photograph).images[0])
    assert samples.main(["--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    names = [sample.task for sample in samples.SAMPLES]
    assert [line.split()[0] for line in out.splitlines()] == ["load", *names, "before"]
    assert all(line.split()[2] == "s" for line in out.splitlines()[:-1])
    assert sorted(p.stem for p in (tmp_path / "out").iterdir()) == sorted([*names, "samples"])


@pytest.mark.parametrize("after", [(80, 60), (160, 120), (100, 60), (40, 90)])
def test_both_pictures_of_a_column_fit_and_share_a_scale(after):
    before = Image.new("RGB", (80, 60))
    shown = samples.to_one_scale(before, Image.new("RGB", after))
    assert all(p.width <= samples.COLUMN and p.height <= samples.ROW for p in shown)
    if after in ((80, 60), (160, 120)):
        assert shown[0].size == shown[1].size
    else:
        assert shown[1].width / shown[0].width == pytest.approx(after[0] / 80, rel=0.03)
