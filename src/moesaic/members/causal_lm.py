"""A Transformers causal language model as a member."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from moesaic.members.checkpoints import read_checkpoint

EAGER_ATTENTION_POSITIONS = 512
"""Up to this many positions, plain matrix products train faster on a CPU than PyTorch's fused attention
(``benchmarks/kernels.py``)."""

EAGER_EXPERTS = 8
"""Up to this many experts, a plain loop over them trains no slower on a CPU than grouped matrix products
(``benchmarks/kernels.py``)."""


@dataclass(frozen=True)
class CausalLM:
    """A causal language model with a name; what :func:`load_member` returns.

    Attributes:
        name: What tables, routings and recipes call it.
        network: The Transformers model.
        tokenizer: Its tokenizer, where there is one.
    """

    name: str
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None = None

    def __repr__(self) -> str:
        millions = sum(parameter.numel() for parameter in self.network.parameters()) / 1e6
        return f"CausalLM({self.name!r}, {type(self.network).__name__}, {millions:.1f}M parameters)"


def load_member(path: str | Path, *, name: str | None = None, dtype: torch.dtype | None = None) -> CausalLM:
    """Load a checkpoint as a member.

    Args:
        path: A folder written by ``save_pretrained``, or the name of a model on the Hub.
        name: What to call it; the last part of ``path`` if not given.
        dtype: Type of the weights in memory; that of the file if not given.

    Returns:
        The member, in evaluation mode.

    Raises:
        CheckpointError: If the checkpoint is damaged, incomplete, or stored as a pickle.
    """
    checkpoint = read_checkpoint(path)
    network = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=dtype or "auto", use_safetensors=True)
    has_tokenizer = (checkpoint.path / "tokenizer_config.json").exists()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path) if has_tokenizer else None
    return CausalLM(name or Path(path).name, network.eval(), tokenizer)


def choose_kernels(network: PreTrainedModel, sequence_length: int) -> None:
    """Use the attention and the experts' kernel that are faster for sequences of this length where the model is."""
    on_cpu = next(network.parameters()).device.type == "cpu"
    eager = on_cpu and sequence_length <= EAGER_ATTENTION_POSITIONS
    network.set_attn_implementation("eager" if eager else "sdpa")
    config = network.config
    num_experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", 0)
    if num_experts:
        network.set_experts_implementation("eager" if on_cpu and num_experts <= EAGER_EXPERTS else "grouped_mm")
