"""photofound export: what is written, how near it is to torch, what is refused."""

import json
import re
from types import SimpleNamespace

import onnx
import pytest
import torch

from photofound.cli import main
from photofound.model.transformer import EditTransformer
from photofound.pipeline import EditPipeline
from photofound.runtimes import export, graphs


@pytest.fixture(scope="module")
def pixel_folder(tmp_path_factory):
    """The least that can be exported: one block, no autoencoder, no text encoder; with every input."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    torch.manual_seed(0)
    transformer = EditTransformer(
        in_channels=3, context_in_dim=8, hidden_size=16, num_heads=2, depth=1, condition_channels=4,
        tasks=("generate", "inpaint"), guidance_embeds=True, reference_embeds=True,
    )  # fmt: skip
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    transformer.to(torch.bfloat16)  # as checkpoints are stored
    folder = tmp_path_factory.mktemp("pixels")
    distilled = {"phases": 2, "guidance": [1.0, 4.0], "teacher_steps": 4}
    pipe = EditPipeline(transformer, None, None, None, FlowMatchEulerDiscreteScheduler(), tile=32, distilled=distilled)
    pipe.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_the_command_writes_a_model_folder_and_says_how_near_it_is(pixel_folder, tmp_path, capsys):
    """Traced once, run at other sizes; loaded again, and in the place of what it was made of."""
    out = tmp_path / "out"
    assert main(["export", "--to", "onnx", "--model", str(pixel_folder), "-o", str(out)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * len(export.SIZES) and "transformer/reference" in lines[-1]
    words, number = last.rsplit(" ", 1)
    assert words == "max difference" and 0 < float(number) < 1e-4
    made = json.loads((out / "runtime.json").read_text())
    assert made["runtime"] == "onnx" and max(made["max_difference"].values()) == pytest.approx(float(number), rel=0.01)
    kept = {path.name for path in out.rglob("*") if path.suffix in (".safetensors", ".bin", ".py")}
    assert not kept
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert not re.search(rb"\.py\W", written) and str(pixel_folder).encode() not in written  # no paths of this machine
    weights = onnx.load(out / "transformer/model.onnx").graph.initializer
    assert {each.data_type for each in weights if len(each.raw_data) >= 4096} <= {onnx.TensorProto.BFLOAT16}
    assert any(each.data_type == onnx.TensorProto.BFLOAT16 for each in weights)  # as small as in the checkpoint
    pipe = EditPipeline.from_pretrained(out)
    assert pipe.runtime == "onnx" and pipe.config.distilled["teacher_steps"] == 4
    with pytest.raises(ValueError, match="this model is graphs already"):
        export.export(pipe, "onnx", tmp_path / "again")


def test_a_difference_that_is_too_large_has_status_1(monkeypatch, tmp_path, capsys, tiny_folder):
    monkeypatch.setattr(export, "export", lambda pipe, target, output, say: say("a (batch 1): 2.0e-03") or 2e-3)
    assert main(["export", "--to", "onnx", "--model", str(tiny_folder), "-o", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "max difference 2.00e-03" and "do not rely on it" in printed.err


def test_parity_sees_a_graph_that_is_wrong():
    network = torch.nn.Linear(4, 4)
    graph = graphs.Graph(
        "a/b", graphs.Call(network, torch.nn.Linear.forward), (graphs.Given("x", ("batch", 4)),), ("y",)
    )
    right = list(export.parities(graph, lambda x: [network(x)]))
    wrong = list(export.parities(graph, lambda x: [network(x) + (len(x) > 1)]))  # right for a batch of one alone
    assert [each.difference for each in right] == [0, 0, 0]
    assert [each.difference >= 1 for each in wrong] == [False, True, True]
    assert str(right[1]) == "a/b (batch 3): 0.0e+00"


def test_every_input_of_a_graph_matters(tiny):
    """Parity could not see an input that the graph forgets, if the network did not depend on it."""
    pipe = tiny(EditPipeline)
    for graph in graphs.graphs_of(pipe):
        given = graph.example(export.SIZES[1])
        with torch.no_grad():
            plain = graph.module(*given)
            for place, (each, value) in enumerate(zip(graph.inputs, given, strict=True)):
                other = (
                    ~value if each.kind == "flag" else (value + 1) % each.most if each.kind == "index" else 1 - value
                )
                changed = graph.module(*given[:place], other, *given[place + 1 :])
                assert (plain != changed).any(), f"{graph.name}: {each.name}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "coreml", "-o", "x"], "argument --to: invalid choice: 'coreml'"),
        (["--to", "onnx"], "the following arguments are required: -o/--output"),
        (["--to", "onnx", "-o", "{used}"], "output .* is already there: remove it or name another folder"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, message, tmp_path, capsys, tiny_folder):
    (tmp_path / "photo.png").write_bytes(b"x")
    given = [each.format(used=tmp_path) for each in arguments]
    assert main(["export", "--model", str(tiny_folder), *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    assert (tmp_path / "photo.png").exists()


def test_a_missing_exporter_says_what_to_install(monkeypatch, tmp_path, tiny):
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install 'photofound\[export\]'"):
        export.export(tiny(EditPipeline), "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_projects_pipeline_is_refused():
    guest = SimpleNamespace(painter=None, transformer=None)
    with pytest.raises(ValueError, match="another project's pipeline"):
        export._check(guest)
