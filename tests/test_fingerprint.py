"""Which model it is: by its files, wherever they lie; by its weights, where they are no folder's."""

from __future__ import annotations

import shutil

import pytest
import torch

from photofound import EditPipeline
from photofound.model import fingerprint


def test_a_folder_is_known_by_its_files(tiny, tiny_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    (copy / "README.md").write_text("another card")
    (copy / "evaluation.json").write_text("{}")
    assert fingerprint.of_folder(copy) == fingerprint.of_folder(tiny_folder)
    said = tiny(EditPipeline).fingerprint()
    assert said == {"name": tiny_folder.name, "sha256": fingerprint.of_folder(tiny_folder)}
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert fingerprint.of_folder(copy) != fingerprint.of_folder(tiny_folder)


def test_the_embedded_model_has_a_name():
    from photofound.storage import EMBEDDED

    assert fingerprint.name_of(EMBEDDED) == "photofound-nano"


def test_a_snapshot_of_the_hub_has_its_id_and_the_digests_of_its_blobs(tmp_path):
    snapshot, blob = tmp_path / "models--owner--name" / "snapshots" / "0123", tmp_path / "blobs" / ("a" * 64)
    snapshot.mkdir(parents=True)
    blob.parent.mkdir()
    blob.write_bytes(b"not read")
    (snapshot / "model.safetensors").symlink_to(blob)
    assert fingerprint.name_of(snapshot) == "owner/name"
    before = fingerprint.of_folder(snapshot)
    blob.write_bytes(b"changed, and not read either")
    assert fingerprint.of_folder(snapshot) == before


def test_of_a_large_file_samples_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "_WHOLE", 2**16)
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(2**20))
    before = fingerprint.of_folder(tmp_path)
    path.write_bytes(b"1" + bytes(2**20 - 1))
    assert fingerprint.of_folder(tmp_path) != before


@pytest.mark.slow
def test_changed_weights_and_loras_are_other_models(tiny):
    from peft import LoraConfig

    pipe = tiny(EditPipeline)
    plain = pipe.fingerprint()
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "img_qkv_proj"], init_lora_weights=False))
    adapted = pipe.fingerprint()
    assert adapted["sha256"] == plain["sha256"] and len(adapted["lora"]) == 64
    pipe.register_to_config(_name_or_path=None)
    one = pipe.fingerprint()["sha256"]
    with torch.no_grad():
        next(pipe.transformer.parameters()).add_(1)
    assert pipe.fingerprint()["sha256"] != one and pipe.fingerprint()["name"] is None
