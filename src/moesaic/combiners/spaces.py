"""The weighted sum itself, ``y = Σ_m w_m f_m``, and the space in which it is taken."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Space = Literal["probability", "log_probability", "logit"]


def check_space(space: str) -> None:
    """Refuse the name of a space that does not exist.

    Raises:
        ValueError: If ``space`` is none of the three.
    """
    if space not in get_args(Space):
        raise ValueError(f"space must be one of {', '.join(get_args(Space))}, got {space!r}.")


def combine(
    member_logits: Float[Tensor, "member batch position vocab"],
    weights: Float[Tensor, "*axes member"],
    space: Space,
) -> Float[Tensor, "batch position vocab"]:
    """Sum the members' outputs with the given weights.

    ``probability`` is the mixture ``p = Σ w_m p_m``, and what a router's likelihood is about. ``log_probability`` is
    the geometric mean ``log p = Σ w_m log p_m``, in which one member that rules a token out rules it out for all.
    ``logit`` sums the scores as they are. For weights that sum to 1 the last two differ only by a constant at each
    position, hence give the same distribution; ``logit`` keeps the scale of the scores.

    Args:
        member_logits: Next-token scores of every member.
        weights: Weight of every member: one for all tokens, ``(member,)``, or one each, ``(batch, position, member)``.
        space: Where the sum is taken.

    Returns:
        Scores whose softmax is the combined distribution; log-probabilities, except in ``logit`` space.
    """
    member_weights = weights.movedim(-1, 0).unsqueeze(-1)  # (member, [batch, position,] 1)
    if weights.dim() == 1:
        member_weights = member_weights[..., None, None]
    if space == "logit":
        return (member_weights * member_logits.float()).sum(dim=0)
    log_probabilities = member_logits.float().log_softmax(dim=-1)
    if space == "log_probability":
        return (member_weights * log_probabilities).sum(dim=0).log_softmax(dim=-1)
    return _mix(log_probabilities, member_weights)


def mix_probabilities(
    log_probabilities: Float[Tensor, "member batch position vocab"],
    weights: Float[Tensor, "batch position member"],
) -> Float[Tensor, "batch position vocab"]:
    """``log Σ w_m p_m``: what :func:`combine` gives in ``probability`` space, from logarithms known already."""
    return _mix(log_probabilities, weights.movedim(-1, 0).unsqueeze(-1))


def _mix(log_probabilities: Tensor, member_weights: Tensor) -> Tensor:
    # The logarithm of a weight that is exactly zero has no gradient; the smallest normal number has, and adds nothing.
    log_weights = member_weights.clamp_min(torch.finfo(torch.float32).tiny).log()
    return torch.logsumexp(log_weights + log_probabilities, dim=0)
