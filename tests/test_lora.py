"""LoRA and DoRA: what the papers say of them, files to go on with, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import load_pipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stages import overrides
from torch import nn

from photofound import config
from photofound.model.transformer import EditTransformer
from photofound.pipeline import EditPipeline
from photofound.train import lora
from photofound.train.adapt import adapt
from photofound.train.distributed import World
from photofound.train.settings import AdaptedModelConfig, LoraConfig
from photofound.train.trainer import Trainer
from photofound.training.finetune import Config, FinetuneStage

FILE = "pytorch_lora_weights.safetensors"
SMALL = LoraConfig(rank=2, alpha=4, targets=("img_qkv_proj", "down_proj"))


def adapted(pipe, config=SMALL, **more):
    adapt(nn.ModuleDict({"transformer": pipe.transformer}), AdaptedModelConfig(lora=config, **more))
    return pipe


def shaken(pipe, config=SMALL):
    """A pipeline with a LoRA that has learnt something."""
    adapted(pipe, config)
    for name, parameter in pipe.transformer.named_parameters():
        if "lora_" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return pipe


@torch.no_grad()
def velocity(pipe):
    model, generator = pipe.transformer.eval(), torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 16, generator=generator)
    condition = torch.randn(2, model.config.condition_channels, 8, 8, generator=generator)
    return model(x, torch.tensor([0.3, 0.7]), text, condition=condition, task=torch.tensor([1, 3])).sample


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_dora_is_the_length_times_the_direction(tiny):
    """m (W + alpha / rank * B A) / |W + ...|, row by row; at first m = |W| and B = 0, so nothing changes."""
    pipe = tiny(EditPipeline)
    before = velocity(pipe)
    adapted(pipe, replace(SMALL, dora=True))
    close(velocity(pipe), before)
    layer = next(m for m in pipe.transformer.modules() if hasattr(m, "lora_magnitude_vector") and hasattr(m, "lora_A"))
    a, b, m = layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.lora_magnitude_vector["default"]
    b.data.normal_()
    m.weight.data *= 1.5
    direction = layer.base_layer.weight + 4 / 2 * b @ a
    x = torch.randn(3, direction.shape[1])
    wanted = x @ (m.weight[:, None] * direction / direction.norm(dim=1, keepdim=True)).T
    close(layer(x), wanted + (0 if layer.base_layer.bias is None else layer.base_layer.bias))
    assert {name.split(".")[-3] for name, p in pipe.transformer.named_parameters() if p.requires_grad} == {
        "lora_A", "lora_B", "lora_magnitude_vector",
    }  # fmt: skip


@pytest.mark.parametrize("kind", [{}, {"rslora": True}, {"dora": True}], ids=["lora", "rslora", "dora"])
def test_what_is_saved_is_merged_loaded_and_gone_on_with(tiny, tmp_path, kind):
    pipe = shaken(tiny(EditPipeline), replace(SMALL, **kind))
    made = velocity(pipe)
    lora.save(pipe, tmp_path)
    close(velocity(lora.merge(pipe)), made)
    loaded = tiny(EditPipeline)
    loaded.load_lora_weights(tmp_path)
    close(velocity(loaded), made)

    onward = tiny(EditPipeline)
    adapted(onward, LoraConfig(start=str(tmp_path)))  # what the file says holds, not the defaults of the options
    lora.load(onward.transformer, str(tmp_path))
    assert torch.equal(velocity(onward), made)
    trained = {name for name, p in onward.transformer.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in pipe.transformer.named_parameters() if p.requires_grad}


def rewritten(source, folder, rename=lambda name: name, change=lambda value: value, settings=False):
    """A LoRA's file with other names and values; without its settings unless ``settings``."""
    folder.mkdir(exist_ok=True)
    with safe_open(source / FILE, "pt") as file:
        metadata = file.metadata() if settings else None
    made = {rename(name): change(value).contiguous() for name, value in load_file(source / FILE).items()}
    save_file(made, folder / FILE, metadata)
    return str(folder / FILE)


@pytest.fixture
def saved(tiny, tmp_path):
    lora.save(shaken(tiny(EditPipeline), replace(SMALL, alpha=2)), tmp_path / "lora")
    return tmp_path / "lora"


