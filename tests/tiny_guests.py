"""Other people's pipelines, tiny and with random weights: one builder for each family."""

from __future__ import annotations

from functools import cache

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxFillPipeline,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageInpaintPipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3InpaintPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionLatentUpscalePipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tiny_parts import SIDE, clip, unet, vae
from transformers import (
    BatchFeature,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

from photofound.model import text

_CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
_SPECIAL += ("<|video_pad|>",)
_MODEL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def build(family, words):
    """A pipeline of a family. ``words`` is a CLIP tokenizer, for those that have one."""
    torch.manual_seed(0)
    pipe = _BUILDERS[family](words)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ---------------------------------------------------------------------------------------------------- Stable Diffusion

_NONE = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def _stable(cls, channels):
    def make(words):
        parts = {"vae": vae(), "unet": unet(channels), "scheduler": DDIMScheduler()}
        return cls(**parts, text_encoder=clip(words), tokenizer=words, **_NONE)

    return make


def with_adapter(pipe):
    """An SD pipeline's IP-adapter, loaded through our pipeline: (B, 16) of a picture become four tokens."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(image_size=32, patch_size=16, projection_dim=16, **sizes)
    guest = pipe.painter.pipe
    guest.register_modules(
        image_encoder=CLIPVisionModelWithProjection(config).eval(),
        feature_extractor=CLIPImageProcessorPil(size=32, crop_size=32),
    )
    projection = {"proj.weight": torch.randn(4 * 16, 16), "proj.bias": torch.zeros(4 * 16)}
    projection |= {"norm.weight": torch.ones(16), "norm.bias": torch.zeros(16)}
    layers = [layer for name, layer in guest.unet.named_modules() if name.endswith("attn2")]
    keys = {}
    for i, layer in enumerate(layers):
        for part in ("k", "v"):
            keys[f"{2 * i + 1}.to_{part}_ip.weight"] = torch.randn(layer.inner_dim, 16)
    pipe.load_ip_adapter({"image_proj": projection, "ip_adapter": keys}, subfolder="", weight_name="")


def _sdxl(words):
    more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "cross_attention_dim": 32}
    network = unet(9, projection_class_embeddings_input_dim=16 + 6 * 8, **more)
    encoders = {"text_encoder": clip(words), "text_encoder_2": clip(words, projected=True)}
    both = {"tokenizer": words, "tokenizer_2": words}
    return StableDiffusionXLInpaintPipeline(
        vae=vae(), unet=network, scheduler=DDIMScheduler(), **encoders, **both, add_watermarker=False
    )


def _sd3(words):
    network = SD3Transformer2DModel(
        sample_size=SIDE // 2, patch_size=2, in_channels=16, out_channels=16, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
    )  # fmt: skip
    encoders = {f"text_encoder{n}": clip(words, projected=True) for n in ("", "_2")} | {"text_encoder_3": None}
    tokenizers = {f"tokenizer{n}": words for n in ("", "_2")} | {"tokenizer_3": None}
    return StableDiffusion3InpaintPipeline(
        transformer=network,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(latents=16, shift_factor=0.0),
        **encoders,
        **tokenizers,
    )


def _upscaler(words):
    parts = {"vae": vae((8, 8, 8)), "unet": unet(7, num_class_embeds=1000)}
    schedulers = {"scheduler": DDIMScheduler(), "low_res_scheduler": DDPMScheduler()}
    return StableDiffusionUpscalePipeline(**parts, text_encoder=clip(words), tokenizer=words, **schedulers)


def _latent_upscaler(words):
    network = UNet2DConditionModel(
        block_out_channels=(32, 32, 64, 64), layers_per_block=1, in_channels=8, out_channels=5, sample_size=SIDE,
        norm_num_groups=None, act_fn="gelu", attention_head_dim=8, cross_attention_dim=16, conv_in_kernel=1,
        conv_out_kernel=1, down_block_types=("KDownBlock2D", *["KCrossAttnDownBlock2D"] * 3), mid_block_type=None,
        up_block_types=(*["KCrossAttnUpBlock2D"] * 3, "KUpBlock2D"), resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier", timestep_post_act="gelu", time_cond_proj_dim=144, only_cross_attention=False,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(prediction_type="sample")
    parts = {"vae": vae((8, 8, 8, 8)), "unet": network, "scheduler": scheduler}
    return StableDiffusionLatentUpscalePipeline(**parts, text_encoder=clip(words), tokenizer=words)


# ---------------------------------------------------------------------------------------------------------------- FLUX


def _flux(cls, channels):
    def make(words):
        transformer = FluxTransformer2DModel(
            patch_size=1, in_channels=channels, out_channels=16, num_layers=1, num_single_layers=1,
            attention_head_dim=16, num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 8), guidance_embeds=True,
        )  # fmt: skip
        t5 = T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        return cls(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=vae(latents=4, shift_factor=0.0, scaling_factor=1.0),
            text_encoder=clip(words),
            tokenizer=words,
            text_encoder_2=T5EncoderModel(t5).eval(),
            tokenizer_2=text.build_byte_encoder()[0],
            transformer=transformer,
        )

    return make


def _klein(words):
    transformer = Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=3 * 16, timestep_guidance_channels=8, axes_dims_rope=(4, 4, 4, 4),
    )  # fmt: skip
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    autoencoder = AutoencoderKLFlux2(
        block_out_channels=(8,), layers_per_block=1, latent_channels=4, norm_num_groups=4, **blocks
    )
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder.eval(),
        text_encoder=_qwen3(layers=27),
        tokenizer=_qwen_tokenizer(),
        transformer=transformer,
        is_distilled=False,
    )


# ----------------------------------------------------------------------------------------------- Qwen, Z-Image and Sana


@cache
def _qwen_tokenizer():
    """One that knows bytes."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocabulary = {letter: i for i, letter in enumerate([*bytes_to_unicode().values(), *_SPECIAL])}
    words = Qwen2Tokenizer(
        vocab=vocabulary, merges=[], additional_special_tokens=list(_SPECIAL[1:]), pad_token=_SPECIAL[0]
    )
    words.chat_template = _CHAT
    return words


def _qwen3(layers=2):
    sizes = _MODEL | {"num_hidden_layers": layers, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 263}
    return Qwen3ForCausalLM(Qwen3Config(**sizes)).eval()


class _Looks:
    """What Qwen2VLProcessor does, which wants torchvision: as many tokens for a picture as it has patches."""

    def __init__(self, tokens):
        self.tokens, self.reader = tokens, Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56)

    def __call__(self, text, images, padding, return_tensors):
        seen = self.reader(images=images, return_tensors=return_tensors)
        text, counts = list(text), iter((seen["image_grid_thw"].prod(1) // 4).tolist())
        for i, words in enumerate(text):
            while "<|image_pad|>" in words:
                words = words.replace("<|image_pad|>", "<|seen|>" * next(counts), 1)
            text[i] = words.replace("<|seen|>", "<|image_pad|>")
        return BatchFeature({**self.tokens(text, padding=padding, return_tensors=return_tensors), **seen})


def _qwen_image(cls):
    def make(words):
        tokens = _qwen_tokenizer()
        names = ("image", "video", "vision_start", "vision_end")
        ends = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
        ids = {f"{name}_token_id": tokens.convert_tokens_to_ids(ends.get(name, f"<|{name}|>")) for name in names}
        config = Qwen2_5_VLConfig(
            text_config=_MODEL | {"num_key_value_heads": 2, "vocab_size": 263, "rope_parameters": _ROPE},
            vision_config={
                "depth": 2,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": 16,
            },
            **ids,
        )
        autoencoder = AutoencoderKLQwenImage(
            base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
            latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
        )  # fmt: skip
        transformer = QwenImageTransformer2DModel(
            patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=16, axes_dims_rope=(4, 6, 6),
        )  # fmt: skip
        looks = {}
        if "Edit" in cls.__name__:
            looks["processor"] = _Looks(tokens)
        pipe = cls(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=autoencoder,
            text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
            tokenizer=tokens,
            transformer=transformer,
            **looks,
        )
        return pipe

    return make


_ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def _z_image(words):
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[8, 4, 4], axes_lens=[256, 64, 64],
    )  # fmt: skip
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(shift_factor=0.0, scaling_factor=1.0),
        text_encoder=_qwen3().model,
        tokenizer=_qwen_tokenizer(),
        transformer=transformer,
    )


