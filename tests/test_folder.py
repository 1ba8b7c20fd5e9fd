"""Model folders and LoRA files by strangers: whatever is odd about one is refused in one line, before it is used."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from photofound import ErasePipeline, InpaintPipeline
from photofound.model.folder import check_folder, check_settings, is_for_teacher


@pytest.fixture
def copy(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def refused(folder, **options):
    with pytest.raises(ValueError) as caught:
        InpaintPipeline.from_pretrained(folder, **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("model:") and len(message) < 600
    return message


def change(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


INDEX = {
    "a class of another library": {"tokenizer": ["os", "system"]},
    "a function": {"tokenizer": ["transformers", "pipeline"]},
    "a class that loads others": {"tokenizer": ["transformers", "AutoTokenizer"]},
    "another kind of class": {"vae": ["transformers", "T5EncoderModel"]},
    "a function of ours": {"vae": ["photofound.cli.commands", "main"]},
    "a class within a class": {"scheduler": ["diffusers", "schedulers.DDIMScheduler"]},
    "a scheduler that takes no sigmas": {"scheduler": ["diffusers", "DDIMScheduler"]},
    "a class that is not there": {"transformer": ["photofound.transformer", "Nothing"]},
    "three entries": {"tokenizer": ["transformers", "ByT5Tokenizer", "x"]},
    "half an entry": {"tokenizer": [None, "ByT5Tokenizer"]},
    "text": {"tokenizer": "os.system"},
    "a number": {"transformer": 3},
    "no transformer": {"transformer": [None, None]},
    "a text encoder alone": {"tokenizer": [None, None]},
    "a foreign component": {"tokenizer_2": ["os", "system"], "_class_name": 3},
    "no name": {"_class_name": ["evil", "Evil"]},
    "tile 0": {"tile": 0},
    "tile as text": {"tile": "x"},
    "a huge tile": {"tile": 10**9},
    "endless steps": {"default_steps": 10**9},
    "steps as true": {"default_steps": True},
    "no noise": {"noise_scale": float("nan")},
    "endless guidance": {"default_guidance": float("inf")},
    "junk in distilled": {"distilled": {"phases": -1}},
    "distilled as a list": {"distilled": [1, 2]},
    "guidance of three": {"distilled": {"guidance": [1, 2, 3], "teacher_steps": 20}},
    "junk in task_steps": {"task_steps": {"upscale": "one"}},
    "unknown canvas": {"canvas": "x"},
    "surfaces as text": {"surfaces": "no"},
}


@pytest.mark.parametrize("what", INDEX)
def test_an_odd_index(copy, what):
    change(copy / "model_index.json", **INDEX[what])
    if what == "unknown canvas":
        with pytest.raises(ValueError, match="canvas"):
            InpaintPipeline.from_pretrained(copy)
    else:
        refused(copy)


CONFIGS = {
    "a width that does not divide": {"hidden_size": 10**9},
    "a width as text": {"hidden_size": "x"},
    "another width": {"hidden_size": 64},
    "endless depth": {"depth": 10**6},
    "one block more": {"depth": 3},
    "one block less": {"depth": 1},
    "no heads": {"num_heads": 0},
    "patches of nothing": {"patch_size": 0},
    "a task twice": {"tasks": ["inpaint", "inpaint"]},
}


@pytest.mark.parametrize("what", CONFIGS)
def test_an_odd_configuration(copy, what):
    change(copy / "transformer" / "config.json", **CONFIGS[what])
    refused(copy)


@pytest.mark.parametrize("part, entries", [("text_encoder", {"num_layers": 10**7}), ("text_encoder", {"d_model": "x"})])
def test_an_odd_text_encoder(copy, part, entries):
    change(copy / part / "config.json", **entries)
    refused(copy)


def test_odd_schedulers_and_tokenizers(copy):
    change(copy / "scheduler" / "scheduler_config.json", num_train_timesteps=10**9)
    assert "num_train_timesteps" in refused(copy)
    change(copy / "scheduler" / "scheduler_config.json", num_train_timesteps=1000)
    (copy / "tokenizer" / "tokenizer_config.json").write_text("[1]")
    refused(copy)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_weights_that_are_missing_unknown_or_of_another_shape(copy, part):
    path = next((copy / part).glob("*.safetensors"))
    weights = load_file(path)
    first = sorted(weights)[0]

    def written(changed):
        save_file(changed, path, metadata={"format": "pt"})
        return refused(copy)

    assert "not all of its weights" in written({name: value for name, value in weights.items() if name != first})
    assert "does not know: more" in written(weights | {"more": torch.zeros(1)})
    assert "another shape" in written(weights | {first: torch.zeros(1)})
    save_file(weights, path, metadata={"format": "pt"})
    InpaintPipeline.from_pretrained(copy)


def test_the_parts_by_themselves_are_looked_at_too(copy):
    """As training loads them."""
    from photofound.model import autoencoder
    from photofound.model.transformer import EditTransformer

    loads = {"transformer": EditTransformer.from_pretrained, "vae": lambda folder: autoencoder.load(str(folder))}
    for part, load in loads.items():
        path = next((copy / part).glob("*.safetensors"))
        weights = load_file(path)
        assert set(load(copy / part).state_dict()) == set(weights)
        first = sorted(weights)[0]
        for changed in ({n: v for n, v in weights.items() if n != first}, weights | {"more": torch.zeros(1)}):
            save_file(changed, path, metadata={"format": "pt"})
            with pytest.raises(ValueError, match=f"{first}|more"):
                load(copy / part)


def test_a_transformer_that_was_saved_with_the_layers_of_a_lora(copy):
    """What other tools write when an adapter is still attached: every adapted layer under a name of its own."""
    path = next((copy / "transformer").glob("*.safetensors"))
    weights = {name.replace("qkv_proj.", "qkv_proj.base_layer."): value for name, value in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    assert "does not know" in refused(copy)


@pytest.mark.parametrize(
    "index",
    [{"weight_map": {"a": None}}, {"weight_map": ["a"]}, {"weight_map": {"a": "../x.safetensors"}}, {}],
    ids=repr,
)
def test_an_odd_list_of_shards(copy, index):
    path = next((copy / "vae").glob("*.safetensors"))
    path.with_name(f"{path.name}.index.json").write_text(json.dumps(index))
    refused(copy)


@pytest.mark.parametrize(
    "header, length",
    [
        (b"{}", 2**63),
        (b"{" + b" " * 9_000_000 + b"}", None),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, None),
        (b"\xff", None),
    ],
    ids=["too long", "spaces", "deep", "not UTF-8"],
)
def test_an_odd_header(copy, header, length):
    path = next((copy / "transformer").glob("*.safetensors"))
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header)
    refused(copy)


@pytest.mark.parametrize(
    "text", ["[" * 10**5, '{"a":' * 10**5, "[]", "3", "", "\0", " " * (2**24 + 1)], ids=lambda t: t[:5]
)
@pytest.mark.parametrize("name", ["model_index.json", "transformer/config.json"])
def test_an_odd_json(copy, name, text):
    (copy / name).write_text(text)
    refused(copy)


def test_what_replaces_a_component_is_not_looked_for(copy, tiny):
    shutil.rmtree(copy / "transformer")
    refused(copy)
    donor = tiny(InpaintPipeline)
    assert InpaintPipeline.from_pretrained(copy, transformer=donor.transformer).transformer is donor.transformer


def test_settings_that_make_sense_pass():
    check_settings(
        {"tile": 512, "distilled": None, "task_steps": {"upscale": 0}, "noise_scale": 2, "default_guidance": 0}
    )
    check_settings({"distilled": {"guidance": (1, 6.5), "teacher_steps": 20, "phases": 2, "task_steps": None}})


# ---------------------------------------------------------------------------------------------------------------- LoRAs


def adapted(pipe, path, seed=0, **settings):
    """Write a LoRA that changes the picture a lot; returns its folder."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(seed)
    names = ["img_qkv_proj", "txt_kv_proj"]
    config = LoraConfig(r=2, lora_alpha=8, target_modules=names, init_lora_weights=False)
    pipe.transformer.add_adapter(config)
    for name, parameter in pipe.transformer.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    layers = get_peft_model_state_dict(pipe.transformer)
    pipe.save_lora_weights(path, layers, config.to_dict() | settings)
    return path


