"""The ComfyUI nodes without ComfyUI: a node for each task, kept pixels exact, importable from custom_nodes."""

from __future__ import annotations

import importlib.util
import inspect
import io
import json
import shutil
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import extra_tasks
from PIL import Image

from photofound.demos import comfyui
from photofound.edits import task as edit
from photofound.pipeline import EditPipeline

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "demos" / "comfyui"
NODES = comfyui.NODE_CLASS_MAPPINGS
TASKS = ("outpaint", "inpaint", "expand", "erase", "upscale")


def photograph(batch: int = 1, height: int = 40, width: int = 56) -> torch.Tensor:
    """(B, H, W, 3) as Load Image makes it of an 8-bit file."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)
    return torch.from_numpy(pixels.astype(np.float32) / 255.0)


def product() -> torch.Tensor:
    """(1, 40, 56, 3), a green thing before a light ground, which can be cut out."""
    image = torch.full((1, 40, 56, 3), 230 / 255)
    image[:, 12:30, 18:40] = torch.tensor([60, 120, 40]) / 255
    return image


def bytes_of(image: torch.Tensor) -> np.ndarray:
    """What Save Image writes."""
    return np.clip(255.0 * image.numpy(), 0, 255).astype(np.uint8)


def hole(batch: int = 1, height: int = 40, width: int = 56) -> torch.Tensor:
    mask = torch.zeros(batch, height, width)
    mask[:, 10:20, 15:30] = 1
    return mask


def call(name: str, pipe, image: torch.Tensor, seed: int = 0, **inputs) -> torch.Tensor:
    """Run a node as ComfyUI does: defaults of its widgets, no gradients, results as a tuple."""
    node = NODES[f"Photofound{name.title()}"]
    declared = node.INPUT_TYPES()["required"]
    widgets = {key: spec[1]["default"] for key, spec in declared.items() if len(spec) > 1 and "default" in spec[1]}
    arguments = {**widgets, "seed": seed, "pipe": pipe, "image": image, **inputs}
    assert set(declared) <= set(arguments)
    with torch.inference_mode():
        result, *others = getattr(node(), node.FUNCTION)(**arguments)
    assert result.dtype == torch.float32 and 0 <= result.min() and result.max() <= 1
    assert len(others) + 1 == len(node.RETURN_TYPES)
    assert "MASK" not in node.RETURN_TYPES or torch.equal(others[-1], result[..., 3])
    return result


@pytest.fixture
def pipe(tiny):
    return tiny(EditPipeline)


# ------------------------------------------------------------------------------------------------------ what they are


def test_there_is_a_node_for_each_task_and_a_loader():
    assert set(NODES) == {
        "PhotofoundLoader",
        "PhotofoundSaveLayers",
        *(f"Photofound{name.title()}" for name in (*TASKS, "cutout", "edit", "generate", "packshot")),
    }
    assert comfyui.NODE_DISPLAY_NAME_MAPPINGS.keys() == NODES.keys()
    assert comfyui.NODE_DISPLAY_NAME_MAPPINGS["PhotofoundErase"] == "Erase (photofound)"


@pytest.mark.parametrize("name", NODES)
def test_a_node_is_what_comfyui_expects(name):
    node = NODES[name]
    declared = node.INPUT_TYPES()
    inputs = {**declared["required"], **declared.get("optional", {})}
    for kind, *options in inputs.values():
        own = comfyui.PIPE, comfyui.LAYERS
        assert isinstance(kind, list) or kind in ("IMAGE", "MASK", "STRING", "INT", "FLOAT", "BOOLEAN", *own)
        assert len(options) <= 1 and json.dumps(options)
        if isinstance(kind, list) and options:
            assert options[0].get("default", kind[0]) in kind and all(str(choice) for choice in kind)
        elif kind in ("STRING", "INT", "FLOAT"):
            assert ("default" in options[0]) != options[0].get("forceInput", False)
        if kind in ("INT", "FLOAT") and "default" in options[0]:
            assert options[0]["min"] <= options[0]["default"] <= options[0]["max"] and options[0]["max"] < 2**53
    parameters = inspect.signature(getattr(node, node.FUNCTION)).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    assert takes_any or set(inputs) == set(parameters) - {"self"}
    layers = (comfyui.LAYERS,)
    given = ("IMAGE",), ("IMAGE", *layers), ("IMAGE", *layers, "MASK"), (comfyui.PIPE,), ()
    assert node.RETURN_TYPES in given and ("MASK" in node.RETURN_TYPES) == (name == "PhotofoundCutout")
    assert node.CATEGORY == "photofound" and node.DESCRIPTION[0].isupper() and node.DESCRIPTION.endswith(".")


@pytest.mark.parametrize("name", TASKS)
def test_a_node_asks_for_what_its_task_declares(name):
    declared = NODES[f"Photofound{name.title()}"].INPUT_TYPES()
    asked = {**declared["required"], **declared.get("optional", {})}
    task = edit.get_task(name)
    assert ("best_of" in asked) == task.keeps
    assert set(asked) - {"pipe", "image", "seed", "steps", "guidance", "best_of"} == {
        each.name for each in edit.offered(task)
    }
    for each in edit.offered(task):
        assert each.help in asked[each.name][1]["tooltip"]
        assert (each.name in declared["required"]) or not each.required


def test_what_has_few_values_is_chosen_and_numbers_have_ranges():
    shot = NODES["PhotofoundPackshot"].INPUT_TYPES()
    asked = {**shot["required"], **shot["optional"]}
    assert asked["preset"][0][:2] == ["as usual", "amazon-main"] and asked["shadow"][0][1:3] == ["none", "soft"]
    assert asked["snap"][0] == ["as usual", "yes", "no"] and "grabcut" in asked["segmenter"][0]
    assert asked["dpi"][0] == "INT" and asked["dpi"][1]["min"] == asked["dpi"][1]["default"] == 0
    kind, options = asked["shadow_softness"]
    assert kind == "FLOAT" and (options["min"], options["max"], options["step"]) == (-1, 100, 1)
    assert options["tooltip"].endswith("in %; -1 = as usual") and options["advanced"]
    assert asked["canvas"][1]["placeholder"] == "1200x800" and not asked["canvas"][1].get("advanced")
    assert NODES["PhotofoundErase"].INPUT_TYPES()["optional"]["grow"][1]["max"] == 1000
    assert asked["seed"][1]["control_after_generate"] is True


# ------------------------------------------------------------------------------------------------------- what they do


def test_kept_pixels_are_the_same_floats_and_the_same_bytes(pipe):
    image, mask = photograph(), hole()
    result = call("inpaint", pipe, image, mask_image=mask)
    kept = mask[0] == 0
    assert torch.equal(result[0][kept], image[0][kept])
    assert (bytes_of(result)[0][kept] == bytes_of(image)[0][kept]).all()
    assert not torch.equal(result[0][~kept], image[0][~kept])


def test_layers_are_made_once_they_are_saved(pipe, monkeypatch, tmp_path):
    monkeypatch.setitem(
        sys.modules,
        "folder_paths",
        types.SimpleNamespace(
            get_output_directory=lambda: str(tmp_path),
            get_save_image_path=lambda prefix, folder: (folder, prefix, 1, "", prefix),
        ),
    )
    node, inputs = NODES["PhotofoundPackshot"](), {"background": "#c00000", "segmenter": "grabcut"}
    image, layers = node.edit(pipe, product(), **inputs)  # ComfyUI keeps these, also for a Save Layers connected later
    for number in (1, 2):  # nothing is overwritten
        written = NODES["PhotofoundSaveLayers"]().save(layers, "shot", "ora")["ui"]["text"]
        assert written == [str(tmp_path / f"shot_{number:05}_.ora")]
    with zipfile.ZipFile(written[0]) as archive:
        flat = np.asarray(Image.open(io.BytesIO(archive.read("mergedimage.png"))))
        assert (flat == bytes_of(image)[0]).all() and b'name="subject"' in archive.read("stack.xml")


def test_a_picture_is_prepared_once(pipe, monkeypatch):
    prepared, task = [], edit.get_task("inpaint")
    monkeypatch.setattr(task, "prepare", lambda *a, _do=task.prepare, **b: prepared.append(1) or _do(*a, **b))
    call("inpaint", pipe, photograph(), mask_image=hole())
    assert prepared == [1]


def test_every_byte_survives_the_way_through_floats(pipe):
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(-1, -1, -1, 3).repeat(1, 3, 3, 1)
    image, mask = torch.from_numpy(every.numpy().astype(np.float32) / 255.0), torch.zeros(1, 48, 48)
    mask[:, 40:44, 40:44] = 1
    result = call("inpaint", pipe, image, mask_image=mask)
    assert (bytes_of(result)[0, :16, :16] == every[0, :16, :16].numpy()).all()


def test_floats_that_no_file_holds_are_kept_within_16_bits(pipe):
    image, mask = torch.rand(1, 40, 56, 3) * 1.02 - 0.01, hole()  # other nodes overshoot
    result = call("inpaint", pipe, image, mask_image=mask)
    kept = mask[0] == 0
    assert (result[0][kept] - image[0][kept].clamp(0, 1)).abs().max() <= 0.5 / 65535 + 1e-7


def test_a_picture_of_a_batch_is_what_it_is_alone(pipe):
    image = photograph(batch=2)
    together = call("erase", pipe, image, seed=7, mask_image=hole())
    alone = call("erase", pipe, image[1:], seed=8, mask_image=hole())
    assert together.shape == image.shape and torch.equal(together[1:], alone)


def test_a_batch_takes_a_mask_for_each_picture(pipe):
    image, masks = photograph(batch=2), torch.cat([hole(), hole().roll(20, 2)])
    result = call("inpaint", pipe, image, mask_image=masks)
    for i in range(2):
        assert torch.equal(result[i][masks[i] == 0], image[i][masks[i] == 0])
    with pytest.raises(ValueError, match="mask_image: got 3 for 2 pictures"):
        call("inpaint", pipe, image, mask_image=hole(batch=3))
    assert torch.equal(call("inpaint", pipe, image, mask_image=hole()[0])[0][0], image[0][0])  # (H, W)


def test_a_subject_is_kept_where_it_is_white(pipe):
    image, subject = photograph(), hole()
    result = call("outpaint", pipe, image, subject=subject, prompt="on sand")
    assert torch.equal(result[0][subject[0] == 1], image[0][subject[0] == 1])


def test_a_reference_is_an_image_that_need_not_be_connected(referring_folder):
    pipe = EditPipeline.from_pretrained(referring_folder, torch_dtype=torch.float32)
    asked = NODES["PhotofoundOutpaint"].INPUT_TYPES()["optional"]
    assert asked["reference"][0] == "IMAGE" and "reference" in NODES["PhotofoundInpaint"].INPUT_TYPES()["optional"]
    image, subject = photograph(batch=2), hole()
    red, blue = (torch.tensor(c).expand(1, 9, 12, 3) for c in ((0.8, 0.1, 0.1), (0.1, 0.1, 0.8)))
    plain, one, each = (
        call("outpaint", pipe, image, subject=subject, **given)
        for given in ({}, {"reference": red}, {"reference": torch.cat([red, blue])})
    )
    assert torch.equal(one[0], each[0]) and not torch.equal(one[0], plain[0]) and not torch.equal(one[1], each[1])
    assert torch.equal(each[:, subject[0] == 1], image[:, subject[0] == 1])
    with pytest.raises(ValueError, match="reference: got 3 for 2 pictures"):
        call("outpaint", pipe, image, subject=subject, reference=torch.cat([red] * 3))


def test_alpha_is_the_subject(pipe):
    image, subject = photograph(), hole()
    result = call("outpaint", pipe, torch.cat([image, subject[..., None]], -1))
    assert result.shape == image.shape
    assert torch.equal(result[0][subject[0] == 1], image[0][subject[0] == 1])


def test_a_packshot_and_a_cut_out(pipe):
    """Numbers below their range and the first choices are left out; the cut-out's alpha is a mask, too."""
    image, subject = photograph(), hole()
    usual = {"dpi": 0, "shadow_softness": -1.0, "shadow_direction": -1, "snap": "as usual", "segmenter": "as usual"}
    plain = call("packshot", pipe, image, subject=subject, background="#ff0000", canvas="80x60")
    same = call("packshot", pipe, image, subject=subject, background="#ff0000", canvas="80x60", **usual)
    assert plain.shape == (1, 60, 80, 3) and torch.equal(plain, same)
    assert torch.equal(plain[:, 25:35, 32:47], image[:, 10:20, 15:30])  # at its own size, in the middle
    assert torch.equal(plain[0, 0, 0], torch.tensor([1.0, 0, 0]))
    soft, hard = (
        call("packshot", pipe, image, subject=subject, shadow="soft", shadow_softness=value) for value in (90.0, 10)
    )
    assert not torch.equal(soft, hard)
    with pytest.raises(ValueError, match="shadow_direction|degrees"):
        call("packshot", pipe, image, subject=subject, shadow="soft", shadow_direction="far")
    cut = call("cutout", pipe, product(), segmenter="grabcut")
    assert cut.shape == (1, 40, 56, 4) and cut[0, 20, 28, 3] == 1 and cut[0, 2, 2, 3] == 0


