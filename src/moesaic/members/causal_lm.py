"""A Transformers causal language model as a member."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from moesaic.members.checkpoints import read_checkpoint


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