def edited(pipe, photo, mask):
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(pipe(photo, mask, generator=torch.Generator().manual_seed(0)).images[0]).astype(int)


def far(a, b):
    return int(np.abs(a - b).max())


@pytest.mark.slow
def test_a_model_saved_with_a_lora_gives_the_same_pictures(tiny, photo, mask, tmp_path):
    """Whatever state the LoRA is in: one, two of them weighted, switched off, fused, fused and taken away."""
    adapted(tiny(InpaintPipeline), tmp_path / "a")
    adapted(tiny(InpaintPipeline), tmp_path / "b", seed=1)
    plain = edited(tiny(InpaintPipeline), photo, mask)

    def checked(pipe, changed=True):
        expected = edited(pipe, photo, mask)
        assert (far(expected, plain) > 10) == changed, "the LoRA must show"
        for saves in (pipe, ErasePipeline.from_pipe(pipe)):
            folder = shutil.rmtree(tmp_path / "saved", ignore_errors=True) or tmp_path / "saved"
            saves.save_pretrained(folder)
            again = InpaintPipeline.from_pretrained(folder, torch_dtype=torch.float32)
            assert far(edited(again, photo, mask), expected) <= 1
        assert far(edited(pipe, photo, mask), expected) == 0, "saving changes nothing"

    pipe = tiny(InpaintPipeline)
    pipe.load_lora_weights(tmp_path / "a", adapter_name="a")
    checked(pipe)
    pipe.load_lora_weights(tmp_path / "b", adapter_name="b")
    pipe.set_adapters(["a", "b"], [0.5, 2.0])
    checked(pipe)
    pipe.disable_lora()
    checked(pipe, changed=False)
    pipe.enable_lora()
    pipe.set_adapters("a")
    pipe.fuse_lora()
    checked(pipe)
    pipe.unload_lora_weights()
    checked(pipe)
    assert pipe.config._name_or_path is None, "the card of the folder is not true of these weights"


