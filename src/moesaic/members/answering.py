"""What a model writes about sources: batched, sorted by length, greedily, with beams or by chance."""

from __future__ import annotations

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
        max_new_tokens: Tokens of a target at most.
        temperature: Where above 0, tokens are drawn by chance, their logits divided by it.
        batch_size: Sources that are read at once.
        seed: Makes the random choices.

    Raises:
        ValueError: If a number is out of range, or beams are to be drawn by chance.

    Reference: Wu et al. (2016), section 7, https://arxiv.org/abs/1609.08144
    """

    num_beams: int = 1
    length_penalty: float = 1.0
    max_new_tokens: int = 128
    temperature: float = 0.0
    batch_size: int = 32
    seed: int = 0

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


@torch.no_grad()
def write_targets(
    network: Any,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    decoding: Decoding,
    *,
    max_source_tokens: int,
    first_tokens: Sequence[int] = (),
) -> list[str]:
    """Have a model write a target for each source.

    Args:
        network: An encoder-decoder model or a causal one, or a mixture of either.
        tokenizer: Its tokenizer.
        sources: What it reads.
        decoding: How it writes.
        max_source_tokens: Tokens of a source that it reads at most; the beginning is kept.
        first_tokens: The token with which each target begins, where a decoder is told so what language to write.

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
    encoded = [torch.tensor(ids) for ids in encode_cut(sources, tokenizer, max_source_tokens)[0]]
    order = sorted(range(len(sources)), key=lambda row: len(encoded[row]))
    is_seq2seq = network.config.is_encoder_decoder
    sampling = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0}
    options: dict[str, Any] = {
        "num_beams": decoding.num_beams,
        "max_new_tokens": max(1, decoding.max_new_tokens - (1 if first_tokens else 0)),
        "pad_token_id": tokenizer.pad_token_id,
        **(sampling if decoding.temperature else {"do_sample": False}),
        **({"length_penalty": decoding.length_penalty} if decoding.num_beams > 1 else {}),
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
