"""Prompts to embeddings. Any ``transformers`` text encoder and its tokenizer will do; nano's is byte-level and tiny."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from photofound.errors import first_line

MAX_LENGTH = 256  # tokens of words or parts of words, as published editors were trained with
MAX_BYTES = 1024  # of a byte-level tokenizer: Chinese takes three for a character
_TOKENIZING = threading.Lock()  # the fast tokenizers refuse to be used by two threads at once


def build_byte_encoder(width: int = 192, layers: int = 3, heads: int = 4, feed_forward: int = 384) -> tuple[Any, Any]:
    """An untrained byte-level tokenizer (no vocabulary file; arXiv:2105.13626) and a small T5 encoder for it."""
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    tokenizer = ByT5Tokenizer()
    config = T5Config(
        vocab_size=384,
        d_model=width,
        d_kv=width // heads,
        d_ff=feed_forward,
        num_layers=layers,
        num_heads=heads,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    return tokenizer, T5EncoderModel(config)


def load(source: str) -> tuple[Any, Any]:
    """A pretrained tokenizer and text encoder (the encoder's half of T5, T5Gemma, ...), safetensors only.

    Args:
        source: a folder or a Hub id.

    Raises FileNotFoundError when it is not to be had, ValueError when ``transformers`` has no text encoder of its kind.
    """
    from transformers import AutoConfig, AutoModelForTextEncoding, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(source)
        config.is_encoder_decoder = False  # T5Gemma's encoder refuses to be built from the pair's configuration
        encoder = AutoModelForTextEncoding.from_pretrained(source, config=config, use_safetensors=True)
        return AutoTokenizer.from_pretrained(source), encoder
    except OSError as error:
        raise FileNotFoundError(f"model.text_encoder: {source} cannot be loaded: {first_line(error)}") from None
    except Exception as error:  # libraries raise nearly anything for a folder that they do not understand
        raise ValueError(f"model.text_encoder: {source} is no text encoder: {first_line(error)}") from None


def outline(folder: Path) -> Any | None:
    """The text encoder of a folder without its weights, to count what it takes; None where there is none."""
    from transformers import AutoConfig, AutoModelForTextEncoding

    if not (folder / "config.json").is_file():
        return None
    try:
        config = AutoConfig.from_pretrained(folder)
        config.is_encoder_decoder = False
        with torch.device("meta"):
            return AutoModelForTextEncoding.from_config(config)
    except (OSError, ValueError):
        return None


def clean(prompt: str, how: str | None) -> str:
    """A prompt as the model was trained on them: ``full`` is the cleaning of DeepFloyd's prompts (lower case, without
    addresses, numbers of articles and most punctuation), ``light`` mends mojibake and HTML, None changes nothing. Both
    are those of diffusers' PRX pipelines. Raises ImportError without ftfy."""
    if how is None or not prompt:
        return prompt
    from diffusers.pipelines.prx.pipeline_prx import TextPreprocessor

    try:
        import ftfy  # noqa: F401  # what the class needs, and says so by a NameError
    except ImportError:
        raise ImportError("this model's prompts are cleaned with ftfy: pip install ftfy") from None
    cleaner = TextPreprocessor()
    return str(cleaner.clean_text(prompt) if how == "full" else cleaner.basic_clean(prompt))


def encode(
    tokenizer: Any,
    encoder: Any,
    prompts: Sequence[str],
    max_length: int | None = None,
    pad: str = "longest",
    cleaning: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Embed prompts.

    Args:
        tokenizer, encoder: from ``transformers``; the encoder returns ``last_hidden_state``.
        prompts: B strings; the empty one is the unconditional prompt.
        max_length: tokens above it are cut off; None, what ``limit`` says.
        pad: ``longest``, or ``max_length`` for one shape whatever the prompts (compiled models).
        cleaning: what is done to the prompts before (``clean``): what the model was trained with.

    Returns:
        (B, L, D) embeddings, L the longest prompt's length, and a (B, L) bool mask (True = a token), or None if nothing
        is padded.
    """
    most = limit(tokenizer, max_length)
    prompts = [clean(prompt, cleaning) for prompt in prompts]
    with _TOKENIZING:
        tokens = tokenizer(prompts, padding=pad, truncation=True, max_length=most, return_tensors="pt")
        if not tokens.input_ids.shape[1]:  # nothing to read: one token that is hidden
            tokens = tokenizer(prompts, padding="max_length", max_length=1, return_tensors="pt")
    mask = tokens.attention_mask.bool()
    padded = not bool(mask.all())
    device = encoder.device
    ids = tokens.input_ids.to(device)
    hidden = encoder(input_ids=ids, attention_mask=mask.to(device) if padded else None).last_hidden_state
    return hidden, mask.to(device) if padded else None


def stack(rows: Sequence[Tensor], length: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Embeddings (L, D) of single prompts as ``encode`` gives those of a batch, in float32; padded to ``length``, or to
    the longest."""
    longest = max(len(row) for row in rows) if length is None else length
    batch = rows[0].new_zeros(len(rows), longest, rows[0].shape[-1], dtype=torch.float32)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool, device=batch.device)
    for index, row in enumerate(rows):
        batch[index, : len(row)], mask[index, : len(row)] = row, True
    return batch, None if bool(mask.all()) else mask


def count(tokenizer: Any, prompt: str, max_length: int | None = None) -> int:
    """How many tokens ``encode`` makes of one prompt."""
    return min(_length(tokenizer, prompt), limit(tokenizer, max_length))


def unread(tokenizer: Any, prompt: str, max_length: int | None = None) -> str:
    """A sentence on a prompt that ``encode`` cuts off; empty for one that is read whole."""
    length, most = _length(tokenizer, prompt), limit(tokenizer, max_length)
    if length <= most:
        return ""
    unit = "bytes" if _reads_bytes(tokenizer) else "tokens"
    return f"prompt: its end is not read: it has {length - 1} {unit}, and the model reads {most - 1}; shorten it"


def limit(tokenizer: Any, max_length: int | None = None) -> int:
    """How many tokens of a prompt are read, the one that ends it among them."""
    wanted = max_length or (MAX_BYTES if _reads_bytes(tokenizer) else MAX_LENGTH)
    return min(wanted, getattr(tokenizer, "model_max_length", wanted))


def _length(tokenizer: Any, prompt: str) -> int:
    with _TOKENIZING:
        return len(tokenizer(prompt, truncation=False, verbose=False).input_ids)


def _reads_bytes(tokenizer: Any) -> bool:
    return type(tokenizer).__name__ == "ByT5Tokenizer"


def no_text(batch: int, width: int, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """(B, 1, D) zeros: what a model without a text encoder is given."""
    return torch.zeros(batch, 1, width, device=device, dtype=dtype)
