"""Nodes for ComfyUI: a loader, and one node for each task, built from what the task declares. README.md tells how to
install them.

ComfyUI's pictures are tensors, IMAGE (B, H, W, C) and MASK (B, H, W), float32 in [0, 1]. Those of an 8-bit file are
k/255; such a picture is worked on in 8 bits, and its kept pixels come back as the same floats, bit for bit. Any other
picture is worked on in 16 bits, and its kept pixels come back within 1/131070, a five-hundredth of an 8-bit step.

They are nodes of the first schema (``INPUT_TYPES``), which every ComfyUI knows, those with the third one, too. The file
stands alone: it runs as photofound.demos.comfyui, and copied or linked into custom_nodes under another name.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from photofound.edits import presets
from photofound.edits.inputs import FILE_KINDS, SPELLINGS, SUBJECT_INPUTS, WRITTEN, Input
from photofound.edits.request import Request
from photofound.edits.scores import MOST
from photofound.edits.segmenter import OWN
from photofound.edits.task import Task, get_task, offered, task_names
from photofound.image import Picture
from photofound.picture import layered, provenance
from photofound.segmenters import is_function

PIPE = "PHOTOFOUND_PIPE"  # the type of the loader's output, an EditPipeline
LAYERS = "PHOTOFOUND_LAYERS"  # of a task's second output: for each picture what makes its layers
DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZED = ("fp8", "int8")
LARGEST = 2**31 - 1  # of whole numbers that a task asks for
USUAL = "as usual"  # the choice that leaves an input out
# What finds subjects: among others one that reads words, and one that takes points. Any other one's mask comes from a
# node of its own into ``subject``: workflows may come from strangers, and name no code and no folder here.
SEGMENTERS = (*OWN, "rembg", "nobg", "CIDAS/clipseg-rd64-refined", "facebook/sam2.1-hiera-tiny")
PLACEHOLDERS = {
    "length": "200 or 25%",
    "aspect": "4:5",
    "size": "1200x800",
    "sides": "10%",
    "place": "50%,60%",
    "fit": "contain",
    "background": "#ffffff, wood, marble:black",
    "points": "320,240 10,20,0",
}  # of what is written
LAST_SEED = 2**53 - 1  # the browser's whole numbers end there


class PhotofoundLoader:
    """Loads a model, once: ComfyUI keeps what a node gave until its inputs change."""

    RETURN_TYPES = (PIPE,)
    RETURN_NAMES = ("pipe",)
    FUNCTION = "load"
    CATEGORY = "photofound"
    DESCRIPTION = "One model for all photofound nodes."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        model = "a folder or an id on the Hub; empty = the model that is part of the package"
        cache = "skip blocks in steps that change less than this: faster, not quite the same; 0 = off, 0.15 is usual"
        paths = "guide by the model's outer blocks alone, for models trained with recipe.sprint: nearly half the time"
        lora = "a LoRA of that model: a file, a folder or an id on the Hub; empty = none"
        return {
            "required": {
                "model": ("STRING", {"default": "", "tooltip": model}),
                "lora": ("STRING", {"default": "", "tooltip": lora}),
                "dtype": (list(DTYPES), {"default": DTYPES[0], "tooltip": "precision of the weights"}),
            },
            "optional": {
                "quantize": (
                    ["no", *QUANTIZED],
                    {"default": "no", "tooltip": "weights of eight bits: half the memory"},
                ),
                "cache": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": cache}),
                "path_drop": ("BOOLEAN", {"default": False, "tooltip": paths}),
            },
        }

    def load(
        self, model: str, lora: str, dtype: str, quantize: str = "no", cache: float = 0.0, path_drop: bool = False
    ) -> tuple[Any]:
        from photofound.device import fast_dtype
        from photofound.pipeline import EditPipeline

        device = _device()
        precision = fast_dtype(device) if dtype == "auto" else getattr(torch, dtype)
        source = model.strip() or None
        if lora.strip():
            pipe = EditPipeline.with_lora(source, lora.strip(), torch_dtype=precision)
        else:
            pipe = EditPipeline.from_pretrained(source, torch_dtype=precision)
        if quantize != "no":
            pipe.quantize(quantize)
        if cache:
            pipe.enable_first_block_cache(cache)
        if path_drop:
            pipe.enable_path_drop_guidance()
        return (pipe.to(device),)


class TaskNode:
    """What the nodes of all tasks share; each task has a subclass that names it. One whose results are cut out gives
    their alpha as a mask, too."""

    task: ClassVar[Task]
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("IMAGE",)
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = ("as many pictures as were given; kept pixels are the same floats",)
    FUNCTION = "edit"
    CATEGORY = "photofound"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What must be connected or has a widget is required; sockets that may stay empty are optional, and so are what
        is asked of the subject and what few look for: these widgets come last, and workflows from before stay valid."""
        required: dict[str, Any] = {"pipe": (PIPE,)}
        if cls.task.takes_picture:
            required["image"] = ("IMAGE",)
        optional: dict[str, Any] = {}
        for each in _inputs(cls.task):
            rare = each in SUBJECT_INPUTS or each.name in cls.task.rare
            left_out = each.within is not None and each.default is None
            needed = each.required or (_is_widget(each) and not rare and not left_out)
            kind, options = _declared(each)
            (required if needed else optional)[each.name] = kind, options | ({"advanced": True} if rare else {})
        seed = {"default": 0, "min": 0, "max": LAST_SEED, "control_after_generate": True}
        steps = {"default": 0, "min": 0, "max": 100, "tooltip": "sampling steps; 0 = the model's own number"}
        strongly = "how strongly to follow the prompt; 0 = the model's own"
        guidance = {"default": 0.0, "min": 0.0, "max": 30.0, "step": 0.1, "tooltip": strongly}
        # What changes nothing is hidden and not left out: workflows name the values of widgets by their order.
        idle = {} if cls.task.samples else {"hidden": True}
        required["seed"] = (
            "INT",
            seed | {"tooltip": "picture i of a batch has seed + i"} | ({} if cls.task.varies else {"hidden": True}),
        )
        required["steps"] = ("INT", steps | idle)
        required["guidance"] = ("FLOAT", guidance | idle)
        best = {"default": 1, "min": 1, "max": MOST, "tooltip": "make so many, judge them, keep the best"}
        if cls.task.keeps:
            optional["best_of"] = ("INT", best | {"advanced": True})
        return {"required": required, "optional": optional}

    def edit(
        self,
        pipe: Any,
        image: Tensor | None = None,
        seed: int = 0,
        steps: int = 0,
        guidance: float = 0.0,
        best_of: int = 1,
        **inputs: Any,
    ) -> tuple[Any, ...]:
        """Edit every picture of a batch, one after another.

        Args:
            pipe: from the loader.
            image: (B, H, W, C), C of 1 to 4; a fourth channel is alpha. None for a task that takes none.
            seed: of the first picture; the next ones have the next seeds, so that each can be made again alone.
            steps, guidance: 0 = the model's own.
            best_of: of how many results the best is given.
            **inputs: what the task declares; a mask is (H, W), (1, H, W) for all pictures, or (B, H, W).

        Returns:
            ((B, H', W', C'),), float32 in [0, 1], on the CPU; then for each picture what makes its layers, of a task
            that has some: nobody knows yet whether they are wanted, and ComfyUI keeps what a node gave; then alpha,
            (B, H', W'), 1 = opaque, of a task whose results are cut out.
        """
        results, layers = [], []
        pictures = [None] if image is None else [Picture.from_any(_array(each)) for each in image]
        for i, one in enumerate(pictures):
            given = {each.name: _value(each, inputs.get(each.name), i, len(pictures)) for each in _inputs(self.task)}
            given = {name: value for name, value in given.items() if value is not None}
            sampling = (steps or None, guidance or None) if self.task.samples else (None, None)
            request = Request(self.task.name, one, given, seed + i, *sampling, best_of=best_of)
            made = pipe.answer(request, callback=_progress(i, len(pictures)))
            results.append(made.images[0].to_float())
            layers.append(partial(_layers_of, pipe, request))
        images = torch.stack([torch.from_numpy(result) for result in results])
        alpha = (images[..., 3],) if self.task.alpha else ()
        return (images, layers, *alpha) if self.task.has_layers else (images, *alpha)


