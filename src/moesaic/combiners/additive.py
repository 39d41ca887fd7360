"""The members' scores are added up: boosting, where each member corrects the sum of those before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moesaic.combiners.base import Combined, Combiner, State, register
from moesaic.combiners.spaces import combine
from moesaic.types import Routing


@register("additive")
class Additive(Combiner):
    """A weighted sum of the members' logits, ``F = Σ_m weights_m · f_m``.

    The weights are boosting's step sizes: shrinkages, or AdaBoost's alphas. They need not sum to 1, and where the
    members agree the sum is surer than any of them.

    Args:
        weights: One non-negative weight a member, in the order in which they were trained; 1 each if not given.

    Raises:
        ValueError: If a weight is negative.

    Reference: Friedman (2001), Greedy function approximation, algorithm 1; Zhu et al. (2009), Multi-class AdaBoost,
    algorithm 2.
    """

    reads_every_position = False
    reads_tokens = False
    weights_sum_to_one = False

    def __init__(self, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if weights is not None and min(weights, default=-1) < 0:
            raise ValueError(f"weights must be non-negative, one a member, got {list(weights)}.")
        self.weights = None if weights is None else list(weights)

    def attach(self, num_members: int, vocab_size: int) -> None:
        """Take note of the number of members.

        Raises:
            ValueError: If the number of weights is not the number of members.
        """
        super().attach(num_members, vocab_size)
        self.weights = self.weights or [1.0] * num_members
        if len(self.weights) != num_members:
            raise ValueError(f"Additive has {len(self.weights)} weights for {num_members} members; give one a member.")

    def forward(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> Combined:
        """See :meth:`Combiner.forward`."""
        weights = torch.tensor(self.weights, dtype=torch.float32, device=member_logits.device)
        members = torch.arange(len(weights), device=weights.device)
        axes = (*input_ids.shape, -1)
        scores = weights.clamp_min(torch.finfo(torch.float32).tiny).log()
        routing = Routing(weights.expand(axes), members.expand(axes), scores.expand(axes))
        return Combined(combine(member_logits, weights, "logit"), routing)

    def select(self, members: list[int]) -> None:
        """See :meth:`Combiner.select`."""
        self.num_members = len(members)
        if self.weights is not None:
            self.weights = [self.weights[member] for member in members]

    def extend(self) -> None:
        """See :meth:`Combiner.extend`."""
        super().extend()
        if self.weights is not None:
            self.weights = [*self.weights, sum(self.weights) / len(self.weights)]

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Combiner.arguments`."""
        return {"weights": self.weights}
