"""How well each member predicted the text so far: what a posterior over members is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moesaic.combiners.base import State


@dataclass(frozen=True)
class Evidence:
    """The log-probability that each member gave to the token that now stands at each position.

    Attributes:
        log_probabilities: Next-token log-probabilities of every member, ``(member, batch, position, vocab)``.
        steps: Log-probability of the token at each position, 0 where nothing real was predicted.
        predictions: What the members say of the token after the last, to be kept for it.
    """

    log_probabilities: Float[Tensor, "member batch position vocab"]
    steps: Float[Tensor, "batch position member"]
    predictions: Float[Tensor, "batch member vocab"]


def gather_evidence(
    member_logits: Float[Tensor, "member batch position vocab"],
    input_ids: Int[Tensor, "batch position"],
    mask: Bool[Tensor, "batch position"],
    state: State | None,
) -> Evidence:
    """Look up how probable each member thought the tokens that came.

    Args:
        member_logits: Next-token scores of every member.
        input_ids: The tokens that the members read.
        mask: False where a token is padding; what is padding, or follows padding, was predicted from nothing real.
        state: ``predictions`` kept from the tokens before these, or ``None`` at the beginning of a text.
    """
    log_probabilities = member_logits.float().log_softmax(dim=-1)
    steps = log_probabilities.new_zeros((*input_ids.shape, len(member_logits)))  # (batch, position, member)
    tokens = input_ids[None, :, 1:, None].expand(len(member_logits), -1, -1, -1)
    steps[:, 1:] = log_probabilities[:, :, :-1].gather(-1, tokens).squeeze(-1).movedim(0, -1)
    predicted = mask.clone()
    predicted[:, 1:] &= mask[:, :-1]
    if state is None:
        predicted[:, 0] = False
    else:
        index = input_ids[:, :1, None].expand(-1, len(member_logits), -1)
        steps[:, 0] = state["predictions"].gather(-1, index).squeeze(-1)
    return Evidence(log_probabilities, steps * predicted.unsqueeze(-1), log_probabilities[:, :, -1].transpose(0, 1))


def accumulate(
    belief: Float[Tensor, "batch hypothesis"], steps: Float[Tensor, "batch position hypothesis"], forgetting: float
) -> Float[Tensor, "batch position hypothesis"]:
    """Add evidence up; returns the log-posterior after each position, up to a constant.

    Args:
        belief: The log-posterior before the first position.
        steps: Evidence of each position.
        forgetting: Exponent on the evidence of each step back, from 0 (only the last token counts) to 1 (Bayes' rule).
    """
    if forgetting == 1:
        return belief.unsqueeze(1) + steps.cumsum(dim=1)
    beliefs = []
    for step in steps.unbind(dim=1):
        belief = forgetting * belief + step
        beliefs.append(belief)
    return torch.stack(beliefs, dim=1)


def check_forgetting(forgetting: float) -> None:
    """Refuse what is no share.

    Raises:
        ValueError: If ``forgetting`` is not from 0 to 1.
    """
    if not 0 <= forgetting <= 1:
        raise ValueError(f"forgetting must be from 0 to 1, got {forgetting}.")
