"""Prompts: how long, what is padding, what is cut off, and the empty one."""

from __future__ import annotations

import pytest
import torch

from photofound.model import text


@pytest.fixture(scope="module")
def byte_encoder():
    torch.manual_seed(0)
    tokenizer, encoder = text.build_byte_encoder(width=16, layers=2, heads=2, feed_forward=24)
    return tokenizer, encoder.eval()


def test_the_encoder_has_the_shape_that_was_asked_for():
    _, encoder = text.build_byte_encoder(width=16, layers=2, heads=4, feed_forward=24)
    config = encoder.config
    assert (config.d_model, config.num_layers, config.num_heads, config.d_kv, config.d_ff) == (16, 2, 4, 4, 24)
    assert len(encoder.encoder.block) == 2 and config.dropout_rate == 0


def test_one_byte_is_one_token(byte_encoder):
    for prompt in ("a cup", "café", "杯"):
        hidden, mask = text.encode(*byte_encoder, [prompt])
        assert hidden.shape == (1, len(prompt.encode()) + 1, 16)  # and one that ends it
        assert mask is None


def test_the_encoder_reads_the_bytes(byte_encoder):
    tokenizer, encoder = byte_encoder
    ids = torch.tensor([[*(byte + 3 for byte in b"red"), 1]])  # three special tokens come first; 1 ends a text
    expected = encoder(input_ids=ids).last_hidden_state
    assert torch.allclose(text.encode(tokenizer, encoder, ["red"])[0], expected, atol=1e-6)


def test_the_mask_marks_padding_which_changes_nothing(byte_encoder):
    hidden, mask = text.encode(*byte_encoder, ["a long prompt", "short", ""])
    assert hidden.shape == (3, 14, 16) and mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [14, 6, 1]
    assert torch.equal(mask, torch.arange(14) < mask.sum(1, keepdim=True))  # tokens first
    for i, prompt in enumerate(["a long prompt", "short", ""]):
        alone, _ = text.encode(*byte_encoder, [prompt])
        assert torch.allclose(hidden[i, mask[i]], alone[0], atol=1e-5)


def test_prompts_of_one_length_need_no_mask(byte_encoder):
    hidden, mask = text.encode(*byte_encoder, ["red", "tan"])
    assert mask is None and hidden.shape == (2, 4, 16)
    assert not torch.allclose(hidden[0], hidden[1])


def test_the_empty_prompt_is_one_token(byte_encoder):
    hidden, mask = text.encode(*byte_encoder, ["", ""])
    assert hidden.shape == (2, 1, 16) and mask is None
    assert torch.equal(hidden[0], hidden[1])


def test_long_prompts_are_cut_off(byte_encoder):
    long = "a red cup " * 200
    assert text.encode(*byte_encoder, [long])[0].shape[1] == text.MAX_BYTES == text.count(byte_encoder[0], long)
    cut, mask = text.encode(*byte_encoder, [long, "a"], max_length=10)
    assert cut.shape[1] == 10 and mask.sum(1).tolist() == [10, 2]
    assert torch.allclose(cut[0], text.encode(*byte_encoder, [long[:9]])[0], atol=1e-5)


@pytest.mark.parametrize("letter", ["a", "红", "é"])
def test_a_prompt_that_is_cut_says_so(byte_encoder, letter):
    """Up to the last byte that is read nothing is said."""
    tokenizer, most = byte_encoder[0], text.MAX_BYTES - 1
    size = len(letter.encode())
    whole, cut = letter * (most // size), letter * (most // size + 1)
    assert text.unread(tokenizer, whole) == "" == text.unread(tokenizer, "")
    assert f"has {size * len(cut)} bytes, and the model reads {most}" in text.unread(tokenizer, cut)
    a, b = (text.encode(*byte_encoder, [whole + tail])[0] for tail in ("", letter))
    assert a.shape[1] > text.MAX_LENGTH and len(cut.encode()) > most >= b.shape[1] - 1
    assert text.unread(tokenizer, "a cup", max_length=6) == "" != text.unread(tokenizer, "a cup", max_length=5)


def test_other_tokenizers_are_counted_in_tokens(byte_encoder):
    class Words:
        model_max_length = 10**30

        def __call__(self, prompt, **_):
            return type("Tokens", (), {"input_ids": [*prompt.split(), "end"]})

    assert text.limit(Words()) == text.MAX_LENGTH
    assert "has 300 tokens, and the model reads 255" in text.unread(Words(), "cup " * 300)


def test_the_tokenizers_own_limit_holds_too(byte_encoder, monkeypatch):
    tokenizer, encoder = byte_encoder
    monkeypatch.setattr(tokenizer, "model_max_length", 6)
    assert text.encode(tokenizer, encoder, ["a red cup"])[0].shape[1] == 6


def test_the_encoder_can_be_trained_along(byte_encoder):
    hidden, mask = text.encode(*byte_encoder, ["red", "a cup"])
    hidden[mask].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in byte_encoder[1].parameters())
    byte_encoder[1].zero_grad()


def test_no_text():
    nothing = text.no_text(3, 5, "cpu", torch.bfloat16)
    assert nothing.shape == (3, 1, 5) and nothing.dtype == torch.bfloat16 and not nothing.any()


def test_the_encoders_half_of_a_pretrained_pair(tmp_path):
    """T5Gemma's checkpoints hold a decoder, too, and its encoder must be told that there is none."""
    from transformers import ByT5Tokenizer, T5GemmaForConditionalGeneration
    from transformers.models.t5gemma.configuration_t5gemma import T5GemmaConfig, T5GemmaModuleConfig

    small = {"vocab_size": 384, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    half = T5GemmaModuleConfig(**small, num_attention_heads=2, num_key_value_heads=2)
    pair = T5GemmaForConditionalGeneration(T5GemmaConfig(encoder=half, decoder=half))
    pair.save_pretrained(tmp_path)
    ByT5Tokenizer().save_pretrained(tmp_path)
    tokenizer, encoder = text.load(str(tmp_path))
    for ours, theirs in zip(encoder.encoder.parameters(), pair.model.encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    hidden, mask = text.encode(tokenizer, encoder, ["a cup", ""])
    assert hidden.shape == (2, 6, 16) and mask.sum(1).tolist() == [6, 1]


def test_what_is_no_text_encoder_is_refused_in_a_line(tmp_path):
    from transformers import ViTConfig, ViTModel

    with pytest.raises(FileNotFoundError, match="model.text_encoder: .*nowhere cannot be loaded"):
        text.load(str(tmp_path / "nowhere"))
    ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="model.text_encoder: .* is no text encoder"):
        text.load(str(tmp_path))
