"""The weighted sum itself, ``y = Σ_m w_m f_m``, and the space in which it is taken."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Space = Literal["probability", "log_probability", "logit"]

_MAX_LOG_RATIO = 30.0


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
    mixed: Tensor = _LogMix.apply(log_probabilities, member_weights)
    return mixed


class _LogMix(torch.autograd.Function):
    """``log Σ w_m p_m``, whose derivative by a weight is ``p_m / Σ w p``, also where that weight is zero.

    Left to itself, autograd would go through the logarithm of the weight, which has no derivative at zero; a router
    that uses one member and still learns (the choice ``hard``) needs to hear of those that it did not use.
    """

    @staticmethod
    def forward(ctx: Any, log_probabilities: Tensor, member_weights: Tensor) -> Tensor:
        # The smallest normal number in the place of zero: it has a logarithm, and adds nothing.
        log_weights = member_weights.clamp_min(torch.finfo(torch.float32).tiny).log()
        mixed = torch.logsumexp(log_weights + log_probabilities, dim=0)
        ctx.save_for_backward(log_probabilities, member_weights, mixed)
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        log_probabilities, member_weights, mixed = ctx.saved_tensors
        log_ratios = log_probabilities - mixed.masked_fill(mixed.isinf(), 0)  # (member, batch, position, vocab)
        of_members = of_weights = None
        if ctx.needs_input_grad[0]:
            of_members = (log_ratios + member_weights.log()).exp() * gradient
        if ctx.needs_input_grad[1]:
            # A member that was not used may be far better than those that were; the bound keeps gradients finite.
            of_weights = (log_ratios.clamp_max(_MAX_LOG_RATIO).exp() * gradient).sum_to_size(member_weights.shape)
        return of_members, of_weights
