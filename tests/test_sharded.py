"""Every real stage in shards, from its first step to its exported model, and that it is the model of one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sharded
from helpers import made_once, run_processes
from safetensors.torch import load_file

from photofound import EditPipeline

pytestmark = pytest.mark.slow  # whole runs, in processes of their own

ROOT = Path(__file__).resolve().parent.parent
MADE = {"autoencoder": "vae", "detail": "detail", "superresolution": "upscaler"}  # else the transformer


@pytest.fixture(scope="module")
def together(tmp_path_factory, tiny_folder):
    """All runs of sharded.py, by several processes."""

    def make(folder):
        sharded.materials(folder)
        run_processes(ROOT / "tests" / "sharded.py", folder, tiny_folder)

    return made_once(tmp_path_factory, "sharded", make)


def weights(run, part):
    (file,) = (run / "model" / part).glob("*.safetensors")
    return load_file(file)


@pytest.mark.slow
@pytest.mark.parametrize("name", sharded.RUNS)
def test_a_stage_ends_with_a_model(together, name):
    rows = [json.loads(line) for line in (together / name / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    part = MADE.get(name, "transformer")
    made = weights(together / name, part)
    assert all(value.isfinite().all() for value in made.values()) and not [key for key in made if "lora" in key]
    if part == "transformer":
        EditPipeline.from_pretrained(together / name / "model")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["finetune", "superresolution"])
def test_it_is_the_model_that_one_process_makes(together, tiny_folder, tmp_path, name):
    sharded.run(name, tmp_path, tiny_folder, sharded.ALIKE, source=together)
    part = MADE.get(name, "transformer")
    one, two = weights(tmp_path / name, part), weights(together / name, part)
    assert one.keys() == two.keys() and all((one[key] - two[key]).abs().max() < 1e-4 for key in one)


@pytest.mark.slow
def test_hybrid_shards_end_with_a_model_too(together):
    assert (together / "hybrid" / "finetune" / "model" / "lora").is_dir()
