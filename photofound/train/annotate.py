"""What preparing adds to a photograph: captions, a matte, and embeddings and latents for training.

Networks are imported where they are used: processes that need none start in a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from photofound import config, image, segmenters
from photofound.data import precomputed
from photofound.data.captions import captions as ways_to_caption
from photofound.data.objects import cut_clean
from photofound.data.photograph import Photograph, decode, to_unit
from photofound.data.sources import Raw
from photofound.device import resolve_device
from photofound.edits import colours, geometry
from photofound.edits.masks import grabcut
from photofound.edits.segmenter import Search
from photofound.errors import one_line


@dataclass(frozen=True)
class AnnotateConfig:
    """What is added to a photograph."""

    captioner: str | None = None  # colour | module:function (RGB -> text) | an image-to-text model of transformers
    matte: str | None = None  # grabcut (plain grounds only) | module:function (RGB -> (H, W) in [0, 1]) | a segmenter
    text: bool = False  # add the embedding of every caption
    latents: bool = False  # add the latents of the middle of the picture, in the shape of its bucket
    model: str | None = None  # a pipeline's folder or id, whose text encoder and autoencoder make the two
    text_encoder: str | None = None  # the text encoder by itself, named like model.text_encoder of the training
    vae: str | None = None  # the autoencoder by itself, named like model.vae of the training
    text_length: int = 64  # tokens of a caption that are read, like model.text_length
    side: int = 512  # the latents' buckets have about side x side pixels, like data.crop
    multiple: int = 32  # like data.multiple
    widest: float = 2.0  # like data.widest

    def __post_init__(self) -> None:
        for kind, network in (("text", "text_encoder"), ("latents", "vae")):
            if getattr(self, kind) and not (self.model or getattr(self, network)):
                raise ValueError(f"{kind}: name a pipeline that makes them with --model=DIR, or --{network}=DIR")
        if self.latents:
            geometry.aspect_buckets(self.side, self.multiple, self.widest)  # raises for what does not fit together


def load_models(settings: AnnotateConfig) -> None:
    """Load every model once, so that one that cannot be loaded is an error before any work is done."""
    if settings.captioner and settings.captioner != "colour" and ":" not in settings.captioner:
        _image_to_text(settings.captioner)
    if settings.matte and settings.matte != "grabcut" and not segmenters.is_function(settings.matte):
        _search(settings.matte)
    fingerprints(settings)


def cut_out(matte: str, pixels: np.ndarray) -> np.ndarray | None:
    """The object's matte (H, W) uint8 in a picture (H, W, 3) uint8; None where it does not come out clean."""
    planes = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    if matte == "grabcut":
        found = cut_clean(planes, grabcut, short_side=320)
    elif segmenters.is_function(matte):
        found = cut_clean(planes, config.function(matte), plain=False, short_side=1024)
    else:
        try:
            found = cut_clean(planes, _search(matte), plain=False, short_side=1024)
        except ValueError:  # it finds nothing
            found = None
    return None if found is None else found[0].numpy()


def _search(name: str) -> Search:
    """A segmenter by name (``photofound.segmenters``). Raises ValueError for one that cannot be had."""
    try:
        return Search(segmenters.load(name, resolve_device("auto")))
    except ValueError as error:
        raise ValueError(f"matte: {str(error).removeprefix('segmenter: ')}") from None


def describe(captioner: str | None, sample: Raw, pixels: np.ndarray) -> dict[str, str]:
    """Captions by kind: ``text`` is the collection's own, then the captioner's."""
    captions = {"text" if i == 0 else f"text{i + 1}": words for i, (words, _) in enumerate(sample.captions) if words}
    if captioner == "colour":
        planes = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        colour = colours.border_colour(planes)
        if colour is not None:
            named = Photograph(planes, None, captions.get("text", ""), "")
            captions["colour"] = ways_to_caption(named)[1 if captions else 2]
    elif captioner is not None:
        caption = config.function(captioner) if ":" in captioner else _image_to_text(captioner)
        captions["caption"] = str(caption(pixels.astype(np.float32) / 255)).strip()
    return {kind: words for kind, words in captions.items() if words}


