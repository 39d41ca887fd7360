"""Every member counts the same: bagging, deep ensembles."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from moesaic.combiners.base import Combined, Combiner, State, register
from moesaic.combiners.spaces import Space, check_space, combine
from moesaic.types import Routing


@register("average")
class Average(Combiner):
    """The mean of the members, in a named space.

    Args:
        space: ``probability``, ``log_probability`` or ``logit``; see :func:`moesaic.combiners.combine`.

    Raises:
        ValueError: If the space does not exist.

    Reference: Lakshminarayanan et al. (2017), section 2.4, https://arxiv.org/abs/1612.01474
    """

    reads_every_position = False
    reads_tokens = False

    def __init__(self, space: Space = "probability") -> None:
        super().__init__()
        check_space(space)
        self.space = space

    def forward(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> Combined:
        """See :meth:`Combiner.forward`."""
        router_logits = member_logits.new_zeros((*input_ids.shape, len(member_logits)))
        routing = Routing.dense(router_logits)
        return Combined(combine(member_logits, routing.weights, self.space), routing)

    def select(self, members: list[int]) -> None:
        """See :meth:`Combiner.select`."""
        self.num_members = len(members)

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Combiner.arguments`."""
        return {"space": self.space}
