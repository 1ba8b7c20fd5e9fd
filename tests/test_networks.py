"""Networks that are graphs, in a pipeline: the same results as torch's, alone and in company, and what is refused.

``tests/frozen/graphs`` is ``tests/frozen/model``, exported for ONNX Runtime.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers import load_pipeline, noise, seeded

from photofound import EditPipeline, InpaintPipeline, UpscalePipeline, image
from photofound.cli import main
from photofound.edits.task import get_task
from photofound.image import Picture
from photofound.picture import provenance
from photofound.pipeline import pipeline_class
from photofound.redo import redo
from photofound.runtimes import session
from photofound.runtimes.session import RUNTIMES, Session, computed_in, openvino_core

FROZEN = Path(__file__).parent / "frozen"
GRAPHS = FROZEN / "graphs"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The exported model for each runtime."""
    import openvino

    folder, core = tmp_path_factory.mktemp("openvino"), openvino_core()
    shutil.copytree(GRAPHS, folder, dirs_exist_ok=True)
    for path in folder.rglob("*.onnx"):
        openvino.save_model(core.read_model(path), path.with_suffix(".xml"), compress_to_fp16=False)
        path.unlink()
    record = json.loads((folder / "runtime.json").read_text())
    (folder / "runtime.json").write_text(json.dumps(record | {"runtime": "openvino"}))
    return {"onnx": GRAPHS, "openvino": folder}


@pytest.fixture(scope="module")
def pipes(folders):
    """A pipeline in each runtime, and in torch."""
    return {"torch": load_pipeline(EditPipeline, FROZEN / "model")} | {
        name: load_pipeline(EditPipeline, folder, runtime=name) for name, folder in folders.items()
    }


def box(height: int = 70, width: int = 90) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[20:50, 30:60] = 255
    return mask


EDITS = {
    "inpaint": {"mask_image": box(), "prompt": "a cup"},
    "erase": {"mask_image": box()},
    "expand": {"left": 20},
    "outpaint": {"subject": 255 - box(), "prompt": "sand", "guidance_scale": 3.0},
    "upscale": {"scale": 2},
}


