"""What a model writes about sources: batched, sorted by length, greedily, with beams or by chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from moesaic.data import encode_cut, pad


@dataclass(frozen=True)
class Decoding:
    """How targets are written.

    Attributes:
        num_beams: Beams that are searched; 1 always takes the likeliest token.
        length_penalty: A beam's log-probability is divided by its length to this power: above 0, longer targets gain.
        max_new_tokens: Tokens of a target at most; a decoder that has fewer positions writes no more than those.
        temperature: Where above 0, tokens are drawn by chance, their logits divided by it.
        top_k: Number of likeliest tokens that are drawn from; 0 draws from all.
        top_p: The likeliest tokens are drawn from that have this much probability together; 1 draws from all.
        batch_size: Sources that are read at once.
        seed: Makes the random choices.

    Raises:
        ValueError: If a number is out of range, beams are to be drawn by chance, or there is no chance to cut off.

    References: Wu et al. (2016), section 7 (length), https://arxiv.org/abs/1609.08144; Fan et al. (2018), section 5.4
    (top-k), https://arxiv.org/abs/1805.04833; Holtzman et al. (2020), section 3.1 (top-p),
    https://arxiv.org/abs/1904.09751
    """

    num_beams: int = 1
    length_penalty: float = 1.0
    max_new_tokens: int = 128
    temperature: float = 0.0
    batch_size: int = 32
    seed: int = 0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name in ("num_beams", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature:g}.")
        if self.temperature and self.num_beams > 1:
            raise ValueError(
                f"{self.num_beams} beams search for the likeliest target, and temperature {self.temperature:g} draws "
                "by chance. Use num_beams=1, or temperature 0."
            )
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0, got {self.top_k}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p:g}.")
        if (self.top_k or self.top_p < 1) and not self.temperature:
            raise ValueError(
                "top_k and top_p say what is drawn from, and temperature 0 draws nothing. Set a temperature above 0, "
                "or leave them out."
            )


@torch.no_grad()
def write_targets(
    network: Any,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    decoding: Decoding,
    *,
    max_source_tokens: int,
) -> list[str]:
    """Have a model write a target for each source.

    Args:
        network: An encoder-decoder model or a causal one, or a mixture of either.
        tokenizer: Its tokenizer.
        sources: What it reads.
        decoding: How it writes.
        max_source_tokens: Tokens of a source that it reads at most; the beginning is kept.

    Returns:
        One target a source, in their order.

    Example:
        >>> from moesaic.data import train_pair_tokenizer
        >>> from moesaic.testing import tiny_seq2seq_lm
        >>> tokenizer = train_pair_tokenizer(["a dog", "ein Hund"], 300)
        >>> decoding = Decoding(max_new_tokens=5)
        >>> [written] = write_targets(tiny_seq2seq_lm(), tokenizer, ["a dog"], decoding, max_source_tokens=8)
        >>> isinstance(written, str)
        True
    """
    return write_from_tokens(network, tokenizer, encode_cut(sources, tokenizer, max_source_tokens)[0], decoding)


@torch.no_grad()
def write_from_tokens(
    network: Any,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    end_tokens: Sequence[int] | None = None,
    first_tokens: Sequence[int] = (),
) -> list[str]:
    """Have a model write a target for each source that is already tokens, such as a conversation.

    Args:
        network: An encoder-decoder model or a causal one, or a mixture of either.
        tokenizer: Its tokenizer.
        sources: The tokens of each source.
        decoding: How it writes.
        end_tokens: Tokens that end a target; those of the network's own ``generation_config`` if not given.
        first_tokens: The token with which each target begins, where a decoder is told so what language to write.

    Returns:
        One target a source, in their order.
    """
    encoded = [torch.tensor(tokens) for tokens in sources]
    order = sorted(range(len(sources)), key=lambda row: len(encoded[row]))
    is_seq2seq = network.config.is_encoder_decoder
    positions = _decoder_positions(network.config) if is_seq2seq else math.inf
    sampling = {
        "do_sample": True,
        "temperature": decoding.temperature,
        "top_k": decoding.top_k,
        "top_p": decoding.top_p,
    }
    options: dict[str, Any] = {
        "num_beams": decoding.num_beams,
        "max_new_tokens": max(1, min(decoding.max_new_tokens, positions) - (1 if first_tokens else 0)),
        "pad_token_id": tokenizer.pad_token_id,
        **(sampling if decoding.temperature else {"do_sample": False}),
        **({"length_penalty": decoding.length_penalty} if decoding.num_beams > 1 else {}),
        **({} if end_tokens is None else {"eos_token_id": list(end_tokens)}),
    }
    written = [""] * len(sources)
    with torch.random.fork_rng():
        torch.manual_seed(decoding.seed)
        for first in range(0, len(order), decoding.batch_size):
            rows = order[first : first + decoding.batch_size]
            # A causal model goes on writing at the end of its row.
            input_ids, mask = pad([encoded[row] for row in rows], tokenizer.pad_token_id, left=not is_seq2seq)
            if first_tokens:
                start = network.config.decoder_start_token_id
                options["decoder_input_ids"] = torch.tensor([[start, first_tokens[row]] for row in rows])
            tokens = network.generate(input_ids=input_ids, attention_mask=mask, **options)
            if not is_seq2seq:
                tokens = tokens[:, input_ids.shape[1] :]
            for row, text in zip(rows, tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True):
                written[row] = text.strip()
    return written


def _decoder_positions(config: Any) -> float:
    """Places that a decoder has for tokens, or the one of a mixture's members that has the fewest; may be infinite."""
    members = getattr(config, "members", None)
    if members:
        return min(values.get("max_position_embeddings") or math.inf for values in members)
    return getattr(config, "max_position_embeddings", None) or math.inf
