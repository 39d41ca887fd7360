"""Members pick their tokens: loads are even by construction, but no text can be generated that way."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from moesaic.combiners.choices.base import Choice, register_choice, routing_of_all
from moesaic.types import Routing


def expert_choice_routing(router_logits: Float[Tensor, "token member"], *, capacity_factor: float = 1.0) -> Routing:
    """Let each member pick the tokens that score it highest, every member the same number.

    A token may be picked by several members, or by none: then all its weights are 0.

    Args:
        router_logits: Unnormalized score of every member for every token of the batch.
        capacity_factor: Members per token, on the mean.

    Returns:
        The routing; it lists all members, those not used with weight 0. The weights are softmax(router_logits).

    Raises:
        ValueError: If ``capacity_factor`` is not above 0 and at most the number of members.

    Example:
        >>> expert_choice_routing(torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log()).weights
        tensor([[0.9000, 0.0000],
                [0.0000, 0.4000]])

    Reference: Zhou et al. (2022), section 3.2, https://arxiv.org/abs/2202.09368
    """
    num_tokens, num_members = router_logits.shape
    if not 0 < capacity_factor <= num_members:
        raise ValueError(
            f"capacity_factor must be above 0 and at most num_members ({num_members}), got {capacity_factor:g}."
        )
    capacity = max(1, int(num_tokens * capacity_factor / num_members))  # tokens of each member
    probabilities = router_logits.float().softmax(dim=-1)
    picked = probabilities.topk(capacity, dim=0).indices  # (capacity, member)
    is_used = torch.zeros_like(probabilities).scatter(0, picked, 1.0)
    return routing_of_all(probabilities * is_used, router_logits)


@register_choice("expert_choice")
class ExpertChoice(Choice):
    """Let each member pick its tokens; see :func:`expert_choice_routing`.

    Whether a token is picked depends on the tokens after it, so a mixture that predicts the next token refuses this
    choice.

    Args:
        capacity_factor: Members per token, on the mean.
    """

    is_causal: ClassVar[bool] = False
    weights_sum_to_one = False

    def __init__(self, capacity_factor: float = 1.0) -> None:
        super().__init__()
        self.capacity_factor = capacity_factor

    def forward(
        self, router_logits: Float[Tensor, "*axes member"], features: Float[Tensor, "*axes feature"]
    ) -> Routing:
        """See :meth:`Choice.forward`; all leading axes together are the batch from which members pick."""
        routing = expert_choice_routing(router_logits.flatten(0, -2), capacity_factor=self.capacity_factor)
        return routing_of_all(routing.weights.view(router_logits.shape), router_logits)

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Choice.arguments`."""
        return {"capacity_factor": self.capacity_factor}