@pytest.mark.slow
def test_fusing_and_unfusing(tiny, photo, mask, tmp_path):
    pipe = tiny(InpaintPipeline)
    plain = edited(pipe, photo, mask)
    pipe.load_lora_weights(adapted(tiny(InpaintPipeline), tmp_path), adapter_name="own")
    with_lora = edited(pipe, photo, mask)
    pipe.fuse_lora()
    assert far(edited(pipe, photo, mask), with_lora) <= 1 and pipe.num_fused_loras == 1
    pipe.unfuse_lora()
    assert far(edited(pipe, photo, mask), with_lora) <= 1 and pipe.num_fused_loras == 0
    pipe.fuse_lora(components=["transformer"], lora_scale=0.0, adapter_names=["own"])
    assert far(edited(pipe, photo, mask), plain) <= 1
    pipe.unfuse_lora(components=["transformer"])
    pipe.unload_lora_weights()
    assert far(edited(pipe, photo, mask), plain) <= 1
    with pytest.raises(ValueError, match="vae is not found"):
        pipe.fuse_lora(components=["vae"])


def test_the_transformer_alone_is_saved_whole_too(tiny, tmp_path):
    pipe = tiny(InpaintPipeline)
    names = set(pipe.transformer.state_dict())
    pipe.load_lora_weights(adapted(tiny(InpaintPipeline), tmp_path / "lora"))
    pipe.transformer.save_pretrained(tmp_path / "transformer")
    (file,) = (tmp_path / "transformer").glob("*.safetensors")
    assert set(load_file(file)) == names
    assert pipe.get_active_adapters() == ["default_0"], "it keeps its LoRA"


@pytest.fixture
def lora(tiny, tmp_path):
    return adapted(tiny(InpaintPipeline), tmp_path / "lora") / "pytorch_lora_weights.safetensors"