def test_expand_and_upscale_give_their_sizes(pipe):
    image = photograph()
    wide = call("expand", pipe, image, left="8", right="25%")
    assert wide.shape == (1, 40, 56 + 8 + 14, 3) and torch.equal(wide[:, :, 8:64], image)
    assert call("expand", pipe, image, aspect=" 1:1 ").shape == (1, 56, 56, 3)
    with pytest.raises(ValueError, match="left: 'far' is not whole pixels like 200 or a share like 25%"):
        call("expand", pipe, image, left="far")
    assert call("upscale", pipe, image, scale=3).shape == (1, 120, 168, 3)


def test_the_mask_that_load_image_gives_for_none_is_none(pipe):
    nothing = torch.zeros(1, 64, 64)
    with pytest.raises(ValueError, match="mask_image: Load Image gave no mask; paint one"):
        call("inpaint", pipe, photograph(), mask_image=nothing)
    cut_out = call("outpaint", pipe, product())  # by itself
    assert torch.equal(call("outpaint", pipe, product(), subject=nothing), cut_out)


def test_steps_and_guidance_of_zero_are_the_models_own(pipe):
    image, mask = photograph(), hole()
    own = call("inpaint", pipe, image, mask_image=mask, prompt="a cup")
    steps, guidance = pipe.config.default_steps, pipe.config.default_guidance
    said = call("inpaint", pipe, image, mask_image=mask, prompt="a cup", steps=steps, guidance=guidance)
    other = call("inpaint", pipe, image, mask_image=mask, prompt="a cup", steps=steps + 1)
    assert torch.equal(own, said) and not torch.equal(own, other)


