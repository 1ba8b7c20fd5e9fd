"""The training loop on a toy: it learns, logs, stops when told, and a killed run goes on as if it had not been."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from photofound.card import record
from photofound.device import resolve_device
from photofound.train import batches, checkpoint, disk, trainer
from photofound.train.distributed import seed_of
from photofound.train.settings import TrainConfig
from photofound.train.trainer import Trainer

TOY = TrainConfig(
    steps=6,
    batch_size=16,
    lr=0.05,
    warmup_steps=2,
    schedule="trapezoid",
    ema=0.9,
    precision="fp32",
    device="cpu",
    trackers=(),
    save_every=1000,
)


class Regression:
    """y = W x learned from noisy examples. The examples come from the data's generator, the noise from torch's own."""

    def __init__(self, kill_at=None, bad=(), width=3, pause=0.0, kill_by=signal.SIGTERM):
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2))
        self.blocks = [self.module[0]]
        self.target = torch.linspace(-1, 1, 8).view(2, 4)
        self.kill_at, self.kill_by, self.bad, self.pause = kill_at, kill_by, bad, pause
        self.batches, self.progresses, self.exported, self.sampled = 0, [], [], []

    def batch(self, generator, size, progress):
        self.batches += 1
        self.progresses.append(progress)
        if self.batches == self.kill_at:
            os.kill(os.getpid(), self.kill_by)
        time.sleep(self.pause)
        return torch.randn(size, 4, generator=generator)

    def loss(self, x):
        noise = 0.01 * torch.randn(len(x), 2)
        error = (self.module(x) - (x @ self.target.T + noise)).square().mean()
        if self.batches in self.bad:
            error = error * float("nan")
        return error, {"error": error, "nothing": torch.tensor(float("nan"))}

    def sheet(self):
        assert not torch.is_grad_enabled() and not self.module.training
        self.sampled.append(self.module[0].weight.clone())
        return np.zeros((4, 6, 3), np.uint8)

    def export(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: value.clone() for name, value in self.module.state_dict().items()}, folder / "model.safetensors"
        )
        self.exported.append(folder)


def train(run_dir, stage=None, resume=None, **changes):
    made = Trainer(replace(TOY, **changes), stage or Regression(), run_dir, resume)
    made.run()
    return made


def metrics(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def weights(made):
    return {name: value.clone() for name, value in made.stage.module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------------------------------------------------ the loop


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_falls(tmp_path, optimizer, precision):
    made = train(tmp_path, steps=150, optimizer=optimizer, precision=precision)
    losses = [row["loss"] for row in metrics(tmp_path)]
    assert sum(losses[-10:]) < 0.05 * sum(losses[:10])
    assert all(p.dtype == torch.float32 for p in made.stage.module.parameters())


@pytest.mark.parametrize("precision, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_that_of_the_loss_and_of_the_samples(tmp_path, precision, dtype):
    seen = []

    class Watching(Regression):
        def loss(self, x):
            seen.append(self.module(x).dtype)
            return super().loss(x)

        def sheet(self):
            seen.append(self.module(torch.zeros(1, 4)).dtype)
            return super().sheet()

    train(tmp_path, Watching(), steps=1, precision=precision)
    assert seen == [dtype, dtype]


def test_one_step_is_the_optimizers_on_clipped_gradients(tmp_path):
    made = train(tmp_path, steps=1, warmup_steps=1, clip=0.1, weight_decay=0.0)
    stage = Regression()
    stage.batches = 1
    torch.manual_seed(seed_of(TOY.seed, 0, 0, "model"))
    data = torch.Generator().manual_seed(seed_of(TOY.seed, 0, 0, "data"))
    loss, _ = stage.loss(torch.randn(16, 4, generator=data))
    loss.backward()
    norm = nn.utils.clip_grad_norm_(stage.module.parameters(), 0.1)
    torch.optim.AdamW(stage.module.parameters(), lr=TOY.lr, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0).step()
    for name, value in stage.module.state_dict().items():
        assert torch.allclose(weights(made)[name], value, atol=1e-6)
    assert metrics(tmp_path)[0]["norm"] == pytest.approx(float(norm), rel=1e-4)


def test_every_step_is_a_line_of_numbers(tmp_path):
    train(tmp_path, steps=8)
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 9))
    for row in rows:
        assert {"step", "loss", "norm", "lr", "images_per_s", "minutes", "skipped", "error"} == set(
            row
        )  # what is NaN is left out
        assert row["loss"] == row["error"] > 0 and row["images_per_s"] > 0
    rates = [row["lr"] / TOY.lr for row in rows]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 0.9375, 0.625, 0.3125])  # warm-up, plateau, fall over the last 40 %
    assert all(a["minutes"] < b["minutes"] for a, b in zip(rows, rows[1:], strict=False))


def test_tokens_and_mfu_are_told_where_work_and_peak_are_known(tmp_path):
    class Working(Regression):
        def work(self, progress):
            return 10, 2e6

    train(tmp_path / "known", Working(), steps=1, peak=0.5)
    (row,) = metrics(tmp_path / "known")
    assert row["tokens_per_s"] == pytest.approx(10 * row["images_per_s"], rel=1e-4)
    assert row["mfu"] == pytest.approx(2e6 * row["images_per_s"] / 0.5e12, rel=1e-4)
    train(tmp_path / "unknown", Working(), steps=1)  # a CPU has no peak in a data sheet
    assert "mfu" not in metrics(tmp_path / "unknown")[0]


def test_the_run_ends_when_held_out_pictures_get_no_better(tmp_path):
    class Worse(Regression):
        measured = iter([3.0, 1.0, 2.0, 1.0, 9.0, 9.0])

        def validate(self):
            return {"val_loss": torch.tensor(next(self.measured))}

    patient = {"steps": 50, "validate_every": 1, "patience": 2}
    made = train(tmp_path, Worse(), **patient)
    assert made.step == 4 and len(made.stage.exported) == 1, "two measurements without a new least one"
    again = Trainer(replace(TOY, **patient), Worse(), tmp_path, "latest")
    assert again.exhausted and again.best == 1.0
    with pytest.raises(ValueError, match="train.patience: nothing is measured on the way"):
        replace(TOY, patience=2)


def test_energy_is_measured_and_recorded(tmp_path, monkeypatch):
    from photofound.train import pace

    class Gauges:
        joules = 0.0

        def __init__(self, device, counts_processor):
            pass

        def read(self):
            self.joules += 7.2e5
            return {"watts": 60.0}

    monkeypatch.setattr(pace, "Gauges", Gauges)
    train(tmp_path, steps=2, grid=100.0, save_every=1)
    assert [(row["watts"], row["kwh"], row["gco2"]) for row in metrics(tmp_path)] == [(60, 0.2, 20), (60, 0.4, 40)]
    (made,) = record.read(tmp_path / record.RUN)
    assert made.joules == 1.44e6


def test_the_bar_says_how_fast_it_goes(tmp_path, monkeypatch):
    import tqdm

    said = []

    class Bar(tqdm.tqdm):
        def set_postfix_str(self, text, refresh=True):
            said.append(text)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    train(tmp_path, steps=3)
    assert [text.split("  ")[0] for text in said] == ["step 1", "step 2", "step 3"]
    assert all(re.fullmatch(r"step \d+  loss [\d.e+-]+  [\d.e+]+ images/s", text) for text in said)


def test_images_per_second_counts_what_was_drawn(tmp_path, clock):
    class Shrinking(Regression):
        def batch_size(self, size, progress):
            return size if progress < 0.5 else size // 4

        def batch(self, generator, size, progress):
            clock.now += 2.0
            drawn = super().batch(generator, size, progress)
            sizes.append(len(drawn))
            return drawn

    sizes = []
    train(tmp_path, Shrinking(), steps=4, micro_batches=2)
    assert sizes == [8, 8, 8, 8, 2, 2, 2, 2]
    assert [row["images_per_s"] for row in metrics(tmp_path)] == pytest.approx([4, 4, 1, 1], rel=0.05)


def test_progress_is_printed_now_and_then(tmp_path, capsys):
    train(tmp_path, steps=7, log_every=3)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in printed] == ["step 3", "step 6"]


def test_what_is_held_out_is_measured_by_averaged_weights_and_changes_nothing(tmp_path):
    class Measuring(Regression):
        def validate(self):
            assert not torch.is_grad_enabled() and not self.module.training
            seen.append(self.module[0].weight.clone())
            torch.rand(5)  # draws something
            return {"val_loss": torch.tensor(float(len(seen)))}

    seen = []
    measured = train(tmp_path / "a", Measuring(), steps=6, validate_every=2)
    plain = train(tmp_path / "b", Measuring(), steps=6)
    rows = metrics(tmp_path / "a")
    assert [row.get("val_loss") for row in rows] == [None, 1, None, 2, None, 3]
    assert torch.equal(seen[-1], measured.ema.average["0.weight"]) and len(seen) == 3
    assert same(weights(measured), weights(plain))
    assert [row["loss"] for row in rows] == [row["loss"] for row in metrics(tmp_path / "b")]
    with pytest.raises(ValueError, match="train.validate_every: this stage measures nothing; set it to 0"):
        train(tmp_path / "c", validate_every=2)


def test_the_stage_is_told_how_far_the_run_is(tmp_path):
    stage = Regression()
    train(tmp_path, stage, steps=4)
    assert stage.progresses == [0, 0.25, 0.5, 0.75]


def test_samples_and_the_model_are_of_averaged_weights(tmp_path):
    stage = Regression()
    made = train(tmp_path, stage, steps=4, sample_every=3)
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["step-3.png", "step-4.png"]
    exported = load_file(tmp_path / "model" / "model.safetensors")
    assert same(exported, made.ema.average)
    assert torch.equal(stage.sampled[-1], made.ema.average["0.weight"])
    assert not torch.equal(exported["0.weight"], made.stage.module[0].weight)  # the run's own are back in place


def test_checkpoints_are_kept_as_told(tmp_path):
    train(tmp_path, steps=9, save_every=2, keep=3)
    assert checkpoint.steps(tmp_path / "checkpoints") == [6, 8, 9]


# ------------------------------------------------------------------------------------------------- stopping, resuming


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_killed_run_resumes_as_if_it_had_not_been(tmp_path, optimizer):
    whole = train(tmp_path / "whole", optimizer=optimizer)
    killed = train(tmp_path / "killed", Regression(kill_at=3), optimizer=optimizer)
    assert killed.step == 3 and checkpoint.steps(tmp_path / "killed" / "checkpoints") == [3]
    torch.manual_seed(12345)  # another process
    resumed = train(tmp_path / "killed", resume="latest", optimizer=optimizer)
    assert resumed.step == 6 and resumed.stage.batches == 3
    assert same(weights(resumed), weights(whole))
    assert same(resumed.ema.average, whole.ema.average) and resumed.ema.updates == whole.ema.updates
    one, two = metrics(tmp_path / "whole"), metrics(tmp_path / "killed")
    assert [row["step"] for row in two] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in one] == [row["loss"] for row in two]
    assert [row["lr"] for row in one] == [row["lr"] for row in two]


def test_steps_that_are_done_again_are_logged_once(tmp_path):
    """A run that dies without a word continues from its last checkpoint, which lies before its last line."""
    train(tmp_path, steps=6, save_every=4, keep=9)
    (tmp_path / "checkpoints" / "step-6" / "state.json").unlink()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # cut off while it was written
    resumed = train(tmp_path, resume="latest", steps=8)
    assert resumed.stage.batches == 4
    assert [row["step"] for row in metrics(tmp_path)] == list(range(1, 9))


def test_a_new_run_in_an_old_folder_starts_its_own_log(tmp_path):
    train(tmp_path, steps=5)
    train(tmp_path, steps=2)
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2]


def test_resume_latest_starts_anew_where_there_is_nothing(tmp_path):
    assert train(tmp_path, resume="latest", steps=2).stage.batches == 2


@pytest.mark.parametrize(
    "change",
    [
        {"step": "x"},
        {"optimizer": None},
        {"data": 3},
        {"data": []},
        {"record": 5},
        {"record": [{}]},
        {"groups": []},
        {"seconds": {}},
    ],
    ids=str,
)
def test_an_odd_checkpoint_is_told_in_one_line(tmp_path, change):
    train(tmp_path, steps=2)
    path = tmp_path / "checkpoints" / "step-2" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | change))
    if change not in ({"data": []}, {"groups": []}):  # the one reads the data from the start, the other takes all files
        with pytest.raises(ValueError, match="^(checkpoint|resume|record|config): ") as caught:
            train(tmp_path, resume="latest", steps=3)
        assert "\n" not in str(caught.value)
    path.write_text("{}")
    with pytest.raises(ValueError, match="^checkpoint: "):
        train(tmp_path, resume="latest", steps=3)
    path.write_text(json.dumps(state))
    (path.parent / "ema.safetensors").unlink()
    with pytest.raises(ValueError, match="^checkpoint: "):
        train(tmp_path, resume="latest", steps=3)


def test_resume_from_a_named_checkpoint(tmp_path):
    train(tmp_path / "first", steps=4, save_every=2, keep=5)
    made = Trainer(TOY, Regression(), tmp_path / "second", str(tmp_path / "first" / "checkpoints" / "step-2"))
    assert made.step == 2
    with pytest.raises(FileNotFoundError, match="resume: nowhere is not a checkpoint"):
        Trainer(TOY, Regression(), tmp_path / "second", "nowhere")


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


DAMAGES = {
    "cut off": lambda step: _truncate(step / "model.safetensors"),
    "empty": lambda step: (step / "optimizer.safetensors").write_bytes(b""),
    "gone": lambda step: (step / "ema.safetensors").unlink(),
    "state gone": lambda step: (step / "state.json").unlink(),
    "a file": lambda step: (shutil.rmtree(step), step.write_text("")),
    "no state": lambda step: (step / "state.json").write_text("{"),
    "half a state": lambda step: (step / "state.json").write_text('{"step": 4, "groups": ["model"]}'),
    "of other names": lambda step: save_file({"other": torch.ones(1)}, step / "ema.safetensors"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, capsys, name):
    whole = weights(train(tmp_path / "whole", save_every=2))
    train(tmp_path / "run", Regression(kill_at=5), save_every=2)
    steps = tmp_path / "run" / "checkpoints"
    newest = max(steps.iterdir(), key=lambda path: int(path.name.removeprefix("step-")))
    DAMAGES[name](newest)
    resumed = train(tmp_path / "run", resume="latest", save_every=2)
    said = capsys.readouterr().err
    assert f"{newest} is damaged" in said and "the one before it is taken" in said and "Traceback" not in said
    assert same(weights(resumed), whole)
    assert not list(steps.glob("*.damaged"))  # deleted when there are others


def test_where_no_checkpoint_is_whole_the_run_says_so(tmp_path):
    train(tmp_path, save_every=3)
    for path in (tmp_path / "checkpoints").iterdir():
        (path / "model.safetensors").write_bytes(b"")
    named = str(tmp_path / "checkpoints" / "step-6")
    with pytest.raises(ValueError, match="step-6 is damaged .*; resume from an earlier step"):
        train(tmp_path, resume=named)  # a named one is taken or refused
    for _ in range(2):  # a second try does not start anew
        with pytest.raises(ValueError, match="step-3 is damaged .*, and none in .* is whole; start anew in another"):
            train(tmp_path, resume="latest")


def test_checkpoints_without_a_state_are_not_a_new_run(tmp_path):
    train(tmp_path, save_every=3)
    for path in (tmp_path / "checkpoints").iterdir():
        (path / "state.json").unlink()
    with pytest.raises(ValueError, match="step-3 is damaged .*, and none in .* is whole; start anew in another"):
        train(tmp_path, resume="latest")


def test_a_damaged_log_of_numbers_does_not_stop_a_run(tmp_path):
    train(tmp_path, Regression(kill_at=3))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 1}}\n{"nothing": 1}\n\xff\n[1]\n{"step": 3, "lo')
    train(tmp_path, resume="latest")
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_what_a_checkpoint_takes_is_known_before(tmp_path):
    for optimizer in ("adamw", "muon"):
        made = train(tmp_path / optimizer, optimizer=optimizer)
        (step,) = (tmp_path / optimizer / "checkpoints").iterdir()
        tensors = [value for group in checkpoint.load(step)[0].values() for value in group.values()]
        written = sum(value.numel() * value.element_size() for value in tensors if value.ndim)
        assert made.checkpoint_bytes() == written


def test_a_disk_that_is_too_small_stops_the_run_before_its_first_step(tmp_path, monkeypatch):
    made = Trainer(TOY, Regression(), tmp_path / "run")
    need = made.checkpoint_bytes() + sum(4 * p.numel() for p in made.stage.module.parameters())  # one, and the model
    for free, enough in ((need - 1, False), (need, True)):
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        made = Trainer(TOY, Regression(), tmp_path / str(free))
        if enough:
            assert made.run()
        else:
            with pytest.raises(ValueError, match="--run-dir: .* needs .* are free; make room, or lower train.keep"):
                made.run()
            assert made.stage.batches == 0 and not (tmp_path / str(free)).exists()


def test_a_file_in_the_place_of_a_folder_stops_the_run_before_its_first_step(tmp_path):
    (tmp_path / "model").write_text("mine")
    made = Trainer(TOY, Regression(), tmp_path)
    with pytest.raises(ValueError, match="model is a file, where a folder goes"):
        made.run()
    assert made.stage.batches == 0


def test_a_sheet_that_fails_does_not_cost_the_model(tmp_path):
    class Sheetless(Regression):
        def sheet(self):
            raise ValueError("no photograph fits")

    with pytest.raises(ValueError, match="no photograph fits"):
        train(tmp_path, Sheetless())
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_finished_run_trains_no_more(tmp_path):
    before = weights(train(tmp_path))
    again = train(tmp_path, resume="latest")
    assert again.stage.batches == 0 and same(weights(again), before)


def test_another_models_checkpoint_is_refused(tmp_path):
    train(tmp_path, steps=1)
    with pytest.raises(ValueError, match="resume: .*step-1 is of another model .*size mismatch.*use the config it has"):
        Trainer(TOY, Regression(width=5), tmp_path, "latest")
    with pytest.raises(ValueError, match="step-1 was trained with adamw; set train.optimizer=adamw"):
        Trainer(replace(TOY, optimizer="muon"), Regression(), tmp_path, "latest")


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_returns_at_once(tmp_path, name):
    before = signal.getsignal(name)
    stage = Regression(kill_at=2, kill_by=name)
    made = Trainer(replace(TOY, steps=1000), stage, tmp_path)
    assert made.run() is False and made.step == 2  # the step under way is finished
    assert checkpoint.steps(tmp_path / "checkpoints") == [2]
    assert not stage.sampled and not stage.exported  # there may be only seconds left
    assert signal.getsignal(name) is before


def test_a_second_sigterm_does_not_interrupt_the_checkpoint(tmp_path, monkeypatch):
    save = checkpoint.save

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return save(*args)

    monkeypatch.setattr(checkpoint, "save", interrupted)
    train(tmp_path, Regression(kill_at=2), steps=1000)
    assert checkpoint.steps(tmp_path / "checkpoints") == [2]


KILLED = """
import os, signal, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import safetensors.torch
import test_trainer

