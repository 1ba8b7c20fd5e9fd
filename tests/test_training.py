"""Whole runs of the smoke configuration from the command line: repeated, killed, stopped, resumed, shared."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from helpers import free_port, wait_until
from safetensors.torch import load_file

from photofound import cli

pytestmark = pytest.mark.slow  # whole runs, in processes of their own

ROOT = Path(__file__).resolve().parent.parent
SMOKE = str(ROOT / "training" / "configs" / "smoke.yaml")
BIN = Path(sys.executable).parent


def smoke(run_dir, *more):
    return cli.main(["train", "pretrain", "--config", SMOKE, "--run_dir", str(run_dir), *more])


def losses(run_dir):
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def final(run_dir):
    """Everything that is kept of the last step."""
    folder = run_dir / "checkpoints" / "step-20"
    return {(file.stem, k): v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    start = time.process_time()
    assert smoke(folder) == 0
    assert time.process_time() - start < 30
    return folder


def test_the_smoke_run_learns_and_leaves_what_it_should(whole):
    values = losses(whole)
    assert len(values) == 20 and sum(values[-5:]) < 0.97 * sum(values[:5])
    assert {p.name for p in whole.iterdir()} >= {"config.yaml", "metrics.jsonl", "checkpoints", "samples", "model"}
    assert {p.name for p in (whole / "checkpoints").iterdir()} == {"step-10", "step-20"}
    assert (whole / "model" / "model_index.json").is_file()


def test_activation_checkpointing_changes_nothing_but_memory(whole, tmp_path):
    assert smoke(tmp_path, "--train.checkpoint_activations=true", "--train.steps=3") == 0
    assert losses(tmp_path)[:2] == losses(whole)[:2]  # the third is in the decline of the learning rate


ENDLESS = """
import sys, time
from photofound.training import pretrain

batch, calls = pretrain.PretrainStage.batch, []

def until_killed(*arguments):
    calls.append(1)
    if len(calls) > 38:  # of 40: on a busy machine, what kills it may come late
        time.sleep(600)
    return batch(*arguments)

pretrain.PretrainStage.batch = until_killed
sys.exit(pretrain.main())
"""


@pytest.mark.slow
def test_killed_at_a_random_step_it_goes_on_as_if_it_had_not_been(whole, tmp_path):
    """Started by accelerate's launcher; SIGKILL leaves no time for anything."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    command = [BIN / "accelerate", "launch", "--cpu", "--num_processes", "1", tmp_path / "endless.py"]
    arguments = ["--config", SMOKE, "--run_dir", str(tmp_path), "--train.save_every=3"]
    after, log = random.Random().randint(4, 16), tmp_path / "metrics.jsonl"
    with subprocess.Popen([*command, *arguments], cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL) as run:
        try:
            wait_until(lambda: log.is_file() and len(log.read_text().splitlines()) >= after, 280)
        finally:
            os.killpg(run.pid, signal.SIGKILL)
    assert not (tmp_path / "model").exists()
    assert smoke(tmp_path, "--resume", "latest", "--train.save_every=3") == 0
    assert losses(tmp_path) == losses(whole) and same(final(tmp_path), final(whole))


def test_a_full_disk_ends_the_run_with_one_line_and_its_last_checkpoint(whole, tmp_path, monkeypatch, capsys):
    import safetensors.torch

    save, calls = safetensors.torch.save_file, []

    def until_full(tensors, path):
        calls.append(path)
        if len(calls) > 4:  # three files a checkpoint: the second one is cut off in its second file
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(safetensors.torch, "save_file", until_full)
    assert smoke(tmp_path) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("photofound: checkpoint:") and "No space left" in error and "step-10 is whole" in error
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-10"]
    monkeypatch.undo()
    assert smoke(tmp_path, "--resume", "latest") == 0
    assert losses(tmp_path) == losses(whole) and same(final(tmp_path), final(whole))


def test_a_signal_saves_and_exits_with_a_status_of_its_own(whole, tmp_path, monkeypatch):
    from photofound.training.pretrain import PretrainStage

    batch, calls = PretrainStage.batch, []

    def preempted(*args):
        calls.append(1)
        if len(calls) == 10:  # the ninth is drawn ahead in the fourth step
            os.kill(os.getpid(), signal.SIGUSR1)
        return batch(*args)

    monkeypatch.setattr(PretrainStage, "batch", preempted)
    assert smoke(tmp_path) == 75
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-5"]  # two micro-batches a step
    assert smoke(tmp_path, "--resume", "latest") == 0
    assert losses(tmp_path) == losses(whole) and same(final(tmp_path), final(whole))


