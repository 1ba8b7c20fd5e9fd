"""The pipeline that a training starts from: a saved one, or a new transformer around an autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from photofound.model import autoencoder, text
from photofound.model.condition import condition_channels
from photofound.model.transformer import EditTransformer
from photofound.pipeline import EditPipeline
from photofound.train.settings import ModelConfig

_SHAPES = ("patch_size", "hidden_size", "mlp_ratio", "num_heads", "depth", "bottleneck_size", "prediction_type")


def build_pipeline(config: ModelConfig, tasks: Sequence[str]) -> EditPipeline:
    """An EditPipeline in float32 whose transformer has a head for each of ``tasks``.

    It is loaded from ``config.start`` where that is set; of a few-step student its teacher is loaded. Otherwise the
    transformer is new, and stands around the autoencoder ``config.vae``.

    Raises ValueError where the parts do not fit together, FileNotFoundError for a folder that does not exist.
    """
    if config.start:
        pipeline = EditPipeline.from_pretrained(config.start, torch_dtype=torch.float32)
        if pipeline.config.distilled:
            pipeline = EditPipeline.from_pretrained(config.start, teacher=True, torch_dtype=torch.float32)
        _check_shapes(config, pipeline)
        add_inputs(pipeline.transformer, tasks, config)
        if (trained := pipeline.config.trained_tasks) is not None:
            pipeline.register_to_config(trained_tasks=list(dict.fromkeys([*trained, *tasks])))
        pipeline.register_to_config(_name_or_path=None)  # the trained model must not take over the start's card
        return pipeline
    vae = autoencoder.load(config.vae)
    if config.text_encoder:
        tokenizer, encoder = text.load(config.text_encoder)
    else:
        tokenizer, encoder = text.build_byte_encoder(config.text_width, config.text_layers)
    if (width := encoder.get_input_embeddings().embedding_dim) != config.text_width:
        raise ValueError(f"model.text_width: {config.text_width}, but {config.text_encoder} gives {width}; set {width}")
    transformer = EditTransformer(**transformer_options(config, tasks, vae))
    scheduler = FlowMatchEulerDiscreteScheduler()
    return EditPipeline(transformer, vae, encoder, tokenizer, scheduler, noise_scale=config.noise_scale)


def _check_shapes(config: ModelConfig, pipeline: Any) -> None:
    """Raise ValueError for shapes that are not those of the start model. Those that are may be repeated, for a plan
    without the folder."""
    shape, vae = pipeline.transformer.config, pipeline.vae
    held = {name: shape[name] for name in (*_SHAPES, "condition_space")}
    held |= {"text_width": shape.context_in_dim, "noise_scale": pipeline.config.noise_scale}
    held["latent"] = autoencoder.channels(vae), autoencoder.factor(vae)
    for name, value in held.items():
        if (wanted := getattr(config, name)) not in (getattr(ModelConfig, name), value):
            raise ValueError(f"model.{name}: {wanted}, but {config.start} has {value}, which holds; leave it out")


def transformer_options(config: ModelConfig, tasks: Sequence[str], vae: Any | None) -> dict[str, Any]:
    """Arguments of a new EditTransformer around an autoencoder, which may be without weights (``autoencoder.outline``).

    Raises ValueError for conditions in latents without an autoencoder.
    """
    if vae is None and config.condition_space == "latents":
        raise ValueError("model.condition_space: there are no latents without an autoencoder; use pixels")
    return {
        **{name: getattr(config, name) for name in (*_SHAPES, "condition_space")},
        "in_channels": autoencoder.channels(vae),
        "context_in_dim": config.text_width,
        "condition_channels": condition_channels(vae, config.condition_space),
        "tasks": ("generate", *tasks),
        "reference_embeds": config.reference,
        "reference_size": config.reference_size,
        "token_fusion": config.fusion,
    }


def add_inputs(transformer: EditTransformer, tasks: Sequence[str], config: ModelConfig) -> None:
    """Add the task heads and the reference input that a loaded transformer does not have yet."""
    for task in tasks:
        if task not in transformer.config.tasks:
            transformer.add_task(task)
    if config.reference:
        transformer.add_reference(config.reference_size)
    if config.fusion:
        transformer.add_fusion()