# ------------------------------------------------------------------------------------------------------- in ComfyUI


@pytest.fixture
def comfy(monkeypatch):
    """As much of ComfyUI as the nodes use; its bar raises when the user has pressed Cancel."""

    class ProgressBar:
        seen: list[int] = []
        cancelled = False

        def __init__(self, total):
            pass

        def update_absolute(self, value, total=None):
            if ProgressBar.cancelled:
                raise InterruptedError("cancelled")
            ProgressBar.seen.append((value, total))

    modules = {name: types.ModuleType(name) for name in ("comfy", "comfy.utils", "comfy.model_management")}
    modules["comfy.utils"].ProgressBar = ProgressBar
    modules["comfy.model_management"].get_torch_device = lambda: torch.device("cpu")
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return ProgressBar


def test_comfyuis_bar_moves_and_cancels(pipe, comfy):
    call("inpaint", pipe, photograph(batch=2), mask_image=hole(), steps=3)
    assert comfy.seen == [(i, 6) for i in range(1, 7)]
    comfy.cancelled = True
    with pytest.raises(InterruptedError):
        call("inpaint", pipe, photograph(), mask_image=hole())


def test_the_loader_loads_a_folder(tiny_folder, comfy):
    loader = NODES["PhotofoundLoader"]()
    (pipe,) = loader.load(model=f" {tiny_folder} ", lora="", dtype="float32")
    assert isinstance(pipe, EditPipeline) and pipe.device.type == "cpu" and pipe.dtype == torch.float32
    with pytest.raises(FileNotFoundError, match="does not exist"):
        loader.load(model="no/such/folder", lora="", dtype="float32")


