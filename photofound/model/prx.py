"""Turn a PRX text-to-image pipeline (Photoroom, Apache-2.0) into an editing one, weights and all.

The result is a folder in diffusers' layout whose transformer is an `EditTransformer`. Its edit inputs start at zero, so
that before any training it generates what PRX generates.
"""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import PRXTransformer2DModel
from safetensors import SafetensorError, safe_open
from torch import nn

from photofound import files
from photofound.errors import first_line
from photofound.model.condition import condition_channels
from photofound.model.transformer import EditTransformer

TASKS = ("generate", "outpaint", "inpaint", "expand", "erase", "upscale")  # the first is PRX's own
COMPONENTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
INDEX = "model_index.json"
PRX_FIELDS = (
    *("in_channels", "patch_size", "context_in_dim", "hidden_size", "mlp_ratio", "num_heads", "depth", "axes_dim"),
    *("theta", "time_factor", "time_max_period", "bottleneck_size", "resolution_embeds"),
)


def convert_prx(
    source: str | Path,
    output: str | Path,
    tasks: Sequence[str] = TASKS,
    condition_channels: int | None = None,
) -> Path:
    """Write a PRX pipeline as an editing pipeline.

    Weights keep the dtype they are stored in. Settings of the source pipeline that are not components (its default
    size, the noise scale of the pixel model) are carried over into the new index.

    Args:
        source: a folder saved by diffusers' PRXPipeline or PRXPixelPipeline, or a Hub id such as
            `Photoroom/prx-512-t2i-sft`. Safetensors only.
        output: the folder to write; it must be missing or empty, and appears only when complete.
        tasks: names of the edits, one output head each, all started from PRX's.
        condition_channels: channels of the condition map. None chooses latents of the canvas plus the hole folded
            without loss, so latent channels + f * f with an autoencoder of factor f (16 + 64 for f8), and 3 + 1 for a
            model that works on pixels.

    Returns:
        The output folder.

    Raises:
        FileNotFoundError: the source, or a part of it, is not there.
        ValueError: the source is no PRX pipeline, has pickled or damaged weights, or the output is in use.
    """
    output = files.output_path(output, "output")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"output {output} is already there: remove it or name another folder")
    folder = _find(source)
    index = _read_json(folder / INDEX)
    _refuse_pickles(folder)

    prx = _load_model(folder, "transformer", PRXTransformer2DModel)
    vae = _load_model(folder, "vae", _named(diffusers, index, "vae")) if _has(index, "vae") else None
    channels, settings = _condition_of(index, prx, vae)
    parts = {
        "transformer": transformer_from_prx(
            prx,
            tasks=tasks,
            condition_channels=channels if condition_channels is None else condition_channels,
            **settings,
        ),
        "vae": vae,
        "text_encoder": _load_text_encoder(folder, index),
        "tokenizer": _load("tokenizer", transformers.AutoTokenizer, folder / "tokenizer"),
        "scheduler": _load("scheduler", _named(diffusers, index, "scheduler"), folder / "scheduler"),
    }

    output.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(output) as draft:
        draft.mkdir()
        for name, part in parts.items():
            if part is not None:
                part.save_pretrained(draft / name)
        (draft / INDEX).write_text(json.dumps(_new_index(index, parts), indent=2) + "\n", encoding="utf-8")
    return output


# ------------------------------------------------------------------------------------------------- finding and reading