@cache
def _image_to_text(name: str) -> Callable[[np.ndarray], str]:
    """A captioner of any image-to-text model of transformers: a folder, or an id on the Hub."""
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(name)
        model = AutoModelForImageTextToText.from_pretrained(name, use_safetensors=True).eval()
    except (OSError, ValueError, ImportError) as error:
        reason = one_line(error)[:160]
        raise ValueError(f"captioner: {name!r} cannot be loaded ({reason}); see --help for what it may be") from None
    device = resolve_device("auto")
    model.to(device)
    chats = getattr(processor, "chat_template", None) is not None
    question = [{"type": "image"}, {"type": "text", "text": "Describe this photograph in one sentence."}]

    @torch.inference_mode()
    def caption(rgb: np.ndarray) -> str:
        words = {}
        if chats:
            talk = [{"role": "user", "content": question}]
            words = {"text": processor.apply_chat_template(talk, add_generation_prompt=True)}
        picture = Image.fromarray((rgb * 255).round().astype(np.uint8))
        inputs = processor(images=picture, return_tensors="pt", **words).to(device)
        out = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        start = inputs["input_ids"].shape[1] if chats else 0
        said: str = processor.batch_decode(out[:, start:], skip_special_tokens=True)[0]
        return said

    return caption


@torch.inference_mode()
def precompute(settings: AnnotateConfig, file: bytes, name: str, captions: Sequence[str]) -> bytes:
    """Embeddings and latents of a sample as the shard has it, packed by ``precomputed.pack``."""
    from photofound.model import autoencoder, text

    embeddings, latents = {}, None
    if settings.text and captions:
        parts = _text_encoder(settings.text_encoder, settings.model)
        hidden, mask = text.encode(*parts, captions, settings.text_length, cleaning=_cleaning(settings))
        rows = hidden if mask is None else [row[tokens] for row, tokens in zip(hidden, mask, strict=True)]
        embeddings = dict(zip(captions, rows, strict=True))
    if settings.latents:
        vae, size = _vae(settings.vae, settings.model), image.upright_size(file, name)
        buckets = geometry.aspect_buckets(settings.side, settings.multiple, settings.widest)
        covered = geometry.cover(*size, bucket := geometry.nearest_bucket(*size, buckets))
        pixels, _ = decode(file, covered, name=name)
        middle = torch.from_numpy(pixels[geometry.middle(covered, bucket).slices].transpose(2, 0, 1).copy())
        latents = autoencoder.encode(vae, to_unit(middle)[None].to(resolve_device("auto")))[0]
    return precomputed.pack(embeddings, latents)


def fingerprints(settings: AnnotateConfig) -> dict[str, Any]:
    """Which networks made embeddings and latents, for ``index.json``: training compares them with its own."""
    made = {}
    if settings.text:
        parts = _text_encoder(settings.text_encoder, settings.model)
        made["text"] = precomputed.text_fingerprint(*parts, settings.text_length, _cleaning(settings))
    if settings.latents:
        vae = _vae(settings.vae, settings.model)
        made["latents"] = precomputed.latents_fingerprint(vae, settings.side, settings.multiple, settings.widest)
    return made


@cache
def _text_encoder(source: str | None, model: str | None) -> tuple[Any, Any]:
    """Tokenizer and text encoder, by themselves or those of a pipeline."""
    from photofound.model import text

    if source:
        tokenizer, encoder = text.load(source)
    else:
        tokenizer, encoder = _pipeline(str(model)).tokenizer, _pipeline(str(model)).text_encoder
    return tokenizer, encoder.to(resolve_device("auto")).eval()


def _cleaning(settings: AnnotateConfig) -> str | None:
    """What a pipeline does to prompts before it reads them; a text encoder by itself does nothing."""
    return None if settings.text_encoder else _pipeline(str(settings.model)).config.get("prompt_cleaning")


@cache
def _vae(source: str | None, model: str | None) -> Any:
    """The autoencoder, by itself or that of a pipeline."""
    from photofound.model import autoencoder

    vae = autoencoder.load(source) if source else _pipeline(str(model)).vae
    if vae is None:
        raise ValueError(f"latents: {source or model} works on pixels, it has no autoencoder; leave latents out")
    return vae.to(resolve_device("auto")).eval()


@cache
def _pipeline(name: str) -> Any:
    from photofound.pipeline import EditPipeline

    return EditPipeline.from_pretrained(name, torch_dtype=torch.float32)
