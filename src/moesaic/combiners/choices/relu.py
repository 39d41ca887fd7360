"""Members with a positive score are used; a penalty that adapts itself keeps their number."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed
from torch.nn import functional as F

from moesaic.combiners.choices.base import Choice, register_choice, routing_of_all
from moesaic.combiners.spaces import Space
from moesaic.types import Routing


def relu_routing(router_logits: Float[Tensor, "*axes member"]) -> Routing:
    """Send each token to the members with a positive score, which is their weight.

    Where no score is positive, the member with the highest one is used alone with weight 1: in a layer a residual goes
    on without experts, but a next-token distribution must come from somebody.

    Args:
        router_logits: Unnormalized score of every member for every token.

    Returns:
        The routing; it lists all members, those not used with weight 0.

    Example:
        >>> relu_routing(torch.tensor([[3.0, 1.0, -1.0], [-3.0, -1.0, -2.0]])).weights
        tensor([[3., 1., 0.],
                [0., 1., 0.]])

    Reference: Wang et al. (2024), ReMoE, section 3.1, https://arxiv.org/abs/2412.14711
    """
    active = router_logits.float().relu()
    is_silent = active.sum(dim=-1, keepdim=True) == 0
    highest = F.one_hot(router_logits.argmax(dim=-1), router_logits.shape[-1]).to(active.dtype)
    return routing_of_all(torch.where(is_silent, highest, active), router_logits)


def adapt_sparsity_coef(coef: float, *, num_active: float, wanted: float, factor: float = 1.2) -> float:
    """Multiply the penalty's coefficient where too many members were used, and divide it where too few were.

    Args:
        coef: As it was in the step that is over.
        num_active: Members with a positive score per token in that step, on the mean.
        wanted: What that number should be.
        factor: By how much.

    Example:
        >>> adapt_sparsity_coef(0.1, num_active=3.2, wanted=2.0)
        0.12

    Reference: Wang et al. (2024), ReMoE, section 3.3, https://arxiv.org/abs/2412.14711
    """
    if num_active == wanted:
        return coef
    return coef * factor if num_active > wanted else coef / factor


@register_choice("relu")
class ReLU(Choice):
    """Use the members with a positive score, as many as a token needs; see :func:`relu_routing`.

    The mean over tokens of the positive scores, summed over members, is added to the loss; after each optimizer step
    :meth:`adapt` changes its coefficient until ``num_active`` members are used per token, on the mean. The weights are
    not rescaled: their size makes the output surer or less sure, and so holds the scores up against the penalty.

    Args:
        num_active: Members used per token, on the mean: above 0, and at most their number.
        coef: The penalty's coefficient to begin with.
        factor: By how much the coefficient is multiplied or divided after a step.

    Raises:
        ValueError: If ``num_active``, ``coef`` or ``factor`` is not positive, or ``factor`` is not above 1.

    Reference: Wang et al. (2024), ReMoE, section 3.3, https://arxiv.org/abs/2412.14711
    """

    weights_sum_to_one = False
    coef: Tensor

    def __init__(self, num_active: float, coef: float = 1e-8, factor: float = 1.2) -> None:
        super().__init__()
        if not num_active > 0:
            raise ValueError(f"num_active must be above 0, got {num_active:g}.")
        if not coef > 0:
            raise ValueError(f"coef must be above 0, got {coef:g}: it is multiplied, so from 0 it would never rise.")
        if not factor > 1:
            raise ValueError(f"factor must be above 1, got {factor:g}.")
        self.num_active = num_active
        self.first_coef = coef
        self.factor = factor

    def attach(self, num_members: int, num_features: int) -> None:
        """See :meth:`Choice.attach`."""
        super().attach(num_members, num_features)
        if self.num_active > num_members:
            raise ValueError(f"num_active must be at most num_members ({num_members}), got {self.num_active:g}.")
        self.register_buffer("coef", torch.tensor(self.first_coef))

    def forward(
        self, router_logits: Float[Tensor, "*axes member"], features: Float[Tensor, "*axes feature"]
    ) -> Routing:
        """See :meth:`Choice.forward`."""
        return relu_routing(router_logits)

    def why_no_gradient(self, space: Space) -> str | None:
        """Where the size of the weights changes nothing, nothing holds them up against the penalty."""
        if space != "probability":
            return None
        return (
            "The choice 'relu' in probability space gives the same output whatever the size of its weights, so its "
            "penalty shrinks them until every member is silent, and no gradient brings one back. Use space='logit', or "
            "the choice 'top_p', which also lets the input decide how many members are used."
        )

    def penalty(self, routing: Routing) -> Float[Tensor, ""] | None:
        """See :meth:`Choice.penalty`."""
        # A copy: the coefficient may be adapted before the gradient is taken.
        return self.coef.clone() * routing.router_logits.float().relu().sum(dim=-1).mean()

    @torch.no_grad()
    def adapt(self, routing: Routing) -> None:
        """Change the coefficient by how many members a step used; see :func:`adapt_sparsity_coef`."""
        is_active = (routing.router_logits > 0).flatten(0, -2)  # (token, member)
        counts = torch.stack([is_active.sum(), torch.tensor(len(is_active), device=is_active.device)])
        if distributed.is_initialized():
            distributed.all_reduce(counts)
        num_active = float(counts[0] / counts[1])
        self.coef.fill_(
            adapt_sparsity_coef(float(self.coef), num_active=num_active, wanted=self.num_active, factor=self.factor)
        )

    def select(self, members: list[int]) -> None:
        """See :meth:`Choice.select`."""
        super().select(members)
        self.num_active = min(self.num_active, len(members))

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Choice.arguments`."""
        return {
            "num_active": self.num_active,
            "coef": self.first_coef,
            "factor": self.factor,
        }
