"""Parameters and memory of a model that exists only as a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from moesaic.arena import active_parameters, total_parameters

_BYTES_PER_PARAMETER = 16
"""A weight, its gradient and AdamW's two moments, four bytes each."""


@dataclass(frozen=True)
class ModelSize:
    """Number of parameters.

    Attributes:
        total: In all; tied ones count once.
        active: Those that work on a token.
    """

    total: int
    active: int


def model_size(config: Any) -> ModelSize:
    """Count the parameters of a model without making it.

    Args:
        config: A Transformers configuration.
    """
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    return ModelSize(total_parameters(network), active_parameters(network))


def training_bytes(config: Any, size: ModelSize, *, batch_size: int, sequence_length: int) -> int:
    """Memory that training takes, about: the weights, what AdamW keeps of them, and what the backward pass needs.

    What is kept of each token is counted in floats: three of the vocabulary (logits, their softmax, their gradient),
    and in every layer 14 of the hidden size, 3 of every feed-forward layer that works on it, and two rows of attention
    weights a head.

    Args:
        config: A Transformers configuration.
        size: Its number of parameters.
        batch_size: Sequences that are worked through at once.
        sequence_length: Tokens of a sequence.
    """
    feed_forward_layers = getattr(config, "num_experts_per_tok", None) or 1
    width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    layer = 14 * config.hidden_size + 3 * width * feed_forward_layers + 2 * config.num_attention_heads * sequence_length
    per_token = 3 * config.vocab_size + config.num_hidden_layers * layer
    return _BYTES_PER_PARAMETER * size.total + 4 * per_token * batch_size * sequence_length
