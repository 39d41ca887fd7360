"""How likely a model finds targets that it did not write: which of several choices answers a source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from moesaic.data import NOT_SCORED, encode_cut, pad
from moesaic.members.choices import ChoiceNormalization, check_choices


@torch.no_grad()
def score_targets(
    network: Any,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    targets: Sequence[Sequence[str]],
    *,
    max_source_tokens: int,
    max_target_tokens: int = 128,
    normalization: ChoiceNormalization = "none",
    batch_size: int = 32,
) -> Float[Tensor, "source target"]:
    """How likely a model finds each of several targets of its source; the highest is its answer.

    What :func:`moesaic.members.score_choices` does for members that continue any text, this does for models that
    learned from pairs: a target is read as it was learned, in tokens of its own, and that it ends is scored too where
    the tokenizer says so. A router by source reads the source alone.

    Args:
        network: An encoder-decoder model or a causal one, or a mixture of either, in evaluation mode.
        tokenizer: Its tokenizer.
        sources: What it reads.
        targets: The targets of each source; their number may differ.
        max_source_tokens: Tokens of a source that it reads at most; the beginning is kept.
        max_target_tokens: Tokens of a target that count at most; the beginning is kept.
        normalization: What log-probabilities are divided by.
        batch_size: Targets scored at once, sources of about the same length together.

    Returns:
        ``log p(target | source)``, divided as asked for, in nats; minus infinity after the last target of a source.

    Raises:
        ValueError: If the normalization is unknown, a source has no target, or a target is empty.

    Example:
        >>> from moesaic.data import train_pair_tokenizer
        >>> from moesaic.testing import tiny_seq2seq_lm
        >>> tokenizer = train_pair_tokenizer(["who sang?", "ann", "ben"], 300)
        >>> targets = [["ann", "ben", "nobody"]]
        >>> score_targets(tiny_seq2seq_lm(), tokenizer, ["who sang?"], targets, max_source_tokens=8).shape
        torch.Size([1, 3])

    Reference: Brown et al. (2020), section 2.4, https://arxiv.org/abs/2005.14165
    """
    check_choices(sources, targets, normalization)
    encoded, _, _ = encode_cut(sources, tokenizer, max_source_tokens)
    texts = [text for given in targets for text in given]
    encoded_targets, _, _ = encode_cut(texts, tokenizer, max_target_tokens)
    source_of = [row for row, given in enumerate(targets) for _ in given]
    order = sorted(range(len(texts)), key=lambda place: len(encoded[source_of[place]]))
    scores = torch.zeros(len(texts))
    for first in range(0, len(order), batch_size):
        places = order[first : first + batch_size]
        source_ids, mask = pad(
            [torch.tensor(encoded[source_of[place]]) for place in places],
            tokenizer.pad_token_id,
            left=not network.config.is_encoder_decoder,  # a causal model goes on where the source ends
        )
        labels, _ = pad([torch.tensor(encoded_targets[place]) for place in places], NOT_SCORED)
        logits = _target_logits(network, source_ids, mask, labels).float()
        nats = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=NOT_SCORED, reduction="none")
        scores[places] = -nats.sum(dim=1)
    sizes = {"none": [1] * len(texts), "tokens": map(len, encoded_targets), "bytes": [len(t.encode()) for t in texts]}
    divided = scores / torch.tensor(list(sizes[normalization]))
    table = torch.full((len(sources), max(map(len, targets), default=0)), -torch.inf)
    for row, of_row in enumerate(divided.split([len(given) for given in targets])):
        table[row, : len(of_row)] = of_row
    return table


def _target_logits(
    network: Any,
    source_ids: Int[Tensor, "row source"],
    mask: Int[Tensor, "row source"],
    labels: Int[Tensor, "row target"],
) -> Float[Tensor, "row target vocab"]:
    """What a model says of each token of the target when it knows those before it."""
    if network.config.is_encoder_decoder:
        return network(input_ids=source_ids, attention_mask=mask, labels=labels).logits
    # In two calls, since that is how a mixture knows which of the tokens are the source.
    position_ids = (mask.cumsum(dim=1) - 1).clamp_min(0)
    read = network(
        input_ids=source_ids, attention_mask=mask, position_ids=position_ids, use_cache=True, logits_to_keep=1
    )
    begun = labels[:, :-1]
    if not begun.shape[1]:
        return read.logits
    is_token = begun != NOT_SCORED
    rest = network(
        input_ids=begun.where(is_token, 0),
        attention_mask=torch.cat([mask, is_token.long()], dim=1),
        position_ids=position_ids[:, -1:] + is_token.cumsum(dim=1),
        past_key_values=read.past_key_values,
        use_cache=True,
    )
    return torch.cat([read.logits, rest.logits], dim=1)
