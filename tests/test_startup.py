"""Commands that need no model answer at once: they import neither torch nor what is built on it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from helpers import extra_tasks

from photofound.cli import main
from photofound.training import TRAININGS

HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft", "datasets", "cv2", "fastapi", "gradio"}


LINES = [
    "--help",
    "--version",
    "tasks",
    "eraze",
    "outpaint --help",
    "generate --help",
    "upscale missing.png",
    "inpaint missing.png --steps many",
    "train",
    "train --help",
    *(f"train {stage} --help" for stage in (*TRAININGS, "prepare")),
    "train finetune --config missing.yaml",
    "train finetune --train.larning=1",
    "train pretrain --trian.lr 3",
    "completion bash",
    "serve --help",
    "serve --port many",
    "eval --help",
    "demo --help",
    "card --help",
    "convert --help",
    "verify --help",
    "verify missing.png other.png",
    "redo --help",
    "run --help",
    "learn --help",
    "learn missing",
    "run missing.yaml photos",
    "redo missing.png -o again.png",
]
EACH = """
    import contextlib, json, sys
    from photofound.cli import main

    found = []
    for line in sys.stdin.read().splitlines():
        with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
            main(line.split())
        found.append(sorted(name for name in sys.modules if "." not in name or name.startswith("photofound.")))
        print(len(sys.modules), *found[-1])
"""


@pytest.mark.slow
def test_a_command_without_a_model_imports_nothing_heavy():
    """One process for all of them: what none of them imports, no one of them does alone."""
    command = [sys.executable, "-c", textwrap.dedent(EACH)]
    done = subprocess.run(command, input="\n".join(LINES), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert len(answers) == len(LINES), done.stderr
    for line, answer in zip(LINES, answers, strict=True):
        count, *names = answer.split()
        assert not HEAVY & set(names), (line, HEAVY & set(names))
        assert int(count) < 600, (line, count)


def test_a_task_file_may_import_torch(tmp_path, monkeypatch, capsys):
    """What users drop in is loaded as it is; only the built-in tasks promise a quick start."""
    (tmp_path / "mirror.py").write_text(
        textwrap.dedent("""
            import numpy as np
            import torch

            from photofound.edits.task import Job, Task


            class Mirror(Task):
                name = "mirror"
                summary = "turn a picture around"

                def prepare(self, picture, prompt=""):
                    empty = np.zeros((picture.height, picture.width), np.float32)
                    return Job(picture, empty, 1 - empty)

                def example(self, sample, generator):
                    return self.conditions(sample, torch.ones_like(sample.matte))


            TASK = Mirror()
        """)
    )
    with extra_tasks(tmp_path, monkeypatch):
        assert main(["tasks"]) == 0
    assert "mirror: turn a picture around" in capsys.readouterr().out
