"""A Transformers language model as a member: causal, or an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from moesaic.errors import CheckpointError
from moesaic.experts import IMPLEMENTATION
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
        return f"{type(self).__name__}({self.name!r}, {type(self.network).__name__}, {millions:.1f}M parameters)"


class Seq2SeqLM(CausalLM):
    """The same for a model whose encoder reads a source and whose decoder writes the target."""


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
    network = load_network(checkpoint.path, dtype)
    has_tokenizer = (checkpoint.path / "tokenizer_config.json").exists()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path) if has_tokenizer else None
    member_class = Seq2SeqLM if network.config.is_encoder_decoder else CausalLM
    return member_class(name or Path(path).name, network, tokenizer)


def load_network(folder: Path, dtype: torch.dtype | None = torch.float32) -> PreTrainedModel:
    """Load a checkpoint's network, make sure that it is whole, and run its experts, if any, on moesaic's kernels.

    Args:
        folder: What ``save_pretrained`` wrote.
        dtype: Type of the weights in memory; ``None`` for that of the file.

    Returns:
        The network, in evaluation mode.

    Raises:
        CheckpointError: If a tensor is missing, or is one too many.
    """
    with quiet_transformers():
        is_seq2seq = AutoConfig.from_pretrained(folder).is_encoder_decoder
        auto_class = AutoModelForSeq2SeqLM if is_seq2seq else AutoModelForCausalLM
        network, report = auto_class.from_pretrained(
            folder, dtype=dtype or "auto", use_safetensors=True, output_loading_info=True
        )
    unfit = sorted((*report["missing_keys"], *report["unexpected_keys"]))
    if unfit:
        raise CheckpointError(f"{folder}: plain Transformers does not load it whole: {', '.join(unfit[:3])}.")
    if network._can_set_experts_implementation():
        network.set_experts_implementation(IMPLEMENTATION)
    return network.eval()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep Transformers from drawing bars and notes of its own between ours."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
