"""Every member has its own constant weight, given or learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from moesaic.combiners.base import Combined, Combiner, State, register
from moesaic.combiners.spaces import Space, check_space, combine
from moesaic.types import Routing


@register("weighted")
class Weighted(Combiner):
    """A weighted mean of the members; training moves the weights.

    The weights are the softmax of one parameter a member, so they stay positive and sum to 1 while they are learned.

    Args:
        weights: One positive weight a member, in the members' order, summing to 1. Without it all are equal to begin
            with.
        space: Where the mean is taken; see :func:`moesaic.combiners.combine`.

    Raises:
        ValueError: If a weight is negative, the weights do not sum to 1, or the space does not exist.
    """

    router_logits: nn.Parameter

    reads_every_position = False
    reads_tokens = False

    def __init__(self, weights: Sequence[float] | None = None, space: Space = "probability") -> None:
        super().__init__()
        check_space(space)
        if weights is not None:
            check_weights(weights)
        self.weights = None if weights is None else list(weights)
        self.space = space

    def attach(self, num_members: int, vocab_size: int) -> None:
        """Make one parameter a member.

        Raises:
            ValueError: If the number of weights is not the number of members.
        """
        super().attach(num_members, vocab_size)
        self.router_logits = weight_parameter(self.weights, num_members, "Weighted")

    def forward(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> Combined:
        """See :meth:`Combiner.forward`."""
        routing = Routing.dense(self.router_logits.expand(*input_ids.shape, -1))
        return Combined(combine(member_logits, routing.weights, self.space), routing)

    def select(self, members: list[int]) -> None:
        """See :meth:`Combiner.select`; the weights left are rescaled to sum to 1 by the softmax."""
        self.num_members = len(members)
        self.router_logits = nn.Parameter(self.router_logits.detach()[members])
        self.weights = self.router_logits.detach().softmax(dim=0).tolist()

    def extend(self) -> None:
        """See :meth:`Combiner.extend`; the others' weights are rescaled by the softmax."""
        super().extend()
        self.router_logits = extend_weights(self.router_logits)
        self.weights = self.router_logits.detach().softmax(dim=0).tolist()

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Combiner.arguments`."""
        return {"weights": self.weights, "space": self.space}


def check_weights(weights: Sequence[float], whose: str = "weights") -> None:
    """Refuse weights that are none.

    Raises:
        ValueError: If a weight is negative, or they do not sum to 1.
    """
    if min(weights, default=-1) < 0 or abs(sum(weights) - 1) > 1e-4:
        raise ValueError(
            f"{whose} must be non-negative and sum to 1, got {list(weights)}, which sum to {sum(weights):g}."
        )


def extend_weights(router_logits: Float[Tensor, " member"]) -> nn.Parameter:
    """One parameter more, whose softmax is the mean of the weights that the others had.

    Example:
        >>> extend_weights(torch.tensor([0.75, 0.25]).log()).softmax(dim=0)
        tensor([0.5000, 0.1667, 0.3333], grad_fn=<SoftmaxBackward0>)
    """
    others = router_logits.detach()
    mean = torch.logsumexp(others, dim=0, keepdim=True) - torch.tensor(float(len(others))).log()
    return nn.Parameter(torch.cat([others, mean]))


def weight_parameter(weights: Sequence[float] | None, num_members: int, combiner: str) -> nn.Parameter:
    """One parameter a member whose softmax is the given weights, or equal ones.

    Raises:
        ValueError: If the number of weights is not the number of members.
    """
    weights = weights or [1 / num_members] * num_members
    if len(weights) != num_members:
        raise ValueError(f"{combiner} has {len(weights)} weights for {num_members} members; give one a member.")
    tiny = torch.finfo(torch.float32).tiny
    return nn.Parameter(torch.tensor(weights, dtype=torch.float32).clamp_min(tiny).log())