@pytest.mark.parametrize("task", EDITS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_edit_is_the_same_as_by_torch(runtime, task, pipes, photo):
    found = {}
    for name in ("torch", runtime):
        pipe = pipes[name].for_task(task)
        found[name] = np.asarray(pipe(photo, **EDITS[task], generator=seeded()).images[0]).astype(int)
    assert np.abs(found["torch"] - found[runtime]).max() <= 1  # of 255: rounding
    if task in ("inpaint", "outpaint"):
        assert (found[runtime][box() == 0] == photo[box() == 0]).all()  # kept pixels are exact, as ever


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_company_does_not_matter(runtime, pipes):
    """Bit for bit, in batches and in threads."""
    pipe = pipes[runtime].for_task("inpaint")
    task = get_task("inpaint")
    jobs = [task.prepare(Picture.from_any(noise(64, 64, seed=i)), box(64, 64), words) for i, words in enumerate("ab")]
    settings = pipe.check({"guidance_scale": 3.0})[:2]
    together = [made.to_float() for made in pipe.run(jobs, [seeded(0), seeded(1)], *settings)]
    alone = [pipe.run([job], [seeded(i)], *settings)[0].to_float() for i, job in enumerate(jobs)]
    assert all((a == b).all() for a, b in zip(together, alone, strict=True))
    threaded = {}
    threads = [
        threading.Thread(
            target=lambda i=i: threaded.update({i: pipe.run([jobs[i % 2]], [seeded(i % 2)], *settings)[0]})
        )
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((threaded[i].to_float() == alone[i % 2]).all() for i in range(4))


@pytest.mark.parametrize("alone", [True, False])
def test_openvino_computes_in_bfloat16_only_where_it_has_two_threads(monkeypatch, alone):
    """With one it may divide by zero, which ends the process."""
    if alone:
        monkeypatch.setattr(session, "_openvino_threads", lambda _: {"INFERENCE_NUM_THREADS": 1})
    several = not alone and len(os.sched_getaffinity(0)) > 1
    assert computed_in("openvino", torch.bfloat16) == (torch.bfloat16 if several else torch.float32)
    assert computed_in("openvino", torch.float16) == computed_in("onnx", torch.bfloat16) == torch.float32


def test_a_folder_without_weights_picks_what_it_was_exported_for(folders):
    for name, folder in folders.items():
        pipe = InpaintPipeline.from_pretrained(folder)
        assert pipe.runtime == name and pipe.computed["runtime"].startswith(f"{name} ")
        assert name == "openvino" or pipe.computed["dtype"] == "float32"  # whatever this machine's fast one is
        other = next(each for each in ("torch", *RUNTIMES) if each != name)
        with pytest.raises(ValueError, match=f"was exported for {name}, not for {other}.*photofound export --to"):
            InpaintPipeline.from_pretrained(folder, runtime=other)
    with pytest.raises(ValueError, match="'tflite' is unknown; use torch, onnx or openvino"):
        InpaintPipeline.from_pretrained(GRAPHS, runtime="tflite")
    with pytest.raises(ValueError, match="has no teacher to load; export one"):
        InpaintPipeline.from_pretrained(GRAPHS, teacher=True)


def test_a_model_of_torch_is_exported_once_into_the_users_cache(monkeypatch, tmp_path, photo):
    """And keeps its name and digest in recipes, so that the result can be made again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def fake(pipe, target, folder):
        calls.append((target, pipe.dtype))
        shutil.copytree(GRAPHS, folder)

    monkeypatch.setattr("photofound.runtimes.export.export", fake)
    with pytest.warns(UserWarning, match="is exported for onnx once, into .*photofound"):
        load_pipeline(InpaintPipeline, FROZEN / "model", runtime="onnx")
    pipe = load_pipeline(UpscalePipeline, FROZEN / "model", runtime="onnx")
    assert calls == [("onnx", torch.float32)]
    torch_pipe = load_pipeline(UpscalePipeline, FROZEN / "model")
    assert pipe.fingerprint() == torch_pipe.fingerprint()
    made = pipe(photo, scale=2, generator=seeded(), output_type="picture").images[0]
    assert json.loads(made.recipe)["computed"]["runtime"].startswith("onnx ")
    image.save(provenance.mark(made), tmp_path / "big.png")
    assert redo(tmp_path / "big.png", [save(tmp_path, photo)], pipe).same
    with pytest.warns(UserWarning, match="runtime is not the same: it was onnx"):
        redo(tmp_path / "big.png", [tmp_path], torch_pipe)


def save(folder: Path, photo: np.ndarray) -> Path:
    from PIL import Image

    Image.fromarray(photo).save(folder / "photo.png")
    return folder / "photo.png"


SIGNALLED = """
import gc, signal, sys
from pathlib import Path
import torch
from photofound.runtimes.session import Session

signal.signal(signal.SIGUSR1, lambda *_: print("signalled"))
sessions = [Session(Path(sys.argv[1]), "openvino", ["pixels"]) for _ in range(2)]
for session in sessions:
    session(torch.zeros(1, 3, 32, 32))
del session, sessions[0]  # the first one first
gc.collect()
del sessions
gc.collect()
signal.raise_signal(signal.SIGUSR1)
"""


@pytest.mark.slow
def test_a_signal_after_two_graphs_ends_nothing(folders):
    """OpenVINO changes the stack that signals are handled on."""
    path = folders["openvino"] / "vae" / "encoder.xml"
    done = subprocess.run([sys.executable, "-c", SIGNALLED, path], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "signalled\n", done.stderr


def test_the_command_line_has_the_option(tmp_path, photo, capsys):
    out = tmp_path / "big.png"
    command = ["upscale", str(save(tmp_path, photo)), "--model", str(GRAPHS), "-o", str(out), "--quiet"]
    assert main([*command, "--runtime", "onnx"]) == 0 and out.exists()
    assert main([*command, "--runtime", "torch", "--overwrite"]) == 2
    assert "was exported for onnx, not for torch" in capsys.readouterr().err
    assert main(["redo", str(out), "--model", str(GRAPHS), "-o", str(tmp_path / "again.png")]) == 0


def test_what_graphs_cannot_do_is_refused(pipes, tmp_path):
    pipe = pipes["onnx"]
    for call in (
        lambda: pipe.save_pretrained(tmp_path / "out"),
        lambda: pipe.load_lora_weights(tmp_path),
        pipe.fuse_lora,
        lambda: pipe.quantize("int8"),
        lambda: pipe.enable_first_block_cache(0.2),
        lambda: pipe.to("cuda"),
    ):
        with pytest.raises(ValueError, match="graphs for onnx|runtime onnx|has no blocks"):
            call()
    assert not list(tmp_path.iterdir())


def test_a_missing_runtime_says_what_to_install(monkeypatch):

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"runtime onnx needs packages.*pip install 'photofound\[onnx\]'"):
        EditPipeline.from_pretrained(GRAPHS)


# -------------------------------------------------------------------------------------------------- foreign folders


def changed(folder: Path, change) -> Path:
    """A copy of the exported folder whose upscaler's tail has been changed."""
    shutil.copytree(GRAPHS, folder)
    path = folder / "upscaler" / "x2.onnx"
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return folder


def external(model, location: str) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        tensor.external_data.add(key=key, value=value)


def constant_outside(model) -> None:
    """In an attribute of a node within a branch, where a look at the initializers alone would miss it."""
    inner = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(
        np.zeros(4, np.float32)))], "branch", [], [])  # fmt: skip
    tensor = inner.node[0].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.append(onnx.helper.make_node("If", ["low"], ["z"], then_branch=inner, else_branch=inner))