class SaveLayers:
    """Writes the layers of each picture into ComfyUI's output folder."""

    RETURN_TYPES = ()
    FUNCTION = "save"
    CATEGORY = "photofound"
    OUTPUT_NODE = True
    DESCRIPTION = "Background, subject, mask, ... as layers for GIMP, Krita (ora) or Photoshop (psd)."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        kinds = [kind.lower() for kind in layered.MIME]
        prefix = {"default": "photofound/layers", "tooltip": "the files' name, as of Save Image"}
        return {"required": {"layers": (LAYERS,), "filename_prefix": ("STRING", prefix), "format": (kinds,)}}

    def save(self, layers: list[Any], filename_prefix: str, format: str) -> dict[str, Any]:
        """Make the layers, and write them. Raises what that raises."""
        paths = import_module("folder_paths")
        written = []
        for i, make in enumerate(layers):
            stack, flat = make(_progress(i, len(layers)))
            folder, name, number, *_ = paths.get_save_image_path(filename_prefix, paths.get_output_directory())
            while (path := Path(folder, f"{name}_{number:05}_.{format}")).exists():
                number += 1
            written.append(str(layered.save(stack, flat, path)))
        return {"ui": {"text": written}}


def _layers_of(pipe: Any, request: Request, callback: Callable[..., Any] | None) -> tuple[Any, Picture]:
    """The layers of a request, and the flat picture, marked as its file is."""
    made = pipe.answer(dataclasses.replace(request, layers=True), callback=callback)
    generates = get_task(request.task).generates
    return made.layers[0], provenance.mark(made.images[0]) if generates else made.images[0]


