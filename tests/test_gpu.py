"""The GPU benchmark, at toy size on the CPU: every row is measured, a file is gone on with, a failure costs one row."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    """The program as a module; a script's folder is on the path."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    yield gpu
    for name in ("gpu", "gpu_device", "gpu_parts", "latency", "transformer"):  # so that other tests import their own
        sys.modules.pop(name, None)


def run(monkeypatch, gpu, path, *arguments):
    """The program in this process; what is in the file afterwards."""
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--toy", "--json", str(path), *arguments])
    assert gpu.main() == 0
    return json.loads(path.read_text())


@pytest.mark.slow
def test_every_row_of_every_part_is_measured_at_toy_size(gpu, tmp_path, monkeypatch):
    parts = run(monkeypatch, gpu, tmp_path / "toy.json")["parts"]
    assert list(parts) == list(gpu.PARTS)
    rows = {f"{name}: {title}": row for name, part in parts.items() for title, row in part["rows"].items()}
    assert not {title: row["error"] for title, row in rows.items() if "error" in row}
    assert all(row["s"] > 0 for row in rows.values())
    for part in ("forward", "train"):
        assert all(0 < row["MFU"] and row["tokens/s"] > 0 for row in parts[part]["rows"].values())
    assert all(row["apart"] < 0.2 and row["ratio"] > 0 for row in parts["diffusers"]["rows"].values())  # bf16
    (edit,) = parts["edit"]["rows"].values()
    assert edit["calls"] == 4 and min(edit[name] for name in ("text", "encode", "network", "decode", "finish")) > 0


def test_a_file_is_gone_on_with_and_what_failed_is_tried_again(gpu, tmp_path, monkeypatch, capsys):
    path, calls = tmp_path / "out.json", []

    def breaks():
        calls.append("breaks")
        raise RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB")

    def works():
        calls.append("works")
        return {"s": 0.5, "MFU": 0.4}

    def part(device):
        """Two rows."""
        return [("large", breaks), ("small", works)]

    monkeypatch.setattr(gpu, "PARTS", {"first": part, "second": part})
    found = run(monkeypatch, gpu, path, "--parts", "first")
    rows = found["parts"]["first"]["rows"]
    assert list(found["parts"]) == ["first"] and calls == ["breaks", "works"]
    assert rows["large"]["error"].startswith("RuntimeError: CUDA out of memory.") and "\n" not in rows["large"]["error"]
    assert rows["small"]["MFU"] == 0.4 and rows["small"]["took s"] >= 0

    found = run(monkeypatch, gpu, path)
    assert calls == ["breaks", "works", "breaks", "breaks", "works"]
    assert found["parts"]["first"]["rows"]["small"] == rows["small"] and set(found["parts"]) == {"first", "second"}
    assert "2 failed" in capsys.readouterr().out

    assert "MFU 40.0%" not in capsys.readouterr().out
    printed = gpu.table(found)
    assert "**second** Two rows." in printed and "| small | " in printed and "| 40.0% |" in printed


def test_no_row_is_begun_after_the_last_minute(gpu, tmp_path, monkeypatch, capsys):
    found = run(monkeypatch, gpu, tmp_path / "out.json", "--parts", "peak", "--minutes", "0")
    assert found["parts"]["peak"]["rows"] == {}
    assert "2 rows are left" in capsys.readouterr().out


def test_a_file_of_another_machine_is_refused(gpu, tmp_path, monkeypatch, capsys):
    path = tmp_path / "out.json"
    path.write_text(json.dumps({"machine": {"device": "NVIDIA H100 80GB HBM3"}, "parts": {}}))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--toy", "--json", str(path)])
    assert gpu.main() == 2
    assert "was measured on {'device': 'NVIDIA H100 80GB HBM3'}" in capsys.readouterr().out


def test_the_table_of_a_file_is_printed_without_measuring(gpu, tmp_path, monkeypatch, capsys):
    path = tmp_path / "out.json"
    rows = {"512 px": {"s": 0.0123456, "tokens/s": 123456.7, "MFU": 0.456}, "1024 px": {"error": "a | b"}}
    found = {"machine": {"device": "NVIDIA H200"}, "parts": {"train": {"about": "One update.", "rows": rows}}}
    path.write_text(json.dumps(found))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--table", str(path)])
    assert gpu.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "device NVIDIA H200" and lines[2] == "**train** One update."
    assert lines[4:] == [
        "|  | s | tokens/s | MFU | error |",
        "|---|---|---|---|---|",
        "| 512 px | 0.01235 | 123,457 | 45.6% |  |",
        "| 1024 px |  |  |  | a / b |",
    ]


def test_the_large_shape_is_that_of_the_configurations(gpu):
    import gpu_device
    import torch

    from photofound.model.transformer import EditTransformer

    with torch.device("meta"):
        model = EditTransformer(**gpu_device.shape_1b().transformer)
    assert 1.1e9 < sum(parameter.numel() for parameter in model.parameters()) < 1.4e9
    assert model.config.condition_channels == 16 + 8 * 8
