"""Language modeling: predict the next token; the loss is in nats."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from moesaic.data import NOT_SCORED


def next_token_loss(logits: Float[Tensor, "*axes vocab"], labels: Int[Tensor, "*axes"]) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of the labels, in nats per scored token.

    Args:
        logits: Next-token scores.
        labels: The token that follows each position; ``NOT_SCORED`` where none is predicted.
    """
    return F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=NOT_SCORED)


def next_token_nats(logits: Float[Tensor, "*axes vocab"], labels: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Negative log-likelihood of each label in nats; 0 where nothing is scored.

    Args:
        logits: Next-token scores.
        labels: The token that follows each position; ``NOT_SCORED`` where none is predicted.
    """
    nats = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=NOT_SCORED, reduction="none")
    return nats.view(labels.shape)