def _inputs(task: Task) -> list[Input]:
    """The declared inputs but the photograph itself."""
    return offered(task)


def _is_widget(each: Input) -> bool:
    """Whether a person sets it on the node itself. Otherwise it is a socket, left out while nothing is connected: a
    number of which neither a default nor a range is known, too, since a widget always has a value."""
    known = each.default is not None or each.within is not None
    return bool(each.choices) or each.kind in ("text", "flag", *WRITTEN) or (each.kind == "int" and known)


def _choices(each: Input) -> list[Any]:
    """The only values there are; none where any of the kind will do."""
    known = {"preset": presets.names(), "segmenter": list(SEGMENTERS)}
    three = each.kind == "flag" and each.default is None
    found = ["yes", "no"] if three else known.get(each.kind, list(each.choices))
    return [USUAL] * (bool(found) and each.default is None and not each.required) + found


def _declared(each: Input) -> tuple[str | list[Any], dict[str, Any]]:
    """An input as ComfyUI declares it: its type, or its choices, and its options. A number below its range stands for
    one that is left out."""
    options: dict[str, Any] = {"tooltip": each.help}
    if choices := _choices(each):
        default = {} if each.required else {"default": USUAL if each.default is None else each.default}
        return choices, options | default
    if each.kind in FILE_KINDS:
        return each.kind.upper(), options
    if each.kind == "flag":
        return "BOOLEAN", options | {"default": each.default}
    if each.kind in ("int", "share") and each.within is not None:
        least, most = each.within
        share = each.kind == "share"
        if each.default is None:
            least -= 1
            options["tooltip"] += f"{', in %' if share else ''}; {least} = as usual"
        options |= {"default": least if each.default is None else each.default, "min": least, "max": most, "step": 1}
        return ("FLOAT" if share else "INT"), options
    if each.kind == "int":
        default = {"default": each.default} if _is_widget(each) else {"forceInput": True}
        return "INT", {"min": -LARGEST, "max": LARGEST, **options, **default}
    if each.kind == "text":
        return "STRING", {"multiline": True, "dynamicPrompts": True, **options, "default": each.default or ""}
    if each.kind in WRITTEN:
        placeholder = {"placeholder": PLACEHOLDERS[each.kind]} if each.kind in PLACEHOLDERS else {}
        default = {"default": "" if each.default is None else str(each.default)}
        return "STRING", default | placeholder | {"tooltip": f"{each.help} ({SPELLINGS[each.kind][1]})"}
    kinds = ", ".join((*FILE_KINDS, *SPELLINGS))
    raise ValueError(f"input {each.name!r} has kind {each.kind!r}, which has no widget; use one of {kinds}")