def test_the_loader_adds_a_lora(tiny_folder, tmp_path):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    (pipe,) = NODES["PhotofoundLoader"]().load(str(tiny_folder), "", "float32")
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["img_qkv_proj"]))
    EditPipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(pipe.transformer))
    (with_lora,) = NODES["PhotofoundLoader"]().load(str(tiny_folder), str(tmp_path), "float32")
    assert with_lora.transformer.peft_config["default_0"].r == 2


def load_as_comfyui_does(path: Path, name: str):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


@pytest.mark.parametrize("how", ["copied", "linked", "one file"])
def test_it_is_importable_from_custom_nodes(how, tmp_path):
    target = tmp_path / "custom_nodes" / "photofound-nodes"
    target.parent.mkdir()
    if how == "copied":
        shutil.copytree(FOLDER, target)
    elif how == "linked":
        target.symlink_to(FOLDER)
    else:
        (code,) = (FOLDER / "README.md").read_text().split("```python\n")[1:]
        target = target.with_name("photofound_nodes.py")
        target.write_text(code.split("```")[0])
    file = target if target.suffix else target / "__init__.py"
    module = load_as_comfyui_does(file, str(target.with_suffix("")).replace(".", "_x_"))
    assert module.NODE_CLASS_MAPPINGS.keys() == NODES.keys() == module.NODE_DISPLAY_NAME_MAPPINGS.keys()