def _sana(words):
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=8, sample_size=2,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
    )  # fmt: skip
    ends = {"block_out_channels": (8,) * 6, "layers_per_block": (1,) * 6, "qkv_multiscales": ((),) * 6}
    blocks = {f"{end}_{name}": value for end in ("encoder", "decoder") for name, value in ends.items()}
    sizes = _MODEL | {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 263}
    return SanaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderDC(latent_channels=4, attention_head_dim=2, **blocks),
        text_encoder=Gemma2Model(Gemma2Config(**sizes)).eval(),
        tokenizer=_qwen_tokenizer(),
        transformer=transformer,
    )


_BUILDERS = {
    "sd": _stable(StableDiffusionInpaintPipeline, 9),
    "sd-text": _stable(StableDiffusionPipeline, 4),
    "pix2pix": _stable(StableDiffusionInstructPix2PixPipeline, 8),
    "sdxl": _sdxl,
    "sd3": _sd3,
    "upscaler": _upscaler,
    "latent-upscaler": _latent_upscaler,
    "flux-fill": _flux(FluxFillPipeline, 4 * 4 * 2 + 16),
    "flux-kontext": _flux(FluxKontextPipeline, 16),
    "flux2-klein": _klein,
    "qwen": _qwen_image(QwenImageInpaintPipeline),
    "qwen-edit": _qwen_image(QwenImageEditPipeline),
    "qwen-edit-plus": _qwen_image(QwenImageEditPlusPipeline),
    "z-image": _z_image,
    "sana": _sana,
}