def transformer_from_prx(
    prx: PRXTransformer2DModel,
    *,
    condition_channels: int = 0,
    condition_space: str = "pixels",
    tasks: Sequence[str] = ("generate",),
    guidance_embeds: bool = False,
    prediction_type: str = "velocity",
    reference_embeds: bool = False,
    reference_size: int = 128,
) -> EditTransformer:
    """Build an editor from a `diffusers.PRXTransformer2DModel`, weights copied, in its dtype and on its device.

    Every task's head starts as PRX's final layer and the edit inputs start at zero, so the editor's output is at first
    PRX's. The pixel-space PRX models predict the clean image: pass `prediction_type="sample"` for them.

    Raises ValueError for a model that is not PRX.
    """
    trunk = {name: prx.config[name] for name in PRX_FIELDS if name in prx.config}
    model = EditTransformer(
        **trunk,
        condition_channels=condition_channels,
        condition_space=condition_space,
        tasks=list(tasks),
        guidance_embeds=guidance_embeds,
        prediction_type=prediction_type,
    )
    nn.Module.to(model, device=prx.device, dtype=prx.dtype)  # diffusers' own `to` warns at any cast

    weights = dict(prx.state_dict())
    for ours, theirs in (
        ("modulation_weight", "adaLN_modulation.1.weight"),
        ("modulation_bias", "adaLN_modulation.1.bias"),
        ("weight", "linear.weight"),
        ("bias", "linear.bias"),
    ):
        head = weights.pop(f"final_layer.{theirs}")
        weights[f"heads.{ours}"] = head.expand(len(tasks), *head.shape)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    edit_inputs = ("condition_in.", "task_in", "strength_in.", "guidance_in.")
    if unexpected or any(not name.startswith(edit_inputs) for name in missing):
        strays = [*unexpected, *(name for name in missing if not name.startswith(edit_inputs))]
        raise ValueError(f"{type(prx).__name__} is not a PRX transformer: {strays[0]} does not match")
    if reference_embeds:
        model.add_reference(reference_size)
    return model


def _find(source: str | Path) -> Path:
    """The local folder of a pipeline, downloaded (configurations and safetensors only) if `source` is a Hub id."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if isinstance(source, Path) or folder.exists() or str(source).count("/") != 1 or str(source).startswith((".", "/")):
        raise FileNotFoundError(f"{source} is not a folder: give a pipeline saved by diffusers, or a Hub id owner/name")
    from huggingface_hub import snapshot_download

    wanted = [INDEX, "*/*.json", "*/*.safetensors", "tokenizer/*"]
    try:
        return Path(snapshot_download(str(source), allow_patterns=wanted))
    except (OSError, ValueError) as error:  # the Hub's own errors (not found, gated, offline, no network) are OSErrors
        reason = first_line(error)
        raise FileNotFoundError(f"{source} is neither a folder here nor to be had from the Hub: {reason}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: give the folder that a diffusers pipeline was saved to")
    try:
        return files.read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}: save or download the pipeline again") from error


def _refuse_pickles(folder: Path) -> None:
    """Pickled weights can run any code when they are opened, so they are not opened."""
    for path in sorted(folder.glob("*/*")):
        if path.suffix in files.PICKLE_SUFFIXES:
            raise ValueError(f"{path} is a pickle, which may run code: save it as safetensors and remove it")


def _has(index: dict[str, Any], name: str) -> bool:
    return bool(index.get(name)) and index[name][1] is not None


def _named(library: Any, index: dict[str, Any], name: str) -> type:
    """The class that a pipeline's index names for a component."""
    if not _has(index, name):
        raise ValueError(f"{INDEX} names no {name}: give a complete PRX pipeline")
    class_name = index[name][1]
    if not hasattr(library, class_name):
        raise ValueError(
            f"{name} is a {class_name}, which {library.__name__} does not have: upgrade {library.__name__}"
        )
    return getattr(library, class_name)


