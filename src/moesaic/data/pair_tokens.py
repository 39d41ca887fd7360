"""Pairs as tokens, and what is cut of those that are too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from moesaic.data.pairs import TARGET_TOKEN, Pair
from moesaic.errors import DataError


@dataclass(frozen=True)
class TokenizedPairs:
    """Pairs as tokens: all sources one after the other, and all targets.

    Attributes:
        source_tokens: The sources' tokens.
        source_lengths: Number of tokens of each source.
        target_tokens: The targets' tokens.
        target_lengths: Number of tokens of each target.
    """

    source_tokens: Int[Tensor, " source_token"]
    source_lengths: Int[Tensor, " pair"]
    target_tokens: Int[Tensor, " target_token"]
    target_lengths: Int[Tensor, " pair"]

    def __len__(self) -> int:
        return len(self.source_lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens of sources and targets together."""
        return len(self.source_tokens) + len(self.target_tokens)

    def sources(self) -> tuple[Int[Tensor, " token"], ...]:
        """The tokens of each source."""
        return self.source_tokens.split(self.source_lengths.tolist())

    def targets(self) -> tuple[Int[Tensor, " token"], ...]:
        """The tokens of each target."""
        return self.target_tokens.split(self.target_lengths.tolist())

    @classmethod
    def of(cls, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> TokenizedPairs:
        """The tokens of each source and of each target, as one."""
        return cls(
            torch.tensor([token for tokens in sources for token in tokens], dtype=torch.int32),
            torch.tensor([len(tokens) for tokens in sources], dtype=torch.int64),
            torch.tensor([token for tokens in targets for token in tokens], dtype=torch.int32),
            torch.tensor([len(tokens) for tokens in targets], dtype=torch.int64),
        )

    def save(self, path: Path) -> None:
        """Write the tokens to a safetensors file."""
        save_file({part.name: getattr(self, part.name) for part in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> TokenizedPairs:
        """Read what :meth:`save` wrote."""
        return cls(**load_file(path))


@dataclass(frozen=True)
class Cut:
    """What was left out of texts that are longer than a model may read or write.

    Attributes:
        num_sources: Sources that were cut.
        num_targets: Targets that were cut.
        num_tokens: Tokens that were left out, of both.
    """

    num_sources: int
    num_targets: int
    num_tokens: int

    def __str__(self) -> str:
        if not self.num_tokens:
            return "nothing was cut"
        return f"{self.num_sources:,} sources and {self.num_targets:,} targets were cut, by {self.num_tokens:,} tokens"


def tokenize_pairs(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, *, max_source_tokens: int, max_target_tokens: int
) -> tuple[TokenizedPairs, Cut]:
    """Tokenize pairs; of what is too long, the beginning is kept, and the token that ends a text.

    Every target ends with a token that says so. A source does where the tokenizer ends each text with one, as those of
    encoder-decoder models do; where it does not, a target goes on where its source ends, after a space.

    Args:
        pairs: Sources and targets.
        tokenizer: The tokenizer.
        max_source_tokens: Tokens of a source at most.
        max_target_tokens: Tokens of a target at most.

    Returns:
        The tokens, and what was cut.

    Raises:
        DataError: If a target is to begin with a token that the tokenizer has not.
    """
    sources, sources_cut, source_rest = encode_cut([pair.source for pair in pairs], tokenizer, max_source_tokens)
    encoded = _encode_targets(pairs, tokenizer) if pairs else []
    targets, targets_cut, target_rest = _cut(encoded, max_target_tokens, keeps_end=True)
    return TokenizedPairs.of(sources, targets), Cut(sources_cut, targets_cut, source_rest + target_rest)


def encode_cut(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> tuple[list[list[int]], int, int]:
    """Tokenize sources; of what is too long, the beginning is kept, and the token that ends it, if one does.

    Returns:
        The tokens of each text, how many texts were cut, and by how many tokens in all.
    """
    encoded: list[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
    return _cut(encoded, max_tokens, keeps_end=ends_texts(tokenizer))


def ends_texts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer ends each text with a token of its own.

    Example:
        >>> from moesaic.data import train_pair_tokenizer, train_tokenizer
        >>> ends_texts(train_pair_tokenizer(["a dog"], 300)), ends_texts(train_tokenizer(["a dog"], 300))
        (True, False)
    """
    last: int = tokenizer("a", verbose=False)["input_ids"][-1]
    return last in tokenizer.all_special_ids


def _cut(encoded: list[list[int]], max_tokens: int, *, keeps_end: bool) -> tuple[list[list[int]], int, int]:
    too_long = [len(ids) for ids in encoded if len(ids) > max_tokens]
    end = 1 if keeps_end else 0
    kept = [ids if len(ids) <= max_tokens else [*ids[: max_tokens - end], *ids[len(ids) - end :]] for ids in encoded]
    return kept, len(too_long), sum(too_long) - max_tokens * len(too_long)


def first_target_tokens(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token with which each target begins; empty where they begin with what they say.

    Raises:
        DataError: If the tokenizer has no such token.
    """
    tokens = [pair.details[TARGET_TOKEN] for pair in pairs if TARGET_TOKEN in pair.details]
    vocabulary = tokenizer.get_vocab() if tokens else {}
    for token in dict.fromkeys(tokens):
        if token not in vocabulary:
            raise DataError(
                f"Targets are to begin with the token {token!r}, which the model's tokenizer has not. Change "
                "task.target_token or task.language_names as the model's card says."
            )
    return [vocabulary[token] for token in tokens]


def _encode_targets(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    targets = [pair.target for pair in pairs]
    if first := first_target_tokens(pairs, tokenizer):
        plain = tokenizer(text_target=targets, add_special_tokens=False, verbose=False)["input_ids"]
        return [[token, *ids, tokenizer.eos_token_id] for token, ids in zip(first, plain, strict=True)]
    if ends_texts(tokenizer):
        return tokenizer(text_target=targets, verbose=False)["input_ids"]
    sources = tokenizer([pair.source for pair in pairs], verbose=False)["input_ids"]
    joint = tokenizer([f"{pair.source} {pair.target}" for pair in pairs], verbose=False)["input_ids"]
    alone = tokenizer(targets, add_special_tokens=False, verbose=False)["input_ids"]
    # Where the two grow together into one token, the target is read by itself.
    return [
        [*(both[len(source) :] if both[: len(source)] == source else own), tokenizer.eos_token_id]
        for source, both, own in zip(sources, joint, alone, strict=True)
    ]


def telling_tokens(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The first token of each prompt that no other prompt has in its place; none where a token does not tell.

    Example:
        >>> from moesaic.data import train_pair_tokenizer
        >>> tokenizer = train_pair_tokenizer(["translate to German", "translate to French"], 400)
        >>> prompts = ["translate to German: ", "translate to French: "]
        >>> tokenizer.convert_ids_to_tokens(telling_tokens(prompts, tokenizer))
        ['ĠGerman', 'ĠFrench']
    """
    if len(prompts) < 2:
        return []
    encoded = tokenizer(list(prompts), add_special_tokens=False, verbose=False)["input_ids"]
    for place, tokens in enumerate(zip(*encoded, strict=False)):
        # One that the prompts begin with, all alike, is found in a source before the one that tells.
        if len(set(tokens)) > 1:
            tells = len(set(tokens)) == len(tokens) and not set(tokens).intersection(encoded[0][:place])
            return list(tokens) if tells else []
    return []
