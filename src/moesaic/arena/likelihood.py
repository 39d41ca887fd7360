"""How likely a causal language model finds given continuations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from moesaic.errors import MemberError
from moesaic.mixture import MixtureConfig

DEFAULT_CONTEXT_LENGTH = 2048
"""Tokens that a model reads at once where neither it nor its tokenizer says so."""

_LENGTHS = ("n_positions", "max_position_embeddings", "n_ctx")
_NO_LENGTH = 10**20
"""Tokenizers without a length of their own say a number above this."""


@dataclass(frozen=True)
class Continuation:
    """Tokens to be scored, and those that stand before them.

    Attributes:
        context: What the model reads first; at least one token.
        tokens: What is scored; at least one token.
    """

    context: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def read(self) -> tuple[int, ...]:
        """What the model reads: all but the last token, which nothing follows."""
        return self.context + self.tokens[:-1]


@dataclass(frozen=True)
class Likelihood:
    """How likely a continuation is.

    Attributes:
        log_probability: Of the whole continuation given its context, in nats.
        is_greedy: Whether each of its tokens is the likeliest of all.
    """

    log_probability: float
    is_greedy: bool


@torch.no_grad()
def score_continuations(
    network: Any, continuations: Sequence[Continuation], *, batch_size: int, max_length: int
) -> list[Likelihood]:
    """Score continuations, those of one length together.

    Continuations that make the model read the same, such as answers of one token to one question, cost one reading.

    Args:
        network: A causal language model, or a mixture.
        continuations: What to score.
        batch_size: Texts read at once.
        max_length: Tokens read of a text at most; the rest is cut off from its beginning.

    Returns:
        One likelihood a continuation, in their order. They are worked out in float32.

    Raises:
        ValueError: If a continuation or its context is empty, or a continuation is longer than ``max_length``.
        MemberError: If the model gives something that is not a number.

    Example:
        >>> from moesaic.testing import tiny_causal_lm
        >>> network = tiny_causal_lm()
        >>> _ = torch.nn.init.zeros_(network.lm_head.weight)  # every one of 300 tokens is as likely
        >>> [found] = score_continuations(network, [Continuation((5,), (7, 9))], batch_size=1, max_length=8)
        >>> round(found.log_probability, 4)  # -2 log 300
        -11.4076
    """
    by_read: dict[tuple[int, ...], list[int]] = {}
    for number, continuation in enumerate(continuations):
        _check_continuation(continuation, number, max_length)
        by_read.setdefault(continuation.read, []).append(number)
    # The longest first: if memory does not suffice, that shows at once.
    texts = sorted(by_read, key=lambda tokens: (-len(tokens), tokens))
    found: dict[int, Likelihood] = {}
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        read = [tokens[-max_length:] for tokens in batch]
        # Padding stands behind the texts, where no causal model sees it: so no mask is needed.
        logits = network(input_ids=_pad(read).to(network.device), use_cache=False).logits
        for row, cut, tokens in zip(logits, read, batch, strict=True):
            for number in by_read[tokens]:
                scored = continuations[number].tokens
                found[number] = _score(row[len(cut) - len(scored) : len(cut)], scored)
    return [found[number] for number in range(len(continuations))]


def _check_continuation(continuation: Continuation, number: int, max_length: int) -> None:
    if not continuation.context or not continuation.tokens:
        empty = "tokens" if continuation.context else "context"
        raise ValueError(f"Continuation {number}: its {empty} must be at least one token, got none.")
    if len(continuation.tokens) > max_length:
        raise ValueError(
            f"Continuation {number}: it has {len(continuation.tokens)} tokens, and the model reads {max_length}. "
            "Shorten it, or score it in windows."
        )


def _pad(texts: Sequence[Sequence[int]]) -> Int[Tensor, "batch position"]:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(tokens) for tokens in texts], batch_first=True)


def _score(logits: Float[Tensor, "position vocab"], tokens: Sequence[int]) -> Likelihood:
    if logits.isnan().any():
        raise MemberError(
            "The model gives something that is not a number; its weights or one of its members' are damaged."
        )
    index = torch.tensor(tokens, device=logits.device)
    log_probabilities = logits.float().log_softmax(dim=-1).gather(1, index.unsqueeze(1))
    return Likelihood(float(log_probabilities.sum()), bool((logits.argmax(dim=-1) == index).all()))


def prefix_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands before a text, so that its first token has something to follow.

    Raises:
        ValueError: If the tokenizer has none.
    """
    token = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if token is None:
        raise ValueError(
            "The tokenizer has no token for the beginning or the end of a text, so a first token cannot be scored. Set "
            "its bos_token or eos_token to the one that the model was trained with."
        )
    return int(token)


def context_length(config: Any, tokenizer: PreTrainedTokenizerBase | None) -> int:
    """Tokens that a model reads at once: what its configuration says, else its tokenizer, else 2048.

    A mixture reads what the member reads that can read least.
    """
    lengths = list(_configured_lengths(config.to_dict() if isinstance(config, MixtureConfig) else vars(config)))
    stated = getattr(tokenizer, "model_max_length", None)
    if lengths:
        return min(lengths)
    return stated if stated is not None and stated < _NO_LENGTH else DEFAULT_CONTEXT_LENGTH


def _configured_lengths(config: dict[str, Any]) -> list[int]:
    """What a configuration says; of a mixture's, what its members' say."""
    if config.get("members"):
        return [length for member in config["members"] for length in _configured_lengths(member)]
    return [int(config[name]) for name in _LENGTHS if config.get(name) is not None][:1]
