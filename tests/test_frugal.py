"""Little memory: fewer bits, weights that travel, moments of eight bits or on the CPU: all train, and go on."""

import json

import pytest
import torch
from safetensors.torch import load_file
from stages import overrides

from photofound import config
from photofound.pipeline import EditPipeline
from photofound.train import fewer_bits, lora
from photofound.train.distributed import World
from photofound.train.trainer import Trainer
from photofound.training.finetune import Config, FinetuneStage

BF16 = "--train.precision=bf16"


@pytest.fixture(autouse=True)
def eager():
    with torch.compiler.set_stance("force_eager"):  # torchao compiles its optimizer, which takes half a minute
        yield


def train(folder, tiny_folder, shards, *more, steps=3, resume=None):
    """The losses of the run, and where it is."""
    arguments = overrides(
        tiny_folder, shards, "--validation.times=0", f"--train.steps={steps}", "--train.save_every=2",
        "--train.trackers=[]", "--train.device=cpu", "--train.batch_size=4", "--train.schedule=constant",
        "--train.lr=0.01", *more,
    )  # fmt: skip
    settings = config.load(Config, None, arguments)
    stage = FinetuneStage(settings, World())
    stage.sheet = lambda: torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()
    assert Trainer(settings.train, stage, folder, resume).run()
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder, part="transformer"):
    return load_file(next((folder / "model" / part).glob("*.safetensors")))


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tiny_folder, shards):
    """A run that saves nothing of memory: its losses and its folder."""
    folder = tmp_path_factory.mktemp("plain")
    return train(folder, tiny_folder, shards, BF16), folder


@pytest.mark.slow
def test_weights_that_travel_change_nothing(tmp_path, tiny_folder, shards, plain):
    losses = train(tmp_path, tiny_folder, shards, BF16, "--model.swap_blocks=2")
    assert losses == pytest.approx(plain[0], rel=1e-5)  # bfloat16 rounds sums of gradients in another order
    mine, theirs = weights(tmp_path), weights(plain[1])
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-3) for name in theirs)
    with pytest.raises(ValueError, match="model.swap_blocks: 99 must be from 0 to"):
        train(tmp_path / "b", tiny_folder, shards, BF16, "--model.swap_blocks=99")


@pytest.mark.slow
def test_frozen_weights_of_fewer_bits_leave_the_export_as_it_was_read(tmp_path, tiny_folder, shards, plain):
    losses = train(tmp_path, tiny_folder, shards, BF16, "--model.base=bf16", "--model.frozen=bf16")
    assert losses == pytest.approx(plain[0], rel=0.02)
    start = EditPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
    for part in ("vae", "text_encoder"):
        kept = getattr(start, part).state_dict()
        saved = weights(tmp_path, part)
        assert [name for name, value in saved.items() if not torch.equal(value, kept[name])] == []
    mine, theirs = weights(tmp_path), weights(plain[1])
    apart = [name for name, value in start.transformer.state_dict().items() if not torch.equal(mine[name], value)]
    assert apart and all("proj" in name or "to_out" in name for name in apart)  # what has a LoRA, and nothing else
    assert all(torch.allclose(mine[name], theirs[name], atol=0.05) for name in theirs)


@pytest.mark.slow
def test_an_offloaded_optimizer_is_the_same_and_goes_on(tmp_path, tiny_folder, shards, plain):
    whole = train(tmp_path / "a", tiny_folder, shards, BF16, "--train.offload=true")
    assert whole == plain[0]
    mine, theirs = weights(tmp_path / "a"), weights(plain[1])
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    train(tmp_path / "b", tiny_folder, shards, BF16, "--train.offload=true", steps=2)
    again = train(tmp_path / "b", tiny_folder, shards, BF16, "--train.offload=true", resume="latest")
    assert again == whole


@pytest.mark.slow
def test_moments_of_eight_bits_go_on_exactly(tmp_path, tiny_folder, shards, plain):
    eight, full = "--train.optimizer=adamw8bit", "--model.train=full"
    whole = train(tmp_path / "a", tiny_folder, shards, BF16, full, eight)
    other = train(tmp_path / "c", tiny_folder, shards, BF16, full)
    assert whole == pytest.approx(other, rel=0.05)
    train(tmp_path / "b", tiny_folder, shards, BF16, full, eight, steps=2)
    saved = load_file(tmp_path / "b" / "checkpoints" / "step-2" / "optimizer.safetensors")
    assert any(name.endswith("exp_avg.codes") and value.dtype == torch.uint8 for name, value in saved.items())
    again = train(tmp_path / "b", tiny_folder, shards, BF16, full, eight, resume="latest")
    assert again == whole


@pytest.mark.parametrize("kind", ["bf16", "int8", "nf4"])
def test_a_lora_learns_on_fewer_bits(kind):
    from photofound.model.transformer import EditTransformer

    torch.manual_seed(0)
    model = EditTransformer(in_channels=4, patch_size=1, context_in_dim=8, hidden_size=128, num_heads=2, depth=1)
    torch.nn.init.normal_(model.heads.weight, std=0.1)
    torch.nn.init.normal_(model.blocks[0].modulation.lin.weight, std=0.1)
    x, text, t = torch.randn(2, 4, 4, 4), torch.randn(2, 3, 8), torch.rand(2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = model(x, t, text).sample
    lora.add_everywhere(model, 4)
    planned = fewer_bits.size(model, kind)
    fewer_bits.lower(model, kind)
    assert planned == pytest.approx(sum(map(stored, model.parameters())), rel=0.03)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    optimizer, losses = torch.optim.AdamW(trained, lr=0.01), []
    for _ in range(8):
        with torch.autocast("cpu", torch.bfloat16):
            out = model(x, t, text).sample
        if not losses:
            assert (out - before).norm() < {"bf16": 0.02, "int8": 0.05, "nf4": 0.3}[kind] * before.norm()
        losses.append((out.float() - x).square().mean())
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]


def stored(tensor):
    """Bytes of a weight, of one of torchao's those of its parts."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.numel() * tensor.element_size()
    return sum(stored(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])


def test_what_does_not_go_together_is_refused():
    def load(*more):
        return config.load(Config, None, list(more))

    with pytest.raises(ValueError, match="are for frozen weights"):
        load("--model.train=full", "--model.base=nf4")
    with pytest.raises(ValueError, match="model.base: 'int4' is unknown"):
        load("--model.base=int4")
    with pytest.raises(ValueError, match="model.frozen: 'int8' is unknown"):
        load("--model.frozen=int8")