def no_lora(tiny, source, error=ValueError):
    pipe = tiny(InpaintPipeline)
    before = set(pipe.transformer.state_dict())
    with pytest.raises(error) as caught:
        pipe.load_lora_weights(source)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("LoRA:")
    assert set(pipe.transformer.state_dict()) == before, "nothing of it stays"
    return str(caught.value)


@pytest.mark.slow
def test_odd_lora_files(tiny, lora, tmp_path):
    weights = load_file(lora)
    first = next(name for name in weights if "lora_A" in name)
    odd = tmp_path / "odd.safetensors"

    def refused_with(changed, metadata=None):
        save_file(changed, odd, metadata=metadata)
        return no_lora(tiny, odd)

    assert "no such layer as nothing" in refused_with(
        weights | {"transformer.nothing.lora_A.weight": torch.zeros(2, 32)}
    )
    assert "no such layer" in refused_with(weights | {first: torch.zeros(2, 7)})
    assert "no such layer as unet.x" in refused_with({"unet.x.lora_A.weight": torch.zeros(2, 2)})
    assert "no LoRA layers" in refused_with({"x": torch.zeros(2)})
    for settings in (
        {"transformer.r": 10**9},
        {"transformer.rank_pattern": {"x": 10**9}},
        {"transformer.rank_pattern": 3},
    ):
        refused_with(weights, {"lora_adapter_metadata": json.dumps(settings)})
    for text in ("[", "[]", "[" * 10**5):
        refused_with(weights, {"lora_adapter_metadata": text})
    odd.write_bytes(b"\x80\x04" + bytes(100))
    assert "damaged" in no_lora(tiny, odd)
    assert "not a .safetensors file" in no_lora(tiny, odd.rename(tmp_path / "odd.bin"))
    assert "does not exist" in no_lora(tiny, tmp_path / "nowhere.safetensors", FileNotFoundError)
    assert "holds no pytorch_lora_weights" in no_lora(tiny, tmp_path)
    assert "no LoRA layers" in no_lora(tiny, {"x": torch.zeros(1)})


@pytest.mark.slow
def test_a_lora_of_the_teacher_says_so(tiny, tiny_folder, tmp_path, photo, mask):
    """Loaded on the student there is a warning; ``with_lora`` loads the teacher."""
    student = tiny(InpaintPipeline, distilled={"phases": 2, "guidance": [1, 6], "teacher_steps": 5})
    student.transformer.add_guidance()
    student.save_pretrained(tmp_path / "student")
    teacher = tiny(InpaintPipeline)
    teacher.transformer.save_pretrained(tmp_path / "student" / "teacher")
    teacher.scheduler.save_pretrained(tmp_path / "student" / "teacher")
    lora = adapted(teacher, tmp_path / "lora", base_model_name_or_path="nano:teacher")
    assert is_for_teacher(lora / "pytorch_lora_weights.safetensors")
    with pytest.warns(UserWarning, match=r"many steps .* teacher=True"):
        InpaintPipeline.from_pretrained(tmp_path / "student").load_lora_weights(lora)
    pipe = InpaintPipeline.with_lora(tmp_path / "student", lora, torch_dtype=torch.float32)
    assert pipe.config.distilled is None and pipe.config.default_steps == 5
    assert pipe.get_active_adapters() == ["default_0"]
    other = adapted(tiny(InpaintPipeline), tmp_path / "other")
    assert InpaintPipeline.with_lora(tmp_path / "student", other).config.distilled, "this one says nothing of a teacher"
    check_folder(tmp_path / "student")


@pytest.mark.parametrize("place", ["s3://bucket/model", Path("s3://bucket/model"), "memory://model", ""])
def test_nothing_is_saved_to_a_url(tiny, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    pipe = tiny(InpaintPipeline)
    for save in (pipe.save_pretrained, lambda folder: pipe.save_lora_weights(folder, {})):
        with pytest.raises(ValueError, match="is a URL, and nothing is written there|the path is empty"):
            save(place)
    assert not list(tmp_path.iterdir())