save, calls = safetensors.torch.save_file, []

def killed(tensors, path):
    save(tensors, path)
    calls.append(path)
    if len(calls) == 5:  # the second of three files of the second checkpoint, half of it
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

safetensors.torch.save_file = killed
test_trainer.train(Path(sys.argv[2]), save_every=2)
"""


@pytest.mark.slow
def test_killed_in_the_middle_of_saving_it_resumes_as_if_it_had_not_been(tmp_path):
    whole = train(tmp_path / "whole")
    run = tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", KILLED, str(Path(__file__).parent), str(run)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-2", "step-4.partial"]
    resumed = train(run, resume="latest", save_every=2)
    assert resumed.stage.batches == 4 and same(weights(resumed), weights(whole))
    assert [row["loss"] for row in metrics(run)] == [row["loss"] for row in metrics(tmp_path / "whole")]


def test_the_handler_is_given_back_when_training_fails(tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    class Failing(Regression):
        def loss(self, x):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(tmp_path, Failing())
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "model").exists()


# ------------------------------------------------------------------------------------------------------------ the clock


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when a test says so."""

    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

        def sleep(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(trainer, "time", clock)
    monkeypatch.setattr(sys.modules[__name__], "time", clock)  # the stage's pause
    return clock


def test_minutes_end_the_run_and_shape_its_schedule(tmp_path, clock):
    stage = Regression(pause=6.0)
    made = train(tmp_path, stage, steps=1000, minutes=1.0, warmup_steps=0)
    assert made.step == 10  # of 6 seconds each
    assert stage.progresses == pytest.approx([i / 10 for i in range(10)])
    assert metrics(tmp_path)[-1]["lr"] == pytest.approx(TOY.lr * 0.1 / 0.4)
    assert metrics(tmp_path)[-1]["minutes"] == pytest.approx(1.0)


def test_steps_end_the_run_when_they_are_used_up_first(tmp_path, clock):
    assert train(tmp_path, Regression(pause=6.0), steps=4, minutes=1.0).step == 4


def test_samples_count_as_time(tmp_path, clock):
    class Slow(Regression):
        def sheet(self):
            clock.sleep(20.0)
            return super().sheet()

    assert (
        train(tmp_path, Slow(pause=5.0), steps=1000, minutes=1.0, sample_every=2).step == 4
    )  # 2 x (5 + 5 + 20) seconds


def test_time_goes_on_after_resuming(tmp_path, clock):
    killed = train(tmp_path, Regression(pause=6.0, kill_at=4), steps=1000, minutes=1.0)
    clock.now += 10_000  # the time between does not count
    resumed = train(tmp_path, Regression(pause=6.0), "latest", steps=1000, minutes=1.0)
    assert (killed.step, resumed.step) == (4, 10)


# --------------------------------------------------------------------------------------------------------- the record


class WithParent(Regression):
    """A stage that says what it is made of."""

    parent = record.Training("p", "autoencoder", ("vae",))

    def record(self):
        return {"parts": ["transformer"], "data": [record.Origin("s", "MIT", 7)], "parents": [self.parent]}


def test_the_record_tells_the_run_and_lies_beside_its_model(tmp_path):
    (tmp_path / "config.yaml").write_text("data: {folder: /srv/me/photos}\n")
    made = train(tmp_path, WithParent(), steps=5)
    parent, own = record.read(tmp_path / record.RUN)
    assert parent == WithParent.parent and record.read(tmp_path / "model" / record.MODEL) == [parent, own]
    assert (own.name, own.parts, own.data) == ("withparent", ("transformer",), (record.Origin("s", "MIT", 7),))
    assert own.settings == {"data": {"folder": "photos"}}
    (session,) = own.sessions
    assert (session.steps, session.samples, session.count, session.changed) == (5, 80, 1, {})
    assert session.seconds == pytest.approx(made.seconds, abs=0.1)
    assert session.torch == torch.__version__ and "thread" in session.device


def test_sessions_of_a_resumed_run_add_up_and_no_step_counts_twice(tmp_path, clock):
    slow = {"pause": 6.0}
    train(tmp_path, WithParent(**slow, kill_at=3), steps=1000)
    died = train(tmp_path, WithParent(**slow), "latest", steps=6, save_every=2, lr=0.1)  # this one saves at 4 and 6 ...
    (tmp_path / "checkpoints" / "step-6" / "state.json").unlink()  # ... and is taken to have died before the latter
    train(tmp_path, WithParent(**slow), "latest", steps=8)
    parent, own = record.read(tmp_path / "model" / record.MODEL)
    assert parent == WithParent.parent and died.history.training.id == own.id
    assert [session.steps for session in own.sessions] == [3, 1, 4]
    assert [session.seconds for session in own.sessions] == pytest.approx([18, 6, 24])
    assert (own.steps, own.samples) == (8, 128)
    changed = {"train.steps": "1000 -> 6", "train.lr": "0.05 -> 0.1", "train.save_every": "1000 -> 2"}
    assert own.sessions[1].changed == changed
    assert record.read(tmp_path / record.RUN) == [parent, own]


def test_resuming_a_finished_run_adds_nothing(tmp_path):
    train(tmp_path, WithParent())
    before = record.read(tmp_path / record.RUN)
    train(tmp_path, WithParent(), "latest")
    assert record.read(tmp_path / "model" / record.MODEL) == before


def test_samples_are_those_that_the_stage_asks_for(tmp_path):
    class Fewer(Regression):
        def batch_size(self, size, progress):
            return size // 2 if progress >= 0.5 else size

    train(tmp_path, Fewer(), steps=4, micro_batches=2)
    assert record.read(tmp_path / record.RUN)[0].samples == 2 * 16 + 2 * 8


def test_a_checkpoint_without_a_record_is_gone_on_with_and_says_so(tmp_path):
    train(tmp_path, steps=3)
    path = tmp_path / "checkpoints" / "step-3" / "state.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "record"}))
    train(tmp_path, resume="latest", steps=5)
    (own,) = record.read(tmp_path / record.RUN)
    assert [(s.steps, s.samples) for s in own.sessions] == [(3, 48), (2, 32)] and own.notes == (record.INCOMPLETE,)
    assert own.sessions[0].device == "" != own.sessions[1].device


# ------------------------------------------------------------------------------------------------------ micro-batches


def test_micro_batches_are_one_batch(tmp_path):
    """The gradient of an update is the mean of its parts', and each part has random numbers of its own."""
    made = train(tmp_path, steps=1, warmup_steps=1, micro_batches=4, clip=1e9, weight_decay=0.0)
    stage, losses = Regression(), []
    for index in range(4):
        torch.manual_seed(seed_of(TOY.seed, 0, index, "model"))
        data = torch.Generator().manual_seed(seed_of(TOY.seed, 0, index, "data"))
        losses.append(stage.loss(torch.randn(4, 4, generator=data))[0])
    (sum(losses) / 4).backward()
    norm = nn.utils.clip_grad_norm_(stage.module.parameters(), 1e9)
    (row,) = metrics(tmp_path)
    assert made.stage.batches == 4 and len({float(loss.detach()) for loss in losses}) == 4
    assert row["norm"] == pytest.approx(float(norm), rel=1e-4)
    assert row["loss"] == pytest.approx(float(sum(losses).detach()) / 4, rel=1e-5)


def test_parts_that_do_not_come_out_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="train.batch_size: 16 cannot be cut into 3 micro-batches; use a multiple of 3"
    ):
        train(tmp_path, micro_batches=3)
    with pytest.raises(
        ValueError, match="train.micro_batches: 3 cannot be shared evenly by 2 processes; use a multiple"
    ):
        batches.micro_batches(replace(TOY, micro_batches=3), 2)
    assert batches.micro_batches(TOY, 2) == 2  # one each


