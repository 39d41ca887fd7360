"""Every member is used: a dense mixture."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from moesaic.combiners.choices.base import Choice, register_choice
from moesaic.types import Routing


@register_choice("softmax")
class Softmax(Choice):
    """Use every member, weighted by the softmax of the scores.

    Reference: Jacobs et al. (1991), Adaptive mixtures of local experts, equation 1.3.
    """

    def forward(
        self, router_logits: Float[Tensor, "*axes member"], features: Float[Tensor, "*axes feature"]
    ) -> Routing:
        """See :meth:`Choice.forward`."""
        return Routing.dense(router_logits)

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Choice.arguments`."""
        return {}
