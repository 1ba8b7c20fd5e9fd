"""What every test runs under: offline, two threads, the same seeds."""

import gc
import os
import sys

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub, which reads it once
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collecting makes some million objects, all of which stay. Looking for garbage among them takes a quarter of the
    time, and in every later test again; afterwards it is looked for among new objects alone, and less often."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 10, 10)
        gc.enable()


@pytest.fixture(autouse=True)
def _seeded():
    """The same random numbers for every test, alone or in company."""
    import random

    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_modules_forgotten(tmp_path_factory):
    """What a test wrote as a module and imported is not what another one finds by that name."""
    before, path = len(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    folder = str(tmp_path_factory.getbasetemp())
    for name in list(sys.modules)[before:]:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(folder):
            del sys.modules[name]


@pytest.fixture
def photo():
    """A photograph of 90 x 70 pixels, (H, W, 3) uint8: noise, so that every pixel tells."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)


@pytest.fixture
def mask():
    """A box in ``photo``, (H, W) uint8, white = repaint."""
    import numpy as np

    mask = np.zeros((70, 90), np.uint8)
    mask[20:50, 30:60] = 255
    return mask


@pytest.fixture(autouse=True)
def _limit_put_back(monkeypatch):
    """Applications set the process's limit of pixels; the next test has its own again."""
    if "PHOTOFOUND_MAX_PIXELS" in os.environ:
        monkeypatch.setenv("PHOTOFOUND_MAX_PIXELS", os.environ["PHOTOFOUND_MAX_PIXELS"])
    else:
        monkeypatch.setenv("PHOTOFOUND_MAX_PIXELS", "1")  # noted as missing, which is what it is after the test
        del os.environ["PHOTOFOUND_MAX_PIXELS"]


@pytest.fixture
def no_surprises(monkeypatch):
    """Every warning is expected by name or is a failure; the caller's own limit of pixels does not matter."""
    import warnings

    from photofound.picture import colour

    monkeypatch.delenv("PHOTOFOUND_MAX_PIXELS", raising=False)
    colour._built_transform.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".* holds 8 bits per channel")  # a test of its own says when
        for what in ("event loop", "transport", "<socket"):  # what earlier tests left is found at any time
            warnings.filterwarnings("ignore", f"unclosed {what}", ResourceWarning)
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A whole pipeline with untrained weights and every task, saved to disk: fast, and wrong on purpose."""
    import torch
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler

    from photofound.model import text
    from photofound.model.condition import condition_channels
    from photofound.model.transformer import EditTransformer
    from photofound.pipeline import EditPipeline

    torch.manual_seed(0)
    vae = AutoencoderDC(
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        encoder_layers_per_block=(0, 1, 1, 1),
        decoder_layers_per_block=(0, 1, 1, 1),
        encoder_qkv_multiscales=((), (), (), ()),
        decoder_qkv_multiscales=((), (), (), ()),
    )
    tokenizer, encoder = text.build_byte_encoder(width=16, layers=1, heads=2, feed_forward=16)
    transformer = EditTransformer(
        in_channels=4,
        context_in_dim=16,
        hidden_size=32,
        num_heads=2,
        depth=2,
        condition_channels=condition_channels(vae, "pixels"),
        tasks=("generate", "inpaint", "expand", "outpaint", "erase", "upscale"),
    )
    for parameter in transformer.parameters():  # zero-initialised layers would hide what flows through them
        torch.nn.init.normal_(parameter, std=0.05)
    folder = tmp_path_factory.mktemp("tiny")
    scheduler = FlowMatchEulerDiscreteScheduler()
    EditPipeline(transformer, vae, encoder, tokenizer, scheduler, tile=64, default_steps=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gloo_runs(tmp_path_factory):
    """What gloo.py trains, by several processes."""
    from pathlib import Path

    from helpers import made_once, run_processes

    script = Path(__file__).parent / "gloo.py"
    return made_once(tmp_path_factory, "gloo", lambda folder: run_processes(script, folder))


@pytest.fixture(scope="session")
def referring_folder(tiny_folder, tmp_path_factory):
    """``tiny_folder`` with an input for a reference picture, whose weights count."""
    import torch

    from photofound.pipeline import EditPipeline

    torch.manual_seed(0)
    pipeline = EditPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
    pipeline.transformer.add_reference(32)
    for name, parameter in pipeline.transformer.named_parameters():
        if "reference" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("referring")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(tiny_folder):
    """Loads a task's pipeline from ``tiny_folder``: ``tiny(InpaintPipeline)``."""
    import torch

    def load(pipeline, **kwargs):
        pipe = pipeline.from_pretrained(tiny_folder, **{"torch_dtype": torch.float32, **kwargs})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return load


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """A tar of twelve pictures of coloured discs on plain grounds, half of them with mattes."""
    import numpy as np
    from helpers import encoded, write_tar
    from stages import disc

    folder = tmp_path_factory.mktemp("shards")
    rng, members = np.random.default_rng(0), {}
    for i in range(12):
        image, matte = disc(rng)
        members[f"{i:03}.png"] = encoded(image)
        if i % 2:
            members[f"{i:03}.mask.png"] = encoded(matte)
        members[f"{i:03}.json"] = {"text": "A photo of a ball.", "source": f"s{i % 3}"}
    write_tar(folder / "photos-00000.tar", members)
    return folder


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """An untrained vision model and an untrained SqueezeNet, as files."""
    from safetensors.torch import save_file
    from transformers import Dinov2Config, Dinov2Model

    from photofound.model.vision import PerceptualNet

    folder = tmp_path_factory.mktemp("networks")
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    Dinov2Model(Dinov2Config(**small, patch_size=14, image_size=28)).save_pretrained(folder / "dino")
    save_file(PerceptualNet().state_dict(), folder / "squeezenet.safetensors")
    return folder
