"""Learning of choices: a taste that is there is learnt and kept; one that is not there leaves nothing."""

from __future__ import annotations

import json

import diffusers
import numpy as np
import pytest
import transformers
from PIL import Image

from photofound import cli
from photofound.data import drawn
from photofound.learn import Outcome, divide

pytestmark = pytest.mark.slow
TRAINING = ["--data.sizes=[72]", "--data.crop=64", "--model.lora.rank=4", "--train.precision=fp32", "--beta=200"]
TRAINING += [
    "--train.batch_size=8",
    "--train.steps=40",
    "--train.warmup_steps=1",
    "--train.lr=0.003",
    "--train.ema=0.5",
]


def taste(folder, better, edits=24):
    """Pairs of a bright and a dark result; ``better`` says of each edit whether the bright one was chosen."""
    place = folder / "generate"
    place.mkdir(parents=True)
    lines = []
    for i, photo in enumerate(drawn.photographs(edits, size=72)):
        pixels = photo.pixels.permute(1, 2, 0).numpy().astype(np.float32)
        for name, picture in (("bright", pixels * 0.5 + 127), ("dark", pixels * 0.5)):
            Image.fromarray(picture.astype(np.uint8)).save(place / f"{i}-{name}.png")
        chosen, other = ("bright", "dark") if better(i) else ("dark", "bright")
        line = {"file_name": f"{i}-{chosen}.png", "rejected_file_name": f"{i}-{other}.png", "text": "a table"}
        lines.append(json.dumps({**line, "edit": f"{i * 7919 % 104729:016x}"}))
    (place / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def run(folder, tiny_folder, *more):
    return cli.main(["learn", str(folder), "--model", str(tiny_folder), "--hold-out", "33", *TRAINING, *more])


def test_a_taste_is_learnt_and_kept(tiny_folder, tiny, tmp_path, capsys):
    from photofound import EditPipeline

    assert run(taste(tmp_path / "c", lambda i: True), tiny_folder) == 0
    said = json.loads((tmp_path / "c" / "learned" / "generate.json").read_text())
    assert said["edits"] == 8 and said["trained"] == 16 and said["agree"] >= 7 and said["low"] > 0.5
    assert "95 % interval" in capsys.readouterr().out
    lora = tmp_path / "c" / "learned" / "generate.safetensors"
    pipe = EditPipeline.with_lora(tiny_folder, lora)
    assert pipe.fingerprint()["lora"]


def test_a_taste_that_is_not_there_leaves_nothing(tiny_folder, tmp_path, capsys):
    folder = taste(tmp_path / "c", lambda i: i % 2 == 0)
    kept = tmp_path / "c" / "learned" / "generate.safetensors"
    kept.parent.mkdir()
    kept.write_bytes(b"of fewer choices")
    assert run(folder, tiny_folder) == 1
    said = capsys.readouterr().out
    assert "not kept, the interval reaches one half" in said and not kept.exists()
    assert json.loads((tmp_path / "c" / "learned" / "generate.json").read_text())["kept"] is None


def test_what_was_stopped_goes_on(tiny_folder, tmp_path, monkeypatch, capsys):
    from photofound.train.trainer import Trainer

    folder, update, done = taste(tmp_path / "c", lambda i: True, edits=12), Trainer._update, []

    def stopped(self):
        done.append(self.step)
        update(self)
        self.stopping = self.step == 3

    monkeypatch.setattr(Trainer, "_update", stopped)
    few = ["--train.steps=5", "--train.save_every=2"]
    assert run(folder, tiny_folder, *few) == 75
    assert "the same command goes on with it" in capsys.readouterr().err and done == [0, 1, 2]
    assert run(folder, tiny_folder, *few) in (0, 1) and done == [0, 1, 2, 3, 4]
    assert "going on with" in capsys.readouterr().out
    assert run(folder, tiny_folder, "--train.steps=2") in (0, 1) and done[-2:] == [
        0,
        1,
    ]  # other settings: from the start


def test_a_dry_run_counts_and_writes_nothing(tiny_folder, tmp_path, capsys):
    folder = taste(tmp_path / "c", lambda i: True, edits=12)
    before = sorted(folder.rglob("*"))
    for library in (diffusers, transformers):
        library.utils.logging.enable_progress_bar()
    assert run(folder, tiny_folder, "--dry-run", "--minutes", "7") == 0
    said, told = capsys.readouterr()
    assert "Loading" not in told
    assert "6 choices of 6 edits to learn of, 6 edits are held out; what is learnt is kept if 6 of them agree" in said
    assert "\ntime " in said and "7 minutes at most" in said and sorted(folder.rglob("*")) == before


def test_pairs_of_an_edit_stay_together():
    pairs = [{"file_name": f"{i}.png", "edit": f"{i % 12:02}"} for i in range(40)]
    train, held = divide(pairs, 0.25)
    sides = [{pair["edit"] for pair in side} for side in (train, held)]
    assert len(train) + len(held) == 40 and not sides[0] & sides[1] and len(sides[1]) == 6  # not 3: too few to judge
    assert len({pair["edit"] for pair in divide(pairs, 0.6)[1]}) == 8


def test_the_interval_decides_and_getting_worse_is_said():
    good = Outcome("inpaint", 20, 40, 60, 18, 0.68, 0.99, 1.01, "inpaint.safetensors")
    assert good.better and "90%" in good.line and good.line.endswith("kept, inpaint.safetensors")
    assert not Outcome("inpaint", 20, 40, 60, 12, 0.36, 0.81, 1.0).better
    worse = Outcome("inpaint", 20, 40, 60, 18, 0.68, 0.99, 1.2, "inpaint.safetensors")
    assert worse.better and "so look at its pictures" in worse.line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["none"], "none: is no folder"),
        (["empty"], "has no choices; collect some with 'photofound demo --choices empty'"),
        (["few"], "generate has choices of 4 edits, 12 are the least"),
        (["few", "--task", "inpaint"], "has no choices of inpaint; it has generate"),
        (
            ["few", "--steps", "3"],
            "unrecognized arguments: --steps; settings of the training are like --train.steps=200",
        ),
        (["few", "--hold-out", "95"], "is not a number from 1 to 90"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    taste(tmp_path / "few", lambda i: True, edits=4)
    assert cli.main(["learn", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert line in error and len(error.splitlines()) == 1