EXTRA_TASK = """
from photofound.edits.inputs import Input
from photofound.edits.task import Job, Task

class Mirror(Task):
    name, summary = "mirror_left", "turn a picture around"
    inputs = (INPUTS)
    def prepare(self, picture, prompt="", angle=90, weight=None): raise ValueError(f"angle {angle}, weight {weight}")
    def example(self, sample, generator): raise NotImplementedError

TASK = Mirror()
"""


@pytest.fixture
def extra_task(tmp_path, monkeypatch):
    """Puts a task file with these inputs beside the five, and gives the mappings that follow."""

    def with_inputs(inputs: str):
        (tmp_path / "mirror_left.py").write_text(EXTRA_TASK.replace("INPUTS", inputs))
        return comfyui._mappings()

    with extra_tasks(tmp_path, monkeypatch):
        yield with_inputs


def test_an_extra_task_gives_an_extra_node(extra_task, pipe):
    nodes, names = extra_task('Input("angle", "int", "degrees", default=90), Input("weight", "int", "how much")')
    node = nodes["PhotofoundMirrorLeft"]
    assert names["PhotofoundMirrorLeft"] == "Mirror Left (photofound)" and len(nodes) == len(NODES) + 1
    assert node.INPUT_TYPES()["required"]["angle"][1]["default"] == 90
    assert node.INPUT_TYPES()["optional"]["weight"][1]["forceInput"]
    with pytest.raises(ValueError, match="angle 45, weight None"):
        node().edit(pipe, photograph(), seed=0, steps=0, guidance=0.0, angle=45)


def test_choices_are_a_list(extra_task, pipe):
    nodes, _ = extra_task(
        'Input("angle", "int", "degrees", default=90, choices=(90, 180)), '
        'Input("weight", "text", "how much", choices=("light", "heavy"))'
    )
    required = nodes["PhotofoundMirrorLeft"].INPUT_TYPES()["required"]
    assert required["angle"] == ([90, 180], {"tooltip": "degrees", "default": 90})
    assert required["weight"][0] == ["as usual", "light", "heavy"] and required["weight"][1]["default"] == "as usual"
    with pytest.raises(ValueError, match="angle 180, weight None"):
        nodes["PhotofoundMirrorLeft"]().edit(
            pipe, photograph(), seed=0, steps=0, guidance=0, angle=180, weight="as usual"
        )


