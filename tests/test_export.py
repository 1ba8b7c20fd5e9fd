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
from photofound.runtimes import export, graphs, mobile


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


# ---------------------------------------------------------------------------------------------------------- ExecuTorch


@pytest.mark.parametrize("case", ["plain", "flags", "numbers", "causal", "grouped", "scaled"])
def test_attention_in_products_is_torchs(case):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, heads, n, 8, generator=generator) for heads, n in ((4, 5), (4, 7), (4, 7)))
    given = {
        "flags": {"attn_mask": torch.tensor([1, 0, 1, 1, 0, 1, 0]).bool().expand(2, 1, 1, 7)},
        "numbers": {"attn_mask": torch.randn(5, 7, generator=generator)},
        "causal": {"is_causal": True},
        "grouped": {"enable_gqa": True},
        "scaled": {"scale": 1.0},
    }.get(case, {})
    if case == "grouped":
        key, value = key[:, :2], value[:, :2]
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, **given)
    torch.testing.assert_close(mobile._attention(query, key, value, **given), wanted)


class _Attends(torch.nn.Module):
    """What the transformer asks of ExecuTorch, in little."""

    def forward(self, x, seen):
        query, key, value = x.unflatten(-1, (3, 2, -1)).unbind(2)
        query, key, value = (each.transpose(1, 2) for each in (query, key, value))
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, seen[:, None, None])
        left, right = torch.nn.functional.gelu(mixed.transpose(1, 2).flatten(2), approximate="tanh").chunk(2, -1)
        return left[:, None] * torch.nn.functional.gelu(right)[:, :, None]


def _attending():
    inputs = (graphs.Given("x", ("batch", "text", 24)), graphs.Given("seen", ("batch", "text"), "flag"))
    return graphs.Graph("a/b", graphs.Call(_Attends(), torch.nn.Module.__call__), inputs, ("y",))


def test_a_phones_program_has_no_operator_that_xnnpack_gets_wrong():
    """Attention in products and GELU's tanh form in full, at every size, and the same as torch's."""
    graph = _attending()
    program = export.traced(graph, mobile.most(graph)).run_decompositions(mobile._PLAIN)
    left = [node for node in program.graph.nodes if node.target in mobile._PLAIN]
    assert [(node.target, node.kwargs) for node in left] == [(torch.ops.aten.gelu.default, {})]  # the form that it has
    run = program.module()
    for sizes in export.SIZES[1:]:
        x, seen = graph.example(sizes)
        seen[:, 0] = True  # nothing is wanted of a query that may see nothing
        torch.testing.assert_close(run(x, seen), graph.module(x, seen))


def test_sizes_of_phones_programs_are_limited_in_pixels(tiny):
    """A row is 1 pixel of the upscaler, and 8 or 16 of others."""
    pipe = tiny(EditPipeline)
    sides = {}
    for graph in graphs.graphs_of(pipe):
        most = mobile.most(graph)
        assert all(size <= most[name] for sizes in export.SIZES for name, size in sizes.items())
        if "rows" in graph.varying:
            sides[graph.name] = most["rows"] * graph.pixels
    assert set(sides.values()) == {mobile.SIDE}
    assert {"transformer/model", "vae/encoder", "vae/decoder"} <= set(sides)
    pixels = {each.name: each for each in graphs.graphs_of(pipe)}["vae/encoder"]
    assert pixels.inputs[0].sizes(mobile.most(pixels))[-2:] == [mobile.SIDE, mobile.SIDE]


def test_an_engine_takes_pictures_of_a_thousand_pixels_whatever_a_networks_unit_is(tiny, tmp_path):
    for graph in graphs.graphs_of(tiny(EditPipeline)):
        limits = [word.split("=", 1)[1] for word in export.engine_command(graph, tmp_path).split() if "Shapes=" in word]
        assert len(limits) == 3 and all(each.count(":") == len(graph.inputs) for each in limits)
        if "rows" in graph.varying:
            least, usual, most = (sizes["rows"] * graph.pixels for sizes in export.engine_sizes(graph))
            assert (usual, most) == (256, 1024) and least <= 64
        if graph.name == "vae/encoder":
            assert limits[2] == "pixels:8x3x1024x1024"


def test_a_folder_for_phones_says_so(monkeypatch, tmp_path, tiny):
    """What the writer is given, and what becomes of the folder; without ExecuTorch."""
    import sys

    written = {}

    def write(program, path):
        written[f"{path.parent.name}/{path.name}"] = program
        return lambda *given: [program.module()(*given)]

    monkeypatch.setitem(sys.modules, "executorch", SimpleNamespace())
    monkeypatch.setattr(mobile, "write", write)
    layer = graphs.Call(torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d.__call__)
    low = graphs.Given("low", ("batch", 3, "rows", "columns"))
    monkeypatch.setattr(export, "graphs_of", lambda pipe: [graphs.Graph("a/b", layer, (low,), ("high",), 8)])
    assert export.export(tiny(EditPipeline), "executorch", tmp_path / "out") < 1e-5
    assert {int(each.upper) for each in written["a/b"].range_constraints.values()} == {4, mobile.SIDE // 8}
    with pytest.raises(ValueError, match="was exported for ExecuTorch, which runs on phones; load what it was made of"):
        EditPipeline.from_pretrained(tmp_path / "out")


def test_a_missing_executorch_says_what_to_install(monkeypatch, tmp_path, tiny):
    import sys

    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(ImportError, match=r"pip install 'photofound\[executorch\]'"):
        export.export(tiny(EditPipeline), "executorch", tmp_path / "out")


@pytest.mark.slow
def test_programs_for_phones_compute_what_torch_computes(tmp_path):
    """Where ExecuTorch is installed; the suite's own environment has none."""
    pytest.importorskip("executorch")
    graph = _attending()
    run = export._executorch(graph, tmp_path / "attends")
    assert [path.name for path in tmp_path.iterdir()] == ["attends.pte"]
    for sizes in export.SIZES:
        x, seen = graph.example(sizes)
        seen[:, 0] = True
        torch.testing.assert_close(run(x, seen), [graph.module(x, seen)], atol=1e-5, rtol=1e-4)
