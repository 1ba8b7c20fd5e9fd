"""Commands that need no model answer at once: they import neither torch nor what is built on it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft", "datasets", "cv2", "fastapi", "gradio"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
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
        "train finetune --help",
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
    ],
)
def test_a_command_without_a_model_imports_nothing_heavy(line):
    code = f"""
        import sys
        from photofound.cli import main
        try:
            main(sys.argv[1:])
        except SystemExit:
            pass
        heavy = {HEAVY} & set(sys.modules)
        assert not heavy, heavy
        assert len(sys.modules) < 600, len(sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *line.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_task_file_may_import_torch(tmp_path):
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
    code = (
        "import os, sys; os.environ['PHOTOFOUND_TASKS'] = sys.argv[1]; from photofound.cli import main; main(['tasks'])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert "mirror: turn a picture around" in done.stdout, done.stderr