HOSTILE = {
    "parent": (lambda model: external(model, "../../secret.bin"), "reads its weights from '../../secret.bin'"),
    "absolute": (lambda model: external(model, "/etc/passwd"), "reads its weights from '/etc/passwd'"),
    "sibling": (lambda model: external(model, "x3.onnx"), "only x2.onnx.data, beside it, is read"),
    "gone": (lambda model: external(model, "x2.onnx.data"), "x2.onnx.data is missing"),
    "branch": (constant_outside, "reads its weights from '/etc/passwd'"),
    "operator": (lambda model: setattr(model.graph.node[0], "domain", "evil.ops"), "wants the operator evil.ops.Conv"),
    "input": (lambda model: setattr(model.graph.input[0], "name", "other"), "is given other, but its network features"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_graph_is_refused_before_it_is_opened(name, tmp_path, photo, monkeypatch):
    change, message = HOSTILE[name]
    pipe = load_pipeline(UpscalePipeline, changed(tmp_path / "model", change))
    monkeypatch.setattr(Session, "_open_onnx", lambda *_: pytest.fail("it was opened"), raising=False)
    with pytest.raises(ValueError, match=message):
        pipe(photo, scale=2)


def test_a_link_out_of_the_folder_is_refused(tmp_path, photo):
    shutil.copytree(GRAPHS, tmp_path / "model")
    outside = tmp_path / "outside.onnx"
    shutil.move(tmp_path / "model/upscaler/x2.onnx", outside)
    (tmp_path / "model/upscaler/x2.onnx").symlink_to(outside)
    with pytest.raises(ValueError, match="x2.onnx is no plain file"):
        load_pipeline(UpscalePipeline, tmp_path / "model")(photo, scale=2)


@pytest.mark.parametrize("damage", [b"", b"\x00" * 100, b"not a graph"])
def test_a_damaged_graph_is_one_line(damage, tmp_path, photo):
    shutil.copytree(GRAPHS, tmp_path / "model")
    (tmp_path / "model/upscaler/trunk.onnx").write_bytes(damage)
    with pytest.raises(ValueError, match=r"^model: .*trunk.onnx [^\n]*$"):
        load_pipeline(UpscalePipeline, tmp_path / "model")(photo, scale=2)


def test_a_damaged_record_is_refused(tmp_path):
    shutil.copytree(GRAPHS, tmp_path / "model")
    (tmp_path / "model/runtime.json").write_text('{"runtime": "../x"}')
    with pytest.raises(ValueError, match="runtime is '../x'; it must be onnx or openvino"):
        pipeline_class("upscale").from_pretrained(tmp_path / "model")