@pytest.mark.parametrize(
    "inputs, reason",
    [
        ('Input("seed", "int", "a clash"),', "clashes with what every edit takes"),
        ('Input("angle", "colour", "no such kind"),', "has kind 'colour'"),
        ("1 / 0", "division by zero"),
    ],
)
def test_a_bad_task_does_not_take_the_others_with_it(inputs, reason, extra_task, caplog):
    nodes, _ = extra_task(inputs)
    assert nodes.keys() == NODES.keys()
    assert "mirror_left" in caplog.text and reason in caplog.text


EXAMPLES = ("new-background", "packshot")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, tiny_folder):
    """As ComfyUI's executor does it: a link is [number of the step, number of its output]."""
    graph = json.loads((FOLDER / "api_workflows" / f"{name}.json").read_text())
    saved: list[torch.Tensor] = []
    core = {
        "LoadImage": lambda image: (product(), torch.zeros(1, 64, 64)),
        "SaveImage": lambda images, filename_prefix: saved.append(images),
    }

    def run(number: str):
        kind, given = graph[number]["class_type"], graph[number]["inputs"]
        given = {key: run(value[0])[value[1]] if isinstance(value, list) else value for key, value in given.items()}
        if kind in core:
            return core[kind](**given)
        declared = NODES[kind].INPUT_TYPES()
        assert set(declared["required"]) <= set(given) <= {*declared["required"], *declared.get("optional", {})}
        if kind == "PhotofoundLoader":
            given["model"] = str(tiny_folder)
        if kind == "PhotofoundPackshot":
            given["canvas"] = "108x135"  # which takes a hundredth of the time
        return getattr(NODES[kind](), NODES[kind].FUNCTION)(**given)

    last = [number for number, step in graph.items() if step["class_type"] == "SaveImage"]
    for number in last:
        run(number)
    assert saved[0].shape == (product().shape if name == "new-background" else (1, 135, 108, 3))
    assert len(saved) == len(last)


def widgets_of(kind: str) -> dict[str, Any]:
    """The widgets of a node in the order in which the browser keeps their values, with their defaults."""
    known = {"LoadImage": {"image": None, "upload": "image"}, "SaveImage": {"filename_prefix": None}}
    if kind in known:
        return known[kind]
    declared, found = NODES[kind].INPUT_TYPES(), {}
    for name, (type_, *options) in {**declared["required"], **declared.get("optional", {})}.items():
        if type_ in ("IMAGE", "MASK", comfyui.PIPE, comfyui.LAYERS):
            continue
        found[name] = options[0].get("default")
        if options[0].get("control_after_generate"):
            found["control_after_generate"] = "fixed"
    return found


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_examples_graph_is_its_prompt(name):
    """What the browser opens asks for the same as what a program posts."""
    graph = json.loads((FOLDER / "example_workflows" / f"{name}.json").read_text())
    prompt = json.loads((FOLDER / "api_workflows" / f"{name}.json").read_text())
    links = {number: (source, slot, target, place) for number, source, slot, target, place, _ in graph["links"]}
    assert {str(node["id"]): node["type"] for node in graph["nodes"]} == {
        number: step["class_type"] for number, step in prompt.items()
    }
    for node in graph["nodes"]:
        widgets = widgets_of(node["type"])
        assert len(node["widgets_values"]) == len(widgets)
        asked = dict(zip(widgets, node["widgets_values"], strict=True))
        step = prompt[str(node["id"])]["inputs"]
        for each, value in asked.items():
            assert value == step.get(each, widgets[each]), each
        for place, each in enumerate(node["inputs"]):
            if each["link"] is None:
                assert each["name"] not in step
                continue
            source, slot, target, where = links[each["link"]]
            assert [str(source), slot] == step[each["name"]] and (target, where) == (node["id"], place)
