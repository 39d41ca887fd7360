"""Words cut in other ways at each reading, so that a model does not learn few texts by heart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from moesaic.errors import DataError


@dataclass(frozen=True, eq=False)
class TokenSplits:
    """Takes back merges of a BPE tokenizer at random.

    A token that the tokenizer made of two others becomes these two with a given probability, and so do the two. Unlike
    BPE-dropout, which leaves merges out while a word is tokenized, it needs no text, and no tokens but those that
    the vocabulary already has; no token crosses the ends of those that the tokenizer makes.

    Attributes:
        parts: The two tokens of which each token was made; itself twice where it cannot be split.
        probability: That a token is split.

    Reference: Sims et al. (2025), section 2 (StochasTok), https://arxiv.org/abs/2506.01687; after Provilkov et al.
    (2020), section 3 (BPE-dropout), https://arxiv.org/abs/1910.13267
    """

    parts: Int[Tensor, "vocab 2"]
    probability: float

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, probability: float) -> TokenSplits:
        """The splits of a tokenizer's tokens.

        Raises:
            ValueError: If the probability is not from 0 to below 1.
            DataError: If the tokenizer does not merge tokens.

        Example:
            >>> from moesaic.data import train_pair_tokenizer
            >>> tokenizer = train_pair_tokenizer(["the cat", "the mat"], 300)
            >>> splits, tokens = TokenSplits.of(tokenizer, 0.5), torch.tensor(tokenizer("the cat")["input_ids"])
            >>> shorter = splits.split([tokens], torch.Generator().manual_seed(0), max_tokens=20)[0]
            >>> tokenizer.convert_ids_to_tokens(tokens), tokenizer.convert_ids_to_tokens(shorter)
            (['the', 'Ġcat', '<eos>'], ['t', 'h', 'e', 'Ġcat', '<eos>'])
        """
        if not 0 <= probability < 1:
            raise ValueError(f"The probability of a split must be from 0 to below 1, got {probability:g}.")
        parts = torch.arange(len(tokenizer)).unsqueeze(1).repeat(1, 2)
        vocabulary = tokenizer.get_vocab()
        for left, right in _merges(tokenizer):
            parts[vocabulary[left + right]] = torch.tensor([vocabulary[left], vocabulary[right]])
        return cls(parts, probability)

    def split(
        self, rows: Sequence[Int[Tensor, " _token"]], generator: torch.Generator, *, max_tokens: int
    ) -> list[Int[Tensor, " _token"]]:
        """Split some tokens of each row; a row that would come to more than `max_tokens` stays as it is."""
        tokens, row_of = torch.cat(list(rows)).long(), torch.arange(len(rows)).repeat_interleave(_lengths(rows))
        unsettled = torch.ones_like(tokens, dtype=torch.bool)  # tokens of which no lot was drawn yet
        while unsettled.any():
            is_split = unsettled & (self.parts[tokens, 0] != tokens)
            is_split &= torch.rand(len(tokens), generator=generator) < self.probability
            copies = 1 + is_split.long()
            first = copies.cumsum(0) - copies  # where each token, or the first of its parts, comes to stand
            halves = self.parts[tokens[is_split]]  # (split, 2)
            unsettled = is_split.repeat_interleave(copies)
            tokens, row_of = tokens.repeat_interleave(copies), row_of.repeat_interleave(copies)
            tokens[first[is_split]], tokens[first[is_split] + 1] = halves[:, 0], halves[:, 1]
        split = tokens.split(torch.bincount(row_of, minlength=len(rows)).tolist())
        return [new if len(new) <= max_tokens else old for old, new in zip(rows, split, strict=True)]


def _lengths(rows: Sequence[Tensor]) -> Tensor:
    return torch.tensor([len(row) for row in rows])


def _merges(tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    """The pairs of tokens that a tokenizer merges, in its own spelling."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model: dict[str, Any] = {} if backend is None else json.loads(backend.to_str())["model"]
    if model.get("type") != "BPE":
        raise DataError(
            f"Words are cut at random by the merges of a BPE tokenizer; this one is of the type "
            f"{model.get('type') or type(tokenizer).__name__}. Set split_probability to 0."
        )
    return [tuple(merge) for merge in model["merges"]]