def test_an_empty_place_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for stage in ("pretrain", "finetune"):
        for option in ("--run-dir", "--run_dir", "--config", "--resume"):
            for words in ([option, ""], [f"{option}="]):
                assert cli.main(["train", stage, *words]) == 2
                assert f"{option.replace('run_dir', 'run')}"[:5] in (said := capsys.readouterr().err) and "''" in said
    for words in (["", "made"], ["photos", ""], ["photos", "made", "--config", ""]):
        assert cli.main(["train", "prepare", *words]) == 2 and "''" in capsys.readouterr().err
    assert cli.main(["eval", "photos", "-o", ""]) == 2 and "''" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_a_configuration_that_is_no_file_is_called_what_it_is(tmp_path, capsys, kind):
    path = Path("/dev/null") if kind == "device" else tmp_path / "it"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    assert cli.main(["train", "pretrain", "--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert f"config: {path} is " in said and ("a folder" if kind == "folder" else "a pipe or a device") in said


@pytest.mark.parametrize("arguments", [
    ["--run-dir", "{run}", "--train.steps", "1", "--train.lr", "0.1", "--data.sizes", "[40]"],
    ["--run_dir={run}", "--train.steps=1", "--train.lr=0.1", "--data.sizes=[40]"],
    ["--train.steps", "1", "--train.lr=0.1", "--data.sizes", "[40]", "--run-dir={run}"],
])  # fmt: skip
def test_options_are_written_as_people_write_them(tmp_path, arguments):
    run = str(tmp_path / "run")
    assert (
        cli.main(["train", "pretrain", "--config", SMOKE, *(argument.format(run=run) for argument in arguments)]) == 0
    )
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (settings["train"]["lr"], settings["train"]["steps"], settings["data"]["sizes"]) == (0.1, 1, [40])


@pytest.mark.parametrize("arguments, says", [
    (["--train.lr"], "'--train.lr' is not an override; write --a.b=value"),
    (["--train.lr", "--train.steps=1"], "'--train.lr' is not an override"),
    (["--train.lr", "0.1", "0.2"], "'0.2' is not an override"),
    (["--run-dir", "s3://bucket/run"], "--run-dir: s3://bucket/run is a URL"),
])  # fmt: skip
def test_options_that_say_nothing_are_one_line(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "pretrain", "--config", SMOKE, *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_launcher_of_several_processes_is_told_the_line(tmp_path, monkeypatch, capsys):
    """torchrun, and accelerate launch with it, prints it at the end of its own lines."""
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert cli.main(["train", "pretrain", "--config", SMOKE, "--nonsense=1"]) == 2
    told = json.loads((tmp_path / "error.json").read_text())
    assert told["message"] == capsys.readouterr().err.strip() and told["timestamp"] > 0


def test_sharding_on_a_cpu_is_one_line(tmp_path, capsys):
    assert smoke(tmp_path, "--train.parallel=fsdp") == 2
    assert "fsdp is not active" in capsys.readouterr().err.splitlines()[-1]


# --------------------------------------------------------------------------------------------------------------- SLURM

SRUN = """#!{bash}
# Two processes on this machine, as SLURM would start them.
while [[ $1 == --* ]]; do shift; done
for i in 0 1; do
    SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NTASKS=2 "$@" & pids="$pids $!"
done
for pid in $pids; do wait $pid || status=$?; done
exit $status
"""
SCONTROL = """#!{bash}
[[ $1 == show ]] && echo localhost || echo "$@" >> "$CALLED"
"""
STOPPED = """#!{bash}
echo "$RANK of $WORLD_SIZE: $@"
exit 75
"""


@pytest.fixture
def cluster(tmp_path):
    """SLURM's commands, played by scripts: returns ``submit(script, *arguments)``."""
    bash = subprocess.run(["bash", "-c", "echo $BASH"], capture_output=True, text=True).stdout.strip()
    folder = tmp_path / "bin"
    folder.mkdir()

    def put(name, text):
        (folder / name).write_text(text.replace("{bash}", bash))
        (folder / name).chmod(0o755)

    def submit(script, *arguments):
        port = str(free_port() - 20_000)
        slurm = {"SLURM_JOB_ID": port, "SLURM_JOB_NODELIST": "localhost", "CALLED": str(tmp_path / "called")}
        path = os.pathsep.join([str(folder), str(BIN), os.environ["PATH"]])
        environment = os.environ | slurm | {"PATH": path, "OMP_NUM_THREADS": "1"}
        command = ["bash", str(ROOT / "training" / "slurm" / script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)

    put("srun", SRUN)
    put("scontrol", SCONTROL)
    submit.put = put
    return submit


@pytest.mark.slow
def test_two_processes_under_slurm_train_what_one_does(whole, cluster, tmp_path, capsys):
    run = tmp_path / "run"
    done = cluster("one-node.sbatch", "pretrain", "--config", SMOKE, "--run_dir", str(run))
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (tmp_path / "called").exists()
    assert losses(run) == pytest.approx(losses(whole), abs=1e-4)
    one, two = final(whole), final(run)
    assert one.keys() == two.keys() and all(torch.allclose(value, two[key], atol=1e-4) for key, value in one.items())

    assert smoke(tmp_path / "on", "--resume", str(run / "checkpoints" / "step-10")) == 0
    assert "was saved by 2 process(es), this is 1" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "on" / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows] == pytest.approx(losses(whole)[10:], abs=1e-4)


@pytest.mark.parametrize("script", ["one-node.sbatch", "nodes.sbatch"])
def test_a_stopped_job_is_queued_again(cluster, tmp_path, script):
    cluster.put("photofound", STOPPED)
    done = cluster(script, "pretrain", "--config", "a file.yaml")
    assert done.returncode == 75 and "requeue" in (tmp_path / "called").read_text()
    started = sorted(done.stdout.splitlines())
    assert started == [f"{i} of 2: train pretrain --config a file.yaml --resume latest" for i in range(2)]


def test_a_failed_job_is_not(cluster, tmp_path):
    cluster.put("photofound", STOPPED.replace("75", "2"))
    assert cluster("nodes.sbatch", "pretrain").returncode == 2 and not (tmp_path / "called").exists()
