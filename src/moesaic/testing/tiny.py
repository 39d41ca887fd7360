"""Tiny random checkpoints, real in every respect but size, for tests that run in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SENTENCES = ("the cat sat on the mat", "die Katze saß auf der Matte", "def cat(mat): return mat", "le chat dort")

_FAMILIES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}

_SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    # Larger than usual, so that random models disagree clearly.
    "initializer_range": 0.2,
}


def tiny_tokenizer(sentences: Sequence[str] = SENTENCES, *, vocab_size: int = 300) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a few sentences; ``<eos>`` is token 0."""
    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator(sentences, vocab_size=vocab_size, special_tokens=["<eos>"], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, eos_token="<eos>", pad_token="<eos>")


def tiny_causal_lm(family: str = "llama", *, seed: int = 0, **sizes: Any) -> PreTrainedModel:
    """A two-layer causal language model of width 32 with random weights.

    Args:
        family: ``llama``, ``mistral`` or ``qwen3``.
        seed: Makes the weights; equal seeds give equal models.
        sizes: Overrides for the configuration, such as ``hidden_size`` or ``vocab_size``.
    """
    config_class, model_class = _FAMILIES[family]
    torch.manual_seed(seed)
    return model_class(config_class(**(_SIZES | sizes))).eval()


def tiny_seq2seq_lm(*, seed: int = 0, **sizes: Any) -> PreTrainedModel:
    """A Marian model with two layers of width 32 in its encoder and its decoder, with random weights.

    Token 0 pads and begins the target, token 1 ends source and target.

    Args:
        seed: Makes the weights; equal seeds give equal models.
        sizes: Overrides for the configuration, such as ``d_model`` or ``vocab_size``.
    """
    defaults = {
        "vocab_size": 300,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
        "decoder_start_token_id": 0,
        "forced_eos_token_id": None,
        "init_std": 0.2,
    }
    torch.manual_seed(seed)
    return MarianMTModel(MarianConfig(**(defaults | sizes))).eval()


def tiny_span_model(*, seed: int = 0, **sizes: Any) -> PreTrainedModel:
    """A two-layer BERT of width 32 with a span head and random weights.

    Args:
        seed: Makes the weights; equal seeds give equal models.
        sizes: Overrides for the configuration, such as ``hidden_size`` or ``vocab_size``.
    """
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    defaults = {name: _SIZES[name] for name in (*names, "max_position_embeddings", "initializer_range")}
    torch.manual_seed(seed)
    return BertForQuestionAnswering(BertConfig(**(defaults | sizes))).eval()


def tiny_mixtral(*, seed: int = 0, **sizes: Any) -> PreTrainedModel:
    """A two-layer Mixtral of width 32 with four experts, of which two work on each token.

    Args:
        seed: Makes the weights; equal seeds give equal models.
        sizes: Overrides for the configuration, such as ``num_local_experts``.
    """
    defaults = {"num_local_experts": 4, "num_experts_per_tok": 2}
    torch.manual_seed(seed)
    return MixtralForCausalLM(MixtralConfig(**(_SIZES | defaults | sizes))).eval()


def save_tiny_checkpoint(folder: Path, family: str = "llama", *, seed: int = 0, **sizes: Any) -> Path:
    """Write a tiny checkpoint with its tokenizer to ``folder`` and return the folder."""
    tiny_causal_lm(family, seed=seed, **sizes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