def _value(each: Input, value: Any, i: int, batch: int) -> Any:
    """An input for picture ``i`` as the pipeline takes it; None = left out."""
    if isinstance(value, Tensor):
        return _part(each, value, i, batch)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and each.within is not None:
        left_out = each.default is None and value < each.within[0]
        return None if left_out else f"{value:g}%" if each.kind == "share" else value
    written = each.kind in (*WRITTEN, "flag") and not each.choices
    if not isinstance(value, str) or not (written or each.choices):
        return value
    if not value.strip() or value == USUAL:
        return None
    if each.kind == "segmenter" and is_function(value):
        raise ValueError(f"{each.name}: {value!r} is code, and workflows may come from strangers; name a model instead")
    try:
        return each.parse(value.strip()) if written else value
    except ValueError as error:
        raise ValueError(f"{each.name}: {error}") from None


def _part(each: Input, tensor: Tensor, i: int, batch: int) -> Any:
    """What belongs to picture ``i`` of images (B, H, W, C) or masks (H, W) or (B, H, W), B of 1 for all; as numpy."""
    if each.kind == "mask":
        tensor = tensor.reshape(-1, *tensor.shape[-2:])
        if _stands_for_none(tensor):
            if each.required:
                raise ValueError(f"{each.name}: Load Image gave no mask; paint one in its mask editor, or connect one")
            return None
    if len(tensor) not in (1, batch):
        raise ValueError(f"{each.name}: got {len(tensor)} for {batch} pictures; give one, or as many")
    return _array(tensor[i if len(tensor) > 1 else 0])


def _stands_for_none(mask: Tensor) -> bool:
    """Load Image gives 64 x 64 zeros where a file has no alpha channel."""
    return tuple(mask.shape[-2:]) == (64, 64) and not mask.any()


def _array(tensor: Tensor) -> Any:
    """(H, W) or (H, W, C) as numpy; other nodes' results may overshoot [0, 1] a little."""
    return tensor.float().clamp(0, 1).cpu().numpy()


def _progress(i: int, batch: int) -> Callable[..., dict[str, Tensor]] | None:
    """A callback for picture ``i`` of a batch that moves ComfyUI's bar, through which Cancel arrives, too; None outside
    ComfyUI."""
    try:
        bar = import_module("comfy.utils").ProgressBar(batch)
    except ImportError:
        return None

    def step(pipe: Any, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps = pipe.num_timesteps
        bar.update_absolute(i * steps + index + 1, batch * steps)
        return tensors

    return step


def _device() -> str:
    """Where ComfyUI computes; outside it the GPU, if there is one."""
    try:
        return str(import_module("comfy.model_management").get_torch_device())
    except ImportError:
        return "cuda" if torch.cuda.is_available() else "cpu"


def _node(task: Task) -> type[TaskNode]:
    """The node class of a task. Raises ValueError for an input that no node can have."""
    own: dict[str, Any] = {"task": task, "DESCRIPTION": f"{task.summary[:1].upper()}{task.summary[1:]}."}
    types, names, tips = ["IMAGE"], ["IMAGE"], list(TaskNode.OUTPUT_TOOLTIPS)
    if task.has_layers:
        types, names, tips = [*types, LAYERS], [*names, "layers"], [*tips, "for Save Layers"]
    if task.alpha:
        types, names, tips = [*types, "MASK"], [*names, "MASK"], [*tips, "the alpha: 1 = the subject"]
    own |= {"RETURN_TYPES": tuple(types), "RETURN_NAMES": tuple(names), "OUTPUT_TOOLTIPS": tuple(tips)}
    node: type[TaskNode] = type(f"Photofound{_title(task).replace(' ', '')}", (TaskNode,), own)
    node.INPUT_TYPES()
    return node


def _title(task: Task) -> str:
    return task.name.replace("_", " ").title()


def _mappings() -> tuple[dict[str, type], dict[str, str]]:
    """All nodes and their names in the menu. A task that cannot be had does not take the others with it."""
    nodes: dict[str, type] = {"PhotofoundLoader": PhotofoundLoader, "PhotofoundSaveLayers": SaveLayers}
    names = {"PhotofoundLoader": "Load Model (photofound)", "PhotofoundSaveLayers": "Save Layers (photofound)"}
    for name in task_names():
        try:
            task = get_task(name)
            node = _node(task)
        except Exception as error:  # anything can be wrong with a file that somebody dropped in
            logging.warning("photofound: no node for task %r: %s", name, error)
            continue
        nodes[node.__name__], names[node.__name__] = node, f"{_title(task)} (photofound)"
    return nodes, names


NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS = _mappings()
__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