NAMINGS = {
    "diffusers, half precision": (lambda name: name, lambda value: value.half()),
    "peft": (lambda name: name.replace("transformer.", "base_model.model."), lambda value: value),
    "no prefix": (lambda name: name.removeprefix("transformer."), lambda value: value),
    "diffusers of old": (
        lambda name: name.replace("lora_A", "lora.down").replace("lora_B", "lora.up"),
        lambda value: value,
    ),
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_other_programs_files_are_gone_on_with(tiny, tmp_path, saved, naming):
    """Without settings in the file the rank is that of its layers, and alpha the same."""
    start = rewritten(saved, tmp_path / "other", *NAMINGS[naming])
    onward = adapted(tiny(EditPipeline), LoraConfig(start=start))
    lora.load(onward.transformer, start)
    original = tiny(EditPipeline)
    original.load_lora_weights(saved)
    torch.testing.assert_close(velocity(onward), velocity(original), rtol=1e-2, atol=2e-3)


def test_layers_of_other_ranks_keep_theirs(tiny, tmp_path, saved):
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    weights = load_file(saved / FILE)
    first = min(weights).rpartition(".lora_")[0]
    weights[f"{first}.lora_A.weight"] = weights[f"{first}.lora_A.weight"][:1].contiguous()
    weights[f"{first}.lora_B.weight"] = weights[f"{first}.lora_B.weight"][:, :1].contiguous()
    save_file(weights, narrow / FILE)
    onward = adapted(tiny(EditPipeline), LoraConfig(start=str(narrow)))
    lora.load(onward.transformer, str(narrow))
    state = {name: p for name, p in onward.transformer.named_parameters() if "lora_" in name}
    assert sorted({min(p.shape) for p in state.values()}) == [1, 2]


def refusal(tiny, start):
    with pytest.raises((ValueError, OSError)) as caught:
        adapted(tiny(EditPipeline), LoraConfig(start=str(start)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_do_not_fit_are_refused_in_a_line(tiny, tmp_path, saved):
    other = tmp_path / "other"
    assert "no layer of a LoRA" in refusal(
        tiny, rewritten(saved, other, lambda name: name.replace("lora_A", "hada_w1"))
    )
    assert "it is missing" in refusal(
        tiny, rewritten(saved, other, lambda name: name.replace("blocks.0.", "blocks.1.").replace("lora_B", "lora_A"))
    )
    assert "does not fit this model" in refusal(tiny, rewritten(saved, other, lambda n: n.replace("blocks.", "rows.")))
    wide = rewritten(saved, other, change=lambda value: torch.cat([value, value], 1))
    assert "another shape" in refusal(tiny, wide)
    (other / FILE).write_bytes(b"no weights")
    assert "is damaged" in refusal(tiny, other)
    assert "does not exist" in refusal(tiny, tmp_path / "nothing.safetensors")
    torch.save({}, tmp_path / "lora.bin")
    assert "is not a .safetensors file" in refusal(tiny, tmp_path / "lora.bin")
    save_file({"a.lora_A.weight": torch.zeros(2, 2)}, other / FILE, {"lora_adapter_metadata": json.dumps({"r": "x"})})
    assert "lora" in refusal(tiny, other).lower()


def test_what_makes_no_sense_is_refused(tiny):
    with pytest.raises(ValueError, match="model.lora.start: goes with model.train=lora, not full"):
        AdaptedModelConfig(train="full", lora=LoraConfig(start="x"))
    with pytest.raises(ValueError, match="a DoRA measures the weights, not their nf4; use fp32 or bf16"):
        adapted(tiny(EditPipeline), replace(SMALL, dora=True), base="nf4")


@pytest.mark.slow
def test_a_dora_that_goes_on_from_a_file_resumes_exactly(tiny_folder, shards, tiny, tmp_path):
    """Two updates at once, and one, stopped, and another; its weights are exported merged."""
    pipe = shaken(tiny(EditPipeline), replace(SMALL, dora=True))
    lora.save(pipe, tmp_path / "given")
    before = velocity(pipe)

    def run(name, steps, resume=None):
        arguments = overrides(
            tiny_folder, shards, f"--model.lora.start={tmp_path / 'given'}", "--validation.times=0",
            f"--train.steps={steps}", "--train.batch_size=2", "--train.trackers=[]", "--train.device=cpu",
            "--train.schedule=constant", "--train.lr=0.01", "--train.ema=0",
        )  # fmt: skip
        settings = config.load(Config, None, arguments)
        stage = FinetuneStage(settings, World())
        started = velocity(stage.pipeline)
        stage.sheet = lambda: torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()
        assert Trainer(settings.train, stage, tmp_path / name, resume).run()
        return started, velocity(stage.pipeline), velocity(load_pipeline(EditPipeline, tmp_path / name / "model"))

    started, whole, exported = run("whole", 2)
    assert torch.equal(started, before) and not torch.equal(whole, before)
    close(exported, whole)
    run("again", 1)
    assert torch.equal(run("again", 2, "latest")[1], whole)


def test_a_dora_is_planned_on_shapes():
    """The memory plan runs it on the meta device."""
    with torch.device("meta"):
        model = EditTransformer(in_channels=4, context_in_dim=8, hidden_size=32, num_heads=2, depth=2)
        lora.add(model, replace(SMALL, dora=True))
    assert lora.is_dora(model) and any("magnitude" in name for name, _ in model.named_parameters())
