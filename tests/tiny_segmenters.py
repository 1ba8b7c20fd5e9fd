"""Segmentation models of transformers, tiny and with random weights, in folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny_parts
import torch
import transformers as hf

SIDE = 64
LABELS: Any = {"id2label": {0: "wall", 1: "shoe", 2: "hand bag"}, "label2id": {"wall": 0, "shoe": 1, "hand bag": 2}}
SQUARE = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def saved(model: Any, folder: Path, frame: dict[str, Any] | None = SQUARE, words: bool = False) -> Path:
    model.eval().save_pretrained(folder)
    if frame is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(frame))
    if words:
        tiny_parts.tokenizer(folder).save_pretrained(folder)
    return folder


def segformer(folder: Path) -> Path:
    """A class for each pixel."""
    torch.manual_seed(0)
    sizes = {"depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [8, 16], "num_attention_heads": [1, 2]}
    sizes |= {"patch_sizes": [3, 3], "strides": [4, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 16}
    config = hf.SegformerConfig(num_encoder_blocks=2, **sizes, **LABELS)
    return saved(hf.SegformerForSemanticSegmentation(config), folder)


def sam(folder: Path) -> Path:
    """Asked by points and boxes; pictures lie in a square."""
    torch.manual_seed(0)
    network = {"hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    seen = {"output_channels": 16, "image_size": SIDE, "patch_size": 8, "window_size": 4, "num_pos_feats": 8}
    config = hf.SamConfig(
        vision_config=hf.SamVisionConfig(**network, **seen, global_attn_indexes=[0]),
        prompt_encoder_config={"hidden_size": 16, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={**network, "iou_head_hidden_dim": 16, "iou_head_depth": 2},
    )
    frame = {"size": {"longest_edge": SIDE}, "pad_size": {"height": SIDE, "width": SIDE}, "do_pad": True}
    return saved(hf.SamModel(config), folder, frame)


def sam2(folder: Path) -> Path:
    """Asked by points and boxes; its own processor needs torchvision."""
    torch.manual_seed(0)
    stages = {"blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64]}
    windows = {"window_size_per_stage": [4, 2, 2, 2], "window_positional_embedding_background_size": [2, 2]}
    backbone = hf.Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[SIDE, SIDE],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        global_attention_blocks=[3],
        **stages,
        **windows,
    )
    decoder = {"hidden_size": 32, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hf.Sam2Config(
        vision_config=hf.Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=[64, 32, 16, 8],
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
            fpn_hidden_size=32,
        ),
        prompt_encoder_config={"hidden_size": 32, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={**decoder, "iou_head_hidden_dim": 16, "iou_head_depth": 2},
    )
    return saved(hf.Sam2Model(config), folder)


def _swin() -> Any:
    stages = ["stage1", "stage2", "stage3", "stage4"]
    sizes = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 4}
    return hf.SwinConfig(image_size=SIDE, out_features=stages, **sizes)


def mask2former(folder: Path) -> Path:
    """Masks with classes; pictures keep their aspect ratio. It is sure that its first class is everywhere."""
    torch.manual_seed(0)
    sizes = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32}
    sizes |= {"dim_feedforward": 32, "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2}
    config = hf.Mask2FormerConfig(backbone_config=_swin(), num_queries=5, **sizes, **LABELS)
    model = hf.Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        model.class_predictor.bias[1] = 5.0
    return saved(model, folder, {"size": {"shortest_edge": SIDE, "longest_edge": 96}, "size_divisor": 32})


def oneformer(folder: Path) -> Path:
    """Masks with classes; its task is said in words."""
    torch.manual_seed(0)
    sizes = {"conv_dim": 32, "mask_dim": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32, "num_queries": 6}
    sizes |= {"dim_feedforward": 32, "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2}
    words = {"text_encoder_width": 16, "text_encoder_num_layers": 1, "text_encoder_vocab_size": 64}
    words |= {"text_encoder_context_length": 16, "text_encoder_n_ctx": 2, "task_seq_len": 16, "max_seq_len": 16}
    config = hf.OneFormerConfig(
        backbone_config=_swin(), use_task_norm=True, is_training=False, **sizes, **words, **LABELS
    )
    model = hf.OneFormerForUniversalSegmentation(config)
    return saved(model, folder, {"size": {"shortest_edge": SIDE, "longest_edge": 96}}, words=True)


def clipseg(folder: Path) -> Path:
    """Asked by words."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1}
    config = hf.CLIPSegConfig(
        text_config={**sizes, **ends, "vocab_size": 32, "max_position_embeddings": 16},
        vision_config={**sizes, "image_size": SIDE, "patch_size": 16},
        projection_dim=16,
        reduce_dim=8,
        extract_layers=[0, 1],
        conditional_layer=0,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    return saved(hf.CLIPSegForImageSegmentation(config), folder, words=True)


def sam3(folder: Path) -> Path:
    """Asked by words."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1}
    part = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    vision = {
        "backbone_config": {
            **sizes,
            "model_type": "sam3_vit_model",
            "image_size": SIDE,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [0],
            "pretrain_image_size": SIDE,
        },
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }
    config = hf.Sam3Config(
        vision_config=vision,
        text_config={**sizes, **ends, "vocab_size": 32, "max_position_embeddings": 16, "projection_dim": 32},
        geometry_encoder_config={**part, "num_layers": 1},
        detr_encoder_config={**part, "num_layers": 1},
        detr_decoder_config={**part, "num_layers": 1, "num_queries": 4},
        mask_decoder_config={"hidden_size": 32, "num_upsampling_stages": 3, "num_attention_heads": 2},
    )
    return saved(hf.Sam3Model(config), folder, words=True)