def test_a_change_that_cannot_be_repeated_exactly_is_said(tmp_path, capsys):
    train(tmp_path, steps=2)
    train(tmp_path, resume="latest", steps=4, micro_batches=2, seed=1)
    said = capsys.readouterr().out
    assert "batches are drawn in 2 parts, not 1, so differently" in said and "another train.seed" in said


# -------------------------------------------------------------------------------------------------- a place in the data


class Stream(Regression):
    """Reads numbers one after the other, and remembers where it is."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.place, self.read = 0, []

    def batch(self, generator, size, progress):
        self.read.append(self.place)
        self.place += size
        return super().batch(generator, size, progress)

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


def test_the_place_in_the_data_is_kept(tmp_path):
    train(tmp_path, Stream(kill_at=3))
    resumed = train(tmp_path, Stream(), "latest")
    assert resumed.stage.read == [48, 64, 80]


class Opening(Stream):
    """Whose first batch draws from torch's own generator, as opening files may."""

    opened = False

    def batch(self, generator, size, progress):
        if not self.opened:
            self.opened = True
            torch.rand(3)
        return super().batch(generator, size, progress)

    def loss(self, batch):
        loss, logs = super().loss(batch)
        return loss + torch.rand(()), logs


def test_what_a_first_batch_draws_does_not_show_in_the_losses(tmp_path):
    """A resumed run has its first batch where the whole run had none."""
    train(tmp_path / "whole", Opening())
    train(tmp_path / "parts", Opening(kill_at=3))
    train(tmp_path / "parts", Opening(), "latest")
    whole, parts = ([row["loss"] for row in metrics(tmp_path / name)] for name in ("whole", "parts"))
    assert parts == whole


