"""The parts of other people's pipelines, tiny and with random weights."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SIDE = 64  # of the pictures that they say they were trained at


def vae(channels=(8, 8), latents=4, **more):
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * len(channels)}
    blocks |= {"up_block_types": ["UpDecoderBlock2D"] * len(channels), "norm_num_groups": 4, "sample_size": SIDE}
    return AutoencoderKL(block_out_channels=channels, layers_per_block=1, latent_channels=latents, **blocks, **more)


def unet(channels, **more):
    blocks = {"down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"]}
    sizes = {"block_out_channels": (8,), "cross_attention_dim": 16, "attention_head_dim": 2, "norm_num_groups": 4}
    sizes |= {"sample_size": SIDE // 2, "out_channels": 4, "layers_per_block": 1}
    return UNet2DConditionModel(in_channels=channels, **{**sizes, **more}, **blocks)


def tokenizer(folder: Path) -> CLIPTokenizer:
    """One that knows letters; its vocabulary is written into the folder."""
    known = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(known)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def clip(words, projected=False):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1}
    config = CLIPTextConfig(vocab_size=len(words), max_position_embeddings=16, projection_dim=16, **sizes, **ends)
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()