def _load(name: str, cls: Any, folder: Path, **options: Any) -> Any:
    """`cls.from_pretrained(folder)`, never from the network, with one clear line if it fails."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: give a complete PRX pipeline, {name} included")
    try:
        return cls.from_pretrained(str(folder), local_files_only=True, **options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = first_line(error)
        raise ValueError(
            f"{folder} cannot be loaded as {cls.__name__} ({reason}): download or save it again"
        ) from error


def _load_model(folder: Path, name: str, cls: Any, **options: Any) -> Any:
    """A component with weights, in the dtype of its file, complete."""
    dtype = _stored_dtype(folder / name)
    model, info = _load(
        name, cls, folder / name, torch_dtype=dtype, use_safetensors=True, output_loading_info=True, **options
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"{folder / name} lacks {len(missing)} weights, {missing[0]} for one: download or save it again"
        )
    return model.eval()


def _stored_dtype(folder: Path) -> torch.dtype:
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise FileNotFoundError(f"{folder} has no safetensors weights: save the pipeline with safe_serialization=True")
    try:
        with safe_open(shards[0], framework="pt") as file:
            return file.get_tensor(next(iter(file.keys()))).dtype
    except (SafetensorError, StopIteration) as error:
        raise ValueError(f"{shards[0]} is damaged ({error}): download or save it again") from error


# --------------------------------------------------------------------------------------------------------- the pieces


def _load_text_encoder(folder: Path, index: dict[str, Any]) -> nn.Module:
    """The text encoder. PRX's own, T5Gemma's encoder half, comes back as transformers' public T5GemmaEncoderModel.

    The bare encoder is saved with a configuration that its class cannot load again (diffusers issue 13608), and
    transformers does not export that class. The public one holds the same module and makes the round trip.
    """
    name = "text_encoder"
    if not _has(index, name):
        raise ValueError(f"{INDEX} names no {name}: give a complete PRX pipeline")
    if index[name][1] != "T5GemmaEncoder":
        return _load_model(folder, name, _named(transformers, index, name))

    from transformers.models.t5gemma.configuration_t5gemma import T5GemmaConfig, T5GemmaModuleConfig
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder, T5GemmaEncoderModel

    composite = "encoder" in _read_json(folder / name / "config.json")
    config = _load(name, T5GemmaConfig if composite else T5GemmaModuleConfig, folder / name)
    encoder = _load_model(folder, name, T5GemmaEncoder, config=config.encoder if composite else config)
    # The public class wants a decoder's configuration too, and never builds it: the encoder's serves.
    both = encoder.config.to_dict()
    whole = T5GemmaConfig(
        encoder=both,
        decoder=both,
        is_encoder_decoder=False,
        vocab_size=encoder.config.vocab_size,
        dropout_rate=encoder.config.dropout_rate,
        attention_dropout=encoder.config.attention_dropout,
    )
    with torch.device("meta"):  # an empty shell: its own weights would be thrown away
        public = T5GemmaEncoderModel(whole)
    public.encoder = encoder
    return public.eval()


def _condition_of(index: dict[str, Any], prx: PRXTransformer2DModel, vae: Any) -> tuple[int, dict[str, Any]]:
    """Condition channels, and in which space the transformer works and what it predicts."""
    channels = prx.config.in_channels
    # PRX's pixel model predicts the clean image, its latent models the velocity.
    prediction = "sample" if index.get("_class_name") == "PRXPixelPipeline" else "velocity"
    if vae is None:
        if channels != 3:
            raise ValueError(
                f"the transformer has {channels} channels but the pipeline has no vae: give it with its vae"
            )
        return condition_channels(None, "pixels"), {"condition_space": "pixels", "prediction_type": prediction}
    if vae.config.latent_channels != channels:
        raise ValueError(
            f"the vae has {vae.config.latent_channels} latent channels and the transformer {channels}: "
            "give a pipeline whose parts belong together"
        )
    return condition_channels(vae, "latents"), {"condition_space": "latents", "prediction_type": prediction}


def _new_index(index: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """The new model_index.json: our pipeline, our transformer, everything else under its own class."""
    entries: dict[str, Any] = {"_class_name": "EditPipeline", "_diffusers_version": diffusers.__version__}
    entries |= {"default_sample_size": index.get("default_sample_size")} if "default_sample_size" in index else {}
    entries |= _settings(index)
    for name, part in parts.items():
        module = type(part).__module__
        library = module.split(".")[0]
        library = module if library == "photofound" else library
        entries[name] = [None, None] if part is None else [library, type(part).__name__]
    return entries


def _settings(index: dict[str, Any]) -> dict[str, Any]:
    """The defaults of PRX's pipelines, as settings of ours. They are defaults of their calls and
    constructors: the index holds the resolution, the noise and the length of prompts alone."""
    pixel = index.get("_class_name") == "PRXPixelPipeline"
    pipeline = diffusers.PRXPixelPipeline if pixel else diffusers.PRXPipeline
    call, made = inspect.signature(pipeline.__call__).parameters, inspect.signature(pipeline.__init__).parameters

    def own(name: str, otherwise: Any) -> Any:
        default = made[name].default if name in made else otherwise
        return default if index.get(name) is None else index[name]

    return {
        "tile": own("default_sample_size", 512),
        "default_steps": call["num_inference_steps"].default,
        "default_guidance": call["guidance_scale"].default,
        "noise_scale": own("noise_scale", 1.0),
        "trained_tasks": ["generate"],
        "sigmas": "scheduler",
        "prompt_cleaning": "light" if pixel else "full",
        "prompt_tokens": own("prompt_max_tokens", None),
    }