def test_another_number_of_processes_begins_its_data_anew_and_says_so(tmp_path, capsys):
    train(tmp_path, Stream(kill_at=3))
    path = tmp_path / "checkpoints" / "step-3" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": [{"place": 24}, {"place": 24}]}))
    assert train(tmp_path, Stream(), "latest").stage.read == [0, 16, 32]
    assert "each process reads its share of the data from the beginning" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------------- small options


def test_blocks_are_compiled_one_by_one(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    made = train(tmp_path, steps=1, compile=True)
    assert compiled == made.stage.blocks


def test_activations_cannot_be_checkpointed_where_no_model_knows_how(tmp_path):
    with pytest.raises(ValueError, match="train.checkpoint_activations: no model of this stage can do that"):
        train(tmp_path, checkpoint_activations=True)


def test_tensorboard_gets_every_number_and_the_pictures(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tmp_path, steps=3, trackers=("tensorboard",))
    (folder,) = (tmp_path / "tensorboard").iterdir()
    events = accumulator.EventAccumulator(str(folder)).Reload()
    assert {"loss", "norm", "lr", "images_per_s", "error"} <= set(events.Tags()["scalars"])
    logged = [event.value for event in events.Scalars("loss")]
    assert logged == pytest.approx([row["loss"] for row in metrics(tmp_path)], rel=1e-5)
    assert events.Tags()["images"] == ["samples"]


# ------------------------------------------------------------------------------------------------------ bad gradients


def test_a_bad_batch_is_skipped(tmp_path):
    before = []

    class Remembering(Regression):
        def batch(self, generator, size, progress):
            before.append({n: v.clone() for n, v in self.module.state_dict().items()})
            return super().batch(generator, size, progress)

    made = train(tmp_path, Remembering(bad=(3,)), steps=5)
    assert same(before[2], before[3])  # the third step changed nothing
    assert not same(before[3], before[4])
    assert made.ema.updates == 4 and (made.skipped, made.skips_in_a_row) == (1, 0)
    assert all(value.isfinite().all() for value in weights(made).values())
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [math.isnan(row["loss"]) for row in rows] == [False, False, True, False, False]
    assert [row["skipped"] for row in rows] == [0, 0, 1, 1, 1]


def test_a_loss_that_is_not_finite_is_enough(tmp_path):
    class Lying(Regression):
        """A loss of infinity with gradients of zero."""

        def loss(self, x):
            return self.module(x).sum() * 0 + float("inf"), {}

    with pytest.raises(ValueError, match="3 steps in a row had no finite loss and gradient"):
        train(tmp_path, Lying(), max_skips=3)


@pytest.mark.slow
def test_twenty_bad_batches_in_a_row_end_the_run(tmp_path):
    stage = Regression(bad=range(3, 100))
    with pytest.raises(
        ValueError, match=r"20 steps in a row had no finite loss and gradient \(step 22\); lower train.lr"
    ):
        train(tmp_path, stage, steps=100)
    assert stage.batches == 22
    spread = Regression(bad=[i for i in range(1, 60) if i % 20])  # never more than 19 at once
    assert train(tmp_path / "spread", spread, steps=60).step == 60


# -------------------------------------------------------------------------------------------------------- bad settings


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"precision": "fp16"}, "train.precision: 'fp16' is unknown; use bf16 or fp32"),
        (
            {"optimizer": "sgd"},
            "train.optimizer: 'sgd' is unknown; use adamw or adamw8bit or muon or prodigy or schedulefree",
        ),
        ({"schedule": "linear"}, "train.schedule: 'linear' is unknown; use constant or cosine or trapezoid"),
        ({"steps": 0}, "train.steps: 0 is too small"),
        ({"batch_size": 0}, "train.batch_size: 0 is too small"),
        ({"log_every": 0}, "train.log_every: 0 is too small"),
        ({"max_skips": 0}, "train.max_skips: 0 is too small"),
        ({"parallel": "deepspeed"}, "train.parallel: 'deepspeed' is unknown; use ddp or fsdp or hsdp"),
        ({"save_every": 0}, "train.save_every: 0 is too small"),
        ({"keep": 0}, "train.keep: 0 is too small"),
        ({"minutes": 0.0}, "train.minutes: 0.0 must be above 0"),
        ({"minutes": -5.0}, "train.minutes: -5.0 must be above 0"),
        ({"minutes": float("nan")}, "train.minutes: nan must be above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(setting, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**setting)


def test_devices():
    found = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto") == torch.device(found) and resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="train.device: 'gpu' is unknown; use auto, cpu or cuda"):
        resolve_device("gpu")
    with pytest.raises(ValueError, match="train.device: 'cuda:99' is not here, torch sees .* of them; use auto or cpu"):
        resolve_device("cuda:99")
